//! What goes wrong around a mount: the server dies, the daemon dies, the mount cannot work, the
//! directory is busy. Nothing hangs, the right errno or one clear line comes, and it heals.
#![cfg(feature = "servers")]

mod support;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use support::aws::{clean_environment, s3api_ok, with_credentials};
use support::bytes::{assert_same_bytes, pattern};
use support::mount::{Mount, Options, Said, daemon_of, is_mounted, is_our_daemon, pailfs, run, wait_until};
use support::servers::{Kind, REGION, Server, shared};

const MIB: usize = 1 << 20;
const REQUEST_TIMEOUT: &str = "5s";
/// The request timeout, and again as much for each request that was queued behind it, on a slow machine.
const EIO_BOUND: Duration = Duration::from_secs(30);

fn patient(server: &Server, bucket: &str) -> Mount {
    // The smallest memory, so that not all of a file is fetched ahead.
    let args = ["--request-timeout", REQUEST_TIMEOUT, "--memory", "64MiB", "--part-size", "5MiB"];
    Options::new(server, bucket).args(args).mount()
}

/// Runs on a thread of its own: where the mount hangs, only that thread does, and the test fails.
fn bounded<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(180)).unwrap_or_else(|e| panic!("{what}: {e}"))
}

#[test]
fn a_server_killed_in_the_middle_of_a_read_gives_eio_and_the_mount_heals() {
    let server = Server::start(Kind::SeaweedFs);
    let bucket = server.bucket("killed");
    let data = pattern(1, 128 * MIB);
    let local = tempfile::NamedTempFile::new().expect("a file");
    fs::write(local.path(), &data).expect("a local file");
    server.boto().put_file(&bucket, "large", local.path());
    let mount = patient(&server, &bucket);
    let path = mount.path("large");

    let mut file = File::open(&path).expect("an open");
    let mut begin = vec![0; MIB];
    file.read_exact(&mut begin).expect("a read");
    assert_same_bytes(&begin, &data[..MIB], "the beginning");
    server.kill();
    let (got, end, took) = bounded("a read from a dead server", move || {
        let begun = Instant::now();
        let mut got = Vec::new();
        let end = file.read_to_end(&mut got);
        (got, end, begun.elapsed())
    });
    assert_eq!(end.expect_err("nobody serves it").raw_os_error(), Some(libc::EIO));
    assert!(took < EIO_BOUND, "EIO after {took:?}");
    assert_same_bytes(&got, &data[MIB..MIB + got.len()], "what came before the error");

    server.restart();
    let back = path.clone();
    let again = bounded("a read after the server is back", move || {
        let begun = Instant::now();
        loop {
            match fs::read(&back) {
                Err(_) if begun.elapsed() < EIO_BOUND => std::thread::sleep(Duration::from_millis(100)),
                done => return done,
            }
        }
    });
    assert_same_bytes(&again.expect("the server is back"), &data, "read again");
    mount.umount();
}

#[test]
fn a_server_killed_in_the_middle_of_a_write_gives_eio_and_the_mount_heals() {
    let server = Server::start(Kind::SeaweedFs);
    let bucket = server.bucket("killed");
    let mount = patient(&server, &bucket);
    let data = pattern(2, 40 * MIB);

    let mut file = File::create(mount.path("lost")).expect("an open");
    file.write_all(&data[..20 * MIB]).expect("a write");
    server.kill();
    let rest = data[20 * MIB..].to_vec();
    let (end, took) = bounded("a write to a dead server", move || {
        let begun = Instant::now();
        // An error of a part may come with a later write, but comes by the time of fsync.
        let end = file.write_all(&rest).and_then(|()| file.sync_all());
        drop(file);
        (end, begun.elapsed())
    });
    assert_eq!(end.expect_err("nobody takes it").raw_os_error(), Some(libc::EIO));
    assert!(took < EIO_BOUND, "EIO after {took:?}");

    server.restart();
    assert_eq!(server.boto().keys(&bucket, ""), [""; 0], "whole or not at all");
    let (path, kept) = (mount.path("kept"), data.clone());
    let healed = bounded("a write after the server is back", move || {
        let begun = Instant::now();
        loop {
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(&kept)?;
                file.sync_all()
            });
            match written {
                Err(_) if begun.elapsed() < EIO_BOUND => std::thread::sleep(Duration::from_millis(100)),
                done => return done,
            }
        }
    });
    healed.expect("the server is back");
    assert_same_bytes(&server.boto().get(&bucket, "kept"), &data, "written again");
    mount.umount();
}

