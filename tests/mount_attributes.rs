//! Attributes kept in objects' metadata, as programs meet them on a mount: the shell, `cp -a`, `tar`; and as boto3 sees
//! them in S3, both ways.
#![cfg(feature = "servers")]

mod support;

use std::fs::FileType;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use support::aws::Boto;
use support::mount::{Mount, Options, run};
use support::servers::{Kind, Server, shared};

/// Fails with the line of the first thing that is not as docs/SEMANTICS.md says.
const RULES: &str = r#"
import errno, os, shutil, stat, subprocess, sys, time

def refused(expected, call, *args):
    try:
        call(*args)
    except OSError as e:
        assert e.errno == expected, (args, errno.errorcode[e.errno])
    else:
        raise AssertionError(f"{call} {args} went well")

os.chdir(sys.argv[1])
os.umask(0o027)
with open("file", "wb") as f:
    f.write(b"0123456789")
    f.flush()
    os.setxattr(f.fileno(), "user.early", b"bird")
told = os.stat("file")
assert told.st_mode == stat.S_IFREG | 0o640, oct(told.st_mode)
assert told.st_uid == os.getuid() and abs(told.st_mtime - time.time()) < 60
if os.getuid() == 0:
    os.chown("file", 12345, 54321)
    assert (os.stat("file").st_uid, os.stat("file").st_gid) == (12345, 54321)
os.chmod("file", 0o4751)
os.utime("file", ns=(5, 1_700_000_000_000_000_007))
told = os.stat("file")
assert told.st_mode & 0o7777 == 0o4751 and told.st_mtime_ns == 1_700_000_000_000_000_007, told
assert told.st_atime_ns == 5
os.mkdir("dir", 0o770)
if sys.argv[2] == "seaweedfs":
    # It keeps no metadata of a key that ends in a slash.
    assert os.stat("dir").st_mode & 0o7777 == 0o755
    refused(errno.EOPNOTSUPP, os.chmod, "dir", 0o1777)
else:
    assert os.stat("dir").st_mode & 0o7777 == 0o750
    os.chmod("dir", 0o1777)
    assert os.stat("dir").st_mode & 0o7777 == 0o1777

os.symlink("../file", "dir/link")
assert os.readlink("dir/link") == "../file" and open("dir/link", "rb").read() == b"0123456789"
assert os.lstat("dir/link").st_size == 7
refused(errno.EEXIST, os.symlink, "x", "dir/link")
os.mkfifo("dir/fifo", 0o600)
assert stat.S_ISFIFO(os.stat("dir/fifo").st_mode)
refused(errno.EPERM, os.link, "file", "hard")
kinds = {e.name: (e.is_symlink(), e.is_file(follow_symlinks=False)) for e in os.scandir("dir")}
assert kinds == {"link": (True, False), "fifo": (False, False)}, kinds

assert os.listxattr("file") == ["user.early"]
assert os.getxattr("file", "user.early") == b"bird"
os.setxattr("file", "user.Colour", b"bl\xc3\xbce")
os.removexattr("file", "user.early")
refused(errno.ENODATA, os.getxattr, "file", "user.early")
refused(errno.EOPNOTSUPP, os.getxattr, "file", "system.posix_acl_access")
assert os.getxattr("file", "s3.key") == b"file"
os.setxattr("file", "s3.tags", b"by=me&for=you")
assert os.getxattr("file", "s3.tags") == b"by=me&for=you"
os.setxattr("file", "s3.content-type", b"text/x-odd")

shutil.copyfile(shutil.which("sleep"), "program")
os.chmod("program", 0o755)
program = subprocess.Popen(["./program", "1000"])
for flags in [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC]:
    refused(errno.ETXTBSY, os.open, "program", flags)
refused(errno.ETXTBSY, os.truncate, "program", 0)
program.kill()
assert program.wait() == -9, "it ran on"
os.unlink("program")

# moto answers a document that is none with a failure of its own.
if sys.argv[2] == "seaweedfs":
    refused(errno.EINVAL, os.setxattr, ".", "s3.cors", b"<CORSConfiguration><nonsense>")
"#;

fn mount(server: &Server, bucket: &str) -> Mount {
    Options::new(server, bucket).args(["--attrs", "meta"]).mount()
}

fn head(server: &Server, bucket: &str, key: &str) -> Value {
    server.boto().call("head_object", &json!({ "Bucket": bucket, "Key": key }))
}

