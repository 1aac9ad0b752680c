//! Every setting of a mount, resolved and checked.
//!
//! Owns: [`Config`] and the limits each value must keep.
//! Invariant: a `Config` that reaches a mount is usable; [`Config::check`] ran on it.
//! Must never know: clap, environment variables, AWS config files (the command line resolves those).

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::arn;

/// How the bucket is named in a request's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Addressing {
    /// By endpoint: virtual host on AWS, path elsewhere (an endpoint URL was given).
    #[default]
    Auto,
    Path,
    VirtualHost,
}

/// Which of AWS's hosts of S3 are meant, where no endpoint is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AwsHosts {
    /// Those that have IPv6 addresses, too.
    pub dual_stack: bool,
    /// Those whose cryptography is validated by FIPS 140.
    pub fips: bool,
    /// S3 Transfer Acceleration.
    pub accelerate: bool,
}

/// How the bytes of a request body are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PayloadSigning {
    /// A checksum header and `UNSIGNED-PAYLOAD` over TLS, a signed SHA-256 over plain HTTP.
    #[default]
    Auto,
    /// Never hash the payload into the signature; the checksum header stays.
    Unsigned,
}

/// What the S3 client must know. It holds no secret: a mount tells it to whoever may look at its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Config {
    /// Its name, or an access point's ARN, as [`arn::split`] writes it.
    pub bucket: String,
    /// `https://host[:port]`; none: AWS, by region.
    pub endpoint_url: Option<String>,
    /// None: learnt from the bucket.
    pub region: Option<String>,
    pub profile: Option<String>,
    /// Its keys come before those of the environment.
    pub profile_is_typed: bool,
    pub addressing: Addressing,
    pub hosts: AwsHosts,
    pub sign_requests: bool,
    pub payload_signing: PayloadSigning,
    /// The longest a request may go without progress: connecting, first byte, between bytes; and,
    /// counted over all tries, the longest an operation without progress may take before it fails.
    pub request_timeout: Duration,
    /// PEM file of further certificate authorities.
    pub ca_bundle: Option<PathBuf>,
    /// Keys a listing page holds at most (1 to 1000).
    pub list_page_keys: u32,
    /// What is larger is copied in parts (5 MiB to 5 GiB).
    pub copy_bytes_max: u64,
    pub requests: RequestOptions,
}

/// What requests carry besides what they ask.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RequestOptions {
    /// Whoever asks pays for the request.
    pub requester_pays: bool,
    /// Account that the bucket must belong to.
    pub expected_bucket_owner: Option<String>,
    /// New objects get it, and objects that have one are verified by it when they are read as a whole. None: what
    /// protects a body on its way is S3's to keep.
    pub checksum: Option<ChecksumAlgorithm>,
    /// None: as the bucket does it by default.
    pub encryption: Option<Encryption>,
    /// Canned ACL of new objects; none: S3's default.
    pub acl: Option<String>,
    /// Of new objects; none: STANDARD.
    pub storage_class: Option<String>,
}

/// How quickly S3 is to bring back what is archived.
pub const RESTORE_TIERS: [&str; 3] = ["Expedited", "Standard", "Bulk"];

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/acl-overview.html#canned-acl>.
pub const CANNED_ACLS: [&str; 8] = [
    "private",
    "public-read",
    "public-read-write",
    "aws-exec-read",
    "authenticated-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
    "log-delivery-write",
];

/// How S3 tells that an object is what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// How S3 is to encrypt new objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// SSE-S3: with keys of S3's own.
    S3,
    /// SSE-KMS.
    Kms {
        /// None: the account's key for S3.
        key_id: Option<String>,
        /// JSON.
        context: Option<String>,
    },
    /// SSE-C: with a key that S3 does not keep, and that must be sent to read the object, too.
    Customer {
        /// 32 bytes, as they are or in base64.
        key_file: PathBuf,
    },
}

