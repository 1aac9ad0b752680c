//! Trees whose keys are where others go wrong: listed, walked, looked up and removed, with pages of 1, 2 and 1,000
//! keys, on servers that list by key, by path component and in an order of their own.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pailfs::key::{self, ROOT_INO};
use pailfs::namespace::Kind;
use support::fake::{Options, Order};
use support::house::errno;
use support::{FakeS3, Fault, House, On};

const PAGES: [usize; 3] = [1, 2, 1000];

/// By path: a file's length, or a directory.
type Model = BTreeMap<String, Option<u64>>;

/// Keys and what they hold. Some no path can name.
fn trap() -> Vec<(String, &'static str)> {
    let mut keys: Vec<(String, &str)> = vec![
        // `a` as a file, as a marker with content, and between the two what sorts before its `/`.
        ("a".into(), "hidden by the directory"),
        ("a/".into(), "a marker with content"),
        ("a!b".into(), "1"),
        ("a/x".into(), "22"),
        ("a!c/x".into(), "22"),
        ("a.b/c".into(), "22"),
        ("a0".into(), "1"),
        ("m/".into(), "a marker with content and nothing else"),
        // No path can name these, but the directories above them.
        ("x//y".into(), "1"),
        ("x/z".into(), "1"),
        ("x//".into(), ""),
        ("d/../e".into(), "1"),
        ("d/./e".into(), "1"),
        ("../up".into(), "1"),
        ("./here".into(), "1"),
        ("/top".into(), "1"),
        ("p/..".into(), "1"),
        ("p/q".into(), "22"),
        // UTF-16 sorts these the other way round.
        ("u/\u{ff5e}".into(), "1"),
        ("u/\u{10000}".into(), "22"),
        ("u/\u{ff5e}/below".into(), "1"),
        ("u/\u{fffd}".into(), "333"),
        ("u/\u{1f600}/\u{10ffff}".into(), "4444"),
        ("u/\u{e000}\u{7f}".into(), "1"),
        ("\u{10000}\u{ff5e}".into(), "1"),
        ("\u{ff5e}\u{10000}/x".into(), "1"),
    ];
    for len in [254, 255, 256] {
        keys.push((format!("long/{}", "n".repeat(len)), "1"));
        keys.push((format!("long/{}/x", "o".repeat(len)), "1"));
    }
    // More than a page between the file and the directory of one name.
    keys.extend((0..1500).map(|n| (format!("a-{n:04}"), "333")));
    keys.extend((0..30).map(|n| (format!("a/deep/a-{n}/f"), "22")));
    keys
}

/// What a mount shows of these keys.
fn shown(keys: &[(String, &str)]) -> Model {
    let mut model = Model::new();
    for (key, data) in keys {
        let mut path = String::new();
        let mut names = key.split('/').peekable();
        while let Some(name) = names.next().filter(|name| key::check_name(name.as_bytes()).is_ok()) {
            path.push_str(name);
            match names.peek() {
                Some(_) => drop(model.insert(path.clone(), None)),
                None => drop(model.entry(path.clone()).or_insert(Some(data.len() as u64))),
            }
            path.push('/');
        }
    }
    model
}

