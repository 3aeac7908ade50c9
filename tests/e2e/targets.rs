//! Channels by gRPC's names.

use std::collections::BTreeSet;

use evenkeel::discovery::{Target, Targets, Update};
use evenkeel::grpc::Channel;
use evenkeel::policy::RoundRobin;
use evenkeel::{BoxError, ConnectivityState};
use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::Status;
use tower::service_fn;

use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, TestServer, all_ready, eventually, within};

async fn echo(channel: &Channel) -> Result<String, Status> {
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call", client.echo(EchoRequest::default())).await?;
    Ok(reply.into_inner().server)
}

/// A name that no other process and no other test uses.
#[cfg(unix)]
fn name(of: &str) -> String {
    format!("evenkeel-{of}-{}", std::process::id())
}

#[tokio::test]
async fn a_list_of_hosts_is_called() {
    let servers = ["a", "b"].map(|name| TestServer::builder(name, Behaviour::prompt()).start());
    let [a, b] = [servers[0].addr().port(), servers[1].addr().port()];
    for target in [
        format!("static:///127.0.0.1:{a},localhost:{b}"),
        format!("ipv4:127.0.0.1:{a},127.0.0.1:{b}"),
    ] {
        let channel = Channel::builder()
            .target(&target)
            .policy(RoundRobin::default())
            .build()
            .unwrap();
        all_ready(&channel).await;
        let mut answers = BTreeSet::new();
        for _ in 0..4 {
            answers.insert(echo(&channel).await.unwrap());
        }
        assert_eq!(answers.len(), 2, "{target}: both are called");
    }
    let channel = Channel::connect(format!("static:///localhost:{a}")).unwrap();
    assert_eq!(echo(&channel).await.unwrap(), "a", "one line is enough");
}

#[tokio::test]
async fn a_target_that_cannot_be_is_an_error_of_build_unless_another_source_takes_its_place() {
    for (target, why) in [
        ("static:///a:0", "port"),
        ("http://a:1", "scheme http, which is not known"),
        ("xds:///a", "no source for the scheme xds"),
    ] {
        let error = Channel::connect(target).expect_err(target);
        assert_eq!(error.field(), Some("target"), "{error}");
        assert!(error.to_string().contains(why), "{target}: {error}");
        let channel = Channel::builder()
            .target(target)
            .endpoints(["http://127.0.0.1:1"]);
        assert!(
            channel.build().is_ok(),
            "the list takes the place of {target}"
        );
        let list = Channel::builder()
            .endpoints(["http://127.0.0.1:1"])
            .target(target);
        assert!(
            list.build().is_err(),
            "{target} takes the place of the list"
        );
    }
}

#[test]
fn without_a_runtime_it_is_an_error() {
    let error = Channel::connect("static:///a").expect_err("no runtime is here");
    assert_eq!(error.field(), Some("runtime"), "{error}");
}

#[tokio::test]
async fn a_scheme_of_ones_own_is_given_to_the_builder() {
    let server = TestServer::builder("own", Behaviour::prompt()).start();
    let uri = server.uri();
    let targets = Targets::new()
        .with_scheme("registry", move |target: &Target| match target.name() {
            "demo" => Ok(futures::stream::iter([Ok::<_, BoxError>(Update::new([
                uri.clone(),
            ]))])),
            _ => Err("it is not registered".into()),
        })
        .unwrap();
    let channel = Channel::builder().target_by(&targets, "registry:///demo");
    assert_eq!(echo(&channel.build().unwrap()).await.unwrap(), "own");
    let error = Channel::builder()
        .target_by(&targets, "registry:///other")
        .build();
    let error = error.expect_err("it is unknown there");
    assert!(
        error.to_string().contains("it is not registered"),
        "{error}"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn unix_sockets_are_dialled_and_dialled_again() {
    let path = std::env::temp_dir().join(name("path"));
    #[cfg(target_os = "linux")]
    let abstract_name = name("abstract");
    for (socket, target) in [
        (path.clone(), format!("unix://{}", path.display())),
        (path.clone(), format!("unix:{}", path.display())),
        #[cfg(target_os = "linux")]
        (
            format!("\0{abstract_name}").into(),
            format!("unix-abstract:{abstract_name}"),
        ),
    ] {
        let server = TestServer::builder("unix", Behaviour::prompt())
            .unix(&socket)
            .start();
        let channel = Channel::builder()
            .target(&target)
            .backoff(
                evenkeel::math::Backoff::default().with_base(std::time::Duration::from_millis(5)),
            )
            .build()
            .unwrap();
        assert_eq!(echo(&channel).await.unwrap(), "unix", "{target}");
        server.kill().await;
        crate::failing(&channel).await;
        let error = echo(&channel).await.expect_err("nobody listens");
        assert!(
            error.message().contains(&format!(
                "dialling {} failed",
                channel.report().endpoints[0].id
            )),
            "the message names the socket: {error}"
        );
        server.restart().await;
        crate::ready(&channel).await;
        assert_eq!(echo(&channel).await.unwrap(), "unix", "{target}");
        drop(channel);
        eventually("the connection closes", || server.open() == 0).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_stands_alone_and_is_not_for_a_transport_of_ones_own() {
    let beside = evenkeel::Endpoint::new("unix:/run/a").with_addresses(["http://127.0.0.1:1"]);
    for endpoint in [
        beside,
        "unix:".into(),
        "unix://a".into(),
        "unix-abstract:".into(),
    ] {
        let shown = format!("{endpoint:?}");
        let error = Channel::builder().endpoints([endpoint]).build();
        assert_eq!(
            error.expect_err(&shown).field(),
            Some("endpoints"),
            "{shown}"
        );
    }
    let pipe = || {
        service_fn(|_: Uri| async {
            Err::<TokioIo<tokio::io::DuplexStream>, _>(std::io::Error::other("closed"))
        })
    };
    let error = Channel::builder()
        .endpoints(["unix:/run/a"])
        .connector(pipe())
        .build();
    assert_eq!(
        error.expect_err("it takes hosts").field(),
        Some("endpoints")
    );
    // From a stream it comes when the channel is there already.
    let channel = Channel::builder()
        .target("unix:/run/a")
        .connector(pipe())
        .build()
        .unwrap();
    crate::failing(&channel).await;
    assert_eq!(channel.state(), ConnectivityState::TransientFailure);
    let error = channel.report().endpoints[0].last_error.clone().unwrap();
    assert!(error.contains("connector() takes hosts"), "{error}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_is_spoken_where_it_is_set_and_wants_the_targets_host() {
    use crate::support::TestCa;
    use evenkeel::grpc::Tls;

    let ca = TestCa::new();
    let server = TestServer::builder("secret", Behaviour::prompt())
        .tls(ca.server_tls())
        .start();
    let tls = || Tls::new().ca_certificate(ca.pem());
    for host in ["localhost", "127.0.0.1"] {
        let target = format!("static:///{host}:{}", server.addr().port());
        let channel = Channel::builder()
            .target(target)
            .tls(tls())
            .build()
            .unwrap();
        assert_eq!(echo(&channel).await.unwrap(), "secret", "{host}");
    }
}
