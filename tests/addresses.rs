//! Where requests go: the program and botocore are told the same, by environment and config file, and asked for host,
//! path and the region they sign for.

#![cfg(feature = "servers")]

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::servers::program;

const POINT: &str = "arn:aws:s3:us-west-2:123456789012:accesspoint/name";
const DUAL_STACK: (&str, &str) = ("AWS_USE_DUALSTACK_ENDPOINT", "true");
const FIPS: (&str, &str) = ("AWS_USE_FIPS_ENDPOINT", "true");
const ACCELERATE: &str = "s3 =\n  use_accelerate_endpoint = true\n";
const PATH: &str = "s3 =\n  addressing_style = path\n";
const VIRTUAL: &str = "s3 =\n  addressing_style = virtual\n";
const SERVICES: &str = "services = x\n[services x]\ns3 =\n  endpoint_url = https://services.example\n";
const VPC: &str = "https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com";

/// What is compared.
enum Then {
    /// Both answer alike: the same address, or a refusal.
    Alike,
    /// We refuse it with this word, and botocore does not: it signs in ways that we do not know, or goes on with half of
    /// what it was told.
    Refused(&'static str),
}
use Then::{Alike, Refused};

type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, Then);

/// Bucket, region, further environment, the rest of the profile.
const ROWS: &[Row] = &[
    ("data", "eu-west-1", &[], "", Alike),
    ("data", "us-east-1", &[], "", Alike),
    ("my.data", "eu-west-1", &[], "", Alike),
    ("data", "cn-north-1", &[], "", Alike),
    ("data", "us-gov-west-1", &[], "", Alike),
    ("data", "eusc-de-east-1", &[], "", Alike),
    ("data", "us-iso-east-1", &[], "", Alike),
    ("data", "us-isob-east-1", &[], "", Alike),
    ("data", "eu-isoe-west-1", &[], "", Alike),
    ("data", "us-isof-south-1", &[], "", Alike),
    ("data", "eu-west-1", &[], PATH, Alike),
    ("data", "eu-west-1", &[], VIRTUAL, Alike),
    // Dual-stack and FIPS.
    ("data", "eu-west-1", &[DUAL_STACK], "", Alike),
    ("data", "eu-west-1", &[], "use_dualstack_endpoint = true\n", Alike),
    ("data", "eu-west-1", &[], "s3 =\n  use_dualstack_endpoint = true\n", Alike),
    ("my.data", "eu-west-1", &[DUAL_STACK], "", Alike),
    ("data", "cn-north-1", &[DUAL_STACK], "", Alike),
    ("data", "us-west-2", &[FIPS], "", Alike),
    ("data", "us-west-2", &[], "use_fips_endpoint = true\n", Alike),
    ("data", "us-west-2", &[("AWS_USE_FIPS_ENDPOINT", "false")], "use_fips_endpoint = true\n", Alike),
    ("data", "us-gov-west-1", &[FIPS, DUAL_STACK], "", Alike),
    ("data", "us-iso-east-1", &[FIPS], "", Alike),
    ("data", "cn-north-1", &[FIPS], "", Alike),
    // Transfer Acceleration.
    ("data", "eu-west-1", &[], ACCELERATE, Alike),
    ("data", "us-gov-west-1", &[], ACCELERATE, Alike),
    ("data", "eu-west-1", &[DUAL_STACK], ACCELERATE, Alike),
    ("my.data", "eu-west-1", &[], ACCELERATE, Alike),
    ("data", "cn-north-1", &[], ACCELERATE, Alike),
    ("data", "us-west-2", &[FIPS], ACCELERATE, Alike),
    (
        "data",
        "eu-west-1",
        &[],
        "s3 =\n  use_accelerate_endpoint = true\n  addressing_style = path\n",
        Refused("--path-style"),
    ),
    // Endpoints.
    ("data", "us-west-2", &[("AWS_ENDPOINT_URL", "https://env.example")], SERVICES, Alike),
    ("data", "us-west-2", &[("AWS_ENDPOINT_URL_S3", "https://s3.example:9000")], SERVICES, Alike),
    ("data", "us-west-2", &[], SERVICES, Alike),
    ("data", "us-west-2", &[("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")], SERVICES, Alike),
    ("data", "us-west-2", &[], "endpoint_url = https://profile.example\n", Alike),
    ("data", "us-west-2", &[("AWS_ENDPOINT_URL", "https://env.example")], VIRTUAL, Alike),
    ("data", "us-west-2", &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")], VIRTUAL, Alike),
    ("data", "us-west-2", &[("AWS_ENDPOINT_URL", "https://env.example"), DUAL_STACK, FIPS], "", Alike),
    ("data", "us-west-2", &[("AWS_ENDPOINT_URL", "https://env.example")], ACCELERATE, Alike),
    ("data", "us-east-1", &[("AWS_ENDPOINT_URL_S3", VPC)], "", Alike),
    ("data", "us-west-2", &[("AWS_ENDPOINT_URL", "https://s3.us-west-2.amazonaws.com")], "", Alike),
    // Access points.
    (POINT, "eu-west-1", &[], "", Alike),
    ("arn:aws:s3:us-west-2:123456789012:accesspoint:name", "us-west-2", &[], "", Alike),
    ("arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/name", "cn-north-1", &[], "", Alike),
    (POINT, "us-west-2", &[DUAL_STACK], "", Alike),
    (POINT, "us-west-2", &[FIPS], "", Alike),
    (POINT, "us-west-2", &[FIPS, DUAL_STACK], "", Alike),
    (POINT, "us-west-2", &[], PATH, Alike),
    (POINT, "us-west-2", &[], ACCELERATE, Alike),
    (POINT, "us-west-2", &[("AWS_ENDPOINT_URL_S3", VPC)], "", Alike),
    ("name-abcd1234-s3alias", "us-west-2", &[], "", Alike),
    ("name-abcd1234--ol-s3", "us-west-2", &[], "", Alike),
    ("arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap", "us-west-2", &[], "", Refused("SigV4A")),
    (
        "arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/name",
        "us-west-2",
        &[],
        "",
        Refused("--ol-s3"),
    ),
    (
        "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-1/accesspoint/name",
        "us-west-2",
        &[],
        "",
        Refused("Outposts"),
    ),
    (
        "test-accessp-o0b1d075431d83bebde8xz5w8ijx1qzlbp3i3kuse10--op-s3",
        "us-west-2",
        &[],
        "",
        Refused("Outposts"),
    ),
    ("data--usw2-az1--x-s3", "us-west-2", &[], "", Refused("directory buckets")),
    ("arn:aws:s3:::data", "us-west-2", &[], "", Alike),
];

#[test]
fn requests_go_where_botocores_go() {
    let dir = tempfile::tempdir().unwrap();
    let botocore = botocore();
    let asked = ROWS.iter().map(|(bucket, region, env, profile, _)| {
        let config = dir.path().join("config");
        std::fs::write(&config, config_file(profile)).unwrap();
        ours(bucket, region, env, &config)
    });
    let ours: Vec<_> = asked.collect();
    let theirs = answers(botocore);
    assert_eq!(theirs.len(), ROWS.len());
    for (((bucket, region, env, profile, then), ours), theirs) in ROWS.iter().zip(ours).zip(theirs) {
        let row = format!("{bucket} in {region}, {env:?}, {profile:?}");
        let theirs_refuse = theirs["refused"].as_str();
        match (then, &ours) {
            (Alike, Ok(ours)) => {
                assert_eq!((&theirs["url"], &theirs["scope"]), (&json!(ours.0), &json!(ours.1)), "{row}")
            }
            (Alike, Err(why)) => {
                assert!(theirs_refuse.is_some(), "{row}: we say {why}, botocore goes to {theirs}")
            }
            (Refused(word), Err(why)) => {
                assert!(why.contains(word), "{row}: {why}");
                assert_eq!(theirs_refuse, None, "{row}: botocore refuses it now, too");
            }
            (Refused(_), Ok(ours)) => panic!("{row}: sent to {ours:?}"),
        }
    }
}

fn config_file(profile: &str) -> String {
    format!("[default]\n{profile}")
}

fn environment<'a>(region: &'a str, env: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let files = [("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"), ("AWS_DEFAULT_REGION", region)];
    [&keys, &files, env].concat()
}

