//! The daemon is killed, and what the next mount makes of what it left.
#![cfg(feature = "servers")]

mod support;

use std::fs::File;
use std::io::Write as _;

use support::aws::s3api_ok;
use support::bytes::{assert_same_bytes, pattern};
use support::mount::{Mount, Options, wait_until};
use support::servers::{Kind, Server, shared};

const MIB: usize = 1 << 20;

fn mount_in(staging: &std::path::Path, server: &Server, bucket: &str) -> Mount {
    let options = Options::new(server, bucket).args(["--part-size", "5MiB"]);
    options.arg("--staging").arg(staging).mount()
}

fn a_killed_daemon_leaves_no_upload_behind(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("killed");
    let staging = tempfile::tempdir().expect("a directory");
    let create = ["create-multipart-upload", "--bucket", &bucket, "--key", "large"];
    s3api_ok(&server.endpoint, &create);
    let mut boto = server.boto();
    let foreign = boto.uploads(&bucket);
    assert_eq!(foreign.len(), 1);

    let data = pattern(3, 20 * MIB);
    let mount = mount_in(staging.path(), server, &bucket);
    let mut file = File::create(mount.path("large")).expect("an open");
    file.write_all(&data).expect("a write");
    wait_until("its upload is begun", || boto.uploads(&bucket).len() == 2);
    mount.kill_daemon();
    drop(file);
    assert_eq!(boto.uploads(&bucket).len(), 2, "nobody aborted it");

    let next = mount_in(staging.path(), server, &bucket);
    wait_until("ours is aborted", || boto.uploads(&bucket) == foreign);
    // It serves all the while.
    std::fs::write(next.path("large"), &data).expect("a write");
    next.umount();
    assert_same_bytes(&boto.get(&bucket, "large"), &data, "written again");
    assert_eq!(boto.uploads(&bucket), foreign);
}

#[test]
fn seaweedfs_a_killed_daemon_leaves_no_upload_behind() {
    a_killed_daemon_leaves_no_upload_behind(Kind::SeaweedFs);
}

#[test]
fn moto_a_killed_daemon_leaves_no_upload_behind() {
    a_killed_daemon_leaves_no_upload_behind(Kind::Moto);
}
