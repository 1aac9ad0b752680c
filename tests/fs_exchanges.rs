//! RENAME_EXCHANGE: files and directories change places, who has anything of them open goes along, and what a failure or a
//! crash in the middle leaves.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use support::bytes::{assert_same_bytes, pattern};
use support::house::errno;
use support::{FakeS3, Fault, House, On};

const MIB: usize = 1 << 20;
/// Where the first is meanwhile.
const ASIDE: &str = ".pailfs-exchange-";
const EXCHANGE: u32 = libc::RENAME_EXCHANGE;

/// What S3 has: keys and contents.
fn contents(fake: &FakeS3) -> BTreeMap<String, String> {
    let text = |key: &str| String::from_utf8(fake.data(key).to_vec()).unwrap();
    fake.keys().into_iter().map(|key| (key.clone(), text(&key))).collect()
}

fn put_all(fake: &FakeS3, objects: &[(&str, &str)]) {
    objects.iter().for_each(|(key, data)| drop(fake.put(*key, data.to_string())));
}

fn house_in(staging: &Path, fake: FakeS3) -> House {
    House::on(fake, |config| config.staging.dir = staging.into())
}

#[tokio::test]
async fn two_files_change_places() {
    let house = House::new();
    house.fake.put("a", "first");
    house.fake.put("d/b", "the second");
    let open = house.open("a", libc::O_RDWR).await.unwrap();
    house.write(open, 0, b"FIRST").await.unwrap();
    let (a, b) = (house.enter("a").await.unwrap().ino, house.enter("d/b").await.unwrap().ino);
    house.rename("a", "d/b", EXCHANGE).await.unwrap();
    assert_eq!(house.cat("a").await.unwrap(), b"the second");
    assert_eq!(house.cat("d/b").await.unwrap(), b"FIRST");
    assert_eq!((house.enter("a").await.unwrap().ino, house.enter("d/b").await.unwrap().ino), (b, a));
    assert_eq!(house.read(open, 0, 10).await.unwrap(), b"FIRST", "who has it open goes along");
    house.write(open, 5, b"!").await.unwrap();
    house.close(open).await.unwrap();
    assert_eq!((house.fake.data("a"), house.fake.data("d/b")), ("the second".into(), "FIRST!".into()));
    assert_eq!(house.fake.keys(), ["a", "d/b"]);
    assert_eq!(house.journal.stats().open, 0);
    assert_eq!(errno(house.rename("a", "missing", EXCHANGE).await), libc::ENOENT);
}

/// Two directories: names that both have, with other contents and with the same, and what is a directory in one and a
/// file in the other.
const FIRST: &[(&str, &str)] = &[
    ("a/", ""),
    ("a/both", "first"),
    ("a/same", "twin"),
    ("a/kind", "a file"),
    ("a/sub/deep", "deep"),
    ("a/x", "x"),
];
const SECOND: &[(&str, &str)] =
    &[("p/b/both", "the second"), ("p/b/same", "twin"), ("p/b/kind/file", "below"), ("p/b/y", "y")];

/// Keys with contents as they are when `a/` and `p/b/` have changed places.
fn exchanged(contents: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let place = |key: &String| match (key.strip_prefix("a/"), key.strip_prefix("p/b/")) {
        (Some(name), _) => format!("p/b/{name}"),
        (_, Some(name)) => format!("a/{name}"),
        _ => key.clone(),
    };
    contents.iter().map(|(key, data)| (place(key), data.clone())).collect()
}

