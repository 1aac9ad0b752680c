//! The journal's lines: a checksum, a space, a record as JSON. Pure.
//!
//! Owns: [`Record`], how one is written and read, and what is open after a run of them.
//! Invariants: a line that was torn or changed is not taken for a record, and spoils no other line.

use std::collections::BTreeMap;

use crc_fast::{CrcAlgorithm, checksum};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Intent, Open};

/// Raise it with every change that an earlier pailfs would misread.
pub(super) const FORMAT: u32 = 3;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// The first line of a file.
    Format(u32),
    Begin {
        id: u64,
        intent: Intent,
    },
    Commit {
        id: u64,
    },
    End {
        id: u64,
    },
}

/// With its final newline.
pub(super) fn line<T: Serialize>(record: &T) -> String {
    let json = serde_json::to_string(record).expect("strings and numbers are JSON");
    format!("{:08x} {json}\n", sum(json.as_bytes()))
}

/// None: torn, changed, or none of ours.
pub(super) fn read<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (told, json) = (line.get(..8)?, line.get(9..)?);
    let told = u64::from_str_radix(std::str::from_utf8(told).ok()?, 16).ok()?;
    if line.get(8) != Some(&b' ') || told != sum(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn sum(json: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc32Iscsi, json)
}

/// What a file tells.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Told {
    /// Begun and not ended.
    pub open: BTreeMap<u64, Open>,
    /// Lines that are no records, but for a torn last one.
    pub spoilt: usize,
    /// None: a file that was torn in its first line, where nothing can have been begun.
    pub format: Option<u32>,
}

pub(super) fn told(bytes: &[u8]) -> Told {
    let mut told = Told::default();
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let Some(whole) = line.strip_suffix(b"\n") else { break };
        match read(whole) {
            Some(Record::Format(format)) => told.format = Some(format),
            Some(Record::Begin { id, intent }) => {
                told.open.insert(id, Open { id, intent, committed: false });
            }
            Some(Record::Commit { id }) => {
                if let Some(open) = told.open.get_mut(&id) {
                    open.committed = true;
                }
            }
            Some(Record::End { id }) => {
                told.open.remove(&id);
            }
            None => told.spoilt += 1,
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use proptest::prelude::*;

    fn records() -> Vec<Record> {
        let upload = |key: &str| Intent::Upload { key: key.into(), upload_id: "id".into() };
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        let rename = Intent::Rename { from: "a\n/".into(), to: "ü \"/".into(), over: true, at };
        vec![
            Record::Format(FORMAT),
            Record::Begin { id: 0, intent: upload("a") },
            Record::Begin { id: 1, intent: rename },
            Record::End { id: 0 },
            Record::Commit { id: 1 },
            Record::Begin { id: 2, intent: upload("c") },
        ]
    }

    fn bytes(records: &[Record]) -> Vec<u8> {
        records.iter().map(line).collect::<String>().into_bytes()
    }

    #[test]
    fn what_is_begun_and_not_ended_is_told() {
        let told = told(&bytes(&records()));
        let open: Vec<(u64, bool)> = told.open.values().map(|open| (open.id, open.committed)).collect();
        assert_eq!(open, [(1, true), (2, false)]);
        assert_eq!((told.spoilt, told.format), (0, Some(FORMAT)));
    }

    #[test]
    fn lines_read_as_they_were_written_in_the_first_release() {
        let line = line(&records()[1]);
        assert_eq!(
            line,
            "87db4734 {\"begin\":{\"id\":0,\"intent\":{\"upload\":{\"key\":\"a\",\"upload_id\":\"id\"}}}}\n"
        );
    }

    proptest! {
        #[test]
        fn a_torn_tail_is_cut(cut in 0usize..1000) {
            let all = bytes(&records());
            let cut = cut.min(all.len());
            let whole_lines = all[..cut].iter().filter(|b| **b == b'\n').count();
            prop_assert_eq!(told(&all[..cut]), told(&bytes(&records()[..whole_lines])));
        }

        #[test]
        fn a_changed_byte_costs_its_line_and_no_other(at in 0usize..1000, to in any::<u8>()) {
            let mut all = bytes(&records());
            let at = at % all.len();
            prop_assume!(all[at] != to && all[at] != b'\n' && to != b'\n');
            let number = all[..at].iter().filter(|b| **b == b'\n').count();
            all[at] = to;
            let mut left = records();
            left.remove(number);
            let told = told(&all);
            // The checksum's hex digits are read in either case.
            if told.spoilt > 0 {
                prop_assert_eq!((told.spoilt, told.open), (1, super::told(&bytes(&left)).open));
            } else {
                prop_assert_eq!(told.open, super::told(&bytes(&records())).open);
            }
        }
    }
}
