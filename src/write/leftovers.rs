//! What mounts that died had begun or acknowledged, as their journals tell it.
//!
//! Owns: how each intention is finished or undone, and in which order.
//! Invariants: only what a journal names is touched; an intention ends when S3 has what it should have, and else stays
//! for the next mount; what another host made since is not removed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};

use super::exchange;
use super::markers::{self, Contents};
use super::moves::{self, is_copy, object};
use super::recover;
use super::upload::{Uploads, abort};
use crate::error::{Error, S3Error};
use crate::journal::{Base, Intent, Journal, Kept, KeptItem, Open};
use crate::s3::{ObjectHeaders, ObjectId, S3Client};

/// How far the server's clock may be from ours, with how long a request may take.
const CLOCK_SLACK: Duration = Duration::from_secs(300);
/// How long an upload of which only the key is known must have no parts to be taken for a dead mount's.
const NAMELESS_PAUSE: Duration = Duration::from_secs(10);
/// Requests side by side.
const IN_FLIGHT_MAX: usize = 16;

/// Finishes or undoes the renames among `left`, one after the other. What was acknowledged of the files (`items`) moves
/// along.
pub async fn settle_renames(uploads: &Uploads, left: &[Open], items: &mut Vec<KeptItem>) {
    let Uploads { client, journal, .. } = uploads;
    for open in left {
        let (from, to, settled, what) = match &open.intent {
            Intent::Rename { from, to, at, .. } if open.committed => {
                let finished = async {
                    moves::finish(client, from, to).await?;
                    move_items(client, items, (from, *at), to).await
                };
                let finished = finished.await;
                if finished.is_err() {
                    hold_back(items, (from, *at), None);
                }
                (from, to, finished, "finished")
            }
            Intent::Rename { from, to, over, .. } => {
                (from, to, moves::undo(client, from, to, *over).await, "undone")
            }
            Intent::RenameFile { from, to, etag, replaced, keep, drops, at } => {
                let settled = async {
                    if finish_file(client, (from, etag), (to, replaced.as_deref()), *keep, open.committed)
                        .await?
                    {
                        drop_item(journal, items, drops.as_deref());
                        move_items(client, items, (from, *at), to).await?;
                    }
                    Ok(())
                };
                let settled = settled.await;
                if settled.is_err() {
                    hold_back(items, (from, *at), drops.as_deref());
                }
                (from, to, settled, "finished, or had not begun")
            }
            Intent::Exchange { what, stage } => {
                let settled = exchange::settle(uploads, open.id, what, *stage).await;
                (&what.first.0, &what.second.0, settled, "finished or undone")
            }
            _ => continue,
        };
        match settled {
            Ok(()) => {
                tracing::warn!(from, to, "a rename that a mount left when it died is {what}");
                journal.end(open.id);
            }
            Err(e) => {
                tracing::error!(from, to, "a rename that a mount left when it died cannot be {what}: {e}")
            }
        }
    }
}

fn drop_item(journal: &Journal, items: &mut Vec<KeptItem>, name: Option<&str>) {
    items.extract_if(.., |item| Some(item.name()) == name).for_each(|item| journal.discard(item));
}

/// What a rename that is not settled is to move, or to drop by this name, waits with it.
fn hold_back(items: &mut Vec<KeptItem>, from: (&str, SystemTime), drops: Option<&str>) {
    items.retain(|item| below(item, from).is_none() && Some(item.name()) != drops);
}

/// What follows `from` in the key of an item that was there when the rename began.
fn below<'a>(item: &'a KeptItem, (from, at): (&str, SystemTime)) -> Option<&'a str> {
    let rest = item.kept.key.strip_prefix(from).filter(|_| item.kept.at <= at)?;
    (rest.is_empty() || from.ends_with('/')).then_some(rest)
}

/// What was acknowledged of the file `from`, or of those below it (it ends in `/`), when a rename began at this time, goes
/// on where they are now.
async fn move_items(
    client: &S3Client,
    items: &mut [KeptItem],
    from: (&str, SystemTime),
    to: &str,
) -> Result<(), Error> {
    for item in items {
        let Some(rest) = below(item, from) else { continue };
        let key = format!("{to}{rest}");
        let etag = object(client, &key).await?.map(|moved| moved.etag);
        let etag = |before: String| etag.clone().unwrap_or(before);
        let Kept { base, over, .. } = item.kept.clone();
        let base = base.map(|base| Base { etag: etag(base.etag), ..base });
        let moved = Kept { key, base, over: over.map(etag), ..item.kept.clone() };
        item.rewrite(moved).map_err(|e| Error::Io(format!("the staging directory: {e}")))?;
    }
    Ok(())
}

