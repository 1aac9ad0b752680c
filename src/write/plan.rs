//! How large each part is, and which parts are sent, which copied by the server. Pure.
//!
//! S3 takes at most 10,000 parts of 5 MiB to 5 GiB. Small parts begin early and retry cheaply, large ones
//! reach far: so the ladder doubles the part every [`PARTS_A_RUNG`] parts. A part is held in memory until
//! S3 has it, so a fourth of `--memory` is the highest rung; [`Ladder::object_bytes_max`] says how far
//! that reaches. What did not change is copied on the server's side where that is 5 MiB or more; what lies
//! between changes and is shorter is sent with them.
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.

use std::ops::Range;

use crate::config::{COPY_BYTES_MAX, OBJECT_BYTES_MAX, PART_BYTES_MAX, PART_BYTES_MIN, PARTS_MAX};

/// Parts of one size before the next size.
const PARTS_A_RUNG: u64 = 500;

#[derive(Debug, Clone, Copy)]
pub struct Ladder {
    part_bytes_first: u64,
    part_bytes_last: u64,
}

impl Ladder {
    /// `part_bytes` is the first rung, `memory_bytes` the cap on all buffers.
    pub fn new(part_bytes: u64, memory_bytes: u64) -> Ladder {
        let highest = (memory_bytes / 4).clamp(PART_BYTES_MIN, PART_BYTES_MAX);
        let part_bytes_first = part_bytes.clamp(PART_BYTES_MIN, highest);
        Ladder { part_bytes_first, part_bytes_last: highest }
    }

    /// The size of part `number` (from 1), in bytes; none past the last part S3 takes.
    pub fn part_bytes(&self, number: u64) -> Option<u64> {
        let rung = number.checked_sub(1).filter(|_| number <= PARTS_MAX)? / PARTS_A_RUNG;
        let doubled = self.part_bytes_first.saturating_mul(1 << rung.min(30));
        Some(doubled.min(self.part_bytes_last))
    }

    /// The largest object whose parts this ladder can carry, in bytes.
    pub fn object_bytes_max(&self) -> u64 {
        let sum: u64 = (1..=PARTS_MAX).filter_map(|number| self.part_bytes(number)).sum();
        sum.min(OBJECT_BYTES_MAX)
    }
}

/// `bytes` of an object in ranges that UploadPartCopy takes: none over `copy_bytes_max`, 5 GiB, and none below 5 MiB
/// unless the whole is.
pub fn copy_ranges(bytes: u64, copy_bytes_max: u64) -> Vec<Range<u64>> {
    even(bytes, bytes.div_ceil(copy_bytes_max)).filter(|range| !range.is_empty()).collect()
}

/// A stretch of a file's content, and where the server has it already, if it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch<O> {
    pub range: Range<u64>,
    pub copy: Option<Place<O>>,
}

/// Where in an object a stretch begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place<O> {
    pub object: O,
    pub offset: u64,
}

impl<O: Clone + PartialEq> Stretch<O> {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Takes `bytes` off the front.
    fn behead(&mut self, bytes: u64) {
        self.range.start += bytes;
        if let Some(place) = &mut self.copy {
            place.offset += bytes;
        }
    }

    fn is_continued_by(&self, next: &Stretch<O>) -> bool {
        match (&self.copy, &next.copy) {
            (None, None) => true,
            (Some(a), Some(b)) => a.object == b.object && a.offset + self.len() == b.offset,
            _ => false,
        }
    }

    fn cut(&self, range: Range<u64>) -> Stretch<O> {
        let ahead = range.start - self.range.start;
        let copy = self.copy.clone().map(|place| Place { offset: place.offset + ahead, ..place });
        Stretch { range, copy }
    }
}

/// What is to follow the parts that are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// Nothing: the last part may be small.
    Nothing,
    /// More parts, for which half of the numbers are left.
    More,
}

/// The parts that make up `stretches`, which lie end to end: each one Stretch, to be copied or sent. None:
/// more than S3 takes. `parts_before`: how many parts the upload has already.
///
/// Where [`Follows::More`] and all of it is less than 5 MiB, the one part is too small: the caller sees to it.
pub fn parts<O: Clone + PartialEq>(
    stretches: &[Stretch<O>],
    ladder: &Ladder,
    parts_before: u64,
    follows: Follows,
) -> Option<Vec<Stretch<O>>> {
    let total = stretches.last().map_or(0, |last| last.range.end);
    if total > OBJECT_BYTES_MAX {
        return None;
    }
    let parts_max = if follows == Follows::More { PARTS_MAX / 2 } else { PARTS_MAX };
    let parts_max = usize::try_from(parts_max.checked_sub(parts_before)?).unwrap_or(usize::MAX);
    let mut copied_min = PART_BYTES_MIN;
    loop {
        let joined = join(stretches, copied_min, follows);
        let mut sent_bytes = ladder.part_bytes_first;
        loop {
            let parts: Vec<_> = joined.iter().flat_map(|stretch| split(stretch, sent_bytes)).collect();
            if parts.len() <= parts_max {
                return Some(parts);
            }
            if sent_bytes >= ladder.part_bytes_last {
                break;
            }
            sent_bytes = sent_bytes.saturating_mul(2).min(ladder.part_bytes_last);
        }
        if copied_min > total {
            return None;
        }
        copied_min *= 2;
    }
}

