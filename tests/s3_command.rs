//! `pailfs s3` by the built program, against real servers: copies, waits, options of requests, what is printed.
//! (Line by line against boto3: `s3_docs.rs`.)
#![cfg(feature = "servers")]

mod support;

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::aws::{Boto, clean_environment, with_credentials};
use support::bytes::{assert_same_bytes, pattern};
use support::mount::{Mount, Options, Said, pailfs, run, wait_until};
use support::servers::{Kind, REGION, Server, shared};

struct Place {
    server: &'static Server,
    boto: Boto,
    bucket: String,
    home: tempfile::TempDir,
}

fn place(kind: Kind) -> Place {
    let server = shared(kind);
    Place { server, boto: server.boto(), bucket: server.bucket("s3cmd"), home: tempfile::tempdir().unwrap() }
}

impl Place {
    /// `pailfs s3 ARGS`; `s3://` alone stands for the bucket, `=s3://` for what it says.
    fn s3(&self, args: &[&str]) -> Said {
        let url = format!("s3://{}", self.bucket);
        let args = args.iter().map(|arg| match arg.strip_prefix("s3://") {
            Some(key) => format!("{url}/{key}"),
            None => arg.strip_prefix('=').unwrap_or(arg).to_string(),
        });
        let mut command = Command::new(pailfs());
        command.arg("s3").args(args).current_dir(self.home.path());
        clean_environment(&mut command);
        with_credentials(&mut command);
        command.env("AWS_REGION", REGION).env("AWS_ENDPOINT_URL", &self.server.endpoint);
        command.env("HOME", self.home.path());
        run(&mut command)
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let said = self.s3(args);
        assert!(said.status.success(), "{args:?}: {said:?}");
        said.stdout
    }

    /// It must fail so, and say that.
    #[track_caller]
    fn fails(&self, args: &[&str], status: i32, words: &str) {
        let said = self.s3(args);
        assert_eq!(said.status.code(), Some(status), "{args:?}: {said:?}");
        assert!(said.stderr.contains(words), "{args:?}: {said:?}");
    }

