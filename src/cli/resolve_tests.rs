//! Which source wins, for each setting that has several.

use super::super::mount::HelperArgs;
use super::*;
use clap::Parser;

const CONFIG: &str = "\
[default]
region = from-default
[profile work]
region = from-work
endpoint_url = http://profile:1
ca_bundle = /dev/null/none
services = local
s3 =
  max_concurrent_requests = 20
  addressing_style = virtual
[profile plain]
endpoint_url = http://plain:1
[profile odd]
s3 =
  addressing_style = sideways
[profile ignoring]
endpoint_url = http://ignored:1
ignore_configured_endpoint_urls = true
[services local]
s3 =
  endpoint_url = http://services:1
";

struct Scene {
    _dir: tempfile::TempDir,
    path: String,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    std::fs::write(&path, CONFIG).unwrap();
    let path = path.to_str().unwrap().to_owned();
    Scene { _dir: dir, path }
}

impl Scene {
    fn resolve(&self, options: &[&str], vars: &[(&str, &str)]) -> Result<Config, Failure> {
        let line = ["pailfs", "data", "/mnt"].iter().chain(options);
        let args = HelperArgs::try_parse_from(line).unwrap();
        let files = [
            ("AWS_CONFIG_FILE", self.path.as_str()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
            ("HOME", "/nonexistent"),
        ];
        let env = Env::from_slice(&[&files, vars].concat());
        config(args.mount(), &env, &Fs::real())
    }

    fn s3(&self, options: &[&str], vars: &[(&str, &str)]) -> S3Config {
        // The profile's ca_bundle is a file that is not there; most tests do not want it.
        let with = [vars, &[("AWS_CA_BUNDLE", self.path.as_str())]].concat();
        self.resolve(options, &with).unwrap().s3
    }

    fn endpoint(&self, options: &[&str], vars: &[(&str, &str)]) -> Option<String> {
        self.s3(options, vars).endpoint_url
    }
}

#[test]
fn defaults() {
    let config = scene().resolve(&[], &[]).unwrap();
    assert_eq!(config.s3.region.as_deref(), Some("from-default"));
    assert_eq!(config.s3.endpoint_url, None);
    assert_eq!(config.s3.addressing, Addressing::Auto);
    assert_eq!(config.s3.profile, None);
    assert_eq!((config.file_mode, config.dir_mode), (0o644, 0o755));
    assert_eq!(config.memory_bytes_max, 512 << 20);
    assert_eq!(config.part_bytes, 8 << 20);
    assert_eq!(config.metadata_ttl, Duration::from_secs(1));
    assert_eq!(config.uid, nix::unistd::getuid().as_raw());
    assert!(config.s3.sign_requests && !config.read_only);
}

#[test]
fn region_by_option_then_environment_then_profile() {
    let scene = scene();
    let region = |options: &[&str], vars: &[(&str, &str)]| scene.s3(options, vars).region.unwrap();
    let both = [("AWS_REGION", "env"), ("AWS_DEFAULT_REGION", "env-default")];
    assert_eq!(region(&["--region", "opt"], &both), "opt");
    assert_eq!(region(&[], &both), "env");
    assert_eq!(region(&[], &both[1..]), "env-default");
    assert_eq!(region(&["--profile", "work"], &[]), "from-work");
    assert_eq!(region(&[], &[("AWS_PROFILE", "work")]), "from-work");
    assert_eq!(region(&[], &[("AWS_REGION", "")]), "from-default");
}

#[test]
fn endpoint_by_option_then_environment_then_services_then_profile() {
    let scene = scene();
    let work = ["--profile", "work"];
    let vars = [("AWS_ENDPOINT_URL_S3", "http://env-s3:1"), ("AWS_ENDPOINT_URL", "http://env:1")];
    let option = ["--profile", "work", "--endpoint-url", "http://opt:1/"];
    let is = |got: Option<String>, expected: &str| assert_eq!(got.as_deref(), Some(expected));
    is(scene.endpoint(&option, &vars), "http://opt:1");
    is(scene.endpoint(&work, &vars), "http://env-s3:1");
    is(scene.endpoint(&work, &vars[1..]), "http://env:1");
    is(scene.endpoint(&work, &[]), "http://services:1");
    is(scene.endpoint(&["--profile", "plain"], &[]), "http://plain:1");
}

#[test]
fn configured_endpoints_can_be_ignored() {
    let scene = scene();
    let ignore = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
    let vars = [ignore, ("AWS_ENDPOINT_URL", "http://env:1")];
    assert_eq!(scene.endpoint(&["--profile", "work"], &vars), None);
    let option = scene.endpoint(&["--endpoint-url", "http://opt:1"], &vars);
    assert_eq!(option.as_deref(), Some("http://opt:1"));
    assert_eq!(scene.endpoint(&["--profile", "ignoring"], &[]), None);
    let odd = [("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "maybe")];
    assert!(scene.resolve(&[], &odd).is_err());
}

#[test]
fn addressing_by_option_then_profile() {
    let scene = scene();
    let style = |options: &[&str]| scene.s3(options, &[]).addressing;
    assert_eq!(style(&["--profile", "work"]), Addressing::VirtualHost);
    assert_eq!(style(&["--profile", "work", "--path-style"]), Addressing::Path);
    assert_eq!(style(&["--virtual-host-style"]), Addressing::VirtualHost);
    let odd = scene.resolve(&["--profile", "odd"], &[]).unwrap_err();
    assert!(odd.to_string().contains("sideways"), "{odd}");
}

/// By variable and profile, and where they lead: `tests/addresses.rs`.
#[test]
fn hosts_of_aws_by_option() {
    let scene = scene();
    let hosts = |options: &[&str], vars: &[(&str, &str)]| scene.s3(options, vars).hosts;
    let none = AwsHosts::default();
    assert_eq!(hosts(&["--dual-stack"], &[]), AwsHosts { dual_stack: true, ..none });
    assert_eq!(hosts(&["--fips"], &[]), AwsHosts { fips: true, ..none });
    assert_eq!(hosts(&["--accelerate"], &[]), AwsHosts { accelerate: true, ..none });
    let fips = [("AWS_USE_FIPS_ENDPOINT", "True")];
    assert_eq!(hosts(&[], &fips), AwsHosts { fips: true, ..none });
    assert_eq!(hosts(&["--endpoint-url", "http://opt:1"], &fips), none);
    let odd = scene.resolve(&[], &[("AWS_USE_FIPS_ENDPOINT", "yes")]).unwrap_err().to_string();
    assert!(odd.contains("AWS_USE_FIPS_ENDPOINT") && odd.contains("true or false"), "{odd}");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let scene = scene();
    for options in [
        ["--fips", "--endpoint-url=http://h"],
        ["--dual-stack", "--endpoint-url=http://h"],
        ["--accelerate", "--endpoint-url=http://h"],
        ["--accelerate", "--path-style"],
        ["--accelerate", "--fips"],
        ["--path-style", "--virtual-host-style"],
    ] {
        let line = ["pailfs", "data", "/mnt"].iter().chain(&options);
        let e = HelperArgs::try_parse_from(line).unwrap_err().to_string();
        assert!(e.contains("cannot be used with"), "{options:?}: {e}");
    }
    // One by option, the other by variable.
    let bundle = ("AWS_CA_BUNDLE", scene.path.as_str());
    let refused =
        |options: &[&str], var: (&str, &str)| scene.resolve(options, &[bundle, var]).unwrap_err().to_string();
    let endpoint = ("AWS_ENDPOINT_URL", "http://h");
    for option in ["--fips", "--dual-stack", "--accelerate"] {
        let e = refused(&[option], endpoint);
        assert!(e.contains("--endpoint-url") && e.contains(option), "{e}");
    }
    let e = refused(&["--accelerate"], ("AWS_USE_FIPS_ENDPOINT", "true"));
    assert!(e.contains("--accelerate") && e.contains("FIPS"), "{e}");
    // One by its value.
    for option in ["--sse-kms-key-id=k", "--sse-kms-context={}"] {
        let e = scene.resolve(&["--sse=s3", option], &[]).unwrap_err().to_string();
        assert!(e.contains("--sse s3") && e.contains(option.split('=').next().unwrap()), "{e}");
        assert!(scene.resolve(&["--sse=kms", option], &[]).is_ok());
    }
}

#[test]
fn a_named_profile_must_exist() {
    let scene = scene();
    let e = scene.resolve(&["--profile", "nope"], &[]).unwrap_err();
    let e = e.to_string();
    assert!(e.contains("`nope`") && e.contains("plain, work"), "{e}");
    assert!(scene.resolve(&[], &[("AWS_PROFILE", "nope")]).is_err());
    assert!(scene.resolve(&["--profile", "default"], &[]).is_ok());
}

#[test]
fn a_ca_bundle_must_be_readable() {
    let scene = scene();
    let e = scene.resolve(&["--profile", "work"], &[]).unwrap_err();
    assert!(e.to_string().contains("/dev/null/none"), "{e}");
    let option = ["--ca-bundle", scene.path.as_str()];
    let bundle = scene.s3(&option, &[]).ca_bundle;
    assert_eq!(bundle, Some(PathBuf::from(&scene.path)));
}

#[test]
fn a_config_file_that_does_not_parse_is_an_error() {
    let scene = scene();
    std::fs::write(&scene.path, "[broken\nregion = x\n").unwrap();
    let e = scene.resolve(&[], &[]).unwrap_err().to_string();
    assert!(e.contains("AWS config files"), "{e}");
}

#[test]
fn umask_takes_away_from_both_modes() {
    let options = ["--umask", "0027", "--file-mode", "0666"];
    let config = scene().resolve(&options, &[]).unwrap();
    assert_eq!((config.file_mode, config.dir_mode), (0o640, 0o750));
}

#[test]
fn forms_of_a_bucket() {
    let table = [
        ("name", "name", ""),
        ("s3://name", "name", ""),
        ("s3://name/", "name", ""),
        ("s3://", "", ""),
        ("s3:///", "", ""),
        ("s3://name/a/b", "name", "a/b/"),
        ("s3://name/a/b/", "name", "a/b/"),
        ("s3://name/späß 1", "name", "späß 1/"),
        ("s3://arn:aws:s3:r:1:accesspoint/ap/a", "arn:aws:s3:r:1:accesspoint:ap", "a/"),
        ("arn:aws:s3:r:1:accesspoint/ap", "arn:aws:s3:r:1:accesspoint:ap", ""),
    ];
    for (source, name, prefix) in table {
        let expected = (name.to_owned(), prefix.to_owned());
        assert_eq!(bucket(source), Ok(expected), "{source}");
    }
    for wrong in ["", "name/prefix", "name:/prefix", "http://name", "/dir", "s3:///prefix", "s3:///prefix/"] {
        let e = bucket(wrong).unwrap_err().to_string();
        assert!(e.contains("s3://name/prefix/"), "{wrong}: {e}");
    }
}

#[test]
fn the_disk_cache_is_one_setting() {
    let scene = scene();
    let vars = [("AWS_CA_BUNDLE", scene.path.as_str())];
    let resolve = |options: &[&str]| scene.resolve(options, &vars).map(|config| config.disk_cache);
    assert_eq!(resolve(&[]).unwrap(), None);
    let cache = resolve(&["--cache", "/c"]).unwrap().unwrap();
    let defaults = DiskCacheConfig { dir: "/c".into(), bytes_max: 10 << 30, free_bytes_min: 1 << 30 };
    assert_eq!(cache, defaults);
    let options = ["--cache", "here", "--cache-size", "64MiB", "--cache-min-free", "0"];
    let cache = resolve(&options).unwrap().unwrap();
    assert!(cache.dir.is_absolute() && cache.dir.ends_with("here"), "{}", cache.dir.display());
    assert_eq!((cache.bytes_max, cache.free_bytes_min), (64 << 20, 0));
    let e = resolve(&["--cache", "/c", "--cache-size", "63MiB"]).unwrap_err().to_string();
    assert!(e.contains("--cache-size") && e.contains("64MiB"), "{e}");
    for alone in [["--cache-size", "1GiB"], ["--cache-min-free", "1GiB"]] {
        let line = ["pailfs", "data", "/mnt"].iter().chain(&alone);
        assert!(HelperArgs::try_parse_from(line).unwrap_err().to_string().contains("--cache <DIR>"));
    }
}

#[test]
fn the_staging_directory_is_where_a_later_mount_looks_for_it() {
    let scene = scene();
    let resolve = |options: &[&str], vars: &[(&str, &str)]| {
        let vars = [vars, &[("AWS_CA_BUNDLE", scene.path.as_str())]].concat();
        scene.resolve(options, &vars).unwrap().staging.dir
    };
    assert_eq!(resolve(&[], &[]), Path::new("/nonexistent/.cache/pailfs/staging"));
    assert_eq!(resolve(&[], &[("XDG_CACHE_HOME", "/x")]), Path::new("/x/pailfs/staging"));
    assert_eq!(resolve(&[], &[("XDG_CACHE_HOME", "x")]), Path::new("/nonexistent/.cache/pailfs/staging"));
    let of_user = resolve(&[], &[("HOME", "")]);
    assert!(of_user.is_absolute() && of_user.ends_with(".cache/pailfs/staging"), "{}", of_user.display());
    let typed = resolve(&["--staging", "here"], &[("XDG_CACHE_HOME", "/x")]);
    assert!(typed.is_absolute() && typed.ends_with("here"), "{}", typed.display());
}

#[test]
fn what_is_staged_has_a_cap() {
    let scene = scene();
    let vars = [("AWS_CA_BUNDLE", scene.path.as_str())];
    let resolve = |options: &[&str]| scene.resolve(options, &vars).map(|config| config.staging.bytes_max);
    assert_eq!(resolve(&[]).unwrap(), 10 << 30);
    assert_eq!(resolve(&["--staging-size", "1GiB"]).unwrap(), 1 << 30);
    let e = resolve(&["--staging-size", "63MiB"]).unwrap_err().to_string();
    assert!(e.contains("--staging-size") && e.contains("64MiB"), "{e}");
}
