//! What an object keeps that is copied on the server's side, or goes on from what it was: as S3 has it, whose copies lack
//! how the object was encrypted, and a website's redirect, where their request does not say so.

mod support;

use std::ffi::OsStr;

use pailfs::config::{AttributesConfig, Config, Encryption};
use pailfs::error::Error;
use pailfs::fs::SetAttr;
use support::bytes::pattern;
use support::fake::FakeS3;
use support::house::errno;
use support::{Fault, House, On};

const MIB: usize = 1 << 20;
const APART: [(&str, &str); 4] = [
    ("x-amz-server-side-encryption", "aws:kms"),
    ("x-amz-server-side-encryption-aws-kms-key-id", "arn:aws:kms:us-east-1:111122223333:key/mine"),
    ("x-amz-server-side-encryption-bucket-key-enabled", "true"),
    ("x-amz-website-redirect-location", "/elsewhere"),
];
const TAGS: &str = "by=me&a%20b=c";

fn keeping(change: impl FnOnce(&mut Config)) -> House {
    House::with(|config| {
        config.attributes = AttributesConfig::Metadata;
        change(config);
    })
}

async fn chmod(house: &House, path: &str, mode: u32) -> Result<(), Error> {
    let attr = house.enter(path).await?;
    let set = house.fs.setattr(attr.ino, SetAttr { mode: Some(mode), ..SetAttr::default() }).await;
    house.leave(attr.ino);
    set.map(|_| ())
}

async fn set(house: &House, path: &str, name: &str, value: &str) -> Result<(), Error> {
    let attr = house.enter(path).await?;
    let done = house.fs.setxattr(attr.ino, OsStr::new(name), value.as_bytes(), 0).await;
    house.leave(attr.ino);
    done
}

async fn append(house: &House, path: &str, bytes: usize) {
    let fh = house.open(path, libc::O_WRONLY | libc::O_APPEND).await.unwrap();
    let size = house.fake.object(path).unwrap().size();
    house.write(fh, size, &vec![1; bytes]).await.unwrap();
    house.close(fh).await.unwrap();
}

#[tokio::test]
async fn a_copy_in_parts_keeps_all_that_a_copy_of_one_does() {
    let house = keeping(|config| config.s3.copy_bytes_max = 6 << 20);
    house.fake.change(|options| options.copy_bytes_max = 6 << 20);
    let data = pattern(2, 12 * MIB);
    house.fake.put_with(
        "large",
        data.clone(),
        &[("content-type", "text/x-odd"), APART[0], APART[3], ("x-amz-meta-by", "hand")],
    );
    house.fake.tag("large", TAGS);
    let carried = |key: &str| {
        let object = house.fake.object(key).unwrap();
        let mut kept = (object.headers.clone(), object.tags.clone());
        kept.0.remove("x-amz-storage-class");
        (kept, object.metadata["by"].clone())
    };
    let before = carried("large");
    chmod(&house, "large", 0o600).await.unwrap();
    assert_eq!(carried("large"), before);
    house.rename("large", "moved", 0).await.unwrap();
    assert_eq!(carried("moved"), before);
    assert_eq!((house.fake.count("CopyObject"), house.fake.count("UploadPartCopy")), (0, 4));
    assert_eq!(house.fake.data("moved"), data);
    assert_eq!(house.fake.object("moved").unwrap().metadata["mode"], (0o100600).to_string());
    // Tags that cannot be read are not lost in silence; a server that has none is not asked for any.
    let denied = Fault::Error { status: 403, code: "AccessDenied" };
    house.faults.plan(On::op("GetObjectTagging").once(), denied);
    assert_eq!(errno(house.rename("moved", "again", 0).await), libc::EACCES);
    assert_eq!(house.fake.keys(), ["moved"]);
    house.faults.plan(On::op("GetObjectTagging"), Fault::Error { status: 501, code: "NotImplemented" });
    house.rename("moved", "again", 0).await.unwrap();
    assert_eq!(house.fake.keys(), ["again"]);
}

/// What an object has of [`APART`].
fn apart(fake: &FakeS3, key: &str) -> Vec<(String, String)> {
    let object = fake.object(key).unwrap_or_else(|| panic!("no {key}"));
    let names = APART.iter().filter_map(|(name, _)| object.headers.get_key_value(*name));
    names.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn all() -> Vec<(String, String)> {
    APART.map(|(name, value)| (name.to_string(), value.to_string())).to_vec()
}

#[tokio::test]
async fn encryption_and_redirect_outlive_every_change() {
    let house = keeping(|_| ());
    for key in ["small", "d/", "d/sub/file", "large"] {
        let bytes = if key == "large" { 6 * MIB } else { 5 * usize::from(!key.ends_with('/')) };
        house.fake.put_with(key, pattern(1, bytes), &APART);
    }
    for (path, key) in [("small", "small"), ("large", "large"), ("d", "d/"), ("d/sub/file", "d/sub/file")] {
        chmod(&house, path, 0o700).await.unwrap();
        assert_eq!(apart(&house.fake, key), all(), "chmod {path}");
    }
    set(&house, "small", "s3.cache-control", "no-store").await.unwrap();
    assert_eq!(apart(&house.fake, "small"), all());
    for file in ["small", "large"] {
        append(&house, file, MIB).await;
        assert_eq!(apart(&house.fake, file), all(), ">> {file}");
    }
    assert_eq!(house.fake.count("UploadPartCopy"), 1, "one of them in parts");
    house.rename("small", "moved", 0).await.unwrap();
    house.fake.put("other", "other");
    house.rename("moved", "other", libc::RENAME_EXCHANGE).await.unwrap();
    assert_eq!((apart(&house.fake, "other"), apart(&house.fake, "moved").len()), (all(), 1), "S3's own");
    house.rename("d", "e", 0).await.unwrap();
    assert_eq!((apart(&house.fake, "e/"), apart(&house.fake, "e/sub/file")), (all(), all()));
}

#[tokio::test]
async fn what_the_mount_says_of_encryption_counts() {
    let house = keeping(|config| config.s3.requests.encryption = Some(Encryption::S3));
    house.fake.put_with("file", "bytes", &APART);
    let now = [("x-amz-server-side-encryption", "AES256"), APART[3]];
    let now = now.map(|(name, value)| (name.to_string(), value.to_string()));
    house.rename("file", "moved", 0).await.unwrap();
    assert_eq!(apart(&house.fake, "moved"), now);
    house.fake.put_with("another", "bytes", &APART);
    chmod(&house, "another", 0o600).await.unwrap();
    assert_eq!(apart(&house.fake, "another"), now);
}
