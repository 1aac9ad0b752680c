//! Reading objects: what a handle asks for, what is fetched ahead of it, and where the bytes wait.
//!
//! Owns: [`Reads`] (what all readers share) and [`Reader`] (one handle's place in one version of one object).
//! `window` decides what a handle will need next, `siblings` which files; `fetch` brings it.
//! Invariants: every GET is pinned by If-Match, so one handle never mixes two versions; what is fetched
//! ahead takes memory that is free or was read, what a program waits for takes its turn for memory.
//! Must never know: inodes, paths, FUSE.

mod fetch;
mod siblings;
mod window;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use crate::cache::disk::DiskCache;
use crate::cache::{Part, PartCache, Permit};
use crate::error::Error;
use crate::key::VersionId;
use crate::s3::S3Client;
use fetch::Fetch;
use window::{Plan, Window};

pub use siblings::{Next, Walks};

/// GETs under way at once, over all handles: S3 serves well on this many connections.
const FETCHES_MAX: usize = 64;
/// The furthest one handle is fetched ahead, in bytes; its share of half the memory if that is less.
const WINDOW_BYTES_MAX: u64 = 64 << 20;
/// What a handle may fetch ahead however many there are, in bytes.
const WINDOW_BYTES_MIN: u64 = 1 << 20;
/// A file up to this size is fetched ahead whole, in bytes; of a larger one [`WINDOW_BYTES_MIN`], for as soon as it is
/// read it has a window of its own.
const WHOLE_BYTES_MAX: u64 = 4 << 20;

/// One version of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub id: VersionId,
    pub key: String,
    pub etag: String,
    /// In bytes.
    pub size: u64,
}

impl Version {
    pub fn new(bucket: &str, key: String, etag: String, size: u64) -> Version {
        Version { id: VersionId::new(bucket, &key, &etag), key, etag, size }
    }
}

/// The read path's share of the process.
pub struct Reads {
    client: S3Client,
    cache: Arc<PartCache>,
    disk: Option<Arc<DiskCache>>,
    runtime: Handle,
    fetches: Semaphore,
    /// Counts the readers that fetch far ahead: each has its share of the memory.
    streams: Arc<()>,
}

/// One handle's place in one version.
pub struct Reader {
    pub version: Version,
    /// Held for an instant only, before the cache's lock.
    window: Mutex<Window>,
    /// Set once it fetches far ahead.
    stream: OnceLock<Arc<()>>,
    filling: Option<Filling>,
}

/// A reader's fetches that are to fill the disk cache: each holds a sender until the cache has taken what it brought.
struct Filling {
    /// None once they are waited for.
    sender: Mutex<Option<mpsc::Sender<()>>>,
    /// Held while they are waited for.
    all_done: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Reader {
    fn cut(&self, offset: u64, len: usize) -> Range<u64> {
        let end = offset.saturating_add(len as u64).min(self.version.size);
        offset.min(end)..end
    }

    fn filling(&self) -> Option<mpsc::Sender<()>> {
        self.filling.as_ref().and_then(|filling| lock(&filling.sender).clone())
    }
}

impl Reads {
    pub fn new(
        client: S3Client,
        cache: Arc<PartCache>,
        disk: Option<Arc<DiskCache>>,
        runtime: Handle,
    ) -> Arc<Reads> {
        let fetches = Semaphore::new(FETCHES_MAX);
        Arc::new(Reads { client, cache, disk, runtime, fetches, streams: Arc::default() })
    }

    pub fn reader(&self, version: Version) -> Reader {
        Reader { version, window: Mutex::default(), stream: OnceLock::new(), filling: None }
    }

    /// A reader that fills the disk cache: what is in memory may be missing there, so it is not read.
    pub fn filling_reader(&self, version: Version) -> Reader {
        self.cache.drop_within(version.id, 0..version.size);
        let filling = self.disk.as_ref().map(|_| {
            let (sender, done) = mpsc::channel(1);
            Filling { sender: Mutex::new(Some(sender)), all_done: tokio::sync::Mutex::new(done) }
        });
        Reader { filling, ..self.reader(version) }
    }

    /// Waits until the disk has what a filling reader has read.
    pub async fn filled(&self, reader: &Reader) {
        let (Some(filling), Some(disk)) = (&reader.filling, &self.disk) else { return };
        let mut all_done = filling.all_done.lock().await;
        drop(lock(&filling.sender).take());
        while all_done.recv().await.is_some() {}
        disk.settle().await;
    }

