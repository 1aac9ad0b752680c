//! The door to the kernel: unpack, call the file system, reply.
//!
//! Owns: the trait of `fuser`, one call of the file system a method; `mount.rs` owns the session, `reply.rs`
//! the mapping of types, `passthrough.rs` the files that the kernel reads by itself. Only this directory names `fuser`.
//! Invariant: no FUSE thread waits on the network. An operation's future is polled once on the thread
//! that read the request, so what memory can answer is answered on the spot; one that must wait moves to
//! the runtime and replies from there.
//! Must never know: S3, object keys.

mod mount;
mod passthrough;
mod reply;

use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use crate::attr::PERMISSIONS;
use crate::error::Error;
use crate::fs::{DirItem, FLUSH, Filesystem, Maker, REFRESH, SetAttr, SetTime};
use passthrough::Passed;
use reply::{
    add_plus, dir_flags, file_type, refuse, reply_absent, reply_attr, reply_empty, reply_entry, reply_frames,
    reply_xattr,
};

pub use mount::FuseMount;

/// The largest read or write the kernel sends: its own limit of 256 pages.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Reads and other requests the kernel may have under way in the background.
const BACKGROUND_REQUESTS_MAX: u16 = 128;

struct Door {
    fs: Arc<Filesystem>,
    runtime: Handle,
    passed: Arc<Passed>,
}

impl Door {
    fn new(fs: Arc<Filesystem>, runtime: Handle) -> Door {
        Door { fs, runtime, passed: Arc::default() }
    }

    /// Carries out an operation on an inode. Polls once here, and where that does not answer moves to the runtime.
    fn run<F>(&self, ino: INodeNo, operation: impl FnOnce(Arc<Filesystem>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let fs = self.fs.of(ino.0);
        let mut operation = Box::pin(async move {
            // Where it is not, what leads into the bucket or changes it says why.
            _ = fs.ready().await;
            fs.in_place(ino.0).await;
            operation(fs).await;
        });
        let _runtime = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        // A panic here would end the thread, and with it the mount; as a task's it ends the operation, whose
        // reply answers EIO when it is dropped. The panic hook has logged it.
        match catch_unwind(AssertUnwindSafe(|| operation.as_mut().poll(&mut context))) {
            Ok(Poll::Ready(())) | Err(_) => {}
            Ok(Poll::Pending) => drop(self.runtime.spawn(operation)),
        }
    }
}

fn maker(req: &Request, mode: u32, umask: u32) -> Maker {
    Maker { perm: mode & PERMISSIONS & !umask, uid: req.uid(), gid: req.gid() }
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(time),
    }
}

