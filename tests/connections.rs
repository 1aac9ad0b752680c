//! How many connections reads open: a server of our own counts them.

mod support;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pailfs::aws::transport::HttpTransport;
use pailfs::config::S3Config;
use pailfs::s3::S3Client;
use support::FakeS3;
use support::fake::{ACCESS_KEY, SECRET_KEY};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// More than the socket holds, so that bodies come in pieces.
const RANGE_BYTES: u64 = 300_000;
const GETS: u64 = 200;
const OBJECT_BYTES: u64 = GETS * RANGE_BYTES;

/// Answers GETs of ranges of one object, and what lies under `missing/` with 404.
async fn serve(socket: TcpStream) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if socket.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let answer = match asked(&head) {
            Some(Range { start, end }) if !head.contains("/missing/") => {
                let mut answer = format!(
                    "HTTP/1.1 206 Partial Content\r\netag: \"e\"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
                     content-length: {}\r\ncontent-range: bytes {start}-{}/{OBJECT_BYTES}\r\n\r\n",
                    end - start,
                    end - 1,
                )
                .into_bytes();
                answer.resize(answer.len() + (end - start) as usize, b'x');
                answer
            }
            _ => {
                let error = "<Error><Code>NoSuchKey</Code></Error>";
                format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{error}", error.len())
                    .into_bytes()
            }
        };
        socket.write_all(&answer).await?;
    }
}

fn asked(head: &str) -> Option<Range<u64>> {
    let (_, rest) = head.split_once("range: bytes=")?;
    let (first, last) = rest.lines().next()?.split_once('-')?;
    Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1)
}

/// A client of such a server, and the connections it has opened.
async fn client() -> (S3Client, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(socket));
        }
    });
    let config = S3Config { endpoint_url: Some(endpoint), ..FakeS3::new().config() };
    let transport = HttpTransport::new(false, None, config.request_timeout).expect("a transport");
    let keys = (ACCESS_KEY.to_string(), SECRET_KEY.to_string());
    (S3Client::over(&config, Arc::new(transport), Some(keys)), connections)
}

async fn read(client: &S3Client, n: u64) {
    let range = n * RANGE_BYTES..(n + 1) * RANGE_BYTES;
    let mut got = client.get_object("k", Some(range), Some("\"e\"")).await.expect("an answer");
    let mut bytes = 0;
    while let Some(frame) = got.body.frame().await.expect("a frame") {
        bytes += frame.len() as u64;
    }
    assert_eq!(bytes, RANGE_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_gets_use_connections_again() {
    for parallel in [1, 8, 64] {
        let (client, connections) = client().await;
        let turns = Arc::new(Semaphore::new(parallel));
        let mut gets = JoinSet::new();
        for n in 0..GETS {
            let (client, turns) = (client.clone(), turns.clone());
            gets.spawn(async move {
                let _turn = turns.acquire().await;
                read(&client, n).await;
            });
        }
        gets.join_all().await;
        let opened = connections.load(Ordering::SeqCst);
        let hedged = client.hedge_counts().sent as usize;
        // A second request opens one, and the loss of the other's may cost another.
        let most = parallel + parallel / 4 + 1 + 2 * hedged;
        assert!(opened <= most, "{opened} connections for {parallel} at once, {hedged} hedged");
    }
}

#[tokio::test]
async fn refusals_and_bodies_that_are_not_read_to_their_end() {
    let (client, connections) = client().await;
    for _ in 0..20 {
        client.get_object("missing/k", Some(0..10), None).await.err().expect("it is not there");
    }
    read(&client, 0).await;
    assert_eq!(connections.load(Ordering::SeqCst), 1, "the text of an error is read");
    // HTTP/1.1 has no way to stop a body but to close the connection.
    drop(client.get_object("k", Some(0..OBJECT_BYTES), None).await.expect("an answer"));
    read(&client, 1).await;
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}
