//! Directories: opendir, readdir, mkdir.
//!
//! Owns: the cookies of directory streams.
//! Invariant: a name is shown as made only after S3 has answered.

use std::collections::VecDeque;
use std::ffi::OsStr;

use tokio::task::JoinHandle;

use super::copies::Copying;
use super::handles::DirHandle;
use super::keep::Maker;
use super::{Attr, Filesystem, new_name};
use crate::attr::Attributes;
use crate::error::Error;
use crate::key;
use crate::namespace::{DirStream, Kind, Listed, Node};
use crate::write::markers;

/// One entry of a directory, as the kernel takes it.
pub struct DirItem<'a> {
    pub ino: u64,
    /// Where reading goes on after this entry.
    pub cookie: u64,
    pub kind: Kind,
    pub name: &'a str,
    /// For readdirplus: counted as one reference of the kernel. None for `.` and `..`.
    pub attr: Option<Attr>,
}

/// What was answered to an opendir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedDir {
    pub fh: u64,
    /// The kernel may answer from the copy it has of the directory.
    pub keep_cache: bool,
    /// It may read that copy, and make one of what this handle reads.
    pub may_cache: bool,
}

/// A directory handle's place: `.`, `..`, then the stream. Entries of the last answer are kept, for
/// a kernel that takes fewer than it was given asks for the rest again.
pub(super) struct Listing {
    stream: DirStream,
    /// Where attributes are kept: entries whose attributes are asked for before they are read.
    coming: VecDeque<Coming>,
    kept: VecDeque<Listed>,
    /// The cookie before the first kept entry.
    kept_from: u64,
    ended: bool,
    failed: Option<Error>,
    /// The kernel makes a copy of what is read, which is of one listing and with attributes so far.
    copied: Option<Copying>,
}

struct Coming {
    listed: Listed,
    asked: Option<JoinHandle<Result<Option<Node>, Error>>>,
}

/// Entries whose attributes are asked for ahead of the reader, at most.
const COMING_MAX: usize = 64;
/// Cookies 1 and 2 are `.` and `..`.
const COOKIE_DOTS: u64 = 2;

impl Listing {
    pub fn new(stream: DirStream, copied: Option<Copying>) -> Listing {
        let (coming, kept) = (VecDeque::new(), VecDeque::new());
        Listing { stream, coming, kept, kept_from: COOKIE_DOTS, ended: false, failed: None, copied }
    }

    /// The entry after `cookie`; none at the end.
    async fn after(&mut self, cookie: u64, plus: bool) -> Result<Option<Listed>, Error> {
        loop {
            let index = usize::try_from(cookie.saturating_sub(self.kept_from)).unwrap_or(usize::MAX);
            if let Some(entry) = self.kept.get(index) {
                return Ok(Some(entry.clone()));
            }
            if !self.ended && self.failed.is_none() && self.coming.len() < COMING_MAX {
                match self.stream.next().await {
                    Ok(Some(entry)) => self.come(entry, plus),
                    Ok(None) => self.ended = true,
                    // Kept, lest the next call take the failure for the directory's end.
                    Err(e) => self.failed = Some(e),
                }
                continue;
            }
            match (self.coming.pop_front(), &self.failed) {
                (Some(coming), _) => self.kept.extend(coming.entry().await),
                (None, Some(failed)) => return Err(failed.clone()),
                (None, None) => return Ok(None),
            }
        }
    }

    /// An entry of the stream: it can be read at once, or when its attributes are known.
    fn come(&mut self, listed: Listed, plus: bool) {
        let (namespace, dir) = self.stream.directory();
        if !namespace.keeps_attributes() {
            return self.kept.push_back(listed);
        }
        let Some(listed) = namespace.listed_now(dir, listed) else { return };
        let asked = namespace.must_ask(dir, &listed.name, &listed.node, plus).then(|| {
            let (namespace, name, node) = (namespace.clone(), listed.name.clone(), listed.node.clone());
            tokio::spawn(async move { namespace.ask_attributes(dir, &name, node).await })
        });
        self.coming.push_back(Coming { listed, asked });
    }

    /// Drops what was read before `cookie`.
    fn drop_before(&mut self, cookie: u64) {
        while self.kept_from < cookie && self.kept.pop_front().is_some() {
            self.kept_from += 1;
        }
    }
}

impl Coming {
    /// None: it is gone. Where asking failed it is shown as it was listed: whoever wants its attributes is told.
    async fn entry(self) -> Option<Listed> {
        let Coming { listed, asked } = self;
        let node = match asked {
            Some(asked) => asked.await.unwrap_or_else(|e| Err(Error::Io(e.to_string()))),
            None => return Some(listed),
        };
        match node {
            Ok(node) => Some(Listed { node: node?, ..listed }),
            Err(e) => {
                tracing::warn!("the attributes of {} in a listing: {e}", listed.name.escape_debug());
                Some(listed)
            }
        }
    }
}

impl Filesystem {
    /// `opendir(3)`. The kernel keeps its copy of a directory while the listing that it is of is known and fresh.
    pub fn opendir(&self, ino: u64) -> Result<OpenedDir, Error> {
        self.namespace.dir_key(ino)?;
        let mut stream = DirStream::new(self.namespace.clone(), ino);
        let copy_of = self.copies.of(ino);
        let keep_cache = copy_of.is_some() && stream.begin_known() == copy_of;
        // Two that fill one copy would mix what they read.
        let may_cache = keep_cache || !self.handles.has_dir(ino);
        let copying = may_cache.then(|| self.copies.begin(ino));
        let fh = self.handles.add_dir(ino, Listing::new(stream, copying))?;
        self.namespace.pin(ino);
        Ok(OpenedDir { fh, keep_cache, may_cache })
    }