/// What is not here fuser answers with ENOSYS, and the kernel then helps itself or stops asking: access (the mount has
/// `default_permissions`).
impl fuser::Filesystem for Door {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ];
        for flag in wanted {
            if let Err(missing) = config.add_capabilities(flag) {
                tracing::info!("the kernel does not offer {missing:?}");
            }
        }
        // The cache's files may lie on any file system that is not itself stacked on another.
        if self.fs.has_disk_cache() {
            let offered = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
            if !offered || config.set_max_stack_depth(1).is_err() {
                tracing::info!("the kernel does not offer passthrough");
            }
        }
        // Each answers an error with the nearest value that works.
        let _ = config.set_max_write(REQUEST_BYTES_MAX).map_err(|nearest| config.set_max_write(nearest));
        let _ = config.set_max_readahead(REQUEST_BYTES_MAX).map_err(|near| config.set_max_readahead(near));
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.run(parent, move |fs| async move {
            match fs.lookup(parent.0, &name).await {
                Ok(attr) => reply_entry(reply, Ok(attr)),
                Err(e) => {
                    let errno = refuse(&fs, "lookup", parent, Some(&name), &e);
                    let absent_for = fs.absent_for(parent.0, &name);
                    match e {
                        Error::NotFound if !absent_for.is_zero() => reply_absent(reply, absent_for),
                        _ => reply.error(errno),
                    }
                }
            }
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.run(ino, move |fs| async move {
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
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        let set = SetAttr { mode, uid, gid, size, fh: fh.map(|fh| fh.0), atime, mtime };
        self.run(ino, move |fs| async move {
            let attr = fs.setattr(ino.0, set).await;
            reply_attr(reply, attr.map_err(|e| refuse(&fs, "setattr", ino, None, &e)));
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (name, maker) = (name.to_owned(), maker(req, mode, umask));
        self.run(parent, move |fs| async move {
            let made = fs.mkdir(parent.0, &name, maker).await;
            reply_entry(reply, made.map_err(|e| refuse(&fs, "mkdir", parent, Some(&name), &e)));
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.run(parent, move |fs| async move {
            let gone = fs.unlink(parent.0, &name).await;
            reply_empty(reply, gone.map_err(|e| refuse(&fs, "unlink", parent, Some(&name), &e)));
        });
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.run(parent, move |fs| async move {
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
        let (name, newname) = (name.to_owned(), newname.to_owned());
        self.run(parent, move |fs| async move {
            let moved = fs.rename(parent.0, &name, newparent.0, &newname, flags.bits()).await;
            reply_empty(reply, moved.map_err(|e| refuse(&fs, "rename", parent, Some(&name), &e)));
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (name, maker) = (name.to_owned(), maker(req, mode, umask));
        self.run(parent, move |fs| async move {
            let made = fs.mknod(parent.0, &name, mode, rdev, maker).await;
            reply_entry(reply, made.map_err(|e| refuse(&fs, "mknod", parent, Some(&name), &e)));
        });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (name.to_owned(), target.to_owned());
        let maker = maker(req, 0o777, 0);
        self.run(parent, move |fs| async move {
            let made = fs.symlink(parent.0, &name, &target, maker).await;
            reply_entry(reply, made.map_err(|e| refuse(&fs, "symlink", parent, Some(&name), &e)));
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.run(ino, move |fs| async move {
            match fs.readlink(ino.0).await {
                Ok(target) => reply.data(&target),
                Err(e) => reply.error(refuse(&fs, "readlink", ino, None, &e)),
            }
        });
    }

    fn link(&self, _req: &Request, _ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let never = Error::NotPermitted("hard links");
        reply.error(refuse(&self.fs.of(newparent.0), "link", newparent, Some(newname), &never));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (passed, pid) = (self.passed.clone(), req.pid());
        self.run(ino, move |fs| async move {
            match fs.open(ino.0, flags.0).await {
                Ok(opened) => {
                    fs.used_by(pid, opened.fh);
                    passed.reply_open(&fs, ino, opened, reply)
                }
                Err(e) => reply.error(refuse(&fs, "open", ino, None, &e)),
            }
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (passed, name, maker) = (self.passed.clone(), name.to_owned(), maker(req, mode, umask));
        let pid = req.pid();
        self.run(parent, move |fs| async move {
            match fs.create(parent.0, &name, flags, maker) {
                Ok((attr, opened)) => {
                    fs.used_by(pid, opened.fh);
                    passed.reply_created(&attr, opened, reply)
                }
                Err(e) => reply.error(refuse(&fs, "create", parent, Some(&name), &e)),
            }
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let tid = req.pid();
        self.run(ino, move |fs| async move {
            match fs.read_by(tid, fh.0, offset, size as usize).await {
                Ok(frames) => reply_frames(reply, &frames),
                Err(e) => reply.error(refuse(&fs, "read", ino, None, &e)),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The kernel sends at most REQUEST_BYTES_MAX.
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let fs = self.fs.of(ino.0);
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        if !mapped {
            fs.used_by(req.pid(), fh.0);
        }
        // Of the descriptor or of this call alone; O_SYNC has it as well. The kernel leaves it to us.
        let synced = flags.0 & libc::O_DSYNC != 0;
        let done = if synced { Ok(false) } else { fs.write_now(fh.0, offset, data) };
        match done {
            Ok(true) => return reply.written(size),
            Err(e) => return reply.error(refuse(&fs, "write", ino, None, &e)),
            Ok(false) => {}
        }
        // Pages that were mapped have their place.
        let append = flags.0 & libc::O_APPEND != 0 && !mapped;
        let data = data.to_vec();
        self.run(ino, move |fs| async move {
            let written = match fs.write(fh.0, offset, &data, append).await {
                Ok(()) if synced => fs.fsync(fh.0).await,
                written => written,
            };
            match written {
                Ok(()) => reply.written(size),
                Err(e) => reply.error(refuse(&fs, "write", ino, None, &e)),
            }
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.run(ino, move |fs| async move {
            let done = fs.fallocate(fh.0, offset, length, mode).await;
            reply_empty(reply, done.map_err(|e| refuse(&fs, "fallocate", ino, None, &e)));
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.run(ino, move |fs| async move {
            match fs.lseek(fh.0, offset, whence).await {
                Ok(found) => reply.offset(found.cast_signed()),
                Err(e) => reply.error(refuse(&fs, "lseek", ino, None, &e)),
            }
        });
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The answer has 32 bits for it.
        let len = len.min(u64::from(u32::MAX - REQUEST_BYTES_MAX));
        let source = self.fs.of(ino_in.0);
        self.run(ino_out, move |fs| async move {
            match fs.copy_file_range(&source, (fh_in.0, offset_in), (fh_out.0, offset_out), len).await {
                Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
                Err(e) => reply.error(refuse(&fs, "copy_file_range", ino_out, None, &e)),
            }
        });
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let pid = req.pid();
        self.run(ino, move |fs| async move {
            let done = fs.flush_by(pid, fh.0).await;
            reply_empty(reply, done.map_err(|e| refuse(&fs, "flush", ino, None, &e)));
        });
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.run(ino, move |fs| async move {
            let done = fs.fsync(fh.0).await;
            reply_empty(reply, done.map_err(|e| refuse(&fs, "fsync", ino, None, &e)));
        });
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.passed.release(ino);
        self.run(ino, move |fs| async move {
            fs.release(fh.0).await;
            reply.ok();
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.run(ino, move |fs| async move {
            match fs.opendir(ino.0) {
                Ok(opened) => reply.opened(FileHandle(opened.fh), dir_flags(&opened)),
                Err(e) => reply.error(refuse(&fs, "opendir", ino, None, &e)),
            }
        });
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.run(ino, move |fs| async move {
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
        self.run(ino, move |fs| async move {
            let mut take = |item: DirItem<'_>| add_plus(&mut reply, &item);
            match fs.readdir(fh.0, offset, true, &mut take).await {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(refuse(&fs, "readdirplus", ino, None, &e)),
            }
        });
    }

    fn releasedir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.fs.of(ino.0).releasedir(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.run(ino, move |fs| async move {
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

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        self.run(ino, move |fs| async move {
            match fs.getxattr(ino.0, &name).await {
                Ok(value) => reply_xattr(reply, &value, size),
                Err(e) => reply.error(refuse(&fs, "getxattr", ino, Some(&name), &e)),
            }
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if !self.fs.lists_xattrs() {
            return reply.error(Errno::ENOSYS); // the kernel asks no more
        }
        self.run(ino, move |fs| async move {
            match fs.listxattr(ino.0).await {
                Ok(names) => {
                    let list: Vec<u8> = names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect();
                    reply_xattr(reply, &list, size);
                }
                Err(e) => reply.error(refuse(&fs, "listxattr", ino, None, &e)),
            }
        });
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.to_owned(), value.to_vec());
        self.run(ino, move |fs| async move {
            let set = fs.setxattr(ino.0, &name, &value, flags).await;
            reply_empty(reply, set.map_err(|e| refuse(&fs, "setxattr", ino, Some(&name), &e)));
        });
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.run(ino, move |fs| async move {
            let gone = fs.removexattr(ino.0, &name).await;
            reply_empty(reply, gone.map_err(|e| refuse(&fs, "removexattr", ino, Some(&name), &e)));
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.run(ino, move |fs| async move {
            let (name, done) = match cmd {
                REFRESH => ("refresh", fs.refresh(ino.0).await),
                FLUSH => ("flush", fs.flush_to_s3(ino.0).await),
                _ => return reply.error(Errno::ENOTTY),
            };
            match done {
                Ok(()) => reply.ioctl(0, &[]),
                Err(e) => reply.error(refuse(&fs, name, ino, None, &e)),
            }
        });
    }
}
