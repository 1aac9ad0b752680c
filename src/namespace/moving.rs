//! A directory that was renamed, and what changed places: what is known of it, and below it, goes along.
//!
//! Owns: how the table is keyed anew; what is not believed while things are on their way.
//! Invariants: an inode that the kernel or a handle knows keeps its number and is found under its new key; whatever else
//! was known below the old key, and whatever was asked before, is not believed any more.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::dir::Dir;
use super::inode::Table;
use super::known::{ETag, Known, Source, When};
use super::{Kind, Namespace, Node};

/// The ETag of a file's copy, by its key after that of what moved; none where S3 has none.
pub type EtagOf<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The ETags that a file below the directory had and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedFile {
    pub ino: u64,
    pub before: String,
    pub now: String,
}

impl Namespace {
    /// A directory was renamed here and in S3. Answers the files below it that have inodes.
    ///
    /// `from`, `to`: key of the directory it was and is in, and name.
    pub fn renamed_dir(&self, from: (&str, &str), to: (&str, &str), etag_of: EtagOf<'_>) -> Vec<MovedFile> {
        let mut table = self.lock();
        let moved = table.rename_dir(from, to, etag_of);
        table.shrink();
        moved
    }

    /// Two files or directories have changed places here and in S3. `etags`: of what was at `a`, and of what
    /// was at `b`. Answers the files that have inodes.
    pub fn exchanged(&self, a: (&str, &str), b: (&str, &str), etags: [EtagOf<'_>; 2]) -> Vec<MovedFile> {
        let mut table = self.lock();
        let moved = table.exchange(a, b, etags);
        table.shrink();
        moved
    }

    /// From now on until this is dropped nothing that S3 says of what is at these keys, or below, is believed: it is on its
    /// way.
    pub fn moving(&self, keys: [&str; 2]) -> Moving {
        self.lock().moving.extend(keys.map(Box::from));
        Moving { table: self.table.clone(), keys: keys.map(Box::from) }
    }

    /// Whether an inode's name is on its way.
    pub fn is_moving(&self, ino: u64) -> bool {
        let table = self.lock();
        !table.moving.is_empty() && table.name(ino).is_some_and(|(dir, name)| table.is_moving(&dir, &name))
    }
}

/// Keys that nothing is believed of.
pub struct Moving {
    table: Arc<Mutex<Table>>,
    keys: [Box<str>; 2],
}

impl Drop for Moving {
    fn drop(&mut self) {
        super::lock(&self.table).moving.retain(|key| !self.keys.contains(key));
    }
}

/// What was taken out of the table.
struct Taken {
    known: Known,
    ino: u64,
    /// Of a directory: what is known below it, by what follows its key.
    below: Vec<(String, Dir)>,
}

impl Table {
    fn rename_dir(
        &mut self,
        (from_dir, from_name): (&str, &str),
        (to_dir, to_name): (&str, &str),
        etag_of: EtagOf<'_>,
    ) -> Vec<MovedFile> {
        let (from, to) = (format!("{from_dir}{from_name}/"), format!("{to_dir}{to_name}/"));
        self.believe_no_earlier_answer();
        let mut moved = Vec::new();
        for (below, known) in self.take_dirs(&from) {
            self.put_dir(&to, (&below, known), etag_of, &mut moved);
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

    fn take_dirs(&mut self, from: &str) -> Vec<(String, Dir)> {
        let taken = self.take_below(from).into_iter();
        taken.map(|(key, known)| (key.strip_prefix(from).unwrap_or_default().to_owned(), known)).collect()
    }

    /// A directory is below `to` from now on, at the key `below` after that.
    fn put_dir(
        &mut self,
        to: &str,
        (below, mut known): (&str, Dir),
        etag_of: EtagOf<'_>,
        moved: &mut Vec<MovedFile>,
    ) {
        let anew = format!("{to}{below}");
        let says = known.says.take();
        self.edit(&anew, |dir| {
            dir.forget_spans();
            (dir.marker, dir.says) = (known.marker, says);
        });
        for (name, slot) in known.slots().filter(|(_, slot)| slot.ino != 0) {
            let etag = etag_of(&format!("{below}{name}"));
            let (now, source) = self.moved(slot.known.clone(), slot.ino, etag, moved);
            self.put_linked(&anew, name, now, When::now(source), slot.ino);
        }
    }

    /// What is known of something that has moved. `etag`: of a file's copy, if S3 has one.
    fn moved(
        &self,
        mut known: Known,
        ino: u64,
        copy: Option<String>,
        moved: &mut Vec<MovedFile>,
    ) -> (Known, Source) {
        let is_local = self.is_local(ino);
        let Known::File { etag, mtime, kept, .. } = &mut known else { return (known, Source::Changed) };
        let Some(copy) = copy else { return (known, Source::Doubted) };
        let before = etag.text();
        if !is_local {
            *mtime = SystemTime::now();
            if !self.attributes {
                *kept = None; // the time it showed
            }
        }
        *etag = ETag::new(&copy);
        moved.push(MovedFile { ino, before, now: copy });
        (known, Source::Changed)
    }

    fn exchange(&mut self, a: (&str, &str), b: (&str, &str), etags: [EtagOf<'_>; 2]) -> Vec<MovedFile> {
        self.believe_no_earlier_answer();
        let taken = [a, b].map(|at| self.take(at));
        let mut moved = Vec::new();
        for (((dir, name), taken), etag_of) in [b, a].into_iter().zip(taken).zip(etags) {
            let Taken { known, ino, below } = taken;
            let forgotten = known == Known::Absent;
            let (known, source) = self.moved(known, ino, etag_of(""), &mut moved);
            let source = if forgotten { Source::Doubted } else { source };
            self.put_linked(dir, name, known, When::now(source), ino);
            for (key, known) in below {
                self.put_dir(&format!("{dir}{name}/"), (&key, known), etag_of, &mut moved);
            }
            self.touch(dir);
        }
        moved.retain(|file| file.ino != 0);
        moved
    }

    fn take(&mut self, (dir, name): (&str, &str)) -> Taken {
        let slot = self.dirs.get(dir).and_then(|dir| dir.get(name));
        let (known, ino) = slot.map_or((Known::Absent, 0), |slot| (slot.known.clone(), slot.ino));
        self.edit(dir, |dir| dir.link(name, 0));
        Taken { known, ino, below: self.take_dirs(&format!("{dir}{name}/")) }
    }

    /// Whether a name is on its way, or in a directory that is.
    pub(super) fn is_moving(&self, dir: &str, name: &str) -> bool {
        let is = |at: &str| format!("{dir}{name}") == at.trim_end_matches('/');
        self.moving.iter().any(|at| at.ends_with('/') && dir.starts_with(&**at) || is(at))
    }
}
