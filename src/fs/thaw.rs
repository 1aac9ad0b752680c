//! Archived objects that are read: asked back from the archive, and waited for where that is wanted
//! (`--restore-on-read`).
//!
//! Owns: when RestoreObject is asked, how long a read waits for it, and who waits no longer.
//! Invariants: nothing but a read asks; of one file one read asks and looks again, the others wait for it; a program
//! that is killed, or gets another signal, is answered within a second or two; at most [`WAITING_MAX`] reads wait, for
//! the kernel has no more than 128 under way, of all files.
//! Must never know: FUSE.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

use super::Filesystem;
use super::signals::Caller;
use crate::config::RestoreConfig;
use crate::error::{Error, S3Error, S3ErrorKind};
use crate::s3::{ObjectDetails, ObjectId};

/// Reads that wait at once, at most; what comes after them is refused as if nobody waited.
const WAITING_MAX: usize = 64;
/// Between two looks at an object: twice as long each time. The quickest restore takes a minute, most take hours.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Of all buckets of the mount.
#[derive(Clone)]
pub(super) struct Waiting(Arc<Semaphore>);

impl Waiting {
    pub fn new() -> Waiting {
        Waiting(Arc::new(Semaphore::new(WAITING_MAX)))
    }
}

/// What HeadObject says of an object that S3 would not read.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Archived,
    UnderWay,
    /// It can be read, for now or for good.
    There,
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html>: `x-amz-restore`, `x-amz-archive-status`.
fn state(storage_class: Option<&str>, headers: &HeaderMap) -> State {
    let told = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let archived = matches!(storage_class, Some("GLACIER" | "DEEP_ARCHIVE")) || is_tiered(headers);
    match told("x-amz-restore") {
        Some(restore) if restore.contains("ongoing-request=\"true\"") => State::UnderWay,
        Some(_) => State::There,
        None if archived => State::Archived,
        None => State::There,
    }
}

/// Within INTELLIGENT_TIERING, from where objects come back for good.
fn is_tiered(headers: &HeaderMap) -> bool {
    headers.contains_key("x-amz-archive-status")
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html>.
fn takes(storage_class: Option<&str>, tier: Option<&str>) -> &'static str {
    match (tier, storage_class) {
        (Some("Expedited"), _) => "1 to 5 minutes",
        (Some("Bulk"), Some("DEEP_ARCHIVE")) => "up to 48 hours",
        (Some("Bulk"), _) => "5 to 12 hours",
        (_, Some("DEEP_ARCHIVE")) => "up to 12 hours",
        _ => "3 to 5 hours",
    }
}

impl Filesystem {
    /// [`Filesystem::read`] for the thread `tid`; an archived object is asked back, and waited for if that is wanted.
    ///
    /// Errors: as there; [`Error::Interrupted`] where the thread has a signal to take.
    pub async fn read_by(
        &self,
        tid: u32,
        fh: u64,
        offset: u64,
        len: usize,
    ) -> Result<Vec<bytes::Bytes>, Error> {
        let refusal = match (self.read(fh, offset, len).await, &self.config.restore) {
            (Err(e), Some(restore)) if e.s3_kind() == Some(S3ErrorKind::Archived) => (e, restore),
            (read, _) => return read,
        };
        let (refusal, restore) = refusal;
        let ino = self.handles.file(fh)?.ino;
        let Some(caller) = Caller::of(tid) else {
            self.thaw(ino, restore, refusal).await?;
            return self.read(fh, offset, len).await;
        };
        tokio::select! {
            thawed = self.thaw(ino, restore, refusal) => thawed?,
            () = caller.is_signalled() => return Err(Error::Interrupted),
        }
        self.read(fh, offset, len).await
    }

    /// Answers when the object can be read. `refusal`: what is answered if nobody waits, or too long.
    async fn thaw(&self, ino: u64, restore: &RestoreConfig, refusal: Error) -> Result<(), Error> {
        let _waits = match restore.wait {
            None => None,
            Some(_) => match self.waiting.0.try_acquire() {
                Ok(waits) => Some(waits),
                Err(_) => {
                    tracing::warn!("{WAITING_MAX} reads wait for archived objects: another one does not");
                    return Err(refusal);
                }
            },
        };
        let until = restore.wait.map(|wait| Instant::now() + wait);
        let turn = self.thawing.turn(ino);
        let _turn = turn.lock().await;
        let key = self.namespace.key(ino)?;
        let located = self.client.locate(&key).await?;
        let mut pause = PAUSE_FIRST;
        loop {
            match self.look(located.id(), restore).await {
                Ok(State::There) => return Ok(()),
                Ok(State::Archived | State::UnderWay) => {}
                // Who waits for hours waits for the server, too.
                Err(e) if e.kind == S3ErrorKind::Unavailable && until.is_some() => tracing::warn!("{e}"),
                Err(e) => return Err(e.into()),
            }
            let Some(until) = until.filter(|until| Instant::now() < *until) else {
                let key = key.escape_debug();
                tracing::info!(%key, "it is on its way back from the archive: this read does not wait for it");
                return Err(refusal);
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = sleep_until(until) => {}
            }
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// What is found; an archived object is asked back.
    async fn look(&self, object: ObjectId<'_>, restore: &RestoreConfig) -> Result<State, S3Error> {
        let details = self.client.head_object_details(object).await?;
        let found = state(details.head.storage_class.as_deref(), &details.headers);
        if found == State::Archived {
            self.ask_back(object, &details, restore).await?;
        }
        Ok(found)
    }

    async fn ask_back(
        &self,
        object: ObjectId<'_>,
        details: &ObjectDetails,
        restore: &RestoreConfig,
    ) -> Result<(), S3Error> {
        let RestoreConfig { days, tier, .. } = restore;
        let asked_days = Some(*days).filter(|_| !is_tiered(&details.headers));
        match self.client.restore_object(object, asked_days, tier.as_deref()).await {
            Err(e) if e.code.as_deref() != Some("RestoreAlreadyInProgress") => return Err(e),
            _ => {}
        }
        let takes = takes(details.head.storage_class.as_deref(), tier.as_deref());
        let key = object.key.escape_debug();
        tracing::warn!(%key, days, "its restore from the archive is asked for: read it again in {takes}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_an_objects_head_says_of_its_restore() {
        let none = headers(&[]);
        assert_eq!(state(None, &none), State::There);
        assert_eq!(state(Some("GLACIER_IR"), &none), State::There);
        assert_eq!(state(Some("DEEP_ARCHIVE"), &none), State::Archived);
        let tiered = headers(&[("x-amz-archive-status", "ARCHIVE_ACCESS")]);
        assert_eq!(state(Some("INTELLIGENT_TIERING"), &tiered), State::Archived);
        let asked = headers(&[("x-amz-restore", "ongoing-request=\"true\"")]);
        assert_eq!(state(Some("GLACIER"), &asked), State::UnderWay);
        let done = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"";
        assert_eq!(state(Some("GLACIER"), &headers(&[("x-amz-restore", done)])), State::There);
    }
}
