//! Moving all objects from below one key to below another: copies on the server's side, then deletions.
//!
//! Owns: [`copy_below`], [`list_below`], [`delete`], and what becomes of a move that was interrupted: [`undo`], [`finish`].
//! Invariants: nothing is deleted before all is copied; of an interrupted move nothing is deleted that is not there a
//! second time, so that the last copy of anything stays, whoever wrote it meanwhile.
//! Must never know: inodes, paths, the journal.

use std::collections::{BTreeSet, HashMap};

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, future, stream};

use super::upload::{self, Uploads};
use crate::config::KEY_BYTES_MAX;
use crate::error::{Error, S3Error, S3ErrorKind};
use crate::s3::{
    DELETE_KEYS_MAX, ListObjectsV2, ListPage, ListedObject, ObjectHead, ObjectHeaders, ObjectId,
    Precondition, S3Client,
};

/// Objects that one move takes, at most: a key and two ETags of each are held in memory.
pub const OBJECTS_MAX: usize = 1_000_000;
const TOO_MANY: Error = Error::CrossDevice("renaming a directory of more than a million objects");
/// Copies under way at once: near what S3 takes below one prefix (3,500 a second), at 30 ms each, of which a HEAD and the
/// question for the ACL come before.
const COPIES_IN_FLIGHT_MAX: usize = 200;
/// DeleteObjects under way at once.
const DELETES_IN_FLIGHT_MAX: usize = 8;

/// An object that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Its key after that of the directory.
    pub name: String,
    /// The ETag of what was copied.
    pub was: String,
    /// The copy's.
    pub etag: String,
}

/// The pages of what is below a directory's key; of another, that object alone.
struct Listing<'a> {
    client: &'a S3Client,
    query: ListObjectsV2,
    ended: bool,
}

