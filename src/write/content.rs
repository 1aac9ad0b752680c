//! The content of a file being written: which layer has which byte.
//!
//! Owns: [`Content`]. Its layers, the upper hiding the lower:
//!
//! ```text
//!  staged   written out of order, holes included: in the staging file, each byte at its own offset
//!  linked   copied from other objects by their names alone (copy_file_range)
//!  tail     a sequential stream's end, in memory until it is a part
//!  kept     parts of the stream that were sent, as far as memory had room for them
//!  base     the object that the file goes on from, pinned by its ETag
//! ```
//!
//! What lies below `tail_start` and in no layer was sent and let go: it is *lost*, may be published, but neither
//! read nor changed. `dirty` tells what of `staged` neither the base nor a part that was sent has.
//! Invariants: each byte below the length is in a layer, or lost; linked ranges lie over neither tail nor sent
//! parts; nothing is changed that would need a lost byte.
//! Must never know: what an upload is, when it is published.

mod gather;
mod holes;
mod pieces;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::KeptPart;
use super::plan::{Place, Stretch};
use super::staging::{StagedFile, Staging};
use crate::cache::{Chunks, PartCache, Permit};
use crate::config::PART_BYTES_MIN;
use crate::error::Error;
use crate::ranges::RangeSet;

pub use holes::Seek;
pub use pieces::Piece;

/// Ranges a file's staged bytes may be in, so that one file does not take all memory for telling where they are.
const RANGES_MAX: usize = 1 << 18;
/// A file up to this size stays staged once it is published, in bytes: the next change needs no GET.
const CLEAN_BYTES_MAX: u64 = 64 << 20;

/// What is acknowledged may stay in memory up to this size, in bytes.
const ACKNOWLEDGED_BYTES_MAX: u64 = 1 << 20;

/// One version of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    pub etag: String,
    /// In bytes.
    pub size: u64,
}

/// A part of an upload.
#[derive(Debug, Clone)]
pub struct Sent {
    pub range: Range<u64>,
    /// By the server, from an object.
    pub copied: bool,
}

#[derive(Debug, Clone)]
enum Layer {
    Staged,
    Object(Place<Arc<Object>>),
    Tail,
    Kept(u64),
    Lost,
}

pub struct Content {
    len: Arc<AtomicU64>,
    file: StagedFile,
    staged: RangeSet,
    dirty: RangeSet,
    /// By their start: end, and where in which object.
    linked: BTreeMap<u64, (u64, Place<Arc<Object>>)>,
    tail_start: u64,
    tail: Chunks,
    kept: BTreeMap<u64, KeptPart>,
    base: Option<Arc<Object>>,
    /// How far the base still shows.
    base_end: u64,
    /// The parts of the upload, end to end from 0; the first has number 1.
    sent: Vec<Sent>,
    /// Whether bytes of any of them may be lost.
    any_lost: bool,
}

impl Content {
    pub fn new(len: Arc<AtomicU64>, base: Option<Object>, staging: Arc<Staging>) -> Content {
        let mut content = Content {
            len,
            file: StagedFile::new(staging),
            staged: RangeSet::default(),
            dirty: RangeSet::default(),
            linked: BTreeMap::new(),
            tail_start: 0,
            tail: Chunks::default(),
            kept: BTreeMap::new(),
            base: None,
            base_end: 0,
            sent: Vec::new(),
            any_lost: false,
        };
        if let Some(base) = base {
            content.rest_on(base);
        }
        content
    }

    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn set_len(&self, len: u64) {
        self.len.store(len, Ordering::Release);
    }

    pub fn base(&self) -> Option<&Arc<Object>> {
        self.base.as_ref()
    }

    pub fn tail(&mut self) -> &mut Chunks {
        &mut self.tail
    }

    pub fn tail_start(&self) -> u64 {
        self.tail_start
    }

    fn tail_end(&self) -> u64 {
        self.tail_start + self.tail.len()
    }

    pub fn file(&self) -> &StagedFile {
        &self.file
    }

    pub fn file_mut(&mut self) -> &mut StagedFile {
        &mut self.file
    }

