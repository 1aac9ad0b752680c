//! Attributes that are changed: they are kept in the object's metadata (`--attrs=meta`).
//!
//! Owns: [`Maker`] (whose a new file is), and how what an object carries is changed: along with its bytes while these
//! are still to be sent, else by a copy onto itself.
//! Invariants: no byte of content is sent for it, and no more metadata than S3 takes; a copy is pinned by the ETag whose head was read, and keeps all else
//! that the object carries; two changes of one file do not lose one another.
//! Must never know: how attributes are written in metadata.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

use futures_util::future;

use super::meta::{SetAttr, SetTime};
use super::s3_xattr::check_tags;
use super::{Attr, Filesystem};
use crate::attr::xattr::{METADATA_BYTES_MAX, metadata_bytes};
use crate::attr::{Attributes, Kind, PERMISSIONS};
use crate::error::{Error, S3ErrorKind};
use crate::namespace::{FileInfo, Kept, Node};
use crate::s3::{ObjectHead, ObjectHeaders, ObjectId, S3Client, Written, tags_text};
use crate::write::{Object, Writer, markers, upload};

const MARKERS_ARE_BARE: Error = Error::NotSupported("the server keeps no metadata of directories");

/// Whose a new file or directory is, and its mode.
#[derive(Debug, Clone, Copy)]
pub struct Maker {
    /// Permission bits, without what the umask takes.
    pub perm: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Who changes what an object carries, or asks it back, by inode. Held for an instant only, nothing under it.
#[derive(Default)]
pub(super) struct Keeping(Mutex<HashMap<u64, Weak<tokio::sync::Mutex<()>>>>);

impl Keeping {
    pub fn turn(&self, ino: u64) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(turn) = turns.get(&ino).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(ino, Arc::downgrade(&turn));
        turn
    }
}

impl Filesystem {
    /// What a new file, directory or special file of this maker's is; nothing where attributes are not kept.
    pub(super) fn made_by(&self, parent: u64, kind: Kind, maker: Maker) -> Attributes {
        if !self.namespace.keeps_attributes() {
            return Attributes::default();
        }
        let above = self.namespace.entry(parent).ok().map(|entry| self.attr(&entry));
        // Within a directory with the set-group-id bit all is of its group, and its directories have the bit as well.
        let group = above.filter(|above| u32::from(above.perm) & libc::S_ISGID != 0).map(|above| above.gid);
        let more = if group.is_some() && kind == Kind::Directory { libc::S_ISGID } else { 0 };
        let now = Some(SystemTime::now());
        Attributes {
            kind: Some(kind),
            perm: Some((maker.perm & PERMISSIONS) | more),
            uid: Some(maker.uid),
            gid: Some(group.unwrap_or(maker.gid)),
            mtime: now,
            ctime: now,
            ..Attributes::default()
        }
    }

    /// What a file's object carries on when its content begins anew: its attributes, without times.
    pub(super) async fn metadata_to_keep(&self, ino: u64, key: &str) -> Result<Vec<(String, String)>, Error> {
        let mut metadata = Vec::new();
        if !self.namespace.keeps_attributes() {
            return Ok(metadata);
        }
        let Node::File(info) = self.namespace.entry(ino)?.node else { return Ok(metadata) };
        let Some(attributes) = info.attributes() else { return Ok(metadata) };
        if attributes.xattrs && !info.etag.is_empty() {
            return Ok(self.client.head_object(key).await?.metadata);
        }
        let attributes = Attributes { mtime: None, ctime: None, ..attributes.clone() };
        attributes.write(info.kind(), &mut metadata);
        Ok(metadata)
    }

    /// Changes a file's or directory's attributes, here and in S3.
    pub(super) async fn keep(&self, ino: u64, set: &SetAttr) -> Result<(), Error> {
        let _pass = self.pass_file(ino).await;
        let turn = self.keeping.turn(ino);
        let _turn = turn.lock().await;
        let entry = self.namespace.attributes(ino).await?;
        let attr = self.attr(&entry);
        let Some(change) = change_of(&attr, set) else { return Ok(()) };
        let kind = attr.kind;
        self.change_headers(ino, &entry.node, move |headers| {
            change.write(kind, &mut headers.metadata);
            Ok(())
        })
        .await
    }

