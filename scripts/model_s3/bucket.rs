//! The one bucket: what was written, above the synthetic objects.
//!
//! Owns: [`Bucket`], objects and uploads, and the listing of both.
//! Invariants: a key that was written or deleted hides the synthetic one; a listing's cost depends on its
//! page, not on the number of keys.
//! Must never know: HTTP, XML, delays.

use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;

use crate::catalog::{Catalog, Cursor};
use crate::content::{Content, hash, mix};

/// What the synthetic objects say: 2025-01-01.
const SYNTHETIC_MODIFIED: Duration = Duration::from_secs(1_735_689_600);
/// S3's own, of all parts but the last.
const PART_BYTES_MIN: u64 = 5 << 20;

#[derive(Debug, Clone)]
pub struct Object {
    pub content: Content,
    /// In quotes.
    pub etag: String,
    pub modified: SystemTime,
    /// Content-Type, user metadata and the like, as they were given.
    pub headers: HeaderMap,
}

impl Object {
    fn synthetic(key: &str, size: u64) -> Object {
        Object {
            content: Content::of_key(key, size),
            etag: synthetic_etag(key, size),
            modified: SystemTime::UNIX_EPOCH + SYNTHETIC_MODIFIED,
            headers: HeaderMap::new(),
        }
    }
}

/// With a hyphen, so that nobody takes it for the MD5 of the content.
fn synthetic_etag(key: &str, size: u64) -> String {
    let sum = hash(key);
    format!("\"{sum:016x}{:016x}-1\"", mix(sum ^ size))
}

/// A multipart upload under way.
#[derive(Debug)]
pub struct Upload {
    pub key: String,
    pub headers: HeaderMap,
    /// By number: ETag and bytes.
    pub parts: BTreeMap<u32, (String, Content)>,
}

#[derive(Debug, Default)]
pub struct Bucket {
    catalog: Catalog,
    /// None: deleted.
    written: BTreeMap<String, Option<Arc<Object>>>,
    pub uploads: BTreeMap<String, Upload>,
    uploads_begun: u64,
}

/// S3's error code.
pub type Refusal = &'static str;

impl Bucket {
    pub fn new(catalog: Catalog) -> Bucket {
        Bucket { catalog, ..Bucket::default() }
    }

    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        match self.written.get(key) {
            Some(written) => written.clone(),
            None => self.catalog.find(key).map(|size| Arc::new(Object::synthetic(key, size))),
        }
    }

    pub fn put(&mut self, key: &str, object: Object) {
        self.written.insert(key.to_string(), Some(Arc::new(object)));
    }

    pub fn delete(&mut self, key: &str) {
        if self.catalog.find(key).is_some() {
            self.written.insert(key.to_string(), None);
        } else {
            self.written.remove(key);
        }
    }

    /// Answers the upload's id.
    pub fn create_upload(&mut self, key: &str, headers: HeaderMap) -> String {
        self.uploads_begun += 1;
        let id = format!("upload-{}", self.uploads_begun);
        self.uploads.insert(id.clone(), Upload { key: key.to_string(), headers, parts: BTreeMap::new() });
        id
    }

    /// The upload of that key and id.
    pub fn upload(&mut self, key: &str, id: &str) -> Result<&mut Upload, Refusal> {
        self.uploads.get_mut(id).filter(|upload| upload.key == key).ok_or("NoSuchUpload")
    }

    /// `wanted`: numbers and ETags, as the client lists them. Answers the object's ETag.
    pub fn complete(&mut self, key: &str, id: &str, wanted: &[(u32, String)]) -> Result<String, Refusal> {
        let upload = self.upload(key, id)?;
        if wanted.is_empty() || !wanted.is_sorted_by(|a, b| a.0 < b.0) {
            return Err("InvalidPartOrder");
        }
        let mut content = Content::default();
        let mut sum = 0;
        for (at, (number, etag)) in wanted.iter().enumerate() {
            let part = upload.parts.get(number).filter(|(has, _)| bare(has) == bare(etag));
            let (etag, bytes) = part.ok_or("InvalidPart")?;
            if at + 1 < wanted.len() && bytes.len() < PART_BYTES_MIN {
                return Err("EntityTooSmall");
            }
            content.append(bytes);
            sum = mix(sum ^ hash(etag));
        }
        let etag = format!("\"{sum:016x}{:016x}-{}\"", mix(sum), wanted.len());
        let headers = std::mem::take(&mut upload.headers);
        let modified = SystemTime::now();
        self.uploads.remove(id);
        self.put(key, Object { content, etag: etag.clone(), modified, headers });
        Ok(etag)
    }
}

