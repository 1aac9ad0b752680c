//! `pailfs s3 cp`: files become objects, objects files, or other objects; several at a time, each in pieces side by side.
//!
//! Owns: [`Transfer`] and [`run`]: which files and keys there are, how many at a time, what becomes of failures.
//! Invariants: one that fails does not stop the others, and is named; all bytes held are covered by one budget; a key
//! never leads out of the directory it is copied to.
//! Must never know: clap, mounts.

mod across;
mod download;
mod tally;
mod upload;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use walkdir::WalkDir;

use crate::cache::Budget;
use crate::config::S3Config;
use crate::error::Error;
use crate::failure::Failure;
use crate::journal::Journal;
use crate::key::{check_name, content_type_of};
use crate::progress::{LINE_EVERY, Show};
use crate::runtime;
use crate::s3::{ListObjectsV2, ObjectHeaders, S3Client};
use crate::write::plan::Ladder;
use crate::write::upload::Uploads;
use tally::Tally;

/// What to copy, and how.
#[derive(Debug, Clone)]
pub struct Transfer {
    pub config: S3Config,
    /// Where it is noted which uploads are under way: those of a killed process are aborted by the bucket's next mount.
    pub staging_dir: PathBuf,
    pub way: Way,
    /// All that is below, too.
    pub recursive: bool,
    /// Files at a time.
    pub jobs: usize,
    /// Cap on the bytes held, in bytes.
    pub memory_bytes_max: u64,
    /// First parts of an upload, in bytes.
    pub part_bytes: u64,
    /// Of new objects; without a type it is by the name's extension.
    pub headers: ObjectHeaders,
    pub quiet: bool,
}

#[derive(Debug, Clone)]
pub enum Way {
    /// Recursive: `key` is a prefix that ends in `/`, or is empty.
    Up {
        file: PathBuf,
        key: String,
    },
    Down {
        key: String,
        file: PathBuf,
    },
    /// From another bucket, or within one, on the server's side. Recursive: both are prefixes.
    Across {
        bucket: String,
        from: String,
        key: String,
    },
}

/// One file to copy. The walk waits when there are more.
enum Job {
    Up { file: PathBuf, key: String },
    Down { key: String, file: PathBuf },
    Across { from: String, key: String },
}

impl Job {
    async fn run(&self, shared: &Arc<Shared>) -> Result<(), Error> {
        match self {
            Job::Up { file, key } => upload::upload(shared, file, key).await,
            Job::Down { key, file } => shared.unless_stopped(download::download(shared, key, file)).await,
            Job::Across { from, key } => across::copy(shared, &shared.source, from, key).await,
        }
    }

    /// How a person knows it.
    fn name(&self) -> String {
        match self {
            Job::Up { file, .. } | Job::Down { file, .. } => file.display().to_string(),
            Job::Across { key, .. } => key.escape_debug().to_string(),
        }
    }
}

const JOBS_AHEAD_MAX: usize = 1000;
/// How long the end waits for threads that read or write a file.
const THREADS_WAIT_MAX: Duration = Duration::from_secs(1);
/// Ranges of all files under way at once.
const PIECES_MAX: usize = 32;

/// What all jobs share.
struct Shared {
    client: S3Client,
    /// Of the bucket that objects come from.
    source: S3Client,
    uploads: Uploads,
    budget: Budget,
    pieces: Arc<Semaphore>,
    ladder: Ladder,
    headers: ObjectHeaders,
    tally: Tally,
    /// Interrupted: what is under way is given up.
    stop: watch::Sender<bool>,
}

impl Shared {
    /// Runs until it is done, or all is interrupted: then it is dropped where it waits.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut stop = self.stop.subscribe();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Err(Error::Io("interrupted".to_string())),
            done = work => done,
        }
    }

    fn headers_of(&self, key: &str) -> ObjectHeaders {
        let mut headers = self.headers.clone();
        headers.content_type = headers.content_type.or_else(|| content_type_of(key));
        headers
    }
}

/// Why not all is copied.
#[derive(Debug)]
pub struct Unfinished {
    pub failure: Failure,
    /// It was interrupted by this one.
    pub signal: Option<u8>,
}

impl From<Failure> for Unfinished {
    fn from(failure: Failure) -> Unfinished {
        Unfinished { failure, signal: None }
    }
}

/// Copies.
///
/// Errors: what failed, which stderr has named where there was more than one file.
pub fn run(transfer: Transfer) -> Result<(), Unfinished> {
    let runtime = runtime::start()?;
    let done = runtime.block_on(copy(transfer));
    // A file system that does not answer would have the program wait for ever: two interruptions end it.
    runtime.shutdown_timeout(THREADS_WAIT_MAX);
    done
}

