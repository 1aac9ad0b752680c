//! Marker objects: the empty object `dir/` that keeps a directory there when nothing else does.
//!
//! Owns: how a marker is written, and what else there is below a directory.
//! Invariant: a directory that [`keep`] has answered for stays when the keys it was told of go.
//! Must never know: inodes, paths, FUSE.

use std::collections::HashSet;

use crate::config::LIST_PAGE_KEYS_MAX;
use crate::error::S3Error;
use crate::s3::{ListObjectsV2, ListPage, ObjectHeaders, ObjectId, Precondition, S3Client};

/// Keys that [`Contents::of`] can look past, at most: they, the marker and one more fill a page.
pub const KEYS_BUT_MAX: usize = LIST_PAGE_KEYS_MAX as usize - 2;

/// What lies below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// The directory's own marker.
    pub marker: bool,
    /// Any other key.
    pub others: bool,
}

impl Contents {
    /// Asks S3, looking past the keys `but`, of which there are at most [`KEYS_BUT_MAX`].
    pub async fn of(client: &S3Client, dir: &str, but: &HashSet<String>) -> Result<Contents, S3Error> {
        let max_keys = u32::try_from(but.len() + 2).unwrap_or(LIST_PAGE_KEYS_MAX).min(LIST_PAGE_KEYS_MAX);
        let query = ListObjectsV2 { prefix: dir.into(), max_keys: Some(max_keys), ..Default::default() };
        let other = |key: &String| key != dir && !but.contains(key);
        let mut contents = Contents { marker: false, others: false };
        let others = client.any_page(query, |page| {
            contents.marker |= page.contents.iter().any(|object| object.key == dir);
            page.undecodable > 0 || page.contents.iter().any(|object| other(&object.key))
        });
        contents.others = others.await?;
        Ok(contents)
    }
}

/// Writes the marker of a directory, whose key ends in `/`.
pub async fn put(client: &S3Client, dir: &str, headers: &ObjectHeaders) -> Result<(), S3Error> {
    client.put_object(dir, Vec::new(), headers, &Precondition::None).await?;
    Ok(())
}

/// Writes the marker of a directory that has one, perhaps with an ACL of its own, which stays.
pub async fn put_anew(client: &S3Client, dir: &str, headers: &ObjectHeaders) -> Result<(), S3Error> {
    let marker = ObjectId::current(dir);
    let acl = client.acl_to_keep(marker).await?;
    put(client, dir, headers).await?;
    client.put_acl_again(marker, acl).await
}

/// What a marker carries where nobody says more.
pub fn headers() -> ObjectHeaders {
    ObjectHeaders { content_type: Some("application/x-directory".into()), ..ObjectHeaders::default() }
}

/// Before the keys `leaving` go: where nothing else keeps the directory, its marker is written.
pub async fn keep(client: &S3Client, dir: &str, leaving: &HashSet<String>) -> Result<Kept, S3Error> {
    let contents = Contents::of(client, dir, leaving).await?;
    let write = !contents.marker && !contents.others;
    if write {
        put(client, dir, &headers()).await?;
    }
    Ok(Kept { marker: contents.marker || write, written: write })
}

/// Before all below the directory `leaving` goes: where nothing else keeps `dir`, which holds it, its marker is written.
pub async fn keep_beside(client: &S3Client, dir: &str, leaving: &str) -> Result<(), S3Error> {
    let query = ListObjectsV2 { prefix: dir.into(), delimiter: true, ..Default::default() };
    // Its marker is one of the keys.
    let stays =
        |page: &ListPage| page.has_keys() || page.common_prefixes.iter().any(|below| below != leaving);
    match client.any_page(query, stays).await? {
        true => Ok(()),
        false => put(client, dir, &headers()).await,
    }
}

/// What [`keep`] found out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// The marker is there.
    pub marker: bool,
    /// It was not before.
    pub written: bool,
}
