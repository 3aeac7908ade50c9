//! A server behind a network of its own, which can be broken without a word to either end.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use evenkeel::BoxError;

use crate::fault::Fault;
use crate::late::QUEUE;

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
    pub(crate) fn start(fault: Fault) -> Result<Self, BoxError> {
        take_away();
        let mut namespace = Self {
            server: None,
            uri: String::new(),
        };
        ip(&["netns", "add", NAME])?;
        ip(&[
            "link", "add", OUTSIDE, "type", "veth", "peer", "name", INSIDE,
        ])?;
        ip(&["link", "set", INSIDE, "netns", NAME])?;
        ip(&["addr", "add", &format!("{HERE}/30"), "dev", OUTSIDE])?;
        ip(&["link", "set", OUTSIDE, "up"])?;
        let there = format!("{THERE}/30");
        inside(&["ip", "addr", "add", &there, "dev", INSIDE])?;
        inside(&["ip", "link", "set", INSIDE, "up"])?;
        let program = std::env::current_exe()?;
        let mut server = Command::new("ip")
            .args(["netns", "exec", NAME])
            .arg(program)
            .args(["--serve", &SocketAddr::from((THERE, 0)).to_string()])
            .args((fault == Fault::Delayed).then_some("--late"))
            // It ends with this process, however that ends: by the end of this pipe.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = server.stdout.take().ok_or("no output")?;
        namespace.server = Some(server);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address: SocketAddr = line
            .trim()
            .parse()
            .map_err(|_| "its server did not start")?;
        namespace.uri = format!("http://{address}");
        Ok(namespace)
    }

    /// Whether this can be done here: does it, and undoes it.
    pub(crate) fn can(&self, fault: Fault) -> Result<(), BoxError> {
        self.break_by(fault)?;
        self.mend(fault)
    }

    pub(crate) fn break_by(&self, fault: Fault) -> Result<(), BoxError> {
        let rule: &[&str] = match fault {
            Fault::Delayed => &["-j", "NFQUEUE", "--queue-num", QUEUE],
            Fault::Lossy => &[
                "-m",
                "statistic",
                "--mode",
                "random",
                "--probability",
                "0.1",
                "-j",
                "DROP",
            ],
            Fault::Reset => &["-j", "REJECT", "--reject-with", "tcp-reset"],
            _ => return self.cut(),
        };
        inside(&[&["iptables", "-A", "INPUT", "-p", "tcp"], rule].concat())
    }

    pub(crate) fn mend(&self, fault: Fault) -> Result<(), BoxError> {
        if fault != Fault::Dropped {
            return inside(&["iptables", "-F", "INPUT"]);
        }
        ip(&["neigh", "del", &THERE.to_string(), "dev", OUTSIDE])?;
        inside(&["ip", "neigh", "del", &HERE.to_string(), "dev", INSIDE])
    }

    /// Loses all packets, both ways.
    fn cut(&self) -> Result<(), BoxError> {
        let replace = |to: Ipv4Addr, by: &str| {
            let to = to.to_string();
            [
                "neigh",
                "replace",
                &to,
                "lladdr",
                NOWHERE,
                "dev",
                by,
                "nud",
                "permanent",
            ]
            .map(str::to_owned)
        };
        let outside = replace(THERE, OUTSIDE);
        ip(&outside.each_ref().map(String::as_str))?;
        let within = replace(HERE, INSIDE);
        let within = within.each_ref().map(String::as_str);
        inside(&[&["ip"], &within[..]].concat())
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

/// Runs a program inside the namespace.
fn inside(command: &[&str]) -> Result<(), BoxError> {
    ip(&[&["netns", "exec", NAME], command].concat())
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