    fn file(&self, name: &str, data: &[u8]) {
        std::fs::write(self.home.path().join(name), data).unwrap();
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.home.path().join(dir)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn files_go_up_and_down(kind: Kind) {
    let mut place = place(kind);
    for (n, size) in [0, 1, 8 << 20, (20 << 20) + 12_345].into_iter().enumerate() {
        let data = pattern(n as u64, size);
        place.file("data.txt", &data);
        place.ok(&["cp", "data.txt", "s3://dir/", "--metadata", "colour=red"]);
        let head = place.boto.head(&place.bucket, "dir/data.txt").unwrap();
        assert_eq!(head.size, size as u64);
        if size > 0 {
            assert_same_bytes(&place.boto.get(&place.bucket, "dir/data.txt"), &data, "up");
        }
        assert_eq!(head.content_type, "text/plain");
        assert_eq!(head.metadata, [("colour".to_string(), "red".to_string())]);
        let said = place.s3(&["cp", "s3://dir/data.txt", "down/new"]);
        assert!(said.status.success(), "{said:?}");
        assert!(said.stderr.contains("copied 1 file"), "{said:?}");
        assert_same_bytes(&std::fs::read(place.home.path().join("down/new")).unwrap(), &data, "down");
    }
    assert_eq!(place.names("down"), ["new"], "nothing is left behind");
    assert_eq!(place.s3(&["cp", "-q", "s3://dir/data.txt", "."]).stderr, "");
    assert!(place.names(".").contains(&"data.txt".to_string()));
    place.boto.put_file(&place.bucket, "by-boto", &place.home.path().join("data.txt"));
    place.ok(&["cp", "s3://by-boto", "x"]);
    assert_eq!(std::fs::read(place.home.path().join("x")).unwrap().len(), (20 << 20) + 12_345);
}

fn trees_go_up_and_down(kind: Kind) {
    let mut place = place(kind);
    std::fs::create_dir_all(place.home.path().join("tree/a/b")).unwrap();
    for n in 0..40 {
        place.file(&format!("tree/a/f{n}"), &pattern(n, 100 * n as usize));
    }
    place.file("tree/a/b/deep", b"deep");
    place.ok(&["cp", "-r", "tree", "s3://up"]);
    assert_eq!(place.boto.keys(&place.bucket, "up/").len(), 41);
    assert_eq!(place.boto.get(&place.bucket, "up/a/b/deep"), b"deep");
    place.ok(&["cp", "-r", "s3://up", "back"]);
    let same = Command::new("diff").args(["-r", "tree", "back"]).current_dir(place.home.path()).status();
    assert!(same.unwrap().success());
    // A key that would lead out of the directory, and one that can be copied all the same.
    place.boto.put(&place.bucket, "odd/a//b", b"x");
    place.boto.put(&place.bucket, "odd/fine", b"fine");
    if kind == Kind::Moto {
        place.fails(&["cp", "-r", "s3://odd", "odd"], 1, "no path leads to the key");
    }
    place.s3(&["cp", "-r", "s3://odd", "odd"]);
    assert_eq!(std::fs::read(place.home.path().join("odd/fine")).unwrap(), b"fine");
    place.fails(&["cp", "-r", "s3://none", "none"], 1, "there is nothing below");
}

fn objects_are_copied_where_they_are(kind: Kind) {
    let mut place = place(kind);
    let other = place.server.bucket("s3cmd-to");
    place.file("f.txt", &pattern(1, 9 << 20));
    place.ok(&["cp", "f.txt", "s3://from/f.txt", "--metadata", "colour=red"]);
    place.ok(&["cp", "s3://from/f.txt", &format!("=s3://{other}/dir/")]);
    assert_same_bytes(&place.boto.get(&other, "dir/f.txt"), &pattern(1, 9 << 20), "copied");
    let head = place.boto.head(&other, "dir/f.txt").unwrap();
    assert_eq!(head.content_type, "text/plain", "as it was");
    assert_eq!(head.metadata, [("colour".to_string(), "red".to_string())]);
    let changed = ["--content-type", "text/x-log", "--metadata", "colour=blue"];
    place.ok(&[&["cp", "s3://from/f.txt", "s3://from/other"][..], &changed].concat());
    let head = place.boto.head(&place.bucket, "from/other").unwrap();
    assert_eq!(head.content_type, "text/x-log");
    assert_eq!(head.metadata, [("colour".to_string(), "blue".to_string())]);

    (0..30).for_each(|n| drop(place.boto.put(&place.bucket, &format!("tree/a/f{n}"), b"x")));
    place.boto.put(&place.bucket, "tree/a/b/", b"");
    let said = place.s3(&["cp", "-r", "s3://tree", &format!("=s3://{other}")]);
    assert!(said.status.success() && said.stderr.contains("copied 31 files"), "{said:?}");
    let below = place.boto.keys(&place.bucket, "tree/");
    let copied: Vec<String> = place.boto.keys(&other, "a/").iter().map(|key| format!("tree/{key}")).collect();
    assert_eq!(copied, below);

    place.fails(&["cp", "s3://none", "s3://x"], 1, "HeadObject");
    place.fails(&["cp", "-r", "s3://tree", "s3://tree/a"], 1, "would hold its own copy");
    place.fails(&["cp", "-r", "s3://none", "s3://tree"], 1, "there is nothing below");
    place.fails(&["cp", "s3://tree", "=s3://no-such-bucket-at-all/x"], 1, "HeadObject");
    if kind == Kind::Moto {
        place.fails(&["cp", "s3://tree/a/f1", "=s3://no-such-bucket-at-all/x"], 1, "NoSuchBucket");
    }
}

#[test]
fn seaweedfs_objects_are_copied_where_they_are() {
    objects_are_copied_where_they_are(Kind::SeaweedFs);
}

#[test]
fn moto_objects_are_copied_where_they_are() {
    objects_are_copied_where_they_are(Kind::Moto);
}

fn failures_leave_nothing_and_say_why(kind: Kind) {
    let mut place = place(kind);
    place.fails(&["cp", "s3://none", "x"], 1, "NoSuchKey");
    place.fails(&["cp", "none", "s3://x"], 1, "No such file");
    place.fails(&["cp", ".", "s3://x"], 1, "--recursive");
    place.fails(&["cp", "x", "y"], 1, "must be an s3:// URL");
    place.fails(&["cp", "s3://k", "-"], 1, "`-`: cp copies files");
    place.fails(&["cp", "-", "s3://x"], 1, "`-`: cp copies files");
    place.fails(&["cp", "s3://x"], 2, "DST");
    assert_eq!(place.names("."), [""; 0]);
    place.boto.put(&place.bucket, "k", b"v");
    place.file("plain", b"kept");
    place.fails(&["cp", "s3://k", "plain/y"], 1, "cannot make plain");
    place.fails(&["cp", "s3://k/", "plain"], 1, "NoSuchKey");
    place.fails(&["head", "s3://none"], 1, "HeadObject");
    place.fails(&["head", "s3://"], 1, "is a bucket");
    place.fails(&["cors", "get", "s3://k"], 1, "buckets have this");
    place.fails(&["cors", "get", "s3://"], 1, "NoSuchCORSConfiguration");
    place.file("cors", b"<CORSConf");
    place.fails(&["cors", "set", "s3://", "cors"], 1, "PutBucketCors");
    place.file("rules", b"{\"bogus\": 1}");
    place.fails(&["lifecycle", "set", "s3://", "rules"], 1, "`bogus` is not known, expected Rules");
    place.file("cors", b"neither");
    place.fails(&["cors", "set", "s3://", "cors"], 1, "neither XML nor JSON");
    place.fails(&["buckets", "delete", "s3://"], 1, "not empty");
    place.fails(&["acl", "set", "s3://k"], 1, "name a canned ACL");
    place.fails(&["acl", "set", "s3://k", ""], 1, "expected one of private, public-read,");
    place.fails(&["acl", "set", "s3://", "nonsense"], 1, "`nonsense` is no canned ACL");
    place.fails(&["acl", "set", "s3://k", "--grant-read", "foo"], 1, "`foo` names nobody");
    place.fails(&["cp", "plain", "s3://k", "--acl", "public"], 1, "--acl: expected one of private,");
    place.fails(&["tags", "set", "s3://k", "novalue"], 2, "name=value");
    place.fails(&["head", "/etc/passwd"], 1, "neither an s3:// URL nor on a pailfs mount");
    assert_eq!(place.boto.get(&place.bucket, "k"), b"v");
}

fn a_storage_class_is_set_and_all_else_stays(kind: Kind) {
    let mut place = place(kind);
    place.file("f.txt", b"data");
    place.ok(&["cp", "f.txt", "s3://f.txt", "--metadata", "colour=red"]);
    place.ok(&["tags", "set", "s3://f.txt", "by=me"]);
    place.ok(&["storage-class", "set", "s3://f.txt", "STANDARD_IA"]);
    let about = json!({"Bucket": place.bucket, "Key": "f.txt"});
    let told = place.boto.call("head_object", &about);
    assert_eq!(told["StorageClass"], "STANDARD_IA");
    assert_eq!((&told["ContentType"], &told["Metadata"]), (&json!("text/plain"), &json!({"colour": "red"})));
    let tags = place.boto.call("get_object_tagging", &about)["TagSet"].clone();
    assert_eq!(tags, json!([{"Key": "by", "Value": "me"}]));
    assert_eq!(place.ok(&["storage-class", "get", "s3://f.txt"]), "StorageClass: STANDARD_IA\n");
    place.ok(&["storage-class", "set", "s3://f.txt", "STANDARD"]);
    assert_eq!(place.ok(&["storage-class", "get", "s3://f.txt"]), "StorageClass: STANDARD\n");
}

/// SeaweedFS knows no archive.
#[test]
fn what_is_not_archived_is_not_restored() {
    let mut place = place(Kind::Moto);
    place.boto.put(&place.bucket, "k", b"v");
    assert_eq!(place.ok(&["restore", "get", "s3://k"]), "StorageClass: STANDARD\n");
    place.fails(&["restore", "set", "s3://k", "--days", "1"], 1, "in no archive");
    place.fails(
        &["restore", "set", "s3://k", "--days", "1", "--tier", "Foo"],
        2,
        "Expedited, Standard, Bulk",
    );
}

fn presigned_urls_are_printed(kind: Kind) {
    let mut place = place(kind);
    place.boto.put(&place.bucket, "a b", b"signed");
    let url = place.ok(&["presign", "s3://a b", "--expires", "5m"]);
    assert!(url.contains("X-Amz-Expires=300"), "{url}");
    let get = |url: &str| {
        let got = async { reqwest::get(url.trim_end()).await.unwrap().text().await.unwrap() };
        tokio::runtime::Runtime::new().unwrap().block_on(got)
    };
    assert_eq!(get(&url), "signed");
    let said = ["--requester-pays", "--expected-bucket-owner", "123456789012"];
    let url = place.ok(&[&["presign", "s3://a b"][..], &said].concat());
    for said in ["&x-amz-request-payer=requester", "&x-amz-expected-bucket-owner=123456789012&"] {
        assert!(url.contains(said), "{url}");
    }
    assert_eq!(get(&url), "signed", "and signed with it");
    place.fails(&["presign", "s3://a b", "--expires", "8d"], 1, "7 days");
}

fn waits_end_with_what_was_seen(kind: Kind) {
    let mut place = place(kind);
    let soon = ["--delay", "50ms", "--max-attempts", "2"];
    let wait = |what: &'static str, url: &'static str| [vec!["wait", what, url], soon.to_vec()].concat();
    place.fails(&wait("object-exists", "s3://late"), 255, "late still does not exist after 2 attempts");
    place.boto.put(&place.bucket, "k", b"v");
    place.ok(&wait("object-exists", "s3://k"));
    place.fails(&wait("object-not-exists", "s3://k"), 255, "still exists");
    place.ok(&wait("object-not-exists", "s3://late"));
    place.fails(&wait("bucket-not-exists", "s3://"), 255, "still exists");
    place.ok(&wait("bucket-exists", "s3://"));
    place.fails(&wait("bucket-exists", "=s3://no-such-bucket-at-all"), 255, "still does not exist");
    place.ok(&wait("bucket-not-exists", "=s3://no-such-bucket-at-all"));
    let end = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            place.s3(&["wait", "object-exists", "s3://late", "--delay", "50ms", "--max-attempts", "1000"])
        });
        std::thread::sleep(Duration::from_millis(200));
        place.server.boto().put(&place.bucket, "late", b"v");
        waiting.join().unwrap()
    });
    assert!(end.status.success(), "{end:?}");
}

