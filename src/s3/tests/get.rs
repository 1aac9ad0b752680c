//! Bodies that break, stall, change or are not what was asked for.

use super::*;

/// An answer to a range of an object of 10 bytes, whose body is `frames`.
fn part(range: &str, etag: &str, frames: Vec<Result<Bytes, TransportError>>) -> Step {
    let range = format!("bytes {range}/10");
    let headers = [("etag", etag), ("last-modified", MODIFIED), ("content-range", &range)];
    Step { frames, ..answer(206, &headers, "") }
}

async fn read(mut got: GetObject) -> R<Vec<u8>> {
    let mut out = Vec::new();
    while let Some(frame) = got.body.frame().await? {
        out.extend_from_slice(&frame);
    }
    Ok(out)
}

#[tokio::test(start_paused = true)]
async fn a_body_goes_on_where_it_broke_and_is_pinned() {
    let steps = [
        Ok(part("2-7", "\"v1\"", vec![Ok("23".into()), Err(lost())])),
        Ok(error(503, "SlowDown")),
        Ok(part("4-7", "\"v1\"", vec![Ok("4".into())])),
        Ok(Step { stall: true, ..part("5-7", "\"v1\"", vec![Ok("5".into())]) }),
        Ok(part("6-7", "\"v1\"", vec![Ok("67".into())])),
    ];
    let (client, script) = scripted(HTTP, steps);
    let got = client.get_object("k", Some(2..8), None).await.unwrap();
    assert_eq!((got.range.clone(), got.head.size), (2..8, 10));
    assert_eq!(read(got).await.unwrap(), b"234567");
    let ranges: Vec<_> = (0..5).map(|at| script.header(at, "range").unwrap()).collect();
    assert_eq!(ranges, ["bytes=2-7", "bytes=4-7", "bytes=4-7", "bytes=5-7", "bytes=6-7"]);
    assert_eq!(script.header(0, "if-match"), None);
    assert_eq!(script.header(4, "if-match").unwrap(), "\"v1\"");
}

#[tokio::test(start_paused = true)]
async fn a_body_never_mixes_versions() {
    let broken = || Ok(part("0-9", "\"v1\"", vec![Ok("01".into()), Err(lost())]));
    let changed = part("2-9", "\"v2\"", vec![Ok("xx".into())]);
    for second in [error(412, "PreconditionFailed"), changed] {
        let (client, _) = scripted(HTTP, [broken(), Ok(second)]);
        let got = client.get_object("k", None, None).await.unwrap();
        assert_eq!(read(got).await.unwrap_err().kind, S3ErrorKind::PreconditionFailed);
    }
    let ignored = part("0-9", "\"v2\"", vec![]);
    let (client, _) = scripted(HTTP, [Ok(ignored)]);
    let e = client.get_object("k", None, Some("\"v1\"")).await.err().unwrap();
    assert_eq!(e.kind, S3ErrorKind::PreconditionFailed);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stays_away_fails_within_the_timeout() {
    let stalled = || Ok(Step { stall: true, ..part("0-9", "\"v\"", vec![]) });
    let (client, _) = scripted(HTTP, (0..20).map(|_| stalled()));
    let got = client.get_object("k", None, None).await.unwrap();
    let began = tokio::time::Instant::now();
    let e = read(got).await.unwrap_err();
    assert_eq!(e.kind, S3ErrorKind::Unavailable, "{e}");
    assert!(began.elapsed() <= Duration::from_secs(31), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn wrong_ranges_are_malformed() {
    let whole = [("etag", "\"v\""), ("last-modified", MODIFIED), ("content-length", "10")];
    for step in [
        answer(200, &whole, "0123456789"),
        part("3-7", "\"v\"", vec![]),
        part("2-6", "\"v\"", vec![]),
        answer(206, &whole, ""),
        answer(200, &[], ""),
    ] {
        let (client, _) = scripted(HTTP, [Ok(step)]);
        let e = client.get_object("k", Some(2..8), None).await.err().unwrap();
        assert_eq!(e.kind, S3ErrorKind::Malformed, "{e}");
    }
    let (client, _) = scripted(HTTP, [Ok(answer(200, &whole, "0123456789"))]);
    let got = client.get_object("k", Some(0..100), None).await.unwrap();
    assert_eq!(read(got).await.unwrap(), b"0123456789");
    let (client, _) = scripted(HTTP, [Ok(part("2-7", "\"v\"", vec![Ok("2345678".into())]))]);
    let got = client.get_object("k", Some(2..8), None).await.unwrap();
    assert_eq!(read(got).await.unwrap_err().kind, S3ErrorKind::Malformed);
}

#[tokio::test(start_paused = true)]
async fn a_range_of_an_empty_object_is_empty() {
    let headers = [("etag", "\"e\""), ("last-modified", MODIFIED), ("content-length", "0")];
    let steps = [Ok(error(416, "InvalidRange")), Ok(answer(200, &headers, ""))];
    let (client, _) = scripted(HTTP, steps);
    let got = client.get_object("k", Some(0..5), None).await.unwrap();
    assert_eq!((got.range.clone(), got.head.size), (0..0, 0));
    assert_eq!(read(got).await.unwrap(), b"");
    let (client, _) = scripted(HTTP, [Ok(error(416, "InvalidRange"))]);
    let e = client.get_object("k", Some(5..9), None).await.err().unwrap();
    assert_eq!(e.kind, S3ErrorKind::InvalidRange);
}
