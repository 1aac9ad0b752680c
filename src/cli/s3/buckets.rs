//! `pailfs s3 buckets`: which there are, a new one, one less.
//!
//! Owns: [`Buckets`]. Must never know: what is in them.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use serde_json::json;

use super::place::Place;
use super::{Common, Ending, print};

/// Buckets: list, create, delete, where they are
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Buckets {
    /// The buckets of whoever asks
    List(List),
    /// Make a bucket, in --region
    Create(One),
    /// Delete an empty bucket
    Delete(One),
    /// The region a bucket is in
    Location(One),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct One {
    /// s3://bucket
    #[arg(value_name = "PLACE")]
    place: OsString,
    #[command(flatten)]
    common: Common,
}

impl One {
    fn bucket(&self) -> Result<Place, Ending> {
        let place = Place::of(&self.place, &self.common)?;
        place.bucket()?;
        Ok(place)
    }
}

impl Buckets {
    pub(super) fn run(&self) -> Result<(), Ending> {
        match self {
            Buckets::List(List { common }) => list(common),
            Buckets::Create(one) => {
                one.common.act(&one.bucket()?, async |client| client.create_bucket().await)
            }
            Buckets::Delete(one) => {
                one.common.act(&one.bucket()?, async |client| client.delete_bucket().await)
            }
            Buckets::Location(one) => one.common.show(&one.bucket()?, async |client| {
                Ok(json!({"LocationConstraint": client.get_bucket_location().await?}))
            }),
        }
    }
}

fn list(common: &Common) -> Result<(), Ending> {
    let place = Place::of_service(common)?;
    common.show(&place, async |client| {
        let mut buckets = Vec::new();
        let mut token = None;
        loop {
            let page = client.list_buckets(token.as_deref()).await?;
            buckets.extend(page.buckets.into_iter().map(
                |bucket| json!({"Name": bucket.name, "CreationDate": print::timestamp(bucket.created)}),
            ));
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(json!({"Buckets": buckets}));
            }
        }
    })
}
