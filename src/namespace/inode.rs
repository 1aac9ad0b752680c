//! The inode table.
//!
//! Owns: [`Table`]: inodes by number and by (parent, name); names heard of that have no inode, in a
//! capped LRU. An inode's knowledge stands in the inode only, a name's without inode in the LRU only.
//! Invariants: the root is always there; an inode is dropped when the kernel, handles and children are
//! all gone; knowledge from before a local change is not taken.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;

use super::leaving::Leaving;
use super::{Entry, FileInfo, Kind, Node};
use crate::key::{self, ROOT_INO};

/// Names without an inode that are remembered, at most (about 200 bytes each).
const NAMES_HEARD_MAX: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

pub(super) struct Table {
    bucket: String,
    prefix: String,
    ttl: Duration,
    inodes: HashMap<u64, Inode>,
    by_name: HashMap<(u64, Box<str>), u64>,
    heard: LruCache<(u64, Box<str>), Heard>,
    /// Inodes of files that S3 does not have yet, or not as they are here.
    local: HashSet<u64>,
    leaving: Leaving,
    /// Directories that a handle lists: how many handles, and since when.
    listed: HashMap<u64, (usize, Instant)>,
}

struct Inode {
    parent: u64,
    name: Box<str>,
    node: Node,
    heard: When,
    /// The kernel's references.
    lookups: u64,
    /// Handles.
    pins: usize,
    /// Inodes whose parent this is.
    children: usize,
    /// Whether its name still leads here.
    linked: bool,
    /// Directories: the marker object is known to be there.
    marker: bool,
}

struct Heard {
    /// None: nothing stands at this name.
    node: Option<Node>,
    when: When,
}

/// When something was learnt (for an answer: when it was asked for), and from whom.
#[derive(Clone, Copy)]
struct When {
    at: Instant,
    source: Source,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Source {
    /// HEAD or a listing of one name.
    Asked,
    /// The listing of a directory.
    Listed,
    /// We changed it ourselves.
    Changed,
    /// What we meant to change, and failed to: never fresh.
    Doubted,
}

impl When {
    fn now(source: Source) -> When {
        When { at: Instant::now(), source }
    }

    /// Whether an answer asked for at `asked` may replace what is known.
    fn gives_way_to(self, asked: Instant) -> bool {
        if self.source == Source::Changed { asked > self.at } else { asked >= self.at }
    }
}

impl Table {
    pub(super) fn new(bucket: &str, prefix: &str, ttl: Duration) -> Table {
        let root = Inode {
            parent: ROOT_INO,
            name: "".into(),
            node: Node::Directory,
            heard: When::now(Source::Asked),
            lookups: 1,
            pins: 0,
            children: 0,
            linked: true,
            marker: true,
        };
        Table {
            bucket: bucket.into(),
            prefix: prefix.into(),
            ttl,
            inodes: HashMap::from([(ROOT_INO, root)]),
            by_name: HashMap::new(),
            heard: LruCache::new(NAMES_HEARD_MAX),
            local: HashSet::new(),
            leaving: Leaving::default(),
            listed: HashMap::new(),
        }
    }

    pub(super) fn inodes(&self) -> usize {
        self.inodes.len()
    }

    pub(super) fn names_heard(&self) -> usize {
        self.heard.len()
    }

    /// The key, from the names up to the root. None for an inode whose name is gone.
    pub(super) fn key(&self, ino: u64) -> Option<String> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT_INO {
            let inode = self.inodes.get(&at).filter(|inode| inode.linked)?;
            names.push(&inode.name);
            at = inode.parent;
        }
        let mut key = self.prefix.clone();
        for (depth, name) in names.iter().enumerate().rev() {
            key.push_str(name);
            if depth > 0 {
                key.push('/');
            }
        }
        if ino != ROOT_INO && self.kind(ino)? == Kind::Directory {
            key.push('/');
        }
        Some(key)
    }

