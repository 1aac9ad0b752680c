//! `pailfs refresh` and `pailfs flush`: make a mount ask S3 anew, or wait until S3 has what was written.
//!
//! Owns: [`RefreshArgs`], [`FlushArgs`].
//! Invariant: only what lies on a pailfs mount is told.
//! Must never know: the daemon's process; an ioctl is all that it sends.
//!
//! The one `unsafe`: the type system cannot know what an ioctl does.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::ioctl::{self, NoArg};

use crate::failure::Failure;
use crate::fs::{FLUSH, REFRESH};
use crate::mountpoint::{self, FS_TYPE};

/// Make a mount ask S3 anew for paths and all below them
///
/// What the mount knows of names, sizes and times there is dropped, in its daemon and in the kernel; the
/// next program that looks sees what S3 has. Files that are open keep the version they read.
#[derive(Debug, Args)]
#[command(after_help = "\
Of use where --metadata-ttl is long, or `forever`, and another host changed the bucket.

Exit status: 0 done for every path; 1 not for all, stderr says why; 2 wrong usage.")]
pub(super) struct RefreshArgs {
    /// Files or directories on a mount
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Wait until S3 has all that was written to paths and below them
///
/// Of use on mounts with --write-back, where close and fsync answer earlier. A file that is open and was closed or synced
/// before is sent as it is now; one that was only written to, or cut to nothing since, when it is closed.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 S3 has all of it; 1 not all, stderr and the mount's log say why, and the mount goes on trying;
2 wrong usage.")]
pub(super) struct FlushArgs {
    /// Files or directories on a mount
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub(super) fn refresh(args: &RefreshArgs) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| tell::<REFRESH>("refresh", path))
}

pub(super) fn flush(args: &FlushArgs) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| flush_path(path))
}

pub(super) fn flush_path(path: &Path) -> Result<(), Failure> {
    tell::<FLUSH>("flush", path)
}

fn tell<const WHAT: u32>(name: &str, path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    // A fifo would wait for a writer.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|e| Failure::new(format_args!("cannot open {shown}: {e}")))?;
    let device =
        file.metadata().map_err(|e| Failure::new(format_args!("cannot look at {shown}: {e}")))?.dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let mounts = mountpoint::table()
        .map_err(|e| Failure::new(format_args!("cannot read /proc/self/mountinfo: {e}")))?;
    if !mounts.iter().any(|mount| mount.device == device && mount.fs_type == FS_TYPE) {
        return Err(Failure::new(format_args!(
            "{shown} is not on a pailfs mount; `findmnt -t {FS_TYPE}` lists them"
        )));
    }
    // SAFETY: the command takes no argument, and its receiver is our own daemon.
    let told = unsafe { ioctl::ioctl(&file, NoArg::<WHAT>::new()) };
    told.map_err(|e| Failure::new(format_args!("cannot {name} {shown}: {e}; the mount's log says more")))
}
