//! What the kernel keeps of names on a real mount, and `pailfs refresh`: what another host changed is seen, though
//! names are believed for ever.
#![cfg(feature = "servers")]

mod support;

use std::path::Path;
use std::process::Command;

use support::mount::{Options, refresh, run};
use support::servers::{Kind, shared};

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn moto_what_another_host_changed_is_seen_after_a_refresh() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("refresh");
    let mut boto = server.boto();
    for key in ["top", "d/a", "d/sub/x", "e/a"] {
        boto.put(&bucket, key, b"old");
    }
    let mount = Options::new(server, &bucket).args(["--metadata-ttl", "forever"]).mount();
    let size = |name: &str| std::fs::metadata(mount.path(name)).unwrap().len();
    assert_eq!(names(&mount.path("d")), ["a", "sub"]);
    assert_eq!((size("d/a"), size("d/sub/x"), size("top")), (3, 3, 3));
    for key in ["top", "d/b", "d/sub/x", "e/a"] {
        boto.put(&bucket, key, b"newer");
    }
    boto.delete(&bucket, "d/a");
    assert_eq!((names(&mount.path("d")).len(), size("d/sub/x")), (2, 3), "names are believed for ever");

    refresh(&mount.path("d"));
    assert_eq!(names(&mount.path("d")), ["b", "sub"]);
    assert!(!mount.path("d/a").exists());
    assert_eq!((size("d/sub/x"), size("d/b"), size("top")), (5, 5, 3));

    refresh(&mount.path("top"));
    assert_eq!(size("top"), 5);
    boto.put(&bucket, "d/sub/x", b"newest");
    boto.put(&bucket, "another", b"");
    refresh(&mount.path(""));
    assert_eq!(names(&mount.path("")), ["another", "d", "e", "top"]);
    assert_eq!(size("d/sub/x"), 6);
    mount.umount();
}

/// With the daemon stopped, whatever is answered is answered by the kernel.
#[test]
fn seaweedfs_the_kernel_answers_for_what_is_there_and_what_is_not() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("kernel");
    server.boto().put(&bucket, "d/a", b"x");
    let mount = Options::new(server, &bucket).args(["--metadata-ttl", "1h"]).mount();
    let stat = |name: &str| {
        let said = run(Command::new("timeout").args(["10", "stat", "-c", "%s"]).arg(mount.path(name)));
        (said.status.code(), said.stdout)
    };
    assert_eq!(stat("d/a"), (Some(0), "1\n".to_string()));
    assert_eq!(stat("d/no"), (Some(1), String::new()));
    let daemon = mount.pid().to_string();
    assert!(run(Command::new("kill").args(["-STOP", &daemon])).status.success());
    let (there, absent) = (stat("d/a"), stat("d/no"));
    assert!(run(Command::new("kill").args(["-CONT", &daemon])).status.success());
    assert_eq!(there, (Some(0), "1\n".to_string()));
    assert_eq!(absent, (Some(1), String::new()), "124 is a timeout: the kernel asked");
    std::fs::write(mount.path("d/no"), "made").unwrap();
    assert_eq!(stat("d/no"), (Some(0), "4\n".to_string()));
    mount.umount();
}

/// The kernel's copy of a directory's names, and names it was told are not there, end with a refresh.
#[test]
fn seaweedfs_a_refresh_ends_what_the_kernel_keeps() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("copies");
    let mut boto = server.boto();
    boto.put(&bucket, "d/a", b"x");
    let mount =
        |access| Options::new(server, &bucket).args(["--metadata-ttl", "forever", "-o", access]).mount();
    let (rw, ro) = (mount("rw"), mount("ro"));
    for mount in [&rw, &ro, &rw, &ro] {
        assert_eq!(names(&mount.path("d")), ["a"]);
        assert!(!mount.path("d/b").exists() && !mount.path("top").exists());
    }
    boto.put(&bucket, "d/b", b"x");
    boto.put(&bucket, "top", b"x");
    for mount in [&rw, &ro] {
        assert_eq!(names(&mount.path("d")), ["a"]);
        refresh(&mount.path(""));
        assert!(mount.path("d/b").exists() && mount.path("top").exists());
        assert_eq!(names(&mount.path("d")), ["a", "b"]);
        assert_eq!(names(&mount.path("d")), ["a", "b"]);
    }
    std::fs::remove_file(rw.path("d/a")).unwrap();
    assert_eq!(names(&rw.path("d")), ["b"]);
    rw.umount();
    ro.umount();
}
