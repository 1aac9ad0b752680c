//! Writing anywhere in a file: random operations against a model in memory, with `--write-back` and without, and what they
//! cost in requests.
//!
//! The seed is printed; `PAILFS_SEED=… cargo test --test fs_writes` runs that one alone.

mod support;

#[path = "fs_writes/random.rs"]
mod random;

use support::bytes::{assert_same_bytes, pattern};
use support::house::errno;
use support::{Fault, House, On};

const MIB: usize = 1 << 20;
async fn random_writes(write_back: bool) {
    let given = std::env::var("PAILFS_SEED").ok().map(|seed| seed.parse().expect("PAILFS_SEED: a number"));
    let seeds =
        given.map_or_else(|| vec![1, 2, 1026, 1053, rand::random::<u32>().into()], |seed: u64| vec![seed]);
    for seed in seeds {
        random::run(seed, write_back).await;
    }
}

#[tokio::test]
async fn random_writes_agree_with_a_model() {
    random_writes(false).await;
}

#[tokio::test]
async fn random_writes_with_write_back_agree_with_a_model() {
    random_writes(true).await;
}

/// A file of this length, all of it in S3.
async fn stored(len: usize) -> (House, Vec<u8>) {
    let house = House::new();
    let data = pattern(1, len);
    house.fake.put("file", data.clone());
    (house, data)
}

#[tokio::test]
async fn a_small_change_in_a_large_object_sends_one_part() {
    let (house, mut data) = stored(20 * MIB).await;
    let fh = house.open("file", libc::O_WRONLY).await.unwrap();
    house.write(fh, 12_000_000, &[7; 1024]).await.unwrap();
    data[12_000_000..12_001_024].fill(7);
    house.close(fh).await.unwrap();
    assert_same_bytes(&house.fake.data("file"), &data, "file");
    let count = |operation| house.fake.count(operation);
    assert_eq!((count("UploadPart"), count("UploadPartCopy"), count("PutObject")), (1, 2, 0));
    assert_eq!(count("GetObject"), 1, "what the part lacks");
}

#[tokio::test]
async fn a_header_that_is_written_over_at_the_end_sends_the_first_part_again() {
    let house = House::new();
    let mut data = pattern(2, 42 * MIB);
    let fh = house.create("film", libc::O_WRONLY).await.unwrap();
    for (n, piece) in data.chunks(MIB).enumerate() {
        house.write(fh, (n * MIB) as u64, piece).await.unwrap();
    }
    house.write(fh, 4, b"length").await.unwrap();
    data[4..10].copy_from_slice(b"length");
    house.write(fh, data.len() as u64, b"index").await.unwrap();
    data.extend(b"index");
    house.close(fh).await.unwrap();
    assert_same_bytes(&house.fake.data("film"), &data, "film");
    assert_eq!(house.fake.count("UploadPart"), 10, "nine, and the first again");
}

#[tokio::test]
async fn a_stream_that_may_be_read_stays_readable_and_can_be_changed() {
    let house = House::new();
    let mut data = pattern(3, 42 * MIB);
    let fh = house.create("pack", libc::O_RDWR).await.unwrap();
    for (n, piece) in data.chunks(MIB).enumerate() {
        house.write(fh, (n * MIB) as u64, piece).await.unwrap();
    }
    for at in (0..data.len()).step_by(MIB / 2) {
        let got = house.read(fh, at as u64, 1000).await.unwrap();
        assert_same_bytes(&got, &data[at..at + 1000], "a part that was sent");
    }
    assert_eq!(house.fake.keys(), [""; 0], "nobody sees half of it");
    house.write(fh, 33_000_000, b"in the middle").await.unwrap();
    data[33_000_000..33_000_013].copy_from_slice(b"in the middle");
    house.close(fh).await.unwrap();
    assert_same_bytes(&house.fake.data("pack"), &data, "pack");
    assert_eq!(house.fs.held().staged_bytes, 0);
}

#[tokio::test]
async fn what_was_sent_and_let_go_is_refused_and_all_else_is_published() {
    let house = House::new();
    let mut data = pattern(4, 42 * MIB);
    let fh = house.create("file", libc::O_WRONLY).await.unwrap();
    for (n, piece) in data.chunks(MIB).enumerate() {
        house.write(fh, (n * MIB) as u64, piece).await.unwrap();
    }
    assert_eq!(errno(house.write(fh, 33_000_000, b"x").await), libc::EOPNOTSUPP);
    let reader = house.open("file", libc::O_RDONLY).await.unwrap();
    assert_eq!(errno(house.read(reader, 33_000_000, 1).await), libc::EOPNOTSUPP);
    assert_same_bytes(&house.read(reader, 0, 100).await.unwrap(), &data[..100], "the first part is kept");
    house.write(fh, data.len() as u64, b"end").await.unwrap();
    data.extend(b"end");
    house.close(fh).await.unwrap();
    house.close(reader).await.unwrap();
    assert_same_bytes(&house.fake.data("file"), &data, "file");
}