#[tokio::test]
async fn directories_change_places_with_all_that_is_below_them() {
    for ttl in [0, 3600] {
        let house = House::with(|config| config.metadata_ttl = Duration::from_secs(ttl));
        put_all(&house.fake, FIRST);
        put_all(&house.fake, SECOND);
        house.fake.put_with("a/carried", "5", &[("content-type", "text/x-it"), ("x-amz-meta-k", "v")]);
        put_all(&house.fake, &[("a", "hidden"), ("a.beside", ""), ("p/beside", "")]);
        let after = exchanged(&contents(&house.fake));
        house.names("a").await;
        house.names("p/b").await;
        let known = ["a", "a/both", "a/sub/deep", "p/b", "p/b/both", "p/b/kind"];
        let mut before = Vec::new();
        for path in known {
            before.push(house.enter(path).await.unwrap().ino);
        }
        house.rename("a", "p/b", EXCHANGE).await.unwrap();
        assert_eq!(contents(&house.fake), after);
        let carried = house.fake.object("p/b/carried").unwrap();
        assert_eq!((&*carried.headers["content-type"], &*carried.metadata["k"]), ("text/x-it", "v"));
        for (path, before) in ["p/b", "p/b/both", "p/b/sub/deep", "a", "a/both", "a/kind"].iter().zip(before)
        {
            let now = house.enter(path).await.unwrap();
            assert_eq!(now.ino, before, "{path}: known to the kernel, it keeps its number");
            house.leave(now.ino);
            house.leave(before);
        }
        assert_eq!(house.names("a").await, ["both", "kind", "same", "y"]);
        assert_eq!(house.names("p/b").await, ["both", "carried", "kind", "same", "sub", "x"]);
        assert_eq!(house.cat("a/both").await.unwrap(), b"the second");
        assert_eq!(house.cat("p/b/both").await.unwrap(), b"first");
        assert_eq!(errno(house.enter("a/x").await), libc::ENOENT);
        assert_eq!((house.journal.stats().open, house.fs.held().inodes), (0, 1));
        house.rename("p/b", "a", EXCHANGE).await.unwrap();
        assert_eq!(exchanged(&contents(&house.fake)), after, "and back");
    }
}

#[tokio::test]
async fn what_is_open_below_goes_along() {
    let house = House::new();
    let data = pattern(1, 3 * MIB);
    house.fake.put("a/read", data.clone());
    house.fake.put("b/edited", "0123456789");
    house.fake.put("b/read", "another");
    let read = house.open("a/read", libc::O_RDONLY).await.unwrap();
    assert_same_bytes(&house.read(read, 0, 1000).await.unwrap(), &data[..1000], "before");
    let edited = house.open("b/edited", libc::O_RDWR).await.unwrap();
    house.write(edited, 3, b"xyz").await.unwrap();
    let made = house.create("a/made", libc::O_RDWR).await.unwrap();
    house.write(made, 0, b"not published").await.unwrap();
    let large = house.create("b/large", libc::O_WRONLY).await.unwrap();
    let long = pattern(2, 14 * MIB);
    house.write(large, 0, &long[..12 * MIB]).await.unwrap();
    let removed = house.open("b/read", libc::O_RDONLY).await.unwrap();
    house.unlink("b/read").await.unwrap();

    house.rename("a", "b", EXCHANGE).await.unwrap();
    let after = house.read(read, 2 * MIB as u64, 1000).await.unwrap();
    assert_same_bytes(&after, &data[2 * MIB..][..1000], "after");
    assert_eq!(house.read(edited, 0, 100).await.unwrap(), b"012xyz6789");
    assert_eq!(house.read(removed, 0, 100).await.unwrap(), b"another");
    house.write(made, 13, b" yet").await.unwrap();
    house.write(large, 12 * MIB as u64, &long[12 * MIB..]).await.unwrap();
    for fh in [read, edited, made, large, removed] {
        house.close(fh).await.unwrap();
    }
    assert_eq!(house.keys_settled().await, ["a/edited", "a/large", "b/made", "b/read"]);
    assert_eq!(
        (house.fake.data("a/edited"), house.fake.data("b/made")),
        ("012xyz6789".into(), "not published yet".into())
    );
    assert_same_bytes(&house.fake.data("a/large"), &long, "of which parts had been sent");
    assert_eq!((house.fake.uploads(), house.journal.stats().open), (vec![], 0));
    assert_eq!(
        (house.names("a").await, house.names("b").await),
        (vec!["edited".into(), "large".into()], vec!["made".into(), "read".into()])
    );
}

#[tokio::test]
async fn with_write_back_what_was_acknowledged_below_is_in_s3_before() {
    let house = House::with(|config| config.write_back = true);
    house.mkdir("a").await.unwrap();
    house.mkdir("b").await.unwrap();
    house.mkdir("a/sub").await.unwrap();
    house.make("a/sub/file", b"acknowledged").await.unwrap();
    house.make("b/other", b"this too").await.unwrap();
    house.make("file", b"and this").await.unwrap();
    house.rename("a", "b", EXCHANGE).await.unwrap();
    house.rename("file", "a", EXCHANGE).await.unwrap();
    let keys = ["a", "b/", "b/sub/", "b/sub/file", "file/", "file/other"];
    assert_eq!(house.keys_settled().await, keys);
    assert_eq!(
        (house.fake.data("a"), house.fake.data("b/sub/file")),
        ("and this".into(), "acknowledged".into())
    );
    assert_eq!(house.names("").await, ["a", "b", "file"]);
}

