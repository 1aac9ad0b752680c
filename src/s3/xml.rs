//! XML as S3 speaks it: small documents in, small documents out.
//!
//! Owns: [`walk`], which reads an answer step by step; [`parse`], which makes [`Element`]s of one; escaping
//! for what we send.
//! Invariants: no entity is expanded but the five predefined ones and character references, a DOCTYPE is an
//! error; depth and number of elements are bounded; no input panics.
//! Must never know: what the elements mean.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, Event};

/// Of every document that S3 takes.
pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// S3's deepest answer has 5 levels.
const DEPTH_MAX: usize = 16;
/// A listing of 1,000 keys has about 10,000.
const ELEMENTS_MAX: usize = 200_000;

/// A document that is not what S3 would write. Its text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not XML as S3 writes it: {0}")]
pub struct XmlError(String);

/// An element: names without prefix, text without its children's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    pub fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first child of that name.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }
}

/// What [`walk`] meets, in the document's order.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// An element begins. Its name is without prefix.
    Open(&'a str),
    /// A piece of the text of the element that is open.
    Text(&'a str),
    /// The element that is open ends.
    Close,
}

/// Goes through the document once, keeping nothing of it.
pub fn walk(document: &[u8], mut take: impl FnMut(Step<'_>)) -> Result<(), XmlError> {
    let bad = |why: &dyn std::fmt::Display| XmlError(why.to_string());
    let text = std::str::from_utf8(document).map_err(|e| bad(&e))?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}').trim_start());
    let (mut depth, mut elements) = (0, 0);
    loop {
        let event = reader.read_event().map_err(|e| bad(&e))?;
        match event {
            Event::Start(ref start) | Event::Empty(ref start) => {
                let second_root = depth == 0 && elements > 0;
                elements += 1;
                if second_root || depth >= DEPTH_MAX || elements > ELEMENTS_MAX {
                    return Err(bad(&"several roots, too deep or too many elements"));
                }
                take(Step::Open(start.local_name().as_ref()));
                if matches!(event, Event::Empty(_)) {
                    take(Step::Close);
                } else {
                    depth += 1;
                }
            }
            Event::End(_) => {
                depth = usize::checked_sub(depth, 1).ok_or_else(|| bad(&"an end without a start"))?;
                take(Step::Close);
            }
            Event::Text(text) => within(depth, &text.xml10_content(), &mut take)?,
            Event::CData(text) => within(depth, &text.xml10_content(), &mut take)?,
            Event::GeneralRef(reference) => resolve(&reference, |text| within(depth, text, &mut take))?,
            Event::DocType(_) => return Err(bad(&"a DOCTYPE")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof if depth == 0 && elements > 0 => return Ok(()),
            Event::Eof => return Err(bad(&"it ends too early")),
        }
    }
}

fn within(depth: usize, text: &str, take: &mut impl FnMut(Step<'_>)) -> Result<(), XmlError> {
    if depth > 0 {
        take(Step::Text(text));
    } else if !text.trim().is_empty() {
        return Err(XmlError("text outside of the root".to_string()));
    }
    Ok(())
}

/// The document's root.
pub fn parse(document: &[u8]) -> Result<Element, XmlError> {
    // The elements open now, the outermost first.
    let mut open: Vec<Element> = Vec::new();
    let mut root = Element::default();
    walk(document, |step| match step {
        Step::Open(name) => open.push(Element { name: name.to_string(), ..Element::default() }),
        Step::Text(text) => open.last_mut().expect("text stands within").text.push_str(text),
        Step::Close => {
            let element = open.pop().expect("what is closed was opened");
            match open.last_mut() {
                Some(parent) => parent.children.push(element),
                None => root = element,
            }
        }
    })?;
    Ok(root)
}

/// [`parse`], and the root must have this name.
pub fn parse_root(document: &[u8], name: &str) -> Result<Element, XmlError> {
    let root = parse(document)?;
    if root.name == name { Ok(root) } else { Err(XmlError(format!("expected {name}, found {}", root.name))) }
}

/// What a reference stands for.
fn resolve<T>(
    reference: &BytesRef<'_>,
    take: impl FnOnce(&str) -> Result<T, XmlError>,
) -> Result<T, XmlError> {
    let character = reference.resolve_char_ref().map_err(|e| XmlError(e.to_string()))?;
    if let Some(character) = character {
        return take(character.encode_utf8(&mut [0; 4]));
    }
    let name = reference.xml10_content();
    take(resolve_predefined_entity(&name).ok_or_else(|| XmlError(format!("an entity: {name}")))?)
}

/// The name of the root, looked at without reading the document.
pub fn root_is(document: &[u8], name: &str) -> bool {
    let mut rest = document.trim_ascii_start();
    rest = rest.strip_prefix(b"\xef\xbb\xbf").unwrap_or(rest);
    while rest.starts_with(b"<?") {
        let Some(end) = rest.windows(2).position(|w| w == b"?>") else {
            return false;
        };
        rest = rest.get(end + 2..).unwrap_or_default().trim_ascii_start();
    }
    rest.strip_prefix(b"<")
        .and_then(|rest| rest.strip_prefix(name.as_bytes()))
        .and_then(|rest| rest.first())
        .is_some_and(|next| matches!(next, b'>' | b'/' | b' ' | b'\t' | b'\r' | b'\n'))
}

/// Text as it stands between two tags.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // A parser would turn it into a line feed.
            '\r' => out.push_str("&#13;"),
            c => out.push(c),
        }
    }
    out
}

