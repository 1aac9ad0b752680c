//! What may stand where a bucket's name is expected: a name, or the ARN of an access point.
//!
//! Owns: [`AccessPoint`], [`split`].
//! Invariant: an ARN that passed [`split`] holds no `/`, so that it can be part of a path as a bucket's name can.
//! Must never know: hosts, requests.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-points-naming.html>.

/// A way into a bucket, with a name and a policy of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessPoint<'a> {
    pub name: &'a str,
    /// 12 digits.
    pub account: &'a str,
    pub region: &'a str,
}

/// Parts a place, without its `s3://`, into bucket and key. An access point is named `…:accesspoint:name` from then on,
/// also where it was written `…:accesspoint/name`.
pub fn split(place: &str) -> (String, &str) {
    let (bucket, key) = place.split_once('/').unwrap_or((place, ""));
    if bucket.starts_with("arn:") && bucket.ends_with(":accesspoint") {
        let (name, key) = key.split_once('/').unwrap_or((key, ""));
        return (format!("{bucket}:{name}"), key);
    }
    (bucket.to_string(), key)
}

/// None: a bucket's name. Errors: why no requests can be sent to what the ARN names.
pub fn access_point(bucket: &str) -> Result<Option<AccessPoint<'_>>, &'static str> {
    let Some(arn) = bucket.strip_prefix("arn:") else { return Ok(None) };
    let mut parts = arn.splitn(5, ':');
    let [_partition, service, region, account, resource] =
        std::array::from_fn(|_| parts.next().unwrap_or_default());
    let name = resource.strip_prefix("accesspoint").and_then(|rest| rest.strip_prefix([':', '/']));
    match (service, name) {
        ("s3-outposts", _) => Err("buckets on S3 Outposts cannot be reached"),
        ("s3express", _) => Err("directory buckets (S3 Express One Zone) are not supported yet"),
        ("s3-object-lambda", _) => {
            Err("an Object Lambda access point is reached by its alias (…--ol-s3), not by its ARN")
        }
        ("s3", Some(_)) if region.is_empty() => {
            Err("a multi-Region access point wants requests signed by SigV4A, which pailfs does not know: \
                 name the access point or bucket of one region")
        }
        ("s3", Some(_)) if !is_account(account) => Err("the account of an access point's ARN is 12 digits"),
        ("s3", Some(name)) if !is_name(name) => Err(
            "an access point's name is 3 to 50 lower-case letters, digits and hyphens, none at the ends a hyphen",
        ),
        ("s3", Some(name)) => Ok(Some(AccessPoint { name, account, region })),
        _ => Err("expected arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME"),
    }
}

/// The ARN as it stands before `/object/KEY`, where an object is named as the source of a copy.
pub fn of_copy_source(point: AccessPoint<'_>, bucket: &str) -> String {
    let before = bucket.strip_suffix(point.name).unwrap_or(bucket);
    format!("{}/{}", before.trim_end_matches([':', '/']), point.name)
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

/// It becomes part of a host.
fn is_name(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (3..=50).contains(&text.len()) && text.bytes().all(fine) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:s3:us-west-2:123456789012:accesspoint:name";

    #[test]
    fn places_are_parted_behind_the_bucket() {
        let table = [
            ("bucket", "bucket", ""),
            ("bucket/a/b", "bucket", "a/b"),
            ("arn:aws:s3:us-west-2:123456789012:accesspoint/name", ARN, ""),
            ("arn:aws:s3:us-west-2:123456789012:accesspoint/name/a/b", ARN, "a/b"),
            ("arn:aws:s3:us-west-2:123456789012:accesspoint:name/a:accesspoint/b", ARN, "a:accesspoint/b"),
            ("bucket/x:accesspoint/y", "bucket", "x:accesspoint/y"),
        ];
        for (place, bucket, key) in table {
            assert_eq!(split(place), (bucket.to_string(), key), "{place}");
        }
    }

    #[test]
    fn only_access_points_of_one_region_are_reached() {
        let point = AccessPoint { name: "name", account: "123456789012", region: "us-west-2" };
        assert_eq!(access_point(ARN), Ok(Some(point)));
        assert_eq!(access_point("bucket"), Ok(None));
        assert_eq!(of_copy_source(point, ARN), "arn:aws:s3:us-west-2:123456789012:accesspoint/name");
        for (arn, why) in [
            ("arn:aws:s3::123456789012:accesspoint:m.mrap", "SigV4A"),
            ("arn:aws:s3-outposts:us-west-2:123456789012:outpost", "Outposts"),
            ("arn:aws:s3express:us-west-2:123456789012:accesspoint:x--usw2-az1--xa-s3", "not supported yet"),
            ("arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint:x", "--ol-s3"),
            ("arn:aws:s3:::bucket", "accesspoint/NAME"),
            ("arn:aws:s3:us-west-2:12:accesspoint:name", "12 digits"),
            ("arn:aws:s3:us-west-2:123456789012:accesspoint:ab", "3 to 50"),
            ("arn:aws:s3:us-west-2:123456789012:accesspoint:evil.example/", "3 to 50"),
            ("arn:", "accesspoint/NAME"),
        ] {
            assert!(access_point(arn).unwrap_err().contains(why), "{arn}");
        }
    }
}
