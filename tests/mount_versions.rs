//! Versions as files, and a bucket as it was at a moment, as programs meet them on a mount; compared with what boto3
//! sees of the same.
#![cfg(feature = "servers")]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use support::aws::{Boto, clean_environment, with_credentials};
use support::mount::{Mount, Options, pailfs, run};
use support::servers::{Kind, Server, shared};

fn versioned(server: &Server, hint: &str) -> (String, Boto) {
    let bucket = server.bucket(hint);
    let mut boto = server.boto();
    keep_versions(&mut boto, &bucket, "Enabled");
    (bucket, boto)
}

fn keep_versions(boto: &mut Boto, bucket: &str, status: &str) {
    let about = json!({ "Bucket": bucket, "VersioningConfiguration": { "Status": status } });
    boto.call("put_bucket_versioning", &about);
}

/// S3 tells times in whole seconds.
fn next_second() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    std::thread::sleep(Duration::from_secs(1) - Duration::from_nanos(now.subsec_nanos().into()));
}

fn now() -> String {
    pailfs::key::past::moment(SystemTime::now())
}

/// As the mount names them, and how large: what boto3 sees. Delete markers have no size.
fn versions(boto: &mut Boto, bucket: &str, key: &str) -> BTreeMap<String, Option<u64>> {
    let all = boto.call("list_object_versions", &json!({ "Bucket": bucket, "Prefix": key }));
    let mut found = BTreeMap::new();
    for (list, suffix) in [("Versions", ""), ("DeleteMarkers", ".deleted")] {
        for version in all[list].as_array().into_iter().flatten().filter(|v| v["Key"] == key) {
            let time = version["LastModified"].as_str().unwrap().get(..19).unwrap();
            let name =
                format!("{}Z-{}{suffix}", time.replace(' ', "T"), version["VersionId"].as_str().unwrap());
            found.insert(name, version["Size"].as_u64());
        }
    }
    found
}

fn shown(dir: &Path) -> BTreeMap<String, Option<u64>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let told = entry.metadata().unwrap();
        let size = (!name.ends_with(".deleted")).then_some(told.len());
        let expected = if size.is_some() { 0o644 } else { 0 };
        assert_eq!(told.permissions().mode() & 0o777, expected, "{name}");
        let time = pailfs::key::past::moment(told.modified().unwrap());
        assert!(name.starts_with(&time), "{name} is of {time}");
        (name, size)
    });
    entries.collect()
}

fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().expect("it went well, and should not").raw_os_error().unwrap()
}

fn versions_are_files(kind: Kind) {
    let server = shared(kind);
    let (bucket, mut boto) = versioned(server, "versions");
    let mount = Options::new(server, &bucket).mount();
    boto.put(&bucket, "d/f.txt", b"another");
    boto.put(&bucket, "d/sub/g", b"below");
    for bytes in [&b"1"[..], b"22", b"333"] {
        boto.put(&bucket, "d/f", bytes);
        next_second();
    }
    boto.call("delete_object", &json!({ "Bucket": bucket, "Key": "d/f" }));
    next_second();
    let dir = mount.path("d/.versions/f");
    let expected = versions(&mut boto, &bucket, "d/f");
    assert_eq!(expected.len(), 4);
    assert_eq!(shown(&dir), expected);
    assert_eq!(names(mount.path("d")), ["f.txt", "sub"], "it is not listed");
    assert_eq!(names(mount.path("d/.versions")), ["f", "f.txt"]);
    let mut bytes = Vec::new();
    for (name, size) in &expected {
        let path = dir.join(name);
        if size.is_none() {
            assert_eq!(errno(std::fs::read(&path)), libc::ENOENT);
            continue;
        }
        bytes.push(std::fs::read(&path).unwrap());
        let id = xattr::get(&path, "s3.version-id").unwrap().unwrap();
        assert!(name.ends_with(std::str::from_utf8(&id).unwrap()));
        assert_eq!(xattr::get(&path, "s3.key").unwrap().unwrap(), b"d/f");
        assert!(xattr::get(&path, "s3.last-modified").unwrap().is_some());
        assert!(xattr::get(&path, "s3.etag").unwrap().is_some());
    }
    assert_eq!(bytes, [&b"1"[..], b"22", b"333"]);
    refusals(&mount, &dir, expected.keys().next().unwrap());
    // Undelete, by what any copy does.
    let (second, _) = expected.iter().find(|(_, size)| **size == Some(2)).unwrap();
    assert_eq!(errno(std::fs::metadata(mount.path("d/f"))), libc::ENOENT);
    std::fs::copy(dir.join(second), mount.path("d/f")).unwrap();
    assert_eq!(boto.get(&bucket, "d/f"), b"22");
    let dir_now = versions(&mut boto, &bucket, "d/f");
    assert_eq!(dir_now.len(), 5);
    support::mount::wait_until("the new version is shown", || shown(&dir) == dir_now);
    mount.umount();
    removals(server, &bucket, &mut boto);
}

