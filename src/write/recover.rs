//! Bytes that were kept because they could not be sent: sending them after all, and reading the file they make.
//!
//! Owns: [`Content`] (the whole of a kept file, put together from what was kept, its base and zeros) and [`send`].
//! Invariants: what is sent is guarded as it was when it was kept; the base is read at its version or not at all; an
//! object appears whole or not at all.
//! Must never know: how items are listed or shown.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::spawn_blocking;

use super::upload::{self, Uploads, abort};
use crate::config::{COPY_BYTES_MAX, OBJECT_BYTES_MAX, PART_BYTES_MIN, PARTS_MAX};
use crate::error::{Error, S3ErrorKind};
use crate::journal::{Kept, KeptItem, KeptPart, SentPart};
use crate::s3::{
    CopySource, ObjectHead, ObjectHeaders, PartChecksum, Precondition, S3Client, UploadedPart, Written,
    multipart_etag,
};

/// Read and handed on at a time, in bytes.
const PIECE_BYTES: u64 = 1 << 20;
/// Parts are at least this large, in bytes, and files up to it are one PUT.
const PART_BYTES: u64 = 8 << 20;
/// Parts under way at once; each is held in memory.
const PARTS_IN_FLIGHT: usize = 4;

/// Told how many more bytes are done.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Where a stretch of a kept file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Kept,
    Base,
    Nowhere,
}

/// The stretches of `range`, end to end.
fn stretches(kept: &Kept, range: Range<u64>) -> Vec<(Range<u64>, From)> {
    let base_end = kept.base.as_ref().map_or(0, |base| base.size);
    let mut found = Vec::new();
    let mut push = |range: Range<u64>, from| {
        if !range.is_empty() {
            found.push((range, from));
        }
    };
    let mut at = range.start;
    let below = |push: &mut dyn FnMut(Range<u64>, From), range: Range<u64>| {
        let middle = base_end.clamp(range.start, range.end);
        push(range.start..middle, From::Base);
        push(middle..range.end, From::Nowhere);
    };
    for written in &kept.ranges {
        let (start, end) = (written.start.clamp(at, range.end), written.end.clamp(at, range.end));
        if start < end {
            below(&mut push, at..start);
            push(start..end, From::Kept);
            at = end;
        }
    }
    below(&mut push, at..range.end);
    found
}

/// The whole of a kept file.
pub struct Content<'a> {
    client: &'a S3Client,
    kept: &'a Kept,
    file: File,
}