fn bare(etag: &str) -> &str {
    etag.trim_matches('"')
}

/// What a listing is asked for.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    pub prefix: String,
    /// Empty: none.
    pub delimiter: String,
    /// The first key that may come.
    pub bound: String,
    pub max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    Object { size: u64, etag: String, modified: SystemTime },
    Prefix,
}

#[derive(Debug, Default)]
pub struct ListPage {
    /// In order of their names.
    pub entries: Vec<(String, Listed)>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// The least string that is greater than `key`.
pub fn after(key: &str) -> String {
    format!("{key}\0")
}

/// The least string that is greater than all that begin with `prefix`; None: there is none.
pub fn after_all_of(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// The first key that may come after `marker`. A marker that is itself a common prefix leaves out all
/// that it stands for.
pub fn bound_after(marker: &str, prefix: &str, delimiter: &str) -> Option<String> {
    let group = marker
        .strip_prefix(prefix)
        .is_some_and(|rest| common_prefix_len(rest, delimiter) == Some(rest.len()));
    if group { after_all_of(marker) } else { Some(after(marker)) }
}

fn common_prefix_len(rest: &str, delimiter: &str) -> Option<usize> {
    if delimiter.is_empty() {
        return None;
    }
    rest.find(delimiter).map(|at| at + delimiter.len())
}

/// The objects in order of their keys, from a bound on.
struct Walk<'a> {
    written: Peekable<btree_map::Range<'a, String, Option<Arc<Object>>>>,
    synthetic: Cursor<'a>,
}

impl Iterator for Walk<'_> {
    type Item = (String, Listed);

    fn next(&mut self) -> Option<(String, Listed)> {
        loop {
            let ours = self.written.peek().map(|(key, _)| key.as_str());
            let theirs = self.synthetic.peek().map(|(key, _)| key);
            if ours.is_none() || theirs.is_some_and(|theirs| Some(theirs) < ours) {
                let (key, size) = self.synthetic.advance()?;
                let modified = SystemTime::UNIX_EPOCH + SYNTHETIC_MODIFIED;
                let etag = synthetic_etag(&key, size);
                return Some((key, Listed::Object { size, etag, modified }));
            }
            if ours == theirs {
                self.synthetic.advance();
            }
            let (key, written) = self.written.next()?;
            if let Some(object) = written {
                let (size, etag) = (object.content.len(), object.etag.clone());
                return Some((key.clone(), Listed::Object { size, etag, modified: object.modified }));
            }
        }
    }
}

