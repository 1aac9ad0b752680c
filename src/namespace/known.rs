//! What is known of one name, small: a table holds millions of these.
//!
//! Owns: [`Slot`] (what stands at a name, since when, from whom, and the inode's number if it has one),
//! [`ETag`] (16 bytes for what is a digest), and the rule which of two answers wins.
//! Invariants: an ETag comes back exactly as it went in; a change made here never gives way to an answer
//! that was asked for before it.
//! Must never know: directories, inodes' lives, S3.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{FileInfo, Kept, Kind, Node, kind_of};
use crate::attr::{Attributes, since_epoch};

/// What has the ETag of an object that was made here, but a `Last-Modified` so much later, another host made anew.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(60);

/// What stands at one name.
pub(super) struct Slot {
    pub known: Known,
    pub when: When,
    /// The inode's number; 0: it has none.
    pub ino: u64,
}

/// A [`Node`], or that there is none.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Known {
    Absent,
    Directory,
    File { size: u64, mtime: SystemTime, etag: ETag, kept: Option<Arc<Kept>> },
}

impl Known {
    pub fn of(node: Option<&Node>) -> Known {
        match node {
            None => Known::Absent,
            Some(Node::Directory) => Known::Directory,
            Some(Node::File(info)) => {
                let kept = info.kept.clone();
                Known::File { size: info.size, mtime: info.mtime, etag: ETag::new(&info.etag), kept }
            }
        }
    }

    pub fn node(&self) -> Option<Node> {
        match self {
            Known::Absent => None,
            Known::Directory => Some(Node::Directory),
            Known::File { size, mtime, etag, kept } => {
                let kept = kept.clone();
                Some(Node::File(FileInfo { size: *size, mtime: *mtime, etag: etag.text(), kept }))
            }
        }
    }

    pub fn kind(&self) -> Option<Kind> {
        match self {
            Known::Absent => None,
            Known::Directory => Some(Kind::Directory),
            Known::File { kept, .. } => Some(kind_of(kept.as_deref())),
        }
    }

    /// Whether S3 has something there, and not this mount alone.
    pub fn in_s3(&self) -> bool {
        match self {
            Known::Absent => false,
            Known::Directory => true,
            Known::File { etag, .. } => !etag.is_empty(),
        }
    }

    /// Bytes beyond the slot's own.
    pub fn heap_bytes(&self) -> usize {
        let Known::File { etag, kept, .. } = self else { return 0 };
        let text = match etag {
            ETag::Other(text) if !text.is_empty() => 16 + text.len(),
            _ => 0,
        };
        text + kept.as_ref().map_or(0, |kept| 32 + kept.attributes.heap_bytes())
    }

    /// What is known of a file, with the attributes that another answer tells of the same object.
    pub fn with_attributes_of(&self, told: &Known) -> Option<Known> {
        let Known::File { size, mtime, etag, .. } = self else { return None };
        let Known::File { kept, .. } = told else { return None };
        let (size, mtime) = (*size, *mtime);
        let known = Known::File { size, mtime, etag: etag.clone(), kept: kept.clone() };
        self.is_same_object(told).then_some(known)
    }

    /// By ETag and `Last-Modified`, of which some answers tell whole seconds.
    fn is_same_object(&self, other: &Known) -> bool {
        let (Known::File { mtime, etag, .. }, Known::File { mtime: others, etag: others_etag, .. }) =
            (self, other)
        else {
            return false;
        };
        etag == others_etag && since_epoch(*mtime).0 == since_epoch(*others).0
    }

    /// Gives what is known of a file to what a later answer told: of the same object the time, which S3 tells in whole
    /// seconds; and its attributes, if the answer does not speak of them. Of another object the kind is the best guess.
    /// `made_by`: when this mount had made the object, where nothing but this table keeps that: the time it shows stays,
    /// though S3 got it in another second. Answers whether anything was given.
    pub fn hand_on(&self, told: &mut Known, made_by: Option<SystemTime>) -> bool {
        let same = self.is_same_object(told);
        let Known::File { mtime, etag, kept, .. } = self else { return false };
        let Known::File { mtime: told_mtime, etag: told_etag, kept: heir, .. } = told else { return false };
        let is_ours = made_by.is_some_and(|by| *told_mtime <= by + CLOCKS_DIFFER_MAX);
        if is_ours && !same && etag == told_etag {
            let shown = Some(*mtime);
            *heir = Kept::new(Attributes { mtime: shown, ctime: shown, ..Attributes::default() });
            return true;
        }
        let finer = same && mtime != told_mtime;
        if finer {
            *told_mtime = *mtime;
        }
        let (Some(kept), None) = (kept, &heir) else { return finer };
        *heir = match kind_of(Some(&**kept)) {
            _ if same && kept.current => Some(kept.clone()),
            Kind::File => None,
            kind => Some(Arc::new(Kept::outdated(kind))),
        };
        finer || heir.is_some()
    }
}

