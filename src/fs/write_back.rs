//! `--write-back`: files and directories that are acknowledged when the local disk has them, and go to S3 after that.
//!
//! Owns: [`WriteBack`] (what is on its way), and when what was acknowledged is sent, again and again until S3 has
//! it or refuses it.
//! Invariants: what was acknowledged is in S3, on its way there, or kept where `pailfs recover` lists it; of one file or
//! directory one change is under way at a time, and the last one wins; at most [`IN_FLIGHT_MAX`] are sent side by
//! side. Bounded by what the staging directory takes: then a close publishes as without `--write-back`.
//! Must never know: what an item on the local disk looks like.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::Filesystem;
use crate::error::Error;
use crate::journal::{Intent, OPEN_MAX};
use crate::key::ROOT_INO;
use crate::s3::{ObjectHeaders, SSE};
use crate::write::{Writer, Writes, markers};

/// Files and markers sent side by side: as many as GETs.
const IN_FLIGHT_MAX: usize = 64;
/// For how long nothing more is acknowledged before what was is sent: most of what is to be renamed, removed, written again
/// or changed right after is so by then, and is sent once, or never; and who writes has the processor to itself.
const SETTLE_TIME: Duration = Duration::from_millis(500);
/// How long it waits at most, as the kernel's own dirty pages do; a directory, from the last time something was made in it or
/// below it: one that S3 has is looked up there again each time-to-live, level after level, and so is each new name in it.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(30);
/// As [`SETTLE_TIME`], of a directory that was made or changed: who makes a tree may have to wait now and then.
const DIRECTORY_SETTLE_TIME: Duration = Duration::from_secs(5);
/// How long a directory waits at most in which there is always something made.
const HELD_TIME_MAX: Duration = Duration::from_secs(600);
/// Directories that wait, at most: a fourth of what the journal takes.
const HELD_MAX: usize = OPEN_MAX / 4;
/// How long to wait before S3, which was not to be reached, is tried again; longer each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

pub(super) struct WriteBack {
    pub on: bool,
    /// While S3 is gone, who waits for it must not find all retries spent on what waits here.
    writes: Writes,
    turns: Semaphore,
    /// Held for an instant only; the namespace's table is locked under it.
    state: Mutex<State>,
    /// Something was sent, or failed.
    changed: Notify,
    /// Those that wait, be it to try again, do so no longer.
    hurry: Notify,
    /// The staging directory fills: files that settle are sent now.
    fills: Notify,
}

#[derive(Default)]
struct State {
    /// By inode.
    under_way: HashMap<u64, Progress>,
    /// The files among them that nobody has begun to send.
    settling: Vec<(u64, Arc<Writer>)>,
    /// When something was acknowledged last.
    last: Option<Instant>,
    /// What is to be sent of the directories among them.
    markers: HashMap<u64, Marker>,
    /// The mount ends: what S3 is not to be reached for stays to the next one.
    leaving: bool,
    /// What S3 was not to be reached for since then.
    gave_up: Option<Error>,
    /// Somebody waits until S3 has what is at these keys, or below.
    awaited: Vec<String>,
}

#[derive(Default)]
struct Progress {
    /// It was acknowledged once more.
    again: bool,
    /// It is left to the next mount.
    left: bool,
    failures: u64,
    error: Option<Error>,
}

/// A directory's marker as it is to be.
#[derive(Clone)]
struct Marker {
    key: String,
    headers: ObjectHeaders,
    /// S3 may have one already: its attributes were changed.
    over: bool,
    /// In the journal.
    noted: u64,
    since: Instant,
    /// When something was acknowledged last that is in it, or below.
    used: Instant,
}

impl WriteBack {
    pub fn new(on: bool, writes: Writes) -> WriteBack {
        let turns = Semaphore::new(IN_FLIGHT_MAX);
        WriteBack {
            on,
            writes,
            turns,
            state: Mutex::default(),
            changed: Notify::new(),
            hurry: Notify::new(),
            fills: Notify::new(),
        }
    }

    /// What is acknowledged and not in S3.
    pub fn pending(&self) -> usize {
        self.lock().under_way.len()
    }

