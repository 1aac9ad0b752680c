//! From a command to a daemon: one fork, and a pipe over which the child says how it went.
//!
//! Owns: [`fork`], [`Ready`] (the child's end) and [`Waiter`] (the parent's end).
//! Invariants: the fork happens while the process has one thread (checked); the parent succeeds only
//! after the child's ready byte; a child that ends without a word is a failure that says how it ended.
//! `unsafe` stands here for `fork` (nix marks it so, because in a process with threads the child may
//! only call async-signal-safe functions) and for `set_var` (a race with other threads that read the
//! environment): both are sound because there is exactly one thread, which is checked just before.
//! Must never know: S3, FUSE, what the child does until it is ready.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use crate::failure::Failure;

/// First byte on the pipe.
const READY: u8 = b'R';
const FAILED: u8 = b'F';

/// Which of the two processes this is.
pub enum Role {
    Parent(Waiter),
    Child(Ready),
}

/// Where readiness is announced: the pipe of a daemon, nowhere in the foreground.
pub struct Ready(Option<File>);

impl Ready {
    /// No one waits.
    pub fn foreground() -> Ready {
        Ready(None)
    }

    /// Tells the parent that the file system answers. Fails when the parent is gone (somebody
    /// interrupted the command): then no one would know of the mount, and it should be undone.
    ///
    /// `said`: what the person is to know all the same, a line each.
    pub fn announce(&mut self, said: &[String]) -> io::Result<()> {
        match self.0.take() {
            Some(mut pipe) => pipe.write_all(&[&[READY], said.join("\n").as_bytes()].concat()),
            None => {
                said.iter().for_each(|line| eprintln!("pailfs: {line}"));
                Ok(())
            }
        }
    }

    /// Hands the parent the line to print. False when nobody waits: then print or log it yourself.
    pub fn fail(&mut self, failure: &Failure) -> bool {
        let Some(mut pipe) = self.0.take() else {
            return false;
        };
        let mut message = vec![FAILED];
        message.extend_from_slice(failure.to_string().as_bytes());
        pipe.write_all(&message).is_ok()
    }
}

/// The parent's end.
pub struct Waiter {
    pipe: File,
    child: Pid,
}

impl Waiter {
    /// Blocks until the child is ready, failed or dead. `log` names where its log is. Answers what the child had to say.
    pub fn wait(mut self, log: &str) -> Result<Vec<String>, Failure> {
        let mut message = Vec::new();
        let read = self.pipe.read_to_end(&mut message);
        match (read, message.split_first()) {
            (Ok(_), Some((&READY, said))) => {
                Ok(String::from_utf8_lossy(said).lines().map(str::to_owned).collect())
            }
            (Ok(_), Some((&FAILED, line))) => Err(Failure::new(String::from_utf8_lossy(line))),
            _ => Err(Failure::new(format_args!(
                "the daemon {} before the mount was ready; its log: {log}",
                ending(self.child)
            ))),
        }
    }
}

fn ending(child: Pid) -> String {
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, status)) => format!("ended with exit status {status}"),
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
        Ok(other) => format!("ended ({other:?})"),
        Err(e) => format!("ended (waitpid: {e})"),
    }
}

/// Splits off the daemon: its own session, `/` as working directory, nothing open but what it opens.
pub fn fork() -> Result<Role, Failure> {
    one_thread()?;
    let (reader, writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|e| Failure::new(format_args!("cannot make a pipe: {e}")))?;
    // SAFETY: one thread, checked above.
    match unsafe { nix::unistd::fork() } {
        Err(e) => Err(Failure::new(format_args!("cannot fork: {e}"))),
        Ok(ForkResult::Parent { child }) => {
            drop(writer);
            let pipe = File::from(reader);
            Ok(Role::Parent(Waiter { pipe, child }))
        }
        Ok(ForkResult::Child) => {
            drop(reader);
            let mut ready = Ready(Some(File::from(writer)));
            if let Err(e) = detach() {
                let failure = Failure::new(format_args!("cannot become a daemon: {e}"));
                ready.fail(&failure);
                return Err(failure);
            }
            Ok(Role::Child(ready))
        }
    }
}

/// The daemon keeps no terminal, no directory and none of its caller's pipes, or the caller would wait
/// for an end of file that never comes. A file it makes (the log) is its owner's alone.
fn detach() -> io::Result<()> {
    setsid()?;
    absolute_paths_in_environment()?;
    chdir("/")?;
    umask(Mode::from_bits_truncate(0o077));
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// The credentials chain reads these again whenever credentials expire, long after the move to `/`.
const PATHS_READ_LATER: [&str; 3] =
    ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"];

fn absolute_paths_in_environment() -> io::Result<()> {
    for name in PATHS_READ_LATER {
        let Some(value) = std::env::var_os(name) else {
            continue;
        };
        let path = Path::new(&value);
        // A leading `~` is the AWS parser's to expand.
        if value.is_empty() || path.is_absolute() || path.starts_with("~") {
            continue;
        }
        // SAFETY: the child of a fork from one thread has one thread.
        unsafe { std::env::set_var(name, std::path::absolute(path)?) };
    }
    Ok(())
}

fn one_thread() -> Result<(), Failure> {
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(|e| Failure::new(format_args!("cannot read /proc/self/task: {e}")))?
        .count();
    if threads == 1 {
        return Ok(());
    }
    Err(Failure::new(format_args!(
        "cannot fork: {threads} threads are running; use --foreground, and please report this"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter_over(message: &[u8]) -> Waiter {
        let (reader, writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        File::from(writer).write_all(message).unwrap();
        // No such child: waitpid answers ECHILD.
        let child = Pid::from_raw(i32::MAX);
        Waiter { pipe: File::from(reader), child }
    }

    #[test]
    fn the_parent_succeeds_on_the_ready_byte_only() {
        assert_eq!(waiter_over(b"R").wait("log"), Ok(vec![]));
        let said = vec!["something waits".to_owned(), "and more".to_owned()];
        assert_eq!(waiter_over(b"Rsomething waits\nand more").wait("log"), Ok(said));
        let failed = waiter_over(b"Fno such bucket").wait("log").unwrap_err();
        assert_eq!(failed.to_string(), "no such bucket");
        let silent = waiter_over(b"").wait("/some/log").unwrap_err().to_string();
        assert!(silent.contains("before the mount was ready"), "{silent}");
        assert!(silent.contains("/some/log"), "{silent}");
    }

    #[test]
    fn announcing_to_a_parent_that_is_gone_fails() {
        let (reader, writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        drop(reader);
        assert!(Ready(Some(File::from(writer))).announce(&[]).is_err());
        assert!(Ready::foreground().announce(&[]).is_ok());
    }

    #[test]
    fn a_process_with_threads_is_not_forked() {
        // The test harness runs tests on threads of their own.
        assert!(fork().is_err());
    }
}
