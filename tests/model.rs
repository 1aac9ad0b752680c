//! Random operations on the file system and on a model in memory, compared after each step: listings,
//! contents, errno; at the end with the objects in S3.
//!
//! The seed is printed; `PAILFS_SEED=… cargo test --test model` runs that one alone.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pailfs::error::Error;
use pailfs::namespace::Kind;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use support::bytes::{assert_same_bytes, pattern};
use support::fake::{Options, Order};
use support::house::split;
use support::{FakeS3, Fault, House, On};

#[path = "model/renames.rs"]
mod renames;

const STEPS: usize = 300;
/// Each the beginning of another where it can be: the trap of listings.
const NAMES: [&str; 7] = ["a", "a-0", "a.b", "b", "b!", "é +%\"", "\u{1}\n&<"];
const DEPTH_MAX: usize = 3;
const OPEN_MAX: usize = 6;
/// From here on a file is sent in parts while it is written.
const PART_BYTES: usize = 5 << 20;

/// What the file system should hold. Paths have no slash before them; the root is "".
#[derive(Default)]
struct Model {
    dirs: BTreeSet<String>,
    files: BTreeMap<String, usize>,
    /// Every file there ever was; handles know them by number.
    nodes: Vec<Node>,
}

#[derive(Default)]
struct Node {
    /// As programs on the mount see it.
    content: Vec<u8>,
    /// As S3 has it.
    published: Option<Vec<u8>>,
    /// None once it is unlinked or replaced.
    path: Option<String>,
    /// Handles that wrote, and so share a writer.
    writers: usize,
    dirty: bool,
    /// The path it was unlinked from: its object stays there as long as a handle is open.
    was: Option<String>,
    /// Its object is gone nevertheless: replaced, or removed with its directory.
    lost: bool,
}

#[derive(Clone, Copy)]
struct Open {
    fh: u64,
    node: usize,
    writable: bool,
    wrote: bool,
}

enum Stands {
    Nothing,
    Directory,
    File(usize),
}

impl Model {
    fn at(&self, path: &str) -> Result<Stands, i32> {
        if path.is_empty() || self.dirs.contains(path) {
            return Ok(Stands::Directory);
        }
        if let Some(node) = self.files.get(path) {
            return Ok(Stands::File(*node));
        }
        self.dir_of(path)?;
        Ok(Stands::Nothing)
    }

    /// That the directory of a path is there.
    fn dir_of(&self, path: &str) -> Result<(), i32> {
        let (dir, _) = split(path);
        if dir.is_empty() {
            return Ok(());
        }
        match self.at(dir)? {
            Stands::Directory => Ok(()),
            Stands::File(_) => Err(libc::ENOTDIR),
            Stands::Nothing => Err(libc::ENOENT),
        }
    }

    fn children(&self, dir: &str) -> BTreeMap<String, (Kind, u64)> {
        let here = |path: &str| !path.is_empty() && split(path).0 == dir;
        let dirs =
            self.dirs.iter().filter(|p| here(p)).map(|p| (split(p).1.to_string(), (Kind::Directory, 0)));
        let files = self.files.iter().filter(|(p, _)| here(p));
        let files =
            files.map(|(p, n)| (split(p).1.to_string(), (Kind::File, self.nodes[*n].content.len() as u64)));
        dirs.chain(files).collect()
    }

