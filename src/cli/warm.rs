//! `pailfs warm`: its options and their help.
//!
//! Owns: [`WarmArgs`]. Must never know: how files are read, how progress is shown.

use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;
use crate::warm::{self, Warm};

/// More would wait for each other at the mount.
const JOBS_MAX: u64 = 64;
/// Enough small files at once to hide what one request takes; a large one is fetched in parallel anyway.
const JOBS: usize = 8;

/// Fill the disk cache of a mount
///
/// Reads the files, and all that is below the directories, through the mount, so that its cache has them. What is
/// cached already is not read: after an interruption the same command goes on.
#[derive(Debug, Args)]
#[command(after_help = "\
The mount must have been made with --cache, and --cache-size should be larger than what is to be
warmed: what was not used for the longest time gives way, also to what is being warmed.

How much of a file is cached, in bytes, and its size:
  getfattr -n pailfs.cached FILE
Of a directory it tells how much the whole cache takes, and --cache-size.

Examples:
  pailfs mount data /mnt/data --cache /var/cache/pailfs --cache-size 100GiB
  pailfs warm /mnt/data/models /mnt/data/train

Exit status: 0 every file was cached; 1 some are not, stderr names them; 2 wrong usage.")]
pub(super) struct WarmArgs {
    /// Files and directories on a mount
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Files to read at once, 1 to 64 [default: 8]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=JOBS_MAX))]
    jobs: Option<u64>,
    /// Show no progress, only errors
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(args: &WarmArgs) -> Result<(), Failure> {
    let jobs = args.jobs.map_or(JOBS, |jobs| usize::try_from(jobs).unwrap_or(JOBS));
    warm::run(&Warm { paths: args.paths.clone(), jobs, quiet: args.quiet })
}
