//! Small files read one after another: how many requests they cost, and how long they take.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::bytes::{assert_same_bytes, pattern};
use support::{Fault, House, On};
use tokio::time::Instant;

const KIB: usize = 1 << 10;

/// Directories of files of 100 KB, on a server that answers each GET after 20 ms and each LIST after 40 (virtual time).
fn house(dirs: usize, files: usize) -> (House, BTreeMap<String, Vec<u8>>) {
    let house = House::new();
    house.faults.plan(On::op("GetObject"), Fault::Delay(Duration::from_millis(20)));
    house.faults.plan(On::op("ListObjectsV2"), Fault::Delay(Duration::from_millis(40)));
    let name = |n: usize| format!("d{:02}/f{:03}", n / files, n % files);
    let content: BTreeMap<_, _> =
        (0..dirs * files).map(|n| (name(n), pattern(n as u64, 100 * KIB))).collect();
    for (name, data) in &content {
        house.fake.put(name, data.clone());
    }
    (house, content)
}

async fn cat(house: &House, content: &BTreeMap<String, Vec<u8>>, name: &str) {
    assert_same_bytes(&house.cat(name).await.unwrap(), &content[name], name);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_files_in_order_cost_a_get_each_and_few_round_trips() {
    let (house, content) = house(1, 200);
    let began = Instant::now();
    house.names("d00").await;
    for name in content.keys() {
        cat(&house, &content, name).await;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(600), "{took:?}");
    assert_eq!((house.fake.count("GetObject"), house.fake.count("HeadObject")), (200, 1), "one for the path");
    assert!(house.fake.count("ListObjectsV2") <= 2, "{:?}", house.fake.counts());
}

/// As grep -r: each directory is listed, then its files are read.
#[tokio::test(start_paused = true)]
async fn a_walk_over_directories_goes_on_in_the_next_one() {
    let (house, content) = house(100, 20);
    let began = Instant::now();
    for dir in house.names("").await {
        for file in house.names(&dir).await {
            cat(&house, &content, &format!("{dir}/{file}")).await;
        }
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(2500), "{took:?}");
    assert_eq!((house.fake.count("GetObject"), house.fake.count("HeadObject")), (2000, 0));
    assert!(house.fake.count("ListObjectsV2") <= 12, "{:?}", house.fake.counts());
}

#[tokio::test(start_paused = true)]
async fn files_read_in_another_order_are_fetched_when_they_are_read() {
    let (house, content) = house(1, 50);
    house.names("d00").await;
    house.fake.forget_calls();
    for name in content.keys().rev() {
        cat(&house, &content, name).await;
    }
    assert_eq!(house.fake.count("GetObject"), 50);
    for name in content.keys().step_by(7) {
        let before = house.fake.count("GetObject");
        cat(&house, &content, name).await;
        assert!(house.fake.count("GetObject") <= before + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_order_breaks_nothing_more_is_fetched() {
    let (house, content) = house(1, 300);
    house.names("d00").await;
    let names: Vec<&String> = content.keys().collect();
    for name in &names[..100] {
        cat(&house, &content, name).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ahead = house.fake.count("GetObject") - 100;
    assert!((1..=64).contains(&ahead), "{ahead} fetched ahead");
    for n in [299, 250, 210] {
        cat(&house, &content, names[n]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(house.fake.count("GetObject"), 100 + ahead + 3);
}

/// What is fetched ahead stays within its share of the memory, and large files are not fetched whole.
#[tokio::test(start_paused = true)]
async fn what_is_fetched_ahead_is_bounded() {
    let house = House::new();
    for n in 0..40 {
        house.fake.put(format!("small{n:02}"), pattern(n, 3 << 20));
    }
    for n in 0..4 {
        house.fake.put(format!("x{n}"), pattern(n, 20 << 20));
    }
    for (opened, name) in house.names("").await.into_iter().enumerate() {
        let fh = house.open(&name, libc::O_RDONLY).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let fetched = house.fake.count("GetObject");
        assert!(
            fetched <= opened + 1 + 5 + 4,
            "a fourth of 64 MiB is five of 3 MiB, or more of the large: {fetched}"
        );
        house.fs.release(fh).await;
    }
    assert!(house.fs.memory_bytes_peak() <= 64 << 20);
    let of_large = house.fake.calls().into_iter().filter(|c| c.call.key_bytes == b"x3");
    let ranges: Vec<_> = of_large.filter_map(|c| c.headers.get("range").cloned()).collect();
    assert_eq!(ranges, ["bytes=0-1048575"]);
}