/// The original goes if its copy is there. It is not the only one left then, whoever wrote what is at `to`. Answers
/// whether the file has moved.
async fn finish_file(
    client: &S3Client,
    (from, etag): (&str, &str),
    (to, replaced): (&str, Option<&str>),
    keep: bool,
    copied: bool,
) -> Result<bool, S3Error> {
    let (original, copy) = (object(client, from).await?, object(client, to).await?);
    let copy = copy.filter(|copy| replaced != Some(copy.etag.as_str()) || copy.etag == etag);
    let Some(copy) = copy else { return Ok(false) };
    let Some(original) = original else { return Ok(copied) };
    let moved = original.etag == etag && is_copy(&original, &copy);
    if moved {
        let acl = client.acl_to_keep(ObjectId::current(from)).await?;
        client.put_acl_again(ObjectId::current(to), acl).await?;
        remove(client, from, keep).await?;
    }
    Ok(moved)
}

/// Aborts the uploads among `left`: their parts are in nobody's way, but cost room. Nobody else's are touched, for an
/// upload id is S3's word for one upload alone. `needed`: of uploads that have bytes which nobody else has; those stay.
pub async fn abort_uploads(
    client: S3Client,
    journal: Arc<Journal>,
    left: Vec<Open>,
    needed: HashSet<String>,
) {
    let (client, journal, needed) = (&client, &journal, &needed);
    stream::iter(left)
        .for_each_concurrent(IN_FLIGHT_MAX, |open| async move {
            let (key, aborted) = match open.intent {
                // The mount died when it had kept the bytes, before it ended this.
                Intent::Upload { upload_id, .. } if needed.contains(&upload_id) => {
                    return journal.end(open.id);
                }
                Intent::Upload { key, upload_id } => {
                    let aborted = abort(client, &key, &upload_id).await;
                    (key, aborted)
                }
                Intent::CreateUpload { key, at } => {
                    let aborted = abort_nameless(client, &key, at).await;
                    (key, aborted)
                }
                _ => return,
            };
            match aborted {
                Ok(()) => {
                    tracing::info!(key, "an upload that a mount left when it died is gone");
                    journal.end(open.id);
                }
                Err(e) => tracing::warn!(key, "an upload that a mount left when it died stays: {e}"),
            }
        })
        .await;
}

/// Ours, if it was begun at all, is of that time and has no parts, since we never heard its id. So that it is not
/// another host's, which was begun in the same minutes for the same key, it has none for a while either.
async fn abort_nameless(client: &S3Client, key: &str, at: SystemTime) -> Result<(), S3Error> {
    let first = without_parts(client, key, at).await?;
    if first.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(NAMELESS_PAUSE).await;
    for upload_id in without_parts(client, key, at).await? {
        if first.contains(&upload_id) {
            abort(client, key, &upload_id).await?;
        }
    }
    Ok(())
}

