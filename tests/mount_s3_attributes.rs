//! S3's own features as extended attributes `s3.NAME` of a mount, each compared with what boto3 sees and sets of the same,
//! both ways; on moto, and on SeaweedFS what that offers.
#![cfg(feature = "servers")]

mod support;

use std::io::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use support::aws::Boto;
use support::mount::{Mount, Options, run};
use support::servers::{Kind, program, shared};

struct Place {
    boto: Boto,
    bucket: String,
    mount: Mount,
}

fn place(kind: Kind, hint: &str) -> Place {
    let server = shared(kind);
    let bucket = server.bucket(hint);
    let mount = Options::new(server, &bucket).arg("--metadata-ttl=0s").mount();
    Place { boto: server.boto(), bucket, mount }
}

impl Place {
    fn boto(&mut self, method: &str, mut arguments: Value) -> Value {
        arguments["Bucket"] = self.bucket.as_str().into();
        self.boto.call(method, &arguments)
    }

    fn get(&self, path: &str, name: &str) -> Option<String> {
        let value = xattr::get(self.mount.path(path), name);
        match value {
            Ok(value) => value.map(|value| String::from_utf8(value).unwrap()),
            Err(e) => panic!("{name} of {path:?}: {e}"),
        }
    }

    fn set(&self, path: &str, name: &str, value: &str) {
        xattr::set(self.mount.path(path), name, value.as_bytes())
            .unwrap_or_else(|e| panic!("{name} of {path:?}: {e}\n{}", self.mount.log_text()));
    }

    fn refused(&self, path: &str, name: &str, value: &str) -> i32 {
        xattr::set(self.mount.path(path), name, value.as_bytes()).unwrap_err().raw_os_error().unwrap()
    }

    fn not_removed(&self, path: &str, name: &str) -> i32 {
        xattr::remove(self.mount.path(path), name).unwrap_err().raw_os_error().unwrap()
    }

    fn remove(&self, path: &str, name: &str) {
        xattr::remove(self.mount.path(path), name).unwrap();
    }

    /// A document of the bucket's: set here and seen by boto3, set by boto3 and seen here, and taken away.
    fn document(&mut self, name: &str, ours: &str, get: &str, seen: &str, theirs: (&str, Value, &str)) {
        let attribute = format!("s3.{name}");
        assert_eq!(self.get("", &attribute), None, "{name} is not set");
        self.set("", &attribute, ours);
        let told = self.boto(get, json!({})).to_string();
        assert!(told.contains(seen), "{name}: {told}");
        let (put, arguments, word) = theirs;
        self.boto(put, arguments);
        let told = self.get("", &attribute).unwrap();
        assert!(told.contains(word), "{name}: {told}");
        self.remove("", &attribute);
        assert_eq!(self.get("", &attribute), None, "{name} is gone");
        let arguments = json!({ "Bucket": self.bucket });
        let gone = self.boto.try_call(get, &arguments).map_or_else(|e| e.code, |told| told.to_string());
        assert!(!gone.contains(word), "{name}: {gone}");
    }
}

const EVERYBODY: &str = "http://acs.amazonaws.com/groups/global/AllUsers";

