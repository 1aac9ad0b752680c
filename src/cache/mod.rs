//! Object bytes in memory: one budget, the parts of objects that were read, an LRU over them.
//!
//! Owns: [`Budget`] (the cap of `--memory`), [`Part`] (a range of one object version), [`PartCache`] (which parts are held, which go first), [`Chunks`] (what a writer buffers).
//! Invariant: every buffer that holds object bytes owns a permit from the one budget.
//! Must never know: S3, inodes, what will be read next.

mod budget;
mod chunks;
mod part;
mod parts;

pub use budget::{Budget, Permit};
pub use chunks::{CHUNK_BYTES, Chunks};
pub use part::Part;
pub use parts::PartCache;
