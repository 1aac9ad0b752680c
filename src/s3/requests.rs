//! What requests carry besides what they ask: who pays, whose bucket it must be, how new objects are encrypted and whose
//! they are.
//!
//! Owns: [`Standing`], the headers that follow from [`RequestOptions`].
//! Invariants: a customer's key goes with every request that reads or writes an object's bytes or head, and is printed
//! nowhere.
//! Must never know: operations, but for what kind of request they are.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{header_value, payload};
use crate::config::{ChecksumAlgorithm, Encryption, RequestOptions};

pub const SSE: &str = "x-amz-server-side-encryption";
pub const SSE_KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
pub(super) const SSE_BUCKET_KEY: &str = "x-amz-server-side-encryption-bucket-key-enabled";
pub const SSE_CUSTOMER: &str = "x-amz-server-side-encryption-customer-algorithm";
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/ServerSideEncryptionCustomerKeys.html>.
const CUSTOMER_KEY_BYTES: usize = 32;
/// How much of a key file is read, in bytes: more than any form of a key takes.
const KEY_FILE_BYTES_MAX: u64 = 256;
const CUSTOMER_KEY_HEADERS: [&str; 3] = [
    SSE_CUSTOMER,
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
];
const SOURCE_KEY_HEADERS: [&str; 3] = [
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key-md5",
];

const PAYER: &str = "x-amz-request-payer";
const OWNER: &str = "x-amz-expected-bucket-owner";

/// Headers by what a request does.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Every request to the bucket.
    pub all: HeaderMap,
    /// What makes an object: PutObject, CopyObject, CreateMultipartUpload.
    pub new_object: HeaderMap,
    /// What reads an object or its head, or sends a part of one.
    pub content: HeaderMap,
    /// What copies from an object of this bucket.
    pub source: HeaderMap,
    /// Of new objects, and to verify by.
    pub checksum: Option<ChecksumAlgorithm>,
}

impl Standing {
    /// Errors: why an option cannot be sent.
    pub fn of(options: &RequestOptions) -> Result<Standing, String> {
        let mut standing = Standing { checksum: options.checksum, ..Standing::default() };
        if options.requester_pays {
            set(&mut standing.all, PAYER, "requester")?;
        }
        if let Some(owner) = &options.expected_bucket_owner {
            set(&mut standing.all, OWNER, owner)?;
            set(&mut standing.source, "x-amz-source-expected-bucket-owner", owner)?;
        }
        if let Some(acl) = &options.acl {
            set(&mut standing.new_object, "x-amz-acl", acl)?;
        }
        match &options.encryption {
            None => {}
            Some(Encryption::S3) => set(&mut standing.new_object, SSE, "AES256")?,
            Some(Encryption::Kms { key_id, context }) => {
                let headers = &mut standing.new_object;
                set(headers, SSE, "aws:kms")?;
                if let Some(key_id) = key_id {
                    set(headers, SSE_KMS_KEY, key_id)?;
                }
                if let Some(context) = context {
                    set(headers, "x-amz-server-side-encryption-context", &BASE64.encode(context))?;
                }
            }
            Some(Encryption::Customer { key_file }) => {
                let key = read_key(key_file)?;
                let key = ["AES256".to_string(), BASE64.encode(key), payload::content_md5(&key)];
                for headers in [&mut standing.new_object, &mut standing.content] {
                    set_key(headers, CUSTOMER_KEY_HEADERS, &key)?;
                }
                set_key(&mut standing.source, SOURCE_KEY_HEADERS, &key)?;
            }
        }
        Ok(standing)
    }

    /// What every request carries, for one whose sender knows nothing but a URL: S3 reads it there, too.
    pub fn in_query(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [PAYER, OWNER].into_iter().filter_map(|name| Some((name, self.all.get(name)?.to_str().ok()?)))
    }

    /// Whether it says how new objects are encrypted.
    pub fn encrypts(&self) -> bool {
        let names = [SSE, CUSTOMER_KEY_HEADERS[0]];
        names.iter().any(|name| self.new_object.contains_key(*name))
    }
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) -> Result<(), String> {
    headers.insert(HeaderName::from_static(name), header_value(name, value)?);
    Ok(())
}

