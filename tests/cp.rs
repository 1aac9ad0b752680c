//! `pailfs s3 cp` by the built program, where a server of our own answers what no real one would.

mod support;

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

/// S3 as far as `cp` needs it. Of what is slow a fourth part, or piece, never comes.
fn slow(seen: &Seen) -> Answer {
    const SIZE: u64 = 64 << 20;
    let etag = ("etag", "\"e\"".to_string());
    let xml =
        |body: &str| Answer(200, vec![("content-type", "application/xml".to_string())], body.to_string());
    match seen.method.as_str() {
        "POST" if seen.path.ends_with("?uploads") => xml(
            "<InitiateMultipartUploadResult><UploadId>the-upload</UploadId></InitiateMultipartUploadResult>",
        ),
        "POST" => xml("<CompleteMultipartUploadResult><ETag>e-8</ETag></CompleteMultipartUploadResult>"),
        "PUT" if seen.path.contains("slow") && seen.path.contains("partNumber=4") => hang(),
        "PUT" => Answer(200, vec![etag], String::new()),
        "DELETE" => Answer(204, vec![], String::new()),
        "GET" => {
            let range = seen.header("range").strip_prefix("bytes=").and_then(|range| range.split_once('-'));
            let (first, last) = range.expect("a range");
            let first: u64 = first.parse().expect("a number");
            let last = last.parse().unwrap_or(SIZE).min(SIZE - 1);
            if seen.path.contains("slow") && first > 24 << 20 {
                hang();
            }
            let headers = vec![
                etag,
                ("content-range", format!("bytes {first}-{last}/{SIZE}")),
                ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT".to_string()),
            ];
            Answer(206, headers, "x".repeat(usize::try_from(last + 1 - first).expect("it is small")))
        }
        _ => Answer(404, vec![], String::new()),
    }
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// Runs it until the server has been asked so, then sends the signal; answers the status and what stderr said.
fn interrupted(
    command: &mut Command,
    signal: Signal,
    server: &StandIn,
    asked: &str,
) -> (Option<i32>, String) {
    use std::io::Read as _;
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !server
        .seen()
        .iter()
        .any(|seen| format!("{} {} {}", seen.method, seen.path, seen.header("range")).contains(asked))
    {
        assert!(std::time::Instant::now() < end, "it never asked {asked}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if std::time::Instant::now() > end {
            child.kill().unwrap();
            panic!("it does not end: {:?}", child.wait());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (status.code(), stderr)
}

#[test]
fn an_interrupted_upload_is_aborted_and_can_be_done_again() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let server = StandIn::start(slow);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), vec![1; 64 << 20]).unwrap();
        let mut up = cp(&server, dir.path(), &["file", "s3://bucket/slow"]);
        let (code, stderr) = interrupted(&mut up, signal, &server, "partNumber=4");
        assert_eq!(code, Some(status), "{stderr}");
        assert!(stderr.contains("interrupted"), "{stderr}");
        let seen = server.seen();
        let aborted =
            seen.iter().filter(|seen| seen.method == "DELETE" && seen.path.contains("uploadId=the-upload"));
        assert_eq!(aborted.count(), 1, "{stderr}");
        assert!(
            !seen.iter().any(|seen| seen.method == "POST" && seen.path.contains("uploadId")),
            "completed"
        );
        let again = cp(&server, dir.path(), &["file", "s3://bucket/quick"]).output().unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        let completed = |seen: &Seen| seen.method == "POST" && seen.path.contains("quick?uploadId");
        assert!(server.seen().iter().any(completed));
    }
}

#[test]
fn an_interrupted_download_leaves_no_file_and_can_be_done_again() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let server = StandIn::start(slow);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "as it was").unwrap();
        let mut down = cp(&server, dir.path(), &["s3://bucket/slow", "file"]);
        let (code, stderr) = interrupted(&mut down, signal, &server, "slow bytes=33554432");
        assert_eq!(code, Some(status), "{stderr}");
        assert_eq!(names(dir.path()), ["file"], "{stderr}");
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"as it was");
        let again = cp(&server, dir.path(), &["s3://bucket/quick", "file"]).output().unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        assert_eq!(std::fs::metadata(dir.path().join("file")).unwrap().len(), 64 << 20);
        assert_eq!(names(dir.path()), ["file"]);
    }
}

