//! An S3 server in memory, behind the client's own seam.
//!
//! Owns: [`FakeS3`], a [`Transport`] that answers as S3 does, down to ETags, error documents and the
//! checks of signatures, payload hashes and checksums; a log of the calls; and direct access for tests.
//! It takes path-style URLs of any host, and virtual-host URLs of amazonaws.com.
//! Where S3's documents leave a choice it takes the harsher one for a client.

mod answer;
mod auth;
mod buckets;
mod listing;
mod multipart;
mod objects;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use http::HeaderMap;
use pailfs::aws::transport::{BodyStream, Request, Response, Transport, TransportError};
use pailfs::config::{Addressing, AwsHosts, PayloadSigning, S3Config};
use pailfs::s3::S3Client;

use super::call::Call;
use answer::{Answer, Refusal};
pub use buckets::Owner;
use store::{Bucket, Part, Upload};
pub use store::{Object, Order};

/// The bucket there is from the start, and its region.
pub const BUCKET: &str = "bucket";
pub const REGION: &str = "us-east-1";
/// The one pair of credentials the server knows.
pub const ACCESS_KEY: &str = "AKIAFAKEFAKEFAKEFAKE";
pub const SECRET_KEY: &str = "fake/secret+key";
pub const HOST_ID: &str = "fakeHostId/8n+x1Q=";

/// What a server does with `If-Match` and `If-None-Match` on writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guards {
    #[default]
    Kept,
    /// As if they had not been sent.
    Ignored,
    /// 501 `NotImplemented`.
    Refused,
}

/// How a server says that a bucket lives elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WrongRegion {
    /// 301 `PermanentRedirect`.
    #[default]
    Redirect,
    /// 400 `AuthorizationHeaderMalformed` with the region named in it.
    Malformed,
}

/// How this server differs from S3; the default is not at all.
#[derive(Debug, Clone)]
pub struct Options {
    pub order: Order,
    pub guards: Guards,
    pub wrong_region: WrongRegion,
    /// Every part but the last must have so many bytes.
    pub part_bytes_min: u64,
    /// The largest source of a CopyObject.
    pub copy_bytes_max: u64,
    /// A page never holds more keys than this, whatever was asked.
    pub page_keys_max: usize,
    /// Requests without a signature are let in.
    pub anonymous: bool,
    /// The server's clock, ahead of ours.
    pub clock_ahead: Duration,
    /// Bodies come in frames of this many bytes.
    pub frame_bytes: usize,
    /// Who asks may not list the buckets.
    pub hides_buckets: bool,
    pub deletes_full_buckets: bool,
    /// Objects have no ACLs of their own (`BucketOwnerEnforced`).
    pub owner_enforced: bool,
    /// Keys that end in `/` have no metadata, as on SeaweedFS.
    pub bare_markers: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            order: Order::Key,
            guards: Guards::Kept,
            wrong_region: WrongRegion::Redirect,
            part_bytes_min: 5 << 20,
            copy_bytes_max: 5 << 30,
            page_keys_max: 1000,
            anonymous: false,
            clock_ahead: Duration::ZERO,
            frame_bytes: 16 << 10,
            hides_buckets: false,
            deletes_full_buckets: false,
            owner_enforced: false,
            bare_markers: false,
        }
    }
}

/// One call as it was carried out.
#[derive(Debug, Clone)]
pub struct Logged {
    pub call: Call,
    pub headers: HeaderMap,
    pub body_bytes: u64,
    pub status: u16,
}

struct State {
    options: Options,
    buckets: BTreeMap<String, Bucket>,
    log: Vec<Logged>,
    undeletable: BTreeSet<Vec<u8>>,
    serial: u64,
    in_flight: usize,
    in_flight_peak: usize,
}

/// A handle on the server: cheap to clone, and bound to one bucket for what tests do directly.
#[derive(Clone)]
pub struct FakeS3 {
    state: Arc<Mutex<State>>,
    bucket: String,
}

impl Default for FakeS3 {
    fn default() -> FakeS3 {
        FakeS3::new()
    }
}

impl FakeS3 {
    /// A server with the empty bucket [`BUCKET`].
    pub fn new() -> FakeS3 {
        FakeS3::with(Options::default())
    }

