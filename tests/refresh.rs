//! A policy that wants its picker built anew from time to time gets it, whether calls flow or not; and does not
//! while it rests.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel::Balance;
use evenkeel::load::{Measures, ReportSource, ServerQueue};
use evenkeel::math::Moment;
use evenkeel::outcome::LoadReport;
use evenkeel::policy::{Adaptive, Candidates, Pick, PickContext, Picker, Policy, Subchannel};
use evenkeel::probe::{Answer, probe_fn};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tower::{BoxError, Service, ServiceExt, service_fn};

/// Tells when each of its pickers was built over a set that is not empty.
#[derive(Debug)]
struct Told {
    refresh: Option<Duration>,
    asked: Arc<AtomicUsize>,
    built: mpsc::UnboundedSender<Moment>,
}

#[derive(Debug)]
struct First(Candidates);

impl Policy for Told {
    fn name(&self) -> &'static str {
        "told"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        if !candidates.usable().is_empty() {
            // Without a reader the test is over.
            let _ = self.built.send(candidates.now());
        }
        Arc::new(First(candidates.clone()))
    }

    fn refresh(&self) -> Option<Duration> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.refresh
    }
}

impl Picker for First {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = self.0.usable().iter().find(|c| context.is_usable(c));
        usable.map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

/// The times of the pickers that are built within `time` after the first one, and whether the
/// driver still builds when the balancer is gone.
async fn builds(refresh: Option<Duration>, time: Duration) -> Vec<Moment> {
    let (built, mut times) = mpsc::unbounded_channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let policy = Told {
        refresh,
        asked: asked.clone(),
        built,
    };
    let service = service_fn(|n: u32| async move { Ok::<_, BoxError>(n) });
    let balance = Balance::builder()
        .services([("a", service)])
        .policy(policy)
        .build()
        .expect("the settings are good");
    let first = timeout(Duration::from_secs(20), times.recv()).await;
    let mut seen = vec![first.expect("the endpoint connects").expect("it is told")];
    sleep(time).await;
    while let Ok(time) = times.try_recv() {
        seen.push(time);
    }
    drop(balance);
    let end = async { while times.recv().await.is_some() {} };
    timeout(Duration::from_secs(20), end)
        .await
        .expect("without a handle nothing is built any more");
    assert_eq!(
        asked.load(Ordering::Relaxed),
        1,
        "the period is asked for once"
    );
    seen
}

#[tokio::test(start_paused = true)]
async fn a_picker_is_built_anew_every_period_and_knows_the_time() {
    let period = Duration::from_millis(250);
    let times = builds(Some(period), Duration::from_millis(10_100)).await;
    assert_eq!(
        times.len(),
        41,
        "the first one, and one every 250 ms of 10.1 s"
    );
    for pair in times[1..].windows(2) {
        let apart = pair[1].since(pair[0]);
        // Tokio's timers round up to the next millisecond.
        assert!(
            apart >= period && apart <= period + Duration::from_millis(2),
            "{apart:?} is the period"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_policy_is_built_anew_that_did_not_ask() {
    let hour = Duration::from_secs(3_600);
    for refresh in [None, Some(Duration::MAX)] {
        let times = builds(refresh, hour).await;
        assert_eq!(times.len(), 1, "{refresh:?}: the set has not changed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_period_of_nothing_is_a_millisecond() {
    let times = builds(Some(Duration::ZERO), Duration::from_millis(100)).await;
    assert!(
        (40..=101).contains(&times.len()),
        "tokio's timers know milliseconds: {}",
        times.len()
    );
}

/// The default policy. Tells when it built its pickers, and asks the first endpoint for its load at each pick.
#[derive(Debug)]
struct Asking {
    policy: Adaptive,
    built: mpsc::UnboundedSender<Moment>,
}

#[derive(Debug)]
struct AskingPicker {
    candidates: Candidates,
    picker: Arc<dyn Picker>,
}

impl Policy for Asking {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        // Without a reader the test is over.
        let _ = self.built.send(candidates.now());
        Arc::new(AskingPicker {
            candidates: candidates.clone(),
            picker: self.policy.build(candidates, None),
        })
    }

    fn measures(&self) -> Measures {
        self.policy.measures()
    }

    fn refresh(&self) -> Option<Duration> {
        self.policy.refresh()
    }

    fn rests(&self, now: Moment) -> bool {
        self.policy.rests(now)
    }

    fn reported(&self, endpoint: &Subchannel, queue: ServerQueue, source: ReportSource) {
        self.policy.reported(endpoint, queue, source);
    }
}

impl Picker for AskingPicker {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        if let Some(first) = self.candidates.usable().first() {
            context.probe(first);
        }
        self.picker.pick(context)
    }
}

/// How many pickers are built in an hour in which nobody calls.
async fn of_an_idle_hour(built: &mut mpsc::UnboundedReceiver<Moment>) -> usize {
    while built.try_recv().is_ok() {}
    sleep(Duration::from_secs(3_600)).await;
    let mut count = 0;
    while built.try_recv().is_ok() {
        count += 1;
    }
    count
}

#[tokio::test(start_paused = true)]
async fn an_idle_balancer_sleeps_until_a_server_reports() {
    let (built, mut times) = mpsc::unbounded_channel();
    let policy = Adaptive::default();
    let service = service_fn(|n: u32| async move { Ok::<_, BoxError>(n) });
    let says = || Answer::Load(LoadReport::new().with_in_flight(1));
    let mut balance = Balance::builder()
        .services([("a", service)])
        .policy(Arc::new(Asking { policy, built }))
        .probe(probe_fn(move |_| ready(says())))
        .build()
        .expect("the settings are good");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(
        of_an_idle_hour(&mut times).await,
        0,
        "no server has reported, so no picker could be any other"
    );
    for round in 0..3 {
        let ready = balance.ready().await.expect("it is always ready");
        ready.call(round).await.expect("it answers");
        let count = of_an_idle_hour(&mut times).await;
        // A report counts for ten seconds.
        assert!(
            (10..=12).contains(&count),
            "one a second while the report counts, then none: {count}"
        );
    }
}
