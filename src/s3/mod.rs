//! The S3 client: one typed method an S3 operation.
//!
//! Owns: [`S3Client`], bound to one bucket (or, under an empty name, to none); cheap to clone. Names, parameters and answers are the
//! S3 API's: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html>.
//! Invariant: what S3 did not say it did is an error; an answer that is not S3's is never taken for one.
//! Must never know: paths, inodes, FUSE.
//!
//! # Writes whose answer was lost
//! Every operation is sent again when its answer is lost, so it may be carried out twice. Of most, twice is
//! as good as once: PutObject, CopyObject, UploadPart, UploadPartCopy, DeleteObject, DeleteObjects write or
//! remove the same thing again. Not so:
//! - PutObject with a precondition: our first try may have made the precondition false, and the second is
//!   answered 412. Then a HEAD tells: if the ETag is the MD5 of our payload, the write was ours.
//! - CompleteMultipartUpload: the second try finds no upload (`NoSuchUpload`), or with a precondition 412.
//!   Then a HEAD tells: if the ETag is that of our parts, the object is ours.
//! - CopyObject with a precondition: a 412 stands, since the copy's ETag need not be the source's.
//! - CreateMultipartUpload: an upload may be left behind that nobody knows; listing the uploads finds it.
//! - AbortMultipartUpload: a second try that finds no upload is a success.
//! - CreateBucket: a second try that finds the bucket ours (`BucketAlreadyOwnedByYou`) is a success; DeleteBucket: one
//!   that finds none.
//! - RestoreObject: a second try is told that a restore is under way, and that error stands: it may be another's.
//!
//! Where an ETag is not an MD5 (encrypted with customer's keys) nothing can be told, and the error stands.

mod archive;
mod bucket;
mod checksum;
mod delete;
mod document;
mod error;
mod get;
mod list;
mod multipart;
mod object;
mod past;
mod payload;
mod presign;
mod requests;
mod types;
mod versions;
pub mod xml;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::sync::OnceCell;

use self::payload::Protection;
use self::requests::Standing;
use self::xml::Element;
use crate::aws::credentials::Credentials;
use crate::aws::endpoint::Endpoint;
use crate::aws::retry::{Answer, Call, Effort, Failure, HedgeCounts, Wire};
use crate::aws::sign::{EMPTY_SHA256, UNSIGNED_PAYLOAD};
use crate::aws::transport::{HttpTransport, Transport};
use crate::config::{ChecksumAlgorithm, PayloadSigning, S3Config};
use crate::error::{S3Error, S3ErrorKind};
pub use bucket::REGION_UNNAMED;
pub use checksum::{Checksum, Promise};
pub use delete::DELETE_KEYS_MAX;
pub use document::{Acl, Document, Permission, tags_in, tags_of_text, tags_text};
pub use get::{GetObject, ObjectBody};
pub use object::TAGGING;
pub use past::Located;
pub use payload::multipart_etag;
pub use presign::{PRESIGN_EXPIRES_MAX, Presigned};
pub use requests::{SSE, SSE_CUSTOMER, SSE_KMS_KEY};
pub use types::*;

type R<T> = Result<T, S3Error>;

/// A client of one bucket; clones share everything.
#[derive(Clone)]
pub struct S3Client {
    inner: Arc<Inner>,
}

struct Inner {
    wire: Wire,
    sign_requests: bool,
    payload_signing: PayloadSigning,
    list_page_keys: u32,
    copy_bytes_max: u64,
    standing: Arc<Standing>,
    /// Answers as S3 would have then; none: as it does now.
    as_of: Option<SystemTime>,
    /// The server refused a checksum header and took the same request without.
    checksums_refused: AtomicBool,
    /// The server does not know DeleteObjects.
    batches_refused: AtomicBool,
    /// The server does not know ACLs of objects.
    acls_refused: AtomicBool,
    /// Whether the bucket lets objects have ACLs, once it was asked.
    has_acls: OnceCell<bool>,
}

