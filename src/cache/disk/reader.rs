//! Reading what is cached, and proving it.
//!
//! Owns: [`Reader`]: blocks, whole files, which of these were verified, and the clock of last uses.
//! Invariants: what does not verify is dropped and counted, and never given out; an open waits for the check of
//! [`CHECK_BYTES_MAX`] at the most.
//! Must never know: what should go. It runs on threads that may block.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;
use tokio::sync::Semaphore;

use super::object::{BLOCK_BYTES, Files, Name, State, block_len};
use super::{Counters, Machine};

/// Threads that read at once: a disk serves well by then.
const READS_MAX: usize = 32;
/// A whole file of more bytes is verified in the background.
const CHECK_BYTES_MAX: u64 = 64 << 20;
/// Whole files that are known to have verified.
const VERIFIED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// Between two lines in the log about failures, in nanoseconds.
const COMPLAINT_NANOS: u64 = 60_000_000_000;

pub(super) struct Reader {
    pub objects: PathBuf,
    machine: Machine,
    counters: Arc<Counters>,
    /// When a failure was logged last, in nanoseconds since 1970; 0: never.
    complained: AtomicU64,
    /// The time of the last use, in nanoseconds since 1970: no two are the same.
    used: AtomicU64,
    pub turns: Semaphore,
    /// A background check is under way: one at a time.
    checking: AtomicBool,
    /// An instant; nothing is taken under it.
    verified: Mutex<LruCache<Name, State>>,
}

impl Reader {
    pub fn new(objects: &Path, machine: Machine, counters: Arc<Counters>) -> Reader {
        Reader {
            objects: objects.to_owned(),
            machine,
            counters,
            complained: AtomicU64::new(0),
            used: AtomicU64::new(0),
            turns: Semaphore::new(READS_MAX),
            checking: AtomicBool::new(false),
            verified: Mutex::new(LruCache::new(VERIFIED_MAX)),
        }
    }

    /// Now, but later than ever before.
    pub fn tick(&self) -> u64 {
        let now = (self.machine.now)();
        let next = |last: u64| now.max(last + 1);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last))) {
            Ok(last) | Err(last) => next(last),
        }
    }

    /// A block that verified.
    pub fn read(&self, name: Name, size: u64, block: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(files) = Files::open(&self.objects, name, size)? else { return Ok(None) };
        let mut bytes = vec![0; block_len(size, block)];
        if !self.check_block(&files, block, &mut bytes)? {
            return Ok(None);
        }
        if let Err(e) = files.touch(block, self.tick()) {
            self.complain("does not take the time of use", &e);
        }
        Ok(Some(bytes))
    }

    /// False where the block is absent, also because it did not verify and was dropped.
    pub fn check_block(&self, files: &Files, block: u64, bytes: &mut [u8]) -> io::Result<bool> {
        // Twice: between entry and bytes the block may have gone and come again.
        for _ in 0..2 {
            let entry = files.entry(block)?;
            if !entry.is_present() {
                return Ok(false);
            }
            match files.read(block, entry, bytes) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(e) => self.complain("has an unreadable block, which is fetched anew", &e),
            }
            if !files.is_whole()? {
                return Ok(false); // it is being removed
            }
        }
        self.counters.corrupt.fetch_add(1, Ordering::Relaxed);
        files.forget(block)?;
        Ok(false)
    }

    /// The data file, locked against eviction, where all of it is there and verified.
    pub fn open_whole(self: &Arc<Self>, name: Name, size: u64) -> io::Result<Option<File>> {
        let Some(files) = Files::open(&self.objects, name, size)? else { return Ok(None) };
        let Some(data) = files.lock_whole(&self.objects)? else { return Ok(None) };
        if size == 0 || (files.present()?.len() as u64) < files.blocks() {
            return Ok(None);
        }
        let state = files.state()?;
        if self.verified().get(&name) != Some(&state) {
            if size > CHECK_BYTES_MAX {
                self.check_in_background(name, files, data);
                return Ok(None);
            }
            if !self.check_all(name, &files, state)? {
                return Ok(None);
            }
        }
        files.set_used(self.tick())?;
        Ok(Some(data))
    }

    fn check_in_background(self: &Arc<Self>, name: Name, files: Files, locked: File) {
        if self.checking.swap(true, Ordering::Relaxed) {
            return;
        }
        let reader = self.clone();
        let check = move || {
            let checked = files.state().and_then(|state| reader.check_all(name, &files, state));
            drop(locked);
            if let Err(e) = checked {
                reader.complain("cannot be read", &e);
            }
            reader.checking.store(false, Ordering::Relaxed);
        };
        if let Err(e) = std::thread::Builder::new().name("pailfs-check".into()).spawn(check) {
            self.checking.store(false, Ordering::Relaxed);
            self.complain("cannot be verified", &e);
        }
    }

    /// Verifies every block, and remembers the file if all did.
    fn check_all(&self, name: Name, files: &Files, state: State) -> io::Result<bool> {
        let mut bytes = vec![0; BLOCK_BYTES as usize];
        let mut whole = true;
        for block in 0..files.blocks() {
            let len = files.block_len(block);
            whole &= self.check_block(files, block, bytes.get_mut(..len).unwrap_or_default())?;
        }
        if whole {
            self.verified().put(name, state);
        }
        Ok(whole)
    }

    pub fn bytes_cached(&self, name: Name, size: u64) -> io::Result<u64> {
        let Some(files) = Files::open(&self.objects, name, size)? else { return Ok(0) };
        let present = files.present()?;
        Ok(present.iter().map(|(block, _)| block_len(size, *block) as u64).sum())
    }

    /// Counts a failure of the local disk, and logs one now and then.
    pub fn complain(&self, what: &str, e: &io::Error) {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        let now = (self.machine.now)();
        let due = |last: u64| (last == 0 || now > last + COMPLAINT_NANOS).then_some(now);
        if self.complained.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok() {
            tracing::warn!("the disk cache {what}: {e}");
        }
    }

    fn verified(&self) -> MutexGuard<'_, LruCache<Name, State>> {
        self.verified.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
