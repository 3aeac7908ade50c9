//! The snippets of the README compile and run as they stand: each one below is compared with it.
#![cfg(feature = "grpc")]

pub mod support;

use std::time::Duration;

use support::proto::demo_client::DemoClient as GreeterClient;
use tower::{BoxError, ServiceExt, service_fn};

#[tokio::test]
async fn the_first_snippet() -> Result<(), BoxError> {
    // [snippet
    #[rustfmt::skip]
    let channel = evenkeel::grpc::Channel::builder()
        .endpoints(["http://10.0.0.1:50051", "http://10.0.0.2:50051"])
        .policy(evenkeel::policy::RoundRobin::default())   // leave it out for the default
        .build()?;
    let mut client = GreeterClient::new(channel);
    // snippet]
    let _ = &mut client;
    Ok(())
}

#[tokio::test]
async fn the_second_snippet() -> Result<(), BoxError> {
    // [snippet
    let (endpoints, updates) = evenkeel::discovery::Handle::new(["http://10.0.0.1:50051"])?;
    let channel = evenkeel::grpc::Channel::builder()
        .discovery(updates)
        .timeout(Duration::from_secs(2))
        .http2_with(|http2| http2.keep_alive_interval = Some(Duration::from_secs(30)))
        .build()?;
    let mut client = GreeterClient::new(channel.clone());

    endpoints.insert("http://10.0.0.2:50051")?;
    endpoints.remove("http://10.0.0.1:50051");
    for endpoint in channel.report().endpoints {
        println!("{endpoint}");
    }
    // snippet]
    let _ = &mut client;
    Ok(())
}

#[tokio::test]
async fn the_shutdown_snippet() -> Result<(), BoxError> {
    let channel = evenkeel::grpc::Channel::builder()
        .endpoints(["http://10.0.0.1:50051"])
        .build()?;
    // [snippet
    let ended = channel.shutdown(Duration::from_secs(30)).await;
    if !ended.is_clean() {
        eprintln!("{} calls were cut", ended.cut);
    }
    // snippet]
    Ok(())
}

#[tokio::test]
async fn the_drain_snippet() -> Result<(), BoxError> {
    let channel = evenkeel::grpc::Channel::builder()
        .endpoints(["http://10.0.0.1:50051"])
        .build()?;
    // [snippet
    #[rustfmt::skip]
    channel.drain("http://10.0.0.1:50051", Duration::from_secs(30)).await?;
    channel.undrain("http://10.0.0.1:50051").await?;
    // snippet]
    Ok(())
}

#[tokio::test]
async fn the_target_snippet() -> Result<(), BoxError> {
    // [snippet
    let channel = evenkeel::grpc::Channel::connect("static:///10.0.0.1:50051,10.0.0.2:50051")?;
    let local = evenkeel::grpc::Channel::builder()
        .target("unix:///run/greeter.sock")
        .policy(evenkeel::policy::PickFirst::default())
        .build()?;
    // snippet]
    drop((channel, local));
    Ok(())
}

#[cfg(feature = "file")]
#[tokio::test]
async fn the_file_snippet() -> Result<(), BoxError> {
    // [snippet
    let updates = evenkeel::discovery::File::new("/etc/shop/cart.yaml")
        .with_interval(Duration::from_millis(200))
        .updates()?;
    let channel = evenkeel::grpc::Channel::builder()
        .discovery(updates)
        .build()?;
    // snippet]
    let _ = channel;
    Ok(())
}

