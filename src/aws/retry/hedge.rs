//! When a GET that is slow to answer is sent a second time.
//!
//! Owns: [`Hedges`]: how long answers took of late, which says what is slow; the allowance of second requests, and
//! their count.
//! Invariants: there is at most one second request for each [`ANSWERS_A_HEDGE`] answers, none before
//! [`WAITS_MIN`] of them, and never more than [`UNDER_WAY_MAX`] at once.
//! Must never know: what is sent, or what is answered.
//!
//! Slow is what is slower than 95 of 100 answers were. Where all answers take about as long that is noise, so it is
//! also twice the median at least; and [`WAIT_MIN`], below which a second request costs more than it can save.
//! Allowance comes from answers only: a server in trouble gives few, and gets no second requests.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Enough to know the slowest twentieth, few enough to follow a server that becomes slower within a second.
const WAITS_MAX: usize = 256;
const WAITS_MIN: usize = 50;
/// A server nearby answers sooner, and its slow answers come of load, here or there, that second requests would
/// add to.
const WAIT_MIN: Duration = Duration::from_millis(50);
const ANSWERS_A_HEDGE: u32 = 20;
/// What answers have earned and nobody has used: so many may be sent after a quiet time.
const SAVED_MAX: u32 = 5;
const UNDER_WAY_MAX: u32 = 4;

/// Second requests so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HedgeCounts {
    pub sent: u64,
    /// Those that answered before the first request did.
    pub won: u64,
}

/// Shared by all GETs of a client.
#[derive(Debug, Default)]
pub struct Hedges {
    /// Held for an instant only; nothing is taken under it.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// From request to answer, the last [`WAITS_MAX`] of them.
    waits: VecDeque<Duration>,
    /// Answers that have not been spent on a second request.
    saved_answers: u32,
    under_way: u32,
    counts: HedgeCounts,
}

impl State {
    /// How long an answer may take before it is slow; none as long as that is not known.
    fn slow_after(&self) -> Option<Duration> {
        if self.waits.len() < WAITS_MIN {
            return None;
        }
        let mut waits: Vec<Duration> = self.waits.iter().copied().collect();
        let (at_95, at_50) = (waits.len() * 95 / 100, waits.len() / 2);
        let (faster, wait_95, _) = waits.select_nth_unstable(at_95);
        let wait_95 = *wait_95;
        let (_, median, _) = faster.select_nth_unstable(at_50);
        Some(wait_95.max(*median * 2).max(WAIT_MIN))
    }

    fn answered(&mut self, wait: Duration) {
        if self.waits.len() == WAITS_MAX {
            self.waits.pop_front();
        }
        self.waits.push_back(wait);
        self.saved_answers = (self.saved_answers + 1).min(SAVED_MAX * ANSWERS_A_HEDGE);
    }

    fn take(&mut self) -> bool {
        if self.under_way == UNDER_WAY_MAX {
            return false;
        }
        let Some(left) = self.saved_answers.checked_sub(ANSWERS_A_HEDGE) else {
            return false;
        };
        self.saved_answers = left;
        self.under_way += 1;
        self.counts.sent += 1;
        true
    }
}

/// Leave to send one second request, until it is dropped.
#[derive(Debug)]
pub struct Hedge<'a>(&'a Hedges);

impl Hedge<'_> {
    pub fn won(self) {
        self.0.lock().counts.won += 1;
    }
}

impl Drop for Hedge<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

