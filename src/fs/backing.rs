//! Which files the kernel reads by itself, from the disk cache's files (FUSE passthrough).
//!
//! Owns: [`Backings`]: by inode, how its open handles reach their bytes.
//! Invariants, the kernel's: while a handle of an inode is passed through, every handle that is opened is too, to the
//! same file (one whose bytes differ, or that writes, goes past the pages and comes here all the same); and none is
//! as long as another handle is open that is not. So each handle is counted from the answer to its open until its
//! release.
//! Must never know: how the kernel is told.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::key::VersionId;

/// A file on the local disk that holds a version of an object, whole.
#[derive(Debug)]
pub struct Backing {
    pub file: File,
    version: VersionId,
}

#[derive(Default)]
pub(super) struct Backings {
    /// Inodes with open handles: as many as there are handles, at most. Held for an instant only, nothing under it.
    by_ino: Mutex<HashMap<u64, Opens>>,
    /// The kernel, or our rights, do not allow it.
    refused: AtomicBool,
}

#[derive(Default)]
struct Opens {
    handles: usize,
    backing: Option<Arc<Backing>>,
}

impl Backings {
    pub fn are_possible(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
    }

    pub fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Counts a handle that is opened. `whole`: the version it reads, where a file on the disk has it. Answers
    /// through which file the handle is passed, and whether it reads that file's version.
    pub fn enter(&self, ino: u64, whole: Option<(VersionId, File)>) -> Option<(Arc<Backing>, bool)> {
        let mut opens = self.lock();
        let opens = opens.entry(ino).or_default();
        opens.handles += 1;
        let wanted = whole.as_ref().map(|(version, _)| *version);
        if opens.handles == 1 {
            opens.backing = whole.map(|(version, file)| Arc::new(Backing { file, version }));
        }
        let backing = opens.backing.clone()?;
        let same = wanted == Some(backing.version);
        Some((backing, same))
    }

    /// The handle is released.
    pub fn leave(&self, ino: u64) {
        let mut opens = self.lock();
        if let Some(of_ino) = opens.get_mut(&ino) {
            of_ino.handles -= 1;
            if of_ino.handles == 0 {
                opens.remove(&ino);
            }
        }
    }

    /// The kernel did not take the file: the inode's handles are as any others.
    pub fn forget(&self, ino: u64) {
        self.refuse();
        if let Some(opens) = self.lock().get_mut(&ino) {
            opens.backing = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Opens>> {
        self.by_ino.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(etag: &str) -> Option<(VersionId, File)> {
        Some((VersionId::new("bucket", "key", etag), File::open("/dev/null").unwrap()))
    }

    #[test]
    fn all_handles_of_an_inode_are_passed_through_one_file_or_none_is() {
        let backings = Backings::default();
        let (first, same) = backings.enter(1, whole("a")).unwrap();
        assert!(same);
        let (second, same) = backings.enter(1, whole("b")).unwrap();
        assert!(Arc::ptr_eq(&first, &second) && !same, "another version");
        let (third, same) = backings.enter(1, None).unwrap();
        assert!(Arc::ptr_eq(&first, &third) && !same, "a writer");
        (0..3).for_each(|_| backings.leave(1));
        assert!(backings.enter(1, None).is_none());
        assert!(backings.enter(1, whole("a")).is_none(), "another handle is not");
        assert!(backings.enter(2, whole("a")).is_some());
        (0..2).for_each(|_| backings.leave(1));
        backings.leave(2);
        assert!(backings.lock().is_empty());
    }

    #[test]
    fn what_the_kernel_did_not_take_is_not_offered_again() {
        let backings = Backings::default();
        backings.enter(1, whole("a")).unwrap();
        backings.forget(1);
        assert!(!backings.are_possible());
        assert!(backings.enter(1, None).is_none());
    }
}
