//! The async runtime, which a process has one of.
//!
//! Owns: [`start`]. Invariant: it is called after the fork. Must never know: what runs on it.

use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;

/// Starts its threads.
pub fn start() -> Result<Runtime, Failure> {
    let runtime = Builder::new_multi_thread().enable_all().thread_name("pailfs").build();
    runtime.map_err(|e| Failure::new(format_args!("cannot start threads: {e}")))
}
