//! What is known below one directory: its names in key order, and which ranges were heard whole.
//!
//! Owns: [`Dir`] and [`Span`].
//! Invariants: a slot with an inode's number is never dropped here; the bytes told are those of the slots
//! there are; a span decides a name only where servers that list by key and servers that list by path
//! component would both have shown it.
//! Must never know: other directories, inodes, the time-to-live.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::known::{Known, Slot, Source, When};
use super::{Kept, Kind, Listed};

/// Ranges remembered in one directory, at most; the oldest goes first.
const SPANS_MAX: usize = 16;
/// The share of a B-tree's nodes that is filled when keys come in order is 6 of 11.
const NAME_BYTES: usize = (size_of::<Arc<str>>() + size_of::<Slot>()) * 11 / 6 + 32;
/// What a directory costs beyond its names.
const DIR_BYTES: usize = size_of::<Dir>() + 160;

#[derive(Default)]
pub(super) struct Dir {
    names: BTreeMap<Arc<str>, Slot>,
    spans: Vec<Span>,
    /// It was listed once, be it long ago.
    pub listed: bool,
    /// The marker object is known to be there.
    pub marker: bool,
    /// It was made here, and S3 does not know it yet: nobody else makes anything in it.
    pub ours: bool,
    /// The name asked about last: where a walk in order stands.
    pub cursor: Option<Arc<str>>,
    /// How many names were asked about in order before that one, each near the one before it.
    pub run: usize,
    /// What its marker says of the directory itself.
    pub says: Option<MarkerSays>,
    /// When a name was last made or removed here.
    pub changed: Option<SystemTime>,
    /// Its place among the directories by use; 0: none yet.
    pub used: u64,
    /// Slots without an inode.
    idle: usize,
    /// How many of these were needed when it was last tried to drop them.
    pub kept: usize,
    bytes: usize,
}

/// A range of the directory's listing that was heard without a gap, of items after `after` up to and with
/// `upto`: names, or names with `/` for what is a directory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    /// Empty: from the start.
    pub after: Box<str>,
    /// None: to the end.
    pub upto: Option<Box<str>>,
    pub asked: Instant,
}

/// The attributes in a directory's marker.
#[derive(Debug, Clone)]
pub(super) struct MarkerSays {
    pub kept: Arc<Kept>,
    /// When S3 was asked, or when it was changed here.
    pub asked: Instant,
    /// Only this mount knows it: it is on its way to S3.
    pub local: bool,
}

impl Span {
    pub fn whole(asked: Instant) -> Span {
        Span { after: "".into(), upto: None, asked }
    }

    /// Says only that a listing began.
    pub fn nothing(asked: Instant) -> Span {
        Span { after: "".into(), upto: Some("".into()), asked }
    }

    pub fn is_whole(&self) -> bool {
        self.after.is_empty() && self.upto.is_none()
    }

    /// Whether the range would have shown the name, as a file and as a directory, if it were there.
    pub fn decides(&self, name: &str) -> bool {
        let before_end = |upto: &str| passes(name, upto) && name < upto.trim_end_matches('/');
        name > &*self.after && self.upto.as_deref().is_none_or(before_end)
    }
}

/// Whether a listing in key order that has come to `item` has passed the place of directory `name`.
pub(super) fn passes(name: &str, item: &str) -> bool {
    name.bytes().chain([b'/']).cmp(item.bytes()).is_le()
}

/// What a listing sorts by: a directory's name counts with its `/`.
fn listing_order(name: &str, known: &Known) -> String {
    if known.kind() == Some(Kind::Directory) { format!("{name}/") } else { name.to_owned() }
}

fn bytes_of(name: &str, known: &Known) -> usize {
    NAME_BYTES + 16 + name.len() + known.heap_bytes()
}

