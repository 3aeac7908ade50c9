//! What servers report of their load reaches the policy that asked for it, and nobody else pays.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use evenkeel::Balance;
use evenkeel::balance::Http;
use evenkeel::load::{LatencyRules, Measures, ReportRules};
use evenkeel::outcome::{Classify, LoadReport, Outcome};
use evenkeel::policy::{Candidates, Pick, PickContext, Picker, Policy};
use futures::stream;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower::{ServiceExt, service_fn};

/// The first endpoint there is; tells the test what it was built over.
#[derive(Debug, Clone)]
struct First {
    measures: Measures,
    built: Arc<ArcSwapOption<Candidates>>,
}

#[derive(Debug)]
struct FirstPicker(Candidates);

impl Policy for First {
    fn name(&self) -> &'static str {
        "first"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        self.built.store(Some(Arc::new(candidates.clone())));
        Arc::new(FirstPicker(candidates.clone()))
    }

    fn measures(&self) -> Measures {
        self.measures
    }
}

impl Picker for FirstPicker {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = self.0.usable().iter().find(|c| context.is_usable(c));
        usable.map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

/// A report is a number under `x-load`. Counts how often it was asked for one.
#[derive(Debug, Clone, Default)]
struct ByLoadHeader(Arc<AtomicUsize>);

impl<B> Classify<Response<B>, Infallible> for ByLoadHeader {
    fn response(&self, _: &Response<B>) -> Option<Outcome> {
        None
    }

    fn error(&self, error: &Infallible) -> Outcome {
        match *error {}
    }

    fn load_report(&self, headers: &HeaderMap) -> Option<LoadReport> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let load = headers.get("x-load")?.to_str().ok()?.parse().ok()?;
        let report = LoadReport::new().with_in_flight(load);
        Some(report.with_latency(Duration::from_millis(1)))
    }
}

fn load(value: Option<&'static str>) -> HeaderMap {
    let value = value.map(|value| ("x-load".parse().unwrap(), value.parse().unwrap()));
    value.into_iter().collect()
}

/// One call whose response has these loads in its head and its trailers: what the endpoint's record
/// then says of requests under way, and how often a report was looked for.
async fn call(
    measures: Measures,
    head: Option<&'static str>,
    trailers: Option<&'static str>,
) -> (Option<u32>, usize) {
    let policy = First {
        measures,
        built: Arc::default(),
    };
    let classify = ByLoadHeader::default();
    let service = service_fn(move |_: Request<()>| async move {
        let data = Frame::data(Bytes::from_static(b"data"));
        let frames = [data, Frame::trailers(load(trailers))].map(Ok::<_, Infallible>);
        let mut response = Response::new(StreamBody::new(stream::iter(frames)));
        *response.headers_mut() = load(head);
        Ok::<_, Infallible>(response)
    });
    let balance = Balance::builder()
        .services([("a", service)])
        .track(Http::new(classify.clone()))
        .policy(policy.clone())
        .build()
        .expect("the settings are good");
    let answer = async {
        let response = balance.oneshot(Request::new(())).await;
        response
            .expect("the service answers")
            .into_body()
            .collect()
            .await
    };
    tokio::time::timeout(Duration::from_secs(20), answer)
        .await
        .expect("a service that answers at once")
        .expect("the body is whole");
    let built = policy.built.load_full().expect("the policy has built");
    let queue = built.all()[0].subchannel().reports().queue();
    (
        queue.map(|queue| queue.in_flight),
        classify.0.load(Ordering::Relaxed),
    )
}

#[tokio::test]
async fn reports_are_read_from_trailers_and_from_heads() {
    let measures = Measures::NOTHING.with_reports(ReportRules::default());
    let (seen, _) = call(measures, None, Some("7")).await;
    assert_eq!(seen, Some(7), "from the trailers");
    let (seen, _) = call(measures, Some("5"), None).await;
    assert_eq!(seen, Some(5), "from the head");
    let (seen, _) = call(measures, Some("5"), Some("7")).await;
    assert_eq!(seen, Some(7), "the trailers are younger");
    let (seen, _) = call(measures, Some("much"), Some("")).await;
    assert_eq!(seen, None, "rubbish is no report");
}

#[tokio::test]
async fn nobody_looks_for_reports_that_no_policy_wants() {
    for measures in [
        Measures::NOTHING,
        Measures::NOTHING.with_latency(LatencyRules::default()),
    ] {
        let (seen, looked) = call(measures, Some("5"), Some("7")).await;
        assert_eq!((seen, looked), (None, 0), "{measures:?}");
    }
}
