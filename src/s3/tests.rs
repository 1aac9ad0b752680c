//! The client over a scripted transport.

mod get;
mod past;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};

use super::*;
use crate::aws::transport::{Request, Response, TransportError};

/// One answer of the script.
struct Step {
    status: u16,
    headers: Vec<(&'static str, String)>,
    frames: Vec<Result<Bytes, TransportError>>,
    /// After the frames, nothing more comes, not even the end.
    stall: bool,
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Step {
    Step {
        status,
        headers: headers.iter().map(|(n, v)| (*n, (*v).to_string())).collect(),
        frames: vec![Ok(Bytes::from(body.to_string()))],
        stall: false,
    }
}

fn error(status: u16, code: &str) -> Step {
    let body = format!("<Error><Code>{code}</Code><Message>told</Message></Error>");
    answer(status, &[], &body)
}

fn lost() -> TransportError {
    TransportError::Lost("reset".to_string())
}

const MODIFIED: &str = "Fri, 24 May 2013 00:00:00 GMT";

/// Answers in order, and keeps what was asked.
#[derive(Default)]
struct Script {
    steps: Mutex<VecDeque<Result<Step, TransportError>>>,
    asked: Mutex<Vec<Request>>,
}

impl Transport for Script {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        self.asked.lock().unwrap().push(request);
        let step = self.steps.lock().unwrap().pop_front();
        Box::pin(async move {
            let step = step.expect("the script is longer")?;
            let mut headers = HeaderMap::new();
            for (name, value) in &step.headers {
                headers.insert(*name, value.parse().unwrap());
            }
            let body = stream::iter(step.frames);
            Ok(Response {
                status: step.status,
                headers,
                body: if step.stall { body.chain(stream::pending()).boxed() } else { body.boxed() },
            })
        })
    }
}

fn scripted(
    url: Option<&str>,
    steps: impl IntoIterator<Item = Result<Step, TransportError>>,
) -> (S3Client, Arc<Script>) {
    let script = Arc::new(Script::default());
    script.steps.lock().unwrap().extend(steps);
    let keys = Some(("id".to_string(), "secret".to_string()));
    (S3Client::over(&S3Config::of("bucket", url), script.clone(), keys), script)
}

impl Script {
    fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    fn header(&self, at: usize, name: &str) -> Option<String> {
        let asked = self.asked();
        Some(asked[at].headers.get(name)?.to_str().unwrap().to_string())
    }
}

const HTTP: Option<&str> = Some("http://h:1");
const HTTPS: Option<&str> = Some("https://h:1");

fn put_ok(etag: &str) -> Step {
    answer(200, &[("etag", etag)], "")
}

fn head_ok(etag: &str) -> Step {
    let headers = [("etag", etag), ("last-modified", MODIFIED), ("content-length", "2")];
    answer(200, &headers, "")
}

async fn put(client: &S3Client, guard: Precondition) -> R<Written> {
    let payload = vec![Bytes::from_static(b"hi")];
    client.put_object("k", payload, &ObjectHeaders::default(), &guard).await
}

const MD5_HI: &str = "\"49f68a5c8493ec2c0bf489821c21fc3b\"";

#[tokio::test(start_paused = true)]
async fn payloads_are_hashed_over_http_and_summed_over_tls() {
    let (client, script) = scripted(HTTP, [Ok(put_ok("\"e\""))]);
    put(&client, Precondition::None).await.unwrap();
    assert_eq!(script.header(0, "x-amz-checksum-crc32c"), None);
    assert!(script.header(0, "x-amz-content-sha256").unwrap().starts_with("8f434346"));
    let (client, script) = scripted(HTTPS, [Ok(put_ok("\"e\""))]);
    put(&client, Precondition::None).await.unwrap();
    assert!(script.header(0, "x-amz-checksum-crc32c").is_some());
    assert_eq!(script.header(0, "x-amz-content-sha256").unwrap(), "UNSIGNED-PAYLOAD");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_checksums_is_remembered() {
    let steps = [Ok(error(501, "NotImplemented")), Ok(put_ok("\"e\"")), Ok(put_ok("\"e\""))];
    let (client, script) = scripted(HTTPS, steps);
    put(&client, Precondition::None).await.unwrap();
    put(&client, Precondition::None).await.unwrap();
    let summed: Vec<bool> = (0..3).map(|at| script.header(at, "x-amz-checksum-crc32c").is_some()).collect();
    assert_eq!(summed, [true, false, false]);
    assert!(script.header(1, "x-amz-content-sha256").unwrap().starts_with("8f434346"));
    // What fails without checksums, too, was not about them.
    let steps = [Ok(error(400, "InvalidArgument")), Ok(error(400, "InvalidArgument")), Ok(put_ok("\"e\""))];
    let (client, script) = scripted(HTTPS, steps);
    assert!(put(&client, Precondition::None).await.is_err());
    put(&client, Precondition::None).await.unwrap();
    assert!(script.header(2, "x-amz-checksum-crc32c").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_guarded_put_in_doubt_counts_if_the_etag_is_ours() {
    let refused = || Ok(error(412, "PreconditionFailed"));
    let (client, _) = scripted(HTTP, [Err(lost()), refused(), Ok(head_ok(MD5_HI))]);
    assert_eq!(put(&client, Precondition::Absent).await.unwrap().etag, MD5_HI);
    let (client, _) = scripted(HTTP, [Err(lost()), refused(), Ok(head_ok("\"other\""))]);
    let e = put(&client, Precondition::Absent).await.unwrap_err();
    assert_eq!((e.kind, e.tries), (S3ErrorKind::PreconditionFailed, 2));
    // Not in doubt: no question asked.
    let (client, script) = scripted(HTTP, [refused()]);
    assert!(put(&client, Precondition::Absent).await.is_err());
    assert_eq!(script.asked().len(), 1);
    let connect = TransportError::Connect("refused".to_string());
    let (client, script) = scripted(HTTP, [Err(connect), refused()]);
    assert!(put(&client, Precondition::Absent).await.is_err());
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_complete_in_doubt_counts_if_the_etag_is_that_of_the_parts() {
    let parts = [UploadedPart { number: 1, etag: MD5_HI.to_string(), checksum: None }];
    let ours = payload::multipart_etag([MD5_HI].into_iter()).unwrap();
    let gone = || Ok(error(404, "NoSuchUpload"));
    let internal = || Ok(error(200, "InternalError"));
    let (client, _) = scripted(HTTP, [internal(), gone(), Ok(head_ok(&format!("\"{ours}\"")))]);
    let done = client.complete_multipart_upload("k", "u", &parts, &Precondition::None).await;
    assert!(done.unwrap().etag.contains(&ours));
    let (client, _) = scripted(HTTP, [internal(), gone(), Ok(head_ok("\"other\""))]);
    let done = client.complete_multipart_upload("k", "u", &parts, &Precondition::None).await;
    assert_eq!(done.unwrap_err().kind, S3ErrorKind::NoSuchKey);
    let (client, script) = scripted(HTTP, [gone()]);
    let done = client.complete_multipart_upload("k", "u", &parts, &Precondition::None).await;
    assert!(done.is_err() && script.asked().len() == 1);
}

#[tokio::test(start_paused = true)]
async fn head_bucket_learns_the_region_and_says_what_is_wrong() {
    let moved = answer(301, &[("x-amz-bucket-region", "eu-west-1")], "");
    let (client, script) = scripted(None, [Ok(moved), Ok(answer(200, &[], ""))]);
    client.head_bucket().await.unwrap();
    let urls: Vec<String> = script.asked().into_iter().map(|r| r.url).collect();
    assert_eq!(
        urls,
        ["https://bucket.s3.us-east-1.amazonaws.com/", "https://bucket.s3.eu-west-1.amazonaws.com/"]
    );
    assert!(script.header(1, "authorization").unwrap().contains("/eu-west-1/s3/"));
    let (client, _) = scripted(HTTP, [Ok(answer(404, &[], ""))]);
    assert_eq!(client.head_bucket().await.unwrap_err().kind, S3ErrorKind::NoSuchBucket);
    let steps = [Ok(answer(403, &[], "")), Ok(error(403, "SignatureDoesNotMatch"))];
    let (client, _) = scripted(HTTP, steps);
    let e = client.head_bucket().await.unwrap_err();
    assert_eq!(e.code.as_deref(), Some("SignatureDoesNotMatch"));
}

#[tokio::test(start_paused = true)]
async fn deletions_are_accounted_for_one_by_one() {
    let first = "<DeleteResult><Error><Key>a</Key><Code>InternalError</Code></Error>\
                 <Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>";
    let steps = [
        Ok(answer(200, &[("x-amz-request-id", "R")], first)),
        Ok(answer(200, &[], "<DeleteResult/>")),
        Ok(answer(204, &[], "")),
    ];
    let (client, script) = scripted(HTTP, steps);
    let keys = ["a", "b", "c<&>", "d\x01", "x/../y"].map(String::from);
    let failures = client.delete_objects(&keys).await.unwrap();
    let told: Vec<_> = failures.iter().map(|e| (e.key.as_deref().unwrap(), e.kind)).collect();
    assert_eq!(told, [("b", S3ErrorKind::AccessDenied), ("x/../y", S3ErrorKind::Refused)]);
    let line = "DeleteObjects s3://bucket/b: no (code AccessDenied, request id R, tries 1)";
    assert_eq!(failures[0].to_string(), line, "all that is known");
    let asked = script.asked();
    let body = |at: usize| String::from_utf8(asked[at].body.concat()).unwrap();
    assert!(body(0).contains("<Key>c&lt;&amp;&gt;</Key>") && body(0).contains("<Key>b</Key>"));
    assert!(body(1).contains("<Key>a</Key>") && !body(1).contains("<Key>b</Key>"));
    assert!(script.header(0, "content-md5").is_some());
    assert!(asked[2].url.ends_with("/bucket/d%01"));
    assert_eq!(asked.len(), 3);
}

#[tokio::test]
async fn a_refusal_of_a_key_that_was_not_named_is_no_answer() {
    let told = "<DeleteResult><Error><Key>other</Key><Code>AccessDenied</Code></Error></DeleteResult>";
    let (client, _) = scripted(HTTP, [Ok(answer(200, &[], told))]);
    let e = client.delete_objects(&["a".into(), "b".into()]).await.unwrap_err();
    assert_eq!(e.kind, S3ErrorKind::Malformed, "{e}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_is_refused() {
    let (client, script) = scripted(HTTP, []);
    let metadata = |name: &str, value: &str| ObjectHeaders {
        metadata: vec![(name.to_string(), value.to_string())],
        ..ObjectHeaders::default()
    };
    for headers in [metadata("a", "ü"), metadata("a", "x\ny"), metadata("a", " x"), metadata("a b", "x")] {
        let e = client.put_object("k", vec![], &headers, &Precondition::None).await.unwrap_err();
        assert_eq!(e.kind, S3ErrorKind::Refused, "{e}");
    }
    for key in ["", "a/../b"] {
        assert_eq!(client.head_object(key).await.unwrap_err().kind, S3ErrorKind::Refused);
        assert_eq!(client.delete_object(key).await.unwrap_err().kind, S3ErrorKind::Refused);
    }
    let source =
        CopySource { bucket: "b".to_string(), key: "a/..".to_string(), if_match: None, ..Default::default() };
    let copied = client.copy_object(&source, "k", None, &Precondition::None).await;
    assert_eq!(copied.unwrap_err().kind, S3ErrorKind::Refused);
    assert!(script.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn copies_name_their_source_encoded_once() {
    let done = "<CopyObjectResult><ETag>&quot;e&quot;</ETag></CopyObjectResult>";
    let (client, script) = scripted(HTTP, [Ok(error(200, "SlowDown")), Ok(answer(200, &[], done))]);
    let source = CopySource {
        bucket: "b".to_string(),
        key: "a b+%/ü".to_string(),
        if_match: Some("\"s\"".to_string()),
        ..Default::default()
    };
    let written = client.copy_object(&source, "k", None, &Precondition::Absent).await.unwrap();
    assert_eq!(written.etag, "\"e\"");
    assert_eq!(script.header(1, "x-amz-copy-source").unwrap(), "b/a%20b%2B%25/%C3%BC");
    assert_eq!(script.header(1, "x-amz-copy-source-if-match").unwrap(), "\"s\"");
    assert_eq!(script.header(1, "if-none-match").unwrap(), "*");
    assert_eq!(script.header(1, "x-amz-metadata-directive").unwrap(), "COPY");
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/transfer-acceleration-getting-started.html>
#[tokio::test]
async fn buckets_are_made_and_deleted_where_nothing_is_accelerated() {
    let script = Arc::new(Script::default());
    let empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let steps = [
        answer(200, &[], ""),
        error(501, "NotImplemented"),
        answer(200, &[], empty),
        error(501, "NotImplemented"),
        answer(204, &[], ""),
    ];
    script.steps.lock().unwrap().extend(steps.map(Ok));
    let mut config = S3Config { region: Some("eu-west-1".into()), ..S3Config::of("bucket", None) };
    config.hosts.accelerate = true;
    let client = S3Client::over(&config, script.clone(), None);
    client.create_bucket().await.unwrap();
    client.delete_bucket().await.unwrap();
    let plain = "bucket.s3.eu-west-1.amazonaws.com";
    let accelerated = "bucket.s3-accelerate.amazonaws.com";
    let asked = script.asked();
    let hosts: Vec<&str> = asked.iter().filter_map(|request| request.url.split('/').nth(2)).collect();
    assert_eq!(hosts, [plain, accelerated, accelerated, accelerated, plain]);
}
