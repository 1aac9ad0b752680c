//! Writing objects: what a program writes becomes one PUT, or parts sent while it still writes.
//!
//! Owns: [`Writes`] (what all writers share) and [`Writer`] (the one writer of a file, shared by its
//! handles). A writer is in one of these states:
//!
//! ```text
//!            write             a part is full            write
//!  Clean ----------> Buffered ----------------> Sending -------+
//!    ^                  |                          |  ^        |
//!    |    PutObject     |    last part, Complete   |  +--------+
//!    +------------------+--------------------------+
//!            commit                commit
//!  any failure -> Failed: every later write and commit answers that error; nothing is published
//!  (a write elsewhere than at the end is refused and changes nothing)
//! ```
//!
//! Content is `base` (what S3 has, pinned by its ETag), then what was sent as parts, then the buffer.
//! Writes must continue where the file ends. To go on after a commit, or to append, a base of 5 MiB or
//! more is copied on the server's side as the first parts; a smaller one is read into the buffer.
//! Invariants: an object appears whole or not at all; every buffered byte has a permit.
//! Must never know: inodes, paths, FUSE.

pub mod deletes;
pub mod leftovers;
pub mod markers;
pub mod plan;
pub mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::attr::{Attributes, Kind};
use crate::cache::{Chunks, PartCache, Permit};
use crate::config::PART_BYTES_MIN;
use crate::error::{Error, S3ErrorKind};
use crate::journal::Journal;
use crate::s3::{CopySource, ObjectHeaders, Precondition, S3Client, Written};
use plan::Ladder;
use upload::{Upload, Uploads};

/// What all writers share.
pub struct Writes {
    pub client: S3Client,
    pub uploads: Uploads,
    cache: Arc<PartCache>,
    ladder: Ladder,
}

impl Writes {
    pub fn new(
        client: S3Client,
        cache: Arc<PartCache>,
        journal: Arc<Journal>,
        runtime: Handle,
        part_bytes: u64,
    ) -> Writes {
        let ladder = Ladder::new(part_bytes, cache.budget().bytes_max());
        Writes { uploads: Uploads { client: client.clone(), runtime, journal }, client, cache, ladder }
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
    /// It carries less: some of it was set when the upload had begun.
    pub late: bool,
}

/// How a file begins to be written.
pub enum Start {
    /// New; exclusive: only where no object is.
    New { exclusive: bool },
    /// Existing content goes on.
    From(Committed),
}

/// Where bytes that are asked of a file being written are.
pub enum Source {
    Buffer(Vec<u8>),
    /// In S3, under this ETag.
    Object(Committed),
}

pub struct Writer {
    writes: Arc<Writes>,
    len: AtomicU64,
    /// Held across requests: writes and commits of one file take their turns.
    state: Mutex<State>,
}

struct State {
    key: String,
    headers: ObjectHeaders,
    /// The metadata tell when the file was written.
    stamps: bool,
    /// It was written since its times were set.
    stale_times: bool,
    /// The headers were changed when the upload had begun.
    late: bool,
    base: Option<Committed>,
    /// What the base carries is still to be asked, to go on with what is written.
    inherits: bool,
    guard: Precondition,
    /// Content from `buffer_start` to the file's end.
    buffer: Chunks,
    buffer_start: u64,
    upload: Option<Upload>,
    dirty: bool,
    unlinked: bool,
    failed: Option<Error>,
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
        let (base, guard) = match start {
            Start::New { exclusive: true } => (None, Precondition::Absent),
            Start::New { exclusive: false } => (None, Precondition::None),
            Start::From(base) => (Some(base.clone()), Precondition::Etag(base.etag)),
        };
        let len = base.as_ref().map_or(0, |base| base.size);
        let state = State {
            key,
            headers,
            stamps,
            stale_times: true,
            late: false,
            dirty: base.is_none(),
            inherits: base.is_some(),
            base,
            guard,
            buffer: Chunks::default(),
            buffer_start: len,
            upload: None,
            unlinked: false,
            failed: None,
        };
        Writer { writes, len: AtomicU64::new(len), state: Mutex::new(state) }
    }

    /// The file's length with all that was written, in bytes.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// [`Writer::write`] where it needs neither a request nor a wait; false where it does.
    pub fn try_write(&self, offset: u64, data: &[u8]) -> Result<bool, Error> {
        let Ok(mut state) = self.state.try_lock() else { return Ok(false) };
        state.check(offset, self.len())?;
        if state.must_load_base() || state.room(&self.writes.ladder)? < data.len() as u64 {
            return Ok(false);
        }
        let needed = state.buffer.bytes_needed(data.len());
        let Some(permit) = self.writes.try_reserve(needed) else { return Ok(false) };
        self.push(&mut state, data, permit);
        Ok(true)
    }

