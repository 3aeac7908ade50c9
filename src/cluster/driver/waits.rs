//! What the control plane waits for besides its own channels.

use std::future::pending;
use std::pin::Pin;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until};

use crate::cluster::step::Event;
use crate::discovery::{Discovery, Update};
use crate::error::BoxError;

/// The next word of the source; a source that has ended is left alone.
pub(super) async fn next(
    discovery: &mut Option<Pin<Box<dyn Discovery>>>,
) -> Option<Result<Update, BoxError>> {
    let Some(source) = discovery else {
        return pending().await;
    };
    let item = source.next().await;
    if item.is_none() {
        *discovery = None;
    }
    item
}

pub(super) fn read<S>(item: Option<Result<Update, BoxError>>) -> Event<S> {
    match item {
        Some(Ok(update)) => Event::Update(update),
        Some(Err(error)) => Event::DiscoveryFailed(error),
        None => Event::DiscoveryEnded,
    }
}

pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
