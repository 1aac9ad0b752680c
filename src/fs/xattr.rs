//! Extended attributes: `pailfs.cached`, `pailfs.s3`, `user.NAME` and `s3.NAME`.
//!
//! Owns: which there are, and `user.NAME`, kept in the object's user metadata (`--attrs=meta`); `s3_xattr.rs` has the
//! rest. Only `user.NAME` is listed, so that programs that copy attributes leave the others alone.
//! Invariants: all of an object's metadata stay within what S3 takes; the metadata that say what a file is are no
//! extended attributes, and cannot be set as such; no secret is told.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::{Filesystem, s3_xattr};
use crate::attr::xattr::{self, METADATA_BYTES_MAX};
use crate::config::{AttributesConfig, S3Config};
use crate::error::{Error, S3ErrorKind};
use crate::key::VersionId;
use crate::namespace::Node;
use crate::s3::ObjectHeaders;

/// How much of a file is in the disk cache: `CACHED/SIZE`, in bytes. Of a directory: what the whole cache takes, and
/// its cap.
pub const CACHED: &str = "pailfs.cached";

/// What `pailfs s3` must know of a mount: a [`MountTold`] as JSON.
pub const S3: &str = "pailfs.s3";

/// Where a mount's bucket is, and what the mount is for.
#[derive(Debug, Serialize, Deserialize)]
pub struct MountTold {
    #[serde(flatten)]
    pub s3: S3Config,
    /// Nothing there is to be changed, by the command neither.
    pub read_only: bool,
    /// What was written there may not be in S3 yet.
    #[serde(default)]
    pub write_back: bool,
}

const USER: &[u8] = b"user.";

impl Filesystem {
    /// Without it no file is read by the kernel itself.
    pub fn has_disk_cache(&self) -> bool {
        self.disk.is_some()
    }

    /// Whether files have extended attributes that are listed.
    pub fn lists_xattrs(&self) -> bool {
        self.config.attributes == AttributesConfig::Metadata
    }

