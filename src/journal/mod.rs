//! Intentions on the local disk, so that what a crash interrupts is finished or undone, and bytes that could not be
//! sent are kept.
//!
//! Owns: [`Journal`] (what one mount has begun and not ended), [`Intent`], [`Kept`]. `place` is the directory and who
//! lives there, `log` the file, `record` its lines (pure), `kept` the bytes kept for `pailfs recover`.
//! Invariants: what [`Journal::begin`] answered for is found after the process was killed, and after
//! [`Journal::sync`] also when the machine was; a journal is taken over only when its mount is dead, by one mount; no
//! more than [`OPEN_MAX`] intentions are open, and the file is never much larger than they are.
//! Must never know: S3, what finishing or undoing an intention takes. Everything but [`Journal::sync`] blocks on the
//! local disk: beginning and ending for the time of a `write`, the rest longer.

mod kept;
mod log;
mod place;
mod record;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::Error;
pub use kept::{Base, Kept, KeptHeaders, KeptItem, KeptPart, KeptUpload, Linked, SentPart, Spoilt, Staged};
use log::Log;
use place::{Owner, Place};
use record::Record;

/// Intentions open at once, at most: all removals that wait, and the uploads of all files open at once.
pub const OPEN_MAX: usize = 40_000;

/// What is to be finished or undone if it is found begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// A multipart upload that is being begun here, and whose id is not known yet: to be looked for, and aborted.
    CreateUpload { key: String, at: SystemTime },
    /// A multipart upload that was begun here: to be aborted.
    Upload { key: String, upload_id: String },
    /// The objects below `from` are copied below `to` (both end in `/`); once that is committed, those below `from` go.
    /// `over`: the marker `to` was there before.
    Rename {
        from: String,
        to: String,
        over: bool,
        /// When it began: what was acknowledged below `from` since then is not of what moved.
        #[serde(default = "epoch")]
        at: SystemTime,
    },
    /// An object is copied from `from` to `to`, then the original goes. `etag`: the original's; `replaced`: of what was at
    /// `to`, if anything was; `drops`: as of [`Intent::Remove`].
    /// Committed when it is known to be copied; else that can be seen as long as both are there.
    RenameFile {
        from: String,
        to: String,
        etag: String,
        replaced: Option<String>,
        keep: bool,
        #[serde(default)]
        drops: Option<String>,
        /// As of [`Intent::Rename`].
        #[serde(default = "epoch")]
        at: SystemTime,
    },
    /// Two files or directories change places. `stage`: how far that is.
    Exchange { what: Exchange, stage: Stage },
    /// An object, or a directory's marker, whose removal was acknowledged: it goes. `etag`: of the version that was
    /// removed, where it is known; `keep`: the directory it is in may have no marker, and stays; `drops`: what was
    /// acknowledged of the file and not sent, by [`KeptItem::name`], which goes with it.
    Remove {
        key: String,
        etag: Option<String>,
        keep: bool,
        #[serde(default)]
        drops: Option<String>,
    },
    /// A directory whose making, or whose change (`over`), was acknowledged: its marker is put, with this metadata; where
    /// one is only if it was changed.
    Directory {
        key: String,
        metadata: Vec<(String, String)>,
        #[serde(default)]
        over: bool,
    },
}

/// What changes places: objects, or directories, whose keys end in `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// From where to where each goes.
    pub first: (String, String),
    pub second: (String, String),
    /// Where the first is copied to, meanwhile.
    pub aside: String,
}

/// How far an exchange is. What moves in a stage is whole where it comes from, and what was there is whole elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The first is being copied aside: to be undone, by removing the copies.
    Saving,
    /// The second takes its new place: to be undone, the first coming back from aside.
    MovingSecond,
    /// The first takes its new place, from aside: to be undone, the second coming back from where it is.
    MovingFirst,
    /// Both are where they should be: the copies aside are to be removed.
    Done,
}

/// Of intentions that an earlier version noted.
fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

/// An intention that is begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub id: u64,
    pub intent: Intent,
    /// Past the point from which it is to be finished, not undone.
    pub committed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("--staging: {} cannot be used: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("--staging: {} {problem}", path.display())]
    Unfit { path: PathBuf, problem: String },
    #[error("the journal is full: {OPEN_MAX} operations are under way")]
    Full,
    #[error("{} files wait in the staging directory already, and no more can", kept::KEPT_MAX)]
    KeptFull,
}

