//! The house rules that a compiler does not check: imports point down the floors, one directory names
//! `fuser`, no file is a knot, every file says what it owns.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The floors of `src/lib.rs`'s map. A module that is not here has no floor, and fails.
const FLOORS: [(u8, &str); 29] = [
    (0, "error"),
    (0, "key"),
    (0, "arn"),
    (0, "attr"),
    (0, "ranges"),
    (0, "config"),
    (0, "stats"),
    (1, "aws"),
    (1, "cache"),
    (1, "journal"),
    (2, "s3"),
    (2, "sqs"),
    (3, "namespace"),
    (3, "read"),
    (3, "write"),
    (4, "fs"),
    (5, "fuse"),
    (5, "notify"),
    (5, "control"),
    (6, "cli"),
    (6, "mount"),
    (6, "warm"),
    (6, "recover"),
    (6, "daemon"),
    (6, "mountpoint"),
    (6, "failure"),
    (6, "progress"),
    (6, "runtime"),
    (6, "transfer"),
];
/// Also of floor 6; apart because they are not all written as modules of the library.
const TOP_FLOOR: [&str; 5] = ["logging", "main", "umount", "mountpoint", "failure"];
/// Where siblings may know each other, as long as they form no circle.
const FLOORS_OF_FRIENDS: [u8; 3] = [0, 1, 6];
const LINES_MAX: usize = 600;

fn floor(module: &str) -> Option<u8> {
    if TOP_FLOOR.contains(&module) {
        return Some(6);
    }
    FLOORS.iter().find(|(_, name)| *name == module).map(|(floor, _)| *floor)
}

/// `src/s3/list.rs` belongs to `s3`.
fn module_of(path: &str) -> &str {
    let inner = path.strip_prefix("src/").unwrap_or(path);
    inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
}

