//! Object keys and path names: what a name may be, which keys no path can name, inode numbers.
//!
//! Owns: the rules of docs/SEMANTICS.md, "Names". Pure functions.
//! Invariants: a directory's key is empty (the bucket's root) or ends in `/`; a name accepted here
//! leads back to exactly the key it came from.
//! Must never know: S3 requests, inode tables.

pub mod past;

use sha2::{Digest, Sha256};

use crate::config::KEY_BYTES_MAX;
use crate::error::Error;

/// Longest name the kernel and POSIX programs take, in bytes (`NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// The root's inode number (`FUSE_ROOT_ID`).
pub const ROOT_INO: u64 = 1;

/// The key of file `name` in the directory with key `dir`.
///
/// Errors: [`Error::InvalidName`] for what no S3 key holds, [`Error::NameTooLong`].
pub fn file_key(dir: &str, name: &[u8]) -> Result<String, Error> {
    let name = check_name(name)?;
    if dir.len() + name.len() > KEY_BYTES_MAX {
        return Err(Error::NameTooLong);
    }
    Ok(format!("{dir}{name}"))
}

/// The key of directory `name` in the directory with key `dir`: with its final `/`.
pub fn dir_key(dir: &str, name: &[u8]) -> Result<String, Error> {
    let mut key = file_key(dir, name)?;
    if key.len() == KEY_BYTES_MAX {
        return Err(Error::NameTooLong);
    }
    key.push('/');
    Ok(key)
}

/// The key of the directory that holds the one with key `dir`, and its name in there; both empty for the
/// bucket's root.
pub fn split_dir(dir: &str) -> (&str, &str) {
    let path = dir.strip_suffix('/').unwrap_or(dir);
    let name = path.rsplit('/').next().unwrap_or(path);
    path.split_at(path.len() - name.len())
}

/// `name` as text, if it can be one segment of a key.
pub fn check_name(name: &[u8]) -> Result<&str, Error> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." {
        return Err(Error::InvalidName("empty, `.` or `..`"));
    }
    if name.iter().any(|&b| b == b'/' || b == 0) {
        return Err(Error::InvalidName("`/` or NUL within it"));
    }
    std::str::from_utf8(name).map_err(|_| Error::InvalidName("S3 keys are UTF-8"))
}

/// The name that `key` (a listed key, or a common prefix without its final `/`) has in the directory
/// with key `dir`; none if no path can name it.
pub fn visible_name<'k>(dir: &str, key: &'k str) -> Option<&'k str> {
    let name = key.strip_prefix(dir)?;
    check_name(name.as_bytes()).ok()
}

/// By the name's extension; none: S3's own default.
pub fn content_type_of(key: &str) -> Option<String> {
    mime_guess::from_path(key).first_raw().map(str::to_owned)
}

/// A stable number for a key: the same after a remount. Directories are hashed with their final `/`,
/// so a file and a directory of one name differ. Never 0 or [`ROOT_INO`].
pub fn inode_number(bucket: &str, key: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(bucket.as_bytes());
    hash.update(b"/");
    hash.update(key.as_bytes());
    let digest = hash.finalize();
    let number = digest.iter().take(8).fold(0u64, |n, &b| n << 8 | u64::from(b));
    number.max(ROOT_INO + 1)
}

/// Identifies one version of one object in caches: a digest of key and ETag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionId(u128);

impl VersionId {
    pub fn new(key: &str, etag: &str) -> VersionId {
        let mut hash = Sha256::new();
        hash.update((key.len() as u64).to_be_bytes());
        hash.update(key.as_bytes());
        hash.update(etag.as_bytes());
        let digest = hash.finalize();
        VersionId(digest.iter().take(16).fold(0u128, |n, &b| n << 8 | u128::from(b)))
    }

    pub fn to_be_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_no_key_holds_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", b"\xff\xfe"] {
            assert!(matches!(check_name(bad), Err(Error::InvalidName(_))), "{bad:?}");
        }
        assert!(matches!(check_name(&[b'a'; 256]), Err(Error::NameTooLong)));
        assert!(check_name(&[b'a'; 255]).is_ok());
    }

    #[test]
    fn keys_end_at_1024_bytes() {
        let dir = format!("{}/", "d".repeat(899));
        assert_eq!(file_key(&dir, &[b'f'; 124]).unwrap().len(), 1024);
        assert!(matches!(file_key(&dir, &[b'f'; 125]), Err(Error::NameTooLong)));
        assert!(matches!(dir_key(&dir, &[b'f'; 124]), Err(Error::NameTooLong)));
        assert_eq!(dir_key(&dir, &[b'f'; 123]).unwrap().len(), 1024);
    }

    #[test]
    fn a_directorys_key_is_split_at_its_name() {
        for (key, above, name) in [("", "", ""), ("a/", "", "a"), ("a/b/", "a/", "b"), ("a//", "a/", "")] {
            assert_eq!(split_dir(key), (above, name), "{key:?}");
        }
    }

    #[test]
    fn keys_no_path_can_name_are_hidden() {
        for hidden in ["d/", "d/.", "d/..", "d/a\0"] {
            assert_eq!(visible_name("d/", hidden), None, "{hidden:?}");
        }
        assert_eq!(visible_name("d/", &format!("d/{}", "x".repeat(256))), None);
        assert_eq!(visible_name("d/", "d/a b+%\u{1}ü"), Some("a b+%\u{1}ü"));
    }

    #[test]
    fn inode_numbers_are_what_they_were_in_the_first_release() {
        assert_eq!(inode_number("bucket", "a"), inode_number("bucket", "a"));
        assert_ne!(inode_number("bucket", "a"), inode_number("bucket", "a/"));
        assert_eq!(inode_number("bucket", "dir/file"), 0x7f07_a020_244b_ff23);
    }

    proptest! {
        #[test]
        fn a_name_leads_to_its_key_and_back(name in "[^/\0]{1,60}") {
            prop_assume!(name != "." && name != ".." && name.len() <= NAME_BYTES_MAX);
            let key = file_key("some/dir/", name.as_bytes()).unwrap();
            prop_assert_eq!(visible_name("some/dir/", &key), Some(name.as_str()));
        }
    }
}
