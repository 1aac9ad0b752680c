//! `--write-back`: what is acknowledged when the local disk has it, how it gets to S3, and what the next mount makes of
//! it when this one dies.

mod support;

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use pailfs::config::AttributesConfig;
use pailfs::error::Error;
use pailfs::fs::SetAttr;
use support::bytes::pattern;
use support::house::{MAKER, errno};
use support::{FakeS3, Fault, House, On};

const MIB: usize = 1 << 20;
const DENIED: Fault = Fault::Error { status: 403, code: "AccessDenied" };

fn house_in(staging: &Path, fake: &FakeS3) -> House {
    House::write_back(staging, fake, |_| {})
}

/// Does something on a mount that is killed then, and to which S3 never answers a PUT.
fn killed(staging: &Path, fake: &FakeS3, then: impl AsyncFnOnce(&House)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let house = runtime.block_on(async {
        // What hangs is given up long after this has ended.
        let house = House::write_back(staging, fake, |c| c.s3.request_timeout = Duration::from_secs(60));
        house.faults.plan(On::op("PutObject"), Fault::Hang);
        then(&house).await;
        house
    });
    runtime.shutdown_timeout(Duration::from_secs(5)); // with all that holds the mount
    drop(house);
}

/// What the next mount makes of it.
fn next(staging: &Path, fake: &FakeS3, then: impl AsyncFnOnce(&House)) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let house = house_in(staging, fake);
        house.fs.take_over().await.unwrap();
        then(&house).await;
        assert_eq!(house.journal.stats().open, 0, "nothing is left to be done");
    });
}

fn kept(house: &House) -> Vec<String> {
    house.journal.kept().unwrap().into_iter().map(|item| item.kept.key).collect()
}

#[tokio::test]
async fn a_close_does_not_wait_for_s3_and_fsync_of_the_root_does() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake);
    let hangs = house.faults.plan(On::op("PutObject"), Fault::Hang);
    house.mkdir("dir").await.unwrap();
    house.make("dir/file", b"content").await.unwrap();
    assert_eq!(house.cat("dir/file").await.unwrap(), b"content");
    assert_eq!(house.names("dir").await, ["file"]);
    assert_eq!((fake.keys().len(), house.fs.held().acknowledged), (0, 2));
    assert_eq!(errno(house.rmdir("dir").await), libc::ENOTEMPTY);
    let dir = house.enter("dir").await.unwrap();
    house.fs.fsyncdir(dir.ino).await.unwrap(); // the local disk has it
    assert_eq!(fake.keys().len(), 0);
    hangs.lift();
    house.sync_root().await;
    assert_eq!(fake.keys(), ["dir/", "dir/file"]);
    assert_eq!(fake.data("dir/file"), "content");
}

#[tokio::test]
async fn a_file_is_read_while_it_is_on_its_way() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake);
    let hangs = house.faults.plan(On::op("PutObject"), Fault::Hang);
    let content = pattern(1, MIB);
    house.make("file", &content).await.unwrap();
    let fh = house.open("file", libc::O_RDONLY).await.unwrap();
    let mut synced = std::pin::pin!(house.fsyncdir(""));
    let read = async {
        while hangs.fired() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(house.cat("file").await.unwrap(), content);
        assert_eq!(house.read(fh, 1000, 500).await.unwrap(), content[1000..1500]);
        assert_eq!(house.read(fh, MIB as u64, 500).await.unwrap(), b"");
    };
    tokio::select! {
        synced = &mut synced => panic!("S3 gave no answer, and yet: {synced:?}"),
        () = read => {}
    }
    synced.await.unwrap_err();
    hangs.lift();
    house.sync_root().await;
    assert_eq!(fake.data("file"), content);
}

