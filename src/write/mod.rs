//! Writing objects: what a program writes, anywhere in a file, becomes one PUT, or parts that are sent or copied.
//!
//! Owns: [`Writes`] (what all writers share) and [`Writer`] (the one writer of a file, shared by its
//! handles). A writer is in one of these states:
//!
//! ```text
//!           any change                the stream's part is full
//!  Clean ---------------> Changed ------------------------------> Sending
//!    ^                    |    ^                                     |
//!    |       close with   |    | any change                          |
//!    |       --write-back v    |                                     |
//!    |                  Acknowledged                                 |
//!    |  PutObject, or all  |   parts that changed, the rest,         |
//!    |  parts and Complete |   Complete                              |
//!    +---------------------+-----------------------------------------+
//!                        commit
//!  a request that fails:
//!  Acknowledged -> Acknowledged, to be sent again; Kept, where S3 refuses it for good (`pailfs recover`)
//!  else         -> Failed: every later change and commit answers that error, and nothing is published, until the file
//!                  is cut to no length; what there is of it is Kept when it is closed for the last time
//!  its name goes: Unlinked, from any of them: handles read and write on, nothing is published
//! ```
//!
//! `content` says which layer has which byte. A sequential stream stays in memory and is sent as it grows; all else
//! waits in the staging file (docs/decisions/0011-staged-writes.md). `publish` carries out what `plan` decides. Acknowledged
//! means that the local disk has it all; what was acknowledged before a further change stays there until the next state
//! is (`publish::Covers`). When an acknowledged file is sent, and how often that is tried, is `fs::write_back`'s.
//! Invariants: an object appears whole or not at all; every buffered byte has a permit, every staged one is counted;
//! a change that was refused has changed nothing.
//! Must never know: inodes, paths, FUSE.

mod content;
pub mod deletes;
pub mod exchange;
pub mod leftovers;
pub mod markers;
pub mod moves;
mod name;
pub mod plan;
mod publish;
mod quotas;
pub mod recover;
pub mod staging;
pub mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::attr::Attributes;
use crate::cache::{Budget, PartCache, Permit, slice};
use crate::config::PART_BYTES_MIN;
use crate::error::Error;
use crate::s3::{CopySource, ObjectHeaders, Precondition};
use content::Content;
use plan::{Ladder, Place};
use publish::{OnItsWay, State};
use quotas::KeptPart;
use staging::Staging;
use upload::Uploads;

pub use content::{Object, Piece, Seek};
pub use quotas::Quotas;

/// What all writers share.
#[derive(Clone)]
pub struct Writes {
    pub uploads: Uploads,
    pub staging: Arc<Staging>,
    cache: Arc<PartCache>,
    ladder: Ladder,
    /// Of [`Quotas`].
    kept: Budget,
    /// Of [`Quotas`].
    waiting: Budget,
    /// Writers for which [`Writer::is_linked`] holds.
    linked: Arc<AtomicUsize>,
}

impl Writes {
    pub fn new(
        uploads: Uploads,
        cache: Arc<PartCache>,
        staging: Staging,
        quotas: Quotas,
        part_bytes: u64,
    ) -> Writes {
        let ladder = Ladder::new(part_bytes, cache.budget().bytes_max());
        let Quotas { kept, waiting } = quotas;
        Writes { uploads, staging: Arc::new(staging), cache, ladder, kept, waiting, linked: Arc::default() }
    }

    /// For what nobody waits for: its retries take nothing from those of who waits.
    pub fn in_background(&self) -> Writes {
        let uploads = Uploads { client: self.uploads.client.with_own_retries(), ..self.uploads.clone() };
        Writes { uploads, ..self.clone() }
    }

    /// For another bucket: within the same caps.
    pub fn quotas(&self) -> Quotas {
        Quotas { kept: self.kept.clone(), waiting: self.waiting.clone() }
    }

