//! Which frames of a video are used: the rules of the published code, as indices.

use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, DataErrorKind};
use crate::seed::RandomStream;

/// Most frames that a rule may ask for; a larger number is a mistake, not a wish.
const MAX_FRAMES: usize = 65_536;

/// What messages call a rule.
const ITEM: &str = "frame rule";

/// Which of the `N` frames of a video are used.
///
/// `N` is the number of frames that decoding the whole video yields, and frame 0 is the first one
/// shown. No container is trusted about `N`.
///
/// ```
/// use meltr_data::FrameRule;
///
/// let rule = FrameRule::Violet { frames: 5 };
/// assert_eq!(rule.indices(300)?, [50, 100, 150, 200, 250]);
/// # Ok::<(), meltr_data::DataErrorKind>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameRule {
    /// Every frame.
    All,
    /// The middles of `T` intervals: index `floor((i + 0.5) N / T)` for `i` in `0..T`.
    ///
    /// A video with fewer than `T` frames repeats some.
    Uniform {
        /// The number of frames, `T`.
        frames: usize,
    },
    /// The rule of VIOLET's extraction script: `int(N / (T + 1) * (i + 1))` for `i` in `0..T`,
    /// with the rounding of 64-bit floats.
    ///
    /// A video with fewer than `T` frames repeats some.
    Violet {
        /// The number of frames, `T`.
        frames: usize,
    },
    /// The test rule of All-in-one: the middle `(first + last) // 2` of each of `T` segments of
    /// equal length.
    ///
    /// Segment `i` begins at `int(i * (N / T))`, rounded as 64-bit floats are. A video needs `T`
    /// frames at least.
    MiddleOfSegment {
        /// The number of frames, `T`.
        frames: usize,
    },
    /// The training rule of All-in-one: one frame at random of each of `T` segments of equal
    /// length, never the last of its segment.
    ///
    /// Each segment needs two frames at least, as in the published code.
    RandomInSegment {
        /// The number of frames, `T`.
        frames: usize,
        /// Seed of the choice; derive one for each video and epoch with
        /// [`seed_for`](crate::seed_for).
        seed: u64,
    },
}

impl FrameRule {
    /// The indices that the rule chooses, in non-decreasing order, each below `decodable_frames`.
    ///
    /// # Errors
    ///
    /// Returns an error if the rule asks for no or for absurdly many frames, or if the video has
    /// too few of them; it says how many the rule needs.
    pub fn indices(self, decodable_frames: usize) -> Result<Vec<usize>, DataErrorKind> {
        let total = decodable_frames;
        if let Some(frames) = self.frames()
            && !(1..=MAX_FRAMES).contains(&frames)
        {
            return Err(DataErrorKind::Config {
                source: ConfigError::OutOfRange {
                    field: "frames",
                    value: frames.to_string(),
                    expected: format!("in [1, {MAX_FRAMES}]"),
                },
            });
        }
        if total == 0 {
            return Err(too_few(
                "needs at least 1 frame, the video has none".to_owned(),
            ));
        }
        match self {
            Self::All => Ok((0..total).collect()),
            Self::Uniform { frames } => Ok((0..frames)
                .map(|i| {
                    let twice = (2 * i as u128 + 1) * total as u128;
                    (twice / (2 * frames as u128)) as usize
                })
                .collect()),
            Self::Violet { frames } => {
                let step = total as f64 / (frames as f64 + 1.0);
                Ok((0..frames)
                    .map(|i| (step * (i as f64 + 1.0)) as usize)
                    .collect())
            }
            Self::MiddleOfSegment { frames } => {
                if total < frames {
                    return Err(too_few(format!(
                        "{frames} segments of at least 1 frame need {frames} frames, the video has \
                         {total}"
                    )));
                }
                let starts = segment_starts(total, frames);
                Ok(starts
                    .windows(2)
                    .map(|pair| {
                        let last = pair[1].saturating_sub(1).max(pair[0]);
                        (pair[0] + last) / 2
                    })
                    .collect())
            }
            Self::RandomInSegment { frames, seed } => {
                let starts = segment_starts(total, frames);
                if starts
                    .windows(2)
                    .any(|pair| pair[1] < pair[0].saturating_add(2))
                {
                    return Err(too_few(format!(
                        "{frames} segments of at least 2 frames need {} frames, the video has \
                         {total}",
                        2 * frames
                    )));
                }
                let mut stream = RandomStream::new(seed);
                Ok(starts
                    .windows(2)
                    .map(|pair| pair[0] + stream.below(pair[1] - 1 - pair[0]))
                    .collect())
            }
        }
    }

