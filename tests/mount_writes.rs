//! Writing anywhere in files on a mount, as system calls do it, fsx, and fio; with `--write-back` as well, where S3 must come
//! to have what the mount shows.
#![cfg(feature = "servers")]

mod support;

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use support::mount::{Mount, Options, flush, run};
use support::servers::{Kind, Server, program, shared};

/// How the tests that are run twice mount.
const SYNC: &[&str] = &[];
const WRITE_BACK: &[&str] = &["--write-back"];

/// Fails with the line of the first thing that a local disk would do otherwise.
const PROGRAMS: &str = r#"
import fcntl, mmap, os, subprocess, sys, time

os.chdir(sys.argv[1])

def content(name):
    with open(name, "rb") as f:
        return f.read()

data = bytearray(os.urandom(11_000_000))
with open("file", "wb") as f:
    f.write(data)
def dd(what, *args):
    subprocess.run(["dd", "if=/dev/stdin", "of=file", "conv=notrunc", "status=none", *args], input=what, check=True)
dd(b"x" * 4096, "bs=4096", "seek=1000")
data[4_096_000:4_100_096] = b"x" * 4096
assert content("file") == data
os.truncate("file", 7_000_000)
os.truncate("file", 9_000_000)
data[7_000_000:] = bytes(2_000_000)
with open("file", "r+b") as f:
    subprocess.run(["fallocate", "-p", "-o", "5000", "-l", "100000", "file"], check=True)
data[5000:105_000] = bytes(100_000)
assert content("file") == data
subprocess.run(["cp", "file", "copy"], check=True)
assert content("copy") == data

f = os.open("file", os.O_RDWR)
m = mmap.mmap(f, 0)
m[100:105] = b"hello"
m.flush()
assert os.pread(f, 5, 100) == b"hello"
os.pwrite(f, b"there", 200)
assert m[200:205] == b"there"
os.close(f)
m[300:305] = b"later"
m.close()
data[100:105], data[200:205], data[300:305] = b"hello", b"there", b"later"
for _ in range(100):
    if content("file") == data:
        break
    time.sleep(0.1)  # the mapping's end is not waited for, as on any file system
assert content("file") == data

a, b = (os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND) for _ in range(2))
for n in range(100):
    os.write(a, b"a%d\n" % n)
    os.write(b, b"b%d\n" % n)
os.close(a)
os.close(b)
assert content("log") == b"".join(b"a%d\nb%d\n" % (n, n) for n in range(100))

f = open("gone", "w+b")
f.write(data)
os.unlink("gone")
f.seek(0)
assert f.read() == data
f.close()
assert not os.path.exists("gone")

film = bytearray(os.urandom(30_000_000))
f = os.open("film", os.O_CREAT | os.O_WRONLY)
for at in range(0, len(film), 1 << 20):
    os.write(f, film[at:at + (1 << 20)])
for at in (3, 9_000_000):  # in parts that were sent already
    os.pwrite(f, b"patched", at)
    film[at:at + 7] = b"patched"
os.close(f)
assert content("film") == film
"#;

/// Runs a program that must succeed.
#[track_caller]
fn succeed(command: &mut Command) {
    let said = run(command);
    assert!(said.status.success(), "{said:?}");
}

/// Another mount, which has only what S3 has, shows the same as this one, once this has sent all.
#[track_caller]
fn same_in_s3(server: &Server, bucket: &str, mount: Mount) {
    flush(&mount, "");
    let fresh = Mount::of(server, bucket);
    let differs = run(Command::new("diff").args(["-r", "--brief"]).arg(&mount.dir).arg(&fresh.dir));
    assert!(differs.status.success(), "{differs:?}\nits log:\n{}", mount.log_text());
    fresh.umount();
    mount.umount();
}

/// Operations: few, for CI; `PAILFS_LONG=1` for what a release is to pass.
fn long() -> bool {
    std::env::var_os("PAILFS_LONG").is_some()
}

fn programs_write_anywhere(args: &[&str]) {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("programs");
    let mount = Options::new(server, &bucket).args(args).mount();
    succeed(Command::new(program("python3")).arg("-c").arg(PROGRAMS).arg(&mount.dir));
    same_in_s3(server, &bucket, mount);
}

#[test]
fn seaweedfs_programs_that_write_anywhere() {
    programs_write_anywhere(SYNC);
}

#[test]
fn seaweedfs_programs_that_write_anywhere_with_write_back() {
    programs_write_anywhere(WRITE_BACK);
}

/// What programs look for and make by `lseek(2)`, before S3 has the file and after.
const HOLES: &str = r#"
import errno, os, subprocess, sys

