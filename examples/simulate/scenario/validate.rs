//! What a scenario must keep to, so that it can be run. Each mistake names its field.

use crate::scenario::{Antagonists, Event, EventKind, Scenario, ServerGroup, Work};

/// Over this, a number is a slip of the finger, and sums of such times would not fit.
const MAX: f64 = 1e7;

/// Under this too.
const MIN: f64 = 1e-7;

const MAX_PHASES: usize = 100;
const MAX_PAIRS: usize = 10_000_000;
const MAX_CALLS: f64 = 1e9;

/// The logarithm of such work varies by more than anything that was ever measured.
const MAX_SIGMA: f64 = 5.0;

type Checked = Result<(), String>;

pub(super) fn validate(scenario: &Scenario) -> Checked {
    let name = &scenario.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!(
            "name: {name:?} is not made of letters, digits, -, _ and ."
        ));
    }
    at_least_one("clients", scenario.clients)?;
    if scenario.load.is_empty() || scenario.load.len() > MAX_PHASES {
        return Err(format!("load: not between 1 and {MAX_PHASES} numbers"));
    }
    for &load in &scenario.load {
        over_zero("load", load)?;
    }
    over_zero("seconds", scenario.seconds)?;
    not_negative("warmup_seconds", scenario.warmup_seconds)?;
    not_negative("network_ms", scenario.network_ms)?;
    not_negative("timeout_ms", scenario.timeout_ms)?;
    not_negative("report_cost_us", scenario.report_cost_us)?;
    not_negative("probe_cost_us", scenario.probe_cost_us)?;
    work(&scenario.work)?;
    if scenario.servers.is_empty() {
        return Err("servers: none".into());
    }
    for (index, group) in scenario.servers.iter().enumerate() {
        in_list("servers", index, servers(group))?;
    }
    if let Some(others) = &scenario.antagonists {
        antagonists(others).map_err(|mistake| format!("antagonists.{mistake}"))?;
    }
    for (index, item) in scenario.events.iter().enumerate() {
        in_list("events", index, event(item, scenario))?;
    }
    size(scenario)
}

/// Refuses what would fill the memory or never end.
fn size(scenario: &Scenario) -> Checked {
    let pairs = scenario.clients.saturating_mul(scenario.server_count());
    if pairs > MAX_PAIRS {
        return Err(format!(
            "clients: {} times {} servers is over {MAX_PAIRS}",
            scenario.clients,
            scenario.server_count()
        ));
    }
    let calls = |load: &f64| scenario.rate(*load) * scenario.seconds;
    let calls: f64 = scenario.load.iter().map(calls).sum();
    let warmup = scenario
        .load
        .first()
        .map_or(0.0, |&load| scenario.rate(load))
        * scenario.warmup_seconds;
    if calls + warmup > MAX_CALLS {
        return Err(format!(
            "load: that would be {:.1e} calls; at most {MAX_CALLS:.0e} are simulated",
            calls + warmup
        ));
    }
    Ok(())
}

fn work(work: &Work) -> Checked {
    match *work {
        Work::Constant { ms } => over_zero("work.ms", ms),
        Work::Exponential { mean_ms } => over_zero("work.mean_ms", mean_ms),
        Work::Normal { mu_ms, sigma_ms } => {
            // With a peak under 0 nearly all draws would be drawn again.
            not_negative("work.mu_ms", mu_ms)?;
            over_zero("work.sigma_ms", sigma_ms)
        }
        Work::Lognormal { mean_ms, sigma } => {
            over_zero("work.mean_ms", mean_ms)?;
            not_negative("work.sigma", sigma)?;
            if sigma > MAX_SIGMA {
                return Err(format!("work.sigma: {sigma} is over {MAX_SIGMA}"));
            }
            Ok(())
        }
        Work::Bimodal {
            short_ms,
            long_ms,
            long_share,
        } => {
            over_zero("work.short_ms", short_ms)?;
            over_zero("work.long_ms", long_ms)?;
            share("work.long_share", long_share)
        }
    }
}

fn servers(group: &ServerGroup) -> Checked {
    at_least_one("count", group.count)?;
    over_zero("cores", group.cores)?;
    over_zero("speed", group.speed)
}

fn antagonists(others: &Antagonists) -> Checked {
    share("contended_share", others.contended_share)?;
    over_zero("contended_speed", others.contended_speed)?;
    over_zero("machine_cores", others.machine_cores)?;
    not_negative("other_cores", others.other_cores)?;
    over_zero("hold_seconds", others.hold_seconds)
}

fn event(event: &Event, scenario: &Scenario) -> Checked {
    use EventKind::{Down, Fail, FewerCores, Restart, Silent, Slow};
    let kind = event.kind;
    let total = scenario.server_count();
    at_least_one("servers", event.servers)?;
    if event.first.saturating_add(event.servers) > total {
        return Err(format!(
            "servers: {} from number {} on, but there are {total}",
            event.servers, event.first
        ));
    }
    not_negative("at_seconds", event.at_seconds)?;
    if let Some(seconds) = event.for_seconds {
        over_zero("for_seconds", seconds)?;
    }
    let scales = matches!(kind, Slow | FewerCores | Restart);
    only_if(kind == Fail, "rate", kind, event.rate)?;
    only_if(kind == Fail, "after_ms", kind, event.after_ms)?;
    only_if(scales, "factor", kind, event.factor)?;
    only_if(kind == Restart, "every_seconds", kind, event.every_seconds)?;
    if let Some(rate) = event.rate {
        share("rate", rate)?;
    }
    if let Some(after) = event.after_ms {
        not_negative("after_ms", after)?;
    }
    match event.factor {
        Some(factor) => over_zero("factor", factor)?,
        None if matches!(kind, Slow | FewerCores) => return Err("factor: missing".into()),
        None => {}
    }
    if let Some(every) = event.every_seconds {
        over_zero("every_seconds", every)?;
    }
    if kind == Silent && scenario.timeout_ms == 0.0 {
        return Err("kind: silent needs a timeout_ms, else its calls never end".into());
    }
    if kind == Down && event.servers == total && event.for_seconds.is_none() {
        return Err("servers: all of them down for ever is no scenario".into());
    }
    Ok(())
}

fn in_list(list: &str, index: usize, checked: Checked) -> Checked {
    checked.map_err(|mistake| format!("{list}[{index}].{mistake}"))
}

fn only_if(fits: bool, field: &str, kind: EventKind, value: Option<f64>) -> Checked {
    if fits || value.is_none() {
        Ok(())
    } else {
        Err(format!("{field}: means nothing with kind {kind:?}"))
    }
}

fn at_least_one(field: &str, count: usize) -> Checked {
    if (1..=100_000).contains(&count) {
        Ok(())
    } else {
        Err(format!("{field}: {count} is not between 1 and 100000"))
    }
}

fn over_zero(field: &str, number: f64) -> Checked {
    if (MIN..=MAX).contains(&number) {
        Ok(())
    } else {
        Err(format!(
            "{field}: {number} is not between {MIN:e} and {MAX:e}"
        ))
    }
}

fn not_negative(field: &str, number: f64) -> Checked {
    if (0.0..=MAX).contains(&number) {
        Ok(())
    } else {
        Err(format!("{field}: {number} is not between 0 and {MAX:e}"))
    }
}

fn share(field: &str, number: f64) -> Checked {
    if (0.0..=1.0).contains(&number) {
        Ok(())
    } else {
        Err(format!("{field}: {number} is not between 0 and 1"))
    }
}
