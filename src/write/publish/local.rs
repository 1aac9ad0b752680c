//! What the local disk has of a file that is to be published: acknowledged for this mount or the next one to send, or kept
//! for a person.
//!
//! Owns: when an item is put, rewritten and let go.
//! Invariants: an item tells all that is to be published, or (while [`Covers::Not`]) an earlier state that was
//! acknowledged; it goes only when S3 has that, or the file has no name any more.
//! Must never know: who asks, and when.

use std::ops::Range;
use std::time::SystemTime;

use super::{Covers, State};
use crate::error::Error;
use crate::journal::{Base, Kept, KeptHeaders, KeptPart, KeptUpload, SentPart};
use crate::ranges::RangeSet;
use crate::s3::{ObjectHeaders, Precondition};
use crate::write::staging::{self, Acknowledged};
use crate::write::{Published, Writes, recover};

impl State {
    /// Whether something is to be published that only memory has.
    pub fn is_unsaved(&self) -> bool {
        self.changed && !self.unlinked && !self.is_acknowledged() && self.covers != Covers::Kept
    }

    pub fn item(&self) -> Option<String> {
        self.acknowledged.as_ref().map(|acknowledged| acknowledged.item.name().to_owned())
    }

    /// Whether the local disk holds all bytes that are to be published.
    pub fn is_acknowledged(&self) -> bool {
        self.acknowledged.is_some() && self.covers != Covers::Not
    }

    /// As [`Writer::goes_on`].
    ///
    /// [`Writer::goes_on`]: crate::write::Writer::goes_on
    pub fn goes_on(&self) -> bool {
        let before = self.acknowledged.is_some() && self.covers == Covers::Not;
        before && !self.anew && !self.unlinked && self.failed.is_none()
    }

    /// Puts all that S3 does not have on the local disk, from where the next mount sends it if this one dies. False where
    /// it must be published instead: parts were sent already, or it is made of other objects' bytes.
    pub async fn acknowledge(&mut self, writes: &Writes) -> Result<bool, Error> {
        if self.acknowledged.is_some() && self.covers == Covers::All {
            return Ok(true);
        }
        if self.upload.is_some() || self.content.has_links() {
            return Ok(false);
        }
        if self.stamps {
            self.inherit(writes).await?;
            self.stamp();
        }
        if self.covers == Covers::Bytes
            && let Some(mut acknowledged) = self.acknowledged.take()
        {
            let told = self.told(acknowledged.item.kept.ranges.clone(), String::new());
            let Kept { owner, sum, .. } = acknowledged.item.kept.clone();
            let rewritten = staging::rewrite(&mut acknowledged.item, Kept { owner, sum, ..told }).await;
            self.acknowledged = Some(acknowledged);
            rewritten?;
            self.covers = Covers::All;
            return Ok(true);
        }
        let permit = writes.waiting.try_take(self.content.len());
        let now = match (permit, self.content.all_in_memory(&writes.cache)) {
            (Some(permit), Some(chunks)) => {
                let whole = std::iter::once(0..self.content.len()).collect();
                let kept = self.told(whole, String::new());
                writes.staging.acknowledge(kept, chunks, permit).await?
            }
            _ => {
                let ranges = self.content.gather().await?;
                let kept = self.told(ranges, String::new());
                self.content.file_mut().acknowledge(kept).await?
            }
        };
        self.drop_acknowledged(writes);
        (self.acknowledged, self.covers, self.anew) = (Some(now), Covers::All, false);
        Ok(true)
    }

    /// When this answers the disk has what was acknowledged.
    pub async fn sync_acknowledged(&self) -> Result<(), Error> {
        match &self.acknowledged {
            Some(Acknowledged { item, .. }) => staging::sync(item).await,
            None => Ok(()),
        }
    }

