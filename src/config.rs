//! Every setting of a mount, resolved and checked.
//!
//! Owns: [`Config`] and the limits each value must keep.
//! Invariant: a `Config` that exists is usable; [`Config::check`] ran on it.
//! Must never know: clap, environment variables, AWS config files (the command line resolves those).

use std::path::PathBuf;
use std::time::Duration;

/// How the bucket is named in a request's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Addressing {
    /// By endpoint: virtual host on AWS, path elsewhere (an endpoint URL was given).
    #[default]
    Auto,
    Path,
    VirtualHost,
}

/// How the bytes of a request body are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PayloadSigning {
    /// A checksum header and `UNSIGNED-PAYLOAD` over TLS, a signed SHA-256 over plain HTTP.
    #[default]
    Auto,
    /// Never hash the payload into the signature; the checksum header stays.
    Unsigned,
}

/// What the S3 client must know.
#[derive(Debug, Clone)]
pub struct S3Config {
    pub bucket: String,
    /// `https://host[:port]`; none: AWS, by region.
    pub endpoint_url: Option<String>,
    /// None: learnt from the bucket.
    pub region: Option<String>,
    pub profile: Option<String>,
    pub addressing: Addressing,
    pub sign_requests: bool,
    pub payload_signing: PayloadSigning,
    /// The longest a request may go without progress: connecting, first byte, between bytes; and,
    /// counted over all tries, the longest an operation without progress may take before it fails.
    pub request_timeout: Duration,
    /// PEM file of further certificate authorities.
    pub ca_bundle: Option<PathBuf>,
    /// Keys a listing page holds at most (1 to 1000).
    pub list_page_keys: u32,
}

/// What the file system must know.
#[derive(Debug, Clone)]
pub struct Config {
    pub s3: S3Config,
    /// Key prefix that is the mount's root: empty, or ending in `/`.
    pub prefix: String,
    pub read_only: bool,
    pub allow_other: bool,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits of files and directories, `umask` applied.
    pub file_mode: u16,
    pub dir_mode: u16,
    pub metadata_ttl: Duration,
    /// Cap on all object bytes held, in bytes.
    pub memory_bytes_max: u64,
    /// First rung of the ladder of part sizes, in bytes.
    pub part_bytes: u64,
    /// Content-Type of every new object; none: by the name's extension.
    pub content_type: Option<String>,
}

/// S3's limits: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.
pub const PART_BYTES_MIN: u64 = 5 << 20;
pub const PART_BYTES_MAX: u64 = 5 << 30;
pub const PARTS_MAX: u64 = 10_000;
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;
pub const COPY_BYTES_MAX: u64 = 5 << 30;
pub const KEY_BYTES_MAX: usize = 1024;
pub const LIST_PAGE_KEYS_MAX: u32 = 1000;
/// Below this a sequential reader and a writer could not both make progress.
pub const MEMORY_BYTES_MIN: u64 = 64 << 20;
