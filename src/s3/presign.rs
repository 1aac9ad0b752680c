//! Presigned URLs: a request on an object, signed now, sent later by whoever has the URL.
//!
//! Owns: which requests can be presigned.
//! Must never know: who gets the URL.

use std::time::Duration;

use http::Method;

use super::{ObjectId, R, S3Client, call_on};

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html>.
pub const PRESIGN_EXPIRES_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a presigned URL is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presigned {
    Get,
    Put,
    Delete,
}

impl S3Client {
    /// Sends nothing. The URL is signed for the region known now, and ends with the keys it was signed with, if that
    /// is sooner.
    ///
    /// # Errors
    /// `NoCredentials`; `Refused`, if `expires` is not between 1 s and [`PRESIGN_EXPIRES_MAX`].
    pub async fn presign(&self, what: Presigned, object: ObjectId<'_>, expires: Duration) -> R<String> {
        let (operation, method) = match what {
            Presigned::Get => ("GetObject", Method::GET),
            Presigned::Put => ("PutObject", Method::PUT),
            Presigned::Delete => ("DeleteObject", Method::DELETE),
        };
        let mut call = call_on(operation, method, Some(object));
        let standing = &self.inner.standing;
        call.query.extend(standing.in_query().map(|(name, value)| (name, value.into())));
        if !(Duration::from_secs(1)..=PRESIGN_EXPIRES_MAX).contains(&expires) {
            return Err(self.refused(&call, "a presigned URL lasts for 1 second to 7 days"));
        }
        self.wire().presign(&call, expires).await
    }
}