#[test]
fn what_was_acknowledged_when_a_mount_was_killed_is_sent_by_the_next() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    fake.put("edited", pattern(1, MIB));
    killed(staging.path(), &fake, async |house| {
        house.mkdir("a").await.unwrap();
        house.mkdir("a/b").await.unwrap();
        house.make("a/b/new", b"new").await.unwrap();
        house.make("a/empty", b"").await.unwrap();
        house.make("large", &pattern(2, 4 * MIB)).await.unwrap();
        let fh = house.open("edited", libc::O_RDWR).await.unwrap();
        house.write(fh, 1000, b"changed").await.unwrap();
        house.fs.fsync(fh).await.unwrap();
        house.write(fh, 2000, b"after the fsync").await.unwrap();
        assert_eq!(fake.keys(), ["edited"]);
    });
    assert_eq!(fake.keys(), ["edited"]);
    next(staging.path(), &fake, async |house| {
        assert_eq!(fake.keys(), ["a/", "a/b/", "a/b/new", "a/empty", "edited", "large"]);
        assert_eq!(house.cat("a/b/new").await.unwrap(), b"new");
        assert_eq!(house.cat("large").await.unwrap(), pattern(2, 4 * MIB));
        let mut edited = pattern(1, MIB);
        edited[1000..1007].copy_from_slice(b"changed");
        assert_eq!(house.cat("edited").await.unwrap(), edited, "what was not acknowledged is not in it");
        assert_eq!(kept(house), [""; 0]);
    });
}

#[test]
fn a_rename_of_what_was_acknowledged_is_seen_under_the_new_name_alone() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    fake.put("config", "old");
    killed(staging.path(), &fake, async |house| {
        house.make("config.tmp", b"new").await.unwrap();
        house.rename("config.tmp", "config", 0).await.unwrap();
        house.make("a", b"a").await.unwrap();
        house.make("b", b"b").await.unwrap();
        house.rename("a", "b", 0).await.unwrap();
        assert_eq!(house.cat("config").await.unwrap(), b"new");
        assert_eq!(house.names("").await, ["b", "config"]);
    });
    next(staging.path(), &fake, async |_| {
        assert_eq!(fake.keys(), ["b", "config"]);
        assert_eq!((fake.data("config"), fake.data("b")), ("new".into(), "a".into()));
        assert_eq!(fake.calls().iter().filter(|call| call.call.key().starts_with("config.tmp")).count(), 0);
    });
}

#[test]
fn what_was_removed_again_never_comes_to_be() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    killed(staging.path(), &fake, async |house| {
        house.make("file", b"data").await.unwrap();
        house.unlink("file").await.unwrap();
        house.make("again", b"first").await.unwrap();
        house.unlink("again").await.unwrap();
        house.make("again", b"second").await.unwrap();
        assert_eq!(house.names("").await, ["again"]);
    });
    next(staging.path(), &fake, async |_| assert_eq!(fake.keys(), ["again"]));
    assert_eq!(fake.data("again"), "second");
}

#[test]
fn a_file_that_is_written_anew_is_what_was_acknowledged_until_it_is_closed_again() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    killed(staging.path(), &fake, async |house| {
        for name in ["cut", "patched", "longer"] {
            house.make(name, b"whole and acknowledged").await.unwrap();
        }
        let cut = house.open("cut", libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
        house.write(cut, 0, b"half").await.unwrap();
        let patched = house.open("patched", libc::O_RDWR).await.unwrap();
        house.write(patched, 0, b"WHOLE").await.unwrap();
        assert_eq!(house.read(patched, 0, 100).await.unwrap(), b"WHOLE and acknowledged");
        let longer = house.open("longer", libc::O_WRONLY).await.unwrap();
        house.fs.write(longer, 0, b", and more", true).await.unwrap();
    });
    next(staging.path(), &fake, async |house| {
        for name in ["cut", "patched", "longer"] {
            assert_eq!(house.cat(name).await.unwrap(), b"whole and acknowledged", "{name}");
        }
    });
}

#[test]
fn an_edit_of_what_another_host_changed_is_kept_and_overwrites_nothing() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    fake.put("shared", "base");
    killed(staging.path(), &fake, async |house| {
        let fh = house.open("shared", libc::O_RDWR).await.unwrap();
        house.write(fh, 0, b"ours").await.unwrap();
        house.close(fh).await.unwrap();
        house.make("sent", b"just before it died").await.unwrap();
    });
    fake.put("shared", "theirs");
    // The PUT was carried out, and nobody was left to hear of it.
    fake.put("sent", "just before it died");
    next(staging.path(), &fake, async |house| {
        assert_eq!(fake.data("shared"), "theirs");
        let items = house.journal.kept().unwrap();
        assert_eq!(items.len(), 1, "{items:?}");
        assert_eq!((items[0].kept.key.as_str(), &items[0].kept.owner), ("shared", &None));
        assert!(items[0].kept.reason.contains("changed"), "{}", items[0].kept.reason);
    });
}