impl S3Client {
    /// reqwest below, credentials from the AWS chain. Sends nothing to S3 yet.
    ///
    /// # Errors
    /// `Refused`, if the endpoint, the bucket's name or the CA bundle cannot be used.
    pub async fn connect(config: &S3Config) -> R<S3Client> {
        let refused = |message: String| setup_error(config, message);
        let endpoint = endpoint(config).map_err(refused)?;
        let tls = endpoint.is_tls();
        let (ca_bundle, timeout) = (config.ca_bundle.clone(), config.request_timeout);
        let requests = config.requests.clone();
        // Reads the system's certificates, and a key from its file.
        let blocking = tokio::task::spawn_blocking(move || {
            let standing = Standing::of(&requests)?;
            let transport = HttpTransport::new(tls, ca_bundle.as_deref(), timeout);
            Ok::<_, String>((transport.map_err(|e| e.to_string())?, standing))
        });
        let (transport, standing) = blocking.await.map_err(|e| refused(e.to_string()))?.map_err(refused)?;
        let credentials =
            if config.sign_requests { Credentials::chain(config) } else { Credentials::unsigned() };
        Ok(S3Client::assemble(config, endpoint, Arc::new(transport), credentials, standing))
    }

    /// Over any transport (tests). Static credentials; none: unsigned.
    ///
    /// # Panics
    /// If the endpoint, the bucket's name or the options of requests cannot be used.
    pub fn over(
        config: &S3Config,
        transport: Arc<dyn Transport>,
        credentials: Option<(String, String)>,
    ) -> S3Client {
        let credentials = match credentials {
            Some((id, secret)) => Credentials::fixed(id, secret),
            None => Credentials::unsigned(),
        };
        let endpoint = endpoint(config).expect("a checked configuration names an endpoint");
        let standing = Standing::of(&config.requests).expect("a checked configuration can be sent");
        S3Client::assemble(config, endpoint, transport, credentials, standing)
    }

    fn assemble(
        config: &S3Config,
        endpoint: Endpoint,
        transport: Arc<dyn Transport>,
        credentials: Credentials,
        standing: Standing,
    ) -> S3Client {
        let wire = Wire::new(
            transport,
            credentials,
            endpoint,
            config.region.as_deref(),
            "s3",
            error::judge,
            config.request_timeout,
        )
        .carrying(standing.all.clone());
        S3Client {
            inner: Arc::new(Inner {
                wire,
                sign_requests: config.sign_requests,
                payload_signing: config.payload_signing,
                list_page_keys: config.list_page_keys,
                copy_bytes_max: config.copy_bytes_max,
                standing: Arc::new(standing),
                as_of: None,
                checksums_refused: AtomicBool::new(false),
                batches_refused: AtomicBool::new(false),
                acls_refused: AtomicBool::new(false),
                has_acls: OnceCell::new(),
            }),
        }
    }

    /// A client of another bucket, over the same connections, with the same keys; an empty name: of no bucket, for
    /// what is asked of the service itself.
    ///
    /// # Errors
    /// `Refused`, if the name cannot be a bucket's.
    pub fn beside(&self, bucket: &str) -> R<S3Client> {
        let call = call("connect", Method::GET, None);
        let endpoint = self.wire().endpoint().for_bucket(bucket);
        let endpoint = endpoint.map_err(|e| self.refused(&call, e.to_string()))?;
        Ok(self.with(self.inner.wire.beside(endpoint), self.inner.as_of))
    }

    /// A client of the same bucket whose retries take nothing from what this one may spend on its own.
    pub fn with_own_retries(&self) -> S3Client {
        self.with(self.wire().beside(self.wire().endpoint().clone()), self.inner.as_of)
    }

    /// For what Transfer Acceleration does not carry:
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/transfer-acceleration-getting-started.html>.
    fn unaccelerated(&self) -> S3Client {
        match self.wire().endpoint().unaccelerated() {
            Some(endpoint) => self.with(self.wire().beside(endpoint), self.inner.as_of),
            None => self.clone(),
        }
    }

