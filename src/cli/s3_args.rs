//! Options of whatever sends requests: where the bucket is, what requests and new objects carry.
//!
//! Owns: [`S3Args`], [`RequestArgs`], [`NewObjectArgs`].
//! Invariant: no default stands here. Must never know: what an option means.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::config::ChecksumAlgorithm;

#[derive(Debug, Args)]
#[command(next_help_heading = "Where the bucket is")]
pub(super) struct S3Args {
    /// S3 server to use instead of AWS, such as http://127.0.0.1:8333
    ///
    /// Else: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, then endpoint_url of the profile's `services` section
    /// or of the profile itself.
    #[arg(long, value_name = "URL")]
    pub endpoint_url: Option<String>,
    /// Region of the bucket [default: asked from S3]
    ///
    /// Else: AWS_REGION, AWS_DEFAULT_REGION, then region of the profile.
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Profile of the AWS config files to use for settings and credentials [default: default]
    ///
    /// Else: AWS_PROFILE.
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Name the bucket in the path: http://host/bucket/key
    ///
    /// Default where an endpoint URL is given. Else: addressing_style in the profile's s3 settings.
    #[arg(long, conflicts_with = "virtual_host_style")]
    pub path_style: bool,
    /// Name the bucket in the host: http://bucket.host/key
    ///
    /// Default on AWS. Else: addressing_style in the profile's s3 settings.
    #[arg(long)]
    pub virtual_host_style: bool,
    /// Reach AWS by hosts that have IPv6 addresses, too
    ///
    /// Else: AWS_USE_DUALSTACK_ENDPOINT, then use_dualstack_endpoint of the profile.
    #[arg(long, conflicts_with = "endpoint_url")]
    pub dual_stack: bool,
    /// Reach AWS by hosts whose cryptography is validated by FIPS 140
    ///
    /// Else: AWS_USE_FIPS_ENDPOINT, then use_fips_endpoint of the profile.
    #[arg(long, conflicts_with = "endpoint_url")]
    pub fips: bool,
    /// Reach the bucket by AWS's nearest edge (S3 Transfer Acceleration)
    ///
    /// The bucket must have it enabled, and no dot in its name; of all buckets (s3://) those with a dot are reached
    /// in their region. Else: use_accelerate_endpoint in the profile's s3 settings.
    #[arg(long, conflicts_with_all = ["endpoint_url", "path_style", "fips"])]
    pub accelerate: bool,
    /// Send requests unsigned: public buckets, no credentials
    #[arg(long)]
    pub no_sign_request: bool,
    /// Never hash what is sent into the signature, not even over plain http
    ///
    /// A checksum still guards it. Faster; over plain http it lets others on the network change bodies.
    #[arg(long)]
    pub unsigned_payload: bool,
    /// PEM file with certificate authorities to trust as well
    ///
    /// Else: AWS_CA_BUNDLE, then ca_bundle of the profile.
    #[arg(long, value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
    #[command(flatten)]
    pub requests: RequestArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What requests carry")]
pub(super) struct RequestArgs {
    /// Pay for the requests, of a bucket whose owner does not
    #[arg(long)]
    pub requester_pays: bool,
    /// Refuse to work with a bucket that is not this account's
    #[arg(long, value_name = "ACCOUNT")]
    pub expected_bucket_owner: Option<String>,
    /// Checksum that S3 keeps of new objects [default: S3's own choice]
    ///
    /// What has one, also by other programs, is compared with it where one request brings it whole, as it does with files
    /// up to about 1 MiB, and by `pailfs s3 cp`: what differs is an error (EIO).
    #[arg(long, value_name = "ALGORITHM")]
    pub checksum: Option<Checksum>,
    /// File with one's own key (SSE-C): 32 bytes, as they are or in base64
    ///
    /// It is sent with every request that reads, writes or copies an object; S3 keeps none, so without the file
    /// nobody reads the objects again. Objects that are encrypted otherwise cannot be read while it is given.
    #[arg(long, value_name = "FILE")]
    pub sse_c_key_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Checksum {
    Crc32,
    Crc32c,
    #[value(name = "crc64nvme")]
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl From<Checksum> for ChecksumAlgorithm {
    fn from(checksum: Checksum) -> ChecksumAlgorithm {
        match checksum {
            Checksum::Crc32 => ChecksumAlgorithm::Crc32,
            Checksum::Crc32c => ChecksumAlgorithm::Crc32c,
            Checksum::Crc64Nvme => ChecksumAlgorithm::Crc64Nvme,
            Checksum::Sha1 => ChecksumAlgorithm::Sha1,
            Checksum::Sha256 => ChecksumAlgorithm::Sha256,
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "New objects")]
pub(super) struct NewObjectArgs {
    /// How S3 encrypts them [default: as the bucket does]
    #[arg(long, conflicts_with = "sse_c_key_file")]
    pub sse: Option<Sse>,
    /// Key of --sse kms [default: the account's for S3]
    #[arg(long, value_name = "KEY", requires = "sse")]
    pub sse_kms_key_id: Option<String>,
    /// Encryption context of --sse kms: a JSON object of strings
    #[arg(long, value_name = "JSON", requires = "sse")]
    pub sse_kms_context: Option<String>,
    /// Canned ACL: private, public-read, bucket-owner-full-control, ... [default: S3's]
    #[arg(long, value_name = "NAME")]
    pub acl: Option<String>,
    /// Storage class [default: STANDARD]
    #[arg(long, value_name = "CLASS")]
    pub storage_class: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sse {
    /// With keys of S3's own
    S3,
    /// With a key of AWS KMS
    Kms,
}