    /// Writes at the file's end.
    ///
    /// Errors: [`Error::NotSupported`] anywhere else; what an earlier part failed with;
    /// [`Error::NoMemory`]; [`Error::TooLarge`].
    pub async fn write(&self, offset: u64, mut data: &[u8]) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        state.check(offset, self.len())?;
        if state.must_load_base() {
            let loaded = state.load_base(&self.writes).await;
            state.keep_failure(loaded)?;
        }
        while !data.is_empty() {
            let room = state.room(&self.writes.ladder);
            let room = state.keep_failure(room)?;
            if room == 0 {
                let sent = state.send_part(&self.writes).await;
                state.keep_failure(sent)?;
                continue;
            }
            let (now, later) = data.split_at(data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            let needed = state.buffer.bytes_needed(now.len());
            let permit = match self.writes.try_reserve(needed) {
                Some(permit) => permit,
                // Memory is short: what is large enough to be a part goes now, and its memory with it.
                None if state.buffer.len() >= PART_BYTES_MIN && !state.unlinked => {
                    let sent = state.send_part(&self.writes).await;
                    state.keep_failure(sent)?;
                    continue;
                }
                None => {
                    let permit = self.writes.reserve(needed).await;
                    state.keep_failure(permit)?
                }
            };
            self.push(&mut state, now, permit);
            data = later;
        }
        Ok(())
    }

    fn push(&self, state: &mut State, data: &[u8], permit: Option<Permit>) {
        state.buffer.push(data, permit);
        (state.dirty, state.stale_times) = (true, true);
        self.len.fetch_add(data.len() as u64, Ordering::AcqRel);
    }

    /// Sets the length to zero: the file begins anew, also after a failure.
    pub async fn truncate(&self) {
        let mut state = self.state.lock().await;
        if self.is_empty() && state.failed.is_none() {
            return;
        }
        if let Some(upload) = state.upload.take() {
            upload.abort().await;
        }
        let replaced = state.base.take();
        state.inherits = false;
        if replaced.is_some() {
            state.guard = Precondition::None; // a whole replacement: the last closer wins
        }
        state.buffer = Chunks::default();
        state.buffer_start = 0;
        (state.dirty, state.stale_times, state.late) = (true, true, false);
        state.failed = None;
        self.len.store(0, Ordering::Release);
    }

    /// Whether something is yet to be published.
    pub async fn is_dirty(&self) -> bool {
        let state = self.state.lock().await;
        state.dirty && !state.unlinked
    }

    /// Changes what the object will carry, its times among it. False, and nothing is changed, where nothing is to be
    /// published.
    pub async fn amend(&self, change: impl FnOnce(&mut ObjectHeaders)) -> Result<bool, Error> {
        let mut state = self.state.lock().await;
        if !state.dirty {
            return Ok(false);
        }
        state.inherit(&self.writes).await?;
        state.stamp();
        change(&mut state.headers);
        state.late |= state.upload.is_some();
        Ok(true)
    }

    /// Publishes all that was written: when this has answered, S3 has the object, whole.
    /// None where nothing was to be done.
    pub async fn commit(&self) -> Result<Option<Published>, Error> {
        let mut state = self.state.lock().await;
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if !state.dirty || state.unlinked {
            return Ok(None);
        }
        let from = state.base.as_ref().map(|base| base.etag.clone());
        let committed = state.publish(&self.writes, self.len()).await;
        let now = state.keep_failure(committed)?;
        let late = std::mem::take(&mut state.late);
        Ok(Some(Published { now, from, headers: state.headers.clone(), late }))
    }

    /// Where the bytes at `offset` are: in S3 as far as the base goes, else in the buffer.
    pub async fn source(&self, offset: u64, len: usize) -> Result<Source, Error> {
        let state = self.state.lock().await;
        if offset >= state.buffer_start || len == 0 {
            let from = offset.saturating_sub(state.buffer_start);
            return Ok(Source::Buffer(state.buffer.read(from, len)));
        }
        match &state.base {
            Some(base) if offset < base.size => Ok(Source::Object(base.clone())),
            _ => Err(Error::NotSupported("reading a large file before it is closed")),
        }
    }

    /// The file's name is gone: nothing will be published, what is written from now on stays in memory.
    /// Answers whether S3 has the object.
    pub async fn unlink(&self) -> bool {
        let mut state = self.state.lock().await;
        state.unlinked = true;
        if let Some(upload) = state.upload.take() {
            upload.abort().await;
        }
        state.base.is_some()
    }

    /// The object has moved to `key`, where its ETag is another: what is written from now on goes there.
    pub async fn renamed(&self, key: String, etag: &str) {
        let mut state = self.state.lock().await;
        state.key = key;
        if let Some(base) = &mut state.base {
            base.etag = etag.into();
            state.guard = Precondition::Etag(etag.into());
        }
        // Parts that were sent meanwhile are the old key's and cannot follow.
        if let Some(upload) = state.upload.take() {
            state.failed = Some(Error::Stale);
            upload.abort().await;
        }
    }

    /// Gives up what was not published.
    pub async fn abandon(&self) {
        let mut state = self.state.lock().await;
        state.dirty = false;
        state.buffer = Chunks::default();
        if let Some(upload) = state.upload.take() {
            upload.abort().await;
        }
    }
}

