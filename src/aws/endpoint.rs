//! Where a request goes: region, endpoint, addressing style, bucket and key to host and encoded path.
//!
//! Owns: [`Endpoint`], AWS's host names by region, the choice between virtual host and path.
//! Invariants: the host and path answered here are byte for byte what goes on the wire, so that they can be
//! signed; no key ever addresses another object than its own (see [`Endpoint::locate`]).
//! Must never know: how requests are signed or sent.

use crate::arn::{self, AccessPoint};
use crate::aws::sign::{encode_path, encode_query};
use crate::config::{Addressing, AwsHosts, S3Config};

/// The service a bucket is reached at.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Empty: the service itself is meant.
    bucket: String,
    /// The bucket is named before the host; none: in the path.
    label: Option<String>,
    /// The bucket is an access point of this region.
    access_point: Option<String>,
    /// It is reached by Transfer Acceleration.
    accelerated: bool,
    addressing: Addressing,
    base: Base,
}

#[derive(Debug, Clone)]
enum Base {
    /// By region.
    Aws(AwsHosts),
    Custom {
        scheme: String,
        /// `host[:port]` as the Host header says it.
        authority: String,
    },
}

/// A request's way: put together they are the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub scheme: String,
    /// `host[:port]`
    pub host: String,
    /// Percent-encoded; begins with `/`.
    pub path: String,
}

impl Location {
    /// `query` is encoded and without `?`.
    pub fn url(&self, query: &str) -> String {
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}://{}{}{mark}{query}", self.scheme, self.host, self.path)
    }
}

/// An endpoint, bucket, region or key that no request can be sent for. Its text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EndpointError(pub String);

impl Endpoint {
    /// Of the configuration's bucket; an empty one: the service itself.
    pub fn new(config: &S3Config) -> Result<Endpoint, EndpointError> {
        let base = match &config.endpoint_url {
            None => Base::Aws(config.hosts),
            Some(url) => parse_base(url)?,
        };
        Endpoint::of(base, config.addressing, &config.bucket)
    }

    /// The same service for another bucket; an empty one: the service itself.
    pub fn for_bucket(&self, bucket: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::of(self.base.clone(), self.addressing, bucket)
    }

    fn of(base: Base, addressing: Addressing, bucket: &str) -> Result<Endpoint, EndpointError> {
        let point = arn::access_point(bucket).map_err(|why| EndpointError(format!("{bucket}: {why}")))?;
        // Not the service itself, nor those of an account's buckets whose names the certificate does not cover.
        let accelerates = matches!(base, Base::Aws(hosts) if hosts.accelerate);
        let accelerated = accelerates && is_host_label(bucket);
        let label = match point {
            // It has no other form.
            Some(AccessPoint { name, account, .. }) => Some(format!("{name}-{account}")),
            None => in_host(&base, addressing, bucket)?.then(|| bucket.to_string()),
        };
        let access_point = point.map(|point| point.region.to_string());
        Ok(Endpoint { bucket: bucket.to_string(), label, access_point, accelerated, addressing, base })
    }

    /// The same bucket in its region, for what cannot be accelerated. None: nothing is accelerated.
    pub fn unaccelerated(&self) -> Option<Endpoint> {
        self.accelerated.then(|| Endpoint { accelerated: false, ..self.clone() })
    }

    /// Where requests go first, and for what region they are signed: an access point's own, else the one
    /// configured, else the one that the endpoint's host names. None: none says it.
    pub fn region<'a>(&'a self, configured: Option<&'a str>) -> Option<&'a str> {
        let told = || match &self.base {
            Base::Aws(_) => None,
            Base::Custom { authority, .. } => region_of_host(authority),
        };
        self.access_point.as_deref().or(configured).or_else(told)
    }

    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    pub fn is_tls(&self) -> bool {
        match &self.base {
            Base::Aws(_) => true,
            Base::Custom { scheme, .. } => scheme == "https",
        }
    }

    /// Where the bucket is, or a key in it. Refuses the keys that cannot be sent as they are: the empty one
    /// (it would name the bucket), and those with a segment `.` or `..`, which every HTTP stack on the way,
    /// ours first (the `url` crate, even when written `%2e`), takes for steps in the path: the request
    /// would reach another object.
    pub fn locate(&self, region: &str, key: Option<&str>) -> Result<Location, EndpointError> {
        if let Some(key) = key {
            check_key(key)?;
            if self.bucket.is_empty() {
                return Err(EndpointError(format!("key {key:?} is in no bucket")));
            }
        }
        let (scheme, authority) = match &self.base {
            Base::Custom { scheme, authority } => (scheme.as_str(), authority.clone()),
            Base::Aws(hosts) => ("https", self.aws_host(*hosts, region)?),
        };
        let key = key.map(encode_path);
        let (host, mut path) = match &self.label {
            Some(label) => (format!("{label}.{authority}"), String::new()),
            None if self.bucket.is_empty() => (authority, String::new()),
            None => (authority, format!("/{}", encode_query(&self.bucket))),
        };
        if let Some(key) = &key {
            path.push('/');
            path.push_str(key);
        } else if path.is_empty() {
            path.push('/');
        }
        Ok(Location { scheme: scheme.to_string(), host, path })
    }

