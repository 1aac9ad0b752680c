//! `pailfs s3 acl`, `cors`, `lifecycle`, `policy` and their like: documents that S3 keeps beside a bucket or object.
//!
//! Owns: [`DocumentCommand`], [`AclCommand`], [`VersioningCommand`]: how a document is typed and shown.
//! Invariant: S3's own form goes through as it is.
//! Must never know: what a document means.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::place::Place;
use super::{Common, Ending, Shown, aws_json, print};
use crate::failure::Failure;
use crate::s3::{Acl, Document, ObjectId, Permission, xml};

/// Larger than any that S3 takes.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DocumentCommand {
    /// Show it
    Get(Get),
    /// Put a document in its place
    Set(Set),
    /// Take it away
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Get {
    /// s3://bucket, or the root of a mount of a whole bucket
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// Print it as S3 has it: XML, or JSON of a policy
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Set {
    /// s3://bucket, or the root of a mount of a whole bucket
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// The document: S3's XML, or JSON as --json prints it; `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Delete {
    /// s3://bucket, or the root of a mount of a whole bucket
    #[arg(value_name = "PLACE")]
    place: OsString,
    #[command(flatten)]
    common: Common,
}

impl DocumentCommand {
    pub(super) fn run(&self, document: Document) -> Result<(), Ending> {
        match self {
            DocumentCommand::Get(args) => {
                let place = bucket(&args.place, &args.shown.common)?;
                get(document, &place, None, args.raw, &args.shown)
            }
            DocumentCommand::Set(args) => {
                let place = bucket(&args.place, &args.common)?;
                let body = read(document, &args.file)?;
                args.common.act(&place, async |client| client.put_document(document, None, body).await)
            }
            DocumentCommand::Delete(args) => {
                let place = bucket(&args.place, &args.common)?;
                args.common.act(&place, async |client| client.delete_document(document, None).await)
            }
        }
    }
}

fn bucket(place: &OsStr, common: &Common) -> Result<Place, Failure> {
    let place = Place::of(place, common)?;
    place.bucket()?;
    Ok(place)
}

fn get(
    document: Document,
    place: &Place,
    of: Option<ObjectId<'_>>,
    raw: bool,
    shown: &Shown,
) -> Result<(), Ending> {
    let told = shown.common.ask(place, async |client| client.get_document(document, of).await)?;
    if raw {
        print::write(&told)?;
        return Ok(print::write(b"\n")?);
    }
    let told = match document {
        // The aws CLI shows it as a text within JSON.
        Document::Policy if shown.json => json!({"Policy": String::from_utf8_lossy(&told)}),
        Document::Policy => serde_json::from_slice(&told)
            .map_err(|e| Failure::new(format_args!("the policy is no JSON ({e}); see --raw")))?,
        _ => aws_json::to_json(document, &xml::parse(&told).map_err(Failure::new)?),
    };
    shown.show(&told)
}

/// As S3 takes it.
fn read(document: Document, file: &Path) -> Result<Bytes, Failure> {
    let shown = file.display();
    let unreadable = |e: std::io::Error| Failure::new(format_args!("cannot read {shown}: {e}"));
    let mut text = Vec::new();
    let source: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::fs::File::open(file).map_err(unreadable)?),
    };
    source.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Failure::new(format_args!("{shown} is larger than any document that S3 takes")));
    }
    as_s3_takes_it(document, text).map_err(|why| Failure::new(format_args!("{shown}: {why}")))
}

fn as_s3_takes_it(document: Document, text: Vec<u8>) -> Result<Bytes, String> {
    let is_json = !text.trim_ascii_start().starts_with(b"<");
    match document.root() {
        Some(root) if is_json => {
            let told = serde_json::from_slice(&text).map_err(|e| format!("neither XML nor JSON: {e}"))?;
            aws_json::to_xml(document, root, &told).map(Bytes::from)
        }
        Some(_) => Ok(text.into()),
        // As the aws CLI prints it, the policy stands in a text.
        None => match serde_json::from_slice::<Value>(&text) {
            Ok(Value::Object(members)) => match members.get("Policy").and_then(Value::as_str) {
                Some(policy) => Ok(policy.to_string().into()),
                None => Ok(Bytes::copy_from_slice(text.trim_ascii())),
            },
            _ => Err("expected a policy in JSON".to_string()),
        },
    }
}

