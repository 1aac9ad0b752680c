//! Leaving on a signal: flush, unmount, or say what stands in the way.
//!
//! Owns: [`Signals`] and [`Leaving`].
//! SIGTERM and SIGINT flush and unmount. If the mount is busy it stays, and the log says who keeps it;
//! the next signal tries again and, if it is still busy (or the first try has not ended), detaches the
//! mount and ends the process with status 1. SIGHUP reopens the log file (after a rotation); in the
//! foreground on a terminal there is none to reopen, the terminal is gone: it is a SIGTERM.
//! Invariant: only a mount of this process is taken away, never one made over it since.
//! Must never know: S3, FUSE.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;
use crate::fs::Filesystem;
use crate::logging::Log;
use crate::mountpoint::{self, UnmountError};

use super::Plan;

/// The signals a mount answers, caught from the moment this exists.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

enum Wish {
    Leave,
    HangUp,
}

impl Signals {
    /// Within the runtime's context.
    pub(super) fn listen() -> Result<Signals, Failure> {
        let on = |kind| signal(kind).map_err(|e| Failure::new(format_args!("cannot catch signals: {e}")));
        Ok(Signals {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
            hup: on(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next SIGTERM or SIGINT.
    pub(super) async fn terminate(&mut self) {
        tokio::select! {
            _ = self.term.recv() => (),
            _ = self.int.recv() => (),
        }
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.term.recv() => Wish::Leave,
            _ = self.int.recv() => Wish::Leave,
            _ = self.hup.recv() => Wish::HangUp,
        }
    }
}

/// How an attempt to leave ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Unmounted,
    /// The mount is not in the tree any more; files on it may still be open.
    Detached {
        open: Vec<String>,
    },
    Busy {
        open: Vec<String>,
    },
    Failed(String),
}

pub(super) struct Leaving {
    fs: Arc<Filesystem>,
    dir: PathBuf,
    /// The device of our mount; none where the table could not be read.
    device: Option<String>,
    log: Log,
    hangup_is_leave: bool,
    request_timeout: Duration,
}

impl Leaving {
    /// Just after the mount was made.
    pub(super) fn new(plan: &Plan, fs: Arc<Filesystem>, log: Log) -> Leaving {
        let mounted = mountpoint::at(&plan.dir).ok().flatten();
        Leaving {
            fs,
            dir: plan.dir.clone(),
            device: mounted.map(|m| m.device),
            log,
            hangup_is_leave: plan.foreground && plan.log_file.is_none(),
            request_timeout: plan.config.s3.request_timeout,
        }
    }

    /// Runs until the mount is gone.
    pub(super) async fn watch(self, mut signals: Signals) {
        let mut tried = false;
        loop {
            match signals.next().await {
                Wish::HangUp if !self.hangup_is_leave => self.reopen_log(),
                Wish::HangUp | Wish::Leave => {
                    tracing::info!("asked to end: flushing, then unmounting {}", self.shown());
                    let outcome = tokio::select! {
                        outcome = self.try_to_leave() => outcome,
                        () = signals.terminate() => return self.give_up().await,
                    };
                    match self.report(outcome, tried) {
                        Next::End => return,
                        Next::Stay if tried => return self.give_up().await,
                        Next::Stay => tried = true,
                    }
                }
            }
        }
    }

    async fn try_to_leave(&self) -> Outcome {
        let open = self.fs.flush_all().await;
        let (dir, device) = (self.dir.clone(), self.device.clone());
        // On a thread of its own: the kernel may ask us, while it unmounts, for what is not flushed.
        let done = tokio::task::spawn_blocking(move || take_away(&dir, device.as_deref(), open));
        done.await.unwrap_or_else(|e| Outcome::Failed(e.to_string()))
    }

    /// Says how it went, and whether this task is needed any longer.
    fn report(&self, outcome: Outcome, last: bool) -> Next {
        match outcome {
            Outcome::Unmounted => Next::End,
            Outcome::Detached { open } if open.is_empty() => {
                tracing::info!("the mount was detached before and everything is flushed: ending");
                std::process::exit(0)
            }
            Outcome::Detached { open } | Outcome::Busy { open } => {
                let next = if last {
                    "detaching it, as asked twice"
                } else {
                    "it stays mounted; the next signal detaches it if it still is"
                };
                let holders = mountpoint::holders_phrase(&self.dir);
                tracing::warn!(open_for_writing = ?open, "{} is busy{holders}; {next}", self.shown());
                Next::Stay
            }
            Outcome::Failed(why) => {
                tracing::error!("cannot unmount {}: {why}", self.shown());
                Next::Stay
            }
        }
    }

    /// Asked twice: what is being published is waited for; files that are still being written are named,
    /// for half of a file is not published.
    async fn give_up(&self) {
        let flushed = tokio::time::timeout(self.request_timeout, async {
            let lost = self.fs.flush_all().await;
            self.fs.abandon_all().await;
            lost
        });
        let lost = flushed.await.unwrap_or_else(|_| vec!["(the flush did not end in time)".into()]);
        if is_ours(&self.dir, self.device.as_deref())
            && let Err(e) = mountpoint::detach(&self.dir)
        {
            tracing::error!("cannot detach {}: {e}", self.shown());
        }
        tracing::error!(open_for_writing = ?lost, "detached {} while busy", self.shown());
        std::process::exit(1)
    }

    fn reopen_log(&self) {
        if let Err(e) = self.log.reopen() {
            tracing::warn!("cannot reopen the log file: {e}; going on with the old one");
        }
    }

    fn shown(&self) -> std::path::Display<'_> {
        self.dir.display()
    }
}

enum Next {
    End,
    Stay,
}

fn take_away(dir: &Path, device: Option<&str>, open: Vec<String>) -> Outcome {
    if !is_ours(dir, device) {
        return Outcome::Detached { open };
    }
    match mountpoint::unmount(dir) {
        Ok(()) => Outcome::Unmounted,
        Err(UnmountError::Busy) => Outcome::Busy { open },
        Err(UnmountError::Other(why)) => Outcome::Failed(why),
    }
}

/// Somebody may have detached our mount, and even made another one in its place.
fn is_ours(dir: &Path, device: Option<&str>) -> bool {
    match (mountpoint::at(dir), device) {
        (Ok(Some(mount)), Some(device)) => mount.device == device,
        (Ok(None), _) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_is_not_ours_is_left_alone() {
        assert!(!is_ours(Path::new("/no/such/mount"), Some("0:1")));
        let root = mountpoint::at(Path::new("/")).unwrap().unwrap();
        assert!(is_ours(Path::new("/"), Some(&root.device)));
        assert!(!is_ours(Path::new("/"), Some("999:999")));
        let outcome = take_away(Path::new("/no/such/mount"), Some("0:1"), vec!["a".into()]);
        let open = vec!["a".into()];
        assert_eq!(outcome, Outcome::Detached { open });
    }
}
