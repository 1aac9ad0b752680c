//! The documents S3 keeps beside a bucket or object: ACL, tags, CORS, lifecycle, policy and their like.
//!
//! Owns: [`Document`], and for each the names of its operations; ACLs given by name or by grants; tags.
//! Invariants: a document goes to S3 and comes back byte for byte, and S3 is the judge of what it says; what is none at all
//! is not sent, for servers take it for an empty one, or fail on it; what is answered is the document that was asked for;
//! no server is asked to delete a document that it does not show.
//! Must never know: what a document means (but tags), how people write it.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::xml::{self, Element};
use super::{ObjectHead, ObjectHeaders, ObjectId, R, S3Client, call, call_on, payload, set_document};
use crate::aws::retry::Call;
use crate::config::CANNED_ACLS;
use crate::error::{S3Error, S3ErrorKind};

/// What need not be escaped in a tag.
const TAG: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/').remove(b':');

/// A document in S3's own form: XML, but for the policy, which is JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// Of a bucket or object.
    Acl,
    Cors,
    Encryption,
    Lifecycle,
    Logging,
    Notification,
    Policy,
    /// Of a bucket or object.
    Tagging,
    Versioning,
    Website,
}

/// How a document is asked for and changed.
struct Operations {
    query: &'static str,
    get: &'static str,
    put: &'static str,
    delete: Delete,
}

enum Delete {
    By(&'static str),
    /// An empty one is none.
    PutEmpty,
    /// There always is one.
    Never,
}

impl Document {
    /// None: the document is not XML.
    pub fn root(self) -> Option<&'static str> {
        Some(match self {
            Document::Acl => "AccessControlPolicy",
            Document::Cors => "CORSConfiguration",
            Document::Encryption => "ServerSideEncryptionConfiguration",
            Document::Lifecycle => "LifecycleConfiguration",
            Document::Logging => "BucketLoggingStatus",
            Document::Notification => "NotificationConfiguration",
            Document::Policy => return None,
            Document::Tagging => "Tagging",
            Document::Versioning => "VersioningConfiguration",
            Document::Website => "WebsiteConfiguration",
        })
    }

    /// Errors: why it is no such document, whatever it says.
    fn check_form(self, body: &[u8]) -> Result<(), String> {
        match self.root() {
            Some(root) => xml::parse_root(body, root).map(|_| ()).map_err(|e| e.to_string()),
            None => serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body)
                .map(|_| ())
                .map_err(|e| format!("not a JSON object: {e}")),
        }
    }

    /// Else there always is one, and it is changed.
    pub fn can_be_deleted(self) -> bool {
        !matches!(self.of_buckets().delete, Delete::Never)
    }

    /// None: objects have no such document.
    fn of_objects(self) -> Option<Operations> {
        let of = |query, get, put, delete| Some(Operations { query, get, put, delete });
        match self {
            Document::Acl => of("acl", "GetObjectAcl", "PutObjectAcl", Delete::Never),
            Document::Tagging => {
                let delete = Delete::By("DeleteObjectTagging");
                of("tagging", "GetObjectTagging", "PutObjectTagging", delete)
            }
            _ => None,
        }
    }

    fn of_buckets(self) -> Operations {
        use Delete::{By, Never, PutEmpty};
        let (query, get, put, delete) = match self {
            Document::Acl => ("acl", "GetBucketAcl", "PutBucketAcl", Never),
            Document::Cors => ("cors", "GetBucketCors", "PutBucketCors", By("DeleteBucketCors")),
            Document::Encryption => {
                ("encryption", "GetBucketEncryption", "PutBucketEncryption", By("DeleteBucketEncryption"))
            }
            Document::Lifecycle => (
                "lifecycle",
                "GetBucketLifecycleConfiguration",
                "PutBucketLifecycleConfiguration",
                By("DeleteBucketLifecycle"),
            ),
            Document::Logging => ("logging", "GetBucketLogging", "PutBucketLogging", PutEmpty),
            Document::Notification => (
                "notification",
                "GetBucketNotificationConfiguration",
                "PutBucketNotificationConfiguration",
                PutEmpty,
            ),
            Document::Policy => ("policy", "GetBucketPolicy", "PutBucketPolicy", By("DeleteBucketPolicy")),
            Document::Tagging => {
                ("tagging", "GetBucketTagging", "PutBucketTagging", By("DeleteBucketTagging"))
            }
            Document::Versioning => ("versioning", "GetBucketVersioning", "PutBucketVersioning", Never),
            Document::Website => {
                ("website", "GetBucketWebsite", "PutBucketWebsite", By("DeleteBucketWebsite"))
            }
        };
        Operations { query, get, put, delete }
    }
}

