//! Which descriptors a process has, as /proc tells.
//!
//! Owns: [`holds_another`], [`are_one_process`]. A shell opens a file, duplicates the descriptor and closes the first one,
//! before anything was written; a program that starts another one closes its files there. FUSE tells of each close, but not
//! whether it was the last; the processes' tables do.
//! Invariant: where it cannot be told the answer is no, and the file is published once more than needed.
//! Must never know: handles, S3.

use std::fs;
use std::path::Path;

/// Descriptors looked at, at most.
const DESCRIPTORS_MAX: usize = 1024;

/// Whether the process has a descriptor left that writes to the file with this inode number.
pub(super) async fn holds_another(pid: u32, ino: u64) -> bool {
    let asked = tokio::task::spawn_blocking(move || {
        let entries = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fdinfo")).ok()?;
        let mut paths = entries.take(DESCRIPTORS_MAX).filter_map(|entry| Some(entry.ok()?.path()));
        Some(paths.any(|path| fs::read_to_string(path).is_ok_and(|info| writes_to(&info, ino))))
    });
    asked.await.ok().flatten().unwrap_or(false)
}

/// Whether two threads are of one process.
pub(super) fn are_one_process(thread: u32, other: u32) -> bool {
    thread == other || Path::new("/proc").join(format!("{thread}/task/{other}")).exists()
}

/// `info`: what /proc/PID/fdinfo/FD says.
fn writes_to(info: &str, ino: u64) -> bool {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let flags = field("flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
    field("ino:").and_then(|number| number.parse().ok()) == Some(ino)
        && flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;

    #[tokio::test]
    async fn a_duplicate_that_writes_is_found_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::create(&path).unwrap();
        let (pid, ino) = (std::process::id(), file.metadata().unwrap().ino());
        let duplicate = file.try_clone().unwrap();
        drop(file);
        assert!(holds_another(pid, ino).await);
        assert!(!holds_another(pid, u64::MAX).await);
        drop(duplicate);
        let _reader = File::open(&path).unwrap();
        assert!(!holds_another(pid, ino).await, "it cannot write");
        assert!(!holds_another(0, ino).await, "a process that cannot be seen");
    }
}