    pub(super) fn kind(&self, ino: u64) -> Option<Kind> {
        self.inodes.get(&ino).map(|inode| inode.node.kind())
    }

    pub(super) fn parent(&self, ino: u64) -> Option<u64> {
        self.inodes.get(&ino).map(|inode| inode.parent)
    }

    /// Parent and name, while the name leads to the inode.
    pub(super) fn name(&self, ino: u64) -> Option<(u64, String)> {
        let inode = self.inodes.get(&ino).filter(|inode| inode.linked)?;
        Some((inode.parent, inode.name.to_string()))
    }

    pub(super) fn child(&self, parent: u64, name: &str) -> Option<u64> {
        self.by_name.get(&(parent, name.into())).copied()
    }

    /// What is known of the inode, however old.
    pub(super) fn entry(&self, ino: u64) -> Option<Entry> {
        let inode = self.inodes.get(&ino)?;
        let ttl =
            if self.is_local(ino) { self.ttl } else { self.ttl.saturating_sub(inode.heard.at.elapsed()) };
        Some(Entry { ino, node: inode.node.clone(), ttl })
    }

    /// What is known of the inode, if it is fresh.
    pub(super) fn fresh_entry(&self, ino: u64) -> Option<Entry> {
        let inode = self.inodes.get(&ino)?;
        let fresh = self.is_local(ino) || self.is_fresh(inode.parent, inode.heard);
        if fresh { self.entry(ino) } else { None }
    }

    /// What is known of the name, however old: a node, or that there is none. None: nothing is known.
    pub(super) fn known(&self, parent: u64, name: &str) -> Option<Option<Node>> {
        if let Some(ino) = self.child(parent, name) {
            return self.entry(ino).map(|entry| Some(entry.node));
        }
        if self.leaving.contains(parent, name) {
            return Some(None);
        }
        self.heard.peek(&(parent, name.into())).map(|heard| heard.node.clone())
    }

    /// What is known of the name, if it is fresh: a node, or that there is none.
    pub(super) fn fresh_name(&mut self, parent: u64, name: &str) -> Option<Option<Node>> {
        if let Some(ino) = self.child(parent, name) {
            return self.fresh_entry(ino).map(|entry| Some(entry.node));
        }
        if self.leaving.contains(parent, name) {
            return Some(None);
        }
        let heard = self.heard.get(&(parent, name.into()))?;
        let (node, when) = (heard.node.clone(), heard.when);
        self.is_fresh(parent, when).then_some(node)
    }

    fn is_fresh(&self, parent: u64, when: When) -> bool {
        let listed_still = || self.listed.get(&parent).is_some_and(|(_, since)| when.at >= *since);
        match when.source {
            Source::Doubted => false,
            Source::Listed => when.at.elapsed() < self.ttl || listed_still(),
            Source::Asked | Source::Changed => when.at.elapsed() < self.ttl,
        }
    }

    pub(super) fn hear(
        &mut self,
        dir: u64,
        name: &str,
        said: Option<Node>,
        asked: Instant,
        source: Source,
    ) -> Option<Node> {
        if let Some(ino) = self.child(dir, name) {
            let local = self.is_local(ino);
            let inode = self.inodes.get_mut(&ino)?;
            if local || !inode.heard.gives_way_to(asked) {
                return Some(inode.node.clone());
            }
            if said.as_ref().map(Node::kind) == Some(inode.node.kind()) {
                inode.heard = When { at: asked, source };
                inode.node = said?;
                return Some(inode.node.clone());
            }
            self.detach(ino);
        }
        if self.leaving.contains(dir, name) {
            return None;
        }
        let name_key = (dir, Box::<str>::from(name));
        if let Some(known) = self.heard.peek(&name_key)
            && !known.when.gives_way_to(asked)
        {
            return known.node.clone();
        }
        let heard = Heard { node: said.clone(), when: When { at: asked, source } };
        self.heard.put(name_key, heard);
        said
    }

