//! An account's buckets as directories, over the fake server: what is listed and what is there, making and removing
//! them, what they share, and what cannot go from one to another.

mod support;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pailfs::config::{AttributesConfig, Config};
use pailfs::fs::Kernel;
use pailfs::key::{ROOT_INO, bucket_root};
use pailfs::namespace::Kind;
use support::bytes::pattern;
use support::fake::{Options, Owner};
use support::house::{MAKER, errno};
use support::{FakeS3, Fault, House, On};

fn account_on(fake: FakeS3, change: impl FnOnce(&mut Config)) -> House {
    fake.remove_bucket("bucket");
    House::on(fake, |config| {
        config.s3.bucket.clear();
        change(config);
    })
}

/// With these buckets, each with the object `dir/file`.
fn account(names: &[&str]) -> House {
    account_with(names, |_| {})
}

fn account_with(names: &[&str], change: impl FnOnce(&mut Config)) -> House {
    let house = account_on(FakeS3::new(), change);
    for name in names {
        house.fake.create_bucket(name, "us-east-1");
        house.fake.within(name).put("dir/file", format!("of {name}"));
    }
    house
}

#[tokio::test]
async fn buckets_are_the_directories_of_the_root() {
    let house = account_on(FakeS3::with(Options { page_keys_max: 2, ..Options::default() }), |_| {});
    let names = ["a-b", "abc", "abc.d", "abc-e", "zzz"];
    names.iter().for_each(|name| house.fake.create_bucket(name, "us-east-1"));
    let mut sorted = names.map(String::from).to_vec();
    sorted.sort();
    for plus in [false, true] {
        let shown = house.list("", plus, || 2).await.unwrap();
        assert!(shown.iter().all(|entry| entry.kind == Kind::Directory));
        let mut shown: Vec<String> = shown.into_iter().map(|entry| entry.name).collect();
        shown.sort();
        assert_eq!(shown, sorted);
    }
    assert_eq!(house.fake.count("ListBuckets"), 3, "three pages, and again from what is known");
    let attr = house.enter("abc").await.unwrap();
    assert_eq!((attr.kind, attr.mtime), (Kind::Directory, std::time::UNIX_EPOCH), "when it was made");
    house.leave(attr.ino);
    assert_eq!(house.fake.counts().len(), 1, "{:?}", house.fake.counts());

    house.fake.create_bucket("new", "us-east-1");
    house.fake.remove_bucket("zzz");
    assert_eq!(house.names("").await, sorted, "listings are believed for as long as all else");
    house.refresh("").await;
    sorted.retain(|name| name != "zzz");
    sorted.push("new".into());
    assert_eq!(house.names("").await, sorted);
    assert_eq!(errno(house.enter("zzz").await), libc::ENOENT);
}

#[tokio::test]
async fn what_is_in_a_bucket_is_as_on_a_mount_of_it() {
    let house = account(&["one", "two"]);
    house.fake.create_bucket("far", "eu-west-1");
    for name in ["one", "two", "far"] {
        let bucket = house.bucket(name).await.unwrap();
        bucket.make("made", b"made").await.unwrap();
        bucket.rename("made", "moved", 0).await.unwrap();
        assert_eq!(bucket.cat("moved").await.unwrap(), b"made");
        bucket.mkdir("empty").await.unwrap();
        bucket.rmdir("empty").await.unwrap();
        let named = async |name| bucket.fs.getxattr(bucket.root, OsStr::new(name)).await;
        assert_eq!(named("s3.bucket").await.unwrap(), name.as_bytes());
        assert_eq!(errno(named("s3.etag").await), libc::ENODATA, "it is the bucket's root");
    }
    assert!(house.fs.flush_all().await.is_empty(), "in all buckets");
    assert_eq!(house.fake.within("one").keys(), ["dir/file", "moved"]);
    assert_eq!(house.fake.within("far").keys(), ["moved"]);
    // The same key and the same bytes, and yet two files.
    let (one, two) = (house.bucket("one").await.unwrap(), house.bucket("two").await.unwrap());
    let (in_one, in_two) = (one.enter("moved").await.unwrap(), two.enter("moved").await.unwrap());
    assert_ne!(in_one.ino, in_two.ino);
    assert_eq!((bucket_root(in_one.ino), bucket_root(in_two.ino)), (one.root, two.root));
    assert_eq!((one.cat("dir/file").await.unwrap(), two.cat("dir/file").await.unwrap()).0, b"of one");
    assert_eq!(two.cat("dir/file").await.unwrap(), b"of two");
    let root = one.list("", false, || 10).await.unwrap();
    assert_eq!(root.len(), 2);
}

