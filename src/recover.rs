//! `pailfs recover`: what is kept because it could not be sent, shown, sent, exported or discarded.
//!
//! Owns: [`Recover`] and [`run`]; what is shown of a kept file; [`notice`], the line a mount says at its start.
//! Invariants: an item is discarded only when S3 has it or the person said so; one that another command is at work on
//! is left alone.
//! Must never know: how bytes are kept or sent.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::S3Config;
use crate::error::Error;
use crate::failure::Failure;
use crate::journal::{Journal, KeptItem, Spoilt};
use crate::key;
use crate::runtime;
use crate::s3::S3Client;
use crate::write::recover::{Content, Sent, discard, send_unless_there};
use crate::write::upload::Uploads;

/// What is to be done with what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    List,
    Retry,
    /// Below this directory, which is absolute.
    Export(PathBuf),
    Discard,
}

#[derive(Debug, Clone)]
pub struct Recover {
    pub s3: S3Config,
    /// Absolute.
    pub staging_dir: PathBuf,
    /// Keys, or names of items; none: all.
    pub names: Vec<String>,
    pub action: Action,
    /// Show errors only.
    pub quiet: bool,
}

const NOT_DISCARDED: &str = "could not be discarded";

/// Errors: nothing is kept under a name; something could not be done, which stderr has named.
pub fn run(recover: &Recover) -> Result<(), Failure> {
    let (url, bucket) = (recover.s3.endpoint_url.as_deref(), &recover.s3.bucket);
    let journal = Arc::new(Journal::new(&recover.staging_dir, url, bucket));
    let (items, spoilt) = chosen(journal.kept_and_spoilt().map_err(Failure::new)?, &recover.names)?;
    if matches!(recover.action, Action::List) || items.is_empty() && spoilt.is_empty() {
        return show_all(&journal, &items, &spoilt, bucket);
    }
    let spoilt = each_spoilt(spoilt, recover);
    let whole = match &recover.action {
        Action::List => Ok(()), // answered above
        _ if items.is_empty() => Ok(()),
        Action::Discard if items.iter().all(|item| item.kept.upload.is_none()) => {
            each(&journal, items, NOT_DISCARDED, |item| {
                item.discard().map_err(|e| Error::Io(format!("the local disk: {e}")))
            })
        }
        Action::Discard => {
            let (runtime, uploads) = connect(&recover.s3, journal.clone())?;
            each(&journal, items, NOT_DISCARDED, |item| runtime.block_on(discard(&uploads.client, item)))
        }
        Action::Retry => {
            let (runtime, uploads) = connect(&recover.s3, journal.clone())?;
            each(&journal, items, "was not sent", |item| {
                runtime.block_on(retry(&uploads, item, recover.quiet))
            })
        }
        Action::Export(dir) => {
            let (runtime, uploads) = connect(&recover.s3, journal.clone())?;
            each(&journal, items, "was not exported", |item| {
                runtime.block_on(export(&uploads.client, &item, dir, recover.quiet))
            })
        }
    };
    whole.and(spoilt)
}

/// What is to be done with bytes that nobody knows the name of.
fn each_spoilt(spoilt: Vec<Spoilt>, recover: &Recover) -> Result<(), Failure> {
    let mut result = Ok(());
    for spoilt in spoilt {
        let name = spoilt.name().to_owned();
        let done = match &recover.action {
            Action::List => continue,
            Action::Retry => Err(std::io::Error::other(
                "what it is cannot be read any more, its key neither: --export the bytes, then --discard it",
            )),
            Action::Discard => spoilt.discard(),
            Action::Export(dir) => {
                let path = dir.join(&name);
                let copied = File::open(spoilt.bytes()).and_then(|mut from| {
                    let mut to = new_file(&path)?;
                    std::io::copy(&mut from, &mut to)?;
                    to.sync_all()
                });
                copied.inspect(|()| say(recover.quiet, &format!("{} was written", path.display())))
            }
        };
        if let Err(e) = done {
            eprintln!("pailfs: {}", Failure::new(format_args!("{name}: {e}")));
            result = Err(Failure::new("what is spoilt stays kept"));
        }
    }
    result
}

/// What a mount says of what waits for its bucket: for a person, and for a mount that may send it.
pub fn notice(journal: &Journal, bucket: &str) -> Vec<String> {
    let found = journal.kept_and_spoilt().and_then(|(items, spoilt)| {
        let mut left = 0;
        for item in items.iter().filter(|item| item.kept.owner.is_some()) {
            left += usize::from(!journal.is_owned(&item.kept)?);
        }
        Ok((items, spoilt, left))
    });
    let (items, spoilt, left) = match found {
        Ok(found) => found,
        Err(e) => return vec![format!("cannot see whether anything is kept for `pailfs recover`: {e}")],
    };
    let unsent = (left > 0).then(|| {
        format!("acknowledged by an earlier mount and not sent: {left} of {bucket}; a mount that is not --read-only sends them")
    });
    kept_notice(&items, &spoilt, bucket).into_iter().chain(unsent).collect()
}