impl Hedges {
    /// For a request that is sent now: ends when its answer is slow, if a second one may then be sent; else never.
    pub async fn due(&self) -> Hedge<'_> {
        let slow_after = self.lock().slow_after();
        if let Some(slow_after) = slow_after {
            tokio::time::sleep(slow_after).await;
            if self.lock().take() {
                return Hedge(self);
            }
        }
        pending().await
    }

    /// An answer came so long after its (first) request. Where a second request brought it, the first would have taken
    /// longer: the waits are those of the callers, not of the requests, so what is slow does not become ever less.
    pub fn answered(&self, wait: Duration) {
        self.lock().answered(wait);
    }

    pub fn counts(&self) -> HedgeCounts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn after(waits: impl IntoIterator<Item = u64>) -> State {
        let mut state = State::default();
        waits.into_iter().for_each(|wait| state.answered(ms(wait)));
        state
    }

    #[test]
    fn slow_is_the_slowest_twentieth_of_late() {
        assert_eq!(after(0..49).slow_after(), None, "not known yet");
        // 40 to 139 ms, in no order; the median is 90.
        let mixed = (0..100).map(|n| 40 + n * 37 % 100);
        assert_eq!(after(mixed).slow_after(), Some(ms(180)), "twice the median");
        let tailed = (0..100).map(|n| if n % 10 == 0 { 500 + n } else { 30 });
        assert_eq!(after(tailed.clone()).slow_after(), Some(ms(550)));
        assert_eq!(after((0..100).map(|_| 30)).slow_after(), Some(ms(60)));
        assert_eq!(after((0..100).map(|_| 1)).slow_after(), Some(WAIT_MIN));
        // What was long ago does not count.
        assert_eq!(after(tailed.chain((0..WAITS_MAX as u64).map(|_| 100))).slow_after(), Some(ms(200)));
    }

    #[test]
    fn allowance_is_earned_saved_up_to_a_cap_and_used_by_few_at_once() {
        let mut state = after((1..ANSWERS_A_HEDGE).map(|_| 1));
        assert!(!state.take());
        state.answered(ms(1));
        assert!(state.take());
        assert!(!state.take(), "it is used up");
        let mut state = after((0..10_000).map(|_| 1));
        assert_eq!(state.waits.len(), WAITS_MAX);
        for _ in 0..UNDER_WAY_MAX {
            assert!(state.take());
        }
        assert!(!state.take(), "too many at once");
        state.under_way = 0;
        assert_eq!((0..10).filter(|_| state.take()).count() as u32, SAVED_MAX - UNDER_WAY_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hedge_that_is_dropped_makes_room() {
        let hedges = Hedges::default();
        (0..1000).for_each(|_| hedges.answered(ms(1)));
        for _ in 0..SAVED_MAX {
            drop(hedges.due().await);
        }
        assert_eq!(hedges.lock().under_way, 0);
        assert_eq!(hedges.counts().sent, u64::from(SAVED_MAX));
        tokio::time::timeout(ms(60_000), hedges.due()).await.expect_err("nothing is left");
    }

    #[derive(Debug, Clone)]
    enum Event {
        Answer(u64),
        Take,
        Done,
    }

    proptest! {
        #[test]
        fn never_more_than_allowed(events in prop::collection::vec(
            prop_oneof![
                8 => (0u64..5_000).prop_map(Event::Answer),
                2 => Just(Event::Take),
                1 => Just(Event::Done),
            ],
            0..600,
        )) {
            let mut state = State::default();
            // Answers so far at each second request.
            let (mut answers, mut hedged_at) = (0u64, Vec::new());
            for event in events {
                match event {
                    Event::Answer(wait) => {
                        state.answered(ms(wait));
                        answers += 1;
                    }
                    Event::Take => if state.take() { hedged_at.push(answers) },
                    Event::Done => state.under_way = state.under_way.saturating_sub(1),
                }
                prop_assert!(state.under_way <= UNDER_WAY_MAX && state.waits.len() <= WAITS_MAX);
                let slow_after = state.slow_after();
                prop_assert_eq!(slow_after.is_none(), state.waits.len() < WAITS_MIN);
                prop_assert!(slow_after.is_none_or(|slow| slow >= WAIT_MIN));
            }
            // Within any stretch: a twentieth of its answers, and what was saved before it.
            for (n, from) in hedged_at.iter().enumerate() {
                for (sent, to) in (1u64..).zip(&hedged_at[n..]) {
                    let earned = (to - from) / u64::from(ANSWERS_A_HEDGE);
                    prop_assert!(sent <= earned + u64::from(SAVED_MAX) + 1, "{sent} in {}", to - from);
                }
            }
            prop_assert!(hedged_at.len() as u64 <= answers / u64::from(ANSWERS_A_HEDGE));
        }

        #[test]
        fn at_most_a_twentieth_of_what_was_is_slow(waits in prop::collection::vec(0u64..5_000, 50..WAITS_MAX)) {
            let count = waits.len();
            let state = after(waits);
            let slow = state.slow_after().unwrap();
            let slower = state.waits.iter().filter(|wait| **wait > slow).count();
            prop_assert!(slower * 20 <= count, "{slower} of {count}");
        }
    }
}
