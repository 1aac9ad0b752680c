//! Where a command is meant to go: a bucket, and a key in it.
//!
//! Owns: [`Place`], how a path on a mount or an `s3://` URL becomes one.
//! Invariants: what is typed wins over what a mount tells, but for its being read-only; only a mount of root's or of one's
//! own is believed, for requests that carry one's credentials go where it says.
//! Must never know: what is done there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aws_types::os_shim_internal::{Env, Fs};

use super::Common;
use crate::arn;
use crate::cli::s3_args::NewObjectArgs;
use crate::cli::{resolve, tell};
use crate::config::{Addressing, AwsHosts, PayloadSigning, S3Config};
use crate::failure::Failure;
use crate::fs::{MountTold, S3};
use crate::key::past;
use crate::mountpoint::{self, FS_TYPE, Mount};
use crate::s3::ObjectId;

/// A bucket, how it is reached, and a key in it.
#[derive(Debug)]
pub(super) struct Place {
    pub config: S3Config,
    /// Empty: the bucket itself. Ends in `/`: a directory.
    pub key: String,
    /// The mount it was found by, if that is read-only.
    read_only: Option<PathBuf>,
    /// Where it is on a mount that may not have sent it yet.
    unsent: Option<PathBuf>,
}

impl Place {
    pub fn of(text: &OsStr, common: &Common) -> Result<Place, Failure> {
        Place::unchecked(text, common)?.checked()
    }

    /// As [`Place::of`], where what is in the bucket is looked at, too.
    pub fn of_listing(text: &OsStr, common: &Common) -> Result<Place, Failure> {
        let place = Place::of(text, common)?;
        if place.key.is_empty() {
            place.send()?;
        }
        Ok(place)
    }

    /// Where new objects are to be made.
    pub fn for_new_objects(text: &OsStr, common: &Common, args: &NewObjectArgs) -> Result<Place, Failure> {
        let mut place = Place::unchecked(text, common)?;
        resolve::new_objects(&mut place.config.requests, args)?;
        place.checked()
    }

    /// What was acknowledged there is in S3 when this answers; but for a bucket, whose own documents need not wait.
    fn checked(self) -> Result<Place, Failure> {
        self.config.check().map_err(Failure::new)?;
        if !self.key.is_empty() {
            self.send()?;
        }
        Ok(self)
    }

    /// Lets the mount send what it has acknowledged of it.
    fn send(&self) -> Result<(), Failure> {
        let Some(path) = &self.unsent else { return Ok(()) };
        // Links and special files are made in S3 at once, and so is what is not there.
        let is_sent_later = path.symlink_metadata().is_ok_and(|found| found.is_file() || found.is_dir());
        if is_sent_later { tell::flush_path(path) } else { Ok(()) }
    }

    fn unchecked(text: &OsStr, common: &Common) -> Result<Place, Failure> {
        match text.as_bytes().strip_prefix(b"s3://") {
            Some(url) => Place::of_url(url, common),
            None => Place::on_mount(Path::new(text), common),
        }
    }

    /// Errors: it is on a mount that is read-only.
    pub fn check_writable(&self) -> Result<(), Failure> {
        let Some(point) = &self.read_only else { return Ok(()) };
        Err(Failure::new(format_args!(
            "the mount on {} is read-only: to change what is there all the same, name it as s3://{}/{}",
            point.display(),
            self.config.bucket,
            self.key.escape_debug()
        )))
    }

    /// No bucket: the service itself.
    pub fn of_service(common: &Common) -> Result<Place, Failure> {
        let config = config(String::new(), common)?;
        config.check().map_err(Failure::new)?;
        Ok(Place { config, key: String::new(), read_only: None, unsent: None })
    }

