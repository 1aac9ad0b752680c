//! What plain programs meet on a mount: attributes, links, locks, mappings, a busy mount that is asked to
//! end. The programs are Python and the shell, with the kernel in between.
#![cfg(feature = "servers")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use support::mount::{Mount, Options, is_mounted, is_our_daemon, run, wait_until};
use support::servers::{Kind, shared};

/// Fails with the line of the first thing that is not as docs/SEMANTICS.md says.
const RULES: &str = r#"
import errno, fcntl, mmap, os, subprocess, sys, time

def refused(expected, call, *args):
    try:
        call(*args)
    except OSError as e:
        assert e.errno == expected, (args, errno.errorcode[e.errno])
    else:
        raise AssertionError(f"{call} {args} went well")

os.chdir(sys.argv[1])
with open("file", "wb") as f:
    f.write(b"0123456789")

told = os.stat("file")
assert told.st_mode & 0o7777 == 0o640 and told.st_nlink == 1, told
assert abs(told.st_mtime - time.time()) < 60, told
assert os.stat(".").st_mode & 0o7777 == 0o750
os.chmod("file", 0o640)
os.chown("file", os.getuid(), os.getgid())
refused(errno.EPERM, os.chmod, "file", 0o600)
refused(errno.EPERM, os.chown, "file", 12345, -1)
refused(errno.EPERM, os.utime, "file", (1, 1))
with open("touched", "wb") as f:
    f.write(b"x")
    f.flush()
    os.utime("touched")

space = os.statvfs(".")
assert space.f_blocks * space.f_frsize == 1 << 60 and space.f_bavail == space.f_blocks
assert space.f_namemax == 255
refused(errno.ENAMETOOLONG, open, "n" * 256, "w")
refused(errno.EINVAL, open, b"\xff", "w")

refused(errno.EPERM, os.symlink, "file", "link")
refused(errno.EPERM, os.link, "file", "link")
refused(errno.EPERM, os.mkfifo, "fifo")
refused(errno.EOPNOTSUPP, os.setxattr, "file", "user.x", b"y")
refused(errno.EOPNOTSUPP, os.getxattr, "file", "user.x")

with open("file", "rb") as f:
    refused(errno.EBADF, os.write, f.fileno(), b"x")
    assert os.lseek(f.fileno(), 0, os.SEEK_DATA) == 0
    assert os.lseek(f.fileno(), 0, os.SEEK_HOLE) == 10
    assert mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:] == b"0123456789"
with open("file", "r+b") as f:
    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open("file", "rb") as other:
        refused(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)

a = os.open("file", os.O_RDONLY)
b = os.open("copy", os.O_WRONLY | os.O_CREAT)
assert os.copy_file_range(a, b, 10) == 10
os.close(b)
assert open("copy", "rb").read() == b"0123456789"

os.mkdir("dir")
os.rename("dir", "moved")
os.rename("moved", "dir")
refused(errno.EISDIR, os.unlink, "dir")
refused(errno.ENOTDIR, os.rmdir, "file")
with open("dir/x", "w") as f:
    f.write("x")
refused(errno.ENOTEMPTY, os.rmdir, "dir")
subprocess.run(["mv", "dir", "moved"], check=True)
assert open("moved/x").read() == "x" and not os.path.exists("dir")
"#;

fn python() -> PathBuf {
    support::servers::program("python3")
}

fn rules(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("rules");
    let mount = Options::new(server, &bucket).args(["--umask", "027", "--file-mode", "660"]).mount();
    let said = run(Command::new(python()).arg("-c").arg(RULES).arg(&mount.dir));
    assert!(said.status.success(), "{}", said.stderr);
    mount.umount();
}

#[test]
fn seaweedfs_programs_meet_the_rules() {
    rules(Kind::SeaweedFs);
}

#[test]
fn moto_programs_meet_the_rules() {
    rules(Kind::Moto);
}

#[test]
fn mv_onto_the_mount_warns_of_times_and_moves() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("mv");
    let mount = Mount::of(server, &bucket);
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("file");
    std::fs::write(&file, "moved").unwrap();
    let said = run(Command::new("mv").arg(&file).arg(mount.path("file")));
    assert!(said.status.success() && said.stderr.contains("preserving times"), "{said:?}");
    assert!(!file.exists());
    assert_eq!(server.boto().get(&bucket, "file"), b"moved");
    mount.umount();
}

#[test]
fn noexec_and_ownership_are_the_mounts() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("owned");
    let options = Options::new(server, &bucket).args(["--uid", "1234", "--gid", "2345", "-o", "noexec"]);
    let mount = options.args(["--file-mode", "755"]).mount();
    std::fs::write(mount.path("script"), "#!/bin/sh\necho ran\n").unwrap();
    let told = std::fs::metadata(mount.path("script")).unwrap();
    assert_eq!((told.uid(), told.gid()), (1234, 2345));
    let refused = Command::new(mount.path("script")).output().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    mount.umount();
}

/// The first signal leaves a busy mount as it is; the second one detaches it. What was still being
/// written is not published, and no upload is left.
#[test]
fn a_second_signal_detaches_a_busy_mount() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("detach");
    let mount = Mount::of(server, &bucket);
    let (pid, path) = (mount.pid(), mount.path("half"));
    let mut half = std::fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut half, &vec![7; 20 << 20]).unwrap();
    // SAFETY: a plain system call; the process is the daemon of our own mount.
    let terminate = || assert_eq!(unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) }, 0);
    terminate();
    wait_until("the log says that it is busy", || mount.log_text().contains("it stays mounted"));
    assert!(is_mounted(&mount.dir) && is_our_daemon(pid));
    terminate();
    wait_until("the daemon ends", || !is_our_daemon(pid));
    assert!(mount.log_text().contains("half"), "the file is named: {}", mount.log_text());
    drop(half);
    let listed = ["list-multipart-uploads", "--bucket", &bucket];
    let uploads = support::aws::s3api_ok(&server.endpoint, &listed);
    assert!(!uploads.contains("UploadId"), "{uploads}");
}
