//! Object bytes in memory and on the local disk: one budget, the parts of objects that were read, an LRU over
//! them, and what outlives the mount.
//!
//! Owns: [`Budget`] (the cap of `--memory`), [`Part`] (a range of one object version), [`PartCache`] (which parts are held, which go first), [`Chunks`] (what a writer buffers), [`disk`] (`--cache`).
//! Invariant: every buffer that holds object bytes owns a permit from the one budget.
//! Must never know: S3, inodes, what will be read next.

mod budget;
mod chunks;
pub mod disk;
mod part;
mod parts;

pub use budget::{Budget, Permit};
pub use chunks::{CHUNK_BYTES, Chunks, slice};
pub use part::Part;
pub use parts::PartCache;
