//! Bytes that S3 does not have yet: acknowledged, and to be sent by a mount; or kept until `pailfs recover` sends,
//! exports or discards them, because they could not be sent.
//!
//! ```text
//! 0                 size
//! | bytes, holes ... | record, where it begins [| record, where it begins] |
//! ```
//!
//! Owns: [`Kept`] (what is to be known of them), [`KeptItem`] (one that is on the disk: a file).
//! Invariants: an item is there whole or not at all; what it tells of itself, which the file's end says, changes at once
//! or not at all, and takes no more room however often it changes.
//! Must never know: how they are sent.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, rename, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::JournalError;
use super::log::sync_above;
use super::place::Place;
use super::record;
use crate::config::ChecksumAlgorithm;

/// Files kept at once for one bucket, at most.
pub(super) const KEPT_MAX: usize = 10_000;
/// After a record: where in the file it begins, in 16 hexadecimal digits, and a newline.
const FOOTER_BYTES: u64 = 17;
/// How far from a file's end a whole record is looked for, in bytes, where the last one is torn: some of the largest.
const TAIL_BYTES: u64 = 16 << 20;
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
    /// Some of the bytes are here no more, but in parts of an upload in S3, which is to be completed.
    #[serde(default)]
    pub upload: Option<KeptUpload>,
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

/// A multipart upload that waits for the rest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptUpload {
    pub upload_id: String,
    /// What the file is to carry was changed after the upload was begun: it brings less.
    #[serde(default)]
    pub outdated: bool,
    /// Numbered from 1, end to end from the file's start; what follows the last one was in no part yet.
    pub parts: Vec<KeptPart>,
}

impl KeptUpload {
    /// Of the file, in bytes: what S3 has in parts.
    pub fn bytes(&self) -> u64 {
        let there = self.parts.iter().filter(|part| part.sent.is_some());
        there.map(|part| part.range.end - part.range.start).sum()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPart {
    pub range: Range<u64>,
    /// None: S3 does not have it as it is to be; its bytes are the item's, or the base's.
    pub sent: Option<SentPart>,
}

/// What is to be repeated of a part when the upload is completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentPart {
    pub etag: String,
    /// Algorithm, and value in Base64.
    pub checksum: Option<(ChecksumAlgorithm, String)>,
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
    /// At their offsets. Linked where the file is in the same file system and still may be, else copied; linked, the file
    /// goes on behind its size.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptItem {
    pub kept: Kept,
    path: PathBuf,
    /// Made for it by this process: nobody else has its file.
    alone: bool,
}

impl KeptItem {
    /// What it is called on the command line.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// The file with the bytes of `ranges`, at their offsets. What is behind `size` is not theirs.
    pub fn bytes(&self) -> &Path {
        &self.path
    }

    /// The right to work on it, as long as the file is held; none while another process has it, or has changed it.
    pub fn claim(&self) -> io::Result<Option<File>> {
        let file = File::open(&self.path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(e)) => return Err(e),
        }
        let told = read_record(&file)?;
        Ok(told.is_some_and(|(kept, _)| kept == self.kept).then_some(file))
    }

    /// Tells something else of the same bytes from now on. Not synced.
    pub fn rewrite(&mut self, kept: Kept) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let (_, at) = read_record(&file)?.ok_or(io::ErrorKind::InvalidData)?;
        let end = file.metadata()?.len();
        let first = told(&kept, kept.size);
        if kept.size + first.len() as u64 <= at.start {
            // The file's end tells the record before until this cuts it off, also where the machine is lost in between.
            file.write_all_at(&first, kept.size)?;
            file.sync_data()?;
            file.set_len(kept.size + first.len() as u64)?;
        } else {
            let written = file.write_all_at(&told(&kept, end), end);
            if written.is_err() {
                file.set_len(end)?;
            }
            written?;
        }
        self.kept = kept;
        Ok(())
    }

    /// When this answers, the disk has it.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        sync_above(&self.path)
    }

    /// Whether the bytes are those that were acknowledged.
    pub fn is_sound(&self) -> io::Result<bool> {
        let Some(sum) = self.kept.sum else { return Ok(true) };
        match sum_of(Staged::File(&File::open(self.bytes())?), &self.kept.ranges) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            found => Ok(found? == sum),
        }
    }

    pub fn discard(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Discards one that [`KeptItem::is_alone`]: its file is an empty one at `spare`.
    pub(super) fn recycle(self, spare: &Path) -> io::Result<()> {
        rename(&self.path, spare)?;
        OpenOptions::new().write(true).open(spare)?.set_len(0)
    }
}

/// A file among those that are kept which tells no more what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoilt {
    path: PathBuf,
}

impl Spoilt {
    /// As [`KeptItem::name`].
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// The bytes that were kept, at their offsets, and what there is of the record.
    pub fn bytes(&self) -> &Path {
        &self.path
    }

