//! Which endpoint a policy that hashes chooses for each key: to hold evenkeel against other clients and
//! proxies of the same servers, or to find who holds a key.
//!
//! ```sh
//! echo '{"policy": {"policy": "maglev", "sources": [{"header": "x-user"}]},
//!        "endpoints": [{"address": "http://10.0.0.1:50051"}, {"address": "http://10.0.0.2:50051", "weight": 2}],
//!        "header": "x-user", "keys": ["mary", "john"]}' |
//!   cargo run --release --features serde --example choices
//! ```
//!
//! Prints a JSON list with the address for each key.

use std::error::Error;
use std::io::{read_to_string, stdin};

use evenkeel::Endpoint;
use evenkeel::call::RequestInfo;
use evenkeel::math::Rng;
use evenkeel::policy::{Candidates, Pick, PickContext, PolicyConfig};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    policy: PolicyConfig,
    endpoints: Vec<Server>,
    /// The header that the keys are in.
    header: String,
    keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    address: String,
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    1
}

fn main() -> Result<(), Box<dyn Error>> {
    let question: Question = serde_json::from_str(&read_to_string(stdin())?)?;
    let policy = question.policy.build()?;
    let endpoints = question.endpoints.iter().map(|server| {
        let endpoint = Endpoint::new(server.address.clone());
        endpoint.with_weight(server.weight)
    });
    let candidates = Candidates::connected_for(endpoints, policy.measures());
    let picker = policy.build(&candidates, None);
    let mut rng = Rng::new(1);
    let mut chosen = Vec::new();
    for key in &question.keys {
        let request = http::Request::builder()
            .header(question.header.as_str(), key)
            .body(())?;
        let info = RequestInfo::http(&request);
        let mut context = PickContext::new(&mut rng).with_request(info);
        chosen.push(match picker.pick(&mut context) {
            Pick::Endpoint(slot) => Some(candidates.all()[slot].endpoint().address()),
            _ => None,
        });
    }
    println!("{}", serde_json::to_string(&chosen)?);
    Ok(())
}
