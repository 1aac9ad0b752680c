//! `pailfs s3 tags`: the tags of an object or bucket.
//!
//! Owns: [`Tags`], how a tag is typed. Must never know: how tags are kept.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::place::Place;
use super::{Common, Ending};
use crate::s3::Document;

/// Tags of an object or bucket
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Tags {
    /// Show them
    Get(Get),
    /// These and no others
    Set(Set),
    /// Take them all away
    Delete(Get),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Get {
    /// A path on a mount, s3://bucket or s3://bucket/key
    #[arg(value_name = "PLACE")]
    place: OsString,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Set {
    /// A path on a mount, s3://bucket or s3://bucket/key
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// `name=value`
    #[arg(required = true, value_name = "TAG", value_parser = tag)]
    tags: Vec<(String, String)>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected name=value")?;
    Ok((name.to_string(), value.to_string()))
}

impl Tags {
    pub(super) fn run(&self) -> Result<(), Ending> {
        match self {
            Tags::Get(args) => {
                let place = Place::of(&args.place, &args.common)?;
                args.common.show(&place, async |client| {
                    let tags = client.get_tags(place.object_or_bucket()).await?;
                    let tag = |(name, value)| json!({"Key": name, "Value": value});
                    Ok(json!({"TagSet": tags.into_iter().map(tag).collect::<Vec<Value>>()}))
                })
            }
            Tags::Set(args) => {
                let place = Place::of(&args.place, &args.common)?;
                let of = place.object_or_bucket();
                args.common.act(&place, async |client| client.put_tags(&args.tags, of).await)
            }
            Tags::Delete(args) => {
                let place = Place::of(&args.place, &args.common)?;
                let of = place.object_or_bucket();
                args.common.act(&place, async |client| client.delete_document(Document::Tagging, of).await)
            }
        }
    }
}
