//! Removing names: unlink, rmdir, and what fsync of a directory tells of them.
//!
//! Owns: which removals are acknowledged before S3 has them, and what becomes of those that fail.
//! Invariant: a name whose removal was acknowledged is in no local view until S3 has answered; if S3 refused it is
//! back, the log says why, and so does the next fsync of its directory.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;

use super::orphans::Orphan;
use super::{Filesystem, old_name};
use crate::error::Error;
use crate::journal::Intent;
use crate::key;
use crate::namespace::{FileInfo, Kind, Node};
use crate::write::Writer;
use crate::write::deletes::Doomed;

/// Directories whose failures are remembered until their fsync, at most; the log has them all.
const FAILED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// By directory: the first removal that failed after it was acknowledged, until fsync tells it.
#[derive(Clone)]
pub(super) struct Failed {
    /// Held for an instant only; no other lock is taken under it.
    by_dir: Arc<Mutex<LruCache<u64, Error>>>,
}

impl Failed {
    pub fn new() -> Failed {
        Failed { by_dir: Arc::new(Mutex::new(LruCache::new(FAILED_MAX))) }
    }

    pub fn note(&self, dir: u64, e: &Error) {
        self.lock().get_or_insert(dir, || e.clone());
    }

    fn take(&self, dir: u64) -> Result<(), Error> {
        self.lock().pop(&dir).map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<u64, Error>> {
        self.by_dir.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Filesystem {
    /// Errors: [`Error::IsDirectory`], [`Error::NotFound`].
    pub async fn unlink(&self, parent: u64, name: &OsStr) -> Result<(), Error> {
        if self.namespace.is_past(parent) {
            return self.remove_version(parent, name).await;
        }
        self.check_writable(parent)?;
        let name = old_name(name)?;
        let _pass = self.pass_names(&[(parent, name)]).await?;
        let info = self.file_at(parent, name).await?;
        let key = key::file_key(&self.namespace.dir_key(parent)?, name.as_bytes())?;
        let ino = self.namespace.ino_of(parent, name);
        self.hold_links(ino, &key).await;
        let open = self.writer_of_open(parent, name, &info, &key);
        // Open, or acknowledged and on its way.
        let (open, writer) = match open {
            Some((ino, writer)) => (Some(ino), Some(writer)),
            None => (None, self.writer_at(parent, name)),
        };
        // What handles go on to read may be removed long after this: if S3 refuses it then, an edit must not be gone.
        if let (Some(ino), Some(writer)) = (open, &writer)
            && !info.etag.is_empty()
            && writer.is_acknowledged().await
        {
            self.commit_with_pass(ino, writer).await?;
        }
        ino.into_iter().for_each(|ino| self.namespace.pin(ino));
        let removed = match &writer {
            Some(writer) => self.remove_written(parent, name, (info, key), open, writer).await,
            None => self.remove(parent, name, Node::File(info), key, None).await,
        };
        // One that began while S3 was asked writes a file without a name, too.
        let writer = writer.or_else(|| ino.and_then(|ino| self.handles.writer(ino)));
        match (&removed, writer) {
            (Ok(()), Some(writer)) => writer.unlinked().await,
            (Err(_), Some(writer)) => {
                if writer.relink().await
                    && let Some(ino) = ino
                {
                    self.send_file(ino, &writer);
                }
            }
            (_, None) => {}
        }
        ino.into_iter().for_each(|ino| self.namespace.unpin(ino));
        removed
    }

    /// Removes the name of a file that has a writer. `open`: its inode, where handles need what S3 has of it.
    async fn remove_written(
        &self,
        parent: u64,
        name: &str,
        (mut info, key): (FileInfo, String),
        open: Option<u64>,
        writer: &Writer,
    ) -> Result<(), Error> {
        let (in_s3, unheard) = (writer.unlink().await, writer.is_unheard().await);
        if in_s3 {
            info = self.file_at(parent, name).await?; // it may have been published just before
        }
        match open {
            Some(ino) if in_s3 => {
                let item = writer.item().await;
                let (doomed, _) = self.hide(parent, name, Node::File(info), key.clone(), item)?;
                self.orphans.add(key, Orphan { ino, doomed });
                Ok(())
            }
            // Only a file that is being written may be one that S3 has never seen.
            _ if !in_s3 && !unheard && info.etag.is_empty() => {
                self.namespace.removed(parent, name);
                Ok(())
            }
            _ => self.remove(parent, name, Node::File(info), key, Some(writer)).await,
        }
    }

    pub(super) async fn file_at(&self, parent: u64, name: &str) -> Result<FileInfo, Error> {
        match self.namespace.find(parent, name).await? {
            Some(Node::File(info)) => Ok(info),
            Some(Node::Directory) => Err(Error::IsDirectory),
            None => Err(Error::NotFound),
        }
    }

    /// Errors: [`Error::NotEmpty`], [`Error::NotDirectory`], [`Error::NotFound`].
    pub async fn rmdir(&self, parent: u64, name: &OsStr) -> Result<(), Error> {
        self.check_writable(parent)?;
        let name = old_name(name)?;
        let _pass = loop {
            let pass = self.pass_names(&[(parent, name)]).await?;
            if let Some(buckets) = &self.buckets {
                return self.remove_bucket(buckets, name).await;
            }
            let key = key::dir_key(&self.namespace.dir_key(parent)?, name.as_bytes())?;
            if !self.write_back.makes_below(&key) || self.namespace.has_local_names(&key) {
                break pass;
            }
            drop(pass); // who sends it may need one
            self.sent(&key).await?;
        };
        match self.namespace.find(parent, name).await? {
            Some(Node::Directory) => {}
            Some(Node::File(_)) => return Err(Error::NotDirectory),
            None => return Err(Error::NotFound),
        }
        let key = key::dir_key(&self.namespace.dir_key(parent)?, name.as_bytes())?;
        if self.namespace.has_local_names(&key) {
            return Err(Error::NotEmpty);
        }
        self.bury_below(&key).await;
        if !self.deletes.empties(&key).await? {
            self.namespace.not_empty(&key);
            return Err(Error::NotEmpty);
        }
        self.remove(parent, name, Node::Directory, key, None).await
    }

    /// Removes what stands at a name. The first of a burst is answered when S3 has answered; what follows is hidden,
    /// acknowledged and sent together. What was acknowledged of a file and not sent goes with it when S3 has answered, also
    /// if this mount dies in between.
    async fn remove(
        &self,
        parent: u64,
        name: &str,
        node: Node,
        key: String,
        writer: Option<&Writer>,
    ) -> Result<(), Error> {
        let item = match writer {
            Some(writer) => writer.item().await,
            None => None,
        };
        // What was acknowledged of it is gone with its name, so S3 must not refuse that later.
        if self.config.sync_unlink || item.is_some() || !self.deletes.in_burst() {
            let doomed = self.doomed(parent, key.clone())?;
            let noted = item.and_then(|item| self.note_removal(key, &node, doomed.keep, Some(item)));
            let removed = self.deletes.remove(doomed).await;
            if removed.is_ok() {
                self.namespace.removed(parent, name);
                if let Some(writer) = writer {
                    writer.unlinked().await;
                }
            }
            noted.into_iter().for_each(|noted| self.journal.end(noted));
            return removed;
        }
        let (doomed, noted) = self.hide(parent, name, node, key, None)?;
        match noted {
            Some(_) => self.deletes.remove_ahead(doomed).await,
            // A crash would bring it back: it is not acknowledged ahead.
            None => self.deletes.remove(doomed).await?,
        }
        Ok(())
    }

    fn note_removal(&self, key: String, node: &Node, keep: bool, drops: Option<String>) -> Option<u64> {
        let etag = match node {
            Node::File(info) => Some(info.etag.clone()).filter(|etag| !etag.is_empty()),
            Node::Directory => None,
        };
        let noted = self.journal.begin(Intent::Remove { key, etag, keep, drops });
        noted.inspect_err(|e| tracing::warn!("a removal is not noted: {e}")).ok()
    }

    /// The name is gone here; what is answered is to be removed, if this mount dies by the next: the journal has that, as
    /// the number that is answered. If S3 refuses it, the name is back. `item`: as [`Intent::Remove`]'s `drops`.
    fn hide(
        &self,
        parent: u64,
        name: &str,
        node: Node,
        key: String,
        item: Option<String>,
    ) -> Result<(Doomed, Option<u64>), Error> {
        let doomed = self.doomed(parent, key.clone())?;
        let noted = self.note_removal(key, &node, doomed.keep, item);
        let journal = self.journal.clone();
        let (namespace, failed) = (self.namespace.clone(), self.failed_removals.clone());
        let copies = self.copies.clone();
        let (dir, name, then) = (doomed.dir.clone(), name.to_owned(), doomed.done);
        self.namespace.leave(&dir, &name);
        let done = Box::new(move |outcome: &_| {
            then(outcome);
            noted.into_iter().for_each(|noted| journal.end(noted));
            match &outcome.result {
                Ok(()) => namespace.left(&dir, &name),
                Err(e) => {
                    tracing::error!("{} was removed here and is back: {e}", name.escape_debug());
                    failed.note(parent, e);
                    namespace.restored(&dir, &name, &node);
                    copies.doubt(parent);
                }
            }
        });
        Ok((Doomed { done, ..doomed }, noted))
    }

    /// The removal of an entry's object, or of a directory's marker.
    pub(super) fn doomed(&self, parent: u64, key: String) -> Result<Doomed, Error> {
        let namespace = self.namespace.clone();
        Ok(Doomed {
            objects: vec![key],
            dir: self.namespace.dir_key(parent)?,
            keep: parent != self.namespace.root() && !self.namespace.has_marker(parent),
            done: Box::new(move |outcome| {
                if outcome.marker {
                    namespace.set_marker(parent);
                }
            }),
        })
    }

    /// `fsync(2)` of a directory: commits under way have ended, and what was removed from it is gone from S3. Of the
    /// mount's root: with `--write-back` S3 has all that was acknowledged.
    ///
    /// Errors: what something failed with that had been acknowledged, once.
    pub async fn fsyncdir(&self, ino: u64) -> Result<(), Error> {
        let dir = self.namespace.dir_key(ino)?;
        if ino == self.namespace.root() {
            return self.flush_to_s3(ino).await;
        }
        if self.write_back.on {
            self.sync_acknowledged(&dir).await?;
        }
        self.files_to_publish().await;
        self.deletes.settle(&dir).await;
        self.failed_removals.take(ino)
    }

    /// Waits until S3 has all that was written and closed or synced, made or removed here: a file, or a directory with all
    /// below it.
    ///
    /// Errors: what of it S3 did not take; it stays on the local disk.
    pub async fn flush_to_s3(&self, ino: u64) -> Result<(), Error> {
        let mut flushed = Ok(());
        for bucket in self.open_buckets() {
            flushed = flushed.and(bucket.flush_own_to_s3(bucket.namespace.root()).await);
        }
        flushed.and(self.flush_own_to_s3(ino).await)
    }

    async fn flush_own_to_s3(&self, ino: u64) -> Result<(), Error> {
        let key = self.namespace.key(ino)?;
        self.sent(&key).await?;
        self.send_what_goes_on(&key).await?;
        self.files_to_publish().await;
        if self.namespace.kind(ino)? == Kind::Directory {
            self.deletes.settle_all().await;
            self.failed_removals.take(ino)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_of_a_directory_is_told_once() {
        let failed = Failed::new();
        failed.note(5, &Error::Stale);
        failed.note(5, &Error::ReadOnly);
        assert_eq!(failed.take(5).map_err(|e| e.errno()), Err(libc::ESTALE));
        assert!(failed.take(5).is_ok());
    }

    #[test]
    fn failures_remembered_are_capped() {
        let failed = Failed::new();
        for dir in 0..FAILED_MAX.get() as u64 + 10 {
            failed.note(dir, &Error::Stale);
        }
        assert_eq!(failed.lock().len(), FAILED_MAX.get());
    }
}
