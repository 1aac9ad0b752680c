//! What writers keep in memory that they could do without.
//!
//! Owns: [`Quotas`], and [`KeptPart`], what was sent and is kept.
//! Invariant: all buckets of a mount together keep no more than the quotas say.
//! Must never know: who keeps what, and for how long.

use bytes::Bytes;

use crate::cache::{Budget, Permit, slice};

/// How much of the memory the writers of all buckets may hold that they could do without, a fourth each: the rest is for
/// those who wait for it.
#[derive(Clone)]
pub struct Quotas {
    /// Parts that were sent and stay readable.
    pub(super) kept: Budget,
    /// What was acknowledged and is to be sent, for which S3 may be gone.
    pub(super) waiting: Budget,
}

impl Quotas {
    /// `memory_bytes_max`: the cache's.
    pub fn new(memory_bytes_max: u64) -> Quotas {
        Quotas { kept: Budget::new(memory_bytes_max / 4), waiting: Budget::new(memory_bytes_max / 4) }
    }
}

/// A part that was sent and stays readable.
pub(super) struct KeptPart {
    pub bytes: Vec<Bytes>,
    _quota: Permit,
}

impl KeptPart {
    pub fn new(bytes: Vec<Bytes>, quota: Permit) -> KeptPart {
        KeptPart { bytes, _quota: quota }
    }

    pub fn len(&self) -> u64 {
        self.bytes.iter().map(|piece| piece.len() as u64).sum()
    }

    pub fn cut(&mut self, len: u64) {
        self.bytes = slice(&self.bytes, 0..len);
    }
}