    /// As [`Filesystem::change_headers`], one change of a file after the other.
    pub(super) async fn change_carried(
        &self,
        ino: u64,
        change: impl FnOnce(&mut ObjectHeaders) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let _pass = self.pass_file(ino).await;
        let turn = self.keeping.turn(ino);
        let _turn = turn.lock().await;
        let node = self.namespace.attributes(ino).await?.node;
        self.change_headers(ino, &node, change).await
    }

    /// Changes what the object of a file or directory carries: with what is to be published, else by a copy, after which
    /// the object's ACL is given to it again.
    async fn change_headers(
        &self,
        ino: u64,
        node: &Node,
        change: impl FnOnce(&mut ObjectHeaders) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let change = |headers: &mut ObjectHeaders| {
            let mut changed = headers.clone();
            change(&mut changed)?;
            if metadata_bytes(&changed.metadata) > METADATA_BYTES_MAX {
                return Err(Error::NoSpace("all of an object's metadata are at most 2 KiB"));
            }
            *headers = changed;
            Ok(())
        };
        if *node == Node::Directory {
            return self.change_marker(ino, change).await;
        }
        let mut change = Some(change);
        if self.change_pending(ino, &mut change).await? {
            return Ok(());
        }
        let Some(change) = change else { return Ok(()) };
        let Ok(key) = self.namespace.key(ino) else { return self.change_unlinked(ino, node, change) };
        self.deletes.settled(&key).await;
        let object = ObjectId::current(&key);
        let (head, acl) = future::join(self.client.head_object(&key), self.client.acl_to_keep(object)).await;
        let head = head?;
        let mut headers = ObjectHeaders::from(head.clone());
        self.pin_mtime(&head, &mut headers);
        change(&mut headers)?;
        let acl = acl?;
        self.rewrite(ino, &key, &head, &headers).await?;
        // The copy is S3's default meanwhile, which is nobody's but the owner's, or what --acl says.
        Ok(self.client.put_acl_again(object, acl).await?)
    }

    /// Changes what a file carries that is still to be published. False, and the change is left, where nothing is to be.
    async fn change_pending(
        &self,
        ino: u64,
        change: &mut Option<impl FnOnce(&mut ObjectHeaders) -> Result<(), Error> + Send>,
    ) -> Result<bool, Error> {
        let Some(writer) = self.handles.writer(ino) else { return Ok(false) };
        let mut changed = Ok(ObjectHeaders::default());
        let travels = writer.amend(|headers| {
            if let Some(change) = change.take() {
                changed = change(headers).map(|()| headers.clone());
            }
        });
        let acknowledged = writer.is_acknowledged().await;
        if !travels.await? {
            return Ok(false);
        }
        self.namespace.changed_attributes(ino, self.attributes_in(&changed?));
        if acknowledged {
            self.acknowledge(ino, &writer, false, || false).await?;
        }
        Ok(true)
    }

    /// Tags a file or directory, with the upload where it is still to be published.
    pub(super) async fn tag(&self, ino: u64, tags: &[(String, String)]) -> Result<(), Error> {
        let _pass = self.pass_file(ino).await;
        let turn = self.keeping.turn(ino);
        let _turn = turn.lock().await;
        let tagging = tags_text(tags);
        let mut change = Some(|headers: &mut ObjectHeaders| {
            check_tags(tags)?;
            headers.set_tagging(tagging.clone());
            Ok(())
        });
        if self.change_pending(ino, &mut change).await? {
            return Ok(());
        }
        let key = self.namespace.key(ino)?;
        self.client.put_tags(tags, Some(ObjectId::current(&key))).await?;
        if let Some(writer) = self.handles.writer(ino) {
            writer.carries(|headers| headers.set_tagging(tagging)).await;
        }
        Ok(())
    }

    /// What handles still hold of a file that was removed is kept here alone.
    fn change_unlinked(
        &self,
        ino: u64,
        node: &Node,
        change: impl FnOnce(&mut ObjectHeaders) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut headers = ObjectHeaders::default();
        if let Node::File(info) = node {
            info.attributes().cloned().unwrap_or_default().write(info.kind(), &mut headers.metadata);
        }
        change(&mut headers)?;
        self.namespace.changed_attributes(ino, self.attributes_in(&headers));
        Ok(())
    }

