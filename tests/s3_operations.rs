//! The operations on buckets, documents, versions and archived objects, on SeaweedFS and moto, each compared with
//! what boto3 sees of the same thing. (What the fake offers is in `contract.rs`.)
#![cfg(feature = "servers")]

mod support;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pailfs::error::{S3Error, S3ErrorKind};
use pailfs::s3::{
    Acl, CopySource, Document, ListObjectVersions, ListObjectsV2, ListedVersion, ObjectHeaders, ObjectId,
    Permission, Precondition, Presigned, S3Client,
};
use serde_json::{Value, json};
use support::aws::Boto;
use support::ground::Ground;
use support::servers::{Kind, bucket_name, shared};

/// A bucket of the test's own, and two clients of it.
struct Place {
    kind: Kind,
    client: S3Client,
    boto: Boto,
    bucket: String,
}

async fn place(kind: Kind) -> Place {
    let ground = Ground::on_server(kind, 1000).await;
    let bucket = bucket_name("s3ops");
    let client = ground.client.beside(&bucket).unwrap();
    client.create_bucket().await.unwrap();
    Place { kind, client, boto: shared(kind).boto(), bucket }
}

impl Place {
    fn boto(&mut self, method: &str, arguments: Value) -> Value {
        self.try_boto(method, arguments).unwrap_or_else(|code| panic!("boto3, {method}: {code}"))
    }

    fn try_boto(&mut self, method: &str, mut arguments: Value) -> Result<Value, String> {
        arguments["Bucket"] = self.bucket.as_str().into();
        self.boto.try_call(method, &arguments).map_err(|e| e.code)
    }

    async fn put(&self, key: &str, data: &'static str) -> Option<String> {
        let payload = vec![Bytes::from(data)];
        let none = ObjectHeaders::default();
        let put = self.client.put_object(key, payload, &none, &Precondition::None).await;
        put.unwrap().version_id
    }

    /// What the server has, as text.
    async fn get(&self, document: Document) -> String {
        let told = self.client.get_document(document, None).await.unwrap();
        String::from_utf8(told.to_vec()).unwrap()
    }

    async fn put_document(&self, document: Document, text: &str) -> Result<(), S3Error> {
        self.client.put_document(document, None, Bytes::from(text.to_string())).await
    }

    async fn delete(&self, document: Document) -> Result<(), S3Error> {
        self.client.delete_document(document, None).await
    }

    async fn kind_of(&self, document: Document) -> S3ErrorKind {
        kind(self.client.get_document(document, None).await)
    }
}

#[track_caller]
fn kind<T>(result: Result<T, S3Error>) -> S3ErrorKind {
    match result {
        Ok(_) => panic!("it went well, and should not"),
        Err(e) => e.kind,
    }
}

async fn buckets_are_made_listed_and_deleted(mut place: Place) {
    let (client, bucket) = (place.client.clone(), place.bucket.clone());
    let page = client.list_buckets("", None).await.unwrap();
    let ours = page.buckets.iter().find(|b| b.name == bucket).expect("it is listed");
    let age = SystemTime::now().duration_since(ours.created).unwrap_or_default();
    assert!(age < Duration::from_secs(3600), "made {age:?} ago");
    let theirs = place.boto.call("list_buckets", &json!({}));
    let mut theirs: Vec<&str> =
        theirs["Buckets"].as_array().unwrap().iter().map(|b| b["Name"].as_str().unwrap()).collect();
    let mut names: Vec<&str> = page.buckets.iter().map(|b| b.name.as_str()).collect();
    // Other tests make and delete theirs meanwhile.
    names.retain(|name| *name == bucket);
    theirs.retain(|name| *name == bucket);
    assert_eq!(names, theirs);
    assert_eq!(client.get_bucket_location().await.unwrap(), "us-east-1");
    place.put("k", "v").await;
    assert_eq!(kind(client.delete_bucket().await), S3ErrorKind::BucketNotEmpty);
    assert_eq!(place.boto.get(&bucket, "k"), b"v", "nothing was deleted with it");
    client.delete_object("k").await.unwrap();
    client.delete_bucket().await.unwrap();
    assert_eq!(place.try_boto("head_bucket", json!({})).unwrap_err(), "404");
    assert_eq!(kind(client.delete_bucket().await), S3ErrorKind::NoSuchBucket);
}

