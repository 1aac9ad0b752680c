//! What was asked for, and how slow the answers are.
//!
//! Owns: [`Counts`], [`Delays`].
//! Must never know: HTTP.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The kinds of requests, by what S3 asks money and time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Get,
    Head,
    List,
    Put,
    Copy,
    Delete,
    DeleteObjects,
    CreateMultipart,
    Part,
    PartCopy,
    Complete,
    Abort,
    /// Everything else: buckets, their settings, lists of uploads.
    Other,
}

pub const KINDS: [(Kind, &str); 13] = [
    (Kind::Get, "GET"),
    (Kind::Head, "HEAD"),
    (Kind::List, "LIST"),
    (Kind::Put, "PUT"),
    (Kind::Copy, "COPY"),
    (Kind::Delete, "DELETE"),
    (Kind::DeleteObjects, "DELETE_OBJECTS"),
    (Kind::CreateMultipart, "CREATE"),
    (Kind::Part, "PART"),
    (Kind::PartCopy, "PART_COPY"),
    (Kind::Complete, "COMPLETE"),
    (Kind::Abort, "ABORT"),
    (Kind::Other, "OTHER"),
];

#[derive(Debug, Default)]
pub struct Counts {
    requests: [AtomicU64; KINDS.len()],
    /// Of GETs: what the ranges came to, or the whole object.
    pub bytes_asked: AtomicU64,
    /// Of GETs: what the connections took.
    pub bytes_sent: AtomicU64,
    /// Of uploads.
    pub bytes_received: AtomicU64,
    /// GETs being answered now, and the most at once.
    gets_now: AtomicU64,
    gets_at_once: AtomicU64,
}

impl Counts {
    pub fn request(&self, kind: Kind) {
        self.requests[kind as usize].fetch_add(1, Relaxed);
    }

    pub fn get_begins(&self) {
        let now = self.gets_now.fetch_add(1, Relaxed) + 1;
        self.gets_at_once.fetch_max(now, Relaxed);
    }

    pub fn get_ends(&self) {
        self.gets_now.fetch_sub(1, Relaxed);
    }

    /// All but what is under way now.
    pub fn reset(&self) {
        let others = [&self.bytes_asked, &self.bytes_sent, &self.bytes_received];
        self.requests.iter().chain(others).for_each(|count| count.store(0, Relaxed));
        self.gets_at_once.store(self.gets_now.load(Relaxed), Relaxed);
    }

    pub fn json(&self) -> String {
        let requests = KINDS.iter().map(|(kind, name)| (*name, &self.requests[*kind as usize]));
        let others = [
            ("bytes_asked", &self.bytes_asked),
            ("bytes_sent", &self.bytes_sent),
            ("bytes_received", &self.bytes_received),
            ("gets_at_once", &self.gets_at_once),
        ];
        let fields =
            requests.chain(others).map(|(name, count)| format!("\"{name}\":{}", count.load(Relaxed)));
        format!("{{{}}}\n", fields.collect::<Vec<_>>().join(","))
    }
}

/// All may be 0: none, and no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Delays {
    /// Until the first byte of a GET, a HEAD and of all that is not named here
    #[arg(long, default_value_t = 20, value_name = "MS")]
    pub first_byte_ms: u64,
    /// Until the first byte of a page of a listing
    #[arg(long, default_value_t = 40, value_name = "MS")]
    pub list_ms: u64,
    /// From the last byte of a write (PUT, POST, DELETE, copy) to its answer
    #[arg(long, default_value_t = 30, value_name = "MS")]
    pub write_ms: u64,
    /// Bandwidth of each connection, both ways, in 10^6 bytes a second
    #[arg(long, default_value_t = 90, value_name = "MB")]
    pub mb_per_second: u64,
}

impl Delays {
    /// `first_byte_ms=0&mb_per_second=90`: what is not named stays.
    pub fn set(&mut self, query: &str) -> Result<(), String> {
        let mut changed = *self;
        for part in query.split('&') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let place = match name {
                "first_byte_ms" => &mut changed.first_byte_ms,
                "list_ms" => &mut changed.list_ms,
                "write_ms" => &mut changed.write_ms,
                "mb_per_second" => &mut changed.mb_per_second,
                _ => {
                    return Err(format!(
                        "{part:?}: expected first_byte_ms, list_ms, write_ms, mb_per_second"
                    ));
                }
            };
            *place = value.parse().map_err(|e| format!("{part:?}: {e}"))?;
        }
        *self = changed;
        Ok(())
    }

    pub fn before(&self, kind: Kind) -> Duration {
        Duration::from_millis(match kind {
            Kind::Get | Kind::Head | Kind::Other => self.first_byte_ms,
            Kind::List => self.list_ms,
            _ => self.write_ms,
        })
    }
}

/// What all connections share.
#[derive(Debug)]
pub struct Meter {
    pub counts: Counts,
    pub delays: Mutex<Delays>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_place() {
        let counts = Counts::default();
        for (at, (kind, name)) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, at);
            counts.request(*kind);
            assert!(counts.json().contains(&format!("\"{name}\":1")), "{name}");
        }
        counts.get_begins();
        counts.reset();
        assert!(counts.json().starts_with("{\"GET\":0,"));
        assert!(counts.json().contains("\"gets_at_once\":1"));
    }

    #[test]
    fn delays_change_one_by_one_or_not_at_all() {
        let mut delays = Delays { first_byte_ms: 20, list_ms: 40, write_ms: 30, mb_per_second: 90 };
        delays.set("first_byte_ms=0&mb_per_second=7").unwrap();
        assert_eq!(delays, Delays { first_byte_ms: 0, list_ms: 40, write_ms: 30, mb_per_second: 7 });
        for bad in ["", "list_ms", "list_ms=x", "write_ms=1&what=2"] {
            assert!(delays.set(bad).is_err(), "{bad}");
        }
        assert_eq!((delays.write_ms, delays.before(Kind::List)), (30, Duration::from_millis(40)));
    }
}
