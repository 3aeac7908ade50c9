use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::load::{Measures, ReportRules};
use crate::outcome::LoadReport;
use crate::policy::Candidates;
use crate::probe::probe_fn;

/// A server that answers as it is told, or not at all; counts who asks and who waits.
#[derive(Clone)]
struct Server(Arc<State>);

struct State {
    answer: watch::Sender<Option<Answer>>,
    asked: AtomicUsize,
    waiting: AtomicUsize,
}

struct Waiting(Arc<State>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    fn new(answer: Option<Answer>) -> Self {
        Self(Arc::new(State {
            answer: watch::Sender::new(answer),
            asked: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        }))
    }

    fn set(&self, answer: Option<Answer>) {
        self.0.answer.send_replace(answer);
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }

    fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst)
    }

    async fn answer(self) -> Answer {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(self.0.clone());
        let mut answer = self.0.answer.subscribe();
        let answer = answer.wait_for(Option::is_some).await;
        let answer = answer.expect("it has a sender").clone();
        drop(waiting);
        answer.expect("it was waited for")
    }
}

fn load(in_flight: u32) -> Option<Answer> {
    Some(Answer::Load(LoadReport::new().with_in_flight(in_flight)))
}

/// Endpoints whose servers' reports are kept.
fn endpoints(count: usize) -> Candidates {
    let measures = Measures::NOTHING.with_reports(ReportRules::default());
    Candidates::connected_for((0..count).map(|n| format!("e{n}")), measures)
}

fn in_flight(candidates: &Candidates, slot: usize) -> Option<u32> {
    let queue = candidates.all()[slot].subchannel().reports().queue();
    queue.map(|queue| queue.in_flight)
}

fn start(
    rules: ProbeRules,
    anyone: impl FnMut() -> Option<Request<Server>> + Send + 'static,
) -> (Prober<Server>, JoinHandle<()>) {
    let (prober, schedule) = schedule(probe_fn(Server::answer), rules);
    let origin = Instant::now();
    let clock = move || Moment::from_origin(origin.elapsed());
    (prober, tokio::spawn(schedule.run(anyone, clock)))
}

