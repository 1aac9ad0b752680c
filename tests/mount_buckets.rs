//! `pailfs mount s3://`: all buckets of real servers as directories, as programs meet them and as boto3 sees them.
#![cfg(feature = "servers")]

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::aws::{Boto, clean_environment, with_credentials};
use support::bytes::{assert_same_bytes, pattern};
use support::mount::{Mount, Options, Said, pailfs, run, wait_until};
use support::servers::{Kind, REGION, Server, bucket_name, shared};

fn mount_all(server: &Server, staging: &Path) -> Mount {
    let options = Options::new(server, "s3://").args(["--metadata-ttl", "1s", "--part-size", "5MiB"]);
    options.arg("--staging").arg(staging).mount()
}

/// Of all buckets, for others' tests have theirs on the same server.
fn is_listed(dir: &Path, bucket: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| entry.unwrap().file_name() == bucket)
}

fn created(boto: &mut Boto, bucket: &str) -> Option<String> {
    let listed = boto.call("list_buckets", &json!({}));
    let buckets = listed["Buckets"].as_array().unwrap().iter();
    let named = |listed: &&serde_json::Value| listed["Name"] == bucket;
    buckets.filter(named).map(|listed| listed["CreationDate"].as_str().unwrap().to_string()).next()
}

fn program(name: &str, args: &[&str], paths: &[&Path]) -> Said {
    run(Command::new("timeout").arg("60").arg(name).args(args).args(paths))
}

fn ours(args: &[&str], path: &Path) -> Said {
    let mut command = Command::new(pailfs());
    command.args(args).arg(path);
    clean_environment(&mut command);
    with_credentials(&mut command);
    run(command.env("AWS_REGION", REGION))
}

fn every_bucket_is_a_directory(kind: Kind) {
    let server = shared(kind);
    let [one, two] = ["all-one", "all-two"].map(|hint| server.bucket(hint));
    let mut boto = server.boto();
    boto.put(&one, "dir/file", b"of one");
    let staging = tempfile::tempdir().unwrap();
    let mount = mount_all(server, staging.path());
    assert!(is_listed(&mount.dir, &one) && is_listed(&mount.dir, &two));
    let mtime = fs::metadata(mount.path(&one)).unwrap().modified().unwrap();
    let shown = time::OffsetDateTime::from(mtime);
    let format = time::format_description::well_known::Rfc3339;
    let known = time::OffsetDateTime::parse(&created(&mut boto, &one).unwrap(), &format).unwrap();
    assert_eq!(shown.unix_timestamp(), known.unix_timestamp(), "when the bucket was made");

    // From one bucket to the other, by copy and by move; a whole object by the server.
    let (from, to) = (mount.path(&one), mount.path(&two));
    let large = pattern(3, 9 << 20);
    boto.put(&one, "large", &large);
    assert_eq!(fs::copy(from.join("large"), to.join("copied")).unwrap(), 9 << 20);
    assert_same_bytes(&boto.get(&two, "copied"), &large, "copied");
    let etag = |boto: &mut Boto, bucket: &str, key: &str| {
        boto.call("head_object", &json!({ "Bucket": bucket, "Key": key }))["ETag"].clone()
    };
    // Sent from here it would have two parts, and the ETag of these.
    assert_eq!(etag(&mut boto, &one, "large"), etag(&mut boto, &two, "copied"));
    for path in [from.join("large"), to.join("copied")] {
        fs::remove_file(path).unwrap();
    }
    let said = program("cp", &["-r"], &[&from.join("dir"), &to.join("copy")]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(boto.get(&two, "copy/file"), b"of one");
    let said = program("mv", &[], &[&to.join("copy"), &from.join("back")]);
    assert!(said.stderr.lines().all(|line| line.contains("preserving times")), "{said:?}");
    wait_until("it has moved", || boto.keys(&two, "copy/").is_empty());
    assert_eq!(boto.get(&one, "back/file"), b"of one");

    // Made and removed, here and elsewhere.
    let (made, elsewhere) = (bucket_name("all-made"), bucket_name("all-else"));
    fs::create_dir(mount.path(&made)).unwrap();
    assert!(created(&mut boto, &made).is_some());
    let again = fs::create_dir(mount.path(&made)).unwrap_err();
    assert_eq!(again.raw_os_error(), Some(libc::EEXIST));
    let wrong = fs::create_dir(mount.path("No_Bucket")).unwrap_err();
    assert_eq!(wrong.raw_os_error(), Some(libc::EINVAL));
    assert!(mount.log_text().contains("`No_Bucket` is not a bucket name"));
    boto.create_bucket(&elsewhere);
    wait_until("it is listed", || is_listed(&mount.dir, &elsewhere));
    fs::write(mount.path(&made).join("file"), "x").unwrap();
    let full = fs::remove_dir(mount.path(&made)).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOTEMPTY));
    assert_eq!(boto.get(&made, "file"), b"x");
    fs::remove_dir_all(mount.path(&made)).unwrap();
    assert_eq!(created(&mut boto, &made), None);
    assert!(!is_listed(&mount.dir, &made) && !mount.path(&made).exists());
    boto.call("delete_bucket", &json!({"Bucket": elsewhere}));
    wait_until("it is gone", || !is_listed(&mount.dir, &elsewhere) && !mount.path(&elsewhere).exists());

    // Beside buckets there is nothing.
    let file = fs::write(mount.path("file"), "x").unwrap_err();
    assert_eq!(file.raw_os_error(), Some(libc::EPERM));
    assert_eq!(
        fs::metadata(mount.path("no-such-bucket-anywhere")).unwrap_err().raw_os_error(),
        Some(libc::ENOENT)
    );
    // One file system, and no two files of one number.
    let numbers = [&one, &two].map(|bucket| fs::metadata(mount.path(bucket)).unwrap());
    assert_eq!(numbers[0].dev(), numbers[1].dev());
    assert_ne!(numbers[0].ino(), numbers[1].ino());
    mount.umount();
}

