//! Buckets: HeadBucket, ListBuckets, CreateBucket, DeleteBucket, GetBucketLocation.
//!
//! Owns: these operations; HeadBucket is the first request of a mount, and its error is what a person reads when the
//! mount does not work.
//! Invariant: a bucket that holds anything is not deleted, whatever the server would do.
//! Must never know: what the bucket holds.

use http::Method;

use super::object::parse_timestamp;
use super::xml::{self, Element};
use super::{
    ListBucketsPage, ListObjectVersions, ListObjectsV2, ListPage, ListedBucket, Owner, R, S3Client, call,
    set_document,
};
use crate::aws::retry::{Effort, Failure};
use crate::error::S3ErrorKind;

/// AWS's oldest region: the one that must not be named when a bucket is made, and is not when it is asked for.
pub const REGION_UNNAMED: &str = "us-east-1";

/// A person waits: a server that is not there is told of in a second, not after the full round of tries.
const TRIES_MAX: u32 = 3;

impl S3Client {
    /// Whether the bucket is there and may be used. Learns the bucket's region where it is not the one
    /// configured, or none is: any answer of AWS's tells it, whoever asks.
    ///
    /// # Errors
    /// `NoSuchBucket`, `AccessDenied`, `WrongRegion`, `NoCredentials`, `Unavailable`.
    pub async fn head_bucket(&self) -> R<()> {
        let call = call("HeadBucket", Method::HEAD, None);
        let mut effort = Effort::with_tries(self.wire().effort().timeout(), TRIES_MAX);
        let refusal = match self.wire().send(&call, &mut effort).await {
            Ok(_) => return Ok(()),
            Err(e) => e,
        };
        match refusal.kind {
            S3ErrorKind::NoSuchKey | S3ErrorKind::NoSuchBucket => Err(crate::error::S3Error {
                kind: S3ErrorKind::NoSuchBucket,
                message: "no such bucket".to_string(),
                ..refusal
            }),
            // An answer to HEAD has no text; the same question by GET has, and the same rights are needed.
            S3ErrorKind::AccessDenied | S3ErrorKind::Refused if refusal.status.is_some() => {
                let told = self.list_nothing(&mut effort).await.err();
                Err(told.unwrap_or(refusal))
            }
            _ => Err(refusal),
        }
    }

    async fn list_nothing(&self, effort: &mut Effort) -> R<()> {
        let mut call = call("HeadBucket", Method::GET, None);
        call.query.push(("list-type", "2".into()));
        call.query.push(("max-keys", "1".into()));
        self.wire().send(&call, effort).await.map(|_| ())
    }

    /// The buckets of whoever asks, by name. `prefix`: those whose names begin so, where the server knows to choose.
    /// `continuation_token`: of the page before.
    pub async fn list_buckets(&self, prefix: &str, continuation_token: Option<&str>) -> R<ListBucketsPage> {
        let service = self.beside("")?;
        let mut call = call("ListBuckets", Method::GET, None);
        if !prefix.is_empty() {
            call.query.push(("prefix", prefix.into()));
        }
        if let Some(token) = continuation_token {
            call.query.push(("continuation-token", token.into()));
        }
        let (answer, effort) = service.send(&call).await?;
        let root = service.document(&call, &effort, &answer, "ListAllMyBucketsResult")?;
        let page = read_buckets(&root, continuation_token);
        page.map_err(|why| service.malformed(&call, &effort, why))
    }

    /// Makes this client's bucket, in the client's region.
    ///
    /// # Errors
    /// `BucketExists`, also where it is one's own.
    pub async fn create_bucket(&self) -> R<()> {
        let mut call = call("CreateBucket", Method::PUT, None);
        let region = self.wire().region();
        if *region != *REGION_UNNAMED {
            let document = format!(
                "<CreateBucketConfiguration xmlns=\"{}\"><LocationConstraint>{}</LocationConstraint>\
                 </CreateBucketConfiguration>",
                xml::NAMESPACE,
                xml::escape(&region)
            );
            set_document(&mut call, document).await;
        }
        let mut effort = self.wire().effort();
        match self.unaccelerated().wire().send(&call, &mut effort).await {
            Err(e) if !(effort.in_doubt && e.code.as_deref() == Some("BucketAlreadyOwnedByYou")) => Err(e),
            _ => Ok(()),
        }
    }

