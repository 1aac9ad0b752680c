//! Answers as the kernel takes them.
//!
//! Owns: the mapping of the file system's types and errors to FUSE's; which errors are worth a line in the log.
//! Must never know: S3, object keys.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyData, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyXattr,
};

use super::REQUEST_BYTES_MAX;
use crate::error::Error;
use crate::fs::{Attr, DirItem, Filesystem, Opened, OpenedDir};
use crate::namespace::Kind;

/// Answers an error, and logs what is a failure rather than an answer.
pub(super) fn refuse(
    fs: &Filesystem,
    op: &'static str,
    ino: INodeNo,
    name: Option<&OsStr>,
    error: &Error,
) -> Errno {
    let errno = error.errno();
    let file = || fs.describe(ino.0, name);
    match errno {
        // Programs ask for labels and lists of attributes that no file here has, of every file.
        libc::ENODATA | libc::EOPNOTSUPP if op.ends_with("xattr") => {
            tracing::debug!(op, file = file(), errno, "{error}");
        }
        libc::ENOENT
        | libc::EEXIST
        | libc::ENOTEMPTY
        | libc::EXDEV
        | libc::EROFS
        | libc::EPERM
        | libc::ENXIO => {
            tracing::debug!(op, file = file(), errno, "{error}");
        }
        _ => tracing::warn!(op, file = file(), errno, "{error}"),
    }
    Errno::from_i32(errno)
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: REQUEST_BYTES_MAX,
        flags: 0,
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// Numbers are not reused while the kernel knows them, so one generation does.
pub(super) const GENERATION: Generation = Generation(0);

pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    flags
}

pub(super) fn dir_flags(opened: &OpenedDir) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_CACHE_DIR, opened.may_cache);
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags
}

pub(super) fn reply_frames(reply: ReplyData, frames: &[Bytes]) {
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

/// `size`: how much room there is; none asks how much it takes.
pub(super) fn reply_xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn reply_entry(reply: ReplyEntry, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&attr.ttl, &file_attr(&attr), GENERATION),
        Err(errno) => reply.error(errno),
    }
}

/// The name is not there, and the kernel need not ask again for so long.
pub(super) fn reply_absent(reply: ReplyEntry, absent_for: Duration) {
    reply.entry(&absent_for, &NOTHING, GENERATION);
}

pub(super) fn reply_attr(reply: ReplyAttr, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.attr(&attr.ttl, &file_attr(&attr)),
        Err(errno) => reply.error(errno),
    }
}

/// `.` and `..` come without attributes, and what S3 told none of: the kernel looks them up itself.
pub(super) fn add_plus(reply: &mut ReplyDirectoryPlus, item: &DirItem<'_>) -> bool {
    let dot = FileAttr { ino: INodeNo(item.ino), kind: file_type(item.kind), ..NOTHING };
    match &item.attr {
        Some(attr) => {
            reply.add(INodeNo(item.ino), item.cookie, item.name, &attr.ttl, &file_attr(attr), GENERATION)
        }
        None => reply.add(INodeNo(0), item.cookie, item.name, &Duration::ZERO, &dot, GENERATION),
    }
}

/// Inode 0 stands for no entry.
const NOTHING: FileAttr = FileAttr {
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