/// Copies shorter than `copied_min` are sent with what is beside them, and what is sent is made as long as a
/// part must be.
fn join<O: Clone + PartialEq>(
    stretches: &[Stretch<O>],
    copied_min: u64,
    follows: Follows,
) -> Vec<Stretch<O>> {
    let mut runs: Vec<Stretch<O>> = Vec::new();
    for stretch in stretches.iter().filter(|stretch| !stretch.range.is_empty()) {
        match runs.last_mut() {
            Some(last) if last.is_continued_by(stretch) => last.range.end = stretch.range.end,
            _ => runs.push(stretch.clone()),
        }
    }
    for run in runs.iter_mut().filter(|run| run.len() < copied_min) {
        run.copy = None;
    }
    let mut joined: Vec<Stretch<O>> = Vec::new();
    let mut runs = runs.into_iter().peekable();
    while let Some(mut run) = runs.next() {
        if let Some(last) = joined.last_mut()
            && last.copy.is_none()
            && (run.copy.is_none() || last.len() < PART_BYTES_MIN)
        {
            // What is sent is too short: it takes what it lacks of the copy, or all where too little is left.
            let lacks = PART_BYTES_MIN.saturating_sub(last.len());
            let is_last = runs.peek().is_none() && follows == Follows::Nothing;
            if run.copy.is_some() && run.len() > lacks && (is_last || run.len() - lacks >= PART_BYTES_MIN) {
                last.range.end += lacks;
                run.behead(lacks);
                joined.push(run);
            } else {
                last.range.end = run.range.end;
            }
            continue;
        }
        joined.push(run);
    }
    if follows == Follows::More
        && let [.., before, last] = &mut joined[..]
        && last.copy.is_none()
        && last.len() < PART_BYTES_MIN
    {
        let lacks = PART_BYTES_MIN - last.len();
        if before.len() - lacks >= PART_BYTES_MIN {
            before.range.end -= lacks;
            last.range.start -= lacks;
        } else {
            before.range.end = last.range.end;
            before.copy = None;
            joined.pop();
        }
    }
    joined
}

/// A stretch in parts of equal size: copies up to 5 GiB, what is sent about `sent_bytes`.
fn split<O: Clone + PartialEq>(stretch: &Stretch<O>, sent_bytes: u64) -> Vec<Stretch<O>> {
    let (start, len) = (stretch.range.start, stretch.len());
    let count = match stretch.copy {
        Some(_) => len.div_ceil(COPY_BYTES_MAX),
        None => len.div_ceil(sent_bytes).min(len / PART_BYTES_MIN),
    };
    even(len, count).map(|range| stretch.cut(start + range.start..start + range.end)).collect()
}