    /// The inode of a name, made if there is none. An inode of another kind is detached.
    pub(super) fn intern(&mut self, parent: u64, name: &str, node: &Node) -> u64 {
        if let Some(ino) = self.child(parent, name) {
            if self.kind(ino) == Some(node.kind()) {
                return ino;
            }
            self.detach(ino);
        }
        let heard = self.heard.pop(&(parent, name.into())).filter(|heard| heard.node.as_ref() == Some(node));
        let ino = self.free_number(parent, name, node.kind());
        let inode = Inode {
            parent,
            name: name.into(),
            node: node.clone(),
            heard: heard.map_or(When::now(Source::Asked), |heard| heard.when),
            lookups: 0,
            pins: 0,
            children: 0,
            linked: true,
            marker: false,
        };
        self.inodes.insert(ino, inode);
        self.by_name.insert((parent, name.into()), ino);
        if let Some(dir) = self.inodes.get_mut(&parent) {
            dir.children += 1;
        }
        ino
    }

    /// The number that follows from the key.
    pub(super) fn number(&self, parent: u64, name: &str, kind: Kind) -> u64 {
        let mut key = self.key(parent).unwrap_or_default();
        key.push_str(name);
        if kind == Kind::Directory {
            key.push('/');
        }
        key::inode_number(&self.bucket, &key)
    }

    /// The key's number, or the next one that no living inode has.
    fn free_number(&self, parent: u64, name: &str, kind: Kind) -> u64 {
        let mut ino = self.number(parent, name, kind);
        while self.inodes.contains_key(&ino) || ino <= ROOT_INO {
            ino = ino.wrapping_add(1);
        }
        ino
    }

    pub(super) fn update(&mut self, ino: u64, change: impl FnOnce(&mut FileInfo)) {
        if let Some(inode) = self.inodes.get_mut(&ino)
            && let Node::File(info) = &mut inode.node
        {
            change(info);
            inode.heard = When::now(Source::Changed);
        }
    }