    /// A copy has another `Last-Modified`: what showed as the file's time goes on to.
    fn pin_mtime(&self, head: &ObjectHead, headers: &mut ObjectHeaders) {
        if self.namespace.keeps_attributes() && self.attributes_in(headers).mtime.is_none() {
            let mtime = Some(head.last_modified);
            Attributes { mtime, ..Attributes::default() }.write(Kind::File, &mut headers.metadata);
        }
    }

    /// Gives an object other headers: a copy onto itself.
    async fn rewrite(
        &self,
        ino: u64,
        key: &str,
        head: &ObjectHead,
        headers: &ObjectHeaders,
    ) -> Result<(), Error> {
        let Written { etag, .. } = upload::carry(&self.writes.uploads, key, head, headers).await?;
        self.objects_moved(|linked| {
            let is_it = linked.key == key && linked.etag == head.etag;
            is_it.then(|| Object { etag: etag.clone(), ..linked.clone() })
        })
        .await;
        let writer = self.handles.writer(ino);
        if let Some(writer) = &writer {
            let carries = |carried: &mut ObjectHeaders| {
                let tags = carried.tagging().map(str::to_owned).filter(|_| headers.tagging().is_none());
                carried.clone_from(headers);
                tags.into_iter().for_each(|tags| carried.set_tagging(tags));
            };
            writer.carries(carries).await;
            if etag != head.etag {
                writer.renamed(key.into(), Some((&head.etag, &etag)), None).await?;
            }
        }
        self.versions.made(ino, Some(&head.etag), &etag);
        let kept = self.kept(self.attributes_in(headers));
        self.namespace.publish(ino, FileInfo { size: head.size, mtime: SystemTime::now(), etag, kept });
        if let Some(writer) = writer
            && writer.is_dirty().await
        {
            self.namespace.written(ino, writer.len());
        }
        Ok(())
    }

    /// As [`Filesystem::change_headers`]; the marker is written where it was missing.
    async fn change_marker(
        &self,
        ino: u64,
        change: impl FnOnce(&mut ObjectHeaders) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let dir = self.namespace.dir_key(ino)?;
        if dir.is_empty() {
            return Err(Error::NotPermitted("a bucket has no object that could carry attributes of its own"));
        }
        let (head, mut headers) = match self.write_back.marker_headers(ino) {
            Some(headers) => (None, headers),
            None => match self.client.head_object(&dir).await {
                Ok(head) => (Some(head.clone()), ObjectHeaders::from(head)),
                Err(e) if e.kind == S3ErrorKind::NoSuchKey => (None, markers::headers()),
                Err(e) => return Err(e.into()),
            },
        };
        if let Some(head) = &head {
            self.pin_mtime(head, &mut headers);
        }
        change(&mut headers)?;
        if self.keeps_markers.get() == Some(&false) && !headers.metadata.is_empty() {
            return Err(MARKERS_ARE_BARE);
        }
        // Nothing need be copied of an empty one; and SeaweedFS, which finds no marker to copy, drops what it carries.
        let noted = match head.filter(|head| head.size > 0) {
            Some(head) => {
                let acl = self.client.acl_to_keep(ObjectId::current(&dir)).await?;
                upload::carry(&self.writes.uploads, &dir, &head, &headers).await?;
                self.client.put_acl_again(ObjectId::current(&dir), acl).await?;
                None
            }
            None => match self.note_directory(&dir, &headers, true) {
                None => {
                    self.marker_sent(ino, &dir).await?; // lest it come later
                    self.put_marker(&self.client, &dir, &headers).await.map(|()| None)?
                }
                noted => noted,
            },
        };
        if self.namespace.keeps_attributes() {
            self.namespace.changed_attributes(ino, self.attributes_in(&headers));
        }
        if let Some(noted) = noted {
            self.send_directory(ino, dir, headers, true, noted);
        }
        Ok(())
    }

