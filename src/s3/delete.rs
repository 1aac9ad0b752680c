//! DeleteObject, DeleteObjects.
//!
//! Owns: which keys can be named in one request, and what becomes of those that cannot; servers that do not
//! know DeleteObjects.
//! Invariant: every key is either gone or answered as a failure.
//! Must never know: directories.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};
use http::Method;

use super::object::is_gone;
use super::{ObjectId, R, S3Client, call, call_on, error, payload, set_document, xml};
use crate::aws::endpoint::check_key;
use crate::aws::retry::{Call, Effort, Failure, is_transient};
use crate::error::{S3Error, S3ErrorKind};

/// Keys that one DeleteObjects takes, at most.
pub const DELETE_KEYS_MAX: usize = 1000;
/// Of those that must go one by one.
const PARALLEL_MAX: usize = 8;

impl S3Client {
    /// A key that is not there is a success, as S3 has it.
    pub async fn delete_object(&self, key: &str) -> R<()> {
        self.delete_object_version(ObjectId::current(key)).await
    }

    /// With a version id that version is gone for good, or the delete marker taken away; without one a bucket with
    /// versions gets a delete marker. What is not there is a success.
    pub async fn delete_object_version(&self, object: ObjectId<'_>) -> R<()> {
        let call = call_on("DeleteObject", Method::DELETE, Some(object));
        match self.send(&call).await {
            Err(e) if !is_gone(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// At most 1,000 keys; answers the refusals, each with its key. Keys that XML cannot carry go one by one,
    /// and so do all where the server does not know DeleteObjects. Failures that may pass are tried again.
    ///
    /// # Errors
    /// If the request as a whole failed; then any of the keys may be gone.
    pub async fn delete_objects(&self, keys: &[String]) -> R<Vec<S3Error>> {
        if keys.len() > DELETE_KEYS_MAX {
            let call = call("DeleteObjects", Method::POST, None);
            return Err(self.refused(&call, format!("{} keys, S3 takes {DELETE_KEYS_MAX}", keys.len())));
        }
        if self.inner.batches_refused.load(Ordering::Relaxed) {
            return Ok(self.delete_singly(keys.iter().map(String::as_str).collect()).await);
        }
        let (together, single): (Vec<&str>, Vec<&str>) =
            keys.iter().map(String::as_str).partition(|key| xml::is_safe_text(key) && check_key(key).is_ok());
        let mut refused = match self.delete_together(&together).await {
            Err(e) if e.kind == S3ErrorKind::NotImplemented => {
                if !self.inner.batches_refused.swap(true, Ordering::Relaxed) {
                    tracing::warn!(reason = %e, "the server does not know DeleteObjects; deleting one by one");
                }
                self.delete_singly(together).await
            }
            told => told?,
        };
        refused.extend(self.delete_singly(single).await);
        Ok(refused)
    }

    async fn delete_singly(&self, keys: Vec<&str>) -> Vec<S3Error> {
        let each: Vec<_> =
            keys.into_iter().map(|key| async move { self.delete_object(key).await.err() }).collect();
        stream::iter(each).buffer_unordered(PARALLEL_MAX).filter_map(std::future::ready).collect().await
    }

    async fn delete_together(&self, keys: &[&str]) -> R<Vec<S3Error>> {
        let mut left = keys.to_vec();
        let mut refused = Vec::new();
        let mut effort = self.wire().effort();
        while !left.is_empty() {
            let mut call = call("DeleteObjects", Method::POST, None);
            call.query.push(("delete", "".into()));
            let document = document(&left);
            let md5 = payload::content_md5(document.as_bytes());
            self.set_header(&mut call, "content-md5", &md5)?;
            set_document(&mut call, document).await;
            let told = self.deletions_refused(&call, &mut effort).await?;
            let asked = |e: &S3Error| e.key.as_deref().is_some_and(|key| left.contains(&key));
            if let Some(e) = told.iter().find(|e| !asked(e)) {
                return Err(self.malformed(
                    &call,
                    &effort,
                    format!("a refusal of no key that was named: {e}"),
                ));
            }
            let (passing, lasting): (Vec<S3Error>, Vec<S3Error>) =
                told.into_iter().partition(|e| e.code.as_deref().is_some_and(is_transient));
            refused.extend(lasting);
            let Some(first) = passing.first() else {
                break;
            };
            let reason = Failure {
                code: first.code.clone(),
                ..Failure::local(S3ErrorKind::Unavailable, first.message.clone())
            };
            if self.wire().pause(&call, &mut effort, reason).await.is_err() {
                refused.extend(passing);
                break;
            }
            let again: HashSet<&str> = passing.iter().filter_map(|e| e.key.as_deref()).collect();
            left.retain(|key| again.contains(key));
        }
        Ok(refused)
    }

    async fn deletions_refused(&self, call: &Call<'_>, effort: &mut Effort) -> R<Vec<S3Error>> {
        let answer = self.wire().send(call, effort).await?;
        let told = xml::parse_root(&answer.body, "DeleteResult")
            .map_err(|e| self.malformed(call, effort, e.to_string()))?;
        let refusals = told.children("Error").map(|element| {
            let failure = error::within_success(element, &answer.headers);
            let key = element.text_of("Key").map(String::from);
            S3Error { key, ..self.wire().error(call, effort, failure) }
        });
        Ok(refusals.filter(|e| !is_gone(e)).collect())
    }
}

fn document(keys: &[&str]) -> String {
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>",
    );
    for key in keys {
        out.push_str("<Object><Key>");
        out.push_str(&xml::escape(key));
        out.push_str("</Key></Object>");
    }
    out.push_str("</Delete>");
    out
}
