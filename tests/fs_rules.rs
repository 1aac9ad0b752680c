//! Rules of docs/SEMANTICS.md that show without a mount: directories that stay, exclusive creation,
//! versions that are never mixed, what is refused.

mod support;

use std::time::Duration;

use pailfs::config::{AttributesConfig, Config};
use pailfs::namespace::Kind;
use support::bytes::{assert_same_bytes, pattern};
use support::house::errno;
use support::{FakeS3, Fault, House, On};

const MIB: usize = 1 << 20;

/// What another host changes is seen at once.
fn no_ttl(config: &mut Config) {
    config.metadata_ttl = Duration::ZERO;
}

#[tokio::test]
async fn a_directory_does_not_vanish_with_its_last_entry() {
    for ttl in [0, 3600] {
        let house = House::with(|config| config.metadata_ttl = Duration::from_secs(ttl));
        house.fake.put("a/b/file", "x");
        house.fake.put("m/file", "x");
        house.unlink("a/b/file").await.unwrap();
        assert_eq!(house.keys_settled().await, ["a/b/", "m/file"]);
        house.rmdir("a/b").await.unwrap();
        assert_eq!(house.keys_settled().await, ["a/", "m/file"]);
        house.rename("m/file", "a/file", 0).await.unwrap();
        assert_eq!(house.fake.keys(), ["a/", "a/file", "m/"]);
        assert_eq!(house.names("").await, ["a", "m"]);
        assert_eq!(house.names("m").await, [""; 0]);
    }
}

#[tokio::test]
async fn what_was_written_here_shows_when_though_s3_got_it_later() {
    let house = House::with(no_ttl);
    let ahead = |secs| house.fake.change(|server| server.clock_ahead = Duration::from_secs(secs));
    let shown = async |path: &str| {
        let attr = house.enter(path).await.unwrap();
        house.leave(attr.ino);
        assert_eq!([attr.atime, attr.ctime], [attr.mtime; 2]);
        attr.mtime
    };
    ahead(10);
    house.make("file", b"data").await.unwrap();
    let written = shown("file").await;
    assert!(written.elapsed().unwrap() < Duration::from_secs(60));
    for plus in [true, false] {
        house.list("", plus, || 10).await.unwrap();
        assert_eq!(shown("file").await, written);
        house.refresh("file").await;
    }
    ahead(200);
    house.fake.put("file", "data");
    let touched = shown("file").await;
    assert!(touched > written + Duration::from_secs(199), "another host did that");
    ahead(10);
    let fh = house.open("file", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"more").await.unwrap();
    house.close(fh).await.unwrap();
    let written = shown("file").await;
    assert!(written < touched && shown("file").await == written);
    house.rename("file", "another", 0).await.unwrap();
    let renamed = shown("another").await;
    assert!(written < renamed && renamed < touched && shown("another").await == renamed, "as in S3");
    house.make("unseen", b"data").await.unwrap();
    ahead(300);
    house.fake.put("unseen", "data");
    assert!(shown("unseen").await > touched, "another host did that, too");
}

#[tokio::test]
async fn a_file_beside_a_directory_of_its_name_is_hidden() {
    let house = House::with(no_ttl);
    house.fake.put("a", "hidden");
    house.fake.put("a/x", "shown");
    assert_eq!(house.names("").await, ["a"]);
    assert_eq!(house.names("a").await, ["x"]);
    assert_eq!(errno(house.unlink("a").await), libc::EISDIR);
    assert_eq!(house.fake.data("a"), "hidden");
}

