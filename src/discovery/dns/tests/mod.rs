//! What it makes of answers; `settings` has what can be set.

mod settings;

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::{Instant, advance, timeout};

use super::ask::{Answer, Ask};
use super::*;
use crate::discovery::Update;
use crate::endpoint::{Endpoint, RefreshHint};
use crate::error::BoxError;

const S: Duration = Duration::from_secs(1);

type Answers = HashMap<(String, RecordType), Result<Answer, String>>;

/// A DNS that says what it is told.
#[derive(Clone, Default)]
struct Fake {
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<Instant>>>,
    search: Vec<String>,
}

impl Ask for Fake {
    async fn ask(&self, name: Name, kind: RecordType) -> Result<Answer, BoxError> {
        if kind != RecordType::AAAA {
            self.asked.lock().unwrap().push(Instant::now());
        }
        let answers = self.answers.lock().unwrap();
        let answer = answers.get(&(name.to_ascii(), kind)).cloned();
        Ok(answer.unwrap_or(Ok(Answer::default()))?)
    }

    fn candidates(&self, name: &str) -> Result<Vec<Name>, BoxError> {
        let names = self.search.iter().map(|domain| format!("{name}.{domain}."));
        let names = names.chain([format!("{name}.")]);
        Ok(names
            .map(|name| Name::from_str_relaxed(name).unwrap())
            .collect())
    }
}

fn records(ttl: u64, records: impl IntoIterator<Item = RData>) -> Result<Answer, String> {
    Ok(Answer {
        records: records.into_iter().collect(),
        ttl: Duration::from_secs(ttl),
    })
}

fn v4(last: u8) -> RData {
    RData::A(A::new(10, 0, 0, last))
}

fn v6(last: u16) -> RData {
    RData::AAAA(AAAA(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)))
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, target.parse().unwrap()))
}

