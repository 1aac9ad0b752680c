//! What S3 checks of every request: signature, clock, payload hash, checksums.
//!
//! SigV4 is written here a second time, from its documentation and apart from `src/aws/sign.rs`, so
//! that a mistake in either shows in every test:
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use hmac::{Hmac, KeyInit as _, Mac as _};
use pailfs::aws::transport::Request;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use sha2::Sha256;

use super::super::bytes as sums;
use super::answer::{Answer, Refusal};
use super::{ACCESS_KEY, Incoming, SECRET_KEY};

const SKEW_MAX: Duration = Duration::from_secs(15 * 60);
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const UNRESERVED_PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// The parts of a signature, from the Authorization header or the query.
struct Signed {
    access_key: String,
    /// `20130524/us-east-1/s3/aws4_request`
    scope: String,
    region: String,
    headers: Vec<String>,
    signature: String,
    date: String,
    payload: String,
}

/// The region in the credential scope; none for a request without signature, where that is allowed.
pub fn check_signature(
    request: &Request,
    body: &Bytes,
    now: SystemTime,
    anonymous: bool,
) -> Result<Option<String>, Refusal> {
    let url = reqwest::Url::parse(&request.url).expect("an absolute URL");
    let denied = |why: &str| Refusal::new(403, "AccessDenied", why);
    let Some(signed) = read_signed(request, &url)? else {
        return if anonymous { Ok(None) } else { Err(denied("Access Denied")) };
    };
    if signed.access_key != ACCESS_KEY {
        return Err(Refusal::new(
            403,
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
        ));
    }
    let sent = parse_date(&signed.date)
        .ok_or_else(|| denied("AWS authentication requires a valid Date or x-amz-date header"))?;
    let skew = now.duration_since(sent).unwrap_or_else(|e| e.duration());
    if skew > SKEW_MAX {
        return Err(Refusal::new(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        ));
    }
    for name in request.headers.keys().map(|n| n.as_str()).chain(["host"]) {
        let must = name == "host" || (name.starts_with("x-amz-") && name != "x-amz-user-agent");
        if must && !signed.headers.iter().any(|h| h == name) {
            let mut refusal = denied("There were headers present in the request which were not signed");
            refusal.extra = super::super::xml::leaf("HeadersNotSigned", name);
            return Err(refusal);
        }
    }
    let wanted = signature(request, &url, &signed);
    if wanted != signed.signature {
        let mut refusal = Refusal::new(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your \
             key and signing method.",
        );
        refusal.extra = super::super::xml::leaf("CanonicalRequest", &canonical(request, &url, &signed));
        return Err(refusal);
    }
    // Behind the signature, as S3 has it: only now is the hash known to be the client's.
    let is_hash = signed.payload.len() == 64;
    if is_hash && signed.payload != sums::sha256_hex(body) {
        return Err(Refusal::new(
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ));
    }
    Ok(Some(signed.region))
}

fn read_signed(request: &Request, url: &reqwest::Url) -> Result<Option<Signed>, Refusal> {
    let header = |name: &str| request.headers.get(name).and_then(|v| v.to_str().ok());
    let query = |name: &str| url.query_pairs().find(|(k, _)| k == name).map(|(_, v)| v.into_owned());
    let malformed =
        || Refusal::new(400, "AuthorizationHeaderMalformed", "The authorization header is malformed.");
    let (credential, headers, signature, date, payload) = if let Some(text) = header("authorization") {
        let text = text.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(malformed)?;
        let field = |name: &str| text.split(',').find_map(|f| f.trim().strip_prefix(name)?.strip_prefix('='));
        let payload = header("x-amz-content-sha256").ok_or_else(|| {
            Refusal::invalid_request("Missing required header for this request: x-amz-content-sha256")
        })?;
        (
            field("Credential").ok_or_else(malformed)?.to_string(),
            field("SignedHeaders").ok_or_else(malformed)?.to_string(),
            field("Signature").ok_or_else(malformed)?.to_string(),
            header("x-amz-date").unwrap_or_default().to_string(),
            payload.to_string(),
        )
    } else if let Some(signature) = query("X-Amz-Signature") {
        (
            query("X-Amz-Credential").ok_or_else(malformed)?,
            query("X-Amz-SignedHeaders").ok_or_else(malformed)?,
            signature,
            query("X-Amz-Date").unwrap_or_default(),
            "UNSIGNED-PAYLOAD".to_string(),
        )
    } else {
        return Ok(None);
    };
    let (access_key, scope) = credential.split_once('/').ok_or_else(malformed)?;
    let pieces: Vec<&str> = scope.split('/').collect();
    let [_day, region, "s3", "aws4_request"] = pieces.as_slice() else {
        return Err(malformed());
    };
    Ok(Some(Signed {
        access_key: access_key.to_string(),
        scope: scope.to_string(),
        region: (*region).to_string(),
        headers: headers.split(';').map(str::to_string).collect(),
        signature,
        date,
        payload,
    }))
}

