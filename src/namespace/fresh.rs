//! How long what is known is believed.
//!
//! Owns: the rule of freshness: young, of a directory that S3 does not know yet, or heard by a listing that a directory
//! handle keeps open.
//! Must never know: how S3 is asked.

use std::time::{Duration, Instant};

use super::inode::{TTL_MAX, Table};
use super::known::{Source, When};
use crate::key;

/// Whatever is written makes a version: of these nothing is believed for longer, however long the rest is.
const PAST_TTL_MAX: Duration = Duration::from_secs(1);

impl Table {
    /// For how long a name that was not found may be taken for absent: what its listing or HEAD has left of the
    /// time-to-live. Zero where it may come back at any moment.
    pub(super) fn absent_for(&self, dir: &str, name: &str) -> Duration {
        let Some(known) = self.dirs.get(dir).filter(|_| !self.is_leaving(dir, name)) else {
            return Duration::ZERO;
        };
        let heard = match known.get(name) {
            Some(slot) if slot.known.kind().is_none() && slot.when.source != Source::Doubted => {
                Some(slot.when.at)
            }
            Some(_) => None,
            None => known.absent_since(name),
        };
        heard.map_or(Duration::ZERO, |at| self.ttl_in(dir).saturating_sub(at.elapsed())).min(TTL_MAX)
    }

    /// When a directory's whole listing was asked for, if that is known and fresh.
    pub(super) fn whole_since(&self, dir: &str) -> Option<Instant> {
        self.dirs.get(dir)?.whole_since().filter(|asked| self.is_young(dir, *asked))
    }

    /// How long what is heard of names in a directory is believed.
    pub(super) fn ttl_in(&self, dir: &str) -> Duration {
        if key::past::is_past(dir) { self.ttl.min(PAST_TTL_MAX) } else { self.ttl }
    }

    pub(super) fn is_young(&self, dir: &str, asked: Instant) -> bool {
        asked.elapsed() < self.ttl_in(dir) || self.dirs.get(dir).is_some_and(|dir| dir.ours)
    }

    pub(super) fn is_fresh(&self, dir: &str, when: When) -> bool {
        let listed_still = || self.listed.get(dir).is_some_and(|(_, since)| when.at >= *since);
        match when.source {
            Source::Doubted => false,
            Source::Listed => self.is_young(dir, when.at) || listed_still(),
            Source::Asked | Source::Changed => self.is_young(dir, when.at),
        }
    }

    /// A handle begins to list the directory: what it hears stays fresh while it is open; so does what a
    /// listing had told from `since` on, if the handle is answered from that.
    pub(super) fn listing_began(&mut self, dir: &str, since: Instant) {
        let (handles, began) = self.listed.entry(dir.to_owned()).or_insert((0, since));
        *handles += 1;
        *began = since.max(*began);
    }

    pub(super) fn listing_ended(&mut self, dir: &str) {
        if let Some((handles, _)) = self.listed.get_mut(dir) {
            *handles -= 1;
            if *handles == 0 {
                self.listed.remove(dir);
            }
        }
    }
}