    /// Whether a write at `offset` continues the stream.
    pub fn continues_at(&self, offset: u64) -> bool {
        offset == self.len() && offset == self.tail_end()
    }

    /// Appends to the stream. `permit`: as [`Chunks::push`] wants it.
    pub fn push(&mut self, data: &[u8], permit: Option<Permit>) {
        self.tail.push(data, permit);
        self.set_len(self.tail_end());
    }

    /// Whether all of it is in the tail.
    pub fn is_all_tail(&self) -> bool {
        self.tail_start == 0 && self.tail_end() == self.len() && self.has_no_overlay()
    }

    fn has_no_overlay(&self) -> bool {
        self.staged.is_empty() && self.linked.is_empty()
    }

    /// Whether nothing was written over the tail.
    pub fn is_tail_plain(&self) -> bool {
        let tail = self.tail_start..self.tail_end();
        !self.staged.overlaps(tail.clone()) && !self.is_linked(tail)
    }

    /// A base too small to be a part: all that is before the tail, which must be read to write on. Not where links lie
    /// over it, which none may over the tail.
    pub fn small_base(&self) -> Option<Arc<Object>> {
        let all = self.base_end == self.tail_start && !self.is_linked(0..self.tail_start);
        self.base.clone().filter(|_| all && self.tail.is_empty() && self.is_small_before_tail())
    }

    /// Whether all before the tail is too small to be a part.
    fn is_small_before_tail(&self) -> bool {
        self.sent.is_empty() && (1..PART_BYTES_MIN).contains(&self.tail_start)
    }

    /// What is before the tail was read into it.
    pub fn base_was_read(&mut self, bytes: Chunks) {
        self.tail = bytes;
        self.tail_start = 0;
    }

    pub fn base_end(&self) -> u64 {
        self.base_end
    }

    fn layer_at(&self, at: u64, end: u64) -> (u64, Layer) {
        let mut limit = end;
        if let Some(staged) = self.staged.covered(at..end).next() {
            if staged.start == at {
                return (staged.end, Layer::Staged);
            }
            limit = staged.start;
        }
        if let Some((start, (to, place))) = self.linked.range(..=at).next_back()
            && *to > at
        {
            let place = Place { object: place.object.clone(), offset: place.offset + (at - start) };
            return (limit.min(*to), Layer::Object(place));
        }
        if let Some((start, _)) = self.linked.range(at..limit).next() {
            limit = *start;
        }
        if at >= self.tail_start && at < self.tail_end() {
            return (limit.min(self.tail_end()), Layer::Tail);
        }
        if at < self.tail_start {
            limit = limit.min(self.tail_start);
        }
        if let Some((start, part)) = self.kept.range(..=at).next_back()
            && start + part.len() > at
        {
            return (limit.min(start + part.len()), Layer::Kept(*start));
        }
        if let Some((start, _)) = self.kept.range(at..limit).next() {
            limit = *start;
        }
        match &self.base {
            Some(base) if at < self.base_end => {
                (limit.min(self.base_end), Layer::Object(Place { object: base.clone(), offset: at }))
            }
            _ => (limit, Layer::Lost),
        }
    }

