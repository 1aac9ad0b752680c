//! AWS Signature Version 4 as pure functions: what is signed, and with which key.
//!
//! Owns: the canonical request, the string to sign, header signing and query (presigned) signing, in
//! S3's flavour: the path is signed exactly as it goes on the wire, neither normalised nor encoded again
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>).
//! Invariant: the functions change nothing but what they return or add; the secret is in no output.
//! Must never know: the clock, the network, where keys come from, retries.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// What S3 leaves as it is when it percent-encodes: letters, digits, `-._~`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same, and the `/` between the segments of a path.
const ENCODED_IN_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// `x-amz-content-sha256` of a body that is not hashed into the signature.
pub const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// SHA-256 of no bytes, in hex.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Headers that proxies or the transport change, and the one that carries the signature.
const NOT_SIGNED: [&str; 6] =
    ["authorization", "connection", "expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"];

/// The keys a request is signed with.
#[derive(Clone, Copy)]
pub struct SigningKeys<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
    pub session_token: Option<&'a str>,
}

/// For what, where and when a signature holds.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    pub region: &'a str,
    /// `s3`, `sqs`.
    pub service: &'a str,
    pub time: SystemTime,
}

/// The request line and host as they go on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub method: &'a str,
    /// `host[:port]`, as the Host header says it.
    pub host: &'a str,
    /// Percent-encoded; begins with `/`.
    pub path: &'a str,
    /// Percent-encoded `name=value` pairs joined by `&`, without `?`; may be empty.
    pub query: &'a str,
}

/// A header that cannot be signed or sent as it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("the session token or key id has characters that no header can carry")]
    BadKeys,
    #[error("the clock shows a time that SigV4 cannot express")]
    BadTime,
}

/// Percent-encodes one name or value of a query, as SigV4 wants it.
pub fn encode_query(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, ENCODED).into()
}

/// Percent-encodes a path or key; `/` stays.
pub fn encode_path(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, ENCODED_IN_PATH).into()
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    out
}

/// Signs in headers: adds `x-amz-date`, `x-amz-content-sha256`, `x-amz-security-token` and
/// `authorization` to `headers`. Every header already there is signed, but those in `NOT_SIGNED`.
/// `payload_hash`: hex SHA-256 of the body, or [`UNSIGNED_PAYLOAD`].
pub fn sign_headers(
    keys: SigningKeys<'_>,
    scope: Scope<'_>,
    target: Target<'_>,
    headers: &mut HeaderMap,
    payload_hash: &str,
) -> Result<(), SignError> {
    let stamp = Stamp::of(scope.time)?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| SignError::BadKeys);
    headers.insert(HeaderName::from_static("x-amz-date"), value(&stamp.long)?);
    headers.insert(HeaderName::from_static("x-amz-content-sha256"), value(payload_hash)?);
    if let Some(token) = keys.session_token {
        let mut token = value(token)?;
        token.set_sensitive(true);
        headers.insert(HeaderName::from_static("x-amz-security-token"), token);
    }
    let (lines, names) = canonical_headers(headers, target.host);
    let canonical = canonical_request(target, &canonical_query(target.query), &lines, &names, payload_hash);
    let credential_scope = credential_scope(&stamp, scope);
    let signature = signature(keys, &stamp, scope, &credential_scope, &canonical);
    let mut authorization = value(&format!(
        "{ALGORITHM} Credential={}/{credential_scope},SignedHeaders={names},Signature={signature}",
        keys.access_key_id
    ))?;
    authorization.set_sensitive(true);
    headers.insert(AUTHORIZATION, authorization);
    Ok(())
}

/// Signs in the query: answers the whole query to send, the signature last. `headers` are those that
/// whoever uses the URL must send too (`host` is always signed). S3 allows `expires` up to 7 days.
pub fn presign(
    keys: SigningKeys<'_>,
    scope: Scope<'_>,
    target: Target<'_>,
    headers: &HeaderMap,
    expires: Duration,
) -> Result<String, SignError> {
    let stamp = Stamp::of(scope.time)?;
    let credential_scope = credential_scope(&stamp, scope);
    let (lines, names) = canonical_headers(headers, target.host);
    let mut query = String::from(target.query);
    let mut add = |name: &str, value: &str| {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(name);
        query.push('=');
        query.push_str(&encode_query(value));
    };
    add("X-Amz-Algorithm", ALGORITHM);
    add("X-Amz-Credential", &format!("{}/{credential_scope}", keys.access_key_id));
    add("X-Amz-Date", &stamp.long);
    add("X-Amz-Expires", &expires.as_secs().to_string());
    if let Some(token) = keys.session_token {
        add("X-Amz-Security-Token", token);
    }
    add("X-Amz-SignedHeaders", &names);
    let query = canonical_query(&query);
    let canonical = canonical_request(target, &query, &lines, &names, UNSIGNED_PAYLOAD);
    let signature = signature(keys, &stamp, scope, &credential_scope, &canonical);
    Ok(format!("{query}&X-Amz-Signature={signature}"))
}

