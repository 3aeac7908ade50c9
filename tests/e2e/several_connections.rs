//! Several connections to one endpoint, and the ends of each and of all of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenkeel::ConnectivityState;
use evenkeel::grpc::{Channel, HealthCheck};
use evenkeel::math::Backoff;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::runtime::Handle as Runtime;
use tokio::task::AbortHandle;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tower::service_fn;

use crate::only;
use crate::streams::{builder, channel, opened, opening, server, unary, under_way};
use crate::support::{Behaviour, TestServer, all_ready, eventually, within};

/// Long, and not reached by any test.
const LONG: Duration = Duration::from_secs(600);

fn tasks() -> usize {
    Runtime::current().metrics().num_alive_tasks()
}

/// Dials of a server, of which each may be cut.
#[derive(Clone)]
struct Switch {
    server: std::net::SocketAddr,
    lines: Arc<Mutex<Vec<AbortHandle>>>,
    refuses: Arc<AtomicBool>,
}

impl Switch {
    fn to(server: &TestServer) -> Self {
        Self {
            server: server.addr(),
            lines: Arc::default(),
            refuses: Arc::default(),
        }
    }

    async fn dial(self) -> std::io::Result<TokioIo<DuplexStream>> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(std::io::Error::other("no line is free"));
        }
        let mut far = TcpStream::connect(self.server).await?;
        far.set_nodelay(true)?;
        let (near, mut middle) = tokio::io::duplex(1 << 16);
        let relay = tokio::spawn(async move {
            // How it ends is seen at both ends.
            let _ = tokio::io::copy_bidirectional(&mut middle, &mut far).await;
        });
        self.lines.lock().unwrap().push(relay.abort_handle());
        Ok(TokioIo::new(near))
    }

    fn cut(&self, line: usize) {
        self.lines.lock().unwrap()[line].abort();
    }

    fn channel(&self, server: &TestServer, connections: u32) -> Channel {
        let switch = self.clone();
        builder(server, connections)
            .connector(service_fn(move |_: Uri| switch.clone().dial()))
            .backoff(Backoff::default().with_base(Duration::from_millis(20)))
            .build()
            .unwrap()
    }
}

#[tokio::test]
async fn a_connection_that_dies_takes_its_own_calls_only_whichever_it_is() {
    for dies in [0, 1] {
        let server = server(1);
        let switch = Switch::to(&server);
        let channel = switch.channel(&server, 2);
        all_ready(&channel).await;
        let mut streams = [opened(&channel).await, opened(&channel).await];
        switch.cut(dies);
        let [ref mut first, ref mut second] = streams;
        let (lost, left) = match dies {
            0 => (first, second),
            _ => (second, first),
        };
        let lost = within("its end", lost.replies.message()).await;
        let lost = lost.expect_err("it is lost");
        assert_eq!(lost.code(), Code::Unavailable, "{lost}");
        left.speaks().await;
        let endpoint = only(&channel);
        assert_eq!(endpoint.state, ConnectivityState::Ready, "one is up");
        assert!(endpoint.ejected.is_none(), "{endpoint:?}");
        let mut third = opened(&channel).await;
        third.speaks().await;
        assert_eq!(server.accepted(), 3, "in the place of the one that died");
        // The last ones make the endpoint's end, and it is dialled anew.
        for line in 0..3 {
            switch.cut(line);
        }
        let lost = within("its end", third.replies.message()).await;
        assert!(lost.is_err(), "it is lost");
        assert!(unary(&channel).await.is_ok(), "over another one");
    }
}

#[tokio::test]
async fn a_health_check_goes_on_by_another_connection() {
    let (reporter, health) = tonic_health::server::health_reporter();
    let server = TestServer::builder("few", Behaviour::prompt())
        .max_concurrent_streams(2)
        .add_service(health)
        .own_thread()
        .start();
    let switch = Switch::to(&server);
    let lines = switch.clone();
    let channel = builder(&server, 2)
        .connector(service_fn(move |_: Uri| lines.clone().dial()))
        // A check that were merely begun anew some time after its end would be too late for this test.
        .backoff(Backoff::default().with_base(LONG).with_max(LONG))
        .health_check(HealthCheck::new())
        .build()
        .unwrap();
    all_ready(&channel).await;
    // The check's stream is one of the first connection's two.
    let mut first = opened(&channel).await;
    let mut second = opened(&channel).await;
    assert_eq!(server.open(), 2, "the check has its place");
    switch.cut(0);
    let lost = within("its end", first.replies.message()).await;
    assert!(lost.is_err(), "it is lost");
    for _ in 0..20 {
        let reply = unary(&channel).await;
        assert!(reply.is_ok(), "the endpoint is healthy: {reply:?}");
    }
    second.speaks().await;
    reporter
        .set_service_status("", ServingStatus::NotServing)
        .await;
    eventually("the check hears what the server says", || {
        only(&channel).state == ConnectivityState::TransientFailure
    })
    .await;
}

