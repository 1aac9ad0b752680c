//! Objects as they were: the versions of an object listed and read as if each were an object of its own, and a bucket as
//! it was at a moment.
//!
//! Owns: which version of which object a key is about ([`Located`]), ListObjectsV2 as S3 would have answered it then
//! ([`S3Client::as_of`]) and for the directories of versions (`key::past`).
//! Invariants: what was current at a moment is the newest version not later than that; a delete marker hides. Of such a
//! client the ETags name the version as well (`"ETAG"@ID`), so that who has heard one reads that version and no other.
//! Must never know: inodes, handles.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::SystemTime;

use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;

use super::{
    Document, ListObjectVersions, ListObjectsV2, ListPage, ListedObject, ListedVersion, ObjectHead, ObjectId,
    R, S3Client, VersionedObject, call, xml,
};
use crate::aws::retry::Failure;
use crate::error::{S3Error, S3ErrorKind};
use crate::key::past::{self, Past, VersionName};

/// Versions of one object that are shown, at most: the newest.
const VERSIONS_MAX: usize = 10_000;
/// Directories about which it is asked at once whether anything was in them.
const PREFIXES_AT_ONCE: usize = 16;
/// The first page of a question about one name. Most have few versions; further pages are full ones.
const FEW_VERSIONS: u32 = 10;
/// Between an ETag, which ends in a quote, and the version's id.
const AT: &str = "\"@";

/// An object, and which of its versions a key is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<'k> {
    pub key: Cow<'k, str>,
    /// None: the current one.
    pub version_id: Option<String>,
}

impl Located<'_> {
    pub fn id(&self) -> ObjectId<'_> {
        ObjectId { key: &self.key, version_id: self.version_id.as_deref() }
    }
}

/// The object a key is about, as far as the key alone says; none for what is no object.
pub(super) fn object_of(key: &str) -> Option<Located<'_>> {
    match past::parse(key) {
        None => Some(Located { key: key.into(), version_id: None }),
        Some(Past::Version(key, VersionName { version_id, deleted: false })) => {
            Some(Located { key: key.into(), version_id: Some(version_id) })
        }
        Some(_) => None,
    }
}

/// A page of versions is asked for after this one. Of the object `decided`, whose versions it may begin with, it is known
/// already what is to be told.
struct Place {
    after: Option<(String, String)>,
    decided: String,
}

impl Place {
    /// As a continuation token says, which [`Place::token`] made.
    fn of(query: &ListObjectsV2) -> Place {
        if let Some(token) = &query.continuation_token {
            let (decided, after) = serde_json::from_str(token).unwrap_or_default();
            return Place { decided, after: Some(after) };
        }
        let start_after = query.start_after.clone().filter(|after| !after.is_empty());
        // moto goes on with the versions of the marker's own key.
        let decided = start_after.clone().unwrap_or_default();
        Place { after: start_after.map(|key| (key, String::new())), decided }
    }

    fn token(self) -> Option<String> {
        serde_json::to_string(&(self.decided, self.after?)).ok()
    }
}

/// The versions of each object in a page, the newest first, objects in the page's order. Servers differ in how they mix
/// versions and delete markers; of those of one second, S3's own order tells.
fn by_object(versions: Vec<ListedVersion>) -> Vec<Vec<ListedVersion>> {
    let mut objects: Vec<Vec<ListedVersion>> = Vec::new();
    let mut places = HashMap::new();
    for version in versions {
        let place = *places.entry(version.key.clone()).or_insert(objects.len());
        if place == objects.len() {
            objects.push(Vec::new());
        }
        objects[place].push(version);
    }
    for object in &mut objects {
        object.sort_by_key(|version| Reverse((version.is_latest, version.last_modified)));
    }
    objects
}

fn was_there(versions: Vec<ListedVersion>, moment: SystemTime) -> Option<ListedVersion> {
    versions.into_iter().find(|version| version.last_modified <= moment)
}

impl S3Client {
    /// A client that answers HeadObject, GetObject and ListObjectsV2 as S3 would have at a moment.
    pub fn as_of(&self, moment: SystemTime) -> S3Client {
        self.with(self.wire().beside(self.wire().endpoint().clone()), Some(moment))
    }

