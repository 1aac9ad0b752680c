//! Archived objects that are read with `--restore-on-read`: who asks for what, how long a read waits, and who does not.

mod support;

use std::process::Command;
use std::time::Duration;

use pailfs::config::RestoreConfig;
use pailfs::error::Error;
use support::bytes::pattern;
use support::house::{House, errno};
use support::{FakeS3, Fault, On};
use tokio::time::{Instant, sleep};

const GLACIER: [(&str, &str); 1] = [("x-amz-storage-class", "GLACIER")];

fn house(wait: Option<Duration>) -> House {
    let house = House::with(|config| {
        config.restore = Some(RestoreConfig { days: 3, tier: Some("Bulk".into()), wait });
    });
    house.fake.put_with("d/cold", "bytes", &GLACIER);
    house
}

/// A read by a thread that cannot be seen.
async fn read(house: &House, path: &str) -> Result<Vec<u8>, Error> {
    read_by(house, 0, path).await
}

async fn read_by(house: &House, tid: u32, path: &str) -> Result<Vec<u8>, Error> {
    let fh = house.open(path, libc::O_RDONLY).await?;
    let read = house.fs.read_by(tid, fh, 0, 128 << 10).await;
    house.close(fh).await?;
    Ok(read?.concat())
}

#[tokio::test]
async fn only_a_read_asks_and_fails_until_the_object_is_back() {
    let house = house(None);
    assert_eq!(house.names("d").await, ["cold"]);
    assert_eq!(house.enter("d/cold").await.unwrap().size, 5);
    let fh = house.open("d/cold", libc::O_RDONLY).await.unwrap();
    house.close(fh).await.unwrap();
    assert_eq!(house.fake.count("RestoreObject"), 0);
    for _ in 0..3 {
        assert_eq!(errno(read(&house, "d/cold").await), libc::EACCES);
        assert_eq!(house.fake.count("RestoreObject"), 1, "it is under way");
    }
    house.fake.finish_restore("d/cold");
    assert_eq!(read(&house, "d/cold").await.unwrap(), b"bytes");
    assert_eq!(house.fake.count("RestoreObject"), 1);
}