    /// The reader is done: what it has read goes first, before what was fetched for others.
    pub fn released(&self, reader: &Reader) {
        for read in lock(&reader.window).runs_read() {
            self.cache.demote_within(reader.version.id, read);
        }
    }

    /// How far one stream may be fetched ahead: its share of half the memory.
    fn window_bytes_max(&self) -> u64 {
        let streams = (Arc::strong_count(&self.streams) as u64).saturating_sub(1).max(1);
        let share = self.cache.budget().bytes_max() / 2 / streams;
        WINDOW_BYTES_MAX.min(share).max(WINDOW_BYTES_MIN)
    }

    /// How much of a file is worth fetching before it is opened, in bytes.
    pub fn worth_ahead(size: u64) -> u64 {
        if size <= WHOLE_BYTES_MAX { size } else { WINDOW_BYTES_MIN }
    }

    /// How much one walk over small files may have fetched ahead, in bytes.
    pub fn walk_bytes_max(&self) -> u64 {
        self.cache.budget().bytes_max() / 4
    }

    /// Fetches the beginning of a file that will probably be opened next, as far as memory is free.
    pub fn fetch_ahead(self: &Arc<Self>, version: &Version, bytes: u64) {
        for gap in self.cache.gaps(version.id, 0..bytes) {
            let Some(permit) = self.cache.try_reserve(gap.end - gap.start) else { return };
            self.fetch(version, None, gap, permit);
        }
    }

    /// Takes note of a read and fetches ahead of it. Call once a read, before [`Reads::read`].
    pub fn note(self: &Arc<Self>, reader: &Reader, offset: u64, len: usize) {
        let range = reader.cut(offset, len);
        if range.is_empty() {
            return;
        }
        let plan = self.plan(reader, range);
        if !plan.passed.is_empty() {
            self.cache.drop_within(reader.version.id, plan.passed);
        }
        for range in plan.ranges {
            for gap in self.cache.gaps(reader.version.id, range) {
                for piece in window::pieces(gap, plan.piece_bytes) {
                    let Some(permit) = self.cache.try_reserve(piece.end - piece.start) else { return };
                    self.fetch(&reader.version, reader.filling(), piece, permit);
                }
            }
        }
    }

    fn plan(&self, reader: &Reader, range: Range<u64>) -> Plan {
        let mut window = lock(&reader.window);
        let plan = window.on_read(range, reader.version.size, self.window_bytes_max(), Instant::now());
        if window.bytes() > WINDOW_BYTES_MIN {
            reader.stream.get_or_init(|| self.streams.clone());
        }
        plan
    }

    /// The frames of a read, as soon as they have arrived.
    ///
    /// Errors: what the GET failed with; `PreconditionFailed` where the object is another one by now.
    pub async fn read(
        self: &Arc<Self>,
        reader: &Reader,
        offset: u64,
        len: usize,
    ) -> Result<Vec<Bytes>, Error> {
        let range = reader.cut(offset, len);
        let mut frames = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let part = match self.cache.covering(reader.version.id, at) {
                Some(part) => part,
                None => match self.demand(reader, at..range.end).await? {
                    Some(part) => part,
                    None => continue, // another reader was faster
                },
            };
            let read = part.read(at..range.end, &mut frames).await;
            drop(part);
            self.cache.settle();
            at = read?;
        }
        Ok(frames)
    }

    async fn demand(
        self: &Arc<Self>,
        reader: &Reader,
        range: Range<u64>,
    ) -> Result<Option<Arc<Part>>, Error> {
        let Some(gap) = self.cache.gap_at_start(reader.version.id, range) else { return Ok(None) };
        let permit = self.cache.reserve(gap.end - gap.start).await?;
        Ok(self.fetch(&reader.version, reader.filling(), gap, permit))
    }

    fn fetch(
        self: &Arc<Self>,
        version: &Version,
        filling: Option<mpsc::Sender<()>>,
        range: Range<u64>,
        permit: Permit,
    ) -> Option<Arc<Part>> {
        let part = self.cache.insert(version.id, range, permit)?;
        let (reads, version) = (self.clone(), version.clone());
        let fetch = Fetch { reads, version, part: Arc::downgrade(&part), filling };
        self.runtime.spawn(fetch.run(part.range()));
        Some(part)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
