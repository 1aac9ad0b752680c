//! Failures on demand, between the client and any transport.
//!
//! A [`Faults`] carries a plan: each line says which calls it means ([`On`]) and what befalls them
//! ([`Fault`]). A line that fired says so ([`Line::fired`]), so a test can prove that its fault was met.
//! The plan is read from the top for each call; [`Fault::Delay`] and [`Fault::Meanwhile`] let the next
//! lines have their turn, any other fault decides the call.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use pailfs::aws::transport::{BodyStream, Request, Response, Transport, TransportError};

use super::call::Call;
use super::xml::leaf;

/// What befalls a call.
#[derive(Clone)]
pub enum Fault {
    /// It is sent so much later.
    Delay(Duration),
    /// This runs before it is sent: what another host does in between.
    Meanwhile(Arc<dyn Fn() + Send + Sync>),
    /// It is never carried out.
    Connect,
    Timeout,
    /// It is never answered, and not carried out.
    Hang,
    /// It is carried out, but the connection breaks before the answer.
    AnswerLost,
    /// It is carried out and never answered.
    AnswerHangs,
    /// The body breaks off with an error after so many bytes.
    Reset {
        after: usize,
    },
    /// The body ends after so many bytes as if that were all.
    Truncate {
        after: usize,
    },
    /// The body stops after so many bytes and never goes on.
    Stall {
        after: usize,
    },
    /// Each frame of the body comes so much later than the one before.
    Slow {
        pause: Duration,
    },
    /// The byte at this place of the body is another.
    Corrupt {
        at: usize,
    },
    /// 503 `SlowDown`, with `Retry-After` in seconds where given.
    SlowDown {
        retry_after: Option<u32>,
    },
    /// An error document with this status and code; not carried out.
    Error {
        status: u16,
        code: &'static str,
    },
    /// 200 whose body is an error document; not carried out.
    ErrorIn200 {
        code: &'static str,
    },
    /// 403 `ExpiredToken`.
    ExpiredToken,
    /// 301 `PermanentRedirect` to this region.
    Redirect {
        region: &'static str,
    },
    /// 400 `AuthorizationHeaderMalformed` that names this region.
    AuthMalformed {
        region: &'static str,
    },
    /// Anything else.
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    },
}

impl Fault {
    pub fn meanwhile(run: impl Fn() + Send + Sync + 'static) -> Fault {
        Fault::Meanwhile(Arc::new(run))
    }

    /// 200 with a body that is no answer of S3's.
    pub fn garbage(body: impl Into<Bytes>) -> Fault {
        Fault::Answer {
            status: 200,
            headers: vec![("content-type", "application/xml".to_string())],
            body: body.into(),
        }
    }
}

type KeyPredicate = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Which calls a line means; all of them until it is narrowed.
#[derive(Clone)]
pub struct On {
    op: Option<&'static str>,
    method: Option<Method>,
    key: Option<KeyPredicate>,
    skip: usize,
    times: usize,
}

impl On {
    pub fn any() -> On {
        On { op: None, method: None, key: None, skip: 0, times: usize::MAX }
    }

    /// By S3's name of the operation.
    pub fn op(op: &'static str) -> On {
        On { op: Some(op), ..On::any() }
    }

    pub fn method(mut self, method: Method) -> On {
        self.method = Some(method);
        self
    }

    pub fn key(self, key: &str) -> On {
        let key = key.to_string();
        self.key_where(move |k| k == key)
    }

    pub fn key_where(mut self, holds: impl Fn(&str) -> bool + Send + Sync + 'static) -> On {
        self.key = Some(Arc::new(holds));
        self
    }

    /// From the n-th such call on, counted from 1.
    pub fn nth(mut self, n: usize) -> On {
        self.skip = n.checked_sub(1).expect("calls are counted from 1");
        self
    }

    /// For so many calls, then no more.
    pub fn times(mut self, times: usize) -> On {
        self.times = times;
        self
    }

    /// Once.
    pub fn once(self) -> On {
        self.times(1)
    }

    fn means(&self, call: &Call) -> bool {
        self.op.is_none_or(|op| op == call.op)
            && self.method.as_ref().is_none_or(|m| *m == call.method)
            && self.key.as_ref().is_none_or(|holds| holds(&call.key()))
    }
}

/// One line of the plan, kept by the test to ask about.
pub struct Line {
    on: On,
    fault: Fault,
    seen: AtomicUsize,
    fired: AtomicUsize,
    lifted: AtomicBool,
}

impl Line {
    /// How many calls it befell.
    pub fn fired(&self) -> usize {
        self.fired.load(Ordering::SeqCst)
    }

