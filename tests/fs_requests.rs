//! What a program's calls cost in requests, and what they hold in memory.

mod support;

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pailfs::fs::Kernel;
use pailfs::key::ROOT_INO;
use pailfs::namespace::Kind;
use support::bytes::{assert_same_bytes, pattern};
use support::fake::{Options, Order};
use support::house::errno;
use support::{FakeS3, Fault, House, On};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_cat_of_a_listed_file_costs_one_get_and_no_head() {
    let house = House::new();
    let data = pattern(1, 100_000);
    house.fake.put("d/file", data.clone());
    assert_eq!(house.names("d").await, ["file"]);
    house.fake.forget_calls();
    assert_same_bytes(&house.cat("d/file").await.unwrap(), &data, "the file");
    let counts: Vec<_> = house.fake.counts().into_iter().collect();
    assert_eq!(counts, [("GetObject", 1)]);
}

#[tokio::test]
async fn a_second_open_within_the_ttl_sends_nothing() {
    let house = House::new();
    house.fake.put("file", "hello");
    assert_eq!(house.cat("file").await.unwrap(), b"hello");
    house.fake.forget_calls();
    assert_eq!(house.cat("file").await.unwrap(), b"hello");
    assert!(house.fake.calls().is_empty(), "{:?}", house.fake.counts());
}

#[tokio::test]
async fn an_open_after_the_ttl_sees_what_was_last_closed() {
    let house = House::with(|config| config.metadata_ttl = Duration::ZERO);
    house.fake.put("file", "old");
    assert_eq!(house.cat("file").await.unwrap(), b"old");
    house.fake.put("file", "new and longer");
    assert_eq!(house.cat("file").await.unwrap(), b"new and longer");
}

#[tokio::test]
async fn lookups_after_readdir_send_nothing() {
    let house = House::new();
    let names: Vec<String> = (0..50).map(|n| format!("d/{n:02}")).collect();
    house.fake.put_many(&names, "x");
    house.fake.put("d/sub/x", "x");
    assert_eq!(house.names("d").await.len(), 51);
    house.fake.forget_calls();
    for name in names.iter().map(String::as_str).chain(["d/sub"]) {
        let attr = house.enter(name).await.unwrap();
        house.leave(attr.ino);
    }
    assert!(house.fake.calls().is_empty(), "{:?}", house.fake.counts());
}

/// `ls -l` with a TTL of nothing: the open directory handle keeps what it listed fresh.
#[tokio::test]
async fn what_an_open_directory_listed_stays_fresh() {
    let house = House::with(|config| config.metadata_ttl = Duration::ZERO);
    house.fake.put_many((0..20).map(|n| format!("{n:02}")), "x");
    let dir = house.fs.opendir(ROOT_INO).unwrap().fh;
    let (shown, _) = house.readdir(dir, 0, false, 100).await.unwrap();
    assert_eq!(shown.len(), 22);
    house.fake.forget_calls();
    for entry in shown.iter().skip(2) {
        let attr = house.fs.lookup(ROOT_INO, OsStr::new(&entry.name)).await.unwrap();
        house.leave(attr.ino);
    }
    assert!(house.fake.calls().is_empty(), "{:?}", house.fake.counts());
    house.fs.releasedir(dir);
    let attr = house.fs.lookup(ROOT_INO, OsStr::new("00")).await.unwrap();
    house.leave(attr.ino);
    assert!(house.fake.count("HeadObject") > 0, "closed, it keeps nothing fresh");
}

/// Whether the kernel may answer from its copy of a directory, and whether it may make one.
fn copy_of(house: &House, ino: u64) -> (bool, bool) {
    let opened = house.fs.opendir(ino).unwrap();
    house.fs.releasedir(opened.fh);
    (opened.keep_cache, opened.may_cache)
}

