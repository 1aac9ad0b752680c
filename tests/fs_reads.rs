//! What reading costs: bytes asked of S3, requests, memory, and how those who read at once share.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::bytes::{assert_same_bytes, pattern};
use support::{Fault, House, On};
use tokio::time::Instant;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Bytes that ranged GETs asked for.
fn bytes_asked(house: &House) -> usize {
    let gets = house.fake.calls().into_iter().filter(|logged| logged.call.op == "GetObject");
    gets.map(|logged| {
        let range = logged.headers["range"].to_str().unwrap().trim_start_matches("bytes=").to_owned();
        let (first, last) = range.split_once('-').unwrap();
        last.parse::<usize>().unwrap() + 1 - first.parse::<usize>().unwrap()
    })
    .sum()
}

/// Numbers that look random, the same each time.
fn scattered(seed: u64) -> impl Iterator<Item = usize> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    })
}

#[tokio::test]
async fn random_reads_fetch_at_most_twice_what_they_read() {
    let house = House::new();
    let data = pattern(1, 256 * MIB);
    house.fake.put("big", data.clone());
    let fh = house.open("big", libc::O_RDONLY).await.unwrap();
    let mut read = 0;
    for page in scattered(7).map(|n| n % (data.len() / (4 * KIB))).filter(|page| *page > 0).take(1000) {
        let at = page * 4 * KIB;
        let got = house.read(fh, at as u64, 4 * KIB).await.unwrap();
        assert_same_bytes(&got, &data[at..at + 4 * KIB], "page");
        read += got.len();
    }
    house.close(fh).await.unwrap();
    let asked = bytes_asked(&house);
    assert!(asked <= 2 * read, "{asked} for {read}");
}

#[tokio::test]
async fn a_backward_scan_sends_few_requests() {
    let house = House::new();
    let data = pattern(2, 16 * MIB);
    house.fake.put("file", data.clone());
    let fh = house.open("file", libc::O_RDONLY).await.unwrap();
    for at in (0..data.len()).step_by(64 * KIB).rev() {
        let got = house.read(fh, at as u64, 64 * KIB).await.unwrap();
        assert_same_bytes(&got, &data[at..at + 64 * KIB], "piece");
    }
    let gets = house.fake.count("GetObject");
    assert!(gets < 32, "{gets} for 256 reads");
    assert!(bytes_asked(&house) <= data.len() + MIB);
}

#[tokio::test]
async fn interleaved_scans_of_one_handle_send_few_requests() {
    let house = House::new();
    let data = pattern(3, 24 * MIB);
    house.fake.put("file", data.clone());
    let fh = house.open("file", libc::O_RDONLY).await.unwrap();
    for n in 0..64 {
        for scan in 0..3 {
            let at = scan * 8 * MIB + n * 128 * KIB;
            let got = house.read(fh, at as u64, 128 * KIB).await.unwrap();
            assert_same_bytes(&got, &data[at..at + 128 * KIB], "piece");
        }
    }
    let gets = house.fake.count("GetObject");
    assert!(gets < 96, "{gets} for 192 reads");
    assert_eq!(bytes_asked(&house), data.len(), "each byte once");
}

#[tokio::test]
async fn a_small_object_is_fetched_whole_on_its_second_read() {
    let house = House::new();
    let data = pattern(4, 500 * KIB);
    house.fake.put("small", data.clone());
    let fh = house.open("small", libc::O_RDONLY).await.unwrap();
    for at in [400 * KIB, 100 * KIB, 300 * KIB, 0, 499 * KIB] {
        let got = house.read(fh, at as u64, 4 * KIB).await.unwrap();
        assert_same_bytes(&got, &data[at..data.len().min(at + 4 * KIB)], "piece");
    }
    // The page that was read, and what lies before and after it.
    assert_eq!(house.fake.count("GetObject"), 3);
    assert_eq!(bytes_asked(&house), data.len());
}

/// A server that answers each GET after 20 ms; virtual time.
fn slow_house(memory_bytes_max: u64) -> House {
    let house = House::with(|config| config.memory_bytes_max = memory_bytes_max);
    house.faults.plan(On::op("GetObject"), Fault::Delay(Duration::from_millis(20)));
    house
}

/// Reads a file from start to end; answers how long it took, in virtual time.
async fn stream(house: &House, name: &str, data: &[u8]) -> Duration {
    let began = Instant::now();
    let fh = house.open(name, libc::O_RDONLY).await.unwrap();
    let mut at = 0;
    while at < data.len() {
        let got = house.read(fh, at as u64, 128 * KIB).await.unwrap();
        assert_same_bytes(&got, &data[at..(at + 128 * KIB).min(data.len())], name);
        at += got.len();
    }
    house.close(fh).await.unwrap();
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn many_streams_share_the_memory_and_none_starves() {
    const STREAMS: usize = 32;
    let memory = 64 << 20;
    let data = pattern(5, 8 * MIB);
    let alone = {
        let house = slow_house(memory);
        house.fake.put("file", data.clone());
        stream(&house, "file", &data).await
    };
    let house = Arc::new(slow_house(memory));
    for n in 0..STREAMS {
        house.fake.put(format!("file{n}"), data.clone());
    }
    let streams = (0..STREAMS).map(|n| {
        let (house, data) = (house.clone(), data.clone());
        tokio::spawn(async move { stream(&house, &format!("file{n}"), &data).await })
    });
    let mut took = Vec::new();
    for stream in streams.collect::<Vec<_>>() {
        took.push(stream.await.unwrap());
    }
    took.sort();
    let (first, last) = (took[0], took[STREAMS - 1]);
    assert!(last <= first * 3, "{first:?} to {last:?}");
    // 32 times the bytes in less than 32 times the time: the sum is at least what one gets.
    assert!(last <= alone * 32, "{last:?}, alone {alone:?}");
    assert!(house.fs.memory_bytes_peak() <= memory);
}

#[tokio::test(start_paused = true)]
async fn a_stream_holds_its_window_and_not_what_it_has_passed() {
    let house = slow_house(256 << 20);
    let data = pattern(6, 200 * MIB);
    house.fake.put("big", data.clone());
    stream(&house, "big", &data).await;
    let peak = house.fs.memory_bytes_peak();
    assert!(peak <= 80 << 20, "{peak}");
}