#[test]
fn removals_that_were_acknowledged_are_carried_out_by_the_next_mount_and_nothing_newer_goes() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    fake.put_many(["dir/a", "dir/b", "dir/c", "gone/x", "open"], "data");
    killed(staging.path(), &fake, async |house| {
        let fh = house.open("open", libc::O_RDONLY).await.unwrap();
        house.unlink("open").await.unwrap();
        assert_eq!(house.read(fh, 0, 10).await.unwrap(), b"data");
        house.faults.plan(On::op("DeleteObjects"), Fault::Hang);
        house.faults.plan(On::op("DeleteObject"), Fault::Hang);
        let acknowledged = async {
            while house.fs.held().removals == 0 {
                tokio::task::yield_now().await;
            }
            for name in ["dir/b", "dir/c", "gone/x"] {
                house.unlink(name).await.unwrap();
            }
        };
        tokio::select! {
            done = house.unlink("dir/a") => panic!("the first waits for S3: {done:?}"),
            () = acknowledged => {}
        }
    });
    assert!(fake.keys().contains(&"dir/b".into()), "{:?}", fake.keys());
    fake.put("dir/c", "another host's");
    next(staging.path(), &fake, async |_| {
        assert_eq!(fake.keys(), ["dir/a", "dir/c", "gone/"], "what nobody was told of, and what is new");
    });
}

#[tokio::test]
async fn what_s3_refuses_is_kept_and_told_by_the_next_fsync_of_the_root() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake);
    house.faults.plan(On::op("PutObject").key("refused"), DENIED);
    house.make("refused", b"bytes").await.unwrap();
    house.make("taken", b"bytes").await.unwrap();
    assert_eq!(errno(house.fsyncdir("").await), libc::EACCES);
    house.fsyncdir("").await.unwrap(); // it is told once
    assert_eq!(fake.keys(), ["taken"]);
    assert_eq!(house.names("").await, ["taken"]);
    let items = house.journal.kept().unwrap();
    assert_eq!((items.len(), &items[0].kept.owner), (1, &None));
    assert!(items[0].kept.reason.contains("AccessDenied"), "{}", items[0].kept.reason);
    assert_eq!(&std::fs::read(items[0].bytes()).unwrap()[..5], b"bytes");
}

#[tokio::test]
async fn what_s3_is_not_to_be_reached_for_is_tried_until_it_is() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake);
    house.faults.set_down(true);
    house.make("file", b"data").await.unwrap();
    assert_eq!(errno(house.fsyncdir("").await), libc::EIO);
    assert_eq!((house.fs.held().acknowledged, kept(&house)), (1, vec!["file".into()]));
    house.faults.set_down(false);
    house.sync_root().await;
    assert_eq!(fake.data("file"), "data");
}

#[tokio::test]
async fn a_mount_that_ends_while_s3_is_gone_leaves_the_rest_to_the_next() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    {
        let house = house_in(staging.path(), &fake);
        house.make("file", b"data").await.unwrap();
        house.fsyncdir("").await.unwrap();
        house.faults.set_down(true);
        for n in 0..200 {
            house.make(&format!("file {n}"), b"data").await.unwrap();
        }
        house.fs.leave();
        assert_eq!(house.fs.flush_all().await, [""; 0], "none of them is lost");
        assert_eq!(house.fs.acknowledged(), 200);
    }
    let house = house_in(staging.path(), &fake);
    house.fs.take_over().await.unwrap();
    assert_eq!((fake.keys().len(), kept(&house).len()), (201, 0));
}

#[tokio::test]
async fn a_full_staging_directory_makes_closes_wait_for_s3() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = House::on(fake.clone(), |config| {
        config.staging.dir = staging.path().into();
        config.staging.bytes_max = 64 << 20;
        config.write_back = true;
    });
    let slow = house.faults.plan(On::op("PutObject"), Fault::Delay(Duration::from_millis(200)));
    for n in 0..40 {
        house.make(&format!("{n}"), &pattern(n, 4 * MIB)).await.unwrap();
        assert!(house.fs.held().staged_bytes <= 64 << 20);
    }
    assert!(slow.fired() >= 24, "what found no room waited for the others: {}", slow.fired());
    house.sync_root().await;
    assert_eq!(fake.keys().len(), 40);
}

