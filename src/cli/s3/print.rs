//! How answers are shown: as JSON like the aws CLI's, or as tables.
//!
//! Owns: [`show`]. Invariant: a table tells all that the JSON tells, and no control character.
//! Must never know: what an answer means.

use std::io::{self, Write};
use std::time::SystemTime;

use serde::Serialize as _;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::failure::Failure;

/// Shows an answer on stdout: as JSON, or as a table for each list of records in it, and a line for all else.
pub(super) fn show(told: &Value, json: bool) -> Result<(), Failure> {
    let text = if json { as_json(told) } else { as_tables(told) };
    write(text.as_bytes())
}

/// Who closes stdout has read enough.
pub(super) fn write(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format_args!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// `2024-01-02T03:04:05+00:00`
pub(super) fn timestamp(time: SystemTime) -> String {
    let t = OffsetDateTime::from(time);
    let (date, time) = (t.date(), t.time());
    let (h, m, s) = time.as_hms();
    format!("{:04}-{:02}-{:02}T{h:02}:{m:02}:{s:02}+00:00", date.year(), u8::from(date.month()), date.day())
}

/// No line of a table is broken by what stands in a key.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn as_json(told: &Value) -> String {
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, format);
    told.serialize(&mut serializer).expect("a Vec takes all, and keys are strings");
    out.push(b'\n');
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn as_tables(told: &Value) -> String {
    let mut out = String::new();
    let mut facts = Vec::new();
    flatten("", told, &mut facts);
    for (name, fact) in &facts {
        match fact {
            Fact::Text(text) if name.is_empty() => out.push_str(&format!("{}\n", plain(text))),
            Fact::Text(text) => out.push_str(&format!("{name}: {}\n", plain(text))),
            Fact::Records(records) => out.push_str(&table(records)),
        }
    }
    out
}

enum Fact<'a> {
    Text(String),
    Records(Vec<Vec<(String, &'a Value)>>),
}

/// Objects within objects get names with dots; a list of objects is a table.
fn flatten<'a>(name: &str, value: &'a Value, out: &mut Vec<(String, Fact<'a>)>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(member, value)| {
            let name = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
            flatten(&name, value, out);
        }),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            let records = items.iter().filter_map(Value::as_object).map(record).collect();
            out.push((name.to_string(), Fact::Records(records)));
        }
        Value::Null => {}
        value => out.push((name.to_string(), Fact::Text(text(value)))),
    }
}

fn record(members: &Map<String, Value>) -> Vec<(String, &Value)> {
    let mut out = Vec::new();
    for (name, value) in members {
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.extend(
                    record(inner).into_iter().map(|(inner, value)| (format!("{name}.{inner}"), value)),
                );
            }
            value => out.push((name.clone(), value)),
        }
    }
    out
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if !items.iter().any(Value::is_object) => {
            items.iter().map(text).collect::<Vec<_>>().join(", ")
        }
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

fn table(records: &[Vec<(String, &Value)>]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in records.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut rows = vec![names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>()];
    for record in records {
        let cell = |name: &&str| {
            let found = record.iter().find(|(n, _)| n == name);
            found.map_or(String::new(), |(_, value)| plain(&text(value)))
        };
        rows.push(names.iter().map(cell).collect());
    }
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_tables_and_the_rest_lines() {
        let told = json!({
            "Owner": {"ID": "me"},
            "Buckets": [{"Name": "a", "Size": 1}, {"Name": "long\nname", "Tags": ["x", "y"]}],
            "Next": null,
        });
        let expected = "Owner.ID: me\nName       Size  Tags\na          1\nlong\u{fffd}name        x, y\n";
        assert_eq!(as_tables(&told), expected);
        assert_eq!(as_tables(&json!({})), "");
        assert_eq!(as_json(&json!({"a": [1]})), "{\n    \"a\": [\n        1\n    ]\n}\n");
    }

    #[test]
    fn times_are_written_as_the_aws_cli_does() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_704_164_645_678);
        assert_eq!(timestamp(time), "2024-01-02T03:04:05+00:00");
    }
}
