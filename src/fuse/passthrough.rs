//! Files that the kernel reads by itself: FUSE passthrough.
//!
//! Owns: [`Passed`]: by inode, the kernel's number of the file that its handles are passed through.
//! Invariant: all open handles of an inode have one number, which lives until the last of them is released.
//! Which handles are passed through, `fs` decides.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard};

use fuser::{BackingId, FileHandle, INodeNo, ReplyCreate, ReplyOpen};

use super::reply::{GENERATION, file_attr, open_flags};
use crate::fs::{Attr, Filesystem, Opened};

#[derive(Default)]
pub(super) struct Passed {
    /// With how many handles. Held while the kernel is told, so that nobody tells it otherwise.
    by_ino: Mutex<HashMap<u64, (BackingId, usize)>>,
}

impl Passed {
    pub fn reply_open(&self, fs: &Filesystem, ino: INodeNo, opened: Opened, reply: ReplyOpen) {
        let Some(backing) = &opened.backing else {
            return reply.opened(FileHandle(opened.fh), open_flags(&opened));
        };
        let mut by_ino = self.lock();
        let (id, handles) = match by_ino.entry(ino.0) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => match reply.open_backing(&backing.file) {
                Ok(id) => vacant.insert((id, 0)),
                Err(e) => {
                    tracing::info!("the kernel does not read cached files by itself: {e}");
                    let opened = fs.refuse_backing(opened);
                    return reply.opened(FileHandle(opened.fh), open_flags(&opened));
                }
            },
        };
        *handles += 1;
        reply.opened_passthrough(FileHandle(opened.fh), open_flags(&opened), id);
    }

    /// A new file's inode is passed through only if it is an older file's, with open handles.
    pub fn reply_created(&self, attr: &Attr, opened: Opened, reply: ReplyCreate) {
        let mut by_ino = self.lock();
        let (fh, file, flags) = (FileHandle(opened.fh), file_attr(attr), open_flags(&opened));
        match by_ino.get_mut(&attr.ino).filter(|_| opened.backing.is_some()) {
            Some((id, handles)) => {
                *handles += 1;
                reply.created_passthrough(&attr.ttl, &file, GENERATION, fh, flags, id);
            }
            None => reply.created(&attr.ttl, &file, GENERATION, fh, flags),
        }
    }

    /// Before `fs` hears of the release: it may then choose another file for the inode.
    pub fn release(&self, ino: INodeNo) {
        let mut by_ino = self.lock();
        if let Some((_, handles)) = by_ino.get_mut(&ino.0) {
            *handles -= 1;
            if *handles == 0 {
                by_ino.remove(&ino.0);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (BackingId, usize)>> {
        self.by_ino.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
