//! Extended attributes: user metadata as `user.NAME`, S3's own features as `s3.NAME`.

mod support;

use std::ffi::OsStr;

use pailfs::config::AttributesConfig;
use pailfs::error::Error;
use pailfs::fs::SetAttr;
use pailfs::write::recover::send;
use pailfs::write::upload::Uploads;
use support::bytes::pattern;
use support::fake::client_over;
use support::house::errno;
use support::{Fault, House, On};

const MIB: usize = 1 << 20;

fn keeping() -> House {
    House::with(|config| config.attributes = AttributesConfig::Metadata)
}

async fn get(house: &House, path: &str, name: &str) -> Result<String, Error> {
    let attr = house.enter(path).await?;
    let value = house.fs.getxattr(attr.ino, OsStr::new(name)).await;
    house.leave(attr.ino);
    value.map(|value| String::from_utf8(value).unwrap())
}

async fn set(house: &House, path: &str, name: &str, value: &str) -> Result<(), Error> {
    set_with(house, path, name, value, 0).await
}

async fn set_with(house: &House, path: &str, name: &str, value: &str, flags: i32) -> Result<(), Error> {
    let attr = house.enter(path).await?;
    let done = house.fs.setxattr(attr.ino, OsStr::new(name), value.as_bytes(), flags).await;
    house.leave(attr.ino);
    done
}

async fn remove(house: &House, path: &str, name: &str) -> Result<(), Error> {
    let attr = house.enter(path).await?;
    let done = house.fs.removexattr(attr.ino, OsStr::new(name)).await;
    house.leave(attr.ino);
    done
}

