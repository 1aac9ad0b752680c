//! The command line as a person or mount(8) meets it, where no server is needed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pailfs");

/// Runs the program without the settings of whoever runs the tests.
fn run_as(program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(&name);
        }
    }
    command
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .args(args)
        .output()
        .expect("the program starts")
}

fn run(args: &[&str]) -> Output {
    run_as(Path::new(PROGRAM), args)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit status 1, and one line on stderr that contains all of `words`.
#[track_caller]
fn fails(args: &[&str], words: &[&str]) {
    let output = run(args);
    let line = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
    assert!(line.starts_with("pailfs: "), "{args:?}: {line}");
    for word in words {
        assert!(line.contains(word), "{args:?}: no `{word}` in {line}");
    }
    assert_eq!(stdout(&output), "", "{args:?}");
}

/// Exit status 2, and stderr contains all of `words`.
#[track_caller]
fn misused(args: &[&str], words: &[&str]) {
    let output = run(args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: no `{word}` in {text}");
    }
}

#[test]
fn help_and_version() {
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    let expected = format!("pailfs {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&version), expected);

    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("mount"), "{}", stdout(&help));
    assert!(stdout(&help).contains("umount"), "{}", stdout(&help));
    assert_eq!(run(&[]).status.code(), Some(2));
}

#[test]
fn directory_buckets_are_refused_and_told_what_to_do() {
    let bucket = "data--usw2-az1--x-s3";
    let url = &format!("s3://{bucket}/key");
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["mount", bucket, dir.path().to_str().unwrap()][..],
        &["s3", "ls", url],
        &["s3", "cp", "Cargo.toml", url],
        &["s3", "cp", url, "/nonexistent/file"],
        &["s3", "buckets", "create", &format!("s3://{bucket}")],
        &["recover", bucket],
    ] {
        fails(args, &[bucket, "directory buckets", "not supported yet", "aws s3 cp"]);
    }
}

#[test]
fn every_command_of_s3_says_in_its_help_what_it_does() {
    for command in [&["s3"][..], &["s3", "wait"], &["s3", "buckets"], &["s3", "restore"]] {
        let help = stdout(&run(&[command, &["--help"]].concat()));
        assert!(help.contains("Commands:") && !help.contains("What every"), "{command:?}: {help}");
    }
}

#[test]
fn help_of_mount_names_every_option_and_its_sources() {
    let help = stdout(&run(&["mount", "--help"]));
    for word in [
        "--endpoint-url",
        "--region",
        "--profile",
        "--path-style",
        "--virtual-host-style",
        "--dual-stack",
        "--fips",
        "--accelerate",
        "--checksum",
        "--no-sign-request",
        "--unsigned-payload",
        "--read-only",
        "--allow-other",
        "--uid",
        "--gid",
        "--file-mode",
        "--dir-mode",
        "--umask",
        "--metadata-ttl",
        "--memory",
        "--part-size",
        "--request-timeout",
        "--ca-bundle",
        "--content-type",
        "--cache",
        "--cache-size",
        "--cache-min-free",
        "--foreground",
        "--log-level",
        "--log-file",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "AWS_PROFILE",
        "AWS_CA_BUNDLE",
        "512MiB",
        "/etc/fstab",
        "Examples:",
        "SIGTERM",
    ] {
        assert!(help.contains(word), "no {word} in the help:\n{help}");
    }
}

#[test]
fn requests_go_through_the_proxy_of_the_environment() {
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", proxy.local_addr().expect("its address"));
    let answering = std::thread::spawn(move || {
        let (socket, _) = proxy.accept().expect("a connection");
        let mut head = BufReader::new(socket);
        let mut asked = String::new();
        head.read_line(&mut asked).expect("a request");
        let mut line = String::from("more");
        while !line.trim().is_empty() {
            line.clear();
            head.read_line(&mut line).expect("a header");
        }
        let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        head.into_inner().write_all(answer).expect("an answer");
        asked
    });
    let dir = tempfile::tempdir().expect("a directory");
    let endpoint = "http://storage.invalid:9000";
    let output = Command::new(PROGRAM)
        .args(["mount", "--no-sign-request", "--endpoint-url", endpoint, "--region", "us-east-1", "bucket"])
        .arg(dir.path())
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .env("http_proxy", &url)
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let asked = answering.join().expect("the proxy");
    assert!(asked.contains(" http://storage.invalid:9000/bucket"), "{asked}");
}

