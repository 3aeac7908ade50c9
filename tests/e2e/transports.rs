//! Other transports than TCP.

use std::io;

use evenkeel::grpc::Channel;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Code;
use tower::service_fn;

use crate::mirror::Mirror;
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, TestServer, eventually, within};
use crate::{failing, only, ready};

async fn echo(channel: &Channel) -> Result<String, tonic::Status> {
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call", client.echo(EchoRequest::default())).await?;
    Ok(reply.into_inner().server)
}

#[tokio::test]
async fn a_unix_socket() {
    let directory = tempdir();
    let path = directory.0.join("demo.sock");
    let server = TestServer::builder("unix", Behaviour::prompt())
        .unix(&path)
        .start();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let channel = Channel::builder()
        .endpoints(["http://localhost"])
        .connector(connector)
        .backoff(evenkeel::math::Backoff::default().with_base(std::time::Duration::from_millis(5)))
        .build()
        .unwrap();
    assert_eq!(
        echo(&channel).await.unwrap(),
        "unix",
        "the socket is called"
    );
    server.kill().await;
    failing(&channel).await;
    server.restart().await;
    ready(&channel).await;
    assert_eq!(echo(&channel).await.unwrap(), "unix", "it is dialled again");
    drop(channel);
    eventually("the connection closes", || server.open() == 0).await;
}

#[tokio::test]
async fn a_pipe_in_memory() {
    let (_mirror, server) = Mirror::in_memory();
    let connector = service_fn(move |uri: Uri| {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let sent = server.send(far).map_err(io::Error::other);
        async move {
            assert_eq!(uri.host(), Some("memory"), "it is told where to");
            sent.map(|()| TokioIo::new(near))
        }
    });
    let channel = Channel::builder()
        .endpoints(["http://memory:1"])
        .connector(connector)
        .build()
        .unwrap();
    for _ in 0..100 {
        assert_eq!(
            echo(&channel).await.unwrap(),
            "mirror",
            "the pipe is called"
        );
    }
    // More than the pipe holds.
    let mut client = DemoClient::new(channel.clone());
    let request = EchoRequest {
        payload: vec![3; 1 << 20].into(),
        ..EchoRequest::default()
    };
    let reply = within("a call", client.echo(request)).await.unwrap();
    assert_eq!(
        reply.into_inner().payload.len(),
        1 << 20,
        "it comes back whole"
    );
    assert_eq!(only(&channel).failures, 0, "nothing failed on the way");
}

#[tokio::test]
async fn a_connector_that_fails_is_quoted() {
    let connector = service_fn(|_: Uri| async {
        Err::<TokioIo<UnixStream>, _>(io::Error::other("the tunnel is closed"))
    });
    let channel = Channel::builder()
        .endpoints(["http://memory:1"])
        .connector(connector)
        .build()
        .unwrap();
    let status = echo(&channel).await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::Unavailable,
        "there is no endpoint: {status:?}"
    );
    assert!(
        status.message().contains("the tunnel is closed"),
        "the connector's own words are in the message: {status:?}"
    );
}

struct TempDir(std::path::PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        // What is left is an empty directory of the build.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Short, since the path of a Unix socket may have no more than 107 bytes.
fn tempdir() -> TempDir {
    let name = format!("evenkeel-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&path).unwrap();
    TempDir(path)
}
