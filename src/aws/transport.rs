//! The seam at the wire: one method, request in, response out.
//!
//! Owns: [`Transport`], [`Request`], [`Response`], and [`HttpTransport`], which is reqwest behind that method.
//! Below the seam stands reqwest, or in tests a fake server or injected faults, so that these also exercise
//! retry, signing and XML. Invariant: a request is sent at most once, byte for byte as given, or refused.
//! Must never know: S3, signing, retries.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{HeaderMap, Method};
use http_body::{Body, Frame, SizeHint};

use super::resolve::Resolver;

/// A request whose body can be sent again: chunks are shared, not copied.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    /// Absolute, with path and query encoded as they go on the wire.
    pub url: String,
    pub headers: HeaderMap,
    pub body: Vec<Bytes>,
    /// Where the transport counts the bytes of the body it has taken.
    pub progress: Progress,
}

/// How many bytes of a request's body the transport has taken so far.
///
/// Whoever waits for the answer looks here to tell a slow line from a dead one. "Taken" means handed to
/// the connection, in slices of [`SLICE_BYTES`]: the connection asks for the next slice only when the
/// socket has room, so the count runs ahead of the server by the kernel's send buffer at most.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An answer whose body is still to come.
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: BodyStream,
}

/// Frames as they arrive.
pub type BodyStream = BoxStream<'static, Result<Bytes, TransportError>>;

/// No (whole) answer came.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("timed out: {0}")]
    Timeout(String),
    #[error("connection lost: {0}")]
    Lost(String),
}

/// Sends one request once.
pub trait Transport: Send + Sync + 'static {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>>;
}

/// Small enough that a slow line takes several a time-out, large enough to cost nothing on a fast one.
pub const SLICE_BYTES: usize = 64 << 10;
/// S3 serves well from some dozens of connections; more idle ones are of no use.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// Shorter than servers and middleboxes commonly wait, so that it is we who close an idle connection.
const IDLE_CONNECTION_AGE_MAX: Duration = Duration::from_secs(20);
/// A server that is there answers a SYN well within this; what is left of the time is for another try.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);

/// reqwest: HTTP/1.1, no redirects, no decompression, no retries of its own, proxies by the
/// environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
pub struct HttpTransport {
    client: reqwest::Client,
}

/// The transport could not be set up. Its text says why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(pub String);

impl HttpTransport {
    /// `ca_bundle`: PEM file of authorities to trust besides the system's. `tls`: whether the endpoint is
    /// https; without it the system's authorities are not read, and a machine that has none can mount.
    pub fn new(
        tls: bool,
        ca_bundle: Option<&Path>,
        request_timeout: Duration,
    ) -> Result<HttpTransport, SetupError> {
        HttpTransport::resolving(tls, ca_bundle, request_timeout, Resolver::system())
    }

    fn resolving(
        tls: bool,
        ca_bundle: Option<&Path>,
        request_timeout: Duration,
        resolver: Resolver,
    ) -> Result<HttpTransport, SetupError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("pailfs/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .dns_resolver(resolver)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(15))
            .connect_timeout((request_timeout / 3).min(CONNECT_WAIT_MAX))
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_CONNECTION_AGE_MAX);
        if tls {
            if let Some(path) = ca_bundle {
                builder = builder.tls_certs_merge(read_bundle(path)?);
            }
        } else {
            builder = builder.tls_certs_only([]);
        }
        let client =
            builder.build().map_err(|e| SetupError(format!("cannot set up HTTPS: {}", chain(&e))))?;
        Ok(HttpTransport { client })
    }

    async fn send_once(&self, request: Request) -> Result<Response, TransportError> {
        let url = reqwest::Url::parse(&request.url)
            .map_err(|e| TransportError::Connect(format!("bad URL: {e}")))?;
        // The URL type resolves dot segments and more; what it changed must never go out.
        if url.as_str() != request.url {
            return Err(TransportError::Connect(format!(
                "the URL would change on its way: {}",
                request.url.escape_debug()
            )));
        }
        let mut builder = self.client.request(request.method.clone(), url).headers(request.headers);
        let length: usize = request.body.iter().map(Bytes::len).sum();
        if length > 0 {
            builder =
                builder.body(reqwest::Body::wrap(Chunks::new(request.body, length as u64, request.progress)));
        } else if request.method == Method::PUT || request.method == Method::POST {
            builder = builder.header(http::header::CONTENT_LENGTH, 0);
        }
        let response = builder.send().await.map_err(|e| transport_error(&e))?;
        Ok(Response {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes_stream().map(|frame| frame.map_err(|e| transport_error(&e))).boxed(),
        })
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(self.send_once(request))
    }
}

