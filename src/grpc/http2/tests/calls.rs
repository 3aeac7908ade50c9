//! Calls to real servers.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tower_service::Service;

use super::peer::{request, soon};
use crate::Endpoint;
use crate::connection::{ConnectionEvents, Connector};
use crate::grpc::http2::{Http2, Http2Connector, Http2Settings};

/// A server that answers with what it saw: scheme, authority, path and body.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(|body| body.to_bytes());
                let body = body.unwrap_or_default();
                let text = format!("{} {}", head.uri, String::from_utf8_lossy(&body));
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
            });
            let io = TokioIo::new(stream);
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
        }
    });
    address
}

async fn connect(settings: Http2Settings, address: String) -> Http2 {
    let connector = Http2Connector::new(settings).expect("good settings");
    let dialled = connector.connect(&Endpoint::new(address), ConnectionEvents::detached());
    soon("a connection", dialled).await.expect("it connects")
}

async fn text(service: &mut Http2, request: Request<tonic::body::Body>) -> String {
    let response = soon("a response", service.call(request))
        .await
        .expect("a response");
    let body = soon("a body", response.into_body().collect()).await;
    let bytes = body.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_carries_the_endpoints_origin_and_its_own_path() {
    let address = echo().await;
    let mut service = connect(Http2Settings::default(), format!("http://{address}")).await;
    assert_eq!(
        text(&mut service, request("abc")).await,
        format!("http://{address}/p.S/M abc")
    );
    let mut elsewhere = request("abc");
    *elsewhere.uri_mut() = Uri::from_static("https://elsewhere:1/q?x=1");
    assert_eq!(
        text(&mut service, elsewhere).await,
        format!("http://{address}/q?x=1 abc"),
        "the endpoint's origin replaces any other"
    );
}

#[tokio::test]
async fn an_origin_of_the_settings_replaces_the_endpoints() {
    let address = echo().await;
    let mut settings = Http2Settings::default();
    settings.origin = Some(Uri::from_static("https://public.example:7"));
    let mut service = connect(settings, format!("http://{address}")).await;
    assert_eq!(
        text(&mut service, request("abc")).await,
        "https://public.example:7/p.S/M abc"
    );
}

#[tokio::test]
async fn all_settings_together_make_a_working_connection() {
    let address = echo().await;
    let second = std::time::Duration::from_secs(1);
    let mut settings = Http2Settings::default();
    settings.tcp_keepalive = Some(second);
    settings.tcp_keepalive_interval = Some(second);
    settings.tcp_keepalive_retries = Some(3);
    settings.tcp_connect_timeout = Some(10 * second);
    settings.happy_eyeballs_timeout = None;
    settings.local_address = Some(address.ip());
    settings.keep_alive_interval = Some(second);
    settings.keep_alive_while_idle = true;
    settings.initial_stream_window_bytes = Some(70_000);
    settings.initial_connection_window_bytes = Some(70_000);
    settings.max_frame_bytes = Some(20_000);
    settings.adaptive_window = true;
    let mut service = connect(settings, format!("http://{address}")).await;
    assert!(text(&mut service, request("abc")).await.ends_with(" abc"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_share_one_connection() {
    let address = echo().await;
    let service = connect(Http2Settings::default(), format!("http://{address}")).await;
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let mut service = service.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    assert!(text(&mut service, request("abc")).await.ends_with(" abc"));
                }
            })
        })
        .collect();
    for caller in callers {
        soon("a caller", caller).await.expect("all calls succeed");
    }
}
