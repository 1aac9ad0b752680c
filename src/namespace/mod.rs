//! What stands at a path: inodes, lookups by HEAD and LIST, directory streams.
//!
//! Owns: [`Namespace`]: the table of what is known of each directory's names, from whom and since when
//! (`inode`, `dir`, `known`, `memory`, `leaving`), and how S3 is asked (`lookup`, `attributes`, `renew`, `listing`,
//! `pages`, `walking`; `buckets` for an account's root).
//! Invariants: an inode lives as long as the kernel or a handle knows it; a change made here is never
//! undone by an answer that was asked for before it (each answer carries the time it was asked).
//! Must never know: object bytes, handles' positions, FUSE.

mod attributes;
mod buckets;
mod dir;
mod fresh;
mod inode;
mod known;
mod leaving;
mod listing;
mod local;
mod lookup;
mod memory;
mod moving;
mod near;
mod pages;
mod predict;
mod renew;
mod walk;
mod walking;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Semaphore, watch};

use crate::attr::Attributes;
pub use crate::attr::Kind;
use crate::error::Error;
use crate::key::{self, Numbers};
use crate::s3::{ListedObject, ObjectHead, S3Client};

use inode::Table;
pub use listing::{DirStream, Listed};
pub use memory::Room;
pub use moving::{EtagOf, MovedFile, Moving};
pub use near::Near;
use renew::Turn;
use walk::Walks;

/// What S3 says of a file's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// In bytes.
    pub size: u64,
    /// S3's `Last-Modified`; of what was changed here, when.
    pub mtime: SystemTime,
    /// Empty as long as S3 does not have the object.
    pub etag: String,
    /// None: not asked for, or there is nothing to tell.
    pub kept: Option<Arc<Kept>>,
}

/// What is known of the attributes in an object's metadata; where these are not kept, when this mount wrote it, if S3
/// tells another time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub attributes: Attributes,
    /// False: they are an older object's, and of this one only the kind may be told from them.
    pub current: bool,
}

impl Kept {
    pub fn new(attributes: Attributes) -> Option<Arc<Kept>> {
        Some(Arc::new(Kept { attributes, current: true }))
    }

    fn outdated(kind: Kind) -> Kept {
        Kept { attributes: Attributes { kind: Some(kind), ..Attributes::default() }, current: false }
    }
}

impl FileInfo {
    /// A file, and what else an object can be.
    pub fn kind(&self) -> Kind {
        kind_of(self.kept.as_deref())
    }

    fn or_as_before(self, known: &FileInfo) -> FileInfo {
        FileInfo { kept: self.kept.or_else(|| known.kept.clone()), ..self }
    }

    /// The object's attributes, as far as they are known.
    pub fn attributes(&self) -> Option<&Attributes> {
        self.kept.as_deref().filter(|kept| kept.current).map(|kept| &kept.attributes)
    }
}

/// A key that ends in no `/` leads to no directory, whatever its metadata say.
fn kind_of(kept: Option<&Kept>) -> Kind {
    let said = kept.and_then(|kept| kept.attributes.kind);
    said.filter(|kind| *kind != Kind::Directory).unwrap_or(Kind::File)
}

impl From<&ObjectHead> for FileInfo {
    fn from(head: &ObjectHead) -> FileInfo {
        FileInfo { size: head.size, mtime: head.last_modified, etag: head.etag.clone(), kept: None }
    }
}

impl From<&ListedObject> for FileInfo {
    fn from(listed: &ListedObject) -> FileInfo {
        FileInfo { size: listed.size, mtime: listed.last_modified, etag: listed.etag.clone(), kept: None }
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
            Node::File(info) => info.kind(),
            Node::Directory => Kind::Directory,
        }
    }

    /// What is known of a file's attributes; those of a directory stand with what is known below it.
    fn kept(&self) -> Option<Arc<Kept>> {
        match self {
            Node::File(info) => info.kept.clone().filter(|kept| kept.current),
            Node::Directory => None,
        }
    }
}

