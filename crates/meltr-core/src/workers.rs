//! The processes that share the work of a run.

use std::fmt::Debug;
use std::ops::Range;

/// The processes that share the work of a run, as one of them sees them.
///
/// All of them take the same steps. Where one calls [`gather`](Self::gather) or
/// [`add_all`](Self::add_all), every other one makes the same call, and none goes on before all
/// have. What comes back is the same everywhere, to the bit: it follows from what was given and
/// from the numbers of the processes, never from who was quick. There is no answer without all of
/// them: where one ends early, the implementation ends the others.
pub trait Workers: Debug {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many there are, at least 1.
    fn n_workers(&self) -> usize;

    /// What all processes give, one after the other in the order of their numbers. They may give
    /// different amounts.
    fn gather(&self, own: &[f64]) -> Vec<f64>;

    /// Adds what all processes give to `total`, which all of them have alike, in the order of
    /// their numbers: `((total + own₀) + own₁) + ...`, every sum rounded to `f32`.
    ///
    /// # Shapes
    ///
    /// - total and own: the same length everywhere
    fn add_all(&self, total: &mut [f32], own: &[f32]);

    /// Whether there is one process alone.
    fn is_alone(&self) -> bool {
        self.n_workers() == 1
    }

    /// The part of `n` items that this process takes. The parts of all processes follow each other
    /// without a gap, and their lengths differ by one at most.
    ///
    /// ```
    /// use meltr_core::{Alone, Workers};
    ///
    /// assert_eq!(Alone.share(5), 0..5);
    /// ```
    fn share(&self, n: usize) -> Range<usize> {
        let (rank, n_workers) = (self.rank(), self.n_workers());
        n * rank / n_workers..n * (rank + 1) / n_workers
    }
}

/// One process alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Alone;

impl Workers for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn n_workers(&self) -> usize {
        1
    }

    fn gather(&self, own: &[f64]) -> Vec<f64> {
        own.to_vec()
    }

    fn add_all(&self, total: &mut [f32], own: &[f32]) {
        for (total, own) in total.iter_mut().zip(own) {
            *total += own;
        }
    }
}

/// The texts of all processes, one after the other in the order of their numbers. They may give
/// different numbers of texts.
#[must_use]
pub fn gather_texts(workers: &dyn Workers, own: Vec<String>) -> Vec<String> {
    if workers.is_alone() {
        return own;
    }
    // Each text as its number of bytes and the bytes.
    let mut numbers = Vec::new();
    for text in &own {
        numbers.push(text.len() as f64);
        numbers.extend(text.bytes().map(f64::from));
    }
    let all = workers.gather(&numbers);
    let mut rest = all.as_slice();
    let mut texts = Vec::new();
    while let Some((length, behind)) = rest.split_first() {
        let (bytes, later) = behind.split_at((*length as usize).min(behind.len()));
        let bytes: Vec<u8> = bytes.iter().map(|byte| *byte as u8).collect();
        texts.push(String::from_utf8_lossy(&bytes).into_owned());
        rest = later;
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of several processes that all give the same.
    #[derive(Debug)]
    struct Alike {
        rank: usize,
        n_workers: usize,
    }

    impl Workers for Alike {
        fn rank(&self) -> usize {
            self.rank
        }

        fn n_workers(&self) -> usize {
            self.n_workers
        }

        fn gather(&self, own: &[f64]) -> Vec<f64> {
            own.repeat(self.n_workers)
        }

        fn add_all(&self, total: &mut [f32], own: &[f32]) {
            for _ in 0..self.n_workers {
                Alone.add_all(total, own);
            }
        }
    }

    #[test]
    fn shares_follow_each_other_without_a_gap_and_differ_by_one_at_most() {
        for n_workers in 1..6 {
            for n in 0..20 {
                let mut end = 0;
                for rank in 0..n_workers {
                    let share = Alike { rank, n_workers }.share(n);
                    assert_eq!(share.start, end);
                    end = share.end;
                    let least = n / n_workers;
                    assert!((least..=least + 1).contains(&share.len()), "{n} {share:?}");
                }
                assert_eq!(end, n);
            }
        }
    }

    #[test]
    fn texts_arrive_as_they_were_sent() {
        let own = ["", "an egg", "Käse, 卵", "\n"].map(str::to_owned).to_vec();
        let workers = Alike {
            rank: 1,
            n_workers: 2,
        };
        let both = [own.clone(), own.clone()].concat();
        assert_eq!(gather_texts(&workers, own.clone()), both);
        assert_eq!(gather_texts(&workers, Vec::new()), Vec::<String>::new());
        assert_eq!(gather_texts(&Alone, own.clone()), own);
    }

    #[test]
    fn one_process_adds_its_own() {
        let mut total = [1.0, -0.5];
        Alone.add_all(&mut total, &[2.0, 0.5]);
        assert_eq!(total, [3.0, 0.0]);
        assert_eq!(Alone.gather(&[4.0, 5.0]), [4.0, 5.0]);
    }
}
