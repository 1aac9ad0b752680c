//! Operations on whole objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str};

use super::super::bytes as sums;
use super::super::call::Call;
use super::super::xml::{self, leaf};
use super::answer::{Answer, Refusal};
use super::listing::iso;
use super::store::Object;
use super::{Bucket, Guards, Incoming, State, auth};

/// Headers that S3 keeps with an object, besides `x-amz-meta-*`.
const KEPT: [&str; 11] = [
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "cache-control",
    "expires",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-bucket-key-enabled",
];
/// Those of them that a copy never has from its source: it is as its own request says.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html>
const APART: std::ops::RangeFrom<usize> = 6..;
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html>
const METADATA_BYTES_MAX: usize = 2048;

type Kept = (BTreeMap<String, String>, BTreeMap<String, String>);

/// The headers and the metadata that a request gives a new object.
pub fn kept_headers(incoming: &Incoming) -> Result<Kept, Refusal> {
    let mut headers = BTreeMap::new();
    let mut metadata = BTreeMap::new();
    for (name, value) in incoming.headers {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if let Some(meta) = name.as_str().strip_prefix("x-amz-meta-") {
            metadata.insert(meta.to_string(), text);
        } else if KEPT.contains(&name.as_str()) {
            headers.insert(name.as_str().to_string(), text);
        }
    }
    let bytes: usize = metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(Refusal::new(
            400,
            "MetadataTooLarge",
            "Your metadata headers exceed the maximum allowed metadata size",
        ));
    }
    Ok((headers, metadata))
}

pub fn same_etag(a: &str, b: &str) -> bool {
    a.trim_matches('"') == b.trim_matches('"')
}

/// `If-Match` and `If-None-Match` on a write.
pub fn check_guards(
    guards: Guards,
    bucket: &Bucket,
    call: &Call,
    incoming: &Incoming,
) -> Result<(), Refusal> {
    let if_match = incoming.header("if-match");
    let if_none_match = incoming.header("if-none-match");
    if if_match.is_none() && if_none_match.is_none() || guards == Guards::Ignored {
        return Ok(());
    }
    let not_implemented = Refusal::new(
        501,
        "NotImplemented",
        "A header you provided implies functionality that is not implemented",
    );
    if guards == Guards::Refused || if_none_match.is_some_and(|v| v != "*") {
        return Err(not_implemented);
    }
    match (bucket.get(&call.key_bytes), if_match) {
        (Some(_), _) if if_none_match.is_some() => Err(Refusal::precondition("If-None-Match")),
        (None, Some(_)) => Err(Refusal::no_such_key(&call.key())),
        (Some(object), Some(etag)) if !same_etag(&object.etag, etag) => {
            Err(Refusal::precondition("If-Match"))
        }
        _ => Ok(()),
    }
}

pub fn get_object(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let bucket = state.bucket(call)?;
    let object = bucket.get(&call.key_bytes).ok_or_else(|| Refusal::no_such_key(&call.key()))?.clone();
    if let Some(etag) = incoming.header("if-match")
        && etag != "*"
        && !same_etag(etag, &object.etag)
    {
        return Err(Refusal::precondition("If-Match"));
    }
    if let Some(etag) = incoming.header("if-none-match")
        && same_etag(etag, &object.etag)
    {
        return Err(Refusal::new(304, "NotModified", "Not Modified"));
    }
    if call.op == "GetObject" {
        refuse_archived(&object)?;
    }
    let size = object.data.len();
    let range = incoming.header("range").map(|text| parse_range(text, size));
    let mut answer = match range {
        None | Some(Asked::Ignored) => {
            let mut answer = Answer::empty(200);
            answer.body = object.data.clone();
            // Told of a whole object only, as S3 does.
            if incoming.header("x-amz-checksum-mode") == Some("ENABLED")
                && let Some(sum) = auth::checksum("CRC64NVME", &object.data)
            {
                answer.set("x-amz-checksum-crc64nvme", &sum);
                answer.set("x-amz-checksum-type", "FULL_OBJECT");
            }
            answer
        }
        Some(Asked::Outside) => {
            let mut refusal = Refusal::new(416, "InvalidRange", "The requested range is not satisfiable");
            refusal.extra = leaf("ActualObjectSize", &size.to_string());
            refusal.headers.push(("content-range", format!("bytes */{size}")));
            return Err(refusal);
        }
        Some(Asked::Bytes(from, to)) => {
            let mut answer = Answer::empty(206);
            answer.body = object.data.slice(from..to);
            answer.with("content-range", &format!("bytes {from}-{}/{size}", to - 1))
        }
    };
    answer.set("content-length", &answer.body.len().to_string());
    if call.op == "HeadObject" {
        answer.body.clear();
    }
    describe(&mut answer, &object);
    Ok(answer)
}

