//! The servers of the other tests do what they are told.

pub mod support;

use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::stream;
use support::proto::demo_client::DemoClient;
use support::proto::{EchoReply, EchoRequest};
use support::tls::Identity;
use support::{
    Behaviour, Method, RefusedPort, SilentListener, TestCa, TestServer, eventually, within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status, Streaming};

type Client = DemoClient<Channel>;

async fn client(server: &TestServer) -> Client {
    connect(Endpoint::from_shared(server.uri()).unwrap())
        .await
        .expect("a running server can be reached")
}

async fn connect(endpoint: Endpoint) -> Result<Client, tonic::transport::Error> {
    let channel = within("a client connects or fails", endpoint.connect()).await?;
    Ok(DemoClient::new(channel))
}

fn request(message: &str) -> EchoRequest {
    EchoRequest {
        message: message.into(),
        payload: vec![7; 3].into(),
        replies: 3,
    }
}

async fn echo(client: &mut Client) -> Result<EchoReply, Status> {
    let response = within("a call ends", client.echo(request("hello"))).await?;
    Ok(response.into_inner())
}

/// A call that waits for a server, begun by the time this returns.
async fn echo_in_flight(
    client: &Client,
    server: &TestServer,
) -> tokio::task::JoinHandle<Result<EchoReply, Status>> {
    let mut client = client.clone();
    let before = server.calls(Method::Echo).started;
    let call = tokio::spawn(async move { echo(&mut client).await });
    eventually("the call reaches the server", || {
        server.calls(Method::Echo).started > before
    })
    .await;
    call
}

#[tokio::test]
async fn each_method_echoes_and_is_counted() {
    let server = TestServer::start("one", Behaviour::prompt());
    let mut client = client(&server).await;

    let reply = echo(&mut client).await.unwrap();
    assert_eq!(
        (
            reply.server.as_str(),
            reply.message.as_str(),
            &*reply.payload,
            reply.count
        ),
        ("one", "hello", &[7, 7, 7][..], 1),
        "Echo returns what it was sent, and the server's name"
    );

    let mut replies = client
        .server_stream(request("s"))
        .await
        .unwrap()
        .into_inner();
    for count in 1..=3 {
        let reply = within("a reply comes", replies.message()).await.unwrap();
        assert_eq!(reply.unwrap().count, count, "replies are numbered from 1");
    }
    let end = within("the stream ends", replies.message()).await.unwrap();
    assert_eq!(
        end, None,
        "a stream ends after the replies it was asked for"
    );

    let requests = stream::iter(["a", "b", "c"].map(request));
    let reply = within("a reply comes", client.client_stream(requests)).await;
    let reply = reply.unwrap().into_inner();
    assert_eq!(
        (reply.message.as_str(), reply.count),
        ("c", 3),
        "ClientStream echoes the last request and says how many it read"
    );

    let requests = stream::iter(["a", "b"].map(request));
    let mut echoes = client.bidi_stream(requests).await.unwrap().into_inner();
    for message in ["a", "b"] {
        let reply = within("a reply comes", echoes.message()).await.unwrap();
        assert_eq!(
            reply.unwrap().message,
            message,
            "each request has its reply"
        );
    }
    let end = within("the stream ends", echoes.message()).await.unwrap();
    assert_eq!(end, None, "replies end when the requests have");

    for method in Method::ALL {
        eventually("the call counts as finished", || {
            server.calls(method).finished == 1
        })
        .await;
        let calls = server.calls(method);
        assert_eq!(
            calls.started, 1,
            "each call counts once, under its own method"
        );
        assert_eq!(calls.cancelled, 0, "an answered call was not cancelled");
        assert_eq!(calls.in_flight(), 0, "an answered call is not in flight");
    }
    assert_eq!(server.total().started, 4, "the total is over all methods");
    assert_eq!(
        (server.accepted(), server.open()),
        (1, 1),
        "one client, one connection"
    );
    // A response that is held keeps its connection, even when it has been read to its end.
    drop((replies, echoes, client));
    eventually("the connection goes with its client", || server.open() == 0).await;
}

