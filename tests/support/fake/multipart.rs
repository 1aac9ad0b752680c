//! Multipart uploads.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;

use super::super::bytes as sums;
use super::super::call::Call;
use super::super::xml::{self, Element, leaf};
use super::answer::{Answer, Refusal};
use super::listing::iso;
use super::objects::{check_guards, copy_source, kept_headers, same_etag, tags_asked};
use super::store::Object;
use super::{Bucket, Incoming, Part, State, Upload, auth};

pub fn create(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let (headers, metadata) = kept_headers(incoming)?;
    let id = format!("{}.upload~1", state.id());
    let initiated = state.now();
    let checksum_algorithm = incoming.header("x-amz-checksum-algorithm").map(str::to_ascii_uppercase);
    let bucket = state.bucket(call)?;
    bucket.uploads.insert(
        (call.key_bytes.clone(), id.clone()),
        Upload {
            initiated,
            headers,
            metadata,
            tags: tags_asked(incoming),
            checksum_algorithm,
            parts: BTreeMap::new(),
        },
    );
    let inner = leaf("Bucket", &call.bucket) + &leaf("Key", &call.key()) + &leaf("UploadId", &id);
    Ok(Answer::xml("InitiateMultipartUploadResult", &inner))
}

fn upload_key(call: &Call) -> (Vec<u8>, String) {
    (call.key_bytes.clone(), call.param("uploadId").unwrap_or_default().to_string())
}

fn upload<'a>(bucket: &'a mut Bucket, call: &Call) -> Result<&'a mut Upload, Refusal> {
    bucket.uploads.get_mut(&upload_key(call)).ok_or_else(Refusal::no_such_upload)
}

fn part_number(call: &Call) -> Result<u32, Refusal> {
    call.param("partNumber").and_then(|n| n.parse().ok()).filter(|n| (1..=10_000).contains(n)).ok_or_else(
        || Refusal::invalid_argument("Part number must be an integer between 1 and 10000, inclusive"),
    )
}

pub fn upload_part(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let number = part_number(call)?;
    let last_modified = state.now();
    let upload = upload(state.bucket(call)?, call)?;
    let sent = auth::checksum_algorithm(incoming);
    if let Some(expected) = &upload.checksum_algorithm
        && sent.as_ref() != Some(expected)
    {
        return Err(Refusal::invalid_request(&format!(
            "Checksum Type mismatch occurred, expected checksum Type: {expected}, actual checksum \
             Type: {}",
            sent.as_deref().unwrap_or("null")
        )));
    }
    let data = incoming.body.clone();
    let etag = sums::etag_of(&data);
    let mut answer = Answer::empty(200).with("etag", &etag);
    auth::repeat_checksum(&mut answer, incoming);
    upload.parts.insert(number, Part { data, etag, last_modified });
    Ok(answer)
}

pub fn upload_part_copy(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let number = part_number(call)?;
    let last_modified = state.now();
    let (_, _, source) = copy_source(state, incoming)?;
    let data = match incoming.header("x-amz-copy-source-range") {
        None => source.data.clone(),
        Some(text) => {
            // Unlike a GET's: both ends must be there and lie within the source.
            let (from, last) = text
                .strip_prefix("bytes=")
                .and_then(|r| r.split_once('-'))
                .and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)))
                .filter(|(from, last)| from <= last && *last < source.data.len())
                .ok_or_else(|| {
                    Refusal::invalid_argument(&format!(
                        "Range specified is not valid for source object of size: {}",
                        source.data.len()
                    ))
                })?;
            source.data.slice(from..=last)
        }
    };
    if data.len() as u64 > state.options.copy_bytes_max {
        return Err(Refusal::invalid_request(
            "The specified copy source is larger than the maximum allowable size for a copy source",
        ));
    }
    let upload = upload(state.bucket(call)?, call)?;
    let etag = sums::etag_of(&data);
    let mut inner = leaf("LastModified", &iso(last_modified)) + &leaf("ETag", &etag);
    if let Some(algorithm) = &upload.checksum_algorithm {
        let sum = auth::checksum(algorithm, &data).unwrap_or_default();
        inner += &leaf(&format!("Checksum{algorithm}"), &sum);
    }
    upload.parts.insert(number, Part { data, etag, last_modified });
    Ok(Answer::xml("CopyPartResult", &inner))
}

pub fn complete(state: &mut State, call: &Call, incoming: &Incoming) -> Result<Answer, Refusal> {
    let root = std::str::from_utf8(&incoming.body).ok().and_then(xml::parse);
    let root = root
        .filter(|r| r.name == "CompleteMultipartUpload" && r.all("Part").next().is_some())
        .ok_or_else(Refusal::malformed_xml)?;
    let guards = state.options.guards;
    let part_bytes_min = state.options.part_bytes_min;
    let now = state.now();
    let bucket = state.bucket(call)?;
    let assembled = assemble(upload(bucket, call)?, &root, part_bytes_min)?;
    check_guards(guards, bucket, call, incoming)?;
    let Some(upload) = bucket.uploads.remove(&upload_key(call)) else {
        return Err(Refusal::no_such_upload());
    };
    let object = Object {
        data: assembled.data.freeze(),
        etag: assembled.etag,
        last_modified: now,
        headers: upload.headers,
        metadata: upload.metadata,
        grants: None,
        tags: upload.tags,
    };
    let inner = leaf("Location", &format!("http://fake.test/{}/{}", call.bucket, call.key()))
        + &leaf("Bucket", &call.bucket)
        + &leaf("Key", &call.key())
        + &leaf("ETag", &object.etag);
    bucket.put(&call.key_bytes, Arc::new(object));
    Ok(Answer::xml("CompleteMultipartUploadResult", &inner))
}

