//! Renames: of directories with all that is below them, of files that are being written, and what a failure or a
//! crash in the middle leaves.

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pailfs::fs::Filesystem;
use pailfs::write::moves;
use pailfs::write::upload::Uploads;
use support::bytes::{assert_same_bytes, pattern};
use support::house::{MAKER, errno};
use support::{FakeS3, Fault, House, On};

const MIB: usize = 1 << 20;

fn denied() -> Fault {
    Fault::Error { status: 403, code: "AccessDenied" }
}

/// What S3 has: keys and contents.
fn contents(fake: &FakeS3) -> BTreeMap<String, Vec<u8>> {
    fake.keys().into_iter().map(|key| (key.clone(), fake.data(&key).to_vec())).collect()
}

/// Of objects' contents, since the calls were forgotten.
fn bytes_sent(fake: &FakeS3) -> usize {
    let of_content = |call: &&support::fake::Logged| ["PutObject", "UploadPart"].contains(&call.call.op);
    fake.calls().iter().filter(of_content).map(|call| call.body_bytes as usize).sum()
}

#[tokio::test]
async fn a_directory_moves_with_all_that_is_below_it() {
    for ttl in [0, 3600] {
        let house = House::with(|config| config.metadata_ttl = Duration::from_secs(ttl));
        for (key, data) in
            [("p/a/", ""), ("p/a/x", "1"), ("p/a/b/y z+%", "2"), ("p/a!", "3"), ("p/ab/q", "4")]
        {
            house.fake.put(key, data);
        }
        let headers = [("content-type", "text/x-it"), ("x-amz-meta-k", "v")];
        house.fake.put_with("p/a/carried", "5", &headers);
        house.names("p/a/b").await;
        let (file, below) = (house.enter("p/a/x").await.unwrap(), house.enter("p/a/b/y z+%").await.unwrap());
        house.rename("p/a", "p/moved", 0).await.unwrap();
        let expected = ["p/a!", "p/ab/q", "p/moved/", "p/moved/b/y z+%", "p/moved/carried", "p/moved/x"];
        assert_eq!(house.fake.keys(), expected);
        let carried = house.fake.object("p/moved/carried").unwrap();
        assert_eq!((&*carried.headers["content-type"], &*carried.metadata["k"]), ("text/x-it", "v"));
        assert_eq!(house.names("p").await, ["a!", "ab", "moved"]);
        assert_eq!(house.names("p/moved").await, ["b", "carried", "x"]);
        assert_eq!(errno(house.enter("p/a").await), libc::ENOENT);
        for (path, before) in [("p/moved/x", &file), ("p/moved/b/y z+%", &below)] {
            let now = house.enter(path).await.unwrap();
            assert_eq!(now.ino, before.ino, "{path}: known to the kernel, it keeps its number");
            house.leave(now.ino);
            house.leave(before.ino);
        }
        assert_eq!(house.cat("p/moved/b/y z+%").await.unwrap(), b"2");
        // And what had the name may be made anew.
        house.mkdir("p/a").await.unwrap();
        assert_eq!(house.names("p/a").await, [""; 0]);
        house.make("p/a/x", b"anew").await.unwrap();
        assert_eq!(house.cat("p/moved/x").await.unwrap(), b"1");
        assert_eq!(house.journal.stats().open, 0);
    }
}

#[tokio::test]
async fn what_a_directory_may_replace() {
    let house = House::new();
    for key in ["d/x", "full/x", "file", "d/sub/y"] {
        house.fake.put(key, "");
    }
    house.mkdir("empty").await.unwrap();
    let before = house.fake.keys();
    for (from, to, flags, refusal) in [
        ("d", "full", 0, libc::ENOTEMPTY),
        ("d", "file", 0, libc::ENOTDIR),
        ("file", "d", 0, libc::EISDIR),
        ("d", "d/sub/new", 0, libc::EINVAL),
        ("d/sub", "d", 0, libc::ENOTEMPTY),
        ("d", "empty", libc::RENAME_NOREPLACE, libc::EEXIST),
        ("d", "d/sub", libc::RENAME_EXCHANGE, libc::EINVAL),
        ("d/sub/y", "d", libc::RENAME_EXCHANGE, libc::EINVAL),
        ("d", "missing", libc::RENAME_EXCHANGE, libc::ENOENT),
        ("missing", "new", 0, libc::ENOENT),
    ] {
        assert_eq!(errno(house.rename(from, to, flags).await), refusal, "{from} {to}");
        assert_eq!(house.fake.keys(), before, "{from} {to}");
    }
    house.rename("d", "d", 0).await.unwrap();
    assert_eq!(house.fake.keys(), before);
    // A file that is not published yet makes a directory full.
    let fh = house.create("empty/local", libc::O_WRONLY).await.unwrap();
    assert_eq!(errno(house.rename("d", "empty", 0).await), libc::ENOTEMPTY);
    house.unlink("empty/local").await.unwrap();
    house.close(fh).await.unwrap();
    house.rename("d", "empty", 0).await.unwrap();
    assert_eq!(house.fake.keys(), ["empty/", "empty/sub/y", "empty/x", "file", "full/x"]);
    house.rename("empty", "new", libc::RENAME_NOREPLACE).await.unwrap();
    assert_eq!(house.names("").await, ["file", "full", "new"]);
}

