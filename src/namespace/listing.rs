//! Directory streams: what is known of a directory, or paginated listings turned into names, each once,
//! as the pages arrive.
//!
//! Owns: [`DirStream`] (one open directory handle's way through the listing) and [`Merge`] (pages to entries:
//! pure).
//! Invariants: no name comes twice, whatever the page boundaries and the server's order; memory is
//! bounded by the pages asked for ahead, the names that may still turn out to be directories, and eight bytes
//! a name.
//!
//! In key order `a` comes before `a-0` and only then `a/…`, so a file `a` is held back until the
//! listing has passed `a/`: at most one name is held for each byte of the last key. A server that does
//! not list in key order (SeaweedFS) shows itself by a key smaller than the last;
//! from then on nothing is held back, and a name that came before is left out by its hash.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use super::dir::{Span, passes};
use super::pages::{Ask, Begin, Pages};
use super::{FileInfo, Kind, Namespace, Node, Question, buckets};
use crate::error::Error;
use crate::key;
use crate::s3::{ListObjectsV2, ListPage};

/// Entries taken at once from what is known.
const KNOWN_ENTRIES: usize = 1000;

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub node: Node,
}

/// An entry that no later page can change.
pub(super) struct Decided {
    pub listed: Listed,
    /// When the page was asked for that told of it.
    pub asked: Instant,
    /// It was given before.
    again: bool,
}

/// Pages in, entries out.
pub(super) struct Merge {
    dir: String,
    /// The greatest key or prefix seen.
    last: String,
    in_order: bool,
    /// Files that may still turn out to be directories, each the beginning of the next, and when asked for.
    held: Vec<(Listed, Instant)>,
    ready: VecDeque<Decided>,
    given: HashSet<u64>,
    hasher: RandomState,
    marker: bool,
    hidden: u64,
}

impl Merge {
    fn new(dir: &str) -> Merge {
        Merge::after(dir, "")
    }

    /// For pages that begin after the item `after` of the directory.
    pub fn after(dir: &str, after: &str) -> Merge {
        Merge {
            dir: dir.into(),
            last: format!("{dir}{after}"),
            in_order: true,
            held: Vec::new(),
            ready: VecDeque::new(),
            given: HashSet::new(),
            hasher: RandomState::new(),
            marker: false,
            hidden: 0,
        }
    }

    pub fn in_order(&self) -> bool {
        self.in_order
    }

    /// The greatest item seen: a name, with `/` where that is a directory.
    pub fn last(&self) -> &str {
        self.last.strip_prefix(&self.dir).unwrap_or_default()
    }

    /// The entries that are decided by now, each once.
    pub fn decided(&mut self) -> impl Iterator<Item = Decided> {
        self.ready.drain(..)
    }

    /// Takes in a page that was asked for at `asked`.
    pub fn page(&mut self, page: ListPage, asked: Instant) {
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
                self.item(&object.key, Some(FileInfo::from(&object)), asked);
            } else {
                let Some(prefix) = prefixes.next() else { return };
                self.item(&prefix, None, asked);
            }
        }
    }

    /// One key (with what it is) or common prefix.
    fn item(&mut self, item: &str, file: Option<FileInfo>, asked: Instant) {
        if item == self.dir {
            self.marker = true;
            return;
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
            Some(info) => self.held.push((Listed { name, node: Node::File(info) }, asked)),
            None => {
                self.held.retain(|(held, _)| held.name != name);
                self.give(Listed { name, node: Node::Directory }, asked);
            }
        }
        if !self.in_order {
            self.release_all();
        }
    }

    /// Gives the held files whose directory would have come before `item`.
    fn release_passed(&mut self, item: &str) {
        let item = item.strip_prefix(&self.dir).unwrap_or(item);
        let is_own = |name: &str| item.strip_suffix('/') == Some(name);
        while self.held.last().is_some_and(|(last, _)| passes(&last.name, item) && !is_own(&last.name)) {
            if let Some((passed, asked)) = self.held.pop() {
                self.give(passed, asked);
            }
        }
    }

    /// At the end of the listing: no directory is to come.
    pub fn release_all(&mut self) {
        for (held, asked) in std::mem::take(&mut self.held) {
            self.give(held, asked);
        }
    }

    fn give(&mut self, listed: Listed, asked: Instant) {
        let again = !self.given.insert(self.hasher.hash_one(&listed.name));
        self.ready.push_back(Decided { listed, asked, again });
    }

    /// Counts a name as given.
    fn leave_out(&mut self, name: &str) {
        self.given.insert(self.hasher.hash_one(name));
    }
}

