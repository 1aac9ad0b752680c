//! POSIX attributes as programs keep them in an object's user metadata.
//!
//! Owns: [`Attributes`], [`Kind`], and which metadata mean what: `read.rs` knows everybody's formats; what is written
//! is s3fs's. Also [`xattr`], how extended attributes are named there.
//! Invariants: what is written is read back the same; metadata that make no sense are as if they were not there, and
//! are told of.
//! Must never know: requests, inodes, what an object without attributes looks like.

mod read;
pub mod xattr;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl Kind {
    /// The type bits of `st_mode`.
    pub fn bits(self) -> u32 {
        match self {
            Kind::File => libc::S_IFREG,
            Kind::Directory => libc::S_IFDIR,
            Kind::Symlink => libc::S_IFLNK,
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
            Kind::CharDevice => libc::S_IFCHR,
            Kind::BlockDevice => libc::S_IFBLK,
        }
    }

    /// None: the mode has no type bits, or none that there are.
    pub fn of_mode(mode: u32) -> Option<Kind> {
        use Kind::*;
        let all = [File, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice];
        all.into_iter().find(|kind| kind.bits() == mode & libc::S_IFMT)
    }
}

/// The bits of a mode that are no type.
pub const PERMISSIONS: u32 = 0o7777;

/// What an object's metadata say of it; what they do not say is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// None: a file, or a directory where the key ends in `/`.
    pub kind: Option<Kind>,
    /// Permission bits, at most [`PERMISSIONS`].
    pub perm: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<SystemTime>,
    pub atime: Option<SystemTime>,
    pub ctime: Option<SystemTime>,
    /// Of a device.
    pub rdev: Option<u32>,
    /// Where a symbolic link leads, if the metadata say it; else the object's bytes do.
    pub target: Option<String>,
    /// There are metadata that are extended attributes.
    pub xattrs: bool,
}

impl Attributes {
    /// Calls `junk` with the names of metadata that make no sense.
    pub fn read<'a>(
        metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
        junk: impl FnMut(&str, &str),
    ) -> Attributes {
        read::read(metadata, junk)
    }

    /// Puts what is said here into an object's metadata, as s3fs does. `default`: the type bits where no kind is said.
    pub fn write(&self, default: Kind, metadata: &mut Vec<(String, String)>) {
        let mode = self.perm.map(|perm| self.kind.unwrap_or(default).bits() | perm);
        let numbers = [("mode", mode), ("uid", self.uid), ("gid", self.gid), ("rdev", self.rdev)];
        let times = [("mtime", self.mtime), ("atime", self.atime), ("ctime", self.ctime)];
        let numbers = numbers.into_iter().filter_map(|(name, n)| Some((name, n?.to_string())));
        let times = times.into_iter().filter_map(|(name, t)| Some((name, time_text(t?))));
        for (name, value) in numbers.chain(times) {
            set(metadata, name, value);
        }
    }

    /// Bytes on the heap, as near as can be told.
    pub fn heap_bytes(&self) -> usize {
        size_of::<Attributes>() + self.target.as_ref().map_or(0, String::len)
    }
}

/// Sets one entry of the metadata.
pub fn set(metadata: &mut Vec<(String, String)>, name: &str, value: String) {
    match metadata.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => *known = value,
        None => metadata.push((name.into(), value)),
    }
}

/// Seconds since the epoch, rounded down, and the nanoseconds after them.
pub fn since_epoch(time: SystemTime) -> (i64, u32) {
    let seconds = |since: Duration| i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (seconds(since), since.subsec_nanos()),
        Err(e) if e.duration().subsec_nanos() == 0 => (-seconds(e.duration()), 0),
        Err(e) => (-seconds(e.duration()) - 1, 1_000_000_000 - e.duration().subsec_nanos()),
    }
}

/// Beyond this, 34,000 years from the epoch, no number is a time.
const SECONDS_MAX: u64 = 1 << 40;

