//! A server behind a network of its own, which can be cut without a word to either end.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use evenkeel::BoxError;

/// A link-local network that nobody else uses.
const HERE: Ipv4Addr = Ipv4Addr::new(169, 254, 217, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(169, 254, 217, 2);

/// An address of a card that is nowhere: frames to it are taken by nobody, and nobody is told.
const NOWHERE: &str = "02:00:00:00:00:01";

/// One name for all runs: a run that was broken off leaves its namespace, and the next one takes it away.
const NAME: &str = "evenkeel-reliability";
const OUTSIDE: &str = "evenkeel-out";
const INSIDE: &str = "evenkeel-in";

/// A network namespace with a server in it. Both go when it is dropped. There is one at a time.
pub(crate) struct Namespace {
    server: Option<Child>,
    pub(crate) uri: String,
}

impl Namespace {
    /// Needs root.
    pub(crate) fn start() -> Result<Self, BoxError> {
        take_away();
        let (name, outside, inside) = (NAME, OUTSIDE, INSIDE);
        let mut namespace = Self {
            server: None,
            uri: String::new(),
        };
        ip(&["netns", "add", name])?;
        ip(&[
            "link", "add", outside, "type", "veth", "peer", "name", inside,
        ])?;
        ip(&["link", "set", inside, "netns", name])?;
        ip(&["addr", "add", &format!("{HERE}/30"), "dev", outside])?;
        ip(&["link", "set", outside, "up"])?;
        ip(&[
            "-n",
            name,
            "addr",
            "add",
            &format!("{THERE}/30"),
            "dev",
            inside,
        ])?;
        ip(&["-n", name, "link", "set", inside, "up"])?;
        let program = std::env::current_exe()?;
        let mut server = Command::new("ip")
            .args(["netns", "exec", name])
            .arg(program)
            .args(["--serve", &SocketAddr::from((THERE, 0)).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = server.stdout.take().ok_or("no output")?;
        namespace.server = Some(server);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address: SocketAddr = line.trim().parse()?;
        namespace.uri = format!("http://{address}");
        Ok(namespace)
    }

    /// Loses all packets, or no more.
    pub(crate) fn cut(&self, cut: bool) -> Result<(), BoxError> {
        let (name, outside, inside) = (NAME, OUTSIDE, INSIDE);
        let (here, there) = (HERE.to_string(), THERE.to_string());
        if cut {
            ip(&[
                "neigh",
                "replace",
                &there,
                "lladdr",
                NOWHERE,
                "dev",
                outside,
                "nud",
                "permanent",
            ])?;
            ip(&[
                "-n",
                name,
                "neigh",
                "replace",
                &here,
                "lladdr",
                NOWHERE,
                "dev",
                inside,
                "nud",
                "permanent",
            ])
        } else {
            ip(&["neigh", "del", &there, "dev", outside])?;
            ip(&["-n", name, "neigh", "del", &here, "dev", inside])
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        take_away();
    }
}

/// What there is of a namespace, if there is one.
fn take_away() {
    let _ = ip(&["link", "del", OUTSIDE]);
    let _ = ip(&["netns", "del", NAME]);
}

fn ip(arguments: &[&str]) -> Result<(), BoxError> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| format!("ip cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), why.trim()).into())
}
