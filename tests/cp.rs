//! `pailfs s3 cp` by the built program, where a server of our own answers what no real one would.

mod support;

use std::process::Command;

use support::stand_in::{Answer, Seen, StandIn};

fn cp(server: &StandIn, dir: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pailfs"));
    command.env_clear().args(["s3", "cp"]).args(args).current_dir(dir);
    command.env("AWS_ENDPOINT_URL", &server.url).env("AWS_REGION", "us-east-1").env("HOME", dir);
    command.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "secret");
    command
}

/// The names in a directory, but for the journal's.
fn names(dir: &std::path::Path) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".cache").collect()
}

#[test]
fn what_differs_from_its_checksum_becomes_no_file() {
    let server = StandIn::start(|seen: &Seen| {
        let mut headers = vec![
            ("content-length", "3".to_string()),
            ("content-range", "bytes 0-2/3".to_string()),
            ("etag", "\"e\"".to_string()),
            ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT".to_string()),
        ];
        if seen.method == "HEAD" {
            headers.push(("x-amz-checksum-crc32", "NSRBwg==".to_string())); // of `abc`
        }
        let good = seen.path.starts_with("/bucket/good");
        match (seen.method.as_str(), good) {
            ("HEAD", _) => Answer(200, headers, String::new()),
            (_, true) => Answer(206, headers, "abc".to_string()),
            (_, false) => Answer(206, headers, "abd".to_string()),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let output =
        cp(&server, dir.path(), &["s3://bucket/spoilt", "x", "--checksum", "crc32"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("do not have the checksum that S3 keeps: CRC32"), "{stderr}");
    assert_eq!(names(dir.path()), [""; 0]);
    let output = cp(&server, dir.path(), &["s3://bucket/good", "x", "--checksum", "crc32"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"abc");
}
