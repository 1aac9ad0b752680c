//! The journal as its users meet it: what is found after a crash, by whom, and how large it gets.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::*;

fn journal(staging: &Path) -> Journal {
    Journal::new(staging, Some("http://here:1"), "bucket")
}

fn upload(n: usize) -> Intent {
    Intent::Upload { key: format!("key {n}"), upload_id: format!("id {n}") }
}

fn rename() -> Intent {
    Intent::Rename { from: "a/".into(), to: "b/".into(), over: false, at: SystemTime::UNIX_EPOCH }
}

/// What the process's death does: nothing is ended or removed, and the locks go.
fn crash(journal: Journal) {
    drop(journal.lock().home.take());
}

fn intents(open: &[Open]) -> Vec<Intent> {
    open.iter().map(|open| open.intent.clone()).collect()
}

/// Directories of mounts that are there.
fn homes(staging: &Path) -> usize {
    let live = journal(staging).place.live();
    if live.exists() { std::fs::read_dir(live).unwrap().count() } else { 0 }
}

#[tokio::test]
async fn what_was_begun_is_found_after_a_crash_by_the_next_mount_once() {
    let staging = tempfile::tempdir().unwrap();
    let first = journal(staging.path());
    let done = first.begin(upload(0)).unwrap();
    first.begin(upload(1)).unwrap();
    let renaming = first.begin(rename()).unwrap();
    first.commit(renaming).unwrap();
    first.end(done);
    first.sync().await.unwrap();
    crash(first);

    let second = journal(staging.path());
    let open = second.adopt().unwrap();
    assert_eq!(intents(&open), [upload(1), rename()]);
    assert_eq!(open.iter().map(|open| open.committed).collect::<Vec<_>>(), [false, true]);
    assert_eq!(homes(staging.path()), 1, "what was taken over is gone");
    second.end(open[0].id);
    crash(second);

    let third = journal(staging.path());
    let open = third.adopt().unwrap();
    assert_eq!(intents(&open), [rename()], "what was not finished is still there");
    third.end(open[0].id);
    drop(third);
    assert_eq!(homes(staging.path()), 0, "a mount that ends with nothing open leaves nothing");
}

#[test]
fn what_an_intention_has_become_is_found_after_a_crash() {
    let staging = tempfile::tempdir().unwrap();
    let first = journal(staging.path());
    let id = first.begin(upload(0)).unwrap();
    first.commit(id).unwrap();
    first.replace(id, rename()).unwrap();
    assert_eq!(first.stats().open, 1);
    crash(first);
    let open = journal(staging.path()).adopt().unwrap();
    assert_eq!((intents(&open), open[0].committed), (vec![rename()], false));
}

#[test]
fn a_mount_that_leaves_while_another_comes_is_in_nobodys_way() {
    let staging = tempfile::tempdir().unwrap();
    let first = journal(staging.path());
    first.begin(rename()).unwrap();
    crash(first);
    // Listed, and gone when it is looked at.
    std::os::unix::fs::symlink("gone", journal(staging.path()).place.live().join("left")).unwrap();
    assert_eq!(intents(&journal(staging.path()).adopt().unwrap()), [rename()]);
}

#[test]
fn a_journal_whose_mount_lives_is_left_alone() {
    let staging = tempfile::tempdir().unwrap();
    let lives = journal(staging.path());
    lives.begin(upload(0)).unwrap();
    let other = journal(staging.path());
    assert_eq!(other.adopt().unwrap(), []);
    other.begin(upload(1)).unwrap();
    assert_eq!(homes(staging.path()), 2);
    crash(lives);
    assert_eq!(intents(&other.adopt().unwrap()), [upload(1), upload(0)]);
}

#[test]
fn a_bucket_or_endpoint_of_its_own_has_a_journal_of_its_own() {
    let staging = tempfile::tempdir().unwrap();
    let dead = journal(staging.path());
    dead.begin(upload(0)).unwrap();
    crash(dead);
    for (endpoint, bucket) in [(None, "bucket"), (Some("http://here:1"), "bucket2")] {
        assert_eq!(Journal::new(staging.path(), endpoint, bucket).adopt().unwrap(), []);
    }
    assert_eq!(intents(&journal(staging.path()).adopt().unwrap()), [upload(0)]);
}

