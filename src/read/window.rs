//! What to fetch ahead of a reader. Pure: reads in, plans out.
//!
//! **Runs.** A handle's reads form *runs*, each read following on from the run's last. A handle may have
//! several at once (two interleaved scans; the column chunks of a parquet file), at most [`RUNS_MAX`]; the one
//! that was idle longest is forgotten. The kernel delivers a run's reads in pieces and slightly out of
//! order, so a run forgives as many bytes as it has already read, up to [`SLACK_BYTES_MAX`].
//!
//! **The window** is how far a run is fetched ahead of its furthest read:
//! - at first as far as the run is long, so that never more than twice of what is read is fetched; a run that
//!   begins at the object's start gets four times that, and at least [`WINDOW_BYTES_FIRST`], since most files
//!   are read from start to end;
//! - from [`WINDOW_BYTES_EASY`] on only as far as it helps: a window twice as large is tried, and kept where
//!   it made the reader a fourth faster. So it grows to bandwidth x latency and no further: where the line, the
//!   processor or the program itself is the limit, a larger window brings nothing.
//!
//! **Jumps.** A read that follows on from no run begins a new one, and is given exactly what it asks for. Where
//! the last jumps were equally long and equally far apart (a strided scan, a backward scan), what the next
//! ones will ask for is fetched, twice as much each time up to [`STRIDES_BYTES_MAX`].
//!
//! **Small objects**, up to [`SMALL_BYTES_MAX`], are fetched whole on their second read.

use std::ops::Range;
use std::time::Instant;

/// Runs that a handle may have at once.
const RUNS_MAX: usize = 8;
/// Out-of-order reads within a run, at most: the kernel's read-ahead of 1 MiB, twice.
const SLACK_BYTES_MAX: u64 = 2 << 20;
/// The window of a run that began at offset 0, at least.
const WINDOW_BYTES_FIRST: u64 = 1 << 20;
/// Up to here a window follows from the run's length alone.
const WINDOW_BYTES_EASY: u64 = 16 << 20;
/// A window twice as large must bring at least this much.
const WORTH_IT: f64 = 1.25;
/// Where it did not, it is tried again after reading this many windows, for things change.
const WINDOWS_UNTIL_TRIED_AGAIN: u32 = 16;
/// Windows end at multiples of this (a block of the disk cache), and so do requests.
const GRAIN_BYTES: u64 = 1 << 20;
/// The longest request: a window of 64 MiB has 32 of them under way, as many connections of 90 MB/s as it
/// takes to bring more than a gigabyte a second; longer ones would be cheaper, but fewer side by side.
const PIECE_BYTES_MAX: u64 = 2 << 20;
/// Less than this is not fetched ahead but at the object's end: a request costs more.
const AHEAD_BYTES_MIN: u64 = 128 << 10;
/// Equal distances between jumps that make a pattern.
const STRIDES_MIN: u32 = 2;
/// How much of a pattern of jumps is fetched ahead, in bytes.
const STRIDES_BYTES_MAX: u64 = 8 << 20;
/// And how many requests that may be.
const STRIDES_MAX: u64 = 32;
/// An object up to this size is cheaper to fetch whole than twice.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// One handle's runs and jumps.
#[derive(Debug, Default)]
pub struct Window {
    /// The one read last comes last.
    runs: Vec<Run>,
    jumps: Jumps,
    reads: u64,
}

#[derive(Debug)]
struct Run {
    start: u64,
    /// Where its furthest read ended.
    cursor: u64,
    /// Bytes read.
    bytes: u64,
    /// Up to here was planned.
    planned: u64,
    window: u64,
    trial: Trial,
}

/// The search for the window that is large enough.
#[derive(Debug)]
struct Trial {
    /// Still to be read of what was asked for with the window before.
    skip_bytes: u64,
    /// Read since then, and since when: measured when it is as much as the window.
    bytes: u64,
    since: Instant,
    /// In bytes a second, with half of this window; none: no other window is on trial.
    rate_before: Option<f64>,
    /// Windows to read until the next trial.
    wait: u32,
}