/// What the file system must know.
#[derive(Debug, Clone)]
pub struct Config {
    pub s3: S3Config,
    /// Key prefix that is the mount's root: empty, or ending in `/`.
    pub prefix: String,
    pub read_only: bool,
    /// The bucket as it was then; none: as it is.
    pub as_of: Option<SystemTime>,
    /// Versions may be removed for good.
    pub version_delete: bool,
    /// None: reading an archived object asks for nothing.
    pub restore: Option<RestoreConfig>,
    pub allow_other: bool,
    /// Programs on the mount may not be run.
    pub no_exec: bool,
    pub uid: u32,
    pub gid: u32,
    /// Where mode, owner and times of files are.
    pub attributes: AttributesConfig,
    /// Permission bits of files and directories, `umask` applied.
    pub file_mode: u16,
    pub dir_mode: u16,
    /// [`Duration::MAX`]: for ever.
    pub metadata_ttl: Duration,
    /// Cap on what is known of names and files, in bytes.
    pub metadata_bytes_max: u64,
    /// Cap on all object bytes held, in bytes.
    pub memory_bytes_max: u64,
    /// First rung of the ladder of part sizes, in bytes.
    pub part_bytes: u64,
    /// Every removal is answered when S3 has answered.
    pub sync_unlink: bool,
    /// What was closed is acknowledged when the local disk has it, and goes to S3 after that.
    pub write_back: bool,
    /// Content-Type of every new object; none: by the name's extension.
    pub content_type: Option<String>,
    /// None: nothing is kept on the local disk.
    pub disk_cache: Option<DiskCacheConfig>,
    pub staging: StagingConfig,
}

/// How archived objects that are read are asked back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreConfig {
    /// How long the copy lasts that S3 makes.
    pub days: u32,
    /// `Expedited`, `Standard`, `Bulk`; none: S3's default.
    pub tier: Option<String>,
    /// How long a read waits for it; none: it fails at once.
    pub wait: Option<Duration>,
}

/// Where the journal is, what is written out of order waits, and what could not be sent is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagingConfig {
    /// Absolute.
    pub dir: PathBuf,
    /// Cap on what waits there, in bytes.
    pub bytes_max: u64,
}

/// Where mode, owner and times of files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttributesConfig {
    /// Nowhere: they are the mount's and S3's own.
    #[default]
    None,
    /// In the objects' user metadata.
    Metadata,
}

/// The cache on the local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCacheConfig {
    /// Absolute.
    pub dir: PathBuf,
    /// Cap on what it takes of the disk, in bytes.
    pub bytes_max: u64,
    /// What it leaves free on its file system, in bytes.
    pub free_bytes_min: u64,
}

/// S3's limits: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.
pub const PART_BYTES_MIN: u64 = 5 << 20;
pub const PART_BYTES_MAX: u64 = 5 << 30;
pub const PARTS_MAX: u64 = 10_000;
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Of a CopyObject, and of each part of what is larger.
pub const COPY_BYTES_MAX: u64 = 5 << 30;
pub const KEY_BYTES_MAX: usize = 1024;
pub const LIST_PAGE_KEYS_MAX: u32 = 1000;
/// Below this a directory of a few pages would push itself out.
pub const METADATA_BYTES_MIN: u64 = 1 << 20;
/// Below this a sequential reader and a writer could not both make progress.
pub const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Below this most objects would push each other out before they are whole.
pub const DISK_CACHE_BYTES_MIN: u64 = 64 << 20;
/// Below this hardly a file could be changed in place.
pub const STAGING_BYTES_MIN: u64 = 64 << 20;
/// The longest key that may stand before every name of a mount: one byte is left for a name.
const PREFIX_BYTES_MAX: usize = KEY_BYTES_MAX - 1;

/// A setting that cannot work, named as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct BadSetting {
    pub setting: &'static str,
    pub problem: String,
}

fn bad(setting: &'static str, problem: impl Into<String>) -> Result<(), BadSetting> {
    Err(BadSetting { setting, problem: problem.into() })
}

impl Config {
    /// `s3://bucket/prefix`; `s3://`: all of the account's buckets.
    pub fn source(&self) -> String {
        match self.s3.bucket.as_str() {
            "" => "s3://".to_owned(),
            bucket => format!("s3://{bucket}/{}", self.prefix),
        }
    }

