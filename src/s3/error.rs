//! What S3's answers mean when they are not the one asked for.
//!
//! Owns: [`judge`], which reads an error's status, headers and XML into a [`Failure`].
//! Invariant: every status outside 2xx is a failure, and so is a 200 whose document is an `Error`.
//! Must never know: what is done about it.
//!
//! Codes: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.

use std::time::SystemTime;

use http::{HeaderMap, StatusCode, header};

use crate::aws::endpoint::region_of_host;
use crate::aws::retry::{Failure, is_transient, retry_after, server_date};
use crate::error::S3ErrorKind;
use crate::s3::xml::{self, Element};

/// None: a success.
pub fn judge(status: u16, headers: &HeaderMap, body: &[u8]) -> Option<Failure> {
    if (200..300).contains(&status) && !xml::root_is(body, "Error") {
        return None;
    }
    let told = xml::parse_root(body, "Error").unwrap_or_default();
    let text = |name| {
        let text = told.text_of(name)?.trim();
        (!text.is_empty()).then(|| text.to_string())
    };
    let header = |name| header_text(headers, name);
    let code = text("Code");
    let kind = kind_of(status, code.as_deref().unwrap_or(""));
    let mut message = text("Message").unwrap_or_else(|| described(status, headers));
    if kind == S3ErrorKind::Archived {
        message.insert_str(0, "the object is archived and must be restored first: ");
    }
    Some(Failure {
        status: Some(status),
        request_id: header("x-amz-request-id").or_else(|| text("RequestId")),
        host_id: header("x-amz-id-2").or_else(|| text("HostId")),
        region: region_told(headers, &told),
        after: retry_after(headers, SystemTime::now()),
        date: server_date(headers),
        code,
        ..Failure::local(kind, message)
    })
}

/// A failure that stands within a success: one `Error` of many in the document.
pub fn within_success(told: &Element, headers: &HeaderMap) -> Failure {
    let code = told.text_of("Code").unwrap_or("");
    Failure {
        code: Some(code.to_string()),
        request_id: header_text(headers, "x-amz-request-id"),
        host_id: header_text(headers, "x-amz-id-2"),
        ..Failure::local(kind_of(200, code), told.text_of("Message").unwrap_or(""))
    }
}

/// A header's text, if it is ASCII.
pub fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_string())
}

fn described(status: u16, headers: &HeaderMap) -> String {
    let reason =
        StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("unknown status");
    match headers.get(header::LOCATION) {
        Some(to) if (300..400).contains(&status) => {
            format!("HTTP {status} {reason}, to {}", to.to_str().unwrap_or("nowhere"))
        }
        _ => format!("HTTP {status} {reason}"),
    }
}

fn region_told(headers: &HeaderMap, told: &Element) -> Option<String> {
    let location = header_text(headers, "location");
    let host = location
        .as_deref()
        .and_then(|url| url.split_once("://"))
        .and_then(|(_, rest)| rest.split('/').next());
    header_text(headers, "x-amz-bucket-region")
        .or_else(|| told.text_of("Region").map(String::from))
        .or_else(|| host.and_then(region_of_host).map(String::from))
        .or_else(|| told.text_of("Endpoint").and_then(region_of_host).map(String::from))
}