    /// From now on it befalls none.
    pub fn lift(&self) {
        self.lifted.store(true, Ordering::SeqCst);
    }

    fn strikes(&self, call: &Call) -> bool {
        if self.lifted.load(Ordering::SeqCst) || !self.on.means(call) {
            return false;
        }
        let seen = self.seen.fetch_add(1, Ordering::SeqCst);
        let strikes = seen >= self.on.skip && seen - self.on.skip < self.on.times;
        if strikes {
            self.fired.fetch_add(1, Ordering::SeqCst);
        }
        strikes
    }
}

/// A transport that fails as planned; cheap to clone.
#[derive(Clone)]
pub struct Faults {
    inner: Arc<dyn Transport>,
    plan: Arc<Mutex<Vec<Arc<Line>>>>,
    down: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
}

impl Faults {
    pub fn over(inner: Arc<dyn Transport>) -> Faults {
        Faults { inner, plan: Arc::default(), down: Arc::default(), calls: Arc::default() }
    }

    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.clone())
    }

    /// Adds a line to the end of the plan.
    pub fn plan(&self, on: On, fault: Fault) -> Arc<Line> {
        let line = Arc::new(Line {
            on,
            fault,
            seen: AtomicUsize::new(0),
            fired: AtomicUsize::new(0),
            lifted: AtomicBool::new(false),
        });
        self.lines().push(line.clone());
        line
    }

    /// The server is gone: every call fails to connect, and bodies under way break off.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// How many calls came, faulty or not.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Line>>> {
        self.plan.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What befalls this call: first what lets it go on, then at most one fault that decides.
    fn fate(&self, call: &Call) -> (Vec<Fault>, Option<Fault>) {
        let mut before = Vec::new();
        for line in self.lines().iter() {
            if line.strikes(call) {
                match &line.fault {
                    fault @ (Fault::Delay(_) | Fault::Meanwhile(_)) => before.push(fault.clone()),
                    fault => return (before, Some(fault.clone())),
                }
            }
        }
        (before, None)
    }

    async fn carry(&self, request: Request) -> Result<Response, TransportError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let call = Call::of(&request);
        let (before, decides) = self.fate(&call);
        for fault in before {
            match fault {
                Fault::Delay(time) => tokio::time::sleep(time).await,
                Fault::Meanwhile(run) => run(),
                _ => unreachable!("only these let a call go on"),
            }
        }
        if self.down.load(Ordering::SeqCst) {
            return Err(TransportError::Connect("connection refused (injected)".to_string()));
        }
        let mut response = match decides {
            Some(fault) => self.befall(&call, request, fault).await?,
            None => self.inner.send(request).await?,
        };
        response.body = mortal(response.body, self.down.clone());
        Ok(response)
    }

    async fn befall(&self, call: &Call, request: Request, fault: Fault) -> Result<Response, TransportError> {
        let lost = || TransportError::Lost("connection reset by peer (injected)".to_string());
        match fault {
            Fault::Connect => Err(TransportError::Connect("connection refused (injected)".to_string())),
            Fault::Timeout => Err(TransportError::Timeout("no answer (injected)".to_string())),
            Fault::Hang => std::future::pending().await,
            Fault::AnswerLost => {
                drain(self.inner.send(request).await?.body).await;
                Err(lost())
            }
            Fault::AnswerHangs => {
                drain(self.inner.send(request).await?.body).await;
                std::future::pending().await
            }
            Fault::Reset { after } => {
                let response = self.inner.send(request).await?;
                Ok(cut(response, after, Some(stream::iter([Err(lost())]).boxed())))
            }
            Fault::Truncate { after } => Ok(cut(self.inner.send(request).await?, after, None)),
            Fault::Stall { after } => {
                let response = self.inner.send(request).await?;
                Ok(cut(response, after, Some(stream::pending().boxed())))
            }
            Fault::Slow { pause } => {
                let mut response = self.inner.send(request).await?;
                response.body = response
                    .body
                    .then(move |frame| async move {
                        tokio::time::sleep(pause).await;
                        frame
                    })
                    .boxed();
                Ok(response)
            }
            Fault::Corrupt { at } => {
                let mut response = self.inner.send(request).await?;
                response.body = corrupted(response.body, at);
                Ok(response)
            }
            Fault::SlowDown { retry_after } => {
                let headers = retry_after.map(|s| ("retry-after", s.to_string()));
                Ok(refusal(call, 503, "SlowDown", headers.into_iter().collect(), ""))
            }
            Fault::Error { status, code } => Ok(refusal(call, status, code, vec![], "")),
            Fault::ErrorIn200 { code } => Ok(refusal(call, 200, code, vec![], "")),
            Fault::ExpiredToken => Ok(refusal(call, 403, "ExpiredToken", vec![], "")),
            Fault::Redirect { region } => {
                let headers = vec![("x-amz-bucket-region", region.to_string())];
                let extra = leaf("Endpoint", &format!("bucket.s3.{region}.amazonaws.com"));
                Ok(refusal(call, 301, "PermanentRedirect", headers, &extra))
            }
            Fault::AuthMalformed { region } => {
                let extra = leaf("Region", region);
                // To a HEAD the body cannot say it, so S3 adds the header.
                let headers =
                    (call.method == Method::HEAD).then(|| ("x-amz-bucket-region", region.to_string()));
                let headers = headers.into_iter().collect();
                Ok(refusal(call, 400, "AuthorizationHeaderMalformed", headers, &extra))
            }
            Fault::Answer { status, headers, body } => Ok(answer(status, headers, body)),
            Fault::Delay(_) | Fault::Meanwhile(_) => unreachable!("these decide nothing"),
        }
    }
}

