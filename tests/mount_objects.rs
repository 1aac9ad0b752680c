//! One object is one file, byte for byte, whoever wrote it: sizes around the part boundaries, names of
//! all sorts, content types. What the other side says is boto3's and the `aws` command's word.
#![cfg(feature = "servers")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Command;

use support::aws::{s3api, s3api_ok};
use support::bytes::{assert_same_bytes, pattern, sha256_hex};
use support::ground::{Behind, Difference, differs};
use support::mount::{Mount, Options, run};
use support::servers::{Kind, Server, program, shared};

const MIB: usize = 1 << 20;
/// Around the smallest part S3 takes, and around the first part this program sends.
const SIZES: [usize; 9] =
    [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 100 * MIB];

fn behind(kind: Kind) -> Behind {
    match kind {
        Kind::SeaweedFs => Behind::SeaweedFs,
        Kind::Moto => Behind::Moto,
    }
}

fn sizes(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("sizes");
    let mut boto = server.boto();
    let home = tempfile::tempdir().expect("a directory");
    let local = home.path().join("data");
    let mount = Mount::of(server, &bucket);
    for (n, len) in SIZES.into_iter().enumerate() {
        let data = pattern(n as u64, len);
        let sum = sha256_hex(&data);
        // From the mount to S3. In pieces that divide nothing evenly.
        let mut file = fs::File::create(mount.path(format!("out-{len}"))).expect("a file");
        data.chunks(777_777).for_each(|piece| file.write_all(piece).expect("a write"));
        file.sync_all().expect("all of it in S3");
        drop(file);
        assert_eq!(boto.get_sum(&bucket, &format!("out-{len}")), (len as u64, sum.clone()), "{len} out");
        let head =
            s3api_ok(&server.endpoint, &["head-object", "--bucket", &bucket, "--key", &format!("out-{len}")]);
        assert!(head.contains(&format!("\"ContentLength\": {len},")), "{head}");
        // From S3 to the mount.
        fs::write(&local, &data).expect("a local file");
        let body = local.to_str().expect("text");
        let key = format!("in-{len}");
        s3api_ok(&server.endpoint, &["put-object", "--bucket", &bucket, "--key", &key, "--body", body]);
        let mut got = Vec::new();
        let mut file = fs::File::open(mount.path(&key)).expect("seen at once");
        assert_eq!(file.metadata().expect("its attributes").len(), len as u64);
        file.read_to_end(&mut got).expect("a read");
        assert_same_bytes(&got, &data, &key);
        // And what the mount wrote, by its own word.
        assert_eq!(sha256_hex(&fs::read(mount.path(format!("out-{len}"))).expect("a read")), sum);
    }
    // In parts, as boto3 sends a large file.
    let data = pattern(99, 20 * MIB);
    fs::write(&local, &data).expect("a local file");
    boto.put_file(&bucket, "in parts", &local);
    assert_same_bytes(&fs::read(mount.path("in parts")).expect("a read"), &data, "in parts");
    assert_eq!(boto.uploads(&bucket), []);
    mount.umount();
}

#[test]
fn seaweedfs_sizes_both_ways() {
    sizes(Kind::SeaweedFs);
}

#[test]
fn moto_sizes_both_ways() {
    sizes(Kind::Moto);
}

/// Names of one file each, all in one directory.
fn names() -> Vec<String> {
    let plain = [
        "plain",
        "with space",
        " leading",
        "trailing ",
        "a+b",
        "+",
        "100%",
        "%2F",
        "%41",
        "%",
        "q?x=1&y=2",
        "hash#tag",
        "semi;colon",
        "quote\"d",
        "it's",
        "<tag>&amp;",
        "back\\slash",
        "tab\there",
        "new\nline",
        "cr\rhere",
        "bell\u{7}",
        "one\u{1}",
        "del\u{7f}",
        "é",
        "e\u{301}",
        "日本語",
        "🦀",
        "~",
        "*",
        "...",
        ".hidden",
        "-rf",
        "a:b",
        "a|b",
        "$HOME",
        "`id`",
        "{x}",
        "[x]",
        "@",
        "=",
        ",",
        "!",
    ];
    let mut names: Vec<String> = plain.iter().map(|name| name.to_string()).collect();
    names.push("n".repeat(255));
    names.push("ü".repeat(127));
    names
}