/// An ACL that is not written out as a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acl {
    /// One of [`CANNED_ACLS`].
    Canned(String),
    /// To whom what is allowed: `id=…`, `uri=…`, `emailAddress=…`, several parted by commas.
    Grants(Vec<(Permission, String)>),
}

impl Acl {
    /// Servers take what they do not know for an ACL that allows nothing, or fail on it. Errors: what was expected.
    fn check(&self) -> Result<(), String> {
        match self {
            Acl::Canned(name) if CANNED_ACLS.contains(&name.as_str()) => Ok(()),
            Acl::Canned(name) => {
                let (name, known) = (name.escape_debug(), CANNED_ACLS.join(", "));
                Err(format!("`{name}` is no canned ACL: expected one of {known}, or grants"))
            }
            Acl::Grants(grants) => match grants.iter().find(|(_, grantees)| !are_grantees(grantees)) {
                None => Ok(()),
                Some((_, wrong)) => Err(format!(
                    "`{}` names nobody: expected id=\"…\", uri=\"…\" or emailAddress=\"…\", several parted by commas",
                    wrong.escape_debug()
                )),
            },
        }
    }
}

fn are_grantees(text: &str) -> bool {
    text.split(',').all(|grantee| {
        let (kind, who) = grantee.trim().split_once('=').unwrap_or_default();
        matches!(kind, "id" | "uri" | "emailAddress") && !who.trim_matches('"').is_empty()
    })
}

/// What an ACL can allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    Read,
    Write,
    ReadAcp,
    WriteAcp,
    FullControl,
}

impl Permission {
    /// As documents and the aws CLI name it.
    pub fn named(name: &str) -> Option<Permission> {
        Some(match name {
            "READ" => Permission::Read,
            "WRITE" => Permission::Write,
            "READ_ACP" => Permission::ReadAcp,
            "WRITE_ACP" => Permission::WriteAcp,
            "FULL_CONTROL" => Permission::FullControl,
            _ => return None,
        })
    }

    fn header(self) -> &'static str {
        match self {
            Permission::Read => "x-amz-grant-read",
            Permission::Write => "x-amz-grant-write",
            Permission::ReadAcp => "x-amz-grant-read-acp",
            Permission::WriteAcp => "x-amz-grant-write-acp",
            Permission::FullControl => "x-amz-grant-full-control",
        }
    }
}

impl S3Client {
    /// The document of the object; none: of the bucket.
    ///
    /// # Errors
    /// `NotSet`, if there is none.
    pub async fn get_document(&self, document: Document, of: Option<ObjectId<'_>>) -> R<Bytes> {
        let operations = self.operations(document, of)?;
        let mut call = call_on(operations.get, Method::GET, of);
        call.query.push((operations.query, "".into()));
        let (answer, effort) = self.send(&call).await?;
        if let Some(root) = document.root() {
            let told = xml::parse(&answer.body).map_err(|e| self.malformed(&call, &effort, e.to_string()))?;
            // moto names some roots after the operation.
            if told.name != root && !(told.name.starts_with("GetBucket") && told.name.ends_with("Response")) {
                let why = format!("expected {root}, found {}", told.name);
                return Err(self.malformed(&call, &effort, why));
            }
        }
        Ok(answer.body)
    }

