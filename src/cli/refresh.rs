//! `pailfs refresh`: make a mount ask S3 anew.
//!
//! Owns: [`RefreshArgs`].
//! Invariant: an attribute is set only on what lies on a pailfs mount.
//! Must never know: the daemon's process; an extended attribute is all that it sends.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::fs::{XattrFlags, setxattr};

use crate::failure::Failure;
use crate::fs::REFRESH;
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

pub(super) fn run(args: &RefreshArgs) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| refresh(path))
}

fn refresh(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let device =
        std::fs::metadata(path).map_err(|e| Failure::new(format_args!("cannot find {shown}: {e}")))?.dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let mounts = mountpoint::table()
        .map_err(|e| Failure::new(format_args!("cannot read /proc/self/mountinfo: {e}")))?;
    if !mounts.iter().any(|mount| mount.device == device && mount.fs_type == FS_TYPE) {
        return Err(Failure::new(format_args!(
            "{shown} is not on a pailfs mount; `findmnt -t {FS_TYPE}` lists them"
        )));
    }
    setxattr(path, REFRESH, b"1", XattrFlags::empty()).map_err(|e| match io::Error::from(e) {
        e if e.kind() == io::ErrorKind::ReadOnlyFilesystem => Failure::new(format_args!(
            "{shown} is on a read-only mount, where the kernel lets nothing be set: unmount it and mount \
             it again"
        )),
        e if e.kind() == io::ErrorKind::PermissionDenied => {
            Failure::new(format_args!("{shown} may only be refreshed by those who may write to it: {e}"))
        }
        e => Failure::new(format_args!("cannot refresh {shown}: {e}; the mount's log says more")),
    })
}
