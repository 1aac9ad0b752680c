//! Whether a program that waits for an answer should have one at once, as /proc tells.
//!
//! Owns: [`Caller`]. The kernel says by FUSE_INTERRUPT that a waiting program was signalled, which the FUSE library does
//! not pass on; and until it is answered such a program cannot even be killed.
//! Invariant: of whom nothing can be seen nothing is said.
//! Must never know: handles, S3.

use std::fs;
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// A thread that waits.
pub(super) struct Caller {
    tid: u32,
}

impl Caller {
    /// None: it cannot be seen, so that nothing would follow from its being away.
    pub fn of(tid: u32) -> Option<Caller> {
        fs::metadata(format!("/proc/{tid}/status")).is_ok().then_some(Caller { tid })
    }

    /// Answers when the thread has a signal that it neither blocks nor ignores, or is gone.
    pub async fn is_signalled(&self) {
        loop {
            tokio::time::sleep(PAUSE).await;
            // A file of the kernel's memory: it is read without waiting.
            let status = fs::read_to_string(format!("/proc/{}/status", self.tid)).unwrap_or_default();
            if has_signal(&status).unwrap_or(true) {
                return;
            }
        }
    }
}

/// `status`: what /proc/TID/status says. None: nothing.
fn has_signal(status: &str) -> Option<bool> {
    let set = |name: &str| {
        let text = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(text.trim(), 16).ok()
    };
    let pending = set("SigPnd:")? | set("ShdPnd:")?;
    Some(pending & !set("SigBlk:")? & !set("SigIgn:")? != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_are_blocked_or_ignored_do_not_count() {
        let status = |pending: u64, shared: u64, blocked: u64, ignored: u64| {
            let text = format!(
                "Name:\tcat\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n\
                 SigIgn:\t{ignored:016x}\n"
            );
            has_signal(&text)
        };
        assert_eq!(status(0, 0, 0, 0), Some(false));
        assert_eq!(status(1 << 8, 0, 0, 0), Some(true), "SIGKILL");
        assert_eq!(status(0, 1 << 1, 0, 0), Some(true), "SIGINT to the process");
        assert_eq!(status(0, 1 << 1, 1 << 1, 0), Some(false));
        assert_eq!(status(1 << 1, 0, 0, 1 << 1), Some(false));
        assert_eq!(has_signal(""), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_ends_is_noticed() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let caller = Caller::of(child.id()).unwrap();
        let waits = tokio::time::timeout(Duration::from_secs(10), caller.is_signalled()).await;
        assert!(waits.is_err(), "it has none");
        child.kill().unwrap();
        child.wait().unwrap();
        caller.is_signalled().await;
        assert!(Caller::of(child.id()).is_none());
    }
}
