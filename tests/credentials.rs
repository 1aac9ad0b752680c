//! Whose keys a request is signed with: the program beside local servers that stand in for EC2's and the containers'
//! metadata, STS, SSO and S3.

mod support;

use std::process::{Command, Output};
use std::time::Duration;

use support::services::{answer, keys, object};
use support::stand_in::{Answer, Seen, StandIn};

/// What a row sets; `URL` stands for the server's, `DIR` for a directory of the row's own.
#[derive(Default)]
struct Row<'a> {
    what: &'a str,
    env: &'a [(&'a str, &'a str)],
    config: &'a str,
    credentials: &'a str,
    /// Further files: name and contents.
    files: &'a [(&'a str, &'a str)],
    args: &'a [&'a str],
    then: Then<'a>,
}

enum Then<'a> {
    /// S3 is asked with this key and session token (empty: with none), after these requests.
    Signed(&'a str, &'a str, &'a [&'a str]),
    /// Nothing reaches S3; one line has these words.
    Fails(&'a [&'a str]),
}
use Then::{Fails, Signed};

impl Default for Then<'_> {
    fn default() -> Self {
        Fails(&[])
    }
}

const ENV_KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "of-env"), ("AWS_SECRET_ACCESS_KEY", "s")];
/// Else it is switched off.
const EC2: [(&str, &str); 2] =
    [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "URL")];
/// SHA-1 of the session's name: the file that `aws sso login` writes.
const SSO_CACHE: &str = "home/.aws/sso/cache/ee0bfd2552fbd840c02cc48b6e823320543c450f.json";

const WORK: &str = "\
[profile work]
region = eu-west-1
[profile roled]
role_arn = arn:aws:iam::123456789012:role/a
source_profile = base
[profile chained]
role_arn = arn:aws:iam::123456789012:role/b
source_profile = roled
[profile from-env]
role_arn = arn:aws:iam::123456789012:role/a
credential_source = Environment
[profile from-ec2]
role_arn = arn:aws:iam::123456789012:role/a
credential_source = Ec2InstanceMetadata
[profile from-container]
role_arn = arn:aws:iam::123456789012:role/a
credential_source = EcsContainer
[profile with-mfa]
role_arn = arn:aws:iam::123456789012:role/a
source_profile = base
mfa_serial = arn:aws:iam::123456789012:mfa/me
[profile above-mfa]
role_arn = arn:aws:iam::123456789012:role/b
source_profile = with-mfa
[profile refused]
role_arn = arn:aws:iam::123456789012:role/refused
source_profile = base
[profile sourceless]
role_arn = arn:aws:iam::123456789012:role/a
source_profile = nowhere
[profile web]
role_arn = arn:aws:iam::123456789012:role/web
web_identity_token_file = DIR/token
[profile process]
credential_process = /bin/sh DIR/process
[profile process-fails]
credential_process = /bin/sh -c 'echo sorry >&2; exit 3'
[profile sso]
sso_session = corp
sso_account_id = 123456789012
sso_role_name = reader
[sso-session corp]
sso_region = us-east-1
sso_start_url = https://corp.example/start
";

const KEYS: &str = "\
[default]
aws_access_key_id = of-default
aws_secret_access_key = s
[work]
aws_access_key_id = of-work
aws_secret_access_key = s
aws_session_token = work-token
[base]
aws_access_key_id = of-base
aws_secret_access_key = s
";

const PROCESS: &str = r#"echo '{"Version": 1, "AccessKeyId": "of-process", "SecretAccessKey": "s", "SessionToken": "process-token", "Expiration": "2099-01-01T00:00:00Z"}'"#;
const TOKEN: &str = r#"{"startUrl": "https://corp.example/start", "region": "us-east-1", "accessToken": "sso-login", "expiresAt": "2099-01-01T00:00:00Z"}"#;
const OLD_TOKEN: &str = r#"{"startUrl": "https://corp.example/start", "region": "us-east-1", "accessToken": "sso-login", "expiresAt": "2020-01-01T00:00:00Z"}"#;