#[test]
fn attributes_set_after_the_close_travel_with_the_file() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let house = runtime.block_on(async {
        let house = House::on(fake.clone(), |config| {
            config.staging.dir = staging.path().into();
            config.write_back = true;
            config.attributes = AttributesConfig::Metadata;
            config.s3.request_timeout = Duration::from_secs(1); // what is on its way is not changed before
        });
        house.faults.plan(On::op("PutObject"), Fault::Hang);
        house.make("file", b"data").await.unwrap();
        let attr = house.enter("file").await.unwrap();
        let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        house.fs.setattr(attr.ino, set).await.unwrap();
        house.fs.setxattr(attr.ino, OsStr::new("s3.tags"), b"by=me", 0).await.unwrap();
        house
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(house);
    next(staging.path(), &fake, async |_| {
        let object = fake.object("file").expect("it was sent");
        assert_eq!(object.tags, "by=me");
        let mode = object.metadata.get("mode").expect("a mode");
        assert_eq!(*mode, (libc::S_IFREG | 0o600).to_string());
        assert_eq!(object.data, "data");
    });
}

#[tokio::test]
async fn what_is_written_renamed_and_changed_right_after_is_sent_once() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake);
    fake.put("config", "old");
    house.mkdir("dir").await.unwrap();
    for n in 0..10 {
        house.make("config.tmp", format!("number {n}").as_bytes()).await.unwrap();
        house.rename("config.tmp", "config", 0).await.unwrap();
        house.make("gone", b"data").await.unwrap();
        house.unlink("gone").await.unwrap();
    }
    house.sync_root().await;
    assert_eq!((fake.keys(), fake.data("config")), (vec!["config".into(), "dir/".into()], "number 9".into()));
    let calls = fake.calls();
    let sent: Vec<_> = calls.iter().map(|call| call.call.op).collect();
    let puts = sent.iter().filter(|op| **op == "PutObject").count();
    assert!(puts <= 4 && !sent.contains(&"CopyObject"), "{sent:?}");
}

/// The mount is killed when S3 has carried out this request and has not answered it.
async fn killed_at(house: &House, op: &'static str, doing: impl Future<Output = Result<(), Error>>) {
    house.faults.plan(On::op(op), Fault::AnswerHangs);
    let carried_out = async {
        while house.fake.count(op) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await; // it was heard of before it is carried out
    };
    tokio::select! {
        done = doing => panic!("it was answered: {done:?}"),
        () = carried_out => {}
    }
}

async fn edit(house: &House, name: &str, flags: i32) {
    let fh = house.open(name, libc::O_WRONLY | flags).await.unwrap();
    house.write(fh, 0, b"edited").await.unwrap();
    house.close(fh).await.unwrap();
}

#[test]
fn a_rename_over_an_acknowledged_edit_is_finished_by_the_next_mount_and_the_edit_goes() {
    // How "to" came to be what it is replaced as; flags of its opening, none: it is new.
    for flags in [Some(0), Some(libc::O_TRUNC), None] {
        for at in ["CopyObject", "DeleteObject"] {
            let staging = tempfile::tempdir().unwrap();
            let fake = FakeS3::new();
            fake.put("from", "moves");
            killed(staging.path(), &fake, async |house| {
                match flags {
                    Some(flags) => {
                        fake.put("to", "what was there");
                        edit(house, "to", flags).await;
                    }
                    None => house.make("to", b"new").await.unwrap(),
                }
                assert_eq!(kept(house), ["to"]);
                killed_at(house, at, house.rename("from", "to", 0)).await;
            });
            next(staging.path(), &fake, async |house| {
                assert_eq!(fake.keys(), ["to"], "{flags:?} {at}");
                assert_eq!(fake.data("to"), "moves", "{flags:?} {at}");
                assert_eq!(kept(house), [""; 0], "{flags:?} {at}");
            });
        }
    }
}

