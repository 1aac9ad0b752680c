//! S3's checksums of objects and parts: how each is computed, named and written.
//!
//! Owns: the names of a [`ChecksumAlgorithm`], [`Checksum`] (one being computed), [`whole`] (that of an object from those
//! of its parts), [`Promise`] (what S3 says of an object's).
//! Invariant: a sum of parts (`COMPOSITE`) is never taken for one of the bytes.
//! Must never know: which requests carry them.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use http::HeaderMap;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::PartChecksum;
use super::error::header_text;
use crate::config::ChecksumAlgorithm;

/// What a header says of a checksum that covers the object as one.
pub const FULL_OBJECT: &str = "FULL_OBJECT";

impl ChecksumAlgorithm {
    const ALL: [ChecksumAlgorithm; 5] = [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ];

    /// As `x-amz-checksum-algorithm` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32 => "CRC32",
            ChecksumAlgorithm::Crc32c => "CRC32C",
            ChecksumAlgorithm::Crc64Nvme => "CRC64NVME",
            ChecksumAlgorithm::Sha1 => "SHA1",
            ChecksumAlgorithm::Sha256 => "SHA256",
        }
    }

    pub(super) fn header(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32 => "x-amz-checksum-crc32",
            ChecksumAlgorithm::Crc32c => "x-amz-checksum-crc32c",
            ChecksumAlgorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
            ChecksumAlgorithm::Sha1 => "x-amz-checksum-sha1",
            ChecksumAlgorithm::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// In documents.
    pub(super) fn element(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32 => "ChecksumCRC32",
            ChecksumAlgorithm::Crc32c => "ChecksumCRC32C",
            ChecksumAlgorithm::Crc64Nvme => "ChecksumCRC64NVME",
            ChecksumAlgorithm::Sha1 => "ChecksumSHA1",
            ChecksumAlgorithm::Sha256 => "ChecksumSHA256",
        }
    }

    /// None: the sums of parts cannot be put together to that of the whole.
    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
        }
    }

    fn crc_bytes(self) -> usize {
        if self == ChecksumAlgorithm::Crc64Nvme { 8 } else { 4 }
    }

    /// Whether S3 keeps one for an object of parts that covers it as one.
    pub(super) fn covers_objects_of_parts(self) -> bool {
        self.crc().is_some()
    }
}

/// One being computed.
pub struct Checksum {
    algorithm: ChecksumAlgorithm,
    digest: Digest,
}

enum Digest {
    Crc(Crc),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Checksum {
    pub fn new(algorithm: ChecksumAlgorithm) -> Checksum {
        let digest = match (algorithm.crc(), algorithm) {
            (Some(crc), _) => Digest::Crc(Crc::new(crc)),
            (None, ChecksumAlgorithm::Sha1) => Digest::Sha1(Sha1::new()),
            (None, _) => Digest::Sha256(Sha256::new()),
        };
        Checksum { algorithm, digest }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.digest {
            Digest::Crc(crc) => crc.update(bytes),
            Digest::Sha1(sha) => sha.update(bytes),
            Digest::Sha256(sha) => sha.update(bytes),
        }
    }

    /// As [`Checksum::finish`], of a part of so many bytes.
    pub fn of_part(self, bytes: u64) -> PartChecksum {
        PartChecksum { algorithm: self.algorithm, value: self.finish(), bytes }
    }

    /// Base64, of a CRC its bytes from the highest on.
    pub fn finish(self) -> String {
        match self.digest {
            Digest::Crc(crc) => encode(self.algorithm, crc.finalize()),
            Digest::Sha1(sha) => BASE64.encode(sha.finalize()),
            Digest::Sha256(sha) => BASE64.encode(sha.finalize()),
        }
    }
}

fn encode(algorithm: ChecksumAlgorithm, crc: u64) -> String {
    let bytes = crc.to_be_bytes();
    let (_, last) = bytes.split_at(bytes.len() - algorithm.crc_bytes());
    BASE64.encode(last)
}

fn decode(algorithm: ChecksumAlgorithm, text: &str) -> Option<u64> {
    let bytes = BASE64.decode(text).ok().filter(|bytes| bytes.len() == algorithm.crc_bytes())?;
    Some(bytes.iter().fold(0, |crc, byte| crc << 8 | u64::from(*byte)))
}

/// That of the object that these parts make, in order. None: it cannot be told from them.
pub(super) fn whole<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl Iterator<Item = Option<&'a PartChecksum>>,
) -> Option<String> {
    let crc = algorithm.crc()?;
    let mut sum = Crc::new(crc).finalize(); // of no bytes
    for part in parts {
        let part = part.filter(|part| part.algorithm == algorithm)?;
        sum = crc_fast::checksum_combine(crc, sum, decode(algorithm, &part.value)?, part.bytes);
    }
    Some(encode(algorithm, sum))
}

