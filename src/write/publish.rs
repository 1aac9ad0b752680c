//! Publishing a file: carrying out what `plan` decides.
//!
//! Owns: [`State`], a writer's state under its lock.
//! Invariants: the content's parts and the upload's are the same; a commit that failed has published nothing.
//! Must never know: who asks, and when.

mod local;

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::watch;

use super::content::{Content, Object, Sent};
use super::plan::{self, Follows, Ladder, Place, Stretch};
use super::staging::Acknowledged;
use super::upload::{self, Upload};
use super::{Committed, Published, Writes};
use crate::attr::{Attributes, Kind};
use crate::cache::{Chunks, Permit};
use crate::error::{Error, S3ErrorKind};
use crate::s3::{CopySource, ObjectHeaders, ObjectId, Precondition, Written, tags_of_text};

pub(super) struct State {
    pub key: String,
    pub headers: ObjectHeaders,
    /// The metadata tell when the file was written.
    stamps: bool,
    /// It was written since its times were set.
    stale_times: bool,
    /// What the base carries is still to be asked, to go on with what is written.
    inherits: bool,
    pub guard: Precondition,
    /// O_EXCL.
    exclusive: bool,
    /// The version that is replaced as a whole, where it is known.
    pub over: Option<String>,
    pub content: Content,
    pub upload: Option<Upload>,
    pub changed: bool,
    pub unlinked: bool,
    pub failed: Option<Error>,
    /// What the local disk holds of it to be sent, by this mount or the next.
    acknowledged: Option<Acknowledged>,
    covers: Covers,
    /// It was cut to no length since: what there is now is no whole file until it is closed.
    anew: bool,
    /// It was sent to carry this, and no answer came.
    pub unheard: Option<ObjectHeaders>,
    pub on_its_way: OnItsWay,
}

/// All of the content, while it is sent as one object: the lock is held for as long as S3 takes.
#[derive(Clone, Default)]
pub(super) struct OnItsWay(watch::Sender<Option<Vec<Bytes>>>);

impl OnItsWay {
    /// Answers when it is sent.
    pub async fn whole(&self) -> Option<Vec<Bytes>> {
        let mut sent = self.0.subscribe();
        sent.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn begin(&self, whole: Vec<Bytes>) -> Begun<'_> {
        self.0.send_replace(Some(whole));
        Begun(self)
    }
}

/// It is on its way until this is dropped.
struct Begun<'a>(&'a OnItsWay);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.0.send_replace(None);
    }
}

/// How much of what is to be published the local disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Covers {
    /// An earlier state, or none.
    Not,
    /// The bytes, but not what the object is to carry.
    Bytes,
    All,
    /// All, until a person says what is to become of it.
    Kept,
}

impl State {
    pub fn new(
        key: String,
        headers: ObjectHeaders,
        stamps: bool,
        content: Content,
        (guard, over): (Precondition, Option<String>),
        exclusive: bool,
    ) -> State {
        let inherits = content.base().is_some();
        State {
            key,
            headers,
            stamps,
            stale_times: true,
            inherits,
            guard,
            exclusive,
            over,
            content,
            upload: None,
            changed: !inherits,
            unlinked: false,
            failed: None,
            acknowledged: None,
            covers: Covers::Not,
            anew: false,
            unheard: None,
            on_its_way: OnItsWay::default(),
        }
    }

    pub fn check(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// What fails once, fails for good: the program must hear of it at close.
    pub fn keep_failure<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        result.inspect_err(|e| self.failed = Some(e.clone()))
    }

    /// A file of no length, whatever there was.
    pub async fn begin_anew(&mut self, content: Content) {
        if let Some(upload) = self.upload.take() {
            upload.abort().await;
        }
        if let Some(base) = self.content.base() {
            self.over = Some(base.etag.clone());
            self.guard = Precondition::None; // a whole replacement: the last closer wins
        }
        self.anew = true;
        self.inherits = false;
        self.content = content;
        self.failed = None;
        self.wrote();
    }

    pub fn wrote(&mut self) {
        (self.changed, self.stale_times, self.covers) = (true, true, Covers::Not);
    }

    pub fn push(&mut self, data: &[u8], permit: Option<Permit>) {
        self.content.push(data, permit);
        self.wrote();
    }

