//! Multipart uploads: Create, UploadPart, UploadPartCopy, Complete, Abort, ListParts, ListMultipartUploads.
//!
//! Owns: these operations.
//! Invariant: Complete is a success only if S3 said so in its document (a 200 may hold an error), or the
//! object's ETag proves it (see `s3`).
//! Must never know: which bytes make a part, how many parts there are at a time.

use std::ops::Range;

use http::Method;

use super::checksum::{self, FULL_OBJECT};
use super::list::Keys;
use super::object::{is_gone, parse_timestamp};
use super::payload;
use super::xml::{self, Element};
use super::{
    CopySource, ListPartsPage, ListUploadsPage, ListedPart, ListedUpload, ObjectHeaders, Owner, PartChecksum,
    Payload, Precondition, R, S3Client, UploadedPart, Written, call, set_document,
};
use crate::aws::retry::Call;
use crate::config::ChecksumAlgorithm;
use crate::error::S3ErrorKind;

pub(super) const CHECKSUM_ALGORITHM_HEADER: &str = "x-amz-checksum-algorithm";
const CHECKSUM_TYPE_HEADER: &str = "x-amz-checksum-type";

impl S3Client {
    /// The checksum that was asked for, if S3 keeps it of an object of parts as of one.
    fn covered_as_one(&self) -> Option<ChecksumAlgorithm> {
        self.checksum_asked().filter(|algorithm| algorithm.covers_objects_of_parts())
    }

    /// Answers the upload id.
    pub async fn create_multipart_upload(&self, key: &str, headers: &ObjectHeaders) -> R<String> {
        let mut call = call("CreateMultipartUpload", Method::POST, Some(key));
        call.query.push(("uploads", "".into()));
        call.headers.extend(self.inner.standing.new_object.clone());
        self.set_object_headers(&mut call, headers)?;
        let protection = self.protection();
        if let Some(algorithm) = protection.checksum {
            self.set_header(&mut call, CHECKSUM_ALGORITHM_HEADER, algorithm.name())?;
        }
        if self.covered_as_one().is_some() {
            self.set_header(&mut call, CHECKSUM_TYPE_HEADER, FULL_OBJECT)?;
        }
        let (answer, effort) = match self.send(&call).await {
            Err(refusal) if self.protection_after(protection, &refusal).is_some() => {
                call.headers.remove(CHECKSUM_ALGORITHM_HEADER);
                let taken = self.send(&call).await?;
                self.remember_refusal(&refusal);
                taken
            }
            other => other?,
        };
        let told = self.document(&call, &effort, &answer, "InitiateMultipartUploadResult")?;
        told.text_of("UploadId")
            .filter(|id| !id.is_empty())
            .map(String::from)
            .ok_or_else(|| self.malformed(&call, &effort, "no UploadId"))
    }

