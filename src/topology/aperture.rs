use xxhash_rust::xxh64::xxh64;

use crate::endpoint::Endpoint;
use crate::error::Error;

/// A subset of the endpoints by the client's place among all clients, so that every endpoint has the same number of
/// clients (Finagle's deterministic aperture).
///
/// Clients and servers stand at even distances on two circles of the same length, and a client uses the servers on its
/// own arc. An arc is as long as it must be for at least `size` servers, rounded up to a whole number of clients'
/// distances, so that all arcs together cover each server equally often. A server at the end of an arc
/// counts with the part of it that lies within: its weight is multiplied by that, in hundredths.
///
/// A client must know which one of how many it is: the ordinal of a StatefulSet's pod, say. Where it does not,
/// [`RandomSubset`](crate::topology::RandomSubset) needs no such thing, and is less even: 100 clients that use 20 of
/// 100 servers put 8 to 31 on each, and by an aperture 20 on each. When the number of clients or servers
/// changes, arcs move, and more connections change than with a random subset.
///
/// Only policies that look at weights know of parts: others give the server at the end of an arc as many calls as any.
/// And with parts weights differ, so that [`Adaptive`](crate::policy::Adaptive) goes by latency and does not ask servers
/// for their load. Neither is so where the ends of arcs fall between servers: with as many servers as clients, say, or a
/// multiple of that.
///
/// Servers stand on their circle in the order of the XXH64 of their addresses, so all clients have the same order.
///
/// ```
/// use evenkeel::topology::Aperture;
///
/// // Client 0 of 12, with 24 servers: half of the circle.
/// let shares = Aperture::new(12, 0, 12)?.shares(24);
/// assert_eq!(shares.len(), 12);
/// # Ok::<_, evenkeel::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aperture {
    size: usize,
    instance: u32,
    clients: u32,
}

impl Aperture {
    /// At least `size` servers for client `instance` of `clients`, counted from 0.
    ///
    /// # Errors
    /// A configuration error of the field `aperture`: a size of 0, no clients, or an instance that is not one of them.
    pub fn new(size: usize, instance: u32, clients: u32) -> Result<Self, Error> {
        if size == 0 {
            return Err(Error::config("aperture", "the size is 0; the least is 1"));
        }
        if instance >= clients {
            let message = format!("client {instance} is not one of {clients}, counted from 0");
            return Err(Error::config("aperture", message));
        }
        Ok(Self {
            size,
            instance,
            clients,
        })
    }

    /// The part of the circle that the client uses: where it begins, and how long it is, of 1.
    fn arc(&self, servers: usize) -> (f64, f64) {
        let local = 1.0 / f64::from(self.clients);
        let remote = 1.0 / servers as f64;
        // What is a whole number but for rounding is that number.
        let units = (self.size as f64 * remote / local - 1e-9).ceil().max(1.0);
        (f64::from(self.instance) * local, (units * local).min(1.0))
    }

    /// The servers that the client uses of so many, by their place on the circle, and which part of each, above 0 and at
    /// most 1.
    pub fn shares(&self, servers: usize) -> Vec<(usize, f64)> {
        if servers == 0 {
            return Vec::new();
        }
        let (offset, width) = self.arc(servers);
        let unit = 1.0 / servers as f64;
        let (begin, end) = (offset, offset + width);
        let first = (begin / unit + 1e-9).floor() as usize;
        let mut shares: Vec<(usize, f64)> = Vec::new();
        for place in first.. {
            let (from, to) = (place as f64 * unit, (place + 1) as f64 * unit);
            let within = (end.min(to) - begin.max(from)) / unit;
            if within <= 1e-9 {
                return shares;
            }
            let within = if within > 1.0 - 1e-9 { 1.0 } else { within };
            match shares
                .iter_mut()
                .find(|(there, _)| *there == place % servers)
            {
                // The arc is the whole circle, and ends in the server that it began in.
                Some((_, share)) => *share = (*share + within).min(1.0),
                None => shares.push((place % servers, within)),
            }
        }
        shares
    }