fn documents_are_printed_in_every_form(kind: Kind) {
    let mut place = place(kind);
    let rules = json!({"CORSRules": [{"AllowedMethods": ["GET", "PUT"], "AllowedOrigins": ["*"], "MaxAgeSeconds": 9}]});
    let about = json!({"Bucket": place.bucket, "CORSConfiguration": rules});
    place.boto.call("put_bucket_cors", &about);
    let json: Value = serde_json::from_str(&place.ok(&["cors", "get", "s3://", "--json"])).unwrap();
    assert_eq!(json["CORSRules"][0]["MaxAgeSeconds"], 9);
    let raw = place.ok(&["cors", "get", "s3://", "--raw"]);
    assert!(raw.contains("<AllowedMethod>PUT</AllowedMethod>"), "{raw}");
    let table = place.ok(&["cors", "get", "s3://"]);
    assert!(table.contains("GET, PUT"), "{table}");
    // What was printed goes back, in either form.
    for form in [&raw, &json.to_string()] {
        place.file("cors", form.as_bytes());
        place.ok(&["cors", "delete", "s3://"]);
        place.ok(&["cors", "set", "s3://", "cors"]);
        let told = place.boto.call("get_bucket_cors", &json!({"Bucket": place.bucket}));
        assert_eq!(told["CORSRules"][0]["AllowedMethods"], json!(["GET", "PUT"]));
    }
    place.boto.put(&place.bucket, "dir/k", b"v");
    assert!(place.ok(&["ls", "s3://"]).contains("PRE  dir/"));
    assert!(place.ok(&["ls", "-r", "s3://"]).trim_end().ends_with("dir/k"));
    assert!(place.ok(&["buckets", "list"]).lines().any(|line| line.starts_with(&place.bucket)));
}

