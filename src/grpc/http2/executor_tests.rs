use std::future::{pending, poll_fn};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::grpc::http2::cork::Corked;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future)
        .await
        .expect("it ends in time")
}

#[tokio::test]
async fn it_ends_when_nothing_is_left_to_run() {
    let (tasks, driver) = Tasks::new();
    let (nested, waits) = oneshot::channel();
    let (go_on, told) = oneshot::channel::<()>();
    let (ended, done) = oneshot::channel();
    tasks.execute({
        let tasks = tasks.clone();
        async move {
            tokio::task::yield_now().await;
            tasks.execute(async move {
                let _ = nested.send(());
                let _ = told.await;
                let _ = ended.send(());
            });
        }
    });
    let driver = tokio::spawn(driver);
    soon(waits)
        .await
        .expect("a future given by another one is run");
    assert!(!driver.is_finished(), "it waits for what is not done");
    go_on.send(()).expect("the future waits");
    soon(driver).await.expect("no panic");
    done.await.expect("the future has run to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_from_another_thread_is_lost() {
    let (tasks, driver) = Tasks::new();
    let (hold, held) = oneshot::channel::<()>();
    tasks.execute(async move {
        let _ = held.await;
    });
    let driver = tokio::spawn(driver);
    let ran = Arc::new(AtomicUsize::new(0));
    for batch in 0..200 {
        let mut senders = Vec::new();
        for _ in 0..20 {
            let (sender, receiver) = oneshot::channel::<()>();
            let ran = ran.clone();
            tasks.execute(async move {
                receiver.await.expect("a sender");
                ran.fetch_add(1, Ordering::SeqCst);
            });
            senders.push(sender);
        }
        let sent = tokio::spawn(async move {
            for sender in senders {
                sender.send(()).expect("a receiver");
                tokio::task::yield_now().await;
            }
        });
        soon(sent).await.expect("no panic");
        soon(async {
            while ran.load(Ordering::SeqCst) < (batch + 1) * 20 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    drop(hold);
    soon(driver).await.expect("no panic");
}

#[tokio::test]
async fn a_panic_takes_no_other_future_with_it() {
    let (tasks, driver) = Tasks::new();
    let (done, ran) = oneshot::channel();
    tasks.execute(async { panic!("the body of one request") });
    tasks.execute(async move {
        tokio::task::yield_now().await;
        let _ = done.send(());
    });
    soon(driver).await;
    ran.await.expect("the other one has run");
}

#[tokio::test]
async fn dropping_the_driver_drops_all_futures() {
    let alive = Arc::new(());
    let hold = |alive: &Arc<()>, tasks: &Tasks| {
        // Like hyper's, each holds the executor that it runs on.
        let held = (alive.clone(), tasks.clone());
        async move {
            pending::<()>().await;
            drop(held);
        }
    };
    let (tasks, driver) = Tasks::new();
    tasks.execute(hold(&alive, &tasks));
    let driver = tokio::spawn(driver);
    tokio::task::yield_now().await;
    tasks.execute(hold(&alive, &tasks));
    driver.abort();
    assert!(soon(driver).await.is_err(), "it was stopped");
    assert_eq!(
        Arc::strong_count(&alive),
        1,
        "the polled and the queued one"
    );
    tasks.execute(hold(&alive, &tasks));
    assert_eq!(Arc::strong_count(&alive), 1, "and one that comes too late");
}

#[tokio::test]
async fn a_future_that_is_always_ready_leaves_room_for_other_tasks() {
    let (tasks, driver) = Tasks::new();
    tasks.execute(poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    let driver = tokio::spawn(driver);
    for _ in 0..100 {
        soon(tokio::task::yield_now()).await;
    }
    driver.abort();
    assert!(
        soon(driver).await.unwrap_err().is_cancelled(),
        "it ran until then"
    );
}

#[tokio::test]
async fn a_slot_is_used_again() {
    let (tasks, mut driver) = Tasks::new();
    let (hold, held) = oneshot::channel::<()>();
    tasks.execute(async move {
        let _ = held.await;
    });
    for _ in 0..100 {
        tasks.execute(async {});
        poll_fn(|cx| {
            assert!(
                Pin::new(&mut driver).poll(cx).is_pending(),
                "one future is left"
            );
            Poll::Ready(())
        })
        .await;
    }
    assert_eq!(driver.slots.len(), 2, "one for each future at a time");
    drop(hold);
    soon(driver).await;
}

/// Comes back in the next round of the same turn.
async fn next_round() {
    let mut polled = false;
    poll_fn(|cx| {
        if polled {
            return Poll::Ready(());
        }
        polled = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[tokio::test]
async fn what_is_written_in_one_turn_goes_out_in_one_piece() {
    let (tasks, driver) = Tasks::new();
    let (client, mut server) = tokio::io::duplex(1024);
    let mut io = Corked::new(client, driver.cork());
    tasks.execute(async move {
        for piece in [b"head", b"body"] {
            io.write_all(piece).await.expect("a buffer takes it");
            io.flush().await.expect("the cork takes it");
            next_round().await;
        }
        let end = io.read(&mut [0; 8]).await.expect("the pipe is whole");
        assert_eq!(end, 0, "the server says nothing");
    });
    let driver = tokio::spawn(driver);
    let mut bytes = [0; 64];
    let read = soon(server.read(&mut bytes)).await.expect("a pipe");
    assert_eq!(
        &bytes[..read],
        b"headbody",
        "both pieces come with the first read"
    );
    drop(server);
    soon(driver).await.expect("no panic");
}

#[tokio::test]
async fn a_busy_turn_does_not_hold_back_what_was_written_for_ever() {
    let (tasks, driver) = Tasks::new();
    let (client, mut server) = tokio::io::duplex(1024);
    let mut io = Corked::new(client, driver.cork());
    tasks.execute(async move {
        io.write_all(b"hello").await.expect("a buffer takes it");
        io.flush().await.expect("the cork takes it");
        let _ = io.read(&mut [0; 8]).await;
    });
    // Its turns have no end.
    tasks.execute(async {
        loop {
            next_round().await;
        }
    });
    let driver = tokio::spawn(driver);
    let mut bytes = [0; 64];
    let read = soon(server.read(&mut bytes)).await.expect("a pipe");
    assert_eq!(
        &bytes[..read],
        b"hello",
        "writes do not wait for the others"
    );
    driver.abort();
}

#[test]
fn it_stands_back_once_when_other_callers_are_about() {
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    // The connection's own two futures, and so many calls.
    for (calls, stands_back) in [(1, false), (2, true), (20, true)] {
        let (tasks, mut driver) = Tasks::new();
        let mut senders = Vec::new();
        for _ in 0..OWN_FUTURES + calls {
            let (sender, receiver) = oneshot::channel::<()>();
            tasks.execute(async move {
                let _ = receiver.await;
            });
            senders.push(sender);
        }
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(
            Pin::new(&mut driver).poll(&mut cx).is_pending(),
            "{calls} calls: not all have ended"
        );
        driver.taken = calls;
        let before = driver.vacant.len();
        senders
            .pop()
            .expect("a sender")
            .send(())
            .expect("a receiver");
        assert_eq!(wakes.0.swap(0, Ordering::SeqCst), 1, "{calls} calls");
        assert!(
            Pin::new(&mut driver).poll(&mut cx).is_pending(),
            "{calls} calls: not all have ended"
        );
        assert_eq!(
            driver.vacant.len() == before,
            stands_back,
            "{calls} calls: the first look"
        );
        assert_eq!(
            wakes.0.load(Ordering::SeqCst),
            usize::from(stands_back),
            "{calls} calls: it comes back by itself"
        );
        assert!(
            Pin::new(&mut driver).poll(&mut cx).is_pending(),
            "{calls} calls: not all have ended"
        );
        assert_eq!(
            driver.vacant.len(),
            before + 1,
            "{calls} calls: the second look at the latest"
        );
    }
}