fn read_bundle(path: &Path) -> Result<Vec<reqwest::Certificate>, SetupError> {
    let bad = |why: String| SetupError(format!("--ca-bundle {}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| bad(chain(&e)))?;
    if certificates.is_empty() {
        return Err(bad("no certificate in it: expected PEM".to_string()));
    }
    Ok(certificates)
}

fn transport_error(e: &reqwest::Error) -> TransportError {
    let text = chain(e);
    if e.is_connect() {
        TransportError::Connect(text)
    } else if e.is_timeout() {
        TransportError::Timeout(text)
    } else {
        TransportError::Lost(text)
    }
}

/// The causes of an error, the outermost left out: it repeats the URL, which may hold a signature.
fn chain(e: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut cause = e.source();
    while let Some(e) = cause {
        let text = e.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        cause = e.source();
    }
    if parts.is_empty() {
        // `without_url` wants the error by value; its display is the kind and the URL.
        let text = e.to_string();
        return text.split(" for url").next().unwrap_or("").to_string();
    }
    parts.join(": ")
}

/// A body of known length, so that it goes with Content-Length; slices of the chunks, shared.
struct Chunks {
    left: VecDeque<Bytes>,
    left_bytes: u64,
    progress: Progress,
}

impl Chunks {
    fn new(chunks: Vec<Bytes>, bytes: u64, progress: Progress) -> Chunks {
        Chunks { left: chunks.into_iter().filter(|c| !c.is_empty()).collect(), left_bytes: bytes, progress }
    }

    fn next(&mut self) -> Option<Bytes> {
        let front = self.left.front_mut()?;
        let slice =
            if front.len() > SLICE_BYTES { front.split_to(SLICE_BYTES) } else { self.left.pop_front()? };
        self.left_bytes -= slice.len() as u64;
        self.progress.add(slice.len() as u64);
        Some(slice)
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    fn transport() -> HttpTransport {
        HttpTransport::new(false, None, Duration::from_secs(5)).unwrap()
    }

    fn request(method: Method, url: String, body: Vec<Bytes>) -> Request {
        Request { method, url, headers: HeaderMap::new(), body, progress: Progress::default() }
    }

    /// Reads a request's head and `body` more bytes.
    async fn receive(socket: &mut TcpStream, body: usize) -> String {
        let mut got = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let n = socket.read(&mut buffer).await.unwrap();
            got.extend_from_slice(&buffer[..n]);
            let text = String::from_utf8_lossy(&got);
            if let Some(head) = text.find("\r\n\r\n")
                && got.len() >= head + 4 + body
            {
                return text.into_owned();
            }
            assert!(n > 0, "closed early: {text}");
        }
    }

    #[tokio::test]
    async fn connections_spread_over_all_addresses_of_the_server() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // All six are open before one is answered, so none is used again.
        let server = tokio::spawn(async move {
            let mut sockets = Vec::new();
            while sockets.len() < 6 {
                sockets.push(listener.accept().await.unwrap().0);
            }
            for socket in &mut sockets {
                receive(socket, 0).await;
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
            sockets.iter().map(|socket| socket.local_addr().unwrap().ip()).collect::<Vec<_>>()
        });
        let addresses = [1, 2, 3].map(|n| std::net::SocketAddr::from(([127, 0, 0, n], 0)));
        let lookup = move |_| async move { Ok(addresses.to_vec()) }.boxed();
        let resolver = Resolver::over(Box::new(lookup));
        let transport = HttpTransport::resolving(false, None, Duration::from_secs(5), resolver).unwrap();
        let get = || transport.send(request(Method::GET, format!("http://s3.test:{port}/k"), Vec::new()));
        for answer in futures_util::future::join_all((0..6).map(|_| get())).await {
            assert_eq!(answer.unwrap().status, 200);
        }
        let mut seen = server.await.unwrap();
        seen.sort();
        assert_eq!(seen, [0, 0, 1, 1, 2, 2].map(|n: usize| addresses[n].ip()));
    }

    #[tokio::test]
    async fn a_body_goes_with_its_length_and_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/b/a%20b//c?x=%2F", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let text = receive(&mut socket, 100_003).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            text
        });
        let chunks = vec![Bytes::from(vec![b'x'; 100_000]), Bytes::new(), "end".into()];
        let request = request(Method::PUT, url, chunks);
        let progress = request.progress.clone();
        let mut response = transport().send(request).await.unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(response.body.next().await.unwrap().unwrap(), "hi");
        assert!(response.body.next().await.is_none());
        assert_eq!(progress.bytes(), 100_003);
        let text = server.await.unwrap().to_lowercase();
        assert!(text.starts_with("put /b/a%20b//c?x=%2f http/1.1\r\n"), "{}", &text[..200]);
        assert!(text.contains("content-length: 100003\r\n"));
        assert!(!text.contains("transfer-encoding"));
        assert!(!text.contains("accept-encoding"));
    }

    #[tokio::test]
    async fn an_empty_put_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/b/k", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let text = receive(&mut socket, 0).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            text
        });
        transport().send(request(Method::PUT, url, Vec::new())).await.unwrap();
        assert!(server.await.unwrap().to_lowercase().contains("content-length: 0\r\n"));
    }

    #[tokio::test]
    async fn failures_are_told_apart_and_hold_no_query() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            receive(&mut socket, 0).await;
            drop(socket);
            let (mut socket, _) = listener.accept().await.unwrap();
            receive(&mut socket, 0).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhi").await.unwrap();
        });
        let get = || request(Method::GET, format!("http://{address}/k?secret=1"), Vec::new());
        let lost = transport().send(get()).await.err().unwrap();
        assert!(matches!(&lost, TransportError::Lost(t) if !t.contains("secret")), "{lost}");
        let mut short = transport().send(get()).await.unwrap();
        assert!(short.body.next().await.unwrap().is_ok());
        assert!(matches!(short.body.next().await, Some(Err(TransportError::Lost(_)))));
        server.await.unwrap();
        let refused = transport().send(get()).await.err().unwrap();
        assert!(matches!(&refused, TransportError::Connect(t) if !t.contains("secret")), "{refused}");
    }

    #[tokio::test]
    async fn a_url_that_would_change_is_not_sent() {
        let url = "http://127.0.0.1:1/b/a/../c".to_string();
        let e = transport().send(request(Method::GET, url, Vec::new())).await.err().unwrap();
        assert!(e.to_string().contains("change"), "{e}");
    }

    #[test]
    fn a_bundle_that_is_none_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let e = HttpTransport::new(true, Some(file.path()), Duration::from_secs(1)).err().unwrap();
        assert!(e.to_string().contains("--ca-bundle"), "{e}");
    }
}
