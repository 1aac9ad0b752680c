//! `pailfs s3 wait`: until an object or bucket is there, or is not.
//!
//! Owns: [`Wait`]. Invariant: only what S3 said counts; an error that is no answer ends the wait.
//! Must never know: why anybody waits.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::place::Place;
use super::{Common, Ending, runtime};
use crate::error::{S3Error, S3ErrorKind};
use crate::failure::Failure;
use crate::s3::S3Client;

/// As in the SDKs' waiters.
const ATTEMPTS_MAX: u32 = 20;
const DELAY: Duration = Duration::from_secs(5);

/// Wait until something is there, or is not; exit status 255 if that does not come
#[derive(Debug, Subcommand)]
#[expect(clippy::enum_variant_names, reason = "the waiters' names in every SDK")]
pub(in crate::cli) enum Wait {
    /// Until HeadObject finds the object
    ObjectExists(Until),
    /// Until HeadObject does not find it
    ObjectNotExists(Until),
    /// Until HeadBucket finds the bucket
    BucketExists(Until),
    /// Until HeadBucket does not find it
    BucketNotExists(Until),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Until {
    /// s3://bucket or s3://bucket/key, or a path on a mount
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// How often to look [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: Option<u32>,
    /// How long to wait in between [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = crate::cli::mount::time)]
    delay: Option<Duration>,
    #[command(flatten)]
    common: Common,
}

impl Wait {
    pub(super) fn run(&self) -> Result<(), Ending> {
        let (until, object, there) = match self {
            Wait::ObjectExists(until) => (until, true, true),
            Wait::ObjectNotExists(until) => (until, true, false),
            Wait::BucketExists(until) => (until, false, true),
            Wait::BucketNotExists(until) => (until, false, false),
        };
        let place = Place::of(&until.place, &until.common)?;
        if object {
            place.object()?;
        } else {
            place.bucket()?;
        }
        runtime::start()?.block_on(until.watch(&place, there))
    }
}

impl Until {
    async fn watch(&self, place: &Place, there: bool) -> Result<(), Ending> {
        let client = S3Client::connect(&place.config).await.map_err(Failure::new)?;
        let attempts = self.max_attempts.unwrap_or(ATTEMPTS_MAX);
        for attempt in 1..=attempts {
            let seen = look(&client, place).await.map_err(|e| {
                Ending::InVain(Failure::new(format_args!("last seen, at attempt {attempt}: {e}")))
            })?;
            if seen == there {
                return Ok(());
            }
            if attempt < attempts {
                tokio::time::sleep(self.delay.unwrap_or(DELAY)).await;
            }
        }
        let is = if there { "does not exist" } else { "exists" };
        Err(Ending::InVain(Failure::new(format_args!(
            "s3://{}/{} still {is} after {attempts} attempts",
            place.config.bucket, place.key
        ))))
    }
}

/// Whether it is there.
async fn look(client: &S3Client, place: &Place) -> Result<bool, S3Error> {
    let seen = match place.object_or_bucket() {
        Some(object) => client.head_object(object.key).await.map(|_| ()),
        None => client.head_bucket().await,
    };
    match seen {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.kind, S3ErrorKind::NoSuchKey | S3ErrorKind::NoSuchBucket) => Ok(false),
        Err(e) => Err(e),
    }
}
