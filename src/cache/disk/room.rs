//! Making room: which object gives way, and how much of it.
//!
//! Owns: [`Room`]: the caps, and the queue of objects by the time of their last use, as the last scan found them.
//! Invariants: what is found in use since the scan is not evicted; what somebody has open whole is left alone;
//! the bytes held, all mounts together, never exceed the cap.
//! Must never know: what is about to be written.
//!
//! Nothing keeps an index of the objects. Their files' metadata say all there is to know, mounts and crashes
//! included; a scan of these is due when the mount begins, and when the objects that the last one found are used
//! up. What was used since then has another time than the scan found, and is newer than all that have not.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::Machine;
use super::dir::Locked;
use super::object::{self, BLOCK_BYTES, DATA, Files, Name, SUMS};

/// Objects remembered from one scan; the next scan finds the others.
const CANDIDATES_MAX: usize = 1 << 16;
/// Room is made in strides: what an object gives at once of its blocks, unless it is smaller.
const STRIDE_BYTES: u64 = 64 << 20;
/// How long no further scan is made after one that freed nothing, in nanoseconds.
const BARREN_NANOS: u64 = 10_000_000_000;

/// What the cache must keep to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    pub bytes_max: u64,
    pub free_bytes_min: u64,
}

/// An object as the scan found it. Ordered by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// The mtime of its sums file, in nanoseconds since 1970; 0 for debris.
    used: u64,
    name: Name,
}

pub(super) struct Room {
    objects: PathBuf,
    caps: Caps,
    machine: Machine,
    /// Bytes held, as far as this mount knows; the shared number while the lock is held.
    held: u64,
    /// Oldest first.
    queue: VecDeque<Candidate>,
    /// No scan before this time.
    barren_until: u64,
    evictions: Arc<AtomicU64>,
}

impl Room {
    pub fn new(objects: &Path, caps: Caps, machine: Machine, evictions: Arc<AtomicU64>) -> Room {
        let objects = objects.to_owned();
        Room { objects, caps, machine, held: 0, queue: VecDeque::new(), barren_until: 0, evictions }
    }

    pub fn objects(&self) -> &Path {
        &self.objects
    }

    pub fn bytes_held(&self) -> u64 {
        self.held
    }

    /// Takes over the number that all mounts share.
    pub fn believe(&mut self, bytes_held: u64) {
        self.held = bytes_held;
    }

    pub fn set(&mut self, lock: &Locked<'_>, bytes_held: u64) -> io::Result<()> {
        if bytes_held == self.held {
            return Ok(());
        }
        self.held = bytes_held;
        lock.set_bytes_held(bytes_held)
    }

    /// Frees what must go so that `bytes` more may be written, at least `freed_min`. False where that cannot be.
    pub fn make(&mut self, lock: &Locked<'_>, bytes: u64, freed_min: u64) -> io::Result<bool> {
        let mut scanned = false;
        let mut freed_sum = 0;
        while freed_sum < freed_min || !self.fits(bytes)? {
            let Some(candidate) = self.queue.pop_front() else {
                if scanned || bytes > self.caps.bytes_max || (self.machine.now)() < self.barren_until {
                    return Ok(false);
                }
                self.scan(lock)?;
                scanned = true;
                if self.queue.is_empty() {
                    self.rest();
                }
                continue;
            };
            let freed = self.shrink(candidate)?;
            if freed == 0 && scanned && self.queue.is_empty() {
                self.rest();
            }
            freed_sum += freed;
            self.set(lock, self.held.saturating_sub(freed))?;
        }
        Ok(true)
    }

    fn rest(&mut self) {
        self.barren_until = (self.machine.now)() + BARREN_NANOS;
    }

    fn fits(&self, bytes: u64) -> io::Result<bool> {
        let within = self.held.saturating_add(bytes) <= self.caps.bytes_max;
        Ok(within && (self.machine.free)(&self.objects)? >= self.caps.free_bytes_min.saturating_add(bytes))
    }

