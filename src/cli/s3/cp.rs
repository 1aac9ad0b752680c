//! `pailfs s3 cp`: its options and their help.
//!
//! Owns: [`Cp`], what source and target mean together. Must never know: how files are copied.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;

use aws_types::os_shim_internal::Env;

use super::place::Place;
use super::{Common, Ending};
use crate::cli::resolve;
use crate::cli::s3_args::NewObjectArgs;
use crate::failure::Failure;
use crate::s3::ObjectHeaders;
use crate::transfer::{self, Transfer, Unfinished, Way};

/// Enough small files at once to hide what one request takes.
const JOBS: usize = 16;
const MEMORY_BYTES: u64 = 256 << 20;
const PART_BYTES: u64 = 8 << 20;

/// Copy files to S3, objects from there, or objects to others
///
/// At least one of the two is an s3:// URL; between two of them S3 copies by itself. Large ones go in parts, several at a
/// time. A file has its name once it is whole; what fails leaves neither a file nor an upload behind.
#[derive(Debug, Args)]
#[command(after_help = "\
A target that ends in / or is a directory keeps the source's name.

Examples:
  pailfs s3 cp model.bin s3://data/models/
  pailfs s3 cp s3://data/models/model.bin .
  pailfs s3 cp -r results s3://data/results/ --storage-class STANDARD_IA
  pailfs s3 cp -r s3://data/results/ s3://archive/2026/

An interruption (Ctrl-C, SIGTERM) aborts what is under way; what was copied before stays.

Exit status: 0 all is copied; 1 some is not, stderr names it; 2 wrong usage; 130 Ctrl-C; 143 SIGTERM.")]
pub(in crate::cli) struct Cp {
    /// A file, or s3://bucket/key
    #[arg(value_name = "SRC")]
    from: OsString,
    /// s3://bucket/key, or a file
    #[arg(value_name = "DST")]
    to: OsString,
    /// All that is below a directory or prefix
    ///
    /// Links to files are followed. What has no place on the other side (FIFOs, sockets and devices; keys that no path
    /// leads to) is named, and the exit status is 1.
    #[arg(long, short)]
    recursive: bool,
    /// Show no progress, only errors
    #[arg(long, short)]
    quiet: bool,
    /// Files to copy at once, 1 to 64 [default: 16]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: Option<u64>,
    /// Most memory to use for what is under way, at least 64MiB [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = crate::cli::mount::size)]
    memory: Option<u64>,
    /// Content-Type of new objects [default: by the name's extension]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Metadata of new objects: `name=value`
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::tagging::tag)]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    new_objects: NewObjectArgs,
    #[command(flatten)]
    common: Common,
}

impl Cp {
    pub(super) fn run(&self) -> Result<(), Ending> {
        if [&self.from, &self.to].into_iter().any(|text| text == "-") {
            return Err(Failure::new(
                "`-`: cp copies files; a pipe goes to or from a path on a mount, and a file of that name is `./-`",
            )
            .into());
        }
        let is_url = |text: &OsStr| text.as_bytes().starts_with(b"s3://");
        let (place, way) = match (is_url(&self.from), is_url(&self.to)) {
            (false, true) => self.up()?,
            (true, false) => self.down()?,
            (true, true) => self.across()?,
            (false, false) => return Err(Failure::new("one of the two must be an s3:// URL").into()),
        };
        let memory_bytes_max = self.memory.unwrap_or(MEMORY_BYTES);
        if memory_bytes_max < crate::config::MEMORY_BYTES_MIN {
            return Err(Failure::new("--memory: must be 64MiB or more").into());
        }
        let done = transfer::run(Transfer {
            staging_dir: resolve::staging_dir(None, &Env::real())?,
            way,
            recursive: self.recursive,
            jobs: self.jobs.map_or(JOBS, |jobs| usize::try_from(jobs).unwrap_or(JOBS)),
            memory_bytes_max,
            part_bytes: PART_BYTES,
            headers: ObjectHeaders {
                content_type: self.content_type.clone(),
                storage_class: place.config.requests.storage_class.clone(),
                metadata: self.metadata.clone(),
                ..ObjectHeaders::default()
            },
            quiet: self.quiet,
            config: place.config,
        });
        done.map_err(|Unfinished { failure, signal }| match signal {
            Some(signal) => Ending::Interrupted(failure, signal),
            None => Ending::Failed(failure),
        })
    }

    fn up(&self) -> Result<(Place, Way), Failure> {
        let place = Place::for_new_objects(&self.to, &self.common, &self.new_objects)?;
        let file = PathBuf::from(&self.from);
        let key = match place.key.as_str() {
            key if self.recursive => with_slash(key),
            key if key.is_empty() || key.ends_with('/') => {
                let name = file.file_name().and_then(OsStr::to_str);
                let why = || Failure::new(format_args!("{} has no name in UTF-8", file.display()));
                format!("{key}{}", name.ok_or_else(why)?)
            }
            key => key.to_string(),
        };
        Ok((place, Way::Up { file, key }))
    }

    fn across(&self) -> Result<(Place, Way), Failure> {
        let from = Place::of(&self.from, &self.common)?;
        let place = Place::for_new_objects(&self.to, &self.common, &self.new_objects)?;
        let (bucket, same) = (from.config.bucket.clone(), from.config.bucket == place.config.bucket);
        let (from, key) = if self.recursive {
            let (from, key) = (with_slash(&from.key), with_slash(&place.key));
            if same && key.starts_with(&from) {
                return Err(Failure::new("what is to be copied would hold its own copy"));
            }
            (from, key)
        } else {
            from.object()?;
            let name = from.key.rsplit('/').next().unwrap_or_default();
            let name = if place.key.is_empty() || place.key.ends_with('/') { name } else { "" };
            let key = format!("{}{name}", place.key);
            (from.key, key)
        };
        Ok((place, Way::Across { bucket, from, key }))
    }

    fn down(&self) -> Result<(Place, Way), Failure> {
        let place = Place::of(&self.from, &self.common)?;
        let mut file = PathBuf::from(&self.to);
        if self.recursive {
            let key = with_slash(&place.key);
            return Ok((place, Way::Down { key, file }));
        }
        place.object()?;
        if self.to.as_bytes().ends_with(b"/") || Path::new(&self.to).is_dir() {
            let name = place.key.rsplit('/').next().unwrap_or_default();
            let bad = |e| Failure::new(format_args!("{:?} is no file name: {e}", place.key));
            file.push(crate::key::check_name(name.as_bytes()).map_err(bad)?);
        }
        let key = place.key.clone();
        Ok((place, Way::Down { key, file }))
    }
}

/// A prefix as a directory's.
fn with_slash(key: &str) -> String {
    let slash = if key.is_empty() || key.ends_with('/') { "" } else { "/" };
    format!("{key}{slash}")
}