#[track_caller]
fn refused(said: &Said, word: &str) {
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert_eq!(said.stderr.lines().count(), 1, "one line: {said:?}");
    assert!(said.stderr.starts_with("pailfs: ") && said.stderr.contains(word), "{word:?}: {said:?}");
    assert_eq!(said.stdout, "");
}

#[test]
fn mounts_that_cannot_work_fail_at_once_with_one_line() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("refused");
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path();
    let begun = Instant::now();
    refused(&Options::new(server, "no-such-bucket-here").try_mount(dir), "no-such-bucket-here");
    let wrong = Options::new(server, &bucket).env("AWS_SECRET_ACCESS_KEY", "wrong").try_mount(dir);
    refused(&wrong, "credentials");
    assert!(!wrong.stderr.contains("wrong"), "secrets never print: {wrong:?}");
    refused(&Options::new(server, &bucket).try_mount(&dir.join("missing")), "does not exist");
    let file = dir.join("file");
    fs::write(&file, "").expect("a file");
    refused(&Options::new(server, &bucket).try_mount(&file), "not a directory");
    // A port on which nobody listens: bound, and let go.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let dead = Options::new(server, &bucket).endpoint(&format!("http://{port}"));
    refused(&dead.args(["--request-timeout", REQUEST_TIMEOUT]).try_mount(dir), &port.to_string());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(!is_mounted(dir), "nothing is left behind");
    wait_until("no daemon is left behind", || daemon_of(dir).is_none());
}

#[test]
fn a_second_mount_on_the_directory_is_refused() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("twice");
    let mount = Mount::of(server, &bucket);
    let home = tempfile::tempdir().expect("a directory");
    let mut command = Options::new(server, &bucket).command(&mount.dir, &home.path().join("log"));
    refused(&run(&mut command), "already a mount point");
    fs::write(mount.path("still"), "works").expect("a write");
    mount.umount();
}

fn umount(mount: &Mount) -> Said {
    run(Command::new(pailfs()).arg("umount").arg(&mount.dir))
}

#[test]
fn umount_of_a_busy_mount_says_so_and_leaves_it() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("busy");
    let mount = Mount::of(server, &bucket);
    let mut file = File::create(mount.path("open")).expect("an open");
    file.write_all(b"one").expect("a write");
    refused(&umount(&mount), "busy");
    assert!(is_mounted(&mount.dir));
    file.write_all(b" two").expect("it goes on");
    file.sync_all().expect("all of it in S3");
    drop(file);
    assert_eq!(server.boto().get(&bucket, "open"), b"one two");
    mount.umount();
}

#[test]
fn umount_of_what_is_no_mount_says_so() {
    let home = tempfile::tempdir().expect("a directory");
    refused(&run(Command::new(pailfs()).arg("umount").arg(home.path())), "not a mount point");
}

#[test]
fn signals_unmount() {
    let server = shared(Kind::SeaweedFs);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let bucket = server.bucket("signal");
        let mount = Mount::of(server, &bucket);
        fs::write(mount.path("file"), "kept").expect("a write");
        let pid = mount.pid();
        // SAFETY: a plain system call; the process is the daemon of our own mount.
        assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
        wait_until("the daemon ends", || !is_our_daemon(pid));
        assert!(!is_mounted(&mount.dir));
        assert_eq!(server.boto().get(&bucket, "file"), b"kept");
    }
}