    /// Makes the object smaller by a stride, or removes it. Answers what was freed: nothing where it was used
    /// since the scan, or is open whole.
    fn shrink(&mut self, candidate: Candidate) -> io::Result<u64> {
        let Candidate { used, name } = candidate;
        let sums = metadata(&name.sums(&self.objects))?;
        let data = metadata(&name.data(&self.objects))?;
        let size = data.as_ref().map_or(0, |data| data.len());
        if sums.as_ref().filter(|_| data.is_some()).map_or(0, used_at) != used {
            return Ok(0);
        }
        let charge = sums.as_ref().map_or(0, object::charge) + data.as_ref().map_or(0, object::charge);
        let stride = STRIDE_BYTES.min(self.caps.bytes_max / 16).max(BLOCK_BYTES);
        if charge > stride
            && let Some(files) = Files::open(&self.objects, name, size)?
        {
            let freed = punch(&files, stride, charge)?;
            if freed > 0 {
                files.set_used(used)?;
                self.queue.push_front(candidate);
                self.evictions.fetch_add(1, Ordering::Relaxed);
                return Ok(freed);
            }
        }
        if !object::remove(&self.objects, name)? {
            return Ok(0);
        }
        self.evictions.fetch_add(1, Ordering::Relaxed);
        Ok(charge)
    }

    /// Counts anew what is held, by everybody: nobody writes meanwhile, for that needs the lock.
    pub fn scan(&mut self, lock: &Locked<'_>) -> io::Result<()> {
        let mut newest_first = BinaryHeap::new();
        let mut held = 0;
        for shard in std::fs::read_dir(&self.objects)? {
            let shard = shard?;
            if !shard.file_type()?.is_dir() {
                tracing::warn!("not of the disk cache: {}", shard.path().display());
                continue;
            }
            for (name, found) in scan_shard(&shard.path())? {
                held += found.charge;
                let used = if found.whole() { found.used } else { 0 };
                newest_first.push(Candidate { used, name });
                if newest_first.len() > CANDIDATES_MAX {
                    newest_first.pop();
                }
            }
        }
        self.queue = newest_first.into_sorted_vec().into();
        self.held = held;
        lock.set_bytes_held(held)
    }
}

/// Frees a stride of the blocks that were not used for the longest time; nothing where there are no more than that, or
/// they cannot be freed, for then the object goes whole or not at all. Counted in blocks, for a hole may cost the file
/// system's map of the file a little of what it frees.
fn punch(files: &Files, stride: u64, charge: u64) -> io::Result<u64> {
    if !files.lock_alone()? {
        return Ok(0);
    }
    let mut present = files.present()?;
    present.sort_by_key(|(_, entry)| entry.used);
    let blocks = usize::try_from(stride / BLOCK_BYTES).unwrap_or(usize::MAX);
    if present.len() <= blocks {
        return Ok(0);
    }
    for (block, _) in present.into_iter().take(blocks) {
        match files.punch(block) {
            Err(e) if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => return Ok(0),
            punched => punched?,
        }
    }
    Ok(charge.saturating_sub(files.charge()?))
}

/// What a scan finds of one object.
#[derive(Default)]
struct Found {
    data: bool,
    sums: bool,
    used: u64,
    charge: u64,
}

impl Found {
    /// One file without the other is what a crash left.
    fn whole(&self) -> bool {
        self.data && self.sums
    }
}

fn scan_shard(shard: &Path) -> io::Result<HashMap<Name, Found>> {
    let mut objects: HashMap<Name, Found> = HashMap::new();
    for entry in std::fs::read_dir(shard)? {
        let entry = entry?;
        let file = entry.file_name();
        let parts = file.to_str().and_then(|file| file.split_once('.'));
        let Some((name, kind)) = parts.and_then(|(hex, kind)| Some((Name::parse(hex)?, kind))) else {
            tracing::warn!("not of the disk cache: {}", entry.path().display());
            continue;
        };
        let Some(meta) = metadata(&entry.path())? else { continue };
        let found = objects.entry(name).or_default();
        found.charge += object::charge(&meta);
        match kind {
            DATA => found.data = true,
            SUMS => (found.sums, found.used) = (true, used_at(&meta)),
            _ => {}
        }
    }
    Ok(objects)
}

fn metadata(path: &Path) -> io::Result<Option<std::fs::Metadata>> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        meta => meta.map(Some),
    }
}

fn used_at(sums: &std::fs::Metadata) -> u64 {
    let seconds = u64::try_from(sums.mtime()).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(sums.mtime_nsec()).unwrap_or(0)
}
