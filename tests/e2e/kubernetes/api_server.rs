//! A server on loopback that lists and watches EndpointSlices as Kubernetes' API server does, and fails as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// One request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `list` or `watch`.
    pub verb: &'static str,
    /// The path of its URI.
    pub path: String,
    /// What its URI asks for, decoded.
    pub query: BTreeMap<String, String>,
    /// The header of that name.
    pub authorization: Option<String>,
}

/// How the next request of a verb is refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// More headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body, as it is.
    pub body: String,
}

impl Refusal {
    /// With a `Status` as the API server writes it.
    pub fn status(code: u16, reason: &str, message: &str) -> Self {
        let body = status(code, reason, message).to_string();
        Self {
            status: code,
            headers: Vec::new(),
            body,
        }
    }
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

type Chunks = UnboundedSender<Result<Frame<Bytes>, io::Error>>;

#[derive(Default)]
struct State {
    slices: BTreeMap<String, Value>,
    version: u64,
    /// Every event by the version that it made.
    history: Vec<(u64, String)>,
    /// What came before is forgotten.
    oldest: u64,
    /// Whether what is forgotten is told by the HTTP status, and not by an event.
    gone_by_status: bool,
    watches: Vec<Chunks>,
    refusals: BTreeMap<&'static str, VecDeque<Refusal>>,
    /// Every further request of this verb gets no answer.
    silent: Option<&'static str>,
    /// Watches end as soon as they have begun.
    ends_at_once: bool,
    asked: Vec<Asked>,
    /// How many slices a page of a list has, whatever the limit.
    page: Option<usize>,
}

/// A running server. It goes when dropped.
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    task: AbortHandle,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ApiServer {
    /// Begins, without TLS and without slices.
    pub async fn start() -> Self {
        Self::serve(None).await
    }

    /// Begins, with TLS if it is given.
    pub async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            version: 100,
            ..State::default()
        }));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    continue;
                };
                let (state, tls) = (shared.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => connection(socket, state).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(socket).await {
                                connection(stream, state).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            state,
            address,
            task: task.abort_handle(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client without retries of its own.
    pub fn client(&self) -> kube::Client {
        let mut config = kube::Config::new(format!("http://{}", self.address).parse().unwrap());
        config.default_namespace = "own".into();
        config.default_retry = false;
        // None of the system's certificates are needed.
        config.root_cert = Some(Vec::new());
        kube::Client::try_from(config).unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a slice, or changes it.
    pub fn put(&self, mut slice: Value) {
        let mut state = self.state();
        state.version += 1;
        let name = slice["metadata"]["name"].as_str().unwrap().to_owned();
        slice["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let kind = match state.slices.insert(name, slice.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        state.tell(kind, slice);
    }

    /// Takes a slice out.
    pub fn delete(&self, name: &str) {
        let mut state = self.state();
        let mut slice = state.slices.remove(name).expect("there is such a slice");
        state.version += 1;
        slice["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.tell("DELETED", slice);
    }

    /// Changes what nobody watches, so that the version goes on, and says so.
    pub fn bookmark(&self) -> u64 {
        let mut state = self.state();
        state.version += 10;
        let version = state.version;
        let bookmark = json!({"type": "BOOKMARK", "object": {
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
            "endpoints": null, "ports": null, "addressType": "",
        }});
        state.say(&format!("{bookmark}\n"));
        version
    }

    /// Forgets what has happened so far.
    pub fn forget(&self, gone_by_status: bool) {
        let mut state = self.state();
        state.version += 1;
        state.oldest = state.version;
        state.history.clear();
        state.gone_by_status = gone_by_status;
    }

    /// Says this on every watch, as it is.
    pub fn say(&self, text: &str) {
        self.state().say(text);
    }

    /// An event of the kind ERROR.
    pub fn say_error(&self, code: u16, reason: &str, message: &str) {
        let event = json!({"type": "ERROR", "object": status(code, reason, message)});
        self.say(&format!("{event}\n"));
    }

    /// Ends every watch, as when its time is over.
    pub fn end_watches(&self) {
        self.state().watches.clear();
    }

    /// Cuts the connections of every watch in the middle.
    pub fn cut_watches(&self) {
        for watch in self.state().watches.drain(..) {
            let _ = watch.unbounded_send(Err(io::Error::other("cut")));
        }
    }

    /// Ends watches as soon as they have begun.
    pub fn end_at_once(&self, ends: bool) {
        self.state().ends_at_once = ends;
    }

    /// Refuses the next request of this verb.
    pub fn refuse(&self, verb: &'static str, refusal: Refusal) {
        let mut state = self.state();
        state.refusals.entry(verb).or_default().push_back(refusal);
    }

    /// Gives no answer to this verb from now on.
    pub fn silence(&self, verb: Option<&'static str>) {
        self.state().silent = verb;
    }

    /// Lists pages of this many.
    pub fn page(&self, page: usize) {
        self.state().page = Some(page);
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// How many requests of this verb there were.
    pub fn count(&self, verb: &str) -> usize {
        let state = self.state();
        state.asked.iter().filter(|a| a.verb == verb).count()
    }

    /// How many watches there are now.
    pub fn watches(&self) -> usize {
        let mut state = self.state();
        state.watches.retain(|watch| !watch.is_closed());
        state.watches.len()
    }
}

impl State {
    fn tell(&mut self, kind: &str, slice: Value) {
        let event = format!("{}\n", json!({"type": kind, "object": slice}));
        self.history.push((self.version, event.clone()));
        self.say(&event);
    }

    /// In two chunks, so that each event is cut somewhere.
    fn say(&mut self, text: &str) {
        let (a, b) = text.as_bytes().split_at(text.len() / 2);
        self.watches.retain(|watch| {
            [a, b].into_iter().all(|part| {
                let frame = Frame::data(Bytes::copy_from_slice(part));
                watch.unbounded_send(Ok(frame)).is_ok()
            })
        });
    }
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    state: Arc<Mutex<State>>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(&request, &state).await) }
    });
    // A client that goes, or a watch that is cut, is no failure here.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn whole(status: StatusCode, text: String) -> Answer {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}

async fn answer(request: &Request<Incoming>, state: &Mutex<State>) -> Answer {
    let query = request.uri().query().unwrap_or_default();
    let query: BTreeMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| {
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8_lossy();
            (name.to_owned(), value.into_owned())
        })
        .collect();
    let verb = match query.get("watch").map(String::as_str) {
        Some("true") => "watch",
        _ => "list",
    };
    let authorization = request.headers().get("authorization");
    let asked = Asked {
        verb,
        path: request.uri().path().to_owned(),
        authorization: authorization.map(|value| value.to_str().unwrap().to_owned()),
        query: query.clone(),
    };
    let silent = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked);
        let refusal = state
            .refusals
            .get_mut(verb)
            .and_then(|refusals| refusals.pop_front());
        if let Some(refusal) = refusal {
            let status = StatusCode::from_u16(refusal.status).unwrap();
            let mut response = whole(status, refusal.body);
            for (name, value) in refusal.headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            return response;
        }
        state.silent == Some(verb)
    };
    if silent {
        // Longer than any test waits.
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    let mut state = state.lock().unwrap();
    match verb {
        "watch" => watch(&mut state, &query),
        _ => list(&state, &query),
    }
}

fn list(state: &State, query: &BTreeMap<String, String>) -> Answer {
    let from: usize = query
        .get("continue")
        .map_or(0, |from| from.parse().unwrap());
    let page = state.page.unwrap_or(usize::MAX);
    // Slices of a list name no kind of their own.
    let items = state.slices.values().skip(from).take(page).map(|slice| {
        let mut slice = slice.clone();
        if let Some(slice) = slice.as_object_mut() {
            slice.remove("kind");
            slice.remove("apiVersion");
        }
        slice
    });
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if from.saturating_add(page) < state.slices.len() {
        metadata["continue"] = json!((from + page).to_string());
    }
    let list = json!({
        "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata, "items": items.collect::<Vec<_>>(),
    });
    whole(StatusCode::OK, list.to_string())
}

fn watch(state: &mut State, query: &BTreeMap<String, String>) -> Answer {
    let version = query.get("resourceVersion").map(|text| text.parse());
    let version: u64 = version.expect("a watch names a version").expect("a number");
    let (chunks, frames) = unbounded();
    if version < state.oldest {
        let message = format!("too old resource version: {version} ({})", state.oldest);
        let gone = status(410, "Expired", &message);
        if state.gone_by_status {
            return whole(StatusCode::GONE, gone.to_string());
        }
        let event = format!("{}\n", json!({"type": "ERROR", "object": gone}));
        let _ = chunks.unbounded_send(Ok(Frame::data(Bytes::from(event))));
    } else {
        for (_, event) in state.history.iter().filter(|(at, _)| *at > version) {
            let event = Bytes::copy_from_slice(event.as_bytes());
            let _ = chunks.unbounded_send(Ok(Frame::data(event)));
        }
        if !state.ends_at_once {
            state.watches.push(chunks);
        }
    }
    // The head is sent at once, as the API server does.
    let body = StreamBody::new(frames.chain(stream::empty()));
    Response::new(BodyExt::boxed(body))
}