/// A node with its inode number and how long what is said of it may be believed.
#[derive(Debug, Clone)]
pub struct Entry {
    pub ino: u64,
    pub node: Node,
    /// As they are kept in the object, or in the directory's marker, or else as this mount remembers. None: they are not
    /// known.
    pub attributes: Option<Arc<Kept>>,
    /// Its name leads to it still.
    pub linked: bool,
    /// It is a version, or a directory of versions.
    pub past: bool,
    pub ttl: Duration,
}

impl Entry {
    /// It stands for a delete marker.
    pub fn is_deleted(&self) -> bool {
        self.past && matches!(&self.node, Node::File(info) if info.etag == key::past::DELETED_ETAG)
    }
}

/// Questions about attributes under way, at most.
const HEADS_MAX: usize = 64;

pub struct Namespace {
    client: S3Client,
    root: u64,
    /// Never held across an await; no other lock is taken under it.
    table: Arc<Mutex<Table>>,
    /// Nothing is kept fresh, so nothing is worth asking for ahead.
    forgets_at_once: bool,
    /// The server lists in another order than that of the keys, and `start-after` means nothing.
    unordered: AtomicBool,
    /// By key: of a directory, whose turn it is to renew a page; of a file, or of a directory's marker, to ask for
    /// attributes. Held for an instant only.
    turns: Mutex<HashMap<String, Turn>>,
    /// Held for an instant only; the table is locked under it.
    walks: Mutex<Walks>,
    /// Told whenever a page of a tree walk has come.
    walked: watch::Sender<()>,
    /// Turns of questions about attributes. None: they are not kept.
    heads: Option<Semaphore>,
}

/// A question to S3 under way: what is changed here meanwhile is not forgotten.
struct Question {
    table: Arc<Mutex<Table>>,
    id: u64,
    asked: Instant,
}

