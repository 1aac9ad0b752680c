//! Closing files: flush, fsync, release.
//!
//! Owns: the close-to-open rule: when what was written goes to S3, or with `--write-back` to the local disk first.
//! Invariants: an error reaches close or fsync; what could not be published is kept, and the log says so.
//! Must never know: which bytes are sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::handles::FileHandle;
use super::{Filesystem, descriptors};
use crate::error::Error;
use crate::namespace::FileInfo;
use crate::write::{Acknowledgement, Committed, Published, Writer};

impl Filesystem {
    /// The thread `pid` opened the handle, or is about to write through it.
    pub fn used_by(&self, pid: u32, fh: u64) {
        if let Ok(handle) = self.handles.file(fh) {
            handle.used_by(pid);
        }
    }

    /// `close(2)` of a descriptor by the thread `pid`: as [`Filesystem::flush`], but that nothing is published as long as
    /// another descriptor will see to that: where the handle made or cut the file, and wrote nothing yet, one of the same
    /// process; where the process neither opened it nor wrote, but inherited the descriptor, one of those that did.
    pub async fn flush_by(&self, pid: u32, fh: u64) -> Result<(), Error> {
        let handle = self.handles.file(fh)?;
        if handle.has_written() {
            let users = handle.users();
            let inherited = !users.iter().any(|user| descriptors::are_one_process(pid, *user));
            let unchanged = !handle.changes.load(Ordering::Acquire);
            let others = if inherited { users } else { Vec::from_iter(unchanged.then_some(pid)) };
            for other in others {
                if descriptors::holds_another(other, handle.ino).await {
                    return Ok(());
                }
            }
        }
        self.flush(fh).await
    }

    /// When this has answered, S3 has what was written through the handle, whole; with `--write-back`, the local disk. One
    /// that only read publishes nothing: another may be in the middle of its writing.
    pub async fn flush(&self, fh: u64) -> Result<(), Error> {
        let handle = self.handles.file(fh)?;
        let reader = handle.reader().clone();
        if let Some(reader) = reader {
            self.reads.filled(&reader).await;
        }
        if handle.has_written() { self.close_handle(&handle, false).await } else { Ok(()) }
    }

    /// `fsync(2)`: when this has answered, S3 has what any handle wrote; with `--write-back`, the local disk.
    pub async fn fsync(&self, fh: u64) -> Result<(), Error> {
        let handle = self.handles.file(fh)?;
        self.close_handle(&handle, true).await
    }

    async fn close_handle(&self, handle: &FileHandle, sync: bool) -> Result<(), Error> {
        match self.handles.writer(handle.ino) {
            Some(writer) => self.close(handle.ino, &writer, sync, || false).await,
            None => Ok(()),
        }
    }

    pub(super) async fn commit_with_pass(&self, ino: u64, writer: &Writer) -> Result<(), Error> {
        self.commit_unless(ino, writer, || false).await
    }

    /// `taken_up`: as in [`Writer::commit_unless`].
    async fn commit_unless(
        &self,
        ino: u64,
        writer: &Writer,
        taken_up: impl Fn() -> bool,
    ) -> Result<(), Error> {
        self.make_way(ino, writer).await;
        self.stamp(ino, writer).await?;
        match writer.commit_unless(taken_up).await? {
            Some(published) => self.published(ino, writer, published).await,
            None => Ok(()),
        }
    }

    /// Before a file is published: what had its name before may be on its way out, and must not take the new object along;
    /// and what others copy from the object that is there goes with it.
    pub(super) async fn make_way(&self, ino: u64, writer: &Writer) {
        if let Ok(key) = self.namespace.key(ino) {
            self.clear_name(&key).await;
            if writer.is_dirty().await {
                self.hold_links(Some(ino), &key).await;
            }
        }
    }

