//! From what was typed to what it means: option, else environment, else profile, else default.
//!
//! Owns: [`config`], and how BUCKET is read.
//! Invariants: the AWS config files are read by AWS's own parser, so that a setting means here what it
//! means to other AWS programs; no thread is started; no secret is read (credentials are the wire's).
//! Must never know: `-o`, how settings are used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_runtime::env_config::EnvConfigValue;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_runtime::env_config::section::EnvConfigSections;
use aws_types::os_shim_internal::{Env, Fs};

use crate::arn;
use crate::config::{
    Addressing, AttributesConfig, AwsHosts, COPY_BYTES_MAX, Config, DiskCacheConfig, Encryption,
    LIST_PAGE_KEYS_MAX, PayloadSigning, RequestOptions, S3Config, StagingConfig,
};
use crate::failure::Failure;

use super::mount::{CacheArgs, MountArgs, StagingArgs};
use super::s3_args::{NewObjectArgs, RequestArgs, S3Args, Sse};

const METADATA_TTL: Duration = Duration::from_secs(1);
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const METADATA_BYTES: u64 = 256 << 20;
const MEMORY_BYTES: u64 = 512 << 20;
const PART_BYTES: u64 = 8 << 20;
/// Room for a few large files or many small ones, on most disks without being missed.
const DISK_CACHE_BYTES: u64 = 10 << 30;
/// Room for changes in a few large files, or in many small ones.
const STAGING_BYTES: u64 = 10 << 30;
/// Enough for a system whose root file system it is to go on: logs, updates, logins.
const DISK_CACHE_FREE_BYTES: u64 = 1 << 30;
const FILE_MODE: u16 = 0o644;
const DIR_MODE: u16 = 0o755;

/// Everything a mount needs to know, checked.
pub(super) fn config(args: &MountArgs, env: &Env, files: &Fs) -> Result<Config, Failure> {
    let (bucket, prefix) = bucket(&args.bucket)?;
    let umask = args.files.umask.unwrap_or(0);
    let file_mode = args.files.file_mode.unwrap_or(FILE_MODE) & !umask;
    let dir_mode = args.files.dir_mode.unwrap_or(DIR_MODE) & !umask;
    let (files_args, resources) = (&args.files, &args.resources);
    let request_timeout = resources.request_timeout.unwrap_or(REQUEST_TIMEOUT);
    let mut s3 = s3(bucket, &args.s3, request_timeout, env, files)?;
    new_objects(&mut s3.requests, &args.new_objects)?;
    // What was does not change any more.
    let metadata_ttl = if args.past.as_of.is_some() { Duration::MAX } else { METADATA_TTL };
    let config = Config {
        s3,
        prefix,
        read_only: files_args.read_only || args.past.as_of.is_some(),
        as_of: args.past.as_of,
        version_delete: args.past.allow_version_delete,
        restore: args.past.restore_on_read.clone(),
        allow_other: files_args.allow_other,
        no_exec: false,
        uid: files_args.uid.unwrap_or_else(|| nix::unistd::getuid().as_raw()),
        gid: files_args.gid.unwrap_or_else(|| nix::unistd::getgid().as_raw()),
        attributes: files_args.attrs.map_or_else(AttributesConfig::default, AttributesConfig::from),
        file_mode,
        dir_mode,
        metadata_ttl: resources.metadata_ttl.unwrap_or(metadata_ttl),
        metadata_bytes_max: resources.metadata_memory.unwrap_or(METADATA_BYTES),
        memory_bytes_max: resources.memory.unwrap_or(MEMORY_BYTES),
        part_bytes: resources.part_size.unwrap_or(PART_BYTES),
        sync_unlink: files_args.sync_unlink,
        write_back: files_args.write_back,
        content_type: files_args.content_type.clone(),
        disk_cache: disk_cache(&args.cache)?,
        staging: staging(&args.staging, env)?,
    };
    config.check().map_err(Failure::new)?;
    Ok(config)
}

