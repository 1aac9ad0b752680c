//! What mounts that died had begun, as their journals tell it.
//!
//! Owns: how each intention is finished or undone.
//! Invariants: only what a journal names is touched; an intention ends when S3 has what it should have, and else stays
//! for the next mount.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::moves;
use super::upload::abort;
use crate::journal::{Intent, Journal, Open};
use crate::s3::S3Client;

/// Uploads aborted side by side.
const ABORTS_IN_FLIGHT_MAX: usize = 16;

/// Finishes or undoes the renames of directories among `left`, one after the other.
pub async fn settle_renames(client: &S3Client, journal: &Journal, left: &[Open]) {
    for open in left {
        let Intent::Rename { from, to, over } = &open.intent else { continue };
        let (settled, what) = match open.committed {
            true => (moves::finish(client, from, to).await, "finished"),
            false => (moves::undo(client, from, to, *over).await, "undone"),
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

/// Aborts the uploads among `left`: their parts are in nobody's way, but cost room. Nobody else's are touched, for an
/// upload id is S3's word for one upload alone.
pub async fn abort_uploads(client: S3Client, journal: Arc<Journal>, left: Vec<Open>) {
    let uploads = left.into_iter().filter_map(|open| match open.intent {
        Intent::Upload { key, upload_id } => Some((open.id, key, upload_id)),
        Intent::Rename { .. } => None,
    });
    let abort_one = |(id, key, upload_id): (u64, String, String)| {
        let (client, journal) = (&client, &journal);
        async move {
            match abort(client, &key, &upload_id).await {
                Ok(()) => {
                    tracing::info!(key, upload_id, "an upload that a mount left when it died is gone");
                    journal.end(id);
                }
                Err(e) => {
                    tracing::warn!(key, upload_id, "an upload that a mount left when it died stays: {e}")
                }
            }
        }
    };
    stream::iter(uploads).for_each_concurrent(ABORTS_IN_FLIGHT_MAX, abort_one).await;
}
