//! Small convex quadratic programs, by an active-set method.

use super::error::WeightingError;
use super::gramian::{Gramian, dot};
use super::linear_system::solve;

/// Where the minimum is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feasible {
    /// `x >= 0` and `sum x = 1`.
    Simplex,
    /// `x >= 0`.
    Orthant,
}

/// A slope within this of its target, relative to the terms it is the sum of, is rounding.
const ROUNDING: f64 = 1e-13;
/// A solution whose slopes are further off than this is refused. Between the two lie Gramians of
/// single precision that are not quite semidefinite.
const ACCEPTED: f64 = 1e-6;
/// In exact arithmetic every round lowers the objective; about two a variable are usual.
const ROUNDS_PER_VARIABLE: usize = 100;

/// Minimizes `x' Q x / 2 + b' x`.
///
/// The method of Lawson and Hanson (1974) for `x >= 0`, and of Wolfe (1976) on the simplex: the
/// support grows by the variable with the steepest descent, the minimum over the support's span is
/// solved for exactly, and where it leaves the feasible set the variable that reaches 0 first is
/// taken out. It ends after finitely many rounds at the exact minimum, up to rounding.
///
/// `b` has to be in the range of `Q` (up to a multiple of the ones on the simplex). A variable
/// that enters is then never in the span of the support, and the systems are regular, even where
/// `Q` itself is not.
///
/// # Shapes
///
/// - quadratic: `[n, n]`; linear, output: `[n]`, at least one
///
/// # Errors
///
/// [`WeightingError::NotSolved`] for `method`, if rounding in `Q` makes it indefinite.
pub(super) fn minimize(
    quadratic: &Gramian,
    linear: &[f64],
    feasible: Feasible,
    method: &'static str,
) -> Result<Vec<f64>, WeightingError> {
    let n = linear.len();
    let program = Program {
        quadratic,
        linear,
        feasible,
    };
    let mut x = vec![0.0; n];
    let mut support: Vec<usize> = Vec::new();
    if feasible == Feasible::Simplex {
        let vertex = program.best_vertex();
        x[vertex] = 1.0;
        support.push(vertex);
    }
    for _ in 0..ROUNDS_PER_VARIABLE * n {
        let slopes = program.slopes(&x);
        let Some(entering) = slopes.steepest() else {
            break;
        };
        if support.contains(&entering) {
            break;
        }
        support.push(entering);
        let moved = program.move_to_minimum(&mut x, &mut support);
        // A variable that leaves as soon as it has entered is one of rounding.
        if !moved || !support.contains(&entering) {
            break;
        }
    }
    let violation = program.slopes(&x).violation(&x);
    if violation <= ACCEPTED {
        Ok(x)
    } else {
        Err(WeightingError::NotSolved { method, violation })
    }
}

struct Program<'a> {
    quadratic: &'a Gramian,
    linear: &'a [f64],
    feasible: Feasible,
}

