//! What a mount that died left behind, and what the next one does about it.

mod support;

use std::path::Path;

use pailfs::s3::ObjectHeaders;
use support::bytes::pattern;
use support::house::errno;
use support::{FakeS3, Fault, House, On};

const MIB: usize = 1 << 20;

fn house_in(staging: &Path, fake: FakeS3) -> House {
    House::on(fake, |config| config.staging.dir = staging.into())
}

/// Writes 12 MiB of a file, so that its first parts are sent.
async fn write_half(house: &House, name: &str) -> u64 {
    let fh = house.create(name, libc::O_WRONLY).await.unwrap();
    house.write(fh, 0, &pattern(1, 12 * MIB)).await.unwrap();
    fh
}

/// What is begun in the background has come to its end.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("waited in vain until {what}");
}

#[tokio::test]
async fn an_upload_that_a_dead_mount_left_is_aborted_by_the_next_and_no_other_is() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let foreign = fake.client().create_multipart_upload("large", &ObjectHeaders::default()).await.unwrap();
    let first = house_in(staging.path(), fake.clone());
    write_half(&first, "large").await;
    assert_eq!(fake.uploads().len(), 2);

    let beside = house_in(staging.path(), fake.clone());
    beside.fs.take_over().await.unwrap();
    assert_eq!(beside.journal.stats().open, 0, "the first mount lives");
    assert_eq!(fake.uploads().len(), 2);

    drop(first);
    let next = house_in(staging.path(), fake.clone());
    next.fs.take_over().await.unwrap();
    until("it is aborted", || next.journal.stats().open == 0).await;
    assert_eq!(fake.uploads(), [("large".to_string(), foreign)]);
}

#[tokio::test]
async fn an_upload_that_could_not_be_aborted_is_left_to_the_mount_after_that() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    drop({
        let first = house_in(staging.path(), fake.clone());
        write_half(&first, "large").await;
        first
    });
    let second = house_in(staging.path(), fake.clone());
    let denied = Fault::Error { status: 403, code: "AccessDenied" };
    let line = second.faults.plan(On::op("AbortMultipartUpload"), denied);
    second.fs.take_over().await.unwrap();
    until("it was tried", || line.fired() > 0).await;
    assert_eq!((fake.uploads().len(), second.journal.stats().open), (1, 1));
    // Each mount that fails takes it over: they do not pile up.
    drop(second);
    let third = house_in(staging.path(), fake.clone());
    third.fs.take_over().await.unwrap();
    until("it is aborted", || third.journal.stats().open == 0).await;
    assert_eq!(fake.uploads(), []);
}

#[tokio::test]
async fn uploads_that_end_leave_no_trace_and_small_files_none_at_all() {
    let house = House::new();
    for n in 0..20 {
        house.make(&format!("small {n}"), b"data").await.unwrap();
    }
    assert_eq!(house.journal.stats().written, 0, "no record is written for one PUT");
    for (name, outcome) in [("whole", Ok(())), ("refused", Err(libc::EACCES))] {
        let denied = Fault::Error { status: 403, code: "AccessDenied" };
        let line = house.faults.plan(On::op("CompleteMultipartUpload").key("refused"), denied);
        let fh = write_half(&house, name).await;
        assert_eq!(house.journal.stats().open, 1);
        let flushed = house.fs.flush(fh).await;
        assert_eq!(flushed.map_err(|e| e.errno()), outcome);
        house.fs.release(fh).await;
        assert_eq!((house.journal.stats().open, house.fake.uploads()), (0, vec![]), "{name}");
        line.lift();
    }
    assert_eq!(errno(house.enter("refused").await), libc::ENOENT);
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_id_the_dead_mount_never_heard_is_found_and_aborted() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    let client = fake.client();
    let foreign = client.create_multipart_upload("large", &ObjectHeaders::default()).await.unwrap();
    client.upload_part("large", &foreign, 1, vec![pattern(1, 5 * MIB).into()]).await.unwrap();
    let first = house_in(staging.path(), fake.clone());
    first.faults.plan(On::op("CreateMultipartUpload"), Fault::AnswerHangs);
    tokio::select! {
        _ = write_half(&first, "large") => panic!("it was answered"),
        () = until("it is begun", || fake.uploads().len() == 2) => {}
    }
    drop(first);
    let next = house_in(staging.path(), fake.clone());
    next.fs.take_over().await.unwrap();
    until("it is aborted", || next.journal.stats().open == 0).await;
    assert_eq!(fake.uploads(), [("large".to_string(), foreign)], "of another host, which has sent parts");
}
