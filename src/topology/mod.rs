//! Which of the endpoints there are this client uses, and how its calls are spread over groups of them.
//!
//! ```text
//! all endpoints ─► client's subset ─► subset by metadata ─► priority ─► locality ─► policy
//! ```
//! A [subset of the client's](ClientSubset) is settled before anything is connected, so that what a client does not use costs
//! neither side a connection. [`MetadataSubsets`] tell endpoints apart by what a call wants, and each of these subsets has
//! the rest to itself. [`Priorities`] say how much each group of a [priority](crate::Endpoint::with_priority) gets by
//! how many of its endpoints are usable, and [`Localities`] how that is spread over places. What comes out are groups
//! with a share each; a call draws a group, and the [policy](crate::policy) chooses in it. So all of
//! them work with every policy, and no policy knows of them.
//!
//! All is arithmetic on counts: no clock, no I/O. [`Balance::report`](crate::Balance::report) shows what each
//! stage came to.

mod aperture;
mod client_subset;
mod grouping;
mod localities;
mod metadata_subsets;
mod priority;
mod subset;

pub use aperture::Aperture;
pub use client_subset::ClientSubset;
pub(crate) use client_subset::Narrowing;
pub use grouping::{GroupShare, Site, Topology};
pub use localities::{
    Localities, LocalityShare, LocalityState, NearestFirst, WeightedLocalities, ZoneAware,
};
pub use metadata_subsets::{MetadataSubsets, SubsetFallback};
pub use priority::{Availability, Priorities, PriorityShare};
pub use subset::RandomSubset;
