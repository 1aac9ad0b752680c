//! The table: inodes by number, and what is known of each directory by its key.
//!
//! Owns: [`Table`].
//! Invariants: the root is always there; what is known of a linked inode stands in its name's slot and
//! nowhere else, and such a slot is never dropped; an inode is dropped when the kernel and handles are
//! gone; knowledge from before a local change is not taken.
//! Must never know: how S3 is asked, tree walks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::buckets::Strangers;
use super::dir::{Dir, Span};
use super::known::{Known, Slot, Source, When};
use super::leaving::Leaving;
use super::memory::{Memory, Room};
use super::{Entry, FileInfo, Kind, Node};
use crate::key::{self, Numbers, ROOT_INO};

/// The longest the kernel is told to believe anything: its clock has an end.
pub(super) const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

pub(super) struct Table {
    pub(super) numbers: Numbers,
    /// The root's key.
    pub(super) prefix: String,
    pub(super) ttl: Duration,
    /// Whether attributes are kept in objects' metadata.
    pub(super) attributes: bool,
    /// Where the names are buckets'.
    pub(super) strangers: Option<Strangers>,
    pub(super) inodes: HashMap<u64, Inode>,
    /// By key: those that any name is known in, or any range. In key order, which is the order of a
    /// walk in depth.
    pub(super) dirs: BTreeMap<Arc<str>, Dir>,
    /// Inodes of files that S3 does not have yet, or not as they are here.
    pub(super) local: HashSet<u64>,
    leaving: Leaving,
    /// Keys of what is on its way to other keys; of directories they end in `/`.
    pub(super) moving: Vec<Box<str>>,
    /// Directories that a handle lists: how many handles, and since when.
    pub(super) listed: HashMap<String, (usize, Instant)>,
    /// Answers to what was asked before this are not believed: something was to be asked anew.
    refreshed: Option<Instant>,
    pub(super) memory: Memory,
}

pub(super) struct Inode {
    /// The key of the directory that its name is in.
    pub(super) dir: Arc<str>,
    pub(super) name: Arc<str>,
    /// The kernel's references.
    lookups: u64,
    /// Handles.
    pub(super) pins: usize,
    /// What it was when its name still led here; none while it does.
    pub(super) unlinked: Option<Box<(Known, When)>>,
}

impl Table {
    pub(super) fn new(numbers: Numbers, prefix: &str, ttl: Duration, room: Arc<Room>) -> Table {
        let root = Inode { dir: "".into(), name: "".into(), lookups: 1, pins: 0, unlinked: None };
        Table {
            prefix: prefix.into(),
            ttl,
            attributes: false,
            strangers: None,
            inodes: HashMap::from([(numbers.root(), root)]),
            dirs: BTreeMap::new(),
            local: HashSet::new(),
            leaving: Leaving::default(),
            moving: Vec::new(),
            listed: HashMap::new(),
            refreshed: None,
            memory: Memory::new(room),
            numbers,
        }
    }

    pub(super) fn is_root(&self, ino: u64) -> bool {
        ino == self.numbers.root()
    }

    pub(super) fn inodes(&self) -> usize {
        self.inodes.len()
    }

    /// Names remembered without an inode.
    pub(super) fn names_heard(&self) -> usize {
        self.dirs.values().map(Dir::idle).sum()
    }

    /// Changes what is known below a directory, and keeps count of its bytes.
    pub(super) fn edit<T>(&mut self, dir: &str, change: impl FnOnce(&mut Dir) -> T) -> T {
        if !self.dirs.contains_key(dir) {
            let key = Arc::<str>::from(dir);
            let made = Dir::used_at(self.memory.enter(key.clone()));
            self.memory.add(dir.len() + made.bytes());
            self.dirs.insert(key, made);
        }
        let known = self.dirs.get_mut(dir).expect("just made");
        let before = known.bytes();
        let done = change(known);
        self.memory.changed(before, known.bytes());
        self.memory.used(&mut known.used);
        done
    }

    /// Where an inode's name is, while the name leads to it.
    pub(super) fn place(&self, ino: u64) -> Option<(Arc<str>, Arc<str>)> {
        let inode = self.inodes.get(&ino).filter(|inode| !self.is_root(ino) && inode.unlinked.is_none())?;
        Some((inode.dir.clone(), inode.name.clone()))
    }

    pub(super) fn state(&self, ino: u64) -> Option<(&Known, When)> {
        let inode = self.inodes.get(&ino)?;
        match &inode.unlinked {
            Some(was) => Some((&was.0, was.1)),
            None => {
                let slot = self.dirs.get(&inode.dir)?.get(&inode.name)?;
                Some((&slot.known, slot.when))
            }
        }
    }