    fn with(&self, wire: Wire, as_of: Option<SystemTime>) -> S3Client {
        let inner = &self.inner;
        S3Client {
            inner: Arc::new(Inner {
                wire,
                as_of,
                sign_requests: inner.sign_requests,
                payload_signing: inner.payload_signing,
                list_page_keys: inner.list_page_keys,
                copy_bytes_max: inner.copy_bytes_max,
                standing: inner.standing.clone(),
                checksums_refused: AtomicBool::new(inner.checksums_refused.load(Ordering::Relaxed)),
                batches_refused: AtomicBool::new(inner.batches_refused.load(Ordering::Relaxed)),
                acls_refused: AtomicBool::new(inner.acls_refused.load(Ordering::Relaxed)),
                has_acls: OnceCell::new(),
            }),
        }
    }

    pub fn bucket(&self) -> &str {
        self.inner.wire.endpoint().bucket()
    }

    /// Where requests go now: as configured, or as learnt since.
    pub fn region(&self) -> Arc<str> {
        self.wire().region()
    }

    /// GETs that were sent a second time because their answer was slow.
    pub fn hedge_counts(&self) -> HedgeCounts {
        self.wire().hedge_counts()
    }

    /// Keys a listing page holds at most.
    pub fn list_page_keys(&self) -> u32 {
        self.inner.list_page_keys
    }

    /// What is larger is copied in parts.
    pub fn copy_bytes_max(&self) -> u64 {
        self.inner.copy_bytes_max
    }

    fn wire(&self) -> &Wire {
        &self.inner.wire
    }

    /// Sends a request that needs nothing special.
    async fn send(&self, call: &Call<'_>) -> R<(Answer, Effort)> {
        let mut effort = self.wire().effort();
        let answer = self.wire().send(call, &mut effort).await?;
        Ok((answer, effort))
    }

    /// The way request bodies go now.
    fn protection(&self) -> Protection {
        let inner = &self.inner;
        let may_hash = inner.sign_requests && inner.payload_signing == PayloadSigning::Auto;
        let hash = may_hash && !self.wire().endpoint().is_tls();
        match self.checksum_asked() {
            Some(algorithm) => Protection { checksum: Some(algorithm), hash },
            None if hash || inner.checksums_refused.load(Ordering::Relaxed) => without_checksum(may_hash),
            None => Protection { checksum: Some(payload::CHECKSUM_DEFAULT), hash },
        }
    }

    /// What to do where the server refused the checksum, if that was it; none: it was asked for, and its refusal stands.
    fn protection_after(&self, refused: Protection, refusal: &S3Error) -> Option<Protection> {
        let inner = &self.inner;
        let may_hash = inner.sign_requests && inner.payload_signing == PayloadSigning::Auto;
        let chosen_here = refused.checksum.is_some() && self.checksum_asked().is_none();
        (chosen_here && blames_checksum(refusal)).then(|| without_checksum(may_hash))
    }

    /// Whether what is read is to be compared with the checksum that S3 keeps.
    pub fn verifies(&self) -> bool {
        self.checksum_asked().is_some()
    }

    fn checksum_asked(&self) -> Option<ChecksumAlgorithm> {
        self.inner.standing.checksum
    }

    /// Sends a body with its digests; where the server refuses checksums, sends it without, and if that is
    /// taken, remembers it. Answers the checksum that went along.
    async fn send_protected(
        &self,
        call: &mut Call<'_>,
        effort: &mut Effort,
    ) -> R<(Answer, Option<PartChecksum>)> {
        let first = self.protection();
        let checksum = protect(call, first).await;
        effort.progressed();
        let refusal = match self.wire().send(call, effort).await {
            Ok(answer) => return Ok((answer, checksum)),
            Err(e) => e,
        };
        let Some(second) = self.protection_after(first, &refusal) else { return Err(refusal) };
        protect(call, second).await;
        effort.progressed();
        let answer = self.wire().send(call, effort).await?;
        self.remember_refusal(&refusal);
        Ok((answer, None))
    }