impl From<JournalError> for Error {
    fn from(e: JournalError) -> Self {
        Error::Io(e.to_string())
    }
}

/// One mount's journal. Nothing is written before the first intention.
pub struct Journal {
    place: Place,
    /// Held while a record is written; no other lock is taken under it.
    state: Mutex<State>,
    /// Up to which record the disk has them; held across an fsync, so that one answers all who wait.
    synced: Arc<tokio::sync::Mutex<u64>>,
    /// Items of all mounts: counted when the first one is put here, and from then on as this mount knows.
    items: OnceLock<AtomicUsize>,
    /// Empty files for items to come, in the scratch directory, at most [`kept::KEPT_MAX`]. A file that is made where many
    /// were removed takes ext4 long: for minutes it passes over each inode that was given back.
    /// Held for an instant only; no other lock is taken under it.
    spares: Mutex<Vec<PathBuf>>,
    /// Files that were ever named in the scratch directory.
    serial: AtomicU64,
}

#[derive(Default)]
struct State {
    /// None until something was begun.
    home: Option<Home>,
    open: BTreeMap<u64, Open>,
    next: u64,
    /// Records written since the mount began.
    written: u64,
}

/// Where this mount lives in the staging directory.
struct Home {
    log: Log,
    // Dropped last: who finds it unlocked may take the log over.
    owner: Owner,
}

/// What the journal holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalStats {
    /// Intentions begun and not ended.
    pub open: usize,
    /// Of the file.
    pub bytes: u64,
    /// Records written since the mount began.
    pub written: u64,
}

impl Journal {
    /// `staging`: the directory for all buckets; a bucket has its own within, by the name of its server as well.
    pub fn new(staging: &Path, endpoint: Option<&str>, bucket: &str) -> Journal {
        Journal {
            place: Place::new(staging, endpoint, bucket),
            state: Mutex::default(),
            synced: Arc::default(),
            items: OnceLock::new(),
            spares: Mutex::default(),
            serial: AtomicU64::new(0),
        }
    }

    /// The buckets of a server that mounts are at work on, or have left something of, in a staging directory.
    pub fn buckets(staging: &Path, endpoint: Option<&str>) -> Result<Vec<String>, JournalError> {
        let failed = |source| JournalError::Disk { path: staging.to_owned(), source };
        Place::buckets(staging, endpoint).map_err(failed)
    }

    /// Makes the directory and this mount's part of it, so that what stands in the way is found early.
    pub fn prepare(&self) -> Result<(), JournalError> {
        self.home(&mut self.lock()).map(|_| ())
    }

    /// A directory for files that this mount stages. It goes with the mount: whatever is in it when the mount has died
    /// was acknowledged by nobody.
    pub fn scratch(&self) -> Result<PathBuf, JournalError> {
        Ok(self.home(&mut self.lock())?.owner.dir().to_owned())
    }

    /// What this mount is called in the staging directory.
    fn name(&self) -> Result<String, JournalError> {
        Ok(self.home(&mut self.lock())?.owner.name().to_owned())
    }

    /// Takes note of an intention before it is carried out. A killed process leaves it to the next mount; only after
    /// [`Journal::sync`] does a lost machine as well.
    pub fn begin(&self, intent: Intent) -> Result<u64, JournalError> {
        let mut state = self.lock();
        if state.open.len() >= OPEN_MAX {
            return Err(JournalError::Full);
        }
        let id = state.next;
        self.write(&mut state, &Record::Begin { id, intent: intent.clone() })?;
        state.next += 1;
        state.open.insert(id, Open { id, intent, committed: false });
        Ok(id)
    }

    /// From now on the intention is to be finished, not undone.
    pub fn commit(&self, id: u64) -> Result<(), JournalError> {
        let mut state = self.lock();
        self.write(&mut state, &Record::Commit { id })?;
        if let Some(open) = state.open.get_mut(&id) {
            open.committed = true;
        }
        Ok(())
    }

    /// The intention is this one from now on, of which nothing is committed.
    pub fn replace(&self, id: u64, intent: Intent) -> Result<(), JournalError> {
        let mut state = self.lock();
        self.write(&mut state, &Record::Begin { id, intent: intent.clone() })?;
        state.open.insert(id, Open { id, intent, committed: false });
        Ok(())
    }

