//! Several addresses of one server: Happy Eyeballs (RFC 8305), as gRFC A61 has it.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use tokio::time::{Instant, sleep_until};

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

/// Addresses that wait for their dials. The families take turns, beginning with that of the first address;
/// within one the order stays. A family that joins later comes before those that had a turn (RFC 8305
/// section 4).
#[derive(Debug)]
struct Turns<A> {
    /// Whose turn it is, first.
    families: VecDeque<Members<A>>,
}

#[derive(Debug)]
struct Members<A> {
    family: Family,
    had_turn: bool,
    waiting: VecDeque<A>,
}

impl<A> Turns<A> {
    fn new() -> Self {
        let families = VecDeque::new();
        Self { families }
    }

    fn push(&mut self, family: Family, address: A) {
        if let Some(members) = self.families.iter_mut().find(|m| m.family == family) {
            members.waiting.push_back(address);
            return;
        }
        let members = Members {
            family,
            had_turn: false,
            waiting: VecDeque::from([address]),
        };
        let place = self.families.iter().position(|members| members.had_turn);
        let place = place.unwrap_or(self.families.len());
        self.families.insert(place, members);
    }

    fn next(&mut self) -> Option<A> {
        let waits = |members: &Members<A>| !members.waiting.is_empty();
        let turn = self.families.iter().position(waits)?;
        let mut members = self.families.remove(turn)?;
        let address = members.waiting.pop_front();
        members.had_turn = true;
        self.families.push_back(members);
        address
    }

    fn is_empty(&self) -> bool {
        self.families
            .iter()
            .all(|members| members.waiting.is_empty())
    }
}

/// Dials the addresses as they join, in [turns](Turns), the next one as soon as the one before has failed, or
/// beside it when that has not answered for `delay`; without a delay never. The first that answers wins, and
/// the other dials are dropped. If none does: each address and why, in the order of their dials.
pub(super) async fn race<A, T, F>(
    joining: impl Stream<Item = Vec<A>>,
    family: impl Fn(&A) -> Family,
    delay: Option<Duration>,
    dial: impl Fn(&A) -> F,
) -> Result<T, Vec<(A, BoxError)>>
where
    F: Future<Output = Result<T, BoxError>>,
{
    let mut joining = pin!(joining);
    let mut more_may_join = true;
    let mut waiting = Turns::new();
    let mut under_way = FuturesUnordered::new();
    let mut failed: Vec<(usize, A, BoxError)> = Vec::new();
    let mut dialled = 0;
    // The latest dial has not had its time yet. An earlier one that fails does not change that.
    let mut latest_has_time = false;
    let mut next_is_due = None;
    loop {
        if !latest_has_time && let Some(address) = waiting.next() {
            dialled += 1;
            let (number, dialling) = (dialled, dial(&address));
            under_way.push(async move { (number, address, dialling.await) });
            latest_has_time = true;
            next_is_due = delay.map(|delay| Instant::now() + delay);
        }
        let time_is_over = async {
            match next_is_due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        };
        let more_is_wanted = more_may_join || !waiting.is_empty();
        tokio::select! {
            biased;
            Some((number, address, result)) = under_way.next() => match result {
                Ok(won) => return Ok(won),
                Err(error) => {
                    failed.push((number, address, error));
                    latest_has_time &= number != dialled;
                }
            },
            joined = joining.next(), if more_may_join => match joined {
                Some(addresses) => {
                    for address in addresses {
                        waiting.push(family(&address), address);
                    }
                }
                None => more_may_join = false,
            },
            () = time_is_over, if latest_has_time && more_is_wanted => latest_has_time = false,
            else => {
                failed.sort_by_key(|(number, ..)| *number);
                let why = |(_, address, error)| (address, error);
                return Err(failed.into_iter().map(why).collect());
            }
        }
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
