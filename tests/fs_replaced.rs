//! Files that lose their name, or the object they were copied from, while programs have them open.

mod support;

use support::bytes::{assert_same_bytes, pattern};
use support::house::errno;
use support::{House, On};

const MIB: usize = 1 << 20;

/// A file of this length that is open, of which the first bytes were read.
async fn opened(house: &House, len: usize) -> (u64, Vec<u8>) {
    let data = pattern(1, len);
    house.fake.put("file", data.clone());
    let fh = house.open("file", libc::O_RDONLY).await.unwrap();
    assert_same_bytes(&house.read(fh, 0, 100).await.unwrap(), &data[..100], "before");
    (fh, data)
}

/// The handle reads what it was opened on; the name holds what took it; in the end nothing is left of the former.
async fn is_readable(house: &House, fh: u64, data: &[u8], what: &str) {
    for at in (0..data.len()).step_by(MIB) {
        let end = data.len().min(at + MIB);
        assert_same_bytes(&house.read(fh, at as u64, MIB).await.unwrap(), &data[at..end], what);
    }
    assert_eq!(house.cat("file").await.unwrap(), b"new", "{what}");
    house.close(fh).await.unwrap();
    assert_eq!(house.keys_settled().await, ["file"], "{what}");
    assert_eq!(house.fake.data("file"), "new", "{what}");
    let held = house.fs.held();
    assert_eq!((held.handles, held.staged_bytes), (0, 0), "{what}: {held:?}");
}

#[tokio::test]
async fn what_is_replaced_while_it_is_open_reads_as_it_was() {
    for len in [1000, 9 * MIB] {
        for what in ["renamed over", "renamed over before it was published", "removed and made anew"] {
            let house = House::new();
            let (fh, data) = opened(&house, len).await;
            match what {
                "renamed over" => {
                    house.make("file.tmp", b"new").await.unwrap();
                    house.rename("file.tmp", "file", 0).await.unwrap();
                }
                "removed and made anew" => {
                    house.unlink("file").await.unwrap();
                    house.make("file", b"new").await.unwrap();
                }
                _ => {
                    let new = house.create("file.tmp", libc::O_WRONLY).await.unwrap();
                    house.write(new, 0, b"new").await.unwrap();
                    house.rename("file.tmp", "file", 0).await.unwrap();
                    house.close(new).await.unwrap();
                }
            }
            is_readable(&house, fh, &data, what).await;
        }
    }
}

#[tokio::test]
async fn what_is_removed_with_its_directory_while_it_is_open_reads_as_it_was() {
    let house = House::new();
    let data = pattern(3, 2 * MIB);
    house.fake.put("dir/file", data.clone());
    let fh = house.open("dir/file", libc::O_RDONLY).await.unwrap();
    house.unlink("dir/file").await.unwrap();
    house.rmdir("dir").await.unwrap();
    assert_eq!(house.keys_settled().await, [""; 0]);
    assert_same_bytes(&house.read(fh, 0, 3 * MIB).await.unwrap(), &data, "removed");
    house.close(fh).await.unwrap();
    assert_eq!(house.fs.held().staged_bytes, 0);
}

/// What is written to it goes nowhere, as to a file that was removed.
#[tokio::test]
async fn what_is_replaced_while_it_is_written_stays_readable_and_is_published_by_nobody() {
    let house = House::new();
    let mut data = pattern(2, 3 * MIB);
    house.fake.put("file", data.clone());
    let fh = house.open("file", libc::O_RDWR).await.unwrap();
    house.write(fh, 2_000_000, b"changed").await.unwrap();
    data[2_000_000..2_000_007].copy_from_slice(b"changed");
    house.make("file.tmp", b"new").await.unwrap();
    house.rename("file.tmp", "file", 0).await.unwrap();
    house.write(fh, 5, b"more").await.unwrap();
    data[5..9].copy_from_slice(b"more");
    is_readable(&house, fh, &data, "written").await;
}

