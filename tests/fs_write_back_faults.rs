//! `--write-back` when S3 refuses, breaks off or is gone, and names change at the same time: what was acknowledged is
//! not lost, and nothing that was removed comes back.

mod support;

use std::path::Path;
use std::time::Duration;

use pailfs::config::AttributesConfig;
use pailfs::fs::SetAttr;
use support::bytes::{assert_same_bytes, pattern};
use support::house::errno;
use support::{FakeS3, Fault, House, On};

const MIB: usize = 1 << 20;
const DENIED: Fault = Fault::Error { status: 403, code: "AccessDenied" };

fn house_in(staging: &Path, fake: &FakeS3, write_back: bool) -> House {
    House::write_back(staging, fake, |config| config.write_back = write_back)
}

async fn edit(house: &House, name: &str, offset: u64, data: &[u8]) {
    let fh = house.open(name, libc::O_RDWR).await.unwrap();
    house.write(fh, offset, data).await.unwrap();
    house.close(fh).await.unwrap();
}

fn items(house: &House) -> Vec<(String, bool)> {
    let items = house.journal.kept().unwrap().into_iter();
    items.map(|item| (item.kept.key.clone(), item.kept.owner.is_some())).collect()
}

#[tokio::test]
async fn a_part_that_failed_is_sent_again_whoever_publishes() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, true);
    fake.put("d/large", pattern(1, 24 * MIB));
    let holds =
        house.faults.plan(On::op("UploadPartCopy"), Fault::Error { status: 500, code: "InternalError" });
    let fails = house.faults.plan(On::op("UploadPart"), DENIED);
    let gone = house.faults.plan(On::op("CreateMultipartUpload"), Fault::Connect);
    let mut data = pattern(1, 24 * MIB);
    let fh = house.open("d/large", libc::O_RDWR).await.unwrap();
    for at in [0, 9 * MIB, 20 * MIB] {
        data[at..at + 100].copy_from_slice(&pattern(2, 100));
        house.write(fh, at as u64, &pattern(2, 100)).await.unwrap();
    }
    house.close(fh).await.unwrap();
    assert!(house.fs.held().acknowledged > 0);
    // It is published for the rename, in parts of which one fails.
    holds.lift();
    gone.lift();
    assert!(house.rename("d/large", "d/moved", 0).await.is_err());
    assert!(fails.fired() > 0);
    fails.lift();
    _ = house.fsyncdir("").await;
    let found = fake.keys();
    for key in &found {
        assert_same_bytes(&fake.data(key), &data, key);
    }
    assert!(found.len() == 1 && fake.uploads().is_empty(), "{found:?}");
}

#[tokio::test]
async fn a_close_that_fails_while_an_earlier_state_waits_loses_neither() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, true);
    fake.put("file", pattern(1, 100_000));
    let fh = house.open("file", libc::O_RDWR).await.unwrap();
    house.faults.set_down(true);
    house.write(fh, 1000, b"first").await.unwrap();
    house.fs.fsync(fh).await.unwrap();
    house.write(fh, 2000, b"second").await.unwrap();
    // To go on at the end the base is needed.
    assert!(house.fs.write(fh, 100_000, b"third", true).await.is_err());
    assert!(house.close(fh).await.is_err());
    house.fs.leave();
    house.fs.flush_all().await;
    let kept = house.journal.kept().unwrap();
    let [item] = &kept[..] else { panic!("{:?}", items(&house)) };
    let bytes = std::fs::read(item.bytes()).unwrap();
    assert_eq!((&bytes[1000..1005], &bytes[2000..2006]), (&b"first"[..], &b"second"[..]));
    assert_eq!(item.kept.owner, None, "it waits for a person");
}

#[tokio::test]
async fn a_name_that_was_removed_while_it_was_open_is_free_for_a_new_file() {
    for write_back in [false, true] {
        let staging = tempfile::tempdir().unwrap();
        let fake = FakeS3::new();
        let house = house_in(staging.path(), &fake, write_back);
        fake.put("file", "old");
        let reader = house.open("file", libc::O_RDONLY).await.unwrap();
        house.unlink("file").await.unwrap();
        let fh = house.create("file", libc::O_WRONLY | libc::O_EXCL).await.unwrap();
        house.write(fh, 0, b"new").await.unwrap();
        house.close(fh).await.unwrap();
        house.fsyncdir("").await.unwrap();
        assert_eq!(fake.data("file"), "new", "write_back: {write_back}");
        assert_eq!(house.read(reader, 0, 10).await.unwrap(), b"old");
    }
}