    /// The inode's key. None for an inode whose name is gone.
    pub(super) fn key(&self, ino: u64) -> Option<String> {
        if self.is_root(ino) {
            return Some(self.prefix.clone());
        }
        let (dir, name) = self.place(ino)?;
        let slash = if self.kind(ino)? == Kind::Directory { "/" } else { "" };
        Some(format!("{dir}{name}{slash}"))
    }

    pub(super) fn kind(&self, ino: u64) -> Option<Kind> {
        if self.is_root(ino) { Some(Kind::Directory) } else { self.state(ino)?.0.kind() }
    }

    pub(super) fn is_past(&self, ino: u64) -> bool {
        self.inodes.get(&ino).is_some_and(|inode| key::past::holds_past(&inode.dir))
    }

    /// The directory that holds the inode's name; the mount's root for a bucket's own.
    pub(super) fn parent(&self, ino: u64) -> Option<u64> {
        let dir = &self.inodes.get(&ino)?.dir;
        Some(if self.is_root(ino) { ROOT_INO } else { self.ino_of_dir(dir) })
    }

    /// The number a directory has, or would get.
    pub(super) fn ino_of_dir(&self, dir: &str) -> u64 {
        if dir == self.prefix {
            return self.numbers.root();
        }
        let (above, name) = key::split_dir(dir);
        let known = self.dirs.get(above).and_then(|dir| dir.get(name)).map_or(0, |slot| slot.ino);
        if known == 0 { self.numbers.of(dir) } else { known }
    }

    /// Key of the directory and name, while the name leads to the inode.
    pub(super) fn name(&self, ino: u64) -> Option<(Arc<str>, Arc<str>)> {
        self.place(ino)
    }

    pub(super) fn child(&self, parent: u64, name: &str) -> Option<u64> {
        self.child_in(&self.key(parent)?, name)
    }

    pub(super) fn child_in(&self, dir: &str, name: &str) -> Option<u64> {
        Some(self.dirs.get(dir)?.get(name)?.ino).filter(|ino| *ino != 0)
    }

    /// What is known of the inode, however old.
    pub(super) fn entry(&self, ino: u64) -> Option<Entry> {
        if self.is_root(ino) {
            let ttl = self.ttl.min(TTL_MAX);
            let entry =
                Entry { ino, node: Node::Directory, attributes: None, linked: true, past: false, ttl };
            return Some(self.with_directorys(entry));
        }
        let (known, when) = self.state(ino)?;
        let age = match when.source {
            _ if self.is_local(ino) => Duration::ZERO,
            Source::Doubted => Duration::MAX,
            _ => when.at.elapsed(),
        };
        let ttl = self.inodes.get(&ino).map_or(self.ttl, |inode| self.ttl_in(&inode.dir));
        let (node, ttl) = (known.node()?, ttl.saturating_sub(age).min(TTL_MAX));
        let (linked, past) = (self.place(ino).is_some(), self.is_past(ino));
        Some(self.with_directorys(Entry { ino, attributes: node.kept(), node, linked, past, ttl }))
    }

    /// What is known of the inode, if it is fresh.
    pub(super) fn fresh_entry(&self, ino: u64) -> Option<Entry> {
        let inode = self.inodes.get(&ino)?;
        let fresh = self.is_root(ino) || self.is_local(ino) || self.is_fresh(&inode.dir, self.state(ino)?.1);
        if fresh { self.entry(ino) } else { None }
    }

    /// What is known of the name, however old: a node, or that there is none. None: nothing is known.
    pub(super) fn known(&self, dir: &str, name: &str) -> Option<Option<Node>> {
        if self.is_leaving(dir, name) {
            return Some(None);
        }
        Some(self.dirs.get(dir)?.get(name)?.known.node())
    }

    /// Whether what S3 has at the name is on its way out, and nothing was made here in its place.
    pub(super) fn is_leaving(&self, dir: &str, name: &str) -> bool {
        self.leaving.contains(dir, name) && self.child_in(dir, name).is_none()
    }

    /// What is known of the name, if it is fresh: a node, or that there is none.
    pub(super) fn fresh_name(&mut self, dir: &str, name: &str) -> Option<Option<Node>> {
        if self.is_leaving(dir, name) {
            return Some(None);
        }
        let known = self.dirs.get_mut(dir)?;
        self.memory.used(&mut known.used);
        let known = self.dirs.get(dir)?;
        match known.get(name) {
            Some(slot) if self.is_local(slot.ino) || self.is_fresh(dir, slot.when) => Some(slot.known.node()),
            Some(_) => None,
            // What others have, no listing tells.
            None if self.strangers.is_some() => None,
            None => known.absent_since(name).is_some_and(|asked| self.is_young(dir, asked)).then_some(None),
        }
    }