#[tokio::test]
async fn making_a_directory_makes_a_bucket_where_the_mount_is() {
    let fake = FakeS3::new();
    let house = account_on(fake.clone(), |config| config.s3.region = Some("eu-west-1".into()));
    house.mkdir("made").await.unwrap();
    assert_eq!(fake.buckets(), [("made".to_string(), "eu-west-1".to_string())]);
    assert_eq!(house.names("").await, ["made"]);
    let made = house.enter("made").await.unwrap();
    assert!(made.mtime.elapsed().unwrap() < Duration::from_secs(60));
    house.leave(made.ino);
    assert_eq!(errno(house.mkdir("made").await), libc::EEXIST);
    fake.forget_calls();
    for wrong in ["ab", "Upper", "a_b_c", ".hidden", "a..b", "10.0.0.1"] {
        assert_eq!(errno(house.mkdir(wrong).await), libc::EINVAL, "{wrong}");
        assert_eq!(errno(house.enter(wrong).await), libc::ENOENT, "{wrong}");
    }
    assert!(fake.calls().is_empty(), "names that no bucket has are not asked about");
    // Made by another host since we looked.
    fake.create_bucket("raced", "us-east-1");
    fake.give_bucket("raced", Owner::Others);
    house.faults.plan(On::op("HeadBucket").times(1), Fault::Error { status: 404, code: "NoSuchBucket" });
    assert_eq!(errno(house.mkdir("raced").await), libc::EEXIST);
    let read_only = account_on(FakeS3::new(), |config| config.read_only = true);
    assert_eq!(errno(read_only.mkdir("made").await), libc::EROFS);
}

#[tokio::test]
async fn a_bucket_with_anything_in_it_is_not_removed_whatever_the_server_would_do() {
    let house = account(&["full", "empty", "upload"]);
    house.fake.change(|options| options.deletes_full_buckets = true);
    assert_eq!(errno(house.rmdir("full").await), libc::ENOTEMPTY);
    house.rmdir("none").await.expect_err("there is none");
    let full = house.bucket("full").await.unwrap();
    assert_eq!(full.cat("dir/file").await.unwrap(), b"of full");

    let upload = house.fake.within("upload");
    upload.delete("dir/file");
    upload.client().create_multipart_upload("lost", &Default::default()).await.unwrap();
    assert_eq!(errno(house.rmdir("upload").await), libc::ENOTEMPTY, "an upload is under way");

    // What was removed here is gone before the bucket is; what is being written keeps it.
    let empty = house.bucket("empty").await.unwrap();
    let fh = empty.create("new", libc::O_WRONLY).await.unwrap();
    empty.unlink("dir/file").await.unwrap();
    empty.rmdir("dir").await.unwrap();
    assert_eq!(errno(house.rmdir("empty").await), libc::ENOTEMPTY, "a file is being written");
    empty.close(fh).await.unwrap();
    empty.unlink("new").await.unwrap();
    house.rmdir("empty").await.unwrap();
    assert_eq!(house.names("").await, ["full", "upload"]);
    let left = house.fake.buckets();
    assert_eq!(left.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["full", "upload"]);
    // Made anew, it is another one, and empty.
    house.mkdir("empty").await.unwrap();
    assert!(house.bucket("empty").await.unwrap().names("").await.is_empty());
}