fn kept_notice(items: &[KeptItem], spoilt: &[Spoilt], bucket: &str) -> Option<String> {
    let keys = items.iter().filter(|item| item.kept.owner.is_none()).map(|item| item.kept.key.as_str());
    let names: Vec<&str> = keys.chain(spoilt.iter().map(Spoilt::name)).collect();
    let key = names.first()?.escape_debug();
    let more = match names.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    Some(format!(
        "{key}{more} could not be sent by an earlier mount and is kept: see `pailfs recover {bucket}`"
    ))
}

fn chosen(
    (items, spoilt): (Vec<KeptItem>, Vec<Spoilt>),
    names: &[String],
) -> Result<(Vec<KeptItem>, Vec<Spoilt>), Failure> {
    let is = |item: &KeptItem, name: &String| *name == item.kept.key || name == item.name();
    let is_any = |name: &&String| {
        items.iter().any(|item| is(item, name)) || spoilt.iter().any(|spoilt| spoilt.name() == name.as_str())
    };
    if let Some(name) = names.iter().find(|name| !is_any(name)) {
        return Err(Failure::new(format_args!("nothing is kept under the name {}", name.escape_debug())));
    }
    let wanted = |item: &KeptItem| names.is_empty() || names.iter().any(|name| is(item, name));
    let wanted_spoilt = |spoilt: &Spoilt| names.is_empty() || names.iter().any(|name| name == spoilt.name());
    Ok((items.into_iter().filter(wanted).collect(), spoilt.into_iter().filter(wanted_spoilt).collect()))
}

fn connect(s3: &S3Config, journal: Arc<Journal>) -> Result<(tokio::runtime::Runtime, Uploads), Failure> {
    let runtime = runtime::start()?;
    let client = runtime.block_on(S3Client::connect(s3)).map_err(Failure::new)?;
    let uploads = Uploads { client, runtime: runtime.handle().clone(), journal };
    Ok((runtime, uploads))
}

/// One after the other; those that fail are named, and do not stop the others.
fn each(
    journal: &Journal,
    items: Vec<KeptItem>,
    failed: &str,
    mut act: impl FnMut(KeptItem) -> Result<(), Error>,
) -> Result<(), Failure> {
    let (all, mut failures) = (items.len(), 0);
    for item in items {
        let (key, in_upload) = (item.kept.key.escape_debug().to_string(), item.kept.upload.is_some());
        let done = match item.claim() {
            Ok(Some(_)) if is_owned(journal, &item) => {
                Err(Error::Busy("the mount that acknowledged it is sending it: see `pailfs flush`"))
            }
            Ok(Some(claim)) => {
                let done = act(item);
                drop(claim);
                done
            }
            Ok(None) => Err(Error::Busy("another `pailfs recover` is at work on it")),
            Err(e) => Err(Error::Io(format!("the local disk: {e}"))),
        };
        if let Err(e) = done {
            failures += 1;
            eprintln!("pailfs: {}", Failure::new(format_args!("{key} {failed}: {}", explain(&e, in_upload))));
        }
    }
    if failures > 0 {
        return Err(Failure::new(format_args!("{failures} of {all} {failed}, and stay kept")));
    }
    Ok(())
}

/// Where that cannot be seen, it is.
fn is_owned(journal: &Journal, item: &KeptItem) -> bool {
    journal.is_owned(&item.kept).unwrap_or(true)
}

/// With what is to be done next.
fn explain(e: &Error, in_upload: bool) -> String {
    match e {
        Error::Stale | Error::Exists if in_upload => format!(
            "{e} (what is in S3 is not what it was when the bytes were kept, and some of these are only in an upload, \
             from which they cannot be read): move what is in S3 to another name and --retry, or --discard it"
        ),
        Error::NotFound if in_upload => format!(
            "{e} (the upload that has some of the bytes is over, or the object gone that they are an edit of): --export \
             what is on this disk, then --discard it"
        ),
        Error::Stale | Error::NotFound | Error::Exists => format!(
            "{e} (what is in S3 is not what it was when the bytes were kept): --export it, compare the two, then \
             --discard it"
        ),
        _ => e.to_string(),
    }
}

async fn retry(uploads: &Uploads, item: KeptItem, quiet: bool) -> Result<(), Error> {
    let bar = bar(&item, quiet);
    let sent = send_unless_there(uploads, &item, &|bytes| bar.inc(bytes)).await;
    bar.finish_and_clear();
    let said = match sent? {
        Sent::Now => "was sent",
        Sent::Before => "was in S3 already, as it was kept",
    };
    let key = item.kept.key.escape_debug().to_string();
    item.discard().map_err(|e| Error::Io(format!("it {said}, but stays kept: {e}")))?;
    say(quiet, &format!("{key} {said}"));
    Ok(())
}

