//! HeadBucket: whether the bucket is there and may be used.
//!
//! Owns: the first request of a mount; its error is what a person reads when the mount does not work.
//! Must never know: what the bucket holds.

use http::Method;

use super::{R, S3Client, call};
use crate::aws::retry::Effort;
use crate::error::S3ErrorKind;

/// A person waits: a server that is not there is told of in a second, not after the full round of tries.
const TRIES_MAX: u32 = 3;

impl S3Client {
    /// Whether the bucket is there and may be used. Learns the bucket's region where it is not the one
    /// configured, or none is: any answer of AWS's tells it, whoever asks.
    ///
    /// # Errors
    /// `NoSuchBucket`, `AccessDenied`, `WrongRegion`, `NoCredentials`, `Unavailable`.
    pub async fn head_bucket(&self) -> R<()> {
        let call = call("HeadBucket", Method::HEAD, None);
        let mut effort = Effort::with_tries(self.wire().effort().timeout(), TRIES_MAX);
        let refusal = match self.wire().send(&call, &mut effort).await {
            Ok(_) => return Ok(()),
            Err(e) => e,
        };
        match refusal.kind {
            S3ErrorKind::NoSuchKey | S3ErrorKind::NoSuchBucket => Err(crate::error::S3Error {
                kind: S3ErrorKind::NoSuchBucket,
                message: "no such bucket".to_string(),
                ..refusal
            }),
            // An answer to HEAD has no text; the same question by GET has, and the same rights are needed.
            S3ErrorKind::AccessDenied | S3ErrorKind::Refused if refusal.status.is_some() => {
                let told = self.list_nothing(&mut effort).await.err();
                Err(told.unwrap_or(refusal))
            }
            _ => Err(refusal),
        }
    }

    async fn list_nothing(&self, effort: &mut Effort) -> R<()> {
        let mut call = call("HeadBucket", Method::GET, None);
        call.query.push(("list-type", "2".into()));
        call.query.push(("max-keys", "1".into()));
        self.wire().send(&call, effort).await.map(|_| ())
    }
}
