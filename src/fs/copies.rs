//! The copies that the kernel makes of directories' contents.
//!
//! Owns: [`Copies`]: which listing the kernel's copy of a directory is of.
//! Invariant: a copy that any doubt fell on while it was made is not taken for one. Changes made here the kernel sees
//! by itself: they end its copy.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use lru::LruCache;

/// Directories whose copies are remembered, at most.
const COPIES_MAX: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

#[derive(Clone)]
pub(super) struct Copies {
    /// Held for an instant only; no other lock is taken under it.
    known: Arc<Mutex<Known>>,
}

struct Known {
    /// By inode: when the listing was asked for.
    by_ino: LruCache<u64, Instant>,
    doubts: u64,
}

/// A copy that is being made.
pub(super) struct Copying {
    ino: u64,
    /// How many doubts there had been when it was begun.
    doubts: u64,
}

impl Copies {
    pub fn new() -> Copies {
        let known = Known { by_ino: LruCache::new(COPIES_MAX), doubts: 0 };
        Copies { known: Arc::new(Mutex::new(known)) }
    }

    /// When the listing was asked for that the directory's copy is of; none where there is no copy.
    pub fn of(&self, ino: u64) -> Option<Instant> {
        self.lock().by_ino.get(&ino).copied()
    }

    pub fn begin(&self, ino: u64) -> Copying {
        Copying { ino, doubts: self.lock().doubts }
    }

    /// It is whole, and of the listing that was asked for then.
    pub fn made(&self, copying: Copying, asked: Instant) {
        let mut known = self.lock();
        if known.doubts == copying.doubts {
            known.by_ino.put(copying.ino, asked);
        }
    }

    /// What the directory holds is known to be something else by now.
    pub fn doubt(&self, ino: u64) {
        let mut known = self.lock();
        known.doubts += 1;
        known.by_ino.pop(&ino);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_of_one_listing() {
        let (copies, asked) = (Copies::new(), Instant::now());
        let copying = copies.begin(7);
        assert_eq!(copies.of(7), None);
        copies.made(copying, asked);
        assert_eq!((copies.of(7), copies.of(8)), (Some(asked), None));
        copies.doubt(7);
        assert_eq!(copies.of(7), None);
    }

    #[test]
    fn a_doubt_while_it_is_made_ends_it() {
        let copies = Copies::new();
        let copying = copies.begin(7);
        copies.doubt(7);
        copies.made(copying, Instant::now());
        assert_eq!(copies.of(7), None);
    }

    #[test]
    fn copies_remembered_are_capped() {
        let (copies, asked) = (Copies::new(), Instant::now());
        for ino in 0..COPIES_MAX.get() as u64 + 10 {
            copies.made(copies.begin(ino), asked);
        }
        assert_eq!(copies.lock().by_ino.len(), COPIES_MAX.get());
    }
}
