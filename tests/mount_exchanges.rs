//! RENAME_EXCHANGE on a real mount: what programs see of files and directories that change places, while they do.
#![cfg(feature = "servers")]

mod support;

use std::process::Command;

use support::mount::{Options, run};
use support::servers::{Kind, program, shared};

const EXCHANGES: &str = r#"
import ctypes, errno, os, sys, threading

os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def exchange(a, b):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), 2) != 0:
        raise OSError(ctypes.get_errno(), f"{a} {b}")

def make(dir, files):
    for name, data in files.items():
        os.makedirs(os.path.dirname(f"{dir}/{name}"), exist_ok=True)
        with open(f"{dir}/{name}", "w") as f:
            f.write(data)
def tree(dir):
    found = {}
    for at, dirs, files in os.walk(dir):
        for name in files:
            with open(f"{at}/{name}") as f:
                found[os.path.relpath(f"{at}/{name}", dir)] = f.read()
    return found

one = {"both": "1", "same": "=", "kind": "a file", "sub/deep/x": "1x", "sub/both": "1", **{f"sub/{n}": str(n) for n in range(30)}}
two = {"both": "2", "same": "=", "kind/below": "a directory", "sub/both": "2", "sub/y": "2y"}
make("a", one)
make("deep/er/b", two)
os.mkdir("a/empty")
with open("file", "w") as f:
    f.write("file")

exchange("a", "deep/er/b")
assert (tree("a"), tree("deep/er/b")) == (two, one)
assert os.listdir("deep/er/b/empty") == []
exchange("file", "a")
assert (open("a").read(), tree("file")) == ("file", two)
exchange("file", "a")
assert (tree("a"), open("file").read()) == (two, "file")
try:
    exchange("a", "a/sub")
except OSError as e:
    assert e.errno == errno.EINVAL, e
else:
    raise AssertionError("with something below itself")

# Whoever stands in a directory sees that one alone, also while it changes places; and no name is ever missing.
wrong, ends = [], threading.Event()
def stand_in(at, dir, expected):
    while not ends.wait(0.01):
        try:
            names = sorted(os.listdir(f"/proc/self/fd/{at}"))  # opened anew each time
            with open("both", opener=lambda name, flags: os.open(name, flags, dir_fd=at)) as f:
                seen = (names, f.read())
            if seen != expected:
                wrong.append(seen)
        except OSError as e:
            wrong.append((dir, repr(e)))
def pass_by(path):
    while not ends.wait(0.01):
        try:
            with open(path) as f:
                if f.read() not in ("1", "2"):
                    wrong.append(path)
        except OSError as e:
            # Opened before they changed places, and read after.
            if e.errno != errno.ESTALE:
                wrong.append((path, repr(e)))
def names(files):
    return sorted({name.split("/")[1] for name in files if name.startswith("sub/")})
watching = [
    threading.Thread(target=stand_in, args=(os.open("a/sub", os.O_RDONLY), "a/sub", (names(two), "2"))),
    threading.Thread(target=stand_in, args=(os.open("deep/er/b/sub", os.O_RDONLY), "deep/er/b/sub", (names(one), "1"))),
    threading.Thread(target=pass_by, args=("a/sub/both",)),
]
for thread in watching:
    thread.start()
for n in range(2):
    exchange("a", "deep/er/b")
ends.set()
for thread in watching:
    thread.join()
assert not wrong, wrong
assert (tree("a"), tree("deep/er/b")) == (two, one)
"#;

#[test]
fn seaweedfs_files_and_directories_change_places() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("exchanges");
    let mount = Options::new(server, &bucket).args(["--metadata-ttl", "0"]).mount();
    let said = run(Command::new(program("python3")).arg("-c").arg(EXCHANGES).arg(&mount.dir));
    assert!(said.status.success(), "{said:?}");
    let keys = server.boto().keys(&bucket, "");
    assert!(keys.iter().all(|key| !key.contains("pailfs-exchange")), "{keys:?}");
}
