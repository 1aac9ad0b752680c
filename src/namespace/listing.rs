//! Directory streams: paginated listings turned into names, each once, as the pages arrive.
//!
//! Owns: [`DirStream`] (one open directory handle's way through the listing) and [`Merge`] (pages to entries:
//! pure).
//! Invariants: no name comes twice, whatever the page boundaries and the server's order; memory is
//! bounded by the pages asked for ahead, the names that may still turn out to be directories, and eight bytes
//! a name.
//!
//! In key order `a` comes before `a-0` and only then `a/…`, so a file `a` is held back until the
//! listing has passed `a/`: at most one name is held for each byte of the last key. A server that does
//! not list in key order (SeaweedFS, S3's directory buckets) shows itself by a key smaller than the last;
//! from then on nothing is held back, and a name that came before is left out by its hash.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use super::inode::Source;
use super::pages::{Ask, Begin, Pages};
use super::{FileInfo, Namespace, Node};
use crate::error::Error;
use crate::key;
use crate::s3::{ListObjectsV2, ListPage};

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub node: Node,
}

/// Pages in, entries out.
struct Merge {
    dir: String,
    /// The greatest key or prefix seen.
    last: String,
    in_order: bool,
    /// Files that may still turn out to be directories, each the beginning of the next.
    held: Vec<Listed>,
    ready: VecDeque<Listed>,
    given: HashSet<u64>,
    hasher: RandomState,
    hidden: u64,
}

impl Merge {
    fn new(dir: &str) -> Merge {
        Merge {
            dir: dir.into(),
            last: String::new(),
            in_order: true,
            held: Vec::new(),
            ready: VecDeque::new(),
            given: HashSet::new(),
            hasher: RandomState::new(),
            hidden: 0,
        }
    }

    fn page(&mut self, page: ListPage) {
        self.hidden += page.undecodable;
        let mut files = page.contents.into_iter().peekable();
        let mut prefixes = page.common_prefixes.into_iter().peekable();
        loop {
            let file_first = match (files.peek(), prefixes.peek()) {
                (Some(file), Some(prefix)) => file.key < *prefix,
                (file, _) => file.is_some(),
            };
            if file_first {
                let Some(object) = files.next() else { return };
                self.item(&object.key, Some(FileInfo::from(&object)));
            } else {
                let Some(prefix) = prefixes.next() else { return };
                self.item(&prefix, None);
            }
        }
    }

    /// One key (with what it is) or common prefix.
    fn item(&mut self, item: &str, file: Option<FileInfo>) {
        if item == self.dir {
            return; // the directory's own marker
        }
        if item < self.last.as_str() {
            self.in_order = false;
        } else {
            self.last.clear();
            self.last.push_str(item);
        }
        let key = if file.is_none() { item.strip_suffix('/').unwrap_or(item) } else { item };
        let Some(name) = key::visible_name(&self.dir, key).map(str::to_owned) else {
            self.hidden += 1;
            return;
        };
        self.release_passed(item);
        match file {
            Some(info) => self.held.push(Listed { name, node: Node::File(info) }),
            None => {
                self.held.retain(|held| held.name != name);
                self.give(Listed { name, node: Node::Directory });
            }
        }
        if !self.in_order {
            self.release_all();
        }
    }

    /// Gives the held files whose directory would have come before `item`.
    fn release_passed(&mut self, item: &str) {
        let item = item.strip_prefix(&self.dir).unwrap_or(item).as_bytes();
        while let Some(last) = self.held.last() {
            let name = last.name.as_bytes();
            let directory_to_come =
                item.starts_with(name) && item.get(name.len()).is_some_and(|b| *b <= b'/');
            if directory_to_come {
                return;
            }
            if let Some(passed) = self.held.pop() {
                self.give(passed);
            }
        }
    }

    fn release_all(&mut self) {
        for held in std::mem::take(&mut self.held) {
            self.give(held);
        }
    }

    fn give(&mut self, entry: Listed) {
        if self.given.insert(self.hasher.hash_one(&entry.name)) {
            self.ready.push_back(entry);
        }
    }
}

pub struct DirStream {
    namespace: Arc<Namespace>,
    dir: u64,
    merge: Merge,
    /// When the page was asked for from which `merge.ready` comes.
    asked: Instant,
    /// None: nothing was asked for yet.
    pages: Option<Pages>,
    /// Names that only this mount knew when the stream began, given first.
    local: VecDeque<(u64, String)>,
}

impl DirStream {
    pub fn new(namespace: Arc<Namespace>, dir: u64) -> DirStream {
        let local: VecDeque<_> = namespace.local_names(dir).into();
        let mut merge = Merge::new("");
        for (_, name) in &local {
            merge.given.insert(merge.hasher.hash_one(name));
        }
        DirStream { namespace, dir, merge, asked: Instant::now(), pages: None, local }
    }

    /// The next entry; none at the end. Its attributes are taken note of.
    pub async fn next(&mut self) -> Result<Option<Listed>, Error> {
        loop {
            if let Some(entry) = self.next_local() {
                return Ok(Some(entry));
            }
            if let Some(entry) = self.merge.ready.pop_front() {
                let said = Some(entry.node);
                let heard = self.namespace.hear(self.dir, &entry.name, said, self.asked, Source::Listed);
                match heard {
                    Some(node) => return Ok(Some(Listed { name: entry.name, node })),
                    None => continue, // removed here since the page was asked for
                }
            }
            if !self.fetch().await? {
                return Ok(None);
            }
        }
    }

