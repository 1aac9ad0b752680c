//! `--write-back` on a mount: what programs see, what S3 has, and when.
#![cfg(feature = "servers")]

mod support;

use std::fs;
use std::process::Command;

use support::aws::{clean_environment, with_credentials};
use support::bytes::pattern;
use support::mount::{Mount, Options, flush, pailfs, run};
use support::servers::{Kind, REGION, Server, shared};

/// So many files that most are on their way when they are looked at.
const FILES: usize = 300;

fn recover(server: &Server, bucket: &str, mount: &Mount) -> String {
    let mut command = Command::new(pailfs());
    command.args(["recover", bucket, "--endpoint-url", &server.endpoint, "--region", REGION]);
    command.arg("--staging").arg(mount.log.with_file_name("staging"));
    clean_environment(&mut command);
    with_credentials(&mut command);
    let said = run(&mut command);
    assert!(said.status.success(), "{said:?}");
    said.stdout
}

fn s3(mount: &Mount, args: &[&str], path: &str) -> String {
    let mut command = Command::new(pailfs());
    command.arg("s3").args(args).arg(mount.path(path));
    clean_environment(&mut command);
    with_credentials(&mut command);
    let said = run(&mut command);
    assert!(said.status.success(), "{args:?}: {said:?}\nits log:\n{}", mount.log_text());
    said.stdout
}

/// Commands on its paths let the mount send what they ask S3 about.
fn commands_see_what_was_acknowledged(mount: &Mount) {
    for (name, args) in
        [("head", &["head"][..]), ("tags", &["tags", "get"]), ("class", &["storage-class", "get"])]
    {
        fs::create_dir_all(mount.path("asked")).expect("a directory");
        fs::write(mount.path(format!("asked/{name}")), "just now").expect("a write");
        s3(mount, args, &format!("asked/{name}"));
    }
    fs::write(mount.path("asked/below"), "just now").expect("a write");
    assert!(s3(mount, &["ls"], "asked").contains("below"));
    fs::write(mount.path("beside"), "just now").expect("a write");
    assert!(s3(mount, &["ls"], "").contains("beside"));
    fs::remove_dir_all(mount.path("asked")).expect("a removal");
    fs::remove_file(mount.path("beside")).expect("a removal");
}

fn write_back(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("back");
    let mount = Options::new(server, &bucket).arg("--write-back").mount();
    let content = |n: usize| pattern(n as u64, 100 + n * 37 % 20_000);
    for n in 0..FILES {
        let dir = mount.path(format!("tree/{}", n % 10));
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join(format!("{n}.tmp")), content(n)).expect("a write");
        fs::rename(dir.join(format!("{n}.tmp")), dir.join(n.to_string())).expect("a rename");
    }
    for n in (0..FILES).step_by(7) {
        let path = mount.path(format!("tree/{}/{n}", n % 10));
        assert_eq!(fs::read(&path).expect("a read"), content(n), "{n}, wherever it is by now");
        fs::remove_file(path).expect("a removal");
    }
    flush(&mount, "tree");
    let mut boto = server.boto();
    let mut expected: Vec<String> = (0..FILES)
        .filter(|n| n % 7 != 0)
        .map(|n| format!("tree/{}/{n}", n % 10))
        .chain((0..10).map(|dir| format!("tree/{dir}/")))
        .chain(["tree/".into()])
        .collect();
    expected.sort();
    assert_eq!(boto.keys(&bucket, ""), expected);
    for n in [1, 100, 299] {
        assert_eq!(boto.get(&bucket, &format!("tree/{}/{n}", n % 10)), content(n), "{n}");
    }
    assert!(recover(server, &bucket, &mount).starts_with("nothing is kept"));
    commands_see_what_was_acknowledged(&mount);
    fs::write(mount.path("last"), "just before the end").expect("a write");
    mount.umount();
    assert_eq!(boto.get(&bucket, "last"), b"just before the end");
}

#[test]
fn seaweedfs_write_back() {
    write_back(Kind::SeaweedFs);
}

#[test]
fn moto_write_back() {
    write_back(Kind::Moto);
}
