//! Open handles, and the one writer of each file that is being written.
//!
//! Owns: [`Handles`].
//! Invariants: handle numbers are never given twice; a writer is there as long as a handle that wrote is.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::Error;
use crate::key::VersionId;
use crate::read::Reader;
use crate::write::Writer;

use super::backing::{Backing, Backings};
use super::dir::Listing;

/// Handles open at once, at most.
const HANDLES_MAX: usize = 1 << 20;
/// Threads remembered of one handle, at most.
const USERS_MAX: usize = 8;

#[derive(Default)]
pub(super) struct Handles {
    next: AtomicU64,
    /// Held for an instant only; under it only a handle's `reader` is locked.
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    files: HashMap<u64, Arc<FileHandle>>,
    dirs: HashMap<u64, Arc<DirHandle>>,
    /// By inode: the writer and how many handles wrote.
    writers: HashMap<u64, (Arc<Writer>, usize)>,
}

pub(super) struct FileHandle {
    pub ino: u64,
    pub writable: bool,
    readable: bool,
    /// Made when it is opened where the kernel may keep pages, else at the first read. Held for an instant only.
    pub reader: Mutex<Option<Arc<Reader>>>,
    /// Whether any byte was returned: from then on the version is fixed.
    pub answered: AtomicBool,
    /// Whether the kernel keeps what is read through this handle, for all that read the file.
    pub paged: AtomicBool,
    /// Opened with O_DIRECT: where there is a disk cache, waits until that has taken what is read.
    pub fills_disk: bool,
    /// Whether anything was, or is about to be, changed through it.
    pub changes: AtomicBool,
    /// Threads that opened it, or wrote through it, at most [`USERS_MAX`]. Held for an instant only.
    users: Mutex<Vec<u32>>,
    /// Whether this handle is counted among its inode's writers.
    wrote: AtomicBool,
    /// Whether it is counted by [`Backings`].
    entered: AtomicBool,
}

pub(super) struct DirHandle {
    pub ino: u64,
    /// Held across requests: readdir calls on one handle take their turns.
    pub listing: tokio::sync::Mutex<Listing>,
}

impl FileHandle {
    /// `flags`: those of open(2).
    pub fn new(ino: u64, flags: i32) -> FileHandle {
        FileHandle {
            ino,
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
            readable: flags & libc::O_ACCMODE != libc::O_WRONLY,
            fills_disk: flags & libc::O_DIRECT != 0,
            reader: Mutex::default(),
            answered: AtomicBool::new(false),
            paged: AtomicBool::new(false),
            changes: AtomicBool::new(false),
            users: Mutex::default(),
            wrote: AtomicBool::new(false),
            entered: AtomicBool::new(false),
        }
    }

    /// [`Backings::enter`], once.
    pub fn enter(&self, to: &Backings, whole: Option<(VersionId, File)>) -> Option<(Arc<Backing>, bool)> {
        self.entered.store(true, Ordering::Release);
        to.enter(self.ino, whole)
    }

    /// [`Backings::leave`], if it entered.
    pub fn leave(&self, from: &Backings) {
        if self.entered.swap(false, Ordering::AcqRel) {
            from.leave(self.ino);
        }
    }

    fn count_among(&self, (writer, handles): &mut (Arc<Writer>, usize)) -> Arc<Writer> {
        if self.readable {
            writer.will_be_read();
        }
        if !self.wrote.swap(true, Ordering::AcqRel) {
            *handles += 1;
        }
        writer.clone()
    }

    /// A thread opened it, or writes through it. Of more than [`USERS_MAX`] none is known.
    pub fn used_by(&self, thread: u32) {
        let mut users = self.users.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if users.len() <= USERS_MAX && !users.contains(&thread) {
            users.push(thread);
        }
    }

    /// None where not all of them are known.
    pub fn users(&self) -> Vec<u32> {
        let users = self.users.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if users.len() <= USERS_MAX { users.clone() } else { Vec::new() }
    }

    pub fn has_written(&self) -> bool {
        self.wrote.load(Ordering::Acquire)
    }

