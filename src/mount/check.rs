//! Before a mount: is the directory fit, can FUSE be used at all?
//!
//! Owns: [`directory`], [`beside`], [`fuse_usable`]; after it: [`answers`].
//! Invariant: every refusal says what to do. Runs before the fork, so no threads but [`answers`]'s.
//! Must never know: S3.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};

use crate::failure::Failure;
use crate::mountpoint::{self, Mount};

/// The directory, absolute and free of symbolic links, if a bucket can be mounted on it.
pub fn directory(dir: &Path) -> Result<PathBuf, Failure> {
    let refused = |e: io::Error| Failure::new(explain_directory(dir, &e));
    let path = mountpoint::absolute(dir).map_err(refused)?;
    let table = mountpoint::table().map_err(|e| {
        Failure::new(format_args!("cannot read /proc/self/mountinfo: {e}; is /proc mounted?"))
    })?;
    // Asked first: on a dead or stuck mount even stat(2) fails or waits.
    if let Some(line) = in_the_way(&table, &path) {
        return Err(Failure::new(line));
    }
    if !path.metadata().map_err(refused)?.is_dir() {
        return Err(Failure::new(format_args!(
            "{} is not a directory; a bucket needs a directory to be mounted on",
            dir.display()
        )));
    }
    Ok(path)
}

fn explain_directory(dir: &Path, e: &io::Error) -> String {
    let dir = dir.display();
    if mountpoint::is_dead(e) {
        return format!(
            "{dir} is a dead mount (its daemon is gone); run `pailfs umount {dir}` and mount again"
        );
    }
    match e.kind() {
        io::ErrorKind::NotFound => {
            format!("{dir} does not exist; make it with `mkdir -p {dir}`")
        }
        io::ErrorKind::NotADirectory => {
            format!("{dir} is not a directory; a bucket needs a directory to be mounted on")
        }
        _ => format!("cannot use {dir}: {e}"),
    }
}

/// A FUSE mount on the directory, or any mount inside it, which would be hidden. Another kind of mount on
/// the directory itself (a volume of a container) is fine.
fn in_the_way(table: &[Mount], dir: &Path) -> Option<String> {
    let shown = dir.display();
    if let Some(on) = table.iter().rev().find(|m| m.point == dir)
        && on.is_fuse()
    {
        let source = on.source.to_string_lossy();
        return Some(format!(
            "{shown} is already a mount point ({source}, {}); unmount it first: `{} {shown}`",
            on.fs_type,
            if on.fs_type == mountpoint::FS_TYPE { "pailfs umount" } else { "umount" }
        ));
    }
    let inside = table.iter().find(|m| m.point != dir && m.point.starts_with(dir))?;
    let inside = inside.point.display();
    Some(format!(
        "{shown} has a mount inside it, at {inside}, which would be hidden; \
         unmount that first or choose another directory"
    ))
}

/// A directory of ours within the mount would be written through the mount itself. `option`: what names it.
pub fn beside(option: &str, ours: &Path, dir: &Path) -> Result<(), Failure> {
    // It need not exist yet: what counts is where it will be made.
    let real = ours.ancestors().find_map(|above| above.canonicalize().ok());
    if real.is_some_and(|real| real.starts_with(dir)) {
        return Err(Failure::new(format_args!(
            "{option}: {} lies within {}, where the bucket is to be mounted; name a directory elsewhere",
            ours.display(),
            dir.display()
        )));
    }
    Ok(())
}

