//! Real S3 servers on free ports of 127.0.0.1: SeaweedFS and moto.
//!
//! Owns: their processes and their data. Whatever happens to the test process, they die with it: the
//! kernel kills them when the keeper thread that started them is gone, and an exit handler removes
//! their data. They come from the virtual environment that `scripts/test` makes.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use super::aws::Boto;

pub const ACCESS_KEY: &str = "pailfs-test";
pub const SECRET_KEY: &str = "pailfs-test-secret";
pub const REGION: &str = "us-east-1";

/// Far beyond what a start takes on a busy machine; it is a bound against hanging, not a measure.
const START_SECONDS_MAX: u64 = 120;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    SeaweedFs,
    Moto,
}

/// A server of our own. Killed when dropped; what tests share is never dropped, but dies all the same.
pub struct Server {
    pub kind: Kind,
    /// `http://127.0.0.1:PORT`
    pub endpoint: String,
    ports: Vec<u16>,
    dir: PathBuf,
    child: Mutex<Option<Child>>,
}

/// One server of each kind for all the tests of a file: they keep apart by bucket names.
pub fn shared(kind: Kind) -> &'static Server {
    static SEAWEEDFS: OnceLock<Result<Server, String>> = OnceLock::new();
    static MOTO: OnceLock<Result<Server, String>> = OnceLock::new();
    let slot = match kind {
        Kind::SeaweedFs => &SEAWEEDFS,
        Kind::Moto => &MOTO,
    };
    // One that does not start fails all its tests at once: none waits for it again.
    match slot.get_or_init(|| Server::try_start(kind)) {
        Ok(server) => server,
        Err(why) => panic!("{kind:?} does not start: {why}"),
    }
}

/// A program of the virtual environment. Without it a test of feature `servers` fails: what it was
/// asked to prove it has not proved.
pub fn program(name: &str) -> PathBuf {
    let venv = std::env::var_os("PAILFS_TEST_VENV")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv"), PathBuf::from);
    let path = venv.join("bin").join(name);
    assert!(
        path.exists(),
        "{} is not there: run scripts/test, which installs what the tests need (or name another \
         virtual environment in PAILFS_TEST_VENV)",
        path.display()
    );
    path
}

