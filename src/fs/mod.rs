//! The file system (skeleton: what the floors above are written against).
use crate::config::Config;
use crate::s3::S3Client;
use std::sync::Arc;

pub struct Filesystem;

#[allow(unused_variables, clippy::unused_async)]
impl Filesystem {
    pub fn new(config: Config, client: S3Client, runtime: tokio::runtime::Handle) -> Arc<Filesystem> {
        todo!()
    }
    /// Proves that the mount can work: the bucket is there and may be listed.
    pub async fn probe(&self) -> Result<(), crate::error::Error> {
        todo!()
    }
    /// Waits for commits under way; names the files still open for writing.
    pub async fn flush_all(&self) -> Vec<String> {
        todo!()
    }
}