async fn list(house: &House, path: &str) -> Vec<String> {
    let attr = house.enter(path).await.unwrap();
    let names = house.fs.listxattr(attr.ino).await.unwrap();
    house.leave(attr.ino);
    let mut names: Vec<String> = names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn user_metadata_are_extended_attributes() {
    let house = keeping();
    let theirs = [("x-amz-meta-mode", "33152"), ("x-amz-meta-colour", "blue"), ("x-amz-meta-part", "50%zz")];
    house.fake.put_with("file", "bytes", &theirs);
    assert_eq!(list(&house, "file").await, ["user.colour", "user.part"]);
    assert_eq!(get(&house, "file", "user.part").await.unwrap(), "50%zz");
    set(&house, "file", "user.Größe", " 5 Äpfel\n").await.unwrap();
    assert_eq!(get(&house, "file", "user.Größe").await.unwrap(), " 5 Äpfel\n");
    let metadata = house.fake.object("file").unwrap().metadata.clone();
    assert_eq!(metadata["--47r--c3--b6--c3--9fe"], "%205 %c3%84pfel%0a");
    assert_eq!((metadata["mode"].as_str(), metadata["colour"].as_str()), ("33152", "blue"));
    let create = set_with(&house, "file", "user.colour", "red", libc::XATTR_CREATE).await;
    assert_eq!(errno(create), libc::EEXIST);
    let replace = set_with(&house, "file", "user.none", "red", libc::XATTR_REPLACE).await;
    assert_eq!(errno(replace), libc::ENODATA);
    remove(&house, "file", "user.colour").await.unwrap();
    assert_eq!(errno(remove(&house, "file", "user.colour").await), libc::ENODATA);
    assert_eq!(errno(get(&house, "file", "user.colour").await), libc::ENODATA);
    for name in ["user.mode", "user.mtime", "user.file-owner"] {
        assert_eq!(errno(set(&house, "file", name, "1").await), libc::EPERM, "{name}");
    }
    for name in ["system.posix_acl_access", "security.selinux", "trusted.x"] {
        assert_eq!(errno(set(&house, "file", name, "1").await), libc::EOPNOTSUPP, "{name}");
        assert_eq!(errno(get(&house, "file", name).await), libc::EOPNOTSUPP, "{name}");
    }
    assert_eq!(errno(set(&house, "file", "user.", "1").await), libc::EINVAL);
    house.mkdir("dir").await.unwrap();
    set(&house, "dir", "user.of", "a directory").await.unwrap();
    assert_eq!(house.fake.object("dir/").unwrap().metadata["of"], "a directory");
    assert_eq!(list(&house, "dir").await, ["user.of"]);
}

#[tokio::test]
async fn files_without_any_are_known_to_have_none() {
    let house = keeping();
    house.fake.put_with("file", "bytes", &[("x-amz-meta-mode", "33152")]);
    let attr = house.enter("file").await.unwrap();
    house.fake.forget_calls();
    assert!(list(&house, "file").await.is_empty());
    assert_eq!(errno(get(&house, "file", "user.x").await), libc::ENODATA);
    assert!(house.fake.calls().is_empty(), "{:?}", house.fake.counts());
    house.leave(attr.ino);
}

#[tokio::test]
async fn what_is_set_before_the_close_travels_with_the_upload() {
    let house = keeping();
    let fh = house.create("file", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"bytes").await.unwrap();
    set(&house, "file", "user.colour", "blue").await.unwrap();
    set(&house, "file", "s3.content-type", "text/x-odd").await.unwrap();
    set(&house, "file", "s3.storage-class", "STANDARD_IA").await.unwrap();
    assert_eq!(get(&house, "file", "user.colour").await.unwrap(), "blue");
    assert_eq!(get(&house, "file", "s3.content-type").await.unwrap(), "text/x-odd");
    assert_eq!(list(&house, "file").await, ["user.colour"]);
    house.fake.forget_calls();
    house.close(fh).await.unwrap();
    assert_eq!(house.fake.counts().into_iter().collect::<Vec<_>>(), [("PutObject", 1)]);
    let object = house.fake.object("file").unwrap();
    assert_eq!(
        (object.metadata["colour"].as_str(), &*object.headers["content-type"]),
        ("blue", "text/x-odd")
    );
    assert_eq!(object.headers["x-amz-storage-class"], "STANDARD_IA");
}

#[tokio::test]
async fn all_metadata_of_an_object_are_at_most_2_kib() {
    let house = keeping();
    house.fake.put("file", "bytes");
    assert_eq!(errno(set(&house, "file", "user.big", &"x".repeat(2046)).await), libc::E2BIG);
    set(&house, "file", "user.a", &"x".repeat(1000)).await.unwrap();
    assert_eq!(errno(set(&house, "file", "user.b", &"x".repeat(1100)).await), libc::ENOSPC);
    assert_eq!(list(&house, "file").await, ["user.a"]);
    set(&house, "file", "user.b", &"x".repeat(900)).await.unwrap();
    let fh = house.create("new", libc::O_WRONLY).await.unwrap();
    set(&house, "new", "user.a", &"x".repeat(1000)).await.unwrap();
    assert_eq!(errno(set(&house, "new", "user.b", &"x".repeat(1100)).await), libc::ENOSPC);
    house.close(fh).await.unwrap();
    assert_eq!(list(&house, "new").await, ["user.a"], "what was refused is not sent");
    // Attributes are metadata, too.
    house.fake.put_with("full", "bytes", &[("x-amz-meta-by", &"x".repeat(2000))]);
    let full = house.enter("full").await.unwrap();
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(errno(house.fs.setattr(full.ino, mode).await), libc::ENOSPC);
    assert_eq!((house.fs.getattr(full.ino).await.unwrap().perm, house.fake.count("CopyObject")), (0o644, 2));
    house.leave(full.ino);
    // As S3 says it, of what is only known when it is sent.
    let fh = house.open("full", libc::O_WRONLY | libc::O_APPEND).await.unwrap();
    house.write(fh, 5, b" more").await.unwrap();
    assert_eq!(errno(house.close(fh).await), libc::ENOSPC);
    assert_eq!(house.fake.data("full"), "bytes");
}

#[tokio::test]
async fn s3s_own_are_told_and_set() {
    for attributes in [AttributesConfig::None, AttributesConfig::Metadata] {
        let house = House::with(|config| config.attributes = attributes);
        let headers =
            [("content-type", "text/plain"), ("cache-control", "no-store"), ("x-amz-meta-by", "me")];
        let etag = house.fake.put_with("d/file", "bytes", &headers);
        let told = async |name: &str| get(&house, "d/file", name).await;
        assert_eq!(told("s3.key").await.unwrap(), "d/file");
        assert_eq!(told("s3.bucket").await.unwrap(), house.fs.config().s3.bucket);
        assert_eq!(told("s3.etag").await.unwrap(), etag);
        assert_eq!(told("s3.content-type").await.unwrap(), "text/plain");
        assert_eq!(told("s3.cache-control").await.unwrap(), "no-store");
        assert_eq!(told("s3.storage-class").await.unwrap(), "STANDARD");
        assert!(httpdate::parse_http_date(&told("s3.last-modified").await.unwrap()).is_ok());
        assert_eq!(told("s3.sse").await.unwrap(), "AES256");
        for none in ["s3.content-language", "s3.restore", "s3.x-amz-server-side-encryption", "s3.nonsense"] {
            assert_eq!(errno(told(none).await), libc::ENODATA, "{none}");
        }
        set(&house, "d/file", "s3.content-type", "text/x-odd").await.unwrap();
        set(&house, "d/file", "s3.content-language", "de").await.unwrap();
        set(&house, "d/file", "s3.storage-class", "STANDARD_IA").await.unwrap();
        remove(&house, "d/file", "s3.cache-control").await.unwrap();
        let object = house.fake.object("d/file").unwrap();
        assert_eq!(object.headers["content-type"], "text/x-odd");
        assert_eq!(object.headers["content-language"], "de");
        assert_eq!(object.headers["x-amz-storage-class"], "STANDARD_IA");
        assert_eq!((object.headers.get("cache-control"), &*object.metadata["by"]), (None, "me"));
        for only_read in ["s3.etag", "s3.key", "s3.nonsense"] {
            assert_eq!(errno(set(&house, "d/file", only_read, "x").await), libc::EPERM, "{only_read}");
        }
        for (name, wrong) in [
            ("s3.restore", "soon"),
            ("s3.restore", "days=1,tier=Foo"),
            ("s3.content-disposition", "attachment; filename=\"ü\""),
            ("s3.content-type", "text/plain\nx-odd: 1"),
            ("s3.storage-class", "NON\tSENSE"),
        ] {
            assert_eq!(errno(set(&house, "d/file", name, wrong).await), libc::EINVAL, "{name} {wrong}");
        }
        assert_eq!(errno(set(&house, "", "s3.location", "here").await), libc::EPERM);
        assert_eq!(house.cat("d/file").await.unwrap(), b"bytes");
    }
}

#[tokio::test]
async fn an_acl_is_of_what_s3_has() {
    for write_back in [false, true] {
        let house = House::with(|config| config.write_back = write_back);
        house.fake.put("d/below", "bytes");
        let fh = house.create("new", libc::O_WRONLY).await.unwrap();
        assert_eq!(errno(get(&house, "new", "s3.acl").await), libc::ENODATA, "of what is written");
        for unknown in ["s3.tags", "s3.acl", "s3.etag"] {
            assert_eq!(errno(get(&house, "d", unknown).await), libc::ENODATA, "{unknown} without a marker");
        }
        assert_eq!(errno(set(&house, "new", "s3.acl", "public-read").await), libc::EBUSY);
        house.close(fh).await.unwrap();
        // What was acknowledged goes first.
        assert!(get(&house, "new", "s3.acl").await.unwrap().contains("FULL_CONTROL"));
        assert!(house.fake.object("new").is_some());
    }
}

#[tokio::test]
async fn what_is_set_of_a_directory_that_is_to_be_sent_is_known_and_stays() {
    let house = House::with(|config| {
        (config.attributes, config.write_back) = (AttributesConfig::Metadata, true);
    });
    house.mkdir("d").await.unwrap();
    set(&house, "d", "user.a", "1").await.unwrap();
    assert_eq!(house.fake.keys(), [""; 0]);
    assert_eq!(get(&house, "d", "user.a").await.unwrap(), "1");
    set(&house, "d", "s3.cache-control", "no-store").await.unwrap(); // goes at once, and after what waits
    set(&house, "d", "user.b", "2").await.unwrap();
    house.fsyncdir("").await.unwrap();
    assert_eq!(house.fake.object("d/").unwrap().headers["cache-control"], "no-store");
    house.refresh("d").await;
    assert_eq!(get(&house, "d", "user.a").await.unwrap() + &get(&house, "d", "user.b").await.unwrap(), "12");
}

#[tokio::test]
async fn tags_set_before_the_close_travel_with_the_upload() {
    for write_back in [false, true] {
        let house = House::with(|config| config.write_back = write_back);
        let fh = house.create("new", libc::O_WRONLY).await.unwrap();
        house.write(fh, 0, b"bytes").await.unwrap();
        assert_eq!(errno(get(&house, "new", "s3.tags").await), libc::ENODATA);
        set(&house, "new", "s3.tags", "by=me").await.unwrap();
        assert_eq!(get(&house, "new", "s3.tags").await.unwrap(), "by=me");
        remove(&house, "new", "s3.tags").await.unwrap();
        assert_eq!(errno(get(&house, "new", "s3.tags").await), libc::ENODATA);
        let document = "<Tagging><TagSet><Tag><Key>a b</Key><Value>c=d</Value></Tag></TagSet></Tagging>";
        set(&house, "new", "s3.tags", document).await.unwrap();
        assert_eq!(get(&house, "new", "s3.tags").await.unwrap(), "a%20b=c%3Dd");
        let eleven: Vec<String> = (0..11).map(|n| format!("k{n}=v")).collect();
        let (long_key, long_value) = (format!("{}=v", "k".repeat(129)), format!("k={}", "v".repeat(257)));
        let wrong =
            [&*eleven.join("&"), &long_key, &long_value, "k=1&k=2", "=v", "aws:k=v", "k=1%262", "<Tagging>"];
        for wrong in wrong {
            assert_eq!(errno(set(&house, "new", "s3.tags", wrong).await), libc::EINVAL, "{wrong}");
        }
        house.fake.forget_calls();
        house.close(fh).await.unwrap();
        house.fsyncdir("").await.unwrap();
        assert_eq!(house.fake.counts().into_iter().collect::<Vec<_>>(), [("PutObject", 1)]);
        assert_eq!(house.fake.object("new").unwrap().tags, "a%20b=c%3Dd");
        set(&house, "new", "s3.tags", "by=you").await.unwrap();
        assert_eq!(house.fake.object("new").unwrap().tags, "by=you");
        assert_eq!(get(&house, "new", "s3.tags").await.unwrap(), "by=you");
    }
}

#[tokio::test]
async fn what_is_set_between_two_commits_stays() {
    let house = House::new();
    house.fake.put("file", "there before");
    let fh = house.open("file", libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
    house.write(fh, 0, b"1").await.unwrap();
    set(&house, "file", "s3.tags", "by=me").await.unwrap();
    set(&house, "file", "s3.content-language", "de").await.unwrap();
    assert_eq!(get(&house, "file", "s3.tags").await.unwrap(), "by=me");
    assert_eq!(get(&house, "file", "s3.content-language").await.unwrap(), "de");
    assert_eq!(house.fake.data("file"), "there before");
    house.fs.fsync(fh).await.unwrap();
    assert_eq!(house.fake.object("file").unwrap().tags, "by=me");
    set(&house, "file", "s3.content-type", "text/x-odd").await.unwrap();
    house.write(fh, 1, b"2").await.unwrap();
    house.fs.fsync(fh).await.unwrap();
    assert_eq!(house.fake.object("file").unwrap().tags, "by=me");
    set(&house, "file", "s3.tags", "by=you").await.unwrap();
    house.write(fh, 2, b"3").await.unwrap();
    house.close(fh).await.unwrap();
    let object = house.fake.object("file").unwrap();
    assert_eq!((&*object.data, object.tags.as_str()), (&b"123"[..], "by=you"));
    assert_eq!(object.headers["content-type"], "text/x-odd");
    assert_eq!(object.headers["content-language"], "de");
}

#[tokio::test]
async fn an_edit_keeps_the_tags() {
    for len in [10, 6 * MIB] {
        let house = House::new();
        house.fake.put("file", pattern(1, len));
        let edit = async |at: usize| {
            let fh = house.open("file", libc::O_WRONLY | libc::O_APPEND).await.unwrap();
            house.write(fh, at as u64, b" and more").await.unwrap();
            house.close(fh).await.unwrap();
            house.fake.object("file").unwrap().tags.clone()
        };
        assert_eq!(edit(len).await, "");
        assert_eq!(house.fake.count("GetObjectTagging"), 0, "S3 says that there are none");
        set(&house, "file", "s3.tags", "by=me&a%20b=c%3Dd").await.unwrap();
        assert_eq!(edit(len + 9).await, "by=me&a%20b=c%3Dd");
        set(&house, "file", "s3.content-language", "de").await.unwrap();
        assert_eq!(edit(len + 18).await, "by=me&a%20b=c%3Dd", "also after what is set makes a copy of it");
    }
}

#[tokio::test]
async fn what_is_set_when_the_upload_has_begun_is_set_after_it() {
    let data = pattern(3, 12 * MIB);
    for (early, late, header) in [
        (Some("by=me"), None, false),
        (None, Some("by=me"), false),
        (Some("by=me"), Some(""), false),
        (Some("by=you"), Some("by=me"), true),
        (Some("by=you"), None, true),
    ] {
        let house = House::new();
        let fh = house.create("large", libc::O_WRONLY).await.unwrap();
        if let Some(tags) = early {
            set(&house, "large", "s3.tags", tags).await.unwrap();
        }
        for (n, chunk) in data.chunks(MIB).enumerate() {
            house.write(fh, (n * MIB) as u64, chunk).await.unwrap();
        }
        if let Some(tags) = late {
            set(&house, "large", "s3.tags", tags).await.unwrap();
        }
        if header {
            set(&house, "large", "s3.content-type", "text/x-odd").await.unwrap();
        }
        house.close(fh).await.unwrap();
        let object = house.fake.object("large").unwrap();
        assert_eq!(object.tags, late.or(early).unwrap_or_default());
        let content_type = object.headers.get("content-type");
        assert_eq!(content_type.is_some_and(|told| told == "text/x-odd"), header);
        let copies = house.fake.count("CopyObject");
        assert_eq!(copies, usize::from(header), "tags alone are no reason for one");
        assert_eq!(object.data, data);
    }
}

#[tokio::test]
async fn what_could_not_be_sent_is_kept_with_its_tags() {
    let house = House::new();
    house.faults.plan(On::op("PutObject"), Fault::Error { status: 403, code: "AccessDenied" });
    let fh = house.create("file", libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, b"bytes").await.unwrap();
    set(&house, "file", "s3.tags", "by=me").await.unwrap();
    assert_eq!(errno(house.close(fh).await), libc::EACCES);
    let kept = house.journal.kept().unwrap();
    let client = client_over(house.fake.transport(), &house.fake.config());
    let runtime = tokio::runtime::Handle::current();
    let uploads = Uploads { client, runtime, journal: house.journal.clone() };
    send(&uploads, &kept[0], &|_| ()).await.unwrap();
    let object = house.fake.object("file").unwrap();
    assert_eq!((&*object.data, object.tags.as_str()), (&b"bytes"[..], "by=me"));
}

#[tokio::test]
async fn a_read_only_mount_sets_none() {
    let house = House::with(|config| {
        (config.attributes, config.read_only) = (AttributesConfig::Metadata, true);
    });
    house.fake.put_with("file", "bytes", &[("x-amz-meta-colour", "blue")]);
    assert_eq!(get(&house, "file", "user.colour").await.unwrap(), "blue");
    assert_eq!(errno(set(&house, "file", "user.colour", "red").await), libc::EROFS);
    assert_eq!(errno(set(&house, "file", "s3.tags", "a=b").await), libc::EROFS);
    assert_eq!(errno(remove(&house, "file", "user.colour").await), libc::EROFS);
}