fn refusals(mount: &Mount, dir: &Path, name: &str) {
    let path = dir.join(name);
    let said = run(Command::new(pailfs()).args(["s3", "tags", "set"]).arg(&path).arg("a=b"));
    assert!(!said.status.success() && said.stderr.contains("/d/f with --version-id"), "{said:?}");
    assert_eq!(errno(std::fs::write(&path, "x")), libc::EROFS);
    assert_eq!(errno(std::fs::write(dir.join("new"), "x")), libc::EROFS);
    assert_eq!(errno(std::fs::create_dir(dir.join("new"))), libc::EROFS);
    assert_eq!(errno(std::fs::rename(&path, mount.path("d/moved"))), libc::EROFS);
    assert_eq!(errno(std::fs::rename(mount.path("d/f.txt"), dir.join("in"))), libc::EROFS);
    assert_eq!(errno(std::fs::remove_dir(dir)), libc::EROFS);
    assert_eq!(errno(std::fs::remove_file(&path)), libc::EPERM);
    assert_eq!(errno(xattr::set(&path, "s3.tags", b"a=b")), libc::EROFS);
    assert_eq!(errno(std::fs::metadata(mount.path("d/.versions/none"))), libc::ENOENT);
    assert_eq!(errno(std::fs::metadata(dir.join("2026-01-01T00:00:00Z-none"))), libc::ENOENT);
}

fn removals(server: &Server, bucket: &str, boto: &mut Boto) {
    let mount = Options::new(server, bucket).args(["--allow-version-delete", "--metadata-ttl", "1h"]).mount();
    let dir = mount.path("d/.versions/f");
    assert_eq!(std::fs::read(mount.path("d/f")).unwrap(), b"22");
    for name in names(&dir).into_iter().rev() {
        let is_deleted = name.ends_with(".deleted");
        std::fs::remove_file(dir.join(&name)).unwrap();
        assert!(!versions(boto, bucket, "d/f").contains_key(&name), "{name}");
        if is_deleted {
            assert_eq!(std::fs::read(mount.path("d/f")).unwrap(), b"333", "the marker hid it");
        }
    }
    assert_eq!(versions(boto, bucket, "d/f"), BTreeMap::new());
    assert_eq!(errno(std::fs::metadata(mount.path("d/f"))), libc::ENOENT);
    mount.umount();
}

#[test]
fn seaweedfs_versions_are_files() {
    versions_are_files(Kind::SeaweedFs);
}

#[test]
fn moto_versions_are_files() {
    versions_are_files(Kind::Moto);
}

#[test]
fn moto_without_versions_there_are_none_and_a_real_key_wins() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("unversioned");
    let mut boto = server.boto();
    boto.put(&bucket, "f", b"bytes");
    let mount = Options::new(server, &bucket).arg("--metadata-ttl=0s").mount();
    assert_eq!(errno(std::fs::metadata(mount.path(".versions"))), libc::ENOENT);
    keep_versions(&mut boto, &bucket, "Enabled");
    assert_eq!(names(mount.path(".versions/f")).len(), 1);
    assert!(names(mount.path(".versions/f"))[0].ends_with("Z-null"), "from before there were versions");
    keep_versions(&mut boto, &bucket, "Suspended");
    assert_eq!(names(mount.path(".versions")), ["f"]);
    boto.put(&bucket, ".versions/mine", b"a key like any other");
    assert_eq!(names(mount.path(".versions")), ["mine"]);
    assert_eq!(names(&mount.dir), [".versions", "f"]);
    assert_eq!(std::fs::read(mount.path(".versions/mine")).unwrap(), b"a key like any other");
    mount.umount();
}

/// Directories that are gone with all they held still lead to versions, for the command.
#[test]
fn moto_what_is_gone_with_its_directory_is_found_by_the_command() {
    let server = shared(Kind::Moto);
    let (bucket, mut boto) = versioned(server, "gone");
    boto.put(&bucket, "gone/sub/x", b"x");
    boto.call("delete_object", &json!({ "Bucket": bucket, "Key": "gone/sub/x" }));
    let mount = Options::new(server, &bucket).mount();
    let mut command = Command::new(pailfs());
    command.args(["s3", "versions", "list"]).arg(mount.path("gone/sub/x"));
    clean_environment(&mut command);
    with_credentials(&mut command);
    let said = run(&mut command);
    assert_eq!(said.stdout.lines().count(), 2, "the object and its delete marker: {said:?}");
    mount.umount();
}

