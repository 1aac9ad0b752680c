//! The client against a server and a network that fail: what heals, what is told, and that nothing hangs.
//!
//! The clock is paused: it jumps to the next timer whenever all wait, so a back-off of a minute costs
//! nothing, and every time-out is exact. The one bound in each test is [`bounded`], against hanging.

mod support;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use pailfs::error::{S3Error, S3ErrorKind};
use pailfs::s3::{CopySource, ListObjectsV2, ObjectHeaders, Precondition, S3Client, UploadedPart, Written};
use support::bytes::{assert_same_bytes, etag_of, pattern};
use support::fake::{Options, SECRET_KEY, WrongRegion, client_over};
use support::ground::read;
use support::{FakeS3, Fault, Faults, On};
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A fake server, faults before it, and a client before those.
fn setup() -> (FakeS3, Faults, S3Client) {
    let fake = FakeS3::with(Options { part_bytes_min: 4, ..Options::default() });
    let faults = Faults::over(fake.transport());
    let config = pailfs::config::S3Config { request_timeout: TIMEOUT, ..fake.config() };
    let client = client_over(faults.transport(), &config);
    (fake, faults, client)
}

/// Fails the test where the future is still pending after an hour of the paused clock.
async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), future).await.expect("it must not hang")
}

#[track_caller]
fn kind_of<T>(result: Result<T, S3Error>) -> S3ErrorKind {
    match result {
        Ok(_) => panic!("it went well, and should not"),
        Err(e) => e.kind,
    }
}

async fn put(
    client: &S3Client,
    key: &str,
    data: &'static str,
    guard: &Precondition,
) -> Result<Written, S3Error> {
    client.put_object(key, vec![Bytes::from(data)], &ObjectHeaders::default(), guard).await
}

fn source(key: &str) -> CopySource {
    CopySource {
        bucket: support::fake::BUCKET.to_string(),
        key: key.to_string(),
        if_match: None,
        ..Default::default()
    }
}

