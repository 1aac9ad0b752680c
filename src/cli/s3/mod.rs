//! `pailfs s3`: what S3 has beside files, from the shell.
//!
//! Owns: [`S3Command`], the options all its commands share, and the order of each: find the place, connect, ask, show.
//! Invariant: a command does what one operation of S3 does, and shows what S3 said.
//! Must never know: how requests are sent, how a mount works.

mod aws_json;
mod buckets;
mod cp;
mod documents;
mod objects;
mod place;
mod print;
mod tagging;
mod wait;

use std::future::Future;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Ending;
use super::s3_args::S3Args;
use crate::error::S3Error;
use crate::failure::Failure;
use crate::runtime;
use crate::s3::S3Client;
use place::Place;

/// What S3 has beside files: buckets, tags, ACLs, versions, archives, ...
///
/// PLACE is a path on a mount, or s3://bucket/key. What is beside the bucket as a whole is under s3://bucket, or the root
/// of a mount of all of it. A mount that acknowledged what is on the path (--write-back) sends it first.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
docs/S3.md tells for each call of boto3 which command does the same.

Exit status: 0 done; 1 it failed, stderr says why; 2 wrong usage; 255 (wait) it did not come.")]
pub(super) enum S3Command {
    #[command(subcommand)]
    Buckets(buckets::Buckets),
    Ls(objects::Ls),
    Cp(Box<cp::Cp>),
    Head(objects::Head),
    #[command(subcommand)]
    Versions(objects::Versions),
    #[command(subcommand)]
    Restore(objects::Restore),
    #[command(subcommand)]
    StorageClass(objects::StorageClass),
    Presign(objects::Presign),
    Uploads(objects::Uploads),
    #[command(subcommand)]
    Tags(tagging::Tags),
    #[command(subcommand)]
    Acl(documents::AclCommand),
    /// Which web sites may read the bucket from a browser
    #[command(subcommand)]
    Cors(documents::DocumentCommand),
    /// What becomes of objects as they grow old
    #[command(subcommand)]
    Lifecycle(documents::DocumentCommand),
    /// Who may do what, in AWS's policy language
    #[command(subcommand)]
    Policy(documents::DocumentCommand),
    /// How new objects are encrypted by default
    #[command(subcommand)]
    Encryption(documents::DocumentCommand),
    /// The bucket as a web site
    #[command(subcommand)]
    Website(documents::DocumentCommand),
    /// Where the log of requests goes
    #[command(subcommand)]
    Logging(documents::DocumentCommand),
    /// Who is told of changes
    #[command(subcommand)]
    Notification(documents::DocumentCommand),
    #[command(subcommand)]
    Versioning(documents::VersioningCommand),
    #[command(subcommand)]
    Wait(wait::Wait),
}

/// What every command takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// How long S3 may make no progress before the command fails [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = super::mount::time)]
    request_timeout: Option<Duration>,
    #[command(flatten)]
    s3: S3Args,
}

/// What those take that show something.
#[derive(Debug, Args)]
pub(super) struct Shown {
    /// Print JSON, as the aws CLI does
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(command: &S3Command) -> Result<(), Ending> {
    use crate::s3::Document;
    match command {
        S3Command::Buckets(args) => args.run(),
        S3Command::Ls(args) => args.run(),
        S3Command::Cp(args) => args.run(),
        S3Command::Head(args) => args.run(),
        S3Command::Versions(args) => args.run(),
        S3Command::Restore(args) => args.run(),
        S3Command::StorageClass(args) => args.run(),
        S3Command::Presign(args) => args.run(),
        S3Command::Uploads(args) => args.run(),
        S3Command::Tags(args) => args.run(),
        S3Command::Acl(args) => args.run(),
        S3Command::Cors(args) => args.run(Document::Cors),
        S3Command::Lifecycle(args) => args.run(Document::Lifecycle),
        S3Command::Policy(args) => args.run(Document::Policy),
        S3Command::Encryption(args) => args.run(Document::Encryption),
        S3Command::Website(args) => args.run(Document::Website),
        S3Command::Logging(args) => args.run(Document::Logging),
        S3Command::Notification(args) => args.run(Document::Notification),
        S3Command::Versioning(args) => args.run(),
        S3Command::Wait(args) => args.run(),
    }
}

impl Common {
    /// Connects to where `place` is, and runs `ask`.
    fn ask<T, F>(&self, place: &Place, ask: impl FnOnce(S3Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, S3Error>>,
    {
        let runtime = runtime::start()?;
        let asked = runtime.block_on(async { ask(S3Client::connect(&place.config).await?).await });
        asked.map_err(Failure::new)
    }

    /// As [`Common::ask`], where something is changed and there is nothing to show.
    fn act<F>(&self, place: &Place, ask: impl FnOnce(S3Client) -> F) -> Result<(), Ending>
    where
        F: Future<Output = Result<(), S3Error>>,
    {
        place.check_writable()?;
        Ok(self.ask(place, ask)?)
    }
}

impl Shown {
    /// As [`Common::ask`], and shows the answer.
    fn ask<F>(&self, place: &Place, ask: impl FnOnce(S3Client) -> F) -> Result<(), Ending>
    where
        F: Future<Output = Result<Value, S3Error>>,
    {
        self.show(&self.common.ask(place, ask)?)
    }

    fn show(&self, told: &Value) -> Result<(), Ending> {
        Ok(print::show(told, self.json)?)
    }
}
