//! The journal's file: records appended, and written anew when most of them are of no use any more.
//!
//! Owns: [`Log`].
//! Invariants: the file at the path is at every moment one that tells what is open; it is at most
//! [`SLACK_BYTES`] larger than twice what that takes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Open;
use super::record::{self, FORMAT, Record, Told};

/// Records of no use that are not worth writing the file anew: some thousands.
const SLACK_BYTES: u64 = 1 << 20;

pub(super) struct Log {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    /// Of the file when it was written anew last.
    bytes_anew: u64,
    /// The disk has the file's name.
    named: Arc<AtomicBool>,
}

/// What must be synced for the records to last.
pub(super) struct Disk {
    file: Arc<File>,
    path: PathBuf,
    named: Arc<AtomicBool>,
}

impl Disk {
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if !self.named.load(Ordering::Acquire) {
            sync_above(&self.path)?;
            self.named.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// Syncs the directories that lead to a file: its own, and those that may have been made for it.
pub(super) fn sync_above(path: &Path) -> io::Result<()> {
    path.ancestors().skip(1).take(4).try_for_each(|dir| File::open(dir)?.sync_all())
}

impl Log {
    pub fn create(path: &Path) -> io::Result<Log> {
        let (file, bytes) = write_anew(path, &BTreeMap::new())?;
        let named = Arc::default();
        Ok(Log { path: path.to_owned(), file: Arc::new(file), bytes, bytes_anew: bytes, named })
    }

    /// `open`: what was open before this record.
    pub fn append(&mut self, record: &Record, open: &BTreeMap<u64, Open>) -> io::Result<()> {
        if self.bytes > 2 * self.bytes_anew + SLACK_BYTES {
            self.compact(open)?;
        }
        let line = record::line(record);
        // After half a line (the disk is full) the next one begins a line of its own.
        if let Err(e) = (&*self.file).write_all(line.as_bytes()) {
            let _ = (&*self.file).write_all(b"\n");
            return Err(e);
        }
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn compact(&mut self, open: &BTreeMap<u64, Open>) -> io::Result<()> {
        let anew = self.path.with_extension("anew");
        let (file, bytes) = write_anew(&anew, open)?;
        file.sync_data()?;
        std::fs::rename(&anew, &self.path)?;
        self.named = Arc::default(); // what is synced from now on is in another file
        (self.file, self.bytes, self.bytes_anew) = (Arc::new(file), bytes, bytes);
        Ok(())
    }

    pub fn disk(&self) -> Disk {
        Disk { file: self.file.clone(), path: self.path.clone(), named: self.named.clone() }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is open in a file that a dead mount left.
    pub fn read(path: &Path) -> io::Result<Vec<Open>> {
        let bytes = match std::fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read?,
        };
        let Told { open, spoilt, format } = record::told(&bytes);
        if spoilt > 0 {
            tracing::error!(path = %path.display(), "{spoilt} lines of the journal are spoilt and left out");
        }
        match format {
            Some(format) if format > FORMAT => Err(io::Error::other(format!(
                "{} is of format {format}, and this pailfs knows {FORMAT}: mount with the pailfs that wrote it",
                path.display()
            ))),
            _ => Ok(open.into_values().collect()),
        }
    }
}

fn write_anew(path: &Path, open: &BTreeMap<u64, Open>) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(0o600).open(path)?;
    file.set_len(0)?;
    let mut text = record::line(&Record::Format(FORMAT));
    for Open { id, intent, committed } in open.values() {
        text += &record::line(&Record::Begin { id: *id, intent: intent.clone() });
        if *committed {
            text += &record::line(&Record::Commit { id: *id });
        }
    }
    file.write_all(text.as_bytes())?;
    Ok((file, text.len() as u64))
}
