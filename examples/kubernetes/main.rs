//! A channel to the pods of a service of Kubernetes, and what it knows of them, printed at each change.
//!
//! ```text
//! cargo run --example kubernetes --features kubernetes -- kubernetes:///greeter.prod:grpc
//! cargo run --example kubernetes --features kubernetes -- --kubeconfig ~/.kube/test --namespace prod greeter
//! ```
//!
//! Runs in a pod (`rbac.yaml` and `deployment.yaml` beside this file) or anywhere with a kubeconfig; `README.md` says
//! how. Ends with Ctrl-C; with 2 where there is no cluster, or it says no. Its calls are to nobody: pods are connected
//! to and shown.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use evenkeel::BoxError;
use evenkeel::discovery::Kubernetes;
use evenkeel::grpc::Channel;
use evenkeel::policy::RoundRobin;
use tokio::time::{Instant, sleep};

/// How often the channel's report is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A channel to the pods of a service of Kubernetes, and what it knows of them.
#[derive(Debug, Parser)]
#[command(name = "kubernetes")]
struct Options {
    /// The target, as kubernetes:///service.namespace:port, or the name of a service.
    target: String,

    /// The namespace of the service; with a target the target says it. Default the kubeconfig's, or the pod's own.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,

    /// The port by its name, or the number that the pods have; with a target the target says it. Default the only one.
    #[arg(long, value_name = "PORT")]
    port: Option<String>,

    /// The kubeconfig, in place of $KUBECONFIG, ~/.kube/config and the pod's service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// Ends after so many seconds, with 0 if any pod is connected to and else with 2.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
}

impl Options {
    fn channel(self) -> Result<Channel, BoxError> {
        // With one connection for each pod, where the default of gRPC would have a single one.
        let builder = Channel::builder().policy(RoundRobin::default());
        if self.target.starts_with("kubernetes:") {
            let others = self.namespace.is_some() || self.port.is_some();
            if others || self.kubeconfig.is_some() || self.context.is_some() {
                return Err("beside a target only --seconds can be said".into());
            }
            return Ok(builder.target(&self.target).build()?);
        }
        let mut source = match &self.namespace {
            Some(namespace) => Kubernetes::service(namespace, &self.target)?,
            None => Kubernetes::own_service(&self.target)?,
        };
        if let Some(port) = self.port {
            source = source.with_port(port);
        }
        if let Some(path) = self.kubeconfig {
            source = source.with_kubeconfig(path);
        }
        if let Some(context) = self.context {
            source = source.with_context(context);
        }
        Ok(builder.discovery(source.updates()?).build()?)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run(options: Options) -> Result<(), BoxError> {
    let end = options.seconds.map(Duration::from_secs);
    let channel = options.channel()?;
    let begin = Instant::now();
    let mut last = String::new();
    loop {
        let report = channel.report();
        if let (false, Some(error)) = (report.resolved, &report.discovery_error) {
            return Err(error.clone().into());
        }
        let mut now = String::new();
        if report.resolved {
            now += &format!("{} of {} pods\n", ready(&channel), report.endpoints.len());
        }
        for endpoint in &report.endpoints {
            now += &format!("  {endpoint}\n");
        }
        if let Some(error) = &report.discovery_error {
            now += &format!("  the last state stands: {error}\n");
        }
        if now != last {
            print!("{now}");
            last = now;
        }
        if end.is_some_and(|end| begin.elapsed() >= end) {
            return match ready(&channel) {
                0 => Err("no pod is connected to".into()),
                _ => Ok(()),
            };
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            stop = tokio::signal::ctrl_c() => return Ok(stop?),
        }
    }
}

fn ready(channel: &Channel) -> usize {
    let endpoints = channel.report().endpoints.into_iter();
    endpoints
        .filter(|e| e.state == evenkeel::ConnectivityState::Ready)
        .count()
}
