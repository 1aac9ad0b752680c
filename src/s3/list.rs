//! ListObjectsV2: one page of a listing.
//!
//! Owns: the request, and the reading of its answer (`encoding-type=url` undone, once).
//! Invariants: a page either is the last or names the next, never itself; a page that is garbage is an error.
//! Must never know: directories, order (servers differ), how many pages one wants.

use http::Method;
use percent_encoding::percent_decode;

use super::object::{parse_timestamp, storage_class};
use super::payload::quoted_etag;
use super::xml::{self, Element, Step};
use super::{ListObjectsV2, ListPage, ListedChecksum, ListedObject, R, S3Client, call};
use crate::key::past;

impl S3Client {
    /// Whether `holds` says so of any page: those after it are not asked for. A page may be empty, or have fewer keys than
    /// were asked for, and not be the last.
    pub async fn any_page(
        &self,
        mut query: ListObjectsV2,
        mut holds: impl FnMut(&ListPage) -> bool,
    ) -> R<bool> {
        loop {
            let page = self.list_objects_v2(&query).await?;
            let held = holds(&page);
            query.continuation_token = page.next_continuation_token;
            if held || query.continuation_token.is_none() {
                return Ok(held);
            }
        }
    }

    pub async fn list_objects_v2(&self, query: &ListObjectsV2) -> R<ListPage> {
        match (past::parse(&query.prefix), self.inner.as_of) {
            (Some(past), _) => return self.list_past(past, query).await,
            (None, Some(moment)) => return self.list_as_of(query, moment).await,
            (None, None) => {}
        }
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
        read_page(&answer.body, query.continuation_token.as_deref(), query.checksums)
            .map_err(|why| self.malformed(&call, &effort, why))
    }
}

/// `sent`: the token this page was asked for with.
fn read_page(document: &[u8], sent: Option<&str>, checksums: bool) -> Result<ListPage, String> {
    let mut reader = PageReader { checksums, ..PageReader::default() };
    xml::walk(document, |step| reader.take(step)).map_err(|e| e.to_string())?;
    reader.page(sent)
}

/// A page as its elements go by: no tree is made of it, for a page has thousands. Of elements that S3 does
/// not repeat, the first counts.
#[derive(Default)]
struct PageReader {
    checksums: bool,
    root: String,
    /// How many elements are open.
    depth: usize,
    /// The list whose entry is open.
    list: List,
    /// Where the text of the element that is open goes.
    field: Option<Field>,
    text: String,
    /// Of the entry that is open, or was last.
    entry: Entry,
    /// Keys are as they stand in the document until all was read, for how they are written is said at any place.
    contents: Vec<ListedObject>,
    common_prefixes: Vec<String>,
    encoding: Option<String>,
    truncated: Option<String>,
    token: Option<String>,
    /// The first thing that is wrong.
    wrong: Option<String>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum List {
    #[default]
    None,
    Contents,
    CommonPrefixes,
}

#[derive(Clone, Copy)]
enum Field {
    Encoding,
    Truncated,
    Token,
    Key,
    Size,
    LastModified,
    ETag,
    StorageClass,
    ChecksumAlgorithm,
    ChecksumType,
}

#[derive(Default)]
struct Entry {
    key: Option<String>,
    size: Option<String>,
    last_modified: Option<String>,
    etag: Option<String>,
    storage_class: Option<String>,
    checksum: ListedChecksum,
}

impl PageReader {
    fn take(&mut self, step: Step<'_>) {
        match step {
            Step::Open(name) => {
                self.depth += 1;
                self.text.clear();
                self.field = self.open(name);
            }
            Step::Text(text) if self.field.is_some() => self.text.push_str(text),
            Step::Text(_) => {}
            Step::Close => {
                self.depth -= 1;
                match self.field.take() {
                    Some(field) => self.keep(field),
                    None if self.depth == 1 => self.entry_ends(),
                    None => {}
                }
            }
        }
    }

    /// The field whose text begins here.
    fn open(&mut self, name: &str) -> Option<Field> {
        match (self.depth, name) {
            (1, _) => self.root.push_str(name),
            (2, "Contents") => self.list = List::Contents,
            (2, "CommonPrefixes") => self.list = List::CommonPrefixes,
            (2, "EncodingType") => return Some(Field::Encoding),
            (2, "IsTruncated") => return Some(Field::Truncated),
            (2, "NextContinuationToken") => return Some(Field::Token),
            (3, "Key") if self.list == List::Contents => return Some(Field::Key),
            (3, "Prefix") if self.list == List::CommonPrefixes => return Some(Field::Key),
            (3, "Size") => return Some(Field::Size),
            (3, "LastModified") => return Some(Field::LastModified),
            (3, "ETag") => return Some(Field::ETag),
            (3, "StorageClass") => return Some(Field::StorageClass),
            (3, "ChecksumAlgorithm") if self.checksums => return Some(Field::ChecksumAlgorithm),
            (3, "ChecksumType") if self.checksums => return Some(Field::ChecksumType),
            _ => {}
        }
        None
    }

    fn keep(&mut self, field: Field) {
        let place = match field {
            Field::Encoding => &mut self.encoding,
            Field::Truncated => &mut self.truncated,
            Field::Token => &mut self.token,
            Field::Key => &mut self.entry.key,
            Field::Size => &mut self.entry.size,
            Field::LastModified => &mut self.entry.last_modified,
            Field::ETag => &mut self.entry.etag,
            Field::StorageClass => &mut self.entry.storage_class,
            Field::ChecksumAlgorithm => {
                return self.entry.checksum.algorithms.push(std::mem::take(&mut self.text));
            }
            Field::ChecksumType => &mut self.entry.checksum.kind,
        };
        if place.is_none() {
            *place = Some(std::mem::take(&mut self.text));
        }
    }