    /// Takes note of what S3 said of a name when asked at `asked`; answers what stands there now, which a
    /// local change may have made something else.
    pub(super) fn hear(
        &mut self,
        dir: &str,
        name: &str,
        said: Option<&Node>,
        asked: Instant,
        source: Source,
    ) -> Option<Node> {
        if self.is_leaving(dir, name) {
            return None;
        }
        if self.is_moving(dir, name) {
            return self.known(dir, name).unwrap_or_else(|| said.cloned());
        }
        let mut told = Known::of(said);
        let mut given = false;
        if let Some(slot) = self.dirs.get(dir).and_then(|dir| dir.get(name)) {
            if self.is_local(slot.ino) || !slot.when.gives_way_to(asked) {
                return slot.known.node();
            }
            given = slot.known.hand_on(&mut told, self.made_by(slot));
            if slot.known.kind() != told.kind() {
                self.detach(dir, name);
            }
        } else if self.dirs.get(dir).and_then(|dir| dir.absent_since(name)).is_some_and(|heard| heard > asked)
        {
            return None;
        }
        let source = if self.is_outdated(asked) { Source::Doubted } else { source };
        let stands = if given { told.node() } else { said.cloned() };
        self.edit(dir, |dir| dir.set(name, told, When { at: asked, source }));
        stands
    }

