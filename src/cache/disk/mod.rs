//! Object bytes on the local disk, kept across mounts: `--cache`.
//!
//! Owns: [`DiskCache`]. `dir` is the directory and what its mounts share, `object` one object's files, `room` what
//! gives way, `writer` the one thread that writes, `reader` what reads and verifies.
//! Invariants: no byte is given out that did not verify; what all mounts hold never exceeds `--cache-size`;
//! a failure of the local disk is a block that is not cached, counted and logged, never a failed read.
//! Must never know: S3, inodes, what will be read next.
//!
//! No index is kept, in memory or on the disk: a block's entry is read where it is asked for, and what gives way is
//! found from the files' metadata. So two mounts, or one after a crash, need agree on nothing but one lock.

mod dir;
mod object;
mod reader;
mod room;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use crate::config::DiskCacheConfig;
use crate::key::VersionId;

pub use dir::CannotOpen;
use dir::Dir;
use object::Name;
pub use object::{BLOCK_BYTES, block_len};
use reader::Reader;
use room::{Caps, Room};
use writer::{Block, Job, Writer};

/// How long to wait for the disk, or for another mount that is at work, while nothing is written.
const PATIENCE: Duration = Duration::from_secs(30);
/// Blocks that wait to be written. They are not covered by `--memory`: 16 MiB at the most.
const QUEUE_BLOCKS_MAX: usize = 16;

/// One bucket's share of a cache directory, which other buckets and other mounts may use as well.
pub struct DiskCache {
    reader: Arc<Reader>,
    jobs: mpsc::Sender<Job>,
    counters: Arc<Counters>,
    endpoint: Option<String>,
    /// Of the bucket and its server: names of files begin with it.
    bucket: [u8; 32],
    bytes_max: u64,
}

/// What happened since the mount began.
#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    corrupt: AtomicU64,
    writes_dropped: AtomicU64,
    errors: AtomicU64,
    evictions: Arc<AtomicU64>,
    bytes_used: AtomicU64,
    /// Blocks that the writer is done with, one way or the other: whether those who wait may hope.
    settled: AtomicU64,
}

/// [`DiskCache::stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskStats {
    /// Blocks that were asked for and found.
    pub hits: u64,
    pub misses: u64,
    /// Blocks that did not verify, and were dropped.
    pub corrupt: u64,
    /// Blocks that were not written: the queue was full, or no room could be made.
    pub writes_dropped: u64,
    /// Failures of the local disk.
    pub errors: u64,
    /// Objects that were removed, or made smaller, to make room.
    pub evictions: u64,
    /// What all mounts of the directory take of the disk, in bytes, as of this mount's last write.
    pub bytes_used: u64,
}

/// Nanoseconds since 1970.
type Now = dyn Fn() -> u64 + Send + Sync;
/// Bytes that may still be written to a directory's file system.
type Free = dyn Fn(&Path) -> io::Result<u64> + Send + Sync;

/// What the cache asks of the machine. Tests have one of their own.
#[derive(Clone)]
struct Machine {
    now: Arc<Now>,
    free: Arc<Free>,
}

impl Machine {
    fn real() -> Machine {
        let since_1970 = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Machine {
            now: Arc::new(move || u64::try_from(since_1970().as_nanos()).unwrap_or(u64::MAX)),
            free: Arc::new(|dir| {
                let stat = nix::sys::statvfs::statvfs(dir)?;
                Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
            }),
        }
    }
}

fn identity(endpoint: Option<&str>, bucket: &str) -> [u8; 32] {
    let mut identity = Sha256::new();
    for part in [endpoint.unwrap_or("aws"), bucket] {
        identity.update((part.len() as u64).to_be_bytes());
        identity.update(part.as_bytes());
    }
    identity.finalize().into()
}

impl DiskCache {
    /// Opens or makes the directory. It is counted through by the writer's thread, not here.
    ///
    /// Errors: the directory is another user's, holds other things, is of another format, or cannot be written.
    pub fn open(
        config: &DiskCacheConfig,
        endpoint: Option<&str>,
        bucket: &str,
    ) -> Result<DiskCache, CannotOpen> {
        DiskCache::open_on(Machine::real(), config, endpoint, bucket)
    }

    fn open_on(
        machine: Machine,
        config: &DiskCacheConfig,
        endpoint: Option<&str>,
        bucket: &str,
    ) -> Result<DiskCache, CannotOpen> {
        let dir = Dir::open(&config.dir)?;
        let counters = Arc::new(Counters::default());
        counters.bytes_used.store(dir.bytes_held(), Ordering::Relaxed);
        let caps = Caps { bytes_max: config.bytes_max, free_bytes_min: config.free_bytes_min };
        let reader = Arc::new(Reader::new(dir.objects(), machine.clone(), counters.clone()));
        let room = Room::new(dir.objects(), caps, machine, counters.evictions.clone());
        let (jobs, queue) = mpsc::channel(QUEUE_BLOCKS_MAX);
        let writer = Writer::new(dir, room, reader.clone(), counters.clone());
        writer.start(queue).map_err(|e| CannotOpen::new(&config.dir, format!("no thread for it: {e}")))?;
        let (endpoint, bucket) = (endpoint.map(String::from), identity(endpoint, bucket));
        Ok(DiskCache { reader, jobs, counters, endpoint, bucket, bytes_max: config.bytes_max })
    }

