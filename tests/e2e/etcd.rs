//! Endpoints by their keys in a real etcd.

use std::time::Duration;

use evenkeel::Endpoint;
use evenkeel::discovery::Update;
use evenkeel::grpc::Channel;
use evenkeel::grpc::etcd::{Etcd, EtcdUpdates, Register};
use evenkeel::math::Backoff;
use futures::{FutureExt, StreamExt};

use crate::etcd_server;
use crate::only;
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, RefusedPort, TestServer, all_ready, eventually, within};

const PREFIX: &str = "services/cart/";

/// Short, so that no test waits for long.
fn soon() -> Backoff {
    Backoff::default()
        .with_base(Duration::from_millis(20))
        .with_max(Duration::from_millis(100))
}

fn updates(etcd: &etcd_server::Etcd) -> EtcdUpdates {
    Etcd::prefix([etcd.address()], PREFIX)
        .with_backoff(soon())
        .with_seed(1)
        .updates()
        .unwrap()
}

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn value(address: &str) -> String {
    format!(r#"{{"Addr":"{address}"}}"#)
}

async fn next(rule: &str, updates: &mut EtcdUpdates) -> Result<Update, String> {
    let next = within(rule, updates.next())
        .await
        .expect("etcd does not end");
    next.map_err(|error| error.to_string())
}

/// The next word, which is a state of these ids.
async fn state(rule: &str, updates: &mut EtcdUpdates, ids: &[&str]) -> Vec<Endpoint> {
    let endpoints = next(rule, updates).await.expect(rule).into_endpoints();
    let found: Vec<&str> = endpoints.iter().map(|it| it.id().as_str()).collect();
    assert_eq!(found, ids, "{rule}");
    endpoints
}

async fn error(rule: &str, updates: &mut EtcdUpdates) -> String {
    next(rule, updates).await.expect_err(rule)
}

/// Puts and deletes are added up, and each is one state; what is not below the prefix is none.
#[tokio::test]
async fn keys_that_are_put_are_endpoints_and_deleted_ones_are_not() {
    let Some(etcd) = etcd_server::Etcd::start() else {
        return;
    };
    etcd.put(&key("a"), &value("10.0.0.1:1")).await;
    etcd.put("services/cartoons/x", &value("10.0.0.9:1")).await;
    let mut updates = updates(&etcd);
    state("what is there", &mut updates, &["10.0.0.1:1"]).await;
    etcd.put("services/cartoons/y", &value("10.0.0.9:2")).await;
    etcd.put(&key("b"), &value("10.0.0.2:1")).await;
    state("one more", &mut updates, &["10.0.0.1:1", "10.0.0.2:1"]).await;
    etcd.delete(&key("a")).await;
    state("one less", &mut updates, &["10.0.0.2:1"]).await;
    etcd.delete(&key("b")).await;
    state("nothing is a state", &mut updates, &[]).await;
}

#[tokio::test]
async fn an_empty_prefix_is_a_state_and_a_page_is_not_all() {
    let Some(etcd) = etcd_server::Etcd::start() else {
        return;
    };
    let mut nothing = updates(&etcd);
    state("there is nothing", &mut nothing, &[]).await;
    let puts = (0..1001).map(|n| {
        let (etcd, name) = (&etcd, format!("{n:04}"));
        async move { etcd.put(&key(&name), &value(&format!("a:{}", n + 1))).await }
    });
    futures::stream::iter(puts)
        .buffer_unordered(50)
        .collect::<()>()
        .await;
    let all = next("what is there", &mut updates(&etcd)).await.unwrap();
    assert_eq!(all.endpoints().len(), 1001, "more keys than an answer has");
}

#[tokio::test]
async fn another_weight_keeps_the_connection() {
    let Some(etcd) = etcd_server::Etcd::start() else {
        return;
    };
    let server = TestServer::builder("a", Behaviour::prompt()).start();
    let address = server.addr().to_string();
    etcd.put(&key("a"), &value(&address)).await;
    let target = format!("etcd://{}/services/cart", etcd.address());
    let channel = Channel::connect(target).unwrap();
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call", client.echo(EchoRequest::default())).await;
    assert_eq!(reply.unwrap().into_inner().server, "a");
    let heavy = format!(r#"{{"Addr":"{address}","Metadata":{{"weight":7}}}}"#);
    etcd.put(&key("a"), &heavy).await;
    eventually("the weight is another", || only(&channel).weight == 7).await;
    let reply = within("a call", client.echo(EchoRequest::default())).await;
    assert_eq!(reply.unwrap().into_inner().server, "a");
    assert_eq!(server.accepted(), 1, "the connection was left alone");
}

#[tokio::test]
async fn a_key_whose_lease_expires_is_gone() {
    let Some(etcd) = etcd_server::Etcd::start() else {
        return;
    };
    let lease = etcd.lease(1).await;
    etcd.put_under(&key("a"), &value("a:1"), lease).await;
    etcd.put(&key("b"), &value("b:1")).await;
    let mut updates = updates(&etcd);
    let before = state("both are there", &mut updates, &["a:1", "b:1"]).await;
    let after = state("the lease is over", &mut updates, &["b:1"]).await;
    assert!(before.len() == 2 && after.len() == 1);
}

#[tokio::test]
async fn a_value_that_cannot_be_read_keeps_the_last_good_form_and_is_told_once() {
    let Some(etcd) = etcd_server::Etcd::start() else {
        return;
    };
    etcd.put(&key("a"), &value("a:1")).await;
    let mut updates = updates(&etcd);
    state("what is there", &mut updates, &["a:1"]).await;
    etcd.put(&key("a"), r#"{"Addr":7}"#).await;
    let told = error("it is told", &mut updates).await;
    assert!(
        told.contains(&key("a")) && told.contains("Addr: is no string"),
        "the key and the field: {told}"
    );
    etcd.put(&key("a"), r#"{"Addr":7}"#).await;
    etcd.put(&key("b"), &value("b:1")).await;
    state(
        "told once, the old form stands",
        &mut updates,
        &["a:1", "b:1"],
    )
    .await;
    etcd.put(&key("a"), &value("a:2")).await;
    state("a good one counts", &mut updates, &["a:2", "b:1"]).await;
}

/// While nobody reads, nothing is asked; so a watch that begins behind a compaction is made by a server that is away.
#[tokio::test]
async fn an_etcd_that_goes_and_comes_keeps_the_last_state_and_a_compaction_is_read_over() {
    let Some(mut etcd) = etcd_server::Etcd::start() else {
        return;
    };
    etcd.put(&key("a"), &value("a:1")).await;
    etcd.put(&key("b"), &value("b:1")).await;
    let mut updates = updates(&etcd);
    state("what is there", &mut updates, &["a:1", "b:1"]).await;
    // The watch is begun by whoever reads on.
    etcd.put(&key("c"), &value("c:1")).await;
    state("it is watched", &mut updates, &["a:1", "b:1", "c:1"]).await;
    etcd.kill();
    let told = error("it is gone", &mut updates).await;
    assert!(told.contains(PREFIX), "the prefix is named: {told}");
    let more = tokio::time::timeout(Duration::from_millis(300), updates.next()).await;
    assert!(more.is_err(), "told once, and the state stands: {more:?}");
    etcd.restart();
    etcd.delete(&key("a")).await;
    etcd.put(&key("b"), &value("b:2")).await;
    etcd.compact().await;
    // The source may have been back before the changes, so there may be states between.
    let rule = "all that happened meanwhile";
    let last = within(rule, async {
        loop {
            let update = next(rule, &mut updates).await.expect(rule);
            let ids = update.endpoints().iter().map(|it| it.id().to_string());
            if ids.eq(["b:2", "c:1"]) {
                return update;
            }
        }
    })
    .await;
    assert_eq!(last.endpoints().len(), 2);
    etcd.put(&key("d"), &value("d:1")).await;
    state("it is watched again", &mut updates, &["b:2", "c:1", "d:1"]).await;
}

/// The watch is to begin at a revision that is compacted: the source sleeps in its first state while that happens.
#[tokio::test]
async fn a_watch_behind_a_compaction_reads_all_keys_again() {
    let Some(etcd) = etcd_server::Etcd::start() else {
        return;
    };
    etcd.put(&key("a"), &value("a:1")).await;
    etcd.put(&key("b"), &value("b:1")).await;
    let mut updates = updates(&etcd);
    let before = state("what is there", &mut updates, &["a:1", "b:1"]).await;
    etcd.delete(&key("a")).await;
    etcd.put(&key("c"), &value("c:1")).await;
    etcd.compact().await;
    let after = state("all is read again", &mut updates, &["b:1", "c:1"]).await;
    assert_eq!((before.len(), after.len()), (2, 2));
    etcd.put(&key("d"), &value("d:1")).await;
    state("it is watched", &mut updates, &["b:1", "c:1", "d:1"]).await;
}

#[tokio::test]
async fn an_etcd_that_lost_what_it_knew_is_read_anew() {
    let Some(mut etcd) = etcd_server::Etcd::start() else {
        return;
    };
    for name in ["a", "b", "c"] {
        etcd.put(&key(name), &value(&format!("{name}:1"))).await;
    }
    let mut updates = updates(&etcd);
    state("what is there", &mut updates, &["a:1", "b:1", "c:1"]).await;
    assert!(updates.next().now_or_never().is_none(), "nothing is new");
    etcd.kill();
    etcd.forget();
    error("it is gone", &mut updates).await;
    etcd.restart();
    // Revision 2, where the source has seen 4.
    etcd.put(&key("d"), &value("d:1")).await;
    state("what there is now", &mut updates, &["d:1"]).await;
}

#[tokio::test]
async fn a_registration_comes_and_goes_with_its_server() {
    let Some(etcd) = etcd_server::Etcd::start() else {
        return;
    };
    let server = TestServer::builder("a", Behaviour::prompt()).start();
    let channel = Channel::builder()
        .discovery(updates(&etcd))
        .build()
        .unwrap();
    let me = Endpoint::new(server.uri()).with_weight(3);
    let register = Register::new([etcd.address()], key("a"), me).with_backoff(soon());
    let registration = register.clone().start().unwrap();
    assert!(within("it is registered", registration.registered()).await);
    all_ready(&channel).await;
    assert_eq!(only(&channel).weight, 3, "with its settings");
    within("it is taken back", registration.deregister())
        .await
        .unwrap();
    let (_, gone) = etcd.get(&key("a")).await;
    assert_eq!(gone, None, "deregistered is gone");
    assert!(etcd.leases().await.is_empty(), "and its lease too");
    eventually("the channel knows", || {
        channel.report().endpoints.is_empty()
    })
    .await;
    let registration = register.start().unwrap();
    assert!(within("it is registered", registration.registered()).await);
    all_ready(&channel).await;
    drop(registration);
    eventually("dropped is gone", || channel.report().endpoints.is_empty()).await;
}

#[tokio::test]
async fn a_registration_outlives_its_ttl_and_the_loss_of_its_lease() {
    let Some(mut etcd) = etcd_server::Etcd::start() else {
        return;
    };
    let registration = Register::new([etcd.address()], key("a"), "a:1")
        .with_ttl(Duration::from_secs(1))
        .with_backoff(soon())
        .start()
        .unwrap();
    assert!(within("it is registered", registration.registered()).await);
    let mut updates = updates(&etcd);
    state("it is there", &mut updates, &["a:1"]).await;
    let more = tokio::time::timeout(Duration::from_secs(3), updates.next()).await;
    assert!(more.is_err(), "it is kept alive: {more:?}");
    let leases = etcd.leases().await;
    assert_eq!(leases.len(), 1, "one lease all the time");
    etcd.revoke(leases[0]).await;
    state("its lease is lost", &mut updates, &[]).await;
    state("it is registered again", &mut updates, &["a:1"]).await;
    etcd.kill();
    etcd.forget();
    etcd.restart();
    within("an etcd that forgot it is told again", async {
        while etcd.get(&key("a")).await.1.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_happened_at_once_is_one_state_however_large() {
    let Some(etcd) = etcd_server::Etcd::start() else {
        return;
    };
    let mut updates = updates(&etcd);
    state("there is nothing", &mut updates, &[]).await;
    // Nobody reads, so the watch begins behind all of these. etcd cuts what it sends at 1.5 MiB, after which the
    // message is not whole, and sends up to 1000 revisions at once.
    let pad = "x".repeat(8_000);
    let puts = (1..=600).map(|n| {
        let value = format!(r#"{{"Addr":"a:{n}","Metadata":{{"pad":"{pad}"}}}}"#);
        let (etcd, key) = (&etcd, key(&n.to_string()));
        async move { etcd.put(&key, &value).await }
    });
    futures::stream::iter(puts)
        .buffer_unordered(50)
        .collect::<()>()
        .await;
    let all = next("all of them", &mut updates).await.unwrap();
    assert_eq!(all.endpoints().len(), 600, "the parts are one state");
    etcd.delete(&key("1")).await;
    let rest = next("it is watched", &mut updates).await.unwrap();
    assert_eq!(rest.endpoints().len(), 599);
}

#[tokio::test]
async fn a_user_is_let_in_and_a_member_that_is_down_is_passed_over() {
    let Some(etcd) = etcd_server::Etcd::start() else {
        return;
    };
    etcd.put(&key("a"), &value("a:1")).await;
    etcd.require_root("secret").await;
    let dead = RefusedPort::reserve();
    let source = |password: &str| {
        Etcd::prefix([dead.addr().to_string(), etcd.address()], PREFIX)
            .with_backoff(soon())
            .with_user("root", password)
            .updates()
            .unwrap()
    };
    let told = error("a wrong password", &mut source("wrong")).await;
    assert!(
        told.contains("authentication failed"),
        "etcd's word: {told}"
    );
    assert!(
        !told.contains("wrong"),
        "passwords stay out of errors: {told}"
    );
    let told = error("no user", &mut updates(&etcd)).await;
    assert!(told.contains("user name is empty"), "etcd's word: {told}");
    let mut updates = source("secret");
    state("what is there", &mut updates, &["a:1"]).await;
    let registration = Register::new([etcd.address()], key("b"), "b:1")
        .with_user("root", "secret")
        .start()
        .unwrap();
    state("a server with a user", &mut updates, &["a:1", "b:1"]).await;
    within("it is taken back", registration.deregister())
        .await
        .unwrap();
    state("it is gone", &mut updates, &["a:1"]).await;
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_is_spoken_where_it_is_set() {
    use evenkeel::grpc::Tls;

    use crate::support::TestCa;

    let ca = TestCa::new();
    let identity = ca.server_identity(&["127.0.0.1"]);
    let Some(etcd) = etcd_server::Etcd::start_secure(&identity.certificate, &identity.key) else {
        return;
    };
    let source = |tls: Tls| {
        Etcd::prefix([etcd.secure_address()], PREFIX)
            .with_backoff(soon())
            .with_tls(tls)
            .updates()
            .unwrap()
    };
    let trusting = Tls::new().ca_certificate(ca.pem());
    let mut updates = source(trusting.clone());
    state("nothing is there", &mut updates, &[]).await;
    let registration = Register::new([etcd.secure_address()], key("a"), "a:1")
        .with_tls(trusting)
        .start()
        .unwrap();
    state("a server registers", &mut updates, &["a:1"]).await;
    drop(registration);
    state("it is gone", &mut updates, &[]).await;
    let stranger = Tls::new().ca_certificate(TestCa::new().pem());
    let told = error("nobody it trusts", &mut source(stranger)).await;
    assert!(told.contains("certificate"), "the cause is told: {told}");
}