    /// Every limit that one value alone, or two together, must keep.
    pub fn check(&self) -> Result<(), BadSetting> {
        self.s3.check()?;
        if self.s3.bucket.is_empty() && !self.prefix.is_empty() {
            return bad("prefix", "is of a bucket, and all buckets are to be mounted");
        }
        if !self.prefix.is_empty() && !self.prefix.ends_with('/') {
            return bad("prefix", "must end in /");
        }
        if self.prefix.len() > PREFIX_BYTES_MAX || self.prefix.contains('\0') {
            return bad("prefix", format!("must have at most {PREFIX_BYTES_MAX} bytes, none of them zero"));
        }
        if self.as_of.is_some_and(|moment| moment > SystemTime::now()) {
            return bad("--as-of", "lies in the future");
        }
        if self.as_of.is_some() && !self.read_only {
            return bad("--as-of", "what was cannot be changed: the mount must be read-only");
        }
        if self.file_mode > 0o777 || self.dir_mode > 0o777 {
            return bad("--file-mode, --dir-mode", "must lie between 000 and 777");
        }
        if !(PART_BYTES_MIN..=PART_BYTES_MAX).contains(&self.part_bytes) {
            return bad("--part-size", "must lie between 5MiB and 5GiB, as S3 wants");
        }
        if self.memory_bytes_max < MEMORY_BYTES_MIN {
            return bad("--memory", "must be 64MiB or more");
        }
        if self.metadata_bytes_max < METADATA_BYTES_MIN {
            return bad("--metadata-memory", "must be 1MiB or more");
        }
        if self.part_bytes > self.memory_bytes_max / 4 {
            return bad("--part-size", "must be at most a fourth of --memory");
        }
        if !self.staging.dir.is_absolute() {
            return bad("--staging", "must be an absolute path");
        }
        if self.staging.bytes_max < STAGING_BYTES_MIN {
            return bad("--staging-size", "must be 64MiB or more");
        }
        if let Some(cache) = &self.disk_cache {
            if !cache.dir.is_absolute() {
                return bad("--cache", "must be an absolute path");
            }
            if cache.bytes_max < DISK_CACHE_BYTES_MIN {
                return bad("--cache-size", "must be 64MiB or more");
            }
        }
        Ok(())
    }
}

impl S3Config {
    /// Every setting as it is if nobody says otherwise.
    #[cfg(test)]
    pub(crate) fn of(bucket: &str, endpoint_url: Option<&str>) -> S3Config {
        S3Config {
            bucket: bucket.into(),
            endpoint_url: endpoint_url.map(String::from),
            region: None,
            profile: None,
            profile_is_typed: false,
            addressing: Addressing::Auto,
            hosts: AwsHosts::default(),
            sign_requests: true,
            payload_signing: PayloadSigning::Auto,
            request_timeout: Duration::from_secs(30),
            ca_bundle: None,
            list_page_keys: LIST_PAGE_KEYS_MAX,
            copy_bytes_max: COPY_BYTES_MAX,
            requests: RequestOptions::default(),
        }
    }

    /// As a part of [`Config::check`]; without a bucket, what is left.
    pub fn check(&self) -> Result<(), BadSetting> {
        if !self.bucket.is_empty() {
            check_bucket(&self.bucket)?;
        }
        if let Some(url) = &self.endpoint_url {
            check_endpoint(url)?;
        }
        self.check_hosts()?;
        if self.region.as_deref().is_some_and(|r| !is_region(r)) {
            return bad("--region", "expected a name such as eu-central-1");
        }
        if self.request_timeout.is_zero() {
            return bad("--request-timeout", "must be longer than 0s");
        }
        let owner = self.requests.expected_bucket_owner.as_deref();
        if owner.is_some_and(|owner| owner.len() != 12 || !owner.bytes().all(|b| b.is_ascii_digit())) {
            return bad("--expected-bucket-owner", "expected an account: 12 digits");
        }
        if let Some(Encryption::Kms { context: Some(context), .. }) = &self.requests.encryption
            && serde_json::from_str::<std::collections::BTreeMap<String, String>>(context).is_err()
        {
            return bad("--sse-kms-context", "expected a JSON object of strings");
        }
        if self.requests.acl.as_deref().is_some_and(|acl| !CANNED_ACLS.contains(&acl)) {
            return bad("--acl", format!("expected one of {}", CANNED_ACLS.join(", ")));
        }
        if !(1..=LIST_PAGE_KEYS_MAX).contains(&self.list_page_keys) {
            return bad("list page", "must hold between 1 and 1000 keys");
        }
        if !(PART_BYTES_MIN..=COPY_BYTES_MAX).contains(&self.copy_bytes_max) {
            return bad("copies", "must take between 5MiB and 5GiB");
        }
        Ok(())
    }
}