    /// The object. Errors: it is the bucket.
    pub fn object(&self) -> Result<ObjectId<'_>, Failure> {
        self.object_or_bucket().ok_or_else(|| {
            Failure::new(format_args!("s3://{} is a bucket: name an object in it", self.config.bucket))
        })
    }

    /// None: the bucket.
    pub fn object_or_bucket(&self) -> Option<ObjectId<'_>> {
        (!self.key.is_empty()).then(|| ObjectId::current(&self.key))
    }

    /// Errors: it is something in a bucket.
    pub fn bucket(&self) -> Result<(), Failure> {
        if self.key.is_empty() {
            return Ok(());
        }
        let (bucket, key) = (&self.config.bucket, self.key.escape_debug());
        Err(Failure::new(format_args!("buckets have this, `{key}` has not: name s3://{bucket}")))
    }

    fn of_url(url: &[u8], common: &Common) -> Result<Place, Failure> {
        let url = std::str::from_utf8(url).map_err(|_| Failure::new("a key that is not UTF-8"))?;
        let (bucket, key) = arn::split(url);
        if bucket.is_empty() {
            return Err(Failure::new("s3:// names no bucket: expected s3://bucket or s3://bucket/key"));
        }
        Ok(Place { config: config(bucket, common)?, key: key.to_string(), read_only: None, unsent: None })
    }

    fn on_mount(path: &Path, common: &Common) -> Result<Place, Failure> {
        let shown = path.display();
        let absolute = absolute(path).map_err(|e| Failure::new(format_args!("cannot use {shown}: {e}")))?;
        let Some(mount) = mountpoint::ours_holding(&absolute)? else {
            return Err(Failure::new(format_args!(
                "{shown} is neither an s3:// URL nor on a pailfs mount; `findmnt -t {FS_TYPE}` lists those there are"
            )));
        };
        let MountTold { s3: mut config, read_only, write_back } = told_by(&mount)?;
        change(&mut config, common)?;
        let mut key = key_of(&absolute, &mount)
            .ok_or_else(|| Failure::new(format_args!("{shown} has no key: its name is not UTF-8")))?;
        if config.bucket.is_empty() {
            let (bucket, rest) = key.split_once('/').unwrap_or((&key, ""));
            if bucket.is_empty() {
                return Err(Failure::new(format_args!("{shown} holds buckets: name one of them")));
            }
            enter(&mut config, bucket, common.s3.accelerate);
            key = rest.to_string();
        }
        refuse_version(&absolute, &config.bucket, &key)?;
        let unsent = write_back.then_some(absolute);
        Ok(Place { config, key, read_only: read_only.then_some(mount.point), unsent })
    }
}

fn config(bucket: String, common: &Common) -> Result<S3Config, Failure> {
    let timeout = common.request_timeout.unwrap_or(resolve::REQUEST_TIMEOUT);
    resolve::s3(bucket, &common.s3, timeout, &Env::real(), &Fs::real())
}

/// A bucket of an account's mount: one whose name holds a dot is reached there without acceleration, and here, unless
/// that is `typed`.
fn enter(config: &mut S3Config, bucket: &str, typed: bool) {
    config.hosts.accelerate &= typed || !bucket.contains('.');
    config.bucket = bucket.to_string();
}

/// What is typed wins over what the mount tells.
fn change(config: &mut S3Config, common: &Common) -> Result<(), Failure> {
    let args = &common.s3;
    let set = |kept: &mut Option<String>, typed: &Option<String>| {
        if typed.is_some() {
            kept.clone_from(typed);
        }
    };
    set(&mut config.endpoint_url, &args.endpoint_url);
    if args.endpoint_url.is_some() {
        config.hosts = AwsHosts::default();
    }
    config.hosts.dual_stack |= args.dual_stack;
    config.hosts.fips |= args.fips;
    config.hosts.accelerate |= args.accelerate;
    set(&mut config.region, &args.region);
    set(&mut config.profile, &args.profile);
    config.profile_is_typed |= args.profile.is_some();
    if args.path_style {
        config.addressing = Addressing::Path;
    } else if args.virtual_host_style {
        config.addressing = Addressing::VirtualHost;
    }
    config.sign_requests &= !args.no_sign_request;
    if args.unsigned_payload {
        config.payload_signing = PayloadSigning::Unsigned;
    }
    if let Some(ca_bundle) = &args.ca_bundle {
        config.ca_bundle = Some(ca_bundle.clone());
    }
    if let Some(timeout) = common.request_timeout {
        config.request_timeout = timeout;
    }
    resolve::requests(&mut config.requests, &args.requests)
}

/// The last name is not followed: a symbolic link is an object, too. Directories that are no more may have versions.
fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    let plain = std::path::absolute(path)?;
    match (plain.parent(), plain.file_name()) {
        (Some(parent), Some(name)) => match parent.canonicalize() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(absolute(parent)?.join(name)),
            parent => Ok(parent?.join(name)),
        },
        _ => plain.canonicalize(),
    }
}

