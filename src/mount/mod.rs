//! The order of a mount: check, fork, connect, probe, mount, prove, serve, leave.
//!
//! Owns: [`Plan`] and [`run`].
//! Invariants: nothing is mounted before the bucket has answered; success is told only after the mount
//! has; whatever ends the mount, commits under way are waited for before the process ends.
//! Must never know: clap, environment variables, how FUSE or S3 requests look.

mod check;
mod explain;
mod signals;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tracing::level_filters::LevelFilter;

use crate::cache::disk::DiskCache;
use crate::config::Config;
use crate::daemon::{self, Ready, Role};
use crate::error::Error;
use crate::failure::Failure;
use crate::fs::Filesystem;
use crate::fuse::FuseMount;
use crate::journal::Journal;
use crate::key::past;
use crate::logging::{self, Log, Target};
use crate::mountpoint;
use crate::recover;
use crate::runtime;
use crate::s3::S3Client;

use signals::Signals;

/// A mount, resolved: all that was asked for, nothing left to look up.
#[derive(Debug, Clone)]
pub struct Plan {
    pub config: Config,
    /// As typed; made absolute by [`run`].
    pub dir: PathBuf,
    pub foreground: bool,
    /// None: stderr in the foreground, else a file of this user's, named after bucket and directory.
    pub log_file: Option<PathBuf>,
    /// `$XDG_STATE_HOME` or its default, where a user's daemon logs; none for root.
    pub state_home: Option<PathBuf>,
    pub log_level: LevelFilter,
    /// Check what can be checked without a mount, and stop (`mount -f`).
    pub fake: bool,
}

impl Plan {
    /// [`Config::source`].
    pub fn source(&self) -> String {
        self.config.source()
    }

    fn log_target(&self) -> Target {
        match (&self.log_file, self.foreground) {
            (Some(path), _) => Target::File(path.clone()),
            (None, true) => Target::Stderr,
            (None, false) => Target::File(logging::default_path(
                self.state_home.as_deref(),
                &self.config.s3.bucket,
                &self.dir,
            )),
        }
    }
}

/// Mounts. In the foreground this returns when the mount has ended; else the calling process returns
/// as soon as the mount answers, and the daemon (which returns too, much later) when it has ended.
pub fn run(mut plan: Plan) -> Result<(), Failure> {
    plan.dir = check::directory(&plan.dir)?;
    if !plan.config.read_only {
        check::beside("--staging", &plan.config.staging.dir, &plan.dir)?;
    }
    if let Some(cache) = &plan.config.disk_cache {
        check::beside("--cache", &cache.dir, &plan.dir)?;
    }
    check::fuse_usable(plan.config.allow_other)?;
    if plan.fake {
        return Ok(());
    }
    let target = plan.log_target();
    let log = Log::open(&target)?;
    let mut ready = if plan.foreground {
        Ready::foreground()
    } else {
        match daemon::fork()? {
            Role::Parent(waiter) => {
                let said = waiter.wait(&target.to_string())?;
                said.iter().for_each(|line| eprintln!("pailfs: {line}"));
                if let Some(moment) = plan.config.as_of {
                    eprintln!("pailfs: {} as it was at {}, read-only", plan.source(), past::moment(moment));
                }
                return Ok(());
            }
            Role::Child(ready) => ready,
        }
    };
    logging::init(&log, plan.log_level);
    let served = serve(&plan, &mut ready, &log);
    if let Err(failure) = &served {
        if !plan.foreground || plan.log_file.is_some() {
            tracing::error!("{failure}");
        }
        ready.fail(failure);
    }
    served
}

/// How long tasks may go on once the mount is gone and everything is flushed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Threads start here, after the fork.
fn serve(plan: &Plan, ready: &mut Ready, log: &Log) -> Result<(), Failure> {
    let runtime = runtime::start()?;
    let served = serve_on(&runtime, plan, ready, log);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    served
}

