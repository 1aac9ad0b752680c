//! The disk cache as programs on a mount meet it.
#![cfg(feature = "servers")]

mod support;

use std::path::Path;
use std::process::Command;

use support::bytes::pattern;
use support::mount::{Mount, Options, Said, pailfs, run};
use support::servers::{Kind, shared};

fn warm(path: &Path) -> Said {
    run(Command::new(pailfs()).arg("warm").arg(path))
}

fn cached(path: &Path) -> std::io::Result<String> {
    let value = xattr::get(path, "pailfs.cached")?.expect("a value");
    Ok(String::from_utf8(value).expect("text"))
}

#[test]
fn the_attribute_and_warm_as_programs_meet_them() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("cache");
    server.boto().put(&bucket, "d/file", &pattern(1, 300_000));
    server.boto().put(&bucket, "empty/file", b"");
    let home = tempfile::tempdir().expect("a directory");
    let cache = home.path().join("cache");
    let mount = Options::new(server, &bucket).arg("--cache").arg(&cache).arg("--cache-size=64MiB").mount();
    assert_eq!(cached(&mount.path("d/file")).expect("a file's"), "0/300000");
    assert_eq!(cached(&mount.dir).expect("the cache's"), format!("0/{}", 64 << 20));
    for refused in [
        xattr::get(mount.path("d/file"), "user.mine").map(drop),
        xattr::set(mount.path("d/file"), "pailfs.cached", b"1/1"),
        xattr::list(mount.path("d/file")).map(drop),
    ] {
        assert_eq!(refused.expect_err("not kept").raw_os_error(), Some(libc::EOPNOTSUPP));
    }
    let said = warm(&mount.path("empty"));
    assert!(said.status.success(), "{said:?}");
    assert!(said.stderr.contains("1 already before"), "{said:?}");
    mount.umount();
    assert!(cache.join("pailfs-cache").is_file());

    let mount = Mount::of(server, &bucket);
    assert_eq!(cached(&mount.path("d/file")).expect_err("no cache").raw_os_error(), Some(libc::EOPNOTSUPP));
    let said = warm(&mount.path("d"));
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(said.stderr.contains("no disk cache") && said.stderr.contains("--cache DIR"), "{said:?}");
    mount.umount();
}

#[test]
fn a_cache_that_cannot_be_used_fails_the_mount() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("cachebad");
    let home = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(home.path().join("mnt")).expect("a directory");
    let options = Options::new(server, &bucket).arg("--cache").arg("/etc");
    let said = options.try_mount(&home.path().join("mnt"));
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(said.stderr.contains("--cache: /etc is no disk cache"), "{said:?}");
}
