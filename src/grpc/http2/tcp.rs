//! From an endpoint's addresses to a TCP connection.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::io;
use std::iter::{Once, once};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::join_all;
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::net::{TcpStream, lookup_host};
use tower_service::Service;

use super::race::{Family, interleaved, name, none_answered, race};
use super::settings::Http2Settings;
use crate::error::BoxError;

/// One address to dial, and the endpoint's address that it comes from.
#[derive(Debug, Clone)]
struct Target {
    uri: Uri,
    address: SocketAddr,
}

/// Connects to whichever address answers first, and says which one of `uris` that was. Names are looked up
/// first, all at once; each of their addresses is one of the server's.
pub(super) async fn connect(
    settings: Arc<Http2Settings>,
    uris: Vec<Uri>,
) -> Result<(TcpStream, Uri), BoxError> {
    let (targets, mut failed) = look_up_all(&uris).await;
    let targets = interleaved(targets, |target| Family::from(target.address));
    let dial = |target: &Target| dial(settings.clone(), target.clone());
    match race(targets, settings.connection_attempt_delay, dial).await {
        Ok(won) => Ok(won),
        Err(tried) => {
            let tried = tried.into_iter();
            failed.extend(tried.map(|(target, error)| (target.address.to_string(), error)));
            Err(none_answered(failed, &uris))
        }
    }
}

/// Every address once, and the names that have none.
async fn look_up_all(uris: &[Uri]) -> (Vec<Target>, Vec<(String, BoxError)>) {
    let found = join_all(uris.iter().map(look_up)).await;
    let mut targets: Vec<Target> = Vec::new();
    let mut failed = Vec::new();
    for (uri, found) in uris.iter().zip(found) {
        match found {
            Ok(found) => {
                for address in found {
                    if targets.iter().all(|known| known.address != address) {
                        let uri = uri.clone();
                        targets.push(Target { uri, address });
                    }
                }
            }
            Err(error) => failed.push((name(uri), error.into())),
        }
    }
    (targets, failed)
}

async fn look_up(uri: &Uri) -> io::Result<Vec<SocketAddr>> {
    let host = uri.host().unwrap_or_default();
    let port = match uri.port_u16() {
        Some(port) => port,
        None if uri.scheme() == Some(&Scheme::HTTPS) => 443,
        None => 80,
    };
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = literal.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
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
    let mut tcp = HttpConnector::new_with_resolver(Known(target.address));
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
