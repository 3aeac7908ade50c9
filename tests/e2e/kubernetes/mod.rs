//! Services of Kubernetes, by kube's client and watcher, from a server that lists and watches as the API server does.
//! What a source has to do is what `tests/discovery.rs` says of all of them; this one needs a server.
//!
//! - `api_server`: that server;
//! - `failures`: what goes wrong;
//! - `kubeconfig`: whom to ask, by TLS.

pub mod api_server;
mod failures;
#[cfg(feature = "tls")]
mod kubeconfig;

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel::discovery::{Kubernetes, KubernetesError, KubernetesUpdates, Update};
use evenkeel::endpoint::Authority;
use evenkeel::grpc::Channel;
use evenkeel::math::Backoff;
use evenkeel::policy::RoundRobin;
use evenkeel::{BoxError, Endpoint};
use futures::StreamExt;
use serde_json::{Value, json};

use api_server::{ApiServer, Refusal};

use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, TestServer, all_ready, eventually, within};

/// Asks again soon, so that no test waits for long.
fn soon() -> Backoff {
    Backoff::default()
        .with_base(Duration::from_millis(5))
        .with_max(Duration::from_millis(50))
}

fn service(server: &ApiServer) -> Kubernetes {
    Kubernetes::service("prod", "greeter")
        .unwrap()
        .with_client(server.client())
        .with_backoff(soon())
        .with_seed(7)
}

fn updates(server: &ApiServer) -> KubernetesUpdates {
    service(server).updates().unwrap()
}

