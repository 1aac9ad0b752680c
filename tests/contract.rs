//! What the client and a server must agree on: one suite, run against the fake, and with the feature
//! `servers` against SeaweedFS and moto; each with pages of 2 and of 1,000 keys.
//! Where a server is known not to be S3, `support/ground.rs` says so, and the test asserts just that.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pailfs::error::{S3Error, S3ErrorKind};
use pailfs::s3::{CopySource, ObjectHeaders, Precondition, UploadedPart};
use support::bytes::{assert_same_bytes, etag_of, pattern};
use support::ground::{Behind, Difference, Ground, read};

/// S3's least part.
const PART: usize = 5 << 20;

fn none() -> ObjectHeaders {
    ObjectHeaders::default()
}

#[track_caller]
fn kind_of<T>(result: Result<T, S3Error>) -> S3ErrorKind {
    match result {
        Ok(_) => panic!("it went well, and should not"),
        Err(e) => e.kind,
    }
}

async fn objects_come_back_as_they_were_put(ground: &Ground) {
    for (i, size) in [0, 1, 100_000, PART + 1].into_iter().enumerate() {
        let key = ground.key(&format!("o{i}"));
        let data = pattern(i as u64, size);
        let headers = ObjectHeaders {
            content_type: Some("text/x-test".to_string()),
            metadata: vec![
                ("mode".to_string(), "33188".to_string()),
                ("mtime".to_string(), "1700000000.000000001".to_string()),
            ],
            ..Default::default()
        };
        // In chunks: a payload need not lie in one piece.
        let payload: Vec<Bytes> = data.chunks(30_000).map(Bytes::copy_from_slice).collect();
        let put = ground.client.put_object(&key, payload, &headers, &Precondition::None).await.unwrap();
        assert_eq!(put.etag, etag_of(&data), "{size} bytes");
        let head = ground.client.head_object(&key).await.unwrap();
        assert_eq!((head.size, &head.etag), (size as u64, &put.etag));
        assert_eq!(head.content_type.as_deref(), Some("text/x-test"));
        let mut metadata = head.metadata.clone();
        metadata.sort();
        assert_eq!(metadata, headers.metadata);
        let age = SystemTime::now().duration_since(head.last_modified).unwrap_or_default();
        assert!(age < Duration::from_secs(3600), "last modified {age:?} ago");
        let mut got = ground.client.get_object(&key, None, Some(&put.etag)).await.unwrap();
        assert_eq!((got.head.size, got.range.clone()), (size as u64, 0..size as u64));
        assert_eq!(got.head.etag, put.etag);
        let mut body = Vec::new();
        while let Some(frame) = got.body.frame().await.unwrap() {
            body.extend_from_slice(&frame);
        }
        assert_same_bytes(&body, &data, &key);
    }
}

/// Names that break encoders, signers and XML.
fn odd_names(ground: &Ground) -> Vec<String> {
    let mut names: Vec<String> = [
        "with space",
        " leading and trailing ",
        "plus+plus",
        "percent%20%2F%zz",
        "a&b<c>\"d'e;",
        "q?x=1#frag",
        "=:@$,!*()[]{}|^`~",
        "back\\slash",
        "tab\treturn\rbell\u{7}delete\u{7f}",
        "new\nline",
        "é combining e\u{301}",
        "日本語/ファイル",
        "🪣.txt",
        "dots...",
        "..two",
        "-dash_under.score~",
        "upper/UPPER",
    ]
    .map(str::to_string)
    .to_vec();
    names.push(format!("{0}/{0}/{0}/{0}", "x".repeat(240)));
    if ground.differs(Difference::NoNewlineInKeys) {
        names.retain(|n| !n.contains('\n'));
    }
    if ground.differs(Difference::BackslashIsSlash) {
        names.retain(|n| !n.contains('\\'));
    }
    names
}