fn disk_cache(args: &CacheArgs) -> Result<Option<DiskCacheConfig>, Failure> {
    let Some(dir) = &args.cache else { return Ok(None) };
    Ok(Some(DiskCacheConfig {
        dir: absolute(dir)?,
        bytes_max: args.cache_size.unwrap_or(DISK_CACHE_BYTES),
        free_bytes_min: args.cache_min_free.unwrap_or(DISK_CACHE_FREE_BYTES),
    }))
}

fn staging(args: &StagingArgs, env: &Env) -> Result<StagingConfig, Failure> {
    let dir = staging_dir(args.staging.as_deref(), env)?;
    Ok(StagingConfig { dir, bytes_max: args.staging_size.unwrap_or(STAGING_BYTES) })
}

/// `name`, `s3://name`, `s3://name/prefix` (which gets its last slash); for a name the ARN of an access point, too. An
/// empty name: `s3://`, all buckets.
pub(super) fn bucket(source: &str) -> Result<(String, String), Failure> {
    let (name, prefix) = match source.strip_prefix("s3://") {
        Some(rest) if rest.len() > 1 && rest.starts_with('/') => {
            return Err(Failure::new(format_args!(
                "`{}` names no bucket: expected `s3://name/prefix/`, or `s3://` for all buckets, without a prefix",
                source.escape_debug()
            )));
        }
        Some(place) => arn::split(place),
        None if source.starts_with("arn:") => arn::split(source),
        None if source.is_empty() || source.contains(['/', ':']) => {
            return Err(Failure::new(format_args!(
                "`{}` is not a bucket: expected `name`, `s3://name` or `s3://name/prefix/`; or `s3://` for all buckets",
                source.escape_debug()
            )));
        }
        None => (source.to_owned(), ""),
    };
    let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
    Ok((name, format!("{prefix}{slash}")))
}

/// What the S3 client needs to know, not yet checked.
pub(super) fn s3(
    bucket: String,
    args: &S3Args,
    request_timeout: Duration,
    env: &Env,
    files: &Fs,
) -> Result<S3Config, Failure> {
    let profile = args.profile.clone().or_else(|| var(env, "AWS_PROFILE"));
    let sections = sections(profile.as_deref(), env, files)?;
    let look_up = |variable: &str, key: &str| var(env, variable).or_else(|| get(&sections, key));
    let region = args.region.clone().or_else(|| var(env, "AWS_REGION"));
    let region = region.or_else(|| look_up("AWS_DEFAULT_REGION", "region"));
    let ca_bundle = args.ca_bundle.clone();
    let ca_bundle = ca_bundle.or_else(|| look_up("AWS_CA_BUNDLE", "ca_bundle").map(PathBuf::from));
    let mut options = RequestOptions::default();
    requests(&mut options, &args.requests)?;
    let endpoint_url = endpoint_url(args, env, &sections)?;
    Ok(S3Config {
        bucket,
        hosts: hosts(args, endpoint_url.is_some(), env, &sections)?,
        endpoint_url,
        region,
        profile_is_typed: args.profile.is_some(),
        profile,
        addressing: addressing(args, &sections)?,
        sign_requests: !args.no_sign_request,
        payload_signing: if args.unsigned_payload { PayloadSigning::Unsigned } else { PayloadSigning::Auto },
        request_timeout,
        ca_bundle: ca_bundle.as_deref().map(readable).transpose()?,
        list_page_keys: LIST_PAGE_KEYS_MAX,
        copy_bytes_max: COPY_BYTES_MAX,
        requests: options,
    })
}

/// What is typed is put over what is there.
pub(super) fn requests(options: &mut RequestOptions, args: &RequestArgs) -> Result<(), Failure> {
    options.requester_pays |= args.requester_pays;
    if let Some(checksum) = args.checksum {
        options.checksum = Some(checksum.into());
    }
    if let Some(owner) = &args.expected_bucket_owner {
        options.expected_bucket_owner = Some(owner.clone());
    }
    if let Some(key_file) = &args.sse_c_key_file {
        options.encryption = Some(Encryption::Customer { key_file: absolute(key_file)? });
    }
    Ok(())
}

