//! What stands at a path: inodes, lookups by HEAD and LIST, directory streams.
//!
//! Owns: [`Namespace`]: the inode table (inode <-> parent and name, from which follows the key) and what
//! is known of each name, from whom and since when.
//! Invariants: an inode lives as long as the kernel or a handle knows it; a change made here is never
//! undone by an answer that was asked for before it (each answer carries the time it was asked).
//! Must never know: object bytes, handles' positions, FUSE.

mod inode;
mod leaving;
mod listing;
mod lookup;
mod pages;
mod predict;

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use crate::error::Error;
use crate::key;
use crate::s3::{ListedObject, ObjectHead, S3Client};

use inode::{Source, Table};
pub use listing::{DirStream, Listed};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
}

/// What S3 says of a file's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// In bytes.
    pub size: u64,
    pub mtime: SystemTime,
    /// Empty as long as S3 does not have the object.
    pub etag: String,
}

impl From<&ObjectHead> for FileInfo {
    fn from(head: &ObjectHead) -> FileInfo {
        FileInfo { size: head.size, mtime: head.last_modified, etag: head.etag.clone() }
    }
}

impl From<&ListedObject> for FileInfo {
    fn from(listed: &ListedObject) -> FileInfo {
        FileInfo { size: listed.size, mtime: listed.last_modified, etag: listed.etag.clone() }
    }
}

/// What stands at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File(FileInfo),
    Directory,
}

impl Node {
    pub fn kind(&self) -> Kind {
        match self {
            Node::File(_) => Kind::File,
            Node::Directory => Kind::Directory,
        }
    }
}

/// A node with its inode number and how long what is said of it may be believed.
#[derive(Debug, Clone)]
pub struct Entry {
    pub ino: u64,
    pub node: Node,
    pub ttl: Duration,
}

pub struct Namespace {
    client: S3Client,
    /// Never held across an await; no other lock is taken under it.
    table: Mutex<Table>,
}

impl Namespace {
    /// `prefix` is the root's key: empty, or ending in `/`.
    pub fn new(client: S3Client, prefix: &str, ttl: Duration) -> Namespace {
        let table = Table::new(client.bucket(), prefix, ttl);
        Namespace { client, table: Mutex::new(table) }
    }

    /// The inode's key now: a directory's ends in `/` (or is empty).
    pub fn key(&self, ino: u64) -> Result<String, Error> {
        self.lock().key(ino).ok_or(Error::NotFound)
    }

    /// The key of a directory; [`Error::NotDirectory`] for a file.
    pub fn dir_key(&self, ino: u64) -> Result<String, Error> {
        let table = self.lock();
        match table.kind(ino) {
            Some(Kind::Directory) => table.key(ino).ok_or(Error::NotFound),
            Some(Kind::File) => Err(Error::NotDirectory),
            None => Err(Error::NotFound),
        }
    }

    pub fn kind(&self, ino: u64) -> Result<Kind, Error> {
        self.lock().kind(ino).ok_or(Error::NotFound)
    }

    pub fn parent(&self, ino: u64) -> u64 {
        self.lock().parent(ino).unwrap_or(key::ROOT_INO)
    }

    /// The kernel dropped `count` of its references.
    pub fn forget(&self, ino: u64, count: u64) {
        self.lock().forget(ino, count);
    }

    /// The kernel got one more reference.
    pub fn remember(&self, ino: u64) {
        self.lock().remember(ino);
    }

    /// Inodes held now.
    pub fn inodes(&self) -> usize {
        self.lock().inodes()
    }

    /// Names remembered without an inode.
    pub fn names_heard(&self) -> usize {
        self.lock().names_heard()
    }

    /// A handle holds the inode, whatever the kernel forgets.
    pub fn pin(&self, ino: u64) {
        self.lock().pin(ino);
    }

    pub fn unpin(&self, ino: u64) {
        self.lock().unpin(ino);
    }

    /// A new file that only this mount knows until [`Namespace::publish`]. Counts one kernel reference.
    pub fn create(&self, parent: u64, name: &str) -> Entry {
        let info = FileInfo { size: 0, mtime: SystemTime::now(), etag: String::new() };
        let mut table = self.lock();
        let ino = table.intern(parent, name, &Node::File(info.clone()));
        table.update(ino, |known| *known = info);
        table.set_local(ino, true);
        table.remember(ino);
        table.entry(ino).expect("interned under this lock")
    }

    /// A directory that was just made in S3. Counts one kernel reference.
    pub fn made_directory(&self, parent: u64, name: &str) -> Entry {
        let mut table = self.lock();
        let ino = table.intern(parent, name, &Node::Directory);
        table.touch(ino);
        table.set_marker(ino);
        table.remember(ino);
        table.entry(ino).expect("interned under this lock")
    }

    /// The file is being written: its size and time follow the writer, and S3's answers wait.
    pub fn written(&self, ino: u64, size: u64) {
        let mut table = self.lock();
        table.set_local(ino, true);
        table.update(ino, |info| {
            info.size = size;
            info.mtime = SystemTime::now();
        });
    }

    /// S3 has the file as it is told here.
    pub fn publish(&self, ino: u64, info: FileInfo) {
        let mut table = self.lock();
        table.update(ino, |known| *known = info);
        table.set_local(ino, false);
    }

    /// What was written could not be published: the file is again what S3 has.
    pub fn give_up(&self, ino: u64) {
        self.lock().give_up(ino);
    }

    /// The name is gone; the inode stays for those who hold it.
    pub fn removed(&self, parent: u64, name: &str) {
        self.lock().remove_name(parent, name);
    }

    /// The name is gone here at once, and in S3 when [`Namespace::left`] says so: until then no answer of S3's
    /// shows it.
    pub fn leave(&self, parent: u64, name: &str) {
        self.lock().leave(parent, name);
    }

    pub fn left(&self, parent: u64, name: &str) {
        self.lock().left(parent, name);
    }

    /// The name that was leaving could not be removed: it is back, and asked about anew.
    pub fn restored(&self, parent: u64, name: &str, node: Node) {
        self.lock().restored(parent, name, node);
    }

    /// A file was made at a name, by us and in S3.
    pub fn made_file(&self, parent: u64, name: &str, info: FileInfo) {
        self.lock().made(parent, name, Node::File(info));
    }

    /// The file has moved, and is now what `info` tells.
    pub fn renamed(&self, ino: u64, parent: u64, name: &str, info: FileInfo) {
        let mut table = self.lock();
        table.rename(ino, parent, name);
        table.update(ino, |known| *known = info);
    }

    /// Whether only this mount knows the file.
    pub fn is_local(&self, ino: u64) -> bool {
        self.lock().is_local(ino)
    }

    /// Whether the directory's marker object is known to be there.
    pub fn has_marker(&self, ino: u64) -> bool {
        self.lock().has_marker(ino)
    }

    pub fn set_marker(&self, ino: u64) {
        self.lock().set_marker(ino);
    }

    /// Names within the directory that only this mount knows.
    pub fn local_names(&self, dir: u64) -> Vec<(u64, String)> {
        self.lock().local_names(dir)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes note of what S3 said of a name when asked at `asked`; answers what stands there now, which
    /// a local change may have made something else. Does not count a reference.
    fn hear(&self, dir: u64, name: &str, said: Option<Node>, asked: Instant, source: Source) -> Option<Node> {
        self.lock().hear(dir, name, said, asked, source)
    }
}
