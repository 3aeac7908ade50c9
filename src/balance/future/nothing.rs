//! What becomes of a call for which a snapshot has no endpoint.

use crate::balance::future::call::MAX_REDISPATCHES;
use crate::call::RequestInfo;
use crate::cluster::Snapshot;
use crate::endpoint::ConnectivityState;
use crate::error::Error;
use crate::health::Limit;
use crate::math::Rng;
use crate::policy::{Candidate, Tried};

/// When the policy has nothing left, an ejected endpoint is better than a failed call: what panic
/// mode says, without waiting for the control plane to say it.
#[cold]
pub(super) fn last_resort<'a, S>(
    snapshot: &'a Snapshot<S>,
    tried: Option<&Tried>,
    request: &RequestInfo<'_>,
    rng: &mut Rng,
) -> Option<&'a Candidate> {
    let all = snapshot.candidates.all();
    let start = rng.below(all.len());
    all[start..]
        .iter()
        .chain(&all[..start])
        .filter(|c| c.is_connected() && !c.is_full())
        .filter(|c| snapshot.picker.covers(request, c))
        .find(|c| tried.is_none_or(|tried| !tried.contains(c.connection())))
}

/// Whether a later snapshot may have an endpoint for a call that found none in this one.
pub(super) fn may_help<S>(snapshot: &Snapshot<S>, request: &RequestInfo<'_>) -> bool {
    let summary = &snapshot.summary;
    if summary.closed {
        return false;
    }
    if request.wait_for_ready().unwrap_or(false)
        || (!summary.resolved && summary.discovery_error.is_none())
    {
        return true;
    }
    let all = snapshot.candidates.all().iter();
    let mut all = all.filter(|c| snapshot.picker.covers(request, c));
    // Those that are idle beside the one connection that the policy wants stay so while it can be used.
    let idle_stay_idle = summary.one_is_enough
        && (all.clone()).any(|c| c.is_connected() && c.subchannel().health().admits());
    // An endpoint that is on its way, or one whose end the snapshot does not show yet.
    all.any(|c| match c.state() {
        // What is drained is no more than what fails.
        ConnectivityState::TransientFailure | ConnectivityState::Shutdown => false,
        ConnectivityState::Idle if idle_stay_idle => false,
        _ => !c.is_connected(),
    })
}

/// `returned`: how many endpoints handed the call back. They look well in the summary.
#[cold]
pub(super) fn unavailable<S>(
    snapshot: &Snapshot<S>,
    returned: u8,
    request: Option<RequestInfo<'_>>,
) -> Error {
    let summary = &snapshot.summary;
    if summary.shut_down {
        return Error::shut_down();
    }
    if summary.closed {
        return Error::closed();
    }
    let mut message = match returned {
        0 => summary.to_string(),
        _ => format!(
            "the call came back unprocessed from {returned} {}, and no other took it ({summary})",
            if returned == 1 {
                "endpoint"
            } else {
                "endpoints"
            },
        ),
    };
    if let (Some(rules), Some(request)) = (&summary.subsets, request)
        && let Some(wanted) = rules.wanted_by(&request)
    {
        message = format!("{message}; the call is for {}={wanted}", rules.name());
    }
    Error::unavailable(message, None)
}

#[cold]
pub(super) fn full(limit: Limit) -> Error {
    Error::unavailable(limit.to_string(), None)
}

#[cold]
pub(super) fn handed_back() -> Error {
    Error::unavailable(
        format!(
            "{} endpoints in a row handed the call back unprocessed",
            MAX_REDISPATCHES + 1
        ),
        None,
    )
}
