//! The door to the kernel (skeleton).
use crate::fs::Filesystem;
use std::path::Path;
use std::sync::Arc;

pub struct FuseMount;

#[allow(unused_variables)]
impl FuseMount {
    /// Mounts and starts answering; returns once the handshake with the kernel is done.
    pub fn start(fs: Arc<Filesystem>, dir: &Path) -> std::io::Result<FuseMount> {
        todo!()
    }
    /// Blocks until the file system is unmounted, by whomever, and its threads have ended.
    pub fn join(self) -> std::io::Result<()> {
        todo!()
    }
}
