//! The wire: requests signed, sent, retried. Knows AWS's protocols, not what the requests mean.
//!
//! Owns: what stands between a typed operation and the network. From the bottom: `resolve` finds the server;
//! `transport` sends once; `sign`, `endpoint` are pure; `credentials` keeps keys; `retry` is the only loop that
//! sends.
//! Must never know: S3's operations, objects, XML.

pub mod credentials;
pub mod endpoint;
mod resolve;
pub mod retry;
pub mod sign;
pub mod transport;