    /// The intention was carried out, or undone. If this cannot be written it is looked at once more by the next mount,
    /// to no effect.
    pub fn end(&self, id: u64) {
        let mut state = self.lock();
        if state.open.remove(&id).is_none() {
            return;
        }
        if let Err(e) = self.write(&mut state, &Record::End { id }) {
            tracing::warn!("{e}");
        }
    }

    /// Answers when the disk has all that was written before this was called.
    pub async fn sync(&self) -> Result<(), JournalError> {
        let upto = self.lock().written;
        let mut synced = self.synced.clone().lock_owned().await;
        if *synced >= upto {
            return Ok(());
        }
        let (now, disk) = {
            let state = self.lock();
            let Some(home) = &state.home else { return Ok(()) };
            (state.written, home.log.disk())
        };
        // The lock goes along: who waits for it need not sync again.
        let task = tokio::task::spawn_blocking(move || disk.sync().map(|()| *synced = now));
        let done = task.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        done.map_err(|e| self.place.disk_error(e))
    }

    /// Takes over what dead mounts of the bucket left, and answers all that is open now. What their mounts had staged
    /// and nobody kept is removed. What cannot be read is logged and left alone.
    pub fn adopt(&self) -> Result<Vec<Open>, JournalError> {
        for dead in self.place.dead()? {
            if let Err(e) = self.adopt_one(&dead) {
                tracing::error!("what an earlier mount left is left alone: {e}");
            }
        }
        Ok(self.lock().open.values().cloned().collect())
    }

    fn adopt_one(&self, dead: &Owner) -> Result<(), JournalError> {
        let failed = |e| self.place.disk_error(e);
        let left = Log::read(&dead.journal()).map_err(failed)?;
        let mut state = self.lock();
        if state.open.len() + left.len() > OPEN_MAX {
            return Err(JournalError::Full);
        }
        for Open { intent, committed, .. } in left {
            let id = state.next;
            self.write(&mut state, &Record::Begin { id, intent: intent.clone() })?;
            if committed {
                self.write(&mut state, &Record::Commit { id })?;
            }
            state.next += 1;
            state.open.insert(id, Open { id, intent, committed });
        }
        // Theirs goes only when ours will be found.
        if let Some(home) = &state.home {
            home.log.disk().sync().map_err(failed)?;
        }
        dead.remove().map_err(failed)
    }

    /// Keeps bytes that could not be sent for `pailfs recover`. When this answers, the disk has them; `staged` must not
    /// change any more. Blocks as long as the disk takes.
    pub fn keep(&self, kept: &Kept, staged: Staged<'_>) -> Result<KeptItem, JournalError> {
        self.put(kept, staged, true).map(|(item, _)| item)
    }

    /// Takes note of bytes that this mount is to send. A file that is linked must not change as long as the item is there.
    /// Killing the process does not lose them; [`KeptItem::sync`] makes them outlive the machine.
    pub fn acknowledge(
        &self,
        mut kept: Kept,
        staged: Staged<'_>,
    ) -> Result<(KeptItem, Linked), JournalError> {
        kept.owner = Some(self.name()?);
        kept.sum = Some(kept::sum_of(staged, &kept.ranges).map_err(|e| self.place.disk_error(e))?);
        self.put(&kept, staged, false)
    }

    fn put(&self, kept: &Kept, staged: Staged<'_>, sync: bool) -> Result<(KeptItem, Linked), JournalError> {
        let scratch = self.scratch()?;
        let items = self.items.get_or_init(|| AtomicUsize::new(self.place.count_kept()));
        let one_more = |items: usize| (items < kept::KEPT_MAX).then_some(items + 1);
        let taken = items.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.map_err(|_| JournalError::KeptFull)?;
        let half = || self.spares().pop().unwrap_or_else(|| self.scratch_name(&scratch));
        let put = kept::put(&self.place.kept(), half, kept, staged, sync);
        put.map_err(|e| {
            self.one_less();
            self.place.disk_error(e)
        })
    }

    /// Whether less than half of the items that may be are left.
    pub fn is_half_full(&self) -> bool {
        self.items.get().is_some_and(|items| items.load(Ordering::Acquire) > kept::KEPT_MAX / 2)
    }

