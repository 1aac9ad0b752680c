//! What a failed try calls for: pure.
//!
//! Owns: [`Failure`], all that one try told; [`Remedy`], what to do about it; the reading of Retry-After.
//! Invariant: only what may pass by itself is tried again.
//! Must never know: how requests are sent, how long one waits.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, header};

use crate::aws::transport::TransportError;
use crate::error::S3ErrorKind;

/// One failed try.
#[derive(Debug, Clone)]
pub struct Failure {
    pub kind: S3ErrorKind,
    pub status: Option<u16>,
    pub code: Option<String>,
    pub message: String,
    pub request_id: Option<String>,
    pub host_id: Option<String>,
    /// The region the server says the bucket is in.
    pub region: Option<String>,
    /// The server's Retry-After.
    pub after: Option<Duration>,
    /// The server's clock.
    pub date: Option<SystemTime>,
    /// No answer came in time.
    pub timed_out: bool,
    /// The request cannot have been carried out.
    pub not_sent: bool,
}

impl Failure {
    /// A failure without an answer.
    pub fn local(kind: S3ErrorKind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            status: None,
            code: None,
            message: message.into(),
            request_id: None,
            host_id: None,
            region: None,
            after: None,
            date: None,
            timed_out: false,
            not_sent: false,
        }
    }

    pub fn timed_out(message: impl Into<String>) -> Failure {
        Failure { timed_out: true, ..Failure::local(S3ErrorKind::Unavailable, message) }
    }
}

impl From<TransportError> for Failure {
    fn from(e: TransportError) -> Failure {
        Failure {
            timed_out: matches!(e, TransportError::Timeout(_)),
            not_sent: matches!(e, TransportError::Connect(_)),
            ..Failure::local(S3ErrorKind::Unavailable, e.to_string())
        }
    }
}

/// What a failed try calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing helps.
    None,
    /// Time.
    Wait,
    /// Asking in this region.
    Region(String),
    /// Other keys.
    Keys,
    /// Signing by the server's clock.
    Clock,
}

/// S3 refuses signatures whose time is 15 minutes off; where it does not say so (HEAD), this much off is taken for it.
const SKEW_SUSPECT: Duration = Duration::from_secs(10 * 60);

/// `used_region`: where the try went. `our_clock`: what it was signed with.
pub fn remedy(failure: &Failure, method: &Method, used_region: &str, our_clock: SystemTime) -> Remedy {
    let code = failure.code.as_deref().unwrap_or("");
    let status = failure.status.unwrap_or(0);
    if let Some(region) = &failure.region
        && matches!(status, 301 | 307 | 400 | 403)
        && region != used_region
    {
        return Remedy::Region(region.clone());
    }
    // An answer to HEAD has no body, so no code: the status must do.
    let silent = *method == Method::HEAD && failure.code.is_none();
    let skewed = failure.date.is_some_and(|theirs| distance(theirs, our_clock) > SKEW_SUSPECT);
    if code == "RequestTimeTooSkewed" || (silent && status == 403 && skewed) {
        return Remedy::Clock;
    }
    if is_about_keys(code) || (silent && status == 400) {
        return Remedy::Keys;
    }
    if failure.kind == S3ErrorKind::Unavailable || is_transient(code) {
        return Remedy::Wait;
    }
    Remedy::None
}

/// Codes that say "later", whatever their status.
pub fn is_transient(code: &str) -> bool {
    matches!(
        code,
        "InternalError"
            | "InternalServerError"
            | "OperationAborted"
            | "RequestTimeout"
            | "RequestTimeoutException"
            | "ServiceUnavailable"
            | "SlowDown"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequests"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
    )
}

fn is_about_keys(code: &str) -> bool {
    matches!(
        code,
        "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidAccessKeyId"
            | "InvalidToken"
            | "TokenRefreshRequired"
    )
}

/// Retry-After, in seconds or as a date (RFC 9110, 10.2.3).
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

pub fn server_date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()
}

fn distance(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).or_else(|_| b.duration_since(a)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use S3ErrorKind as Kind;

    fn failure(status: u16, code: &str, kind: Kind) -> Failure {
        Failure {
            status: Some(status),
            code: (!code.is_empty()).then(|| code.to_string()),
            ..Failure::local(kind, "")
        }
    }

    fn judged(f: &Failure, method: Method) -> Remedy {
        remedy(f, &method, "us-east-1", SystemTime::now())
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for (status, code) in [(503, "SlowDown"), (500, "InternalError"), (502, ""), (429, "")] {
            assert_eq!(judged(&failure(status, code, Kind::Unavailable), Method::PUT), Remedy::Wait);
        }
        let f = failure(409, "OperationAborted", Kind::Refused);
        assert_eq!(judged(&f, Method::PUT), Remedy::Wait);
        assert_eq!(judged(&TransportError::Lost(String::new()).into(), Method::PUT), Remedy::Wait);
        for (status, code, kind) in [
            (404, "NoSuchKey", Kind::NoSuchKey),
            (403, "AccessDenied", Kind::AccessDenied),
            (412, "PreconditionFailed", Kind::PreconditionFailed),
            (501, "NotImplemented", Kind::NotImplemented),
            (200, "", Kind::Malformed),
        ] {
            assert_eq!(judged(&failure(status, code, kind), Method::GET), Remedy::None);
        }
    }

    #[test]
    fn another_region_is_followed_but_not_our_own() {
        let mut f = failure(301, "PermanentRedirect", Kind::WrongRegion);
        f.region = Some("eu-west-1".to_string());
        assert_eq!(judged(&f, Method::GET), Remedy::Region("eu-west-1".to_string()));
        f.region = Some("us-east-1".to_string());
        assert_eq!(judged(&f, Method::GET), Remedy::None);
    }

    #[test]
    fn a_bodyless_refusal_is_guessed_from_status_and_date() {
        let mut f = failure(403, "", Kind::AccessDenied);
        f.date = Some(SystemTime::now());
        assert_eq!(judged(&f, Method::HEAD), Remedy::None);
        f.date = Some(SystemTime::now() - Duration::from_secs(3600));
        assert_eq!(judged(&f, Method::HEAD), Remedy::Clock);
        assert_eq!(judged(&f, Method::GET), Remedy::None);
        let f = failure(400, "", Kind::Refused);
        assert_eq!(judged(&f, Method::HEAD), Remedy::Keys);
        let f = failure(400, "ExpiredToken", Kind::AccessDenied);
        assert_eq!(judged(&f, Method::PUT), Remedy::Keys);
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = httpdate::parse_http_date("Fri, 24 May 2013 00:00:00 GMT").unwrap();
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Fri, 24 May 2013 00:00:09 GMT"), Some(Duration::from_secs(9)));
        assert_eq!(read("Fri, 24 May 2012 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }
}
