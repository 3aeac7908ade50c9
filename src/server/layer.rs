use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tonic::server::NamedService;
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{BoxError, Error};
use crate::server::body::{Own, ReportingBody, finish};
use crate::server::out_of_band::{LEAST_INTERVAL, is_out_of_band, reports};
use crate::server::probe::{Reply, is_probe};
use crate::server::record::{Call, CallReport, LoadReporter, Record};

/// Tells the clients of a gRPC server how busy it is, in the trailers of each response, and when they ask.
///
/// | reported | measured |
/// |---|---|
/// | `cpu_utilization` | processor time of the process over that of the processors it may use: those of its affinity, or the quota of its control group (v2) if that is less. Over half a second or more, looked at when a report is made; not on platforms other than Unix |
/// | `rps_fractional`, `eps` | responses that ended, and those of them that failed by the server's fault, a second, over the last ten |
/// | `named_metrics["prequal.rif"]` | requests under way, from their arrival to the end of their response |
/// | `named_metrics["prequal.latency_us"]` | the [latency](crate::load::LatencyEstimate) that one more request should expect, up to its first data; left out if nothing was answered for a second |
///
/// What the application says goes before what is measured: [`LoadReporter::set`] for all calls,
/// [`CallReport::add`] for one. A report that it put into the trailers itself is left alone. Responses that
/// are not gRPC's are counted and not changed.
///
/// A request that its caller cancels is under way no more as soon as its future or response body is
/// dropped, and counts neither as a response nor as an error. One that failed by the server's fault says
/// nothing of the latency.
///
/// # Probes
/// Clients that balance by what servers say ask beside their calls too, by the method
/// `evenkeel.load.v1.LoadProbe/Probe` (its proto is in the repository). The layer answers it with the same
/// report; the service inside does not see it, and it counts neither as a request nor in the rates and the
/// latency. It does wait for the service inside to be ready, as any request. So the layer must be around the
/// whole server, as in [the example](crate::server): a single service of it gets only requests for itself. Who
/// may call it is for layers around this one to say; it tells no more than the trailers do.
///
/// # Beside the calls
/// A client may have reports sent to it out of band (gRFC A51), which is for calls that are rare, or last long:
/// by the method `xds.service.orca.v3.OpenRcaService/StreamCoreMetrics`, as gRPC's `weighted_round_robin` and
/// [ours](crate::policy::OrcaWeightedRoundRobin::with_out_of_band_reports) do. The layer answers with a stream:
/// the report as it is, at once and then in each interval that the client asked for, but not more often than
/// [`with_min_report_interval`](Self::with_min_report_interval) says. An interval that is missing, not
/// positive, or cannot be read is that one; the names of request costs in the question are not looked at. All
/// that is said of probes holds for these streams too. They need a tokio runtime with timers.
///
/// A stream ends with its client. A server that shuts down gracefully waits for all its streams: gRPC's own
/// clients and evenkeel's hang up when they hear that it does (by GOAWAY), but not every client does, and
/// gRPC's servers then wait until somebody loses patience. Here
/// [`LoadReporter::end_streams`] ends them:
///
/// ```
/// # async fn example(reporter: evenkeel::server::LoadReporter, told_to_stop: impl Future<Output = ()>) {
/// let stop = async move {
///     told_to_stop.await;
///     reporter.end_streams();
/// };
/// // server.serve_with_shutdown(address, stop).await?;
/// # stop.await;
/// # }
/// ```
///
/// # Sockets
/// With probes and streams a connection carries two answers at once more often, so the server's sockets want
/// TCP_NODELAY, as tonic sets it where it listens itself: without it one may wait 40 ms for the client's word
/// on the other.
///
/// # Cost
/// Services under clones of one layer report together, as one server. A call costs an allocation, a lock
/// held for about a microsecond when its response begins and ends, and the report itself: about 100 bytes of
/// trailers. A stream beside the calls costs a timer, some kilobytes, and about 100 bytes for each report. The
/// processors and the quota are read once, when the layer is made.
#[derive(Debug, Clone)]
pub struct LoadReportLayer {
    reporter: LoadReporter,
    min_interval: Duration,
}

