//! What objects hold, without holding it: runs of a shared pattern, of zeros, and literal bytes.
//!
//! Owns: the pattern, [`Content`], and the recognising of uploaded bytes.
//! Invariant: a synthetic object's byte at an offset is a pure function of its key and that offset:
//! `PATTERN[(rotation(key) + offset) % PERIOD]`. PERIOD is prime, so that blocks of any size that land in a
//! wrong place differ.
//! Must never know: HTTP, keys' order, delays.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;

/// Prime, and small enough that the pattern stays in a core's cache.
pub const PERIOD: usize = (1 << 19) - 1;
/// A run that is shorter is kept as literal bytes.
const RECOGNISED_MIN: usize = 64;
/// Bytes of one object that are neither pattern nor zeros; more are refused.
pub const LITERAL_BYTES_MAX: usize = 64 << 20;

/// Splitmix64: well mixed, and the same on every machine.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a.
pub fn hash(text: &str) -> u64 {
    let fold = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(text.bytes().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// Where in the pattern a key's content begins.
pub fn rotation(key: &str) -> usize {
    (hash(key) % PERIOD as u64) as usize
}

/// The two buffers that content repeats, PERIOD bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Pattern,
    Zeros,
}

impl Source {
    pub fn bytes(self) -> &'static Bytes {
        static PATTERN: OnceLock<Bytes> = OnceLock::new();
        static ZEROS: OnceLock<Bytes> = OnceLock::new();
        match self {
            Source::Pattern => PATTERN.get_or_init(|| {
                let words = (0..=PERIOD as u64 / 8).map(|n| mix(n).to_le_bytes());
                let mut bytes: Vec<u8> = words.flatten().collect();
                bytes.truncate(PERIOD);
                bytes.into()
            }),
            Source::Zeros => ZEROS.get_or_init(|| vec![0; PERIOD].into()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Run {
    /// `start`: the place in the source, below PERIOD.
    Repeat {
        source: Source,
        start: usize,
        len: u64,
    },
    Literal(Bytes),
}

impl Run {
    fn len(&self) -> u64 {
        match self {
            Run::Repeat { len, .. } => *len,
            Run::Literal(bytes) => bytes.len() as u64,
        }
    }

    fn slice(&self, range: Range<u64>) -> Run {
        match self {
            Run::Repeat { source, start, .. } => Run::Repeat {
                source: *source,
                start: (*start + (range.start % PERIOD as u64) as usize) % PERIOD,
                len: range.end - range.start,
            },
            Run::Literal(bytes) => Run::Literal(bytes.slice(range.start as usize..range.end as usize)),
        }
    }
}

/// The bytes of an object or of a part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    runs: Vec<Run>,
    len: u64,
}

impl Content {
    /// What the object `key` holds if nobody wrote it.
    pub fn of_key(key: &str, len: u64) -> Content {
        let mut content = Content::default();
        content.add(Run::Repeat { source: Source::Pattern, start: rotation(key), len });
        content
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    fn add(&mut self, run: Run) {
        if run.len() > 0 {
            self.len += run.len();
            self.runs.push(run);
        }
    }

    /// `range` lies within the content.
    pub fn slice(&self, range: Range<u64>) -> Content {
        let mut sliced = Content::default();
        let mut at = 0;
        for run in &self.runs {
            let end = at + run.len();
            let (from, to) = (range.start.max(at), range.end.min(end));
            if from < to {
                sliced.add(run.slice(from - at..to - at));
            }
            at = end;
        }
        sliced
    }

    pub fn append(&mut self, more: &Content) {
        more.runs.iter().cloned().for_each(|run| self.add(run));
    }

    #[cfg(test)]
    fn literal_bytes(&self) -> usize {
        let literal = |run: &Run| if let Run::Literal(bytes) = run { bytes.len() } else { 0 };
        self.runs.iter().map(literal).sum()
    }

    /// Takes at most `max` bytes off the front, as a slice of what is shared; None at the end.
    pub fn take_frame(&mut self, max: usize) -> Option<Bytes> {
        let first = self.runs.first_mut()?;
        let frame = match first {
            Run::Repeat { source, start, len } => {
                let bytes = source.bytes();
                let n = (*len).min((PERIOD - *start).min(max) as u64) as usize;
                let frame = bytes.slice(*start..*start + n);
                *start = (*start + n) % PERIOD;
                *len -= n as u64;
                frame
            }
            Run::Literal(bytes) => bytes.split_to(bytes.len().min(max)),
        };
        if first.len() == 0 {
            self.runs.remove(0);
        }
        self.len -= frame.len() as u64;
        Some(frame)
    }
}

/// Turns bytes as they arrive into a [`Content`].
#[derive(Debug, Default)]
pub struct Recorder {
    content: Content,
    /// The literal bytes at the end, still growing.
    literal: Vec<u8>,
    literal_bytes: usize,
}

/// More literal bytes than are kept.
#[derive(Debug)]
pub struct TooMuch;

impl Recorder {
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), TooMuch> {
        while !bytes.is_empty() {
            let continued = self.continue_run(bytes);
            if continued > 0 {
                bytes = &bytes[continued..];
                continue;
            }
            let Some((run, n)) = recognise(bytes) else {
                self.literal_bytes += bytes.len();
                if self.literal_bytes > LITERAL_BYTES_MAX {
                    return Err(TooMuch);
                }
                self.literal.extend_from_slice(bytes);
                return Ok(());
            };
            self.flush();
            self.content.add(run);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// How many of the bytes go on with the run at the end.
    fn continue_run(&mut self, bytes: &[u8]) -> usize {
        if !self.literal.is_empty() {
            return 0;
        }
        let Some(Run::Repeat { source, start, len }) = self.content.runs.last_mut() else { return 0 };
        let n = matching(*source, (*start + (*len % PERIOD as u64) as usize) % PERIOD, bytes);
        *len += n as u64;
        self.content.len += n as u64;
        n
    }

    fn flush(&mut self) {
        let literal = std::mem::take(&mut self.literal);
        self.content.add(Run::Literal(literal.into()));
    }

    pub fn finish(mut self) -> Content {
        self.flush();
        self.content
    }
}

/// How many of `bytes` are the source's from `start` on.
fn matching(source: Source, mut start: usize, bytes: &[u8]) -> usize {
    let all = source.bytes();
    let mut done = 0;
    while done < bytes.len() {
        let n = (bytes.len() - done).min(PERIOD - start);
        let (ours, theirs) = (&all[start..start + n], &bytes[done..done + n]);
        if ours != theirs {
            return done + ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
        }
        done += n;
        start = (start + n) % PERIOD;
    }
    done
}

/// The run that `bytes` begin with, if it is the pattern or zeros, and its length.
fn recognise(bytes: &[u8]) -> Option<(Run, usize)> {
    let first = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let (source, start) =
        if first == 0 { (Source::Zeros, 0) } else { (Source::Pattern, *places().get(&first)?) };
    let n = matching(source, start, bytes);
    (n >= RECOGNISED_MIN).then_some((Run::Repeat { source, start, len: n as u64 }, n))
}

/// Where in the pattern each sequence of eight bytes stands.
fn places() -> &'static HashMap<u64, usize> {
    static PLACES: OnceLock<HashMap<u64, usize>> = OnceLock::new();
    PLACES.get_or_init(|| {
        let pattern = Source::Pattern.bytes();
        let around = pattern.iter().chain(&pattern[..7]);
        let mut word = 0u64;
        let mut places = HashMap::with_capacity(PERIOD);
        for (at, byte) in around.enumerate() {
            word = word >> 8 | u64::from(*byte) << 56;
            if at >= 7 {
                places.insert(word, at - 7);
            }
        }
        places
    })
}

/// Compares what `input` gives with the content of `key` from `offset` on; answers how many bytes were the
/// same, and an error that names the first that is not.
pub fn check(input: &mut impl Read, key: &str, offset: u64) -> io::Result<u64> {
    let mut at = offset;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = input.read(&mut buffer)?;
        if n == 0 {
            return Ok(at - offset);
        }
        let start = (rotation(key) + (at % PERIOD as u64) as usize) % PERIOD;
        let same = matching(Source::Pattern, start, &buffer[..n]);
        if same < n {
            let differs =
                format!("not the content of {key}: the byte at offset {} differs", at + same as u64);
            return Err(io::Error::new(io::ErrorKind::InvalidData, differs));
        }
        at += n as u64;
    }
}

/// Writes the content of `key`.
pub fn write(output: &mut impl Write, key: &str, range: Range<u64>) -> io::Result<()> {
    let mut content = Content::of_key(key, range.end).slice(range);
    while let Some(frame) = content.take_frame(PERIOD) {
        output.write_all(&frame)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(content: &Content, frame_max: usize) -> Vec<u8> {
        let mut content = content.clone();
        let mut out = Vec::new();
        while let Some(frame) = content.take_frame(frame_max) {
            assert!(!frame.is_empty() && frame.len() <= frame_max);
            out.extend_from_slice(&frame);
        }
        assert_eq!(content.len(), 0);
        out
    }

    #[test]
    fn a_byte_is_a_function_of_key_and_offset() {
        let len = 3 * PERIOD;
        let whole = bytes_of(&Content::of_key("k", len as u64), 100_000);
        let pattern = Source::Pattern.bytes();
        for at in [0, 1, 4095, PERIOD - 1, PERIOD, len - 1] {
            assert_eq!(whole[at], pattern[(rotation("k") + at) % PERIOD]);
        }
        assert_ne!(whole[..1000], bytes_of(&Content::of_key("l", 1000), 1000)[..]);
        assert_ne!(whole[..4096], whole[1 << 20..(1 << 20) + 4096]);
    }

    #[test]
    fn check_finds_the_first_byte_that_differs() {
        let mut bytes = bytes_of(&Content::of_key("k", 3_000_000).slice(1_000_000..3_000_000), PERIOD);
        assert_eq!(check(&mut &bytes[..], "k", 1_000_000).unwrap(), 2_000_000);
        assert!(check(&mut &bytes[..], "k", 1_000_001).is_err());
        assert!(check(&mut &bytes[..], "other", 1_000_000).is_err());
        bytes[1_234_567] ^= 1;
        let told = check(&mut &bytes[..], "k", 1_000_000).unwrap_err().to_string();
        assert!(told.contains("offset 2234567"), "{told}");
        let mut written = Vec::new();
        write(&mut written, "k", 5..100).unwrap();
        assert_eq!(check(&mut &written[..], "k", 5).unwrap(), 95);
    }

    #[test]
    fn uploads_of_pattern_and_zeros_cost_no_memory() {
        let mut recorder = Recorder::default();
        let pattern = bytes_of(&Content::of_key("k", 3_000_000), PERIOD);
        for frame in pattern.chunks(77_777).chain(vec![0; 2_000_000].chunks(33_333)) {
            recorder.push(frame).unwrap();
        }
        let content = recorder.finish();
        assert_eq!((content.len(), content.literal_bytes()), (5_000_000, 0));
        assert_eq!(content.runs.len(), 2);
    }

    #[test]
    fn literal_bytes_have_a_cap() {
        let mut recorder = Recorder::default();
        let odd: Vec<u8> = (0..1 << 20).map(|n| mix(n + 1_000_000) as u8).collect();
        for _ in 0..LITERAL_BYTES_MAX >> 20 {
            recorder.push(&odd).unwrap();
        }
        assert!(recorder.push(&odd[..1]).is_err());
    }

    proptest! {
        #[test]
        fn what_was_pushed_comes_back(pieces in prop::collection::vec((0u8..3, 0usize..3000, 0u64..2_000_000), 0..8),
                                      frame in 1usize..5000, from in 0.0..1.0f64, to in 0.0..1.0f64) {
            let mut bytes = Vec::new();
            for (kind, len, seed) in pieces {
                match kind {
                    0 => bytes.extend(bytes_of(&Content::of_key("k", seed + len as u64).slice(seed..seed + len as u64), PERIOD)),
                    1 => bytes.resize(bytes.len() + len, 0),
                    _ => bytes.extend((0..len as u64).map(|n| mix(n ^ seed << 32) as u8)),
                }
            }
            let mut recorder = Recorder::default();
            bytes.chunks(frame).for_each(|part| recorder.push(part).unwrap());
            let content = recorder.finish();
            prop_assert_eq!(&bytes_of(&content, 1000), &bytes);
            let at = |x: f64| (x * bytes.len() as f64) as usize;
            let (from, to) = (at(from.min(to)), at(from.max(to)));
            let slice = content.slice(from as u64..to as u64);
            prop_assert_eq!(slice.len(), (to - from) as u64);
            prop_assert_eq!(&bytes_of(&slice, 700)[..], &bytes[from..to]);
            let mut joined = content.slice(0..from as u64);
            joined.append(&content.slice(from as u64..bytes.len() as u64));
            prop_assert_eq!(bytes_of(&joined, PERIOD), bytes);
        }
    }
}
