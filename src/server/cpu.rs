//! How much of the processors that it may use this process does use.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::math::Moment;

/// The least time between two looks at the clock of the process: shorter, and one request's work shows.
const PERIOD: Duration = Duration::from_millis(500);

/// The share of the processors in use between the last two looks.
#[derive(Debug)]
pub(super) struct CpuUse {
    /// How many processors the process may use; a quota may be a fraction.
    processors: f64,
    last: Option<Look>,
    share: f64,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Moment,
    used: Duration,
}

impl CpuUse {
    pub(super) fn new(processors: f64) -> Self {
        Self {
            processors,
            last: None,
            share: 0.0,
        }
    }

    /// The share as of the last look, which is now if it is time; 0 while there was only one. `used` tells
    /// the processor time of the process; `None` where that is not known.
    pub(super) fn share(&mut self, now: Moment, used: impl FnOnce() -> Option<Duration>) -> f64 {
        let due = self.last.is_none_or(|last| now.since(last.at) >= PERIOD);
        if due && let Some(used) = used() {
            if let Some(last) = self.last {
                let spent = used.saturating_sub(last.used).as_secs_f64();
                self.share = spent / now.since(last.at).as_secs_f64() / self.processors;
            }
            self.last = Some(Look { at: now, used });
        }
        self.share
    }
}

/// The processor time that this process has used, all its threads together. A call into the kernel of
/// under a microsecond.
#[cfg(unix)]
pub(super) fn process_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).ok()
}

#[cfg(not(unix))]
pub(super) fn process_time() -> Option<Duration> {
    None
}

/// How many processors this process may use: those it may run on, or the quota of its control group or
/// of one around that, if it is less. Reads a few files.
pub(super) fn processors() -> f64 {
    let quota = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|groups| quota(Path::new("/sys/fs/cgroup"), &groups));
    let allowed = allowed();
    quota.map_or(allowed, |quota| quota.min(allowed))
}

#[cfg(target_os = "linux")]
fn allowed() -> f64 {
    // Not the standard library's count, which takes the quota in already, rounded to a whole number.
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) if set.count() > 0 => f64::from(set.count()),
        _ => parallelism(),
    }
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> f64 {
    parallelism()
}

fn parallelism() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
}

/// The least quota from the group of this process up to the `root`, by cgroup v2's files. `groups` is
/// `/proc/self/cgroup`.
fn quota(root: &Path, groups: &str) -> Option<f64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let quotas = Path::new(own).ancestors().filter_map(|group| {
        let limit = fs::read_to_string(root.join(group).join("cpu.max")).ok()?;
        parse_quota(&limit)
    });
    quotas.min_by(f64::total_cmp)
}

/// `MAX PERIOD` in microseconds, where `MAX` may be `max`.
fn parse_quota(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next()?.parse().ok()?;
    let processors = quota / period;
    (processors.is_finite() && processors > 0.0).then_some(processors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(ms))
    }

    fn used(ms: u64) -> impl FnOnce() -> Option<Duration> {
        move || Some(Duration::from_millis(ms))
    }

    #[test]
    fn the_share_is_of_all_processors_over_half_a_second_or_more() {
        let mut cpu = CpuUse::new(2.0);
        assert_eq!(cpu.share(at(0), used(100)), 0.0, "one look tells nothing");
        let no_look = || -> Option<Duration> { panic!("it is too early") };
        assert_eq!(
            cpu.share(at(499), no_look),
            0.0,
            "nor does half a second less a bit"
        );
        assert_eq!(cpu.share(at(500), used(600)), 0.5, "500 of 1,000 ms");
        assert_eq!(cpu.share(at(600), no_look), 0.5, "the last one stands");
        assert_eq!(cpu.share(at(2_500), used(600)), 0.0, "idle since");
    }

    #[test]
    fn a_clock_that_is_unknown_or_steps_back_does_no_harm() {
        let mut cpu = CpuUse::new(1.0);
        assert_eq!(cpu.share(at(0), || None), 0.0, "unknown");
        assert_eq!(cpu.share(at(1_000), used(500)), 0.0, "the first look");
        assert_eq!(cpu.share(at(2_000), used(100)), 0.0, "less than before");
    }

    #[test]
    fn a_quota_is_microseconds_over_microseconds() {
        assert_eq!(parse_quota("150000 100000\n"), Some(1.5), "more than one");
        assert_eq!(parse_quota("50000 100000"), Some(0.5), "less than one");
        for none in ["max 100000", "", "5", "0 0", "0 100000", "-1 100000", "a b"] {
            assert_eq!(parse_quota(none), None, "{none:?}");
        }
    }

    #[test]
    fn the_least_quota_on_the_way_up_counts() {
        let folder = std::env::temp_dir().join(format!("evenkeel-cgroup-{}", std::process::id()));
        let inner = folder.join("pod").join("container");
        fs::create_dir_all(&inner).expect("a folder can be made");
        let write = |path: &Path, text| {
            fs::write(path.join("cpu.max"), text).expect("a file can be written");
        };
        write(&folder.join("pod"), "150000 100000\n");
        write(&inner, "max 100000\n");
        let groups = "3:cpuset:/elsewhere\n0::/pod/container\n";
        let around = quota(&folder, groups);
        write(&inner, "50000 100000\n");
        let own = quota(&folder, groups);
        let (root, v1) = (quota(&folder, "0::/\n"), quota(&folder, "1:cpu:/pod\n"));
        fs::remove_dir_all(&folder).expect("the folder can be removed");
        assert_eq!(around, Some(1.5), "its own has no limit");
        assert_eq!(own, Some(0.5), "its own is less");
        assert_eq!(root, None, "no limit at the root");
        assert_eq!(v1, None, "cgroup v1 is not read");
    }

    #[test]
    #[cfg(unix)]
    fn work_shows_in_the_time_of_the_process() {
        let before = process_time().expect("this platform tells");
        let mut value = 1_u64;
        while process_time().expect("this platform tells") == before {
            value = std::hint::black_box(value.wrapping_mul(3));
        }
        assert!(processors() > 0.0, "there is something to divide by");
    }
}