fn serve_on(runtime: &Runtime, plan: &Plan, ready: &mut Ready, log: &Log) -> Result<(), Failure> {
    // Before the mount: a signal that kills by default would leave a dead mount behind.
    let mut signals = {
        let _context = runtime.enter();
        Signals::listen()?
    };
    let fs = runtime.block_on(async {
        tokio::select! {
            prepared = prepare(plan, runtime.handle().clone()) => prepared,
            () = signals.terminate() => Err(Failure::new("interrupted before anything was mounted")),
        }
    })?;
    let mount = FuseMount::start(fs.clone(), &plan.dir, runtime.handle().clone())
        .map_err(|e| Failure::new(format_args!("cannot mount on {}: {e}", plan.dir.display())))?;
    mountpoint::raise_read_ahead(&plan.dir);
    // Now that what was acknowledged is sent, or is kept as well.
    let kept = kept(&plan.config);
    kept.iter().for_each(|kept| tracing::warn!("{kept}"));
    if let Err(failure) = settle(plan, ready, &kept) {
        if let Err(e) = mountpoint::detach(&plan.dir) {
            tracing::error!("cannot unmount {} again: {e}", plan.dir.display());
        }
        return Err(failure);
    }
    let then =
        plan.config.as_of.map_or(String::new(), |then| format!(" as it was at {}", past::moment(then)));
    tracing::info!("{}{then} is mounted on {}", plan.source(), plan.dir.display());
    let leaving = signals::Leaving::new(plan, fs.clone(), log.clone());
    runtime.spawn(leaving.watch(signals));
    let ended = mount.join();
    // A file closed just before the unmount may still be on its way.
    fs.leave();
    for path in runtime.block_on(fs.flush_all()) {
        tracing::error!(path, "the mount ended while this file was open for writing");
    }
    if let waiting @ 1.. = fs.acknowledged() {
        tracing::error!(
            "{waiting} files and directories that were acknowledged wait for the next mount to send them"
        );
    }
    ended.map_err(|e| Failure::new(format_args!("the FUSE session failed: {e}")))?;
    tracing::info!("{} is unmounted", plan.dir.display());
    Ok(())
}

/// Everything that can fail without a mount.
async fn prepare(plan: &Plan, handle: tokio::runtime::Handle) -> Result<Arc<Filesystem>, Failure> {
    let config = &plan.config;
    let refused = |e: Error| explain::explain(&e, &config.s3);
    let client = S3Client::connect(&config.s3).await.map_err(|e| refused(e.into()))?;
    let disk = open_disk_cache(config)?;
    let fs = Filesystem::new(config.clone(), client, disk, Arc::new(journal(config)), handle);
    fs.probe().await.map_err(refused)?;
    if !config.read_only {
        fs.take_over().await.map_err(Failure::new)?;
    }
    Ok(fs)
}

fn journal(config: &Config) -> Journal {
    Journal::new(&config.staging.dir, config.s3.endpoint_url.as_deref(), &config.s3.bucket)
}

/// What is to be said of files that wait for `pailfs recover`, a line a bucket.
fn kept(config: &Config) -> Vec<String> {
    let (staging, endpoint) = (&config.staging.dir, config.s3.endpoint_url.as_deref());
    let buckets = match config.s3.bucket.as_str() {
        "" => Journal::buckets(staging, endpoint),
        bucket => Ok(vec![bucket.to_owned()]),
    };
    let notice = |bucket: String| recover::notice(&Journal::new(staging, endpoint, &bucket), &bucket);
    buckets.map_or_else(|e| vec![e.to_string()], |buckets| buckets.into_iter().flat_map(notice).collect())
}

fn open_disk_cache(config: &Config) -> Result<Option<Arc<DiskCache>>, Failure> {
    let Some(cache) = &config.disk_cache else { return Ok(None) };
    let disk = DiskCache::open(cache, config.s3.endpoint_url.as_deref(), &config.s3.bucket);
    Ok(Some(Arc::new(disk.map_err(Failure::new)?)))
}

/// The mount is made: finish it, prove it, tell it.
fn settle(plan: &Plan, ready: &mut Ready, said: &[String]) -> Result<(), Failure> {
    check::answers(&plan.dir)?;
    ready
        .announce(said)
        .map_err(|_| Failure::new("the command that asked for this mount is gone; the mount was undone"))
}