    /// The subset of `endpoints` with the weights that they have in it, and what is not in it.
    pub(crate) fn split(&self, endpoints: Vec<Endpoint>) -> (Vec<(Endpoint, u32)>, Vec<Endpoint>) {
        let mut order: Vec<usize> = (0..endpoints.len()).collect();
        order.sort_by_cached_key(|place| {
            let endpoint = &endpoints[*place];
            (
                xxh64(endpoint.address().as_bytes(), 0),
                endpoint.id().clone(),
            )
        });
        let shares = self.shares(endpoints.len());
        let in_parts = shares.iter().any(|(_, share)| *share < 1.0);
        let greatest = endpoints.iter().map(Endpoint::weight).max().unwrap_or(0);
        // Greater weights have parts enough of their own.
        let unit = match in_parts && greatest <= u32::MAX / HUNDREDTHS {
            true => HUNDREDTHS,
            false => 1,
        };
        let mut used = vec![None; endpoints.len()];
        for (place, share) in shares {
            used[order[place]] = Some(share);
        }
        let mut split = (Vec::new(), Vec::new());
        for (endpoint, share) in endpoints.into_iter().zip(used) {
            match share {
                Some(share) => {
                    let weight = f64::from(endpoint.weight()) * share * f64::from(unit);
                    split.0.push((endpoint, (weight.round() as u32).max(1)));
                }
                None => split.1.push(endpoint),
            }
        }
        split
    }
}

/// What a weight is counted in where some servers count with a part of it.
const HUNDREDTHS: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arcs_are_those_of_finagle() {
        let half = Aperture::new(12, 0, 12).unwrap();
        assert_eq!(half.arc(24), (0.0, 0.5));
        let wanted: Vec<_> = (0..12).map(|place| (place, 1.0)).collect();
        assert_eq!(half.shares(24), wanted);
        let three_quarters = Aperture::new(12, 1, 4).unwrap();
        assert_eq!(three_quarters.arc(18), (0.25, 0.75));
        let mut wanted: Vec<_> = (4..18).map(|place| (place, 1.0)).collect();
        wanted[0].1 = 0.5;
        let rounded = |(place, share): (usize, f64)| (place, (share * 1e9).round() / 1e9);
        let shares: Vec<_> = three_quarters.shares(18).into_iter().map(rounded).collect();
        assert_eq!(shares, wanted, "the first with half of it");
    }

    #[test]
    fn every_server_has_the_same_share_of_the_clients() {
        for (clients, servers, size) in [
            (100, 100, 20),
            (7, 30, 4),
            (30, 7, 3),
            (3, 100, 12),
            (1, 5, 9),
        ] {
            let mut sums = vec![0.0; servers];
            for instance in 0..clients {
                let shares = Aperture::new(size, instance, clients)
                    .unwrap()
                    .shares(servers);
                let sum: f64 = shares.iter().map(|(_, share)| share).sum();
                assert!(
                    sum + 1e-6 >= size.min(servers) as f64,
                    "at least as many as asked for: {sum}"
                );
                for (place, share) in shares {
                    sums[place] += share;
                }
            }
            let mean = sums.iter().sum::<f64>() / servers as f64;
            let even = |sum: &f64| (sum - mean).abs() < 1e-6;
            assert!(sums.iter().all(even), "{clients} on {servers}: {sums:?}");
        }
    }

    #[test]
    fn the_order_of_the_source_does_not_matter_and_edges_weigh_less() {
        let mut all: Vec<Endpoint> = (0..18)
            .map(|n| Endpoint::new(format!("10.0.0.{n}:1")))
            .collect();
        let rule = Aperture::new(12, 1, 4).unwrap();
        let weights = |all: Vec<Endpoint>| {
            let (used, left_out) = rule.split(all);
            assert_eq!((used.len(), left_out.len()), (14, 4));
            let mut weights: Vec<_> = used
                .iter()
                .map(|(e, weight)| (e.id().to_string(), *weight))
                .collect();
            weights.sort();
            weights
        };
        let one = weights(all.clone());
        let halves = one.iter().filter(|(_, weight)| *weight == 50).count();
        assert_eq!(halves, 1, "one at half, the others at 100: {one:?}");
        all.reverse();
        assert_eq!(weights(all), one);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (size, instance, clients) in [(0, 0, 1), (1, 0, 0), (1, 3, 3)] {
            let error = Aperture::new(size, instance, clients).unwrap_err();
            assert_eq!(error.field(), Some("aperture"), "{error}");
        }
        assert!(Aperture::new(5, 0, 1).unwrap().shares(0).is_empty());
    }
}
