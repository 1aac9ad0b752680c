//! A set of byte ranges.
//!
//! Owns: [`RangeSet`].
//! Invariant: its ranges are not empty, do not touch, and come in order.
//! Must never know: what the bytes are.

use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges there are, none of which touch.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The end of the last range; 0 where there is none.
    pub fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, end)| *end)
    }

    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Those that touch or overlap begin at the new end at the latest.
        while let Some((s, e)) = self.ranges.range(..=end).next_back().map(|(s, e)| (*s, *e)) {
            if e < start {
                break;
            }
            self.ranges.remove(&s);
            (start, end) = (start.min(s), end.max(e));
        }
        self.ranges.insert(start, end);
    }

    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((s, e)) = self.ranges.range(..range.end).next_back().map(|(s, e)| (*s, *e)) {
            if e <= range.start {
                break;
            }
            self.ranges.remove(&s);
            if e > range.end {
                self.ranges.insert(range.end, e);
            }
            if s < range.start {
                self.ranges.insert(s, range.start);
            }
        }
    }

    /// What of `within` is in the set, in order.
    pub fn covered(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let before = self.ranges.range(..within.start).next_back();
        let inside = self.ranges.range(within.start..within.end.max(within.start));
        before
            .into_iter()
            .chain(inside)
            .map(move |(s, e)| (*s).max(within.start)..(*e).min(within.end))
            .filter(|range| !range.is_empty())
    }

    /// What of `within` is not in the set, in order.
    pub fn gaps(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let mut at = within.start;
        let mut gaps = Vec::new();
        for covered in self.covered(within.clone()) {
            if covered.start > at {
                gaps.push(at..covered.start);
            }
            at = covered.end;
        }
        if at < within.end {
            gaps.push(at..within.end);
        }
        gaps
    }

    pub fn overlaps(&self, range: Range<u64>) -> bool {
        self.covered(range).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_a_table_of_bytes_is(
            ops in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..20), 0..40),
            (from, len) in (0u64..64, 0u64..30),
        ) {
            let mut set = RangeSet::default();
            let mut table = [false; 100];
            for (insert, at, len) in ops {
                let range = at..at + len;
                table[at as usize..(at + len) as usize].fill(insert);
                if insert { set.insert(range) } else { set.remove(range) }
            }
            let all: Vec<_> = set.covered(0..100).collect();
            let held = |at: u64| all.iter().any(|range| range.contains(&at));
            prop_assert!((0..100).all(|at| held(at) == table[at as usize]));
            prop_assert!(all.windows(2).all(|pair| pair[0].end < pair[1].start), "{all:?}");
            prop_assert_eq!((set.len(), set.end()), (all.len(), all.last().map_or(0, |last| last.end)));

            let within = from..from + len;
            let covered: Vec<_> = set.covered(within.clone()).collect();
            let mut tiles = [covered.clone(), set.gaps(within.clone())].concat();
            tiles.sort_by_key(|range| range.start);
            let end = tiles.iter().try_fold(from, |at, r| (r.start == at && r.end > at).then_some(r.end));
            prop_assert_eq!(end, Some(within.end));
            prop_assert!(covered.iter().all(|r| r.clone().all(|at| table[at as usize])));
            prop_assert_eq!(set.overlaps(within), !covered.is_empty());
        }
    }
}
