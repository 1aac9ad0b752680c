//! Two real mounts of one bucket: what one does, the other sees within the time-to-live, and the kernel with it.
#![cfg(feature = "servers")]

mod support;

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use support::mount::{Mount, Options, wait_until};
use support::servers::{Kind, shared};

fn names(mount: &Mount, dir: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(mount.path(dir)) else { return vec!["none".into()] };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn moto_what_one_mount_does_the_other_sees_within_the_ttl() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("sharing");
    let mounts = [(); 2].map(|()| Options::new(server, &bucket).args(["--metadata-ttl", "1s"]).mount());
    for (one, other) in [(&mounts[0], &mounts[1]), (&mounts[1], &mounts[0])] {
        let reads = |name: &str| fs::read_to_string(other.path(name)).unwrap_or_else(|e| e.to_string());
        assert_eq!(names(other, ""), [""; 0]);
        assert!(!other.path("d/f").exists());
        fs::create_dir(one.path("d")).unwrap();
        fs::write(one.path("d/f"), "first").unwrap();
        wait_until("a new file is seen", || reads("d/f") == "first");
        wait_until("it is listed", || names(other, "d") == ["f"]);
        fs::write(one.path("d/f"), "replaced").unwrap();
        wait_until("it is replaced", || reads("d/f") == "replaced");
        OpenOptions::new().append(true).open(one.path("d/f")).unwrap().write_all(b" and longer").unwrap();
        wait_until("it is longer", || reads("d/f") == "replaced and longer");
        assert_eq!(fs::metadata(other.path("d/f")).unwrap().len(), 19);
        fs::rename(one.path("d/f"), one.path("d/g")).unwrap();
        wait_until("it has another name", || names(other, "d") == ["g"] && !other.path("d/f").exists());
        assert_eq!(reads("d/g"), "replaced and longer");
        fs::remove_dir_all(one.path("d")).unwrap();
        wait_until("it is gone", || !other.path("d").exists() && names(other, "").is_empty());
    }
    mounts.into_iter().for_each(Mount::umount);
}
