//! Attributes that are kept in objects' metadata: what is shown, what is changed, and what both cost in requests.

mod support;

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pailfs::attr::from_epoch;
use pailfs::config::{AttributesConfig, Config};
use pailfs::error::Error;
use pailfs::fs::{Attr, SetAttr, SetTime};
use pailfs::key::ROOT_INO;
use pailfs::namespace::Kind;
use support::bytes::pattern;
use support::fake::Options;
use support::house::{MAKER, errno, split};
use support::{FakeS3, Fault, House, On};

const MIB: usize = 1 << 20;

fn keeping() -> House {
    keeping_with(|_| {})
}

fn keeping_with(change: impl FnOnce(&mut Config)) -> House {
    House::with(|config| {
        config.attributes = AttributesConfig::Metadata;
        change(config);
    })
}

async fn stat(house: &House, path: &str) -> Attr {
    let attr = house.enter(path).await.unwrap_or_else(|e| panic!("{path}: {e}"));
    house.leave(attr.ino);
    attr
}

async fn set(house: &House, path: &str, set: SetAttr) -> Result<Attr, Error> {
    let attr = house.enter(path).await?;
    let done = house.fs.setattr(attr.ino, set).await;
    house.leave(attr.ino);
    done
}

fn chmod(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode), ..SetAttr::default() }
}

fn utimens(seconds: i64) -> SetAttr {
    let time = Some(SetTime::At(time(seconds)));
    SetAttr { atime: time, mtime: time, ..SetAttr::default() }
}

fn time(seconds: i64) -> SystemTime {
    from_epoch(seconds, 5).unwrap()
}

fn metadata(fake: &FakeS3, key: &str, name: &str) -> String {
    fake.object(key).unwrap().metadata.get(name).cloned().unwrap_or_default()
}

fn counts(house: &House) -> Vec<(&'static str, usize)> {
    house.fake.counts().into_iter().collect()
}

#[tokio::test]
async fn what_others_keep_in_metadata_is_shown() {
    let house = keeping();
    let s3fs = [
        ("x-amz-meta-mode", "33216"),
        ("x-amz-meta-uid", "5"),
        ("x-amz-meta-gid", "6"),
        ("x-amz-meta-mtime", "1700000000.000000005"),
    ];
    house.fake.put_with("d/file", "hello", &s3fs);
    house.fake.put_with("d/", "", &[("x-amz-meta-mode", "16832"), ("x-amz-meta-mtime", "1600000000")]);
    house.fake.put("d/plain", "x");
    house.fake.put_with("d/junk", "x", &[("x-amz-meta-mode", "rwx"), ("x-amz-meta-uid", "7")]);
    let file = stat(&house, "d/file").await;
    assert_eq!((file.kind, file.perm, file.uid, file.gid, file.size), (Kind::File, 0o700, 5, 6, 5));
    assert_eq!(file.mtime, time(1_700_000_000));
    let dir = stat(&house, "d").await;
    assert_eq!((dir.kind, dir.perm, dir.uid), (Kind::Directory, 0o700, 1000));
    assert_eq!(dir.mtime, from_epoch(1_600_000_000, 0).unwrap());
    let plain = stat(&house, "d/plain").await;
    assert_eq!((plain.perm, plain.uid, plain.gid), (0o644, 1000, 1000), "the mount's");
    let junk = stat(&house, "d/junk").await;
    assert_eq!((junk.perm, junk.uid), (0o644, 7), "junk is as if it were not there");
}

#[tokio::test]
async fn without_keeping_them_nothing_is_asked_shown_or_changed() {
    let house = House::new();
    house.fake.put_with("d/link", "file", &[("x-amz-meta-mode", "41471"), ("x-amz-meta-mtime", "5")]);
    house.fake.put("d/file", "x");
    house.list("d", true, || 100).await.unwrap();
    let link = stat(&house, "d/link").await;
    assert_eq!((link.kind, link.perm, link.size), (Kind::File, 0o644, 4));
    assert!(link.mtime > time(1_000_000_000));
    assert!(!house.fake.counts().contains_key("HeadObject") || counts(&house).len() < 3);
    assert_eq!(errno(set(&house, "d/file", chmod(0o600)).await), libc::EPERM);
    assert_eq!(errno(set(&house, "d/file", utimens(5)).await), libc::EPERM);
    let target = Path::new("file");
    assert_eq!(errno(house.fs.symlink(ROOT_INO, OsStr::new("l"), target, MAKER).await), libc::EPERM);
    assert_eq!(errno(house.fs.mknod(ROOT_INO, OsStr::new("f"), libc::S_IFIFO, 0, MAKER).await), libc::EPERM);
    house.make("new", b"bytes").await.unwrap();
    assert!(house.fake.object("new").unwrap().metadata.is_empty());
}