impl State {
    fn check(&self, offset: u64, len: u64) -> Result<(), Error> {
        match &self.failed {
            Some(failed) => Err(failed.clone()),
            None if offset != len => Err(Error::NotSupported("writing elsewhere than at the file's end")),
            None => Ok(()),
        }
    }

    /// What fails once, fails for good: the program must hear of it at close.
    fn keep_failure<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        result.inspect_err(|e| self.failed = Some(e.clone()))
    }

    /// A base too small to be a part of its own must come into the buffer before more is written.
    fn must_load_base(&self) -> bool {
        self.upload.is_none() && self.buffer_start > 0 && self.buffer_start < PART_BYTES_MIN
    }

    async fn load_base(&mut self, writes: &Writes) -> Result<(), Error> {
        let Some(base) = self.base.clone() else { return Ok(()) };
        let mut object = writes.client.get_object(&self.key, None, Some(&base.etag)).await?;
        let mut buffer = Chunks::default();
        while let Some(frame) = object.body.frame().await? {
            let permit = writes.reserve(buffer.bytes_needed(frame.len())).await?;
            buffer.push(&frame, permit);
        }
        if buffer.len() != base.size {
            return Err(Error::Stale);
        }
        self.buffer = buffer;
        self.buffer_start = 0;
        Ok(())
    }

    /// How much the part in the buffer still takes.
    fn room(&self, ladder: &Ladder) -> Result<u64, Error> {
        if self.unlinked {
            return Ok(u64::MAX);
        }
        let number = self.upload.as_ref().map_or(1, Upload::next_number);
        let part_bytes = ladder.part_bytes(number).ok_or(Error::TooLarge)?;
        Ok(part_bytes.saturating_sub(self.buffer.len()))
    }

    /// An object that is appended to keeps its metadata, type and storage class.
    async fn inherit(&mut self, writes: &Writes) -> Result<(), Error> {
        if let Some(base) = self.base.as_ref().filter(|_| self.inherits) {
            let head = writes.client.head_object(&self.key).await?;
            if head.etag != base.etag {
                return Err(Error::Stale);
            }
            self.headers = ObjectHeaders::from(head);
            self.inherits = false;
        }
        Ok(())
    }

    /// The metadata tell that the file was written now, if it was written since they were set.
    fn stamp(&mut self) {
        if self.stamps && std::mem::take(&mut self.stale_times) {
            let now = Some(SystemTime::now());
            let times = Attributes { mtime: now, ctime: now, ..Attributes::default() };
            times.write(Kind::File, &mut self.headers.metadata);
        }
    }

    async fn send_part(&mut self, writes: &Writes) -> Result<(), Error> {
        if self.upload.is_none() {
            self.inherit(writes).await?;
            self.stamp();
            let mut upload = Upload::create(&writes.uploads, &self.key, &self.headers).await?;
            let copied = match &self.base {
                Some(base) if self.buffer_start > 0 => {
                    upload.copy(&self.source_of(writes, base), base.size).await
                }
                _ => Ok(()),
            };
            self.upload = Some(upload);
            copied?;
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let bytes = self.buffer.len();
        if bytes > 0 {
            upload.send(std::mem::take(&mut self.buffer).share()).await?;
            self.buffer_start += bytes;
        }
        Ok(())
    }

    fn source_of(&self, writes: &Writes, base: &Committed) -> CopySource {
        let bucket = writes.client.bucket().into();
        CopySource {
            bucket,
            key: self.key.clone(),
            if_match: Some(base.etag.clone()),
            ..CopySource::default()
        }
    }

    async fn publish(&mut self, writes: &Writes, size: u64) -> Result<Committed, Error> {
        let whole_in_buffer = self.upload.is_none() && self.buffer_start == 0;
        if whole_in_buffer {
            self.inherit(writes).await?;
            self.stamp();
        }
        let written = if whole_in_buffer {
            let client = &writes.client;
            client
                .put_object(&self.key, self.buffer.share(), &self.headers, &self.guard)
                .await
                .map_err(Error::from)
        } else {
            self.complete(writes).await
        };
        let exclusive = self.guard == Precondition::Absent;
        let Written { etag, .. } = written.map_err(|e| match e.s3_kind() {
            Some(S3ErrorKind::PreconditionFailed) if exclusive => Error::Exists,
            _ => e,
        })?;
        let committed = Committed { etag, size };
        self.base = Some(committed.clone());
        self.guard = Precondition::Etag(committed.etag.clone());
        self.dirty = false;
        Ok(committed)
    }

    async fn complete(&mut self, writes: &Writes) -> Result<Written, Error> {
        self.send_part(writes).await?;
        let Some(upload) = &mut self.upload else { return Err(Error::Invalid("nothing to complete")) };
        let written = upload.complete(&self.guard).await?;
        self.upload = None;
        Ok(written)
    }
}