#[test]
fn wrong_usage_says_what_was_expected() {
    misused(&["mount"], &["<BUCKET>", "<DIR>"]);
    misused(&["frobnicate"], &["frobnicate"]);
    misused(&["unmount", "/mnt"], &["umount"]);
    misused(&["umount"], &["<DIR>"]);
    misused(&["warm"], &["<PATH>"]);
    misused(&["warm", "/mnt", "--jobs", "0"], &["--jobs", "1..=64"]);
    misused(&["mount", "data", "/mnt", "--cache-size", "1GiB"], &["--cache <DIR>"]);
    misused(&["mount", "data", "/mnt", "-o", "cache=/c,cache_size=big"], &["--cache-size", "8MiB"]);
    misused(&["mount", "data", "/mnt", "--endpoint", "x"], &["--endpoint-url"]);
    misused(&["mount", "data", "/mnt", "--memory", "lots"], &["--memory", "8MiB"]);
    misused(&["mount", "data", "/mnt", "--part-size=1 parsec"], &["8MiB"]);
    misused(&["mount", "data", "/mnt", "--request-timeout", "5"], &["5s"]);
    misused(&["mount", "data", "/mnt", "--file-mode", "0999"], &["octal"]);
    misused(&["mount", "data", "/mnt", "--uid", "me"], &["--uid"]);
    misused(&["mount", "data", "/mnt", "--log-level", "loud"], &["debug"]);
    misused(&["mount", "data", "/mnt", "--path-style", "--virtual-host-style"], &["cannot be used with"]);
    misused(&["mount", "data", "/mnt", "-o", "path_style,virtual_host_style"], &["cannot be used with"]);
}

#[test]
fn wrong_o_options_are_named() {
    misused(&["mount", "data", "/mnt", "-o", "ro,endpoint=x"], &["`endpoint`", "`endpoint-url`"]);
    misused(&["data", "/mnt", "-o", "memory=lots"], &["--memory", "8MiB"]);
    misused(&["data", "/mnt", "-o", "region"], &["region=VALUE"]);
}

#[test]
fn settings_that_cannot_work_fail() {
    fails(&["mount", "Data", "/mnt"], &["`Data`", "lower-case"]);
    fails(&["mount", "da", "/mnt"], &["3 to 63"]);
    fails(&["mount", "data/x", "/mnt"], &["s3://name/prefix/"]);
    fails(&["mount", "data", "/mnt", "--part-size", "1MiB"], &["--part-size", "5MiB"]);
    fails(&["mount", "data", "/mnt", "--memory", "1MiB"], &["--memory", "64MiB"]);
    fails(&["mount", "data", "/mnt", "--cache=/c", "--cache-size=1MiB"], &["--cache-size", "64MiB"]);
    fails(&["mount", "data", "/mnt", "--endpoint-url", "nowhere"], &["--endpoint-url", "http"]);
    fails(&["mount", "data", "/mnt", "--profile", "nobody"], &["`nobody`", "AWS config"]);
    fails(&["mount", "data", "/mnt", "--ca-bundle", "/no/such.pem"], &["/no/such.pem"]);
}

#[test]
fn a_directory_that_is_missing_or_none_fails() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let missing = missing.to_str().unwrap();
    fails(&["mount", "data", missing], &[missing, "mkdir -p"]);
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    fails(&["mount", "data", file.to_str().unwrap()], &["not a directory"]);
    fails(&["mount", "data", "/"], &["mount"]);
}

