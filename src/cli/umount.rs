//! `pailfs umount`: send what is not sent yet, then unmount.
//!
//! Owns: [`UmountArgs`] and the order: check, flush, unmount, wait until it is gone.
//! Invariant: it returns success only when the mount is gone and nothing on it was left unsent; except
//! that a dead mount, whose daemon took its data along, can only be cleared away, which is said.
//! Must never know: the daemon's process; the kernel's interface (fsync, umount) is all it uses.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use crate::failure::Failure;
use crate::mountpoint::{self, FS_TYPE, UnmountError};

/// Send what is not sent yet, then unmount
///
/// Says so, and leaves the mount alone, when files or directories on it are still in use.
#[derive(Debug, Args)]
#[command(after_help = "\
A mount whose daemon has died answers \"Transport endpoint is not connected\": this command clears
it away.

Exit status: 0 unmounted; 1 not unmounted, stderr says why; 2 wrong usage.")]
pub(super) struct UmountArgs {
    /// The directory the bucket is mounted on
    dir: PathBuf,
}

pub(super) fn run(args: &UmountArgs) -> Result<(), Failure> {
    let shown = args.dir.display();
    let dir =
        mountpoint::absolute(&args.dir).map_err(|e| Failure::new(format_args!("cannot use {shown}: {e}")))?;
    is_pailfs(&dir)?;
    match flush(&dir) {
        Ok(()) => {}
        Err(e) if mountpoint::is_dead(&e) => return clear_away(&dir),
        // Another user's mount: whether this one may unmount it is fusermount's to say.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
        Err(e) => {
            return Err(Failure::new(format_args!(
                "{shown} does not answer whether everything is sent ({e}); it stays mounted, and its log says more; \
                 `umount {shown}` unmounts without sending"
            )));
        }
    }
    mountpoint::unmount(&dir).map_err(|e| match e {
        UnmountError::Busy => Failure::new(format_args!(
            "{shown} is busy and stays mounted{}",
            mountpoint::holders_phrase(&dir)
        )),
        UnmountError::Other(why) => Failure::new(format_args!("cannot unmount {shown}: {why}")),
    })?;
    wait_until_gone(&dir)
}

fn is_pailfs(dir: &Path) -> Result<(), Failure> {
    let shown = dir.display();
    let mount = mountpoint::at(dir)
        .map_err(|e| Failure::new(format_args!("cannot read /proc/self/mountinfo: {e}")))?;
    match mount {
        Some(mount) if mount.fs_type == FS_TYPE => Ok(()),
        Some(mount) => Err(Failure::new(format_args!(
            "{shown} is not a pailfs mount but {}; use `umount {shown}`",
            mount.fs_type
        ))),
        None => Err(Failure::new(format_args!(
            "{shown} is not a mount point; `findmnt -t {FS_TYPE}` lists the pailfs mounts"
        ))),
    }
}

/// fsync on the root: the daemon answers when nothing waits to be sent. The directory is closed again,
/// or it would itself keep the mount busy.
fn flush(dir: &Path) -> io::Result<()> {
    let synced = File::open(dir)?.sync_all();
    match synced {
        // A read-only mount has nothing to send and may not know fsync.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
        other => other,
    }
}

fn clear_away(dir: &Path) -> Result<(), Failure> {
    let shown = dir.display();
    mountpoint::detach(dir).map_err(|e| Failure::new(format_args!("cannot detach {shown}: {e}")))?;
    eprintln!(
        "pailfs: {shown} was a dead mount (its daemon had ended); it is cleared away. What it had acknowledged is sent by \
         the next mount of the bucket; what was open and being written is lost"
    );
    wait_until_gone(dir)
}

/// fusermount3 may return a moment before the kernel's table says so.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);

fn wait_until_gone(dir: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + GONE_TIMEOUT;
    while is_pailfs(dir).is_ok() {
        if Instant::now() >= deadline {
            return Err(Failure::new(format_args!(
                "{} was unmounted, but another pailfs mount is there still",
                dir.display()
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
