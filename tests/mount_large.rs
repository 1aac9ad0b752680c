//! A file of 2 GiB through a mount with little memory: `cp` in, `cp` back, equal SHA-256, and the
//! daemon's peak memory stays where `--memory` says.
//!
//! It needs 2 GiB of disk at a time and some more: the way in is a generated stream, the way back goes
//! into a sum, and the server keeps the one copy.
#![cfg(feature = "servers")]

mod support;

use std::io::{Read, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sha2::Digest as _;
use support::bytes::{hex, pattern};
use support::mount::Options;
use support::servers::{Kind, Server};

const MIB: u64 = 1 << 20;
const FILE_BYTES: u64 = 2048 * MIB;
const MEMORY_BYTES: u64 = 256 * MIB;
/// What the program itself, its threads and its connections may take beside the object's bytes.
const OTHER_BYTES_MAX: u64 = 100 * MIB;
/// Odd, so that no boundary of parts or requests repeats in the data.
const PERIOD_BYTES: usize = (1 << 20) + 7;

/// `cp` between the mount and a pipe of ours: `/dev/stdin` and `/dev/stdout` are files to it.
fn cp(from: &std::path::Path, to: &std::path::Path) -> Child {
    let mut command = Command::new("timeout");
    command.arg("600").arg("cp").args([from, to]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cp")
}

/// Generates the file into `pipe`; answers its sum.
fn generate(mut pipe: ChildStdin) -> String {
    let block = pattern(1, PERIOD_BYTES);
    let mut sum = sha2::Sha256::new();
    let mut left = FILE_BYTES;
    let mut serial = 0u64;
    while left > 0 {
        // Each block differs from all others, so that none can stand in for another.
        let head = serial.to_le_bytes();
        for piece in [&head[..], &block[..]] {
            let piece = &piece[..piece.len().min(usize::try_from(left).expect("64 bits"))];
            sum.update(piece);
            pipe.write_all(piece).expect("cp reads");
            left -= piece.len() as u64;
        }
        serial += 1;
    }
    hex(&sum.finalize())
}

fn sum_of(mut pipe: ChildStdout) -> (u64, String) {
    let mut sum = sha2::Sha256::new();
    let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
    loop {
        let n = pipe.read(&mut buffer).expect("cp writes");
        if n == 0 {
            return (bytes, hex(&sum.finalize()));
        }
        sum.update(&buffer[..n]);
        bytes += n as u64;
    }
}

#[test]
fn two_gib_in_and_back_within_memory() {
    // A server of its own: its data goes with it.
    let server = Server::start(Kind::SeaweedFs);
    let bucket = server.bucket("large");
    let mount = Options::new(&server, &bucket).args(["--memory", "256MiB"]).mount();

    let mut write = cp("/dev/stdin".as_ref(), &mount.path("large"));
    let written = generate(write.stdin.take().expect("a pipe"));
    assert!(write.wait().expect("cp").success());
    let peak_of_write = mount.memory_peak();
    let object = server.boto().head(&bucket, "large").expect("it is in S3 when cp has ended");
    assert_eq!(object.size, FILE_BYTES);
    assert_eq!(server.boto().uploads(&bucket), []);

    // The kernel still has pages of what was written: a fresh mount must ask S3 for every byte.
    mount.umount();
    let mount = Options::new(&server, &bucket).args(["--memory", "256MiB"]).mount();
    let mut read = cp(&mount.path("large"), "/dev/stdout".as_ref());
    drop(read.stdin.take());
    let (bytes, read_sum) = sum_of(read.stdout.take().expect("a pipe"));
    assert!(read.wait().expect("cp").success());
    assert_eq!((bytes, read_sum), (FILE_BYTES, written));
    let peak_of_read = mount.memory_peak();
    println!("peak memory: {} MiB writing, {} MiB reading", peak_of_write / MIB, peak_of_read / MIB);
    for (what, peak) in [("writing", peak_of_write), ("reading", peak_of_read)] {
        assert!(peak < MEMORY_BYTES + OTHER_BYTES_MAX, "{what}: {} MiB", peak / MIB);
    }
    mount.umount();
}
