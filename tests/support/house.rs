//! The file system without a mount: over the fake server, with faults in between, called as the kernel
//! would call it (each path by lookups, whose references are given back).

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pailfs::cache::disk::DiskCache;
use pailfs::config::{AttributesConfig, Config, StagingConfig};
use pailfs::error::Error;
use pailfs::fs::{Attr, Filesystem, Maker};
use pailfs::journal::Journal;
use pailfs::key::ROOT_INO;
use pailfs::namespace::Kind;

use super::fake::{FakeS3, client_over};
use super::faults::Faults;

pub struct House {
    pub fake: FakeS3,
    pub faults: Faults,
    pub fs: Arc<Filesystem>,
    pub root: u64,
    /// Where `disk_cache` was set.
    pub disk: Option<Arc<DiskCache>>,
    pub journal: Arc<Journal>,
    staging: Arc<tempfile::TempDir>,
}

/// Who makes files and directories here.
pub const MAKER: Maker = Maker { perm: 0o640, uid: 1000, gid: 1000 };

/// An entry as a directory stream gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub name: String,
    pub kind: Kind,
    pub ino: u64,
    /// With readdirplus, for what is neither `.` nor `..`.
    pub size: Option<u64>,
}

pub fn config_of(fake: &FakeS3) -> Config {
    Config {
        s3: fake.config(),
        prefix: String::new(),
        read_only: false,
        as_of: None,
        version_delete: false,
        restore: None,
        allow_other: false,
        no_exec: false,
        uid: 1000,
        gid: 1000,
        attributes: AttributesConfig::None,
        file_mode: 0o644,
        dir_mode: 0o755,
        metadata_ttl: Duration::from_secs(3600),
        metadata_bytes_max: 256 << 20,
        memory_bytes_max: 64 << 20,
        part_bytes: 5 << 20,
        sync_unlink: false,
        write_back: false,
        content_type: None,
        disk_cache: None,
        staging: StagingConfig { dir: "/nonexistent".into(), bytes_max: 1 << 30 },
    }
}

/// `name` of a path, and the path of its directory.
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[track_caller]
pub fn errno<T>(result: Result<T, Error>) -> i32 {
    match result {
        Ok(_) => panic!("it went well, and should not"),
        Err(e) => e.errno(),
    }
}