    pub async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        payload: Payload,
    ) -> R<UploadedPart> {
        let mut call = part_call("UploadPart", key, upload_id, number);
        call.headers.extend(self.inner.standing.content.clone());
        call.body = payload;
        let mut effort = self.wire().effort();
        let (answer, checksum) = self.send_protected(&mut call, &mut effort).await?;
        let etag = self.written(&call, &effort, &answer, None)?.etag;
        Ok(UploadedPart { number, etag, checksum })
    }

    pub async fn upload_part_copy(
        &self,
        source: &CopySource,
        range: Range<u64>,
        key: &str,
        upload_id: &str,
        number: u32,
    ) -> R<UploadedPart> {
        let mut call = part_call("UploadPartCopy", key, upload_id, number);
        call.headers.extend(self.inner.standing.content.clone());
        if range.is_empty() {
            return Err(self.refused(&call, "a part cannot be copied from an empty range"));
        }
        self.set_copy_source(&mut call, source)?;
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        self.set_header(&mut call, "x-amz-copy-source-range", &bytes)?;
        let (answer, effort) = self.send(&call).await?;
        let told = self.document(&call, &effort, &answer, "CopyPartResult")?;
        let checksum = self.protection().checksum.and_then(|algorithm| {
            let value = told.text_of(algorithm.element()).filter(|value| !value.is_empty())?;
            Some(PartChecksum { algorithm, value: value.to_string(), bytes: range.end - range.start })
        });
        let etag = told.text_of("ETag");
        Ok(UploadedPart { number, etag: self.written(&call, &effort, &answer, etag)?.etag, checksum })
    }

    /// `parts`: in ascending order of their numbers.
    pub async fn complete_multipart_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[UploadedPart],
        guard: &Precondition,
    ) -> R<Written> {
        let mut call = call("CompleteMultipartUpload", Method::POST, Some(key));
        call.query.push(("uploadId", upload_id.into()));
        self.set_guard(&mut call, guard)?;
        if let Some(algorithm) = self.covered_as_one() {
            self.set_header(&mut call, CHECKSUM_TYPE_HEADER, FULL_OBJECT)?;
            if let Some(sum) = checksum::whole(algorithm, parts.iter().map(|part| part.checksum.as_ref())) {
                self.set_header(&mut call, algorithm.header(), &sum)?;
            }
        }
        set_document(&mut call, complete_document(parts)).await;
        let mut effort = self.wire().effort();
        match self.wire().send(&call, &mut effort).await {
            Ok(answer) => {
                let told = self.document(&call, &effort, &answer, "CompleteMultipartUploadResult")?;
                self.written(&call, &effort, &answer, told.text_of("ETag"))
            }
            Err(e)
                if effort.in_doubt
                    && matches!(e.kind, S3ErrorKind::NoSuchKey | S3ErrorKind::PreconditionFailed) =>
            {
                let etags = parts.iter().map(|part| part.etag.as_str());
                match payload::multipart_etag(etags) {
                    Some(ours) => self.written_before(key, &ours).await.ok_or(e),
                    None => Err(e),
                }
            }
            Err(e) => Err(e),
        }
    }

    /// # Errors
    /// `NoSuchKey`, if there is no such upload (aborted or completed before).
    pub async fn abort_multipart_upload(&self, key: &str, upload_id: &str) -> R<()> {
        let mut call = call("AbortMultipartUpload", Method::DELETE, Some(key));
        call.query.push(("uploadId", upload_id.into()));
        let mut effort = self.wire().effort();
        match self.wire().send(&call, &mut effort).await {
            Err(e) if !(is_gone(&e) && effort.in_doubt) => Err(e),
            _ => Ok(()),
        }
    }

    pub async fn list_parts(&self, key: &str, upload_id: &str, marker: Option<u32>) -> R<ListPartsPage> {
        let mut call = call("ListParts", Method::GET, Some(key));
        call.query.push(("uploadId", upload_id.into()));
        if let Some(marker) = marker {
            call.query.push(("part-number-marker", marker.to_string().into()));
        }
        let (answer, effort) = self.send(&call).await?;
        // moto calls it ListPartsResponse.
        let root = self
            .document(&call, &effort, &answer, "ListPartsResult")
            .or_else(|_| self.document(&call, &effort, &answer, "ListPartsResponse"))?;
        read_parts(&root, marker).map_err(|why| self.malformed(&call, &effort, why))
    }

    pub async fn list_multipart_uploads(
        &self,
        prefix: &str,
        after: Option<(&str, &str)>,
    ) -> R<ListUploadsPage> {
        let mut call = call("ListMultipartUploads", Method::GET, None);
        call.query.push(("uploads", "".into()));
        call.query.push(("encoding-type", "url".into()));
        if !prefix.is_empty() {
            call.query.push(("prefix", prefix.into()));
        }
        if let Some((key, upload_id)) = after {
            call.query.push(("key-marker", key.into()));
            call.query.push(("upload-id-marker", upload_id.into()));
        }
        let (answer, effort) = self.send(&call).await?;
        let root = self.document(&call, &effort, &answer, "ListMultipartUploadsResult")?;
        read_uploads(&root, after).map_err(|why| self.malformed(&call, &effort, why))
    }
}

fn part_call<'a>(operation: &'static str, key: &'a str, upload_id: &'a str, number: u32) -> Call<'a> {
    let mut call = call(operation, Method::PUT, Some(key));
    call.query.push(("partNumber", number.to_string().into()));
    call.query.push(("uploadId", upload_id.into()));
    call
}

fn complete_document(parts: &[UploadedPart]) -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
    );
    for part in parts {
        out.push_str("<Part>");
        if let Some(PartChecksum { algorithm, value, .. }) = &part.checksum {
            let element = algorithm.element();
            write!(out, "<{element}>{}</{element}>", xml::escape(value)).expect("a String takes all");
        }
        let etag = xml::escape(&part.etag);
        write!(out, "<ETag>{etag}</ETag><PartNumber>{}</PartNumber></Part>", part.number)
            .expect("a String takes all");
    }
    out.push_str("</CompleteMultipartUpload>");
    out
}

