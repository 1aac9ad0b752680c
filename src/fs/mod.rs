//! The file system: one method a POSIX operation, without FUSE, so that tests drive it without a mount.
//!
//! Owns: [`Filesystem`] and the rules of docs/SEMANTICS.md that need more than one of namespace, read
//! and write. `write_now` answers from memory or not at all; the async methods may wait for S3.
//! Must never know: FUSE's types, the command line.

mod ahead;
mod backing;
mod buckets;
mod close;
mod copies;
mod descriptors;
mod dir;
mod edit;
mod exchange;
mod file;
mod gate;
mod handles;
mod keep;
mod meta;
mod orphans;
mod past;
mod refresh;
mod rename;
mod s3_xattr;
mod signals;
mod special;
mod thaw;
mod unlink;
mod write_back;
mod xattr;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::attr::Attributes;
use crate::cache::disk::DiskCache;
use crate::cache::{Budget, PartCache};
use crate::config::{AttributesConfig, Config};
use crate::error::Error;
use crate::journal::{Journal, JournalError};
use crate::key::{self, Numbers};
use crate::namespace::{Entry, Kind, Namespace, Node, Room};
use crate::read::Reads;
use crate::s3::{ListObjectsV2, S3Client};
use crate::write::deletes::Deletes;
use crate::write::staging::Staging;
use crate::write::upload::Uploads;
use crate::write::{Quotas, Writes, leftovers};

use ahead::Ahead;
pub use backing::Backing;
use backing::Backings;
use buckets::Buckets;
use copies::Copies;
pub use dir::{DirItem, OpenedDir};
pub use file::Opened;
use file::Versions;
use gate::Gate;
use handles::Handles;
use keep::Keeping;
pub use keep::Maker;
pub use meta::{SetAttr, SetTime};
use orphans::Orphans;
use past::KeepsVersions;
use refresh::Caches;
pub use refresh::{FLUSH, Kernel, REFRESH};
use thaw::Waiting;
use unlink::Failed;
use write_back::WriteBack;
pub use xattr::{CACHED, MountTold, S3};

/// What `stat` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    pub ino: u64,
    pub kind: Kind,
    /// In bytes.
    pub size: u64,
    pub mtime: SystemTime,
    pub atime: SystemTime,
    pub ctime: SystemTime,
    /// Permission bits.
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    /// 1, or 0 once it was removed.
    pub nlink: u32,
    /// Of a device.
    pub rdev: u32,
    /// How long the kernel may believe this.
    pub ttl: Duration,
}

/// The files of one bucket; or an account, whose root holds buckets: then each of these has a `Filesystem` of its own
/// below it, which [`Filesystem::of`] finds.
pub struct Filesystem {
    config: Config,
    /// None: it is one bucket.
    buckets: Option<Buckets>,
    client: S3Client,
    namespace: Arc<Namespace>,
    cache: Arc<PartCache>,
    disk: Option<Arc<DiskCache>>,
    reads: Arc<Reads>,
    writes: Arc<Writes>,
    deletes: Arc<Deletes>,
    failed_removals: Failed,
    orphans: Orphans,
    handles: Handles,
    backings: Backings,
    ahead: Ahead,
    versions: Versions,
    gate: Gate,
    keeping: Keeping,
    /// Whether the server keeps the metadata of markers, once that is known.
    keeps_markers: OnceLock<bool>,
    /// Who asks archived files back.
    thawing: Keeping,
    waiting: Waiting,
    copies: Copies,
    keeps_versions: KeepsVersions,
    journal: Arc<Journal>,
    /// Of a bucket in an account: whether it can be used, or why not.
    readiness: OnceCell<Result<(), Error>>,
    /// Directories have no time in S3; they show the mount's, on a mount of an account their bucket's.
    since: SystemTime,
    kernel: Caches,
    runtime: Handle,
    write_back: WriteBack,
    /// For what goes on when its caller was answered.
    me: Weak<Filesystem>,
}

/// What all buckets of a mount have together.
struct Shared {
    cache: Arc<PartCache>,
    room: Arc<Room>,
    staging: Staging,
    quotas: Quotas,
    failed_removals: Failed,
    versions: Versions,
    copies: Copies,
    waiting: Waiting,
    kernel: Caches,
}

impl Filesystem {
    /// With a client of no bucket: an account.
    pub fn new(
        config: Config,
        client: S3Client,
        disk: Option<Arc<DiskCache>>,
        journal: Arc<Journal>,
        runtime: Handle,
    ) -> Arc<Filesystem> {
        let shared = Shared::new(&config, journal.clone());
        let bucket = client.bucket();
        let (numbers, buckets) = match bucket.is_empty() {
            true => (Numbers::of_buckets(), Some(Buckets::new(shared.room.clone()))),
            false => (Numbers::of_one(bucket), None),
        };
        let fs = Filesystem::assemble(config, client, numbers, disk, journal, runtime, shared);
        Arc::new_cyclic(|me| Filesystem { buckets, me: me.clone(), ..fs })
    }

