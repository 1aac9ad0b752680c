//! What the contract suite stands on: a client, the server behind it, and where that server is known to
//! differ from S3.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use pailfs::config::S3Config;
use pailfs::s3::{ListObjectsV2, S3Client};

use super::fake::{self, FakeS3};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Fake,
    SeaweedFs,
    Moto,
}

/// A way in which a server is not S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// A listing is sorted by path component; `start-after` goes by that order too.
    ListsByComponent,
    /// UploadPartCopy takes no notice of `x-amz-copy-source-if-match`.
    PartCopyIgnoresIfMatch,
    /// CompleteMultipartUpload takes no notice of `If-Match`.
    CompleteIgnoresIfMatch,
    /// Any credentials will do.
    TakesAnyCredentials,
    /// CopyObject takes no notice of `x-amz-copy-source-if-match`.
    CopyIgnoresIfMatch,
    /// A backslash in a key is taken for a slash: `a\\b` is stored as `a/b`.
    BackslashIsSlash,
    /// A key with a newline is answered 404, whatever was asked.
    NoNewlineInKeys,
    /// ListParts may show a part that was sent twice twice.
    ListsReplacedParts,
    /// UploadPart and CompleteMultipartUpload to an upload that is gone are answered 500.
    NoSuchUploadIs500,
    /// ListMultipartUploads says `encoding-type=url` and does not encode: a `+` in a key reads as a space.
    UploadsAreListedRaw,
    /// A PUT into a bucket that is not there makes the bucket, where the user may make buckets.
    PutMakesBucket,
    /// CopyObject of a marker is answered 404.
    MarkersAreNotCopied,
    /// A marker that is deleted before what is below it stays listed as a common prefix.
    EarlyMarkersStay,
    /// When the last key below a prefix is gone, the prefix stays listed, and HEAD answers for a marker that is not there.
    EmptiedPrefixesStay,
}

/// All that is known, each with its source. A test that meets one asserts the difference itself, so
/// that a server which mends its way is noticed.
const DIFFERENCES: &[(Behind, Difference, &str)] = &[
    (Behind::SeaweedFs, Difference::ListsByComponent, "it walks a filer's directories (4.48)"),
    (Behind::SeaweedFs, Difference::BackslashIsSlash, "its paths are normalised so (4.48, probed)"),
    (Behind::SeaweedFs, Difference::ListsReplacedParts, "each sending is a file of its own (4.48, probed)"),
    (Behind::SeaweedFs, Difference::UploadsAreListedRaw, "names the encoding, leaves it out (4.48, probed)"),
    (Behind::SeaweedFs, Difference::PutMakesBucket, "for users with the action Admin (4.48, probed)"),
    (Behind::SeaweedFs, Difference::MarkersAreNotCopied, "it is a directory there (4.48, probed)"),
    (Behind::SeaweedFs, Difference::EarlyMarkersStay, "a directory that was not empty (4.48, probed)"),
    (Behind::SeaweedFs, Difference::EmptiedPrefixesStay, "directories, removed minutes later (4.48, probed)"),
    (Behind::Moto, Difference::CopyIgnoresIfMatch, "not implemented (5.2.5, probed)"),
    (Behind::Moto, Difference::PartCopyIgnoresIfMatch, "not implemented (5.2.5)"),
    (Behind::Moto, Difference::CompleteIgnoresIfMatch, "not implemented (5.2.5)"),
    (Behind::Moto, Difference::TakesAnyCredentials, "signatures are not checked (5.2.5)"),
    (Behind::Moto, Difference::NoNewlineInKeys, "its routes' patterns end at a newline (5.2.5, probed)"),
    (Behind::Moto, Difference::NoSuchUploadIs500, "a KeyError of its own (5.2.5, probed)"),
];

pub fn differs(behind: Behind, difference: Difference) -> bool {
    DIFFERENCES.iter().any(|(known, d, _)| *known == behind && *d == difference)
}

pub struct Ground {
    pub behind: Behind,
    pub client: S3Client,
    /// The fake itself, where it is the server.
    pub fake: Option<FakeS3>,
    config: S3Config,
    transport: Arc<dyn pailfs::aws::transport::Transport>,
    credentials: (String, String),
    /// Ends in `/`; no other test uses it.
    pub prefix: String,
}

impl Ground {
    pub fn on_fake(list_page_keys: u32) -> Ground {
        let fake = FakeS3::new();
        let config = S3Config { list_page_keys, ..fake.config() };
        let credentials = (fake::ACCESS_KEY.to_string(), fake::SECRET_KEY.to_string());
        Ground::new(Behind::Fake, config, fake.transport(), credentials, Some(fake))
    }