fn read_parts(root: &Element, marker: Option<u32>) -> Result<ListPartsPage, &'static str> {
    let mut page = ListPartsPage::default();
    for part in root.children("Part") {
        let number = |name| part.text_of(name).and_then(|text| text.trim().parse::<u64>().ok());
        page.parts.push(ListedPart {
            number: number("PartNumber")
                .and_then(|n| u32::try_from(n).ok())
                .ok_or("a part without PartNumber")?,
            etag: part.text_of("ETag").map(payload::quoted_etag).ok_or("a part without ETag")?,
            size: number("Size").ok_or("a part without Size")?,
        });
    }
    if root.text_of("IsTruncated") == Some("true") {
        let next = root
            .text_of("NextPartNumberMarker")
            .and_then(|text| text.trim().parse().ok())
            .filter(|next| *next > marker.unwrap_or(0))
            .ok_or("there are more parts, but no marker that leads to them")?;
        page.next_part_number_marker = Some(next);
    }
    Ok(page)
}

fn read_uploads(root: &Element, after: Option<(&str, &str)>) -> Result<ListUploadsPage, &'static str> {
    let keys = Keys::of(root);
    let mut page = ListUploadsPage::default();
    for upload in root.children("Upload") {
        // An upload whose key is not UTF-8 is not one of ours.
        let Some(key) = keys.decode(upload.text_of("Key").ok_or("an upload without Key")?.to_string()) else {
            continue;
        };
        page.uploads.push(ListedUpload {
            key,
            upload_id: upload.text_of("UploadId").ok_or("an upload without UploadId")?.to_string(),
            initiated: upload
                .text_of("Initiated")
                .and_then(parse_timestamp)
                .ok_or("an upload without Initiated")?,
            storage_class: upload.text_of("StorageClass").map(String::from),
            checksum_algorithm: upload.text_of("ChecksumAlgorithm").map(String::from),
            checksum_type: upload.text_of("ChecksumType").map(String::from),
            owner: Owner::within(upload, "Owner"),
            initiator: Owner::within(upload, "Initiator"),
        });
    }
    if root.text_of("IsTruncated") == Some("true") {
        let key = root
            .text_of("NextKeyMarker")
            .and_then(|text| keys.decode(text.to_string()))
            .filter(|key| !key.is_empty())
            .ok_or("there are more uploads, but no marker that leads to them")?;
        let upload_id = root.text_of("NextUploadIdMarker").unwrap_or("").to_string();
        if after == Some((key.as_str(), upload_id.as_str())) {
            return Err("the page leads to itself");
        }
        page.next = Some((key, upload_id));
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_with_their_checksums() {
        let part = |number, checksum: Option<&str>| UploadedPart {
            number,
            etag: "\"e\"".to_string(),
            checksum: checksum.map(|value| PartChecksum {
                algorithm: ChecksumAlgorithm::Crc32c,
                value: value.to_string(),
                bytes: 1,
            }),
        };
        let document = complete_document(&[part(1, Some("AAAA==")), part(2, None)]);
        assert!(document.ends_with(
            "<Part><ChecksumCRC32C>AAAA==</ChecksumCRC32C><ETag>&quot;e&quot;</ETag>\
             <PartNumber>1</PartNumber></Part><Part><ETag>&quot;e&quot;</ETag>\
             <PartNumber>2</PartNumber></Part></CompleteMultipartUpload>"
        ));
    }

    #[test]
    fn pages_lead_on() {
        let root = |inner: &str| {
            xml::parse(format!("<r><IsTruncated>true</IsTruncated>{inner}</r>").as_bytes()).unwrap()
        };
        let page = root("<NextPartNumberMarker>5</NextPartNumberMarker>");
        assert_eq!(read_parts(&page, Some(4)).unwrap().next_part_number_marker, Some(5));
        assert!(read_parts(&page, Some(5)).is_err());
        assert!(read_parts(&root(""), None).is_err());
        let page = root(
            "<EncodingType>url</EncodingType><NextKeyMarker>a+b</NextKeyMarker><NextUploadIdMarker>i</NextUploadIdMarker>",
        );
        let next = read_uploads(&page, None).unwrap().next;
        assert_eq!(next, Some(("a b".to_string(), "i".to_string())));
        assert!(read_uploads(&page, Some(("a b", "i"))).is_err());
        assert!(read_uploads(&root(""), None).is_err());
    }
}
