//! `pailfs warm`: filling a mount's disk cache by reading through the mount.
//!
//! Owns: [`Warm`] and [`run`]; the progress that is shown. It asks the mount by `pailfs.cached` what is cached, and
//! reads with O_DIRECT, so that every read reaches the daemon whatever the kernel's page cache holds.
//! Invariants: what is cached is not read, so that a second run goes on where the first one stopped; success means
//! that every file was whole in the cache once it had been read.
//! Must never know: how the cache is kept; S3.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::Instant;

use indicatif::{BinaryBytes, HumanDuration, ProgressBar};
use walkdir::WalkDir;

use crate::failure::Failure;
use crate::fs::CACHED;
use crate::mountpoint::{self, FS_TYPE};
use crate::progress::{self, LINE_EVERY, Show, pace};

/// What to warm, and how.
#[derive(Debug, Clone)]
pub struct Warm {
    /// Files, or directories with all that is below them.
    pub paths: Vec<PathBuf>,
    /// Files read at once.
    pub jobs: usize,
    /// Show errors only.
    pub quiet: bool,
}

/// Found and not begun; the walk waits when there are more.
const FILES_AHEAD_MAX: usize = 100_000;
/// Errors that are named; the others are counted.
const NAMED_MAX: usize = 100;
const READ_BYTES: usize = 1 << 20;

/// How much of a file is cached, in bytes; of a directory: of the cache is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cached {
    bytes: u64,
    of: u64,
}

impl Cached {
    fn parse(text: &[u8]) -> Option<Cached> {
        let (bytes, of) = std::str::from_utf8(text).ok()?.split_once('/')?;
        Some(Cached { bytes: bytes.parse().ok()?, of: of.parse().ok()? })
    }

    fn is_whole(self) -> bool {
        self.bytes >= self.of
    }
}

/// A mount, as far as warming needs one.
trait Files: Sync {
    fn cached(&self, path: &Path) -> io::Result<Cached>;
    /// Reads all of a file, and tells each piece's bytes.
    fn read(&self, path: &Path, progress: &dyn Fn(u64)) -> io::Result<()>;
}

struct Mounted;

impl Files for Mounted {
    fn cached(&self, path: &Path) -> io::Result<Cached> {
        let text = xattr::get(path, CACHED)?.unwrap_or_default();
        Cached::parse(&text).ok_or_else(|| {
            let text = String::from_utf8_lossy(&text).into_owned();
            io::Error::other(format!("{CACHED} is `{}`: expected CACHED/SIZE", text.escape_debug()))
        })
    }

    fn read(&self, path: &Path, progress: &dyn Fn(u64)) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                read => progress(read as u64),
            }
        }
    }
}

/// Reads what is not cached yet.
///
/// Errors: a path is not on a pailfs mount with a cache; some files are not cached, which stderr has named.
pub fn run(warm: &Warm) -> Result<(), Failure> {
    let mut cache_bytes_max = u64::MAX;
    let mut paths = Vec::new();
    for path in &warm.paths {
        let (path, cache) = on_a_mount_with_a_cache(path)?;
        cache_bytes_max = cache_bytes_max.min(cache.of);
        paths.push(path);
    }
    let tally = Tally::new(Show::choose(warm.quiet));
    fill(&Mounted, &paths, warm.jobs, &tally);
    tally.end(cache_bytes_max)
}

/// The path, absolute, and how full the cache of its mount is.
fn on_a_mount_with_a_cache(path: &Path) -> Result<(PathBuf, Cached), Failure> {
    let shown = path.display();
    let absolute = path.canonicalize().map_err(|e| Failure::new(format_args!("cannot use {shown}: {e}")))?;
    let Some(mount) = mountpoint::ours_holding(&absolute)? else {
        return Err(Failure::new(format_args!(
            "{shown} is not on a pailfs mount; `findmnt -t {FS_TYPE}` lists those there are"
        )));
    };
    match Mounted.cached(&mount.point) {
        Ok(cache) => Ok((absolute, cache)),
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Err(Failure::new(format_args!(
            "the mount on {} has no disk cache to fill; mount it with `--cache DIR`",
            mount.point.display()
        ))),
        Err(e) => Err(Failure::new(format_args!("cannot ask the mount on {}: {e}", mount.point.display()))),
    }
}

/// Walks the paths and reads what is not cached, several files at once.
fn fill(files: &impl Files, paths: &[PathBuf], jobs: usize, tally: &Tally) {
    let (found, queue) = mpsc::sync_channel::<(PathBuf, u64)>(FILES_AHEAD_MAX);
    let queue = Mutex::new(queue);
    let (working, all_done) = mpsc::channel::<()>();
    let work = || {
        loop {
            let next = lock(&queue).recv();
            let Ok((path, size)) = next else { return };
            warm_file(files, &path, size, tally);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let working = working.clone();
            scope.spawn(move || {
                work();
                drop(working);
            });
        }
        drop(working);
        scope.spawn(move || walk(paths, tally, &found)); // the queue ends with the walk
        while let Err(mpsc::RecvTimeoutError::Timeout) = all_done.recv_timeout(LINE_EVERY) {
            tally.line();
        }
    });
}

