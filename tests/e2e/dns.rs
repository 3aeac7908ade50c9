//! Names in DNS, answered by a real server: what is DNS's own. What holds of all sources is in `tests/conformance`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use evenkeel::ConnectivityState;
use evenkeel::discovery::{Dns, DnsUpdates, Targets, Update};
use evenkeel::endpoint::Authority;
use evenkeel::grpc::Channel;
use evenkeel::math::Backoff;
use evenkeel::observe::PassedOver;
use evenkeel::policy::RoundRobin;
use futures::StreamExt;
use tonic::Request;

use crate::knot::Knot;
use crate::mirror::{Mirror, SEEN_URI};
use crate::only;
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, PATIENCE, TestServer, all_ready, eventually, within};

const HOST: &str = "demo.evenkeel.example";
const SERVICE: &str = "_grpc._tcp.demo.evenkeel.example";

/// Asks `knot` often, so that no test waits for long.
fn often(dns: Dns, knot: &Knot) -> Dns {
    dns.with_name_servers([knot.address()])
        .with_interval(Duration::from_millis(20))
        .with_timeout(PATIENCE)
}

fn host(knot: &Knot, port: u16) -> Dns {
    often(Dns::host(&format!("{HOST}:{port}")).unwrap(), knot)
}

fn set(records: &str) -> Vec<String> {
    vec![format!("set demo {records}")]
}

fn unset(records: &str) -> Vec<String> {
    vec![format!("unset demo {records}")]
}

/// Reads until a state has just these ids; the errors before it.
async fn until_state(rule: &str, updates: &mut DnsUpdates, want: &[&str]) -> Vec<String> {
    let want: BTreeSet<&str> = want.iter().copied().collect();
    within(rule, async {
        let mut errors = Vec::new();
        loop {
            match updates.next().await.expect("DNS does not end") {
                Ok(update) => {
                    let ids = update.endpoints().iter().map(|e| e.id().as_str());
                    if ids.collect::<BTreeSet<_>>() == want {
                        return errors;
                    }
                }
                Err(error) => errors.push(error.to_string()),
            }
        }
    })
    .await
}

/// Reads an error; a state before it would be one too many.
async fn until_error(rule: &str, updates: &mut DnsUpdates) -> String {
    let next = within(rule, updates.next()).await;
    match next.expect("DNS does not end") {
        Err(error) => error.to_string(),
        Ok(update) => panic!("{rule}: a state came before it: {update:?}"),
    }
}

/// A DNS that has these records for [`HOST`], and a server on the port that goes with them.
fn with_server(records: &str) -> Option<(Knot, TestServer, u16)> {
    let knot = Knot::start()?;
    knot.change(set(records));
    let server = TestServer::builder("a", Behaviour::prompt()).start();
    let port = server.addr().port();
    Some((knot, server, port))
}

/// The next word, which is a state.
async fn next_state(rule: &str, updates: &mut DnsUpdates) -> Update {
    let next = within(rule, updates.next()).await;
    next.expect("DNS does not end").expect(rule)
}

async fn echo(channel: &Channel) -> Result<String, tonic::Status> {
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call", client.echo(EchoRequest::default())).await?;
    Ok(reply.into_inner().server)
}

#[tokio::test]
async fn records_that_are_added_are_used_and_those_that_are_removed_are_not() {
    let Some((knot, server, port)) = with_server("1 A 127.0.0.1") else {
        return;
    };
    let channel = Channel::builder()
        .discovery(host(&knot, port).updates().unwrap())
        .policy(RoundRobin::default())
        .build()
        .unwrap();
    assert_eq!(echo(&channel).await.unwrap(), "a");
    // Nobody is there.
    knot.change(set("1 AAAA ::1"));
    eventually("the second record is an endpoint", || {
        channel.report().endpoints.len() == 2
    })
    .await;
    for _ in 0..10 {
        assert_eq!(
            echo(&channel).await.unwrap(),
            "a",
            "no call is lost to who is not there"
        );
    }
    knot.change(unset("AAAA"));
    eventually("it is gone again", || channel.report().endpoints.len() == 1).await;
    assert_eq!(echo(&channel).await.unwrap(), "a");
    assert_eq!(server.accepted(), 1, "the other connection was left alone");
}

