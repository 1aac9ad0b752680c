//! `pailfs s3 buckets`: which there are, a new one, one less.
//!
//! Owns: [`Buckets`]. Must never know: what is in them.

use std::ffi::{OsStr, OsString};

use clap::{Args, Subcommand};
use serde_json::json;

use super::objects::as_owner;
use super::place::Place;
use super::{Common, Ending, Shown, print};
use crate::s3::REGION_UNNAMED;

/// Buckets: list, create, delete, where they are
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Buckets {
    /// The buckets of whoever asks
    List(Shown),
    /// Make a bucket, in --region
    Create(One),
    /// Delete an empty bucket
    Delete(One),
    /// The region a bucket is in
    Location(Location),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Location {
    /// s3://bucket
    #[arg(value_name = "PLACE")]
    place: OsString,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct One {
    /// s3://bucket
    #[arg(value_name = "PLACE")]
    place: OsString,
    #[command(flatten)]
    common: Common,
}

fn bucket(place: &OsStr, common: &Common) -> Result<Place, Ending> {
    let place = Place::of(place, common)?;
    place.bucket()?;
    Ok(place)
}

impl Buckets {
    pub(super) fn run(&self) -> Result<(), Ending> {
        match self {
            Buckets::List(shown) => list(shown),
            Buckets::Create(One { place, common }) => {
                common.act(&bucket(place, common)?, async |client| client.create_bucket().await)
            }
            Buckets::Delete(One { place, common }) => {
                common.act(&bucket(place, common)?, async |client| client.delete_bucket().await)
            }
            Buckets::Location(Location { place, shown }) => {
                shown.ask(&bucket(place, &shown.common)?, async |client| {
                    let region = client.get_bucket_location().await?;
                    // In JSON AWS's oldest region has no name.
                    let named = Some(region).filter(|region| !(shown.json && region == REGION_UNNAMED));
                    Ok(json!({"LocationConstraint": named}))
                })
            }
        }
    }
}

fn list(shown: &Shown) -> Result<(), Ending> {
    let place = Place::of_service(&shown.common)?;
    shown.ask(&place, async |client| {
        let mut buckets = Vec::new();
        let (mut owner, mut token) = (None, None);
        loop {
            let page = client.list_buckets("", token.as_deref()).await?;
            buckets.extend(page.buckets.into_iter().map(
                |bucket| json!({"Name": bucket.name, "CreationDate": print::timestamp(bucket.created)}),
            ));
            owner = owner.or(page.owner);
            token = page.next_continuation_token;
            if token.is_none() {
                let mut told = json!({"Buckets": buckets});
                if let Some(owner) = owner {
                    told["Owner"] = as_owner(&owner);
                }
                return Ok(told);
            }
        }
    })
}