fn documents_of_a_bucket(kind: Kind) {
    let mut place = place(kind, "documents");
    assert_eq!(place.get("", "s3.location").as_deref(), Some("us-east-1"));
    let rule = json!({ "AllowedMethods": ["PUT"], "AllowedOrigins": ["*"] });
    place.document(
        "cors",
        "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>https://example.com\
         </AllowedOrigin></CORSRule></CORSConfiguration>",
        "get_bucket_cors",
        "https://example.com",
        ("put_bucket_cors", json!({ "CORSConfiguration": { "CORSRules": [rule] } }), "PUT"),
    );
    let rule = json!({ "ID": "1", "Filter": { "Prefix": "tmp/" }, "Status": "Enabled", "Expiration": { "Days": 7 } });
    place.document(
        "lifecycle",
        "<LifecycleConfiguration><Rule><ID>old</ID><Filter><Prefix>log/</Prefix></Filter><Status>Enabled</Status>\
         <Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>",
        "get_bucket_lifecycle_configuration",
        "log/",
        ("put_bucket_lifecycle_configuration", json!({ "LifecycleConfiguration": { "Rules": [rule] } }), "tmp/"),
    );
    let policy = |action: &str| {
        let arn = format!("arn:aws:s3:::{}/*", place.bucket);
        let statement = json!({ "Effect": "Allow", "Principal": "*", "Action": action, "Resource": arn });
        json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string()
    };
    let (ours, theirs) = (policy("s3:GetObject"), policy("s3:PutObject"));
    let theirs = ("put_bucket_policy", json!({ "Policy": theirs }), "s3:PutObject");
    place.document("policy", &ours, "get_bucket_policy", "s3:GetObject", theirs);
    place.document(
        "tags",
        "<Tagging><TagSet><Tag><Key>by</Key><Value>us</Value></Tag></TagSet></Tagging>",
        "get_bucket_tagging",
        "us",
        (
            "put_bucket_tagging",
            json!({ "Tagging": { "TagSet": [{ "Key": "by", "Value": "them" }] } }),
            "them",
        ),
    );
    let by_default = json!({ "ApplyServerSideEncryptionByDefault": { "SSEAlgorithm": "aws:kms" } });
    let theirs = json!({ "ServerSideEncryptionConfiguration": { "Rules": [by_default] } });
    place.document(
        "encryption",
        "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256\
         </SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>",
        "get_bucket_encryption",
        "AES256",
        ("put_bucket_encryption", theirs, "aws:kms"),
    );
    place.set("", "s3.acl", "public-read");
    assert!(place.boto("get_bucket_acl", json!({}))["Grants"].to_string().contains(EVERYBODY));
    place.boto("put_bucket_acl", json!({ "ACL": "private" }));
    assert!(!place.get("", "s3.acl").unwrap().contains(EVERYBODY));
    place.boto("put_bucket_acl", json!({ "ACL": "authenticated-read" }));
    assert!(place.get("", "s3.acl").unwrap().contains("AuthenticatedUsers"));
    if kind == Kind::Moto {
        of_a_bucket_on_moto(&mut place);
    }
    // What S3 does not take.
    let cors = "<CORSConfiguration><CORSRule><AllowedMethod>FLY</AllowedMethod><AllowedOrigin>*</AllowedOrigin>\
                </CORSRule></CORSConfiguration>";
    assert_eq!(place.refused("", "s3.cors", cors), libc::EINVAL);
    let log = place.mount.log_text();
    let told =
        log.lines().find(|line| line.contains("PutBucketCors") && line.contains("(s3.cors)\" errno=22"));
    assert!(told.is_some_and(|line| line.contains("code ")), "S3's words are in the log: {log}");
    malformed_documents(&place);
    for lasting in ["s3.acl", "s3.versioning", "s3.location"] {
        assert_eq!(place.not_removed("", lasting), libc::EPERM, "{lasting}");
    }
    assert_eq!(place.refused("", "s3.location", "elsewhere"), libc::EPERM);
    place.set(
        "",
        "s3.versioning",
        "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
    );
    assert_eq!(place.boto("get_bucket_versioning", json!({}))["Status"], "Enabled");
    let suspended = json!({ "VersioningConfiguration": { "Status": "Suspended" } });
    place.boto("put_bucket_versioning", suspended);
    assert!(place.get("", "s3.versioning").unwrap().contains("Suspended"));
    let listed = xattr::list(&place.mount.dir).map_or(0, Iterator::count);
    assert_eq!(listed, 0, "none is listed");
    place.mount.umount();
}

/// Nothing of them is sent: moto answers 500, for half a minute, or takes them for empty ones.
fn malformed_documents(place: &Place) {
    let names =
        ["acl", "cors", "encryption", "lifecycle", "logging", "notification", "policy", "tags", "website"];
    for (name, wrong) in names
        .into_iter()
        .flat_map(|name| ["", "not xml", "<nonsense", "<nonsense/>", "[1]"].map(|wrong| (name, wrong)))
    {
        assert_eq!(place.refused("", &format!("s3.{name}"), wrong), libc::EINVAL, "{name} {wrong}");
    }
    let log = place.mount.log_text();
    let told = log.lines().find(|line| line.contains("PutBucketPolicy") && line.contains("errno=22"));
    assert!(told.is_some_and(|line| line.contains("not a JSON object")), "{log}");
}

