//! The loop over a scripted transport, in time that is only counted.

use std::collections::VecDeque;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};

use super::*;
use crate::config::S3Config;

type Step = Box<dyn Fn(&Request) -> BoxFuture<'static, Result<Response, TransportError>> + Send>;

#[derive(Default)]
struct Script {
    steps: Mutex<VecDeque<Step>>,
    /// Taken when the steps are used up, again and again.
    rest: Mutex<Option<Step>>,
    asked: Mutex<Vec<Request>>,
}

impl Transport for Script {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        let answer = match self.steps.lock().unwrap().pop_front() {
            Some(step) => step(&request),
            None => (self.rest.lock().unwrap().as_ref().expect("a longer script"))(&request),
        };
        self.asked.lock().unwrap().push(request);
        answer
    }
}

fn answer(status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str) -> Step {
    Box::new(move |_| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        let body = stream::iter([Ok(Bytes::from_static(body.as_bytes()))]).boxed();
        async move { Ok(Response { status, headers: map, body }) }.boxed()
    })
}

fn fails(e: TransportError) -> Step {
    Box::new(move |_| {
        let e = e.clone();
        async move { Err(e) }.boxed()
    })
}

fn hangs() -> Step {
    Box::new(|_| std::future::pending().boxed())
}

/// Statuses as codes: the words of an answer are for the judge of S3.
fn judge(status: u16, headers: &HeaderMap, body: &[u8]) -> Option<Failure> {
    let code = String::from_utf8_lossy(body).into_owned();
    let kind = match status {
        200..=299 if code != "InternalError" => return None,
        403 | 400 => S3ErrorKind::AccessDenied,
        301 => S3ErrorKind::WrongRegion,
        404 => S3ErrorKind::NoSuchKey,
        _ => S3ErrorKind::Unavailable,
    };
    Some(Failure {
        status: Some(status),
        code: Some(code),
        region: headers.get("x-region").map(|v| v.to_str().unwrap().to_string()),
        after: retry_after(headers, SystemTime::now()),
        date: server_date(headers),
        ..Failure::local(kind, "told")
    })
}

fn wire(steps: Vec<Step>, rest: Option<Step>) -> (Wire, Arc<Script>) {
    let script =
        Arc::new(Script { steps: Mutex::new(steps.into()), rest: Mutex::new(rest), asked: Mutex::default() });
    let wire = Wire::new(
        script.clone(),
        Credentials::fixed("id".to_string(), "secret".to_string()),
        Endpoint::new(&S3Config::of("bucket", None)).unwrap(),
        None,
        "s3",
        judge,
        Duration::from_secs(30),
    );
    (wire, script)
}

fn call(method: Method, body: Vec<Bytes>) -> Call<'static> {
    Call {
        operation: "Test",
        key: Some("k"),
        method,
        query: vec![("a", "b c".into()), ("flag", "".into())],
        headers: HeaderMap::new(),
        body,
        payload_hash: sign::UNSIGNED_PAYLOAD.into(),
    }
}

async fn get(wire: &Wire) -> Result<Answer, S3Error> {
    wire.send(&call(Method::GET, vec![]), &mut wire.effort()).await
}

