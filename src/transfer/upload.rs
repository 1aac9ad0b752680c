//! One file becomes one object.
//!
//! Owns: how a file is read into parts.
//! Invariants: a part's bytes are covered by a permit as long as they live; a file that changes while it is read
//! becomes no object.
//! Must never know: which files there are.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use crate::cache::Permit;
use crate::error::Error;
use crate::s3::Precondition;
use crate::write::upload::Upload;

/// Bytes and the permit that covers them, dropped together.
struct Owned {
    bytes: Vec<u8>,
    _permit: Permit,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A file as it was when it was opened, read from its start on.
struct Source {
    file: Arc<File>,
    before: Metadata,
    left: u64,
}

impl Source {
    /// A FIFO is refused, not waited for.
    fn open(path: &Path) -> Result<Source, Error> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = opened.map_err(|e| Error::Io(e.to_string()))?;
        let before = file.metadata().map_err(|e| Error::Io(e.to_string()))?;
        match before.is_file() {
            true => Ok(Source { file: Arc::new(file), left: before.len(), before }),
            false => Err(Error::Io("is not a file (a directory takes --recursive)".to_string())),
        }
    }

    /// The next part, of at most so many bytes; none at the end.
    async fn part(&mut self, shared: &Shared, bytes_max: u64) -> Result<Option<Bytes>, Error> {
        let bytes = self.left.min(bytes_max);
        if bytes == 0 {
            return Ok(None);
        }
        let permit = shared.budget.take(bytes).await;
        let file = self.file.clone();
        let read = move || {
            let capacity = usize::try_from(bytes).map_err(std::io::Error::other)?;
            let mut part = Vec::with_capacity(capacity);
            (&*file).take(bytes).read_to_end(&mut part)?;
            Ok::<_, std::io::Error>(part)
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(|e| Error::Io(e.to_string()))?;
        let part = read.map_err(|e| Error::Io(e.to_string()))?;
        if part.len() as u64 != bytes {
            return Err(changed());
        }
        self.left -= bytes;
        Ok(Some(Bytes::from_owner(Owned { bytes: part, _permit: permit })))
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let now = self.file.metadata().map_err(|e| Error::Io(e.to_string()))?;
        let is = |meta: &Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec());
        if is(&now) == is(&self.before) { Ok(()) } else { Err(changed()) }
    }
}

fn changed() -> Error {
    Error::Io("it changed while it was read".to_string())
}

pub(super) async fn upload(shared: &Shared, path: &Path, key: &str) -> Result<(), Error> {
    let path = path.to_path_buf();
    let opened = tokio::task::spawn_blocking(move || Source::open(&path)).await;
    let mut source = opened.map_err(|e| Error::Io(e.to_string()))??;
    let size = source.left;
    if size > shared.ladder.object_bytes_max() {
        return Err(Error::TooLarge);
    }
    shared.tally.begun(size);
    let headers = shared.headers_of(key);
    let first = shared.ladder.part_bytes(1).unwrap_or_default();
    if size <= first {
        let put = async {
            let payload = source.part(shared, first).await?.into_iter().collect();
            source.check_unchanged()?;
            Ok(shared.client.put_object(key, payload, &headers, &Precondition::None).await?)
        };
        shared.unless_stopped(put).await?;
        shared.tally.moved(size);
        return Ok(());
    }
    // Not dropped midway: an upload that S3 has begun must be known to be aborted.
    let mut upload = Upload::create(&shared.uploads, key, &headers).await?;
    let sent = async {
        let count = send(shared, &mut source, &mut upload).await?;
        upload.complete(count, &Precondition::None).await
    };
    let sent = shared.unless_stopped(sent).await;
    if sent.is_err() {
        upload.abort().await;
    }
    sent.map(|_| ())
}

/// Answers how many parts there are.
async fn send(shared: &Shared, source: &mut Source, upload: &mut Upload) -> Result<u32, Error> {
    let mut count = 0;
    loop {
        let bytes = shared.ladder.part_bytes(u64::from(count) + 1).ok_or(Error::TooLarge)?;
        let Some(part) = source.part(shared, bytes).await? else { break };
        let bytes = part.len() as u64;
        count += 1;
        upload.send(count, vec![part]).await?;
        shared.tally.moved(bytes);
    }
    source.check_unchanged()?;
    Ok(count)
}
