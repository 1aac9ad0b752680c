//! An account's root: its directories are buckets, each with a [`Filesystem`] of its own.
//!
//! Owns: [`Buckets`] (which of them are open), [`Filesystem::of`] (an inode's own), making and removing buckets.
//! Invariants: an inode's number leads to its bucket's `Filesystem` for as long as the kernel or a handle knows the
//! inode; a bucket in which anything is, or is about to be, is not removed; beyond [`OPEN_MAX`] only those are open that
//! the kernel or a handle needs.
//! Must never know: how a bucket's files are read and written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::OnceCell;

use super::{Attr, Filesystem, Shared};
use crate::config::check_bucket_name;
use crate::error::{Error, S3Error, S3ErrorKind};
use crate::journal::Journal;
use crate::key::{self, Numbers, ROOT_INO};
use crate::namespace::Room;

/// Buckets that are open at once; the kernel is asked to forget more.
const OPEN_MAX: usize = 256;

pub(super) struct Buckets {
    /// Held for an instant only; the namespaces' tables, the handles' and the queue of removals are locked under it.
    open: Mutex<Open>,
    /// What all of them know is counted there.
    room: Arc<Room>,
}

#[derive(Default)]
struct Open {
    by_root: HashMap<u64, Bucket>,
    /// Counts uses.
    clock: u64,
}

struct Bucket {
    fs: Arc<Filesystem>,
    /// When it was used last, by the clock.
    used: u64,
}

impl Buckets {
    pub fn new(room: Arc<Room>) -> Buckets {
        Buckets { open: Mutex::default(), room }
    }

    /// The bucket with this root, if it is open: from now on it is the one used last.
    fn used(&self, root: u64) -> Option<Arc<Filesystem>> {
        let mut open = self.lock();
        open.clock += 1;
        let now = open.clock;
        let bucket = open.by_root.get_mut(&root)?;
        bucket.used = now;
        Some(bucket.fs.clone())
    }

