use std::future::{pending, poll_fn};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future)
        .await
        .expect("it ends in time")
}

#[tokio::test]
async fn it_ends_when_nothing_is_left_to_run() {
    let (tasks, driver) = Tasks::new();
    let (nested, done) = oneshot::channel();
    tasks.execute({
        let tasks = tasks.clone();
        async move {
            tokio::task::yield_now().await;
            tasks.execute(async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let _ = nested.send(());
            });
        }
    });
    soon(driver).await;
    done.await.expect("a future given by another one has run");
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
    assert!(soon(driver).await.unwrap_err().is_cancelled());
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
            assert!(Pin::new(&mut driver).poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
    }
    assert_eq!(driver.slots.len(), 2, "one for each future at a time");
    drop(hold);
    soon(driver).await;
}
