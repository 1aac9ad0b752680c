//! The file system over a disk cache: what `pailfs.cached` tells, what is read from it, what the kernel is given.

mod support;

use std::ffi::OsStr;

use bytes::Bytes;
use pailfs::cache::disk::BLOCK_BYTES;
use pailfs::config::DiskCacheConfig;
use pailfs::error::Error;
use pailfs::fs::CACHED;
use pailfs::key::VersionId;

use support::House;
use support::bytes::{assert_same_bytes, pattern};
use support::house::errno;

const CACHE_BYTES: u64 = 64 << 20;

fn cache_in(home: &tempfile::TempDir) -> DiskCacheConfig {
    DiskCacheConfig { dir: home.path().join("cache"), bytes_max: CACHE_BYTES, free_bytes_min: 0 }
}

fn with_cache(home: &tempfile::TempDir) -> House {
    House::with(|config| config.disk_cache = Some(cache_in(home)))
}

async fn xattr(house: &House, path: &str, name: &str) -> Result<String, Error> {
    let attr = house.enter(path).await?;
    let value = house.fs.getxattr(attr.ino, OsStr::new(name)).await;
    house.leave(attr.ino);
    value.map(|value| String::from_utf8(value).unwrap())
}

#[tokio::test]
async fn the_attribute_tells_what_is_cached_of_the_version_that_stands() {
    let home = tempfile::tempdir().unwrap();
    let house = with_cache(&home);
    let size = BLOCK_BYTES as usize + 5;
    house.fake.put("dir/file", pattern(1, size));
    assert_eq!(xattr(&house, "dir/file", CACHED).await.unwrap(), format!("0/{size}"));
    let etag = house.fake.object("dir/file").unwrap().etag.clone();
    let version = VersionId::new("bucket", "dir/file", &etag);
    let disk = house.disk.clone().unwrap();
    let block = Bytes::from(pattern(1, size)).slice(BLOCK_BYTES as usize..);
    disk.offer(version, size as u64, 1, vec![block]);
    assert_eq!(
        xattr(&house, "dir/file", CACHED).await.unwrap(),
        format!("5/{size}"),
        "it waits for the disk"
    );
    let (used, max) = (disk.stats().bytes_used, CACHE_BYTES);
    assert!(used > 0);
    assert_eq!(xattr(&house, "dir", CACHED).await.unwrap(), format!("{used}/{max}"), "the whole cache");
    house.unlink("dir/file").await.unwrap();
    house.make("dir/file", b"new").await.unwrap();
    assert_eq!(xattr(&house, "dir/file", CACHED).await.unwrap(), "0/3");
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_cached() {
    let home = tempfile::tempdir().unwrap();
    let house = with_cache(&home);
    let fh = house.create("new", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"four").await.unwrap();
    assert_eq!(xattr(&house, "new", CACHED).await.unwrap(), "0/4");
    house.close(fh).await.unwrap();
}

#[tokio::test]
async fn there_is_no_other_attribute_and_without_a_cache_none() {
    let home = tempfile::tempdir().unwrap();
    let house = with_cache(&home);
    house.fake.put("file", "bytes");
    assert_eq!(errno(xattr(&house, "file", "user.mine").await), libc::EOPNOTSUPP);
    assert!(house.fs.has_disk_cache());
    let house = House::new();
    house.fake.put("file", "bytes");
    assert_eq!(errno(xattr(&house, "file", CACHED).await), libc::EOPNOTSUPP);
    assert!(!house.fs.has_disk_cache());
}

/// Reads a file with O_DIRECT, as `pailfs warm` does.
async fn fill(house: &House, path: &str) -> Vec<u8> {
    let fh = house.open(path, libc::O_RDONLY | libc::O_DIRECT).await.unwrap();
    let mut data = Vec::new();
    loop {
        let piece = house.read(fh, data.len() as u64, 1 << 20).await.unwrap();
        if piece.is_empty() {
            break;
        }
        data.extend(piece);
    }
    house.close(fh).await.unwrap();
    data
}

/// An open for reading: whether the kernel reads the file by itself.
async fn is_passed(house: &House, path: &str) -> bool {
    let ino = house.enter(path).await.unwrap().ino;
    let opened = house.fs.open(ino, libc::O_RDONLY).await.unwrap();
    house.fs.release(opened.fh).await;
    house.leave(ino);
    opened.backing.is_some() && !opened.direct_io
}

#[tokio::test]
async fn what_was_filled_is_whole_when_the_file_is_closed() {
    let home = tempfile::tempdir().unwrap();
    let house = with_cache(&home);
    for (n, size) in [1, 100_000, 1 << 20, (5 << 20) + 17, 20 << 20].into_iter().enumerate() {
        let name = format!("file{n}");
        let data = pattern(n as u64, size);
        house.fake.put(&name, data.clone());
        assert!(!is_passed(&house, &name).await);
        // In memory already, and so not fetched but for the disk.
        house.cat(&name).await.unwrap();
        assert_same_bytes(&fill(&house, &name).await, &data, &name);
        assert_eq!(xattr(&house, &name, CACHED).await.unwrap(), format!("{size}/{size}"));
        assert!(is_passed(&house, &name).await);
    }
}

#[tokio::test]
async fn a_new_mount_reads_what_is_cached_without_a_get() {
    let home = tempfile::tempdir().unwrap();
    let data = pattern(3, (9 << 20) + 5);
    let first = with_cache(&home);
    first.fake.put("file", data.clone());
    fill(&first, "file").await;
    let again = House::on(first.fake.clone(), |config| config.disk_cache = Some(cache_in(&home)));
    again.fake.forget_calls();
    assert_same_bytes(&again.cat("file").await.unwrap(), &data, "from the disk");
    assert_eq!(again.fake.count("GetObject"), 0);
    // Another version is another file.
    let new = pattern(4, 1000);
    again.fake.put("file", new.clone());
    let ino = again.enter("file").await.unwrap().ino;
    again.fs.getattr(ino).await.unwrap();
    let fresh = House::on(first.fake.clone(), |config| config.disk_cache = Some(cache_in(&home)));
    assert_same_bytes(&fresh.cat("file").await.unwrap(), &new, "the new one");
}

#[tokio::test]
async fn a_corrupted_block_is_fetched_again() {
    let home = tempfile::tempdir().unwrap();
    let data = pattern(5, 3 << 20);
    let first = with_cache(&home);
    first.fake.put("file", data.clone());
    fill(&first, "file").await;
    let spoilt = spoil(&home.path().join("cache"), data.len() as u64, (1 << 20) + 12_345);
    assert_eq!(spoilt, 1, "the one file of that length");
    let again = House::on(first.fake.clone(), |config| config.disk_cache = Some(cache_in(&home)));
    again.fake.forget_calls();
    assert!(!is_passed(&again, "file").await);
    assert_same_bytes(&again.cat("file").await.unwrap(), &data, "refetched");
    assert!(again.fake.count("GetObject") > 0);
    assert!(again.disk.as_ref().unwrap().stats().corrupt > 0);
    fill(&again, "file").await;
    assert!(is_passed(&again, "file").await, "and cached again");
}

/// Changes one byte in files of this length below a directory; answers how many there are.
fn spoil(dir: &std::path::Path, len: u64, at: u64) -> usize {
    use std::os::unix::fs::FileExt;
    let mut found = 0;
    for entry in walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap) {
        if entry.file_type().is_file() && entry.metadata().unwrap().len() == len {
            let file = std::fs::OpenOptions::new().read(true).write(true).open(entry.path()).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[!byte[0]], at).unwrap();
            found += 1;
        }
    }
    found
}

