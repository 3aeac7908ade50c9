//! Connections that are replaced because they are old, over real servers.

use std::time::Duration;

use evenkeel::grpc::Channel;
use evenkeel::math::Backoff;

use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, TestServer, eventually, within};

#[tokio::test]
async fn an_old_connection_is_replaced_and_no_call_is_lost() {
    let server = TestServer::start("a", Behaviour::after(Duration::from_millis(2)));
    let channel = Channel::builder()
        .endpoints([server.uri()])
        .max_connection_age(Duration::from_millis(50))
        .backoff(Backoff::default().with_base(Duration::from_millis(10)))
        .build()
        .unwrap();
    let callers = (0..8).map(|_| {
        let mut client = DemoClient::new(channel.clone());
        async move {
            for _ in 0..100 {
                let reply = within("a call", client.echo(EchoRequest::default())).await;
                reply.expect("calls under way finish, and new ones go by the next connection");
            }
        }
    });
    futures::future::join_all(callers).await;
    assert!(server.accepted() >= 3, "{} connections", server.accepted());
    eventually("the old ones are closed", || server.open() <= 1).await;
}