fn even(bytes: u64, count: u64) -> impl Iterator<Item = Range<u64>> {
    let count = count.max(1);
    let (each, more) = (bytes / count, bytes % count);
    (0..count).map(move |n| n * each + n.min(more)..(n + 1) * each + (n + 1).min(more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::RangeSet;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    #[test]
    fn the_ladder_reaches_s3s_largest_object() {
        assert_eq!(Ladder::new(8 * MIB, 4 * GIB).object_bytes_max(), OBJECT_BYTES_MAX);
        assert!(Ladder::new(8 * MIB, 512 * MIB).object_bytes_max() > 1 << 40, "by default: 1 TiB");
    }

    /// Object 0 of `size` bytes in which `changed` was written.
    fn edited(size: u64, changed: impl IntoIterator<Item = Range<u64>>) -> Vec<Stretch<u8>> {
        let mut set = RangeSet::default();
        changed.into_iter().for_each(|range| set.insert(range));
        let end = size.max(set.end());
        let sent = set.covered(0..end).map(|range| Stretch { range, copy: None });
        let copied = set.gaps(0..end).into_iter().map(|range| {
            let copy = Some(Place { object: 0, offset: range.start });
            Stretch { range, copy }
        });
        let mut all: Vec<_> = sent.chain(copied).collect();
        all.sort_by_key(|stretch| stretch.range.start);
        all
    }

    fn ladder() -> Ladder {
        Ladder::new(8 * MIB, 512 * MIB)
    }

    fn sent(parts: &[Stretch<u8>]) -> u64 {
        parts.iter().filter(|part| part.copy.is_none()).map(Stretch::len).sum()
    }

    #[test]
    fn a_small_change_in_a_large_object_sends_one_part() {
        for at in [0, 1000, 256 * MIB, 512 * MIB - 2048] {
            let parts =
                parts(&edited(512 * MIB, Some(at..at + 1024)), &ladder(), 0, Follows::Nothing).unwrap();
            assert!(parts.len() <= 3 && sent(&parts) <= PART_BYTES_MIN, "at {at}: {parts:?}");
        }
    }

    #[test]
    fn appending_to_ten_gib_sends_one_part() {
        let appended = edited(10 * GIB, Some(10 * GIB..10 * GIB + 100));
        let parts = parts(&appended, &ladder(), 0, Follows::Nothing).unwrap();
        assert_eq!((parts.len(), sent(&parts)), (3, 100), "{parts:?}");
    }

    #[test]
    fn thousands_of_changes_fit_ten_thousand_parts() {
        let changed: Vec<_> = (0..20_000).map(|n| n * 11 * MIB..n * 11 * MIB + 4096).collect();
        let parts = parts(&edited(20_000 * 11 * MIB, changed), &ladder(), 0, Follows::Nothing).unwrap();
        assert!(parts.len() as u64 <= PARTS_MAX);
        let all = edited(OBJECT_BYTES_MAX + 1, None);
        assert_eq!(super::parts(&all, &ladder(), 0, Follows::Nothing), None, "larger than any object");
    }

    proptest! {
        #[test]
        fn parts_tile_the_file_within_s3s_limits_and_send_little(
            size in prop_oneof![0..40 * MIB, 0..2 * GIB, 0..20 * GIB],
            changes in prop::collection::vec((0u64..1 << 20, prop_oneof![1..5000u64, 1..20 * MIB]), 0..12),
            more in any::<bool>(),
            before in 0u64..4000,
        ) {
            let changed: Vec<_> = changes.iter().map(|(at, len)| {
                let at = (size * at) >> 20;
                at..at + len
            }).collect();
            let stretches = edited(size, changed.clone());
            let total = stretches.last().map_or(0, |last| last.range.end);
            prop_assume!(total > 0 && (!more || total >= PART_BYTES_MIN));
            let follows = if more { Follows::More } else { Follows::Nothing };
            let parts = parts(&stretches, &ladder(), before, follows).expect("it fits");
            prop_assert!(parts.len() as u64 + before <= PARTS_MAX);
            let mut at = 0;
            for (n, part) in parts.iter().enumerate() {
                prop_assert_eq!(part.range.start, at);
                let last = n + 1 == parts.len() && !more;
                prop_assert!(last || part.len() >= PART_BYTES_MIN, "{:?}", part);
                prop_assert!(part.len() > 0 && part.len() <= COPY_BYTES_MAX);
                match &part.copy {
                    Some(place) => {
                        prop_assert_eq!(place.offset, at);
                        prop_assert!(part.range.end <= size);
                        prop_assert!(changed.iter().all(|c| c.end <= at || c.start >= part.range.end));
                    }
                    None => prop_assert!(part.len() <= 2 * ladder().part_bytes_last),
                }
                at = part.range.end;
            }
            prop_assert_eq!(at, total);
            let least: u64 = stretches.iter().filter(|s| s.copy.is_none()).map(Stretch::len).sum();
            let most = least + 2 * PART_BYTES_MIN * (changed.len() as u64 + 1);
            prop_assert!(sent(&parts) <= most, "{} sent of {least} changed", sent(&parts));
        }

        #[test]
        fn parts_keep_s3s_limits(first in 1u64..8 * GIB, memory in 64 * MIB..64 * GIB, number in 0u64..12_000) {
            match Ladder::new(first, memory).part_bytes(number) {
                Some(bytes) => {
                    prop_assert!((1..=PARTS_MAX).contains(&number));
                    prop_assert!((PART_BYTES_MIN..=PART_BYTES_MAX).contains(&bytes));
                    prop_assert!(bytes <= (memory / 4).max(PART_BYTES_MIN));
                }
                None => prop_assert!(number == 0 || number > PARTS_MAX),
            }
        }

        #[test]
        fn copies_tile_within_the_limits(bytes in 1u64..OBJECT_BYTES_MAX) {
            let ranges = copy_ranges(bytes, COPY_BYTES_MAX);
            let mut at = 0;
            for range in &ranges {
                prop_assert_eq!(range.start, at);
                let len = range.end - range.start;
                prop_assert!(len <= COPY_BYTES_MAX);
                prop_assert!(ranges.len() == 1 || len >= PART_BYTES_MIN);
                at = range.end;
            }
            prop_assert_eq!(at, bytes);
            prop_assert!(ranges.len() as u64 <= PARTS_MAX);
        }
    }
}
