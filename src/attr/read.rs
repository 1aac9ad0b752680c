//! The formats of attributes in user metadata that others write.
//!
//! Owns: [`read`], and the list of names that mean something.
//! Invariant: where several say the same thing, s3fs's own counts, then the order below.
//!
//! | program | names and form |
//! | --- | --- |
//! | s3fs | `mode` the whole st_mode, `uid`, `gid`; `mtime`, `atime`, `ctime`: `SEC` or `SEC.NNNNNNNNN`. Numbers as C's base 0 reads them |
//! | s3sync | `permissions`, `owner`, `group` |
//! | GeeseFS | as s3fs, and `rdev`, `--symlink-target` with %-escapes |
//! | rclone | `mtime`: seconds with a fraction |
//! | gsutil | `goog-reserved-posix-mode` octal, `…-uid`, `…-gid`, `goog-reserved-file-mtime`, `…-atime` |
//! | gcsfuse | `gcsfuse_mtime` RFC 3339; `goog-reserved-file-is-symlink`; older `gcsfuse_symlink_target` |
//! | FSx for Lustre, DataSync | `file-permissions` octal, `file-owner`, `file-group`, `file-mtime`, `file-atime`: `NUMBERns`, without unit milliseconds |

use std::time::SystemTime;

use percent_encoding::percent_decode_str;

use super::{Attributes, Kind, PERMISSIONS, from_epoch, xattr};

/// In the order in which they count.
pub(super) const NAMES: [&str; 26] = [
    "mode",
    "permissions",
    "goog-reserved-posix-mode",
    "file-permissions",
    "uid",
    "owner",
    "goog-reserved-posix-uid",
    "file-owner",
    "gid",
    "group",
    "goog-reserved-posix-gid",
    "file-group",
    "mtime",
    "goog-reserved-file-mtime",
    "file-mtime",
    "gcsfuse_mtime",
    "atime",
    "goog-reserved-file-atime",
    "file-atime",
    "ctime",
    "rdev",
    "--symlink-target",
    "gcsfuse_symlink_target",
    "goog-reserved-file-is-symlink",
    "xattr",
    "md5chksum",
];

/// What one of the names says.
enum Said {
    Mode(u32),
    Uid(u32),
    Gid(u32),
    Mtime(SystemTime),
    Atime(SystemTime),
    Ctime(SystemTime),
    Rdev(u32),
    Target(String),
    Symlink,
    /// Another program's business.
    Nothing,
}

pub(super) fn read<'a>(
    metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
    mut junk: impl FnMut(&str, &str),
) -> Attributes {
    let mut out = Attributes::default();
    let mut said: Vec<(usize, Said)> = Vec::new();
    for (name, value) in metadata {
        let Some(place) = NAMES.iter().position(|known| *known == name) else {
            out.xattrs |= xattr::is_shown(name);
            continue;
        };
        match meaning(name, value) {
            Some(meaning) => said.push((place, meaning)),
            None => junk(name, value),
        }
    }
    // What counts most comes last.
    said.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
    for (_, meaning) in said {
        out.take(meaning);
    }
    out
}

impl Attributes {
    fn take(&mut self, said: Said) {
        match said {
            Said::Mode(mode) => {
                self.perm = Some(mode & PERMISSIONS);
                self.kind = Kind::of_mode(mode).or(self.kind);
            }
            Said::Uid(uid) => self.uid = Some(uid),
            Said::Gid(gid) => self.gid = Some(gid),
            Said::Mtime(time) => self.mtime = Some(time),
            Said::Atime(time) => self.atime = Some(time),
            Said::Ctime(time) => self.ctime = Some(time),
            Said::Rdev(rdev) => self.rdev = Some(rdev),
            Said::Target(target) => (self.kind, self.target) = (Some(Kind::Symlink), Some(target)),
            Said::Symlink => self.kind = Some(Kind::Symlink),
            Said::Nothing => {}
        }
    }
}

