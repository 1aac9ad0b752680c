//! What to fetch ahead of a reader. Pure: reads in, plans out.
//!
//! A handle's reads are a *run* as long as each follows on from the last; the kernel's own read-ahead
//! delivers them in pieces and slightly out of order, so a run forgives as many bytes as it has already
//! read, up to [`SLACK_BYTES_MAX`]. The window is twice the run: it doubles while the run goes on, and a
//! jump closes it. So a reader that jumps is given exactly what it asks for, and one that goes on soon has
//! many parts under way. A handle's first read at offset 0 is taken for a run's beginning, for most
//! files are read from start to end.

use std::ops::Range;

/// Out-of-order reads within a run, at most: the kernel's read-ahead of 1 MiB, twice.
const SLACK_BYTES_MAX: u64 = 2 << 20;
/// The window of a run that began at offset 0, at least.
const WINDOW_BYTES_FIRST: u64 = 1 << 20;
/// Less than this is not fetched ahead but at the object's end: a request costs more.
const AHEAD_BYTES_MIN: u64 = 128 << 10;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub window_bytes_max: u64,
    pub part_bytes_max: u64,
}

/// One handle's run.
#[derive(Debug, Default)]
pub struct Window {
    /// Where the run's furthest read ended.
    cursor: u64,
    /// Bytes read in this run.
    run_bytes: u64,
    /// Whether the run began at the object's start.
    from_start: bool,
    /// Up to here was planned in this run.
    planned: u64,
}

/// What to have under way: everything up to `end`, in GETs of `piece_bytes`.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    pub end: u64,
    pub piece_bytes: u64,
}

impl Window {
    /// `range` is not empty and lies within the object.
    pub fn on_read(&mut self, range: Range<u64>, object_bytes: u64, limits: Limits) -> Plan {
        if !self.goes_on(&range) {
            *self = Window { cursor: range.start, planned: range.start, ..Window::default() };
        }
        self.from_start |= range.start == 0;
        let jumped = self.run_bytes == 0 && !self.from_start;
        self.run_bytes += range.end - range.start;
        self.cursor = self.cursor.max(range.end);
        self.planned = self.planned.max(range.end);
        if jumped {
            return Plan { end: range.end, piece_bytes: limits.part_bytes_max };
        }
        let window = self.window(limits);
        let end = self.cursor.saturating_add(window).min(object_bytes);
        // Ask for more only when half the window is used up, so that requests stay large.
        let worth_it = end - self.planned >= AHEAD_BYTES_MIN || end == object_bytes;
        if self.planned - self.cursor <= window / 2 && worth_it {
            self.planned = end;
        }
        Plan { end: self.planned, piece_bytes: (window / 4).clamp(WINDOW_BYTES_FIRST, limits.part_bytes_max) }
    }

    fn goes_on(&self, range: &Range<u64>) -> bool {
        let slack = self.run_bytes.min(SLACK_BYTES_MAX);
        range.start <= self.cursor + slack && range.start + slack >= self.cursor
    }

    fn window(&self, limits: Limits) -> u64 {
        let first = if self.from_start { WINDOW_BYTES_FIRST } else { 0 };
        (self.run_bytes * 2).max(first).min(limits.window_bytes_max)
    }
}

/// `range` cut into pieces of `piece_bytes`, the last one shorter.
pub fn pieces(range: Range<u64>, piece_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let step = usize::try_from(piece_bytes.max(1)).unwrap_or(usize::MAX);
    let end = range.end;
    range.step_by(step).map(move |start| start..end.min(start.saturating_add(piece_bytes.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const LIMITS: Limits = Limits { window_bytes_max: 64 * MIB, part_bytes_max: 8 * MIB };

    #[test]
    fn a_run_from_the_start_doubles_its_window_up_to_the_limit() {
        let mut window = Window::default();
        let mut ahead = Vec::new();
        for n in 0..4096 {
            let range = n * 128 * KIB..(n + 1) * 128 * KIB;
            let plan = window.on_read(range.clone(), 1 << 30, LIMITS);
            ahead.push(plan.end - range.end);
            assert!(plan.end - range.end <= LIMITS.window_bytes_max);
        }
        assert_eq!(ahead[0], MIB);
        assert!(ahead.contains(&LIMITS.window_bytes_max));
    }

    #[test]
    fn jumps_are_given_exactly_what_they_ask_for() {
        let mut window = Window::default();
        for n in 1..100u64 {
            let start = n * 7919 * 4096 % (1 << 30);
            let plan = window.on_read(start..start + 4096, 1 << 30, LIMITS);
            assert_eq!(plan.end, start + 4096);
        }
    }

    #[test]
    fn pieces_arriving_out_of_order_are_still_a_run() {
        let mut window = Window::default();
        let mut order: Vec<u64> = (0..64).collect();
        for pair in order.chunks_mut(2) {
            pair.swap(0, 1);
        }
        order.swap(0, 1); // the first read is at 0
        for n in order {
            window.on_read(n * 128 * KIB..(n + 1) * 128 * KIB, 1 << 30, LIMITS);
        }
        assert_eq!(window.run_bytes, 8 * MIB);
    }

    proptest! {
        #[test]
        fn a_plan_covers_the_read_and_stays_within_object_and_window(
            reads in proptest::collection::vec((0u64..1 << 28, 1u64..MIB), 1..50),
        ) {
            let object = 1 << 28;
            let mut window = Window::default();
            for (start, len) in reads {
                let range = start..(start + len).min(object);
                let plan = window.on_read(range.clone(), object, LIMITS);
                prop_assert!(plan.end >= range.end && plan.end <= object);
                prop_assert!(plan.end - range.end <= LIMITS.window_bytes_max + SLACK_BYTES_MAX);
                prop_assert!(plan.piece_bytes <= LIMITS.part_bytes_max && plan.piece_bytes > 0);
            }
        }

        #[test]
        fn pieces_tile(start in 0u64..1000, len in 0u64..1000, piece in 1u64..100) {
            let mut at = start;
            for p in pieces(start..start + len, piece) {
                prop_assert_eq!(p.start, at);
                prop_assert!(p.end > p.start && p.end - p.start <= piece);
                at = p.end;
            }
            prop_assert_eq!(at, start + len);
        }
    }
}
