//! S3's documents as the aws CLI writes them: XML to JSON, and back.
//!
//! Owns: the table of what is called otherwise, is a list, a number or a flag there.
//! Invariant: what goes from XML to JSON and back is the same document.
//! Must never know: S3 (but its namespace), what a document is for.

use serde_json::{Map, Value};

use crate::s3::Document;
use crate::s3::xml::{Element, NAMESPACE, escape};

/// How an element stands in JSON.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// Repeated, under one name.
    List,
    /// An element that holds repeated ones of this name.
    ListOf(&'static str),
    Number,
    Flag,
    /// As it is, under another name.
    Renamed,
}

struct Row {
    element: &'static str,
    json: &'static str,
    shape: Shape,
}

const fn row(element: &'static str, json: &'static str, shape: Shape) -> Row {
    Row { element, json, shape }
}

/// What stands in all documents alike. From botocore's service model of S3.
const ROWS: &[Row] = &[
    row("AccessControlList", "Grants", Shape::ListOf("Grant")),
    row("TargetGrants", "TargetGrants", Shape::ListOf("Grant")),
    row("TagSet", "TagSet", Shape::ListOf("Tag")),
    row("RoutingRules", "RoutingRules", Shape::ListOf("RoutingRule")),
    row("CORSRule", "CORSRules", Shape::List),
    row("AllowedHeader", "AllowedHeaders", Shape::List),
    row("AllowedMethod", "AllowedMethods", Shape::List),
    row("AllowedOrigin", "AllowedOrigins", Shape::List),
    row("ExposeHeader", "ExposeHeaders", Shape::List),
    row("Rule", "Rules", Shape::List),
    row("Transition", "Transitions", Shape::List),
    row("NoncurrentVersionTransition", "NoncurrentVersionTransitions", Shape::List),
    row("TopicConfiguration", "TopicConfigurations", Shape::List),
    row("QueueConfiguration", "QueueConfigurations", Shape::List),
    row("CloudFunctionConfiguration", "LambdaFunctionConfigurations", Shape::List),
    row("Event", "Events", Shape::List),
    row("FilterRule", "FilterRules", Shape::List),
    row("MfaDelete", "MFADelete", Shape::Renamed),
    row("Topic", "TopicArn", Shape::Renamed),
    row("Queue", "QueueArn", Shape::Renamed),
    row("CloudFunction", "LambdaFunctionArn", Shape::Renamed),
    row("Days", "Days", Shape::Number),
    row("NoncurrentDays", "NoncurrentDays", Shape::Number),
    row("NewerNoncurrentVersions", "NewerNoncurrentVersions", Shape::Number),
    row("DaysAfterInitiation", "DaysAfterInitiation", Shape::Number),
    row("ObjectSizeGreaterThan", "ObjectSizeGreaterThan", Shape::Number),
    row("ObjectSizeLessThan", "ObjectSizeLessThan", Shape::Number),
    row("MaxAgeSeconds", "MaxAgeSeconds", Shape::Number),
    row("ExpiredObjectDeleteMarker", "ExpiredObjectDeleteMarker", Shape::Flag),
    row("BucketKeyEnabled", "BucketKeyEnabled", Shape::Flag),
];

/// And what only stands within a certain element.
const ROWS_WITHIN: &[(&str, Row)] = &[
    ("And", row("Tag", "Tags", Shape::List)), // of a lifecycle's filter; a lone one stands outside of `And`
    ("Filter", row("S3Key", "Key", Shape::Renamed)),
];

/// Without content they are objects without members, and no text.
const STRUCTURES: [&str; 2] = ["EventBridgeConfiguration", "Filter"];

fn rows(within: &str) -> impl Iterator<Item = &'static Row> {
    let special = ROWS_WITHIN.iter().filter(move |(parent, _)| *parent == within);
    special.map(|(_, row)| row).chain(ROWS)
}

/// What the aws CLI would print.
pub(super) fn to_json(document: Document, root: &Element) -> Value {
    let told = if root.children.is_empty() { Value::Object(Map::new()) } else { value(root) };
    match document {
        Document::Encryption => {
            Value::Object(Map::from_iter([("ServerSideEncryptionConfiguration".to_string(), told)]))
        }
        _ => told,
    }
}