impl Drop for Question {
    fn drop(&mut self) {
        lock(&self.table).answered(self.id);
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Namespace {
    /// `prefix` is the root's key: empty, or ending in `/`. `room`: what the table takes is counted there.
    /// `attributes`: whether objects' metadata say what they are, and are asked for. A client of no bucket makes it the
    /// namespace of an account's buckets.
    pub fn new(
        client: S3Client,
        numbers: Numbers,
        prefix: &str,
        ttl: Duration,
        room: Arc<Room>,
        attributes: bool,
    ) -> Namespace {
        let mut table = Table::new(numbers, prefix, ttl, room);
        let of_buckets = client.bucket().is_empty();
        table.attributes = attributes || of_buckets;
        table.strangers = buckets::strangers(of_buckets);
        Namespace {
            root: table.numbers.root(),
            table: Arc::new(Mutex::new(table)),
            forgets_at_once: ttl.is_zero(),
            unordered: AtomicBool::new(of_buckets),
            turns: Mutex::default(),
            walks: Mutex::new(Walks::new()),
            walked: watch::Sender::new(()),
            heads: attributes.then(|| Semaphore::new(HEADS_MAX)),
            client,
        }
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
            Some(_) => Err(Error::NotDirectory),
            None => Err(Error::NotFound),
        }
    }

    pub fn kind(&self, ino: u64) -> Result<Kind, Error> {
        self.lock().kind(ino).ok_or(Error::NotFound)
    }

    /// Whether an inode of this number can be one of this namespace's.
    pub fn holds(&self, ino: u64) -> bool {
        self.lock().numbers.holds(ino)
    }

    /// The number of the root.
    pub fn root(&self) -> u64 {
        self.root
    }

    pub fn parent(&self, ino: u64) -> u64 {
        self.lock().parent(ino).unwrap_or(key::ROOT_INO)
    }

    /// The directories with an inode that an inode's name is in, or itself; not the root.
    pub fn above(&self, ino: u64) -> Vec<u64> {
        let table = self.lock();
        let key = table.key(ino).unwrap_or_default();
        let dirs = key.match_indices('/').map(|(slash, _)| key::split_dir(&key[..slash]));
        dirs.filter_map(|(above, name)| table.child_in(above, name)).collect()
    }

    /// Whether it is a version, or a directory of versions.
    pub fn is_past(&self, ino: u64) -> bool {
        self.lock().is_past(ino)
    }

    /// The directory of the versions of what is and was in a directory. Counts one reference of the kernel. It is no
    /// entry of the directory, so that no listing shows or loses it.
    pub fn enter_versions(&self, dir: u64) -> Result<Entry, Error> {
        let dir = self.dir_key(dir)?;
        let (mark, rest) = key::past::MARK;
        let mut table = self.lock();
        let ino = table.intern(&format!("{dir}{mark}"), rest, &Node::Directory);
        table.remember(ino);
        Ok(table.entry(ino).expect("interned under this lock"))
    }

    /// What stands at a name was changed otherwise than by that name: S3 is asked anew. `dir`: the directory's key.
    /// Answers the inodes of the directory and, if it has one, of the name.
    pub fn doubt(&self, dir: &str, name: &str) -> (u64, Option<u64>) {
        let mut table = self.lock();
        table.doubt_name(dir, name);
        (table.ino_of_dir(dir), table.child_in(dir, name))
    }

    /// The kernel dropped `count` of its references.
    pub fn forget(&self, ino: u64, count: u64) {
        self.lock().forget(ino, count);
    }

    /// The kernel got one more reference.
    pub fn remember(&self, ino: u64) {
        self.lock().remember(ino);
    }

    /// Drops what is known of an inode and of all below it, so that S3 is asked when it is next needed.
    /// Answers what the kernel may know there (inode of the directory, name, inode), the inode itself first.
    pub fn refresh_below(&self, ino: u64) -> Result<Vec<(u64, String, u64)>, Error> {
        self.lock().refresh_below(ino).ok_or(Error::NotFound)
    }

    /// What the kernel should be asked to forget (inode of the directory, name), for the inodes it knows
    /// fill the table.
    pub fn too_many(&self) -> Vec<(u64, String)> {
        self.lock().too_many(Instant::now())
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

    /// Bytes that what is known takes, as near as can be told.
    pub fn metadata_bytes(&self) -> u64 {
        self.lock().bytes() as u64
    }

    /// Drops `bytes` of what is known, or all that nobody needs, for others to have room. Answers how much it was.
    pub fn give_way(&self, bytes: usize) -> usize {
        self.lock().give_way(bytes)
    }

    /// A new file that only this mount knows until [`Namespace::publish`]. Counts one kernel reference.
    pub fn create(&self, parent: u64, name: &str, kept: Option<Arc<Kept>>) -> Result<Entry, Error> {
        let info = FileInfo { size: 0, mtime: SystemTime::now(), etag: String::new(), kept };
        let dir = self.dir_key(parent)?;
        let mut table = self.lock();
        let ino = table.intern(&dir, name, &Node::File(info.clone()));
        table.update(ino, |known| *known = info);
        table.set_local(ino, true);
        table.remember(ino);
        table.touch(&dir);
        Ok(table.entry(ino).expect("interned under this lock"))
    }

    /// A directory that was just made in S3, its marker with it. Counts one kernel reference.
    pub fn made_directory(&self, parent: u64, name: &str) -> Result<Entry, Error> {
        let dir = self.dir_key(parent)?;
        let mut table = self.lock();
        table.made_directory(&dir, name);
        table.touch(&dir);
        let ino = table.intern(&dir, name, &Node::Directory);
        table.remember(ino);
        Ok(table.entry(ino).expect("interned under this lock"))
    }

    /// Only this mount knows the directory (`new`), or its attributes, until [`Namespace::directory_was_sent`].
    pub fn set_directory_local(&self, ino: u64, new: bool) {
        self.lock().set_directory_local(ino, new);
    }

    pub fn directory_was_sent(&self, ino: u64) {
        self.lock().directory_was_sent(ino);
    }

    /// The file is being written: its size and time follow the writer, and S3's answers wait.
    pub fn written(&self, ino: u64, size: u64) {
        let mut table = self.lock();
        table.set_local(ino, true);
        table.update(ino, |info| {
            info.size = size;
            info.mtime = SystemTime::now();
            // Times that were set before count no longer.
            if let Some(kept) = &mut info.kept {
                let attributes = &mut Arc::make_mut(kept).attributes;
                (attributes.mtime, attributes.ctime) = (None, None);
            }
        });
    }

    /// S3 has the file as it is told here; where that does not speak of attributes, they are as they were.
    pub fn publish(&self, ino: u64, info: FileInfo) {
        let mut table = self.lock();
        table.update(ino, |known| *known = info.or_as_before(known));
        table.set_local(ino, false);
    }

    /// What was written could not be published: the file is again what S3 has.
    pub fn give_up(&self, ino: u64) {
        self.lock().give_up(ino);
    }

    /// The name is gone; the inode stays for those who hold it.
    pub fn removed(&self, parent: u64, name: &str) {
        self.within(parent, |table, dir| {
            table.remove_name(dir, name);
            table.touch(dir);
        });
    }

    /// The name is gone here at once, and in S3 when [`Namespace::left`] says so: until then no answer of S3's
    /// shows it. `dir`: the directory's key.
    pub fn leave(&self, dir: &str, name: &str) {
        let mut table = self.lock();
        table.leave(dir, name);
        table.touch(dir);
    }

    pub fn left(&self, dir: &str, name: &str) {
        self.lock().left(dir, name);
    }

    /// The name that was leaving could not be removed: it is back, and asked about anew.
    pub fn restored(&self, dir: &str, name: &str, node: &Node) {
        self.lock().restored(dir, name, node);
    }

    /// S3 has something below a directory, whatever was listed. `dir`: its key.
    pub fn not_empty(&self, dir: &str) {
        self.lock().not_empty(dir);
    }

    /// A file was made at a name, by us and in S3.
    pub fn made_file(&self, parent: u64, name: &str, info: FileInfo) {
        self.within(parent, |table, dir| {
            table.made(dir, name, &Node::File(info));
            table.touch(dir);
        });
    }

    /// The file has moved, and S3 has of it what `info` tells. What was written and is not there yet shows as it did.
    pub fn renamed(&self, ino: u64, parent: u64, name: &str, info: FileInfo) {
        self.within(parent, |table, dir| {
            if let Some((from, _)) = table.name(ino) {
                table.touch(&from);
            }
            table.rename(ino, dir, name);
            table.touch(dir);
        });
        let mut table = self.lock();
        let is_local = table.is_local(ino);
        table.update(ino, |known| match is_local {
            true => known.etag = info.etag,
            false => *known = info.or_as_before(known),
        });
    }

    /// Whether only this mount knows the file.
    pub fn is_local(&self, ino: u64) -> bool {
        self.lock().is_local(ino)
    }

    /// Whether the directory's marker object is known to be there.
    pub fn has_marker(&self, ino: u64) -> bool {
        let table = self.lock();
        let dir = table.key(ino);
        dir.and_then(|dir| table.dirs.get(dir.as_str())).is_some_and(|dir| dir.marker)
    }

    pub fn set_marker(&self, ino: u64) {
        self.within(ino, |table, dir| table.edit(dir, |dir| dir.marker = true));
    }

    /// Whether there are names within the directory that only this mount knows.
    pub fn has_local_names(&self, dir_key: &str) -> bool {
        !self.lock().local_names(dir_key).is_empty()
    }

    /// With the key of a directory; none where that is gone.
    fn within<T>(&self, dir: u64, then: impl FnOnce(&mut Table, &str) -> T) -> Option<T> {
        let mut table = self.lock();
        let key = table.key(dir)?;
        let done = then(&mut table, &key);
        table.shrink();
        Some(done)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Whether listings are known, or may be taken, to come in key order.
    fn in_key_order(&self) -> bool {
        !self.unordered.load(Ordering::Relaxed)
    }

    /// A listing of `dir` came in another order. Directories of versions do by nature: their names are of objects.
    fn lists_in_another_order(&self, dir: &str) {
        if !key::past::is_past(dir) && !self.unordered.swap(true, Ordering::Relaxed) {
            tracing::info!("the server does not list in key order: no pages are asked for out of turn");
        }
    }

    /// From now until it is dropped a question about what is below `prefix` is under way.
    fn question(&self, prefix: &str) -> Question {
        let (id, asked) = self.lock().question(prefix);
        Question { table: self.table.clone(), id, asked }
    }
}

impl Default for FileInfo {
    fn default() -> FileInfo {
        FileInfo { size: 0, mtime: SystemTime::UNIX_EPOCH, etag: String::new(), kept: None }
    }
}
