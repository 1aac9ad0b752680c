//! Which version of an object a program sees: what an append carries on, what a rename does to open
//! handles, and when the kernel may keep the pages it has.

mod support;

use std::time::Duration;

use support::bytes::{assert_same_bytes, pattern};
use support::house::errno;
use support::{Fault, House, On};

const MIB: usize = 1 << 20;

/// An open for reading, closed again: whether the kernel may keep its pages.
async fn keeps_pages(house: &House, path: &str) -> bool {
    let ino = house.enter(path).await.unwrap().ino;
    let opened = house.fs.open(ino, libc::O_RDONLY).await.unwrap();
    assert!(!opened.direct_io, "nobody reads another version");
    house.fs.release(opened.fh).await;
    house.leave(ino);
    opened.keep_cache
}

fn no_ttl() -> House {
    House::with(|config| config.metadata_ttl = Duration::ZERO)
}

#[tokio::test]
async fn appending_keeps_what_the_object_carries() {
    for len in [10, 6 * MIB] {
        let house = House::new();
        let data = pattern(1, len);
        let headers =
            [("content-type", "text/x-log"), ("cache-control", "no-store"), ("x-amz-meta-by", "hand")];
        house.fake.put_with("log", data.clone(), &headers);
        let fh = house.open("log", libc::O_WRONLY | libc::O_APPEND).await.unwrap();
        house.write(fh, len as u64, b" and more").await.unwrap();
        house.close(fh).await.unwrap();
        assert_same_bytes(&house.fake.data("log"), &[&data[..], b" and more"].concat(), "log");
        let object = house.fake.object("log").unwrap();
        assert_eq!(object.headers["content-type"], "text/x-log");
        assert_eq!(object.headers["cache-control"], "no-store");
        assert_eq!(object.metadata["by"], "hand");
    }
}

#[tokio::test]
async fn a_rename_keeps_what_the_object_carries() {
    let house = House::new();
    let headers =
        [("content-type", "text/x-log"), ("x-amz-storage-class", "STANDARD_IA"), ("x-amz-meta-by", "hand")];
    house.fake.put_with("old", "bytes", &headers);
    house.rename("old", "new", 0).await.unwrap();
    let object = house.fake.object("new").unwrap();
    assert_eq!(object.headers["content-type"], "text/x-log");
    assert_eq!(object.headers["x-amz-storage-class"], "STANDARD_IA");
    assert_eq!(object.metadata["by"], "hand");
}

#[tokio::test]
async fn a_handle_reads_on_after_a_rename() {
    let house = House::new();
    let data = pattern(2, 3 * MIB);
    house.fake.put("old", data.clone());
    let fh = house.open("old", libc::O_RDONLY).await.unwrap();
    let mut got = house.read(fh, 0, 4096).await.unwrap();
    house.rename("old", "new", 0).await.unwrap();
    while got.len() < data.len() {
        got.extend(house.read(fh, got.len() as u64, MIB).await.unwrap());
    }
    house.close(fh).await.unwrap();
    assert_same_bytes(&got, &data, "across the rename");
}

#[tokio::test]
async fn pages_are_kept_while_the_etag_is_unchanged() {
    let house = no_ttl();
    house.fake.put("file", "one");
    let kernel = house.enter("file").await.unwrap();
    assert!(!keeps_pages(&house, "file").await, "there are none yet");
    assert!(keeps_pages(&house, "file").await);
    house.fake.put("file", "two");
    assert!(!keeps_pages(&house, "file").await, "they are of the old version");
    house.rename("file", "moved", 0).await.unwrap();
    assert!(keeps_pages(&house, "moved").await, "the same bytes under another name");
    house.leave(kernel.ino);
}

#[tokio::test]
async fn a_rename_does_not_bless_pages_of_an_older_version() {
    let house = no_ttl();
    house.fake.put("file", "one");
    let kernel = house.enter("file").await.unwrap();
    keeps_pages(&house, "file").await;
    house.fake.put("file", "two");
    house.rename("file", "moved", 0).await.unwrap();
    assert!(!keeps_pages(&house, "moved").await);
    house.leave(kernel.ino);
}

