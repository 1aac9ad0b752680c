//! Tree walks, carried out: pages asked for ahead of whoever reads directories one after another.
//!
//! Owns: [`Namespace::whole`], the tasks that bring the pages, and where a walk may begin.
//! Invariant: whoever waits for a page is woken when it has come, or will not come.
//! Must never know: when a page is worth asking for (`walk` decides).

use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::dir::Span;
use super::inode::Table;
use super::walk::{Ask, From, Step, Told, Walks};
use super::{Kind, Namespace};
use crate::key;
use crate::s3::ListObjectsV2;

impl Namespace {
    /// When the whole listing of a directory that is about to be read was asked for, if it is known and
    /// fresh, or a tree walk brings it. None: the directory is to be listed by itself.
    pub(super) async fn whole(self: Arc<Self>, dir: &str) -> Option<Instant> {
        let mut waited = 0;
        loop {
            let mut walked = self.walked.subscribe();
            let known = self.lock().whole_since(dir);
            if known.is_some() {
                let ahead = self.walks().read_known(dir);
                ahead.into_iter().for_each(|ask| self.clone().walk_on(ask));
                return known;
            }
            if self.forgets_at_once || !self.in_key_order() || key::past::is_past(dir) {
                return None;
            }
            let page_keys = self.client.list_page_keys() as usize;
            let start =
                |above: &str, before: &str, dir: &str| self.lock().walk_start(above, before, dir, page_keys);
            let step = self.walks().read(dir, waited, start);
            match step {
                Step::Plain => return None,
                Step::Wait => {}
                Step::Ask(ask) => self.clone().walk_on(ask),
            }
            waited += 1;
            // The sender is the namespace's own.
            let _ = walked.changed().await;
        }
    }

    /// Brings a page.
    fn walk_on(self: Arc<Self>, ask: Ask) {
        let under_way = UnderWay { walk: ask.walk, page: ask.page, namespace: self };
        tokio::spawn(async move {
            let namespace = &under_way.namespace;
            let question = namespace.question(&ask.root);
            let (start_after, continuation_token) = match ask.from {
                From::Key(key) => (Some(key), None),
                From::Token(token) => (None, Some(token)),
            };
            let query = ListObjectsV2 {
                prefix: ask.root.clone(),
                start_after,
                continuation_token,
                ..Default::default()
            };
            match namespace.client.list_objects_v2(&query).await {
                Ok(page) => {
                    let told = namespace.walks().told(ask.walk, page, question.asked);
                    namespace.take_told(&ask.root, told);
                }
                // Whoever waits lists for itself, and is told what is wrong.
                Err(e) => tracing::info!("a tree walk ends: {e}"),
            }
        });
    }

    fn take_told(&self, root: &str, told: Told) {
        if told.out_of_order {
            self.lists_in_another_order(root);
        }
        if told.hidden > 0 {
            let hidden = told.hidden;
            tracing::warn!(below = %root.escape_debug(), hidden, "keys that no path can name are not shown");
        }
        for whole in told.wholes {
            let (dir, asked) = (whole.dir, whole.asked);
            let mut table = self.lock();
            // It began with an earlier page, whose question is answered.
            if table.memory.lost_since(asked) {
                continue;
            }
            let names = whole.names.iter().map(|(name, node)| (name.as_str(), node, asked));
            table.hear_range(&dir, names, Some(Span::whole(asked)), None);
            if whole.marker {
                table.hear_marker(&dir, asked);
            }
            table.shrink();
        }
    }

    fn walks(&self) -> MutexGuard<'_, Walks> {
        self.walks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A page under way, also one whose task comes to nothing.
struct UnderWay {
    walk: u64,
    page: u64,
    namespace: Arc<Namespace>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.namespace.walks().failed(self.walk, self.page);
        self.namespace.walked.send_replace(());
    }
}

impl Table {
    /// The key after which a listing of all below `above` begins with directory `dir`, if `before` is the
    /// directory listed just before it and was no longer than a page.
    pub(super) fn walk_start(
        &self,
        above: &str,
        before: &str,
        dir: &str,
        page_keys: usize,
    ) -> Option<String> {
        let was_small =
            |before: &super::dir::Dir| before.whole_since().is_some() && before.len() <= page_keys;
        let parent = self.dirs.get(above)?;
        let (before_name, dir_name) = (key::split_dir(before).1, key::split_dir(dir).1);
        if !self.dirs.get(before).is_some_and(was_small)
            || parent.has_directory_between(before_name, dir_name)
        {
            return None;
        }
        let start = match parent.last_before_directory(dir_name) {
            None => dir_name.to_owned(),
            // All keys below it, and none of those that come after.
            Some((name, Kind::Directory)) => format!("{name}0"),
            Some((name, _)) => name.to_string(),
        };
        Some(format!("{above}{start}"))
    }
}
