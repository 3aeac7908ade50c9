//! When ejections are ignored.
//!
//! Ejection assumes that the others can carry the load. When too few are left, that is false: the
//! remaining ones would be overloaded, fail and be ejected too. Envoy calls the answer panic mode.

/// Whether `usable` of `total` endpoints are so few that ejections are ignored. `usable` are those
/// that are connected and not ejected; a threshold of 0 never panics.
pub fn is_panic(usable: usize, total: usize, threshold_percent: u32) -> bool {
    total > 0 && usable * 100 < total * threshold_percent as usize
}

#[cfg(test)]
mod tests {
    use super::is_panic;

    #[test]
    fn panics_strictly_under_the_threshold() {
        assert!(!is_panic(1, 2, 50), "half of two is not under 50 %");
        assert!(is_panic(1, 3, 50));
        assert!(is_panic(0, 1, 50));
        assert!(!is_panic(0, 1, 0), "0 turns panic off");
        assert!(!is_panic(0, 0, 50), "an empty set is not a panic");
    }
}
