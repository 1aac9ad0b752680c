//! What is written out of order, on the local disk until it is published.
//!
//! Owns: [`Staging`] (how much all files of the mount may take) and [`StagedFile`] (the bytes of one
//! file being written, each at its own offset, so that what was never written is a hole and reads as zeros).
//! Invariants: no file takes a block that was not counted before; a staged file has no name, so that a crash
//! leaves nothing behind, but for what was acknowledged; that does not change: the file's next change makes a copy of it
//! first; what is given up is given back at once.
//! Must never know: objects, keys, which of its bytes were published.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use crate::cache::Permit;
use crate::error::Error;
use crate::journal::{Journal, Kept, KeptItem, Linked, Staged};
use crate::ranges::RangeSet;

/// What a file system gives out at a time: how bytes are counted.
const BLOCK_BYTES: u64 = 4096;
/// Up to this size a whole file is put on the disk by the thread that asks for it, in bytes: it takes some 50 µs.
const INLINE_BYTES_MAX: u64 = 256 << 10;
/// Left free on the file system, for others, in bytes.
const FREE_BYTES_MIN: u64 = 256 << 20;

/// The mount's part of the staging directory, shared by all files of a bucket that are being written.
pub struct Staging {
    journal: Arc<Journal>,
    room: Arc<Room>,
}

/// What all buckets of the mount may take together.
struct Room {
    bytes_max: u64,
    /// How long to wait for room while uploads that will give some are under way.
    patience: Duration,
    bytes_held: AtomicU64,
    /// Bytes that uploads under way will give back.
    bytes_leaving: AtomicU64,
    given_back: Notify,
}

impl Staging {
    /// `patience`: how long a write waits for room while none is given back.
    pub fn new(journal: Arc<Journal>, bytes_max: u64, patience: Duration) -> Staging {
        let room = Room {
            bytes_max,
            patience,
            bytes_held: AtomicU64::new(0),
            bytes_leaving: AtomicU64::new(0),
            given_back: Notify::new(),
        };
        Staging { journal, room: Arc::new(room) }
    }

    /// For another bucket: within the same cap.
    pub fn beside(&self, journal: Arc<Journal>) -> Staging {
        Staging { journal, room: self.room.clone() }
    }

    /// What all staged files take of the disk, in bytes.
    pub fn bytes_held(&self) -> u64 {
        self.room.bytes_held.load(Ordering::Relaxed)
    }

    /// Whether less than half of the room is left: what is only kept to save requests should go.
    pub fn is_short(&self) -> bool {
        self.bytes_held() > self.room.bytes_max / 2 || self.journal.is_half_full()
    }

    /// Counts `bytes` that are about to be written. Waits while uploads under way will give some back.
    ///
    /// Errors: [`Error::NoSpace`].
    async fn take(&self, bytes: u64) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        self.check_free(bytes)?;
        loop {
            let given_back = self.room.given_back.notified();
            if self.try_take(bytes) {
                return Ok(());
            }
            let waits = bytes <= self.room.bytes_max && self.room.bytes_leaving.load(Ordering::Acquire) > 0;
            if !waits || tokio::time::timeout(self.room.patience, given_back).await.is_err() {
                return Err(Error::NoSpace("--staging-size"));
            }
        }
    }

    fn check_free(&self, bytes: u64) -> Result<(), Error> {
        let stat = || Ok(statvfs(&scratch(&self.journal)?)?);
        let stat = stat().map_err(|e: io::Error| disk_error(&e))?;
        match stat.blocks_available() * stat.fragment_size() < bytes + FREE_BYTES_MIN {
            true => Err(Error::NoSpace("the file system of --staging is full")),
            false => Ok(()),
        }
    }

    fn try_take(&self, bytes: u64) -> bool {
        let more = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= self.room.bytes_max);
        self.room.bytes_held.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.room.bytes_held.fetch_sub(bytes, Ordering::AcqRel);
        self.room.given_back.notify_waiters();
    }

    /// Waits for room, and counts it.
    async fn hold(self: &Arc<Self>, bytes: u64) -> Result<Held, Error> {
        self.take(bytes).await?;
        Ok(Held { staging: self.clone(), bytes: AtomicU64::new(bytes) })
    }

    /// Puts a whole file that stays in memory where the next mount finds it if this one dies. `chunks`: end to end.
    ///
    /// Errors: [`Error::NoSpace`]; the disk's.
    pub async fn acknowledge(
        self: &Arc<Self>,
        kept: Kept,
        chunks: Vec<Bytes>,
        permit: Permit,
    ) -> Result<Acknowledged, Error> {
        let held = Arc::new(self.hold(kept.size.next_multiple_of(BLOCK_BYTES)).await?);
        let (journal, bytes) = (self.journal.clone(), kept.size);
        let put = move || journal.acknowledge(kept, Staged::Memory(&chunks)).map_err(io::Error::other);
        // What takes no longer than handing it to another thread is done here.
        let put =
            if bytes <= INLINE_BYTES_MAX { put().map_err(|e| disk_error(&e)) } else { blocking(put).await };
        let (item, _) = put?;
        Ok(Acknowledged { item, _held: held, _permit: Some(permit) })
    }

    /// What was acknowledged is in S3, or given up.
    pub fn discard(&self, item: KeptItem) {
        self.journal.discard(item);
    }

    /// While it lives, those who find no room wait for what this upload will give back.
    pub fn leaving(self: &Arc<Self>, file: &StagedFile) -> Leaving {
        let bytes = file.bytes_held();
        self.room.bytes_leaving.fetch_add(bytes, Ordering::AcqRel);
        Leaving { staging: self.clone(), bytes }
    }
}

