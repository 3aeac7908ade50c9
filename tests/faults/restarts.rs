//! Every server is restarted in turn, gracefully, under load: no call fails.
//!
//! 300 restarts over six tests: handlers of 0, 1 and 5 ms, plaintext and TLS. A restart is GOAWAY,
//! the end of the calls under way, a closed port, and a new server on the same port. The next one
//! begins when the channel has the endpoint READY on a new connection.

use std::time::Duration;

use evenkeel::grpc::Channel;

#[cfg(feature = "tls")]
use crate::load::prompt_backoff;
use crate::load::{Kind, Load, assert_none_failed, in_turn, is_ready, ready, three, turn};
use crate::support::{Behaviour, TestServer, eventually};

const RESTARTS: usize = 50;

/// Small calls of all four kinds, and requests and replies of 64 KiB. All within the replay limit.
fn mix(caller: usize) -> Kind {
    match caller % 8 {
        0 => Kind::ClientStream(64 * 1024),
        1 => Kind::ServerStream,
        2 => Kind::ClientStream(100),
        3 => Kind::BidiStream,
        4 => Kind::Echo(64 * 1024),
        _ => Kind::Echo(100),
    }
}

async fn restart_all(servers: &[TestServer], channel: Channel) {
    let _turn = turn().await;
    ready(&channel, servers).await;
    let load = Load::mixed(&channel, mix);
    load.runs(200).await;
    for server in servers.iter().cycle().take(RESTARTS) {
        let before = server.accepted();
        assert!(
            server.shutdown().await,
            "calls under way end by themselves, and then so does the server"
        );
        server.restart().await;
        eventually("the channel is connected to the new server", || {
            server.accepted() > before && is_ready(&channel, server)
        })
        .await;
        // The new connection carries calls before the next server goes.
        load.runs(20).await;
    }
    let log = load.stop().await;
    println!("{RESTARTS} restarts under {} calls", log.ok());
    assert_none_failed("no call fails in a graceful restart", &log.take_failures());
    for server in servers {
        eventually("no call is left", || server.total().in_flight() == 0).await;
    }
}

async fn plaintext(delay: Duration) {
    let servers = three(Behaviour::after(delay));
    restart_all(&servers, in_turn(&servers)).await;
}

#[cfg(feature = "tls")]
async fn tls(delay: Duration) {
    let ca = crate::support::TestCa::new();
    let servers = ["a", "b", "c"].map(|name| {
        TestServer::builder(name, Behaviour::after(delay))
            .tls(ca.server_tls())
            .start()
    });
    // The default policy here, the exact one above.
    let channel = Channel::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .tls(evenkeel::grpc::Tls::new().ca_certificate(ca.pem()))
        .backoff(prompt_backoff())
        .build()
        .unwrap();
    restart_all(&servers, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_with_prompt_handlers() {
    plaintext(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_with_handlers_of_1_ms() {
    plaintext(Duration::from_millis(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_with_handlers_of_5_ms() {
    plaintext(Duration::from_millis(5)).await;
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_with_prompt_handlers_over_tls() {
    tls(Duration::ZERO).await;
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_with_handlers_of_1_ms_over_tls() {
    tls(Duration::from_millis(1)).await;
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_with_handlers_of_5_ms_over_tls() {
    tls(Duration::from_millis(5)).await;
}
