//! The way to a cluster.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::response::{Status, StatusDetails};
use kube::{Client, Config};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tower::service_fn;

use super::error::KubernetesError;
use super::words::words;
use crate::error::BoxError;
use crate::math::{Backoff, Rng};

/// Whom to ask.
#[derive(Clone)]
pub(super) enum Access {
    /// The kubeconfig of the environment, or the service account of the pod.
    Infer,
    /// One kubeconfig, and one of its contexts if it is not the current one.
    Kubeconfig(PathBuf),
    Client(Client),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Infer => f.write_str("Infer"),
            Self::Kubeconfig(path) => f.debug_tuple("Kubeconfig").field(path).finish(),
            Self::Client(_) => f.write_str("Client"),
        }
    }
}

impl Access {
    /// Makes a client anew: files are read, and a program is run if the user signs in by one. It connects nowhere yet.
    ///
    /// That is done by a thread of its own, which holds a permit of `makers`: neither can be stopped, and the threads
    /// that a runtime keeps for such work are waited for when it ends.
    pub(super) async fn client(
        &self,
        context: Option<&str>,
        limit: Duration,
        makers: &Arc<Semaphore>,
    ) -> Result<Client, KubernetesError> {
        if let Self::Client(client) = self {
            return Ok(client.clone());
        }
        let refused = |why: String| KubernetesError::Access { source: why.into() };
        let late = || {
            let why = "its files were not read, or the program that signs in has not ended";
            refused(format!("{why}, within {limit:?}"))
        };
        let permit = makers.clone().try_acquire_owned().map_err(|_| late())?;
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let (access, runtime) = (self.clone(), Handle::current());
        let (sender, receiver) = oneshot::channel();
        let make = move || {
            // kube has a task for a client.
            let made = runtime.block_on(access.make(&options));
            drop(permit);
            // Nobody waits for it any more.
            let _ = sender.send(made);
        };
        let thread = std::thread::Builder::new().name("evenkeel-kube".into());
        let started = thread.spawn(make);
        started.map_err(|error| refused(format!("no thread to read it: {error}")))?;
        let made = timeout(limit, receiver).await.map_err(|_| late())?;
        let made = made.map_err(|_| refused("its reader panicked".into()))?;
        made.map_err(refused)
    }

    async fn make(self, options: &KubeConfigOptions) -> Result<Client, String> {
        let mut config = match self {
            Self::Client(client) => return Ok(client),
            Self::Infer if options.context.is_none() => {
                Config::infer().await.map_err(|error| words(&error))?
            }
            Self::Infer => {
                let config = Config::from_kubeconfig(options).await;
                config.map_err(|error| words(&error))?
            }
            Self::Kubeconfig(path) => {
                let of_path = |error| format!("{}: {}", path.display(), words(&error));
                let read = Kubeconfig::read_from(&path).map_err(of_path)?;
                let config = Config::from_custom_kubeconfig(read, options).await;
                config.map_err(of_path)?
            }
        };
        // kube's own retries sleep for minutes with nobody told; a refusal is told and tried again here.
        config.default_retry = false;
        // Where several providers are compiled in and none is chosen, rustls panics.
        if CryptoProvider::get_default().is_none() {
            let _ = ring::default_provider().install_default();
        }
        let exec = config.auth_info.exec.as_ref();
        let program = exec.and_then(|exec| exec.command.clone());
        Client::try_from(config).map_err(|error| match program {
            Some(program) if matches!(error, kube::Error::Auth(_)) => {
                format!("{program:?}: {}", words(&error))
            }
            _ => words(&error),
        })
    }
}

/// Stands in front of a client: kube's watcher waits for ever for the head of an answer, takes the status of a watch
/// for an event, and begins a watch that ends at once again without a pause.
#[derive(Debug)]
pub(super) struct Guard {
    timeout: Duration,
    pace: Mutex<Pace>,
    /// A watch has begun.
    pub(super) began: Notify,
}

impl Guard {
    pub(super) fn new(timeout: Duration, backoff: Backoff, rng: Rng) -> Self {
        let pace = Pace {
            backoff,
            rng,
            last: None,
            quick: 0,
        };
        Self {
            timeout,
            pace: Mutex::new(pace),
            began: Notify::new(),
        }
    }

    /// The client behind this. Needs a runtime, in which kube has a task for it.
    pub(super) fn around(self: &Arc<Self>, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let guard = self.clone();
        let service = service_fn(move |request| {
            let (guard, client) = (guard.clone(), client.clone());
            async move { guard.send(client, request).await }
        });
        Client::new(service, namespace)
    }

    async fn send(
        &self,
        client: Client,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, BoxError> {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.split('&').any(|pair| pair == "watch=true");
        if is_watch {
            let due = self.pace.lock().await.begin(Instant::now());
            sleep_until(due).await;
        }
        let answered = async {
            let response = client.send(request).await?;
            match response.status().is_success() {
                true => Ok(response),
                false => Err(refusal(response).await),
            }
        };
        let response = timeout(self.timeout, answered).await;
        let response = response.map_err(|_| format!("no answer within {:?}", self.timeout))??;
        if is_watch {
            self.began.notify_one();
        }
        Ok(response)
    }
}

/// What the API server says with a status that is no success.
async fn refusal(response: http::Response<Body>) -> kube::Error {
    let code = response.status();
    let after = response.headers().get(http::header::RETRY_AFTER);
    let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
    let body = response.into_body().collect_bytes().await;
    let body = body.unwrap_or_default();
    let read = serde_json::from_slice::<Status>(&body);
    let mut status = read.unwrap_or_else(|_| {
        // A proxy's page; its first words will do.
        let text = String::from_utf8_lossy(&body);
        let text: String = text.chars().take(200).collect();
        Status::failure(text.trim(), "")
    });
    status.code = code.as_u16();
    if let Some(after) = after {
        let none = || StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        };
        let details = status.details.get_or_insert_with(none);
        details.retry_after_seconds = after;
    }
    kube::Error::Api(status.boxed())
}

/// When the next watch may begin: at once as a rule, with backoff after those that ended within a moment.
#[derive(Debug)]
struct Pace {
    backoff: Backoff,
    rng: Rng,
    last: Option<Instant>,
    quick: u32,
}

impl Pace {
    fn begin(&mut self, now: Instant) -> Instant {
        let due = match self.last {
            Some(last) if now.saturating_duration_since(last) < self.backoff.base() => {
                let delay = self.backoff.delay(self.quick, &mut self.rng);
                self.quick = self.quick.saturating_add(1);
                now.max(last + delay)
            }
            _ => {
                self.quick = 0;
                now
            }
        };
        self.last = Some(due);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_ends_at_once_is_begun_again_with_growing_delays() {
        let backoff = Backoff::default().with_jitter(0.0);
        let mut pace = Pace {
            backoff,
            rng: Rng::new(1),
            last: None,
            quick: 0,
        };
        let start = Instant::now();
        let begins = |pace: &mut Pace, now: Instant| {
            let due = pace.begin(now);
            (due, due - now)
        };
        let (at, wait) = begins(&mut pace, start);
        assert_eq!(wait, Duration::ZERO, "the first one begins at once");
        let (at, wait) = begins(&mut pace, at);
        assert_eq!(wait, Duration::from_secs(1), "the base of the backoff");
        let (at, wait) = begins(&mut pace, at);
        assert_eq!(wait, Duration::from_millis(1600), "it grows");
        let (_, wait) = begins(&mut pace, at + Duration::from_secs(2));
        assert_eq!(wait, Duration::ZERO, "one that lasted is followed at once");
        assert_eq!(pace.quick, 0, "and ends the row");
    }
}
