//! Removing objects: single keys in, DeleteObjects out, several under way.
//!
//! Owns: [`Deletes`]: the queue of removals, and the marker of a directory whose last entry goes.
//! Invariants: whatever was taken in is answered for, once; a directory does not vanish with its last entry; what is
//! removed together with its directory leaves no marker behind.
//! Must never know: inodes, paths, FUSE.

mod queue;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{StreamExt, future, stream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::markers::{self, Contents, KEYS_BUT_MAX, Kept};
use crate::error::{Error, S3Error};
use crate::s3::S3Client;
pub use queue::PENDING_KEYS_MAX;
use queue::{Queue, TICK};

/// Directories of one batch that are asked about their markers side by side.
const KEEPS_IN_FLIGHT_MAX: usize = 16;

/// An entry of a directory that is to be removed.
pub struct Doomed {
    /// What goes, the entry itself last: a file's object, or a directory's marker, whether it is there or not.
    pub objects: Vec<String>,
    /// The key of the directory it is in.
    pub dir: String,
    /// The directory may have no marker.
    pub keep: bool,
    pub done: Done,
}

/// Told once how a removal ended; must not wait.
pub type Done = Box<dyn FnOnce(&Outcome) + Send + Sync>;

/// How a removal ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub result: Result<(), Error>,
    /// The marker of the entry's directory is known to be there.
    pub marker: bool,
}

impl Doomed {
    /// The last entry of the directory that this removes goes with it.
    fn absorb(&mut self, entry: Doomed) {
        self.objects.splice(0..0, entry.objects);
        let (first, then) = (entry.done, std::mem::replace(&mut self.done, Box::new(|_| {})));
        self.done = Box::new(move |outcome| {
            first(&Outcome { marker: false, ..outcome.clone() });
            then(outcome);
        });
    }
}

pub struct Deletes {
    client: S3Client,
    runtime: Handle,
    /// Never held across an await; no other lock is taken under it.
    state: Mutex<State>,
    /// There is something to send.
    wake: Notify,
    /// A batch was answered.
    changed: Notify,
    /// Removals that failed.
    failures: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// A task looks after the queue.
    driven: bool,
}

impl Deletes {
    pub fn new(client: S3Client, runtime: Handle) -> Arc<Deletes> {
        Arc::new(Deletes {
            client,
            runtime,
            state: Mutex::default(),
            wake: Notify::new(),
            changed: Notify::new(),
            failures: AtomicU64::new(0),
        })
    }

    /// Keys that wait to be removed or are being removed.
    pub fn pending(&self) -> usize {
        self.lock().queue.pending()
    }

    /// Whether a removal that comes now follows others closely, or while others are under way.
    pub fn in_burst(&self) -> bool {
        self.lock().queue.in_burst(Instant::now())
    }

    /// Takes a removal in, and waits only while too many are pending; a directory's, for what goes before it.
    pub async fn remove_ahead(self: &Arc<Self>, doomed: Doomed) {
        self.take_in(doomed, |_| {}).await;
    }

    /// Removes, and answers when S3 has answered.
    pub async fn remove(self: &Arc<Self>, mut doomed: Doomed) -> Result<(), Error> {
        let (tell, told) = oneshot::channel();
        let done = doomed.done;
        doomed.done = Box::new(move |outcome| {
            done(outcome);
            // Nobody listens where the operation was given up.
            let _ = tell.send(outcome.result.clone());
        });
        let dir = doomed.dir.clone();
        self.take_in(doomed, |queue| queue.hurry_held(&dir)).await;
        told.await.unwrap_or_else(|_| Err(Error::Io("a removal was not answered for".into())))
    }

    async fn take_in(self: &Arc<Self>, mut doomed: Doomed, then: impl Fn(&mut Queue)) {
        loop {
            let changed = self.changed.notified();
            match self.push(doomed, &then) {
                Ok(()) => return,
                Err(back) => doomed = back,
            }
            changed.await;
        }
    }

