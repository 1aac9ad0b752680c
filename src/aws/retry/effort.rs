//! How long and how often to try: pure but for the clock and the dice.
//!
//! Owns: [`Effort`], what one operation has spent; [`RetryTokens`], what all operations of a client may spend
//! on retries together; back-off.
//! Invariant: an operation that makes no progress ends; see [`Effort`] for what counts as progress.
//! Must never know: requests, answers, S3.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// AWS "standard" retry mode: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html>.
pub const TRIES_MAX: u32 = 10;
const TOKENS_MAX: u32 = 500;
const TOKENS_A_RETRY: u32 = 5;
const TOKENS_A_TIMEOUT: u32 = 10;
const BACKOFF_BASE: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(20);

/// What one operation has spent so far.
///
/// Progress is: bytes of the answer's body arriving; bytes of the request's body going out that no earlier
/// try of the operation had sent. Within one try, every byte going out counts, else a slow line could never
/// send again what a broken connection lost; but no further try begins once the operation as a whole has
/// made no progress for its time-out. A `503` is an answer, not progress.
#[derive(Debug, Clone)]
pub struct Effort {
    /// How often anything was sent.
    pub tries: u32,
    /// An earlier try may have been carried out though its answer was lost or was an error.
    pub in_doubt: bool,
    /// Answers that sent us to another region.
    pub redirects: u32,
    pub keys_replaced: bool,
    pub clock_corrected: bool,
    tries_max: u32,
    /// Failures since the last progress.
    failures: u32,
    timeout: Duration,
    progress_at: Instant,
    sent_bytes_max: u64,
}

impl Effort {
    /// `timeout`: the longest time without progress, counted over all tries.
    pub fn new(timeout: Duration) -> Effort {
        Effort {
            tries: 0,
            in_doubt: false,
            redirects: 0,
            keys_replaced: false,
            clock_corrected: false,
            tries_max: TRIES_MAX,
            failures: 0,
            timeout,
            progress_at: Instant::now(),
            sent_bytes_max: 0,
        }
    }

    /// Gives up after `tries` already: for questions where a quick "no" is worth more.
    pub fn with_tries(timeout: Duration, tries: u32) -> Effort {
        Effort { tries_max: tries, ..Effort::new(timeout) }
    }

    /// From now on the server is waited for anew: bytes of an answer arrived, or ours are ready to be sent only now. Failures
    /// still count.
    pub fn progressed(&mut self) {
        self.progress_at = Instant::now();
    }

    /// Bytes of an object arrived, which need not be asked for again: a new start.
    pub fn gained(&mut self) {
        self.progress_at = Instant::now();
        self.failures = 0;
    }

