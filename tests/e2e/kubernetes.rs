//! Services of Kubernetes, by kube's client and watcher, from a server that lists and watches as the API server does.
//! What a source has to do is what `tests/discovery.rs` says of all of them; this one needs a server.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use evenkeel::discovery::{Kubernetes, KubernetesError, KubernetesUpdates, Update};
use evenkeel::endpoint::Authority;
use evenkeel::grpc::Channel;
use evenkeel::math::Backoff;
use evenkeel::policy::RoundRobin;
use evenkeel::{BoxError, Endpoint};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::api_server::{ApiServer, Refusal};
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

#[tokio::test]
async fn a_missing_permission_is_told_once_with_what_is_missing_and_its_end_is_seen() {
    let api = ApiServer::start().await;
    api.put(slice("a", &[1]));
    let message = "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:prod:default\" cannot \
                   list resource \"endpointslices\" in API group \"discovery.k8s.io\" in the namespace \"prod\"";
    for _ in 0..4 {
        api.refuse("list", Refusal::status(403, "Forbidden", message));
    }
    let mut updates = updates(&api);
    let forbidden = error("it is told", &mut updates).await;
    let KubernetesError::Forbidden {
        verb, namespace, ..
    } = &forbidden
    else {
        panic!("{forbidden:?}");
    };
    assert_eq!((*verb, &**namespace), ("list", "prod"));
    let text = forbidden.to_string();
    for part in [
        "get, list and watch",
        "endpointslices",
        "serviceaccount:prod",
    ] {
        assert!(text.contains(part), "the message says {part}: {text}");
    }
    let endpoints = state("once, and then it is allowed", &mut updates).await;
    assert_eq!(endpoints.len(), 1);

    // Whoever may list and not watch.
    watched(&mut updates, &api).await;
    for _ in 0..3 {
        api.refuse("watch", Refusal::status(403, "Forbidden", "cannot watch"));
    }
    api.end_watches();
    let forbidden = error("a watch is told apart", &mut updates).await;
    assert!(matches!(
        forbidden,
        KubernetesError::Forbidden { verb: "watch", .. }
    ));
    let endpoints = state("a watch that begins ends it", &mut updates).await;
    assert_eq!(
        ids(&endpoints),
        ["uid-1:50051"].into(),
        "the last good state"
    );
}