#[tokio::test]
async fn a_file_and_a_directory_change_places() {
    for file_first in [true, false] {
        let house = House::new();
        put_all(&house.fake, &[("f", "a file"), ("p/d/", ""), ("p/d/x", "1"), ("p/d/sub/y", "2")]);
        let (file, dir) = (house.enter("f").await.unwrap().ino, house.enter("p/d").await.unwrap().ino);
        let open = house.open("f", libc::O_RDWR).await.unwrap();
        house.write(open, 0, b"A").await.unwrap();
        let (from, to) = if file_first { ("f", "p/d") } else { ("p/d", "f") };
        house.rename(from, to, EXCHANGE).await.unwrap();
        assert_eq!(house.fake.keys(), ["f/", "f/sub/y", "f/x", "p/d"]);
        assert_eq!(house.cat("p/d").await.unwrap(), b"A file");
        assert_eq!(
            (house.names("f").await, house.names("p").await),
            (vec!["sub".to_string(), "x".into()], vec!["d".to_string()])
        );
        assert_eq!((house.enter("p/d").await.unwrap().ino, house.enter("f").await.unwrap().ino), (file, dir));
        house.write(open, 6, b"!").await.unwrap();
        house.close(open).await.unwrap();
        assert_eq!(house.fake.data("p/d"), "A file!");
        assert_eq!(house.cat("f/sub/y").await.unwrap(), b"2");
        // An object that the directory hides would be replaced.
        house.fake.put("f", "hidden");
        assert_eq!(errno(house.rename("p/d", "f", EXCHANGE).await), libc::EEXIST);
        assert_eq!(house.fake.data("f"), "hidden");
        assert_eq!(house.journal.stats().open, 0);
    }
}

#[tokio::test]
async fn a_directory_of_which_s3_has_nothing_changes_places_too() {
    let house = House::new();
    house.mkdir("a").await.unwrap();
    house.fake.delete("a/");
    let fh = house.create("a/local", libc::O_WRONLY).await.unwrap();
    house.fake.put("b/x", "1");
    house.rename("a", "b", EXCHANGE).await.unwrap();
    house.close(fh).await.unwrap();
    assert_eq!(house.fake.keys(), ["a/x", "b/", "b/local"]);
}

/// What changes places in the tests below, and what S3 has before and after.
type Case = (&'static str, &'static str, BTreeMap<String, String>, BTreeMap<String, String>);

fn cases() -> Vec<Case> {
    let map = |objects: &[(&str, &str)]| -> BTreeMap<String, String> {
        objects.iter().map(|(key, data)| (key.to_string(), data.to_string())).collect()
    };
    let trees = map(&[FIRST, SECOND].concat());
    let mixed = map(&[("f", "a file"), ("p/d/", ""), ("p/d/x", "1"), ("p/d/sub/y", "2")]);
    let mixed_after = map(&[("p/d", "a file"), ("f/", ""), ("f/x", "1"), ("f/sub/y", "2")]);
    let files = map(&[("a", "first"), ("b", "the second")]);
    let files_after = map(&[("b", "first"), ("a", "the second")]);
    vec![
        ("a", "p/b", trees.clone(), exchanged(&trees)),
        ("f", "p/d", mixed, mixed_after),
        ("a", "b", files, files_after),
    ]
}

fn standing(case: &Case) -> FakeS3 {
    let fake = FakeS3::new();
    case.2.iter().for_each(|(key, data)| drop(fake.put(key.as_str(), data.clone())));
    fake
}