    pub fn with(options: Options) -> FakeS3 {
        let fake = FakeS3 {
            state: Arc::new(Mutex::new(State {
                options,
                buckets: BTreeMap::new(),
                log: Vec::new(),
                undeletable: BTreeSet::new(),
                serial: 0,
                in_flight: 0,
                in_flight_peak: 0,
            })),
            bucket: BUCKET.to_string(),
        };
        fake.create_bucket(BUCKET, REGION);
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held the lock has failed already.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn own<T>(&self, look: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut state = self.state();
        look(state.buckets.get_mut(&self.bucket).expect("the handle's bucket"))
    }

    /// As a transport for `S3Client::over` or `Faults::over`.
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.clone())
    }

    /// A client with the right credentials over this server, for the handle's bucket.
    pub fn client(&self) -> S3Client {
        client_over(self.transport(), &self.config())
    }

    /// The settings of [`FakeS3::client`], to change and hand to [`client_over`].
    pub fn config(&self) -> S3Config {
        S3Config {
            bucket: self.bucket.clone(),
            endpoint_url: Some("http://fake.test".to_string()),
            region: Some(REGION.to_string()),
            profile: None,
            profile_is_typed: false,
            addressing: Addressing::Path,
            hosts: AwsHosts::default(),
            sign_requests: true,
            payload_signing: PayloadSigning::Auto,
            request_timeout: Duration::from_secs(30),
            ca_bundle: None,
            list_page_keys: 1000,
            copy_bytes_max: 5 << 30,
            requests: Default::default(),
        }
    }

    pub fn create_bucket(&self, name: &str, region: &str) {
        let mut state = self.state();
        let order = state.options.order;
        state.buckets.entry(name.to_string()).or_insert_with(|| Bucket::new(region, order));
    }

    pub fn remove_bucket(&self, name: &str) {
        self.state().buckets.remove(name);
    }

    pub fn give_bucket(&self, name: &str, owner: Owner) {
        self.state().buckets.get_mut(name).expect("a bucket").owner = owner;
    }

    /// Every bucket, whoever owns it, with its region.
    pub fn buckets(&self) -> Vec<(String, String)> {
        self.state().buckets.iter().map(|(name, bucket)| (name.clone(), bucket.region.clone())).collect()
    }

    /// The same server, with another bucket for direct access.
    pub fn within(&self, bucket: &str) -> FakeS3 {
        FakeS3 { state: self.state.clone(), bucket: bucket.to_string() }
    }

    /// Changes how the server behaves from now on (but for the order of buckets that exist).
    pub fn change(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.state().options);
    }

    /// Puts an object as another host would; answers its ETag.
    pub fn put(&self, key: impl AsRef<[u8]>, data: impl Into<Bytes>) -> String {
        self.put_with(key, data, &[])
    }

    /// `headers` are lower case; `x-amz-meta-…` become metadata.
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        data: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> String {
        let now = self.state().now();
        let mut object = Object::new(data.into(), now);
        for (name, value) in headers {
            let (map, name) = match name.strip_prefix("x-amz-meta-") {
                Some(meta) => (&mut object.metadata, meta),
                None => (&mut object.headers, *name),
            };
            map.insert(name.to_string(), value.to_string());
        }
        let etag = object.etag.clone();
        self.own(|b| b.put(key.as_ref(), Arc::new(object)));
        etag
    }

    /// Many keys with the same bytes, which are held once.
    pub fn put_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>, data: impl Into<Bytes>) {
        let now = self.state().now();
        let object = Arc::new(Object::new(data.into(), now));
        self.own(|b| keys.into_iter().for_each(|k| b.put(k.as_ref(), object.clone())));
    }

    /// The restore of an archived object that was asked for has come to its end.
    pub fn finish_restore(&self, key: &str) {
        let restored = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2040 00:00:00 GMT\"";
        self.own(|b| b.change(key.as_bytes(), "x-amz-restore", restored));
    }

    /// Sets the ACL of an object.
    pub fn grant(&self, key: &str, grants: &str) {
        self.own(|b| b.get_mut(key.as_bytes()).expect("the object").grants = Some(grants.to_string()));
    }

    /// Sets the tags of an object, as in `x-amz-tagging`.
    pub fn tag(&self, key: &str, tags: &str) {
        self.own(|b| b.get_mut(key.as_bytes()).expect("the object").tags = tags.to_string());
    }

    pub fn delete(&self, key: impl AsRef<[u8]>) -> bool {
        self.own(|b| b.remove(key.as_ref()))
    }

    pub fn object(&self, key: impl AsRef<[u8]>) -> Option<Arc<Object>> {
        self.own(|b| b.get(key.as_ref()).cloned())
    }

    /// The object's bytes; panics where there is none.
    #[track_caller]
    pub fn data(&self, key: &str) -> Bytes {
        let object = self.object(key);
        object.unwrap_or_else(|| panic!("no object {key:?}; there are {:?}", self.keys())).data.clone()
    }

    /// Every key, in listing order.
    pub fn keys(&self) -> Vec<String> {
        self.own(|b| b.keys().map(|k| String::from_utf8_lossy(&k).into_owned()).collect())
    }

    /// Key and id of every multipart upload under way.
    pub fn uploads(&self) -> Vec<(String, String)> {
        self.own(|b| {
            b.uploads
                .keys()
                .map(|(key, id)| (String::from_utf8_lossy(key).into_owned(), id.clone()))
                .collect()
        })
    }

    /// Deleting this key is refused from now on (`AccessDenied`).
    pub fn make_undeletable(&self, key: impl AsRef<[u8]>) {
        self.state().undeletable.insert(key.as_ref().to_vec());
    }

    /// Every call since the start or the last [`FakeS3::forget_calls`], in order.
    pub fn calls(&self) -> Vec<Logged> {
        self.state().log.clone()
    }

    pub fn forget_calls(&self) {
        let mut state = self.state();
        state.log.clear();
        state.in_flight_peak = state.in_flight;
    }

    /// How often `op` (S3's name of it) was called.
    pub fn count(&self, op: &str) -> usize {
        self.state().log.iter().filter(|l| l.call.op == op).count()
    }

    /// Calls by operation.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for logged in &self.state().log {
            *counts.entry(logged.call.op).or_insert(0) += 1;
        }
        counts
    }

    /// The most calls that were under way at once; a call ends when its body was read or dropped.
    pub fn in_flight_peak(&self) -> usize {
        self.state().in_flight_peak
    }
}

