//! `--write-back`: what waits before it is sent, how long, and what it takes meanwhile.

mod support;

use std::time::Duration;

use support::bytes::pattern;
use support::{FakeS3, Fault, House, On};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn what_is_all_in_memory_needs_nothing_of_an_earlier_state_on_the_disk() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    fake.put("file", pattern(1, 1792));
    let house = House::write_back(staging.path(), &fake, |_| {});
    let hangs = house.faults.plan(On::op("PutObject"), Fault::Hang);
    let mut content = pattern(1, 950);
    house.truncate("file", 950).await.unwrap();
    for _ in 0..2 {
        let fh = house.open("file", libc::O_WRONLY | libc::O_APPEND).await.unwrap();
        house.write(fh, content.len() as u64, &pattern(2, 4000)).await.unwrap();
        house.close(fh).await.unwrap();
        content.extend(pattern(2, 4000));
        let fh = house.open("file", libc::O_WRONLY).await.unwrap();
        house.write(fh, 4612, b"patch").await.unwrap();
        house.close(fh).await.unwrap();
        content[4612..4617].copy_from_slice(b"patch");
    }
    assert_eq!(house.cat("file").await.unwrap(), content);
    hangs.lift();
    house.sync_root().await;
    assert_eq!(fake.data("file"), content);
}

#[tokio::test]
async fn what_waits_takes_no_more_memory_than_it_has_bytes() {
    let staging = tempfile::tempdir().unwrap();
    let house = House::write_back(staging.path(), &FakeS3::new(), |_| {});
    let hangs = house.faults.plan(On::op("PutObject"), Fault::Hang);
    for n in 0..1200 {
        house.make(&n.to_string(), &pattern(n, 5000)).await.unwrap();
    }
    // Of 64 MiB; each began with a buffer of 64 KiB.
    assert_eq!((house.fs.held().acknowledged, house.fs.held().object_bytes), (1200, 1200 * 8192));
    hangs.lift();
}

#[tokio::test]
async fn no_more_than_ten_thousand_directories_wait() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = House::write_back(staging.path(), &fake, |_| {});
    assert_eq!(house.names("").await, [""; 0], "no name is asked about one by one");
    for n in 0..10_000 {
        house.mkdir(&n.to_string()).await.unwrap();
    }
    assert_eq!((house.fs.held().acknowledged, fake.keys().len()), (10_000, 0));
    house.mkdir("more").await.unwrap();
    while fake.keys().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        house.mkdir(&format!("more/{}", rand::random::<u64>())).await.unwrap();
    }
    let held = house.fs.held().acknowledged;
    assert!(held <= 10_064, "{held}: those beyond it are sent, 64 side by side");
}

#[tokio::test]
async fn a_tree_that_is_still_being_made_costs_no_question_though_its_files_are_in_s3() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let house = House::write_back(staging.path(), &fake, |config| {
        config.staging.bytes_max = 64 << 20;
        config.metadata_ttl = Duration::from_millis(50);
    });
    let large = house.faults.plan(On::op("PutObject").key_where(|key| key.starts_with("large")), Fault::Hang);
    for n in 0..9 {
        house.make(&format!("large{n}"), &pattern(n, 4 * MIB)).await.unwrap();
    }
    for dir in ["tree", "tree/below"] {
        house.mkdir(dir).await.unwrap();
    }
    let asked = || ["HeadObject", "ListObjectsV2"].map(|op| fake.count(op));
    let before = asked();
    for n in 0..20 {
        house.make(&format!("tree/below/{n}"), b"content").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let keys = fake.keys();
    assert!(keys.len() >= 15, "the disk is short, so files go at once: {keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("tree/below/") && !key.ends_with('/')), "{keys:?}");
    assert_eq!(asked(), before);
    large.lift();
    while house.fs.held().acknowledged > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.sync_root().await;
    assert_eq!(fake.keys().len(), 9 + 2 + 20);
}