/// The code without comments and without what is within quotes, so that words in prose do not count.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::new();
    let mut i = 0;
    while i < chars.len() {
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                while i < chars.len() {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            'r' if !word(out.chars().next_back()) && raw_string(&chars[i..]).is_some() => {
                i += raw_string(&chars[i..]).unwrap_or(1);
                out.push_str("\"\"");
            }
            '"' => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
                out.push_str("\"\"");
            }
            '\'' if at(i + 1) == '\\' => {
                // A character such as '\'' or '\u{7f}'.
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

fn word(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// The length of the raw string that begins here.
fn raw_string(chars: &[char]) -> Option<usize> {
    let hashes = chars[1..].iter().take_while(|c| **c == '#').count();
    if chars.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let begin = 2 + hashes;
    let body = chars[begin..].windows(close.len()).position(|w| w == close)?;
    Some(begin + body + close.len())
}

/// The top-level modules that a file's code names through `crate::`, `pailfs::` or enough `super::`.
fn imports(path: &str, code: &str) -> BTreeSet<String> {
    let depth = path.trim_start_matches("src/").trim_end_matches("/mod.rs").split('/').count();
    let mut found = BTreeSet::new();
    for root in ["crate::", "pailfs::"] {
        for (at, _) in code.match_indices(root) {
            if !word(code[..at].chars().next_back()) && !code[..at].ends_with('$') {
                first_names(&code[at + root.len()..], &mut found);
            }
        }
    }
    let up = "super::".repeat(depth);
    for (at, _) in code.match_indices(&up) {
        let mut rest = &code[at + up.len()..];
        while let Some(more) = rest.strip_prefix("super::") {
            rest = more;
        }
        let name: String = rest.chars().take_while(|c| word(Some(*c))).collect();
        if rest[name.len()..].starts_with("::") && floor(&name).is_some() {
            found.insert(name);
        }
    }
    found
}

/// `a::b` gives `a`; `{a::b, c::{d, e}, f}` gives `a`, `c`, `f`.
fn first_names(text: &str, found: &mut BTreeSet<String>) {
    let Some(group) = text.trim_start().strip_prefix('{') else {
        let name: String = text.chars().take_while(|c| word(Some(*c))).collect();
        found.insert(name);
        return;
    };
    let (mut depth, mut fresh, mut name) = (1, true, String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 1 && fresh && word(Some(c)) {
            name.push(c);
        } else if !name.is_empty() {
            found.insert(std::mem::take(&mut name));
            fresh = false;
        }
        if depth == 1 && c == ',' {
            fresh = true;
        }
        if depth == 0 {
            return;
        }
    }
}

/// Everything that is wrong with these files (path and text).
fn faults_of(files: &[(String, String)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let map = files.iter().find(|(p, _)| p == "src/lib.rs").map_or("", |(_, text)| text);
    for (path, text) in files {
        if !text.starts_with("//!") {
            faults.push(format!("{path}: does not open with `//!`: say what it owns"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{path}: {lines} lines, more than {LINES_MAX}"));
        }
        if !path.starts_with("src/") || path == "src/lib.rs" {
            continue;
        }
        let code = code_of(text);
        let names_fuser = code.match_indices("fuser").any(|(at, m)| {
            !word(code[..at].chars().next_back()) && !word(code[at + m.len()..].chars().next())
        });
        if names_fuser && !path.starts_with("src/fuse/") {
            faults.push(format!("{path}: names fuser; only src/fuse/ may"));
        }
        let module = module_of(path);
        let Some(own) = floor(module) else {
            faults.push(format!(
                "{path}: `{module}` is on no floor: give it one in tests/tidy.rs and in src/lib.rs's map"
            ));
            continue;
        };
        if module != "main"
            && !map
                .lines()
                .filter(|l| l.starts_with("//!"))
                .any(|l| l.split(|c: char| !word(Some(c))).any(|w| w == module))
        {
            faults.push(format!("{path}: `{module}` is not on src/lib.rs's map"));
        }
        for name in imports(path, &code) {
            let Some(other) = floor(&name) else { continue };
            if name == module {
                continue;
            }
            arrows.entry(module.to_string()).or_default().insert(name.clone());
            if other > own {
                faults.push(format!("{path} (floor {own}) imports {name} from above (floor {other})"));
            } else if other == own && !FLOORS_OF_FRIENDS.contains(&own) {
                faults.push(format!("{path} imports its sibling {name} (floor {own})"));
            }
        }
    }
    faults.extend(circle(&arrows));
    faults
}

/// One circle among the modules, if there is one.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    fn walk<'a>(
        at: &'a str,
        arrows: &'a BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        if let Some(begin) = way.iter().position(|m| *m == at) {
            return Some(format!("a circle: {} -> {at}", way[begin..].join(" -> ")));
        }
        if !done.insert(at) {
            return None;
        }
        way.push(at);
        let found = arrows.get(at).into_iter().flatten().find_map(|next| walk(next, arrows, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|module| walk(module, arrows, &mut Vec::new(), &mut done))
}

fn read_sources(dir: &Path, root: &Path, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, root, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
            files.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    read_sources(&root.join("src"), root, &mut files);
    read_sources(&root.join("tests"), root, &mut files);
    assert!(files.iter().any(|(p, _)| p == "src/lib.rs"), "the sources were not found");
    files.sort();
    let faults = faults_of(&files);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The faults of one file among an otherwise empty house.
fn faults_with(path: &str, body: &str) -> Vec<String> {
    let words: Vec<&str> = FLOORS.iter().map(|(_, name)| *name).collect();
    let map = format!("//! {}\n", words.join(" "));
    let text = format!("//! Owns nothing.\n{body}");
    faults_of(&[("src/lib.rs".to_string(), map), (path.to_string(), text)])
}

#[test]
fn arrows_up_and_sideways_are_seen() {
    for (path, body) in [
        ("src/s3/list.rs", "use crate::fs::Filesystem;"),
        ("src/s3/mod.rs", "use crate::{error::Error, fs};"),
        ("src/s3/mod.rs", "use crate::{\n    error::{Error, S3Error},\n    read::{self},\n};"),
        ("src/s3/mod.rs", "fn f() -> crate::fuse::FuseMount {}"),
        ("src/read/window.rs", "use crate::namespace::Inode;"),
        ("src/write/mod.rs", "mod tests { use crate::read::Reader; }"),
        ("src/error.rs", "use crate::aws::transport::TransportError;"),
        ("src/fs/dir.rs", "use super::super::fuse::FuseMount;"),
        ("src/config.rs", "use super::cli::Args;"),
    ] {
        assert_eq!(faults_with(path, body).len(), 1, "{path}: {body}");
    }
}

#[test]
fn arrows_down_and_prose_are_let_be() {
    for (path, body) in [
        ("src/fs/dir.rs", "use crate::{s3::S3Client, namespace::*};\nuse super::handles::Handle;"),
        ("src/s3/list.rs", "// crate::fs is above\n/* crate::fs /* crate::fuse */ */ fn f() {}"),
        ("src/s3/list.rs", "/// [`crate::fs`]\nconst S: &str = \"crate::fs\\\" crate::fuse\";"),
        ("src/s3/list.rs", "const S: &str = r#\"crate::fs \" fuser\"#; const C: char = '\"';"),
        ("src/s3/list.rs", "macro_rules! m { () => { $crate::fs::f() } }"),
        ("src/s3/list.rs", "fn f<'a>(x: &'a str) { crate::config::f('\\'', '\"') } // fuser"),
        ("src/aws/retry.rs", "use crate::cache::Budget;"),
        ("src/fuse/mod.rs", "use fuser::Filesystem;"),
        ("src/main.rs", "fn main() { pailfs::cli::run() }"),
    ] {
        assert_eq!(faults_with(path, body), [""; 0], "{path}: {body}");
    }
}

#[test]
fn the_other_rules_are_seen() {
    assert_eq!(faults_with("src/mount.rs", "use fuser::MountOption;").len(), 1);
    assert_eq!(faults_with("src/misc.rs", "").len(), 1, "a module without a floor");
    assert_eq!(faults_with("src/error.rs", &"\n".repeat(LINES_MAX)).len(), 1, "a long file");
    let bare = [("tests/x.rs".to_string(), "fn f() {}".to_string())];
    assert_eq!(faults_of(&bare).len(), 1, "a file without a header");
    let off_the_map = [("src/error.rs".to_string(), "//! x".to_string())];
    assert_eq!(faults_of(&off_the_map).len(), 1, "a module that the map leaves out");
}

#[test]
fn circles_among_friends_are_seen() {
    let file = |path: &str, body: &str| (path.to_string(), format!("//! x\n{body}"));
    let map = ("src/lib.rs".to_string(), "//! error config key\n".to_string());
    let mut files = vec![
        map,
        file("src/error.rs", "use crate::config::Config;"),
        file("src/config.rs", "use crate::key::Key;"),
    ];
    assert_eq!(faults_of(&files), [""; 0]);
    files.push(file("src/key.rs", "use crate::error::Error;"));
    assert_eq!(faults_of(&files), ["a circle: config -> key -> error -> config"]);
}