impl Dir {
    pub fn used_at(used: u64) -> Dir {
        Dir { used, ..Dir::default() }
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn idle(&self) -> usize {
        self.idle
    }

    /// Whether [`Dir::evict`] would drop enough to be worth looking at every name.
    pub fn may_shrink(&self) -> bool {
        self.idle > self.kept + self.names.len() / 16 || self.names.is_empty()
    }

    pub fn bytes(&self) -> usize {
        DIR_BYTES + self.bytes
    }

    /// Whether nothing would be lost with it.
    pub fn is_blank(&self) -> bool {
        self.names.is_empty() && self.spans.is_empty() && !self.marker && self.says.is_none()
    }

    pub fn get(&self, name: &str) -> Option<&Slot> {
        self.names.get(name)
    }

    pub fn slots(&self) -> impl Iterator<Item = (&Arc<str>, &Slot)> {
        self.names.iter()
    }

    pub fn slots_after(&self, name: &str) -> impl Iterator<Item = (&Arc<str>, &Slot)> {
        self.names.range::<str, _>((Bound::Excluded(name), Bound::Unbounded))
    }

    /// The one copy of a name.
    pub fn shared(&self, name: &str) -> Option<Arc<str>> {
        self.names.get_key_value(name).map(|(name, _)| name.clone())
    }

    /// Takes note; the inode's number stays.
    pub fn set(&mut self, name: &str, known: Known, when: When) {
        match self.names.get_mut(name) {
            Some(slot) => {
                self.bytes = self.bytes + known.heap_bytes() - slot.known.heap_bytes();
                (slot.known, slot.when) = (known, when);
            }
            None => {
                self.bytes += bytes_of(name, &known);
                self.idle += 1;
                self.names.insert(name.into(), Slot { known, when, ino: 0 });
            }
        }
    }

    /// Gives the name's slot an inode's number, or takes it away (0).
    pub fn link(&mut self, name: &str, ino: u64) {
        if let Some(slot) = self.names.get_mut(name) {
            self.idle = self.idle + usize::from(slot.ino != 0) - usize::from(ino != 0);
            slot.ino = ino;
        }
    }

    /// Forgets what was known of a name that has no inode.
    pub fn remove(&mut self, name: &str) {
        if let Some(slot) = self.names.get(name).filter(|slot| slot.ino == 0) {
            self.bytes -= bytes_of(name, &slot.known);
            self.idle -= 1;
            self.names.remove(name);
        }
    }

    /// When a name that has no slot was last heard not to be there.
    pub fn absent_since(&self, name: &str) -> Option<Instant> {
        self.spans.iter().filter(|span| span.decides(name)).map(|span| span.asked).max()
    }

    /// When the whole listing was asked for, if it is known.
    pub fn whole_since(&self) -> Option<Instant> {
        self.spans.iter().filter(|span| span.is_whole()).map(|span| span.asked).max()
    }

    /// Whether nothing was forgotten since a listing that began at `begun` told its first names.
    pub fn hears(&self, begun: Instant) -> bool {
        self.spans.iter().any(|span| span.after.is_empty() && span.asked == begun)
    }

    pub fn forget_spans(&mut self) {
        self.spans.clear();
    }

    /// A range was heard; `begun`: it goes on from the range that was asked for then, and is as old as that.
    pub fn heard(&mut self, span: Span, begun: Option<Instant>) {
        let goes_on = |known: &Span| begun == Some(known.asked) && known.upto.as_ref() == Some(&span.after);
        let known = match self.spans.iter().position(goes_on) {
            Some(at) => {
                let known = self.spans.remove(at);
                Span { upto: span.upto, ..known }
            }
            None => span,
        };
        self.spans.retain(|older| !known.is_whole() || older.asked > known.asked);
        if self.spans.len() == SPANS_MAX {
            self.spans.remove(0);
        }
        self.spans.push(known);
        self.listed = true;
    }

    /// Names that `span` would have shown, and that were last heard of before it; but for what was changed
    /// here after the oldest question that is not answered yet. `begun` as in [`Dir::heard`].
    pub fn not_in(
        &self,
        span: &Span,
        begun: Option<Instant>,
        oldest_question: Option<Instant>,
    ) -> Vec<Arc<str>> {
        let older =
            |slot: &Slot, asked: Instant| slot.when.at < asked && !slot.when.guards_against(oldest_question);
        let upto = span.upto.as_deref();
        let within =
            self.slots_after(&span.after).take_while(|(name, _)| upto.is_none_or(|upto| &***name <= upto));
        let within = within.filter(|(name, slot)| span.decides(name) && older(slot, span.asked));
        // Whether these come as directories, the pages before left open; as files they may have told of them.
        let left_open =
            (1..span.after.len()).filter_map(|end| self.names.get_key_value(span.after.get(..end)?));
        let left_open = left_open.filter(|(name, slot)| {
            !passes(name, &span.after)
                && upto.is_none_or(|upto| passes(name, upto))
                && begun.is_some_and(|begun| older(slot, begun))
        });
        within.chain(left_open).map(|(name, _)| name.clone()).collect()
    }

    /// The next entries in listing order after the item `after` (empty: from the start), at most `count`,
    /// each with its item.
    pub fn entries_after(&self, after: &str, count: usize) -> Vec<(String, Listed)> {
        let there = |name: &str, slot: &Slot| {
            let node = slot.known.node()?;
            Some((listing_order(name, &slot.known), Listed { name: name.to_owned(), node }))
        };
        // Directories whose place comes after names that sort behind them: `a/` after `a!b`.
        let mut held: Vec<(String, Listed)> = (1..after.len())
            .filter_map(|end| after.get(..end))
            .filter_map(|name| there(name, self.names.get(name)?))
            .filter(|(item, _)| item.as_str() > after)
            .collect();
        let mut out = Vec::new();
        let from = after.strip_suffix('/').unwrap_or(after);
        for (name, slot) in self.slots_after(from) {
            let Some((item, listed)) = there(name, slot) else { continue };
            if item.as_str() <= after {
                continue;
            }
            while held.last().is_some_and(|(passed, _)| passed.as_str() < item.as_str()) {
                out.extend(held.pop());
            }
            if out.len() >= count {
                break;
            }
            if listed.node.kind() == Kind::Directory {
                held.push((item, listed))
            } else {
                out.push((item, listed))
            }
        }
        while out.len() < count && !held.is_empty() {
            out.extend(held.pop());
        }
        out.truncate(count);
        out
    }

    /// Whether a directory is known to be listed after directory `from` (empty: the start) and before `to`.
    pub fn has_directory_between(&self, from: &str, to: &str) -> bool {
        let first = if from.is_empty() { String::new() } else { format!("{from}/") };
        let last = format!("{to}/");
        let between = |name: &str, slot: &Slot| {
            let item = listing_order(name, &slot.known);
            slot.known.kind() == Some(Kind::Directory) && item > first && item < last
        };
        let mut shorter = (1..from.len()).filter_map(|end| self.names.get_key_value(from.get(..end)?));
        let mut longer = self.slots_after(from).take_while(|(name, _)| &***name < last.as_str());
        shorter.any(|(name, slot)| between(name, slot)) || longer.any(|(name, slot)| between(name, slot))
    }

    /// The last name that is listed between where `name` would come as a file and as a directory.
    pub fn last_before_directory(&self, name: &str) -> Option<(&str, Kind)> {
        let end = format!("{name}/");
        let between = self.names.range::<str, _>((Bound::Excluded(name), Bound::Excluded(end.as_str())));
        let mut there = between.rev().filter_map(|(name, slot)| Some((&**name, slot.known.kind()?)));
        there.next()
    }

    /// Drops what nobody needs: slots without inode, but for what was changed here after the oldest
    /// question that is not answered yet. What was heard whole is whole no longer. Answers when the last of
    /// the changes was made that it dropped.
    pub fn evict(&mut self, oldest_question: Option<Instant>) -> Option<Instant> {
        let bytes = &mut self.bytes;
        let idle = &mut self.idle;
        let mut lost = None;
        self.names.retain(|name, slot| {
            let keep = slot.ino != 0 || slot.when.guards_against(oldest_question);
            if !keep {
                lost = lost.max(slot.when.guards_against(Some(slot.when.at)).then_some(slot.when.at));
                *bytes -= bytes_of(name, &slot.known);
                *idle -= 1;
            }
            keep
        });
        self.kept = self.idle;
        self.spans.clear();
        self.marker = false;
        let guards = |says: &MarkerSays| oldest_question.is_some_and(|asked| asked <= says.asked);
        self.says = self.says.take().filter(|says| says.local || guards(says));
        self.cursor = None;
        lost
    }

    /// Nothing is fresh any more.
    pub fn doubt(&mut self, oldest_question: Option<Instant>) {
        self.evict(oldest_question);
        self.says = self.says.take().filter(|says| says.local);
        for slot in self.names.values_mut() {
            slot.when.source = Source::Doubted;
        }
    }
}
