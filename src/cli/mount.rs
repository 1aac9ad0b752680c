//! `pailfs mount`: its options and their help.
//!
//! Owns: [`MountArgs`] (what was typed) and [`HelperArgs`] (what mount(8) adds).
//! Invariant: no option has a default here: what was not typed is looked up by `resolve`.
//! Must never know: what a setting does once it is resolved.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_types::os_shim_internal::{Env, Fs};
use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::level_filters::LevelFilter;

use super::s3_args::{NewObjectArgs, S3Args};
use crate::config::{AttributesConfig, RESTORE_TIERS, RestoreConfig};
use crate::failure::Failure;
use crate::mount::{self, Plan};

use super::Ending;
use super::options::{self, Expanded, Unknown};
use super::resolve;

/// Mount a bucket, or all of them, on a directory
///
/// Returns once the file system answers; a daemon serves it until it is unmounted. A mount that cannot
/// work (no bucket, wrong region, bad credentials, no such directory) fails at once and says why.
#[derive(Debug, Args)]
#[command(args_override_self = true, after_help = EXAMPLES)]
pub(super) struct MountArgs {
    /// The bucket: `name`, `s3://name`, or `s3://name/prefix/` for the keys under a prefix; `s3://`: all buckets
    ///
    /// All buckets of the account are directories then: mkdir makes one, in the mount's region, and rmdir deletes an
    /// empty one; so `rm -r` of such a directory deletes the bucket with all that is in it. Others' buckets are not
    /// listed, and are there by their names. --memory and the like hold for all buckets together.
    /// The name may be an access point's alias or ARN, too: s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/prefix/
    pub bucket: String,
    /// The directory to mount on
    pub dir: PathBuf,
    #[command(flatten)]
    pub s3: S3Args,
    #[command(flatten)]
    pub new_objects: NewObjectArgs,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub past: PastArgs,
    #[command(flatten)]
    pub resources: ResourceArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub staging: StagingArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Any option above without its dashes, as in fstab: `-o ro,endpoint_url=URL`
    ///
    /// Underscores serve for hyphens, `\,` for a comma in a value. mount(8)'s generic options (rw, ro,
    /// noexec, _netdev, noauto, nofail, user, x-systemd.…) are understood. An option written out
    /// (`--region`) wins over the same one here.
    #[arg(short = 'o', value_name = "OPTION[=VALUE],…", help_heading = "As in mount(8)")]
    pub o: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What the files look like")]
pub(super) struct FileArgs {
    /// Refuse every change
    #[arg(long)]
    pub read_only: bool,
    /// Let other users in, as far as the modes allow
    ///
    /// Only root may, or anybody once /etc/fuse.conf has the line user_allow_other.
    #[arg(long)]
    pub allow_other: bool,
    /// Where mode, owner, times, symbolic links and the like are kept [default: none]
    ///
    /// `meta`: in the objects' user metadata, as s3fs does; those of gsutil, GeeseFS, rclone, gcsfuse, FSx and DataSync
    /// are read as well. A listing does not tell them, so each file that is looked at costs a request, many at once.
    /// `none`: nowhere; chmod, chown and touch -d are refused, and only what listings tell is shown.
    #[arg(long, value_name = "WHERE")]
    pub attrs: Option<Attrs>,
    /// Owner of the files, by number [default: who mounts]
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,
    /// Group of the files, by number [default: that of who mounts]
    #[arg(long, value_name = "GID")]
    pub gid: Option<u32>,
    /// Permissions of files, octal [default: 0644]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub file_mode: Option<u16>,
    /// Permissions of directories, octal [default: 0755]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub dir_mode: Option<u16>,
    /// Permissions to take away from both, octal [default: 0000]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub umask: Option<u16>,
    /// Wait for S3 at each rm and rmdir
    ///
    /// Default: the first is answered when S3 has answered; those that follow within 100 ms are acknowledged at once
    /// and sent together. If S3 refuses one of these it comes back, and fsync of its directory fails.
    #[arg(long)]
    pub sync_unlink: bool,
    /// Answer close and fsync when the local disk has the file, and send it to S3 after that
    ///
    /// Killing the mount loses nothing: the next one sends what this one had acknowledged. fsync of the mount's root,
    /// `pailfs flush PATH` and `pailfs umount` wait for S3. Until then no other host sees what was written.
    #[arg(long)]
    pub write_back: bool,
    /// Content-Type of new objects [default: by the name's extension]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Versions and the archive")]
pub(super) struct PastArgs {
    /// Show the bucket as it was then, such as 2026-10-01T12:00Z; read-only
    ///
    /// For buckets that keep versions. Offsets are understood: 2026-10-01T14:00+02:00. What was does not change, so
    /// --metadata-ttl is `forever` if it is not set.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub as_of: Option<SystemTime>,
    /// Let rm remove versions, and delete markers, for good
    ///
    /// In a bucket that keeps versions each directory has `.versions/NAME/` (not listed), with one read-only file a
    /// version of NAME: `ls .versions/NAME`, `cp .versions/NAME/VERSION NAME`.
    #[arg(long)]
    pub allow_version_delete: bool,
    /// Ask archived objects back when they are read
    ///
    /// As `--restore-on-read=days=7,tier=Bulk,wait=12h`, each as you like: for how many days (1), how quickly
    /// (Expedited, Standard, Bulk), and how long a read waits. Without `wait` a read fails with EACCES once S3 was
    /// asked, and the log says when to come back. Only reading asks: ls, stat and open do not. S3 charges for it.
    #[arg(
        long,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = restore
    )]
    pub restore_on_read: Option<RestoreConfig>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Time and memory (times: 500ms, 5s, 2m; sizes: 8MiB, 512M, 1GB)")]
pub(super) struct ResourceArgs {
    /// How long names and attributes are believed without asking S3 [default: 1s]
    ///
    /// `forever` for what does not change in S3; `pailfs refresh` then makes a mount ask again.
    #[arg(long, value_name = "TIME", value_parser = time_or_forever)]
    pub metadata_ttl: Option<Duration>,
    /// Most memory to use for names and attributes, at least 1MiB [default: 256MiB]
    ///
    /// A million objects take about 350MiB while the kernel remembers them too.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub metadata_memory: Option<u64>,
    /// Most memory to use for the contents of objects, at least 64MiB [default: 512MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Size of the first parts of a large upload, 5MiB to 5GiB [default: 8MiB]
    ///
    /// Later parts grow, up to a fourth of --memory, because S3 takes 10,000 parts at most: with the
    /// defaults files of 1 TiB fit, with --memory 4GiB S3's largest. At most a fourth of --memory.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub part_size: Option<u64>,
    /// How long S3 may make no progress before a program gets an error [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub request_timeout: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache on the local disk")]
pub(super) struct CacheArgs {
    /// Keep what was read in this directory, also when the mount has ended
    ///
    /// It is made with mode 0700 if it is missing; an existing one must be yours, and empty or a cache of pailfs.
    /// Several mounts may share it, also of different buckets. What is in it is checked whenever it is
    /// read. `pailfs warm` fills it; while nothing is mounted it may be deleted.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// The most it may take of the disk, at least 64MiB [default: 10GiB]
    ///
    /// What was not used for the longest time gives way. Of mounts that share a directory, each keeps all of it
    /// below its own limit when it writes.
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "cache")]
    pub cache_size: Option<u64>,
    /// What it must leave free on its file system [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "cache")]
    pub cache_min_free: Option<u64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What is on its way to S3, on the local disk")]
pub(super) struct StagingArgs {
    /// Directory for what is under way and must outlive a crash [default: ~/.cache/pailfs/staging]
    ///
    /// What is written out of order waits there until the file is closed; a file written from its start to its end
    /// does not.
    /// The next mount of the bucket finishes or undoes what it finds there of a mount that died, and names what could
    /// not be sent: see `pailfs recover --help`. Several mounts may share it, also of different buckets. It is made
    /// with mode 0700 if it is missing. Default: $XDG_CACHE_HOME/pailfs/staging ($XDG_CACHE_HOME is ~/.cache if not
    /// set).
    #[arg(long, value_name = "DIR")]
    pub staging: Option<PathBuf>,
    /// The most that waits there may take of the disk, at least 64MiB [default: 10GiB]
    ///
    /// When it is full a write waits for files that are being closed, then fails with ENOSPC. So does one that would leave
    /// less than 256 MiB of its file system to others.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub staging_size: Option<u64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The process and its log")]
pub(super) struct ProcessArgs {
    /// Stay in the foreground, and log to stderr
    #[arg(long)]
    pub foreground: bool,
    /// How much to log [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<Level>,
    /// File to append the log to, made with mode 0600
    ///
    /// A daemon's default, for the bucket `data` on /mnt/x: /var/log/pailfs/data-mnt-x.log for root, else
    /// $XDG_STATE_HOME/pailfs/data-mnt-x.log ($XDG_STATE_HOME is ~/.local/state if not set); for all buckets `s3` in
    /// place of `data`. After a
    /// rotation, SIGHUP makes the daemon open it anew.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Attrs {
    None,
    Meta,
}

impl From<Attrs> for AttributesConfig {
    fn from(attrs: Attrs) -> AttributesConfig {
        match attrs {
            Attrs::None => AttributesConfig::None,
            Attrs::Meta => AttributesConfig::Metadata,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> LevelFilter {
        match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }
}

const EXAMPLES: &str = "\
A setting comes from its option, else from the environment, else from the profile in the AWS
config files (AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE), as in other AWS programs. Credentials
come from the usual chain. AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true leaves only --endpoint-url.

Examples:
  pailfs mount my-bucket /mnt/data
  pailfs mount s3://my-bucket/photos/2024/ ~/photos --read-only
  pailfs mount data /mnt/data --endpoint-url http://127.0.0.1:8333 --region us-east-1
  pailfs mount public-data /mnt/public --no-sign-request --region us-west-2
  pailfs mount data /srv/data --allow-other --uid 1000 --gid 1000 --umask 0027
  pailfs mount s3:// /mnt/s3
  pailfs mount data /mnt/data --cache /var/cache/pailfs --cache-size 100GiB

In /etc/fstab:
  s3://my-bucket/  /mnt/data  pailfs  _netdev,nofail,allow_other,profile=work  0  0
(with `ln -s $(command -v pailfs) /sbin/mount.pailfs`)

To end a mount: `pailfs umount DIR`, or SIGTERM. Both wait for what is being sent, then unmount,
and leave the mount alone while it is busy; a second SIGTERM detaches it anyway.

Exit status: 0 mounted; 1 it cannot be mounted, stderr says why; 2 wrong usage.";

/// Mount a bucket, as mount(8) asks for it
#[derive(Debug, Parser)]
#[command(name = "mount.pailfs", version)]
pub(super) struct HelperArgs {
    #[command(flatten)]
    mount: MountArgs,
    /// Tolerate unknown options
    #[arg(short = 's')]
    sloppy: bool,
    /// Fake: check everything that needs no mount, then stop
    #[arg(short = 'f')]
    fake: bool,
    /// Say what was mounted
    #[arg(short = 'v')]
    verbose: bool,
    /// No entry in /etc/mtab: the kernel keeps the table now
    #[arg(short = 'n')]
    no_mtab: bool,
    /// The type that mount(8) was asked for
    #[arg(short = 't', value_name = "TYPE")]
    fs_type: Option<String>,
}

#[cfg(test)]
impl HelperArgs {
    pub(super) fn mount(&self) -> &MountArgs {
        &self.mount
    }
}

/// The form without a subcommand.
pub(super) fn run_helper(args: &[OsString]) -> Result<(), Ending> {
    let first = parse_helper(args)?;
    let unknown = if first.sloppy { Unknown::Tolerate } else { Unknown::Refuse };
    let more = options::expand(&first.mount.o, unknown)?;
    for name in &more.ignored {
        eprintln!("pailfs: ignoring the unknown option `{}`", name.escape_debug());
    }
    let args = parse_helper(&options::insert(args, 1, &more.args))?;
    let mut plan = plan(&args.mount, &more)?;
    plan.fake = args.fake;
    let (source, foreground) = (plan.source(), plan.foreground);
    let dir = plan.dir.clone();
    mount::run(plan)?;
    if args.verbose && !foreground {
        // The daemon comes by here too, when its mount has ended: its stdout is /dev/null.
        println!("pailfs: {source} mounted on {}", dir.display());
    }
    Ok(())
}

fn parse_helper(args: &[OsString]) -> Result<HelperArgs, clap::Error> {
    let matches = HelperArgs::command().try_get_matches_from(args)?;
    HelperArgs::from_arg_matches(&matches)
}

/// The subcommand.
pub(super) fn run(args: &MountArgs, more: &Expanded) -> Result<(), Failure> {
    mount::run(plan(args, more)?)
}

fn plan(args: &MountArgs, more: &Expanded) -> Result<Plan, Failure> {
    let env = Env::real();
    let mut config = resolve::config(args, &env, &Fs::real())?;
    config.no_exec = more.noexec;
    let level = args.process.log_level.unwrap_or(Level::Info);
    Ok(Plan {
        config,
        dir: args.dir.clone(),
        foreground: args.process.foreground,
        log_file: args.process.log_file.as_deref().map(resolve::absolute).transpose()?,
        state_home: resolve::state_home(&env),
        log_level: level.into(),
        fake: false,
    })
}

fn mode(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u16::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 && !digits.starts_with('+') => Ok(mode),
        _ => Err("expected octal permissions between 000 and 777, such as 0644".into()),
    }
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    let parsed = text.parse::<bytesize::ByteSize>();
    let negative = text.trim_start().starts_with('-');
    match parsed {
        Ok(size) if !negative => Ok(size.as_u64()),
        _ => Err("expected a size such as 8MiB, 512M or 1GB".into()),
    }
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a time with its unit, such as 500ms, 5s or 2m".into())
}

/// RFC 3339, the seconds left out if one likes.
fn moment(text: &str) -> Result<SystemTime, String> {
    let mut full = text.to_owned();
    if text.get(16..17).is_some_and(|next| next != ":") {
        full.insert_str(16, ":00");
    }
    OffsetDateTime::parse(&full, &Rfc3339)
        .map(SystemTime::from)
        .map_err(|_| "expected a date and time with its zone, such as 2026-10-01T12:00Z".into())
}

/// `days=7,tier=Bulk,wait=12h`.
fn restore(text: &str) -> Result<RestoreConfig, String> {
    let expected = |what: &str| format!("expected {what}, as in days=7,tier=Standard,wait=12h");
    let mut config = RestoreConfig { days: 1, tier: None, wait: None };
    for item in text.split(',').filter(|item| !item.is_empty()) {
        match item.split_once('=') {
            Some(("days", days)) => {
                config.days = days.parse().ok().filter(|days| *days > 0).ok_or_else(|| expected("days"))?;
            }
            Some(("tier", tier)) if RESTORE_TIERS.contains(&tier) => config.tier = Some(tier.into()),
            Some(("tier", _)) => return Err(expected("one of Expedited, Standard and Bulk")),
            Some(("wait", wait)) => config.wait = Some(time(wait)?),
            _ => return Err(expected("days, tier and wait")),
        }
    }
    Ok(config)
}

fn time_or_forever(text: &str) -> Result<Duration, String> {
    if text == "forever" {
        return Ok(Duration::MAX);
    }
    time(text).map_err(|expected| format!("{expected}, or `forever`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_sizes_and_times() {
        assert_eq!(mode("0644"), Ok(0o644));
        assert_eq!(mode("27"), Ok(0o27));
        assert_eq!(mode("0o755"), Ok(0o755));
        for wrong in ["", "8", "1777", "-1", "+7", "rw"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("8MiB"), Ok(8 << 20));
        assert_eq!(size("1GB"), Ok(1_000_000_000));
        assert_eq!(size("512M"), Ok(512_000_000));
        assert_eq!(size("1024"), Ok(1024));
        for wrong in ["", "MiB", "-1MiB", "8 bananas", "NaN"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "5", "s", "-1s", "forever"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert_eq!(time_or_forever("forever"), Ok(Duration::MAX));
        assert_eq!(time_or_forever("5s"), Ok(Duration::from_secs(5)));
        assert!(time_or_forever("never").is_err());
    }

    #[test]
    fn restores_are_told_in_any_order() {
        let all = RestoreConfig { days: 7, tier: Some("Bulk".into()), wait: Some(Duration::from_secs(7200)) };
        assert_eq!(restore("wait=2h,days=7,tier=Bulk"), Ok(all));
        assert_eq!(restore(""), Ok(RestoreConfig { days: 1, tier: None, wait: None }));
        for wrong in ["7", "days=0", "days=x", "tier=Fast", "wait=2", "speed=1"] {
            assert!(restore(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_have_a_zone() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_856_000);
        for text in [
            "2026-10-01T12:00Z",
            "2026-10-01T12:00:00Z",
            "2026-10-01T14:00+02:00",
            "2026-10-01T11:30:00.0-00:30",
        ] {
            assert_eq!(moment(text), Ok(noon), "{text}");
        }
        for wrong in ["", "2026-10-01", "2026-10-01T12:00", "12:00Z", "yesterday", "2026-13-01T12:00Z"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_option_written_out_wins_over_o() {
        let args = ["pailfs", "b", "/mnt", "--region", "here", "-o", "region=there,uid=7"];
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let first = parse_helper(&args).unwrap();
        let more = options::expand(&first.mount.o, Unknown::Refuse).unwrap();
        let parsed = parse_helper(&options::insert(&args, 1, &more.args)).unwrap();
        assert_eq!(parsed.mount.s3.region.as_deref(), Some("here"));
        assert_eq!(parsed.mount.files.uid, Some(7));
        assert_eq!(parsed.mount.bucket, "b");
    }
}