/// Asked all rows; it answers meanwhile.
fn botocore() -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/addresses.py");
    let mut child = Command::new(program("python3"))
        .arg(script)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut rows = child.stdin.take().unwrap();
    for (bucket, region, env, profile, _) in ROWS {
        let env: serde_json::Map<String, Value> =
            environment(region, env).iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
        writeln!(rows, "{}", json!({ "bucket": bucket, "env": env, "config": config_file(profile) }))
            .unwrap();
    }
    child
}

fn answers(botocore: Child) -> Vec<Value> {
    let told = botocore.wait_with_output().unwrap();
    assert!(told.status.success());
    String::from_utf8(told.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// URL and scope of a presigned request; nothing is sent for it.
fn ours(bucket: &str, region: &str, env: &[(&str, &str)], config: &Path) -> Result<(String, String), String> {
    let told = Command::new(env!("CARGO_BIN_EXE_pailfs"))
        .args(["s3", "presign", &format!("s3://{bucket}/a b")])
        .env_clear()
        .envs(environment(region, env))
        .env("AWS_CONFIG_FILE", config)
        .output()
        .unwrap();
    let stderr = String::from_utf8(told.stderr).unwrap();
    if !told.status.success() {
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        return Err(stderr);
    }
    let url = String::from_utf8(told.stdout).unwrap();
    let (url, query) = url.trim_end().split_once('?').unwrap();
    let credential = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Credential=")).unwrap();
    let scope: Vec<&str> = credential.split("%2F").collect();
    Ok((url.to_string(), scope[2..4].join("/")))
}
