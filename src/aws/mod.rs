//! The wire: requests signed, sent, retried. Knows AWS's protocols, not what the requests mean.

pub mod transport;