/// The checksum that an answer promises of the object's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    pub algorithm: ChecksumAlgorithm,
    value: String,
}

impl Promise {
    /// None: nothing is promised of the bytes as a whole.
    pub fn of(headers: &HeaderMap) -> Option<Promise> {
        let of_parts = match header_text(headers, "x-amz-checksum-type") {
            Some(told) => told != FULL_OBJECT,
            // moto tells one of parts without saying so.
            None => header_text(headers, "etag").is_some_and(|etag| etag.contains('-')),
        };
        if of_parts {
            return None;
        }
        ChecksumAlgorithm::ALL.iter().find_map(|algorithm| {
            // A `-` and the number of parts follow where it is one of parts: base64 has no `-`.
            let value = header_text(headers, algorithm.header()).filter(|told| !told.contains('-'))?;
            Some(Promise { algorithm: *algorithm, value })
        })
    }

    /// Errors: what differs, in words.
    pub fn compare(&self, computed: &str) -> Result<(), String> {
        let Promise { algorithm, value } = self;
        match computed == value {
            true => Ok(()),
            false => Err(format!(
                "the contents do not have the checksum that S3 keeps: {} {computed}, there it is {value}",
                algorithm.name()
            )),
        }
    }

    /// As [`Promise::compare`], with the sums of consecutive pieces. Those that cannot be put together prove nothing.
    pub fn compare_pieces(&self, pieces: &[PartChecksum]) -> Result<(), String> {
        let made = match pieces {
            [only] => Some(only.value.clone()),
            pieces => whole(self.algorithm, pieces.iter().map(Some)),
        };
        made.map_or(Ok(()), |computed| self.compare(&computed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> String {
        let mut checksum = Checksum::new(algorithm);
        bytes.chunks(4).for_each(|chunk| checksum.update(chunk));
        checksum.finish()
    }

    /// The check values of the catalogue of CRCs, and of FIPS 180.
    #[test]
    fn each_is_computed_as_its_standard_says() {
        let table: [(ChecksumAlgorithm, &[u8]); 5] = [
            (ChecksumAlgorithm::Crc32, &[0xcb, 0xf4, 0x39, 0x26]),
            (ChecksumAlgorithm::Crc32c, &[0xe3, 0x06, 0x92, 0x83]),
            (ChecksumAlgorithm::Crc64Nvme, &[0xae, 0x8b, 0x14, 0x86, 0x0a, 0x79, 0x98, 0x88]),
            (ChecksumAlgorithm::Sha1, &[0xf7, 0xc3, 0xbc, 0x1d]),
            (ChecksumAlgorithm::Sha256, &[0x15, 0xe2, 0xb0, 0xd3]),
        ];
        for (algorithm, expected) in table {
            let sum = BASE64.decode(of(algorithm, b"123456789")).unwrap();
            assert_eq!(sum.get(..expected.len()), Some(expected), "{algorithm:?}");
        }
    }

    #[test]
    fn those_of_parts_make_that_of_the_whole() {
        let bytes: Vec<u8> = (0..1000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for algorithm in ChecksumAlgorithm::ALL {
            let parts: Vec<PartChecksum> = [&bytes[..7], &bytes[7..500], &bytes[500..]]
                .iter()
                .map(|part| PartChecksum { algorithm, value: of(algorithm, part), bytes: part.len() as u64 })
                .collect();
            let made = whole(algorithm, parts.iter().map(Some));
            let expected = algorithm.covers_objects_of_parts().then(|| of(algorithm, &bytes));
            assert_eq!(made, expected, "{algorithm:?}");
            assert_eq!(whole(algorithm, parts.iter().map(Some).chain([None])), None);
        }
    }

    #[test]
    fn only_what_covers_the_bytes_as_one_is_compared() {
        let headers = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).unwrap())
            });
            pairs.collect::<HeaderMap>()
        };
        let sum = of(ChecksumAlgorithm::Crc32, b"abc");
        let named = ("x-amz-checksum-crc32", sum.as_str());
        let verify = |pairs: &[_], bytes: &[u8]| {
            let promise = Promise::of(&headers(pairs))?;
            Some(promise.compare(&of(promise.algorithm, bytes)).is_ok())
        };
        assert_eq!(verify(&[named], b"abc"), Some(true));
        assert_eq!(verify(&[named], b"abd"), Some(false));
        assert_eq!(verify(&[named, ("x-amz-checksum-type", "FULL_OBJECT")], b"abc"), Some(true));
        assert_eq!(verify(&[named, ("x-amz-checksum-type", "COMPOSITE")], b"abd"), None);
        assert_eq!(verify(&[("x-amz-checksum-crc32", "AAAAAA==-3")], b"abd"), None);
        assert_eq!(verify(&[named, ("etag", "\"900150983cd24fb0d6963f7d28e17f72-2\"")], b"abd"), None);
        assert_eq!(verify(&[], b"abd"), None);
    }
}