    fn assemble(
        config: Config,
        client: S3Client,
        numbers: Numbers,
        disk: Option<Arc<DiskCache>>,
        journal: Arc<Journal>,
        runtime: Handle,
        shared: Shared,
    ) -> Filesystem {
        let client = config.as_of.map_or(client.clone(), |moment| client.as_of(moment));
        let Shared { cache, room, staging, quotas, failed_removals, versions, copies, waiting, kernel } =
            shared;
        let uploads = Uploads { client: client.clone(), runtime: runtime.clone(), journal: journal.clone() };
        let writes = Writes::new(uploads, cache.clone(), staging, quotas, config.part_bytes);
        let (ttl, prefix) = (config.metadata_ttl, &config.prefix);
        // Of an account's root nothing can be kept.
        let keeps = config.attributes == AttributesConfig::Metadata && !client.bucket().is_empty();
        Filesystem {
            buckets: None,
            write_back: WriteBack::new(config.write_back, writes.in_background()),
            me: Weak::new(),
            namespace: Arc::new(Namespace::new(client.clone(), numbers, prefix, ttl, room, keeps)),
            reads: Reads::new(client.clone(), cache.clone(), disk.clone(), runtime.clone()),
            writes: Arc::new(writes),
            deletes: Deletes::new(client.clone(), runtime.clone()),
            failed_removals,
            orphans: Orphans::default(),
            cache,
            disk,
            handles: Handles::default(),
            backings: Backings::default(),
            ahead: Ahead::default(),
            versions,
            gate: Gate::default(),
            keeping: Keeping::default(),
            keeps_markers: OnceLock::new(),
            thawing: Keeping::default(),
            waiting,
            copies,
            keeps_versions: KeepsVersions::default(),
            journal,
            readiness: OnceCell::new_with(Some(Ok(()))),
            since: SystemTime::now(),
            kernel,
            runtime,
            client,
            config,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How the kernel is told to forget. Set once, by the door.
    pub fn on_invalidate(&self, kernel: Arc<dyn Kernel>) {
        self.kernel.set(kernel);
    }

    /// Proves that the mount can work: the bucket is there and may be listed; or the buckets may be, or the keys are
    /// at least known where listing them is not granted.
    pub async fn probe(&self) -> Result<(), Error> {
        if self.buckets.is_some() {
            return self.probe_account().await;
        }
        self.client.head_bucket().await?;
        self.check_as_of().await?;
        let query =
            ListObjectsV2 { prefix: self.config.prefix.clone(), max_keys: Some(1), ..Default::default() };
        self.client.list_objects_v2(&query).await?;
        Ok(())
    }

    async fn check_as_of(&self) -> Result<(), Error> {
        if self.config.as_of.is_some() && !self.client.keeps_versions().await? {
            return Err(Error::NotSupported("--as-of, for this bucket keeps no versions, and never did"));
        }
        Ok(())
    }

    /// Finishes or undoes what mounts of the bucket that died had begun, and sends what they had acknowledged. What S3
    /// cannot take now is left to the next mount.
    ///
    /// Errors: the local disk cannot be used.
    pub async fn take_over(&self) -> Result<(), JournalError> {
        self.take_over_own().await?;
        if let Some(account) = self.me.upgrade().filter(|_| self.buckets.is_some()) {
            self.runtime.spawn(account.take_over_buckets());
        }
        Ok(())
    }

    async fn take_over_own(&self) -> Result<(), JournalError> {
        let journal = self.journal.clone();
        let adopted = self.runtime.spawn_blocking(move || {
            let left = journal.adopt()?;
            Ok::<_, JournalError>((left, journal.adopt_acknowledged()?, journal.needed_uploads()?))
        });
        let (left, mut items, needed) = adopted.await.expect("adopting does not panic")?;
        leftovers::settle_renames(&self.writes.uploads, &left, &mut items).await;
        leftovers::carry_out(&self.writes.uploads, &left, items).await;
        self.runtime.spawn(leftovers::abort_uploads(self.client.clone(), self.journal.clone(), left, needed));
        Ok(())
    }

    /// Waits for all that is under way to S3; names the files that are still open, and neither published nor acknowledged.
    pub async fn flush_all(&self) -> Vec<String> {
        let mut open = self.flush_own().await;
        for bucket in self.open_buckets() {
            open.extend(bucket.flush_own().await);
        }
        open
    }

    async fn flush_own(&self) -> Vec<String> {
        if let Err(e) = self.sent("").await {
            tracing::error!("what was acknowledged waits on the local disk: {e}");
        }
        self.deletes.settle_all().await;
        self.files_to_publish().await
    }

    /// Waits for commits under way; names the files that are still open, and neither published nor acknowledged.
    async fn files_to_publish(&self) -> Vec<String> {
        let mut open = Vec::new();
        for (ino, writer) in self.handles.writers() {
            if writer.is_dirty().await && !writer.is_acknowledged().await {
                let key = self.namespace.key(ino).unwrap_or_else(|_| format!("inode {ino}"));
                open.push(format!("{}{key}", self.shown()));
            }
        }
        open.sort();
        open
    }

    /// Gives up what is being written: nothing of it is published, no upload is left over. It is kept for recovery.
    pub async fn abandon_all(&self) {
        self.abandon_own().await;
        for bucket in self.open_buckets() {
            bucket.abandon_own().await;
        }
    }

    async fn abandon_own(&self) {
        let ended = Error::Io("the mount ended while it was open for writing".into());
        for (ino, writer) in self.handles.writers() {
            if !writer.is_acknowledged().await {
                self.keep_for_recovery(ino, &writer, &ended).await;
                writer.abandon().await;
            } // else the next mount sends it
        }
        self.bury_below("").await;
        self.deletes.settle_all().await;
    }

    /// The most object bytes ever held at once, of `--memory`.
    pub fn memory_bytes_peak(&self) -> u64 {
        self.cache.budget().bytes_peak()
    }

    /// Inodes, names without inodes, handles, object bytes and removals held now: of an account, in all that is open.
    pub fn held(&self) -> Held {
        let mut held = Held {
            buckets: 0,
            inodes: self.namespace.inodes(),
            names: self.namespace.names_heard(),
            handles: self.handles.len(),
            metadata_bytes: self.namespace.metadata_bytes(),
            object_bytes: self.cache.budget().bytes_held(),
            staged_bytes: self.writes.staging.bytes_held(),
            removals: self.deletes.pending(),
            acknowledged: self.write_back.pending(),
        };
        for bucket in self.open_buckets() {
            let its = bucket.held();
            held.buckets += 1;
            held.inodes += its.inodes;
            held.names += its.names;
            held.handles += its.handles;
            held.metadata_bytes += its.metadata_bytes;
            held.removals += its.removals;
            held.acknowledged += its.acknowledged;
        }
        held
    }

    fn attr(&self, entry: &Entry) -> Attr {
        let none = Attributes::default();
        let kept = entry.attributes.as_ref().map_or(&none, |kept| &kept.attributes);
        let (size, modified, perm) = match &entry.node {
            Node::File(info) => (info.size, info.mtime, self.config.file_mode),
            Node::Directory => (0, self.since, self.config.dir_mode),
        };
        let perm = kept.perm.and_then(|perm| u16::try_from(perm).ok()).unwrap_or(perm);
        let perm = if entry.is_deleted() { 0 } else { perm };
        let mtime = kept.mtime.unwrap_or(modified);
        Attr {
            ino: entry.ino,
            kind: entry.node.kind(),
            size: kept.target.as_ref().map_or(size, |target| target.len() as u64),
            mtime,
            atime: kept.atime.unwrap_or(mtime),
            ctime: kept.ctime.unwrap_or(modified),
            perm,
            uid: kept.uid.unwrap_or(self.config.uid),
            gid: kept.gid.unwrap_or(self.config.gid),
            nlink: u32::from(entry.linked),
            rdev: kept.rdev.unwrap_or(0),
            ttl: entry.ttl,
        }
    }

    /// Whether what is at an inode, or in it, may be changed.
    fn check_writable(&self, ino: u64) -> Result<(), Error> {
        let fixed = self.config.read_only || self.namespace.is_past(ino);
        match self.readiness.get() {
            _ if fixed => Err(Error::ReadOnly),
            Some(ready) => ready.clone(),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn new(config: &Config, journal: Arc<Journal>) -> Shared {
        let timeout = config.s3.request_timeout;
        Shared {
            cache: Arc::new(PartCache::new(Budget::new(config.memory_bytes_max), timeout)),
            room: Room::new(config.metadata_bytes_max),
            staging: Staging::new(journal, config.staging.bytes_max, timeout),
            quotas: Quotas::new(config.memory_bytes_max),
            failed_removals: Failed::new(),
            versions: Versions::new(),
            copies: Copies::new(),
            waiting: Waiting::new(),
            kernel: Caches::default(),
        }
    }
}

/// What the mount holds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Of an account, whose files were used.
    pub buckets: usize,
    pub inodes: usize,
    pub names: usize,
    pub handles: usize,
    /// Of `--metadata-memory`, as near as can be told.
    pub metadata_bytes: u64,
    pub object_bytes: u64,
    /// Of `--staging-size`.
    pub staged_bytes: u64,
    /// Keys acknowledged as removed that S3 may still have.
    pub removals: usize,
    /// Files and directories acknowledged that S3 does not have yet.
    pub acknowledged: usize,
}

/// A name that is to be made: what no key holds is an error.
fn new_name(name: &OsStr) -> Result<&str, Error> {
    key::check_name(name.as_bytes())
}

/// A name that is looked for: what no key holds is not there.
fn old_name(name: &OsStr) -> Result<&str, Error> {
    key::check_name(name.as_bytes()).map_err(|e| match e {
        Error::NameTooLong => e,
        _ => Error::NotFound,
    })
}