#[tokio::test]
async fn a_change_that_another_host_overtook_is_estale() {
    for len in [1000, 12 * MIB] {
        let (house, _) = stored(len).await;
        let fh = house.open("file", libc::O_WRONLY).await.unwrap();
        house.write(fh, 10, b"mine").await.unwrap();
        house.fake.put("file", "theirs");
        assert_eq!(errno(house.close(fh).await), libc::ESTALE, "{len}");
        assert_eq!(house.fake.data("file"), "theirs");
        assert_eq!(house.fake.uploads(), [], "{len}");
    }
}

#[tokio::test]
async fn a_full_staging_directory_is_enospc_and_what_was_written_is_published() {
    let house = House::with(|config| config.staging.bytes_max = 64 << 20);
    let fh = house.create("file", libc::O_RDWR).await.unwrap();
    let piece = pattern(5, MIB);
    let mut written = Vec::new();
    let full = loop {
        let at = (2 * written.len() + 1) * MIB;
        match house.write(fh, at as u64, &piece).await {
            Ok(()) => written.push(at),
            Err(e) => break e.errno(),
        }
    };
    assert_eq!((full, written.len()), (libc::ENOSPC, 64), "as much as --staging-size");
    house.close(fh).await.unwrap();
    let stored = house.fake.data("file");
    assert_eq!(stored.len(), written[63] + MIB);
    for at in written {
        assert_same_bytes(&stored[at..at + MIB], &piece, "what was acknowledged");
        assert!(stored[at - MIB..at].iter().all(|byte| *byte == 0), "a hole");
    }
    assert_eq!(house.fs.held().staged_bytes, 0);
}

#[tokio::test]
async fn appends_of_several_handles_land_one_after_the_other() {
    let house = House::new();
    house.fake.put("log", "begin\n");
    let flags = libc::O_WRONLY | libc::O_APPEND;
    let handles = [house.open("log", flags).await.unwrap(), house.open("log", flags).await.unwrap()];
    let mut expected = "begin\n".to_string();
    for n in 0..50 {
        let line = format!("line {n}\n");
        // The offset is what the kernel believed the end to be.
        house.fs.write(handles[n % 2], 6, line.as_bytes(), true).await.unwrap();
        expected.push_str(&line);
    }
    for fh in handles {
        house.close(fh).await.unwrap();
    }
    assert_eq!(house.fake.data("log"), expected);
}

#[tokio::test]
async fn a_copy_within_the_mount_is_made_by_the_server() {
    let (house, data) = stored(20 * MIB).await;
    let from = house.open("file", libc::O_RDONLY).await.unwrap();
    let to = house.create("copy", libc::O_WRONLY).await.unwrap();
    let copied = house.fs.copy_file_range(&house.fs, (from, 0), (to, 0), 1 << 30).await.unwrap();
    assert_eq!(copied, data.len() as u64);
    assert_eq!(
        house.fs.copy_file_range(&house.fs, (from, copied), (to, copied), 1 << 30).await.unwrap(),
        0,
        "the end"
    );
    house.close(to).await.unwrap();
    assert_same_bytes(&house.fake.data("copy"), &data, "copy");
    let count = |operation| house.fake.count(operation);
    let moved = (count("UploadPartCopy"), count("UploadPart"), count("PutObject"), count("GetObject"));
    assert_eq!(moved, (1, 0, 0, 0));

    let to = house.create("stale", libc::O_WRONLY).await.unwrap();
    house.fs.copy_file_range(&house.fs, (from, 0), (to, 0), 1 << 30).await.unwrap();
    house.fake.put("file", "another");
    assert_eq!(errno(house.close(to).await), libc::ESTALE, "what is copied is what was seen");
    house.close(from).await.unwrap();
}