#[tokio::test]
async fn without_the_option_nothing_is_asked_for() {
    let house = House::new();
    house.fake.put_with("cold", "bytes", &GLACIER);
    assert_eq!(errno(read(&house, "cold").await), libc::EACCES);
    assert_eq!((house.fake.count("RestoreObject"), house.fake.count("HeadObject")), (0, 1), "its look-up");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_waits_has_the_bytes_when_they_are_back() {
    let house = house(Some(Duration::from_secs(12 * 3600)));
    let fake = house.fake.clone();
    let begun = Instant::now();
    let back = tokio::spawn(async move {
        sleep(Duration::from_secs(4 * 3600)).await;
        fake.finish_restore("d/cold");
    });
    assert_eq!(read(&house, "d/cold").await.unwrap(), b"bytes");
    back.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4 * 3600 + 120), "{:?}", begun.elapsed());
    let heads = house.fake.count("HeadObject");
    assert!((200..300).contains(&heads), "a look a minute: {heads}");
    assert_eq!(house.fake.count("RestoreObject"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_waits_outlasts_a_server_that_is_away() {
    for away in ["HeadObject", "RestoreObject"] {
        let house = house(Some(Duration::from_secs(12 * 3600)));
        let fh = house.open("d/cold", libc::O_RDONLY).await.unwrap();
        let lift = house.faults.plan(On::op(away), Fault::Error { status: 503, code: "ServiceUnavailable" });
        let back = async {
            sleep(Duration::from_secs(1800)).await;
            assert!(lift.fired() > 0);
            lift.lift();
            sleep(Duration::from_secs(300)).await;
            house.fake.finish_restore("d/cold");
        };
        let (read, ()) = futures_util::future::join(house.fs.read_by(0, fh, 0, 10), back).await;
        assert_eq!(read.unwrap().concat(), b"bytes", "{away}");
        assert_eq!(house.fake.count("RestoreObject"), 1);
        house.close(fh).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_no_longer_than_it_was_told() {
    let house = house(Some(Duration::from_secs(90)));
    let begun = Instant::now();
    assert_eq!(errno(read(&house, "d/cold").await), libc::EACCES);
    assert!((90..95).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_reads_of_a_file_ask_once() {
    let house = house(Some(Duration::from_secs(3600)));
    house.fake.put_with("large", pattern(1, 4 << 20), &GLACIER);
    let fh = house.open("large", libc::O_RDONLY).await.unwrap();
    let finish = async {
        sleep(Duration::from_secs(600)).await;
        house.fake.finish_restore("large");
    };
    let reads = (0..8).map(|i| house.fs.read_by(0, fh, i * (512 << 10), 512 << 10));
    let (read, ()) = futures_util::future::join(futures_util::future::join_all(reads), finish).await;
    let read: Vec<u8> = read.into_iter().flat_map(|read| read.unwrap().concat()).collect();
    assert!(read == pattern(1, 4 << 20));
    assert_eq!(house.fake.count("RestoreObject"), 1);
    house.close(fh).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn reads_that_wait_are_bounded() {
    let house = house(Some(Duration::from_secs(3600)));
    let fh = house.open("d/cold", libc::O_RDONLY).await.unwrap();
    let reads = (0..70).map(|_| house.fs.read_by(0, fh, 0, 10));
    let begun = Instant::now();
    let finish = async {
        sleep(Duration::from_secs(60)).await;
        house.fake.finish_restore("d/cold");
    };
    let (read, ()) = futures_util::future::join(futures_util::future::join_all(reads), finish).await;
    let refused = read.into_iter().filter_map(Result::err).map(|e| e.errno()).collect::<Vec<_>>();
    assert_eq!(refused, [libc::EACCES; 6]);
    assert!(begun.elapsed() < Duration::from_secs(200), "{:?}", begun.elapsed());
    house.close(fh).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn reads_that_wait_are_bounded_in_all_buckets_together() {
    let fake = FakeS3::new();
    let account = House::on(fake.clone(), |config| {
        config.s3.bucket.clear();
        config.restore = Some(RestoreConfig { days: 1, tier: None, wait: Some(Duration::from_secs(60)) });
    });
    let mut open = Vec::new();
    for name in ["one", "two"] {
        fake.create_bucket(name, "us-east-1");
        fake.within(name).put_with("cold", "bytes", &GLACIER);
        let bucket = account.bucket(name).await.unwrap();
        let fh = bucket.open("cold", libc::O_RDONLY).await.unwrap();
        open.push((bucket, fh));
    }
    let reads = open.iter().flat_map(|(bucket, fh)| (0..40).map(|_| bucket.fs.read_by(0, *fh, 0, 10)));
    let at_once = reads.map(|read| tokio::time::timeout(Duration::from_secs(30), read));
    let answered = futures_util::future::join_all(at_once).await;
    assert_eq!(answered.into_iter().filter(Result::is_ok).count(), 80 - 64);
    for (bucket, fh) in open {
        bucket.close(fh).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_killed_waits_no_longer() {
    let house = house(Some(Duration::from_secs(12 * 3600)));
    let mut program = Command::new("sleep").arg("1000").spawn().unwrap();
    let tid = program.id();
    let (read, ()) = futures_util::future::join(read_by(&house, tid, "d/cold"), async {
        sleep(Duration::from_secs(30)).await;
        program.kill().unwrap();
        program.wait().unwrap();
    })
    .await;
    assert_eq!(errno(read), libc::EINTR);
    house.fake.finish_restore("d/cold");
    assert_eq!(read_by(&house, std::process::id(), "d/cold").await.unwrap(), b"bytes");
}