/// What of [`names`] this server cannot hold; its way of failing is asserted, so that one which mends
/// its way is noticed.
fn beyond(server: &Server, bucket: &str) -> BTreeSet<String> {
    let mut beyond = BTreeSet::new();
    let put = |key: &str| s3api(&server.endpoint, &["put-object", "--bucket", bucket, "--key", key]);
    if differs(behind(server.kind), Difference::BackslashIsSlash) {
        beyond.insert("back\\slash".to_string());
        assert!(put("quirk\\x").status.success());
        assert_eq!(server.boto().keys(bucket, "quirk"), ["quirk/x"], "it keeps backslashes now");
        server.boto().delete(bucket, "quirk/x");
    }
    if differs(behind(server.kind), Difference::NoNewlineInKeys) {
        beyond.insert("new\nline".to_string());
        assert!(!put("quirk\nx").status.success(), "it takes newlines now");
    }
    beyond
}

fn names_both_ways(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("names");
    let mut boto = server.boto();
    let beyond = beyond(server, &bucket);
    let names: Vec<String> = names().into_iter().filter(|name| !beyond.contains(name)).collect();
    for name in &names {
        boto.put(&bucket, &format!("in/{name}"), name.as_bytes());
    }
    let mount = Mount::of(server, &bucket);
    fs::create_dir(mount.path("out")).expect("a directory");
    for name in &names {
        let got = fs::read(mount.path("in").join(name)).unwrap_or_else(|e| panic!("{name:?}: {e}"));
        assert_same_bytes(&got, name.as_bytes(), name);
        fs::write(mount.path("out").join(name), name).unwrap_or_else(|e| panic!("{name:?}: {e}"));
    }
    let want: BTreeSet<String> = names.iter().cloned().collect();
    for dir in ["in", "out"] {
        let shown: Vec<String> = fs::read_dir(mount.path(dir))
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        assert_eq!(shown.len(), names.len(), "no name twice in {dir}");
        assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), want, "{dir}");
        let keys = boto.keys(&bucket, &format!("{dir}/"));
        let prefix = format!("{dir}/");
        let keys = keys.iter().filter_map(|key| key.strip_prefix(&prefix)).filter(|key| !key.is_empty());
        assert_eq!(keys.map(str::to_owned).collect::<BTreeSet<_>>(), want, "{dir}");
    }
    for name in &names {
        assert_same_bytes(&boto.get(&bucket, &format!("out/{name}")), name.as_bytes(), name);
        fs::rename(mount.path("out").join(name), mount.path("moved")).expect("a rename");
        assert_eq!(boto.get(&bucket, "moved"), name.as_bytes());
        fs::remove_file(mount.path("in").join(name)).expect("an unlink");
    }
    fs::remove_file(mount.path("moved")).expect("an unlink");
    mount.umount();
    assert_eq!(boto.keys(&bucket, ""), ["in/", "out/"], "the directories stay");
}

#[test]
fn seaweedfs_names_both_ways() {
    names_both_ways(Kind::SeaweedFs);
}

#[test]
fn moto_names_both_ways() {
    names_both_ways(Kind::Moto);
}

/// S3's longest key, 1,024 bytes; one byte more is refused.
fn longest_keys(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("longest");
    let mut boto = server.boto();
    let segment = "é".repeat(100);
    let dir = [segment.as_str(); 5].join("/");
    let name = "f".repeat(1024 - dir.len() - 1);
    let key = format!("{dir}/{name}");
    assert_eq!(key.len(), 1024);
    let mount = Mount::of(server, &bucket);
    fs::create_dir_all(mount.path(&dir)).expect("directories");
    fs::write(mount.path(&key), "from the mount").expect("a file");
    assert_eq!(boto.get(&bucket, &key), b"from the mount");
    let refused = fs::write(mount.path(format!("{key}f")), "x").expect_err("a key of 1,025 bytes");
    assert_eq!(refused.raw_os_error(), Some(libc::ENAMETOOLONG));
    boto.put(&bucket, &key, b"from s3, and longer");
    let seen = || fs::read(mount.path(&key)).is_ok_and(|got| got == b"from s3, and longer");
    support::mount::wait_until("the mount sees the new object", seen);
    let found = fs::read_dir(mount.path(&dir)).expect("a directory").flatten();
    assert_eq!(found.map(|entry| entry.file_name().len()).collect::<Vec<_>>(), [name.len()]);
    fs::remove_dir_all(mount.path(&segment)).expect("all of it goes");
    mount.umount();
    assert_eq!(boto.keys(&bucket, ""), [""; 0]);
}

