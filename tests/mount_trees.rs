//! A source tree of 1,000 files through a mount, with the programs people use: tar, diff, grep, find,
//! cp, rm. All exact, exit status 0, nothing on stderr.
#![cfg(feature = "servers")]

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use support::bytes::pattern;
use support::mount::{Mount, run};
use support::servers::{Kind, shared};

const FILES: usize = 1000;
/// One file in so many holds [`NEEDLE`].
const NEEDLE_EVERY: usize = 37;
const NEEDLE: &str = "fn the_needle()";

/// Directories three deep, sizes as in source trees (a few empty, a few large), an empty directory.
/// Answers how many files hold the needle.
fn make_tree(root: &Path) -> usize {
    let mut needles = 0;
    for n in 0..FILES {
        let dir = root.join(format!("part {}/module-{}/src", n % 7, n % 43));
        fs::create_dir_all(&dir).expect("a directory");
        let len = match n % 100 {
            0 => 0,
            1 => 1,
            99 => 300_000,
            _ => 200 + (n * 7919) % 20_000,
        };
        let mut text: String = pattern(n as u64, len).iter().map(|b| char::from(b'a' + b % 26)).collect();
        if n % NEEDLE_EVERY == 0 {
            text.push_str(&format!("\n{NEEDLE} // {n}\n"));
            needles += 1;
        }
        fs::write(dir.join(format!("file {n:04}.rs")), text).expect("a file");
    }
    fs::create_dir(root.join("empty")).expect("a directory");
    needles
}

/// What it printed. Its stderr must be empty and its status 0.
#[track_caller]
fn exact(command: &mut Command) -> String {
    let said = run(command);
    assert!(said.status.success() && said.stderr.is_empty(), "{command:?}: {said:?}");
    said.stdout
}

fn names_below(dir: &Path) -> Vec<String> {
    let found = exact(Command::new("find").arg(".").args(["-printf", "%y %p\\n"]).current_dir(dir));
    let mut names: Vec<String> = found.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn a_tree(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("tree");
    let home = tempfile::tempdir().expect("a directory");
    let (original, archive) = (home.path().join("tree"), home.path().join("tree.tar"));
    fs::create_dir(&original).expect("a directory");
    let needles = make_tree(&original);
    exact(Command::new("tar").arg("cf").arg(&archive).arg("-C").arg(home.path()).arg("tree"));

    let mount = Mount::of(server, &bucket);
    let there = mount.path("tree");
    let tar_options = ["--no-same-owner", "--no-same-permissions"];
    exact(Command::new("tar").arg("xmf").arg(&archive).args(tar_options).arg("-C").arg(&mount.dir));
    assert_eq!(exact(Command::new("diff").arg("-r").args([&original, &there])), "");
    assert_eq!(names_below(&there), names_below(&original));
    let found = exact(Command::new("grep").args(["-rlF", NEEDLE]).arg(&there));
    assert_eq!(found.lines().count(), needles);

    // Another client sees the same files, and nothing but directories beside them.
    let keys = server.boto().keys(&bucket, "tree/");
    let (dirs, files): (Vec<&String>, Vec<&String>) = keys.iter().partition(|key| key.ends_with('/'));
    assert_eq!(files.len(), FILES);
    let original_dirs = names_below(&original).iter().filter(|name| name.starts_with('d')).count();
    assert_eq!(dirs.len(), original_dirs);

    // A fresh mount has nothing in its caches.
    mount.umount();
    let mount = Mount::of(server, &bucket);
    let (there, back) = (mount.path("tree"), home.path().join("back"));
    exact(Command::new("cp").arg("-r").args([&there, &back]));
    assert_eq!(exact(Command::new("diff").arg("-r").args([&original, &back])), "");

    exact(Command::new("rm").arg("-r").arg(&there));
    let left = fs::read_dir(&mount.dir).expect("the mount").flatten();
    let left: Vec<Vec<u8>> = left.map(|entry| entry.file_name().as_bytes().to_vec()).collect();
    assert!(left.is_empty(), "{left:?}");
    mount.umount();
    assert_eq!(server.boto().keys(&bucket, ""), [""; 0]);
}

#[test]
fn seaweedfs_a_tree_of_1000_files() {
    a_tree(Kind::SeaweedFs);
}

#[test]
fn moto_a_tree_of_1000_files() {
    a_tree(Kind::Moto);
}
