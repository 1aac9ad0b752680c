//! Signatures against AWS's published examples and against the `aws-sigv4` crate.

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
        authorization.ends_with("Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
        "{authorization}"
    );
}

#[test]
fn published_get_lifecycle() {
    let authorization = signed("GET", "/", "lifecycle", &[], EMPTY_SHA256);
    assert!(
        authorization.ends_with("Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        "{authorization}"
    );
}

#[test]
fn published_list() {
    let authorization = signed("GET", "/", "max-keys=2&prefix=J", &[], EMPTY_SHA256);
    assert!(
        authorization.ends_with("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
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
    let keys = SigningKeys { session_token: Some("hush"), ..KEYS };
    let target = Target { method: "GET", host: HOST, path: "/", query: "" };
    sign_headers(keys, scope(), target, &mut map, EMPTY_SHA256).unwrap();
    for value in map.values() {
        assert!(!value.to_str().unwrap().contains(KEYS.secret_access_key));
    }
    let shown = format!("{map:?}");
    assert!(!shown.contains("hush"), "{shown}");
    assert!(!shown.contains("Signature"), "{shown}");
}

type Pairs = Vec<(String, String)>;

/// What the `aws-sigv4` crate adds: headers and query.
fn reference(
    keys: SigningKeys<'_>,
    time: SystemTime,
    method: &str,
    url: &str,
    headers: &[(String, String)],
    hash: &str,
    presigned: Option<Duration>,
) -> (Pairs, Pairs) {
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
    let request =
        v4::SignableRequest::new(method, url, headers.iter().map(|(n, v)| (n.as_str(), v.as_str())), body)
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
