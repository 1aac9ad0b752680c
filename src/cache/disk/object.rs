//! One version of one object on the disk: its bytes and their checksums.
//!
//! Owns: [`Files`]. The data file has exactly the object's length and holds nothing but its bytes, in their
//! places; blocks that are not cached are holes. The sums file beside it has one [`Entry`] a block.
//! Invariants: a block counts as present only while its entry is there, and is believed only while the two
//! agree; the entry is written after the bytes, so that whatever a crash tears apart does not verify.
//! Must never know: which blocks should go.

use std::fs::{File, FileTimes, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use sha2::{Digest, Sha256};

use crate::key::VersionId;

/// A cached object is cut into blocks of this length; the last one is shorter.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// Names a version's files: a digest of the bucket's identity, key, ETag and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name(u128);

impl Name {
    pub fn new(bucket: &[u8; 32], version: VersionId, size: u64) -> Name {
        let mut hash = Sha256::new();
        hash.update(bucket);
        hash.update(version.to_be_bytes());
        hash.update(size.to_be_bytes());
        Name(hash.finalize().iter().take(16).fold(0, |n, &b| n << 8 | u128::from(b)))
    }

    /// From the name of a file without its extension.
    pub fn parse(hex: &str) -> Option<Name> {
        let digits = hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u128::from_str_radix(hex, 16).ok().map(Name))?
    }

    /// The 256 shards keep directories short, and a scan's memory small.
    pub fn shard(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:02x}", self.0 >> 120))
    }

    pub fn data(self, dir: &Path) -> PathBuf {
        self.shard(dir).join(format!("{:032x}.{DATA}", self.0))
    }

    pub fn sums(self, dir: &Path) -> PathBuf {
        self.shard(dir).join(format!("{:032x}.{SUMS}", self.0))
    }
}

/// Extensions of the two files.
pub(super) const DATA: &str = "data";
pub(super) const SUMS: &str = "sums";

/// What the sums file holds of one block: 16 bytes, big-endian. All zero: the block is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Entry {
    /// CRC-64 over name, block number and bytes, so that no block passes for another. Never 0 when present.
    pub sum: u64,
    /// In nanoseconds since 1970.
    pub used: u64,
}

const ENTRY_BYTES: u64 = 16;

impl Entry {
    pub fn is_present(self) -> bool {
        self.sum != 0
    }

    fn parse(bytes: &[u8]) -> Entry {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b));
        let (sum, used) = bytes.split_at(bytes.len() / 2);
        Entry { sum: number(sum), used: number(used) }
    }
}

/// Both files of a version, open.
pub(super) struct Files {
    data: File,
    sums: File,
    name: Name,
    /// The object's, in bytes.
    size: u64,
}

impl Files {
    /// None where they are not there, or not whole.
    pub fn open(dir: &Path, name: Name, size: u64) -> io::Result<Option<Files>> {
        let open = |path: PathBuf| match OpenOptions::new().read(true).write(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        };
        let (Some(sums), Some(data)) = (open(name.sums(dir))?, open(name.data(dir))?) else {
            return Ok(None);
        };
        let files = Files { data, sums, name, size };
        Ok(files.is_whole()?.then_some(files))
    }

