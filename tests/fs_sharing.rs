//! Two mounts of one bucket: what one has closed, removed or moved, the other sees: at once where nothing is believed
//! longer, else after `pailfs refresh`.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use pailfs::namespace::Kind;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use support::house::{errno, split};
use support::{FakeS3, House};

fn two(ttl: Duration) -> [House; 2] {
    let fake = FakeS3::new();
    [(); 2].map(|()| House::on(fake.clone(), |config| config.metadata_ttl = ttl))
}

async fn append(house: &House, path: &str, data: &[u8]) {
    let fh = house.open(path, libc::O_WRONLY | libc::O_APPEND).await.unwrap();
    let size = house.fake.data(path).len() as u64;
    house.write(fh, size, data).await.unwrap();
    house.close(fh).await.unwrap();
}

async fn replace(house: &House, path: &str, data: &[u8]) {
    let fh = house.open(path, libc::O_WRONLY | libc::O_TRUNC).await.unwrap();
    house.write(fh, 0, data).await.unwrap();
    house.close(fh).await.unwrap();
}

#[tokio::test]
async fn what_one_closes_the_other_sees_when_it_opens() {
    let [one, other] = two(Duration::ZERO);
    one.mkdir("d").await.unwrap();
    assert_eq!(other.names("").await, ["d"]);
    let fh = one.create("d/f", libc::O_WRONLY).await.unwrap();
    one.write(fh, 0, b"one").await.unwrap();
    assert_eq!(errno(other.cat("d/f").await), libc::ENOENT, "not closed yet");
    one.close(fh).await.unwrap();
    assert_eq!(other.cat("d/f").await.unwrap(), b"one");
    replace(&other, "d/f", b"other").await;
    assert_eq!(one.cat("d/f").await.unwrap(), b"other");
    append(&one, "d/f", b" and one").await;
    assert_eq!(other.cat("d/f").await.unwrap(), b"other and one");
    other.rename("d/f", "d/g", 0).await.unwrap();
    assert_eq!((one.names("d").await, errno(one.cat("d/f").await)), (vec!["g".into()], libc::ENOENT));
    // One that is open meanwhile reads on what it began with, or is told that it cannot.
    let open = one.open("d/g", libc::O_RDONLY).await.unwrap();
    assert_eq!(one.read(open, 0, 5).await.unwrap(), b"other");
    other.unlink("d/g").await.unwrap();
    other.rmdir("d").await.unwrap();
    other.sync_root().await;
    assert_eq!(one.names("").await, [""; 0]);
    one.close(open).await.unwrap();
}

#[tokio::test]
async fn what_is_believed_is_seen_after_a_refresh() {
    let [one, other] = two(Duration::MAX);
    one.mkdir("d").await.unwrap();
    one.make("d/stays", b"old").await.unwrap();
    one.make("d/goes", b"old").await.unwrap();
    assert_eq!(other.names("d").await, ["goes", "stays"]);
    replace(&one, "d/stays", b"newer").await;
    one.unlink("d/goes").await.unwrap();
    one.make("d/comes", b"new").await.unwrap();
    assert_eq!(other.names("d").await, ["goes", "stays"]);
    assert_eq!(errno(other.enter("d/comes").await), libc::ENOENT);
    assert_eq!(
        errno(other.cat("d/goes").await),
        libc::ENOENT,
        "what is gone is not read, whatever is believed"
    );
    other.refresh("d").await;
    assert_eq!(other.names("d").await, ["comes", "stays"]);
    assert_eq!(other.cat("d/stays").await.unwrap(), b"newer");
    assert_eq!(other.cat("d/comes").await.unwrap(), b"new");
}

/// By path: what a file holds, or a directory.
type Model = BTreeMap<String, Option<Vec<u8>>>;

fn path(random: &mut StdRng) -> String {
    let names: Vec<&str> = (0..random.random_range(1..=3))
        .map(|_| *["a", "a-", "a!", "b"].choose(random).expect("not empty"))
        .collect();
    names.join("/")
}

