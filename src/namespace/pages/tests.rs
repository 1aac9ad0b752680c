//! Over a server in memory that lists in one order or another, and takes `start-after` for one thing or another.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::error::S3ErrorKind;
use crate::s3::ListedObject;

const DIR: &str = "top/";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    Bytes,
    /// As SeaweedFS: `d/` before `d!x`.
    Component,
    /// As a database that takes capitals for small letters.
    Caseless,
    /// As S3's directory buckets.
    Random,
}

impl Order {
    fn rank(self, item: &str) -> (u64, String) {
        match self {
            Order::Bytes => (0, item.into()),
            Order::Component => (0, item.replace('/', "\0")),
            Order::Caseless => (0, format!("{} {item}", item.to_lowercase())),
            Order::Random => {
                let mix = |hash: u64, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
                (item.bytes().fold(0xcbf2_9ce4_8422_2325, mix), String::new())
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum StartAfter {
    Exclusive,
    Inclusive,
    Ignored,
    Refused,
}

#[derive(Clone)]
struct Server {
    /// In its order: keys and common prefixes.
    items: Arc<Mutex<Vec<String>>>,
    order: Order,
    start_after: StartAfter,
    page_keys: usize,
    latency: Duration,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    asked: usize,
    guessed: usize,
    under_way: usize,
    under_way_max: usize,
    /// What happens at the how manieth request: this item is put, or taken away.
    changes: Vec<(usize, String)>,
}

impl Server {
    fn new(keys: impl IntoIterator<Item = String>, page_keys: usize) -> Server {
        let items: BTreeSet<String> = keys.into_iter().map(|key| item_of(&key)).collect();
        Server {
            items: Arc::new(Mutex::new(items.into_iter().collect())),
            order: Order::Bytes,
            start_after: StartAfter::Exclusive,
            page_keys,
            latency: Duration::ZERO,
            seen: Arc::default(),
        }
    }

    fn that(self, order: Order, start_after: StartAfter) -> Server {
        self.items.lock().unwrap().sort_by_cached_key(|item| order.rank(item));
        Server { order, start_after, ..self }
    }

    fn page(&self, begin: &Begin) -> Result<ListPage, S3Error> {
        let items = self.items.lock().unwrap();
        let rank = |item: &str| self.order.rank(item);
        let from = match begin {
            Begin::Start => 0,
            Begin::Token(last) => items.partition_point(|item| rank(item) <= rank(last)),
            Begin::Key(key) => match self.start_after {
                StartAfter::Exclusive => items.partition_point(|item| rank(item) <= rank(key)),
                StartAfter::Inclusive => items.partition_point(|item| rank(item) < rank(key)),
                StartAfter::Ignored => 0,
                StartAfter::Refused => return Err(refused()),
            },
        };
        let mut page = ListPage::default();
        let rest = &items[from..];
        for item in rest.iter().take(self.page_keys) {
            if item.ends_with('/') && item != DIR {
                page.common_prefixes.push(item.clone());
            } else {
                page.contents.push(object(item));
            }
        }
        if rest.len() > self.page_keys {
            page.next_continuation_token = Some(rest[self.page_keys - 1].clone());
        }
        Ok(page)
    }

    fn change(&self, item: &str) {
        let mut items = self.items.lock().unwrap();
        match items.iter().position(|there| there == item) {
            Some(at) => drop(items.remove(at)),
            None => {
                let at = items.partition_point(|there| self.order.rank(there) <= self.order.rank(item));
                items.insert(at, item.into());
            }
        }
    }

    fn ask(&self) -> Ask {
        let server = self.clone();
        Box::new(move |begin| {
            let server = server.clone();
            let changes: Vec<String> = {
                let mut seen = server.seen.lock().unwrap();
                seen.asked += 1;
                seen.guessed += usize::from(matches!(begin, Begin::Key(_)));
                seen.under_way += 1;
                seen.under_way_max = seen.under_way_max.max(seen.under_way);
                let now = seen.changes.iter().filter(|(at, _)| *at == seen.asked);
                now.map(|(_, item)| item.clone()).collect()
            };
            changes.iter().for_each(|item| server.change(item));
            Box::pin(async move {
                if server.latency > Duration::ZERO {
                    tokio::time::sleep(server.latency).await; // at least a millisecond
                }
                let page = server.page(&begin);
                server.seen.lock().unwrap().under_way -= 1;
                page
            })
        })
    }

    fn asked(&self) -> usize {
        self.seen.lock().unwrap().asked
    }

    /// All items as the pages come.
    async fn listed(&self) -> Vec<String> {
        let mut pages = Pages::new(DIR, self.ask());
        let mut all = Vec::new();
        while let Some((page, _)) = pages.next().await.unwrap() {
            all.extend(in_order(&page).map(str::to_owned));
        }
        all
    }

    /// What a listing must never cost more than.
    fn asked_max(&self) -> usize {
        let plain = self.items.lock().unwrap().len().div_ceil(self.page_keys);
        3 * plain / 2 + SPARE
    }
}

fn item_of(key: &str) -> String {
    match key.split_once('/') {
        Some((name, _)) => format!("{DIR}{name}/"),
        None => format!("{DIR}{key}"),
    }
}

fn object(key: &str) -> ListedObject {
    let (etag, last_modified) = ("\"e\"".into(), SystemTime::UNIX_EPOCH);
    ListedObject { key: key.into(), size: 1, etag, last_modified, storage_class: None, checksum: None }
}

fn refused() -> S3Error {
    S3Error {
        operation: "ListObjectsV2",
        bucket: "bucket".into(),
        key: None,
        kind: S3ErrorKind::NotImplemented,
        status: Some(501),
        code: Some("NotImplemented".into()),
        message: "start-after".into(),
        request_id: None,
        host_id: None,
        tries: 1,
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn hashes(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|n| {
        let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("{:016x}.dat", (mixed ^ mixed >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9))
    })
}

/// The clock is the runtime's: it moves when all wait, by what they wait for.
#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_names_take_a_dozen_round_trips() {
    let latency = Duration::from_millis(40);
    for keys in [
        (0..100_000).map(|n| format!("f{n:06}")).collect::<Vec<_>>(),
        hashes(100_000).collect(),
        (0..100_000).map(|n| format!("{n}.jpg")).collect(),
        (0..100_000).map(|n| format!("{n:05}/x")).collect(),
    ] {
        let server = Server { latency, ..Server::new(keys, 1000) };
        let begun = tokio::time::Instant::now();
        let all = server.listed().await;
        assert_eq!(all, *server.items.lock().unwrap());
        let trips = begun.elapsed().as_millis() / latency.as_millis();
        assert!(trips <= 18, "{trips} round trips for {}", all[0]);
        assert!(server.asked() <= 135, "{} requests for {}", server.asked(), all[0]);
    }
}

#[tokio::test]
async fn small_listings_cost_what_they_cost_one_after_another() {
    for (keys, most) in [(0, 1), (1000, 1), (1001, 2), (2000, 2), (2001, 5), (10_000, 20)] {
        let server = Server::new((0..keys).map(|n| format!("f{n:06}")), 1000);
        assert_eq!(server.listed().await.len(), keys);
        assert!(server.asked() <= most, "{} requests for {keys} keys", server.asked());
    }
}

#[tokio::test(start_paused = true)]
async fn pages_ahead_are_bounded_also_when_nobody_reads() {
    let server = Server::new((0..200_000).map(|n| format!("f{n:06}")), 1000);
    let server = Server { latency: Duration::from_millis(40), ..server };
    let mut pages = Pages::new(DIR, server.ask());
    let mut given = 0;
    while pages.guesses.len() < GUESSES_MAX - 1 {
        assert!(pages.next().await.unwrap().is_some(), "the guesses come to their cap before the end");
        given += 1;
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(server.asked() <= given + GUESSES_MAX + 1, "{} asked, {given} given", server.asked());
    while pages.next().await.unwrap().is_some() {
        assert!(pages.guesses.len() <= GUESSES_MAX);
    }
    let most = server.seen.lock().unwrap().under_way_max;
    assert_eq!(most, GUESSES_MAX, "one is about to be joined");
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_ends_with_the_stream() {
    let server = Server::new((0..20_000).map(|n| format!("f{n:06}")), 1000);
    let server = Server { latency: Duration::from_millis(40), ..server };
    let mut pages = Pages::new(DIR, server.ask());
    for _ in 0..6 {
        pages.next().await.unwrap();
    }
    let answered = |server: &Server| server.asked() - server.seen.lock().unwrap().under_way;
    let before = answered(&server);
    assert!(before < server.asked(), "some are under way");
    drop(pages);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(answered(&server), before);
}

/// Names of which nothing can be foreseen: most guesses fail, and soon few are made.
#[tokio::test]
async fn guesses_that_fail_are_given_up() {
    let words = ["al", "be", "ga", "de", "ep", "ze", "et", "th"];
    let mut keys = Vec::new();
    for n in 0..40_000usize {
        let squared = n * n % 9973 * n;
        let word = |at: u32| words[squared / 8usize.pow(at) % 8];
        keys.push(format!("{}-{}{}/{}_{}", "x".repeat(n % 7), word(0), word(1), word(2), n));
        keys.push(format!("{}{}{}{}{}", word(3), "!".repeat(n % 5), word(2), word(1), n * n));
    }
    let server = Server::new(keys, 100);
    assert_eq!(server.listed().await, *server.items.lock().unwrap());
    assert!(server.asked() <= server.asked_max(), "{} of {}", server.asked(), server.asked_max());
}

#[tokio::test]
async fn a_server_that_refuses_start_after_is_asked_for_it_in_vain_only_once() {
    let server = Server::new((0..50_000).map(|n| format!("f{n:06}")), 1000);
    let server = server.that(Order::Bytes, StartAfter::Refused);
    assert_eq!(server.listed().await, *server.items.lock().unwrap());
    assert_eq!(server.seen.lock().unwrap().guessed, 2, "two went out together");
}

#[tokio::test]
async fn a_server_without_order_is_not_asked_for_guesses() {
    let server = Server::new((0..10_000).map(|n| format!("f{n:06}")), 1000);
    let server = server.that(Order::Random, StartAfter::Ignored);
    assert_eq!(server.listed().await, *server.items.lock().unwrap());
    assert_eq!((server.asked(), server.seen.lock().unwrap().guessed), (10, 0));
}

#[tokio::test]
async fn an_error_ends_the_listing() {
    let server = Server::new((0..5000).map(|n| format!("f{n:06}")), 1000);
    let fine = server.ask();
    let ask: Ask = Box::new(move |begin| match begin {
        Begin::Token(_) => Box::pin(async { Err(refused()) }),
        begin => fine(begin),
    });
    let mut pages = Pages::new(DIR, ask);
    assert_eq!(items(&pages.next().await.unwrap().unwrap().0), 1000);
    assert!(pages.next().await.is_err());
    assert!(pages.at_end() && pages.next().await.unwrap().is_none());
}

const PAGES: [usize; 4] = [1, 2, 7, 1000];
const ORDERS: [Order; 4] = [Order::Bytes, Order::Component, Order::Caseless, Order::Random];
const STARTS: [StartAfter; 4] =
    [StartAfter::Exclusive, StartAfter::Inclusive, StartAfter::Ignored, StartAfter::Refused];

/// Dense enough that guesses are worth while, with the traps.
fn keys() -> impl Strategy<Value = BTreeSet<String>> {
    let traps = "[ab](!b|-0|/x|0|/|!|/!/a|-/y)?";
    let key = prop_oneof!["[a-c][0-3]{2}", "[ab][!/0-][0-3]{1,2}", "[A-Ca-c]{2,3}", traps, "[aあü𐀀]{1,3}/?"];
    prop::collection::btree_set(key, 0..150)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_item_comes_once_whatever_the_server(
        keys in keys(),
        marker in any::<bool>(),
        page_keys in prop::sample::select(&PAGES[..]),
        order in prop::sample::select(&ORDERS[..]),
        start_after in prop::sample::select(&STARTS[..]),
    ) {
        let server = Server::new(keys.into_iter().chain(marker.then(String::new)), page_keys);
        let server = server.that(order, start_after);
        let all = run(server.listed());
        let items = server.items.lock().unwrap().clone();
        if order == Order::Bytes {
            prop_assert_eq!(&all, &items);
        }
        let each: BTreeSet<String> = all.iter().cloned().collect();
        prop_assert_eq!(each.len(), all.len(), "twice: {:?}", all);
        prop_assert_eq!(each, items.into_iter().collect::<BTreeSet<_>>());
        prop_assert!(server.asked() <= server.asked_max(), "{} of {}", server.asked(), server.asked_max());
    }

    #[test]
    fn what_changes_meanwhile_disturbs_nothing_else(
        keys in keys(),
        changes in prop::collection::vec((1usize..60, "[a-c][0-3]{2}|[ab][!/0-][0-3]{1,2}"), 0..60),
        page_keys in prop::sample::select(&PAGES[..]),
        order in prop::sample::select(&ORDERS[..3]),
    ) {
        let server = Server::new(keys, page_keys).that(order, StartAfter::Exclusive);
        let changes: Vec<_> = changes.into_iter().map(|(at, key)| (at, item_of(&key))).collect();
        let moved: BTreeSet<String> = changes.iter().map(|(_, item)| item.clone()).collect();
        let items: BTreeSet<String> = server.items.lock().unwrap().iter().cloned().collect();
        server.seen.lock().unwrap().changes = changes;
        let all = run(server.listed());
        let each: BTreeSet<String> = all.iter().cloned().collect();
        if order == Order::Bytes {
            prop_assert_eq!(each.len(), all.len(), "twice: {:?}", all);
        }
        let missed: Vec<_> = items.difference(&each).filter(|item| !moved.contains(*item)).collect();
        prop_assert!(missed.is_empty(), "missed: {:?}", missed);
    }
}
