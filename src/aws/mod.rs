//! The wire: requests signed, sent, retried. Knows AWS's protocols, not what the requests mean.

pub mod credentials;
pub mod endpoint;
pub mod retry;
pub mod sign;
pub mod transport;