    /// It was acknowledged. Whether somebody must begin to send it. `above`: the directories it is in.
    fn add(&self, ino: u64, above: impl FnOnce() -> Vec<u64>) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        state.last = Some(now);
        let above = if state.markers.is_empty() { Vec::new() } else { above() };
        for dir in above {
            if let Some(marker) = state.markers.get_mut(&dir) {
                marker.used = now;
            }
        }
        match state.under_way.entry(ino) {
            Entry::Occupied(mut progress) => {
                progress.get_mut().again = true;
                false
            }
            Entry::Vacant(place) => {
                place.insert(Progress::default());
                true
            }
        }
    }

    /// Whether that was all; `then` is called before anybody begins to send it once more.
    fn done(&self, ino: u64, then: impl FnOnce()) -> bool {
        let mut state = self.lock();
        let all = match state.under_way.get_mut(&ino) {
            Some(progress) if progress.again => {
                progress.again = false;
                false
            }
            _ => {
                state.under_way.remove(&ino);
                then();
                true
            }
        };
        drop(state);
        self.changed.notify_waiters();
        all
    }

    /// S3 was not to be reached. Whether it is to be tried again.
    fn failed(&self, ino: u64, e: &Error) -> bool {
        let mut state = self.lock();
        let again = !state.leaving;
        if let Some(progress) = state.under_way.get_mut(&ino) {
            progress.failures += 1;
            progress.left = !again;
            progress.error = Some(e.clone());
        }
        if !again {
            state.gave_up.get_or_insert(e.clone());
        }
        drop(state);
        self.changed.notify_waiters();
        again
    }

    /// The mount is about to end, and S3 was not to be reached for something: the rest need not try.
    fn gives_up(&self) -> Option<Error> {
        self.lock().gave_up.clone()
    }

    /// Whether somebody must see to it that what settles is sent.
    fn settle(&self, ino: u64, writer: Arc<Writer>) -> bool {
        let settling = &mut self.lock().settling;
        settling.push((ino, writer));
        settling.len() == 1
    }

    /// Until when files that settle since then may wait; none: no longer.
    fn settles_until(&self, since: Instant) -> Option<Instant> {
        let state = self.lock();
        match state.awaited.is_empty() {
            true => state.quiet_until(SETTLE_TIME, since + SETTLE_TIME_MAX),
            false => None,
        }
    }

    /// Until when a directory may wait; none: no longer.
    fn holds_until(&self, ino: u64) -> Option<Instant> {
        let state = self.lock();
        let Marker { key, since, used, .. } = state.markers.get(&ino)?;
        let is_awaited = state.awaited.iter().any(|awaited| is_within(key, awaited));
        let at_most = (*used + SETTLE_TIME_MAX).min(*since + HELD_TIME_MAX);
        match is_awaited || state.markers.len() > HELD_MAX {
            true => None,
            false => state.quiet_until(DIRECTORY_SETTLE_TIME, at_most),
        }
    }

    /// Somebody waits until S3 has what is at `key` or below, until this is dropped.
    fn awaited(&self, key: &str) -> Awaited<'_> {
        self.lock().awaited.push(key.to_owned());
        self.hurry.notify_waiters();
        Awaited { write_back: self, key: key.to_owned() }
    }

    /// Whether a marker of this directory, or of one below it, is on its way. `dir`: its key.
    pub fn makes_below(&self, dir: &str) -> bool {
        self.lock().markers.values().any(|marker| marker.key.starts_with(dir))
    }

    /// Does something of a file that is not on its way, before anybody begins to send it; none where it is.
    pub fn unless_sending<T>(&self, ino: u64, then: impl FnOnce() -> T) -> Option<T> {
        let state = self.lock();
        (!state.under_way.contains_key(&ino)).then(then)
    }

    /// Of a marker that is on its way.
    pub fn marker_headers(&self, ino: u64) -> Option<ObjectHeaders> {
        self.lock().markers.get(&ino).map(|marker| marker.headers.clone())
    }

    /// A marker is on its way no longer. False: it was changed since it was noted so.
    fn marker_was_sent(&self, ino: u64, noted: u64) -> bool {
        let mut state = self.lock();
        let same = state.markers.get(&ino).is_some_and(|marker| marker.noted == noted);
        if same {
            state.markers.remove(&ino);
        }
        same
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    /// When nothing more was acknowledged for so long, or `at_most` has come; none: that is now.
    fn quiet_until(&self, time: Duration, at_most: Instant) -> Option<Instant> {
        let until = self.last.map_or(at_most, |last| at_most.min(last + time));
        (!self.leaving && Instant::now() < until).then_some(until)
    }
}

