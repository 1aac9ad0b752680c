//! A real mount: it starts, shows what another client wrote, another client sees what it wrote, it ends.
#![cfg(feature = "servers")]

mod support;

use support::mount::{Mount, is_mounted, is_our_daemon};
use support::servers::{Kind, shared};

fn both_ways(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("basics");
    let mut boto = server.boto();
    boto.put(&bucket, "dir/from s3", b"from s3");
    let mount = Mount::of(server, &bucket);
    assert_eq!(std::fs::read(mount.path("dir/from s3")).unwrap(), b"from s3");
    std::fs::write(mount.path("dir/from mount"), b"from mount").unwrap();
    assert_eq!(boto.get(&bucket, "dir/from mount"), b"from mount");
    assert!(mount.memory_peak() > 1 << 20);
    mount.umount();
}

#[test]
fn seaweedfs_both_ways() {
    both_ways(Kind::SeaweedFs);
}

#[test]
fn moto_both_ways() {
    both_ways(Kind::Moto);
}

/// The guard itself: a test that fails must not leave its mount or its daemon behind.
#[test]
fn a_panic_leaves_no_mount() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("panic");
    let mount = Mount::of(server, &bucket);
    let (dir, pid) = (mount.dir.clone(), mount.pid());
    let thread = std::thread::spawn(move || {
        let _mount = mount;
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    assert!(!is_mounted(&dir) && !dir.exists());
    assert!(!is_our_daemon(pid));
}
