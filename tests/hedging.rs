//! GETs that are slow to answer are sent a second time: when, how often, and that nothing else changes.
//!
//! The clock is paused, so every wait is exact.

mod support;

use std::ops::Range;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use pailfs::error::{S3Error, S3ErrorKind};
use pailfs::s3::{ListObjectsV2, ObjectHeaders, Precondition, S3Client};
use support::bytes::{assert_same_bytes, pattern};
use support::fake::client_over;
use support::ground::read;
use support::{FakeS3, Fault, Faults, On};
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(30);
/// What every GET takes here.
const USUAL: Duration = ms(50);
/// After answers that all took that long: twice the median.
const SLOW: Duration = ms(100);
const RANGE: Range<u64> = 100..900;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Ground {
    fake: FakeS3,
    faults: Faults,
    client: S3Client,
    data: Vec<u8>,
}

impl Ground {
    /// After so many answers, all of which took [`USUAL`].
    async fn after(answers: usize) -> Ground {
        let fake = FakeS3::new();
        let faults = Faults::over(fake.transport());
        let config = pailfs::config::S3Config { request_timeout: TIMEOUT, ..fake.config() };
        let client = client_over(faults.transport(), &config);
        let data = pattern(1, 1_000);
        fake.put("usual", data.clone());
        fake.put("slow", data.clone());
        faults.plan(On::op("GetObject"), Fault::Delay(USUAL));
        let ground = Ground { fake, faults, client, data };
        for _ in 0..answers {
            ground.get("usual").await.unwrap();
        }
        assert_eq!(ground.sent_and_won(), (0, 0));
        assert_eq!(ground.faults.calls(), answers);
        ground
    }

    async fn get(&self, key: &str) -> Result<(), S3Error> {
        let got = read(&self.client, key, Some(RANGE)).await?;
        assert_same_bytes(&got, &self.data[RANGE.start as usize..RANGE.end as usize], key);
        Ok(())
    }

    /// The n-th GET of the slow object, counted from 1. Later ones come first: a fault that decides ends the plan.
    fn plan(&self, n: usize, fault: Fault) {
        self.faults.plan(On::op("GetObject").key("slow").nth(n).once(), fault);
    }

    fn sent_and_won(&self) -> (u64, u64) {
        let counts = self.client.hedge_counts();
        (counts.sent, counts.won)
    }
}

#[tokio::test(start_paused = true)]
async fn one_slow_get_of_many_is_answered_by_a_second_request() {
    let ground = Ground::after(60).await;
    let etag = ground.fake.object("slow").unwrap().etag.clone();
    ground.plan(1, Fault::Delay(ms(5_000)));
    ground.fake.forget_calls();
    let began = Instant::now();
    let mut got = ground.client.get_object("slow", Some(RANGE), Some(&etag)).await.unwrap();
    assert_eq!(began.elapsed(), SLOW + USUAL);
    let frame = got.body.frame().await.unwrap().unwrap();
    assert_same_bytes(&frame, &ground.data[100..900], "slow");
    assert_eq!((ground.faults.calls(), ground.sent_and_won()), (62, (1, 1)));
    // The first one was dropped before the server saw it; this is the second, pinned and signed as any other.
    let calls = ground.fake.calls();
    assert_eq!((calls.len(), calls[0].status), (1, 206));
    assert_eq!(calls[0].headers["range"], "bytes=100-899");
    assert_eq!(calls[0].headers["if-match"], etag.as_str());
}