/// The reads that began runs.
#[derive(Debug, Default)]
struct Jumps {
    /// The last one's start, and the bytes of the run that followed.
    last: Option<(u64, u64)>,
    distance: i64,
    /// How often in a row the distance was the same.
    equal: u32,
    /// How many jumps ahead were planned still.
    planned: u64,
}

/// What to have under way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The read itself and what to fetch ahead of it, the nearest first, in GETs of up to `piece_bytes`.
    pub ranges: Vec<Range<u64>>,
    pub piece_bytes: u64,
    /// What the run has left behind: no longer needed.
    pub passed: Range<u64>,
}

impl Window {
    /// `range` is not empty and lies within the object. No window is larger than `window_bytes_max`.
    pub fn on_read(
        &mut self,
        range: Range<u64>,
        object_bytes: u64,
        window_bytes_max: u64,
        now: Instant,
    ) -> Plan {
        self.reads += 1;
        let follows = self.runs.iter().rposition(|run| run.goes_on(&range));
        let mut ahead = Vec::new();
        let run = match follows {
            Some(at) => self.runs.remove(at),
            None => {
                ahead = self.jumps.on_jump(range.clone(), object_bytes, window_bytes_max);
                if self.runs.len() == RUNS_MAX {
                    self.runs.remove(0);
                }
                Run::new(range.start, now)
            }
        };
        // What another run has passed is no longer there, and was read.
        let passed_next = self.runs.iter().filter(|run| !run.passed().is_empty()).map(|run| run.start);
        let end = passed_next.filter(|start| *start >= range.end).min().unwrap_or(object_bytes);
        self.runs.push(run);
        let run = self.runs.last_mut().expect("pushed just now");
        run.on_read(&range, window_bytes_max, now);
        self.jumps.follow(run);
        let small = object_bytes <= SMALL_BYTES_MAX && self.reads > 1;
        let mut ranges = vec![if small { 0..object_bytes } else { range.start..run.plan(end) }];
        ranges.append(&mut ahead);
        Plan { ranges, piece_bytes: run.piece_bytes(), passed: run.passed() }
    }

    /// What each run has read.
    pub fn runs_read(&self) -> impl Iterator<Item = Range<u64>> {
        self.runs.iter().map(|run| run.start..run.cursor)
    }

    /// The furthest any run of this handle is fetched ahead now, in bytes.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.window).max().unwrap_or(0)
    }
}

impl Run {
    fn new(start: u64, now: Instant) -> Run {
        let trial = Trial { skip_bytes: 0, bytes: 0, since: now, rate_before: None, wait: 1 };
        Run { start, cursor: start, bytes: 0, planned: start, window: 0, trial }
    }

    fn passed(&self) -> Range<u64> {
        self.start..self.cursor.saturating_sub(SLACK_BYTES_MAX).max(self.start)
    }

    fn goes_on(&self, range: &Range<u64>) -> bool {
        let slack = self.bytes.min(SLACK_BYTES_MAX);
        range.start <= self.cursor + slack && range.start + slack >= self.cursor
    }

    fn on_read(&mut self, range: &Range<u64>, window_bytes_max: u64, now: Instant) {
        let bytes = range.end - range.start;
        let jumped = self.bytes == 0 && self.start > 0;
        self.bytes += bytes;
        self.cursor = self.cursor.max(range.end);
        self.planned = self.planned.max(range.end);
        let easy = match self.start {
            0 => (self.bytes * 4).clamp(WINDOW_BYTES_FIRST, WINDOW_BYTES_EASY),
            _ if jumped => 0,
            _ => self.bytes.min(WINDOW_BYTES_EASY),
        };
        if self.window >= WINDOW_BYTES_EASY {
            self.window = self.trial.on_read(bytes, self.window, window_bytes_max, now);
        }
        self.window = self.window.max(easy).min(window_bytes_max);
    }

    fn piece_bytes(&self) -> u64 {
        (self.window / 8 / GRAIN_BYTES * GRAIN_BYTES).clamp(GRAIN_BYTES, PIECE_BYTES_MAX)
    }

