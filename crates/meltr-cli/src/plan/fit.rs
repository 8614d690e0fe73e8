//! From what small batches took to what a larger one will take.

use serde::Serialize;

/// What steps with batches of one size took: bytes or seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// Items of a batch.
    pub(super) batch: usize,
    /// What was measured.
    pub(super) value: f64,
}

/// What steps with larger batches will take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Estimate {
    /// The prediction.
    pub(super) value: f64,
    /// If everything that grows does so in proportion to the batch.
    pub(super) low: f64,
    /// If everything that grows does so with its square.
    pub(super) high: f64,
}

/// What a batch will take, from `points` by rising size; `None` from less than two of them, unless
/// it is one of them.
///
/// Memory and time of a step are `a + c b + d b²` with `c, d ≥ 0` for batches of `b`: most of it
/// grows with the items, and a loss that compares every video with every text grows with the
/// pairs. The last three points fix the parabola. Its errors are larger than those of the points;
/// what lies outside of the two bounds is such an error and is cut off. Two points leave open
/// which share is quadratic, and the upper bound is taken.
pub(super) fn estimate(points: &[Point], batch: usize) -> Option<Estimate> {
    if let Some(known) = points.iter().find(|point| point.batch == batch) {
        return Some(Estimate {
            value: known.value,
            low: known.value,
            high: known.value,
        });
    }
    let [.., before, last] = points else {
        return None;
    };
    let [x0, x1, x] = [before.batch, last.batch, batch].map(|items| items as f64);
    let rise = (last.value - before.value).max(0.0);
    let low = last.value + rise * (x - x1) / (x1 - x0);
    let high = last.value + rise * (x * x - x1 * x1) / (x1 * x1 - x0 * x0);
    let value = match points {
        [.., first, before, last] => parabola([*first, *before, *last], x).max(low).min(high),
        _ => high,
    };
    Some(Estimate { value, low, high })
}

/// The parabola through three points.
fn parabola([first, second, third]: [Point; 3], x: f64) -> f64 {
    let [x0, x1, x2] = [first, second, third].map(|point| point.batch as f64);
    let slope = (second.value - first.value) / (x1 - x0);
    let next = (third.value - second.value) / (x2 - x1);
    let bend = (next - slope) / (x2 - x0);
    first.value + (x - x0) * (slope + bend * (x - x1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(of: impl Fn(f64) -> f64, batches: &[usize]) -> Vec<Point> {
        let point = |&batch: &usize| Point {
            batch,
            value: of(batch as f64),
        };
        batches.iter().map(point).collect()
    }

    #[test]
    fn what_was_measured_is_not_estimated() {
        let points = points(|b| 10.0 * b, &[2, 4]);
        let found = estimate(&points, 4).unwrap();
        assert_eq!([found.low, found.value, found.high], [40.0; 3]);
    }

    #[test]
    fn three_points_give_every_mixture_of_linear_and_quadratic_growth() {
        for (c, d) in [(3.0, 0.0), (3.0, 0.5), (0.0, 0.5), (0.0, 0.0)] {
            let took = |b: f64| 100.0 + c * b + d * b * b;
            let found = estimate(&points(took, &[4, 8, 16]), 32).unwrap();
            assert!((found.value - took(32.0)).abs() < 1e-9, "{c} {d} {found:?}");
            assert!(found.low <= found.value && found.value <= found.high);
        }
    }

    #[test]
    fn two_points_give_the_upper_bound() {
        let found = estimate(&points(|b| 100.0 + 3.0 * b, &[4, 8]), 16).unwrap();
        assert!((found.low - 148.0).abs() < 1e-9);
        // 124 + 12 (256 - 64) / (64 - 16)
        assert!((found.high - 172.0).abs() < 1e-9);
        assert_eq!(found.value, found.high);
    }

    #[test]
    fn an_error_of_one_point_does_not_leave_the_bounds() {
        let mut noisy = points(|b| 100.0 + 3.0 * b, &[4, 8, 16]);
        for error in [-9.0, 9.0] {
            noisy[1].value = 124.0 + error;
            let found = estimate(&noisy, 32).unwrap();
            assert!(
                found.low <= found.value && found.value <= found.high,
                "{found:?}"
            );
        }
        // A larger batch never takes less.
        noisy[2].value = 90.0;
        let found = estimate(&noisy, 32).unwrap();
        assert_eq!([found.low, found.value, found.high], [90.0; 3]);
    }

    #[test]
    fn one_point_says_nothing_about_others() {
        assert_eq!(estimate(&points(|b| b, &[4]), 8), None);
        assert_eq!(estimate(&[], 8), None);
    }
}
