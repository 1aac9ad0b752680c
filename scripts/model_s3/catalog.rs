//! Synthetic objects: which keys there are, in order, without a list of them.
//!
//! Owns: the specifications of the command line ([`Tree`]), and [`Catalog`], which finds keys by binary
//! search over a function from number to name.
//! Invariant: names ascend with their number, so that rank and name are each other's inverse.
//! Must never know: what was written since, pages of listings.

use std::str::FromStr;

use crate::content::mix;

/// The names within a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// `f000`, `f001`, …
    Numbers,
    /// 16 hex digits, spread evenly, as programs make them that name files by their hash.
    Hex,
}

/// `PREFIX:files=N[,dirs=N][,size=SIZE][,names=numbers|hex]`, or one object: `KEY=SIZE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    prefix: String,
    /// 0: the files stand in the prefix itself.
    dirs: u64,
    files: u64,
    size: u64,
    names: Names,
}

impl FromStr for Tree {
    type Err = String;

    fn from_str(text: &str) -> Result<Tree, String> {
        let (prefix, rest) = text.split_once(':').ok_or("expected PREFIX:files=N,…")?;
        let mut tree = Tree { prefix: prefix.into(), dirs: 0, files: 0, size: 0, names: Names::Numbers };
        for part in rest.split(',') {
            let (name, value) =
                part.split_once('=').ok_or_else(|| format!("{part:?}: expected NAME=VALUE"))?;
            let number = || value.parse::<u64>().map_err(|e| format!("{part:?}: {e}"));
            match (name, value) {
                ("dirs", _) => tree.dirs = number()?,
                ("files", _) => tree.files = number()?,
                ("size", _) => tree.size = size(value)?,
                ("names", "numbers") => tree.names = Names::Numbers,
                ("names", "hex") => tree.names = Names::Hex,
                _ => return Err(format!("{part:?}: expected dirs=, files=, size= or names=numbers|hex")),
            }
        }
        if prefix.is_empty() || tree.files == 0 {
            return Err("a tree needs a prefix and files=N, N at least 1".into());
        }
        Ok(tree)
    }
}

fn size(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>().map(|s| s.0).map_err(|e| format!("{text:?}: {e}"))
}

impl Tree {
    /// `KEY=SIZE`.
    pub fn object(text: &str) -> Result<Tree, String> {
        let (key, bytes) = text.rsplit_once('=').ok_or("expected KEY=SIZE")?;
        Ok(Tree { prefix: key.into(), dirs: 0, files: 0, size: size(bytes)?, names: Names::Numbers })
    }