async fn odd_keys_are_kept(ground: &Ground) {
    let mut want = Vec::new();
    for name in odd_names(ground) {
        let key = ground.key(&format!("odd/{name}"));
        ground.put(&key, format!("{name}!")).await;
        let head = ground.client.head_object(&key).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(head.size, name.len() as u64 + 1, "{name:?}");
        assert_eq!(ground.get(&key).await, format!("{name}!").as_bytes(), "{name:?}");
        let source = CopySource {
            bucket: ground.client.bucket().to_string(),
            key: key.clone(),
            if_match: None,
            ..Default::default()
        };
        let copy = ground.key(&format!("copy/{name}"));
        let copied = ground.client.copy_object(&source, &copy, None, &Precondition::None).await;
        copied.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ground.get(&copy).await, format!("{name}!").as_bytes(), "copy of {name:?}");
        want.push(format!("odd/{name}"));
    }
    let mut listed = ground.walk("odd/", false, None).await;
    listed.sort();
    want.sort();
    assert_eq!(listed, want);

    let one = ground.key(&format!("odd/{}", odd_names(ground)[0]));
    ground.client.delete_object(&one).await.unwrap();
    let rest: Vec<String> = want.iter().map(|n| ground.key(n)).collect();
    let refused = ground.client.delete_objects(&rest).await.unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(ground.walk("odd/", false, None).await, [""; 0]);
    assert_eq!(ground.walk("copy/", false, None).await.len(), odd_names(ground).len());
}

/// The differences that keep names out of [`odd_names`], proved.
async fn known_odd_keys_are_still_lost(ground: &Ground) {
    if ground.differs(Difference::NoNewlineInKeys) {
        let key = ground.key("new\nline");
        let put = ground.client.put_object(&key, vec![], &none(), &Precondition::None).await;
        assert_eq!(kind_of(put), S3ErrorKind::NoSuchKey);
    }
    if ground.differs(Difference::BackslashIsSlash) {
        ground.put(&ground.key("back\\slash"), "v").await;
        assert_eq!(ground.walk("", false, None).await, ["back/slash"]);
    }
}

async fn the_longest_key_is_kept(ground: &Ground) {
    // 1,024 bytes with the prefix, in segments that a path can hold.
    let mut name = "k/".to_string() + &format!("{}/", "y".repeat(200)).repeat(6);
    name.truncate(1024 - ground.prefix.len() - 1);
    let key = ground.key(&(name + "z"));
    assert_eq!(key.len(), 1024);
    ground.put(&key, "long").await;
    assert_eq!(ground.get(&key).await, b"long");
    let listed = ground.walk("k/", false, None).await;
    assert_eq!(listed, [key.strip_prefix(&ground.prefix).unwrap()]);
}

async fn ranges_are_cut_at_the_end(ground: &Ground) {
    let key = ground.key("r");
    let data = pattern(9, 70_000);
    ground.put(&key, data.clone()).await;
    for (from, to) in [(0, 1), (0, 70_000), (69_999, 70_000), (12_345, 54_321), (65_536, 1 << 40)] {
        let got = read(&ground.client, &key, Some(from..to)).await.unwrap();
        let end = to.min(70_000) as usize;
        assert_same_bytes(&got, &data[from as usize..end], &format!("{from}..{to}"));
    }
    let past = ground.client.get_object(&key, Some(70_000..70_001), None).await;
    assert_eq!(kind_of(past), S3ErrorKind::InvalidRange);
    let empty = ground.key("empty");
    ground.put(&empty, "").await;
    assert_eq!(read(&ground.client, &empty, Some(0..10)).await.unwrap(), b"");
    let beyond = ground.client.get_object(&empty, Some(5..10), None).await;
    assert_eq!(kind_of(beyond), S3ErrorKind::InvalidRange);
}

async fn a_get_is_pinned_by_etag(ground: &Ground) {
    let key = ground.key("pinned");
    let old = ground.put(&key, "old").await;
    ground.put(&key, "new").await;
    let whole = ground.client.get_object(&key, None, Some(&old)).await;
    assert_eq!(kind_of(whole), S3ErrorKind::PreconditionFailed);
    let part = ground.client.get_object(&key, Some(1..2), Some(&old)).await;
    assert_eq!(kind_of(part), S3ErrorKind::PreconditionFailed);
}

