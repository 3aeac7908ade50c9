use std::convert::Infallible;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{Empty, Full};
use tokio::time::Instant;
use tower::service_fn;

use super::*;
use crate::policy::Candidates;

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> CheckRules {
    CheckRules::default().with_jitter(0.0)
}

async fn next<W, S>(verdicts: &mut Pin<Box<W>>) -> Verdict
where
    W: Stream<Item = Result<Verdict, S>> + ?Sized,
    S: fmt::Debug,
{
    let next = timeout(Duration::from_secs(600), verdicts.next()).await;
    let next = next.expect("a verdict comes in time");
    next.expect("it goes on").expect("it never ends by itself")
}

/// Checks with the answers of `script`, in turn, and tells when each was asked for.
#[expect(clippy::type_complexity, reason = "a test's own")]
fn scripted(
    script: Vec<Result<(), &'static str>>,
) -> (
    CheckFn<impl Fn(Target<()>) -> std::future::Ready<Result<(), BoxError>>>,
    Arc<Mutex<Vec<Duration>>>,
) {
    let start = Instant::now();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let times = asked.clone();
    let check = check_fn(rules(), move |_: Target<()>| {
        let mut times = times.lock().unwrap();
        let answer = script[times.len().min(script.len() - 1)];
        times.push(start.elapsed());
        std::future::ready(answer.map_err(Into::into))
    });
    (check.expect("the rules are right"), asked)
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_told_when_it_changes_and_the_pauses_are_those_of_the_rules() {
    let (check, asked) = scripted(vec![
        Ok(()),
        Err("x"),
        Ok(()),
        Err("x"),
        Err("y"),
        Err("z"),
        Ok(()),
    ]);
    let candidates = Candidates::connected(["a"]);
    let subchannel = candidates.all()[0].subchannel().clone();
    let target = Target::new("a", ()).known_by(subchannel.clone(), 1);
    let mut verdicts = check.watch(target, &());
    assert_eq!(next(&mut verdicts).await, Verdict::Serving);
    let until_ill = next(&mut verdicts);
    assert_eq!(until_ill.await, Verdict::not_serving("z"), "three in a row");
    assert_eq!(next(&mut verdicts).await, Verdict::Serving, "one is enough");
    let seconds: Vec<u64> = asked
        .lock()
        .unwrap()
        .iter()
        .map(Duration::as_secs)
        .collect();
    assert_eq!(
        seconds,
        [0, 60, 61, 121, 122, 123, 124],
        "60 s while nobody calls, 1 s after a failure"
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_gets_calls_is_asked_more_often() {
    let (check, asked) = scripted(vec![Ok(())]);
    let candidates = Candidates::connected(["a"]);
    let candidate = candidates.all()[0].clone();
    let target = Target::new("a", ()).known_by(candidate.subchannel().clone(), 1);
    let mut verdicts = check.watch(target, &());
    assert_eq!(next(&mut verdicts).await, Verdict::Serving);
    let busy = async {
        for _ in 0..35 {
            let mut claim = candidate.claim(false).expect("it is connected");
            claim.sent();
            drop(claim);
            sleep(SECOND).await;
        }
    };
    futures::future::select(Box::pin(busy), verdicts.next()).await;
    assert_eq!(asked.lock().unwrap().len(), 4, "at 0, 10, 20 and 30 s");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_or_panics_failed() {
    let hangs = check_fn(rules(), |_: Target<()>| std::future::pending());
    let mut verdicts = hangs.unwrap().watch(Target::new("a", ()), &());
    let start = Instant::now();
    let verdict = next(&mut verdicts).await;
    assert_eq!(verdict, Verdict::not_serving("no answer within 1s"));
    assert_eq!(start.elapsed(), SECOND, "the timeout");
    let panics = check_fn(rules(), |target: Target<()>| async move {
        assert_eq!(target.endpoint().id().as_str(), "b", "on purpose");
        Ok(())
    });
    let mut verdicts = panics.unwrap().watch(Target::new("a", ()), &());
    let verdict = next(&mut verdicts).await;
    assert_eq!(verdict, Verdict::not_serving("the check panicked"));
}

#[tokio::test(start_paused = true)]
async fn http_get_goes_by_the_status() {
    type Body = Full<Bytes>;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let service = service_fn(move |request: Request<Body>| {
        let mut log = log.lock().unwrap();
        log.push(format!("{} {}", request.method(), request.uri()));
        let status = [204, 302, 200, 503][(log.len() - 1).min(3)];
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let rules = rules().with_unhealthy_threshold(1);
    let check = HttpGet::<Body>::new("/healthz?full=1", rules).unwrap();
    let mut verdicts = check.watch(Target::new("http://10.0.0.1:80", service), &());
    assert_eq!(next(&mut verdicts).await, Verdict::Serving, "204");
    for (status, ill) in [
        ("302 Found", true),
        ("200", false),
        ("503 Service Unavailable", true),
    ] {
        let expected = match ill {
            true => Verdict::not_serving(format!("HTTP status {status}")),
            false => Verdict::Serving,
        };
        let verdict = next(&mut verdicts).await;
        assert_eq!(verdict, expected, "200 to 299 is well: {status}");
    }
    assert_eq!(
        asked.lock().unwrap()[0],
        "GET http://10.0.0.1:80/healthz?full=1"
    );
    for (path, why) in [("healthz", "does not begin with /"), ("/a b", "is no path")] {
        let error = HttpGet::<Body>::new(path, rules).unwrap_err().to_string();
        assert!(
            error.contains(why) && error.contains("health_check.path"),
            "{error}"
        );
    }
}

#[test]
fn the_uri_of_a_check_is_made_of_what_the_address_says() {
    let path = PathAndQuery::from_static("/live");
    for (address, uri) in [
        ("http://a:81", "http://a:81/live"),
        ("https://a", "https://a/live"),
        ("10.0.0.1:80", "http://10.0.0.1:80/live"),
        ("[::1]:80", "http://[::1]:80/live"),
        ("a", "/live"),
        ("unix:///run/a.sock", "/live"),
        ("", "/live"),
    ] {
        assert_eq!(uri_of(address, &path).to_string(), uri, "{address:?}");
    }
}

#[cfg(feature = "tcp")]
#[tokio::test]
async fn tcp_connect_says_whether_the_port_is_open() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap();
    let check = TcpConnect::new(rules()).unwrap();
    for address in [
        open.to_string(),
        format!("http://{open}"),
        format!("https://localhost:{}/", open.port()),
    ] {
        let mut verdicts = check.watch(Target::new(address.clone(), ()), &());
        assert_eq!(next(&mut verdicts).await, Verdict::Serving, "{address}");
    }
    drop(listener);
    for address in [format!("http://{open}"), "nonsense".to_owned()] {
        let mut verdicts = check.watch(Target::new(address.clone(), ()), &());
        let verdict = next(&mut verdicts).await;
        assert!(matches!(verdict, Verdict::NotServing(_)), "{address}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_breaks_is_told_of_and_has_failed() {
    #[derive(Clone)]
    struct Broken;
    impl Service<Request<Full<Bytes>>> for Broken {
        type Response = Response<Empty<Bytes>>;
        type Error = BoxError;
        type Future = std::future::Pending<Result<Self::Response, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err("gone".into()))
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            std::future::pending()
        }
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let hear = move |error: BoxError| log.lock().unwrap().push(error.to_string());
    let target = Target::new("a", Broken).broken_to(hear);
    let check = HttpGet::<Full<Bytes>>::new("/", rules()).unwrap();
    let mut verdicts = check.watch(target, &());
    assert_eq!(next(&mut verdicts).await, Verdict::not_serving("gone"));
    assert_eq!(*told.lock().unwrap(), ["gone"], "nobody else may find out");
}

/// A listener whose queue is full: Linux lets further dials hang.
#[cfg(all(feature = "tcp", target_os = "linux"))]
#[tokio::test]
async fn tcp_connect_does_not_wait_for_an_address_that_never_answers() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let silent = full.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(dialed) = timeout(SECOND / 5, TcpStream::connect(silent)).await {
        queued.push(dialed.unwrap());
        assert!(queued.len() < 10, "the queue has room for two");
    }
    let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = open.local_addr().unwrap().to_string();
    let endpoint = crate::endpoint::Endpoint::new(silent.to_string());
    let endpoint = endpoint.with_addresses([open]);
    let rules = rules().with_timeout(30 * SECOND);
    let check = TcpConnect::new(rules).unwrap();
    let mut verdicts = check.watch(Target::new(endpoint, ()), &());
    let verdict = timeout(10 * SECOND, next(&mut verdicts)).await;
    assert_eq!(verdict, Ok(Verdict::Serving), "the second one is open");
}

#[tokio::test(start_paused = true)]
async fn http_get_says_its_host_and_what_else_it_is_told_to() {
    type Body = Full<Bytes>;
    let set = HttpGet::<Body>::new("/", rules()).unwrap();
    let set = set.with_header(HOST, HeaderValue::from_static("shop"));
    let set = set.with_header(http::header::ACCEPT, HeaderValue::from_static("text/plain"));
    let bare = || HttpGet::<Body>::new("/", rules()).unwrap();
    for (check, address, host, accept) in [
        (bare(), "http://10.0.0.1:81", Some("10.0.0.1:81"), None),
        (bare(), "https://me@a", Some("a"), None),
        (bare(), "[::1]:80", Some("[::1]:80"), None),
        (bare(), "unix:///run/a.sock", None, None),
        (set, "10.0.0.1:80", Some("shop"), Some("text/plain")),
    ] {
        let service = service_fn(move |request: Request<Body>| {
            let header = |name| {
                request
                    .headers()
                    .get(name)
                    .map(|value| value.to_str().unwrap())
            };
            let told = (header("host"), header("accept"));
            assert_eq!(told, (host, accept), "of {address}");
            std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        });
        let mut verdicts = check.watch(Target::new(address, service), &());
        assert_eq!(next(&mut verdicts).await, Verdict::Serving, "{address}");
    }
}