/// The kernel's copy of a directory is kept as long as the listing it is of is known and fresh.
#[tokio::test]
async fn the_kernel_keeps_its_copy_of_a_directory() {
    let house = House::with(|config| config.metadata_ttl = Duration::from_secs(3600));
    house.fake.put_many((0..20).map(|n| format!("d/{n:02}")), "x");
    let dir = house.enter("d").await.unwrap();
    assert_eq!(copy_of(&house, dir.ino), (false, true), "it has none");
    let first = house.fs.opendir(dir.ino).unwrap();
    house.readdir(first.fh, 0, true, 10).await.unwrap();
    assert_eq!(copy_of(&house, dir.ino), (false, false), "two would mix what they read");
    house.fs.releasedir(first.fh);
    assert_eq!(copy_of(&house, dir.ino), (false, true), "it was not read to the end");

    house.names("d").await;
    assert_eq!(copy_of(&house, dir.ino), (false, true), "it was read without attributes");

    house.list("d", true, || 7).await.unwrap();
    assert_eq!(copy_of(&house, dir.ino), (true, true));
    assert_eq!(copy_of(&house, dir.ino), (true, true));
    house.make("d/made", b"x").await.unwrap();
    assert_eq!(copy_of(&house, dir.ino), (true, true), "what is changed here the kernel sees by itself");
    house.fs.refresh(dir.ino).await.unwrap();
    assert_eq!(copy_of(&house, dir.ino), (false, true));
    house.list("d", true, || 7).await.unwrap();
    assert_eq!(copy_of(&house, dir.ino), (true, true));
    house.leave(dir.ino);
}

/// A name that is not there need not be asked for again while that is fresh.
#[tokio::test]
async fn the_kernel_is_told_how_long_a_name_is_absent() {
    let ttl = Duration::from_secs(3600);
    let house = House::with(|config| config.metadata_ttl = ttl);
    house.fake.put_many(["d/a", "d/b"].map(String::from), "x");
    let dir = house.enter("d").await.unwrap();
    let absent = |name: &str| house.fs.absent_for(dir.ino, OsStr::new(name));
    assert!(absent("no").is_zero(), "nothing is known of it");
    assert_eq!(errno(house.enter("d/no").await), libc::ENOENT);
    assert!((ttl / 2..=ttl).contains(&absent("no")));
    house.names("d").await;
    assert!((ttl / 2..=ttl).contains(&absent("never-asked")), "the listing would have shown it");
    assert!(absent("a").is_zero());
    assert!(house.fs.absent_for(ROOT_INO, OsStr::new("no")).is_zero(), "no refresh would end it");
    house.fs.refresh(dir.ino).await.unwrap();
    assert!(absent("no").is_zero() && absent("never-asked").is_zero());
    house.leave(dir.ino);
}

#[tokio::test]
async fn a_small_file_is_one_put() {
    let house = House::new();
    let fh = house.create("new.txt", libc::O_WRONLY).await.unwrap();
    for n in 0..100u64 {
        house.write(fh, n * 1000, &[7; 1000]).await.unwrap();
    }
    house.fake.forget_calls();
    house.close(fh).await.unwrap();
    let counts: Vec<_> = house.fake.counts().into_iter().collect();
    assert_eq!(counts, [("PutObject", 1)]);
    assert_eq!(house.fake.object("new.txt").unwrap().content_type(), "text/plain");
}

/// Parts are sent side by side and before the file is closed.
#[tokio::test]
async fn a_large_file_is_sent_in_parts_while_it_is_written() {
    let house = House::new();
    house.faults.plan(On::op("UploadPart"), Fault::Delay(Duration::from_millis(100)));
    let data = pattern(2, 22 * MIB);
    let fh = house.create("large", libc::O_WRONLY).await.unwrap();
    for (n, piece) in data.chunks(MIB).enumerate() {
        house.write(fh, (n * MIB) as u64, piece).await.unwrap();
    }
    assert_eq!(house.fake.uploads().len(), 1);
    assert!(house.fake.object("large").is_none(), "it appears whole or not at all");
    house.close(fh).await.unwrap();
    assert_same_bytes(&house.fake.data("large"), &data, "the object");
    assert_eq!((house.fake.count("UploadPart"), house.fake.uploads().len()), (5, 0));
    assert_eq!(house.fs.held().object_bytes, 0, "what was sent is not held");
}

