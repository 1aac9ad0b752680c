//! HeadObject, PutObject, CopyObject: whole objects.
//!
//! Owns: these operations, and how an object's head is read from headers.
//! Invariant: a write whose answer was lost is a success only if the object's ETag proves it (see `s3`).
//! Must never know: parts, ranges.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::multipart::CHECKSUM_ALGORITHM_HEADER;
use super::past::object_of;
use super::requests::{SSE, SSE_BUCKET_KEY, SSE_KMS_KEY};
use super::{
    CopySource, ObjectDetails, ObjectHead, ObjectHeaders, ObjectId, Payload, Precondition, R, S3Client,
    Written, call, call_on, header_value, payload, xml,
};
use crate::arn;
use crate::aws::endpoint::check_key;
use crate::aws::retry::{Answer, Call, Effort};
use crate::aws::sign::{encode_path, encode_query};
use crate::error::{S3Error, S3ErrorKind};
use crate::key::past;
use crate::s3::error::header_text;

/// Headers that S3 keeps with an object, as it spells them, and copies with the metadata.
const KEPT_HEADERS: [&str; 5] =
    ["content-encoding", "cache-control", "content-disposition", "content-language", "expires"];
/// Those that it does not copy: a copy has what its request says.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html>
const APART_HEADERS: [&str; 4] = ["x-amz-website-redirect-location", SSE, SSE_KMS_KEY, SSE_BUCKET_KEY];
/// `KEY=VALUE&KEY=VALUE`, %-escaped.
pub const TAGGING: &str = "x-amz-tagging";
const METADATA_PREFIX: &str = "x-amz-meta-";
/// `ENABLED`: the answer tells the object's checksum, if the request is for all of it.
pub(super) const CHECKSUM_MODE_HEADER: &str = "x-amz-checksum-mode";

impl S3Client {
    /// # Errors
    /// `NoSuchKey` also where the bucket is gone: an answer to HEAD does not tell the two apart.
    pub async fn head_object(&self, key: &str) -> R<ObjectHead> {
        if let Some(deleted) = self.head_deleted(key).await? {
            return Ok(deleted);
        }
        let located = self.locate(key).await?;
        match self.head_object_if(located.id(), None).await {
            Err(e) if past::is_past(key) && matches!(e.status, Some(400 | 405)) => {
                Err(self.refused_version(&located, e).await)
            }
            head => Ok(self.told(&located, head?)),
        }
    }

    /// HeadObject of any version, with its checksums.
    ///
    /// # Errors
    /// As [`S3Client::head_object`]; `NotImplemented` for a delete marker, of which S3 tells nothing.
    pub async fn head_object_details(&self, object: ObjectId<'_>) -> R<ObjectDetails> {
        let mut call = call_on("HeadObject", Method::HEAD, Some(object));
        call.headers.extend(self.inner.standing.content.clone());
        self.set_header(&mut call, CHECKSUM_MODE_HEADER, "ENABLED")?;
        self.head(&call, None).await
    }

    pub(super) async fn head_object_if(&self, object: ObjectId<'_>, if_match: Option<&str>) -> R<ObjectHead> {
        let mut call = call_on("HeadObject", Method::HEAD, Some(object));
        call.headers.extend(self.inner.standing.content.clone());
        if let Some(etag) = if_match {
            self.set_header(&mut call, "if-match", etag)?;
        }
        Ok(self.head(&call, if_match).await?.head)
    }

    async fn head(&self, call: &Call<'_>, if_match: Option<&str>) -> R<ObjectDetails> {
        let (answer, effort) = self.send(call).await?;
        let size = content_length(&answer.headers)
            .ok_or_else(|| self.malformed(call, &effort, "no Content-Length"))?;
        let head = read_head(&answer.headers, size).map_err(|why| self.malformed(call, &effort, why))?;
        self.check_version(call, &effort, &head, if_match)?;
        Ok(ObjectDetails { head, headers: answer.headers })
    }

    pub async fn put_object(
        &self,
        key: &str,
        payload: Payload,
        headers: &ObjectHeaders,
        guard: &Precondition,
    ) -> R<Written> {
        let mut call = call("PutObject", Method::PUT, Some(key));
        call.headers.extend(self.inner.standing.new_object.clone());
        self.set_object_headers(&mut call, headers)?;
        self.set_guard(&mut call, guard)?;
        if let Some(algorithm) = self.checksum_asked() {
            // S3 does without; moto keeps a checksum only if it is named.
            self.set_header(&mut call, "x-amz-sdk-checksum-algorithm", algorithm.name())?;
        }
        call.body = payload;
        let mut effort = self.wire().effort();
        match self.send_protected(&mut call, &mut effort).await {
            Ok((answer, _)) => self.written(&call, &effort, &answer, None),
            Err(e) if e.kind == S3ErrorKind::PreconditionFailed && effort.in_doubt => {
                let ours = payload::md5(&call.body).await;
                self.written_before(key, &ours).await.ok_or(e)
            }
            Err(e) => Err(e),
        }
    }

