//! Small dense linear systems.

/// Solves `A x = b` by Gaussian elimination with scaled partial pivoting.
///
/// `None` if the matrix is singular to working precision.
///
/// # Shapes
///
/// - matrix: `n` rows of `n`; right_hand_side, output: `[n]`
pub(super) fn solve(mut matrix: Vec<Vec<f64>>, mut right_hand_side: Vec<f64>) -> Option<Vec<f64>> {
    const SINGULAR: f64 = 1e-15;
    let n = right_hand_side.len();
    // The largest entry of each row, so that rows of different units are compared fairly.
    let mut scales: Vec<f64> = matrix
        .iter()
        .map(|row| row.iter().fold(0.0_f64, |largest, x| largest.max(x.abs())))
        .collect();
    if scales.contains(&0.0) {
        return None;
    }
    for column in 0..n {
        let mut pivot = column;
        for row in column + 1..n {
            let candidate = matrix[row][column].abs() / scales[row];
            if candidate > matrix[pivot][column].abs() / scales[pivot] {
                pivot = row;
            }
        }
        let large_enough = matrix[pivot][column].abs() > SINGULAR * scales[pivot];
        if !large_enough {
            return None;
        }
        matrix.swap(column, pivot);
        scales.swap(column, pivot);
        right_hand_side.swap(column, pivot);
        let (done, below) = matrix.split_at_mut(column + 1);
        let pivot_row = &done[column];
        for (offset, row) in below.iter_mut().enumerate() {
            let factor = row[column] / pivot_row[column];
            for (entry, above) in row[column..].iter_mut().zip(&pivot_row[column..]) {
                *entry -= factor * above;
            }
            let above = right_hand_side[column];
            right_hand_side[column + 1 + offset] -= factor * above;
        }
    }
    let mut solution = vec![0.0; n];
    for row in (0..n).rev() {
        let known: f64 = matrix[row][row + 1..]
            .iter()
            .zip(&solution[row + 1..])
            .map(|(factor, value)| factor * value)
            .sum();
        solution[row] = (right_hand_side[row] - known) / matrix[row][row];
    }
    Some(solution)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_that_needs_pivoting_is_solved() {
        // x = 2.4, y = 1.1, z = 1.8: 2 y + z = 4, x + y + z = 5.3, 3 x + z = 9.
        let matrix = vec![
            vec![0.0, 2.0, 1.0],
            vec![1.0, 1.0, 1.0],
            vec![3.0, 0.0, 1.0],
        ];
        let solution = solve(matrix, vec![4.0, 5.3, 9.0]).unwrap();
        for (found, expected) in solution.iter().zip([2.4, 1.1, 1.8]) {
            assert!((found - expected).abs() < 1e-12, "{solution:?}");
        }
    }

    #[test]
    fn rows_of_very_different_units_are_not_called_singular() {
        let solution = solve(vec![vec![1e-20, 0.0], vec![0.0, 1.0]], vec![2e-20, 3.0]).unwrap();
        assert_eq!(solution, vec![2.0, 3.0]);
    }

    #[test]
    fn a_singular_system_has_no_solution() {
        assert_eq!(
            solve(vec![vec![1.0, 2.0], vec![2.0, 4.0]], vec![1.0, 1.0]),
            None
        );
        assert_eq!(solve(vec![vec![0.0]], vec![1.0]), None);
    }

    #[test]
    fn the_empty_system_has_the_empty_solution() {
        assert_eq!(solve(Vec::new(), Vec::new()), Some(Vec::new()));
    }
}
