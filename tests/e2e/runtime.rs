//! A channel whose runtime is gone.

use std::time::Duration;

use evenkeel::ConnectivityState;
use evenkeel::grpc::Channel;
use tokio::runtime::{Builder, Runtime};
use tonic::{Code, Request};

use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, SilentListener, TestServer, eventually, within};

fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

fn limited() -> Request<EchoRequest> {
    let mut request = Request::new(EchoRequest::default());
    request.set_timeout(Duration::from_secs(3600));
    request
}

#[test]
fn a_channel_whose_runtime_is_gone_is_unavailable_on_another() {
    let servers = runtime();
    let server = {
        let _context = servers.enter();
        TestServer::start("one", Behaviour::prompt())
    };
    let first = runtime();
    let channel = first.block_on(async {
        let builder = Channel::builder().endpoints([server.uri()]);
        let channel = builder.timeout(Duration::from_secs(3600)).build().unwrap();
        let mut client = DemoClient::new(channel.clone());
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        reply.expect("it works");
        channel
    });
    let mut client = DemoClient::new(channel.clone());
    // Begun while the runtime lives, polled when it is gone.
    let begun = client.echo(limited());
    first.shutdown_background();
    let second = runtime();
    second.block_on(async {
        eventually("the end is seen", || {
            channel.state() == ConnectivityState::Shutdown
        })
        .await;
        let status = within("a call that had begun", begun).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let mut client = DemoClient::new(channel.clone());
        for request in [limited(), Request::new(EchoRequest::default())] {
            let status = within("a call", client.echo(request)).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert!(
                status.message().contains("runtime"),
                "the message says what is gone: {status:?}"
            );
        }
        let mut state = channel.watch_state();
        assert_eq!(
            state.get(),
            ConnectivityState::Shutdown,
            "a watch of it says so"
        );
        let ready = within("no hang", state.wait_for(ConnectivityState::Ready)).await;
        assert!(!ready, "it will never be ready");
        let report = channel.report();
        assert_eq!(
            report.state,
            ConnectivityState::Shutdown,
            "so does a report"
        );
    });
    // Without any runtime: no panic either.
    let status = futures::executor::block_on(client.echo(limited())).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[test]
fn a_call_that_waits_learns_that_its_runtime_is_gone() {
    let servers = runtime();
    let nobody = {
        let _context = servers.enter();
        SilentListener::start()
    };
    let first = runtime();
    let channel = {
        let _context = first.enter();
        let builder = Channel::builder().endpoints([nobody.uri()]);
        builder.build().unwrap()
    };
    let second = runtime();
    let mut client = DemoClient::new(channel);
    let call = second.spawn(async move { client.echo(limited()).await });
    second.block_on(async {
        eventually("it is dialled", || nobody.open() == 1).await;
        first.shutdown_background();
        let status = within("the call ends", call).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    });
}

/// A channel may be used on any runtime while its own lives.
#[test]
fn a_channel_works_on_another_runtime_than_its_own() {
    let (servers, own, other) = (runtime(), runtime(), runtime());
    let server = {
        let _context = servers.enter();
        TestServer::start("one", Behaviour::prompt())
    };
    let channel = {
        let _context = own.enter();
        let builder = Channel::builder().endpoints([server.uri()]);
        builder.build().unwrap()
    };
    let mut client = DemoClient::new(channel);
    let reply = other.block_on(async { within("a call", client.echo(limited())).await });
    assert_eq!(
        reply.unwrap().into_inner().server,
        "one",
        "the call is answered"
    );
}
