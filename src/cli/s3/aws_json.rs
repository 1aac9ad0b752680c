//! S3's documents as the aws CLI writes them: XML to JSON, and back.
//!
//! Owns: what may stand in each document, and what it is called, a list, a number or a flag in JSON.
//! Invariants: what goes from XML to JSON and back is the same document; JSON that says what no document can hold, or
//! leaves out what it must, is refused, for S3 would take a document without it.
//! Must never know: S3 (but its namespace), what a document is for.

use serde_json::{Map, Value};

use crate::s3::Document;
use crate::s3::xml::{Element, NAMESPACE, escape};

/// What an element holds.
enum Shape {
    Text,
    Number,
    Flag,
    Structure(&'static [Field]),
    /// Elements of this name, in one that holds them together.
    ListOf(&'static str, &'static Shape),
    /// The element itself, repeated.
    Repeated(&'static Shape),
    /// Stands in an attribute of the structure it is a member of, and follows from the other members.
    GranteeType,
}

struct Field {
    json: &'static str,
    element: &'static str,
    shape: Shape,
    is_needed: bool,
}

impl Field {
    const fn called(mut self, json: &'static str) -> Field {
        self.json = json;
        self
    }
}

const fn may(element: &'static str, shape: Shape) -> Field {
    Field { json: element, element, shape, is_needed: false }
}

const fn must(element: &'static str, shape: Shape) -> Field {
    Field { is_needed: true, ..may(element, shape) }
}

use Shape::{Flag, GranteeType, ListOf, Number, Repeated, Structure, Text};

// From botocore's service model of S3.

const TAG: Shape = Structure(&[must("Key", Text), must("Value", Text)]);

const GRANT: Shape = Structure(&[
    may(
        "Grantee",
        Structure(&[
            may("DisplayName", Text),
            may("EmailAddress", Text),
            may("ID", Text),
            may("URI", Text),
            may("Type", GranteeType),
        ]),
    ),
    may("Permission", Text),
]);

const ACL: &[Field] = &[
    may("Owner", Structure(&[may("DisplayName", Text), may("ID", Text)])),
    must("AccessControlList", ListOf("Grant", &GRANT)).called("Grants"),
];

const CORS: &[Field] = &[must(
    "CORSRule",
    Repeated(&Structure(&[
        may("ID", Text),
        may("AllowedHeader", Repeated(&Text)).called("AllowedHeaders"),
        must("AllowedMethod", Repeated(&Text)).called("AllowedMethods"),
        must("AllowedOrigin", Repeated(&Text)).called("AllowedOrigins"),
        may("ExposeHeader", Repeated(&Text)).called("ExposeHeaders"),
        may("MaxAgeSeconds", Number),
    ])),
)
.called("CORSRules")];

const ENCRYPTION: &[Field] = &[must(
    "Rule",
    Repeated(&Structure(&[
        may(
            "ApplyServerSideEncryptionByDefault",
            Structure(&[must("SSEAlgorithm", Text), may("KMSMasterKeyID", Text)]),
        ),
        may("BucketKeyEnabled", Flag),
        may("BlockedEncryptionTypes", Structure(&[may("EncryptionType", Repeated(&Text))])),
    ])),
)
.called("Rules")];

const LIFECYCLE: &[Field] = &[must(
    "Rule",
    Repeated(&Structure(&[
        may(
            "Expiration",
            Structure(&[may("Date", Text), may("Days", Number), may("ExpiredObjectDeleteMarker", Flag)]),
        ),
        may("ID", Text),
        may("Prefix", Text),
        may(
            "Filter",
            Structure(&[
                may("Prefix", Text),
                may("Tag", TAG),
                may("ObjectSizeGreaterThan", Number),
                may("ObjectSizeLessThan", Number),
                may(
                    "And",
                    Structure(&[
                        may("Prefix", Text),
                        may("Tag", Repeated(&TAG)).called("Tags"),
                        may("ObjectSizeGreaterThan", Number),
                        may("ObjectSizeLessThan", Number),
                    ]),
                ),
            ]),
        ),
        must("Status", Text),
        may(
            "Transition",
            Repeated(&Structure(&[may("Date", Text), may("Days", Number), may("StorageClass", Text)])),
        )
        .called("Transitions"),
        may(
            "NoncurrentVersionTransition",
            Repeated(&Structure(&[
                may("NoncurrentDays", Number),
                may("StorageClass", Text),
                may("NewerNoncurrentVersions", Number),
            ])),
        )
        .called("NoncurrentVersionTransitions"),
        may(
            "NoncurrentVersionExpiration",
            Structure(&[may("NoncurrentDays", Number), may("NewerNoncurrentVersions", Number)]),
        ),
        may("AbortIncompleteMultipartUpload", Structure(&[may("DaysAfterInitiation", Number)])),
    ])),
)
.called("Rules")];

const LOGGING: &[Field] = &[may(
    "LoggingEnabled",
    Structure(&[
        must("TargetBucket", Text),
        must("TargetPrefix", Text),
        may("TargetGrants", ListOf("Grant", &GRANT)),
        may(
            "TargetObjectKeyFormat",
            Structure(&[
                may("SimplePrefix", Structure(&[])),
                may("PartitionedPrefix", Structure(&[may("PartitionDateSource", Text)])),
            ]),
        ),
    ]),
)];

const ID: Field = may("Id", Text);
const EVENTS: Field = must("Event", Repeated(&Text)).called("Events");
const EVENT_FILTER: Field = may(
    "Filter",
    Structure(&[may(
        "S3Key",
        Structure(&[may("FilterRule", Repeated(&Structure(&[may("Name", Text), may("Value", Text)])))
            .called("FilterRules")]),
    )
    .called("Key")]),
);

const NOTIFICATION: &[Field] = &[
    may(
        "TopicConfiguration",
        Repeated(&Structure(&[ID, must("Topic", Text).called("TopicArn"), EVENTS, EVENT_FILTER])),
    )
    .called("TopicConfigurations"),
    may(
        "QueueConfiguration",
        Repeated(&Structure(&[ID, must("Queue", Text).called("QueueArn"), EVENTS, EVENT_FILTER])),
    )
    .called("QueueConfigurations"),
    may(
        "CloudFunctionConfiguration",
        Repeated(&Structure(&[
            ID,
            must("CloudFunction", Text).called("LambdaFunctionArn"),
            EVENTS,
            EVENT_FILTER,
        ])),
    )
    .called("LambdaFunctionConfigurations"),
    may("EventBridgeConfiguration", Structure(&[])),
];

const TAGGING: &[Field] = &[must("TagSet", ListOf("Tag", &TAG))];

const VERSIONING: &[Field] = &[may("Status", Text), may("MfaDelete", Text).called("MFADelete")];

const WEBSITE: &[Field] = &[
    may("ErrorDocument", Structure(&[must("Key", Text)])),
    may("IndexDocument", Structure(&[must("Suffix", Text)])),
    may("RedirectAllRequestsTo", Structure(&[must("HostName", Text), may("Protocol", Text)])),
    may(
        "RoutingRules",
        ListOf(
            "RoutingRule",
            &Structure(&[
                may(
                    "Condition",
                    Structure(&[may("HttpErrorCodeReturnedEquals", Text), may("KeyPrefixEquals", Text)]),
                ),
                must(
                    "Redirect",
                    Structure(&[
                        may("HostName", Text),
                        may("HttpRedirectCode", Text),
                        may("Protocol", Text),
                        may("ReplaceKeyPrefixWith", Text),
                        may("ReplaceKeyWith", Text),
                    ]),
                ),
            ]),
        ),
    ),
];

/// None: it is JSON as it is.
fn fields(document: Document) -> Option<&'static [Field]> {
    Some(match document {
        Document::Acl => ACL,
        Document::Cors => CORS,
        Document::Encryption => ENCRYPTION,
        Document::Lifecycle => LIFECYCLE,
        Document::Logging => LOGGING,
        Document::Notification => NOTIFICATION,
        Document::Policy => return None,
        Document::Tagging => TAGGING,
        Document::Versioning => VERSIONING,
        Document::Website => WEBSITE,
    })
}

/// What stands within an object of its document's name, in what the aws CLI prints.
fn wrapper(document: Document) -> Option<&'static str> {
    (document == Document::Encryption).then_some("ServerSideEncryptionConfiguration")
}

