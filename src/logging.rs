//! The log: where it goes, who may read it, what gets in.
//!
//! Owns: [`Target`] (where), [`init`], and reopening the file after a rotation.
//! Invariants: a log file is 0600; a line is written with one `write`, so that lines of two daemons
//! never mix; other crates log warnings and errors only, because their debug output shows headers
//! and with them secrets. Must never know: what is logged.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::Failure;

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Stderr,
    File(PathBuf),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Stderr => f.write_str("stderr"),
            Target::File(path) => path.display().fmt(f),
        }
    }
}

/// A daemon's log unless `--log-file` says otherwise: one file a bucket and directory, the same after a
/// remount; all buckets are called `s3`, which no bucket is. `state_home` is `$XDG_STATE_HOME` or `~/.local/state`; none for root.
pub fn default_path(state_home: Option<&Path>, bucket: &str, dir: &Path) -> PathBuf {
    let folder = match state_home {
        Some(home) => home.join("pailfs"),
        None => PathBuf::from("/var/log/pailfs"),
    };
    let dir = dir.to_string_lossy();
    let place: String = dir
        .trim_matches('/')
        .chars()
        .map(|c| match c {
            '/' => '-',
            c if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') => c,
            _ => '_',
        })
        .collect();
    // A file name holds 255 bytes; the end of a path tells more than its start.
    let mut start = place.len().saturating_sub(180);
    while !place.is_char_boundary(start) {
        start += 1;
    }
    let bucket = if bucket.is_empty() { "s3" } else { bucket };
    folder.join(format!("{bucket}-{}.log", &place[start..]))
}

/// An open log.
#[derive(Clone)]
pub struct Log(Arc<Sink>);

enum Sink {
    Stderr,
    File { path: PathBuf, file: RwLock<File> },
}

impl Log {
    /// Opens the target, making its last folder where it is missing.
    pub fn open(target: &Target) -> Result<Log, Failure> {
        let sink = match target {
            Target::Stderr => Sink::Stderr,
            Target::File(path) => {
                let file = open_file(path).map_err(|e| {
                    Failure::new(format_args!(
                        "cannot write the log file {}: {e}; choose another with --log-file",
                        path.display()
                    ))
                })?;
                Sink::File { path: path.clone(), file: RwLock::new(file) }
            }
        };
        Ok(Log(Arc::new(sink)))
    }

    /// After a rotation: the path names a new file. On failure the old file stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        if let Sink::File { path, file } = &*self.0 {
            let fresh = open_file(path)?;
            *file.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        Ok(())
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// One line on its way out.
pub struct Line<'a>(&'a Sink);

impl Write for Line<'_> {
    /// Takes a whole event. What libraries and servers say may hold line ends; a log line may not.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let text = buf.strip_suffix(b"\n").unwrap_or(buf);
        let mut line: Vec<u8> =
            text.iter().map(|&b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }).collect();
        line.push(b'\n');
        match self.0 {
            Sink::Stderr => io::stderr().lock().write_all(&line)?,
            Sink::File { file, .. } => {
                let file = file.read().unwrap_or_else(PoisonError::into_inner);
                (&*file).write_all(&line)?;
            }
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// Starts logging; panics are logged too, because a daemon's stderr is /dev/null.
pub fn init(log: &Log, level: LevelFilter) {
    let colours = matches!(*log.0, Sink::Stderr) && io::stderr().is_terminal();
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("pailfs", level)
        // It warns of each operation that a file system leaves to the kernel.
        .with_target("fuser", level.min(LevelFilter::ERROR));
    let format = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(log.clone());
    let started = tracing_subscriber::registry().with(filter).with(format).try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    let to_stderr = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tracing::error!("panic: {info}");
        to_stderr(info);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_default_log_is_named_after_bucket_and_directory() {
        let home = Path::new("/home/a/.local/state");
        assert_eq!(
            default_path(None, "data", Path::new("/mnt/my data/x")),
            Path::new("/var/log/pailfs/data-mnt-my_data-x.log")
        );
        assert_eq!(
            default_path(Some(home), "data", Path::new("/mnt")),
            Path::new("/home/a/.local/state/pailfs/data-mnt.log")
        );
        let long = format!("/{}", "é".repeat(500));
        let name = default_path(None, &"b".repeat(63), Path::new(&long));
        assert!(name.file_name().unwrap().len() <= 255);
    }

    #[test]
    fn a_log_file_is_private_and_survives_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/pailfs.log");
        let log = Log::open(&Target::File(path.clone())).unwrap();
        log.make_writer().write_all(b"one\n").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let rotated = dir.path().join("new/pailfs.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        log.reopen().unwrap();
        log.make_writer().write_all(b"two\nlines\n").unwrap();
        assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two lines\n");
    }

    #[test]
    fn a_log_file_that_cannot_be_written_says_what_to_do() {
        let Err(failure) = Log::open(&Target::File("/proc/none/x.log".into())) else {
            panic!("opened a log below /proc");
        };
        assert!(failure.to_string().contains("--log-file"), "{failure}");
    }
}
