//! What a program's calls cost in requests, and what they hold in memory.

mod support;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use pailfs::key::ROOT_INO;
use support::bytes::{assert_same_bytes, pattern};
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
    let dir = house.fs.opendir(ROOT_INO).unwrap();
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
    let dir = house.fs.opendir(attr.ino).unwrap();
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
    let dir = house.fs.opendir(attr.ino).unwrap();
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
    assert!(held.inodes <= 2 && held.names <= 100_000, "{held:?}");
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
