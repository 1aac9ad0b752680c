//! The pages of one directory's listing, several of them asked for side by side.
//!
//! Owns: [`Pages`]: which page is asked for when, and whether an answer may be believed to go on where the last
//! one ended.
//! Invariants: what is given is what a plain walk from token to token would give, in the same order and each
//! item once; at most [`GUESSES_MAX`] pages and one are under way or wait; of a listing that takes n pages one
//! after another, never more than 1.5 n + [`SPARE`] are asked for.
//! Must never know: inodes, names' meaning, how guesses are made.
//!
//! # Why nothing is missed, whatever the server's order
//! A continuation token leads to exactly what follows. `start-after` leads to where *this server's* order has
//! it: by bytes on S3, by path component on SeaweedFS (`d/` before `d!x`), nowhere in particular on directory
//! buckets. So no conclusion is drawn from it. A page that was guessed is taken only if it **overlaps** what
//! was given: all that it holds up to the last item given must be, item for item, what was given after the
//! guess, that last item among it. A page is an unbroken run of the server's order, whatever that is, and so is
//! all that was given, from the very beginning; two such runs that share an item make one. What follows the
//! shared items is then what follows, and what the page's token leads to as well.
//!
//! Contents and common prefixes come apart in a page, so the order between them is not seen, only assumed to be
//! that of bytes. Where it is another, the items up to the last one differ from those given, or are the same
//! after all; the comparison sees all of them. That no item comes twice follows from all items being greater
//! than the last one given; a page in which they are not shows a server without S3's order, and from there on
//! one token follows the other (were one to come twice all the same, the merge of pages leaves it out).
//!
//! Guesses therefore aim a little before where the last page should end. If one falls behind its end, the page
//! in between is asked for by token, and the guessed page is joined to that; if one falls too far before, it is
//! dropped, and so is one that overlaps differently, because names came or went meanwhile.

use std::collections::VecDeque;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::predict::Outlook;
use crate::config::KEY_BYTES_MAX;
use crate::error::{Error, S3Error};
use crate::s3::ListPage;

/// Guessed pages under way or waiting, at most: a page is some 200 KB, rarely 1 MB.
pub(super) const GUESSES_MAX: usize = 16;
/// Requests a listing may take beyond 1.5 times those of a plain walk: all guesses may prove wrong once, each
/// with one more page that fills the hole.
pub(super) const SPARE: usize = 2 * GUESSES_MAX;
/// The pages that come by token before the first guess: most directories have no more.
const PLAIN_FIRST: usize = 2;
/// The pages that come by token after guesses failed: so many at first, twice as many each time up to the last.
const PLAIN_AFTER: [usize; 2] = [4, 64];

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Begin {
    Start,
    Token(String),
    /// After this key.
    Key(String),
}

/// How a page is got.
pub(super) type Ask = Box<dyn Fn(Begin) -> BoxFuture<'static, Result<ListPage, S3Error>> + Send + Sync>;

/// A page, and when it was asked for.
type Answer = (Result<ListPage, Error>, Instant);

