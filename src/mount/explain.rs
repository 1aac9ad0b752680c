//! Why S3 refused the mount, in words that say what to do.
//!
//! Owns: [`explain`]: one exhaustive match over what an S3 failure means.
//! Invariant: each line names the bucket or the endpoint, and the next step; the server's own words follow.
//! Must never know: how requests are sent; the log.

use std::error::Error as _;

use crate::config::{Addressing, S3Config};
use crate::error::{Error, S3Error, S3ErrorKind};
use crate::failure::Failure;

/// The line for a mount that failed in `connect` or `probe`.
pub fn explain(error: &Error, config: &S3Config) -> Failure {
    match error {
        // Nothing was sent: a setting cannot be used, and says so itself.
        Error::S3(e) if e.tries == 0 && e.kind == S3ErrorKind::Refused => {
            Failure::new(format_args!("cannot mount s3://{}: {}", config.bucket, e.message.escape_debug()))
        }
        // The chain of credentials answers in several lines, which arrive escaped.
        Error::S3(e) => {
            let said = e.to_string().replace("\\n", "; ");
            Failure::new(format_args!("{} [{said}]", advice(e, config)))
        }
        other => {
            let cause = other.source().map(|s| format!(": {s}")).unwrap_or_default();
            Failure::new(format_args!("cannot mount s3://{}: {other}{cause}", config.bucket))
        }
    }
}

fn advice(e: &S3Error, config: &S3Config) -> String {
    let bucket = if config.bucket.is_empty() { "the list of buckets" } else { &config.bucket };
    let place = place(config);
    let region = config.region.as_deref().unwrap_or("not set");
    match e.kind {
        S3ErrorKind::NoSuchBucket | S3ErrorKind::NoSuchKey => format!(
            "there is no bucket {bucket} at {place}: check the name and --endpoint-url, or make it with \
             `pailfs s3 buckets create s3://{bucket}`{}",
            path_style_hint(config)
        ),
        S3ErrorKind::AccessDenied if !config.sign_requests => format!(
            "{place} refuses anonymous access to {bucket}: drop --no-sign-request and use credentials"
        ),
        S3ErrorKind::AccessDenied => format!(
            "{place} refuses access to {bucket}: check the credentials (and --profile), and that they \
             grant {} on it",
            if config.bucket.is_empty() { "s3:ListAllMyBuckets" } else { "s3:ListBucket" }
        ),
        S3ErrorKind::NoCredentials => format!("requests for {bucket} cannot be signed"),
        S3ErrorKind::WrongRegion => {
            format!("{bucket} is in another region (region: {region}): give the right one with --region")
        }
        S3ErrorKind::Unavailable => format!(
            "{place} gives no answer: check --endpoint-url{} and the network{}",
            if config.endpoint_url.is_none() { ", --region" } else { "" },
            path_style_hint(config)
        ),
        S3ErrorKind::Malformed => format!(
            "{place} does not answer like an S3 server: check --endpoint-url, and that no proxy is in \
             between"
        ),
        S3ErrorKind::NotImplemented => {
            format!("{place} does not know a request that pailfs needs: is it an S3 server?")
        }
        S3ErrorKind::Refused
        | S3ErrorKind::PreconditionFailed
        | S3ErrorKind::Archived
        | S3ErrorKind::InvalidRange
        | S3ErrorKind::TooLarge
        | S3ErrorKind::MetadataTooLarge
        | S3ErrorKind::BucketNotEmpty
        | S3ErrorKind::BucketExists
        | S3ErrorKind::NotSet
        | S3ErrorKind::BadDocument => format!(
            "{place} refuses a listing of {bucket} (region: {region}): check --region and --endpoint-url"
        ),
    }
}

fn place(config: &S3Config) -> &str {
    config.endpoint_url.as_deref().unwrap_or("AWS S3")
}

/// With the bucket in the host name, a server without such names is not found, or takes the host for another.
fn path_style_hint(config: &S3Config) -> &'static str {
    if config.addressing == Addressing::VirtualHost && config.endpoint_url.is_some() {
        "; or is --path-style needed?"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Encryption;
    use crate::s3::S3Client;

    fn config() -> S3Config {
        S3Config::of("data", Some("http://127.0.0.1:8333"))
    }

    fn line(kind: S3ErrorKind, config: &S3Config) -> String {
        let error = S3Error {
            operation: "ListObjectsV2",
            bucket: "data".into(),
            key: None,
            kind,
            status: Some(403),
            code: Some("Code".into()),
            message: "two\nlines".into(),
            request_id: None,
            host_id: None,
            tries: 1,
        };
        explain(&error.into(), config).to_string()
    }

    #[test]
    fn each_kind_says_what_to_do_in_one_line() {
        let table = [
            (S3ErrorKind::NoSuchBucket, "pailfs s3 buckets create s3://data"),
            (S3ErrorKind::AccessDenied, "s3:ListBucket"),
            (S3ErrorKind::NoCredentials, "cannot be signed"),
            (S3ErrorKind::WrongRegion, "--region"),
            (S3ErrorKind::Unavailable, "http://127.0.0.1:8333"),
            (S3ErrorKind::Malformed, "--endpoint-url"),
            (S3ErrorKind::NotImplemented, "S3 server"),
            (S3ErrorKind::Refused, "--region"),
        ];
        for (kind, expected) in table {
            let line = line(kind, &config());
            assert!(line.contains(expected), "{kind:?}: {line}");
            assert!(line.contains("[ListObjectsV2 s3://data"), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn advice_depends_on_what_was_asked_for() {
        let mut config = config();
        config.sign_requests = false;
        assert!(line(S3ErrorKind::AccessDenied, &config).contains("drop --no-sign-request"));
        config.addressing = Addressing::VirtualHost;
        assert!(line(S3ErrorKind::NoSuchBucket, &config).contains("--path-style"));
        config.endpoint_url = None;
        assert!(line(S3ErrorKind::Unavailable, &config).contains("AWS S3"));
    }

    #[test]
    fn what_cannot_be_set_up_is_no_servers_refusal() {
        let mut s3 = config();
        s3.requests.encryption = Some(Encryption::Customer { key_file: "/no/such/key".into() });
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let refused = runtime.block_on(S3Client::connect(&s3)).err().expect("no key");
        let line = explain(&refused.into(), &s3).to_string();
        assert!(
            line.starts_with("cannot mount s3://data: --sse-c-key-file: cannot read /no/such/key: "),
            "{line}"
        );
        assert!(line.contains("expected a key of 32 bytes") && !line.contains("--region"), "{line}");
    }

    #[test]
    fn other_errors_name_the_bucket() {
        let failure = explain(&Error::Io("broken".into()), &config());
        assert_eq!(failure.to_string(), "cannot mount s3://data: broken");
    }
}
