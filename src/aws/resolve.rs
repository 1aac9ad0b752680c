//! From a server's name to the addresses a new connection tries.
//!
//! Owns: [`Resolver`], which asks the system and hands the addresses out in turn, so that connections opened side by
//! side go to different ones.
//! Invariants: one look-up at a time, whose answer serves every connection opened within [`ANSWER_AGE_MAX`]; a family
//! of addresses that the system prefers stays first.
//! Must never know: ports, requests.
//!
//! S3 answers a query with up to eight addresses, and the next one, five seconds later, with eight others. Answers
//! are not added up: connections live longer than answers, so the pool spreads over many anyway, and an address that
//! the server no longer names may be dead. One name is remembered, for a mount has one endpoint. Names of proxies
//! come here in the same way.
//!
//! The connector tries addresses in their order and divides its time among them, so each connection gets a few only.
//! It does not tell which of them failed: a dead one costs its turns a share of that time, until S3 names it no more.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long S3's own answers are good for.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(5);
/// Of a family, for one connection.
const ADDRESSES_MAX: usize = 4;

/// Addresses in the system's order; their ports mean nothing.
type Lookup = Box<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// For reqwest; clones share everything.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    lookup: Lookup,
    /// Held across a look-up, so that connections opened together share its answer.
    answer: Mutex<Option<Answer>>,
    /// Connections so far.
    turn: AtomicUsize,
}

struct Answer {
    name: String,
    addresses: Vec<SocketAddr>,
    at: Instant,
}

impl Resolver {
    /// By the system's rules: hosts file, DNS, whatever else it is set up for.
    pub fn system() -> Resolver {
        let lookup =
            |name: String| async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) }.boxed();
        Resolver::over(Box::new(lookup))
    }

    pub(super) fn over(lookup: Lookup) -> Resolver {
        Resolver(Arc::new(Inner { lookup, answer: Mutex::default(), turn: AtomicUsize::new(0) }))
    }

    async fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let mut answer = self.0.answer.lock().await;
        if let Some(known) = &*answer
            && known.name == name
            && known.at.elapsed() < ANSWER_AGE_MAX
        {
            return Ok(in_turn(&known.addresses, turn));
        }
        let addresses = (self.0.lookup)(name.to_string()).await?;
        let given = in_turn(&addresses, turn);
        *answer = Some(Answer { name: name.to_string(), addresses, at: Instant::now() });
        Ok(given)
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.addresses(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The addresses that the connection with this number tries, in order.
fn in_turn(addresses: &[SocketAddr], turn: usize) -> Vec<SocketAddr> {
    let v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut preferred, mut other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv6() == v6_first);
    for family in [&mut preferred, &mut other] {
        let first = turn % family.len().max(1);
        family.rotate_left(first);
        family.truncate(ADDRESSES_MAX);
    }
    preferred.append(&mut other);
    preferred
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;

    fn addresses(text: &str) -> Vec<SocketAddr> {
        text.split(' ').map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect()
    }

    fn shown(addresses: &[SocketAddr]) -> String {
        addresses.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>().join(" ")
    }

    type Answers = Vec<io::Result<Vec<SocketAddr>>>;

    /// Answers from the last to the first, and writes down the names.
    fn scripted(answers: Answers) -> (Resolver, Arc<StdMutex<Vec<String>>>) {
        let asked: Arc<StdMutex<Vec<String>>> = Arc::default();
        let (names, answers) = (asked.clone(), StdMutex::new(answers));
        let lookup = move |name: String| {
            names.lock().unwrap().push(name);
            let answer = answers.lock().unwrap().pop().expect("an answer");
            async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                answer
            }
            .boxed()
        };
        (Resolver::over(Box::new(lookup)), asked)
    }

    #[test]
    fn each_connection_begins_with_the_next_address() {
        let three = addresses("10.0.0.1 10.0.0.2 10.0.0.3");
        let firsts: Vec<String> = (0..4).map(|turn| shown(&in_turn(&three, turn))).collect();
        let [a, b, c] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        assert_eq!(
            firsts,
            [format!("{a} {b} {c}"), format!("{b} {c} {a}"), format!("{c} {a} {b}"), format!("{a} {b} {c}"),]
        );
        assert_eq!(in_turn(&[], 7), []);
        assert_eq!(in_turn(&three, usize::MAX).len(), 3);
    }

    #[test]
    fn the_preferred_family_stays_first_and_few_are_tried() {
        let both = addresses("::1 10.0.0.1 ::2 10.0.0.2 10.0.0.3");
        assert_eq!(shown(&in_turn(&both, 0)), "::1 ::2 10.0.0.1 10.0.0.2 10.0.0.3");
        assert_eq!(shown(&in_turn(&both, 1)), "::2 ::1 10.0.0.2 10.0.0.3 10.0.0.1");
        let eight: Vec<SocketAddr> = (1..=8).map(|n| SocketAddr::from(([10, 0, 0, n], 0))).collect();
        assert_eq!(shown(&in_turn(&eight, 6)), "10.0.0.7 10.0.0.8 10.0.0.1 10.0.0.2");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_opened_together_share_one_look_up() {
        let (resolver, asked) = scripted(vec![Ok(addresses("10.0.0.9")), Ok(addresses("10.0.0.1 10.0.0.2"))]);
        let together = futures_util::future::join_all((0..4).map(|_| resolver.addresses("s3"))).await;
        let firsts: Vec<String> = together.into_iter().map(|a| a.unwrap()[0].ip().to_string()).collect();
        assert_eq!(firsts, ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(asked.lock().unwrap().len(), 1);
        tokio::time::sleep(ANSWER_AGE_MAX).await;
        assert_eq!(shown(&resolver.addresses("s3").await.unwrap()), "10.0.0.9");
        assert_eq!(*asked.lock().unwrap(), ["s3", "s3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_name_is_another_answer_and_a_failure_is_none() {
        let failed = || Err(io::Error::other("no such host"));
        let (resolver, asked) =
            scripted(vec![Ok(addresses("10.0.0.3")), failed(), Ok(addresses("10.0.0.1"))]);
        assert_eq!(shown(&resolver.addresses("a").await.unwrap()), "10.0.0.1");
        assert!(resolver.addresses("b").await.is_err());
        assert_eq!(shown(&resolver.addresses("b").await.unwrap()), "10.0.0.3");
        assert_eq!(*asked.lock().unwrap(), ["a", "b", "b"]);
    }

    #[tokio::test]
    async fn the_system_knows_this_host() {
        let found = Resolver::system().addresses("localhost").await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|a| a.ip().is_loopback()), "{found:?}");
        assert!(Resolver::system().addresses("nowhere.invalid").await.is_err());
    }
}