/// What SeaweedFS does not know.
fn of_a_bucket_on_moto(place: &mut Place) {
    place.document(
        "website",
        "<WebsiteConfiguration><IndexDocument><Suffix>ours.html</Suffix></IndexDocument></WebsiteConfiguration>",
        "get_bucket_website",
        "ours.html",
        (
            "put_bucket_website",
            json!({ "WebsiteConfiguration": { "IndexDocument": { "Suffix": "theirs.html" } } }),
            "theirs.html",
        ),
    );
    let delivery = "uri=\"http://acs.amazonaws.com/groups/s3/LogDelivery\"";
    place.set("", "s3.acl", &format!("WRITE {delivery}; READ_ACP {delivery}"));
    let told = place.boto("get_bucket_acl", json!({}))["Grants"].to_string();
    assert!(told.contains("LogDelivery") && told.contains("READ_ACP"), "{told}");
    assert_eq!(place.get("", "s3.acl").unwrap().matches("LogDelivery").count(), 2);

    let logging = format!(
        "<BucketLoggingStatus><LoggingEnabled><TargetBucket>{}</TargetBucket><TargetPrefix>log/</TargetPrefix>\
         </LoggingEnabled></BucketLoggingStatus>",
        place.bucket
    );
    place.set("", "s3.logging", &logging);
    assert_eq!(place.boto("get_bucket_logging", json!({}))["LoggingEnabled"]["TargetPrefix"], "log/");
    assert!(place.get("", "s3.logging").unwrap().contains("log/"));
    let theirs = json!({ "TargetBucket": place.bucket, "TargetPrefix": "theirs/" });
    place.boto("put_bucket_logging", json!({ "BucketLoggingStatus": { "LoggingEnabled": theirs } }));
    assert!(place.get("", "s3.logging").unwrap().contains("theirs/"));
    place.remove("", "s3.logging");
    assert_eq!(place.boto("get_bucket_logging", json!({}))["LoggingEnabled"], Value::Null);

    let notification = "<NotificationConfiguration><TopicConfiguration><Id>ours</Id>\
        <Topic>arn:aws:sns:us-east-1:123456789012:t</Topic><Event>s3:ObjectCreated:*</Event>\
        </TopicConfiguration></NotificationConfiguration>";
    place.set("", "s3.notification", notification);
    let told = place.boto("get_bucket_notification_configuration", json!({}));
    assert_eq!(told["TopicConfigurations"][0]["Id"], "ours");
    assert!(place.get("", "s3.notification").unwrap().contains("ours"));
    let theirs = json!({ "Id": "theirs", "TopicArn": "arn:aws:sns:us-east-1:123456789012:t",
        "Events": ["s3:ObjectRemoved:*"] });
    let theirs = json!({ "NotificationConfiguration": { "TopicConfigurations": [theirs] } });
    place.boto("put_bucket_notification_configuration", theirs);
    assert!(place.get("", "s3.notification").unwrap().contains("theirs"));
    place.remove("", "s3.notification");
    let told = place.boto("get_bucket_notification_configuration", json!({}));
    assert_eq!(told["TopicConfigurations"], Value::Null);
}