impl Fake {
    fn says(&self, name: &str, kind: RecordType, answer: Result<Answer, String>) {
        let mut answers = self.answers.lock().unwrap();
        answers.insert((name.into(), kind), answer);
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn updates(&self, dns: Dns) -> DnsUpdates {
        let Asked::Name(question) = dns.asked else {
            panic!("it is a name");
        };
        let timing = Timing {
            backoff: Backoff::default().with_jitter(0.0),
            ..dns.timing
        };
        let schedule = move |now| Schedule::new(timing, Rng::new(1), now);
        let fake = self.clone();
        DnsUpdates::new(question, dns.authority, schedule, move || Ok(fake.clone()))
    }
}

/// The next word, which comes within ten days of paused time.
async fn word(updates: &mut DnsUpdates) -> Result<Update, String> {
    let word = timeout(864_000 * S, updates.next()).await;
    let word = word.expect("a word comes").expect("it does not end");
    word.map_err(|error| error.to_string())
}

async fn state(updates: &mut DnsUpdates) -> Vec<Endpoint> {
    word(updates).await.expect("a state").into_endpoints()
}

/// Nothing is said for this long.
async fn silent(updates: &mut DnsUpdates, time: Duration) {
    assert!(
        timeout(time, updates.next()).await.is_err(),
        "nothing is new for {time:?}"
    );
}

fn ids(endpoints: &[Endpoint]) -> Vec<&str> {
    endpoints.iter().map(|e| e.id().as_str()).collect()
}

fn host() -> Dns {
    Dns::host("a.example:50051").unwrap()
}

/// What reads [`host`] from a DNS that says this.
fn host_with(v4: Result<Answer, String>, v6: Result<Answer, String>) -> (Fake, DnsUpdates) {
    let dns = Fake::default();
    dns.says("a.example.", RecordType::A, v4);
    dns.says("a.example.", RecordType::AAAA, v6);
    let updates = dns.updates(host());
    (dns, updates)
}

#[tokio::test(start_paused = true)]
async fn each_address_is_an_endpoint_by_the_name_that_was_asked_for() {
    let (_dns, mut updates) = host_with(records(60, [v4(2), v4(1)]), records(60, [v6(1)]));
    let found = state(&mut updates).await;
    assert_eq!(
        ids(&found),
        ["10.0.0.1:50051", "10.0.0.2:50051", "[fd00::1]:50051"]
    );
    for endpoint in &found {
        assert_eq!(endpoint.address(), format!("http://{}", endpoint.id()));
        let authority = endpoint.get::<Authority>().unwrap().as_str();
        assert_eq!(authority, "a.example:50051");
    }
    for (name, authority) in [
        ("a.example", "a.example"),
        ("a.example.", "a.example"),
        ("a.example.:1", "a.example:1"),
    ] {
        assert_eq!(
            Dns::host(name).unwrap().authority.as_str(),
            authority,
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_by_the_ttl_and_only_a_change_is_told() {
    let (dns, mut updates) = host_with(records(60, [v4(1), v4(2)]), records(20, [v6(1)]));
    let first = state(&mut updates).await;
    dns.says("a.example.", RecordType::A, records(60, [v4(2), v4(1)]));
    silent(&mut updates, 90 * S).await;
    assert_eq!(dns.asked(), 5, "at first, and after each 20 s");
    dns.says("a.example.", RecordType::A, records(60, [v4(1), v4(3)]));
    let second = state(&mut updates).await;
    assert_eq!(
        ids(&second),
        ["10.0.0.1:50051", "10.0.0.3:50051", "[fd00::1]:50051"]
    );
    assert!(
        first[0].ptr_eq(&second[0]),
        "what is as it was is handed on"
    );
}

#[tokio::test(start_paused = true)]
async fn a_family_that_is_not_answered_keeps_its_last_addresses() {
    let (dns, mut updates) = host_with(records(10, [v4(1)]), records(10, [v6(1)]));
    state(&mut updates).await;
    dns.says("a.example.", RecordType::AAAA, Err("SERVFAIL".into()));
    silent(&mut updates, 60 * S).await;
    dns.says("a.example.", RecordType::A, records(10, [v4(2)]));
    let found = state(&mut updates).await;
    assert_eq!(ids(&found), ["10.0.0.2:50051", "[fd00::1]:50051"]);
    dns.says("a.example.", RecordType::AAAA, records(10, []));
    let found = state(&mut updates).await;
    assert_eq!(
        ids(&found),
        ["10.0.0.2:50051"],
        "an answer without records is one"
    );
    dns.says("a.example.", RecordType::AAAA, records(10, [v6(1)]));
    assert_eq!(state(&mut updates).await.len(), 2);
    dns.says("a.example.", RecordType::AAAA, Err("SERVFAIL".into()));
    let began = Instant::now();
    let found = state(&mut updates).await;
    assert_eq!(ids(&found), ["10.0.0.2:50051"]);
    assert!(
        began.elapsed() >= 86_000 * S,
        "as long as a state is kept: {:?}",
        began.elapsed()
    );
    let (_other, mut updates) = host_with(records(10, [v4(1)]), Err("SERVFAIL".into()));
    let found = state(&mut updates).await;
    assert_eq!(
        ids(&found),
        ["10.0.0.1:50051"],
        "one family is enough to begin with"
    );
}

#[tokio::test(start_paused = true)]
async fn errors_and_empty_answers_keep_the_last_good_state_for_its_time() {
    for (bad, why) in [
        (Err("SERVFAIL".to_owned()), "SERVFAIL"),
        (records(5, []), "has no address"),
    ] {
        let dns = Fake::default();
        dns.says("a.example.", RecordType::A, records(10, [v4(1)]));
        let mut updates = dns.updates(host().with_keep_last_good(100 * S));
        state(&mut updates).await;
        let good = Instant::now();
        dns.says("a.example.", RecordType::A, bad.clone());
        let error = word(&mut updates).await.expect_err("it is told");
        assert!(
            error.contains(why) && error.contains("a.example"),
            "{error}"
        );
        dns.says("a.example.", RecordType::A, records(10, [v4(1)]));
        assert_eq!(
            state(&mut updates).await.len(),
            1,
            "the end of the error is told"
        );
        assert!(good.elapsed() < 13 * S, "it is asked again with backoff");

        let good = Instant::now();
        dns.says("a.example.", RecordType::A, bad);
        let empty = loop {
            if let Ok(update) = word(&mut updates).await {
                break update;
            }
        };
        assert!(
            empty.endpoints().is_empty(),
            "{why}: then the state is empty"
        );
        assert_eq!(
            good.elapsed().as_secs(),
            100,
            "{why}: at the end of its time"
        );
        assert!(
            word(&mut updates).await.is_err(),
            "{why}: and the reason stands"
        );
        dns.says("a.example.", RecordType::A, records(10, [v4(1)]));
        while word(&mut updates).await.is_err() {}
        silent(&mut updates, 90 * S).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_not_known_from_the_start_is_an_error_until_it_is() {
    let dns = Fake::default();
    let mut updates = dns.updates(host());
    for _ in 0..3 {
        let error = word(&mut updates).await.expect_err("nothing is known");
        assert!(error.contains("a.example has no address in DNS"), "{error}");
    }
    dns.says("a.example.", RecordType::A, records(10, [v4(1)]));
    assert_eq!(state(&mut updates).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hint_has_it_asked_earlier_but_not_within_30_s() {
    let dns = Fake::default();
    dns.says("a.example.", RecordType::A, records(300, [v4(1)]));
    let mut updates = dns.updates(host());
    let found = state(&mut updates).await;
    let hint = found[0].get::<RefreshHint>().expect("it is attached");
    for _ in 0..100 {
        hint.give();
    }
    silent(&mut updates, Duration::from_millis(29_900)).await;
    assert_eq!(dns.asked(), 1, "30 s are not over");
    silent(&mut updates, S).await;
    assert_eq!(dns.asked(), 2, "now it is asked");
    silent(&mut updates, 100 * S).await;
    assert_eq!(dns.asked(), 2, "all those hints were one");
    hint.give();
    silent(&mut updates, S).await;
    assert_eq!(dns.asked(), 3, "long after the last time at once");
}

#[tokio::test(start_paused = true)]
async fn records_of_a_service_have_their_port_weight_and_priority() {
    let dns = Fake::default();
    let service = "_grpc._tcp.a.example";
    let all = [
        srv(10, 20, 1, "x.example."),
        srv(10, 10, 1, "X.example."),
        srv(10, 0, 2, "x.example."),
        srv(10, 5, 3, "nobody.example."),
        srv(20, 9, 4, "y.example."),
        srv(20, 7, 1, "x.example."),
    ];
    dns.says("_grpc._tcp.a.example.", RecordType::SRV, records(60, all));
    dns.says("x.example.", RecordType::A, records(60, [v4(1)]));
    dns.says("x.example.", RecordType::AAAA, records(60, [v6(1)]));
    dns.says("y.example.", RecordType::A, records(60, [v4(2)]));
    let mut updates = dns.updates(Dns::srv(service).unwrap());
    let found = state(&mut updates).await;
    let seen: Vec<(&str, Vec<&str>, u32, u32)> = found
        .iter()
        .map(|e| {
            (
                e.id().as_str(),
                e.addresses().collect(),
                e.weight(),
                e.priority(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (
                "x.example:1",
                vec!["http://[fd00::1]:1", "http://10.0.0.1:1"],
                30,
                10
            ),
            (
                "x.example:2",
                vec!["http://[fd00::1]:2", "http://10.0.0.1:2"],
                1,
                10
            ),
            ("y.example:4", vec!["http://10.0.0.2:4"], 9, 20),
        ],
        "what is named twice is one, and a host with two addresses is one server"
    );
    let authority = found[0].get::<Authority>().unwrap();
    assert_eq!(authority.as_str(), "a.example", "not what an answer says");

    for kind in [RecordType::A, RecordType::AAAA] {
        dns.says("x.example.", kind, Err("SERVFAIL".into()));
        silent(&mut updates, 300 * S).await;
    }
    dns.says("y.example.", RecordType::A, Err("SERVFAIL".into()));
    assert!(
        word(&mut updates).await.is_err(),
        "without any new address it is an error"
    );
    dns.says("y.example.", RecordType::A, records(60, [v4(2)]));
    dns.says("x.example.", RecordType::A, records(60, []));
    dns.says("x.example.", RecordType::AAAA, records(60, []));
    let found = state(&mut updates).await;
    assert_eq!(
        ids(&found),
        ["y.example:4"],
        "a host without addresses is no endpoint"
    );
    dns.says(
        "_grpc._tcp.a.example.",
        RecordType::SRV,
        records(60, [srv(0, 0, 0, ".")]),
    );
    assert!(
        word(&mut updates).await.is_err(),
        "the root says that there is no service"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_is_no_reason_to_take_the_next_domain() {
    let dns = Fake {
        search: vec!["one".into(), "two".into()],
        ..Fake::default()
    };
    dns.says("a.one.", RecordType::A, Err("SERVFAIL".into()));
    dns.says("a.two.", RecordType::A, records(60, [v4(2)]));
    let mut updates = dns.updates(Dns::host("a:1").unwrap());
    assert!(
        word(&mut updates).await.is_err(),
        "who is a.two may be another service"
    );
    dns.says("a.one.", RecordType::A, records(60, []));
    assert_eq!(
        ids(&state(&mut updates).await),
        ["10.0.0.2:1"],
        "a.one is nobody"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_hosts_have_no_address_is_no_reason_to_take_the_next_domain() {
    let dns = Fake {
        search: vec!["one".into(), "two".into()],
        ..Fake::default()
    };
    let one = "_grpc._tcp.a.one.";
    dns.says("x.example.", RecordType::A, records(60, [v4(2)]));
    let two = records(60, [srv(0, 0, 2, "x.example.")]);
    dns.says("_grpc._tcp.a.two.", RecordType::SRV, two);
    let mut updates = dns.updates(Dns::srv("_grpc._tcp.a").unwrap());
    for nobody in [srv(0, 0, 1, "nobody.example."), srv(0, 0, 0, ".")] {
        dns.says(one, RecordType::SRV, records(60, [nobody]));
        assert!(
            word(&mut updates).await.is_err(),
            "that of the other domain may be another service"
        );
    }
    dns.says(one, RecordType::SRV, records(60, []));
    let found = state(&mut updates).await;
    assert_eq!(ids(&found), ["x.example:2"], "the first has none");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_before_it_is_read_nor_after_it_is_dropped() {
    let dns = Fake::default();
    dns.says("a.example.", RecordType::A, records(5, [v4(1)]));
    let mut updates = dns.updates(host());
    advance(100 * S).await;
    assert_eq!(dns.asked(), 0);
    state(&mut updates).await;
    drop(updates);
    tokio::time::sleep(100 * S).await;
    assert_eq!(dns.asked(), 1);
    assert_eq!(Arc::strong_count(&dns.asked), 1, "it is gone as a whole");
}