#[tokio::test]
async fn a_directory_of_100_000_names_streams() {
    let house = House::new();
    house.fake.put_many((0..100_000).map(|n| format!("d/{n:06}")), "x");
    let attr = house.enter("d").await.unwrap();
    let dir = house.fs.opendir(attr.ino).unwrap().fh;
    house.leave(attr.ino);
    house.fake.forget_calls();
    // The page after it may be asked for ahead, and is not waited for.
    let line = house.faults.plan(On::op("ListObjectsV2").nth(2), Fault::Hang);
    let first = house.readdir(dir, 0, true, 500);
    let (shown, _) = tokio::time::timeout(Duration::from_secs(60), first).await.unwrap().unwrap();
    assert_eq!((shown.len(), shown[2].name.as_str()), (500, "000000"));
    assert_eq!(house.fake.count("ListObjectsV2"), 1);
    line.lift();
    house.fs.releasedir(dir);

    let attr = house.enter("d").await.unwrap();
    let dir = house.fs.opendir(attr.ino).unwrap().fh;
    house.leave(attr.ino);
    let (mut seen, mut last, mut cookie) = (0, String::new(), 0);
    loop {
        let (shown, next) = house.readdir(dir, cookie, true, 1000).await.unwrap();
        if shown.is_empty() {
            break;
        }
        for entry in shown.iter().filter(|entry| entry.size.is_some()) {
            assert!(entry.name > last, "{} after {last}", entry.name);
            last.clone_from(&entry.name);
            seen += 1;
        }
        cookie = next;
    }
    assert_eq!(seen, 100_000);
    house.fs.releasedir(dir);
    let held = house.fs.held();
    assert!(held.inodes == 1 && held.metadata_bytes <= house.fs.config().metadata_bytes_max, "{held:?}");
}

/// A directory that `--metadata-memory` cannot hold is shown whole all the same, each time.
#[tokio::test]
async fn a_directory_larger_than_the_metadata_memory_streams_whole() {
    let house = House::with(|config| config.metadata_bytes_max = 1 << 20);
    let names: Vec<String> = (0..20_000).map(|n| format!("{n:05}")).collect();
    house.fake.put_many(names.iter().map(|name| format!("d/{name}")), "x");
    for _ in 0..2 {
        assert_eq!(house.names("d").await, names);
        let held = house.fs.held();
        assert!(held.metadata_bytes <= 1 << 20, "{held:?}");
    }
}

/// What `find` does: each directory read from its start to its end, then those in it.
async fn find(house: &House, path: &str) -> usize {
    let entries = house.list(path, true, || 50).await.unwrap();
    let mut files = 0;
    for entry in entries {
        let below = if path.is_empty() { entry.name } else { format!("{path}/{}", entry.name) };
        files += match entry.kind {
            Kind::Directory => Box::pin(find(house, &below)).await,
            _ => 1,
        };
    }
    files
}

#[tokio::test]
async fn find_in_100_directories_of_20_files_costs_5_listings_and_du_after_it_none() {
    let house = House::new();
    house.fake.put_many((0..100).flat_map(|d| (0..20).map(move |f| format!("t/d{d:02}/f{f:02}"))), "x");
    house.fake.forget_calls();
    assert_eq!(find(&house, "t").await, 2000);
    // One more to see that `t` is there, for the path's walk.
    assert!(house.fake.count("ListObjectsV2") <= 5, "{:?}", house.fake.counts());
    assert!(house.fake.count("HeadObject") <= 1, "{:?}", house.fake.counts());
    house.fake.forget_calls();
    assert_eq!(find(&house, "t").await, 2000);
    assert!(house.fake.calls().is_empty(), "{:?}", house.fake.counts());
}

