//! Servers report beside the calls: by one stream for each connection that is up, which is no call, and
//! which ends with the connection, the endpoint and the last handle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evenkeel::discovery::Handle;
use evenkeel::load::{Measures, ReportRules};
use evenkeel::outcome::LoadReport;
use evenkeel::policy::{
    Candidates, Connects, OrcaWeightedRoundRobin, PickFirst, Picker, Policy, RoundRobin,
};
use evenkeel::probe::{Target, Watch, WatchError};
use evenkeel::{Balance, ConnectivityState};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::builder;
use crate::world::*;

const EVERY: Duration = Duration::from_secs(3);

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

type Said = Result<LoadReport, WatchError>;

/// Servers whose reports a test makes.
#[derive(Clone, Default)]
struct Reports(Arc<Mutex<HashMap<String, Reporter>>>);

#[derive(Default)]
struct Reporter {
    /// When each stream began.
    begun: watch::Sender<Vec<Instant>>,
    latest: Option<mpsc::UnboundedSender<Said>>,
}

impl Reports {
    fn of<T>(&self, name: &str, read: impl FnOnce(&mut Reporter) -> T) -> T {
        let mut all = self.0.lock().expect("no test panics while it holds this");
        read(all.entry(name.to_owned()).or_default())
    }

    fn begun(&self, name: &str) -> usize {
        self.of(name, |reporter| reporter.begun.borrow().len())
    }

    /// Waits until `count` streams were begun, and says when each was.
    async fn begins(&self, rule: &str, name: &str, count: usize) -> Vec<Instant> {
        let mut begun = self.of(name, |reporter| reporter.begun.subscribe());
        let begun = within(rule, begun.wait_for(|begun| begun.len() >= count)).await;
        begun
            .expect("the reporter lives as long as the test")
            .clone()
    }

    /// Whether the latest stream is still read.
    fn is_open(&self, name: &str) -> bool {
        self.of(name, |reporter| {
            let latest = reporter.latest.as_ref();
            latest.is_some_and(|latest| !latest.is_closed())
        })
    }

    fn say(&self, name: &str, said: Said) {
        self.of(name, |reporter| {
            let latest = reporter.latest.as_ref().expect("it is asked");
            latest.send(said).expect("it is heard");
        });
    }

    fn busy(&self, name: &str, utilization: f64) {
        let report = LoadReport::new().with_application_utilization(utilization);
        self.say(name, Ok(report.with_qps(100.0)));
    }

    /// Ends the latest stream.
    fn end(&self, name: &str) {
        self.of(name, |reporter| reporter.latest = None);
    }
}

impl Watch<Stub> for Reports {
    type Terms = Duration;
    type Word = LoadReport;
    type Stream = BoxStream<'static, Said>;

    fn watch(&self, target: Target<Stub>, every: &Duration) -> Self::Stream {
        let stub = target.into_service();
        assert_eq!(*every, EVERY, "as the policy wants it");
        let (words, said) = mpsc::unbounded_channel();
        self.of(stub.name(), |reporter| {
            reporter.latest = Some(words);
            reporter
                .begun
                .send_modify(|begun| begun.push(Instant::now()));
        });
        // The stub is held while the stream is open, as a careless one would.
        stream::unfold((said, stub), |(mut said, stub)| async {
            said.recv().await.map(|word| (word, (said, stub)))
        })
        .boxed()
    }
}

fn policy() -> OrcaWeightedRoundRobin {
    OrcaWeightedRoundRobin::default()
        .with_out_of_band_reports(true)
        .with_out_of_band_period(EVERY)
        .expect("not zero")
        .with_blackout_period(Duration::ZERO)
}

/// Servers that are connected, and a balancer that has them report if its policy wants it.
struct Setup {
    world: World,
    reports: Reports,
    source: Handle,
    balance: Balanced,
    /// How many tasks the balancer has made.
    tasks: Box<dyn Fn() -> usize>,
}

async fn setup<const N: usize>(names: [&str; N], policy: impl Policy) -> Setup {
    let (world, reports) = (World::new(), Reports::default());
    let (source, updates) = Handle::new(names).expect("each is named once");
    let wanted = match policy.connects() {
        Connects::All => N,
        _ => 1,
    };
    let before = alive_tasks();
    let balance = builder!(world)
        .discovery(updates)
        .policy(policy)
        .ejection(at_the_first_failure())
        .load_reports(reports.clone())
        .build()
        .expect("the settings are right");
    connected(&balance, wanted).await;
    settle().await;
    Setup {
        world,
        reports,
        source,
        balance,
        tasks: Box::new(move || alive_tasks() - before),
    }
}