    /// One bucket a server and process; each test has a prefix of its own in it.
    #[cfg(feature = "servers")]
    pub async fn on_server(kind: super::servers::Kind, list_page_keys: u32) -> Ground {
        use super::servers::{self, Kind};
        use std::sync::OnceLock;
        static BUCKETS: [OnceLock<String>; 2] = [OnceLock::new(), OnceLock::new()];
        let (behind, slot) = match kind {
            Kind::SeaweedFs => (Behind::SeaweedFs, &BUCKETS[0]),
            Kind::Moto => (Behind::Moto, &BUCKETS[1]),
        };
        let start = move || {
            let server = servers::shared(kind);
            let bucket = slot.get_or_init(|| server.bucket("contract")).clone();
            (server, bucket)
        };
        // A start takes seconds and blocks.
        let (server, bucket) = tokio::task::spawn_blocking(start).await.expect("the server starts");
        let config = S3Config {
            bucket,
            endpoint_url: Some(server.endpoint.clone()),
            region: Some(servers::REGION.to_string()),
            list_page_keys,
            ..FakeS3::new().config()
        };
        let transport = pailfs::aws::transport::HttpTransport::new(false, None, config.request_timeout);
        let transport = Arc::new(transport.expect("a transport"));
        let credentials = (servers::ACCESS_KEY.to_string(), servers::SECRET_KEY.to_string());
        Ground::new(behind, config, transport, credentials, None)
    }

    fn new(
        behind: Behind,
        config: S3Config,
        transport: Arc<dyn pailfs::aws::transport::Transport>,
        credentials: (String, String),
        fake: Option<FakeS3>,
    ) -> Ground {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let client = S3Client::over(&config, transport.clone(), Some(credentials.clone()));
        let prefix = format!("t{}/", SERIAL.fetch_add(1, Ordering::Relaxed));
        Ground { behind, client, fake, config, transport, credentials, prefix }
    }

    /// Another client of the same server.
    pub fn client_with(
        &self,
        credentials: Option<(&str, &str)>,
        change: impl FnOnce(&mut S3Config),
    ) -> S3Client {
        let mut config = self.config.clone();
        change(&mut config);
        let credentials = credentials.map(|(id, secret)| (id.to_string(), secret.to_string()));
        let credentials = credentials.unwrap_or_else(|| self.credentials.clone());
        S3Client::over(&config, self.transport.clone(), Some(credentials))
    }

    pub fn differs(&self, difference: Difference) -> bool {
        differs(self.behind, difference)
    }

    /// A key of this test's own.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub async fn put(&self, key: &str, data: impl Into<Bytes>) -> String {
        let payload = vec![data.into()];
        let put = self.client.put_object(key, payload, &Default::default(), &Default::default()).await;
        put.unwrap_or_else(|e| panic!("{key:?}: {e}")).etag
    }

    pub async fn get(&self, key: &str) -> Vec<u8> {
        read(&self.client, key, None).await.unwrap_or_else(|e| panic!("{key:?}: {e}"))
    }

    /// Keys and common prefixes below the test's prefix, walked page by page, in the order they came.
    pub async fn walk(&self, below: &str, delimiter: bool, start_after: Option<&str>) -> Vec<String> {
        let prefix = self.key(below);
        let mut query = ListObjectsV2 {
            prefix,
            delimiter,
            start_after: start_after.map(|name| self.key(name)),
            ..ListObjectsV2::default()
        };
        let mut names = Vec::new();
        for _ in 0..100_000 {
            let page = self.client.list_objects_v2(&query).await.unwrap_or_else(|e| panic!("{e}"));
            let here: Vec<String> =
                page.contents.into_iter().map(|o| o.key).chain(page.common_prefixes).collect();
            assert!(
                here.len() <= self.config.list_page_keys as usize,
                "a page of {}, {} asked for",
                here.len(),
                self.config.list_page_keys
            );
            names.extend(here.iter().map(|n| {
                n.strip_prefix(&self.prefix).unwrap_or_else(|| panic!("not asked for: {n}")).to_string()
            }));
            match page.next_continuation_token {
                Some(token) => query.continuation_token = Some(token),
                None => return names,
            }
        }
        panic!("a listing without end");
    }
}

/// The whole body of a GET.
pub async fn read(
    client: &S3Client,
    key: &str,
    range: Option<std::ops::Range<u64>>,
) -> Result<Vec<u8>, pailfs::error::S3Error> {
    let mut got = client.get_object(key, range, None).await?;
    let mut data = Vec::new();
    while let Some(frame) = got.body.frame().await? {
        data.extend_from_slice(&frame);
    }
    assert_eq!(data.len() as u64, got.range.end - got.range.start, "{key:?}: not the range it said");
    Ok(data)
}