#[tokio::test]
async fn a_further_connection_that_cannot_be_made_is_told_of_and_tried_again() {
    let server = server(1);
    let switch = Switch::to(&server);
    let channel = switch.channel(&server, 2);
    all_ready(&channel).await;
    let mut first = opened(&channel).await;
    switch.refuses.store(true, Ordering::SeqCst);
    let waiting = opening(&channel);
    eventually("the error is in the report", || {
        let error = only(&channel).last_error;
        error.is_some_and(|error| error.contains("no line is free"))
    })
    .await;
    let endpoint = only(&channel);
    assert_eq!(endpoint.state, ConnectivityState::Ready, "one is up");
    first.speaks().await;
    switch.refuses.store(false, Ordering::SeqCst);
    let second = within("the next attempt", waiting).await.expect("no panic");
    second.expect("a stream").speaks().await;
    eventually("the error is over", || only(&channel).last_error.is_none()).await;
}

#[tokio::test]
async fn a_server_that_says_goaway_loses_no_call() {
    let server = server(2);
    let channel = channel(&server, 3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..6)
        .map(|_| {
            let (channel, stop) = (channel.clone(), stop.clone());
            tokio::spawn(async move {
                let mut calls = 0;
                while !stop.load(Ordering::SeqCst) {
                    unary(&channel).await?;
                    calls += 1;
                }
                Ok::<u64, Status>(calls)
            })
        })
        .collect();
    for _ in 0..5 {
        let before = server.total().started;
        eventually("calls flow", || server.total().started > before + 100).await;
        server.drain().await;
        server.restart().await;
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        let calls = within("a caller ends", caller).await.expect("no panic");
        let calls = calls.expect("a drain loses no call");
        assert!(calls > 0, "each had its turns");
    }
}

#[tokio::test]
async fn the_end_of_all_handles_closes_all_connections() {
    let server = server(1);
    let before = tasks();
    let channel = channel(&server, 3).await;
    let streams = [
        opened(&channel).await,
        opened(&channel).await,
        opened(&channel).await,
    ];
    let waiting = opening(&channel);
    under_way(&channel, 4).await;
    assert_eq!(server.open(), 3);
    waiting.abort();
    drop((channel, streams));
    eventually("the server has no connection left", || server.open() == 0).await;
    eventually("no task is left", || tasks() == before).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_the_calls_on_all_connections_and_cuts_them_at_its_deadline() {
    let server = server(1);
    let before = tasks();
    let channel = channel(&server, 2).await;
    let mut streams = vec![opened(&channel).await, opened(&channel).await];
    let waiting = opening(&channel);
    under_way(&channel, 3).await;
    let ended = channel.shutdown(LONG);
    let refused = within("the one that waits ends", waiting).await;
    let refused = refused.expect("no panic").map(drop);
    assert_eq!(
        refused.expect_err("no call begins any more").code(),
        Code::Unavailable
    );
    for stream in &mut streams {
        stream.speaks().await;
    }
    for stream in streams {
        stream.ends().await;
    }
    let outcome = within("the last call ended", ended).await;
    assert!(outcome.is_clean(), "{outcome:?}");
    eventually("the server has no connection left", || server.open() == 0).await;
    eventually("no task is left", || tasks() == before).await;

    let channel = crate::streams::channel(&server, 2).await;
    let mut streams = [opened(&channel).await, opened(&channel).await];
    let limit = Duration::from_millis(100);
    let began = Instant::now();
    let outcome = within("the deadline", channel.shutdown(limit)).await;
    assert!(began.elapsed() >= limit, "calls have until the deadline");
    assert_eq!(outcome.cut, 2, "both connections are cut: {outcome:?}");
    for stream in &mut streams {
        let lost = within("its end", stream.replies.message()).await;
        assert!(lost.is_err(), "{lost:?}");
    }
    eventually("the server has no connection left", || server.open() == 0).await;
}

#[tokio::test]
async fn an_old_endpoint_is_replaced_with_all_of_its_connections() {
    let server = server(1);
    let channel = builder(&server, 2)
        .max_connection_age(Duration::from_millis(50))
        .backoff(Backoff::default().with_base(Duration::from_millis(10)))
        .build()
        .unwrap();
    all_ready(&channel).await;
    let mut streams = [opened(&channel).await, opened(&channel).await];
    eventually("they are replaced", || server.accepted() >= 4).await;
    for stream in &mut streams {
        stream.speaks().await;
    }
    for stream in streams {
        stream.ends().await;
    }
    eventually("the old ones are closed", || server.open() <= 1).await;
}