#[tokio::test]
async fn others_buckets_are_there_for_who_names_them() {
    let house = account(&["ours", "theirs", "closed"]);
    house.fake.give_bucket("theirs", Owner::Others);
    house.fake.give_bucket("closed", Owner::OthersAlone);
    let theirs = house.bucket("theirs").await.unwrap();
    assert_eq!(theirs.cat("dir/file").await.unwrap(), b"of theirs");
    assert_eq!(house.names("").await, ["ours"]);
    assert_eq!(house.names("").await, ["ours"], "nor from what is known");
    house.refresh("").await;
    assert_eq!(house.names("").await, ["ours"]);
    let again = house.enter("theirs").await.unwrap();
    assert_eq!(again.ino, theirs.root, "no listing makes another one of it");
    // Its name is taken, and more is not told.
    let closed = house.bucket("closed").await.unwrap();
    assert_eq!(errno(closed.list("", false, || 10).await), libc::EACCES);
    assert_eq!(errno(closed.cat("dir/file").await), libc::EACCES);
    assert_eq!(errno(house.mkdir("closed").await), libc::EEXIST);
    assert_eq!(errno(house.rmdir("closed").await), libc::EACCES);
    assert_eq!(errno(house.enter("nobodys").await), libc::ENOENT);
}

#[tokio::test]
async fn who_may_not_list_buckets_names_them() {
    let house = account(&["ours"]);
    house.fake.change(|options| options.hides_buckets = true);
    house.fs.probe().await.expect("the keys are good");
    assert_eq!(errno(house.list("", false, || 10).await), libc::EACCES);
    assert_eq!(house.bucket("ours").await.unwrap().cat("dir/file").await.unwrap(), b"of ours");
    house.faults.plan(On::op("ListBuckets"), Fault::Error { status: 403, code: "InvalidAccessKeyId" });
    assert_eq!(errno(house.fs.probe().await), libc::EACCES);
}

#[tokio::test]
async fn beside_buckets_there_are_no_files_and_nothing_moves_between_them() {
    let house = account(&["one", "two"]);
    assert_eq!(errno(house.create("file", libc::O_WRONLY).await), libc::EPERM);
    let name = OsStr::new("name");
    let link = house.fs.symlink(ROOT_INO, name, "to".as_ref(), MAKER).await;
    assert_eq!(errno(link), libc::EPERM);
    let fifo = house.fs.mknod(ROOT_INO, name, libc::S_IFIFO, 0, MAKER).await;
    assert_eq!(errno(fifo), libc::EPERM);
    assert_eq!(errno(house.unlink("one").await), libc::EISDIR);
    assert_eq!(errno(house.rename("one", "three", 0).await), libc::EXDEV);
    assert_eq!(errno(house.rename("one", "two", 0).await), libc::EXDEV);
    let (one, two) = (house.bucket("one").await.unwrap(), house.bucket("two").await.unwrap());
    let (dir, file) = (OsStr::new("dir"), OsStr::new("file"));
    let away = one.fs.rename(one.root, dir, two.root, dir, 0).await;
    assert_eq!(errno(away), libc::EXDEV);
    assert_eq!(errno(one.fs.rename(one.root, dir, ROOT_INO, dir, 0).await), libc::EXDEV);
    assert_eq!(errno(house.fs.rename(ROOT_INO, OsStr::new("one"), two.root, file, 0).await), libc::EXDEV);
    let of_none = house.fs.getxattr(ROOT_INO, OsStr::new("s3.location")).await;
    assert_eq!(errno(of_none), libc::ENODATA);
}

