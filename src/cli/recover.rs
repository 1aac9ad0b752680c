//! `pailfs recover`: its options and their help.
//!
//! Owns: [`RecoverArgs`]. Must never know: what is kept, how it is sent.

use std::path::PathBuf;
use std::time::Duration;

use aws_types::os_shim_internal::{Env, Fs};
use clap::{ArgGroup, Args};

use crate::failure::Failure;
use crate::recover::{self, Action, Recover};

use super::mount::time;
use super::resolve;
use super::s3_args::S3Args;

/// See, send, export or discard bytes that a mount could not send
///
/// When a file cannot be sent (the server is gone, access is denied, the object was changed meanwhile), close or
/// fsync fails, and its bytes are kept on the local disk, below --staging. A mount of the bucket says at its start
/// what waits there.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("action"), after_help = "\
Sending is guarded as it was in the mount: an edit goes over the version it was made of and no other, a
file of O_EXCL only where there is none, and any other only over what is older. What is refused stays
kept: --export it, compare it with what is there, and --discard it.

Where parts of a large file were sent before it was refused, only an upload in S3 may have these. They
cannot be exported: --retry sends the rest and completes the upload, --discard aborts it.

Examples:
  pailfs recover my-bucket
  pailfs recover my-bucket --retry
  pailfs recover my-bucket --export ~/rescued docs/report.odt
  pailfs recover my-bucket --discard --yes docs/report.odt

Exit status: 0 done for all that was named; 1 not for all, stderr says why; 2 wrong usage.")]
pub(super) struct RecoverArgs {
    /// The bucket: `name` or `s3://name`
    bucket: String,
    /// Keys of files, or names that --list shows [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Show what is kept, and why: this is the default
    #[arg(long, group = "action")]
    list: bool,
    /// Send it, and keep it no longer where S3 has taken it
    #[arg(long, group = "action")]
    retry: bool,
    /// Write each file, whole, below this directory; it stays kept
    #[arg(long, value_name = "DIR", group = "action")]
    export: Option<PathBuf>,
    /// Give it up; needs --yes
    #[arg(long, group = "action", requires = "yes")]
    discard: bool,
    /// Yes, the bytes are to be lost
    #[arg(long, requires = "discard")]
    yes: bool,
    /// Where the mount kept them [default: ~/.cache/pailfs/staging]
    #[arg(long, value_name = "DIR")]
    staging: Option<PathBuf>,
    /// How long S3 may make no progress before it is an error [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    request_timeout: Option<Duration>,
    /// Show no progress, only errors
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    s3: S3Args,
}

pub(super) fn run(args: &RecoverArgs) -> Result<(), Failure> {
    let env = Env::real();
    let (bucket, prefix) = resolve::bucket(&args.bucket)?;
    if bucket.is_empty() {
        return Err(Failure::new("name one bucket: what is kept is kept for each by itself"));
    }
    if !prefix.is_empty() {
        return Err(Failure::new("name the bucket alone: what is kept is kept for all of it, by whole keys"));
    }
    let timeout = args.request_timeout.unwrap_or(resolve::REQUEST_TIMEOUT);
    let action = match &args.export {
        Some(dir) => Action::Export(resolve::absolute(dir)?),
        None if args.retry => Action::Retry,
        None if args.discard => Action::Discard,
        None => Action::List,
    };
    let s3 = resolve::s3(bucket, &args.s3, timeout, &env, &Fs::real())?;
    s3.check().map_err(Failure::new)?;
    recover::run(&Recover {
        s3,
        staging_dir: resolve::staging_dir(args.staging.as_deref(), &env)?,
        names: args.names.clone(),
        action,
        quiet: args.quiet,
    })
}
