//! `-o name=value,…`: mount(8)'s way to write options.
//!
//! Owns: [`expand`], which turns each into the `--name=value` it stands for, and the generic mount
//! options, which are mount(8)'s business or become one of ours.
//! Invariants: the list of our options is clap's own, so the two spellings cannot drift apart; an option
//! that nobody knows is an error that names it. Must never know: what an option means.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory};

use super::mount::HelperArgs;

/// What `-o` asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    /// As `--name` or `--name=value`.
    pub args: Vec<OsString>,
    /// `noexec`: a flag of the mount itself, without an option of ours.
    pub noexec: bool,
    /// Unknown names that were to be tolerated.
    pub ignored: Vec<String>,
}

/// What to do with a name that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    Refuse,
    /// `mount -s`.
    Tolerate,
}

/// Generic options that change nothing here: they tell mount(8), systemd or the kernel's other file
/// systems what to do. `suid` and `dev` are in it because mount.fuse(8) always passes them; a pailfs
/// mount is nosuid and nodev whatever it is told. Access times are never kept, so the atime family
/// changes nothing either.
const GENERIC: [&str; 31] = [
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "async",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "mand",
    "nomand",
    "silent",
    "loud",
    "iversion",
    "noiversion",
];

/// Generic options with a value of their own: `user=me` from mount(8), and comments.
const GENERIC_PREFIXES: [&str; 4] = ["x-", "X-", "comment=", "user="];

/// Expands every `-o` in order; the last word on `ro` or `rw` counts.
pub(super) fn expand(lists: &[String], unknown: Unknown) -> Result<Expanded, clap::Error> {
    let names = own_options();
    let mut out = Expanded::default();
    let mut read_only = false;
    for item in lists.iter().flat_map(|list| split(list)) {
        match item.as_str() {
            "ro" | "read-only" | "read_only" => read_only = true,
            "rw" => read_only = false,
            "exec" => out.noexec = false,
            "noexec" => out.noexec = true,
            _ if is_generic(&item) => {}
            _ => match own(&item, &names)? {
                Some(arg) => out.args.push(arg),
                None if unknown == Unknown::Tolerate => out.ignored.push(item),
                None => return Err(unknown_option(&item, &names)),
            },
        }
    }
    if read_only {
        out.args.push("--read-only".into());
    }
    Ok(out)
}

/// Puts the expanded options in front of the other arguments, so that what is written out comes later
/// and wins.
pub(super) fn insert(args: &[OsString], at: usize, more: &[OsString]) -> Vec<OsString> {
    let (before, after) = args.split_at(at.min(args.len()));
    [before, more, after].concat()
}

/// Commas separate, `\,` is a comma, `\\` a backslash; any other backslash is itself.
fn split(list: &str) -> Vec<String> {
    let mut items = vec![];
    let mut item = String::new();
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next_if(|next| matches!(next, ',' | '\\')) {
                Some(escaped) => item.push(escaped),
                None => item.push('\\'),
            },
            ',' => items.push(std::mem::take(&mut item)),
            c => item.push(c),
        }
    }
    items.push(item);
    // `-o ''` and `-o ro,` are what scripts leave behind.
    items.retain(|item| !item.is_empty());
    items
}

fn is_generic(item: &str) -> bool {
    GENERIC.contains(&item) || GENERIC_PREFIXES.iter().any(|p| item.starts_with(p))
}

/// One of our options: its long name, and whether it may or must have a value.
struct Own {
    name: String,
    takes_value: bool,
    needs_value: bool,
}

fn own_options() -> Vec<Own> {
    HelperArgs::command()
        .get_arguments()
        .filter_map(|arg| {
            let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
            let needs_value = takes_value && arg.get_num_args().is_none_or(|count| count.min_values() > 0);
            Some(Own { name: arg.get_long()?.to_owned(), takes_value, needs_value })
        })
        .filter(|own| !matches!(own.name.as_str(), "help" | "version"))
        .collect()
}

