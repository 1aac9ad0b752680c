//! `pailfs s3 ls`, `head`, `versions`, `restore`, `storage-class`, `presign`, `uploads`: objects as S3 knows them.
//!
//! Owns: these commands. Invariant: what is listed is shown page by page, but for --json.
//! Must never know: how requests are sent.

use std::ffi::OsString;
use std::time::{Duration, SystemTime};

use aws_types::os_shim_internal::Env;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use http::HeaderMap;
use serde_json::{Map, Value, json};

use super::place::Place;
use super::{Common, Ending, Shown, print, runtime};
use crate::cli::resolve;
use crate::config::RESTORE_TIERS;
use crate::error::{Error, S3Error};
use crate::failure::Failure;
use crate::s3::{
    ListObjectVersions, ListObjectsV2, ListedChecksum, ListedUpload, ListedVersion, ObjectDetails,
    ObjectHeaders, ObjectId, Owner, Presigned, S3Client,
};
use crate::transfer;
use crate::write::upload::{self, Uploads as UploadsWith};

/// List objects: those directly below a prefix, and the prefixes below it
#[derive(Debug, Args)]
#[command(after_help = "\
With --json all that is listed is held in memory until it is printed.")]
pub(in crate::cli) struct Ls {
    /// s3://bucket/prefix (any text, not only up to a slash), or a directory on a mount
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// All keys that begin so, however many slashes follow
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    shown: Shown,
}

impl Ls {
    pub(super) fn run(&self) -> Result<(), Ending> {
        let place = Place::of_listing(&self.place, &self.shown.common)?;
        Ok(runtime::start()?.block_on(self.list(&place))?)
    }

    async fn list(&self, place: &Place) -> Result<(), Failure> {
        let client = S3Client::connect(&place.config).await.map_err(Failure::new)?;
        let mut query = ListObjectsV2 {
            prefix: place.key.clone(),
            delimiter: !self.recursive,
            checksums: self.shown.json,
            ..ListObjectsV2::default()
        };
        let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
        loop {
            let page = client.list_objects_v2(&query).await.map_err(Failure::new)?;
            if self.shown.json {
                prefixes.extend(page.common_prefixes.into_iter().map(|prefix| json!({"Prefix": prefix})));
                contents.extend(page.contents.into_iter().map(|object| {
                    let mut members = json!({
                        "Key": object.key,
                        "LastModified": print::timestamp(object.last_modified),
                        "ETag": object.etag,
                        "Size": object.size,
                        "StorageClass": object.storage_class.as_deref().unwrap_or("STANDARD"),
                    });
                    tell_checksum(&mut members, object.checksum.as_deref());
                    members
                }));
            } else {
                let mut lines = String::new();
                for prefix in &page.common_prefixes {
                    lines.push_str(&format!("{:25}  {:>15}  {}\n", "", "PRE", print::plain(prefix)));
                }
                for object in &page.contents {
                    let (time, key) = (print::timestamp(object.last_modified), print::plain(&object.key));
                    lines.push_str(&format!("{time}  {:15}  {key}\n", object.size));
                }
                print::write(lines.as_bytes())?;
            }
            query.continuation_token = page.next_continuation_token;
            if query.continuation_token.is_none() {
                break;
            }
        }
        if self.shown.json {
            let lists = [("Contents", contents), ("CommonPrefixes", prefixes)];
            return print::show(&without_empty(lists), true);
        }
        Ok(())
    }
}

fn tell_checksum(members: &mut Value, checksum: Option<&ListedChecksum>) {
    let Some(ListedChecksum { algorithms, kind }) = checksum else { return };
    members["ChecksumAlgorithm"] = algorithms.clone().into();
    if let Some(kind) = kind {
        members["ChecksumType"] = kind.clone().into();
    }
}

pub(super) fn as_owner(owner: &Owner) -> Value {
    let members = [("DisplayName", &owner.display_name), ("ID", &owner.id)];
    let told = members.into_iter().filter_map(|(name, told)| Some((name.to_string(), told.clone()?.into())));
    Value::Object(told.collect())
}