#[tokio::test]
async fn other_programs_objects_for_directories_are_files() {
    for attributes in [AttributesConfig::None, AttributesConfig::Metadata] {
        let house = House::with(|config| config.attributes = attributes);
        house.fake.put_with("a", "", &[("content-type", "application/x-directory")]);
        house.fake.put_with("b", "", &[("content-type", "httpd/unix-directory")]);
        house.fake.put_with("c", "", &[("x-amz-meta-mode", "16877")]);
        house.fake.put("d_$folder$", "");
        house.fake.put("e_$folder$", "");
        house.fake.put("e/file", "x");
        for (name, kind) in [
            ("a", Kind::File),
            ("b", Kind::File),
            ("c", Kind::File),
            ("d_$folder$", Kind::File),
            ("e", Kind::Directory),
            ("e_$folder$", Kind::File),
        ] {
            let attr = house.enter(name).await.unwrap();
            assert_eq!(attr.kind, kind, "{name}");
            house.leave(attr.ino);
        }
        assert_eq!(house.names("").await, ["a", "b", "c", "d_$folder$", "e", "e_$folder$"]);
    }
}

#[tokio::test]
async fn unlink_of_a_file_being_written_publishes_nothing() {
    let house = House::new();
    for (name, len) in [("small", 1000), ("large", 12 * MIB)] {
        let data = pattern(1, len);
        let fh = house.create(name, libc::O_RDWR).await.unwrap();
        house.write(fh, 0, &data).await.unwrap();
        house.unlink(name).await.unwrap();
        assert_eq!(house.names("").await, [""; 0]);
        house.write(fh, len as u64, b"more").await.unwrap();
        assert_eq!(house.read(fh, len as u64, 10).await.unwrap(), b"more", "its handle goes on");
        house.close(fh).await.unwrap();
        assert_eq!(house.fake.keys(), [""; 0], "{name}");
        assert_eq!(house.fake.uploads(), [], "{name}");
    }
}

#[tokio::test]
async fn a_reader_that_closes_publishes_nothing() {
    let house = House::new();
    let fh = house.create("log", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"half a ").await.unwrap();
    assert_eq!(house.cat("log").await.unwrap(), b"half a ", "seen on the same host");
    assert_eq!(house.fake.keys(), [""; 0], "and nowhere else");
    house.write(fh, 7, b"line").await.unwrap();
    house.close(fh).await.unwrap();
    assert_eq!(house.fake.data("log"), "half a line");
}

#[tokio::test]
async fn fsync_publishes_through_any_handle() {
    let house = House::new();
    let fh = house.create("log", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"one").await.unwrap();
    let other = house.open("log", libc::O_RDONLY).await.unwrap();
    house.fs.fsync(other).await.unwrap();
    assert_eq!(house.fake.data("log"), "one");
    house.close(other).await.unwrap();
    house.close(fh).await.unwrap();
}

#[tokio::test]
async fn a_renamed_open_file_goes_on_under_its_new_name() {
    for len in [10, 6 * MIB] {
        let house = House::new();
        let data = pattern(2, len);
        let fh = house.create("log", libc::O_WRONLY).await.unwrap();
        house.write(fh, 0, &data).await.unwrap();
        house.fs.flush(fh).await.unwrap();
        house.rename("log", "log.1", 0).await.unwrap();
        house.write(fh, len as u64, b" and more").await.unwrap();
        house.close(fh).await.unwrap();
        assert_eq!(house.fake.keys(), ["log.1"]);
        assert_same_bytes(&house.fake.data("log.1"), &[&data[..], b" and more"].concat(), "log.1");
    }
}

#[tokio::test]
async fn a_replaced_open_file_does_not_come_back() {
    let house = House::new();
    house.fake.put("new", "new");
    let fh = house.create("target", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"old").await.unwrap();
    house.fs.flush(fh).await.unwrap();
    house.rename("new", "target", 0).await.unwrap();
    house.write(fh, 3, b" goes on").await.unwrap();
    house.close(fh).await.unwrap();
    assert_eq!((house.fake.keys(), house.fake.data("target")), (vec!["target".to_string()], "new".into()));
    assert_eq!(house.cat("target").await.unwrap(), b"new");
}