    /// How much the part in the tail still takes.
    pub fn room(&mut self, ladder: &Ladder) -> Result<u64, Error> {
        let number = self.content.sent().len() as u64 + 1;
        let part_bytes = ladder.part_bytes(number).ok_or(Error::TooLarge)?;
        Ok(part_bytes.saturating_sub(self.content.tail().len()))
    }

    pub fn can_stream(&self) -> bool {
        !self.unlinked && self.content.can_stream()
    }

    /// A base too small to be a part of its own must come into the tail before more is appended.
    pub async fn load_small_base(&mut self, writes: &Writes) -> Result<(), Error> {
        let Some(base) = self.content.small_base() else { return Ok(()) };
        let wanted = 0..self.content.base_end();
        let mut object =
            writes.uploads.client.get_object(&base.key, Some(wanted.clone()), Some(&base.etag)).await?;
        let mut bytes = Chunks::default();
        while let Some(frame) = object.body.frame().await? {
            let permit = writes.reserve(bytes.bytes_needed(frame.len())).await?;
            bytes.push(&frame, permit);
        }
        if bytes.len() != wanted.end {
            return Err(Error::Stale);
        }
        self.content.base_was_read(bytes);
        Ok(())
    }

    /// An object that goes on keeps its metadata, type and storage class.
    async fn inherit(&mut self, writes: &Writes) -> Result<(), Error> {
        if let Some(base) = self.content.base().filter(|_| self.inherits) {
            let head = writes.uploads.client.head_object(&self.key).await?;
            if head.etag != base.etag {
                return Err(Error::Stale);
            }
            self.headers = writes.uploads.client.carried(&self.key, head).await?;
            self.inherits = false;
        }
        Ok(())
    }

    /// Changes what the object will carry, its times among it.
    pub async fn amend(
        &mut self,
        writes: &Writes,
        change: impl FnOnce(&mut ObjectHeaders),
    ) -> Result<(), Error> {
        self.inherit(writes).await?;
        self.stamp();
        change(&mut self.headers);
        if self.covers == Covers::All {
            self.covers = Covers::Bytes;
        }
        Ok(())
    }

    /// As [`State::amend`], where that was changed in S3 meanwhile.
    pub fn carries(&mut self, change: impl FnOnce(&mut ObjectHeaders)) {
        if !self.inherits {
            change(&mut self.headers);
        }
    }

    /// What the object will carry, but for its times.
    pub async fn pending(&mut self, writes: &Writes) -> Result<ObjectHeaders, Error> {
        self.inherit(writes).await?;
        Ok(self.headers.clone())
    }