/// A request under way, which ends with this.
struct Asked(JoinHandle<Answer>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Guess {
    after: String,
    page: Asked,
}

/// What the next page will be.
enum Next {
    Start,
    /// What the last page's token leads to.
    Token(Asked),
    /// A guess that falls within the last page, whose token leads on if the guess does not.
    Guess {
        guess: Guess,
        overlap: Overlap,
        token: String,
    },
    End,
}

/// What was given after a guess.
struct Overlap {
    keys: Vec<String>,
    prefixes: Vec<String>,
}

pub(super) struct Pages {
    ask: Ask,
    dir: String,
    next: Next,
    /// The greatest item given.
    last: String,
    /// In order, none before `last`.
    guesses: VecDeque<Guess>,
    /// None: the server does not list in key order, or refused a guess.
    outlook: Option<Outlook>,
    pace: Pace,
}

impl Pages {
    /// Nothing is asked for yet. `dir`: the prefix.
    pub(super) fn new(dir: &str, ask: Ask) -> Pages {
        Pages {
            ask,
            dir: dir.into(),
            next: Next::Start,
            last: String::new(),
            guesses: VecDeque::new(),
            outlook: Some(Outlook::default()),
            pace: Pace::new(),
        }
    }

    /// The next page, and when it was asked for. None at the end, and after an error.
    pub(super) async fn next(&mut self) -> Result<Option<(ListPage, Instant)>, Error> {
        loop {
            let (answer, asked) = match &mut self.next {
                Next::End => return Ok(None),
                Next::Start => {
                    self.next = Next::Token(self.send(Begin::Start));
                    continue;
                }
                Next::Token(page) | Next::Guess { guess: Guess { page, .. }, .. } => answered(page).await,
            };
            let page = match (std::mem::replace(&mut self.next, Next::End), answer) {
                (Next::Guess { overlap, token, .. }, answer) => match self.joined(answer, &overlap) {
                    Some(page) => page,
                    None => {
                        self.pace.missed();
                        self.next = Next::Token(self.send(Begin::Token(token)));
                        continue;
                    }
                },
                (_, Ok(page)) => self.followed(page),
                (_, Err(e)) => {
                    self.guesses.clear();
                    return Err(e);
                }
            };
            self.look_ahead(&page);
            return Ok(Some((page, asked)));
        }
    }

    /// Whether the last page was given.
    pub(super) fn at_end(&self) -> bool {
        matches!(self.next, Next::End)
    }

    /// What a guessed page has beyond the overlap, if it overlaps as it must.
    fn joined(&mut self, answer: Result<ListPage, Error>, overlap: &Overlap) -> Option<ListPage> {
        let mut page = match answer {
            Ok(page) => page,
            Err(e) => {
                // What the server would do with the plain request, that one finds out.
                tracing::debug!(error = %e, "a listing goes on without start-after");
                self.guesses.clear();
                self.outlook = None;
                return None;
            }
        };
        let (keys, prefixes) = given_of(&page, &self.last);
        let as_given = page.contents.iter().take(keys).map(|object| &object.key).eq(&overlap.keys)
            && page.common_prefixes.iter().take(prefixes).eq(&overlap.prefixes);
        // Where an item that cannot be read stood, is not known.
        if !as_given || !ascending(&page) || page.undecodable > 0 {
            return None;
        }
        page.contents.drain(..keys);
        page.common_prefixes.drain(..prefixes);
        if items(&page) > 0 {
            self.pace.hit()
        } else {
            self.pace.missed()
        }
        Some(page)
    }

    /// A page that a token led to. Some servers repeat the last item.
    fn followed(&mut self, mut page: ListPage) -> ListPage {
        if self.outlook.is_none() {
            return page;
        }
        page.contents.retain(|object| object.key != self.last);
        page.common_prefixes.retain(|prefix| *prefix != self.last);
        if given_of(&page, &self.last) != (0, 0) || !ascending(&page) {
            self.guesses.clear();
            self.outlook = None;
        }
        page
    }

    /// Asks for what comes after the page that is about to be given.
    fn look_ahead(&mut self, page: &ListPage) {
        let Some(token) = page.next_continuation_token.clone() else {
            self.guesses.clear();
            return;
        };
        let Some(outlook) = &mut self.outlook else {
            self.next = Next::Token(self.send(Begin::Token(token)));
            return;
        };
        if let Some(last) = in_order(page).last() {
            self.last.clear();
            self.last.push_str(last);
        }
        // The first page has the names that are like no other.
        if self.pace.given > 0 {
            outlook.page(in_order(page).filter_map(|item| item.strip_prefix(&self.dir)));
        }
        self.pace.given(items(page));
        let mut within = None;
        while self.guesses.front().is_some_and(|guess| guess.after < self.last) {
            within = self.guesses.pop_front();
        }
        self.next = match within {
            Some(guess) => Next::Guess { overlap: Overlap::of(page, &guess.after), guess, token },
            None => {
                if !self.guesses.is_empty() {
                    self.pace.missed();
                }
                Next::Token(self.send(Begin::Token(token)))
            }
        };
        self.guess();
    }

    /// Sends guesses, as many as the pace allows.
    fn guess(&mut self) {
        let Some(outlook) = &self.outlook else { return };
        let joining = match &self.next {
            Next::Guess { guess, .. } => Some(guess),
            _ => None,
        };
        let count = self.pace.guesses(self.guesses.len() + usize::from(joining.is_some()));
        let step = self.pace.step();
        if count == 0 || step == 0 {
            return;
        }
        // Where the last page that was asked for begins.
        let tip = self.guesses.back().or(joining).map_or(&self.last, |guess| &guess.after);
        let Some(tip) = tip.strip_prefix(&self.dir) else { return };
        for name in outlook.ahead(tip, step, count) {
            let after = format!("{}{name}", self.dir);
            if after > self.last && after.len() <= KEY_BYTES_MAX {
                let page = self.send(Begin::Key(after.clone()));
                self.guesses.push_back(Guess { after, page });
            }
        }
    }

    fn send(&mut self, from: Begin) -> Asked {
        self.pace.sent += 1;
        let page = (self.ask)(from);
        Asked(tokio::spawn(async move {
            let asked = Instant::now();
            (page.await.map_err(Error::from), asked)
        }))
    }
}

/// How many guesses are worth sending, by how the last ones went. Pure.
struct Pace {
    /// Guesses that may be under way.
    window: usize,
    /// Pages to come by token before the next guess.
    plain: usize,
    /// What `plain` will be when guesses fail again.
    plain_next: usize,
    sent: usize,
    /// Items given.
    given: usize,
    /// The most items that a page brought.
    page_items: usize,
}

impl Pace {
    fn new() -> Pace {
        let [plain_next, _] = PLAIN_AFTER;
        Pace { window: 0, plain: PLAIN_FIRST, plain_next, sent: 0, given: 0, page_items: 1 }
    }

    fn given(&mut self, items: usize) {
        self.given += items;
        self.page_items = self.page_items.max(items);
        self.plain = self.plain.saturating_sub(1);
        if self.window == 0 && self.plain == 0 {
            self.window = 2;
        }
    }

    fn hit(&mut self) {
        [self.plain_next, _] = PLAIN_AFTER;
        self.window = (2 * self.window).clamp(2, GUESSES_MAX);
    }

    fn missed(&mut self) {
        let [_, plain_max] = PLAIN_AFTER;
        self.window /= 2;
        if self.window == 0 && self.plain == 0 {
            self.plain = self.plain_next;
            self.plain_next = (2 * self.plain_next).min(plain_max);
        }
    }

    /// How many to send while so many are under way, each of which may yet call for one more page.
    fn guesses(&self, under_way: usize) -> usize {
        let pages = self.given / self.page_items;
        let affordable = (3 * pages / 2 + SPARE).saturating_sub(self.sent + under_way) / 2;
        // How long a listing is likely to be yet: as long as it was. Beyond its end guesses are wasted.
        self.window.min(pages).saturating_sub(under_way).min(affordable)
    }

    /// Items from one guess to the next: a page but for the part by which pages should overlap.
    fn step(&self) -> usize {
        self.page_items - self.page_items.div_ceil(15)
    }
}

async fn answered(page: &mut Asked) -> Answer {
    let broken = |e| (Err(Error::Io(format!("listing: {e}"))), Instant::now());
    (&mut page.0).await.unwrap_or_else(broken)
}

impl Overlap {
    fn of(page: &ListPage, after: &str) -> Overlap {
        let (keys, prefixes) = given_of(page, after);
        Overlap {
            keys: page.contents.iter().skip(keys).map(|object| object.key.clone()).collect(),
            prefixes: page.common_prefixes.iter().skip(prefixes).cloned().collect(),
        }
    }
}

fn items(page: &ListPage) -> usize {
    page.contents.len() + page.common_prefixes.len()
}

/// How many keys and how many common prefixes of a page in order lie at `last` or before.
fn given_of(page: &ListPage, last: &str) -> (usize, usize) {
    let keys = page.contents.partition_point(|object| object.key.as_str() <= last);
    let prefixes = page.common_prefixes.partition_point(|prefix| prefix.as_str() <= last);
    (keys, prefixes)
}

fn ascending(page: &ListPage) -> bool {
    page.contents.is_sorted_by(|a, b| a.key < b.key) && page.common_prefixes.is_sorted_by(|a, b| a < b)
}

/// Keys and common prefixes as one, in the order of bytes.
fn in_order(page: &ListPage) -> impl Iterator<Item = &str> {
    let mut keys = page.contents.iter().map(|object| object.key.as_str()).peekable();
    let mut prefixes = page.common_prefixes.iter().map(String::as_str).peekable();
    std::iter::from_fn(move || match (keys.peek(), prefixes.peek()) {
        (Some(key), Some(prefix)) if prefix < key => prefixes.next(),
        (Some(_), _) => keys.next(),
        (None, _) => prefixes.next(),
    })
}

#[cfg(test)]
mod tests;
