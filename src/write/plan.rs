//! How large each part is. Pure.
//!
//! S3 takes at most 10,000 parts of 5 MiB to 5 GiB. Small parts begin early and retry cheaply, large ones
//! reach far: so the ladder doubles the part every [`PARTS_A_RUNG`] parts. A part is held in memory until
//! S3 has it, so a fourth of `--memory` is the highest rung; [`Ladder::object_bytes_max`] says how far
//! that reaches.
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

/// `bytes` of an object in ranges that UploadPartCopy takes: none over 5 GiB, and none below 5 MiB
/// unless the whole is.
pub fn copy_ranges(bytes: u64) -> Vec<Range<u64>> {
    let count = bytes.div_ceil(COPY_BYTES_MAX).max(1);
    let even = bytes.div_ceil(count).max(1);
    (0..count).map(|n| n * even..bytes.min((n + 1) * even)).filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    #[test]
    fn the_ladder_reaches_s3s_largest_object() {
        assert_eq!(Ladder::new(8 * MIB, 4 * GIB).object_bytes_max(), OBJECT_BYTES_MAX);
        assert!(Ladder::new(8 * MIB, 512 * MIB).object_bytes_max() > 1 << 40, "by default: 1 TiB");
    }

    proptest! {
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
            let ranges = copy_ranges(bytes);
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
