//! Two files or directories change places: copies on the server's side, and deletions.
//!
//! Owns: [`exchange`], and what becomes of one that was interrupted: [`settle`].
//! Invariants: both have moved or none, also when this mount dies in between and another one follows; no content is ever
//! without an object; a name that both have is at no moment without one; what another host wrote meanwhile is neither
//! replaced nor removed.
//! Must never know: inodes, paths.
//!
//! The first is copied aside, the second takes its new place, then the first does, from aside. What stands at a place and
//! is whole elsewhere by then (in another stage) makes way: objects that are replaced stay until they are, others are
//! deleted first, for some servers have no file beside a directory of its name. Each stage can be undone by what is there,
//! and is, until all has moved.

use std::collections::{HashMap, HashSet};

use super::moves::{self, Moved, OBJECTS_MAX, is_copy};
use super::upload::Uploads;
use crate::config::KEY_BYTES_MAX;
use crate::error::Error;
use crate::journal::{Exchange, Intent, Stage};
use crate::s3::ListedObject;

/// Lets the first and the second change places; answers what moved of each. What goes is pinned by the ETags that are
/// found at the beginning of each stage.
///
/// Errors: [`Error::CrossDevice`] for more than a million objects together; [`Error::NameTooLong`]; [`Error::Stale`] where
/// another host changed one of them meanwhile; what S3 or the journal failed with. Then nothing has moved, or the journal
/// knows of it.
pub async fn exchange(uploads: &Uploads, what: &Exchange) -> Result<[Vec<Moved>; 2], Error> {
    let journal = &uploads.journal;
    let mut stage = Stage::Saving;
    let id = journal.begin(intent(what, stage))?;
    match carry_out(uploads, id, what, &mut stage).await {
        Ok(moved) => {
            match settle(uploads, id, what, Stage::Done).await {
                Ok(()) => journal.end(id),
                Err(e) => tracing::warn!(what.aside, "copies stay until the next mount removes them: {e}"),
            }
            Ok(moved)
        }
        Err(failed) => {
            match settle(uploads, id, what, stage).await {
                Ok(()) => journal.end(id),
                Err(e) => tracing::error!(
                    from = what.first.0,
                    to = what.first.1,
                    what.aside,
                    "half an exchange was made, and cannot be taken back now; the next mount will try: {e}"
                ),
            }
            Err(failed)
        }
    }
}

async fn carry_out(
    uploads: &Uploads,
    id: u64,
    what: &Exchange,
    stage: &mut Stage,
) -> Result<[Vec<Moved>; 2], Error> {
    let Exchange { first, second, aside } = what;
    uploads.journal.sync().await?;
    let saved = moves::copy_below(uploads, &first.0, aside, OBJECTS_MAX).await?;
    advance(uploads, id, what, Stage::MovingSecond, stage).await?;
    let objects_max = OBJECTS_MAX - saved.len();
    let place = Place { from: &second.0, to: &second.1, old: &first.0 };
    let moved_second = replace(uploads, place, &Old::Moved(by_name(&saved)), objects_max).await?;
    advance(uploads, id, what, Stage::MovingFirst, stage).await?;
    let place = Place { from: aside, to: &first.1, old: &second.0 };
    let moved_first = replace(uploads, place, &Old::Moved(by_name(&moved_second)), OBJECTS_MAX).await?;
    advance(uploads, id, what, Stage::Done, stage).await?;
    let saved = by_name(&saved);
    let from_first = |moved: Moved| {
        let was = saved.get(moved.name.as_str())?.was.clone();
        Some(Moved { was, ..moved })
    };
    Ok([moved_first.into_iter().filter_map(from_first).collect(), moved_second])
}