/// An object of 6 GiB, which S3 is to copy in parts. The second never ends, however long one waits.
#[test]
fn an_interrupted_copy_between_buckets_is_aborted() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let server = StandIn::start(|seen: &Seen| {
            let xml = |body: &str| {
                Answer(200, vec![("content-type", "application/xml".to_string())], body.to_string())
            };
            match seen.method.as_str() {
                "HEAD" => Answer(
                    200,
                    vec![
                        ("content-length", (6_u64 << 30).to_string()),
                        ("etag", "\"e\"".to_string()),
                        ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT".to_string()),
                    ],
                    String::new(),
                ),
                "PUT" if seen.path.contains("partNumber=2") => hang(),
                "PUT" => xml("<CopyPartResult><ETag>e</ETag></CopyPartResult>"),
                _ => slow(seen),
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let args = ["s3://from/large", "s3://bucket/large", "--request-timeout", "1h"];
        let (code, stderr) =
            interrupted(&mut cp(&server, dir.path(), &args), signal, &server, "partNumber=2");
        assert_eq!(code, Some(status), "{stderr}");
        assert!(stderr.contains("interrupted"), "{stderr}");
        let aborted = |seen: &Seen| seen.method == "DELETE" && seen.path.contains("uploadId=the-upload");
        assert!(server.seen().iter().any(aborted), "{stderr}");
    }
}

#[test]
fn a_device_or_a_fifo_is_not_replaced() {
    let server = StandIn::start(slow);
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let output = cp(&server, dir.path(), &["s3://bucket/quick", "fifo"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("no regular file"), "{stderr}");
    assert_eq!(names(dir.path()), ["fifo"]);
    assert!(!std::fs::symlink_metadata(&fifo).unwrap().is_file());
}

/// Takes all that is sent, and has nothing.
fn taking(seen: &Seen) -> Answer {
    match seen.method.as_str() {
        "PUT" => Answer(200, vec![("etag", "\"e\"".to_string())], String::new()),
        _ => Answer(404, vec![], String::new()),
    }
}

/// The paths of all PUTs, in order of names.
fn put(server: &StandIn) -> Vec<String> {
    let seen = server.seen().into_iter().filter(|seen| seen.method == "PUT");
    let mut paths: Vec<String> = seen.map(|seen| seen.path).collect();
    paths.sort();
    paths
}

#[test]
fn recursive_takes_a_directory_or_a_link_to_one_and_nothing_else() {
    let server = StandIn::start(taking);
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tree")).unwrap();
    std::fs::write(dir.path().join("tree/file"), "x").unwrap();
    std::os::unix::fs::symlink("tree", dir.path().join("link")).unwrap();
    std::os::unix::fs::symlink("tree/file", dir.path().join("link-to-file")).unwrap();
    for (root, why) in [
        ("tree/file", "is not a directory"),
        ("link-to-file", "is not a directory"),
        ("none", "No such file"),
    ] {
        let output = cp(&server, dir.path(), &["-r", root, "s3://bucket/dir/"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{root}: {stderr}");
        assert!(stderr.contains(root) && stderr.contains(why), "{root}: {stderr}");
    }
    assert_eq!(put(&server), [""; 0]);
    let output = cp(&server, dir.path(), &["-r", "link", "s3://bucket/dir/"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(put(&server), ["/bucket/dir/file"]);
}

#[test]
fn what_is_no_file_is_left_out_and_named() {
    let server = StandIn::start(taking);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), "x").unwrap();
    nix::unistd::mkfifo(&tree.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("fifo", tree.join("link-to-fifo")).unwrap();
    for (args, named) in [
        (
            &["-r", "tree", "s3://bucket/"][..],
            &["tree/fifo: is neither", "tree/link-to-fifo: is not a file"][..],
        ),
        (&["tree/fifo", "s3://bucket/x"], &["is not a file"]),
    ] {
        let mut command = Command::new("timeout");
        let line = cp(&server, dir.path(), args);
        command
            .args(["-s", "KILL", "60"])
            .arg(line.get_program())
            .args(line.get_args())
            .current_dir(dir.path())
            .env_clear();
        command.envs(line.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        for named in named {
            assert!(stderr.contains(named), "no {named}: {stderr}");
        }
    }
    assert_eq!(put(&server), ["/bucket/file"]);
}

/// In a container the process has the same number each time.
#[test]
fn what_a_killed_download_left_is_in_nobodys_way() {
    let server = StandIn::start(slow);
    let dir = tempfile::tempdir().unwrap();
    let line = cp(&server, dir.path(), &["s3://bucket/quick", "file"]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "echo left > .pailfs-$$-0.part; exec \"$0\" \"$@\""]);
    shell.arg(line.get_program()).args(line.get_args()).current_dir(dir.path()).env_clear();
    let output =
        shell.envs(line.get_envs().filter_map(|(name, value)| Some((name, value?)))).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::metadata(dir.path().join("file")).unwrap().len(), 64 << 20);
    let left = names(dir.path()).into_iter().find(|name| name != "file").unwrap();
    assert_eq!(std::fs::read(dir.path().join(left)).unwrap(), b"left\n");
}

#[test]
fn keys_that_are_not_utf8_are_told_of_and_the_others_copied() {
    let server = StandIn::start(|seen: &Seen| match seen.method.as_str() {
        "GET" if seen.path.contains("list-type=2") => {
            let object = |key: &str| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2024-01-02T03:04:05.000Z</LastModified><ETag>e</ETag>\
                     <Size>3</Size></Contents>"
                )
            };
            let more = if seen.path.contains("good") { object("good/a") } else { String::new() };
            let odd = object("good/%FF");
            let body = format!(
                "<ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>{more}{odd}\
                 </ListBucketResult>"
            );
            Answer(200, vec![("content-type", "application/xml".to_string())], body)
        }
        "GET" => {
            let headers = vec![
                ("content-range", "bytes 0-2/3".to_string()),
                ("etag", "\"e\"".to_string()),
                ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT".to_string()),
            ];
            Answer(206, headers, "abc".to_string())
        }
        _ => Answer(404, vec![], String::new()),
    });
    let dir = tempfile::tempdir().unwrap();
    for (from, made) in [("s3://bucket/good", &["a"][..]), ("s3://bucket/odd", &[])] {
        let output = cp(&server, dir.path(), &["-r", from, "here"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{from}: {stderr}");
        assert!(stderr.contains("not UTF-8") && !stderr.contains("nothing below"), "{from}: {stderr}");
        let here = dir.path().join("here");
        assert_eq!(if here.exists() { names(&here) } else { vec![] }, made);
        let _ = std::fs::remove_dir_all(here);
    }
}
