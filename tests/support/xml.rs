//! As much XML as an S3 server speaks: a writer that escapes, and a strict reader.

use std::fmt::Write as _;

use quick_xml::Reader;
use quick_xml::events::Event;

pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            // S3 writes what XML 1.0 forbids just so; it is why `encoding-type=url` exists.
            c if (c as u32) < 0x20 && c != '\n' && c != '\t' => {
                let _ = write!(out, "&#x{:x};", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

/// `<name>text</name>`
pub fn leaf(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}

#[derive(Debug, Default)]
pub struct Element {
    pub name: String,
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|c| c.name == name)
    }

    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|c| c.text.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |c| c.name == name)
    }
}

/// The root element, or none where the text is not well-formed XML 1.0: an unescaped or escaped
/// control character, an entity beyond the five, an element left open.
pub fn parse(text: &str) -> Option<Element> {
    let mut reader = Reader::from_str(text);
    let mut stack = vec![Element::default()];
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                stack.push(Element { name: tag.local_name().as_ref().to_string(), ..Element::default() })
            }
            Event::Empty(tag) => stack
                .last_mut()?
                .children
                .push(Element { name: tag.local_name().as_ref().to_string(), ..Element::default() }),
            Event::End(_) => {
                let done = stack.pop()?;
                stack.last_mut()?.children.push(done);
            }
            // `xml10_content` turns a bare CR into LF as XML says: a client must write `&#13;`.
            Event::Text(t) => push_text(&mut stack, &t.xml10_content())?,
            Event::CData(t) => push_text(&mut stack, &t.xml10_content())?,
            Event::GeneralRef(r) => {
                let c = match r.resolve_char_ref().ok()? {
                    Some(c) => c,
                    None => match r.xml10_content().as_ref() {
                        "amp" => '&',
                        "lt" => '<',
                        "gt" => '>',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return None,
                    },
                };
                if !allowed(c) {
                    return None;
                }
                stack.last_mut()?.text.push(c);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    let mut top = stack.pop()?;
    if stack.is_empty() && top.children.len() == 1 { top.children.pop() } else { None }
}

fn push_text(stack: &mut [Element], text: &str) -> Option<()> {
    if !text.chars().all(allowed) {
        return None;
    }
    stack.last_mut()?.text.push_str(text);
    Some(())
}

/// The `Char` production of XML 1.0.
fn allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'))
}
