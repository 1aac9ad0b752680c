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

/// What another process reads, as long as it answers: none where it waits.
fn read_within(file: &std::fs::File, len: usize, patience: std::time::Duration) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let (done, got) = std::sync::mpsc::channel();
    let file = file.try_clone().expect("a descriptor");
    std::thread::spawn(move || {
        let mut data = vec![0; len];
        let read = file.read_exact_at(&mut data, 0).map(|()| data);
        let _ = done.send(read); // nobody waits any more where it took too long
    });
    got.recv_timeout(patience).ok().map(|read| read.expect("bytes"))
}

/// Signals the daemon; SIGCONT when dropped, for a stopped one cannot be unmounted.
struct Stopped(nix::unistd::Pid);

impl Stopped {
    fn new(mount: &Mount) -> Stopped {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(mount.pid()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).expect("our own daemon");
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::SIGCONT); // gone: nothing to wake
    }
}

/// The same bytes through the daemon and past it; and past it they come while the daemon sleeps.
#[test]
fn what_is_whole_in_the_cache_the_kernel_reads_by_itself() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("passed");
    let data = pattern(7, (6 << 20) + 123);
    server.boto().put(&bucket, "file", &data);
    let home = tempfile::tempdir().expect("a directory");
    let options = |home: &Path| Options::new(server, &bucket).arg("--cache").arg(home.join("cache"));
    let mount = options(home.path()).mount();
    assert!(std::fs::read(mount.path("file")).expect("through the daemon") == data);
    let said = warm(&mount.dir);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(cached(&mount.path("file")).expect("a file's"), format!("{0}/{0}", data.len()));
    mount.umount();

    let mount = options(home.path()).mount();
    let file = std::fs::File::open(mount.path("file")).expect("opens");
    {
        let _stopped = Stopped::new(&mount);
        let got = read_within(&file, data.len(), std::time::Duration::from_secs(10));
        assert!(got.expect("read while the daemon sleeps") == data);
    }
    // Written meanwhile: the old handle reads on what it opened, a new one what stands now.
    std::fs::write(mount.path("file"), b"new").expect("written");
    assert_eq!(std::fs::read(mount.path("file")).expect("read"), b"new");
    let got = read_within(&file, data.len(), std::time::Duration::from_secs(10));
    assert!(got.expect("the old version") == data);
    drop(file);
    mount.umount();
}

/// A byte that changed on the disk is noticed by the next mount, and never served.
#[test]
fn a_spoilt_cache_is_not_served() {
    use std::os::unix::fs::FileExt;
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("spoilt");
    let data = pattern(8, 3 << 20);
    server.boto().put(&bucket, "file", &data);
    let home = tempfile::tempdir().expect("a directory");
    let options = |home: &Path| Options::new(server, &bucket).arg("--cache").arg(home.join("cache"));
    let mount = options(home.path()).mount();
    assert!(warm(&mount.dir).status.success());
    mount.kill_daemon();
    drop(mount);
    let whole =
        walkdir::WalkDir::new(home.path().join("cache")).into_iter().map(|entry| entry.expect("an entry"));
    let mut spoilt = 0;
    for entry in whole.filter(|entry| entry.metadata().expect("metadata").len() == data.len() as u64) {
        let file = std::fs::OpenOptions::new().write(true).open(entry.path()).expect("opens");
        file.write_all_at(&[!data[2_000_000]], 2_000_000).expect("written");
        spoilt += 1;
    }
    assert_eq!(spoilt, 1);
    let mount = options(home.path()).mount();
    assert!(std::fs::read(mount.path("file")).expect("read") == data);
    mount.umount();
}