fn features_of_a_file(kind: Kind) {
    let mut place = place(kind, "features");
    if kind == Kind::SeaweedFs {
        // Else objects are taken for the bucket owner's, and may keep ACLs or not.
        let rule = json!({"Rules": [{"ObjectOwnership": "ObjectWriter"}]});
        place.boto("put_bucket_ownership_controls", json!({"OwnershipControls": rule}));
    }
    let about = json!({ "Key": "d/file", "Body": "bytes", "ChecksumAlgorithm": "SHA256" });
    place.boto("put_object", about);
    let file = "d/file";
    let about = || json!({ "Key": file });
    presigned(&place, file);
    headers(&mut place, file);

    place.set(file, "s3.acl", "public-read");
    assert!(place.boto("get_object_acl", about())["Grants"].to_string().contains(EVERYBODY));
    assert!(place.get(file, "s3.acl").unwrap().contains(EVERYBODY));
    // Setting anything by a copy leaves the ACL as it was, and so do renames.
    place.set(file, "s3.content-type", "text/x-odd");
    assert_eq!(place.boto("head_object", about())["ContentType"], "text/x-odd");
    // moto takes an object's ACL as a document, and drops what is in it.
    let takes_documents = kind != Kind::Moto;
    let before = place.boto("get_object_acl", about())["Grants"].clone();
    assert_eq!(before.to_string().contains(EVERYBODY), takes_documents, "it is kept: {before}");
    place.boto("put_object", json!({ "Key": "d/plain", "Body": "bytes" }));
    let plain = place.boto("get_object_acl", json!({ "Key": "d/plain" }))["Grants"].clone();
    for (from, to) in [(file, "file"), ("d", "e"), ("file", "e/file"), ("e", "d")] {
        std::fs::rename(place.mount.path(from), place.mount.path(to)).unwrap();
    }
    assert_eq!(place.boto("get_object_acl", about())["Grants"], before);
    assert_eq!(place.boto("get_object_acl", json!({ "Key": "d/plain" }))["Grants"], plain);
    place.set(file, "s3.acl", "public-read");
    let document = place.get(file, "s3.acl").unwrap();
    place.set(file, "s3.acl", "private");
    assert!(!place.boto("get_object_acl", about())["Grants"].to_string().contains(EVERYBODY));
    place.set(file, "s3.acl", &document);
    let told = place.boto("get_object_acl", about())["Grants"].to_string();
    assert_eq!(told.contains(EVERYBODY), takes_documents, "as it was told: {told}");
    for wrong in ["", "nonsense", "READ foo", "<AccessControlPolicy><Bad/>"] {
        assert_eq!(place.refused(file, "s3.acl", wrong), libc::EINVAL, "{wrong}");
    }
    let kept = place.boto("get_object_acl", about())["Grants"].to_string();
    assert_eq!(kept, told, "none of them reached S3");

    assert_eq!(place.not_removed(file, "s3.acl"), libc::EPERM);
    place.set(file, "s3.tags", "by=me&for=you%20all");
    let told = place.boto("get_object_tagging", about())["TagSet"].to_string();
    assert!(told.contains("you all"), "{told}");
    place.boto(
        "put_object_tagging",
        json!({ "Key": file, "Tagging": { "TagSet": [{ "Key": "k", "Value": "v" }] } }),
    );
    assert_eq!(place.get(file, "s3.tags").as_deref(), Some("k=v"));
    place.remove(file, "s3.tags");
    assert_eq!(place.boto("get_object_tagging", about())["TagSet"], json!([]));
    assert_eq!(place.get(file, "s3.tags"), None);

    // Before the close they travel with the upload, and an edit keeps them.
    let mut new = std::fs::File::create(place.mount.dir.join("d/tagged")).expect("a new file");
    place.set("d/tagged", "s3.tags", "by=me&for=you%20all");
    new.write_all(b"one").expect("room");
    drop(new);
    let mut again =
        std::fs::File::options().append(true).open(place.mount.dir.join("d/tagged")).expect("it is there");
    again.write_all(b", two").expect("room");
    drop(again);
    let told = place.boto("get_object_tagging", json!({ "Key": "d/tagged" }))["TagSet"].to_string();
    assert!(told.contains("you all") && told.contains("me"), "{told}");
    assert_eq!(place.boto.get(&place.bucket, "d/tagged"), b"one, two");

    if kind == Kind::Moto {
        of_a_file_on_moto(&mut place);
    }
    place.mount.umount();
}

