use std::cell::RefCell;

use futures_util::stream;
use tokio::time::sleep;

use super::*;

const DELAY: Duration = Duration::from_millis(250);

/// In which order those addresses have their turns; at a `+` one has its turn, and the rest joins after it.
fn order(addresses: &[&str]) -> Vec<String> {
    let mut turns = Turns::new();
    let mut order = Vec::new();
    for address in addresses {
        match *address {
            "+" => order.extend(turns.next()),
            address => {
                let address: SocketAddr = address.parse().expect("an address");
                turns.push(address.into(), address);
            }
        }
    }
    order.extend(std::iter::from_fn(|| turns.next()));
    assert!(turns.is_empty(), "each had its turn");
    order.iter().map(SocketAddr::to_string).collect()
}

#[test]
fn families_take_turns_beginning_with_the_first() {
    let (v6, v4) = (
        ["[::1]:1", "[::2]:1", "[::3]:1"],
        ["1.1.1.1:1", "2.2.2.2:1"],
    );
    let listed: Vec<&str> = v6.into_iter().chain(v4).collect();
    assert_eq!(
        order(&listed),
        ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"],
        "IPv6 came first"
    );
    let listed: Vec<&str> = v4.into_iter().chain(v6).collect();
    assert_eq!(
        order(&listed),
        ["1.1.1.1:1", "[::1]:1", "2.2.2.2:1", "[::2]:1", "[::3]:1"],
        "IPv4 came first"
    );
    assert_eq!(order(&v6), v6, "one family stays as it is");
    assert_eq!(order(&[]), [""; 0]);
}

#[test]
fn a_family_that_joins_later_has_the_next_turn() {
    let (a, b, c) = ("1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1");
    assert_eq!(
        order(&[a, b, "+", "[::1]:1", "[::2]:1"]),
        [a, "[::1]:1", b, "[::2]:1"],
        "one that had none yet"
    );
    assert_eq!(
        order(&[a, "[::1]:1", "+", b, "+", c, "[::2]:1"]),
        [a, "[::1]:1", b, "[::2]:1", c],
        "the others as before, though one had nobody left for a while"
    );
}

#[test]
fn names_are_a_family_of_their_own() {
    for (uri, family) in [
        ("http://[::1]:1", Family::V6),
        ("https://127.0.0.1", Family::V4),
        ("http://a.example:1", Family::Unknown),
        ("http://1.2.3.4.example", Family::Unknown),
    ] {
        let uri: Uri = uri.parse().expect("a URI");
        assert_eq!(Family::of_host(&uri), family, "{uri}");
    }
}

/// What an address does, in ms after its dial has begun.
#[derive(Debug, Clone, Copy)]
enum Does {
    Answers(u64),
    Fails(u64),
    Hangs,
}
use Does::{Answers, Fails, Hangs};

struct Race {
    /// Which address was dialled, when, in ms.
    dialled: Vec<(usize, u64)>,
    result: Result<usize, Vec<usize>>,
    took_ms: u64,
    dropped: usize,
}

/// All addresses are there from the start.
async fn run(delay: Option<Duration>, addresses: &[Does]) -> Race {
    let at_once: Vec<_> = addresses.iter().map(|does| (0, *does)).collect();
    run_joining(delay, &at_once).await
}

