//! The XML of S3, as far as this server speaks it, and its dates and ranges.
//!
//! Owns: writing of answers, reading of the two documents that clients send.
//! Must never know: the bucket's state.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::SystemTime;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::events::Event;
use quick_xml::{Reader, escape::escape};

use crate::bucket::{ListPage, Listed};

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
/// What `encoding-type=url` leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'*');

/// A document with the given inside, which is XML already.
pub fn document(root: &str, inside: &str) -> String {
    format!("{HEAD}<{root} xmlns=\"{NAMESPACE}\">{inside}</{root}>")
}

pub fn element(name: &str, text: impl AsRef<str>) -> String {
    format!("<{name}>{}</{name}>", escape(text.as_ref()))
}

pub fn error(code: &str, message: &str, resource: &str) -> String {
    let inside = [element("Code", code), element("Message", message), element("Resource", resource)].concat();
    format!("{HEAD}<Error>{inside}<RequestId>model</RequestId></Error>")
}

/// As listings and copies write it.
pub fn timestamp(at: SystemTime) -> String {
    let at = time::OffsetDateTime::from(at);
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.000Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// The query of a listing, as it is repeated in the answer.
#[derive(Debug, Default)]
pub struct ListEcho<'a> {
    pub bucket: &'a str,
    pub v2: bool,
    pub url_encoded: bool,
    pub prefix: &'a str,
    pub delimiter: &'a str,
    pub marker: &'a str,
    pub max_keys: usize,
}

pub fn list_result(echo: &ListEcho<'_>, page: &ListPage) -> String {
    let name = |text: &str| -> String {
        if echo.url_encoded {
            utf8_percent_encode(text, PLAIN).to_string()
        } else {
            escape(text).into_owned()
        }
    };
    let mut out = String::with_capacity(512 + page.entries.len() * 320);
    out.push_str(&element("Name", echo.bucket));
    let (prefix, delimiter) = (name(echo.prefix), name(echo.delimiter));
    let truncated = page.next.is_some();
    let mut add = |text: std::fmt::Arguments<'_>| out.write_fmt(text).expect("a String takes all");
    add(format_args!("<Prefix>{prefix}</Prefix><MaxKeys>{}</MaxKeys>", echo.max_keys));
    if !echo.delimiter.is_empty() {
        add(format_args!("<Delimiter>{delimiter}</Delimiter>"));
    }
    if echo.url_encoded {
        add(format_args!("<EncodingType>url</EncodingType>"));
    }
    add(format_args!("<IsTruncated>{truncated}</IsTruncated>"));
    if echo.v2 {
        add(format_args!("<KeyCount>{}</KeyCount>", page.entries.len()));
        if let Some(next) = &page.next {
            add(format_args!("<NextContinuationToken>{}</NextContinuationToken>", token(next)));
        }
    } else {
        add(format_args!("<Marker>{}</Marker>", name(echo.marker)));
        if let (Some(last), true) = (page.entries.last(), truncated) {
            add(format_args!("<NextMarker>{}</NextMarker>", name(&last.0)));
        }
    }
    // Many of a page have one date, and dates are slow to write.
    let mut date = (SystemTime::UNIX_EPOCH, timestamp(SystemTime::UNIX_EPOCH));
    for (key, entry) in &page.entries {
        let key = name(key);
        let Listed::Object { size, etag, modified } = entry else {
            add(format_args!("<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"));
            continue;
        };
        if date.0 != *modified {
            date = (*modified, timestamp(*modified));
        }
        add(format_args!(
            "<Contents><Key>{key}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{size}</Size>\
             <StorageClass>STANDARD</StorageClass></Contents>",
            date.1,
            escape(etag.as_str()),
        ));
    }
    document("ListBucketResult", &out)
}

/// Where the next page begins, in hex: opaque, as S3's own.
pub fn token(bound: &str) -> String {
    crate::body::hex(bound.as_bytes())
}

pub fn read_token(token: &str) -> Option<String> {
    let pairs = token.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> =
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    String::from_utf8(bytes?).ok()
}

