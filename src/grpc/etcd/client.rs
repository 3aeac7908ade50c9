//! What is asked of etcd, over a channel of this crate.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tonic::{IntoRequest, Request, Response, Status, Streaming};

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::grpc::channel::Channel;
#[cfg(feature = "tls")]
use crate::grpc::tls::Tls;
use crate::math::Backoff;
use crate::policy::RoundRobin;
use crate::proto::etcd::auth_client::AuthClient;
use crate::proto::etcd::kv_client::KvClient;
use crate::proto::etcd::lease_client::LeaseClient;
use crate::proto::etcd::watch_client::WatchClient;
use crate::proto::etcd::watch_request::RequestUnion;
use crate::proto::etcd::{
    AuthenticateRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseRevokeRequest, PutRequest, RangeRequest, WatchCreateRequest,
    WatchRequest, WatchResponse,
};

/// How long a question may go without an answer: etcd's own limit for a request that commits, 5 s and twice the
/// time of an election, with room for the way.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may be silent before it is asked whether it is there. gRPC's servers allow a ping every
/// 5 min, and etcd's one every 5 s (`--grpc-keepalive-min-time`).
const PING: Duration = Duration::from_secs(30);

/// Keys of one answer. etcd's answers have no limit of their own.
const PAGE: i64 = 1000;

/// The largest answer that is read: a page of values that are far longer than addresses are.
const MOST_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// How to reach etcd.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) user: Option<(String, String)>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
    pub(super) backoff: Backoff,
    pub(super) seed: Option<u64>,
}

impl fmt::Debug for Settings {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| name);
        f.debug_struct("Settings")
            .field("endpoints", &self.endpoints)
            .field("user", &user)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

impl Settings {
    pub(super) fn new<E: Into<Endpoint>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        let endpoints = endpoints.into_iter().map(|endpoint| {
            let endpoint: Endpoint = endpoint.into();
            let address = endpoint.address();
            match address.contains("://") || address.starts_with("unix:") {
                true => endpoint,
                false => Endpoint::new(format!("http://{address}")),
            }
        });
        Self {
            endpoints: endpoints.collect(),
            user: None,
            #[cfg(feature = "tls")]
            tls: None,
            backoff: Backoff::default().with_max(Duration::from_secs(30)),
            seed: None,
        }
    }

    /// Connects, in the runtime that is there.
    pub(super) fn client(&self) -> Result<Client, Error> {
        if let Some(mistake) = self.backoff.mistake() {
            return Err(Error::config("backoff", mistake));
        }
        let mut builder = Channel::builder()
            .endpoints(self.endpoints.iter().cloned())
            // No server of etcd reports a load, and a leader that is not asked answers through those that are.
            .policy(RoundRobin::default())
            .backoff(self.backoff)
            .http2_with(|http2| {
                http2.keep_alive_interval = Some(PING);
            });
        if let Some(seed) = self.seed {
            builder = builder.seed(seed);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            builder = builder.tls(tls.clone());
        }
        Ok(Client {
            channel: builder.build()?,
            user: self.user.clone(),
        })
    }
}

/// A connection to etcd. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    channel: Channel,
    user: Option<(String, String)>,
}

impl Client {
    /// All keys that begin with `prefix`, at one revision, which comes with them.
    pub(super) async fn range(
        &self,
        prefix: &[u8],
    ) -> Result<(i64, BTreeMap<Bytes, Bytes>), Status> {
        let mut keys = BTreeMap::new();
        let mut client =
            KvClient::new(self.channel.clone()).max_decoding_message_size(MOST_MESSAGE_BYTES);
        let mut request = RangeRequest {
            key: Bytes::copy_from_slice(prefix),
            range_end: end_of(prefix),
            limit: PAGE,
            revision: 0,
        };
        loop {
            let page = client.range(self.timed(request.clone()).await?);
            let page = page.await?.into_inner();
            if request.revision == 0 {
                request.revision = page.header.map_or(0, |header| header.revision);
            }
            let last = page.kvs.last().map(|pair| pair.key.clone());
            keys.extend(page.kvs.into_iter().map(|pair| (pair.key, pair.value)));
            match last {
                Some(last) if page.more => request.key = [&last[..], b"\0"].concat().into(),
                _ => return Ok((request.revision, keys)),
            }
        }
    }

