//! Names whose removal was acknowledged and is not in S3 yet.
//!
//! Owns: [`Leaving`].
//! Invariant: whatever S3 says of such a name is from before its removal, so no answer shows it; what is made here in
//! its place is shown.
//! Must never know: how removals are sent; who sends them bounds how many there are.

use std::collections::HashSet;

#[derive(Default)]
pub(super) struct Leaving {
    /// Keys of their directories, and names.
    names: HashSet<(Box<str>, Box<str>)>,
}

impl Leaving {
    pub(super) fn insert(&mut self, dir: &str, name: &str) {
        self.names.insert((dir.into(), name.into()));
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, dir: &str, name: &str) -> bool {
        self.names.remove(&(dir.into(), name.into()))
    }

    pub(super) fn contains(&self, dir: &str, name: &str) -> bool {
        !self.names.is_empty() && self.names.contains(&(dir.into(), name.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use crate::namespace::inode::Table;
    use crate::namespace::known::Source;
    use crate::namespace::{FileInfo, Node, Numbers, Room};

    fn table() -> Table {
        Table::new(Numbers::of_one("bucket"), "top/", Duration::from_secs(60), Room::new(64 << 20))
    }

    fn file(size: u64) -> Node {
        Node::File(FileInfo { size, ..FileInfo::default() })
    }

    #[test]
    fn a_name_that_is_leaving_is_hidden_from_every_answer() {
        let mut table = table();
        let ino = table.intern("top/", "f", &file(1));
        table.remember(ino);
        table.leave("top/", "f");
        let later = || Instant::now() + Duration::from_millis(1);
        assert_eq!(table.hear("top/", "f", Some(&file(1)), later(), Source::Listed), None);
        assert_eq!((table.fresh_name("top/", "f"), table.known("top/", "f")), (Some(None), Some(None)));
        let asked = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        table.left("top/", "f");
        assert_eq!(table.hear("top/", "f", Some(&file(1)), asked, Source::Listed), None, "asked before");
        assert_eq!(table.hear("top/", "f", Some(&file(2)), later(), Source::Listed), Some(file(2)));
    }

    #[test]
    fn a_name_that_could_not_leave_is_back_and_asked_about_anew() {
        let mut table = table();
        table.leave("top/", "f");
        table.restored("top/", "f", &file(1));
        assert_eq!((table.fresh_name("top/", "f"), table.known("top/", "f")), (None, Some(Some(file(1)))));
        let entry = table.enter("top/", "f", &file(1)).expect("it is back");
        assert_eq!(entry.ttl, Duration::ZERO, "the kernel asks anew as well");
        // Made anew meanwhile, it is what it was made.
        table.leave("top/", "g");
        let made = table.intern("top/", "g", &file(7));
        assert_eq!(table.known("top/", "g"), Some(Some(file(7))), "and shown at once");
        table.restored("top/", "g", &file(1));
        assert_eq!(table.child_in("top/", "g"), Some(made));
        table.leave("top/", "h");
        let made = table.intern("top/", "h", &file(8));
        table.left("top/", "h");
        assert_eq!(table.child_in("top/", "h"), Some(made));
    }
}