/// As [`requests`].
pub(super) fn new_objects(options: &mut RequestOptions, args: &NewObjectArgs) -> Result<(), Failure> {
    match args.sse {
        None => {}
        Some(Sse::S3) if args.sse_kms_key_id.is_some() => return Err(of_kms("--sse-kms-key-id")),
        Some(Sse::S3) if args.sse_kms_context.is_some() => return Err(of_kms("--sse-kms-context")),
        Some(Sse::S3) => options.encryption = Some(Encryption::S3),
        Some(Sse::Kms) => {
            let (key_id, context) = (args.sse_kms_key_id.clone(), args.sse_kms_context.clone());
            options.encryption = Some(Encryption::Kms { key_id, context });
        }
    }
    if let Some(acl) = &args.acl {
        options.acl = Some(acl.clone());
    }
    if let Some(storage_class) = &args.storage_class {
        options.storage_class = Some(storage_class.clone());
    }
    Ok(())
}

fn of_kms(option: &str) -> Failure {
    Failure::new(format_args!("{option}: is of --sse kms, and --sse s3 takes keys of S3's own"))
}

/// The shared config files with `profile` selected. A profile that was named must exist.
fn sections(profile: Option<&str>, env: &Env, files: &Fs) -> Result<EnvConfigSections, Failure> {
    let unreadable = |e: &dyn std::error::Error| Failure::new(format_args!("the AWS config files: {e}"));
    // The loader is async in name only: it reads with std, starts no thread and needs no timer.
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| unreadable(&e))?;
    let places = EnvConfigFiles::default();
    let load = aws_runtime::env_config::source::load(env, files, &places);
    let mut source = runtime.block_on(load).map_err(|e| unreadable(&e))?;
    source.profile = profile.unwrap_or("default").to_owned().into();
    let sections = EnvConfigSections::parse(source).map_err(|e| unreadable(&e))?;
    if let Some(name) = profile
        && name != "default"
        && sections.get_profile(name).is_none()
    {
        return Err(no_such_profile(name, &sections));
    }
    Ok(sections)
}

fn no_such_profile(name: &str, sections: &EnvConfigSections) -> Failure {
    let mut known: Vec<&str> = sections.profiles().collect();
    known.sort_unstable();
    let known = if known.is_empty() {
        "they hold no profile at all".to_owned()
    } else {
        format!("they hold: {}", known.join(", "))
    };
    Failure::new(format_args!(
        "there is no profile `{}` in the AWS config files; {known} (see --profile, AWS_PROFILE, \
         AWS_CONFIG_FILE)",
        name.escape_debug()
    ))
}

/// An empty variable counts as one that is not set, as for other AWS programs.
fn var(env: &Env, name: &str) -> Option<String> {
    env.get(name).ok().filter(|value| !value.is_empty())
}

fn get(sections: &EnvConfigSections, key: &str) -> Option<String> {
    let value = sections.get(key)?.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>: the service's variable,
/// the general variable, the service's entry in the profile, the profile's own.
fn endpoint_url(args: &S3Args, env: &Env, sections: &EnvConfigSections) -> Result<Option<String>, Failure> {
    let url = if let Some(url) = &args.endpoint_url {
        Some(url.clone())
    } else if ignores_configured(env, sections)? {
        None
    } else {
        let variable = var(env, "AWS_ENDPOINT_URL_S3").or_else(|| var(env, "AWS_ENDPOINT_URL"));
        variable.or_else(|| {
            let no_variables = Env::from_slice(&[]);
            let key = EnvConfigValue::new().profile("endpoint_url").service_id("s3");
            let found = key.load(&no_variables, Some(sections));
            found.map(|(url, _)| url.into_owned())
        })
    };
    Ok(url.map(|url| url.trim_end_matches('/').to_owned()))
}

fn ignores_configured(env: &Env, sections: &EnvConfigSections) -> Result<bool, Failure> {
    const VARIABLE: &str = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS";
    let said = var(env, VARIABLE).or_else(|| get(sections, "ignore_configured_endpoint_urls"));
    is_true(said, VARIABLE)
}

/// Who names an endpoint has no use for what is set for AWS's hosts in general: other AWS programs ignore it, too.
fn hosts(
    args: &S3Args,
    endpoint: bool,
    env: &Env,
    sections: &EnvConfigSections,
) -> Result<AwsHosts, Failure> {
    let set = |variable: &str, key: &str| {
        let said = var(env, variable).or_else(|| get(sections, key)).or_else(|| nested(sections, key));
        let said = said.filter(|_| !endpoint);
        is_true(said, variable)
    };
    let accelerate = is_true(nested(sections, "use_accelerate_endpoint"), "use_accelerate_endpoint")?;
    Ok(AwsHosts {
        dual_stack: args.dual_stack || set("AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint")?,
        fips: args.fips || set("AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint")?,
        accelerate: args.accelerate || accelerate,
    })
}

/// `name`: of a variable, or of an entry in the profile. Not said: false.
fn is_true(said: Option<String>, name: &str) -> Result<bool, Failure> {
    match said.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => {
            let or =
                if name.starts_with("AWS_") { " (or its entry in the profile)" } else { " in the profile" };
            Err(Failure::new(format_args!("{name}{or}: expected true or false")))
        }
    }
}