    /// Makes what is missing of them, all blocks absent.
    pub fn create(dir: &Path, name: Name, size: u64) -> io::Result<Files> {
        match std::fs::create_dir(name.shard(dir)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let data = options.open(name.data(dir))?;
        let sums = options.open(name.sums(dir))?;
        if data.metadata()?.len() != size {
            sums.set_len(0)?;
            data.set_len(size)?;
        }
        Ok(Files { data, sums, name, size })
    }

    /// The data file has the object's length: nobody has begun to remove it.
    pub fn is_whole(&self) -> io::Result<bool> {
        Ok(self.data.metadata()?.len() == self.size)
    }

    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK_BYTES)
    }

    pub fn entry(&self, block: u64) -> io::Result<Entry> {
        let mut bytes = [0; ENTRY_BYTES as usize];
        match self.sums.read_exact_at(&mut bytes, block * ENTRY_BYTES) {
            Ok(()) => Ok(Entry::parse(&bytes)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Entry::default()),
            Err(e) => Err(e),
        }
    }

    /// Every present block with its entry.
    pub fn present(&self) -> io::Result<Vec<(u64, Entry)>> {
        let mut present = Vec::new();
        let mut bytes = vec![0; 64 << 10];
        let mut block = 0;
        while block < self.blocks() {
            let read = self.sums.read_at(&mut bytes, block * ENTRY_BYTES)?;
            let entries = bytes.get(..read).unwrap_or_default().chunks_exact(ENTRY_BYTES as usize);
            if entries.len() == 0 {
                break; // the rest was never written, or cut off
            }
            let first = block;
            block += entries.len() as u64;
            let entries = (first..self.blocks()).zip(entries.map(Entry::parse));
            present.extend(entries.filter(|(_, entry)| entry.is_present()));
        }
        Ok(present)
    }

    /// Reads a block into `bytes`, which have its length; false where it is not what was written.
    pub fn read(&self, block: u64, entry: Entry, bytes: &mut [u8]) -> io::Result<bool> {
        match self.data.read_exact_at(bytes, block * BLOCK_BYTES) {
            Ok(()) => Ok(self.sum(block, [&*bytes]) == entry.sum),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Writes a block that is absent: its bytes, then its entry.
    pub fn write(&self, block: u64, frames: &[Bytes], used: u64) -> io::Result<()> {
        let start = block * BLOCK_BYTES;
        // All of it or nothing, and the file system's map of the file is settled before it is counted.
        let len = self.block_len(block) as u64;
        match fallocate(&self.data, FallocateFlags::empty(), signed(start), signed(len)) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) | Ok(()) => {}
            Err(e) => return Err(e.into()),
        }
        let mut at = start;
        for frame in frames {
            self.data.write_all_at(frame, at)?;
            at += frame.len() as u64;
        }
        let sum = self.sum(block, frames.iter().map(|frame| &frame[..]));
        self.put(block, Entry { sum, used })?;
        self.set_used(used)
    }

    pub fn touch(&self, block: u64, used: u64) -> io::Result<()> {
        self.sums.write_all_at(&used.to_be_bytes(), block * ENTRY_BYTES + ENTRY_BYTES / 2)?;
        self.set_used(used)
    }

    /// When the object was last used is its sums file's mtime.
    pub fn set_used(&self, used: u64) -> io::Result<()> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(used);
        self.sums.set_times(FileTimes::new().set_modified(time))
    }

    /// The block is absent from now on. Its space stays taken, for the bytes that replace it.
    pub fn forget(&self, block: u64) -> io::Result<()> {
        self.put(block, Entry::default())
    }

    /// The block is absent, and its space given back. Only under [`Files::lock_alone`].
    pub fn punch(&self, block: u64) -> io::Result<()> {
        self.forget(block)?;
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.data, punch, signed(block * BLOCK_BYTES), signed(BLOCK_BYTES))?)
    }

    /// Nobody uses the data file whole while this lasts. False where somebody does.
    pub fn lock_alone(&self) -> io::Result<bool> {
        locked(self.data.try_lock())
    }

    /// The data file as a descriptor of its own, which only reads. While it is open, or one made from it, nobody
    /// takes bytes out of the file. None where somebody is about to, or has removed it.
    pub fn lock_whole(&self, dir: &Path) -> io::Result<Option<File>> {
        let data = match File::open(self.name.data(dir)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let locked = locked(data.try_lock_shared())?;
        let (now, then) = (data.metadata()?, self.data.metadata()?);
        Ok((locked && now.ino() == then.ino() && now.nlink() > 0).then_some(data))
    }

    /// Changes whenever the bytes of the data file were changed, by whomever.
    pub fn state(&self) -> io::Result<State> {
        let meta = self.data.metadata()?;
        Ok(State { ino: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }

    /// What both files take of the disk, in bytes.
    pub fn charge(&self) -> io::Result<u64> {
        Ok(charge(&self.data.metadata()?) + charge(&self.sums.metadata()?))
    }

    fn put(&self, block: u64, entry: Entry) -> io::Result<()> {
        let mut bytes = [0; ENTRY_BYTES as usize];
        let (sum, used) = bytes.split_at_mut(ENTRY_BYTES as usize / 2);
        sum.copy_from_slice(&entry.sum.to_be_bytes());
        used.copy_from_slice(&entry.used.to_be_bytes());
        self.sums.write_all_at(&bytes, block * ENTRY_BYTES)
    }

    fn sum<'a>(&self, block: u64, frames: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut crc = Crc::new(CrcAlgorithm::Crc64Nvme);
        crc.update(&self.name.0.to_be_bytes());
        crc.update(&block.to_be_bytes());
        frames.into_iter().for_each(|frame| crc.update(frame));
        crc.finalize().max(1)
    }

    pub fn block_len(&self, block: u64) -> usize {
        block_len(self.size, block)
    }
}

/// Which bytes a data file has, as far as its inode tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    ino: u64,
    changed: (i64, i64),
}

/// Bytes of a block of an object of `size` bytes; 0 past its end.
pub fn block_len(size: u64, block: u64) -> usize {
    usize::try_from(size.saturating_sub(block.saturating_mul(BLOCK_BYTES)).min(BLOCK_BYTES))
        .expect("a block fits into memory")
}

/// What a file takes of the disk: its blocks, and a 256th for what the file system's map of them may still
/// grow by when they are written out in pieces (12 to 16 bytes an extent, at the worst one for each 4 KiB).
pub(super) fn charge(file: &std::fs::Metadata) -> u64 {
    let taken = file.blocks() * 512;
    taken + taken / 256
}

/// Removes whatever there is of a version's files; false where somebody uses the data file whole. It is cut to
/// nothing before it goes, so that its space comes back though a reader may have it open for a moment.
pub(super) fn remove(dir: &Path, name: Name) -> io::Result<bool> {
    match OpenOptions::new().write(true).open(name.data(dir)) {
        Ok(data) if !locked(data.try_lock())? => return Ok(false),
        Ok(data) => {
            gone(std::fs::remove_file(name.sums(dir)))?;
            data.set_len(0)?;
            gone(std::fs::remove_file(name.data(dir)))?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => gone(std::fs::remove_file(name.sums(dir)))?,
        Err(e) => return Err(e),
    }
    Ok(true)
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn locked(tried: Result<(), TryLockError>) -> io::Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).expect("S3's largest object ends far below 2^63")
}