/// Who may do what with an object or bucket
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AclCommand {
    /// Show it
    Get(Box<GetAcl>),
    /// By a canned name, by grants, or as a document
    Set(Box<SetAcl>),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct GetAcl {
    /// A path on a mount, s3://bucket or s3://bucket/key
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// Print it as S3 has it: XML
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SetAcl {
    /// A path on a mount, s3://bucket or s3://bucket/key
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// private, public-read, public-read-write, authenticated-read, aws-exec-read, bucket-owner-read,
    /// bucket-owner-full-control or log-delivery-write
    #[arg(value_name = "NAME", group = "what")]
    canned: Option<String>,
    /// The document: S3's XML, or JSON as --json prints it; `-` is stdin
    #[arg(long, value_name = "FILE", group = "what")]
    file: Option<PathBuf>,
    /// Who may read: `id=ID` or `uri=URI`, several parted by commas
    #[arg(long, value_name = "WHO", conflicts_with = "what")]
    grant_read: Option<String>,
    /// Who may write (buckets)
    #[arg(long, value_name = "WHO", conflicts_with = "what")]
    grant_write: Option<String>,
    /// Who may read the ACL
    #[arg(long, value_name = "WHO", conflicts_with = "what")]
    grant_read_acp: Option<String>,
    /// Who may change the ACL
    #[arg(long, value_name = "WHO", conflicts_with = "what")]
    grant_write_acp: Option<String>,
    /// Who may do all of these
    #[arg(long, value_name = "WHO", conflicts_with = "what")]
    grant_full_control: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl AclCommand {
    pub(super) fn run(&self) -> Result<(), Ending> {
        match self {
            AclCommand::Get(args) => {
                let place = Place::of(&args.place, &args.shown.common)?;
                get(Document::Acl, &place, place.object_or_bucket(), args.raw, &args.shown)
            }
            AclCommand::Set(args) => args.run(),
        }
    }
}

impl SetAcl {
    fn run(&self) -> Result<(), Ending> {
        let place = Place::of(&self.place, &self.common)?;
        let of = place.object_or_bucket();
        if let Some(file) = &self.file {
            let body = read(Document::Acl, file)?;
            return self
                .common
                .act(&place, async |client| client.put_document(Document::Acl, of, body).await);
        }
        let acl = match &self.canned {
            Some(name) => Acl::Canned(name.clone()),
            None => Acl::Grants(self.grants()),
        };
        if acl == Acl::Grants(Vec::new()) {
            return Err(Failure::new("name a canned ACL, a --file, or who is granted what").into());
        }
        self.common.act(&place, async |client| client.put_acl(&acl, of).await)
    }

    fn grants(&self) -> Vec<(Permission, String)> {
        let grants = [
            (Permission::Read, &self.grant_read),
            (Permission::Write, &self.grant_write),
            (Permission::ReadAcp, &self.grant_read_acp),
            (Permission::WriteAcp, &self.grant_write_acp),
            (Permission::FullControl, &self.grant_full_control),
        ];
        grants.into_iter().filter_map(|(permission, who)| Some((permission, who.clone()?))).collect()
    }
}

/// Whether the bucket keeps old versions of its objects
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum VersioningCommand {
    /// Show it
    Get(Get),
    /// Keep versions from now on, or no more
    Set(SetVersioning),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SetVersioning {
    /// s3://bucket, or the root of a mount of a whole bucket
    #[arg(value_name = "PLACE")]
    place: OsString,
    status: Status,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Enabled,
    Suspended,
}

impl VersioningCommand {
    pub(super) fn run(&self) -> Result<(), Ending> {
        match self {
            VersioningCommand::Get(args) => {
                let place = bucket(&args.place, &args.shown.common)?;
                get(Document::Versioning, &place, None, args.raw, &args.shown)
            }
            VersioningCommand::Set(args) => {
                let place = bucket(&args.place, &args.common)?;
                let told = json!({"Status": match args.status {
                    Status::Enabled => "Enabled",
                    Status::Suspended => "Suspended",
                }});
                let body = as_s3_takes_it(Document::Versioning, told.to_string().into_bytes());
                let body = body.map_err(Failure::new)?;
                args.common
                    .act(&place, async |client| client.put_document(Document::Versioning, None, body).await)
            }
        }
    }
}