#[tokio::test]
async fn an_exchange_that_fails_is_undone() {
    let denied = Fault::Error { status: 403, code: "AccessDenied" };
    for case in cases() {
        let (a, b, before, after) = &case;
        let mut refused = 0;
        for op in ["CopyObject", "DeleteObjects"] {
            for nth in 1.. {
                let house = House::on(standing(&case), |_| {});
                let line = house.faults.plan(On::op(op).nth(nth).once(), denied.clone());
                let done = house.rename(a, b, EXCHANGE).await;
                if line.fired() == 0 {
                    break;
                }
                let said = format!("{a} {b}: {op} {nth}: {done:?}");
                // The last deletions are of copies that nobody needs.
                match done {
                    Err(e) => {
                        refused += 1;
                        assert_eq!((e.errno(), &contents(&house.fake)), (libc::EACCES, before), "{said}");
                        assert_eq!(house.journal.stats().open, 0, "{said}");
                    }
                    Ok(()) => {
                        let mut there = contents(&house.fake);
                        there.retain(|key, _| !key.starts_with(ASIDE));
                        assert_eq!((&there, house.journal.stats().open), (after, 1), "{said}");
                    }
                }
                for (key, data) in if refused > 0 && house.journal.stats().open == 0 { before } else { after }
                {
                    if !key.ends_with('/') {
                        assert_eq!(house.cat(key).await.unwrap(), data.as_bytes(), "{said}: {key}");
                    }
                }
            }
        }
        let copies = 2 * before.len().min(after.len());
        assert!(refused >= copies.min(3), "{refused}");
    }
}