async fn puts_are_guarded(ground: &Ground) {
    let key = ground.key("guarded");
    let put = async |key: &str, data: &'static str, guard: &Precondition| {
        ground.client.put_object(key, vec![Bytes::from(data)], &none(), guard).await
    };
    let first = put(&key, "1", &Precondition::Absent).await.unwrap();
    let second = put(&key, "2", &Precondition::Absent).await;
    assert_eq!(kind_of(second), S3ErrorKind::PreconditionFailed);
    let over_first = Precondition::Etag(first.etag);
    put(&key, "3", &over_first).await.unwrap();
    assert_eq!(kind_of(put(&key, "4", &over_first).await), S3ErrorKind::PreconditionFailed);
    assert_eq!(ground.get(&key).await, b"3");
    let nothing_there = ground.key("nothing");
    let kind = kind_of(put(&nothing_there, "5", &over_first).await);
    // S3 says 404, others 412; nothing is written either way.
    assert!(matches!(kind, S3ErrorKind::NoSuchKey | S3ErrorKind::PreconditionFailed), "{kind:?}");
    assert_eq!(kind_of(ground.client.head_object(&nothing_there).await), S3ErrorKind::NoSuchKey);
}

async fn copies_keep_or_replace_metadata(ground: &Ground) {
    let from = ground.key("from +%é");
    let headers = ObjectHeaders {
        content_type: Some("text/a".to_string()),
        metadata: vec![("a".to_string(), "1".to_string())],
        ..Default::default()
    };
    let payload = vec![Bytes::from("copied")];
    let put = ground.client.put_object(&from, payload, &headers, &Precondition::None).await.unwrap();
    let source = |key: &str, if_match: Option<&str>| CopySource {
        bucket: ground.client.bucket().to_string(),
        key: key.to_string(),
        if_match: if_match.map(str::to_string),
        ..Default::default()
    };
    let to = ground.key("to");
    let kept = source(&from, Some(&put.etag));
    let copied = ground.client.copy_object(&kept, &to, None, &Precondition::None).await.unwrap();
    let head = ground.client.head_object(&to).await.unwrap();
    assert_eq!((head.size, &head.etag), (6, &copied.etag));
    assert_eq!(head.content_type.as_deref(), Some("text/a"));
    assert_eq!(head.metadata, headers.metadata);
    assert_eq!(ground.get(&to).await, b"copied");

    // Onto itself, which S3 takes only with new metadata: how chmod is done.
    let other = ObjectHeaders {
        content_type: Some("text/b".to_string()),
        metadata: vec![("b".to_string(), "2".to_string())],
        ..Default::default()
    };
    let onto = source(&to, None);
    ground.client.copy_object(&onto, &to, Some(&other), &Precondition::None).await.unwrap();
    let head = ground.client.head_object(&to).await.unwrap();
    assert_eq!(head.content_type.as_deref(), Some("text/b"));
    assert_eq!(head.metadata, other.metadata);
    assert_eq!(ground.get(&to).await, b"copied");

    let changed = source(&from, Some(&etag_of(b"another")));
    let refused = ground.client.copy_object(&changed, &to, None, &Precondition::None).await;
    if ground.differs(Difference::CopyIgnoresIfMatch) {
        refused.unwrap();
    } else {
        assert_eq!(kind_of(refused), S3ErrorKind::PreconditionFailed);
    }
    let missing = source(&ground.key("missing"), None);
    let refused = ground.client.copy_object(&missing, &to, None, &Precondition::None).await;
    assert_eq!(kind_of(refused), S3ErrorKind::NoSuchKey);
}

