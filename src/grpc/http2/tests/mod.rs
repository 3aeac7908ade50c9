//! Whole connections, against peers that are written frame by frame and against real servers.

mod addresses;
mod calls;
mod closing;
mod connecting;
mod farewell;
mod peer;
mod refusals;
mod several;
