//! Versions as names: how a version of an object, and the directories it is shown in, are written as keys.
//!
//! Owns: [`Past`], the forms of such keys, and [`VersionName`], the name of one version. Pure functions.
//! Invariants: they contain a NUL, so that no path and no key that a path leads to is ever taken for one; a version's
//! name leads back to exactly its id.
//! Must never know: S3 requests, inode tables.
//!
//! `d/.versions/f/2026-10-01T12:00:00Z-ID` on a mount is the version ID of the object `d/f`. Above the S3 client that
//! is the key `d/\0versions/f/2026-10-01T12:00:00Z-ID`, so that a table of names and a cache of bytes need not know what
//! a version is.

use std::time::SystemTime;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{NAME_BYTES_MAX, check_name};

/// The directory of versions in each directory, as programs name it.
pub const DIR_NAME: &str = ".versions";
/// What its key goes on with after that of the directory it is in, in two steps.
pub const MARK: (&str, &str) = ("\0", "versions");
const MARKED: &str = "\0versions/";
/// Stands for the ETag of a delete marker.
pub const DELETED_ETAG: &str = "\"deleted\"";

/// Of [`moment`].
const MOMENT_BYTES: usize = 20;
const DELETED: &str = ".deleted";
/// What a version id cannot hold as a name.
const UNFIT: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

/// What such a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// `DIR/.versions/`: the names within DIR that have versions. DIR's key.
    Names(String),
    /// `DIR/.versions/NAME/`: the versions of an object. Its key.
    Versions(String),
    /// A version of an object. Its key.
    Version(String, VersionName),
    /// Nothing that could be there.
    Nothing,
}

/// What the name of a version tells beside its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionName {
    pub version_id: String,
    /// A delete marker's.
    pub deleted: bool,
}

/// Whether a key is of a version, or of a directory that shows some.
pub fn is_past(key: &str) -> bool {
    key.contains(MARKED)
}

/// The key of the directory of versions in the directory with key `dir`.
pub fn names_key(dir: &str) -> String {
    format!("{dir}{MARKED}")
}

/// Whether what a table of names has in the directory with key `dir` is a version, or a directory of versions.
pub fn holds_past(dir: &str) -> bool {
    dir.ends_with(MARK.0) || is_past(dir)
}

/// As a person reads it.
pub fn shown(key: &str) -> String {
    key.replace(MARKED, ".versions/")
}

/// None: an ordinary key.
pub fn parse(key: &str) -> Option<Past> {
    let (dir, below) = key.split_once(MARKED)?;
    let object = |name| format!("{dir}{name}");
    Some(match below.split_once('/') {
        None if below.is_empty() => Past::Names(dir.into()),
        Some((name, "")) => Past::Versions(object(name)),
        Some((name, version)) => {
            VersionName::read(version).map_or(Past::Nothing, |version| Past::Version(object(name), version))
        }
        None => Past::Nothing,
    })
}

/// The name of a version; none for an id that is too long for one.
pub fn version_name(modified: SystemTime, version_id: &str, deleted: bool) -> Option<String> {
    let mut id = utf8_percent_encode(version_id, UNFIT).to_string();
    if let Some(before) = id.strip_suffix(DELETED) {
        id = format!("{before}%2E{}", &DELETED[1..]);
    }
    let name = format!("{}-{id}{}", moment(modified), if deleted { DELETED } else { "" });
    (name.len() <= NAME_BYTES_MAX).then_some(name)
}

/// `2026-10-01T12:00:00Z`.
pub fn moment(time: SystemTime) -> String {
    let at = OffsetDateTime::from(time);
    let (year, month, day) = at.to_calendar_date();
    let (month, (hour, minute, second)) = (u8::from(month), at.to_hms());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

impl VersionName {
    /// Which time it is is for people: the id says which version it is. But a name that tells none is no version's.
    fn read(name: &str) -> Option<VersionName> {
        check_name(name.as_bytes()).ok()?;
        let (moment, id) = name.split_at_checked(MOMENT_BYTES)?;
        OffsetDateTime::parse(moment, &Rfc3339).ok()?;
        let id = id.strip_prefix('-')?;
        let (id, deleted) = id.strip_suffix(DELETED).map_or((id, false), |id| (id, true));
        let version_id = percent_decode_str(id).decode_utf8().ok().filter(|id| !id.is_empty())?;
        Some(VersionName { version_id: version_id.into(), deleted })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn keys_of_versions_say_what_they_are_of() {
        assert_eq!(parse("d/f"), None);
        assert_eq!(parse(&names_key("d/")), Some(Past::Names("d/".into())));
        assert_eq!(parse("\0versions/f/"), Some(Past::Versions("f".into())));
        let version = VersionName { version_id: "null".into(), deleted: true };
        assert_eq!(
            parse("d/\0versions/f/2001-09-09T01:46:40Z-null.deleted"),
            Some(Past::Version("d/f".into(), version))
        );
        assert_eq!(parse("\0versions/f"), Some(Past::Nothing));
        let names =
            ["x", "1Z-x", ".2001-09-09T01:46:40Z-x", "2001-09-09T01:46:40Z-", "2001-13-09T01:46:40Z-x"];
        for name in names.into_iter().chain(["2001-09-09T01:46:40Z-x/"]) {
            assert_eq!(parse(&format!("\0versions/f/{name}")), Some(Past::Nothing), "{name:?}");
        }
        assert_eq!(parse("a\0b"), None, "an odd key, but one of S3's");
        assert_eq!(shown("d/\0versions/f/x"), "d/.versions/f/x");
    }

    #[test]
    fn names_begin_with_the_time_and_sort_by_it() {
        let name = version_name(at(1_000_000_000), "3/x%", false).unwrap();
        assert_eq!(name, "2001-09-09T01:46:40Z-3%2Fx%25");
        assert!(name < version_name(at(1_000_000_001), "0", true).unwrap());
        assert_eq!(version_name(at(0), &"i".repeat(240), false), None);
    }

    proptest! {
        #[test]
        fn a_name_leads_back_to_its_id(id in "[ -~ü\0]{1,40}(\\.deleted)?", deleted: bool) {
            let name = version_name(at(1), &id, deleted).unwrap();
            prop_assert_eq!(VersionName::read(&name), Some(VersionName { version_id: id, deleted }));
        }
    }
}
