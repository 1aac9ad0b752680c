//! The FUSE session: mounted, served by its threads, joined.
//!
//! Owns: [`FuseMount`]; what the kernel is told besides replies.
//! Must never know: S3, object keys, how a request is answered.
//!
//! The one `unsafe`: fuser's session unmounts what stands at its directory once more when it is dropped,
//! also after the mount is gone, and could hit another mount made there since. So the ended session is
//! taken apart instead of dropped.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

use fuser::{Config as FuseConfig, INodeNo, MountOption, Notifier, Session, SessionACL};
use tokio::runtime::Handle;

use super::Door;
use crate::fs::{Filesystem, Kernel};

/// Threads that read requests, each with its own descriptor: one a core, for they do not wait. More than the cores
/// only take turns, which costs a stream a seventh of its speed.
const FUSE_THREADS: std::ops::RangeInclusive<usize> = 2..=8;

/// A running mount.
pub struct FuseMount {
    session: fuser::BackgroundSession,
}

impl FuseMount {
    /// Mounts and starts answering; returns once the handshake with the kernel is done.
    ///
    /// Errors: what mount(2) or fusermount3 said.
    pub fn start(fs: Arc<Filesystem>, dir: &Path, runtime: Handle) -> io::Result<FuseMount> {
        let config = fs.config();
        let mut options = FuseConfig::default();
        options.mount_options = vec![
            MountOption::FSName(config.source()),
            // Not `Subtype`: fuser hands that to fusermount3 only, and root's mount would be of type `fuse`.
            MountOption::CUSTOM("subtype=pailfs".into()),
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoAtime,
            if config.read_only { MountOption::RO } else { MountOption::RW },
            if config.no_exec { MountOption::NoExec } else { MountOption::Exec },
        ];
        options.acl = if config.allow_other { SessionACL::All } else { SessionACL::Owner };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        options.n_threads = Some(cores.clamp(*FUSE_THREADS.start(), *FUSE_THREADS.end()));
        options.clone_fd = true;
        let session = Session::new(Door::new(fs.clone(), runtime), dir, &options)?.spawn()?;
        let notifier = session.notifier();
        fs.on_invalidate(Arc::new(KernelCaches(notifier)));
        Ok(FuseMount { session })
    }

    /// Blocks until the file system is unmounted, by whomever, and its threads have ended.
    pub fn join(self) -> io::Result<()> {
        let session = ManuallyDrop::new(self.session);
        // SAFETY: the field is read once, and the session that owns it is never used or dropped.
        let threads = unsafe { std::ptr::read(&session.guard) };
        threads.join().map_err(|_| io::Error::other("a FUSE thread panicked"))?
    }
}

struct KernelCaches(Notifier);

impl Kernel for KernelCaches {
    fn forget_attributes(&self, ino: u64) {
        // A negative offset: attributes only. Pages may be locked by the very read that learnt of the change.
        if let Err(e) = self.0.inval_inode(INodeNo(ino), -1, 0) {
            tracing::warn!(ino, "the kernel keeps old attributes: {e}");
        }
    }

    fn forget_name(&self, parent: u64, name: &str) {
        if let Err(e) = self.0.inval_entry(INodeNo(parent), OsStr::new(name)) {
            tracing::warn!(parent, name = %name.escape_debug(), "the kernel keeps an old name: {e}");
        }
    }
}
