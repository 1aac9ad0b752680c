//! Walkers of all sorts over a simulated server: what they are told, and what it costs.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::namespace::dir::Span;
use crate::namespace::inode::Table;
use crate::namespace::{Numbers, Room};

struct Server {
    keys: BTreeSet<String>,
    page_keys: usize,
    /// By path component instead of by key.
    by_component: bool,
}

impl Server {
    fn sorted(&self, key: &str) -> String {
        if self.by_component { key.replace('/', "\0") } else { key.to_owned() }
    }

    fn page(&self, ask: &Ask) -> ListPage {
        let (From::Key(after) | From::Token(after)) = &ask.from;
        let mut keys: Vec<&String> = self.keys.iter().filter(|key| key.starts_with(&ask.root)).collect();
        keys.sort_by_key(|key| self.sorted(key));
        let mut rest = keys.into_iter().filter(|key| self.sorted(key) > self.sorted(after)).peekable();
        let contents: Vec<ListedObject> = rest.by_ref().take(self.page_keys).map(|key| object(key)).collect();
        let more = rest.peek().is_some();
        let token = contents.last().filter(|_| more).map(|last| last.key.clone());
        ListPage { contents, next_continuation_token: token, ..ListPage::default() }
    }

    /// A plain listing: names, whether each is a directory, and what it costs.
    fn plain(&self, dir: &str) -> (BTreeMap<String, Node>, usize) {
        let (mut names, mut items) = (BTreeMap::new(), BTreeSet::new());
        for key in self.keys.iter().filter(|key| key.starts_with(dir)) {
            let rest = &key[dir.len()..];
            let (name, is_dir) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
            items.insert((name, is_dir));
            let node = if is_dir { Node::Directory } else { Node::File(FileInfo::from(&object(key))) };
            if key::check_name(name.as_bytes()).is_ok() && names.get(name) != Some(&Node::Directory) {
                names.insert(name.to_owned(), node);
            }
        }
        (names, items.len().div_ceil(self.page_keys).max(1))
    }
}

fn object(key: &str) -> ListedObject {
    ListedObject {
        key: key.to_owned(),
        size: key.len() as u64,
        etag: String::new(),
        last_modified: SystemTime::UNIX_EPOCH,
        storage_class: None,
        checksum: None,
    }
}

/// A program that reads directories, and whoever serves it.
struct Walking<'s> {
    server: &'s Server,
    walks: Walks,
    table: Table,
    off: bool,
    in_flight: Vec<Ask>,
    walk_pages: usize,
    plain_pages: usize,
    plain_lists: usize,
    /// What the same reading costs without walks.
    plain_cost: usize,
    /// Now and then a page comes only when it is waited for.
    late: bool,
    skip: Vec<bool>,
    backwards: bool,
}

impl Walking<'_> {
    fn new(server: &Server, late: bool, skip: Vec<bool>, backwards: bool) -> Walking<'_> {
        Walking {
            server,
            walks: Walks::new(),
            table: Table::new(Numbers::of_one("b"), "", Duration::from_secs(3600), Room::new(u64::MAX)),
            off: false,
            in_flight: Vec::new(),
            walk_pages: 0,
            plain_pages: 0,
            plain_lists: 0,
            plain_cost: 0,
            late,
            skip,
            backwards,
        }
    }

    fn asks(&mut self, ask: Ask) {
        self.walk_pages += 1;
        self.in_flight.push(ask);
        assert!(self.in_flight.len() <= WALKERS_MAX);
    }

    fn arrive(&mut self) {
        for ask in std::mem::take(&mut self.in_flight) {
            let told = self.walks.told(ask.walk, self.server.page(&ask), Instant::now());
            self.off |= told.out_of_order;
            for whole in told.wholes {
                let names = whole.names.iter().map(|(name, node)| (name.as_str(), node, whole.asked));
                self.table.hear_range(&whole.dir, names, Some(Span::whole(whole.asked)), None);
                let marker = self.server.keys.contains(&whole.dir);
                assert_eq!(whole.marker, marker, "marker of {:?}", whole.dir);
            }
            self.walks.failed(ask.walk, ask.page);
        }
    }

    fn read(&mut self, dir: &str) {
        let (expected, cost) = self.server.plain(dir);
        self.plain_cost += cost;
        for waited in 0.. {
            if self.table.whole_since(dir).is_some() {
                if let Some(ask) = self.walks.read_known(dir) {
                    self.asks(ask);
                }
                break;
            }
            assert!(waited <= PATIENCE, "{dir:?} waits for ever");
            let (table, page_keys) = (&self.table, self.server.page_keys);
            let start =
                |above: &str, before: &str, dir: &str| table.walk_start(above, before, dir, page_keys);
            let step = if self.off { Step::Plain } else { self.walks.read(dir, waited, start) };
            match step {
                Step::Ask(ask) => self.asks(ask),
                Step::Wait => assert!(!self.in_flight.is_empty(), "{dir:?} waits for nothing"),
                Step::Plain => {
                    let asked = Instant::now();
                    let names = expected.iter().map(|(name, node)| (name.as_str(), node, asked));
                    self.table.hear_range(dir, names, Some(Span::whole(asked)), None);
                    self.plain_pages += cost;
                    self.plain_lists += 1;
                    break;
                }
            }
            self.arrive();
        }
        if !self.late {
            self.arrive();
        }
        let entries = self.table.entries_after(dir, "", usize::MAX).unwrap();
        let got: BTreeMap<String, Node> =
            entries.iter().map(|(_, l)| (l.name.clone(), l.node.clone())).collect();
        assert_eq!(got, expected, "{dir:?}");
        assert_eq!(got.len(), entries.len(), "{dir:?}: a name twice");
        let mut below: Vec<String> =
            entries.into_iter().filter(|(_, l)| l.node == Node::Directory).map(|(item, _)| item).collect();
        assert!(below.is_sorted(), "{below:?}");
        if self.backwards {
            below.reverse();
        }
        for item in below {
            if !self.skip.pop().unwrap_or(false) {
                self.read(&format!("{dir}{item}"));
            }
        }
    }

    fn total(&self) -> usize {
        self.walk_pages + self.plain_pages
    }

    fn check_cost(&self) {
        let most = self.plain_cost + 1 + self.plain_lists / STAKE_BACK as usize;
        assert!(self.total() <= most, "{} requests, plain {}", self.total(), self.plain_cost);
    }
}