fn walk(paths: &[PathBuf], tally: &Tally, found: &mpsc::SyncSender<(PathBuf, u64)>) {
    // Another file system below is not the mount's.
    let walks = paths.iter().map(|path| WalkDir::new(path).same_file_system(true));
    for entry in walks.flatten() {
        let entry = entry.and_then(|entry| Ok((entry.metadata()?, entry)));
        match entry {
            Ok((meta, entry)) if meta.is_file() => {
                tally.found(meta.len());
                found.send((entry.into_path(), meta.len())).expect("the queue outlives the walk");
            }
            Ok(_) => {}
            Err(e) => tally.failed(&e),
        }
    }
}

fn warm_file(files: &impl Files, path: &Path, size: u64, tally: &Tally) {
    let left = AtomicU64::new(size);
    let progress = |bytes: u64| {
        // Read again, or grown since it was found: no more than was announced.
        let take = |left: u64| Some(left.saturating_sub(bytes));
        let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or(0);
        tally.read(bytes.min(before));
    };
    match read_until_cached(files, path, &progress) {
        Ok(read) => tally.done(read, left.into_inner()),
        Err(e) => {
            tally.failed(&format_args!("{}: {e}", path.display()));
            tally.done(false, left.into_inner());
        }
    }
}

/// Reads the file as often as that brings more of it into the cache: a block that the disk was too slow for is not
/// cached. False where it was cached before.
fn read_until_cached(files: &impl Files, path: &Path, progress: &dyn Fn(u64)) -> io::Result<bool> {
    let mut before = files.cached(path)?;
    if before.is_whole() {
        return Ok(false);
    }
    loop {
        files.read(path, progress)?;
        let now = files.cached(path)?;
        if now.is_whole() {
            return Ok(true);
        }
        if now.bytes <= before.bytes {
            let Cached { bytes, of } = now;
            return Err(io::Error::other(format!(
                "only {bytes} of {of} bytes are cached: --cache-size is too small for it, or the cache's disk is \
                 full, slow or failing"
            )));
        }
        before = now;
    }
}

/// What was found, read and cached so far.
struct Tally {
    show: Show,
    /// Its length is what is still to be read and what was, in bytes; its message the files.
    bar: ProgressBar,
    begun: Instant,
    files_found: AtomicU64,
    bytes_found: AtomicU64,
    /// Files that are dealt with, one way or the other.
    files_done: AtomicU64,
    files_read: AtomicU64,
    failures: Mutex<Failures>,
}

#[derive(Default)]
struct Failures {
    count: u64,
    /// The first of them.
    named: Vec<String>,
}

impl Tally {
    fn new(show: Show) -> Tally {
        let bar = progress::bar(show);
        Tally {
            show,
            bar,
            begun: Instant::now(),
            files_found: AtomicU64::new(0),
            bytes_found: AtomicU64::new(0),
            files_done: AtomicU64::new(0),
            files_read: AtomicU64::new(0),
            failures: Mutex::default(),
        }
    }

    fn found(&self, bytes: u64) {
        self.files_found.fetch_add(1, Ordering::Relaxed);
        self.bytes_found.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc_length(bytes);
        self.bar.set_message(self.files());
    }

    fn read(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// A file is dealt with; `left` bytes of it were not read and will not be.
    fn done(&self, read: bool, left: u64) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
        self.files_read.fetch_add(read.into(), Ordering::Relaxed);
        self.bar.dec_length(left);
        self.bar.set_message(self.files());
    }

    fn failed(&self, why: &dyn std::fmt::Display) {
        let mut failures = lock(&self.failures);
        failures.count += 1;
        if failures.named.len() < NAMED_MAX {
            failures.named.push(why.to_string());
        }
    }