impl<'a> Listing<'a> {
    fn of(client: &'a S3Client, prefix: &str) -> Listing<'a> {
        let query = ListObjectsV2 { prefix: prefix.into(), ..Default::default() };
        Listing { client, query, ended: false }
    }

    async fn next(&mut self) -> Result<Option<ListPage>, Error> {
        if self.ended {
            return Ok(None);
        }
        if !self.query.prefix.ends_with('/') {
            self.ended = true;
            let contents = object(self.client, &self.query.prefix).await?.into_iter().collect();
            return Ok(Some(ListPage { contents, ..ListPage::default() }));
        }
        let page = self.client.list_objects_v2(&self.query).await?;
        self.query.continuation_token.clone_from(&page.next_continuation_token);
        self.ended = page.next_continuation_token.is_none();
        if page.undecodable > 0 {
            return Err(Error::Io(format!(
                "a key below {} is not UTF-8 and cannot be moved",
                self.query.prefix.escape_debug()
            )));
        }
        Ok(Some(page))
    }
}

/// The object of this key, if there is one, as a listing would tell it.
pub async fn object(client: &S3Client, key: &str) -> Result<Option<ListedObject>, S3Error> {
    match client.head_object(key).await {
        Err(e) if e.kind == S3ErrorKind::NoSuchKey => Ok(None),
        found => found.map(|head| Some(ListedObject::of(key, head))),
    }
}

/// What is below a directory's key, or the object of another key: by what follows the key.
///
/// Errors: [`Error::CrossDevice`] for more than `objects_max`; what S3 failed with.
pub(super) async fn list_below(
    client: &S3Client,
    from: &str,
    objects_max: usize,
) -> Result<HashMap<String, ListedObject>, Error> {
    let mut objects = HashMap::new();
    let mut listing = Listing::of(client, from);
    while let Some(page) = listing.next().await? {
        let names = page.contents.into_iter();
        objects.extend(names.map(|object| (object.key[from.len()..].to_owned(), object)));
        if objects.len() > objects_max {
            return Err(TOO_MANY);
        }
    }
    Ok(objects)
}

/// Copies everything below `from` (which ends in `/`, as `to` does; the marker is among it) to below `to`, or the one
/// object `from`. On failure some of it may be copied: no copy is under way any more.
///
/// Errors: [`Error::CrossDevice`] for more than `objects_max`; [`Error::NameTooLong`]; what S3 failed with.
pub async fn copy_below(
    uploads: &Uploads,
    from: &str,
    to: &str,
    objects_max: usize,
) -> Result<Vec<Moved>, Error> {
    copy_where(uploads, from, to, objects_max, |_| true).await
}

/// As [`copy_below`], of those objects only whose names, what follows `from`, are wanted.
pub(super) async fn copy_where(
    uploads: &Uploads,
    from: &str,
    to: &str,
    objects_max: usize,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Moved>, Error> {
    let mut listing = Listing::of(&uploads.client, from);
    let mut moved = Vec::new();
    let mut failed = None;
    let mut under_way = FuturesUnordered::new();
    let mut begun = 0;
    let mut take = |done: Result<Option<Moved>, Error>, failed: &mut Option<Error>| match done {
        Ok(copy) => moved.extend(copy),
        Err(e) => _ = failed.get_or_insert(e),
    };
    'pages: while failed.is_none() {
        let page = match listing.next().await {
            Ok(Some(page)) => page,
            Ok(None) => break,
            Err(e) => {
                failed = Some(e);
                break;
            }
        };
        for object in page.contents.into_iter().filter(|object| wanted(&object.key[from.len()..])) {
            while under_way.len() >= COPIES_IN_FLIGHT_MAX
                && let Some(done) = under_way.next().await
            {
                take(done, &mut failed);
            }
            begun += 1;
            if begun > objects_max {
                failed.get_or_insert(TOO_MANY);
            }
            if failed.is_some() {
                break 'pages;
            }
            under_way.push(copy_one(uploads, from, to, object.key));
        }
    }
    // What is under way lands, whatever has failed: who undoes it must find it.
    while let Some(done) = under_way.next().await {
        take(done, &mut failed);
    }
    failed.map_or(Ok(moved), Err)
}

/// What is there now is what moves, also where it was replaced since it was listed. None where the object is gone.
async fn copy_one(uploads: &Uploads, from: &str, to: &str, object: String) -> Result<Option<Moved>, Error> {
    let client = &uploads.client;
    let name = object.strip_prefix(from).unwrap_or_default().to_owned();
    let key = format!("{to}{name}");
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::NameTooLong);
    }
    let mut last = None;
    loop {
        let head = match client.head_object(&object).await {
            Err(e) if e.kind == S3ErrorKind::NoSuchKey => return Ok(None),
            head => head?,
        };
        let was = head.etag.clone();
        match copy(uploads, &object, &head, &key).await {
            Ok(etag) => return Ok(Some(Moved { name, was, etag })),
            // SeaweedFS shows markers and copies none of them: they are put again.
            Err(e) if e.s3_kind() == Some(S3ErrorKind::NoSuchKey) => {
                if !object.ends_with('/') || head.size > 0 {
                    return Ok(None);
                }
                let headers = ObjectHeaders::from(head);
                let put = client.put_object(&key, Vec::new(), &headers, &Precondition::None).await?;
                return Ok(Some(Moved { name, was, etag: put.etag }));
            }
            Err(e) if e.s3_kind() == Some(S3ErrorKind::PreconditionFailed) && last.as_ref() != Some(&was) => {
                last = Some(was);
            }
            Err(e) => return Err(e),
        }
    }
}

/// Copies one object as it is, pinned by its ETag, with its metadata, headers, encryption, storage class and ACL. Answers
/// the copy's ETag.
pub async fn copy(uploads: &Uploads, from: &str, head: &ObjectHead, key: &str) -> Result<String, Error> {
    let client = &uploads.client;
    let acl = client.acl_to_keep(ObjectId::current(from));
    // Side by side, for hardly any has an ACL that the copy would lack.
    let (copied, acl) = future::join(upload::copy(uploads, from, head, key, None), acl).await;
    let etag = copied?.etag;
    client.put_acl_again(ObjectId::current(key), acl?).await?;
    Ok(etag)
}

/// The keys of what moved from `dir`, and the markers of all directories that it was in, whether they are there or not:
/// SeaweedFS shows a directory that nobody made until it is told to remove it.
pub fn whole(dir: &str, moved: &[Moved]) -> Vec<String> {
    let mut keys = BTreeSet::from([dir.to_owned()]);
    for object in moved {
        let ends = object.name.match_indices('/').map(|(at, _)| at + 1).chain([object.name.len()]);
        keys.extend(ends.filter_map(|end| Some(format!("{dir}{}", object.name.get(..end)?))));
    }
    keys.into_iter().collect()
}

