//! Reports beside the calls: a stream of them that ends with its caller.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::Body;
use tokio::time::sleep;
use tonic::Status;
use tonic::codec::{BufferSettings, EncodeBody, SingleMessageCompressionOverride, Streaming};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::error::BoxError;
use crate::outcome::{MOST_MESSAGE_BYTES, OUT_OF_BAND_PATH, interval_of};
use crate::proto::orca::OrcaLoadReport;
use crate::proto::orca_service::OrcaLoadReportRequest;
use crate::server::record::Record;

/// The least interval, unless the layer is told another: that of gRPC's servers in C++ and Java.
pub(super) const LEAST_INTERVAL: Duration = Duration::from_secs(30);

/// Each client holds a stream for as long as it is connected, so its buffers begin small.
const BUFFER_BYTES: usize = 512;

/// Whether a request for this path asks for reports beside the calls.
pub(super) fn is_out_of_band(path: &str) -> bool {
    path == OUT_OF_BAND_PATH
}

/// The body of an answer.
pub(super) type Reports = Pin<Box<dyn Body<Data = Bytes, Error = Status> + Send + Sync>>;

/// What the next report waits for.
enum Turn {
    /// To know what is asked for.
    Read(Box<Streaming<OrcaLoadReportRequest>>),
    Interval(Duration),
}

/// The body of the answer to `request`: a report at once, and one in each interval, of at least `least`.
/// Ends when the record says so, with UNAVAILABLE.
pub(super) fn reports<B>(request: B, record: Arc<Record>, least: Duration) -> Reports
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    let buffers = BufferSettings::new(BUFFER_BYTES, MOST_MESSAGE_BYTES);
    let decoder = ProstDecoder::new(buffers);
    let request = Streaming::new_request(decoder, request, None, Some(MOST_MESSAGE_BYTES));
    let reports = stream::unfold(Some(Turn::Read(Box::new(request))), move |turn| {
        next(turn, record.clone(), least)
    });
    Box::pin(EncodeBody::new_server(
        ProstEncoder::new(buffers),
        reports,
        None,
        SingleMessageCompressionOverride::default(),
        None,
    ))
}

async fn next(
    turn: Option<Turn>,
    record: Arc<Record>,
    least: Duration,
) -> Option<(Result<OrcaLoadReport, Status>, Option<Turn>)> {
    let turn = turn?;
    let due = async {
        match turn {
            Turn::Read(mut request) => {
                let request = request.message().await;
                // What cannot be read says nothing.
                let asked = request.ok().flatten().as_ref().and_then(interval_of);
                asked.unwrap_or_default().max(least)
            }
            Turn::Interval(interval) => {
                sleep(interval).await;
                interval
            }
        }
    };
    let interval = tokio::select! {
        biased;
        () = record.streams_end() => {
            let status = Status::unavailable("the server ends its streams of load reports");
            return Some((Err(status), None));
        }
        interval = due => interval,
    };
    let report = record.current().to_orca();
    Some((Ok(report), Some(Turn::Interval(interval))))
}

#[cfg(test)]
mod tests;