    /// Whether the bucket keeps versions, or has kept some before that was suspended. No server does that does not know
    /// the question.
    pub async fn keeps_versions(&self) -> R<bool> {
        let document = match self.get_document(Document::Versioning, None).await {
            Err(e) if e.kind == S3ErrorKind::NotImplemented => return Ok(false),
            told => told?,
        };
        let status = xml::parse(&document).unwrap_or_default();
        Ok(matches!(status.text_of("Status"), Some("Enabled" | "Suspended")))
    }

    /// The object that a key is about, and which version of it.
    ///
    /// # Errors
    /// `NoSuchKey`, where none was there.
    pub async fn locate<'k>(&self, key: &'k str) -> R<Located<'k>> {
        let Some(located) = object_of(key) else { return Err(self.not_there(key)) };
        match self.inner.as_of.filter(|_| located.version_id.is_none()) {
            None => Ok(located),
            Some(moment) => {
                let version = self.version_at(key, moment).await?;
                Ok(Located { version_id: Some(version.version_id), ..located })
            }
        }
    }

    /// As [`S3Client::locate`], with the ETag that the version must have.
    pub(super) async fn locate_pinned<'k>(
        &self,
        key: &'k str,
        if_match: Option<&'k str>,
    ) -> R<(Located<'k>, Option<Cow<'k, str>>)> {
        if self.inner.as_of.is_some()
            && let Some((etag, version_id)) = if_match.and_then(|etag| etag.rsplit_once(AT))
        {
            let located = Located { key: key.into(), version_id: Some(version_id.into()) };
            return Ok((located, Some(format!("{etag}\"").into())));
        }
        Ok((self.locate(key).await?, if_match.map(Cow::from)))
    }

    /// The head as this client tells it.
    pub(super) fn told(&self, located: &Located<'_>, head: ObjectHead) -> ObjectHead {
        let etag = self.etag(head.etag, located.version_id.as_deref());
        ObjectHead { etag, ..head }
    }

    fn etag(&self, etag: String, version_id: Option<&str>) -> String {
        match version_id.filter(|_| self.inner.as_of.is_some() && etag.ends_with('"')) {
            Some(id) => format!("{}{AT}{id}", etag.trim_end_matches('"')),
            None => etag,
        }
    }

    /// The head of a delete marker, of which HeadObject tells nothing; none for any other key.
    pub(super) async fn head_deleted(&self, key: &str) -> R<Option<ObjectHead>> {
        let Some(Past::Version(object, VersionName { version_id, deleted: true })) = past::parse(key) else {
            return Ok(None);
        };
        let marker = self.version(&object, &version_id).await?.filter(|version| version.object.is_none());
        let marker = marker.ok_or_else(|| self.not_there(key))?;
        Ok(Some(ObjectHead {
            size: 0,
            etag: past::DELETED_ETAG.into(),
            last_modified: marker.last_modified,
            content_type: None,
            storage_class: None,
            version_id: Some(version_id),
            metadata: Vec::new(),
            headers: Vec::new(),
            tag_count: 0,
        }))
    }

    /// HeadObject refused a version that a program named, and does not tell whether there is one: AWS answers 400 to an id
    /// that is none, and to keys that expired; 405 to a delete marker's, which has another name. A listing tells.
    pub(super) async fn refused_version(&self, located: &Located<'_>, refusal: S3Error) -> S3Error {
        let id = located.version_id.as_deref().unwrap_or_default();
        match self.version(&located.key, id).await {
            Err(e) => e,
            Ok(Some(version)) if version.object.is_some() => refusal,
            Ok(_) => S3Error { kind: S3ErrorKind::NoSuchKey, ..refusal },
        }
    }

    /// Removes the version that a key of `key::past` is about, or the delete marker. Answers the object's key.
    pub async fn delete_version(&self, key: &str) -> R<String> {
        let Some(Past::Version(object, VersionName { version_id, .. })) = past::parse(key) else {
            return Err(self.not_there(key));
        };
        let id = ObjectId { key: &object, version_id: Some(&version_id) };
        self.delete_object_version(id).await?;
        Ok(object)
    }

    fn not_there(&self, key: &str) -> S3Error {
        let call = call("HeadObject", Method::HEAD, Some(key));
        let failure = Failure::local(S3ErrorKind::NoSuchKey, "no such version, or none at that time");
        self.wire().error(&call, &self.wire().effort(), failure)
    }

    /// What was current at a moment.
    async fn version_at(&self, key: &str, moment: SystemTime) -> R<ListedVersion> {
        let mut query =
            ListObjectVersions { prefix: key.into(), max_keys: Some(FEW_VERSIONS), ..Default::default() };
        loop {
            let page = self.list_object_versions(&query).await?;
            let (of_key, others): (Vec<_>, Vec<_>) = page.versions.into_iter().partition(|v| v.key == key);
            let mut found = by_object(of_key).into_iter().filter_map(|versions| was_there(versions, moment));
            if let Some(version) = found.next() {
                return if version.object.is_some() { Ok(version) } else { Err(self.not_there(key)) };
            }
            // The key itself comes before all others that begin with it.
            if page.next.is_none() || !others.is_empty() {
                return Err(self.not_there(key));
            }
            query = ListObjectVersions { after: page.next, max_keys: None, ..query };
        }
    }

    /// One of the newest versions of an object and its delete markers.
    async fn version(&self, key: &str, version_id: &str) -> R<Option<ListedVersion>> {
        let is_it = |version: &ListedVersion| version.version_id == version_id;
        let versions = self.versions_of(key, VERSIONS_MAX, is_it).await?;
        Ok(versions.into_iter().find(is_it))
    }

    /// The newest versions of an object and its delete markers, `count` at most, and none beyond the page with the `last`.
    async fn versions_of(
        &self,
        key: &str,
        count: usize,
        last: impl Fn(&ListedVersion) -> bool,
    ) -> R<Vec<ListedVersion>> {
        let max_keys = u32::try_from(count).ok().filter(|count| *count < self.inner.list_page_keys);
        let mut query = ListObjectVersions { prefix: key.into(), max_keys, ..Default::default() };
        let mut versions = Vec::new();
        loop {
            let page = self.list_object_versions(&query).await?;
            let more = page.versions.iter().all(|version| version.key == key && !last(version));
            versions.extend(page.versions.into_iter().filter(|version| version.key == key));
            if page.next.is_none() || !more {
                return Ok(versions);
            }
            if versions.len() >= count {
                versions.truncate(count);
                return Ok(versions);
            }
            query.after = page.next;
        }
    }

    /// ListObjectsV2 of a directory of versions; `delimiter` is as good as set.
    pub(super) async fn list_past(&self, past: Past, query: &ListObjectsV2) -> R<ListPage> {
        match past {
            Past::Names(dir) => self.list_names(&dir, query).await,
            Past::Versions(key) => self.list_versions(&key, query).await,
            Past::Version(..) | Past::Nothing => Ok(ListPage::default()),
        }
    }

    /// The names in a directory that have versions, each as a directory of these.
    async fn list_names(&self, dir: &str, query: &ListObjectsV2) -> R<ListPage> {
        let names = past::names_key(dir);
        // Within the listing of the directory of versions a place is a directory's; here it is the object's.
        let start_after = query.start_after.as_deref().and_then(|after| after.strip_prefix(&names));
        let start_after = start_after.map(|name| format!("{dir}{}", name.trim_end_matches('/')));
        let place = Place::of(&ListObjectsV2 { start_after, ..query.clone() });
        let versions = ListObjectVersions {
            prefix: dir.into(),
            delimiter: true,
            after: place.after,
            max_keys: query.max_keys,
        };
        let page = self.list_object_versions(&versions).await?;
        let mut found = ListPage::default();
        for object in by_object(page.versions) {
            let key = object.first().map(|version| version.key.as_str()).unwrap_or_default();
            let name = key.strip_prefix(dir).unwrap_or_default();
            if key != place.decided && !name.is_empty() {
                found.common_prefixes.push(format!("{names}{name}/"));
            }
        }
        let decided = page.next.as_ref().map(|(key, _)| key.clone()).unwrap_or_default();
        found.next_continuation_token = Place { after: page.next, decided }.token();
        Ok(found)
    }

    /// In one page: so nobody asks for what comes after some name.
    async fn list_versions(&self, key: &str, query: &ListObjectsV2) -> R<ListPage> {
        let mut page = ListPage::default();
        let count = query.max_keys.map_or(VERSIONS_MAX, |keys| keys as usize);
        let versions = self.versions_of(key, count, |_| false).await?;
        if versions.len() == VERSIONS_MAX {
            tracing::warn!(key = %key.escape_debug(), "no more than its newest {VERSIONS_MAX} versions are shown");
        }
        for version in versions {
            let ListedVersion { version_id, last_modified, object, .. } = version;
            let Some(name) = past::version_name(last_modified, &version_id, object.is_none()) else {
                tracing::warn!(key = %key.escape_debug(), version_id, "the id is too long for a name");
                continue;
            };
            let deleted = || VersionedObject {
                size: 0,
                etag: past::DELETED_ETAG.into(),
                storage_class: None,
                checksum: None,
            };
            let VersionedObject { size, etag, storage_class, checksum } = object.unwrap_or_else(deleted);
            let key = format!("{}{name}", query.prefix);
            page.contents.push(ListedObject { key, size, etag, last_modified, storage_class, checksum });
        }
        page.contents.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(page)
    }

    /// ListObjectsV2 as it would have been answered.
    pub(super) async fn list_as_of(&self, query: &ListObjectsV2, moment: SystemTime) -> R<ListPage> {
        let mut place = Place::of(query);
        let mut found = ListPage::default();
        let mut prefixes = Vec::new();
        let mut max_keys = query.max_keys.map(|keys| keys.max(FEW_VERSIONS));
        // A page of old versions alone shows nothing, and leads on.
        while found.contents.is_empty() && prefixes.is_empty() {
            let versions = ListObjectVersions {
                prefix: query.prefix.clone(),
                delimiter: query.delimiter,
                after: place.after.take(),
                max_keys: max_keys.take(),
            };
            let page = self.list_object_versions(&versions).await?;
            let cut = page.next.as_ref().map(|(key, _)| key.clone()).unwrap_or_default();
            let mut cut_is_decided = place.decided == cut;
            for versions in by_object(page.versions) {
                if versions.first().is_some_and(|version| version.key == place.decided) {
                    continue;
                }
                let Some(version) = was_there(versions, moment) else { continue };
                let ListedVersion { key, version_id, last_modified, object, .. } = version;
                cut_is_decided |= key == cut;
                if let Some(VersionedObject { size, etag, storage_class, checksum }) = object {
                    let etag = self.etag(etag, Some(&version_id));
                    found.contents.push(ListedObject {
                        key,
                        size,
                        etag,
                        last_modified,
                        storage_class,
                        checksum,
                    });
                }
            }
            place.decided = if cut_is_decided { cut } else { String::new() };
            prefixes.extend(page.common_prefixes);
            place.after = page.next;
            if place.after.is_none() {
                break;
            }
        }
        found.next_continuation_token = place.token();
        let asked = prefixes.into_iter().map(|prefix| async move {
            let there = self.held_anything(&prefix, moment).await?;
            Ok::<_, S3Error>(there.then_some(prefix))
        });
        let there = stream::iter(asked.collect::<Vec<_>>()).buffered(PREFIXES_AT_ONCE);
        found.common_prefixes =
            there.try_filter_map(|prefix| std::future::ready(Ok(prefix))).try_collect().await?;
        Ok(found)
    }

    /// Whether there was any object whose key begins with `prefix`.
    async fn held_anything(&self, prefix: &str, moment: SystemTime) -> R<bool> {
        let query = ListObjectsV2 { prefix: prefix.into(), max_keys: Some(1), ..ListObjectsV2::default() };
        let page = Box::pin(self.list_as_of(&query, moment)).await?;
        Ok(!page.contents.is_empty())
    }
}
