//! The share of one process in the runs of a sweep.

use std::str::FromStr;

/// The share of one process of several, such as a task of a Slurm array.
///
/// Shares need nothing of each other but the folder: which runs belong to one follows from the
/// list of runs, which is the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Number of the process, from 0.
    pub index: usize,
    /// How many there are, above `index`.
    pub of: usize,
}

impl Share {
    /// Whether the run at this place of the list is in the share.
    pub(super) fn holds(self, place: usize) -> bool {
        place % self.of == self.index
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        let Some((index, of)) = numbers else {
            return Err("write I/N with whole numbers, such as 0/4".to_owned());
        };
        if index >= of {
            return Err(format!(
                "of {of} shares the first is 0/{of}, and I must be below {of}"
            ));
        }
        Ok(Self { index, of })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_is_in_one_share() {
        let shares: Vec<Share> = (0..4).map(|index| Share { index, of: 4 }).collect();
        for place in 0..11 {
            let holders = shares.iter().filter(|share| share.holds(place));
            assert_eq!(holders.count(), 1, "{place}");
        }
    }

    #[test]
    fn a_share_is_a_number_below_another() {
        assert_eq!("3/8".parse(), Ok(Share { index: 3, of: 8 }));
        assert_eq!(Share { index: 3, of: 8 }.to_string(), "3/8");
        for text in ["", "3", "a/8", "3/", "-1/8", "1.5/8"] {
            let error = text.parse::<Share>().unwrap_err();
            assert!(error.contains("write I/N"), "{text}: {error}");
        }
        for text in ["8/8", "0/0"] {
            let error = text.parse::<Share>().unwrap_err();
            assert!(error.contains("must be below"), "{text}: {error}");
        }
    }
}
