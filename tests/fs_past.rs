//! `.versions` where a server answers in its own way: what it does not know, and names that are no version's.

mod support;

use support::House;
use support::house::errno;

#[tokio::test]
async fn where_the_server_knows_no_versions_there_are_none() {
    let house = House::new();
    house.fake.put("d/f", "x");
    for path in [".versions", "d/.versions", "d/.versions/f"] {
        assert_eq!(errno(house.enter(path).await), libc::ENOENT, "{path}");
    }
    assert!(house.fake.count("GetBucketVersioning") > 0);
}
