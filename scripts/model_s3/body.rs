//! Bodies in and out: paced, sent without a copy, and recorded as they arrive.
//!
//! Owns: [`Pace`], [`Served`], [`receive`], and `aws-chunked` (uploads with trailing checksums).
//! Invariant: over a body's length the bandwidth is never exceeded, and missed by a timer's tick at most.
//! Must never know: which operation it is, keys.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use md5::{Digest as _, Md5};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::content::{Content, PERIOD, Recorder, mix};
use crate::counts::Meter;

/// Small enough that 90 MB/s look even, large enough to be cheap.
const PACED_FRAME_BYTES: usize = 128 << 10;
/// How far a late timer may be caught up with.
const CATCH_UP: Duration = Duration::from_millis(4);
/// Bodies up to here have the MD5 as ETag, as S3 has it; of larger ones it would cost more than all else.
const MD5_BYTES_MAX: u64 = 1 << 20;
/// A checksum header in `aws-chunked` framing is far shorter.
const LINE_BYTES_MAX: usize = 4096;

/// When the bytes of one body may pass.
#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    /// When what has passed so far is through.
    through: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Pace {
    /// None: no limit.
    fn new(mb_per_second: u64) -> Option<Pace> {
        let now = Instant::now();
        (mb_per_second > 0).then(|| Pace {
            bytes_per_second: mb_per_second * 1_000_000,
            through: now,
            timer: Box::pin(sleep_until(now)),
        })
    }

    /// Books the bytes; [`Pace::poll`] is ready when they are through.
    fn book(&mut self, bytes: usize) {
        let nanos = bytes as u64 * 1_000_000_000 / self.bytes_per_second;
        let from = Instant::now().checked_sub(CATCH_UP).map_or(self.through, |t| t.max(self.through));
        self.through = from + Duration::from_nanos(nanos);
        self.timer.as_mut().reset(self.through);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.through <= Instant::now() {
            return Poll::Ready(());
        }
        self.timer.as_mut().poll(cx)
    }
}

/// A body on its way out.
#[derive(Debug)]
pub struct Served {
    content: Content,
    pace: Option<Pace>,
    /// Booked, not through yet.
    waiting: Option<Bytes>,
    /// Some: a GET, which counts.
    meter: Option<Arc<Meter>>,
}

impl Served {
    /// A document, or nothing.
    pub fn text(text: String) -> Served {
        let mut recorder = Recorder::default();
        recorder.push(text.as_bytes()).expect("documents are small");
        Served { content: recorder.finish(), pace: None, waiting: None, meter: None }
    }

    /// What a GET asked for.
    pub fn object(content: Content, mb_per_second: u64, meter: Arc<Meter>) -> Served {
        meter.counts.get_begins();
        meter.counts.bytes_asked.fetch_add(content.len(), Relaxed);
        Served { content, pace: Pace::new(mb_per_second), waiting: None, meter: Some(meter) }
    }

    fn left(&self) -> u64 {
        self.content.len() + self.waiting.as_ref().map_or(0, |frame| frame.len() as u64)
    }
}

impl Body for Served {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let frame = match &mut this.pace {
            None => this.content.take_frame(PERIOD),
            Some(pace) => {
                if this.waiting.is_none() {
                    this.waiting = this.content.take_frame(PACED_FRAME_BYTES);
                    pace.book(this.waiting.as_ref().map_or(0, Bytes::len));
                }
                ready!(pace.poll(cx));
                this.waiting.take()
            }
        };
        if let (Some(meter), Some(frame)) = (&this.meter, &frame) {
            meter.counts.bytes_sent.fetch_add(frame.len() as u64, Relaxed);
        }
        Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            meter.counts.get_ends();
        }
    }
}

/// A body that has arrived.
#[derive(Debug)]
pub struct Received {
    pub content: Content,
    /// In quotes.
    pub etag: String,
}

/// S3's error code and a text.
pub type Refused = (&'static str, String);

/// Takes the whole body, and checks it against the checksum it claims.
pub async fn receive(headers: &HeaderMap, body: Incoming, meter: &Meter) -> Result<Received, Refused> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let mb_per_second = meter.delays.lock().expect("no holder panics").mb_per_second;
    let mut pace = Pace::new(mb_per_second);
    let declared =
        text("x-amz-decoded-content-length").or(text("content-length")).and_then(|n| n.parse().ok());
    let mut sink = Sink::new(declared.is_some_and(|n: u64| n <= MD5_BYTES_MAX));
    let chunked = text("x-amz-content-sha256").is_some_and(|v| v.starts_with("STREAMING-"))
        || text("content-encoding").is_some_and(|v| v.split(',').any(|v| v.trim() == "aws-chunked"));
    let mut chunks = chunked.then(Chunks::default);
    let mut body = std::pin::pin!(body);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|e| ("IncompleteBody", e.to_string()))?;
        let Ok(bytes) = frame.into_data() else { continue };
        meter.counts.bytes_received.fetch_add(bytes.len() as u64, Relaxed);
        match &mut chunks {
            Some(chunks) => chunks.push(&bytes, &mut sink)?,
            None => sink.push(&bytes)?,
        }
        if let Some(pace) = &mut pace {
            pace.book(bytes.len());
            poll_fn(|cx| pace.poll(cx)).await;
        }
    }
    let trailer = match chunks {
        Some(chunks) => chunks.finish()?,
        None => None,
    };
    sink.finish(declared, trailer.as_deref().or(text("x-amz-checksum-crc32c")))
}

/// Where the bytes of an upload end.
struct Sink {
    recorder: Recorder,
    crc: Crc,
    md5: Option<Md5>,
    len: u64,
}