#[test]
fn nothing_is_written_before_something_is_begun() {
    let staging = tempfile::tempdir().unwrap();
    let journal = journal(staging.path());
    assert_eq!((journal.adopt().unwrap(), journal.kept().unwrap().len()), (vec![], 0));
    assert_eq!(std::fs::read_dir(staging.path()).unwrap().count(), 0);
}

#[test]
fn the_directory_is_its_owners_alone() {
    let staging = tempfile::tempdir().unwrap();
    let at = staging.path().join("new/staging");
    let journal = journal(&at);
    std::fs::create_dir_all(&journal.place.dir).unwrap();
    std::fs::set_permissions(&journal.place.dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    journal.begin(upload(0)).unwrap();
    let scratch = journal.scratch().unwrap();
    for (path, mode) in [
        (journal.place.dir.clone(), 0o700),
        (journal.place.live(), 0o700),
        (scratch.clone(), 0o700),
        (scratch.join("journal"), 0o600),
        (scratch.join("lock"), 0o600),
    ] {
        let is = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(is, mode, "{}", path.display());
    }
    std::fs::write(staging.path().join("file"), "").unwrap();
    let error = Journal::new(&staging.path().join("file"), None, "bucket").prepare().unwrap_err();
    assert!(error.to_string().starts_with("--staging: "), "{error}");
}

#[test]
fn open_intentions_are_bounded() {
    let staging = tempfile::tempdir().unwrap();
    let journal = journal(staging.path());
    let first = journal.begin(rename()).unwrap();
    for n in 1..OPEN_MAX {
        journal.begin(upload(n)).unwrap();
    }
    assert_eq!(journal.stats().open, OPEN_MAX);
    assert!(matches!(journal.begin(rename()), Err(JournalError::Full)));
    journal.end(first);
    journal.begin(rename()).unwrap();
}

#[test]
fn the_file_stays_small_however_much_is_begun_and_ended() {
    let staging = tempfile::tempdir().unwrap();
    let first = journal(staging.path());
    let renaming = first.begin(rename()).unwrap();
    first.commit(renaming).unwrap();
    let mut peak = 0;
    for n in 0..10_000 {
        let id = first.begin(upload(n)).unwrap();
        first.end(id);
        peak = peak.max(first.stats().bytes);
    }
    assert!(((1 << 20) - 4096..(1 << 20) + 4096).contains(&peak), "{peak} bytes");
    let path = first.scratch().unwrap().join("journal");
    assert_eq!(std::fs::metadata(path).unwrap().len(), first.stats().bytes);
    assert_eq!(first.stats().written, 2 + 2 * 10_000);
    crash(first);
    let open = journal(staging.path()).adopt().unwrap();
    assert_eq!(open, [Open { id: 0, intent: rename(), committed: true }]);
}

#[test]
fn a_mangled_file_costs_what_was_mangled() {
    let staging = tempfile::tempdir().unwrap();
    let first = journal(staging.path());
    for n in 0..3 {
        first.begin(upload(n)).unwrap();
    }
    let path = first.scratch().unwrap().join("journal");
    crash(first);
    let mut bytes = std::fs::read(&path).unwrap();
    let second_line = bytes.windows(5).position(|w| w == b"key 1").unwrap();
    bytes[second_line] ^= 1;
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(intents(&journal(staging.path()).adopt().unwrap()), [upload(0)]);
}

#[test]
fn a_journal_of_a_later_format_is_left_alone() {
    let staging = tempfile::tempdir().unwrap();
    let first = journal(staging.path());
    first.begin(upload(0)).unwrap();
    let path = first.scratch().unwrap().join("journal");
    crash(first);
    let later = record::line(&Record::Format(record::FORMAT + 1));
    std::fs::write(&path, &later).unwrap();
    assert_eq!(journal(staging.path()).adopt().unwrap(), []);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), later);
}

#[test]
fn what_a_dead_mount_had_staged_goes_and_what_was_kept_stays() {
    let staging = tempfile::tempdir().unwrap();
    let first = journal(staging.path());
    std::fs::write(first.scratch().unwrap().join("staged"), "x").unwrap();
    first.keep(&kept(), Staged::Memory(&[Bytes::from("0123456789")])).unwrap();
    crash(first);
    let second = journal(staging.path());
    second.adopt().unwrap();
    assert_eq!(homes(staging.path()), 0);
    assert_eq!(second.kept().unwrap().len(), 1);
}