/// Lets everything happen that can happen without time passing.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn rules() -> ProbeRules {
    ProbeRules::default()
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_reported_with_its_time() {
    let set = endpoints(2);
    let [quick, slow] = [load(3), None].map(Server::new);
    let (prober, _task) = start(rules(), || None);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(prober.ask(&set.all()[0], &quick));
    assert!(prober.ask(&set.all()[1], &slow));
    settle().await;
    let queue = set.all()[0].subchannel().reports().queue();
    let queue = queue.expect("it answered at once");
    assert_eq!(queue.in_flight, 3);
    assert_eq!(
        queue.at,
        Moment::from_origin(Duration::from_millis(500)),
        "by the clock it was given"
    );

    assert_eq!(slow.waiting(), 1, "the probe waits");
    tokio::time::sleep(rules().timeout + Duration::from_millis(2)).await;
    assert_eq!(slow.waiting(), 0, "not beyond its time");
    slow.set(load(1));
    settle().await;
    assert_eq!(in_flight(&set, 1), None, "what comes later does not count");
    let load = set.all()[0].subchannel().load();
    assert_eq!(
        (load.started(), load.failed()),
        (0, 0),
        "a probe is no call"
    );
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_room_is_not_sent() {
    let set = endpoints(200);
    let server = Server::new(None);
    let rules = ProbeRules {
        timeout: Duration::from_secs(1),
        ..rules()
    };
    let (prober, _task) = start(rules, || None);
    let ask = |from: usize| {
        let mut taken = 0;
        while prober.ask(&set.all()[from + taken], &server) {
            taken += 1;
        }
        taken
    };
    assert_eq!(ask(0), MOST, "the queue is full, and nobody waited");
    settle().await;
    assert_eq!(server.waiting(), MOST, "all are under way");
    assert_eq!(ask(MOST), MOST, "the queue is full again");
    settle().await;
    assert_eq!(server.waiting(), MOST, "no more are under way");
    server.set(load(0));
    settle().await;
    assert_eq!(server.asked(), 2 * MOST, "what waited was sent then");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_know_the_question_is_asked_once_a_connection() {
    let set = endpoints(1);
    let candidate = &set.all()[0];
    let server = Server::new(Some(Answer::Unsupported));
    let (prober, _task) = start(rules(), || None);
    for _ in 0..10 {
        // Some before the first is answered, some after.
        for _ in 0..10 {
            assert!(prober.ask(candidate, &server), "it takes no room");
        }
        settle().await;
    }
    assert_eq!(server.asked(), 1, "the first answer was enough");

    let subchannel = candidate.subchannel();
    subchannel.connected(99);
    let (endpoint, state) = (candidate.endpoint().clone(), candidate.state());
    let anew = Candidate::new(0, endpoint, subchannel.clone(), 99, state);
    server.set(load(4));
    assert!(prober.ask(candidate, &server));
    settle().await;
    assert_eq!(server.asked(), 1, "the old connection is gone");
    assert!(prober.ask(&anew, &server));
    settle().await;
    assert_eq!(
        in_flight(&set, 0),
        Some(4),
        "another connection, maybe another server"
    );
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_a_connection_that_is_gone_does_not_count() {
    let set = endpoints(1);
    let server = Server::new(None);
    let (prober, _task) = start(rules(), || None);
    assert!(prober.ask(&set.all()[0], &server));
    settle().await;
    set.all()[0].subchannel().connected(99);
    server.set(load(4));
    settle().await;
    assert_eq!(
        (server.asked(), server.waiting()),
        (1, 0),
        "it was answered"
    );
    assert_eq!(in_flight(&set, 0), None);
}

#[tokio::test(start_paused = true)]
async fn someone_is_asked_when_nobody_was_for_long() {
    let set = endpoints(2);
    let server = Server::new(load(1));
    let rules = ProbeRules {
        idle: Some(Duration::from_millis(100)),
        ..rules()
    };
    let anyone = Request::new(&set.all()[1], &server);
    let anyone = move || {
        Some(Request {
            service: anyone.service.clone(),
            subchannel: anyone.subchannel.clone(),
            connection: anyone.connection,
        })
    };
    let (prober, _task) = start(rules, anyone);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(prober.ask(&set.all()[0], &server));
        settle().await;
    }
    assert_eq!((server.asked(), in_flight(&set, 1)), (5, None), "not idle");
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(server.asked(), 5 + 10, "one in each 100 ms");
    assert_eq!(in_flight(&set, 1), Some(1));
}

#[tokio::test(start_paused = true)]
async fn an_idle_schedule_without_anyone_to_ask_goes_on_waiting() {
    for idle in [Duration::ZERO, Duration::from_millis(1), Duration::MAX] {
        let idle = Some(idle);
        let (prober, task) = start(ProbeRules { idle, ..rules() }, || None);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!task.is_finished(), "{idle:?}");
        drop(prober);
        task.await.expect("it ends well");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_drops_what_waits_and_what_is_under_way() {
    let set = endpoints(200);
    let server = Server::new(None);
    let rules = ProbeRules {
        timeout: Duration::from_secs(600),
        ..rules()
    };
    let (prober, task) = start(rules, || None);
    for slot in 0..2 * MOST {
        prober.ask(&set.all()[slot], &server);
        settle().await;
    }
    assert_eq!(server.waiting(), MOST, "the rest waits for room");
    drop(prober);
    settle().await;
    assert!(task.is_finished(), "without any time passing");
    assert_eq!(server.waiting(), 0);
    assert_eq!(Arc::strong_count(&server.0), 1, "no clone is left");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_takes_no_other_with_it() {
    let set = endpoints(2);
    let probe = probe_fn(|fails: bool| {
        assert!(!fails, "on purpose");
        std::future::ready(Answer::Load(LoadReport::new().with_in_flight(2)))
    });
    let (prober, schedule) = schedule(probe, rules());
    let task = tokio::spawn(schedule.run(|| None, Moment::default));
    assert!(prober.ask(&set.all()[0], &true));
    assert!(prober.ask(&set.all()[1], &false));
    settle().await;
    assert!(!task.is_finished(), "the task goes on");
    assert_eq!([0, 1].map(|slot| in_flight(&set, slot)), [None, Some(2)]);
}
