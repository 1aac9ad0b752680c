//! How a request's body is protected on its way.
//!
//! Owns: [`Protection`] and the digests. Over TLS: a checksum's header, which the server checks and keeps, and
//! `UNSIGNED-PAYLOAD`; over plain HTTP: the payload's SHA-256 in the signature, since there the signature is
//! all that keeps a stranger from changing the bytes, and a checksum where one was asked for.
//! Must never know: operations, retries.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::checksum::Checksum;
use super::{PartChecksum, Payload};
use crate::aws::sign::hex;
use crate::config::ChecksumAlgorithm;

/// Where none was asked for. Not CRC64NVME: every S3-compatible server that knows checksums at all knows this one, and it
/// is given per part, as we send it; CRC64NVME (2024) is known to few.
pub const CHECKSUM_DEFAULT: ChecksumAlgorithm = ChecksumAlgorithm::Crc32c;

/// Larger payloads are hashed on a thread where that holds up nobody else.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// How the bytes of a request body are protected; neither: the server knows no checksums, and nothing may be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// In a header.
    pub checksum: Option<ChecksumAlgorithm>,
    /// SHA-256 in the signature; else that says `UNSIGNED-PAYLOAD`.
    pub hash: bool,
}

pub async fn checksum(payload: &Payload, algorithm: ChecksumAlgorithm) -> PartChecksum {
    let bytes = payload.iter().map(|chunk| chunk.len() as u64).sum();
    digest(payload, move |chunks| {
        let mut checksum = Checksum::new(algorithm);
        chunks.iter().for_each(|chunk| checksum.update(chunk));
        checksum.of_part(bytes)
    })
    .await
}

/// In hex.
pub async fn sha256(payload: &Payload) -> String {
    digest(payload, |chunks| {
        let mut sha = Sha256::new();
        chunks.iter().for_each(|chunk| sha.update(chunk));
        hex(&sha.finalize())
    })
    .await
}

/// In hex, as S3's ETag of an object that was put whole.
pub async fn md5(payload: &Payload) -> String {
    digest(payload, |chunks| {
        let mut md5 = Md5::new();
        chunks.iter().for_each(|chunk| md5.update(chunk));
        hex(&md5.finalize())
    })
    .await
}

/// Base64, as `Content-MD5` has it.
pub fn content_md5(body: &[u8]) -> String {
    BASE64.encode(Md5::digest(body))
}

/// The ETag S3 gives a multipart object: the MD5 of its parts' MD5s, and their number. None if a part's
/// ETag is no MD5.
pub fn multipart_etag<'a>(etags: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut md5 = Md5::new();
    let mut parts = 0;
    for etag in etags {
        md5.update(hex_bytes(bare_etag(etag))?);
        parts += 1;
    }
    Some(format!("{}-{parts}", hex(&md5.finalize())))
}

/// An ETag without its quotes.
pub fn bare_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// An ETag as headers have it: some servers leave out the quotes in documents, and two ways to write one
/// version would look like two.
pub fn quoted_etag(etag: &str) -> String {
    if etag.is_empty() || etag.ends_with('"') { etag.to_string() } else { format!("\"{etag}\"") }
}

fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

async fn digest<T: Send + 'static>(payload: &Payload, of: impl FnOnce(&[Bytes]) -> T + Send + 'static) -> T {
    if payload.iter().map(Bytes::len).sum::<usize>() <= INLINE_BYTES_MAX {
        return of(payload);
    }
    let chunks = payload.clone();
    tokio::task::spawn_blocking(move || of(&chunks))
        .await
        .expect("hashing does not panic, and is not cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn digests_do_not_depend_on_chunks() {
        let whole = vec![Bytes::from_static(b"123456789")];
        let chunks: Payload = vec!["1234".into(), Bytes::new(), "56789".into()];
        for payload in [whole, chunks] {
            // The check value of CRC-32C is e3069283.
            let checksum = checksum(&payload, ChecksumAlgorithm::Crc32c).await;
            assert_eq!(checksum.value, BASE64.encode([0xe3, 0x06, 0x92, 0x83]));
            assert_eq!(checksum.bytes, 9);
            assert_eq!(md5(&payload).await, "25f9e794323b453885f5181f1b624d0b");
            assert!(sha256(&payload).await.starts_with("15e2b0d3c33891ebb0f1ef609ec41942"));
        }
        let large = vec![Bytes::from(vec![0; INLINE_BYTES_MAX + 1])];
        assert_eq!(md5(&large).await, md5(&vec![large[0].slice(..7), large[0].slice(7..)]).await);
    }

    #[test]
    fn multipart_etags() {
        let part = "\"d41d8cd98f00b204e9800998ecf8427e\"";
        assert_eq!(multipart_etag([part].into_iter()).unwrap(), "59adb24ef3cdbe0297f05b395827453f-1");
        assert_eq!(multipart_etag(["\"not-an-md5\""].into_iter()), None);
        assert_eq!(bare_etag("W/\"abc\""), "abc");
        assert_eq!(quoted_etag("abc-2"), "\"abc-2\"");
        assert_eq!(quoted_etag("\"abc\""), "\"abc\"");
    }
}