async fn tags_come_and_go(mut place: Place) {
    place.put("o", "v").await;
    for object in [Some(ObjectId::current("o")), None] {
        let (put, get) = match object {
            Some(_) => ("put_object_tagging", "get_object_tagging"),
            None => ("put_bucket_tagging", "get_bucket_tagging"),
        };
        let about = |mut arguments: Value| {
            if object.is_some() {
                arguments["Key"] = "o".into();
            }
            arguments
        };
        assert_eq!(place.client.get_tags(object).await.unwrap(), []);
        let tags = [("colour".to_string(), "red+blue".to_string()), ("size".to_string(), "7".to_string())];
        place.client.put_tags(&tags, object).await.unwrap();
        let mut theirs = place.boto(get, about(json!({})))["TagSet"].as_array().unwrap().clone();
        theirs.sort_by_key(|tag| tag["Key"].to_string());
        let ours = [json!({"Key": "colour", "Value": "red+blue"}), json!({"Key": "size", "Value": "7"})];
        assert_eq!(theirs, ours);
        place.boto(put, about(json!({"Tagging": {"TagSet": [{"Key": "by", "Value": "boto"}]}})));
        let by_boto = [("by".to_string(), "boto".to_string())];
        assert_eq!(place.client.get_tags(object).await.unwrap(), by_boto);
        place.client.delete_document(Document::Tagging, object).await.unwrap();
        assert_eq!(place.client.get_tags(object).await.unwrap(), []);
    }
}

async fn cors_come_and_go(mut place: Place) {
    assert_eq!(place.kind_of(Document::Cors).await, S3ErrorKind::NotSet);
    let cors = "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod>\
        <AllowedOrigin>https://example.com</AllowedOrigin></CORSRule></CORSConfiguration>";
    place.put_document(Document::Cors, cors).await.unwrap();
    let rules = place.boto("get_bucket_cors", json!({}))["CORSRules"].clone();
    assert_eq!(rules[0]["AllowedMethods"], json!(["GET"]));
    assert_eq!(rules[0]["AllowedOrigins"], json!(["https://example.com"]));
    let rule = json!({"AllowedMethods": ["PUT"], "AllowedOrigins": ["*"]});
    place.boto("put_bucket_cors", json!({"CORSConfiguration": {"CORSRules": [rule]}}));
    let told = place.get(Document::Cors).await;
    assert!(told.contains("<AllowedMethod>PUT</AllowedMethod>"), "{told}");
    place.delete(Document::Cors).await.unwrap();
    assert_eq!(place.kind_of(Document::Cors).await, S3ErrorKind::NotSet);
    let refused = place.put_document(Document::Cors, &cors.replace("GET", "FLY")).await;
    assert_eq!(kind(refused), S3ErrorKind::BadDocument);
}

async fn lifecycles_come_and_go(mut place: Place) {
    assert_eq!(place.kind_of(Document::Lifecycle).await, S3ErrorKind::NotSet);
    let lifecycle = "<LifecycleConfiguration><Rule><ID>old</ID><Filter><Prefix>log/</Prefix></Filter>\
        <Status>Enabled</Status><Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>";
    place.put_document(Document::Lifecycle, lifecycle).await.unwrap();
    let rules = place.boto("get_bucket_lifecycle_configuration", json!({}))["Rules"].clone();
    assert_eq!(rules[0]["Expiration"]["Days"], 30);
    assert_eq!(rules[0]["Filter"]["Prefix"], "log/");
    assert!(place.get(Document::Lifecycle).await.contains("<Days>30</Days>"));
    place.delete(Document::Lifecycle).await.unwrap();
    assert_eq!(place.kind_of(Document::Lifecycle).await, S3ErrorKind::NotSet);
}

