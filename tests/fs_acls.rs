//! ACLs of objects that are copied, which S3's copies lack: renamed, or given other headers.

mod support;

use std::ffi::OsStr;

use pailfs::config::AttributesConfig;
use pailfs::error::Error;
use pailfs::fs::SetAttr;
use support::fake::FakeS3;
use support::{Fault, House, On};

const PUBLIC: &str = "<Grant><Grantee><URI>all</URI></Grantee><Permission>READ</Permission></Grant>";

async fn set(house: &House, path: &str, name: &str, value: &str) -> Result<(), Error> {
    let attr = house.enter(path).await?;
    let done = house.fs.setxattr(attr.ino, OsStr::new(name), value.as_bytes(), 0).await;
    house.leave(attr.ino);
    done
}

fn grants(fake: &FakeS3, key: &str) -> Option<String> {
    fake.object(key).unwrap_or_else(|| panic!("no {key}")).grants.clone()
}

#[tokio::test]
async fn an_acl_outlives_a_copy_of_the_object_onto_itself() {
    for acl in [None, Some("public-read".to_string())] {
        let named = acl.is_some();
        let house = House::with(|config| config.s3.requests.acl = acl);
        house.fake.put("granted", "bytes");
        house.fake.grant("granted", PUBLIC);
        house.fake.put("plain", "bytes");
        for file in ["granted", "plain"] {
            house.fake.forget_calls();
            set(&house, file, "s3.storage-class", "STANDARD_IA").await.unwrap();
            assert_eq!(house.fake.object(file).unwrap().headers["x-amz-storage-class"], "STANDARD_IA");
            let again = house.fake.count("PutObjectAcl");
            // With --acl the copy has that one: then what it was is said again, too.
            assert_eq!((house.fake.count("GetObjectAcl"), again == 1), (1, named || file == "granted"));
        }
        assert_eq!(grants(&house.fake, "granted").as_deref(), Some(PUBLIC));
        // Who may not read the ACL may change the rest.
        house.faults.plan(On::op("GetObjectAcl"), Fault::Error { status: 403, code: "AccessDenied" });
        set(&house, "granted", "s3.cache-control", "no-store").await.unwrap();
        assert_eq!(grants(&house.fake, "granted"), None);
    }
}

#[tokio::test]
async fn a_renamed_file_keeps_its_acl() {
    let house = House::new();
    for file in ["granted", "plain"] {
        house.fake.put(file, file);
    }
    house.fake.grant("granted", PUBLIC);
    house.rename("granted", "moved", 0).await.unwrap();
    assert_eq!(grants(&house.fake, "moved").as_deref(), Some(PUBLIC));
    house.rename("moved", "plain", libc::RENAME_EXCHANGE).await.unwrap();
    assert_eq!((house.fake.data("plain"), grants(&house.fake, "moved")), ("granted".into(), None));
    assert_eq!(grants(&house.fake, "plain").as_deref(), Some(PUBLIC));
    // The bucket is asked once, each object beside its copy.
    let counts = house.fake.counts();
    assert_eq!((counts["GetBucketOwnershipControls"], counts["GetObjectAcl"]), (1, 4));
    assert_eq!(counts["PutObjectAcl"], 3);
    // What S3 fails at fails the rename, what it refuses is said in the log.
    house.faults.plan(On::op("GetObjectAcl").once(), Fault::Error { status: 400, code: "Odd" });
    assert!(house.rename("plain", "new", 0).await.is_err());
    assert_eq!(grants(&house.fake, "plain").as_deref(), Some(PUBLIC));
    for (op, code) in [("GetObjectAcl", "AccessDenied"), ("PutObjectAcl", "AccessDenied")] {
        let refused = house.faults.plan(On::op(op).once(), Fault::Error { status: 403, code });
        house.fake.put(op, "bytes");
        house.fake.grant(op, PUBLIC);
        house.rename(op, "new", 0).await.unwrap();
        assert_eq!((refused.fired(), grants(&house.fake, "new")), (1, None), "{op}");
    }
}

#[tokio::test]
async fn a_renamed_directory_keeps_the_acls_of_all_that_is_below_it() {
    let house = House::new();
    house.fake.put_many((0..300).map(|n| format!("d/{n:03}")), "data");
    house.fake.put("d/", "");
    for key in ["d/", "d/007", "d/123"] {
        house.fake.grant(key, PUBLIC);
    }
    house.rename("d", "e", 0).await.unwrap();
    let granted = || -> Vec<String> {
        house.fake.keys().into_iter().filter(|key| grants(&house.fake, key).is_some()).collect()
    };
    assert_eq!(granted(), ["e/", "e/007", "e/123"]);
    // What cannot be given is not half given: all stays where it was.
    house.faults.plan(On::op("PutObjectAcl").once(), Fault::Error { status: 400, code: "InvalidRange" });
    assert!(house.rename("e", "f", 0).await.is_err());
    assert_eq!(granted(), ["e/", "e/007", "e/123"]);
}

#[tokio::test]
async fn where_there_are_no_acls_no_object_is_asked() {
    for (enforced, asked) in [(true, 0), (false, 1)] {
        let house = House::new();
        house.fake.change(|options| options.owner_enforced = enforced);
        let unknown = Fault::Error { status: 501, code: "NotImplemented" };
        let refused = house.faults.plan(On::op("GetObjectAcl"), unknown);
        house.fake.put("a", "");
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "d")] {
            house.rename(from, to, 0).await.unwrap();
        }
        assert_eq!(
            (refused.fired(), house.fake.count("GetBucketOwnershipControls")),
            (asked, 1),
            "{enforced}"
        );
    }
}

#[tokio::test]
async fn a_directory_whose_attributes_change_keeps_the_acl_of_its_marker() {
    for write_back in [false, true] {
        let house = House::with(|config| {
            (config.attributes, config.write_back) = (AttributesConfig::Metadata, write_back);
        });
        for (dir, bytes) in [("d", ""), ("odd", "no marker is as long")] {
            let key = format!("{dir}/");
            house.fake.put(&key, bytes);
            house.fake.grant(&key, PUBLIC);
            let attr = house.enter(dir).await.unwrap();
            let mode = SetAttr { mode: Some(0o700), ..SetAttr::default() };
            house.fs.setattr(attr.ino, mode).await.unwrap();
            house.leave(attr.ino);
            house.fs.flush_all().await;
            let marker = house.fake.object(&key).unwrap();
            assert_eq!(marker.grants.as_deref(), Some(PUBLIC), "{dir}");
            assert_eq!(marker.metadata["mode"], 0o040700.to_string());
        }
    }
}

#[tokio::test]
async fn a_rename_that_a_crash_interrupts_keeps_the_acl() {
    let staging = tempfile::tempdir().unwrap();
    let fake = FakeS3::new();
    fake.put("a", "bytes");
    fake.grant("a", PUBLIC);
    let house = House::on(fake.clone(), |config| config.staging.dir = staging.path().into());
    let line = house.faults.plan(On::op("PutObjectAcl"), Fault::Hang);
    let reached = async {
        while line.fired() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        done = house.rename("a", "b", 0) => panic!("{done:?}"),
        () = reached => {}
    }
    drop(house);
    let next = House::on(fake.clone(), |config| config.staging.dir = staging.path().into());
    next.fs.take_over().await.unwrap();
    assert_eq!((fake.keys(), grants(&fake, "b").as_deref()), (vec!["b".to_string()], Some(PUBLIC)));
}
