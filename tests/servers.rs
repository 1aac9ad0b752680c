//! The servers, boto3 and the `aws` command themselves: what the other tests stand on.
#![cfg(feature = "servers")]

mod support;

use support::aws::s3api_ok;
use support::servers::{Kind, Server, shared};

fn clients_agree(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("agree");
    let mut boto = server.boto();
    let key = "a b+c%/é\u{1}\"&<";
    let etag = boto.put_with(&bucket, key, b"hello", "text/x", &[("mode", "33188")]);
    assert_eq!(boto.get(&bucket, key), b"hello");
    let head = boto.head(&bucket, key).unwrap();
    assert_eq!((head.size, head.etag, head.content_type.as_str()), (5, etag, "text/x"));
    assert_eq!(head.metadata, [("mode".to_string(), "33188".to_string())]);
    assert_eq!(boto.keys(&bucket, ""), [key]);
    let listed = s3api_ok(&server.endpoint, &["list-objects-v2", "--bucket", &bucket]);
    assert!(listed.contains("\"Size\": 5"), "{listed}");
    boto.put_many(&bucket, &["m/1", "m/2", "m/3"], b"x");
    assert_eq!(boto.keys(&bucket, "m/").len(), 3);
    boto.empty(&bucket, "");
    assert_eq!(boto.keys(&bucket, ""), [""; 0]);
    assert_eq!(boto.try_get(&bucket, "none").unwrap_err().code, "NoSuchKey");
}

#[test]
fn seaweedfs_serves_boto3_and_aws() {
    clients_agree(Kind::SeaweedFs);
}

#[test]
fn moto_serves_boto3_and_aws() {
    clients_agree(Kind::Moto);
}

#[test]
fn seaweedfs_comes_back_with_its_data() {
    let server = Server::start(Kind::SeaweedFs);
    let bucket = server.bucket("back");
    server.boto().put(&bucket, "k", b"kept");
    server.kill();
    assert!(server.boto().try_get(&bucket, "k").is_err(), "a killed server answers");
    server.restart();
    assert_eq!(server.boto().get(&bucket, "k"), b"kept");
}
