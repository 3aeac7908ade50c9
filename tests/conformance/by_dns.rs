//! Names in DNS, answered by a real server: addresses of a host, and the records of a service.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use evenkeel::discovery::{BoxDiscovery, Dns};

use crate::knot::Knot;
use crate::place::{Abilities, Burst, Can, Change, Place, Server, State, What};
use crate::rules::READ_EVERY;

/// Which records.
trait Records: 'static {
    const NAME: &'static str;
    const CAN: Abilities;
    /// The owner of the records, and their type.
    const OWNER: &'static str;
    const TYPE: &'static str;

    fn dns() -> Dns;

    fn id(server: Server) -> String;

    /// The record of a server, after its type.
    fn data(server: Server, weight: u32) -> String;
}

const NEVER_EMPTY: Can =
    Can::No("DNS without records is taken for a mistake, and the last good state stands");
const NO_METADATA: Can = Can::No("a record has no room for it");
const ENDLESS: Can = Can::No("DNS can always be asked again");

struct Host;

impl Records for Host {
    const NAME: &'static str = "DNS, a host";
    const CAN: Abilities = Abilities {
        weights: Can::No("an address has no weight"),
        metadata: NO_METADATA,
        empty: NEVER_EMPTY,
        errors: Can::Yes,
        returns: Can::Yes,
        ends: ENDLESS,
        reads: Can::Yes,
    };
    const OWNER: &'static str = "demo";
    const TYPE: &'static str = "A";

    fn dns() -> Dns {
        Dns::host("demo.evenkeel.example:1").expect("it is a name")
    }

    fn id(server: Server) -> String {
        format!("127.0.0.{server}:1")
    }

    fn data(server: Server, _: u32) -> String {
        format!("127.0.0.{server}")
    }
}

struct Service;

impl Records for Service {
    const NAME: &'static str = "DNS, a service";
    const CAN: Abilities = Abilities {
        weights: Can::Yes,
        ..Host::CAN
    };
    const OWNER: &'static str = "_grpc._tcp.demo";
    const TYPE: &'static str = "SRV";

    fn dns() -> Dns {
        Dns::srv("_grpc._tcp.demo.evenkeel.example").expect("it is a name")
    }

    fn id(server: Server) -> String {
        format!("h{server}.evenkeel.example:1")
    }

    fn data(server: Server, weight: u32) -> String {
        format!("10 {weight} 1 h{server}")
    }
}

struct InZone<R> {
    knot: Knot,
    relay: Relay,
    /// The servers that have a record, and their weights.
    written: BTreeMap<Server, u32>,
    records: PhantomData<R>,
}

mod host {
    conforms!(super::InZone<super::Host>);
}

mod service {
    conforms!(super::InZone<super::Service>);
}

impl<R: Records> InZone<R> {
    fn put(&mut self, server: Server, weight: u32) -> Vec<String> {
        let (owner, kind) = (R::OWNER, R::TYPE);
        let mut script = Vec::from_iter(self.remove(server));
        self.written.insert(server, weight);
        script.push(format!("set {owner} 1 {kind} {}", R::data(server, weight)));
        script
    }

    fn remove(&mut self, server: Server) -> Option<String> {
        let weight = self.written.remove(&server)?;
        let (owner, kind) = (R::OWNER, R::TYPE);
        Some(format!("unset {owner} {kind} {}", R::data(server, weight)))
    }

    fn script(&mut self, what: &What) -> Vec<String> {
        match what {
            What::Put(server, said) => self.put(*server, said.weight),
            What::Remove(server) => Vec::from_iter(self.remove(*server)),
        }
    }

    /// Everything, in a zone that has nothing.
    fn fill(&mut self, state: &State) {
        self.written.clear();
        let mut script: Vec<String> = (1..=9)
            .map(|n| format!("set h{n} 1 A 127.0.0.{n}"))
            .collect();
        for (server, said) in state {
            script.extend(self.put(*server, said.weight));
        }
        self.knot.change(script);
    }
}

impl<R: Records> Place for InZone<R> {
    const NAME: &'static str = R::NAME;
    const CAN: Abilities = R::CAN;

    /// One that is being asked for when the burst begins, another of a question begun by it, and the last.
    const BURST: Burst = Burst::States(3);

    async fn start(first: &State) -> Option<(Self, BoxDiscovery)> {
        let knot = Knot::start()?;
        let relay = Relay::to(knot.address());
        let dns = R::dns()
            .with_name_servers([relay.address])
            .with_interval(READ_EVERY)
            .with_timeout(Duration::from_millis(200));
        let mut place = Self {
            knot,
            relay,
            written: BTreeMap::new(),
            records: PhantomData,
        };
        place.fill(first);
        let updates = dns.updates().expect("it can be asked");
        Some((place, Box::pin(updates)))
    }

    fn id(server: Server) -> String {
        R::id(server)
    }

    async fn write(&mut self, change: &Change) {
        let script = self.script(&change.what);
        self.knot.change(script);
    }

    /// Nine at a time, since knotc takes some milliseconds for each. They do not cancel out: a server that is added
    /// and removed by turns is there after one nine, and gone after the next.
    async fn write_all(&mut self, changes: &[Change]) {
        let nines: Vec<Vec<String>> = changes
            .chunks(9)
            .map(|nine| {
                nine.iter()
                    .flat_map(|change| self.script(&change.what))
                    .collect()
            })
            .collect();
        self.knot.change_often(nines);
    }

    async fn fail(&mut self) -> &'static str {
        self.knot.kill();
        "evenkeel.example"
    }

    async fn mend(&mut self, state: &State) {
        self.knot.restart();
        self.fill(state);
    }

    fn reads(&mut self) -> usize {
        self.relay.questions.load(Ordering::SeqCst)
    }
}

/// Stands between who asks and the server, and counts the questions. It ends when dropped.
struct Relay {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn to(server: SocketAddr) -> Self {
        let bound = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let (asked, asks) = (bound(), bound());
        let tick = Some(Duration::from_millis(20));
        asked.set_read_timeout(tick).expect("it is not zero");
        asks.set_read_timeout(tick).expect("it is not zero");
        asks.connect(server).expect("it is an address");
        let address = asked.local_addr().expect("it is bound");
        let (questions, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let thread = {
            let (questions, ended) = (questions.clone(), ended.clone());
            std::thread::spawn(move || relay(&asked, &asks, &questions, &ended))
        };
        Self {
            address,
            questions,
            ended,
            thread: Some(thread),
        }
    }
}

fn relay(asked: &UdpSocket, asks: &UdpSocket, questions: &AtomicUsize, ended: &AtomicBool) {
    let (mut question, mut answer) = ([0; 4096], [0; 4096]);
    while !ended.load(Ordering::SeqCst) {
        let (length, from) = match asked.recv_from(&mut question) {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => panic!("the relay reads no more: {error}"),
        };
        questions.fetch_add(1, Ordering::SeqCst);
        // A server that is gone answers nothing; an answer to an earlier question is not to this one.
        let mut sent = asks.send(&question[..length]).is_ok();
        while sent {
            match asks.recv(&mut answer) {
                Ok(read) if answer[..2] == question[..2] => {
                    // Who asked may have left.
                    let _ = asked.send_to(&answer[..read], from);
                    sent = false;
                }
                Ok(_) => {}
                Err(_) => sent = false,
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the relay did not panic");
        }
    }
}