#[tokio::test]
async fn a_target_asks_the_server_that_it_names_and_requests_carry_the_name() {
    let Some(knot) = Knot::start() else { return };
    let mirror = Mirror::start().await;
    let port = mirror
        .uri()
        .parse::<http::Uri>()
        .unwrap()
        .port_u16()
        .unwrap();
    knot.change(set("1 A 127.0.0.1"));
    let channel = Channel::connect(format!("dns://{}/{HOST}:{port}", knot.address())).unwrap();
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call", client.echo(Request::new(EchoRequest::default())));
    let reply = reply.await.unwrap();
    let seen = reply.metadata().get(SEEN_URI).unwrap().to_str().unwrap();
    assert!(
        seen.starts_with(&format!("http://{HOST}:{port}/")),
        "the authority is the name, not the address: {seen}"
    );
    let endpoint = only(&channel);
    assert_eq!(endpoint.id.as_str(), format!("127.0.0.1:{port}"));
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_certificate_must_carry_the_name_that_was_looked_up() {
    use crate::support::TestCa;
    use evenkeel::grpc::Tls;

    let Some(knot) = Knot::start() else { return };
    let ca = TestCa::new();
    knot.change(set("1 A 127.0.0.1"));
    for (name, good) in [(HOST, true), ("127.0.0.1", false)] {
        let server = TestServer::builder("secret", Behaviour::prompt())
            .tls(ca.server_tls_for(&[name]))
            .start();
        let target = format!("dns://{}/{HOST}:{}", knot.address(), server.addr().port());
        let channel = Channel::builder()
            .target(target)
            .tls(Tls::new().ca_certificate(ca.pem()))
            .build()
            .unwrap();
        let answer = echo(&channel).await;
        assert_eq!(answer.is_ok(), good, "a certificate for {name}: {answer:?}");
    }
}

#[tokio::test]
async fn services_have_their_ports_weights_and_priorities_and_a_change_keeps_the_connection() {
    let Some(knot) = Knot::start() else { return };
    let servers = ["a", "b"].map(|name| TestServer::builder(name, Behaviour::prompt()).start());
    let [a, b] = [servers[0].addr().port(), servers[1].addr().port()];
    let record = |verb: &str, rest: String| format!("{verb} _grpc._tcp.demo {rest}");
    knot.change([
        "set host 1 A 127.0.0.1".to_owned(),
        record("set", format!("1 SRV 10 3 {a} host")),
        record("set", format!("1 SRV 20 1 {b} host")),
    ]);
    let dns = often(Dns::srv(SERVICE).unwrap(), &knot);
    let channel = Channel::builder()
        .discovery(dns.updates().unwrap())
        .build()
        .unwrap();
    all_ready(&channel).await;
    for _ in 0..20 {
        let answer = echo(&channel).await.unwrap();
        assert_eq!(answer, "a", "the other has a higher priority value");
    }
    let mut endpoints = channel.report().endpoints;
    endpoints.sort_by_key(|endpoint| endpoint.priority);
    let seen: Vec<_> = endpoints
        .iter()
        .map(|e| (e.id.to_string(), e.weight, e.priority))
        .collect();
    let id = |port| format!("host.evenkeel.example:{port}");
    assert_eq!(seen, [(id(a), 3, 10), (id(b), 1, 20)]);
    assert_eq!(endpoints[1].passed_over, Some(PassedOver::Priority));
    servers[0].kill().await;
    eventually("the next priority takes over", || {
        let mut endpoints = channel.report().endpoints.into_iter();
        endpoints.any(|e| e.priority == 20 && e.passed_over.is_none())
    })
    .await;
    assert_eq!(echo(&channel).await.unwrap(), "b");
    servers[0].restart().await;
    all_ready(&channel).await;
    let accepted = servers[0].accepted();
    knot.change([
        record("unset", "SRV".into()),
        record("set", format!("1 SRV 10 7 {a} host")),
        record("set", format!("1 SRV 10 1 {b} host")),
    ]);
    eventually("both are used, by their weights", || {
        let mut weights: Vec<u32> = channel
            .report()
            .endpoints
            .iter()
            .map(|e| e.weight)
            .collect();
        weights.sort_unstable();
        weights == [1, 7]
    })
    .await;
    all_ready(&channel).await;
    assert_eq!(
        servers[0].accepted(),
        accepted,
        "a change of weight dials nothing anew"
    );
    let targets = Targets::new().source(&format!("dns+srv://{}/{SERVICE}", knot.address()));
    let state = within("the first state", targets.unwrap().next()).await;
    let state = state.unwrap().unwrap();
    assert_eq!(state.endpoints().len(), 2, "a target finds them too");
    let authority = state.endpoints()[0].get::<Authority>().unwrap();
    assert_eq!(authority.as_str(), HOST);
}

#[tokio::test]
async fn the_ttl_says_when_it_is_asked_again() {
    let Some(knot) = Knot::start() else { return };
    knot.change(set("1 A 127.0.0.1"));
    let dns = Dns::host(&format!("{HOST}:1")).unwrap();
    let mut updates = dns
        .with_name_servers([knot.address()])
        .with_ttl_bounds(Duration::from_millis(10), Duration::from_secs(3600))
        .updates()
        .unwrap();
    until_state("the first state", &mut updates, &["127.0.0.1:1"]).await;
    let asked = Instant::now();
    knot.change(set("1 A 127.0.0.2"));
    until_state("a TTL later", &mut updates, &["127.0.0.1:1", "127.0.0.2:1"]).await;
    // The first answer may be a moment older than its state.
    let waited = asked.elapsed();
    assert!(
        waited > Duration::from_millis(500),
        "not before the TTL of 1 s: {waited:?}"
    );
}

#[tokio::test]
async fn no_such_name_keeps_the_last_good_state_for_its_time() {
    let Some(knot) = Knot::start() else { return };
    knot.change(set("1 A 127.0.0.1"));
    let one = ["127.0.0.1:1"];
    let mut kept = host(&knot, 1).updates().unwrap();
    let mut dropped = host(&knot, 1)
        .with_keep_last_good(Duration::ZERO)
        .updates()
        .unwrap();
    until_state("the first state", &mut kept, &one).await;
    until_state("the first state", &mut dropped, &one).await;
    knot.change(unset("A"));
    let error = until_error("NXDOMAIN is told", &mut kept).await;
    assert!(
        error.contains(HOST) && error.contains("no address"),
        "{error}"
    );
    until_state("nothing is kept", &mut dropped, &[]).await;
    knot.change(set("1 A 127.0.0.1"));
    until_state("it is there again", &mut kept, &one).await;
    until_state("it is there again", &mut dropped, &one).await;
}

#[tokio::test]
async fn a_zone_that_fails_is_an_error() {
    let Some(knot) = Knot::start() else { return };
    for (name, why) in [
        ("a.broken.example:1", "Server Failure"),
        ("a.unknown.example:1", "Refused"),
    ] {
        let mut updates = often(Dns::host(name).unwrap(), &knot).updates().unwrap();
        let error = until_error("it is told", &mut updates).await;
        assert!(error.contains(why), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_dies_takes_nothing_with_it_and_one_that_comes_back_is_asked() {
    let Some((mut knot, server, port)) = with_server("1 A 127.0.0.1") else {
        return;
    };
    // So long is a dead server waited for.
    let dns = host(&knot, port).with_timeout(Duration::from_millis(500));
    let channel = Channel::builder()
        .discovery(dns.updates().unwrap())
        .build()
        .unwrap();
    all_ready(&channel).await;
    knot.kill();
    eventually("the channel knows", || {
        channel.report().discovery_error.is_some()
    })
    .await;
    assert_eq!(
        echo(&channel).await.unwrap(),
        "a",
        "the last good state stands"
    );
    knot.restart();
    knot.change(set("1 A 127.0.0.1"));
    eventually("the error is over", || {
        channel.report().discovery_error.is_none()
    })
    .await;
    assert_eq!(only(&channel).state, ConnectivityState::Ready);
    assert_eq!(server.accepted(), 1, "and the connection never went");
}

#[tokio::test]
async fn five_hundred_records_come_by_tcp_as_one_state() {
    let Some(knot) = Knot::start() else { return };
    let mut updates = host(&knot, 1).updates().unwrap();
    until_error("nothing is there yet", &mut updates).await;
    let address = |n: u32| format!("127.1.{}.{}", n / 250, n % 250 + 1);
    knot.change((0..500).map(|n| format!("set demo 1 A {}", address(n))));
    let state = within("all of them", async {
        loop {
            if let Ok(update) = updates.next().await.expect("DNS does not end") {
                return update;
            }
        }
    })
    .await;
    assert_eq!(state.endpoints().len(), 500, "one state has them all");
    // Nothing is asked while nobody reads, so these all come between two questions.
    for n in 0..50 {
        knot.change([format!("unset demo A {}", address(n))]);
    }
    knot.change(set("1 A 127.0.0.9"));
    let last = next_state("the burst is seen", &mut updates).await;
    assert_eq!(
        last.endpoints().len(),
        451,
        "the next state has all changes, not the first of them"
    );
    let has = |id: &str| last.endpoints().iter().any(|e| e.id().as_str() == id);
    assert!(has("127.1.1.200:1"), "those between are as they were");
    assert!(
        !has("127.1.0.1:1") && !has("127.1.0.50:1"),
        "what was removed is gone"
    );
    assert!(has("127.0.0.9:1"), "what came last is there");
    knot.change(set("1 A 127.0.0.10"));
    let next = next_state("a later change is seen", &mut updates).await;
    assert_eq!(
        next.endpoints().len(),
        452,
        "a burst is one state: none of it comes late"
    );
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_has_the_name_asked_for_again() {
    // Nobody listens there.
    let Some((knot, _server, port)) = with_server("3600 A 127.0.0.2") else {
        return;
    };
    let dns = Dns::host(&format!("{HOST}:{port}"))
        .unwrap()
        .with_name_servers([knot.address()])
        .with_interval(Duration::from_secs(3600))
        .with_failure_interval(Duration::from_millis(50));
    let channel = Channel::builder()
        .discovery(dns.updates().unwrap())
        .backoff(Backoff::default().with_base(Duration::from_millis(5)))
        .build()
        .unwrap();
    crate::failing(&channel).await;
    knot.change([
        "unset demo A 127.0.0.2".to_owned(),
        "set demo 3600 A 127.0.0.1".to_owned(),
    ]);
    all_ready(&channel).await;
    assert_eq!(
        echo(&channel).await.unwrap(),
        "a",
        "long before the hour is over"
    );
}

#[tokio::test]
async fn names_are_completed_by_the_search_domains() {
    let Some(knot) = Knot::start() else { return };
    knot.change(set("1 A 127.0.0.1"));
    let dns = often(Dns::host("demo:1").unwrap(), &knot);
    let dns = dns.with_search(["other.evenkeel.example", "evenkeel.example"]);
    let mut updates = dns.updates().unwrap();
    let errors = until_state("by the second domain", &mut updates, &["127.0.0.1:1"]).await;
    assert_eq!(errors, [] as [&str; 0]);
}

#[tokio::test]
async fn the_end_of_the_channel_is_the_end_of_all_tasks() {
    let Some(knot) = Knot::start() else { return };
    knot.change(set("1 A 127.0.0.1"));
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let channel = Channel::builder()
        .discovery(host(&knot, 1).updates().unwrap())
        .build()
        .unwrap();
    eventually("it was asked", || channel.report().resolved).await;
    drop(channel);
    eventually("nothing is left running", || {
        metrics.num_alive_tasks() == before
    })
    .await;
}