impl Sink {
    fn new(with_md5: bool) -> Sink {
        Sink {
            recorder: Recorder::default(),
            crc: Crc::new(CrcAlgorithm::Crc32Iscsi),
            md5: with_md5.then(Md5::new),
            len: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.crc.update(bytes);
        self.len += bytes.len() as u64;
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.recorder.push(bytes).map_err(|_| {
            let why =
                "more than 64 MiB that are neither zeros nor the pattern: this server keeps no such object";
            ("NotImplemented", why.to_string())
        })
    }

    fn finish(self, declared: Option<u64>, claimed: Option<&str>) -> Result<Received, Refused> {
        if declared.is_some_and(|declared| declared != self.len) {
            return Err(("IncompleteBody", format!("{} bytes came", self.len)));
        }
        let [_, _, _, _, crc @ ..] = self.crc.finalize().to_be_bytes();
        if claimed.is_some_and(|claimed| claimed != BASE64.encode(crc)) {
            return Err(("BadDigest", "the CRC32C is another".to_string()));
        }
        let etag = match self.md5 {
            Some(md5) => format!("\"{}\"", hex(&md5.finalize())),
            None => {
                let sum = mix(u64::from(u32::from_be_bytes(crc)) << 32 ^ self.len);
                format!("\"{sum:016x}{:016x}-1\"", mix(sum))
            }
        };
        Ok(Received { content: self.recorder.finish(), etag })
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The framing of `aws-chunked`: `SIZE[;…]CRLF DATA CRLF … 0 CRLF trailers CRLF`.
#[derive(Debug, Default)]
struct Chunks {
    /// Of the chunk that is being read.
    data_left: u64,
    line: Vec<u8>,
    /// After the chunk of size 0.
    in_trailers: bool,
    crc32c: Option<String>,
}

impl Chunks {
    fn push(&mut self, mut bytes: &[u8], sink: &mut Sink) -> Result<(), Refused> {
        while !bytes.is_empty() {
            if self.data_left > 0 {
                let n = (bytes.len() as u64).min(self.data_left) as usize;
                sink.push(&bytes[..n])?;
                self.data_left -= n as u64;
                bytes = &bytes[n..];
                continue;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let n = end.map_or(bytes.len(), |at| at + 1);
            self.line.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.line.len() > LINE_BYTES_MAX {
                return Err(("InvalidRequest", "not aws-chunked: a line without an end".into()));
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                self.read_line(String::from_utf8_lossy(&line).trim())?;
            }
        }
        Ok(())
    }

    fn read_line(&mut self, line: &str) -> Result<(), Refused> {
        if self.in_trailers {
            if let Some(("x-amz-checksum-crc32c", value)) = line.split_once(':') {
                self.crc32c = Some(value.trim().to_string());
            }
        } else if !line.is_empty() {
            let size = line.split(';').next().unwrap_or("");
            self.data_left = u64::from_str_radix(size, 16)
                .map_err(|e| ("InvalidRequest", format!("not aws-chunked: {line:?}: {e}")))?;
            self.in_trailers = self.data_left == 0;
        }
        Ok(())
    }

    /// The CRC32C of the trailers.
    fn finish(self) -> Result<Option<String>, Refused> {
        if self.in_trailers { Ok(self.crc32c) } else { Err(("IncompleteBody", "no last chunk".into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_come_apart_anywhere(parts in prop::collection::vec("[a-z\r\n0]{1,30}", 0..5), cut in 1usize..20) {
            let whole: String = parts.concat();
            let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, whole.as_bytes()) as u32;
            let crc = BASE64.encode(crc.to_be_bytes());
            let chunk = |part: &String| format!("{:x};chunk-signature=00\r\n{part}\r\n", part.len());
            let framed = parts.iter().map(chunk).collect::<String>() + "0\r\nx-amz-checksum-crc32c:" + &crc + "\r\n\r\n";
            let mut chunks = Chunks::default();
            let mut sink = Sink::new(true);
            for piece in framed.as_bytes().chunks(cut) {
                chunks.push(piece, &mut sink).unwrap();
            }
            let claimed = chunks.finish().unwrap();
            prop_assert_eq!(claimed.as_ref(), Some(&crc));
            let received = sink.finish(Some(whole.len() as u64), claimed.as_deref()).unwrap();
            prop_assert_eq!(received.content.len(), whole.len() as u64);
            prop_assert_eq!(received.etag, format!("\"{}\"", hex(&Md5::digest(whole.as_bytes()))));
        }
    }

    #[test]
    fn what_is_broken_is_refused() {
        let mut sink = Sink::new(false);
        assert_eq!(Chunks::default().push(b"hello\r\n", &mut sink).unwrap_err().0, "InvalidRequest");
        assert_eq!(Chunks::default().push(&[b'1'; 5000], &mut sink).unwrap_err().0, "InvalidRequest");
        let mut cut = Chunks::default();
        cut.push(b"5\r\nab", &mut sink).unwrap();
        assert_eq!(cut.finish().unwrap_err().0, "IncompleteBody");
        sink.push(b"ab").unwrap();
        assert_eq!(sink.finish(None, Some("AAAAAA==")).unwrap_err().0, "BadDigest");
        assert_eq!(Sink::new(false).finish(Some(1), None).unwrap_err().0, "IncompleteBody");
    }

    #[tokio::test(start_paused = true)]
    async fn a_paced_body_takes_its_time() {
        let begun = Instant::now();
        let mut body = Served::text(String::new());
        body.content = Content::of_key("k", 9_000_000);
        body.pace = Pace::new(90);
        let mut bytes = 0;
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            bytes += frame.into_data().unwrap().len();
        }
        assert_eq!(bytes, 9_000_000);
        let took = begun.elapsed().as_millis();
        assert!((94..=101).contains(&took), "{took} ms");
    }
}