    /// `getxattr(2)`.
    ///
    /// Errors: [`Error::NoAttribute`]; [`Error::NotSupported`] for names that no file here can have.
    pub async fn getxattr(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>, Error> {
        if name == CACHED {
            return self.cached(ino).await;
        }
        if name == S3 {
            // `pailfs s3` would act on what is there now.
            if self.config.as_of.is_some() {
                return Err(Error::NotSupported("a mount of what was names no bucket: say s3://bucket/key"));
            }
            let region = Some(self.client.region().to_string());
            let s3 = S3Config { region, ..self.config.s3.clone() };
            let told = MountTold { s3, read_only: self.config.read_only, write_back: self.config.write_back };
            return serde_json::to_vec(&told).map_err(|e| Error::Io(format!("{S3}: {e}")));
        }
        if let Some(name) = s3_xattr::name(name) {
            return self.get_s3_xattr(ino, name).await;
        }
        let metadata_name = self.user_xattr(name)?;
        let node = self.namespace.attributes(ino).await?.node;
        if !self.has_xattrs(ino, &node) {
            return Err(Error::NoAttribute);
        }
        let metadata = self.headers_of(ino, &node).await?.metadata;
        let found = metadata.into_iter().find(|(name, _)| *name == metadata_name);
        found.map(|(_, value)| xattr::value(&value)).ok_or(Error::NoAttribute)
    }

    /// `listxattr(2)`: full names.
    pub async fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>, Error> {
        let node = self.namespace.attributes(ino).await?.node;
        if !self.namespace.keeps_attributes() || !self.has_xattrs(ino, &node) {
            return Ok(Vec::new());
        }
        let metadata = self.headers_of(ino, &node).await?.metadata;
        let shown = metadata.iter().filter(|(name, _)| xattr::is_shown(name));
        Ok(shown.map(|(name, _)| [USER, &xattr::name(name)].concat()).collect())
    }

    /// `setxattr(2)`: with the upload, where the file is still to be published. `flags`: XATTR_CREATE, XATTR_REPLACE.
    ///
    /// Errors: [`Error::Exists`] and [`Error::NoAttribute`] as the flags say; [`Error::NoSpace`] and
    /// [`Error::ValueTooLarge`] beyond S3's limit; [`Error::NotPermitted`] for names of a file's own attributes.
    pub async fn setxattr(&self, ino: u64, name: &OsStr, value: &[u8], flags: i32) -> Result<(), Error> {
        if s3_xattr::name(name) != Some(s3_xattr::RESTORE) || self.config.read_only {
            self.check_writable(ino)?;
        }
        if let Some(name) = s3_xattr::name(name) {
            return self.set_s3_xattr(ino, name, Some(value)).await;
        }
        let name = self.user_xattr(name)?;
        let text = xattr::metadata_value(value);
        self.change_xattrs(ino, move |metadata| {
            let there = metadata.iter().any(|(known, _)| *known == name);
            match flags {
                libc::XATTR_CREATE if there => return Err(Error::Exists),
                libc::XATTR_REPLACE if !there => return Err(Error::NoAttribute),
                _ => {}
            }
            if name.len() + text.len() > METADATA_BYTES_MAX {
                return Err(Error::ValueTooLarge);
            }
            crate::attr::set(metadata, &name, text);
            Ok(())
        })
        .await
    }

    /// `removexattr(2)`.
    ///
    /// Errors: as [`Filesystem::setxattr`].
    pub async fn removexattr(&self, ino: u64, name: &OsStr) -> Result<(), Error> {
        self.check_writable(ino)?;
        if let Some(name) = s3_xattr::name(name) {
            return self.set_s3_xattr(ino, name, None).await;
        }
        let name = self.user_xattr(name)?;
        self.change_xattrs(ino, move |metadata| {
            let at = metadata.iter().position(|(known, _)| *known == name).ok_or(Error::NoAttribute)?;
            metadata.remove(at);
            Ok(())
        })
        .await
    }

    /// The metadata's name of `user.NAME`.
    fn user_xattr(&self, name: &OsStr) -> Result<String, Error> {
        let user = name.as_bytes().strip_prefix(USER).filter(|_| self.namespace.keeps_attributes());
        let user = user.ok_or(Error::NotSupported("extended attributes"))?;
        if user.is_empty() {
            return Err(Error::Invalid("an extended attribute without a name"));
        }
        let name = xattr::metadata_name(user);
        if xattr::is_shown(&name) {
            Ok(name)
        } else {
            Err(Error::NotPermitted("metadata of this name say what a file is"))
        }
    }

    async fn change_xattrs(
        &self,
        ino: u64,
        change: impl FnOnce(&mut Vec<(String, String)>) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        self.change_carried(ino, |headers| change(&mut headers.metadata)).await
    }

    /// Whether an object may carry extended attributes, as far as its attributes tell.
    fn has_xattrs(&self, ino: u64, node: &Node) -> bool {
        match node {
            Node::File(info) => info.attributes().is_none_or(|attributes| attributes.xattrs),
            Node::Directory => {
                let entry = self.namespace.entry(ino).ok();
                entry.and_then(|entry| entry.attributes).is_none_or(|kept| kept.attributes.xattrs)
            }
        }
    }

    /// What a file or directory will carry that is yet to be published.
    pub(super) async fn pending(&self, ino: u64) -> Result<Option<ObjectHeaders>, Error> {
        match self.handles.writer(ino) {
            Some(writer) => writer.pending().await,
            None => Ok(self.write_back.marker_headers(ino)),
        }
    }

    /// What the object of a file or directory carries, or will once it is published.
    pub(super) async fn headers_of(&self, ino: u64, node: &Node) -> Result<ObjectHeaders, Error> {
        if let Some(pending) = self.pending(ino).await? {
            return Ok(pending);
        }
        match self.client.head_object(&self.namespace.key(ino)?).await {
            Ok(head) => Ok(ObjectHeaders::from(head)),
            // A directory without a marker.
            Err(e) if e.kind == S3ErrorKind::NoSuchKey && *node == Node::Directory => {
                Ok(ObjectHeaders::default())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// What was read before counts, also while the disk still writes it.
    ///
    /// Errors: [`Error::NotSupported`] without a disk cache.
    async fn cached(&self, ino: u64) -> Result<Vec<u8>, Error> {
        let disk = self.disk.as_ref().ok_or(Error::NotSupported("there is no cache on the disk"))?;
        disk.settle().await;
        let (cached, of) = match self.namespace.attributes(ino).await?.node {
            Node::Directory => (disk.stats().bytes_used, disk.bytes_max()),
            // What was written here is in S3 first, and cached when it is read.
            Node::File(info) if self.namespace.is_local(ino) => (0, info.size),
            Node::File(info) => {
                let version = VersionId::new(self.client.bucket(), &self.namespace.key(ino)?, &info.etag);
                (disk.bytes_cached(version, info.size).await, info.size)
            }
        };
        Ok(format!("{cached}/{of}").into_bytes())
    }
}
