//! A server for the services that credentials come from, and for S3 where only the signature counts.
//!
//! Owns: [`StandIn`], which keeps what it was asked. A closure answers; it is told how many of the same came before.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request, as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query; of a request through a proxy what follows its host.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// How many of this method and path came before.
    pub before: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The access key that it is signed with; empty: it is not.
    pub fn key(&self) -> &str {
        let credential = self.header("authorization").split_once("Credential=");
        credential.and_then(|(_, after)| after.split('/').next()).unwrap_or("")
    }

    /// The session token it is signed with; empty: there is none.
    pub fn token(&self) -> &str {
        self.header("x-amz-security-token")
    }
}

/// Status, headers, body.
pub struct Answer(pub u16, pub Vec<(&'static str, String)>, pub String);

type Answering = dyn Fn(&Seen) -> Answer + Send + Sync;

/// It answers until the process ends.
pub struct StandIn {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl StandIn {
    pub fn start(answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let answer: Arc<Answering> = Arc::new(answer);
        let log = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (answer.clone(), log.clone());
                // A connection that breaks is its client's affair.
                std::thread::spawn(move || while let Some(true) = serve(&stream, &*answer, &log) {});
            }
        });
        StandIn { url, seen }
    }

    /// All that came, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

fn serve(stream: &TcpStream, answer: &Answering, log: &Mutex<Vec<Seen>>) -> Option<bool> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_string(), words.next()?);
    let path = match target.split_once("://") {
        Some((_, rest)) => format!("/{}", rest.split_once('/').map_or("", |(_, path)| path)),
        None => target.to_string(),
    };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_string());
    }
    let length = headers.get("content-length").map_or(0, |n| n.parse().unwrap_or(0));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let seen = {
        let mut log = log.lock().unwrap_or_else(|e| e.into_inner());
        let before = log.iter().filter(|seen| seen.method == method && seen.path == path).count();
        log.push(Seen { method, path, headers, body, before });
        log.last()?.clone()
    };
    let Answer(status, headers, body) = answer(&seen);
    let mut head = format!("HTTP/1.1 {status} x\r\n");
    for (name, value) in &headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !headers.iter().any(|(name, _)| *name == "content-length") {
        head += &format!("content-length: {}\r\n", body.len());
    }
    let mut stream = stream;
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).ok()?;
    Some(true)
}
