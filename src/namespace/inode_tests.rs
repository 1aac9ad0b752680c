//! The table alone: inodes' lives, which answer wins, what is fresh, what goes when it is full.

use super::*;
use crate::namespace::known::Source;

const BIG: u64 = 1 << 30;

fn table() -> Table {
    Table::new(Numbers::of_one("bucket"), "top/", Duration::from_secs(60), Room::new(BIG))
}

fn file(size: u64) -> Node {
    Node::File(FileInfo { size, ..FileInfo::default() })
}

fn later() -> Instant {
    std::thread::sleep(Duration::from_millis(1));
    Instant::now()
}

#[test]
fn keys_follow_from_names() {
    let mut table = table();
    let dir = table.intern("top/", "d", &Node::Directory);
    let sub = table.intern("top/d/", "e", &Node::Directory);
    let leaf = table.intern("top/d/e/", "f", &file(1));
    assert_eq!(table.key(ROOT_INO).unwrap(), "top/");
    assert_eq!(table.key(sub).unwrap(), "top/d/e/");
    assert_eq!(table.key(leaf).unwrap(), "top/d/e/f");
    assert_eq!(leaf, key::inode_number("bucket", "top/d/e/f"));
    assert_eq!((table.parent(leaf), table.parent(sub), table.parent(dir)), (Some(sub), Some(dir), Some(1)));
    table.remember(leaf);
    table.forget(dir, 0);
    assert_eq!(table.parent(sub), Some(dir), "the number is the same without the inode");
}

#[test]
fn an_inode_lives_as_long_as_somebody_knows_it() {
    let mut table = table();
    let dir = table.intern("top/", "d", &Node::Directory);
    let leaf = table.intern("top/d/", "f", &file(1));
    table.remember(dir);
    table.remember(leaf);
    table.pin(leaf);
    table.forget(dir, 1);
    assert_eq!(table.key(leaf).unwrap(), "top/d/f", "its key does not hang on its parent's inode");
    table.forget(leaf, 1);
    assert!(table.key(leaf).is_some(), "a handle holds it");
    table.unpin(leaf);
    assert_eq!(table.inodes(), 1, "only the root is left");
    assert_eq!(table.fresh_name("top/d/", "f"), Some(Some(file(1))), "what was known of it stays");
}

#[test]
fn an_older_answer_does_not_undo_a_local_change() {
    let mut table = table();
    let asked = Instant::now();
    later();
    table.remove_name("top/", "gone");
    assert_eq!(table.hear("top/", "gone", Some(&file(1)), asked, Source::Asked), None);
    let ino = table.intern("top/", "made", &file(1));
    table.update(ino, |info| info.size = 5);
    assert_eq!(table.hear("top/", "made", None, asked, Source::Asked), Some(file(5)));
    let span = Span::whole(asked);
    table.hear_range("top/", [("gone", &file(1), asked)], Some(span), None);
    assert_eq!(table.fresh_name("top/", "gone"), Some(None));
    assert_eq!(table.fresh_name("top/", "made"), Some(Some(file(5))));
    assert_eq!(table.hear("top/", "made", None, later(), Source::Asked), None, "a newer answer does");
}

#[test]
fn a_renamed_inode_keeps_its_number_and_frees_its_name() {
    let mut table = table();
    let a = table.intern("", "a", &file(1));
    let b = table.intern("", "b", &file(2));
    table.remember(a);
    table.remember(b);
    table.rename(a, "", "b");
    assert_eq!(table.child_in("", "b"), Some(a));
    assert_eq!(table.child_in("", "a"), None);
    assert_eq!(table.key(b), None, "replaced");
    assert_eq!(table.entry(b).unwrap().node, file(2), "and still what it was");
    assert_eq!(table.fresh_name("", "a"), Some(None));
    let other = table.intern("", "a", &file(3));
    assert_ne!(other, a, "numbers of living inodes are not given twice");
}

#[test]
fn what_an_open_handle_listed_stays_fresh() {
    let mut table = Table::new(Numbers::of_one("bucket"), "", Duration::ZERO, Room::new(BIG));
    table.hear("", "x", Some(&file(1)), Instant::now(), Source::Listed);
    assert_eq!(table.fresh_name("", "x"), None);
    table.listing_began("", Instant::now());
    table.hear("", "x", Some(&file(1)), Instant::now(), Source::Listed);
    assert_eq!(table.fresh_name("", "x"), Some(Some(file(1))));
    table.listing_ended("");
    assert_eq!(table.fresh_name("", "x"), None);
}