#[tokio::test]
async fn handles_that_write_go_past_the_page_cache() {
    let house = House::new();
    house.fake.put("file", "one");
    let kernel = house.enter("file").await.unwrap();
    keeps_pages(&house, "file").await;
    let writing = house.fs.open(kernel.ino, libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
    assert!(writing.direct_io && !writing.keep_cache);
    let reading = house.fs.open(kernel.ino, libc::O_RDONLY).await.unwrap();
    assert!(reading.direct_io, "its pages might never be published");
    house.fs.release(reading.fh).await;
    house.faults.plan(On::op("PutObject"), Fault::Error { status: 403, code: "AccessDenied" });
    house.write(writing.fh, 0, b"two").await.unwrap();
    assert_eq!(errno(house.fs.flush(writing.fh).await), libc::EACCES);
    house.fs.release(writing.fh).await;
    house.leave(kernel.ino);
    assert_eq!(house.cat("file").await.unwrap(), b"one");
}

#[tokio::test]
async fn a_handle_whose_pages_were_kept_is_estale_when_the_object_is_replaced() {
    let house = House::new();
    house.fake.put("file", "one");
    let kernel = house.enter("file").await.unwrap();
    keeps_pages(&house, "file").await;
    let opened = house.fs.open(kernel.ino, libc::O_RDONLY).await.unwrap();
    assert!(opened.keep_cache);
    house.fake.put("file", "two");
    assert_eq!(errno(house.read(opened.fh, 0, 10).await), libc::ESTALE, "it may have read old pages");
    house.fs.release(opened.fh).await;
    house.leave(kernel.ino);
    assert_eq!(house.cat("file").await.unwrap(), b"two");
}

#[tokio::test]
async fn what_was_written_here_and_replaced_elsewhere_is_read_anew() {
    let house = House::new();
    house.make("file", b"ours").await.unwrap();
    house.fake.put("file", "another host's");
    assert_eq!(house.cat("file").await.unwrap(), b"another host's");
}

#[tokio::test]
async fn another_version_than_the_one_being_read_goes_past_the_page_cache() {
    let house = no_ttl();
    house.fake.put("file", "one");
    let kernel = house.enter("file").await.unwrap();
    let old = house.fs.open(kernel.ino, libc::O_RDONLY).await.unwrap();
    assert_eq!(house.read(old.fh, 0, 10).await.unwrap(), b"one");
    house.fake.put("file", "two");
    let new = house.fs.open(kernel.ino, libc::O_RDONLY).await.unwrap();
    assert!(new.direct_io);
    assert_eq!(house.read(new.fh, 0, 10).await.unwrap(), b"two");
    for fh in [old.fh, new.fh] {
        house.fs.release(fh).await;
    }
    house.leave(kernel.ino);
}

/// A handle that has read nothing here may have read the pages that another one brought.
#[tokio::test]
async fn a_handle_that_may_have_read_anothers_pages_is_estale_when_the_object_is_replaced() {
    let house = no_ttl();
    let data = pattern(5, 8 * MIB);
    house.fake.put("file", data.clone());
    let kernel = house.enter("file").await.unwrap();
    let silent = house.fs.open(kernel.ino, libc::O_RDONLY).await.unwrap();
    let other = house.fs.open(kernel.ino, libc::O_RDONLY).await.unwrap();
    assert!(!silent.direct_io && !other.direct_io);
    assert_eq!(house.read(other.fh, 0, 10).await.unwrap(), data[..10]);
    house.fs.release(other.fh).await;
    house.fake.put("file", pattern(6, 8 * MIB));
    assert_eq!(errno(house.read(silent.fh, 6 << 20, 10).await), libc::ESTALE);
    house.fs.release(silent.fh).await;
    house.leave(kernel.ino);
}

/// A handle whose object was replaced before it had read brings pages of the new version.
#[tokio::test]
async fn pages_of_a_later_version_do_not_pass_for_the_one_that_was_opened() {
    let house = no_ttl();
    house.fake.put("file", "one");
    let kernel = house.enter("file").await.unwrap();
    let opened = house.fs.open(kernel.ino, libc::O_RDONLY).await.unwrap();
    house.fake.put("file", "two");
    assert_eq!(house.read(opened.fh, 0, 10).await.unwrap(), b"two");
    house.fs.release(opened.fh).await;
    assert!(keeps_pages(&house, "file").await);
    house.fake.put("file", "one");
    assert!(!keeps_pages(&house, "file").await, "they are of what stood in between");
    house.leave(kernel.ino);
}

#[tokio::test]
async fn truncate_publishes_before_it_answers() {
    let house = House::new();
    let fh = house.create("file", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"something").await.unwrap();
    house.fs.flush(fh).await.unwrap();
    house.truncate("file", 0).await.unwrap();
    assert_eq!(house.fake.data("file"), b""[..]);
    house.write(fh, 0, b"else").await.unwrap();
    house.close(fh).await.unwrap();
    assert_eq!(house.fake.data("file"), b"else"[..]);
}

#[tokio::test]
async fn after_a_failed_write_the_size_is_what_s3_says() {
    let house = House::new();
    let data = pattern(3, 6 * MIB);
    house.fake.put("dir/file", data.clone());
    let dir = house.enter("dir").await.unwrap();
    let listing = house.fs.opendir(dir.ino).unwrap().fh;
    house.faults.plan(On::op("UploadPart"), Fault::Error { status: 403, code: "AccessDenied" });
    let fh = house.open("dir/file", libc::O_WRONLY).await.unwrap();
    let more = pattern(4, 12 * MIB);
    let mut written = data.len();
    for piece in more.chunks(MIB) {
        if house.write(fh, written as u64, piece).await.is_err() {
            break;
        }
        written += piece.len();
    }
    assert_eq!(errno(house.fs.flush(fh).await), libc::EACCES);
    house.fs.release(fh).await;
    let attr = house.enter("dir/file").await.unwrap();
    assert_eq!(attr.size, data.len() as u64);
    house.leave(attr.ino);
    assert_same_bytes(&house.cat("dir/file").await.unwrap(), &data, "dir/file");
    house.fs.releasedir(listing);
    house.leave(dir.ino);
}