/// None: no time.
pub fn from_epoch(seconds: i64, nanos: u32) -> Option<SystemTime> {
    if seconds.unsigned_abs() > SECONDS_MAX {
        return None;
    }
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 { UNIX_EPOCH.checked_sub(whole)? } else { UNIX_EPOCH.checked_add(whole)? };
    at.checked_add(Duration::from_nanos(nanos.into()))
}

/// s3fs takes the digits after the point for a number of nanoseconds, so there are always nine.
fn time_text(time: SystemTime) -> String {
    let (seconds, nanos) = since_epoch(time);
    format!("{seconds}.{nanos:09}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(metadata: &[(&str, &str)]) -> Attributes {
        Attributes::read(metadata.iter().copied(), |name, value| panic!("{name}: {value}"))
    }

    #[test]
    fn what_is_written_is_s3fss() {
        let at = |nanos| from_epoch(1_700_000_000, nanos);
        let attributes = Attributes {
            perm: Some(0o640),
            uid: Some(1000),
            gid: Some(100),
            mtime: at(5),
            ctime: at(0),
            ..Attributes::default()
        };
        let mut metadata = vec![("mode".to_string(), "1".to_string()), ("other".into(), "kept".into())];
        attributes.write(Kind::File, &mut metadata);
        let told: Vec<(&str, &str)> = metadata.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let expected = [
            ("mode", "33184"),
            ("other", "kept"),
            ("uid", "1000"),
            ("gid", "100"),
            ("mtime", "1700000000.000000005"),
            ("ctime", "1700000000.000000000"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn kinds_are_those_of_the_mode() {
        for kind in [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::Socket] {
            let attributes = Attributes { kind: Some(kind), perm: Some(0o7777), ..Attributes::default() };
            let mut metadata = Vec::new();
            attributes.write(Kind::File, &mut metadata);
            assert_eq!(read(&[("mode", metadata[0].1.as_str())]).kind, Some(kind));
        }
        assert_eq!(Kind::of_mode(0o644), None);
    }

    #[test]
    fn times_before_the_epoch_round_down() {
        let before = UNIX_EPOCH - Duration::from_millis(1_500);
        assert_eq!(since_epoch(before), (-2, 500_000_000));
        assert_eq!(from_epoch(-2, 500_000_000), Some(before));
        assert_eq!(since_epoch(UNIX_EPOCH - Duration::from_secs(3)), (-3, 0));
        assert_eq!(from_epoch(i64::MIN, 0), None);
    }

    fn time() -> impl Strategy<Value = Option<SystemTime>> {
        let point = (-(1i64 << 40)..=1 << 40, 0u32..1_000_000_000);
        proptest::option::of(point.prop_map(|(s, n)| from_epoch(s, n).unwrap()))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            perm in proptest::option::of(0u32..=PERMISSIONS),
            ids in proptest::option::of((any::<u32>(), any::<u32>())),
            mtime in time(), atime in time(), ctime in time(),
            rdev in proptest::option::of(any::<u32>()),
            device in any::<bool>(),
        ) {
            let kind = perm.map(|_| if device { Kind::CharDevice } else { Kind::File });
            let (uid, gid) = (ids.map(|ids| ids.0), ids.map(|ids| ids.1));
            let said = Attributes { kind, perm, uid, gid, mtime, atime, ctime, rdev, ..Attributes::default() };
            let mut metadata = Vec::new();
            said.write(Kind::File, &mut metadata);
            let metadata: Vec<(&str, &str)> = metadata.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            prop_assert_eq!(read(&metadata), said);
        }

        #[test]
        fn no_junk_panics_or_says_anything(name in prop::sample::select(&read::NAMES[..]), value in ".{0,40}|[0-9.:TZ+-]{0,40}") {
            let mut junk = 0;
            let got = Attributes::read([(name, value.as_str())], |_, _| junk += 1);
            prop_assert!(junk == 1 && got == Attributes::default() || junk == 0);
        }
    }
}
