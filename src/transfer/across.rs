//! One object becomes another one, on the server's side.
//!
//! Owns: what the new object carries. Must never know: which objects there are.

use super::Shared;
use crate::error::Error;
use crate::s3::{CopySource, ObjectHeaders, Precondition, S3Client};
use crate::write::upload::{Upload, copy_all};

/// Copies the object `from` of the source's bucket to `key`. What the command says of new objects counts, all else is as
/// it was; the storage class is STANDARD where nothing is said, as of any new object.
pub async fn copy(shared: &Shared, source: &S3Client, from: &str, key: &str) -> Result<(), Error> {
    let head = shared.unless_stopped(async { Ok(source.head_object(from).await?) }).await?;
    let size = head.size;
    shared.tally.begun(size);
    let copied = CopySource {
        bucket: source.bucket().to_string(),
        key: from.to_string(),
        if_match: Some(head.etag.clone()),
        storage_class: shared.headers.storage_class.clone(),
        ..CopySource::default()
    };
    let (client, guard) = (&shared.client, Precondition::None);
    let said = &shared.headers;
    let replaces = said.content_type.is_some() || !said.metadata.is_empty();
    let mut headers =
        ObjectHeaders { storage_class: said.storage_class.clone(), ..ObjectHeaders::copied(head) };
    if said.content_type.is_some() {
        headers.content_type.clone_from(&said.content_type);
    }
    if !said.metadata.is_empty() {
        headers.metadata.clone_from(&said.metadata);
    }
    if size > client.copy_bytes_max() {
        // As in `upload`: an upload that S3 has begun must be known to be aborted.
        let mut upload = Upload::create(&shared.uploads, key, &headers).await?;
        let sent = shared.unless_stopped(copy_all(&mut upload, &copied, size, &guard)).await;
        if sent.is_err() {
            upload.abort().await;
        }
        sent?;
    } else if size == 0 && from.ends_with('/') {
        // A directory's marker, which SeaweedFS shows and does not copy.
        client.put_object(key, Vec::new(), &headers, &guard).await?;
    } else {
        // The copy's class stands in its source.
        let headers = ObjectHeaders { storage_class: None, ..headers };
        client.copy_object(&copied, key, replaces.then_some(&headers), &guard).await?;
    }
    shared.tally.moved(size);
    Ok(())
}