    pub fn reader(&self) -> MutexGuard<'_, Option<Arc<Reader>>> {
        self.reader.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Handles {
    pub fn len(&self) -> usize {
        let tables = self.lock();
        tables.files.len() + tables.dirs.len()
    }

    pub fn add_file(&self, handle: FileHandle) -> Result<(u64, Arc<FileHandle>), Error> {
        let fh = self.number()?;
        let handle = Arc::new(handle);
        let mut tables = self.lock();
        if let Some((writer, _)) = tables.writers.get(&handle.ino).filter(|_| handle.readable) {
            writer.will_be_read();
        }
        tables.files.insert(fh, handle.clone());
        drop(tables);
        Ok((fh, handle))
    }

    pub fn add_dir(&self, ino: u64, listing: Listing) -> Result<u64, Error> {
        let fh = self.number()?;
        let handle = DirHandle { ino, listing: tokio::sync::Mutex::new(listing) };
        self.lock().dirs.insert(fh, Arc::new(handle));
        Ok(fh)
    }

    fn number(&self) -> Result<u64, Error> {
        if self.len() >= HANDLES_MAX {
            return Err(Error::TooManyHandles);
        }
        Ok(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub fn file(&self, fh: u64) -> Result<Arc<FileHandle>, Error> {
        self.lock().files.get(&fh).cloned().ok_or(Error::BadHandle)
    }

    /// Whether a handle reads another version of the file than this one.
    pub fn others_read(&self, ino: u64, etag: &str) -> bool {
        let files = &self.lock().files;
        let of_file = files.values().filter(|handle| handle.ino == ino);
        of_file.filter_map(|handle| handle.reader().clone()).any(|reader| reader.version.etag != etag)
    }

    pub fn dir(&self, fh: u64) -> Result<Arc<DirHandle>, Error> {
        self.lock().dirs.get(&fh).cloned().ok_or(Error::BadHandle)
    }

    /// Whether a directory is open.
    pub fn has_dir(&self, ino: u64) -> bool {
        self.lock().dirs.values().any(|handle| handle.ino == ino)
    }

    pub fn remove_dir(&self, fh: u64) {
        self.lock().dirs.remove(&fh);
    }

    /// The file's writer, if it is being written.
    pub fn writer(&self, ino: u64) -> Option<Arc<Writer>> {
        self.lock().writers.get(&ino).map(|(writer, _)| writer.clone())
    }

    pub fn writers(&self) -> Vec<(u64, Arc<Writer>)> {
        self.between_writers(|writers| writers)
    }

    /// Does something while no writer is made: those there are.
    pub fn between_writers<T>(&self, then: impl FnOnce(Vec<(u64, Arc<Writer>)>) -> T) -> T {
        let tables = self.lock();
        then(tables.writers.iter().map(|(ino, (writer, _))| (*ino, writer.clone())).collect())
    }

    /// The file's writer, made by `make` if there is none; the handle is counted among those that wrote.
    pub fn writer_for(&self, handle: &FileHandle, make: impl FnOnce() -> Writer) -> Arc<Writer> {
        let mut tables = self.lock();
        let slot = tables.writers.entry(handle.ino).or_insert_with(|| (Arc::new(make()), 0));
        handle.count_among(slot)
    }

    /// The file's writer, made by `make` if there is none, that all its handles go through from now on: whatever they do,
    /// they count among those that wrote. None where no handle is open.
    pub fn writer_for_all(&self, ino: u64, make: impl FnOnce() -> Writer) -> Option<Arc<Writer>> {
        let mut tables = self.lock();
        let Tables { files, writers, .. } = &mut *tables;
        let mut of_file = files.values().filter(|handle| handle.ino == ino).peekable();
        of_file.peek()?;
        let slot = writers.entry(ino).or_insert_with(|| (Arc::new(make()), 0));
        of_file.for_each(|handle| drop(handle.count_among(slot)));
        Some(slot.0.clone())
    }

    /// The file's writer, if it has one; the handle is counted among those that wrote.
    pub fn join_writer(&self, handle: &FileHandle) -> Option<Arc<Writer>> {
        self.lock().writers.get_mut(&handle.ino).map(|slot| handle.count_among(slot))
    }

    /// Forgets a handle. Answers the file's writer when this was the last handle that wrote: the writer
    /// stays in the table until [`Handles::remove_writer`].
    pub fn remove_file(&self, fh: u64) -> Option<(Arc<FileHandle>, Option<Arc<Writer>>)> {
        let mut tables = self.lock();
        let handle = tables.files.remove(&fh)?;
        if !handle.has_written() {
            return Some((handle, None));
        }
        let last = match tables.writers.get_mut(&handle.ino) {
            Some((writer, handles)) => {
                *handles -= 1;
                (*handles == 0).then(|| writer.clone())
            }
            None => None,
        };
        Some((handle, last))
    }

    /// Whether a handle is open that wrote to the file, or is about to.
    pub fn is_written(&self, ino: u64) -> bool {
        self.lock().writers.get(&ino).is_some_and(|(_, handles)| *handles > 0)
    }

    /// Drops the file's writer if no handle that wrote has come meanwhile.
    pub fn remove_writer(&self, ino: u64) -> bool {
        let mut tables = self.lock();
        let unused = tables.writers.get(&ino).is_some_and(|(_, handles)| *handles == 0);
        if unused {
            tables.writers.remove(&ino);
        }
        unused
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