fn set_key(headers: &mut HeaderMap, names: [&'static str; 3], values: &[String; 3]) -> Result<(), String> {
    for (name, value) in names.into_iter().zip(values) {
        let mut value = HeaderValue::from_str(value).map_err(|e| e.to_string())?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(())
}

/// 32 bytes as they are, or in base64.
fn read_key(file: &Path) -> Result<[u8; CUSTOMER_KEY_BYTES], String> {
    let shown = file.display();
    let expected = format!(
        "expected a key of {CUSTOMER_KEY_BYTES} bytes, as they are or in base64; `openssl rand -out FILE \
         {CUSTOMER_KEY_BYTES}` makes one"
    );
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|e| format!("--sse-c-key-file: cannot read {shown}: {e}; {expected}"))?;
    let decoded = || BASE64.decode(bytes.trim_ascii()).unwrap_or_default();
    <[u8; CUSTOMER_KEY_BYTES]>::try_from(bytes.as_slice())
        .or_else(|_| <[u8; CUSTOMER_KEY_BYTES]>::try_from(decoded()))
        .map_err(|_| format!("--sse-c-key-file: {shown} holds no key: {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(headers: &HeaderMap, name: &str) -> Option<String> {
        Some(headers.get(name)?.to_str().unwrap().to_string())
    }

    #[test]
    fn each_option_has_its_headers() {
        let options = RequestOptions {
            requester_pays: true,
            expected_bucket_owner: Some("123456789012".to_string()),
            acl: Some("bucket-owner-full-control".to_string()),
            encryption: Some(Encryption::Kms {
                key_id: Some("key".to_string()),
                context: Some("{\"a\":\"b\"}".to_string()),
            }),
            ..RequestOptions::default()
        };
        let Standing { all, new_object, content, source, .. } = Standing::of(&options).unwrap();
        assert_eq!(text(&all, "x-amz-request-payer").unwrap(), "requester");
        assert_eq!(text(&all, "x-amz-expected-bucket-owner").unwrap(), "123456789012");
        assert_eq!(text(&source, "x-amz-source-expected-bucket-owner").unwrap(), "123456789012");
        assert_eq!(text(&new_object, "x-amz-acl").unwrap(), "bucket-owner-full-control");
        assert_eq!(text(&new_object, "x-amz-server-side-encryption").unwrap(), "aws:kms");
        assert_eq!(text(&new_object, "x-amz-server-side-encryption-context").unwrap(), "eyJhIjoiYiJ9");
        assert!(content.is_empty());
        let none = Standing::of(&RequestOptions::default()).unwrap();
        assert!(none.all.is_empty() && none.new_object.is_empty() && none.source.is_empty());
    }

    #[test]
    fn a_customers_key_is_read_and_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("key");
        let options = RequestOptions {
            encryption: Some(Encryption::Customer { key_file: key_file.clone() }),
            ..RequestOptions::default()
        };
        let key = [7; CUSTOMER_KEY_BYTES];
        let encoded = BASE64.encode(key);
        for written in [key.to_vec(), format!("{encoded}\n").into_bytes()] {
            std::fs::write(&key_file, written).unwrap();
            let standing = Standing::of(&options).unwrap();
            for headers in [&standing.new_object, &standing.content] {
                assert_eq!(text(headers, CUSTOMER_KEY_HEADERS[1]).unwrap(), encoded);
            }
            assert_eq!(text(&standing.source, SOURCE_KEY_HEADERS[1]).unwrap(), encoded);
            assert!(!format!("{standing:?}").contains(&encoded));
        }
        for wrong in ["", "short", "c2hvcnQ="] {
            std::fs::write(&key_file, wrong).unwrap();
            let why = Standing::of(&options).unwrap_err();
            assert!(why.contains("32 bytes, as they are or in base64"), "{why}");
        }
        std::fs::remove_file(&key_file).unwrap();
        assert!(Standing::of(&options).unwrap_err().contains("cannot read"));
    }
}
