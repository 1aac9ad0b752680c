//! When memory is short: nobody waits for ever, and who can go on does.

mod support;

use std::sync::Arc;

use support::House;
use support::bytes::{assert_same_bytes, pattern};
use support::house::errno;

const MIB: usize = 1 << 20;

/// What writers hold and do not let go: a read that needs memory is told so, in time.
#[tokio::test(start_paused = true)]
async fn a_read_that_finds_no_memory_is_told_in_time() {
    let house = House::new();
    house.fake.put("read", pattern(1, 2 * MIB));
    let piece = pattern(2, MIB);
    let mut open = Vec::new();
    'full: loop {
        let fh = house.create(&format!("w{}", open.len()), libc::O_WRONLY).await.unwrap();
        open.push(fh);
        for n in 0..4 {
            if let Err(e) = house.write(fh, (n * MIB) as u64, &piece).await {
                assert_eq!(e.errno(), libc::ENOMEM);
                break 'full;
            }
        }
    }
    let fh = house.open("read", libc::O_RDONLY).await.unwrap();
    assert_eq!(errno(house.read(fh, 0, MIB).await), libc::ENOMEM);
    for writer in open {
        // The one that was told has failed; the others publish and give back.
        let _told = house.fs.flush(writer).await;
        house.fs.release(writer).await;
    }
    assert_eq!(house.read(fh, 0, 10).await.unwrap(), pattern(1, 2 * MIB)[..10]);
    house.close(fh).await.unwrap();
}

/// Writers whose half-full parts fill the memory send what is large enough to be a part.
#[tokio::test]
async fn parallel_writers_do_not_starve_each_other() {
    let house = Arc::new(House::with(|config| config.part_bytes = 16 << 20));
    let mut writers = Vec::new();
    for n in 0..8u64 {
        let house = house.clone();
        writers.push(tokio::spawn(async move {
            let (name, data) = (format!("w{n}"), pattern(n, 24 * MIB));
            let fh = house.create(&name, libc::O_WRONLY).await.unwrap();
            for (at, piece) in data.chunks(MIB).enumerate() {
                house.write(fh, (at * MIB) as u64, piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            house.close(fh).await.unwrap();
            assert_same_bytes(&house.fake.data(&name), &data, &name);
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(house.fs.memory_bytes_peak() <= 64 << 20);
}

/// Each close of a descriptor that a child inherited publishes; none of them costs memory for good.
#[tokio::test]
async fn a_thousand_flushes_hold_no_more_than_one() {
    let house = House::new();
    let fh = house.create("log", libc::O_WRONLY).await.unwrap();
    for n in 0..1000 {
        house.write(fh, n, b"x").await.unwrap();
        house.fs.flush(fh).await.unwrap();
    }
    assert!(house.fs.held().object_bytes <= 1 << 20, "{:?}", house.fs.held());
    house.close(fh).await.unwrap();
    assert_eq!(house.fake.data("log").len(), 1000);
}