#[tokio::test]
async fn a_name_that_was_removed_stays_removed_if_the_next_file_never_comes_to_be() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, false);
    fake.put("file", "old");
    let _reader = house.open("file", libc::O_RDONLY).await.unwrap();
    house.unlink("file").await.unwrap();
    house.faults.plan(On::op("PutObject"), DENIED);
    assert_eq!(errno(house.make("file", b"new").await), libc::EACCES);
    assert_eq!(fake.keys(), [""; 0]);
}

#[tokio::test]
async fn what_was_acknowledged_and_removed_stays_readable_for_who_has_it_open() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, true);
    let hangs = house.faults.plan(On::op("PutObject"), Fault::Connect);
    for (name, size) in [("small", 100), ("large", 3 * MIB)] {
        let fh = house.create(name, libc::O_RDWR).await.unwrap();
        house.write(fh, 0, &pattern(1, size)).await.unwrap();
        house.fs.fsync(fh).await.unwrap();
        house.unlink(name).await.unwrap();
        assert_same_bytes(&house.read(fh, 0, size).await.unwrap(), &pattern(1, size), name);
        house.write(fh, 10, b"and changed").await.unwrap();
        assert_eq!(house.read(fh, 10, 11).await.unwrap(), b"and changed");
        house.close(fh).await.unwrap();
    }
    hangs.lift();
    house.fsyncdir("").await.unwrap();
    assert_eq!((fake.keys(), items(&house)), (vec![], vec![]));
}

#[tokio::test]
async fn a_removal_that_s3_refuses_takes_no_edit_along() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, true);
    // The last ones are of a burst.
    let names = ["first", "second", "third"];
    let puts = house.faults.plan(On::op("PutObject"), Fault::Connect);
    for name in names {
        fake.put(name, "base");
        edit(&house, name, 0, b"EDIT").await;
    }
    let removals = house.faults.plan(On::op("DeleteObject"), DENIED);
    let batches = house.faults.plan(On::op("DeleteObjects"), DENIED);
    for name in names {
        assert_eq!(errno(house.unlink(name).await), libc::EACCES, "{name}");
    }
    assert!(removals.fired() + batches.fired() >= 3);
    puts.lift();
    house.fsyncdir("").await.unwrap();
    for name in names {
        assert_eq!(fake.data(name), "EDIT", "{name}");
    }
    assert_eq!(items(&house), []);
    removals.lift();
    // Nor where somebody has it open, and it is removed after that.
    fake.put("open", "base");
    let fh = house.open("open", libc::O_RDONLY).await.unwrap();
    edit(&house, "open", 0, b"EDIT").await;
    house.unlink("open").await.unwrap();
    house.faults.plan(On::op("DeleteObject"), DENIED);
    assert_eq!(house.read(fh, 0, 10).await.unwrap(), b"EDIT");
    house.close(fh).await.unwrap();
    assert_eq!(errno(house.fsyncdir("").await), libc::EACCES);
    assert_eq!(house.cat("open").await.unwrap(), b"EDIT");
}

#[tokio::test]
async fn a_file_that_was_sent_without_an_answer_is_not_taken_for_refused() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, true);
    fake.put("edited", "base");
    // Carried out, and nothing is heard until the call has given up.
    let lost = house.faults.plan(On::op("PutObject"), Fault::AnswerHangs);
    edit(&house, "edited", 0, b"EDIT").await;
    while fake.data("edited") != "EDIT" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    lost.lift();
    house.fsyncdir("").await.unwrap();
    assert_eq!(items(&house), []);
    edit(&house, "edited", 4, b" and more").await;
    house.fsyncdir("").await.unwrap();
    assert_eq!(fake.data("edited"), "EDIT and more");
}