/// Directories that a page cannot hold are listed one by one, and cost one request more at most. (Those of more
/// than two pages are listed several pages at once, which costs some more.)
#[tokio::test]
async fn find_in_large_directories_costs_what_listing_them_does() {
    let house = House::with(|config| config.s3.list_page_keys = 10);
    house.fake.put_many((0..10).flat_map(|d| (0..19).map(move |f| format!("d{d}/f{f:02}"))), "x");
    assert_eq!(find(&house, "").await, 190);
    assert!(house.fake.count("ListObjectsV2") <= 1 + 10 * 2 + 1, "{:?}", house.fake.counts());
}

#[tokio::test]
async fn a_server_in_another_order_is_walked_and_shown_whole() {
    let fake = FakeS3::with(Options { order: Order::Component, ..Options::default() });
    let house = House::on(fake, |config| config.s3.list_page_keys = 7);
    let keys = (0..9).flat_map(|d| ["a", "a!b", "a-", "z"].map(|name| format!("{name}{d}/x/y")));
    house.fake.put_many(keys.chain(["a/1".into(), "a!b/1".into(), "a/2/x".into()]), "x");
    assert_eq!(find(&house, "").await, 39);
    assert_eq!(find(&house, "").await, 39);
}

#[tokio::test]
async fn names_that_a_listing_did_not_show_cost_nothing() {
    let house = House::new();
    house.fake.put_many(["d/a", "d/b/c"], "x");
    assert_eq!(house.names("d").await, ["a", "b"]);
    house.fake.forget_calls();
    for missing in ["d/.git", "d/a.o", "d/zzz"] {
        assert_eq!(errno(house.enter(missing).await), libc::ENOENT, "{missing}");
    }
    assert_eq!(house.names("d").await, ["a", "b"], "the listing itself is known as well");
    assert!(house.fake.calls().is_empty(), "{:?}", house.fake.counts());
    house.make("d/new", b"x").await.unwrap();
    assert_eq!(house.names("d").await, ["a", "b", "new"]);
    assert_eq!(house.fake.count("ListObjectsV2") + house.fake.count("HeadObject"), 0);
}

#[tokio::test]
async fn a_new_directory_is_known_to_be_empty() {
    let house = House::new();
    house.mkdir("d").await.unwrap();
    house.fake.forget_calls();
    for n in 0..10 {
        let name = format!("d/{n}");
        assert_eq!(errno(house.enter(&name).await), libc::ENOENT);
        house.make(&name, b"x").await.unwrap();
    }
    assert_eq!(house.names("d").await.len(), 10);
    let counts: Vec<_> = house.fake.counts().into_iter().collect();
    assert_eq!(counts, [("PutObject", 10)]);
}

/// Names asked about in order, after what was known is no longer believed, cost one page.
#[tokio::test]
async fn a_walk_by_names_renews_whole_pages() {
    let house = House::new();
    let names: Vec<String> = (0..300).map(|n| format!("d/{n:03}")).collect();
    house.fake.put_many(&names, "x");
    assert_eq!(house.names("d").await.len(), 300);
    house.refresh("").await;
    house.fake.put("d/150", "longer");
    house.fake.delete("d/200");
    let dir = house.enter("d").await.unwrap();
    house.fake.forget_calls();
    for (n, name) in names.iter().enumerate() {
        let found = house.fs.lookup(dir.ino, OsStr::new(&name["d/".len()..])).await;
        match n {
            200 => assert_eq!(errno(found), libc::ENOENT),
            n => assert_eq!(found.as_ref().unwrap().size, if n == 150 { 6 } else { 1 }),
        }
    }
    let counts: Vec<_> = house.fake.counts().into_iter().collect();
    assert_eq!(counts, [("HeadObject", 1), ("ListObjectsV2", 2)], "the first name, then one page");
}

/// Of several who ask at once, one brings the page and the others wait for it.
#[tokio::test]
async fn a_page_is_renewed_once() {
    let house = House::new();
    house.fake.put_many((0..50).map(|n| format!("{n:02}")), "x");
    assert_eq!(house.names("").await.len(), 50);
    house.refresh("").await;
    house.enter("00").await.unwrap();
    house.fake.forget_calls();
    house.faults.plan(On::op("ListObjectsV2"), Fault::Delay(Duration::from_millis(20)));
    let names: Vec<String> = (1..20).map(|n| format!("{n:02}")).collect();
    let found = names.iter().map(|name| house.enter(name));
    for found in futures_util::future::join_all(found).await {
        assert_eq!(found.unwrap().size, 1);
    }
    let counts: Vec<_> = house.fake.counts().into_iter().collect();
    assert_eq!(counts, [("ListObjectsV2", 1)]);
}

