//! Random changes while listings, lookups and tree walks are under way, whose answers come late: what was
//! changed here is never undone by what S3 said before.
//!
//! The seed is printed; `PAILFS_SEED=… cargo test --test fs_races` runs that one alone.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pailfs::namespace::Kind;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use support::fake::{Options, Order};
use support::house::split;
use support::{FakeS3, Fault, House, On};

const STEPS: usize = 250;
/// Each the beginning of another where it can be.
const NAMES: [&str; 6] = ["a", "a-0", "a.b", "a!", "b", "c"];
const READERS: usize = 3;

/// By path: a file's length, or a directory.
type Model = BTreeMap<String, Option<usize>>;

fn path(random: &mut StdRng) -> String {
    let depth = random.random_range(1..=3);
    let names: Vec<&str> = (0..depth).map(|_| *NAMES.choose(random).expect("not empty")).collect();
    names.join("/")
}

/// Reads whatever there is, over and over, and asks S3 anew.
async fn read(house: Arc<House>, mut random: StdRng, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let path = path(&mut random);
        match random.random_range(0..4) {
            0 => {
                if let Ok(attr) = house.enter(&path).await {
                    house.leave(attr.ino);
                }
            }
            // Errors: what is read may be gone by now.
            1 => drop(house.list(&path, random.random(), || 2).await),
            2 => drop(walk(&house, "").await),
            _ => house.refresh("").await,
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..3))).await;
    }
}

async fn walk(house: &House, dir: &str) -> Result<(), pailfs::error::Error> {
    for entry in house.list(dir, true, || 3).await? {
        if entry.kind == Kind::Directory {
            let below = format!("{dir}{}{}", if dir.is_empty() { "" } else { "/" }, entry.name);
            Box::pin(walk(house, &below)).await?;
        }
    }
    Ok(())
}

async fn change(house: &House, model: &mut Model, random: &mut StdRng) -> String {
    let at = path(random);
    let dir = split(&at).0;
    let dir_there = dir.is_empty() || model.get(dir) == Some(&None);
    let below = |model: &Model| model.keys().any(|path| path.starts_with(&format!("{at}/")));
    match (random.random_range(0..10), model.get(&at).copied()) {
        (0..6, None) if dir_there => {
            let len = random.random_range(1..100);
            house.make(&at, &vec![1; len]).await.unwrap_or_else(|e| panic!("make {at}: {e}"));
            model.insert(at.clone(), Some(len));
            format!("make {at}: {len}")
        }
        (6.., None) if dir_there => {
            house.mkdir(&at).await.unwrap_or_else(|e| panic!("mkdir {at}: {e}"));
            model.insert(at.clone(), None);
            format!("mkdir {at}")
        }
        (0..4, Some(Some(len))) => {
            let to = path(random);
            let to_dir = split(&to).0;
            if model.contains_key(&to) || !(to_dir.is_empty() || model.get(to_dir) == Some(&None)) {
                return format!("no rename {at} {to}");
            }
            house.rename(&at, &to, 0).await.unwrap_or_else(|e| panic!("rename {at} {to}: {e}"));
            model.remove(&at);
            model.insert(to.clone(), Some(len));
            format!("rename {at} {to}")
        }
        (_, Some(Some(_))) => {
            house.unlink(&at).await.unwrap_or_else(|e| panic!("unlink {at}: {e}"));
            model.remove(&at);
            format!("unlink {at}")
        }
        (_, Some(None)) if !below(model) => {
            house.rmdir(&at).await.unwrap_or_else(|e| panic!("rmdir {at}: {e}"));
            model.remove(&at);
            format!("rmdir {at}")
        }
        _ => format!("nothing at {at}"),
    }
}

/// Each name is what the model says; listings come now and then, for they take long.
async fn compare(house: &House, model: &Model, did: &str, lists: bool) {
    for dir in model.iter().filter(|(_, len)| len.is_none()).map(|(dir, _)| dir.as_str()).chain([""]) {
        for name in NAMES {
            let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
            let found = house.enter(&path).await;
            if let Ok(attr) = &found {
                house.leave(attr.ino);
            }
            let got = found.ok().map(|attr| (attr.kind == Kind::File).then_some(attr.size as usize));
            assert_eq!(got, model.get(&path).copied(), "{path} after {did}");
        }
        if lists {
            let below = model.keys().filter(|path| split(path).0 == dir);
            let mut want: Vec<&str> = below.map(|path| split(path).1).collect();
            want.sort_unstable();
            assert_eq!(house.names(dir).await, want, "{dir:?} after {did}");
        }
    }
}

async fn run(seed: u64) {
    eprintln!("PAILFS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let order = if random.random_bool(0.3) { Order::Component } else { Order::Key };
    let fake = FakeS3::with(Options { order, ..Options::default() });
    let page_keys = *[2, 5, 1000].choose(&mut random).expect("not empty");
    let small = random.random_bool(0.3);
    let house = Arc::new(House::on(fake, |config| {
        config.s3.list_page_keys = page_keys;
        config.metadata_bytes_max = if small { 1 << 20 } else { 256 << 20 };
    }));
    // Answers come late, and some later than those to what was asked after them.
    for nth in 2..5 {
        let pause = Duration::from_millis(random.random_range(0..8));
        let calls = AtomicUsize::new(0);
        let each = move |_: &str| calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(nth);
        house.faults.plan(On::op("ListObjectsV2").key_where(each), Fault::Slow { pause });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let random = StdRng::seed_from_u64(random.random());
            tokio::spawn(read(house.clone(), random, stop.clone()))
        })
        .collect();
    let mut model = Model::new();
    for step in 0..STEPS {
        let did = change(&house, &mut model, &mut random).await;
        eprintln!("{step}: {did}");
        compare(&house, &model, &did, step % 10 == 0).await;
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.expect("a reader does not panic");
    }
    compare(&house, &model, "all", true).await;
    let held = house.fs.held();
    assert_eq!((held.inodes, held.handles), (1, 0), "{held:?}");
}

#[tokio::test]
async fn what_is_changed_here_is_not_undone_by_late_answers() {
    let given = std::env::var("PAILFS_SEED").ok().map(|seed| seed.parse().expect("PAILFS_SEED: a number"));
    let seeds = given.map_or_else(|| vec![1, 2, 3, rand::random::<u32>().into()], |seed: u64| vec![seed]);
    for seed in seeds {
        run(seed).await;
    }
}
