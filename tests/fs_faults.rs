//! Publishing that fails: what close tells, what S3 has then, and that the bytes are found and can be sent later.

mod support;

use std::ffi::OsStr;
use std::time::Duration;

use pailfs::config::{ChecksumAlgorithm, Config, MEMORY_BYTES_MIN};
use pailfs::error::Error;
use pailfs::journal::{Intent, KeptItem};
use pailfs::write::recover::{self, Content, Sent};
use pailfs::write::upload::Uploads;
use support::bytes::{assert_same_bytes, pattern};
use support::{FakeS3, Fault, House, On};

const MIB: usize = 1 << 20;

/// What is written when the failure comes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// A new file of one PUT.
    Small,
    /// A new file of which parts were sent.
    Stream,
    /// A change in a large object.
    Edit,
}

const ALL: [Shape; 3] = [Shape::Small, Shape::Stream, Shape::Edit];

impl Shape {
    /// What makes the object.
    fn last_operation(self) -> &'static str {
        if self == Shape::Small { "PutObject" } else { "CompleteMultipartUpload" }
    }
}

fn impatient(config: &mut Config) {
    config.s3.request_timeout = Duration::from_millis(300);
}

/// Writes the file, all but its close. Answers what it is to hold.
async fn write(house: &House, shape: Shape) -> (u64, Vec<u8>) {
    match shape {
        Shape::Edit => {
            let mut data = pattern(1, 20 * MIB);
            house.fake.put("file", data.clone());
            let fh = house.open("file", libc::O_RDWR).await.unwrap();
            house.write(fh, 7_000_000, b"changed").await.unwrap();
            data[7_000_000..7_000_007].copy_from_slice(b"changed");
            (fh, data)
        }
        _ => {
            let data = pattern(2, if shape == Shape::Small { 1000 } else { 12 * MIB });
            let fh = house.create("file", libc::O_WRONLY).await.unwrap();
            for (n, piece) in data.chunks(MIB).enumerate() {
                house.write(fh, (n * MIB) as u64, piece).await.unwrap();
            }
            (fh, data)
        }
    }
}

fn uploads(house: &House) -> Uploads {
    let runtime = tokio::runtime::Handle::current();
    let client = support::fake::client_over(house.faults.transport(), &house.fake.config());
    Uploads { client, runtime, journal: house.journal.clone() }
}

/// Writes 40 MiB in order, so that parts are let go. Answers what it is to hold.
async fn stream(house: &House, fh: u64) -> Vec<u8> {
    let data = pattern(7, 40 * MIB);
    for (n, piece) in data.chunks(MIB).enumerate() {
        house.write(fh, (n * MIB) as u64, piece).await.unwrap();
    }
    data
}

/// Time enough for parts also on a busy machine.
fn small(config: &mut Config) {
    config.s3.request_timeout = Duration::from_secs(3);
    config.memory_bytes_max = MEMORY_BYTES_MIN;
}

/// The one item, of which S3 has most.
fn half_sent(house: &House, what: &str) -> KeptItem {
    let mut kept = house.journal.kept().unwrap();
    let item = kept.pop().unwrap_or_else(|| panic!("{what}: nothing is kept"));
    assert_eq!(kept, [], "{what}");
    let upload = item.kept.upload.as_ref().unwrap_or_else(|| panic!("{what}: it is all here"));
    assert_eq!(house.fake.uploads(), [("file".to_string(), upload.upload_id.clone())], "{what}");
    let here: u64 = item.kept.ranges.iter().map(|range| range.end - range.start).sum();
    assert_eq!(here + upload.bytes(), 40 << 20, "{what}");
    item
}

