//! The daemon is killed at random moments, again and again: what was acknowledged is there after the next mount, and of
//! what was under way all or nothing. `PAILFS_CRASH_ROUNDS` (default 10) says how often, `PAILFS_CRASH_SEED` with which
//! operations.
#![cfg(feature = "servers")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use pailfs::journal::Journal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::aws::Boto;
use support::bytes::{pattern, sha256_hex};
use support::mount::{Options, wait_until};
use support::servers::{Kind, Server, shared};

const MIB: usize = 1 << 20;
/// How long the server takes for what was under way when the daemon died, at most.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// So many names, so that operations meet.
const NAMES: u32 = 8;

/// Bytes, of which a failed test shows how many there are.
#[derive(Clone, PartialEq, Eq)]
struct Data(Vec<u8>);

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {}", self.0.len(), &sha256_hex(&self.0)[..8])
    }
}

/// What stands where, paths from the mount's root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Tree {
    files: BTreeMap<String, Data>,
    dirs: BTreeSet<String>,
}

#[derive(Debug, Clone)]
enum Op {
    Write(String, Data),
    Patch(String, usize, Data),
    Append(String, Data),
    Cut(String, usize),
    Unlink(String),
    Rename(String, String),
    MakeDir(String),
    RemoveDir(String),
    RenameDir(String, String),
}

impl Tree {
    fn is_empty_dir(&self, dir: &str) -> bool {
        let within = format!("{dir}/");
        !self.files.keys().chain(&self.dirs).any(|path| path.starts_with(&within))
    }

    fn moved(&mut self, from: &str, to: &str) {
        let (from, to) = (format!("{from}/"), format!("{to}/"));
        let anew = |path: &String| path.strip_prefix(&from).map(|below| format!("{to}{below}"));
        let files = std::mem::take(&mut self.files);
        self.files = files.into_iter().map(|(path, data)| (anew(&path).unwrap_or(path), data)).collect();
        let dirs = std::mem::take(&mut self.dirs);
        self.dirs = dirs.into_iter().map(|path| anew(&path).unwrap_or(path)).collect();
    }

    /// What it is when the operation is done.
    fn after(&self, op: &Op) -> Tree {
        let mut tree = self.clone();
        match op {
            Op::Write(path, data) => _ = tree.files.insert(path.clone(), data.clone()),
            Op::Patch(path, at, data) => {
                tree.files.get_mut(path).expect("it is there").0[*at..at + data.0.len()]
                    .copy_from_slice(&data.0);
            }
            Op::Append(path, data) => tree.files.get_mut(path).expect("it is there").0.extend(&data.0),
            Op::Cut(path, len) => tree.files.get_mut(path).expect("it is there").0.truncate(*len),
            Op::Unlink(path) => _ = tree.files.remove(path),
            Op::Rename(from, to) => {
                let data = tree.files.remove(from).expect("it is there");
                tree.files.insert(to.clone(), data);
            }
            Op::MakeDir(path) => _ = tree.dirs.insert(path.clone()),
            Op::RemoveDir(path) => _ = tree.dirs.remove(path),
            Op::RenameDir(from, to) => {
                tree.dirs.remove(from);
                tree.dirs.insert(to.clone());
                tree.moved(from, to);
            }
        }
        tree
    }

    fn read(root: &Path) -> io::Result<Tree> {
        let mut tree = Tree::default();
        let mut left = vec![String::new()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(root.join(&dir))? {
                let entry = entry?;
                let name = entry.file_name().into_string().expect("our names");
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                if entry.file_type()?.is_dir() {
                    tree.dirs.insert(path.clone());
                    left.push(path);
                } else {
                    tree.files.insert(path, Data(fs::read(entry.path())?));
                }
            }
        }
        Ok(tree)
    }

    /// What differs, as a failed test shows it.
    fn but(&self, other: &Tree) -> Vec<String> {
        let files = self.files.iter().filter(|(path, data)| other.files.get(*path) != Some(data));
        let dirs = self.dirs.difference(&other.dirs);
        files
            .map(|(path, data)| format!("{path}: {data:?}"))
            .chain(dirs.map(|dir| format!("{dir}/")))
            .collect()
    }
}

fn pick<'a>(rng: &mut StdRng, from: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let all: Vec<_> = from.collect();
    (!all.is_empty()).then(|| all[rng.random_range(0..all.len())])
}

