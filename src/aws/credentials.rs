//! Whose requests these are: keys from the AWS provider chain, fixed keys, or none.
//!
//! Owns: [`Credentials`], which keeps the chain's keys until shortly before they expire.
//! Invariants: one look-up at a time, however many requests wait for it; every look-up ends within
//! [`CHAIN_WAIT_MAX`]; no secret is ever printed ([`Keys`] has a `Debug` of its own).
//! Must never know: S3, signing, the configuration's file formats (aws-config reads those).

mod chain;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use self::chain::AwsChain;
use crate::config::S3Config;

/// Keys are renewed this long before they expire, so that none expires on its way.
const REFRESH_LEAD: Duration = Duration::from_secs(5 * 60);
/// The chain ends at EC2's metadata service, which elsewhere answers nothing at all.
pub const CHAIN_WAIT_MAX: Duration = Duration::from_secs(5);
/// A look-up that failed, changed nothing or brought expired keys is not repeated sooner: requests share its outcome.
const LOOKUP_PAUSE: Duration = Duration::from_secs(10);

/// Keys to sign with.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
    pub expires: Option<SystemTime>,
}

impl Keys {
    /// Whether they last so long yet.
    fn last_for(&self, time: Duration) -> bool {
        self.expires.is_none_or(|expires| expires > SystemTime::now() + time)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("access_key_id", &self.access_key_id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// No keys could be had. Its text says why and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no credentials: {0}")]
pub struct NoCredentials(pub String);

/// Where keys come from; the chain in earnest, a script in tests.
trait Source: Send + Sync {
    fn look_up(&self) -> BoxFuture<'_, Result<Keys, NoCredentials>>;
}

/// Keys for every request, from wherever they come.
pub struct Credentials(Kind);

enum Kind {
    Unsigned,
    Fixed(Arc<Keys>),
    Chain(Chain),
}

struct Chain {
    source: Box<dyn Source>,
    /// std's mutex: never held across an await.
    state: Mutex<State>,
    /// Held by whoever looks up. Taken before `state`, never within it.
    looking_up: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    keys: Option<Arc<Keys>>,
    /// When the last look-up ended, if it was fruitless.
    fruitless: Option<(Instant, Fruitless)>,
}

/// What a look-up brought that is not worth another at once.
#[derive(Clone)]
enum Fruitless {
    Failed(NoCredentials),
    /// The keys that were there before.
    Same,
    /// Keys that had expired already, by this machine's clock.
    Expired(Arc<Keys>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Unsigned => "Credentials(none)",
            Kind::Fixed(_) => "Credentials(fixed)",
            Kind::Chain(_) => "Credentials(chain)",
        })
    }
}

impl Credentials {
    /// Requests go unsigned.
    pub fn unsigned() -> Credentials {
        Credentials(Kind::Unsigned)
    }

    pub fn fixed(access_key_id: String, secret_access_key: String) -> Credentials {
        Credentials(Kind::Fixed(Arc::new(Keys {
            access_key_id,
            secret_access_key,
            session_token: None,
            expires: None,
        })))
    }

    /// The AWS chain: environment, profile (keys, process, SSO, assumed roles), web identity, container, EC2. Looks
    /// nothing up yet.
    pub fn chain(config: &S3Config) -> Credentials {
        Credentials::from_source(Box::new(AwsChain::of(config)))
    }

    fn from_source(source: Box<dyn Source>) -> Credentials {
        Credentials(Kind::Chain(Chain {
            source,
            state: Mutex::default(),
            looking_up: tokio::sync::Mutex::default(),
        }))
    }

    /// The keys to sign with now; none: send unsigned.
    pub async fn keys(&self) -> Result<Option<Arc<Keys>>, NoCredentials> {
        match &self.0 {
            Kind::Unsigned => Ok(None),
            Kind::Fixed(keys) => Ok(Some(keys.clone())),
            Kind::Chain(chain) => chain.keys().await.map(Some),
        }
    }

    /// After the server refused `used`: whether there are other keys now. Looks up at most once in a while.
    pub async fn replace(&self, used: &Keys) -> bool {
        match &self.0 {
            Kind::Unsigned | Kind::Fixed(_) => false,
            Kind::Chain(chain) => chain.replace(used).await,
        }
    }
}

impl Chain {
    async fn keys(&self) -> Result<Arc<Keys>, NoCredentials> {
        if let Some(keys) = self.kept(REFRESH_LEAD) {
            return Ok(keys);
        }
        if let Some(keys) = self.kept(Duration::ZERO) {
            // Still valid: one request renews them, the others go on.
            if let Ok(_turn) = self.looking_up.try_lock()
                && self.recently_fruitless().is_none()
            {
                return self.look_up().await.or(Ok(keys));
            }
            return Ok(keys);
        }
        let _turn = self.looking_up.lock().await;
        if let Some(keys) = self.kept(Duration::ZERO) {
            return Ok(keys);
        }
        match self.recently_fruitless() {
            Some(Fruitless::Failed(failure)) => Err(failure),
            Some(Fruitless::Expired(keys)) => Ok(keys),
            // They have expired since: there may be others now.
            Some(Fruitless::Same) | None => self.look_up().await,
        }
    }

