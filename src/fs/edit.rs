//! Changing files otherwise than by write: truncate, fallocate, copy_file_range; and lseek, which tells what that made.
//!
//! Owns: what these publish, and when; how a copy within the mount is made; where a file has holes.
//! Invariant: no success for what was not done; bytes that the server can copy are not sent.

use std::sync::Arc;

use super::Filesystem;
use crate::config::PART_BYTES_MIN;
use crate::error::Error;
use crate::namespace::{FileInfo, Node};
use crate::write::{Object, Seek};

/// What is copied at a time where the server cannot, in bytes.
const COPIED_BYTES: u64 = 1 << 20;

impl Filesystem {
    /// `ftruncate(2)`, where `fh` is given: closing it publishes. `truncate(2)` otherwise: published when
    /// this answers.
    pub(super) async fn truncate(
        &self,
        ino: u64,
        fh: Option<u64>,
        info: &FileInfo,
        size: u64,
    ) -> Result<(), Error> {
        if size == info.size {
            return Ok(());
        }
        if let Some(fh) = fh {
            return self.set_len(fh, size).await;
        }
        let opened = self.open(ino, libc::O_WRONLY).await?;
        let mut done = self.set_len(opened.fh, size).await;
        if done.is_ok() {
            done = self.flush(opened.fh).await;
        }
        self.release(opened.fh).await;
        done
    }

    async fn set_len(&self, fh: u64, size: u64) -> Result<(), Error> {
        let handle = self.writable_handle(fh)?;
        let _pass = self.pass_file(handle.ino).await;
        if size == 0 {
            return self.begin_anew(&handle).await;
        }
        let writer = self.writer_to_go_on(&handle).await?;
        let cut = writer.truncate(size).await;
        self.changed(handle.ino, &writer).await;
        cut
    }

    /// `fallocate(2)`: a hole, zeros, or room, of which S3 has enough. `mode`: its flags.
    ///
    /// Errors: [`Error::NotSupported`] for other modes.
    pub async fn fallocate(&self, fh: u64, offset: u64, len: u64, mode: i32) -> Result<(), Error> {
        let handle = self.writable_handle(fh)?;
        let end = offset.checked_add(len).ok_or(Error::TooLarge)?;
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zeros = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => false,
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => true,
            libc::FALLOC_FL_ZERO_RANGE => true,
            _ => return Err(Error::NotSupported("this mode of fallocate")),
        };
        if !zeros && keep_size {
            return Ok(());
        }
        let _pass = self.pass_file(handle.ino).await;
        let writer = self.writer_to_go_on(&handle).await?;
        let start = if zeros { offset } else { writer.len() };
        let done = writer.zero(start..end, !keep_size).await;
        self.changed(handle.ino, &writer).await;
        done
    }

    /// `lseek(2)` with SEEK_DATA or SEEK_HOLE. What S3 has is all data, up to the hole at its end.
    ///
    /// Errors: [`Error::NothingThere`]; [`Error::Invalid`] for another `whence`.
    pub async fn lseek(&self, fh: u64, offset: i64, whence: i32) -> Result<u64, Error> {
        let to = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return Err(Error::Invalid("an lseek that the kernel answers by itself")),
        };
        let offset = u64::try_from(offset).map_err(|_| Error::NothingThere)?;
        let handle = self.handles.file(fh)?;
        if let Some(writer) = self.handles.writer(handle.ino) {
            return writer.seek(offset, to).await;
        }
        match self.namespace.attributes(handle.ino).await?.node {
            Node::File(info) if offset < info.size => Ok(if to == Seek::Data { offset } else { info.size }),
            Node::File(_) => Err(Error::NothingThere),
            Node::Directory => Err(Error::IsDirectory),
        }
    }

    /// `copy_file_range(2)`, from an inode's handle and offset. Answers how many bytes were copied: none at the source's
    /// end.
    ///
    /// Errors: [`Error::CrossDevice`] from another bucket: the kernel copies by itself.
    pub async fn copy_file_range(
        &self,
        (ino, fh, offset): (u64, u64, u64),
        (to_fh, to_offset): (u64, u64),
        len: u64,
    ) -> Result<u64, Error> {
        if !self.namespace.holds(ino) {
            return Err(Error::CrossDevice("from another bucket"));
        }
        let from = self.handles.file(fh)?;
        let to = self.writable_handle(to_fh)?;
        let writer = {
            let _pass = self.pass_file(to.ino).await;
            self.writer_to_go_on(&to).await?
        };
        // What is being written has no object yet that the server could copy, and a handle reads one version.
        if from.ino != to.ino
            && self.handles.writer(from.ino).is_none()
            && let Node::File(info) = self.namespace.attributes(from.ino).await?.node
        {
            let len = len.min(info.size.saturating_sub(offset));
            let seen = from.reader().as_ref().is_none_or(|reader| reader.version.etag == info.etag);
            if seen && len >= PART_BYTES_MIN {
                let key = self.namespace.key(from.ino)?;
                let object = Arc::new(Object { key, etag: info.etag, size: info.size });
                if writer.link(to_offset..to_offset + len, object, offset).await? {
                    self.changed(to.ino, &writer).await;
                    return Ok(len);
                }
            }
        }
        let mut copied = 0;
        while copied < len {
            let wanted = (len - copied).min(COPIED_BYTES) as usize;
            let bytes = self.read(fh, offset + copied, wanted).await?.concat();
            if bytes.is_empty() {
                break;
            }
            match self.write(to_fh, to_offset + copied, &bytes, false).await {
                Ok(()) => copied += bytes.len() as u64,
                Err(_) if copied > 0 => break, // the next call answers it
                Err(e) => return Err(e),
            }
        }
        Ok(copied)
    }
}