/// A slice with these pods, by the last byte of their addresses, at the port 50051.
fn slice(name: &str, pods: &[u8]) -> Value {
    let endpoints = pods.iter().map(|n| {
        json!({
            "addresses": [format!("10.0.0.{n}")],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "node-1", "zone": "eu-west-1a",
            "targetRef": {"kind": "Pod", "namespace": "prod", "name": format!("greeter-{n}"), "uid": format!("uid-{n}")},
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "prod", "labels": {"kubernetes.io/service-name": "greeter"}},
        "addressType": "IPv4", "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "grpc", "port": 50051, "protocol": "TCP"}],
    })
}

async fn word(rule: &str, updates: &mut KubernetesUpdates) -> Result<Update, BoxError> {
    let word = within(rule, updates.next()).await;
    word.expect("the source does not end")
}

async fn state(rule: &str, updates: &mut KubernetesUpdates) -> Vec<Endpoint> {
    match word(rule, updates).await {
        Ok(update) => update.into_endpoints(),
        Err(error) => panic!("{rule}: an error came before it: {error}"),
    }
}

async fn error(rule: &str, updates: &mut KubernetesUpdates) -> KubernetesError {
    match word(rule, updates).await {
        Ok(update) => panic!("{rule}: a state came before it: {update:?}"),
        Err(error) => *error
            .downcast()
            .expect("its errors are of the type that it says"),
    }
}

/// Reads states until one has just these ids; no error may be among them.
async fn until(rule: &str, updates: &mut KubernetesUpdates, want: &[&str]) -> Vec<Endpoint> {
    let want: BTreeSet<&str> = want.iter().copied().collect();
    within(rule, async {
        loop {
            let endpoints = state(rule, updates).await;
            if ids(&endpoints) == want {
                return endpoints;
            }
        }
    })
    .await
}

fn ids(endpoints: &[Endpoint]) -> BTreeSet<&str> {
    endpoints.iter().map(|e| e.id().as_str()).collect()
}

/// Nothing is said while the server is asked this much more often.
async fn silent_while(
    rule: &str,
    updates: &mut KubernetesUpdates,
    server: &ApiServer,
    verb: &str,
    more: usize,
) {
    let before = server.count(verb);
    let asked = eventually(rule, || server.count(verb) >= before + more);
    tokio::select! {
        word = updates.next() => panic!("{rule}: {word:?}"),
        () = asked => {}
    }
}

/// The source is read, and has nothing to say, until a watch is there.
async fn watched(updates: &mut KubernetesUpdates, server: &ApiServer) {
    let there = eventually("a watch begins", || server.watches() == 1);
    tokio::select! {
        word = updates.next() => panic!("nothing is new: {word:?}"),
        () = there => {}
    }
}

#[tokio::test]
async fn a_channel_calls_the_pods_of_a_service_and_follows_them() {
    let api = ApiServer::start().await;
    let servers = ["a", "b"].map(|name| TestServer::builder(name, Behaviour::prompt()).start());
    let local = |name: &str, server: &TestServer| {
        let mut slice = slice(name, &[1]);
        slice["endpoints"][0]["addresses"] = json!(["127.0.0.1"]);
        slice["endpoints"][0]["targetRef"]["uid"] = json!(format!("uid-{name}"));
        slice["ports"][0]["port"] = json!(server.addr().port());
        slice
    };
    api.put(local("a", &servers[0]));
    let channel = Channel::builder()
        .discovery(service(&api).with_port("grpc").updates().unwrap())
        .policy(RoundRobin::default())
        .build()
        .unwrap();
    let mut client = DemoClient::new(channel.clone());
    let mut echo = async || {
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        reply.unwrap().into_inner().server
    };
    assert_eq!(echo().await, "a", "the list");
    api.put(local("b", &servers[1]));
    eventually("the watch has told of the second one", || {
        channel.report().endpoints.len() == 2
    })
    .await;
    all_ready(&channel).await;
    let answers = [echo().await, echo().await];
    assert_ne!(answers[0], answers[1], "both are called");
    api.delete("a");
    eventually("the first is gone", || {
        channel.report().endpoints.len() == 1
    })
    .await;
    assert_eq!(echo().await, "b", "the one that is left");
    drop((client, channel));
    eventually("with the channel the watch ends", || api.watches() == 0).await;
}

#[tokio::test]
async fn the_request_names_service_namespace_and_version() {
    let api = ApiServer::start().await;
    api.put(slice("a", &[1]));
    let mut updates = updates(&api);
    state("the list", &mut updates).await;
    watched(&mut updates, &api).await;
    let asked = api.asked();
    assert_eq!(asked.len(), 2, "one list and one watch: {asked:?}");
    for asked in &asked {
        assert_eq!(
            asked.path,
            "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices"
        );
        let selector = asked.query.get("labelSelector").map(String::as_str);
        assert_eq!(selector, Some("kubernetes.io/service-name=greeter"));
    }
    let watch = &asked[1];
    assert_eq!(watch.query["resourceVersion"], "101", "from the list on");
    assert_eq!(watch.query["allowWatchBookmarks"], "true");
    assert_eq!(watch.query["timeoutSeconds"], "290");
}

#[tokio::test]
async fn the_own_namespace_is_the_client_s() {
    let api = ApiServer::start().await;
    api.put(slice("a", &[1]));
    let mut updates = Kubernetes::own_service("greeter")
        .unwrap()
        .with_port(50051)
        .with_client(api.client())
        .updates()
        .unwrap();
    let endpoints = state("the list", &mut updates).await;
    assert!(api.asked()[0].path.contains("/namespaces/own/"));
    let authority = endpoints[0].get::<Authority>().unwrap();
    assert_eq!(authority.as_str(), "greeter.own.svc:50051");
}

#[tokio::test]
async fn several_pages_and_slices_are_one_state_and_what_did_not_change_is_the_same_endpoint() {
    let api = ApiServer::start().await;
    for n in 1..=5 {
        api.put(slice(&format!("s{n}"), &[n]));
    }
    api.page(2);
    let mut updates = updates(&api);
    let first = state("all pages", &mut updates).await;
    assert_eq!(first.len(), 5, "one state of all slices");
    assert_eq!(api.count("list"), 3, "by three pages");
    watched(&mut updates, &api).await;
    api.put(slice("s2", &[2, 22]));
    let second = state("a change of one", &mut updates).await;
    assert_eq!(second.len(), 6);
    for endpoint in &first {
        let same = second.iter().find(|e| e.id() == endpoint.id()).unwrap();
        assert!(
            std::ptr::eq(endpoint.id().as_str(), same.id().as_str()),
            "{endpoint:?} did not change and is handed on as it is"
        );
    }
    api.put(slice("s2", &[22, 2]));
    api.put(slice("s3", &[3, 33]));
    let third = state("the other order is no change", &mut updates).await;
    assert_eq!(third.len(), 7, "only the second change is told");
}

#[tokio::test]
async fn a_watch_that_ends_or_breaks_goes_on_from_its_last_event() {
    let api = ApiServer::start().await;
    api.put(slice("a", &[1]));
    let mut updates = updates(&api);
    state("the list", &mut updates).await;
    watched(&mut updates, &api).await;

    let version = api.bookmark();
    api.end_watches();
    silent_while("its time was over", &mut updates, &api, "watch", 1).await;
    let last = api.asked().pop().unwrap();
    let from = &last.query["resourceVersion"];
    assert_eq!(*from, version.to_string(), "the bookmark's version");

    // What happens between two watches is in the next one.
    watched(&mut updates, &api).await;
    api.cut_watches();
    api.put(slice("b", &[2]));
    until(
        "cut, and resumed",
        &mut updates,
        &["uid-1:50051", "uid-2:50051"],
    )
    .await;

    // Half an event, and then the end: kube takes it for the end of the watch.
    watched(&mut updates, &api).await;
    api.say("{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"na");
    api.cut_watches();
    api.delete("a");
    until("cut inside an event", &mut updates, &["uid-2:50051"]).await;
    assert_eq!(api.count("list"), 1, "nothing was listed again");
}

#[tokio::test]
async fn a_version_that_is_gone_has_everything_listed_anew_without_an_error() {
    for by_status in [false, true] {
        let api = ApiServer::start().await;
        api.put(slice("a", &[1]));
        api.put(slice("b", &[2]));
        let mut updates = updates(&api);
        state("the list", &mut updates).await;
        watched(&mut updates, &api).await;
        // While nobody watches one goes and another comes, and the server forgets it.
        api.refuse(
            "watch",
            Refusal::status(410, "Expired", "too old resource version"),
        );
        api.end_watches();
        api.delete("a");
        api.put(slice("c", &[3]));
        api.forget(by_status);
        let rule = format!("410 by the HTTP status: {by_status}");
        until(&rule, &mut updates, &["uid-2:50051", "uid-3:50051"]).await;
        watched(&mut updates, &api).await;
        api.forget(by_status);
        api.end_watches();
        silent_while("the same again is no news", &mut updates, &api, "list", 1).await;
        api.put(slice("d", &[4]));
        let rule = "and the watch goes on";
        until(
            rule,
            &mut updates,
            &["uid-2:50051", "uid-3:50051", "uid-4:50051"],
        )
        .await;
    }
}