#[tokio::test]
async fn what_is_set_before_the_close_travels_with_the_upload() {
    let house = keeping();
    let fh = house.create("file", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"bytes").await.unwrap();
    set(&house, "file", chmod(0o604)).await.unwrap();
    set(&house, "file", utimens(1_700_000_000)).await.unwrap();
    let seen = stat(&house, "file").await;
    assert_eq!((seen.perm, seen.mtime, seen.size), (0o604, time(1_700_000_000), 5));
    house.fake.forget_calls();
    house.close(fh).await.unwrap();
    assert_eq!(counts(&house), [("PutObject", 1)]);
    let seen = stat(&house, "file").await;
    assert_eq!((seen.perm, seen.mtime, seen.uid), (0o604, time(1_700_000_000), 1000));
    assert_eq!(metadata(&house.fake, "file", "mode"), (0o100604).to_string());
    assert_eq!(metadata(&house.fake, "file", "mtime"), "1700000000.000000005");
    assert_eq!(metadata(&house.fake, "file", "uid"), "1000");
}

#[tokio::test]
async fn what_is_renamed_before_s3_has_it_shows_the_times_that_were_set() {
    for write_back in [false, true] {
        let house = keeping_with(|config| config.write_back = write_back);
        house.make("old", b"old").await.unwrap();
        for (from, to) in [("new", "file"), ("old", "edited")] {
            let fh = match house.open(from, libc::O_WRONLY).await {
                Ok(fh) => fh,
                Err(_) => house.create(from, libc::O_WRONLY).await.unwrap(),
            };
            house.write(fh, 0, b"bytes").await.unwrap();
            if write_back {
                house.fs.fsync(fh).await.unwrap();
            }
            set(&house, from, utimens(1_700_000_000)).await.unwrap();
            house.rename(from, to, 0).await.unwrap();
            let seen = stat(&house, to).await;
            assert_eq!((seen.mtime, seen.size), (time(1_700_000_000), 5), "{to}, write_back: {write_back}");
            house.close(fh).await.unwrap();
            house.fsyncdir("").await.unwrap();
            assert_eq!(stat(&house, to).await.mtime, time(1_700_000_000), "{to}, write_back: {write_back}");
            assert_eq!(metadata(&house.fake, to, "mtime"), "1700000000.000000005");
        }
    }
}

#[tokio::test]
async fn a_new_file_is_its_makers_and_as_old_as_its_last_write() {
    let house = keeping();
    let before = SystemTime::now();
    house.make("file", b"bytes").await.unwrap();
    assert_eq!(metadata(&house.fake, "file", "mode"), (0o100640).to_string());
    let shown = stat(&house, "file").await;
    assert!(shown.mtime >= before && shown.perm == 0o640);
    house.refresh("file").await;
    assert_eq!(stat(&house, "file").await.mtime, shown.mtime, "as S3 has it");
    // A write after its times were set makes them now.
    let fh = house.create("other", libc::O_WRONLY).await.unwrap();
    set(&house, "other", utimens(5)).await.unwrap();
    house.write(fh, 0, b"late").await.unwrap();
    house.close(fh).await.unwrap();
    assert!(stat(&house, "other").await.mtime >= before);
}

#[tokio::test]
async fn a_link_that_another_host_made_first_is_seen() {
    let house = keeping_with(|config| config.write_back = true);
    house.mkdir("d").await.unwrap();
    let d = house.enter("d").await.unwrap();
    house.fake.put("d/lock", "another host's");
    let made = house.fs.symlink(d.ino, OsStr::new("lock"), Path::new("x"), MAKER).await;
    assert_eq!(errno(made), libc::EEXIST);
    assert_eq!(house.cat("d/lock").await.unwrap(), b"another host's");
}