pub struct DirStream {
    namespace: Arc<Namespace>,
    ino: u64,
    dir: String,
    from: From,
    merge: Merge,
    ready: VecDeque<Listed>,
    /// What is changed in the directory while it is read is not forgotten meanwhile.
    reading: Option<Question>,
    /// When what is known was asked for, where it began with that.
    known: Option<Instant>,
    /// When the listing's first page was asked for.
    begun: Option<Instant>,
    /// Names that only this mount knew when the listing began, given first.
    local: VecDeque<(u64, String)>,
}

/// Where entries come from.
enum From {
    NotBegun,
    /// What is known, after this item.
    Known(String),
    Pages(Box<Pages>),
    End,
}

impl DirStream {
    pub fn new(namespace: Arc<Namespace>, ino: u64) -> DirStream {
        DirStream {
            namespace,
            ino,
            dir: String::new(),
            from: From::NotBegun,
            merge: Merge::new(""),
            ready: VecDeque::new(),
            reading: None,
            known: None,
            begun: None,
            local: VecDeque::new(),
        }
    }

    /// What is read: the directory's inode.
    pub fn directory(&self) -> (&Arc<Namespace>, u64) {
        (&self.namespace, self.ino)
    }

    /// When the one listing was asked for that all entries so far are of; none where they are of several.
    pub fn as_of(&self) -> Option<Instant> {
        if self.known.is_some() && self.begun.is_some() { None } else { self.known.or(self.begun) }
    }

    /// Begins now where all is known and fresh, and that for as long as the stream lives. Answers since when.
    pub fn begin_known(&mut self) -> Option<Instant> {
        let dir = self.namespace.dir_key(self.ino).ok()?;
        let asked = self.namespace.lock().whole_since(&dir)?;
        self.enter(dir);
        self.know(asked);
        Some(asked)
    }

    fn enter(&mut self, dir: String) {
        self.merge = Merge::new(&dir);
        self.reading = Some(self.namespace.question(&dir));
        self.dir = dir;
    }

    fn know(&mut self, asked: Instant) {
        self.namespace.lock().listing_began(&self.dir, asked);
        self.known = Some(asked);
        self.from = From::Known(String::new());
    }

