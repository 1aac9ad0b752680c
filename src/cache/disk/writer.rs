//! Writing blocks, one after the other, each as one step that no other mount sees half of.
//!
//! Owns: [`Writer`], a thread of its own, for the disk may stop it for as long as it likes.
//! Invariants: bytes are counted before they are written; what is written is written under the directory's lock,
//! so two mounts neither write one block twice nor take the same room.
//! Must never know: who waits for a block, for nobody does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Counters;
use super::dir::{Dir, Locked};
use super::object::{Files, Name};
use super::reader::Reader;
use super::room::Room;

/// What a block may take beside its bytes: first blocks of both files, the file system's map of them.
const RESERVE_BYTES: u64 = 64 << 10;

pub(super) enum Job {
    Write(Block),
    /// Answered when all that came before is done.
    Settle(oneshot::Sender<()>),
}

/// What is to be written.
pub(super) struct Block {
    pub name: Name,
    /// The object's, in bytes.
    pub size: u64,
    pub number: u64,
    pub frames: Vec<Bytes>,
}

pub(super) struct Writer {
    dir: Dir,
    room: Room,
    reader: Arc<Reader>,
    counters: Arc<Counters>,
}

impl Writer {
    pub fn new(dir: Dir, room: Room, reader: Arc<Reader>, counters: Arc<Counters>) -> Writer {
        Writer { dir, room, reader, counters }
    }

    /// Ends when the queue's senders are gone.
    pub fn start(mut self, mut queue: mpsc::Receiver<Job>) -> io::Result<()> {
        let run = move || {
            if let Err(e) = self.count() {
                self.reader.complain("cannot be counted through", &e);
            }
            while let Some(job) = queue.blocking_recv() {
                match job {
                    Job::Write(block) => self.write(&block),
                    Job::Settle(done) => _ = done.send(()), // who asked may be gone
                }
            }
        };
        std::thread::Builder::new().name("pailfs-cache".into()).spawn(run).map(drop)
    }

    /// What a crash left miscounted is right from here on.
    fn count(&mut self) -> io::Result<()> {
        let lock = self.dir.lock()?;
        self.room.scan(&lock)?;
        self.counters.bytes_used.store(self.room.bytes_held(), Ordering::Relaxed);
        Ok(())
    }

    fn write(&mut self, block: &Block) {
        let written = self.try_write(block);
        self.counters.settled.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_used.store(self.room.bytes_held(), Ordering::Relaxed);
        match written {
            Ok(true) => return,
            Ok(false) => {}
            Err(e) => self.reader.complain("cannot be written", &e),
        }
        self.counters.writes_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// False where no room could be made.
    fn try_write(&mut self, block: &Block) -> io::Result<bool> {
        let lock = self.dir.lock()?;
        self.room.believe(self.dir.bytes_held());
        let used = self.reader.tick();
        if let Some(files) = Files::open(self.dir.objects(), block.name, block.size)? {
            if files.entry(block.number)?.is_present() {
                files.touch(block.number, used)?; // another reader or another mount brought it
                return Ok(true);
            }
            files.set_used(used)?; // or it might be what gives way
        }
        let len: u64 = block.frames.iter().map(|frame| frame.len() as u64).sum();
        let reserved = len + len / 256 + RESERVE_BYTES;
        if !self.room.make(&lock, reserved, 0)? {
            return Ok(false);
        }
        match put(&mut self.room, &lock, block, reserved, used) {
            // A quota may be tighter than what the file system says is free.
            Err(e) if is_full(&e) => {
                if !self.room.make(&lock, reserved, reserved)? {
                    return Err(e);
                }
                put(&mut self.room, &lock, block, reserved, used)?;
            }
            put => put?,
        }
        Ok(true)
    }
}

/// Writes the block; what it takes is counted first as much as it may be, then as it is.
fn put(room: &mut Room, lock: &Locked<'_>, block: &Block, reserved: u64, used: u64) -> io::Result<()> {
    let held = room.bytes_held();
    room.set(lock, held + reserved)?;
    let files = Files::create(room.objects(), block.name, block.size)?;
    let before = files.charge()?;
    let written = files.write(block.number, &block.frames, used);
    let after = files.charge()?;
    room.set(lock, (held + after).saturating_sub(before))?;
    written
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