/// Archived contents cannot be had, unless a copy was restored.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html>
fn refuse_archived(object: &Object) -> Result<(), Refusal> {
    let class = object.headers.get("x-amz-storage-class").map_or("STANDARD", String::as_str);
    let restored =
        object.headers.get("x-amz-restore").is_some_and(|r| r.contains("ongoing-request=\"false\""));
    if !matches!(class, "GLACIER" | "DEEP_ARCHIVE") || restored {
        return Ok(());
    }
    let text = "The operation is not valid for the object's storage class";
    let mut refusal = Refusal::new(403, "InvalidObjectState", text);
    refusal.extra = leaf("StorageClass", class);
    Err(refusal)
}

const GRANTS_OF_THE_OWNER: &str =
    "<Grant><Grantee><ID>owner</ID></Grantee><Permission>FULL_CONTROL</Permission></Grant>";

pub fn get_object_acl(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    let object = state.bucket(call)?.get(&call.key_bytes);
    let object = object.ok_or_else(|| Refusal::no_such_key(&call.key()))?;
    let grants = object.grants.as_deref().unwrap_or(GRANTS_OF_THE_OWNER);
    let mut answer = Answer::empty(200);
    answer.body = format!(
        "<AccessControlPolicy><Owner><ID>owner</ID></Owner><AccessControlList>{grants}</AccessControlList>\
         </AccessControlPolicy>"
    )
    .into();
    Ok(answer)
}

pub fn put_object_acl(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let text = String::from_utf8_lossy(&incoming.body).into_owned();
    let grants = text.split_once("<AccessControlList>").and_then(|(_, rest)| rest.split_once("</Acc"));
    let object = state.bucket(call)?.get_mut(&call.key_bytes);
    let object = object.ok_or_else(|| Refusal::no_such_key(&call.key()))?;
    let malformed = || Refusal::new(400, "MalformedACLError", "The XML you provided was not well-formed");
    object.grants = Some(grants.ok_or_else(malformed)?.0.to_string());
    Ok(Answer::empty(200))
}

pub fn tags_asked(incoming: &Incoming) -> String {
    incoming.header("x-amz-tagging").unwrap_or_default().to_string()
}

pub fn get_object_tagging(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    let object = state.bucket(call)?.get(&call.key_bytes);
    let object = object.ok_or_else(|| Refusal::no_such_key(&call.key()))?;
    let text = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pairs = object.tags.split('&').filter_map(|pair| pair.split_once('='));
    let tags = pairs
        .map(|(key, value)| format!("<Tag>{}{}</Tag>", leaf("Key", &text(key)), leaf("Value", &text(value))));
    Ok(Answer::xml("Tagging", &format!("<TagSet>{}</TagSet>", tags.collect::<String>())))
}

pub fn put_object_tagging(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let root = std::str::from_utf8(&incoming.body).ok().and_then(xml::parse);
    let root = root.filter(|root| root.name == "Tagging").ok_or_else(Refusal::malformed_xml)?;
    let set = root.child("TagSet").ok_or_else(Refusal::malformed_xml)?;
    let escaped = |text: &str| percent_encoding::utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs = set.all("Tag").map(|tag| {
        let text = |name| escaped(tag.text_of(name).unwrap_or_default());
        format!("{}={}", text("Key"), text("Value"))
    });
    let tags = pairs.collect::<Vec<_>>().join("&");
    let object = state.bucket(call)?.get_mut(&call.key_bytes);
    object.ok_or_else(|| Refusal::no_such_key(&call.key()))?.tags = tags;
    Ok(Answer::empty(200))
}