    /// Puts a marker for what it carries.
    pub(super) async fn put_marker(
        &self,
        client: &S3Client,
        dir: &str,
        headers: &ObjectHeaders,
    ) -> Result<(), Error> {
        markers::put_anew(client, dir, headers).await?;
        if headers.metadata.is_empty() || self.keeps_markers.get() == Some(&true) {
            return Ok(());
        }
        match self.learn_of_markers(client, dir, headers).await? {
            true => Ok(()),
            false => Err(MARKERS_ARE_BARE),
        }
    }

    /// Puts a new directory's marker. Answers whether the directory is what its attributes say: else it shows as the mount
    /// has it.
    pub(super) async fn make_marker(
        &self,
        client: &S3Client,
        dir: &str,
        headers: &ObjectHeaders,
    ) -> Result<bool, Error> {
        markers::put(client, dir, headers).await?;
        if headers.metadata.is_empty() {
            return Ok(true);
        }
        if let Some(keeps) = self.keeps_markers.get() {
            return Ok(*keeps);
        }
        let learnt = self.learn_of_markers(client, dir, headers).await;
        let unknown =
            |e| tracing::debug!(dir, "whether the server keeps a marker's metadata is not seen: {e}");
        Ok(learnt.map_err(unknown).unwrap_or(true))
    }

    /// What was acknowledged of a new directory's attributes is not kept.
    pub(super) fn marker_is_bare(&self, ino: u64) {
        self.namespace.changed_attributes(ino, Attributes::default());
        if let Some(kernel) = self.kernel.get() {
            self.runtime.spawn_blocking(move || kernel.forget_attributes(ino));
        }
    }

    /// Whether a marker that was put just now has the metadata it was given: a server keeps all markers' or none's
    /// (SeaweedFS, where they are directories).
    async fn learn_of_markers(
        &self,
        client: &S3Client,
        dir: &str,
        headers: &ObjectHeaders,
    ) -> Result<bool, Error> {
        let kept = client.head_object(dir).await?.metadata;
        let found = headers.metadata.iter().filter(|said| kept.contains(said)).count();
        let keeps = found == headers.metadata.len();
        // Some of it: somebody else's marker, by now.
        if keeps || found == 0 {
            let is_news = self.keeps_markers.set(keeps).is_ok();
            if is_news && !keeps {
                tracing::warn!("the server keeps no metadata of directories: they show as the mount has it");
            }
        }
        Ok(keeps)
    }

    /// What is about to be published is as old as it was shown to be.
    pub(super) async fn stamp(&self, ino: u64, writer: &Writer) -> Result<(), Error> {
        if self.namespace.keeps_attributes()
            && let Ok(entry) = self.namespace.entry(ino)
        {
            let Attr { mtime, ctime, .. } = self.attr(&entry);
            let times = Attributes { mtime: Some(mtime), ctime: Some(ctime), ..Attributes::default() };
            writer.stamp(&times).await?;
        }
        Ok(())
    }

    /// What an object's metadata say; what makes no sense there was told of when it was read.
    pub(super) fn attributes_in(&self, headers: &ObjectHeaders) -> Attributes {
        let metadata = headers.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Attributes::read(metadata, |_, _| {})
    }

    pub(super) fn kept(&self, attributes: Attributes) -> Option<Arc<Kept>> {
        if self.namespace.keeps_attributes() { Kept::new(attributes) } else { None }
    }
}

/// What is to be written; none where all is as it is to be.
fn change_of(attr: &Attr, set: &SetAttr) -> Option<Attributes> {
    let now = SystemTime::now();
    let time = |set: Option<SetTime>| match set? {
        SetTime::Now => Some(now),
        SetTime::At(time) => Some(time),
    };
    let perm = set.mode.map(|mode| mode & PERMISSIONS).filter(|perm| *perm != u32::from(attr.perm));
    let uid = set.uid.filter(|uid| *uid != attr.uid);
    let gid = set.gid.filter(|gid| *gid != attr.gid);
    let mtime = time(set.mtime).filter(|mtime| *mtime != attr.mtime);
    let atime = time(set.atime).filter(|atime| *atime != attr.atime);
    if perm.is_none() && uid.is_none() && gid.is_none() && mtime.is_none() && atime.is_none() {
        return None;
    }
    let kind = Some(attr.kind);
    Some(Attributes { kind, perm, uid, gid, mtime, atime, ctime: Some(now), ..Attributes::default() })
}
