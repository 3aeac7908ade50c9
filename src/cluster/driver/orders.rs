//! What the handles order.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::driver::{Driver, Sources};
use crate::cluster::lifecycle::{Command, Reply};
use crate::cluster::step::Event;
use crate::connection::Connector;
use crate::endpoint::EndpointId;
use crate::error::Error;
use crate::health::Verdict;
use crate::outcome::LoadReport;
use crate::probe::Watch;

impl<C, W, H> Driver<C, W, H>
where
    C: Connector,
    W: Watch<C::Service, Terms = Duration, Word = LoadReport>,
    H: Watch<C::Service, Terms = (), Word = Verdict>,
{
    /// Does what is ordered. A step has to follow.
    pub(super) fn obey(&mut self, command: Command, sources: &mut Sources) {
        match command {
            Command::ShutDown { deadline } => {
                sources.discovery = None;
                self.probing = None;
                self.refresh.end();
                self.step(Event::ShutDown);
                self.lifecycle.shut_down(deadline, &self.links);
            }
            Command::Drain { id, deadline, done } => match self.cluster.drain(id.as_str()) {
                Some(key) => {
                    self.perform();
                    (self.lifecycle).drain(key, deadline, done, &self.links);
                }
                None => refuse(done, &id, self.lifecycle.is_shut_down()),
            },
            Command::Undrain { id, done } => {
                if self.cluster.undrain(id.as_str(), Instant::now()) {
                    self.lifecycle.answer(done, ());
                } else {
                    refuse(done, &id, self.lifecycle.is_shut_down());
                }
            }
        }
    }
}

/// An order named an endpoint that is not there, maybe since none is.
fn refuse<R>(done: Reply<R>, id: &EndpointId, shut_down: bool) {
    let _ = done.send(Err(match shut_down {
        true => Error::shut_down(),
        false => Error::unknown_endpoint(id.as_str()),
    }));
}