/// When something was learnt (for an answer: when it was asked for), and from whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct When {
    pub at: Instant,
    pub source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Source {
    /// HEAD or a listing of one name.
    Asked,
    /// The listing of a directory.
    Listed,
    /// We changed it ourselves.
    Changed,
    /// What we meant to change, and failed to: never fresh.
    Doubted,
}

impl When {
    pub fn now(source: Source) -> When {
        When { at: Instant::now(), source }
    }

    /// Whether an answer asked for at `asked` may replace what is known.
    pub fn gives_way_to(self, asked: Instant) -> bool {
        if self.source == Source::Changed { asked > self.at } else { asked >= self.at }
    }

    /// Whether it must be kept lest the answer to a question asked for at `oldest` undo it.
    pub fn guards_against(self, oldest: Option<Instant>) -> bool {
        matches!(self.source, Source::Changed | Source::Doubted)
            && oldest.is_some_and(|asked| asked <= self.at)
    }
}

/// An ETag as S3 wrote it. Those that are 32 hex digits within quotes, be it with a number of parts after
/// them, take no heap.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ETag {
    /// `parts`: 0 where none are named.
    Digest {
        digest: [u8; 16],
        parts: u16,
    },
    Other(Box<str>),
}

impl ETag {
    pub fn new(text: &str) -> ETag {
        // Only what is written back the same: `-007` and capitals are not.
        ETag::digest(text).filter(|digest| digest.text() == text).unwrap_or_else(|| ETag::Other(text.into()))
    }

    fn digest(text: &str) -> Option<ETag> {
        let inner = text.strip_prefix('"')?.strip_suffix('"')?;
        let (hex, parts) = match inner.split_once('-') {
            Some((hex, parts)) => (hex, parts.parse().ok()?),
            None => (inner, 0),
        };
        if hex.len() != 32 || !hex.is_ascii() {
            return None;
        }
        let mut digest = [0; 16];
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(ETag::Digest { digest, parts })
    }

    pub fn text(&self) -> String {
        match self {
            ETag::Other(text) => text.to_string(),
            ETag::Digest { digest, parts } => {
                let digits = b"0123456789abcdef";
                let mut out = String::with_capacity(40);
                out.push('"');
                for nibble in digest.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
                    out.push(char::from(digits[usize::from(nibble)]));
                }
                if *parts > 0 {
                    out.push('-');
                    out.push_str(&parts.to_string());
                }
                out.push('"');
                out
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, ETag::Other(text) if text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digests_take_no_heap() {
        let md5 = "\"9bb58f26192e4ba00f01e2e7b136bbd8\"";
        let parts = "\"9bb58f26192e4ba00f01e2e7b136bbd8-10000\"";
        for text in [md5, parts] {
            assert!(matches!(ETag::new(text), ETag::Digest { .. }), "{text}");
        }
        for text in ["", "\"\"", "\"9BB58F26192E4BA00F01E2E7B136BBD8\"", "9bb58f26192e4ba00f01e2e7b136bbd8"] {
            assert!(matches!(ETag::new(text), ETag::Other(_)), "{text}");
        }
        assert!(size_of::<Slot>() <= 88, "{} bytes a name", size_of::<Slot>());
    }

    #[test]
    fn whole_seconds_do_not_undo_a_finer_time_of_the_same_object() {
        let at = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        let of = |nanos, etag| Known::File { size: 1, mtime: at(nanos), etag: ETag::new(etag), kept: None };
        let known = of(5_700_000_000, "\"a\"");
        for (told, then) in [
            (of(5_000_000_000, "\"a\""), known.clone()),
            (of(6_000_000_000, "\"a\""), of(6_000_000_000, "\"a\"")),
            (of(5_000_000_000, "\"b\""), of(5_000_000_000, "\"b\"")),
        ] {
            let mut heir = told.clone();
            assert_eq!(known.hand_on(&mut heir, None), heir != told);
            assert_eq!(heir, then);
        }
    }

    #[test]
    fn what_was_made_here_shows_when_until_it_is_another_object() {
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        let of = |secs, etag| Known::File { size: 1, mtime: at(secs), etag: ETag::new(etag), kept: None };
        let shown = |known: &Known| match known.node() {
            Some(Node::File(info)) => info.attributes().map_or(info.mtime, |said| said.mtime.unwrap()),
            _ => panic!("a file"),
        };
        let mut known = of(5, "\"a\"");
        let made_by = Some(at(6));
        for (made_by, told, then) in [(made_by, 8, 5), (None, 8, 5), (None, 9, 9)] {
            let mut heir = of(told, "\"a\"");
            known.hand_on(&mut heir, made_by);
            assert_eq!(shown(&heir), at(then));
            known = heir;
        }
        for mut another in [of(8, "\"b\""), of(67, "\"a\"")] {
            assert!(!of(5, "\"a\"").hand_on(&mut another, made_by));
            assert!(shown(&another) > at(5));
        }
    }

    proptest! {
        #[test]
        fn an_etag_comes_back_as_it_was(text in "\"[0-9a-fA-F+]{30,33}(-[0-9+]{0,6})?\"|[ -~ü]{0,40}") {
            prop_assert_eq!(ETag::new(&text).text(), text);
        }
    }
}
