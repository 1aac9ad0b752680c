//! One multipart upload: parts sent side by side, completed or aborted.
//!
//! Owns: [`Upload`].
//! Invariants: part numbers follow the file's order; at most [`PARTS_IN_FLIGHT_MAX`] parts are under way;
//! an upload that is not completed is aborted: by who began it, or by the next mount, which finds it in the journal;
//! unless it is left to a person, because only it has some of a file's bytes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::plan;
use crate::error::{Error, S3Error, S3ErrorKind};
use crate::journal::{Intent, Journal};
use crate::s3::{
    CopySource, ObjectHead, ObjectHeaders, ObjectId, Payload, Precondition, S3Client, UploadedPart, Written,
};

/// Parts of one file under way at once: enough to fill the line, few enough for the memory.
const PARTS_IN_FLIGHT_MAX: usize = 16;

/// What uploads are carried out with.
#[derive(Clone)]
pub struct Uploads {
    pub client: S3Client,
    pub runtime: Handle,
    pub journal: Arc<Journal>,
}

pub struct Upload {
    client: S3Client,
    runtime: Handle,
    journal: Arc<Journal>,
    /// In the journal.
    noted: Option<u64>,
    key: String,
    headers: ObjectHeaders,
    upload_id: String,
    last_number: u32,
    in_flight: JoinSet<Result<UploadedPart, Unsent>>,
    done: BTreeMap<u32, UploadedPart>,
    /// What S3 did not take, which may be in memory only: at most [`PARTS_IN_FLIGHT_MAX`] parts.
    unsent: Vec<(u32, Payload)>,
}

/// A part that S3 did not take; without bytes, where it was to be copied.
struct Unsent {
    why: S3Error,
    number: u32,
    payload: Payload,
}

impl Upload {
    pub async fn create(with: &Uploads, key: &str, headers: &ObjectHeaders) -> Result<Upload, S3Error> {
        let Uploads { client, runtime, journal } = with.clone();
        let (upload_id, noted) = create(with, key, headers).await?;
        Ok(Upload {
            client,
            runtime,
            journal,
            noted,
            key: key.into(),
            headers: headers.clone(),
            upload_id,
            last_number: 0,
            in_flight: JoinSet::new(),
            done: BTreeMap::new(),
            unsent: Vec::new(),
        })
    }

    /// Begins to send a part; waits while too many are under way. A part of a number that was sent before replaces it.
    ///
    /// Errors: what an earlier part failed with.
    pub async fn send(&mut self, number: u32, payload: Payload) -> Result<(), Error> {
        self.begin(number).await?;
        let (client, key, upload_id) = (self.client.clone(), self.key.clone(), self.upload_id.clone());
        let send = async move {
            let sent = client.upload_part(&key, &upload_id, number, payload.clone()).await;
            sent.map_err(|why| Unsent { why, number, payload })
        };
        self.in_flight.spawn_on(send, &self.runtime);
        Ok(())
    }

    /// As [`Upload::send`], a range of an object, on the server's side.
    pub async fn copy(&mut self, number: u32, source: CopySource, range: Range<u64>) -> Result<(), Error> {
        self.begin(number).await?;
        let (client, key, upload_id) = (self.client.clone(), self.key.clone(), self.upload_id.clone());
        let copy = async move {
            let copied = client.upload_part_copy(&source, range, &key, &upload_id, number).await;
            copied.map_err(|why| Unsent { why, number, payload: Vec::new() })
        };
        self.in_flight.spawn_on(copy, &self.runtime);
        Ok(())
    }

    async fn begin(&mut self, number: u32) -> Result<(), Error> {
        // Of two under way with one number either might be the last.
        let under_way_max = if number > self.last_number { PARTS_IN_FLIGHT_MAX - 1 } else { 0 };
        while self.in_flight.len() > under_way_max {
            self.finish_one().await?;
        }
        self.last_number = self.last_number.max(number);
        self.done.remove(&number);
        Ok(())
    }