    /// Whether any file has ranges that may be linked from other objects: few ever do.
    pub fn any_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire) > 0
    }

    /// A permit as soon as there is room; none is needed for no bytes.
    async fn reserve(&self, bytes: usize) -> Result<Option<Permit>, Error> {
        match bytes {
            0 => Ok(None),
            _ => self.cache.reserve(bytes as u64).await.map(Some),
        }
    }

    /// As [`Writes::reserve`], at once or not at all.
    fn try_reserve(&self, bytes: usize) -> Option<Option<Permit>> {
        match bytes {
            0 => Some(None),
            _ => self.cache.try_reserve(bytes as u64).map(Some),
        }
    }

    /// Keeps a part that is sent, where there is room for it.
    fn keep(&self, bytes: Vec<Bytes>) -> Option<KeptPart> {
        let quota = self.kept.try_take(bytes.iter().map(|piece| piece.len() as u64).sum())?;
        Some(KeptPart::new(bytes, quota))
    }
}

/// An object as S3 has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub etag: String,
    pub size: u64,
}

/// What a commit did.
#[derive(Debug, Clone)]
pub struct Published {
    pub now: Committed,
    /// The version whose content it goes on from; none where it began anew.
    pub from: Option<String>,
    /// What the object is to carry.
    pub headers: ObjectHeaders,
    /// Whether it does: some of that may have been set when the upload had begun.
    pub late: Result<(), Error>,
}

/// How a file was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    /// There is nothing that S3 does not have, or it has no name any more.
    Nothing,
    /// The local disk has it.
    OnDisk,
    /// Not at all: it is to be published.
    MustPublish,
}

/// How a file begins to be written.
pub enum Start {
    /// New, only where no object is; `exclusive`: O_EXCL, so one that is there is [`Error::Exists`], else [`Error::Stale`].
    New { exclusive: bool },
    /// New, or in place of whatever is there: the last closer wins. Of this version, where it is known.
    Over(Option<String>),
    /// Existing content goes on.
    From(Committed),
}

pub struct Writer {
    writes: Arc<Writes>,
    /// Shared with the content, for those who only ask how long the file is.
    len: Arc<AtomicU64>,
    /// Somebody may read what is being written: parts that are sent stay readable as long as there is room.
    read: AtomicBool,
    /// Ranges of it were linked from other objects.
    linked: AtomicBool,
    /// The state's: read without its lock.
    on_its_way: OnItsWay,
    /// Held across requests: changes, reads and commits of one file take their turns.
    state: Mutex<State>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.is_linked() {
            self.writes.linked.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Writer {
    /// `stamps`: whether its metadata are to tell when the file was written.
    pub fn new(
        writes: Arc<Writes>,
        key: String,
        headers: ObjectHeaders,
        stamps: bool,
        start: Start,
    ) -> Writer {
        let exclusive = matches!(start, Start::New { exclusive: true });
        let (base, guard) = match start {
            Start::New { .. } => (None, (Precondition::Absent, None)),
            Start::Over(over) => (None, (Precondition::None, over)),
            Start::From(Committed { etag, size }) => {
                let guard = Precondition::Etag(etag.clone());
                (Some(Object { key: key.clone(), etag, size }), (guard, None))
            }
        };
        let len = Arc::new(AtomicU64::new(0));
        let content = Content::new(len.clone(), base, writes.staging.clone());
        let state = State::new(key, headers, stamps, content, guard, exclusive);
        Writer {
            writes,
            len,
            on_its_way: state.on_its_way.clone(),
            read: AtomicBool::default(),
            linked: AtomicBool::default(),
            state: Mutex::new(state),
        }
    }

    /// The file's length with all that was written, in bytes.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A handle may read the file.
    pub fn will_be_read(&self) {
        self.read.store(true, Ordering::Relaxed);
    }

    /// [`Writer::write`] where it needs neither a request nor a wait; false where it does.
    pub fn try_write(&self, offset: u64, data: &[u8]) -> Result<bool, Error> {
        let Ok(mut state) = self.state.try_lock() else { return Ok(false) };
        state.check()?;
        if !state.content.continues_at(offset)
            || state.content.small_base().is_some()
            || state.room(&self.writes.ladder)? < data.len() as u64
        {
            return Ok(false);
        }
        let needed = state.content.tail().bytes_needed(data.len());
        let Some(permit) = self.writes.try_reserve(needed) else { return Ok(false) };
        state.push(data, permit);
        Ok(true)
    }

    /// Writes anywhere. What lies between the file's end and `offset` becomes zeros.
    ///
    /// Errors: what an earlier request failed with; [`Error::NoSpace`], [`Error::NoMemory`], [`Error::TooLarge`];
    /// [`Error::NotSupported`] where bytes are needed that were sent and let go.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        self.write_locked(&mut state, offset, data).await
    }

    /// Writes at the file's end, wherever that is by now.
    pub async fn append(&self, data: &[u8]) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        let end = self.len();
        self.write_locked(&mut state, end, data).await
    }