#[tokio::test]
async fn what_is_set_while_an_upload_is_completed_loses_nothing_that_was_set_before() {
    let house = keeping();
    let fh = house.create("large", libc::O_WRONLY).await.unwrap();
    let data = pattern(1, 12 * MIB);
    for (n, chunk) in data.chunks(MIB).enumerate() {
        house.write(fh, (n * MIB) as u64, chunk).await.unwrap();
    }
    set(&house, "large", chmod(0o600)).await.unwrap();
    let delay = Fault::Delay(Duration::from_millis(100));
    let completed = house.faults.plan(On::op("CompleteMultipartUpload"), delay);
    let set_meanwhile = async {
        while completed.fired() == 0 {
            tokio::task::yield_now().await;
        }
        set(&house, "large", utimens(1_700_000_000)).await
    };
    let (closed, set) = tokio::join!(house.close(fh), set_meanwhile);
    closed.unwrap();
    set.unwrap();
    for refreshed in [false, true] {
        let shown = stat(&house, "large").await;
        assert_eq!((shown.perm, shown.mtime), (0o600, time(1_700_000_000)), "asked anew: {refreshed}");
        house.refresh("large").await;
    }
    assert_eq!(house.cat("large").await.unwrap(), data);
}

#[tokio::test]
async fn what_is_set_later_is_one_copy_that_keeps_all_else() {
    let house = keeping();
    let headers = [
        ("content-type", "text/x-log"),
        ("cache-control", "no-store"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-meta-by", "hand"),
    ];
    house.fake.put_with("file", "bytes", &headers);
    let before = stat(&house, "file").await;
    house.fake.forget_calls();
    set(&house, "file", chmod(0o600)).await.unwrap();
    let asked =
        [("CopyObject", 1), ("GetBucketOwnershipControls", 1), ("GetObjectAcl", 1), ("HeadObject", 1)];
    assert_eq!(counts(&house), asked);
    let object = house.fake.object("file").unwrap();
    assert_eq!(object.headers["content-type"], "text/x-log");
    assert_eq!(object.headers["cache-control"], "no-store");
    assert_eq!(object.headers["x-amz-storage-class"], "STANDARD_IA");
    assert_eq!(object.metadata["by"], "hand");
    let after = stat(&house, "file").await;
    assert_eq!((after.perm, after.mtime), (0o600, before.mtime), "chmod leaves the time alone");
    set(&house, "file", utimens(1_700_000_000)).await.unwrap();
    set(&house, "file", SetAttr { uid: Some(7), gid: Some(8), ..SetAttr::default() }).await.unwrap();
    house.refresh("file").await;
    let after = stat(&house, "file").await;
    assert_eq!((after.perm, after.uid, after.gid, after.mtime), (0o600, 7, 8, time(1_700_000_000)));
    house.fake.forget_calls();
    set(&house, "file", chmod(0o600)).await.unwrap();
    assert!(house.fake.calls().is_empty(), "it is what it is to be: {:?}", counts(&house));
}

#[tokio::test]
async fn a_file_sent_in_parts_is_never_sent_twice() {
    let house = keeping();
    let data = pattern(3, 12 * MIB);
    let fh = house.create("large", libc::O_WRONLY).await.unwrap();
    for (n, chunk) in data.chunks(MIB).enumerate() {
        house.write(fh, (n * MIB) as u64, chunk).await.unwrap();
    }
    set(&house, "large", utimens(1_700_000_000)).await.unwrap();
    house.close(fh).await.unwrap();
    let counts = house.fake.counts();
    assert_eq!((counts.get("PutObject"), counts.get("CopyObject")), (None, Some(&1)), "{counts:?}");
    assert_eq!(counts["UploadPart"], 3, "{counts:?}");
    assert_eq!(stat(&house, "large").await.mtime, time(1_700_000_000));
    house.refresh("large").await;
    assert_eq!(stat(&house, "large").await.mtime, time(1_700_000_000));
    assert_eq!(house.cat("large").await.unwrap(), data);
}

#[tokio::test]
async fn two_changes_at_once_both_hold() {
    let house = keeping();
    house.fake.put("file", "bytes");
    let (mode, times) = tokio::join!(set(&house, "file", chmod(0o600)), set(&house, "file", utimens(9)));
    mode.and(times).unwrap();
    house.refresh("file").await;
    let seen = stat(&house, "file").await;
    assert_eq!((seen.perm, seen.mtime), (0o600, time(9)));
}

#[tokio::test]
async fn a_change_of_what_was_replaced_or_refused_is_told() {
    let house = keeping();
    house.fake.put("file", "bytes");
    stat(&house, "file").await;
    let fake = house.fake.clone();
    let replace = Fault::meanwhile(move || {
        fake.put("file", "another host's");
    });
    house.faults.plan(On::op("CopyObject").once(), replace);
    assert_eq!(errno(set(&house, "file", chmod(0o600)).await), libc::ESTALE);
    let refuse = Fault::Error { status: 403, code: "AccessDenied" };
    house.faults.plan(On::op("CopyObject").once(), refuse);
    assert_eq!(errno(set(&house, "file", chmod(0o600)).await), libc::EACCES);
    assert_eq!(stat(&house, "file").await.perm, 0o644);
    assert_eq!(errno(set(&house, "", chmod(0o700)).await), libc::EPERM, "a bucket has no marker");
}

#[tokio::test]
async fn truncating_and_appending_keep_mode_owner_and_extended_attributes() {
    let house = keeping();
    let kept = [("x-amz-meta-mode", "33216"), ("x-amz-meta-uid", "5"), ("x-amz-meta-mtime", "9")];
    house.fake.put_with("cut", "bytes", &[&kept[..], &[("x-amz-meta-colour", "blue")]].concat());
    house.fake.put_with("more", "bytes", &kept);
    let fh = house.open("cut", libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
    house.write(fh, 0, b"new").await.unwrap();
    house.close(fh).await.unwrap();
    let fh = house.open("more", libc::O_WRONLY | libc::O_APPEND).await.unwrap();
    house.write(fh, 5, b" and").await.unwrap();
    house.close(fh).await.unwrap();
    for key in ["cut", "more"] {
        let seen = stat(&house, key).await;
        assert_eq!((seen.perm, seen.uid), (0o700, 5), "{key}");
        assert!(seen.mtime > time(1_000_000_000), "{key} was written now");
        assert_eq!(metadata(&house.fake, key, "mode"), "33216");
    }
    assert_eq!(metadata(&house.fake, "cut", "colour"), "blue");
}

#[tokio::test]
async fn directories_keep_theirs_in_the_marker() {
    let house = keeping();
    house.fake.put("bare/file", "x");
    set(&house, "bare", chmod(0o700)).await.unwrap();
    assert_eq!(metadata(&house.fake, "bare/", "mode"), (0o040700).to_string());
    assert_eq!(stat(&house, "bare").await.perm, 0o700);
    house.mkdir("made").await.unwrap();
    assert_eq!(metadata(&house.fake, "made/", "mode"), (0o040640).to_string());
    set(&house, "made", SetAttr { uid: Some(9), ..utimens(1_700_000_000) }).await.unwrap();
    house.refresh("made").await;
    let made = stat(&house, "made").await;
    assert_eq!((made.uid, made.perm, made.mtime), (9, 0o640, time(1_700_000_000)));
    // All within a directory with the set-group-id bit is of its group.
    set(&house, "made", SetAttr { gid: Some(44), ..chmod(0o2775) }).await.unwrap();
    house.make("made/file", b"x").await.unwrap();
    house.mkdir("made/dir").await.unwrap();
    assert_eq!((stat(&house, "made/file").await.gid, stat(&house, "made/dir").await.gid), (44, 44));
    assert_eq!(stat(&house, "made/dir").await.perm, 0o2640);
}

#[tokio::test]
async fn of_a_server_that_keeps_no_metadata_of_markers_directories_show_what_is_kept() {
    for write_back in [false, true] {
        let fake = FakeS3::with(Options { bare_markers: true, ..Options::default() });
        let house = House::on(fake, |config| {
            (config.attributes, config.write_back) = (AttributesConfig::Metadata, write_back);
        });
        for (n, name) in ["first", "second"].into_iter().enumerate() {
            house.fake.forget_calls();
            house.mkdir(name).await.unwrap();
            house.fsyncdir("").await.unwrap();
            let shown = stat(&house, name).await;
            assert_eq!((shown.perm, shown.uid), (0o755, house.fs.config().uid), "{name}");
            assert_eq!(house.fake.count("PutObject"), 1);
            if !write_back {
                // One to see whether the name is there; and once, whether the marker has what it was given.
                assert_eq!(house.fake.count("HeadObject"), if n == 0 { 2 } else { 1 }, "{name}");
            }
            assert_eq!(errno(set(&house, name, chmod(0o700)).await), libc::EOPNOTSUPP);
            assert_eq!(errno(set(&house, name, utimens(9)).await), libc::EOPNOTSUPP);
            assert_eq!(house.fake.count("PutObject"), 1, "nothing is sent for that");
            house.refresh(name).await;
            assert_eq!(stat(&house, name).await.perm, 0o755);
        }
    }
}

#[tokio::test]
async fn links_and_special_files_are_objects_with_a_mode() {
    let house = keeping();
    house.mkdir("d").await.unwrap();
    let d = house.enter("d").await.unwrap();
    let made = house.fs.symlink(d.ino, OsStr::new("link"), Path::new("../x/\u{fc}"), MAKER).await.unwrap();
    assert_eq!((made.kind, made.perm, made.size), (Kind::Symlink, 0o640, 7));
    assert_eq!(house.fake.data("d/link"), "../x/\u{fc}".as_bytes());
    assert_eq!(metadata(&house.fake, "d/link", "mode"), (0o120640).to_string());
    let again = house.fs.symlink(d.ino, OsStr::new("link"), Path::new("y"), MAKER).await;
    assert_eq!(errno(again), libc::EEXIST);
    for (name, mode) in [("fifo", libc::S_IFIFO), ("socket", libc::S_IFSOCK), ("null", libc::S_IFCHR)] {
        house.fs.mknod(d.ino, OsStr::new(name), mode | 0o600, 0x103, MAKER).await.unwrap();
    }
    assert_eq!(metadata(&house.fake, "d/null", "rdev"), 0x103.to_string());
    assert_eq!(metadata(&house.fake, "d/fifo", "rdev"), "");
    house.leave(d.ino);
    let inodes: Vec<u64> = [stat(&house, "d/fifo").await.ino, stat(&house, "d/link").await.ino].into();
    house.refresh("").await;
    house.fake.put_with("d/theirs", "", &[("x-amz-meta---symlink-target", "a%20b")]);
    for plus in [false, true] {
        let shown = house.list("d", plus, || 100).await.unwrap();
        let kinds: Vec<_> = shown.iter().map(|s| (s.name.as_str(), s.kind)).collect();
        let expected = [
            ("fifo", Kind::Fifo),
            ("link", Kind::Symlink),
            ("null", Kind::CharDevice),
            ("socket", Kind::Socket),
            ("theirs", Kind::Symlink),
        ];
        assert_eq!(kinds, expected, "plus: {plus}");
    }
    assert_eq!([stat(&house, "d/fifo").await.ino, stat(&house, "d/link").await.ino][..], inodes);
    let null = stat(&house, "d/null").await;
    assert_eq!((null.kind, null.rdev), (Kind::CharDevice, 0x103));
    for (path, target) in [("d/link", "../x/\u{fc}"), ("d/theirs", "a b")] {
        let link = house.enter(path).await.unwrap();
        assert_eq!(house.fs.readlink(link.ino).await.unwrap(), target.as_bytes());
        assert_eq!(stat(&house, path).await.size, target.len() as u64);
        house.fake.forget_calls();
        assert_eq!(house.fs.readlink(link.ino).await.unwrap(), target.as_bytes());
        assert!(house.fake.calls().is_empty(), "the target is remembered");
        house.leave(link.ino);
    }
    let fifo = house.enter("d/fifo").await.unwrap();
    assert_eq!(errno(house.fs.readlink(fifo.ino).await), libc::EINVAL);
    house.leave(fifo.ino);
    house.unlink("d/link").await.unwrap();
    assert_eq!(errno(house.enter("d/link").await), libc::ENOENT);
    assert_eq!(split("d/link"), ("d", "link"));
}

/// `ls -l`: each entry looked up, or given with its attributes.
#[tokio::test(start_paused = true)]
async fn a_long_listing_asks_for_many_at_once_and_never_twice() {
    for plus in [true, false] {
        let house = keeping();
        let names: Vec<String> = (0..1000).map(|n| format!("d/{n:04}")).collect();
        house.fake.put_many(&names, pattern(1, 5000));
        house.faults.plan(On::op("HeadObject"), Fault::Delay(Duration::from_millis(20)));
        let began = tokio::time::Instant::now();
        let shown = house.list("d", plus, || 100).await.unwrap();
        assert_eq!(shown.len(), 1000);
        for name in &names {
            stat(&house, name).await;
        }
        let (took, heads) = (began.elapsed(), house.fake.counts()["HeadObject"]);
        assert!(took < Duration::from_millis(20 * (1000 / 64 + 14)), "plus: {plus}: {took:?}");
        assert!((1000..=1003).contains(&heads), "plus: {plus}: {heads} HEADs");
    }
}

/// Names alone: of what is larger than a link can be nothing need be asked.
#[tokio::test]
async fn a_listing_of_names_asks_only_for_what_may_be_no_file() {
    let house = keeping();
    house.fake.put("d/large", pattern(1, 5000));
    house.fake.put("d/small", "x");
    house.fake.put("d/sub/x", "x");
    house.list("d", false, || 100).await.unwrap();
    let heads = house.fake.calls().into_iter().filter(|call| call.call.op == "HeadObject");
    let asked: Vec<_> = heads.map(|call| call.call.key()).collect();
    assert_eq!(
        asked.iter().filter(|key| key.starts_with("d/s") || *key == "d/large").count(),
        1,
        "{asked:?}"
    );
}

#[tokio::test]
async fn what_was_asked_is_remembered_as_long_as_the_object_is_the_same() {
    let house = keeping_with(|config| config.metadata_ttl = Duration::ZERO);
    house.fake.put_many((0..20).map(|n| format!("d/{n:02}")), "x");
    let list = || async { house.list("d", true, || 100).await.unwrap().len() };
    assert_eq!(list().await, 20);
    house.fake.forget_calls();
    assert_eq!(list().await, 20);
    let heads: Vec<_> = house.fake.calls().into_iter().filter(|call| call.call.op == "HeadObject").collect();
    assert!(heads.iter().all(|call| ["d", "d/"].contains(&&*call.call.key())), "{heads:?}");
    house.fake.put_with("d/07", "y", &[("x-amz-meta-mode", "33024")]);
    assert_eq!(stat(&house, "d/07").await.perm, 0o400);
}

#[tokio::test]
async fn what_is_remembered_stays_within_the_metadata_memory() {
    let house = keeping_with(|config| config.metadata_bytes_max = 1 << 20);
    for dir in 0..20 {
        house.fake.put_many((0..200).map(|n| format!("{dir:02}/{n:03}")), "x");
    }
    for dir in 0..20 {
        let shown = house.list(&format!("{dir:02}"), true, || 50).await.unwrap();
        assert_eq!(shown.len(), 200);
        let held = house.fs.held();
        assert!(held.metadata_bytes <= (1 << 20) + (200 << 10), "{held:?}");
    }
    assert!(house.fs.held().metadata_bytes <= 1 << 20, "{:?}", house.fs.held());
}

#[tokio::test]
async fn a_late_answer_does_not_undo_a_change() {
    let house = keeping_with(|config| config.metadata_ttl = Duration::ZERO);
    house.fake.put("d/file", "x");
    house.fake.put("d/", "");
    let dir = house.enter("d").await.unwrap();
    // The marker's head is asked for, and answered when the directory was changed.
    house.faults.plan(On::op("HeadObject").key("d/").once(), Fault::Delay(Duration::from_millis(50)));
    let (seen, changed) = tokio::join!(stat(&house, "d"), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        house.fs.setattr(dir.ino, chmod(0o700)).await
    });
    changed.unwrap();
    assert!([0o700, 0o755].contains(&seen.perm));
    assert_eq!(stat(&house, "d").await.perm, 0o700);
    house.leave(dir.ino);
}

#[tokio::test]
async fn a_directory_is_as_new_as_what_was_made_or_removed_in_it() {
    let house = keeping();
    house.fake.put_with("d/", "", &[("x-amz-meta-mtime", "5")]);
    house.fake.put("d/old", "x");
    assert_eq!(stat(&house, "d").await.mtime, from_epoch(5, 0).unwrap());
    let mut last = SystemTime::now();
    let mut newer = async |what: &str| {
        let now = stat(&house, "d").await;
        assert!(now.mtime >= last && now.ctime == now.mtime, "{what}");
        last = SystemTime::now();
    };
    house.make("d/new", b"x").await.unwrap();
    newer("a file was made").await;
    house.unlink("d/old").await.unwrap();
    newer("a file was removed").await;
    house.mkdir("d/sub").await.unwrap();
    newer("a directory was made").await;
    house.rename("d/new", "d/newer", 0).await.unwrap();
    newer("a file was renamed").await;
    set(&house, "d", utimens(9)).await.unwrap();
    assert_eq!(stat(&house, "d").await.mtime, time(9), "what is set after that counts");
}

#[tokio::test]
async fn a_removed_file_that_is_open_has_no_link_and_keeps_its_attributes_here() {
    let house = keeping();
    house.make("file", b"bytes").await.unwrap();
    let attr = house.enter("file").await.unwrap();
    house.unlink("file").await.unwrap();
    let held = house.fs.setattr(attr.ino, chmod(0o600)).await.unwrap();
    assert_eq!((held.nlink, held.perm, held.size), (0, 0o600, 5));
    assert!(house.fake.object("file").is_none());
    house.leave(attr.ino);
}
