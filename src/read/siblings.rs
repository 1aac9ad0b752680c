//! Small files read in the order of their listing: which ones to fetch ahead. Pure: opens in, places out.
//!
//! A program that reads a directory's files one after another (cat, tar, cp -r, grep -r, a data loader) pays
//! a round trip a file, unless the next ones are there when it comes to them. A *walk* is a sequence
//! of opens, each of a file that was expected next; it expects the files that follow in the listing's
//! order, going on into the next directory. Each open of what was expected first doubles how many files
//! are fetched ahead, up to [`FILES_MAX`] and as many bytes as the caller allows. Several programs, or a
//! directory and its subdirectories, are walks of their own, at most [`WALKS_MAX`].
//!
//! Parallel readers open files slightly out of order: a walk forgives up to [`LATE_MAX`] files that were
//! expected and not opened yet. When there are more the order is broken, and at once nothing more is fetched.
//! Must never know: what a place is, whether it was fetched before.

use std::collections::VecDeque;

const WALKS_MAX: usize = 8;
/// Files fetched ahead in one walk.
const FILES_MAX: usize = 64;
/// Files left behind in one walk.
const LATE_MAX: usize = 8;

/// A file that follows another, and how many bytes of it are worth fetching ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next<P> {
    pub place: P,
    pub bytes: u64,
}

/// The walks under way; the one that went on last comes last.
#[derive(Debug)]
pub struct Walks<P>(VecDeque<Walk<P>>);

#[derive(Debug)]
struct Walk<P> {
    /// Expected, in order; what was fetched comes first.
    ahead: VecDeque<Next<P>>,
    fetched: usize,
    /// How many files to fetch ahead.
    window: usize,
}

impl<P> Default for Walks<P> {
    fn default() -> Walks<P> {
        Walks(VecDeque::new())
    }
}

impl<P: Clone + Eq> Walks<P> {
    /// A file was opened. Answers what is to be fetched now: `bytes_max` bounds what one walk has ahead.
    /// `following` tells up to so many files that come after one.
    pub fn on_open(
        &mut self,
        place: &P,
        bytes_max: u64,
        following: impl FnOnce(&P, usize) -> Vec<Next<P>>,
    ) -> Vec<Next<P>> {
        let expected = |walk: &Walk<P>| walk.ahead.iter().position(|next| next.place == *place);
        let found = self.0.iter().enumerate().find_map(|(at, walk)| Some((at, expected(walk)?)));
        let walk = match found {
            Some((at, position)) => {
                let mut walk = self.0.remove(at).expect("found there just now");
                walk.on_expected(position);
                walk
            }
            None => {
                if self.0.len() == WALKS_MAX {
                    self.0.pop_front();
                }
                Walk { ahead: VecDeque::new(), fetched: 0, window: 0 }
            }
        };
        self.0.push_back(walk);
        self.0.back_mut().expect("pushed just now").go_on(place, bytes_max, following)
    }
}

impl<P: Clone + Eq> Walk<P> {
    fn on_expected(&mut self, position: usize) {
        self.ahead.remove(position);
        self.fetched -= usize::from(position < self.fetched);
        if position == 0 {
            self.window = (self.window * 2).clamp(1, FILES_MAX);
        } else if position > LATE_MAX {
            self.ahead.drain(..position);
            self.fetched = self.fetched.saturating_sub(position);
            self.window = 0;
        }
    }

    fn go_on(
        &mut self,
        place: &P,
        bytes_max: u64,
        following: impl FnOnce(&P, usize) -> Vec<Next<P>>,
    ) -> Vec<Next<P>> {
        // Without a window the next one is expected all the same: that is how a walk begins.
        let missing = self.window.max(1).saturating_sub(self.ahead.len());
        if missing > 0 {
            let last = self.ahead.back().map_or(place, |next| &next.place);
            let more = following(last, missing);
            self.ahead.extend(more);
        }
        let mut bytes: u64 = self.ahead.iter().take(self.fetched).map(|next| next.bytes).sum();
        let mut now = Vec::new();
        while let Some(next) = self.ahead.get(self.fetched).filter(|_| self.fetched < self.window) {
            bytes += next.bytes;
            if bytes > bytes_max {
                break;
            }
            now.push(next.clone());
            self.fetched += 1;
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: u64 = 1024;

    /// Files are numbers, each followed by the next up to 1000.
    fn following(after: &u32, count: usize) -> Vec<Next<u32>> {
        (*after + 1..=1000).take(count).map(|place| Next { place, bytes: 100 * KIB }).collect()
    }

    fn open(walks: &mut Walks<u32>, place: u32) -> Vec<u32> {
        walks.on_open(&place, 4 << 20, following).into_iter().map(|next| next.place).collect()
    }

    #[test]
    fn files_opened_in_order_are_fetched_ahead_twice_as_many_each_time() {
        let mut walks = Walks::default();
        assert_eq!(open(&mut walks, 1), [0; 0]);
        assert_eq!(open(&mut walks, 2), [3]);
        assert_eq!(open(&mut walks, 3), [4, 5]);
        assert_eq!(open(&mut walks, 4), [6, 7, 8]);
        let mut next = 9;
        for n in 5..=1000 {
            for fetched in open(&mut walks, n) {
                assert_eq!(fetched, next, "each once, in order");
                next += 1;
            }
            assert!(next - n <= 41, "4 MiB hold 40 files of 100 KiB");
        }
        assert_eq!(next, 1001);
    }

    #[test]
    fn other_orders_fetch_nothing() {
        let backward: Vec<u32> = (1..500).rev().collect();
        let each_second: Vec<u32> = (1..500).step_by(2).collect();
        for order in [backward, each_second] {
            let mut walks = Walks::default();
            for n in order {
                assert_eq!(open(&mut walks, n), [0; 0]);
            }
        }
    }

    #[test]
    fn when_the_order_breaks_nothing_more_is_fetched() {
        let mut walks = Walks::default();
        (1..100).for_each(|n| drop(open(&mut walks, n)));
        assert_eq!(open(&mut walks, 700), [0; 0]);
        assert_eq!(open(&mut walks, 120), [0; 0], "too many left behind");
        assert_eq!(open(&mut walks, 122), [0; 0]);
    }

    #[test]
    fn parallel_readers_are_one_walk() {
        let mut walks = Walks::default();
        let mut fetched = Vec::new();
        for n in (1..400).step_by(4) {
            for place in [n, n + 2, n + 1, n + 3] {
                fetched.extend(open(&mut walks, place));
            }
        }
        assert!((390..410).contains(&fetched.len()), "{fetched:?}");
    }

    #[test]
    fn interleaved_walks_go_on_side_by_side() {
        let mut walks = Walks::default();
        let mut fetched = 0;
        for n in 0..50 {
            for start in [1, 300, 600] {
                fetched += open(&mut walks, start + n).len();
            }
        }
        assert!(fetched >= 3 * 49);
    }

    proptest! {
        #[test]
        fn what_is_held_is_bounded(opens in prop::collection::vec(0u32..1000, 0..300)) {
            let mut walks = Walks::default();
            for place in opens {
                open(&mut walks, place);
                prop_assert!(walks.0.len() <= WALKS_MAX);
                for walk in &walks.0 {
                    prop_assert!(walk.ahead.len() <= FILES_MAX + LATE_MAX + 1);
                    prop_assert!(walk.fetched <= walk.ahead.len());
                    let bytes: u64 = walk.ahead.iter().take(walk.fetched).map(|next| next.bytes).sum();
                    prop_assert!(bytes <= 4 << 20);
                }
            }
        }
    }
}