impl House {
    /// What is known stays fresh for an hour; see [`House::with`].
    pub fn new() -> House {
        House::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> House {
        House::on(FakeS3::new(), change)
    }

    pub fn on(fake: FakeS3, change: impl FnOnce(&mut Config)) -> House {
        let faults = Faults::over(fake.transport());
        let staging = tempfile::tempdir().expect("a directory");
        let mut config = config_of(&fake);
        config.staging.dir = staging.path().into();
        change(&mut config);
        config.check().expect("settings that can work");
        let client = client_over(faults.transport(), &config.s3);
        let disk = config.disk_cache.as_ref().map(|cache| {
            let (url, bucket) = (config.s3.endpoint_url.as_deref(), &config.s3.bucket);
            Arc::new(DiskCache::open(cache, url, bucket).expect("a directory for the cache"))
        });
        let (url, bucket) = (config.s3.endpoint_url.as_deref(), &config.s3.bucket);
        let journal = Arc::new(Journal::new(&config.staging.dir, url, bucket));
        let runtime = tokio::runtime::Handle::current();
        let fs = Filesystem::new(config, client, disk.clone(), journal.clone(), runtime);
        House { fake, faults, fs, root: ROOT_INO, disk, journal, staging: Arc::new(staging) }
    }

    /// With `--write-back`; a request that makes no progress is given up after a second.
    pub fn write_back(staging: &Path, fake: &FakeS3, change: impl FnOnce(&mut Config)) -> House {
        House::on(fake.clone(), |config| {
            config.staging.dir = staging.into();
            config.write_back = true;
            config.s3.request_timeout = Duration::from_secs(1);
            change(config);
        })
    }

    /// `fsync(2)` of the root, after which nothing waits here any more.
    pub async fn sync_root(&self) {
        self.fsyncdir("").await.expect("S3 takes it");
        assert_eq!((self.fs.held().acknowledged, self.fs.held().staged_bytes), (0, 0));
        assert_eq!(self.journal.kept().expect("readable"), []);
    }

    /// On a mount of an account: one of its buckets, as if that was mounted alone.
    pub async fn bucket(&self, name: &str) -> Result<House, Error> {
        let root = self.enter(name).await?.ino;
        let fs = self.fs.of(root);
        fs.ready().await?;
        let (fake, faults) = (self.fake.within(name), self.faults.clone());
        let (disk, journal, staging) = (self.disk.clone(), self.journal.clone(), self.staging.clone());
        Ok(House { fake, faults, fs, root, disk, journal, staging })
    }

    /// What stands at a path, with one reference to it.
    pub async fn enter(&self, path: &str) -> Result<Attr, Error> {
        let mut above = self.root;
        let mut names = path.split('/').peekable();
        if path.is_empty() {
            return self.fs.getattr(self.root).await;
        }
        loop {
            let name = names.next().expect("not the last one yet");
            let found = self.fs.lookup(above, OsStr::new(name)).await;
            self.leave(above);
            let attr = found?;
            if names.peek().is_none() {
                return Ok(attr);
            }
            if attr.kind == Kind::File {
                self.leave(attr.ino);
                return Err(Error::NotDirectory);
            }
            above = attr.ino;
        }
    }

    /// As a path's walk does where more is to come: what is no directory ends it.
    async fn enter_dir(&self, path: &str) -> Result<Attr, Error> {
        let attr = self.enter(path).await?;
        if attr.kind == Kind::Directory {
            return Ok(attr);
        }
        self.leave(attr.ino);
        Err(Error::NotDirectory)
    }

    /// Gives one reference back.
    pub fn leave(&self, ino: u64) {
        if ino != self.root {
            self.fs.forget(ino, 1);
        }
    }

    /// `open(2)`; the reference goes, the handle holds the file.
    pub async fn open(&self, path: &str, flags: i32) -> Result<u64, Error> {
        let attr = self.enter(path).await?;
        let opened = self.fs.open(attr.ino, flags).await;
        self.leave(attr.ino);
        Ok(opened?.fh)
    }

    /// `open(2)` with O_CREAT of a name that is not there.
    pub async fn create(&self, path: &str, flags: i32) -> Result<u64, Error> {
        let (dir, name) = split(path);
        let dir = self.enter(dir).await?;
        let created = self.fs.create(dir.ino, OsStr::new(name), flags | libc::O_CREAT, MAKER);
        self.leave(dir.ino);
        let (attr, opened) = created?;
        self.leave(attr.ino);
        Ok(opened.fh)
    }

    pub async fn read(&self, fh: u64, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        Ok(self.fs.read(fh, offset, len).await?.concat())
    }

    /// Writes as the door does: at once where it can.
    pub async fn write(&self, fh: u64, offset: u64, data: &[u8]) -> Result<(), Error> {
        if self.fs.write_now(fh, offset, data)? {
            return Ok(());
        }
        self.fs.write(fh, offset, data, false).await
    }

    /// `close(2)`.
    pub async fn close(&self, fh: u64) -> Result<(), Error> {
        let flushed = self.fs.flush(fh).await;
        self.fs.release(fh).await;
        flushed
    }

    /// The whole of a file, in reads of 128 KiB.
    pub async fn cat(&self, path: &str) -> Result<Vec<u8>, Error> {
        let fh = self.open(path, libc::O_RDONLY).await?;
        let mut data = Vec::new();
        let result = loop {
            match self.read(fh, data.len() as u64, 128 << 10).await {
                Ok(piece) if piece.is_empty() => break Ok(()),
                Ok(piece) => data.extend_from_slice(&piece),
                Err(e) => break Err(e),
            }
        };
        let closed = self.close(fh).await;
        result.and(closed).map(|()| data)
    }

    /// A new file with these bytes.
    pub async fn make(&self, path: &str, data: &[u8]) -> Result<(), Error> {
        let fh = self.create(path, libc::O_WRONLY).await?;
        let written = self.write(fh, 0, data).await;
        self.close(fh).await.and(written)
    }

    /// One call of readdir: at most `room` entries from `cookie` on; answers where it goes on.
    pub async fn readdir(
        &self,
        fh: u64,
        cookie: u64,
        plus: bool,
        room: usize,
    ) -> Result<(Vec<Shown>, u64), Error> {
        let mut shown = Vec::new();
        let mut next = cookie;
        let mut take = |item: pailfs::fs::DirItem<'_>| {
            if shown.len() == room {
                return true;
            }
            next = item.cookie;
            let (name, size) = (item.name.to_string(), item.attr.as_ref().map(|attr| attr.size));
            shown.push(Shown { name, kind: item.kind, ino: item.ino, size });
            false
        };
        self.fs.readdir(fh, cookie, plus, &mut take).await?;
        if plus {
            shown.iter().filter(|s| s.size.is_some()).for_each(|s| self.leave(s.ino));
        }
        Ok((shown, next))
    }

