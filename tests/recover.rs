//! Bytes that could not be sent: what is sent of them later, over which version, and the command that does it.

mod support;

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pailfs::config::S3Config;
use pailfs::error::Error;
use pailfs::journal::{Base, Journal, Kept, KeptHeaders, KeptItem, Staged};
use pailfs::recover::notice;
use pailfs::write::recover::{Content, Sent, send, send_unless_there};
use pailfs::write::upload::Uploads;
use support::bytes::{assert_same_bytes, pattern};
use support::{Fault, House, On};

const MIB: usize = 1 << 20;

fn kept(key: &str, base: Option<(&str, usize)>, size: usize, ranges: Vec<Range<u64>>) -> Kept {
    Kept {
        key: key.into(),
        base: base.map(|(etag, size)| Base { etag: etag.into(), size: size as u64 }),
        exclusive: false,
        size: size as u64,
        ranges,
        headers: KeptHeaders { content_type: Some("text/x-kept".into()), ..KeptHeaders::default() },
        over: None,
        inherits: false,
        owner: None,
        sum: None,
        upload: None,
        reason: "PutObject s3://b/k: no\nanswer".into(),
        at: SystemTime::now(),
    }
}

fn range(start: usize, end: usize) -> Range<u64> {
    start as u64..end as u64
}

/// Keeps what `data` has in the ranges of `kept`.
fn keep(journal: &Journal, kept: &Kept, data: &[u8]) -> KeptItem {
    use std::os::unix::fs::FileExt as _;
    let file = tempfile::tempfile().unwrap();
    for range in &kept.ranges {
        let bytes = &data[range.start as usize..range.end as usize];
        file.write_all_at(bytes, range.start).unwrap();
    }
    journal.keep(kept, Staged::File(&file)).unwrap()
}

fn uploads(house: &House) -> Uploads {
    let runtime = tokio::runtime::Handle::current();
    let client = support::fake::client_over(house.faults.transport(), &house.fake.config());
    Uploads { client, runtime, journal: house.journal.clone() }
}

async fn export(house: &House, item: &KeptItem) -> Result<Vec<u8>, Error> {
    let to = tempfile::NamedTempFile::new().unwrap();
    let uploads = uploads(house);
    Content::open(&uploads.client, item).unwrap().export(to.as_file(), &|_| ()).await?;
    Ok(std::fs::read(to.path()).unwrap())
}

#[tokio::test]
async fn an_edit_is_sent_over_its_base_and_exported_with_it() {
    let house = House::new();
    for (size, edits, copies) in [
        (100, vec![range(10, 20)], 0),
        (30 * MIB, vec![range(9 * MIB, 9 * MIB + 5)], 3),
        (20 * MIB, vec![range(0, 1), range(19 * MIB, 21 * MIB)], 1),
    ] {
        let base = pattern(1, size);
        let etag = house.fake.put("dir/file", base.clone());
        let end = edits.last().unwrap().end as usize;
        let mut edited = base;
        edited.resize(size.max(end), 0);
        for edit in &edits {
            edited[edit.start as usize..edit.end as usize].fill(b'x');
        }
        let item = keep(&house.journal, &kept("dir/file", Some((&etag, size)), edited.len(), edits), &edited);
        assert_same_bytes(&export(&house, &item).await.unwrap(), &edited, "exported");
        house.fake.forget_calls();
        let done = AtomicU64::new(0);
        let progress = |bytes| _ = done.fetch_add(bytes, Ordering::Relaxed);
        send(&uploads(&house), &item, &progress).await.unwrap();
        assert_same_bytes(&house.fake.data("dir/file"), &edited, "sent");
        assert_eq!(house.fake.count("UploadPartCopy"), copies, "what did not change is copied");
        assert_eq!(done.into_inner(), edited.len() as u64);
        assert_eq!(house.fake.object("dir/file").unwrap().headers["content-type"], "text/x-kept");
        assert_eq!((house.fake.uploads(), house.journal.stats().open), (vec![], 0));
    }
}

#[tokio::test]
async fn what_changed_in_s3_meanwhile_is_not_overwritten() {
    let house = House::new();
    let later = SystemTime::now() + Duration::from_secs(3600);
    for size in [100, 20 * MIB] {
        let data = pattern(2, size);
        let whole = || vec![range(0, size)];
        let etag = house.fake.put("edited", "base");
        let edit = keep(&house.journal, &kept("edited", Some((&etag, 4)), size, whole()), &data);
        let exclusive = Kept { exclusive: true, ..kept("made", None, size, whole()) };
        let exclusive = keep(&house.journal, &exclusive, &data);
        let over = Kept { at: SystemTime::UNIX_EPOCH, ..kept("replaced", None, size, whole()) };
        let over = keep(&house.journal, &over, &data);
        for (item, errno) in [(edit, libc::ESTALE), (exclusive, libc::EEXIST), (over, libc::ESTALE)] {
            let key = item.kept.key.clone();
            house.fake.put(&key, "another host's");
            let refused = send(&uploads(&house), &item, &|_| ()).await.map(|_| ());
            assert_eq!(refused.map_err(|e| e.errno()), Err(errno), "{key}");
            assert_eq!(house.fake.data(&key), "another host's");
            assert_eq!((house.fake.uploads(), house.journal.stats().open), (vec![], 0));
            house.fake.delete(&key);
        }
        // Where nothing came in between, a whole file goes over what was there.
        house.fake.put("replaced", "older");
        let over = Kept { at: later, ..kept("replaced", None, size, whole()) };
        send(&uploads(&house), &keep(&house.journal, &over, &data), &|_| ()).await.unwrap();
        assert_same_bytes(&house.fake.data("replaced"), &data, "sent");
    }
}