    /// Puts a document in place of the one there is.
    ///
    /// # Errors
    /// `BadDocument`, with what S3 says of it, or what is wrong with its form.
    pub async fn put_document(&self, document: Document, of: Option<ObjectId<'_>>, body: Bytes) -> R<()> {
        let operations = self.operations(document, of)?;
        let mut call = call_on(operations.put, Method::PUT, of);
        call.query.push((operations.query, "".into()));
        document.check_form(&body).map_err(|why| self.bad_document(&call, why))?;
        let md5 = payload::content_md5(&body);
        self.set_header(&mut call, "content-md5", &md5)?;
        set_document(&mut call, body).await;
        if document == Document::Policy {
            call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.put_checked(&call).await
    }

    /// What is not there is a success, as S3 has it. It is looked at first, so one must be allowed to.
    ///
    /// # Errors
    /// `Refused`, if there always is one (ACL, versioning).
    pub async fn delete_document(&self, document: Document, of: Option<ObjectId<'_>>) -> R<()> {
        let operations = self.operations(document, of)?;
        match (operations.delete, document.root()) {
            (Delete::By(operation), _) => {
                // SeaweedFS takes a DELETE that it does not know for DeleteBucket, and all that is in the bucket is
                // gone: nothing is sent where there is nothing to delete, so that it must know the document.
                match self.get_document(document, of).await {
                    Err(e) if e.kind == S3ErrorKind::NotSet => return Ok(()),
                    asked => asked?,
                };
                let mut call = call_on(operation, Method::DELETE, of);
                call.query.push((operations.query, "".into()));
                match self.send(&call).await {
                    Err(e) if e.kind != S3ErrorKind::NotSet => Err(e),
                    _ => Ok(()),
                }
            }
            (Delete::PutEmpty, Some(root)) => {
                let empty = format!("<{root} xmlns=\"{}\"/>", xml::NAMESPACE);
                self.put_document(document, of, Bytes::from(empty)).await
            }
            (Delete::PutEmpty | Delete::Never, _) => {
                let call = call_on(operations.put, Method::PUT, of);
                Err(self.refused(&call, "it can be changed, but not taken away"))
            }
        }
    }

    /// An ACL by its name, or by whom it allows what.
    ///
    /// # Errors
    /// `BadDocument`, with what S3 says of it, or what is wrong with its form.
    pub async fn put_acl(&self, acl: &Acl, of: Option<ObjectId<'_>>) -> R<()> {
        let operations = self.operations(Document::Acl, of)?;
        let mut call = call_on(operations.put, Method::PUT, of);
        acl.check().map_err(|why| self.bad_document(&call, why))?;
        call.query.push((operations.query, "".into()));
        match acl {
            Acl::Canned(name) => self.set_header(&mut call, "x-amz-acl", name)?,
            Acl::Grants(grants) => {
                for (permission, grantees) in grants {
                    self.set_header(&mut call, permission.header(), grantees)?;
                }
            }
        }
        self.put_checked(&call).await
    }

    /// The ACL of an object that is about to be copied or put again, which takes it away: none where S3 gives the copy the
    /// same, or does not tell (there is no such object, the server knows no ACLs, or one may not read them).
    pub async fn acl_to_keep(&self, object: ObjectId<'_>) -> R<Option<Bytes>> {
        if !self.has_acls().await {
            return Ok(None);
        }
        let acl = match self.get_document(Document::Acl, Some(object)).await {
            Ok(acl) => acl,
            Err(e) if e.kind == S3ErrorKind::NoSuchKey => return Ok(None),
            Err(e) if e.kind == S3ErrorKind::NotImplemented => {
                self.inner.acls_refused.store(true, Ordering::Relaxed);
                return Ok(None);
            }
            Err(e) if e.kind == S3ErrorKind::AccessDenied => {
                tracing::info!("an ACL cannot be read, so it cannot be kept: {e}");
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let named_otherwise = self.inner.standing.new_object.contains_key("x-amz-acl");
        let is_default = is_owners_alone(&xml::parse(&acl).unwrap_or_default());
        Ok(Some(acl).filter(|_| named_otherwise || !is_default))
    }

    /// Gives an object, or a copy of it, the ACL that [`S3Client::acl_to_keep`] told. What S3 refuses to set is said in the
    /// log: who may copy an object need not be allowed to, nor say what another account's ACL said.
    pub async fn put_acl_again(&self, object: ObjectId<'_>, acl: Option<Bytes>) -> R<()> {
        use S3ErrorKind::{AccessDenied, BadDocument, NotImplemented};
        let Some(acl) = acl else { return Ok(()) };
        match self.put_document(Document::Acl, Some(object), acl).await {
            Err(e) if matches!(e.kind, AccessDenied | BadDocument | NotImplemented) => {
                tracing::warn!("an ACL is not kept, for S3 does not take it: {e}");
                Ok(())
            }
            put => put,
        }
    }

    /// Whether objects here may have ACLs of their own. The bucket is asked once: most are the bucket owner's with all that
    /// is in them (`BucketOwnerEnforced`), and then no object need be asked.
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html>
    async fn has_acls(&self) -> bool {
        if self.inner.acls_refused.load(Ordering::Relaxed) {
            return false;
        }
        let asked = || async {
            let mut call = call("GetBucketOwnershipControls", Method::GET, None);
            call.query.push(("ownershipControls", "".into()));
            match self.send(&call).await {
                Ok((answer, _)) => !is_owner_enforced(&xml::parse(&answer.body).unwrap_or_default()),
                Err(e) => {
                    tracing::debug!("each object is asked for its ACL: {e}");
                    true
                }
            }
        };
        *self.inner.has_acls.get_or_init(asked).await
    }

    /// None at all: no tags, whichever way the server says so.
    pub async fn get_tags(&self, of: Option<ObjectId<'_>>) -> R<Vec<(String, String)>> {
        match self.get_document(Document::Tagging, of).await {
            Ok(document) => Ok(read_tags(&xml::parse(&document).unwrap_or_default())),
            Err(e) if e.kind == S3ErrorKind::NotSet => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// What an object carries that goes on as the next one of its key. S3 tells tags apart.
    pub async fn carried(&self, key: &str, head: ObjectHead) -> R<ObjectHeaders> {
        let is_tagged = head.tag_count > 0;
        let mut headers = ObjectHeaders::from(head);
        if is_tagged {
            headers.set_tagging(tags_text(&self.get_tags(Some(ObjectId::current(key))).await?));
        }
        Ok(headers)
    }

    /// These and no others.
    ///
    /// # Errors
    /// `BadDocument`, with what S3 says of them.
    pub async fn put_tags(&self, tags: &[(String, String)], of: Option<ObjectId<'_>>) -> R<()> {
        match tags {
            [] => self.delete_document(Document::Tagging, of).await,
            tags => self.put_document(Document::Tagging, of, Bytes::from(tagging(tags))).await,
        }
    }

    fn operations(&self, document: Document, of: Option<ObjectId<'_>>) -> R<Operations> {
        let Some(object) = of else { return Ok(document.of_buckets()) };
        document.of_objects().ok_or_else(|| {
            let call = call_on(document.of_buckets().get, Method::GET, Some(object));
            self.refused(&call, "buckets have it, objects do not")
        })
    }

    /// A document that is not sent.
    fn bad_document(&self, call: &Call<'_>, message: impl Into<String>) -> S3Error {
        S3Error { kind: S3ErrorKind::BadDocument, ..self.refused(call, message) }
    }

    /// Whatever is wrong with a request that is all document is wrong with the document. A server that does not know
    /// the document may take the request for CreateBucket.
    async fn put_checked(&self, call: &Call<'_>) -> R<()> {
        match self.send(call).await {
            Ok(_) => Ok(()),
            Err(mut e) => {
                e.kind = match e.kind {
                    S3ErrorKind::Refused if e.status == Some(400) => S3ErrorKind::BadDocument,
                    S3ErrorKind::BucketExists => S3ErrorKind::NotImplemented,
                    kind => kind,
                };
                Err(e)
            }
        }
    }
}

fn is_owner_enforced(controls: &Element) -> bool {
    let mut rules = controls.children("Rule");
    rules.any(|rule| rule.text_of("ObjectOwnership") == Some("BucketOwnerEnforced"))
}

/// Whether all an ACL allows is everything, to the owner.
fn is_owners_alone(acl: &Element) -> bool {
    let owner = acl.child("Owner").and_then(|owner| owner.text_of("ID"));
    let mut grants = acl.child("AccessControlList").into_iter().flat_map(|list| list.children("Grant"));
    grants.all(|grant| {
        let grantee = grant.child("Grantee").and_then(|grantee| grantee.text_of("ID"));
        grant.text_of("Permission") == Some("FULL_CONTROL") && grantee.is_some() && grantee == owner
    })
}

/// What a document of tags says. Errors: why it is none.
pub fn tags_in(document: &[u8]) -> Result<Vec<(String, String)>, String> {
    let root = Document::Tagging.root().unwrap_or_default();
    let root = xml::parse_root(document, root).map_err(|e| e.to_string())?;
    let set = root.child("TagSet").ok_or("expected a TagSet in it")?;
    match set.children("Tag").all(|tag| tag.text_of("Key").is_some() && tag.text_of("Value").is_some()) {
        true => Ok(read_tags(&root)),
        false => Err("expected a Key and a Value in each Tag".into()),
    }
}

fn read_tags(root: &Element) -> Vec<(String, String)> {
    let text = |tag: &Element, name| tag.text_of(name).unwrap_or_default().to_string();
    let set = root.child("TagSet").into_iter();
    set.flat_map(|set| set.children("Tag")).map(|tag| (text(tag, "Key"), text(tag, "Value"))).collect()
}

/// As S3 takes them in a header.
pub fn tags_text(tags: &[(String, String)]) -> String {
    let escape = |text| utf8_percent_encode(text, TAG).to_string();
    let pairs: Vec<String> = tags.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect();
    pairs.join("&")
}

/// What [`tags_text`] tells; none where it is not UTF-8.
pub fn tags_of_text(text: &str) -> Option<Vec<(String, String)>> {
    let unescape = |text: &str| {
        let decoded = percent_decode_str(&text.replace('+', " ")).decode_utf8().map(String::from);
        decoded.ok()
    };
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((unescape(key)?, unescape(value)?))
    };
    text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect()
}

fn tagging(tags: &[(String, String)]) -> String {
    let mut out = format!("<Tagging xmlns=\"{}\"><TagSet>", xml::NAMESPACE);
    for (key, value) in tags {
        let (key, value) = (xml::escape(key), xml::escape(value));
        out.push_str(&format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>"));
    }
    out.push_str("</TagSet></Tagging>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_of_the_owner_alone_is_known() {
        let acl = |grants: &str| {
            let text = format!(
                "<AccessControlPolicy><Owner><ID>me</ID></Owner><AccessControlList>{grants}</AccessControlList>\
                 </AccessControlPolicy>"
            );
            is_owners_alone(&xml::parse(text.as_bytes()).unwrap())
        };
        let grant = |who: &str, what: &str| {
            format!("<Grant><Grantee>{who}</Grantee><Permission>{what}</Permission></Grant>")
        };
        let mine = grant("<ID>me</ID>", "FULL_CONTROL");
        assert!(acl(&mine) && acl(""));
        assert!(!acl(&grant("<ID>me</ID>", "READ")));
        assert!(!acl(&format!("{mine}{}", grant("<URI>all</URI>", "READ"))));
        assert!(!acl(&grant("<ID>you</ID>", "FULL_CONTROL")));
    }

    #[test]
    fn acls_are_canned_by_name_or_name_whom_they_grant_what() {
        let canned = |name: &str| Acl::Canned(name.to_string()).check();
        assert_eq!((canned("private"), canned("bucket-owner-full-control")), (Ok(()), Ok(())));
        for wrong in ["", "nonsense", "Private", "--grant-read foo"] {
            assert!(canned(wrong).unwrap_err().contains("public-read, "), "{wrong}");
        }
        let granted = |who: &str| Acl::Grants(vec![(Permission::Read, who.to_string())]).check();
        for right in ["id=1", "uri=\"http://a/b\"", "id=\"1\", emailAddress=\"a@b\""] {
            assert_eq!(granted(right), Ok(()), "{right}");
        }
        for wrong in ["", "foo", "id=", "id=\"\"", "id=1,", "name=1", "id=1 foo=2, bar"] {
            assert!(granted(wrong).unwrap_err().contains("emailAddress="), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_document_is_known_without_s3() {
        for wrong in ["", "not xml", "<nonsense", "<nonsense/>", "<Tagging><TagSet></Tagging>", "{\"a\":1}"] {
            assert!(Document::Tagging.check_form(wrong.as_bytes()).is_err(), "{wrong}");
        }
        for wrong in ["", "not JSON", "[]", "<Policy/>", "{\"a\":1", "{} {}"] {
            assert!(Document::Policy.check_form(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let tags = tagging(&[("a".into(), "b".into())]);
        assert_eq!(Document::Tagging.check_form(tags.as_bytes()), Ok(()));
        assert_eq!(Document::Policy.check_form(b"{\"Version\": \"2012-10-17\"}\n"), Ok(()));
    }

    #[test]
    fn tags_are_written_as_s3_takes_them_in_a_header() {
        let of = |tags: &[(&str, &str)]| -> Vec<_> {
            tags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        let tags = of(&[("by", "me"), ("a b", "1&2=3"), ("ü", "")]);
        let text = tags_text(&tags);
        assert_eq!(text, "by=me&a%20b=1%262%3D3&%C3%BC=");
        assert_eq!(tags_of_text(&text).unwrap(), tags);
        assert_eq!(tags_of_text("a+b=c&d").unwrap(), of(&[("a b", "c"), ("d", "")]));
        assert_eq!(tags_of_text("%ff=1"), None);
    }

    #[test]
    fn tags_come_back() {
        let tags = [("a<b".to_string(), "c & d".to_string()), ("empty".to_string(), String::new())];
        assert_eq!(tags_in(tagging(&tags).as_bytes()).unwrap(), tags);
        assert_eq!(tags_in(tagging(&[]).as_bytes()).unwrap(), []);
        for wrong in
            ["", "<Tag><Key>a</Key><Value>b</Value></Tag>", "<TagSet><Tag><Key>a</Key></Tag></TagSet>"]
        {
            let document = format!("<Tagging>{wrong}</Tagging>");
            assert!(tags_in(document.as_bytes()).unwrap_err().starts_with("expected"), "{wrong}");
        }
    }
}