os.chdir(sys.argv[1])
MIB = 1 << 20
data = bytearray(4 * MIB)
data[MIB:MIB + 4096] = os.urandom(4096)
def seek(f, at, whence):
    try:
        return os.lseek(f, at, whence)
    except OSError as e:
        assert e.errno == errno.ENXIO, e

f = os.open("sparse", os.O_CREAT | os.O_RDWR)
os.pwrite(f, data[MIB:MIB + 4096], MIB)
os.ftruncate(f, len(data))
found = [seek(f, *what) for what in (
    (0, os.SEEK_DATA), (0, os.SEEK_HOLE), (MIB, os.SEEK_DATA), (MIB, os.SEEK_HOLE), (2 * MIB, os.SEEK_DATA),
    (len(data), os.SEEK_HOLE))]
assert found == [MIB, 0, MIB, MIB + 4096, None, None], found
assert os.lseek(f, 0, os.SEEK_END) == len(data)
os.pwrite(f, bytes(MIB), 2 * MIB)  # zeros are data until holes are dug
assert seek(f, 2 * MIB, os.SEEK_DATA) == 2 * MIB
subprocess.run(["fallocate", "--dig-holes", "sparse"], check=True)
with open("sparse", "rb") as read:
    assert read.read() == data
os.close(f)

for copy in (["cp", "--sparse=always", "sparse", "always"], ["cp", "--sparse=auto", "sparse", "auto"]):
    subprocess.run(copy, check=True)
    with open(copy[-1], "rb") as read:
        assert read.read() == data
os.mkdir("unpacked")
subprocess.run("tar -cSf - sparse | tar -xmSf - -C unpacked", shell=True, check=True)
f = os.open("unpacked/sparse", os.O_RDONLY)
assert (seek(f, 0, os.SEEK_DATA), seek(f, 0, os.SEEK_HOLE)) == (0, len(data)), "S3 keeps no holes"
assert os.pread(f, len(data), 0) == data
os.close(f)
"#;

#[test]
fn seaweedfs_holes_are_told_until_they_are_published() {
    let server = shared(Kind::SeaweedFs);
    let mount = Options::new(server, &server.bucket("holes")).mount();
    succeed(Command::new(program("python3")).arg("-c").arg(HOLES).arg(&mount.dir));
}

/// A Python program that says how far it is, and goes on when it is told to.
struct Stepwise {
    program: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stdin: ChildStdin,
}

impl Stepwise {
    fn start(script: &str, at: &Path) -> Stepwise {
        let mut python = Command::new(program("python3"));
        let python = python.arg("-u").arg("-c").arg(script).arg(at);
        let mut program = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let lines = BufReader::new(program.stdout.take().expect("piped")).lines();
        let stdin = program.stdin.take().expect("piped");
        Stepwise { program, lines, stdin }
    }

    #[track_caller]
    fn said(&mut self, word: &str) {
        assert_eq!(self.lines.next().expect("a line").expect("text"), word);
    }

    fn go_on(&mut self) {
        writeln!(self.stdin).expect("it reads");
    }

    #[track_caller]
    fn ends(mut self) {
        self.go_on();
        assert!(self.program.wait().expect("it ends").success());
    }
}

/// Closes at exec, and a child that ends, tell of no end: S3 has the file when who writes it has closed it.
#[test]
fn seaweedfs_who_only_inherits_a_descriptor_publishes_nothing() {
    const WRITES: &str = r#"
import os, subprocess, sys
with open(sys.argv[1], "wb") as f:
    f.write(b"half")
    f.flush()
    subprocess.run(["true"], check=True)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    print("half", flush=True)
    sys.stdin.readline()
    f.write(b", and the rest")
    late = os.fork()
    if late == 0:
        f.write(b", and the child's")
        f.close()
        os._exit(0)
    os.waitpid(late, 0)
    print("child", flush=True)
    sys.stdin.readline()
"#;
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("inherited");
    let mount = Options::new(server, &bucket).mount();
    let file = mount.dir.join("file");
    let mut writes = Stepwise::start(WRITES, &file);
    writes.said("half");
    assert_eq!(server.boto().keys(&bucket, ""), [""; 0], "nobody who wrote has closed it");
    writes.go_on();
    writes.said("child");
    let by_child = server.boto().get(&bucket, "file");
    assert_eq!(by_child, b"half, and the rest, and the child's", "who wrote and closed must find it in S3");
    writes.ends();
    assert_eq!(std::fs::read(&file).expect("a file"), b"half, and the rest, and the child's, and the rest");
}