async fn policies_come_and_go(mut place: Place) {
    assert_eq!(place.kind_of(Document::Policy).await, S3ErrorKind::NotSet);
    let arn = format!("arn:aws:s3:::{}/*", place.bucket);
    let statement = json!({"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": arn});
    let policy = json!({"Version": "2012-10-17", "Statement": [statement]}).to_string();
    place.put_document(Document::Policy, &policy).await.unwrap();
    let theirs = place.boto("get_bucket_policy", json!({}))["Policy"].as_str().unwrap().to_string();
    let ours: Value = serde_json::from_str(&place.get(Document::Policy).await).unwrap();
    assert_eq!(ours, serde_json::from_str::<Value>(&theirs).unwrap());
    assert!(ours.to_string().contains("s3:GetObject"), "{ours}");
    place.delete(Document::Policy).await.unwrap();
    assert_eq!(place.kind_of(Document::Policy).await, S3ErrorKind::NotSet);
}

async fn encryption_comes_and_goes(mut place: Place) {
    let encryption = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
        <SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule>\
        </ServerSideEncryptionConfiguration>";
    place.put_document(Document::Encryption, encryption).await.unwrap();
    let theirs = place.boto("get_bucket_encryption", json!({}));
    let rule = &theirs["ServerSideEncryptionConfiguration"]["Rules"][0];
    assert_eq!(rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"], "AES256");
    assert!(place.get(Document::Encryption).await.contains("<SSEAlgorithm>AES256</SSEAlgorithm>"));
    place.delete(Document::Encryption).await.unwrap();
    assert_eq!(place.kind_of(Document::Encryption).await, S3ErrorKind::NotSet);
}

const WEBSITE: &str = "<WebsiteConfiguration><IndexDocument><Suffix>index.html</Suffix></IndexDocument>\
    </WebsiteConfiguration>";

/// SeaweedFS (4.48, probed) takes a PUT with a query that it does not know for CreateBucket, and a DELETE for
/// DeleteBucket, with all that is in the bucket.
async fn documents_that_a_server_does_not_know_harm_no_bucket(mut place: Place) {
    if place.kind != Kind::SeaweedFs {
        return;
    }
    place.put("k", "v").await;
    for (document, text) in [
        (Document::Website, WEBSITE),
        (Document::Logging, "<BucketLoggingStatus/>"),
        (Document::Notification, "<NotificationConfiguration/>"),
    ] {
        assert_eq!(kind(place.put_document(document, text).await), S3ErrorKind::NotImplemented);
    }
    assert_eq!(place.kind_of(Document::Website).await, S3ErrorKind::NotSet);
    place.delete(Document::Website).await.unwrap();
    assert_eq!(place.boto.get(&place.bucket, "k"), b"v");
    place.boto("delete_bucket_website", json!({}));
    assert_eq!(place.try_boto("head_bucket", json!({})).unwrap_err(), "404", "it mended its ways");
}

async fn websites_logging_and_notifications(mut place: Place) {
    if place.kind == Kind::SeaweedFs {
        return; // it knows none of these
    }
    assert_eq!(place.kind_of(Document::Website).await, S3ErrorKind::NotSet);
    place.put_document(Document::Website, WEBSITE).await.unwrap();
    assert_eq!(place.boto("get_bucket_website", json!({}))["IndexDocument"]["Suffix"], "index.html");
    assert!(place.get(Document::Website).await.contains("index.html"));
    place.delete(Document::Website).await.unwrap();
    assert_eq!(place.kind_of(Document::Website).await, S3ErrorKind::NotSet);

    let delivery = json!({"Type": "Group", "URI": "http://acs.amazonaws.com/groups/s3/LogDelivery"});
    let grants = ["WRITE", "READ_ACP"].map(|may| json!({"Grantee": delivery, "Permission": may}));
    place.boto("put_bucket_acl", json!({"AccessControlPolicy": {"Owner": {"ID": "o"}, "Grants": grants}}));
    let logging = format!(
        "<BucketLoggingStatus><LoggingEnabled><TargetBucket>{}</TargetBucket>\
         <TargetPrefix>log/</TargetPrefix></LoggingEnabled></BucketLoggingStatus>",
        place.bucket
    );
    place.put_document(Document::Logging, &logging).await.unwrap();
    assert_eq!(place.boto("get_bucket_logging", json!({}))["LoggingEnabled"]["TargetPrefix"], "log/");
    place.delete(Document::Logging).await.unwrap();
    assert_eq!(place.boto("get_bucket_logging", json!({}))["LoggingEnabled"], Value::Null);

    let notification = "<NotificationConfiguration><TopicConfiguration><Id>t</Id>\
        <Topic>arn:aws:sns:us-east-1:123456789012:t</Topic><Event>s3:ObjectCreated:*</Event>\
        </TopicConfiguration></NotificationConfiguration>";
    place.put_document(Document::Notification, notification).await.unwrap();
    assert!(place.get(Document::Notification).await.contains("s3:ObjectCreated:*"));
    let theirs = place.boto("get_bucket_notification_configuration", json!({}));
    assert_eq!(theirs["TopicConfigurations"][0]["Id"], "t");
    place.delete(Document::Notification).await.unwrap();
    let theirs = place.boto("get_bucket_notification_configuration", json!({}));
    assert_eq!(theirs["TopicConfigurations"], Value::Null);
}

async fn acls_are_canned_or_granted(mut place: Place) {
    if place.kind == Kind::SeaweedFs {
        // By default it takes every ACL and keeps none.
        let rule = json!({"Rules": [{"ObjectOwnership": "ObjectWriter"}]});
        place.boto("put_bucket_ownership_controls", json!({"OwnershipControls": rule}));
    }
    place.put("o", "v").await;
    let object = Some(ObjectId::current("o"));
    let everyone = "http://acs.amazonaws.com/groups/global/AllUsers";
    place.client.put_acl(&Acl::Canned("public-read".to_string()), object).await.unwrap();
    let theirs = place.boto("get_object_acl", json!({"Key": "o"}))["Grants"].to_string();
    assert!(theirs.contains(everyone), "{theirs}");
    let ours = place.client.get_document(Document::Acl, object).await.unwrap();
    assert!(String::from_utf8_lossy(&ours).contains(everyone), "{ours:?}");
    place.client.put_acl(&Acl::Canned("private".to_string()), object).await.unwrap();
    let theirs = place.boto("get_object_acl", json!({"Key": "o"}))["Grants"].to_string();
    assert!(!theirs.contains(everyone), "{theirs}");

    let grants = Acl::Grants(vec![(Permission::Read, format!("uri={everyone}"))]);
    place.client.put_acl(&grants, object).await.unwrap();
    let theirs = place.boto("get_object_acl", json!({"Key": "o"}))["Grants"].to_string();
    match place.kind {
        Kind::Moto => assert!(theirs.contains(everyone) && theirs.contains("READ"), "{theirs}"),
        // It takes grants in headers and drops them (4.48, probed).
        Kind::SeaweedFs => assert!(!theirs.contains(everyone), "{theirs}"),
    }
    let refused = place.client.delete_document(Document::Acl, object).await;
    assert_eq!(kind(refused), S3ErrorKind::Refused);
    let no_such = place.client.get_document(Document::Cors, object).await;
    assert_eq!(kind(no_such), S3ErrorKind::Refused, "objects have none");
}

async fn versions_are_kept_read_and_deleted(mut place: Place) {
    let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    place.put_document(Document::Versioning, enabled).await.unwrap();
    assert_eq!(place.boto("get_bucket_versioning", json!({}))["Status"], "Enabled");
    assert!(place.get(Document::Versioning).await.contains("Enabled"));
    let first = place.put("a b", "one").await.expect("a version id");
    let second = place.put("a b", "two!").await.expect("a version id");
    let client = place.client.clone();
    client.delete_object("a b").await.unwrap();

    let versions = all_versions(&client, 1000).await;
    assert_eq!(all_versions(&client, 1).await, versions, "page by page");
    let told: Vec<_> = versions.iter().map(|v| (v.object.as_ref().map(|o| o.size), v.is_latest)).collect();
    assert_eq!(told, [(None, true), (Some(4), false), (Some(3), false)]);
    assert_eq!((&versions[1].version_id, &versions[2].version_id), (&second, &first));
    let theirs = place.boto("list_object_versions", json!({}));
    assert_eq!(theirs["DeleteMarkers"][0]["VersionId"], versions[0].version_id.as_str());

    let old = ObjectId { key: "a b", version_id: Some(&first) };
    assert_eq!(client.head_object_details(old).await.unwrap().head.size, 3);
    let mut got = client.get_object_version(old, None, None).await.unwrap();
    assert_eq!(got.body.frame().await.unwrap().unwrap(), "one");
    assert_eq!(kind(client.head_object("a b").await), S3ErrorKind::NoSuchKey);
    let source = CopySource {
        bucket: place.bucket.clone(),
        key: "a b".to_string(),
        version_id: Some(first.clone()),
        ..Default::default()
    };
    client.copy_object(&source, "copy", None, &Precondition::None).await.unwrap();
    assert_eq!(place.boto.get(&place.bucket, "copy"), b"one");

    let marker = ObjectId { key: "a b", version_id: Some(&versions[0].version_id) };
    client.delete_object_version(marker).await.unwrap();
    assert_eq!(place.boto.get(&place.bucket, "a b"), b"two!", "without its delete marker it is back");
    client.delete_object_version(old).await.unwrap();
    assert_eq!(kind(client.head_object_details(old).await), S3ErrorKind::NoSuchKey);
    client.delete_object("a b").await.unwrap();
    client.delete_object("copy").await.unwrap();
    assert_eq!(kind(client.delete_bucket().await), S3ErrorKind::BucketNotEmpty, "old versions count");
}

/// Keys and their ETags' versions as a client sees them, page by page; and the common prefixes.
async fn seen(client: &S3Client, query: ListObjectsV2) -> (Vec<(String, u64)>, Vec<String>) {
    let (mut query, mut objects, mut prefixes) = (query, Vec::new(), Vec::new());
    for _ in 0..100 {
        let page = client.list_objects_v2(&query).await.unwrap();
        for object in page.contents {
            let head = client.head_object(&object.key).await.unwrap();
            assert_eq!((&head.etag, head.size), (&object.etag, object.size), "{}", object.key);
            let mut got = client.get_object(&object.key, None, Some(&object.etag)).await.unwrap();
            let body = got.body.frame().await.unwrap().unwrap();
            assert_eq!(body.len() as u64, object.size);
            objects.push((object.key, object.size));
        }
        prefixes.extend(page.common_prefixes);
        query.continuation_token = page.next_continuation_token;
        if query.continuation_token.is_none() {
            objects.sort();
            prefixes.sort();
            return (objects, prefixes);
        }
    }
    panic!("a listing without end");
}

async fn a_bucket_is_listed_and_read_as_it_was(place: Place) {
    assert!(!place.client.keeps_versions().await.unwrap());
    let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    place.put_document(Document::Versioning, enabled).await.unwrap();
    assert!(place.client.keeps_versions().await.unwrap());
    // SeaweedFS loses keys that sort before `/` where versions come in several pages.
    let beside = if place.kind == Kind::SeaweedFs { "de" } else { "d+e" };
    let mut moments = Vec::new();
    for step in 0..3 {
        // Several versions of a second, the last of which counts.
        for version in ["-", "x", "yy"].iter().take(3 - step) {
            for key in ["d/a", "d/b", "d/s/c", beside] {
                place.put(key, version).await;
            }
        }
        match step {
            0 => drop(place.put("d/gone/x", "z").await),
            1 => place.client.delete_object("d/gone/x").await.unwrap(),
            _ => place.client.delete_object("d/b").await.unwrap(),
        }
        moments.push(SystemTime::now());
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let few = Ground::on_server(place.kind, 2).await.client.beside(&place.bucket).unwrap();
    for client in [&place.client, &few] {
        for (step, size) in [(0, 2), (1, 1), (2, 1)] {
            let then = client.as_of(moments[step]);
            let query = ListObjectsV2 { prefix: "d".into(), ..Default::default() };
            let mut keys = vec!["d/a", "d/b", "d/gone/x", "d/s/c", beside];
            keys.sort_unstable();
            keys.retain(|key| (step == 0 || *key != "d/gone/x") && (step != 2 || *key != "d/b"));
            let sizes = keys.iter().map(|key| (key.to_string(), if *key == "d/gone/x" { 1 } else { size }));
            let all: Vec<_> = sizes.collect();
            assert_eq!(seen(&then, query.clone()).await, (all.clone(), Vec::new()), "step {step}");
            let after = ListObjectsV2 { start_after: Some("d/a".into()), ..query };
            let later = all.iter().filter(|(key, _)| key.as_str() > "d/a").cloned().collect();
            assert_eq!(seen(&then, after).await, (later, Vec::new()), "step {step}");
            let below = ListObjectsV2 { prefix: "d/".into(), delimiter: true, ..Default::default() };
            let direct = all.iter().filter(|(key, _)| matches!(&**key, "d/a" | "d/b")).cloned().collect();
            let dirs = ["d/gone/", "d/s/"].into_iter().filter(|dir| step == 0 || *dir == "d/s/");
            let dirs = dirs.map(String::from).collect();
            assert_eq!(seen(&then, below).await, (direct, dirs), "step {step}");
        }
        let before = client.as_of(moments[0] - Duration::from_secs(3600));
        assert_eq!(seen(&before, ListObjectsV2::default()).await, (Vec::new(), Vec::new()));
        assert_eq!(kind(before.head_object("d/a").await), S3ErrorKind::NoSuchKey);
    }
}

async fn versions_come_in_pages(place: Place) {
    let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    place.put_document(Document::Versioning, enabled).await.unwrap();
    for key in ["d/a", "d/b", "d/c", "d/d", "d+e"] {
        place.put(key, "v").await;
    }
    let mut query = ListObjectVersions { max_keys: Some(2), ..ListObjectVersions::default() };
    let mut keys = Vec::new();
    loop {
        let page = place.client.list_object_versions(&query).await.unwrap();
        keys.extend(page.versions.into_iter().map(|version| version.key));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    match place.kind {
        Kind::Moto => assert_eq!(keys, ["d+e", "d/a", "d/b", "d/c", "d/d"]),
        // It pages in one order and answers in another (4.48).
        Kind::SeaweedFs => assert_eq!(keys, ["d/a", "d/b", "d/c", "d/d"], "d+e is lost"),
    }
}

async fn all_versions(client: &S3Client, page_keys: u32) -> Vec<ListedVersion> {
    let mut query = ListObjectVersions {
        prefix: "a ".to_string(),
        max_keys: Some(page_keys),
        ..ListObjectVersions::default()
    };
    let mut all = Vec::new();
    for _ in 0..10 {
        let page = client.list_object_versions(&query).await.unwrap();
        all.extend(page.versions);
        match page.next {
            Some(next) => query.after = Some(next),
            None => {
                // moto tells the delete markers last.
                all.sort_by_key(|v| (v.object.is_some(), !v.is_latest));
                return all;
            }
        }
    }
    panic!("a listing without end");
}

async fn archived_objects_are_restored(mut place: Place) {
    if place.kind != Kind::Moto {
        return; // SeaweedFS knows no storage classes that archive
    }
    place.boto("put_object", json!({"Key": "o", "Body": "cold", "StorageClass": "GLACIER"}));
    let object = ObjectId::current("o");
    let refused = place.client.get_object("o", None, None).await;
    assert_eq!(refused.map(|_| ()).unwrap_err().kind, S3ErrorKind::Archived);
    // S3 tells its ACL all the same.
    let acl = place.client.get_document(Document::Acl, Some(object)).await;
    assert_eq!(kind(acl), S3ErrorKind::Archived);
    place.client.restore_object(object, Some(3), Some("Bulk")).await.unwrap();
    let details = place.client.head_object_details(object).await.unwrap();
    let restore = details.headers["x-amz-restore"].to_str().unwrap();
    assert!(restore.contains("ongoing-request"), "{restore}");
    assert_eq!(place.boto("head_object", json!({"Key": "o"}))["Restore"], restore);
    assert_eq!(details.head.storage_class.as_deref(), Some("GLACIER"));
}

/// moto shows a directory of which nothing is left but delete markers.
async fn what_was_removed_is_not_listed(mut place: Place) {
    place.boto("put_bucket_versioning", json!({"VersioningConfiguration": {"Status": "Enabled"}}));
    place.put("gone/x", "x").await;
    place.client.delete_object("gone/x").await.unwrap();
    let listed = place.boto("list_objects_v2", json!({"Delimiter": "/"}));
    assert_eq!(listed["CommonPrefixes"].is_array(), place.kind == Kind::Moto, "{listed}");
}

/// SeaweedFS keeps none of a directory's marker.
async fn a_marker_carries_metadata(mut place: Place) {
    let headers = ObjectHeaders { metadata: vec![("mode".into(), "448".into())], ..Default::default() };
    place.client.put_object("d/", Vec::new(), &headers, &Precondition::None).await.unwrap();
    let told = place.boto("head_object", json!({"Key": "d/"}))["Metadata"].clone();
    assert_eq!(told["mode"] == "448", place.kind == Kind::Moto, "{told}");
}

async fn presigned_urls_are_taken_by_anybody(mut place: Place) {
    let key = "a b+c/ü";
    place.put(key, "signed").await;
    let object = ObjectId::current(key);
    let http = reqwest::Client::new();
    let hour = Duration::from_secs(3600);
    let url = place.client.presign(Presigned::Get, object, hour).await.unwrap();
    assert_eq!(http.get(&url).send().await.unwrap().text().await.unwrap(), "signed");
    let url = place.client.presign(Presigned::Put, object, hour).await.unwrap();
    assert_eq!(http.put(&url).body("anew").send().await.unwrap().status(), 200);
    assert_eq!(place.boto.get(&place.bucket, key), b"anew");
    if place.kind == Kind::SeaweedFs {
        // moto checks no signatures.
        let forged = url.replace("X-Amz-Expires=3600", "X-Amz-Expires=3601");
        assert_eq!(http.put(&forged).body("forged").send().await.unwrap().status(), 403);
    }
    let url = place.client.presign(Presigned::Delete, object, hour).await.unwrap();
    assert!(http.delete(&url).send().await.unwrap().status().is_success());
    assert_eq!(place.boto.try_get(&place.bucket, key).unwrap_err().code, "NoSuchKey");
    let too_long = place.client.presign(Presigned::Get, object, 200 * hour).await;
    assert_eq!(kind(too_long), S3ErrorKind::Refused);
}

macro_rules! on_both {
    ($($test:ident)*) => {
        on_both!(seaweedfs, Kind::SeaweedFs, $($test)*);
        on_both!(moto, Kind::Moto, $($test)*);
    };
    ($server:ident, $kind:expr, $($test:ident)*) => {
        mod $server {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(place($kind).await).await;
                }
            )*
        }
    };
}

on_both!(
    buckets_are_made_listed_and_deleted
    tags_come_and_go
    cors_come_and_go
    lifecycles_come_and_go
    policies_come_and_go
    encryption_comes_and_goes
    documents_that_a_server_does_not_know_harm_no_bucket
    websites_logging_and_notifications
    acls_are_canned_or_granted
    versions_are_kept_read_and_deleted
    a_bucket_is_listed_and_read_as_it_was
    versions_come_in_pages
    archived_objects_are_restored
    what_was_removed_is_not_listed
    a_marker_carries_metadata
    presigned_urls_are_taken_by_anybody
);