/// A PUT that was given up may be carried out later.
#[tokio::test]
async fn what_s3_has_already_byte_for_byte_is_not_refused() {
    let house = House::new();
    for size in [100, 20 * MIB] {
        let data = pattern(5, size);
        let mut base = data.clone();
        base[10..20].fill(b'x');
        let etag = house.fake.put("edited", base);
        let edit = kept("edited", Some((&etag, size)), size, vec![range(10, 20)]);
        let made = Kept { exclusive: true, ..kept("made", None, size, vec![range(0, size)]) };
        let replaced =
            Kept { at: SystemTime::UNIX_EPOCH, ..kept("replaced", None, size, vec![range(0, size)]) };
        for kept in [edit, made, replaced] {
            let item = keep(&house.journal, &kept, &data);
            let mut another = data.clone();
            another[15] ^= 1;
            house.fake.put(&kept.key, another);
            assert!(send_unless_there(&uploads(&house), &item, &|_| ()).await.is_err(), "{}", kept.key);
            house.fake.put(&kept.key, data.clone());
            house.fake.forget_calls();
            let sent = send_unless_there(&uploads(&house), &item, &|_| ()).await;
            assert_eq!(sent.unwrap(), Sent::Before, "{}", kept.key);
            assert_same_bytes(&house.fake.data(&kept.key), &data, "untouched");
            assert_eq!((house.fake.uploads(), house.journal.stats().open), (vec![], 0));
            house.fake.delete(&kept.key);
        }
        let sent = keep(&house.journal, &kept("new", None, size, vec![range(0, size)]), &data);
        assert_eq!(send_unless_there(&uploads(&house), &sent, &|_| ()).await.unwrap(), Sent::Now);
        house.fake.delete("new"); // the next one is not later than it by the second that S3's clock leaves open
    }
}

#[tokio::test]
async fn where_s3_does_not_tell_now_whether_it_has_it_that_is_no_conflict() {
    let house = House::new();
    let made = Kept { exclusive: true, ..kept("made", None, 100, vec![range(0, 100)]) };
    let item = keep(&house.journal, &made, &pattern(6, 100));
    house.fake.put("made", pattern(6, 100));
    let config = S3Config { request_timeout: Duration::from_millis(200), ..house.fake.config() };
    let client = support::fake::client_over(house.faults.transport(), &config);
    let uploads = Uploads { client, ..uploads(&house) };
    for (op, fault, passing) in [
        ("HeadObject", Fault::Hang, true),
        ("GetObject", Fault::Error { status: 503, code: "SlowDown" }, true),
        ("GetObject", Fault::Error { status: 403, code: "AccessDenied" }, false),
    ] {
        let fault = house.faults.plan(On::op(op), fault);
        let refused = send_unless_there(&uploads, &item, &|_| ()).await.unwrap_err();
        assert_eq!((refused.is_passing(), refused.errno() == libc::EEXIST), (passing, !passing), "{refused}");
        fault.lift();
    }
    assert_eq!(send_unless_there(&uploads, &item, &|_| ()).await.unwrap(), Sent::Before);
}

#[tokio::test]
async fn an_edit_whose_base_is_gone_is_no_whole_file_any_more() {
    let house = House::new();
    let etag = house.fake.put("file", pattern(3, 100));
    let item =
        keep(&house.journal, &kept("file", Some((&etag, 100)), 120, vec![range(110, 115)]), &[b'x'; 120]);
    house.fake.put("file", "another");
    assert_eq!(export(&house, &item).await.map_err(|e| e.errno()), Err(libc::ESTALE));
    let to = tempfile::NamedTempFile::new().unwrap();
    let uploads = uploads(&house);
    Content::open(&uploads.client, &item).unwrap().export_kept_alone(to.as_file()).unwrap();
    let alone = std::fs::read(to.path()).unwrap();
    assert_eq!((alone.len(), &alone[109..116]), (120, &b"\0xxxxx\0"[..]));
}

#[tokio::test]
async fn a_part_that_fails_leaves_no_upload() {
    let house = House::new();
    let data = pattern(4, 20 * MIB);
    let item = keep(&house.journal, &kept("file", None, data.len(), vec![range(0, data.len())]), &data);
    house.faults.plan(On::op("UploadPart").nth(2), Fault::Error { status: 403, code: "AccessDenied" });
    let refused = send(&uploads(&house), &item, &|_| ()).await.map(|_| ());
    assert_eq!(refused.map_err(|e| e.errno()), Err(libc::EACCES));
    assert_eq!((house.fake.uploads(), house.fake.keys(), house.journal.stats().open), (vec![], vec![], 0));
}

