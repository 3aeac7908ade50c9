use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::EndpointId;
use crate::health::Entry;
use crate::load::{LatencyRules, ReportSource, Until};
use crate::math::Moment;
use crate::outcome::{LoadReport, Outcome};
use crate::policy::Subchannel;

/// What part of its last latency is expected of an endpoint that nobody had an answer of for long. With less, callers
/// that change their minds at once would count against one that is idle.
const LEAST_EXPECTED: f32 = 0.25;

/// What is expected of an endpoint that never answered, as long as nobody knows better.
const EXPECTED_OF_A_STRANGER_SECONDS: f32 = 1.0;

/// A call that an endpoint was chosen for. Gives the load back when it ends, in whatever way.
///
/// Dropped without a word, it is as if it had never been; once [`sent`](Self::sent), it counts as
/// [`Outcome::Ignored`], or as [`judged`](Self::judged) said.
#[must_use = "dropping a claim ends the call"]
pub struct Claim {
    subchannel: Arc<Subchannel>,
    terms: Terms,
    timing: Timing,
}

impl Claim {
    #[inline]
    pub(super) fn new(subchannel: Arc<Subchannel>, connection: u64, entry: Entry) -> Self {
        Self {
            subchannel,
            terms: Terms::new(connection, entry),
            timing: Timing::NONE,
        }
    }

    /// The call has one of the places for calls to all endpoints, and gives it back at its end.
    pub(super) fn counted(mut self) -> Self {
        self.terms = Terms(self.terms.0 | Terms::COUNTED);
        self
    }

    /// The endpoint that took the call.
    pub fn endpoint(&self) -> &EndpointId {
        self.subchannel.id()
    }

    /// The connection that the call goes by.
    #[inline]
    pub fn connection(&self) -> u64 {
        self.terms.connection()
    }

    /// Whether the connection that the call would go by is still up.
    #[inline]
    pub fn is_connected(&self) -> bool {
        self.subchannel.connection() == self.connection()
    }

    /// The call begins at `now`: its latency counts from there. Without this, none is recorded.
    #[inline]
    pub fn begun(&mut self, now: Moment) {
        self.timing = Timing::begun(now);
    }

    /// Whether [`finish_at`](Self::finish_at) wants the time. If not, there is no need to look at a clock,
    /// and [`finish`](Self::finish) says as much.
    #[inline]
    pub fn is_timed(&self) -> bool {
        // The first alone settles it for most: the second is on another cache line.
        self.has_begun() && self.subchannel.measures().latency.is_some()
    }

    #[inline]
    fn has_begun(&self) -> bool {
        self.timing.start().is_some()
    }

    /// The endpoint has the request.
    #[inline]
    pub fn sent(&mut self) {
        self.judged(Outcome::Ignored);
    }

    /// The response has begun to carry data. For a probing call that is proof enough, unless its head
    /// was [`judged`](Self::judged) a failure: an error page is data too.
    #[inline]
    pub fn progressed(&mut self) {
        if self.terms.entry() == Entry::Probe && !self.terms.end().outcome().is_failed() {
            self.terms = self.terms.with_entry(Entry::Normal);
            self.subchannel.pass_probe();
        }
    }

    /// The outcome is known though the response goes on: it counts even if the claim is dropped.
    #[inline]
    pub fn judged(&mut self, outcome: Outcome) {
        self.terms = self.terms.with_end(End::of(outcome));
    }

    /// The first data of the response came at `now`. Says what [`progressed`](Self::progressed) does, and
    /// ends the call's latency where that ends with the first data. Only the first time counts.
    #[inline]
    pub fn responded(&mut self, now: Moment) {
        self.progressed();
        if let Some(rules) = self.response_rules()
            && let Some(start) = self.timing.take_unrecorded()
        {
            self.subchannel.health().answered();
            self.took(now.since(start), now, &rules);
        }
    }

    /// Whether [`responded`](Self::responded) wants the time: only for the first data, and not where the
    /// latency ends elsewhere. If not, there is no need to look at a clock, and
    /// [`progressed`](Self::progressed) says as much.
    #[inline]
    pub fn awaits_response(&self) -> bool {
        self.response_rules().is_some()
    }

