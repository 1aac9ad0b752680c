//! One multipart upload: parts sent side by side, completed or aborted.
//!
//! Owns: [`Upload`].
//! Invariants: part numbers follow the file's order; at most [`PARTS_IN_FLIGHT_MAX`] parts are under way;
//! an upload that is not completed is aborted: by who began it, or by the next mount, which finds it in the journal.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::plan;
use crate::error::{Error, S3Error, S3ErrorKind};
use crate::journal::{Intent, Journal};
use crate::s3::{CopySource, ObjectHeaders, Payload, Precondition, S3Client, UploadedPart, Written};

/// Parts of one file under way at once: enough to fill the line, few enough for the memory.
const PARTS_IN_FLIGHT_MAX: usize = 8;

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
    upload_id: String,
    parts_begun: u32,
    in_flight: JoinSet<Result<UploadedPart, S3Error>>,
    done: Vec<UploadedPart>,
}

impl Upload {
    pub async fn create(with: &Uploads, key: &str, headers: &ObjectHeaders) -> Result<Upload, S3Error> {
        let Uploads { client, runtime, journal } = with.clone();
        let upload_id = client.create_multipart_upload(key, headers).await?;
        // Not synced: what a lost machine would leave behind unknown costs room in the bucket, and no data.
        let noted = journal.begin(Intent::Upload { key: key.into(), upload_id: upload_id.clone() });
        let noted = noted.inspect_err(|e| tracing::warn!(key, "a crash would leave this upload behind: {e}"));
        Ok(Upload {
            client,
            runtime,
            journal,
            noted: noted.ok(),
            key: key.into(),
            upload_id,
            parts_begun: 0,
            in_flight: JoinSet::new(),
            done: Vec::new(),
        })
    }

    /// The number the next part will have.
    pub fn next_number(&self) -> u64 {
        u64::from(self.parts_begun) + 1
    }

    /// Begins to send a part; waits while too many are under way.
    ///
    /// Errors: what an earlier part failed with.
    pub async fn send(&mut self, payload: Payload) -> Result<(), Error> {
        let number = self.begin().await?;
        let (client, key, upload_id) = (self.client.clone(), self.key.clone(), self.upload_id.clone());
        let send = async move { client.upload_part(&key, &upload_id, number, payload).await };
        self.in_flight.spawn_on(send, &self.runtime);
        Ok(())
    }

    /// Begins to copy the first `bytes` of an object, on the server's side.
    pub async fn copy(&mut self, source: &CopySource, bytes: u64) -> Result<(), Error> {
        for range in plan::copy_ranges(bytes) {
            let number = self.begin().await?;
            let (client, key, upload_id) = (self.client.clone(), self.key.clone(), self.upload_id.clone());
            let source = source.clone();
            let copy = async move { client.upload_part_copy(&source, range, &key, &upload_id, number).await };
            self.in_flight.spawn_on(copy, &self.runtime);
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<u32, Error> {
        while self.in_flight.len() >= PARTS_IN_FLIGHT_MAX {
            self.finish_one().await?;
        }
        self.parts_begun += 1;
        Ok(self.parts_begun)
    }

    async fn finish_one(&mut self) -> Result<bool, Error> {
        match self.in_flight.join_next().await {
            Some(part) => self.done.push(part.map_err(|e| Error::Io(format!("UploadPart: {e}")))??),
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Waits for all parts and makes them the object. On failure the upload is left to [`Upload::abort`].
    pub async fn complete(&mut self, guard: &Precondition) -> Result<Written, Error> {
        while self.finish_one().await? {}
        self.done.sort_by_key(|part| part.number);
        let written = self.client.complete_multipart_upload(&self.key, &self.upload_id, &self.done, guard);
        let written = written.await?;
        self.is_over();
        Ok(written)
    }

    fn is_over(&mut self) {
        if let Some(noted) = self.noted.take() {
            self.journal.end(noted);
        }
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

/// One that is not there any more is a success.
pub(super) async fn abort(client: &S3Client, key: &str, upload_id: &str) -> Result<(), S3Error> {
    match client.abort_multipart_upload(key, upload_id).await {
        Err(e) if e.kind != S3ErrorKind::NoSuchKey => Err(e),
        _ => Ok(()),
    }
}

/// Copies an object over 5 GiB in parts, on the server's side.
pub async fn copy_large(
    with: &Uploads,
    source: &CopySource,
    bytes: u64,
    key: &str,
    headers: &ObjectHeaders,
    guard: &Precondition,
) -> Result<Written, Error> {
    let mut upload = Upload::create(with, key, headers).await?;
    let copied = match upload.copy(source, bytes).await {
        Ok(()) => upload.complete(guard).await,
        Err(e) => Err(e),
    };
    if copied.is_err() {
        upload.abort().await;
    }
    copied
}
