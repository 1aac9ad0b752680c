//! What goes into S3's operations and what comes out. Plain data.

use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderMap;

use super::object::TAGGING;
use super::xml::Element;
use crate::config::ChecksumAlgorithm;

/// A request body whose chunks are shared, so that a retry sends the same bytes again without a copy.
pub type Payload = Vec<Bytes>;

/// ListObjectsV2's parameters; `encoding-type=url` is always sent and undone.
#[derive(Debug, Clone, Default)]
pub struct ListObjectsV2 {
    pub prefix: String,
    /// `true`: delimiter `/`.
    pub delimiter: bool,
    pub start_after: Option<String>,
    pub continuation_token: Option<String>,
    /// At most this many keys and prefixes; none: the client's page size.
    pub max_keys: Option<u32>,
    /// Which checksums S3 keeps of each object is read, too.
    pub checksums: bool,
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// In the server's order.
    pub contents: Vec<ListedObject>,
    /// Whole prefixes, ending in the delimiter.
    pub common_prefixes: Vec<String>,
    /// Set exactly when the page is not the last.
    pub next_continuation_token: Option<String>,
    /// Keys or prefixes left out of this page because they are not UTF-8.
    pub undecodable: u64,
}

impl ListPage {
    /// Whether there is any key, and be it one that is left out.
    pub fn has_keys(&self) -> bool {
        !self.contents.is_empty() || self.undecodable > 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub key: String,
    pub size: u64,
    pub etag: String,
    pub last_modified: SystemTime,
    /// None: STANDARD.
    pub storage_class: Option<String>,
    /// Where it was asked for, and S3 tells.
    pub checksum: Option<Box<ListedChecksum>>,
}

/// What a listing tells of an object's checksums.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedChecksum {
    pub algorithms: Vec<String>,
    /// `FULL_OBJECT` or `COMPOSITE`.
    pub kind: Option<String>,
}

impl ListedObject {
    /// As a listing would tell it.
    pub fn of(key: &str, head: ObjectHead) -> ListedObject {
        let ObjectHead { size, etag, last_modified, storage_class, .. } = head;
        ListedObject { key: key.to_owned(), size, etag, last_modified, storage_class, checksum: None }
    }
}

/// What HeadObject, or the head of GetObject, tells.
#[derive(Debug, Clone)]
pub struct ObjectHead {
    /// Of the whole object, in bytes.
    pub size: u64,
    /// As the server wrote it, with quotes.
    pub etag: String,
    pub last_modified: SystemTime,
    pub content_type: Option<String>,
    pub storage_class: Option<String>,
    pub version_id: Option<String>,
    /// `x-amz-meta-*`, names in lower case without the prefix.
    pub metadata: Vec<(String, String)>,
    /// Where set: `Content-Encoding`, `Cache-Control`, `Content-Disposition`, `Content-Language`, `Expires`, and what S3
    /// copies with none of its directives: the website's redirect, and how the object is encrypted.
    pub headers: Vec<(String, String)>,
    /// How many tags it has; 0 also for who may not read them.
    pub tag_count: u64,
}

/// An object, and which of its versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectId<'a> {
    pub key: &'a str,
    /// None: the current one.
    pub version_id: Option<&'a str>,
}

impl<'a> ObjectId<'a> {
    pub fn current(key: &'a str) -> ObjectId<'a> {
        ObjectId { key, version_id: None }
    }
}

/// All that HeadObject tells.
#[derive(Debug, Clone)]
pub struct ObjectDetails {
    pub head: ObjectHead,
    /// As they came, with what [`ObjectHead`] leaves out: encryption, checksums, `x-amz-restore`.
    pub headers: HeaderMap,
}

/// A guard on a write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Precondition {
    #[default]
    None,
    /// `If-None-Match: *`: only where no object is.
    Absent,
    /// `If-Match`: only over this ETag.
    Etag(String),
}

/// What a new object carries besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectHeaders {
    pub content_type: Option<String>,
    /// None: STANDARD.
    pub storage_class: Option<String>,
    pub metadata: Vec<(String, String)>,
    /// As [`ObjectHead::headers`]. Where the mount says how objects are encrypted, that counts. And [`TAGGING`], as S3
    /// takes it: empty for no tags; where it is missing, a copy has those of its source.
    ///
    /// [`TAGGING`]: super::TAGGING
    pub headers: Vec<(String, String)>,
}

impl ObjectHeaders {
    /// What is said of tags.
    pub fn tagging(&self) -> Option<&str> {
        let said = self.headers.iter().find(|(name, _)| name == TAGGING);
        said.map(|(_, value)| value.as_str())
    }

    /// Whether these are the others, whatever is said of tags.
    pub fn is_but_for_tags(&self, others: &ObjectHeaders) -> bool {
        let untagged = |headers: &ObjectHeaders| {
            let mut headers = headers.clone();
            headers.headers.retain(|(name, _)| name != TAGGING);
            headers
        };
        untagged(self) == untagged(others)
    }