    /// `replace`: none keeps the source's metadata (`x-amz-metadata-directive: COPY`).
    pub async fn copy_object(
        &self,
        source: &CopySource,
        key: &str,
        replace: Option<&ObjectHeaders>,
        guard: &Precondition,
    ) -> R<Written> {
        let mut call = call("CopyObject", Method::PUT, Some(key));
        call.headers.extend(self.inner.standing.new_object.clone());
        self.set_copy_source(&mut call, source)?;
        if let Some(storage_class) = &source.storage_class {
            self.set_header(&mut call, "x-amz-storage-class", storage_class)?;
        }
        let directive = if let Some(headers) = replace {
            self.set_object_headers(&mut call, headers)?;
            if headers.tagging().is_some() {
                self.set_header(&mut call, "x-amz-tagging-directive", "REPLACE")?;
            }
            "REPLACE"
        } else {
            self.set_kept(&mut call, &APART_HEADERS, &source.headers)?;
            "COPY"
        };
        self.set_header(&mut call, "x-amz-metadata-directive", directive)?;
        if let Some(algorithm) = self.checksum_asked() {
            self.set_header(&mut call, CHECKSUM_ALGORITHM_HEADER, algorithm.name())?;
        }
        self.set_guard(&mut call, guard)?;
        let (answer, effort) = self.send(&call).await?;
        let told = xml::parse_root(&answer.body, "CopyObjectResult")
            .map_err(|e| self.malformed(&call, &effort, e.to_string()))?;
        self.written(&call, &effort, &answer, told.text_of("ETag"))
    }

    /// After a write that may have been ours: whether the object is what we wrote. `etag`: without quotes.
    pub(super) async fn written_before(&self, key: &str, etag: &str) -> Option<Written> {
        let head = self.head_object(key).await.ok()?;
        if !payload::bare_etag(&head.etag).eq_ignore_ascii_case(etag) {
            return None;
        }
        tracing::debug!(key, "an earlier try had been carried out");
        Some(Written { etag: head.etag, version_id: head.version_id })
    }

    /// `etag`: as the answer's document says; none: its header.
    pub(super) fn written(
        &self,
        call: &Call<'_>,
        effort: &Effort,
        answer: &Answer,
        etag: Option<&str>,
    ) -> R<Written> {
        let etag = etag
            .map(String::from)
            .or_else(|| header_text(&answer.headers, "etag"))
            .filter(|etag| !etag.is_empty())
            .map(|etag| payload::quoted_etag(&etag))
            .ok_or_else(|| self.malformed(call, effort, "a write was answered without ETag"))?;
        Ok(Written {
            etag: payload::quoted_etag(&etag),
            version_id: header_text(&answer.headers, "x-amz-version-id"),
        })
    }