fn kept() -> Kept {
    Kept {
        key: "dir/file\n".into(),
        base: Some(Base { etag: "\"e\"".into(), size: 100 }),
        exclusive: false,
        size: 5000,
        ranges: vec![10..14, 4000..4006],
        headers: KeptHeaders { content_type: Some("text/plain".into()), ..KeptHeaders::default() },
        over: None,
        inherits: false,
        owner: None,
        sum: None,
        upload: None,
        reason: "PutObject: no".into(),
        at: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
    }
}

#[test]
fn what_is_kept_comes_back_and_goes_when_it_is_discarded() {
    let staging = tempfile::tempdir().unwrap();
    let journal = journal(staging.path());
    let scratch = journal.scratch().unwrap();
    // A name for ever, none at all, another file system's (perhaps): each way the bytes are kept.
    let named = File::options().read(true).write(true).create_new(true).open(scratch.join("s")).unwrap();
    let nameless = tempfile::tempfile_in(&scratch).unwrap();
    let elsewhere = tempfile::tempfile().unwrap();
    for mut file in [named, nameless, elsewhere] {
        for (at, text) in [(10, "good"), (4000, "bytes!")] {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        journal.keep(&kept(), Staged::File(&file)).unwrap();
    }
    let later = Kept { at: SystemTime::UNIX_EPOCH, ranges: vec![3..4, 4..6], ..kept() };
    journal.keep(&later, Staged::Memory(&[Bytes::from("a"), Bytes::from("bc")])).unwrap();
    drop(journal);

    let items = self::journal(staging.path()).kept().unwrap();
    assert_eq!(items.len(), 4);
    assert_eq!(items[0].kept, later, "the oldest first");
    assert!(std::fs::read(items[0].bytes()).unwrap().starts_with(b"\0\0\0abc\0\0"));
    for item in items {
        if item.kept.at != SystemTime::UNIX_EPOCH {
            assert_eq!(item.kept, kept());
            let mut file = File::open(item.bytes()).unwrap();
            for (range, text) in [(10u64..14, "good"), (4000..4006, "bytes!")] {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.seek(SeekFrom::Start(range.start)).unwrap();
                file.read_exact(&mut bytes).unwrap();
                assert_eq!(bytes, text.as_bytes());
            }
        }
        item.discard().unwrap();
    }
    assert_eq!(self::journal(staging.path()).kept().unwrap().len(), 0);
}

fn one_item(staging: &Path) -> KeptItem {
    let mut items = journal(staging).kept().unwrap();
    assert_eq!(items.len(), 1);
    items.remove(0)
}

#[test]
fn what_an_item_tells_changes_as_often_as_one_likes_and_takes_no_more_room() {
    let staging = tempfile::tempdir().unwrap();
    let journal = journal(staging.path());
    let (mut item, _) = journal.put(&kept(), Staged::Memory(&[Bytes::from("0123456789")]), false).unwrap();
    let mut len_max = 0;
    for n in 0..100 {
        let later = Kept { key: "k".repeat(1 + 7 * n % 40), ..kept() };
        item.rewrite(later.clone()).unwrap();
        assert_eq!(one_item(staging.path()).kept, later);
        len_max = len_max.max(std::fs::metadata(item.bytes()).unwrap().len());
    }
    assert!(len_max < 5000 + 3 * 500, "{len_max}");
    assert!(item.claim().unwrap().is_some());
    let bytes = std::fs::read(item.bytes()).unwrap();
    assert_eq!(&bytes[10..20], b"0123456789");
}

#[test]
fn the_file_of_what_was_sent_is_the_next_items() {
    let staging = tempfile::tempdir().unwrap();
    let journal = journal(staging.path());
    let inode_of = |item: &KeptItem| std::fs::metadata(item.bytes()).unwrap().ino();
    let whole = |len: usize| std::iter::once(0..len as u64).collect();
    let put = |len: usize| {
        let (bytes, kept) = (vec![len as u8; len], Kept { size: len as u64, ranges: whole(len), ..kept() });
        journal.acknowledge(kept, Staged::Memory(&[Bytes::from(bytes)])).unwrap().0
    };
    let mut inodes = HashSet::new();
    for len in [5000, 10, 0, 200] {
        let two = [put(len), put(len + 1)];
        let listed = journal.kept().unwrap();
        assert_eq!(
            listed.iter().map(|item| item.kept.clone()).collect::<Vec<_>>(),
            two.clone().map(|item| item.kept)
        );
        for item in two {
            inodes.insert(inode_of(&item));
            let bytes = std::fs::read(item.bytes()).unwrap();
            assert_eq!(bytes[..item.kept.size as usize], vec![item.kept.size as u8; item.kept.size as usize]);
            assert!(item.is_sound().unwrap());
            journal.discard(item);
        }
        assert_eq!(journal.kept().unwrap().len(), 0);
    }
    assert_eq!((inodes.len(), journal.spares().len()), (2, 2));
    let scratch = journal.scratch().unwrap();
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 4, "and the journal, and the lock");
    journal.spares().resize(kept::KEPT_MAX, scratch.join("another"));
    let (first, second) = (put(1), put(2));
    assert_eq!(journal.spares().len(), kept::KEPT_MAX - 2);
    journal.spares().resize(kept::KEPT_MAX - 1, scratch.join("another"));
    journal.discard(first);
    journal.discard(second);
    assert_eq!(journal.spares().len(), kept::KEPT_MAX, "at most");
}

