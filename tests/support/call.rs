//! A request as S3 would understand it: operation, bucket, key, query.
//!
//! Shared by the fake server, which carries calls out, and the faults, which pick them by name.
//! The URL is read the way it goes over a real wire, so a path that an HTTP client would rewrite
//! (`/./`, `/../`) shows here too.

use std::collections::BTreeMap;

use http::Method;
use pailfs::aws::transport::Request;
use percent_encoding::percent_decode_str;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// S3's name of the operation; `Unknown` where it is none we know.
    pub op: &'static str,
    pub method: Method,
    /// `s3.REGION.amazonaws.com` without the bucket, or the endpoint's host.
    pub host: String,
    pub bucket: String,
    /// Decoded bytes; empty for calls on the bucket.
    pub key_bytes: Vec<u8>,
    /// Decoded query, `+` as a space.
    pub query: BTreeMap<String, String>,
}

impl Call {
    pub fn of(request: &Request) -> Call {
        let url = reqwest::Url::parse(&request.url)
            .unwrap_or_else(|e| panic!("not an absolute URL: {} ({e})", request.url));
        let authority = url.host_str().unwrap_or_default().to_string();
        let path = url.path().trim_start_matches('/');
        let (host, bucket, key) = match authority.split_once(".s3.") {
            Some((bucket, rest)) if rest.ends_with("amazonaws.com") => {
                (format!("s3.{rest}"), bucket.to_string(), path)
            }
            _ => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                (authority, percent_decode_str(bucket).decode_utf8_lossy().into_owned(), key)
            }
        };
        let query: BTreeMap<String, String> =
            url.query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        let key_bytes: Vec<u8> = percent_decode_str(key).collect();
        let copies = request.headers.contains_key("x-amz-copy-source");
        let op = operation(&request.method, &bucket, &key_bytes, &query, copies);
        Call { op, method: request.method.clone(), host, bucket, key_bytes, query }
    }

    /// The key as text; `\u{fffd}` stands for what is not UTF-8.
    pub fn key(&self) -> String {
        String::from_utf8_lossy(&self.key_bytes).into_owned()
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

fn operation(
    method: &Method,
    bucket: &str,
    key: &[u8],
    query: &BTreeMap<String, String>,
    copies: bool,
) -> &'static str {
    let has = |name: &str| query.contains_key(name);
    if bucket.is_empty() {
        return if method == Method::GET { "ListBuckets" } else { "Unknown" };
    }
    match (method.as_str(), key.is_empty()) {
        ("HEAD", true) => "HeadBucket",
        ("GET", true) if has("uploads") => "ListMultipartUploads",
        ("GET", true) if has("ownershipControls") => "GetBucketOwnershipControls",
        ("GET", true) if has("location") => "GetBucketLocation",
        ("GET", true) if has("versioning") => "GetBucketVersioning",
        ("GET", true) if has("versions") => "ListObjectVersions",
        ("GET", true) if query.get("list-type").is_some_and(|v| v == "2") => "ListObjectsV2",
        ("POST", true) if has("delete") => "DeleteObjects",
        ("PUT", true) => "CreateBucket",
        ("DELETE", true) => "DeleteBucket",
        ("HEAD", false) => "HeadObject",
        ("GET", false) if has("acl") => "GetObjectAcl",
        ("PUT", false) if has("acl") => "PutObjectAcl",
        ("GET", false) if has("tagging") => "GetObjectTagging",
        ("PUT", false) if has("tagging") => "PutObjectTagging",
        ("DELETE", false) if has("tagging") => "DeleteObjectTagging",
        ("GET", false) if has("uploadId") => "ListParts",
        ("GET", false) => "GetObject",
        ("PUT", false) if has("uploadId") && copies => "UploadPartCopy",
        ("PUT", false) if has("uploadId") => "UploadPart",
        ("PUT", false) if copies => "CopyObject",
        ("PUT", false) => "PutObject",
        ("POST", false) if has("restore") => "RestoreObject",
        ("POST", false) if has("uploads") => "CreateMultipartUpload",
        ("POST", false) if has("uploadId") => "CompleteMultipartUpload",
        ("DELETE", false) if has("uploadId") => "AbortMultipartUpload",
        ("DELETE", false) => "DeleteObject",
        _ => "Unknown",
    }
}
