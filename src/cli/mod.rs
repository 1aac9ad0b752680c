//! The command line: which command was meant, and what its exit status is.
//!
//! Owns: [`run`], the subcommands, and the forms that mount(8) uses.
//! Exit status: 0 done; 1 it failed, one line on stderr says why; 2 the command line itself is wrong; 255 what
//! `pailfs s3 wait` waited for did not come.
//! Invariant: no thread is started before a command's own code decides to.
//! Must never know: how a mount works.

mod mount;
mod options;
mod recover;
mod resolve;
mod s3;
mod tell;
mod umount;
mod warm;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::Failure;

/// Mounts S3 buckets as directories.
#[derive(Debug, Parser)]
#[command(name = "pailfs", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(Box<mount::MountArgs>),
    Umount(umount::UmountArgs),
    Warm(warm::WarmArgs),
    Refresh(tell::RefreshArgs),
    Flush(tell::FlushArgs),
    Recover(Box<recover::RecoverArgs>),
    #[command(subcommand)]
    S3(Box<s3::S3Command>),
}

const EXAMPLES: &str = "\
Examples:
  pailfs mount my-bucket /mnt/data       mount a bucket of AWS
  pailfs umount /mnt/data                send what is not sent yet, then unmount
  pailfs warm /mnt/data/models           fill the disk cache of a mount
  pailfs refresh /mnt/data/new           see what other hosts changed there, at once
  pailfs flush /mnt/data/new             wait until S3 has what was written there (--write-back)
  pailfs recover my-bucket               see what could not be sent, send it, or write it elsewhere
  pailfs s3 tags get /mnt/data/report    what S3 has beside files: tags, ACLs, versions, ...
  pailfs mount --help                    every option, and more examples";

/// Runs the command that `args` (with the program's name first) ask for.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let outcome = if is_mount_helper(&args) { mount::run_helper(&args) } else { run_command(&args) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ending::Usage(e)) => {
            // Help and version come this way too, with status 0. A closed stdout is nobody's problem.
            let _ = e.print();
            ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2))
        }
        Err(Ending::Failed(failure)) => {
            eprintln!("pailfs: {failure}");
            ExitCode::FAILURE
        }
        Err(Ending::InVain(failure)) => {
            eprintln!("pailfs: {failure}");
            ExitCode::from(255)
        }
        Err(Ending::Interrupted(failure, signal)) => {
            eprintln!("pailfs: {failure}");
            ExitCode::from(signal.saturating_add(128))
        }
    }
}

/// How a command ends when it does not succeed.
#[derive(Debug)]
enum Ending {
    Usage(clap::Error),
    Failed(Failure),
    /// What was waited for did not come.
    InVain(Failure),
    /// By this signal, which was seen to; the status is a shell's for it.
    Interrupted(Failure, u8),
}

impl From<clap::Error> for Ending {
    fn from(e: clap::Error) -> Ending {
        Ending::Usage(e)
    }
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Ending {
        Ending::Failed(failure)
    }
}

fn run_command(args: &[OsString]) -> Result<(), Ending> {
    let matches = Cli::command().try_get_matches_from(args)?;
    let cli = Cli::from_arg_matches(&matches)?;
    match cli.command {
        Command::Mount(first) => {
            // Each `-o name=value` becomes the option it stands for, before those written out.
            let more = options::expand(&first.o, options::Unknown::Refuse)?;
            let args = options::insert(args, 2, &more.args);
            let matches = Cli::command().try_get_matches_from(args)?;
            let Command::Mount(args) = Cli::from_arg_matches(&matches)?.command else {
                unreachable!("the subcommand is the same as in the first pass")
            };
            Ok(mount::run(&args, &more)?)
        }
        Command::Umount(args) => Ok(umount::run(&args)?),
        Command::Warm(args) => Ok(warm::run(&args)?),
        Command::Refresh(args) => Ok(tell::refresh(&args)?),
        Command::Flush(args) => Ok(tell::flush(&args)?),
        Command::Recover(args) => Ok(recover::run(&args)?),
        Command::S3(command) => s3::run(&command),
    }
}

/// Is this how mount(8) and mount.fuse(8) call: `mount.pailfs BUCKET DIR …` or `pailfs BUCKET DIR -o …`?
fn is_mount_helper(args: &[OsString]) -> bool {
    let mut args = args.iter().map(OsString::as_os_str);
    let program = args.next().and_then(|a| Path::new(a).file_name());
    if program.is_some_and(|name| name == "mount.pailfs" || name == "mount.fuse.pailfs") {
        return true;
    }
    let rest: Vec<&OsStr> = args.collect();
    let Some(first) = rest.first().map(|a| a.to_string_lossy()) else {
        return false;
    };
    let commands = ["mount", "umount", "warm", "refresh", "flush", "recover", "s3", "help"];
    if commands.contains(&first.as_ref()) {
        return false;
    }
    if rest.iter().any(|a| a.as_encoded_bytes().starts_with(b"-o")) {
        return true;
    }
    // Two words without -o are a bucket and a directory, unless the first looks like a command mistyped.
    let words = rest.iter().filter(|a| !a.as_encoded_bytes().starts_with(b"-"));
    let mistyped = [
        ("mount", 2),
        ("umount", 2),
        ("unmount", 2),
        ("warm", 1),
        ("refresh", 2),
        ("flush", 1),
        ("recover", 2),
    ]
    .iter()
    .any(|(command, slips)| strsim::damerau_levenshtein(command, &first) <= *slips);
    !first.starts_with('-') && words.count() >= 2 && !mistyped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_the_command_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn which_form_of_call_it_is() {
        let helper = |line: &str| {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            is_mount_helper(&args)
        };
        for line in [
            "/sbin/mount.pailfs b /mnt",
            "mount.fuse.pailfs b /mnt -o rw",
            "pailfs b /mnt -o rw,dev,suid",
            "/usr/bin/pailfs s3://b/p /mnt -oro",
            "pailfs -o ro b /mnt",
            "pailfs s3://mount /mnt",
            "pailfs my-bucket /mnt",
            "pailfs farms /mnt",
        ] {
            assert!(helper(line), "{line}");
        }
        for line in [
            "pailfs",
            "pailfs --help",
            "pailfs -V",
            "pailfs mount b /mnt -o ro",
            "pailfs umount /mnt",
            "pailfs unmount /mnt",
            "pailfs help mount",
            "pailfs warm /mnt/a /mnt/b",
            "pailfs refresh /mnt/a /mnt/b",
            "pailfs refesh /mnt/a /mnt/b",
            "pailfs flush /mnt/a /mnt/b",
            "pailfs recover bucket key",
            "pailfs recovr bucket key",
            "pailfs bucket",
            "pailfs mont b /mnt",
            "pailfs wram /mnt/a /mnt/b",
        ] {
            assert!(!helper(line), "{line}");
        }
    }
}