#[test]
fn seaweedfs_every_bucket_is_a_directory() {
    every_bucket_is_a_directory(Kind::SeaweedFs);
}

#[test]
fn moto_every_bucket_is_a_directory() {
    every_bucket_is_a_directory(Kind::Moto);
}

#[test]
fn moto_paths_in_buckets_serve_the_commands() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("all-commands");
    let mut boto = server.boto();
    boto.put(&bucket, "dir/file", b"x");
    // In another region than the mount's.
    let far = bucket_name("all-far");
    let constraint = json!({"LocationConstraint": "eu-west-1"});
    boto.call("create_bucket", &json!({"Bucket": far, "CreateBucketConfiguration": constraint}));
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    let options = Options::new(server, "s3://").args(["--attrs", "meta"]);
    let mount = options.arg("--cache").arg(&cache).mount();
    fs::write(mount.path(&far).join("file"), "far").unwrap();
    assert_eq!(boto.get(&far, "file"), b"far");
    let location = xattr::get(mount.path(&far), "s3.location").unwrap();
    assert_eq!(location.as_deref(), Some(&b"eu-west-1"[..]));

    let file = mount.path(&bucket).join("dir/file");
    let set = run(Command::new("setfattr").args(["-n", "s3.tags", "-v", "a=b"]).arg(&file));
    assert!(set.status.success(), "{set:?}");
    let said = ours(&["s3", "tags", "get", "--json"], &file);
    assert!(said.status.success() && said.stdout.contains("\"b\""), "{said:?}");
    let said = ours(&["s3", "buckets", "location"], &mount.path(&far));
    assert!(said.stdout.contains("eu-west-1"), "{said:?}");
    let said = ours(&["s3", "tags", "get"], &mount.dir);
    assert!(said.stderr.contains("name one of them"), "{said:?}");
    let said = ours(&["warm", "--quiet"], &mount.path(&bucket));
    assert!(said.status.success(), "{said:?}");
    let cached = xattr::get(&file, "pailfs.cached").unwrap();
    assert_eq!(cached.as_deref(), Some(&b"1/1"[..]));
    assert_eq!(fs::read(&file).unwrap(), b"x");
    boto.put(&bucket, "dir/file", b"longer");
    assert!(ours(&["refresh"], &mount.dir).status.success());
    assert_eq!(fs::read(&file).unwrap(), b"longer");
    mount.umount();
}

#[test]
fn moto_a_killed_daemon_leaves_no_upload_in_any_bucket() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("all-killed");
    let mut boto = server.boto();
    let staging = tempfile::tempdir().unwrap();
    let mount = mount_all(server, staging.path());
    let data = pattern(5, 20 << 20);
    let mut file = fs::File::create(mount.path(&bucket).join("large")).unwrap();
    file.write_all(&data).unwrap();
    wait_until("its upload is begun", || boto.uploads(&bucket).len() == 1);
    mount.kill_daemon();
    drop(file);
    let next = mount_all(server, staging.path());
    fs::write(next.path(&bucket).join("large"), &data).unwrap();
    wait_until("the old one is gone", || boto.uploads(&bucket).is_empty());
    assert_same_bytes(&boto.get(&bucket, "large"), &data, "written again");
    next.umount();
}

#[test]
fn moto_what_makes_no_sense_for_all_buckets_is_refused() {
    let server = shared(Kind::Moto);
    let dir = tempfile::tempdir().unwrap();
    let said = Options::new(server, "s3:///prefix").try_mount(dir.path());
    assert!(!said.status.success() && said.stderr.contains("names no bucket"), "{said:?}");
    let bad_keys = Options::new(server, "s3://").endpoint("http://127.0.0.1:1").arg("--request-timeout=1s");
    let said = bad_keys.try_mount(dir.path());
    assert!(!said.status.success() && said.stderr.contains("gives no answer"), "{said:?}");
}
