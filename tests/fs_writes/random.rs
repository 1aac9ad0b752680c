//! Random operations on one file, and what it must be after each.

use pailfs::error::Error;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

use super::MIB;
use super::support::House;
use super::support::bytes::{assert_same_bytes, pattern};

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
    /// With `--write-back`: whether S3 is waited for after a close or fsync.
    waits: Option<StdRng>,
    sending: Vec<JoinHandle<Result<(), Error>>>,
}

impl Run {
    async fn new(seed: u64, write_back: bool) -> Run {
        let mut random = StdRng::seed_from_u64(seed);
        let house = House::with(|config| config.write_back = write_back);
        let waits = write_back.then(|| StdRng::seed_from_u64(seed));
        let len_max = [100_000, 3 * MIB, 24 * MIB][random.random_range(0..3)];
        let content = pattern(seed, random.random_range(0..len_max));
        let source = pattern(seed + 1, SOURCE_BYTES);
        house.fake.put("file", content.clone());
        house.fake.put("source", source.clone());
        let fh = house.open("file", libc::O_RDWR).await.unwrap();
        let source_fh = house.open("source", libc::O_RDONLY).await.unwrap();
        Run {
            house,
            random,
            content,
            source,
            fh,
            source_fh,
            append: false,
            len_max,
            waits,
            sending: Vec::new(),
        }
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
            72..85 => self.read().await,
            85..90 => self.seek().await,
            90..95 => {
                self.house.fs.fsync(self.fh).await.unwrap();
                self.compare("fsync").await;
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
        if mode & keep == 0 && len > 0 {
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
        let copied = self.house.fs.copy_file_range(
            &self.house.fs,
            (self.source_fh, from as u64),
            (self.fh, to as u64),
            len as u64,
        );
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

    /// The next hole and the next data from somewhere: holes are zeros, and neither lies behind the other's answer.
    async fn seek(&mut self) -> String {
        let (offset, _) = self.range(1);
        let seek = async |from: usize, whence| match self.house.fs.lseek(self.fh, from as i64, whence).await {
            Ok(found) => Some(found as usize),
            Err(e) if e.errno() == libc::ENXIO => None,
            Err(e) => panic!("{e}"),
        };
        let (data, hole) = (seek(offset, libc::SEEK_DATA).await, seek(offset, libc::SEEK_HOLE).await);
        let said = format!("seek from {offset}: data {data:?}, hole {hole:?}");
        let end = self.content.len();
        assert_eq!(hole.is_some(), offset < end, "{said}");
        if let Some(hole) = hole {
            let to = data.unwrap_or(end);
            assert!(offset <= hole && hole <= end && offset <= to && to <= end, "{said}");
            assert!((hole == offset) != (to == offset), "{said}: it begins with one of them");
            let zeros =
                if to > offset { offset..to } else { hole..seek(hole, libc::SEEK_DATA).await.unwrap_or(end) };
            assert!(self.content[zeros].iter().all(|byte| *byte == 0), "{said}");
        }
        said
    }

    async fn reopen(&mut self) -> String {
        self.house.close(self.fh).await.unwrap();
        self.compare("close").await;
        self.append = self.random.random_bool(0.3);
        self.fh = self.house.open("file", libc::O_RDWR).await.unwrap();
        format!("reopen, append {}", self.append)
    }

    async fn compare(&mut self, after: &str) {
        if let Some(waits) = &mut self.waits {
            match waits.random_range(0..3) {
                // What follows may come before it is sent...
                0 => return,
                // ... or meanwhile.
                1 => {
                    let (fs, root) = (self.house.fs.clone(), self.house.root);
                    return self.sending.push(tokio::spawn(async move { fs.fsyncdir(root).await }));
                }
                _ => self.house.fsyncdir("").await.unwrap(),
            }
        }
        assert_same_bytes(&self.house.fake.data("file"), &self.content, after);
    }
}

pub async fn run(seed: u64, write_back: bool) {
    eprintln!("PAILFS_SEED={seed} write_back: {write_back}");
    let mut run = Run::new(seed, write_back).await;
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
    for sending in std::mem::take(&mut run.sending) {
        sending.await.unwrap().unwrap();
    }
    run.house.fsyncdir("").await.unwrap();
    assert_same_bytes(&run.house.fake.data("file"), &run.content, "in S3");
    assert_eq!(run.house.fake.uploads(), [], "an upload was left behind");
    let held = run.house.fs.held();
    assert_eq!((held.handles, held.staged_bytes), (0, 0), "all was closed and given back: {held:?}");
}