    pub fn discard(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// `half`: where half an item may lie, in the same file system; an empty file is there, or none. `sync`: the disk has it
/// when this answers.
pub(super) fn put(
    to: &Path,
    half: impl FnOnce() -> PathBuf,
    kept: &Kept,
    staged: Staged<'_>,
    sync: bool,
) -> io::Result<(KeptItem, Linked)> {
    let since = kept.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let name = |n: u64| format!("{:x}-{n}", since.as_nanos());
    let put = |path: PathBuf, linked: bool| {
        if sync {
            sync_above(&path)?;
        }
        Ok((KeptItem { kept: kept.clone(), path, alone: !linked }, Linked(linked)))
    };
    if let Staged::File(file) = staged {
        finish(file, kept, sync)?;
        let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
        if let Ok(path) = place(to, name, |path| linkat(CWD, &itself, CWD, path, AtFlags::SYMLINK_FOLLOW)) {
            return put(path, true);
        }
        file.set_len(kept.size)?;
    }
    let half = half();
    let copied = || {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&half)?;
        put_bytes(&mut file, &kept.ranges, staged)?;
        finish(&file, kept, sync)?;
        place(to, name, |path| match renameat_with(CWD, &half, CWD, path, RenameFlags::NOREPLACE) {
            // Not every file system knows that.
            Err(Errno::INVAL) if path.exists() => Err(Errno::EXIST),
            Err(Errno::INVAL) => rename(&half, path),
            renamed => renamed,
        })
    };
    let path = copied().inspect_err(|_| _ = std::fs::remove_file(&half))?; // what there is of it
    put(path, false)
}

/// Gives a file the first of the names that no other has.
fn place(
    to: &Path,
    name: impl Fn(u64) -> String,
    give: impl Fn(&Path) -> Result<(), Errno>,
) -> io::Result<PathBuf> {
    let mut n = 0;
    loop {
        let path = to.join(name(n));
        match give(&path) {
            Err(Errno::EXIST) => n += 1,
            given => return Ok(given.map(|()| path)?),
        }
    }
}

/// A file that has its bytes gets its record.
fn finish(file: &File, kept: &Kept, sync: bool) -> io::Result<()> {
    file.set_len(kept.size)?; // a hole at the end belongs to it
    file.write_all_at(&told(kept, kept.size), kept.size)?;
    if sync { file.sync_all() } else { Ok(()) }
}

/// What stands in the file from `at` on.
fn told(kept: &Kept, at: u64) -> Vec<u8> {
    format!("{}{at:016x}\n", record::line(kept)).into_bytes()
}

/// The last whole record of a file, and where it is.
fn read_record(file: &File) -> io::Result<Option<(Kept, Range<u64>)>> {
    let len = file.metadata()?.len();
    if let Some(found) = record_before(file, len)? {
        return Ok(Some(found));
    }
    // Torn: the one before it counts.
    let from = len.saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; usize::try_from(len - from).unwrap_or(0)];
    file.read_exact_at(&mut tail, from)?;
    let mut ends = tail.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    ends.find_map(|(at, _)| record_before(file, from + at as u64 + 1).transpose()).transpose()
}

/// The record that ends, with its footer, at `end`.
fn record_before(file: &File, end: u64) -> io::Result<Option<(Kept, Range<u64>)>> {
    let Some(line_end) = end.checked_sub(FOOTER_BYTES) else { return Ok(None) };
    let mut footer = [0; FOOTER_BYTES as usize];
    file.read_exact_at(&mut footer, line_end)?;
    let digits = footer.strip_suffix(b"\n").and_then(|digits| std::str::from_utf8(digits).ok());
    let Some(start) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) else { return Ok(None) };
    let Some(len) = line_end.checked_sub(start).filter(|len| *len <= TAIL_BYTES) else { return Ok(None) };
    let mut line = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(&mut line, start)?;
    let kept = line.strip_suffix(b"\n").and_then(record::read);
    Ok(kept.map(|kept| (kept, start..end)))
}

/// CRC-32C of ranges, one after the other; an error where a file ends before them.
pub(super) fn sum_of(staged: Staged<'_>, ranges: &[Range<u64>]) -> io::Result<u64> {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let file = match staged {
        Staged::File(file) | Staged::Ranges(file) => file,
        Staged::Memory(chunks) => {
            chunks.iter().for_each(|chunk| digest.update(chunk));
            return Ok(digest.finalize());
        }
    };
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

fn put_bytes(to: &mut File, ranges: &[Range<u64>], staged: Staged<'_>) -> io::Result<()> {
    match staged {
        Staged::File(mut from) | Staged::Ranges(mut from) => {
            for range in ranges {
                from.seek(SeekFrom::Start(range.start))?;
                to.seek(SeekFrom::Start(range.start))?;
                let copied = io::copy(&mut from.take(range.end - range.start), to)?;
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
    Ok(())
}

pub(super) fn list(place: &Place) -> Result<(Vec<KeptItem>, Vec<Spoilt>), JournalError> {
    if !place.kept().exists() {
        return Ok(Default::default());
    }
    let read = || {
        let (mut items, mut spoilt) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(place.kept())? {
            let path = entry?.path();
            match File::open(&path).and_then(|file| read_record(&file)) {
                Ok(Some((kept, _))) => items.push(KeptItem { kept, path, alone: false }),
                Ok(None) => spoilt.push(Spoilt { path }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {} // discarded just now
                Err(e) => return Err(e),
            }
        }
        items.sort_by(|a, b| (a.kept.at, a.name()).cmp(&(b.kept.at, b.name())));
        spoilt.sort_by(|a, b| a.name().cmp(b.name()));
        Ok((items, spoilt))
    };
    read().map_err(|e| place.disk_error(e))
}