    /// A directory's entries in the stream's order, without `.` and `..`; `room()` for each call.
    pub async fn list(
        &self,
        path: &str,
        plus: bool,
        mut room: impl FnMut() -> usize,
    ) -> Result<Vec<Shown>, Error> {
        let dir = self.enter(path).await?;
        let opened = self.fs.opendir(dir.ino);
        self.leave(dir.ino);
        let fh = opened?.fh;
        let mut all = Vec::new();
        let mut cookie = 0;
        let result = loop {
            match self.readdir(fh, cookie, plus, room()).await {
                Ok((shown, _)) if shown.is_empty() => break Ok(()),
                Ok((shown, next)) => {
                    all.extend(shown);
                    cookie = next;
                }
                Err(e) => break Err(e),
            }
        };
        self.fs.releasedir(fh);
        result?;
        let dots: Vec<Shown> = all.drain(..all.len().min(2)).collect();
        assert_eq!(dots.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), [".", ".."]);
        Ok(all)
    }

    /// As [`House::list`]: names only, sorted.
    pub async fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = match self.list(path, false, || 100).await {
            Ok(shown) => shown.into_iter().map(|s| s.name).collect(),
            Err(e) => panic!("{path:?}: {e}"),
        };
        names.sort();
        names
    }

    pub async fn unlink(&self, path: &str) -> Result<(), Error> {
        let (dir, name) = split(path);
        let dir = self.enter(dir).await?;
        let gone = self.fs.unlink(dir.ino, OsStr::new(name)).await;
        self.leave(dir.ino);
        gone
    }

    pub async fn mkdir(&self, path: &str) -> Result<(), Error> {
        let (dir, name) = split(path);
        let dir = self.enter(dir).await?;
        let made = self.fs.mkdir(dir.ino, OsStr::new(name), MAKER).await;
        self.leave(dir.ino);
        self.leave(made?.ino);
        Ok(())
    }

    pub async fn rmdir(&self, path: &str) -> Result<(), Error> {
        let (dir, name) = split(path);
        let dir = self.enter(dir).await?;
        let gone = self.fs.rmdir(dir.ino, OsStr::new(name)).await;
        self.leave(dir.ino);
        gone
    }

    pub async fn rename(&self, from: &str, to: &str, flags: u32) -> Result<(), Error> {
        let ((from_dir, from), (to_dir, to)) = (split(from), split(to));
        let from_dir = self.enter_dir(from_dir).await?;
        let to_dir = match self.enter_dir(to_dir).await {
            Ok(attr) => attr,
            Err(e) => {
                self.leave(from_dir.ino);
                return Err(e);
            }
        };
        let (from, to) = (OsStr::new(from), OsStr::new(to));
        let moved = self.fs.rename(from_dir.ino, from, to_dir.ino, to, flags).await;
        self.leave(from_dir.ino);
        self.leave(to_dir.ino);
        moved
    }

    /// `fsync(2)` of a directory.
    pub async fn fsyncdir(&self, path: &str) -> Result<(), Error> {
        let dir = self.enter(path).await?;
        let done = self.fs.fsyncdir(dir.ino).await;
        self.leave(dir.ino);
        done
    }

    /// What was removed is gone from S3; its keys now.
    pub async fn keys_settled(&self) -> Vec<String> {
        self.fs.flush_all().await;
        self.fake.keys()
    }

    /// `pailfs refresh`.
    pub async fn refresh(&self, path: &str) {
        let attr = self.enter(path).await.expect("it is there");
        let set = self.fs.refresh(attr.ino).await;
        self.leave(attr.ino);
        set.expect("it is known");
    }

    /// `truncate(2)`.
    pub async fn truncate(&self, path: &str, size: u64) -> Result<(), Error> {
        let attr = self.enter(path).await?;
        let set = pailfs::fs::SetAttr { size: Some(size), ..Default::default() };
        let done = self.fs.setattr(attr.ino, set).await;
        self.leave(attr.ino);
        done.map(|_| ())
    }
}