#[test]
fn a_record_that_was_torn_leaves_the_one_before_it() {
    let staging = tempfile::tempdir().unwrap();
    let journal = journal(staging.path());
    let (mut item, _) = journal.put(&kept(), Staged::Memory(&[Bytes::from("0123456789")]), false).unwrap();
    let before = std::fs::metadata(item.bytes()).unwrap().len();
    let later = Kept { key: "later".into(), ..kept() };
    item.rewrite(later.clone()).unwrap();
    let after = std::fs::metadata(item.bytes()).unwrap().len();
    assert!(after > before);
    for cut in (before..after).rev() {
        File::options().write(true).open(item.bytes()).unwrap().set_len(cut).unwrap();
        assert_eq!(one_item(staging.path()).kept, kept(), "cut to {cut}");
    }
    for cut in [before - 1, 5001, 5000, 0] {
        File::options().write(true).open(item.bytes()).unwrap().set_len(cut).unwrap();
        assert_eq!(journal.kept().unwrap().len(), 0, "what is spoilt is left alone");
        assert_eq!(journal.kept_and_spoilt().unwrap().1[0].bytes(), item.bytes());
        assert!(item.bytes().exists());
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let staging = tempfile::tempdir().unwrap();
    let journal = journal(staging.path());
    journal.prepare().unwrap();
    for n in 0..kept::KEPT_MAX {
        File::create(journal.place.kept().join(n.to_string())).unwrap();
    }
    let refused = journal.keep(&kept(), Staged::Memory(&[]));
    assert!(matches!(refused, Err(JournalError::KeptFull)));
}

#[test]
fn what_is_taken_over_and_sent_makes_room_and_takes_none() {
    let staging = tempfile::tempdir().unwrap();
    let file = tempfile::tempfile().unwrap();
    let whole = Kept { ranges: vec![], ..kept() };
    let first = journal(staging.path());
    for _ in 0..3 {
        first.acknowledge(whole.clone(), Staged::Ranges(&file)).unwrap();
    }
    assert!(journal(staging.path()).adopt_acknowledged().unwrap().is_empty(), "its mount lives");
    drop(first);
    let next = journal(staging.path());
    let adopted = next.adopt_acknowledged().unwrap();
    assert_eq!(adopted.len(), 3);
    next.acknowledge(whole.clone(), Staged::Ranges(&file)).unwrap();
    adopted.into_iter().for_each(|item| next.discard(item));
    next.kept().unwrap().into_iter().for_each(|item| next.discard(item));
    let after = journal(staging.path());
    after.acknowledge(whole.clone(), Staged::Ranges(&file)).unwrap();
    drop(after);
    let last = journal(staging.path());
    last.adopt_acknowledged().unwrap().into_iter().for_each(|item| last.discard(item));
    last.acknowledge(whole, Staged::Ranges(&file)).unwrap();
    assert_eq!(last.kept().unwrap().len(), 1);
}