/// Undoes an exchange, unless both have moved.
///
/// Errors: what S3 or the journal failed with; the journal knows how far it is.
pub async fn settle(uploads: &Uploads, id: u64, what: &Exchange, mut stage: Stage) -> Result<(), Error> {
    let Exchange { first, second, aside } = what;
    let client = &uploads.client;
    if stage == Stage::MovingFirst {
        let copies = Old::CopiesOf(moves::list_below(client, aside, usize::MAX).await?);
        let place = Place { from: &second.1, to: &second.0, old: &first.1 };
        replace(uploads, place, &copies, usize::MAX).await?;
        advance(uploads, id, what, Stage::MovingSecond, &mut stage).await?;
    }
    if stage == Stage::MovingSecond {
        let copies = Old::CopiesOf(moves::list_below(client, &second.0, usize::MAX).await?);
        let place = Place { from: aside, to: &first.0, old: &second.1 };
        replace(uploads, place, &copies, usize::MAX).await?;
        advance(uploads, id, what, Stage::Saving, &mut stage).await?;
    }
    match stage {
        Stage::Done => moves::finish(client, aside, &first.1).await,
        // Of what never moved the copies are younger, of what came back they are older.
        _ => {
            moves::undo(client, &first.0, aside, false).await?;
            moves::finish(client, aside, &first.0).await
        }
    }
}

/// From now on the exchange is at this stage, also for the next mount.
async fn advance(
    uploads: &Uploads,
    id: u64,
    what: &Exchange,
    to: Stage,
    stage: &mut Stage,
) -> Result<(), Error> {
    uploads.journal.replace(id, intent(what, to))?;
    *stage = to;
    Ok(uploads.journal.sync().await?)
}

fn intent(what: &Exchange, stage: Stage) -> Intent {
    Intent::Exchange { what: what.clone(), stage }
}

fn by_name(moved: &[Moved]) -> HashMap<&str, &Moved> {
    moved.iter().map(|object| (object.name.as_str(), object)).collect()
}

/// What comes from where to where, and the place that what makes way for it had: the same, unless one of the two is a file
/// and the other a directory.
struct Place<'a> {
    from: &'a str,
    to: &'a str,
    old: &'a str,
}

/// What makes way, for it is a second time elsewhere.
enum Old<'a> {
    /// These were copied from there.
    Moved(HashMap<&'a str, &'a Moved>),
    /// These were copied to there.
    CopiesOf(HashMap<String, ListedObject>),
}

impl Old<'_> {
    fn has(&self, name: &str, object: &ListedObject) -> bool {
        match self {
            Old::Moved(moved) => moved.get(name).is_some_and(|moved| moved.was == object.etag),
            Old::CopiesOf(originals) => originals.get(name).is_some_and(|original| is_copy(original, object)),
        }
    }
}

/// What is to be done to let one thing take the place of another.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// Keys.
    deletes: Vec<String>,
    /// Names that another host wrote, at which nothing is put.
    foreign: HashSet<String>,
}

/// `new`: what comes; `standing`: what is where that goes; `old`: what is at the place of what makes way, if that is
/// another.
fn plan(
    new: &HashMap<String, ListedObject>,
    standing: &HashMap<String, ListedObject>,
    old: Option<&HashMap<String, ListedObject>>,
    makes_way: &Old<'_>,
) -> Plan {
    let mut plan = Plan::default();
    for (name, object) in old.unwrap_or(standing) {
        let replaced = old.is_none() && new.contains_key(name);
        if !replaced && makes_way.has(name, object) {
            plan.deletes.push(object.key.clone());
        }
    }
    for (name, comes) in new {
        let Some(object) = standing.get(name) else { continue };
        let is_old = old.is_none() && makes_way.has(name, object);
        // Where it comes back: what it is a copy of may be there still, or it may be back already.
        let comes_back = matches!(makes_way, Old::CopiesOf(_));
        let is_back = comes_back && (is_copy(object, comes) || is_copy(comes, object));
        if !is_old && !is_back {
            plan.foreign.insert(name.clone());
        }
    }
    plan
}

