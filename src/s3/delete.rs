//! DeleteObject, DeleteObjects.
//!
//! Owns: which keys can be named in one request, and what becomes of those that cannot.
//! Invariant: every key is either gone or answered as a failure.
//! Must never know: directories.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};
use http::Method;

use super::object::is_gone;
use super::{DeleteFailure, R, S3Client, call, payload, set_document, xml};
use crate::aws::endpoint::check_key;
use crate::aws::retry::{Call, Effort, Failure, is_transient};
use crate::error::{S3Error, S3ErrorKind};

const KEYS_MAX: usize = 1000;
/// Of those that must go one by one.
const PARALLEL_MAX: usize = 8;

impl S3Client {
    /// A key that is not there is a success, as S3 has it.
    pub async fn delete_object(&self, key: &str) -> R<()> {
        let call = call("DeleteObject", Method::DELETE, Some(key));
        match self.send(&call).await {
            Err(e) if !is_gone(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// At most 1,000 keys; answers the refusals. Keys that XML cannot carry go one by one. Failures that
    /// may pass are tried again.
    ///
    /// # Errors
    /// If the request as a whole failed; then any of the keys may be gone.
    pub async fn delete_objects(&self, keys: &[String]) -> R<Vec<DeleteFailure>> {
        if keys.len() > KEYS_MAX {
            let call = call("DeleteObjects", Method::POST, None);
            return Err(self.refused(&call, format!("{} keys, S3 takes {KEYS_MAX}", keys.len())));
        }
        let (together, single): (Vec<&str>, Vec<&str>) =
            keys.iter().map(String::as_str).partition(|key| xml::is_safe_text(key) && check_key(key).is_ok());
        let mut failures = self.delete_together(together).await?;
        let singly = stream::iter(single)
            .map(|key| async move { self.delete_object(key).await.err() })
            .buffer_unordered(PARALLEL_MAX);
        let refused: Vec<Option<S3Error>> = singly.collect().await;
        failures.extend(refused.into_iter().flatten().map(failure_of));
        Ok(failures)
    }

    async fn delete_together(&self, keys: Vec<&str>) -> R<Vec<DeleteFailure>> {
        let mut left = keys;
        let mut failures = Vec::new();
        let mut effort = self.wire().effort();
        while !left.is_empty() {
            let mut call = call("DeleteObjects", Method::POST, None);
            call.query.push(("delete", "".into()));
            let document = document(&left);
            let md5 = payload::content_md5(document.as_bytes());
            self.set_header(&mut call, "content-md5", &md5)?;
            set_document(&mut call, document).await;
            let told = self.deletions_refused(&call, &mut effort).await?;
            let (passing, lasting): (Vec<DeleteFailure>, Vec<DeleteFailure>) =
                told.into_iter().partition(|f| is_transient(&f.code));
            failures.extend(lasting);
            let Some(first) = passing.first() else {
                break;
            };
            let reason = Failure {
                code: Some(first.code.clone()),
                ..Failure::local(S3ErrorKind::Unavailable, first.message.clone())
            };
            if self.wire().pause(&call, &mut effort, reason).await.is_err() {
                failures.extend(passing);
                break;
            }
            let again: HashMap<&str, ()> = passing.iter().map(|f| (f.key.as_str(), ())).collect();
            left.retain(|key| again.contains_key(key));
        }
        Ok(failures)
    }

    async fn deletions_refused(&self, call: &Call<'_>, effort: &mut Effort) -> R<Vec<DeleteFailure>> {
        let answer = self.wire().send(call, effort).await?;
        let told = xml::parse_root(&answer.body, "DeleteResult")
            .map_err(|e| self.malformed(call, effort, e.to_string()))?;
        let text = |e: &xml::Element, name| e.text_of(name).unwrap_or("").to_string();
        Ok(told
            .children("Error")
            .map(|e| DeleteFailure {
                key: text(e, "Key"),
                code: text(e, "Code"),
                message: text(e, "Message"),
            })
            .filter(|f| f.code != "NoSuchKey")
            .collect())
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

fn failure_of(e: S3Error) -> DeleteFailure {
    DeleteFailure {
        code: e.code.unwrap_or_else(|| format!("{:?}", e.kind)),
        key: e.key.unwrap_or_default(),
        message: e.message,
    }
}
