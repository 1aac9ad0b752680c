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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn doomed(key: &str, keep: bool) -> Doomed {
        let dir =
            key.trim_end_matches('/').rsplit_once('/').map_or(String::new(), |(dir, _)| format!("{dir}/"));
        Doomed { objects: vec![key.into()], dir, keep, done: Box::new(|_| {}) }
    }

    fn push(queue: &mut Queue, key: &str, keep: bool, now: Instant) {
        assert!(queue.push(doomed(key, keep), now).is_ok(), "{key}");
    }

    fn objects(batch: Option<&Vec<Doomed>>) -> Vec<&str> {
        batch.into_iter().flatten().flat_map(|doomed| doomed.objects.iter().map(String::as_str)).collect()
    }

    #[test]
    fn what_gathers_while_one_is_under_way_goes_together() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        push(&mut queue, "a", false, now);
        let first = queue.take(now).unwrap();
        for key in ["b", "c", "d"] {
            push(&mut queue, key, false, now);
            assert!(queue.take(now).is_none(), "one is under way");
        }
        queue.answered(&first, now);
        assert_eq!(objects(queue.take(now).as_ref()), ["b", "c", "d"]);
    }

    #[test]
    fn nothing_lingers_for_long_or_when_somebody_waits() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        push(&mut queue, "a", false, now);
        queue.take(now).unwrap();
        push(&mut queue, "b", false, now);
        assert_eq!(objects(queue.take(now + LINGER).as_ref()), ["b"]);
        push(&mut queue, "c", false, now);
        queue.hurry();
        assert_eq!(objects(queue.take(now).as_ref()), ["c"]);
        push(&mut queue, "d", false, now);
        assert!(queue.take(now).is_none(), "the hurry is over");
    }

    #[test]
    fn a_full_batch_does_not_wait_and_few_are_under_way() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for n in 0..(BATCHES_IN_FLIGHT_MAX + 1) * DELETE_KEYS_MAX {
            push(&mut queue, &n.to_string(), false, now);
        }
        let batches: Vec<_> = std::iter::from_fn(|| queue.take(now)).collect();
        assert_eq!(batches.len(), BATCHES_IN_FLIGHT_MAX);
        assert!(batches.iter().all(|batch| batch.len() == DELETE_KEYS_MAX));
        queue.answered(&batches[0], now);
        assert_eq!(queue.take(now).map(|batch| batch.len()), Some(DELETE_KEYS_MAX));
    }

    #[test]
    fn what_waits_is_bounded() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for n in 0..PENDING_KEYS_MAX {
            push(&mut queue, &n.to_string(), false, now);
        }
        assert!(queue.push(doomed("one more", false), now).is_err());
        assert_eq!(queue.pending(), PENDING_KEYS_MAX);
        let batch = queue.take(now).unwrap();
        queue.answered(&batch, now);
        push(&mut queue, "one more", false, now);
    }

    #[test]
    fn the_last_entry_of_a_directory_is_held_until_a_pause() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for key in ["d/1", "d/2", "d/3"] {
            push(&mut queue, key, true, now);
        }
        let batch = queue.take(now);
        assert_eq!(objects(batch.as_ref()), ["d/1", "d/2"]);
        assert!(batch.iter().flatten().all(|doomed| !doomed.keep), "d/3 keeps the directory");
        queue.tick(now + LINGER);
        assert!(queue.take(now + LINGER).is_none(), "the others come first");
        queue.answered(&batch.unwrap(), now + LINGER);
        let last = queue.take(now + LINGER).unwrap();
        assert!(objects(Some(&last)) == ["d/3"] && last[0].keep);
        queue.answered(&last, now + LINGER);
        assert_eq!(queue.pending(), 0);
    }

    #[test]
    fn a_directory_takes_along_what_was_held_of_it() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        push(&mut queue, "a/b/1", true, now);
        push(&mut queue, "a/b/", true, now);
        assert!(queue.take(now).is_none(), "it is the last of its own directory now");
        assert_eq!(queue.goes_with("a/b/1").as_deref(), Some("a/"));
        assert_eq!(queue.goes_with("a/b").as_deref(), Some("a/"));
        push(&mut queue, "a/", false, now);
        assert_eq!(objects(queue.take(now).as_ref()), ["a/b/1", "a/b/", "a/"], "the deepest first");
    }

    #[test]
    fn a_directory_waits_for_its_entries_under_way() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        push(&mut queue, "d/1", true, now);
        queue.hurry_held("d/");
        let entry = queue.take(now).unwrap();
        assert!(queue.push(doomed("d/", false), now).is_err(), "its marker may be on its way");
        queue.answered(&entry, now);
        push(&mut queue, "d/", false, now);
    }

    #[test]
    fn a_burst_is_over_after_a_pause() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        assert!(!queue.in_burst(now));
        push(&mut queue, "a", false, now);
        assert!(queue.in_burst(now + 10 * BURST), "it is under way");
        let batch = queue.take(now).unwrap();
        queue.answered(&batch, now + BURST);
        assert!(queue.in_burst(now + BURST + BURST / 2));
        assert!(!queue.in_burst(now + 2 * BURST));
    }

    /// Directories `0/`, `1/`, `2/` as S3 has them.
    #[derive(Default)]
    struct S3 {
        keys: HashSet<String>,
        marked: HashSet<String>,
    }

    impl S3 {
        fn others(&self, doomed: &Doomed) -> bool {
            self.keys.iter().any(|key| key.starts_with(&doomed.dir) && *key != doomed.objects[0])
        }

        /// As early as it may be: what is under way with it is there still.
        fn check(&mut self, batch: &[Doomed]) {
            for doomed in batch.iter().filter(|doomed| doomed.keep) {
                if !self.others(doomed) {
                    self.marked.insert(doomed.dir.clone());
                }
            }
        }

        fn remove(&mut self, doomed: &Doomed) {
            assert!(self.keys.remove(&doomed.objects[0]), "{:?} went twice", doomed.objects);
            assert!(self.others(doomed) || self.marked.contains(&doomed.dir), "{} vanished", doomed.dir);
        }
    }

    proptest! {
        #[test]
        fn whatever_goes_when_no_directory_vanishes(
            steps in prop::collection::vec((0u8..6, 0usize..3), 1..200),
        ) {
            let (mut queue, mut now) = (Queue::default(), Instant::now());
            let mut s3 = S3::default();
            let mut under_way: VecDeque<Vec<Doomed>> = VecDeque::new();
            let drain = (0..20).flat_map(|_| [(5, 0), (3, 0), (4, 0)]);
            for (n, (what, dir)) in steps.into_iter().chain(drain).enumerate() {
                match what {
                    0..3 => {
                        let key = format!("{dir}/{n}");
                        s3.keys.insert(key.clone());
                        push(&mut queue, &key, true, now);
                    }
                    3 => {
                        let batch = queue.take(now);
                        batch.iter().for_each(|batch| s3.check(batch));
                        under_way.extend(batch);
                    }
                    4 => {
                        if let Some(batch) = under_way.pop_front() {
                            batch.iter().for_each(|doomed| s3.remove(doomed));
                            queue.answered(&batch, now);
                        }
                    }
                    _ => {
                        now += TICK;
                        queue.tick(now);
                    }
                }
            }
            prop_assert!(s3.keys.is_empty() && queue.pending() == 0, "{:?}", s3.keys);
        }
    }
}
