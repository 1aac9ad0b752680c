//! What the kernel knows of mounts: its table, taking a mount away, who keeps it busy.
//!
//! Owns: [`Mount`] (a line of `/proc/self/mountinfo`), [`unmount`], [`detach`], [`holders`].
//! Invariant: nothing here asks the mounted file system itself, so a dead or stuck one cannot stop it; only
//! [`unmount`] may wait, for the kernel to finish what is under way (and [`raise_read_ahead`], of a mount that
//! has just begun, for its device number).
//! Must never know: S3, the daemon, the command line.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::failure::Failure;

/// The type that a pailfs mount has in the kernel's table.
pub const FS_TYPE: &str = "fuse.pailfs";

/// Read-ahead asked of the kernel where root may set it, in KiB.
const READ_AHEAD_KIB: u32 = 1024;

/// One mount, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of its device number, which tells two mounts of the same type apart.
    pub device: String,
    pub point: PathBuf,
    pub fs_type: String,
    pub source: OsString,
    /// Of a FUSE file system: who serves it.
    pub user_id: Option<u32>,
}

impl Mount {
    /// Any FUSE file system but the kernel's own control file system.
    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type == "fuseblk" || self.fs_type.starts_with("fuse.")
    }
}

/// Every mount this process sees, in the order they were made.
pub fn table() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount that an absolute path without symbolic links lies on, as far as the table tells.
fn holding(path: &Path) -> io::Result<Option<Mount>> {
    let above = table()?.into_iter().filter(|mount| path.starts_with(&mount.point));
    // Of several on one mount point the last was made on top.
    Ok(above.max_by_key(|mount| mount.point.components().count()))
}

/// As [`holding`], if it is one of pailfs.
pub fn ours_holding(path: &Path) -> Result<Option<Mount>, Failure> {
    let mount =
        holding(path).map_err(|e| Failure::new(format_args!("cannot read /proc/self/mountinfo: {e}")))?;
    Ok(mount.filter(|mount| mount.fs_type == FS_TYPE))
}

/// The topmost mount whose mount point is exactly `dir` (absolute, without symbolic links).
pub fn at(dir: &Path) -> io::Result<Option<Mount>> {
    Ok(table()?.into_iter().rev().find(|m| m.point == dir))
}