/// The profile writes it as `s3 =` followed by indented `addressing_style = path`.
fn nested(sections: &EnvConfigSections, key: &str) -> Option<String> {
    let lines = sections.get("s3").unwrap_or_default().lines();
    let mut entries = lines.filter_map(|line| line.split_once('='));
    entries.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
}

fn addressing(args: &S3Args, sections: &EnvConfigSections) -> Result<Addressing, Failure> {
    if args.path_style {
        return Ok(Addressing::Path);
    }
    if args.virtual_host_style {
        return Ok(Addressing::VirtualHost);
    }
    match nested(sections, "addressing_style").as_deref() {
        None | Some("auto") => Ok(Addressing::Auto),
        Some("path") => Ok(Addressing::Path),
        Some("virtual") => Ok(Addressing::VirtualHost),
        Some(other) => Err(Failure::new(format_args!(
            "addressing_style = {} in the AWS config file: expected auto, path or virtual",
            other.escape_debug()
        ))),
    }
}

fn readable(ca_bundle: &Path) -> Result<PathBuf, Failure> {
    let opened = std::fs::File::open(ca_bundle).and_then(|file| file.metadata());
    match opened {
        Ok(metadata) if metadata.is_file() => absolute(ca_bundle),
        Ok(_) => Err(Failure::new(format_args!("--ca-bundle: {} is not a file", ca_bundle.display()))),
        Err(e) => Err(Failure::new(format_args!("--ca-bundle: cannot read {}: {e}", ca_bundle.display()))),
    }
}

/// The daemon works in `/`, so paths must not depend on where it was called.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|e| Failure::new(format_args!("cannot use the path {}: {e}", path.display())))
}

/// None for root, whose log is the system's.
pub(super) fn state_home(env: &Env) -> Option<PathBuf> {
    let root = nix::unistd::geteuid().is_root();
    (!root).then(|| xdg_dir(env, "XDG_STATE_HOME", ".local/state"))
}

pub(super) fn staging_dir(typed: Option<&Path>, env: &Env) -> Result<PathBuf, Failure> {
    match typed {
        Some(dir) => absolute(dir),
        None => Ok(xdg_dir(env, "XDG_CACHE_HOME", ".cache").join("pailfs/staging")),
    }
}

/// <https://specifications.freedesktop.org/basedir-spec/latest/>. What starts a mount at boot may set no HOME: then it
/// is that of the user database, so that the same directory is found later.
fn xdg_dir(env: &Env, variable: &str, below_home: &str) -> PathBuf {
    let set = var(env, variable).map(PathBuf::from);
    // The specification: a relative path is to be ignored.
    set.filter(|path| path.is_absolute()).unwrap_or_else(|| {
        let home = var(env, "HOME").map(PathBuf::from).or_else(|| {
            let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
            user.map(|user| user.dir)
        });
        home.unwrap_or_else(|| "/".into()).join(below_home)
    })
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