/// Deletes objects, many at a time; markers when all that is below them is gone, the deepest first, for SeaweedFS keeps
/// the directory of one that goes earlier.
///
/// Errors: the first refusal; the others are tried all the same.
pub async fn delete(client: &S3Client, keys: Vec<String>) -> Result<(), Error> {
    let (mut markers, objects): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.ends_with('/'));
    markers.sort_unstable_by(|a, b| b.cmp(a));
    let first = delete_batches(client, &objects, DELETES_IN_FLIGHT_MAX).await;
    first.and(delete_batches(client, &markers, 1).await)
}

async fn delete_batches(client: &S3Client, keys: &[String], in_flight: usize) -> Result<(), Error> {
    let batches: Vec<_> = keys.chunks(DELETE_KEYS_MAX).map(|batch| client.delete_objects(batch)).collect();
    let refused =
        stream::iter(batches).buffered(in_flight).collect::<Vec<Result<Vec<S3Error>, S3Error>>>().await;
    let first = refused.into_iter().find_map(|batch| match batch {
        Ok(refused) => refused.into_iter().next(),
        Err(e) => Some(e),
    });
    first.map_or(Ok(()), |e| Err(e.into()))
}

/// Takes back what [`copy_below`] did: copies go whose originals are still there. `over`: the marker `to` was there
/// before.
pub async fn undo(client: &S3Client, from: &str, to: &str, over: bool) -> Result<(), Error> {
    delete_twins(client, (from, to), |original, copy| {
        (is_copy(original, copy) && !(over && copy.key == to)).then(|| copy.key.clone())
    })
    .await
}

/// Deletes the originals below `from` whose copies are there.
pub async fn finish(client: &S3Client, from: &str, to: &str) -> Result<(), Error> {
    delete_twins(client, (from, to), |original, copy| is_copy(original, copy).then(|| original.key.clone()))
        .await
}

/// Copies of one PUT keep its ETag. Others (of parts, encrypted by KMS) are told by size and by being no older: a file
/// of that size that another host put in just this place since then is taken for the copy.
pub(super) fn is_copy(original: &ListedObject, copy: &ListedObject) -> bool {
    copy.size == original.size && (copy.etag == original.etag || copy.last_modified >= original.last_modified)
}

async fn delete_twins(
    client: &S3Client,
    (from, to): (&str, &str),
    doomed: impl Fn(&ListedObject, &ListedObject) -> Option<String>,
) -> Result<(), Error> {
    let originals = list_below(client, from, usize::MAX).await?;
    let mut keys = Vec::new();
    let mut listing = Listing::of(client, to);
    while let Some(page) = listing.next().await? {
        let twins = page.contents.iter().filter_map(|copy| {
            let original = originals.get(copy.key.strip_prefix(to)?)?;
            doomed(original, copy)
        });
        keys.extend(twins);
    }
    delete(client, keys).await
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn what_moved_goes_with_its_directories() {
        let moved = |name: &str| Moved { name: name.into(), was: String::new(), etag: String::new() };
        let keys = whole("d/", &[moved("a"), moved("x/y/b"), moved("x/y/c"), moved("z/")]);
        assert_eq!(keys, ["d/", "d/a", "d/x/", "d/x/y/", "d/x/y/b", "d/x/y/c", "d/z/"]);
    }

    #[test]
    fn a_copy_is_known_by_its_etag_or_by_size_and_time() {
        let object = |size, etag: &str, seconds| ListedObject {
            key: "k".into(),
            size,
            etag: etag.into(),
            last_modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            storage_class: None,
            checksum: None,
        };
        let original = object(5, "a", 10);
        assert!(is_copy(&original, &object(5, "a", 9)), "clocks of servers differ");
        assert!(is_copy(&original, &object(5, "b-2", 10)));
        assert!(!is_copy(&original, &object(5, "b", 9)), "the original was written anew");
        assert!(!is_copy(&original, &object(6, "b", 11)));
    }
}