    fn layers(&self, range: Range<u64>) -> Vec<(Range<u64>, Layer)> {
        let mut layers = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (end, layer) = self.layer_at(at, range.end);
            layers.push((at..end, layer));
            at = end;
        }
        layers
    }

    /// Writes over what is there, or beyond it.
    ///
    /// Errors: [`Error::NoSpace`]; [`Error::NotSupported`] where a lost byte would be needed. Nothing has changed then.
    pub async fn stage(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let range = offset..offset.checked_add(data.len() as u64).ok_or(Error::TooLarge)?;
        self.check_change(&range)?;
        self.file.write(offset, vec![Bytes::copy_from_slice(data)]).await?;
        self.cover(range);
        Ok(())
    }

    /// Zeros, which take no room.
    pub async fn zero(&mut self, range: Range<u64>) -> Result<(), Error> {
        self.check_change(&range)?;
        self.file.punch(range.clone()).await?;
        self.cover(range);
        Ok(())
    }

    /// `range` of the file is what the object has at `place`.
    pub fn link(&mut self, range: Range<u64>, place: Place<Arc<Object>>) -> Result<(), Error> {
        self.check_change(&range)?;
        self.cover(range.clone());
        self.staged.remove(range.clone());
        self.dirty.remove(range.clone());
        self.linked.insert(range.start, (range.end, place));
        Ok(())
    }

    /// Whether a link may lie there: beside the tail and what was sent.
    pub fn may_link(&self, range: &Range<u64>) -> bool {
        self.sent.is_empty() && (self.tail.is_empty() || range.start >= self.tail_end())
    }

    /// The staging file has this range now.
    fn cover(&mut self, range: Range<u64>) {
        let len = self.len();
        let from = range.start.min(len); // what lies between the file's end and the range is a hole
        self.unlink(range.clone());
        self.staged.insert(from..range.end);
        self.dirty.insert(from..range.end);
        self.set_len(len.max(range.end));
    }

    fn is_linked(&self, range: Range<u64>) -> bool {
        self.linked.range(..range.end).next_back().is_some_and(|(_, (end, _))| *end > range.start)
    }

    /// Cuts `range` out of the links.
    fn unlink(&mut self, range: Range<u64>) {
        while let Some((start, (end, _))) = self.linked.range(..range.end).next_back() {
            let (start, end) = (*start, *end);
            if end <= range.start {
                break;
            }
            let Some((_, place)) = self.linked.remove(&start) else { break };
            if end > range.end {
                let offset = place.offset + (range.end - start);
                let after = Place { object: place.object.clone(), offset };
                self.linked.insert(range.end, (end, after));
            }
            if start < range.start {
                self.linked.insert(start, (range.start, place));
            }
        }
    }

    /// What is changed within a part that was sent makes the part be sent again, for which all its bytes are
    /// needed; a part that was copied makes all be planned anew.
    fn check_change(&self, range: &Range<u64>) -> Result<(), Error> {
        if self.staged.len() + self.linked.len() >= RANGES_MAX {
            return Err(Error::NoSpace("the file is written in too many places"));
        }
        let needs = |part: &Sent| {
            part.copied
                || self.is_lost(part.range.start..range.start.min(part.range.end))
                || self.is_lost(range.end.max(part.range.start)..part.range.end)
        };
        if self.any_lost && self.sent_within(range).iter().any(needs) {
            return Err(Error::NotSupported("changing what was sent and is not yet published"));
        }
        Ok(())
    }

    fn is_lost(&self, range: Range<u64>) -> bool {
        self.layers(range).iter().any(|(_, layer)| matches!(layer, Layer::Lost))
    }

    fn sent_within(&self, range: &Range<u64>) -> &[Sent] {
        let first = self.sent.partition_point(|part| part.range.end <= range.start);
        let after = self.sent.partition_point(|part| part.range.start < range.end);
        self.sent.get(first..after).unwrap_or_default()
    }

    /// Cuts the file, or makes it longer by zeros.
    ///
    /// Errors: as [`Content::stage`].
    pub async fn truncate(&mut self, len: u64) -> Result<(), Error> {
        let old = self.len();
        if len >= old {
            return self.zero(old..len).await;
        }
        let kept_parts = self.sent.partition_point(|part| part.range.end <= len);
        if let Some(cut) = self.sent.get(kept_parts).filter(|part| part.range.start < len)
            && (self.is_lost(cut.range.start..len) || cut.copied && self.any_lost)
        {
            return Err(Error::NotSupported("cutting what was sent and is not yet published"));
        }
        self.file.punch(len..old).await?;
        self.unsend_from(kept_parts);
        self.staged.remove(len..old);
        self.dirty.remove(len..old);
        self.unlink(len..old);
        self.kept.split_off(&len);
        if let Some(mut last) = self.kept.last_entry() {
            let start = *last.key();
            last.get_mut().cut(len - start);
        }
        self.base_end = self.base_end.min(len);
        if len > self.tail_start {
            self.tail.truncate(len - self.tail_start);
        } else {
            self.tail = Chunks::default();
            self.tail_start = len;
        }
        self.set_len(len);
        Ok(())
    }

    /// The parts from `index` on are not of the upload any more: what they hold is to be sent anew.
    fn unsend_from(&mut self, index: usize) {
        for part in self.sent.split_off(index.min(self.sent.len())) {
            if !part.copied {
                let staged: Vec<_> = self.staged.covered(part.range).collect();
                staged.into_iter().for_each(|range| self.dirty.insert(range));
            }
        }
    }

    /// The tail goes to the staging file, and its memory with it.
    pub async fn spill(&mut self) -> Result<(), Error> {
        let tail = self.tail_start..self.tail_end();
        for hidden in self.staged.gaps(tail) {
            let len = usize::try_from(hidden.end - hidden.start).unwrap_or(usize::MAX);
            let bytes = self.tail.read(hidden.start - self.tail_start, len);
            self.file.write(hidden.start, vec![bytes.into()]).await?;
            self.staged.insert(hidden.clone());
            self.dirty.insert(hidden);
        }
        self.tail = Chunks::default();
        Ok(())
    }

    /// Whether the tail's bytes can become the next part of the upload.
    pub fn can_stream(&self) -> bool {
        let follows = self.sent.is_empty() || self.sent_end() == self.tail_start;
        self.linked.is_empty() && follows && !self.is_small_before_tail()
    }

    pub fn sent(&self) -> &[Sent] {
        &self.sent
    }

    pub fn sent_end(&self) -> u64 {
        self.sent.last().map_or(0, |part| part.range.end)
    }

    /// A part was given to the upload: what of it was dirty is not any more.
    pub fn was_sent(&mut self, part: Sent) {
        self.dirty.remove(part.range.clone());
        self.sent.push(part);
    }

    /// As [`Content::was_sent`], again.
    pub fn was_sent_again(&mut self, part: &Sent) {
        self.dirty.remove(part.range.clone());
    }

    /// The tail was sent as a part: `keep` holds its bytes where there was room; none, where they are staged or to
    /// be let go.
    pub fn tail_was_sent(&mut self, keep: Option<KeptPart>) {
        let range = self.tail_start..self.tail_end();
        match keep {
            Some(part) => drop(self.kept.insert(range.start, part)),
            None => self.any_lost |= !self.staged.gaps(range.clone()).is_empty(),
        }
        self.tail = Chunks::default();
        self.tail_start = range.end;
        self.was_sent(Sent { range, copied: false });
    }

    /// Keeps the tail in the staging file as well, as what was sent.
    pub async fn stage_tail(&mut self) -> Result<(), Error> {
        for gap in self.staged.gaps(self.tail_start..self.tail_end()) {
            let len = usize::try_from(gap.end - gap.start).unwrap_or(usize::MAX);
            let bytes = self.tail.read(gap.start - self.tail_start, len);
            self.file.write(gap.start, vec![bytes.into()]).await?;
            self.staged.insert(gap);
        }
        Ok(())
    }

    /// Parts that were sent and have changed since, with their numbers. None: one of them was copied, so all must
    /// be planned anew.
    pub fn changed_parts(&self) -> Option<Vec<(u32, Sent)>> {
        let parts = (1u32..).zip(&self.sent).filter(|(_, part)| !self.is_as_sent(part));
        let parts: Vec<_> = parts.map(|(number, part)| (number, part.clone())).collect();
        (!parts.iter().any(|(_, part)| part.copied)).then_some(parts)
    }

    fn is_as_sent(&self, part: &Sent) -> bool {
        !self.dirty.overlaps(part.range.clone()) && !self.is_linked(part.range.clone())
    }

    /// The upload is given up: all is to be sent anew.
    pub fn unsend(&mut self) {
        self.unsend_from(0);
    }

    /// What is to be sent and what the server can copy of `range`, in which no part was sent.
    pub fn stretches(&self, range: Range<u64>) -> Vec<Stretch<Arc<Object>>> {
        let mut stretches = Vec::new();
        for (at, layer) in self.layers(range) {
            match layer {
                Layer::Object(place) => stretches.push(Stretch { range: at, copy: Some(place) }),
                Layer::Staged => {
                    let mut from = at.start;
                    for dirty in self.dirty.covered(at.clone()) {
                        stretches.extend(self.clean(from..dirty.start));
                        from = dirty.end;
                        stretches.push(Stretch { range: dirty, copy: None });
                    }
                    stretches.extend(self.clean(from..at.end));
                }
                Layer::Tail | Layer::Kept(_) | Layer::Lost => {
                    stretches.push(Stretch { range: at, copy: None })
                }
            }
        }
        stretches
    }

    /// Staged, and in the base as well.
    fn clean(&self, range: Range<u64>) -> Option<Stretch<Arc<Object>>> {
        let place = |object: &Arc<Object>| Place { object: object.clone(), offset: range.start };
        let copy = self.base.as_ref().map(place);
        (!range.is_empty()).then_some(Stretch { range, copy })
    }

    /// The whole file, where it is in memory and small, and from now on takes no more there than it needs; nothing of it
    /// was sent.
    pub fn all_in_memory(&mut self, cache: &PartCache) -> Option<Vec<Bytes>> {
        if !self.is_all_tail() || !self.sent.is_empty() || self.len() > ACKNOWLEDGED_BYTES_MAX {
            return None;
        }
        if self.tail.bytes_spare() > 0 {
            self.tail.fit(cache.try_reserve(self.len())?);
        }
        self.let_staged_go(); // nothing needs it: it may be an earlier state's, and go with that
        Some(self.tail.share())
    }

    /// Whether some of it is to be copied from other objects than the base.
    pub fn has_links(&self) -> bool {
        !self.linked.is_empty()
    }

    /// All of it is in the base: what is staged is only kept to save requests.
    pub fn let_staged_go(&mut self) {
        self.staged.clear();
        self.file.clear();
    }

    /// Whether all of it is, or may well be, staged, once it is published.
    pub fn is_small(&self) -> bool {
        !self.staged.is_empty() && self.len() <= CLEAN_BYTES_MAX / 4
    }

    /// S3 has it all, as `object`.
    pub fn was_published(&mut self, object: Object, staging: &Staging) {
        self.sent.clear();
        self.any_lost = false;
        self.kept.clear();
        if self.is_all_tail() {
            self.base_end = object.size;
            self.base = Some(Arc::new(object));
            return; // still in memory: what follows goes on from there
        }
        self.linked.clear();
        self.dirty.clear();
        if self.len() > CLEAN_BYTES_MAX || staging.is_short() {
            self.let_staged_go();
        }
        self.rest_on(object);
    }

    /// The file is exactly this object, and goes on at its end.
    pub fn rest_on(&mut self, object: Object) {
        self.tail = Chunks::default();
        self.tail_start = object.size;
        self.base_end = object.size;
        self.set_len(object.size);
        self.base = Some(Arc::new(object));
    }

    /// Objects that ranges are linked from may have moved: `to` tells where.
    pub fn objects_moved(&mut self, to: impl Fn(&Object) -> Option<Object>) {
        for (_, place) in self.linked.values_mut() {
            if let Some(now) = to(&place.object) {
                place.object = Arc::new(now);
            }
        }
    }

    /// The base has moved.
    pub fn base_moved(&mut self, key: &str, etag: &str) {
        if let Some(base) = &mut self.base {
            *base = Arc::new(Object { key: key.into(), etag: etag.into(), size: base.size });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;
    use std::time::Duration;

    #[tokio::test]
    async fn places_that_a_file_is_written_in_are_capped() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::new(dir.path(), None, "bucket"));
        let staging = Arc::new(Staging::new(journal, 1 << 20, Duration::ZERO));
        let base = Object { key: "key".into(), etag: "etag".into(), size: 1 << 40 };
        let mut content = Content::new(Arc::default(), Some(base), staging);
        for n in 0..RANGES_MAX as u64 {
            content.zero(2 * n..2 * n + 1).await.unwrap();
        }
        let refused = content.zero(1 << 30..(1 << 30) + 1).await;
        assert_eq!(refused.map_err(|e| e.errno()), Err(libc::ENOSPC));
    }
}