#[test]
fn umount_clears_away_what_a_killed_daemon_left() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("dead");
    let mount = Mount::of(server, &bucket);
    fs::write(mount.path("file"), "kept").expect("a write");
    mount.kill_daemon();
    assert!(is_mounted(&mount.dir));
    let asked = fs::read(mount.path("file")).expect_err("nobody answers");
    // While the kernel is taking the connection down it may say that it was aborted.
    assert!(matches!(asked.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)), "{asked}");
    let said = umount(&mount);
    assert!(said.status.success() && said.stderr.contains("dead mount"), "{said:?}");
    assert!(!is_mounted(&mount.dir));
    let again = Options::new(server, &bucket).dir(&mount.dir).mount();
    assert_eq!(fs::read(again.path("file")).expect("mounted again"), b"kept");
    again.umount();
}

/// As mount(8) and a line in /etc/fstab call it.
#[test]
fn the_forms_that_mount_8_uses() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("forms");
    let home = tempfile::tempdir().expect("a directory");
    let helper = home.path().join("mount.pailfs");
    symlink(pailfs(), &helper).expect("a link");
    server.boto().put(&bucket, "below/file", b"hello");
    for (program, source, file) in [
        (pailfs(), bucket.clone(), "below/file"),
        (helper.clone(), bucket.clone(), "below/file"),
        (helper, format!("s3://{bucket}/below/"), "file"),
    ] {
        let mount = Options::new(server, &bucket).mount_by(|_, dir, log| {
            let mut command = Command::new(&program);
            let log = log.display();
            let options = format!("endpoint-url={},region={REGION},log-file={log},ro", server.endpoint);
            command.arg(&source).arg(dir).args(["-o", &options]);
            clean_environment(&mut command);
            with_credentials(&mut command);
            command
        });
        assert_eq!(fs::read(mount.path(file)).expect("a read"), b"hello");
        mount.umount();
    }
}

#[test]
fn a_read_only_mount_is_erofs() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("readonly");
    server.boto().put(&bucket, "d/file", b"hello");
    let mount = Options::new(server, &bucket).arg("--read-only").mount();
    let file = mount.path("d/file");
    let changes: [(&str, io::Result<()>); 6] = [
        ("create", File::create(mount.path("new")).map(|_| ())),
        ("write", fs::OpenOptions::new().append(true).open(&file).map(|_| ())),
        ("unlink", fs::remove_file(&file)),
        ("mkdir", fs::create_dir(mount.path("new"))),
        ("rmdir", fs::remove_dir(mount.path("d"))),
        ("rename", fs::rename(&file, mount.path("new"))),
    ];
    for (what, done) in changes {
        assert_eq!(done.expect_err(what).raw_os_error(), Some(libc::EROFS), "{what}");
    }
    assert_eq!(fs::read(&file).expect("a read"), b"hello");
    assert_eq!(server.boto().keys(&bucket, ""), ["d/file"]);
    mount.umount();
}

#[test]
fn an_archived_object_is_eacces_at_once() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("archived");
    let local = tempfile::NamedTempFile::new().expect("a file");
    fs::write(local.path(), pattern(1, 100_000)).expect("a local file");
    let body = local.path().to_str().expect("text");
    let put =
        ["put-object", "--bucket", &bucket, "--key", "old", "--body", body, "--storage-class", "GLACIER"];
    s3api_ok(&server.endpoint, &put);
    let mount = Mount::of(server, &bucket);
    let path = mount.path("old");
    assert_eq!(fs::metadata(&path).expect("its attributes").len(), 100_000);
    let (refused, took) = bounded("a read of an archived object", move || {
        let begun = Instant::now();
        (fs::read(path), begun.elapsed())
    });
    assert_eq!(refused.expect_err("it is archived").raw_os_error(), Some(libc::EACCES));
    assert!(took < Duration::from_secs(10), "EACCES after {took:?}");
    let log = mount.log_text();
    assert!(log.contains("archived and must be restored"), "{log}");
    assert!(log.contains("tries 1)"), "{log}");
    mount.umount();
}
