//! Versions as keys, and a client of a moment: which requests they take.

use std::time::SystemTime;

use super::*;
use crate::key::past;

/// A page of versions: key, id, year, and whether it is a delete marker.
fn versions(entries: &[(&str, &str, u32, bool)], next: Option<(&str, &str)>) -> Result<Step, TransportError> {
    let mut body = String::from("<ListVersionsResult>");
    for (key, id, year, deleted) in entries {
        let (name, object) = match deleted {
            true => ("DeleteMarker", String::new()),
            false => ("Version", format!("<ETag>\"{id}\"</ETag><Size>{year}</Size>")),
        };
        body.push_str(&format!(
            "<{name}><Key>{key}</Key><VersionId>{id}</VersionId><IsLatest>false</IsLatest>\
             <LastModified>{year}-01-01T00:00:00.000Z</LastModified>{object}</{name}>"
        ));
    }
    if let Some((key, id)) = next {
        body.push_str(&format!(
            "<IsTruncated>true</IsTruncated><NextKeyMarker>{key}</NextKeyMarker>\
             <NextVersionIdMarker>{id}</NextVersionIdMarker>"
        ));
    }
    Ok(answer(200, &[], &format!("{body}</ListVersionsResult>")))
}

fn year(year: i32) -> SystemTime {
    time::Date::from_calendar_date(year, time::Month::June, 1).unwrap().midnight().assume_utc().into()
}

fn queries(script: &Script) -> Vec<String> {
    script.asked().into_iter().map(|request| request.url.split_once('?').unwrap().1.to_string()).collect()
}

#[tokio::test]
async fn what_was_current_is_found_across_pages_and_asked_for_by_its_id() {
    let (client, script) = scripted(
        None,
        [
            versions(&[("a", "a3", 2023, false), ("a", "a2", 2021, false)], Some(("a", "a2"))),
            // The rest of a key of which all is known, a key that was deleted then, one that came later.
            versions(
                &[
                    ("a", "a1", 2020, false),
                    ("b", "b2", 2021, true),
                    ("b", "b1", 2020, false),
                    ("c", "c1", 2023, false),
                ],
                None,
            ),
            Ok(answer(
                206,
                &[("etag", "\"a2\""), ("content-range", "bytes 0-3/2021"), ("last-modified", MODIFIED)],
                "four",
            )),
        ],
    );
    let then = client.as_of(year(2022));
    let mut query = ListObjectsV2::default();
    let first = then.list_objects_v2(&query).await.unwrap();
    let told: Vec<_> = first.contents.iter().map(|o| (o.key.as_str(), o.etag.as_str(), o.size)).collect();
    assert_eq!(told, [("a", "\"a2\"@a2", 2021)]);
    query.continuation_token = first.next_continuation_token;
    let last = then.list_objects_v2(&query).await.unwrap();
    assert!(last.contents.is_empty() && last.next_continuation_token.is_none(), "{last:?}");
    let got = then.get_object("a", Some(0..4), Some("\"a2\"@a2")).await.unwrap();
    assert_eq!(got.head.etag, "\"a2\"@a2");
    let queries = queries(&script);
    assert!(
        queries[1].contains("key-marker=a&") && queries[1].contains("version-id-marker=a2"),
        "{queries:?}"
    );
    assert_eq!(queries[2], "versionId=a2");
    assert_eq!(script.header(2, "if-match").unwrap(), "\"a2\"");
}

#[tokio::test]
async fn a_head_of_a_moment_asks_for_few_versions_first() {
    let head = [("etag", "\"v2\""), ("content-length", "2020"), ("last-modified", MODIFIED)];
    let (client, script) = scripted(
        None,
        [
            versions(&[("k", "v3", 2023, false)], Some(("k", "v3"))),
            versions(&[("k", "v2", 2020, false), ("k2", "x", 2020, false)], None),
            Ok(answer(200, &head, "")),
            versions(&[("gone", "m", 2020, true), ("gone", "v", 2019, false)], None),
        ],
    );
    let then = client.as_of(year(2022));
    assert_eq!(then.head_object("k").await.unwrap().etag, "\"v2\"@v2");
    assert_eq!(then.head_object("gone").await.unwrap_err().kind, S3ErrorKind::NoSuchKey);
    let queries = queries(&script);
    assert!(queries[0].contains("max-keys=10&") && queries[1].contains("max-keys=1000&"), "{queries:?}");
    assert_eq!(queries.len(), 4);
}

#[tokio::test]
async fn versions_that_are_shown_are_bounded() {
    let ids: Vec<String> = (0..1000).map(|id| format!("{id:04}")).collect();
    let page: Vec<_> = ids.iter().map(|id| ("d/f", id.as_str(), 2020, false)).collect();
    let pages = (0..11).map(|at| versions(&page, Some(("d/f", if at % 2 == 0 { "x" } else { "y" }))));
    let (client, script) = scripted(None, pages);
    let prefix = format!("{}f/", past::names_key("d/"));
    let query = ListObjectsV2 { prefix, delimiter: true, ..Default::default() };
    let page = client.list_objects_v2(&query).await.unwrap();
    assert_eq!((page.contents.len(), script.asked().len()), (10_000, 10));
    assert_eq!(page.next_continuation_token, None);
    // Whether there are any is one small question.
    let query = ListObjectsV2 { max_keys: Some(1), ..query };
    assert_eq!(client.list_objects_v2(&query).await.unwrap().contents.len(), 1);
    assert!(queries(&script)[10].contains("max-keys=1&"));
}

#[tokio::test]
async fn what_cannot_be_a_version_costs_no_request() {
    let (client, script) = scripted(None, []);
    for key in ["\0versions/f", "d/\0versions/f/no-version", "d/\0versions/f/"] {
        assert_eq!(client.head_object(key).await.unwrap_err().kind, S3ErrorKind::NoSuchKey, "{key:?}");
    }
    assert!(script.asked().is_empty());
}
