/// How much of the calls the locality of an endpoint gets, relative to other localities: what a source says
/// of a locality as a whole, [attached](crate::Endpoint::with) to each of its endpoints. Read by
/// [`WeightedLocalities`](crate::topology::WeightedLocalities); of several that differ the greatest counts. With 0
/// the locality gets calls only when nothing else is left.
///
/// ```
/// use evenkeel::Endpoint;
/// use evenkeel::endpoint::{Locality, LocalityWeight};
///
/// let endpoint = Endpoint::new("http://10.0.0.1:50051")
///     .with_locality(Locality::new("eu").with_zone("a"))
///     .with(LocalityWeight(3));
/// # let _ = endpoint;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalityWeight(pub u32);
