//! The program: hands its arguments to the command line and returns the exit status.
//!
//! Invariant: no thread is started here; a mount forks first (`pailfs::daemon`).

use std::process::ExitCode;

fn main() -> ExitCode {
    pailfs::cli::run(std::env::args_os().collect())
}
