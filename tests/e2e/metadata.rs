//! Metadata, and what the channel itself puts on a request.

use std::time::Duration;

use evenkeel::grpc::Channel;
use http::Uri;
use http_body_util::BodyExt;
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};
use tower::{Service, ServiceExt};

use crate::channel;
use crate::mirror::{Mirror, SEEN_URI};
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::within;

const BYTES: &[u8] = b"\x00\xff binary \x80";

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Option<&'a str> {
    metadata.get(key).map(|value| value.to_str().unwrap())
}

async fn seen(channel: Channel, request: Request<EchoRequest>) -> MetadataMap {
    let mut client = DemoClient::new(channel);
    let response = within("a call", client.echo(request)).await;
    response.unwrap().metadata().clone()
}

#[tokio::test]
async fn metadata_goes_both_ways() {
    let server = Mirror::start().await;
    let channel = channel(server.uri());
    let mut request = Request::new(EchoRequest::default());
    let metadata = request.metadata_mut();
    metadata.insert("x-text", "hello, world".parse().unwrap());
    metadata.append("x-many", "1".parse().unwrap());
    metadata.append("x-many", "2".parse().unwrap());
    metadata.insert_bin("x-raw-bin", MetadataValue::from_bytes(BYTES));
    let seen = seen(channel, request).await;
    assert_eq!(
        text(&seen, "x-text"),
        Some("hello, world"),
        "text is not changed on the way"
    );
    let many: Vec<_> = seen.get_all("x-many").iter().collect();
    assert_eq!(many, ["1", "2"], "values of one key keep their order");
    let raw = seen
        .get_bin("x-raw-bin")
        .expect("binary metadata comes back");
    assert_eq!(
        raw.to_bytes().unwrap(),
        BYTES,
        "binary metadata is not changed on the way"
    );
}

#[tokio::test]
async fn the_user_agent_names_the_program_and_the_library() {
    let server = Mirror::start().await;
    let own = concat!("evenkeel/", env!("CARGO_PKG_VERSION"));
    let plain = seen(channel(server.uri()), Request::new(EchoRequest::default())).await;
    assert_eq!(
        text(&plain, "x-seen-user-agent"),
        Some(own),
        "by default it is the library alone"
    );

    let named = Channel::builder()
        .endpoints([server.uri()])
        .user_agent("shop/1.2")
        .build()
        .unwrap();
    let prefixed = seen(named.clone(), Request::new(EchoRequest::default())).await;
    assert_eq!(
        text(&prefixed, "x-seen-user-agent"),
        Some(format!("shop/1.2 {own}").as_str()),
        "the program's name comes first"
    );

    let mut request = Request::new(EchoRequest::default());
    let metadata = request.metadata_mut();
    metadata.insert("user-agent", "of the request".parse().unwrap());
    let kept = seen(named, request).await;
    assert_eq!(
        text(&kept, "x-seen-user-agent"),
        Some("of the request"),
        "a request keeps its own"
    );
}

#[tokio::test]
async fn requests_carry_the_endpoints_authority_or_the_origin() {
    let server = Mirror::start().await;
    let plain = seen(channel(server.uri()), Request::new(EchoRequest::default())).await;
    let path = "/evenkeel.demo.v1.Demo/Echo";
    assert_eq!(
        text(&plain, SEEN_URI),
        Some(format!("{}{path}", server.uri()).as_str()),
        "by default the authority is the endpoint's"
    );

    let channel = Channel::builder()
        .endpoints([server.uri()])
        .origin(Uri::from_static("https://shop.example:443"))
        .build()
        .unwrap();
    let origin = seen(channel, Request::new(EchoRequest::default())).await;
    assert_eq!(
        text(&origin, SEEN_URI),
        Some(format!("https://shop.example:443{path}").as_str()),
        "the origin takes the place of the endpoint's scheme and authority"
    );
}

#[tokio::test]
async fn the_callers_timeout_reaches_the_server() {
    let server = Mirror::start().await;
    let mut request = Request::new(EchoRequest::default());
    request.set_timeout(Duration::from_secs(5));
    let seen = seen(channel(server.uri()), request).await;
    assert!(
        seen.get("x-seen-grpc-timeout").is_some(),
        "grpc-timeout is passed on: {seen:?}"
    );
}

/// A channel is a tower service: any HTTP request can go through it.
#[tokio::test]
async fn a_request_without_a_generated_client() {
    let server = Mirror::start().await;
    let mut channel = channel(server.uri());
    let request = http::Request::post("/no.such.Service/Method")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::empty())
        .unwrap();
    let ready = within("always ready", channel.ready()).await.unwrap();
    let response = within("a call", ready.call(request)).await.unwrap();
    assert_eq!(
        response.headers()["grpc-status"],
        "12",
        "the server's UNIMPLEMENTED comes as it is"
    );
    let body = within("the body", response.into_body().collect()).await;
    assert!(
        body.unwrap().to_bytes().is_empty(),
        "nothing comes with a status alone"
    );
}
