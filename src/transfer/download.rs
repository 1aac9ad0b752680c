//! One object becomes one file.
//!
//! Owns: how an object is fetched in pieces, and the file it grows in.
//! Invariants: all pieces are of one version, pinned by ETag; the file has its name only once it is whole.
//! Must never know: which objects there are.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Shared, make_dir};
use crate::config::ChecksumAlgorithm;
use crate::error::Error;
use crate::s3::{Checksum, GetObject, ObjectBody, ObjectId, PartChecksum, Promise, S3Client};

/// What one request brings.
const PIECE_BYTES: u64 = 8 << 20;
/// Of one object under way at once.
const PIECES_MAX: usize = 16;
/// What is gathered before it is written.
const WRITE_BYTES: u64 = 2 << 20;

/// A file beside the one it is to become. Removed when dropped, unless it has become it.
struct Temporary {
    /// Written by one at a time: more of them only wait in the kernel for the same lock, and spin there.
    file: Arc<tokio::sync::Mutex<File>>,
    path: PathBuf,
    kept: bool,
}

impl Temporary {
    fn beside(target: &Path) -> Result<Temporary, Error> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        match target.metadata() {
            Ok(there) if there.is_dir() => return Err(Error::IsDirectory),
            // It would be replaced: a device, a fifo.
            Ok(there) if !there.is_file() => {
                return Err(Error::Io("the target is no regular file".to_string()));
            }
            _ => {}
        }
        let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        make_dir(dir)?;
        loop {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!(".pailfs-{}-{serial}.part", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Temporary { file: Arc::new(file.into()), path, kept: false }),
                // Left by one of this number that was killed, as in a container where all have the same.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io(&e)),
            }
        }
    }

    fn become_file(mut self, target: &Path) -> Result<(), Error> {
        std::fs::rename(&self.path, target).map_err(|e| io(&e))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            eprintln!("pailfs: {} is left behind: {e}", self.path.display());
        }
    }
}

fn io(e: &dyn std::fmt::Display) -> Error {
    Error::Io(e.to_string())
}

pub(super) async fn download(shared: &Arc<Shared>, key: &str, target: &Path) -> Result<(), Error> {
    let verified = Verified::of(shared, key).await?;
    let GetObject { head, range, body } =
        shared.client.get_object(key, Some(0..PIECE_BYTES), verified.etag()).await?;
    shared.tally.begun(head.size);
    let temporary = Temporary::beside(target)?;
    let mut pieces = JoinSet::new();
    let (sink, first) = (Sink::of(shared, &temporary, range.clone(), &verified), range.end);
    pieces.spawn(async move { sink.fill(body).await });
    let mut at = first;
    while at < head.size {
        if pieces.len() >= PIECES_MAX {
            finish_one(&mut pieces).await?;
        }
        let piece = at..head.size.min(at + PIECE_BYTES);
        at = piece.end;
        let sink = Sink::of(shared, &temporary, piece.clone(), &verified);
        let (client, key, etag) = (shared.client.clone(), key.to_string(), head.etag.clone());
        pieces.spawn(async move { sink.fetch(client, key, piece, etag).await });
    }
    while finish_one(&mut pieces).await? {}
    verified.compare()?;
    temporary.become_file(target)
}

async fn finish_one(pieces: &mut JoinSet<Result<(), Error>>) -> Result<bool, Error> {
    match pieces.join_next().await {
        Some(piece) => piece.map_err(|e| io(&e))?.map(|()| true),
        None => Ok(false),
    }
}

/// What S3 promises of the object, if that is to be compared, and what its pieces were.
struct Verified {
    promise: Option<(Promise, String)>,
    sums: Arc<Mutex<BTreeMap<u64, PartChecksum>>>,
}

impl Verified {
    async fn of(shared: &Shared, key: &str) -> Result<Verified, Error> {
        let mut verified = Verified { promise: None, sums: Arc::default() };
        if shared.client.verifies() {
            let details = shared.client.head_object_details(ObjectId::current(key)).await?;
            verified.promise = Promise::of(&details.headers).map(|promise| (promise, details.head.etag));
        }
        Ok(verified)
    }

    /// What the promise was made of.
    fn etag(&self) -> Option<&str> {
        self.promise.as_ref().map(|(_, etag)| etag.as_str())
    }

    fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.promise.as_ref().map(|(promise, _)| promise.algorithm)
    }

    /// Once all pieces are there.
    fn compare(&self) -> Result<(), Error> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let sums: Vec<PartChecksum> = sums.values().cloned().collect();
        match &self.promise {
            Some((promise, _)) if !sums.is_empty() => promise.compare_pieces(&sums).map_err(Error::Io),
            _ => Ok(()),
        }
    }
}

/// Where the bytes of one piece go.
struct Sink {
    shared: Arc<Shared>,
    file: Arc<tokio::sync::Mutex<File>>,
    range: Range<u64>,
    /// None: nothing is to be compared.
    checksum: Option<Checksum>,
    sums: Arc<Mutex<BTreeMap<u64, PartChecksum>>>,
}

impl Sink {
    fn of(shared: &Arc<Shared>, temporary: &Temporary, range: Range<u64>, verified: &Verified) -> Sink {
        Sink {
            shared: shared.clone(),
            file: temporary.file.clone(),
            range,
            checksum: verified.algorithm().map(Checksum::new),
            sums: verified.sums.clone(),
        }
    }

    async fn fetch(
        self,
        client: S3Client,
        key: String,
        piece: Range<u64>,
        etag: String,
    ) -> Result<(), Error> {
        let _turn = self.shared.pieces.clone().acquire_owned().await.map_err(|e| io(&e))?;
        let got = client.get_object(&key, Some(piece), Some(&etag)).await?;
        self.fill(got.body).await
    }

    async fn fill(mut self, mut body: ObjectBody) -> Result<(), Error> {
        // What is gathered, and as much that is being written.
        let _permit = self.shared.budget.take(2 * WRITE_BYTES).await;
        let mut at = self.range.start;
        let mut gathered: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        loop {
            let frame = body.frame().await?;
            let ended = frame.is_none();
            bytes += frame.as_ref().map_or(0, |frame| frame.len() as u64);
            gathered.extend(frame);
            if bytes >= WRITE_BYTES || (ended && bytes > 0) {
                let (from, frames) = (at, std::mem::take(&mut gathered));
                let file = self.file.clone().lock_owned().await;
                let mut checksum = self.checksum.take();
                let write = move || {
                    if let Some(checksum) = &mut checksum {
                        frames.iter().for_each(|frame| checksum.update(frame));
                    }
                    write_all(&file, from, &frames).map(|()| checksum)
                };
                let written = tokio::task::spawn_blocking(write).await.map_err(|e| io(&e))?;
                self.checksum = written.map_err(|e| io(&e))?;
                self.shared.tally.moved(bytes);
                at += bytes;
                bytes = 0;
            }
            if ended {
                if let Some(checksum) = self.checksum {
                    let sum = checksum.of_part(at - self.range.start);
                    let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
                    sums.insert(self.range.start, sum);
                }
                return Ok(());
            }
        }
    }
}

fn write_all(file: &File, mut at: u64, frames: &[Bytes]) -> std::io::Result<()> {
    for frame in frames {
        file.write_all_at(frame, at)?;
        at += frame.len() as u64;
    }
    Ok(())
}