    async fn write_locked(&self, state: &mut State, mut offset: u64, mut data: &[u8]) -> Result<(), Error> {
        state.check()?;
        while !data.is_empty() {
            if !state.content.continues_at(offset) {
                state.content.stage(offset, data).await?;
                state.wrote();
                return Ok(());
            }
            let loaded = state.load_small_base(&self.writes).await;
            state.keep_failure(loaded)?;
            let room = state.room(&self.writes.ladder);
            let room = state.keep_failure(room)?;
            if room == 0 {
                self.make_room(state).await?;
                continue;
            }
            let (now, later) = data.split_at(data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            let needed = state.content.tail().bytes_needed(now.len());
            let permit = match self.writes.try_reserve(needed) {
                Some(permit) => permit,
                // Memory is short: what is large enough to be a part goes now, and its memory with it.
                None if state.content.tail().len() >= PART_BYTES_MIN => {
                    self.make_room(state).await?;
                    continue;
                }
                None => {
                    let permit = state.reserve(&self.writes, needed).await;
                    state.keep_failure(permit)?
                }
            };
            state.push(now, permit);
            offset += now.len() as u64;
            data = later;
        }
        Ok(())
    }

    /// The tail becomes a part; where it cannot, it goes to the staging file.
    async fn make_room(&self, state: &mut State) -> Result<(), Error> {
        if !state.can_stream() {
            return state.content.spill().await;
        }
        let sent = state.send_tail(&self.writes, self.read.load(Ordering::Relaxed)).await;
        state.keep_failure(sent)
    }

    /// Zeros; beyond the end only where `extend` says so.
    pub async fn zero(&self, range: Range<u64>, extend: bool) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        state.check()?;
        let end = if extend { range.end } else { range.end.min(self.len()) };
        if range.start < end {
            state.content.zero(range.start..end).await?;
            state.wrote();
        }
        Ok(())
    }

    /// `range` becomes what an object has from `offset` on, by a copy on the server's side when it is published.
    /// False where it cannot: then the bytes must be read and written.
    pub async fn link(&self, range: Range<u64>, object: Arc<Object>, offset: u64) -> Result<bool, Error> {
        let mut state = self.state.lock().await;
        state.check()?;
        if !state.content.may_link(&range) {
            return Ok(false);
        }
        if !self.linked.swap(true, Ordering::AcqRel) {
            self.writes.linked.fetch_add(1, Ordering::AcqRel);
        }
        state.content.link(range, Place { object, offset })?;
        state.wrote();
        Ok(true)
    }

    /// Publishes the file as a copy of an object of `size` bytes, at once. None where anything is in it already.
    pub async fn publish_copy(&self, source: &CopySource, size: u64) -> Result<Option<Published>, Error> {
        let mut state = self.state.lock().await;
        state.check()?;
        state.publish_copy(&self.writes, source, size).await
    }