struct Assembled {
    data: BytesMut,
    etag: String,
}

/// The object that the named parts make, if they are what S3 has.
fn assemble(upload: &Upload, root: &Element, part_bytes_min: u64) -> Result<Assembled, Refusal> {
    let invalid_part = || {
        Refusal::new(
            400,
            "InvalidPart",
            "One or more of the specified parts could not be found. The part may not have been \
             uploaded, or the specified entity tag may not match the part's entity tag.",
        )
    };
    let mut data = BytesMut::new();
    let mut md5s = Vec::new();
    let mut before = 0;
    let mut short = false;
    for element in root.all("Part") {
        let number: u32 =
            element.text_of("PartNumber").and_then(|n| n.parse().ok()).ok_or_else(Refusal::malformed_xml)?;
        let etag = element.text_of("ETag").ok_or_else(Refusal::malformed_xml)?;
        if number <= before {
            return Err(Refusal::new(
                400,
                "InvalidPartOrder",
                "The list of parts was not in ascending order. Parts must be ordered by part number.",
            ));
        }
        before = number;
        let part = upload.parts.get(&number).ok_or_else(invalid_part)?;
        if !same_etag(&part.etag, etag) {
            return Err(invalid_part());
        }
        check_part_sum(upload, element, part, number)?;
        if short {
            return Err(Refusal::new(
                400,
                "EntityTooSmall",
                "Your proposed upload is smaller than the minimum allowed size",
            ));
        }
        short = (part.data.len() as u64) < part_bytes_min;
        md5s.extend_from_slice(&sums::md5_of(&part.data));
        data.extend_from_slice(&part.data);
    }
    let etag = format!("\"{}-{}\"", sums::hex(&sums::md5_of(&md5s)), md5s.len() / 16);
    Ok(Assembled { data, etag })
}

/// A part's checksum, repeated in Complete. For CRC32, CRC32C and SHA256 the object's checksum is made
/// of the parts', so S3 asks for every one; CRC64NVME is of the whole object and asks for none.
fn check_part_sum(upload: &Upload, element: &Element, part: &Part, number: u32) -> Result<(), Refusal> {
    for child in element.children.iter() {
        let Some(algorithm) = child.name.strip_prefix("Checksum") else {
            continue;
        };
        if auth::checksum(algorithm, &part.data).as_deref() != Some(child.text.as_str()) {
            return Err(Refusal::new(400, "InvalidPart", "The checksum of a part does not match."));
        }
    }
    match upload.checksum_algorithm.as_deref() {
        Some(algorithm) if algorithm != "CRC64NVME" => {
            if element.child(&format!("Checksum{algorithm}")).is_none() {
                return Err(Refusal::invalid_request(&format!(
                    "The upload was created using a {} checksum. The complete request must include \
                     the checksum for each part. It was missing for part {number} in the request.",
                    algorithm.to_ascii_lowercase()
                )));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

pub fn abort(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    let bucket = state.bucket(call)?;
    bucket.uploads.remove(&upload_key(call)).ok_or_else(Refusal::no_such_upload)?;
    Ok(Answer::empty(204))
}

pub fn list_parts(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    let max = call.param("max-parts").and_then(|n| n.parse().ok()).unwrap_or(1000);
    let max = state.options.page_keys_max.min(max);
    let marker: u32 = call.param("part-number-marker").and_then(|n| n.parse().ok()).unwrap_or(0);
    let upload = upload(state.bucket(call)?, call)?;
    let mut out = leaf("Bucket", &call.bucket) + &leaf("Key", &call.key());
    out += &leaf("UploadId", call.param("uploadId").unwrap_or_default());
    out += &leaf("PartNumberMarker", &marker.to_string());
    out += &leaf("MaxParts", &max.to_string());
    let mut rest = upload.parts.range(marker + 1..);
    let mut last = marker;
    for (number, part) in rest.by_ref().take(max) {
        out += "<Part>";
        out += &leaf("PartNumber", &number.to_string());
        out += &leaf("LastModified", &iso(part.last_modified));
        out += &leaf("ETag", &part.etag);
        out += &leaf("Size", &part.data.len().to_string());
        out += "</Part>";
        last = *number;
    }
    let more = rest.next().is_some();
    out += &leaf("IsTruncated", if more { "true" } else { "false" });
    if more {
        out += &leaf("NextPartNumberMarker", &last.to_string());
    }
    Ok(Answer::xml("ListPartsResult", &out))
}
