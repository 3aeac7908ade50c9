//! A real etcd of one member, on ports of loopback.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use evenkeel::grpc::Channel;
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::support::{PATIENCE, within};

/// A running etcd. It goes when dropped.
pub struct Etcd {
    folder: PathBuf,
    client: SocketAddr,
    peer: SocketAddr,
    /// Where it speaks TLS to clients, if it does.
    secure: Option<SocketAddr>,
    server: Option<Child>,
}

impl Etcd {
    /// Starts it. `None`, with a line that says so, where etcd is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// Starts it with a second address for clients, where it speaks TLS by this certificate and key, in PEM.
    pub fn start_secure(certificate: &str, key: &str) -> Option<Self> {
        Self::start_with(Some((certificate, key)))
    }

    fn start_with(identity: Option<(&str, &str)>) -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            // The gate sets this, so that there nothing is skipped.
            assert!(
                std::env::var_os("EVENKEEL_REQUIRE_ETCD").is_none(),
                "etcd is not installed, and is required"
            );
            eprintln!("skipped: this test needs etcd (Debian's package etcd-server)");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("evenkeel-etcd-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        if let Some((certificate, key)) = identity {
            std::fs::write(folder.join("certificate"), certificate).unwrap();
            std::fs::write(folder.join("key"), key).unwrap();
        }
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut etcd = Self {
            folder,
            client: nowhere,
            peer: nowhere,
            secure: None,
            server: None,
        };
        // Between the choice of the ports and etcd's taking them somebody else may have them.
        for _ in 0..10 {
            let [client, peer, secure] = free();
            (etcd.client, etcd.peer) = (client, peer);
            etcd.secure = identity.map(|_| secure);
            if etcd.run() {
                return Some(etcd);
            }
            etcd.forget();
        }
        panic!("etcd does not start: {}", etcd.log());
    }

    /// Where it listens for clients, as `host:port`.
    pub fn address(&self) -> String {
        self.client.to_string()
    }

    /// Where it speaks TLS.
    pub fn secure_address(&self) -> String {
        self.secure.expect("it speaks TLS").to_string()
    }

    /// Makes it gone, as by a crash.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            // A child that has ended already is as good.
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Starts it again at the same address, with what it knew.
    pub fn restart(&mut self) {
        assert!(self.run(), "etcd starts again: {}", self.log());
    }

    /// Loses what it knew; for one that is killed.
    pub fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.folder.join("data"));
    }

    fn run(&mut self) -> bool {
        self.kill();
        let peer = self.peer;
        let mut clients = format!("http://{}", self.client);
        let mut tls = Vec::new();
        if let Some(secure) = self.secure {
            clients.push_str(&format!(",https://{secure}"));
            for (flag, file) in [("--cert-file", "certificate"), ("--key-file", "key")] {
                tls.extend([flag.into(), self.folder.join(file)]);
            }
        }
        let log = std::fs::File::create(self.folder.join("log")).unwrap();
        let server = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.join("data"))
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(tls)
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
            .args(["--initial-cluster", &format!("default=http://{peer}")])
            // So that leases may be short.
            .args(["--heartbeat-interval", "10", "--election-timeout", "100"])
            // etcd 3.4 starts on other processors than amd64 only when told so.
            .env(
                "ETCD_UNSUPPORTED_ARCH",
                std::env::consts::ARCH.replace("aarch64", "arm64"),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.is_healthy() {
                return true;
            }
            let server = self.server.as_mut();
            if server.is_some_and(|it| matches!(it.try_wait(), Ok(Some(_)))) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.client)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        };
        ask().is_ok_and(|said| said.contains(r#""health":"true""#))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Puts a key, under a lease or 0.
    pub async fn put_under(&self, key: &str, value: &str, lease: i64) {
        let request = Put {
            key: key.into(),
            value: value.into(),
            lease,
        };
        self.ask::<_, Nothing>("/etcdserverpb.KV/Put", request)
            .await;
    }

    /// Puts a key.
    pub async fn put(&self, key: &str, value: &str) {
        self.put_under(key, value, 0).await;
    }

    /// Deletes a key.
    pub async fn delete(&self, key: &str) {
        let request = DeleteRange { key: key.into() };
        self.ask::<_, Nothing>("/etcdserverpb.KV/DeleteRange", request)
            .await;
    }

    /// The revision and the value of a key, if it is there.
    pub async fn get(&self, key: &str) -> (i64, Option<String>) {
        let request = DeleteRange { key: key.into() };
        let answer: Ranged = self.ask("/etcdserverpb.KV/Range", request).await;
        let revision = answer.header.expect("answers have a header").revision;
        let value = answer.kvs.into_iter().next().map(|pair| pair.value);
        (revision, value)
    }

    /// Forgets all revisions before the present one.
    pub async fn compact(&self) {
        let (revision, _) = self.get("none").await;
        let request = Number { number: revision };
        self.ask::<_, Nothing>("/etcdserverpb.KV/Compact", request)
            .await;
    }

    /// A lease of `seconds` that nobody keeps alive.
    pub async fn lease(&self, seconds: i64) -> i64 {
        let request = Number { number: seconds };
        let lease: Granted = self.ask("/etcdserverpb.Lease/LeaseGrant", request).await;
        lease.id
    }

    /// All leases.
    pub async fn leases(&self) -> Vec<i64> {
        let answer: Leases = self
            .ask("/etcdserverpb.Lease/LeaseLeases", Nothing {})
            .await;
        answer
            .leases
            .into_iter()
            .map(|lease| lease.number)
            .collect()
    }

    /// Ends a lease.
    pub async fn revoke(&self, id: i64) {
        let request = Number { number: id };
        self.ask::<_, Nothing>("/etcdserverpb.Lease/LeaseRevoke", request)
            .await;
    }

    /// Lets in nobody from now on but the user `root`.
    pub async fn require_root(&self, password: &str) {
        let two = |one: &str, two: &str| Two {
            one: one.into(),
            two: two.into(),
        };
        for (path, request) in [
            ("/etcdserverpb.Auth/UserAdd", two("root", password)),
            ("/etcdserverpb.Auth/UserGrantRole", two("root", "root")),
            ("/etcdserverpb.Auth/AuthEnable", two("", "")),
        ] {
            self.ask::<_, Nothing>(path, request).await;
        }
    }

    async fn ask<Req, Res>(&self, path: &'static str, request: Req) -> Res
    where
        Req: Message + 'static,
        Res: Message + Default + 'static,
    {
        let channel = Channel::builder()
            .endpoints([format!("http://{}", self.client)])
            .build()
            .unwrap();
        let mut grpc = Grpc::new(channel);
        let codec = ProstCodec::<Req, Res>::default();
        let path = PathAndQuery::from_static(path);
        let answer = grpc.unary(tonic::Request::new(request), path, codec);
        within("etcd answers", answer).await.unwrap().into_inner()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        // What is left is some files of the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Addresses that are free.
fn free() -> [SocketAddr; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

// What the tests say to etcd, by the numbers of its protocol.

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(int64, tag = "1")]
    number: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Two {
    #[prost(string, tag = "1")]
    one: String,
    #[prost(string, tag = "2")]
    two: String,
}

#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
    #[prost(int64, tag = "3")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct DeleteRange {
    #[prost(string, tag = "1")]
    key: String,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "5")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Ranged {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<Pair>,
}

#[derive(Clone, PartialEq, Message)]
struct Granted {
    #[prost(int64, tag = "2")]
    id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Leases {
    #[prost(message, repeated, tag = "2")]
    leases: Vec<Number>,
}