#[test]
fn each_source_signs_or_says_what_is_wrong() {
    let container = "GET /v1/keys";
    let rows = [
        Row {
            what: "environment",
            env: &ENV_KEYS,
            config: WORK,
            credentials: KEYS,
            then: Signed("of-env", "", &[]),
            ..Row::default()
        },
        Row {
            what: "environment with a session token",
            env: &[ENV_KEYS[0], ENV_KEYS[1], ("AWS_SESSION_TOKEN", "env-token")],
            then: Signed("of-env", "env-token", &[]),
            ..Row::default()
        },
        Row {
            what: "one of the two keys in the environment",
            env: &[ENV_KEYS[0], EC2[0], EC2[1]],
            credentials: KEYS,
            then: Fails(&["environment", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]),
            ..Row::default()
        },
        Row {
            what: "the other of the two",
            env: &[("AWS_ACCESS_KEY_ID", ""), ENV_KEYS[1], EC2[0], EC2[1]],
            credentials: KEYS,
            then: Fails(&["environment", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]),
            ..Row::default()
        },
        Row {
            what: "empty variables are none",
            env: &[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", " ")],
            credentials: KEYS,
            then: Signed("of-default", "", &[]),
            ..Row::default()
        },
        Row {
            what: "credentials file",
            credentials: KEYS,
            then: Signed("of-default", "", &[]),
            ..Row::default()
        },
        Row {
            what: "config file",
            config: "[default]\naws_access_key_id = of-config\naws_secret_access_key = s\n",
            then: Signed("of-config", "", &[]),
            ..Row::default()
        },
        Row {
            what: "--profile",
            config: WORK,
            credentials: KEYS,
            args: &["--profile", "work"],
            then: Signed("of-work", "work-token", &[]),
            ..Row::default()
        },
        Row {
            what: "--profile wins over keys of the environment",
            env: &ENV_KEYS,
            config: WORK,
            credentials: KEYS,
            args: &["--profile", "work"],
            then: Signed("of-work", "work-token", &[]),
            ..Row::default()
        },
        Row {
            what: "AWS_PROFILE",
            env: &[("AWS_PROFILE", "work")],
            config: WORK,
            credentials: KEYS,
            then: Signed("of-work", "work-token", &[]),
            ..Row::default()
        },
        Row {
            what: "keys of the environment win over AWS_PROFILE",
            env: &[ENV_KEYS[0], ENV_KEYS[1], ("AWS_PROFILE", "work")],
            config: WORK,
            credentials: KEYS,
            then: Signed("of-env", "", &[]),
            ..Row::default()
        },
        Row {
            what: "unsigned",
            env: &ENV_KEYS,
            args: &["--no-sign-request"],
            then: Signed("", "", &[]),
            ..Row::default()
        },
        Row {
            what: "a role by another profile's keys",
            config: WORK,
            credentials: KEYS,
            args: &["--profile", "roled"],
            then: Signed("role-a-by-of-base", "token-of-a", &["POST / AssumeRole by of-base"]),
            ..Row::default()
        },
        Row {
            what: "a role by a role",
            config: WORK,
            credentials: KEYS,
            args: &["--profile", "chained"],
            then: Signed(
                "role-b-by-role-a-by-of-base",
                "token-of-b",
                &["POST / AssumeRole by of-base", "POST / AssumeRole by role-a-by-of-base token-of-a"],
            ),
            ..Row::default()
        },
        Row {
            what: "a role by keys of the environment",
            env: &ENV_KEYS,
            config: WORK,
            args: &["--profile", "from-env"],
            then: Signed("role-a-by-of-env", "token-of-a", &["POST / AssumeRole by of-env"]),
            ..Row::default()
        },
        Row {
            what: "a role by the instance",
            env: &EC2,
            config: WORK,
            args: &["--profile", "from-ec2"],
            then: Signed("role-a-by-of-ec2", "token-of-a", &["PUT /latest/api/token"]),
            ..Row::default()
        },
        Row {
            what: "a role by the container",
            env: &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "URL/v1/keys")],
            config: WORK,
            args: &["--profile", "from-container"],
            then: Signed("role-a-by-of-container", "token-of-a", &[container]),
            ..Row::default()
        },
        Row {
            what: "a role that wants MFA",
            config: WORK,
            credentials: KEYS,
            args: &["--profile", "with-mfa"],
            then: Fails(&["with-mfa", "mfa_serial", "aws configure export-credentials"]),
            ..Row::default()
        },
        Row {
            what: "a role by one that wants MFA",
            config: WORK,
            credentials: KEYS,
            args: &["--profile", "above-mfa"],
            then: Fails(&["with-mfa", "mfa_serial"]),
            ..Row::default()
        },
        Row {
            what: "a role that is refused",
            config: WORK,
            credentials: KEYS,
            args: &["--profile", "refused"],
            then: Fails(&["AccessDenied", "may not assume"]),
            ..Row::default()
        },
        Row {
            what: "a source profile that is not there",
            config: WORK,
            credentials: KEYS,
            args: &["--profile", "sourceless"],
            then: Fails(&["nowhere"]),
            ..Row::default()
        },
        Row {
            what: "web identity by the environment",
            env: &[
                ("AWS_WEB_IDENTITY_TOKEN_FILE", "DIR/token"),
                ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/web"),
            ],
            files: &[("token", "jwt")],
            then: Signed("role-web-by-jwt", "token-of-web", &["POST / AssumeRoleWithWebIdentity by "]),
            ..Row::default()
        },
        Row {
            what: "web identity by the environment, for no role",
            env: &[("AWS_WEB_IDENTITY_TOKEN_FILE", "DIR/token"), EC2[0], EC2[1]],
            files: &[("token", "jwt")],
            then: Fails(&["web identity", "AWS_ROLE_ARN"]),
            ..Row::default()
        },
        Row {
            what: "a role that no token is for",
            env: &[("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/web")],
            credentials: KEYS,
            then: Signed("of-default", "", &[]),
            ..Row::default()
        },
        Row {
            what: "web identity by the profile",
            config: WORK,
            files: &[("token", "jwt")],
            args: &["--profile", "web"],
            then: Signed("role-web-by-jwt", "token-of-web", &["POST / AssumeRoleWithWebIdentity by "]),
            ..Row::default()
        },
        Row {
            what: "web identity without its token",
            config: WORK,
            args: &["--profile", "web"],
            then: Fails(&["DIR/token"]),
            ..Row::default()
        },
        Row {
            what: "a process",
            config: WORK,
            files: &[("process", PROCESS)],
            args: &["--profile", "process"],
            then: Signed("of-process", "process-token", &[]),
            ..Row::default()
        },
        Row {
            what: "a process that fails",
            config: WORK,
            args: &["--profile", "process-fails"],
            then: Fails(&["credential_process", "sorry"]),
            ..Row::default()
        },
        Row {
            what: "SSO",
            config: WORK,
            files: &[(SSO_CACHE, TOKEN)],
            args: &["--profile", "sso"],
            then: Signed("of-sso-reader", "sso-token", &["GET /federation/credentials"]),
            ..Row::default()
        },
        Row {
            what: "SSO, of a login that has expired",
            config: WORK,
            files: &[(SSO_CACHE, OLD_TOKEN)],
            args: &["--profile", "sso"],
            then: Fails(&["aws sso login --profile sso"]),
            ..Row::default()
        },
        Row {
            what: "SSO, not logged in",
            config: WORK,
            args: &["--profile", "sso"],
            then: Fails(&["aws sso login --profile sso"]),
            ..Row::default()
        },
        Row {
            what: "ECS, by path",
            env: &[
                ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v1/keys"),
                // Stands in for 169.254.170.2.
                ("HTTP_PROXY", "URL"),
            ],
            then: Signed("of-container", "container-token", &[container]),
            ..Row::default()
        },
        Row {
            what: "ECS, by URL with a token",
            env: &[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "URL/v1/keys"),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic abc"),
            ],
            then: Signed("of-container-for-Basic abc", "container-token", &[container]),
            ..Row::default()
        },
        Row {
            what: "EKS pod identity, with a token in a file",
            env: &[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/keys"),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "DIR/token"),
                ("HTTP_PROXY", "URL"),
            ],
            files: &[("token", "jwt")],
            then: Signed("of-container-for-jwt", "container-token", &[container]),
            ..Row::default()
        },
        Row {
            what: "a URL for a container's keys that leads elsewhere",
            env: &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/v1/keys")],
            then: Fails(&["AWS_CONTAINER_CREDENTIALS_FULL_URI"]),
            ..Row::default()
        },
        Row {
            what: "EC2, which wants a token first",
            env: &EC2,
            then: Signed("of-ec2", "ec2-token", &["PUT /latest/api/token"]),
            ..Row::default()
        },
        Row {
            what: "EC2, of a profile without keys",
            env: &EC2,
            config: "[profile bare]\nregion = eu-west-1\n",
            args: &["--profile", "bare"],
            then: Signed("of-ec2", "ec2-token", &["PUT /latest/api/token"]),
            ..Row::default()
        },
        Row {
            what: "nothing at all",
            then: Fails(&["AWS_ACCESS_KEY_ID", "--profile", "--no-sign-request"]),
            ..Row::default()
        },
        Row {
            what: "EC2 switched off",
            env: &EC2[1..],
            then: Fails(&["AWS_EC2_METADATA_DISABLED"]),
            ..Row::default()
        },
    ];
    let failed: Vec<String> = rows.iter().filter_map(|row| check(row).err()).collect();
    assert!(failed.is_empty(), "{} rows:\n{}", failed.len(), failed.join("\n"));
}