    /// Up to where to have fetched, `end` at most. Moves on in whole pieces, so that requests stay large.
    fn plan(&mut self, end: u64) -> u64 {
        let reach = self.cursor.saturating_add(self.window);
        let piece = self.piece_bytes();
        let large = self.window >= 4 * piece;
        let to = match reach {
            _ if reach >= end => end,
            _ if large => reach / piece * piece,
            _ if self.start == 0 => reach / GRAIN_BYTES * GRAIN_BYTES,
            _ => reach,
        };
        // A window of few pieces is asked for in halves.
        let worth_it = if large { 1 } else { (self.window / 2).max(AHEAD_BYTES_MIN) };
        if to == end || to.saturating_sub(self.planned) >= worth_it {
            self.planned = self.planned.max(to);
        }
        self.planned = self.planned.min(end);
        self.planned
    }
}

impl Trial {
    /// Answers what the window is now.
    fn on_read(&mut self, bytes: u64, window: u64, window_bytes_max: u64, now: Instant) -> u64 {
        if self.skip_bytes > 0 {
            self.skip_bytes = self.skip_bytes.saturating_sub(bytes);
            (self.bytes, self.since) = (0, now);
            return window;
        }
        self.bytes += bytes;
        if self.bytes < window {
            return window;
        }
        let rate = self.bytes as f64 / now.saturating_duration_since(self.since).as_secs_f64().max(1e-6);
        (self.bytes, self.since) = (0, now);
        match self.rate_before {
            Some(before) if rate < before * WORTH_IT => {
                (self.rate_before, self.wait) = (None, WINDOWS_UNTIL_TRIED_AGAIN);
                window / 2
            }
            None if self.wait > 1 => {
                self.wait -= 1;
                window
            }
            _ if window * 2 <= window_bytes_max => {
                (self.rate_before, self.skip_bytes) = (Some(rate), window);
                window * 2
            }
            _ => {
                self.rate_before = None;
                window
            }
        }
    }
}

impl Jumps {
    /// What to fetch for the jumps to come.
    fn on_jump(&mut self, range: Range<u64>, object_bytes: u64, window_bytes_max: u64) -> Vec<Range<u64>> {
        let last = self.last.replace((range.start, 0));
        let Some((last_start, last_bytes)) = last else { return Vec::new() };
        let distance = range.start.cast_signed().wrapping_sub(last_start.cast_signed());
        if distance != self.distance {
            (self.distance, self.equal, self.planned) = (distance, 0, 0);
            return Vec::new();
        }
        self.equal = self.equal.saturating_add(1);
        self.planned = self.planned.saturating_sub(1);
        if self.equal < STRIDES_MIN {
            return Vec::new();
        }
        let bytes = last_bytes.max(range.end - range.start);
        let room = STRIDES_BYTES_MAX.min(window_bytes_max) / bytes;
        let dense = distance.unsigned_abs() <= 2 * bytes;
        let jumps = (1u64 << self.equal.min(20)).min(room).min(if dense { u64::MAX } else { STRIDES_MAX });
        if self.planned > jumps / 2 {
            return Vec::new();
        }
        let from = self.planned + 1;
        self.planned = jumps;
        merged((from..=jumps).map_while(|n| {
            let start = range.start.checked_add_signed(distance.checked_mul(n.cast_signed())?)?;
            (start < object_bytes).then(|| start..object_bytes.min(start + bytes))
        }))
    }

    /// The last jump's run goes on.
    fn follow(&mut self, run: &Run) {
        if let Some((start, bytes)) = &mut self.last
            && *start == run.start
        {
            *bytes = run.bytes;
        }
    }
}

/// Ranges that touch, or lie closer to each other than they are long, become one.
fn merged(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start >= last.end && range.start - last.end <= range.end - range.start => {
                last.end = range.end;
            }
            Some(last) if range.end <= last.start && last.start - range.end <= range.end - range.start => {
                last.start = range.start;
            }
            _ => out.push(range),
        }
    }
    out
}

/// `range` cut into pieces of `piece_bytes` at its multiples: the first and the last may be shorter.
pub fn pieces(range: Range<u64>, piece_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let piece_bytes = piece_bytes.max(1);
    let mut at = range.start;
    std::iter::from_fn(move || {
        let end = range.end.min((at / piece_bytes + 1).saturating_mul(piece_bytes));
        let piece = at..end;
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests;
