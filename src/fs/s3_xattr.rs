//! S3's own features as extended attributes `s3.NAME`, of files and of the bucket's root.
//!
//! Owns: which there are, and their forms: what a header holds as it stands, documents as S3 writes them, an object's
//! tags as `KEY=VALUE&KEY=VALUE` with %-escapes (as S3 takes them in a header), an ACL that is set as a canned name, or as
//! `PERMISSION GRANTEE, …; …`, grantees as the aws CLI has them.
//! Invariant: they are never listed.
//! Must never know: how S3 is asked.

use std::ffi::OsStr;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use super::Filesystem;
use crate::config::RESTORE_TIERS;
use crate::error::{Error, S3ErrorKind};
use crate::s3::{
    Acl, Document, ObjectDetails, ObjectHeaders, ObjectId, Permission, Presigned, SSE, SSE_CUSTOMER,
    SSE_KMS_KEY, is_header_value, tags_in, tags_of_text, tags_text,
};

/// How long a presigned URL lasts.
const PRESIGNED_FOR: Duration = Duration::from_secs(3600);
const SETTABLE_HEADERS: [&str; 4] =
    ["cache-control", "content-encoding", "content-disposition", "content-language"];
const CHECKSUM: &str = "x-amz-checksum-";
const ONLY_READ: Error = Error::NotPermitted("it can only be read");

/// Of a version, too, may be asked for, for that changes nothing of it.
pub(super) const RESTORE: &str = "restore";

/// NAME of `s3.NAME`.
pub(super) fn name(full: &OsStr) -> Option<&str> {
    full.to_str()?.strip_prefix("s3.")
}

/// What is a document of the bucket's.
fn document(name: &str) -> Option<Document> {
    Some(match name {
        "acl" => Document::Acl,
        "cors" => Document::Cors,
        "encryption" => Document::Encryption,
        "lifecycle" => Document::Lifecycle,
        "logging" => Document::Logging,
        "notification" => Document::Notification,
        "policy" => Document::Policy,
        "tags" => Document::Tagging,
        "versioning" => Document::Versioning,
        "website" => Document::Website,
        _ => return None,
    })
}

/// S3's limits on the tags of one object, and what tags may be of:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html>. Of what travels with a file it must be known
/// before, lest S3 refuse the file.
pub(super) fn check_tags(tags: &[(String, String)]) -> Result<(), Error> {
    let is_allowed =
        |c: char| c.is_alphanumeric() || c.is_whitespace() && !c.is_control() || "_.:/=+-@".contains(c);
    let fits =
        |text: &str, chars_max: usize| text.chars().count() <= chars_max && text.chars().all(is_allowed);
    let is_one = |(n, (key, value)): (usize, &(String, String))| {
        let again = tags.iter().take(n).any(|(known, _)| known == key);
        !key.is_empty() && !again && !key.starts_with("aws:") && fits(key, 128) && fits(value, 256)
    };
    match tags.len() <= 10 && tags.iter().enumerate().all(is_one) {
        true => Ok(()),
        false => Err(Error::Invalid(
            "an object has at most 10 tags, keys of 1 to 128 characters and values of up to 256, of letters, digits, \
             spaces and _.:/=+-@, no key twice, none that begins with aws:",
        )),
    }
}