#[tokio::test]
async fn behaviour_changes_while_it_runs() {
    let server = TestServer::start("fickle", Behaviour::after(Duration::from_millis(5)));
    let mut client = client(&server).await;
    let control = server.control();

    let began = Instant::now();
    echo(&mut client).await.unwrap();
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(5),
        "a reply takes its delay, not {took:?}"
    );

    control.set(control.get().slower(10.0));
    let began = Instant::now();
    echo(&mut client).await.unwrap();
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(50),
        "ten times slower is 50 ms, not {took:?}"
    );

    control.set(Behaviour::failing(Code::ResourceExhausted));
    let status = echo(&mut client).await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::ResourceExhausted,
        "all calls fail as told"
    );
    let status = client.server_stream(request("s")).await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::ResourceExhausted,
        "streams fail as told, too"
    );

    control.set(Behaviour::prompt().failing_share(0.25, Code::Unavailable));
    let mut failed = 0;
    for _ in 0..400 {
        failed += u32::from(echo(&mut client).await.is_err());
    }
    // Binomial(400, 1/4): mean 100, standard deviation 8.7; five of them on either side. The draw
    // is fixed by the server's name.
    assert!(
        (56..=144).contains(&failed),
        "a quarter of 400 calls fails, not {failed}"
    );

    control.set(Behaviour::silent());
    let call = echo_in_flight(&client, &server).await;
    assert_eq!(
        server.calls(Method::Echo).in_flight(),
        1,
        "an unanswered call is in flight"
    );
    control.set(Behaviour::prompt());
    echo(&mut client)
        .await
        .expect("a server that found its voice answers new calls");
    assert!(
        !call.is_finished(),
        "the call that it had caught stays unanswered"
    );
    call.abort();
    eventually("a call that is given up counts as cancelled", || {
        server.calls(Method::Echo).cancelled == 1
    })
    .await;
}

#[tokio::test]
async fn a_kill_cuts_calls_in_flight_and_closes_the_port() {
    for own_thread in [false, true] {
        let builder = TestServer::builder("victim", Behaviour::silent());
        let server = if own_thread {
            builder.own_thread()
        } else {
            builder
        }
        .start();
        let mut client = client(&server).await;
        let unary = echo_in_flight(&client, &server).await;
        server.set(Behaviour::prompt());
        let mut endless = request("s");
        endless.replies = u64::MAX;
        let mut replies = client.server_stream(endless).await.unwrap().into_inner();
        within("a reply comes", replies.message()).await.unwrap();

        within("a kill ends", server.kill()).await;

        assert_eq!(server.open(), 0, "a killed server has no connection");
        let refused = TcpStream::connect(server.addr()).await.unwrap_err();
        assert_eq!(
            refused.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "the port of a killed server is closed"
        );
        unary.await.unwrap().expect_err("a call in flight fails");
        let cut = async {
            loop {
                if let Err(status) = replies.message().await {
                    return status;
                }
            }
        };
        within("a stream in flight fails", cut).await;
        eventually("calls that are cut count as cancelled", || {
            server.total().cancelled == 2
        })
        .await;
    }
}

/// The next frame's type, or `None` at the end of the connection, however it ends.
async fn frame(stream: &mut TcpStream) -> Option<u8> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = stream.take(length.into());
    tokio::io::copy(&mut payload, &mut tokio::io::sink())
        .await
        .ok()?;
    Some(head[3])
}

#[tokio::test]
async fn a_drain_says_goaway_and_a_kill_does_not() {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    for graceful in [true, false] {
        let server = TestServer::start("plain", Behaviour::prompt());
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]);
        stream.write_all(&hello).await.unwrap();
        // The server's own settings, and its word that it has read ours.
        for _ in 0..2 {
            let settings = within("the server speaks", frame(&mut stream)).await;
            assert_eq!(
                settings,
                Some(SETTINGS),
                "a connection begins with settings"
            );
        }
        if graceful {
            server.drain().await;
            let goaway = async {
                loop {
                    let kind = frame(&mut stream).await;
                    if kind == Some(GOAWAY) || kind.is_none() {
                        return kind;
                    }
                }
            };
            let heard = within("the connection says something", goaway).await;
            assert_eq!(heard, Some(GOAWAY), "a drain says GOAWAY");
        } else {
            server.kill().await;
            let mut heard = Vec::new();
            while let Some(kind) = within("the connection ends", frame(&mut stream)).await {
                heard.push(kind);
            }
            assert!(!heard.contains(&GOAWAY), "a kill says nothing: {heard:?}");
        }
    }
}

