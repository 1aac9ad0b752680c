//! The daemon is killed, and what the next mount makes of what it left.
#![cfg(feature = "servers")]

mod support;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use bytes::Bytes;
use pailfs::journal::{Journal, Kept, KeptHeaders, Staged};
use support::aws::{clean_environment, s3api_ok, with_credentials};
use support::bytes::{assert_same_bytes, pattern};
use support::mount::{Mount, Options, Said, pailfs, run, wait_until};
use support::servers::{Kind, REGION, Server, shared};

const MIB: usize = 1 << 20;

fn options_in(staging: &Path, server: &Server, bucket: &str) -> Options {
    let options = Options::new(server, bucket).args(["--part-size", "5MiB"]);
    options.arg("--staging").arg(staging)
}

fn mount_in(staging: &Path, server: &Server, bucket: &str) -> Mount {
    options_in(staging, server, bucket).mount()
}

fn recover(staging: &Path, server: &Server, bucket: &str, args: &[&str]) -> Said {
    let mut command = Command::new(pailfs());
    command.args(["recover", bucket, "--endpoint-url", &server.endpoint, "--region", REGION]);
    command.arg("--staging").arg(staging).args(args);
    clean_environment(&mut command);
    with_credentials(&mut command);
    run(&mut command)
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

/// Where the server answers for a marker that is not there, too: SeaweedFS does once something was below it.
fn a_directory_made_before_a_crash_is_there(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("made");
    let staging = tempfile::tempdir().expect("a directory");
    let mount = || options_in(staging.path(), server, &bucket).arg("--write-back").mount();
    let mut boto = server.boto();
    // The directory waits for some seconds only.
    boto.take_first_bytes(&bucket);
    let first = mount();
    std::fs::create_dir(first.path("dir")).expect("a directory");
    boto.put(&bucket, "dir/x", b"another host's");
    boto.delete(&bucket, "dir/x");
    assert_eq!(boto.keys(&bucket, ""), [""; 0], "the directory waits");
    first.kill_daemon();
    mount().umount();
    assert_eq!(boto.keys(&bucket, ""), ["dir/"]);
}

#[test]
fn seaweedfs_a_directory_made_before_a_crash_is_there() {
    a_directory_made_before_a_crash_is_there(Kind::SeaweedFs);
}

#[test]
fn moto_a_directory_made_before_a_crash_is_there() {
    a_directory_made_before_a_crash_is_there(Kind::Moto);
}

#[test]
fn moto_what_could_not_be_sent_is_named_by_the_next_mount_and_recovered() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("kept");
    let staging = tempfile::tempdir().expect("a directory");
    let journal = Journal::new(staging.path(), Some(&server.endpoint), &bucket);
    let data = pattern(5, 20 * MIB);
    for (key, len) in [("dir/small", 10), ("large", data.len())] {
        let kept = Kept {
            key: key.into(),
            base: None,
            exclusive: false,
            size: len as u64,
            ranges: vec![0..5, 5..len as u64],
            headers: KeptHeaders::default(),
            over: None,
            inherits: false,
            owner: None,
            sum: None,
            upload: None,
            reason: "the server was gone".into(),
            at: SystemTime::now(),
        };
        let bytes = Bytes::copy_from_slice(&data[..len]);
        journal.keep(&kept, Staged::Memory(&[bytes])).expect("it is kept");
    }
    let mount = mount_in(staging.path(), server, &bucket);
    let notice =
        "dir/small and 1 more could not be sent by an earlier mount and is kept: see `pailfs recover";
    assert!(mount.log_text().contains(notice), "{}", mount.log_text());
    mount.umount();

    let recover = |args: &[&str]| recover(staging.path(), server, &bucket, args);
    let to = tempfile::tempdir().expect("a directory");
    let said = recover(&["--export", to.path().to_str().expect("UTF-8")]);
    assert!(said.status.success(), "{said:?}");
    assert_same_bytes(&std::fs::read(to.path().join("large")).expect("it was written"), &data, "exported");
    assert_eq!(std::fs::read(to.path().join("dir/small")).expect("it was written"), &data[..10]);
    let again = recover(&["--export", to.path().to_str().expect("UTF-8"), "large"]);
    assert!(
        again.status.code() == Some(1) && again.stderr.contains("exists"),
        "nothing is overwritten: {again:?}"
    );
    let said = recover(&["--retry"]);
    assert!(said.status.success(), "{said:?}");
    let mut boto = server.boto();
    assert_same_bytes(&boto.get(&bucket, "large"), &data, "sent");
    assert_eq!(boto.get(&bucket, "dir/small"), &data[..10]);
    assert_eq!(journal.kept().expect("readable").len(), 0);
    assert_eq!(boto.uploads(&bucket), []);
}

/// A file system of its own, in memory.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn of(bytes: usize) -> Disk {
        let dir = tempfile::tempdir().expect("a directory");
        let size = format!("size={bytes}");
        let said = run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir.path()));
        assert!(said.status.success(), "{said:?}");
        Disk { dir }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

#[test]
fn moto_on_a_full_disk_nothing_acknowledged_is_lost() {
    let server = Server::start(Kind::Moto);
    let bucket = server.bucket("full");
    // A mount leaves 256 MiB to others.
    let disk = Disk::of((256 + 16) * MIB);
    let staging = disk.dir.path();
    let options = Options::new(&server, &bucket).args(["--request-timeout", "2s"]);
    let mount = options.arg("--staging").arg(staging).mount();
    let file = File::options().create_new(true).read(true).write(true).open(mount.path("file"));
    let file = file.expect("an open");
    let mut data = Vec::new();
    let full = loop {
        let (at, piece) = (data.len() + MIB, pattern(data.len() as u64, MIB));
        match file.write_all_at(&piece, at as u64) {
            Ok(()) => {
                data.resize(at, 0);
                data.extend(piece);
            }
            Err(e) => break e.raw_os_error(),
        }
    };
    assert_eq!(full, Some(libc::ENOSPC));
    assert!(data.len() >= 28 * MIB, "{} bytes", data.len());
    server.kill();
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    drop(file);
    wait_until("it is kept", || mount.log_text().contains("for `pailfs recover`"));
    mount.umount();

    let said = recover(staging, &server, &bucket, &["--list"]);
    assert!(said.stdout.contains("file") && said.stdout.contains("cannot connect"), "{said:?}");
    let kept = Journal::new(staging, Some(&server.endpoint), &bucket).kept().expect("readable");
    let [item] = &kept[..] else { panic!("{kept:?}") };
    let bytes = std::fs::read(item.bytes()).expect("its bytes");
    assert_eq!(item.kept.size, data.len() as u64);
    // Programs that other tests start may close the file before: then S3 has some of it.
    let mut missing = if item.kept.base.is_some() { 0 } else { data.len() as u64 };
    for range in &item.kept.ranges {
        missing = missing.saturating_sub(range.end - range.start);
        let range = range.start as usize..range.end as usize;
        assert_same_bytes(&bytes[range.clone()], &data[range], "what is kept");
    }
    assert_eq!(missing, 0);
}
