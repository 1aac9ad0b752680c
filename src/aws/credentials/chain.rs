//! Where AWS programs find their keys, one source after the other.
//!
//! Owns: [`AwsChain`]: the order of the sources, and what is said when one fails.
//! Invariants: a source that is set up and fails is the end, for the next one would sign as somebody else; each source is
//! aws-config's own; every failure names what to do.
//! Must never know: who keeps the keys, for how long.

use aws_config::Region;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, Result as Provided};
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_runtime::env_config::section::EnvConfigSections;
use aws_runtime::env_config::source;
use aws_types::os_shim_internal::{Env, Fs};
use futures_util::future::BoxFuture;

use super::{Keys, NoCredentials, Source};
use crate::config::S3Config;

const SET_SOME: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile with --profile, or use \
                        --no-sign-request for a public bucket";
/// Profiles on the way from the one named to the one that has keys; aws-config tells of circles.
const PROFILES_MAX: usize = 100;

pub(super) struct AwsChain {
    /// None: what AWS_PROFILE names, or the default one.
    profile: Option<String>,
    profile_is_typed: bool,
    region: String,
    fips: bool,
}

impl AwsChain {
    pub fn of(config: &S3Config) -> AwsChain {
        AwsChain {
            profile: config.profile.clone(),
            profile_is_typed: config.profile_is_typed,
            region: config.region.clone().unwrap_or_else(|| "us-east-1".to_string()),
            fips: config.hosts.fips,
        }
    }

    /// Built anew each time: what was built never reads changed files again. The region is given, because the default
    /// would be to ask EC2's metadata service.
    async fn find(&self) -> Result<Credentials, NoCredentials> {
        let conf = ProviderConfig::default()
            .with_region(Some(Region::new(self.region.clone())))
            .with_use_fips(self.fips.then_some(true));
        if !self.profile_is_typed {
            const BOTH: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
            let environment = EnvironmentVariableCredentialsProvider::new();
            if let Some(found) = if_set(environment.provide_credentials().await, &BOTH) {
                let advice = "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or none";
                return found.map_err(|e| failed("the environment", &e, advice));
            }
        }
        if let Some(found) = self.of_profile(&conf).await? {
            return Ok(found);
        }
        let web = WebIdentityTokenCredentialsProvider::builder().configure(&conf).build();
        // AWS_ROLE_ARN alone sets nothing up: it is for other programs, too.
        if let Some(found) = if_set(web.provide_credentials().await, &["AWS_WEB_IDENTITY_TOKEN_FILE"]) {
            let advice = "see AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN";
            return found.map_err(|e| failed("the web identity", &e, advice));
        }
        let container = EcsCredentialsProvider::builder().configure(&conf).build();
        if let Some(found) = if_set(container.provide_credentials().await, &[]) {
            let advice = "see AWS_CONTAINER_CREDENTIALS_FULL_URI, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and \
                          AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
            return found.map_err(|e| failed("the container", &e, advice));
        }
        // Asked last, also where nobody said that this is an instance: so nothing it says is more than "none here".
        let instance = ImdsCredentialsProvider::builder().configure(&conf).build();
        instance.provide_credentials().await.map_err(|e| {
            let why = causes(&e);
            NoCredentials(format!("none are set, and EC2's metadata service has none ({why}); {SET_SOME}"))
        })
    }

    /// None: the profile has no keys, nor says where they are.
    async fn of_profile(&self, conf: &ProviderConfig) -> Result<Option<Credentials>, NoCredentials> {
        let set = || std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
        let name = self.profile.clone().or_else(set).unwrap_or_else(|| "default".to_string());
        let advice = advice(&name).await?;
        let profile = ProfileFileCredentialsProvider::builder().configure(conf).profile_name(&name).build();
        let found = if_set(profile.provide_credentials().await, &[]).transpose();
        found.map_err(|e| failed(&format!("profile `{name}`"), &e, &advice))
    }
}

impl Source for AwsChain {
    fn look_up(&self) -> BoxFuture<'_, Result<Keys, NoCredentials>> {
        Box::pin(async move {
            let found = self.find().await?;
            Ok(Keys {
                access_key_id: found.access_key_id().to_string(),
                secret_access_key: found.secret_access_key().to_string(),
                session_token: found.session_token().map(String::from),
                expires: found.expiry(),
            })
        })
    }
}

/// None: nothing is set up there. `variables`: one of them sets the source up; aws-config would go past a source of which
/// half is said.
fn if_set(found: Provided, variables: &[&str]) -> Option<Provided> {
    // Empty ones count as not set, as for aws-config.
    let is_set =
        |name: &&str| std::env::var_os(name).is_some_and(|value| !value.to_string_lossy().trim().is_empty());
    match found {
        Err(CredentialsError::CredentialsNotLoaded(_)) if !variables.iter().any(is_set) => None,
        found => Some(found),
    }
}

fn failed(what: &str, e: &CredentialsError, advice: &str) -> NoCredentials {
    NoCredentials(format!("{what} has none: {}; {advice}", causes(e)))
}

/// What helps if the profile's keys cannot be had. Errors: what aws-config would go past without a word.
async fn advice(named: &str) -> Result<String, NoCredentials> {
    let files = EnvConfigFiles::default();
    let unreadable = |e: &dyn std::fmt::Display| NoCredentials(format!("the AWS config files: {e}"));
    let text = source::load(&Env::real(), &Fs::real(), &files).await.map_err(|e| unreadable(&e))?;
    let sections = EnvConfigSections::parse(text).map_err(|e| unreadable(&e))?;
    let mut name = named;
    for _ in 0..PROFILES_MAX {
        let Some(profile) = sections.get_profile(name) else { break };
        let has = |key| profile.get(key).is_some();
        if has("role_arn") && has("mfa_serial") {
            return Err(NoCredentials(format!(
                "profile `{name}` wants an MFA code (mfa_serial), and a mount cannot ask for one: have the keys made \
                 before, by `eval \"$(aws configure export-credentials --profile {named} --format env)\"`"
            )));
        }
        if has("sso_session") || has("sso_start_url") {
            return Ok(format!("log in by `aws sso login --profile {name}`"));
        }
        if let Some(file) = profile.get("web_identity_token_file") {
            return Ok(format!("see the token in {file}, and the role's trust policy"));
        }
        if has("credential_process") {
            return Ok(format!("run what credential_process of profile `{name}` says to see what is wrong"));
        }
        match profile.get("source_profile") {
            Some(next) if sections.get_profile(next).is_none() => {
                return Err(NoCredentials(format!(
                    "profile `{name}` takes its keys from `{next}` (source_profile), which is not there"
                )));
            }
            Some(next) if next != name => name = next,
            _ => break,
        }
    }
    Ok(format!("see profile `{name}` in the AWS config files"))
}

fn causes(e: &dyn std::error::Error) -> String {
    // Said by every layer, and known.
    const EMPTY: &str = "an error occurred while loading credentials";
    let all = std::iter::successors(Some(e), |e| e.source()).map(ToString::to_string);
    let mut said: Vec<String> = all.filter(|text| text != EMPTY).collect();
    said.dedup();
    said.join(": ").trim().to_string()
}