/// A call that goes on for as long as its caller likes.
struct Talk {
    requests: mpsc::UnboundedSender<EchoRequest>,
    replies: Streaming<EchoReply>,
}

impl Talk {
    async fn begin(client: &mut Client) -> Self {
        let (requests, queue) = mpsc::unbounded();
        let replies = within("a stream begins", client.bidi_stream(queue)).await;
        let mut talk = Self {
            requests,
            replies: replies.unwrap().into_inner(),
        };
        talk.go_on().await;
        talk
    }

    async fn go_on(&mut self) {
        self.requests.unbounded_send(request("on")).unwrap();
        let reply = within("a reply comes", self.replies.message()).await;
        let reply = reply.expect("a call in flight goes on");
        assert_eq!(reply.unwrap().message, "on", "each request has its reply");
    }

    async fn end(mut self) {
        drop(self.requests);
        let end = within("the stream ends", self.replies.message()).await;
        assert_eq!(
            end.expect("it ends well"),
            None,
            "a call in flight finishes"
        );
    }
}

#[tokio::test]
async fn a_shutdown_lets_calls_finish() {
    let server = TestServer::start("gentle", Behaviour::prompt());
    let mut talk = Talk::begin(&mut client(&server).await).await;

    within("the port closes", server.drain()).await;
    TcpStream::connect(server.addr())
        .await
        .expect_err("the port of a draining server is closed");
    assert_eq!(server.total().in_flight(), 1, "the call outlives the port");
    talk.go_on().await;

    let (graceful, ()) = tokio::join!(server.shutdown(), async {
        talk.go_on().await;
        talk.end().await;
    });
    assert!(graceful, "the connections end by themselves");
    assert_eq!(
        server.open(),
        0,
        "a server that has shut down has no connection"
    );
    assert_eq!(server.total().cancelled, 0, "nothing was cut");
}

#[tokio::test]
async fn a_shutdown_kills_what_outstays_its_grace() {
    let server = TestServer::start("stuck", Behaviour::silent());
    let client = client(&server).await;
    let call = echo_in_flight(&client, &server).await;
    assert!(
        !server.shutdown_within(Duration::from_millis(50)).await,
        "a call without an answer outstays any grace"
    );
    call.await
        .unwrap()
        .expect_err("it fails when the grace is over");
}

#[tokio::test]
async fn it_restarts_on_the_same_port() {
    let server = TestServer::start("phoenix", Behaviour::prompt());
    let addr = server.addr();
    for life in 1..=6 {
        let mut client = client(&server).await;
        echo(&mut client).await.expect("each life answers");
        assert_eq!(server.accepted(), life, "counts go on over a restart");
        match life % 3 {
            0 => server.kill().await,
            1 => assert!(
                server.shutdown().await,
                "an idle server shuts down by itself"
            ),
            // Not stopped at all: the restart does it.
            _ => {}
        }
        within("a restart ends", server.restart()).await;
        assert_eq!(server.addr(), addr, "the address stays");
    }
}

#[tokio::test]
async fn a_new_life_runs_beside_a_draining_one() {
    let server = TestServer::start("roll", Behaviour::prompt());
    let mut talk = Talk::begin(&mut client(&server).await).await;
    server.drain().await;
    within("a restart ends", server.restart()).await;
    let mut new = client(&server).await;
    echo(&mut new).await.expect("the new life answers");
    assert_eq!(server.open(), 2, "the old life is still there");
    talk.go_on().await;
    talk.end().await;
    eventually("only the new connection is left", || server.open() == 1).await;
}

