//! A server's own key.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::Status;

use super::client::{Client, Settings, said};
use super::value::encode;
use crate::endpoint::Endpoint;
use crate::error::Error;
#[cfg(feature = "tls")]
use crate::grpc::tls::Tls;
use crate::math::{Backoff, Rng};
use crate::proto::etcd::LeaseKeepAliveRequest;

/// How a server puts itself under a key in etcd, for [`Etcd`](super::Etcd) and others to find:
/// [`start`](Self::start) does so.
///
/// | setting | default | source |
/// |---|---|---|
/// | [`with_ttl`](Self::with_ttl) | 15 s | ours: three beats of 5 s |
/// | [`with_backoff`](Self::with_backoff) | 1 s × 1.6 ± 20 %, at most 30 s | gRPC connection backoff; the maximum ours |
/// | [`with_user`](Self::with_user) | none | etcd |
/// | `with_tls`, feature `tls` | none | etcd |
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use evenkeel::Endpoint;
/// use evenkeel::grpc::etcd::Register;
///
/// let me = Endpoint::new("http://10.0.0.1:50051").with_weight(3);
/// let registration = Register::new(["10.0.0.2:2379"], "services/cart/10.0.0.1:50051", me).start()?;
/// // Serve; and before the server stops:
/// registration.deregister().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is registered until it is started"]
pub struct Register {
    key: String,
    endpoint: Endpoint,
    ttl: Duration,
    settings: Settings,
}

impl Register {
    /// Puts `endpoint` under `key` in the etcd at `endpoints`, which are as those of
    /// [`Etcd::prefix`](super::Etcd::prefix). Address, weight, priority, locality and metadata are written, as
    /// [the module](super) says; the address is the one that clients reach the server by.
    pub fn new<E: Into<Endpoint>>(
        endpoints: impl IntoIterator<Item = E>,
        key: impl Into<String>,
        endpoint: impl Into<Endpoint>,
    ) -> Self {
        Self {
            key: key.into(),
            endpoint: endpoint.into(),
            ttl: Duration::from_secs(15),
            settings: Settings::new(endpoints),
        }
    }

    /// How long after the server's end the key stands, where the server cannot take it back; in whole seconds, rounded
    /// up. etcd raises it to what its own elections need. The lease is kept alive at a third of it. Default 15 s.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Asks as this user of etcd's.
    pub fn with_user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.settings.user = Some((name.into(), password.into()));
        self
    }

    /// Speaks TLS to etcd, by these settings; without them as [`Builder::tls`](crate::grpc::Builder::tls) says.
    #[cfg(feature = "tls")]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// The delays between dials, and between tries to register.
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Seeds all randomness; default a different seed each time.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// Registers, in a task of its own, and again whenever the lease was lost. Does not wait for etcd: while it does
    /// not answer, it is tried again after a backoff, with a warning in the log.
    ///
    /// # Errors
    /// Names the setting that cannot be used: an empty key, an endpoint that the value cannot tell, a TTL of
    /// zero or of more than 9,000,000,000 s (etcd's limit), what [`Etcd::updates`](super::Etcd::updates) says of the
    /// others; or no tokio runtime.
    pub fn start(self) -> Result<Registration, Error> {
        if self.key.is_empty() {
            return Err(Error::config("key", "is empty"));
        }
        let whole = u64::from(self.ttl.subsec_nanos() > 0);
        let seconds = self.ttl.as_secs().saturating_add(whole);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        if !(1..=9_000_000_000).contains(&seconds) {
            let message = format!("{:?} is not 1 to 9,000,000,000 s", self.ttl);
            return Err(Error::config("ttl", message));
        }
        let value = encode(&self.endpoint)?;
        let runtime = Runtime::try_current().map_err(|_| Error::no_runtime())?;
        let seed = self.settings.seed.unwrap_or_else(|| fastrand::u64(..));
        let (stop, stopped) = oneshot::channel();
        let (tell, state) = watch::channel(false);
        let keeper = Keeper {
            client: self.settings.client()?,
            key: self.key.into(),
            value: value.into(),
            seconds,
            backoff: self.settings.backoff,
            rng: Rng::new(seed),
            tell,
            lease: None,
        };
        runtime.spawn(keeper.run(stopped));
        Ok(Registration { stop, state })
    }
}

type Answer = oneshot::Sender<Result<(), Status>>;

/// A server's key in etcd, kept there for as long as this lives. Dropped, it takes the key back in the background,
/// where the runtime is still there; else, and where the process just ends, the key goes when its lease expires. A key
/// that somebody else deletes is not put again.
#[derive(Debug)]
#[must_use = "the key is taken back when this is dropped"]
pub struct Registration {
    stop: oneshot::Sender<Answer>,
    state: watch::Receiver<bool>,
}

impl Registration {
    /// Whether the key is there, by what etcd said last.
    pub fn is_registered(&self) -> bool {
        *self.state.borrow()
    }

    /// Waits until the key is there. `false` if it will never be, since the runtime was shut down. May be dropped and
    /// called again at will.
    pub async fn registered(&self) -> bool {
        let mut state = self.state.clone();
        state.wait_for(|registered| *registered).await.is_ok()
    }