/// An upload under way of what is staged.
pub struct Leaving {
    staging: Arc<Staging>,
    bytes: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.staging.room.bytes_leaving.fetch_sub(self.bytes, Ordering::AcqRel);
        self.staging.room.given_back.notify_waiters(); // whoever waited for it looks again
    }
}

/// What one file on the disk takes, counted until nobody needs that file any more.
pub struct Held {
    staging: Arc<Staging>,
    bytes: AtomicU64,
}

impl Held {
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    async fn more(&self, bytes: u64) -> Result<(), Error> {
        self.staging.take(bytes).await?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn less(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.staging.give_back(bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.staging.give_back(self.bytes());
    }
}

/// The staged bytes of one file being written.
pub struct StagedFile {
    staging: Arc<Staging>,
    at: At,
    /// Its blocks that have been written and not punched out.
    blocks: RangeSet,
    held: Arc<Held>,
}

/// Where the bytes are.
#[derive(Clone)]
enum At {
    Nowhere,
    /// In a file that nobody else has.
    Own(Arc<File>),
    /// In the file of what was acknowledged, which has so many of them.
    Acknowledged(PathBuf, u64),
}

/// A state of a file that was acknowledged, on the disk.
pub struct Acknowledged {
    pub item: KeptItem,
    _held: Arc<Held>,
    /// Of bytes that wait in memory.
    _permit: Option<Permit>,
}

impl StagedFile {
    pub fn new(staging: Arc<Staging>) -> StagedFile {
        let held = Arc::new(Held { staging: staging.clone(), bytes: AtomicU64::new(0) });
        StagedFile { staging, at: At::Nowhere, blocks: RangeSet::default(), held }
    }

    pub fn bytes_held(&self) -> u64 {
        self.held.bytes()
    }

    /// Which of its blocks are no holes.
    pub fn blocks(&self) -> &RangeSet {
        &self.blocks
    }

    /// Errors: [`Error::NoSpace`], after which nothing has changed that anybody asked to be kept.
    pub async fn write(&mut self, offset: u64, data: Vec<Bytes>) -> Result<(), Error> {
        let len: u64 = data.iter().map(|piece| piece.len() as u64).sum();
        if len == 0 {
            return Ok(());
        }
        let file = self.own().await?;
        let blocks = offset / BLOCK_BYTES * BLOCK_BYTES..(offset + len).next_multiple_of(BLOCK_BYTES);
        let more: u64 = self.blocks.gaps(blocks.clone()).iter().map(|gap| gap.end - gap.start).sum();
        self.held.more(more).await?;
        self.blocks.insert(blocks);
        blocking(move || {
            let mut at = offset;
            for piece in &data {
                file.write_all_at(piece, at)?;
                at += piece.len() as u64;
            }
            Ok(())
        })
        .await
    }

    /// A file that may be changed: made if there is none, copied where it is what was acknowledged.
    async fn own(&mut self) -> Result<Arc<File>, Error> {
        let journal = self.staging.journal.clone();
        let (file, held) = match self.at.clone() {
            At::Own(file) => return Ok(file),
            At::Nowhere => (blocking(move || nameless_file(&scratch(&journal)?)).await?, None),
            At::Acknowledged(path, size) => {
                let held = self.staging.hold(self.held.bytes()).await?;
                let blocks: Vec<_> = self.blocks.covered(0..size).collect();
                let copied = blocking(move || {
                    let to = nameless_file(&scratch(&journal)?)?;
                    let from = File::open(path)?;
                    blocks.into_iter().try_for_each(|range| copy(&from, &to, range)).map(|()| to)
                });
                (copied.await?, Some(Arc::new(held)))
            }
        };
        self.held = held.unwrap_or_else(|| self.held.clone());
        let file = Arc::new(file);
        self.at = At::Own(file.clone());
        Ok(file)
    }

    /// Keeps the file's bytes for `pailfs recover`. When this answers, the disk has them.
    pub async fn keep(&mut self, kept: Kept) -> Result<KeptItem, Error> {
        let (file, journal) = (self.own().await?, self.staging.journal.clone());
        blocking(move || journal.keep(&kept, Staged::File(&file)).map_err(io::Error::other)).await
    }

    /// Puts what is staged where the next mount finds it if this one dies: the file itself, or a copy where most of it is
    /// not in `kept`.
    pub async fn acknowledge(&mut self, kept: Kept) -> Result<Acknowledged, Error> {
        let bytes = kept.ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        let link = 2 * bytes >= self.held.bytes();
        let (file, journal) = (self.own().await?, self.staging.journal.clone());
        let copy = if link { None } else { Some(self.staging.hold(bytes).await?) };
        let acknowledged = blocking(move || {
            file.set_len(kept.size)?; // a hole at the end belongs to it
            let staged = if link { Staged::File(&file) } else { Staged::Ranges(&file) };
            journal.acknowledge(kept, staged).map_err(io::Error::other)
        });
        let (item, Linked(linked)) = acknowledged.await?;
        let held = match copy {
            Some(copy) => Arc::new(copy),
            None if linked => {
                self.at = At::Acknowledged(item.bytes().to_owned(), item.kept.size);
                self.held.clone()
            }
            None => match self.staging.hold(bytes).await {
                Ok(held) => Arc::new(held),
                Err(e) => {
                    self.staging.discard(item);
                    return Err(e);
                }
            },
        };
        Ok(Acknowledged { item, _held: held, _permit: None })
    }

    /// What was acknowledged goes: its bytes are this file's alone from now on, where they are its own at all.
    ///
    /// Errors: the disk's, after which what is staged is not to be had any more.
    pub async fn disown(&mut self, item: KeptItem) -> Result<(), Error> {
        let ours = match self.at.clone() {
            At::Acknowledged(path, size) if path == item.bytes() => Some((path, size)),
            _ => None,
        };
        let staging = self.staging.clone();
        let file = blocking(move || {
            let file = ours.map(|(path, size)| {
                OpenOptions::new().read(true).write(true).open(path).map(|file| (file, size))
            });
            staging.discard(item);
            let Some((file, size)) = file.transpose()? else { return Ok(None) };
            file.set_len(size)?; // what it told of itself is no part of it
            Ok(Some(file))
        });
        if let Some(file) = file.await? {
            self.at = At::Own(Arc::new(file));
        }
        Ok(())
    }

    /// The bytes of `range`, zeros where there are none.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let at = self.at.clone();
        blocking(move || {
            let (file, size) = match at {
                At::Nowhere => return Ok(vec![0; len]),
                At::Own(file) => (file, u64::MAX),
                At::Acknowledged(path, size) => (Arc::new(File::open(path)?), size),
            };
            let mut bytes = vec![0; len];
            let there = len.min(usize::try_from(size.saturating_sub(range.start)).unwrap_or(usize::MAX));
            let mut filled = 0;
            while let Some(rest) = bytes.get_mut(filled..there).filter(|rest| !rest.is_empty()) {
                match file.read_at(rest, range.start + filled as u64)? {
                    0 => break, // past the file's end: zeros
                    read => filled += read,
                }
            }
            Ok(bytes)
        })
        .await
    }

    /// Makes a hole of `range`, which reads as zeros, and gives back the blocks within.
    pub async fn punch(&mut self, range: Range<u64>) -> Result<(), Error> {
        if !self.blocks.overlaps(range.clone()) {
            return Ok(());
        }
        let file = self.own().await?;
        let zeroed = range.clone();
        blocking(move || zero(&file, zeroed)).await?;
        let within = range.start.next_multiple_of(BLOCK_BYTES)..range.end / BLOCK_BYTES * BLOCK_BYTES;
        if !within.is_empty() {
            let freed = self.blocks.covered(within.clone()).map(|range| range.end - range.start).sum();
            self.blocks.remove(within);
            self.held.less(freed);
        }
        Ok(())
    }

    /// Gives everything back.
    pub fn clear(&mut self) {
        *self = StagedFile::new(self.staging.clone());
    }
}

fn scratch(journal: &Journal) -> io::Result<PathBuf> {
    journal.scratch().map_err(io::Error::other)
}

/// On the kernel's side where the file system can.
fn copy(mut from: &File, mut to: &File, range: Range<u64>) -> io::Result<()> {
    from.seek(SeekFrom::Start(range.start))?;
    to.seek(SeekFrom::Start(range.start))?;
    io::copy(&mut from.take(range.end - range.start), &mut to).map(|_| ()) // less, past the file's end: zeros
}

/// A hole where the file system can make one, else zeros.
fn zero(file: &File, range: Range<u64>) -> io::Result<()> {
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let end = range.end.min(file.metadata()?.len());
    if range.start >= end {
        return Ok(());
    }
    let (start, len) = (range.start.cast_signed(), (end - range.start).cast_signed());
    match fallocate(file, mode, start, len) {
        Err(Errno::EOPNOTSUPP) => {
            let zeros = [0; 64 << 10];
            let mut at = range.start;
            while at < end {
                let piece = zeros.get(..(end - at).min(zeros.len() as u64) as usize).unwrap_or(&zeros);
                file.write_all_at(piece, at)?;
                at += piece.len() as u64;
            }
            Ok(())
        }
        punched => Ok(punched?),
    }
}

/// A file that is gone when it is closed.
fn nameless_file(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE).open(dir) {
        // Not every file system has files without a name.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let path = dir.join(format!("{:016x}", rand::random::<u64>()));
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        opened => opened,
    }
}