async fn what_is_not_there_is_said_so(ground: &Ground) {
    let key = ground.key("no such");
    let error = ground.client.get_object(&key, None, None).await.err().unwrap();
    assert_eq!((error.kind, error.operation), (S3ErrorKind::NoSuchKey, "GetObject"));
    assert_eq!((error.key.as_deref(), error.status), (Some(key.as_str()), Some(404)));
    assert_eq!((error.code.as_deref(), error.tries), (Some("NoSuchKey"), 1));
    assert_eq!(error.bucket, ground.client.bucket());
    let error = ground.client.head_object(&key).await.unwrap_err();
    assert_eq!((error.kind, error.operation), (S3ErrorKind::NoSuchKey, "HeadObject"));
    // S3 has no word against deleting nothing.
    ground.client.delete_object(&key).await.unwrap();
    let refused = ground.client.delete_objects(std::slice::from_ref(&key)).await.unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(ground.walk("no such", true, None).await, [""; 0]);

    let elsewhere = ground.client_with(None, |c| c.bucket = no_such_bucket());
    assert_eq!(kind_of(elsewhere.head_bucket().await), S3ErrorKind::NoSuchBucket);
    let listed = elsewhere.list_objects_v2(&Default::default()).await;
    assert_eq!(kind_of(listed), S3ErrorKind::NoSuchBucket);
    let put = elsewhere.put_object("k", vec![], &none(), &Precondition::None).await;
    if ground.differs(Difference::PutMakesBucket) {
        put.unwrap();
        elsewhere.head_bucket().await.unwrap();
    } else {
        assert_eq!(kind_of(put), S3ErrorKind::NoSuchBucket);
    }
    ground.client.head_bucket().await.unwrap();
}

fn no_such_bucket() -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    format!("pailfs-no-such-bucket-{}", SERIAL.fetch_add(1, Ordering::Relaxed))
}

async fn wrong_credentials_are_refused(ground: &Ground) {
    for credentials in [("AKIANOBODY0000000000", "secret"), (ground_key(ground), "wrong")] {
        let stranger = ground.client_with(Some(credentials), |_| ());
        let head = stranger.head_bucket().await;
        let put = stranger.put_object(&ground.key("k"), vec![], &none(), &Precondition::None).await;
        if ground.differs(Difference::TakesAnyCredentials) {
            head.unwrap();
            put.unwrap();
        } else {
            assert_eq!(kind_of(head), S3ErrorKind::AccessDenied);
            assert_eq!(kind_of(put), S3ErrorKind::AccessDenied);
        }
    }
}

/// An access key that the server knows.
fn ground_key(ground: &Ground) -> &'static str {
    match ground.behind {
        Behind::Fake => support::fake::ACCESS_KEY,
        #[cfg(feature = "servers")]
        _ => support::servers::ACCESS_KEY,
        #[cfg(not(feature = "servers"))]
        _ => unreachable!("only the fake without servers"),
    }
}

async fn multipart_puts_parts_and_copies_together(ground: &Ground) {
    let client = &ground.client;
    let key = ground.key("big +%é");
    let headers = ObjectHeaders {
        content_type: Some("video/x".to_string()),
        metadata: vec![("mtime".to_string(), "5".to_string())],
        ..Default::default()
    };
    let source_data = pattern(21, PART + 1000);
    let source_key = ground.key("source");
    let source_etag = ground.put(&source_key, source_data.clone()).await;
    let source = |if_match: &str| CopySource {
        bucket: client.bucket().to_string(),
        key: source_key.clone(),
        if_match: Some(if_match.to_string()),
        ..Default::default()
    };
    let id = client.create_multipart_upload(&key, &headers).await.unwrap();
    let first = pattern(22, PART);
    let tail = pattern(23, 17);
    // Out of order, as parts sent in parallel arrive; the second one twice.
    let part3 = client.upload_part(&key, &id, 3, vec![Bytes::from(tail.clone())]).await.unwrap();
    let chunks: Vec<Bytes> = first.chunks(1 << 20).map(Bytes::copy_from_slice).collect();
    let part1 = client.upload_part(&key, &id, 1, chunks).await.unwrap();
    client.upload_part(&key, &id, 2, vec![Bytes::from("replaced")]).await.unwrap();
    let copied = 500..500 + PART as u64;
    let part2 = client.upload_part_copy(&source(&source_etag), copied.clone(), &key, &id, 2).await.unwrap();

    let stale = client.upload_part_copy(&source(&etag_of(b"x")), copied, &key, &id, 4).await;
    if ground.differs(Difference::PartCopyIgnoresIfMatch) {
        stale.unwrap();
    } else {
        assert_eq!(kind_of(stale), S3ErrorKind::PreconditionFailed);
        let listed = client.list_parts(&key, &id, None).await.unwrap().parts;
        let mut sizes: Vec<(u32, u64)> = listed.iter().map(|p| (p.number, p.size)).collect();
        if ground.differs(Difference::ListsReplacedParts) {
            // Most often the earlier one is there as well, but not always.
            sizes.retain(|part| *part != (2, 8));
        }
        assert_eq!(sizes, [(1, PART as u64), (2, PART as u64), (3, 17)]);
        assert_eq!(bare(&listed.last().unwrap().etag), bare(&part3.etag));
        let after = client.list_parts(&key, &id, Some(2)).await.unwrap().parts;
        assert_eq!(after.iter().map(|p| p.number).collect::<Vec<_>>(), [3]);
    }
    let under_way = client.list_multipart_uploads(&ground.prefix, None).await.unwrap().uploads;
    let ids: Vec<&str> = under_way.iter().map(|u| u.upload_id.as_str()).collect();
    assert_eq!(ids, [id.as_str()]);
    if ground.differs(Difference::UploadsAreListedRaw) {
        assert_ne!(under_way[0].key, key, "it encodes the key after all");
    } else {
        assert_eq!(under_way[0].key, key);
    }
    assert_eq!(kind_of(client.head_object(&key).await), S3ErrorKind::NoSuchKey);

    let parts = [part1, part2, part3];
    let done = client.complete_multipart_upload(&key, &id, &parts, &Precondition::Absent).await.unwrap();
    assert!(done.etag.ends_with("-3\""), "{}", done.etag);
    let head = client.head_object(&key).await.unwrap();
    assert_eq!((head.size, &head.etag), (2 * PART as u64 + 17, &done.etag));
    assert_eq!(head.content_type.as_deref(), Some("video/x"));
    assert_eq!(head.metadata, headers.metadata);
    let want = [&first[..], &source_data[500..500 + PART], &tail[..]].concat();
    assert_same_bytes(&ground.get(&key).await, &want, &key);
    let under_way = client.list_multipart_uploads(&ground.prefix, None).await.unwrap().uploads;
    assert!(under_way.is_empty(), "{under_way:?}");
}

