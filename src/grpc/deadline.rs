//! How long a call may take.
//!
//! The caller's deadline travels in `grpc-timeout` and covers the whole call, as gRPC has it: the
//! server knows it too. A timeout of the channel is ours alone and, as in tonic, covers the call up
//! to its response head, so that it does not cut long streams.

use std::time::Duration;

use http::HeaderMap;

use crate::call::grpc_timeout;

/// The limits of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// To the response head.
    pub(super) head: Option<Duration>,
    /// To the end; at least as long as `head` where both are set.
    pub(super) whole: Option<Duration>,
}

impl Limits {
    /// The limits for a request with these headers through a channel with this timeout.
    #[inline]
    pub(super) fn of(headers: &HeaderMap, channel: Option<Duration>) -> Self {
        let whole = grpc_timeout(headers);
        let head = match (channel, whole) {
            (Some(channel), Some(whole)) => Some(channel.min(whole)),
            (one, other) => one.or(other),
        };
        Self { head, whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_limit_holds_for_the_head_and_only_the_callers_for_the_rest() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().unwrap());
            headers
        };
        let second = Duration::from_secs(1);
        assert_eq!(
            Limits::of(&HeaderMap::new(), None),
            Limits::default(),
            "none is set"
        );
        assert_eq!(
            Limits::of(&HeaderMap::new(), Some(second)),
            Limits {
                head: Some(second),
                whole: None
            },
            "the channel's is for the head alone"
        );
        assert_eq!(
            Limits::of(&with("2S"), Some(second)),
            Limits {
                head: Some(second),
                whole: Some(2 * second)
            },
            "the caller's is for the rest"
        );
        assert_eq!(
            Limits::of(&with("1S"), Some(2 * second)),
            Limits {
                head: Some(second),
                whole: Some(second)
            },
            "the caller's is the shorter"
        );
    }
}
