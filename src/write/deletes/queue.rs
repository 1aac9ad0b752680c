//! Which removals go when. Pure: the clock is told, nothing is sent.
//!
//! Owns: [`Queue`].
//! A removal is *ready*, or *held*: of a directory that may have no marker, the last entry removed waits, so
//! that its object keeps the directory there until it is known what becomes of the directory itself. The
//! next entry takes its place; the directory's own removal takes it along; a pause lets it go, once a marker is
//! there.
//!
//! Ready removals go as Nagle's packets do: at once while nothing is under way, together with whatever has
//! gathered until the answer comes.
//! Invariants: a batch has at most [`DELETE_KEYS_MAX`] objects; at most [`BATCHES_IN_FLIGHT_MAX`] are under way; at
//! most [`PENDING_KEYS_MAX`] keys wait or are under way (a removal that comes below the limit is taken whole); of a
//! directory whose entry is held no other entry is pending when the held one becomes ready.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Doomed;
use crate::s3::DELETE_KEYS_MAX;

/// Batches under way at once: with 30 ms a request 200,000 keys a second, more than the kernel hands over.
pub const BATCHES_IN_FLIGHT_MAX: usize = 8;
/// Keys that wait or are under way: twice what can be under way, so that no turn is lost.
pub const PENDING_KEYS_MAX: usize = 2 * BATCHES_IN_FLIGHT_MAX * DELETE_KEYS_MAX;
/// A removal waits no longer for others than this, and a tick more: 100 ms.
const LINGER: Duration = Duration::from_millis(75);
/// How often it is looked what has waited long enough.
pub const TICK: Duration = Duration::from_millis(25);
/// So long after one removal the next belongs to the same burst: what a program that removes one after the other
/// needs between two, on a busy machine.
const BURST: Duration = Duration::from_millis(100);

struct Held {
    doomed: Doomed,
    since: Instant,
    /// It goes as soon as the directory's other entries have gone.
    due: bool,
}

#[derive(Default)]
pub struct Queue {
    ready: VecDeque<(Instant, Doomed)>,
    ready_objects: usize,
    /// By directory.
    held: HashMap<Arc<str>, Held>,
    /// By directory: entries ready or under way.
    going: HashMap<Arc<str>, usize>,
    /// Every key that is removed, and the directory whose entry it goes with.
    pending: HashMap<String, Arc<str>>,
    in_flight: usize,
    /// What is ready goes without lingering.
    hurry: bool,
    /// When the last removal came or ended.
    last: Option<Instant>,
}

impl Queue {
    /// Keys that wait or are under way.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether a removal that comes now follows another.
    pub fn in_burst(&self, now: Instant) -> bool {
        !self.pending.is_empty() || self.last.is_some_and(|last| now - last < BURST)
    }

    /// If the key, or the directory of its name, is yet to be removed: the directory with whose entry it goes.
    pub fn goes_with(&self, file_key: &str) -> Option<Arc<str>> {
        if self.pending.is_empty() {
            return None; // most of the time
        }
        self.pending.get(file_key).or_else(|| self.pending.get(&format!("{file_key}/"))).cloned()
    }

    /// All that is yet to be removed with entries of a directory.
    pub fn keys_in(&self, dir: &str) -> HashSet<String> {
        let here = self.pending.iter().filter(|(_, with)| &***with == dir);
        here.map(|(key, _)| key.clone()).collect()
    }

    /// Whether entries of the directory are ready or under way.
    pub fn is_going(&self, dir: &str) -> bool {
        self.going.contains_key(dir)
    }

    /// The directory itself is about to be removed: what is held of it waits for that a while longer.
    pub fn hold_on(&mut self, dir: &str, now: Instant) {
        if let Some(held) = self.held.get_mut(dir) {
            (held.since, held.due) = (now, false);
        }
    }

    pub fn is_held(&self, dir: &str) -> bool {
        self.held.contains_key(dir)
    }

