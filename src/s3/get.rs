//! GetObject: a range of an object, as a body that survives broken connections.
//!
//! Owns: [`GetObject`], [`ObjectBody`].
//! Invariants: the body yields exactly `range`, all of one version of the object: what is asked for again is
//! pinned by the first answer's ETag. A body that ends early is never taken for the end.
//! Must never know: what reads it, or ahead of it.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http::Method;
use tokio::time::timeout;

use super::checksum::{Checksum, Promise};
use super::object::{CHECKSUM_MODE_HEADER, content_length, read_head};
use super::{ObjectHead, ObjectId, R, S3Client, call_on};
use crate::aws::retry::{Call, Effort, Failure};
use crate::aws::transport::{BodyStream, Response};
use crate::error::{S3Error, S3ErrorKind};
use crate::s3::error::header_text;

/// A body that yields nothing for this long is asked for again; half the time-out, if that is less, so
/// that asking again has its time, too.
const STALL_MAX: Duration = Duration::from_secs(10);

const END_MAX: u64 = i64::MAX.cast_unsigned();

pub struct GetObject {
    pub head: ObjectHead,
    /// The bytes the body holds: what was asked for, cut at the object's end.
    pub range: Range<u64>,
    pub body: ObjectBody,
}

/// A body that goes on from the byte where it broke, pinned by ETag.
pub struct ObjectBody {
    client: S3Client,
    key: String,
    version_id: Option<String>,
    etag: String,
    /// What is still to come.
    left: Range<u64>,
    /// None: to be asked for (again).
    stream: Option<BodyStream>,
    effort: Effort,
    /// Of a body that is the whole object.
    verifying: Option<(Promise, Checksum)>,
}

impl S3Client {
    /// `range`: none is the whole object; one that reaches past the end is cut there.
    ///
    /// # Errors
    /// `InvalidRange`, if the range begins at or past the end (but at 0 of an empty object);
    /// `PreconditionFailed`, if the object is no longer `if_match`.
    pub async fn get_object(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        if_match: Option<&str>,
    ) -> R<GetObject> {
        let (located, etag) = self.locate_pinned(key, if_match).await?;
        let got = self.get_object_version(located.id(), range, etag.as_deref()).await?;
        Ok(GetObject { head: self.told(&located, got.head), ..got })
    }

    /// [`S3Client::get_object`] of any version.
    ///
    /// # Errors
    /// As there; `NotImplemented` for a delete marker.
    pub async fn get_object_version(
        &self,
        object: ObjectId<'_>,
        range: Option<Range<u64>>,
        if_match: Option<&str>,
    ) -> R<GetObject> {
        if let Some(asked) = &range
            && asked.is_empty()
        {
            let head = self.head_object_if(object, if_match).await?;
            let nothing = asked.start..asked.start;
            return Ok(self.got(object, head, nothing, None, self.wire().effort(), None));
        }
        let call = self.get_call(object, range.clone(), if_match)?;
        let mut effort = self.wire().effort();
        match self.wire().open(&call, &mut effort).await {
            Ok(response) => {
                let (head, got) =
                    read_answer(&response, range).map_err(|why| self.malformed(&call, &effort, why))?;
                self.check_version(&call, &effort, &head, if_match)?;
                let whole = self.checksum_asked().is_some() && got == (0..head.size);
                let promise = Promise::of(&response.headers).filter(|_| whole);
                let verifying = promise.map(|promise| (promise.clone(), Checksum::new(promise.algorithm)));
                Ok(self.got(object, head, got, Some(response.body), effort, verifying))
            }
            // No byte can be had of an empty object, so a range of it is an error to S3.
            Err(e) if e.kind == S3ErrorKind::InvalidRange && range.is_some_and(|r| r.start == 0) => {
                let head = self.head_object_if(object, if_match).await?;
                if head.size > 0 {
                    return Err(e);
                }
                Ok(self.got(object, head, 0..0, None, effort, None))
            }
            Err(e) => Err(e),
        }
    }

    fn got(
        &self,
        object: ObjectId<'_>,
        head: ObjectHead,
        range: Range<u64>,
        stream: Option<BodyStream>,
        effort: Effort,
        verifying: Option<(Promise, Checksum)>,
    ) -> GetObject {
        let body = ObjectBody {
            client: self.clone(),
            key: object.key.to_string(),
            version_id: object.version_id.map(String::from),
            etag: head.etag.clone(),
            left: range.clone(),
            stream,
            effort,
            verifying,
        };
        GetObject { head, range, body }
    }

    fn get_call<'a>(
        &self,
        object: ObjectId<'a>,
        range: Option<Range<u64>>,
        if_match: Option<&str>,
    ) -> R<Call<'a>> {
        let mut call = call_on("GetObject", Method::GET, Some(object));
        call.headers.extend(self.inner.standing.content.clone());
        if let Some(Range { start, end }) = range {
            // Some servers read numbers past 2^63 as no range at all.
            let last = match end {
                0..=END_MAX => end.saturating_sub(1).to_string(),
                _ => String::new(),
            };
            self.set_header(&mut call, "range", &format!("bytes={start}-{last}"))?;
        }
        if let Some(etag) = if_match {
            self.set_header(&mut call, "if-match", etag)?;
        }
        if self.checksum_asked().is_some() {
            self.set_header(&mut call, CHECKSUM_MODE_HEADER, "ENABLED")?;
        }
        Ok(call)
    }
}