impl Bucket {
    fn walk(&self, bound: &str) -> Walk<'_> {
        let written = self.written.range::<str, _>((Bound::Included(bound), Bound::Unbounded)).peekable();
        Walk { written, synthetic: self.catalog.cursor(bound) }
    }

    pub fn list(&self, query: &ListQuery) -> ListPage {
        let mut page = ListPage::default();
        let mut walk = self.walk(query.bound.as_str().max(&query.prefix));
        while let Some((key, object)) = walk.next() {
            let Some(rest) = key.strip_prefix(&query.prefix) else { break };
            if page.entries.len() == query.max {
                // A page of no keys is the last, as S3 has it.
                page.next = Some(key).filter(|_| query.max > 0);
                break;
            }
            let Some(len) = common_prefix_len(rest, &query.delimiter) else {
                page.entries.push((key, object));
                continue;
            };
            let group = key[..query.prefix.len() + len].to_string();
            let next = after_all_of(&group);
            page.entries.push((group, Listed::Prefix));
            let Some(next) = next else { break };
            walk = self.walk(&next);
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(key: &str, len: u64) -> Object {
        Object::synthetic(key, len)
    }

    fn sample() -> Bucket {
        let specs = ["d:dirs=3,files=4,size=7", "d/d1:files=3,names=hex,size=5", "e:files=9"];
        let trees = specs.iter().map(|spec| spec.parse().unwrap()).collect();
        Bucket::new(Catalog::new(trees))
    }

    /// All names after `after` with that prefix, groups once, from a sorted list.
    fn naive(keys: &[String], prefix: &str, delimiter: &str, marker: Option<&str>) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for key in keys.iter().filter(|key| key.starts_with(prefix)) {
            let name = match common_prefix_len(&key[prefix.len()..], delimiter) {
                Some(len) => key[..prefix.len() + len].to_string(),
                None => key.clone(),
            };
            let passed = marker.is_some_and(|m| key.as_str() <= m || name == m);
            if !passed && names.last() != Some(&name) {
                names.push(name);
            }
        }
        names
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pages_are_those_of_a_sorted_list(
            puts in prop::collection::vec("[d-f]/?(d[0-3])?[/!]?[0-9f]{0,3}", 0..12), dels in prop::collection::vec(0usize..40, 0..12),
            prefix in "(d|e|d/|d/d1|d/d1/|f|)", delimiter in "(/|1|)", marker in prop::option::of("[d-f]/?(d[0-3])?/?[0-9f]{0,3}"),
            max in 1usize..9)
        {
            let mut bucket = sample();
            let all = |bucket: &Bucket| -> Vec<String> {
                let page = bucket.list(&ListQuery { max: usize::MAX, ..ListQuery::default() });
                names(&page)
            };
            prop_assert_eq!(all(&bucket).len(), 12 + 3 + 9);
            let mut keys: std::collections::BTreeSet<String> = all(&bucket).into_iter().collect();
            for key in &puts {
                bucket.put(key, object(key, 1));
                keys.insert(key.clone());
            }
            for at in dels {
                let Some(key) = keys.iter().nth(at).cloned() else { continue };
                bucket.delete(&key);
                keys.remove(&key);
                prop_assert!(bucket.get(&key).is_none());
            }
            let keys: Vec<String> = keys.into_iter().collect();
            prop_assert_eq!(&all(&bucket), &keys);
            let mut found = Vec::new();
            let mut bound = match &marker {
                Some(marker) => bound_after(marker, &prefix, &delimiter),
                None => Some(String::new()),
            };
            while let Some(from) = bound {
                let page = bucket.list(&ListQuery { prefix: prefix.clone(), delimiter: delimiter.clone(), bound: from, max });
                prop_assert!(page.entries.len() == max || page.next.is_none());
                found.extend(names(&page));
                bound = page.next;
            }
            prop_assert_eq!(found, naive(&keys, &prefix, &delimiter, marker.as_deref()));
            for key in keys {
                prop_assert!(bucket.get(&key).is_some());
            }
        }

        #[test]
        fn after_all_of_is_the_next(prefix in "[a-c\u{d7ff}\u{10ffff}]{1,3}", other in "[a-d\u{d7ff}\u{e000}\u{10ffff}]{0,4}") {
            match after_all_of(&prefix) {
                Some(next) => prop_assert_eq!(other >= next, other > prefix && !other.starts_with(&prefix)),
                None => prop_assert!(other <= prefix || other.starts_with(&prefix)),
            }
        }
    }

    fn names(page: &ListPage) -> Vec<String> {
        page.entries.iter().map(|(name, _)| name.clone()).collect()
    }

    #[test]
    fn a_directory_of_a_million_is_one_entry() {
        let bucket = Bucket::new(Catalog::new(vec!["huge:files=1000000".parse().unwrap()]));
        let page = bucket.list(&ListQuery { delimiter: "/".into(), max: 1000, ..ListQuery::default() });
        assert_eq!(page.entries, [("huge/".to_string(), Listed::Prefix)]);
        let inside = ListQuery {
            prefix: "huge/".into(),
            bound: after("huge/f499999"),
            max: 2,
            ..ListQuery::default()
        };
        let page = bucket.list(&inside);
        assert_eq!(names(&page), ["huge/f500000", "huge/f500001"]);
        assert_eq!(page.next.as_deref(), Some("huge/f500002"));
    }

    #[test]
    fn uploads_complete_as_s3_has_it() {
        let mut bucket = sample();
        let id = bucket.create_upload("k", HeaderMap::new());
        assert_eq!(bucket.complete("other", &id, &[(1, "a".into())]), Err("NoSuchUpload"));
        let part = |len| ("\"a\"".to_string(), Content::of_key("k", len));
        let upload = bucket.upload("k", &id).unwrap();
        upload.parts = [(1, part(PART_BYTES_MIN)), (2, part(1)), (3, part(1))].into();
        let list = |numbers: &[u32]| numbers.iter().map(|n| (*n, "a".to_string())).collect::<Vec<_>>();
        for (numbers, refusal) in [
            (&[2, 1][..], "InvalidPartOrder"),
            (&[], "InvalidPartOrder"),
            (&[1, 4], "InvalidPart"),
            (&[1, 2, 3], "EntityTooSmall"),
        ] {
            assert_eq!(bucket.complete("k", &id, &list(numbers)), Err(refusal));
        }
        let etag = bucket.complete("k", &id, &list(&[1, 3])).unwrap();
        let object = bucket.get("k").unwrap();
        assert!(etag.ends_with("-2\"") && object.etag == etag);
        assert_eq!(object.content.len(), PART_BYTES_MIN + 1);
        assert!(bucket.uploads.is_empty());
    }
}