/// What the aws CLI would print.
pub(super) fn to_json(document: Document, root: &Element) -> Value {
    let told = structure(fields(document).unwrap_or_default(), root);
    match wrapper(document) {
        Some(name) => Value::Object(Map::from_iter([(name.to_string(), told)])),
        None => told,
    }
}

/// What no field is known for is shown all the same.
fn value(shape: Option<&Shape>, element: &Element) -> Value {
    let text = element.text.trim();
    match shape {
        Some(Structure(fields)) => structure(fields, element),
        Some(ListOf(name, item)) => element.children(name).map(|child| value(Some(*item), child)).collect(),
        Some(Number) => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        Some(Flag) => Value::Bool(text == "true"),
        None if !element.children.is_empty() => structure(&[], element),
        Some(Text | Repeated(_) | GranteeType) | None => text.into(),
    }
}

fn structure(fields: &[Field], element: &Element) -> Value {
    let mut members = Map::new();
    for child in &element.children {
        let field = fields.iter().find(|field| field.element == child.name);
        let name = field.map_or(child.name.as_str(), |field| field.json);
        match field.map(|field| &field.shape) {
            Some(Repeated(item)) => {
                let list = members.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = list {
                    items.push(value(Some(*item), child));
                }
            }
            shape => {
                members.insert(name.to_string(), value(shape, child));
            }
        }
    }
    if let Some(field) = grantee_type_of(fields) {
        let told = grantee_type(|name| members.contains_key(name));
        members.insert(field.json.to_string(), told.into());
    }
    Value::Object(members)
}