    /// The rules by which the next data ends the latency, if it does.
    #[inline]
    fn response_rules(&self) -> Option<LatencyRules> {
        // A failure counts as slow, which is told at its end.
        if !self.timing.is_unrecorded() || self.terms.end().outcome().is_failed() {
            return None;
        }
        let rules = self.subchannel.measures().latency;
        rules.filter(|rules| rules.until == Until::FirstData)
    }

    /// Whether [`reported`](Self::reported) wants to hear of the server's load.
    #[inline]
    pub fn wants_report(&self) -> bool {
        self.has_begun() && self.subchannel.measures().read_responses()
    }

    /// The response brought a report of the server's load, at `now`. Nothing happens if the call's
    /// connection has ended: the next one may lead to another server.
    pub fn reported(&self, report: &LoadReport, now: Moment) {
        if self.is_connected() {
            self.subchannel
                .reported(report, ReportSource::Response, now);
        }
    }

    /// The call was answered in this time, or counts as if. What the server of a connection that has
    /// ended did is not true of the next one.
    #[inline]
    fn took(&self, latency: Duration, now: Moment, rules: &LatencyRules) {
        if self.is_connected() {
            let average = self.subchannel.latency();
            average.observe(latency, now, rules.decay.into());
        }
    }

    /// The call ended, and nobody timed it.
    #[inline]
    pub fn finish(mut self, outcome: Outcome) {
        self.judged(outcome);
    }

    /// The call ended at `now`. A success ends the latency, if the first data has not; a failure counts
    /// as slow, also after first data; anything else says nothing about the latency, and neither does a call
    /// whose connection has ended: the next one may lead to another server.
    #[inline]
    pub fn finish_at(mut self, outcome: Outcome, now: Moment) {
        self.judged(outcome);
        let Some(rules) = self.subchannel.measures().latency else {
            return;
        };
        if outcome.is_failed() {
            if let Some(start) = self.timing.start() {
                let asked = match outcome {
                    Outcome::Overload { retry_after } => retry_after.unwrap_or_default(),
                    _ => Duration::ZERO,
                };
                let slow = now.since(start).max(rules.error_penalty).max(asked);
                self.took(slow, now, &rules);
            }
        } else if outcome == Outcome::Success
            && let Some(start) = self.timing.take_unrecorded()
        {
            self.took(now.since(start), now, &rules);
        }
    }

    /// Whether [`given_up_at`](Self::given_up_at) wants the time. If not, there is no need to look at a clock,
    /// and dropping the claim says as much.
    pub fn is_awaited(&self) -> bool {
        self.has_begun() && self.awaits_response() && self.terms.end() == End::Ignored
    }

    /// The caller gave the call up at `now`, before any answer. That says nothing of the endpoint, unless it took
    /// longer than the policy expects of it, five times in a row; see [`Health::given_up`]. What is expected falls
    /// while nothing is answered, down to a quarter or to a second, whichever is less, so that a server which was slow
    /// or failed once is found too. Of an endpoint that has answered nothing by this connection a second is
    /// expected.
    ///
    /// [`Health::given_up`]: crate::health::Health::given_up
    #[cold]
    pub fn given_up_at(self, now: Moment) {
        let (Some(rules), Some(start)) = (self.response_rules(), self.timing.start()) else {
            return;
        };
        let latency = self.subchannel.latency();
        let decayed = latency.seconds(now, rules.decay.into());
        let expected = match (decayed, latency.last_seconds()) {
            // Of the last latency, what is more than that may be the penalty of a failure.
            (Some(decayed), Some(last)) => {
                decayed.max((last * LEAST_EXPECTED).min(EXPECTED_OF_A_STRANGER_SECONDS))
            }
            _ => EXPECTED_OF_A_STRANGER_SECONDS,
        };
        let is_overdue = now.since(start).as_secs_f32() > expected;
        if self.is_connected() && is_overdue && self.subchannel.health().given_up() {
            // Not as slow, as other failures: that would be what is expected of it then.
            self.finish(Outcome::Failure);
        }
    }

    /// The endpoint handed the call back unprocessed: it is as if it had never been.
    #[inline]
    pub fn take_back(mut self) {
        self.terms = self.terms.with_end(End::Unsent);
    }

    /// The endpoint's service broke before it took the call. Returns the endpoint's key.
    pub(crate) fn not_ready(self) -> u64 {
        self.subchannel.disconnected(self.connection());
        self.subchannel.key()
    }
}

