//! The only loop that sends.
//!
//! Owns: [`Wire`], which signs each try anew, sends it, judges the answer and tries again; what the servers'
//! answers taught it (region, clock skew) is kept there for all requests.
//! Invariants: an operation ends, by an answer or an error, within its time-out without progress (see
//! [`Effort`]); every try has its own date and the keys of the moment; no secret is in a log or an error.
//! Must never know: what a request means, how its answer is written (a [`Judge`] reads those).
//!
//! A try that only reads (GET, HEAD) may use half of the time that is left, so that a connection that died
//! silently leaves time for another. One that writes may use all of it: servers may take long to copy or to
//! put parts together, and a second request would only add to their load. While its body goes out it may
//! use more, see [`Effort`].
//!
//! A GET whose answer is slow to begin, measured by those before, is sent a second time beside the first, within
//! a small allowance ([`Hedges`]).

mod classify;
mod effort;
mod hedge;

use std::borrow::Cow;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::{Instant, timeout_at};

pub use self::classify::{Failure, is_transient, retry_after, server_date};
use self::classify::{Remedy, remedy};
pub use self::effort::Effort;
use self::effort::RetryTokens;
pub use self::hedge::HedgeCounts;
use self::hedge::{Hedge, Hedges};
use crate::aws::credentials::{Credentials, Keys};
use crate::aws::endpoint::{Endpoint, Location};
use crate::aws::sign::{self, Scope, SigningKeys, Target};
use crate::aws::transport::{BodyStream, Progress, Request, Response, Transport, TransportError};
use crate::config::is_region;
use crate::error::{S3Error, S3ErrorKind};

/// The largest answer that is held whole: a listing of 1,000 keys of 1 KiB, encoded, is below 6 MiB.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// An error's text is worth this wait, not more.
const ERROR_TEXT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Below this, half of the time left is too short for a try of its own.
const SPLIT_WAIT_MIN: Duration = Duration::from_secs(2);
/// Each leads to a region not asked before; more would be a loop.
const REDIRECTS_MAX: u32 = 3;
/// Where a bucket is looked for that may be anywhere: AWS's oldest region tells the right one.
const REGION_UNKNOWN: &str = "us-east-1";

/// Reads an answer: none if it is a success, else what failed. Of answers whose body is streamed the
/// body given is empty.
pub type Judge = fn(status: u16, headers: &HeaderMap, body: &[u8]) -> Option<Failure>;

/// A request as its operation means it; host, date and signature are added for each try.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// The API's name, for errors and logs.
    pub operation: &'static str,
    /// None: the request is about the bucket.
    pub key: Option<&'a str>,
    pub method: Method,
    /// Not encoded. An empty value goes as the name alone.
    pub query: Vec<(&'static str, Cow<'a, str>)>,
    pub headers: HeaderMap,
    pub body: Vec<Bytes>,
    /// Hex SHA-256 of the body, or [`sign::UNSIGNED_PAYLOAD`].
    pub payload_hash: Cow<'static, str>,
}

/// An answer that is a success, held whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What sends: shared by all requests to one bucket.
pub struct Wire {
    transport: Arc<dyn Transport>,
    credentials: Arc<Credentials>,
    endpoint: Endpoint,
    service: &'static str,
    judge: Judge,
    request_timeout: Duration,
    /// Every request to the bucket carries these.
    standing: HeaderMap,
    tokens: RetryTokens,
    hedges: Hedges,
    /// Where requests go. std's lock: never held across an await.
    region: RwLock<Arc<str>>,
    /// The server's clock minus ours, in seconds.
    skew_seconds: AtomicI64,
}

/// What a try was made with.
struct Used {
    region: Arc<str>,
    keys: Option<Arc<Keys>>,
    clock: SystemTime,
}

enum Outcome {
    Whole(Answer),
    Stream(Response),
}

