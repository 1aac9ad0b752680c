//! docs/S3.md, line by line: boto3's side and ours, each on a bucket of its own, must print the same and leave the same
//! behind, as boto3 sees it.
#![cfg(feature = "servers")]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::aws::{Boto, clean_environment, with_credentials};
use support::mount::{Mount, Options, pailfs, run};
use support::servers::{Kind, REGION, Server, shared};

/// What differs by nature, or is told by one of the two only.
const NOT_COMPARED: [&str; 25] = [
    "LastModified",
    "VersionId",
    "UploadId",
    "Initiated",
    "CreationDate",
    // Of a listing, boto3 repeats the question.
    "Bucket",
    "Name",
    "Prefix",
    "Delimiter",
    "MaxKeys",
    "EncodingType",
    "KeyCount",
    "IsTruncated",
    "KeyMarker",
    "VersionIdMarker",
    "UploadIdMarker",
    "NextKeyMarker",
    "NextUploadIdMarker",
    "MaxUploads",
    // Of a HEAD, what boto3 makes up, and what a checksum header of ours is told again.
    "ChecksumAlgorithm",
    "ChecksumCRC32C",
    "ChecksumCRC32",
    "ChecksumType",
    // boto3 guesses no type by the name.
    "ContentType",
    // Stands beside the document, in a header; what is printed can be set again.
    "TransitionDefaultMinimumObjectSize",
];

/// SeaweedFS (4.48) has nothing like it, or not all of it; boto3's way to change a storage class it refuses.
const NOT_ON_SEAWEEDFS: [&str; 5] = ["website", "logging", "notification", "restore", "storage-class set"];

/// Both sides of each line of each table.
fn pairs() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/S3.md")).unwrap();
    let mut pairs = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let line = line.replace("\\|", "\u{1}");
        let cells: Vec<String> = line
            .trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().trim_matches('`').replace('\u{1}', "|"))
            .collect();
        let [left, right] = &cells[..] else { panic!("not a pair: {line}") };
        pairs.push((left.clone(), right.clone()));
    }
    pairs
}

struct Sides {
    server: &'static Server,
    boto: Boto,
    theirs: String,
    ours: String,
    mount: Mount,
    all: Mount,
    home: tempfile::TempDir,
}

impl Sides {
    fn new(kind: Kind) -> Sides {
        let server = shared(kind);
        let (theirs, ours) = (server.bucket("docs-boto"), server.bucket("docs-ours"));
        let mount = Options::new(server, &ours).arg("--metadata-ttl=0s").mount();
        let all = Options::new(server, "s3://").arg("--metadata-ttl=0s").mount();
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("file"), vec![7; 100_000]).unwrap();
        std::fs::write(home.path().join("large"), vec![7; 9 << 20]).unwrap();
        let mut boto = server.boto();
        // An upload that nobody ended.
        for bucket in [&theirs, &ours] {
            let about = serde_json::json!({"Bucket": bucket, "Key": "lost"});
            boto.call("create_multipart_upload", &about);
        }
        Sides { server, boto, theirs, ours, mount, all, home }
    }

    fn left(&mut self, line: &str) -> Value {
        let file = |name: &str| format!("\"{}\"", self.home.path().join(name).display());
        let line = line
            .replace("\"file\"", &file("file"))
            .replace("\"large\"", &file("large"))
            .replace("\"down\"", &file("down-theirs"));
        let line = line.replace("\"data-", &format!("\"{}-", self.theirs));
        let line = line.replace("\"data\"", &format!("\"{}\"", self.theirs));
        let line = line.replace("\"data/", &format!("\"{}/", self.theirs));
        let line = line.replace(":::data/", &format!(":::{}/", self.theirs));
        self.boto.evaluate(&line).unwrap_or_else(|e| panic!("{line}: {} {}", e.code, e.message))
    }

    #[track_caller]
    fn right(&self, line: &str) -> String {
        let dir = self.mount.dir.display().to_string();
        let all = self.all.dir.display();
        let line = line.replace("/mnt/s3/data", &format!("{all}/{}", self.ours));
        let line = line.replace("/mnt/s3", &all.to_string());
        let line = line.replace("/mnt/data", &dir).replace("s3://data", &format!("s3://{}", self.ours));
        let line = line.replace("^data-", &format!("^{}-", self.ours));
        let line = line.replace(":::data/", &format!(":::{}/", self.ours));
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = pailfs().parent().unwrap().display().to_string();
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &line]).current_dir(self.home.path());
        clean_environment(&mut shell);
        with_credentials(&mut shell);
        shell.env("PATH", format!("{bin}:{path}")).env("AWS_REGION", REGION);
        shell.env("AWS_ENDPOINT_URL", &self.server.endpoint);
        let said = run(&mut shell);
        assert!(said.status.success(), "{line}: {said:?}\n{}", self.mount.log_text());
        said.stdout
    }
}