#[test]
fn a_rename_that_never_began_leaves_what_was_acknowledged_at_both_names() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    fake.put("from", "stays");
    fake.put("to", "what was there");
    killed(staging.path(), &fake, async |house| {
        edit(house, "to", 0).await;
        house.faults.plan(On::op("CopyObject"), Fault::Hang);
        let renamed = tokio::time::timeout(Duration::from_millis(200), house.rename("from", "to", 0)).await;
        assert!(renamed.is_err(), "it hangs");
    });
    next(staging.path(), &fake, async |_| {
        assert_eq!(fake.keys(), ["from", "to"]);
        assert_eq!((fake.data("from"), fake.data("to")), ("stays".into(), "editedas there".into()));
    });
}

#[test]
fn a_removal_of_an_acknowledged_edit_that_a_crash_interrupts_leaves_nothing_of_it() {
    for flags in [0, libc::O_TRUNC] {
        let staging = tempfile::tempdir().unwrap();
        let fake = FakeS3::new();
        fake.put("file", "what was there");
        killed(staging.path(), &fake, async |house| {
            edit(house, "file", flags).await;
            killed_at(house, "DeleteObject", house.unlink("file")).await;
        });
        next(staging.path(), &fake, async |house| {
            assert_eq!(fake.keys(), [""; 0], "{flags}");
            assert_eq!(kept(house), [""; 0], "{flags}");
        });
    }
}

#[test]
fn what_was_acknowledged_of_a_file_that_is_being_changed_moves_along() {
    for (dir, at) in [(false, "DeleteObject"), (true, "DeleteObjects")] {
        let staging = tempfile::tempdir().unwrap();
        let fake = FakeS3::new();
        fake.put("a/file", "what was there");
        fake.put_many(["a/", "b/"], "");
        killed(staging.path(), &fake, async |house| {
            edit(house, "a/file", 0).await;
            let fh = house.open("a/file", libc::O_WRONLY).await.unwrap();
            house.write(fh, 0, b"half").await.unwrap();
            match dir {
                false => killed_at(house, at, house.rename("a/file", "b/file", 0)).await,
                true => killed_at(house, at, house.rename("a", "b", 0)).await,
            }
        });
        next(staging.path(), &fake, async |house| {
            assert_eq!(house.cat("b/file").await.unwrap(), b"editedas there", "{at}");
            assert!(fake.object("a/file").is_none(), "{at}");
            assert_eq!(kept(house), [""; 0], "{at}");
        });
    }
}

#[tokio::test]
async fn a_new_file_that_s3_took_without_an_answer_is_removed_or_renamed_there_as_well() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = house_in(staging.path(), &fake);
    for (name, renamed) in [("removed", None), ("renamed", Some("new name"))] {
        let lost = house.faults.plan(On::op("PutObject"), Fault::AnswerLost);
        house.make(name, b"data").await.unwrap();
        assert!(house.fsyncdir("").await.is_err(), "it cannot be known");
        assert!(fake.object(name).is_some());
        lost.lift();
        match renamed {
            None => house.unlink(name).await.unwrap(),
            Some(renamed) => house.rename(name, renamed, 0).await.unwrap(),
        }
    }
    house.sync_root().await;
    assert_eq!(fake.keys(), ["new name"]);
    assert_eq!(house.names("").await, ["new name"]);
}

#[tokio::test]
async fn nobody_is_asked_what_is_in_a_directory_that_s3_does_not_know_yet() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = House::on(fake.clone(), |config| {
        config.staging.dir = staging.path().into();
        (config.write_back, config.metadata_ttl) = (true, Duration::ZERO);
    });
    let hangs = house.faults.plan(On::op("PutObject"), Fault::Hang);
    house.mkdir("dir").await.unwrap();
    let dir = house.enter("dir").await.unwrap();
    fake.forget_calls();
    for n in 0..3 {
        house.fs.mkdir(dir.ino, format!("d{n}").as_ref(), MAKER).await.unwrap();
        house.make(&format!("dir/f{n}"), b"").await.unwrap();
    }
    assert_eq!(fake.calls().len(), 0);
    hangs.lift();
    house.sync_root().await;
    fake.put("dir/theirs", "from another host");
    assert_eq!(house.cat("dir/theirs").await.unwrap(), b"from another host", "now they can know it");
}
