//! A model of S3 to measure with: settable delays and bandwidth, requests counted by kind, synthetic objects.
//!
//! Owns: the command line and the connections. Plain HTTP on 127.0.0.1, path-style addresses, no signatures.
//! Invariant: the first line of stdout is the URL, written when connections are taken.
//! Must never know: S3.

mod body;
mod bucket;
mod catalog;
mod content;
mod counts;
mod documents;
mod service;

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::{Parser, Subcommand};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::bucket::Bucket;
use crate::catalog::{Catalog, Tree};
use crate::content::Source;
use crate::counts::{Counts, Delays, Meter};
use crate::service::Server;

/// A model of S3 to measure with.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until killed; the first line of stdout is the URL.
    ///
    /// `GET /-/counts` answers what was asked for since `POST /-/reset`, in JSON.
    /// `POST /-/delays?first_byte_ms=0&list_ms=0&write_ms=0&mb_per_second=0` changes the delays named.
    Serve(Serve),
    /// Compare a file's bytes with the content of KEY; status 1 and the first offset if they differ
    Check {
        /// `-`: stdin
        file: PathBuf,
        #[arg(long)]
        key: String,
        /// Where in the object the file's first byte stands
        #[arg(long, default_value_t = 0)]
        offset: u64,
    },
    /// Write the content of KEY to stdout
    Content {
        #[arg(long)]
        key: String,
        #[arg(long, default_value_t = 0)]
        offset: u64,
        #[arg(long)]
        size: bytesize::ByteSize,
    },
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// 0: a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    #[arg(long, default_value = "bench")]
    bucket: String,
    /// KEY=SIZE, such as big=1GiB
    #[arg(long = "object", value_parser = Tree::object, value_name = "SPEC")]
    objects: Vec<Tree>,
    /// PREFIX:files=N[,dirs=N][,size=SIZE][,names=numbers|hex]: N files in each of N directories (without
    /// `dirs`: in PREFIX itself)
    #[arg(long = "tree", value_name = "SPEC")]
    trees: Vec<Tree>,
    #[command(flatten)]
    delays: Delays,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(options) => serve(options),
        Command::Check { file, key, offset } => open(&file).and_then(|mut input| {
            let bytes = content::check(&mut input, &key, offset)?;
            println!("{bytes} bytes are the content of {key}");
            Ok(())
        }),
        Command::Content { key, offset, size } => {
            let mut stdout = io::stdout().lock();
            content::write(&mut stdout, &key, offset..offset + size.0).and_then(|()| stdout.flush())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("model_s3: {e}");
            ExitCode::FAILURE
        }
    }
}

fn open(file: &PathBuf) -> io::Result<Box<dyn Read>> {
    Ok(if file.as_os_str() == "-" { Box::new(io::stdin()) } else { Box::new(std::fs::File::open(file)?) })
}

fn serve(options: Serve) -> io::Result<()> {
    let trees = options.objects.into_iter().chain(options.trees).collect();
    let server = Arc::new(Server {
        name: options.bucket,
        bucket: Mutex::new(Bucket::new(Catalog::new(trees))),
        meter: Arc::new(Meter { counts: Counts::default(), delays: Mutex::new(options.delays) }),
    });
    // Made before the first request, which it would delay.
    Source::Pattern.bytes();
    Source::Zeros.bytes();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(accept(options.port, server))
}

async fn accept(port: u16, server: Arc<Server>) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("http://{}", listener.local_addr()?);
    io::stdout().flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let server = server.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| server.answer(request));
            // writev: frames go out from where they lie. A connection that ends early is the client's choice.
            let _ = http1::Builder::new().writev(true).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