/// Where attributes are kept a version has those it was made with, and gives them back.
#[test]
fn moto_versions_have_their_own_attributes() {
    let server = shared(Kind::Moto);
    let (bucket, _) = versioned(server, "attributes");
    let mount = Options::new(server, &bucket).args(["--attrs", "meta"]).mount();
    for (bytes, mode) in [("old", 0o600), ("newer", 0o640)] {
        std::fs::write(mount.path("f"), bytes).unwrap();
        std::fs::set_permissions(mount.path("f"), PermissionsExt::from_mode(mode)).unwrap();
        next_second();
    }
    xattr::set(mount.path("f"), "user.colour", b"blue").unwrap();
    let dir = mount.path(".versions/f");
    let told: Vec<_> = names(&dir)
        .into_iter()
        .map(|name| {
            let told = std::fs::metadata(dir.join(&name)).unwrap();
            (name, told.len(), told.permissions().mode() & 0o777)
        })
        .collect();
    // Each chmod is a copy onto itself, and so a version.
    assert!(told.iter().any(|(_, size, mode)| (*size, *mode) == (3, 0o600)), "{told:?}");
    let (newest, size, mode) = told.last().unwrap();
    assert_eq!((*size, *mode), (5, 0o640));
    assert_eq!(xattr::get(dir.join(newest), "user.colour").unwrap().unwrap(), b"blue");
    let (old, ..) = told.iter().find(|(_, size, mode)| (*size, *mode) == (3, 0o600)).unwrap();
    let said = run(Command::new("cp").arg("-p").arg(dir.join(old)).arg(mount.path("f")));
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    let told = std::fs::metadata(mount.path("f")).unwrap();
    assert_eq!((told.len(), told.permissions().mode() & 0o777), (3, 0o600));
    mount.umount();
}

/// A large version, written over the file by the server alone.
#[test]
fn moto_a_version_is_copied_back_by_the_server() {
    let server = shared(Kind::Moto);
    let (bucket, mut boto) = versioned(server, "copied");
    let large: Vec<u8> = (0..12 << 20).map(|i: u32| (i >> 8) as u8).collect();
    boto.put(&bucket, "large", &large);
    next_second();
    boto.put(&bucket, "large", b"small");
    let mount = Options::new(server, &bucket).mount();
    let oldest = names(mount.path(".versions/large")).remove(0);
    // By copy_file_range, of which nothing goes through this host.
    std::fs::copy(mount.path(".versions/large").join(oldest), mount.path("large")).unwrap();
    assert!(boto.get(&bucket, "large") == large);
    mount.umount();
}

fn as_of(kind: Kind) {
    let server = shared(kind);
    let (bucket, mut boto) = versioned(server, "as-of");
    let mut moments: Vec<(String, BTreeMap<String, Vec<u8>>)> = Vec::new();
    let mut objects = BTreeMap::new();
    let change =
        |boto: &mut Boto, objects: &mut BTreeMap<String, Vec<u8>>, key: &str, to: Option<&str>| match to {
            Some(bytes) => {
                boto.put(&bucket, key, bytes.as_bytes());
                objects.insert(key.to_string(), bytes.into());
            }
            None => {
                boto.call("delete_object", &json!({ "Bucket": bucket, "Key": key }));
                objects.remove(key);
            }
        };
    let steps: [&[(&str, Option<&str>)]; 4] = [
        &[("a", Some("1")), ("d/f", Some("f")), ("d/g", Some("g")), ("e/only", Some("x"))],
        &[("a", Some("22")), ("d/f", None), ("e/only", None), ("late/x/y", Some("y"))],
        &[("a", None), ("d/f", Some("back")), ("d/sub/h", Some("h"))],
        &[("a", Some("last")), ("d/g", None), ("d/f", None), ("d/sub/h", None), ("late/x/y", None)],
    ];
    for step in steps {
        for (key, to) in step {
            change(&mut boto, &mut objects, key, *to);
        }
        moments.push((now(), objects.clone()));
        next_second();
    }
    for (step, (moment, objects)) in moments.into_iter().enumerate() {
        let mount = Options::new(server, &bucket).args(["--as-of", &moment]).mount();
        assert_eq!(tree(&mount.dir), objects, "at {moment}");
        // By their names, without a listing.
        let again = (step == 1).then(|| Options::new(server, &bucket).args(["--as-of", &moment]).mount());
        for name in ["e/only", "a", "d/f", "e", "late/x", "d/sub"] {
            let below = format!("{name}/");
            let there = objects.keys().any(|key| key == name || key.starts_with(&below));
            let shown = again.as_ref().unwrap_or(&mount).path(name).exists();
            assert_eq!(shown, there, "{name} at {moment}");
        }
        again.into_iter().for_each(Mount::umount);
        assert_eq!(errno(std::fs::write(mount.path("new"), "x")), libc::EROFS);
        assert_eq!(errno(std::fs::metadata(mount.path(".versions"))), libc::ENOENT);
        assert_eq!(errno(xattr::get(&mount.dir, "pailfs.s3")), libc::EOPNOTSUPP);
        let said = run(Command::new(pailfs()).args(["s3", "ls"]).arg(&mount.dir));
        assert!(!said.status.success() && said.stderr.contains("shows what was (--as-of)"), "{said:?}");
        if objects.contains_key("a") {
            let id = xattr::get(mount.path("a"), "s3.version-id").unwrap().unwrap();
            let about = json!({ "Bucket": bucket, "Key": "a", "VersionId": String::from_utf8(id).unwrap() });
            let told: Value = boto.call("head_object", &about);
            assert_eq!(told["ContentLength"], objects["a"].len());
        }
        mount.umount();
    }
}