fn bare(etag: &str) -> &str {
    etag.trim_matches('"')
}

/// An upload of one small part, not completed.
async fn begun(ground: &Ground, key: &str, data: &'static str) -> (String, Vec<UploadedPart>) {
    let id = ground.client.create_multipart_upload(key, &none()).await.unwrap();
    let part = ground.client.upload_part(key, &id, 1, vec![Bytes::from(data)]).await.unwrap();
    (id, vec![part])
}

async fn completes_are_guarded(ground: &Ground) {
    let client = &ground.client;
    let key = ground.key("k");
    let old = ground.put(&key, "old").await;
    let (id, parts) = begun(ground, &key, "new").await;
    let absent = client.complete_multipart_upload(&key, &id, &parts, &Precondition::Absent).await;
    assert_eq!(kind_of(absent), S3ErrorKind::PreconditionFailed);
    let (id, parts) = begun(ground, &key, "new").await;
    let other = Precondition::Etag(etag_of(b"other"));
    let refused = client.complete_multipart_upload(&key, &id, &parts, &other).await;
    if ground.differs(Difference::CompleteIgnoresIfMatch) {
        refused.unwrap();
        assert_eq!(ground.get(&key).await, b"new");
        return;
    }
    assert_eq!(kind_of(refused), S3ErrorKind::PreconditionFailed);
    assert_eq!(ground.get(&key).await, b"old");
    let (id, parts) = begun(ground, &key, "new").await;
    client.complete_multipart_upload(&key, &id, &parts, &Precondition::Etag(old)).await.unwrap();
    assert_eq!(ground.get(&key).await, b"new");
}

