//! From an endpoint's addresses to a TCP connection.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::io;
use std::iter::{Once, once};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tower_service::Service;

use super::race::{Family, name, none_answered, race};
use super::settings::Http2Settings;
use crate::error::BoxError;

/// How long the others wait for the first address, if that is a name: RFC 8305's resolution delay (section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// One address to dial, and the endpoint's address that it comes from.
#[derive(Debug, Clone)]
struct Target {
    uri: Uri,
    /// Why there is none, if its name could not be looked up.
    address: Result<SocketAddr, Arc<io::Error>>,
}

impl Target {
    fn family(&self) -> Family {
        match self.address {
            Ok(address) => address.into(),
            Err(_) => Family::Unknown,
        }
    }

    fn name(&self) -> String {
        match self.address {
            Ok(address) => address.to_string(),
            Err(_) => name(&self.uri),
        }
    }
}

/// Connects to whichever address answers first, and says which one of `uris` that was. Names are looked up
/// all at once; each of their addresses is one of the server's.
pub(super) async fn connect(
    settings: Arc<Http2Settings>,
    uris: Vec<Uri>,
) -> Result<(TcpStream, Uri), BoxError> {
    connect_by(look_up, settings, uris).await
}

async fn connect_by<F>(
    look_up: impl Fn(String, u16) -> F,
    settings: Arc<Http2Settings>,
    uris: Vec<Uri>,
) -> Result<(TcpStream, Uri), BoxError>
where
    F: Future<Output = Found>,
{
    let dial = |target: &Target| dial(settings.clone(), target.clone());
    let delay = settings.connection_attempt_delay;
    let won = race(targets(&uris, look_up), Target::family, delay, dial).await;
    won.map_err(|failed| {
        let named = failed
            .into_iter()
            .map(|(target, error)| (target.name(), error));
        none_answered(named.collect(), &uris)
    })
}

type Found = io::Result<Vec<SocketAddr>>;

/// The targets as they become known, each address once. All wait a moment for the first of `uris`, so that it
/// is the first to be dialled though it has to be looked up.
fn targets<F>(uris: &[Uri], look_up: impl Fn(String, u16) -> F) -> impl Stream<Item = Vec<Target>>
where
    F: Future<Output = Found>,
{
    let mut found = Vec::new();
    let look_ups = FuturesUnordered::new();
    let mut first_is_name = false;
    for (place, uri) in uris.iter().cloned().enumerate() {
        let (host, port) = host_and_port(&uri);
        match host.parse::<IpAddr>() {
            Ok(ip) => found.push((uri, Ok(vec![SocketAddr::new(ip, port)]))),
            Err(_) => {
                first_is_name |= place == 0;
                let looking = look_up(host.to_owned(), port);
                look_ups.push(async move { (place, uri, looking.await) });
            }
        }
    }
    let joining = Joining {
        found,
        look_ups,
        waits: first_is_name,
        seen: HashSet::new(),
    };
    stream::unfold(joining, |mut joining| async {
        Some((joining.next().await?, joining))
    })
}

struct Joining<L> {
    /// What is to join next.
    found: Vec<(Uri, Found)>,
    /// By the places of the names.
    look_ups: L,
    /// For the name that is the first of all.
    waits: bool,
    seen: HashSet<SocketAddr>,
}

impl<L: Stream<Item = (usize, Uri, Found)> + Unpin> Joining<L> {
    async fn next(&mut self) -> Option<Vec<Target>> {
        if std::mem::take(&mut self.waits) {
            let first = async {
                while let Some((place, uri, found)) = self.look_ups.next().await {
                    if place == 0 {
                        self.found.insert(0, (uri, found));
                        return;
                    }
                    self.found.push((uri, found));
                }
            };
            // Over or not, what was found joins.
            let _ = timeout(RESOLUTION_DELAY, first).await;
        }
        if self.found.is_empty() {
            let (_, uri, found) = self.look_ups.next().await?;
            self.found.push((uri, found));
        }
        let mut targets = Vec::new();
        for (uri, found) in self.found.drain(..) {
            let addresses = match found {
                Ok(addresses) => addresses.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(Arc::new(error))],
            };
            for address in addresses {
                if let Ok(address) = address
                    && !self.seen.insert(address)
                {
                    continue;
                }
                let uri = uri.clone();
                targets.push(Target { uri, address });
            }
        }
        Some(targets)
    }
}

/// Where `uri` leads to; the host of an IPv6 address without its brackets.
fn host_and_port(uri: &Uri) -> (&str, u16) {
    let host = uri.host().unwrap_or_default();
    let port = match uri.port_u16() {
        Some(port) => port,
        None if uri.scheme() == Some(&Scheme::HTTPS) => 443,
        None => 80,
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

async fn look_up(host: String, port: u16) -> Found {
    let found: Vec<_> = lookup_host((host, port)).await?.collect();
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
    }
    Ok(found)
}

/// One address, by hyper's connector, which knows how to set up a socket.
async fn dial(settings: Arc<Http2Settings>, target: Target) -> Result<(TcpStream, Uri), BoxError> {
    let mut tcp = HttpConnector::new_with_resolver(Known(target.address?));
    tcp.enforce_http(false);
    tcp.set_nodelay(settings.tcp_nodelay);
    tcp.set_keepalive(settings.tcp_keepalive);
    tcp.set_keepalive_interval(settings.tcp_keepalive_interval);
    tcp.set_keepalive_retries(settings.tcp_keepalive_retries);
    tcp.set_connect_timeout(settings.tcp_connect_timeout);
    tcp.set_local_address(settings.local_address);
    poll_fn(|cx| tcp.poll_ready(cx)).await?;
    let stream = tcp.call(target.uri.clone()).await?;
    Ok((stream.into_inner(), target.uri))
}

/// A name that was looked up already.
#[derive(Debug, Clone)]
struct Known(SocketAddr);

impl Service<Name> for Known {
    type Response = Once<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Once<SocketAddr>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(once(self.0)))
    }
}

#[cfg(test)]
mod tests;