/// Each file below a directory with its bytes; directories that hold none are an error.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        let names = names(&at);
        assert!(!names.is_empty() || at == dir, "{} shows nothing", at.display());
        for name in names {
            let path = at.join(name);
            if path.is_dir() {
                dirs.push(path);
            } else {
                let key = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(key, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn seaweedfs_as_of() {
    as_of(Kind::SeaweedFs);
}

#[test]
fn moto_as_of() {
    as_of(Kind::Moto);
}

/// Within a bucket of an account's mount all is as on a mount of it.
fn of_an_account(kind: Kind) {
    let server = shared(kind);
    let (bucket, mut boto) = versioned(server, "of-account");
    let plain = server.bucket("of-account-plain");
    boto.put(&plain, "f", b"bytes");
    boto.put(&bucket, "d/f", b"1");
    let moment = now();
    next_second();
    boto.put(&bucket, "d/f", b"22");
    boto.put(&bucket, "later", b"x");

    let mount = Options::new(server, "s3://").arg("--allow-version-delete").mount();
    let within = |path: &str| mount.path(&bucket).join(path);
    assert_eq!(shown(&within("d/.versions/f")), versions(&mut boto, &bucket, "d/f"));
    assert_eq!(names(within(".versions")), ["later"]);
    for path in [mount.path(".versions"), mount.path(&plain).join(".versions")] {
        assert_eq!(errno(std::fs::metadata(path)), libc::ENOENT);
    }
    let [old, new]: [String; 2] = names(within("d/.versions/f")).try_into().unwrap();
    assert_eq!(std::fs::read(within("d/.versions/f").join(&new)).unwrap(), b"22");
    std::fs::copy(within("d/.versions/f").join(&old), within("d/f")).unwrap();
    assert_eq!(boto.get(&bucket, "d/f"), b"1", "as it was");
    std::fs::remove_file(within("d/.versions/f").join(&new)).unwrap();
    assert_eq!(versions(&mut boto, &bucket, "d/f").len(), 2, "one was made, one is gone for good");
    mount.umount();

    let mount = Options::new(server, "s3://").args(["--as-of", &moment]).mount();
    assert_eq!(tree(&mount.path(&bucket)), BTreeMap::from([("d/f".to_string(), b"1".to_vec())]));
    assert!(names(&mount.dir).contains(&plain));
    assert_eq!(errno(std::fs::read_dir(mount.path(&plain)).unwrap().next().unwrap()), libc::EOPNOTSUPP);
    assert_eq!(errno(std::fs::metadata(mount.path(&plain).join("f"))), libc::EOPNOTSUPP);
    assert!(mount.log_text().contains("keeps no versions"), "{}", mount.log_text());
    assert_eq!(errno(std::fs::create_dir(mount.path("a-new-bucket"))), libc::EROFS);
    mount.umount();
}

#[test]
fn seaweedfs_of_an_account() {
    of_an_account(Kind::SeaweedFs);
}

#[test]
fn moto_of_an_account() {
    of_an_account(Kind::Moto);
}

#[test]
fn moto_as_of_wants_versions() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("no-versions");
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("mnt");
    std::fs::create_dir(&dir).unwrap();
    let options = Options::new(server, &bucket).args(["--as-of", "2020-01-01T00:00Z"]);
    let said = run(&mut options.command(&dir, &home.path().join("log")));
    assert!(!said.status.success() && said.stderr.contains("keeps no versions"), "{said:?}");
    let options = Options::new(server, &bucket).args(["--as-of", "2999-01-01T00:00Z"]);
    let said = run(&mut options.command(&dir, &home.path().join("log")));
    assert!(said.stderr.contains("lies in the future"), "{said:?}");
}
