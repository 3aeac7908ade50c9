//! A server that goes silent without closing its connection is noticed by pings.
//!
//! In paused time, over pipes in memory: no ping is late because the machine is busy.

use std::sync::Arc;
use std::time::Duration;

use evenkeel::grpc::Channel;
use evenkeel::math::Backoff;
use tonic::Code;

use crate::proxy::Proxy;
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, Method, TestServer, eventually, within};
use crate::{is_ready, only, ready};

fn channel(proxy: &Proxy, while_idle: bool) -> Channel {
    proxy
        .channel()
        .http2_with(|http2| {
            http2.keep_alive_interval = Some(Duration::from_millis(50));
            http2.keep_alive_timeout = Duration::from_millis(500);
            http2.keep_alive_while_idle = while_idle;
        })
        .connect_timeout(Duration::from_millis(500))
        .backoff(Backoff::default().with_base(Duration::from_millis(10)))
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_goes_silent_is_given_up_and_made_anew() {
    let server = Arc::new(TestServer::start("one", Behaviour::prompt()));
    let proxy = Proxy::to(&server);
    let channel = channel(&proxy, true);
    ready(&channel).await;
    proxy.freeze(true);
    eventually("pings find out", || !is_ready(&only(&channel))).await;
    assert_eq!(server.total().started, 0, "no call was needed to find out");
    proxy.freeze(false);
    ready(&channel).await;
    let mut client = DemoClient::new(channel);
    let reply = within("a call", client.echo(EchoRequest::default())).await;
    reply.expect("the new connection works");
}

#[tokio::test(start_paused = true)]
async fn a_call_on_a_connection_that_goes_silent_is_unavailable() {
    let server = Arc::new(TestServer::start("one", Behaviour::silent()));
    let proxy = Proxy::to(&server);
    let channel = channel(&proxy, false);
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    let call = tokio::spawn(async move { client.echo(EchoRequest::default()).await });
    eventually("the call reaches the server", || {
        server.calls(Method::Echo).started == 1
    })
    .await;
    proxy.freeze(true);
    let status = within("pings find out", call).await.unwrap().unwrap_err();
    assert_eq!(
        status.code(),
        Code::Unavailable,
        "the connection is lost, and the call with it: {status:?}"
    );
    let report = only(&channel);
    assert_eq!((report.failures, report.in_flight), (1, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_on_a_live_connection_is_left_alone() {
    let slow = Behaviour::after(Duration::from_millis(800));
    let server = Arc::new(TestServer::start("slow", slow));
    let proxy = Proxy::to(&server);
    let channel = channel(&proxy, false);
    let mut client = DemoClient::new(channel);
    let reply = within("a call", client.echo(EchoRequest::default())).await;
    reply.expect("answered pings keep a connection, however long the call takes");
    assert_eq!(server.accepted(), 1, "it is still the first connection");
}