pub fn delete_object_tagging(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    let object = state.bucket(call)?.get_mut(&call.key_bytes);
    object.ok_or_else(|| Refusal::no_such_key(&call.key()))?.tags.clear();
    Ok(Answer::empty(204))
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_RestoreObject.html>
pub fn restore_object(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    let bucket = state.bucket(call)?;
    let object = bucket.get(&call.key_bytes).ok_or_else(|| Refusal::no_such_key(&call.key()))?;
    if object.headers.get("x-amz-restore").is_some_and(|r| r.contains("ongoing-request=\"true\"")) {
        return Err(Refusal::new(409, "RestoreAlreadyInProgress", "Object restore is already in progress"));
    }
    if refuse_archived(object).is_ok() {
        return Err(Refusal::new(403, "InvalidObjectState", "Restore is not allowed for the storage class"));
    }
    bucket.change(&call.key_bytes, "x-amz-restore", "ongoing-request=\"true\"");
    Ok(Answer::empty(202))
}

fn describe(answer: &mut Answer, object: &Object) {
    answer.set("accept-ranges", "bytes");
    answer.set("etag", &object.etag);
    answer.set("last-modified", &httpdate::fmt_http_date(object.last_modified));
    answer.set("content-type", object.content_type());
    // S3 encrypts all that it keeps.
    answer.set("x-amz-server-side-encryption", "AES256");
    if !object.tags.is_empty() {
        answer.set("x-amz-tagging-count", &object.tags.split('&').count().to_string());
    }
    for (name, value) in &object.headers {
        // As S3 does: the class is not named where it is the default.
        if name != "x-amz-storage-class" || value != "STANDARD" {
            answer.set(name, value);
        }
    }
    for (name, value) in &object.metadata {
        answer.set(&format!("x-amz-meta-{name}"), value);
    }
}

enum Asked {
    Bytes(usize, usize),
    Outside,
    /// Not a range as RFC 9110 has it: answered whole.
    Ignored,
}

fn parse_range(text: &str, size: usize) -> Asked {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Asked::Ignored;
    };
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(from), Ok(last)) if from <= last => {
            if from >= size {
                Asked::Outside
            } else {
                Asked::Bytes(from, size.min(last + 1))
            }
        }
        (Ok(from), Err(_)) if last.is_empty() => {
            if from >= size {
                Asked::Outside
            } else {
                Asked::Bytes(from, size)
            }
        }
        (Err(_), Ok(tail)) if first.is_empty() => {
            if size == 0 || tail == 0 {
                Asked::Outside
            } else {
                Asked::Bytes(size.saturating_sub(tail), size)
            }
        }
        _ => Asked::Ignored,
    }
}

pub fn put_object(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let (headers, metadata) = kept_headers(incoming)?;
    let bare = state.options.bare_markers && call.key_bytes.ends_with(b"/");
    let guards = state.options.guards;
    let now = state.now();
    let bucket = state.bucket(call)?;
    check_guards(guards, bucket, call, incoming)?;
    let mut object = Object::new(incoming.body.clone(), now);
    object.headers = headers;
    object.metadata = if bare { BTreeMap::new() } else { metadata };
    object.tags = tags_asked(incoming);
    let mut answer = Answer::empty(200).with("etag", &object.etag);
    auth::repeat_checksum(&mut answer, incoming);
    bucket.put(&call.key_bytes, Arc::new(object));
    Ok(answer)
}

