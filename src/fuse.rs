//! The door to the kernel: unpack, call the file system, reply.
//!
//! Owns: [`FuseMount`]; the mapping of FUSE's types. The only file that names `fuser`.
//! Invariant: no FUSE thread waits on the network. An operation's future is polled once on the thread
//! that read the request, so what memory can answer is answered on the spot; one that must wait moves to
//! the runtime and replies from there.
//! Must never know: S3, object keys.
//!
//! The one `unsafe`: fuser's session unmounts what stands at its directory once more when it is dropped,
//! also after the mount is gone, and could hit another mount made there since. So the ended session is
//! taken apart instead of dropped.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, Config as FuseConfig, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, MountOption, Notifier, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use crate::error::Error;
use crate::fs::{Attr, DirItem, Filesystem, Kernel, Opened, SetAttr};
use crate::namespace::Kind;

/// Threads that read requests, each with its own descriptor.
const FUSE_THREADS: usize = 4;
/// The largest read or write the kernel sends: its own limit of 256 pages.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Reads and other requests the kernel may have under way in the background.
const BACKGROUND_REQUESTS_MAX: u16 = 128;

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
            MountOption::FSName(format!("s3://{}/{}", config.s3.bucket, config.prefix)),
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
        options.n_threads = Some(FUSE_THREADS);
        options.clone_fd = true;
        let session = Session::new(Door { fs: fs.clone(), runtime }, dir, &options)?.spawn()?;
        fs.on_invalidate(Arc::new(session.notifier()));
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

impl Kernel for Notifier {
    fn forget_attributes(&self, ino: u64) {
        // A negative offset: attributes only. Pages may be locked by the very read that learnt of the change.
        warn_of(self.inval_inode(INodeNo(ino), -1, 0));
    }

    fn forget_name(&self, parent: u64, name: &str) {
        warn_of(self.inval_entry(INodeNo(parent), OsStr::new(name)));
    }
}

fn warn_of(forgotten: io::Result<()>) {
    let _ = forgotten.inspect_err(|e| tracing::warn!("the kernel keeps what it was to forget: {e}"));
}

struct Door {
    fs: Arc<Filesystem>,
    runtime: Handle,
}

impl Door {
    /// Polls once here, and where that does not answer moves to the runtime.
    fn run(&self, operation: impl Future<Output = ()> + Send + 'static) {
        let mut operation = Box::pin(operation);
        let _runtime = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        // A panic here would end the thread, and with it the mount; as a task's it ends the operation, whose
        // reply answers EIO when it is dropped. The panic hook has logged it.
        match catch_unwind(AssertUnwindSafe(|| operation.as_mut().poll(&mut context))) {
            Ok(Poll::Ready(())) | Err(_) => {}
            Ok(Poll::Pending) => drop(self.runtime.spawn(operation)),
        }
    }

    fn fs(&self) -> Arc<Filesystem> {
        self.fs.clone()
    }
}

/// Answers an error, and logs what is a failure rather than an answer.
fn refuse(fs: &Filesystem, op: &'static str, ino: INodeNo, name: Option<&OsStr>, error: &Error) -> Errno {
    let errno = error.errno();
    let file = || fs.describe(ino.0, name);
    match errno {
        libc::ENOENT | libc::EEXIST | libc::ENOTEMPTY | libc::EXDEV | libc::EROFS | libc::EPERM => {
            tracing::debug!(op, file = file(), errno, "{error}");
        }
        // Programs that copy try every attribute there is.
        libc::EOPNOTSUPP if op == "setxattr" => {}
        _ => tracing::warn!(op, file = file(), errno, "{error}"),
    }
    Errno::from_i32(errno)
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.mtime,
        mtime: attr.mtime,
        ctime: attr.mtime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: 1,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: REQUEST_BYTES_MAX,
        flags: 0,
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
    }
}

/// Numbers are not reused while the kernel knows them, so one generation does.
const GENERATION: Generation = Generation(0);

fn open_flags(opened: Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    flags
}