impl Program<'_> {
    /// The vertex of the simplex with the least objective.
    fn best_vertex(&self) -> usize {
        let value = |i: usize| 0.5 * self.quadratic.product(i, i) + self.linear[i];
        let mut best = 0;
        for i in 1..self.linear.len() {
            if value(i) < value(best) {
                best = i;
            }
        }
        best
    }

    fn slopes(&self, x: &[f64]) -> Slopes {
        let mut gradient: Vec<f64> = Vec::with_capacity(x.len());
        let mut magnitude: Vec<f64> = Vec::with_capacity(x.len());
        for (i, &constant) in self.linear.iter().enumerate() {
            let mut slope = constant;
            let mut size = constant.abs();
            for (j, &x_j) in x.iter().enumerate() {
                let term = self.quadratic.product(i, j) * x_j;
                slope += term;
                size += term.abs();
            }
            gradient.push(slope);
            magnitude.push(size);
        }
        // On the simplex the slopes of the support agree with each other, otherwise they are 0.
        let (level, level_magnitude) = match self.feasible {
            Feasible::Simplex => (dot(x, &gradient), dot(x, &magnitude)),
            Feasible::Orthant => (0.0, 0.0),
        };
        Slopes {
            descent: gradient.iter().map(|slope| level - slope).collect(),
            magnitude: magnitude.iter().map(|m| m + level_magnitude).collect(),
        }
    }

    /// Moves to the minimum over the span of the support, or of what is left of the support when
    /// variables reach 0 on the way. `false` if a system is singular.
    fn move_to_minimum(&self, x: &mut [f64], support: &mut Vec<usize>) -> bool {
        while !support.is_empty() {
            let Some(target) = self.minimum_of_span(support) else {
                return false;
            };
            if target.iter().all(|value| *value > 0.0) {
                for (&i, &value) in support.iter().zip(&target) {
                    x[i] = value;
                }
                return true;
            }
            let mut step = 1.0;
            let mut leaving = 0;
            for (position, (&i, &value)) in support.iter().zip(&target).enumerate() {
                if value <= 0.0 {
                    let reach = if x[i] > 0.0 {
                        x[i] / (x[i] - value)
                    } else {
                        0.0
                    };
                    if reach <= step {
                        step = reach;
                        leaving = position;
                    }
                }
            }
            for (&i, &value) in support.iter().zip(&target) {
                x[i] = (x[i] + step * (value - x[i])).max(0.0);
            }
            x[support[leaving]] = 0.0;
            support.remove(leaving);
        }
        true
    }

    /// The minimum over the variables of the support, signs free; on the simplex their sum is 1.
    fn minimum_of_span(&self, support: &[usize]) -> Option<Vec<f64>> {
        match self.feasible {
            Feasible::Orthant => {
                let matrix: Vec<Vec<f64>> =
                    support.iter().map(|&i| self.row_of(i, support)).collect();
                let right_hand_side: Vec<f64> = support.iter().map(|&i| -self.linear[i]).collect();
                solve(matrix, right_hand_side)
            }
            Feasible::Simplex => self.minimum_of_affine_span(support),
        }
    }

    /// With `x_r = 1 - sum of the others` put in, an unconstrained problem in the others. The
    /// reference `r` is the shortest row, so that differences to it lose no digits.
    fn minimum_of_affine_span(&self, support: &[usize]) -> Option<Vec<f64>> {
        let q = |i: usize, j: usize| self.quadratic.product(i, j);
        let mut r = *support.first()?;
        for &i in support {
            if q(i, i) < q(r, r) {
                r = i;
            }
        }
        let others: Vec<usize> = support.iter().copied().filter(|&i| i != r).collect();
        let mut matrix: Vec<Vec<f64>> = Vec::with_capacity(others.len());
        let mut right_hand_side: Vec<f64> = Vec::with_capacity(others.len());
        for &i in &others {
            let row: Vec<f64> = others
                .iter()
                .map(|&j| q(i, j) - q(i, r) - q(r, j) + q(r, r))
                .collect();
            matrix.push(row);
            right_hand_side.push(q(r, r) - q(i, r) + self.linear[r] - self.linear[i]);
        }
        let values = solve(matrix, right_hand_side)?;
        let reference = 1.0 - values.iter().sum::<f64>();
        let mut target: Vec<f64> = Vec::with_capacity(support.len());
        let mut next = 0;
        for &i in support {
            if i == r {
                target.push(reference);
            } else {
                target.push(values[next]);
                next += 1;
            }
        }
        Some(target)
    }

    fn row_of(&self, i: usize, columns: &[usize]) -> Vec<f64> {
        columns
            .iter()
            .map(|&j| self.quadratic.product(i, j))
            .collect()
    }
}

/// The slopes of the objective at a point.
struct Slopes {
    /// How fast the objective falls when a variable grows, compared with the support.
    descent: Vec<f64>,
    /// Sum of the absolute terms of each, the measure of its rounding.
    magnitude: Vec<f64>,
}

impl Slopes {
    /// The variable with the largest descent beyond rounding.
    fn steepest(&self) -> Option<usize> {
        let mut steepest = None;
        let mut largest = 0.0;
        for (i, (descent, magnitude)) in self.descent.iter().zip(&self.magnitude).enumerate() {
            let beyond = descent - ROUNDING * magnitude;
            if beyond > largest {
                largest = beyond;
                steepest = Some(i);
            }
        }
        steepest
    }

