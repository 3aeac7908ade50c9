//! An endpoint with 100 streams open is removed: none of them breaks, no new call reaches it, and
//! its connection closes after the last.

use evenkeel::discovery::Handle;
use evenkeel::grpc::Channel;
use evenkeel::policy::RoundRobin;
use futures::channel::mpsc;
use tonic::Streaming;

use crate::load::{Load, assert_none_failed, endpoint, ready, three, turn};
use crate::support::proto::demo_client::DemoClient;
use crate::support::proto::{EchoReply, EchoRequest};
use crate::support::{Behaviour, Method, eventually, within};

const STREAMS: usize = 100;

struct Chat {
    requests: mpsc::UnboundedSender<EchoRequest>,
    replies: Streaming<EchoReply>,
}

impl Chat {
    async fn open(client: &mut DemoClient<Channel>) -> Self {
        let (requests, stream) = mpsc::unbounded();
        let replies = within("a stream opens", client.bidi_stream(stream)).await;
        Self {
            requests,
            replies: replies.expect("a stream opens").into_inner(),
        }
    }

    /// Says something; the name of who answered.
    async fn exchange(&mut self, rule: &str) -> String {
        let request = EchoRequest::default();
        self.requests.unbounded_send(request).expect(rule);
        let reply = within("a reply", self.replies.message()).await;
        let reply = reply.unwrap_or_else(|status| panic!("{rule}: {status:?}"));
        reply.unwrap_or_else(|| panic!("{rule}: it ended")).server
    }

    async fn close(mut self, rule: &str) {
        self.requests.close_channel();
        let end = within("the end", self.replies.message()).await;
        let end = end.unwrap_or_else(|status| panic!("{rule}: {status:?}"));
        assert_eq!(end, None, "{rule}: it ends when the requests do");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_outlive_their_endpoint() {
    let _turn = turn().await;
    let servers = three(Behaviour::prompt());
    let victim = &servers[0];
    let (handle, updates) = Handle::new(servers.each_ref().map(|s| s.uri())).unwrap();
    let channel = Channel::builder()
        .discovery(updates)
        .policy(RoundRobin::default())
        .build()
        .unwrap();
    ready(&channel, &servers).await;
    let mut client = DemoClient::new(channel.clone());
    let mut chats = Vec::new();
    for _ in 0..3 * STREAMS {
        let mut chat = Chat::open(&mut client).await;
        let server = chat.exchange("a new stream works").await;
        if server == victim.name() {
            chats.push(chat);
        } else {
            chat.close("a stream ends").await;
        }
    }
    assert_eq!(
        chats.len(),
        STREAMS,
        "a third of the streams, by round robin"
    );

    let load = Load::start(&channel);
    load.runs(500).await;
    assert!(handle.remove(&victim.uri()), "it was there");
    eventually("the removal is seen", || {
        endpoint(&channel, &victim.uri()).is_none()
    })
    .await;
    // Calls that were picked before end; from then on there is none.
    eventually("its unary calls end", || {
        victim.calls(Method::Echo).in_flight() == 0
    })
    .await;
    load.runs(200).await;
    let echoes = victim.calls(Method::Echo).started;
    load.runs(1_000).await;
    assert_eq!(
        victim.calls(Method::Echo).started,
        echoes,
        "an endpoint that left gets no new call"
    );
    let log = load.stop().await;
    assert_none_failed("no call fails for a removal", &log.take_failures());

    for chat in &mut chats {
        let server = chat.exchange("a stream outlives its endpoint").await;
        assert_eq!(server, victim.name(), "a stream stays where it is");
    }
    while let Some(chat) = chats.pop() {
        assert_eq!(
            victim.open(),
            1,
            "the connection stays for its last {} streams",
            chats.len() + 1
        );
        chat.close("a stream outlives its endpoint").await;
    }
    eventually("the connection closes after its last stream", || {
        victim.open() == 0
    })
    .await;
    assert_eq!(victim.accepted(), 1, "and is not dialled again");
    let streams = victim.calls(Method::BidiStream);
    assert_eq!(
        (streams.finished, streams.cancelled),
        (STREAMS as u64, 0),
        "0 of {STREAMS} streams broke"
    );
}