#[tokio::test]
async fn the_directory_it_was_in_does_not_vanish() {
    let house = House::new();
    house.fake.put("p/only/x", "");
    house.fake.put("q/only/x", "");
    house.fake.put("q/beside", "");
    house.rename("p/only", "moved", 0).await.unwrap();
    house.rename("q/only", "moved2", 0).await.unwrap();
    assert_eq!(house.fake.keys(), ["moved/x", "moved2/x", "p/", "q/beside"]);
    assert_eq!(house.names("p").await, [""; 0]);
}

#[tokio::test]
async fn what_is_open_below_goes_along() {
    let house = House::new();
    let data = pattern(1, 3 * MIB);
    house.fake.put("d/read", data.clone());
    house.fake.put("d/sub/edited", "0123456789");
    let read = house.open("d/read", libc::O_RDONLY).await.unwrap();
    assert_same_bytes(&house.read(read, 0, 1000).await.unwrap(), &data[..1000], "before");
    let edited = house.open("d/sub/edited", libc::O_RDWR).await.unwrap();
    house.write(edited, 3, b"xyz").await.unwrap();
    let made = house.create("d/sub/made", libc::O_RDWR).await.unwrap();
    house.write(made, 0, b"not published").await.unwrap();
    let large = house.create("d/large", libc::O_WRONLY).await.unwrap();
    let long = pattern(2, 14 * MIB);
    house.write(large, 0, &long[..12 * MIB]).await.unwrap();

    house.rename("d", "e", 0).await.unwrap();
    assert_same_bytes(
        &house.read(read, 2 * MIB as u64, 1000).await.unwrap(),
        &data[2 * MIB..][..1000],
        "after",
    );
    assert_eq!(house.read(edited, 0, 100).await.unwrap(), b"012xyz6789");
    house.write(made, 13, b" yet").await.unwrap();
    house.write(large, 12 * MIB as u64, &long[12 * MIB..]).await.unwrap();
    for fh in [read, edited, made, large] {
        house.close(fh).await.unwrap();
    }
    assert_eq!(house.fake.keys(), ["e/large", "e/read", "e/sub/edited", "e/sub/made"]);
    assert_eq!(house.fake.data("e/sub/edited"), "012xyz6789");
    assert_eq!(house.fake.data("e/sub/made"), "not published yet");
    assert_same_bytes(&house.fake.data("e/large"), &long, "of which parts had been sent");
    let sent = bytes_sent(&house.fake);
    assert!((14 * MIB..15 * MIB).contains(&sent), "{sent} bytes: what was sent is not sent again");
    assert_eq!((house.fake.uploads(), house.journal.stats().open), (vec![], 0));
    assert_eq!(house.names("e").await, ["large", "read", "sub"]);
}

#[tokio::test]
async fn a_directory_that_holds_only_what_is_not_published_is_renamed_too() {
    let house = House::new();
    house.mkdir("d").await.unwrap();
    house.fake.delete("d/");
    let fh = house.create("d/local", libc::O_WRONLY).await.unwrap();
    house.rename("d", "e", 0).await.unwrap();
    house.close(fh).await.unwrap();
    assert_eq!(house.fake.keys(), ["e/", "e/local"]);
}