    fn add(&mut self, path: &str, node: Node) -> usize {
        let node = Node { path: Some(path.to_string()), ..node };
        self.nodes.push(node);
        self.files.insert(path.to_string(), self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn commit(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if node.dirty
            && let Some(path) = node.path.clone()
        {
            node.published = Some(node.content.clone());
            node.dirty = false;
            self.lose(|was| was == path);
        }
    }

    /// What unlinked files left at these paths is gone.
    fn lose(&mut self, gone: impl Fn(&str) -> bool) {
        let nodes = self.nodes.iter_mut();
        nodes.filter(|node| node.was.as_deref().is_some_and(&gone)).for_each(|node| node.lost = true);
    }
}

struct Run {
    house: House,
    model: Model,
    open: Vec<Open>,
    random: StdRng,
    /// Files of more than one part that may still be written: they take time.
    large_left: usize,
}

fn answer<T>(result: Result<T, Error>) -> Result<T, i32> {
    result.map_err(|e| e.errno())
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut random = StdRng::seed_from_u64(seed);
        let order = if random.random_bool(0.3) { Order::Component } else { Order::Key };
        let fake = FakeS3::with(Options { order, ..Options::default() });
        let ttl = Duration::from_secs(if random.random() { 3600 } else { 0 });
        // What another program put there: directories without markers.
        let mut model = Model::default();
        for path in ["s/a/b/a", "s/a-0", "b"] {
            let data = pattern(seed, 1000);
            fake.put(path, data.clone());
            let mut dir = split(path).0;
            while !dir.is_empty() {
                model.dirs.insert(dir.to_string());
                dir = split(dir).0;
            }
            model.add(path, Node { content: data.clone(), published: Some(data), ..Node::default() });
        }
        let write_back =
            std::env::var("PAILFS_WRITE_BACK").map_or_else(|_| random.random(), |text| text == "1");
        let house = House::on(fake, |config| {
            config.s3.list_page_keys = 2;
            config.metadata_ttl = ttl;
            config.write_back = write_back;
        });
        // So that what is acknowledged meets what comes next.
        for (n, delay) in [(1, 0), (2, 1), (3, 5)] {
            let delay = Fault::Delay(Duration::from_millis(delay * u64::from(write_back)));
            let some = move |key: &str| key.len() % 3 + 1 == n;
            house.faults.plan(On::op("PutObject").key_where(some), delay);
        }
        Run { house, model, open: Vec::new(), random, large_left: 3 }
    }

    /// A path that may or may not be there; more often where something is.
    fn path(&mut self) -> String {
        let mut dirs: Vec<String> = self.model.dirs.iter().cloned().collect();
        dirs.push(String::new());
        dirs.push(String::new());
        dirs.push("nowhere".to_string());
        dirs.extend(self.model.files.keys().take(1).cloned());
        let existing: Vec<String> = self.model.files.keys().chain(&self.model.dirs).cloned().collect();
        if !existing.is_empty() && self.random.random_bool(0.5) {
            return existing.choose(&mut self.random).expect("not empty").clone();
        }
        let dir = dirs.choose(&mut self.random).expect("not empty").clone();
        let name = *NAMES.choose(&mut self.random).expect("not empty");
        if dir.is_empty() { name.to_string() } else { format!("{dir}/{name}") }
    }

    fn dir_path(&mut self) -> String {
        loop {
            let path = self.path();
            if path.split('/').count() <= DEPTH_MAX {
                return path;
            }
        }
    }

    fn data(&mut self) -> Vec<u8> {
        let large = self.large_left > 0 && self.random.random_bool(0.02);
        let len = match large {
            true => self.random.random_range(PART_BYTES - 2..2 * PART_BYTES + 3),
            false => [0, 1, 100, 4096, 70_000, 200_000][self.random.random_range(0..6)],
        };
        self.large_left -= usize::from(large);
        pattern(self.random.random(), len)
    }

    async fn step(&mut self) -> String {
        match self.random.random_range(0..100) {
            0..20 => self.open_or_create().await,
            20..40 => self.write().await,
            40..48 => self.flush().await,
            48..62 => self.release().await,
            62..68 => self.mkdir().await,
            68..74 => self.rmdir().await,
            74..82 => self.unlink().await,
            82..92 => self.rename().await,
            92..95 => self.truncate().await,
            _ => self.read().await,
        }
    }

    /// `open(2)` as the kernel does it: a lookup, then open or create.
    async fn open_or_create(&mut self) -> String {
        let path = self.path();
        let create = self.random.random_bool(0.6);
        let exclusive = create && self.random.random_bool(0.2);
        let truncate = self.random.random_bool(0.3);
        let writable = truncate || self.random.random_bool(0.6);
        let said =
            format!("open {path:?} create {create} exclusive {exclusive} trunc {truncate} w {writable}");
        if self.open.len() >= OPEN_MAX {
            return self.release().await;
        }
        let flags = if writable { libc::O_RDWR } else { libc::O_RDONLY };
        let excl = if exclusive { libc::O_EXCL } else { 0 };
        let trunc = if truncate { libc::O_TRUNC } else { 0 };
        let expected = match self.model.at(&path) {
            Ok(Stands::Nothing) if !create => Err(libc::ENOENT),
            Ok(Stands::File(_) | Stands::Directory) if exclusive => Err(libc::EEXIST),
            Ok(Stands::Directory) => Err(libc::EISDIR),
            Ok(stands) => Ok(stands),
            Err(e) => Err(e),
        };
        let found = answer(self.house.enter(&path).await);
        if let Ok(attr) = &found {
            self.house.leave(attr.ino);
        }
        let opened = match found {
            Ok(_) if exclusive => Err(libc::EEXIST),
            Ok(_) => answer(self.house.open(&path, flags | trunc).await),
            Err(libc::ENOENT) if create => answer(self.house.create(&path, flags | excl | trunc).await),
            Err(e) => Err(e),
        };
        assert_eq!(opened.as_ref().err(), expected.as_ref().err(), "{said}");
        let (Ok(fh), Ok(stands)) = (opened, expected) else { return said };
        let node = match stands {
            Stands::File(node) => node,
            _ => self.model.add(&path, Node { dirty: true, ..Node::default() }),
        };
        let created = matches!(stands, Stands::Nothing);
        if truncate && !created {
            self.truncated(node);
        }
        let wrote = created || truncate;
        self.model.nodes[node].writers += usize::from(wrote);
        self.open.push(Open { fh, node, writable, wrote });
        said
    }

    fn truncated(&mut self, node: usize) {
        let node = &mut self.model.nodes[node];
        let change = !node.content.is_empty() || node.writers == 0;
        node.content.clear();
        node.dirty |= change;
    }

    fn handle(&mut self, wanted: impl Fn(&Run, &Open) -> bool) -> Option<usize> {
        let fit: Vec<usize> = (0..self.open.len()).filter(|i| wanted(self, &self.open[*i])).collect();
        fit.choose(&mut self.random).copied()
    }

    /// At the end, in random pieces; now and then elsewhere.
    async fn write(&mut self) -> String {
        let Some(at) = self.handle(|run, open| {
            let node = &run.model.nodes[open.node];
            open.writable && !node.lost
        }) else {
            return self.open_or_create().await;
        };
        let Open { fh, node, .. } = self.open[at];
        let (len, data) = (self.model.nodes[node].content.len() as u64, self.data());
        let mut said = format!("write {} bytes at {len} of {:?}", data.len(), self.model.nodes[node].path);
        let mut rest = &data[..];
        while !rest.is_empty() {
            let most = if rest.len() > PART_BYTES / 2 { 1 << 20 } else { 150_000 };
            let (now, later) = rest.split_at(self.random.random_range(1..=rest.len().min(most)));
            let offset = self.model.nodes[node].content.len() as u64;
            if self.random.random_bool(0.1) {
                let elsewhere = self.random.random_range(0..offset + 10_000);
                said.push_str(&format!(" (and {} at {elsewhere})", now.len()));
                assert_eq!(answer(self.house.write(fh, elsewhere, now).await), Ok(()), "{said}");
                self.wrote(at);
                let (content, end) = (&mut self.model.nodes[node].content, elsewhere as usize + now.len());
                content.resize(content.len().max(end), 0);
                content[elsewhere as usize..end].copy_from_slice(now);
                self.model.nodes[node].dirty = true;
                rest = later;
                continue;
            }
            assert_eq!(answer(self.house.write(fh, offset, now).await), Ok(()), "{said}");
            self.wrote(at);
            self.model.nodes[node].content.extend_from_slice(now);
            self.model.nodes[node].dirty = true;
            rest = later;
        }
        said
    }

    fn wrote(&mut self, at: usize) {
        let open = &mut self.open[at];
        if !std::mem::replace(&mut open.wrote, true) {
            self.model.nodes[open.node].writers += 1;
        }
    }

    async fn flush(&mut self) -> String {
        let Some(at) = self.handle(|_, _| true) else { return self.mkdir().await };
        let Open { fh, node, wrote, .. } = self.open[at];
        let said = format!("flush {:?}, wrote {wrote}", self.model.nodes[node].path);
        if self.random.random() {
            assert_eq!(answer(self.house.fs.fsync(fh).await), Ok(()), "{said}");
            self.model.commit(node);
            return said + " (fsync)";
        }
        self.flush_one(fh, node, wrote, &said).await;
        said
    }

    /// What the kernel sends for each `close(2)`.
    async fn flush_one(&mut self, fh: u64, node: usize, wrote: bool, said: &str) {
        assert_eq!(answer(self.house.fs.flush(fh).await), Ok(()), "{said}");
        if wrote {
            self.model.commit(node);
        }
    }

    async fn release(&mut self) -> String {
        let Some(at) = self.handle(|_, _| true) else { return Box::pin(self.open_or_create()).await };
        let Open { fh, node, wrote, .. } = self.open.swap_remove(at);
        let said = format!("close {:?}", self.model.nodes[node].path);
        if self.random.random_bool(0.9) {
            self.flush_one(fh, node, wrote, &said).await;
        }
        self.house.fs.release(fh).await;
        if wrote {
            self.model.nodes[node].writers -= 1;
            if self.model.nodes[node].writers == 0 {
                self.model.commit(node);
            }
        }
        said
    }

    async fn mkdir(&mut self) -> String {
        let path = self.dir_path();
        let expected = match self.model.at(&path) {
            Ok(Stands::Nothing) => Ok(()),
            Ok(_) => Err(libc::EEXIST),
            Err(e) => Err(e),
        };
        let said = format!("mkdir {path:?}");
        assert_eq!(answer(self.house.mkdir(&path).await), expected, "{said}");
        if expected.is_ok() {
            self.model.dirs.insert(path);
        }
        said
    }

    async fn rmdir(&mut self) -> String {
        let path = self.path();
        let expected = match self.model.at(&path) {
            Ok(Stands::Directory) if !self.model.children(&path).is_empty() => Err(libc::ENOTEMPTY),
            Ok(Stands::Directory) => Ok(()),
            Ok(Stands::File(_)) => Err(libc::ENOTDIR),
            Ok(Stands::Nothing) => Err(libc::ENOENT),
            Err(e) => Err(e),
        };
        let said = format!("rmdir {path:?}");
        assert_eq!(answer(self.house.rmdir(&path).await), expected, "{said}");
        if expected.is_ok() {
            self.model.lose(|was| was.starts_with(&format!("{path}/")));
            self.model.dirs.remove(&path);
        }
        said
    }

    async fn unlink(&mut self) -> String {
        let path = self.path();
        let expected = match self.model.at(&path) {
            Ok(Stands::File(node)) => Ok(node),
            Ok(Stands::Directory) => Err(libc::EISDIR),
            Ok(Stands::Nothing) => Err(libc::ENOENT),
            Err(e) => Err(e),
        };
        let said = format!("unlink {path:?}");
        assert_eq!(answer(self.house.unlink(&path).await), expected.map(|_| ()), "{said}");
        if let Ok(node) = expected {
            self.model.files.remove(&path);
            self.model.nodes[node].path = None;
            self.model.nodes[node].was = Some(path);
            // Its handles share a writer from now on.
            for at in 0..self.open.len() {
                if self.open[at].node == node {
                    self.wrote(at);
                }
            }
        }
        said
    }

    async fn truncate(&mut self) -> String {
        let path = self.path();
        let size = [0, 77, 5000, 300_000][self.random.random_range(0..4)];
        let said = format!("truncate {path:?} {size}");
        let expected = match self.model.at(&path) {
            Ok(Stands::File(node)) => Ok(node),
            Ok(Stands::Directory) => Err(libc::EISDIR),
            Ok(Stands::Nothing) => Err(libc::ENOENT),
            Err(e) => Err(e),
        };
        assert_eq!(answer(self.house.truncate(&path, size as u64).await), expected.map(|_| ()), "{said}");
        if let Ok(node) = expected
            && size != self.model.nodes[node].content.len()
        {
            self.model.nodes[node].content.resize(size, 0);
            self.model.nodes[node].dirty = true;
            self.model.commit(node); // truncate(2) publishes before it answers
        }
        said
    }

    /// A range, through a handle that has been open for a while.
    async fn read(&mut self) -> String {
        let Some(at) = self.handle(|_, _| true) else { return self.mkdir().await };
        let Open { fh, node, .. } = self.open[at];
        let node = &self.model.nodes[node];
        let from = self.random.random_range(0..node.content.len() + 10);
        let len = self.random.random_range(0..300_000);
        let said = format!("read {len} at {from} of {:?}", node.path);
        match self.house.read(fh, from as u64, len).await {
            Ok(got) => {
                let begin = from.min(node.content.len());
                let want = &node.content[begin..node.content.len().min(from + len)];
                assert_same_bytes(&got, want, &said);
            }
            // What S3 alone had of it is gone.
            Err(e) => {
                assert!(node.lost, "{said}: {e}");
                assert!([libc::ESTALE, libc::ENOENT].contains(&e.errno()), "{said}: {e}");
            }
        }
        said
    }

    /// Listings, attributes and (the small ones each time) contents.
    async fn compare(&mut self, all: bool) {
        let mut dirs: Vec<String> = self.model.dirs.iter().cloned().collect();
        dirs.push(String::new());
        for dir in dirs {
            let plus = self.random.random();
            let random = &mut self.random;
            let shown = self.house.list(&dir, plus, || random.random_range(1..6)).await;
            let shown = shown.unwrap_or_else(|e| panic!("{dir:?}: {e}"));
            let mut got = BTreeMap::new();
            for entry in shown {
                let twice = got.insert(entry.name.clone(), (entry.kind, entry.size));
                assert!(twice.is_none(), "{dir:?} shows {:?} twice", entry.name);
            }
            let mut want = BTreeMap::new();
            for (name, (kind, size)) in self.model.children(&dir) {
                want.insert(name, (kind, plus.then_some(size)));
            }
            assert_eq!(got, want, "{dir:?}");
        }
        for (path, node) in &self.model.files {
            let node = &self.model.nodes[*node];
            let attr = self.house.enter(path).await.unwrap_or_else(|e| panic!("{path:?}: {e}"));
            self.house.leave(attr.ino);
            assert_eq!((attr.kind, attr.size), (Kind::File, node.content.len() as u64), "{path:?}");
            let large = node.content.len() > 300_000;
            if large && (node.writers > 0 || !all) {
                continue;
            }
            let got = self.house.cat(path).await.unwrap_or_else(|e| panic!("{path:?}: {e}"));
            assert_same_bytes(&got, &node.content, path);
        }
        // Else removals stay on their way, under the steps to come.
        if all || self.random.random_bool(0.3) {
            self.house.fs.flush_all().await;
            self.compare_objects();
        }
    }

    /// S3 holds what was published, and nothing else.
    fn compare_objects(&self) {
        let mut keys: BTreeSet<String> = self.house.fake.keys().into_iter().collect();
        let open = self.open.iter().map(|open| &self.model.nodes[open.node]);
        let orphans: BTreeSet<&String> =
            open.filter(|node| !node.lost).filter_map(|node| node.was.as_ref()).collect();
        for (path, node) in &self.model.files {
            // What was acknowledged, and is being changed again, goes with its next close.
            if self.house.fs.config().write_back && self.model.nodes[*node].dirty {
                keys.remove(path);
                continue;
            }
            let Some(published) = &self.model.nodes[*node].published else {
                let orphan = orphans.contains(path);
                assert!(orphan || !keys.contains(path), "{path:?} is in S3 before it was closed");
                continue;
            };
            assert!(keys.remove(path), "{path:?} is not in S3");
            assert_same_bytes(&self.house.fake.data(path), published, path);
        }
        for dir in &self.model.dirs {
            let marker = format!("{dir}/");
            let below = self.house.fake.keys().iter().any(|key| key.starts_with(&marker));
            let local = self.model.files.keys().any(|path| path.starts_with(&marker));
            assert!(below || local, "{dir:?} has neither marker nor contents in S3");
            keys.remove(&marker);
        }
        keys.retain(|key| !orphans.contains(key));
        assert!(keys.is_empty(), "S3 also holds {keys:?}");
    }
}

async fn run(seed: u64) {
    eprintln!("PAILFS_SEED={seed}");
    let mut run = Run::new(seed);
    for step in 0..STEPS {
        let did = run.step().await;
        eprintln!("{step}: {did}");
        run.compare(step % 20 == 0).await;
    }
    while !run.open.is_empty() {
        run.release().await;
    }
    run.compare(true).await;
    assert_eq!(run.house.fake.uploads(), [], "an upload was left behind");
    let held = run.house.fs.held();
    assert_eq!((held.inodes, held.handles), (1, 0), "all was forgotten and closed: {held:?}");
}

#[tokio::test]
async fn random_operations_agree_with_a_model() {
    let given = std::env::var("PAILFS_SEED").ok().map(|seed| seed.parse().expect("PAILFS_SEED: a number"));
    let seeds = given.map_or_else(|| vec![6, 10, rand::random::<u32>().into()], |seed: u64| vec![seed]);
    for seed in seeds {
        run(seed).await;
    }
}
