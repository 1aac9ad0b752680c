//! Renaming files and directories.
//!
//! Owns: [`Filesystem::rename`], and who waits for it.
//! Invariants: a name has moved here only when S3 has all of it under the new key; a directory moves as a whole or not
//! at all, also when the process dies in between; what is written and not published goes along, and is not sent twice.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::SystemTime;

use super::gate::Pass;
use super::{Filesystem, new_name, old_name};
use crate::error::Error;
use crate::journal::Intent;
use crate::key;
use crate::namespace::{FileInfo, Kind, MovedFile, Node};
use crate::s3::ObjectHeaders;
use crate::write::moves::{self, Moved};
use crate::write::{Object, Writer, markers};

/// A name: the inode of its directory, and what it is called there.
pub(super) type Name<'a> = (u64, &'a str);

impl Filesystem {
    /// `renameat2(2)`. Of a file: a copy on the server's side, then the deletion of the old name. Of a directory: as
    /// much of all that is below it.
    ///
    /// Errors: [`Error::Exists`] with RENAME_NOREPLACE; [`Error::NotEmpty`], [`Error::IsDirectory`],
    /// [`Error::NotDirectory`] for what cannot be replaced; [`Error::Invalid`] for a directory into itself;
    /// [`Error::CrossDevice`] for a directory too large to be moved as a whole, for buckets and to another one.
    pub async fn rename(
        &self,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new: &OsStr,
        flags: u32,
    ) -> Result<(), Error> {
        self.check_writable(parent)?;
        self.check_writable(new_parent)?;
        let (from, to) = ((parent, old_name(name)?), (new_parent, new_name(new)?));
        if self.buckets.is_some() || !self.namespace.holds(new_parent) {
            return Err(Error::CrossDevice("a bucket, or to another one"));
        }
        match flags {
            libc::RENAME_EXCHANGE => return self.exchange(from, to).await,
            0 | libc::RENAME_NOREPLACE => {}
            _ => {
                return Err(Error::Invalid(
                    "RENAME_WHITEOUT, or both of RENAME_NOREPLACE and RENAME_EXCHANGE",
                ));
            }
        }
        let replace = flags & libc::RENAME_NOREPLACE == 0;
        match self.namespace.find(from.0, from.1).await?.ok_or(Error::NotFound)?.kind() {
            Kind::Directory => self.rename_dir(from, to, replace).await,
            _ => self.rename_file(from, to, replace).await,
        }
    }

    async fn rename_file(&self, from: Name<'_>, to: Name<'_>, replace: bool) -> Result<(), Error> {
        let (_pass, source, target) =
            self.pass_rename(from, to, |dir, name| key::file_key(dir, name.as_bytes())).await?;
        let mut info = self.file_at(from.0, from.1).await?;
        let replaced = match self.namespace.find_anew(to.0, to.1).await? {
            Some(Node::Directory) => return Err(Error::IsDirectory),
            Some(_) if !replace => return Err(Error::Exists),
            _ if from == to => return Ok(()),
            Some(Node::File(replaced)) => Some(replaced),
            None => None,
        };
        let ino = self.namespace.ino_of(from.0, from.1);
        let writer = self.writer_at(from.0, from.1);
        if let (Some(ino), Some(writer)) = (ino, &writer)
            && (writer.has_sent().await
                || writer.is_acknowledged().await && (!info.etag.is_empty() || writer.is_unheard().await))
        {
            self.commit_with_pass(ino, writer).await?;
            info = self.file_at(from.0, from.1).await?;
        }
        self.clear_name(&target).await;
        let open = replaced.as_ref().and_then(|info| self.writer_of_open(to.0, to.1, info, &target));
        if let Some((_, replaced)) = &open {
            self.hold(replaced, &target).await;
        }
        self.hold_links(open.as_ref().map(|(ino, _)| *ino), &target).await;
        // Open, or acknowledged and on its way.
        let goes = open.map(|(_, writer)| writer).or_else(|| self.writer_at(to.0, to.1));
        let source_etag = info.etag.clone();
        // The ETags of what moved and of its copy.
        let (mut moved, mut noted) = (None, None);
        if source_etag.is_empty() {
            // Nothing could be copied: it is published under its new name, where S3 has what it replaces until then.
            info.etag = replaced.map_or_else(String::new, |replaced| replaced.etag);
            if let Some(writer) = &writer {
                self.retype(writer, &source, &target).await?;
            }
        } else {
            let pinned = ino.is_some_and(|ino| self.namespace.is_local(ino));
            let replaced = replaced.map(|replaced| replaced.etag).filter(|etag| !etag.is_empty());
            let pinned = pinned.then_some(&source_etag);
            let drops = match &goes {
                Some(goes) => goes.item().await,
                None => None,
            };
            let was;
            (was, info, noted) =
                self.move_object(from.0, (&source, pinned), (&target, replaced), drops).await?;
            moved = Some((was, info.etag.clone()));
        }
        if let Some(writer) = &writer {
            let etags = moved.as_ref().map(|(was, now)| (was.as_str(), now.as_str()));
            let over = Some(info.etag.as_str()).filter(|etag| !etag.is_empty());
            match writer.renamed(target.clone(), etags, over).await {
                // The object has moved: so must all else.
                Err(e) if moved.is_some() => {
                    tracing::error!(key = target, "the local disk has it under its old name: {e}");
                }
                renamed => renamed?,
            }
        }
        if let Some(goes) = goes {
            goes.unlinked().await;
        }
        noted.into_iter().for_each(|noted| self.journal.end(noted));
        if let (Some(ino), Some((_, now))) = (ino, &moved) {
            self.versions.made(ino, Some(&source_etag), now);
        }
        self.file_renamed(from, to, info);
        Ok(())
    }