/// Is there a FUSE to mount with? `allow_other`: may this user share the mount?
pub fn fuse_usable(allow_other: bool) -> Result<(), Failure> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if let Err(e) = opened {
        return Err(Failure::new(match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                "there is no /dev/fuse: install fuse3 and run `modprobe fuse`; in a container, start \
                 it with `--device /dev/fuse --cap-add SYS_ADMIN`"
                    .to_owned()
            }
            Some(libc::EACCES | libc::EPERM) => {
                "/dev/fuse may not be opened: check its permissions (0666 is usual); in a container, \
                 start it with `--device /dev/fuse --cap-add SYS_ADMIN`"
                    .to_owned()
            }
            _ => format!("cannot open /dev/fuse: {e}"),
        }));
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    if !on_path("fusermount3") && !on_path("fusermount") {
        return Err(Failure::new(
            "fusermount3 is not installed: install the package fuse3, or mount as root",
        ));
    }
    if allow_other && !user_allow_other() {
        return Err(Failure::new(
            "--allow-other is for root only, unless /etc/fuse.conf has the line user_allow_other",
        ));
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// A fuse.conf that cannot be read decides nothing: fusermount3 reads it as root.
fn user_allow_other() -> bool {
    match std::fs::read_to_string("/etc/fuse.conf") {
        Ok(text) => text.lines().any(|line| line.trim() == "user_allow_other"),
        Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// How long a fresh mount may take to answer a statfs, which needs no network.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Proves that the mount on `dir` answers. Asked from a thread of its own: should the mount be stuck, only
/// that thread is.
pub fn answers(dir: &Path) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel();
    let path = dir.to_path_buf();
    std::thread::spawn(move || {
        let asked = statfs(&path).map(|s| s.filesystem_type() == FUSE_SUPER_MAGIC);
        // Root's inode: the answer comes from our getattr.
        let asked = asked.and_then(|fuse| match path.metadata() {
            Ok(m) => Ok(fuse && m.ino() != 0),
            Err(e) => Err(nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))),
        });
        // Nobody listens after the time-out.
        let _ = sender.send(asked);
    });
    let shown = dir.display();
    match receiver.recv_timeout(ANSWER_TIMEOUT) {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => {
            Err(Failure::new(format_args!("{shown} was mounted, but another file system answers there")))
        }
        Ok(Err(e)) => Err(Failure::new(format_args!("{shown} was mounted, but does not answer: {e}"))),
        Err(_) => Err(Failure::new(format_args!(
            "{shown} was mounted, but gave no answer within {} s",
            ANSWER_TIMEOUT.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, fs_type: &str) -> Mount {
        Mount {
            device: "0:1".into(),
            point: point.into(),
            fs_type: fs_type.into(),
            source: "src".into(),
            user_id: Some(0),
        }
    }

    #[test]
    fn what_stands_in_the_way_of_a_mount() {
        let table = [
            mount("/", "ext4"),
            mount("/vol", "ext4"),
            mount("/vol2", "fuse.sshfs"),
            mount("/b", "fuse.pailfs"),
        ];
        let see = |dir: &str| in_the_way(&table, Path::new(dir));
        assert_eq!(see("/mnt"), None);
        assert_eq!(see("/vol"), None, "a volume may be mounted over");
        assert_eq!(see("/b/sub"), None);
        assert!(see("/vol2").unwrap().contains("`umount /vol2`"));
        assert!(see("/b").unwrap().contains("`pailfs umount /b`"));
        assert!(see("/").unwrap().contains("has a mount inside it, at /vol"));
    }

    #[test]
    fn a_missing_directory_and_a_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let missing = directory(&dir.path().join("no")).unwrap_err().to_string();
        assert!(missing.contains("mkdir -p"), "{missing}");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let file = directory(&file).unwrap_err().to_string();
        assert!(file.contains("not a directory"), "{file}");
        assert!(directory(dir.path()).is_ok());
    }

    #[test]
    fn a_dead_mount_is_named_as_such() {
        let e = io::Error::from_raw_os_error(libc::ENOTCONN);
        let line = explain_directory(Path::new("/mnt/x"), &e);
        assert!(line.contains("pailfs umount /mnt/x"), "{line}");
    }

    #[test]
    fn a_directory_that_is_no_fuse_mount_does_not_count_as_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        assert!(answers(dir.path()).is_err());
    }
}