fn reply_frames(reply: ReplyData, frames: &[Bytes]) {
    thread_local! {
        /// Reused, for page faults of fresh buffers cost more than the copy.
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    match frames {
        [] => reply.data(&[]),
        [frame] => reply.data(frame),
        frames => SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            frames.iter().for_each(|frame| scratch.extend_from_slice(frame));
            reply.data(scratch);
        }),
    }
}

fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn reply_entry(reply: ReplyEntry, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&attr.ttl, &file_attr(&attr), GENERATION),
        Err(errno) => reply.error(errno),
    }
}

fn reply_attr(reply: ReplyAttr, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.attr(&attr.ttl, &file_attr(&attr)),
        Err(errno) => reply.error(errno),
    }
}

/// What is not here fuser answers with ENOSYS, and the kernel then helps itself or stops asking: reading
/// extended attributes, fallocate, lseek, copy_file_range, access (the mount has `default_permissions`).
impl fuser::Filesystem for Door {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ];
        for flag in wanted {
            if let Err(missing) = config.add_capabilities(flag) {
                tracing::info!("the kernel does not offer {missing:?}");
            }
        }
        // Each answers an error with the nearest value that works.
        let _ = config.set_max_write(REQUEST_BYTES_MAX).map_err(|nearest| config.set_max_write(nearest));
        let _ = config.set_max_readahead(REQUEST_BYTES_MAX).map_err(|near| config.set_max_readahead(near));
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs(), name.to_owned());
        self.run(async move {
            let found = fs.lookup(parent.0, &name).await;
            reply_entry(reply, found.map_err(|e| refuse(&fs, "lookup", parent, Some(&name), &e)));
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs();
        self.run(async move {
            let attr = fs.getattr(ino.0).await;
            reply_attr(reply, attr.map_err(|e| refuse(&fs, "getattr", ino, None, &e)));
        });
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let is =
            |time: Option<TimeOrNow>, now: bool| time.is_some_and(|t| matches!(t, TimeOrNow::Now) == now);
        let times = is(atime, false) || is(mtime, false);
        let touch = is(atime, true) || is(mtime, true);
        let set = SetAttr { mode, uid, gid, size, fh: fh.map(|fh| fh.0), times, touch };
        let fs = self.fs();
        self.run(async move {
            let attr = fs.setattr(ino.0, set).await;
            reply_attr(reply, attr.map_err(|e| refuse(&fs, "setattr", ino, None, &e)));
        });
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (fs, name) = (self.fs(), name.to_owned());
        self.run(async move {
            let set = fs.setxattr(ino.0, &name).await;
            reply_empty(reply, set.map_err(|e| refuse(&fs, "setxattr", ino, None, &e)));
        });
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (fs, name) = (self.fs(), name.to_owned());
        self.run(async move {
            let made = fs.mkdir(parent.0, &name).await;
            reply_entry(reply, made.map_err(|e| refuse(&fs, "mkdir", parent, Some(&name), &e)));
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs(), name.to_owned());
        self.run(async move {
            let gone = fs.unlink(parent.0, &name).await;
            reply_empty(reply, gone.map_err(|e| refuse(&fs, "unlink", parent, Some(&name), &e)));
        });
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs(), name.to_owned());
        self.run(async move {
            let gone = fs.rmdir(parent.0, &name).await;
            reply_empty(reply, gone.map_err(|e| refuse(&fs, "rmdir", parent, Some(&name), &e)));
        });
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (fs, name, newname) = (self.fs(), name.to_owned(), newname.to_owned());
        self.run(async move {
            let moved = fs.rename(parent.0, &name, newparent.0, &newname, flags.bits()).await;
            reply_empty(reply, moved.map_err(|e| refuse(&fs, "rename", parent, Some(&name), &e)));
        });
    }

    fn mknod(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let never = Error::NotPermitted("special files");
        reply.error(refuse(&self.fs, "mknod", parent, Some(name), &never));
    }

    fn symlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, _target: &Path, reply: ReplyEntry) {
        let never = Error::NotPermitted("symbolic links");
        reply.error(refuse(&self.fs, "symlink", parent, Some(name), &never));
    }

    fn link(&self, _req: &Request, _ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let never = Error::NotPermitted("hard links");
        reply.error(refuse(&self.fs, "link", newparent, Some(newname), &never));
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs();
        self.run(async move {
            match fs.open(ino.0, flags.0).await {
                Ok(opened) => reply.opened(FileHandle(opened.fh), open_flags(opened)),
                Err(e) => reply.error(refuse(&fs, "open", ino, None, &e)),
            }
        });
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.fs.create(parent.0, name, flags) {
            Ok((attr, opened)) => {
                let fh = FileHandle(opened.fh);
                reply.created(&attr.ttl, &file_attr(&attr), GENERATION, fh, open_flags(opened));
            }
            Err(e) => reply.error(refuse(&self.fs, "create", parent, Some(name), &e)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs();
        self.run(async move {
            match fs.read(fh.0, offset, size as usize).await {
                Ok(frames) => reply_frames(reply, &frames),
                Err(e) => reply.error(refuse(&fs, "read", ino, None, &e)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The kernel sends at most REQUEST_BYTES_MAX.
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        match self.fs.write_now(fh.0, offset, data) {
            Ok(true) => return reply.written(size),
            Err(e) => return reply.error(refuse(&self.fs, "write", ino, None, &e)),
            Ok(false) => {}
        }
        let (fs, data) = (self.fs(), data.to_vec());
        self.run(async move {
            match fs.write(fh.0, offset, &data).await {
                Ok(()) => reply.written(size),
                Err(e) => reply.error(refuse(&fs, "write", ino, None, &e)),
            }
        });
    }

    fn flush(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let fs = self.fs();
        self.run(async move {
            let done = fs.flush(fh.0).await;
            reply_empty(reply, done.map_err(|e| refuse(&fs, "flush", ino, None, &e)));
        });
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let fs = self.fs();
        self.run(async move {
            let done = fs.fsync(fh.0).await;
            reply_empty(reply, done.map_err(|e| refuse(&fs, "fsync", ino, None, &e)));
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs();
        self.run(async move {
            fs.release(fh.0).await;
            reply.ok();
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.opendir(ino.0) {
            Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::empty()),
            Err(e) => reply.error(refuse(&self.fs, "opendir", ino, None, &e)),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let fs = self.fs();
        self.run(async move {
            let mut take = |item: DirItem<'_>| {
                reply.add(INodeNo(item.ino), item.cookie, file_type(item.kind), item.name)
            };
            match fs.readdir(fh.0, offset, false, &mut take).await {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(refuse(&fs, "readdir", ino, None, &e)),
            }
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let fs = self.fs();
        self.run(async move {
            let mut take = |item: DirItem<'_>| add_plus(&mut reply, &item);
            match fs.readdir(fh.0, offset, true, &mut take).await {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(refuse(&fs, "readdirplus", ino, None, &e)),
            }
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let fs = self.fs();
        self.run(async move {
            let done = fs.fsyncdir(ino.0).await;
            reply_empty(reply, done.map_err(|e| refuse(&fs, "fsyncdir", ino, None, &e)));
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // A bucket has no size: an exbibyte of blocks of 4 KiB, all free, and as many inodes as one likes.
        const BLOCK_BYTES: u32 = 4096;
        const BLOCKS: u64 = (1 << 60) / BLOCK_BYTES as u64;
        const INODES: u64 = 1 << 50;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, INODES, INODES, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}

/// `.` and `..` come without attributes: the kernel looks them up itself.
fn add_plus(reply: &mut ReplyDirectoryPlus, item: &DirItem<'_>) -> bool {
    let dot = FileAttr { ino: INodeNo(item.ino), ..DOT };
    match &item.attr {
        Some(attr) => {
            reply.add(INodeNo(item.ino), item.cookie, item.name, &attr.ttl, &file_attr(attr), GENERATION)
        }
        None => reply.add(INodeNo(0), item.cookie, item.name, &Duration::ZERO, &dot, GENERATION),
    }
}

const DOT: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: SystemTime::UNIX_EPOCH,
    mtime: SystemTime::UNIX_EPOCH,
    ctime: SystemTime::UNIX_EPOCH,
    crtime: SystemTime::UNIX_EPOCH,
    kind: FileType::Directory,
    perm: 0o755,
    nlink: 1,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};