fn server(keys: impl IntoIterator<Item = String>, page_keys: usize) -> Server {
    Server { keys: keys.into_iter().collect(), page_keys, by_component: false }
}

fn cost(server: &Server) -> usize {
    let mut walking = Walking::new(server, true, Vec::new(), false);
    walking.read("");
    walking.check_cost();
    walking.total()
}

#[test]
fn find_in_100_directories_of_20_files_takes_4_listings() {
    let keys = (0..100).flat_map(|d| (0..20).map(move |f| format!("t/d{d:02}/f{f:02}")));
    let mut server = server(keys, 1000);
    assert_eq!(cost(&server), 5, "root, t, d00, and two pages");
    server.by_component = true;
    assert_eq!(cost(&server), 5);
}

#[test]
fn a_walk_goes_on_over_the_directories_above() {
    let keys =
        (0..30).flat_map(|p| (0..5).flat_map(move |d| (0..6).map(move |f| format!("t/p{p:02}/d{d}/f{f}"))));
    // 900 files in 180 directories, which a plain walk would list one by one.
    assert!(cost(&server(keys, 1000)) <= 7);
}

#[test]
fn huge_directories_fall_back_and_cost_one_stake() {
    let keys = (0..20).flat_map(|d| (0..3500).map(move |f| format!("d{d:02}/f{f:04}")));
    let server = server(keys, 1000);
    assert!(cost(&server) <= 1 + 20 * 4 + 1);
}

#[test]
fn names_before_a_slash_do_not_hide_a_directory_from_the_walk() {
    let mut keys: Vec<String> = (0..5).map(|d| format!("{d}/x")).collect();
    keys.extend((0..1500).map(|n| format!("a-{n:04}/x")));
    keys.extend(["a".into(), "a/x".into(), "a!b/x".into(), "a/y/".into(), "b/x".into()]);
    for page_keys in [1, 2, 1000] {
        cost(&server(keys.clone(), page_keys));
    }
}

#[test]
fn what_walks_hold_is_bounded() {
    let keys = (0..500).flat_map(|d| (0..9).map(move |f| format!("t/d{d:03}/{f}/x")));
    let server = server(keys, 1000);
    let mut walking = Walking::new(&server, false, Vec::new(), false);
    walking.read("");
    assert!(walking.walks.walkers.len() <= WALKERS_MAX);
    assert!(walking.walks.held() <= 1000 * LEAD_PAGES as usize * 2, "{}", walking.walks.held());
}

fn segment() -> impl Strategy<Value = String> {
    let odd = ["a", "a!b", "a-0", "a.", "b", "é", "\u{ffff}", "\u{10000}", ".", "..", "", "0"];
    prop_oneof![
        12 => proptest::sample::select(odd.to_vec()).prop_map(str::to_owned),
        6 => "[a-d]{1,2}",
        1 => Just("n".repeat(255)),
        1 => Just("n".repeat(256)),
    ]
}

fn keys() -> impl Strategy<Value = BTreeSet<String>> {
    let key = (proptest::collection::vec(segment(), 1..5), any::<bool>())
        .prop_map(|(segments, marker)| segments.join("/") + if marker { "/" } else { "" });
    proptest::collection::btree_set(key.prop_filter("no key is empty", |key| !key.is_empty()), 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_listing_is_the_plain_one_and_no_walk_costs_more(
        keys in keys(),
        page_keys in prop_oneof![Just(1), Just(2), Just(5), Just(1000)],
        late in any::<bool>(),
        skip in proptest::collection::vec(proptest::bool::weighted(0.2), 0..40),
        backwards in proptest::bool::weighted(0.1),
        by_component in proptest::bool::weighted(0.3),
    ) {
        let server = Server { keys, page_keys, by_component };
        let mut walking = Walking::new(&server, late, skip.clone(), backwards);
        walking.read("");
        walking.check_cost();
        // Again, with what is known by now.
        walking.skip = skip;
        walking.read("");
        walking.check_cost();
    }
}