#[tokio::test]
async fn what_is_too_large_to_be_held_is_replaced_and_estale() {
    let house = House::new();
    let (fh, data) = opened(&house, 66 * MIB).await;
    house.make("file.tmp", b"new").await.unwrap();
    let gets = house.fake.count("GetObject");
    house.rename("file.tmp", "file", 0).await.unwrap();
    assert_eq!(house.fake.count("GetObject"), gets, "nothing is fetched in vain");
    assert_eq!(errno(house.read(fh, data.len() as u64 - 100, 100).await), libc::ESTALE);
    house.close(fh).await.unwrap();
    assert_eq!(house.cat("file").await.unwrap(), b"new");
}

#[tokio::test]
async fn who_has_nothing_open_pays_nothing() {
    let house = House::new();
    house.make("file", b"old").await.unwrap();
    house.make("file.tmp", b"new").await.unwrap();
    house.rename("file.tmp", "file", 0).await.unwrap();
    assert_eq!(house.fake.count("GetObject"), 0);
    assert_eq!(house.fake.data("file"), "new");
}

/// Ranges that the server is to copy at the close, whatever happened to where they come from.
#[tokio::test]
async fn what_was_copied_by_the_server_is_what_it_was_when_it_was_copied() {
    for what in ["rename", "rename its directory", "unlink", "write over", "rename over", "rename both"] {
        let house = House::new();
        let data = pattern(4, 20 * MIB);
        house.fake.put("dir/source", data.clone());
        house.make("other", b"other").await.unwrap();
        let from = house.open("dir/source", libc::O_RDONLY).await.unwrap();
        let to = house.create("copy", libc::O_WRONLY).await.unwrap();
        let copied = house.fs.copy_file_range(&house.fs, (from, 0), (to, 0), 1 << 30).await.unwrap();
        assert_eq!(copied, data.len() as u64);
        house.close(from).await.unwrap();
        let fetched = match what {
            "rename" => house.rename("dir/source", "elsewhere", 0).await.map(|()| false),
            "rename its directory" => house.rename("dir", "folder", 0).await.map(|()| false),
            "unlink" => house.unlink("dir/source").await.map(|()| true),
            "write over" => house.truncate("dir/source", 5).await.map(|()| true),
            "rename over" => house.rename("other", "dir/source", 0).await.map(|()| true),
            _ => {
                house.rename("dir/source", "elsewhere", 0).await.unwrap();
                house.rename("copy", "copy2", 0).await.map(|()| false)
            }
        };
        let fetched = fetched.unwrap();
        house.close(to).await.unwrap();
        let name = if what == "rename both" { "copy2" } else { "copy" };
        assert_same_bytes(&house.fake.data(name), &data, what);
        assert_eq!(house.fake.count("GetObject") > 0, fetched, "{what}");
        assert_eq!(house.fs.held().staged_bytes, 0, "{what}");
    }
}

#[tokio::test]
async fn a_file_that_is_renamed_before_it_is_published_has_the_type_of_its_last_name() {
    let house = House::new();
    for (made, named, expected) in
        [("a.tmp", "a.html", Some("text/html")), ("b.png", "b.txt", Some("text/plain")), ("c.png", "c", None)]
    {
        let fh = house.create(made, libc::O_WRONLY).await.unwrap();
        house.write(fh, 0, b"x").await.unwrap();
        house.rename(made, named, 0).await.unwrap();
        house.close(fh).await.unwrap();
        let object = house.fake.object(named).unwrap();
        assert_eq!(object.headers.get("content-type").map(String::as_str), expected, "{named}");
    }
    let given = House::with(|config| config.content_type = Some("image/png".into()));
    let fh = given.create("a.png", libc::O_WRONLY).await.unwrap();
    given.rename("a.png", "a.txt", 0).await.unwrap();
    given.close(fh).await.unwrap();
    assert_eq!(given.fake.object("a.txt").unwrap().headers["content-type"], "image/png");
}

#[tokio::test]
async fn a_file_that_cannot_be_held_is_replaced_all_the_same() {
    let house = House::new();
    let (fh, data) = opened(&house, 3 * MIB).await;
    house.make("file.tmp", b"new").await.unwrap();
    let denied = support::Fault::Error { status: 403, code: "AccessDenied" };
    let line = house.faults.plan(On::op("GetObject"), denied);
    house.rename("file.tmp", "file", 0).await.unwrap();
    assert!(line.fired() > 0);
    line.lift();
    assert_eq!(errno(house.read(fh, data.len() as u64 - 100, 100).await), libc::ESTALE);
    house.close(fh).await.unwrap();
}