fn meaning(name: &str, value: &str) -> Option<Said> {
    Some(match name {
        "mode" | "permissions" => Said::Mode(mode(base_0(value)?)?),
        "goog-reserved-posix-mode" | "file-permissions" => Said::Mode(mode(octal(value)?)?),
        "uid" | "owner" | "goog-reserved-posix-uid" | "file-owner" => Said::Uid(base_0(value)?),
        "gid" | "group" | "goog-reserved-posix-gid" | "file-group" => Said::Gid(base_0(value)?),
        "mtime" | "goog-reserved-file-mtime" => Said::Mtime(seconds(value)?),
        "atime" | "goog-reserved-file-atime" => Said::Atime(seconds(value)?),
        "ctime" => Said::Ctime(seconds(value)?),
        "file-mtime" => Said::Mtime(nanoseconds(value)?),
        "file-atime" => Said::Atime(nanoseconds(value)?),
        "gcsfuse_mtime" => Said::Mtime(rfc_3339(value)?),
        "rdev" => Said::Rdev(base_0(value)?),
        "--symlink-target" => Said::Target(target(&percent_decode_str(value).decode_utf8().ok()?)?),
        "gcsfuse_symlink_target" => Said::Target(target(value)?),
        "goog-reserved-file-is-symlink" if value == "true" => Said::Symlink,
        _ => Said::Nothing,
    })
}

/// As `strtol` reads it with base 0: `0x1F`, `017`, `15`.
fn base_0(text: &str) -> Option<u32> {
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    match lower.strip_prefix("0x") {
        Some(digits) => radix(digits, 16),
        None if lower.starts_with('0') => radix(&lower, 8),
        None => radix(&lower, 10),
    }
}

fn octal(text: &str) -> Option<u32> {
    radix(text.trim(), 8)
}

fn radix(digits: &str, radix: u32) -> Option<u32> {
    let plain = digits.chars().all(|c| c.is_digit(radix));
    u32::from_str_radix(digits, radix).ok().filter(|_| plain)
}

fn mode(bits: u32) -> Option<u32> {
    let has_no_type = bits & libc::S_IFMT == 0;
    (bits <= (libc::S_IFMT | PERMISSIONS) && (has_no_type || Kind::of_mode(bits).is_some())).then_some(bits)
}

/// `SEC` or `SEC.FRACTION`. Of a time before the epoch the fraction counts forward, as s3fs writes it.
fn seconds(text: &str) -> Option<SystemTime> {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    from_epoch(integer(whole)?, nanos.parse().ok()?)
}

fn nanoseconds(text: &str) -> Option<SystemTime> {
    let (number, a_second) = match text.trim().strip_suffix("ns") {
        Some(number) => (number, 1_000_000_000),
        None => (text.trim(), 1_000),
    };
    let number = integer(number)?;
    let nanos = number.rem_euclid(a_second) * (1_000_000_000 / a_second);
    from_epoch(number.div_euclid(a_second), u32::try_from(nanos).ok()?)
}

/// Without a plus, which `parse` would take.
fn integer(text: &str) -> Option<i64> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

fn rfc_3339(text: &str) -> Option<SystemTime> {
    use time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(text.trim(), &Rfc3339).ok().map(SystemTime::from)
}