async fn without_parts(client: &S3Client, key: &str, at: SystemTime) -> Result<Vec<String>, S3Error> {
    let around = (at - CLOCK_SLACK)..(at + CLOCK_SLACK);
    let mut found = Vec::new();
    let mut after: Option<(String, String)> = None;
    loop {
        let marker = after.as_ref().map(|(key, upload_id)| (key.as_str(), upload_id.as_str()));
        let page = client.list_multipart_uploads(key, marker).await?;
        for upload in page.uploads {
            if upload.key == key
                && around.contains(&upload.initiated)
                && client.list_parts(key, &upload.upload_id, None).await?.parts.is_empty()
            {
                found.push(upload.upload_id);
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}

/// Carries out what was acknowledged and is not in S3: removals, then directories, then files (`items`, the oldest first).
/// Whatever has a name now was made after what had it before was removed.
pub async fn carry_out(uploads: &Uploads, left: &[Open], mut items: Vec<KeptItem>) {
    for open in left {
        if let Intent::Remove { drops, .. } = &open.intent {
            drop_item(&uploads.journal, &mut items, drops.as_deref());
        }
    }
    remove_all(uploads, left).await;
    let mut directories: BTreeMap<&str, Vec<&Open>> = BTreeMap::new();
    for open in left {
        if let Intent::Directory { key, .. } = &open.intent {
            directories.entry(key).or_default().push(open);
        }
    }
    stream::iter(directories)
        .for_each_concurrent(IN_FLIGHT_MAX, |(key, told)| make_directory(uploads, key, told))
        .await;
    let mut last = HashMap::new();
    for item in items {
        if let Some(older) = last.insert(item.kept.key.clone(), item) {
            uploads.journal.discard(older); // what replaced it was acknowledged as well
        }
    }
    stream::iter(last.into_values()).for_each_concurrent(IN_FLIGHT_MAX, |item| send(uploads, item)).await;
}

fn ended(journal: &Journal, id: u64, key: &str, what: &str, result: Result<(), S3Error>) {
    match result {
        Ok(()) => journal.end(id),
        Err(e) => tracing::error!(key, "{what} before a mount died waits for the next one: {e}"),
    }
}

/// Files first, then directories, those within others before these.
async fn remove_all(uploads: &Uploads, left: &[Open]) {
    let (client, journal) = (&uploads.client, &uploads.journal);
    let removals = left.iter().filter_map(|open| match &open.intent {
        Intent::Remove { key, etag, keep, .. } => Some((open.id, key.as_str(), etag.as_deref(), *keep)),
        _ => None,
    });
    let (mut directories, files): (Vec<_>, Vec<_>) = removals.partition(|(_, key, ..)| key.ends_with('/'));
    stream::iter(files)
        .for_each_concurrent(IN_FLIGHT_MAX, |(id, key, etag, keep)| async move {
            let removed = remove_file(client, key, etag, keep).await;
            ended(journal, id, key, "a file that was removed", removed);
        })
        .await;
    directories.sort_by_key(|(_, key, ..)| std::cmp::Reverse(key.len()));
    for (id, key, _, keep) in directories {
        let removed = remove_directory(client, key, keep).await;
        ended(journal, id, key, "a directory that was removed", removed);
    }
}

async fn remove_file(client: &S3Client, key: &str, etag: Option<&str>, keep: bool) -> Result<(), S3Error> {
    match object(client, key).await? {
        Some(object) if etag.is_none_or(|etag| etag == object.etag) => remove(client, key, keep).await,
        _ => Ok(()), // gone, or another one, made since
    }
}

async fn remove_directory(client: &S3Client, key: &str, keep: bool) -> Result<(), S3Error> {
    let contents = Contents::of(client, key, &HashSet::new()).await?;
    match contents.marker && !contents.others {
        true => remove(client, key, keep).await,
        false => Ok(()), // something was made in it since
    }
}

/// `keep`: the directory it is in may have no marker.
async fn remove(client: &S3Client, key: &str, keep: bool) -> Result<(), S3Error> {
    let name = key.trim_end_matches('/');
    if let Some((above, _)) = name.rsplit_once('/').filter(|_| keep) {
        markers::keep(client, &format!("{above}/"), &HashSet::from([key.to_owned()])).await?;
    }
    client.delete_object(key).await
}

/// `told`: what was acknowledged of one directory, the last one as it is to be.
async fn make_directory(uploads: &Uploads, key: &str, told: Vec<&Open>) {
    let made = async {
        let Some(Open { intent: Intent::Directory { metadata, over, .. }, .. }) = told.last() else {
            return Ok(());
        };
        // By a listing: SeaweedFS answers HEAD for a marker also where there is none, once anything was below it.
        if !over && Contents::of(&uploads.client, key, &HashSet::new()).await?.marker {
            return Ok(());
        }
        let headers = ObjectHeaders { metadata: metadata.clone(), ..markers::headers() };
        markers::put_anew(&uploads.client, key, &headers).await
    };
    let made = made.await;
    for open in told {
        ended(&uploads.journal, open.id, key, "a directory that was made or changed", made.clone());
    }
}

/// Sends a file that was acknowledged. What cannot be sent as it was meant is kept for a person.
async fn send(uploads: &Uploads, mut item: KeptItem) {
    let key = item.kept.key.clone();
    let sent = match recover::is_sound(&item).await {
        Ok(true) => recover::send_unless_there(uploads, &item, &|_| {}).await.map(|_| ()),
        Ok(false) => Err(Error::Io("the machine was lost before its disk had all of the bytes".into())),
        Err(e) => Err(e),
    };
    match sent {
        Ok(()) => {
            tracing::warn!(key, "a file that a mount had acknowledged when it died is sent");
            uploads.journal.discard(item);
        }
        Err(e) if e.is_passing() => {
            tracing::error!(
                key,
                "a file that a mount had acknowledged when it died waits for the next mount: {e}"
            );
        }
        Err(e) => {
            let kept = Kept { owner: None, reason: e.to_string(), ..item.kept.clone() };
            let rewritten = item.rewrite(kept);
            tracing::error!(
                key,
                "a file that a mount had acknowledged when it died cannot be sent, and is kept for `pailfs recover`: {e}"
            );
            if let Err(e) = rewritten {
                tracing::error!(key, "the next mount will try again: {e}");
            }
        }
    }
}