impl Drop for Claim {
    #[inline]
    fn drop(&mut self) {
        let subchannel = &*self.subchannel;
        let end = self.terms.end();
        let last = if end == End::Unsent {
            subchannel.load().take_back()
        } else {
            subchannel.load().end(end.outcome().is_failed())
        };
        subchannel.record(end.outcome(), self.terms.entry());
        if self.terms.is_counted() {
            subchannel.uncount();
        }
        if last {
            subchannel.tell_quiet();
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("endpoint", self.endpoint())
            .field("connection", &self.connection())
            .field("entry", &self.terms.entry())
            .field("end", &self.terms.end())
            .finish()
    }
}

/// The connection, how the call came in, and how it ends if nothing more is said, in one word: a
/// claim then moves in two registers. It is handed on six times within a call, and as a larger struct
/// that cost as much as the pick: 20 of 145 ns.
#[derive(Clone, Copy)]
struct Terms(u64);

impl Terms {
    const END: u64 = 0b0_0111;
    const PROBE: u64 = 0b0_1000;
    /// It has one of the places for calls to all endpoints.
    const COUNTED: u64 = 0b1_0000;
    const CONNECTION_SHIFT: u32 = 5;

    #[inline]
    fn new(connection: u64, entry: Entry) -> Self {
        Self(connection << Self::CONNECTION_SHIFT).with_entry(entry)
    }

    #[inline]
    fn connection(self) -> u64 {
        self.0 >> Self::CONNECTION_SHIFT
    }

    #[inline]
    fn entry(self) -> Entry {
        if self.0 & Self::PROBE == 0 {
            Entry::Normal
        } else {
            Entry::Probe
        }
    }

    #[inline]
    fn with_entry(self, entry: Entry) -> Self {
        match entry {
            Entry::Normal => Self(self.0 & !Self::PROBE),
            Entry::Probe => Self(self.0 | Self::PROBE),
        }
    }

    #[inline]
    fn end(self) -> End {
        match self.0 & Self::END {
            0 => End::Unsent,
            1 => End::Ignored,
            2 => End::Success,
            3 => End::Failure,
            4 => End::Overload,
            _ => End::Failed,
        }
    }

    #[inline]
    fn is_counted(self) -> bool {
        self.0 & Self::COUNTED != 0
    }

    #[inline]
    fn with_end(self, end: End) -> Self {
        Self(self.0 & !Self::END | end as u64)
    }
}

/// When the call began, and whether its latency is recorded, in one word. Nanoseconds lose their last
/// bit.
#[derive(Clone, Copy)]
struct Timing(u64);

impl Timing {
    const NONE: Self = Self(0);
    const RECORDED: u64 = 1;

    #[inline]
    fn begun(now: Moment) -> Self {
        // A start at the origin itself is moved by 2 ns, away from `NONE`.
        Self((now.as_nanos() & !Self::RECORDED).max(2))
    }

    #[inline]
    fn start(self) -> Option<Moment> {
        (self.0 != 0).then_some(Moment::from_nanos(self.0 & !Self::RECORDED))
    }

    /// Begun, and no latency recorded.
    #[inline]
    fn is_unrecorded(self) -> bool {
        self.0 != 0 && self.0 & Self::RECORDED == 0
    }

    /// The start, the first time.
    #[inline]
    fn take_unrecorded(&mut self) -> Option<Moment> {
        let start = self.start().filter(|_| self.is_unrecorded())?;
        self.0 |= Self::RECORDED;
        Some(start)
    }
}

/// What an [`Outcome`] comes to once its details are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The endpoint has not seen the call.
    Unsent = 0,
    Ignored = 1,
    Success = 2,
    Failure = 3,
    Overload = 4,
    /// Counts as failed, but is nothing to eject for.
    Failed = 5,
}

impl End {
    #[inline]
    fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::Failure => Self::Failure,
            Outcome::Overload { .. } => Self::Overload,
            Outcome::ConnectionLost => Self::Failed,
            Outcome::Ignored => Self::Ignored,
        }
    }

    #[inline]
    fn outcome(self) -> Outcome {
        match self {
            Self::Unsent | Self::Ignored => Outcome::Ignored,
            Self::Success => Outcome::Success,
            Self::Failure => Outcome::Failure,
            Self::Overload => Outcome::Overload { retry_after: None },
            Self::Failed => Outcome::ConnectionLost,
        }
    }
}

#[cfg(test)]
mod tests;