/// The addresses, each with its time to join, in ms.
async fn run_joining(delay: Option<Duration>, addresses: &[(u64, Does)]) -> Race {
    struct Dropped<'a>(&'a RefCell<usize>);
    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            *self.0.borrow_mut() += 1;
        }
    }
    let start = Instant::now();
    let now = || start.elapsed().as_millis() as u64;
    let dialled = RefCell::new(Vec::new());
    let dropped = RefCell::new(0);
    let numbered = addresses.iter().copied().enumerate();
    let joining = stream::iter(numbered.map(|(number, (at_ms, does))| (number, at_ms, does))).then(
        |(number, at_ms, does)| async move {
            sleep_until(start + Duration::from_millis(at_ms)).await;
            vec![(number, does)]
        },
    );
    let raced = race(
        joining,
        |_| Family::Unknown,
        delay,
        |&(number, does)| {
            dialled.borrow_mut().push((number, now()));
            let dropped = Dropped(&dropped);
            async move {
                let _dropped = dropped;
                match does {
                    Answers(ms) => {
                        sleep(Duration::from_millis(ms)).await;
                        Ok(number)
                    }
                    Fails(ms) => {
                        sleep(Duration::from_millis(ms)).await;
                        Err(format!("{number} refused").into())
                    }
                    Hangs => pending().await,
                }
            }
        },
    );
    let raced = tokio::time::timeout(Duration::from_secs(3600), raced).await;
    let raced = raced.expect("no race is for ever");
    let dropped = *dropped.borrow();
    Race {
        took_ms: now(),
        dialled: dialled.into_inner(),
        result: raced.map_err(|failed| failed.iter().map(|((number, _), _)| *number).collect()),
        dropped,
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_has_the_delay_for_itself() {
    let race = run(Some(DELAY), &[Answers(249), Answers(0)]).await;
    assert_eq!(race.dialled, [(0, 0)], "it answers in time");
    assert_eq!((race.result, race.took_ms), (Ok(0), 249));
}

#[tokio::test(start_paused = true)]
async fn the_next_one_is_dialled_beside_one_that_does_not_answer() {
    let race = run(Some(DELAY), &[Hangs, Hangs, Answers(10), Answers(0)]).await;
    assert_eq!(race.dialled, [(0, 0), (1, 250), (2, 500)]);
    assert_eq!((race.result, race.took_ms), (Ok(2), 510));
    assert_eq!(race.dropped, 3, "the others are given up");
    let race = run(Some(DELAY), &[Answers(400), Answers(200)]).await;
    assert_eq!(race.dialled, [(0, 0), (1, 250)]);
    assert_eq!(
        race.result,
        Ok(0),
        "the first to answer wins, whoever that is"
    );
}

#[tokio::test(start_paused = true)]
async fn the_next_one_is_dialled_as_soon_as_the_one_before_fails() {
    let race = run(Some(DELAY), &[Fails(1), Fails(2), Answers(3)]).await;
    assert_eq!(race.dialled, [(0, 0), (1, 1), (2, 3)]);
    assert_eq!((race.result, race.took_ms), (Ok(2), 6));
    let race = run(Some(DELAY), &[Fails(300), Hangs, Answers(0)]).await;
    assert_eq!(
        race.dialled,
        [(0, 0), (1, 250), (2, 500)],
        "an earlier one that fails leaves the latest its time"
    );
}

#[tokio::test(start_paused = true)]
async fn all_that_failed_are_named_in_their_order() {
    let race = run(Some(DELAY), &[Fails(700), Fails(10), Fails(10)]).await;
    assert_eq!(race.dialled, [(0, 0), (1, 250), (2, 260)]);
    assert_eq!((race.result, race.took_ms), (Err(vec![0, 1, 2]), 700));
    let race = run(Some(DELAY), &[]).await;
    assert_eq!(race.result, Err(vec![]), "no address is no race");
}

#[tokio::test(start_paused = true)]
async fn without_a_delay_it_is_one_after_the_other() {
    let race = run(None, &[Fails(5_000), Answers(1), Answers(0)]).await;
    assert_eq!(race.dialled, [(0, 0), (1, 5_000)]);
    assert_eq!(race.result, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn one_that_joins_late_has_its_turn_like_any_other() {
    let race = run_joining(Some(DELAY), &[(0, Hangs), (100, Answers(0))]).await;
    assert_eq!(
        race.dialled,
        [(0, 0), (1, 250)],
        "the first has the delay for itself"
    );
    let race = run_joining(Some(DELAY), &[(0, Hangs), (900, Hangs), (901, Answers(0))]).await;
    assert_eq!(
        race.dialled,
        [(0, 0), (1, 900), (2, 1_150)],
        "its time was over, so the next is dialled as soon as there is one"
    );
    let race = run_joining(None, &[(0, Fails(5)), (10, Fails(5)), (12, Answers(0))]).await;
    assert_eq!(race.dialled, [(0, 0), (1, 10), (2, 15)], "or it had failed");
    let race = run_joining(Some(DELAY), &[(0, Fails(5)), (3_000, Fails(5))]).await;
    assert_eq!(
        (race.result, race.took_ms),
        (Err(vec![0, 1]), 3_005),
        "nothing is over while one may join"
    );
    let race = run_joining(None, &[(40, Answers(60)), (500, Answers(0))]).await;
    assert_eq!((race.result, race.took_ms), (Ok(0), 100), "nor waited for");
}

/// As the balancer's connect timeout does.
#[tokio::test(start_paused = true)]
async fn who_gives_the_race_up_gives_all_dials_up() {
    let dialled = RefCell::new(Vec::new());
    let open = std::rc::Rc::new(());
    let joining = stream::iter([vec![0, 1, 2, 3]]);
    let raced = race(
        joining,
        |_| Family::V4,
        Some(DELAY),
        |&address| {
            dialled.borrow_mut().push(address);
            let open = open.clone();
            async move {
                pending::<()>().await;
                drop(open);
                Ok(())
            }
        },
    );
    let raced = tokio::time::timeout(Duration::from_millis(600), raced).await;
    assert!(raced.is_err(), "nobody answers");
    assert_eq!(*dialled.borrow(), [0, 1, 2], "at 0, 250 and 500 ms");
    assert_eq!(std::rc::Rc::strong_count(&open), 1, "no dial is left");
}

#[test]
fn the_error_names_each_address_and_its_cause() {
    let failed = |name: &str| (name.to_owned(), BoxError::from("refused"));
    let uris = ["http://a:1", "http://b:1"].map(Uri::from_static);
    let error = none_answered(vec![failed("a:1"), failed("b:1")], &uris);
    assert_eq!(error.to_string(), "a:1: refused; b:1: refused");
    let error = none_answered(vec![failed("127.0.0.1:1")], &uris[..1]);
    assert_eq!(error.to_string(), "127.0.0.1:1: refused", "a's address");
    let error = none_answered(vec![failed("a:1")], &uris[..1]);
    assert_eq!(
        error.to_string(),
        "refused",
        "who says where says a:1 already"
    );
}