/// A client with the fake server's credentials over any transport.
pub fn client_over(transport: Arc<dyn Transport>, config: &S3Config) -> S3Client {
    S3Client::over(config, transport, Some((ACCESS_KEY.to_string(), SECRET_KEY.to_string())))
}

/// A request as it arrived: what [`Call`] does not hold.
struct Incoming<'a> {
    headers: &'a HeaderMap,
    body: Bytes,
}

impl Incoming<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

impl State {
    fn now(&self) -> SystemTime {
        SystemTime::now() + self.options.clock_ahead
    }

    fn id(&mut self) -> String {
        self.serial += 1;
        format!("FAKE{:012X}", self.serial)
    }

    fn bucket(&mut self, call: &Call) -> Result<&mut Bucket, Refusal> {
        self.buckets.get_mut(&call.bucket).ok_or_else(|| {
            let mut refusal = Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist");
            refusal.extra = super::xml::leaf("BucketName", &call.bucket);
            refusal
        })
    }

    fn serve(&mut self, request: &Request) -> Answer {
        let call = Call::of(request);
        let incoming = Incoming { headers: &request.headers, body: joined(&request.body) };
        let request_id = self.id();
        let resource = format!("/{}/{}", call.bucket, call.key());
        let mut answer = self
            .admit(&call, request, &incoming)
            .and_then(|()| self.dispatch(&call, &incoming))
            .unwrap_or_else(|refusal| refusal.answer(&call.method, &resource, &request_id));
        answer.set("date", &httpdate::fmt_http_date(self.now()));
        answer.set("server", "FakeS3");
        answer.set("x-amz-request-id", &request_id);
        answer.set("x-amz-id-2", HOST_ID);
        if !answer.headers.contains_key("content-length") && answer.status != 204 {
            answer.set("content-length", &answer.body.len().to_string());
        }
        self.log.push(Logged {
            call,
            headers: request.headers.clone(),
            body_bytes: incoming.body.len() as u64,
            status: answer.status,
        });
        answer
    }

    /// Everything that S3 checks before it looks at what is asked.
    fn admit(&mut self, call: &Call, request: &Request, incoming: &Incoming) -> Result<(), Refusal> {
        auth::check_payload(incoming, call.op)?;
        let scope = auth::check_signature(request, &incoming.body, self.now(), self.options.anonymous)?;
        if call.key_bytes.len() > pailfs::config::KEY_BYTES_MAX {
            return Err(Refusal::new(400, "KeyTooLongError", "Your key is too long"));
        }
        if self.buckets.get(&call.bucket).is_some_and(|bucket| bucket.owner == Owner::OthersAlone)
            && call.op != "CreateBucket"
        {
            return Err(buckets::denied());
        }
        let wrong_region = self.options.wrong_region;
        match (scope, self.buckets.get(&call.bucket)) {
            (Some(region), Some(bucket)) if region != bucket.region => {
                Err(elsewhere(wrong_region, &region, &bucket.region))
            }
            _ => Ok(()),
        }
    }