/// SIGINT and SIGTERM.
struct Interruptions {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruptions {
    fn listen() -> Result<Interruptions, Failure> {
        let listen =
            |kind| signal(kind).map_err(|e| Failure::new(format_args!("cannot listen for signals: {e}")));
        Ok(Interruptions {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Its number.
    async fn next(&mut self) -> u8 {
        const SIGINT: u8 = 2;
        const SIGTERM: u8 = 15;
        tokio::select! {
            _ = self.interrupt.recv() => SIGINT,
            _ = self.terminate.recv() => SIGTERM,
        }
    }
}

async fn copy(transfer: Transfer) -> Result<(), Unfinished> {
    let mut interruptions = Interruptions::listen()?;
    let client = S3Client::connect(&transfer.config).await.map_err(Failure::new)?;
    let source = match &transfer.way {
        Way::Across { bucket, .. } => client.beside(bucket).map_err(Failure::new)?,
        Way::Up { .. } | Way::Down { .. } => client.clone(),
    };
    let shared = Arc::new(Shared {
        source,
        uploads: uploads(client.clone(), &transfer.staging_dir, &transfer.config),
        client,
        budget: Budget::new(transfer.memory_bytes_max),
        pieces: Arc::new(Semaphore::new(PIECES_MAX)),
        ladder: Ladder::new(transfer.part_bytes, transfer.memory_bytes_max),
        headers: transfer.headers.clone(),
        tally: Tally::new(Show::choose(transfer.quiet)),
        stop: watch::Sender::new(false),
    });
    let (found, queue) = mpsc::channel(JOBS_AHEAD_MAX);
    let finding = tokio::spawn(find(shared.clone(), transfer.way, transfer.recursive, found));
    let mut working = std::pin::pin!(work(shared.clone(), queue, transfer.jobs));
    let mut interrupted = None;
    let mut line = tokio::time::interval_at(tokio::time::Instant::now() + LINE_EVERY, LINE_EVERY);
    loop {
        tokio::select! {
            () = &mut working => break,
            _ = line.tick() => shared.tally.line(),
            by = interruptions.next() => {
                if interrupted.replace(by).is_some() {
                    let why = "interrupted twice: an upload may be left behind, see `pailfs s3 uploads`";
                    return Err(Unfinished { failure: Failure::new(why), signal: interrupted });
                }
                shared.stop.send_replace(true);
                finding.abort();
            }
        }
    }
    if let Some(signal) = interrupted {
        return Err(Unfinished { failure: shared.tally.interrupted(), signal: Some(signal) });
    }
    let found = finding.await.map_err(|e| Failure::new(format_args!("looking for files: {e}")))?;
    if let Err(e) = found {
        shared.tally.failed(&e);
    }
    Ok(shared.tally.end()?)
}

/// What uploads are carried out with outside of a mount.
pub fn uploads(client: S3Client, staging_dir: &Path, config: &S3Config) -> Uploads {
    let journal = Journal::new(staging_dir, config.endpoint_url.as_deref(), &config.bucket);
    Uploads { client, runtime: Handle::current(), journal: Arc::new(journal) }
}

async fn work(shared: Arc<Shared>, mut queue: mpsc::Receiver<Job>, jobs: usize) {
    let mut under_way = JoinSet::new();
    while let Some(job) = queue.recv().await {
        if *shared.stop.borrow() {
            break;
        }
        while under_way.len() >= jobs && finish_one(&mut under_way, &shared.tally).await {}
        let shared = shared.clone();
        under_way.spawn(async move {
            match job.run(&shared).await {
                Ok(()) => shared.tally.done(),
                Err(e) => shared.tally.failed(&format_args!("{}: {e}", job.name())),
            }
        });
    }
    while finish_one(&mut under_way, &shared.tally).await {}
}

/// False: none is under way. A job tells its end itself, unless it panics.
async fn finish_one(under_way: &mut JoinSet<()>, tally: &Tally) -> bool {
    let Some(ended) = under_way.join_next().await else { return false };
    if let Err(e) = ended {
        tally.failed(&e);
    }
    true
}

/// Names what is to be copied. Errors: the walk itself came to an end.
async fn find(shared: Arc<Shared>, way: Way, recursive: bool, found: mpsc::Sender<Job>) -> Result<(), Error> {
    match way {
        Way::Up { file, key } if recursive => {
            let walk = move || find_files(&shared, &file, &key, &found);
            tokio::task::spawn_blocking(walk).await.map_err(|e| Error::Io(e.to_string()))?
        }
        Way::Down { key: prefix, file: dir } if recursive => {
            let job = |key: String| {
                let Some(file) = path_of(&dir, &prefix, &key) else {
                    return Err(Error::Io(format!("no path leads to the key {key:?}")));
                };
                match key.ends_with('/') {
                    true => make_dir(&file).map(|()| None),
                    false => Ok(Some(Job::Down { key, file })),
                }
            };
            find_objects(&shared, &prefix, job, &found).await
        }
        Way::Across { from: prefix, key: to, .. } if recursive => {
            let job = |from: String| {
                let key = format!("{to}{}", from.strip_prefix(&prefix).unwrap_or(&from));
                Ok(Some(Job::Across { from, key }))
            };
            find_objects(&shared, &prefix, job, &found).await
        }
        Way::Up { file, key } => send_one(Job::Up { file, key }, &found).await,
        Way::Down { key, file } => send_one(Job::Down { key, file }, &found).await,
        Way::Across { from, key, .. } => send_one(Job::Across { from, key }, &found).await,
    }
}

async fn send_one(job: Job, found: &mpsc::Sender<Job>) -> Result<(), Error> {
    // The queue ends early only after an interruption, which is told there.
    let _ = found.send(job).await;
    Ok(())
}

/// Errors: `dir`, or what it leads to, is no directory: no key is left for a file that is the tree itself.
fn find_files(shared: &Shared, dir: &Path, prefix: &str, found: &mpsc::Sender<Job>) -> Result<(), Error> {
    let there = dir.metadata().map_err(|e| Error::Io(format!("{}: {e}", dir.display())))?;
    if !there.is_dir() {
        let dir = dir.display();
        return Err(Error::Io(format!("{dir}: is not a directory (a file goes without --recursive)")));
    }
    for entry in WalkDir::new(dir).min_depth(1).sort_by_file_name() {
        let entry = match entry {
            Ok(entry) if entry.file_type().is_dir() => continue,
            Ok(entry) if entry.file_type().is_file() || entry.path_is_symlink() => entry,
            Ok(entry) => {
                let path = entry.path().display();
                shared.tally.failed(&format_args!("{path}: is neither a file nor a link to one"));
                continue;
            }
            Err(e) => {
                shared.tally.failed(&e);
                continue;
            }
        };
        let below = entry.path().strip_prefix(dir).ok().and_then(Path::to_str);
        let Some(below) = below else {
            shared.tally.failed(&format_args!("{}: its name is not UTF-8", entry.path().display()));
            continue;
        };
        let job = Job::Up { key: format!("{prefix}{below}"), file: entry.path().to_path_buf() };
        if found.blocking_send(job).is_err() {
            break; // interrupted
        }
    }
    Ok(())
}

/// `job`: what is to be done about a key, if anything; one that cannot be copied is told, and the others are.
async fn find_objects(
    shared: &Shared,
    prefix: &str,
    job: impl Fn(String) -> Result<Option<Job>, Error>,
    found: &mpsc::Sender<Job>,
) -> Result<(), Error> {
    let mut query = ListObjectsV2 { prefix: prefix.to_string(), ..ListObjectsV2::default() };
    let mut any = false;
    loop {
        let page = shared.source.list_objects_v2(&query).await?;
        any |= page.has_keys();
        if page.undecodable > 0 {
            let (count, bucket) = (page.undecodable, shared.source.bucket());
            shared
                .tally
                .failed(&format_args!("keys below s3://{bucket}/{prefix} that are not UTF-8: {count}"));
        }
        for object in page.contents {
            match job(object.key) {
                Ok(None) => {}
                Ok(Some(job)) => {
                    if found.send(job).await.is_err() {
                        return Ok(()); // interrupted
                    }
                }
                Err(e) => shared.tally.failed(&e),
            }
        }
        query.continuation_token = page.next_continuation_token;
        if query.continuation_token.is_none() {
            break;
        }
    }
    match any {
        true => Ok(()),
        false => Err(Error::Io(format!("there is nothing below s3://{}/{prefix}", shared.source.bucket()))),
    }
}

/// None: a part of the key is no name, so that it could lead elsewhere.
fn path_of(dir: &Path, prefix: &str, key: &str) -> Option<PathBuf> {
    let below = key.strip_prefix(prefix)?;
    let below = below.strip_suffix('/').unwrap_or(below);
    if below.is_empty() {
        return key.ends_with('/').then(|| dir.to_path_buf());
    }
    let names = below.split('/').map(|name| check_name(name.as_bytes()));
    names.collect::<Result<PathBuf, Error>>().ok().map(|names| dir.join(names))
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|e| Error::Io(format!("cannot make {}: {e}", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_below_the_directory() {
        let path = |key| path_of(Path::new("/d"), "p/", key);
        assert_eq!(path("p/a/b"), Some(PathBuf::from("/d/a/b")));
        assert_eq!(path("p/a/"), Some(PathBuf::from("/d/a")));
        assert_eq!(path("p/"), Some(PathBuf::from("/d")));
        for key in ["p/../x", "p/a//b", "p//etc/passwd", "p/.", "p/a/../../x", "p/a\0", "q/a"] {
            assert_eq!(path(key), None, "{key:?}");
        }
    }

    #[tokio::test]
    async fn a_job_that_panics_has_failed() {
        let (tally, mut under_way) = (Tally::new(Show::Nothing), JoinSet::new());
        under_way.spawn(async {});
        under_way.spawn(async { panic!("of a job") });
        while finish_one(&mut under_way, &tally).await {}
        let why = tally.end().unwrap_err().to_string();
        assert!(why.contains("of a job"), "{why}");
    }
}