fn value(element: &Element) -> Value {
    if element.children.is_empty() && !STRUCTURES.contains(&element.name.as_str()) {
        return Value::from(element.text.trim());
    }
    let mut members = Map::new();
    for child in &element.children {
        let row = rows(&element.name).find(|row| row.element == child.name);
        let name = row.map_or(child.name.as_str(), |row| row.json);
        let told = match row.map(|row| row.shape) {
            None | Some(Shape::Renamed) => value(child),
            Some(Shape::ListOf(item)) => child.children(item).map(value).collect(),
            Some(Shape::Number) => {
                child.text.trim().parse::<i64>().map_or_else(|_| value(child), Value::from)
            }
            Some(Shape::Flag) => Value::Bool(child.text.trim() == "true"),
            Some(Shape::List) => {
                let list = members.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = list {
                    items.push(value(child));
                }
                continue;
            }
        };
        members.insert(name.to_string(), told);
    }
    if element.name == "Grantee" {
        members.insert("Type".to_string(), grantee_type(|name| members.contains_key(name)).into());
    }
    Value::Object(members)
}

/// Stands in an attribute, and follows from what is there.
fn grantee_type(has: impl Fn(&str) -> bool) -> &'static str {
    match () {
        () if has("URI") => "Group",
        () if has("EmailAddress") => "AmazonCustomerByEmail",
        () => "CanonicalUser",
    }
}

/// The document as S3 takes it. Errors: what cannot stand in XML, and where.
pub(super) fn to_xml(document: Document, root: &str, told: &Value) -> Result<String, String> {
    let inner = match document {
        Document::Encryption => told.get("ServerSideEncryptionConfiguration").unwrap_or(told),
        _ => told,
    };
    let Value::Object(members) = inner else { return Err(format!("expected an object, found {inner}")) };
    let mut out = format!("<{root} xmlns=\"{NAMESPACE}\">");
    write_members(root, members, &mut out)?;
    out.push_str(&format!("</{root}>"));
    Ok(out)
}

fn write_members(within: &str, members: &Map<String, Value>, out: &mut String) -> Result<(), String> {
    for (name, value) in members {
        if name == "Type" && within == "Grantee" {
            continue;
        }
        let row =
            rows(within).find(|row| row.json == name && (row.shape != Shape::Renamed || fits(row, value)));
        let element = row.map_or(name.as_str(), |row| row.element);
        if !element.bytes().all(|b| b.is_ascii_alphanumeric()) || element.is_empty() {
            return Err(format!("`{}` is no name of S3's", name.escape_debug()));
        }
        match (row.map(|row| row.shape), value) {
            (_, Value::Null) => {}
            (Some(Shape::List), Value::Array(items)) => {
                items.iter().try_for_each(|item| write_element(element, item, out))?;
            }
            (Some(Shape::ListOf(inner)), Value::Array(items)) => {
                out.push_str(&format!("<{element}>"));
                items.iter().try_for_each(|item| write_element(inner, item, out))?;
                out.push_str(&format!("</{element}>"));
            }
            (Some(Shape::List | Shape::ListOf(_)), _) => return Err(format!("{name}: expected a list")),
            (_, Value::Array(_)) => return Err(format!("{name}: a list was not expected here")),
            (_, value) => write_element(element, value, out)?,
        }
    }
    Ok(())
}

/// `Key` within a `Filter` is `S3Key` where it holds rules; of a tag it is `Key`.
fn fits(row: &Row, value: &Value) -> bool {
    row.element != "S3Key" || value.is_object()
}

