//! Asking S3 what stands at a name: HEAD for the object, LIST for the directory, side by side.
//!
//! Owns: [`Namespace::lookup`], [`Namespace::find`], [`Namespace::attributes`].
//! Invariant: where both `a` and `a/…` exist, `a` is the directory.

use std::time::Instant;

use super::inode::Source;
use super::{Entry, FileInfo, Kind, Listed, Namespace, Node};
use crate::error::{Error, S3Error, S3ErrorKind};
use crate::key;
use crate::s3::ListObjectsV2;

impl Namespace {
    /// What stands at `name`, counted as one more reference of the kernel.
    ///
    /// Errors: [`Error::NotFound`]; what S3 failed with.
    pub async fn lookup(&self, parent: u64, name: &str) -> Result<Entry, Error> {
        let node = self.find(parent, name).await?.ok_or(Error::NotFound)?;
        Ok(self.enter(parent, name, &node))
    }

    /// What stands at `name`, fresh, without a reference: its inode number if it has one.
    pub async fn find(&self, parent: u64, name: &str) -> Result<Option<Node>, Error> {
        let known = self.lock().fresh_name(parent, name);
        match known {
            Some(node) => Ok(node),
            None => self.ask(parent, name).await,
        }
    }

    /// [`Namespace::find`], asking S3 whatever is known.
    pub async fn find_anew(&self, parent: u64, name: &str) -> Result<Option<Node>, Error> {
        self.ask(parent, name).await
    }

    /// The inode that `name` has now, if it has one.
    pub fn ino_of(&self, parent: u64, name: &str) -> Option<u64> {
        self.lock().child(parent, name)
    }

    /// What is known of an inode, asked anew where it is no longer fresh.
    pub async fn attributes(&self, ino: u64) -> Result<Entry, Error> {
        match self.attributes_known(ino)? {
            Some(entry) => Ok(entry),
            None => self.refresh(ino).await,
        }
    }

    /// [`Namespace::attributes`] where no request is needed.
    pub fn attributes_known(&self, ino: u64) -> Result<Option<Entry>, Error> {
        let table = self.lock();
        let entry = table.entry(ino).ok_or(Error::NotFound)?;
        // A directory has no attributes in S3; whether it is still there, lookups find out. And an
        // unlinked inode is what it was.
        if entry.node == Node::Directory || table.key(ino).is_none() {
            return Ok(Some(entry));
        }
        Ok(table.fresh_entry(ino))
    }

    /// Asks HEAD what a file is now. [`Error::NotFound`] when it is gone.
    pub async fn refresh(&self, ino: u64) -> Result<Entry, Error> {
        let (key, parent, name) = {
            let table = self.lock();
            let (parent, name) = table.name(ino).ok_or(Error::NotFound)?;
            (table.key(ino).ok_or(Error::NotFound)?, parent, name)
        };
        let asked = Instant::now();
        let said = absent_as_none(self.client.head_object(&key).await)?;
        self.hear(parent, &name, said.map(|head| Node::File(FileInfo::from(&head))), asked, Source::Asked);
        let table = self.lock();
        let still_there = table.child(parent, &name) == Some(ino);
        table.entry(ino).filter(|_| still_there).ok_or(Error::NotFound)
    }

    async fn ask(&self, parent: u64, name: &str) -> Result<Option<Node>, Error> {
        let dir = self.dir_key(parent)?;
        let file_key = key::file_key(&dir, name.as_bytes())?;
        let asked = Instant::now();
        let (head, dir_there) = futures_util::future::join(
            self.client.head_object(&file_key),
            self.any_below(&format!("{file_key}/")),
        )
        .await;
        let said = if dir_there? {
            Some(Node::Directory)
        } else {
            absent_as_none(head)?.map(|head| Node::File(FileInfo::from(&head)))
        };
        Ok(self.hear(parent, name, said, asked, Source::Asked))
    }

    /// Whether any key begins with `prefix`, and be it the marker.
    async fn any_below(&self, prefix: &str) -> Result<bool, S3Error> {
        let query = ListObjectsV2 { prefix: prefix.into(), max_keys: Some(1), ..Default::default() };
        let page = self.client.list_objects_v2(&query).await?;
        Ok(!page.contents.is_empty() || page.undecodable > 0)
    }

    /// What is known of an inode, however old.
    pub fn entry(&self, ino: u64) -> Result<Entry, Error> {
        self.lock().entry(ino).ok_or(Error::NotFound)
    }

    /// The inode of what stands at a name, made if there is none, counted as one more reference.
    pub fn enter(&self, parent: u64, name: &str, node: &Node) -> Entry {
        let mut table = self.lock();
        let ino = table.intern(parent, name, node);
        table.remember(ino);
        table.entry(ino).expect("interned under this lock")
    }

    /// What is known to stand at a listed name by now, which a local change may have made something else
    /// than was listed.
    pub fn listed_now(&self, dir: u64, listed: Listed) -> Option<Listed> {
        let Listed { name, node } = listed;
        let node = self.lock().known(dir, &name).unwrap_or(Some(node))?;
        Some(Listed { name, node })
    }

    /// The number a listed name has, or would get.
    pub fn number_of(&self, dir: u64, name: &str, kind: Kind) -> u64 {
        let table = self.lock();
        table.child(dir, name).unwrap_or_else(|| table.number(dir, name, kind))
    }
}

fn absent_as_none<T>(answer: Result<T, S3Error>) -> Result<Option<T>, S3Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind == S3ErrorKind::NoSuchKey => Ok(None),
        Err(e) => Err(e),
    }
}