impl Wire {
    /// `region`: none if the bucket may be anywhere.
    pub fn new(
        transport: Arc<dyn Transport>,
        credentials: Credentials,
        endpoint: Endpoint,
        region: Option<&str>,
        service: &'static str,
        judge: Judge,
        request_timeout: Duration,
    ) -> Wire {
        let region = endpoint.region(region).unwrap_or(REGION_UNKNOWN).into();
        Wire {
            transport,
            credentials: Arc::new(credentials),
            endpoint,
            service,
            judge,
            request_timeout,
            standing: HeaderMap::new(),
            tokens: RetryTokens::default(),
            hedges: Hedges::default(),
            region: RwLock::new(region),
            skew_seconds: AtomicI64::new(0),
        }
    }

    /// From now on every request to the bucket carries these headers, too.
    pub fn carrying(self, standing: HeaderMap) -> Wire {
        Wire { standing, ..self }
    }

    /// What sends to another bucket, or none, of the same service, with the same keys over the same connections, and an
    /// allowance of retries of its own.
    pub fn beside(&self, endpoint: Endpoint) -> Wire {
        let region = self.region();
        let region = endpoint.region(Some(&region)).unwrap_or(REGION_UNKNOWN).into();
        Wire {
            transport: self.transport.clone(),
            credentials: self.credentials.clone(),
            endpoint,
            service: self.service,
            judge: self.judge,
            request_timeout: self.request_timeout,
            standing: self.standing.clone(),
            tokens: RetryTokens::default(),
            hedges: Hedges::default(),
            region: RwLock::new(region),
            skew_seconds: AtomicI64::new(self.skew_seconds.load(Ordering::Relaxed)),
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A new operation's allowance.
    pub fn effort(&self) -> Effort {
        Effort::new(self.request_timeout)
    }

    /// Where requests go now: as configured, or as learnt since.
    pub fn region(&self) -> Arc<str> {
        self.region.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends until there is an answer; holds its body whole.
    pub async fn send(&self, call: &Call<'_>, effort: &mut Effort) -> Result<Answer, S3Error> {
        match self.send_until_judged(call, effort, false).await? {
            Outcome::Whole(answer) => Ok(answer),
            Outcome::Stream(_) => unreachable!("only `open` streams"),
        }
    }

    /// GETs that were sent a second time because their answer was slow.
    pub fn hedge_counts(&self) -> HedgeCounts {
        self.hedges.counts()
    }

    /// Sends until there is an answer; its body is still to come, and a break in it is the caller's.
    /// Only for requests that change nothing: one that is slow is sent twice.
    pub async fn open(&self, call: &Call<'_>, effort: &mut Effort) -> Result<Response, S3Error> {
        match self.send_until_judged(call, effort, true).await? {
            Outcome::Stream(response) => Ok(response),
            Outcome::Whole(_) => unreachable!("only `send` holds answers whole"),
        }
    }

    /// Waits before another try because of `failure`, or turns it into the operation's error.
    /// For failures that only the caller can see: a body that broke, an error within a list of results.
    pub async fn pause(&self, call: &Call<'_>, effort: &mut Effort, failure: Failure) -> Result<(), S3Error> {
        match effort.next_pause(&self.tokens, failure.timed_out, failure.after) {
            Ok(pause) => {
                tracing::debug!(
                    op = call.operation,
                    key = call.key,
                    tries = effort.tries,
                    pause = ?pause,
                    reason = %failure.message,
                    code = failure.code,
                    "trying again"
                );
                tokio::time::sleep(pause).await;
                Ok(())
            }
            Err(why) => {
                let message = format!("{} (gave up: {why})", failure.message);
                Err(self.error(call, effort, Failure { message, ..failure }))
            }
        }
    }

    /// An operation's final error.
    pub fn error(&self, call: &Call<'_>, effort: &Effort, failure: Failure) -> S3Error {
        S3Error {
            operation: call.operation,
            bucket: self.endpoint.bucket().to_string(),
            key: call.key.map(String::from),
            kind: failure.kind,
            status: failure.status,
            code: failure.code,
            message: failure.message,
            request_id: failure.request_id,
            host_id: failure.host_id,
            tries: effort.tries,
        }
    }

    async fn send_until_judged(
        &self,
        call: &Call<'_>,
        effort: &mut Effort,
        stream: bool,
    ) -> Result<Outcome, S3Error> {
        loop {
            let (request, used) = match self.prepare(call).await {
                Ok(prepared) => prepared,
                Err(failure) => return Err(self.error(call, effort, failure)),
            };
            let tried = if stream {
                self.try_hedged(call, request, &used, effort).await
            } else {
                self.try_once(request, effort, false).await
            };
            match tried {
                Ok(outcome) => {
                    self.tokens.regain();
                    return Ok(outcome);
                }
                Err(failure) => self.remedy(call, effort, &used, failure).await?,
            }
        }
    }

    /// A URL that carries its signature, for whoever has it to send this call without body within `expires`, which
    /// S3 allows to be 7 days. The call's headers must be sent with it.
    ///
    /// Errors: without keys nothing can be signed.
    pub async fn presign(&self, call: &Call<'_>, expires: Duration) -> Result<String, S3Error> {
        let presigned = self.presigned(call, expires).await;
        presigned.map_err(|failure| self.error(call, &self.effort(), failure))
    }

    async fn presigned(&self, call: &Call<'_>, expires: Duration) -> Result<String, Failure> {
        let used = self.used().await?;
        let Some(keys) = &used.keys else {
            let why = "a URL cannot be signed without credentials";
            return Err(Failure::local(S3ErrorKind::NoCredentials, why));
        };
        let location = self.endpoint.locate(&used.region, call.key).map_err(|e| refused(&e))?;
        let query = encoded_query(&call.query);
        let (scope, target) = self.signing(&used, call, &location, &query);
        let query = sign::presign(signing_keys(keys), scope, target, &call.headers, expires);
        Ok(location.url(&query.map_err(|e| refused(&e))?))
    }

    /// With what a try is made now.
    async fn used(&self) -> Result<Used, Failure> {
        let keys = self.credentials.keys().await;
        Ok(Used {
            keys: keys.map_err(|e| Failure::local(S3ErrorKind::NoCredentials, e.to_string()))?,
            region: self.region(),
            clock: self.clock(),
        })
    }

    fn signing<'a>(
        &self,
        used: &'a Used,
        call: &'a Call<'_>,
        location: &'a Location,
        query: &'a str,
    ) -> (Scope<'a>, Target<'a>) {
        let (method, host, path) = (call.method.as_str(), &location.host, &location.path);
        let scope = Scope { region: &used.region, service: self.service, time: used.clock };
        (scope, Target { method, host, path, query })
    }

    /// Addresses and signs one try.
    async fn prepare(&self, call: &Call<'_>) -> Result<(Request, Used), Failure> {
        let used = self.used().await?;
        let location = self.endpoint.locate(&used.region, call.key).map_err(|e| refused(&e))?;
        let query = encoded_query(&call.query);
        let mut headers = call.headers.clone();
        if !self.endpoint.bucket().is_empty() {
            headers.extend(self.standing.clone());
        }
        if let Some(keys) = &used.keys {
            let (scope, target) = self.signing(&used, call, &location, &query);
            sign::sign_headers(signing_keys(keys), scope, target, &mut headers, &call.payload_hash)
                .map_err(|e| refused(&e))?;
        }
        let host = HeaderValue::from_str(&location.host).map_err(|e| refused(&e))?;
        headers.insert(http::header::HOST, host);
        let request = Request {
            method: call.method.clone(),
            url: location.url(&query),
            headers,
            body: call.body.clone(),
            progress: Progress::default(),
        };
        Ok((request, used))
    }

    async fn try_once(
        &self,
        request: Request,
        effort: &mut Effort,
        stream: bool,
    ) -> Result<Outcome, Failure> {
        effort.tries += 1;
        let response = self.await_answer(request, effort).await?;
        let success = (200..300).contains(&response.status);
        if stream && success {
            return Ok(Outcome::Stream(response));
        }
        let Response { status, headers, body } = response;
        let body =
            if success { read_whole(body, effort).await? } else { read_error_text(body, effort).await };
        match (self.judge)(status, &headers, &body) {
            None => Ok(Outcome::Whole(Answer { status, headers, body })),
            Some(failure) => Err(failure),
        }
    }

    /// One try, and if it is slow to answer a second one like it: whichever succeeds first is taken, the other
    /// dropped. The second can only help: what it fails with is not told, and while the first may succeed, or
    /// fails with what may pass, the other is waited for.
    async fn try_hedged(
        &self,
        call: &Call<'_>,
        request: Request,
        used: &Used,
        effort: &mut Effort,
    ) -> Result<Outcome, Failure> {
        let asked = Instant::now();
        let spare = effort.clone();
        let (outcome, tries) = {
            let mut first = pin!(self.try_once(request, effort, true));
            tokio::select! {
                biased;
                outcome = &mut first => (outcome, 0),
                hedge = self.hedges.due() => {
                    let second = pin!(self.try_second(call, spare, hedge));
                    let outcome = match select(first, second).await {
                        Either::Left((Err(failure), second)) if may_pass(&failure, call, used) => {
                            second.await.ok_or(failure)
                        }
                        Either::Left((outcome, _)) => outcome,
                        Either::Right((Some(outcome), _)) => Ok(outcome),
                        Either::Right((None, first)) => first.await,
                    };
                    (outcome, 1)
                }
            }
        };
        effort.tries += tries;
        if outcome.is_ok() {
            self.hedges.answered(asked.elapsed());
        }
        outcome
    }

    /// The same request, with a date and a signature of its own.
    async fn try_second(&self, call: &Call<'_>, mut effort: Effort, hedge: Hedge<'_>) -> Option<Outcome> {
        let outcome = match self.prepare(call).await {
            Ok((request, _)) => self.try_once(request, &mut effort, true).await,
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(outcome) => {
                hedge.won();
                Some(outcome)
            }
            Err(failure) => {
                let reason = failure.message;
                tracing::debug!(op = call.operation, key = call.key, reason, "the second request failed");
                None
            }
        }
    }

    /// Sends, and waits for the answer's head as long as this try may.
    async fn await_answer(&self, request: Request, effort: &mut Effort) -> Result<Response, Failure> {
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let has_body = request.body.iter().any(|chunk| !chunk.is_empty());
        let progress = request.progress.clone();
        let mut answer = pin!(self.transport.send(request));
        let left = effort.left();
        let mut limit = effort.deadline();
        if reads && left >= SPLIT_WAIT_MIN {
            limit = Instant::now() + left / 2;
        }
        // How often the count of sent bytes is looked at.
        let tick = (effort.timeout() / 10).min(Duration::from_secs(1));
        let mut sent = 0;
        loop {
            let wake = if has_body { limit.min(Instant::now() + tick) } else { limit };
            if let Ok(answered) = timeout_at(wake, &mut answer).await {
                effort.sent(progress.bytes());
                return answered.map_err(Failure::from);
            }
            if progress.bytes() > sent {
                sent = progress.bytes();
                effort.sent(sent);
                limit = limit.max(Instant::now() + effort.timeout());
            }
            if Instant::now() >= limit {
                let what = if has_body { "no progress" } else { "no answer" };
                return Err(Failure::timed_out(format!("{what} in time")));
            }
        }
    }

    /// Does what a failed try calls for. An error means that nothing helps.
    async fn remedy(
        &self,
        call: &Call<'_>,
        effort: &mut Effort,
        used: &Used,
        failure: Failure,
    ) -> Result<(), S3Error> {
        let remedy = remedy(&failure, &call.method, &used.region, used.clock);
        let helped = match &remedy {
            Remedy::None => false,
            Remedy::Wait => {
                effort.in_doubt |= !failure.not_sent;
                return self.pause(call, effort, failure).await;
            }
            Remedy::Region(region) if effort.redirects < REDIRECTS_MAX && is_region(region) => {
                effort.redirects += 1;
                *self.region.write().unwrap_or_else(PoisonError::into_inner) = Arc::from(region.as_str());
                true
            }
            Remedy::Region(_) => false,
            Remedy::Keys => match &used.keys {
                Some(keys) if !effort.keys_replaced => {
                    effort.keys_replaced = true;
                    self.credentials.replace(keys).await
                }
                _ => false,
            },
            Remedy::Clock => {
                !effort.clock_corrected && {
                    effort.clock_corrected = true;
                    self.learn_clock(&failure)
                }
            }
        };
        if !helped {
            return Err(self.error(call, effort, failure));
        }
        tracing::debug!(
            op = call.operation,
            key = call.key,
            remedy = ?remedy,
            reason = %failure.message,
            "trying again"
        );
        Ok(())
    }

    fn clock(&self) -> SystemTime {
        let skew = self.skew_seconds.load(Ordering::Relaxed);
        let by = Duration::from_secs(skew.unsigned_abs());
        let now = SystemTime::now();
        if skew < 0 { now - by } else { now + by }
    }

    fn learn_clock(&self, failure: &Failure) -> bool {
        let Some(theirs) = failure.date else {
            return false;
        };
        let now = SystemTime::now();
        let skew = match theirs.duration_since(now) {
            Ok(ahead) => ahead.as_secs().cast_signed(),
            Err(behind) => -behind.duration().as_secs().cast_signed(),
        };
        self.skew_seconds.store(skew, Ordering::Relaxed);
        tracing::warn!(
            seconds = skew,
            "this host's clock differs from the server's; signing by the server's"
        );
        true
    }
}

fn refused(e: &dyn std::error::Error) -> Failure {
    Failure::local(S3ErrorKind::Refused, e.to_string())
}

fn signing_keys(keys: &Keys) -> SigningKeys<'_> {
    SigningKeys {
        access_key_id: &keys.access_key_id,
        secret_access_key: &keys.secret_access_key,
        session_token: keys.session_token.as_deref(),
    }
}

fn may_pass(failure: &Failure, call: &Call<'_>, used: &Used) -> bool {
    remedy(failure, &call.method, &used.region, used.clock) == Remedy::Wait
}

fn encoded_query(pairs: &[(&'static str, Cow<'_, str>)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        if !value.is_empty() {
            out.push('=');
            out.push_str(&sign::encode_query(value));
        }
    }
    out
}

/// The whole body of a success. Slow operations send white space while they work: that is progress.
async fn read_whole(mut body: BodyStream, effort: &mut Effort) -> Result<Bytes, Failure> {
    let mut held = BytesMut::new();
    loop {
        match timeout_at(effort.deadline(), body.next()).await {
            Err(_) => return Err(Failure::timed_out("the answer stopped midway")),
            Ok(None) => return Ok(held.freeze()),
            Ok(Some(Err(e))) => return Err(broken(e)),
            Ok(Some(Ok(frame))) => {
                effort.progressed();
                if held.len() + frame.len() > ANSWER_BYTES_MAX {
                    let text = format!("an answer of more than {ANSWER_BYTES_MAX} bytes");
                    return Err(Failure::local(S3ErrorKind::Malformed, text));
                }
                held.extend_from_slice(&frame);
            }
        }
    }
}

/// As much of an error's text as can be had: the status alone says enough to go on.
async fn read_error_text(mut body: BodyStream, effort: &Effort) -> Bytes {
    let deadline = effort.deadline().min(Instant::now() + ERROR_TEXT_WAIT_MAX);
    let mut held = BytesMut::new();
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.next()).await {
        if held.len() + frame.len() > ANSWER_BYTES_MAX {
            break;
        }
        held.extend_from_slice(&frame);
    }
    held.freeze()
}

/// An answer had begun, so whatever the transport says, the request was sent.
fn broken(e: TransportError) -> Failure {
    Failure { not_sent: false, ..Failure::from(e) }
}

#[cfg(test)]
mod tests;
