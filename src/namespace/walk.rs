//! Tree walks: which pages of a subtree to ask for ahead of a program that reads one directory after
//! another, and which directories such pages tell the whole of. Pure.
//!
//! Owns: [`Walks`] (who walks where, and what may be spent on it) and [`Walk`] (pages of a listing without
//! delimiter to directories).
//! Invariants: a directory is told only when every key below it lay in the range that was seen without a
//! gap; pages asked for never outnumber the directories that were answered from them by more than what
//! [`Walks`] may stake.
//! Must never know: the table, requests, the time-to-live.
//!
//! All keys that begin with `dir/` stand together, in key order and in the order of path components, so a
//! directory is complete when a key comes that does not begin so. `a!b` lies outside of `a/`, before it.
//!
//! The first page goes out in place of the listing of the directory that is read then. If it tells the whole
//! of that, nothing was spent; otherwise the directory is listed by itself, and one request was lost. So
//! walks begin with a stake of one request, each directory that needs no listing earns one, and a lost
//! stake is given back after many plain listings.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{FileInfo, Node};
use crate::key;
use crate::s3::{ListPage, ListedObject};

/// Programs that are followed at once, at most; each has one walk at most.
const WALKERS_MAX: usize = 8;
/// Requests that may be spent ahead of what they save, at most.
const CREDIT_MAX: u32 = 8;
/// Pages that are known ahead of the walker, at most.
const LEAD_PAGES: u64 = 3;
/// Pages that one directory waits for, at most.
const PATIENCE: u32 = 2;
/// Plain listings after which a lost stake is given back.
const STAKE_BACK: u32 = 64;

pub(super) struct Walks {
    /// The one that moved last is last.
    walkers: Vec<Walker>,
    credit: u32,
    plain: u32,
    last_id: u64,
}

struct Walker {
    /// Key of the directory read last.
    last: String,
    walk: Option<Walk>,
}

/// What to do for a directory that is not known.
#[derive(Debug)]
pub(super) enum Step {
    /// List it by itself.
    Plain,
    /// A page under way may tell.
    Wait,
    /// This page may tell.
    Ask(Ask),
}

/// A page of a walk to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    pub walk: u64,
    /// Which of the walk's pages, from 0.
    pub page: u64,
    /// The prefix.
    pub root: String,
    pub from: From,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// After this key.
    Key(String),
    Token(String),
}

/// A directory whose every key was seen.
#[derive(Debug)]
pub(super) struct Whole {
    pub dir: String,
    /// When the first page was asked for that told of it.
    pub asked: Instant,
    pub names: BTreeMap<String, Node>,
    pub marker: bool,
}

/// What a page told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub wholes: Vec<Whole>,
    /// Keys that no path can name.
    pub hidden: u64,
    pub out_of_order: bool,
}

impl Walks {
    pub fn new() -> Walks {
        Walks { walkers: Vec::new(), credit: 1, plain: 0, last_id: 0 }
    }

    /// A directory is read that is known: perhaps because a walk told of it. Answers the page to ask for
    /// ahead of the walker.
    pub fn read_known(&mut self, dir: &str) -> Option<Ask> {
        self.moves_to(dir);
        let mut walks = self.walkers.iter_mut().filter_map(|walker| walker.walk.as_mut());
        let (walk, page) = walks.find_map(|walk| {
            let page = walk.ahead.remove(dir)?;
            Some((walk, page))
        })?;
        // What was passed by without being read is not coming back.
        walk.ahead = walk.ahead.split_off(dir);
        self.credit = CREDIT_MAX.min(self.credit + 1);
        if walk.in_flight || walk.pages - page >= LEAD_PAGES {
            return None;
        }
        let ask = walk.ask()?;
        self.credit -= 1;
        Some(ask)
    }