struct Awaited<'a> {
    write_back: &'a WriteBack,
    key: String,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let awaited = &mut self.write_back.lock().awaited;
        if let Some(at) = awaited.iter().position(|key| *key == self.key) {
            awaited.swap_remove(at);
        }
    }
}

impl Filesystem {
    pub(super) fn send_file(&self, ino: u64, writer: &Arc<Writer>) {
        if self.write_back.add(ino, || self.namespace.above(ino)) {
            self.namespace.pin(ino);
            self.send(ino, Sending::File(writer.clone()));
        }
        if self.writes.staging.is_short() {
            self.write_back.fills.notify_waiters();
        }
    }

    /// The journal knows of a directory that is to have a marker, or (`over`) another one; none where that must be put at
    /// once.
    pub(super) fn note_directory(&self, key: &str, headers: &ObjectHeaders, over: bool) -> Option<u64> {
        let plain = ObjectHeaders { metadata: headers.metadata.clone(), ..markers::headers() };
        let mut carried = headers.clone();
        // As S3 encrypts where nobody says more.
        carried.headers.retain(|(name, value)| (name.as_str(), value.as_str()) != (SSE, "AES256"));
        if !self.write_back.on || plain != carried {
            return None;
        }
        let intent = Intent::Directory { key: key.into(), metadata: plain.metadata, over };
        let noted = self.journal.begin(intent);
        noted
            .inspect_err(|e| tracing::warn!(key, "put at once, for the local disk does not take it: {e}"))
            .ok()
    }

    /// Sends the marker of a directory that was noted, and is known here.
    pub(super) fn send_directory(
        &self,
        ino: u64,
        key: String,
        headers: ObjectHeaders,
        over: bool,
        noted: u64,
    ) {
        let used = Instant::now();
        let before = {
            let markers = &mut self.write_back.lock().markers;
            let since = markers.get(&ino).map_or(used, |before| before.since);
            markers.insert(ino, Marker { key, headers, over, noted, since, used })
        };
        before.into_iter().for_each(|before| self.journal.end(before.noted));
        self.namespace.set_directory_local(ino, !over);
        if self.write_back.add(ino, || self.namespace.above(ino)) {
            self.send(ino, Sending::Directory);
        }
    }

    fn send(&self, ino: u64, what: Sending) {
        let Some(fs) = self.me.upgrade() else { return };
        match what {
            Sending::Directory => {
                self.runtime.spawn(fs.send_until_it_is_there(ino, what));
            }
            Sending::File(writer) => {
                if self.write_back.settle(ino, writer) {
                    self.runtime.spawn(fs.send_what_settles());
                }
            }
        }
    }