#[tokio::test]
async fn the_server_copies_whole_objects_from_one_bucket_to_another() {
    for write_back in [false, true] {
        let house = account_with(&["one", "two"], |config| {
            (config.attributes, config.write_back) = (AttributesConfig::Metadata, write_back);
        });
        let (one, two) = (house.bucket("one").await.unwrap(), house.bucket("two").await.unwrap());
        let data = pattern(1, 6 << 20);
        one.fake.put_with("large.bin", data.clone(), &[("x-amz-meta-by", "hand")]);
        two.fake.put("old.txt", "replaced");
        let from = one.open("large.bin", libc::O_RDONLY).await.unwrap();
        let copy =
            |to, range: (u64, u64), len| two.fs.copy_file_range(&one.fs, (from, range.0), (to, range.1), len);
        let all = data.len() as u64;
        house.fake.forget_calls();
        for name in ["new.txt", "old.txt"] {
            let to = match name {
                "new.txt" => two.create(name, libc::O_WRONLY | libc::O_EXCL).await.unwrap(),
                _ => two.open(name, libc::O_WRONLY | libc::O_TRUNC).await.unwrap(),
            };
            assert_eq!(copy(to, (0, 0), 1 << 30).await.unwrap(), all);
            two.close(to).await.unwrap();
            house.fs.flush_all().await;
            let object = two.fake.object(name).unwrap();
            assert!(object.data == data, "{name}");
            let carried = (&*object.headers["content-type"], object.metadata.get("by"));
            assert_eq!(carried, ("text/plain", None), "it is a new file, and no other");
            assert_eq!(two.enter(name).await.unwrap().size, all);
        }
        let counts = house.fake.counts();
        assert_eq!((counts["CopyObject"], counts.get("GetObject"), counts.get("PutObject")), (2, None, None));

        // What the server does not copy the kernel does.
        let to = two.open("new.txt", libc::O_RDWR).await.unwrap();
        assert_eq!(errno(copy(to, (0, 0), 1 << 30).await), libc::EXDEV, "over what is there");
        two.write(to, all, b" and more").await.unwrap();
        two.close(to).await.unwrap();
        house.fs.flush_all().await;
        assert!(two.fake.data("new.txt") == [&data[..], b" and more"].concat());
        let to = two.create("part", libc::O_WRONLY | libc::O_EXCL).await.unwrap();
        for (range, len) in [((0, 0), all - 1), ((1, 0), all), ((0, 1), all)] {
            assert_eq!(errno(copy(to, range, len).await), libc::EXDEV);
        }
        let denied = Fault::Error { status: 403, code: "AccessDenied" };
        let refused = house.faults.plan(On::op("CopyObject").once(), denied);
        assert_eq!(errno(copy(to, (0, 0), all).await), libc::EXDEV);
        assert_eq!(refused.fired(), 1);
        two.fake.put("part", "another host's");
        assert_eq!(errno(copy(to, (0, 0), all).await), libc::EXDEV);
        assert_eq!(two.fake.data("part"), "another host's", "O_EXCL is exclusive");
        two.unlink("part").await.unwrap();
        two.close(to).await.unwrap();
        // What is being written has no object yet.
        let writing = one.open("large.bin", libc::O_WRONLY).await.unwrap();
        one.write(writing, 0, b"!").await.unwrap();
        let to = two.create("of what is written", libc::O_WRONLY).await.unwrap();
        assert_eq!(errno(copy(to, (0, 0), all).await), libc::EXDEV);
        for (house, fh) in [(&two, to), (&one, writing), (&one, from)] {
            house.close(fh).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_account_has_no_versions() {
    let house = account(&["one"]);
    house.fake.forget_calls();
    assert_eq!(errno(house.enter(".versions").await), libc::ENOENT);
    assert!(house.fake.calls().is_empty(), "{:?}", house.fake.counts());
}

#[tokio::test]
async fn buckets_share_what_the_mount_may_take() {
    let house = account(&["one", "two"]);
    let limit = house.fs.config().memory_bytes_max;
    let (one, two) = (house.bucket("one").await.unwrap(), house.bucket("two").await.unwrap());
    for bucket in [&one, &two] {
        bucket.fake.put("large", pattern(1, limit as usize));
        assert_eq!(bucket.cat("large").await.unwrap().len() as u64, limit);
    }
    assert!(house.fs.memory_bytes_peak() <= limit && house.fs.memory_bytes_peak() > limit / 2);
    assert_eq!(house.fs.held().buckets, 2);
}

/// What writers hold and could do without leaves memory to those who cannot, however many buckets are written to.
#[tokio::test]
async fn writers_in_many_buckets_keep_no_more_of_the_memory_than_in_one() {
    let house = account_on(FakeS3::new(), |config| {
        config.write_back = true;
        config.s3.request_timeout = Duration::from_secs(1);
    });
    let fourth = house.fs.config().memory_bytes_max as usize / 4;
    let mut buckets = Vec::new();
    for name in ["one", "two", "three", "four"] {
        house.fake.create_bucket(name, "us-east-1");
        buckets.push(house.bucket(name).await.unwrap());
    }
    // Parts that were sent, of files that stay open.
    let mut open = Vec::new();
    for bucket in &buckets {
        let fh = bucket.create("large", libc::O_WRONLY).await.unwrap();
        for at in (0..fourth).step_by(PIECE.len()) {
            bucket.write(fh, at as u64, PIECE).await.unwrap();
        }
        open.push((bucket, fh));
    }
    let (tails, held) = (4 * PIECE.len(), || house.fs.held().object_bytes as usize);
    until("parts that were sent take a fourth", || held() <= fourth + tails).await;
    for (bucket, fh) in open {
        bucket.close(fh).await.unwrap();
    }
    house.fs.fsyncdir(ROOT_INO).await.unwrap();
    // What was acknowledged, while S3 is gone.
    house.faults.set_down(true);
    for bucket in &buckets {
        for n in 0..fourth / PIECE.len() {
            bucket.make(&format!("small-{n}"), PIECE).await.unwrap();
        }
    }
    until("what waits for S3 takes a fourth", || held() <= fourth).await;
    house.faults.set_down(false);
    house.fs.fsyncdir(ROOT_INO).await.unwrap();
    assert_eq!(held(), 0);
}

/// 1 MiB.
const PIECE: &[u8] = &[1; 1 << 20];

#[tokio::test]
async fn the_bucket_that_was_not_used_for_longest_makes_room_for_names() {
    const CAP: u64 = 1 << 20;
    let house = account_on(FakeS3::new(), |config| config.metadata_bytes_max = CAP);
    let names = ["one", "two", "three"];
    for name in names {
        house.fake.create_bucket(name, "us-east-1");
        (0..4000).for_each(|n| drop(house.fake.within(name).put(format!("file-{n:05}"), "")));
    }
    let mut known = Vec::new();
    for name in names {
        let bucket = house.bucket(name).await.unwrap();
        assert_eq!(bucket.names("").await.len(), 4000);
        house.fs.of(bucket.root);
        assert!(house.fs.held().metadata_bytes <= CAP + (CAP >> 3), "{:?}", house.fs.held());
        known.push(bucket);
    }
    // All that any of them knows is within the one cap; the last has what the first ones had to give.
    let bytes: Vec<u64> = known.iter().map(|bucket| bucket.fs.held().metadata_bytes).collect();
    assert!(bytes[2] > bytes[0], "{bytes:?}");
}

/// What the kernel is told to forget.
#[derive(Default)]
struct Told(std::sync::Mutex<Vec<String>>);

impl Kernel for Told {
    fn forget_attributes(&self, _ino: u64) {}

    fn forget_name(&self, _parent: u64, name: &str) {
        self.0.lock().unwrap().push(name.to_owned());
    }
}

#[tokio::test]
async fn buckets_that_nobody_uses_are_closed_and_others_asked_back() {
    let house = account_on(FakeS3::new(), |_| {});
    let told = Arc::new(Told::default());
    house.fs.on_invalidate(told.clone());
    let names: Vec<String> = (0..300).map(|n| format!("bucket-{n:03}")).collect();
    let mut files = Vec::new();
    for name in &names {
        house.fake.create_bucket(name, "us-east-1");
        house.fake.within(name).put("file", "x");
        let bucket = house.bucket(name).await.unwrap();
        let file = bucket.enter("file").await.unwrap();
        drop(bucket);
        files.push(file.ino);
    }
    assert_eq!(house.fs.held().buckets, 300, "the kernel knows a file in each");
    let asked_back = || told.0.lock().unwrap().contains(&names[0]);
    until("the kernel is asked to forget the one that was used least recently", asked_back).await;
    files.iter().for_each(|ino| house.fs.forget(*ino, 1));
    let last = house.bucket(&names[299]).await.unwrap();
    assert_eq!(last.cat("file").await.unwrap(), b"x");
    let first = house.bucket(&names[0]).await.unwrap();
    assert_eq!(first.cat("file").await.unwrap(), b"x");
    house.fake.create_bucket("one-more", "us-east-1");
    let more = house.bucket("one-more").await.unwrap();
    assert!(more.names("").await.is_empty());
    assert!(house.fs.held().buckets <= 256, "{}", house.fs.held().buckets);
    // What was closed is there still, and its files have the numbers they had.
    let closed = house.bucket(&names[1]).await.unwrap();
    assert_eq!(closed.enter("file").await.unwrap().ino, files[1]);
}

#[tokio::test]
async fn a_refresh_of_the_root_reaches_into_every_bucket() {
    let house = account(&["one", "two"]);
    let (one, two) = (house.bucket("one").await.unwrap(), house.bucket("two").await.unwrap());
    for bucket in [&one, &two] {
        assert_eq!(bucket.names("dir").await, ["file"]);
        bucket.fake.put("dir/more", "");
        assert_eq!(bucket.names("dir").await, ["file"]);
    }
    house.refresh("").await;
    for bucket in [&one, &two] {
        assert_eq!(bucket.names("dir").await, ["file", "more"]);
    }
}

#[tokio::test]
async fn what_a_dead_mount_left_in_a_bucket_is_undone_before_that_is_used() {
    let staging = tempfile::tempdir().unwrap();
    let first = account_on(FakeS3::new(), |config| config.staging.dir = staging.path().into());
    let uploads = |house: &House, name: &str| house.fake.within(name).uploads().len();
    for name in ["one", "two"] {
        first.fake.create_bucket(name, "us-east-1");
        let bucket = first.bucket(name).await.unwrap();
        let fh = bucket.create("large", libc::O_WRONLY).await.unwrap();
        bucket.write(fh, 0, &pattern(1, 12 << 20)).await.unwrap();
        assert_eq!(uploads(&first, name), 1);
    }
    assert_eq!(first.fs.flush_all().await, ["one/large", "two/large"], "it is told of which bucket they are");
    let fake = first.fake.clone();
    drop(first);
    let next = House::on(fake, |config| {
        config.s3.bucket.clear();
        config.staging.dir = staging.path().into();
    });
    assert_eq!(next.names("").await, ["one", "two"]);
    assert_eq!((uploads(&next, "one"), uploads(&next, "two")), (1, 1));
    let one = next.bucket("one").await.unwrap();
    until("the upload is gone from the bucket that is used", || uploads(&one, "one") == 0).await;
    assert_eq!(uploads(&next, "two"), 1);
    next.fs.take_over().await.unwrap();
    until("it is gone from the one that nobody used", || uploads(&next, "two") == 0).await;
}

/// What leads into the bucket, or changes it, fails with this; the bucket beside it works.
async fn is_not_used(house: &House, bucket: &str, expected: i32) {
    assert_eq!(errno(house.bucket(bucket).await.map(|_| ())), expected);
    let root = house.enter(bucket).await.unwrap().ino;
    let fs = house.fs.of(root);
    assert_eq!(errno(fs.lookup(root, OsStr::new("file")).await), expected);
    let dir = fs.opendir(root).unwrap().fh;
    assert_eq!(errno(fs.readdir(dir, 0, true, &mut |_| true).await), expected);
    fs.releasedir(dir);
    house.leave(root);
}

#[tokio::test]
async fn a_bucket_whose_journal_cannot_be_taken_over_is_not_used() {
    let staging = tempfile::tempdir().unwrap();
    let mount = |fake: FakeS3| {
        House::on(fake, |config| {
            config.s3.bucket.clear();
            config.staging.dir = staging.path().into();
        })
    };
    let first = account_on(FakeS3::new(), |config| config.staging.dir = staging.path().into());
    let fake = first.fake.clone();
    for name in ["one", "two"] {
        fake.create_bucket(name, "us-east-1");
    }
    let one = first.bucket("one").await.unwrap();
    let fh = one.create("large", libc::O_WRONLY).await.unwrap();
    one.write(fh, 0, &pattern(1, 12 << 20)).await.unwrap();
    drop((first, one));
    let mut journals = std::fs::read_dir(staging.path()).unwrap().map(|entry| entry.unwrap().path());
    let journal = journals.find(|path| path.to_str().unwrap().contains("/one-")).unwrap();
    let junk = journal.join("live/junk");
    std::fs::write(&junk, "").unwrap();
    let next = mount(fake.clone());
    is_not_used(&next, "one", libc::EIO).await;
    let root = next.enter("one").await.unwrap().ino;
    let made = next.fs.of(root).create(root, OsStr::new("new"), libc::O_WRONLY | libc::O_CREAT, MAKER);
    assert_eq!(errno(made.map(|_| ())), libc::EIO);
    assert_eq!(errno(next.rmdir("one").await), libc::EIO);
    next.bucket("two").await.unwrap().make("file", b"x").await.unwrap();
    assert_eq!(fake.within("one").uploads().len(), 1, "nothing was looked after");
    drop(next);
    std::fs::remove_file(junk).unwrap();
    let one = mount(fake).bucket("one").await.unwrap();
    until("it is looked after", || one.fake.uploads().is_empty()).await;
}

#[tokio::test]
async fn of_a_bucket_without_versions_nothing_is_shown_as_of_a_moment() {
    let house = account_with(&["one"], |config| {
        (config.as_of, config.read_only) = (Some(SystemTime::UNIX_EPOCH), true);
    });
    assert_eq!(house.names("").await, ["one"]);
    is_not_used(&house, "one", libc::EOPNOTSUPP).await;
}

#[test]
fn a_bucket_waits_for_what_a_dead_mount_had_acknowledged_in_it_and_is_not_removed() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let mount = || {
        let house = account_on(fake.clone(), |config| {
            config.staging.dir = staging.path().into();
            config.write_back = true;
            config.s3.request_timeout = Duration::from_secs(1);
        });
        let gone = Fault::Error { status: 503, code: "ServiceUnavailable" };
        let lift = house.faults.plan(On::op("PutObject"), gone);
        (house, lift)
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let killed = runtime.block_on(async {
        let (house, _) = mount();
        fake.create_bucket("kept", "us-east-1");
        house.bucket("kept").await.unwrap().make("file", b"x").await.unwrap();
        house
    });
    runtime.shutdown_timeout(Duration::from_secs(5)); // with all that holds the mount
    drop(killed);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (house, lift) = mount();
        assert_eq!(errno(house.rmdir("kept").await), libc::ENOTEMPTY, "it could not be sent");
        lift.lift();
        assert_eq!(errno(house.rmdir("kept").await), libc::ENOTEMPTY, "nobody sent it");
        assert_eq!(fake.within("kept").keys(), [""; 0]);
    });
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (house, lift) = mount();
        lift.lift();
        assert_eq!(errno(house.rmdir("kept").await), libc::ENOTEMPTY);
        assert_eq!(fake.within("kept").keys(), ["file"]);
        house.bucket("kept").await.unwrap().unlink("file").await.unwrap();
        house.rmdir("kept").await.unwrap();
    });
    assert_eq!(fake.buckets(), []);
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain until {what}");
}