#[tokio::test]
async fn a_rename_that_fails_changes_nothing() {
    let house = House::new();
    house.fake.put_many((0..500).map(|n| format!("d/{n:03}")), "data");
    house.mkdir("over").await.unwrap();
    let before = contents(&house.fake);
    for (line, refusal) in [
        (house.faults.plan(On::op("CopyObject").nth(120).once(), denied()), libc::EACCES),
        (house.faults.plan(On::op("CopyObject").key("over/499").once(), denied()), libc::EACCES),
    ] {
        assert_eq!(errno(house.rename("d", "over", 0).await), refusal);
        assert_eq!(line.fired(), 1);
        assert_eq!(contents(&house.fake), before);
        assert_eq!(house.journal.stats().open, 0);
    }
    assert_eq!(house.names("d").await.len(), 500);
    assert_eq!(house.names("over").await, [""; 0]);
    let long = "n".repeat(250);
    house.fake.put(format!("d/{long}"), "");
    let deep = [long.as_str(); 4].join("/");
    house.fake.put(format!("{deep}/"), "");
    assert_eq!(errno(house.rename("d", &format!("{deep}/d"), 0).await), libc::ENAMETOOLONG);
    assert_eq!(house.fake.keys().len(), before.len() + 2);
}

#[tokio::test]
async fn more_than_a_rename_takes_is_refused_and_undone() {
    let house = House::new();
    house.fake.put_many((0..50).map(|n| format!("d/{n}")), "");
    let uploads = Uploads {
        client: house.fake.client(),
        runtime: tokio::runtime::Handle::current(),
        journal: house.journal.clone(),
    };
    let refused = moves::copy_below(&uploads, "d/", "e/", 49).await.map(|_| ());
    assert_eq!(refused.map_err(|e| e.errno()), Err(libc::EXDEV));
    moves::undo(&uploads.client, "d/", "e/", false).await.unwrap();
    assert_eq!(house.fake.keys().len(), 50);
    assert_eq!(moves::copy_below(&uploads, "d/", "e/", 50).await.unwrap().len(), 50);
}

fn house_in(staging: &Path, fake: FakeS3) -> House {
    House::on(fake, |config| config.staging.dir = staging.into())
}

/// Renames until a call of this kind never comes back, then dies.
async fn die_at(staging: &Path, fake: &FakeS3, call: On, from: &str, to: &str) {
    let house = house_in(staging, fake.clone());
    let line = house.faults.plan(call, Fault::AnswerHangs);
    let (dir, new_dir) = (house.enter("").await.unwrap().ino, house.enter("").await.unwrap().ino);
    let rename = house.fs.rename(dir, OsStr::new(from), new_dir, OsStr::new(to), 0);
    let hung = async {
        while line.fired() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What is under way beside it arrives.
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    tokio::select! {
        done = rename => panic!("it ended: {done:?}"),
        () = hung => {}
    }
}

#[tokio::test]
async fn a_rename_that_a_crash_interrupts_is_undone_or_finished_by_the_next_mount() {
    for (over, call, moved) in [
        (false, On::op("CopyObject").nth(60), false),
        (true, On::op("CopyObject").key("e/sub/0249"), false),
        (false, On::op("DeleteObjects"), true),
        (true, On::op("DeleteObjects").nth(2), true),
    ] {
        let staging = tempfile::tempdir().unwrap();
        let fake = FakeS3::new();
        fake.put_many((0..2500).map(|n| format!("d/sub/{n:04}")), "data");
        fake.put("d/", "");
        fake.put("d.beside", "");
        if over {
            fake.put("e/", "");
        }
        let before = contents(&fake);
        die_at(staging.path(), &fake, call, "d", "e").await;
        assert_ne!(contents(&fake), before, "it was in the middle");
        let next = house_in(staging.path(), fake.clone());
        next.fs.take_over().await.unwrap();
        let after = contents(&fake);
        if moved {
            assert!(after.keys().all(|key| !key.starts_with("d/")), "nothing is left behind");
            assert_eq!(after.len(), 2502);
            assert_eq!(next.names("").await, ["d.beside", "e"]);
        } else {
            assert_eq!(after, before, "over an empty directory: {over}");
        }
        assert_eq!(next.journal.stats().open, 0);
    }
}

#[tokio::test]
async fn of_an_interrupted_rename_what_another_host_wrote_meanwhile_stays() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    fake.put_many((0..20).map(|n| format!("d/{n:02}")), "data");
    die_at(staging.path(), &fake, On::op("CopyObject").nth(10), "d", "e").await;
    fake.put("e/00", "another host's");
    fake.put("e/of another host", "");
    fake.delete("d/01");
    let had_01 = fake.object("e/01").is_some();
    house_in(staging.path(), fake.clone()).fs.take_over().await.unwrap();
    let mut expected = vec!["e/00".to_string(), "e/of another host".to_string()];
    expected.extend(had_01.then(|| "e/01".to_string()));
    expected.sort();
    let left: Vec<String> = fake.keys().into_iter().filter(|key| key.starts_with("e/")).collect();
    assert_eq!(left, expected, "the last copy of anything stays");
    assert_eq!(fake.data("e/00"), "another host's");
}