    fn dispatch(&mut self, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
        match call.op {
            "HeadBucket" => {
                let region = self.bucket(call)?.region.clone();
                Ok(Answer::empty(200).with("x-amz-bucket-region", &region))
            }
            "GetBucketOwnershipControls" => buckets::ownership(self, call),
            "ListBuckets" => buckets::list(self, call),
            "CreateBucket" => buckets::create(self, call, &incoming.body),
            "DeleteBucket" => buckets::delete(self, call),
            "ListObjectsV2" => listing::list_objects_v2(self, call),
            "ListMultipartUploads" => listing::list_multipart_uploads(self, call),
            "HeadObject" | "GetObject" => objects::get_object(self, call, incoming),
            "PutObject" => objects::put_object(self, call, incoming),
            "CopyObject" => objects::copy_object(self, call, incoming),
            "GetObjectAcl" => objects::get_object_acl(self, call),
            "PutObjectAcl" => objects::put_object_acl(self, call, incoming),
            "GetObjectTagging" => objects::get_object_tagging(self, call),
            "PutObjectTagging" => objects::put_object_tagging(self, call, incoming),
            "DeleteObjectTagging" => objects::delete_object_tagging(self, call),
            "RestoreObject" => objects::restore_object(self, call),
            "DeleteObject" => objects::delete_object(self, call, incoming),
            "DeleteObjects" => objects::delete_objects(self, call, incoming),
            "CreateMultipartUpload" => multipart::create(self, call, incoming),
            "UploadPart" => multipart::upload_part(self, call, incoming),
            "UploadPartCopy" => multipart::upload_part_copy(self, call, incoming),
            "CompleteMultipartUpload" => multipart::complete(self, call, incoming),
            "AbortMultipartUpload" => multipart::abort(self, call),
            "ListParts" => multipart::list_parts(self, call),
            _ => Err(Refusal::new(501, "NotImplemented", "A header or query is not implemented")),
        }
    }
}

fn elsewhere(kind: WrongRegion, wrong: &str, right: &str) -> Refusal {
    let mut refusal = match kind {
        WrongRegion::Redirect => {
            let mut refusal = Refusal::new(
                301,
                "PermanentRedirect",
                "The bucket you are attempting to access must be addressed using the specified \
                 endpoint. Please send all future requests to this endpoint.",
            );
            refusal.extra = super::xml::leaf("Endpoint", &format!("bucket.s3.{right}.amazonaws.com"));
            refusal
        }
        WrongRegion::Malformed => {
            let mut refusal = Refusal::new(
                400,
                "AuthorizationHeaderMalformed",
                &format!(
                    "The authorization header is malformed; the region '{wrong}' is wrong; expecting \
                     '{right}'"
                ),
            );
            refusal.extra = super::xml::leaf("Region", right);
            refusal
        }
    };
    refusal.headers.push(("x-amz-bucket-region", right.to_string()));
    refusal
}

/// Copied, for what the server keeps must not hold the client's memory.
fn joined(chunks: &[Bytes]) -> Bytes {
    chunks.concat().into()
}

/// One call under way, from the request to the end of the body.
struct InFlight(Arc<Mutex<State>>);

impl InFlight {
    fn enter(state: &Arc<Mutex<State>>) -> InFlight {
        let mut s = state.lock().unwrap_or_else(|e| e.into_inner());
        s.in_flight += 1;
        s.in_flight_peak = s.in_flight_peak.max(s.in_flight);
        InFlight(state.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).in_flight -= 1;
    }
}

impl Transport for FakeS3 {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move {
            let in_flight = InFlight::enter(&self.state);
            // A network lets others run; a fake that never yields would hide races.
            tokio::task::yield_now().await;
            request.progress.add(request.body.iter().map(|c| c.len() as u64).sum());
            let (answer, frame_bytes) = {
                let mut state = self.state();
                (state.serve(&request), state.options.frame_bytes)
            };
            Ok(Response {
                status: answer.status,
                headers: answer.headers,
                body: frames(answer.body, frame_bytes, in_flight),
            })
        })
    }
}

fn frames(body: Bytes, frame_bytes: usize, in_flight: InFlight) -> BodyStream {
    stream::unfold((body, in_flight), move |(mut rest, in_flight)| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::task::yield_now().await;
        let frame = rest.split_to(frame_bytes.min(rest.len()));
        Some((Ok(frame), (rest, in_flight)))
    })
    .boxed()
}
