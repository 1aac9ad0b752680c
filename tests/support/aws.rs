//! Clients that we did not write: boto3 in a long-lived process, and the `aws` command.
//!
//! boto3 is the fast one; [`s3api`] is the word of an independent program, started anew each time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde_json::Value;

use super::servers::{ACCESS_KEY, REGION, SECRET_KEY, program};

/// boto3 against one server. One order at a time; it ends when dropped.
pub struct Boto {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// S3's code and the message.
#[derive(Debug)]
pub struct BotoError {
    pub code: String,
    pub message: String,
}

#[derive(Debug, PartialEq, Eq)]
pub struct BotoHead {
    pub size: u64,
    pub etag: String,
    pub content_type: String,
    pub metadata: Vec<(String, String)>,
}

impl Boto {
    pub fn start(endpoint: &str) -> Boto {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/boto.py");
        let mut command = Command::new(program("python3"));
        command.arg(script).args([endpoint, ACCESS_KEY, SECRET_KEY, REGION]);
        clean_environment(&mut command);
        // It reads orders until its stdin closes, so it cannot outlive this process.
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 of the virtual environment");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Boto { child, orders, answers }
    }

    fn order(&mut self, words: &[&[u8]]) -> Result<Vec<Vec<u8>>, BotoError> {
        let line: Vec<String> =
            words.iter().map(|w| percent_encode(w, NON_ALPHANUMERIC).to_string()).collect();
        let orders = self.orders.as_mut().expect("open until dropped");
        writeln!(orders, "{}", line.join(" ")).expect("the boto3 process reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the boto3 process answers");
        let mut words: Vec<Vec<u8>> =
            line.trim_end().split(' ').map(|w| percent_decode_str(w).collect()).collect();
        match words.remove(0).as_slice() {
            b"ok" => Ok(words),
            b"err" => Err(BotoError { code: text(&words[0]), message: text(&words[1]) }),
            other => panic!("the boto3 process said {:?}", text(other)),
        }
    }

    #[track_caller]
    fn must(&mut self, words: &[&[u8]]) -> Vec<Vec<u8>> {
        let answer = self.order(words);
        answer.unwrap_or_else(|e| panic!("boto3, {}: {} {}", text(words[0]), e.code, e.message))
    }

    /// Any method of boto3's client, with arguments and answer as JSON.
    pub fn try_call(&mut self, method: &str, arguments: &Value) -> Result<Value, BotoError> {
        let words = self.order(&[b"call", method.as_bytes(), arguments.to_string().as_bytes()])?;
        Ok(serde_json::from_slice(&words[0]).expect("JSON"))
    }

    #[track_caller]
    pub fn call(&mut self, method: &str, arguments: &Value) -> Value {
        let answer = self.try_call(method, arguments);
        answer.unwrap_or_else(|e| panic!("boto3, {method} {arguments}: {} {}", e.code, e.message))
    }

    /// An expression of Python over the client `s3`.
    pub fn evaluate(&mut self, text: &str) -> Result<Value, BotoError> {
        let words = self.order(&[b"evaluate", text.as_bytes()])?;
        Ok(serde_json::from_slice(&words[0]).expect("JSON"))
    }

    /// What a bucket holds and has beside it, but for what differs by nature.
    #[track_caller]
    pub fn snapshot(&mut self, bucket: &str) -> String {
        text(&self.must(&[b"snapshot", bucket.as_bytes()])[0])
    }

    /// Stores an object and reads it back.
    pub fn probe(&mut self) -> Result<(), String> {
        self.order(&[b"probe"]).map(|_| ()).map_err(|e| format!("{}: {}", e.code, e.message))
    }

    #[track_caller]
    pub fn create_bucket(&mut self, bucket: &str) {
        self.must(&[b"create", bucket.as_bytes()]);
    }

    /// Answers the ETag.
    #[track_caller]
    pub fn put(&mut self, bucket: &str, key: &str, data: &[u8]) -> String {
        text(&self.must(&[b"put", bucket.as_bytes(), key.as_bytes(), data])[0])
    }

    #[track_caller]
    pub fn put_with(
        &mut self,
        bucket: &str,
        key: &str,
        data: &[u8],
        content_type: &str,
        metadata: &[(&str, &str)],
    ) -> String {
        let mut words: Vec<&[u8]> =
            vec![b"put", bucket.as_bytes(), key.as_bytes(), data, content_type.as_bytes()];
        for (name, value) in metadata {
            words.extend([name.as_bytes(), value.as_bytes()]);
        }
        text(&self.must(&words)[0])
    }