async fn uploads_are_aborted(ground: &Ground) {
    let client = &ground.client;
    let key = ground.key("k");
    let (id, parts) = begun(ground, &key, "x").await;
    client.abort_multipart_upload(&key, &id).await.unwrap();
    let listed = client.list_multipart_uploads(&ground.prefix, None).await.unwrap();
    assert!(listed.uploads.is_empty(), "{:?}", listed.uploads);
    // A server error is tried again until the time is up; here that need not be long.
    let hurried = ground.client_with(None, |c| c.request_timeout = Duration::from_secs(2));
    let client = if ground.differs(Difference::NoSuchUploadIs500) { &hurried } else { client };
    let late = client.upload_part(&key, &id, 2, vec![Bytes::from("y")]).await;
    let completed = client.complete_multipart_upload(&key, &id, &parts, &Precondition::None).await;
    for kind in [kind_of(late), kind_of(completed)] {
        if ground.differs(Difference::NoSuchUploadIs500) {
            assert_eq!(kind, S3ErrorKind::Unavailable);
        } else {
            assert_eq!(kind, S3ErrorKind::NoSuchKey);
        }
    }
    assert_eq!(kind_of(client.head_object(&key).await), S3ErrorKind::NoSuchKey);
}

/// Names around `/` in the order of bytes: `!` and `-` sort before it, `0` after.
const TRAP: [&str; 12] =
    ["d!x", "d-0000", "d-0001", "d-0002", "d-0003", "d/1", "d/2/deep", "d0", "e", "f/1", "f/2", "g"];

async fn listings_are_whole_whatever_the_pages(ground: &Ground) {
    for name in TRAP {
        ground.put(&ground.key(name), "v").await;
    }
    let all = ground.walk("", false, None).await;
    let mut in_key_order = all.clone();
    in_key_order.sort();
    assert_eq!(in_key_order, TRAP, "each once, none missing");
    let mut root = ground.walk("", true, None).await;
    root.sort();
    let top = ["d!x", "d-0000", "d-0001", "d-0002", "d-0003", "d/", "d0", "e", "f/", "g"];
    assert_eq!(root, top);
    let mut within = ground.walk("d/", true, None).await;
    within.sort();
    assert_eq!(within, ["d/1", "d/2/"]);
    let mut dashes = ground.walk("d-", true, None).await;
    dashes.sort();
    assert_eq!(dashes, ["d-0000", "d-0001", "d-0002", "d-0003"]);
    let mut after = ground.walk("", false, Some("d-0002")).await;
    after.sort();
    if ground.differs(Difference::ListsByComponent) {
        assert_ne!(all, in_key_order, "it lists in the order of keys after all");
        assert_eq!(after, ["d-0003", "d0", "e", "f/1", "f/2", "g"]);
    } else {
        assert_eq!(all, in_key_order);
        assert_eq!(after, ["d-0003", "d/1", "d/2/deep", "d0", "e", "f/1", "f/2", "g"]);
    }
}

async fn a_file_and_a_directory_of_one_name(ground: &Ground) {
    ground.put(&ground.key("a"), "file").await;
    ground.put(&ground.key("a-0"), "between").await;
    ground.put(&ground.key("a/x"), "within").await;
    ground.put(&ground.key("m/"), "").await;
    let mut root = ground.walk("", true, None).await;
    root.sort();
    assert_eq!(root, ["a", "a-0", "a/", "m/"]);
    assert_eq!(ground.walk("m/", true, None).await, ["m/"], "the marker itself");
    let bucket = ground.client.bucket().to_string();
    let marker = CopySource { bucket, key: ground.key("m/"), ..CopySource::default() };
    let copied = ground.client.copy_object(&marker, &ground.key("n/"), None, &Precondition::None).await;
    if ground.differs(Difference::MarkersAreNotCopied) {
        assert_eq!(copied.unwrap_err().kind, S3ErrorKind::NoSuchKey);
    } else {
        assert_eq!(ground.walk("n/", true, None).await, ["n/"], "its copy");
    }
    for key in ["t/", "t/u/", "t/u/x", "w/", "w/u/", "w/u/x"] {
        ground.put(&ground.key(key), "").await;
    }
    for keys in [["t/", "t/u/", "t/u/x"], ["w/u/x", "w/u/", "w/"]] {
        let keys = keys.map(|key| ground.key(key));
        assert!(ground.client.delete_objects(&keys).await.unwrap().is_empty());
    }
    let stays = ground.differs(Difference::EarlyMarkersStay);
    assert_eq!(ground.walk("t/", true, None).await, if stays { &["t/u/"][..] } else { &[] });
    assert!(ground.walk("w/", true, None).await.is_empty());
    assert_eq!(ground.get(&ground.key("a")).await, b"file");
    assert_eq!(ground.get(&ground.key("a/x")).await, b"within");
}

