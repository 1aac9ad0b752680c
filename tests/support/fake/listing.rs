//! ListObjectsV2 and ListMultipartUploads.

use std::time::SystemTime;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::super::call::Call;
use super::super::xml::{escape, leaf};
use super::answer::{Answer, Refusal};
use super::store::Position;
use super::{HOST_ID, State};

/// What S3 leaves bare under `encoding-type=url`; a space becomes `+`.
const LEFT_BARE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/').remove(b' ');

/// A key as `encoding-type` has it.
fn encoded(key: &[u8], url: bool) -> String {
    if url {
        percent_encode(key, LEFT_BARE).to_string().replace(' ', "+")
    } else {
        String::from_utf8_lossy(key).into_owned()
    }
}

fn by_url(call: &Call) -> Result<bool, Refusal> {
    match call.param("encoding-type") {
        None => Ok(false),
        Some("url") => Ok(true),
        Some(_) => Err(Refusal::invalid_argument("Invalid Encoding Method specified in Request")),
    }
}

pub fn number(call: &Call, name: &str, default: usize) -> Result<usize, Refusal> {
    match call.param(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| {
            Refusal::invalid_argument(&format!("Provided {name} not an integer or within integer range"))
        }),
    }
}

pub fn list_objects_v2(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    let url = by_url(call)?;
    let asked = number(call, "max-keys", 1000)?;
    let max = asked.min(state.options.page_keys_max);
    let prefix = call.param("prefix").unwrap_or_default();
    let delimiter = call.param("delimiter").unwrap_or_default();
    let after = match (call.param("continuation-token"), call.param("start-after")) {
        (Some(token), _) => Some(
            Position::parse(token)
                .ok_or_else(|| Refusal::invalid_argument("The continuation token provided is incorrect"))?,
        ),
        (None, Some(key)) => Some(Position::Key(key.as_bytes().to_vec())),
        (None, None) => None,
    };
    let name = call.bucket.clone();
    let bucket = state.bucket(call)?;
    let page = bucket.list(prefix.as_bytes(), delimiter.as_bytes(), after.as_ref(), max);

    let mut out = leaf("Name", &name);
    out += &leaf("Prefix", &encoded(prefix.as_bytes(), url));
    if !delimiter.is_empty() {
        out += &leaf("Delimiter", &encoded(delimiter.as_bytes(), url));
    }
    out += &leaf("MaxKeys", &asked.min(1000).to_string());
    out += &leaf("KeyCount", &(page.contents.len() + page.common_prefixes.len()).to_string());
    out += &leaf("IsTruncated", if page.next.is_some() { "true" } else { "false" });
    if url {
        out += &leaf("EncodingType", "url");
    }
    if let Some(token) = call.param("continuation-token") {
        out += &leaf("ContinuationToken", token);
    }
    if let Some(next) = &page.next {
        out += &leaf("NextContinuationToken", &next.token());
    }
    if let Some(key) = call.param("start-after") {
        out += &leaf("StartAfter", &encoded(key.as_bytes(), url));
    }
    for (key, object) in &page.contents {
        out += "<Contents>";
        out += &leaf("Key", &encoded(key, url));
        out += &leaf("LastModified", &iso(object.last_modified));
        out += &leaf("ETag", &object.etag);
        out += &leaf("Size", &object.size().to_string());
        let class = object.headers.get("x-amz-storage-class").map_or("STANDARD", String::as_str);
        out += &leaf("StorageClass", class);
        out += "</Contents>";
    }
    for prefix in &page.common_prefixes {
        let prefix = escape(&encoded(prefix, url));
        out += &format!("<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>");
    }
    Ok(Answer::xml("ListBucketResult", &out))
}

pub fn list_multipart_uploads(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    let url = by_url(call)?;
    let max = number(call, "max-uploads", 1000)?.min(state.options.page_keys_max);
    let prefix = call.param("prefix").unwrap_or_default().as_bytes();
    let key_marker = call.param("key-marker").map(str::as_bytes);
    let id_marker = call.param("upload-id-marker");
    let mut out = leaf("Bucket", &call.bucket);
    out += &leaf("MaxUploads", &max.to_string());
    if url {
        out += &leaf("EncodingType", "url");
    }
    let bucket = state.bucket(call)?;
    let mut rest = bucket.uploads.iter().filter(|((key, id), _)| {
        let after = match (key_marker, id_marker) {
            (None, _) => true,
            // Without an upload id the marker's key itself is left out.
            (Some(marker), None) => key.as_slice() > marker,
            (Some(marker), Some(mark)) => (key.as_slice(), id.as_str()) > (marker, mark),
        };
        after && key.starts_with(prefix)
    });
    let mut last = None;
    for ((key, id), upload) in rest.by_ref().take(max) {
        out += "<Upload>";
        out += &leaf("Key", &encoded(key, url));
        out += &leaf("UploadId", id);
        out += &format!("<Initiator><ID>{}</ID></Initiator>", escape(HOST_ID));
        out += &leaf("StorageClass", "STANDARD");
        out += &leaf("Initiated", &iso(upload.initiated));
        out += "</Upload>";
        last = Some((key, id));
    }
    let more = rest.next().is_some();
    out += &leaf("IsTruncated", if more { "true" } else { "false" });
    if let (true, Some((key, id))) = (more, last) {
        out += &leaf("NextKeyMarker", &encoded(key, url));
        out += &leaf("NextUploadIdMarker", id);
    }
    Ok(Answer::xml("ListMultipartUploadsResult", &out))
}

/// `2009-10-12T17:50:30.000Z`
pub fn iso(at: SystemTime) -> String {
    let t = time::OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    )
}
