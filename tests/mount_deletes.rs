//! `rm` of many files on a real mount: gone from S3 when the mount has ended, or at fsync of the directory.
#![cfg(feature = "servers")]

mod support;

use std::fs::{self, File};
use std::process::Command;

use support::aws::s3api_ok;
use support::mount::{Mount, Options, refresh, run};
use support::servers::{Kind, Server, shared};

fn sh(mount: &Mount, script: &str) {
    let said = run(Command::new("sh").args(["-c", script]).current_dir(&mount.dir));
    assert!(said.status.success() && said.stderr.is_empty(), "{script}: {said:?}");
}

/// As the `aws` command lists them.
fn keys(server: &Server, bucket: &str) -> Vec<String> {
    let query = ["--query", "Contents[].Key", "--output", "text"];
    let listed = s3api_ok(&server.endpoint, &[&["list-objects-v2", "--bucket", bucket], &query[..]].concat());
    listed.split_whitespace().filter(|key| *key != "None").map(str::to_owned).collect()
}

fn many_files_are_removed(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("deletes");
    let below = |dir: &str, count: usize| (0..count).map(|n| format!("{dir}/{n}")).collect::<Vec<_>>();
    let all = [below("flat", 300), below("deep/a", 100), below("deep/b/c", 100), below("stays", 50)].concat();
    server.boto().put_many(&bucket, &all, b"x");
    let mount = Options::new(server, &bucket).args(["--log-level", "debug"]).mount();
    sh(&mount, "rm -r flat deep");
    sh(&mount, "rm stays/*");
    let left = fs::read_dir(&mount.dir).expect("the mount").map(|entry| entry.expect("an entry").file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["stays"]);
    assert_eq!(fs::read_dir(mount.path("stays")).expect("it stays").count(), 0);
    File::open(mount.path("stays")).and_then(|dir| dir.sync_all()).expect("fsync of the directory");
    assert_eq!(keys(server, &bucket), ["stays/"]);
    server.boto().put_many(&bucket, &below("late", 50), b"x");
    refresh(&mount.dir);
    // What follows at once is under way when the mount ends.
    sh(&mount, "rm -r late");
    mount.umount();
    assert_eq!(keys(server, &bucket), ["stays/"]);
    let mount = Mount::of(server, &bucket);
    assert_eq!(fs::read_dir(mount.path("stays")).expect("it stays").count(), 0);
    mount.umount();
}

#[test]
fn seaweedfs_many_files_are_removed() {
    many_files_are_removed(Kind::SeaweedFs);
}

#[test]
fn moto_many_files_are_removed() {
    many_files_are_removed(Kind::Moto);
}