    /// Copies an object, tells those who link ranges of it, and removes the original, an entry of the directory `parent`.
    /// `pinned`: this version and no other; `replaced`: the ETag of what is at the new key; `drops`: as of
    /// [`Intent::RenameFile`]. Answers the ETag of what was copied, the copy, and what is to be ended in the journal when all
    /// else has moved.
    async fn move_object(
        &self,
        parent: u64,
        (source, pinned): (&str, Option<&String>),
        (target, replaced): (&str, Option<String>),
        drops: Option<String>,
    ) -> Result<(String, FileInfo, Option<u64>), Error> {
        let head = self.client.head_object(source).await?;
        if pinned.is_some_and(|etag| *etag != head.etag) {
            return Err(Error::Stale); // what was written goes on from another version
        }
        let info = FileInfo { mtime: SystemTime::now(), ..self.namespace.info_of(&head) };
        let doomed = self.doomed(parent, source.to_owned())?;
        let noted = self.journal.begin(Intent::RenameFile {
            from: source.to_owned(),
            to: target.to_owned(),
            etag: head.etag.clone(),
            replaced,
            keep: doomed.keep,
            drops,
            at: SystemTime::now(),
        });
        let noted = noted.inspect_err(|e| tracing::warn!("a crash would leave half a rename: {e}")).ok();
        let moved = async {
            let etag = moves::copy(&self.writes.uploads, source, &head, target).await?;
            noted.map_or(Ok(()), |noted| self.journal.commit(noted))?;
            self.objects_moved(|linked| {
                let is_it = linked.key == source && linked.etag == head.etag;
                is_it.then(|| Object { key: target.to_owned(), etag: etag.clone(), size: linked.size })
            })
            .await;
            self.deletes.remove(doomed).await?;
            Ok((head.etag.clone(), FileInfo { etag, ..info }, noted))
        };
        let moved = moved.await;
        if moved.is_err() {
            noted.into_iter().for_each(|noted| self.journal.end(noted));
        }
        moved
    }

    /// What is published under its last name has the content type of that, unless it was given another.
    async fn retype(&self, writer: &Writer, source: &str, target: &str) -> Result<(), Error> {
        if self.config.content_type.is_some() {
            return Ok(());
        }
        let (before, now) = (key::content_type_of(source), key::content_type_of(target));
        let change = |headers: &mut ObjectHeaders| {
            if headers.content_type == before {
                headers.content_type = now;
            }
        };
        writer.amend(change).await.map(|_| ())
    }

    fn file_renamed(&self, from: Name<'_>, to: Name<'_>, info: FileInfo) {
        if let Some(ino) = self.namespace.ino_of(from.0, from.1) {
            self.namespace.renamed(ino, to.0, to.1, info);
        } else {
            self.namespace.removed(from.0, from.1);
            self.namespace.made_file(to.0, to.1, info);
        }
    }

