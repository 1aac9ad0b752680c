//! Symbolic links, fifos, sockets and devices: small objects whose metadata say what they are.
//!
//! Owns: how they are made, and where a link leads.
//! Invariant: they are made only where attributes are kept, and never over what is there.
//! Must never know: how metadata say it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;

use super::keep::Maker;
use super::{Attr, Filesystem, new_name};
use crate::attr::{Attributes, Kind};
use crate::error::{Error, S3ErrorKind};
use crate::key;
use crate::namespace::{FileInfo, Node};
use crate::s3::{ObjectHeaders, Precondition};

impl Filesystem {
    /// `symlink(2)`: the target is the object's body. Counts one reference of the kernel.
    ///
    /// Errors: [`Error::NotPermitted`] where attributes are not kept, [`Error::Exists`].
    pub async fn symlink(
        &self,
        parent: u64,
        name: &OsStr,
        target: &Path,
        maker: Maker,
    ) -> Result<Attr, Error> {
        let attributes = self.made_by(parent, Kind::Symlink, maker);
        self.make_special(parent, name, target.as_os_str().as_bytes(), attributes).await
    }

    /// `mknod(2)` with the type bits of `mode`. Counts one reference of the kernel.
    ///
    /// Errors: as [`Filesystem::symlink`]; [`Error::Invalid`] for bits that are no type.
    pub async fn mknod(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        rdev: u32,
        maker: Maker,
    ) -> Result<Attr, Error> {
        let kind = Kind::of_mode(mode).ok_or(Error::Invalid("a mode without a file type"))?;
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let attributes = Attributes { rdev: device.then_some(rdev), ..self.made_by(parent, kind, maker) };
        self.make_special(parent, name, b"", attributes).await
    }

    async fn make_special(
        &self,
        parent: u64,
        name: &OsStr,
        body: &[u8],
        attributes: Attributes,
    ) -> Result<Attr, Error> {
        self.check_writable(parent)?;
        if !self.namespace.keeps_attributes() {
            return Err(Error::NotPermitted("links and special files are kept with --attrs=meta only"));
        }
        let name = new_name(name)?;
        let _pass = self.pass_names(&[(parent, name)]).await?;
        let dir = self.namespace.dir_key(parent)?;
        let key = key::file_key(&dir, name.as_bytes())?;
        if self.namespace.find(parent, name).await?.is_some() {
            return Err(Error::Exists);
        }
        self.clear_name(&key).await;
        let mut headers = ObjectHeaders::default();
        attributes.write(Kind::File, &mut headers.metadata);
        let payload = if body.is_empty() { Vec::new() } else { vec![Bytes::copy_from_slice(body)] };
        let put = self.client.put_object(&key, payload, &headers, &Precondition::Absent).await;
        let written = put.map_err(|e| match e.kind {
            S3ErrorKind::PreconditionFailed => {
                self.namespace.doubt(&dir, name); // another host made it
                Error::Exists
            }
            _ => e.into(),
        })?;
        let info = FileInfo {
            size: body.len() as u64,
            mtime: SystemTime::now(),
            etag: written.etag,
            kept: self.kept(attributes),
        };
        self.namespace.made_file(parent, name, info.clone());
        let entry = self.namespace.enter(parent, name, &Node::File(info))?;
        Ok(self.attr(&entry))
    }

    /// `readlink(2)`. The target is remembered as long as the object is the same.
    ///
    /// Errors: [`Error::Invalid`] for what is no link.
    pub async fn readlink(&self, ino: u64) -> Result<Vec<u8>, Error> {
        let entry = self.namespace.attributes(ino).await?;
        let Node::File(info) = &entry.node else { return Err(Error::Invalid("no symbolic link")) };
        let Some(attributes) = info.attributes().filter(|_| info.kind() == Kind::Symlink) else {
            return Err(Error::Invalid("no symbolic link"));
        };
        if let Some(target) = &attributes.target {
            return Ok(target.clone().into_bytes());
        }
        if info.size >= libc::PATH_MAX as u64 {
            return Err(Error::NameTooLong);
        }
        let key = self.namespace.key(ino)?;
        let mut object = self.client.get_object(&key, None, Some(&info.etag)).await?;
        let mut target = Vec::new();
        while let Some(frame) = object.body.frame().await? {
            target.extend_from_slice(&frame);
        }
        if let Ok(text) = String::from_utf8(target.clone()) {
            self.namespace.learnt_target(ino, &info.etag, text);
        }
        Ok(target)
    }
}