#[tokio::test]
async fn a_mount_of_buckets_ends_without_s3() {
    let fake = FakeS3::new();
    let house = account_on(fake.clone(), |config| config.write_back = true);
    for name in ["one", "two"] {
        fake.create_bucket(name, "us-east-1");
        house.bucket(name).await.unwrap().make("file", b"x").await.unwrap();
    }
    house.faults.plan(On::op("PutObject"), Fault::Error { status: 503, code: "ServiceUnavailable" });
    house.fs.leave();
    // Both have given up before anybody waits for either.
    let mut seen = 0;
    while seen < house.faults.calls() {
        seen = house.faults.calls();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    tokio::time::timeout(Duration::from_secs(30), house.fs.flush_all()).await.expect("it waits for nothing");
    assert_eq!(house.fs.acknowledged(), 2, "the next mount sends them");
}

#[tokio::test]
async fn what_is_acknowledged_in_any_bucket_is_sent_with_the_root() {
    let fake = FakeS3::new();
    let house = account_on(fake.clone(), |config| config.write_back = true);
    for name in ["one", "two"] {
        fake.create_bucket(name, "us-east-1");
    }
    let lift =
        house.faults.plan(On::op("PutObject"), Fault::Error { status: 503, code: "ServiceUnavailable" });
    for name in ["one", "two"] {
        house.bucket(name).await.unwrap().make("file", b"x").await.unwrap();
    }
    assert_eq!(house.fs.acknowledged(), 2);
    assert_eq!(errno(house.rmdir("one").await), libc::ENOTEMPTY);
    lift.lift();
    house.fs.fsyncdir(ROOT_INO).await.unwrap();
    assert_eq!(
        (fake.within("one").keys(), fake.within("two").keys()),
        (vec!["file".into()], vec!["file".into()])
    );
    assert_eq!(house.fs.acknowledged(), 0);
}
