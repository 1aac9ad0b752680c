//! One stretch of an object on its way into one part: from the disk cache as far as it goes, the rest by a GET.
//!
//! Owns: [`Fetch`].
//! Invariants: a GET is pinned by If-Match; the part is held weakly, so that a fetch whose part was evicted is
//! given up; the disk cache is offered whole blocks only.
//! Must never know: who reads, what comes next.

use std::ops::Range;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use super::{Reads, Version};
use crate::cache::Part;
use crate::cache::disk::{BLOCK_BYTES, DiskCache, block_len};
use crate::error::Error;

pub(super) struct Fetch {
    pub reads: Arc<Reads>,
    pub version: Version,
    pub part: Weak<Part>,
    /// Of a reader that fills the disk cache: waits where that does not keep up.
    pub filling: Option<mpsc::Sender<()>>,
}

/// The part was evicted: nobody wants the rest.
struct Evicted;

impl Fetch {
    pub async fn run(self, range: Range<u64>) {
        // What the disk cache is to take must not be dropped once it was read.
        let held = self.filling.as_ref().and_then(|_| self.part.upgrade());
        if let Err(e) = self.stream(range).await
            && let Some(part) = self.part.upgrade()
        {
            part.fail(e);
        }
        drop(held); // from now on it may give way to who waits
        self.reads.cache.settle();
    }

    async fn stream(&self, range: Range<u64>) -> Result<(), Error> {
        let Ok(at) = self.take_from_disk(range.clone()).await else { return Ok(()) };
        if at == range.end {
            return Ok(());
        }
        let Some(part) = self.get(at..range.end).await? else { return Ok(()) };
        match &self.reads.disk {
            Some(disk) => self.give_to_disk(disk, &part, at..range.end).await,
            None => Ok(()),
        }
    }

    /// Fills the part from S3; none where it was evicted. The turn ends with the body: a slow disk holds up no GET.
    async fn get(&self, range: Range<u64>) -> Result<Option<Arc<Part>>, Error> {
        let _turn = self.reads.fetches.acquire().await.map_err(|e| Error::Io(e.to_string()))?;
        if self.part.strong_count() == 0 {
            return Ok(None);
        }
        let Version { key, etag, .. } = &self.version;
        let client = &self.reads.client;
        // Of a range, also of one that is the whole object, S3 tells no checksum.
        let verified = client.verifies() && range == (0..self.version.size);
        let asked = (!verified).then(|| range.clone());
        let mut object = client.get_object(key, asked, Some(etag)).await?;
        while let Some(frame) = object.body.frame().await? {
            match self.part.upgrade() {
                Some(part) => part.push(&frame),
                None => return Ok(None),
            }
        }
        let Some(part) = self.part.upgrade() else { return Ok(None) };
        if !part.is_finished() {
            let key = key.escape_debug();
            return Err(Error::Io(format!("GetObject {key}: the body ended before {}", range.end)));
        }
        Ok(Some(part))
    }

    /// Fills the part as far as the disk cache has it without a gap; answers up to where.
    async fn take_from_disk(&self, range: Range<u64>) -> Result<u64, Evicted> {
        let Some(disk) = &self.reads.disk else { return Ok(range.start) };
        let mut at = range.start;
        while at < range.end {
            let block = at / BLOCK_BYTES;
            let Some(bytes) = disk.read_block(self.version.id, self.version.size, block).await else { break };
            let from = usize::try_from(at - block * BLOCK_BYTES).unwrap_or(usize::MAX);
            self.part.upgrade().ok_or(Evicted)?.push(bytes.get(from..).unwrap_or_default());
            at = range.end.min((block + 1) * BLOCK_BYTES);
        }
        Ok(at)
    }

    /// Offers the blocks that lie within `range` whole.
    async fn give_to_disk(&self, disk: &DiskCache, part: &Part, range: Range<u64>) -> Result<(), Error> {
        let Version { id, size, .. } = self.version;
        for block in range.start.div_ceil(BLOCK_BYTES).. {
            let start = block * BLOCK_BYTES;
            let end = start + block_len(size, block) as u64;
            if start >= size || end > range.end {
                return Ok(());
            }
            let mut frames = Vec::new();
            part.try_read(start..end, &mut frames)?;
            match self.filling.is_some() {
                true => disk.keep(id, size, block, frames).await,
                false => disk.offer(id, size, block, frames),
            }
        }
        Ok(())
    }
}