async fn export(client: &S3Client, item: &KeptItem, dir: &Path, quiet: bool) -> Result<(), Error> {
    let path = place_of(dir, &item.kept.key)?;
    let failed = |e: std::io::Error| Error::Io(format!("{}: {e}", path.display()));
    let file = new_file(&path).map_err(failed)?;
    let content = Content::open(client, item).map_err(failed)?;
    let bar = bar(item, quiet);
    let exported = content.export(&file, &|bytes| bar.inc(bytes)).await;
    bar.finish_and_clear();
    let why = match exported {
        Ok(()) => {
            file.sync_all().map_err(failed)?;
            say(quiet, &format!("{} was written", path.display()));
            return Ok(());
        }
        Err(_) if item.kept.upload.is_some() => {
            "some of it is only in an upload in S3, from which nothing can be read before --retry completes it"
        }
        Err(Error::Stale | Error::NotFound) => "the version that it is an edit of is in S3 no more",
        Err(e) => {
            std::fs::remove_file(&path).map_err(failed)?;
            return Err(e);
        }
    };
    // What is here can be had all the same.
    file.set_len(0).map_err(failed)?;
    content.export_kept_alone(&file)?;
    file.sync_all().map_err(failed)?;
    let path = path.display();
    Err(Error::Io(format!("{why}; {path} holds what is on this disk, at its offsets, and zeros elsewhere")))
}

/// Below `dir`, whatever the key is.
fn place_of(dir: &Path, key: &str) -> Result<PathBuf, Error> {
    let mut names = key.split('/').map(|name| key::check_name(name.as_bytes()));
    names.try_fold(dir.to_owned(), |path, name| Ok(path.join(name?)))
}

fn new_file(path: &Path) -> std::io::Result<File> {
    if let Some(above) = path.parent() {
        DirBuilder::new().mode(0o700).recursive(true).create(above)?;
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn bar(item: &KeptItem, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template("{wide_msg} {binary_bytes} of {binary_total_bytes} {bar:20}");
    let style = style.expect("a template that is known");
    let bar = ProgressBar::with_draw_target(Some(item.kept.size), target).with_style(style);
    bar.with_message(item.kept.key.escape_debug().to_string())
}

fn say(quiet: bool, line: &str) {
    if !quiet {
        eprintln!("{line}");
    }
}

fn show_all(journal: &Journal, items: &[KeptItem], spoilt: &[Spoilt], bucket: &str) -> Result<(), Failure> {
    let mut text = String::new();
    if items.is_empty() && spoilt.is_empty() {
        text = format!("nothing is kept for {bucket}\n");
    }
    items.iter().for_each(|item| text += &shown(journal, item));
    for spoilt in spoilt {
        let size = std::fs::metadata(spoilt.bytes()).map_or(0, |found| found.len());
        let (name, size) = (spoilt.name(), ByteSize(size).display().iec());
        text += &format!(
            "{name}\n  name:   {name}\n  size:   {size}\n  is:     spoilt: what it is cannot be read\n"
        );
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(e)),
        _ => Ok(()), // who reads no further has seen enough
    }
}

/// A block of lines, the first one the key.
fn shown(journal: &Journal, item: &KeptItem) -> String {
    let kept = &item.kept;
    let written: u64 = kept.ranges.iter().map(|range| range.end - range.start).sum();
    let size = |bytes: u64| ByteSize(bytes).display().iec();
    let over = match &kept.base {
        Some(base) => {
            format!("an edit of version {} ({})", base.etag.trim_matches('"').escape_debug(), size(base.size))
        }
        None if kept.exclusive => "a new file".into(),
        None => "a new file, or in place of what was there".into(),
    };
    let parts = match &kept.upload {
        Some(upload) => format!(
            " and are here, {} are in parts of an upload in S3, which --retry completes",
            size(upload.bytes())
        ),
        None => String::new(),
    };
    format!(
        "{}\n  name:   {}\n  size:   {}, of which {} were written{parts}\n  is:     {over}\n  kept:   {}\n  reason: {}\n",
        kept.key.escape_debug(),
        item.name(),
        size(kept.size),
        size(written),
        humantime::format_rfc3339_seconds(kept.at.max(SystemTime::UNIX_EPOCH)),
        match &kept.owner {
            None => Failure::new(&kept.reason),
            Some(_) if is_owned(journal, item) =>
                Failure::new("none: the mount that acknowledged it is sending it"),
            Some(_) => Failure::new("the mount that acknowledged it is gone; the next one sends it"),
        },
    )
}