fn of_a_file_on_moto(place: &mut Place) {
    assert_eq!(place.refused("d/file", "s3.storage-class", "NONSENSE"), libc::EINVAL);
    place.set("d/file", "s3.acl", &format!("READ uri=\"{EVERYBODY}\""));
    let told = place.boto("get_object_acl", json!({ "Key": "d/file" }))["Grants"].to_string();
    assert!(told.contains(EVERYBODY) && !told.contains("FULL_CONTROL"), "{told}");

    let about = json!({ "Key": "sealed", "Body": "x", "ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "my-key",
        "ChecksumAlgorithm": "SHA256" });
    place.boto("put_object", about);
    assert_eq!(place.get("sealed", "s3.sse").as_deref(), Some("aws:kms my-key"));
    let told = place.boto("head_object", json!({ "Key": "sealed", "ChecksumMode": "ENABLED" }));
    let sum = format!("sha256={}", told["ChecksumSHA256"].as_str().unwrap());
    assert_eq!(place.get("sealed", "s3.checksum"), Some(sum));

    place.boto("put_object", json!({ "Key": "cold", "Body": "x", "StorageClass": "GLACIER" }));
    assert_eq!(place.get("cold", "s3.restore"), None);
    place.set("cold", "s3.restore", "days=5,tier=Bulk");
    let told = place.boto("head_object", json!({ "Key": "cold" }))["Restore"].as_str().unwrap().to_owned();
    assert!(told.contains("expiry-date"), "{told}");
    assert_eq!(place.get("cold", "s3.restore"), Some(told));
    assert_eq!(place.get("cold", "s3.storage-class").as_deref(), Some("GLACIER"));
}

/// What goes over as a header: set here and seen by boto3, set by boto3 and seen here.
fn headers(place: &mut Place, file: &str) {
    let told = place.boto("head_object", json!({ "Key": file }));
    assert_eq!(place.get(file, "s3.etag").as_deref(), told["ETag"].as_str());
    let time = httpdate::parse_http_date(&place.get(file, "s3.last-modified").unwrap()).unwrap();
    let theirs = told["LastModified"].as_str().unwrap().get(..19).unwrap().replace(' ', "T");
    assert_eq!(pailfs::key::past::moment(time), format!("{theirs}Z"));
    for (name, theirs_name, ours, theirs) in [
        ("content-type", "ContentType", "text/x-ours", "text/x-theirs"),
        ("cache-control", "CacheControl", "no-store", "max-age=9"),
        ("content-encoding", "ContentEncoding", "gzip", "br"),
        ("content-disposition", "ContentDisposition", "attachment; filename=\"a b\"", "inline"),
        ("content-language", "ContentLanguage", "de", "fr"),
        ("storage-class", "StorageClass", "STANDARD_IA", "ONEZONE_IA"),
    ] {
        let name = format!("s3.{name}");
        place.set(file, &name, ours);
        assert_eq!(place.get(file, &name).as_deref(), Some(ours));
        let told = place.boto("head_object", json!({ "Key": file }));
        assert_eq!(told[theirs_name], ours, "{name}");
        place.boto("put_object", json!({ "Key": "theirs", "Body": "x", theirs_name: theirs }));
        assert_eq!(place.get("theirs", &name).as_deref(), Some(theirs), "{name}");
    }
    place.remove(file, "s3.content-encoding");
    assert_eq!(place.get(file, "s3.content-encoding"), None);
    assert_eq!(place.boto("head_object", json!({ "Key": file }))["ContentEncoding"], Value::Null);
}

/// With plain HTTP anybody has the bytes.
fn presigned(place: &Place, file: &str) {
    let url = place.get(file, "s3.presigned-url").unwrap();
    assert!(url.contains("X-Amz-Expires=3600"), "{url}");
    let script = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())";
    let said = run(Command::new(program("python3")).args(["-c", script, &url]));
    assert_eq!(said.stdout, "bytes", "{said:?}");
}

#[test]
fn moto_documents_of_a_bucket() {
    documents_of_a_bucket(Kind::Moto);
}

#[test]
fn seaweedfs_documents_of_a_bucket() {
    documents_of_a_bucket(Kind::SeaweedFs);
}

#[test]
fn moto_features_of_a_file() {
    features_of_a_file(Kind::Moto);
}

#[test]
fn seaweedfs_features_of_a_file() {
    features_of_a_file(Kind::SeaweedFs);
}