#[tokio::test]
async fn what_was_sent_and_let_go_stays_in_its_upload_which_is_completed_later() {
    let refused = || Fault::Error { status: 403, code: "AccessDenied" };
    let unmet = || Fault::Error { status: 412, code: "PreconditionFailed" };
    let complete = || On::op("CompleteMultipartUpload");
    for (on, fault, told, checksum) in [
        (complete(), refused(), libc::EACCES, Some(ChecksumAlgorithm::Crc32c)),
        (complete(), unmet(), libc::ESTALE, None),
        (On::op("UploadPart").nth(4).once(), refused(), libc::EACCES, None),
        (On::op("UploadPart").nth(8), refused(), libc::EACCES, Some(ChecksumAlgorithm::Sha256)),
    ] {
        let house = House::with(|config| {
            small(config);
            config.s3.requests.checksum = checksum;
        });
        let what = format!("{:?}, {told}", checksum);
        let fh = house.create("file", libc::O_WRONLY).await.unwrap();
        let line = house.faults.plan(on, fault);
        let data = stream(&house, fh).await;
        let file = house.enter("file").await.unwrap();
        house.fs.setxattr(file.ino, OsStr::new("s3.cache-control"), b"no-cache", 0).await.unwrap();
        house.leave(file.ino);
        assert_eq!(errno(house.close(fh).await), Err(told), "{what}");
        line.lift();
        assert_eq!((house.journal.stats().open, house.fs.held().staged_bytes), (0, 0), "{what}");
        let item = half_sent(&house, &what);
        let mut uploads = uploads(&house);
        uploads.client = support::fake::client_over(house.faults.transport(), &{
            let mut config = house.fake.config();
            config.requests.checksum = checksum;
            config
        });
        let exported = Content::open(&uploads.client, &item).unwrap();
        let to = tempfile::tempfile().unwrap();
        assert_eq!(errno(exported.export(&to, &|_| ()).await), Err(libc::EOPNOTSUPP), "{what}");
        // Refused once more, it stays as it is.
        house.fake.put("file", "theirs, and newer");
        let refused = recover::send_unless_there(&uploads, &item, &|_| ()).await;
        assert_eq!(errno(refused.map(|_| ())), Err(libc::EEXIST), "{what}");
        half_sent(&house, &what);
        house.fake.delete("file");
        let sent = recover::send_unless_there(&uploads, &item, &|_| ()).await;
        assert_eq!(sent.unwrap(), Sent::Now, "{what}");
        assert_same_bytes(&house.fake.data("file"), &data, &what);
        let head = uploads.client.head_object("file").await.unwrap();
        assert!(head.headers.contains(&("cache-control".into(), "no-cache".into())), "{what}: {head:?}");
        assert_eq!(house.fake.uploads(), [], "{what}");
    }
}

