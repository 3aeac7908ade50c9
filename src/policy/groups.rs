//! Calls spread over groups of endpoints by their shares: a draw, and in the group the policy.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::math::{Moment, Rng};
use crate::policy::halted::Halted;
use crate::policy::{Candidates, Pick, PickContext, Picker, Policy};

/// Endpoints among which the policy chooses.
pub(crate) struct Group {
    /// Those that have it in common with a group of an earlier set go on where that was.
    pub(crate) key: u64,
    /// Groups of one level stand in for each other before those of another do.
    pub(crate) level: u32,
    /// Of all calls, 0 to 1.
    pub(crate) share: f64,
    /// The endpoints; their slots are those in the whole set.
    pub(crate) candidates: Candidates,
    /// Ejected ones are usable, too.
    pub(crate) ignores_ejections: bool,
    /// So few are usable that its calls fail.
    pub(crate) halted: bool,
}

/// The picker of several groups.
pub(crate) struct Groups {
    parts: Box<[Part]>,
    /// Where each group's share ends, in parts of 2^63.
    ends: Box<[u64]>,
    /// The first part that is not halted: who knows the hash of a call.
    hasher: usize,
}

#[derive(Debug)]
struct Part {
    key: u64,
    level: u32,
    picker: Arc<dyn Picker>,
    ignores_ejections: bool,
    halted: bool,
}

const WHOLE: u64 = 1 << 63;

impl Groups {
    /// The picker of these groups, by `policy` in each. `groups` are in the order in which they stand in for others;
    /// `fleet` endpoints are usable in these and all others.
    pub(crate) fn build(
        policy: &dyn Policy,
        groups: Vec<Group>,
        previous: Option<&dyn Picker>,
        fleet: usize,
        now: Moment,
    ) -> Arc<dyn Picker> {
        let before = previous.and_then(|picker| picker.downcast_ref::<Self>());
        let before: Option<HashMap<u64, &Part>> =
            before.map(|before| before.parts.iter().map(|part| (part.key, part)).collect());
        let mut sum = 0.0;
        let ends = groups.iter().map(|group| {
            sum += group.share;
            ((sum * WHOLE as f64) as u64).min(WHOLE)
        });
        let mut ends: Box<[u64]> = ends.collect();
        // The sum of the shares is 1 but for rounding.
        if let Some(last) = groups.iter().rposition(|group| group.share > 0.0) {
            ends[last..].fill(WHOLE);
        }
        // What a picker hands on, such as its place in a sequence, has one heir.
        let shares = groups.iter().enumerate();
        let heir = shares.max_by(|(_, a), (_, b)| a.share.total_cmp(&b.share));
        let heir = heir.map(|(number, _)| number);
        let parts = groups.into_iter().enumerate().map(|(number, group)| {
            let candidates = group.candidates.with_now(now).with_fleet(fleet);
            let previous = match &before {
                Some(before) => before.get(&group.key).map(|part| &*part.picker),
                None => previous.filter(|_| Some(number) == heir),
            };
            let picker = match group.halted {
                true => Arc::new(Halted::new(&candidates)),
                false => policy.build(&candidates, previous),
            };
            Part {
                key: group.key,
                level: group.level,
                picker,
                ignores_ejections: group.ignores_ejections,
                halted: group.halted,
            }
        });
        let parts: Box<[Part]> = parts.collect();
        let hasher = parts.iter().position(|part| !part.halted);
        Arc::new(Self {
            hasher: hasher.unwrap_or(0),
            parts,
            ends,
        })
    }

    /// The picker by `policy` of a set that is one group.
    pub(crate) fn build_one(
        policy: &dyn Policy,
        candidates: &Candidates,
        previous: &dyn Picker,
    ) -> Arc<dyn Picker> {
        let groups = previous.downcast_ref::<Self>();
        policy.build(candidates, groups.map_or(Some(previous), Self::greatest))
    }

    /// The picker of the group with the greatest share.
    fn greatest(&self) -> Option<&dyn Picker> {
        let begins = [0].into_iter().chain(self.ends.iter().copied());
        let sizes = self
            .ends
            .iter()
            .zip(begins)
            .map(|(end, begin)| end.saturating_sub(begin));
        let greatest = sizes.zip(&self.parts).max_by_key(|(size, _)| *size);
        greatest.map(|(_, part)| &*part.picker)
    }

    /// The group that a draw falls into.
    #[inline]
    fn at(&self, point: u64) -> usize {
        let point = point >> 1;
        self.ends.partition_point(|end| *end <= point)
    }

    /// Others in place of one that has nothing.
    #[cold]
    fn others(&self, drawn: usize, context: &mut PickContext<'_>) -> Pick {
        let level = self.parts.get(drawn).map(|part| part.level);
        if self.parts.get(drawn).is_some_and(|part| part.halted) {
            return Pick::Nothing;
        }
        let near = |part: &&Part| Some(part.level) == level;
        let far = |part: &&Part| Some(part.level) != level;
        let parts = self.parts.iter();
        let order = parts.clone().filter(near).chain(parts.filter(far));
        let first = self.parts.get(drawn);
        for part in order.filter(|part| first.is_none_or(|first| !std::ptr::eq(*part, first))) {
            if let pick @ Pick::Endpoint(_) = part.pick(context) {
                return pick;
            }
        }
        Pick::Nothing
    }
}

impl Part {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        context.set_ejections_ignored(self.ignores_ejections);
        self.picker.pick(context)
    }
}

impl Picker for Groups {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        // A hash places the call on a ring, too: what it draws must say nothing of where.
        let point = match self.hash(context) {
            Some(hash) => Rng::new(hash).next_u64(),
            None => context.rng().next_u64(),
        };
        let drawn = self.at(point);
        match self.parts.get(drawn).map(|part| part.pick(context)) {
            Some(pick @ Pick::Endpoint(_)) => pick,
            _ => self.others(drawn, context),
        }
    }

    fn hash(&self, context: &mut PickContext<'_>) -> Option<u64> {
        self.parts.get(self.hasher)?.picker.hash(context)
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.parts).finish()
    }
}

#[cfg(test)]
mod tests;
