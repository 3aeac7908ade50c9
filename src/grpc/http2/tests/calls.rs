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
use crate::connection::{ConnectionEvents, Connector};
use crate::endpoint::Endpoint;
use crate::grpc::http2::{Http2, Http2Connector, Http2Settings};

/// A server that answers with what it saw: scheme, authority, path and body.
pub(super) async fn echo() -> SocketAddr {
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

pub(super) async fn text(service: &mut Http2, request: Request<tonic::body::Body>) -> String {
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
        format!("http://{address}/p.S/M abc"),
        "the path stays"
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
    let settings = Http2Settings {
        origin: Some(Uri::from_static("https://public.example:7")),
        ..Http2Settings::default()
    };
    let mut service = connect(settings, format!("http://{address}")).await;
    assert_eq!(
        text(&mut service, request("abc")).await,
        "https://public.example:7/p.S/M abc",
        "the origin takes the place of the address"
    );
}

#[tokio::test]
async fn all_settings_together_make_a_working_connection() {
    let address = echo().await;
    let second = std::time::Duration::from_secs(1);
    let settings = Http2Settings {
        tcp_keepalive: Some(second),
        tcp_keepalive_interval: Some(second),
        tcp_keepalive_retries: Some(3),
        tcp_connect_timeout: Some(10 * second),
        connection_attempt_delay: None,
        local_address: Some(address.ip()),
        keep_alive_interval: Some(second),
        keep_alive_while_idle: true,
        initial_stream_window_bytes: Some(70_000),
        initial_connection_window_bytes: Some(70_000),
        max_frame_bytes: Some(20_000),
        adaptive_window: true,
        ..Http2Settings::default()
    };
    let mut service = connect(settings, format!("http://{address}")).await;
    assert!(
        text(&mut service, request("abc")).await.ends_with(" abc"),
        "a connection with these settings works"
    );
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
                    assert!(
                        text(&mut service, request("abc")).await.ends_with(" abc"),
                        "each gets its answer"
                    );
                }
            })
        })
        .collect();
    for caller in callers {
        soon("a caller", caller).await.expect("all calls succeed");
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn https_speaks_tls_and_says_so() {
    use crate::grpc::Tls;

    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (pem, key_pem) = (key.cert.pem(), key.signing_key.serialize_pem());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let identity = tonic::transport::Identity::from_pem(&pem, key_pem);
    let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
    let seen = tower::service_fn(|request: Request<tonic::body::Body>| async move {
        let scheme = request.uri().scheme_str().unwrap_or("none").to_owned();
        let body = tonic::body::Body::new(Full::new(Bytes::from(scheme)));
        Ok::<_, Infallible>(Response::new(body))
    });
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let routes = tonic::service::Routes::default();
    let builder = tonic::transport::Server::builder().tls_config(tls).unwrap();
    let server = builder
        .layer(tower::layer::layer_fn(move |_| seen))
        .add_routes(routes)
        .serve_with_incoming(incoming);
    tokio::spawn(server);

    let connector = |tls: Tls| {
        Http2Connector::new(Http2Settings::default())
            .and_then(|connector| connector.with_tls(&tls))
            .expect("good settings")
    };
    let trusting = connector(Tls::new().ca_certificate(&pem));
    // TLS that was asked for is spoken whatever the address says.
    for scheme in ["https", "http"] {
        let endpoint = Endpoint::new(format!("{scheme}://localhost:{port}"));
        let dialled = trusting.connect(&endpoint, ConnectionEvents::detached());
        let mut service = soon("a connection", dialled).await.expect("it connects");
        assert_eq!(
            text(&mut service, request("")).await,
            "https",
            "over {scheme}"
        );
    }
    let strange = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let wary = connector(Tls::new().ca_certificate(strange.cert.pem()));
    let endpoint = Endpoint::new(format!("https://localhost:{port}"));
    let dialled = wary.connect(&endpoint, ConnectionEvents::detached());
    let error = soon("the refusal", dialled).await.expect_err("not trusted");
    let error = error.to_string();
    assert!(error.contains("TLS handshake"), "the step: {error}");
    assert!(error.contains("certificate"), "the reason: {error}");
}

/// After how many requests [`ends_soon`] ends the `n`th connection.
fn requests_of(n: usize) -> usize {
    1 + n % 20
}

/// A server that ends each connection gracefully, while calls are under way.
async fn ends_soon() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for n in 0.. {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            let (seen, mut requests) = tokio::sync::watch::channel(0);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                seen.send_modify(|seen| *seen += 1);
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    Ok::<_, hyper::Error>(Response::new(Full::new(body)))
                }
            });
            let io = TokioIo::new(stream);
            tokio::spawn(async move {
                let builder = http2::Builder::new(TokioExecutor::new());
                let mut connection = std::pin::pin!(builder.serve_connection(io, service));
                tokio::select! {
                    _ = connection.as_mut() => return,
                    _ = requests.wait_for(|seen| *seen >= requests_of(n)) => {}
                }
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_closes_gracefully_loses_no_call() {
    use crate::call::Reclaim;
    use tokio::sync::Mutex;

    const CONNECTIONS: usize = 100;
    let address = format!("http://{}", ends_soon().await);
    let connector = Http2Connector::new(Http2Settings::default()).expect("good settings");
    let first = connect(Http2Settings::default(), address.clone()).await;
    let shared = std::sync::Arc::new(Mutex::new((first, 1)));
    // One service for all callers, dialled anew by whoever finds it closed.
    let callers = (0..8).map(|_| {
        let (shared, connector, address) = (shared.clone(), connector.clone(), address.clone());
        tokio::spawn(async move {
            let mut calls = 0;
            loop {
                let mut current = request("abc");
                let response = loop {
                    let mut service = {
                        let mut shared = shared.lock().await;
                        if shared.1 == CONNECTIONS {
                            return calls;
                        }
                        let ready = std::future::poll_fn(|cx| shared.0.poll_ready(cx));
                        if ready.await.is_err() {
                            let events = ConnectionEvents::detached();
                            let endpoint = Endpoint::new(address.clone());
                            let dialled = connector.connect(&endpoint, events);
                            let dialled = soon("a connection", dialled).await;
                            *shared = (dialled.expect("it connects"), shared.1 + 1);
                        }
                        shared.0.clone()
                    };
                    match soon("a response", service.call(current)).await {
                        Ok(response) => break response,
                        Err(error) => {
                            current = error
                                .reclaim()
                                .expect("a call without an answer was not processed");
                        }
                    }
                };
                let body = soon("a body", response.into_body().collect()).await;
                let bytes = body.expect("a response that began ends well").to_bytes();
                assert_eq!(bytes, "abc", "the whole request arrived");
                calls += 1;
            }
        })
    });
    let mut calls = 0;
    for caller in callers.collect::<Vec<_>>() {
        calls += soon("a caller", caller).await.expect("no call is lost");
    }
    let processed = (0..CONNECTIONS - 1).map(requests_of).sum::<usize>();
    assert!(
        calls >= processed,
        "{calls} calls, of which the servers that closed took {processed} at least"
    );
}
