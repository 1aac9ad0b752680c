//! Attributes: lookup, getattr, setattr.
//!
//! Owns: what `stat` shows and what of it can be changed.
//! Invariant: no success for a change that was not made: where attributes are not kept, mode, owner and times follow
//! from the mount's options and from S3, so setting them to what they are succeeds and to anything else is EPERM.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use super::{Attr, Filesystem, old_name};
use crate::attr::PERMISSIONS;
use crate::error::Error;
use crate::key;
use crate::namespace::{Entry, Node};

/// What S3's `Last-Modified` tells apart is a second; setting a time to now is done if it is now already, as
/// for a file that is being written, or that `touch` has just made.
const TIME_GRAIN: Duration = Duration::from_secs(2);

/// What `setattr` is asked to change.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    /// The handle through which the size is set, for `ftruncate(2)`.
    pub fh: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(SystemTime),
}

impl Filesystem {
    /// Counts one reference of the kernel.
    pub async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attr, Error> {
        let name = old_name(name)?;
        self.ready().await?;
        let entry = match self.namespace.lookup(parent, name).await {
            Err(Error::NotFound) => self.lookup_versions(parent, name).await?,
            found => found?,
        };
        self.namespace.ask_ahead(parent, name);
        self.relieve();
        Ok(self.attr(&entry))
    }

    /// For how long the kernel may take a name for absent that [`Filesystem::lookup`] did not find. No time in the
    /// root: a refresh makes the kernel forget what is in a directory by forgetting the directory's own name.
    pub fn absent_for(&self, parent: u64, name: &OsStr) -> Duration {
        match old_name(name) {
            Ok(name) if parent != self.namespace.root() => self.namespace.absent_for(parent, name),
            _ => Duration::ZERO,
        }
    }

    /// The kernel dropped `count` references.
    pub fn forget(&self, ino: u64, count: u64) {
        match self.bucket_of(ino) {
            // Where a bucket is looked up, there its references are counted.
            Some(bucket) if bucket.namespace.root() != ino => bucket.namespace.forget(ino, count),
            _ => self.namespace.forget(ino, count),
        }
    }

    pub async fn getattr(&self, ino: u64) -> Result<Attr, Error> {
        let entry = self.namespace.attributes(ino).await?;
        Ok(self.attr(&entry))
    }

    /// `chmod(2)`, `chown(2)`, `truncate(2)`, `utimensat(2)`.
    ///
    /// Errors: [`Error::NotPermitted`] for attributes that are not kept, [`Error::ReadOnly`].
    pub async fn setattr(&self, ino: u64, mut set: SetAttr) -> Result<Attr, Error> {
        self.check_writable(ino)?;
        let entry = self.namespace.attributes(ino).await?;
        if !self.namespace.keeps_attributes() {
            self.check_unchanged(&entry, &set)?;
        }
        match (set.size, &entry.node) {
            (None, _) => {}
            (Some(size), Node::File(info)) => {
                self.truncate(ino, set.fh, info, size).await?;
                // A file that was cut was written now.
                set.mtime = set.mtime.filter(|mtime| *mtime != SetTime::Now || size == info.size);
            }
            (Some(_), Node::Directory) => return Err(Error::IsDirectory),
        }
        if self.namespace.keeps_attributes() {
            self.keep(ino, &set).await?;
        }
        self.getattr(ino).await
    }

    /// Where attributes are not kept they can be set to what they are.
    fn check_unchanged(&self, entry: &Entry, set: &SetAttr) -> Result<(), Error> {
        let attr = self.attr(entry);
        let mode_differs = set.mode.is_some_and(|mode| mode & PERMISSIONS != u32::from(attr.perm));
        let owner_differs =
            set.uid.is_some_and(|uid| uid != attr.uid) || set.gid.is_some_and(|gid| gid != attr.gid);
        if mode_differs || owner_differs {
            return Err(Error::NotPermitted("mode and owner are the mount's (--file-mode, --uid)"));
        }
        let is_now =
            self.namespace.is_local(entry.ino) || attr.mtime.elapsed().is_ok_and(|age| age < TIME_GRAIN);
        let refused = |time: SetTime| time != SetTime::Now || !is_now;
        if [set.atime, set.mtime].into_iter().flatten().any(refused) {
            return Err(Error::NotPermitted("a file's time is when it was written"));
        }
        Ok(())
    }

    /// How the log names an inode: its key.
    pub fn describe(&self, ino: u64, name: Option<&OsStr>) -> String {
        let mut key = self.shown();
        key.push_str(&self.namespace.key(ino).unwrap_or_else(|_| format!("inode {ino}")));
        if let Some(name) = name {
            key.push_str(&name.to_string_lossy());
        }
        key::past::shown(&key).escape_debug().to_string()
    }
}