/// Why it is not as the row says.
fn check(row: &Row) -> Result<(), String> {
    let scene = Scene::of(row);
    let output = scene.run(&["head", "s3://bucket/key"], row.args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let seen = scene.server.seen();
    let (to_s3, before): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|seen| seen.path == "/bucket/key");
    let is = |holds: bool, why: &str| match holds {
        true => Ok(()),
        false => Err(format!(
            "- {}: {why}\n  {stderr}  {:?}",
            row.what,
            before.iter().map(|s| told(s)).collect::<Vec<_>>()
        )),
    };
    match &row.then {
        Signed(key, token, asked) => {
            is(output.status.success() && to_s3.len() == 1, "S3 was not asked once")?;
            let signed = (to_s3[0].key(), to_s3[0].token());
            is(signed == (*key, *token), &format!("signed with {signed:?}"))?;
            for asked in *asked {
                is(before.iter().any(|seen| told(seen).starts_with(asked)), &format!("no {asked}"))?;
            }
            is(!asked.is_empty() || before.is_empty(), "others were asked")
        }
        Fails(words) => {
            is(output.status.code() == Some(1) && to_s3.is_empty(), "it does not fail before S3 is asked")?;
            is(stderr.lines().count() == 1, "not one line")?;
            for word in *words {
                is(stderr.contains(&scene.fill(word)), &format!("no `{word}`"))?;
            }
            Ok(())
        }
    }
}