/// An operation that can be done on the tree.
fn some_op(rng: &mut StdRng, tree: &Tree) -> Op {
    loop {
        let above = pick(rng, tree.dirs.iter().filter(|dir| !dir.contains('/'))).cloned();
        let above = above.filter(|_| rng.random_bool(0.6)).map(|dir| dir + "/").unwrap_or_default();
        let file = format!("{above}f{}", rng.random_range(0..NAMES));
        let dir = format!("{above}d{}", rng.random_range(0..NAMES / 2));
        let there = pick(rng, tree.files.keys()).cloned();
        let bytes = {
            let seed = rng.random();
            move |len| Data(pattern(seed, len))
        };
        let size = match rng.random_range(0..10) {
            0 => 0,
            1..=6 => rng.random_range(1..40_000),
            7 | 8 => rng.random_range(40_000..2 * MIB),
            _ => rng.random_range(5 * MIB..12 * MIB),
        };
        let op = match (rng.random_range(0..20), there) {
            (0..7, _) => Op::Write(file, bytes(size)),
            (7 | 8, Some(there)) if !tree.files[&there].0.is_empty() => {
                let len = tree.files[&there].0.len();
                let at = rng.random_range(0..len);
                Op::Patch(there, at, bytes(rng.random_range(1..=(len - at).min(5000))))
            }
            (9, Some(there)) => Op::Append(there, bytes(rng.random_range(1..5000))),
            (10, Some(there)) => {
                let len = rng.random_range(0..=tree.files[&there].0.len());
                Op::Cut(there, len)
            }
            (11 | 12, Some(there)) => Op::Unlink(there),
            (13 | 14, Some(there)) if file != there => Op::Rename(there, file),
            (15 | 16, _) if !tree.dirs.contains(&dir) => Op::MakeDir(dir),
            (17, _) if tree.dirs.contains(&dir) && tree.is_empty_dir(&dir) => Op::RemoveDir(dir),
            (18, _) => {
                let Some(from) = pick(rng, tree.dirs.iter()).cloned() else { continue };
                let fresh = !tree.dirs.contains(&dir) && !format!("{dir}/").starts_with(&format!("{from}/"));
                // Deeper than a directory in a directory it does not go.
                if !fresh
                    || dir.contains('/') && !tree.dirs.iter().all(|d| !d.starts_with(&format!("{from}/")))
                {
                    continue;
                }
                Op::RenameDir(from, dir)
            }
            _ => continue,
        };
        return op;
    }
}

fn carry_out(root: &Path, op: &Op) -> io::Result<()> {
    match op {
        Op::Write(path, data) => {
            File::create(root.join(path))?.close_after(|mut file| io::Write::write_all(&mut file, &data.0))
        }
        Op::Patch(path, at, data) => OpenOptions::new()
            .write(true)
            .open(root.join(path))?
            .close_after(|file| file.write_all_at(&data.0, *at as u64)),
        Op::Append(path, data) => OpenOptions::new()
            .append(true)
            .open(root.join(path))?
            .close_after(|mut file| io::Write::write_all(&mut file, &data.0)),
        Op::Cut(path, len) => OpenOptions::new()
            .write(true)
            .open(root.join(path))?
            .close_after(|file| file.set_len(*len as u64)),
        Op::Unlink(path) => fs::remove_file(root.join(path)),
        Op::Rename(from, to) | Op::RenameDir(from, to) => fs::rename(root.join(from), root.join(to)),
        Op::MakeDir(path) => fs::create_dir(root.join(path)),
        Op::RemoveDir(path) => fs::remove_dir(root.join(path)),
    }
}