    async fn finish_one(&mut self) -> Result<bool, Error> {
        match self.in_flight.join_next().await {
            Some(part) => match part.map_err(|e| Error::Io(format!("UploadPart: {e}")))? {
                Ok(part) => drop(self.done.insert(part.number, part)),
                Err(Unsent { why, number, payload }) => {
                    self.unsent.push((number, payload));
                    return Err(why.into());
                }
            },
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Waits for all parts and makes the first `count` of them the object; S3 drops the others. On failure the upload
    /// is left to [`Upload::abort`].
    pub async fn complete(&mut self, count: u32, guard: &Precondition) -> Result<Written, Error> {
        while self.finish_one().await? {}
        let parts: Vec<_> = self.done.range(..=count).map(|(_, part)| part.clone()).collect();
        if parts.len() as u64 != u64::from(count) {
            return Err(Error::Io("a part is missing that was to be sent".into())); // S3 would leave it out
        }
        let written = self.client.complete_multipart_upload(&self.key, &self.upload_id, &parts, guard);
        let written = written.await?;
        self.is_over();
        Ok(written)
    }

    fn is_over(&mut self) {
        if let Some(noted) = self.noted.take() {
            self.journal.end(noted);
        }
    }

    /// Waits until a part fails.
    pub async fn failed(&mut self) -> Error {
        loop {
            match self.finish_one().await {
                Ok(true) => {}
                Ok(false) => std::future::pending().await,
                Err(e) => return e,
            }
        }
    }

    /// Waits for the parts under way. Answers the bytes of those that S3 did not take, with their numbers.
    pub async fn settle(&mut self) -> Vec<(u32, Payload)> {
        while !self.in_flight.is_empty() {
            if let Err(e) = self.finish_one().await {
                tracing::debug!(key = self.key, "a part was not sent, and goes to the local disk: {e}");
            }
        }
        std::mem::take(&mut self.unsent)
    }

    /// What the object will carry.
    pub fn headers(&self) -> &ObjectHeaders {
        &self.headers
    }

    pub fn id(&self) -> &str {
        &self.upload_id
    }

    /// A part that S3 has.
    pub fn sent(&self, number: u32) -> Option<&UploadedPart> {
        self.done.get(&number)
    }

    /// Leaves the upload as it is: something durable tells of it.
    pub fn leave(mut self) {
        self.is_over();
    }

    /// Gives the upload up; its parts are dropped by S3.
    pub async fn abort(mut self) {
        self.in_flight.shutdown().await;
        match abort(&self.client, &self.key, &self.upload_id).await {
            Ok(()) => self.is_over(),
            Err(e) => {
                let upload_id = &self.upload_id;
                tracing::warn!(
                    upload_id,
                    "an abandoned upload could not be aborted; the next mount will try: {e}"
                );
            }
        }
    }
}

/// Begins an upload, of which the journal knows under the number that is answered. Not synced: what a lost machine would
/// leave behind unknown costs room in the bucket, and no data.
pub(super) async fn create(
    with: &Uploads,
    key: &str,
    headers: &ObjectHeaders,
) -> Result<(String, Option<u64>), S3Error> {
    let note = |intent| {
        let noted = with.journal.begin(intent);
        noted.inspect_err(|e| tracing::warn!(key, "a crash would leave this upload behind: {e}")).ok()
    };
    let nameless = note(Intent::CreateUpload { key: key.into(), at: SystemTime::now() });
    let created = with.client.create_multipart_upload(key, headers).await;
    let noted = match &created {
        Ok(upload_id) => note(Intent::Upload { key: key.into(), upload_id: upload_id.clone() }),
        Err(_) => None,
    };
    nameless.into_iter().for_each(|nameless| with.journal.end(nameless));
    created.map(|upload_id| (upload_id, noted))
}

/// One that is not there any more is a success.
pub(super) async fn abort(client: &S3Client, key: &str, upload_id: &str) -> Result<(), S3Error> {
    match client.abort_multipart_upload(key, upload_id).await {
        Err(e) if e.kind != S3ErrorKind::NoSuchKey => Err(e),
        _ => Ok(()),
    }
}

/// Copies an object with its tags on the server's side, pinned by its ETag: one over 5 GiB in parts. `replace`: what else
/// the copy carries, where it is not what the object does.
pub async fn copy(
    with: &Uploads,
    from: &str,
    head: &ObjectHead,
    key: &str,
    replace: Option<&ObjectHeaders>,
) -> Result<Written, Error> {
    let client = &with.client;
    let source = CopySource::of(client.bucket(), from, head);
    if head.size <= client.copy_bytes_max() {
        return Ok(client.copy_object(&source, key, replace, &Precondition::None).await?);
    }
    // Onto itself it takes long enough for somebody else's object to be there at the end.
    let guard = if from == key { Precondition::Etag(head.etag.clone()) } else { Precondition::None };
    let headers = replace.cloned().unwrap_or_else(|| ObjectHeaders::from(head.clone()));
    // Unlike a copy as one, it has no tags of its source's.
    let tags = match headers.tagging() {
        Some(_) => Vec::new(),
        None => match client.get_tags(Some(ObjectId::current(from))).await {
            Err(e) if e.kind == S3ErrorKind::NotImplemented => Vec::new(),
            tags => tags?,
        },
    };
    let mut upload = Upload::create(with, key, &headers).await?;
    let copied = copy_all(&mut upload, &source, head.size, &guard).await;
    if copied.is_err() {
        upload.abort().await;
    } else if !tags.is_empty() {
        client.put_tags(&tags, Some(ObjectId::current(key))).await?;
    }
    copied
}

/// Gives an object other headers: a copy onto itself.
pub async fn carry(
    with: &Uploads,
    key: &str,
    head: &ObjectHead,
    headers: &ObjectHeaders,
) -> Result<Written, Error> {
    // Said in so many words, lest it become what the mount gives new objects.
    let class = headers.storage_class.clone().or_else(|| Some("STANDARD".into()));
    let headers = ObjectHeaders { storage_class: class, ..headers.clone() };
    copy(with, key, head, key, Some(&headers)).await
}

/// Copies all of an object's bytes into an upload and completes it. On failure, or when dropped, the upload is left to
/// [`Upload::abort`].
pub async fn copy_all(
    upload: &mut Upload,
    source: &CopySource,
    bytes: u64,
    guard: &Precondition,
) -> Result<Written, Error> {
    let mut count = 0;
    for range in plan::copy_ranges(bytes, upload.client.copy_bytes_max()) {
        count += 1;
        upload.copy(count, source.clone(), range).await?;
    }
    upload.complete(count, guard).await
}
