//! Where a bucket's journals are: one directory a bucket, one below it for each mount that lives.
//!
//! ```text
//! STAGING/BUCKET-0123456789abcdef/   lock            held while mounts come and go
//!                                    live/OWNER/     lock (held by the mount as long as it lives), journal, ...
//!                                    kept/ITEM       bytes and what they are
//! ```
//!
//! Owns: [`Place`], [`Owner`], and these names.
//! Invariants: nobody but its owner gets into a bucket's directory; whose lock can be taken is dead, for locks end with
//! their process; who is half made or half removed is seen by nobody.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::JournalError;

const LOCK: &str = "lock";
const LIVE: &str = "live";
const KEPT: &str = "kept";
const JOURNAL: &str = "journal";

pub(super) struct Place {
    pub(super) dir: PathBuf,
}

/// A mount's own directory, locked.
pub(super) struct Owner {
    dir: PathBuf,
    _lock: File,
}

impl Place {
    pub fn new(staging: &Path, endpoint: Option<&str>, bucket: &str) -> Place {
        let mut hash = Sha256::new();
        for part in [endpoint.unwrap_or("aws"), bucket] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        let number = digest.iter().take(8).fold(0u64, |n, &b| n << 8 | u64::from(b));
        Place { dir: staging.join(format!("{bucket}-{number:016x}")) }
    }

    /// The buckets of a server that mounts are at work on, or have left something of.
    pub fn buckets(staging: &Path, endpoint: Option<&str>) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(staging) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut buckets = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some((bucket, _)) = name.to_str().and_then(|name| name.rsplit_once('-')) else { continue };
            let place = Place::new(staging, endpoint, bucket);
            let holds_any =
                |dir: PathBuf| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
            let is_one = !bucket.is_empty() && place.dir.file_name() == Some(&name);
            if is_one && (holds_any(place.live()) || holds_any(place.kept())) {
                buckets.push(bucket.to_owned());
            }
        }
        buckets.sort();
        Ok(buckets)
    }

    pub fn disk_error(&self, source: io::Error) -> JournalError {
        JournalError::Disk { path: self.dir.clone(), source }
    }

    pub fn live(&self) -> PathBuf {
        self.dir.join(LIVE)
    }

    pub fn kept(&self) -> PathBuf {
        self.dir.join(KEPT)
    }

    /// Makes what is missing; refuses what others could have put there.
    fn make(&self) -> Result<(), JournalError> {
        let failed = |e| self.disk_error(e);
        let mut builder = DirBuilder::new();
        let builder = builder.mode(0o700).recursive(true);
        builder.create(&self.dir).map_err(failed)?;
        let meta = std::fs::symlink_metadata(&self.dir).map_err(failed)?;
        let us = nix::unistd::geteuid().as_raw();
        let unfit = |problem| JournalError::Unfit { path: self.dir.clone(), problem };
        if !meta.is_dir() {
            return Err(unfit("is no directory; name another one".into()));
        }
        if meta.uid() != us {
            return Err(unfit(format!("belongs to user {}, not to user {us}; name another one", meta.uid())));
        }
        if meta.mode() & 0o077 != 0 {
            std::fs::set_permissions(&self.dir, Permissions::from_mode(0o700)).map_err(failed)?;
        }
        [LIVE, KEPT].iter().try_for_each(|name| builder.create(self.dir.join(name))).map_err(failed)
    }

    /// Nobody else comes or goes until the file is dropped.
    fn alone(&self) -> io::Result<File> {
        let lock = open_lock(&self.dir.join(LOCK))?;
        lock.lock()?;
        Ok(lock)
    }

    /// A directory for a mount of this process.
    pub fn enter(&self) -> Result<Owner, JournalError> {
        static MOUNTS: AtomicU64 = AtomicU64::new(0);
        self.make()?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let number = MOUNTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:x}-{}-{number}", since.as_nanos(), std::process::id());
        let enter = || {
            let _alone = self.alone()?;
            let dir = self.live().join(name);
            DirBuilder::new().mode(0o700).create(&dir)?;
            let lock = open_lock(&dir.join(LOCK))?;
            lock.try_lock()?;
            Ok(Owner { dir, _lock: lock })
        };
        enter().map_err(|e| self.disk_error(e))
    }

    /// Items kept now; 0 where they cannot be counted: then none can be made either.
    pub fn count_kept(&self) -> usize {
        std::fs::read_dir(self.kept()).map_or(0, Iterator::count)
    }

    /// Whether the mount of this name lives: in this process or another.
    pub fn is_alive(&self, name: &str) -> Result<bool, JournalError> {
        let lock = self.live().join(name).join(LOCK);
        let tried = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(lock) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(self.disk_error(e)),
            Ok(lock) => lock.try_lock(),
        };
        match tried {
            Ok(()) => Ok(false),
            Err(std::fs::TryLockError::WouldBlock) => Ok(true),
            Err(std::fs::TryLockError::Error(e)) => Err(self.disk_error(e)),
        }
    }

    /// Those whose process is gone, each locked by us from now on, the oldest first.
    pub fn dead(&self) -> Result<Vec<Owner>, JournalError> {
        if !self.live().exists() {
            return Ok(Vec::new());
        }
        self.make()?;
        let find = || {
            let _alone = self.alone()?;
            let mut dead = Vec::new();
            for entry in std::fs::read_dir(self.live())? {
                let dir = entry?.path();
                let lock = match open_lock(&dir.join(LOCK)) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue, // it has just left, with nothing open
                    lock => lock?,
                };
                match lock.try_lock() {
                    Ok(()) => dead.push(Owner { dir, _lock: lock }),
                    Err(std::fs::TryLockError::WouldBlock) => {}
                    Err(std::fs::TryLockError::Error(e)) => return Err(e),
                }
            }
            dead.sort_by(|a, b| a.dir.cmp(&b.dir));
            Ok(dead)
        };
        find().map_err(|e| self.disk_error(e))
    }
}

impl Owner {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn name(&self) -> &str {
        self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    pub fn journal(&self) -> PathBuf {
        self.dir.join(JOURNAL)
    }

    /// With all that is in it. The lock is held to the end, and the journal goes first: half removed it tells nothing.
    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(self.journal()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::fs::remove_dir_all(&self.dir)
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW).open(path)
}