impl LoadReportLayer {
    /// A layer that has seen nothing.
    pub fn new() -> Self {
        Self {
            reporter: LoadReporter(Arc::new(Record::new())),
            min_interval: LEAST_INTERVAL,
        }
    }

    /// How often a client may have reports sent [beside its calls](Self#beside-the-calls): who asks for more,
    /// or says no time, gets one in each such interval. Default 30 s, as of gRPC's servers in C++ and Java.
    ///
    /// # Errors
    /// Zero.
    pub fn with_min_report_interval(mut self, interval: Duration) -> Result<Self, Error> {
        if interval.is_zero() {
            return Err(Error::config("min_report_interval", "is zero"));
        }
        self.min_interval = interval;
        Ok(self)
    }

    /// Where the application tells what it knows of its load.
    pub fn reporter(&self) -> LoadReporter {
        self.reporter.clone()
    }
}

impl Default for LoadReportLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for LoadReportLayer {
    type Service = LoadReporting<S>;

    fn layer(&self, inner: S) -> LoadReporting<S> {
        LoadReporting {
            inner,
            record: self.reporter.0.clone(),
            min_interval: self.min_interval,
        }
    }
}

/// A service whose responses carry load reports; see [`LoadReportLayer`].
#[derive(Clone)]
pub struct LoadReporting<S> {
    inner: S,
    record: Arc<Record>,
    min_interval: Duration,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for LoadReporting<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ReqBody: Body + Send + 'static,
    ReqBody::Error: Into<BoxError>,
    ResBody: Body,
    ResBody::Data: From<Bytes>,
{
    type Response = Response<ReportingBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let path = request.uri().path();
        if is_probe(path) {
            let reply = Reply::new(&self.record.current());
            return ResponseFuture(State::Own(Some(Own::Probe(reply))));
        }
        if is_out_of_band(path) {
            let body = request.into_body();
            let reports = reports(body, self.record.clone(), self.min_interval);
            return ResponseFuture(State::Own(Some(Own::Reports(reports))));
        }
        let report = CallReport::default();
        request.extensions_mut().insert(report.clone());
        ResponseFuture(State::Call {
            call: Some(self.record.begin(report)),
            inner: self.inner.call(request),
        })
    }
}

impl<S: NamedService> NamedService for LoadReporting<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: fmt::Debug> fmt::Debug for LoadReporting<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadReporting")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// A response of a [`LoadReporting`] to come.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F>(#[pin] State<F>);

#[pin_project(project = StateProjection)]
enum State<F> {
    Call {
        #[pin]
        inner: F,
        call: Option<Call>,
    },
    Own(Option<Own>),
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    B::Data: From<Bytes>,
{
    type Output = Result<Response<ReportingBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (inner, call) = match self.project().0.project() {
            StateProjection::Call { inner, call } => (inner, call),
            StateProjection::Own(own) => {
                let own = own.take().expect("polled after completion");
                return Poll::Ready(Ok(own.into_response()));
            }
        };
        let result = ready!(inner.poll(cx));
        let mut call = call.take();
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                if let Some(call) = call {
                    call.finish(true);
                }
                return Poll::Ready(Err(error));
            }
        };
        if let Some(call) = &mut call {
            call.responded(response.status());
        }
        // Nothing follows: what trailers would say is in the head.
        if response.body().is_end_stream()
            && let Some(call) = call.take()
        {
            if response.headers().contains_key("grpc-status") {
                finish(call, response.headers_mut());
            } else {
                call.finish(false);
            }
        }
        Poll::Ready(Ok(response.map(|body| ReportingBody::new(body, call))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