#[tokio::test]
async fn what_is_set_after_a_file_was_sent_without_an_answer_is_brought_to_it() {
    let fake = FakeS3::new();
    let house = House::on(fake.clone(), |config| {
        (config.attributes, config.write_back) = (AttributesConfig::Metadata, true);
        config.s3.request_timeout = Duration::from_secs(1);
    });
    let lost = house.faults.plan(On::op("PutObject"), Fault::AnswerHangs);
    house.make("file", b"content").await.unwrap();
    while fake.keys().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let attr = house.enter("file").await.unwrap();
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    house.fs.setattr(attr.ino, set).await.unwrap();
    lost.lift();
    house.fsyncdir("").await.unwrap();
    assert_eq!((fake.data("file"), items(&house)), ("content".into(), vec![]));
    assert_eq!(fake.object("file").unwrap().metadata["mode"], 0o100600.to_string());
}

#[tokio::test]
async fn a_mount_that_is_ended_twice_leaves_what_was_acknowledged_to_the_next() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    {
        let house = house_in(staging.path(), &fake, true);
        house.faults.set_down(true);
        let fh = house.create("open", libc::O_WRONLY).await.unwrap();
        house.write(fh, 0, b"acknowledged").await.unwrap();
        house.fs.fsync(fh).await.unwrap();
        house.fs.leave();
        house.fs.flush_all().await;
        house.fs.abandon_all().await;
        assert_eq!(items(&house), [("open".to_owned(), true)]);
    }
    let house = house_in(staging.path(), &fake, true);
    house.fs.take_over().await.unwrap();
    assert_eq!((fake.data("open"), items(&house)), ("acknowledged".into(), vec![]));
}

#[tokio::test]
async fn an_open_that_cuts_a_file_while_it_is_renamed_writes_to_the_new_name() {
    let fake = FakeS3::new();
    let staging = tempfile::tempdir().unwrap();
    let house = house_in(staging.path(), &fake, false);
    fake.put("old", "content");
    let attr = house.enter("old").await.unwrap();
    house.faults.plan(On::op("CopyObject"), Fault::Delay(Duration::from_millis(300)));
    let cut = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let opened = house.fs.open(attr.ino, libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
        house.write(opened.fh, 0, b"anew").await.unwrap();
        house.close(opened.fh).await.unwrap();
    };
    let (renamed, ()) = tokio::join!(house.rename("old", "new", 0), cut);
    renamed.unwrap();
    assert_eq!((fake.keys(), fake.data("new")), (vec!["new".to_owned()], "anew".into()));
}

#[tokio::test]
async fn an_open_that_cuts_a_file_while_it_is_removed_does_not_bring_it_back() {
    let fake = FakeS3::new();
    let staging = tempfile::tempdir().unwrap();
    let house = house_in(staging.path(), &fake, false);
    fake.put("file", "content");
    let attr = house.enter("file").await.unwrap();
    house.faults.plan(On::op("DeleteObject"), Fault::Delay(Duration::from_millis(300)));
    let cut = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let opened = house.fs.open(attr.ino, libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
        house.write(opened.fh, 0, b"anew").await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        house.close(opened.fh).await.unwrap();
    };
    let (removed, ()) = tokio::join!(house.unlink("file"), cut);
    removed.unwrap();
    house.fsyncdir("").await.unwrap();
    assert_eq!(fake.keys(), [""; 0]);
}

#[tokio::test]
async fn a_directory_made_while_one_above_it_waits_to_be_renamed_goes_along() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, true);
    house.mkdir("d").await.unwrap();
    house.fsyncdir("").await.unwrap();
    house.faults.plan(On::op("PutObject"), Fault::Delay(Duration::from_millis(300)));
    house.make("d/file", b"data").await.unwrap();
    let late = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        house.mkdir("d/late").await.unwrap();
    };
    let (renamed, ()) = tokio::join!(house.rename("d", "e", 0), late);
    renamed.unwrap();
    house.fsyncdir("").await.unwrap();
    assert_eq!(fake.keys(), ["e/", "e/file", "e/late/"]);
}