#[cfg(feature = "dns")]
#[tokio::test]
async fn the_dns_snippet() -> Result<(), BoxError> {
    // [snippet
    let updates = evenkeel::discovery::Dns::host("greeter.svc:50051")?
        .with_interval(Duration::from_secs(10))
        .with_keep_last_good(Duration::from_secs(3600))
        .updates()?;
    let channel = evenkeel::grpc::Channel::builder()
        .discovery(updates)
        .build()?;
    // snippet]
    drop(channel);
    Ok(())
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn the_etcd_snippet() -> Result<(), BoxError> {
    // [snippet
    use evenkeel::grpc::etcd::{Etcd, Register};

    let me = evenkeel::Endpoint::new("http://10.0.0.1:50051").with_weight(3);
    let registration =
        Register::new(["10.0.0.2:2379"], "services/cart/10.0.0.1:50051", me).start()?;

    let updates = Etcd::prefix(["10.0.0.2:2379"], "services/cart/").updates()?;
    let channel = evenkeel::grpc::Channel::builder()
        .discovery(updates)
        .build()?;
    // snippet]
    drop((registration, channel));
    Ok(())
}

#[cfg(feature = "kubernetes")]
#[tokio::test]
async fn the_kubernetes_snippet() -> Result<(), BoxError> {
    // [snippet
    let updates = evenkeel::discovery::Kubernetes::service("prod", "greeter")?
        .with_port("grpc")
        .updates()?;
    let channel = evenkeel::grpc::Channel::builder()
        .discovery(updates)
        .build()?;
    // snippet]
    drop(channel);
    Ok(())
}

#[tokio::test]
async fn the_retry_snippet() -> Result<(), BoxError> {
    use evenkeel::retry::RetryPolicy;
    use tonic::Code;
    // [snippet
    let channel = evenkeel::grpc::Channel::builder()
        .endpoints(["http://10.0.0.1:50051", "http://10.0.0.2:50051"])
        .retry(RetryPolicy::default().with_codes([Code::Unavailable, Code::ResourceExhausted]))
        .build()?;
    // snippet]
    drop(channel);
    Ok(())
}

#[tokio::test]
async fn the_hedging_snippet() -> Result<(), BoxError> {
    use evenkeel::retry::HedgePolicy;
    // [snippet
    #[rustfmt::skip]
    let channel = evenkeel::grpc::Channel::builder()
        .endpoints(["http://10.0.0.1:50051", "http://10.0.0.2:50051"])
        .hedge(HedgePolicy::default())   // .with_delay(..) for a fixed delay, .with_quantile(0.99) for fewer
        .build()?;
    // snippet]
    drop(channel);
    Ok(())
}

#[tokio::test]
async fn the_topology_snippet() -> Result<(), BoxError> {
    use evenkeel::Endpoint;
    use evenkeel::topology::{MetadataSubsets, NearestFirst, Topology};
    // [snippet
    #[rustfmt::skip]
    let near = |address: &'static str, zone| Endpoint::new(address).with_locality(zone);
    #[rustfmt::skip]
    let channel = evenkeel::grpc::Channel::builder()
        .endpoints([
            near("http://10.0.0.1:50051", "eu-west-1/eu-west-1a".parse()?).with_metadata([("version", "canary")]),
            near("http://10.0.0.2:50051", "eu-west-1/eu-west-1b".parse()?).with_metadata([("version", "stable")]),
            near("http://10.9.0.1:50051", "us-east-1".parse()?).with_priority(1),
        ])
        .topology(
            Topology::default()
                .with_locality("eu-west-1/eu-west-1a".parse()?)   // where this client runs
                .with_localities(NearestFirst::default())         // or ZoneAware, or WeightedLocalities
                .with_subsets(MetadataSubsets::by("version").from_header("x-version")?),
        )
        .build()?;
    // snippet]
    drop(channel);
    Ok(())
}

#[tokio::test]
async fn the_health_snippet() -> Result<(), BoxError> {
    use evenkeel::grpc::HealthCheck;
    // [snippet
    #[rustfmt::skip]
    let channel = evenkeel::grpc::Channel::builder()
        .endpoints(["http://10.0.0.1:50051", "http://10.0.0.2:50051"])
        .health_check(HealthCheck::of("shop.Cart"))   // or HealthCheck::new(), for the server as a whole
        .build()?;
    // snippet]
    drop(channel);
    Ok(())
}

#[cfg(feature = "service-config")]
#[tokio::test]
async fn the_service_config_snippet() -> Result<(), BoxError> {
    // [snippet
    #[rustfmt::skip]
    let channel = evenkeel::grpc::Channel::builder()
        .endpoints(["http://10.0.0.1:50051", "http://10.0.0.2:50051"])
        .service_config(r#"{
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [{"name": [{"service": "shop.Cart"}], "timeout": "1.5s", "waitForReady": true}]
        }"#)
        .build()?;
    // snippet]
    drop(channel);
    Ok(())
}

#[test]
fn the_server_snippet() {
    // [snippet
    let layer = evenkeel::server::LoadReportLayer::new();
    let server = tonic::transport::Server::builder().layer(layer);
    // snippet]
    let _ = server;
}

#[tokio::test]
async fn the_tower_snippet() -> Result<(), BoxError> {
    // [snippet
    #[rustfmt::skip]
    let services = ["a", "b", "c"].map(|name| (name, service_fn(move |n: u32| async move {
        Ok::<_, BoxError>(format!("{name} got {n}"))
    })));
    let balance = evenkeel::Balance::builder().services(services).build()?;
    let answer = balance.oneshot(7).await?;
    // snippet]
    assert!(answer.ends_with(" got 7"));
    Ok(())
}

#[test]
fn the_readme_has_them_word_for_word() {
    let readme = include_str!("../README.md");
    let source = include_str!("readme.rs");
    let mut snippets = 0;
    for part in source.split("// [snippet\n").skip(1) {
        let Some((snippet, _)) = part.split_once("    // snippet]") else {
            continue;
        };
        let lines = snippet
            .lines()
            .filter(|line| !line.contains("rustfmt::skip"));
        let snippet: Vec<&str> = lines.map(|l| l.strip_prefix("    ").unwrap_or(l)).collect();
        let snippet = snippet.join("\n");
        assert!(
            readme.contains(&snippet),
            "the README has another version of\n{snippet}"
        );
        snippets += 1;
    }
    let written = readme.matches("```rust").count();
    assert_eq!(
        snippets, written,
        "every snippet of the README is tried here"
    );
}
