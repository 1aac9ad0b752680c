//! What the fake server holds, and how it lists it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::super::bytes as sums;
use super::buckets::Owner;

/// The order in which a server lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// By the key's bytes, as S3 does.
    #[default]
    Key,
    /// By path component, as SeaweedFS does: `d/1` before `d!x`, and `start-after=d!x` leaves `d/` out.
    Component,
    /// In one of its own: what begins with `m` to `z` comes first.
    Own,
}

impl Order {
    /// Bytes that sort as this order has it. Component order is key order with `/` below every other
    /// byte; NUL takes its place, which SeaweedFS's keys cannot hold either.
    pub fn sortable(self, key: &[u8]) -> Vec<u8> {
        match self {
            Order::Own => key.iter().map(|b| b.wrapping_sub(b'm')).collect(),
            _ => self.swap(key, b'/', 0),
        }
    }

    pub fn key(self, sortable: &[u8]) -> Vec<u8> {
        match self {
            Order::Own => sortable.iter().map(|b| b.wrapping_add(b'm')).collect(),
            _ => self.swap(sortable, 0, b'/'),
        }
    }

    fn swap(self, bytes: &[u8], from: u8, to: u8) -> Vec<u8> {
        match self {
            Order::Key | Order::Own => bytes.to_vec(),
            Order::Component => bytes.iter().map(|&b| if b == from { to } else { b }).collect(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Object {
    pub data: Bytes,
    /// With quotes.
    pub etag: String,
    pub last_modified: SystemTime,
    /// `content-type` and the other headers S3 keeps, by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// Without the prefix `x-amz-meta-`.
    pub metadata: BTreeMap<String, String>,
    /// The grants of its ACL; none: everything, to the owner.
    pub grants: Option<String>,
    /// As in `x-amz-tagging`: `KEY=VALUE&KEY=VALUE`.
    pub tags: String,
}

impl Object {
    pub fn new(data: Bytes, now: SystemTime) -> Object {
        let etag = sums::etag_of(&data);
        let (headers, metadata) = (BTreeMap::new(), BTreeMap::new());
        Object { data, etag, last_modified: now, headers, metadata, grants: None, tags: String::new() }
    }

    pub fn size(&self) -> u64 {
        self.data.len() as u64
    }

    pub fn content_type(&self) -> &str {
        self.headers.get("content-type").map_or("binary/octet-stream", String::as_str)
    }
}

#[derive(Debug, Clone)]
pub struct Part {
    pub data: Bytes,
    /// With quotes.
    pub etag: String,
    pub last_modified: SystemTime,
}

#[derive(Debug)]
pub struct Upload {
    pub initiated: SystemTime,
    pub headers: BTreeMap<String, String>,
    pub metadata: BTreeMap<String, String>,
    /// As [`Object::tags`].
    pub tags: String,
    /// `x-amz-checksum-algorithm` in upper case.
    pub checksum_algorithm: Option<String>,
    pub parts: BTreeMap<u32, Part>,
}

#[derive(Debug)]
pub struct Bucket {
    pub region: String,
    pub order: Order,
    /// By [`Order::sortable`] key.
    objects: BTreeMap<Vec<u8>, Arc<Object>>,
    /// By key and upload id.
    pub uploads: BTreeMap<(Vec<u8>, String), Upload>,
    pub owner: Owner,
    pub created: SystemTime,
}

/// Where a listing stands: after this key, or after all that begins with this prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    Key(Vec<u8>),
    Prefix(Vec<u8>),
}

impl Position {
    /// Opaque, as S3's tokens are.
    pub fn token(&self) -> String {
        let (mark, bytes) = match self {
            Position::Key(k) => (b'k', k),
            Position::Prefix(p) => (b'p', p),
        };
        let mut raw = vec![mark];
        raw.extend_from_slice(bytes);
        // Characters beyond letters and digits: a client that does not encode its query shows here.
        format!("1+{}/=", sums::hex(&raw))
    }

    pub fn parse(token: &str) -> Option<Position> {
        let text = token.strip_prefix("1+")?.strip_suffix("/=")?;
        let raw: Option<Vec<u8>> =
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect();
        let raw = raw?;
        match raw.split_first()? {
            (b'k', rest) => Some(Position::Key(rest.to_vec())),
            (b'p', rest) => Some(Position::Prefix(rest.to_vec())),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub struct Page {
    pub contents: Vec<(Vec<u8>, Arc<Object>)>,
    pub common_prefixes: Vec<Vec<u8>>,
    /// Set exactly when more is to come.
    pub next: Option<Position>,
}

impl Bucket {
    pub fn new(region: &str, order: Order) -> Bucket {
        Bucket {
            region: region.to_string(),
            order,
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            owner: Owner::Us,
            created: SystemTime::UNIX_EPOCH,
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<&Arc<Object>> {
        self.objects.get(&self.order.sortable(key))
    }

    pub fn put(&mut self, key: &[u8], object: Arc<Object>) {
        self.objects.insert(self.order.sortable(key), object);
    }

    /// Sets a header of an object.
    pub fn change(&mut self, key: &[u8], name: &str, value: &str) {
        let object = self.get_mut(key).expect("the object");
        object.headers.insert(name.to_string(), value.to_string());
    }

    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut Object> {
        self.objects.get_mut(&self.order.sortable(key)).map(Arc::make_mut)
    }

    pub fn remove(&mut self, key: &[u8]) -> bool {
        self.objects.remove(&self.order.sortable(key)).is_some()
    }

    /// In listing order.
    pub fn keys(&self) -> impl Iterator<Item = Vec<u8>> {
        self.objects.keys().map(|k| self.order.key(k))
    }

    /// One page of at most `max` keys and common prefixes together.
    pub fn list(&self, prefix: &[u8], delimiter: &[u8], after: Option<&Position>, max: usize) -> Page {
        let prefix = self.order.sortable(prefix);
        let delimiter = self.order.sortable(delimiter);
        let mut page = Page::default();
        let mut from = match after {
            None => Bound::Included(prefix.clone()),
            Some(Position::Key(key)) => {
                let key = self.order.sortable(key);
                if key < prefix { Bound::Included(prefix.clone()) } else { Bound::Excluded(key) }
            }
            Some(Position::Prefix(p)) => match successor(&self.order.sortable(p)) {
                Some(next) => Bound::Included(next.max(prefix.clone())),
                None => return page,
            },
        };
        let mut last = None;
        loop {
            // One step over the map, or one jump over all that a common prefix stands for.
            let Some((key, object)) = self.objects.range((from, Bound::Unbounded)).next() else {
                return page;
            };
            if !key.starts_with(&prefix) {
                return page;
            }
            if page.contents.len() + page.common_prefixes.len() >= max {
                page.next = last;
                return page;
            }
            let rest = &key[prefix.len()..];
            match find(rest, &delimiter) {
                Some(at) => {
                    let common = key[..prefix.len() + at + delimiter.len()].to_vec();
                    page.common_prefixes.push(self.order.key(&common));
                    last = Some(Position::Prefix(self.order.key(&common)));
                    match successor(&common) {
                        Some(next) => from = Bound::Included(next),
                        None => return page,
                    }
                }
                None => {
                    page.contents.push((self.order.key(key), object.clone()));
                    last = Some(Position::Key(self.order.key(key)));
                    from = Bound::Excluded(key.clone());
                }
            }
        }
    }
}

/// The least byte string above everything that begins with `prefix`.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < 0xff {
            next.push(last + 1);
            return Some(next);
        }
    }
    None
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return None;
    }
    hay.windows(needle.len()).position(|w| w == needle)
}
