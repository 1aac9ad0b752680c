//! ListObjectsV2: one page of a listing.
//!
//! Owns: the request, and the reading of its answer (`encoding-type=url` undone, once).
//! Invariants: a page either is the last or names the next, never itself; a page that is garbage is an error.
//! Must never know: directories, order (servers differ), how many pages one wants.

use http::Method;
use percent_encoding::percent_decode;

use super::object::{parse_timestamp, storage_class};
use super::xml::{self, Element};
use super::{ListObjectsV2, ListPage, ListedObject, R, S3Client, call};

impl S3Client {
    pub async fn list_objects_v2(&self, query: &ListObjectsV2) -> R<ListPage> {
        let mut call = call("ListObjectsV2", Method::GET, None);
        let mut add = |name, value: &str| call.query.push((name, value.to_string().into()));
        add("list-type", "2");
        add("encoding-type", "url");
        let page_keys = query.max_keys.unwrap_or(self.inner.list_page_keys);
        add("max-keys", &page_keys.to_string());
        if !query.prefix.is_empty() {
            add("prefix", &query.prefix);
        }
        if query.delimiter {
            add("delimiter", "/");
        }
        if let Some(after) = query.start_after.as_ref().filter(|after| !after.is_empty()) {
            add("start-after", after);
        }
        if let Some(token) = &query.continuation_token {
            add("continuation-token", token);
        }
        let (answer, effort) = self.send(&call).await?;
        read_page(&answer.body, query.continuation_token.as_deref())
            .map_err(|why| self.malformed(&call, &effort, why))
    }
}

/// `sent`: the token this page was asked for with.
fn read_page(document: &[u8], sent: Option<&str>) -> Result<ListPage, String> {
    let root = xml::parse_root(document, "ListBucketResult").map_err(|e| e.to_string())?;
    let keys = Keys::of(&root);
    let mut page = ListPage::default();
    for entry in root.children("Contents") {
        match keys.decode(entry.text_of("Key").ok_or("an entry without Key")?) {
            Some(key) => page.contents.push(read_entry(entry, key)?),
            None => page.undecodable += 1,
        }
    }
    for entry in root.children("CommonPrefixes") {
        match keys.decode(entry.text_of("Prefix").ok_or("a common prefix without Prefix")?) {
            Some(prefix) => page.common_prefixes.push(prefix),
            None => page.undecodable += 1,
        }
    }
    if root.text_of("IsTruncated") == Some("true") {
        let token = root
            .text_of("NextContinuationToken")
            .filter(|token| !token.is_empty())
            .ok_or("there is more, but no token to ask for it")?;
        if sent == Some(token) {
            return Err("the page leads to itself".to_string());
        }
        page.next_continuation_token = Some(token.to_string());
    }
    Ok(page)
}

fn read_entry(entry: &Element, key: String) -> Result<ListedObject, String> {
    let size = entry.text_of("Size").and_then(|text| text.trim().parse().ok());
    let modified = entry.text_of("LastModified").and_then(parse_timestamp);
    Ok(ListedObject {
        size: size.ok_or_else(|| format!("{key:?} without Size"))?,
        last_modified: modified.ok_or_else(|| format!("{key:?} without LastModified"))?,
        etag: entry.text_of("ETag").unwrap_or("").to_string(),
        storage_class: storage_class(entry.text_of("StorageClass").map(String::from)),
        key,
    })
}

/// How an answer writes its keys.
pub(super) struct Keys {
    encoded: bool,
}

impl Keys {
    /// Servers that do not know `encoding-type` do not repeat it.
    pub(super) fn of(root: &Element) -> Keys {
        Keys { encoded: root.text_of("EncodingType") == Some("url") }
    }

    /// None: not UTF-8. A `+` is a space here: S3 writes a plus as `%2B`.
    pub(super) fn decode(&self, text: &str) -> Option<String> {
        if !self.encoded {
            return Some(text.to_string());
        }
        let spaced = text.replace('+', " ");
        let bytes: Vec<u8> = percent_decode(spaced.as_bytes()).collect();
        String::from_utf8(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(inner: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3\">\
             <EncodingType>url</EncodingType>{inner}</ListBucketResult>"
        )
    }

    fn entry(key: &str) -> String {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified>\
             <ETag>&quot;fba9&quot;</ETag><Size>434234</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    }

    #[test]
    fn keys_are_decoded_once() {
        let inner = ["a+b", "a%20b", "a%2Bb", "%2541", "%C3%BC", "a%0Ab", "%FF"].map(entry).concat();
        let inner = format!("{inner}<CommonPrefixes><Prefix>x+y/</Prefix></CommonPrefixes>");
        let read = read_page(page(&inner).as_bytes(), None).unwrap();
        let keys: Vec<&str> = read.contents.iter().map(|o| o.key.as_str()).collect();
        assert_eq!(keys, ["a b", "a b", "a+b", "%41", "ü", "a\nb"]);
        assert_eq!(read.common_prefixes, ["x y/"]);
        assert_eq!(read.undecodable, 1);
        assert_eq!(read.next_continuation_token, None);
        let first = &read.contents[0];
        assert_eq!((first.size, first.etag.as_str()), (434_234, "\"fba9\""));
        assert_eq!(first.storage_class, None);
        let at = httpdate::parse_http_date("Mon, 12 Oct 2009 17:50:30 GMT").unwrap();
        assert_eq!(first.last_modified, at);
    }

    #[test]
    fn keys_that_were_not_encoded_are_left_alone() {
        let document = page(&entry("a+b%41")).replace("url", "");
        let read = read_page(document.as_bytes(), None).unwrap();
        assert_eq!(read.contents[0].key, "a+b%41");
    }

    #[test]
    fn a_page_leads_on_or_is_the_last() {
        let more = page("<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>");
        let read = read_page(more.as_bytes(), Some("s")).unwrap();
        assert_eq!(read.next_continuation_token.as_deref(), Some("t"));
        assert!(read_page(more.as_bytes(), Some("t")).is_err());
        assert!(read_page(page("<IsTruncated>true</IsTruncated>").as_bytes(), None).is_err());
    }

    #[test]
    fn garbage_is_an_error() {
        let no_size = page(&entry("a").replace("434234", "many"));
        let no_date = page(&entry("a").replace("2009", "MMIX"));
        for bad in ["", "<html></html>", "<ListBucketResult>", &no_size, &no_date] {
            assert!(read_page(bad.as_bytes(), None).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_mangled_page_panics(at in 0usize..400, bytes in prop::collection::vec(any::<u8>(), 0..4), cut in 0usize..20) {
            let mut document = page(&entry("a%20b")).into_bytes();
            let at = at.min(document.len());
            let end = (at + cut).min(document.len());
            document.splice(at..end, bytes);
            let _ = read_page(&document, None);
        }
    }
}