/// A name no other test of this process uses, fit for a bucket.
pub fn bucket_name(hint: &str) -> String {
    static SERIAL: AtomicU16 = AtomicU16::new(0);
    format!("{hint}-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed))
}

impl Server {
    /// Starts one and waits until it stores an object and gives it back.
    pub fn start(kind: Kind) -> Server {
        Server::try_start(kind).unwrap_or_else(|why| panic!("{kind:?} does not start: {why}"))
    }

    fn try_start(kind: Kind) -> Result<Server, String> {
        let end = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        // Another process may take a port between our look at it and the server's; then once more.
        loop {
            let dir = tempfile::Builder::new().prefix("pailfs-server-").tempdir().expect("a directory");
            let dir = dir.keep();
            at_exit(|leftovers| leftovers.dirs.push(dir.clone()));
            let ports = free_ports(if kind == Kind::SeaweedFs { 4 } else { 1 });
            let server = Server {
                kind,
                endpoint: format!("http://127.0.0.1:{}", ports[0]),
                ports,
                dir,
                child: Mutex::new(None),
            };
            match server.launch(end) {
                Ok(()) => return Ok(server),
                Err(why) if Instant::now() > end => return Err(why),
                Err(_) => {}
            }
        }
    }

    /// Ends it as a crash would: SIGKILL, and the data stays.
    pub fn kill(&self) {
        let child = self.child.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(mut child) = child {
            child.kill().expect("to kill our own child");
            child.wait().expect("to reap our own child");
        }
    }

    /// Starts it again on the same port. SeaweedFS has its data still; moto has forgotten it.
    pub fn restart(&self) {
        self.kill();
        let end = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        self.launch(end).unwrap_or_else(|why| panic!("{:?} does not restart: {why}", self.kind));
    }

    /// A new bucket.
    pub fn bucket(&self, hint: &str) -> String {
        let name = bucket_name(hint);
        self.boto().create_bucket(&name);
        name
    }

    /// boto3 against this server, in a process of its own.
    pub fn boto(&self) -> Boto {
        Boto::start(&self.endpoint)
    }

    fn launch(&self, end: Instant) -> Result<(), String> {
        let log_path = self.dir.join("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.expect("the server's log");
        let mut command = match self.kind {
            Kind::SeaweedFs => self.weed(),
            Kind::Moto => self.moto(),
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        command.current_dir(&self.dir);
        let child = spawn_for_life(command);
        at_exit(|leftovers| leftovers.pids.push(child.id()));
        *self.child.lock().unwrap_or_else(|e| e.into_inner()) = Some(child);
        self.wait_until_ready(end).map_err(|why| {
            self.kill();
            let log = std::fs::read_to_string(&log_path).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            format!("{why}; the end of its log:\n{}", tail.join("\n"))
        })
    }

    fn weed(&self) -> Command {
        let [s3, master, volume, filer] = self.ports[..] else { unreachable!("four ports") };
        let config = self.dir.join("s3.json");
        let identity = format!(
            "{{\"identities\":[{{\"name\":\"admin\",\"credentials\":[{{\"accessKey\":\"{ACCESS_KEY}\",\
             \"secretKey\":\"{SECRET_KEY}\"}}],\"actions\":[\"Admin\",\"Read\",\"Write\",\"List\",\
             \"Tagging\"]}}]}}"
        );
        std::fs::write(&config, identity).expect("the server's configuration");
        let data = self.dir.join("data");
        std::fs::create_dir_all(&data).expect("the server's data directory");
        let mut command = Command::new(program("weed"));
        // Its logs would go to /tmp.
        command.args(["-logtostderr=true", "server"]);
        command.arg(format!("-dir={}", data.display()));
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        command.arg(format!("-master.port={master}"));
        command.arg(format!("-volume.port={volume}"));
        command.arg(format!("-filer.port={filer}"));
        command.args(["-master.volumeSizeLimitMB=1024", "-volume.max=1000"]);
        // By default it refuses every write on a disk with less than a hundredth free.
        command.arg("-volume.minFreeSpace=64MiB");
        command.args(["-s3", &format!("-s3.port={s3}")]);
        command.arg(format!("-s3.config={}", config.display()));
        // It would tell its makers about our test machine.
        command.arg("-master.telemetry=false");
        // These have fixed ports by default, on which two servers would meet.
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.arg(format!("-filer.localSocket={}", self.dir.join("filer.sock").display()));
        command.arg(format!("-s3.localSocket={}", self.dir.join("s3.sock").display()));
        // It makes these sockets in /tmp, whatever one tells it, and leaves them there.
        let grpc = [("s3", s3), ("master", master), ("volume", volume), ("filer", filer)];
        at_exit(|leftovers| {
            leftovers.sockets.extend(grpc.map(|(part, port)| {
                PathBuf::from(format!("/tmp/seaweedfs-{part}-grpc-{}.sock", port + 10_000))
            }));
        });
        command
    }

    fn moto(&self) -> Command {
        let mut command = Command::new(program("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &self.ports[0].to_string()]);
        command
    }

    fn wait_until_ready(&self, end: Instant) -> Result<(), String> {
        let address = ("127.0.0.1", self.ports[0]);
        while TcpStream::connect(address).is_err() {
            self.still_runs()?;
            if Instant::now() > end {
                return Err("its port stays closed".to_string());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut boto = self.boto();
        loop {
            match boto.probe() {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() > end => return Err(why),
                Err(_) => self.still_runs()?,
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn still_runs(&self) -> Result<(), String> {
        let mut child = self.child.lock().unwrap_or_else(|e| e.into_inner());
        let child = child.as_mut().ok_or("it was killed")?;
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("it ended with {status}")),
            Err(e) => Err(e.to_string()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Ports that are free now and whose gRPC sibling, 10,000 above, is free too. Below the range from
/// which the kernel gives out ports, so that no connection takes one in between.
fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 10_000).expect("below 10,000");
    let mut held = Vec::new();
    let mut ports = Vec::new();
    while ports.len() < count {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(step < 10_000, "no free ports");
        // 7919 and 10,000 have no common divisor, so every port gets its turn.
        let offset = (u32::from(begin) + u32::from(step) * 7919) % 10_000;
        let port = 12_000 + u16::try_from(offset).expect("below 10,000");
        let bind = |p: u16| TcpListener::bind(("127.0.0.1", p));
        if let (Ok(a), Ok(b)) = (bind(port), bind(port + 10_000)) {
            held.push((a, b));
            ports.push(port);
        }
    }
    ports
}

/// Starts a program that the kernel kills when this process ends, however it ends.
///
/// `PR_SET_PDEATHSIG` speaks when the *thread* that forked is gone, and a test's thread goes early; so
/// one thread that never ends starts them all.
fn spawn_for_life(mut command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static KEEPER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let parent = std::process::id();
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl and getppid.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // The parent may have died before the prctl.
            if libc::getppid().cast_unsigned() != parent {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
    let keeper = KEEPER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let program = command.get_program().to_os_string();
    let (reply, answer) = mpsc::channel();
    let orders = keeper.lock().unwrap_or_else(|e| e.into_inner()).clone();
    orders.send((command, reply)).expect("the keeper thread never ends");
    let child = answer.recv().expect("the keeper thread answers");
    child.unwrap_or_else(|e| panic!("{}: {e}", program.display()))
}

#[derive(Default)]
struct Leftovers {
    pids: Vec<u32>,
    dirs: Vec<PathBuf>,
    sockets: Vec<PathBuf>,
}

/// What must be gone when the process exits in good order; statics are never dropped.
fn at_exit(note: impl FnOnce(&mut Leftovers)) {
    static LEFTOVERS: OnceLock<Arc<Mutex<Leftovers>>> = OnceLock::new();
    extern "C" fn clean() {
        let Some(leftovers) = LEFTOVERS.get() else {
            return;
        };
        let leftovers = leftovers.lock().unwrap_or_else(|e| e.into_inner());
        for pid in &leftovers.pids {
            // Only what is still our child: a pid that was reaped may be another's by now.
            let pid = pid.cast_signed();
            let mut status = 0;
            // SAFETY: plain system calls on a number; waitpid fails where it is no child of ours.
            unsafe {
                if libc::waitpid(pid, &raw mut status, libc::WNOHANG) == 0 {
                    libc::kill(pid, libc::SIGKILL);
                    libc::waitpid(pid, &raw mut status, 0);
                }
            }
        }
        for dir in &leftovers.dirs {
            let _ = std::fs::remove_dir_all(dir);
        }
        for socket in &leftovers.sockets {
            let _ = std::fs::remove_file(socket);
        }
    }
    let leftovers = LEFTOVERS.get_or_init(|| {
        // SAFETY: `clean` never unwinds into C: it does not panic.
        unsafe { libc::atexit(clean) };
        Arc::default()
    });
    note(&mut leftovers.lock().unwrap_or_else(|e| e.into_inner()));
}
