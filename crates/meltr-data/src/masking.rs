//! Which words and frames a pretext loss has to predict, chosen from a seed.

use crate::seed::RandomStream;
use crate::word_piece::SpecialTokens;

/// Draws without a target after which one position is picked directly.
const MAX_REDRAWS: usize = 64;

/// Share of the targets that are replaced by the mask token.
const MASK_SHARE: f64 = 0.8;

/// Share of the targets that are replaced by a random token.
const RANDOM_SHARE: f64 = 0.1;

/// A text of which some tokens have been hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedWords {
    /// The token ids, some of them replaced; as long as the input.
    pub ids: Vec<i64>,
    /// True where the original token is to be predicted; as long as the input.
    pub predict: Vec<bool>,
}

/// Hides some tokens of a text for masked-language modelling.
///
/// Each of the first `n_tokens` tokens that is none of `[PAD]`, `[CLS]`, `[SEP]` and `[MASK]`
/// becomes a target with the given probability. Of the targets, 80 % are replaced by `[MASK]`, 10 %
/// by a random token of the vocabulary (special ones included, as in the reference code), and 10 %
/// are left as they are. The choice of targets is redrawn until there is at least one; after 64
/// empty draws, one position is picked uniformly. There is no target if no token can be hidden, or
/// if `probability` is not above 0.
///
/// A pure function of its arguments. `vocab_size` is the number of tokens from which a random one
/// is drawn; with 0, the token is left as it is. `[UNK]` counts as an ordinary token.
///
/// ```
/// use meltr_data::{SpecialTokens, mask_words};
///
/// let special = SpecialTokens { pad: 0, unknown: 1, cls: 2, sep: 3, mask: 4 };
/// let masked = mask_words(&[2, 7, 8, 3, 0, 0], 4, &special, 9, 0.15, 1);
/// assert!(masked.predict[1] || masked.predict[2]);
/// assert_eq!(masked.ids[0], 2);
/// ```
///
/// # References
///
/// - Devlin et al., [BERT](https://arxiv.org/abs/1810.04805), NAACL 2019: the shares 80/10/10.
/// - Reference code: `mlvlab/MELTR` `univl/dataloaders`, the training branch of the word masking.
#[must_use]
pub fn mask_words(
    ids: &[i64],
    n_tokens: usize,
    special: &SpecialTokens,
    vocab_size: usize,
    probability: f64,
    seed: u64,
) -> MaskedWords {
    let mut stream = RandomStream::new(seed);
    let fixed = [special.pad, special.cls, special.sep, special.mask];
    let maskable: Vec<usize> = ids
        .iter()
        .take(n_tokens)
        .enumerate()
        .filter(|(_, id)| !fixed.contains(id))
        .map(|(position, _)| position)
        .collect();
    let mut masked = MaskedWords {
        ids: ids.to_vec(),
        predict: vec![false; ids.len()],
    };
    for position in choose_targets(&maskable, probability, &mut stream) {
        masked.predict[position] = true;
        let share = stream.unit();
        if share < MASK_SHARE {
            masked.ids[position] = special.mask;
        } else if share < MASK_SHARE + RANDOM_SHARE && vocab_size > 0 {
            masked.ids[position] = stream.below(vocab_size) as i64;
        }
    }
    masked
}

/// Chooses the frames of a clip that masked-frame modelling hides; true = hidden, to be predicted.
///
/// Each of the first `n_frames_valid` frames is chosen with the given probability, redrawn until
/// there is at least one; after 64 empty draws one frame is picked uniformly. No frame is chosen if
/// none is valid (where the reference code never ends), or if `probability` is not above 0. The
/// result has `n_frames` entries; padding is never chosen.
///
/// ```
/// use meltr_data::mask_frames;
///
/// let predict = mask_frames(3, 5, 0.15, 1);
/// assert_eq!(predict.len(), 5);
/// assert!(predict[..3].contains(&true));
/// assert_eq!(predict[3..], [false, false]);
/// ```
#[must_use]
pub fn mask_frames(
    n_frames_valid: usize,
    n_frames: usize,
    probability: f64,
    seed: u64,
) -> Vec<bool> {
    let maskable: Vec<usize> = (0..n_frames_valid.min(n_frames)).collect();
    let mut predict = vec![false; n_frames];
    for frame in choose_targets(&maskable, probability, &mut RandomStream::new(seed)) {
        predict[frame] = true;
    }
    predict
}

