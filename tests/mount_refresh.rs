//! `pailfs refresh` on a real mount: what another host changed is seen, though names are believed for ever.
#![cfg(feature = "servers")]

mod support;

use std::path::Path;
use std::process::Command;

use support::mount::{Options, pailfs, run};
use support::servers::{Kind, shared};

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn refresh(path: &Path) {
    let said = run(Command::new("timeout").arg("20").arg(pailfs()).arg("refresh").arg(path));
    assert!(said.status.success(), "{said:?}");
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
