//! What a program that reads files one after another will read next, from what is known.
//!
//! Owns: [`Namespace::files_after`], [`Namespace::files_in_next`].
//! Invariant: nothing is asked; what is known may be old, so whoever reads ahead must pin the version.

use super::dir::Dir;
use super::inode::Table;
use super::{FileInfo, Namespace, Node};
use crate::key;

impl Namespace {
    /// The files that follow `name` in key order in a directory, at most `count`: key and what is known.
    pub fn files_after(&self, dir: u64, name: &str, count: usize) -> Vec<(String, FileInfo)> {
        let files = |table: &mut Table, key: &str| {
            table.dirs.get(key).map(|dir| files_after(key, dir, name, count)).unwrap_or_default()
        };
        self.within(dir, files).unwrap_or_default()
    }

    /// The first files of the directory that follows `dir` in a walk in depth, at most `count`: key and what
    /// is known. None where that directory's names are not known.
    pub fn files_in_next(&self, dir: u64, count: usize) -> Vec<(String, FileInfo)> {
        let table = self.lock();
        let Some(dir) = table.key(dir) else { return Vec::new() };
        let after = (std::ops::Bound::Excluded(dir.as_str()), std::ops::Bound::Unbounded);
        let Some((next, known)) = table.dirs.range::<str, _>(after).next() else { return Vec::new() };
        let (above, next_name) = key::split_dir(next);
        // The way there from `dir`: down, or up and to the one beside.
        let Some(rest) = dir.strip_prefix(above) else { return Vec::new() };
        let beside = rest.split('/').next().unwrap_or_default();
        if table.dirs.get(above).is_some_and(|above| above.has_directory_between(beside, next_name)) {
            return Vec::new();
        }
        files_after(next, known, "", count)
    }
}

fn files_after(key: &str, dir: &Dir, name: &str, count: usize) -> Vec<(String, FileInfo)> {
    let files = dir.slots_after(name).filter_map(|(name, slot)| match slot.known.node()? {
        Node::File(info) if slot.known.in_s3() => Some((format!("{key}{name}"), info)),
        _ => None,
    });
    files.take(count).collect()
}