    /// For another bucket of the same server, with the same thread and the same counters.
    pub fn beside(&self, bucket: &str) -> DiskCache {
        DiskCache {
            reader: self.reader.clone(),
            jobs: self.jobs.clone(),
            counters: self.counters.clone(),
            endpoint: self.endpoint.clone(),
            bucket: identity(self.endpoint.as_deref(), bucket),
            bytes_max: self.bytes_max,
        }
    }

    /// `--cache-size`, in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// A block's bytes, verified; none where they are not cached. `size` is the object's, in bytes.
    pub async fn read_block(&self, version: VersionId, size: u64, block: u64) -> Option<Bytes> {
        let name = Name::new(&self.bucket, version, size);
        let found = self.blocking(move |reader| reader.read(name, size, block)).await.flatten();
        let counter = if found.is_some() { &self.counters.hits } else { &self.counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found.map(Bytes::from)
    }

    /// Offers a whole block ([`block_len`] bytes, in frames that lie end to end). Never waits: where the disk does
    /// not keep up, the block is not cached.
    pub fn offer(&self, version: VersionId, size: u64, block: u64, frames: Vec<Bytes>) {
        if self.jobs.try_send(self.job(version, size, block, frames)).is_err() {
            self.counters.writes_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As [`DiskCache::offer`], but waits for the disk, unless that stands still.
    pub async fn keep(&self, version: VersionId, size: u64, block: u64, frames: Vec<Bytes>) {
        let sent = self.patiently(self.jobs.send(self.job(version, size, block, frames))).await;
        if !matches!(sent, Some(Ok(()))) {
            self.counters.writes_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn job(&self, version: VersionId, size: u64, block: u64, frames: Vec<Bytes>) -> Job {
        let len: usize = frames.iter().map(Bytes::len).sum();
        assert_eq!(len, block_len(size, block), "a block is offered whole");
        let name = Name::new(&self.bucket, version, size);
        Job::Write(Block { name, size, number: block, frames })
    }

    /// Waits until all that was offered before is written or dropped, unless the disk stands still.
    pub async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        let settled = async {
            if self.jobs.send(Job::Settle(done)).await.is_ok() {
                let _ = settled.await; // the writer is gone: there is nothing to wait for
            }
        };
        if self.patiently(settled).await.is_none() {
            self.reader.complain("takes no blocks", &io::ErrorKind::TimedOut.into());
        }
    }

    /// None when the writer has dealt with nothing for as long as the patience lasts.
    async fn patiently<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = pin!(wait);
        loop {
            let settled = self.counters.settled.load(Ordering::Relaxed);
            match tokio::time::timeout(PATIENCE, &mut wait).await {
                Ok(done) => return Some(done),
                Err(_) if self.counters.settled.load(Ordering::Relaxed) == settled => return None,
                Err(_) => {} // blocks are written: our turn will come
            }
        }
    }

    /// The object's file, if all of it is cached and has verified since this process began. Nobody takes bytes out of
    /// the file as long as this descriptor, or one made from it, is open.
    ///
    /// A file too large to verify while a program waits is verified in the background, and given the next time.
    pub async fn open_whole(&self, version: VersionId, size: u64) -> Option<File> {
        let name = Name::new(&self.bucket, version, size);
        self.blocking(move |reader| reader.open_whole(name, size)).await.flatten()
    }

    /// How much of an object is cached, in bytes; what was offered a moment ago may still be under way.
    pub async fn bytes_cached(&self, version: VersionId, size: u64) -> u64 {
        let name = Name::new(&self.bucket, version, size);
        self.blocking(move |reader| reader.bytes_cached(name, size)).await.unwrap_or(0)
    }

    pub fn stats(&self) -> DiskStats {
        let Counters { hits, misses, corrupt, writes_dropped, errors, evictions, bytes_used, .. } =
            &*self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskStats {
            hits: get(hits),
            misses: get(misses),
            corrupt: get(corrupt),
            writes_dropped: get(writes_dropped),
            errors: get(errors),
            evictions: get(evictions),
            bytes_used: get(bytes_used),
        }
    }

    /// Off the threads that answer; none where the disk failed, which is told.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Reader>) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let _turn = self.reader.turns.acquire().await.ok()?;
        let reader = self.reader.clone();
        let done = tokio::task::spawn_blocking(move || work(&reader)).await;
        done.unwrap_or_else(|e| Err(io::Error::other(e)))
            .map_err(|e| self.reader.complain("cannot be read", &e))
            .ok()
    }
}
