//! The seam at the wire: one method, request in, response out.
//!
//! Owns: [`Transport`], [`Request`], [`Response`].
//! Below it stands reqwest, or in tests a fake server or injected faults, so that these also exercise
//! retry, signing and XML. Must never know: S3, signing, retries.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{HeaderMap, Method};

/// A request whose body can be sent again: chunks are shared, not copied.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    /// Absolute, with path and query encoded as they go on the wire.
    pub url: String,
    pub headers: HeaderMap,
    pub body: Vec<Bytes>,
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
