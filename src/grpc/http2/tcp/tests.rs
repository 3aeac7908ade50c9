use std::collections::HashMap;
use std::future::pending;

use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::*;

/// Which names are found after how many ms, and where.
type Names = HashMap<&'static str, (u64, Result<&'static [&'static str], &'static str>)>;

/// When which addresses, or names that have none, join, in ms.
async fn joined(uris: &[&'static str], names: &Names) -> Vec<(u64, Vec<String>)> {
    let uris: Vec<Uri> = uris.iter().map(|uri| Uri::from_static(uri)).collect();
    let start = Instant::now();
    let targets = targets(&uris, |host, port| {
        let (ms, found) = names[&*host];
        async move {
            sleep(Duration::from_millis(ms)).await;
            let found = found.map_err(io::Error::other)?;
            let found = found
                .iter()
                .map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
            Ok(found.collect())
        }
    });
    let joined = targets.map(|targets| {
        let names = targets.iter().map(Target::name).collect();
        (start.elapsed().as_millis() as u64, names)
    });
    joined.collect().await
}

fn at(ms: u64, addresses: &[&str]) -> (u64, Vec<String>) {
    (ms, addresses.iter().map(|&a| a.to_owned()).collect())
}

#[tokio::test(start_paused = true)]
async fn addresses_do_not_wait_for_names_behind_them() {
    let names = Names::from([
        ("slow", (9_000, Ok(&["1.1.1.1", "fd00::1"][..]))),
        ("quick", (7, Ok(&["2.2.2.2"]))),
    ]);
    let uris = [
        "http://3.3.3.3:3",
        "http://slow",
        "https://quick",
        "https://[::1]",
    ];
    assert_eq!(
        joined(&uris, &names).await,
        [
            at(0, &["3.3.3.3:3", "[::1]:443"]),
            at(7, &["2.2.2.2:443"]),
            at(9_000, &["1.1.1.1:80", "[fd00::1]:80"]),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn for_a_name_that_is_the_first_they_wait_for_50_ms_at_most() {
    let uris = ["http://first:1", "http://3.3.3.3:3", "http://other:2"];
    let names = |ms| {
        Names::from([
            ("first", (ms, Ok(&["1.1.1.1"][..]))),
            ("other", (10, Ok(&["2.2.2.2"]))),
        ])
    };
    assert_eq!(
        joined(&uris, &names(5)).await,
        [at(5, &["1.1.1.1:1", "3.3.3.3:3"]), at(10, &["2.2.2.2:2"])],
        "known in time it is the first to be dialled"
    );
    assert_eq!(
        joined(&uris, &names(40)).await,
        [at(40, &["1.1.1.1:1", "3.3.3.3:3", "2.2.2.2:2"])]
    );
    let late = joined(&uris, &names(60)).await;
    assert_eq!(late.len(), 2, "{late:?}");
    // Tokio's timers are a millisecond late at most.
    assert!((50..=51).contains(&late[0].0), "{late:?}");
    assert_eq!(late[0].1, ["3.3.3.3:3", "2.2.2.2:2"], "the others go on");
    assert_eq!(late[1], at(60, &["1.1.1.1:1"]), "and it joins them");
}

#[tokio::test(start_paused = true)]
async fn each_address_joins_once_and_a_name_that_has_none_says_why() {
    let names = Names::from([
        ("a", (2, Ok(&["1.1.1.1", "2.2.2.2", "1.1.1.1"][..]))),
        ("b", (5, Ok(&["2.2.2.2", "3.3.3.3"]))),
        ("gone", (9, Err("no such name"))),
    ]);
    let uris = [
        "http://1.1.1.1",
        "http://1.1.1.1",
        "http://a",
        "http://b",
        "http://gone",
    ];
    assert_eq!(
        joined(&uris, &names).await,
        [
            at(0, &["1.1.1.1:80"]),
            at(2, &["2.2.2.2:80"]),
            at(5, &["3.3.3.3:80"]),
            at(9, &["gone"]),
        ]
    );
}

#[tokio::test]
async fn a_name_that_is_never_found_holds_no_other_address_up() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let live: Uri = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let slow = Uri::from_static("http://slow:1");
    for uris in [[live.clone(), slow.clone()], [slow, live.clone()]] {
        let won = connect_by(|_, _| pending(), Arc::default(), uris.to_vec());
        let won = timeout(Duration::from_secs(20), won).await;
        let (_, uri) = won.expect("within its time").expect("it is listened on");
        assert_eq!(uri, live, "the one that needs no look-up");
    }
}