    fn push(self: &Arc<Self>, doomed: Doomed, then: impl Fn(&mut Queue)) -> Result<(), Doomed> {
        let mut state = self.lock();
        state.queue.push(doomed, Instant::now())?;
        then(&mut state.queue);
        if !std::mem::replace(&mut state.driven, true) {
            self.runtime.spawn(self.clone().drive());
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Sends what is due until nothing is left.
    async fn drive(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            {
                let mut state = self.lock();
                while let Some(batch) = state.queue.take(Instant::now()) {
                    self.runtime.spawn(self.clone().carry_out(batch));
                }
                if state.queue.pending() == 0 {
                    state.driven = false;
                    return;
                }
            }
            tokio::select! {
                () = self.wake.notified() => {}
                now = ticks.tick() => self.lock().queue.tick(now),
            }
        }
    }

    async fn carry_out(self: Arc<Self>, mut batch: Vec<Doomed>) {
        let outcomes = self.remove_all(&batch).await;
        for (doomed, outcome) in batch.iter_mut().zip(&outcomes) {
            self.failures.fetch_add(u64::from(outcome.result.is_err()), Ordering::Release);
            std::mem::replace(&mut doomed.done, Box::new(|_| {}))(outcome);
        }
        self.lock().queue.answered(&batch, Instant::now());
        self.changed.notify_waiters();
        self.wake.notify_one();
    }

    /// One outcome each.
    async fn remove_all(&self, batch: &[Doomed]) -> Vec<Outcome> {
        let keeps: Vec<_> = batch.iter().map(|doomed| self.keep(doomed)).collect();
        let kept: Vec<Result<Kept, S3Error>> =
            stream::iter(keeps).buffered(KEEPS_IN_FLIGHT_MAX).collect().await;
        let kept_ones = batch.iter().zip(&kept).filter(|(_, kept)| kept.is_ok());
        let keys: Vec<String> = kept_ones.flat_map(|(doomed, _)| doomed.objects.iter().cloned()).collect();
        let refused = match keys.as_slice() {
            [] => Ok(Vec::new()),
            [key] => Ok(self.client.delete_object(key).await.err().into_iter().collect()),
            keys => self.client.delete_objects(keys).await,
        };
        let outcome = |(doomed, kept): (&Doomed, Result<Kept, S3Error>)| {
            let of_ours = |e: &&S3Error| e.key.as_ref().is_some_and(|key| doomed.objects.contains(key));
            let failed = match (&kept, &refused) {
                (Err(e), _) | (Ok(_), Err(e)) => Some(e),
                (Ok(_), Ok(refused)) => refused.iter().find(of_ours),
            };
            let result = failed.map_or(Ok(()), |e| Err(e.clone().into()));
            Outcome { result, marker: kept.is_ok_and(|kept| kept.marker) }
        };
        batch.iter().zip(kept).map(outcome).collect()
    }

    async fn keep(&self, doomed: &Doomed) -> Result<Kept, S3Error> {
        if !doomed.keep {
            return Ok(Kept::default());
        }
        let leaving: HashSet<String> = doomed.objects.iter().cloned().collect();
        markers::keep(&self.client, &doomed.dir, &leaving).await
    }

    /// Whether nothing but its marker will be left below a directory when what is pending has gone. What was held back
    /// to keep the directory there still is: the directory's own removal takes it along.
    pub async fn empties(&self, dir: &str) -> Result<bool, Error> {
        let gone = |queue: &mut Queue| {
            queue.hold_on(dir, Instant::now());
            !queue.is_going(dir)
        };
        let failures = self.failures.load(Ordering::Acquire);
        let mut leaving = self.lock().queue.keys_in(dir);
        if leaving.len() > KEYS_BUT_MAX {
            self.wait_until(gone).await;
            leaving = self.lock().queue.keys_in(dir);
        }
        let gone = self.wait_until(gone);
        let ((), mut contents) = future::join(gone, Contents::of(&self.client, dir, &leaving)).await;
        if self.failures.load(Ordering::Acquire) != failures {
            // One that was looked past may be there still.
            let held = self.lock().queue.keys_in(dir);
            contents = Contents::of(&self.client, dir, &held).await;
        }
        Ok(!contents?.others)
    }

    /// Waits until the file or directory of this key, if it was removed, is gone from S3 or has come back.
    pub async fn settled(&self, file_key: &str) {
        self.wait_until(|queue| match queue.goes_with(file_key) {
            Some(dir) => {
                queue.hurry_held(&dir);
                false
            }
            None => true,
        })
        .await;
    }

    /// Waits until what was removed from a directory is gone from S3 or has come back.
    pub async fn settle(&self, dir: &str) {
        self.wait_until(|queue| {
            queue.hurry_held(dir);
            !queue.is_going(dir) && !queue.is_held(dir)
        })
        .await;
    }

    /// [`Deletes::settle`] for every directory.
    pub async fn settle_all(&self) {
        self.wait_until(|queue| {
            queue.hurry_all();
            queue.pending() == 0
        })
        .await;
    }

    async fn wait_until(&self, holds: impl Fn(&mut Queue) -> bool) {
        loop {
            let changed = self.changed.notified();
            {
                let queue = &mut self.lock().queue;
                if holds(queue) {
                    return;
                }
                queue.hurry();
            }
            self.wake.notify_one();
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
