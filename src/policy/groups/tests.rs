use super::*;
use crate::policy::{Candidate, RingHash, RoundRobin};

/// Two endpoints to a group, the slots of the groups one after the other.
fn groups(shares: &[f64]) -> (Candidates, Vec<Group>) {
    let all = Candidates::connected((0..shares.len() * 2).map(|n| format!("10.0.0.{n}:1")));
    let of = |n: usize| -> Vec<Candidate> { all.all()[n * 2..n * 2 + 2].to_vec() };
    let groups = shares.iter().enumerate().map(|(n, share)| Group {
        key: n as u64,
        level: 0,
        share: *share,
        candidates: Candidates::new(of(n), false),
        ignores_ejections: false,
        halted: false,
    });
    let groups = groups.collect();
    (all, groups)
}

fn build(policy: &dyn Policy, groups: Vec<Group>) -> Arc<dyn Picker> {
    Groups::build(policy, groups, None, 2, Moment::default())
}

fn counts(picker: &dyn Picker, slots: usize, calls: usize) -> Vec<usize> {
    let mut rng = Rng::new(7);
    let mut counts = vec![0; slots];
    for _ in 0..calls {
        if let Pick::Endpoint(slot) = picker.pick(&mut PickContext::new(&mut rng)) {
            counts[slot] += 1;
        }
    }
    counts
}

#[test]
fn calls_go_to_groups_by_their_shares_and_in_them_by_the_policy() {
    let shares = [0.6, 0.0, 0.1, 0.3];
    let (_all, groups) = groups(&shares);
    let picker = build(&RoundRobin::default(), groups);
    let counts = counts(&*picker, 8, 20_000);
    for (group, share) in shares.iter().enumerate() {
        let (one, two) = (counts[group * 2], counts[group * 2 + 1]);
        assert!(
            one.abs_diff(two) <= 1,
            "in a group they take turns: {counts:?}"
        );
        // Five times the standard deviation of a binomial.
        let mean = 20_000.0 * share;
        let off = ((one + two) as f64 - mean).abs();
        assert!(off <= 5.0 * (mean * (1.0 - share)).sqrt(), "{counts:?}");
    }
}

#[test]
fn others_stand_in_for_a_group_that_has_nothing_those_of_its_level_first() {
    let (all, mut groups) = groups(&[0.0, 1.0, 0.0]);
    groups[0].level = 1;
    for slot in [2, 3] {
        let candidate = &all.all()[slot];
        candidate.subchannel().disconnected(candidate.connection());
    }
    let picker = build(&RoundRobin::default(), groups);
    assert_eq!(counts(&*picker, 6, 10), [0, 0, 0, 0, 5, 5]);
    for slot in [4, 5] {
        let candidate = &all.all()[slot];
        candidate.subchannel().disconnected(candidate.connection());
    }
    assert_eq!(counts(&*picker, 6, 10), [5, 5, 0, 0, 0, 0], "then another");
}

#[test]
fn ejections_are_ignored_in_the_groups_that_say_so() {
    for ignores in [true, false] {
        let (all, mut groups) = groups(&[0.5, 0.5]);
        for slot in [0, 1] {
            all.all()[slot].subchannel().health().gate().eject();
        }
        let first = all.all()[..2].to_vec();
        groups[0].candidates = Candidates::new(first, ignores);
        groups[0].ignores_ejections = ignores;
        let picker = build(&RoundRobin::default(), groups);
        let mut rng = Rng::new(1);
        for _ in 0..50 {
            let mut context = PickContext::new(&mut rng);
            let Pick::Endpoint(slot) = picker.pick(&mut context) else {
                panic!("there is always one");
            };
            assert!(
                ignores || slot > 1,
                "ejected, and nobody said to ignore that"
            );
            let ignored = context.ignores_ejections();
            assert_eq!(ignored, ignores && slot < 2, "the claim must know, too");
        }
    }
}

#[test]
fn a_halted_group_fails_its_calls_and_nobody_stands_in() {
    let (_all, mut groups) = groups(&[0.5, 0.5]);
    groups[0].halted = true;
    let picker = build(&RoundRobin::default(), groups);
    let counts = counts(&*picker, 4, 1_000);
    let served: usize = counts.iter().sum();
    assert!(
        (400..600).contains(&served),
        "half of the calls fail: {counts:?}"
    );
    assert_eq!(counts[..2], [0, 0]);
}

#[test]
fn one_hash_goes_to_one_group_and_moves_only_as_shares_do() {
    let policy = RingHash::default();
    let place = |shares: &[f64], key: u64| {
        let (_all, groups) = groups(shares);
        let picker = build(&policy, groups);
        let mut seen = [1, 2, 3].map(|seed| {
            let mut rng = Rng::new(seed);
            picker.pick(&mut PickContext::new(&mut rng).with_hash(Some(key)))
        });
        seen.sort_by_key(|pick| format!("{pick:?}"));
        assert_eq!(seen[0], seen[2], "the same for all draws");
        seen[0]
    };
    let moved = (0..300).filter(|key| place(&[0.5, 0.5], *key) != place(&[0.6, 0.4], *key));
    let moved = moved.count();
    assert!(
        (10..60).contains(&moved),
        "a tenth of 300 moves, not {moved}"
    );
}

#[test]
fn the_picker_before_goes_on_in_the_group_of_its_key() {
    let (_all, first) = groups(&[0.5, 0.5]);
    let policy = RingHash::default();
    let one = build(&policy, first);
    let (_all, mut second) = groups(&[0.5, 0.5]);
    second.reverse();
    let two = Groups::build(&policy, second, Some(&*one), 2, Moment::default());
    let parts = |picker: &Arc<dyn Picker>| -> Vec<u64> {
        let groups = picker.downcast_ref::<Groups>().expect("groups");
        groups.parts.iter().map(|part| part.key).collect()
    };
    assert_eq!((parts(&one), parts(&two)), (vec![0, 1], vec![1, 0]));
    let greatest = one.downcast_ref::<Groups>().and_then(Groups::greatest);
    assert!(
        greatest.is_some(),
        "a set without groups goes on from one of them"
    );
    let none = build(&policy, Vec::new());
    let mut rng = Rng::new(1);
    assert_eq!(none.pick(&mut PickContext::new(&mut rng)), Pick::Nothing);
}