impl Filesystem {
    pub(super) async fn get_s3_xattr(&self, ino: u64, name: &str) -> Result<Vec<u8>, Error> {
        if self.buckets.is_some() {
            return Err(Error::NoAttribute); // buckets have them
        }
        let key = self.namespace.key(ino)?;
        match name {
            "bucket" => return Ok(self.client.bucket().into()),
            "key" if !self.namespace.is_past(ino) => return Ok(key.into_bytes()),
            _ => {}
        }
        if ino == self.namespace.root() {
            return match document(name) {
                Some(document) => Ok(self.client.get_document(document, None).await?.into()),
                None if name == "location" => Ok(self.client.get_bucket_location().await?.into_bytes()),
                None => Err(Error::NoAttribute),
            };
        }
        match name {
            "tags" => {
                let pending = self.pending(ino).await?;
                if let Some(tags) = pending.as_ref().and_then(ObjectHeaders::tagging) {
                    return Some(tags.into())
                        .filter(|tags: &Vec<u8>| !tags.is_empty())
                        .ok_or(Error::NoAttribute);
                }
            }
            // No upload brings it along: what was acknowledged is sent first.
            "acl" => self.sent(&key).await?,
            _ => {}
        }
        let located = self.client.locate(&key).await?;
        match self.get_of_object(ino, located.id(), name).await {
            // A directory without a marker, or a file that is being written.
            Err(e)
                if e.s3_kind() == Some(S3ErrorKind::NoSuchKey)
                    && (key.ends_with('/') || self.namespace.is_local(ino)) =>
            {
                Err(Error::NoAttribute)
            }
            told => told,
        }
    }

    async fn get_of_object(&self, ino: u64, object: ObjectId<'_>, name: &str) -> Result<Vec<u8>, Error> {
        match name {
            "key" => Ok(object.key.into()),
            "presigned-url" => {
                Ok(self.client.presign(Presigned::Get, object, PRESIGNED_FOR).await?.into_bytes())
            }
            "acl" => Ok(self.client.get_document(Document::Acl, Some(object)).await?.into()),
            "tags" => {
                let tags = self.client.get_tags(Some(object)).await?;
                if tags.is_empty() { Err(Error::NoAttribute) } else { Ok(tags_text(&tags).into_bytes()) }
            }
            _ => self.get_header(ino, object, name).await,
        }
    }

    async fn get_header(&self, ino: u64, object: ObjectId<'_>, name: &str) -> Result<Vec<u8>, Error> {
        let is_local = self.namespace.is_local(ino);
        let pending = if is_local || is_settable(name) { self.pending(ino).await? } else { None };
        let text = match pending {
            Some(pending) => settable(&pending, name),
            None if is_local => settable(&ObjectHeaders::default(), name),
            None => header(&self.client.head_object_details(object).await?, name),
        };
        text.map(String::into_bytes).ok_or(Error::NoAttribute)
    }

    /// `value`: none removes it.
    pub(super) async fn set_s3_xattr(&self, ino: u64, name: &str, value: Option<&[u8]>) -> Result<(), Error> {
        if self.buckets.is_some() {
            return Err(Error::NotSupported("S3's attributes of an account: buckets have them"));
        }
        let key = self.namespace.key(ino)?;
        match name {
            _ if ino == self.namespace.root() => {}
            "tags" => {
                // Of what was acknowledged, S3 has directories first; files' tags travel.
                if key.ends_with('/') {
                    self.sent(&key).await?;
                }
                return self.tag(ino, &value.map(read_tagging).transpose()?.unwrap_or_default()).await;
            }
            "acl" => {
                self.sent(&key).await?;
                if let Some(writer) = self.handles.writer(ino)
                    && writer.is_dirty().await
                {
                    return Err(Error::Busy("an ACL is the object's in S3, and this file is being written"));
                }
            }
            _ => {}
        }
        let located = self.client.locate(&key).await?;
        let of = (ino != self.namespace.root()).then(|| located.id());
        match (document(name), value) {
            (Some(document), None) if !document.can_be_deleted() => {
                Err(Error::NotPermitted("it can be changed, but not taken away"))
            }
            (Some(Document::Acl), Some(value)) => self.set_acl(of, value).await,
            (Some(document), _) if of.is_none() => match value {
                Some(value) => {
                    Ok(self.client.put_document(document, of, Bytes::copy_from_slice(value)).await?)
                }
                None => Ok(self.client.delete_document(document, of).await?),
            },
            _ if of.is_none() => Err(ONLY_READ),
            (None, Some(value)) if name == RESTORE => self.restore(located.id(), value).await,
            _ => self.set_header(ino, name, value).await,
        }
    }

