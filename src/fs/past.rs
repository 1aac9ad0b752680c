//! The versions of what is in a directory, as files: `.versions/NAME/TIME-ID`.
//!
//! Owns: when `.versions` is there, and the removal of versions for good.
//! Invariants: an object whose key has `.versions` in it is shown, and hides the versions beside it; a version never
//! changes, and goes only where that was allowed (`--allow-version-delete`).
//! Must never know: how a version is asked for (`s3::past` does, by its key).

use std::ffi::OsStr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::{Filesystem, old_name};
use crate::error::Error;
use crate::key::{self, past};
use crate::namespace::Entry;

/// Whether the bucket keeps versions, and when it was asked: that it does, does not end.
#[derive(Default)]
pub(super) struct KeepsVersions(Mutex<Option<(bool, Instant)>>);

impl KeepsVersions {
    fn known(&self, ttl: Duration) -> Option<bool> {
        let (keeps, asked) = (*self.lock())?;
        (keeps || asked.elapsed() < ttl).then_some(keeps)
    }

    /// It is asked anew.
    pub fn forget(&self) {
        *self.lock() = None;
    }

    /// Held for an instant only, nothing under it.
    fn lock(&self) -> MutexGuard<'_, Option<(bool, Instant)>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Filesystem {
    /// What a name in a directory leads to that S3 has nothing at: its versions, where they are asked for by their
    /// name. Counts one reference of the kernel.
    ///
    /// Errors: [`Error::NotFound`].
    pub(super) async fn lookup_versions(&self, dir: u64, name: &str) -> Result<Entry, Error> {
        let may_be = name == past::DIR_NAME && self.buckets.is_none() && self.config.as_of.is_none();
        if may_be && !self.namespace.is_past(dir) && self.keeps_versions().await? {
            return self.namespace.enter_versions(dir);
        }
        Err(Error::NotFound)
    }

    async fn keeps_versions(&self) -> Result<bool, Error> {
        if let Some(keeps) = self.keeps_versions.known(self.config.metadata_ttl) {
            return Ok(keeps);
        }
        let asked = Instant::now();
        let keeps = self.client.keeps_versions().await?;
        *self.keeps_versions.lock() = Some((keeps, asked));
        Ok(keeps)
    }

    /// Removes a version for good, or a delete marker.
    pub(super) async fn remove_version(&self, parent: u64, name: &OsStr) -> Result<(), Error> {
        if self.config.read_only {
            return Err(Error::ReadOnly);
        }
        if !self.config.version_delete {
            return Err(Error::NotPermitted("versions are removed with --allow-version-delete only"));
        }
        let name = old_name(name)?;
        self.file_at(parent, name).await?;
        let dir = self.namespace.dir_key(parent)?;
        let object = self.client.delete_version(&key::file_key(&dir, name.as_bytes())?).await?;
        self.namespace.removed(parent, name);
        // Another version may be the current one now, or none.
        let (dir, name) = object.split_at(object.rfind('/').map_or(0, |slash| slash + 1));
        let (parent, ino) = self.namespace.doubt(dir, name);
        self.copies.doubt(parent);
        self.forget_name(parent, name, ino);
        Ok(())
    }
}