fn grantee_type_of(fields: &[Field]) -> Option<&Field> {
    fields.iter().find(|field| matches!(field.shape, GranteeType))
}

fn grantee_type(has: impl Fn(&str) -> bool) -> &'static str {
    match () {
        () if has("URI") => "Group",
        () if has("EmailAddress") => "AmazonCustomerByEmail",
        () => "CanonicalUser",
    }
}

/// The document as S3 takes it. Errors: what is no such document, and where.
pub(super) fn to_xml(document: Document, root: &str, told: &Value) -> Result<String, String> {
    let wrapped = |name| told.as_object().filter(|members| members.len() == 1)?.get(name);
    let inner = wrapper(document).and_then(wrapped).unwrap_or(told);
    let fields = fields(document).ok_or("a document that is JSON already")?;
    let mut out = format!("<{root} xmlns=\"{NAMESPACE}\">");
    write_members("", fields, inner, &mut out)?;
    out.push_str(&format!("</{root}>"));
    Ok(out)
}

/// `at`: where the value stands.
fn write_members(at: &str, fields: &[Field], told: &Value, out: &mut String) -> Result<(), String> {
    let Value::Object(members) = told else { return Err(expected(at, "an object", told)) };
    let known = |name: &str| fields.iter().any(|field| field.json == name);
    if let Some(name) = members.keys().find(|name| !known(name)) {
        let names: Vec<&str> = fields.iter().map(|field| field.json).collect();
        let at = if at.is_empty() { "" } else { &format!("{at}: ") };
        return Err(match names[..] {
            [] => format!("{at}`{}` is not known, nothing may stand there", name.escape_debug()),
            _ => format!("{at}`{}` is not known, expected {}", name.escape_debug(), names.join(", ")),
        });
    }
    for field in fields {
        let at = if at.is_empty() { field.json } else { &format!("{at}.{}", field.json) };
        let value = members.get(field.json).filter(|value| !value.is_null());
        if field.is_needed && value.is_none_or(|value| is_nothing(&field.shape, value)) {
            return Err(format!("{at} is missing"));
        }
        if let Some(value) = value {
            write_element(at, field.element, &field.shape, value, out)?;
        }
    }
    Ok(())
}

/// Of an empty list there is no element at all.
fn is_nothing(shape: &Shape, value: &Value) -> bool {
    matches!(shape, Repeated(_)) && value.as_array().is_some_and(Vec::is_empty)
}