fn asked(script: &Script) -> Vec<Request> {
    script.asked.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_each_time_signed_anew() {
    let steps = vec![
        fails(TransportError::Lost("reset".to_string())),
        answer(503, &[], "SlowDown"),
        answer(200, &[], "InternalError"),
        answer(200, &[], "fine"),
    ];
    let (wire, script) = wire(steps, None);
    let mut effort = wire.effort();
    let answer = wire.send(&call(Method::GET, vec![]), &mut effort).await.unwrap();
    assert_eq!(answer.body, "fine");
    assert_eq!((effort.tries, effort.in_doubt), (4, true));
    for request in asked(&script) {
        assert!(request.headers.contains_key("authorization"));
        assert_eq!(request.url, "https://bucket.s3.us-east-1.amazonaws.com/k?a=b%20c&flag");
    }
}

#[tokio::test(start_paused = true)]
async fn what_will_not_pass_is_not_tried_again() {
    let (wire, script) = wire(vec![answer(404, &[], "NoSuchKey")], None);
    let e = get(&wire).await.unwrap_err();
    assert_eq!((e.kind, e.tries, e.status), (S3ErrorKind::NoSuchKey, 1, Some(404)));
    assert_eq!(asked(&script).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_an_error_within_the_timeout() {
    let began = Instant::now();
    let (hung, _) = wire(vec![], Some(hangs()));
    let e = get(&hung).await.unwrap_err();
    assert_eq!(e.kind, S3ErrorKind::Unavailable);
    assert!(e.tries > 1, "{e}");
    assert!(began.elapsed() <= Duration::from_secs(31), "{:?}", began.elapsed());
    let began = Instant::now();
    let refused = fails(TransportError::Connect("refused".to_string()));
    let (dead, _) = wire(vec![], Some(refused));
    let mut effort = dead.effort();
    let e = dead.send(&call(Method::PUT, vec!["x".into()]), &mut effort).await.unwrap_err();
    assert!(e.message.contains("refused"), "{e}");
    assert!(!effort.in_doubt, "nothing was ever sent");
    assert!(began.elapsed() <= Duration::from_secs(31), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn ten_tries_are_the_most() {
    let (wire, script) = wire(vec![], Some(answer(500, &[], "InternalError")));
    let mut effort = Effort::new(Duration::from_secs(3600));
    let e = wire.send(&call(Method::GET, vec![]), &mut effort).await.unwrap_err();
    assert_eq!((e.tries, e.code.as_deref()), (10, Some("InternalError")));
    assert_eq!(asked(&script).len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_that_moves_is_left_alone() {
    let slow: Step = Box::new(|request| {
        let progress = request.progress.clone();
        async move {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                progress.add(1);
            }
            Ok(Response { status: 200, headers: HeaderMap::new(), body: stream::empty().boxed() })
        }
        .boxed()
    });
    let (wire, script) = wire(vec![slow], None);
    let put = call(Method::PUT, vec![vec![0; 20].into()]);
    wire.send(&put, &mut wire.effort()).await.unwrap();
    assert_eq!(asked(&script).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stops_is_given_up_a_timeout_after_its_last_byte() {
    let stops: Step = Box::new(|request| {
        let progress = request.progress.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            progress.add(7);
            std::future::pending().await
        }
        .boxed()
    });
    let (wire, script) = wire(vec![], Some(stops));
    let began = Instant::now();
    let put = call(Method::PUT, vec![vec![0; 20].into()]);
    let e = wire.send(&put, &mut wire.effort()).await.unwrap_err();
    assert_eq!(e.kind, S3ErrorKind::Unavailable);
    assert!(began.elapsed() <= Duration::from_secs(52), "{:?}", began.elapsed());
    assert_eq!(asked(&script).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_region_told_is_gone_to_and_kept_without_loops() {
    let steps = vec![answer(301, &[("x-region", "eu-west-1")], ""), answer(200, &[], "")];
    let (found, script) = wire(steps, Some(answer(200, &[], "")));
    get(&found).await.unwrap();
    get(&found).await.unwrap();
    let urls: Vec<String> = asked(&script).into_iter().map(|r| r.url).collect();
    assert!(urls[1].contains("eu-west-1") && urls[2].contains("eu-west-1"), "{urls:?}");
    assert_eq!(&*found.region(), "eu-west-1");
    let steps = (0..9)
        .map(|n| match n % 2 {
            0 => answer(301, &[("x-region", "eu-west-1")], ""),
            _ => answer(301, &[("x-region", "us-east-1")], ""),
        })
        .collect();
    let (looped, script) = wire(steps, None);
    assert_eq!(get(&looped).await.unwrap_err().kind, S3ErrorKind::WrongRegion);
    assert_eq!(asked(&script).len(), 4);
    let (evil, script) = wire(vec![answer(301, &[("x-region", "evil.example/")], "")], None);
    assert!(get(&evil).await.is_err());
    assert_eq!(asked(&script).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_servers_clock_is_learnt_and_kept() {
    let skewed = answer(403, &[("date", "Fri, 24 May 2013 00:00:00 GMT")], "RequestTimeTooSkewed");
    let (wire, script) = wire(vec![skewed], Some(answer(200, &[], "")));
    get(&wire).await.unwrap();
    get(&wire).await.unwrap();
    let asked = asked(&script);
    for request in &asked[1..] {
        assert!(request.headers["x-amz-date"].to_str().unwrap().starts_with("20130524T0000"));
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_replaced_are_refused_at_once() {
    let (wire, script) = wire(vec![answer(400, &[], "ExpiredToken")], None);
    assert_eq!(get(&wire).await.unwrap_err().kind, S3ErrorKind::AccessDenied);
    assert_eq!(asked(&script).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_end_is_cut() {
    let endless: Step = Box::new(|_| {
        let body = stream::repeat_with(|| Ok(Bytes::from(vec![b' '; 1 << 20]))).boxed();
        async move { Ok(Response { status: 200, headers: HeaderMap::new(), body }) }.boxed()
    });
    let (wire, _) = wire(vec![endless], None);
    assert_eq!(get(&wire).await.unwrap_err().kind, S3ErrorKind::Malformed);
}