fn parse(mountinfo: &[u8]) -> Vec<Mount> {
    mountinfo.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw`; a lone `-` ends the optional fields.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
    let point = unescape(fields.nth(1)?);
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next().unwrap_or_default());
    let options = fields.next().unwrap_or_default().split(|&b| b == b',');
    let user_id = options.filter_map(|option| option.strip_prefix(b"user_id=")).next();
    let user_id = user_id.and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
    Some(Mount { device, point: PathBuf::from(point), fs_type, source, user_id })
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// Larger reads cost less; the kernel's default is 128 KiB. Only root may, and only it need.
pub fn raise_read_ahead(dir: &Path) {
    let Ok(device) = std::fs::metadata(dir).map(|meta| meta.dev()) else { return };
    let (major, minor) = (libc::major(device), libc::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    match std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        Ok(()) => tracing::debug!("{path} is {READ_AHEAD_KIB}"),
        Err(e) => tracing::info!("read-ahead stays at the kernel's default: {path}: {e}"),
    }
}

/// `dir` as the mount table names it. Works where the mount on it is dead: only its parent is asked.
pub fn absolute(dir: &Path) -> io::Result<PathBuf> {
    match dir.canonicalize() {
        Ok(path) => Ok(path),
        Err(e) if is_dead(&e) => {
            let path = std::path::absolute(dir)?;
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Ok(path),
            }
        }
        Err(e) => Err(e),
    }
}

/// The daemon behind a mount is gone (or its connection was aborted).
pub fn is_dead(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EHOSTDOWN))
}

/// Why a mount is still there.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    #[error("busy")]
    Busy,
    #[error("{0}")]
    Other(String),
}

/// Unmounts; refuses while something is open on it.
pub fn unmount(dir: &Path) -> Result<(), UnmountError> {
    take_away(dir, MntFlags::UMOUNT_NOFOLLOW, &["-u"])
}

/// Takes the mount out of the tree at once; it ends when the last file on it is closed.
pub fn detach(dir: &Path) -> Result<(), UnmountError> {
    let flags = MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH;
    take_away(dir, flags, &["-u", "-z"])
}

/// Only root may call umount2(2); for others fusermount3 does it, which is setuid.
fn take_away(dir: &Path, flags: MntFlags, helper_args: &[&str]) -> Result<(), UnmountError> {
    match umount2(dir, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(UnmountError::Busy),
        Err(Errno::EPERM) => fusermount(dir, helper_args),
        Err(Errno::EINVAL) => Err(UnmountError::Other("not a mount point".into())),
        Err(e) => Err(UnmountError::Other(e.desc().into())),
    }
}

fn fusermount(dir: &Path, args: &[&str]) -> Result<(), UnmountError> {
    for program in ["fusermount3", "fusermount"] {
        let run = Command::new(program)
            .args(args)
            .arg("--")
            .arg(dir)
            // Its words are read below.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output();
        let output = match run {
            Ok(output) => output,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(UnmountError::Other(format!("{program}: {e}"))),
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if said.to_ascii_lowercase().contains("busy") {
            return Err(UnmountError::Busy);
        }
        return Err(UnmountError::Other(said));
    }
    Err(UnmountError::Other(
        "fusermount3 is not installed (package fuse3), and only root can unmount without it".into(),
    ))
}

/// A process that keeps a mount busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub name: String,
    /// A path it holds.
    pub path: PathBuf,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {}) holds {}", self.name.escape_debug(), self.pid, self.path.display())
    }
}

/// Processes with an open file, working directory, root or program on the mount; those of other users
/// are invisible to all but root. At most `limit`, the own process never.
pub fn holders(dir: &Path, limit: usize) -> Vec<Holder> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| holder(pid, dir))
        .take(limit)
        .collect()
}

fn holder(pid: u32, dir: &Path) -> Option<Holder> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let fds = std::fs::read_dir(process.join("fd"));
    let path = ["cwd", "root", "exe"]
        .into_iter()
        .map(|link| process.join(link))
        .chain(fds.into_iter().flatten().flatten().map(|fd| fd.path()))
        // readlink on /proc names the path from the kernel's memory: no file system is asked.
        .filter_map(|link| std::fs::read_link(link).ok())
        .find(|target| target.starts_with(dir))?;
    let name = std::fs::read(process.join("comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(name.trim_ascii_end());
    Some(Holder { pid, name: name.into_owned(), path })
}

/// `: NAME (pid N) holds PATH, …`, or nothing where no holder can be seen.
pub fn holders_phrase(dir: &Path) -> String {
    let list: Vec<String> = holders(dir, 5).iter().map(Holder::to_string).collect();
    if list.is_empty() {
        return String::new();
    }
    format!(": {}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_with_and_without_optional_fields() {
        let text = b"22 1 0:20 / / rw,relatime shared:1 master:2 - ext4 /dev/vda1 rw\n\
            40 22 0:36 / /mnt/my\\040bucket\\134x rw,nosuid - fuse.pailfs s3://b/p\\040q/ rw,user_id=0\n\
            41 22 0:37 / /sys/fs/fuse/connections rw - fusectl fusectl rw\n\
            garbage\n\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].fs_type, "ext4");
        assert!(!mounts[0].is_fuse());
        assert_eq!(mounts[1].point, Path::new("/mnt/my bucket\\x"));
        assert_eq!(mounts[1].device, "0:36");
        assert_eq!((mounts[0].user_id, mounts[1].user_id), (None, Some(0)));
        assert_eq!(mounts[1].fs_type, FS_TYPE);
        assert_eq!(mounts[1].source, "s3://b/p q/");
        assert!(mounts[1].is_fuse());
        assert!(!mounts[2].is_fuse(), "fusectl is no FUSE file system");
    }

    #[test]
    fn the_table_of_this_machine_has_a_root() {
        assert!(table().unwrap().iter().any(|m| m.point == Path::new("/")));
        assert!(at(Path::new("/no/such/mount")).unwrap().is_none());
    }

    #[test]
    fn a_process_in_a_directory_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        assert!(holders(&dir, 5).is_empty());
        let mut child = Command::new("sleep").arg("60").current_dir(&dir).spawn().unwrap();
        let found = holders(&dir, 5);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].pid, child.id());
        assert_eq!(found[0].path, dir);
    }

    #[test]
    fn unmounting_what_is_no_mount_point_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let e = unmount(dir.path()).unwrap_err().to_string();
        assert!(!e.is_empty() && !matches!(e.as_str(), "busy"), "{e}");
    }
}
