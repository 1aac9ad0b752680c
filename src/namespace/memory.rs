//! What the table may take, `--metadata-memory`, and what goes when it is more.
//!
//! Owns: [`Room`] (what all tables of a mount take together), [`Memory`] (of one table: the count of bytes, which
//! directory was used last, the questions under way) and the order in which knowledge is dropped.
//! Invariants: an inode that the kernel or a handle knows is never dropped; neither is what was changed
//! here while a question is under way whose answer could undo it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::dir::Dir;
use super::inode::Table;

/// Directories looked at for one that can be made smaller, each time something is learnt.
const DIRS_TRIED: usize = 16;
/// Names the kernel is asked to forget at once, at most, and how often at most.
const FORGET_NAMES: usize = 1000;
const FORGET_PAUSE: Duration = Duration::from_millis(100);

/// What the tables of one mount may take together: one bucket's, or those of all buckets of an account.
#[derive(Debug)]
pub struct Room {
    bytes: AtomicUsize,
    bytes_max: usize,
    /// A table had to make room since this was last looked at.
    short: AtomicBool,
}

impl Room {
    pub fn new(bytes_max: u64) -> Arc<Room> {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Arc::new(Room { bytes: AtomicUsize::new(0), bytes_max, short: AtomicBool::new(false) })
    }

    /// What they take, in bytes, as near as can be told.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Whether a table had to make room since this was last asked.
    pub fn was_short(&self) -> bool {
        self.short.load(Ordering::Relaxed) && self.short.swap(false, Ordering::Relaxed)
    }

    fn is_exceeded(&self) -> bool {
        self.bytes() > self.bytes_max
    }
}

pub(super) struct Memory {
    room: Arc<Room>,
    bytes: usize,
    /// Directories by when they were used, the least recently used first.
    order: BTreeMap<u64, Arc<str>>,
    newest: u64,
    /// Questions under way: below which key, and when they were asked.
    questions: HashMap<u64, (Box<str>, Instant)>,
    question: u64,
    /// When the last of the changes was made here that had to make room.
    lost: Option<Instant>,
    asked_to_forget: Option<Instant>,
}

impl Memory {
    pub fn new(room: Arc<Room>) -> Memory {
        Memory {
            room,
            bytes: 0,
            order: BTreeMap::new(),
            newest: 0,
            questions: HashMap::new(),
            question: 0,
            lost: None,
            asked_to_forget: None,
        }
    }

    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.room.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn sub(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.room.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn changed(&mut self, before: usize, after: usize) {
        match after.checked_sub(before) {
            Some(more) => self.add(more),
            None => self.sub(before - after),
        }
    }

    /// A directory is known from now on; answers its place.
    pub fn enter(&mut self, dir: Arc<str>) -> u64 {
        self.newest += 1;
        self.order.insert(self.newest, dir);
        self.newest
    }

    /// A directory at this place is used.
    pub fn used(&mut self, place: &mut u64) {
        if *place != self.newest
            && let Some(dir) = self.order.remove(place)
        {
            *place = self.enter(dir);
        }
    }

    /// When the oldest question was asked whose answer may tell of what is in a directory.
    pub fn oldest_question(&self, dir: &str) -> Option<Instant> {
        let questions = self.questions.values();
        questions.filter(|(below, _)| dir.starts_with(&**below)).map(|(_, asked)| *asked).min()
    }

    /// Whether what was changed here since `asked` may be known no longer, so that an answer from then would undo it.
    /// Of what a question under way may tell nothing is lost.
    pub fn lost_since(&self, asked: Instant) -> bool {
        self.lost.is_some_and(|lost| lost >= asked)
    }

    fn is_exceeded(&self) -> bool {
        self.room.is_exceeded()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.sub(self.bytes);
    }
}

impl Table {
    /// Bytes of all that is known, as near as can be told.
    pub(super) fn bytes(&self) -> usize {
        self.memory.bytes
    }

    /// A question about what is below `prefix` is asked now. What is changed here from now on is kept
    /// until [`Table::answered`].
    pub(super) fn question(&mut self, prefix: &str) -> (u64, Instant) {
        let asked = Instant::now();
        self.memory.question += 1;
        self.memory.questions.insert(self.memory.question, (prefix.into(), asked));
        (self.memory.question, asked)
    }

    pub(super) fn answered(&mut self, question: u64) {
        let Some((prefix, _)) = self.memory.questions.remove(&question) else { return };
        // What was kept for this answer's sake may go.
        if let Some(known) = self.dirs.get_mut(&*prefix) {
            known.kept = 0;
        }
    }