/// A path that the kernel can follow.
fn target(text: &str) -> Option<String> {
    let possible = (1..libc::PATH_MAX as usize).contains(&text.len()) && !text.contains('\0');
    possible.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(metadata: &[(&str, &str)]) -> Attributes {
        Attributes::read(metadata.iter().copied(), |name, value| panic!("junk: {name}: {value}"))
    }

    fn at(seconds: i64, nanos: u32) -> Option<SystemTime> {
        from_epoch(seconds, nanos)
    }

    #[test]
    fn each_programs_format_is_read() {
        let s3fs = read(&[
            ("mode", "33188"),
            ("uid", "1000"),
            ("gid", "0"),
            ("mtime", "1700000000.000000005"),
            ("ctime", "7"),
        ]);
        assert_eq!((s3fs.kind, s3fs.perm), (Some(Kind::File), Some(0o644)));
        assert_eq!((s3fs.uid, s3fs.gid), (Some(1000), Some(0)));
        assert_eq!((s3fs.mtime, s3fs.ctime), (at(1_700_000_000, 5), at(7, 0)));
        let s3sync = read(&[("permissions", "0755"), ("owner", "5"), ("group", "6")]);
        assert_eq!((s3sync.perm, s3sync.uid, s3sync.gid), (Some(0o755), Some(5), Some(6)));
        let gsutil = read(&[
            ("goog-reserved-posix-mode", "640"),
            ("goog-reserved-posix-uid", "7"),
            ("goog-reserved-posix-gid", "8"),
            ("goog-reserved-file-mtime", "1700000001"),
        ]);
        assert_eq!((gsutil.kind, gsutil.perm), (None, Some(0o640)));
        assert_eq!((gsutil.uid, gsutil.gid, gsutil.mtime), (Some(7), Some(8), at(1_700_000_001, 0)));
        let geesefs = read(&[("mode", "8612"), ("rdev", "259"), ("--symlink-target", "a%20b%25")]);
        assert_eq!((geesefs.kind, geesefs.rdev), (Some(Kind::CharDevice), Some(259)));
        assert_eq!(geesefs.target.as_deref(), Some("a b%"));
        assert_eq!(read(&[("--symlink-target", "x")]).kind, Some(Kind::Symlink));
        assert_eq!(read(&[("mtime", "1700000000.5")]).mtime, at(1_700_000_000, 500_000_000), "rclone");
        let gcsfuse = read(&[
            ("gcsfuse_mtime", "2023-11-14T22:13:20.000000009Z"),
            ("goog-reserved-file-is-symlink", "true"),
        ]);
        assert_eq!((gcsfuse.mtime, gcsfuse.kind), (at(1_700_000_000, 9), Some(Kind::Symlink)));
        assert_eq!(read(&[("gcsfuse_symlink_target", "../x")]).target.as_deref(), Some("../x"));
        let datasync = read(&[
            ("file-permissions", "0100664"),
            ("file-owner", "9"),
            ("file-group", "10"),
            ("file-mtime", "1700000000000000007ns"),
            ("file-atime", "1700000000123"),
        ]);
        assert_eq!((datasync.kind, datasync.perm), (Some(Kind::File), Some(0o664)));
        assert_eq!((datasync.uid, datasync.gid), (Some(9), Some(10)));
        assert_eq!((datasync.mtime, datasync.atime), (at(1_700_000_000, 7), at(1_700_000_000, 123_000_000)));
    }

    #[test]
    fn s3fss_own_counts_before_others() {
        let both = [("file-mtime", "1000"), ("mtime", "2"), ("file-permissions", "0777"), ("mode", "256")];
        let got = read(&both);
        assert_eq!((got.mtime, got.perm), (at(2, 0), Some(0o400)));
        let odd = Attributes::read([("mode", "junk"), ("file-permissions", "0777")], |_, _| {});
        assert_eq!(odd.perm, Some(0o777), "junk hides nothing");
    }

    #[test]
    fn junk_is_told_and_says_nothing() {
        for (name, value) in [
            ("mode", ""),
            ("mode", "-1"),
            ("mode", "+420"),
            ("mode", "099"),
            ("mode", "4294967296"),
            ("mode", "65536"),
            ("mode", "rw-r--r--"),
            ("goog-reserved-posix-mode", "8"),
            ("uid", "root"),
            ("mtime", "now"),
            ("mtime", "1.x"),
            ("mtime", "9223372036854775807"),
            ("mtime", "+1"),
            ("file-mtime", "5s"),
            ("gcsfuse_mtime", "yesterday"),
            ("--symlink-target", ""),
            ("--symlink-target", "%ff"),
            ("gcsfuse_symlink_target", "a\0b"),
        ] {
            let mut junk = Vec::new();
            let got = Attributes::read([(name, value)], |name, _| junk.push(name.to_owned()));
            assert_eq!((got, junk), (Attributes::default(), vec![name.to_owned()]), "{name}: {value:?}");
        }
    }

    #[test]
    fn what_is_anybody_elses_is_an_extended_attribute() {
        assert!(read(&[("colour", "blue")]).xattrs);
        assert!(!read(&[("mtime", "1"), ("md5chksum", "x"), ("xattr", "{}")]).xattrs);
    }
}