    /// What happens to keys that begin with `prefix`, from `revision` on. The first answer says that it began.
    pub(super) async fn watch(
        &self,
        prefix: &[u8],
        revision: i64,
    ) -> Result<(WatchResponse, Streaming<WatchResponse>), Status> {
        let create = WatchCreateRequest {
            key: Bytes::copy_from_slice(prefix),
            range_end: end_of(prefix),
            start_revision: revision,
            progress_notify: true,
            fragment: true,
        };
        let create = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        // The watch lasts as long as its requests do.
        let requests = stream::once(async { create }).chain(stream::once(pending()));
        let mut request = self.request(requests).await?;
        // A member that is cut off from the others would say nothing for ever.
        let leader = tonic::metadata::MetadataValue::from_static("true");
        request.metadata_mut().insert("hasleader", leader);
        let mut client =
            WatchClient::new(self.channel.clone()).max_decoding_message_size(MOST_MESSAGE_BYTES);
        in_time(async {
            let mut words = client.watch(request).await?.into_inner();
            let first = words.message().await?;
            let first = first.ok_or_else(|| Status::unavailable("the watch did not begin"))?;
            Ok((first, words))
        })
        .await
    }

    /// A lease of `seconds`.
    pub(super) async fn grant(&self, seconds: i64) -> Result<LeaseGrantResponse, Status> {
        let request = self.timed(LeaseGrantRequest { ttl: seconds }).await?;
        let mut client = LeaseClient::new(self.channel.clone());
        let lease = client.lease_grant(request).await?.into_inner();
        match lease.error.is_empty() {
            true => Ok(lease),
            false => Err(Status::unavailable(lease.error)),
        }
    }

    pub(super) async fn put(&self, key: Bytes, value: Bytes, lease: i64) -> Result<(), Status> {
        let request = self.timed(PutRequest { key, value, lease }).await?;
        let mut client = KvClient::new(self.channel.clone());
        client.put(request).await.map(drop)
    }

    /// Has a lease live on, each time that `beats` says so. The caller bounds the wait.
    pub(super) async fn keep_alive(
        &self,
        beats: impl Stream<Item = LeaseKeepAliveRequest> + Send + 'static,
    ) -> Result<Streaming<LeaseKeepAliveResponse>, Status> {
        let request = self.request(beats).await?;
        let mut client = LeaseClient::new(self.channel.clone());
        let answers = client.lease_keep_alive(request).await;
        answers.map(Response::into_inner)
    }

    /// Ends a lease, and its keys with it.
    pub(super) async fn revoke(&self, id: i64) -> Result<(), Status> {
        let request = self.timed(LeaseRevokeRequest { id }).await?;
        let mut client = LeaseClient::new(self.channel.clone());
        client.lease_revoke(request).await.map(drop)
    }

    /// With the deadline of a question that has one answer.
    async fn timed<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = self.request(message).await?;
        request.set_timeout(PATIENCE);
        Ok(request)
    }

    /// With a new token, if a user is set: a token ends after some minutes without a question, and those here are
    /// rare.
    async fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        if let Some((name, password)) = &self.user {
            let mut asked = AuthenticateRequest {
                name: name.clone(),
                password: password.clone(),
            }
            .into_request();
            asked.set_timeout(PATIENCE);
            let mut client = AuthClient::new(self.channel.clone());
            let token = client.authenticate(asked).await?.into_inner().token;
            let token = token.parse();
            let token = token.map_err(|_| Status::internal("the token is no header value"))?;
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = timeout(PATIENCE, answer).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in 10 s")))
}

/// The first key after all that begin with `prefix`; etcd reads a zero byte as the end of all keys.
fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

/// A status in one line.
pub(super) fn said(status: &Status) -> String {
    format!("{:?}, {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_one() {
        for (prefix, end) in [
            (&b"a/"[..], &b"a0"[..]),
            (b"a\xff", b"b"),
            (b"\xff\xff", b"\0"),
        ] {
            assert_eq!(end_of(prefix), end, "{prefix:?}");
        }
    }
}