    async fn replace(&self, used: &Keys) -> bool {
        let _turn = self.looking_up.lock().await;
        let kept = self.state().keys.clone();
        if kept.is_some_and(|kept| *kept != *used) {
            return true;
        }
        if self.recently_fruitless().is_some() {
            return false;
        }
        match self.look_up().await {
            Ok(keys) => *keys != *used,
            Err(_) => false,
        }
    }

    /// Keys that last for `lead` yet.
    fn kept(&self, lead: Duration) -> Option<Arc<Keys>> {
        let keys = self.state().keys.clone()?;
        keys.last_for(lead).then_some(keys)
    }

    fn recently_fruitless(&self) -> Option<Fruitless> {
        match &self.state().fruitless {
            Some((at, fruitless)) if at.elapsed() < LOOKUP_PAUSE => Some(fruitless.clone()),
            _ => None,
        }
    }

    /// The caller holds `looking_up`.
    async fn look_up(&self) -> Result<Arc<Keys>, NoCredentials> {
        let found = tokio::time::timeout(CHAIN_WAIT_MAX, self.source.look_up()).await;
        let found = found.unwrap_or_else(|_| {
            Err(NoCredentials(format!(
                "the AWS provider chain did not answer within {} s",
                CHAIN_WAIT_MAX.as_secs()
            )))
        });
        let mut state = self.state();
        let found = found.map(Arc::new);
        let fruitless = match &found {
            Ok(keys) => {
                let old = state.keys.replace(keys.clone());
                if !keys.last_for(Duration::ZERO) {
                    Some(Fruitless::Expired(keys.clone()))
                } else {
                    // EC2 hands out the same ones until it has others.
                    (old.as_ref() == Some(keys)).then_some(Fruitless::Same)
                }
            }
            Err(e) => {
                tracing::debug!(reason = %e, "look-up of credentials failed");
                Some(Fruitless::Failed(e.clone()))
            }
        };
        state.fruitless = fruitless.map(|fruitless| (Instant::now(), fruitless));
        found
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Answers keys numbered by look-up; the closure says when they expire, or fails.
    struct Script<F>(Arc<AtomicU32>, F);

    impl<F> Source for Script<F>
    where
        F: Fn(u32) -> Result<Option<Duration>, NoCredentials> + Send + Sync,
    {
        fn look_up(&self) -> BoxFuture<'_, Result<Keys, NoCredentials>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let n = self.0.fetch_add(1, Ordering::SeqCst);
                (self.1)(n).map(|lasts| Keys {
                    access_key_id: format!("key-{n}"),
                    secret_access_key: "hush".to_string(),
                    session_token: Some("hush".to_string()),
                    expires: lasts.map(|d| SystemTime::now() + d),
                })
            })
        }
    }

    fn scripted<F>(script: F) -> (Credentials, Arc<AtomicU32>)
    where
        F: Fn(u32) -> Result<Option<Duration>, NoCredentials> + Send + Sync + 'static,
    {
        let count = Arc::new(AtomicU32::new(0));
        let source = Script(count.clone(), script);
        (Credentials::from_source(Box::new(source)), count)
    }

    async fn id(credentials: &Credentials) -> String {
        let keys = credentials.keys().await.unwrap().unwrap();
        keys.access_key_id.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn many_requests_share_one_look_up() {
        let (credentials, count) = scripted(|_| Ok(Some(Duration::from_secs(3600))));
        let all = futures_util::future::join_all((0..20).map(|_| id(&credentials))).await;
        assert!(all.iter().all(|id| id == "key-0"));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_renewed_before_they_expire() {
        let (credentials, count) = scripted(|_| Ok(Some(Duration::from_secs(200))));
        assert_eq!(id(&credentials).await, "key-0");
        // Within the lead: one renews, the others do not wait.
        let all = futures_util::future::join_all((0..3).map(|_| id(&credentials))).await;
        assert_eq!(all, ["key-1", "key-0", "key-0"]);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_brings_the_same_keys_is_not_repeated_at_once() {
        struct Same(Keys, Arc<AtomicU32>);
        impl Source for Same {
            fn look_up(&self) -> BoxFuture<'_, Result<Keys, NoCredentials>> {
                self.1.fetch_add(1, Ordering::SeqCst);
                Box::pin(std::future::ready(Ok(self.0.clone())))
            }
        }
        let keys = Keys {
            access_key_id: "same".to_string(),
            secret_access_key: "hush".to_string(),
            session_token: None,
            expires: Some(SystemTime::now() + Duration::from_secs(200)),
        };
        let count = Arc::new(AtomicU32::new(0));
        let credentials = Credentials::from_source(Box::new(Same(keys, count.clone())));
        for _ in 0..5 {
            assert_eq!(id(&credentials).await, "same");
        }
        assert_eq!(count.load(Ordering::SeqCst), 2, "found, and once looked for newer ones");
        tokio::time::advance(LOOKUP_PAUSE).await;
        id(&credentials).await;
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_still_valid_outlive_a_failed_renewal() {
        let (credentials, count) = scripted(|n| match n {
            0 => Ok(Some(Duration::from_secs(200))),
            _ => Err(NoCredentials("away".to_string())),
        });
        for _ in 0..5 {
            assert_eq!(id(&credentials).await, "key-0");
        }
        assert_eq!(count.load(Ordering::SeqCst), 2, "a failure is not repeated at once");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_keys_are_replaced_once() {
        let (credentials, count) = scripted(|_| Ok(None));
        let used = credentials.keys().await.unwrap().unwrap();
        let all = futures_util::future::join_all((0..5).map(|_| credentials.replace(&used))).await;
        assert_eq!(all, [true; 5]);
        assert_eq!(count.load(Ordering::SeqCst), 2);
        assert_eq!(id(&credentials).await, "key-1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_chain_that_finds_nothing_fails_for_all_at_once() {
        let (credentials, count) = scripted(|_| Err(NoCredentials("nothing found".to_string())));
        let all = futures_util::future::join_all((0..20).map(|_| credentials.keys())).await;
        let text = all[0].clone().unwrap_err().to_string();
        assert!(text.contains("nothing found"), "{text}");
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    /// From a source that hands out the old ones, or by a clock that is wrong: then they may be good.
    #[tokio::test(start_paused = true)]
    async fn keys_that_arrive_expired_are_used_for_a_while() {
        let (credentials, count) = scripted(|_| Ok(Some(Duration::ZERO)));
        for _ in 0..5 {
            assert_eq!(id(&credentials).await, "key-0");
        }
        let used = credentials.keys().await.unwrap().unwrap();
        assert!(!credentials.replace(&used).await);
        assert_eq!(count.load(Ordering::SeqCst), 1);
        tokio::time::advance(LOOKUP_PAUSE).await;
        assert_eq!(id(&credentials).await, "key-1");
    }

    /// A process that hands out the same ones until they expire has others then, and not before.
    #[tokio::test(start_paused = true)]
    async fn keys_that_expire_soon_after_a_look_up_are_looked_up_again() {
        struct Process(AtomicU32);
        impl Source for Process {
            fn look_up(&self) -> BoxFuture<'_, Result<Keys, NoCredentials>> {
                let n = self.0.fetch_add(1, Ordering::SeqCst);
                Box::pin(std::future::ready(Ok(Keys {
                    access_key_id: if n < 2 { "old" } else { "new" }.to_string(),
                    secret_access_key: "hush".to_string(),
                    session_token: None,
                    expires: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX))),
                })))
            }
        }
        let credentials = Credentials::from_source(Box::new(Process(AtomicU32::new(0))));
        let used = credentials.keys().await.unwrap().unwrap();
        assert!(!credentials.replace(&used).await, "the same ones");
        let Kind::Chain(chain) = &credentials.0 else { unreachable!("it is one") };
        chain.state().keys = Some(Arc::new(Keys { expires: Some(SystemTime::now()), ..(*used).clone() }));
        assert_eq!(id(&credentials).await, "new");
    }

    #[tokio::test(start_paused = true)]
    async fn a_chain_that_hangs_is_given_up() {
        struct Hung;
        impl Source for Hung {
            fn look_up(&self) -> BoxFuture<'_, Result<Keys, NoCredentials>> {
                Box::pin(std::future::pending())
            }
        }
        let credentials = Credentials::from_source(Box::new(Hung));
        let text = credentials.keys().await.unwrap_err().to_string();
        assert!(text.contains("within 5 s"), "{text}");
    }

    #[tokio::test]
    async fn secrets_never_print() {
        let (chain, _) = scripted(|_| Ok(None));
        let keys = chain.keys().await.unwrap().unwrap();
        let fixed = Credentials::fixed("id".to_string(), "hush".to_string());
        for text in [format!("{keys:?}"), format!("{chain:?}"), format!("{fixed:?}")] {
            assert!(!text.contains("hush"), "{text}");
        }
    }
}