/// A request to anything but S3, in a line.
fn told(seen: &Seen) -> String {
    let action = seen.body.split('&').find_map(|pair| pair.strip_prefix("Action="));
    let by = action.map(|action| format!(" {action} by {} {}", seen.key(), seen.token()));
    format!("{} {}{}", seen.method, seen.path, by.unwrap_or_default()).trim_end().to_string() + " "
}

struct Scene {
    dir: tempfile::TempDir,
    server: StandIn,
    env: Vec<(String, String)>,
}

impl Scene {
    fn of(row: &Row) -> Scene {
        Scene::with(row, answer)
    }

    fn with(row: &Row, answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Scene {
        let mut scene =
            Scene { dir: tempfile::tempdir().unwrap(), server: StandIn::start(answer), env: Vec::new() };
        let files = [("config", row.config), ("credentials", row.credentials)];
        for (name, text) in files.iter().chain(row.files) {
            let path = scene.dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, scene.fill(text)).unwrap();
        }
        let standing = [
            ("AWS_ENDPOINT_URL_S3", "URL"),
            ("AWS_ENDPOINT_URL_STS", "URL"),
            ("AWS_ENDPOINT_URL_SSO", "URL"),
            ("AWS_CONFIG_FILE", "DIR/config"),
            ("AWS_SHARED_CREDENTIALS_FILE", "DIR/credentials"),
            ("HOME", "DIR/home"),
            ("NO_PROXY", "127.0.0.1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("PATH", "/usr/bin:/bin"),
        ];
        for (name, value) in standing.iter().chain(row.env) {
            scene.env.push((name.to_string(), scene.fill(value)));
        }
        scene
    }

    fn fill(&self, text: &str) -> String {
        text.replace("URL", &self.server.url).replace("DIR", self.dir.path().to_str().unwrap())
    }

    fn run(&self, command: &[&str], args: &[&str]) -> Output {
        self.command().arg("s3").args(command).args(args).output().expect("the program starts")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pailfs"));
        command.env_clear().envs(self.env.iter().cloned());
        command
    }
}

/// Keys of this container last for a minute, so each is replaced before it expires; a client that lives on signs with
/// those that came since.
fn short_lived(seen: &Seen) -> Answer {
    match (seen.method.as_str(), seen.path.split('?').next().unwrap_or("")) {
        ("GET", "/v1/keys") => {
            keys(&format!("key-{}", seen.before), &format!("token-{}", seen.before), Duration::from_secs(60))
        }
        ("HEAD", "/bucket") => object(),
        ("HEAD", path) if path.starts_with("/bucket/there") || seen.before >= 3 => object(),
        ("GET", "/bucket" | "/bucket/") => {
            let body = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
            Answer(200, vec![("content-type", "application/xml".to_string())], body.to_string())
        }
        _ => Answer(404, vec![], String::new()),
    }
}

/// Key and token of each request to S3.
fn signatures(scene: &Scene) -> Vec<(String, String)> {
    let seen = scene.server.seen();
    let to_s3 = seen.iter().filter(|seen| seen.path.starts_with("/bucket"));
    to_s3.map(|seen| (seen.key().to_string(), seen.token().to_string())).collect()
}

const CONTAINER: Row = Row {
    what: "",
    env: &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "URL/v1/keys")],
    config: "",
    credentials: "",
    files: &[],
    args: &[],
    then: Fails(&[]),
};