    /// S3 has the file: so do we.
    pub(super) async fn published(
        &self,
        ino: u64,
        writer: &Writer,
        published: Published,
    ) -> Result<(), Error> {
        let Published { now: Committed { etag, size }, from, headers, late } = published;
        self.versions.made(ino, from.as_deref(), &etag);
        self.namespace.publish(ino, FileInfo { size, mtime: self.mtime_of(ino), etag, kept: None });
        if late.is_ok() && self.namespace.keeps_attributes() {
            self.namespace.changed_attributes(ino, self.attributes_in(&headers));
        }
        if writer.is_dirty().await {
            self.namespace.written(ino, writer.len()); // another handle wrote on meanwhile
        }
        late
    }

    /// When the file that was published just now is to show as written: as it was shown before. Kept attributes tell
    /// that by themselves, and are known by the object's own time.
    fn mtime_of(&self, ino: u64) -> SystemTime {
        match self.namespace.entry(ino) {
            Ok(entry) if !self.namespace.keeps_attributes() => self.attr(&entry).mtime,
            _ => SystemTime::now(),
        }
    }

    /// The last descriptor of a handle is gone. What flush could not publish is given up here; flush has
    /// told the program.
    pub async fn release(&self, fh: u64) {
        let Some((handle, last_writer)) = self.handles.remove_file(fh) else { return };
        let ino = handle.ino;
        if let Some(reader) = handle.reader().take() {
            self.reads.released(&reader);
        }
        handle.leave(&self.backings);
        if let Some(writer) = last_writer {
            // Another handle may have come meanwhile, and be in the middle of its writing.
            let closed = self.close(ino, &writer, false, || self.handles.is_written(ino)).await;
            // What was acknowledged is parted with when it was sent.
            if self.write_back.unless_sending(ino, || self.handles.remove_writer(ino)) == Some(true) {
                self.part_with(ino, &writer, closed).await;
            }
        }
        self.namespace.unpin(ino);
    }

    /// Nobody writes the file any more.
    pub(super) async fn part_with(&self, ino: u64, writer: &Writer, closed: Result<(), Error>) {
        if writer.is_dirty().await && writer.is_acknowledged().await {
            return; // once more, just now: who sends it has it
        }
        if let Err(e) = &closed {
            self.keep_for_recovery(ino, writer, e).await;
        }
        if closed.is_err() || self.namespace.is_local(ino) {
            self.namespace.give_up(ino);
            self.versions.doubt(ino);
        }
        writer.abandon().await;
        self.bury(ino).await;
    }

    /// What could not be published stays on the local disk, and the log says so.
    pub(super) async fn keep_for_recovery(&self, ino: u64, writer: &Writer, why: &Error) {
        let file = self.describe(ino, None);
        match writer.keep(why).await {
            Ok(Some(name)) => {
                tracing::error!(file, "not published, but kept as {name} for `pailfs recover`: {why}")
            }
            Ok(None) => {}
            Err(e) => tracing::error!(file, "not published, and lost, for it cannot be kept ({e}): {why}"),
        }
    }

    /// What closing a file, or fsync (`sync`), does when it was changed: with `--write-back` the local disk takes it, else
    /// S3. Not if it is `taken_up`, as in [`Writer::commit_unless`].
    async fn close(
        &self,
        ino: u64,
        writer: &Arc<Writer>,
        sync: bool,
        taken_up: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let _pass = self.pass_file(ino).await;
        match self.write_back.on && writer.is_dirty().await {
            true => {
                self.stamp(ino, writer).await?;
                self.acknowledge(ino, writer, sync, taken_up).await
            }
            false => self.commit_unless(ino, writer, taken_up).await,
        }
    }

    /// The local disk takes what was written; S3 does where it cannot. With a pass.
    pub(super) async fn acknowledge(
        &self,
        ino: u64,
        writer: &Arc<Writer>,
        sync: bool,
        taken_up: impl Fn() -> bool,
    ) -> Result<(), Error> {
        match writer.acknowledge(sync, &taken_up).await? {
            Acknowledgement::Nothing => Ok(()),
            Acknowledgement::OnDisk => {
                self.send_file(ino, writer);
                Ok(())
            }
            Acknowledgement::MustPublish => self.commit_unless(ino, writer, taken_up).await,
        }
    }
}