    /// How many frames the rule chooses; `None` if that depends on the video.
    #[must_use]
    pub fn frames(self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::Uniform { frames }
            | Self::Violet { frames }
            | Self::MiddleOfSegment { frames }
            | Self::RandomInSegment { frames, .. } => Some(frames),
        }
    }
}

fn too_few(reason: String) -> DataErrorKind {
    DataErrorKind::Item {
        item: ITEM.to_owned(),
        reason,
    }
}

/// The first index of each segment and the end of the last, as numpy's
/// `linspace(0, total, frames + 1).astype(int)` has them.
fn segment_starts(total: usize, frames: usize) -> Vec<usize> {
    let step = total as f64 / frames as f64;
    let mut starts: Vec<usize> = (0..frames).map(|i| (i as f64 * step) as usize).collect();
    starts.push(total);
    starts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_uniform_rule_takes_the_middles_of_equal_intervals() {
        let rule = FrameRule::Uniform { frames: 8 };
        assert_eq!(
            rule.indices(303).unwrap(),
            [18, 56, 94, 132, 170, 208, 246, 284]
        );
        assert_eq!(rule.indices(8).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(rule.indices(3).unwrap(), [0, 0, 0, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn the_rule_of_violet_rounds_as_python_does() {
        // [int(48 / (5 + 1) * (i + 1)) for i in range(5)] and so on, with Python 3.11.
        let rule = FrameRule::Violet { frames: 5 };
        assert_eq!(rule.indices(48).unwrap(), [8, 16, 24, 32, 40]);
        assert_eq!(rule.indices(1).unwrap(), [0, 0, 0, 0, 0]);
        assert_eq!(rule.indices(91).unwrap(), [15, 30, 45, 60, 75]);
        // int(119 / 49 * 21) is 50 in floats and would be 51 in exact arithmetic.
        let indices = FrameRule::Violet { frames: 48 }.indices(119).unwrap();
        assert_eq!((indices[20], indices[41], indices[47]), (50, 101, 116));
    }

    #[test]
    fn the_middles_of_segments_are_those_of_all_in_one() {
        let rule = FrameRule::MiddleOfSegment { frames: 3 };
        // Segments 0..3, 3..6, 6..10.
        assert_eq!(rule.indices(10).unwrap(), [1, 4, 7]);
        assert_eq!(rule.indices(3).unwrap(), [0, 1, 2]);
        let message = rule.indices(2).unwrap_err().to_string();
        assert!(
            message.contains("need 3 frames, the video has 2"),
            "{message}"
        );
    }

    #[test]
    fn a_random_frame_is_never_the_last_of_its_segment() {
        for seed in 0..200 {
            let rule = FrameRule::RandomInSegment { frames: 3, seed };
            let indices = rule.indices(10).unwrap();
            assert!(indices[0] < 2, "{indices:?}");
            assert!((3..5).contains(&indices[1]), "{indices:?}");
            assert!((6..9).contains(&indices[2]), "{indices:?}");
            assert_eq!(rule.indices(10).unwrap(), indices);
            assert_eq!(rule.indices(6).unwrap(), [0, 2, 4]);
        }
        let rule = FrameRule::RandomInSegment { frames: 3, seed: 1 };
        let message = rule.indices(5).unwrap_err().to_string();
        assert!(
            message.contains("need 6 frames, the video has 5"),
            "{message}"
        );
    }

    #[test]
    fn no_frame_at_all_and_no_frame_asked_for_are_errors() {
        let message = FrameRule::All.indices(0).unwrap_err().to_string();
        assert!(message.contains("the video has none"), "{message}");
        for frames in [0, MAX_FRAMES + 1, usize::MAX] {
            let message = FrameRule::Uniform { frames }
                .indices(9)
                .unwrap_err()
                .to_string();
            assert!(message.contains("`frames`"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn indices_are_in_range_and_never_decrease(
            total in 1_usize..100_000, frames in 1_usize..200, seed in any::<u64>(),
        ) {
            for rule in [
                FrameRule::Uniform { frames },
                FrameRule::Violet { frames },
                FrameRule::MiddleOfSegment { frames },
                FrameRule::RandomInSegment { frames, seed },
            ] {
                let Ok(indices) = rule.indices(total) else {
                    prop_assert!(total < 2 * frames);
                    continue;
                };
                prop_assert_eq!(indices.len(), frames);
                prop_assert!(indices.iter().all(|&index| index < total));
                prop_assert!(indices.windows(2).all(|pair| pair[0] <= pair[1]));
            }
        }
    }
}
