//! A range of one object version, in blocks.
//!
//! Owns: [`Part`]: filled from its start by one fetch, read by any number of readers while it grows.
//! The frames of a body are slices of buffers larger than they are, which would hold more memory than the
//! budget knows of; so they are copied once, into blocks of exactly what the part's permit covers.
//! Invariant: frames lie end to end from `range.start`; once finished nothing changes.

use std::ops::Range;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::Permit;
use crate::error::Error;

/// The kernel's largest read, so that an answer seldom spans blocks.
const BLOCK_BYTES: u64 = 1 << 20;

pub struct Part {
    range: Range<u64>,
    /// Held for an instant only, never across an await. Taken after no other lock but the cache's.
    state: Mutex<State>,
    grown: Notify,
    _permit: Permit,
}

struct State {
    /// Each with the offset, in the object, of its first byte.
    frames: Vec<(u64, Bytes)>,
    /// Where the frames end.
    framed_to: u64,
    /// What has arrived since, becoming a frame when its block is full or somebody reads it.
    open: BytesMut,
    /// Up to where the first of those who wait needs it: each waking costs more than a frame's copy.
    wanted_to: u64,
    failure: Option<Error>,
}

impl State {
    fn filled_to(&self) -> u64 {
        self.framed_to + self.open.len() as u64
    }

    fn frame_open(&mut self) {
        if !self.open.is_empty() {
            let frame = self.open.split().freeze();
            let at = self.framed_to;
            self.framed_to += frame.len() as u64;
            self.frames.push((at, frame));
        }
    }
}

impl Part {
    /// `permit` covers the whole range.
    pub fn new(range: Range<u64>, permit: Permit) -> Part {
        let state = State {
            frames: Vec::new(),
            framed_to: range.start,
            open: BytesMut::new(),
            wanted_to: u64::MAX,
            failure: None,
        };
        Part { range, state: Mutex::new(state), grown: Notify::new(), _permit: permit }
    }

    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// What its permit covers.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Appends bytes. What lies beyond the range is cut off.
    pub fn push(&self, mut bytes: &[u8]) {
        let mut state = self.lock();
        while !bytes.is_empty() {
            if state.open.capacity() == state.open.len() {
                state.frame_open();
                let left = self.range.end - state.framed_to;
                if left == 0 {
                    break;
                }
                state.open = BytesMut::with_capacity(left.min(BLOCK_BYTES) as usize);
            }
            let left = usize::try_from(self.range.end - state.filled_to()).unwrap_or(usize::MAX);
            let room = (state.open.capacity() - state.open.len()).min(left);
            if room == 0 {
                break;
            }
            let (now, later) = bytes.split_at(bytes.len().min(room));
            state.open.extend_from_slice(now);
            bytes = later;
        }
        if state.filled_to() >= state.wanted_to {
            state.wanted_to = u64::MAX;
            drop(state);
            self.grown.notify_waiters();
        }
    }

    /// No more bytes will come.
    pub fn fail(&self, failure: Error) {
        self.lock().failure.get_or_insert(failure);
        self.grown.notify_waiters();
    }

    /// Whole, or failed.
    pub fn is_finished(&self) -> bool {
        let state = self.lock();
        state.filled_to() == self.range.end || state.failure.is_some()
    }

    pub fn is_failed(&self) -> bool {
        self.lock().failure.is_some()
    }

    /// The frames of `wanted`, as far as this part covers it: `Ok(None)` where they have not all
    /// arrived yet (`grown` tells when they have); the failure, where they never will. `wanted` begins within the
    /// part: what lies before it would be missing from the answer.
    pub fn try_read(&self, wanted: Range<u64>, into: &mut Vec<Bytes>) -> Result<Option<u64>, Error> {
        assert!(self.range.contains(&wanted.start), "{wanted:?} does not begin within {:?}", self.range);
        let mut state = self.lock();
        let end = wanted.end.min(self.range.end);
        if state.filled_to() < end {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            state.wanted_to = state.wanted_to.min(end);
            return Ok(None);
        }
        if state.framed_to < end {
            state.frame_open();
        }
        let first = state.frames.partition_point(|(at, f)| at + f.len() as u64 <= wanted.start);
        for (at, frame) in state.frames.iter().skip(first).take_while(|(at, _)| *at < end) {
            let from = wanted.start.saturating_sub(*at) as usize;
            let to = frame.len().min((end - at) as usize);
            into.push(frame.slice(from..to));
        }
        Ok(Some(end))
    }

    /// As [`Part::try_read`], waiting until the bytes are there.
    pub async fn read(&self, wanted: Range<u64>, into: &mut Vec<Bytes>) -> Result<u64, Error> {
        loop {
            let mut grown = std::pin::pin!(self.grown.notified());
            grown.as_mut().enable();
            if let Some(end) = self.try_read(wanted.clone(), into)? {
                return Ok(end);
            }
            grown.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Budget;
    use super::*;

    fn part(range: Range<u64>) -> Part {
        let permit = Budget::new(4 << 20).try_take(range.end - range.start).unwrap();
        Part::new(range, permit)
    }

    fn flat(frames: &[Bytes]) -> Vec<u8> {
        frames.concat()
    }

    #[test]
    fn reads_span_frames_and_stop_at_the_parts_end() {
        let part = part(100..110);
        part.push(b"0123");
        let mut got = Vec::new();
        assert_eq!(part.try_read(101..106, &mut got).unwrap(), None, "not there yet");
        part.push(b"456789 and more than was asked for");
        assert!(part.is_finished());
        assert_eq!(part.try_read(101..106, &mut got).unwrap(), Some(106));
        assert_eq!(flat(&got), b"12345");
        got.clear();
        assert_eq!(part.try_read(108..200, &mut got).unwrap(), Some(110));
        assert_eq!(flat(&got), b"89");
    }

    #[test]
    #[should_panic(expected = "does not begin within")]
    fn a_read_that_begins_before_the_part_is_not_answered_with_what_follows() {
        let part = part(100..110);
        part.push(b"0123456789");
        let _ = part.try_read(95..110, &mut Vec::new());
    }

    #[test]
    fn what_arrived_before_a_failure_can_be_read() {
        let part = part(0..10);
        part.push(b"abc");
        part.fail(Error::Io("broken".into()));
        let mut got = Vec::new();
        assert_eq!(part.try_read(0..3, &mut got).unwrap(), Some(3));
        assert!(part.try_read(0..4, &mut got).is_err());
    }

    #[test]
    fn blocks_are_what_the_permit_covers() {
        let part = part(0..BLOCK_BYTES / 2 + 7);
        let data: Vec<u8> = (0..BLOCK_BYTES / 2 + 7).map(|n| (n % 251) as u8).collect();
        data.chunks(10_007).for_each(|piece| part.push(piece));
        let mut got = Vec::new();
        assert_eq!(part.try_read(0..BLOCK_BYTES, &mut got).unwrap(), Some(BLOCK_BYTES / 2 + 7));
        assert_eq!(got.len(), 1, "one block, for nobody read meanwhile");
        assert_eq!(flat(&got), data);
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let part = std::sync::Arc::new(part(0..4));
        let reader = tokio::spawn({
            let part = part.clone();
            async move {
                let mut got = Vec::new();
                part.read(0..4, &mut got).await.map(|_| flat(&got))
            }
        });
        tokio::task::yield_now().await;
        part.push(b"ab");
        part.push(b"cd");
        assert_eq!(reader.await.unwrap().unwrap(), b"abcd");
    }
}
