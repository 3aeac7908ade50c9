//! Several addresses of one server: Happy Eyeballs (RFC 8305), as gRFC A61 has it.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use tokio::time::sleep;

use crate::error::{BoxError, describe};

/// What of an address says how it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
    /// A name, whose transport is not ours to know.
    Unknown,
}

impl From<SocketAddr> for Family {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

impl Family {
    /// What the host of `uri` says without a look-up.
    pub(super) fn of_host(uri: &Uri) -> Self {
        let host = uri.host().unwrap_or_default();
        if host.starts_with('[') {
            Self::V6
        } else if host.parse::<std::net::Ipv4Addr>().is_ok() {
            Self::V4
        } else {
            Self::Unknown
        }
    }
}

/// The families take turns, beginning with that of the first address; within one the order stays.
pub(super) fn interleaved<A>(addresses: Vec<A>, family: impl Fn(&A) -> Family) -> Vec<A> {
    let count = addresses.len();
    let mut families: Vec<(Family, VecDeque<A>)> = Vec::new();
    for address in addresses {
        let family = family(&address);
        match families.iter_mut().find(|(known, _)| *known == family) {
            Some((_, members)) => members.push_back(address),
            None => families.push((family, VecDeque::from([address]))),
        }
    }
    let mut turns = Vec::with_capacity(count);
    while turns.len() < count {
        turns.extend(
            families
                .iter_mut()
                .filter_map(|(_, members)| members.pop_front()),
        );
    }
    turns
}

/// Dials the addresses in their order, the next one as soon as the one before has failed, or beside it when
/// that has not answered for `delay`; without a delay never. The first that answers wins, and the other
/// dials are dropped. If none does: each address and why, in their order.
pub(super) async fn race<A, T, F>(
    addresses: Vec<A>,
    delay: Option<Duration>,
    dial: impl Fn(&A) -> F,
) -> Result<T, Vec<(A, BoxError)>>
where
    F: Future<Output = Result<T, BoxError>>,
{
    let mut waiting = addresses.into_iter().enumerate();
    let mut under_way = FuturesUnordered::new();
    let mut failed: Vec<(usize, A, BoxError)> = Vec::new();
    let mut latest = None;
    let mut begin = true;
    loop {
        if begin && let Some((number, address)) = waiting.next() {
            let dialling = dial(&address);
            latest = Some(number);
            under_way.push(async move { (number, address, dialling.await) });
        }
        let next_is_due = async {
            match delay {
                Some(delay) if waiting.len() > 0 => sleep(delay).await,
                _ => pending().await,
            }
        };
        // An earlier one that fails changes nothing, so its end must not begin the time anew.
        let mut next_is_due = std::pin::pin!(next_is_due);
        begin = loop {
            let (number, address, result) = tokio::select! {
                biased;
                Some(ended) = under_way.next() => ended,
                () = &mut next_is_due, if !under_way.is_empty() => break true,
                else => {
                    failed.sort_by_key(|(number, ..)| *number);
                    let why = |(_, address, error)| (address, error);
                    return Err(failed.into_iter().map(why).collect());
                }
            };
            match result {
                Ok(won) => return Ok(won),
                Err(error) => failed.push((number, address, error)),
            }
            if latest == Some(number) && waiting.len() > 0 {
                break true;
            }
        };
    }
}

/// No address of a server could be reached.
#[derive(Debug)]
struct NoneAnswered(Vec<(String, BoxError)>);

/// Each address that was tried, and why it failed. Of an only one that is known already by `at` the reason
/// is enough.
pub(super) fn none_answered(mut failed: Vec<(String, BoxError)>, at: &[Uri]) -> BoxError {
    match (&failed[..], at) {
        ([(tried, _)], [uri]) if *tried == name(uri) => failed.remove(0).1,
        _ => NoneAnswered(failed).into(),
    }
}

/// The host and port.
pub(super) fn name(uri: &Uri) -> String {
    match uri.authority() {
        Some(authority) => authority.to_string(),
        None => uri.to_string(),
    }
}

impl fmt::Display for NoneAnswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (address, error)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {}", describe(&**error))?;
        }
        Ok(())
    }
}

impl StdError for NoneAnswered {}

#[cfg(test)]
mod tests;