fn canonical(request: &Request, url: &reqwest::Url, signed: &Signed) -> String {
    let path: Vec<u8> = percent_decode_str(url.path()).collect();
    let path = percent_encode(&path, UNRESERVED_PATH).to_string();
    // As it is on the wire: a `+` in a query is a plus to SigV4, whatever forms make of it.
    let mut query: Vec<(String, String)> = url
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(k, v)| (recoded(k), recoded(v)))
        .filter(|(k, _)| k != "X-Amz-Signature")
        .collect();
    query.sort();
    let query: Vec<String> = query.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut headers = String::new();
    for name in &signed.headers {
        let value = match (request.headers.get(name), name.as_str()) {
            (Some(_), _) => {
                let all: Vec<String> = request
                    .headers
                    .get_all(name)
                    .iter()
                    .map(|v| collapsed(&String::from_utf8_lossy(v.as_bytes())))
                    .collect();
                all.join(",")
            }
            (None, "host") => {
                let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
                format!("{}{port}", url.host_str().unwrap_or_default())
            }
            (None, "content-length") => request.body.iter().map(Bytes::len).sum::<usize>().to_string(),
            (None, _) => String::new(),
        };
        headers += &format!("{name}:{value}\n");
    }
    format!(
        "{}\n{path}\n{}\n{headers}\n{}\n{}",
        request.method,
        query.join("&"),
        signed.headers.join(";"),
        signed.payload
    )
}

fn recoded(text: &str) -> String {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    percent_encode(&bytes, UNRESERVED).to_string()
}

fn collapsed(value: &str) -> String {
    value.split(' ').filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

fn signature(request: &Request, url: &reqwest::Url, signed: &Signed) -> String {
    let canonical = canonical(request, url, signed);
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{}\n{}",
        signed.date,
        signed.scope,
        sums::sha256_hex(canonical.as_bytes())
    );
    let mut key = format!("AWS4{SECRET_KEY}").into_bytes();
    for piece in signed.scope.split('/') {
        key = hmac(&key, piece.as_bytes());
    }
    sums::hex(&hmac(&key, to_sign.as_bytes()))
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

/// `20130524T000000Z`
fn parse_date(text: &str) -> Option<SystemTime> {
    let field = |range: std::ops::Range<usize>| text.get(range)?.parse::<u32>().ok();
    if text.len() != 16 || text.get(8..9)? != "T" || !text.ends_with('Z') {
        return None;
    }
    let month = time::Month::try_from(u8::try_from(field(4..6)?).ok()?).ok()?;
    let day = u8::try_from(field(6..8)?).ok()?;
    let date = time::Date::from_calendar_date(i32::try_from(field(0..4)?).ok()?, month, day).ok()?;
    let [h, m, s] = [9..11, 11..13, 13..15].map(|r| field(r).and_then(|v| u8::try_from(v).ok()));
    let at = date.with_hms(h?, m?, s?).ok()?.assume_utc();
    Some(at.into())
}

const CHECKSUMS: [&str; 4] = ["CRC32", "CRC32C", "CRC64NVME", "SHA256"];

/// Base64 of the checksum; none for an algorithm the fake does not know.
pub fn checksum(algorithm: &str, data: &[u8]) -> Option<String> {
    let crc32 = |a| {
        let sum = u32::try_from(crc_fast::checksum(a, data)).expect("32 bits");
        sums::base64_of(&sum.to_be_bytes())
    };
    match algorithm {
        "CRC32" => Some(crc32(CrcAlgorithm::Crc32IsoHdlc)),
        "CRC32C" => Some(crc32(CrcAlgorithm::Crc32Iscsi)),
        "CRC64NVME" => {
            let sum = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, data);
            Some(sums::base64_of(&sum.to_be_bytes()))
        }
        "SHA256" => {
            use sha2::Digest as _;
            Some(sums::base64_of(&Sha256::digest(data)))
        }
        _ => None,
    }
}

/// The checksum headers of a request, by algorithm in upper case.
fn checksums<'a>(incoming: &'a Incoming) -> impl Iterator<Item = (String, &'a str)> {
    incoming.headers.iter().filter_map(|(name, value)| {
        let algorithm = name.as_str().strip_prefix("x-amz-checksum-")?.to_ascii_uppercase();
        let named = !matches!(algorithm.as_str(), "ALGORITHM" | "TYPE" | "MODE");
        named.then_some((algorithm, value.to_str().ok()?))
    })
}

pub fn has_checksum(incoming: &Incoming) -> bool {
    checksums(incoming).next().is_some()
}

/// The algorithm of the checksum that came with the body.
pub fn checksum_algorithm(incoming: &Incoming) -> Option<String> {
    checksums(incoming).next().map(|(algorithm, _)| algorithm)
}

/// S3 repeats in its answer the checksum that it has verified.
pub fn repeat_checksum(answer: &mut Answer, incoming: &Incoming) {
    for (algorithm, value) in checksums(incoming) {
        answer.set(&format!("x-amz-checksum-{}", algorithm.to_ascii_lowercase()), value);
    }
}

/// Checksum headers against the body; streamed signatures and trailers are not spoken here.
/// CompleteMultipartUpload's headers are about the object, not the request's body.
pub fn check_payload(incoming: &Incoming, op: &str) -> Result<(), Refusal> {
    let hash = incoming.header("x-amz-content-sha256").unwrap_or_default();
    if hash.starts_with("STREAMING") || incoming.header("x-amz-trailer").is_some() {
        return Err(Refusal::new(501, "NotImplemented", "Streamed signatures are not implemented"));
    }
    if op == "CompleteMultipartUpload" {
        return Ok(());
    }
    for (algorithm, value) in checksums(incoming) {
        if !CHECKSUMS.contains(&algorithm.as_str()) {
            return Err(Refusal::invalid_request("The algorithm type you specified is invalid."));
        }
        if checksum(&algorithm, &incoming.body).as_deref() != Some(value) {
            return Err(Refusal::new(
                400,
                "BadDigest",
                &format!("The {algorithm} you specified did not match the calculated checksum."),
            ));
        }
    }
    Ok(())
}
