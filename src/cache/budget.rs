//! The one cap on object bytes in memory.
//!
//! Owns: [`Budget`], a fair semaphore counted in bytes. Permits give their bytes back when dropped; some of the largest
//! buffers stay as spare ones, for what a page costs is its first use.
//! Invariant: the sum of all permits, and of the spare buffers with them, never exceeds `--memory`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Clone)]
pub struct Budget {
    /// Counted in units, for a semaphore's permit counts are 32 bits wide.
    units: Arc<Semaphore>,
    bytes_max: u64,
    bytes_peak: Arc<AtomicU64>,
    bytes_given_back: Arc<AtomicU64>,
    spares: Arc<Spares>,
}

/// The right to hold some bytes.
pub struct Permit {
    units: OwnedSemaphorePermit,
    bytes_given_back: Arc<AtomicU64>,
    spares: Arc<Spares>,
}

/// Of a spare buffer, in bytes: as much as the kernel writes at once.
pub const SPARE_BYTES: usize = 1 << 20;
/// Spare buffers, at most: those of a large part or two.
const SPARES_MAX: usize = 16;

/// Buffers that nobody holds. Held for an instant only.
#[derive(Default)]
struct Spares(Mutex<Vec<BytesMut>>);

impl Spares {
    fn lock(&self) -> MutexGuard<'_, Vec<BytesMut>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Keeps no more than `bytes` of them.
    fn trim(&self, bytes: u64) {
        let fit = usize::try_from(bytes).unwrap_or(usize::MAX) / SPARE_BYTES;
        if fit < SPARES_MAX {
            self.lock().truncate(fit);
        }
    }
}

impl Permit {
    /// An empty buffer for bytes that this permits.
    pub fn buffer(&self, capacity: usize) -> BytesMut {
        let spare = if capacity == SPARE_BYTES { self.spares.lock().pop() } else { None };
        spare.unwrap_or_else(|| BytesMut::with_capacity(capacity))
    }

    /// Takes back what [`Permit::buffer`] gave, or a piece of it; it is a spare one if nobody has another piece.
    pub fn recycle(&self, mut buffer: BytesMut) {
        buffer.clear();
        if buffer.try_reclaim(SPARE_BYTES) && buffer.capacity() == SPARE_BYTES {
            let mut spares = self.spares.lock();
            if spares.len() < SPARES_MAX {
                spares.push(buffer);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.bytes_given_back.fetch_add(self.units.num_permits() as u64 * UNIT_BYTES, Ordering::Relaxed);
    }
}

/// 4 KiB: a page; smaller buffers are counted as one.
const UNIT_BYTES: u64 = 4096;

impl Budget {
    pub fn new(bytes_max: u64) -> Budget {
        let units = usize::try_from(bytes_max / UNIT_BYTES).unwrap_or(Semaphore::MAX_PERMITS);
        Budget {
            units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            bytes_max,
            bytes_peak: Arc::default(),
            bytes_given_back: Arc::default(),
            spares: Arc::default(),
        }
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Bytes held by permits now.
    pub fn bytes_held(&self) -> u64 {
        self.bytes_max / UNIT_BYTES * UNIT_BYTES - self.bytes_free()
    }

    /// The most that was ever held at once.
    pub fn bytes_peak(&self) -> u64 {
        self.bytes_peak.load(Ordering::Relaxed)
    }

    /// All that permits ever gave back: whether those who wait may hope.
    pub fn bytes_given_back(&self) -> u64 {
        self.bytes_given_back.load(Ordering::Relaxed)
    }

    /// What spare buffers take.
    pub fn bytes_spare(&self) -> u64 {
        (self.spares.lock().len() * SPARE_BYTES) as u64
    }

    pub fn bytes_free(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT_BYTES
    }

    /// A permit at once, or none: for what can be left undone, such as prefetching.
    pub fn try_take(&self, bytes: u64) -> Option<Permit> {
        let units = self.units.clone().try_acquire_many_owned(to_units(bytes)).ok()?;
        Some(self.permit(units))
    }

    /// A permit as soon as there is room, in the order of asking.
    pub async fn take(&self, bytes: u64) -> Permit {
        let units = self.units.clone().acquire_many_owned(to_units(bytes)).await;
        self.permit(units.expect("the budget's semaphore is never closed"))
    }

    fn permit(&self, units: OwnedSemaphorePermit) -> Permit {
        self.bytes_peak.fetch_max(self.bytes_held(), Ordering::Relaxed);
        self.spares.trim(self.bytes_free());
        Permit { units, bytes_given_back: self.bytes_given_back.clone(), spares: self.spares.clone() }
    }
}

fn to_units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_gives_more_than_it_has() {
        let budget = Budget::new(64 << 10);
        let held: Vec<_> = std::iter::from_fn(|| budget.try_take(10_000)).collect();
        assert_eq!(held.len(), 5, "12 KiB each of 64 KiB");
        assert_eq!(budget.bytes_held(), 60 << 10);
        drop(held);
        assert_eq!(budget.bytes_held(), 0);
        assert_eq!(budget.bytes_peak(), 60 << 10);
    }

    #[tokio::test]
    async fn a_large_wish_is_not_overtaken_for_ever() {
        let budget = Budget::new(16 << 10);
        let small = budget.take(8 << 10).await;
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(16 << 10).await }
        });
        tokio::task::yield_now().await;
        let late = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(4 << 10).await }
        });
        tokio::task::yield_now().await;
        assert!(!late.is_finished(), "comes after the large wish");
        drop(small);
        drop(waiting.await.unwrap());
        late.await.unwrap();
    }
}