#[test]
fn a_directory_with_a_mount_inside_is_refused() {
    // /proc is mounted wherever this runs.
    fails(&["mount", "data", "/"], &["has a mount inside it", "would be hidden"]);
}

fn link(dir: &Path, name: &str) -> PathBuf {
    let link = dir.join(name);
    symlink(PROGRAM, &link).unwrap();
    link
}

#[test]
fn the_forms_that_mount_uses() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let missing = missing.to_str().unwrap();
    let options = "rw,dev,suid,_netdev,user=me,endpoint_url=http://127.0.0.1:1,x-systemd.automount";
    fails(&["data", missing, "-o", options], &[missing, "mkdir -p"]);
    fails(&["s3://data/prefix", missing], &["mkdir -p"]);
    for name in ["mount.pailfs", "mount.fuse.pailfs"] {
        let program = link(dir.path(), name);
        let args = ["data", missing, "-n", "-v", "-t", "fuse.pailfs", "-o", options];
        let output = run_as(&program, &args);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("mkdir -p"), "{}", stderr(&output));
        // The name alone decides: `mount` is a bucket here.
        let output = run_as(&program, &["mount", missing]);
        assert!(stderr(&output).contains("mkdir -p"), "{}", stderr(&output));
    }
}

#[test]
fn a_sloppy_mount_names_what_it_ignores() {
    let dir = tempfile::tempdir().unwrap();
    let program = link(dir.path(), "mount.pailfs");
    let missing = dir.path().join("missing");
    let missing = missing.to_str().unwrap();
    let output = run_as(&program, &["data", missing, "-s", "-o", "whatever=1"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ignoring the unknown option"), "{said}");
}

#[test]
fn a_mount_without_a_server_fails_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    std::fs::create_dir(&mnt).unwrap();
    let log = dir.path().join("log");
    // Port 1 is nobody's. Where FUSE is missing it fails earlier, in one line too.
    fails(
        &[
            "mount",
            "data",
            mnt.to_str().unwrap(),
            "--endpoint-url",
            "http://127.0.0.1:1",
            "--no-sign-request",
            "--request-timeout",
            "1s",
            "--log-file",
            log.to_str().unwrap(),
        ],
        &[],
    );
}

#[test]
fn umount_of_what_is_no_pailfs_mount_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    fails(&["umount", path], &[path, "not a mount point"]);
    fails(&["umount", "/proc"], &["not a pailfs mount", "proc"]);
    fails(&["umount", "/no/such/dir"], &["/no/such/dir"]);
}

#[test]
fn a_cache_or_a_staging_directory_within_the_mount_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let within = dir.path().join("new/cache");
    fails(&["mount", "data", path, "--cache", within.to_str().unwrap()], &["lies within", "elsewhere"]);
    fails(&["mount", "data", path, "--cache", path], &["lies within", "elsewhere"]);
    let refused = ["--staging: ", "lies within", "elsewhere"];
    fails(&["mount", "data", path, "--staging", within.to_str().unwrap()], &refused);
}

#[test]
fn warm_of_what_is_no_pailfs_mount_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    fails(&["warm", path], &[path, "not on a pailfs mount", "findmnt"]);
    fails(&["warm", "/no/such/file"], &["/no/such/file"]);
}

#[test]
fn refresh_of_what_is_on_no_pailfs_mount_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    fails(&["refresh", path], &["is not on a pailfs mount", "findmnt"]);
    fails(&["refresh", &format!("{path}/missing")], &["cannot open"]);
    misused(&["refresh"], &["PATH"]);
}

#[test]
fn an_endpoint_with_a_path_is_refused_by_every_command() {
    let url = ["--endpoint-url", "http://127.0.0.1:1/path"];
    for command in [
        &["mount", "data", "/mnt"][..],
        &["recover", "data"],
        &["recover", "data", "--retry"],
        &["s3", "head", "s3://data/key"],
    ] {
        fails(&[command, &url].concat(), &["--endpoint-url", "/path", "http(s)://host:port"]);
    }
}
