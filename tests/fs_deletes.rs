//! Removing many names: what waits for S3, what is sent together, what comes back, what it costs.
//!
//! The clock is paused: it jumps to the next timer whenever all wait, so times here are those of the requests alone.

mod support;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use pailfs::config::Config;
use pailfs::namespace::Kind;
use pailfs::write::deletes::PENDING_KEYS_MAX;
use support::house::errno;
use support::{FakeS3, Fault, House, On};
use tokio::task::yield_now;
use tokio::time::Instant;

const DENIED: Fault = Fault::Error { status: 403, code: "AccessDenied" };

/// What another host changes is seen at once.
fn no_ttl(config: &mut Config) {
    config.metadata_ttl = Duration::ZERO;
}

/// More time than may lie between two removals of one burst.
async fn pause() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// `d/0`, `d/1`, …
fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("d/{n}")).collect()
}

/// As a program does, one after the other.
async fn remove_each(house: &House, paths: &[String]) {
    for path in paths {
        house.unlink(path).await.unwrap_or_else(|e| panic!("{path}: {e}"));
        yield_now().await;
    }
}

/// `rm -r`.
async fn remove_tree(house: &House, path: &str) {
    for entry in house.list(path, true, || 100).await.unwrap() {
        let below = format!("{path}/{}", entry.name);
        match entry.kind {
            Kind::Directory => Box::pin(remove_tree(house, &below)).await,
            _ => house.unlink(&below).await.unwrap(),
        }
        yield_now().await;
    }
    house.rmdir(path).await.unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// What S3 takes: 40 ms a LIST, 30 ms anything else.
fn with_latency(house: &House) {
    house.faults.plan(On::op("ListObjectsV2"), Fault::Delay(Duration::from_millis(10)));
    house.faults.plan(On::any(), Fault::Delay(Duration::from_millis(30)));
}

#[tokio::test(start_paused = true)]
async fn removing_a_directory_of_200_files_costs_a_few_requests() {
    for marker in [false, true] {
        let house = House::new();
        house.fake.put_many(names(200), "x");
        if marker {
            house.fake.put("d/", "");
        }
        with_latency(&house);
        let begun = Instant::now();
        remove_tree(&house, "d").await;
        assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
        assert_eq!(house.names("").await, [""; 0]);
        assert_eq!(house.keys_settled().await, [""; 0]);
        let counts = house.fake.counts();
        let count = |op| counts.get(op).copied().unwrap_or(0);
        assert!(count("DeleteObject") + count("DeleteObjects") <= 5, "{counts:?}");
        // To find the directory, to list it, before its first and its last entry go, the empty root.
        assert!(count("ListObjectsV2") <= 5, "{counts:?}");
        assert_eq!(count("PutObject"), 0, "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn removing_10_000_files_takes_few_round_trips() {
    let house = House::new();
    house.fake.put_many(names(10_000), "x");
    with_latency(&house);
    let begun = Instant::now();
    remove_tree(&house, "d").await;
    assert_eq!(house.keys_settled().await, [""; 0]);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(house.fake.count("DeleteObjects") <= 15, "{:?}", house.fake.counts());
    assert_eq!(house.fake.count("PutObject"), 0, "{:?}", house.fake.counts());
    assert_eq!(house.fs.held().removals, 0);
}

#[tokio::test(start_paused = true)]
async fn removing_a_tree_leaves_no_marker_behind() {
    let house = House::with(no_ttl);
    for key in ["t/a/1", "t/a/2", "t/a/b/c/1", "t/a/b/c/2", "t/m/", "t/m/1", "t/z", "u/v/1"] {
        house.fake.put(key, "x");
    }
    remove_tree(&house, "t").await;
    remove_tree(&house, "u/v").await;
    assert_eq!(house.names("").await, ["u"]);
    assert_eq!(house.keys_settled().await, ["u/"], "only what stays has its marker");
    assert_eq!(house.fake.count("PutObject"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_directory_stays_when_all_within_is_removed() {
    let house = House::new();
    house.fake.put_many(names(50), "x");
    assert_eq!(house.names("d").await.len(), 50);
    remove_each(&house, &names(50)).await;
    assert_eq!(house.names("").await, ["d"]);
    pause().await;
    assert_eq!(house.fake.keys(), ["d/"], "sent without being asked for");
    assert_eq!((house.fake.count("PutObject"), house.fs.held().removals), (1, 0));
    assert_eq!(house.names("d").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_first_removal_and_each_after_a_pause_hear_what_s3_says() {
    let house = House::new();
    house.fake.put_many(names(3), "x");
    house.fake.make_undeletable("d/0");
    assert_eq!(errno(house.unlink("d/0").await), libc::EACCES);
    assert_eq!(house.cat("d/0").await.unwrap(), b"x");
    pause().await;
    house.unlink("d/1").await.unwrap();
    assert_eq!(house.fake.keys(), ["d/0", "d/2"]);
    pause().await;
    house.unlink("d/2").await.unwrap();
    assert_eq!(house.fake.keys(), ["d/0"]);
    house.fsyncdir("d").await.expect("the program has been told");
}

#[tokio::test(start_paused = true)]
async fn what_s3_refuses_within_a_burst_comes_back_and_fails_fsync() {
    for refused in ["d/2", "d/4"] {
        let house = House::new();
        house.fake.put_many(names(5), "x");
        house.fake.make_undeletable(refused);
        remove_each(&house, &names(5)).await;
        assert_eq!(errno(house.fsyncdir("d").await), libc::EACCES, "{refused}");
        house.fsyncdir("d").await.expect("told once");
        assert_eq!(house.cat(refused).await.unwrap(), b"x");
        assert_eq!(house.names("d").await, [&refused[2..]]);
        assert_eq!(errno(house.rmdir("d").await), libc::ENOTEMPTY, "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn rmdir_waits_for_what_was_removed_below() {
    let house = House::new();
    house.fake.put_many(names(5), "x");
    house.fake.make_undeletable("d/2");
    house.faults.plan(On::op("DeleteObjects"), Fault::Delay(Duration::from_secs(5)));
    remove_each(&house, &names(5)).await;
    assert_eq!(errno(house.rmdir("d").await), libc::ENOTEMPTY);
    assert_eq!(house.names("d").await, ["2"]);
    assert_eq!(errno(house.fsyncdir("d").await), libc::EACCES);
}

#[tokio::test(start_paused = true)]
async fn a_directory_whose_last_entry_s3_refuses_comes_back_with_it() {
    let house = House::new();
    house.fake.put_many(names(3), "x");
    house.fake.make_undeletable("d/2");
    remove_each(&house, &names(3)).await;
    house.rmdir("d").await.unwrap();
    assert_eq!(errno(house.fsyncdir("").await), libc::EACCES);
    assert_eq!(house.names("").await, ["d"]);
    assert_eq!(house.names("d").await, ["2"]);
    assert_eq!(house.cat("d/2").await.unwrap(), b"x");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_as_a_whole_comes_back_as_a_whole() {
    let house = House::new();
    house.fake.put_many(names(20), "x");
    let line = house.faults.plan(On::op("DeleteObjects"), DENIED);
    house.fake.put("d/", "");
    with_latency(&house);
    assert_eq!(house.names("d").await.len(), 20);
    remove_each(&house, &names(20)).await;
    assert_eq!(errno(house.fsyncdir("d").await), libc::EACCES);
    assert!(line.fired() > 0);
    let mut left: Vec<String> = house.names("d").await.iter().map(|name| format!("d/{name}")).collect();
    left.push("d/".into());
    left.sort();
    assert!(left.len() > 10, "{left:?}");
    assert_eq!(left, house.fake.keys());
}

#[tokio::test(start_paused = true)]
async fn what_is_back_makes_the_kernel_read_the_directory_again() {
    let house = House::with(|config| config.metadata_ttl = Duration::from_secs(3600));
    house.fake.put_many(names(20), "x");
    house.fake.put("d/", "");
    house.faults.plan(On::op("DeleteObjects"), DENIED);
    with_latency(&house);
    let dir = house.enter("d").await.unwrap();
    let keeps = || {
        let opened = house.fs.opendir(dir.ino).unwrap();
        house.fs.releasedir(opened.fh);
        opened.keep_cache
    };
    assert_eq!(house.names("d").await.len(), 20);
    remove_each(&house, &names(20)).await;
    assert!(house.list("d", true, || 7).await.unwrap().is_empty());
    assert!(keeps(), "a copy of what is hidden");
    assert_eq!(errno(house.fsyncdir("d").await), libc::EACCES);
    assert!(!keeps());
    house.leave(dir.ino);
}

#[tokio::test(start_paused = true)]
async fn a_marker_that_cannot_be_written_brings_the_last_entry_back() {
    let house = House::new();
    house.fake.put_many(names(5), "x");
    house.faults.plan(On::op("PutObject"), DENIED);
    remove_each(&house, &names(5)).await;
    assert_eq!(errno(house.fsyncdir("d").await), libc::EACCES);
    assert_eq!(house.names("d").await, ["4"]);
    assert_eq!(house.fake.keys(), ["d/4"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_answer_was_lost_is_sent_again() {
    let house = House::new();
    house.fake.put_many(names(20), "x");
    let line = house.faults.plan(On::op("DeleteObjects").once(), Fault::AnswerLost);
    with_latency(&house);
    assert_eq!(house.names("d").await.len(), 20);
    remove_each(&house, &names(20)).await;
    house.fsyncdir("d").await.unwrap();
    assert_eq!((house.fake.keys(), line.fired()), (vec!["d/".to_string()], 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_being_removed_is_in_no_view() {
    for ttl in [0, 3600] {
        let house = House::with(|config| config.metadata_ttl = Duration::from_secs(ttl));
        house.fake.put_many(names(20), "x");
        house.fake.put("d/stays", "x");
        for op in ["DeleteObjects", "DeleteObject"] {
            house.faults.plan(On::op(op).nth(2), Fault::Delay(Duration::from_secs(5)));
        }
        // Its first page was asked for before all that follows.
        let dir = house.enter("d").await.unwrap();
        let stream = house.fs.opendir(dir.ino).unwrap().fh;
        let (shown, cookie) = house.readdir(stream, 0, false, 3).await.unwrap();
        assert_eq!(shown[2].name, "0");
        remove_each(&house, &names(20)).await;
        assert!(house.fs.held().removals > 0 && house.fake.keys().len() > 1, "S3 has them still");
        let (rest, _) = house.readdir(stream, cookie, true, 100).await.unwrap();
        assert_eq!(rest.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["stays"]);
        house.fs.releasedir(stream);
        assert_eq!(house.names("d").await, ["stays"]);
        assert_eq!(errno(house.enter("d/7").await), libc::ENOENT);
        assert_eq!(errno(house.unlink("d/7").await), libc::ENOENT);
        house.leave(dir.ino);
        assert_eq!(house.keys_settled().await, ["d/stays"]);
        assert_eq!(house.names("d").await, ["stays"]);
    }
}

/// A page asked for while the removals were under way, and read when they have ended.
#[tokio::test(start_paused = true)]
async fn a_listing_from_before_the_answer_shows_nothing_that_went() {
    let house = House::with(|config| config.s3.list_page_keys = 5);
    house.fake.put_many(names(20), "x");
    let dir = house.enter("d").await.unwrap();
    let stream = house.fs.opendir(dir.ino).unwrap().fh;
    house.faults.plan(On::op("DeleteObjects"), Fault::Delay(Duration::from_secs(5)));
    remove_each(&house, &names(20)).await;
    let (shown, cookie) = house.readdir(stream, 0, false, 2).await.unwrap();
    assert_eq!(shown.len(), 2, "the dots; the pages to come are asked for");
    house.fs.flush_all().await;
    assert_eq!(house.readdir(stream, cookie, false, 100).await.unwrap().0, []);
    house.fs.releasedir(stream);
    house.leave(dir.ino);
}

#[tokio::test(start_paused = true)]
async fn what_is_made_in_the_place_of_what_is_being_removed_stays() {
    let house = House::new();
    house.fake.put_many(["d/1", "d/2", "d/3", "d/4", "d/5", "e/1", "from"], "old");
    for op in ["DeleteObjects", "DeleteObject"] {
        house.faults.plan(On::op(op).nth(2), Fault::Delay(Duration::from_secs(5)));
    }
    remove_each(&house, &["d/1", "d/2", "d/3", "d/4", "e/1"].map(String::from)).await;
    house.rmdir("e").await.unwrap();
    assert!(house.fs.held().removals > 0);
    house.make("d/2", b"new").await.unwrap();
    assert_eq!(house.fake.data("d/2"), "new");
    house.rename("from", "d/3", 0).await.unwrap();
    assert_eq!(house.fake.data("d/3"), "old");
    house.mkdir("d/4").await.unwrap();
    house.mkdir("e").await.unwrap();
    assert_eq!(house.names("d").await, ["2", "3", "4", "5"]);
    assert_eq!(house.keys_settled().await, ["d/2", "d/3", "d/4/", "d/5", "e/"]);
    assert_eq!(house.cat("d/2").await.unwrap(), b"new");
    assert_eq!(house.names("").await, ["d", "e"]);
}

/// Its close waits for the removal; what looks meanwhile sees it.
#[tokio::test(start_paused = true)]
async fn what_is_made_in_the_place_of_what_is_being_removed_is_shown_before_it_is_closed() {
    let house = House::new();
    house.fake.put_many(["d/1", "d/2", "d/3"], "old");
    house.faults.plan(On::op("DeleteObject"), Fault::Delay(Duration::from_secs(5)));
    house.faults.plan(On::op("DeleteObjects"), Fault::Delay(Duration::from_secs(5)));
    remove_each(&house, &["d/1", "d/2"].map(String::from)).await;
    assert_eq!(house.names("d").await, ["3"]);
    let fh = house.create("d/2", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"newer").await.unwrap();
    assert_eq!(house.fs.held().removals, 1, "the removal is under way still");
    assert_eq!(house.names("d").await, ["2", "3"]);
    let attr = house.enter("d/2").await.unwrap();
    assert_eq!(attr.size, 5);
    house.leave(attr.ino);
    house.close(fh).await.unwrap();
    assert_eq!(house.keys_settled().await, ["d/2", "d/3"]);
    assert_eq!(house.cat("d/2").await.unwrap(), b"newer");
}

#[tokio::test(start_paused = true)]
async fn a_file_made_over_a_directory_that_is_being_removed_stays() {
    let house = House::with(no_ttl);
    house.fake.put_many(["a/1", "a/2", "x"], "old");
    house.faults.plan(On::op("DeleteObjects"), Fault::Delay(Duration::from_secs(5)));
    remove_each(&house, &["x", "a/1", "a/2"].map(String::from)).await;
    house.rmdir("a").await.unwrap();
    house.make("a", b"new").await.unwrap();
    assert_eq!(house.cat("a").await.unwrap(), b"new");
    assert_eq!(house.keys_settled().await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn removals_that_wait_are_bounded() {
    let count = PENDING_KEYS_MAX + 10;
    let keys: Vec<String> = (0..count).map(|n| format!("{n}")).collect();
    let house = Arc::new(House::new());
    house.fake.put_many(&keys, "x");
    assert_eq!(house.names("").await.len(), count);
    let root = pailfs::key::ROOT_INO;
    house.fs.unlink(root, OsStr::new("0")).await.unwrap();
    let slow = Fault::Delay(Duration::from_secs(20));
    let lines = ["DeleteObjects", "DeleteObject"].map(|op| house.faults.plan(On::op(op), slow.clone()));
    let mut removed = 1;
    for key in &keys[1..] {
        let gone = tokio::time::timeout(Duration::from_secs(5), house.fs.unlink(root, OsStr::new(key)));
        match gone.await {
            Ok(gone) => gone.unwrap(),
            Err(_) => break,
        }
        removed += 1;
    }
    assert_eq!((removed, house.fs.held().removals), (PENDING_KEYS_MAX + 1, PENDING_KEYS_MAX));
    assert!(lines.iter().map(|line| line.fired()).sum::<usize>() <= 8, "batches under way");
    lines.iter().for_each(|line| line.lift());
    let last = keys.last().expect("many");
    house.fs.unlink(root, OsStr::new(last)).await.expect("there is room again");
    house.fs.flush_all().await;
    assert_eq!(house.fs.held().removals, 0);
    assert_eq!(house.fake.keys().len(), count - removed - 1);
}

#[tokio::test(start_paused = true)]
async fn with_sync_unlink_each_removal_waits() {
    let house = House::with(|config| config.sync_unlink = true);
    house.fake.put_many(names(4), "x");
    house.fake.make_undeletable("d/2");
    for (n, path) in names(4).iter().enumerate() {
        let removed = house.unlink(path).await;
        assert_eq!(removed.is_err(), n == 2, "{path}");
        assert_eq!(house.fake.object(path).is_some(), n == 2, "{path}");
    }
    assert_eq!(house.names("d").await, ["2"]);
    house.fsyncdir("d").await.expect("the program has been told");
    assert_eq!(house.fake.count("DeleteObjects"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_delete_objects_serves_bursts() {
    let house = House::on(FakeS3::new(), no_ttl);
    house.fake.put_many(names(30), "x");
    let missing = Fault::Error { status: 501, code: "NotImplemented" };
    let line = house.faults.plan(On::op("DeleteObjects"), missing);
    remove_tree(&house, "d").await;
    assert_eq!(house.keys_settled().await, [""; 0]);
    assert_eq!(line.fired(), 1, "it is asked once");
}

#[tokio::test(start_paused = true)]
async fn two_that_leave_a_directory_by_different_ways_leave_its_marker() {
    let house = House::new();
    house.fake.put_many(["d/1", "d/2", "d/3", "x"], "old");
    remove_each(&house, &["x", "d/1", "d/2"].map(String::from)).await;
    house.rename("d/3", "moved", 0).await.unwrap();
    assert_eq!(house.keys_settled().await, ["d/", "moved"]);
}
