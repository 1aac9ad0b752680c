//! ListObjectVersions: every version and delete marker below a prefix, a page at a time.
//!
//! Owns: the request, and the reading of its answer (`encoding-type=url` undone, once).
//! Invariant: a page either is the last or names the next, never itself.
//! Must never know: which version anybody wants.

use http::Method;

use super::list::{Keys, listed_checksum};
use super::object::{parse_timestamp, storage_class};
use super::payload::quoted_etag;
use super::xml::Element;
use super::{
    ListObjectVersions, ListVersionsPage, ListedChecksum, ListedVersion, Owner, R, S3Client, VersionedObject,
    call,
};

impl S3Client {
    pub async fn list_object_versions(&self, query: &ListObjectVersions) -> R<ListVersionsPage> {
        let mut call = call("ListObjectVersions", Method::GET, None);
        let page_keys = query.max_keys.unwrap_or(self.inner.list_page_keys).to_string();
        call.query.push(("versions", "".into()));
        call.query.push(("encoding-type", "url".into()));
        call.query.push(("max-keys", page_keys.into()));
        if !query.prefix.is_empty() {
            call.query.push(("prefix", (&query.prefix).into()));
        }
        if query.delimiter {
            call.query.push(("delimiter", "/".into()));
        }
        if let Some((key, version_id)) = &query.after {
            call.query.push(("key-marker", key.into()));
            // Without it S3 goes on after all versions of the key; an empty one it refuses.
            if !version_id.is_empty() {
                call.query.push(("version-id-marker", version_id.into()));
            }
        }
        let (answer, effort) = self.send(&call).await?;
        let root = self.document(&call, &effort, &answer, "ListVersionsResult")?;
        let after = query.after.as_ref();
        read_page(&root, after).map_err(|why| self.malformed(&call, &effort, why))
    }
}

fn read_page(root: &Element, after: Option<&(String, String)>) -> Result<ListVersionsPage, &'static str> {
    let keys = Keys::of(root);
    let mut page = ListVersionsPage::default();
    for element in &root.children {
        match element.name.as_str() {
            "Version" | "DeleteMarker" => page.versions.extend(read_version(element, &keys)?),
            "CommonPrefixes" => {
                let prefix = element.text_of("Prefix").ok_or("a prefix without Prefix")?;
                page.common_prefixes.extend(keys.decode(prefix.to_string()));
            }
            _ => {}
        }
    }
    if root.text_of("IsTruncated") == Some("true") {
        let key = root
            .text_of("NextKeyMarker")
            .and_then(|text| keys.decode(text.to_string()))
            .filter(|key| !key.is_empty())
            .ok_or("there are more versions, but no marker that leads to them")?;
        let next = (key, root.text_of("NextVersionIdMarker").unwrap_or_default().to_string());
        if after == Some(&next) {
            return Err("the page leads to itself");
        }
        page.next = Some(next);
    }
    Ok(page)
}

/// None: its key is not UTF-8, so no path leads to it.
fn read_version(element: &Element, keys: &Keys) -> Result<Option<ListedVersion>, &'static str> {
    let text = |name| element.text_of(name).map(str::to_string);
    let Some(key) = keys.decode(text("Key").ok_or("a version without Key")?) else { return Ok(None) };
    let object = match element.name.as_str() {
        "DeleteMarker" => None,
        _ => Some(VersionedObject {
            size: text("Size").and_then(|size| size.trim().parse().ok()).ok_or("a version without Size")?,
            etag: quoted_etag(&text("ETag").unwrap_or_default()),
            storage_class: storage_class(text("StorageClass")),
            checksum: listed_checksum(ListedChecksum {
                algorithms: element.children("ChecksumAlgorithm").map(|told| told.text.clone()).collect(),
                kind: text("ChecksumType"),
            }),
        }),
    };
    Ok(Some(ListedVersion {
        key,
        version_id: text("VersionId").ok_or("a version without VersionId")?,
        is_latest: element.text_of("IsLatest") == Some("true"),
        last_modified: element
            .text_of("LastModified")
            .and_then(parse_timestamp)
            .ok_or("a version without LastModified")?,
        owner: Owner::within(element, "Owner"),
        object,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::xml;
    use super::*;

    #[test]
    fn versions_and_markers_in_their_order() {
        let root = xml::parse(
            b"<r><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
            <NextKeyMarker>a+b</NextKeyMarker><NextVersionIdMarker>v0</NextVersionIdMarker>\
            <DeleteMarker><Key>a+b</Key><VersionId>v2</VersionId><IsLatest>true</IsLatest>\
            <LastModified>2024-01-02T03:04:05.000Z</LastModified></DeleteMarker>\
            <Version><Key>a+b</Key><VersionId>v1</VersionId><IsLatest>false</IsLatest>\
            <LastModified>2024-01-02T03:04:05.000Z</LastModified><ETag>e</ETag><Size>5</Size>\
            <StorageClass>GLACIER</StorageClass></Version></r>",
        )
        .unwrap();
        let page = read_page(&root, None).unwrap();
        let told: Vec<_> = page.versions.iter().map(|v| (v.version_id.as_str(), v.is_latest)).collect();
        assert_eq!(told, [("v2", true), ("v1", false)]);
        assert_eq!(page.versions[0].object, None);
        let object = page.versions[1].object.as_ref().unwrap();
        assert_eq!((object.size, object.etag.as_str()), (5, "\"e\""));
        assert_eq!(object.storage_class.as_deref(), Some("GLACIER"));
        let next = ("a b".to_string(), "v0".to_string());
        assert_eq!(page.next, Some(next.clone()));
        assert!(read_page(&root, Some(&next)).is_err(), "it leads to itself");
    }
}