impl Transport for Faults {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(self.carry(request))
    }
}

fn refusal(
    call: &Call,
    status: u16,
    code: &str,
    mut headers: Vec<(&'static str, String)>,
    extra: &str,
) -> Response {
    headers.push(("content-type", "application/xml".to_string()));
    headers.push(("x-amz-request-id", "INJECTED".to_string()));
    headers.push(("x-amz-id-2", "injectedHostId".to_string()));
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>{}{}{extra}{}{}</Error>",
        leaf("Code", code),
        leaf("Message", "injected by the test"),
        leaf("RequestId", "INJECTED"),
        leaf("HostId", "injectedHostId"),
    );
    // HTTP has no body in the answer to a HEAD, and so no code.
    let body = if call.method == Method::HEAD { Bytes::new() } else { Bytes::from(body) };
    answer(status, headers, body)
}

fn answer(status: u16, headers: Vec<(&'static str, String)>, body: Bytes) -> Response {
    let mut map = HeaderMap::new();
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let length = body.len().to_string();
    for (name, value) in [("date", date), ("content-length", length)].into_iter().chain(headers) {
        let value = HeaderValue::from_str(&value).expect("a header value");
        map.insert(HeaderName::from_static(name), value);
    }
    let frames = (!body.is_empty()).then_some(Ok(body));
    Response { status, headers: map, body: stream::iter(frames).boxed() }
}

async fn drain(mut body: BodyStream) {
    while body.next().await.is_some() {}
}

/// The first `after` bytes of the body, then `end`, or the end.
fn cut(mut response: Response, after: usize, end: Option<BodyStream>) -> Response {
    let mut left = after;
    let head = response.body.map(move |frame| {
        frame.map(|mut bytes| {
            let frame = bytes.split_to(left.min(bytes.len()));
            left -= frame.len();
            (frame, left == 0)
        })
    });
    // Frames up to and with the one that fills the measure; an empty one is no frame.
    let head = stream::unfold((head, false), |(mut head, full)| async move {
        if full {
            return None;
        }
        match head.next().await? {
            Ok((frame, full)) => Some((Ok(frame), (head, full))),
            Err(e) => Some((Err(e), (head, true))),
        }
    })
    .filter(|frame| {
        let keep = frame.as_ref().map_or(true, |f| !f.is_empty());
        async move { keep }
    });
    response.body = match end {
        Some(end) => head.chain(end).boxed(),
        None => head.boxed(),
    };
    response
}

fn corrupted(body: BodyStream, at: usize) -> BodyStream {
    let mut passed = 0;
    body.map(move |frame| {
        frame.map(|bytes| {
            let begin = passed;
            passed += bytes.len();
            if (begin..passed).contains(&at) {
                let mut changed = bytes.to_vec();
                changed[at - begin] ^= 0x01;
                changed.into()
            } else {
                bytes
            }
        })
    })
    .boxed()
}

/// A body that dies with its server.
fn mortal(body: BodyStream, down: Arc<AtomicBool>) -> BodyStream {
    stream::unfold((body, down, false), |(mut body, down, dead)| async move {
        if dead {
            return None;
        }
        let frame = body.next().await?;
        if down.load(Ordering::SeqCst) {
            let lost = TransportError::Lost("the server is gone (injected)".to_string());
            return Some((Err(lost), (body, down, true)));
        }
        Some((frame, (body, down, false)))
    })
    .boxed()
}
