//! What a writer buffers until it is sent: chunks that are shared with the request bodies.
//!
//! Owns: [`Chunks`], the bytes of one part to be, in chunks that grow with the part so that a small file
//! does not hold a large buffer.
//! Invariant: each chunk's capacity is covered by a permit, which lives as long as its bytes do.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Permit;
use super::budget::SPARE_BYTES;

/// The largest chunk: as much as the kernel writes at once.
pub const CHUNK_BYTES: usize = SPARE_BYTES;
/// The first chunk of a file: most files are small.
const CHUNK_BYTES_FIRST: usize = 64 << 10;

#[derive(Default)]
pub struct Chunks {
    sealed: Vec<Bytes>,
    /// With room for more. Its permit is shared by all that was handed out of it.
    open: Option<(BytesMut, Arc<Permit>)>,
    len: u64,
}

/// Frozen bytes and the permit that covers them, dropped together.
struct Owned {
    bytes: BytesMut,
    permit: Arc<Permit>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.permit.recycle(std::mem::take(&mut self.bytes));
    }
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Chunks {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes [`Chunks::push`] needs a permit for before it can take `bytes` more: zero
    /// where the open chunk has room.
    pub fn bytes_needed(&self, bytes: usize) -> usize {
        if self.bytes_spare() >= bytes {
            return 0;
        }
        let usual = if self.len < CHUNK_BYTES_FIRST as u64 { CHUNK_BYTES_FIRST } else { CHUNK_BYTES };
        usual.max(bytes)
    }

    /// Appends `data`. `permit` covers [`Chunks::bytes_needed`] of it, where that is not zero.
    pub fn push(&mut self, data: &[u8], permit: Option<Permit>) {
        if data.is_empty() {
            return; // it needs no permit, so there may be no chunk
        }
        if let Some(permit) = permit {
            let capacity = self.bytes_needed(data.len()).max(data.len());
            self.hand_out();
            self.open = Some((permit.buffer(capacity), Arc::new(permit)));
        }
        let (chunk, _) = self.open.as_mut().expect("a permit came with data that needs one");
        assert!(chunk.capacity() - chunk.len() >= data.len(), "the permit covers the data");
        chunk.extend_from_slice(data);
        self.len += data.len() as u64;
    }

    /// All bytes so far, shared: pushing more does not change what was handed out.
    pub fn share(&mut self) -> Vec<Bytes> {
        self.hand_out();
        self.sealed.clone()
    }

    /// How many bytes are held and hold none.
    pub fn bytes_spare(&self) -> usize {
        self.open.as_ref().map_or(0, |(chunk, _)| chunk.capacity() - chunk.len())
    }

    /// Holds no more than the bytes need, which `permit` covers.
    pub fn fit(&mut self, permit: Permit) {
        let mut all = permit.buffer(self.len as usize);
        self.share().iter().for_each(|chunk| all.extend_from_slice(chunk));
        self.open = None;
        self.sealed = vec![Bytes::from_owner(Owned { bytes: all, permit: Arc::new(permit) })];
    }

    /// What the open chunk holds becomes shared; what room it has left is used on.
    fn hand_out(&mut self) {
        if let Some((chunk, permit)) = &mut self.open
            && !chunk.is_empty()
        {
            let owned = Owned { bytes: chunk.split(), permit: permit.clone() };
            self.sealed.push(Bytes::from_owner(owned));
        }
    }

    /// The bytes at `offset`, at most `len` of them, copied.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len.min(self.len.saturating_sub(offset) as usize));
        let open = self.open.as_ref().map(|(chunk, _)| &chunk[..]);
        let mut at = 0u64;
        for chunk in self.sealed.iter().map(|b| &b[..]).chain(open) {
            let from = offset.saturating_sub(at).min(chunk.len() as u64) as usize;
            let piece = chunk.get(from..).unwrap_or_default();
            let take = piece.len().min(len - out.len());
            out.extend_from_slice(piece.get(..take).unwrap_or_default());
            at += chunk.len() as u64;
        }
        out
    }

    /// Drops what lies beyond the first `len` bytes.
    pub fn truncate(&mut self, len: u64) {
        self.hand_out();
        self.sealed = slice(&self.sealed, 0..len);
        self.len = self.len.min(len);
    }
}