    /// <https://docs.aws.amazon.com/general/latest/gr/s3.html>; which go together:
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/dual-stack-endpoints.html>.
    fn aws_host(&self, hosts: AwsHosts, region: &str) -> Result<String, EndpointError> {
        if !is_host_label(region) {
            return Err(EndpointError(format!(
                "{region:?} is not a region: expected something like eu-west-1"
            )));
        }
        let china = region.starts_with("cn-");
        let none = |what: &str| Err(EndpointError(format!("in {region} S3 has no {what}")));
        let dual_stack = if hosts.dual_stack { "dualstack." } else { "" };
        let suffix = domain_of(region);
        if self.accelerated {
            return match suffix {
                "amazonaws.com" => Ok(format!("s3-accelerate.{dual_stack}{suffix}")),
                _ => none("Transfer Acceleration"),
            };
        }
        let service = if self.access_point.is_some() { "s3-accesspoint" } else { "s3" };
        let fips = if hosts.fips { "-fips" } else { "" };
        if hosts.fips && china {
            return none("FIPS hosts");
        }
        Ok(format!("{service}{fips}.{dual_stack}{region}.{suffix}"))
    }
}

/// The region in the name of an S3 host: `bucket.s3.eu-west-1.amazonaws.com`, `s3-eu-west-1.amazonaws.com`,
/// `bucket.vpce-1a2b-3c.s3.eu-west-1.vpce.amazonaws.com`.
pub fn region_of_host(host: &str) -> Option<&str> {
    let host = host.split(':').next()?;
    let labels = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let labels = labels.strip_suffix(".vpce").unwrap_or(labels);
    let (before, last) = labels.rsplit_once('.').unwrap_or(("", labels));
    let service = before.rsplit('.').next().unwrap_or(before);
    let region = match last.strip_prefix("s3-") {
        Some(region) => region,
        None if service == "dualstack" || service == "s3" || service.starts_with("s3-") => last,
        None => return None,
    };
    // `s3-accelerate` names none.
    (is_host_label(region) && region.matches('-').count() >= 2).then_some(region)
}

fn domain_of(region: &str) -> &'static str {
    match region {
        r if r.starts_with("cn-") => "amazonaws.com.cn",
        r if r.starts_with("us-iso-") => "c2s.ic.gov",
        r if r.starts_with("us-isob-") => "sc2s.sgov.gov",
        r if r.starts_with("eu-isoe-") => "cloud.adc-e.uk",
        r if r.starts_with("us-isof-") => "csp.hci.ic.gov",
        r if r.starts_with("eusc-") => "amazonaws.eu",
        _ => "amazonaws.com",
    }
}

/// Whether the bucket is named in the host.
fn in_host(base: &Base, addressing: Addressing, bucket: &str) -> Result<bool, EndpointError> {
    if bucket.is_empty() {
        return Ok(false);
    }
    check_bucket(bucket)?;
    let virtual_host = match (addressing, base) {
        (Addressing::Path, _) | (Addressing::Auto, Base::Custom { .. }) => false,
        // No name resolves below an address.
        (_, Base::Custom { authority, .. }) if is_address(authority) => false,
        // The certificate's `*` covers one label: a bucket with dots would not match it.
        (Addressing::Auto, Base::Aws(_)) => is_host_label(bucket),
        (Addressing::VirtualHost, _) => true,
    };
    if virtual_host && !bucket.split('.').all(is_host_label) {
        return Err(EndpointError(format!(
            "bucket {bucket:?} cannot be part of a host name: use --path-style"
        )));
    }
    Ok(virtual_host)
}

/// `authority` as URLs have it.
fn is_address(authority: &str) -> bool {
    authority.starts_with('[')
        || authority.split(':').next().is_some_and(|host| host.parse::<std::net::Ipv4Addr>().is_ok())
}

/// The same parser the transport uses, so that the host we sign is the host that is sent.
fn parse_base(text: &str) -> Result<Base, EndpointError> {
    let bad = |why: &str| {
        EndpointError(format!("endpoint {text:?} {why}: expected http://host[:port] or https://host[:port]"))
    };
    let url = reqwest::Url::parse(text).map_err(|e| bad(&format!("is not a URL ({e})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("has another scheme"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("holds a user name or password"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("holds a path, query or fragment"));
    }
    let host = url.host_str().ok_or_else(|| bad("names no host"))?;
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_string(),
    };
    Ok(Base::Custom { scheme: url.scheme().to_string(), authority })
}

fn check_bucket(bucket: &str) -> Result<(), EndpointError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if bucket.is_empty() || bucket.len() > 255 || matches!(bucket, "." | "..") || !bucket.bytes().all(fine) {
        return Err(EndpointError(format!(
            "{bucket:?} is not a bucket name: expected letters, digits, '-', '.'"
        )));
    }
    Ok(())
}