/// Whether a directory would vanish is asked once a burst, and for its last entry.
#[tokio::test(start_paused = true)]
async fn a_burst_of_unlinks_asks_once_whether_the_directory_would_vanish() {
    let house = House::new();
    house.fake.put_many((0..10).map(|n| format!("d/{n}")), "x");
    assert_eq!(house.names("d").await.len(), 10);
    house.fake.forget_calls();
    for n in 0..9 {
        house.unlink(&format!("d/{n}")).await.unwrap();
    }
    assert!(house.fake.count("ListObjectsV2") <= 1, "{:?}", house.fake.counts());
    // A listing is no proof that nothing else is there.
    house.fake.put("d/of another host", "x");
    house.unlink("d/9").await.unwrap();
    assert!(house.fake.object("d/").is_none());
    assert_eq!(errno(house.rmdir("d").await), libc::ENOTEMPTY);
}

/// Stands for the kernel: notes what it is to forget.
#[derive(Default)]
struct Recorder {
    attributes: Mutex<Vec<u64>>,
    names: Mutex<Vec<(u64, String)>>,
}

impl Kernel for Recorder {
    fn forget_attributes(&self, ino: u64) {
        self.attributes.lock().unwrap().push(ino);
    }

    fn forget_name(&self, parent: u64, name: &str) {
        self.names.lock().unwrap().push((parent, name.to_owned()));
    }
}

#[tokio::test]
async fn a_refresh_tells_the_kernel_of_all_below() {
    let house = House::new();
    let kernel = Arc::new(Recorder::default());
    house.fs.on_invalidate(kernel.clone());
    house.fake.put_many(["d/sub/x", "e"], "x");
    let mut held = Vec::new();
    for path in ["d", "d/sub", "d/sub/x", "e"] {
        held.push(house.enter(path).await.unwrap().ino);
    }
    house.refresh("d").await;
    assert_eq!(*kernel.attributes.lock().unwrap(), held[..3]);
    let names = [(ROOT_INO, "d".into()), (held[0], "sub".into()), (held[1], "x".into())];
    assert_eq!(*kernel.names.lock().unwrap(), names);
}

/// Inodes that the kernel knows are never lost; it is asked to forget them instead.
#[tokio::test]
async fn the_kernel_is_asked_to_forget_what_there_is_no_room_for() {
    let house = House::with(|config| config.metadata_bytes_max = 1 << 20);
    let kernel = Arc::new(Recorder::default());
    house.fs.on_invalidate(kernel.clone());
    let names: Vec<String> = (0..5000).map(|n| format!("{n:04}")).collect();
    house.fake.put_many(&names, "x");
    assert_eq!(house.names("").await, names);
    let mut held = Vec::new();
    for name in &names {
        held.push(house.enter(name).await.unwrap().ino);
    }
    assert_eq!(house.fs.held().inodes, 5001);
    while kernel.names.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    held.iter().for_each(|ino| house.leave(*ino));
    house.enter("0000").await.unwrap();
    let after = house.fs.held();
    assert!(after.inodes == 2 && after.metadata_bytes <= 1 << 20, "{after:?}");
}

/// `pailfs refresh`: with a TTL of for ever, what another host did is seen after it, and not before.
#[tokio::test]
async fn a_refresh_shows_what_another_host_did() {
    let house = House::with(|config| config.metadata_ttl = Duration::MAX);
    house.fake.put_many(["d/a", "d/sub/x", "e/a"], "old");
    assert_eq!(find(&house, "").await, 3);
    let held = house.enter("d/sub/x").await.unwrap();
    house.fake.put_many(["d/b", "d/sub/x", "e/b"], "newer");
    house.fake.delete("d/a");
    assert_eq!((find(&house, "").await, house.cat("d/sub/x").await.unwrap()), (3, b"newer".to_vec()));
    house.refresh("d").await;
    assert_eq!(house.names("d").await, ["b", "sub"]);
    assert_eq!(house.fs.getattr(held.ino).await.unwrap().size, 5);
    assert_eq!(house.names("e").await, ["a"], "beside it nothing was asked");
}