#[test]
fn a_whole_listing_says_what_is_not_there() {
    let mut table = table();
    let ino = table.intern("d/", "old", &file(1));
    table.remember(ino);
    table.hear("d/", "seen", Some(&file(1)), Instant::now(), Source::Asked);
    let first = later();
    let half = Span { after: "".into(), upto: Some("m".into()), asked: first };
    table.hear_range("d/", [("a", &file(1), first)], Some(half), Some(first));
    assert_eq!(table.fresh_name("d/", "b"), Some(None), "within the first page");
    assert_eq!(table.fresh_name("d/", "x"), None, "beyond it");
    assert_eq!(table.whole_since("d/"), None);
    let rest = Span { after: "m".into(), upto: None, asked: later() };
    table.hear_range("d/", [("z", &file(1), rest.asked)], Some(rest), Some(first));
    assert_eq!(table.whole_since("d/"), Some(first), "as old as its first page");
    for gone in ["old", "seen", "x"] {
        assert_eq!(table.fresh_name("d/", gone), Some(None), "{gone}");
    }
    assert_eq!((table.key(ino), table.entry(ino).unwrap().node), (None, file(1)), "unlinked, not lost");
}

#[test]
fn a_page_does_not_decide_a_name_whose_directory_would_come_later() {
    let mut table = table();
    let asked = Instant::now();
    let page = Span { after: "".into(), upto: Some("a-5".into()), asked };
    table.hear_range("d/", [("a-5", &file(1), asked)], Some(page), None);
    assert_eq!(table.fresh_name("d/", "a"), None, "a/ may come after a-9");
    assert_eq!(table.fresh_name("d/", "Z"), Some(None));
    // By path component `d!` comes after the directory `d`.
    let page = Span { after: "".into(), upto: Some("d/".into()), asked };
    table.hear_range("e/", [("d", &Node::Directory, asked)], Some(page), None);
    assert_eq!(table.fresh_name("e/", "d!"), None);
    assert_eq!(table.fresh_name("e/", "c"), Some(None));
}

#[test]
fn a_file_that_was_held_back_over_pages_is_not_taken_for_gone() {
    let mut table = table();
    let (first, second) = (Instant::now(), later());
    let page = Span { after: "".into(), upto: Some("b!".into()), asked: first };
    table.hear_range("d/", [], Some(page), Some(first));
    let page = Span { after: "b!".into(), upto: None, asked: second };
    table.hear_range("d/", [("b", &file(1), first), ("b!", &file(1), first)], Some(page), Some(first));
    assert_eq!(table.fresh_name("d/", "b"), Some(Some(file(1))));
    assert_eq!(table.fresh_name("d/", "b!"), Some(Some(file(1))));
}

#[test]
fn what_was_given_up_is_not_believed_and_neither_is_the_listing() {
    let mut table = table();
    table.hear_range("d/", [], Some(Span::whole(Instant::now())), None);
    let ino = table.intern("d/", "f", &file(1));
    table.set_local(ino, true);
    table.give_up(ino);
    assert_eq!(table.fresh_name("d/", "f"), None);
    assert_eq!(table.whole_since("d/"), None);
}

#[test]
fn a_full_table_forgets_what_nobody_needs_least_recently_used_first() {
    let mut table = Table::new(Numbers::of_one("bucket"), "", Duration::from_secs(60), Room::new(1 << 20));
    let held = table.intern("0/", "held", &file(7));
    table.remember(held);
    table.remove_name("0/", "removed");
    let (question, asked) = table.question("0/");
    table.remove_name("0/", "removed just now");
    for dir in 0..100 {
        let names: Vec<String> = (0..100).map(|n| format!("{n:020}")).collect();
        let now = Instant::now();
        let said = names.iter().map(|name| (name.as_str(), &Node::Directory, now));
        table.hear_range(&format!("{dir}/"), said, Some(Span::whole(now)), None);
        table.shrink();
        assert!(table.bytes() <= 1 << 20, "{} bytes after {dir}", table.bytes());
    }
    assert!(table.names_heard() > 1000, "{}", table.names_heard());
    assert_eq!(table.entry(held).unwrap().node, file(7), "what the kernel knows stays");
    assert_eq!(table.known("0/", "removed"), None);
    assert_eq!(table.hear("0/", "removed just now", Some(&file(1)), asked, Source::Listed), None);
    assert_eq!((table.whole_since("1/"), table.whole_since("99/").is_some()), (None, true));
    table.answered(question);
    table.forget(held, 1);
    assert_eq!(table.inodes(), 1);
}