#[tokio::test]
async fn an_unlinked_file_stays_as_long_as_it_is_open() {
    let (house, mut data) = stored(2 * MIB).await;
    let reader = house.open("file", libc::O_RDONLY).await.unwrap();
    let writer = house.open("file", libc::O_RDWR).await.unwrap();
    house.unlink("file").await.unwrap();
    assert_eq!(house.names("").await, [""; 0]);
    assert_eq!(errno(house.enter("file").await), libc::ENOENT);
    house.write(writer, 5, b"changed").await.unwrap();
    data[5..12].copy_from_slice(b"changed");
    for fh in [reader, writer] {
        assert_same_bytes(&house.read(fh, 0, 3 * MIB).await.unwrap(), &data, "unlinked");
    }
    house.close(writer).await.unwrap();
    assert_eq!(house.keys_settled().await, ["file"], "the reader needs it");
    house.close(reader).await.unwrap();
    assert_eq!(house.keys_settled().await, [""; 0]);
}

#[tokio::test]
async fn what_takes_the_name_of_an_unlinked_open_file_stays() {
    let (house, data) = stored(1000).await;
    house.fake.put("dir/open", "x");
    let old = house.open("file", libc::O_RDONLY).await.unwrap();
    assert_same_bytes(&house.read(old, 0, 100).await.unwrap(), &data[..100], "before");
    house.unlink("file").await.unwrap();
    house.make("file", b"new").await.unwrap();
    house.close(old).await.unwrap();
    assert_eq!(house.keys_settled().await, ["dir/open", "file"]);
    assert_eq!(house.fake.data("file"), "new");

    let open = house.open("dir/open", libc::O_RDONLY).await.unwrap();
    house.unlink("dir/open").await.unwrap();
    house.rmdir("dir").await.unwrap();
    assert_eq!(house.keys_settled().await, ["file"], "its directory takes it along");
    assert_eq!(house.read(open, 0, 10).await.unwrap(), b"x", "it was held for who has it open");
    house.close(open).await.unwrap();
}

#[tokio::test]
async fn what_could_not_be_published_is_kept_whole_with_its_reason() {
    let denied = || Fault::Error { status: 403, code: "AccessDenied" };
    // A new file of one PUT; a change in a large one; a stream whose upload fails.
    for (operation, base, streamed) in
        [("PutObject", 0, 1000), ("CompleteMultipartUpload", 20 * MIB, 0), ("UploadPart", 0, 12 * MIB)]
    {
        let (house, mut data) = stored(base).await;
        if base == 0 {
            house.fake.delete("file");
        }
        let line = house.faults.plan(On::op(operation), denied());
        let fh = match base {
            0 => house.create("file", libc::O_RDWR).await.unwrap(),
            _ => house.open("file", libc::O_RDWR).await.unwrap(),
        };
        data.extend(pattern(6, streamed));
        for (n, piece) in data[base..].chunks(MIB).enumerate() {
            let _told_at_close = house.write(fh, (base + n * MIB) as u64, piece).await;
        }
        if base > 0 {
            house.write(fh, 7_000_000, b"changed").await.unwrap();
            data[7_000_000..7_000_007].copy_from_slice(b"changed");
        }
        assert_eq!(errno(house.close(fh).await), libc::EACCES, "{operation}");
        assert!(line.fired() > 0);
        assert_eq!(house.fake.uploads(), [], "{operation}");
        let kept = house.journal.kept().unwrap();
        let [item] = &kept[..] else { panic!("{operation}: {kept:?}") };
        assert_eq!((item.kept.key.as_str(), item.kept.base.is_some()), ("file", base > 0));
        assert!(item.kept.reason.contains("AccessDenied"), "{}", item.kept.reason);
        let bytes = std::fs::read(item.bytes()).unwrap();
        let written: u64 = item.kept.ranges.iter().map(|range| range.end - range.start).sum();
        for range in &item.kept.ranges {
            let range = range.start as usize..range.end as usize;
            assert_same_bytes(&bytes[range.clone()], &data[range], operation);
        }
        match base {
            // Of a stream that failed, what was written until it failed.
            0 => assert_eq!(written, item.kept.size),
            _ => assert!(written <= 5 * MIB as u64 && item.kept.size == data.len() as u64),
        }
    }
}

/// The pieces of a file as `lseek(2)` tells them: data, hole, data, ...; each with its end.
async fn pieces(house: &House, fh: u64) -> Vec<(bool, u64)> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    loop {
        match house.fs.lseek(fh, at, libc::SEEK_HOLE).await {
            Ok(hole) if hole > at as u64 => {
                assert_eq!(house.fs.lseek(fh, at, libc::SEEK_DATA).await.unwrap(), at as u64);
                pieces.push((true, hole));
                at = hole as i64;
            }
            Ok(_) => match house.fs.lseek(fh, at, libc::SEEK_DATA).await {
                Ok(data) => {
                    pieces.push((false, data));
                    at = data as i64;
                }
                Err(e) => {
                    assert_eq!(e.errno(), libc::ENXIO);
                    let end = house.fs.getattr(file_ino(house).await).await.unwrap().size;
                    pieces.push((false, end));
                    return pieces;
                }
            },
            Err(e) => {
                assert_eq!(e.errno(), libc::ENXIO, "the file's end");
                return pieces;
            }
        }
    }
}