    /// The next entry; none at the end. What the listing tells of it is taken note of.
    pub async fn next(&mut self) -> Result<Option<Listed>, Error> {
        loop {
            if let Some(entry) = self.next_local().or_else(|| self.ready.pop_front()) {
                return Ok(Some(entry));
            }
            match &mut self.from {
                From::NotBegun => self.begin().await?,
                From::Known(after) => {
                    let after = std::mem::take(after);
                    self.take_known(after);
                }
                From::Pages(pages) => match pages.next().await {
                    Ok(Some((page, asked))) => {
                        let last = pages.at_end();
                        self.take_page(page, asked, last);
                    }
                    Ok(None) => self.from = From::End,
                    Err(e) => {
                        self.from = From::End;
                        return Err(e);
                    }
                },
                From::End => return Ok(None),
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Error> {
        self.enter(self.namespace.dir_key(self.ino)?);
        match self.namespace.clone().whole(&self.dir).await {
            Some(asked) => self.know(asked),
            None => {
                self.namespace.lock().listing_began(&self.dir, Instant::now());
                self.from = self.ask();
            }
        }
        Ok(())
    }

    fn ask(&mut self) -> From {
        self.local = self.namespace.lock().local_names(&self.dir).into();
        let merge = &self.merge;
        self.local.retain(|(_, name)| !merge.given.contains(&merge.hasher.hash_one(name)));
        self.local.iter().for_each(|(_, name)| self.merge.leave_out(name));
        From::Pages(Box::new(Pages::new(&self.dir, ask(&self.namespace, &self.dir))))
    }

    fn next_local(&mut self) -> Option<Listed> {
        loop {
            let (ino, name) = self.local.pop_front()?;
            if let Ok(Some(entry)) = self.namespace.attributes_known(ino)
                && self.namespace.lock().child_in(&self.dir, &name) == Some(ino)
            {
                return Some(Listed { name, node: entry.node });
            }
            // Published or removed meanwhile: whether it is there, the listing tells.
            self.merge.given.remove(&self.merge.hasher.hash_one(&name));
        }
    }

    /// Goes on after an item of what is known; if that was dropped meanwhile, with what S3 has.
    fn take_known(&mut self, after: String) {
        let entries = self.namespace.lock().entries_after(&self.dir, &after, KNOWN_ENTRIES);
        self.from = match entries {
            Some(entries) => {
                let next = entries.last().map(|(item, _)| item.clone());
                for (_, listed) in entries {
                    self.merge.leave_out(&listed.name);
                    self.ready.push_back(listed);
                }
                next.map_or(From::End, From::Known)
            }
            None => self.ask(),
        };
    }

    /// Takes in a page: its entries are heard, and so is what it shows not to be there.
    fn take_page(&mut self, page: ListPage, asked: Instant, last: bool) {
        let first = self.begun.is_none();
        let begun = *self.begun.get_or_insert(asked);
        let after: Box<str> = self.merge.last().into();
        self.merge.page(page, asked);
        if last {
            self.merge.release_all();
            self.log_hidden();
        }
        if !self.merge.in_order {
            self.namespace.lists_in_another_order(&self.dir);
        }
        // Where the server knows no order, pages are in order by chance.
        let in_order = self.merge.in_order && self.namespace.in_key_order();
        let decided: Vec<Decided> = self.merge.decided().collect();
        let mut table = self.namespace.lock();
        let span = match (in_order, last) {
            (true, true) => Some(Span { after, upto: None, asked }),
            (true, false) => Some(Span { after, upto: Some(self.merge.last().into()), asked }),
            // In no order only the whole says what is not there, if none of it had to make room.
            (false, true) => (first || table.hears(&self.dir, begun)).then(|| Span::whole(begun)),
            (false, false) => first.then(|| Span::nothing(begun)),
        };
        // Out of order, a file may come after the directory of its name, which hides it.
        let said = decided.iter().filter(|d| in_order || !d.again || d.listed.node.kind() == Kind::Directory);
        let said = said.map(|d| (d.listed.name.as_str(), &d.listed.node, d.asked));
        table.hear_range(&self.dir, said, span, in_order.then_some(begun));
        if self.merge.marker {
            table.hear_marker(&self.dir, begun);
        }
        table.shrink();
        drop(table);
        self.ready.extend(decided.into_iter().filter(|d| !d.again).map(|d| d.listed));
    }

    fn log_hidden(&self) {
        if self.merge.hidden > 0 {
            let (dir, hidden) = (&self.dir, self.merge.hidden);
            tracing::warn!(dir = %dir.escape_debug(), hidden, "keys that no path can name are not shown");
        }
    }
}

/// How the pages of a directory are asked for.
fn ask(namespace: &Namespace, dir: &str) -> Ask {
    let (client, prefix) = (namespace.client.clone(), dir.to_string());
    if namespace.is_of_buckets() {
        let table = namespace.table.clone();
        return Box::new(move |begin| {
            let (client, table) = (client.clone(), table.clone());
            let token = if let Begin::Token(token) = begin { Some(token) } else { None };
            Box::pin(async move { buckets::list(&client, &table, token.as_deref()).await })
        });
    }
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
        if !matches!(self.from, From::NotBegun) {
            self.namespace.lock().listing_ended(&self.dir);
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
                        checksum: None,
                    });
                }
            }
            merge.page(page, Instant::now());
        }
        merge.release_all();
        let given = merge.decided().filter(|d| !d.again);
        given.map(|d| (d.listed.name, d.listed.node == Node::Directory)).collect()
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
            checksum: None,
        };
        for n in 0..1000 {
            let contents = (0..100).map(|m| object(format!("k-{n:04}-{m:04}"))).collect();
            merge.page(ListPage { contents, ..Default::default() }, Instant::now());
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