/// `close` is where a file is acknowledged; `drop` does not tell what it said.
trait CloseAfter {
    fn close_after(self, work: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()>;
}

impl CloseAfter for File {
    fn close_after(self, work: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        work(&self)?;
        nix::unistd::close(self).map_err(io::Error::from)
    }
}

fn killed_at_random_moments(name: &str, args: &[&str]) {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")))
    };
    let rounds = number("PAILFS_CRASH_ROUNDS", 10);
    let seed = number("PAILFS_CRASH_SEED", rand::random());
    println!("PAILFS_CRASH_SEED={seed}");
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket(name);
    let mut boto = server.boto();
    // They would arrive when nobody expects them any more.
    boto.take_first_bytes(&bucket);
    let staging = tempfile::tempdir().expect("a directory");
    let mount = || {
        let options = Options::new(server, &bucket).args(["--part-size", "5MiB"]).args(args);
        options.arg("--staging").arg(staging.path()).mount()
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tree = Tree::default();
    let mut done = 0;
    for round in 0..rounds {
        let victim = mount();
        let lives = Duration::from_millis(rng.random_range(20..1500));
        let (before, interrupted, history) = std::thread::scope(|scope| {
            let (root, rng, mut tree) = (victim.dir.clone(), &mut rng, tree.clone());
            let worker = scope.spawn(move || {
                let mut history = Vec::new();
                loop {
                    let op = some_op(rng, &tree);
                    match carry_out(&root, &op) {
                        Ok(()) => tree = tree.after(&op),
                        Err(e) if is_killed(&e, &root) => return (tree, op, history),
                        Err(e) => {
                            let shown = Tree::read(&root).map(|shown| (shown.but(&tree), tree.but(&shown)));
                            panic!(
                                "{op:?}: {e}; shown and not, or not shown: {shown:?}; before: {history:#?}"
                            );
                        }
                    }
                    history.push(op);
                }
            });
            std::thread::sleep(lives);
            victim.kill_daemon();
            worker.join().unwrap_or_else(|_| {
                panic!(
                    "it does not do what can be done, in round {round} of seed {seed}: {}",
                    victim.log_text()
                )
            })
        });
        done += history.len();
        drop(victim);
        // What was under way may be carried out when nobody waits for it any more; nobody can take it back.
        std::thread::sleep(UNDER_WAY);
        let next = mount();
        let mut found = Tree::read(&next.dir).expect("the next mount shows all");
        // What was under way when the daemon died may arrive after the next one has looked.
        for _ in 0..10 {
            if file_keys(&boto.keys(&bucket, "")) == found.files.keys().collect::<Vec<_>>() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1100)); // longer than the mount believes what it knows
            found = Tree::read(&next.dir).expect("the mount shows all");
        }
        let after = before.after(&interrupted);
        let what = format!("{interrupted:?} in round {round} of seed {seed}");
        assert!(
            found == before || found == after,
            "{what}: neither before nor after; found {:?} where there was {:?}, and would be {:?}; before: {history:#?}; its log: {}",
            found.but(&before),
            before.but(&found),
            after.but(&found),
            next.log_text()
        );
        assert_nothing_is_left(server, &mut boto, &bucket, staging.path(), &found, &what);
        next.umount();
        tree = found;
    }
    println!("{rounds} rounds, {done} operations acknowledged");
}

/// What a program sees of a mount whose daemon is gone; EIO where it died while it answered.
fn is_killed(e: &io::Error, root: &Path) -> bool {
    // For a moment the kernel answers for the root by itself.
    let is_gone = || {
        (0..50).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            fs::metadata(root).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
        })
    };
    match e.raw_os_error() {
        Some(libc::ENOTCONN | libc::ECONNABORTED) => true,
        Some(libc::EIO) => is_gone(),
        _ => false,
    }
}

fn file_keys(keys: &[String]) -> Vec<&String> {
    keys.iter().filter(|key| !key.ends_with('/')).collect()
}

/// Directories of the tree below which S3 has no key, not even a marker: SeaweedFS lists such, another server would not.
fn without_keys<'a>(keys: &[String], tree: &'a Tree) -> Vec<&'a String> {
    tree.dirs.iter().filter(|dir| !keys.iter().any(|key| key.starts_with(&format!("{dir}/")))).collect()
}

fn assert_nothing_is_left(
    server: &Server,
    boto: &mut Boto,
    bucket: &str,
    staging: &Path,
    tree: &Tree,
    what: &str,
) {
    let keys = boto.keys(bucket, "");
    assert_eq!(file_keys(&keys), tree.files.keys().collect::<Vec<_>>(), "{what}");
    assert_eq!(without_keys(&keys, tree), Vec::<&String>::new(), "{what}");
    wait_until("no upload is left", || boto.uploads(bucket).is_empty());
    let kept = Journal::new(staging, Some(&server.endpoint), bucket).kept().expect("readable");
    assert_eq!(kept.len(), 0, "{what}: {kept:?}");
}

#[test]
fn seaweedfs_a_daemon_killed_at_random_moments_loses_nothing_it_acknowledged() {
    killed_at_random_moments("crash", &[]);
}

#[test]
fn seaweedfs_a_daemon_killed_at_random_moments_loses_nothing_it_acknowledged_with_write_back() {
    killed_at_random_moments("crash-back", &["--write-back"]);
}