/// Another mount that is at work for ever holds the lock that the writing of blocks needs.
#[tokio::test]
async fn a_disk_that_stands_still_holds_up_no_read() {
    let home = tempfile::tempdir().unwrap();
    let house = with_cache(&home);
    let marker = std::fs::File::open(home.path().join("cache/pailfs-cache")).unwrap();
    marker.lock().unwrap();
    // More than wait for the disk and GETs that may be under way.
    let mut open = Vec::new();
    for n in 0..100 {
        house.fake.put(format!("file{n}"), vec![n]);
        let fh = house.open(&format!("file{n}"), libc::O_RDONLY | libc::O_DIRECT).await.unwrap();
        assert_eq!(house.read(fh, 0, 1 << 20).await.unwrap(), [n]);
        open.push(fh);
    }
    marker.unlock().unwrap();
    for fh in open {
        house.close(fh).await.unwrap();
    }
    assert_eq!(xattr(&house, "file99", CACHED).await.unwrap(), "1/1");
}

/// The kernel wants all handles of an inode passed through one file, or none.
#[tokio::test]
async fn handles_of_one_file_reach_it_one_way() {
    let home = tempfile::tempdir().unwrap();
    let house = with_cache(&home);
    house.fake.put("file", pattern(6, 2 << 20));
    fill(&house, "file").await;
    let ino = house.enter("file").await.unwrap().ino;
    let reader = house.fs.open(ino, libc::O_RDONLY).await.unwrap();
    let backing = reader.backing.clone().expect("passed");
    let both = libc::O_RDWR | libc::O_TRUNC;
    assert_eq!(
        errno(house.fs.open(ino, both).await.map(drop)),
        libc::EBUSY,
        "a mapping would change the cache"
    );
    assert_eq!(house.fake.data("file").len(), 2 << 20, "nor is it truncated");
    let writer = house.fs.open(ino, libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
    assert!(writer.direct_io && writer.backing.is_some_and(|b| std::sync::Arc::ptr_eq(&b, &backing)));
    house.write(writer.fh, 0, b"new").await.unwrap();
    house.close(writer.fh).await.unwrap();
    let late = house.fs.open(ino, libc::O_RDONLY).await.unwrap();
    assert!(late.direct_io && late.backing.is_some(), "of another version: its reads come here");
    assert_eq!(house.read(late.fh, 0, 100).await.unwrap(), b"new");
    house.fs.release(late.fh).await;
    house.fs.release(reader.fh).await;
    let alone = house.fs.open(ino, libc::O_RDONLY).await.unwrap();
    // The new version may be whole in the cache by now.
    assert!(alone.backing.is_none_or(|new| !std::sync::Arc::ptr_eq(&new, &backing)));
    house.fs.release(alone.fh).await;
}