/// Whether a key can be sent as it is; see [`Endpoint::locate`].
pub fn check_key(key: &str) -> Result<(), EndpointError> {
    if key.is_empty() {
        return Err(EndpointError("an object's key cannot be empty".to_string()));
    }
    if key.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(EndpointError(format!(
            "key {key:?} has a segment '.' or '..': HTTP would resolve it and reach another object"
        )));
    }
    Ok(())
}

fn is_host_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(url: Option<&str>, addressing: Addressing, bucket: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::new(&S3Config { addressing, ..S3Config::of(bucket, url) })
    }

    fn url(of: Option<&str>, style: Addressing, bucket: &str, key: Option<&str>) -> String {
        endpoint(of, style, bucket).unwrap().locate("eu-west-1", key).unwrap().url("")
    }

    #[test]
    fn aws_is_addressed_by_virtual_host_unless_the_name_has_dots() {
        let auto = Addressing::Auto;
        assert_eq!(url(None, auto, "photos", Some("a/b")), "https://photos.s3.eu-west-1.amazonaws.com/a/b");
        assert_eq!(url(None, auto, "photos", None), "https://photos.s3.eu-west-1.amazonaws.com/");
        assert_eq!(url(None, auto, "my.photos", Some("a")), "https://s3.eu-west-1.amazonaws.com/my.photos/a");
        assert_eq!(url(None, auto, "Old_Name", Some("a")), "https://s3.eu-west-1.amazonaws.com/Old_Name/a");
        assert_eq!(url(None, Addressing::Path, "photos", None), "https://s3.eu-west-1.amazonaws.com/photos");
    }

    #[test]
    fn without_a_bucket_it_is_the_service_itself() {
        let aws = endpoint(None, Addressing::VirtualHost, "photos").unwrap();
        let at = |endpoint: &Endpoint| endpoint.locate("eu-west-1", None).unwrap().url("");
        let service = aws.for_bucket("").unwrap();
        assert_eq!(at(&service), "https://s3.eu-west-1.amazonaws.com/");
        assert_eq!(at(&service.for_bucket("films").unwrap()), "https://films.s3.eu-west-1.amazonaws.com/");
        assert_eq!(url(Some("http://gate"), Addressing::Auto, "", None), "http://gate/");
        assert!(service.for_bucket("..").is_err());
        assert!(service.locate("eu-west-1", Some("k")).is_err(), "k would be a bucket");
    }

    #[test]
    fn an_endpoint_is_addressed_by_path_unless_told_otherwise() {
        assert_eq!(
            url(Some("http://127.0.0.1:8333/"), Addressing::Auto, "b", Some("k")),
            "http://127.0.0.1:8333/b/k"
        );
        assert_eq!(
            url(Some("https://S3.Example.org:443"), Addressing::VirtualHost, "b", Some("k")),
            "https://b.s3.example.org/k"
        );
        assert_eq!(url(Some("http://gate"), Addressing::Auto, "b", None), "http://gate/b");
    }

    #[test]
    fn other_partitions() {
        let e = endpoint(None, Addressing::Auto, "b").unwrap();
        let host = |region| e.locate(region, None).unwrap().host;
        assert_eq!(host("cn-north-1"), "b.s3.cn-north-1.amazonaws.com.cn");
        assert_eq!(host("us-gov-west-1"), "b.s3.us-gov-west-1.amazonaws.com");
        assert!(e.locate("evil.example/", None).is_err());
    }

    /// What botocore makes of the same: `tests/addresses.rs`.
    #[test]
    fn what_regions_lack_is_told() {
        let hosts =
            |hosts: AwsHosts| Endpoint::new(&S3Config { hosts, ..S3Config::of("data", None) }).unwrap();
        let fips = hosts(AwsHosts { fips: true, ..AwsHosts::default() });
        let accelerated = hosts(AwsHosts { accelerate: true, ..AwsHosts::default() });
        for endpoint in [&fips, &accelerated] {
            let e = endpoint.locate("cn-north-1", None).unwrap_err().to_string();
            assert!(e.contains("in cn-north-1 S3 has no"), "{e}");
        }
        let host = |endpoint: &Endpoint| endpoint.locate("eu-west-1", None).unwrap().host;
        let service = accelerated.for_bucket("").unwrap();
        assert_eq!(host(&service), "s3.eu-west-1.amazonaws.com");
        // Of an account's buckets: those that the certificate does not cover.
        let dotted = service.for_bucket("my.data").unwrap();
        let location = dotted.locate("eu-west-1", None).unwrap();
        assert_eq!(location.url(""), "https://s3.eu-west-1.amazonaws.com/my.data");
        assert_eq!(host(&dotted.for_bucket("data").unwrap()), "data.s3-accelerate.amazonaws.com");
    }

    #[test]
    fn who_says_the_region() {
        let at = |url, bucket, configured| {
            let endpoint = endpoint(url, Addressing::Auto, bucket).unwrap();
            endpoint.region(configured).map(String::from)
        };
        let vpc = Some("https://bucket.vpce-1a2b-3c.s3.us-east-1.vpce.amazonaws.com");
        let arn = "arn:aws:s3:us-west-2:123456789012:accesspoint:name";
        assert_eq!(at(None, "data", None), None);
        assert_eq!(at(vpc, "data", None).as_deref(), Some("us-east-1"));
        assert_eq!(at(vpc, "data", Some("eu-west-1")).as_deref(), Some("eu-west-1"));
        assert_eq!(at(vpc, arn, Some("eu-west-1")).as_deref(), Some("us-west-2"));
    }

    #[test]
    fn keys_are_encoded_once_and_byte_for_byte() {
        let path = |key| {
            endpoint(Some("http://h"), Addressing::Auto, "b").unwrap().locate("r", Some(key)).unwrap().path
        };
        assert_eq!(path("a b"), "/b/a%20b");
        assert_eq!(path("a+b"), "/b/a%2Bb");
        assert_eq!(path("ü"), "/b/%C3%BC");
        assert_eq!(path("%41"), "/b/%2541");
        assert_eq!(path("\x01"), "/b/%01");
        assert_eq!(path("a//b/"), "/b/a//b/");
        assert_eq!(path("/a"), "/b//a");
        assert_eq!(path("~*'()!"), "/b/~%2A%27%28%29%21");
        assert_eq!(path("..."), "/b/...");
        assert_eq!(path("%2e%2e/x"), "/b/%252e%252e/x");
    }

    #[test]
    fn keys_that_would_reach_another_object_are_refused() {
        let e = endpoint(None, Addressing::Auto, "b").unwrap();
        for key in ["", ".", "..", "a/../b", "a/.", "./a"] {
            assert!(e.locate("us-east-1", Some(key)).is_err(), "{key}");
        }
    }

    #[test]
    fn bad_endpoints_and_buckets_say_what_was_expected() {
        for bad in ["localhost:9000", "ftp://h", "http://u:p@h", "http://h/?x=1", "http://h/path", "http://"]
        {
            let e = endpoint(Some(bad), Addressing::Auto, "b").unwrap_err();
            assert!(e.to_string().contains("expected http"), "{e}");
        }
        for bad in ["..", "a/b", "ü"] {
            assert!(endpoint(None, Addressing::Auto, bad).is_err());
        }
        assert!(endpoint(None, Addressing::VirtualHost, "Old_Name").is_err());
    }

    #[test]
    fn regions_in_host_names() {
        assert_eq!(region_of_host("b.s3.eu-west-1.amazonaws.com"), Some("eu-west-1"));
        assert_eq!(region_of_host("b.s3-us-west-2.amazonaws.com:443"), Some("us-west-2"));
        assert_eq!(region_of_host("s3.cn-north-1.amazonaws.com.cn"), Some("cn-north-1"));
        assert_eq!(region_of_host("b.s3-fips.dualstack.us-gov-west-1.amazonaws.com"), Some("us-gov-west-1"));
        assert_eq!(region_of_host("bucket.vpce-1a2b-3c.s3.us-east-1.vpce.amazonaws.com"), Some("us-east-1"));
        assert_eq!(region_of_host("b.s3.amazonaws.com"), None);
        assert_eq!(region_of_host("b.s3-accelerate.amazonaws.com"), None);
        assert_eq!(region_of_host("b.s3-accelerate.dualstack.amazonaws.com"), None);
        assert_eq!(region_of_host("evil.example"), None);
    }

    proptest! {
        /// What `url::Url` would change, a signature would not cover.
        #[test]
        fn no_key_is_changed_on_its_way(key in any::<String>()) {
            let e = endpoint(Some("http://h:1"), Addressing::Auto, "b").unwrap();
            if let Ok(location) = e.locate("r", Some(&key)) {
                let ours = location.url("");
                let parsed = reqwest::Url::parse(&ours).unwrap();
                prop_assert_eq!(parsed.as_str(), ours.as_str());
                let back = percent_encoding::percent_decode_str(&location.path).decode_utf8().unwrap();
                prop_assert_eq!(back, format!("/b/{key}"));
            }
        }
    }
}