    /// The largest violation of the optimality conditions: no descent, and none of either sign in
    /// the support.
    fn violation(&self, x: &[f64]) -> f64 {
        let mut largest = 0.0;
        for (i, (descent, magnitude)) in self.descent.iter().zip(&self.magnitude).enumerate() {
            let violated = if x[i] > 0.0 { descent.abs() } else { *descent };
            if violated > 0.0 {
                largest = f64::max(largest, violated / magnitude);
            }
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-12, "{found:?}, not {expected:?}");
        }
    }

    #[test]
    fn the_shortest_point_of_a_segment_is_inside_or_at_an_end() {
        // Of (1, 0) and (0, 2) it is 0.8 (1, 0) + 0.2 (0, 2): 4 / 5 and 1 / 5.
        let inside = Gramian::from_gradients(&[[1.0, 0.0], [0.0, 2.0]]).unwrap();
        let x = minimize(&inside, &[0.0; 2], Feasible::Simplex, "test").unwrap();
        assert_close(&x, &[0.8, 0.2]);
        let at_an_end = Gramian::from_gradients(&[[3.0, 1.0], [1.0, 0.0]]).unwrap();
        let x = minimize(&at_an_end, &[0.0; 2], Feasible::Simplex, "test").unwrap();
        assert_close(&x, &[0.0, 1.0]);
    }

    #[test]
    fn a_triangle_around_the_origin_reaches_it() {
        // 0.25 (1, 1) + 0.25 (-1, 1) + 0.5 (0, -1) = 0.
        let rows = [[1.0, 1.0], [-1.0, 1.0], [0.0, -1.0]];
        let gramian = Gramian::from_gradients(&rows).unwrap();
        let x = minimize(&gramian, &[0.0; 3], Feasible::Simplex, "test").unwrap();
        assert_close(&x, &[0.25, 0.25, 0.5]);
    }

    #[test]
    fn a_linear_term_moves_the_minimum_along_the_simplex() {
        // (x² + (1 - x)²) / 2 + x / 2 has the slope 2 x - 1 + 1 / 2, zero at x = 1 / 4.
        let identity = Gramian::from_gradients(&[[1.0, 0.0], [0.0, 1.0]]).unwrap();
        let x = minimize(&identity, &[0.5, 0.0], Feasible::Simplex, "test").unwrap();
        assert_close(&x, &[0.25, 0.75]);
    }

    #[test]
    fn nonnegative_variables_stay_at_zero_where_the_slope_is_upward() {
        // Unconstrained 2 x - y = 1, -x + 2 y = -2 gives y = -1; with y = 0, x = 1 / 2.
        let quadratic = Gramian::from_products(2, &[2.0, -1.0, -1.0, 2.0]).unwrap();
        let x = minimize(&quadratic, &[-1.0, 2.0], Feasible::Orthant, "test").unwrap();
        assert_close(&x, &[0.5, 0.0]);
        let x = minimize(&quadratic, &[1.0, 2.0], Feasible::Orthant, "test").unwrap();
        assert_close(&x, &[0.0, 0.0]);
    }

    #[test]
    fn equal_rows_are_no_obstacle() {
        let gramian = Gramian::from_gradients(&[[1.0, 1.0]; 4]).unwrap();
        let x = minimize(&gramian, &[0.0; 4], Feasible::Simplex, "test").unwrap();
        assert!((x.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn rows_of_very_different_lengths_are_solved_exactly() {
        // Orthogonal rows: the weights are as 1 / |g|², here 1 : 1e-8 : 1e-16.
        let rows = [[1e-4, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1e4]];
        let gramian = Gramian::from_gradients(&rows).unwrap();
        let x = minimize(&gramian, &[0.0; 3], Feasible::Simplex, "test").unwrap();
        assert!((x[1] / x[0] - 1e-8).abs() < 1e-16, "{x:?}");
        assert!((x[2] / x[0] - 1e-16).abs() < 1e-24, "{x:?}");
    }
}