    /// Gives entries after `cookie` (0: from the start, read anew) to `take` until it answers that it is
    /// full. With `plus` each comes with its attributes and a reference, taken back if it did not fit.
    pub async fn readdir(
        &self,
        fh: u64,
        cookie: u64,
        plus: bool,
        take: &mut (dyn FnMut(DirItem<'_>) -> bool + Send),
    ) -> Result<(), Error> {
        self.ready().await?;
        let handle = self.handles.dir(fh)?;
        let mut listing = handle.listing.lock().await;
        self.rewind(&handle, &mut listing, cookie);
        listing.drop_before(cookie);
        let mut at = cookie;
        let mut taken = false;
        loop {
            let full = match self.item_after(&handle, &mut listing, at, plus, take).await {
                Ok(Some(full)) => full,
                Ok(None) => {
                    self.copied(&mut listing);
                    return Ok(());
                }
                Err(_) if taken => return Ok(()), // the next call answers it
                Err(e) => return Err(e),
            };
            if full {
                return Ok(());
            }
            taken = true;
            at += 1;
        }
    }

    /// Reading from the start, or from before what is kept, begins a new listing.
    fn rewind(&self, handle: &DirHandle, listing: &mut Listing, cookie: u64) {
        let untouched = listing.kept_from == COOKIE_DOTS
            && listing.kept.is_empty()
            && listing.coming.is_empty()
            && listing.failed.is_none();
        let behind = cookie > COOKIE_DOTS && cookie < listing.kept_from;
        if (cookie == 0 && !untouched) || behind {
            *listing = Listing::new(DirStream::new(self.namespace.clone(), handle.ino), None);
        }
    }

    /// The kernel has read to the end.
    fn copied(&self, listing: &mut Listing) {
        if let Some((copying, of)) = listing.copied.take().zip(listing.stream.as_of()) {
            self.copies.made(copying, of);
        }
    }

    /// Gives the entry after `cookie`; answers whether `take` was full, or none at the end.
    async fn item_after(
        &self,
        handle: &DirHandle,
        listing: &mut Listing,
        cookie: u64,
        plus: bool,
        take: &mut (dyn FnMut(DirItem<'_>) -> bool + Send),
    ) -> Result<Option<bool>, Error> {
        let next = cookie + 1;
        if cookie < COOKIE_DOTS {
            let (name, ino) = match cookie {
                0 => (".", handle.ino),
                _ => ("..", self.namespace.parent(handle.ino)),
            };
            return Ok(Some(take(DirItem { ino, cookie: next, kind: Kind::Directory, name, attr: None })));
        }
        let Some(listed) = listing.after(cookie, plus).await? else { return Ok(None) };
        // Kept since the last call, it may be gone or something else by now.
        let Some(Listed { name, node }) = self.namespace.listed_now(handle.ino, listed) else {
            return Ok(Some(false));
        };
        let kind = node.kind();
        // Which was not asked for as long as names alone were read; or S3 does not tell.
        if !plus || self.namespace.lacks_attributes(handle.ino, &name, &node) {
            // A copy without attributes would make the kernel look up each name: it is quicker with none.
            listing.copied = None;
            let ino = self.namespace.number_of(handle.ino, &name, kind);
            return Ok(Some(take(DirItem { ino, cookie: next, kind, name: &name, attr: None })));
        }
        let Ok(entry) = self.namespace.enter(handle.ino, &name, &node) else { return Ok(Some(false)) };
        self.relieve();
        let attr = Some(self.attr(&entry));
        let full = take(DirItem { ino: entry.ino, cookie: next, kind, name: &name, attr });
        if full {
            self.namespace.forget(entry.ino, 1);
        }
        Ok(Some(full))
    }

    pub fn releasedir(&self, fh: u64) {
        if let Ok(handle) = self.handles.dir(fh) {
            self.handles.remove_dir(fh);
            self.namespace.unpin(handle.ino);
        }
    }

    /// Writes the marker object `dir/`. Counts one reference of the kernel.
    pub async fn mkdir(&self, parent: u64, name: &OsStr, maker: Maker) -> Result<Attr, Error> {
        self.check_writable(parent)?;
        let name = new_name(name)?;
        let _pass = self.pass_names(&[(parent, name)]).await?;
        if self.buckets.is_some() {
            return self.make_bucket(parent, name).await;
        }
        let key = key::dir_key(&self.namespace.dir_key(parent)?, name.as_bytes())?;
        if self.namespace.find(parent, name).await?.is_some() {
            return Err(Error::Exists);
        }
        // What had this name may be on its way out.
        self.clear_name(key.trim_end_matches('/')).await;
        let mut attributes = self.made_by(parent, Kind::Directory, maker);
        let mut headers = markers::headers();
        attributes.write(Kind::Directory, &mut headers.metadata);
        let noted = self.note_directory(&key, &headers, false);
        let keeps = match noted {
            Some(_) => self.keeps_markers.get() != Some(&false),
            None => self.make_marker(&self.client, &key, &headers).await?,
        };
        if !keeps {
            attributes = Attributes::default();
        }
        let entry = self.namespace.made_directory(parent, name)?;
        self.namespace.changed_attributes(entry.ino, attributes);
        if let Some(noted) = noted {
            self.send_directory(entry.ino, key, headers, false, noted);
        }
        Ok(self.attr(&self.namespace.entry(entry.ino)?))
    }
}
