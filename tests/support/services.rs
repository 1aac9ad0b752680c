//! What credentials come from, as local servers answer: EC2's and the containers' metadata, STS, SSO; and one object.

use std::time::{Duration, SystemTime};

use super::stand_in::{Answer, Seen};

/// Every service at once: their paths differ.
pub fn answer(seen: &Seen) -> Answer {
    match (seen.method.as_str(), seen.path.as_str()) {
        ("HEAD", "/bucket/key") => object(),
        ("PUT", "/latest/api/token") => {
            let ttl = vec![("x-aws-ec2-metadata-token-ttl-seconds", "21600".to_string())];
            Answer(200, ttl, "imds-token".to_string())
        }
        ("GET", path) if path.starts_with("/latest/meta-data/iam/security-credentials") => {
            if seen.header("x-aws-ec2-metadata-token") != "imds-token" {
                return Answer(401, vec![], String::new());
            }
            match path.rsplit('/').next() {
                Some("instance-role") => keys("of-ec2", "ec2-token", Duration::from_secs(3600)),
                _ => Answer(200, vec![], "instance-role".to_string()),
            }
        }
        ("GET", "/v1/keys") => {
            let key = match seen.header("authorization") {
                "" => "of-container".to_string(),
                token => format!("of-container-for-{token}"),
            };
            keys(&key, "container-token", Duration::from_secs(3600))
        }
        ("GET", path) if path.starts_with("/federation/credentials") => sso(seen),
        ("POST", "/") => sts(seen),
        _ => Answer(404, vec![], String::new()),
    }
}

pub fn object() -> Answer {
    let headers = vec![
        ("content-length", "0".to_string()),
        ("etag", "\"e\"".to_string()),
        ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT".to_string()),
    ];
    Answer(200, headers, String::new())
}

pub fn keys(key: &str, token: &str, lasts: Duration) -> Answer {
    let t = time::OffsetDateTime::from(SystemTime::now() + lasts);
    let (month, (hour, minute, second)) = (u8::from(t.month()), t.to_hms());
    let expires = format!("{}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", t.year(), t.day());
    let body = serde_json::json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2024-01-01T00:00:00Z", "AccessKeyId": key,
        "SecretAccessKey": "s", "Token": token, "Expiration": expires,
    });
    Answer(200, vec![("content-type", "application/json".to_string())], body.to_string())
}

fn sso(seen: &Seen) -> Answer {
    if seen.header("x-amz-sso_bearer_token") != "sso-login" {
        return Answer(401, vec![], String::new());
    }
    let role = seen.path.split(['?', '&']).find_map(|pair| pair.strip_prefix("role_name=")).unwrap_or("");
    let body = serde_json::json!({ "roleCredentials": {
        "accessKeyId": format!("of-sso-{role}"), "secretAccessKey": "s", "sessionToken": "sso-token",
        "expiration": 4_070_908_800_000_u64,
    }});
    Answer(200, vec![("content-type", "application/json".to_string())], body.to_string())
}

/// A role's keys tell by whose they were had.
fn sts(seen: &Seen) -> Answer {
    let part = |name: &str| {
        let value = seen.body.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap_or("");
        percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned()
    };
    let (action, arn) = (part("Action="), part("RoleArn="));
    let role = arn.rsplit('/').next().unwrap_or("").to_string();
    if role == "refused" {
        let body = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>\
                    <Message>you may not assume it</Message></Error><RequestId>r</RequestId></ErrorResponse>";
        return Answer(403, vec![("content-type", "text/xml".to_string())], body.to_string());
    }
    let by = if seen.key().is_empty() { part("WebIdentityToken=") } else { seen.key().to_string() };
    let body = format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
         <AccessKeyId>role-{role}-by-{by}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
         <SessionToken>token-of-{role}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>\
         </Credentials><AssumedRoleUser><Arn>{arn}</Arn><AssumedRoleId>i</AssumedRoleId></AssumedRoleUser>\
         </{action}Result></{action}Response>"
    );
    Answer(200, vec![("content-type", "text/xml".to_string())], body)
}
