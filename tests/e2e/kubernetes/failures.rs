//! What goes wrong: it is told once, the last good state stands, and its end is seen.

use std::time::{Duration, Instant};

use evenkeel::discovery::{Kubernetes, KubernetesError};
use evenkeel::math::Backoff;
use serde_json::json;

use super::api_server::{ApiServer, Refusal};
use super::{error, ids, service, silent_while, slice, soon, state, until, updates, watched, word};

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
        let timeout = Duration::from_secs(1);
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
async fn a_watch_whose_server_is_gone_without_a_word_is_begun_again() {
    let api = ApiServer::start().await;
    api.put(slice("a", &[1]));
    let timeout = Duration::from_secs(1);
    let mut updates = service(&api).with_watch_timeout(timeout).updates().unwrap();
    state("the list", &mut updates).await;
    watched(&mut updates, &api).await;
    // The server does not end its watches, as it was asked to.
    silent_while(
        "after the second, and five more",
        &mut updates,
        &api,
        "watch",
        1,
    )
    .await;
    let last = api.asked().pop().unwrap();
    assert_eq!(last.query["timeoutSeconds"], "1", "what was asked for");
    api.put(slice("b", &[2]));
    let want = ["uid-1:50051", "uid-2:50051"];
    until("the new one is heard", &mut updates, &want).await;
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
    // Each lasts at least the base of the backoff; that they grow is another test's.
    silent_while("four pauses", &mut updates, &api, "watch", 5).await;
    let lasted = begin.elapsed();
    assert!(lasted >= Duration::from_millis(160), "{lasted:?}");
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