    /// Deletes this client's bucket, if it is empty: asked first, for some servers delete all that is in it.
    ///
    /// # Errors
    /// `BucketNotEmpty`, also where it holds nothing but old versions and delete markers, or uploads under way.
    pub async fn delete_bucket(&self) -> R<()> {
        let call = call("DeleteBucket", Method::DELETE, None);
        let mut effort = self.wire().effort();
        if let Some(what) = self.holds().await? {
            let failure = Failure::local(S3ErrorKind::BucketNotEmpty, what);
            return Err(self.wire().error(&call, &effort, failure));
        }
        match self.unaccelerated().wire().send(&call, &mut effort).await {
            Err(e) if !(effort.in_doubt && e.kind == S3ErrorKind::NoSuchBucket) => Err(e),
            _ => Ok(()),
        }
    }

    /// What is in the bucket, in words. None: nothing.
    async fn holds(&self) -> R<Option<&'static str>> {
        let query = ListObjectVersions { max_keys: Some(1), ..ListObjectVersions::default() };
        // Not every server knows versions, and who may list objects need not be allowed to list versions.
        if let Ok(page) = self.list_object_versions(&query).await
            && !page.versions.is_empty()
        {
            return Ok(Some("the bucket is not empty: it holds objects, or versions of them"));
        }
        let query = ListObjectsV2 { max_keys: Some(1), ..ListObjectsV2::default() };
        if self.any_page(query, ListPage::has_keys).await? {
            return Ok(Some("the bucket is not empty"));
        }
        // Somebody is about to make an object, or was; S3 itself refuses for directory buckets only. As for versions.
        let uploads = self.list_multipart_uploads("", None).await;
        let any = uploads.is_ok_and(|page| !page.uploads.is_empty());
        Ok(any.then_some("uploads are under way in the bucket: `pailfs s3 uploads` lists and ends them"))
    }

    /// The region of this client's bucket.
    pub async fn get_bucket_location(&self) -> R<String> {
        let mut call = call("GetBucketLocation", Method::GET, None);
        call.query.push(("location", "".into()));
        let (answer, effort) = self.send(&call).await?;
        // SeaweedFS wraps it in the document of CreateBucket.
        let wrapped = |e| {
            let root = self.document(&call, &effort, &answer, "CreateBucketConfiguration");
            root.map(|root| root.child("LocationConstraint").cloned().unwrap_or_default()).map_err(|_| e)
        };
        let root = self.document(&call, &effort, &answer, "LocationConstraint").or_else(wrapped)?;
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetBucketLocation.html
        Ok(match root.text.trim() {
            "" => REGION_UNNAMED.to_string(),
            "EU" => "eu-west-1".to_string(),
            region => region.to_string(),
        })
    }
}

fn read_buckets(root: &Element, sent: Option<&str>) -> Result<ListBucketsPage, &'static str> {
    let mut page = ListBucketsPage { owner: Owner::within(root, "Owner"), ..ListBucketsPage::default() };
    for bucket in root.child("Buckets").into_iter().flat_map(|buckets| buckets.children("Bucket")) {
        let name = bucket.text_of("Name").filter(|name| !name.is_empty());
        let created = bucket.text_of("CreationDate").and_then(parse_timestamp);
        page.buckets.push(ListedBucket {
            name: name.ok_or("a bucket without Name")?.to_string(),
            created: created.ok_or("a bucket without CreationDate")?,
        });
    }
    let next = root.text_of("ContinuationToken").filter(|token| !token.is_empty());
    if next.is_some() && next == sent {
        return Err("the page leads to itself");
    }
    page.next_continuation_token = next.map(String::from);
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_buckets_lead_on() {
        let root = xml::parse(
            b"<r><Buckets><Bucket><Name>a</Name><CreationDate>2024-01-02T03:04:05.000Z</CreationDate></Bucket>\
            </Buckets><ContinuationToken>t</ContinuationToken></r>",
        )
        .unwrap();
        let page = read_buckets(&root, None).unwrap();
        assert_eq!(page.buckets[0].name, "a");
        assert_eq!(page.next_continuation_token.as_deref(), Some("t"));
        assert!(read_buckets(&root, Some("t")).is_err());
        assert!(read_buckets(&xml::parse(b"<r><Buckets><Bucket/></Buckets></r>").unwrap(), None).is_err());
    }
}