fn rules(kind: Kind) {
    let server = shared(kind);
    let bucket = server.bucket("attributes");
    let mounted = mount(server, &bucket);
    let python = support::servers::program("python3");
    let name = if matches!(kind, Kind::Moto) { "moto" } else { "seaweedfs" };
    let said = run(Command::new(python).arg("-c").arg(RULES).arg(&mounted.dir).arg(name));
    assert!(said.status.success(), "{}", said.stderr);
    let before = shown(&mounted.dir);
    mounted.umount();
    let told = head(server, &bucket, "file");
    assert_eq!(told["ContentType"], "text/x-odd");
    let metadata = &told["Metadata"];
    assert_eq!(metadata["mode"], (0o104751).to_string());
    assert_eq!(metadata["mtime"], "1700000000.000000007");
    assert_eq!(metadata["--43olour"], "bl%c3%bce");
    assert_eq!(head(server, &bucket, "dir/link")["Metadata"]["mode"], (0o120777).to_string());
    assert_eq!(server.boto().get(&bucket, "dir/link"), b"../file");
    if name == "moto" {
        assert_eq!(head(server, &bucket, "dir/")["Metadata"]["mode"], (0o041777).to_string());
    }
    let tags = server.boto().call("get_object_tagging", &json!({ "Bucket": &bucket, "Key": "file" }));
    assert_eq!(tags["TagSet"][0]["Value"], "me", "{tags}");
    // Another mount, and what another client puts.
    let mut boto = server.boto();
    let theirs = json!({ "mode": "33024", "mtime": "1600000000", "shape": "round" });
    boto.call("put_object", &json!({ "Bucket": &bucket, "Key": "theirs", "Metadata": theirs }));
    let again = mount(server, &bucket);
    let told = std::fs::metadata(again.path("theirs")).unwrap();
    assert_eq!((told.mode(), told.mtime()), (0o100400, 1_600_000_000));
    assert_eq!(xattr::get(again.path("theirs"), "user.shape").unwrap().unwrap(), b"round");
    std::fs::remove_file(again.path("theirs")).unwrap();
    if name == "moto" {
        assert_eq!(shown(&again.dir), before);
    }
    again.umount();
}

#[test]
fn seaweedfs_keeps_attributes() {
    rules(Kind::SeaweedFs);
}

#[test]
fn moto_keeps_attributes() {
    rules(Kind::Moto);
}

/// What boto3 sees of an object besides its bytes.
fn carried(boto: &mut Boto, bucket: &str, key: &str) -> Value {
    let about = json!({ "Bucket": bucket, "Key": key });
    let (told, tags) = (boto.call("head_object", &about), boto.call("get_object_tagging", &about));
    json!([KEPT.map(|name| told.get(name)), told["Metadata"]["by"], tags["TagSet"]])
}

const KEPT: [&str; 9] = [
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "StorageClass",
    "ServerSideEncryption",
    "SSEKMSKeyId",
    "WebsiteRedirectLocation",
];

fn changes_keep_all_else(kind: Kind) {
    let server = shared(kind);
    let (bucket, mut boto) = (server.bucket("kept"), server.boto());
    let is_moto = matches!(kind, Kind::Moto);
    let mut put = json!({ "Bucket": &bucket, "Body": "bytes", "Metadata": { "by": "hand" },
        "CacheControl": "no-store", "ContentDisposition": "attachment", "ContentEncoding": "x-none",
        "ContentLanguage": "de", "ContentType": "text/x-odd", "StorageClass": "STANDARD_IA",
        "Tagging": "by=me&for=you%20all" });
    if is_moto {
        // SeaweedFS has no keys of KMS, and no websites.
        put["ServerSideEncryption"] = "aws:kms".into();
        put["SSEKMSKeyId"] = "my-key".into();
        put["WebsiteRedirectLocation"] = "/elsewhere".into();
    }
    for key in ["file", "d/below"] {
        put["Key"] = key.into();
        boto.call("put_object", &put);
    }
    let before = carried(&mut boto, &bucket, "file");
    let untold = before[0].as_array().unwrap().iter().filter(|value| value.is_null()).count();
    assert_eq!(untold, if is_moto { 0 } else { 3 }, "{before}");
    let mounted = mount(server, &bucket);
    let file = mounted.path("file");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(carried(&mut boto, &bucket, "file"), before, "chmod");
    xattr::set(&file, "user.more", b"more").unwrap();
    assert_eq!(carried(&mut boto, &bucket, "file"), before, "setfattr");
    std::fs::rename(&file, mounted.path("moved")).unwrap();
    assert_eq!(carried(&mut boto, &bucket, "moved"), before, "mv of a file");
    std::fs::rename(mounted.path("d"), mounted.path("e")).unwrap();
    assert_eq!(carried(&mut boto, &bucket, "e/below"), before, "mv of a directory");
    // What is appended to is a new object, without tags.
    let mut appended = std::fs::File::options().append(true).open(mounted.path("moved")).unwrap();
    std::io::Write::write_all(&mut appended, b" more").unwrap();
    drop(appended);
    assert_eq!(boto.get(&bucket, "moved"), b"bytes more");
    assert_eq!(carried(&mut boto, &bucket, "moved")[0], before[0], ">>");
    mounted.umount();
}