    /// Takes the key back, and waits until it is gone. If this is dropped before, the key goes all the same.
    ///
    /// # Errors
    /// What etcd said, or that it did not answer within 10 s; the key then goes when its lease expires.
    pub async fn deregister(self) -> Result<(), Status> {
        let gone = || Status::unavailable("the runtime was shut down");
        let (answer, answered) = oneshot::channel();
        self.stop.send(answer).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

struct Keeper {
    client: Client,
    key: Bytes,
    value: Bytes,
    seconds: i64,
    backoff: Backoff,
    rng: Rng,
    tell: watch::Sender<bool>,
    /// The last lease that was granted.
    lease: Option<i64>,
}

impl Keeper {
    async fn run(mut self, stopped: oneshot::Receiver<Answer>) {
        let answer = tokio::select! {
            biased;
            answer = stopped => answer.ok(),
            never = self.keep() => match never {},
        };
        // A put that is under way is of this lease, so it fails once the lease is gone.
        let done = match self.lease {
            Some(lease) => self.client.revoke(lease).await,
            None => Ok(()),
        };
        if let Err(status) = &done {
            let key = String::from_utf8_lossy(&self.key);
            tracing::warn!(%key, error = said(status), "etcd did not take a lease back");
        }
        if let Some(answer) = answer {
            // Whoever asked may be gone.
            let _ = answer.send(done);
        }
    }

    async fn keep(&mut self) -> Infallible {
        let mut failures = 0;
        loop {
            match self.register().await {
                Ok(ttl) => {
                    failures = 0;
                    self.tell.send_replace(true);
                    self.hold(ttl).await;
                    self.tell.send_replace(false);
                    let key = String::from_utf8_lossy(&self.key);
                    tracing::warn!(%key, "the lease was lost; registering again");
                }
                Err(status) => {
                    let key = String::from_utf8_lossy(&self.key);
                    tracing::warn!(%key, error = said(&status), "etcd did not register it");
                    sleep(self.backoff.delay(failures, &mut self.rng)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    /// Puts the key under a new lease, and says how long that lasts.
    async fn register(&mut self) -> Result<Duration, Status> {
        let lease = self.client.grant(self.seconds).await?;
        self.lease = Some(lease.id);
        let (key, value) = (self.key.clone(), self.value.clone());
        self.client.put(key, value, lease.id).await?;
        Ok(Duration::from_secs(lease.ttl.max(1).unsigned_abs()))
    }

    /// Has the lease live on until etcd says that it is gone. While etcd does not answer, nobody knows.
    async fn hold(&mut self, ttl: Duration) {
        let mut failures = 0;
        loop {
            match self.beat(ttl, &mut failures).await {
                Ok(()) => return,
                Err(status) => {
                    let key = String::from_utf8_lossy(&self.key);
                    tracing::debug!(%key, error = said(&status), "a lease is not kept alive");
                    let delay = self.backoff.delay(failures, &mut self.rng);
                    // One that is soon enough saves the lease.
                    sleep(delay.min(ttl / 3)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    /// Over one stream. Ok if the lease is gone.
    async fn beat(&mut self, ttl: Duration, failures: &mut u32) -> Result<(), Status> {
        let Some(id) = self.lease else { return Ok(()) };
        let mut clock = interval(ttl / 3);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let beats = stream::unfold(clock, move |mut clock| async move {
            clock.tick().await;
            Some((LeaseKeepAliveRequest { id }, clock))
        });
        // One answer late, and the rest of the time is for another of etcd's members.
        let patience = ttl * 2 / 3;
        let silent = |_| Status::deadline_exceeded("etcd says nothing of the lease");
        let answers = timeout(patience, self.client.keep_alive(beats)).await;
        let mut answers = answers.map_err(silent)??;
        loop {
            let answer = timeout(patience, answers.message()).await;
            match answer.map_err(silent)?? {
                None => return Err(Status::unavailable("the stream ended")),
                Some(answer) if answer.ttl <= 0 => return Ok(()),
                Some(_) => *failures = 0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_registered_is_refused_by_the_name_of_the_setting() {
        let register = |key: &str, address: &str| Register::new(["127.0.0.1:1"], key, address);
        let none: [&str; 0] = [];
        for (register, field) in [
            (register("", "http://a:1"), "key"),
            (register("a", "a"), "endpoint"),
            (register("a", "a:1").with_ttl(Duration::ZERO), "ttl"),
            (register("a", "a:1").with_ttl(Duration::MAX), "ttl"),
            (Register::new(none, "a", "a:1"), "endpoints"),
        ] {
            let error = register.start().expect_err(field);
            assert_eq!(error.field(), Some(field), "{error}");
        }
    }

    #[test]
    fn outside_a_runtime_it_is_a_typed_error() {
        let register = Register::new(["127.0.0.1:1"], "a", "a:1");
        let error = register.start().expect_err("no runtime");
        assert_eq!(error.field(), Some("runtime"), "{error}");
    }
}
