use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;

type Said = Result<u32, WatchError>;

/// A server whose streams a test holds in its hand; each begins when it is taken from the queue.
struct Server {
    streams: mpsc::UnboundedReceiver<mpsc::UnboundedSender<Said>>,
    open: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<u32>>>,
    task: JoinHandle<()>,
}

struct Listen {
    streams: mpsc::UnboundedSender<mpsc::UnboundedSender<Said>>,
    open: Arc<AtomicUsize>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Watch<String> for Listen {
    type Terms = u32;
    type Word = u32;
    type Stream = futures::stream::BoxStream<'static, Said>;

    fn watch(&self, target: Target<String>, terms: &u32) -> Self::Stream {
        assert_eq!(
            (&*target.service(), *terms),
            ("service", 7),
            "what it was given"
        );
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(self.open.clone());
        let (words, said) = mpsc::unbounded_channel();
        self.streams.send(words).expect("the test goes on");
        futures::stream::unfold((said, open), |(mut said, open)| async {
            said.recv().await.map(|word| (word, (said, open)))
        })
        .boxed()
    }
}

impl Server {
    fn watched() -> Self {
        let (streams, begun) = mpsc::unbounded_channel();
        let open = Arc::<AtomicUsize>::default();
        let heard = Arc::<Mutex<Vec<u32>>>::default();
        let listen = Listen {
            streams,
            open: open.clone(),
        };
        let words = heard.clone();
        let task = tokio::spawn(async move {
            let target = Target::new("a", "service".to_owned());
            let pauses = Pauses {
                backoff: Backoff::default().with_jitter(0.0),
                rng: Rng::new(1),
            };
            let heard = |heard| {
                if let Heard::Word(word) = heard {
                    words.lock().expect("no panic").push(word);
                }
            };
            keep(target, &listen, &7, pauses, heard).await;
        });
        Self {
            streams: begun,
            open,
            heard,
            task,
        }
    }

    /// The next stream, and how long it let wait for itself.
    async fn next(&mut self) -> (mpsc::UnboundedSender<Said>, Duration) {
        let start = Instant::now();
        let stream = timeout(Duration::from_secs(600), self.streams.recv()).await;
        let stream = stream.expect("there is another").expect("it is watched");
        (stream, start.elapsed())
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    async fn heard(&self, words: &[u32]) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            *self.heard.lock().expect("no panic"),
            words,
            "in this order"
        );
    }
}

fn lost() -> Said {
    Err(WatchError::Ended("the connection was lost".into()))
}

/// Tokio's timers are a millisecond late at most.
fn assert_is(pause: Duration, seconds: f64) {
    let pause = pause.as_secs_f64();
    assert!(
        (seconds..seconds + 0.0021).contains(&pause),
        "a pause of {seconds} s, not {pause}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_is_begun_anew_ever_more_rarely() {
    let mut server = Server::watched();
    let (mut stream, pause) = server.next().await;
    assert_is(pause, 0.0);
    for seconds in [1.0, 1.6, 2.56, 4.096] {
        if seconds > 2.0 {
            stream.send(lost()).expect("it listens");
        }
        // Or without a word.
        drop(stream);
        let pause;
        (stream, pause) = server.next().await;
        assert_is(pause, seconds);
        assert_eq!(server.open(), 1, "one at a time");
    }
}

#[tokio::test(start_paused = true)]
async fn a_word_sets_the_pauses_back() {
    let mut server = Server::watched();
    for _ in 0..3 {
        drop(server.next().await);
    }
    let (stream, pause) = server.next().await;
    assert_is(pause, 2.56);
    stream.send(Ok(4)).expect("it listens");
    stream.send(Ok(5)).expect("it listens");
    stream.send(lost()).expect("it listens");
    let (stream, pause) = server.next().await;
    server.heard(&[4, 5]).await;
    assert_is(pause, 1.0);
    drop(stream);
    let (_stream, pause) = server.next().await;
    assert_is(pause, 1.6);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_through_a_pause_nor_read_after_an_error() {
    let mut server = Server::watched();
    let (stream, _) = server.next().await;
    stream.send(lost()).expect("it listens");
    stream.send(Ok(1)).expect("it listens");
    server.heard(&[]).await;
    assert_eq!(server.open(), 0, "the stream is let go at once");
    assert!(!server.task.is_finished(), "it waits for its next turn");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_know_the_question_is_not_asked_again() {
    let mut server = Server::watched();
    let (stream, _) = server.next().await;
    stream
        .send(Err(WatchError::Unsupported))
        .expect("it listens");
    let next = timeout(Duration::from_secs(600), server.streams.recv()).await;
    assert!(next.expect("it has ended").is_none(), "no other stream");
    server.task.await.expect("it ends well");
    assert_eq!(server.open.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_pauses_lets_others_run() {
    struct Endless;
    impl Watch<()> for Endless {
        type Terms = ();
        type Word = u8;
        type Stream = futures::stream::BoxStream<'static, Result<u8, WatchError>>;
        fn watch(&self, _: Target<()>, (): &()) -> Self::Stream {
            futures::stream::repeat_with(|| Ok(1)).boxed()
        }
    }
    let task = tokio::spawn(async {
        let pauses = Pauses {
            backoff: Backoff::default(),
            rng: Rng::new(1),
        };
        keep(Target::new("a", ()), &Endless, &(), pauses, drop).await;
    });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!task.is_finished(), "and yet we got here");
    task.abort();
}
