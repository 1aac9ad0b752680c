//! An account's buckets as the directories of its root.
//!
//! Owns: how S3 is asked for them: ListBuckets told as a listing, HeadBucket as a lookup; which of them are others', and
//! so what a known listing shows.
//! Invariants: a bucket that no listing shows is there for who names it, and is in no listing; no listing makes one
//! disappear.
//! Must never know: what is in a bucket.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use lru::LruCache;

use super::inode::Table;
use super::known::Source;
use super::{Listed, Namespace, Node, lock};
use crate::attr::Attributes;
use crate::config::check_bucket_name;
use crate::error::{Error, S3Error, S3ErrorKind};
use crate::s3::{ListPage, S3Client};

/// Others' buckets that are known to be there, at most; beyond, the next listing hides what was asked for least lately.
const STRANGERS_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Buckets that are there, and are not this account's.
pub(super) struct Strangers(LruCache<Box<str>, ()>);

impl Strangers {
    pub fn new() -> Strangers {
        Strangers(LruCache::new(STRANGERS_MAX))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn set(&mut self, name: &str, is_one: bool) {
        if is_one {
            self.0.put(name.into(), ());
        } else {
            self.0.pop(name);
        }
    }
}

impl Namespace {
    /// Whether the names in the root are buckets.
    pub fn is_of_buckets(&self) -> bool {
        self.client.bucket().is_empty()
    }

    /// Whether a bucket of this name is there, whoever owns it and whether it may be read or not.
    pub(super) async fn ask_bucket(&self, name: &str) -> Result<Option<Node>, Error> {
        let question = self.question("");
        let created = self.lock().created(name);
        // Some are older than the rules.
        let may_be = created.is_some() || check_bucket_name(name).is_ok();
        let Some(client) = self.client.beside(name).ok().filter(|_| may_be) else { return Ok(None) };
        let there = match client.head_bucket().await {
            Ok(()) => true,
            Err(e) if e.kind == S3ErrorKind::NoSuchBucket => false,
            // It is somebody's: its name is taken, and entering it tells the rest.
            Err(e) if e.code.as_deref() == Some("AccessDenied") => true,
            Err(e) => return Err(e.into()),
        };
        let created = match created {
            None if there => listed(&self.client, name).await,
            known => known,
        };
        let mut table = self.lock();
        match created.filter(|_| there) {
            Some(created) => table.hear_bucket(name, created, question.asked),
            None => table.hear_no_listing_of(name, there),
        }
        let said = there.then_some(Node::Directory);
        let stands = table.hear("", name, said.as_ref(), question.asked, Source::Asked);
        table.shrink();
        Ok(stands)
    }

    /// A bucket was made here.
    pub fn made_bucket(&self, name: &str) {
        self.lock().hear_bucket(name, SystemTime::now(), Instant::now());
    }

    /// When a bucket was made, as far as a listing told.
    pub fn created(&self, name: &str) -> Option<SystemTime> {
        self.lock().created(name)
    }
}

/// When the bucket was made, if it is one of this account's. Who may not list them has none.
async fn listed(client: &S3Client, name: &str) -> Option<SystemTime> {
    match client.list_buckets(name, None).await {
        Ok(page) => page.buckets.into_iter().find(|bucket| bucket.name == name).map(|bucket| bucket.created),
        Err(e) => {
            tracing::debug!("whose bucket {name} is: {e}");
            None
        }
    }
}

/// A page of the account's buckets, as the listing of a directory that holds nothing but directories.
pub(super) async fn list(
    client: &S3Client,
    table: &Mutex<Table>,
    token: Option<&str>,
) -> Result<ListPage, S3Error> {
    let asked = Instant::now();
    let page = client.list_buckets("", token).await?;
    let mut table = lock(table);
    let mut common_prefixes = Vec::with_capacity(page.buckets.len());
    for bucket in page.buckets {
        table.hear_bucket(&bucket.name, bucket.created, asked);
        common_prefixes.push(format!("{}/", bucket.name));
    }
    table.shrink();
    let next_continuation_token = page.next_continuation_token;
    Ok(ListPage { common_prefixes, next_continuation_token, ..ListPage::default() })
}

impl Table {
    /// The next entries of a directory whose whole listing is known, after the item `after`. None: it is
    /// known no longer.
    pub(super) fn entries_after(
        &self,
        dir: &str,
        after: &str,
        count: usize,
    ) -> Option<Vec<(String, Listed)>> {
        let known = self.dirs.get(dir)?;
        known.whole_since()?;
        let mut entries = known.entries_after(after, count);
        while self.strangers.is_some() {
            let Some((last, _)) = entries.last() else { break };
            let last = last.clone();
            entries.retain(|(_, listed)| !self.is_stranger(&listed.name));
            if !entries.is_empty() {
                break;
            }
            entries = known.entries_after(&last, count);
        }
        Some(entries)
    }