impl S3Config {
    /// Which hosts there are for what.
    fn check_hosts(&self) -> Result<(), BadSetting> {
        const ACCELERATE: &str = "--accelerate";
        if self.endpoint_url.is_some() && self.hosts != AwsHosts::default() {
            return bad(
                "--endpoint-url",
                "names the host itself: --dual-stack, --fips, --accelerate (or what the profile says of them) \
                 choose among AWS's",
            );
        }
        if !self.hosts.accelerate {
            return Ok(());
        }
        if self.hosts.fips {
            return bad(ACCELERATE, "AWS has no FIPS hosts for it: drop one of the two");
        }
        if self.addressing == Addressing::Path {
            return bad(ACCELERATE, "needs the bucket in the host, and --path-style puts it into the path");
        }
        if self.bucket.contains('.') {
            return bad(
                ACCELERATE,
                format!("not for {}: its name holds a dot; drop the option for it", self.bucket),
            );
        }
        if self.bucket.starts_with("arn:") {
            return bad(ACCELERATE, "access points cannot be accelerated");
        }
        Ok(())
    }
}

/// Whether a text may stand for a region: it becomes part of signatures, and on AWS of host names.
pub fn is_region(region: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !region.is_empty() && region.len() <= 64 && region.bytes().all(allowed)
}

/// Whether a bucket may be named so: by its name, or by the ARN of an access point.
fn check_bucket(name: &str) -> Result<(), BadSetting> {
    match arn::access_point(name) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => check_bucket_name(name),
        Err(why) => bad("BUCKET", format!("`{}`: {why}", name.escape_debug())),
    }
}

/// Whether a bucket may be called so:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>.
pub fn check_bucket_name(name: &str) -> Result<(), BadSetting> {
    let shown = name.escape_debug();
    let expected = |what: &str| bad("BUCKET", format!("`{shown}` is not a bucket name: expected {what}"));
    if !(3..=63).contains(&name.len()) {
        return expected("3 to 63 characters");
    }
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !name.bytes().all(|b| alphanumeric(&b) || b == b'.' || b == b'-') {
        return expected("lower-case letters, digits, dots and hyphens only");
    }
    let ends = [name.bytes().next(), name.bytes().next_back()];
    if !ends.iter().flatten().all(alphanumeric) {
        return expected("a letter or digit at both ends");
    }
    if name.ends_with("--op-s3") {
        return bad("BUCKET", format!("`{shown}`: buckets on S3 Outposts cannot be reached"));
    }
    // https://docs.aws.amazon.com/AmazonS3/latest/userguide/directory-buckets-overview.html
    if ["--x-s3", "--xa-s3"].iter().any(|suffix| name.ends_with(suffix)) {
        return bad(
            "BUCKET",
            format!(
                "`{shown}`: directory buckets (S3 Express One Zone) are not supported yet; expected a general purpose \
                 bucket: copy what you need into one, with `aws s3 cp --recursive`"
            ),
        );
    }
    if name.contains("..") {
        return expected("no two dots in a row");
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return expected("a name, not an IP address");
    }
    Ok(())
}

