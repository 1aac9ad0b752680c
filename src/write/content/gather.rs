//! What of a file being written S3 does not have, put together on the local disk.
//!
//! Owns: [`Content::gather`] and [`Content::gather_beside`].
//! Invariant: where they succeed, what they answer is all that neither the base nor the upload has.
//! Must never know: what becomes of it.

use std::ops::Range;

use bytes::Bytes;

use super::{Content, Layer};
use crate::cache::slice;
use crate::error::Error;
use crate::ranges::RangeSet;

impl Content {
    /// All that S3 does not have goes to the staging file; answers where it is. The upload, if there was one, is given up.
    ///
    /// Errors: [`Error::NoSpace`]; [`Error::NotSupported`] where some of it is nowhere any more, or only in other objects.
    pub async fn gather(&mut self) -> Result<Vec<Range<u64>>, Error> {
        self.unsend();
        self.gather_beside(&RangeSet::default()).await?;
        Ok(self.dirty.covered(0..self.len()).collect())
    }

    /// As [`Content::gather`], but for what parts of an upload have (`there`), which goes on. Answers also what is staged
    /// and in the base.
    pub async fn gather_beside(&mut self, there: &RangeSet) -> Result<Vec<Range<u64>>, Error> {
        if !there.gaps(self.tail_start..self.tail_end()).is_empty() {
            self.spill().await?;
        }
        let starts: Vec<u64> = self.kept.keys().copied().collect();
        for start in starts {
            let Some(part) =
                self.kept.get(&start).filter(|part| !there.gaps(start..start + part.len()).is_empty())
            else {
                continue;
            };
            let (bytes, range) = (part.bytes.clone(), start..start + part.len());
            for gap in self.staged.gaps(range) {
                self.stage_dirty(gap.clone(), slice(&bytes, gap.start - start..gap.end - start)).await?;
            }
            self.kept.remove(&start);
        }
        let rest = there.gaps(0..self.len());
        if !self.linked.is_empty() || rest.iter().any(|gap| self.is_lost(gap.clone())) {
            return Err(Error::NotSupported("some of the bytes are not on this host any more"));
        }
        Ok(rest.into_iter().flat_map(|gap| self.staged.covered(gap)).collect())
    }

    /// A part that was let go was not sent after all: its bytes are lost no longer.
    pub async fn was_not_sent(&mut self, number: u32, payload: &[Bytes]) -> Result<(), Error> {
        let index = usize::try_from(number).unwrap_or(usize::MAX).wrapping_sub(1);
        let Some(part) = self.sent.get(index).map(|part| part.range.clone()) else { return Ok(()) };
        for (at, layer) in self.layers(part.clone()) {
            if matches!(layer, Layer::Lost) {
                let bytes = slice(payload, at.start - part.start..at.end - part.start);
                self.stage_dirty(at, bytes).await?;
            }
        }
        Ok(())
    }

    /// Whether bytes were let go that only parts of the upload have.
    pub fn any_is_lost(&self) -> bool {
        self.any_lost && self.is_lost(0..self.len())
    }

    async fn stage_dirty(&mut self, range: Range<u64>, bytes: Vec<Bytes>) -> Result<(), Error> {
        self.file.write(range.start, bytes).await?;
        self.staged.insert(range.clone());
        self.dirty.insert(range);
        Ok(())
    }

    /// The upload's parts, in order: where each is, and whether it holds what it should.
    pub fn parts(&self) -> impl Iterator<Item = (Range<u64>, bool)> + '_ {
        self.sent.iter().map(|part| (part.range.clone(), self.is_as_sent(part)))
    }
}