/// The source of a copy, with `x-amz-copy-source-if-match` kept.
pub fn copy_source(state: &State, incoming: &Incoming) -> Result<(String, Vec<u8>, Arc<Object>), Refusal> {
    let text = incoming.header("x-amz-copy-source").unwrap_or_default();
    // S3 undoes URL encoding here, `+` for a space included.
    let text = text.replace('+', " ");
    let (text, _version) = text.split_once('?').unwrap_or((&text, ""));
    let decoded: Vec<u8> = percent_decode_str(text).collect();
    let path = decoded.strip_prefix(b"/").unwrap_or(&decoded);
    let at = path
        .iter()
        .position(|&b| b == b'/')
        .ok_or_else(|| Refusal::invalid_argument("Invalid copy source object key"))?;
    let (name, key) = (String::from_utf8_lossy(&path[..at]).into_owned(), path[at + 1..].to_vec());
    let bucket = state
        .buckets
        .get(&name)
        .ok_or_else(|| Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist"))?;
    let object = bucket.get(&key).ok_or_else(|| Refusal::no_such_key(&String::from_utf8_lossy(&key)))?;
    if let Some(etag) = incoming.header("x-amz-copy-source-if-match")
        && !same_etag(etag, &object.etag)
    {
        return Err(Refusal::precondition("x-amz-copy-source-If-Match"));
    }
    refuse_archived(object)?;
    Ok((name, key, object.clone()))
}

pub fn copy_object(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let (source_bucket, source_key, source) = copy_source(state, incoming)?;
    if source.size() > state.options.copy_bytes_max {
        return Err(Refusal::invalid_request(
            "The specified copy source is larger than the maximum allowable size for a copy source",
        ));
    }
    let replace = match incoming.header("x-amz-metadata-directive") {
        None | Some("COPY") => false,
        Some("REPLACE") => true,
        Some(_) => return Err(Refusal::invalid_argument("Unknown metadata directive.")),
    };
    if !replace && source_bucket == call.bucket && source_key == call.key_bytes {
        return Err(Refusal::invalid_request(
            "This copy request is illegal because it is trying to copy an object to itself without \
             changing the object's metadata, storage class, website redirect location or encryption \
             attributes.",
        ));
    }
    let (asked, asked_metadata) = kept_headers(incoming)?;
    let (headers, metadata) = if replace {
        (asked, asked_metadata)
    } else {
        let mut headers = source.headers.clone();
        for name in &KEPT[APART] {
            headers.remove(*name);
            headers.extend(asked.get(*name).map(|value| (name.to_string(), value.clone())));
        }
        (headers, source.metadata.clone())
    };
    let guards = state.options.guards;
    let now = state.now();
    let bucket = state.bucket(call)?;
    check_guards(guards, bucket, call, incoming)?;
    // A copy is whole again: its ETag is an MD5, whatever the source's was.
    let mut object = Object::new(source.data.clone(), now);
    object.headers = headers;
    object.metadata = metadata;
    object.tags = match incoming.header("x-amz-tagging-directive") {
        Some("REPLACE") => tags_asked(incoming),
        _ => source.tags.clone(),
    };
    let inner = leaf("LastModified", &iso(now)) + &leaf("ETag", &object.etag);
    bucket.put(&call.key_bytes, Arc::new(object));
    Ok(Answer::xml("CopyObjectResult", &inner))
}

pub fn delete_object(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let guards = state.options.guards;
    let denied = state.undeletable.contains(&call.key_bytes);
    let bucket = state.bucket(call)?;
    if denied {
        return Err(Refusal::new(403, "AccessDenied", "Access Denied"));
    }
    if incoming.header("if-match").is_some() {
        check_guards(guards, bucket, call, incoming)?;
    }
    bucket.remove(&call.key_bytes);
    Ok(Answer::empty(204))
}

pub fn delete_objects(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let md5 = incoming.header("content-md5");
    if md5.is_none() && !auth::has_checksum(incoming) {
        return Err(Refusal::invalid_request(
            "Missing required header for this request: Content-MD5 OR x-amz-checksum-*",
        ));
    }
    if md5.is_some_and(|sum| sum != sums::base64_of(&sums::md5_of(&incoming.body))) {
        return Err(Refusal::new(400, "BadDigest", "The Content-MD5 you specified did not match"));
    }
    let root = std::str::from_utf8(&incoming.body).ok().and_then(xml::parse);
    let root = root.filter(|r| r.name == "Delete").ok_or_else(Refusal::malformed_xml)?;
    let quiet = root.text_of("Quiet") == Some("true");
    let keys: Vec<String> = root
        .all("Object")
        .map(|o| o.text_of("Key").map(str::to_string))
        .collect::<Option<_>>()
        .ok_or_else(Refusal::malformed_xml)?;
    if keys.is_empty() || keys.len() > 1000 {
        return Err(Refusal::malformed_xml());
    }
    let undeletable = state.undeletable.clone();
    let bucket = state.bucket(call)?;
    let mut out = String::new();
    for key in keys {
        if undeletable.contains(key.as_bytes()) {
            let error = leaf("Key", &key) + &leaf("Code", "AccessDenied") + &leaf("Message", "Access Denied");
            out += &format!("<Error>{error}</Error>");
        } else {
            bucket.remove(key.as_bytes());
            if !quiet {
                out += &format!("<Deleted>{}</Deleted>", leaf("Key", &key));
            }
        }
    }
    Ok(Answer::xml("DeleteResult", &out))
}