    /// As [`State::stamp`], with times that were shown.
    pub async fn stamp_as(&mut self, writes: &Writes, times: &Attributes) -> Result<(), Error> {
        if self.stamps && self.stale_times && self.upload.is_none() {
            self.inherit(writes).await?;
            times.write(Kind::File, &mut self.headers.metadata);
            self.stale_times = false;
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

    async fn begin_upload(&mut self, writes: &Writes) -> Result<(), Error> {
        if self.upload.is_none() {
            self.inherit(writes).await?;
            self.stamp();
            let upload = Upload::create(&writes.uploads, &self.key, &self.headers);
            self.upload = Some(upload.await?);
        }
        Ok(())
    }

    fn upload(&mut self) -> &mut Upload {
        self.upload.as_mut().expect("an upload was begun")
    }

    /// The tail goes as the next part, after all that is before it. `keep`: it may be read, so it stays readable
    /// where that costs no more than disk; the first part, where programs patch their headers, does in any case.
    pub async fn send_tail(&mut self, writes: &Writes, keep: bool) -> Result<(), Error> {
        self.begin_upload(writes).await?;
        let start = self.content.tail_start();
        if self.content.sent().is_empty() && start > 0 {
            self.send(writes, self.content.stretches(0..start), Follows::More).await?;
        }
        let payload = self.tail_payload(writes).await?;
        let kept = writes.keep(payload.clone());
        if kept.is_none()
            && (keep || start == 0)
            && let Err(e) = self.content.stage_tail().await
        {
            tracing::debug!("a part that was sent is not kept: {e}"); // a stream does not end for that
        }
        let number = self.next_number();
        self.upload().send(number, payload).await?;
        self.content.tail_was_sent(kept);
        Ok(())
    }

    fn next_number(&self) -> u32 {
        self.content.sent().len() as u32 + 1
    }

    /// The tail's bytes with what was written over them.
    async fn tail_payload(&mut self, writes: &Writes) -> Result<Vec<Bytes>, Error> {
        if self.content.is_tail_plain() {
            return Ok(self.content.tail().share());
        }
        let start = self.content.tail_start();
        let end = start + self.content.tail().len();
        Ok(vec![self.fill(writes, start..end).await?])
    }

    async fn fill(&mut self, writes: &Writes, range: Range<u64>) -> Result<Bytes, Error> {
        let permit = self.memory(writes, range.end - range.start).await?;
        self.content.fill(writes, range, permit).await
    }

    /// Who waits for memory holds none but what is on its way, lest writers wait for each other.
    async fn memory(&mut self, writes: &Writes, bytes: u64) -> Result<Permit, Error> {
        if let Some(permit) = writes.cache.try_reserve(bytes) {
            return Ok(permit);
        }
        if let Err(e) = self.content.spill().await {
            tracing::debug!("the end of a stream stays in memory: {e}");
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(self.reserve(writes, bytes).await?.expect("a part has bytes"))
    }

    /// As [`Writes::reserve`], unless a part fails meanwhile: what was not sent gives its memory back only when it is kept.
    pub async fn reserve(&mut self, writes: &Writes, bytes: usize) -> Result<Option<Permit>, Error> {
        match &mut self.upload {
            None => writes.reserve(bytes).await,
            Some(upload) => tokio::select! {
                permit = writes.reserve(bytes) => permit,
                e = upload.failed() => Err(e),
            },
        }
    }

    /// Sends and copies what is after the last part.
    async fn send(
        &mut self,
        writes: &Writes,
        stretches: Vec<Stretch<Arc<Object>>>,
        follows: Follows,
    ) -> Result<(), Error> {
        let before = self.content.sent().len() as u64;
        let parts = plan::parts(&stretches, &writes.ladder, before, follows).ok_or(Error::TooLarge)?;
        for Stretch { range, copy } in parts {
            let number = self.next_number();
            let copied = copy.is_some();
            match copy {
                Some(Place { object, offset }) => {
                    let from = offset..offset + range.end - range.start;
                    self.upload().copy(number, source_of(writes, &object), from).await?;
                }
                None => {
                    let bytes = self.fill(writes, range.clone()).await?;
                    self.upload().send(number, vec![bytes]).await?;
                }
            }
            self.content.was_sent(Sent { range, copied });
        }
        Ok(())
    }

    /// Publishes the content, whole, under a guard.
    pub async fn publish(&mut self, writes: &Writes, guard: &Precondition) -> Result<Published, Error> {
        if self.content.is_small()
            && let Err(e) = self.content.spill().await
        {
            tracing::debug!("the end of a file stays in memory: {e}");
        }
        let leaving = writes.staging.leaving(self.content.file());
        let exclusive = self.exclusive;
        let written = self.put_or_complete(writes, guard).await.map_err(|e| match e.s3_kind() {
            Some(S3ErrorKind::PreconditionFailed) if exclusive && *guard == Precondition::Absent => {
                Error::Exists
            }
            _ => e,
        });
        if written.as_ref().is_err_and(Error::is_passing) {
            let sent = self.upload.as_ref().map_or(&self.headers, Upload::headers).clone();
            self.unheard.get_or_insert(sent);
        }
        let (Written { etag, .. }, sent) = written?;
        let published = self.was_published(writes, etag).await;
        drop(leaving);
        Ok(self.with_late(writes, published, sent).await)
    }

    /// What was published with the headers `sent`, if that is an upload or was not heard of, gets what was set since.
    pub async fn with_late(
        &mut self,
        writes: &Writes,
        mut published: Published,
        sent: Option<ObjectHeaders>,
    ) -> Published {
        if let Some(sent) = sent.filter(|sent| *sent != self.headers) {
            published.late = self.bring_late(writes, &mut published.now, &sent).await;
        }
        published
    }

    async fn bring_late(
        &mut self,
        writes: &Writes,
        now: &mut Committed,
        sent: &ObjectHeaders,
    ) -> Result<(), Error> {
        let client = &writes.uploads.client;
        let head = client.head_object(&self.key).await?;
        if head.etag != now.etag {
            return Err(Error::Stale);
        }
        if sent.is_but_for_tags(&self.headers) {
            let tags = self.headers.tagging().and_then(tags_of_text).unwrap_or_default();
            return Ok(client.put_tags(&tags, Some(ObjectId::current(&self.key))).await?);
        }
        now.etag = upload::carry(&writes.uploads, &self.key, &head, &self.headers).await?.etag;
        self.content.base_moved(&self.key, &now.etag);
        self.guard = Precondition::Etag(now.etag.clone());
        Ok(())
    }

    /// Publishes a file in which nothing is as a copy of an object, on the server's side. None where anything is in it.
    pub async fn publish_copy(
        &mut self,
        writes: &Writes,
        source: &CopySource,
        size: u64,
    ) -> Result<Option<Published>, Error> {
        let is_bare = self.content.len() == 0 && self.content.base().is_none() && self.upload.is_none();
        if !is_bare || self.unlinked {
            return Ok(None);
        }
        self.stamp();
        let (client, headers) = (&writes.uploads.client, Some(&self.headers));
        let Written { etag, .. } = client.copy_object(source, &self.key, headers, &self.guard).await?;
        self.content.rest_on(Object { key: self.key.clone(), etag: etag.clone(), size });
        let published = self.was_published(writes, etag).await;
        Ok(Some(Published { from: None, ..published }))
    }

    async fn was_published(&mut self, writes: &Writes, etag: String) -> Published {
        let from = self.content.base().map(|base| base.etag.clone());
        let size = self.content.len();
        self.guard = Precondition::Etag(etag.clone());
        (self.changed, self.unheard) = (false, None);
        let object = Object { key: self.key.clone(), etag: etag.clone(), size };
        self.content.was_published(object, &writes.staging);
        self.forget_acknowledged().await;
        Published { now: Committed { etag, size }, from, headers: self.headers.clone(), late: Ok(()) }
    }

    /// What was written, and of an upload what it carries: that may have changed since it was begun.
    async fn put_or_complete(
        &mut self,
        writes: &Writes,
        guard: &Precondition,
    ) -> Result<(Written, Option<ObjectHeaders>), Error> {
        let whole = 0..self.content.len();
        if self.upload.is_none() {
            if self.content.is_all_tail() {
                let payload = self.content.tail().share();
                return Ok((self.put(writes, payload, guard).await?, None));
            }
            let stretches = self.content.stretches(whole.clone());
            let parts =
                plan::parts(&stretches, &writes.ladder, 0, Follows::Nothing).ok_or(Error::TooLarge)?;
            if let [] | [Stretch { copy: None, .. }] = parts[..] {
                let payload = self.fill(writes, whole).await?;
                return Ok((self.put(writes, vec![payload], guard).await?, None));
            }
        }
        match self.content.changed_parts() {
            Some(changed) => {
                for (number, part) in changed {
                    let bytes = self.fill(writes, part.range.clone()).await?;
                    self.upload().send(number, vec![bytes]).await?;
                    self.content.was_sent_again(&part);
                }
            }
            None => {
                if let Some(upload) = self.upload.take() {
                    upload.abort().await;
                }
                self.content.unsend();
            }
        }
        self.begin_upload(writes).await?;
        self.send_rest(writes, whole.end).await?;
        let parts = self.next_number() - 1;
        let written = self.upload().complete(parts, guard).await?;
        Ok((written, self.upload.take().map(|upload| upload.headers().clone())))
    }

    async fn send_rest(&mut self, writes: &Writes, end: u64) -> Result<(), Error> {
        let start = self.content.sent_end();
        let tail_end = self.content.tail_start() + self.content.tail().len();
        if start == self.content.tail_start()
            && end == tail_end
            && start < end
            && self.content.is_tail_plain()
        {
            let (number, payload) = (self.next_number(), self.content.tail().share());
            self.upload().send(number, payload).await?;
            self.content.was_sent(Sent { range: start..end, copied: false });
            return Ok(());
        }
        self.send(writes, self.content.stretches(start..end), Follows::Nothing).await
    }

    async fn put(
        &mut self,
        writes: &Writes,
        payload: Vec<Bytes>,
        guard: &Precondition,
    ) -> Result<Written, Error> {
        let on_its_way = self.on_its_way.clone();
        let _begun = on_its_way.begin(payload.clone());
        self.inherit(writes).await?;
        self.stamp();
        Ok(writes.uploads.client.put_object(&self.key, payload, &self.headers, guard).await?)
    }
}

fn source_of(writes: &Writes, object: &Object) -> CopySource {
    let bucket = writes.uploads.client.bucket().into();
    let key = object.key.clone();
    CopySource { bucket, key, if_match: Some(object.etag.clone()), ..CopySource::default() }
}
