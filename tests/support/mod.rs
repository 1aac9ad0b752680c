//! What the integration tests stand on: an S3 server in memory, scripted faults, and (feature
//! `servers`) real servers, real mounts and a client that we did not write.
//!
//! Each test file is a crate of its own that says `mod support;`. The allowance below is for that:
//! every one of them uses another part of the house, and would be warned of the rest.
#![allow(dead_code, unused_imports)]

pub mod bytes;
pub mod call;
pub mod fake;
pub mod faults;
pub mod ground;
pub mod house;
pub mod services;
pub mod stand_in;
pub mod xml;

#[cfg(feature = "servers")]
pub mod aws;
#[cfg(feature = "servers")]
pub mod mount;
#[cfg(feature = "servers")]
pub mod servers;

pub use fake::FakeS3;
pub use faults::{Fault, Faults, On};
pub use house::House;