/// Whether XML 1.0 can carry the text, and no parser would trim it: only then is it the same on the other side.
pub fn is_safe_text(text: &str) -> bool {
    let odd = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    !text.chars().any(odd) && text.trim() == text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>\
        <Contents><Key>a&amp;b&#x20;c</Key><ETag>&quot;e&quot;</ETag></Contents>\
        <x:Contents><Key><![CDATA[<d>]]></Key></x:Contents><Empty/></ListBucketResult>\n";

    #[test]
    fn elements_text_and_references() {
        let root = parse_root(PAGE.as_bytes(), "ListBucketResult").unwrap();
        let keys: Vec<_> = root.children("Contents").map(|c| c.text_of("Key")).collect();
        assert_eq!(keys, [Some("a&b c"), Some("<d>")]);
        assert_eq!(root.child("Contents").unwrap().text_of("ETag"), Some("\"e\""));
        assert_eq!(root.text_of("Empty"), Some(""));
        assert_eq!(root.text_of("None"), None);
        assert!(parse_root(PAGE.as_bytes(), "Error").is_err());
    }

    #[test]
    fn no_entities_no_doctype_no_depth() {
        for bad in [
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
            "<a>&x;</a>",
            "<a>&#xFFFFFFFF;</a>",
            "<a><b></a>",
            "<a>",
            "</a>",
            "",
            "hello",
            "<a/><b/>",
            "<a/>text",
            "<html><body><p>Bad gateway</body>",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = |n: usize| format!("{}{}", "<a>".repeat(n), "</a>".repeat(n));
        assert!(parse(deep(DEPTH_MAX).as_bytes()).is_ok());
        assert!(parse(deep(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(parse(b"<a>\xff</a>").is_err());
    }

    #[test]
    fn the_root_is_seen_without_parsing() {
        assert!(root_is(PAGE.as_bytes(), "ListBucketResult"));
        assert!(root_is(b"\n \n<?xml version='1.0'?>\n<Error><Code>", "Error"));
        assert!(!root_is(b"<Errors/>", "Error"));
        assert!(!root_is(b"", "Error"));
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = root_is(&bytes, "Error");
        }

        #[test]
        fn no_mangled_page_panics(at in 0..PAGE.len(), bytes in prop::collection::vec(any::<u8>(), 0..4), cut in 0usize..20) {
            let mut page = PAGE.as_bytes().to_vec();
            let end = (at + cut).min(page.len());
            page.splice(at..end, bytes);
            let _ = parse(&page);
        }

        #[test]
        fn what_is_escaped_comes_back(text in any::<String>()) {
            prop_assume!(is_safe_text(&text));
            let document = format!("<a>{}</a>", escape(&text));
            prop_assert_eq!(parse(document.as_bytes()).unwrap().text, text);
        }
    }
}