    /// A canned ACL's name, grants, or a document.
    async fn set_acl(&self, of: Option<ObjectId<'_>>, value: &[u8]) -> Result<(), Error> {
        if value.starts_with(b"<") {
            return Ok(self.client.put_document(Document::Acl, of, Bytes::copy_from_slice(value)).await?);
        }
        let value = text(value)?;
        let acl = read_grants(value).map_or_else(|| Acl::Canned(value.to_owned()), Acl::Grants);
        Ok(self.client.put_acl(&acl, of).await?)
    }

    /// `days=5,tier=Bulk`.
    async fn restore(&self, object: ObjectId<'_>, value: &[u8]) -> Result<(), Error> {
        let (days, tier) = read_restore(text(value)?)?;
        Ok(self.client.restore_object(object, Some(days), tier).await?)
    }

    async fn set_header(&self, ino: u64, name: &str, value: Option<&[u8]>) -> Result<(), Error> {
        let value = value.map(text).transpose()?.map(str::to_owned);
        let name = name.to_owned();
        if !is_settable(&name) {
            return Err(ONLY_READ);
        }
        if value.as_ref().is_some_and(|value| !is_header_value(value)) {
            return Err(Error::Invalid("a header carries printable ASCII without spaces at the ends"));
        }
        self.change_carried(ino, move |headers| {
            match &*name {
                "content-type" => headers.content_type = value,
                "storage-class" => headers.storage_class = value.filter(|class| class != "STANDARD"),
                _ => {
                    headers.headers.retain(|(known, _)| *known != name);
                    headers.headers.extend(value.map(|value| (name, value)));
                }
            }
            Ok(())
        })
        .await
    }
}

fn is_settable(name: &str) -> bool {
    SETTABLE_HEADERS.contains(&name) || ["content-type", "storage-class"].contains(&name)
}

/// Of a file that is not published yet.
fn settable(headers: &ObjectHeaders, name: &str) -> Option<String> {
    match name {
        "content-type" => headers.content_type.clone(),
        "storage-class" => Some(headers.storage_class.clone().unwrap_or_else(|| "STANDARD".into())),
        _ => kept(headers.headers.as_slice(), name),
    }
}

fn kept(headers: &[(String, String)], name: &str) -> Option<String> {
    let kept = headers.iter().find(|(known, _)| known == name && SETTABLE_HEADERS.contains(&name));
    kept.map(|(_, value)| value.clone())
}

fn header(object: &ObjectDetails, name: &str) -> Option<String> {
    let ObjectDetails { head, headers } = object;
    let told = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    match name {
        "etag" => Some(head.etag.clone()),
        "last-modified" => Some(httpdate::fmt_http_date(head.last_modified)),
        "version-id" => head.version_id.clone(),
        "restore" => told("x-amz-restore"),
        "sse" => match (told(SSE), told(SSE_KMS_KEY), told(SSE_CUSTOMER)) {
            (Some(kind), Some(key), _) => Some(format!("{kind} {key}")),
            (None, _, Some(algorithm)) => Some(format!("SSE-C {algorithm}")),
            (kind, ..) => kind,
        },
        "checksum" => checksum(headers),
        "content-type" => head.content_type.clone(),
        "storage-class" => Some(head.storage_class.clone().unwrap_or_else(|| "STANDARD".into())),
        _ => kept(&head.headers, name),
    }
}

/// `crc32c=BASE64`.
fn checksum(headers: &HeaderMap) -> Option<String> {
    headers.iter().find_map(|(name, value)| {
        let algorithm = name.as_str().strip_prefix(CHECKSUM).filter(|name| *name != "type")?;
        Some(format!("{algorithm}={}", value.to_str().ok()?))
    })
}

