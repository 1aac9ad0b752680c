//! What was copied so far, and what could not be.
//!
//! Owns: [`Tally`]. Must never know: how anything is copied.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{BinaryBytes, HumanDuration, ProgressBar};

use crate::failure::Failure;
use crate::progress::{self, Show, pace};

/// Errors that are named; the others are counted.
const NAMED_MAX: usize = 100;

pub(super) struct Tally {
    show: Show,
    /// In bytes; its message the files.
    bar: ProgressBar,
    begun: Instant,
    files_done: AtomicU64,
    /// How many, and the first of them.
    failures: Mutex<(u64, Vec<String>)>,
}

impl Tally {
    pub fn new(show: Show) -> Tally {
        Tally {
            show,
            bar: progress::bar(show),
            begun: Instant::now(),
            files_done: AtomicU64::new(0),
            failures: Mutex::default(),
        }
    }

    /// A file of so many bytes is begun.
    pub fn begun(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    pub fn moved(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    pub fn done(&self) {
        let files = self.files_done.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.set_message(format!("{files} files"));
    }

    pub fn failed(&self, why: &dyn std::fmt::Display) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.0 += 1;
        if failures.1.len() < NAMED_MAX {
            failures.1.push(why.to_string());
        }
    }

    /// Where there is no bar to look at.
    pub fn line(&self) {
        if self.show == Show::Lines {
            let (moved, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let files = self.files_done.load(Ordering::Relaxed);
            eprintln!("pailfs: {files} files, {}", pace(moved, all, self.begun.elapsed()));
        }
    }

    /// Errors and all: what is left is not looked at.
    pub fn interrupted(&self) -> Failure {
        self.bar.finish_and_clear();
        let files = self.files_done.load(Ordering::Relaxed);
        let s = if files == 1 { "" } else { "s" };
        Failure::new(format_args!("interrupted; {files} file{s} copied before, what was under way is undone"))
    }

    pub fn end(&self) -> Result<(), Failure> {
        let moved = self.bar.position();
        self.bar.finish_and_clear(); // which sets it to its end
        let files = self.files_done.load(Ordering::Relaxed);
        if self.show != Show::Nothing {
            let (bytes, time) = (BinaryBytes(moved), HumanDuration(self.begun.elapsed()));
            let s = if files == 1 { "" } else { "s" };
            eprintln!("pailfs: copied {files} file{s} ({bytes}) in {time}");
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*failures, files) {
            ((0, _), _) => Ok(()),
            ((1, named), 0) => Err(Failure::new(named.join(""))),
            ((count, named), _) => {
                named.iter().for_each(|why| eprintln!("pailfs: {}", Failure::new(why)));
                let more = count - named.len() as u64;
                let more =
                    if more > 0 { format!(" ({more} more than are named above)") } else { String::new() };
                Err(Failure::new(format_args!("{count} could not be copied{more}")))
            }
        }
    }
}
