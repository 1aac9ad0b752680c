//! What a program that reads files one after another will read next, from what is known.
//!
//! Owns: [`Namespace::files_following`].
//! Invariant: nothing is asked; what is known may be old, so whoever reads ahead must pin the version.
//! Must never know: objects' bytes, who reads.

use std::ops::Bound;

use super::inode::Table;
use super::{FileInfo, Namespace, Node};
use crate::key;

/// Directories looked into for the files of one answer, at most.
const DIRECTORIES_MAX: usize = 16;

/// A file as it is known, and its inode if it has one.
pub struct Near {
    pub key: String,
    pub info: FileInfo,
    pub ino: Option<u64>,
}

impl Namespace {
    /// The files that follow one in a walk in depth, at most `count`: those after it in its directory, then those in
    /// the next directories, as far as their names are known.
    pub fn files_following(&self, key: &str, count: usize) -> Vec<Near> {
        let table = self.lock();
        let (dir, name) = key::split_dir(key);
        let mut files = table.files_after(dir, name, count);
        let mut dir = dir;
        for _ in 1..DIRECTORIES_MAX {
            let Some(next) = table.next_directory(dir).filter(|_| files.len() < count) else { break };
            files.extend(table.files_after(next, "", count - files.len()));
            dir = next;
        }
        files
    }
}

impl Table {
    fn files_after(&self, dir: &str, name: &str, count: usize) -> Vec<Near> {
        let Some(known) = self.dirs.get(dir) else { return Vec::new() };
        let files = known.slots_after(name).filter_map(|(name, slot)| match slot.known.node()? {
            Node::File(info) if slot.known.in_s3() => {
                Some(Near { key: format!("{dir}{name}"), info, ino: Some(slot.ino).filter(|ino| *ino != 0) })
            }
            _ => None,
        });
        files.take(count).collect()
    }

    /// The key of the directory that follows in a walk in depth, if names in it are known.
    fn next_directory(&self, dir: &str) -> Option<&str> {
        let after = (Bound::Excluded(dir), Bound::Unbounded);
        let (next, _) = self.dirs.range::<str, _>(after).next()?;
        let (above, name) = key::split_dir(next);
        // The way there from `dir`: down (then nothing comes before it there), or up and to the one beside.
        let beside = dir.strip_prefix(above)?.split('/').next()?;
        let skipped = self.dirs.get(above)?.has_directory_between(beside, name);
        (!skipped).then_some(&**next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::known::Source;
    use super::super::{Numbers, Room};
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(Numbers::of_one("bucket"), "", Duration::ZERO, Room::new(u64::MAX));
        let file = Node::File(FileInfo { etag: "\"e\"".into(), ..FileInfo::default() });
        let new = Node::File(FileInfo::default());
        for (dir, name, node) in [
            ("", "a", &Node::Directory),
            ("", "b", &Node::Directory),
            ("", "c", &Node::Directory),
            ("a/", "1", &file),
            ("a/", "2", &new),
            ("a/", "3", &file),
            ("a/", "4", &Node::Directory),
            ("a/", "5", &file),
            ("a/4/", "x", &file),
            ("b/", "y", &file),
        ] {
            table.hear(dir, name, Some(node), Instant::now(), Source::Listed);
        }
        table
    }

    fn keys(files: Vec<Near>) -> Vec<String> {
        files.into_iter().map(|file| file.key).collect()
    }

    #[test]
    fn files_follow_in_key_order_as_far_as_s3_has_them() {
        let table = table();
        assert_eq!(keys(table.files_after("a/", "1", 10)), ["a/3", "a/5"]);
        assert_eq!(keys(table.files_after("a/", "", 1)), ["a/1"]);
        assert_eq!(keys(table.files_after("z/", "", 1)), [""; 0]);
    }

    #[test]
    fn the_next_directory_is_below_or_beside_one_above() {
        let mut table = table();
        assert_eq!(table.next_directory("a/"), Some("a/4/"));
        assert_eq!(table.next_directory("a/4/"), Some("b/"));
        assert_eq!(table.next_directory("b/"), None, "nothing is known in c");
        table.hear("", "a!", Some(&Node::Directory), Instant::now(), Source::Listed);
        table.hear("d/", "z", Some(&Node::Directory), Instant::now(), Source::Listed);
        table.hear("", "d", Some(&Node::Directory), Instant::now(), Source::Listed);
        assert_eq!(table.next_directory("b/"), None, "c comes before d");
        assert_eq!(table.next_directory("c/"), Some("d/"));
    }
}