async fn change(house: &House, model: &mut Model, random: &mut StdRng) -> String {
    let (at, to) = (path(random), path(random));
    let is_dir = |model: &Model, dir: &str| dir.is_empty() || model.get(dir) == Some(&None);
    let data = vec![b'x'; random.random_range(1..100)];
    match model.get(&at).cloned() {
        None if !is_dir(model, split(&at).0) => return format!("nothing at {at}"),
        None if random.random_bool(0.4) => {
            house.mkdir(&at).await.unwrap_or_else(|e| panic!("mkdir {at}: {e}"));
            model.insert(at.clone(), None);
        }
        None => {
            house.make(&at, &data).await.unwrap_or_else(|e| panic!("make {at}: {e}"));
            model.insert(at.clone(), Some(data));
        }
        Some(None) if model.keys().any(|path| path.starts_with(&format!("{at}/"))) => {
            assert_eq!(errno(house.rmdir(&at).await), libc::ENOTEMPTY, "rmdir {at}");
        }
        Some(None) => {
            house.rmdir(&at).await.unwrap_or_else(|e| panic!("rmdir {at}: {e}"));
            model.remove(&at);
        }
        Some(Some(old)) => match random.random_range(0..4) {
            0 => {
                house.unlink(&at).await.unwrap_or_else(|e| panic!("unlink {at}: {e}"));
                model.remove(&at);
            }
            1 if is_dir(model, split(&to).0) && model.get(&to) != Some(&None) => {
                house.rename(&at, &to, 0).await.unwrap_or_else(|e| panic!("rename {at} {to}: {e}"));
                model.remove(&at);
                model.insert(to, Some(old));
            }
            2 => {
                append(house, &at, &data).await;
                model.insert(at.clone(), Some([old, data].concat()));
            }
            _ => {
                replace(house, &at, &data).await;
                model.insert(at.clone(), Some(data));
            }
        },
    }
    format!("a change at {at}")
}

/// All that a mount shows.
async fn all(house: &House, dir: &str, shown: &mut Model) {
    for entry in house.list(dir, true, || 3).await.unwrap_or_else(|e| panic!("{dir:?}: {e}")) {
        let path = if dir.is_empty() { entry.name } else { format!("{dir}/{}", entry.name) };
        if entry.kind == Kind::Directory {
            Box::pin(all(house, &path, shown)).await;
        }
        let data = match entry.kind {
            Kind::Directory => None,
            _ => Some(house.cat(&path).await.unwrap_or_else(|e| panic!("{path}: {e}"))),
        };
        assert!(shown.insert(path.clone(), data).is_none(), "{path} came twice");
    }
}

/// Each removal is answered when S3 has answered: those of a burst the other mount would see a moment later.
#[tokio::test]
async fn two_mounts_that_change_in_turn_agree() {
    for seed in [1, rand::random()] {
        eprintln!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let fake = FakeS3::new();
        let houses = [(); 2].map(|()| {
            House::on(fake.clone(), |config| {
                (config.metadata_ttl, config.sync_unlink, config.s3.list_page_keys) =
                    (Duration::ZERO, true, 2);
            })
        });
        let mut model = Model::new();
        for step in 0..100 {
            let who = random.random_range(0..2);
            let did = change(&houses[who], &mut model, &mut random).await;
            for house in &houses {
                let mut shown = Model::new();
                all(house, "", &mut shown).await;
                assert!(shown == model, "step {step}, by {who}: {did}: {shown:?} for {model:?}");
            }
        }
    }
}

/// Each of two mounts adds lines to one object, opening and closing it in any order: what closed without an error is
/// there, once, and what did not is not.
#[tokio::test]
async fn of_two_mounts_that_append_neither_loses_a_line_without_an_error() {
    let houses = two(Duration::ZERO);
    let mut random = StdRng::seed_from_u64(7);
    let mut open: [Option<(u64, String)>; 2] = [None, None];
    let mut expected = Vec::new();
    let mut stale = 0;
    for n in 0..200 {
        let at = random.random_range(0..2);
        let house = &houses[at];
        if let Some((fh, line)) = open[at].take() {
            match house.close(fh).await {
                Ok(()) => expected.push(line),
                Err(e) => {
                    assert_eq!(e.errno(), libc::ESTALE);
                    stale += 1;
                }
            }
        } else {
            let line = format!("{at} {n}");
            let append = libc::O_WRONLY | libc::O_APPEND;
            // The first ones find none, both of them.
            let fh = match house.enter("log").await {
                Ok(_) => house.open("log", append).await.unwrap(),
                Err(_) => house.create("log", append).await.unwrap(),
            };
            house.fs.write(fh, 0, format!("{line}\n").as_bytes(), true).await.unwrap();
            open[at] = Some((fh, line));
        }
    }
    let data = houses[0].fake.data("log");
    let lines: Vec<_> = std::str::from_utf8(&data).unwrap().lines().collect();
    assert_eq!(lines, expected);
    assert!(stale > 0 && expected.len() > 20, "both happened: {stale} of {}", expected.len());
}