fn lost_uploads_are_found_and_aborted(kind: Kind) {
    let mut place = place(kind);
    for key in ["lost/1", "lost/2", "kept"] {
        place.boto.call("create_multipart_upload", &json!({"Bucket": place.bucket, "Key": key}));
    }
    let old = place.ok(&["uploads", "s3://", "--older-than", "7d"]);
    match kind {
        Kind::SeaweedFs => {
            assert_eq!(old, "");
            assert_eq!(place.ok(&["uploads", "s3://", "--abort", "--older-than", "7d"]), "");
            assert_eq!(place.boto.uploads(&place.bucket).len(), 3, "young ones are spared");
        }
        // To moto all were begun in 2010.
        Kind::Moto => assert_eq!(old.lines().count(), 4, "a head and three: {old}"),
    }
    assert_eq!(place.ok(&["uploads", "s3://lost/"]).lines().count(), 3, "a head and two");
    place.ok(&["uploads", "s3://lost/", "--abort"]);
    let left = place.boto.uploads(&place.bucket);
    assert_eq!(left.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["kept"]);
}

/// A path on a mount is enough: the mount tells the rest.
fn a_path_on_a_mount_is_enough(kind: Kind) {
    let mut place = place(kind);
    place.boto.put(&place.bucket, "pre/dir/f", b"v");
    let mount: Mount = Options::new(place.server, &format!("s3://{}/pre/", place.bucket)).mount();
    let path = mount.path("dir/f");
    let on = |path: &std::path::Path, args: &[&str]| {
        let (verb, rest) = args.split_at(2);
        let mut command = Command::new(pailfs());
        command.arg("s3").args(verb).arg(path).args(rest);
        clean_environment(&mut command);
        with_credentials(&mut command);
        run(&mut command)
    };
    let said = on(&path, &["tags", "set", "by=path"]);
    assert!(said.status.success(), "{said:?}");
    let about = json!({"Bucket": place.bucket, "Key": "pre/dir/f"});
    assert_eq!(place.boto.call("get_object_tagging", &about)["TagSet"][0]["Value"], "path");
    let told = xattr::get(&mount.dir, "pailfs.s3").unwrap().unwrap();
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["endpoint_url"], place.server.endpoint.as_str());
    let mut listed = xattr::list(&mount.dir).into_iter().flatten();
    assert!(listed.all(|name| name != "pailfs.s3"), "it is not listed");
    mount.umount();

    let mount = Options::new(place.server, &place.bucket).arg("--read-only").mount();
    let path = mount.path("pre/dir/f");
    for change in [
        &["tags", "set", "by=other"][..],
        &["tags", "delete"],
        &["acl", "set", "private"],
        &["storage-class", "set", "STANDARD"],
        &["restore", "set", "--days", "1"],
        &["versions", "delete", "null"],
    ] {
        let said = on(&path, change);
        assert_eq!(said.status.code(), Some(1), "{change:?}: {said:?}");
        assert!(said.stderr.contains("is read-only: to change"), "{change:?}: {said:?}");
    }
    let said = on(&path, &["tags", "get"]);
    assert!(said.stdout.contains("path"), "reading is fine: {said:?}");
    mount.umount();
}

