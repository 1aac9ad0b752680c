//! Names that only this mount knows: files that are being written, and what was acknowledged and is on its way to S3.
//!
//! Owns: how they become local, and how they cease to be.
//! Invariant: what S3 says of a local name is not believed.
//! Must never know: how anything is sent.

use std::time::Instant;

use super::dir::Dir;
use super::inode::Table;
use super::known::{Known, Source, When};
use super::{Kind, Node};

impl Table {
    pub(super) fn set_local(&mut self, ino: u64, local: bool) {
        if local && self.inodes.contains_key(&ino) {
            self.local.insert(ino);
        } else {
            self.local.remove(&ino);
        }
    }

    pub(super) fn is_local(&self, ino: u64) -> bool {
        self.local.contains(&ino)
    }

    pub(super) fn local_names(&self, dir: &str) -> Vec<(u64, String)> {
        let inodes = self.local.iter().filter_map(|ino| Some((*ino, self.inodes.get(ino)?)));
        inodes
            .filter(|(_, inode)| &*inode.dir == dir && inode.unlinked.is_none())
            .map(|(ino, inode)| (ino, inode.name.to_string()))
            .collect()
    }

    /// A local file that never came to be is gone; one that S3 has is asked about anew.
    pub(super) fn give_up(&mut self, ino: u64) {
        self.local.remove(&ino);
        self.edit_directory(ino, |dir| (dir.says, dir.ours) = (None, false));
        let Some((dir, name)) = self.place(ino) else { return self.drop_if_unused(ino) };
        let Some((known, _)) = self.state(ino) else { return };
        let known = if known.in_s3() {
            known.clone()
        } else {
            self.detach(&dir, &name);
            Known::Absent
        };
        // Another host may have made what we could not: nothing here says what is there.
        self.edit(&dir, |dir| {
            dir.set(&name, known, When::now(Source::Doubted));
            dir.forget_spans();
        });
        self.drop_if_unused(ino);
    }

    /// Only this mount knows the directory (`new`), or what its marker is to say.
    pub(super) fn set_directory_local(&mut self, ino: u64, new: bool) {
        self.set_local(ino, true);
        self.edit_directory(ino, |dir| {
            dir.ours |= new;
            dir.says.iter_mut().for_each(|says| says.local = true);
        });
    }

    fn edit_directory(&mut self, ino: u64, edit: impl FnOnce(&mut Dir)) {
        if self.kind(ino) == Some(Kind::Directory)
            && let Some(dir) = self.key(ino)
            && self.dirs.contains_key(&*dir)
        {
            self.edit(&dir, edit);
        }
    }

    /// S3 has the marker of a directory that was made or changed here.
    pub(super) fn directory_was_sent(&mut self, ino: u64) {
        self.local.remove(&ino);
        self.edit_directory(ino, |dir| {
            dir.ours = false;
            dir.says.iter_mut().for_each(|says| (says.local, says.asked) = (false, Instant::now()));
        });
        if let Some((dir, name)) = self.place(ino) {
            self.edit(&dir, |dir| {
                dir.set(&name, Known::of(Some(&Node::Directory)), When::now(Source::Changed))
            });
        }
        self.drop_if_unused(ino);
    }
}
