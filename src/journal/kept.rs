//! Bytes that could not be sent, kept until `pailfs recover` sends, exports or discards them.
//!
//! Owns: [`Kept`] (what is to be known of them), [`KeptItem`] (one that is on the disk).
//! Invariants: an item is there whole, record and bytes, or not at all; it goes only by [`KeptItem::discard`].
//! Must never know: how they are sent.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, linkat};
use serde::{Deserialize, Serialize};

use super::JournalError;
use super::log::sync_above;
use super::place::Place;
use super::record;

/// Files kept at once for one bucket, at most.
pub(super) const KEPT_MAX: usize = 10_000;
const RECORD: &str = "record";
const BYTES: &str = "bytes";

/// A file, as it was when it could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub key: String,
    /// The version whose bytes stand where `ranges` has none; none: the file is new, or replaces what was there.
    pub base: Option<Base>,
    /// Only where no object is: the file was opened with O_EXCL.
    pub exclusive: bool,
    /// Of the whole file, in bytes.
    pub size: u64,
    /// What was written, in ascending order; the staged bytes lie at these offsets. What is neither here nor in the
    /// base is zeros.
    pub ranges: Vec<Range<u64>>,
    pub headers: KeptHeaders,
    /// Why it could not be sent: the error's words.
    pub reason: String,
    pub at: SystemTime,
}

/// A version of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub etag: String,
    pub size: u64,
}

/// What the object is to carry besides its bytes, as `s3::ObjectHeaders`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptHeaders {
    pub content_type: Option<String>,
    pub storage_class: Option<String>,
    pub metadata: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
}

/// Where the bytes are that are to be kept.
#[derive(Debug, Clone, Copy)]
pub enum Staged<'a> {
    /// At their offsets. Linked where the file is in the same file system, else copied.
    File(&'a File),
    /// End to end, from the first range's start.
    Memory(&'a [Bytes]),
}

/// A file that is kept.
#[derive(Debug)]
pub struct KeptItem {
    pub kept: Kept,
    dir: PathBuf,
}

impl KeptItem {
    /// What it is called on the command line.
    pub fn name(&self) -> &str {
        self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// The bytes of `ranges`, at their offsets.
    pub fn bytes(&self) -> PathBuf {
        self.dir.join(BYTES)
    }

    /// The right to work on it, as long as the file is held; none while another process has it.
    pub fn claim(&self) -> io::Result<Option<File>> {
        let record = File::open(self.dir.join(RECORD))?;
        match record.try_lock() {
            Ok(()) => Ok(Some(record)),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(e)) => Err(e),
        }
    }

    pub fn discard(self) -> io::Result<()> {
        // Without its record it is no item any more, whatever else is left of it.
        std::fs::remove_file(self.dir.join(RECORD))?;
        std::fs::remove_dir_all(&self.dir)
    }
}

/// `scratch`: a directory in the same file system, where half an item may lie.
pub(super) fn keep(
    place: &Place,
    scratch: &Path,
    kept: &Kept,
    staged: Staged<'_>,
) -> Result<KeptItem, JournalError> {
    let failed = |e| place.disk_error(e);
    if std::fs::read_dir(place.kept()).map_err(failed)?.count() >= KEPT_MAX {
        return Err(JournalError::KeptFull);
    }
    put(&place.kept(), scratch, kept, staged).map_err(failed)
}

fn put(to: &Path, scratch: &Path, kept: &Kept, staged: Staged<'_>) -> io::Result<KeptItem> {
    let since = kept.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // By time, and by a number that no other has: the scratch directory is this mount's alone.
    let (half, name) = (0..)
        .find_map(|n: u64| {
            let name = format!("{:x}-{n}", since.as_nanos());
            let half = scratch.join(&name);
            let taken = to.join(&name).exists();
            (!taken).then(|| DirBuilder::new().mode(0o700).create(&half).map(|()| (half, name)))
        })
        .expect("numbers do not end")?;
    let mut record = new_file(&half.join(RECORD))?;
    record.write_all(record::line(kept).as_bytes())?;
    record.sync_all()?;
    put_bytes(&half.join(BYTES), &kept.ranges, staged)?.sync_all()?;
    let dir = to.join(name);
    std::fs::rename(half, &dir)?;
    sync_above(&dir.join(RECORD))?;
    Ok(KeptItem { kept: kept.clone(), dir })
}

fn put_bytes(path: &Path, ranges: &[Range<u64>], staged: Staged<'_>) -> io::Result<File> {
    match staged {
        Staged::File(file) => {
            let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
            if linkat(CWD, itself, CWD, path, AtFlags::SYMLINK_FOLLOW).is_ok() {
                return File::open(path);
            }
            // Of another file system, or without a name for ever.
            let (mut from, mut to) = (file, new_file(path)?);
            for range in ranges {
                from.seek(SeekFrom::Start(range.start))?;
                to.seek(SeekFrom::Start(range.start))?;
                let copied = io::copy(&mut from.take(range.end - range.start), &mut to)?;
                if copied < range.end - range.start {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(to)
        }
        Staged::Memory(chunks) => {
            let mut to = new_file(path)?;
            to.seek(SeekFrom::Start(ranges.first().map_or(0, |range| range.start)))?;
            chunks.iter().try_for_each(|chunk| to.write_all(chunk))?;
            Ok(to)
        }
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

pub(super) fn list(place: &Place) -> Result<Vec<KeptItem>, JournalError> {
    if !place.kept().exists() {
        return Ok(Vec::new());
    }
    let read = || {
        let mut items = Vec::new();
        for entry in std::fs::read_dir(place.kept())? {
            let dir = entry?.path();
            match std::fs::read(dir.join(RECORD)) {
                Ok(line) => match line.strip_suffix(b"\n").and_then(record::read) {
                    Some(kept) => items.push(KeptItem { kept, dir }),
                    None => tracing::error!("{}: what these bytes are is spoilt", dir.display()),
                },
                // Its discarding was interrupted.
                Err(e) if e.kind() == io::ErrorKind::NotFound => std::fs::remove_dir_all(&dir)?,
                Err(e) => return Err(e),
            }
        }
        items.sort_by(|a, b| (a.kept.at, a.name()).cmp(&(b.kept.at, b.name())));
        Ok(items)
    };
    read().map_err(|e| place.disk_error(e))
}
