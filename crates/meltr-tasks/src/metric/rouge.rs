//! ROUGE-L of captions.

use super::tokens::Tokens;

/// Weight of recall against precision.
const BETA: f64 = 1.2;

/// ROUGE-L of one item, in `[0, 1]`: from the longest common subsequences of the hypothesis and
/// each reference.
///
/// ```text
/// P = maxᵣ lcs / |hypothesis|    R = maxᵣ lcs / |reference|    F = (1 + β²) P R / (R + β² P)
/// ```
///
/// The two maxima may come from different references. An empty side counts as one empty token,
/// since the caller splits texts at every single blank.
///
/// # References
///
/// - Lin, [ROUGE: A Package for Automatic Evaluation of Summaries](https://aclanthology.org/W04-1013),
///   Text Summarization Branches Out 2004.
/// - Reference code: `pycocoevalcap` 1.2 `rouge/rouge.py`.
pub(crate) fn rouge_l(item: &Tokens) -> f64 {
    let (mut precision, mut recall) = (0.0_f64, 0.0_f64);
    for reference in &item.references {
        let common = longest_common_subsequence(&item.hypothesis, reference) as f64;
        precision = precision.max(common / item.hypothesis.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

fn longest_common_subsequence(a: &[u32], b: &[u32]) -> usize {
    // At `j`: the length for the tokens of `a` so far and the first `j` of `b`.
    let mut lens = vec![0; b.len() + 1];
    for from in a {
        let mut diagonal = 0;
        for (place, to) in b.iter().enumerate() {
            let above = lens[place + 1];
            lens[place + 1] = if from == to {
                diagonal + 1
            } else {
                above.max(lens[place])
            };
            diagonal = above;
        }
    }
    lens[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsequences_may_have_gaps() {
        assert_eq!(longest_common_subsequence(&[1, 2, 3, 4], &[2, 9, 4]), 2);
        assert_eq!(longest_common_subsequence(&[1, 1], &[1]), 1);
        assert_eq!(longest_common_subsequence(&[], &[1]), 0);
    }

    #[test]
    fn precision_and_recall_are_maximized_apart() {
        // All of the short reference is found; three of four tokens are in the long one.
        let item = Tokens {
            hypothesis: vec![1, 2, 3, 4],
            references: vec![vec![4], vec![1, 2, 3, 7, 8, 9]],
        };
        let (p, r) = (0.75, 1.0);
        let expected = 2.44 * p * r / (r + 1.44 * p);
        assert!((rouge_l(&item) - expected).abs() < 1e-12);
    }

    #[test]
    fn nothing_in_common_is_zero_and_the_same_is_one() {
        let item = |hypothesis: &[u32]| Tokens {
            hypothesis: hypothesis.to_vec(),
            references: vec![vec![1, 2]],
        };
        assert_eq!(rouge_l(&item(&[3])), 0.0);
        assert!((rouge_l(&item(&[1, 2])) - 1.0).abs() < 1e-12);
    }
}