fn choose_targets(maskable: &[usize], probability: f64, stream: &mut RandomStream) -> Vec<usize> {
    if maskable.is_empty() || probability.is_nan() || probability <= 0.0 {
        return Vec::new();
    }
    for _ in 0..MAX_REDRAWS {
        let targets: Vec<usize> = maskable
            .iter()
            .copied()
            .filter(|_| stream.unit() < probability)
            .collect();
        if !targets.is_empty() {
            return targets;
        }
    }
    vec![maskable[stream.below(maskable.len())]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPECIAL: SpecialTokens = SpecialTokens {
        pad: 0,
        unknown: 1,
        cls: 2,
        sep: 3,
        mask: 4,
    };

    #[test]
    fn every_token_is_a_target_when_the_probability_is_one() {
        let masked = mask_words(&[2, 7, 1, 9, 3, 0], 5, &SPECIAL, 20, 1.0, 3);
        assert_eq!(masked.predict, [false, true, true, true, false, false]);
        assert_eq!([masked.ids[0], masked.ids[4], masked.ids[5]], [2, 3, 0]);
    }

    #[test]
    fn a_tiny_probability_ends_with_exactly_one_target() {
        let masked = mask_words(&[2, 7, 8, 9, 3], 5, &SPECIAL, 20, 1e-300, 3);
        assert_eq!(masked.predict.iter().filter(|&&predict| predict).count(), 1);
        let frames = mask_frames(4, 4, 1e-300, 3);
        assert_eq!(frames.iter().filter(|&&predict| predict).count(), 1);
    }

    #[test]
    fn a_text_without_maskable_token_has_no_target() {
        let masked = mask_words(&[2, 3, 0, 0], 2, &SPECIAL, 20, 0.15, 3);
        assert_eq!(
            masked,
            MaskedWords {
                ids: vec![2, 3, 0, 0],
                predict: vec![false; 4]
            }
        );
        assert!(mask_words(&[], 0, &SPECIAL, 20, 0.15, 3).ids.is_empty());
    }

    #[test]
    fn probability_zero_or_nan_switches_masking_off() {
        for probability in [0.0, -1.0, f64::NAN] {
            assert!(!mask_words(&[2, 7, 3], 3, &SPECIAL, 20, probability, 3).predict[1]);
            assert_eq!(mask_frames(3, 3, probability, 3), [false; 3]);
        }
    }

    #[test]
    fn a_clip_without_frames_ends() {
        assert_eq!(mask_frames(0, 3, 0.15, 1), [false; 3]);
        assert!(mask_frames(5, 0, 0.15, 1).is_empty());
    }

    #[test]
    fn shares_are_those_of_bert() {
        let ids = vec![9_i64; 40_000];
        let masked = mask_words(&ids, ids.len(), &SPECIAL, 1_000_000, 1.0, 11);
        let share = |keep: &dyn Fn(i64) -> bool| {
            masked.ids.iter().filter(|&&id| keep(id)).count() as f64 / 40_000.0
        };
        // Five standard errors: 5 * sqrt(0.8 * 0.2 / 40000) = 0.01.
        assert!((share(&|id| id == SPECIAL.mask) - 0.8).abs() < 0.01);
        assert!((share(&|id| id == 9) - 0.1).abs() < 0.01);
    }

    #[test]
    fn targets_have_the_asked_frequency() {
        let ids = vec![9_i64; 40_000];
        let masked = mask_words(&ids, ids.len(), &SPECIAL, 20, 0.15, 11);
        let share = masked.predict.iter().filter(|&&predict| predict).count() as f64 / 40_000.0;
        // Five standard errors: 5 * sqrt(0.15 * 0.85 / 40000) = 0.009.
        assert!((share - 0.15).abs() < 0.009, "{share}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn only_targets_change_and_there_is_one(
            seed in any::<u64>(),
            words in proptest::collection::vec(5_i64..50, 1..12),
            n_pad in 0_usize..5,
            probability in 0.01_f64..=1.0,
        ) {
            let mut ids = vec![SPECIAL.cls];
            ids.extend(&words);
            ids.push(SPECIAL.sep);
            let n_tokens = ids.len();
            ids.extend(vec![SPECIAL.pad; n_pad]);
            let masked = mask_words(&ids, n_tokens, &SPECIAL, 50, probability, seed);
            prop_assert_eq!(&masked, &mask_words(&ids, n_tokens, &SPECIAL, 50, probability, seed));
            prop_assert!(masked.predict[1..=words.len()].contains(&true));
            for (position, &id) in ids.iter().enumerate() {
                if masked.predict[position] {
                    prop_assert!((1..=words.len()).contains(&position));
                    prop_assert!((0..50).contains(&masked.ids[position]));
                } else {
                    prop_assert_eq!(masked.ids[position], id);
                }
            }
        }

        #[test]
        fn some_valid_frame_and_no_padding_is_chosen(
            seed in any::<u64>(), n_valid in 1_usize..10, n_pad in 0_usize..5,
            probability in 0.01_f64..=1.0,
        ) {
            let predict = mask_frames(n_valid, n_valid + n_pad, probability, seed);
            prop_assert!(predict[..n_valid].contains(&true));
            prop_assert!(!predict[n_valid..].contains(&true));
        }
    }
}
