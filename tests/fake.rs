//! The fake server itself, against S3's documents and AWS's own signer: a mistake in it would make every
//! other test prove the wrong thing.

mod support;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::HeaderMap;
use pailfs::aws::transport::{Request, Transport, TransportError};
use support::bytes::{etag_of, pattern};
use support::fake::{ACCESS_KEY, BUCKET, Guards, Options, Order, SECRET_KEY};
use support::{FakeS3, Fault, Faults, On, xml};

struct Got {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Got {
    fn xml(&self) -> xml::Element {
        let text = String::from_utf8(self.body.clone()).unwrap();
        xml::parse(&text).unwrap_or_else(|| panic!("no XML: {text}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }

    fn code(&self) -> String {
        self.xml().text_of("Code").unwrap().to_string()
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Request {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    Request {
        method: method.parse().unwrap(),
        url: format!("http://any.host:8333/{BUCKET}{path}"),
        headers: map,
        body: vec![Bytes::copy_from_slice(body)],
        progress: Default::default(),
    }
}

async fn try_send(transport: &impl Transport, request: Request) -> Result<Got, TransportError> {
    let mut response = transport.send(request).await?;
    let mut body = Vec::new();
    while let Some(frame) = response.body.next().await {
        body.extend_from_slice(&frame?);
    }
    Ok(Got { status: response.status, headers: response.headers, body })
}

async fn send(fake: &FakeS3, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Got {
    try_send(fake, request(method, path, headers, body)).await.unwrap()
}

fn open_fake() -> FakeS3 {
    FakeS3::with(Options { anonymous: true, part_bytes_min: 10, ..Options::default() })
}

/// Keys and common prefixes of every page, in order.
async fn walk(fake: &FakeS3, query: &str, max: usize) -> Vec<String> {
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let path = format!("?list-type=2&max-keys={max}&{query}{token}");
        let page = send(fake, "GET", &path, &[], b"").await.xml();
        let mut here: Vec<String> =
            page.all("Contents").map(|c| c.text_of("Key").unwrap().to_string()).collect();
        here.extend(page.all("CommonPrefixes").map(|c| c.text_of("Prefix").unwrap().to_string()));
        assert!(here.len() <= max);
        assert_eq!(page.text_of("KeyCount").unwrap(), here.len().to_string());
        names.extend(here);
        match page.text_of("NextContinuationToken") {
            Some(next) => {
                assert_eq!(page.text_of("IsTruncated"), Some("true"));
                let next: String =
                    percent_encoding::percent_encode(next.as_bytes(), percent_encoding::NON_ALPHANUMERIC)
                        .to_string();
                token = format!("&continuation-token={next}");
            }
            None => {
                assert_eq!(page.text_of("IsTruncated"), Some("false"));
                return names;
            }
        }
    }
}

#[tokio::test]
async fn put_get_head_and_ranges() {
    let fake = open_fake();
    let data = pattern(1, 100_000);
    let headers = [("content-type", "text/x"), ("x-amz-meta-mode", "33188")];
    let put = send(&fake, "PUT", "/a%20b%2Bc/%C3%A9", &headers, &data).await;
    assert_eq!((put.status, put.header("etag")), (200, etag_of(&data).as_str()));
    assert_eq!(fake.keys(), ["a b+c/é"]);

    let head = send(&fake, "HEAD", "/a%20b%2Bc/%C3%A9", &[], b"").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "100000", 0));
    assert_eq!((head.header("content-type"), head.header("x-amz-meta-mode")), ("text/x", "33188"));

    for (range, from, to) in
        [("0-0", 0, 1), ("99999-200000", 99_999, 100_000), ("-5", 99_995, 100_000), ("7-", 7, 100_000)]
    {
        let range = format!("bytes={range}");
        let got = send(&fake, "GET", "/a b+c/é", &[("range", &range)], b"").await;
        assert_eq!(got.status, 206, "{range}");
        assert_eq!(got.body, data[from..to], "{range}");
        assert_eq!(got.header("content-range"), format!("bytes {from}-{}/100000", to - 1));
    }
    let outside = send(&fake, "GET", "/a b+c/é", &[("range", "bytes=100000-")], b"").await;
    assert_eq!((outside.status, outside.code().as_str()), (416, "InvalidRange"));
    let changed = send(&fake, "GET", "/a b+c/é", &[("if-match", "\"other\"")], b"").await;
    assert_eq!((changed.status, changed.code().as_str()), (412, "PreconditionFailed"));
    let missing = send(&fake, "GET", "/nope", &[], b"").await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "NoSuchKey"));
    assert_eq!(fake.count("GetObject"), 7);
}

#[tokio::test]
async fn bodies_come_in_frames() {
    let fake = open_fake();
    fake.put("k", pattern(2, 40_000));
    let mut response = fake.send(request("GET", "/k", &[], b"")).await.unwrap();
    let mut lengths = Vec::new();
    while let Some(frame) = response.body.next().await {
        lengths.push(frame.unwrap().len());
    }
    assert_eq!(lengths, [16_384, 16_384, 7_232]);
}

#[tokio::test]
async fn guards_on_put() {
    let fake = open_fake();
    let first = send(&fake, "PUT", "/k", &[("if-none-match", "*")], b"1").await;
    assert_eq!(first.status, 200);
    assert_eq!(send(&fake, "PUT", "/k", &[("if-none-match", "*")], b"2").await.status, 412);
    let etag = etag_of(b"1");
    assert_eq!(send(&fake, "PUT", "/k", &[("if-match", &etag)], b"3").await.status, 200);
    assert_eq!(send(&fake, "PUT", "/k", &[("if-match", &etag)], b"4").await.status, 412);
    assert_eq!(send(&fake, "PUT", "/none", &[("if-match", &etag)], b"5").await.status, 404);
    assert_eq!(fake.data("k"), "3");
    fake.change(|o| o.guards = Guards::Ignored);
    assert_eq!(send(&fake, "PUT", "/k", &[("if-none-match", "*")], b"6").await.status, 200);
    fake.change(|o| o.guards = Guards::Refused);
    assert_eq!(send(&fake, "PUT", "/k", &[("if-none-match", "*")], b"7").await.status, 501);
    assert_eq!(fake.data("k"), "6");
}

#[tokio::test]
async fn listing_rolls_up_once_whatever_the_pages() {
    let fake = open_fake();
    let keys = ["a", "a!b", "a-0", "a/x", "a/y", "a/z/1", "b/", "b/c", "z"];
    fake.put_many(keys, "v");
    for max in [1, 2, 3, 1000] {
        let flat = walk(&fake, "prefix=", max).await;
        assert_eq!(flat, keys, "pages of {max}");
        let mut root = walk(&fake, "delimiter=/", max).await;
        root.sort();
        assert_eq!(root, ["a", "a!b", "a-0", "a/", "b/", "z"], "pages of {max}");
        assert_eq!(walk(&fake, "delimiter=/&prefix=b/", max).await, ["b/", "b/c"]);
        assert_eq!(walk(&fake, "start-after=a/y", max).await, ["a/z/1", "b/", "b/c", "z"]);
        assert_eq!(walk(&fake, "prefix=none", max).await, [""; 0]);
    }
}

#[tokio::test]
async fn listing_by_component_is_as_seaweedfs_has_it() {
    let fake = FakeS3::with(Options { anonymous: true, order: Order::Component, ..Options::default() });
    fake.put_many(["d/1", "d!x", "e"], "v");
    assert_eq!(walk(&fake, "", 1).await, ["d/1", "d!x", "e"]);
    assert_eq!(walk(&fake, "delimiter=/&start-after=d!x", 2).await, ["e"]);
    assert_eq!(fake.keys(), ["d/1", "d!x", "e"]);
}

#[tokio::test]
async fn listing_encodes_by_url() {
    let fake = open_fake();
    fake.put(b"a b+c%\x01\n/\xc3\xa9*~", "v");
    let page = send(&fake, "GET", "?list-type=2&encoding-type=url", &[], b"").await.xml();
    let key = page.child("Contents").unwrap().text_of("Key").unwrap();
    assert_eq!(key, "a+b%2Bc%25%01%0A/%C3%A9*%7E");
}

#[tokio::test]
async fn multipart_from_parts_and_copies() {
    let fake = open_fake();
    fake.put("src", pattern(3, 100));
    let begun = send(&fake, "POST", "/k?uploads", &[("x-amz-meta-a", "b")], b"").await;
    let id = begun.xml().text_of("UploadId").unwrap().to_string();
    let part = |n: u32| format!("/k?partNumber={n}&uploadId={id}");
    let sent = send(&fake, "PUT", &part(1), &[], b"0123456789").await;
    let headers = [("x-amz-copy-source", "/bucket/src"), ("x-amz-copy-source-range", "bytes=10-29")];
    let copied = send(&fake, "PUT", &part(2), &headers, b"").await;
    let copied_etag = copied.xml().text_of("ETag").unwrap().to_string();
    let last = send(&fake, "PUT", &part(7), &[], b"z").await;

    let listed = send(&fake, "GET", &format!("/k?uploadId={id}&max-parts=2"), &[], b"").await.xml();
    assert_eq!(listed.text_of("NextPartNumberMarker"), Some("2"));
    assert_eq!(listed.all("Part").count(), 2);

    let body = |parts: &[(u32, &str)]| {
        let parts: String = parts
            .iter()
            .map(|(n, e)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>"))
            .collect();
        format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>").into_bytes()
    };
    let complete = format!("/k?uploadId={id}");
    let (first, end) = (sent.header("etag"), last.header("etag"));
    let refused = [
        (body(&[(2, &copied_etag), (1, first)]), "InvalidPartOrder"),
        (body(&[(1, "\"wrong\"")]), "InvalidPart"),
        (body(&[(3, first)]), "InvalidPart"),
        (b"<CompleteMultipartUpload/>".to_vec(), "MalformedXML"),
        (b"nonsense".to_vec(), "MalformedXML"),
    ];
    for (body, code) in refused {
        let got = send(&fake, "POST", &complete, &[], &body).await;
        assert_eq!((got.status, got.code().as_str()), (400, code));
    }
    fake.change(|o| o.part_bytes_min = 11);
    let all = body(&[(1, first), (2, &copied_etag), (7, end)]);
    let small = send(&fake, "POST", &complete, &[], &all).await;
    assert_eq!(small.code(), "EntityTooSmall");
    fake.change(|o| o.part_bytes_min = 10);
    fake.put("k", "other");
    let guarded = send(&fake, "POST", &complete, &[("if-none-match", "*")], &all).await;
    assert_eq!(guarded.status, 412);
    assert_eq!(fake.uploads().len(), 1);
    let done = send(&fake, "POST", &complete, &[], &all).await;
    let etag = done.xml().text_of("ETag").unwrap().to_string();
    assert!(etag.ends_with("-3\""), "{etag}");
    let mut want = b"0123456789".to_vec();
    want.extend_from_slice(&pattern(3, 100)[10..30]);
    want.push(b'z');
    assert_eq!(fake.data("k"), want);
    assert_eq!(fake.object("k").unwrap().metadata["a"], "b");
    assert_eq!(send(&fake, "POST", &complete, &[], &all).await.code(), "NoSuchUpload");
    assert!(fake.uploads().is_empty());
}

#[tokio::test]
async fn delete_many_and_copy() {
    let fake = open_fake();
    fake.put_many(["a&b", "c", "d\r"], "v");
    fake.make_undeletable("c");
    let body = b"<Delete><Object><Key>a&amp;b</Key></Object><Object><Key>c</Key></Object>\
                 <Object><Key>d&#13;</Key></Object></Delete>";
    let bare = send(&fake, "POST", "?delete", &[], body).await;
    assert_eq!(bare.code(), "InvalidRequest");
    let md5 = support::bytes::base64_of(&support::bytes::md5_of(body));
    let done = send(&fake, "POST", "?delete", &[("content-md5", &md5)], body).await.xml();
    assert_eq!(done.all("Deleted").count(), 2);
    assert_eq!(done.child("Error").unwrap().text_of("Key"), Some("c"));
    assert_eq!(fake.keys(), ["c"]);

    let copied = send(&fake, "PUT", "/e", &[("x-amz-copy-source", "bucket/c")], b"").await;
    assert_eq!(copied.status, 200);
    assert_eq!(fake.data("e"), "v");
    let onto_itself = send(&fake, "PUT", "/c", &[("x-amz-copy-source", "bucket/c")], b"").await;
    assert_eq!(onto_itself.code(), "InvalidRequest");
}

#[tokio::test]
async fn wrong_checksums_are_refused() {
    let fake = open_fake();
    // CRC-32C of "123456789" is e3069283 (RFC 3720, appendix B.4 uses the same polynomial).
    let right = support::bytes::base64_of(&0xe306_9283_u32.to_be_bytes());
    let ok = send(&fake, "PUT", "/k", &[("x-amz-checksum-crc32c", &right)], b"123456789").await;
    assert_eq!((ok.status, ok.header("x-amz-checksum-crc32c")), (200, right.as_str()));
    let bad = send(&fake, "PUT", "/k", &[("x-amz-checksum-crc32c", &right)], b"12345678").await;
    assert_eq!((bad.status, bad.code().as_str()), (400, "BadDigest"));
}

/// Signs as AWS's own crate does.
fn sign(mut request: Request, region: &str, secret: &str, at: SystemTime) -> Request {
    use aws_sigv4::http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    };
    let identity = aws_credential_types::Credentials::new(ACCESS_KEY, secret, None, None, "test").into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let params = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("s3")
        .time(at)
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let headers: Vec<(String, String)> =
        request.headers.iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_string())).collect();
    let body = request.body.concat();
    let signable = SignableRequest::new(
        request.method.as_str(),
        &request.url,
        headers.iter().map(|(k, v)| (k.as_str(), v.as_str())),
        SignableBody::Bytes(&body),
    )
    .unwrap();
    let (instructions, _) = sign(signable, &params).unwrap().into_parts();
    for (name, value) in instructions.headers() {
        request
            .headers
            .insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn signatures_of_awss_signer_are_taken_and_others_refused() {
    let fake = FakeS3::new();
    let now = SystemTime::now();
    let path = "/a%20%2B%25~%C3%A9/x?partNumber=1&uploadId=a%2Bb%2F%3D";
    let plain = || request("PUT", path, &[("x-amz-meta-b", "two  words")], b"body");
    let good = sign(plain(), "us-east-1", SECRET_KEY, now);
    // Past the signature: there is no such upload.
    assert_eq!(try_send(&fake, good.clone()).await.unwrap().code(), "NoSuchUpload");

    let refused = |request: Request| {
        let fake = fake.clone();
        async move { try_send(&fake, request).await.unwrap().code() }
    };
    assert_eq!(refused(plain()).await, "AccessDenied");
    let wrong_secret = sign(plain(), "us-east-1", "guess", now);
    assert_eq!(refused(wrong_secret).await, "SignatureDoesNotMatch");
    let mut other_query = good.clone();
    other_query.url = other_query.url.replace("partNumber=1", "partNumber=2");
    assert_eq!(refused(other_query).await, "SignatureDoesNotMatch");
    let mut other_body = good.clone();
    other_body.body = vec![Bytes::from_static(b"tampered")];
    assert_eq!(refused(other_body).await, "XAmzContentSHA256Mismatch");
    let mut unsigned_header = good.clone();
    unsigned_header.headers.insert("x-amz-acl", "public-read".parse().unwrap());
    assert_eq!(refused(unsigned_header).await, "AccessDenied");
    let old = sign(plain(), "us-east-1", SECRET_KEY, now - Duration::from_secs(16 * 60));
    assert_eq!(refused(old).await, "RequestTimeTooSkewed");
    let elsewhere = sign(plain(), "eu-west-1", SECRET_KEY, now);
    let got = try_send(&fake, elsewhere).await.unwrap();
    assert_eq!((got.status, got.header("x-amz-bucket-region")), (301, "us-east-1"));
}

#[tokio::test(start_paused = true)]
async fn faults_strike_as_planned() {
    let fake = open_fake();
    let data = pattern(4, 50_000);
    fake.put("k", data.clone());
    let faults = Faults::over(fake.transport());
    let get = || request("GET", "/k", &[], b"");
    let resets = faults.plan(On::op("GetObject").key("k").nth(2).once(), Fault::Reset { after: 20_000 });
    faults.plan(On::op("GetObject").nth(2).once(), Fault::Truncate { after: 30_000 });
    faults.plan(On::op("GetObject").nth(2).once(), Fault::Stall { after: 0 });
    faults.plan(On::op("PutObject").once(), Fault::AnswerLost);
    faults.plan(On::op("HeadObject"), Fault::SlowDown { retry_after: Some(3) });

    assert_eq!(try_send(&faults, get()).await.unwrap().body, data);
    let mut broken = faults.send(get()).await.unwrap();
    let mut seen = 0;
    let error = loop {
        match broken.body.next().await.expect("an error, not an end") {
            Ok(frame) => seen += frame.len(),
            Err(e) => break e,
        }
    };
    assert_eq!((seen, resets.fired()), (20_000, 1));
    assert!(matches!(error, TransportError::Lost(_)));
    let short = try_send(&faults, get()).await.unwrap();
    assert_eq!((short.header("content-length"), &short.body[..]), ("50000", &data[..30_000]));
    let stalled = tokio::time::timeout(Duration::from_secs(3600), try_send(&faults, get())).await;
    assert!(stalled.is_err(), "a stalled body must not end");
    assert_eq!(try_send(&faults, get()).await.unwrap().body, data);

    let lost = try_send(&faults, request("PUT", "/new", &[], b"v")).await;
    assert!(matches!(lost, Err(TransportError::Lost(_))));
    assert_eq!(fake.data("new"), "v");
    let slow = try_send(&faults, request("HEAD", "/k", &[], b"")).await.unwrap();
    assert_eq!((slow.status, slow.header("retry-after"), slow.body.len()), (503, "3", 0));

    let mut open = faults.send(get()).await.unwrap();
    open.body.next().await.unwrap().unwrap();
    faults.set_down(true);
    assert!(open.body.next().await.unwrap().is_err());
    assert!(matches!(try_send(&faults, get()).await, Err(TransportError::Connect(_))));
    faults.set_down(false);
    assert_eq!(try_send(&faults, get()).await.unwrap().body, data);
}
