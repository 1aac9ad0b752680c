//! Files: open, create, read, write.
//!
//! Owns: which version a handle reads.
//! Invariants: one handle never mixes two versions of an object but for what this mount wrote itself; the
//! kernel's page cache holds pages of one version of a file, is kept across opens exactly while that is the
//! present one, and never holds what S3 does not have.

use std::ffi::OsStr;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use lru::LruCache;

use super::backing::Backing;
use super::handles::FileHandle;
use super::keep::Maker;
use super::{Attr, Filesystem, new_name};
use crate::attr::{Attributes, Kind};
use crate::error::Error;
use crate::key::{self, VersionId};
use crate::namespace::{Entry, FileInfo, Node};
use crate::read::{Reader, Version};
use crate::s3::ObjectHeaders;
use crate::write::{Committed, Object, Piece, Start, Writer};

/// Files whose last versions are remembered, at most.
const VERSIONS_MAX: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

/// What was answered to an open.
#[derive(Debug, Clone)]
pub struct Opened {
    pub fh: u64,
    /// The kernel may keep the pages it has of this file.
    pub keep_cache: bool,
    /// The kernel must ask for every read, and pass every write on as it is: for handles that write, whose
    /// pages might never reach S3, and for handles whose version is not the one others read.
    pub direct_io: bool,
    /// The kernel is to be given this file; without `direct_io` it reads it by itself.
    pub backing: Option<Arc<Backing>>,
}

/// By inode: the ETag the kernel's pages are of, and the last one this mount made.
#[derive(Clone)]
pub(super) struct Versions {
    /// Held for an instant only; no other lock is taken under it.
    by_ino: Arc<Mutex<LruCache<u64, Seen>>>,
}

#[derive(Default)]
struct Seen {
    cached: String,
    /// Whether the kernel was given any byte of that version.
    given: bool,
    ours: String,
}

impl Versions {
    pub fn new() -> Versions {
        Versions { by_ino: Arc::new(Mutex::new(LruCache::new(VERSIONS_MAX))) }
    }

    /// Whether the kernel's pages of the file are of this ETag.
    pub(super) fn is_cached(&self, ino: u64, etag: &str) -> bool {
        !etag.is_empty() && self.lock().get(&ino).is_some_and(|seen| seen.cached == etag)
    }

    /// As [`Versions::is_cached`]; from now on they are.
    fn opened(&self, ino: u64, etag: &str) -> bool {
        let same = self.is_cached(ino, etag);
        let mut seen = self.lock();
        let seen = seen.get_or_insert_mut(ino, Seen::default);
        etag.clone_into(&mut seen.cached);
        seen.given = same; // the pages that are kept may be seen
        same
    }

    fn give(&self, ino: u64) {
        if let Some(seen) = self.lock().get_mut(&ino) {
            seen.given = true;
        }
    }

    /// Whether the kernel may have pages of the version, and a program may have seen them without a word to us.
    fn may_be_given(&self, ino: u64, etag: &str) -> bool {
        self.lock().get(&ino).is_none_or(|seen| seen.given || seen.cached != etag)
    }

    /// This mount made version `etag`, going on from version `from` (none: anew). The kernel's pages are
    /// of the new version as far as they were of the old one, for writes go past them; anew there are none.
    pub(super) fn made(&self, ino: u64, from: Option<&str>, etag: &str) {
        let mut seen = self.lock();
        let seen = seen.get_or_insert_mut(ino, Seen::default);
        let pages_hold = from.is_some_and(|from| seen.cached == from);
        seen.cached = if pages_hold { etag.into() } else { String::new() };
        etag.clone_into(&mut seen.ours);
    }

    /// The kernel may have pages of what never came to be.
    pub(super) fn doubt(&self, ino: u64) {
        self.lock().pop(&ino);
    }

