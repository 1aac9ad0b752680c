//! RENAME_EXCHANGE: two files change places.
//!
//! Owns: [`Filesystem::exchange`].
//! Invariants: both have moved or none, in S3 also when this mount dies in between and another one follows; no content is
//! ever without an object.
//! Must never know: how an interrupted exchange is settled.

use std::time::SystemTime;

use super::Filesystem;
use super::rename::{Name, journal_error};
use crate::error::Error;
use crate::journal::Intent;
use crate::key;
use crate::namespace::FileInfo;
use crate::s3::ObjectHead;
use crate::write::{Object, leftovers, moves};

impl Filesystem {
    /// Three copies on the server's side, the first one to a name of its own, then the deletion of that. What is written
    /// and not published is published before.
    ///
    /// Errors: [`Error::NotFound`]; [`Error::Invalid`] for directories.
    pub(super) async fn exchange(&self, a: Name<'_>, b: Name<'_>) -> Result<(), Error> {
        let file_key = |dir: &str, name: &str| key::file_key(dir, name.as_bytes());
        let (_pass, key_a, key_b) = self.pass_rename(a, b, file_key).await?;
        let first = self.object_at(a, &key_a).await?;
        if key_a == key_b {
            return Ok(());
        }
        let second = self.object_at(b, &key_b).await?;
        let aside = format!("{key_a}.pailfs-exchange-{:016x}", rand::random::<u64>());
        let intent = Intent::Exchange {
            a: (key_a.clone(), first.etag.clone()),
            b: (key_b.clone(), second.etag.clone()),
            aside: aside.clone(),
        };
        let noted = self.journal.begin(intent.clone()).map_err(journal_error)?;
        self.journal.sync().await.map_err(journal_error)?;
        let uploads = &self.writes.uploads;
        let exchanged = async {
            let etag = moves::copy(uploads, &key_a, &first, &aside).await?;
            let kept = ObjectHead { etag, ..first.clone() };
            let at_a = moves::copy(uploads, &key_b, &second, &key_a).await?;
            let at_b = moves::copy(uploads, &aside, &kept, &key_b).await?;
            Ok::<_, Error>((at_a, at_b))
        };
        match exchanged.await {
            Ok((at_a, at_b)) => {
                match self.client.delete_object(&aside).await {
                    Ok(()) => self.journal.end(noted),
                    Err(e) => tracing::warn!(aside, "a copy stays until the next mount removes it: {e}"),
                }
                let infos = [(&first, at_b), (&second, at_a)].map(|(object, etag)| FileInfo {
                    size: object.size,
                    mtime: SystemTime::now(),
                    etag,
                    kept: None,
                });
                self.exchanged((a, &key_a, &first.etag), (b, &key_b, &second.etag), infos).await
            }
            Err(e) => {
                if leftovers::settle_exchange(uploads, &intent).await.is_ok() {
                    self.journal.end(noted);
                }
                _ = self.namespace.refresh_below(a.0);
                _ = self.namespace.refresh_below(b.0);
                Err(e)
            }
        }
    }

    /// The object of a file, with all that was written to it.
    async fn object_at(&self, name: Name<'_>, key: &str) -> Result<ObjectHead, Error> {
        self.file_at(name.0, name.1).await.map_err(|e| match e {
            Error::IsDirectory => Error::Invalid("RENAME_EXCHANGE of a directory"),
            e => e,
        })?;
        let ino = self.namespace.ino_of(name.0, name.1);
        if let Some((ino, writer)) = ino.zip(self.writer_at(name.0, name.1)) {
            self.commit_with_pass(ino, &writer).await?;
        }
        self.clear_name(key).await;
        Ok(self.client.head_object(key).await?)
    }

    /// S3 has both at their new places: from now on so have we.
    async fn exchanged(
        &self,
        (a, key_a, etag_a): (Name<'_>, &str, &str),
        (b, key_b, etag_b): (Name<'_>, &str, &str),
        [first, second]: [FileInfo; 2],
    ) -> Result<(), Error> {
        self.objects_moved(|linked| {
            let moves = [(key_a, etag_a, key_b, &first), (key_b, etag_b, key_a, &second)];
            let (.., to, now) =
                moves.into_iter().find(|(from, etag, ..)| linked.key == *from && linked.etag == *etag)?;
            Some(Object { key: to.to_owned(), etag: now.etag.clone(), size: linked.size })
        })
        .await;
        let (ino_a, ino_b) = self.namespace.exchanged(a, b, [first.clone(), second.clone()])?;
        for (ino, before, now, key) in [(ino_a, etag_a, first, key_b), (ino_b, etag_b, second, key_a)] {
            self.versions.made(ino, Some(before), &now.etag);
            if let Some(writer) = self.handles.writer(ino) {
                writer.renamed(key.to_owned(), Some(&now.etag), None).await?;
            }
        }
        Ok(())
    }
}