/// SeaweedFS encrypts only where a key server is configured, and keeps no ACL by default.
#[test]
fn new_objects_carry_what_was_asked_for() {
    let place = place(Kind::Moto);
    place.file("f", b"data");
    let owner = ["--requester-pays", "--expected-bucket-owner", "123456789012"];
    let cp = |key: &str, more: &[&str]| {
        let url = format!("s3://{key}");
        place.ok(&[&["cp", "f", &url][..], more, &owner].concat());
    };
    cp("f", &["--sse", "s3", "--acl", "public-read"]);
    cp("cold", &["--storage-class", "STANDARD_IA"]);
    cp("kms", &["--sse", "kms", "--sse-kms-key-id", "k1"]);
    place.fails(&["cp", "f", "s3://f", "--expected-bucket-owner", "me"], 1, "12 digits");
    // A mount with the same options.
    let options = ["--sse=s3", "--storage-class=STANDARD_IA", "--acl=public-read"];
    let mount = Options::new(place.server, &place.bucket).args(options).mount();
    std::fs::write(mount.path("m"), b"data").unwrap();
    mount.umount();
    let mut boto = place.server.boto();
    let mut head = |key: &str| boto.call("head_object", &json!({"Bucket": place.bucket, "Key": key}));
    assert_eq!(head("f")["ServerSideEncryption"], "AES256");
    assert_eq!(head("cold")["StorageClass"], "STANDARD_IA");
    assert_eq!(head("kms")["SSEKMSKeyId"], "k1");
    let told = head("m");
    assert_eq!(
        (&told["ServerSideEncryption"], &told["StorageClass"]),
        (&json!("AES256"), &json!("STANDARD_IA"))
    );
    for key in ["f", "m"] {
        let acl =
            boto.call("get_object_acl", &json!({"Bucket": place.bucket, "Key": key}))["Grants"].to_string();
        assert!(acl.contains("AllUsers"), "{key}: {acl}");
    }
}