impl ObjectBody {
    /// The next frame as it arrived; none at the end of the range. May be called again after it was dropped.
    ///
    /// # Errors
    /// `PreconditionFailed`, if the body broke and the object has changed since; `Unavailable`, if nothing
    /// arrived within the time-out, counted over all tries; `Malformed`, if the bytes are not those that S3 keeps the
    /// checksum of, which is told before the last of them is given out.
    pub async fn frame(&mut self) -> Result<Option<Bytes>, S3Error> {
        loop {
            if self.left.is_empty() {
                // Polled to its end, the connection is free for others. A task of the pool's takes it back, and
                // needs a turn before the next request looks for one, or that opens another.
                if let Some(mut stream) = self.stream.take() {
                    let _ = stream.next().now_or_never();
                    drop(stream);
                    tokio::task::yield_now().await;
                }
                return Ok(None);
            }
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => {
                    let object = ObjectId { key: &self.key, version_id: self.version_id.as_deref() };
                    let (client, effort) = (&self.client, &mut self.effort);
                    none.insert(reopen(client, object, &self.etag, &self.left, effort).await?)
                }
            };
            let stall = STALL_MAX.min(self.effort.timeout() / 2).min(self.effort.left());
            let failure = match timeout(stall, stream.next()).await {
                Ok(Some(Ok(frame))) if frame.is_empty() => continue,
                Ok(Some(Ok(frame))) => return self.take(frame).map(Some),
                Ok(Some(Err(e))) => Failure::from(e),
                Ok(None) => Failure::local(
                    S3ErrorKind::Unavailable,
                    format!("the body ended {} bytes early", self.left.end - self.left.start),
                ),
                Err(_) => Failure::timed_out(format!("the body stalled for {stall:?}")),
            };
            self.stream = None;
            let call = self.client.get_call(ObjectId::current(&self.key), None, None)?;
            self.client.wire().pause(&call, &mut self.effort, failure).await?;
        }
    }

    fn take(&mut self, frame: Bytes) -> R<Bytes> {
        let bytes = frame.len() as u64;
        if bytes > self.left.end - self.left.start {
            let call = self.client.get_call(ObjectId::current(&self.key), None, None)?;
            let why = "more bytes than were asked for";
            return Err(self.client.malformed(&call, &self.effort, why));
        }
        self.left.start += bytes;
        self.effort.gained();
        if let Some((_, checksum)) = &mut self.verifying {
            checksum.update(&frame);
        }
        if self.left.is_empty()
            && let Some((promise, checksum)) = self.verifying.take()
            && let Err(differs) = promise.compare(&checksum.finish())
        {
            tracing::error!(bucket = self.client.bucket(), key = self.key, etag = self.etag, "{differs}");
            let call = self.client.get_call(ObjectId::current(&self.key), None, None)?;
            return Err(self.client.malformed(&call, &self.effort, differs));
        }
        Ok(frame)
    }
}

/// Asks again for what is left.
async fn reopen(
    client: &S3Client,
    object: ObjectId<'_>,
    etag: &str,
    left: &Range<u64>,
    effort: &mut Effort,
) -> R<BodyStream> {
    let call = client.get_call(object, Some(left.clone()), Some(etag))?;
    let response = client.wire().open(&call, effort).await?;
    let (head, got) =
        read_answer(&response, Some(left.clone())).map_err(|why| client.malformed(&call, effort, why))?;
    client.check_version(&call, effort, &head, Some(etag))?;
    if got != *left {
        return Err(client.malformed(&call, effort, "the object became shorter"));
    }
    Ok(response.body)
}

/// The head, and the range the body holds, which must be what was asked for, cut at the end.
fn read_answer(response: &Response, asked: Option<Range<u64>>) -> Result<(ObjectHead, Range<u64>), String> {
    let length = content_length(&response.headers);
    if response.status != 206 {
        let size = length.ok_or("no Content-Length")?;
        if asked.is_some_and(|asked| asked.start > 0 || asked.end < size) {
            return Err("the server sent the whole object where a range was asked for".to_string());
        }
        return Ok((read_head(&response.headers, size)?, 0..size));
    }
    let told = header_text(&response.headers, "content-range").ok_or("no Content-Range")?;
    let (got, size) = parse_content_range(&told).ok_or_else(|| format!("not a Content-Range: {told:?}"))?;
    let asked = asked.unwrap_or(0..size);
    let expected = asked.start..asked.end.min(size);
    if got != expected || length.is_some_and(|length| length != got.end - got.start) {
        return Err(format!("asked for bytes {expected:?}, the server sends {told:?}"));
    }
    Ok((read_head(&response.headers, size)?, got))
}

/// `bytes 0-9/1234` (RFC 9110, 14.4).
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let size = size.trim().parse().ok()?;
    (first <= last && last < size).then_some((first..last + 1, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 0-9/10"), Some((0..10, 10)));
        assert_eq!(parse_content_range("bytes 5-5/10"), Some((5..6, 10)));
        for bad in ["bytes 5-4/10", "bytes 0-10/10", "bytes */10", "0-9/10", "bytes 0-9/*", ""] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