    /// Servers that ignore `If-Match` are caught here.
    pub(super) fn check_version(
        &self,
        call: &Call<'_>,
        effort: &Effort,
        head: &ObjectHead,
        if_match: Option<&str>,
    ) -> R<()> {
        match if_match {
            Some(etag) if payload::bare_etag(etag) != payload::bare_etag(&head.etag) => {
                let failure = crate::aws::retry::Failure::local(
                    S3ErrorKind::PreconditionFailed,
                    format!("the object is now {}, expected {etag}", head.etag),
                );
                Err(self.wire().error(call, effort, failure))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn set_header(&self, call: &mut Call<'_>, name: &'static str, value: &str) -> R<()> {
        let value = header_value(name, value).map_err(|why| self.refused(call, why))?;
        call.headers.insert(HeaderName::from_static(name), value);
        Ok(())
    }

    pub(super) fn set_object_headers(&self, call: &mut Call<'_>, headers: &ObjectHeaders) -> R<()> {
        if let Some(content_type) = &headers.content_type {
            self.set_header(call, "content-type", content_type)?;
        }
        if let Some(storage_class) = &headers.storage_class {
            self.set_header(call, "x-amz-storage-class", storage_class)?;
        }
        self.set_kept(call, &KEPT_HEADERS, &headers.headers)?;
        self.set_kept(call, &APART_HEADERS, &headers.headers)?;
        if let Some(tags) = headers.tagging().filter(|tags| !tags.is_empty()) {
            self.set_header(call, TAGGING, tags)?;
        }
        for (name, value) in &headers.metadata {
            let (name, value) = metadata_header(name, value).map_err(|why| self.refused(call, why))?;
            call.headers.insert(name, value);
        }
        Ok(())
    }

    fn set_kept(&self, call: &mut Call<'_>, names: &[&'static str], kept: &[(String, String)]) -> R<()> {
        let said = |name: &str| name.starts_with(SSE) && self.inner.standing.encrypts();
        for name in names {
            if let Some((_, value)) = kept.iter().find(|(kept, _)| kept == name && !said(name)) {
                self.set_header(call, name, value)?;
            }
        }
        Ok(())
    }

    pub(super) fn set_guard(&self, call: &mut Call<'_>, guard: &Precondition) -> R<()> {
        match guard {
            Precondition::None => Ok(()),
            Precondition::Absent => self.set_header(call, "if-none-match", "*"),
            Precondition::Etag(etag) => self.set_header(call, "if-match", etag),
        }
    }

    pub(super) fn set_copy_source(&self, call: &mut Call<'_>, source: &CopySource) -> R<()> {
        // Servers that keep objects as files resolve `..` in this header, too.
        check_key(&source.key).map_err(|e| self.refused(call, e.to_string()))?;
        let from = object_of(&source.key).ok_or_else(|| self.refused(call, "no object to copy from"))?;
        let (bucket, key) = (&source.bucket, &from.key);
        let path = match arn::access_point(bucket) {
            Ok(Some(point)) => format!("{}/object/{key}", arn::of_copy_source(point, bucket)),
            _ => format!("{bucket}/{key}"),
        };
        let mut path = encode_path(&path).into_owned();
        if let Some(version_id) = from.version_id.as_ref().or(source.version_id.as_ref()) {
            path.push_str("?versionId=");
            path.push_str(&encode_query(version_id));
        }
        self.set_header(call, "x-amz-copy-source", &path)?;
        call.headers.extend(self.inner.standing.source.clone());
        match &source.if_match {
            Some(etag) => self.set_header(call, "x-amz-copy-source-if-match", etag),
            None => Ok(()),
        }
    }
}

impl ObjectHeaders {
    /// What a copy carries of its source's where nothing is said: not what S3 copies with none of its directives.
    pub fn copied(head: ObjectHead) -> ObjectHeaders {
        let mut headers = ObjectHeaders::from(head);
        headers.headers.retain(|(name, _)| !APART_HEADERS.contains(&name.as_str()));
        headers
    }
}

fn metadata_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let full = format!("{METADATA_PREFIX}{name}");
    let header = HeaderName::from_bytes(full.as_bytes())
        .map_err(|_| format!("{name:?} cannot be the name of a metadata header"))?;
    Ok((header, header_value(&full, value)?))
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    header_text(headers, "content-length")?.trim().parse().ok()
}

/// `size`: of the whole object. Answers what is missing.
pub(super) fn read_head(headers: &HeaderMap, size: u64) -> Result<ObjectHead, &'static str> {
    let etag = header_text(headers, "etag")
        .filter(|etag| !etag.is_empty())
        .map(|etag| payload::quoted_etag(&etag))
        .ok_or("no ETag")?;
    let last_modified = headers
        .get(header::LAST_MODIFIED)
        .and_then(|v| v.to_str().ok())
        .and_then(|text| httpdate::parse_http_date(text).ok())
        .ok_or("no Last-Modified that is a date")?;
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let metadata = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix(METADATA_PREFIX)?;
        Some((name.to_string(), text(value)))
    });
    let kept = KEPT_HEADERS.iter().chain(&APART_HEADERS);
    let kept = kept.filter_map(|name| Some(((*name).to_string(), text(headers.get(*name)?))));
    Ok(ObjectHead {
        size,
        etag,
        last_modified,
        content_type: header_text(headers, "content-type"),
        storage_class: storage_class(header_text(headers, "x-amz-storage-class")),
        version_id: header_text(headers, "x-amz-version-id"),
        metadata: metadata.collect(),
        headers: kept.collect(),
        tag_count: header_text(headers, "x-amz-tagging-count")
            .and_then(|n| n.trim().parse().ok())
            .unwrap_or(0),
    })
}

/// None: STANDARD, whether the server says so or says nothing.
pub(super) fn storage_class(told: Option<String>) -> Option<String> {
    told.filter(|class| !class.is_empty() && class != "STANDARD")
}

/// `2009-10-12T17:50:30.000Z`, and back.
pub(super) fn parse_timestamp(text: &str) -> Option<SystemTime> {
    use time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

/// For the errors of results that arrive within a success.
pub(super) fn is_gone(e: &S3Error) -> bool {
    e.kind == S3ErrorKind::NoSuchKey
}