#[tokio::test]
async fn refusals_are_asked_again_and_a_retry_after_is_heeded() {
    let api = ApiServer::start().await;
    api.put(slice("a", &[1]));
    let mut refusal = Refusal::status(429, "TooManyRequests", "the server is busy");
    refusal.headers.push(("retry-after", "1".into()));
    api.refuse("list", refusal);
    for _ in 0..3 {
        api.refuse(
            "list",
            Refusal::status(500, "InternalError", "etcd is gone"),
        );
    }
    let mut page = Refusal::status(502, "", "");
    page.body = "<html>bad gateway</html>".into();
    api.refuse("list", page);
    let mut updates = updates(&api);
    let begin = Instant::now();
    let mut told = Vec::new();
    let endpoints = loop {
        match word("it is asked until it answers", &mut updates).await {
            Ok(update) => break update.into_endpoints(),
            Err(error) => {
                let error: Box<KubernetesError> = error.downcast().unwrap();
                let KubernetesError::Request { code, .. } = &*error else {
                    panic!("{error:?}");
                };
                told.push((*code, error.to_string()));
            }
        }
    };
    assert_eq!(endpoints.len(), 1);
    assert!(
        begin.elapsed() >= Duration::from_secs(1),
        "a second was asked for"
    );
    let codes: Vec<_> = told.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [Some(429), Some(500), Some(502)], "each once");
    assert!(told[2].1.contains("bad gateway"), "{}", told[2].1);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    for verb in ["list", "watch"] {
        let api = ApiServer::start().await;
        api.put(slice("a", &[1]));
        let timeout = Duration::from_millis(50);
        let mut updates = service(&api).with_timeout(timeout).updates().unwrap();
        api.silence(Some(verb));
        if verb == "watch" {
            state("the list is there", &mut updates).await;
        }
        let told = error("the silence is told", &mut updates).await;
        assert!(
            matches!(&told, KubernetesError::Request { verb: v, code: None, .. } if *v == verb),
            "{told:?}"
        );
        api.silence(None);
        let endpoints = state("and its end is seen", &mut updates).await;
        assert_eq!(endpoints.len(), 1, "{verb}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told() {
    let api = ApiServer::start().await;
    let gone = api.client();
    drop(api);
    let mut updates = Kubernetes::service("prod", "greeter")
        .unwrap()
        .with_client(gone)
        .with_backoff(soon())
        .updates()
        .unwrap();
    let told = error("nobody listens", &mut updates).await;
    assert!(
        matches!(
            &told,
            KubernetesError::Request {
                verb: "list",
                code: None,
                ..
            }
        ),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_slice_that_cannot_be_keeps_its_last_good_reading() {
    let api = ApiServer::start().await;
    api.put(slice("a", &[1]));
    api.put(slice("b", &[2]));
    let mut updates = updates(&api);
    state("the list", &mut updates).await;
    watched(&mut updates, &api).await;
    let mut bad = slice("a", &[1, 9]);
    bad["endpoints"][1]["addresses"] = json!(["fd00::1"]);
    api.put(bad.clone());
    let told = error("it is told", &mut updates).await;
    let KubernetesError::Slice {
        slice: name, field, ..
    } = &told
    else {
        panic!("{told:?}");
    };
    assert_eq!((&**name, &**field), ("a", "endpoints[1].addresses[0]"));
    // Of another type than it must be; the path to it is told.
    bad["endpoints"][1]["addresses"] = json!("10.0.0.9");
    api.put(bad);
    let told = error("another mistake is another error", &mut updates).await;
    assert!(
        told.to_string().contains("endpoints[1].addresses"),
        "{told}"
    );
    api.put(slice("b", &[2, 3]));
    let endpoints = state("the others go on", &mut updates).await;
    let want = ["uid-1:50051", "uid-2:50051", "uid-3:50051"];
    assert_eq!(ids(&endpoints), want.into(), "the bad one is as it was");
    error("and it still stands", &mut updates).await;
    // Listed anew it has its last good reading all the same.
    api.forget(false);
    api.end_watches();
    silent_while("listed anew", &mut updates, &api, "list", 1).await;
    api.put(slice("a", &[4]));
    let want = ["uid-2:50051", "uid-3:50051", "uid-4:50051"];
    until("it is good again", &mut updates, &want).await;
}

#[tokio::test]
async fn garbage_in_a_watch_is_told_and_everything_listed_anew() {
    for garbage in [
        "this is no JSON\n",
        "{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"name\":7}}}\n",
        "{\"type\":\"WHATEVER\",\"object\":{}}\n",
        "[]\n",
        "\u{fffd}\u{0}\n",
    ] {
        let api = ApiServer::start().await;
        api.put(slice("a", &[1]));
        let mut updates = updates(&api);
        state("the list", &mut updates).await;
        watched(&mut updates, &api).await;
        api.say(garbage);
        let told = error(garbage, &mut updates).await;
        assert!(
            matches!(told, KubernetesError::Request { verb: "watch", .. }),
            "{garbage}: {told:?}"
        );
        let endpoints = state("the list says that it is over", &mut updates).await;
        assert_eq!(ids(&endpoints), ["uid-1:50051"].into());
        assert_eq!(api.count("list"), 2, "an event may be lost: {garbage}");
    }
}

#[tokio::test]
async fn an_error_of_the_server_in_a_watch_is_told() {
    let api = ApiServer::start().await;
    api.put(slice("a", &[1]));
    let mut updates = updates(&api);
    state("the list", &mut updates).await;
    watched(&mut updates, &api).await;
    api.say_error(500, "InternalError", "etcd was slow");
    let told = error("an event of the kind ERROR", &mut updates).await;
    assert!(told.to_string().contains("etcd was slow"), "{told}");
    state("and it is over", &mut updates).await;
}

#[tokio::test]
async fn a_watch_that_always_ends_at_once_is_not_begun_without_a_pause() {
    let api = ApiServer::start().await;
    api.put(slice("a", &[1]));
    api.end_at_once(true);
    let backoff = Backoff::default()
        .with_base(Duration::from_millis(40))
        .with_jitter(0.0);
    let mut updates = service(&api).with_backoff(backoff).updates().unwrap();
    state("the list", &mut updates).await;
    let begin = Instant::now();
    // 40 ms, 64 ms, 102 ms, 164 ms.
    silent_while("four pauses", &mut updates, &api, "watch", 5).await;
    let lasted = begin.elapsed();
    assert!(lasted >= Duration::from_millis(370), "{lasted:?}");
    api.end_at_once(false);
    api.put(slice("b", &[2]));
    until(
        "nothing is lost",
        &mut updates,
        &["uid-1:50051", "uid-2:50051"],
    )
    .await;
}

#[tokio::test]
async fn a_service_that_is_not_there_is_an_empty_state_and_an_error_that_says_so() {
    let api = ApiServer::start().await;
    let mut updates = updates(&api);
    assert!(state("empty", &mut updates).await.is_empty());
    let told = error("and why", &mut updates).await;
    assert!(matches!(told, KubernetesError::NoSlices { .. }), "{told:?}");
    watched(&mut updates, &api).await;
    api.put(slice("a", &[1]));
    until("it is there now", &mut updates, &["uid-1:50051"]).await;
    api.put(slice("a", &[]));
    let rule = "no pods is a state, and no error";
    assert!(state(rule, &mut updates).await.is_empty());
    api.put(slice("a", &[2]));
    until(rule, &mut updates, &["uid-2:50051"]).await;
}

#[tokio::test]
async fn a_port_that_no_slice_has_is_told_and_the_last_good_state_stands() {
    let api = ApiServer::start().await;
    api.put(slice("a", &[1]));
    let mut updates = service(&api).with_port("grpc").updates().unwrap();
    state("the list", &mut updates).await;
    watched(&mut updates, &api).await;
    let mut other = slice("a", &[1]);
    other["ports"][0]["name"] = json!("http");
    api.put(other);
    let told = error("the name is gone", &mut updates).await;
    assert!(matches!(told, KubernetesError::Port { .. }), "{told:?}");
    let text = told.to_string();
    assert!(
        text.contains("\"grpc\"") && text.contains("http 50051"),
        "{text}"
    );
    api.put(slice("a", &[1]));
    until("and back", &mut updates, &["uid-1:50051"]).await;
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_kubeconfig_says_whom_to_trust_and_who_one_is() {
    use std::sync::Arc;

    use base64::Engine;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let ca = crate::support::TestCa::new();
    let identity = ca.server_identity(&["127.0.0.1"]);
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let api = ApiServer::serve(Some(TlsAcceptor::from(Arc::new(config)))).await;
    api.put(slice("a", &[1]));
    let authority = base64::engine::general_purpose::STANDARD.encode(ca.pem());
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{}", api.address()),
            "certificate-authority-data": authority,
        }}],
        "users": [{"name": "u", "user": {"token": "s3cret"}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "here"}},
            {"name": "there", "context": {"cluster": "c", "user": "u", "namespace": "there"}},
        ],
    });
    let folder = tempfile();
    let path = folder.0.join("config");
    std::fs::write(&path, text.to_string()).unwrap();
    for (context, namespace) in [(None, "here"), (Some("there"), "there")] {
        let mut source = Kubernetes::own_service("greeter")
            .unwrap()
            .with_kubeconfig(&path)
            .with_backoff(soon());
        if let Some(context) = context {
            source = source.with_context(context);
        }
        let mut updates = source.updates().unwrap();
        assert_eq!(state("over TLS", &mut updates).await.len(), 1);
        let asked = api.asked().pop().unwrap();
        assert_eq!(asked.authorization.as_deref(), Some("Bearer s3cret"));
        assert!(
            asked.path.contains(&format!("/namespaces/{namespace}/")),
            "{}",
            asked.path
        );
    }
    let mut updates = Kubernetes::own_service("greeter")
        .unwrap()
        .with_kubeconfig(folder.0.join("missing"))
        .updates()
        .unwrap();
    let told = error("no such file", &mut updates).await;
    assert!(matches!(told, KubernetesError::Access { .. }), "{told:?}");
    assert!(told.to_string().contains("missing"), "{told}");
}

/// A folder that goes with this.
#[cfg(feature = "tls")]
struct Folder(std::path::PathBuf);

#[cfg(feature = "tls")]
fn tempfile() -> Folder {
    let name = format!("evenkeel-kubeconfig-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    Folder(folder)
}

#[cfg(feature = "tls")]
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
