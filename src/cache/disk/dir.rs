//! The cache's directory: whose it is, what format it has, how much it holds.
//!
//! Owns: [`Dir`], the marker file in it, and the one number all mounts share: the bytes held. The marker is
//! locked (flock) by whoever changes anything but a time; a lock ends with its process.
//! Invariants: nobody but its owner gets into the directory; nothing is changed in a directory that is no cache;
//! the number is raised before bytes are written and lowered after they are gone, so that a crash leaves it too
//! high, which the next scan mends.
//! Must never know: what blocks are.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// In the directory itself, for people as well.
const MARKER: &str = "pailfs-cache";
const MAGIC: &str = "pailfs disk cache, format ";
/// Raise it with every change to the files' names or contents.
const FORMAT: u32 = 1;
const OBJECTS: &str = "objects";
/// After the first line: `bytes held: ` and 20 digits.
const HELD: &str = "bytes held: ";
const HELD_DIGITS: usize = 20;

/// A directory that cannot serve as a cache, and why.
#[derive(Debug, thiserror::Error)]
#[error("--cache: {} {problem}", dir.display())]
pub struct CannotOpen {
    dir: PathBuf,
    problem: String,
}

impl CannotOpen {
    pub(super) fn new(dir: &Path, problem: String) -> CannotOpen {
        CannotOpen { dir: dir.to_owned(), problem }
    }
}

/// The directory, fit for use. Each has its own descriptor of the marker, for that is what locks.
pub(super) struct Dir {
    marker: File,
    held_at: u64,
    objects: PathBuf,
}

impl Dir {
    pub fn open(path: &Path) -> Result<Dir, CannotOpen> {
        let cannot = |problem| CannotOpen::new(path, problem);
        let failed = |what: &str, e: io::Error| cannot(format!("cannot be {what}: {e}"));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| failed("made", e))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("made", e)),
            _ => {}
        }
        let meta = std::fs::metadata(path).map_err(|e| failed("used", e))?;
        let us = nix::unistd::geteuid().as_raw();
        if !meta.is_dir() {
            return Err(cannot("is not a directory".into()));
        }
        if meta.uid() != us {
            let owner = meta.uid();
            return Err(cannot(format!("belongs to user {owner}, not to user {us}, who mounts")));
        }
        check_contents(path).map_err(|e| failed("read", e))?.map_err(cannot)?;
        if meta.mode() & 0o077 != 0 {
            std::fs::set_permissions(path, Permissions::from_mode(0o700))
                .map_err(|e| failed("closed to others", e))?;
        }
        let marker = open_marker(path).map_err(|e| failed("used", e))?.map_err(cannot)?;
        let objects = path.join(OBJECTS);
        match DirBuilder::new().mode(0o700).create(&objects) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("written", e)),
            _ => {}
        }
        Ok(Dir { marker, held_at: (first_line().len() + HELD.len()) as u64, objects })
    }

    /// Where the shards are.
    pub fn objects(&self) -> &Path {
        &self.objects
    }

    /// Waits until no other mount changes anything.
    pub fn lock(&self) -> io::Result<Locked<'_>> {
        self.marker.lock()?;
        Ok(Locked { dir: self })
    }

    /// Bytes held, in all mounts. 0 where the number is not readable: whoever changes things scans first.
    pub fn bytes_held(&self) -> u64 {
        let mut digits = [0; HELD_DIGITS];
        let read = self.marker.read_exact_at(&mut digits, self.held_at);
        let number = read.ok().and_then(|()| std::str::from_utf8(&digits).ok()?.parse().ok());
        number.unwrap_or(0)
    }
}

/// The right to change things.
pub(super) struct Locked<'d> {
    dir: &'d Dir,
}

impl Locked<'_> {
    pub fn set_bytes_held(&self, bytes: u64) -> io::Result<()> {
        let text = format!("{HELD}{bytes:0HELD_DIGITS$}\n");
        self.dir.marker.write_all_at(text.as_bytes(), first_line().len() as u64)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.dir.marker.unlock() {
            tracing::error!("the disk cache stays locked until this mount ends: {e}");
        }
    }
}

fn first_line() -> String {
    format!("{MAGIC}{FORMAT}\n")
}

/// A directory with other things in it is refused before anything is changed: its mode is not ours to set.
fn check_contents(path: &Path) -> io::Result<Result<(), String>> {
    let mut strange = None;
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        if name == MARKER {
            return Ok(Ok(()));
        }
        if name != "lost+found" {
            strange = Some(name);
        }
    }
    Ok(match strange {
        None => Ok(()),
        Some(name) => Err(format!(
            "is no disk cache of pailfs and holds other things (such as `{}`): name an empty directory or a new one",
            name.to_string_lossy().escape_debug()
        )),
    })
}

/// Two mounts may make it at once, so it is looked at under its lock.
fn open_marker(path: &Path) -> io::Result<Result<File, String>> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let marker = options.custom_flags(libc::O_NOFOLLOW).open(path.join(MARKER))?;
    marker.lock()?;
    let ours = first_line();
    let mut begin = vec![0; ours.len()];
    let read = marker.read_at(&mut begin, 0)?;
    begin.truncate(read);
    let checked = if begin == ours.as_bytes() {
        Ok(())
    } else if ours.as_bytes().starts_with(&begin) {
        marker.write_all_at(ours.as_bytes(), 0)?; // new, or its maker was interrupted
        Ok(())
    } else if begin.starts_with(MAGIC.as_bytes()) {
        let theirs = String::from_utf8_lossy(begin.get(MAGIC.len()..).unwrap_or_default()).into_owned();
        Err(format!(
            "is a cache of format {}, and this pailfs writes format {FORMAT}: name another directory, or remove this one",
            theirs.trim().escape_debug()
        ))
    } else {
        Err(format!("has a file `{MARKER}` that is none of pailfs: name another directory"))
    };
    marker.unlock()?;
    Ok(checked.map(|()| marker))
}