/// The argument an item stands for; none where the name is not ours.
fn own(item: &str, names: &[Own]) -> Result<Option<OsString>, clap::Error> {
    let (name, value) = match item.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (item, None),
    };
    let name = name.replace('_', "-");
    let Some(own) = names.iter().find(|own| own.name == name) else {
        return Ok(None);
    };
    match (own.takes_value, value) {
        (true, Some(value)) => Ok(Some(format!("--{name}={value}").into())),
        (_, None) if !own.needs_value => Ok(Some(format!("--{name}").into())),
        (_, None) => {
            Err(usage(ErrorKind::InvalidValue, format!("the option `{name}` needs a value: -o {name}=VALUE")))
        }
        (false, Some(_)) => {
            Err(usage(ErrorKind::TooManyValues, format!("the option `{name}` takes no value: -o {name}")))
        }
    }
}

fn unknown_option(item: &str, names: &[Own]) -> clap::Error {
    let name = item.split('=').next().unwrap_or(item);
    let normal = name.replace('_', "-");
    let generic = GENERIC.iter().copied().chain(["ro", "rw", "exec", "noexec"]);
    let mut near: Vec<(f64, &str)> = names
        .iter()
        .map(|own| own.name.as_str())
        .chain(generic)
        .map(|known| (strsim::jaro_winkler(known, &normal), known))
        .filter(|(likeness, _)| *likeness > 0.75)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<String> = near.iter().take(3).map(|(_, n)| format!("`{n}`")).collect();
    let hint = if near.is_empty() {
        "see `pailfs mount --help` for those there are".to_owned()
    } else {
        format!("nearest: {}", near.join(", "))
    };
    let name = name.escape_debug();
    usage(ErrorKind::UnknownArgument, format!("unknown option `{name}` in -o; {hint}"))
}

fn usage(kind: ErrorKind, message: String) -> clap::Error {
    clap::Error::raw(kind, format!("{message}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(list: &str) -> Vec<String> {
        let out = expand(&[list.to_owned()], Unknown::Refuse).unwrap();
        out.args.iter().map(|a| a.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn forms_of_o() {
        let table: [(&str, &[&str]); 11] = [
            ("", &[]),
            ("ro", &["--read-only"]),
            ("ro,rw", &[]),
            ("rw,ro,", &["--read-only"]),
            ("allow_other,_netdev", &["--allow-other"]),
            ("endpoint_url=http://h:1", &["--endpoint-url=http://h:1"]),
            ("endpoint-url=http://h:1", &["--endpoint-url=http://h:1"]),
            ("uid=5,file_mode=0640", &["--uid=5", "--file-mode=0640"]),
            (r"content_type=a\,b\\c\d", &[r"--content-type=a,b\c\d"]),
            ("log_file=/a=b", &["--log-file=/a=b"]),
            ("rw,nosuid,nodev,relatime,user=me,x-systemd.automount,comment=hi,defaults,dev,suid", &[]),
        ];
        for (list, expected) in table {
            assert_eq!(expanded(list), expected, "{list}");
        }
    }

    #[test]
    fn every_option_has_its_o_form() {
        for own in own_options() {
            let item = if own.takes_value {
                format!("{}=x", own.name.replace('-', "_"))
            } else {
                own.name.replace('-', "_")
            };
            assert_eq!(expanded(&item).len(), 1, "{item}");
        }
    }

    #[test]
    fn several_o_in_order() {
        let lists = ["ro,noexec".to_owned(), "rw".to_owned()];
        let out = expand(&lists, Unknown::Refuse).unwrap();
        assert!(out.args.is_empty());
        assert!(out.noexec);
    }

    #[test]
    fn unknown_options_are_named_with_the_nearest() {
        let error = |list: &str| {
            let e = expand(&[list.to_owned()], Unknown::Refuse).unwrap_err();
            assert_eq!(e.exit_code(), 2);
            e.to_string()
        };
        let e = error("ro,endpoint=http://secret");
        assert!(e.contains("unknown option `endpoint`"), "{e}");
        assert!(e.contains("`endpoint-url`"), "{e}");
        assert!(!e.contains("secret"), "{e}");
        assert!(error("qqqqq").contains("--help"));
        assert!(error("uid").contains("needs a value"));
        assert!(error("allow_other=1").contains("takes no value"));
        assert!(error("help").contains("unknown option"));
    }

    #[test]
    fn a_sloppy_mount_tolerates_unknown_options() {
        let out = expand(&["what=1,ro".to_owned()], Unknown::Tolerate).unwrap();
        assert_eq!(out.ignored, ["what=1"]);
        assert_eq!(out.args, ["--read-only"]);
    }
}