async fn a_prefix_goes_with_its_last_key(ground: &Ground) {
    ground.put(&ground.key("p/x"), "within").await;
    ground.client.delete_object(&ground.key("p/x")).await.unwrap();
    assert!(ground.walk("p/", false, None).await.is_empty(), "there is no marker");
    let (above, marker) =
        (ground.walk("", true, None).await, ground.client.head_object(&ground.key("p/")).await);
    if ground.differs(Difference::EmptiedPrefixesStay) {
        assert_eq!((above, marker.unwrap().size), (vec!["p/".to_string()], 0));
    } else {
        assert!(above.is_empty());
        assert_eq!(marker.unwrap_err().kind, S3ErrorKind::NoSuchKey);
    }
}

async fn listings_tell_size_etag_and_time(ground: &Ground) {
    let key = ground.key("o");
    let etag = ground.put(&key, "12345").await;
    let query = pailfs::s3::ListObjectsV2 { prefix: ground.prefix.clone(), ..Default::default() };
    let page = ground.client.list_objects_v2(&query).await.unwrap();
    let [object] = &page.contents[..] else { panic!("{page:?}") };
    assert_eq!((object.key.as_str(), object.size), (key.as_str(), 5));
    assert_eq!(object.etag, etag);
    let head = ground.client.head_object(&key).await.unwrap();
    let apart = object.last_modified.duration_since(head.last_modified).unwrap_or_else(|e| e.duration());
    assert!(apart < Duration::from_secs(2), "listing and head are {apart:?} apart");
    assert_eq!((page.undecodable, page.next_continuation_token), (0, None));
}

async fn max_keys_is_the_callers_choice(ground: &Ground) {
    for name in ["a", "b", "c"] {
        ground.put(&ground.key(name), "v").await;
    }
    let mut query =
        pailfs::s3::ListObjectsV2 { prefix: ground.prefix.clone(), max_keys: Some(1), ..Default::default() };
    let mut keys = Vec::new();
    for _ in 0..4 {
        let page = ground.client.list_objects_v2(&query).await.unwrap();
        assert!(page.contents.len() <= 1);
        keys.extend(page.contents.into_iter().map(|o| o.key));
        query.continuation_token = page.next_continuation_token;
        if query.continuation_token.is_none() {
            break;
        }
    }
    assert_eq!(keys, ["a", "b", "c"].map(|n| ground.key(n)));
}

/// The suite on one ground.
macro_rules! on {
    ($ground:ident, $make:expr) => {
        on!($ground, $make,
            objects_come_back_as_they_were_put
            odd_keys_are_kept
            known_odd_keys_are_still_lost
            the_longest_key_is_kept
            ranges_are_cut_at_the_end
            a_get_is_pinned_by_etag
            puts_are_guarded
            copies_keep_or_replace_metadata
            what_is_not_there_is_said_so
            wrong_credentials_are_refused
            multipart_puts_parts_and_copies_together
            completes_are_guarded
            uploads_are_aborted
            listings_are_whole_whatever_the_pages
            a_file_and_a_directory_of_one_name
            a_prefix_goes_with_its_last_key
            listings_tell_size_etag_and_time
            max_keys_is_the_callers_choice
        );
    };
    ($ground:ident, $make:expr, $($test:ident)*) => {
        mod $ground {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(&$make).await;
                }
            )*
        }
    };
}

on!(fake_pages_of_1000, Ground::on_fake(1000));
on!(fake_pages_of_2, Ground::on_fake(2));
#[cfg(feature = "servers")]
use support::servers::Kind;
#[cfg(feature = "servers")]
on!(seaweedfs_pages_of_1000, Ground::on_server(Kind::SeaweedFs, 1000).await);
#[cfg(feature = "servers")]
on!(seaweedfs_pages_of_2, Ground::on_server(Kind::SeaweedFs, 2).await);
#[cfg(feature = "servers")]
on!(moto_pages_of_1000, Ground::on_server(Kind::Moto, 1000).await);
#[cfg(feature = "servers")]
on!(moto_pages_of_2, Ground::on_server(Kind::Moto, 2).await);