#[test]
fn seaweedfs_writes_that_are_to_be_synced_are_in_s3_when_they_return() {
    const WRITES: &str = r#"
import os, sys
os.chdir(sys.argv[1])
for name, flag in (("sync", os.O_SYNC), ("dsync", os.O_DSYNC)):
    f = os.open(name, os.O_CREAT | os.O_WRONLY | flag)
    os.write(f, b"one, ")
    os.write(f, b"two")
f = os.open("once", os.O_CREAT | os.O_WRONLY)
os.pwritev(f, [b"one, two"], 0, os.RWF_DSYNC)
os.pwrite(f, b"and not this", 8)
print("written", flush=True)
sys.stdin.readline()
"#;
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("synced");
    let mount = Options::new(server, &bucket).mount();
    let mut writes = Stepwise::start(WRITES, &mount.dir);
    writes.said("written");
    for name in ["sync", "dsync", "once"] {
        assert_eq!(server.boto().get(&bucket, name), b"one, two", "{name}");
    }
    writes.ends();
}

/// All of fsx's operations. It takes the EINVAL of a `posix_fallocate` of no bytes for one that is not supported.
const FSX: &str = "
flen = 262144
[opsize]
min = 1
max = 65536
[weights]
close_open = 1.0
invalidate = 1.0
mapread = 5.0
mapwrite = 5.0
read = 5.0
write = 10.0
truncate = 3.0
fsync = 1.0
fdatasync = 1.0
posix_fallocate = 2.0
punch_hole = 3.0
sendfile = 2.0
posix_fadvise = 1.0
copy_file_range = 3.0
";

/// What `ensure_crate` of scripts/lib.sh installs.
fn fsx() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/fsx");
    assert!(path.exists(), "{} is missing: scripts/test installs it", path.display());
    path
}

fn fsx_finds_no_fault(args: &[&str]) {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("fsx");
    let mount = Options::new(server, &bucket).args(args).mount();
    let local = tempfile::tempdir().expect("a directory");
    let large = FSX.replace("262144", "20000000").replace("65536", "2000000");
    let (some, few) = if long() { (20_000, 1500) } else { (1500, 80) };
    for (name, config, operations) in [("small", FSX, some), ("large", &large, few)] {
        let seed = rand::random::<u32>().to_string();
        eprintln!("fsx {name}: seed {seed}");
        let settings = local.path().join(name);
        std::fs::write(&settings, config).expect("fsx's settings");
        let mut fsx = Command::new(fsx());
        fsx.arg("-q").args(["-N", &operations.to_string(), "-S", &seed]).arg("-f").arg(&settings);
        succeed(fsx.arg("-P").arg(local.path()).arg(mount.dir.join(name)));
    }
    same_in_s3(server, &bucket, mount);
}

#[test]
fn seaweedfs_fsx_finds_no_fault() {
    fsx_finds_no_fault(SYNC);
}

#[test]
fn seaweedfs_fsx_finds_no_fault_with_write_back() {
    fsx_finds_no_fault(WRITE_BACK);
}

/// What is written is verified by the same mount, and by another one that has only what S3 has.
fn fio_verifies_what_it_wrote(args: &[&str]) {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("fio");
    let times = if long() { 10 } else { 1 };
    let jobs = [
        (["--name=sequential", "--rw=write", "--bs=1m"], 24),
        (["--name=random", "--rw=randwrite", "--bsrange=512-128k"], 8),
        (["--name=mixed", "--rw=randrw", "--bsrange=4k-64k"], 4),
        (["--name=mapped", "--rw=randwrite", "--ioengine=mmap"], 1),
    ];
    for more in ["--do_verify=1", "--verify_only=1"] {
        let mount = Options::new(server, &bucket).args(args).mount();
        let mut fio = Command::new("fio");
        fio.arg("--directory").arg(&mount.dir).args(["--thread", "--fallocate=none", "--end_fsync=1"]);
        fio.args(["--verify=crc32c", "--verify_fatal=1", "--randseed=7", more]);
        fio.arg("--verify_state_save=0");
        for (job, mib) in jobs {
            fio.args(job).arg(format!("--size={}m", mib * times));
        }
        succeed(&mut fio);
        mount.umount();
    }
}

#[test]
fn seaweedfs_fio_verifies_what_it_wrote() {
    fio_verifies_what_it_wrote(SYNC);
}

#[test]
fn seaweedfs_fio_verifies_what_it_wrote_with_write_back() {
    fio_verifies_what_it_wrote(WRITE_BACK);
}