    /// What is known of the inode is our own doing, now.
    pub(super) fn touch(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.heard = When::now(Source::Changed);
        }
    }

    pub(super) fn set_local(&mut self, ino: u64, local: bool) {
        if local && self.inodes.contains_key(&ino) {
            self.local.insert(ino);
        } else {
            self.local.remove(&ino);
        }
    }

    pub(super) fn is_local(&self, ino: u64) -> bool {
        self.local.contains(&ino)
    }

    pub(super) fn local_names(&self, dir: u64) -> Vec<(u64, String)> {
        let inodes = self.local.iter().filter_map(|ino| Some((*ino, self.inodes.get(ino)?)));
        inodes
            .filter(|(_, inode)| inode.parent == dir && inode.linked)
            .map(|(ino, inode)| (ino, inode.name.to_string()))
            .collect()
    }

    /// A local file that never came to be is gone; one that S3 has is asked about anew.
    pub(super) fn give_up(&mut self, ino: u64) {
        self.local.remove(&ino);
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        let in_s3 = matches!(&inode.node, Node::File(info) if !info.etag.is_empty());
        if in_s3 {
            inode.heard = When::now(Source::Doubted);
        } else {
            self.detach(ino);
        }
    }

    pub(super) fn has_marker(&self, ino: u64) -> bool {
        self.inodes.get(&ino).is_some_and(|inode| inode.marker)
    }

    pub(super) fn set_marker(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.marker = true;
        }
    }

    pub(super) fn remove_name(&mut self, parent: u64, name: &str) {
        if let Some(ino) = self.child(parent, name) {
            self.local.remove(&ino);
            self.detach(ino);
        }
        self.heard.put((parent, name.into()), Heard { node: None, when: When::now(Source::Changed) });
    }

    /// The name is gone here; in S3 it is until [`Table::left`] or [`Table::restored`].
    pub(super) fn leave(&mut self, parent: u64, name: &str) {
        self.remove_name(parent, name);
        self.leaving.insert(parent, name);
    }

    /// The name is gone in S3 as well. What was made in its place stays.
    pub(super) fn left(&mut self, parent: u64, name: &str) {
        if self.leaving.remove(parent, name) && self.child(parent, name).is_none() {
            self.remove_name(parent, name);
        }
    }

    /// The name could not be removed: it is as it was, as far as one knows. What was made in its place stays.
    pub(super) fn restored(&mut self, parent: u64, name: &str, node: Node) {
        if self.leaving.remove(parent, name) && self.child(parent, name).is_none() {
            let heard = Heard { node: Some(node), when: When::now(Source::Doubted) };
            self.heard.put((parent, name.into()), heard);
        }
    }

    pub(super) fn made(&mut self, parent: u64, name: &str, node: Node) {
        if let Some(replaced) = self.child(parent, name) {
            self.detach(replaced);
        }
        self.heard.put((parent, name.into()), Heard { node: Some(node), when: When::now(Source::Changed) });
    }

    pub(super) fn rename(&mut self, ino: u64, parent: u64, name: &str) {
        let Some((old_parent, old_name)) = self.inodes.get(&ino).map(|i| (i.parent, i.name.clone())) else {
            return;
        };
        if let Some(replaced) = self.child(parent, name).filter(|replaced| *replaced != ino) {
            self.detach(replaced);
        }
        self.by_name.remove(&(old_parent, old_name.clone()));
        self.heard.put((old_parent, old_name), Heard { node: None, when: When::now(Source::Changed) });
        self.heard.pop(&(parent, name.into()));
        self.by_name.insert((parent, name.into()), ino);
        if let Some(dir) = self.inodes.get_mut(&parent) {
            dir.children += 1;
        }
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.parent = parent;
            inode.name = name.into();
            inode.linked = true;
        }
        self.let_go_of_child(old_parent);
    }

    /// The name no longer leads to the inode.
    fn detach(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            let name = (inode.parent, inode.name.clone());
            if std::mem::take(&mut inode.linked) {
                self.by_name.remove(&name);
            }
        }
        self.drop_if_unused(ino);
    }

    pub(super) fn remember(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups += 1;
        }
    }

    pub(super) fn forget(&mut self, ino: u64, count: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(count);
        }
        self.drop_if_unused(ino);
    }

    pub(super) fn pin(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.pins += 1;
        }
    }

    pub(super) fn unpin(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.pins = inode.pins.saturating_sub(1);
        }
        self.drop_if_unused(ino);
    }

    fn drop_if_unused(&mut self, ino: u64) {
        let unused = |i: &Inode| i.lookups == 0 && i.pins == 0 && i.children == 0;
        if ino == ROOT_INO || !self.inodes.get(&ino).is_some_and(unused) || self.is_local(ino) {
            return;
        }
        let Some(inode) = self.inodes.remove(&ino) else { return };
        if inode.linked {
            let name = (inode.parent, inode.name);
            self.by_name.remove(&name);
            self.heard.put(name, Heard { node: Some(inode.node), when: inode.heard });
        }
        self.let_go_of_child(inode.parent);
    }

    fn let_go_of_child(&mut self, parent: u64) {
        if let Some(dir) = self.inodes.get_mut(&parent) {
            dir.children = dir.children.saturating_sub(1);
        }
        self.drop_if_unused(parent);
    }

    /// A handle begins to list the directory: what it hears stays fresh while it is open.
    pub(super) fn listing_began(&mut self, dir: u64) {
        let now = Instant::now();
        let (handles, since) = self.listed.entry(dir).or_insert((0, now));
        *handles += 1;
        *since = now;
    }

    pub(super) fn listing_ended(&mut self, dir: u64) {
        if let Some((handles, _)) = self.listed.get_mut(&dir) {
            *handles -= 1;
            if *handles == 0 {
                self.listed.remove(&dir);
            }
        }
    }
}

