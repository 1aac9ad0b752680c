//! Small files read in the order of their listing: the next ones are fetched before they are opened.
//!
//! Owns: [`Ahead`], and what is not worth fetching: what the kernel has the pages of.
//! Invariant: nothing is asked of S3 but GETs pinned by the ETag that is known; what was fetched in vain only took
//! memory that was free.
//! Must never know: which order makes a walk (`read::Walks` decides), what follows a file (the namespace knows).

use std::sync::Mutex;

use super::Filesystem;
use crate::namespace::Near;
use crate::read::{Next, Reads, Version, Walks};

/// Held for an instant only; the namespace's table and `Versions` are locked under it.
#[derive(Default)]
pub(super) struct Ahead(Mutex<Walks<Version>>);

impl Filesystem {
    /// A version of a file is opened to be read.
    pub(super) fn fetch_what_follows(&self, opened: &Version) {
        let following = |after: &Version, count| {
            let near = self.namespace.files_following(&after.key, count);
            near.into_iter().map(|near| self.next(near)).collect()
        };
        let mut walks = self.ahead.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let next = walks.on_open(opened, self.reads.walk_bytes_max(), following);
        drop(walks);
        for Next { place, bytes } in next {
            self.reads.fetch_ahead(&place, bytes);
        }
    }

    fn next(&self, near: Near) -> Next<Version> {
        let Near { key, info, ino } = near;
        let in_kernel = ino.is_some_and(|ino| self.versions.is_cached(ino, &info.etag));
        let bytes = if in_kernel { 0 } else { Reads::worth_ahead(info.size) };
        Next { place: Version::new(self.client.bucket(), key, info.etag, info.size), bytes }
    }
}
