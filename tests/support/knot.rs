//! A real DNS server: knot, on a port of loopback, with one zone that tests change. It needs nothing of the other
//! modules here, so that a test may have it alone.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// The zone that is served. `broken.example.` is served too, and answers SERVFAIL: its file is missing.
pub const ZONE: &str = "evenkeel.example.";

/// Where Debian's package puts both programs, which is not on every user's path.
const SBIN: &str = "/usr/sbin";

/// A running server. It goes when dropped.
pub struct Knot {
    folder: PathBuf,
    address: SocketAddr,
    server: Option<Child>,
}

impl Knot {
    /// Starts it. `None`, with a line that says so, where knot is not installed.
    pub fn start() -> Option<Self> {
        if program("knotd").arg("--version").output().is_err() {
            // The gate sets this, so that there nothing is skipped.
            assert!(
                std::env::var_os("EVENKEEL_REQUIRE_KNOT").is_none(),
                "knotd is not installed, and is required"
            );
            eprintln!("skipped: this test needs knotd and knotc (Debian's package knot)");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("evenkeel-knot-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut knot = Self {
            folder,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            server: None,
        };
        // Between the choice of a port and knot's taking it somebody else may have it.
        for _ in 0..10 {
            knot.address.set_port(free_port());
            if knot.run() {
                return Some(knot);
            }
        }
        panic!("knotd does not start: {}", knot.log());
    }

    /// Where it listens, by UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the records of [`ZONE`], all at once. Each change is what `knotc` takes: `set a 1 A 127.0.0.1`.
    pub fn change(&self, changes: impl IntoIterator<Item = String>) {
        self.change_often([changes]);
    }

    /// Changes the records of [`ZONE`] again and again, as [`change`](Self::change) does once.
    pub fn change_often<C: IntoIterator<Item = String>>(&self, often: impl IntoIterator<Item = C>) {
        let zone = ZONE;
        let mut script = String::new();
        for changes in often {
            script.push_str(&format!("zone-begin {zone}\n"));
            for change in changes {
                let (verb, rest) = change.split_once(' ').expect("a verb and what it is for");
                script.push_str(&format!("zone-{verb} {zone} {rest}\n"));
            }
            script.push_str(&format!("zone-commit {zone}\n"));
        }
        let mut knotc = self
            .knotc()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = knotc.stdin.take().unwrap();
        // From a thread, since knotc answers while it reads.
        let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
        let output = knotc.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !said.contains("error") && wrong.is_empty(),
            "knotc took the changes: {said}{wrong}"
        );
    }

    /// Makes it gone, as by a crash.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            // A child that has ended already is as good.
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Starts it again at the same address, with an empty zone.
    pub fn restart(&mut self) {
        assert!(self.run(), "knotd starts again: {}", self.log());
    }

    /// Whether it answers. What an earlier try left running is ended first: it would keep the files.
    fn run(&mut self) -> bool {
        self.kill();
        let folder = self.folder.display();
        let (ip, port) = (self.address.ip(), self.address.port());
        let config = format!(
            "server:\n    rundir: {folder}\n    listen: {ip}@{port}\n    udp-workers: 1\n    tcp-workers: 1\n    \
             background-workers: 1\n\
             log:\n  - target: stderr\n    any: warning\n\
             database:\n    storage: {folder}/db\n\
             control:\n    listen: {folder}/knot.sock\n\
             template:\n  - id: default\n    storage: {folder}\n    journal-content: none\n    \
             zonefile-sync: -1\n    zonefile-load: whole\n\
             zone:\n  - domain: {ZONE}\n    file: zone\n  - domain: broken.example.\n    file: missing\n"
        );
        std::fs::write(self.folder.join("knot.conf"), config).unwrap();
        let zone = "$TTL 1\n@ SOA ns hostmaster 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n";
        std::fs::write(self.folder.join("zone"), zone).unwrap();
        let log = std::fs::File::create(self.folder.join("log")).unwrap();
        let server = program("knotd")
            .arg("-c")
            .arg(self.folder.join("knot.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let status = self.knotc().args(["zone-read", ZONE, "ns"]).output();
            if status.is_ok_and(|output| output.status.success()) {
                return true;
            }
            let ended = self
                .server
                .as_mut()
                .and_then(|it| it.try_wait().ok().flatten());
            if ended.is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn knotc(&self) -> Command {
        let mut command = program("knotc");
        command.arg("-s").arg(self.folder.join("knot.sock"));
        command
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        self.kill();
        // What is left is some files of the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn program(name: &str) -> Command {
    let installed = Path::new(SBIN).join(name);
    match installed.exists() {
        true => Command::new(installed),
        false => Command::new(name),
    }
}

/// A port that is free for UDP and TCP.
fn free_port() -> u16 {
    for _ in 0..100 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free for both");
}