impl Default for FileInfo {
    fn default() -> FileInfo {
        FileInfo { size: 0, mtime: SystemTime::UNIX_EPOCH, etag: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new("bucket", "top/", Duration::from_secs(60))
    }

    fn file(size: u64) -> Node {
        Node::File(FileInfo { size, ..FileInfo::default() })
    }

    #[test]
    fn keys_follow_from_names() {
        let mut table = table();
        let dir = table.intern(ROOT_INO, "d", &Node::Directory);
        let sub = table.intern(dir, "e", &Node::Directory);
        let leaf = table.intern(sub, "f", &file(1));
        assert_eq!(table.key(ROOT_INO).unwrap(), "top/");
        assert_eq!(table.key(sub).unwrap(), "top/d/e/");
        assert_eq!(table.key(leaf).unwrap(), "top/d/e/f");
        assert_eq!(leaf, key::inode_number("bucket", "top/d/e/f"));
    }

    #[test]
    fn an_inode_lives_as_long_as_somebody_knows_it_or_its_children() {
        let mut table = table();
        let dir = table.intern(ROOT_INO, "d", &Node::Directory);
        let leaf = table.intern(dir, "f", &file(1));
        table.remember(dir);
        table.remember(leaf);
        table.pin(leaf);
        table.forget(dir, 1);
        assert!(table.key(leaf).is_some(), "its parent stays with it");
        table.forget(leaf, 1);
        assert!(table.key(leaf).is_some(), "a handle holds it");
        table.unpin(leaf);
        assert_eq!(table.inodes(), 1, "only the root is left");
    }

    #[test]
    fn an_older_answer_does_not_undo_a_local_change() {
        let mut table = table();
        let asked = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        table.remove_name(ROOT_INO, "gone");
        assert_eq!(table.hear(ROOT_INO, "gone", Some(file(1)), asked, Source::Asked), None);
        let ino = table.intern(ROOT_INO, "made", &file(5));
        table.touch(ino);
        assert_eq!(table.hear(ROOT_INO, "made", None, asked, Source::Asked), Some(file(5)));
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(
            table.hear(ROOT_INO, "made", None, Instant::now(), Source::Asked),
            None,
            "a newer answer does"
        );
    }

    #[test]
    fn a_renamed_inode_keeps_its_number_and_frees_its_name() {
        let mut table = table();
        let a = table.intern(ROOT_INO, "a", &file(1));
        let b = table.intern(ROOT_INO, "b", &file(2));
        table.remember(a);
        table.remember(b);
        table.rename(a, ROOT_INO, "b");
        assert_eq!(table.child(ROOT_INO, "b"), Some(a));
        assert_eq!(table.child(ROOT_INO, "a"), None);
        assert_eq!(table.key(b), None, "replaced");
        assert_eq!(table.fresh_name(ROOT_INO, "a"), Some(None));
        let other = table.intern(ROOT_INO, "a", &file(3));
        assert_ne!(other, a, "numbers of living inodes are not given twice");
    }

    #[test]
    fn names_heard_are_capped() {
        let mut table = table();
        for n in 0..NAMES_HEARD_MAX.get() + 10 {
            table.hear(ROOT_INO, &n.to_string(), Some(file(1)), Instant::now(), Source::Asked);
        }
        assert_eq!(table.names_heard(), NAMES_HEARD_MAX.get());
    }

    #[test]
    fn what_an_open_handle_listed_stays_fresh() {
        let mut table = Table::new("bucket", "", Duration::ZERO);
        table.hear(ROOT_INO, "x", Some(file(1)), Instant::now(), Source::Listed);
        assert_eq!(table.fresh_name(ROOT_INO, "x"), None);
        table.listing_began(ROOT_INO);
        table.hear(ROOT_INO, "x", Some(file(1)), Instant::now(), Source::Listed);
        assert_eq!(table.fresh_name(ROOT_INO, "x"), Some(Some(file(1))));
        table.listing_ended(ROOT_INO);
        assert_eq!(table.fresh_name(ROOT_INO, "x"), None);
    }
}