impl<'a> Content<'a> {
    pub fn open(client: &'a S3Client, item: &'a KeptItem) -> io::Result<Content<'a>> {
        Ok(Content { client, kept: &item.kept, file: File::open(item.bytes())? })
    }

    /// The bytes of `range`, in pieces.
    ///
    /// Errors: [`Error::Stale`] or [`Error::NotFound`] where the base is not what it was.
    async fn read(
        &self,
        range: Range<u64>,
        take: &mut (dyn FnMut(Bytes) -> io::Result<()> + Send),
    ) -> Result<(), Error> {
        for (range, from) in stretches(self.kept, range) {
            match (from, &self.kept.base) {
                (From::Base, Some(base)) => {
                    let get = self.client.get_object(&self.kept.key, Some(range), Some(&base.etag)).await;
                    let mut object = get.map_err(is_it_the_base)?;
                    while let Some(frame) = object.body.frame().await.map_err(is_it_the_base)? {
                        take(frame).map_err(disk_error)?;
                    }
                }
                (from, _) => {
                    let mut at = range.start;
                    while at < range.end {
                        let mut piece =
                            vec![0; usize::try_from(PIECE_BYTES.min(range.end - at)).unwrap_or(0)];
                        if from == From::Kept {
                            self.file.read_exact_at(&mut piece, at).map_err(disk_error)?;
                        }
                        at += piece.len() as u64;
                        take(Bytes::from(piece)).map_err(disk_error)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the whole file, in order.
    ///
    /// Errors: as [`send`], and what the local disk says; [`Error::NotSupported`] where only an upload has some of it.
    pub async fn export(&self, to: &File, progress: Progress<'_>) -> Result<(), Error> {
        if self.kept.upload.is_some() {
            return Err(Error::NotSupported("reading parts of an upload that is not completed"));
        }
        let mut at = 0;
        let mut take = |piece: Bytes| {
            to.write_all_at(&piece, at)?;
            at += piece.len() as u64;
            progress(piece.len() as u64);
            Ok(())
        };
        self.read(0..self.kept.size, &mut take).await
    }

    /// Writes what was kept, at its offsets, and nothing of the base.
    pub fn export_kept_alone(&self, to: &File) -> Result<(), Error> {
        let ranges = self.kept.ranges.iter();
        let copied = ranges.clone().try_for_each(|range| {
            let mut at = range.start;
            while at < range.end {
                let mut piece = vec![0; usize::try_from(PIECE_BYTES.min(range.end - at)).unwrap_or(0)];
                self.file.read_exact_at(&mut piece, at)?;
                to.write_all_at(&piece, at)?;
                at += piece.len() as u64;
            }
            Ok(())
        });
        copied.and_then(|()| to.set_len(self.kept.size)).map_err(disk_error)
    }

    async fn payload(&self, range: Range<u64>) -> Result<Vec<Bytes>, Error> {
        let mut payload = Vec::new();
        self.read(range, &mut |piece| {
            payload.push(piece);
            Ok(())
        })
        .await?;
        Ok(payload)
    }

    /// One part: copied on the server's side where all of it is the base's.
    async fn send_part(
        &self,
        upload_id: &str,
        number: u32,
        range: Range<u64>,
    ) -> Result<UploadedPart, Error> {
        let key = &self.kept.key;
        if let ([(all, From::Base)], Some(base)) = (&stretches(self.kept, range.clone())[..], &self.kept.base)
            && (PART_BYTES_MIN..=COPY_BYTES_MAX).contains(&(all.end - all.start))
        {
            let source = CopySource {
                bucket: self.client.bucket().into(),
                key: key.clone(),
                if_match: Some(base.etag.clone()),
                ..CopySource::default()
            };
            let copied = self.client.upload_part_copy(&source, range, key, upload_id, number).await;
            return copied.map_err(is_it_the_base);
        }
        let payload = self.payload(range).await?;
        Ok(self.client.upload_part(key, upload_id, number, payload).await?)
    }
}

fn is_it_the_base(e: crate::error::S3Error) -> Error {
    match e.kind {
        S3ErrorKind::PreconditionFailed => Error::Stale,
        S3ErrorKind::NoSuchKey => Error::NotFound,
        _ => e.into(),
    }
}

fn disk_error(e: io::Error) -> Error {
    Error::Io(format!("the local disk: {e}"))
}

/// Sends a kept file.
///
/// Errors: [`Error::Stale`] or [`Error::NotFound`] where the object is not what it was when the bytes were kept,
/// [`Error::Exists`] where it was to be new.
pub async fn send(uploads: &Uploads, item: &KeptItem, progress: Progress<'_>) -> Result<Written, Error> {
    let kept = &item.kept;
    let guard = guard(uploads, kept).await?;
    let content = Content::open(&uploads.client, item).map_err(disk_error)?;
    let sent = if let Some(upload) = &kept.upload {
        let parts = divided(&upload.parts, kept.size)?;
        let sent = send_parts(uploads, &content, &upload.upload_id, parts, &guard, progress).await;
        match sent {
            Ok(_) if upload.outdated => carry(uploads, kept).await,
            sent => sent,
        }
    } else if kept.size <= PART_BYTES {
        let headers = headers(&uploads.client, kept).await?;
        let payload = content.payload(0..kept.size).await?;
        let put = uploads.client.put_object(&kept.key, payload, &headers, &guard).await;
        progress(kept.size);
        put.map_err(Error::from)
    } else {
        let headers = headers(&uploads.client, kept).await?;
        send_in_parts(uploads, &content, &headers, &guard, progress).await
    };
    sent.map_err(|e| match e.s3_kind() {
        Some(S3ErrorKind::PreconditionFailed) if kept.exclusive => Error::Exists,
        Some(S3ErrorKind::PreconditionFailed) => Error::Stale,
        // It was completed after all, or is over.
        Some(S3ErrorKind::NoSuchKey) if kept.upload.is_some() => Error::NotFound,
        _ => e,
    })
}

/// Gives the object of a kept file what its upload did not bring.
async fn carry(uploads: &Uploads, kept: &Kept) -> Result<Written, Error> {
    let head = uploads.client.head_object(&kept.key).await?;
    let headers = headers(&uploads.client, kept).await?;
    upload::carry(uploads, &kept.key, &head, &headers).await
}

/// Gives a kept file up, and the upload that has some of it.
pub async fn discard(client: &S3Client, item: KeptItem) -> Result<(), Error> {
    if let Some(upload) = &item.kept.upload {
        abort(client, &item.kept.key, &upload.upload_id).await?;
    }
    item.discard().map_err(disk_error)
}

/// How a kept file came to be in S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Now,
    /// By a request whose answer was not heard, or that was carried out only after it had been given up.
    Before,
}

/// As [`send`], but that it is no error when S3 has the very file already.
pub async fn send_unless_there(
    uploads: &Uploads,
    item: &KeptItem,
    progress: Progress<'_>,
) -> Result<Sent, Error> {
    match send(uploads, item, progress).await {
        Ok(_) => Ok(Sent::Now),
        Err(e @ (Error::Stale | Error::Exists | Error::NotFound)) => {
            there(&uploads.client, item).await?.map(|_| Sent::Before).ok_or(e)
        }
        Err(e) => Err(e),
    }
}

/// Whether the bytes are those that were kept: a lost machine may have lost some.
pub async fn is_sound(item: &KeptItem) -> Result<bool, Error> {
    let item = item.clone();
    let read = spawn_blocking(move || item.is_sound()).await;
    read.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(disk_error)
}

/// The object, if S3 has a file of this size with these bytes: then it was sent, whoever was told so.
///
/// Errors: S3 cannot be asked now.
pub async fn there(client: &S3Client, item: &KeptItem) -> Result<Option<ObjectHead>, Error> {
    let compared = async {
        let head = client.head_object(&item.kept.key).await?;
        if head.size != item.kept.size || !is_of_upload(&item.kept, &head) {
            return Ok(None);
        }
        let file = File::open(item.bytes()).map_err(disk_error)?;
        for range in item.kept.ranges.iter().filter(|range| !range.is_empty()) {
            let mut object = client.get_object(&item.kept.key, Some(range.clone()), Some(&head.etag)).await?;
            let mut at = range.start;
            while let Some(frame) = object.body.frame().await? {
                let mut ours = vec![0; frame.len()];
                file.read_exact_at(&mut ours, at).map_err(disk_error)?;
                if ours != frame {
                    return Ok(None);
                }
                at += frame.len() as u64;
            }
        }
        Ok::<_, Error>(Some(head))
    };
    match compared.await {
        Err(e) if e.s3_kind() == Some(S3ErrorKind::Unavailable) => Err(e),
        Err(e) if e.is_other_version() => Ok(None),
        Err(e) => {
            tracing::warn!(key = item.kept.key, "whether it was sent cannot be seen: {e}");
            Ok(None)
        }
        compared => compared,
    }
}

/// Where an upload has some of the bytes: whether the object is that upload, completed. Else there is nothing to say.
fn is_of_upload(kept: &Kept, head: &ObjectHead) -> bool {
    let Some(upload) = &kept.upload else { return true };
    let etags: Option<Vec<&str>> =
        upload.parts.iter().map(|part| part.sent.as_ref().map(|sent| sent.etag.as_str())).collect();
    let whole = upload.parts.last().is_some_and(|last| last.range.end == kept.size);
    let ours = etags.filter(|_| whole).and_then(|etags| multipart_etag(etags.into_iter()));
    ours.is_some_and(|ours| ours == head.etag.trim_matches('"'))
}

/// An edit goes over the version it is of. A file that replaced what was there does so still, unless that came later.
pub(super) async fn guard(uploads: &Uploads, kept: &Kept) -> Result<Precondition, Error> {
    match &kept.base {
        Some(base) => Ok(Precondition::Etag(base.etag.clone())),
        None if kept.exclusive => Ok(Precondition::Absent),
        None => match uploads.client.head_object(&kept.key).await {
            Ok(head) if kept.over.as_ref() == Some(&head.etag) => Ok(Precondition::Etag(head.etag)),
            // S3 tells whole seconds.
            Ok(head) if head.last_modified + Duration::from_secs(1) > kept.at => Err(Error::Stale),
            Ok(head) => Ok(Precondition::Etag(head.etag)),
            Err(e) if e.kind == S3ErrorKind::NoSuchKey => Ok(Precondition::Absent),
            Err(e) => Err(e.into()),
        },
    }
}

async fn headers(client: &S3Client, kept: &Kept) -> Result<ObjectHeaders, Error> {
    if kept.inherits {
        let head = client.head_object(&kept.key).await.map_err(is_it_the_base)?;
        return Ok(client.carried(&kept.key, head).await?);
    }
    let kept = kept.headers.clone();
    Ok(ObjectHeaders {
        content_type: kept.content_type,
        storage_class: kept.storage_class,
        metadata: kept.metadata,
        headers: kept.headers,
    })
}

async fn send_in_parts(
    uploads: &Uploads,
    content: &Content<'_>,
    headers: &ObjectHeaders,
    guard: &Precondition,
    progress: Progress<'_>,
) -> Result<Written, Error> {
    let Uploads { client, journal, .. } = uploads;
    let (key, parts) = (&content.kept.key, divided(&[], content.kept.size)?);
    let (upload_id, noted) = upload::create(uploads, key, headers).await?;
    let sent = send_parts(uploads, content, &upload_id, parts, guard, progress).await;
    let over = sent.is_ok() || abort(client, key, &upload_id).await.is_ok();
    if let (Some(noted), true) = (noted, over) {
        journal.end(noted);
    }
    sent
}

/// `begun`, and what follows them up to `size` in parts as large as they must be.
fn divided(begun: &[KeptPart], size: u64) -> Result<Vec<KeptPart>, Error> {
    let mut parts = begun.to_vec();
    let mut at = begun.last().map_or(0, |last| last.range.end);
    let left = PARTS_MAX.saturating_sub(parts.len() as u64);
    if size > OBJECT_BYTES_MAX || left == 0 && at < size {
        return Err(Error::TooLarge);
    }
    let part_bytes = PART_BYTES.max(size.saturating_sub(at).div_ceil(left.max(1)));
    while at < size {
        let end = size.min(at + part_bytes);
        parts.push(KeptPart { range: at..end, sent: None });
        at = end;
    }
    Ok(parts)
}

/// Sends the parts that S3 does not have, and makes all of them the object.
async fn send_parts(
    uploads: &Uploads,
    content: &Content<'_>,
    upload_id: &str,
    parts: Vec<KeptPart>,
    guard: &Precondition,
    progress: Progress<'_>,
) -> Result<Written, Error> {
    let all = (1..).zip(parts).map(|(number, KeptPart { range, sent })| async move {
        let part = match sent {
            Some(sent) => uploaded(number, &range, sent),
            None => content.send_part(upload_id, number, range.clone()).await?,
        };
        progress(range.end - range.start);
        Ok::<_, Error>(part)
    });
    let sent = stream::iter(all).buffered(PARTS_IN_FLIGHT).try_collect::<Vec<_>>().await?;
    let completed =
        uploads.client.complete_multipart_upload(&content.kept.key, upload_id, &sent, guard).await;
    Ok(completed?)
}

fn uploaded(number: u32, range: &Range<u64>, sent: SentPart) -> UploadedPart {
    let bytes = range.end - range.start;
    let checksum = sent.checksum.map(|(algorithm, value)| PartChecksum { algorithm, value, bytes });
    UploadedPart { number, etag: sent.etag, checksum }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::journal::{Base, KeptHeaders};

    proptest! {
        #[test]
        fn parts_tile_after_those_that_were_begun(
            begun in prop::collection::vec(PART_BYTES_MIN..100 << 20, 0..9),
            more in 0u64..1 << 40,
        ) {
            let mut at = 0;
            let begun: Vec<KeptPart> = begun
                .into_iter()
                .map(|bytes| {
                    at += bytes;
                    KeptPart { range: at - bytes..at, sent: None }
                })
                .collect();
            let parts = divided(&begun, at + more).unwrap();
            prop_assert_eq!(&parts[..begun.len()], &begun[..]);
            prop_assert!(parts.len() as u64 <= PARTS_MAX);
            let mut end = 0;
            for (n, part) in parts.iter().enumerate() {
                prop_assert_eq!(part.range.start, end);
                end = part.range.end;
                prop_assert!(n + 1 == parts.len() || end - part.range.start >= PART_BYTES_MIN);
            }
            prop_assert_eq!(end, at + more);
        }

        #[test]
        fn stretches_tile_and_what_was_written_hides_the_base(
            cuts in prop::collection::vec(0u64..100, 0..8),
            base in 0u64..120,
            size in 0u64..120,
            from in 0u64..120,
            len in 0u64..120,
        ) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let ranges: Vec<Range<u64>> = cuts.chunks_exact(2).map(|c| c[0]..c[1]).collect();
            let kept = Kept {
                key: "k".into(),
                base: Some(Base { etag: String::new(), size: base }),
                over: None,
                exclusive: false,
                size,
                ranges: ranges.clone(),
                headers: KeptHeaders::default(),
                inherits: false,
                owner: None,
                sum: None,
                upload: None,
                reason: String::new(),
                at: SystemTime::UNIX_EPOCH,
            };
            let range = from..from + len;
            let mut at = range.start;
            for (stretch, source) in stretches(&kept, range.clone()) {
                prop_assert_eq!(stretch.start, at);
                prop_assert!(stretch.end > stretch.start);
                for byte in stretch.clone() {
                    let expected = match () {
                        () if ranges.iter().any(|r| r.contains(&byte)) => From::Kept,
                        () if byte < base => From::Base,
                        () => From::Nowhere,
                    };
                    prop_assert_eq!(source, expected);
                }
                at = stretch.end;
            }
            prop_assert_eq!(at, range.end);
        }
    }
}
