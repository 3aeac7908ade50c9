//! How many probes one connection is sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::math::Moment;
use crate::policy::Subchannel;

/// How many are under way on one connection that answers. The servers of the crate h2, tonic's among them,
/// hang up when 20 streams were reset before they got to see them, as they are after a stall.
const MOST_UNDER_WAY: u32 = 8;

/// After so many in a row without an answer they are sent one at a time, at growing distances.
const MISSES: u32 = 4;

const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The unit of the pauses is the timeout, but not less.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Connections are looked through for those that have ended when there are so many.
const FIRST_SWEEP: usize = 64;

/// What each connection was asked and answered.
#[derive(Debug)]
pub(super) struct Limits {
    timeout: Duration,
    peers: HashMap<u64, Peer>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Peer {
    subchannel: Arc<Subchannel>,
    under_way: u32,
    has_answered: bool,
    /// Without an answer, in a row.
    misses: u32,
    /// No probe before this.
    rests_until: Moment,
}

impl Limits {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout: timeout.max(SHORTEST_PAUSE),
            peers: HashMap::new(),
            sweep_at: FIRST_SWEEP,
        }
    }

    /// One more probe for this connection. `false`: not now.
    pub(super) fn begin(
        &mut self,
        subchannel: &Arc<Subchannel>,
        connection: u64,
        now: Moment,
    ) -> bool {
        if subchannel.connection() != connection || subchannel.is_unprobed(connection) {
            return false;
        }
        self.sweep();
        let peer = self.peers.entry(connection).or_insert_with(|| Peer {
            subchannel: subchannel.clone(),
            under_way: 0,
            has_answered: false,
            misses: 0,
            rests_until: Moment::default(),
        });
        let most = if peer.has_answered && peer.misses < MISSES {
            MOST_UNDER_WAY
        } else {
            1
        };
        if peer.under_way >= most || now < peer.rests_until {
            return false;
        }
        peer.under_way += 1;
        true
    }

    /// A probe of this connection has ended, with an answer or without.
    pub(super) fn end(&mut self, connection: u64, answered: bool, now: Moment) {
        let Some(peer) = self.peers.get_mut(&connection) else {
            return;
        };
        peer.under_way = peer.under_way.saturating_sub(1);
        if answered {
            peer.has_answered = true;
            peer.misses = 0;
            peer.rests_until = now;
            return;
        }
        peer.misses = peer.misses.saturating_add(1);
        if let Some(doublings) = peer.misses.checked_sub(MISSES) {
            let pause = self
                .timeout
                .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
            peer.rests_until = now + pause.min(LONGEST_PAUSE);
        }
    }

    /// Forgets connections that have ended; now and then, so that it costs little.
    fn sweep(&mut self) {
        if self.peers.len() < self.sweep_at {
            return;
        }
        self.peers.retain(|&connection, peer| {
            peer.under_way > 0 || peer.subchannel.connection() == connection
        });
        self.sweep_at = FIRST_SWEEP.max(self.peers.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Candidates;

    const TIMEOUT: Duration = Duration::from_millis(3);

    fn at(ms: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(ms))
    }

    fn one() -> (Limits, Arc<Subchannel>, u64) {
        let candidates = Candidates::connected(["a"]);
        let candidate = &candidates.all()[0];
        let connection = candidate.connection();
        (
            Limits::new(TIMEOUT),
            candidate.subchannel().clone(),
            connection,
        )
    }

    /// How many more may begin at this moment.
    fn room(limits: &mut Limits, subchannel: &Arc<Subchannel>, now: Moment) -> u32 {
        let connection = subchannel.connection();
        let mut begun = 0;
        while begun < 100 && limits.begin(subchannel, connection, now) {
            begun += 1;
        }
        begun
    }

    #[test]
    fn a_connection_is_asked_by_one_probe_until_it_has_answered() {
        let (mut limits, subchannel, connection) = one();
        assert_eq!(room(&mut limits, &subchannel, at(0)), 1, "the first");
        limits.end(connection, false, at(3));
        assert_eq!(
            room(&mut limits, &subchannel, at(3)),
            1,
            "it said nothing yet"
        );
        limits.end(connection, true, at(4));
        assert_eq!(room(&mut limits, &subchannel, at(4)), MOST_UNDER_WAY);
        limits.end(connection, true, at(5));
        assert_eq!(
            room(&mut limits, &subchannel, at(5)),
            1,
            "one goes, one comes"
        );
    }

    #[test]
    fn who_does_not_answer_is_asked_ever_more_rarely_until_he_does() {
        let (mut limits, subchannel, connection) = one();
        limits.begin(&subchannel, connection, at(0));
        limits.end(connection, true, at(0));
        assert_eq!(room(&mut limits, &subchannel, at(0)), MOST_UNDER_WAY);
        for miss in 1..=MOST_UNDER_WAY {
            limits.end(connection, false, at(3));
            assert!(
                miss < MISSES || room(&mut limits, &subchannel, at(3)) == 0,
                "after {miss} it rests"
            );
        }
        // So a stall sees these probes, and then few more within seconds.
        let mut now = 3;
        let mut sent = 0;
        while now < 3_000 {
            if limits.begin(&subchannel, connection, at(now)) {
                sent += 1;
                limits.end(connection, false, at(now + 3));
            }
            now += 1;
        }
        assert!((4..=8).contains(&sent), "{sent} in three seconds");
        let due = (3_000..4_100).find(|&ms| limits.begin(&subchannel, connection, at(ms)));
        let due = due.expect("no pause is longer than a second");
        limits.end(connection, true, at(due));
        assert_eq!(room(&mut limits, &subchannel, at(due)), MOST_UNDER_WAY);
    }

    #[test]
    fn a_new_connection_begins_anew_and_the_old_one_is_forgotten() {
        let (mut limits, subchannel, connection) = one();
        for _ in 0..10 {
            limits.begin(&subchannel, connection, at(0));
            limits.end(connection, false, at(0));
        }
        subchannel.set_unprobed(connection);
        for connection in 2..1_000 {
            subchannel.connected(connection);
            assert!(
                limits.begin(&subchannel, connection, at(0)),
                "it may lead to another server"
            );
            assert!(
                !limits.begin(&subchannel, connection - 1, at(0)),
                "nobody asks a connection that has ended"
            );
            limits.end(connection, false, at(0));
            subchannel.set_unprobed(connection);
            assert!(
                !limits.begin(&subchannel, connection, at(0)),
                "who does not know the question is not asked again"
            );
        }
        assert!(limits.peers.len() <= FIRST_SWEEP, "{}", limits.peers.len());
    }
}
