//! Asking anew: what is known below a path is dropped, here and in the kernel; and the kernel is asked to
//! forget where it knows more inodes than `--metadata-memory` has room for.
//!
//! Owns: [`Kernel`], [`Filesystem::setxattr`].
//! Invariant: no thread that answers the kernel waits until the kernel has forgotten: it may be waiting for
//! that very answer.

use std::ffi::OsStr;
use std::sync::Arc;

use super::Filesystem;
use crate::error::Error;

/// The extended attribute whose setting makes a mount ask S3 anew for a path and all below it.
pub const REFRESH: &str = "pailfs.refresh";

/// Tells the kernel to forget. What it does not know it forgets without complaint.
pub trait Kernel: Send + Sync {
    /// An inode's attributes.
    fn forget_attributes(&self, ino: u64);
    /// What a name stands for, and all below it. Waits for whoever uses the directory it is in.
    fn forget_name(&self, parent: u64, name: &str);
}

impl Filesystem {
    /// `setxattr(2)`: the one attribute that can be set makes S3 be asked anew.
    ///
    /// Errors: [`Error::NotSupported`] for any other.
    pub async fn setxattr(&self, ino: u64, name: &OsStr) -> Result<(), Error> {
        if name == REFRESH {
            return self.refresh(ino).await;
        }
        Err(Error::NotSupported("extended attributes"))
    }

    /// Drops what is known of an inode and of all below it.
    pub async fn refresh(&self, ino: u64) -> Result<(), Error> {
        let known = self.namespace.refresh_below(ino)?;
        let Some(kernel) = self.kernel.get().map(Arc::clone) else { return Ok(()) };
        // The kernel holds the lock of what an attribute is set of, until that is answered. So only names
        // beside and further below can be waited for; those in the directory itself go with its own name,
        // and in the root after the answer.
        let (now, after): (Vec<_>, Vec<_>) = known.into_iter().partition(|(parent, ..)| *parent != ino);
        let names = {
            let kernel = kernel.clone();
            self.runtime.spawn_blocking(move || {
                now.iter().chain(&after).for_each(|(.., ino)| kernel.forget_attributes(*ino));
                now.iter().for_each(|(parent, name, _)| kernel.forget_name(*parent, name));
                after
            })
        };
        let after = names.await.map_err(|e| Error::Io(format!("refresh: {e}")))?;
        self.forget_names(after.into_iter().map(|(parent, name, _)| (parent, name)).collect());
        Ok(())
    }

    /// Where the kernel knows more than there is room for, asks it to forget.
    pub(super) fn relieve(&self) {
        self.forget_names(self.namespace.too_many());
    }

    fn forget_names(&self, names: Vec<(u64, String)>) {
        if let Some(kernel) = self.kernel.get().filter(|_| !names.is_empty()).map(Arc::clone) {
            self.runtime.spawn_blocking(move || {
                names.iter().for_each(|(parent, name)| kernel.forget_name(*parent, name));
            });
        }
    }
}
