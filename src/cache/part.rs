//! A range of one object version, kept as the frames it arrived in.
//!
//! Owns: [`Part`]: filled from its start by one fetch, read by any number of readers while it grows.
//! Frames are never assembled: page faults of fresh buffers would cost more than the copy.
//! Invariant: frames lie end to end from `range.start`; once finished nothing changes.

use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::Notify;

use super::Permit;
use crate::error::Error;

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
    filled_to: u64,
    failure: Option<Error>,
}

impl Part {
    /// `permit` covers the whole range.
    pub fn new(range: Range<u64>, permit: Permit) -> Part {
        let filled_to = range.start;
        Part {
            range,
            state: Mutex::new(State { frames: Vec::new(), filled_to, failure: None }),
            grown: Notify::new(),
            _permit: permit,
        }
    }

    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// What its permit covers.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Appends a frame. What lies beyond the range is cut off.
    pub fn push(&self, mut frame: Bytes) {
        let mut state = self.lock();
        let room = self.range.end.saturating_sub(state.filled_to);
        frame.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        if !frame.is_empty() {
            let at = state.filled_to;
            state.filled_to += frame.len() as u64;
            state.frames.push((at, frame));
        }
        drop(state);
        self.grown.notify_waiters();
    }

    /// No more frames will come.
    pub fn fail(&self, failure: Error) {
        self.lock().failure.get_or_insert(failure);
        self.grown.notify_waiters();
    }

    /// Whole, or failed.
    pub fn is_finished(&self) -> bool {
        let state = self.lock();
        state.filled_to == self.range.end || state.failure.is_some()
    }

    pub fn is_failed(&self) -> bool {
        self.lock().failure.is_some()
    }

    /// The frames of `wanted`, as far as this part covers it: `Ok(None)` where they have not all
    /// arrived yet; the failure, where they never will.
    pub fn try_read(&self, wanted: Range<u64>, into: &mut Vec<Bytes>) -> Result<Option<u64>, Error> {
        let state = self.lock();
        let end = wanted.end.min(self.range.end);
        if state.filled_to < end {
            return match &state.failure {
                Some(failure) => Err(failure.clone()),
                None => Ok(None),
            };
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
        let permit = Budget::new(1 << 20).try_take(range.end - range.start).unwrap();
        Part::new(range, permit)
    }

    fn flat(frames: &[Bytes]) -> Vec<u8> {
        frames.concat()
    }

    #[test]
    fn reads_span_frames_and_stop_at_the_parts_end() {
        let part = part(100..110);
        part.push(Bytes::from_static(b"0123"));
        let mut got = Vec::new();
        assert_eq!(part.try_read(101..106, &mut got).unwrap(), None, "not there yet");
        part.push(Bytes::from_static(b"456789 and more than was asked for"));
        assert!(part.is_finished());
        assert_eq!(part.try_read(101..106, &mut got).unwrap(), Some(106));
        assert_eq!(flat(&got), b"12345");
        got.clear();
        assert_eq!(part.try_read(108..200, &mut got).unwrap(), Some(110));
        assert_eq!(flat(&got), b"89");
    }

    #[test]
    fn what_arrived_before_a_failure_can_be_read() {
        let part = part(0..10);
        part.push(Bytes::from_static(b"abc"));
        part.fail(Error::Io("broken".into()));
        let mut got = Vec::new();
        assert_eq!(part.try_read(0..3, &mut got).unwrap(), Some(3));
        assert!(part.try_read(0..4, &mut got).is_err());
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
        part.push(Bytes::from_static(b"ab"));
        part.push(Bytes::from_static(b"cd"));
        assert_eq!(reader.await.unwrap().unwrap(), b"abcd");
    }
}
