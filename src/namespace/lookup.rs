//! What stands at a name, from what is known, else from S3: HEAD for the object, LIST for the directory,
//! side by side.
//!
//! Owns: [`Namespace::lookup`], [`Namespace::find`], [`Namespace::attributes`].
//! Invariant: where both `a` and `a/…` exist, `a` is the directory.

use std::time::Duration;

use super::known::Source;
use super::{Entry, Kind, Listed, Namespace, Node};
use crate::error::{Error, S3Error, S3ErrorKind};
use crate::key;
use crate::s3::{ListObjectsV2, ListPage};

impl Namespace {
    /// What stands at `name`, counted as one more reference of the kernel.
    ///
    /// Errors: [`Error::NotFound`]; what S3 failed with.
    pub async fn lookup(&self, parent: u64, name: &str) -> Result<Entry, Error> {
        let node = self.find(parent, name).await?.ok_or(Error::NotFound)?;
        self.enter(parent, name, &node)
    }

    /// For how long a name that [`Namespace::lookup`] did not find need not be asked for again.
    pub fn absent_for(&self, parent: u64, name: &str) -> Duration {
        let table = self.lock();
        table.key(parent).map_or(Duration::ZERO, |dir| table.absent_for(&dir, name))
    }

    /// What stands at `name`, fresh, without a reference: its inode number if it has one.
    pub async fn find(&self, parent: u64, name: &str) -> Result<Option<Node>, Error> {
        let dir = self.dir_key(parent)?;
        let mut known = self.lock().fresh_name(&dir, name);
        if known.is_none() {
            known = self.renew(&dir, name).await?;
        }
        let found = match known {
            Some(node) => node,
            None => self.ask(&dir, name).await?,
        };
        let found = self.with_attributes(&dir, name, found).await?;
        self.lock().walked_to(&dir, name);
        Ok(found)
    }

    /// [`Namespace::find`], asking S3 whatever is known.
    pub async fn find_anew(&self, parent: u64, name: &str) -> Result<Option<Node>, Error> {
        let dir = self.dir_key(parent)?;
        self.ask(&dir, name).await
    }

    /// The inode that `name` has now, if it has one.
    pub fn ino_of(&self, parent: u64, name: &str) -> Option<u64> {
        self.lock().child(parent, name)
    }

    /// What is known of an inode, asked anew where it is no longer fresh.
    pub async fn attributes(&self, ino: u64) -> Result<Entry, Error> {
        let entry = self.attributes_but_kept(ino).await?;
        match &entry.node {
            _ if !self.keeps_attributes() => return Ok(entry),
            Node::Directory => match self.dir_key(ino) {
                Ok(dir) => self.ask_marker(&dir).await?,
                Err(_) => return Ok(entry), // removed: it is what it was
            },
            Node::File(info) if info.etag.is_empty() || info.attributes().is_some() => return Ok(entry),
            Node::File(_) => {
                let Some((dir, name)) = self.lock().name(ino) else { return Ok(entry) };
                self.with_attributes(&dir, &name, Some(entry.node)).await?;
            }
        }
        self.entry(ino)
    }

    async fn attributes_but_kept(&self, ino: u64) -> Result<Entry, Error> {
        if let Some(entry) = self.attributes_known(ino)? {
            return Ok(entry);
        }
        let (dir, name) = self.lock().name(ino).ok_or(Error::NotFound)?;
        let renewed = self.renew(&dir, &name).await?;
        self.lock().walked_to(&dir, &name);
        match renewed {
            Some(_) => self.still_there(ino),
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
        let (dir, name) = self.lock().name(ino).ok_or(Error::NotFound)?;
        let question = self.question(&dir);
        let said = absent_as_none(self.client.head_object(&format!("{dir}{name}")).await)?;
        let said = said.map(|head| Node::File(self.info_of(&head)));
        self.lock().hear(&dir, &name, said.as_ref(), question.asked, Source::Asked);
        self.still_there(ino)
    }

    /// What is known of an inode whose name still leads to it.
    fn still_there(&self, ino: u64) -> Result<Entry, Error> {
        let table = self.lock();
        let linked = table.name(ino).is_some();
        table.entry(ino).filter(|_| linked).ok_or(Error::NotFound)
    }

    pub(super) async fn ask(&self, dir: &str, name: &str) -> Result<Option<Node>, Error> {
        if self.is_of_buckets() {
            return self.ask_bucket(name).await;
        }
        let file_key = key::file_key(dir, name.as_bytes())?;
        let question = self.question(dir);
        let (head, dir_there) = futures_util::future::join(
            self.client.head_object(&file_key),
            self.any_below(&format!("{file_key}/")),
        )
        .await;
        let said = if dir_there? {
            Some(Node::Directory)
        } else {
            absent_as_none(head)?.map(|head| Node::File(self.info_of(&head)))
        };
        let mut table = self.lock();
        let stands = table.hear(dir, name, said.as_ref(), question.asked, Source::Asked);
        table.shrink();
        Ok(stands)
    }

    /// Whether any key begins with `prefix`, and be it the marker.
    async fn any_below(&self, prefix: &str) -> Result<bool, S3Error> {
        let query = ListObjectsV2 { prefix: prefix.into(), max_keys: Some(1), ..Default::default() };
        self.client.any_page(query, ListPage::has_keys).await
    }

    /// What is known of an inode, however old.
    pub fn entry(&self, ino: u64) -> Result<Entry, Error> {
        self.lock().entry(ino).ok_or(Error::NotFound)
    }

    /// The inode of what was found at a name, made if there is none, counted as one more reference.
    ///
    /// Errors: [`Error::NotFound`] where the name was removed meanwhile.
    pub fn enter(&self, parent: u64, name: &str, node: &Node) -> Result<Entry, Error> {
        let mut table = self.lock();
        let dir = table.key(parent).ok_or(Error::NotFound)?;
        let entry = table.enter(&dir, name, node);
        table.shrink();
        entry.ok_or(Error::NotFound)
    }

    /// What is known to stand at a listed name by now, which a local change may have made something else
    /// than was listed.
    pub fn listed_now(&self, dir: u64, listed: Listed) -> Option<Listed> {
        let Listed { name, node } = listed;
        let known = self.within(dir, |table, dir| table.known(dir, &name))?;
        let node = known.unwrap_or(Some(node))?;
        Some(Listed { name, node })
    }

    /// The number a listed name has, or would get.
    pub fn number_of(&self, dir: u64, name: &str, kind: Kind) -> u64 {
        let number = |table: &mut super::Table, dir: &str| {
            table.child_in(dir, name).unwrap_or_else(|| table.number(dir, name, kind))
        };
        self.within(dir, number).unwrap_or_default()
    }
}

pub(super) fn absent_as_none<T>(answer: Result<T, S3Error>) -> Result<Option<T>, S3Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind == S3ErrorKind::NoSuchKey => Ok(None),
        Err(e) => Err(e),
    }
}
