//! The softmax of a few numbers.

/// `exp(x_i) / sum_j exp(x_j)`, shifted by the largest so that nothing overflows.
pub(super) fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.iter().map(|power| power / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_logits_do_not_overflow() {
        let shares = softmax(&[1000.0, 1000.0 + 3.0_f64.ln()]);
        assert!((shares[0] - 0.25).abs() < 1e-12);
        assert!((shares[1] - 0.75).abs() < 1e-12);
    }
}