    /// A directory is read that is not known, and has `waited` for so many pages. `start`: where a walk over
    /// the directories in the first key may begin so that it meets the third next, if the second was read
    /// just before that and was small.
    pub fn read(
        &mut self,
        dir: &str,
        waited: u32,
        start: impl FnOnce(&str, &str, &str) -> Option<String>,
    ) -> Step {
        let before = self.neighbour(dir);
        if let Some(walker) =
            self.walkers.iter_mut().find(|w| w.walk.as_ref().is_some_and(|w| w.may_tell(dir)))
        {
            let walk = walker.walk.as_mut().expect("it was found by its walk");
            if waited < PATIENCE && walk.in_flight {
                return Step::Wait;
            }
            if waited < PATIENCE
                && self.credit > 0
                && let Some(ask) = walk.ask()
            {
                self.credit -= 1;
                return Step::Ask(ask);
            }
            walker.walk = None;
        } else if let Some((above, before)) = before
            && waited == 0
            && self.credit > 0
            && let Some(start) = start(above, &before, dir)
        {
            self.last_id += 1;
            let mut walk = Walk::new(self.last_id, above, start);
            let ask = walk.ask().expect("a walk that begins has a first page");
            self.credit -= 1;
            self.moves_to(dir).walk = Some(walk);
            return Step::Ask(ask);
        }
        self.moves_to(dir);
        self.plain += 1;
        if self.plain.is_multiple_of(STAKE_BACK) {
            self.credit = self.credit.max(1);
        }
        Step::Plain
    }

    /// A page has come, asked for at `asked`.
    pub fn told(&mut self, walk: u64, page: ListPage, asked: Instant) -> Told {
        let found = self.walkers.iter_mut().find(|w| w.walk.as_ref().is_some_and(|w| w.id == walk));
        let Some(walker) = found else { return Told::default() };
        let Some(walk) = &mut walker.walk else { return Told::default() };
        walk.in_flight = false;
        // What cannot be read may be all there is of a directory.
        let readable = page.undecodable == 0;
        let told = walk.take(page, asked);
        if told.out_of_order || !readable {
            walker.walk = None;
            return Told { wholes: Vec::new(), ..told };
        }
        told
    }

    /// A page will not come, if it has not.
    pub fn failed(&mut self, ask: u64, page: u64) {
        let waits = |walk: &Walk| walk.id == ask && walk.pages == page && walk.in_flight;
        for walker in &mut self.walkers {
            walker.walk = walker.walk.take().filter(|walk| !waits(walk));
        }
    }

    /// Pages and directories kept for walks.
    #[cfg(test)]
    fn held(&self) -> usize {
        let walks = self.walkers.iter().filter_map(|walker| walker.walk.as_ref());
        walks.map(|walk| walk.stack.len() + walk.ahead.len()).sum()
    }

    /// The directory above, and the one in it that was read (or walked within) just before `dir`.
    fn neighbour<'d>(&self, dir: &'d str) -> Option<(&'d str, String)> {
        let (above, _) = key::split_dir(dir);
        let last = &self.walkers.get(self.behind(dir)?)?.last;
        let (name, _) = last.strip_prefix(above)?.split_once('/')?;
        Some((above, format!("{above}{name}/")))
    }

    /// The walker who comes to `dir` next: the one that is nearest before it, below the same directory.
    fn behind(&self, dir: &str) -> Option<usize> {
        let (above, _) = key::split_dir(dir);
        let near = self.walkers.iter().enumerate();
        let near = near.filter(|(_, w)| w.last.starts_with(above) && w.last.as_str() < dir);
        near.max_by_key(|(_, w)| &w.last).map(|(at, _)| at)
    }

    fn moves_to(&mut self, dir: &str) -> &mut Walker {
        let here = self.walkers.iter().position(|w| w.last == dir);
        let mut walker = match here.or_else(|| self.behind(dir)) {
            Some(at) => self.walkers.remove(at),
            None => Walker { last: String::new(), walk: None },
        };
        dir.clone_into(&mut walker.last);
        if self.walkers.len() == WALKERS_MAX {
            self.walkers.remove(0);
        }
        self.walkers.push(walker);
        self.walkers.last_mut().expect("just pushed")
    }
}

