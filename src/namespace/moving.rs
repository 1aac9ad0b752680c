//! A directory that was renamed: what is known below it goes along.
//!
//! Owns: how the table is keyed anew.
//! Invariants: an inode that the kernel or a handle knows keeps its number and is found under its new key; whatever else
//! was known below the old key, and whatever was asked before, is not believed any more.

use std::time::SystemTime;

use super::inode::Table;
use super::known::{ETag, Known, Source, When};
use super::{FileInfo, Kind, Namespace, Node};
use crate::error::Error;

/// A name that none can have, for a file that makes way for another one.
const ASIDE: &str = "\0aside";

/// The ETags that a file below the directory had and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedFile {
    pub ino: u64,
    pub before: String,
    pub now: String,
}

impl Namespace {
    /// A directory was renamed here and in S3. `etag_of`: that of a file's copy, by its key after the directory's; none
    /// where S3 has none. Answers the files below it that have inodes.
    ///
    /// `from`, `to`: key of the directory it was and is in, and name.
    pub fn renamed_dir(
        &self,
        from: (&str, &str),
        to: (&str, &str),
        etag_of: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<MovedFile> {
        let mut table = self.lock();
        let moved = table.rename_dir(from, to, etag_of);
        table.shrink();
        moved
    }

    /// Two files have changed places here and in S3. `infos`: what the one that was at `a` is, and the one that was at `b`.
    /// Answers their inodes.
    pub fn exchanged(
        &self,
        a: (u64, &str),
        b: (u64, &str),
        infos: [FileInfo; 2],
    ) -> Result<(u64, u64), Error> {
        let (dir_a, dir_b) = (self.dir_key(a.0)?, self.dir_key(b.0)?);
        let mut table = self.lock();
        let [first, second] = &infos;
        let one = table.intern(&dir_a, a.1, &Node::File(first.clone()));
        let other = table.intern(&dir_b, b.1, &Node::File(second.clone()));
        table.rename(one, &dir_a, ASIDE);
        table.rename(other, &dir_a, a.1);
        table.rename(one, &dir_b, b.1);
        for ((ino, dir), info) in [(one, &dir_b), (other, &dir_a)].into_iter().zip(infos) {
            table.update(ino, |known| *known = info.or_as_before(known));
            table.touch(dir);
        }
        Ok((one, other))
    }
}

impl Table {
    fn rename_dir(
        &mut self,
        (from_dir, from_name): (&str, &str),
        (to_dir, to_name): (&str, &str),
        etag_of: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<MovedFile> {
        let (from, to) = (format!("{from_dir}{from_name}/"), format!("{to_dir}{to_name}/"));
        self.believe_no_earlier_answer();
        let mut moved = Vec::new();
        for (key, mut known) in self.take_below(&from) {
            let below = key.strip_prefix(from.as_str()).unwrap_or_default();
            let anew = format!("{to}{below}");
            let says = known.says.take();
            let linked: Vec<_> = known.slots().filter(|(_, slot)| slot.ino != 0).collect();
            self.edit(&anew, |dir| {
                dir.forget_spans();
                (dir.marker, dir.says) = (known.marker, says);
            });
            for (name, slot) in linked {
                let mut now = slot.known.clone();
                let mut source = Source::Changed;
                if let Known::File { etag, mtime, .. } = &mut now {
                    match etag_of(&format!("{below}{name}")) {
                        Some(copy) => {
                            let before = etag.text();
                            if !self.is_local(slot.ino) {
                                *mtime = SystemTime::now();
                            }
                            *etag = ETag::new(&copy);
                            moved.push(MovedFile { ino: slot.ino, before, now: copy });
                        }
                        None => source = Source::Doubted,
                    }
                }
                self.put_linked(&anew, name, now, When::now(source), slot.ino);
            }
        }
        match self.child_in(from_dir, from_name) {
            Some(ino) if self.kind(ino) == Some(Kind::Directory) => self.rename(ino, to_dir, to_name),
            _ => {
                self.remove_name(from_dir, from_name);
                self.made(to_dir, to_name, &Node::Directory);
            }
        }
        moved
    }
}