    /// The least recently used first.
    fn by_use(&self) -> Vec<Arc<Filesystem>> {
        let open = self.lock();
        let mut buckets: Vec<&Bucket> = open.by_root.values().collect();
        buckets.sort_unstable_by_key(|bucket| bucket.used);
        buckets.into_iter().map(|bucket| bucket.fs.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Filesystem {
    /// Where an inode's requests go: on a mount of one bucket, and of an account for its root, to this very one.
    pub fn of(self: &Arc<Self>, ino: u64) -> Arc<Filesystem> {
        let Some(buckets) = self.buckets.as_ref().filter(|_| ino != ROOT_INO) else { return self.clone() };
        let bucket = self.opened(buckets, key::bucket_root(ino));
        self.share_room(buckets);
        // Of what is not known here, the account says that it is not there.
        bucket.unwrap_or_else(|| self.clone())
    }

    /// None where the account knows no bucket of this number.
    fn opened(&self, buckets: &Buckets, root: u64) -> Option<Arc<Filesystem>> {
        buckets.used(root).or_else(|| self.open_bucket(buckets, root))
    }

    /// Waits until what mounts that died had begun in this bucket is finished or undone.
    ///
    /// Errors: why the bucket cannot be used, as a mount of it alone would say at its start. What may pass is tried again
    /// by the next one who asks.
    pub async fn ready(&self) -> Result<(), Error> {
        let make_ready = || async {
            match self.make_ready().await {
                Err(e) if e.is_passing() => Err(e),
                made => Ok(made),
            }
        };
        self.readiness.get_or_try_init(make_ready).await?.clone()
    }

    async fn make_ready(&self) -> Result<(), Error> {
        if self.config.read_only {
            return self.check_as_of().await;
        }
        self.take_over_own().await.map_err(|e| {
            let bucket = self.client.bucket();
            tracing::error!(bucket, "not used until it is mounted anew: {e}");
            Error::Io(format!("what an earlier mount had begun in {bucket} is not looked after: {e}"))
        })
    }

    /// Goes through the buckets in which a mount that died left anything.
    pub(super) async fn take_over_buckets(self: Arc<Self>) {
        let (staging, endpoint) = (self.config.staging.dir.clone(), self.config.s3.endpoint_url.clone());
        let left = move || Journal::buckets(&staging, endpoint.as_deref());
        let left = self.runtime.spawn_blocking(left).await.expect("looking does not panic");
        let left = left.inspect_err(|e| tracing::error!("what an earlier mount had begun is not seen: {e}"));
        for bucket in left.unwrap_or_default() {
            match self.namespace.lookup(ROOT_INO, &bucket).await {
                Ok(entry) => {
                    // Why not is in the log.
                    _ = self.of(entry.ino).ready().await;
                    self.forget(entry.ino, 1);
                }
                Err(e) => {
                    tracing::warn!(bucket, "what an earlier mount left of it stays on the local disk: {e}")
                }
            }
        }
    }

    /// Where the inode's bucket is open: that.
    pub(super) fn bucket_of(&self, ino: u64) -> Option<Arc<Filesystem>> {
        self.buckets.as_ref().filter(|_| ino != ROOT_INO)?.used(key::bucket_root(ino))
    }

    /// Those whose files were used.
    pub(super) fn open_buckets(&self) -> Vec<Arc<Filesystem>> {
        self.buckets.as_ref().map(Buckets::by_use).unwrap_or_default()
    }

    /// What stands before keys where it must be told of which bucket they are.
    pub(super) fn shown(&self) -> String {
        match self.namespace.root() {
            ROOT_INO => String::new(),
            _ => format!("{}/", self.client.bucket()),
        }
    }

    /// Files are in buckets.
    pub(super) fn check_holds_files(&self) -> Result<(), Error> {
        match self.buckets {
            Some(_) => Err(Error::NotPermitted("beside buckets there are none but buckets")),
            None => Ok(()),
        }
    }

    fn open_bucket(&self, buckets: &Buckets, root: u64) -> Option<Arc<Filesystem>> {
        self.close_idle(buckets);
        let name = self.namespace.key(root).ok()?;
        let name = name.strip_suffix('/')?;
        let made = self.bucket(buckets, name, root).inspect_err(|e| tracing::warn!("{e}")).ok()?;
        let mut open = buckets.lock();
        let now = open.clock;
        let bucket = open.by_root.entry(root).or_insert_with(|| {
            // No other bucket gets this number meanwhile.
            self.namespace.pin(root);
            Bucket { fs: made, used: now }
        });
        Some(bucket.fs.clone())
    }

    fn bucket(&self, buckets: &Buckets, name: &str, root: u64) -> Result<Arc<Filesystem>, S3Error> {
        let client = self.client.beside(name)?;
        let mut config = self.config.clone();
        config.s3.bucket = name.to_owned();
        let disk = self.disk.as_ref().map(|disk| Arc::new(disk.beside(name)));
        let journal = Arc::new(Journal::new(&config.staging.dir, config.s3.endpoint_url.as_deref(), name));
        let shared = Shared {
            cache: self.cache.clone(),
            room: buckets.room.clone(),
            staging: self.writes.staging.beside(journal.clone()),
            quotas: self.writes.quotas(),
            failed_removals: self.failed_removals.clone(),
            versions: self.versions.clone(),
            copies: self.copies.clone(),
            waiting: self.waiting.clone(),
            kernel: self.kernel.clone(),
        };
        let (numbers, runtime) = (Numbers::within(name, root), self.runtime.clone());
        let since = self.namespace.created(name).unwrap_or(self.since);
        let fs = Filesystem::assemble(config, client, numbers, disk, journal, runtime, shared);
        Ok(Arc::new_cyclic(|me| Filesystem { readiness: OnceCell::new(), since, me: me.clone(), ..fs }))
    }

    /// Closes buckets nobody uses where too many are open, the least recently used first; if there are none, asks the
    /// kernel to forget one, so that there are.
    fn close_idle(&self, buckets: &Buckets) {
        let mut excess = (buckets.lock().by_root.len() + 1).saturating_sub(OPEN_MAX);
        if excess == 0 {
            return;
        }
        let by_use = buckets.by_use();
        for bucket in &by_use {
            if excess > 0 && self.close_if_idle(buckets, bucket) {
                excess -= 1;
            }
        }
        if excess > 0 {
            let least_used = by_use.iter().take(excess);
            self.forget_names(least_used.map(|fs| (ROOT_INO, fs.client.bucket().to_owned())).collect());
        }
    }

    /// What is asked of it from now on opens it anew.
    fn close_if_idle(&self, buckets: &Buckets, bucket: &Arc<Filesystem>) -> bool {
        let root = bucket.namespace.root();
        let mut open = buckets.lock();
        // It is held there and by the caller, and by no request under way.
        let unused = Arc::strong_count(bucket) == 2 && bucket.is_idle();
        if unused && open.by_root.remove(&root).is_some() {
            drop(open);
            self.namespace.unpin(root);
        }
        unused
    }

    fn is_idle(&self) -> bool {
        let held = self.held();
        (held.inodes, held.handles, held.removals, held.acknowledged) == (1, 0, 0, 0)
    }

    /// Where one bucket's names had to make room, those of the buckets that were not used for longer make room first.
    fn share_room(&self, buckets: &Buckets) {
        if !buckets.room.was_short() {
            return;
        }
        let mut wanted = buckets.room.bytes_max() / 8;
        let mut by_use = buckets.by_use();
        by_use.pop(); // that is where it is needed
        for bucket in by_use {
            if wanted == 0 {
                return;
            }
            wanted = wanted.saturating_sub(bucket.namespace.give_way(wanted));
            bucket.relieve();
        }
    }

    pub(super) async fn probe_account(&self) -> Result<(), Error> {
        let signs = self.config.s3.sign_requests;
        match self.client.list_buckets("", None).await {
            // Nobody lists buckets without keys; and keys need not be allowed to.
            Err(e) if e.code.as_deref() == Some("AccessDenied") || !signs && e.status.is_some() => {
                tracing::warn!("buckets are not listed, and are there for who names them: {e}");
                Ok(())
            }
            listed => Ok(listed.map(|_| ())?),
        }
    }

    /// `mkdir(2)` in the account's root: a bucket in the region of the mount. Counts one reference of the kernel.
    pub(super) async fn make_bucket(&self, parent: u64, name: &str) -> Result<Attr, Error> {
        if let Err(e) = check_bucket_name(name) {
            tracing::warn!("mkdir: {e}");
            return Err(Error::InvalidName("no name for a bucket"));
        }
        if self.namespace.find(parent, name).await?.is_some() {
            return Err(Error::Exists);
        }
        self.client.beside(name)?.create_bucket().await?;
        self.namespace.made_bucket(name);
        let entry = self.namespace.made_directory(parent, name)?;
        Ok(self.attr(&self.namespace.entry(entry.ino)?))
    }

    /// `rmdir(2)` in the account's root.
    ///
    /// Errors: [`Error::NotEmpty`], also where nothing is in it but old versions or uploads under way.
    pub(super) async fn remove_bucket(&self, buckets: &Buckets, name: &str) -> Result<(), Error> {
        let ino = self.namespace.lookup(ROOT_INO, name).await?.ino;
        let removed = self.remove_bucket_at(buckets, ino, name).await;
        self.forget(ino, 1);
        removed
    }

    async fn remove_bucket_at(&self, buckets: &Buckets, ino: u64, name: &str) -> Result<(), Error> {
        let bucket = self.opened(buckets, key::bucket_root(ino)).ok_or(Error::NotFound)?;
        bucket.ready().await?;
        bucket.vacate().await?;
        match self.client.beside(name)?.delete_bucket().await {
            Ok(()) => {}
            Err(e) if e.kind == S3ErrorKind::NoSuchBucket => {}
            Err(e) => {
                tracing::info!("rmdir: {e}");
                return Err(e.into());
            }
        }
        self.namespace.removed(ROOT_INO, name);
        self.close_if_idle(buckets, &bucket);
        Ok(())
    }

    /// What was removed from the bucket is gone from S3.
    ///
    /// Errors: [`Error::NotEmpty`]: something is still to be published, or waits for the next mount to send it.
    async fn vacate(&self) -> Result<(), Error> {
        if self.namespace.has_local_names("") {
            return Err(Error::NotEmpty);
        }
        self.sent("").await?;
        let journal = self.journal.clone();
        let kept = self.runtime.spawn_blocking(move || journal.kept()).await.expect("looking does not panic");
        let kept = kept?;
        if kept.iter().any(|item| item.kept.owner.is_some()) {
            return Err(Error::NotEmpty);
        }
        self.bury_below("").await;
        self.deletes.settle_all().await;
        Ok(())
    }
}