#[test]
fn keys_are_replaced_before_they_expire() {
    let scene = Scene::with(&CONTAINER, short_lived);
    let output = scene
        .run(&["wait", "object-exists", "s3://bucket/key", "--delay", "10ms", "--max-attempts", "9"], &[]);
    assert!(output.status.success(), "{output:?}");
    let expected = [0, 1, 2, 3].map(|n| (format!("key-{n}"), format!("token-{n}")));
    assert_eq!(signatures(&scene), expected);
}

/// No mount stays, also where the test fails.
#[cfg(feature = "servers")]
struct Left(std::path::PathBuf);

#[cfg(feature = "servers")]
impl Drop for Left {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-lq").arg(&self.0).output();
    }
}

#[cfg(feature = "servers")]
#[test]
fn keys_are_replaced_while_mounted() {
    let scene = Scene::with(&CONTAINER, short_lived);
    let dir = scene.dir.path().join("mnt");
    std::fs::create_dir(&dir).unwrap();
    let mut mount = scene.command();
    mount.args(["mount", "bucket", "--log-file"]).arg(scene.dir.path().join("log"));
    let mounted = mount.arg("--staging").arg(scene.dir.path().join("staging")).arg(&dir).output().unwrap();
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    let _left = Left(dir.clone());
    for n in 0..5 {
        let there =
            Command::new("timeout").arg("20").arg("stat").arg(dir.join(format!("there-{n}"))).output();
        let there = there.unwrap();
        assert!(there.status.success(), "{}", String::from_utf8_lossy(&there.stderr));
    }
    let left =
        Command::new("timeout").arg("20").arg(env!("CARGO_BIN_EXE_pailfs")).arg("umount").arg(&dir).output();
    assert!(left.unwrap().status.success());
    let signed = signatures(&scene);
    let number = |key: &str| key.strip_prefix("key-").and_then(|n| n.parse::<u32>().ok()).unwrap();
    assert!(number(&signed.last().unwrap().0) >= 4, "{signed:?}");
    for (key, token) in &signed {
        assert_eq!(number(key).to_string(), token.replace("token-", ""), "{signed:?}");
    }
}