    fn entry_ends(&mut self) {
        let (list, entry) = (std::mem::take(&mut self.list), std::mem::take(&mut self.entry));
        let result = match list {
            List::None => return,
            List::Contents => entry.object().map(|object| self.contents.push(object)),
            List::CommonPrefixes => entry
                .key
                .ok_or_else(|| "a common prefix without Prefix".to_string())
                .map(|prefix| self.common_prefixes.push(prefix)),
        };
        if let Err(why) = result {
            self.wrong.get_or_insert(why);
        }
    }

    fn page(self, sent: Option<&str>) -> Result<ListPage, String> {
        if self.root != "ListBucketResult" {
            return Err(format!("expected ListBucketResult, found {}", self.root));
        }
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let keys = Keys { encoded: self.encoding.as_deref() == Some("url") };
        let (contents, common_prefixes) = (self.contents, self.common_prefixes);
        let entries = contents.len() + common_prefixes.len();
        let decode = |object: ListedObject| Some(ListedObject { key: keys.decode(object.key)?, ..object });
        let contents: Vec<_> = contents.into_iter().filter_map(decode).collect();
        let common_prefixes: Vec<_> =
            common_prefixes.into_iter().filter_map(|prefix| keys.decode(prefix)).collect();
        let undecodable = (entries - contents.len() - common_prefixes.len()) as u64;
        let mut page = ListPage { contents, common_prefixes, undecodable, next_continuation_token: None };
        if self.truncated.as_deref() == Some("true") {
            let token = self
                .token
                .filter(|token| !token.is_empty())
                .ok_or("there is more, but no token to ask for it")?;
            if sent == Some(token.as_str()) {
                return Err("the page leads to itself".to_string());
            }
            page.next_continuation_token = Some(token);
        }
        Ok(page)
    }
}

impl Entry {
    fn object(self) -> Result<ListedObject, String> {
        let key = self.key.ok_or("an entry without Key")?;
        let size = self.size.and_then(|text| text.trim().parse().ok());
        let modified = self.last_modified.as_deref().and_then(parse_timestamp);
        Ok(ListedObject {
            size: size.ok_or_else(|| format!("{key:?} without Size"))?,
            last_modified: modified.ok_or_else(|| format!("{key:?} without LastModified"))?,
            etag: quoted_etag(self.etag.as_deref().unwrap_or("")),
            storage_class: storage_class(self.storage_class),
            checksum: listed_checksum(self.checksum),
            key,
        })
    }
}

/// None: nothing is told.
pub(super) fn listed_checksum(told: ListedChecksum) -> Option<Box<ListedChecksum>> {
    (!told.algorithms.is_empty()).then(|| Box::new(told))
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
    pub(super) fn decode(&self, text: String) -> Option<String> {
        if !self.encoded || !text.bytes().any(|b| matches!(b, b'+' | b'%')) {
            return Some(text);
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
        let read = read_page(page(&inner).as_bytes(), None, false).unwrap();
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
    fn checksums_are_told_where_they_are_asked_for() {
        let sums = "<ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumAlgorithm>SHA1</ChecksumAlgorithm>\
                    <ChecksumType>COMPOSITE</ChecksumType></Contents>";
        let both = page(&(entry("a").replace("</Contents>", sums) + &entry("b")));
        let told = |checksums| {
            let read = read_page(both.as_bytes(), None, checksums).unwrap();
            read.contents.into_iter().map(|object| object.checksum.map(|told| *told)).collect::<Vec<_>>()
        };
        let algorithms = ["CRC32", "SHA1"].map(String::from).to_vec();
        assert_eq!(told(true), [Some(ListedChecksum { algorithms, kind: Some("COMPOSITE".into()) }), None]);
        assert_eq!(told(false), [None, None]);
    }

    #[test]
    fn keys_that_were_not_encoded_are_left_alone() {
        let document = page(&entry("a+b%41")).replace("url", "");
        let read = read_page(document.as_bytes(), None, false).unwrap();
        assert_eq!(read.contents[0].key, "a+b%41");
    }

    #[test]
    fn a_page_leads_on_or_is_the_last() {
        let more = page("<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>");
        let read = read_page(more.as_bytes(), Some("s"), false).unwrap();
        assert_eq!(read.next_continuation_token.as_deref(), Some("t"));
        assert!(read_page(more.as_bytes(), Some("t"), false).is_err());
        assert!(read_page(page("<IsTruncated>true</IsTruncated>").as_bytes(), None, false).is_err());
    }

    #[test]
    fn garbage_is_an_error() {
        let no_size = page(&entry("a").replace("434234", "many"));
        let no_date = page(&entry("a").replace("2009", "MMIX"));
        for bad in ["", "<html></html>", "<ListBucketResult>", &no_size, &no_date] {
            assert!(read_page(bad.as_bytes(), None, false).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_mangled_page_panics(at in 0usize..400, bytes in prop::collection::vec(any::<u8>(), 0..4), cut in 0usize..20) {
            let mut document = page(&entry("a%20b")).into_bytes();
            let at = at.min(document.len());
            let end = (at + cut).min(document.len());
            document.splice(at..end, bytes);
            let _ = read_page(&document, None, false);
        }
    }
}