#[tokio::test]
async fn an_upload_that_has_kept_bytes_outlives_the_mount_and_goes_when_they_are_discarded() {
    let staging = tempfile::tempdir().unwrap();
    let in_staging = |config: &mut Config| {
        small(config);
        config.staging.dir = staging.path().into();
    };
    let fake = FakeS3::new();
    let house = House::on(fake.clone(), in_staging);
    let fh = house.create("file", libc::O_WRONLY).await.unwrap();
    stream(&house, fh).await;
    house.faults.plan(On::op("CompleteMultipartUpload"), Fault::Error { status: 403, code: "AccessDenied" });
    assert_eq!(errno(house.close(fh).await), Err(libc::EACCES));
    let upload_id = half_sent(&house, "kept").kept.upload.unwrap().upload_id;
    // As if the mount died before it told its journal.
    house.journal.begin(Intent::Upload { key: "file".into(), upload_id }).unwrap();
    drop(house);
    let next = House::on(fake.clone(), in_staging);
    next.fs.take_over().await.unwrap();
    for _ in 0..2000 {
        if next.journal.stats().open == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let item = half_sent(&next, "after the next mount");
    let refused =
        next.faults.plan(On::op("AbortMultipartUpload"), Fault::Error { status: 403, code: "AccessDenied" });
    let uploads = uploads(&next);
    assert_eq!(errno(recover::discard(&uploads.client, item.clone()).await), Err(libc::EACCES));
    half_sent(&next, "its upload is still there");
    refused.lift();
    recover::discard(&uploads.client, item).await.unwrap();
    assert_eq!((fake.uploads(), next.journal.kept().unwrap()), (vec![], vec![]));
}

/// What was not sent stays in memory until it is kept: nobody waits for that.
#[tokio::test]
async fn a_stream_that_is_refused_hears_of_it_before_it_waits_for_memory_and_is_kept_whole() {
    let house = House::with(small);
    let fh = house.create("file", libc::O_WRONLY).await.unwrap();
    let line = house.faults.plan(On::op("UploadPart"), Fault::Error { status: 403, code: "AccessDenied" });
    let mut data = Vec::new();
    let told = loop {
        let piece = pattern(data.len() as u64, MIB);
        match house.write(fh, data.len() as u64, &piece).await {
            Ok(()) => data.extend(piece),
            Err(e) => break e.errno(),
        }
    };
    assert_eq!((told, errno(house.close(fh).await)), (libc::EACCES, Err(libc::EACCES)));
    assert_eq!((house.fake.uploads(), house.fs.held().object_bytes), (vec![], 0));
    line.lift();
    let kept = house.journal.kept().unwrap().pop().expect("it is kept");
    assert_eq!(kept.kept.size as usize, data.len());
    is_recovered(&house, &data, "AccessDenied", "refused").await;
}

/// A Complete that was given up may be carried out later.
#[tokio::test]
async fn an_upload_that_was_completed_after_all_is_sent() {
    let house = House::with(small);
    let fh = house.create("file", libc::O_WRONLY).await.unwrap();
    let data = stream(&house, fh).await;
    let line = house.faults.plan(On::op("CompleteMultipartUpload"), Fault::Hang);
    assert_eq!(errno(house.close(fh).await), Err(libc::EIO));
    line.lift();
    let item = half_sent(&house, "given up");
    let uploads = uploads(&house);
    recover::send(&uploads, &item, &|_| ()).await.unwrap();
    let sent = recover::send_unless_there(&uploads, &item, &|_| ()).await;
    assert_eq!(sent.unwrap(), Sent::Before);
    assert_same_bytes(&house.fake.data("file"), &data, "it is there");
    house.fake.put("file", "theirs");
    assert!(recover::send_unless_there(&uploads, &item, &|_| ()).await.is_err());
}

/// All of `--staging-size` is another file's.
#[tokio::test]
async fn what_is_refused_is_kept_also_beyond_the_staging_size() {
    let house = House::with(|config| {
        impatient(config);
        config.staging.bytes_max = 64 << 20;
    });
    let other = house.create("other", libc::O_RDWR).await.unwrap();
    let mut at = MIB as u64;
    while house.write(other, at, &[1; MIB]).await.is_ok() {
        at += 2 * MIB as u64;
    }
    let (fh, data) = write(&house, Shape::Stream).await;
    house.faults.set_down(true);
    assert_eq!(errno(house.close(fh).await), Err(libc::EIO));
    house.faults.set_down(false);
    is_recovered(&house, &data, "connection refused", "beyond").await;
}

/// The one file that is kept can be had as a whole, and is what S3 has once it is sent.
async fn is_recovered(house: &House, data: &[u8], reason: &str, what: &str) {
    let kept = house.journal.kept().unwrap();
    let [item] = &kept[..] else { panic!("{what}: {kept:?}") };
    assert!(item.kept.reason.contains(reason), "{what}: {}", item.kept.reason);
    let uploads = uploads(house);
    let to = tempfile::NamedTempFile::new().unwrap();
    Content::open(&uploads.client, item).unwrap().export(to.as_file(), &|_| ()).await.unwrap();
    assert_same_bytes(&std::fs::read(to.path()).unwrap(), data, what);
    recover::send(&uploads, item, &|_| ()).await.unwrap();
    assert_same_bytes(&house.fake.data("file"), data, what);
}

fn errno(closed: Result<(), Error>) -> Result<(), i32> {
    closed.map_err(|e| e.errno())
}

#[tokio::test]
async fn what_a_server_refuses_or_does_not_answer_is_told_kept_and_sent_later() {
    let refused = || Fault::Error { status: 403, code: "AccessDenied" };
    let unmet = || Fault::Error { status: 412, code: "PreconditionFailed" };
    for (fault, told, reason) in [
        (refused(), libc::EACCES, "AccessDenied"),
        (unmet(), libc::ESTALE, "PreconditionFailed"),
        (Fault::Connect, libc::EIO, "refused"),
        (Fault::Hang, libc::EIO, "file"),
    ] {
        for shape in ALL {
            let house = House::with(impatient);
            let (fh, data) = write(&house, shape).await;
            let line = house.faults.plan(On::op(shape.last_operation()), fault.clone());
            let what = format!("{shape:?}, {reason}");
            assert_eq!(errno(house.close(fh).await), Err(told), "{what}");
            line.lift();
            assert_eq!(house.fake.uploads(), [], "{what}");
            is_recovered(&house, &data, reason, &what).await;
        }
    }
}

#[tokio::test]
async fn what_a_server_that_is_gone_did_not_take_is_told_kept_and_sent_later() {
    for shape in ALL {
        let staging = tempfile::tempdir().unwrap();
        let in_staging = |config: &mut Config| {
            impatient(config);
            config.staging.dir = staging.path().into();
        };
        let fake = FakeS3::new();
        let house = House::on(fake.clone(), in_staging);
        let (fh, data) = write(&house, shape).await;
        house.faults.set_down(true);
        assert_eq!(errno(house.close(fh).await), Err(libc::EIO), "{shape:?}");
        house.faults.set_down(false);
        // Its upload could not be aborted: the next mount does that.
        assert_eq!(fake.uploads().len(), usize::from(shape == Shape::Stream), "{shape:?}");
        drop(house);
        let next = House::on(fake.clone(), in_staging);
        next.fs.take_over().await.unwrap();
        is_recovered(&next, &data, "connection refused", &format!("{shape:?}")).await;
        for _ in 0..2000 {
            if next.journal.stats().open == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(fake.uploads(), [], "{shape:?}");
    }
}

/// The connection breaks when the last request was sent. Where S3 carried it out it is a success, where it did not it
/// is sent again; where something else stands there by then the bytes are kept.
#[tokio::test]
async fn a_last_request_whose_answer_was_lost_succeeds_once_or_is_kept() {
    for shape in ALL {
        for fault in [Fault::AnswerLost, Fault::Timeout] {
            let house = House::new();
            let (fh, data) = write(&house, shape).await;
            let line = house.faults.plan(On::op(shape.last_operation()).once(), fault);
            assert_eq!(errno(house.close(fh).await), Ok(()), "{shape:?}");
            assert_eq!(line.fired(), 1);
            assert_same_bytes(&house.fake.data("file"), &data, "it is there");
            assert!(house.journal.kept().unwrap().is_empty());
            assert_eq!(house.fake.uploads(), []);
        }
    }
    let house = House::new();
    let (fh, data) = write(&house, Shape::Edit).await;
    let base = house.fake.data("file");
    let lost = house.faults.plan(On::op("CompleteMultipartUpload").once(), Fault::Timeout);
    let fake = house.fake.clone();
    let theirs = Fault::meanwhile(move || {
        fake.put("file", "theirs");
    });
    house.faults.plan(On::op("CompleteMultipartUpload").once(), theirs);
    assert_eq!(errno(house.close(fh).await), Err(libc::ESTALE));
    assert_eq!((lost.fired(), house.fake.data("file").as_ref()), (1, &b"theirs"[..]));
    // What it is an edit of may come back from a backup.
    house.fake.put("file", base);
    is_recovered(&house, &data, "", "overtaken").await;
}

#[tokio::test]
async fn what_fsync_could_not_publish_every_later_one_tells_until_it_is_kept() {
    let house = House::with(impatient);
    let (fh, data) = write(&house, Shape::Small).await;
    house.faults.set_down(true);
    assert_eq!(errno(house.fs.fsync(fh).await), Err(libc::EIO));
    assert_eq!(house.fake.keys(), [""; 0]);
    house.faults.set_down(false);
    let again = errno(house.fs.fsync(fh).await);
    assert_eq!(again, Err(libc::EIO), "the failure stays until the file is closed");
    assert_eq!(errno(house.close(fh).await), Err(libc::EIO));
    is_recovered(&house, &data, "connection refused", "after fsync").await;
}

/// The staging directory is used up and the server is gone: what was acknowledged is kept all the same.
#[tokio::test]
async fn with_a_full_staging_directory_and_no_server_nothing_acknowledged_is_lost() {
    let house = House::with(|config| {
        impatient(config);
        config.staging.bytes_max = 64 << 20;
    });
    let fh = house.create("file", libc::O_RDWR).await.unwrap();
    let mut data = Vec::new();
    let full = loop {
        let (at, piece) = (data.len() + MIB, pattern(data.len() as u64, MIB));
        match house.write(fh, at as u64, &piece).await {
            Ok(()) => {
                data.resize(at, 0);
                data.extend(piece);
            }
            Err(e) => break e.errno(),
        }
    };
    assert_eq!((full, data.len()), (libc::ENOSPC, 128 * MIB));
    house.faults.set_down(true);
    assert_eq!(errno(house.close(fh).await), Err(libc::EIO));
    house.faults.set_down(false);
    assert_eq!(house.fs.held().staged_bytes, 0, "the next file has room");
    is_recovered(&house, &data, "connection refused", "full").await;
}
