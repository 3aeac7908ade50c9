use super::*;

#[test]
fn an_endpoint_whose_probe_says_nothing_needs_no_new_set() {
    let set = Candidates::connected(["a", "b"]);
    let probed = &set.all()[0];
    let gate = probed.subchannel().health().gate();
    assert!(gate.eject() && gate.offer_probe());
    let probe = probed.claim(false).expect("the first call probes");

    let set = Candidates::new(set.all().clone(), false);
    let slots = |set: &Candidates| set.usable().iter().map(Candidate::slot).collect::<Vec<_>>();
    assert_eq!(
        slots(&set),
        [0, 1],
        "a set made during the probe keeps the endpoint, since no word comes when the probe ends \
         without a verdict"
    );
    assert!(!gate.admits(), "though no second call gets in");
    drop(probe);
    assert!(gate.admits(), "and the next call may probe");
}