    /// A range of a directory's listing was heard: these entries, each with when it was asked for, and
    /// nothing else within `span`. `begun`: when the listing was that the range goes on from.
    pub(super) fn hear_range<'a>(
        &mut self,
        dir: &str,
        entries: impl IntoIterator<Item = (&'a str, &'a Node, Instant)>,
        span: Option<Span>,
        begun: Option<Instant>,
    ) {
        for (name, node, asked) in entries {
            self.hear(dir, name, Some(node), asked, Source::Listed);
        }
        let Some(span) = span.filter(|span| !self.is_outdated(span.asked)) else { return };
        let oldest = self.memory.oldest_question(dir);
        let gone = self.dirs.get(dir).map(|known| known.not_in(&span, begun, oldest)).unwrap_or_default();
        for name in gone {
            if self.is_moving(dir, &name) {
                continue;
            }
            let is_local = self.child_in(dir, &name).is_some_and(|ino| self.is_local(ino));
            if !is_local && !self.is_stranger(&name) {
                self.detach(dir, &name);
                self.edit(dir, |dir| dir.remove(&name));
            }
        }
        self.edit(dir, |dir| dir.heard(span, begun));
    }

    /// When this mount had made what is known, if it did and no metadata say when.
    fn made_by(&self, slot: &Slot) -> Option<SystemTime> {
        let ours = !self.attributes && slot.when.source == Source::Changed;
        if ours { SystemTime::now().checked_sub(slot.when.at.elapsed()) } else { None }
    }

    fn is_outdated(&self, asked: Instant) -> bool {
        self.refreshed.is_some_and(|refreshed| asked <= refreshed)
    }

    /// What was asked before now is not believed when it is answered.
    pub(super) fn believe_no_earlier_answer(&mut self) {
        self.refreshed = Some(Instant::now());
    }

    /// Nothing that is known of an inode, and below it, is believed any more. Answers what the kernel may
    /// know there: inode of the directory, name, inode; the inode itself first.
    pub(super) fn refresh_below(&mut self, ino: u64) -> Option<Vec<(u64, String, u64)>> {
        let key = self.key(ino)?;
        self.believe_no_earlier_answer();
        let mut known = Vec::new();
        if let Some((dir, name)) = self.place(ino) {
            if let Some((of, when)) = self.state(ino).map(|(known, when)| (known.clone(), when)) {
                self.learn(ino, of, When { source: Source::Doubted, ..when });
            }
            known.push((self.ino_of_dir(&dir), name.to_string(), ino));
        }
        if self.kind(ino) == Some(Kind::Directory) {
            known.extend(self.doubt_below(&key));
        }
        Some(known)
    }

    /// A listing asked for at `asked` showed the directory's marker.
    pub(super) fn hear_marker(&mut self, dir: &str, asked: Instant) {
        let (above, name) = key::split_dir(dir);
        let slot = self.dirs.get(above).and_then(|above| above.get(name));
        let believed = !self.is_moving(above, name);
        if believed && slot.is_none_or(|slot| slot.when.gives_way_to(asked)) {
            self.edit(dir, |dir| dir.marker = true);
        }
    }

    /// The inode of a name that was found to be `node`, made if there is none. What was learnt of the name
    /// since then counts more: none where that is that it is gone.
    pub(super) fn enter(&mut self, dir: &str, name: &str, node: &Node) -> Option<Entry> {
        let ino = match self.known(dir, name) {
            Some(known) => self.intern(dir, name, &known?),
            None => self.intern(dir, name, node),
        };
        self.remember(ino);
        self.entry(ino)
    }

    /// The inode of a name, made if there is none. An inode of another kind is detached.
    pub(super) fn intern(&mut self, dir: &str, name: &str, node: &Node) -> u64 {
        let slot = self.dirs.get(dir).and_then(|dir| dir.get(name));
        if let Some((ino, kind)) = slot.map(|slot| (slot.ino, slot.known.kind())) {
            if kind == Some(node.kind()) && ino != 0 {
                return ino;
            }
            self.detach(dir, name);
        }
        let known = Known::of(Some(node));
        let ino = self.free_number(dir, name, node.kind());
        let shared = self.edit(dir, |dir| {
            if dir.get(name).is_none_or(|slot| slot.known != known) {
                dir.set(name, known, When::now(Source::Asked));
            }
            dir.link(name, ino);
            dir.shared(name).expect("just set")
        });
        let (dir, _) = self.dirs.get_key_value(dir).expect("just edited");
        let inode = Inode { dir: dir.clone(), name: shared, lookups: 0, pins: 0, unlinked: None };
        self.memory.add(INODE_BYTES);
        self.inodes.insert(ino, inode);
        ino
    }

    /// The number that follows from the key.
    pub(super) fn number(&self, dir: &str, name: &str, kind: Kind) -> u64 {
        let slash = if kind == Kind::Directory { "/" } else { "" };
        self.numbers.of(&format!("{dir}{name}{slash}"))
    }

    /// The key's number, or the next one that no living inode has.
    fn free_number(&self, dir: &str, name: &str, kind: Kind) -> u64 {
        let mut ino = self.number(dir, name, kind);
        while self.inodes.contains_key(&ino) {
            ino = self.numbers.after(ino);
        }
        ino
    }

    /// Replaces what is known of an inode, wherever it stands.
    fn learn(&mut self, ino: u64, known: Known, when: When) {
        if let Some((dir, name)) = self.place(ino) {
            self.edit(&dir, |dir| dir.set(&name, known, when));
        } else if let Some(was) = self.inodes.get_mut(&ino).and_then(|inode| inode.unlinked.as_mut()) {
            **was = (known, when);
        }
    }

    /// Changes what is known of a file as this mount changed it. What only this table kept is over.
    pub(super) fn update(&mut self, ino: u64, change: impl FnOnce(&mut FileInfo)) {
        if let Some(Node::File(mut info)) = self.state(ino).and_then(|(known, _)| known.node()) {
            change(&mut info);
            info.kept.take_if(|_| !self.attributes);
            self.learn(ino, Known::of(Some(&Node::File(info))), When::now(Source::Changed));
        }
    }

    pub(super) fn remove_name(&mut self, dir: &str, name: &str) {
        if let Some(ino) = self.child_in(dir, name) {
            self.local.remove(&ino);
        }
        self.detach(dir, name);
        self.edit(dir, |dir| dir.set(name, Known::Absent, When::now(Source::Changed)));
        let below = format!("{dir}{name}/");
        if self.dirs.contains_key(below.as_str()) {
            self.edit(&below, |dir| {
                dir.marker = false;
                dir.says = None;
                dir.forget_spans();
            });
        }
    }

    /// The name is gone here; in S3 it is until [`Table::left`] or [`Table::restored`].
    pub(super) fn leave(&mut self, dir: &str, name: &str) {
        self.remove_name(dir, name);
        self.leaving.insert(dir, name);
    }

    /// The name is gone in S3 as well. What was made in its place stays.
    pub(super) fn left(&mut self, dir: &str, name: &str) {
        if self.leaving.remove(dir, name) && self.child_in(dir, name).is_none() {
            self.remove_name(dir, name);
        }
    }

    /// The name could not be removed, or one does not know: it is as it was until S3 is asked anew. What was made in
    /// its place stays.
    pub(super) fn restored(&mut self, dir: &str, name: &str, node: &Node) {
        if self.leaving.remove(dir, name) && self.child_in(dir, name).is_none() {
            self.edit(dir, |dir| {
                dir.set(name, Known::of(Some(node)), When::now(Source::Doubted));
                dir.forget_spans();
            });
        }
    }

    pub(super) fn doubt_name(&mut self, dir: &str, name: &str) {
        let Some(known) = self.dirs.get(dir) else { return };
        let slot = known.get(name).map(|slot| slot.known.clone());
        self.edit(dir, |dir| {
            if let Some(known) = slot {
                dir.set(name, known, When::now(Source::Doubted));
            }
            dir.forget_spans();
        });
    }

    /// S3 has something below a directory. If that is known to be empty, it is not known well enough.
    pub(super) fn not_empty(&mut self, dir: &str) {
        if self.entries_after(dir, "", 1).is_some_and(|entries| entries.is_empty()) {
            self.edit(dir, Dir::forget_spans);
        }
    }

    /// Whether all that the listing told that began at `begun` is known still.
    pub(super) fn hears(&self, dir: &str, begun: Instant) -> bool {
        self.dirs.get(dir).is_some_and(|dir| dir.hears(begun))
    }

    /// Something was made at a name, by us and in S3.
    pub(super) fn made(&mut self, dir: &str, name: &str, node: &Node) {
        self.detach(dir, name);
        self.edit(dir, |dir| dir.set(name, Known::of(Some(node)), When::now(Source::Changed)));
    }

    /// A directory was made by us: nothing is below it, since nothing was found at its name.
    pub(super) fn made_directory(&mut self, dir: &str, name: &str) {
        let known = self.dirs.get(dir);
        let slot = known.and_then(|dir| dir.get(name)).filter(|slot| slot.known == Known::Absent);
        let empty_since = match slot {
            Some(slot) => Some(slot.when.at),
            None => known.and_then(|dir| dir.absent_since(name)),
        };
        self.made(dir, name, &Node::Directory);
        let below = format!("{dir}{name}/");
        self.hear_range(&below, [], empty_since.map(Span::whole), None);
        self.edit(&below, |dir| dir.marker = true);
    }

    pub(super) fn rename(&mut self, ino: u64, dir: &str, name: &str) {
        let Some((old_dir, old_name)) = self.place(ino) else { return };
        let Some((known, _)) = self.state(ino) else { return };
        let (known, now) = (known.clone(), When::now(Source::Changed));
        if self.child_in(dir, name) != Some(ino) {
            self.detach(dir, name);
        }
        self.edit(&old_dir, |dir| {
            dir.link(&old_name, 0);
            dir.set(&old_name, Known::Absent, now);
        });
        self.put_linked(dir, name, known, now, ino);
    }

    /// An inode's name is from now on this one.
    pub(super) fn put_linked(&mut self, dir: &str, name: &str, known: Known, when: When, ino: u64) {
        let shared = self.edit(dir, |dir| {
            dir.set(name, known, when);
            dir.link(name, ino);
            dir.shared(name).expect("just set")
        });
        let (dir, _) = self.dirs.get_key_value(dir).expect("just edited");
        if let Some(inode) = self.inodes.get_mut(&ino) {
            (inode.dir, inode.name) = (dir.clone(), shared);
        }
    }

    /// The name no longer leads to an inode.
    pub(super) fn detach(&mut self, dir: &str, name: &str) {
        let Some(slot) = self.dirs.get(dir).and_then(|dir| dir.get(name)) else { return };
        let (ino, was) = (slot.ino, (slot.known.clone(), slot.when));
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.unlinked = Some(Box::new(was));
            self.edit(dir, |dir| dir.link(name, 0));
            self.drop_if_unused(ino);
        }
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

    pub(super) fn drop_if_unused(&mut self, ino: u64) {
        let unused = |i: &Inode| i.lookups == 0 && i.pins == 0;
        if self.is_root(ino) || !self.inodes.get(&ino).is_some_and(unused) || self.is_local(ino) {
            return;
        }
        let Some(inode) = self.inodes.remove(&ino) else { return };
        self.memory.sub(INODE_BYTES);
        if inode.unlinked.is_none() {
            self.edit(&inode.dir, |dir| dir.link(&inode.name, 0));
        }
    }
}

/// What an inode costs: a table of them is between 7/16 and 7/8 full.
const INODE_BYTES: usize = (size_of::<(u64, Inode)>() + 1) * 3 / 2;

#[cfg(test)]
#[path = "inode_tests.rs"]
mod tests;