fn kind_of(status: u16, code: &str) -> S3ErrorKind {
    use S3ErrorKind as Kind;
    match code {
        "NoSuchKey" | "NoSuchUpload" | "NoSuchVersion" => return Kind::NoSuchKey,
        "NoSuchBucket" => return Kind::NoSuchBucket,
        "NoSuchBucketPolicy"
        | "NoSuchCORSConfiguration"
        | "NoSuchLifecycleConfiguration"
        | "NoSuchTagSet"
        | "NoSuchWebsiteConfiguration"
        | "ServerSideEncryptionConfigurationNotFoundError" => return Kind::NotSet,
        "InvalidStorageClass" => return Kind::BadDocument,
        "InvalidObjectState" => return Kind::Archived,
        "InvalidRange" => return Kind::InvalidRange,
        "EntityTooLarge" => return Kind::TooLarge,
        "MetadataTooLarge" => return Kind::MetadataTooLarge,
        "NotImplemented" | "MethodNotAllowed" => return Kind::NotImplemented,
        "AccessDenied" => return Kind::AccessDenied,
        "BucketNotEmpty" => return Kind::BucketNotEmpty,
        "BucketAlreadyExists" | "BucketAlreadyOwnedByYou" => return Kind::BucketExists,
        "PreconditionFailed" | "ConditionalRequestConflict" => return Kind::PreconditionFailed,
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "TemporaryRedirect"
        | "IllegalLocationConstraintException" => return Kind::WrongRegion,
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => return Kind::AccessDenied,
        code if is_transient(code) => return Kind::Unavailable,
        _ => {}
    }
    match status {
        // An error within a 200, of a code we do not know.
        200..=299 => Kind::Refused,
        301 | 302 | 307 | 308 => Kind::WrongRegion,
        401 | 403 => Kind::AccessDenied,
        404 => Kind::NoSuchKey,
        408 | 429 => Kind::Unavailable,
        412 => Kind::PreconditionFailed,
        413 => Kind::TooLarge,
        416 => Kind::InvalidRange,
        405 | 501 => Kind::NotImplemented,
        500.. => Kind::Unavailable,
        _ => Kind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use S3ErrorKind as Kind;

    fn xml(code: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>m</Message>\
             <RequestId>r</RequestId><HostId>h</HostId></Error>"
        )
    }

    fn kind(status: u16, code: &str) -> Kind {
        judge(status, &HeaderMap::new(), xml(code).as_bytes()).unwrap().kind
    }

    #[test]
    fn codes_and_statuses_have_kinds() {
        for (status, code, expected) in [
            (404, "NoSuchKey", Kind::NoSuchKey),
            (404, "NoSuchUpload", Kind::NoSuchKey),
            (404, "NoSuchBucket", Kind::NoSuchBucket),
            (404, "NoSuchCORSConfiguration", Kind::NotSet),
            (403, "AccessDenied", Kind::AccessDenied),
            (403, "SignatureDoesNotMatch", Kind::AccessDenied),
            (403, "InvalidObjectState", Kind::Archived),
            (400, "ExpiredToken", Kind::AccessDenied),
            (400, "RequestTimeout", Kind::Unavailable),
            (409, "ConditionalRequestConflict", Kind::PreconditionFailed),
            (409, "BucketNotEmpty", Kind::BucketNotEmpty),
            (400, "AuthorizationHeaderMalformed", Kind::WrongRegion),
            (400, "MalformedXML", Kind::Refused),
            (400, "InvalidStorageClass", Kind::BadDocument),
            (503, "SlowDown", Kind::Unavailable),
            (501, "NotImplemented", Kind::NotImplemented),
            (405, "MethodNotAllowed", Kind::NotImplemented),
            (200, "AccessDenied", Kind::AccessDenied),
            (200, "InternalError", Kind::Unavailable),
            (200, "Odd", Kind::Refused),
        ] {
            assert_eq!(kind(status, code), expected, "{status} {code}");
        }
        let archived = judge(403, &HeaderMap::new(), xml("InvalidObjectState").as_bytes()).unwrap();
        assert_eq!(archived.message, "the object is archived and must be restored first: m");
    }

    #[test]
    fn an_error_without_a_body_is_known_by_its_status() {
        for (status, expected) in [
            (404, Kind::NoSuchKey),
            (403, Kind::AccessDenied),
            (412, Kind::PreconditionFailed),
            (301, Kind::WrongRegion),
            (500, Kind::Unavailable),
            (400, Kind::Refused),
            (304, Kind::Refused),
        ] {
            let failure = judge(status, &HeaderMap::new(), b"").unwrap();
            assert_eq!(failure.kind, expected, "{status}");
            assert!(failure.message.contains(&status.to_string()));
        }
        assert!(judge(204, &HeaderMap::new(), b"").is_none());
        assert!(judge(200, &HeaderMap::new(), b"<Errors/>").is_none());
    }

    #[test]
    fn all_that_is_told_is_kept() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-request-id", "of the header".parse().unwrap());
        headers.insert("retry-after", "3".parse().unwrap());
        let f = judge(503, &headers, xml("SlowDown").as_bytes()).unwrap();
        assert_eq!((f.status, f.code.as_deref()), (Some(503), Some("SlowDown")));
        assert_eq!(f.message, "m");
        assert_eq!(f.request_id.as_deref(), Some("of the header"));
        assert_eq!(f.host_id.as_deref(), Some("h"));
        assert_eq!(f.after, Some(std::time::Duration::from_secs(3)));
    }

    #[test]
    fn the_region_is_read_from_wherever_it_is_told() {
        let none = HeaderMap::new();
        let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        let region = |headers: &HeaderMap, body: &str| judge(400, headers, body.as_bytes()).unwrap().region;
        assert_eq!(region(&none, body).as_deref(), Some("eu-west-1"));
        let body = "<Error><Endpoint>b.s3-eu-west-2.amazonaws.com</Endpoint></Error>";
        assert_eq!(region(&none, body).as_deref(), Some("eu-west-2"));
        let mut headers = HeaderMap::new();
        headers.insert("location", "https://b.s3.eu-west-3.amazonaws.com/k".parse().unwrap());
        assert_eq!(region(&headers, "").as_deref(), Some("eu-west-3"));
        headers.insert("x-amz-bucket-region", "eu-central-1".parse().unwrap());
        assert_eq!(region(&headers, "").as_deref(), Some("eu-central-1"));
    }
}