/// Works until a call hangs, then dies: none. Else what it answers.
async fn until_hung<T>(house: &House, call: On, fault: Fault, work: impl Future<Output = T>) -> Option<T> {
    let line = house.faults.plan(call, fault);
    let hung = async {
        while line.fired() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What is under way beside it arrives.
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    tokio::select! {
        done = work => {
            assert_eq!(line.fired(), 0);
            Some(done)
        }
        () = hung => None,
    }
}

/// Exchanges until this call hangs, then dies. False: it never came.
async fn die_at(staging: &Path, fake: &FakeS3, (a, b): (&str, &str), call: On, fault: Fault) -> bool {
    let house = house_in(staging, fake.clone());
    let done = until_hung(&house, call, fault, house.rename(a, b, EXCHANGE)).await;
    done.inspect(|done| assert!(done.is_ok(), "{done:?}")).is_none()
}

#[tokio::test]
async fn an_exchange_that_a_crash_interrupts_is_undone_or_finished_by_the_next_mount() {
    for case in cases() {
        let (a, b, before, after) = &case;
        let mut ended = [0, 0];
        for op in ["CopyObject", "DeleteObjects"] {
            for (nth, fault) in (1..).flat_map(|nth| [(nth, Fault::Hang), (nth, Fault::AnswerHangs)]) {
                let (staging, fake) = (tempfile::tempdir().unwrap(), standing(&case));
                if !die_at(staging.path(), &fake, (a, b), On::op(op).nth(nth), fault).await {
                    break;
                }
                let next = house_in(staging.path(), fake.clone());
                next.fs.take_over().await.unwrap();
                let there = contents(&fake);
                assert!(there == *before || there == *after, "{a} {b}: {op} {nth}: {there:?}");
                ended[usize::from(there == *after)] += 1;
                assert_eq!(next.journal.stats().open, 0, "{a} {b}: {op} {nth}");
            }
        }
        assert!(ended[0] > 3 && ended[1] > 0, "{a} {b}: undone, finished: {ended:?}");
    }
}

#[tokio::test]
async fn an_undoing_that_a_crash_interrupts_is_undone_by_the_mount_after_that() {
    let (a, b, before, _) = &cases()[0];
    let mut interrupted = 0;
    // While the second takes its new place, and while the first does.
    for begun in [9, 15] {
        for op in ["CopyObject", "DeleteObjects"] {
            for nth in 1.. {
                let (staging, fake) = (tempfile::tempdir().unwrap(), standing(&cases()[0]));
                let first = On::op("CopyObject").nth(begun);
                assert!(die_at(staging.path(), &fake, (a, b), first, Fault::AnswerHangs).await);
                let second = house_in(staging.path(), fake.clone());
                let undoing = second.fs.take_over();
                let undone = until_hung(&second, On::op(op).nth(nth), Fault::AnswerHangs, undoing).await;
                drop(second);
                let third = house_in(staging.path(), fake.clone());
                third.fs.take_over().await.unwrap();
                assert_eq!(contents(&fake), *before, "{begun}: {op} {nth}");
                assert_eq!(third.journal.stats().open, 0);
                if undone.is_some() {
                    break;
                }
                interrupted += 1;
            }
        }
    }
    assert!(interrupted > 15, "{interrupted}");
}

#[tokio::test]
async fn what_another_host_writes_meanwhile_is_neither_replaced_nor_removed() {
    let (staging, fake) = (tempfile::tempdir().unwrap(), FakeS3::new());
    put_all(&fake, &[FIRST, SECOND].concat());
    let call = On::op("CopyObject").nth(9);
    assert!(die_at(staging.path(), &fake, ("a", "p/b"), call, Fault::AnswerHangs).await);
    fake.put("a/both", "another host's, and longer");
    fake.put("p/b/new", "another host's");
    house_in(staging.path(), fake.clone()).fs.take_over().await.unwrap();
    let mut left = contents(&fake);
    assert_eq!(left.remove("a/both").unwrap(), "another host's, and longer");
    assert_eq!(left.remove("p/b/new").unwrap(), "another host's");
    let aside = left.keys().find(|key| key.ends_with("/both") && key.starts_with(ASIDE)).cloned();
    assert_eq!(left.remove(&aside.expect("it stays aside")).unwrap(), "first");
    let mut before: BTreeMap<_, _> =
        [FIRST, SECOND].concat().iter().map(|(k, d)| (k.to_string(), d.to_string())).collect();
    before.remove("a/both");
    assert_eq!(left, before);
    // In time it is told, and all is as it was.
    let house = House::new();
    put_all(&house.fake, &[FIRST, SECOND].concat());
    let last = On::op("CopyObject").key_where(|key| key.ends_with("/x"));
    house.faults.plan(last, Fault::Delay(Duration::from_millis(100)));
    let (told, ()) = tokio::join!(house.rename("a", "p/b", EXCHANGE), async {
        while !house.fake.keys().iter().any(|key| key.ends_with("/both") && key.starts_with(ASIDE)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        house.fake.put("a/both", "another host's");
    });
    assert_eq!(errno(told), libc::ESTALE);
    let mut expected: BTreeMap<_, _> =
        [FIRST, SECOND].concat().iter().map(|(k, d)| (k.to_string(), d.to_string())).collect();
    expected.insert("a/both".into(), "another host's".into());
    let mut left = contents(&house.fake);
    left.retain(|key, _| !key.starts_with(ASIDE));
    assert_eq!(left, expected);
}

#[tokio::test]
async fn nobody_here_sees_half_of_it() {
    let house = House::with(|config| config.metadata_ttl = Duration::ZERO);
    let (one, other) = (pattern(1, 3 * MIB), pattern(2, 3 * MIB));
    house.fake.put("a/both", one.clone());
    house.fake.put("a/gone", "1");
    house.fake.put("b/both", other.clone());
    let (open, gone) = (
        house.open("a/both", libc::O_RDONLY).await.unwrap(),
        house.open("a/gone", libc::O_RDWR).await.unwrap(),
    );
    assert_same_bytes(&house.read(open, 0, 1000).await.unwrap(), &one[..1000], "before");
    house.write(gone, 1, b"2").await.unwrap();
    // Both places are written: the copy back is slow.
    let slow =
        house.faults.plan(On::op("CopyObject").key("b/both"), Fault::Delay(Duration::from_millis(300)));
    let (exchanged, ()) = tokio::join!(house.rename("a", "b", EXCHANGE), async {
        while slow.fired() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_same_bytes(&house.fake.data("a/both"), &other, "it is in the middle");
        // What was known is not lost.
        _ = house.enter("a/gone").await.map(|attr| house.leave(attr.ino));
        house.names("a").await;
        let read = house.read(open, 2 * MIB as u64, 1000).await.unwrap();
        assert_same_bytes(&read, &one[2 * MIB..][..1000], "who has it open waits for the end");
    });
    exchanged.unwrap();
    assert_eq!(house.read(gone, 0, 10).await.unwrap(), b"12");
    house.close(gone).await.unwrap();
    house.close(open).await.unwrap();
    assert_eq!(house.fake.keys(), ["a/both", "b/both", "b/gone"]);
    assert_eq!(house.fake.data("b/gone"), "12");
    assert_same_bytes(&house.cat("b/both").await.unwrap(), &one, "b/both");
}
