//! Names whose removal was acknowledged and is not in S3 yet.
//!
//! Owns: [`Leaving`].
//! Invariant: whatever S3 says of such a name is from before its removal, so no answer shows it; what is made here in
//! its place is shown.
//! Must never know: how removals are sent; who sends them bounds how many there are.

use std::collections::HashSet;

#[derive(Default)]
pub(super) struct Leaving {
    names: HashSet<(u64, Box<str>)>,
}

impl Leaving {
    pub(super) fn insert(&mut self, parent: u64, name: &str) {
        self.names.insert((parent, name.into()));
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, parent: u64, name: &str) -> bool {
        self.names.remove(&(parent, name.into()))
    }

    pub(super) fn contains(&self, parent: u64, name: &str) -> bool {
        !self.names.is_empty() && self.names.contains(&(parent, name.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use crate::key::ROOT_INO;
    use crate::namespace::inode::{Source, Table};
    use crate::namespace::{FileInfo, Node};

    fn table() -> Table {
        Table::new("bucket", "top/", Duration::from_secs(60))
    }

    fn file(size: u64) -> Node {
        Node::File(FileInfo { size, ..FileInfo::default() })
    }

    #[test]
    fn a_name_that_is_leaving_is_hidden_from_every_answer() {
        let mut table = table();
        let ino = table.intern(ROOT_INO, "f", &file(1));
        table.remember(ino);
        table.leave(ROOT_INO, "f");
        let later = || Instant::now() + Duration::from_millis(1);
        assert_eq!(table.hear(ROOT_INO, "f", Some(file(1)), later(), Source::Listed), None);
        assert_eq!((table.fresh_name(ROOT_INO, "f"), table.known(ROOT_INO, "f")), (Some(None), Some(None)));
        let asked = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        table.left(ROOT_INO, "f");
        assert_eq!(table.hear(ROOT_INO, "f", Some(file(1)), asked, Source::Listed), None, "asked before");
        assert_eq!(table.hear(ROOT_INO, "f", Some(file(2)), later(), Source::Listed), Some(file(2)));
    }

    #[test]
    fn a_name_that_could_not_leave_is_back_and_asked_about_anew() {
        let mut table = table();
        table.leave(ROOT_INO, "f");
        table.restored(ROOT_INO, "f", file(1));
        assert_eq!(
            (table.fresh_name(ROOT_INO, "f"), table.known(ROOT_INO, "f")),
            (None, Some(Some(file(1))))
        );
        // Made anew meanwhile, it is what it was made.
        table.leave(ROOT_INO, "g");
        let made = table.intern(ROOT_INO, "g", &file(7));
        table.restored(ROOT_INO, "g", file(1));
        assert_eq!(table.child(ROOT_INO, "g"), Some(made));
        table.leave(ROOT_INO, "h");
        let made = table.intern(ROOT_INO, "h", &file(8));
        table.left(ROOT_INO, "h");
        assert_eq!(table.child(ROOT_INO, "h"), Some(made));
    }
}
