//! Extended attributes `user.NAME` as user metadata.
//!
//! Owns: how names and values are written in headers. A value carries printable ASCII: what is none of that is a `%` and
//! two hexadecimal digits. A name has no capitals and, on some servers, nothing but letters, digits, `.`, `_` and `-`:
//! there it is `--` and the digits.
//! Invariants: each attribute comes back as it was set; what others wrote otherwise is shown as it stands. The names
//! that mean a file's attributes are nobody's extended attributes.

use std::fmt::Write as _;

use percent_encoding::percent_decode;

use super::read;

/// What S3 takes of names and values together, in bytes:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html>.
pub const METADATA_BYTES_MAX: usize = 2 << 10;

/// Whether metadata of this name are an extended attribute, and not a file's attributes.
pub fn is_shown(metadata: &str) -> bool {
    !read::NAMES.contains(&metadata)
}

/// The metadata's name for `user.NAME`, without `user.`.
pub fn metadata_name(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, b) in name.iter().enumerate() {
        let begins_escape = *b == b'-' && name.get(at + 1) == Some(&b'-');
        if matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-') && !begins_escape {
            out.push(char::from(*b));
        } else {
            write!(out, "--{b:02x}").expect("a String takes all");
        }
    }
    out
}

/// The other way. What could not have been written so was never escaped.
pub fn name(metadata: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(metadata.len()), metadata);
    while let Some(first) = rest.chars().next() {
        let escaped = rest.strip_prefix("--").and_then(|rest| rest.get(..2));
        let taken = match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                4
            }
            None => {
                out.extend(first.encode_utf8(&mut [0; 4]).bytes());
                first.len_utf8()
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    if metadata_name(&out) == metadata { out } else { metadata.as_bytes().to_vec() }
}

pub fn metadata_value(value: &[u8]) -> String {
    // Spaces at the ends are lost on the way.
    let inner = value.trim_ascii_start().trim_ascii_end();
    let at = value.len() - value.trim_ascii_start().len();
    let plain = |b: u8| matches!(b, b'!'..=b'~') && b != b'%';
    let escape_all = |bytes: &[u8]| escape(bytes, |_| false);
    let (before, after) = (&value[..at], value.get(at + inner.len()..).unwrap_or_default());
    escape_all(before) + &escape(inner, |b| plain(b) || b == b' ') + &escape_all(after)
}

/// The other way. What could not have been written so was never escaped.
pub fn value(metadata: &str) -> Vec<u8> {
    let bytes: Vec<u8> = percent_decode(metadata.as_bytes()).collect();
    if metadata_value(&bytes) == metadata { bytes } else { metadata.as_bytes().to_vec() }
}

/// Bytes of all that S3 counts.
pub fn metadata_bytes(metadata: &[(String, String)]) -> usize {
    metadata.iter().map(|(name, value)| name.len() + value.len()).sum()
}

fn escape(bytes: &[u8], plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for b in bytes {
        if plain(*b) {
            out.push(char::from(*b));
        } else {
            write!(out, "%{b:02x}").expect("a String takes all");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_values_are_written_plainly_where_they_can() {
        assert_eq!(metadata_name(b"colour-1.x_y"), "colour-1.x_y");
        assert_eq!(metadata_name("Ort: Köln".as_bytes()), "--4frt--3a--20--4b--c3--b6ln");
        assert_eq!((metadata_name(b"a--b"), metadata_name(b"a-B-")), ("a--2d-b".into(), "a---42-".into()));
        assert_eq!(metadata_value(b"as it is: 1/2 = \"half\""), "as it is: 1/2 = \"half\"");
        assert_eq!(metadata_value(b" 100%\n"), "%20100%25%0a");
        assert_eq!(metadata_value(b"  "), "%20%20");
    }

    #[test]
    fn what_others_wrote_is_shown_as_it_stands() {
        for text in ["100%", "50%zz", "a%20b", "%41"] {
            assert_eq!(value(text), text.as_bytes(), "{text}");
        }
        for text in ["Colour", "a--b", "--", "--zz", "a--62", "über", "a--ü"] {
            assert_eq!(name(text), text.as_bytes(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn each_comes_back_as_it_was_set(name_bytes in prop::collection::vec(any::<u8>(), 0..40), value_bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(&name(&metadata_name(&name_bytes)), &name_bytes);
            let dashes: Vec<u8> = name_bytes.iter().map(|b| b"-a4B"[usize::from(b % 4)]).collect();
            prop_assert_eq!(name(&metadata_name(&dashes)), dashes);
            let header = metadata_value(&value_bytes);
            prop_assert_eq!(header.trim(), &header, "{:?}", header);
            prop_assert!(header.bytes().all(|b| (b' '..=b'~').contains(&b)));
            prop_assert_eq!(value(&header), value_bytes);
        }
    }
}