/// A moment as SigV4 writes it: `20130524T000000Z` and its day.
struct Stamp {
    long: String,
    day: String,
}

impl Stamp {
    fn of(time: SystemTime) -> Result<Stamp, SignError> {
        let t = OffsetDateTime::from(time);
        if !(1970..=9999).contains(&t.year()) {
            return Err(SignError::BadTime);
        }
        let day = format!("{:04}{:02}{:02}", t.year(), u8::from(t.month()), t.day());
        let long = format!("{day}T{:02}{:02}{:02}Z", t.hour(), t.minute(), t.second());
        Ok(Stamp { long, day })
    }
}

fn credential_scope(stamp: &Stamp, scope: Scope<'_>) -> String {
    format!("{}/{}/{}/aws4_request", stamp.day, scope.region, scope.service)
}

/// Header lines sorted by name, and the names joined by `;`. Values are trimmed and runs of spaces made one.
fn canonical_headers(headers: &HeaderMap, host: &str) -> (Vec<u8>, String) {
    let mut signed: Vec<(&str, Vec<u8>)> = vec![("host", host.as_bytes().to_vec())];
    for name in headers.keys() {
        if name.as_str() == "host" || NOT_SIGNED.contains(&name.as_str()) {
            continue;
        }
        let values: Vec<Vec<u8>> = headers.get_all(name).iter().map(|v| one_space(v.as_bytes())).collect();
        signed.push((name.as_str(), values.join(&b',')));
    }
    signed.sort();
    let mut lines = Vec::new();
    for (name, value) in &signed {
        lines.extend_from_slice(name.as_bytes());
        lines.push(b':');
        lines.extend_from_slice(value);
        lines.push(b'\n');
    }
    let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
    (lines, names.join(";"))
}

fn one_space(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for &byte in value.trim_ascii() {
        if byte != b' ' || out.last() != Some(&b' ') {
            out.push(byte);
        }
    }
    out
}

/// Pairs sorted by encoded name, then value; a name alone gets its `=`.
fn canonical_query(query: &str) -> String {
    let mut pairs: Vec<(&str, &str)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
    pairs.join("&")
}