    /// Takes a removal in; gives it back while too many are pending, and while entries of the directory that it
    /// removes are under way, one of which may be about to write its marker.
    pub fn push(&mut self, mut doomed: Doomed, now: Instant) -> Result<(), Doomed> {
        let removed = doomed.objects.last().map_or("", String::as_str);
        if self.pending.len() >= PENDING_KEYS_MAX || self.is_going(removed) {
            return Err(doomed);
        }
        self.last = Some(now);
        if let Some(held) = self.held.remove(removed) {
            doomed.absorb(held.doomed);
        }
        let dir: Arc<str> = doomed.dir.as_str().into();
        for key in &doomed.objects {
            self.pending.insert(key.clone(), dir.clone());
        }
        if !doomed.keep {
            self.make_ready(now, doomed);
        } else if let Some(before) = self.held.insert(dir, Held { doomed, since: now, due: false }) {
            self.make_ready(before.since, Doomed { keep: false, ..before.doomed });
        }
        Ok(())
    }

    fn make_ready(&mut self, since: Instant, doomed: Doomed) {
        *self.going.entry(doomed.dir.as_str().into()).or_default() += 1;
        self.ready_objects += doomed.objects.len();
        self.ready.push_back((since, doomed));
    }

    /// What is ready goes now.
    pub fn hurry(&mut self) {
        self.hurry = !self.ready.is_empty();
    }

    /// [`Queue::hurry`], and what is held of the directory goes as soon as it may.
    pub fn hurry_held(&mut self, dir: &str) {
        if let Some(held) = self.held.get_mut(dir) {
            held.due = true;
            self.let_go(dir);
        }
        self.hurry();
    }

    pub fn hurry_all(&mut self) {
        let dirs: Vec<Arc<str>> = self.held.keys().cloned().collect();
        dirs.iter().for_each(|dir| self.hurry_held(dir));
        self.hurry();
    }

    /// What is held long enough goes.
    pub fn tick(&mut self, now: Instant) {
        let over = |held: &Held| now - held.since >= LINGER;
        let dirs: Vec<Arc<str>> =
            self.held.iter().filter(|(_, held)| over(held)).map(|(dir, _)| dir.clone()).collect();
        for dir in dirs {
            if let Some(held) = self.held.get_mut(&dir) {
                held.due = true;
            }
            self.let_go(&dir);
        }
    }

    fn let_go(&mut self, dir: &str) {
        if self.going.contains_key(dir) || !self.held.get(dir).is_some_and(|held| held.due) {
            return;
        }
        if let Some(held) = self.held.remove(dir) {
            self.make_ready(held.since, held.doomed);
            self.hurry = true;
        }
    }

    /// What is to be sent now, together.
    pub fn take(&mut self, now: Instant) -> Option<Vec<Doomed>> {
        let (first, _) = self.ready.front()?;
        let due = self.hurry
            || self.in_flight == 0
            || self.ready_objects >= DELETE_KEYS_MAX
            || now - *first >= LINGER;
        if !due || self.in_flight >= BATCHES_IN_FLIGHT_MAX {
            return None;
        }
        let mut batch = Vec::new();
        let mut objects = 0;
        while let Some((_, next)) = self.ready.front()
            && (batch.is_empty() || objects + next.objects.len() <= DELETE_KEYS_MAX)
        {
            objects += next.objects.len();
            batch.extend(self.ready.pop_front().map(|(_, doomed)| doomed));
        }
        self.ready_objects -= objects;
        self.hurry &= !self.ready.is_empty();
        self.in_flight += 1;
        Some(batch)
    }

    /// A batch has been answered for.
    pub fn answered(&mut self, batch: &[Doomed], now: Instant) {
        self.in_flight -= 1;
        self.last = Some(now);
        for doomed in batch {
            for key in &doomed.objects {
                self.pending.remove(key);
            }
            if let Some(going) = self.going.get_mut(&*doomed.dir) {
                *going -= 1;
                if *going == 0 {
                    self.going.remove(&*doomed.dir);
                    self.let_go(&doomed.dir);
                }
            }
        }
    }
}