    /// The file is at `key` from now on, where it replaces `over`; what was acknowledged is found there. `moved`: the ETags
    /// of the object that moved along, before and after. One that is not the base was another host's: what is published
    /// is refused then. On an error nothing has changed, unless an object moved.
    pub async fn move_to(
        &mut self,
        key: String,
        over: Option<String>,
        moved: Option<(&str, &str)>,
    ) -> Result<(), Error> {
        if let Some((was, now)) = moved
            && self.content.base().is_some_and(|base| base.etag == was)
        {
            self.content.base_moved(&key, now);
            self.guard = Precondition::Etag(now.into());
        }
        let before = (std::mem::replace(&mut self.key, key), std::mem::replace(&mut self.over, over));
        let rewritten = self.move_acknowledged(moved).await;
        if rewritten.is_err() && moved.is_none() {
            (self.key, self.over) = before;
        }
        rewritten
    }

    async fn move_acknowledged(&mut self, moved: Option<(&str, &str)>) -> Result<(), Error> {
        let Some(mut acknowledged) = self.acknowledged.take() else { return Ok(()) };
        let before = acknowledged.item.kept.clone();
        let at = SystemTime::now();
        let kept = match self.covers {
            Covers::Not => {
                let mut base = before.base.clone();
                if let (Some(base), Some((was, now))) = (&mut base, moved)
                    && base.etag == was
                {
                    base.etag = now.to_owned();
                }
                let (key, over) = (self.key.clone(), self.over.clone());
                Kept { key, at, exclusive: false, base, over, ..before }
            }
            _ => {
                let told = self.told(before.ranges, String::new());
                Kept { exclusive: false, owner: before.owner, sum: before.sum, ..told }
            }
        };
        let rewritten = staging::rewrite(&mut acknowledged.item, kept).await;
        self.acknowledged = Some(acknowledged);
        if rewritten.is_ok() && self.covers == Covers::Bytes {
            self.covers = Covers::All;
        }
        rewritten
    }

    /// It is in S3, or has no name any more.
    pub async fn forget_acknowledged(&mut self) {
        self.covers = Covers::Not;
        if let Some(Acknowledged { item, .. }) = self.acknowledged.take()
            && let Err(e) = self.content.file_mut().disown(item).await
        {
            tracing::debug!("what was staged is let go: {e}");
            self.content.let_staged_go();
        }
    }

    /// What was acknowledged counts no longer.
    pub fn drop_acknowledged(&mut self, writes: &Writes) {
        self.covers = Covers::Not;
        if let Some(Acknowledged { item, .. }) = self.acknowledged.take() {
            writes.staging.discard(item);
        }
    }