#[tokio::test(start_paused = true)]
async fn the_first_request_may_still_win() {
    let ground = Ground::after(60).await;
    ground.plan(1, Fault::Delay(ms(70)));
    let began = Instant::now();
    ground.get("slow").await.unwrap();
    assert_eq!(began.elapsed(), USUAL + ms(70));
    assert_eq!((ground.faults.calls(), ground.sent_and_won()), (62, (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_twice_before_it_is_known_what_is_slow() {
    let ground = Ground::after(49).await;
    ground.plan(1, Fault::Delay(ms(5_000)));
    ground.get("slow").await.unwrap();
    assert_eq!((ground.faults.calls(), ground.sent_and_won()), (50, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn the_allowance_is_a_twentieth_and_few_at_once() {
    for (answers, allowed) in [(60, 3), (1_000, 4)] {
        let ground = Ground::after(answers).await;
        ground.faults.plan(On::op("GetObject").key("slow"), Fault::Delay(ms(5_000)));
        for got in join_all((0..20).map(|_| ground.get("slow"))).await {
            got.unwrap();
        }
        assert_eq!(ground.sent_and_won(), (allowed, 0));
        assert_eq!(ground.faults.calls(), answers + 20 + allowed as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_slow_throughout_is_not_asked_twice() {
    let ground = Ground::after(0).await;
    // 50 to 88 ms; then, all at once, ten times that.
    for n in 0..20 {
        let key = format!("k{n}");
        ground.fake.put(&key, ground.data.clone());
        ground.faults.plan(On::op("GetObject").key(&key), Fault::Delay(ms(2 * n)));
        ground.faults.plan(On::op("GetObject").key(&key).nth(51), Fault::Delay(ms(450 + 18 * n)));
    }
    let round = async || {
        for n in 0..20 {
            ground.get(&format!("k{}", n * 7 % 20)).await.unwrap();
        }
    };
    for _ in 0..50 {
        round().await;
    }
    assert_eq!(ground.sent_and_won(), (0, 0));
    // Until this is known, second requests are sent within the allowance; then none.
    for _ in 0..13 {
        round().await;
    }
    let (sent, won) = ground.sent_and_won();
    assert!((1..=5 + 260 / 20).contains(&sent) && won == 0, "{sent} sent, {won} won");
    for _ in 13..50 {
        round().await;
    }
    assert_eq!(ground.sent_and_won(), (sent, won));
    // One that fell due just as the answer came was not sent after all.
    assert!((2_000..=2_000 + sent).contains(&(ground.faults.calls() as u64)));
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_may_pass_waits_for_the_other_request() {
    let ground = Ground::after(60).await;
    ground.plan(2, Fault::Delay(ms(1_000)));
    ground.plan(1, Fault::Delay(ms(200)));
    ground.plan(1, Fault::Connect);
    let began = Instant::now();
    ground.get("slow").await.unwrap();
    assert_eq!(began.elapsed(), SLOW + USUAL + ms(1_000));
    assert_eq!((ground.faults.calls(), ground.sent_and_won()), (62, (1, 1)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stands_is_told_at_once() {
    let ground = Ground::after(60).await;
    ground.plan(2, Fault::Hang);
    ground.plan(1, Fault::Delay(ms(200)));
    ground.plan(1, Fault::Error { status: 412, code: "PreconditionFailed" });
    let began = Instant::now();
    let error = ground.get("slow").await.unwrap_err();
    assert_eq!((error.kind, error.tries), (S3ErrorKind::PreconditionFailed, 2));
    assert_eq!(began.elapsed(), USUAL + ms(200));
}

#[tokio::test(start_paused = true)]
async fn what_the_second_request_fails_with_is_not_told() {
    for fault in
        [Fault::Error { status: 403, code: "AccessDenied" }, Fault::SlowDown { retry_after: Some(60) }]
    {
        let ground = Ground::after(60).await;
        ground.plan(2, fault);
        ground.plan(1, Fault::Delay(ms(1_000)));
        let began = Instant::now();
        ground.get("slow").await.unwrap();
        assert_eq!(began.elapsed(), USUAL + ms(1_000));
        assert_eq!((ground.faults.calls(), ground.sent_and_won()), (62, (1, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn where_both_fail_it_is_tried_again_and_ends_in_time() {
    let ground = Ground::after(60).await;
    ground.plan(2, Fault::Timeout);
    ground.plan(1, Fault::Delay(ms(200)));
    ground.plan(1, Fault::AnswerLost);
    ground.get("slow").await.unwrap();
    assert_eq!((ground.faults.calls(), ground.sent_and_won()), (63, (1, 0)));

    ground.faults.plan(On::op("GetObject").key("slow"), Fault::Hang);
    let began = Instant::now();
    let error = ground.get("slow").await.unwrap_err();
    assert_eq!(error.kind, S3ErrorKind::Unavailable);
    assert!(began.elapsed() <= TIMEOUT + ms(1_000), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn only_gets_of_objects_are_sent_twice() {
    let ground = Ground::after(60).await;
    for method in [Method::HEAD, Method::PUT] {
        ground.faults.plan(On::any().method(method), Fault::Delay(ms(5_000)));
    }
    ground.faults.plan(On::op("ListObjectsV2"), Fault::Delay(ms(5_000)));
    let (client, headers) = (&ground.client, ObjectHeaders::default());
    client.head_object("slow").await.unwrap();
    client.put_object("new", vec!["x".into()], &headers, &Precondition::None).await.unwrap();
    client.list_objects_v2(&ListObjectsV2::default()).await.unwrap();
    assert_eq!((ground.faults.calls(), ground.sent_and_won()), (63, (0, 0)));
}
