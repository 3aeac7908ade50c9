//! Weights of which some are not known.

/// The weights with the unknown ones filled in by the mean of the others, as gRFC A58 does for an
/// endpoint that has not reported: it gets an average share until it does. Unknown is what is not a
/// positive finite number.
///
/// `None` if weights have nothing to say: fewer than two are known (A58 goes on as plain round robin
/// then), or all are equal.
pub(crate) fn fill(weights: &[f64]) -> Option<Vec<f64>> {
    let is_known = |w: &f64| w.is_finite() && *w > 0.0;
    let known = || weights.iter().copied().filter(is_known);
    let greatest = known().fold(0.0, f64::max);
    let count = known().count();
    if count < 2 {
        return None;
    }
    if known().all(|w| w == greatest) {
        // The mean of the others would be equal too.
        return None;
    }
    // Divided by the greatest before they are added up: the sum cannot overflow.
    let mean = known().map(|w| w / greatest).sum::<f64>() / count as f64 * greatest;
    let filled = |w: &f64| if is_known(w) { *w } else { mean };
    Some(weights.iter().map(filled).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_weights_get_the_mean_of_the_known() {
        for unknown in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(
                fill(&[1.0, unknown, 3.0]),
                Some(vec![1.0, 2.0, 3.0]),
                "{unknown} is no weight"
            );
        }
        let huge = fill(&[f64::MAX, 0.0, f64::MAX / 2.0]).unwrap();
        assert_eq!(huge[1], f64::MAX * 0.75, "no overflow on the way");
    }

    #[test]
    fn weights_that_say_nothing_are_none() {
        for silent in [&[][..], &[5.0], &[5.0, 0.0], &[0.0; 3], &[2.0; 3]] {
            assert_eq!(fill(silent), None, "{silent:?}");
        }
        assert_eq!(
            fill(&[2.0, 0.0, 2.0]),
            None,
            "the mean is equal to the rest"
        );
    }
}