fn text(value: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(value).map(str::trim).map_err(|_| Error::Invalid("a value that is not UTF-8"))
}

/// What an object is to be tagged with: as text, or as S3's document.
fn read_tagging(value: &[u8]) -> Result<Vec<(String, String)>, Error> {
    match value.starts_with(b"<") {
        true => tags_in(value).map_err(|why| {
            tracing::warn!("no document of tags: {why}");
            Error::Invalid("a document that is none of tags")
        }),
        false => tags_of_text(text(value)?).ok_or(Error::Invalid("tags that are not UTF-8")),
    }
}

/// `FULL_CONTROL id="…"; READ uri="…", id="…"`; none for what is no grants, but a name.
fn read_grants(text: &str) -> Option<Vec<(Permission, String)>> {
    let mut grants: Vec<(Permission, String)> = Vec::new();
    for grant in text.split(';').map(str::trim).filter(|grant| !grant.is_empty()) {
        let (permission, grantees) = grant.split_once(' ')?;
        let permission = Permission::named(permission)?;
        match grants.iter_mut().find(|(known, _)| *known == permission) {
            Some((_, known)) => *known = format!("{known}, {}", grantees.trim()),
            None => grants.push((permission, grantees.trim().to_owned())),
        }
    }
    Some(grants).filter(|grants| !grants.is_empty())
}

fn read_restore(text: &str) -> Result<(u32, Option<&str>), Error> {
    let expected = Error::Invalid("expected days=NUMBER, and tier=Expedited|Standard|Bulk after a comma");
    let (mut days, mut tier) = (None, None);
    for part in text.split(',') {
        match part.trim().split_once('=') {
            Some(("days", number)) => days = number.parse().ok(),
            Some(("tier", name)) if RESTORE_TIERS.contains(&name) => tier = Some(name),
            _ => return Err(expected),
        }
    }
    Ok((days.filter(|days| *days > 0).ok_or(expected)?, tier))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::ObjectHead;

    #[test]
    fn how_an_object_is_encrypted_is_told_of_each_kind() {
        let head = ObjectHead {
            size: 0,
            etag: String::new(),
            last_modified: std::time::SystemTime::UNIX_EPOCH,
            content_type: None,
            storage_class: None,
            version_id: None,
            metadata: Vec::new(),
            headers: Vec::new(),
            tag_count: 0,
        };
        for (told, expected) in [
            (&[][..], None),
            (&[(SSE, "AES256")], Some("AES256")),
            (&[(SSE, "aws:kms"), (SSE_KMS_KEY, "arn:key")], Some("aws:kms arn:key")),
            (&[(SSE_CUSTOMER, "AES256")], Some("SSE-C AES256")),
        ] {
            let headers = told.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let details = ObjectDetails { head: head.clone(), headers: headers.collect() };
            assert_eq!(header(&details, "sse").as_deref(), expected);
        }
    }

    #[test]
    fn grants_name_what_they_allow() {
        use Permission::{FullControl, Read};
        let grants = read_grants("READ uri=\"all\"; FULL_CONTROL id=\"a\", id=\"b\"; READ id=c;").unwrap();
        let expected = [(Read, "uri=\"all\", id=c"), (FullControl, "id=\"a\", id=\"b\"")];
        assert_eq!(grants, expected.map(|(what, who)| (what, who.to_string())));
        for name in ["private", "public-read", "", "LOOK id=a"] {
            assert_eq!(read_grants(name), None, "{name}");
        }
    }

    #[test]
    fn a_restore_names_its_days() {
        assert_eq!(read_restore("days=5,tier=Bulk").unwrap(), (5, Some("Bulk")));
        assert_eq!(read_restore(" days=1 ").unwrap(), (1, None));
        for wrong in ["", "5", "days=0", "days=x", "tier=Bulk", "days=5,colour=red", "days=5,tier=Foo"] {
            assert!(read_restore(wrong).is_err(), "{wrong}");
        }
    }
}