struct Walk {
    id: u64,
    root: String,
    /// The key after which it began.
    start: String,
    /// The last key seen.
    position: String,
    /// Where it goes on; none at the end.
    next: Option<From>,
    in_flight: bool,
    /// Directories that the position is in, each within the one before.
    stack: Vec<Partial>,
    /// Directories told and not read yet, and with which page.
    ahead: BTreeMap<String, u64>,
    pages: u64,
}

struct Partial {
    whole: Whole,
    /// The walk began before its first key.
    from_its_start: bool,
}

impl Walk {
    fn new(id: u64, root: &str, start: String) -> Walk {
        Walk {
            id,
            root: root.to_owned(),
            position: start.clone(),
            next: Some(From::Key(start.clone())),
            start,
            in_flight: false,
            stack: Vec::new(),
            ahead: BTreeMap::new(),
            pages: 0,
        }
    }

    /// The next page, which is under way from now on.
    fn ask(&mut self) -> Option<Ask> {
        let from = self.next.take()?;
        self.in_flight = true;
        Some(Ask { walk: self.id, page: self.pages, root: self.root.clone(), from })
    }

    /// Whether the pages to come may tell the whole of a directory.
    fn may_tell(&self, dir: &str) -> bool {
        let passed = self.position.as_str() >= dir && !self.position.starts_with(dir);
        let more = self.in_flight || self.next.is_some();
        more && dir.len() > self.root.len()
            && dir.starts_with(&self.root)
            && dir > self.start.as_str()
            && !passed
    }

    fn take(&mut self, page: ListPage, asked: Instant) -> Told {
        let mut told = Told::default();
        self.pages += 1;
        for object in &page.contents {
            if object.key <= self.position || !object.key.starts_with(&self.root) {
                return Told { out_of_order: true, ..told };
            }
            object.key.clone_into(&mut self.position);
            while self.stack.last().is_some_and(|top| !object.key.starts_with(&top.whole.dir)) {
                self.tell_last(&mut told);
            }
            if !self.key(object, asked) {
                told.hidden += 1;
            }
        }
        self.next = page.next_continuation_token.map(From::Token);
        if self.next.is_none() {
            while !self.stack.is_empty() {
                self.tell_last(&mut told);
            }
        }
        told
    }

    /// Nothing more is to come in the innermost directory.
    fn tell_last(&mut self, told: &mut Told) {
        if let Some(done) = self.stack.pop().filter(|done| done.from_its_start) {
            self.ahead.insert(done.whole.dir.clone(), self.pages);
            told.wholes.push(done.whole);
        }
    }

    /// A key below the innermost directory. False: no path can name it.
    fn key(&mut self, object: &ListedObject, asked: Instant) -> bool {
        let key = object.key.as_str();
        loop {
            let within = self.stack.last().map_or(self.root.len(), |top| top.whole.dir.len());
            let rest = key.get(within..).unwrap_or_default();
            let (name, is_dir) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
            let above = self.stack.last_mut().map(|top| &mut top.whole);
            if rest.is_empty() {
                above.into_iter().for_each(|above| above.marker = true);
                return true;
            }
            if key::check_name(name.as_bytes()).is_err() {
                return false;
            }
            if !is_dir {
                if let Some(above) = above {
                    above.names.insert(name.to_owned(), Node::File(FileInfo::from(object)));
                }
                return true;
            }
            if let Some(above) = above {
                above.names.insert(name.to_owned(), Node::Directory);
            }
            let dir = key.get(..=within + name.len()).unwrap_or(key).to_owned();
            let from_its_start = dir > self.start;
            let whole = Whole { dir, asked, names: BTreeMap::new(), marker: false };
            self.stack.push(Partial { whole, from_its_start });
        }
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