    async fn send_what_settles(self: Arc<Self>) {
        let since = Instant::now();
        loop {
            let (hurry, fills) = (self.write_back.hurry.notified(), self.write_back.fills.notified());
            let Some(until) =
                self.write_back.settles_until(since).filter(|_| !self.writes.staging.is_short())
            else {
                break;
            };
            tokio::select! {
                () = hurry => {}
                () = fills => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
        for (ino, writer) in std::mem::take(&mut self.write_back.lock().settling) {
            self.runtime.spawn(self.clone().send_until_it_is_there(ino, Sending::File(writer)));
        }
    }

    async fn until_nothing_is_made_in(&self, dir: u64) {
        loop {
            let hurry = self.write_back.hurry.notified();
            let Some(until) = self.write_back.holds_until(dir) else { return };
            _ = tokio::time::timeout_at(until, hurry).await;
        }
    }

    async fn send_until_it_is_there(self: Arc<Self>, ino: u64, what: Sending) {
        let (mut pause, mut unused) = (PAUSE_MIN, false);
        if let Sending::Directory = what {
            self.until_nothing_is_made_in(ino).await;
        }
        loop {
            let e = match self.send_once(ino, &what).await {
                Err(e) if e.is_passing() => e,
                Err(e) => break Box::pin(self.was_refused(ino, &what, &e)).await,
                Ok(()) => break,
            };
            let hurry = self.write_back.hurry.notified();
            if !self.write_back.failed(ino, &e) {
                return; // the next mount sends it
            }
            tracing::warn!(
                path = self.describe(ino, None),
                "acknowledged, and tried again in {pause:?}: {e}"
            );
            _ = tokio::time::timeout(pause, hurry).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
        let forget = || unused = matches!(what, Sending::File(_)) && self.handles.remove_writer(ino);
        if !self.write_back.done(ino, forget) {
            return self.send(ino, what);
        }
        if let Sending::File(writer) = what {
            if unused {
                Box::pin(self.part_with(ino, &writer, writer.unsaved().await)).await;
            }
            self.namespace.unpin(ino);
        }
    }

    /// Thousands may wait for their turn: what is needed after that is boxed.
    async fn send_once(&self, ino: u64, what: &Sending) -> Result<(), Error> {
        match what {
            Sending::File(writer) => {
                // First the pass: who waits for it keeps nobody else from sending.
                let _pass = Box::pin(self.pass_file(ino)).await;
                let _turn = self.turn().await?;
                Box::pin(self.send_acknowledged(ino, writer)).await
            }
            Sending::Directory => {
                let _turn = self.turn().await?;
                Box::pin(self.send_marker(ino)).await
            }
        }
    }

    async fn send_acknowledged(&self, ino: u64, writer: &Writer) -> Result<(), Error> {
        self.make_way(ino, writer).await;
        match writer.publish_acknowledged(&self.write_back.writes).await? {
            Some(published) => self.published(ino, writer, published).await,
            None => Ok(()),
        }
    }

    async fn send_marker(&self, ino: u64) -> Result<(), Error> {
        let marker = self.write_back.lock().markers.get(&ino).cloned();
        let Some(Marker { key, headers, over, noted, .. }) = marker else { return Ok(()) };
        let client = &self.write_back.writes.uploads.client;
        match over {
            true => self.put_marker(client, &key, &headers).await?,
            false if self.make_marker(client, &key, &headers).await? => {}
            false => self.marker_is_bare(ino),
        }
        if self.write_back.marker_was_sent(ino, noted) {
            self.namespace.directory_was_sent(ino);
            self.journal.end(noted);
        }
        Ok(())
    }

    /// Errors: why nothing more is sent, as this mount ends.
    async fn turn(&self) -> Result<Option<SemaphorePermit<'_>>, Error> {
        let turn = self.write_back.turns.acquire().await.ok();
        self.write_back.gives_up().map_or(Ok(turn), Err)
    }

    /// It will not be in S3 by itself: the next fsync of its directory, of its bucket's root, and of the mount's says so.
    async fn was_refused(&self, ino: u64, what: &Sending, e: &Error) {
        match what {
            Sending::File(writer) => {
                self.keep_for_recovery(ino, writer, e).await;
                writer.fail(e).await;
            }
            Sending::Directory => {
                let marker = self.write_back.lock().markers.remove(&ino);
                if let Some(Marker { key, noted, .. }) = marker {
                    tracing::error!(key, "a directory that was acknowledged cannot be made or changed: {e}");
                    self.namespace.give_up(ino);
                    self.journal.end(noted);
                }
            }
        }
        for dir in [self.namespace.parent(ino), self.namespace.root(), ROOT_INO] {
            self.failed_removals.note(dir, e);
        }
    }

    /// Waits until S3 has what was acknowledged at `key` (of a directory: and below it), or was not to be reached for it.
    ///
    /// Errors: the first of those failures.
    pub(super) async fn sent(&self, key: &str) -> Result<(), Error> {
        // What has no name any more may be about to be removed from anywhere.
        let is_all = self.namespace.key(self.namespace.root()).is_ok_and(|root| is_within(&root, key));
        self.are_sent(key, |ino| self.namespace.key(ino).map_or(is_all, |at| is_within(&at, key))).await
    }

    /// As [`Filesystem::sent`], of a directory's marker alone: it needs no pass.
    pub(super) async fn marker_sent(&self, ino: u64, dir: &str) -> Result<(), Error> {
        self.are_sent(dir, |under_way| under_way == ino).await
    }

    async fn are_sent(&self, key: &str, concerned: impl Fn(u64) -> bool) -> Result<(), Error> {
        let write_back = &self.write_back;
        let before: HashMap<u64, u64> = {
            let state = write_back.lock();
            let concerned = state.under_way.iter().filter(|(ino, _)| concerned(**ino));
            concerned.map(|(ino, progress)| (*ino, progress.failures)).collect()
        };
        let _awaited = write_back.awaited(key);
        loop {
            let changed = write_back.changed.notified();
            {
                let state = write_back.lock();
                let left = before.iter().filter_map(|(ino, before)| {
                    let progress = state.under_way.get(ino)?;
                    Some((progress, progress.left || progress.failures > *before))
                });
                let (failed, waits): (Vec<_>, Vec<_>) = left.partition(|(_, failed)| *failed);
                if waits.is_empty() {
                    let error = failed.into_iter().find_map(|(progress, _)| progress.error.clone());
                    return error.map_or(Ok(()), Err);
                }
            }
            changed.await;
        }
    }

    /// What was acknowledged at `key` or below, and is being written again, goes to S3 as it is now.
    ///
    /// Errors: the first failure; it is tried again, as all that is acknowledged.
    pub(super) async fn send_what_goes_on(&self, key: &str) -> Result<(), Error> {
        let mut sent = Ok(());
        for (ino, writer) in self.handles.writers() {
            if self.namespace.key(ino).is_ok_and(|at| is_within(&at, key)) && writer.goes_on().await {
                sent = sent.and(self.send_as_it_is(ino, &writer).await);
            }
        }
        sent
    }

    async fn send_as_it_is(&self, ino: u64, writer: &Arc<Writer>) -> Result<(), Error> {
        let _pass = self.pass_file(ino).await;
        self.make_way(ino, writer).await;
        self.stamp(ino, writer).await?;
        match writer.publish_what_goes_on().await {
            Ok(Some(published)) => self.published(ino, writer, published).await,
            Ok(None) => Ok(()),
            Err(e) => {
                self.send_file(ino, writer);
                Err(e)
            }
        }
    }

    /// A lost machine loses nothing that was acknowledged in this directory.
    pub(super) async fn sync_acknowledged(&self, dir: &str) -> Result<(), Error> {
        for (ino, writer) in self.handles.writers() {
            let key = self.namespace.key(ino).unwrap_or_default();
            let in_dir = key.strip_prefix(dir).is_some_and(|name| !name.contains('/'));
            if in_dir && writer.is_acknowledged().await {
                let _pass = self.pass_file(ino).await;
                self.acknowledge(ino, &writer, true, || false).await?;
            }
        }
        Ok(self.journal.sync().await?)
    }

    /// What is acknowledged and not in S3.
    pub fn acknowledged(&self) -> usize {
        self.held().acknowledged
    }

    /// The mount ends: what S3 is not to be reached for stays on the local disk, and the next mount sends it.
    pub fn leave(&self) {
        self.open_buckets().iter().for_each(|bucket| bucket.leave());
        self.write_back.lock().leaving = true;
        self.write_back.hurry.notify_waiters();
    }
}

/// Whether the key `at` is that of a file or directory, or below that.
fn is_within(at: &str, key: &str) -> bool {
    at == key || (key.is_empty() || key.ends_with('/')) && at.starts_with(key)
}

/// What is needed to send it.
enum Sending {
    File(Arc<Writer>),
    /// As [`State::markers`] tells.
    Directory,
}