/// What an item tells changes. Not synced.
pub async fn rewrite(item: &mut KeptItem, kept: Kept) -> Result<(), Error> {
    let mut anew = item.clone();
    *item = blocking(move || anew.rewrite(kept).map(|()| anew)).await?;
    Ok(())
}

/// When this answers the disk has the item.
pub async fn sync(item: &KeptItem) -> Result<(), Error> {
    let item = item.clone();
    blocking(move || item.sync()).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = spawn_blocking(work).await.map_err(|e| Error::Io(format!("the staging directory: {e}")))?;
    done.map_err(|e| disk_error(&e))
}

fn disk_error(e: &io::Error) -> Error {
    match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace("the file system of --staging is full"),
        _ => Error::Io(format!("the staging directory: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staging(bytes_max: u64) -> (tempfile::TempDir, Arc<Staging>) {
        let dir = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::new(dir.path(), None, "bucket"));
        (dir, Arc::new(Staging::new(journal, bytes_max, Duration::from_millis(1))))
    }

    async fn write(file: &mut StagedFile, offset: u64, data: &'static [u8]) -> Result<(), Error> {
        file.write(offset, vec![Bytes::from_static(data)]).await
    }

    #[tokio::test]
    async fn bytes_come_back_and_holes_are_zeros() {
        let (_dir, staging) = staging(1 << 20);
        let mut file = StagedFile::new(staging.clone());
        assert_eq!(file.read(5..8).await.unwrap(), [0; 3]);
        write(&mut file, 10_000, b"hello").await.unwrap();
        assert_eq!(file.read(9_999..10_007).await.unwrap(), b"\0hello\0\0");
        file.punch(10_001..10_003).await.unwrap();
        assert_eq!(file.read(10_000..10_005).await.unwrap(), b"h\0\0lo");
        let scratch = std::fs::read_dir(staging.journal.scratch().unwrap()).unwrap();
        let names: Vec<_> = scratch.map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| name == "journal" || name == "lock"), "no name: {names:?}");
    }

    #[tokio::test]
    async fn what_is_held_is_counted_and_given_back() {
        let (_dir, staging) = staging(12 << 10);
        let mut file = StagedFile::new(staging.clone());
        for _ in 0..3 {
            write(&mut file, 4095, b"xy").await.unwrap();
        }
        assert_eq!(staging.bytes_held(), 8192, "two blocks, however often they are written");
        let full = write(&mut file, 100_000, &[1; 5000]).await;
        assert_eq!(full.map_err(|e| e.errno()), Err(libc::ENOSPC));
        assert_eq!(staging.bytes_held(), 8192, "and nothing was taken");
        write(&mut file, 100_000, b"z").await.unwrap();
        file.punch(0..8192).await.unwrap();
        assert_eq!(staging.bytes_held(), 4096);
        drop(file);
        assert_eq!(staging.bytes_held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_for_what_is_being_uploaded() {
        let (_dir, staging) = staging(8192);
        let (mut full, mut waits) = (StagedFile::new(staging.clone()), StagedFile::new(staging.clone()));
        write(&mut full, 0, &[1; 8192]).await.unwrap();
        assert!(write(&mut waits, 0, b"x").await.is_err(), "nothing is being uploaded");
        let leaving = staging.leaving(&full);
        let given_back = async {
            tokio::task::yield_now().await;
            full.clear();
            drop(leaving);
        };
        let (waited, ()) = tokio::join!(write(&mut waits, 0, b"x"), given_back);
        waited.unwrap();
    }
}
