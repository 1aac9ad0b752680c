//! A real mount by the built program, and the end of it whatever happens.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::aws::{clean_environment, with_credentials};
use super::servers::{REGION, Server};

/// Bound against hanging, not a measure.
const HANG_SECONDS: u64 = 600;

pub fn pailfs() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pailfs"))
}

/// What a program said when it had ended.
#[derive(Debug)]
pub struct Said {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end, but not for ever. Its output goes to files, not pipes: a daemon it
/// leaves behind may hold them open.
#[track_caller]
pub fn run(command: &mut Command) -> Said {
    let mut out = tempfile::tempfile().expect("a file");
    let mut err = tempfile::tempfile().expect("a file");
    command.stdin(Stdio::null());
    command.stdout(out.try_clone().expect("a descriptor"));
    command.stderr(err.try_clone().expect("a descriptor"));
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let end = Instant::now() + Duration::from_secs(HANG_SECONDS);
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} hangs; it said: {}{}", slurp(&mut out), slurp(&mut err));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Said { status, stdout: slurp(&mut out), stderr: slurp(&mut err) }
}

/// `pailfs flush` of a path on a mount, which must succeed.
#[track_caller]
pub fn flush(mount: &Mount, path: &str) {
    let said = run(Command::new(pailfs()).arg("flush").arg(mount.path(path)));
    assert!(said.status.success(), "flush: {said:?}\nits log:\n{}", mount.log_text());
}

/// `pailfs refresh` of what is on a mount, which must succeed.
#[track_caller]
pub fn refresh(path: &Path) {
    let said = run(Command::new("timeout").arg("20").arg(pailfs()).arg("refresh").arg(path));
    assert!(said.status.success(), "{said:?}");
}