#[tokio::test(start_paused = true)]
async fn calls_follow_what_servers_say_beside_them() {
    let Setup {
        world,
        reports,
        balance,
        ..
    } = setup(["idle", "busy"], policy()).await;
    reports.busy("idle", 0.1);
    reports.busy("busy", 0.9);
    // The weights are looked at each second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let servers = world.servers(["idle", "busy"]);
    for _ in 0..100 {
        within("a call", balance.clone().oneshot(ask("x")))
            .await
            .unwrap();
    }
    let calls = servers.each_ref().map(|server| server.calls());
    assert!(calls[0].abs_diff(90) <= 1, "9 : 1 is {calls:?}");
    for name in ["idle", "busy"] {
        assert_eq!(reports.begun(name), 1, "one stream for a connection");
        let report = endpoint(&balance, name);
        assert_eq!(report.in_flight, 0, "a stream is no call: {report}");
    }
    let started: u64 = balance.report().endpoints.iter().map(|e| e.calls).sum();
    assert_eq!(started, 100, "only calls are counted");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_is_no_failure_and_is_begun_anew() {
    let Setup {
        world,
        reports,
        balance,
        ..
    } = setup(["a"], policy()).await;
    let mut times = Vec::new();
    for streams in 2..=4 {
        reports.say("a", Err(WatchError::Ended("on purpose".into())));
        times = reports.begins("it is begun anew", "a", streams).await;
    }
    for (pair, seconds) in times.windows(2).zip([1.0, 1.6, 2.56]) {
        let pause = (pair[1] - pair[0]).as_secs_f64();
        // Tokio's timers are a millisecond late at most.
        assert!(
            (pause - seconds).abs() < 0.002,
            "{pause} is not {seconds} s"
        );
    }
    let report = endpoint(&balance, "a");
    assert_eq!(report.failures, 0, "{report}");
    assert!(report.ejected.is_none(), "{report}");
    assert_eq!(report.state, ConnectivityState::Ready, "{report}");
    assert_eq!(world.server("a").dials().len(), 1, "nor a lost connection");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_such_reports_is_asked_once_a_connection() {
    let Setup {
        world,
        reports,
        balance,
        tasks,
        ..
    } = setup(["a"], policy()).await;
    assert_eq!(tasks(), 2, "one drives and one listens");
    reports.say("a", Err(WatchError::Unsupported));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(reports.begun("a"), 1, "it has said that it does not know");
    assert_eq!(tasks(), 1, "nobody listens any more");
    within("calls go on", balance.clone().oneshot(ask("x")))
        .await
        .unwrap();

    world.server("a").connection().closed(None);
    let rule = "another connection may lead to another server";
    reports.begins(rule, "a", 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_connection() {
    let Setup {
        world,
        reports,
        balance,
        ..
    } = setup(["a"], policy()).await;
    let server = world.server("a");
    type EndIt = fn(&Server);
    let ends: [EndIt; 3] = [
        |server| server.connection().closed(None),
        |server| server.connection().draining(),
        |server| server.connection().back_off("calm down"),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        reports.begins("it is connected", "a", number + 1).await;
        assert!(reports.is_open("a"), "it is heard");
        server.set_dial(Dial::Hang);
        end(&server);
        settle().await;
        assert!(!reports.is_open("a"), "not beyond its connection");
        assert_eq!(server.clones_alive(), 0, "which nothing holds any more");
        server.set_dial(Dial::Connect);
    }

    // A connection may also end unsaid, and show it when it is to take a call.
    reports.begins("it is connected", "a", 4).await;
    server.set_dial(Dial::Refuse);
    server.set_readiness(Readiness::Broken);
    let call = within("a call", balance.clone().oneshot(ask("x"))).await;
    assert!(call.is_err(), "nothing else is there");
    settle().await;
    assert!(!reports.is_open("a"), "the same");
}

/// A round robin that wants to hear, and keeps what it was built over.
#[derive(Debug, Clone, Default)]
struct Hearing(Arc<Mutex<Option<Candidates>>>);

impl Policy for Hearing {
    fn name(&self) -> &'static str {
        "hearing"
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        *self.0.lock().unwrap() = Some(candidates.clone());
        RoundRobin::default().build(candidates, previous)
    }

    fn measures(&self) -> Measures {
        let mut rules = ReportRules::default();
        rules.out_of_band = Some(EVERY);
        Measures::NOTHING.with_reports(rules)
    }
}

#[tokio::test(start_paused = true)]
async fn any_policy_may_have_servers_report() {
    let policy = Hearing::default();
    let Setup {
        reports,
        balance: _balance,
        ..
    } = setup(["a"], policy.clone()).await;
    reports.say("a", Ok(LoadReport::new().with_in_flight(5)));
    settle().await;
    let candidates = policy.0.lock().unwrap().clone().expect("it was built");
    let queue = candidates.all()[0].subchannel().reports().queue();
    assert_eq!(queue.map(|queue| queue.in_flight), Some(5));
}

/// The same with one connection at a time.
#[derive(Debug, Default)]
struct HearingOne(Hearing);

impl Policy for HearingOne {
    fn name(&self) -> &'static str {
        "hearing_one"
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        self.0.build(candidates, previous)
    }

    fn measures(&self) -> Measures {
        self.0.measures()
    }

    fn connects(&self) -> Connects {
        PickFirst::default().connects()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_connection_is_not_wanted_any_more() {
    let Setup {
        world,
        reports,
        balance,
        ..
    } = setup(["a", "b"], HearingOne::default()).await;
    assert!(reports.is_open("a"), "the one that is connected");
    let ejected = world.server("a");
    ejected.set_answer(Answer::Fail);
    let call = within("a call", balance.clone().oneshot(ask("x"))).await;
    call.expect_err("it fails its calls");
    until("the next one takes its place", || {
        endpoint(&balance, "b").state == ConnectivityState::Ready
    })
    .await;
    settle().await;
    assert!(!reports.is_open("a"), "it has done its work");
    assert!(reports.is_open("b"), "the other one reports in its place");
    assert_eq!(ejected.clones_alive(), 0, "nothing holds the connection");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_endpoint_leaves() {
    let Setup {
        world,
        reports,
        source,
        balance,
        ..
    } = setup(["a", "b"], policy()).await;
    let gone = world.server("a");
    gone.set_answer(Answer::Hang);
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    let other = tokio::spawn(balance.clone().oneshot(ask("x")));
    until("a call is under way there", || gone.under_way() == 1).await;
    source.remove("a");
    until("it has left", || balance.report().endpoints.len() == 1).await;
    settle().await;
    assert!(!reports.is_open("a"), "at once");
    assert!(reports.is_open("b"), "the other goes on");
    assert_eq!(gone.under_way(), 1, "the call is left to finish");
    gone.set_answer(Answer::Name);
    for call in [call, other] {
        within("both calls", call).await.unwrap().unwrap();
    }
    settle().await;
    assert_eq!(gone.clones_alive(), 0, "then nothing holds the connection");
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_takes_the_streams_with_it() {
    let names = ["a", "b", "c"];
    let Setup {
        world,
        reports,
        balance,
        tasks,
        ..
    } = setup(names, policy()).await;
    // One of them waits for its next turn.
    reports.end("b");
    settle().await;
    assert_eq!(tasks(), 4, "one drives, and three listen");
    drop(balance);
    until("every task ends", || tasks() == 0).await;
    for (name, server) in names.iter().zip(world.servers(names)) {
        assert!(!reports.is_open(name), "{name} is not heard any more");
        assert_eq!(server.clones_alive(), 0, "no clone is left");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_where_the_policy_does_not_want_it() {
    let Setup {
        reports,
        tasks,
        balance: _balance,
        ..
    } = setup(["a"], OrcaWeightedRoundRobin::default()).await;
    assert_eq!(tasks(), 1, "one task drives");
    assert_eq!(reports.begun("a"), 0, "nobody is asked");
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_goes_by_them_needs_someone_who_brings_them() {
    let world = World::new();
    let error = builder!(world)
        .endpoints(["a"])
        .policy(policy())
        .build()
        .unwrap_err();
    assert_eq!(error.field(), Some("load_reports"), "{error}");
    assert!(
        error.to_string().contains("weighted_round_robin"),
        "{error}"
    );
    let layer = Balance::builder().endpoints(["a"]).policy(policy()).layer();
    assert!(layer.unwrap_err().is_config(), "a layer has none");
}

#[tokio::test(start_paused = true)]
async fn one_that_panics_takes_nothing_with_it() {
    struct Panics;
    impl Watch<Stub> for Panics {
        type Terms = Duration;
        type Word = LoadReport;
        type Stream = BoxStream<'static, Said>;

        fn watch(&self, _: Target<Stub>, _: &Duration) -> Self::Stream {
            panic!("on purpose");
        }
    }
    let world = World::new();
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(policy())
        .load_reports(Panics)
        .build()
        .unwrap();
    connected(&balance, 2).await;
    for _ in 0..10 {
        within("calls go on", balance.clone().oneshot(ask("x")))
            .await
            .unwrap();
    }
}