#[tokio::test]
async fn o_excl_that_lost_the_race_is_told_at_flush() {
    let house = House::new();
    let fh = house.create("lock", libc::O_WRONLY | libc::O_EXCL).await.unwrap();
    house.write(fh, 0, b"mine").await.unwrap();
    house.fake.put("lock", "theirs");
    assert_eq!(errno(house.fs.flush(fh).await), libc::EEXIST);
    assert_eq!(errno(house.fs.flush(fh).await), libc::EEXIST, "what failed once, fails for good");
    house.fs.release(fh).await;
    assert_eq!(house.fake.data("lock"), "theirs");
    assert_eq!(house.cat("lock").await.unwrap(), b"theirs", "the mount shows who won");
}

#[tokio::test]
async fn who_cuts_a_file_that_another_host_made_replaces_it() {
    let house = House::new();
    let fh = house.create("file", libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
    house.write(fh, 0, b"mine").await.unwrap();
    house.fake.put("file", "theirs");
    house.close(fh).await.unwrap();
    assert_eq!(house.fake.data("file"), "mine");
}

#[tokio::test]
async fn who_goes_on_from_no_file_does_not_replace_one() {
    for len in [4, 12 * MIB] {
        let house = House::new();
        let fh = house.create("log", libc::O_WRONLY).await.unwrap();
        house.write(fh, 0, &pattern(1, len)).await.unwrap();
        house.fake.put("log", "theirs");
        assert_eq!(errno(house.fs.flush(fh).await), libc::ESTALE, "{len}");
        house.fs.release(fh).await;
        assert_eq!(house.fake.data("log"), "theirs", "{len}");
        assert_eq!(house.cat("log").await.unwrap(), b"theirs", "{len}");
        let kept = house.journal.kept().unwrap();
        assert_eq!((kept.len(), kept[0].kept.size), (1, len as u64), "what was written is kept");
    }
}

#[tokio::test]
async fn an_append_that_another_host_overtook_is_estale() {
    for len in [10, 6 * MIB] {
        let house = House::new();
        house.fake.put("log", pattern(3, len));
        let fh = house.open("log", libc::O_WRONLY).await.unwrap();
        house.write(fh, len as u64, b"mine").await.unwrap();
        house.fake.put("log", "theirs");
        assert_eq!(errno(house.fs.flush(fh).await), libc::ESTALE, "{len}");
        house.fs.release(fh).await;
        assert_eq!(house.fake.data("log"), "theirs", "{len}");
        assert_eq!(house.fake.uploads(), [], "{len}");
        assert_eq!(house.cat("log").await.unwrap(), b"theirs", "{len}");
    }
}

#[tokio::test]
async fn an_object_replaced_before_the_first_byte_is_read_anew() {
    let house = House::new();
    house.fake.put("file", "old");
    assert_eq!(house.names("").await, ["file"]);
    let fh = house.open("file", libc::O_RDONLY).await.unwrap();
    house.fake.put("file", "new and longer");
    assert_eq!(house.read(fh, 0, 100).await.unwrap(), b"new and longer");
    house.close(fh).await.unwrap();
}

#[tokio::test]
async fn an_object_replaced_in_the_middle_of_a_read_is_estale() {
    // Larger than what is fetched ahead.
    let old = pattern(4, 48 * MIB);
    let house = House::new();
    house.fake.put("file", old.clone());
    let fh = house.open("file", libc::O_RDONLY).await.unwrap();
    assert_same_bytes(&house.read(fh, 0, 1000).await.unwrap(), &old[..1000], "the beginning");
    house.fake.put("file", pattern(5, 48 * MIB));
    let mut at = 1000;
    let refused = loop {
        assert!(at < old.len(), "it read to the end");
        match house.read(fh, at as u64, MIB).await {
            Ok(got) => {
                assert_same_bytes(&got, &old[at..old.len().min(at + MIB)], "never the new version");
                at += got.len();
            }
            Err(e) => break e.errno(),
        }
    };
    assert_eq!(refused, libc::ESTALE);
    house.close(fh).await.unwrap();
    assert_same_bytes(&house.cat("file").await.unwrap(), &house.fake.data("file"), "opened anew");
}

#[tokio::test]
async fn an_upload_that_failed_is_aborted_and_told_at_close() {
    let house = House::new();
    let denied = Fault::Error { status: 403, code: "AccessDenied" };
    let line = house.faults.plan(On::op("UploadPart").nth(2), denied);
    let fh = house.create("large", libc::O_WRONLY).await.unwrap();
    let mut told = None;
    for (n, piece) in pattern(6, 20 * MIB).chunks(MIB).enumerate() {
        if let Err(e) = house.write(fh, (n * MIB) as u64, piece).await {
            told = Some(e.errno());
            break;
        }
    }
    assert!(told.is_none_or(|errno| errno == libc::EACCES), "{told:?}");
    assert_eq!(errno(house.fs.flush(fh).await), libc::EACCES);
    assert!(line.fired() > 0);
    house.fs.release(fh).await;
    assert_eq!((house.fake.uploads(), house.fake.keys()), (Vec::new(), Vec::new()));
    assert_eq!(house.names("").await, [""; 0]);
    let given_back = async {
        while house.fs.held().object_bytes != 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), given_back).await.expect("memory is given back");
}