fn slurp(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("a plain file");
    file.read_to_end(&mut bytes).expect("a plain file");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Polls until it holds; a bound against hanging. For conditions, in place of sleeps.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(HANG_SECONDS);
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How to mount.
pub struct Options {
    endpoint: String,
    bucket: String,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
}

/// A mount, and its end: unmounted when dropped, by force if it must be.
pub struct Mount {
    pub dir: PathBuf,
    pub log: PathBuf,
    pid: u32,
    // Dropped last: the directory goes when nothing is mounted there any more.
    _home: tempfile::TempDir,
}

impl Options {
    pub fn new(server: &Server, bucket: &str) -> Options {
        Options {
            endpoint: server.endpoint.clone(),
            bucket: bucket.to_string(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
        }
    }

    /// Another server, or none.
    pub fn endpoint(mut self, endpoint: &str) -> Options {
        self.endpoint = endpoint.to_string();
        self
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Options {
        self.args.push(arg.as_ref().to_os_string());
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Options {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_os_string()));
        self
    }

    /// Put over what the tests give the program (credentials of the test server).
    pub fn env(mut self, name: &str, value: &str) -> Options {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Elsewhere than in a fresh directory.
    pub fn dir(mut self, dir: &Path) -> Options {
        self.dir = Some(dir.to_path_buf());
        self
    }

    /// `pailfs mount OPTIONS BUCKET DIR`, not yet run.
    pub fn command(&self, dir: &Path, log: &Path) -> Command {
        let mut command = Command::new(pailfs());
        command.arg("mount");
        command.args(["--endpoint-url", &self.endpoint, "--region", REGION]);
        command.arg("--log-file").arg(log);
        command.arg("--staging").arg(log.with_file_name("staging"));
        command.args(&self.args).arg(&self.bucket).arg(dir);
        clean_environment(&mut command);
        with_credentials(&mut command);
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Mounts; fails the test with the program's words where it does not.
    #[track_caller]
    pub fn mount(self) -> Mount {
        self.mount_by(Options::command)
    }

    /// By another command, made for the mount point and the log file.
    #[track_caller]
    pub fn mount_by(self, command: impl FnOnce(&Options, &Path, &Path) -> Command) -> Mount {
        let home = tempfile::Builder::new().prefix("pailfs-mount-").tempdir().expect("a directory");
        let dir = self.dir.clone().unwrap_or_else(|| home.path().join("mnt"));
        if self.dir.is_none() {
            std::fs::create_dir(&dir).expect("the mount point");
        }
        let log = home.path().join("log");
        // Made before it is asked whether all went well, so that half a mount is cleared up too.
        let mut mount = Mount { dir: dir.clone(), log: log.clone(), pid: 0, _home: home };
        let said = run(&mut command(&self, &dir, &log));
        assert!(said.status.success(), "mount: {said:?}\nits log:\n{}", mount.log_text());
        assert!(is_mounted(&dir), "exit status 0, but nothing is mounted: {said:?}");
        mount.pid = daemon_of(&dir).expect("the daemon that serves the mount");
        mount
    }

    /// For mounts that cannot work: what the program says. Whatever it did mount is unmounted.
    #[track_caller]
    pub fn try_mount(&self, dir: &Path) -> Said {
        let home = tempfile::tempdir().expect("a directory");
        let said = run(&mut self.command(dir, &home.path().join("log")));
        if said.status.success() {
            let _ = run(Command::new(pailfs()).arg("umount").arg(dir));
        }
        said
    }
}

impl Mount {
    /// With no further options.
    #[track_caller]
    pub fn of(server: &Server, bucket: &str) -> Mount {
        Options::new(server, bucket).mount()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its peak resident memory so far, in bytes (`VmHWM`).
    pub fn memory_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let status = status.expect("the daemon lives");
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        kib << 10
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `pailfs umount`, which must succeed, leave nothing mounted and end the daemon.
    #[track_caller]
    pub fn umount(self) {
        // What the test had open, a program that another test has just begun may have for a moment, too.
        let end = Instant::now() + Duration::from_secs(5);
        let said = loop {
            let said = run(Command::new(pailfs()).arg("umount").arg(&self.dir));
            if said.status.success() || !said.stderr.contains("busy") || Instant::now() > end {
                break said;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        assert!(said.status.success(), "umount: {said:?}\nits log:\n{}", self.log_text());
        assert!(!is_mounted(&self.dir), "umount says it went well, but it is still mounted");
        wait_until("the daemon ends", || !is_our_daemon(self.pid));
    }

    /// What a crash does.
    pub fn kill_daemon(&self) {
        send_kill(self.pid);
        wait_until("the daemon is dead", || !is_our_daemon(self.pid));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the mount's log:\n{}", self.log_text());
        }
        if is_mounted(&self.dir) {
            // No `run` here: it may panic, and this may be the way out of a panic already.
            let tidy = Command::new("timeout")
                .args(["60", env!("CARGO_BIN_EXE_pailfs"), "umount"])
                .arg(&self.dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .status();
            if !tidy.is_ok_and(|s| s.success()) && is_mounted(&self.dir) {
                let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
            }
        }
        // It ends by itself once it is unmounted; where it does not, it is ours to end.
        for _ in 0..250 {
            if !is_our_daemon(self.pid) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        send_kill(self.pid);
    }
}

fn send_kill(pid: u32) {
    if is_our_daemon(pid) {
        // SAFETY: a plain system call on a number that was just seen to be our daemon's.
        unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
    }
}

/// Whether this process is there and is the program under test.
pub fn is_our_daemon(pid: u32) -> bool {
    // A dead process that nobody has reaped yet has no `exe` any more.
    pid != 0 && std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == pailfs())
}

/// The process of the program under test whose command line names the directory.
pub fn daemon_of(dir: &Path) -> Option<u32> {
    let wanted = dir.as_os_str().as_encoded_bytes();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if cmdline.split(|&b| b == 0).any(|arg| arg == wanted) && is_our_daemon(pid) {
            return Some(pid);
        }
    }
    None
}

/// Whether something is mounted just there. Asks the kernel's table, never the file system itself,
/// which may hang.
pub fn is_mounted(dir: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    table.lines().any(|line| {
        line.split(' ').nth(4).is_some_and(|at| unescaped(at) == dir.as_os_str().as_encoded_bytes())
    })
}

/// `\040` and the like, as proc_pid_mountinfo(5) writes them.
fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&b, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if b == b'\\' => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(b);
                rest = after;
            }
        }
    }
    out
}