#[tokio::test]
async fn all_is_given_back_when_closed_and_forgotten() {
    let house = House::new();
    house.fake.put("s/there", pattern(3, MIB));
    let before = house.fs.held();
    for n in 0..20u64 {
        let path = format!("s/{n}");
        house.make(&path, &pattern(n, 300_000)).await.unwrap();
        let open = house.open(&path, libc::O_RDWR).await.unwrap();
        house.write(open, 300_000, b"more").await.unwrap();
        house.close(open).await.unwrap();
        house.rename(&path, "s/moved", 0).await.unwrap();
    }
    // Given up in the middle, with parts sent.
    let fh = house.create("s/given up", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, &pattern(4, 12 * MIB)).await.unwrap();
    house.unlink("s/given up").await.unwrap();
    house.close(fh).await.unwrap();
    assert_eq!(house.names("s").await, ["moved", "there"]);
    house.unlink("s/moved").await.unwrap();
    let after = house.fs.held();
    assert_eq!((after.inodes, after.handles), (before.inodes, before.handles), "{after:?}");
    assert_eq!(after.object_bytes, 0, "nothing was read, so nothing is cached: {after:?}");
    assert_eq!(house.fake.uploads(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_stay_within_memory() {
    let fake = FakeS3::new();
    let data = pattern(5, 12 * MIB);
    for n in 0..32 {
        fake.put(format!("{n}"), data.clone());
    }
    let house = Arc::new(House::on(fake, |_| {}));
    let data = Arc::new(data);
    let readers: Vec<_> = (0..32)
        .map(|n| {
            let (house, data) = (house.clone(), data.clone());
            tokio::spawn(async move {
                let got = house.cat(&n.to_string()).await.unwrap_or_else(|e| panic!("{n}: {e}"));
                assert_same_bytes(&got, &data, "read among many");
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    let (peak, max) = (house.fs.memory_bytes_peak(), house.fs.config().memory_bytes_max);
    assert!(peak > max / 4 && peak <= max, "{peak} of {max}");
    let held = house.fs.held();
    assert_eq!((held.inodes, held.handles), (1, 0), "{held:?}");
}

#[tokio::test]
async fn who_pays_and_whose_the_bucket_must_be_goes_with_every_request() {
    let house = House::with(|config| {
        config.s3.requests.requester_pays = true;
        config.s3.requests.expected_bucket_owner = Some("123456789012".into());
    });
    house.fake.put("d/there", "bytes");
    house.names("d").await;
    house.cat("d/there").await.unwrap();
    house.make("d/small", b"x").await.unwrap();
    house.make("d/large", &vec![7; 20 << 20]).await.unwrap();
    house.rename("d/small", "d/moved", 0).await.unwrap();
    house.unlink("d/moved").await.unwrap();
    house.keys_settled().await;
    let calls = house.fake.calls();
    for op in
        ["ListObjectsV2", "GetObject", "PutObject", "UploadPart", "CompleteMultipartUpload", "CopyObject"]
    {
        assert!(calls.iter().any(|logged| logged.call.op == op), "{op} was not sent");
    }
    for logged in &calls {
        let (op, sent) =
            (logged.call.op, |name: &str| logged.headers.get(name).map(|value| value.as_bytes()));
        assert_eq!(sent("x-amz-request-payer"), Some(&b"requester"[..]), "{op}");
        assert_eq!(sent("x-amz-expected-bucket-owner"), Some(&b"123456789012"[..]), "{op}");
        let copies = sent("x-amz-copy-source").is_some();
        assert_eq!(sent("x-amz-source-expected-bucket-owner").is_some(), copies, "{op}");
    }
}