#[tokio::test]
async fn what_was_acknowledged_does_not_replace_what_came_later() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, true);
    fake.put("known", "old");
    let gone = house.faults.plan(On::op("PutObject"), Fault::Connect);
    for name in ["known", "new", "large"] {
        let flags = libc::O_WRONLY | libc::O_TRUNC;
        let fh = match house.open(name, flags).await {
            Ok(fh) => fh,
            Err(_) => house.create(name, flags).await.unwrap(),
        };
        house.write(fh, 0, if name == "large" { &[7; 3 * MIB] } else { b"closed first" }).await.unwrap();
        house.close(fh).await.unwrap();
    }
    assert!(house.fsyncdir("").await.is_err(), "S3 is not to be reached");
    tokio::time::sleep(Duration::from_millis(1100)).await; // S3 tells whole seconds
    for name in ["known", "new", "large"] {
        fake.put(name, "closed later, by another host");
    }
    gone.lift();
    assert_eq!(errno(house.fsyncdir("").await), libc::ESTALE);
    for name in ["known", "new", "large"] {
        assert_eq!(fake.data(name), "closed later, by another host", "{name}");
    }
    let mut kept = items(&house);
    kept.sort();
    assert_eq!(
        kept,
        ["known", "large", "new"].map(|name| (name.to_owned(), false)),
        "each waits for a person"
    );
}

#[tokio::test]
async fn what_was_synced_and_is_written_again_is_in_s3_after_a_flush() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, true);
    fake.put("edited", "base");
    let edited = house.open("edited", libc::O_RDWR).await.unwrap();
    let new = house.create("new", libc::O_RDWR).await.unwrap();
    for fh in [edited, new] {
        house.write(fh, 0, b"synced").await.unwrap();
        house.fs.fsync(fh).await.unwrap();
        house.write(fh, 6, b", and more").await.unwrap();
    }
    // Nobody has closed or synced anything of these: they are no whole files.
    house.make("anew", b"closed").await.unwrap();
    let anew = house.open("anew", libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
    house.write(anew, 0, b"half").await.unwrap();
    let half = house.create("half", libc::O_WRONLY).await.unwrap();
    house.write(half, 0, b"half").await.unwrap();
    house.faults.set_down(true);
    assert!(house.fsyncdir("").await.is_err());
    house.write(edited, 0, b"SYNCED").await.unwrap();
    house.faults.set_down(false);
    house.fsyncdir("").await.unwrap();
    assert_eq!(fake.data("edited"), "SYNCED, and more");
    assert_eq!(fake.data("new"), "synced, and more");
    assert_eq!(fake.keys(), ["edited", "new"]);
    house.write(new, 0, b"NEWEST").await.unwrap();
    for fh in [edited, new, anew, half] {
        house.close(fh).await.unwrap();
    }
    house.fsyncdir("").await.unwrap();
    assert_eq!((fake.data("new"), fake.data("anew")), ("NEWEST, and more".into(), "half".into()));
    assert_eq!((items(&house), fake.keys().len()), (vec![], 4));
}

#[tokio::test]
async fn what_waits_while_s3_is_gone_leaves_retries_to_who_waits_for_it() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, true);
    house.faults.set_down(true);
    for n in 0..300 {
        house.make(&format!("file{n}"), b"data").await.unwrap();
    }
    assert!(house.fsyncdir("").await.is_err(), "S3 was gone for longer than --request-timeout");
    fake.put("late", "data");
    house.faults.set_down(false);
    for op in ["HeadObject", "ListObjectsV2"] {
        house.faults.plan(On::op(op).once(), Fault::Connect);
    }
    assert_eq!(house.enter("late").await.map(|attr| attr.size).map_err(|e| e.errno()), Ok(4));
}

#[tokio::test]
async fn what_was_acknowledged_replaces_what_is_older() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake, true);
    assert!(house.enter("file").await.is_err());
    fake.put("file", "another host's, which this one has not heard of");
    fake.put("gone", "old");
    tokio::time::sleep(Duration::from_millis(1100)).await; // S3 tells whole seconds
    let fh = house.create("file", libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
    house.write(fh, 0, b"closed later").await.unwrap();
    house.close(fh).await.unwrap();
    let fh = house.open("gone", libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
    house.write(fh, 0, b"new").await.unwrap();
    house.close(fh).await.unwrap();
    fake.delete("gone");
    house.fsyncdir("").await.unwrap();
    assert_eq!((fake.data("file"), fake.data("gone")), ("closed later".into(), "new".into()));
    assert_eq!(items(&house), []);
}