#[tokio::test]
async fn a_read_only_mount_refuses_every_change() {
    let fake = FakeS3::new();
    fake.put("d/file", "x");
    let house = House::on(fake, |config| config.read_only = true);
    assert_eq!(errno(house.open("d/file", libc::O_WRONLY).await), libc::EROFS);
    assert_eq!(errno(house.create("new", libc::O_WRONLY).await), libc::EROFS);
    assert_eq!(errno(house.unlink("d/file").await), libc::EROFS);
    assert_eq!(errno(house.mkdir("new").await), libc::EROFS);
    assert_eq!(errno(house.rmdir("d").await), libc::EROFS);
    assert_eq!(errno(house.rename("d/file", "e", 0).await), libc::EROFS);
    assert_eq!(errno(house.truncate("d/file", 0).await), libc::EROFS);
    assert_eq!(house.cat("d/file").await.unwrap(), b"x");
    assert_eq!(house.fake.keys(), ["d/file"]);
}

#[tokio::test]
async fn an_archived_object_is_refused_at_once() {
    for class in ["GLACIER", "DEEP_ARCHIVE"] {
        let house = House::new();
        let headers = [("x-amz-storage-class", class)];
        let restored = [("x-amz-storage-class", class), ("x-amz-restore", "ongoing-request=\"false\"")];
        house.fake.put_with("old", pattern(1, MIB), &headers);
        house.fake.put_with("large", pattern(1, 10 * MIB), &headers);
        house.fake.put_with("back", "bytes", &restored);
        assert_eq!(house.enter("old").await.unwrap().size, MIB as u64, "its attributes are there");
        house.fake.forget_calls();
        let error = house.cat("old").await.unwrap_err();
        assert_eq!(error.errno(), libc::EACCES);
        assert!(error.to_string().contains("archived and must be restored"), "{error}");
        assert_eq!(house.fake.count("GetObject"), 1, "{class}");
        // Neither can it be copied, so it keeps its name.
        assert_eq!(errno(house.rename("old", "new", 0).await), libc::EACCES);
        assert_eq!(house.fake.count("CopyObject"), 1);
        assert_eq!(house.names("").await, ["back", "large", "old"]);

        // Of a large one what was fetched ahead is refused as well: nothing is asked for twice.
        house.fake.forget_calls();
        assert_eq!(errno(house.cat("large").await), libc::EACCES);
        let gets = house.fake.calls().into_iter().filter(|c| c.call.op == "GetObject");
        let mut ranges: Vec<String> = gets.map(|c| format!("{:?}", c.headers["range"])).collect();
        let count = ranges.len();
        ranges.sort();
        ranges.dedup();
        assert_eq!((ranges.len(), count <= 2), (count, true), "{ranges:?}");

        assert_eq!(house.cat("back").await.unwrap(), b"bytes");
    }
}