#[tokio::test]
async fn a_deletion_that_fails_is_told_and_finished_by_the_next_mount() {
    let staging = tempfile::tempdir().unwrap();
    let house = house_in(staging.path(), FakeS3::new());
    house.fake.put_many((0..20).map(|n| format!("d/{n:02}")), "data");
    let line = house.faults.plan(On::op("DeleteObjects"), denied());
    assert_eq!(errno(house.rename("d", "e", 0).await), libc::EACCES);
    line.lift();
    assert_eq!(house.names("e").await.len(), 20, "it is there");
    let fake = house.fake.clone();
    drop(house);
    house_in(staging.path(), fake.clone()).fs.take_over().await.unwrap();
    assert_eq!(fake.keys().len(), 20);
    assert!(fake.keys().iter().all(|key| key.starts_with("e/")));
}

/// A slow rename of `d` to `e`, and what runs beside it once it is under way.
async fn beside_a_rename<T>(house: &House, work: impl Future<Output = T>) -> T {
    let slow = house.faults.plan(On::op("CopyObject"), Fault::Delay(Duration::from_millis(100)));
    let (renamed, done) = tokio::join!(house.rename("d", "e", 0), async {
        while slow.fired() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        work.await
    });
    renamed.unwrap();
    slow.lift();
    done
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_below_meanwhile_comes_after_it() {
    let house = House::new();
    house.fake.put_many(["d/x", "d/y", "beside"], "data");
    let (dir, file) = (house.enter("d").await.unwrap().ino, house.open("d/x", libc::O_RDWR).await.unwrap());
    beside_a_rename(&house, async {
        house.fs.unlink(1, OsStr::new("beside")).await.unwrap();
        assert!(house.fake.object("d/y").is_some(), "what is elsewhere need not wait");
        let (attr, made) =
            house.fs.create(dir, OsStr::new("made"), libc::O_WRONLY | libc::O_CREAT, MAKER).unwrap();
        house.leave(attr.ino);
        let fs: &Arc<Filesystem> = &house.fs;
        fs.write(made.fh, 0, b"made meanwhile", false).await.unwrap();
        fs.write(file, 0, b"DATA", false).await.unwrap();
        house.close(made.fh).await.unwrap();
        house.close(file).await.unwrap();
        fs.unlink(dir, OsStr::new("y")).await.unwrap();
        let sub = fs.mkdir(dir, OsStr::new("sub"), MAKER).await.unwrap();
        house.leave(sub.ino);
    })
    .await;
    house.leave(dir);
    assert_eq!(house.keys_settled().await, ["e/made", "e/sub/", "e/x"]);
    assert_eq!((house.fake.data("e/made"), house.fake.data("e/x")), ("made meanwhile".into(), "DATA".into()));
    assert_eq!(house.names("e").await, ["made", "sub", "x"]);
}

#[tokio::test]
async fn a_listing_from_before_does_not_undo_it() {
    let house = House::new();
    house.fake.put_many(["d/x", "d/sub/y", "z"], "data");
    // Answered only when the rename is over.
    for dir in ["", "d/"] {
        let after = Fault::Delay(Duration::from_millis(300));
        house.faults.plan(On::op("ListObjectsV2").key_where(move |_| true).once(), after);
        let list = house.list(dir.trim_end_matches('/'), true, || 100);
        let (listed, renamed) = tokio::join!(list, async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            house.rename("d", "e", 0).await
        });
        drop(listed);
        renamed.unwrap();
        assert_eq!(house.names("").await, ["e", "z"]);
        assert_eq!(house.names("e").await, ["sub", "x"]);
        assert_eq!(errno(house.enter("d/x").await), libc::ENOENT);
        house.rename("e", "d", 0).await.unwrap();
        assert_eq!(house.names("d/sub").await, ["y"]);
        assert_eq!(errno(house.enter("e").await), libc::ENOENT);
    }
}