fn write_element(
    at: &str,
    element: &str,
    shape: &Shape,
    told: &Value,
    out: &mut String,
) -> Result<(), String> {
    let mut text = |text: &str| out.push_str(&format!("<{element}>{}</{element}>", escape(text)));
    match (shape, told) {
        (Text, Value::String(told)) => text(told),
        (Number, Value::Number(number)) => text(&number.to_string()),
        (Flag, Value::Bool(flag)) => text(&flag.to_string()),
        (Text, _) => return Err(expected(at, "a text", told)),
        (Number, _) => return Err(expected(at, "a number", told)),
        (Flag, _) => return Err(expected(at, "true or false", told)),
        (GranteeType, _) => {}
        (Repeated(item), Value::Array(items)) => {
            items.iter().try_for_each(|told| write_element(at, element, item, told, out))?;
        }
        (ListOf(name, item), Value::Array(items)) => {
            out.push_str(&format!("<{element}>"));
            items.iter().try_for_each(|told| write_element(at, name, item, told, out))?;
            out.push_str(&format!("</{element}>"));
        }
        (Repeated(_) | ListOf(..), _) => return Err(expected(at, "a list", told)),
        (Structure(fields), _) => {
            let kind = grantee_type(|name| told.get(name).is_some());
            let attributes = grantee_type_of(fields).map_or(String::new(), |_| {
                format!(" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{kind}\"")
            });
            out.push_str(&format!("<{element}{attributes}>"));
            write_members(at, fields, told, out)?;
            out.push_str(&format!("</{element}>"));
        }
    }
    Ok(())
}

fn expected(at: &str, what: &str, found: &Value) -> String {
    let at = if at.is_empty() { "" } else { &format!("{at}: ") };
    format!("{at}expected {what}, found {found}")
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
        let filter = json!({"QueueConfigurations": [{"QueueArn": "q", "Events": ["e"], "Filter": {"Key": {"FilterRules": []}}}]});
        let text = to_xml(Document::Notification, "NotificationConfiguration", &filter).unwrap();
        assert!(text.contains("<Filter><S3Key></S3Key></Filter>"), "{text}");
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let rule = json!({"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]});
        let with = |name: &str, value: Value| {
            let mut rule = rule.clone();
            rule[name] = value;
            json!({"CORSRules": [rule]})
        };
        let why = |document: Document, told: Value| {
            to_xml(document, document.root().unwrap(), &told).expect_err(&told.to_string())
        };
        for (wrong, words) in [
            (json!([]), "expected an object, found []"),
            (json!("text"), "expected an object"),
            (json!({}), "CORSRules is missing"),
            (json!({"CORSRules": []}), "CORSRules is missing"),
            (json!({"CORSRules": {}}), "CORSRules: expected a list, found {}"),
            (json!({"CORSRules": [["x"]]}), "CORSRules: expected an object, found [\"x\"]"),
            (json!({"CORSRules": [{"AllowedMethods": ["GET"]}]}), "CORSRules.AllowedOrigins is missing"),
            (
                json!({"CORSConfiguration": {"CORSRules": []}}),
                "`CORSConfiguration` is not known, expected CORSRules",
            ),
            (with("AllowedOrigin", json!(["*"])), "CORSRules: `AllowedOrigin` is not known, expected ID, "),
            (with("a\nb", json!("x")), "`a\\nb` is not known"),
            (with("MaxAgeSeconds", json!("9")), "CORSRules.MaxAgeSeconds: expected a number, found \"9\""),
            (with("ID", json!(["x"])), "CORSRules.ID: expected a text"),
        ] {
            let why = why(Document::Cors, wrong);
            assert!(why.contains(words), "{why}");
        }
        // S3 would take all of these for a document that says nothing, in place of the one there was.
        for (document, wrong) in [
            (Document::Lifecycle, json!({"bogus": 1})),
            (Document::Lifecycle, json!({"LifecycleConfiguration": {"Rules": []}})),
            (Document::Encryption, json!({"ServerSideEncryptionConfiguration": {"Rules": []}, "x": 1})),
            (Document::Website, json!({"index": 1})),
            (Document::Logging, json!({"loggingEnabled": {}})),
            (Document::Logging, json!({"LoggingEnabled": {}})),
            (Document::Notification, json!({"TopicConfiguration": []})),
            (Document::Notification, json!({"EventBridgeConfiguration": {"x": 1}})),
            (Document::Tagging, json!({"Tags": []})),
            (Document::Acl, json!({"AccessControlList": []})),
            (Document::Versioning, json!({"status": "Enabled"})),
        ] {
            why(document, wrong);
        }
        assert!(to_xml(Document::Versioning, "V", &json!({"Status": null, "MFADelete": "Disabled"})).is_ok());
    }

    #[test]
    fn what_is_not_known_is_shown() {
        let xml =
            xml::parse(b"<CORSConfiguration><New><A>1</A></New><Odd>x</Odd></CORSConfiguration>").unwrap();
        assert_eq!(to_json(Document::Cors, &xml), json!({"New": {"A": "1"}, "Odd": "x"}));
    }
}
