//! One channel to servers of two versions and three models: calls name what they want, and the rest is split.
//!
//! ```text
//! cargo run --release --example content_routing
//! ```
//!
//! Six real servers. First by `version`: 5 % of the calls to the canary, those with the header `x-version` to
//! where that says, and all of them to the stable version when the canary is gone. Then by `model`, for servers
//! that each hold one: by the path of the method, or by a request extension.
//!
//! Ends with 0 if every call went where it should.

#[path = "../tests/support/mod.rs"]
pub mod support;

use std::collections::BTreeMap;
use std::process::ExitCode;

use evenkeel::call::EndpointSubset;
use evenkeel::discovery::Handle;
use evenkeel::grpc::Channel;
use evenkeel::topology::{MetadataSubsets, SubsetFallback, Topology};
use evenkeel::{BoxError, Endpoint};
use tonic::{Code, Request, Status};

use support::connected::connected;
use support::proto::EchoRequest;
use support::proto::demo_client::DemoClient;
use support::verdict::verdict;
use support::{Behaviour, TestServer};

const CALLS: usize = 2_000;

#[tokio::main]
async fn main() -> ExitCode {
    verdict(run().await)
}

/// Returns the rules that did not hold.
async fn run() -> Result<Vec<String>, BoxError> {
    let mut broken = by_version().await?;
    broken.extend(by_model().await?);
    Ok(broken)
}

/// A server for each name; the part of its name before the number is its value.
fn servers(names: &[&str]) -> Vec<TestServer> {
    let start = |name: &&str| TestServer::start(*name, Behaviour::prompt());
    names.iter().map(start).collect()
}

fn value(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(value, _)| value)
}

fn endpoints(servers: &[TestServer], by: &'static str) -> Vec<Endpoint> {
    let endpoint = |server: &TestServer| {
        Endpoint::new(server.uri()).with_metadata([(by, value(server.name()))])
    };
    servers.iter().map(endpoint).collect()
}

async fn by_version() -> Result<Vec<String>, BoxError> {
    let servers = servers(&["stable-1", "stable-2", "canary-1"]);
    let all = endpoints(&servers, "version");
    let (handle, updates) = Handle::new(all.clone())?;
    let rules = MetadataSubsets::by("version")
        .from_header("x-version")?
        .with_split([("stable", 95), ("canary", 5)])
        .with_fallback(SubsetFallback::Subset("stable".into()));
    let channel = Channel::builder()
        .discovery(updates)
        .topology(Topology::default().with_subsets(rules))
        .build()?;
    connected(&channel).await?;
    let mut broken = Vec::new();

    let plain = counts(&channel, || Ok(Request::new(EchoRequest::default()))).await?;
    println!("calls that name no version:        {plain:?}");
    let canary = plain.get("canary").copied().unwrap_or(0);
    // 5 % of 2,000 are 100; five times the standard deviation of a binomial.
    if canary.abs_diff(100) > 49 {
        broken.push(format!(
            "{canary} of {CALLS} calls went to the canary, 100 wanted"
        ));
    }

    let named = || {
        let mut request = Request::new(EchoRequest::default());
        request
            .metadata_mut()
            .insert("x-version", "canary".parse()?);
        Ok(request)
    };
    let seen = counts(&channel, named).await?;
    println!("calls with x-version: canary:      {seen:?}");
    if seen != BTreeMap::from([("canary".to_owned(), CALLS)]) {
        broken.push("a call that named the canary went elsewhere".to_owned());
    }

    handle.replace(all.into_iter().take(2))?;
    while channel.report().endpoints.len() > 2 {
        tokio::task::yield_now().await;
    }
    let seen = counts(&channel, named).await?;
    println!("the same, after the canary left:   {seen:?}");
    if seen != BTreeMap::from([("stable".to_owned(), CALLS)]) {
        broken.push("a version that is gone did not fall back to the stable one".to_owned());
    }
    Ok(broken)
}

async fn by_model() -> Result<Vec<String>, BoxError> {
    let servers = servers(&["llama-70b-1", "llama-70b-2", "whisper-1"]);
    let rules = MetadataSubsets::by("model")
        .from_path_prefix("/evenkeel.demo.v1.Demo/Echo", "llama-70b")
        .with_fallback(SubsetFallback::None);
    let channel = Channel::builder()
        .endpoints(endpoints(&servers, "model"))
        .topology(Topology::default().with_subsets(rules))
        .build()?;
    connected(&channel).await?;
    let mut broken = Vec::new();

    let by_path = counts(&channel, || Ok(Request::new(EchoRequest::default()))).await?;
    println!("calls by their method's path:      {by_path:?}");
    if by_path != BTreeMap::from([("llama-70b".to_owned(), CALLS)]) {
        broken.push("a call went to another model than its method's".to_owned());
    }

    let wanting = |model: &'static str| {
        let mut request = Request::new(EchoRequest::default());
        request.extensions_mut().insert(EndpointSubset::from(model));
        request
    };
    let seen = counts(&channel, || Ok(wanting("whisper"))).await?;
    println!("calls with the extension whisper:  {seen:?}");
    if seen != BTreeMap::from([("whisper".to_owned(), CALLS)]) {
        broken.push("the extension did not come before the path".to_owned());
    }

    let status: Status = match DemoClient::new(channel).echo(wanting("gpt")).await {
        Ok(_) => return Err("a model that nobody has was answered".into()),
        Err(status) => status,
    };
    println!("a call for a model that nobody has: {:?}", status.code());
    if status.code() != Code::Unavailable {
        broken.push(format!("a model that nobody has: {status}"));
    }
    Ok(broken)
}

/// How many of the calls were answered by a server of each value.
async fn counts(
    channel: &Channel,
    request: impl Fn() -> Result<Request<EchoRequest>, BoxError>,
) -> Result<BTreeMap<String, usize>, BoxError> {
    let mut client = DemoClient::new(channel.clone());
    let mut seen = BTreeMap::new();
    for _ in 0..CALLS {
        let answer = client.echo(request()?).await?.into_inner();
        *seen.entry(value(&answer.server).to_owned()).or_default() += 1;
    }
    Ok(seen)
}
