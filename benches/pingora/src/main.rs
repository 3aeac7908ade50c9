//! What a pick costs here and in `pingora-load-balancing`, for the algorithms that both have.
//!
//! ```text
//! cargo run --release --manifest-path benches/pingora/Cargo.toml   # needs cmake
//! ```
//!
//! Of pingora only the selection itself is timed: `BackendSelection::iter` and its first item, without
//! `LoadBalancer::select`, which also loads the current selection, looks up each backend's health and clones
//! the backend. A pick here looks at health and connection. Keys are 8 bytes; pingora hashes them, picks that
//! hash here are given the hash, so 2 to 3 ns are to be added to those.
//!
//! All arms run in turn, round after round; a cell is the median, with the least and the greatest.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use evenkeel::math::Rng;
use evenkeel::policy::{Candidates, PickContext, Policy, Random, RingHash, RoundRobin};
use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::{self, BackendIter, BackendSelection};

const ROUNDS: usize = 11;
const PICKS: u32 = 400_000;

struct Arm {
    name: &'static str,
    pick: Box<dyn Fn(&mut Rng)>,
    build: Box<dyn Fn()>,
    picks: Vec<f64>,
    builds: Vec<f64>,
}

fn address(n: usize) -> String {
    format!("10.{}.{}.{}:443", n >> 16, (n >> 8) & 255, n & 255)
}

fn ours(name: &'static str, policy: impl Policy, n: usize) -> Arm {
    let candidates = Candidates::connected((0..n).map(address));
    let picker = policy.build(&candidates, None);
    Arm {
        name,
        pick: Box::new(move |rng| {
            let hash = rng.next_u64();
            let mut context = PickContext::new(rng).with_hash(Some(hash));
            black_box(picker.pick(&mut context));
        }),
        build: Box::new(move || {
            black_box(policy.build(&candidates, None));
        }),
        picks: Vec::new(),
        builds: Vec::new(),
    }
}

fn theirs<S>(name: &'static str, n: usize) -> Arm
where
    S: BackendSelection + 'static,
    S::Iter: BackendIter,
{
    let backend = |n| Backend::new(&address(n)).expect("an address");
    let backends: BTreeSet<Backend> = (0..n).map(backend).collect();
    let selection = Arc::new(S::build(&backends));
    Arm {
        name,
        pick: Box::new(move |rng| {
            let key = rng.next_u64().to_ne_bytes();
            black_box(selection.iter(&key).next());
        }),
        build: Box::new(move || {
            black_box(S::build(&backends));
        }),
        picks: Vec::new(),
        builds: Vec::new(),
    }
}

fn spread(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (median, last) = (sorted[sorted.len() / 2], sorted.len() - 1);
    format!("{median:.1} ({:.1}..{:.1})", sorted[0], sorted[last])
}

fn main() {
    for n in [3, 10, 100, 1_000, 10_000] {
        let mut arms = [
            ours("round robin", RoundRobin::default(), n),
            theirs::<selection::RoundRobin>("  pingora RoundRobin", n),
            ours("random", Random::default(), n),
            theirs::<selection::Random>("  pingora Random", n),
            ours("ring hash", RingHash::default(), n),
            theirs::<selection::Consistent>("  pingora Consistent", n),
        ];
        let mut rng = Rng::new(1);
        for _ in 0..ROUNDS {
            for arm in &mut arms {
                let began = Instant::now();
                for _ in 0..PICKS {
                    (arm.pick)(&mut rng);
                }
                let nanos = began.elapsed().as_secs_f64() * 1e9;
                arm.picks.push(nanos / f64::from(PICKS));
                let began = Instant::now();
                (arm.build)();
                arm.builds.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        println!("\nN = {n}");
        println!("{:<24}{:>26}{:>36}", "", "pick ns", "build us");
        for arm in &arms {
            let (pick, build) = (spread(&arm.picks), spread(&arm.builds));
            println!("{:<24}{pick:>26}{build:>36}", arm.name);
        }
    }
}