    fn next_local(&mut self) -> Option<Listed> {
        loop {
            let (ino, name) = self.local.pop_front()?;
            if let Ok(Some(entry)) = self.namespace.attributes_known(ino)
                && self.namespace.ino_of(self.dir, &name) == Some(ino)
            {
                return Some(Listed { name, node: entry.node });
            }
            // Published or removed meanwhile: whether it is there, the listing tells.
            self.merge.given.remove(&self.merge.hasher.hash_one(&name));
        }
    }

    /// Takes in the next page. False at the end of the listing.
    async fn fetch(&mut self) -> Result<bool, Error> {
        let pages = match &mut self.pages {
            Some(pages) => pages,
            None => {
                self.merge.dir = self.namespace.dir_key(self.dir)?;
                self.namespace.lock().listing_began(self.dir);
                self.pages.insert(Pages::new(&self.merge.dir, ask(&self.namespace, &self.merge.dir)))
            }
        };
        let Some((page, asked)) = pages.next().await? else { return Ok(false) };
        self.asked = asked;
        self.merge.page(page);
        if pages.at_end() {
            self.merge.release_all();
            if self.merge.hidden > 0 {
                let (dir, hidden) = (&self.merge.dir, self.merge.hidden);
                tracing::warn!(dir = %dir.escape_debug(), hidden, "keys that no path can name are not shown");
            }
        }
        Ok(true)
    }
}

/// How the pages of a directory are asked for.
fn ask(namespace: &Namespace, dir: &str) -> Ask {
    let (client, prefix) = (namespace.client.clone(), dir.to_string());
    Box::new(move |begin| {
        let mut query = ListObjectsV2 { prefix: prefix.clone(), delimiter: true, ..Default::default() };
        match begin {
            Begin::Start => {}
            Begin::Token(token) => query.continuation_token = Some(token),
            Begin::Key(key) => query.start_after = Some(key),
        }
        let client = client.clone();
        Box::pin(async move { client.list_objects_v2(&query).await })
    })
}

impl Drop for DirStream {
    fn drop(&mut self) {
        if self.pages.is_some() {
            self.namespace.lock().listing_ended(self.dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::ListedObject;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::SystemTime;

    /// The listing of `keys` with delimiter, cut in pages, through the merge.
    fn listed(keys: &[String], page_keys: usize, in_key_order: bool) -> Vec<(String, bool)> {
        let mut items: Vec<(String, bool)> = keys
            .iter()
            .map(|key| match key.split_once('/') {
                Some((dir, _)) => (format!("{dir}/"), true),
                None => (key.clone(), false),
            })
            .collect();
        if !in_key_order {
            items.sort_by_key(|(item, _)| item.trim_end_matches('/').to_owned());
        }
        items.dedup();
        let mut merge = Merge::new("");
        for chunk in items.chunks(page_keys) {
            let mut page = ListPage::default();
            for (item, is_prefix) in chunk {
                if *is_prefix {
                    page.common_prefixes.push(item.clone());
                } else {
                    page.contents.push(ListedObject {
                        key: item.clone(),
                        size: 1,
                        etag: "\"e\"".into(),
                        last_modified: SystemTime::UNIX_EPOCH,
                        storage_class: None,
                    });
                }
            }
            merge.page(page);
        }
        merge.release_all();
        merge.ready.into_iter().map(|l| (l.name, l.node == Node::Directory)).collect()
    }

    fn expected(keys: &[String]) -> BTreeMap<String, bool> {
        let mut names = BTreeMap::new();
        for key in keys {
            let (name, dir) = key.split_once('/').map_or((key.as_str(), false), |(d, _)| (d, true));
            if key::check_name(name.as_bytes()).is_ok() {
                *names.entry(name.to_owned()).or_insert(false) |= dir;
            }
        }
        names
    }

    #[test]
    fn a_file_and_a_directory_of_one_name_far_apart_are_one_directory() {
        let mut keys: Vec<String> = vec!["a".into(), "a/x".into()];
        keys.extend((0..1500).map(|n| format!("a-{n:04}")));
        keys.sort();
        for page_keys in [1, 2, 1000] {
            let names = listed(&keys, page_keys, true);
            assert_eq!(names.len(), 1501, "no name twice");
            assert!(names.contains(&("a".into(), true)));
        }
    }

    #[test]
    fn few_names_are_held_back() {
        let mut merge = Merge::new("");
        let object = |key: String| ListedObject {
            key,
            size: 1,
            etag: "e".into(),
            last_modified: SystemTime::UNIX_EPOCH,
            storage_class: None,
        };
        for n in 0..1000 {
            let contents = (0..100).map(|m| object(format!("k-{n:04}-{m:04}"))).collect();
            merge.page(ListPage { contents, ..Default::default() });
            assert!(merge.held.len() <= 1);
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_once_in_key_order(
            keys in proptest::collection::btree_set("[a!/.0-]{1,5}", 0..40),
            page_keys in 1usize..5,
        ) {
            let keys: Vec<String> = keys.into_iter().collect();
            let names = listed(&keys, page_keys, true);
            let got: BTreeMap<_, _> = names.iter().cloned().collect();
            prop_assert_eq!(names.len(), got.len(), "twice: {:?}", names);
            prop_assert_eq!(got, expected(&keys));
        }

        #[test]
        fn every_name_comes_once_in_another_order(
            keys in proptest::collection::btree_set("[a!/.0-]{1,5}", 0..40),
            page_keys in 1usize..5,
        ) {
            let keys: Vec<String> = keys.into_iter().collect();
            let names = listed(&keys, page_keys, false);
            let got: BTreeSet<_> = names.iter().map(|(name, _)| name.clone()).collect();
            prop_assert_eq!(names.len(), got.len(), "twice: {:?}", names);
            prop_assert_eq!(got, expected(&keys).into_keys().collect::<BTreeSet<_>>());
        }
    }
}
