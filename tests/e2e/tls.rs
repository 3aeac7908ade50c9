//! TLS with an authority of the test's own.

use evenkeel::Endpoint;
use evenkeel::grpc::{Channel, Tls};
use tonic::{Code, Status};

use crate::ready;
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::tls::ServerTls;
use crate::support::{Behaviour, RefusedPort, TestCa, TestServer, within};

fn server(tls: ServerTls) -> TestServer {
    TestServer::builder("secret", Behaviour::prompt())
        .tls(tls)
        .start()
}

fn channel(uri: String, tls: Tls) -> Channel {
    Channel::builder()
        .endpoints([uri])
        .tls(tls)
        .build()
        .unwrap()
}

async fn echo(channel: &Channel) -> Result<String, Status> {
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call", client.echo(EchoRequest::default())).await?;
    Ok(reply.into_inner().server)
}

/// The call fails, and says why.
async fn refused(rule: &str, channel: Channel, why: &str) {
    let status = echo(&channel).await.expect_err(rule);
    assert_eq!(status.code(), Code::Unavailable, "{rule}: {status:?}");
    let message = status.message();
    assert!(
        message.contains("last connect error") && message.contains(why),
        "{rule}; the message names the TLS error ({why}): {message}"
    );
}

#[tokio::test]
async fn a_server_of_a_trusted_authority_is_called() {
    let ca = TestCa::new();
    let server = server(ca.server_tls());
    let channel = channel(server.uri(), Tls::new().ca_certificate(ca.pem()));
    for _ in 0..10 {
        assert_eq!(
            echo(&channel).await.unwrap(),
            "secret",
            "a trusted server answers"
        );
    }
    assert_eq!(server.accepted(), 1, "by one connection");
}

#[tokio::test]
async fn tls_is_spoken_at_the_address_that_answers() {
    let ca = TestCa::new();
    let (dead, server) = (RefusedPort::reserve(), server(ca.server_tls()));
    let endpoint = Endpoint::new(format!("https://{}", dead.addr()));
    let channel = Channel::builder()
        .endpoints([endpoint.with_addresses([server.uri()])])
        .tls(Tls::new().ca_certificate(ca.pem()))
        .build()
        .unwrap();
    assert_eq!(echo(&channel).await.unwrap(), "secret");
}

#[tokio::test]
async fn a_name_in_place_of_the_address() {
    let ca = TestCa::new();
    let server = server(ca.server_tls_for(&["shop.example"]));
    let trusting = || Tls::new().ca_certificate(ca.pem());
    refused(
        "a certificate for another name is refused",
        channel(server.uri(), trusting()),
        "not valid for name",
    )
    .await;
    let named = channel(server.uri(), trusting().domain_name("shop.example"));
    assert_eq!(
        echo(&named).await.unwrap(),
        "secret",
        "the name that is asked for is the one that is set"
    );
    refused(
        "the wrong name is refused",
        channel(server.uri(), trusting().domain_name("bank.example")),
        "not valid for name",
    )
    .await;
}

#[tokio::test]
async fn an_authority_that_nobody_trusts() {
    let server = server(TestCa::new().server_tls());
    let other = TestCa::new();
    refused(
        "a certificate of another authority is refused",
        channel(server.uri(), Tls::new().ca_certificate(other.pem())),
        "invalid peer certificate",
    )
    .await;
}

#[tokio::test]
async fn mutual_tls() {
    let ca = TestCa::new();
    let server = server(ca.mutual_tls());
    let trusting = || Tls::new().ca_certificate(ca.pem());

    let me = ca.client_identity("me");
    let known = channel(server.uri(), trusting().identity(me.certificate, me.key));
    assert_eq!(
        echo(&known).await.unwrap(),
        "secret",
        "a client that the authority knows is let in"
    );

    refused(
        "a client without a certificate is turned away",
        channel(server.uri(), trusting()),
        "CertificateRequired",
    )
    .await;

    let stranger = TestCa::new().client_identity("stranger");
    let unknown = trusting().identity(stranger.certificate, stranger.key);
    refused(
        "a client of another authority is turned away",
        channel(server.uri(), unknown),
        "received fatal alert",
    )
    .await;
}

#[tokio::test]
async fn tls_and_plaintext_do_not_mix() {
    let ca = TestCa::new();
    let plain = TestServer::start("plain", Behaviour::prompt());
    refused(
        "a plaintext server is no TLS server",
        channel(plain.uri(), Tls::new().ca_certificate(ca.pem())),
        "the TLS handshake",
    )
    .await;

    let secure = server(ca.server_tls());
    let plaintext = Channel::builder()
        .endpoints([format!("http://{}", secure.addr())])
        .build()
        .unwrap();
    refused(
        "a TLS server does not speak plaintext",
        plaintext,
        "the HTTP/2 handshake",
    )
    .await;
}

#[tokio::test]
async fn a_server_that_comes_back_is_greeted_anew() {
    let ca = TestCa::new();
    let server = server(ca.server_tls());
    let channel = Channel::builder()
        .endpoints([server.uri()])
        .tls(Tls::new().ca_certificate(ca.pem()))
        .backoff(evenkeel::math::Backoff::default().with_base(std::time::Duration::from_millis(5)))
        .build()
        .unwrap();
    assert_eq!(
        echo(&channel).await.unwrap(),
        "secret",
        "before it is killed"
    );
    server.kill().await;
    crate::failing(&channel).await;
    server.restart().await;
    ready(&channel).await;
    assert_eq!(echo(&channel).await.unwrap(), "secret", "and after");
}