    fn is_ours(&self, ino: u64, etag: &str) -> bool {
        self.lock().get(&ino).is_some_and(|seen| seen.ours == etag)
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<u64, Seen>> {
        self.by_ino.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Filesystem {
    /// `open(2)`. Sends nothing while what is known of the file is fresh.
    ///
    /// Errors: [`Error::IsDirectory`], [`Error::ReadOnly`], [`Error::NotFound`]; [`Error::Busy`] for O_RDWR of a file
    /// that the kernel reads by itself.
    pub async fn open(&self, ino: u64, flags: i32) -> Result<Opened, Error> {
        let entry = self.namespace.attributes(ino).await?;
        let Node::File(info) = &entry.node else { return Err(Error::IsDirectory) };
        let truncate = flags & libc::O_TRUNC != 0;
        let writes = truncate || flags & libc::O_ACCMODE != libc::O_RDONLY;
        if writes {
            self.check_writable(ino)?;
        }
        if entry.is_deleted() {
            return Err(Error::NotFound);
        }
        let (fh, handle) = self.handles.add_file(FileHandle::new(ino, flags))?;
        self.namespace.pin(ino);
        let whole = if writes || handle.fills_disk { None } else { self.whole_on_disk(ino, info).await };
        // Asked now, for others may have begun to write while the disk was looked at.
        let ours = writes || self.namespace.is_local(ino);
        let entered = handle.enter(&self.backings, whole.filter(|_| !ours));
        let refused = match &entered {
            // The kernel would map the cache's own file, shared and to be written.
            Some(_) if flags & libc::O_ACCMODE == libc::O_RDWR => {
                Err(Error::Busy("opening for reading and writing what the kernel reads from the cache"))
            }
            _ if truncate => {
                let _pass = self.pass_file(ino).await;
                self.begin_anew(&handle).await
            }
            _ => Ok(()),
        };
        if let Err(e) = refused {
            self.release(fh).await;
            return Err(e);
        }
        if let Some((backing, same)) = entered {
            return Ok(Opened { fh, keep_cache: false, direct_io: !same, backing: Some(backing) });
        }
        let others_read =
            || !self.versions.is_cached(ino, &info.etag) && self.handles.others_read(ino, &info.etag);
        if ours || others_read() {
            return Ok(Opened { fh, keep_cache: false, direct_io: true, backing: None });
        }
        if let Ok(key) = self.namespace.key(ino) {
            self.fetch_what_follows(&Version::new(self.client.bucket(), key, info.etag.clone(), info.size));
        }
        let keep_cache = self.versions.opened(ino, &info.etag);
        // The program may read pages of this version before the first read comes here: those that are kept, and
        // those that other handles bring.
        if let Err(e) = self.reader(&handle, &entry) {
            self.release(fh).await;
            return Err(e);
        }
        handle.paged.store(true, Ordering::Release);
        handle.answered.store(keep_cache, Ordering::Release);
        Ok(Opened { fh, keep_cache, direct_io: false, backing: None })
    }

    /// The file on the local disk that holds this version whole, where the kernel may read it by itself.
    async fn whole_on_disk(&self, ino: u64, info: &FileInfo) -> Option<(VersionId, File)> {
        let disk = self.disk.as_ref().filter(|_| info.size > 0 && self.backings.are_possible())?;
        let version = VersionId::new(self.client.bucket(), &self.namespace.key(ino).ok()?, &info.etag);
        Some((version, disk.open_whole(version, info.size).await?))
    }

    /// The kernel did not take the file that the handle was to be passed through: no other will be offered. The
    /// handle's reads come here.
    pub fn refuse_backing(&self, opened: Opened) -> Opened {
        if let Ok(handle) = self.handles.file(opened.fh) {
            self.backings.forget(handle.ino);
        }
        Opened { direct_io: true, backing: None, ..opened }
    }

    /// O_TRUNC: the file is empty, and closing it makes it so in S3.
    pub(super) async fn begin_anew(&self, handle: &FileHandle) -> Result<(), Error> {
        let key = self.namespace.key(handle.ino)?;
        let metadata = self.metadata_to_keep(handle.ino, &key).await?;
        let over = match self.namespace.entry(handle.ino)?.node {
            Node::File(info) => Some(info.etag).filter(|etag| !etag.is_empty()),
            Node::Directory => None,
        };
        let writer = self.writer_for(handle, Start::Over(over), metadata)?;
        writer.truncate(0).await?;
        // What was empty in S3 already is not ours to publish.
        if writer.is_dirty().await {
            self.namespace.written(handle.ino, 0);
        }
        Ok(())
    }

    /// `open(2)` with O_CREAT of a name that is not there. S3 hears of it at close.
    pub fn create(
        &self,
        parent: u64,
        name: &OsStr,
        flags: i32,
        maker: Maker,
    ) -> Result<(Attr, Opened), Error> {
        self.check_writable(parent)?;
        self.check_holds_files()?;
        let name = new_name(name)?;
        key::file_key(&self.namespace.dir_key(parent)?, name.as_bytes())?; // no longer than a key may be
        let attributes = Attributes { mtime: None, ctime: None, ..self.made_by(parent, Kind::File, maker) };
        let mut metadata = Vec::new();
        attributes.write(Kind::File, &mut metadata);
        let entry = self.namespace.create(parent, name, self.kept(attributes))?;
        let added = self.handles.add_file(FileHandle::new(entry.ino, flags));
        let (fh, handle) = added.inspect_err(|_| {
            self.namespace.removed(parent, name);
            self.namespace.forget(entry.ino, 1);
        })?;
        self.namespace.pin(entry.ino);
        // Who cuts what is there may find none; who does not means to go on from what there is.
        let start = match flags & libc::O_TRUNC != 0 && flags & libc::O_EXCL == 0 {
            true => Start::Over(None),
            false => Start::New { exclusive: flags & libc::O_EXCL != 0 },
        };
        self.writer_for(&handle, start, metadata)?;
        let backing = handle.enter(&self.backings, None).map(|(backing, _)| backing);
        Ok((self.attr(&entry), Opened { fh, keep_cache: false, direct_io: true, backing }))
    }

    /// The file's writer, made if there is none. `metadata`: as for [`Filesystem::new_writer`].
    fn writer_for(
        &self,
        handle: &FileHandle,
        start: Start,
        metadata: Vec<(String, String)>,
    ) -> Result<Arc<Writer>, Error> {
        let key = self.namespace.key(handle.ino)?;
        // Under the lock no rename or removal comes between this and the writer's being there to hear of it.
        let make = || match self.namespace.key(handle.ino) {
            Ok(key) => self.new_writer(key, start, metadata),
            Err(_) => self.new_writer(key, start, metadata).without_name(),
        };
        Ok(self.handles.writer_for(handle, make))
    }

    /// `metadata`: what a new object carries; one that goes on from another carries what that did.
    pub(super) fn new_writer(&self, key: String, start: Start, metadata: Vec<(String, String)>) -> Writer {
        let content_type = self.config.content_type.clone().or_else(|| key::content_type_of(&key));
        let storage_class = self.config.s3.requests.storage_class.clone();
        let headers = ObjectHeaders { content_type, storage_class, metadata, ..ObjectHeaders::default() };
        Writer::new(self.writes.clone(), key, headers, self.namespace.keeps_attributes(), start)
    }

    /// `read(2)`. Fewer bytes than asked for come only at the file's end.
    pub async fn read(&self, fh: u64, offset: u64, len: usize) -> Result<Vec<Bytes>, Error> {
        let handle = self.handles.file(fh)?;
        let frames = match self.handles.writer(handle.ino) {
            Some(writer) => self.read_written(&handle, &writer, offset, len).await?,
            None => self.read_object(&handle, offset, len).await?,
        };
        if !handle.answered.swap(true, Ordering::AcqRel) && handle.paged.load(Ordering::Acquire) {
            self.versions.give(handle.ino);
        }
        Ok(frames)
    }

    async fn read_object(&self, handle: &FileHandle, offset: u64, len: usize) -> Result<Vec<Bytes>, Error> {
        // Once the handle has a reader its version is fixed, and If-Match tells when it is no longer true.
        let fixed = handle.reader().is_some();
        let entry = match fixed {
            true => self.namespace.entry(handle.ino)?,
            false => self.namespace.attributes(handle.ino).await?,
        };
        let reader = self.reader(handle, &entry)?;
        self.reads.note(&reader, offset, len);
        match self.reads.read(&reader, offset, len).await {
            Err(e) if e.is_other_version() => {}
            read => return read,
        }
        self.in_place(handle.ino).await;
        // Renamed here meanwhile: the same bytes are under another key.
        if self.namespace.key(handle.ino).is_ok_and(|key| key != reader.version.key) {
            let reader = self.reader(handle, &self.namespace.entry(handle.ino)?)?;
            match self.reads.read(&reader, offset, len).await {
                Err(e) if e.is_other_version() => {}
                read => return read,
            }
        }
        // Also where this handle is lost: whoever opens the file next shall have the new one.
        let refreshed = self.namespace.refresh(handle.ino).await;
        self.copies.doubt(self.namespace.parent(handle.ino));
        if let Some(kernel) = self.kernel.get() {
            kernel.forget_attributes(handle.ino);
        }
        if handle.answered.load(Ordering::Acquire) {
            return Err(Error::Stale);
        }
        let entry = refreshed?;
        let reader = self.reader(handle, &entry)?;
        let read = self.reads.read(&reader, offset, len).await;
        read.map_err(|e| if e.is_other_version() { Error::Stale } else { e })
    }

    /// The handle's reader, for the version that stands at the inode now.
    fn reader(&self, handle: &FileHandle, entry: &Entry) -> Result<Arc<Reader>, Error> {
        let Node::File(info) = &entry.node else { return Err(Error::IsDirectory) };
        let mut reader = handle.reader();
        // The key of an unlinked file is gone; what its handles read stays where it was.
        let key = self.namespace.key(handle.ino).ok();
        let same = |version: &Version| {
            version.etag == info.etag && key.as_ref().is_none_or(|key| *key == version.key)
        };
        if let Some(reader) = reader.as_ref().filter(|reader| same(&reader.version)) {
            return Ok(reader.clone());
        }
        let paged = handle.paged.load(Ordering::Acquire);
        if let Some(old) = &*reader
            && !self.versions.is_ours(handle.ino, &info.etag)
            && (handle.answered.load(Ordering::Acquire)
                || paged && self.versions.may_be_given(handle.ino, &old.version.etag))
        {
            return Err(Error::Stale);
        }
        let version =
            Version::new(self.client.bucket(), key.ok_or(Error::NotFound)?, info.etag.clone(), info.size);
        if paged {
            self.versions.opened(handle.ino, &version.etag); // from now on the kernel's pages are of this one
        }
        let new = Arc::new(match handle.fills_disk {
            true => self.reads.filling_reader(version),
            false => self.reads.reader(version),
        });
        *reader = Some(new.clone());
        Ok(new)
    }

    /// Reads a file that is being written: what was written is seen before it is published.
    async fn read_written(
        &self,
        handle: &FileHandle,
        writer: &Writer,
        offset: u64,
        len: usize,
    ) -> Result<Vec<Bytes>, Error> {
        let end = writer.len().min(offset.saturating_add(len as u64));
        let mut frames = Vec::new();
        let mut at = offset;
        let mut lost: Option<Arc<Object>> = None;
        while at < end {
            let pieces = writer.read(at..end).await?;
            if pieces.is_empty() {
                break; // it was cut meanwhile
            }
            for piece in pieces {
                let (object, range) = match piece {
                    Piece::Bytes(bytes) => {
                        at += bytes.len() as u64;
                        frames.push(bytes);
                        continue;
                    }
                    Piece::Object(object, range) => (object, range),
                };
                match self.read_range(handle, &object, range.clone()).await {
                    Ok(read) => {
                        at += range.end - range.start;
                        frames.extend(read);
                    }
                    // A commit may have replaced it since the writer was asked: asked again it names another.
                    Err(e) if e.is_other_version() && lost.as_ref() != Some(&object) => {
                        self.in_place(handle.ino).await;
                        lost = Some(object);
                        break;
                    }
                    Err(e) if e.is_other_version() => return Err(Error::Stale),
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(frames)
    }

    async fn read_range(
        &self,
        handle: &FileHandle,
        object: &Object,
        range: Range<u64>,
    ) -> Result<Vec<Bytes>, Error> {
        let reader = {
            let mut own = handle.reader();
            let here = |reader: &&Arc<Reader>| {
                reader.version.etag == object.etag && reader.version.key == object.key
            };
            match own.as_ref().filter(here) {
                Some(reader) => reader.clone(),
                None => {
                    let version = Version::new(
                        self.client.bucket(),
                        object.key.clone(),
                        object.etag.clone(),
                        object.size,
                    );
                    let reader = Arc::new(self.reads.reader(version));
                    // What the kernel has pages of is fixed.
                    if !handle.paged.load(Ordering::Acquire) {
                        *own = Some(reader.clone());
                    }
                    reader
                }
            }
        };
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        self.reads.note(&reader, range.start, len);
        self.reads.read(&reader, range.start, len).await
    }

    /// `write(2)` where it needs no wait; false where it does.
    pub fn write_now(&self, fh: u64, offset: u64, data: &[u8]) -> Result<bool, Error> {
        let handle = self.writable_handle(fh)?;
        let Some(writer) = self.handles.join_writer(&handle) else { return Ok(false) };
        let done = writer.try_write(offset, data)?;
        if done {
            self.namespace.written(handle.ino, writer.len());
        }
        Ok(done)
    }

    /// `write(2)`. `append`: at the file's end, wherever other handles have moved that to.
    pub async fn write(&self, fh: u64, offset: u64, data: &[u8], append: bool) -> Result<(), Error> {
        let handle = self.writable_handle(fh)?;
        let _pass = self.pass_file(handle.ino).await;
        let writer = self.writer_to_go_on(&handle).await?;
        let written = match append {
            true => writer.append(data).await,
            false => writer.write(offset, data).await,
        };
        self.changed(handle.ino, &writer).await;
        written
    }

    /// The file is as long as its writer says. A change that was refused leaves it S3's.
    pub(super) async fn changed(&self, ino: u64, writer: &Writer) {
        if writer.is_dirty().await {
            self.namespace.written(ino, writer.len());
        }
    }

    /// The handle, through which the file is about to be changed.
    pub(super) fn writable_handle(&self, fh: u64) -> Result<Arc<FileHandle>, Error> {
        let handle = self.handles.file(fh)?;
        if !handle.writable {
            return Err(Error::BadHandle);
        }
        handle.changes.store(true, Ordering::Release);
        Ok(handle)
    }

    /// The file's writer; where there is none, one that goes on from what S3 has. With a pass: no rename that is under way
    /// may miss it.
    pub(super) async fn writer_to_go_on(&self, handle: &FileHandle) -> Result<Arc<Writer>, Error> {
        if let Some(writer) = self.handles.join_writer(handle) {
            return Ok(writer);
        }
        let entry = self.namespace.attributes(handle.ino).await?;
        let Node::File(info) = entry.node else { return Err(Error::IsDirectory) };
        let base = Committed { etag: info.etag, size: info.size };
        self.writer_for(handle, Start::From(base), Vec::new())
    }
}