    /// An upload that failed is begun anew by the next one.
    pub async fn take_back(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.abort().await;
        }
        self.content.unsend();
    }

    fn told(&self, ranges: Vec<Range<u64>>, reason: String) -> Kept {
        let ObjectHeaders { content_type, storage_class, metadata, headers, .. } = self.headers.clone();
        Kept {
            key: self.key.clone(),
            base: self.content.base().map(|base| Base { etag: base.etag.clone(), size: base.size }),
            over: self.over.clone(),
            exclusive: self.guard == Precondition::Absent,
            size: self.content.len(),
            ranges,
            headers: KeptHeaders { content_type, storage_class, metadata, headers },
            inherits: self.inherits,
            owner: None,
            sum: None,
            upload: None,
            reason,
            at: SystemTime::now(),
        }
    }

    /// Keeps what was not published on the local disk, until a person says what is to become of it.
    ///
    /// Errors: as [`Content::gather`]; the disk's. An earlier state that was acknowledged is kept then.
    pub async fn keep(&mut self, writes: &Writes, reason: String) -> Result<String, Error> {
        if self.covers != Covers::Not
            && let Some(kept) = self.keep_acknowledged(reason.clone()).await
        {
            self.covers = Covers::Kept;
            return kept;
        }
        match self.keep_all(reason.clone()).await {
            Ok(name) => {
                self.drop_acknowledged(writes);
                self.covers = Covers::Kept;
                Ok(name)
            }
            Err(e) => {
                if let Some(Ok(name)) = self.keep_acknowledged(reason).await {
                    tracing::error!(key = self.key, "an earlier state of it is kept as {name}");
                }
                Err(e)
            }
        }
    }

    async fn keep_all(&mut self, reason: String) -> Result<String, Error> {
        self.content.file_mut().use_reserve();
        let upload = self.needed_upload().await?;
        let ranges = match &upload {
            Some(upload) => {
                let mut there = RangeSet::default();
                let sent = upload.parts.iter().filter(|part| part.sent.is_some());
                sent.for_each(|part| there.insert(part.range.clone()));
                self.content.gather_beside(&there).await?
            }
            None => self.content.gather().await?,
        };
        let needed = upload.is_some();
        let kept = Kept { upload, ..self.told(ranges, reason) };
        let item = self.content.file_mut().keep(kept).await?;
        if let Some(upload) = self.upload.take_if(|_| needed) {
            upload.leave();
        }
        Ok(item.name().to_owned())
    }

    /// The upload, where only its parts have some of the bytes.
    async fn needed_upload(&mut self) -> Result<Option<KeptUpload>, Error> {
        let Some(upload) = self.upload.as_mut().filter(|_| self.content.any_is_lost()) else {
            return Ok(None);
        };
        for (number, payload) in upload.settle().await {
            self.content.was_not_sent(number, &payload).await?;
        }
        if !self.content.any_is_lost() {
            return Ok(None);
        }
        let sent = |number, as_sent| {
            let part = upload.sent(number).filter(|_| as_sent)?;
            let checksum = part.checksum.as_ref().map(|sum| (sum.algorithm, sum.value.clone()));
            Some(SentPart { etag: part.etag.clone(), checksum })
        };
        let parts = (1..).zip(self.content.parts());
        let parts = parts.map(|(number, (range, as_sent))| KeptPart { range, sent: sent(number, as_sent) });
        let outdated = *upload.headers() != self.headers;
        Ok(Some(KeptUpload { upload_id: upload.id().to_owned(), outdated, parts: parts.collect() }))
    }

    /// What was acknowledged waits for a person from now on; none if nothing was.
    async fn keep_acknowledged(&mut self, reason: String) -> Option<Result<String, Error>> {
        let Acknowledged { mut item, .. } = self.acknowledged.take()?;
        let kept = Kept { owner: None, reason, ..item.kept.clone() };
        let kept = async {
            staging::rewrite(&mut item, kept).await?;
            staging::sync(&item).await?;
            Ok(item.name().to_owned())
        };
        Some(kept.await)
    }

    /// Publishes what was acknowledged. What is in place of whatever there was is older than what came to be there since:
    /// that stays, and this is [`Error::Stale`].
    pub async fn publish_acknowledged(&mut self, writes: &Writes) -> Result<Published, Error> {
        let replaces = self.guard == Precondition::None;
        let guard = match &self.over {
            _ if !replaces => self.guard.clone(),
            Some(etag) => Precondition::Etag(etag.clone()),
            None => Precondition::Absent,
        };
        let published = self.publish(writes, &guard).await;
        let Err(e) = published else { return published };
        let Some(item) = self.acknowledged.as_ref().map(|acknowledged| acknowledged.item.clone()) else {
            return Err(e);
        };
        if !e.is_other_version() {
            return Err(e);
        }
        // An earlier try may have succeeded unheard.
        if let Some(sent) = self.unheard.clone()
            && let Some(there) = recover::there(&writes.uploads.client, &item).await?
        {
            self.take_back().await;
            let published = self.was_published(writes, there.etag).await;
            return Ok(self.with_late(writes, published, Some(sent)).await);
        }
        if !replaces {
            return Err(e);
        }
        self.take_back().await;
        let guard = recover::guard(&writes.uploads, &item.kept).await?;
        self.publish(writes, &guard).await
    }
}