/// The texts of the elements `first` and `second` of each element `item`, in order.
pub fn read_items(document: &str, item: &str, first: &str, second: &str) -> Result<Vec<[String; 2]>, String> {
    let mut reader = Reader::from_str(document);
    let (mut items, mut texts, mut open) = (Vec::new(), [String::new(), String::new()], String::new());
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Start(start) => open = start.local_name().as_ref().to_string(),
            Event::Text(text) => add_text(&mut texts, &open, [first, second], &text.xml10_content()),
            Event::GeneralRef(reference) => {
                let name = reference.xml10_content();
                let character = reference.resolve_char_ref().map_err(|e| e.to_string())?.map(String::from);
                let named = quick_xml::escape::resolve_predefined_entity(&name).map(String::from);
                let text = character.or(named).ok_or_else(|| format!("an entity: {name}"))?;
                add_text(&mut texts, &open, [first, second], &text);
            }
            Event::End(end) => {
                if end.local_name().as_ref() == item {
                    items.push(std::mem::take(&mut texts));
                }
                open.clear();
            }
            Event::Eof => return Ok(items),
            _ => {}
        }
    }
}

fn add_text(texts: &mut [String; 2], open: &str, names: [&str; 2], text: &str) {
    if let Some(at) = names.iter().position(|name| *name == open) {
        texts[at].push_str(text);
    }
}

/// What of an object a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
}

/// As S3 reads it: what is not one range of bytes is ignored.
pub fn asked(range: Option<&str>, size: u64) -> Asked {
    let spec = range.and_then(|r| r.trim().strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    let Some((from, to)) = spec else { return Asked::Whole };
    let (start, end) = match (from.parse::<u64>().ok(), to.parse::<u64>().ok()) {
        (Some(start), Some(last)) if start <= last => (start, size.min(last.saturating_add(1))),
        (Some(start), None) if to.is_empty() => (start, size),
        (None, Some(0)) if from.is_empty() => return Asked::Unsatisfiable,
        (None, Some(n)) if from.is_empty() => (size.saturating_sub(n), size),
        _ => return Asked::Whole,
    };
    if start >= size { Asked::Unsatisfiable } else { Asked::Part(start..end) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges() {
        let part = |range| Asked::Part(range);
        for (header, expected) in [
            ("bytes=0-0", part(0..1)),
            ("bytes=5-", part(5..10)),
            ("bytes=5-100", part(5..10)),
            ("bytes=-3", part(7..10)),
            ("bytes=-30", part(0..10)),
            ("bytes=9-9", part(9..10)),
            ("bytes=10-", Asked::Unsatisfiable),
            ("bytes=-0", Asked::Unsatisfiable),
            ("bytes=7-5", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("lines=0-1", Asked::Whole),
        ] {
            assert_eq!(asked(Some(header), 10), expected, "{header}");
        }
        assert_eq!(asked(None, 10), Asked::Whole);
        assert_eq!(asked(Some("bytes=0-"), 0), Asked::Unsatisfiable);
        assert_eq!(asked(Some("bytes=0-18446744073709551615"), 3), part(0..3));
    }

    #[test]
    fn documents_of_clients() {
        let delete = "<Delete><Object><Key>a&amp;b &#13;</Key></Object><Quiet>true</Quiet>\
                      <Object><Key>c</Key><VersionId>v</VersionId></Object></Delete>";
        let items = read_items(delete, "Object", "Key", "VersionId").unwrap();
        assert_eq!(items, [["a&b \r", ""], ["c", "v"]]);
        assert!(read_items("<Delete><Object>&x;</Object></Delete>", "Object", "Key", "").is_err());
    }

    #[test]
    fn names_are_encoded_when_asked_for() {
        let key = "a b+&ü/<".to_string();
        let modified = SystemTime::UNIX_EPOCH;
        let entries = vec![(key, Listed::Object { size: 7, etag: "\"e\"".into(), modified })];
        let page = ListPage { entries, next: Some("n".into()) };
        let plain = list_result(&ListEcho { v2: true, ..ListEcho::default() }, &page);
        assert!(
            plain.contains("<Key>a b+&amp;ü/&lt;</Key><LastModified>1970-01-01T00:00:00.000Z<"),
            "{plain}"
        );
        assert!(plain.contains("<NextContinuationToken>6e<"));
        let encoded = list_result(&ListEcho { url_encoded: true, ..ListEcho::default() }, &page);
        assert!(encoded.contains("<Key>a%20b%2B%26%C3%BC/%3C</Key>"), "{encoded}");
        assert!(encoded.contains("<NextMarker>a%20b"));
    }

    proptest! {
        #[test]
        fn tokens_come_back(bound in any::<String>()) {
            prop_assert_eq!(read_token(&token(&bound)), Some(bound));
        }
    }
}
