//! Extended attributes: `pailfs.cached` and `pailfs.s3`, and no other.
//!
//! Owns: what `getxattr(2)` answers. They are not listed, so that programs that copy attributes leave them alone.
//! Invariant: no secret is told.

use std::ffi::OsStr;

use super::Filesystem;
use crate::error::Error;
use crate::key::VersionId;
use crate::namespace::Node;

/// How much of a file is in the disk cache: `CACHED/SIZE`, in bytes. Of a directory: what the whole cache takes, and
/// its cap.
pub const CACHED: &str = "pailfs.cached";

/// Where the mount's bucket is: its [`crate::config::S3Config`] as JSON, for `pailfs s3`.
pub const S3: &str = "pailfs.s3";

impl Filesystem {
    /// Without it no file is read by the kernel itself.
    pub fn has_disk_cache(&self) -> bool {
        self.disk.is_some()
    }

    /// `getxattr(2)`. What was read before counts, also while the disk still writes it.
    ///
    /// Errors: [`Error::NotSupported`] for any other name, and for `pailfs.cached` without a disk cache.
    pub async fn getxattr(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>, Error> {
        if name == S3 {
            let mut config = self.config.s3.clone();
            config.region = Some(self.client.region().to_string());
            return serde_json::to_vec(&config).map_err(|e| Error::Io(format!("{S3}: {e}")));
        }
        let Some(disk) = self.disk.as_ref().filter(|_| name == CACHED) else {
            return Err(Error::NotSupported("extended attributes"));
        };
        disk.settle().await;
        let (cached, of) = match self.namespace.attributes(ino).await?.node {
            Node::Directory => (disk.stats().bytes_used, disk.bytes_max()),
            // What was written here is in S3 first, and cached when it is read.
            Node::File(info) if self.namespace.is_local(ino) => (0, info.size),
            Node::File(info) => {
                let version = VersionId::new(&self.namespace.key(ino)?, &info.etag);
                (disk.bytes_cached(version, info.size).await, info.size)
            }
        };
        Ok(format!("{cached}/{of}").into_bytes())
    }
}