    pub fn len(&self) -> u64 {
        self.files.max(1) * self.dirs.max(1)
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// The key of that number, below `len()`.
    pub fn key(&self, number: u64) -> String {
        if self.files == 0 {
            return self.prefix.clone();
        }
        let file = name('f', self.names, number % self.files, self.files);
        match self.dirs {
            0 => format!("{}/{file}", self.prefix),
            dirs => format!("{}/{}/{file}", self.prefix, name('d', self.names, number / self.files, dirs)),
        }
    }

    /// How many keys stand before `bound`.
    pub fn rank(&self, bound: &str) -> u64 {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle).as_str() < bound {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Ascending in `number`, which is below `count`.
fn name(letter: char, names: Names, number: u64, count: u64) -> String {
    match names {
        Names::Numbers => {
            let width = (count - 1).checked_ilog10().unwrap_or(0) as usize + 1;
            format!("{letter}{number:0width$}")
        }
        Names::Hex => {
            // One of equal steps, and a place within it.
            let step = u64::MAX / count;
            format!("{:016x}", number * step + mix(number) % step)
        }
    }
}

/// All synthetic objects. Where two trees hold one key, the first counts.
#[derive(Debug, Default)]
pub struct Catalog {
    trees: Vec<Tree>,
}

impl Catalog {
    pub fn new(trees: Vec<Tree>) -> Catalog {
        Catalog { trees }
    }

    /// The size of the object.
    pub fn find(&self, key: &str) -> Option<u64> {
        let holds = |tree: &&Tree| {
            let rank = tree.rank(key);
            rank < tree.len() && tree.key(rank) == key
        };
        self.trees.iter().find(holds).map(Tree::size)
    }

    /// The keys from `bound` on.
    pub fn cursor(&self, bound: &str) -> Cursor<'_> {
        let heads = self.trees.iter().map(|tree| Head::at(tree, tree.rank(bound)));
        Cursor { heads: heads.collect() }
    }
}

/// The next key of one tree.
#[derive(Debug)]
struct Head<'a> {
    tree: &'a Tree,
    number: u64,
    key: Option<String>,
}

impl<'a> Head<'a> {
    fn at(tree: &'a Tree, number: u64) -> Head<'a> {
        let key = (number < tree.len()).then(|| tree.key(number));
        Head { tree, number, key }
    }
}

/// Keys in order.
#[derive(Debug)]
pub struct Cursor<'a> {
    heads: Vec<Head<'a>>,
}

impl Cursor<'_> {
    fn first(&self) -> Option<&Head<'_>> {
        // min_by_key answers the first of equals.
        self.heads.iter().filter(|head| head.key.is_some()).min_by(|a, b| a.key.cmp(&b.key))
    }

    /// The next key and its size, not taken.
    pub fn peek(&self) -> Option<(&str, u64)> {
        let head = self.first()?;
        Some((head.key.as_deref()?, head.tree.size()))
    }

    /// Takes the next key, from all trees that hold it.
    pub fn advance(&mut self) -> Option<(String, u64)> {
        let (key, size) = self.peek()?;
        let key = key.to_string();
        for head in self.heads.iter_mut().filter(|head| head.key.as_deref() == Some(&key)) {
            *head = Head::at(head.tree, head.number + 1);
        }
        Some((key, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(spec: &str) -> Tree {
        spec.parse().unwrap()
    }

    #[test]
    fn specifications() {
        let walk = tree("walk:dirs=100,files=20,size=4KiB");
        assert_eq!((walk.len(), walk.size()), (2000, 4096));
        assert_eq!(walk.key(0), "walk/d00/f00");
        assert_eq!(walk.key(1999), "walk/d99/f19");
        assert_eq!(tree("a/b:files=1000000").key(999_999), "a/b/f999999");
        let one = Tree::object("big=1GiB").unwrap();
        assert_eq!((one.key(0).as_str(), one.len(), one.size()), ("big", 1, 1 << 30));
        for bad in ["x", "x:", "x:files=0", ":files=1", "x:files=1,size=many", "x:files=1,names=odd"] {
            assert!(bad.parse::<Tree>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_million_names_are_found_at_once() {
        for spec in ["h:files=1000000,size=1", "h:files=1000000,size=1,names=hex"] {
            let catalog = Catalog::new(vec![tree(spec)]);
            for number in [0, 1, 499_999, 999_999] {
                let key = catalog.trees[0].key(number);
                assert_eq!(catalog.find(&key), Some(1));
                assert_eq!(catalog.trees[0].rank(&key), number);
            }
            assert_eq!(catalog.find("h/x"), None);
        }
    }

    proptest! {
        #[test]
        fn names_ascend_and_ranks_invert(dirs in 0u64..13, files in 1u64..120, hex: bool, bound in "[a-h/0-9f]{0,6}") {
            let names = if hex { "hex" } else { "numbers" };
            let tree = tree(&format!("d:dirs={dirs},files={files},names={names}"));
            let keys: Vec<String> = (0..tree.len()).map(|n| tree.key(n)).collect();
            prop_assert!(keys.is_sorted_by(|a, b| a < b));
            for bound in keys.iter().chain([&bound, &format!("d/{bound}")]) {
                let naive = keys.iter().filter(|key| *key < bound).count() as u64;
                prop_assert_eq!(tree.rank(bound), naive);
            }
        }
    }
}
