//! The S3 client: one typed method an S3 operation.
//!
//! Owns: [`S3Client`], bound to one bucket; cheap to clone. Names, parameters and answers are the
//! S3 API's: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html>.
//! Must never know: paths, inodes, FUSE.

mod types;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::aws::transport::Transport;
use crate::config::S3Config;
use crate::error::S3Error;
pub use types::*;

/// Skeleton: the signatures the floors above are written against.
#[derive(Clone)]
pub struct S3Client;

pub struct GetObject {
    pub head: ObjectHead,
    /// The bytes the body holds: what was asked for, cut at the object's end.
    pub range: Range<u64>,
    pub body: ObjectBody,
}

/// A body that goes on from the byte where it broke, pinned by ETag.
pub struct ObjectBody;

#[allow(unused_variables, clippy::unused_async)]
impl ObjectBody {
    /// The next frame as it arrived; none at the end of the range.
    pub async fn frame(&mut self) -> Result<Option<Bytes>, S3Error> {
        todo!()
    }
}

type R<T> = Result<T, S3Error>;

#[allow(unused_variables, clippy::unused_async)]
impl S3Client {
    /// reqwest below, credentials from the AWS chain. Sends nothing to S3 yet.
    pub async fn connect(config: &S3Config) -> R<S3Client> {
        todo!()
    }
    /// Over any transport (tests). Static credentials; none: unsigned.
    pub fn over(
        config: &S3Config,
        transport: Arc<dyn Transport>,
        credentials: Option<(String, String)>,
    ) -> S3Client {
        todo!()
    }
    pub fn bucket(&self) -> &str {
        todo!()
    }
    pub async fn head_bucket(&self) -> R<()> {
        todo!()
    }
    pub async fn list_objects_v2(&self, query: &ListObjectsV2) -> R<ListPage> {
        todo!()
    }
    pub async fn head_object(&self, key: &str) -> R<ObjectHead> {
        todo!()
    }
    pub async fn get_object(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        if_match: Option<&str>,
    ) -> R<GetObject> {
        todo!()
    }
    pub async fn put_object(
        &self,
        key: &str,
        payload: Payload,
        headers: &ObjectHeaders,
        guard: &Precondition,
    ) -> R<Written> {
        todo!()
    }
    /// `replace`: none keeps the source's metadata (`x-amz-metadata-directive: COPY`).
    pub async fn copy_object(
        &self,
        source: &CopySource,
        key: &str,
        replace: Option<&ObjectHeaders>,
        guard: &Precondition,
    ) -> R<Written> {
        todo!()
    }
    pub async fn delete_object(&self, key: &str) -> R<()> {
        todo!()
    }
    /// At most 1,000 keys; answers the refusals.
    pub async fn delete_objects(&self, keys: &[String]) -> R<Vec<DeleteFailure>> {
        todo!()
    }
    /// Answers the upload id.
    pub async fn create_multipart_upload(&self, key: &str, headers: &ObjectHeaders) -> R<String> {
        todo!()
    }
    pub async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        payload: Payload,
    ) -> R<UploadedPart> {
        todo!()
    }
    pub async fn upload_part_copy(
        &self,
        source: &CopySource,
        range: Range<u64>,
        key: &str,
        upload_id: &str,
        number: u32,
    ) -> R<UploadedPart> {
        todo!()
    }
    pub async fn complete_multipart_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[UploadedPart],
        guard: &Precondition,
    ) -> R<Written> {
        todo!()
    }
    pub async fn abort_multipart_upload(&self, key: &str, upload_id: &str) -> R<()> {
        todo!()
    }
    pub async fn list_parts(&self, key: &str, upload_id: &str, marker: Option<u32>) -> R<ListPartsPage> {
        todo!()
    }
    pub async fn list_multipart_uploads(
        &self,
        prefix: &str,
        after: Option<(&str, &str)>,
    ) -> R<ListUploadsPage> {
        todo!()
    }
}
