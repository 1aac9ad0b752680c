//! `.versions` where a server answers in its own way: what it does not know, and names that are no version's.

mod support;

use std::time::Duration;

use pailfs::key::past::names_key;
use support::fake::{Logged, client_over};
use support::house::errno;
use support::{Fault, House, On};

const MOMENT: &str = "2026-10-01T12:00:00Z";
const ENABLED: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";

/// A version of `f`, or a delete marker.
fn listed(what: &str, id: &str) -> String {
    format!(
        "<{what}><Key>f</Key><VersionId>{id}</VersionId><LastModified>{MOMENT}</LastModified>\
         <Size>1</Size><ETag>&quot;e&quot;</ETag></{what}>"
    )
}

#[tokio::test]
async fn where_the_server_knows_no_versions_there_are_none() {
    for (ttl, asked) in [(3600, 1), (0, 3)] {
        let house = House::with(|config| config.metadata_ttl = Duration::from_secs(ttl));
        house.fake.put("d/f", "x");
        for path in [".versions", "d/.versions", "d/.versions/f"] {
            assert_eq!(errno(house.enter(path).await), libc::ENOENT, "{path}");
        }
        assert_eq!(house.fake.count("GetBucketVersioning"), asked, "believed for {ttl} s");
    }
}

#[tokio::test]
async fn that_a_bucket_keeps_no_versions_is_believed_until_a_refresh() {
    let house = House::new();
    assert_eq!(errno(house.enter(".versions").await), libc::ENOENT);
    let enabled = house.faults.plan(On::op("GetBucketVersioning"), Fault::garbage(ENABLED));
    assert_eq!(errno(house.enter(".versions").await), libc::ENOENT);
    house.refresh("").await;
    for _ in 0..2 {
        let versions = house.enter(".versions").await.unwrap();
        house.leave(versions.ino);
    }
    assert_eq!((enabled.fired(), house.fake.count("GetBucketVersioning")), (1, 1));
}

#[tokio::test]
async fn a_name_that_is_no_versions_is_not_there() {
    let house = House::new();
    house.fake.put("f", "x");
    house.faults.plan(On::op("GetBucketVersioning"), Fault::garbage(ENABLED));
    let (object, marker) = (listed("Version", "id"), listed("DeleteMarker", "marker"));
    let page = format!("<ListVersionsResult>{object}{marker}</ListVersionsResult>");
    let lists = house.faults.plan(On::op("ListObjectVersions"), Fault::garbage(page));
    // Those of editors and the like; of them nothing need be asked.
    for name in [".2026-10-01T12:00:00Z-id.swp", "#2026-10-01T12:00:00Z-id#", "Z-id", "4913"] {
        assert_eq!(errno(house.enter(&format!(".versions/f/{name}")).await), libc::ENOENT, "{name}");
    }
    let asked = |logged: &Logged| logged.call.op == "HeadObject" && logged.call.param("versionId").is_some();
    assert!(!house.fake.calls().iter().any(asked));
    // AWS answers 400 to an id that is none, 405 to that of a delete marker, both without a document.
    for (status, name, expected) in
        [(400, "id~", libc::ENOENT), (405, "marker", libc::ENOENT), (400, "id", libc::EIO)]
    {
        let head = house.faults.plan(On::op("HeadObject"), Fault::Error { status, code: "" });
        let path = format!(".versions/f/{MOMENT}-{name}");
        assert_eq!(errno(house.enter(&path).await), expected, "{name}");
        assert!(head.fired() > 0);
        head.lift();
    }
    // It answers 400 where keys have expired as well.
    lists.lift();
    house.faults.plan(On::op("ListObjectVersions"), Fault::ExpiredToken);
    house.faults.plan(On::op("HeadObject"), Fault::Error { status: 400, code: "" });
    assert_eq!(errno(house.enter(&format!(".versions/f/{MOMENT}-id2")).await), libc::EACCES);
}

#[tokio::test]
async fn a_delete_marker_is_looked_for_no_further_than_where_it_is() {
    let house = House::new();
    let versions: String = ["new", "gone", "old"].map(|id| listed("DeleteMarker", id)).concat();
    let more = "<IsTruncated>true</IsTruncated><NextKeyMarker>f</NextKeyMarker>\
         <NextVersionIdMarker>old</NextVersionIdMarker>";
    let page = format!("<ListVersionsResult>{versions}{more}</ListVersionsResult>");
    let pages = house.faults.plan(On::op("ListObjectVersions"), Fault::garbage(page));
    let client = client_over(house.faults.transport(), &house.fake.config());
    let key = format!("{}f/{MOMENT}-gone.deleted", names_key(""));
    let head = client.head_object(&key).await.unwrap();
    assert_eq!((head.version_id.as_deref(), pages.fired()), (Some("gone"), 1));
}