    /// Where the tables have grown beyond their cap: drops what the kernel does not know, least recently
    /// used directory first.
    pub(super) fn shrink(&mut self) {
        for _ in 0..DIRS_TRIED {
            if !self.memory.is_exceeded() {
                return;
            }
            self.memory.room.short.store(true, Ordering::Relaxed);
            let Some((_, dir)) = self.memory.order.first_key_value() else { return };
            self.evict(&dir.clone());
        }
    }

    /// Makes room for other tables: `bytes`, or as much as can be dropped. Answers how much that was.
    pub(super) fn give_way(&mut self, bytes: usize) -> usize {
        let before = self.bytes();
        for _ in 0..self.memory.order.len() {
            let Some((_, dir)) = self.memory.order.first_key_value() else { break };
            if before.saturating_sub(self.bytes()) >= bytes {
                break;
            }
            self.evict(&dir.clone());
        }
        before.saturating_sub(self.bytes())
    }

    /// Drops what it can of a directory; what is left of it counts as used last.
    fn evict(&mut self, dir: &Arc<str>) {
        let oldest = self.memory.oldest_question(dir);
        let Some(known) = self.dirs.get_mut(dir) else { return };
        if !known.may_shrink() {
            return self.memory.used(&mut known.used);
        }
        let before = known.bytes();
        self.memory.lost = self.memory.lost.max(known.evict(oldest));
        self.memory.changed(before, known.bytes());
        if known.is_blank() {
            self.memory.order.remove(&known.used);
            self.memory.sub(dir.len() + known.bytes());
            self.dirs.remove(dir);
        } else {
            self.memory.used(&mut known.used);
        }
    }

    /// Takes what is known of the directory with this key, and of all below it, out of the table.
    pub(super) fn take_below(&mut self, dir: &str) -> Vec<(Arc<str>, Dir)> {
        let below = self.dirs.range::<str, _>((Bound::Included(dir), Bound::Unbounded));
        let keys: Vec<_> = below.map(|(key, _)| key.clone()).take_while(|key| key.starts_with(dir)).collect();
        let mut taken = Vec::new();
        for key in keys {
            let Some(known) = self.dirs.remove(&key) else { continue };
            self.memory.order.remove(&known.used);
            self.memory.sub(key.len() + known.bytes());
            taken.push((key, known));
        }
        taken
    }

    /// What the kernel should be asked to forget, for inodes alone fill the table: directory and name,
    /// least recently used first. Seldom, for the kernel takes its time.
    pub(super) fn too_many(&mut self, now: Instant) -> Vec<(u64, String)> {
        let lately = |at: Instant| now.saturating_duration_since(at) < FORGET_PAUSE;
        if !self.memory.is_exceeded() || self.memory.asked_to_forget.is_some_and(lately) {
            return Vec::new();
        }
        let mut names = Vec::new();
        for _ in 0..self.memory.order.len().min(FORGET_NAMES) {
            if names.len() >= FORGET_NAMES {
                break;
            }
            let Some((_, dir)) = self.memory.order.first_key_value() else { break };
            let dir = dir.clone();
            names.extend(self.known_to_the_kernel(&dir, FORGET_NAMES - names.len()));
            if let Some(known) = self.dirs.get_mut(&dir) {
                self.memory.used(&mut known.used);
            }
        }
        if !names.is_empty() {
            self.memory.asked_to_forget = Some(now);
        }
        names
    }

    /// Names in a directory whose inodes only the kernel holds.
    pub(super) fn known_to_the_kernel(&self, dir: &str, count: usize) -> Vec<(u64, String)> {
        let Some(known) = self.dirs.get(dir) else { return Vec::new() };
        let parent = self.ino_of_dir(dir);
        let held = |ino: u64| self.is_local(ino) || self.inodes.get(&ino).is_none_or(|inode| inode.pins > 0);
        let names = known.slots().filter(|(_, slot)| slot.ino != 0 && !held(slot.ino));
        names.take(count).map(|(name, _)| (parent, name.to_string())).collect()
    }

    /// Nothing that is known below a key is fresh any more: names in the directory with this key, and in
    /// all below it. Answers the inodes there are: that of the directory, name, inode.
    pub(super) fn doubt_below(&mut self, dir: &str) -> Vec<(u64, String, u64)> {
        let below = self
            .dirs
            .range_mut::<str, _>((Bound::Included(dir), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(dir));
        let mut inodes = Vec::new();
        for (key, known) in below {
            let before = known.bytes();
            known.doubt(self.memory.oldest_question(key));
            self.memory.changed(before, known.bytes());
            let linked = known.slots().filter(|(_, slot)| slot.ino != 0);
            inodes.extend(linked.map(|(name, slot)| (key.clone(), name.to_string(), slot.ino)));
        }
        inodes.into_iter().map(|(key, name, ino)| (self.ino_of_dir(&key), name, ino)).collect()
    }
}