fn told_by(mount: &Mount) -> Result<MountTold, Failure> {
    let point = mount.point.display();
    let own = nix::unistd::getuid().as_raw();
    if !mount.user_id.is_some_and(|served_by| served_by == 0 || served_by == own) {
        return Err(Failure::new(format_args!(
            "the mount on {point} is another user's: name what you mean as s3://bucket/key"
        )));
    }
    let told = xattr::get(&mount.point, S3).map_err(|e| match e.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Failure::new(format_args!(
            "the mount on {point} shows what was (--as-of), and commands act on what is: name that as s3://bucket/key"
        )),
        _ => Failure::new(format_args!("cannot ask the mount on {point}: {e}")),
    })?;
    serde_json::from_slice(&told.unwrap_or_default()).map_err(|e| {
        Failure::new(format_args!(
            "the mount on {point} does not tell where its bucket is ({e}): mount it anew"
        ))
    })
}

/// A version on a mount is of another object than its path says.
fn refuse_version(path: &Path, bucket: &str, key: &str) -> Result<(), Failure> {
    if !key.split('/').any(|segment| segment == past::DIR_NAME) {
        return Ok(());
    }
    let told = |name| xattr::get(path, name).ok().flatten().and_then(|value| String::from_utf8(value).ok());
    match (told("s3.key"), told("s3.version-id")) {
        (Some(of), Some(version_id)) if of != key => Err(Failure::new(format_args!(
            "{} is a version: name it as s3://{bucket}/{of} with --version-id {version_id}",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// The source is `s3://bucket/prefix`; or `s3://`, and then a key begins with its bucket. None: not UTF-8.
fn key_of(path: &Path, mount: &Mount) -> Option<String> {
    let source = mount.source.to_str()?.strip_prefix("s3://")?;
    let (_, prefix) = source.split_once('/').unwrap_or(("", ""));
    let below = path.strip_prefix(&mount.point).ok()?.to_str()?;
    let slash = if !below.is_empty() && path.is_dir() && !path.is_symlink() { "/" } else { "" };
    Some(format!("{prefix}{below}{slash}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_cannot_be_accelerated_is_reached_as_the_mount_reaches_it() {
        let entered = |bucket, typed| {
            let mut config = S3Config::of("", None);
            config.hosts.accelerate = true;
            enter(&mut config, bucket, typed);
            config.check().map(|()| (config.bucket, config.hosts.accelerate)).map_err(|e| e.to_string())
        };
        assert_eq!(entered("plain", false), Ok(("plain".to_string(), true)));
        assert_eq!(entered("with.dot", false), Ok(("with.dot".to_string(), false)));
        let refused = entered("with.dot", true).unwrap_err();
        assert!(refused.contains("with.dot: its name holds a dot"), "{refused}");
    }

    #[test]
    fn a_path_may_lead_through_directories_that_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        for (path, expected) in [("link/a/b/c", "a/b/c"), ("link/link", "link"), ("link/link/a", "a")] {
            assert_eq!(absolute(&real.join(path)).unwrap(), real.join(expected), "{path}");
        }
        std::fs::write(real.join("file"), "").unwrap();
        assert!(absolute(&real.join("file/a/b")).is_err());
    }

    #[test]
    fn keys_below_a_mount() {
        let mount = |source: &str| Mount {
            device: "0:1".to_string(),
            point: PathBuf::from("/no/such"),
            fs_type: FS_TYPE.to_string(),
            source: source.into(),
            user_id: Some(0),
        };
        let key = |source, path: &str| key_of(Path::new(path), &mount(source));
        assert_eq!(key("s3://b/", "/no/such").as_deref(), Some(""));
        assert_eq!(key("s3://b/", "/no/such/a/b").as_deref(), Some("a/b"));
        assert_eq!(key("s3://b/p/q/", "/no/such/a").as_deref(), Some("p/q/a"));
        assert_eq!(key("s3://b/p/", "/no/such").as_deref(), Some("p/"));
        assert_eq!(key("s3://", "/no/such/bucket/a/b").as_deref(), Some("bucket/a/b"));
        assert_eq!(key_of(Path::new(OsStr::from_bytes(b"/no/such/\xff")), &mount("s3://b/")), None);
    }
}
