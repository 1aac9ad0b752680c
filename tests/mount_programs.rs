//! Real programs on mounts, each compared with the same on a local disk: what they say, and the trees they leave
//! (tests/programs.py), with `--write-back` what S3 then has as well. Fewer files and transactions in CI; all with `PAILFS_LONG=1`.
#![cfg(feature = "servers")]

mod support;

use std::path::Path;
use std::process::Command;

use support::mount::{Mount, Options, flush};
use support::servers::{Kind, program, shared};

/// Runs what programs.py calls `what`. `size`: how much of it; as much again many times where there is time.
#[track_caller]
fn same_as_on_a_local_disk(what: &str, kind: Kind, size: u32, args: &[&str]) {
    let server = shared(kind);
    let bucket = server.bucket(what);
    let mount = || Options::new(server, &bucket).args(args).mount();
    let local = tempfile::tempdir().expect("a directory");
    let size = if std::env::var_os("PAILFS_LONG").is_some() { size * 17 } else { size };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs.py");
    let attributes = if args.contains(&"--attrs=meta") { "kept" } else { "not kept" };
    let python = |mount: &Mount, size: u32| {
        let mut python = Command::new("timeout");
        python.arg("1200").arg(program("python3")).arg(&script);
        python.arg(what).arg(&mount.dir).arg(local.path()).args([&size.to_string(), attributes]);
        let said = python.output().expect("timeout of coreutils");
        let words = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(said.status.success(), "{words}");
    };
    let first = mount();
    python(&first, size);
    if args.contains(&"--write-back") {
        flush(&first, "");
        let fresh = mount();
        python(&fresh, 0); // compares only
        fresh.umount();
    }
    first.umount();
}

#[test]
fn seaweedfs_git_clones_commits_and_collects() {
    same_as_on_a_local_disk("git", Kind::SeaweedFs, 60, &["--attrs=meta"]);
}

#[test]
fn seaweedfs_sqlite_keeps_its_transactions() {
    same_as_on_a_local_disk("sqlite", Kind::SeaweedFs, 150, &[]);
}

#[test]
fn seaweedfs_make_builds_in_parallel() {
    same_as_on_a_local_disk("make", Kind::SeaweedFs, 20, &["--file-mode", "755"]);
}

#[test]
fn seaweedfs_editors_and_tools_change_files() {
    same_as_on_a_local_disk("edit", Kind::SeaweedFs, 1000, &["--attrs=meta"]);
}

#[test]
fn seaweedfs_trees_are_copied_in_and_out() {
    same_as_on_a_local_disk("contents", Kind::SeaweedFs, 100, &[]);
}

/// SeaweedFS keeps no attributes of directories.
#[test]
fn moto_trees_are_copied_in_and_out_with_all_that_they_are() {
    same_as_on_a_local_disk("copies", Kind::Moto, 30, &["--attrs=meta"]);
}

#[test]
fn seaweedfs_git_clones_commits_and_collects_with_write_back() {
    same_as_on_a_local_disk("git", Kind::SeaweedFs, 60, &["--attrs=meta", "--write-back"]);
}

#[test]
fn seaweedfs_sqlite_keeps_its_transactions_with_write_back() {
    same_as_on_a_local_disk("sqlite", Kind::SeaweedFs, 150, &["--write-back"]);
}

#[test]
fn seaweedfs_make_builds_in_parallel_with_write_back() {
    same_as_on_a_local_disk("make", Kind::SeaweedFs, 20, &["--file-mode", "755", "--write-back"]);
}

#[test]
fn seaweedfs_editors_and_tools_change_files_with_write_back() {
    same_as_on_a_local_disk("edit", Kind::SeaweedFs, 1000, &["--attrs=meta", "--write-back"]);
}

#[test]
fn seaweedfs_trees_are_copied_in_and_out_with_write_back() {
    same_as_on_a_local_disk("contents", Kind::SeaweedFs, 100, &["--write-back"]);
}

#[test]
fn moto_trees_are_copied_in_and_out_with_all_that_they_are_and_write_back() {
    same_as_on_a_local_disk("copies", Kind::Moto, 30, &["--attrs=meta", "--write-back"]);
}
