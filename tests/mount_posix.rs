//! The pjdfstest crate's 398 cases on mounts, as root: a case that fails must stand in tests/pjdfstest.toml with a
//! reason, and what stands there must fail.
#![cfg(feature = "servers")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use support::mount::{Mount, Options, Said, run};
use support::servers::{Kind, Server, shared};

/// What may fail where attributes are kept, and why.
const KEPT: &str = include_str!("pjdfstest.toml");
/// What may fail beside that where they are not.
const PLAIN: &str = include_str!("pjdfstest-plain.txt");
/// Puts a byte behind 2 GiB: half a minute, and longer than `--request-timeout` until moto has put that together.
const LARGE: &str = "open::interact_2gb";
/// Opens a program that runs with `O_RDONLY|O_TRUNC`: the kernel has the mount empty it before it looks whether it runs, and
/// where not all of it is in memory yet, it dies of that.
const RUNNING: &str = "open::etxtbsy";
/// Side by side, for most of the time they wait for the server.
const PROCESSES: usize = 3;

/// What `ensure_crate` of scripts/lib.sh installs.
fn pjdfstest(config: &Path, dir: &Path) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/pjdfstest");
    assert!(path.exists(), "{} is missing: scripts/test installs it", path.display());
    let mut command = Command::new(path);
    command.env("NO_COLOR", "1").arg("-c").arg(config).arg("-p").arg(dir);
    command
}

fn cases(said: &Said) -> impl Iterator<Item = &str> {
    let words = said.stdout.lines().filter_map(|line| line.split_whitespace().next());
    words.filter(|word| word.contains("::") && !word.ends_with(':'))
}

/// The names of the cases to run: pjdfstest tells those of cases that it runs only, so all are run on a local disk.
fn names(config: &Path) -> Vec<&'static str> {
    static ALL: OnceLock<Vec<String>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let local = tempfile::tempdir().expect("a directory");
        cases(&run(&mut pjdfstest(config, local.path()))).map(Into::into).collect()
    });
    assert_eq!(all.len(), 398, "{all:?}");
    let long = std::env::var_os("PAILFS_LONG").is_some();
    all.iter().map(String::as_str).filter(|name| *name != RUNNING && (long || *name != LARGE)).collect()
}

/// Runs all cases on a mount; those that failed and should not, and those that should and did not.
fn check(server: &Server, hint: &str, args: &[&str], config: &str) {
    let home = tempfile::tempdir().expect("a directory");
    let file: PathBuf = home.path().join("config");
    std::fs::write(&file, config).expect("its configuration");
    // Nobody else changes the bucket.
    let options = Options::new(server, &server.bucket(hint)).args(["--allow-other", "--metadata-ttl", "1m"]);
    let mount: Mount = options.args(args).mount();
    let mut names = names(&file);
    names.retain(|name| server.kind == Kind::SeaweedFs || *name != LARGE);
    let shares = names.chunks(names.len().div_ceil(PROCESSES));
    let failed: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = shares.map(|names| scope.spawn(|| some(&file, &mount.dir, names))).collect();
        runs.into_iter().flat_map(|run| run.join().expect("it ran")).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    mount.umount();
}

/// What did not go as the configuration says, in pjdfstest's words.
fn some(config: &Path, dir: &Path, names: &[&str]) -> Vec<String> {
    let exact = names.iter().map(|name| format!("pjdfstest::tests::{name}"));
    let said = run(pjdfstest(config, dir).arg("--exact").args(exact));
    assert_eq!(cases(&said).filter(|case| names.contains(case)).count(), names.len(), "{said:?}");
    let lines: Vec<&str> = said.stdout.lines().collect();
    let wrong = |line: &str| line.ends_with("FAILED") || line.ends_with("PASSED UNEXPECTEDLY");
    let why = |at: usize| lines.get(at..lines.len().min(at + 4)).unwrap_or_default().join("\n");
    let failed: Vec<_> = (0..lines.len()).filter(|at| wrong(lines[*at])).map(why).collect();
    assert_eq!(said.status.success(), failed.is_empty(), "{said:?}");
    failed
}

/// Where attributes are not kept.
fn plain() -> String {
    let list = "expected_failures = [";
    KEPT.replacen(list, &format!("{list}\n{PLAIN}"), 1)
}

#[test]
fn seaweedfs_passes_what_needs_no_kept_attributes_and_no_hard_links() {
    check(shared(Kind::SeaweedFs), "plain", &[], &plain());
}

#[test]
fn seaweedfs_passes_what_needs_no_kept_attributes_and_no_hard_links_with_write_back() {
    check(shared(Kind::SeaweedFs), "back", &["--write-back"], &plain());
}

/// On moto, for SeaweedFS keeps no attributes of directories.
#[test]
fn moto_passes_what_needs_no_hard_links() {
    check(shared(Kind::Moto), "kept", &["--attrs=meta"], KEPT);
}

#[test]
fn moto_passes_what_needs_no_hard_links_with_write_back() {
    check(shared(Kind::Moto), "kept", &["--attrs=meta", "--write-back"], KEPT);
}
