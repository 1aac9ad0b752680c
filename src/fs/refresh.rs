//! Asking anew: what is known below a path is dropped, here and in the kernel; and the kernel is asked to
//! forget where it knows more inodes than `--metadata-memory` has room for.
//!
//! Owns: [`Kernel`], [`Filesystem::refresh`].
//! Invariant: no thread that answers the kernel waits until the kernel has forgotten: it may be waiting for
//! that very answer.

use std::sync::{Arc, OnceLock};

use super::Filesystem;
use crate::error::Error;

/// The ioctl(2) on a file or directory that makes a mount ask S3 anew for it and all below it: `_IO('P', 1)`. The
/// kernel holds no lock meanwhile, and passes it on from read-only mounts as well.
pub const REFRESH: u32 = (b'P' as u32) << 8 | 1;
/// As [`REFRESH`]: waits until S3 has all that was written and closed there: `_IO('P', 2)`.
pub const FLUSH: u32 = (b'P' as u32) << 8 | 2;

/// Tells the kernel to forget. What it does not know it forgets without complaint.
pub trait Kernel: Send + Sync {
    /// An inode's attributes.
    fn forget_attributes(&self, ino: u64);
    /// What a name stands for, and all below it. Waits for whoever uses the directory it is in.
    fn forget_name(&self, parent: u64, name: &str);
}

/// What the kernel keeps of the mount; clones are of the same.
#[derive(Clone, Default)]
pub(super) struct Caches(Arc<OnceLock<Arc<dyn Kernel>>>);

impl Caches {
    pub fn set(&self, kernel: Arc<dyn Kernel>) {
        if self.0.set(kernel).is_err() {
            tracing::error!("the kernel's notifier was set twice");
        }
    }

    /// None without a mount.
    pub fn get(&self) -> Option<Arc<dyn Kernel>> {
        self.0.get().map(Arc::clone)
    }
}

impl Filesystem {
    /// Drops what is known of an inode and of all below it; of an account's root, in all of its buckets.
    pub async fn refresh(&self, ino: u64) -> Result<(), Error> {
        for bucket in self.open_buckets() {
            bucket.refresh_own(bucket.namespace.root()).await?;
        }
        self.refresh_own(ino).await
    }

    async fn refresh_own(&self, ino: u64) -> Result<(), Error> {
        let known = self.namespace.refresh_below(ino)?;
        self.keeps_versions.forget();
        let Some(kernel) = self.kernel.get() else { return Ok(()) };
        let forgotten = self.runtime.spawn_blocking(move || {
            known.iter().for_each(|(.., ino)| kernel.forget_attributes(*ino));
            known.iter().for_each(|(parent, name, _)| kernel.forget_name(*parent, name));
        });
        forgotten.await.map_err(|e| Error::Io(format!("refresh: {e}")))
    }

    /// Where the kernel knows more than there is room for, asks it to forget.
    pub(super) fn relieve(&self) {
        self.forget_names(self.namespace.too_many());
    }

    /// The kernel is to ask anew what stands at a name.
    pub(super) fn forget_name(&self, parent: u64, name: &str, ino: Option<u64>) {
        if let Some((kernel, ino)) = self.kernel.get().zip(ino) {
            kernel.forget_attributes(ino);
        }
        self.forget_names(vec![(parent, name.to_owned())]);
    }

    pub(super) fn forget_names(&self, names: Vec<(u64, String)>) {
        if let Some(kernel) = self.kernel.get().filter(|_| !names.is_empty()) {
            self.runtime.spawn_blocking(move || {
                names.iter().for_each(|(parent, name)| kernel.forget_name(*parent, name));
            });
        }
    }
}