    /// Whether no listing shows the bucket.
    pub(super) fn is_stranger(&self, name: &str) -> bool {
        self.strangers.as_ref().is_some_and(|strangers| strangers.has(name))
    }

    fn set_stranger(&mut self, name: &str, is_one: bool) {
        if let Some(strangers) = &mut self.strangers {
            strangers.set(name, is_one);
        }
    }

    /// One of the account's own buckets. Its times are when it was made.
    fn hear_bucket(&mut self, name: &str, created: SystemTime, asked: Instant) {
        self.set_stranger(name, false);
        let times = Attributes { mtime: Some(created), ctime: Some(created), ..Attributes::default() };
        self.hear_marker_says(&format!("{name}/"), times, asked);
    }

    /// The bucket is not one of the account's own.
    fn hear_no_listing_of(&mut self, name: &str, there: bool) {
        self.set_stranger(name, there);
        let key = format!("{name}/");
        if self.dirs.contains_key(&*key) {
            self.edit(&key, |dir| dir.says = None);
        }
    }

    fn created(&self, name: &str) -> Option<SystemTime> {
        let says = self.dirs.get(&*format!("{name}/"))?.says.as_ref()?;
        says.kept.attributes.mtime
    }
}

/// What a namespace of buckets has beside others.
pub(super) fn strangers(of_buckets: bool) -> Option<Strangers> {
    of_buckets.then(Strangers::new)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::dir::Span;
    use super::super::{Numbers, Room};
    use super::*;

    #[test]
    fn others_buckets_are_there_and_in_no_listing() {
        let mut table = Table::new(Numbers::of_buckets(), "", Duration::from_secs(60), Room::new(1 << 20));
        table.strangers = strangers(true);
        let (dir, asked) = (Node::Directory, Instant::now());
        table.set_stranger("theirs", true);
        table.hear("", "theirs", Some(&dir), asked, Source::Asked);
        let cwd = table.intern("", "theirs", &dir);
        let asked = Instant::now();
        table.hear_range("", [("ours", &dir, asked)], Some(Span::whole(asked)), None);
        assert_eq!(table.child_in("", "theirs"), Some(cwd), "no listing speaks of it");
        let shown = table.entries_after("", "", 1).unwrap();
        assert_eq!(shown.iter().map(|(item, _)| item.as_str()).collect::<Vec<_>>(), ["ours/"]);
        assert!(table.entries_after("", "ours/", 1).unwrap().is_empty());
        assert_eq!(
            table.fresh_name("", "another"),
            None,
            "a listing of our own does not say what others have"
        );
        table.hear_bucket("theirs", SystemTime::UNIX_EPOCH, asked);
        assert_eq!(table.entries_after("", "", 9).unwrap().len(), 2);
    }

    #[test]
    fn others_buckets_are_capped() {
        let mut strangers = Strangers::new();
        (0..STRANGERS_MAX.get() + 5).for_each(|n| strangers.set(&n.to_string(), true));
        assert_eq!(strangers.0.len(), STRANGERS_MAX.get());
        assert!(!strangers.has("4") && strangers.has("5"));
    }
}