/// A server that lists in pages of so many keys at most, and what it has. Servers that go by path component hold no
/// file beside a directory of its name.
fn server(order: Order, page_keys: usize) -> (FakeS3, Vec<(String, &'static str)>) {
    let fake = FakeS3::with(Options { order, page_keys_max: page_keys, ..Options::default() });
    let mut keys = trap();
    if order != Order::Key {
        let all: BTreeSet<String> = keys.iter().map(|(key, _)| key.clone()).collect();
        let is_dir = |key: &str| {
            let below = format!("{key}/");
            all.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
        };
        keys.retain(|(key, _)| !is_dir(key));
    }
    for (key, data) in &keys {
        fake.put(key, *data);
    }
    (fake, keys)
}

fn on(fake: FakeS3, page_keys: usize, ttl: Duration) -> House {
    House::on(fake, |config| {
        config.s3.list_page_keys = u32::try_from(page_keys).unwrap();
        config.metadata_ttl = ttl;
    })
}

const HOUR: Duration = Duration::from_secs(3600);

fn variants() -> impl Iterator<Item = (Order, usize)> {
    [Order::Key, Order::Component].into_iter().flat_map(|order| PAGES.map(|page| (order, page)))
}

fn below(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// What `find` does, into `found`; panics where a name comes twice.
async fn find(house: &House, dir: &str, plus: bool, room: usize, found: &mut Model) {
    for entry in house.list(dir, plus, || room).await.unwrap_or_else(|e| panic!("{dir:?}: {e}")) {
        let path = below(dir, &entry.name);
        let node = (entry.kind == Kind::File).then(|| entry.size.unwrap_or_default());
        assert!(found.insert(path.clone(), node).is_none(), "{path:?} came twice");
        if entry.kind == Kind::Directory {
            Box::pin(find(house, &path, plus, room, found)).await;
        }
    }
}

#[track_caller]
fn assert_same(found: &Model, want: &Model, what: &str) {
    let missing: Vec<_> = want.iter().filter(|(path, node)| found.get(*path) != Some(node)).take(5).collect();
    let more: Vec<_> = found.iter().filter(|(path, node)| want.get(*path) != Some(node)).take(5).collect();
    assert!(missing.is_empty() && more.is_empty(), "{what}: missing {missing:?}, instead {more:?}");
}

#[tokio::test]
async fn every_walk_shows_what_the_keys_say() {
    for (order, page_keys) in variants().chain([(Order::Own, 2)]) {
        for ttl in [HOUR, Duration::ZERO] {
            if ttl.is_zero() && page_keys == 1 {
                continue; // takes long, and differs from pages of 2 in nothing
            }
            let (fake, keys) = server(order, page_keys);
            let house = on(fake, page_keys, ttl);
            // The second answers from what is known, where anything is.
            for room in [7, 200] {
                let mut found = Model::new();
                find(&house, "", true, room, &mut found).await;
                assert_same(&found, &shown(&keys), &format!("{order:?}, pages of {page_keys}, {ttl:?}"));
            }
            let held = house.fs.held();
            assert_eq!((held.inodes, held.handles), (1, 0), "{held:?}");
        }
    }
}

/// Every path of the model (of the long row a few), and names beside them that are not there.
fn asked(model: &Model) -> BTreeSet<String> {
    let in_row = |path: &str| path.starts_with("a-") || path.starts_with("a/deep/");
    let rare = |path: &&String| !in_row(path) || path.ends_with("777") || path.ends_with("00");
    let mut asked = BTreeSet::new();
    for path in model.keys().filter(rare) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut shorter = name.chars();
        shorter.next_back();
        let beside = ["!", "0", "\u{10000}"].map(|end| format!("{name}{end}"));
        let names = beside.iter().map(String::as_str).chain([name, shorter.as_str()]);
        let names = names.filter(|name| key::check_name(name.as_bytes()).is_ok());
        asked.extend(names.map(|name| below(dir, name)));
    }
    asked
}

async fn look_up(house: &House, model: &Model, paths: &BTreeSet<String>, what: &str) {
    for path in paths {
        let found = match house.enter(path).await {
            Ok(attr) => {
                house.leave(attr.ino);
                Some((attr.kind == Kind::File).then_some(attr.size))
            }
            Err(e) => {
                assert_eq!(e.errno(), libc::ENOENT, "{path:?}, {what}");
                None
            }
        };
        assert_eq!(found, model.get(path).copied(), "{path:?}, {what}");
    }
}

#[tokio::test]
async fn every_name_and_what_is_beside_it_is_told_before_and_after_a_listing() {
    for (order, page_keys) in variants() {
        let (fake, keys) = server(order, page_keys);
        let (model, what) = (shown(&keys), format!("{order:?}, pages of {page_keys}"));
        let house = on(fake.clone(), page_keys, HOUR);
        let paths = asked(&model);
        look_up(&house, &model, &paths, &format!("{what}, before")).await;
        // Half listed, which concludes from a page what it may.
        let root = house.fs.opendir(ROOT_INO).unwrap().fh;
        house.readdir(root, 0, true, 40).await.unwrap();
        look_up(&house, &model, &paths, &format!("{what}, meanwhile")).await;
        house.fs.releasedir(root);
        let mut found = Model::new();
        find(&house, "", false, 100, &mut found).await;
        fake.forget_calls();
        look_up(&house, &model, &paths, &format!("{what}, after")).await;
        assert!(fake.calls().is_empty(), "{what}: {:?}", fake.counts());
        if page_keys != 2 {
            continue; // takes long
        }
        // A walk by names after all has aged.
        let house = on(fake, page_keys, Duration::ZERO);
        find(&house, "", false, 100, &mut Model::new()).await;
        look_up(&house, &model, &paths, &format!("{what}, aged")).await;
    }
}

/// Names that had to make room while the rest was being listed are not taken for absent.
#[tokio::test]
async fn a_directory_too_large_to_be_known_whole_is_shown_whole_in_any_order() {
    for order in [Order::Key, Order::Component, Order::Own] {
        let fake = FakeS3::with(Options { order, ..Options::default() });
        let mut names: Vec<String> = (0..20_000).map(|n| format!("{n:05}")).collect();
        names.extend(["00001!b".into(), "00002!b".into(), "z".into()]);
        names.sort();
        fake.put_many(names.iter().map(|name| format!("d/{name}")), "x");
        fake.put_many(["d/00001!/x", "d/00003/x"], "x");
        fake.delete("d/00003");
        names.push("00001!".into());
        names.sort();
        let house = House::on(fake, |config| config.metadata_bytes_max = 1 << 20);
        for _ in 0..2 {
            assert_eq!(house.names("d").await, names, "{order:?}");
            for name in ["00000", "00001", "00003", "10000", "19999", "z"] {
                let attr = house.enter(&format!("d/{name}")).await.unwrap_or_else(|e| panic!("{name}: {e}"));
                house.leave(attr.ino);
            }
        }
    }
}

/// `rm -r`: depth first, in the order of the listing; answers the directories that stay.
async fn remove_tree(house: &House, path: &str, stay: &mut BTreeSet<String>) {
    for entry in house.list(path, true, || 100).await.unwrap_or_else(|e| panic!("{path:?}: {e}")) {
        let at = below(path, &entry.name);
        if entry.kind == Kind::File {
            house.unlink(&at).await.unwrap_or_else(|e| panic!("unlink {at:?}: {e}"));
            continue;
        }
        Box::pin(remove_tree(house, &at, stay)).await;
        match house.rmdir(&at).await {
            Ok(()) => {}
            Err(e) if e.errno() == libc::ENOTEMPTY => drop(stay.insert(at)),
            Err(e) => panic!("rmdir {at:?}: {e}"),
        }
    }
}

/// Whether a path leads to the key, or to the directory whose marker it is.
fn has_path(key: &str) -> bool {
    let path = key.strip_suffix('/').unwrap_or(key);
    path.split('/').all(|name| key::check_name(name.as_bytes()).is_ok())
}

#[tokio::test]
async fn rm_r_takes_all_that_a_path_can_name_and_nothing_else() {
    for (order, page_keys) in variants() {
        let what = format!("{order:?}, pages of {page_keys}");
        let (fake, keys) = server(order, page_keys);
        let house = on(fake.clone(), page_keys, HOUR);
        for dir in ["a", "u", "x", "long"] {
            assert_eq!(errno(house.rmdir(dir).await), libc::ENOTEMPTY, "{dir}, {what}");
        }
        let mut stay = BTreeSet::new();
        remove_tree(&house, "", &mut stay).await;
        if order == Order::Key {
            assert!(stay.remove("u"), "the file that a directory had hidden");
            assert_eq!(house.names("u").await, ["\u{ff5e}"], "{what}: it is shown once rmdir has failed");
            house.refresh("").await;
            remove_tree(&house, "", &mut stay).await;
        }
        assert_eq!(stay, ["d", "long", "p", "x"].map(String::from).into(), "{what}");
        let mut left = house.keys_settled().await;
        left.sort();
        let mut want: Vec<_> = keys.into_iter().map(|(key, _)| key).filter(|key| !has_path(key)).collect();
        want.sort();
        assert_eq!(left, want, "{what}");
    }
}

#[tokio::test]
async fn a_page_may_be_empty_and_not_the_last() {
    let house = House::new();
    house.fake.put("d/f", "x");
    // After the key `d/`, in the fake's own words.
    let empty = "<ListBucketResult><IsTruncated>true</IsTruncated>\
                 <NextContinuationToken>1+6b642f/=</NextContinuationToken></ListBucketResult>";
    house.faults.plan(On::op("ListObjectsV2").once(), Fault::garbage(empty));
    assert_eq!(house.enter("d").await.unwrap().kind, Kind::Directory);
    assert_eq!(house.fake.count("ListObjectsV2"), 1, "that began where the page had ended");
}
