//! Where a file being written has data, and where nothing.
//!
//! Owns: what is a hole: bytes that were made zeros here, of which the staging file has no block, until S3 has them.
//! Invariant: a hole reads as zeros; all else is data, zeros among it.
//! Must never know: what a hole becomes when it is published.

use super::Content;
use crate::error::Error;
use crate::write::Writer;

/// What `lseek(2)` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

impl Writer {
    /// The first byte of data, or of a hole, at `offset` or behind it. The last hole is the file's end.
    ///
    /// Errors: [`Error::NothingThere`], also for an offset that is not within the file.
    pub async fn seek(&self, offset: u64, to: Seek) -> Result<u64, Error> {
        let content = &self.state.lock().await.content;
        let end = content.len();
        let found = match to {
            Seek::Data => content.data_from(offset),
            Seek::Hole => content.hole_from(offset),
        };
        let there = offset < end && (found < end || to == Seek::Hole);
        there.then_some(found).ok_or(Error::NothingThere)
    }
}

impl Content {
    /// The file's end where only a hole follows.
    fn data_from(&self, offset: u64) -> u64 {
        match self.dirty.covered(offset..self.len()).next() {
            Some(dirty) if dirty.start == offset => {
                let block = self.file.blocks().covered(dirty.clone()).next();
                block.map_or(dirty.end, |block| block.start)
            }
            _ => offset,
        }
    }

    /// The file's end where there is no other.
    fn hole_from(&self, offset: u64) -> u64 {
        let hole = self.dirty.covered(offset..self.len()).find_map(|dirty| {
            match self.file.blocks().covered(dirty.clone()).next() {
                Some(block) if block.start == dirty.start => (block.end < dirty.end).then_some(block.end),
                _ => Some(dirty.start),
            }
        });
        hole.unwrap_or(self.len())
    }
}
