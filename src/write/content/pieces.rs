//! The bytes of a file being written, from whatever layer has them: for reads, and for what is sent.
//!
//! Owns: [`Piece`], and how layers are put together.
//! Invariant: an object's bytes are of the version that the layer names, or none at all.
//! Must never know: what is changed, when it is published.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{CLEAN_BYTES_MAX, Content, Layer, Object};
use crate::cache::{Permit, slice};
use crate::error::Error;
use crate::write::Writes;
use crate::write::plan::Place;

/// What lies between two ranges of an object is fetched with them, if it is no more than this, in bytes.
const JOINED_BYTES_MAX: u64 = 1 << 20;

/// Fetched at a time of what is held, in bytes.
const HELD_BYTES: u64 = 4 << 20;

/// Where bytes of a file being written are, for a read.
#[derive(Debug)]
pub enum Piece {
    Bytes(Bytes),
    /// In S3, at this range of the object.
    Object(Arc<Object>, Range<u64>),
}

impl Content {
    /// Where the bytes of `range` are, end to end, cut at the file's end.
    ///
    /// Errors: [`Error::NotSupported`] for what is lost.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<Piece>, Error> {
        let mut pieces = Vec::new();
        let end = range.end.min(self.len());
        for (at, layer) in self.layers(range.start.min(end)..end) {
            match layer {
                Layer::Staged => pieces.push(Piece::Bytes(self.file.read(at).await?.into())),
                Layer::Object(place) => {
                    pieces.push(Piece::Object(place.object, place.offset..place.offset + at.end - at.start));
                }
                Layer::Tail => {
                    let len = usize::try_from(at.end - at.start).unwrap_or(usize::MAX);
                    pieces.push(Piece::Bytes(self.tail.read(at.start - self.tail_start, len).into()));
                }
                Layer::Kept(start) => pieces.extend(self.kept_bytes(start, at).into_iter().map(Piece::Bytes)),
                Layer::Lost => {
                    return Err(Error::NotSupported("reading what was sent and is not yet published"));
                }
            }
        }
        Ok(pieces)
    }

    fn kept_bytes(&self, start: u64, range: Range<u64>) -> Vec<Bytes> {
        let kept = self.kept.get(&start);
        kept.map(|part| slice(&part.bytes, range.start - start..range.end - start)).unwrap_or_default()
    }

    /// The bytes of `range` in one piece. `permit` covers them.
    pub async fn fill(&mut self, writes: &Writes, range: Range<u64>, permit: Permit) -> Result<Bytes, Error> {
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut filled = Filled { bytes: vec![0; len], _permit: permit };
        let layers = self.layers(range.clone());
        let mut objects: Vec<(Range<u64>, Place<Arc<Object>>)> = Vec::new();
        for (at, layer) in &layers {
            let Layer::Object(place) = layer else { continue };
            // One GET for all that is near in one object: what lies between is covered below.
            match objects.last_mut() {
                Some((from, first))
                    if first.object == place.object
                        && first.offset + (at.start - from.start) == place.offset
                        && at.start - from.end <= JOINED_BYTES_MAX =>
                {
                    from.end = at.end;
                }
                _ => objects.push((at.clone(), place.clone())),
            }
        }
        for (at, place) in objects {
            let into = filled.part(&range, &at);
            get(writes, &place, into).await?;
        }
        for (at, layer) in layers {
            match layer {
                Layer::Object(place) => {
                    if Some(&place.object) == self.base.as_ref() && self.len() <= CLEAN_BYTES_MAX {
                        let bytes = Bytes::copy_from_slice(filled.part(&range, &at));
                        self.stage_clean(at, bytes).await;
                    }
                }
                Layer::Staged => {
                    let bytes = self.file.read(at.clone()).await?;
                    filled.part(&range, &at).copy_from_slice(&bytes);
                }
                Layer::Tail => {
                    let into = filled.part(&range, &at);
                    into.copy_from_slice(&self.tail.read(at.start - self.tail_start, into.len()));
                }
                Layer::Kept(start) => {
                    let mut into = filled.part(&range, &at);
                    for piece in self.kept_bytes(start, at) {
                        let (now, later) = into.split_at_mut(piece.len());
                        now.copy_from_slice(&piece);
                        into = later;
                    }
                }
                Layer::Lost => return Err(Error::Io("bytes that were sent are needed again".into())),
            }
        }
        Ok(Bytes::from_owner(filled))
    }

    /// What of the file only the object at `key` has comes to the staging file, for that is about to go.
    ///
    /// Errors: [`Error::NoSpace`], also for more than 64 MiB; what the GET failed with. What is not there yet is missing
    /// once the object is gone.
    pub async fn hold(&mut self, writes: &Writes, key: &str) -> Result<(), Error> {
        let layers = self.layers(0..self.len()).into_iter();
        let theirs = layers.filter_map(|(at, layer)| match layer {
            Layer::Object(place) if place.object.key == key => Some((at, place)),
            _ => None,
        });
        let theirs: Vec<_> = theirs.collect();
        if theirs.iter().map(|(at, _)| at.end - at.start).sum::<u64>() > CLEAN_BYTES_MAX {
            return Err(Error::NoSpace(
                "what is replaced is too large to be held for those that have it open",
            ));
        }
        for (at, place) in theirs {
            for from in (at.start..at.end).step_by(HELD_BYTES as usize) {
                let piece = from..at.end.min(from + HELD_BYTES);
                let _permit = writes.reserve(HELD_BYTES as usize).await?;
                let mut bytes = vec![0; (piece.end - piece.start) as usize];
                let offset = place.offset + (from - at.start);
                get(writes, &Place { object: place.object.clone(), offset }, &mut bytes).await?;
                self.file.write(from, vec![bytes.into()]).await?;
                self.staged.insert(piece.clone());
                if Some(&place.object) != self.base.as_ref() {
                    self.unlink(piece.clone());
                    self.dirty.insert(piece);
                }
            }
        }
        Ok(())
    }

    /// Bytes of the base that were fetched need not be fetched again; where there is no room they are.
    async fn stage_clean(&mut self, range: Range<u64>, bytes: Bytes) {
        match self.file.write(range.start, vec![bytes]).await {
            Ok(()) => self.staged.insert(range),
            Err(e) => tracing::debug!("not kept: {e}"),
        }
    }
}

/// Reads an object's bytes, pinned by its ETag.
async fn get(writes: &Writes, place: &Place<Arc<Object>>, into: &mut [u8]) -> Result<(), Error> {
    let range = place.offset..place.offset + into.len() as u64;
    let mut got =
        writes.uploads.client.get_object(&place.object.key, Some(range), Some(&place.object.etag)).await?;
    let mut at = 0;
    while let Some(frame) = got.body.frame().await? {
        let room = into.get_mut(at..at + frame.len()).ok_or(Error::Stale)?;
        room.copy_from_slice(&frame);
        at += frame.len();
    }
    if at == into.len() { Ok(()) } else { Err(Error::Stale) }
}

/// Bytes and the permit that covers them, dropped together.
struct Filled {
    bytes: Vec<u8>,
    _permit: Permit,
}

impl Filled {
    /// The place of `at` within `range`, which all the bytes are of.
    fn part(&mut self, range: &Range<u64>, at: &Range<u64>) -> &mut [u8] {
        let (from, to) = ((at.start - range.start) as usize, (at.end - range.start) as usize);
        self.bytes.get_mut(from..to).expect("layers lie within what was asked for")
    }
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