    /// Not below none: what others put is not counted, and may be discarded here.
    fn one_less(&self) {
        let less = |items: usize| items.checked_sub(1);
        if let Some(items) = self.items.get() {
            _ = items.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        }
    }

    /// An item goes: one of this mount's, or one that it took over.
    pub fn discard(&self, item: KeptItem) {
        let name = item.name().to_owned();
        let spare = item.is_alone() && self.spares().len() < kept::KEPT_MAX;
        match if spare { self.recycle(item) } else { item.discard() } {
            Ok(()) => self.one_less(),
            Err(e) => tracing::warn!(name, "what was sent stays in the staging directory: {e}"),
        }
    }

    fn recycle(&self, item: KeptItem) -> io::Result<()> {
        let spare = self.scratch_name(&self.scratch().map_err(io::Error::other)?);
        item.recycle(&spare)?;
        self.spares().push(spare);
        Ok(())
    }

    fn scratch_name(&self, scratch: &Path) -> PathBuf {
        scratch.join(format!("item-{}", self.serial.fetch_add(1, Ordering::Relaxed)))
    }

    fn spares(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.spares.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether the mount that is to send an item lives.
    pub fn is_owned(&self, kept: &Kept) -> Result<bool, JournalError> {
        kept.owner.as_ref().map_or(Ok(false), |owner| self.place.is_alive(owner))
    }

    /// Takes over what dead mounts acknowledged and did not send, the oldest first.
    pub fn adopt_acknowledged(&self) -> Result<Vec<KeptItem>, JournalError> {
        let mut items = self.kept()?;
        items.retain(|item| item.kept.owner.is_some());
        if items.is_empty() {
            return Ok(items);
        }
        let ours = self.name()?;
        let mut adopted = Vec::new();
        for mut item in items {
            if self.is_owned(&item.kept)? {
                continue;
            }
            let failed = |e| self.place.disk_error(e);
            let Some(_claim) = item.claim().map_err(failed)? else { continue };
            item.rewrite(Kept { owner: Some(ours.clone()), ..item.kept.clone() }).map_err(failed)?;
            adopted.push(item);
        }
        Ok(adopted)
    }

    /// The ids of uploads that have bytes of kept files which nobody else has.
    pub fn needed_uploads(&self) -> Result<HashSet<String>, JournalError> {
        let uploads = self.kept()?.into_iter().filter_map(|item| item.kept.upload);
        Ok(uploads.map(|upload| upload.upload_id).collect())
    }

    /// What is kept for `pailfs recover`, the oldest first. Each item is what it was when it was kept; those that
    /// do not read as such are [`Spoilt`].
    pub fn kept(&self) -> Result<Vec<KeptItem>, JournalError> {
        self.kept_and_spoilt().map(|(items, _)| items)
    }

    pub fn kept_and_spoilt(&self) -> Result<(Vec<KeptItem>, Vec<Spoilt>), JournalError> {
        kept::list(&self.place)
    }

    pub fn stats(&self) -> JournalStats {
        let state = self.lock();
        let bytes = state.home.as_ref().map_or(0, |home| home.log.bytes());
        JournalStats { open: state.open.len(), bytes, written: state.written }
    }

    fn write(&self, state: &mut State, record: &Record) -> Result<(), JournalError> {
        self.home(state)?;
        let State { home, open, written, .. } = state;
        let home = home.as_mut().expect("just made");
        home.log.append(record, open).map_err(|e| self.place.disk_error(e))?;
        *written += 1;
        Ok(())
    }

    fn home<'s>(&self, state: &'s mut State) -> Result<&'s Home, JournalError> {
        if state.home.is_none() {
            let owner = self.place.enter()?;
            let log = Log::create(&owner.journal()).map_err(|e| self.place.disk_error(e))?;
            state.home = Some(Home { log, owner });
        }
        Ok(state.home.as_ref().expect("just made"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Journal {
    /// A mount that ends with nothing open leaves nothing behind.
    fn drop(&mut self) {
        let state = self.lock();
        if let Some(home) = state.home.as_ref().filter(|_| state.open.is_empty())
            && let Err(e) = home.owner.remove()
        {
            tracing::warn!("the journal's directory is left behind: {e}");
        }
    }
}

#[cfg(test)]
mod tests;