    fn files(&self) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!("{} of {} files", get(&self.files_done), get(&self.files_found))
    }

    /// Where there is no bar to look at.
    fn line(&self) {
        if self.show == Show::Lines {
            let (read, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            eprintln!("pailfs: {}, {}", self.files(), pace(read, all, self.begun.elapsed()));
        }
    }

    fn end(self, cache_bytes_max: u64) -> Result<(), Failure> {
        let read = self.bar.position();
        self.bar.finish_and_clear(); // which sets it to its end
        let (found, bytes) = (self.files_found.into_inner(), self.bytes_found.into_inner());
        let files_read = self.files_read.into_inner();
        let failures = self.failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.show != Show::Nothing {
            let known = found.saturating_sub(files_read).saturating_sub(failures.count);
            let time = HumanDuration(self.begun.elapsed());
            eprintln!(
                "pailfs: {files_read} files were cached ({} read) in {time}, {known} already before",
                BinaryBytes(read)
            );
        }
        if bytes > cache_bytes_max {
            let (bytes, max) = (BinaryBytes(bytes), BinaryBytes(cache_bytes_max));
            eprintln!(
                "pailfs: these files have {bytes}, and --cache-size is {max}: what was read first is gone again"
            );
        }
        if failures.count == 0 {
            return Ok(());
        }
        failures.named.iter().for_each(|why| eprintln!("pailfs: {why}"));
        let more = failures.count - failures.named.len() as u64;
        let more = if more > 0 { format!(" ({more} more than are named above)") } else { String::new() };
        Err(Failure::new(format_args!("{} of {found} files are not cached{more}", failures.count)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A cache that takes so many bytes of a file at each read.
    #[derive(Default)]
    struct Fake {
        cached: Mutex<HashMap<PathBuf, u64>>,
        takes: u64,
        reads: AtomicU64,
    }

    impl Files for Fake {
        fn cached(&self, path: &Path) -> io::Result<Cached> {
            let of = path.metadata()?.len();
            Ok(Cached { bytes: lock(&self.cached).get(path).copied().unwrap_or(0), of })
        }

        fn read(&self, path: &Path, progress: &dyn Fn(u64)) -> io::Result<()> {
            let size = std::fs::read(path)?.len() as u64;
            if path.ends_with("bad") {
                return Err(io::Error::other("the server said no"));
            }
            self.reads.fetch_add(1, Ordering::Relaxed);
            progress(size);
            let mut cached = lock(&self.cached);
            let cached = cached.entry(path.to_owned()).or_default();
            *cached = size.min(*cached + self.takes);
            Ok(())
        }
    }

    fn tree() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("a/b")).unwrap();
        for (name, len) in [("one", 10), ("a/two", 1000), ("a/b/three", 300), ("a/b/empty", 0)] {
            std::fs::write(home.path().join(name), vec![1; len]).unwrap();
        }
        home
    }

    fn filled(fake: &Fake, path: &Path) -> Tally {
        let tally = Tally::new(Show::Nothing);
        fill(fake, &[path.to_owned()], 3, &tally);
        tally
    }

    #[test]
    fn every_file_is_read_once_and_a_second_run_reads_nothing() {
        let (home, fake) = (tree(), Fake { takes: 1000, ..Fake::default() });
        let tally = filled(&fake, home.path());
        assert_eq!(tally.files(), "4 of 4 files");
        assert_eq!((tally.bar.position(), tally.bar.length()), (1310, Some(1310)));
        assert_eq!(fake.reads.load(Ordering::Relaxed), 3, "nothing of an empty file is missing");
        tally.end(u64::MAX).unwrap();
        let again = filled(&fake, home.path());
        assert_eq!(fake.reads.load(Ordering::Relaxed), 3);
        assert_eq!((again.files().as_str(), again.bar.length()), ("4 of 4 files", Some(0)));
        std::fs::write(home.path().join("a/new"), "new").unwrap();
        filled(&fake, &home.path().join("a")).end(u64::MAX).unwrap();
        assert_eq!(fake.reads.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_file_is_read_as_often_as_that_helps() {
        let (home, fake) = (tree(), Fake { takes: 400, ..Fake::default() });
        let tally = filled(&fake, home.path());
        assert_eq!(fake.reads.load(Ordering::Relaxed), 1 + 3 + 1);
        assert_eq!(tally.bar.position(), 1310, "what is read again is no progress");
        tally.end(u64::MAX).unwrap();
        let stuck = Fake::default();
        let e = filled(&stuck, &home.path().join("one")).end(u64::MAX).unwrap_err();
        assert!(e.to_string().contains("1 of 1 files"), "{e}");
        assert_eq!(stuck.reads.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn errors_are_named_and_do_not_stop_the_others() {
        let (home, fake) = (tree(), Fake { takes: 1000, ..Fake::default() });
        std::fs::write(home.path().join("a/bad"), "bytes").unwrap();
        let tally = filled(&fake, home.path());
        assert_eq!(fake.reads.load(Ordering::Relaxed), 3);
        let named = lock(&tally.failures).named.clone();
        assert_eq!(named, [format!("{}: the server said no", home.path().join("a/bad").display())]);
        assert_eq!(tally.end(u64::MAX).unwrap_err().to_string(), "1 of 5 files are not cached");
        let gone = filled(&fake, &home.path().join("gone"));
        assert!(gone.end(u64::MAX).is_err());
        let many = Tally::new(Show::Nothing);
        (0..NAMED_MAX + 7).for_each(|n| many.failed(&n));
        assert_eq!(lock(&many.failures).named.len(), NAMED_MAX);
        assert!(many.end(u64::MAX).unwrap_err().to_string().contains("(7 more than"));
    }

    #[test]
    fn what_the_mount_says() {
        assert_eq!(Cached::parse(b"5/12"), Some(Cached { bytes: 5, of: 12 }));
        for wrong in [&b""[..], b"5", b"5/", b"/5", b"a/b", b"-1/5", b"\xff/1"] {
            assert_eq!(Cached::parse(wrong), None, "{wrong:?}");
        }
    }
}