    async fn rename_dir(&self, from: Name<'_>, to: Name<'_>, replace: bool) -> Result<(), Error> {
        let dir_key = |dir: &str, name: &str| key::dir_key(dir, name.as_bytes());
        // What was acknowledged below is in S3 before it is copied, with nothing held that its sending may need.
        let (pass, source, target) = loop {
            for (dir, name) in [from, to] {
                self.sent(&dir_key(&self.namespace.dir_key(dir)?, name)?).await?;
            }
            let (pass, source, target) = self.pass_rename(from, to, dir_key).await?;
            if ![&source, &target].iter().any(|dir| self.write_back.makes_below(dir)) {
                break (pass, source, target);
            }
        };
        let there = self.namespace.find_anew(to.0, to.1).await?;
        match there {
            Some(_) if !replace => return Err(Error::Exists),
            Some(Node::File(_)) => return Err(Error::NotDirectory),
            _ if source == target => return Ok(()),
            _ if target.starts_with(&source) => return Err(Error::Invalid("a directory into itself")),
            _ => {}
        }
        // What was removed below must not be copied, and what had the new name must not take along what comes.
        self.bury_below(&source).await;
        self.bury_below(&target).await;
        self.deletes.settle_all().await;
        let mut over = false;
        if there.is_some() {
            let contents = markers::Contents::of(&self.client, &target, &HashSet::new()).await?;
            if contents.others || self.namespace.has_local_names(&target) {
                self.namespace.not_empty(&target);
                return Err(Error::NotEmpty);
            }
            over = contents.marker;
        }
        for (ino, writer) in self.writers_below(&source) {
            if writer.has_sent().await || writer.is_acknowledged().await {
                self.commit_with_pass(ino, &writer).await?;
            }
        }
        let begun = self.journal.begin(Intent::Rename {
            from: source.clone(),
            to: target.clone(),
            over,
            at: SystemTime::now(),
        });
        let intent = begun?;
        let moved = match self.copy_dir(intent, from.0, &source, &target).await {
            Ok(moved) => moved,
            Err(e) => {
                self.undo_rename(intent, &source, &target, over).await;
                return Err(e);
            }
        };
        self.dir_renamed(from, to, (&source, &target), &moved).await;
        let deleted = moves::delete(&self.client, moves::whole(&source, &moved)).await;
        drop(pass);
        match deleted {
            Ok(()) => self.journal.end(intent),
            // It stays in the journal: the next mount goes on.
            Err(_) => _ = self.namespace.refresh_below(from.0),
        }
        deleted
    }

    /// Copies all, and takes note that from now on the rename is to be finished.
    async fn copy_dir(
        &self,
        intent: u64,
        parent: u64,
        source: &str,
        target: &str,
    ) -> Result<Vec<Moved>, Error> {
        self.journal.sync().await?;
        let moved = moves::copy_below(&self.writes.uploads, source, target, moves::OBJECTS_MAX).await?;
        if moved.is_empty() {
            // All that is below it is yet to be published, or it is gone.
            if !self.namespace.has_local_names(source) {
                return Err(Error::NotFound);
            }
            markers::put(&self.client, target, &markers::headers()).await?;
        }
        if parent != self.namespace.root() && !self.namespace.has_marker(parent) {
            markers::keep_beside(&self.client, &self.namespace.dir_key(parent)?, source).await?;
        }
        self.journal.commit(intent)?;
        // From here on it can only be finished; a machine lost just now would undo it, which is as good.
        if let Err(e) = self.journal.sync().await {
            tracing::warn!("{e}");
        }
        Ok(moved)
    }

    async fn undo_rename(&self, intent: u64, source: &str, target: &str, over: bool) {
        match moves::undo(&self.client, source, target, over).await {
            Ok(()) => self.journal.end(intent),
            Err(e) => tracing::error!(
                from = source,
                to = target,
                "half a directory was copied, and cannot be taken back now; the next mount will try: {e}"
            ),
        }
    }

    /// S3 has all of it under the new key: from now on so have we.
    async fn dir_renamed(
        &self,
        from: Name<'_>,
        to: Name<'_>,
        (source, target): (&str, &str),
        moved: &[Moved],
    ) {
        let (Ok(from_dir), Ok(to_dir)) = (self.namespace.dir_key(from.0), self.namespace.dir_key(to.0))
        else {
            return; // the kernel holds both while it renames
        };
        let tree = MovedTree::new(source, target, moved);
        let (from, to) = ((&*from_dir, from.1), (&*to_dir, to.1));
        self.trees_moved([tree], |[tree]| self.namespace.renamed_dir(from, to, &|name| tree.etag_of(name)))
            .await;
    }

