//! Files without a name that are still open.
//!
//! Owns: [`Orphans`]: which objects stay in S3, hidden, because handles of this mount still need their bytes; and what
//! becomes of these bytes where the object cannot stay.
//! Invariants: an object whose name was removed goes when its last handle is closed, or earlier: when its directory is
//! removed, or something new takes its name. What goes or is replaced earlier, and is small enough, is held in the staging
//! directory for who has it open.
//! Must never know: how a removal is carried out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Filesystem;
use crate::namespace::FileInfo;
use crate::write::deletes::Doomed;
use crate::write::{Committed, Start, Writer};

#[derive(Default)]
pub(super) struct Orphans {
    /// By key; as many as there are open files, at most. Held for an instant only.
    by_key: Mutex<HashMap<String, Orphan>>,
}

pub(super) struct Orphan {
    pub ino: u64,
    pub doomed: Doomed,
}

impl Orphans {
    pub fn add(&self, key: String, orphan: Orphan) {
        self.lock().insert(key, orphan);
    }

    fn take_where(&self, wanted: impl Fn(&str, &Orphan) -> bool) -> Vec<Orphan> {
        self.lock().extract_if(|key, orphan| wanted(key, orphan)).map(|(_, orphan)| orphan).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Orphan>> {
        self.by_key.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Filesystem {
    /// The last handle of a file is closed.
    pub(super) async fn bury(&self, ino: u64) {
        self.bury_where(|_, orphan| orphan.ino == ino).await;
    }

    /// What is below a directory goes, whoever has it open. `dir`: its key.
    pub(super) async fn bury_below(&self, dir: &str) {
        self.bury_where(|key, _| key.starts_with(dir)).await;
    }

    async fn bury_where(&self, wanted: impl Fn(&str, &Orphan) -> bool) {
        for orphan in self.orphans.take_where(wanted) {
            self.hold_orphan(&orphan).await;
            self.deletes.remove_ahead(orphan.doomed).await;
        }
    }

    /// Before something is made at `key`: what had this name is gone, and takes nothing new along when it goes.
    pub(super) async fn clear_name(&self, key: &str) {
        self.bury_where(|at, _| at == key).await;
        self.deletes.settled(key).await;
    }

    async fn hold_orphan(&self, orphan: &Orphan) {
        if let (Some(writer), Some(key)) = (self.handles.writer(orphan.ino), orphan.doomed.objects.last()) {
            self.hold(&writer, key).await;
        }
    }

    /// What a file has of the object at `key`, which is about to go or to be replaced, stays readable.
    pub(super) async fn hold(&self, writer: &Writer, key: &str) {
        if let Err(e) = writer.hold(key).await {
            tracing::warn!(
                key,
                "it is replaced while it is open, and not all of it can be read any more: {e}"
            );
        }
    }

    /// As [`Filesystem::hold`], for all files but `ino` with ranges that the server is to copy from this object.
    pub(super) async fn hold_links(&self, ino: Option<u64>, key: &str) {
        for (other, writer) in self.linked_writers() {
            if Some(other) != ino {
                self.hold(&writer, key).await;
            }
        }
    }

    /// Those of files with ranges that the server is to copy from other objects. Asked at every commit, and mostly none.
    pub(super) fn linked_writers(&self) -> Vec<(u64, Arc<Writer>)> {
        if !self.writes.any_linked() {
            return Vec::new();
        }
        self.handles.writers().into_iter().filter(|(_, writer)| writer.is_linked()).collect()
    }

    /// The writer that all handles of an open file go through from now on, whose name is about to go. None where it is
    /// not open.
    pub(super) fn writer_of_open(
        &self,
        parent: u64,
        name: &str,
        info: &FileInfo,
        key: &str,
    ) -> Option<(u64, Arc<Writer>)> {
        let ino = self.namespace.ino_of(parent, name)?;
        let base = Committed { etag: info.etag.clone(), size: info.size };
        let make = || self.new_writer(key.to_owned(), Start::From(base), Vec::new());
        Some((ino, self.handles.writer_for_all(ino, make)?))
    }
}