#[tokio::test]
async fn it_speaks_tls_and_asks_for_client_certificates() {
    let ca = TestCa::new();
    let trust = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca.pem()));
    let dial = |server: &TestServer, tls: ClientTlsConfig| {
        let endpoint = Endpoint::from_shared(server.uri()).unwrap();
        connect(endpoint.tls_config(tls).unwrap())
    };

    let server = TestServer::builder("tls", Behaviour::prompt())
        .tls(ca.server_tls())
        .start();
    let mut client = dial(&server, trust())
        .await
        .expect("the authority is trusted");
    echo(&mut client).await.expect("calls go over TLS");
    let stranger = TestCa::new().pem();
    let distrust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(stranger));
    assert!(
        dial(&server, distrust).await.is_err(),
        "a client that trusts another authority does not connect"
    );

    let server = TestServer::builder("mutual", Behaviour::prompt())
        .tls(ca.mutual_tls())
        .start();
    let Identity { certificate, key } = ca.client_identity("client.test");
    let known = trust().identity(tonic::transport::Identity::from_pem(certificate, key));
    let mut client = dial(&server, known).await.expect("the client is known");
    echo(&mut client).await.expect("calls go over mutual TLS");
    // In TLS 1.3 the client learns of the refusal only after its own handshake.
    let answer = match dial(&server, trust()).await {
        Ok(mut client) => echo(&mut client).await.is_ok(),
        Err(_) => false,
    };
    assert!(!answer, "a client without a certificate gets no answer");
}

#[tokio::test]
async fn it_listens_on_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("evenkeel-{}.sock", std::process::id()));
    let server = TestServer::builder("local", Behaviour::prompt())
        .unix(&path)
        .start();
    let mut first = client(&server).await;
    echo(&mut first).await.expect("calls go over a Unix socket");
    server.kill().await;
    echo(&mut first)
        .await
        .expect_err("a killed server does not answer");
    server.restart().await;
    let mut second = client(&server).await;
    echo(&mut second)
        .await
        .expect("it restarts on the same path");
    drop(server);
    assert!(!path.exists(), "no socket file is left");
}

#[tokio::test]
async fn one_connection_carries_no_more_calls_than_told() {
    let server = TestServer::builder("narrow", Behaviour::silent())
        .max_concurrent_streams(1)
        .start();
    let client = client(&server).await;
    let call = echo_in_flight(&client, &server).await;
    server.set(Behaviour::prompt());
    let mut other = client.clone();
    let mut second = tokio::spawn(async move { echo(&mut other).await });
    let early = tokio::time::timeout(Duration::from_millis(50), &mut second).await;
    assert!(early.is_err(), "the second call waits for the first");
    assert_eq!(server.total().started, 1, "and has not reached the server");
    call.abort();
    let second = within("the second call ends", second).await.unwrap();
    second.expect("it is sent when the first has gone");
}

#[tokio::test]
async fn refused_ports_refuse_and_silent_listeners_say_nothing() {
    let refused = RefusedPort::reserve();
    let error = TcpStream::connect(refused.addr()).await.unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "a reserved port refuses"
    );

    let silent = SilentListener::start();
    let mut stream = TcpStream::connect(silent.addr())
        .await
        .expect("a silent listener accepts");
    eventually("the connection counts", || silent.accepted() == 1).await;
    stream.write_all(b"anybody there?").await.expect("it reads");
    let mut byte = [0];
    let read = stream.read(&mut byte);
    let heard = tokio::time::timeout(Duration::from_millis(50), read).await;
    assert!(heard.is_err(), "it says nothing");
    assert_eq!(silent.open(), 1, "it holds the connection");
    drop(stream);
    eventually("it lets go with its client", || silent.open() == 0).await;
}

#[test]
fn a_dropped_server_is_gone() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = TestServer::builder("outside", Behaviour::prompt())
        .own_thread()
        .start();
    let mut client = runtime.block_on(client(&server));
    runtime
        .block_on(echo(&mut client))
        .expect("it runs on a thread of its own");
    drop(server);
    // Its thread ends behind our back, since a drop must not block.
    runtime.block_on(within("its connections go with it", async {
        while echo(&mut client).await.is_ok() {}
    }));
}