#[test]
fn what_is_counted_is_given_back() {
    let mut table = Table::new(Numbers::of_one("bucket"), "", Duration::from_secs(60), Room::new(0));
    for n in 0..50 {
        let node = Node::File(FileInfo { etag: format!("\"odd {n}\""), ..FileInfo::default() });
        let ino = table.intern("d/", &n.to_string(), &node);
        table.remember(ino);
        table.update(ino, |info| info.etag = "another that is longer".into());
        table.forget(ino, 1);
    }
    assert!(table.bytes() > 50 * 100);
    table.shrink();
    assert_eq!((table.bytes(), table.dirs.len()), (0, 0));
}

#[test]
fn the_kernel_is_asked_to_forget_when_inodes_alone_are_too_many() {
    let mut table = Table::new(Numbers::of_one("bucket"), "", Duration::from_secs(60), Room::new(1 << 20));
    assert_eq!(table.too_many(Instant::now()), []);
    let root = table.intern("", "d", &Node::Directory);
    table.remember(root);
    for n in 0..10_000 {
        let ino = table.intern("d/", &format!("{n:05}"), &file(1));
        table.remember(ino);
        if n == 0 {
            table.pin(ino);
        }
    }
    table.shrink();
    assert_eq!(table.inodes(), 10_002, "none is lost");
    let now = Instant::now();
    let names = table.too_many(now);
    assert_eq!(names.len(), 1000);
    assert!(!names.contains(&(root, "00000".into())), "a handle holds it");
    assert_eq!(table.too_many(now), [], "seldom");
    let later = now + Duration::from_secs(1);
    assert!(table.too_many(later).contains(&(root, "00001".into())), "asked again while it stays");
    for n in 0..10_000 {
        let ino = table.child_in("d/", &format!("{n:05}")).unwrap();
        table.forget(ino, 1);
    }
    table.shrink();
    assert_eq!((table.inodes(), table.bytes() < 1 << 20), (3, true));
}

/// `cargo test --release --lib five_million -- --ignored --nocapture`
#[test]
#[ignore = "takes 2 GiB and a while"]
fn five_million_objects_fit_in_two_gib() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    let mut table = Table::new(Numbers::of_one("bucket"), "", Duration::from_secs(60), Room::new(u64::MAX));
    for n in 0..5_000_000u64 {
        let (dir, name) = (format!("data/{:05}/", n / 1000), format!("object-{n:09}.dat"));
        let etag = format!("\"{:032x}\"", u128::from(n) << 64 | 7);
        let node = Node::File(FileInfo { size: n, etag, ..FileInfo::default() });
        table.hear(&dir, &name, Some(&node), Instant::now(), Source::Listed);
        let ino = table.intern(&dir, &name, &node);
        table.remember(ino);
    }
    let taken = resident() - before;
    eprintln!("5,000,000 objects with inodes: {} MiB, counted as {}", taken >> 20, table.bytes() >> 20);
    assert!(taken < 2 << 30);
}

#[test]
fn a_change_that_had_to_make_room_is_not_undone_by_an_older_answer() {
    let mut table = Table::new(Numbers::of_one("bucket"), "", Duration::from_secs(60), Room::new(10_000));
    let asked = later();
    later();
    table.remove_name("d/", "gone");
    assert!(!table.memory.lost_since(asked));
    let heard = later();
    for n in 0..100 {
        table.hear(&format!("{n}/"), "f", Some(&file(1)), heard, Source::Listed);
        table.shrink();
    }
    assert_eq!(table.known("d/", "gone"), None);
    assert!(table.memory.lost_since(asked) && !table.memory.lost_since(heard));
}