fn canonical_request(
    target: Target<'_>,
    query: &str,
    header_lines: &[u8],
    names: &str,
    payload_hash: &str,
) -> Vec<u8> {
    let mut out = format!("{}\n{}\n{query}\n", target.method, target.path).into_bytes();
    out.extend_from_slice(header_lines);
    out.push(b'\n');
    out.extend_from_slice(names.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(payload_hash.as_bytes());
    out
}

fn signature(
    keys: SigningKeys<'_>,
    stamp: &Stamp,
    scope: Scope<'_>,
    credential_scope: &str,
    canonical: &[u8],
) -> String {
    let to_sign =
        format!("{ALGORITHM}\n{}\n{credential_scope}\n{}", stamp.long, hex(&Sha256::digest(canonical)));
    let mut key = hmac(format!("AWS4{}", keys.secret_access_key).as_bytes(), &stamp.day);
    for step in [scope.region, scope.service, "aws4_request"] {
        key = hmac(&key, step);
    }
    hex(&hmac(&key, &to_sign))
}

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// AWS's published examples: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.
    const KEYS: SigningKeys<'static> = SigningKeys {
        access_key_id: "AKIAIOSFODNN7EXAMPLE",
        secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        session_token: None,
    };
    const HOST: &str = "examplebucket.s3.amazonaws.com";

    fn scope() -> Scope<'static> {
        Scope {
            region: "us-east-1",
            service: "s3",
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600),
        }
    }

    fn signed(
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&'static str, &'static str)],
        hash: &str,
    ) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        let target = Target { method, host: HOST, path, query };
        sign_headers(KEYS, scope(), target, &mut map, hash).unwrap();
        map[AUTHORIZATION].to_str().unwrap().to_string()
    }

    #[test]
    fn published_get_with_range() {
        assert_eq!(
            signed("GET", "/test.txt", "", &[("range", "bytes=0-9")], EMPTY_SHA256),
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }

    #[test]
    fn published_put() {
        let authorization = signed(
            "PUT",
            &encode_path("/test$file.text"),
            "",
            &[("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
        );
        assert!(
            authorization
                .ends_with("Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
            "{authorization}"
        );
    }

    #[test]
    fn published_get_lifecycle() {
        let authorization = signed("GET", "/", "lifecycle", &[], EMPTY_SHA256);
        assert!(
            authorization
                .ends_with("Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            "{authorization}"
        );
    }

    #[test]
    fn published_list() {
        let authorization = signed("GET", "/", "max-keys=2&prefix=J", &[], EMPTY_SHA256);
        assert!(
            authorization
                .ends_with("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
            "{authorization}"
        );
    }

    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>.
    #[test]
    fn published_presigned_get() {
        let target = Target { method: "GET", host: HOST, path: "/test.txt", query: "" };
        let query = presign(KEYS, scope(), target, &HeaderMap::new(), Duration::from_secs(86_400)).unwrap();
        assert_eq!(
            query,
            "X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    #[test]
    fn the_secret_is_in_no_header() {
        let mut map = HeaderMap::new();
        let keys = SigningKeys { session_token: Some("token"), ..KEYS };
        let target = Target { method: "GET", host: HOST, path: "/", query: "" };
        sign_headers(keys, scope(), target, &mut map, EMPTY_SHA256).unwrap();
        for value in map.values() {
            assert!(!value.to_str().unwrap().contains(KEYS.secret_access_key));
        }
        let shown = format!("{map:?}");
        assert!(!shown.contains("token\""), "{shown}");
        assert!(!shown.contains("Signature"), "{shown}");
    }

    fn reference(
        keys: SigningKeys<'_>,
        time: SystemTime,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        hash: &str,
        presigned: Option<Duration>,
    ) -> (Vec<(String, String)>, Vec<(String, String)>) {
        use aws_sigv4::http_request as v4;
        let identity = aws_credential_types::Credentials::new(
            keys.access_key_id,
            keys.secret_access_key,
            keys.session_token.map(String::from),
            None,
            "test",
        )
        .into();
        let mut settings = v4::SigningSettings::default();
        settings.percent_encoding_mode = v4::PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = v4::UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = v4::PayloadChecksumKind::XAmzSha256;
        if let Some(expires) = presigned {
            settings.signature_location = v4::SignatureLocation::QueryParams;
            settings.payload_checksum_kind = v4::PayloadChecksumKind::NoHeader;
            settings.expires_in = Some(expires);
        }
        let params = aws_sigv4::sign::v4::SigningParams::builder()
            .identity(&identity)
            .region("eu-north-1")
            .name("s3")
            .time(time)
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let body = if hash == UNSIGNED_PAYLOAD {
            v4::SignableBody::UnsignedPayload
        } else {
            v4::SignableBody::Precomputed(hash.to_string())
        };
        let request = v4::SignableRequest::new(
            method,
            url,
            headers.iter().map(|(n, v)| (n.as_str(), v.as_str())),
            body,
        )
        .unwrap();
        let (out, _) = v4::sign(request, &params).unwrap().into_parts();
        let (headers, query) = out.into_parts();
        (
            headers.iter().map(|h| (h.name().to_string(), h.value().to_string())).collect(),
            query.into_iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        )
    }

    fn method() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["GET", "PUT", "POST", "DELETE", "HEAD"])
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![any::<String>(), "[ a-z+%/.~*'()!\\x01-\\x1f\u{fc}\u{1f600}]{0,30}"]
    }

    proptest! {
        #[test]
        fn agrees_with_aws_sigv4(
            method in method(),
            key in key(),
            query in prop::collection::vec(("[a-z-]{1,12}", any::<String>()), 0..5),
            values in prop::collection::vec("[ -~]{0,30}", 0..4),
            token in prop::option::of("[A-Za-z0-9+/=]{1,60}"),
            secret in "[A-Za-z0-9+/]{40}",
            seconds in 0u64..4_000_000_000,
            unsigned in any::<bool>(),
            presigned in any::<bool>(),
        ) {
            let keys = SigningKeys {
                access_key_id: "AKIDEXAMPLE",
                secret_access_key: &secret,
                session_token: token.as_deref(),
            };
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let path = format!("/{}", encode_path(&key));
            let pairs: Vec<String> = query
                .iter()
                .map(|(n, v)| format!("{}={}", encode_query(n), encode_query(v)))
                .collect();
            let query = pairs.join("&");
            let url = if query.is_empty() {
                format!("https://{HOST}{path}")
            } else {
                format!("https://{HOST}{path}?{query}")
            };
            let headers: Vec<(String, String)> = values
                .into_iter()
                .enumerate()
                .map(|(i, v)| (format!("x-amz-meta-{i}"), v))
                .collect();
            let mut map = HeaderMap::new();
            for (name, value) in &headers {
                map.insert(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                );
            }
            let scope = Scope { region: "eu-north-1", service: "s3", time };
            let target = Target { method, host: HOST, path: &path, query: &query };
            if presigned {
                let expires = Duration::from_secs(600);
                let (_, theirs) = reference(
                    keys, time, method, &url, &headers, UNSIGNED_PAYLOAD, Some(expires),
                );
                let ours = presign(keys, scope, target, &map, expires).unwrap();
                let signature = &theirs.iter().find(|(n, _)| n == "X-Amz-Signature").unwrap().1;
                prop_assert!(ours.ends_with(&format!("X-Amz-Signature={signature}")), "{}", ours);
            } else {
                let hash = if unsigned { UNSIGNED_PAYLOAD } else { EMPTY_SHA256 };
                let (theirs, _) = reference(keys, time, method, &url, &headers, hash, None);
                sign_headers(keys, scope, target, &mut map, hash).unwrap();
                for (name, value) in theirs {
                    let ours = map[name.as_str()].to_str().unwrap().replace(',', ", ");
                    prop_assert_eq!(ours, value.replace(", ", ",").replace(',', ", "), "{}", name);
                }
            }
        }
    }
}