#[test]
fn seaweedfs_longest_keys() {
    longest_keys(Kind::SeaweedFs);
}

#[test]
fn moto_longest_keys() {
    longest_keys(Kind::Moto);
}

fn content_type(server: &Server, bucket: &str, key: &str) -> String {
    let words = ["head-object", "--bucket", bucket, "--key", key, "--query", "ContentType"];
    s3api_ok(&server.endpoint, &words).trim().trim_matches('"').to_string()
}

fn content_types(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("types");
    let mount = Mount::of(server, &bucket);
    for (name, wanted) in [("a.html", "text/html"), ("b.png", "image/png"), ("c.JSON", "application/json")] {
        fs::write(mount.path(name), "x").expect("a file");
        assert_eq!(content_type(server, &bucket, name), wanted, "{name}");
    }
    // Of more than one part: another request carries the type.
    fs::write(mount.path("large.txt"), pattern(1, 9 * MIB)).expect("a file");
    assert_eq!(content_type(server, &bucket, "large.txt"), "text/plain");
    fs::rename(mount.path("a.html"), mount.path("moved")).expect("a rename");
    assert_eq!(content_type(server, &bucket, "moved"), "text/html", "a rename changes the name only");
    mount.umount();

    let mount = Options::new(server, &bucket).args(["--content-type", "x-test/given"]).mount();
    fs::write(mount.path("d.html"), "x").expect("a file");
    assert_eq!(content_type(server, &bucket, "d.html"), "x-test/given");
    mount.umount();
}

#[test]
fn seaweedfs_content_types() {
    content_types(Kind::SeaweedFs);
}

#[test]
fn moto_content_types() {
    content_types(Kind::Moto);
}

/// Maps a file, as numpy and safetensors do, and compares it with another from its start to its end and, mapped anew,
/// here and there.
const COMPARE_MAPPED: &str = r#"
import mmap, random, sys
def pages(path):
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
whole = open(sys.argv[2], "rb").read()
mapped = pages(sys.argv[1])
assert len(mapped) == len(whole), len(mapped)
for at in range(0, len(whole), 65536):
    assert mapped[at:at + 65536] == whole[at:at + 65536], at
mapped = pages(sys.argv[3])
random.seed(7)
for _ in range(500):
    at = random.randrange(len(whole))
    assert mapped[at:at + 10000] == whole[at:at + 10000], at
"#;

#[test]
fn seaweedfs_files_are_mapped() {
    let server = shared(Kind::SeaweedFs);
    let bucket = server.bucket("mapped");
    let local = tempfile::NamedTempFile::new().expect("a file");
    fs::write(local.path(), pattern(9, 20 * MIB + 12_345)).expect("a local file");
    let body = local.path().to_str().expect("text");
    // Two, for the kernel would have the pages of one when it is mapped anew.
    for key in ["one", "two"] {
        s3api_ok(&server.endpoint, &["put-object", "--bucket", &bucket, "--key", key, "--body", body]);
    }
    let mount = Mount::of(server, &bucket);
    let mut compare = Command::new("timeout");
    compare.arg("600").arg(program("python3")).args(["-c", COMPARE_MAPPED]);
    compare.args([mount.path("one").as_path(), local.path(), mount.path("two").as_path()]);
    let said = run(&mut compare);
    assert!(said.status.success(), "{}", said.stderr);
    mount.umount();
}