/// The bytes of `range` of pieces that lie end to end, shared.
pub fn slice(pieces: &[Bytes], range: Range<u64>) -> Vec<Bytes> {
    let mut out = Vec::new();
    let mut at = 0u64;
    for piece in pieces {
        let end = at + piece.len() as u64;
        if at < range.end && end > range.start {
            let from = range.start.saturating_sub(at) as usize;
            let to = (range.end.min(end) - at) as usize;
            out.push(piece.slice(from..to));
        }
        at = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Budget;
    use super::*;

    fn push(chunks: &mut Chunks, budget: &Budget, data: &[u8]) {
        let needed = chunks.bytes_needed(data.len()) as u64;
        let permit = (needed > 0).then(|| budget.try_take(needed).expect("room"));
        chunks.push(data, permit);
    }

    #[test]
    fn small_files_hold_small_chunks_and_give_them_back() {
        let budget = Budget::new(4 << 20);
        let mut chunks = Chunks::default();
        push(&mut chunks, &budget, b"hello ");
        push(&mut chunks, &budget, b"world");
        assert_eq!(budget.bytes_held(), 64 << 10);
        let body = chunks.share();
        assert_eq!(body.concat(), b"hello world");
        drop(chunks);
        assert_eq!(budget.bytes_held(), 64 << 10, "the body still holds it");
        drop(body);
        assert_eq!(budget.bytes_held(), 0);
    }

    #[test]
    fn what_fits_holds_no_more_than_its_bytes_and_goes_on() {
        let budget = Budget::new(4 << 20);
        let mut chunks = Chunks::default();
        push(&mut chunks, &budget, &[1; 6000]);
        let shared = chunks.share();
        push(&mut chunks, &budget, &[2; 6000]);
        assert_eq!(chunks.bytes_spare(), (64 << 10) - 12_000);
        chunks.fit(budget.try_take(chunks.len()).unwrap());
        assert_eq!(budget.bytes_held(), (64 << 10) + 12_288, "somebody has the first bytes still");
        drop(shared);
        assert_eq!((budget.bytes_held(), chunks.bytes_spare()), (12_288, 0));
        push(&mut chunks, &budget, &[3; 10]);
        assert_eq!(chunks.share().concat(), [vec![1; 6000], vec![2; 6000], vec![3; 10]].concat());
    }

    #[test]
    fn what_was_sent_is_used_again_as_long_as_there_is_room() {
        let budget = Budget::new(64 << 20);
        let data = vec![7; CHUNK_BYTES];
        let mut seen = std::collections::HashSet::new();
        for _ in 0..5 {
            let mut chunks = Chunks::default();
            for _ in 0..20 {
                push(&mut chunks, &budget, &data);
            }
            let body = chunks.share();
            drop(chunks);
            seen.extend(body.iter().map(|chunk| chunk.as_ptr()));
            assert_eq!(budget.bytes_spare(), 0);
            drop(body);
            assert_eq!((budget.bytes_held(), budget.bytes_spare()), (0, 16 << 20), "at most 16");
        }
        assert!(seen.len() <= 20 + 4 * 4, "{} buffers", seen.len());
        let most = budget.try_take(61 << 20);
        assert_eq!(budget.bytes_spare(), 3 << 20, "what is spare makes room");
        drop(most);
        let mut chunks = Chunks::default();
        push(&mut chunks, &budget, b"first");
        push(&mut chunks, &budget, &data);
        let body = chunks.share();
        assert_eq!(body.concat(), [b"first".as_slice(), &data].concat());
    }

    #[test]
    fn nothing_takes_no_room() {
        let budget = Budget::new(1 << 20);
        let mut chunks = Chunks::default();
        push(&mut chunks, &budget, b"");
        assert!(chunks.is_empty() && chunks.share().is_empty());
        assert_eq!(budget.bytes_held(), 0);
    }

    #[test]
    fn sharing_often_holds_no_more() {
        let budget = Budget::new(1 << 20);
        let mut chunks = Chunks::default();
        for _ in 0..1000 {
            push(&mut chunks, &budget, b"x");
            assert!(!chunks.share().is_empty());
        }
        assert_eq!(chunks.read(0, 2000), [b'x'; 1000]);
        assert_eq!(budget.bytes_held(), 64 << 10);
    }

    #[test]
    fn reads_span_chunks() {
        let budget = Budget::new(8 << 20);
        let mut chunks = Chunks::default();
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        for piece in data.chunks(131_072) {
            push(&mut chunks, &budget, piece);
        }
        let shared = chunks.share();
        push(&mut chunks, &budget, b"tail");
        assert_eq!(shared.concat(), data, "not changed by what came later");
        assert_eq!(chunks.read(0, 10), &data[..10]);
        assert_eq!(chunks.read(1_000_000, 1_500_000), &data[1_000_000..2_500_000]);
        assert_eq!(chunks.read(2_999_999, 100), [&data[2_999_999..], b"tail"].concat());
        assert_eq!(chunks.read(5_000_000, 1), [0u8; 0]);
        assert_eq!(slice(&shared, 999_990..2_500_000).concat(), &data[999_990..2_500_000]);
    }

    #[test]
    fn what_is_cut_off_is_gone_and_writing_goes_on() {
        let budget = Budget::new(8 << 20);
        let mut chunks = Chunks::default();
        push(&mut chunks, &budget, b"hello world");
        chunks.truncate(6);
        push(&mut chunks, &budget, b"moon");
        assert_eq!((chunks.len(), chunks.share().concat()), (10, b"hello moon".to_vec()));
        chunks.truncate(0);
        assert!(chunks.is_empty() && chunks.share().is_empty());
    }
}