const ENDPOINT: &str = "http://127.0.0.1:9";

fn pailfs(staging: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pailfs"));
    command.args(["recover", "data", "--endpoint-url", ENDPOINT, "--staging"]).arg(staging).args(args);
    command.env("AWS_CONFIG_FILE", "/nonexistent").env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_command_shows_what_is_kept_and_discards_what_it_is_told_to() {
    let staging = tempfile::tempdir().unwrap();
    let said = pailfs(staging.path(), &[]);
    assert_eq!((said.status.code(), text(&said.stdout)), (Some(0), "nothing is kept for data\n".into()));
    let journal = Journal::new(staging.path(), Some(ENDPOINT), "data");
    let bytes = [Bytes::from("12345")];
    journal.keep(&kept("dir/a", None, 5, vec![0..5, 5..5]), Staged::Memory(&bytes)).unwrap();
    let edit = kept("b", Some(("\"tag\"", 2000)), 2048, vec![range(1, 6), range(6, 6)]);
    let b = journal.keep(&edit, Staged::Memory(&bytes)).unwrap();
    let said = text(&pailfs(staging.path(), &["--list"]).stdout);
    for part in [
        "dir/a\n",
        "5 B",
        "b\n",
        b.name(),
        "2.0 KiB",
        "version tag (2.0 KiB)",
        "PutObject s3://b/k: no answer",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert_eq!(pailfs(staging.path(), &["--discard", "b"]).status.code(), Some(2), "--yes is asked for");
    let said = pailfs(staging.path(), &["--discard", "--yes", "no/such"]);
    assert!(text(&said.stderr).contains("nothing is kept under the name no/such"), "{said:?}");
    assert_eq!(journal.kept().unwrap().len(), 2);
    assert!(pailfs(staging.path(), &["--discard", "--yes", b.name()]).status.success());
    assert!(pailfs(staging.path(), &["--discard", "--yes", "dir/a"]).status.success());
    assert_eq!(journal.kept().unwrap().len(), 0);
}

#[test]
fn the_command_shows_exports_and_discards_what_tells_no_more_what_it_is() {
    let (staging, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let journal = Journal::new(staging.path(), Some(ENDPOINT), "data");
    let item = journal.keep(&kept("a", None, 5, vec![range(0, 5)]), Staged::Memory(&[Bytes::from("12345")]));
    let item = item.unwrap();
    File::options().write(true).open(item.bytes()).unwrap().set_len(9).unwrap();
    let said = notice(&journal, "data").concat();
    assert!(said.starts_with(item.name()), "{said}");
    let said = text(&pailfs(staging.path(), &[]).stdout);
    assert!(said.contains(item.name()) && said.contains("spoilt"), "{said}");
    let said = pailfs(staging.path(), &["--retry"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stderr).contains("cannot be read any more"), "{said:?}");
    let exported = pailfs(staging.path(), &["--export", to.path().to_str().unwrap(), item.name()]);
    assert!(exported.status.success(), "{exported:?}");
    assert!(std::fs::read(to.path().join(item.name())).unwrap().starts_with(b"12345"));
    assert!(item.bytes().exists(), "it stays kept");
    assert!(pailfs(staging.path(), &["--discard", "--yes", item.name()]).status.success());
    assert!(!item.bytes().exists());
}

#[test]
fn a_mount_that_may_not_send_says_what_was_acknowledged_and_waits() {
    let staging = tempfile::tempdir().unwrap();
    let died = Journal::new(staging.path(), Some(ENDPOINT), "data");
    let file = tempfile::tempfile().unwrap();
    died.acknowledge(kept("a", None, 0, vec![]), Staged::Ranges(&file)).unwrap();
    let next = Journal::new(staging.path(), Some(ENDPOINT), "data");
    assert_eq!(notice(&next, "data"), [""; 0], "its mount lives, and sends it");
    drop(died);
    let said = notice(&next, "data");
    assert!(said.len() == 1 && said[0].contains("not sent: 1 of data"), "{said:?}");
    assert_eq!(next.adopt_acknowledged().unwrap().len(), 1);
    assert_eq!(notice(&next, "data"), [""; 0], "it is on its way");
}

#[test]
fn the_command_leaves_alone_what_another_is_at_work_on() {
    let staging = tempfile::tempdir().unwrap();
    let journal = Arc::new(Journal::new(staging.path(), Some(ENDPOINT), "data"));
    let item =
        journal.keep(&kept("a", None, 5, vec![0..5, 5..5]), Staged::Memory(&[Bytes::from("12345")])).unwrap();
    let claim: File = item.claim().unwrap().expect("nobody else has it");
    let said = pailfs(staging.path(), &["--discard", "--yes"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stderr).contains("another `pailfs recover` is at work on it"), "{said:?}");
    assert_eq!(journal.kept().unwrap().len(), 1);
    drop(claim);
    assert!(pailfs(staging.path(), &["--discard", "--yes"]).status.success());
}