    /// Sets the length. To zero: the file begins anew, also after a failure.
    pub async fn truncate(&self, len: u64) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        if len > 0 {
            state.check()?;
            if len != self.len() {
                state.content.truncate(len).await?;
                state.wrote();
            }
            return Ok(());
        }
        if self.is_empty() && state.failed.is_none() {
            return Ok(());
        }
        let content = Content::new(self.len.clone(), None, self.writes.staging.clone());
        self.len.store(0, Ordering::Release);
        state.begin_anew(content).await;
        Ok(())
    }

    /// Whether something is yet to be published.
    pub async fn is_dirty(&self) -> bool {
        let state = self.state.lock().await;
        state.changed && !state.unlinked
    }

    /// Changes what the object will carry, its times among it. False, and nothing is changed, where nothing is to be
    /// published.
    pub async fn amend(&self, change: impl FnOnce(&mut ObjectHeaders)) -> Result<bool, Error> {
        let mut state = self.state.lock().await;
        if !state.changed {
            return Ok(false);
        }
        state.amend(&self.writes, change).await?;
        Ok(true)
    }

    /// The object in S3 carries something else now: so does what is published next. What goes on from it asks that anyway.
    pub async fn carries(&self, change: impl FnOnce(&mut ObjectHeaders)) {
        self.state.lock().await.carries(change);
    }

    /// As its times the metadata tell these, unless they were set, or are on their way already.
    pub async fn stamp(&self, times: &Attributes) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        if !state.changed || state.unlinked {
            return Ok(());
        }
        state.stamp_as(&self.writes, times).await
    }

    /// What the object will carry, but for its times; none where nothing is to be published.
    pub async fn pending(&self) -> Result<Option<ObjectHeaders>, Error> {
        let mut state = self.state.lock().await;
        if !state.changed {
            return Ok(None);
        }
        state.pending(&self.writes).await.map(Some)
    }

    /// Publishes all that was written: when this has answered, S3 has the object, whole. None where nothing was to be
    /// done; and where it is `taken_up`: a handle came that writes on, and publishes when it is closed.
    pub async fn commit_unless(&self, taken_up: impl Fn() -> bool) -> Result<Option<Published>, Error> {
        let mut state = self.state.lock().await;
        if taken_up() {
            return Ok(None);
        }
        state.check()?;
        if !state.changed || state.unlinked {
            return Ok(None);
        }
        self.publish(&mut state, &self.writes).await.map(Some)
    }

    /// A failure leaves what was acknowledged to be tried again; else it is one for good.
    async fn publish(&self, state: &mut State, writes: &Writes) -> Result<Published, Error> {
        if !state.is_acknowledged() {
            let guard = state.guard.clone();
            let published = state.publish(writes, &guard).await;
            return state.keep_failure(published);
        }
        let published = state.publish_acknowledged(writes).await;
        if published.is_err() {
            state.take_back().await;
        }
        published
    }

    /// Instead of publishing: the local disk takes what was written, for this mount to send, or for the next one if this
    /// dies. `sync`: so that a lost machine does not lose it. Not if it is `taken_up`, as in [`Writer::commit_unless`].
    ///
    /// Errors: what an earlier request failed with.
    pub async fn acknowledge(
        &self,
        sync: bool,
        taken_up: impl Fn() -> bool,
    ) -> Result<Acknowledgement, Error> {
        let mut state = self.state.lock().await;
        if taken_up() {
            return Ok(Acknowledgement::Nothing);
        }
        state.check()?;
        if !state.changed || state.unlinked {
            return Ok(Acknowledgement::Nothing);
        }
        let key = state.key.clone();
        let acknowledged = match state.acknowledge(&self.writes).await {
            Ok(true) if sync => state.sync_acknowledged().await.map(|()| true),
            acknowledged => acknowledged,
        };
        match acknowledged {
            Ok(true) => Ok(Acknowledgement::OnDisk),
            Ok(false) => Ok(Acknowledgement::MustPublish),
            Err(e) => {
                tracing::warn!(key, "sent at once, for the local disk does not take it: {e}");
                Ok(Acknowledgement::MustPublish)
            }
        }
    }

    /// Publishes what was acknowledged; a failure leaves it to be tried again. None where nothing is to be done, or the
    /// file is being changed again: its next close says what is to be published. `writes`: [`Writes::in_background`].
    pub async fn publish_acknowledged(&self, writes: &Writes) -> Result<Option<Published>, Error> {
        let mut state = self.state.lock().await;
        if !state.changed || state.unlinked || !state.is_acknowledged() {
            return Ok(None);
        }
        self.publish(&mut state, writes).await.map(Some)
    }

    /// Whether an earlier state was acknowledged and is not in S3, and it was written again since, but not cut to no
    /// length: then it is no whole file before it is closed.
    pub async fn goes_on(&self) -> bool {
        self.state.lock().await.goes_on()
    }

    /// Publishes as it is now what [`Writer::goes_on`]; a failure leaves it to be tried again. None where it does not.
    pub async fn publish_what_goes_on(&self) -> Result<Option<Published>, Error> {
        let mut state = self.state.lock().await;
        if !state.goes_on() {
            return Ok(None);
        }
        if let Err(e) = state.acknowledge(&self.writes).await {
            tracing::warn!(key = state.key, "sent, though the local disk does not take it: {e}");
        }
        self.publish(&mut state, &self.writes).await.map(Some)
    }

    /// What it failed with, where nothing that was written since was published or acknowledged.
    pub async fn unsaved(&self) -> Result<(), Error> {
        let state = self.state.lock().await;
        match state.is_unsaved() {
            true => Err(state.failed.clone().unwrap_or_else(|| Error::Io("it was not closed well".into()))),
            false => Ok(()),
        }
    }

    /// S3 refused it for good: whoever has it open hears of that.
    pub async fn fail(&self, e: &Error) {
        self.state.lock().await.failed = Some(e.clone());
    }

    /// Whether the local disk holds all that was written and is not in S3.
    pub async fn is_acknowledged(&self) -> bool {
        self.state.lock().await.is_acknowledged()
    }

    /// Where the bytes of `range` are, end to end, cut at the file's end.
    ///
    /// Errors: [`Error::NotSupported`] for bytes that were sent and let go, and are not yet published.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<Piece>, Error> {
        tokio::select! {
            biased;
            Some(whole) = self.on_its_way.whole() => {
                Ok(slice(&whole, range).into_iter().map(Piece::Bytes).collect())
            }
            state = self.state.lock() => state.content.read(range).await,
        }
    }

    /// The object at `key` is about to go, or to be replaced: what of the file only that has stays on this host.
    ///
    /// Errors: [`Error::NoSpace`], also for more than 64 MiB; what a GET failed with.
    pub async fn hold(&self, key: &str) -> Result<(), Error> {
        self.state.lock().await.content.hold(&self.writes, key).await
    }

    /// Whether ranges of it may be linked from other objects.
    pub fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    /// Objects that ranges may be linked from have moved: `to` tells where.
    pub async fn objects_moved(&self, to: impl Fn(&Object) -> Option<Object>) {
        self.state.lock().await.content.objects_moved(to);
    }

    /// Keeps what could not be published for `pailfs recover`; answers what it is called there. None where there is
    /// nothing to keep.
    ///
    /// Errors: as [`Content::gather`]; the disk's.
    pub async fn keep(&self, reason: &Error) -> Result<Option<String>, Error> {
        let mut state = self.state.lock().await;
        if state.unlinked || !state.is_unsaved() && !state.is_acknowledged() {
            return Ok(None);
        }
        state.keep(&self.writes, reason.to_string()).await.map(Some)
    }

    /// Gives up what was not published; not while the name is being removed, which may fail.
    pub async fn abandon(&self) {
        let mut state = self.state.lock().await;
        if state.unlinked {
            return;
        }
        state.changed = false;
        if let Some(upload) = state.upload.take() {
            upload.abort().await;
        }
    }
}