/// SSE-C, on SeaweedFS, which keeps it: without the key nothing can be read, with it everything.
#[test]
fn ones_own_key_encrypts_and_is_needed_again() {
    let place = place(Kind::SeaweedFs);
    place.file("key", &[7; 32]);
    let data = pattern(1, 20 << 20);
    place.file("f", &data);
    let key = ["--sse-c-key-file", "key"];
    place.ok(&[&["cp", "f", "s3://secret"][..], &key].concat());
    place.fails(&["cp", "s3://secret", "x"], 1, "GetObject");
    place.ok(&[&["cp", "s3://secret", "x"][..], &key].concat());
    assert_same_bytes(&std::fs::read(place.home.path().join("x")).unwrap(), &data, "with the key");
    let key_file = place.home.path().join("key");
    let mount = Options::new(place.server, &place.bucket).arg("--sse-c-key-file").arg(&key_file).mount();
    assert_same_bytes(&std::fs::read(mount.path("secret")).unwrap(), &data, "on a mount");
    std::fs::rename(mount.path("secret"), mount.path("moved")).unwrap();
    std::fs::write(mount.path("small"), b"small").unwrap();
    wait_until("it can be read", || std::fs::read(mount.path("small")).is_ok());
    let sse = xattr::get(mount.path("small"), "s3.sse").unwrap();
    assert_eq!(sse.as_deref(), Some(&b"SSE-C AES256"[..]));
    mount.umount();
    place.ok(&[&["cp", "s3://moved", "y"][..], &key].concat());
    assert_same_bytes(&std::fs::read(place.home.path().join("y")).unwrap(), &data, "after a rename");
    place.fails(&["head", "s3://small"], 1, "HeadObject");
    place.file("short", &[7; 31]);
    let expected = "expected a key of 32 bytes, as they are or in base64";
    place.fails(&["head", "s3://small", "--sse-c-key-file", "short"], 1, expected);
}