/// Without what differs by nature.
fn comparable(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| !NOT_COMPARED.contains(&name.as_str()));
            let kept = kept.map(|(name, value)| (name.clone(), comparable(value)));
            // Names that hold nothing are as good as absent.
            let mut kept: Vec<_> = kept.filter(|(_, value)| *value != Value::Null).collect();
            kept.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(kept.into_iter().collect())
        }
        Value::Array(items) => items.iter().map(comparable).collect(),
        value => value.clone(),
    }
}

#[track_caller]
fn compare(left: &str, theirs: &Value, right: &str, ours: &str, sides: &Sides) {
    if right.contains("--json") && !right.contains("--json |") {
        // What holds nothing is printed as nothing.
        let ours: Value = serde_json::from_str(ours).unwrap_or_else(|e| panic!("{right}: {e}: {ours}"));
        let text = |value: &Value, bucket: &str| comparable(value).to_string().replace(bucket, "BUCKET");
        assert_eq!(text(&ours, &sides.ours), text(theirs, &sides.theirs), "{left}\n{right}");
        return;
    }
    let lines: Vec<String> =
        ours.trim_end().lines().map(|line| line.replace(&sides.ours, "BUCKET")).collect();
    match theirs {
        Value::String(text) => assert_eq!(lines, [text.as_str()], "{left}\n{right}"),
        Value::Number(number) => assert_eq!(lines, [number.to_string()], "{left}\n{right}"),
        Value::Array(items) => {
            for item in items.iter().filter_map(Value::as_str) {
                let item = item.replace(&sides.theirs, "BUCKET");
                assert!(
                    lines.iter().any(|line| line.contains(&item)),
                    "{left}\n{right}: {item} not in {lines:?}"
                );
            }
        }
        // A change: what it did is compared below.
        _ => {}
    }
}

fn every_line(kind: Kind) {
    let mut sides = Sides::new(kind);
    let pairs = pairs();
    assert!(pairs.len() > 60, "only {} lines found", pairs.len());
    for (left, right) in &pairs {
        let unknown = |word: &str| right.contains(&format!("pailfs s3 {word}"));
        if kind == Kind::SeaweedFs && NOT_ON_SEAWEEDFS.iter().any(|word| unknown(word)) {
            continue;
        }
        let theirs = sides.left(left);
        let ours = sides.right(right);
        compare(left, &theirs, right, &ours, &sides);
        if ["s3.get_", "s3.head_", "s3.list_", "[o[", "code_of", "urlopen"]
            .iter()
            .any(|asks| left.starts_with(asks))
        {
            continue; // nothing was changed
        }
        let (theirs, ours) = (sides.theirs.clone(), sides.ours.clone());
        let state = [sides.boto.snapshot(&theirs), sides.boto.snapshot(&ours)];
        assert_eq!(state[0], state[1], "after {left}\nand {right}");
    }
    let down = |name: &str| std::fs::read(sides.home.path().join(name)).unwrap();
    assert_eq!(down("down"), down("down-theirs"));
}

#[test]
fn every_line_does_the_same_on_moto() {
    every_line(Kind::Moto);
}

#[test]
fn every_line_does_the_same_on_seaweedfs() {
    every_line(Kind::SeaweedFs);
}