async fn file_ino(house: &House) -> u64 {
    let attr = house.enter("file").await.unwrap();
    house.leave(attr.ino);
    attr.ino
}

#[tokio::test]
async fn what_is_not_published_tells_its_holes_and_what_s3_has_none() {
    let (house, _) = stored(100_000).await;
    let plain = house.open("file", libc::O_RDONLY).await.unwrap();
    assert_eq!(pieces(&house, plain).await, [(true, 100_000)]);
    for (offset, whence, refusal) in [
        (100_000, libc::SEEK_DATA, libc::ENXIO),
        (100_000, libc::SEEK_HOLE, libc::ENXIO),
        (-1, libc::SEEK_DATA, libc::ENXIO),
        (0, libc::SEEK_END, libc::EINVAL),
        (0, 17, libc::EINVAL),
    ] {
        assert_eq!(errno(house.fs.lseek(plain, offset, whence).await), refusal, "{offset} {whence}");
    }
    let fh = house.open("file", libc::O_RDWR).await.unwrap();
    house.write(fh, 50_000, b"in the middle").await.unwrap();
    assert_eq!(pieces(&house, fh).await, [(true, 100_000)], "written over data");
    let truncate = async |size| {
        let set = pailfs::fs::SetAttr { size: Some(size), fh: Some(fh), ..Default::default() };
        house.fs.setattr(file_ino(&house).await, set).await.unwrap();
    };
    truncate(200_000).await;
    assert_eq!(pieces(&house, fh).await, [(true, 100_000), (false, 200_000)], "made longer");
    house.write(fh, 150_000, b"x").await.unwrap();
    let block = 150_000 / 4096 * 4096;
    let behind = [(true, 100_000), (false, block), (true, block + 4096), (false, 200_000)];
    assert_eq!(pieces(&house, fh).await, behind, "data in a hole");
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    house.fs.fallocate(fh, 8192, 8192, punch).await.unwrap();
    house.fs.fallocate(fh, block, 4096, punch).await.unwrap();
    let punched = [(true, 8192), (false, 16_384), (true, 100_000), (false, 200_000)];
    assert_eq!(pieces(&house, fh).await, punched, "in what S3 has, and in what was written");
    assert_eq!(pieces(&house, plain).await, punched, "whoever asks");
    house.write(fh, 300_000, b"behind").await.unwrap();
    let all = pieces(&house, fh).await;
    assert_eq!(all[3..], [(false, 300_000 / 4096 * 4096), (true, 300_006)], "what lies before it is a hole");
    house.fs.fsync(fh).await.unwrap();
    assert_eq!(pieces(&house, fh).await, [(true, 300_006)], "S3 keeps no holes");
    truncate(0).await;
    assert_eq!(pieces(&house, fh).await, [], "nothing to find");
    house.close(fh).await.unwrap();
    assert_eq!(errno(house.fs.lseek(plain, 0, libc::SEEK_HOLE).await), libc::ENXIO);
    house.close(plain).await.unwrap();
}

#[tokio::test]
async fn what_is_in_memory_or_sent_or_linked_is_data() {
    let house = House::new();
    house.fake.put("source", pattern(1, 6 * MIB));
    let source = house.open("source", libc::O_RDONLY).await.unwrap();
    let fh = house.create("file", libc::O_WRONLY).await.unwrap();
    let data = pattern(2, 12 * MIB);
    house.write(fh, 0, &data).await.unwrap();
    assert_eq!(pieces(&house, fh).await, [(true, 12 * MIB as u64)]);
    house.close(fh).await.unwrap();
    let fh = house.open("file", libc::O_RDWR | libc::O_TRUNC).await.unwrap();
    let (from, to) = ((source, 0), (fh, 7 * MIB as u64));
    assert_eq!(house.fs.copy_file_range(&house.fs, from, to, 6 * MIB as u64).await.unwrap(), 6 * MIB as u64);
    let linked = [(false, 7 * MIB as u64), (true, 13 * MIB as u64)];
    assert_eq!(pieces(&house, fh).await, linked);
    house.close(fh).await.unwrap();
    house.close(source).await.unwrap();
}