#[tokio::test]
async fn five_thousand_objects_are_moved_many_at_a_time() {
    let house = House::new();
    house.fake.put_many((0..5_000).map(|n| format!("d/{:02}/{n:05}", n % 20)), "x");
    for op in ["HeadObject", "CopyObject", "GetObjectAcl"] {
        house.faults.plan(On::op(op), Fault::Delay(Duration::from_millis(5)));
    }
    house.rename("d", "e", 0).await.unwrap();
    assert_eq!(house.fake.keys().len(), 5_000);
    assert!(house.fake.keys().iter().all(|key| key.starts_with("e/")));
    let counts = house.fake.counts();
    assert_eq!(
        (counts["CopyObject"], counts["DeleteObjects"]),
        (5_000, 6),
        "the directories' markers by themselves"
    );
    assert!(counts["ListObjectsV2"] < 30, "{counts:?}");
    let peak = house.fake.in_flight_peak();
    assert!((50..=410).contains(&peak), "{peak} at once, copies and questions for ACLs");
}

#[tokio::test]
async fn another_mount_sees_it_and_goes_on() {
    let one = House::new();
    one.fake.put_many(["d/x", "d/sub/y"], "data");
    let two = House::on(one.fake.clone(), |config| config.metadata_ttl = Duration::ZERO);
    assert_eq!(two.names("d").await, ["sub", "x"]);
    one.rename("d", "e", 0).await.unwrap();
    assert_eq!(two.names("").await, ["e"]);
    assert_eq!(two.names("e/sub").await, ["y"]);
    two.rename("e", "f", 0).await.unwrap();
    one.refresh("").await;
    assert_eq!(one.names("f").await, ["sub", "x"]);
}

#[tokio::test]
async fn a_file_that_is_not_published_is_renamed_and_sent_once() {
    for len in [10, 6 * MIB] {
        for over in [false, true] {
            let house = House::new();
            if over {
                house.fake.put("final", "older");
                assert_eq!(house.names("").await, ["final"]);
            }
            let data = pattern(2, len);
            let fh = house.create("temporary", libc::O_RDWR).await.unwrap();
            house.write(fh, 0, &data).await.unwrap();
            assert_eq!(
                errno(house.rename("temporary", "temporary", libc::RENAME_NOREPLACE).await),
                libc::EEXIST
            );
            house.rename("temporary", "final", 0).await.unwrap();
            assert_eq!(house.names("").await, ["final"]);
            assert_same_bytes(&house.cat("final").await.unwrap(), &data, "seen before it is closed");
            house.write(fh, len as u64, b" and more").await.unwrap();
            house.close(fh).await.unwrap();
            assert_eq!(house.fake.keys(), ["final"]);
            assert_same_bytes(&house.fake.data("final"), &[&data[..], b" and more"].concat(), "final");
            assert_eq!(bytes_sent(&house.fake), len + 9);
        }
    }
}

#[tokio::test]
async fn a_file_that_replaced_another_and_is_not_published_takes_it_along() {
    let house = House::new();
    house.fake.put("final", "older");
    let fh = house.create("temporary", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"newer").await.unwrap();
    house.rename("temporary", "final", 0).await.unwrap();
    house.unlink("final").await.unwrap();
    house.close(fh).await.unwrap();
    assert_eq!(house.keys_settled().await, [""; 0], "what was replaced does not come back");
    assert_eq!(house.names("").await, [""; 0]);
}

#[tokio::test]
async fn a_file_with_changes_takes_its_base_along() {
    let house = House::new();
    house.fake.put("a", "0123456789");
    house.fake.put("b", "replaced");
    let fh = house.open("a", libc::O_RDWR).await.unwrap();
    house.write(fh, 2, b"xx").await.unwrap();
    let replaced = house.open("b", libc::O_RDWR).await.unwrap();
    house.write(replaced, 0, b"never seen").await.unwrap();
    house.rename("a", "b", 0).await.unwrap();
    assert_eq!((house.fake.keys(), house.fake.data("b")), (vec!["b".to_string()], "0123456789".into()));
    assert_eq!(house.read(fh, 0, 100).await.unwrap(), b"01xx456789");
    house.close(replaced).await.unwrap();
    house.close(fh).await.unwrap();
    assert_eq!(house.fake.data("b"), "01xx456789");
    // Another host's version is not overwritten.
    let fh = house.open("b", libc::O_RDWR).await.unwrap();
    house.write(fh, 0, b"y").await.unwrap();
    house.fake.put("b", "another host's");
    assert_eq!(errno(house.rename("b", "c", 0).await), libc::ESTALE);
    assert_eq!(errno(house.close(fh).await), libc::ESTALE);
    assert_eq!(house.fake.data("b"), "another host's");
}