/// Secrets in it (`user:password@`) are refused, and never repeated.
fn check_endpoint(url: &str) -> Result<(), BadSetting> {
    const SETTING: &str = "--endpoint-url";
    if url.contains('@') {
        return bad(SETTING, "must not hold a user or password; credentials come from the AWS chain");
    }
    let expected = format!(
        "`{}` is not an endpoint: expected http(s)://host or http(s)://host:port",
        url.escape_debug()
    );
    let Ok(uri) = url.parse::<http::Uri>() else {
        return bad(SETTING, expected);
    };
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri.host().is_some_and(|h| !h.is_empty());
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    if scheme && host && bare {
        return Ok(());
    }
    bad(SETTING, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            s3: S3Config::of("data", None),
            prefix: String::new(),
            read_only: false,
            as_of: None,
            version_delete: false,
            restore: None,
            allow_other: false,
            no_exec: false,
            uid: 0,
            gid: 0,
            attributes: AttributesConfig::None,
            file_mode: 0o644,
            dir_mode: 0o755,
            metadata_ttl: Duration::from_secs(1),
            metadata_bytes_max: 256 << 20,
            memory_bytes_max: 512 << 20,
            part_bytes: 8 << 20,
            sync_unlink: false,
            write_back: false,
            content_type: None,
            disk_cache: None,
            staging: StagingConfig { dir: "/s".into(), bytes_max: 1 << 30 },
        }
    }

    fn disk_cache(dir: &str, bytes_max: u64) -> Option<DiskCacheConfig> {
        Some(DiskCacheConfig { dir: dir.into(), bytes_max, free_bytes_min: 0 })
    }

    fn refused(change: impl FnOnce(&mut Config)) -> &'static str {
        let mut config = config();
        change(&mut config);
        config.check().map_or_else(|e| e.setting, |()| "nothing")
    }

    #[test]
    fn each_limit_is_checked_and_named() {
        assert_eq!(refused(|_| ()), "nothing");
        assert_eq!(refused(|c| c.part_bytes = 1 << 20), "--part-size");
        assert_eq!(refused(|c| c.part_bytes = 6 << 30), "--part-size");
        assert_eq!(refused(|c| c.part_bytes = 300 << 20), "--part-size");
        assert_eq!(refused(|c| c.memory_bytes_max = 1 << 20), "--memory");
        assert_eq!(refused(|c| c.metadata_bytes_max = 1000), "--metadata-memory");
        assert_eq!(refused(|c| c.dir_mode = 0o1777), "--file-mode, --dir-mode");
        assert_eq!(refused(|c| c.prefix = "a/b".into()), "prefix");
        assert_eq!(refused(|c| c.s3.bucket.clear()), "nothing", "all buckets");
        let below_none = |c: &mut Config| {
            c.s3.bucket.clear();
            c.prefix = "a/".into();
        };
        assert_eq!(refused(below_none), "prefix");
        assert_eq!(refused(|c| c.prefix = "a/".repeat(600)), "prefix");
        assert_eq!(refused(|c| c.s3.request_timeout = Duration::ZERO), "--request-timeout");
        assert_eq!(refused(|c| c.s3.list_page_keys = 0), "list page");
        assert_eq!(refused(|c| c.s3.copy_bytes_max = 1), "copies");
        assert_eq!(refused(|c| c.s3.region = Some("a/b".into())), "--region");
        assert_eq!(refused(|c| c.staging.dir = "s".into()), "--staging");
        assert_eq!(refused(|c| c.staging.bytes_max = 1 << 20), "--staging-size");
        let owner = |c: &mut Config| c.s3.requests.expected_bucket_owner = Some("me".into());
        assert_eq!(refused(owner), "--expected-bucket-owner");
        let context = |c: &mut Config| {
            c.s3.requests.encryption = Some(Encryption::Kms { key_id: None, context: Some("{".into()) });
        };
        assert_eq!(refused(context), "--sse-kms-context");
        assert_eq!(refused(|c| c.disk_cache = disk_cache("/c", 64 << 20)), "nothing");
        assert_eq!(refused(|c| c.disk_cache = disk_cache("/c", 1 << 20)), "--cache-size");
        assert_eq!(refused(|c| c.disk_cache = disk_cache("c", 64 << 20)), "--cache");
    }

    #[test]
    fn bucket_names() {
        for good in ["abc", "my.bucket-1", "0ab", "name--ol-s3"] {
            assert_eq!(check_bucket(good), Ok(()), "{good}");
        }
        let long = "a".repeat(64);
        let express = ["name--usw2-az1--x-s3", "name--usw2-az1--xa-s3"];
        let others = ["", "ab", "Upper", "a_b_c", "-abc", "abc.", "a..b", "10.0.0.1", "a b c", "añb", &long];
        for wrong in others.into_iter().chain(express) {
            let e = check_bucket(wrong).unwrap_err().to_string();
            assert!(e.contains("expected"), "{wrong}: {e}");
        }
    }

    #[test]
    fn endpoints() {
        for good in ["http://127.0.0.1:8333", "https://s3.example.com", "https://[::1]:9000/"] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        for wrong in ["", "s3.example.com", "ftp://x", "https://", "https://h/path", "http://h?q"] {
            assert!(check_endpoint(wrong).is_err(), "{wrong}");
        }
        let e = check_endpoint("https://me:hunter2@host").unwrap_err();
        assert!(!e.to_string().contains("hunter2"), "{e}");
    }
}