/// boto3 stores the same bytes with the same checksum, and is asked what S3 keeps of both.
fn checksums_are_boto3s(kind: Kind) {
    let mut place = place(kind);
    place.file("small", &pattern(1, 1000));
    place.file("large", &pattern(2, (9 << 20) + 5));
    for algorithm in ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"] {
        for name in ["small", "large"] {
            place.ok(&["cp", name, &format!("s3://ours-{name}"), "--checksum", algorithm]);
            // In one piece for those that cover an object of parts as one, else in the same parts.
            let (path, upper) = (place.home.path().join(name), algorithm.to_uppercase());
            let (path, bucket) = (path.display(), &place.bucket);
            let theirs = match algorithm.starts_with("crc") {
                true => format!(
                    "s3.put_object(Body=open('{path}', 'rb'), Bucket='{bucket}', Key='theirs-{name}', \
                     ChecksumAlgorithm='{upper}')"
                ),
                false => format!(
                    "s3.upload_file('{path}', '{bucket}', 'theirs-{name}', \
                     ExtraArgs={{'ChecksumAlgorithm': '{upper}'}})"
                ),
            };
            place.boto.evaluate(&theirs).unwrap();
            let mut checksum = |whose: &str| {
                let key = format!("{whose}-{name}");
                let arguments = json!({ "Bucket": place.bucket, "Key": key, "ChecksumMode": "ENABLED" });
                place.boto.call("head_object", &arguments)[format!("Checksum{upper}")].take()
            };
            let ours = checksum("ours");
            assert!(ours.is_string(), "{algorithm} {name}");
            assert_eq!(ours, checksum("theirs"), "{algorithm} {name}");
            for key in [format!("s3://ours-{name}"), format!("s3://theirs-{name}")] {
                place.ok(&["cp", &key, "back", "--checksum", algorithm]);
            }
        }
        let theirs = place.boto.call("list_objects_v2", &json!({ "Bucket": place.bucket }));
        let ours: Value = serde_json::from_str(&place.ok(&["ls", "--json", "s3://"])).unwrap();
        assert_eq!(checksums_listed(&ours), checksums_listed(&theirs), "{algorithm}");
        let told = ours["Contents"][0].get("ChecksumAlgorithm");
        assert_eq!(told.is_some(), kind == Kind::Moto, "SeaweedFS (4.48) tells of none: {ours}");
    }
}

fn checksums_listed(listing: &Value) -> Vec<[&Value; 3]> {
    let listed = listing["Contents"].as_array().expect("objects").iter();
    listed.map(|object| ["Key", "ChecksumAlgorithm", "ChecksumType"].map(|name| &object[name])).collect()
}

macro_rules! on_both {
    ($($test:ident)*) => {
        mod seaweedfs {
            $(#[test] fn $test() { super::$test(super::Kind::SeaweedFs); })*
        }
        mod moto {
            $(#[test] fn $test() { super::$test(super::Kind::Moto); })*
        }
    };
}

on_both!(
    checksums_are_boto3s
    files_go_up_and_down
    trees_go_up_and_down
    failures_leave_nothing_and_say_why
    presigned_urls_are_printed
    a_storage_class_is_set_and_all_else_stays
    waits_end_with_what_was_seen
    documents_are_printed_in_every_form
    lost_uploads_are_found_and_aborted
    a_path_on_a_mount_is_enough
);