    /// A large one: in parts, as boto3 chooses them.
    #[track_caller]
    pub fn put_file(&mut self, bucket: &str, key: &str, path: &Path) {
        let path = path.as_os_str().as_encoded_bytes();
        self.must(&[b"put_file", bucket.as_bytes(), key.as_bytes(), path]);
    }

    /// The same bytes under many keys, 16 at a time.
    #[track_caller]
    pub fn put_many<K: AsRef<str>>(&mut self, bucket: &str, keys: &[K], data: &[u8]) {
        let mut words: Vec<&[u8]> = vec![b"put_many", bucket.as_bytes(), data];
        words.extend(keys.iter().map(|k| k.as_ref().as_bytes()));
        self.must(&words);
    }

    pub fn try_get(&mut self, bucket: &str, key: &str) -> Result<Vec<u8>, BotoError> {
        Ok(self.order(&[b"get", bucket.as_bytes(), key.as_bytes()])?.remove(0))
    }

    #[track_caller]
    pub fn get(&mut self, bucket: &str, key: &str) -> Vec<u8> {
        self.must(&[b"get", bucket.as_bytes(), key.as_bytes()]).remove(0)
    }

    /// Size and SHA-256, in memory that does not grow with the object.
    #[track_caller]
    pub fn get_sum(&mut self, bucket: &str, key: &str) -> (u64, String) {
        let words = self.must(&[b"get_sum", bucket.as_bytes(), key.as_bytes()]);
        (text(&words[0]).parse().expect("a size"), text(&words[1]))
    }

    pub fn head(&mut self, bucket: &str, key: &str) -> Result<BotoHead, BotoError> {
        let words = self.order(&[b"head", bucket.as_bytes(), key.as_bytes()])?;
        let words: Vec<String> = words.iter().map(|w| text(w)).collect();
        Ok(BotoHead {
            size: words[0].parse().expect("a size"),
            etag: words[1].clone(),
            content_type: words[2].clone(),
            metadata: words[3..].chunks(2).map(|p| (p[0].clone(), p[1].clone())).collect(),
        })
    }

    #[track_caller]
    pub fn delete(&mut self, bucket: &str, key: &str) {
        self.must(&[b"delete", bucket.as_bytes(), key.as_bytes()]);
    }

    /// The first bytes in a bucket take SeaweedFS long; what comes after this does not wait for that.
    #[track_caller]
    pub fn take_first_bytes(&mut self, bucket: &str) {
        self.put(bucket, "first", b"bytes");
        self.delete(bucket, "first");
    }

    /// Deletes every key that begins so.
    #[track_caller]
    pub fn empty(&mut self, bucket: &str, prefix: &str) {
        self.must(&[b"empty", bucket.as_bytes(), prefix.as_bytes()]);
    }

    /// In the server's order.
    #[track_caller]
    pub fn keys(&mut self, bucket: &str, prefix: &str) -> Vec<String> {
        let words = self.must(&[b"keys", bucket.as_bytes(), prefix.as_bytes()]);
        words.iter().map(|w| text(w)).collect()
    }

    /// Key and id of every multipart upload under way.
    #[track_caller]
    pub fn uploads(&mut self, bucket: &str) -> Vec<(String, String)> {
        let words = self.must(&[b"uploads", bucket.as_bytes()]);
        words.chunks(2).map(|p| (text(&p[0]), text(&p[1]))).collect()
    }
}

impl Drop for Boto {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

/// `aws s3api ARGS` against a server.
pub fn s3api(endpoint: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program("aws"));
    command.args(["--endpoint-url", endpoint, "--region", REGION, "--output", "json", "s3api"]);
    command.args(args);
    clean_environment(&mut command);
    with_credentials(&mut command);
    command.output().expect("the aws command")
}

/// As [`s3api`], its output where it went well.
#[track_caller]
pub fn s3api_ok(endpoint: &str, args: &[&str]) -> String {
    let output = s3api(endpoint, args);
    assert!(output.status.success(), "aws s3api {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Nothing of the machine's own AWS settings: neither its credentials nor its profiles.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"AWS_") {
            command.env_remove(name);
        }
    }
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    command.env("AWS_CONFIG_FILE", "/nonexistent").env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
    command.env("AWS_EC2_METADATA_DISABLED", "true");
}

pub fn with_credentials(command: &mut Command) {
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
}
