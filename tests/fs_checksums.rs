//! `--checksum`: what is sent with new objects, and what is compared when they are read.

mod support;

use pailfs::config::ChecksumAlgorithm;
use support::bytes::{assert_same_bytes, pattern};
use support::house::errno;
use support::{Fault, House, On};

fn house(algorithm: ChecksumAlgorithm) -> House {
    House::with(|config| config.s3.requests.checksum = Some(algorithm))
}

/// The headers of the last such call.
fn headers(house: &House, op: &str) -> http::HeaderMap {
    let calls = house.fake.calls();
    calls.into_iter().rfind(|logged| logged.call.op == op).expect("it was called").headers
}

#[tokio::test]
async fn new_objects_carry_the_checksum_that_was_asked_for() {
    for (algorithm, header, of_abc) in [
        (ChecksumAlgorithm::Crc32, "x-amz-checksum-crc32", "NSRBwg=="),
        (ChecksumAlgorithm::Crc32c, "x-amz-checksum-crc32c", "Nks/tw=="),
        (ChecksumAlgorithm::Sha256, "x-amz-checksum-sha256", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="),
    ] {
        let house = house(algorithm);
        house.make("file", b"abc").await.unwrap();
        assert_eq!(headers(&house, "PutObject")[header], of_abc);
        house.rename("file", "moved", 0).await.unwrap();
        assert!(headers(&house, "CopyObject").contains_key("x-amz-checksum-algorithm"));
    }
}

#[tokio::test]
async fn what_is_read_whole_is_compared_and_what_differs_is_eio() {
    for size in [5, 100_000, 1 << 20] {
        let house = house(ChecksumAlgorithm::Crc64Nvme);
        let data = pattern(1, size);
        house.fake.put("good", data.clone());
        house.fake.put("spoilt", data.clone());
        let spoils = house.faults.plan(On::op("GetObject").key("spoilt"), Fault::Corrupt { at: size / 2 });
        assert_same_bytes(&house.cat("good").await.unwrap(), &data, "as S3 keeps it");
        assert_eq!(headers(&house, "GetObject")["x-amz-checksum-mode"], "ENABLED");
        assert_eq!(errno(house.cat("spoilt").await), libc::EIO, "{size} bytes");
        assert!(spoils.fired() > 0);
        spoils.lift();
        assert_same_bytes(&house.cat("spoilt").await.unwrap(), &data, "asked for anew");
    }
}

#[tokio::test]
async fn without_the_option_nothing_is_asked_or_compared() {
    let house = House::new();
    house.fake.put("file", pattern(1, 1000));
    house.faults.plan(On::op("GetObject"), Fault::Corrupt { at: 5 });
    house.cat("file").await.unwrap();
    assert!(!headers(&house, "GetObject").contains_key("x-amz-checksum-mode"));
}
