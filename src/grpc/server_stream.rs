//! A stream from one server, beside the calls: what load reports and health checks are.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, TryFutureExt};
use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_prost::{ProstDecoder, ProstEncoder};
use tower_service::Service;

use crate::error::BoxError;
use crate::probe::{Target, WatchError};

/// There is a stream for each endpoint, so its buffers begin small.
const BUFFER_BYTES: usize = 512;

/// A method that answers with a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    pub(super) path: &'static str,
    pub(super) most_message_bytes: usize,
}

/// What a server says, until it ends the stream.
pub(super) type Words<T> = Pin<Box<dyn Stream<Item = Result<T, WatchError>> + Send>>;

/// Begins a stream by `request`, and hands its messages on as `read` reads them.
pub(super) fn open<S, B, Req, Res, T>(
    target: Target<S>,
    user_agent: &HeaderValue,
    method: Method,
    request: Req,
    mut read: impl FnMut(Res) -> T + Send + 'static,
) -> Words<T>
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    Req: Message + 'static,
    Res: Message + Default + 'static,
    T: 'static,
{
    let headers = HeaderMap::from_iter([(USER_AGENT, user_agent.clone())]);
    let mut request = tonic::Request::new(request);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    let (service, broken) = target.into_parts();
    let messages = async move {
        let mut client = Grpc::new(service).max_decoding_message_size(method.most_message_bytes);
        if let Err(error) = client.ready().await {
            let error = error.into();
            let status = Status::unavailable(error.to_string());
            broken.tell(error);
            return Err(status);
        }
        let path = PathAndQuery::from_static(method.path);
        let codec = Small::<Req, Res>::of(method);
        let response = client.server_streaming(request, path, codec).await?;
        // The client goes here: a stream must not keep a connection open that nobody else wants.
        Ok(response.into_inner())
    };
    let messages = messages.try_flatten_stream();
    Box::pin(messages.map(move |message| match message {
        Ok(message) => Ok(read(message)),
        Err(status) if status.code() == Code::Unimplemented => Err(WatchError::Unsupported),
        Err(status) => Err(WatchError::Ended(status.into())),
    }))
}

/// Messages in small buffers.
struct Small<Req, Res> {
    most_message_bytes: usize,
    messages: PhantomData<fn(Req) -> Res>,
}

impl<Req, Res> Small<Req, Res> {
    fn of(method: Method) -> Self {
        Self {
            most_message_bytes: method.most_message_bytes,
            messages: PhantomData,
        }
    }

    fn buffers(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, self.most_message_bytes)
    }
}

impl<Req, Res> fmt::Debug for Small<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Small")
    }
}

impl<Req, Res> Codec for Small<Req, Res>
where
    Req: Message + 'static,
    Res: Message + Default + 'static,
{
    type Encode = Req;
    type Decode = Res;
    type Encoder = ProstEncoder<Req>;
    type Decoder = ProstDecoder<Res>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(self.buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(self.buffers())
    }
}