/// As the aws CLI has it, a list of nothing is not there.
fn without_empty<const N: usize>(lists: [(&str, Vec<Value>); N]) -> Value {
    let lists = lists.into_iter().filter(|(_, items)| !items.is_empty());
    Value::Object(lists.map(|(name, items)| (name.to_string(), Value::from(items))).collect())
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ObjectArgs {
    /// A path on a mount, or s3://bucket/key
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// One of its versions [default: the current one]
    #[arg(long, value_name = "ID")]
    version_id: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl ObjectArgs {
    fn place(&self) -> Result<Place, Failure> {
        let place = Place::of(&self.place, &self.common)?;
        place.object()?;
        Ok(place)
    }

    fn object<'a>(&'a self, place: &'a Place) -> ObjectId<'a> {
        ObjectId { key: &place.key, version_id: self.version_id.as_deref() }
    }

    fn head(&self) -> Result<ObjectDetails, Failure> {
        let place = self.place()?;
        let object = self.object(&place);
        self.common.ask(&place, async |client| client.head_object_details(object).await)
    }
}

/// All that S3 tells of an object without its bytes
#[derive(Debug, Args)]
pub(in crate::cli) struct Head {
    #[command(flatten)]
    object: ObjectArgs,
    /// Print JSON, as the aws CLI does
    #[arg(long)]
    json: bool,
}

impl Head {
    pub(super) fn run(&self) -> Result<(), Ending> {
        Ok(print::show(&as_json(&self.object.head()?), self.json)?)
    }
}

/// What the aws CLI calls these headers.
const HEADERS: [(&str, &str); 33] = [
    ("accept-ranges", "AcceptRanges"),
    ("x-amz-expiration", "Expiration"),
    ("x-amz-restore", "Restore"),
    ("x-amz-archive-status", "ArchiveStatus"),
    ("etag", "ETag"),
    ("x-amz-checksum-crc32", "ChecksumCRC32"),
    ("x-amz-checksum-crc32c", "ChecksumCRC32C"),
    ("x-amz-checksum-crc64nvme", "ChecksumCRC64NVME"),
    ("x-amz-checksum-sha1", "ChecksumSHA1"),
    ("x-amz-checksum-sha256", "ChecksumSHA256"),
    ("x-amz-checksum-type", "ChecksumType"),
    ("x-amz-version-id", "VersionId"),
    ("cache-control", "CacheControl"),
    ("content-disposition", "ContentDisposition"),
    ("content-encoding", "ContentEncoding"),
    ("content-language", "ContentLanguage"),
    ("content-type", "ContentType"),
    ("expires", "ExpiresString"),
    ("x-amz-server-side-encryption", "ServerSideEncryption"),
    ("x-amz-server-side-encryption-aws-kms-key-id", "SSEKMSKeyId"),
    ("x-amz-server-side-encryption-customer-algorithm", "SSECustomerAlgorithm"),
    ("x-amz-storage-class", "StorageClass"),
    ("x-amz-server-side-encryption-customer-key-md5", "SSECustomerKeyMD5"),
    ("x-amz-server-side-encryption-bucket-key-enabled", "BucketKeyEnabled"),
    ("x-amz-website-redirect-location", "WebsiteRedirectLocation"),
    ("x-amz-replication-status", "ReplicationStatus"),
    ("x-amz-request-charged", "RequestCharged"),
    ("x-amz-missing-meta", "MissingMeta"),
    ("x-amz-mp-parts-count", "PartsCount"),
    ("x-amz-tagging-count", "TagCount"),
    ("x-amz-object-lock-mode", "ObjectLockMode"),
    ("x-amz-object-lock-retain-until-date", "ObjectLockRetainUntilDate"),
    ("x-amz-object-lock-legal-hold", "ObjectLockLegalHoldStatus"),
];

fn as_json(details: &ObjectDetails) -> Value {
    let mut told = Map::new();
    told.insert("LastModified".to_string(), print::timestamp(details.head.last_modified).into());
    told.insert("ContentLength".to_string(), details.head.size.into());
    for (header, name) in HEADERS {
        if let Some(text) = header_text(&details.headers, header) {
            let value = match name {
                "MissingMeta" | "PartsCount" | "TagCount" => {
                    text.parse::<u64>().map_or_else(|_| text.into(), Value::from)
                }
                "BucketKeyEnabled" => Value::Bool(text == "true"),
                _ => text.into(),
            };
            told.insert(name.to_string(), value);
        }
    }
    let metadata = details.head.metadata.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
    told.insert("Metadata".to_string(), Value::Object(metadata.collect()));
    Value::Object(told)
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Old versions of objects, and delete markers
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Versions {
    /// Those of an object, or of all below a directory or prefix
    List(ListVersions),
    /// Delete one for good; of a delete marker: the object is back
    Delete(DeleteVersion),
}

#[derive(Debug, Args)]
#[command(after_help = "\
With --json all that is listed is held in memory until it is printed.")]
pub(in crate::cli) struct ListVersions {
    /// A path on a mount, s3://bucket/key or s3://bucket/prefix/
    #[arg(value_name = "PLACE")]
    place: OsString,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DeleteVersion {
    /// A path on a mount, or s3://bucket/key
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// As `versions list` tells it
    #[arg(value_name = "VERSION_ID")]
    version_id: String,
    #[command(flatten)]
    common: Common,
}

impl Versions {
    pub(super) fn run(&self) -> Result<(), Ending> {
        match self {
            Versions::List(args) => {
                let place = Place::of(&args.place, &args.shown.common)?;
                Ok(runtime::start()?.block_on(args.list(&place))?)
            }
            Versions::Delete(args) => {
                let place = Place::of(&args.place, &args.common)?;
                let object = ObjectId { version_id: Some(&args.version_id), ..place.object()? };
                args.common.act(&place, async |client| client.delete_object_version(object).await)
            }
        }
    }
}

impl ListVersions {
    async fn list(&self, place: &Place) -> Result<(), Failure> {
        let client = S3Client::connect(&place.config).await.map_err(Failure::new)?;
        let mut query = ListObjectVersions { prefix: place.key.clone(), ..ListObjectVersions::default() };
        let one = !place.key.is_empty() && !place.key.ends_with('/');
        let (mut objects, mut markers) = (Vec::new(), Vec::new());
        loop {
            let page = client.list_object_versions(&query).await.map_err(Failure::new)?;
            let wanted = page.versions.into_iter().filter(|version| !one || version.key == place.key);
            if self.shown.json {
                for version in wanted {
                    let list = if version.object.is_some() { &mut objects } else { &mut markers };
                    list.push(version_as_json(&version));
                }
            } else {
                let lines: String = wanted.map(|version| version_line(&version)).collect();
                print::write(lines.as_bytes())?;
            }
            // All keys that are greater than the one that was asked for are another's.
            query.after = page.next.filter(|(key, _)| !one || *key <= place.key);
            if query.after.is_none() {
                break;
            }
        }
        if self.shown.json {
            return print::show(&without_empty([("Versions", objects), ("DeleteMarkers", markers)]), true);
        }
        Ok(())
    }
}

fn version_as_json(version: &ListedVersion) -> Value {
    let mut told = Map::new();
    if let Some(object) = &version.object {
        told.insert("ETag".to_string(), object.etag.as_str().into());
        told.insert("Size".to_string(), object.size.into());
        let class = object.storage_class.as_deref().unwrap_or("STANDARD");
        told.insert("StorageClass".to_string(), class.into());
    }
    told.insert("Key".to_string(), version.key.as_str().into());
    told.insert("VersionId".to_string(), version.version_id.as_str().into());
    told.insert("IsLatest".to_string(), version.is_latest.into());
    told.insert("LastModified".to_string(), print::timestamp(version.last_modified).into());
    if let Some(owner) = &version.owner {
        told.insert("Owner".to_string(), as_owner(owner));
    }
    let mut told = Value::Object(told);
    tell_checksum(&mut told, version.object.as_ref().and_then(|object| object.checksum.as_deref()));
    told
}

fn version_line(version: &ListedVersion) -> String {
    let what = version.object.as_ref().map_or("deleted".to_string(), |object| object.size.to_string());
    let latest = if version.is_latest { "latest" } else { "" };
    let (time, key) = (print::timestamp(version.last_modified), print::plain(&version.key));
    format!("{time}  {what:>15}  {latest:6}  {}  {key}\n", print::plain(&version.version_id))
}

/// Archived objects: whether they are restored, and asking for it
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Restore {
    /// Its storage class, and whether it is restored or that is under way
    Get(Head),
    /// Ask for a copy that can be read
    Set(SetRestore),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SetRestore {
    #[command(flatten)]
    object: ObjectArgs,
    /// How long the copy lasts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
    /// How quickly [default: S3's, Standard]
    #[arg(long, value_parser = PossibleValuesParser::new(RESTORE_TIERS))]
    tier: Option<String>,
}

impl Restore {
    pub(super) fn run(&self) -> Result<(), Ending> {
        match self {
            Restore::Get(args) => {
                let details = args.object.head()?;
                let class = details.head.storage_class.as_deref().unwrap_or("STANDARD");
                let mut kept = json!({"StorageClass": class});
                let told = as_json(&details);
                for name in ["ArchiveStatus", "Restore"] {
                    if let Some(value) = told.get(name) {
                        kept[name] = value.clone();
                    }
                }
                Ok(print::show(&kept, args.json)?)
            }
            Restore::Set(SetRestore { object: args, days, tier }) => {
                let place = args.place()?;
                let object = args.object(&place);
                args.common.act(&place, async |client| {
                    client.restore_object(object, Some(*days), tier.as_deref()).await
                })
            }
        }
    }
}

/// Where S3 keeps an object
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum StorageClass {
    /// Show it
    Get(Head),
    /// Change it: S3 copies the object onto itself
    ///
    /// Metadata, headers and tags stay, and the ACL, if it can be read.
    Set(SetStorageClass),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SetStorageClass {
    /// A path on a mount, or s3://bucket/key
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// STANDARD, STANDARD_IA, INTELLIGENT_TIERING, GLACIER, DEEP_ARCHIVE, ...
    #[arg(value_name = "CLASS")]
    class: String,
    #[command(flatten)]
    common: Common,
}

impl StorageClass {
    pub(super) fn run(&self) -> Result<(), Ending> {
        match self {
            StorageClass::Get(args) => {
                let class = args.object.head()?.head.storage_class;
                let told = json!({"StorageClass": class.as_deref().unwrap_or("STANDARD")});
                Ok(print::show(&told, args.json)?)
            }
            StorageClass::Set(args) => {
                let place = Place::of(&args.place, &args.common)?;
                place.object()?;
                place.check_writable()?;
                let staging = resolve::staging_dir(None, &Env::real())?;
                let copied = runtime::start()?.block_on(async {
                    let client = S3Client::connect(&place.config).await?;
                    let uploads = transfer::uploads(client, &staging, &place.config);
                    set_storage_class(&uploads, &place.key, &args.class).await
                });
                Ok(copied.map_err(Failure::new)?)
            }
        }
    }
}

async fn set_storage_class(uploads: &UploadsWith, key: &str, class: &str) -> Result<(), Error> {
    let client = &uploads.client;
    let head = client.head_object(key).await?;
    let object = ObjectId::current(key);
    let acl = client.acl_to_keep(object).await?;
    // Headers and all: SeaweedFS takes no copy of an object onto itself that leaves them as they are.
    let headers =
        ObjectHeaders { storage_class: Some(class.to_string()), ..ObjectHeaders::from(head.clone()) };
    upload::copy(uploads, key, &head, key, Some(&headers)).await?;
    Ok(client.put_acl_again(object, acl).await?)
}

/// A URL with which anybody may read, write or delete an object for a while
#[derive(Debug, Args)]
pub(in crate::cli) struct Presign {
    #[command(flatten)]
    object: ObjectArgs,
    /// How long it can be used, at most 7d [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = crate::cli::mount::time)]
    expires: Option<Duration>,
    /// What it is for [default: get]
    #[arg(long)]
    method: Option<Method>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Method {
    Get,
    Put,
    Delete,
}

const PRESIGN_EXPIRES: Duration = Duration::from_secs(60 * 60);

impl Presign {
    pub(super) fn run(&self) -> Result<(), Ending> {
        let place = self.object.place()?;
        let object = self.object.object(&place);
        let what = match self.method {
            None | Some(Method::Get) => Presigned::Get,
            Some(Method::Put) => Presigned::Put,
            Some(Method::Delete) => Presigned::Delete,
        };
        let expires = self.expires.unwrap_or(PRESIGN_EXPIRES);
        let url = self.object.common.ask(&place, async |client| {
            // The signature names the region.
            if place.config.region.is_none() {
                client.head_bucket().await?;
            }
            client.presign(what, object, expires).await
        })?;
        Ok(print::write(format!("{url}\n").as_bytes())?)
    }
}

/// Multipart uploads that were begun and never ended, and whose parts are paid for
#[derive(Debug, Args)]
pub(in crate::cli) struct Uploads {
    /// s3://bucket/prefix, or a path on a mount
    #[arg(value_name = "PLACE")]
    place: OsString,
    /// Abort those that are listed
    #[arg(long)]
    abort: bool,
    /// Only those begun longer ago than this, such as 7d
    #[arg(long, value_name = "TIME", value_parser = crate::cli::mount::time)]
    older_than: Option<Duration>,
    #[command(flatten)]
    shown: Shown,
}

impl Uploads {
    pub(super) fn run(&self) -> Result<(), Ending> {
        let place = Place::of(&self.place, &self.shown.common)?;
        if self.abort {
            place.check_writable()?;
        }
        self.shown.ask(&place, async |client| {
            let uploads = self.list(&client, &place.key).await?;
            let mut told = Vec::new();
            for upload in uploads {
                if self.abort {
                    client.abort_multipart_upload(&upload.key, &upload.upload_id).await?;
                }
                let mut members = json!({
                    "UploadId": upload.upload_id,
                    "Key": upload.key,
                    "Initiated": print::timestamp(upload.initiated),
                });
                for (name, told) in [
                    ("StorageClass", upload.storage_class),
                    ("ChecksumAlgorithm", upload.checksum_algorithm),
                    ("ChecksumType", upload.checksum_type),
                ] {
                    if let Some(told) = told {
                        members[name] = told.into();
                    }
                }
                for (name, who) in [("Owner", upload.owner), ("Initiator", upload.initiator)] {
                    if let Some(who) = who {
                        members[name] = as_owner(&who);
                    }
                }
                told.push(members);
            }
            Ok(without_empty([(if self.abort { "Aborted" } else { "Uploads" }, told)]))
        })
    }

    async fn list(&self, client: &S3Client, prefix: &str) -> Result<Vec<ListedUpload>, S3Error> {
        let now = SystemTime::now();
        let is_old = |upload: &ListedUpload| {
            let age = now.duration_since(upload.initiated).unwrap_or_default();
            self.older_than.is_none_or(|least| age >= least)
        };
        let mut uploads = Vec::new();
        let mut after: Option<(String, String)> = None;
        loop {
            let marker = after.as_ref().map(|(key, id)| (key.as_str(), id.as_str()));
            let page = client.list_multipart_uploads(prefix, marker).await?;
            uploads.extend(page.uploads.into_iter().filter(is_old));
            after = page.next;
            if after.is_none() {
                return Ok(uploads);
            }
        }
    }
}
