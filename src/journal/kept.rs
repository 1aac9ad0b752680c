//! Bytes that S3 does not have yet: acknowledged, and to be sent by a mount; or kept until `pailfs recover` sends,
//! exports or discards them, because they could not be sent.
//!
//! Owns: [`Kept`] (what is to be known of them), [`KeptItem`] (one that is on the disk).
//! Invariants: an item is there whole, record and bytes, or not at all; it goes only by [`KeptItem::discard`]; what it
//! tells of itself changes at once or not at all.
//! Must never know: how they are sent.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
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
/// The record while it is written anew.
const ANEW: &str = "anew";
/// Read at a time for a checksum, in bytes.
const SUMMED_BYTES: usize = 256 << 10;

/// A file, as it was when it could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub key: String,
    /// The version whose bytes stand where `ranges` has none; none: the file is new, or replaces what was there.
    pub base: Option<Base>,
    /// Without a base: the version that it was to replace, where that is known.
    #[serde(default)]
    pub over: Option<String>,
    /// Only where no object is: the file was opened with O_EXCL.
    pub exclusive: bool,
    /// Of the whole file, in bytes.
    pub size: u64,
    /// What was written, in ascending order; the staged bytes lie at these offsets. What is neither here nor in the
    /// base is zeros.
    pub ranges: Vec<Range<u64>>,
    pub headers: KeptHeaders,
    /// The object carries what the base does, not `headers`.
    #[serde(default)]
    pub inherits: bool,
    /// The mount that is to send it, or that was when it died: its directory's name. None: it waits for a person.
    #[serde(default)]
    pub owner: Option<String>,
    /// CRC-32C of what was written, range after range, where the bytes were not synced: a lost machine may have lost
    /// them.
    #[serde(default)]
    pub sum: Option<u64>,
    /// Why it could not be sent: the error's words; none while a mount is to send it.
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
    /// At their offsets. Linked where the file is in the same file system and still may be, else copied.
    File(&'a File),
    /// At their offsets. Copied.
    Ranges(&'a File),
    /// End to end, from the first range's start.
    Memory(&'a [Bytes]),
}

/// Whether an item's bytes are the very file that was staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linked(pub bool);

/// A file that is kept.
#[derive(Debug, Clone)]
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

    /// The right to work on it, as long as the file is held; none while another process has it, or has changed it.
    pub fn claim(&self) -> io::Result<Option<File>> {
        let mut record = File::open(self.dir.join(RECORD))?;
        match record.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(e)) => return Err(e),
        }
        let mut line = Vec::new();
        record.read_to_end(&mut line)?;
        Ok((read_record(&line).as_ref() == Some(&self.kept)).then_some(record))
    }

    /// Tells something else of the same bytes from now on. Not synced.
    pub fn rewrite(&mut self, kept: Kept) -> io::Result<()> {
        let anew = self.dir.join(ANEW);
        let mut options = OpenOptions::new();
        let mut record = options.write(true).create(true).truncate(true).mode(0o600).open(&anew)?;
        record.write_all(record::line(&kept).as_bytes())?;
        std::fs::rename(anew, self.dir.join(RECORD))?;
        self.kept = kept;
        Ok(())
    }

    /// When this answers, the disk has it.
    pub fn sync(&self) -> io::Result<()> {
        sync_contents(&self.dir)?;
        sync_above(&self.dir.join(RECORD))
    }

    /// Whether the bytes are those that were acknowledged.
    pub fn is_sound(&self) -> io::Result<bool> {
        let Some(sum) = self.kept.sum else { return Ok(true) };
        match sum_of(&File::open(self.bytes())?, &self.kept.ranges) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            found => Ok(found? == sum),
        }
    }

    pub fn discard(self) -> io::Result<()> {
        // Without its record it is no item any more, whatever else is left of it.
        std::fs::remove_file(self.dir.join(RECORD))?;
        std::fs::remove_dir_all(&self.dir)
    }
}

/// `scratch`: a directory in the same file system, where half an item may lie. `sync`: the disk has it when this answers.
pub(super) fn put(
    to: &Path,
    scratch: &Path,
    kept: &Kept,
    staged: Staged<'_>,
    sync: bool,
) -> io::Result<(KeptItem, Linked)> {
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
    let linked = put_bytes(&half.join(BYTES), &kept.ranges, staged)?;
    if sync {
        sync_contents(&half)?; // before it has its name: it is there whole, or not at all
    }
    let dir = to.join(name);
    std::fs::rename(half, &dir)?;
    if sync {
        sync_above(&dir.join(RECORD))?;
    }
    Ok((KeptItem { kept: kept.clone(), dir }, linked))
}

/// Of the item that is, or will be, this directory.
fn sync_contents(dir: &Path) -> io::Result<()> {
    [RECORD, BYTES].iter().try_for_each(|name| File::open(dir.join(name))?.sync_all())
}

/// CRC-32C of a file's ranges, one after the other; an error where the file ends before them.
pub(super) fn sum_of(file: &File, ranges: &[Range<u64>]) -> io::Result<u64> {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut buffer = vec![0; SUMMED_BYTES];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let wanted = usize::try_from(range.end - at).unwrap_or(SUMMED_BYTES).min(SUMMED_BYTES);
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            match file.read_at(piece, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    digest.update(piece.get(..read).unwrap_or_default());
                    at += read as u64;
                }
            }
        }
    }
    Ok(digest.finalize())
}

fn put_bytes(path: &Path, ranges: &[Range<u64>], staged: Staged<'_>) -> io::Result<Linked> {
    if let Staged::File(file) = staged {
        let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
        if linkat(CWD, itself, CWD, path, AtFlags::SYMLINK_FOLLOW).is_ok() {
            return Ok(Linked(true));
        }
    }
    let mut to = new_file(path)?;
    match staged {
        Staged::File(mut from) | Staged::Ranges(mut from) => {
            for range in ranges {
                from.seek(SeekFrom::Start(range.start))?;
                to.seek(SeekFrom::Start(range.start))?;
                let copied = io::copy(&mut from.take(range.end - range.start), &mut to)?;
                if copied < range.end - range.start {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Staged::Memory(chunks) => {
            to.seek(SeekFrom::Start(ranges.first().map_or(0, |range| range.start)))?;
            chunks.iter().try_for_each(|chunk| to.write_all(chunk))?;
        }
    }
    Ok(Linked(false))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn read_record(line: &[u8]) -> Option<Kept> {
    line.strip_suffix(b"\n").and_then(record::read)
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
                Ok(line) => match read_record(&line) {
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
