//! Renewing a page at a time: names asked about one after another, in order, after their listing aged.
//!
//! Owns: [`Namespace::renew`], and the rule when a page is worth more than a HEAD and a LIST.
//! Invariants: one such request at a time in a directory, and whoever it may answer waits for it; where
//! the server does not list in key order there are none.

use std::sync::{Arc, Weak};

use super::dir::{Dir, Span};
use super::inode::Table;
use super::listing::Merge;
use super::{Namespace, Node};
use crate::error::Error;
use crate::key;
use crate::s3::ListObjectsV2;

/// Names known between two that are asked about, at most, for these to be one walk.
const NEAR: usize = 32;

/// Who renews a page of a directory; gone when nobody does.
pub(super) type Turn = Weak<tokio::sync::Mutex<()>>;

impl Namespace {
    /// What stands at a name, from a page of its directory's listing that begins just before it. None:
    /// nothing speaks for a page, or the page did not come so far.
    pub(super) async fn renew(&self, dir: &str, name: &str) -> Result<Option<Option<Node>>, Error> {
        let in_order = self.in_key_order() && !key::past::is_past(dir);
        if self.forgets_at_once || !in_order || self.lock().page_before(dir, name).is_none() {
            return Ok(None);
        }
        let turn = self.turn(dir);
        let _turn = turn.lock().await;
        let after = {
            let mut table = self.lock();
            if let Some(known) = table.fresh_name(dir, name) {
                return Ok(Some(known));
            }
            let Some(after) = table.page_before(dir, name) else { return Ok(None) };
            after
        };
        let question = self.question(dir);
        let query = ListObjectsV2 {
            prefix: dir.into(),
            delimiter: true,
            start_after: Some(format!("{dir}{after}")),
            ..Default::default()
        };
        let page = self.client.list_objects_v2(&query).await?;
        let at_end = page.next_continuation_token.is_none();
        let mut merge = Merge::after(dir, &after);
        merge.page(page, question.asked);
        if at_end {
            merge.release_all();
        }
        if !merge.in_order() {
            self.lists_in_another_order(dir);
            return Ok(None);
        }
        let upto = (!at_end).then(|| merge.last().into());
        let span = Span { after: after.into(), upto, asked: question.asked };
        let decides = span.decides(name);
        let mut table = self.lock();
        let entries: Vec<_> = merge.decided().collect();
        table.hear_range(
            dir,
            entries.iter().map(|d| (&*d.listed.name, &d.listed.node, d.asked)),
            Some(span),
            None,
        );
        // Before room is made, for which what was just heard may have to go.
        let stands = table.known(dir, name).flatten();
        table.shrink();
        Ok(decides.then_some(stands))
    }

    /// By a key: one question about it at a time.
    pub(super) fn turn(&self, dir: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(turn) = turns.get(dir).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(dir.into(), Arc::downgrade(&turn));
        turn
    }
}

impl Table {
    /// The item after which a page should begin to tell of `name`: the name asked about last, if that is
    /// near before it in a directory that was listed once.
    fn page_before(&self, dir: &str, name: &str) -> Option<String> {
        let known = self.dirs.get(dir).filter(|known| known.listed)?;
        let cursor = known.cursor_near(name)?;
        // `a/` would come after the name asked for where that is `a!b`.
        let below = format!("{cursor}/");
        Some(if below.as_str() < name { below } else { cursor.to_owned() })
    }

    /// The name was asked about.
    pub(super) fn walked_to(&mut self, dir: &str, name: &str) {
        let attributes = self.attributes;
        if let Some(known) = self.dirs.get_mut(dir)
            && let Some(name) = known.shared(name)
        {
            if attributes {
                known.run = if known.cursor_near(&name).is_some() { known.run + 1 } else { 0 };
            }
            known.cursor = Some(name);
        }
    }
}

impl Dir {
    /// The name asked about last, if that is near before this one.
    fn cursor_near(&self, name: &str) -> Option<&str> {
        let cursor = self.cursor.as_deref().filter(|cursor| *cursor < name)?;
        let between = self.slots_after(cursor).take_while(|(next, _)| &***next < name);
        (between.take(NEAR + 1).count() <= NEAR).then_some(cursor)
    }
}