fn write_element(element: &str, value: &Value, out: &mut String) -> Result<(), String> {
    let attributes = match (element, value) {
        ("Grantee", Value::Object(members)) => {
            let kind = grantee_type(|name| members.contains_key(name));
            format!(" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{kind}\"")
        }
        _ => String::new(),
    };
    out.push_str(&format!("<{element}{attributes}>"));
    match value {
        Value::Object(members) => write_members(element, members, out)?,
        Value::String(text) => out.push_str(&escape(text)),
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        Value::Array(_) | Value::Null => return Err(format!("{element}: expected a text or an object")),
    }
    out.push_str(&format!("</{element}>"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::xml;
    use serde_json::json;

    /// As botocore prints them.
    fn documents() -> Vec<(Document, Value)> {
        let group = json!({"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"});
        let tags = json!([{"Key": "a", "Value": "b&c"}]);
        vec![
            (
                Document::Cors,
                json!({"CORSRules": [
                {"ID": "1", "AllowedHeaders": ["*"], "AllowedMethods": ["GET", "PUT"], "AllowedOrigins": ["*"],
                 "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 300},
                {"AllowedMethods": ["GET"], "AllowedOrigins": ["https://x"]}]}),
            ),
            (
                Document::Lifecycle,
                json!({"Rules": [
                {"ID": "1", "Filter": {"Prefix": "log/"}, "Status": "Enabled",
                 "Expiration": {"Days": 30}, "Transitions": [{"Days": 7, "StorageClass": "GLACIER"}],
                 "NoncurrentVersionTransitions": [{"NoncurrentDays": 3, "StorageClass": "GLACIER"}],
                 "NoncurrentVersionExpiration": {"NoncurrentDays": 9, "NewerNoncurrentVersions": 2},
                 "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}},
                {"Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Status": "Enabled",
                 "Expiration": {"ExpiredObjectDeleteMarker": true}},
                {"Filter": {"And": {"Prefix": "x", "ObjectSizeGreaterThan": 1, "Tags": tags}},
                 "Status": "Disabled", "Expiration": {"Date": "2030-01-01T00:00:00Z"}}]}),
            ),
            (
                Document::Encryption,
                json!({"ServerSideEncryptionConfiguration": {"Rules": [
                {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "k"},
                 "BucketKeyEnabled": false}]}}),
            ),
            (
                Document::Website,
                json!({"IndexDocument": {"Suffix": "index.html"},
                "ErrorDocument": {"Key": "error.html"}, "RoutingRules": [
                {"Condition": {"KeyPrefixEquals": "a/"}, "Redirect": {"ReplaceKeyPrefixWith": "b/"}}]}),
            ),
            (
                Document::Logging,
                json!({"LoggingEnabled": {"TargetBucket": "b", "TargetPrefix": "p",
                "TargetGrants": [{"Grantee": group, "Permission": "READ"}]}}),
            ),
            (
                Document::Notification,
                json!({
                "TopicConfigurations": [{"Id": "t", "TopicArn": "arn:t", "Events": ["s3:ObjectCreated:*"]}],
                "QueueConfigurations": [{"QueueArn": "arn:q", "Events": ["s3:ObjectRemoved:*"],
                    "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "x/"}]}}}],
                "LambdaFunctionConfigurations": [{"LambdaFunctionArn": "arn:l", "Events": ["a", "b"]}],
                "EventBridgeConfiguration": {}}),
            ),
            (Document::Tagging, json!({"TagSet": tags})),
            (Document::Versioning, json!({"Status": "Enabled", "MFADelete": "Disabled"})),
            (
                Document::Acl,
                json!({"Owner": {"ID": "me"}, "Grants": [
                {"Grantee": group, "Permission": "READ"},
                {"Grantee": {"ID": "me", "Type": "CanonicalUser"}, "Permission": "FULL_CONTROL"}]}),
            ),
        ]
    }

    #[test]
    fn documents_go_to_xml_and_back() {
        for (document, told) in documents() {
            let text = to_xml(document, document.root().unwrap(), &told).unwrap();
            let back = to_json(document, &xml::parse(text.as_bytes()).unwrap());
            assert_eq!(back, told, "{text}");
        }
    }

    #[test]
    fn the_xml_is_s3s() {
        let told = json!({"Grants": [{"Grantee": {"URI": "u", "Type": "Group"}, "Permission": "READ"}]});
        assert_eq!(
            to_xml(Document::Acl, "AccessControlPolicy", &told).unwrap(),
            "<AccessControlPolicy xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><AccessControlList><Grant>\
             <Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"Group\"><URI>u</URI>\
             </Grantee><Permission>READ</Permission></Grant></AccessControlList></AccessControlPolicy>"
        );
        let filter = json!({"QueueConfigurations": [{"Filter": {"Key": {"FilterRules": []}}}]});
        let text = to_xml(Document::Notification, "NotificationConfiguration", &filter).unwrap();
        assert!(text.contains("<Filter><S3Key></S3Key></Filter>"), "{text}");
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for wrong in [
            json!([]),
            json!("text"),
            json!({"CORSRules": {}}),
            json!({"CORSRules": [["x"]]}),
            json!({"Status": ["x"]}),
            json!({"a b": "x"}),
            json!({"": "x"}),
        ] {
            assert!(to_xml(Document::Cors, "CORSConfiguration", &wrong).is_err(), "{wrong}");
        }
    }
}
