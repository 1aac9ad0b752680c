//! Archived objects that are read on a mount with `--restore-on-read`; moto plays the archive.
#![cfg(feature = "servers")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::mount::{Mount, Options, run, wait_until};
use support::servers::{Kind, Server, program};

/// How moto goes from a restore that was asked for to one that is done.
fn restores(server: &Server, transition: Value) {
    let script = "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), \
                  {'Content-Type': 'application/json'}))";
    let url = format!("{}/moto-api/state-manager/set-transition", server.endpoint);
    let order = json!({ "model_name": "s3::keyrestore", "transition": transition });
    let mut python = Command::new(program("python3"));
    let said = run(python.args(["-c", script, &url, &order.to_string()]));
    assert!(said.status.success(), "{said:?}");
}

fn archive(server: &Server, bucket: &str, key: &str) {
    let about = json!({ "Bucket": bucket, "Key": key, "Body": "bytes", "StorageClass": "GLACIER" });
    server.boto().call("put_object", &about);
}

fn read(path: &Path, direct: bool) -> Child {
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", path.display())).args(["bs=4096", "status=none"]);
    if direct {
        dd.arg("iflag=direct");
    }
    dd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Each of the ways in which the kernel asks: pages of its own, and reads past them.
#[test]
fn who_waits_gets_the_bytes_or_is_killed_and_blocks_nothing() {
    let server = Server::start(Kind::Moto);
    let bucket = server.bucket("restore");
    for key in ["soon", "never", "never-direct"] {
        archive(&server, &bucket, key);
    }
    let mount = Options::new(&server, &bucket).arg("--restore-on-read=days=2,tier=Bulk,wait=1h").mount();
    restores(&server, json!({ "progression": "manual", "times": 3 }));
    assert_eq!(std::fs::read(mount.path("soon")).unwrap(), b"bytes");
    let told = String::from_utf8(xattr::get(mount.path("soon"), "s3.restore").unwrap().unwrap()).unwrap();
    assert!(told.contains("ongoing-request=\"false\"") && told.contains("expiry-date"), "{told}");

    restores(&server, json!({ "progression": "manual", "times": 1_000_000 }));
    for (key, direct) in [("never", false), ("never-direct", true)] {
        let mut reader = read(&mount.path(key), direct);
        wait_until("it is asked for", || log_names(&mount, key));
        assert_eq!(reader.try_wait().unwrap(), None, "it waits");
        assert_eq!(std::fs::metadata(mount.path(key)).unwrap().len(), 5, "nobody else does");
        reader.kill().unwrap();
        let begun = Instant::now();
        reader.wait().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20), "{key}: {:?}", begun.elapsed());
    }
    mount.umount();
}

fn log_names(mount: &Mount, key: &str) -> bool {
    mount
        .log_text()
        .lines()
        .any(|line| line.contains("read it again in") && line.contains(&format!("key={key} ")))
}

#[test]
fn a_read_that_does_not_wait_asks_and_says_when_to_come_back() {
    let server = Server::start(Kind::Moto);
    let bucket = server.bucket("come-back");
    archive(&server, &bucket, "cold");
    restores(&server, json!({ "progression": "manual", "times": 1_000_000 }));
    let mount = Options::new(&server, &bucket).args(["-o", "restore_on_read,ro"]).mount();
    let head = json!({ "Bucket": bucket, "Key": "cold" });
    assert!(std::fs::read_dir(&mount.dir).unwrap().all(|entry| entry.unwrap().metadata().is_ok()));
    drop(std::fs::File::open(mount.path("cold")).unwrap());
    assert_eq!(
        server.boto().call("head_object", &head)["Restore"],
        Value::Null,
        "who only looks asks nothing"
    );
    // Refused it is; but moto gives the bytes out as soon as they are asked back, and the kernel asks twice.
    drop(std::fs::read(mount.path("cold")));
    let told = server.boto().call("head_object", &head)["Restore"].clone();
    assert!(told.as_str().unwrap().contains("ongoing-request"), "{told}");
    assert!(mount.log_text().contains("read it again in 3 to 5 hours"), "{}", mount.log_text());
    mount.umount();
}
