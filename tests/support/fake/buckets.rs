//! Buckets: whose they are, listed, made and removed.

use std::time::SystemTime;

use super::super::call::Call;
use super::super::xml::{escape, leaf};
use super::answer::{Answer, Refusal};
use super::listing::{iso, number};
use super::store::Bucket;
use super::{REGION, State};

/// Whose a bucket is, for the one who asks here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owner {
    #[default]
    Us,
    /// In no listing, and open to everybody.
    Others,
    /// In no listing, and closed.
    OthersAlone,
}

pub fn denied() -> Refusal {
    Refusal::new(403, "AccessDenied", "Access Denied")
}

pub fn ownership(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    state.bucket(call)?;
    if !state.options.owner_enforced {
        let text = "The bucket ownership controls were not found";
        return Err(Refusal::new(404, "OwnershipControlsNotFoundError", text));
    }
    let rule = format!("<Rule>{}</Rule>", leaf("ObjectOwnership", "BucketOwnerEnforced"));
    Ok(Answer::xml("OwnershipControls", &rule))
}

/// The token is the last name of the page before.
pub fn list(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    if state.options.hides_buckets {
        return Err(denied());
    }
    let max = number(call, "max-buckets", 10_000)?.min(state.options.page_keys_max);
    let (prefix, after) = (call.param("prefix").unwrap_or_default(), call.param("continuation-token"));
    let own = state.buckets.iter().filter(|(name, bucket)| {
        bucket.owner == Owner::Us
            && name.starts_with(prefix)
            && after.is_none_or(|after| name.as_str() > after)
    });
    let mut own = own.peekable();
    let mut out = String::from("<Owner><ID>us</ID></Owner><Buckets>");
    let mut last = None;
    for (name, bucket) in own.by_ref().take(max) {
        let region = escape(&bucket.region);
        out += "<Bucket>";
        out += &leaf("Name", name);
        out += &leaf("CreationDate", &iso(bucket.created));
        out += &format!("<BucketRegion>{region}</BucketRegion></Bucket>");
        last = Some(name);
    }
    out += "</Buckets>";
    if let (Some(last), Some(_)) = (last, own.peek()) {
        out += &leaf("ContinuationToken", last);
    }
    Ok(Answer::xml("ListAllMyBucketsResult", &out))
}

pub fn create(state: &mut State, call: &Call, document: &[u8]) -> Result<Answer, Refusal> {
    let document = String::from_utf8_lossy(document);
    let named = document.split_once("<LocationConstraint>").and_then(|(_, rest)| rest.split_once('<'));
    let region = named.map_or(REGION, |(region, _)| region);
    if let Some(known) = state.buckets.get(&call.bucket) {
        return Err(match known.owner {
            Owner::Us => Refusal::new(409, "BucketAlreadyOwnedByYou", "It is yours already"),
            _ => Refusal::new(409, "BucketAlreadyExists", "The requested bucket name is not available"),
        });
    }
    let mut bucket = Bucket::new(region, state.options.order);
    bucket.created = SystemTime::now();
    state.buckets.insert(call.bucket.clone(), bucket);
    Ok(Answer::empty(200))
}

pub fn delete(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    let may_be_full = state.options.deletes_full_buckets;
    let bucket = state.bucket(call)?;
    if !may_be_full && bucket.keys().next().is_some() {
        return Err(Refusal::new(409, "BucketNotEmpty", "The bucket you tried to delete is not empty"));
    }
    state.buckets.remove(&call.bucket);
    Ok(Answer::empty(204))
}
