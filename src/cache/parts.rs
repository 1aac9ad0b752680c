//! Which parts of which object versions are in memory, and which of them go first.
//!
//! Owns: [`PartCache`]: the index of parts by version and offset, and the LRU that makes room.
//! Invariants: parts of one version never overlap; every part's bytes are covered by the budget;
//! a part under way whose last reader is gone is given up (its fetch holds only a weak reference).

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use lru::LruCache;

use super::{Budget, Part, Permit};
use crate::error::Error;
use crate::key::VersionId;

pub struct PartCache {
    budget: Budget,
    /// How long to wait for memory while none is given back.
    patience: Duration,
    /// Never held across an await. Taken before a part's own lock.
    index: Mutex<Index>,
    /// Bytes that callers of `reserve` wait for; parts that finish meanwhile are evicted for them.
    bytes_awaited: AtomicU64,
}

/// Parts that nobody reads.
#[derive(Clone, Copy, PartialEq)]
enum Idle {
    Finished,
    /// Also those still under way.
    Any,
}

struct Index {
    parts: HashMap<VersionId, BTreeMap<u64, Arc<Part>>>,
    /// Its cap is the budget: each entry's part holds a permit of at least one page.
    lru: LruCache<(VersionId, u64), ()>,
}

impl PartCache {
    pub fn new(budget: Budget, patience: Duration) -> PartCache {
        let index = Index { parts: HashMap::new(), lru: LruCache::unbounded() };
        PartCache { budget, patience, index: Mutex::new(index), bytes_awaited: AtomicU64::new(0) }
    }

    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Parts held now.
    pub fn len(&self) -> usize {
        self.lock().lru.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part that holds (or is about to hold) the byte at `offset`.
    pub fn covering(&self, version: VersionId, offset: u64) -> Option<Arc<Part>> {
        let mut index = self.lock();
        let (start, part) = index.parts.get(&version)?.range(..=offset).next_back()?;
        // Who waited for a part that failed was told; who comes later means to try again.
        if part.range().end <= offset || part.is_failed() {
            return None;
        }
        let (start, part) = (*start, part.clone());
        index.lru.promote(&(version, start));
        Some(part)
    }

    /// What of `range` no part covers. Parts that failed are dropped: who asks means to try again.
    pub fn gaps(&self, version: VersionId, range: Range<u64>) -> Vec<Range<u64>> {
        let mut index = self.lock();
        index.remove_failed(version, &range);
        let Some(parts) = index.parts.get(&version) else {
            return if range.is_empty() { Vec::new() } else { vec![range] };
        };
        let before = parts.range(..range.start).next_back();
        let within = parts.range(range.start..range.end);
        let mut gaps = Vec::new();
        let mut at = range.start;
        for (_, part) in before.into_iter().chain(within) {
            let covered = part.range();
            if covered.start > at {
                gaps.push(at..covered.start);
            }
            at = at.max(covered.end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// What is missing from the start of `range` on; none where a part covers that by now.
    pub fn gap_at_start(&self, version: VersionId, range: Range<u64>) -> Option<Range<u64>> {
        let first = self.gaps(version, range.clone()).into_iter().next();
        first.filter(|gap| gap.start == range.start)
    }

    /// Takes up a new part. None if another one overlaps it by now: ask again what covers the offset.
    pub fn insert(&self, version: VersionId, range: Range<u64>, permit: Permit) -> Option<Arc<Part>> {
        let mut index = self.lock();
        index.remove_failed(version, &range);
        let parts = index.parts.entry(version).or_default();
        let overlaps =
            parts.range(..range.end).next_back().is_some_and(|(_, part)| part.range().end > range.start);
        if overlaps {
            return None;
        }
        let start = range.start;
        let part = Arc::new(Part::new(range, permit));
        parts.insert(start, part.clone());
        index.lru.put((version, start), ());
        Some(part)
    }

    /// Drops the parts that lie within `range`, as far as they are finished and nobody reads them.
    pub fn drop_within(&self, version: VersionId, range: Range<u64>) {
        let mut index = self.lock();
        let starts = index.idle_within(version, range);
        let dropped: Vec<_> = starts.into_iter().map(|start| index.remove(version, start)).collect();
        drop(index);
        drop(dropped);
    }

    /// Lets the parts that lie within `range` go first when room is needed.
    pub fn demote_within(&self, version: VersionId, range: Range<u64>) {
        let mut index = self.lock();
        for start in index.idle_within(version, range) {
            index.lru.demote(&(version, start));
        }
    }

    /// A permit if there is room, or room can be made of finished parts that nobody reads.
    pub fn try_reserve(&self, bytes: u64) -> Option<Permit> {
        self.evict_for(bytes, &[Idle::Finished]);
        self.budget.try_take(bytes)
    }

    /// A permit as soon as there is room.
    ///
    /// Errors: [`Error::NoMemory`] when nobody has given any back for as long as the patience lasts.
    pub async fn reserve(&self, bytes: u64) -> Result<Permit, Error> {
        loop {
            let given_back = self.budget.bytes_given_back();
            match tokio::time::timeout(self.patience, self.take(bytes)).await {
                Ok(permit) => return Ok(permit),
                Err(_) if self.budget.bytes_given_back() == given_back => return Err(Error::NoMemory),
                Err(_) => {} // others make progress: our turn will come
            }
        }
    }

    async fn take(&self, bytes: u64) -> Permit {
        self.bytes_awaited.fetch_add(bytes, Ordering::SeqCst);
        let _waiting = Waiting { cache: self, bytes };
        let mut take = pin!(self.budget.take(bytes));
        // First the place in the queue, then the eviction: what is freed from now on comes to those who
        // wait, and to nobody who asks later.
        if let Poll::Ready(permit) = poll_fn(|context| Poll::Ready(take.as_mut().poll(context))).await {
            return permit;
        }
        self.settle();
        take.await
    }

    /// Tells that a part was finished or let go: if somebody waits for room, it may be evicted now.
    pub fn settle(&self) {
        let awaited = self.bytes_awaited.load(Ordering::SeqCst);
        if awaited > 0 {
            self.evict_for(awaited, &[Idle::Finished, Idle::Any]);
        }
    }

    /// Drops least recently used parts of the given kinds until `bytes` are free or none is left.
    fn evict_for(&self, bytes: u64, kinds: &[Idle]) {
        if self.budget.bytes_free() >= bytes {
            return;
        }
        let mut index = self.lock();
        let mut dropped: Vec<Arc<Part>> = Vec::new();
        for kind in kinds {
            let free = self.budget.bytes_free() + dropped.iter().map(|part| part.bytes()).sum::<u64>();
            for (version, start) in index.idle(bytes.saturating_sub(free), *kind) {
                dropped.extend(index.remove(version, start));
            }
        }
        drop(index);
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Index {
    fn idle_within(&self, version: VersionId, range: Range<u64>) -> Vec<u64> {
        let Some(parts) = self.parts.get(&version) else { return Vec::new() };
        let within = parts.range(range.start..range.end).filter(|(_, part)| {
            part.range().end <= range.end && Arc::strong_count(part) == 1 && part.is_finished()
        });
        within.map(|(start, _)| *start).collect()
    }

    /// The least recently used parts of a kind, as many as hold `bytes`.
    fn idle(&self, bytes: u64, kind: Idle) -> Vec<(VersionId, u64)> {
        let mut found = 0;
        let idle = self.lru.iter().rev().filter_map(|((version, start), ())| {
            let part = self.parts.get(version)?.get(start)?;
            let idle = Arc::strong_count(part) == 1 && (kind == Idle::Any || part.is_finished());
            idle.then(|| (*version, *start, part.bytes()))
        });
        idle.take_while(|(_, _, part_bytes)| {
            let more = found < bytes;
            found += part_bytes;
            more
        })
        .map(|(version, start, _)| (version, start))
        .collect()
    }

    fn remove_failed(&mut self, version: VersionId, range: &Range<u64>) {
        let Some(parts) = self.parts.get(&version) else { return };
        let first = parts.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let failed = parts
            .range(first..range.end)
            .filter(|(_, part)| part.range().end > range.start && part.is_failed());
        for start in failed.map(|(start, _)| *start).collect::<Vec<_>>() {
            self.remove(version, start);
        }
    }

    fn remove(&mut self, version: VersionId, start: u64) -> Option<Arc<Part>> {
        self.lru.pop(&(version, start));
        let parts = self.parts.get_mut(&version)?;
        let part = parts.remove(&start);
        if parts.is_empty() {
            self.parts.remove(&version);
        }
        part
    }
}

/// Takes the wish back also when the waiting task is dropped.
struct Waiting<'a> {
    cache: &'a PartCache,
    bytes: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.cache.bytes_awaited.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn cache(bytes: u64) -> (PartCache, VersionId) {
        (PartCache::new(Budget::new(bytes), Duration::from_secs(1)), VersionId::new("bucket", "key", "etag"))
    }

    fn filled(cache: &PartCache, version: VersionId, range: Range<u64>) {
        let permit = cache.try_reserve(range.end - range.start).expect("room");
        let len = (range.end - range.start) as usize;
        cache.insert(version, range, permit).expect("no overlap").push(&vec![7; len]);
    }

    fn gaps(cache: &PartCache, version: VersionId, range: Range<u64>) -> String {
        let gaps = cache.gaps(version, range);
        gaps.iter().map(|gap| format!("{gap:?}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn gaps_are_what_no_part_covers() {
        let (cache, v) = cache(1 << 20);
        filled(&cache, v, 10..20);
        filled(&cache, v, 30..40);
        assert_eq!(gaps(&cache, v, 0..50), "0..10 20..30 40..50");
        assert_eq!(gaps(&cache, v, 15..35), "20..30");
        assert_eq!(gaps(&cache, v, 12..18), "");
        assert_eq!(gaps(&cache, VersionId::new("bucket", "key", "other"), 0..5), "0..5");
        assert_eq!(cache.gap_at_start(v, 20..50), Some(20..30));
        assert_eq!(cache.gap_at_start(v, 10..50), None, "another was faster: what follows is no answer");
    }

    #[test]
    fn parts_never_overlap() {
        let (cache, v) = cache(1 << 20);
        filled(&cache, v, 10..20);
        for range in [0..11, 19..30, 12..13, 0..30] {
            let permit = cache.try_reserve(30).unwrap();
            assert!(cache.insert(v, range, permit).is_none());
        }
        assert!(cache.covering(v, 9).is_none());
        assert!(cache.covering(v, 19).is_some());
        assert!(cache.covering(v, 20).is_none());
    }

    #[test]
    fn a_failed_part_makes_way() {
        let (cache, v) = cache(1 << 20);
        let permit = cache.try_reserve(10).unwrap();
        cache.insert(v, 0..10, permit).unwrap().fail(Error::Io("gone".into()));
        assert!(cache.covering(v, 5).is_none(), "who comes later tries again");
        assert_eq!(gaps(&cache, v, 0..10), "0..10");
        filled(&cache, v, 0..10);
        assert!(cache.covering(v, 5).is_some());
    }

    #[test]
    fn the_least_recently_used_idle_part_goes_first() {
        let (cache, v) = cache(64 * KIB);
        for n in 0..4 {
            filled(&cache, v, n * 16 * KIB..(n + 1) * 16 * KIB);
        }
        let held = cache.covering(v, 16 * KIB).unwrap();
        cache.covering(v, 0).unwrap();
        filled(&cache, v, 64 * KIB..80 * KIB);
        assert!(cache.covering(v, 0).is_some(), "used a moment ago");
        assert!(cache.covering(v, 16 * KIB).is_some(), "held by a reader");
        assert!(cache.covering(v, 32 * KIB).is_none(), "the oldest idle one went");
        drop(held);
        assert!(cache.budget().bytes_peak() <= 64 * KIB);
    }

    #[test]
    fn what_was_passed_goes_and_what_is_demoted_goes_first() {
        let (cache, v) = cache(64 * KIB);
        for n in 0..4 {
            filled(&cache, v, n * 16 * KIB..(n + 1) * 16 * KIB);
        }
        let held = cache.covering(v, 0).unwrap();
        cache.drop_within(v, 0..40 * KIB);
        assert_eq!(gaps(&cache, v, 0..64 * KIB), "16384..32768", "one is read, one not passed wholly");
        cache.demote_within(v, 48 * KIB..64 * KIB);
        filled(&cache, v, 64 * KIB..96 * KIB);
        assert_eq!(gaps(&cache, v, 32 * KIB..96 * KIB), "49152..65536");
        drop(held);
    }

    #[tokio::test]
    async fn a_waiter_gets_the_room_of_a_part_that_is_let_go() {
        let (cache, v) = cache(64 * KIB);
        let cache = Arc::new(cache);
        filled(&cache, v, 0..64 * KIB);
        let held = cache.covering(v, 0).unwrap();
        assert!(cache.try_reserve(4096).is_none());
        let waiter = tokio::spawn({
            let cache = cache.clone();
            async move { cache.reserve(4096).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(held);
        cache.settle();
        assert!(waiter.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_gives_up_when_nothing_is_given_back() {
        let (cache, v) = cache(64 * KIB);
        filled(&cache, v, 0..64 * KIB);
        let _held = cache.covering(v, 0).unwrap();
        assert!(matches!(cache.reserve(4096).await, Err(Error::NoMemory)));
    }
}
