//! RENAME_EXCHANGE: files and directories change places.
//!
//! Owns: [`Filesystem::exchange`]; who waits while it is under way.
//! Invariants: both have moved or none; who has anything open goes along; nothing here sees half of it.
//! Must never know: in which order S3 is changed, how an interrupted exchange is settled.

use std::collections::HashSet;

use super::Filesystem;
use super::gate::Pass;
use super::rename::{MovedTree, Name};
use crate::error::Error;
use crate::journal::Exchange;
use crate::key;
use crate::namespace::{EtagOf, Node};
use crate::write::{exchange, markers, moves};

impl Filesystem {
    /// What is written to a file, and what of those below a directory is sent in part or acknowledged, is published before;
    /// the rest goes along.
    ///
    /// Errors: [`Error::NotFound`]; [`Error::Invalid`] for a directory and something below it; [`Error::Exists`] where the
    /// directory hides a file of its name, for a file is to take its place; as [`exchange::exchange`].
    pub(super) async fn exchange(&self, a: Name<'_>, b: Name<'_>) -> Result<(), Error> {
        let (_pass, key_a, key_b) = self.pass_exchange(a, b).await?;
        if key_a == key_b {
            return Ok(());
        }
        let below = |key: &str, dir: &str| dir.ends_with('/') && key.starts_with(dir);
        if below(&key_a, &key_b) || below(&key_b, &key_a) {
            return Err(Error::Invalid("RENAME_EXCHANGE of a directory and something below it"));
        }
        for (name, key) in [(a, &key_a), (b, &key_b)] {
            match key.ends_with('/') {
                true => self.dir_to_exchange(key).await?,
                false => self.file_to_exchange(name, key).await?,
            }
        }
        // A file is the lesser one to copy twice.
        let first_is_b = key_a.ends_with('/') && !key_b.ends_with('/');
        let [(first, from), (second, to)] =
            if first_is_b { [(b, &key_b), (a, &key_a)] } else { [(a, &key_a), (b, &key_b)] };
        let what = self.what_to_exchange(first, from, second, to).await?;
        let moving = self.namespace.moving([from, to]);
        let exchanged = exchange::exchange(&self.writes.uploads, &what).await;
        if exchanged.is_err() {
            drop(moving);
            _ = self.namespace.refresh_below(a.0);
            _ = self.namespace.refresh_below(b.0);
        }
        let [of_first, of_second] = exchanged?;
        let (first_dir, second_dir) = (self.namespace.dir_key(first.0)?, self.namespace.dir_key(second.0)?);
        let (first, second) = ((&*first_dir, first.1), (&*second_dir, second.1));
        let trees = [
            MovedTree::new(&what.first.0, &what.first.1, &of_first),
            MovedTree::new(&what.second.0, &what.second.1, &of_second),
        ];
        self.trees_moved(trees, |[one, other]| {
            let etags: [EtagOf<'_>; 2] = [&|name| one.etag_of(name), &|name| other.etag_of(name)];
            self.namespace.exchanged(first, second, etags)
        })
        .await;
        Ok(())
    }

    /// The right to change both, and their keys; what was acknowledged below a directory is in S3.
    async fn pass_exchange(&self, a: Name<'_>, b: Name<'_>) -> Result<(Pass, String, String), Error> {
        loop {
            let (is_dir_a, is_dir_b) = (self.is_dir(a).await?, self.is_dir(b).await?);
            let keys = || Ok((self.key_as(a, is_dir_a)?, self.key_as(b, is_dir_b)?));
            let sent: (String, String) = keys()?;
            self.sent(&sent.0).await?;
            self.sent(&sent.1).await?;
            let (pass, key_a, key_b) = self.pass_keys(keys).await?;
            let same = (self.is_dir(a).await?, self.is_dir(b).await?) == (is_dir_a, is_dir_b);
            let makes_below = |key: &String| key.ends_with('/') && self.write_back.makes_below(key);
            if same && !makes_below(&key_a) && !makes_below(&key_b) {
                return Ok((pass, key_a, key_b));
            }
        }
    }

    /// Errors: [`Error::NotFound`].
    async fn is_dir(&self, (dir, name): Name<'_>) -> Result<bool, Error> {
        let found = self.namespace.find(dir, name).await?.ok_or(Error::NotFound)?;
        Ok(found == Node::Directory)
    }

    fn key_as(&self, (dir, name): Name<'_>, is_dir: bool) -> Result<String, Error> {
        let dir = self.namespace.dir_key(dir)?;
        if is_dir { key::dir_key(&dir, name.as_bytes()) } else { key::file_key(&dir, name.as_bytes()) }
    }

    /// S3 has all that was written to the file.
    async fn file_to_exchange(&self, name: Name<'_>, key: &str) -> Result<(), Error> {
        let ino = self.namespace.ino_of(name.0, name.1);
        if let Some((ino, writer)) = ino.zip(self.writer_at(name.0, name.1)) {
            self.commit_with_pass(ino, &writer).await?;
        }
        self.clear_name(key).await;
        Ok(())
    }

    /// S3 has something of the directory, nothing that was removed from it, and nothing of which it has more in parts.
    async fn dir_to_exchange(&self, key: &str) -> Result<(), Error> {
        self.bury_below(key).await;
        self.deletes.settle_all().await;
        for (ino, writer) in self.writers_below(key) {
            if writer.has_sent().await || writer.is_acknowledged().await {
                self.commit_with_pass(ino, &writer).await?;
            }
        }
        let contents = markers::Contents::of(&self.client, key, &HashSet::new()).await?;
        if !contents.marker && !contents.others {
            // All that is below it is yet to be published, or it is gone.
            if !self.namespace.has_local_names(key) {
                return Err(Error::NotFound);
            }
            markers::put(&self.client, key, &markers::headers()).await?;
        }
        Ok(())
    }

    async fn what_to_exchange(
        &self,
        first: Name<'_>,
        from: &str,
        second: Name<'_>,
        to: &str,
    ) -> Result<Exchange, Error> {
        let first_to = self.key_as(second, from.ends_with('/'))?;
        let second_to = self.key_as(first, to.ends_with('/'))?;
        if first_to != to && moves::object(&self.client, &first_to).await?.is_some() {
            return Err(Error::Exists);
        }
        let root = self.namespace.key(self.namespace.root())?;
        let slash = if from.ends_with('/') { "/" } else { "" };
        let aside = format!("{root}.pailfs-exchange-{:016x}{slash}", rand::random::<u64>());
        Ok(Exchange { first: (from.to_owned(), first_to), second: (to.to_owned(), second_to), aside })
    }

    /// Waits while an inode, or a directory that it is in, is changing places.
    pub async fn in_place(&self, ino: u64) {
        self.gate.until_not(|| self.namespace.is_moving(ino)).await;
    }
}