    fn remember_refusal(&self, refusal: &S3Error) {
        if !self.inner.checksums_refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason = %refusal, "the server refuses checksum headers; going on without");
        }
    }

    /// The document of an answer, whose root must be `root`.
    fn document(&self, call: &Call<'_>, effort: &Effort, answer: &Answer, root: &str) -> R<Element> {
        xml::parse_root(&answer.body, root).map_err(|e| self.malformed(call, effort, e.to_string()))
    }

    /// An answer that is not what S3 would say.
    fn malformed(&self, call: &Call<'_>, effort: &Effort, message: impl Into<String>) -> S3Error {
        let failure = Failure::local(S3ErrorKind::Malformed, message);
        self.wire().error(call, effort, failure)
    }

    /// A request that is not sent.
    fn refused(&self, call: &Call<'_>, message: impl Into<String>) -> S3Error {
        let failure = Failure::local(S3ErrorKind::Refused, message);
        self.wire().error(call, &self.wire().effort(), failure)
    }
}

fn endpoint(config: &S3Config) -> Result<Endpoint, String> {
    Endpoint::new(config).map_err(|e| e.to_string())
}

fn setup_error(config: &S3Config, message: String) -> S3Error {
    S3Error {
        operation: "connect",
        bucket: config.bucket.clone(),
        key: None,
        kind: S3ErrorKind::Refused,
        status: None,
        code: None,
        message,
        request_id: None,
        host_id: None,
        tries: 0,
    }
}

/// A request without body.
fn call<'a>(operation: &'static str, method: Method, key: Option<&'a str>) -> Call<'a> {
    Call {
        operation,
        key,
        method,
        query: Vec::new(),
        headers: HeaderMap::new(),
        body: Vec::new(),
        payload_hash: Cow::Borrowed(EMPTY_SHA256),
    }
}

/// [`call`] on an object's version; none: on the bucket.
fn call_on<'a>(operation: &'static str, method: Method, object: Option<ObjectId<'a>>) -> Call<'a> {
    let mut call = call(operation, method, object.map(|object| object.key));
    if let Some(version_id) = object.and_then(|object| object.version_id) {
        call.query.push(("versionId", version_id.into()));
    }
    call
}

/// A small document as the body: its hash is always signed.
async fn set_document(call: &mut Call<'_>, document: impl Into<Bytes>) {
    call.body = vec![document.into()];
    call.payload_hash = Cow::Owned(payload::sha256(&call.body).await);
    call.headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
}

fn without_checksum(hash: bool) -> Protection {
    Protection { checksum: None, hash }
}

/// Puts digests of the body into the call, and takes out those of an earlier way.
async fn protect(call: &mut Call<'_>, protection: Protection) -> Option<PartChecksum> {
    call.payload_hash = match protection.hash {
        true => Cow::Owned(payload::sha256(&call.body).await),
        false => Cow::Borrowed(UNSIGNED_PAYLOAD),
    };
    let Some(algorithm) = protection.checksum else {
        call.headers.remove(payload::CHECKSUM_DEFAULT.header());
        return None;
    };
    let checksum = payload::checksum(&call.body, algorithm).await;
    let value = HeaderValue::from_str(&checksum.value).expect("base64 is ASCII");
    call.headers.insert(HeaderName::from_static(algorithm.header()), value);
    Some(checksum)
}

/// Whether an error may come from a header the server does not know.
fn blames_checksum(e: &S3Error) -> bool {
    e.kind == S3ErrorKind::NotImplemented
        || matches!(e.code.as_deref(), Some("InvalidArgument" | "InvalidRequest" | "XNotImplemented"))
}

/// S3 and the proxies before it agree on printable ASCII only, and spaces at the ends are lost on the way.
pub fn is_header_value(value: &str) -> bool {
    value.bytes().all(|b| (b' '..=b'~').contains(&b)) && value.trim() == value
}

/// A header's value, or why it cannot be sent.
fn header_value(name: &str, value: &str) -> Result<HeaderValue, String> {
    if !is_header_value(value) {
        return Err(format!(
            "the header {name} cannot carry {value:?}: expected printable ASCII without spaces at the ends"
        ));
    }
    HeaderValue::from_str(value).map_err(|e| format!("the header {name}: {e}"))
}

#[cfg(test)]
mod tests;