    /// The present try has sent this many bytes of the body.
    pub fn sent(&mut self, bytes: u64) {
        if bytes > self.sent_bytes_max {
            self.sent_bytes_max = bytes;
            self.progress_at = Instant::now();
        }
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// When the operation is at its end if nothing moves.
    pub fn deadline(&self) -> Instant {
        self.progress_at + self.timeout
    }

    pub fn left(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// After a failed try: how long to wait before the next, or why there is none.
    /// `after`: the server's Retry-After.
    pub fn next_pause(
        &mut self,
        tokens: &RetryTokens,
        timed_out: bool,
        after: Option<Duration>,
    ) -> Result<Duration, String> {
        self.failures += 1;
        let left = self.left();
        if left.is_zero() {
            return Err(format!("no progress within {:?}", self.timeout));
        }
        if self.failures >= self.tries_max {
            return Err(format!("failed {} times in a row", self.failures));
        }
        let after = after.unwrap_or(Duration::ZERO);
        if after >= left {
            return Err(format!("the server asks to wait {after:?}, longer than allowed"));
        }
        if !tokens.take(timed_out) {
            return Err("too many retries of late".to_string());
        }
        let pause = jitter(backoff_max(self.failures)).min(left / 2);
        Ok(pause.max(after))
    }
}

/// The longest pause after the n-th failure in a row.
fn backoff_max(failures: u32) -> Duration {
    let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
    BACKOFF_BASE.saturating_mul(doubled).min(BACKOFF_MAX)
}

/// Full jitter: anything from nothing to `max`, so that clients that failed together do not return together.
fn jitter(max: Duration) -> Duration {
    max.mul_f64(rand::random::<f64>())
}

/// A client's allowance of retries: a server in trouble is not flooded with them.
#[derive(Debug)]
pub struct RetryTokens(AtomicU32);

impl Default for RetryTokens {
    fn default() -> Self {
        RetryTokens(AtomicU32::new(TOKENS_MAX))
    }
}

impl RetryTokens {
    fn take(&self, timed_out: bool) -> bool {
        let cost = if timed_out { TOKENS_A_TIMEOUT } else { TOKENS_A_RETRY };
        let spend = |left: u32| left.checked_sub(cost);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }

    /// One token for each success.
    pub fn regain(&self) {
        let add = |left: u32| (left < TOKENS_MAX).then_some(left + 1);
        // An allowance that is full stays as it is.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn back_off_doubles_up_to_its_limit() {
        let ms: Vec<u128> = (1..=10).map(|n| backoff_max(n).as_millis()).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 20000, 20000]);
        assert_eq!(backoff_max(u32::MAX), BACKOFF_MAX);
        assert!((0..100).all(|_| jitter(MINUTE) <= MINUTE));
    }

    #[tokio::test(start_paused = true)]
    async fn ten_failures_in_a_row_are_the_end() {
        let (tokens, mut effort) = (RetryTokens::default(), Effort::new(MINUTE));
        for _ in 1..TRIES_MAX {
            assert!(effort.next_pause(&tokens, false, None).is_ok());
        }
        assert!(effort.next_pause(&tokens, false, None).is_err());
        effort.progressed();
        assert!(effort.next_pause(&tokens, false, None).is_err());
        effort.gained();
        assert!(effort.next_pause(&tokens, false, None).is_ok(), "progress starts a new count");
    }

    #[tokio::test(start_paused = true)]
    async fn no_progress_is_the_end_and_pauses_never_pass_it() {
        let (tokens, mut effort) = (RetryTokens::default(), Effort::new(MINUTE));
        tokio::time::sleep(Duration::from_secs(59)).await;
        let pause = effort.next_pause(&tokens, false, None).unwrap();
        assert!(pause <= Duration::from_millis(500));
        assert!(effort.next_pause(&tokens, false, Some(MINUTE)).is_err());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(effort.next_pause(&tokens, false, None).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn only_new_ground_is_progress() {
        let mut effort = Effort::new(MINUTE);
        tokio::time::sleep(Duration::from_secs(50)).await;
        effort.sent(1000);
        assert_eq!(effort.left(), MINUTE);
        tokio::time::sleep(Duration::from_secs(50)).await;
        effort.sent(500);
        effort.sent(1000);
        assert_eq!(effort.left(), Duration::from_secs(10));
        effort.sent(1001);
        assert_eq!(effort.left(), MINUTE);
    }

    #[test]
    fn tokens_run_out_and_come_back_one_by_one() {
        let tokens = RetryTokens::default();
        assert_eq!((0..200).filter(|_| tokens.take(false)).count(), 100);
        for _ in 0..9 {
            tokens.regain();
        }
        assert!(!tokens.take(true));
        assert!(tokens.take(false));
        let full = RetryTokens::default();
        full.regain();
        assert_eq!(full.0.into_inner(), TOKENS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_honoured() {
        let (tokens, mut effort) = (RetryTokens::default(), Effort::new(MINUTE));
        let after = Duration::from_secs(7);
        assert!(effort.next_pause(&tokens, false, Some(after)).unwrap() >= after);
    }
}