    /// S3 has all of these under their new keys: from now on so have we. `rekey` keys the namespace anew.
    pub(super) async fn trees_moved<const N: usize>(
        &self,
        trees: [MovedTree<'_>; N],
        rekey: impl FnOnce(&[MovedTree<'_>; N]) -> Vec<MovedFile>,
    ) {
        self.objects_moved(|linked| trees.iter().find_map(|tree| tree.object(linked))).await;
        let (files, writers) = self.handles.between_writers(|writers| (rekey(&trees), writers));
        for file in files {
            self.versions.made(file.ino, Some(&file.before), &file.now);
        }
        for (ino, writer) in writers {
            let Ok(key) = self.namespace.key(ino) else { continue };
            let tree = trees.iter().find_map(|tree| Some((tree, name_below(&key, tree.target)?)));
            if let Some((tree, name)) = tree
                && let Err(e) = writer.renamed(key.clone(), tree.etags_of(name), None).await
            {
                tracing::error!(key, "the local disk has it under its old name: {e}");
            }
        }
    }

    /// Ranges that the server is to copy from objects that moved are now of what these became.
    pub(super) async fn objects_moved(&self, to: impl Fn(&Object) -> Option<Object>) {
        for (_, writer) in self.linked_writers() {
            writer.objects_moved(&to).await;
        }
    }

    pub(super) fn writers_below(&self, dir: &str) -> Vec<(u64, Arc<Writer>)> {
        let writers = self.handles.writers().into_iter();
        writers.filter(|(ino, _)| self.namespace.key(*ino).is_ok_and(|key| key.starts_with(dir))).collect()
    }

    pub(super) fn writer_at(&self, parent: u64, name: &str) -> Option<Arc<Writer>> {
        self.namespace.ino_of(parent, name).and_then(|ino| self.handles.writer(ino))
    }

    /// The right to change what stands at these names, in S3 as well.
    pub(super) async fn pass_names(&self, names: &[Name<'_>]) -> Result<Pass, Error> {
        let keys = || -> Result<Vec<String>, Error> {
            names.iter().map(|(dir, name)| Ok(format!("{}{name}", self.namespace.dir_key(*dir)?))).collect()
        };
        loop {
            let asked = keys()?;
            let pass = self.gate.change(asked.clone()).await;
            if keys()? == asked {
                return Ok(pass);
            }
        }
    }

    /// The right to change what S3 has of a file or directory; none is needed where its name is gone.
    pub(super) async fn pass_file(&self, ino: u64) -> Option<Pass> {
        loop {
            let key = self.namespace.key(ino).ok()?;
            let pass = self.gate.change(vec![key.clone()]).await;
            if self.namespace.key(ino).is_ok_and(|now| now == key) {
                return Some(pass);
            }
        }
    }

    /// The right to rename something, and its key before and after, as `key` makes it of a directory's key and a name.
    pub(super) async fn pass_rename(
        &self,
        from: Name<'_>,
        to: Name<'_>,
        key: impl Fn(&str, &str) -> Result<String, Error>,
    ) -> Result<(Pass, String, String), Error> {
        let key = |(dir, name): Name<'_>| key(&self.namespace.dir_key(dir)?, name);
        self.pass_keys(|| Ok((key(from)?, key(to)?))).await
    }

    /// As [`Filesystem::pass_rename`], for what has these keys.
    pub(super) async fn pass_keys(
        &self,
        keys: impl Fn() -> Result<(String, String), Error>,
    ) -> Result<(Pass, String, String), Error> {
        loop {
            let (source, target) = keys()?;
            let pass = self.gate.rename(&source, &target).await;
            if keys()? == (source.clone(), target.clone()) {
                return Ok((pass, source, target));
            }
        }
    }
}

/// All that moved from one key to another; those of directories end in `/`.
pub(super) struct MovedTree<'a> {
    source: &'a str,
    target: &'a str,
    by_name: HashMap<&'a str, &'a Moved>,
}

impl<'a> MovedTree<'a> {
    pub fn new(source: &'a str, target: &'a str, moved: &'a [Moved]) -> MovedTree<'a> {
        let by_name = moved.iter().map(|object| (object.name.as_str(), object)).collect();
        MovedTree { source, target, by_name }
    }

    /// Of what is called so below the new key.
    pub fn etag_of(&self, name: &str) -> Option<String> {
        self.by_name.get(name).map(|object| object.etag.clone())
    }

    /// As [`MovedTree::etag_of`], after that of what was copied.
    fn etags_of(&self, name: &str) -> Option<(&str, &str)> {
        self.by_name.get(name).map(|object| (object.was.as_str(), object.etag.as_str()))
    }

    /// What an object has become, if it is one of these.
    fn object(&self, was: &Object) -> Option<Object> {
        let object = self.by_name.get(name_below(&was.key, self.source)?)?;
        let key = format!("{}{}", self.target, object.name);
        (object.was == was.etag).then(|| Object { key, etag: object.etag.clone(), size: was.size })
    }
}

/// What follows a directory's key; nothing where the key is that of a file.
fn name_below<'k>(key: &'k str, at: &str) -> Option<&'k str> {
    key.strip_prefix(at).filter(|name| name.is_empty() || at.ends_with('/'))
}
