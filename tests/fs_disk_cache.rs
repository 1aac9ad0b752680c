//! The file system over a disk cache: what `pailfs.cached` tells.

mod support;

use std::ffi::OsStr;

use bytes::Bytes;
use pailfs::cache::disk::BLOCK_BYTES;
use pailfs::config::DiskCacheConfig;
use pailfs::error::Error;
use pailfs::fs::CACHED;
use pailfs::key::VersionId;

use support::House;
use support::bytes::pattern;
use support::house::errno;

const CACHE_BYTES: u64 = 64 << 20;

fn with_cache(dir: &tempfile::TempDir) -> House {
    House::with(|config| {
        let dir = dir.path().join("cache");
        config.disk_cache = Some(DiskCacheConfig { dir, bytes_max: CACHE_BYTES, free_bytes_min: 0 });
    })
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
    let version = VersionId::new("dir/file", &etag);
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