/// Lets one thing take the place of another. Coming back it leaves alone what another host put there.
///
/// Errors: [`Error::Stale`] where another host put anything there, or removed what comes; [`Error::CrossDevice`] for more than `objects_max`,
/// [`Error::NameTooLong`], each before anything was changed; what S3 failed with.
async fn replace(
    uploads: &Uploads,
    Place { from, to, old }: Place<'_>,
    makes_way: &Old<'_>,
    objects_max: usize,
) -> Result<Vec<Moved>, Error> {
    let client = &uploads.client;
    let new = moves::list_below(client, from, objects_max).await?;
    let standing = moves::list_below(client, to, usize::MAX).await?;
    let elsewhere = match to == old {
        true => None,
        false => Some(moves::list_below(client, old, usize::MAX).await?),
    };
    if new.keys().any(|name| to.len() + name.len() > KEY_BYTES_MAX) {
        return Err(Error::NameTooLong);
    }
    let Plan { deletes, foreign } = plan(&new, &standing, elsewhere.as_ref(), makes_way);
    if matches!(makes_way, Old::Moved(_)) && (new.is_empty() || !foreign.is_empty()) {
        return Err(Error::Stale);
    }
    for name in &foreign {
        let key = format!("{to}{name}");
        tracing::error!(key, from, "another host wrote it during an exchange: what it was stays aside");
    }
    moves::delete(client, deletes).await?;
    moves::copy_where(uploads, from, to, objects_max, |name| !foreign.contains(name)).await
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Objects below `dir`: name, ETag, when it was written.
    fn objects(dir: &str, of: &[(&str, &str, u64)]) -> HashMap<String, ListedObject> {
        let object = |(name, etag, seconds): &(&str, &str, u64)| {
            let last_modified = SystemTime::UNIX_EPOCH + Duration::from_secs(*seconds);
            let (key, etag) = (format!("{dir}{name}"), (*etag).to_owned());
            (
                (*name).to_owned(),
                ListedObject { key, size: 1, etag, last_modified, storage_class: None, checksum: None },
            )
        };
        of.iter().map(object).collect()
    }

    fn sorted(plan: Plan) -> (Vec<String>, Vec<String>) {
        let (mut deletes, mut foreign) = (plan.deletes, Vec::from_iter(plan.foreign));
        deletes.sort();
        foreign.sort();
        (deletes, foreign)
    }

    #[test]
    fn what_makes_way_and_what_is_left_alone() {
        let moved =
            |name: &str, was: &str| Moved { name: name.into(), was: was.into(), etag: "aside".into() };
        let saved = [moved("both", "1"), moved("only", "2"), moved("changed", "3"), moved("anew", "4")];
        let new = objects("b/", &[("both", "x", 9), ("anew", "y", 9)]);
        let there = objects(
            "a/",
            &[("both", "1", 1), ("only", "2", 1), ("changed", "theirs", 9), ("theirs", "z", 9)],
        );
        let makes_way = Old::Moved(by_name(&saved));
        let there_goes = sorted(plan(&new, &there, None, &makes_way));
        assert_eq!(there_goes, (vec!["a/only".into()], vec![]), "replaced, deleted, another host's");
        let anew = objects("a/", &[("anew", "theirs", 9)]);
        assert_eq!(sorted(plan(&new, &anew, None, &makes_way)), (vec![], vec!["anew".into()]));
        // Of two kinds: what makes way is elsewhere, and goes as a whole.
        let file = objects("a", &[("", "1", 1)]);
        let saved = [moved("", "1")];
        let makes_way = Old::Moved(by_name(&saved));
        let nothing = HashMap::new();
        assert_eq!(sorted(plan(&new, &nothing, Some(&file), &makes_way)), (vec!["a".into()], vec![]));
    }

    #[test]
    fn what_comes_back_takes_the_place_of_copies_and_of_itself() {
        let aside =
            objects("aside/", &[("both", "1", 5), ("parts", "2-2", 5), ("same", "3", 5), ("hit", "4", 5)]);
        // Where the second was copied to, or was not yet.
        let there = objects(
            "a/",
            &[
                ("both", "x", 6),
                ("parts", "2-1", 1),
                ("same", "3", 1),
                ("hit", "theirs", 9),
                ("y", "y", 6),
                ("z", "z", 6),
            ],
        );
        let second = objects("b/", &[("both", "x", 2), ("same", "3", 2), ("y", "y", 2)]);
        let back = sorted(plan(&aside, &there, None, &Old::CopiesOf(second)));
        assert_eq!(back.0, ["a/y"], "what is not the second's is another host's");
        // Of the same size, and younger than what is aside, it may be that: only another host's is told by its size.
        assert_eq!(back.1, [""; 0]);
        let larger = |mut object: ListedObject| {
            object.size = 2;
            object
        };
        let there = there.into_iter().map(|(name, object)| (name, larger(object))).collect();
        let back = sorted(plan(&aside, &there, None, &Old::CopiesOf(HashMap::new())));
        assert_eq!(back.1, ["both", "hit", "parts", "same"]);
    }
}