    pub fn set_tagging(&mut self, value: String) {
        self.headers.retain(|(name, _)| name != TAGGING);
        self.headers.push((TAGGING.into(), value));
    }
}

impl From<ObjectHead> for ObjectHeaders {
    fn from(head: ObjectHead) -> ObjectHeaders {
        let ObjectHead { content_type, storage_class, metadata, headers, .. } = head;
        ObjectHeaders { content_type, storage_class, metadata, headers }
    }
}

/// A part of a multipart upload that S3 has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// 1 to 10,000.
    pub number: u32,
    pub etag: String,
    /// Checksum as S3 wants it repeated in CompleteMultipartUpload, if one was sent.
    pub checksum: Option<PartChecksum>,
}

/// Of a part's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartChecksum {
    pub algorithm: ChecksumAlgorithm,
    /// Base64.
    pub value: String,
    /// Size of the part.
    pub bytes: u64,
}

/// An object's bytes on the server's side, for copies.
#[derive(Debug, Clone, Default)]
pub struct CopySource {
    pub bucket: String,
    pub key: String,
    /// None: the current version.
    pub version_id: Option<String>,
    /// `x-amz-copy-source-if-match`.
    pub if_match: Option<String>,
    /// What CopyObject stores the copy as, which does not follow from the source; none: STANDARD.
    pub storage_class: Option<String>,
    /// As [`ObjectHead::headers`]: of these CopyObject is told what S3 copies with none of its directives.
    pub headers: Vec<(String, String)>,
}

impl CopySource {
    /// An object of which this is known, for a copy that is as it is.
    pub fn of(bucket: &str, key: &str, head: &ObjectHead) -> CopySource {
        CopySource {
            bucket: bucket.into(),
            key: key.into(),
            version_id: None,
            if_match: Some(head.etag.clone()),
            storage_class: head.storage_class.clone(),
            headers: head.headers.clone(),
        }
    }
}

/// What a write answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub etag: String,
    pub version_id: Option<String>,
}

/// A page of ListParts.
#[derive(Debug, Clone, Default)]
pub struct ListPartsPage {
    pub parts: Vec<ListedPart>,
    pub next_part_number_marker: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPart {
    pub number: u32,
    pub etag: String,
    pub size: u64,
}

/// A page of ListMultipartUploads.
#[derive(Debug, Clone, Default)]
pub struct ListUploadsPage {
    pub uploads: Vec<ListedUpload>,
    /// Key marker and upload id marker of the next page.
    pub next: Option<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedUpload {
    pub key: String,
    pub upload_id: String,
    pub initiated: SystemTime,
    /// Not every server tells it.
    pub storage_class: Option<String>,
    /// Where it was begun with one.
    pub checksum_algorithm: Option<String>,
    pub checksum_type: Option<String>,
    pub owner: Option<Owner>,
    /// Who began it.
    pub initiator: Option<Owner>,
}

/// Whose something is, as far as S3 tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub id: Option<String>,
    pub display_name: Option<String>,
}

impl Owner {
    /// In the child of that name.
    pub(super) fn within(element: &Element, name: &str) -> Option<Owner> {
        let told = element.child(name)?;
        let text = |name| told.text_of(name).map(String::from);
        Some(Owner { id: text("ID"), display_name: text("DisplayName") })
    }
}

/// A page of ListBuckets.
#[derive(Debug, Clone, Default)]
pub struct ListBucketsPage {
    pub owner: Option<Owner>,
    pub buckets: Vec<ListedBucket>,
    pub next_continuation_token: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedBucket {
    pub name: String,
    pub created: SystemTime,
}

/// ListObjectVersions' parameters; `encoding-type=url` is always sent and undone.
#[derive(Debug, Clone, Default)]
pub struct ListObjectVersions {
    pub prefix: String,
    /// `true`: delimiter `/`.
    pub delimiter: bool,
    /// Where the page before ended: key and version id.
    pub after: Option<(String, String)>,
    /// At most this many versions and prefixes; none: the client's page size.
    pub max_keys: Option<u32>,
}

/// One page of versions.
#[derive(Debug, Clone, Default)]
pub struct ListVersionsPage {
    /// In the server's order: on S3 by key, of each the newest first.
    pub versions: Vec<ListedVersion>,
    pub common_prefixes: Vec<String>,
    /// Key marker and version id marker of the next page.
    pub next: Option<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVersion {
    pub key: String,
    /// `null` of an object that was put while its bucket kept no versions.
    pub version_id: String,
    pub is_latest: bool,
    pub last_modified: SystemTime,
    pub owner: Option<Owner>,
    /// None: a delete marker.
    pub object: Option<VersionedObject>,
}

/// What a version holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedObject {
    pub size: u64,
    pub etag: String,
    /// None: STANDARD.
    pub storage_class: Option<String>,
    /// Where S3 tells.
    pub checksum: Option<Box<ListedChecksum>>,
}
