//! pailfs mounts S3 buckets as directories.
//!
//! The house has floors; a file imports only from floors below its own (`tests/tidy.rs` checks it):
//!
//! ```text
//! 0 words          error key arn attr ranges config  no I/O, no async
//! 1 the wire       aws/   transport retry sign credentials endpoint
//! 1 local memory   cache/                        budget, LRU of object parts, a writer's chunks; disk/
//! 1 local disk     journal/                      what a crash must not leave half done, what could not be sent
//! 2 services       s3/                           one typed method an S3 operation
//! 3 siblings       namespace/ read/ write/       strangers to each other
//! 4 file system    fs/                           one async method a POSIX operation
//! 5 door           fuse/                         the only directory that names fuser
//! 6 process        cli/ mount/ transfer/ warm recover progress daemon mountpoint logging failure runtime   what a person starts
//! ```

#![deny(unsafe_code)]

pub mod arn;
pub mod attr;
pub mod aws;
pub mod cache;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod error;
pub mod failure;
pub mod fs;
pub mod fuse;
pub mod journal;
pub mod key;
pub mod logging;
pub mod mount;
pub mod mountpoint;
pub mod namespace;
pub mod progress;
pub mod ranges;
pub mod read;
pub mod recover;
pub mod runtime;
pub mod s3;
pub mod transfer;
pub mod warm;
pub mod write;