#[test]
fn seaweedfs_changes_keep_all_else() {
    changes_keep_all_else(Kind::SeaweedFs);
}

#[test]
fn moto_changes_keep_all_else() {
    changes_keep_all_else(Kind::Moto);
}

/// What `stat` tells of all below a directory that is to be the same after a copy.
fn shown(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> = walkdir::WalkDir::new(dir)
        .min_depth(1)
        .into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let (name, told) = (entry.path().strip_prefix(dir).unwrap(), entry.metadata().unwrap());
            let link = std::fs::read_link(entry.path()).ok();
            // A directory's time changes with what is copied into it later.
            let mtime = if told.is_dir() { (0, 0) } else { (told.mtime(), told.mtime_nsec()) };
            format!(
                "{name:?} {:o} {}:{} {mtime:?} {} {link:?}",
                told.mode(),
                told.uid(),
                told.gid(),
                size(&told)
            )
        })
        .collect();
    all.sort();
    all
}

fn size(told: &std::fs::Metadata) -> u64 {
    if told.is_dir() { 0 } else { told.len() }
}

fn is_fifo(kind: FileType) -> bool {
    kind.is_fifo()
}

/// A tree with modes, times, links and a fifo.
fn plant(dir: &Path) {
    std::fs::create_dir_all(dir.join("sub/deep")).unwrap();
    for (n, name) in ["a", "sub/b", "sub/deep/c", "sub/large"].iter().enumerate() {
        let file = dir.join(name);
        std::fs::write(&file, vec![n as u8; if *name == "sub/large" { 9 << 20 } else { 100 * n }]).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600 | n as u32)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_500_000_000 + n as u64, 17);
        std::fs::File::options().append(true).open(&file).unwrap().set_modified(time).unwrap();
    }
    std::os::unix::fs::symlink("../a", dir.join("sub/link")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.join("dangling")).unwrap();
    assert!(run(Command::new("mkfifo").arg(dir.join("fifo"))).status.success());
    std::fs::set_permissions(dir.join("sub"), PermissionsExt::from_mode(0o711)).unwrap();
}

#[test]
fn trees_are_copied_in_and_out_with_all_that_they_are() {
    let server = shared(Kind::Moto);
    let bucket = server.bucket("copies");
    let mounted = mount(server, &bucket);
    let here = tempfile::tempdir().unwrap();
    let (tree, back) = (here.path().join("tree"), here.path().join("back"));
    plant(&tree);
    let planted = shown(&tree);
    let ok = |command: &mut Command| {
        let said = run(command);
        assert!(said.status.success() && said.stderr.is_empty(), "{command:?}: {said:?}");
    };
    ok(Command::new("cp").arg("-a").arg(&tree).arg(mounted.path("copy")));
    assert_eq!(shown(&mounted.path("copy")), planted);
    let archive = here.path().join("tree.tar");
    ok(Command::new("tar").arg("-C").arg(&tree).args(["--format=posix", "-cf"]).arg(&archive).arg("."));
    std::fs::create_dir(mounted.path("unpacked")).unwrap();
    ok(Command::new("tar").arg("-C").arg(mounted.path("unpacked")).arg("-xpf").arg(&archive));
    assert_eq!(shown(&mounted.path("unpacked")), planted);
    mounted.umount();
    let again = mount(server, &bucket);
    assert!(is_fifo(std::fs::symlink_metadata(again.path("copy/fifo")).unwrap().file_type()));
    ok(Command::new("cp").arg("-a").arg(again.path("copy")).arg(&back));
    assert_eq!(shown(&back), planted);
    ok(Command::new("diff").arg("-r").arg("--no-dereference").arg("-x").arg("fifo").arg(&tree).arg(&back));
    again.umount();
}