/// What passes, so that a client must try again.
fn passing() -> Vec<(&'static str, Fault)> {
    vec![
        ("connect", Fault::Connect),
        ("time-out", Fault::Timeout),
        ("answer lost", Fault::AnswerLost),
        ("hang", Fault::Hang),
        ("503", Fault::SlowDown { retry_after: None }),
        ("503 later", Fault::SlowDown { retry_after: Some(2) }),
        ("500", Fault::Error { status: 500, code: "InternalError" }),
        ("502", Fault::Error { status: 502, code: "BadGateway" }),
        ("504", Fault::Error { status: 504, code: "GatewayTimeout" }),
        ("429", Fault::Error { status: 429, code: "TooManyRequests" }),
        ("400 late", Fault::Error { status: 400, code: "RequestTimeout" }),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_tried_again_for_every_operation() {
    for (name, fault) in passing() {
        // A write may take all of its time for one try, so that hanging is not healed: see below.
        let hangs = name == "hang";
        for op in [
            "HeadBucket",
            "ListObjectsV2",
            "HeadObject",
            "GetObject",
            "PutObject",
            "CopyObject",
            "DeleteObject",
            "DeleteObjects",
            "CreateMultipartUpload",
            "UploadPart",
            "UploadPartCopy",
            "CompleteMultipartUpload",
            "AbortMultipartUpload",
            "ListParts",
            "ListMultipartUploads",
        ] {
            let (fake, faults, client) = setup();
            fake.put("k", "value");
            let reads = op.starts_with("Head") || op.starts_with("Get") || op.starts_with("List");
            if hangs && !reads {
                continue;
            }
            // The answer to a HEAD has no body, so a 400 does not say that it may pass.
            if name == "400 late" && op.starts_with("Head") {
                continue;
            }
            let line = faults.plan(On::op(op).once(), fault.clone());
            bounded(all_operations(&client)).await.unwrap_or_else(|e| panic!("{name} at {op}: {e}"));
            assert_eq!(line.fired(), 1, "{name} at {op}");
            assert_eq!(fake.data("copied"), "value", "{name} at {op}");
            assert_eq!(fake.data("whole"), "partsvalue", "{name} at {op}");
            // CreateMultipartUpload whose answer was lost leaves an upload that nobody knows.
            let orphans = usize::from(name == "answer lost" && op == "CreateMultipartUpload");
            assert_eq!(fake.uploads().len(), orphans, "{name} at {op}");
            assert!(fake.object("gone").is_none() && fake.object("gone too").is_none(), "{name} at {op}");
        }
    }
}

/// Each operation once, on a bucket that holds `k`.
async fn all_operations(client: &S3Client) -> Result<(), S3Error> {
    client.head_bucket().await?;
    assert_eq!(client.list_objects_v2(&ListObjectsV2::default()).await?.contents.len(), 1);
    assert_eq!(client.head_object("k").await?.size, 5);
    assert_eq!(read(client, "k", None).await?, b"value");
    put(client, "gone", "x", &Precondition::None).await?;
    put(client, "gone too", "x", &Precondition::None).await?;
    client.copy_object(&source("k"), "copied", None, &Precondition::None).await?;
    client.delete_object("gone").await?;
    assert!(client.delete_objects(&["gone too".to_string()]).await?.is_empty());
    let id = client.create_multipart_upload("whole", &ObjectHeaders::default()).await?;
    let first = client.upload_part("whole", &id, 1, vec![Bytes::from("parts")]).await?;
    let second = client.upload_part_copy(&source("k"), 0..5, "whole", &id, 2).await?;
    assert_eq!(client.list_parts("whole", &id, None).await?.parts.len(), 2);
    let under_way = client.list_multipart_uploads("", None).await?.uploads;
    assert!(under_way.iter().any(|u| u.upload_id == id));
    client.complete_multipart_upload("whole", &id, &[first, second], &Precondition::None).await?;
    let id = client.create_multipart_upload("never", &ObjectHeaders::default()).await?;
    client.abort_multipart_upload("never", &id).await
}

#[tokio::test(start_paused = true)]
async fn an_error_within_a_200_is_an_error() {
    for op in ["CompleteMultipartUpload", "CopyObject", "DeleteObjects"] {
        let (fake, faults, client) = setup();
        fake.put("k", "value");
        let line = faults.plan(On::op(op).times(2), Fault::ErrorIn200 { code: "InternalError" });
        bounded(all_operations(&client)).await.unwrap_or_else(|e| panic!("{op}: {e}"));
        assert_eq!(line.fired(), 2, "{op}");

        let (fake, faults, client) = setup();
        fake.put("k", "value");
        faults.plan(On::op(op), Fault::ErrorIn200 { code: "InternalError" });
        let error = bounded(all_operations(&client)).await.expect_err("never a success");
        assert_eq!((error.operation, error.kind), (op, S3ErrorKind::Unavailable));
        assert_eq!(error.code.as_deref(), Some("InternalError"));
        assert!(error.tries > 1, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for() {
    let (fake, faults, client) = setup();
    fake.put("k", "value");
    faults.plan(On::op("HeadObject").once(), Fault::SlowDown { retry_after: Some(7) });
    let begun = Instant::now();
    client.head_object("k").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(7), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_gone_is_told_within_the_timeout() {
    for fault in [Fault::Connect, Fault::Hang, Fault::AnswerHangs, Fault::SlowDown { retry_after: None }] {
        let (fake, faults, client) = setup();
        fake.put("k", "value");
        faults.plan(On::any(), fault);
        for op in ["get", "put", "list"] {
            let begun = Instant::now();
            let error = bounded(async {
                match op {
                    "get" => read(&client, "k", None).await.err(),
                    "put" => put(&client, "new", "v", &Precondition::None).await.err(),
                    _ => client.list_objects_v2(&ListObjectsV2::default()).await.err(),
                }
            })
            .await
            .expect("no success without a server");
            assert_eq!(error.kind, S3ErrorKind::Unavailable, "{op}: {error}");
            let took = begun.elapsed();
            assert!(took <= TIMEOUT + Duration::from_secs(1), "{op} took {took:?}: {error}");
            assert!(error.tries <= 10, "{error}");
        }
        // And when it is back, all goes on.
        let (fake, faults, client) = setup();
        fake.put("k", "value");
        faults.set_down(true);
        assert_eq!(kind_of(read(&client, "k", None).await), S3ErrorKind::Unavailable);
        faults.set_down(false);
        assert_eq!(read(&client, "k", None).await.unwrap(), b"value");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_away_midway_is_told_and_comes_back() {
    let (fake, faults, client) = setup();
    let data = pattern(1, 200_000);
    fake.put("k", data.clone());
    let mut got = client.get_object("k", None, None).await.unwrap();
    let mut body = got.body.frame().await.unwrap().unwrap().to_vec();
    faults.set_down(true);
    let begun = Instant::now();
    let error = bounded(async {
        loop {
            match got.body.frame().await {
                Ok(Some(frame)) => body.extend_from_slice(&frame),
                Ok(None) => panic!("a body without its end"),
                Err(e) => break e,
            }
        }
    })
    .await;
    assert_eq!(error.kind, S3ErrorKind::Unavailable);
    assert!(begun.elapsed() <= TIMEOUT + Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_same_bytes(&body, &data[..body.len()], "what came before");
    faults.set_down(false);
    assert_same_bytes(&read(&client, "k", None).await.unwrap(), &data, "when it is back");
}

#[tokio::test(start_paused = true)]
async fn a_broken_body_goes_on_where_it_stopped() {
    let data = pattern(2, 100_000);
    let breaks = [
        ("reset", Fault::Reset { after: 40_000 }),
        ("truncated", Fault::Truncate { after: 40_000 }),
        ("stalled", Fault::Stall { after: 40_000 }),
        ("reset before the first byte", Fault::Reset { after: 0 }),
        ("truncated before the first byte", Fault::Truncate { after: 0 }),
    ];
    for (name, fault) in breaks {
        for range in [None, Some(1_000..90_000)] {
            let (fake, faults, client) = setup();
            let etag = fake.put("k", data.clone());
            let line = faults.plan(On::op("GetObject").once(), fault.clone());
            let got = bounded(read(&client, "k", range.clone())).await;
            let got = got.unwrap_or_else(|e| panic!("{name}: {e}"));
            let want = range.clone().unwrap_or(0..100_000);
            assert_same_bytes(&got, &data[want.start as usize..want.end as usize], name);
            assert_eq!((line.fired(), fake.count("GetObject")), (1, 2), "{name}");
            // Not what was had already, and of the same version.
            let again = &fake.calls()[1].headers;
            let after = if name.contains("first byte") { 0 } else { 40_000 };
            let expected = format!("bytes={}-{}", want.start + after, want.end - 1);
            assert_eq!(again["range"], expected.as_str(), "{name}");
            assert_eq!(again["if-match"], etag.as_str(), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_body_never_mixes_two_versions() {
    let (fake, faults, client) = setup();
    let old = pattern(3, 100_000);
    fake.put("k", old.clone());
    faults.plan(On::op("GetObject").once(), Fault::Reset { after: 40_000 });
    let other = fake.clone();
    let meanwhile = Fault::meanwhile(move || {
        other.put("k", pattern(4, 100_000));
    });
    faults.plan(On::op("GetObject").once(), meanwhile);
    let mut got = client.get_object("k", None, None).await.unwrap();
    let mut body = Vec::new();
    let error = bounded(async {
        loop {
            match got.body.frame().await {
                Ok(Some(frame)) => body.extend_from_slice(&frame),
                Ok(None) => panic!("a body of two versions"),
                Err(e) => break e,
            }
        }
    })
    .await;
    assert_eq!(error.kind, S3ErrorKind::PreconditionFailed, "{error}");
    assert_same_bytes(&body, &old[..40_000], "what came before the change");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_often_but_moves_comes_to_its_end() {
    let (fake, faults, client) = setup();
    let data = pattern(5, 400_000);
    fake.put("k", data.clone());
    // 25 breaks: more than one operation has tries.
    let line = faults.plan(On::op("GetObject"), Fault::Reset { after: 16_000 });
    assert_same_bytes(&bounded(read(&client, "k", None)).await.unwrap(), &data, "k");
    assert!(line.fired() >= 25, "{}", line.fired());
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_not_a_dead_one() {
    let (fake, faults, client) = setup();
    let data = pattern(6, 20 * 16_384);
    fake.put("k", data.clone());
    let line = faults.plan(On::op("GetObject"), Fault::Slow { pause: Duration::from_secs(4) });
    let begun = Instant::now();
    assert_same_bytes(&bounded(read(&client, "k", None)).await.unwrap(), &data, "k");
    assert!(begun.elapsed() > 2 * TIMEOUT, "the body was not slow: {:?}", begun.elapsed());
    assert_eq!(line.fired(), 1, "asked for again though it moved");
}

#[tokio::test(start_paused = true)]
async fn the_right_region_is_learnt_once() {
    for wrong_region in [WrongRegion::Redirect, WrongRegion::Malformed] {
        for first in ["HeadBucket", "GetObject", "PutObject"] {
            let fake = FakeS3::with(Options { wrong_region, ..Options::default() });
            fake.create_bucket("far", "ap-southeast-2");
            let far = fake.within("far");
            far.put("k", "value");
            let client = client_over(fake.transport(), &far.config());
            match first {
                "HeadBucket" => client.head_bucket().await.unwrap(),
                "GetObject" => assert_eq!(read(&client, "k", None).await.unwrap(), b"value"),
                _ => drop(put(&client, "new", "v", &Precondition::Absent).await.unwrap()),
            }
            client.head_object("k").await.unwrap();
            put(&client, "again", "v", &Precondition::None).await.unwrap();
            let refused = fake.calls().iter().filter(|c| matches!(c.status, 301 | 400)).count();
            assert_eq!(refused, 1, "{wrong_region:?}, {first} first");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn regions_that_send_us_round_in_circles_end() {
    let (_fake, faults, client) = setup();
    faults.plan(On::any().nth(1).once(), Fault::Redirect { region: "eu-west-1" });
    let line = faults.plan(On::any(), Fault::Redirect { region: "us-east-1" });
    faults.plan(On::any(), Fault::Redirect { region: "eu-west-1" });
    let kind = kind_of(bounded(client.head_bucket()).await);
    assert!(matches!(kind, S3ErrorKind::WrongRegion | S3ErrorKind::Refused), "{kind:?}");
    assert!(line.fired() >= 1 && faults.calls() < 10, "{} calls", faults.calls());
}

#[tokio::test(start_paused = true)]
async fn expired_credentials_without_others_are_told_at_once() {
    let (fake, faults, client) = setup();
    fake.put("k", "value");
    let line = faults.plan(On::any(), Fault::ExpiredToken);
    let error = bounded(client.get_object("k", None, None)).await.err().unwrap();
    assert_eq!((error.kind, error.code.as_deref()), (S3ErrorKind::AccessDenied, Some("ExpiredToken")));
    assert!(line.fired() <= 2, "tried {} times with the same keys", line.fired());
}

#[tokio::test(start_paused = true)]
async fn the_servers_clock_is_learnt() {
    let (fake, _faults, client) = setup();
    fake.change(|o| o.clock_ahead = Duration::from_secs(3 * 3600));
    put(&client, "k", "v", &Precondition::None).await.unwrap();
    client.head_object("k").await.unwrap();
    client.head_object("k").await.unwrap();
    let refused = fake.calls().iter().filter(|c| c.status == 403).count();
    assert_eq!((refused, fake.calls().len()), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn a_guarded_put_whose_answer_was_lost_is_ours() {
    let (fake, faults, client) = setup();
    let line = faults.plan(On::op("PutObject").once(), Fault::AnswerLost);
    let written = bounded(put(&client, "k", "mine", &Precondition::Absent)).await.unwrap();
    assert_eq!((written.etag, line.fired()), (etag_of(b"mine"), 1));

    // Another host's object in its place is no success of ours.
    let line = faults.plan(On::op("PutObject").key("k2").once(), Fault::Timeout);
    let other = fake.clone();
    let meanwhile = Fault::meanwhile(move || {
        other.put("k2", "theirs");
    });
    faults.plan(On::op("PutObject").key("k2").once(), meanwhile);
    let lost = bounded(put(&client, "k2", "mine", &Precondition::Absent)).await;
    assert_eq!(kind_of(lost), S3ErrorKind::PreconditionFailed);
    assert_eq!((fake.data("k2"), line.fired()), (Bytes::from("theirs"), 1));

    let edited = Precondition::Etag(etag_of(b"mine"));
    faults.plan(On::op("PutObject").key("k").once(), Fault::AnswerLost);
    let written = bounded(put(&client, "k", "edited", &edited)).await.unwrap();
    assert_eq!((written.etag, fake.data("k")), (etag_of(b"edited"), Bytes::from("edited")));
}

async fn begun(client: &S3Client, key: &str) -> (String, Vec<UploadedPart>) {
    let id = client.create_multipart_upload(key, &ObjectHeaders::default()).await.unwrap();
    let part = client.upload_part(key, &id, 1, vec![Bytes::from("parts")]).await.unwrap();
    (id, vec![part])
}

#[tokio::test(start_paused = true)]
async fn a_complete_whose_answer_was_lost_is_ours() {
    for guard in [Precondition::None, Precondition::Absent] {
        let (fake, faults, client) = setup();
        let (id, parts) = begun(&client, "k").await;
        let line = faults.plan(On::op("CompleteMultipartUpload").once(), Fault::AnswerLost);
        let written = bounded(client.complete_multipart_upload("k", &id, &parts, &guard)).await.unwrap();
        assert_eq!(line.fired(), 1);
        assert_eq!(written.etag, fake.object("k").unwrap().etag);

        // Gone for another reason, it is no success: somebody aborted it, and another object is there.
        fake.put("other", "theirs");
        let (id, parts) = begun(&client, "other").await;
        faults.plan(On::op("CompleteMultipartUpload").key("other").once(), Fault::Timeout);
        client.abort_multipart_upload("other", &id).await.unwrap();
        let lost = bounded(client.complete_multipart_upload("other", &id, &parts, &guard)).await;
        assert!(matches!(kind_of(lost), S3ErrorKind::NoSuchKey | S3ErrorKind::PreconditionFailed));
        assert_eq!(fake.data("other"), "theirs");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_of_s3s_is_an_error() {
    let mut bombs = String::from("<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\">");
    for (from, to) in ["a", "b", "c", "d", "e", "f", "g"].iter().zip(["b", "c", "d", "e", "f", "g", "h"]) {
        bombs += &format!("<!ENTITY {to} \"{}\">", format!("&{from};").repeat(10));
    }
    bombs += "]><ListBucketResult><Contents><Key>&h;</Key><Size>1</Size></Contents></ListBucketResult>";
    let garbage: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", b"".to_vec()),
        ("html", b"<html><body>Log in to the hotel's network<br></body></html>".to_vec()),
        ("cut", b"<?xml version=\"1.0\"?><ListBucketResult><Contents><Key>a</Ke".to_vec()),
        ("binary", pattern(7, 5_000)),
        ("entities", bombs.into_bytes()),
        ("an entity", b"<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><ListBucketResult><Contents><Key>&e;</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag><Size>1</Size></Contents></ListBucketResult>".to_vec()),
        ("a size that is none", b"<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>".to_vec()),
        ("truncated without a token", b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>".to_vec()),
        ("another document", b"<ListPartsResult><IsTruncated>false</IsTruncated></ListPartsResult>".to_vec()),
    ];
    for (name, body) in garbage {
        let (_fake, faults, client) = setup();
        faults.plan(On::op("ListObjectsV2"), Fault::garbage(body));
        let listed = bounded(client.list_objects_v2(&ListObjectsV2::default())).await;
        let kind = match listed {
            Ok(page) => panic!("{name}: taken for a listing: {page:?}"),
            Err(e) => e.kind,
        };
        assert!(matches!(kind, S3ErrorKind::Malformed | S3ErrorKind::Unavailable), "{name}: {kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_ranges_or_pins_is_found_out() {
    let (fake, faults, client) = setup();
    let data = pattern(8, 1_000);
    fake.put("k", data.clone());
    let whole = |etag: &str| Fault::Answer {
        status: 200,
        headers: vec![
            ("etag", etag.to_string()),
            ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT".to_string()),
        ],
        body: Bytes::from(data.clone()),
    };
    let ignored_range = faults.plan(On::op("GetObject").once(), whole("\"e\""));
    assert_eq!(kind_of(client.get_object("k", Some(10..20), None).await), S3ErrorKind::Malformed);
    assert_eq!(ignored_range.fired(), 1);
    faults.plan(On::op("GetObject").once(), whole("\"e\""));
    let other = client.get_object("k", None, Some("\"pinned\"")).await;
    assert_eq!(kind_of(other), S3ErrorKind::PreconditionFailed);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_not_tried_again() {
    let (fake, faults, client) = setup();
    let missing = client.get_object("none", None, None).await.err().unwrap();
    assert_eq!((missing.kind, missing.tries), (S3ErrorKind::NoSuchKey, 1));
    fake.put("k", "value");
    let line = faults.plan(On::any(), Fault::Error { status: 403, code: "AccessDenied" });
    let denied = put(&client, "k", "v", &Precondition::None).await.unwrap_err();
    assert_eq!((denied.kind, denied.tries, line.fired()), (S3ErrorKind::AccessDenied, 1, 1));
    assert_eq!(denied.request_id.as_deref(), Some("INJECTED"));
    assert_eq!(denied.host_id.as_deref(), Some("injectedHostId"));
    line.lift();
    let refused = faults
        .plan(On::method(On::any(), Method::PUT), Fault::Error { status: 400, code: "InvalidArgument" });
    assert_eq!(kind_of(put(&client, "k", "v", &Precondition::None).await), S3ErrorKind::Refused);
    assert_eq!(refused.fired(), 1);
    assert_eq!(fake.data("k"), "value");
}

#[tokio::test(start_paused = true)]
async fn deletions_tell_what_was_refused_and_try_what_may_pass() {
    let (fake, faults, client) = setup();
    let names: Vec<String> = (0..1000).map(|n| format!("k{n:04}")).collect();
    fake.put_many(&names, "v");
    fake.make_undeletable("k0007");
    let passing = "<DeleteResult><Error><Key>k0003</Key><Code>InternalError</Code>\
                   <Message>later</Message></Error></DeleteResult>";
    let line = faults.plan(On::op("DeleteObjects").once(), Fault::garbage(passing));
    let failures = bounded(client.delete_objects(&names)).await.unwrap();
    // The injected answer said that all but k0003 were done, so only that one is sent again.
    assert_eq!((line.fired(), failures.len()), (1, 0));
    assert!(fake.object("k0003").is_none() && fake.object("k0004").is_some());
    let failures = bounded(client.delete_objects(&names)).await.unwrap();
    let keys: Vec<&str> = failures.iter().filter_map(|e| e.key.as_deref()).collect();
    assert_eq!(keys, ["k0007"]);
    assert_eq!((failures[0].kind, failures[0].operation), (S3ErrorKind::AccessDenied, "DeleteObjects"));
    assert!(failures[0].request_id.is_some(), "{}", failures[0]);
    assert_eq!(fake.keys(), ["k0007"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_delete_objects_is_asked_once() {
    for (status, code) in [(501, "NotImplemented"), (405, "MethodNotAllowed")] {
        let (fake, faults, client) = setup();
        let line = faults.plan(On::op("DeleteObjects"), Fault::Error { status, code });
        let names: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
        for _ in 0..2 {
            fake.put_many(&names, "v");
            fake.make_undeletable("k7");
            let failures = bounded(client.delete_objects(&names)).await.unwrap();
            assert_eq!((failures.len(), failures[0].key.as_deref()), (1, Some("k7")), "{code}");
            assert_eq!(fake.keys(), ["k7"], "{code}");
        }
        assert_eq!(line.fired(), 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn secrets_are_not_in_errors() {
    let (_fake, faults, client) = setup();
    faults.plan(On::any(), Fault::Error { status: 403, code: "SignatureDoesNotMatch" });
    let error = put(&client, "k", "v", &Precondition::None).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains(SECRET_KEY) && !text.to_lowercase().contains("signature="), "{text}");
    assert_eq!(error.kind, S3ErrorKind::AccessDenied);
}
