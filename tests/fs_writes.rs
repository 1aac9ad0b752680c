//! Writing anywhere in a file: random operations against a model in memory, and what they cost in requests.
//!
//! The seed is printed; `PAILFS_SEED=… cargo test --test fs_writes` runs that one alone.

mod support;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::House;
use support::bytes::{assert_same_bytes, pattern};

const MIB: usize = 1 << 20;
const STEPS: usize = 120;
/// What copies come from.
const SOURCE_BYTES: usize = 13 * MIB;

struct Run {
    house: House,
    random: StdRng,
    content: Vec<u8>,
    source: Vec<u8>,
    fh: u64,
    source_fh: u64,
    append: bool,
    /// What the file may grow to: the larger ones take time.
    len_max: usize,
}

impl Run {
    async fn new(seed: u64) -> Run {
        let mut random = StdRng::seed_from_u64(seed);
        let house = House::new();
        let len_max = [100_000, 3 * MIB, 24 * MIB][random.random_range(0..3)];
        let content = pattern(seed, random.random_range(0..len_max));
        let source = pattern(seed + 1, SOURCE_BYTES);
        house.fake.put("file", content.clone());
        house.fake.put("source", source.clone());
        let fh = house.open("file", libc::O_RDWR).await.unwrap();
        let source_fh = house.open("source", libc::O_RDONLY).await.unwrap();
        Run { house, random, content, source, fh, source_fh, append: false, len_max }
    }

    /// An offset within the file or somewhat beyond, and a length.
    fn range(&mut self, len_max: usize) -> (usize, usize) {
        let end = (self.content.len() + 20_000).min(self.len_max);
        let offset = self.random.random_range(0..=end);
        let len = self.random.random_range(1..=len_max);
        (offset, len.min(self.len_max - offset.min(self.len_max)))
    }

    fn put(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        self.content.resize(self.content.len().max(end), 0);
        self.content[offset..end].copy_from_slice(data);
    }

    async fn step(&mut self) -> String {
        match self.random.random_range(0..100) {
            0..35 => self.write().await,
            35..45 => self.stream().await,
            45..55 => self.truncate().await,
            55..65 => self.fallocate().await,
            65..72 => self.copy().await,
            72..90 => self.read().await,
            90..95 => {
                self.house.fs.fsync(self.fh).await.unwrap();
                self.compare("fsync");
                "fsync".to_string()
            }
            _ => self.reopen().await,
        }
    }

    async fn write(&mut self) -> String {
        let (offset, len) = self.range(60_000);
        let data = pattern(self.random.random(), len);
        self.house.fs.write(self.fh, offset as u64, &data, self.append).await.unwrap();
        let at = if self.append { self.content.len() } else { offset };
        if !data.is_empty() {
            self.put(at, &data);
        }
        format!("write {len} at {offset}, append {}", self.append)
    }

    /// As programs that write from the file's end on.
    async fn stream(&mut self) -> String {
        let room = self.len_max.saturating_sub(self.content.len());
        let len = self.random.random_range(0..=room);
        let data = pattern(self.random.random(), len);
        for piece in data.chunks(MIB) {
            let at = self.content.len();
            self.house.write(self.fh, at as u64, piece).await.unwrap();
            self.put(at, piece);
        }
        format!("{len} streamed")
    }

    async fn truncate(&mut self) -> String {
        let (size, _) = self.range(1);
        let attr = self.house.enter("file").await.unwrap();
        let set = pailfs::fs::SetAttr { size: Some(size as u64), fh: Some(self.fh), ..Default::default() };
        let after = self.house.fs.setattr(attr.ino, set).await.unwrap();
        self.house.leave(attr.ino);
        assert_eq!(after.size, size as u64);
        self.content.resize(size, 0);
        format!("truncate {size}")
    }

    async fn fallocate(&mut self) -> String {
        let (offset, len) = self.range(200_000);
        let (keep, punch, zero) =
            (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
        let mode = [0, keep, keep | punch, zero, zero | keep][self.random.random_range(0..5)];
        self.house.fs.fallocate(self.fh, offset as u64, len as u64, mode).await.unwrap();
        let (end, old) = (offset + len, self.content.len());
        if mode & keep == 0 {
            self.content.resize(old.max(end), 0);
        }
        if mode & (punch | zero) != 0 {
            let end = end.min(self.content.len());
            self.content[offset.min(end)..end].fill(0);
        }
        format!("fallocate {mode} {len} at {offset}")
    }

    async fn copy(&mut self) -> String {
        let (to, _) = self.range(1);
        let from = self.random.random_range(0..SOURCE_BYTES);
        let len = self.random.random_range(0..12 * MIB).min(self.len_max - to.min(self.len_max));
        let copied =
            self.house.fs.copy_file_range((self.source_fh, from as u64), (self.fh, to as u64), len as u64);
        let copied = copied.await.unwrap() as usize;
        assert_eq!(copied, len.min(SOURCE_BYTES - from));
        if copied > 0 {
            let data = self.source[from..from + copied].to_vec();
            self.put(to, &data);
        }
        format!("copy {len} from {from} to {to}")
    }

    async fn read(&mut self) -> String {
        let (offset, len) = self.range(300_000);
        let got = self.house.read(self.fh, offset as u64, len).await.unwrap();
        let from = offset.min(self.content.len());
        let said = format!("read {len} at {offset}");
        assert_same_bytes(&got, &self.content[from..self.content.len().min(offset + len)], &said);
        said
    }

    async fn reopen(&mut self) -> String {
        self.house.close(self.fh).await.unwrap();
        self.compare("close");
        self.append = self.random.random_bool(0.3);
        self.fh = self.house.open("file", libc::O_RDWR).await.unwrap();
        format!("reopen, append {}", self.append)
    }

    fn compare(&self, after: &str) {
        assert_same_bytes(&self.house.fake.data("file"), &self.content, after);
    }
}

async fn run(seed: u64) {
    eprintln!("PAILFS_SEED={seed}");
    let mut run = Run::new(seed).await;
    for step in 0..STEPS {
        let did = run.step().await;
        eprintln!("{step}: {did} -> {}", run.content.len());
        let attr = run.house.enter("file").await.unwrap();
        run.house.leave(attr.ino);
        assert_eq!(attr.size, run.content.len() as u64);
    }
    run.reopen().await;
    assert_same_bytes(&run.house.cat("file").await.unwrap(), &run.content, "at the end");
    run.house.close(run.fh).await.unwrap();
    run.house.close(run.source_fh).await.unwrap();
    assert_eq!(run.house.fake.uploads(), [], "an upload was left behind");
    let held = run.house.fs.held();
    assert_eq!((held.handles, held.staged_bytes), (0, 0), "all was closed and given back: {held:?}");
}

#[tokio::test]
async fn random_writes_agree_with_a_model() {
    let given = std::env::var("PAILFS_SEED").ok().map(|seed| seed.parse().expect("PAILFS_SEED: a number"));
    let seeds = given.map_or_else(|| vec![1, 2, 3, rand::random::<u32>().into()], |seed: u64| vec![seed]);
    for seed in seeds {
        run(seed).await;
    }
}
