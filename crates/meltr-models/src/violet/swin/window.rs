//! Windows of a grid of tokens: partition, cyclic shift, padding, and which tokens may meet.

use std::array::from_fn;

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::univl_batch::index_tensor;

/// Added to the score of two tokens that only the cyclic shift brought into one window.
const FOREIGN_SCORE: f64 = -100.0;

/// Sizes along time, height and width.
pub(crate) type Extent = [usize; 3];

/// Which entries of the relative position bias are used by a window that had to shrink to a grid
/// smaller than itself.
///
/// The two agree unless the height or the width has shrunk; at 224 x 224 pixels neither has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowBias {
    /// Token `k` of the small window takes the place that token `k` has in the full window, as in
    /// the released code. For published weights.
    #[default]
    Published,
    /// A pair of tokens takes the bias of its true offset.
    Geometric,
}

/// Whether windows are moved by half of their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shift {
    None,
    Half,
}

/// How a grid is cut into windows.
#[derive(Debug, Clone)]
pub(crate) struct Windows {
    /// Tokens along each axis.
    grid: Extent,
    /// Size of a window: the full one, but never larger than the grid.
    window: Extent,
    /// Tokens by which the grid is rolled back before it is cut.
    shift: Extent,
    /// The grid, filled up at the end of each axis to a multiple of the window.
    padded: Extent,
}

impl Windows {
    /// Along an axis that one window covers, nothing is shifted.
    pub(crate) fn new(grid: Extent, full: Extent, shift: Shift) -> Self {
        let window: Extent = from_fn(|axis| full[axis].min(grid[axis]));
        let shift = from_fn(|axis| match shift {
            Shift::Half if grid[axis] > full[axis] => full[axis] / 2,
            _ => 0,
        });
        let padded = from_fn(|axis| grid[axis].next_multiple_of(window[axis]));
        Self {
            grid,
            window,
            shift,
            padded,
        }
    }

    /// Size of a window along each axis.
    pub(crate) fn window(&self) -> Extent {
        self.window
    }

    /// Windows of one item.
    pub(crate) fn n_windows(&self) -> usize {
        self.counts().iter().product()
    }

    /// Tokens of one window.
    pub(crate) fn n_tokens(&self) -> usize {
        self.window.iter().product()
    }

    /// Tokens `[B, T * H * W, C]` to windows `[B * n, N, C]`; padding is zeros.
    ///
    /// One gather, and one scatter backwards: padding, rolling and cutting one after the other copy
    /// all tokens several times each way.
    pub(crate) fn partition(&self, tokens: Tensor<3>) -> Tensor<3> {
        let [batch_size, n_tokens, channels] = tokens.dims();
        let shape = [batch_size * self.n_windows(), self.n_tokens(), channels];
        if self.is_single() {
            return tokens.reshape(shape);
        }
        let device = tokens.device();
        let n_rows = batch_size * n_tokens;
        let tokens: Tensor<2> = tokens.reshape([n_rows, channels]);
        let tokens = if self.padded == self.grid {
            tokens
        } else {
            // Padding takes the row behind the last token.
            let zeros = Tensor::zeros([1, channels], (&device, tokens.dtype()));
            Tensor::cat(vec![tokens, zeros], 0)
        };
        let sources = self.sources();
        let rows: Vec<i64> = (0..batch_size)
            .flat_map(|item| {
                sources.iter().map(move |source| match source {
                    Some(token) => (item * n_tokens + token) as i64,
                    None => n_rows as i64,
                })
            })
            .collect();
        tokens
            .select(0, index_tensor(&rows, &device))
            .reshape(shape)
    }

    /// The inverse of [`partition`](Self::partition); what stands in the padding is dropped.
    pub(crate) fn merge(&self, windows: Tensor<3>) -> Tensor<3> {
        let [n_rows, size, channels] = windows.dims();
        let batch_size = n_rows / self.n_windows();
        let n_tokens: usize = self.grid.iter().product();
        let shape = [batch_size, n_tokens, channels];
        if self.is_single() {
            return windows.reshape(shape);
        }
        let sources = self.sources();
        let mut places = vec![0; n_tokens];
        for (at, source) in sources.iter().enumerate() {
            if let Some(token) = source {
                places[*token] = at;
            }
        }
        let rows: Vec<i64> = (0..batch_size)
            .flat_map(|item| {
                let first = item * sources.len();
                places.iter().map(move |at| (first + at) as i64)
            })
            .collect();
        let rows = index_tensor(&rows, &windows.device());
        let windows: Tensor<2> = windows.reshape([n_rows * size, channels]);
        windows.select(0, rows).reshape(shape)
    }

    /// What is added to the attention scores inside of each window, `[n, N, N]`; `None` where all
    /// tokens of a window may meet.
    pub(crate) fn scores(&self, device: &Device) -> Option<Tensor<3>> {
        if self.shift == [0; 3] {
            return None;
        }
        let (n, size) = (self.n_windows(), self.n_tokens());
        let regions = TensorData::new(self.regions(), [n, size]);
        let regions = Tensor::<2, Int>::from_data(regions, device);
        let rows: Tensor<3, Int> = regions.clone().reshape([n, size, 1]);
        let columns: Tensor<3, Int> = regions.reshape([n, 1, size]);
        let foreign = rows
            .expand([n, size, size])
            .not_equal(columns.expand([n, size, size]));
        Some(foreign.float() * FOREIGN_SCORE)
    }

    /// Whether one window is the whole grid; then its tokens stand in the grid's order.
    fn is_single(&self) -> bool {
        self.window == self.grid
    }

    /// The token of the grid at every place of every window, `[n, N]` row-major; `None` where there
    /// is padding.
    fn sources(&self) -> Vec<Option<usize>> {
        let (counts, size) = (self.counts(), self.n_tokens());
        let [_, height, width] = self.grid;
        (0..self.n_windows() * size)
            .map(|at| {
                let corner = place(at / size, counts);
                let inner = place(at % size, self.window);
                let source: Extent = from_fn(|axis| {
                    let rolled = corner[axis] * self.window[axis] + inner[axis];
                    (rolled + self.shift[axis]) % self.padded[axis]
                });
                let is_inside = (0..3).all(|axis| source[axis] < self.grid[axis]);
                is_inside.then(|| (source[0] * height + source[1]) * width + source[2])
            })
            .collect()
    }

    /// Windows along each axis.
    fn counts(&self) -> Extent {
        from_fn(|axis| self.padded[axis] / self.window[axis])
    }

    /// The region of every token of every window, `[n, N]` row-major. Tokens of one window and one
    /// region are neighbors in the grid; others came together from opposite ends of it.
    fn regions(&self) -> Vec<i64> {
        let (counts, size) = (self.counts(), self.n_tokens());
        (0..self.n_windows() * size)
            .map(|at| {
                let corner = place(at / size, counts);
                let inner = place(at % size, self.window);
                (0..3).fold(0, |id, axis| {
                    3 * id + self.region(axis, corner[axis] * self.window[axis] + inner[axis])
                })
            })
            .collect()
    }

    /// Part of an axis that a position of the rolled grid belongs to.
    fn region(&self, axis: usize, at: usize) -> i64 {
        let (window, shift, padded) = (self.window[axis], self.shift[axis], self.padded[axis]);
        if shift == 0 || at < padded - window {
            0
        } else if at < padded - shift {
            1
        } else {
            2
        }
    }
}

/// Rows of the bias table for all pairs of tokens of a window, `[N, N]` row-major.
///
/// The table has a row for each offset in a window of size `full`, `2 full - 1` along each axis.
pub(crate) fn bias_rows(full: Extent, window: Extent, bias: WindowBias) -> Vec<i64> {
    let lattice = match bias {
        WindowBias::Published => full,
        WindowBias::Geometric => window,
    };
    let size: usize = window.iter().product();
    (0..size * size)
        .map(|at| {
            let (query, key) = (place(at / size, lattice), place(at % size, lattice));
            let row = (0..3).fold(0, |row, axis| {
                row * (2 * full[axis] - 1) + query[axis] + full[axis] - 1 - key[axis]
            });
            row as i64
        })
        .collect()
}

/// Coordinates of entry `at` of a row-major array.
fn place(at: usize, [_, height, width]: Extent) -> Extent {
    [at / (height * width), at / width % height, at % width]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [(Extent, Extent); 6] = [
        ([1, 4, 4], [2, 2, 2]),
        ([3, 4, 4], [2, 3, 3]),
        ([5, 3, 7], [2, 4, 3]),
        ([4, 6, 6], [8, 3, 3]),
        ([2, 2, 2], [4, 4, 4]),
        ([4, 8, 4], [2, 4, 2]),
    ];

    fn numbered(grid: Extent, batch_size: usize) -> Tensor<3> {
        let count: usize = grid.iter().product();
        let values: Vec<f32> = (1..=batch_size * count * 2).map(|at| at as f32).collect();
        Tensor::from_data(
            TensorData::new(values, [batch_size, count, 2]),
            &Device::default(),
        )
    }

    fn every_case() -> impl Iterator<Item = Windows> {
        CASES.into_iter().flat_map(|(grid, full)| {
            [Shift::None, Shift::Half].map(|shift| Windows::new(grid, full, shift))
        })
    }

    #[test]
    fn merging_undoes_partition_shift_and_padding() {
        for windows in every_case() {
            let tokens = numbered(windows.grid, 2);
            let back = windows.merge(windows.partition(tokens.clone()));
            back.into_data().assert_eq(&tokens.into_data(), true);
        }
    }

    #[test]
    fn every_token_is_in_exactly_one_window_and_the_rest_is_zero() {
        for windows in every_case() {
            let tokens = numbered(windows.grid, 2);
            let mut before: Vec<f32> = tokens.clone().into_data().iter::<f32>().collect();
            let cut: Vec<f32> = windows
                .partition(tokens)
                .into_data()
                .iter::<f32>()
                .collect();
            let mut after: Vec<f32> = cut.iter().copied().filter(|value| *value != 0.0).collect();
            before.sort_by(f32::total_cmp);
            after.sort_by(f32::total_cmp);
            assert_eq!(before, after, "{windows:?}");
            assert_eq!(
                cut.len(),
                2 * 2 * windows.n_windows() * windows.n_tokens(),
                "{windows:?}"
            );
        }
    }

    #[test]
    fn windows_are_cut_row_major_in_time_height_and_width() {
        let windows = Windows::new([1, 2, 4], [1, 2, 2], Shift::None);
        let cut = windows.partition(numbered([1, 2, 4], 1).narrow(2, 0, 1));
        let cut: Vec<f32> = cut.into_data().iter::<f32>().collect();
        // Channel 0 of tokens 0, 1, 4, 5, then of 2, 3, 6, 7.
        assert_eq!(cut, [1.0, 3.0, 9.0, 11.0, 5.0, 7.0, 13.0, 15.0]);
    }

    #[test]
    fn tokens_of_one_window_and_region_are_less_than_a_window_apart() {
        for windows in every_case() {
            let size = windows.n_tokens();
            let count: usize = windows.grid.iter().product();
            let ids: Vec<f32> = (1..=count).map(|at| at as f32).collect();
            let ids = TensorData::new(ids, [1, count, 1]);
            let ids = windows.partition(Tensor::from_data(ids, &Device::default()));
            let data = ids.into_data();
            let tokens: Vec<(usize, i64)> = data
                .iter::<f32>()
                .map(|id| id as usize)
                .zip(windows.regions())
                .collect();
            for window in tokens.chunks(size) {
                for (a, region_a) in window {
                    for (b, region_b) in window {
                        // Padding has no id.
                        if *a == 0 || *b == 0 || region_a != region_b {
                            continue;
                        }
                        let (p, q) = (place(a - 1, windows.grid), place(b - 1, windows.grid));
                        let is_near =
                            (0..3).all(|axis| p[axis].abs_diff(q[axis]) < windows.window[axis]);
                        assert!(is_near, "{windows:?}: {p:?} meets {q:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn only_a_shift_forbids_tokens_to_meet() {
        let device = Device::default();
        assert!(
            Windows::new([2, 5, 5], [2, 3, 3], Shift::None)
                .scores(&device)
                .is_none()
        );
        // The grid is one window, so that there is nothing to shift.
        assert!(
            Windows::new([2, 3, 3], [2, 3, 3], Shift::Half)
                .scores(&device)
                .is_none()
        );
        let scores = Windows::new([1, 1, 4], [1, 1, 2], Shift::Half)
            .scores(&device)
            .unwrap();
        let scores: Vec<f32> = scores.into_data().iter::<f32>().collect();
        // The second window holds the last token and the first.
        let expected = [0.0, 0.0, 0.0, 0.0, 0.0, -100.0, -100.0, 0.0];
        assert_eq!(scores, expected);
    }

    #[test]
    fn the_bias_depends_on_the_offset_alone() {
        let full = [2, 3, 3];
        let rows = bias_rows(full, full, WindowBias::Published);
        let size = 18;
        for (at, row) in rows.iter().enumerate() {
            let (query, key) = (place(at / size, full), place(at % size, full));
            for (other, other_row) in rows.iter().enumerate() {
                let (q, k) = (place(other / size, full), place(other % size, full));
                let is_same = (0..3).all(|axis| query[axis] + k[axis] == q[axis] + key[axis]);
                assert_eq!(is_same, row == other_row);
            }
        }
        assert_eq!(rows.iter().max(), Some(&(3 * 5 * 5 - 1)));
        assert_eq!(rows.iter().min(), Some(&0));
    }

    #[test]
    fn a_shorter_time_axis_needs_no_choice_but_a_narrower_one_does() {
        let full = [4, 3, 3];
        let choices = |window| {
            [WindowBias::Published, WindowBias::Geometric].map(|bias| bias_rows(full, window, bias))
        };
        let [published, geometric] = choices([2, 3, 3]);
        assert_eq!(published, geometric);
        let [published, geometric] = choices([4, 2, 2]);
        assert_ne!(published, geometric);
    }

    #[test]
    fn a_small_window_takes_the_corner_of_the_published_table() {
        let (full, window) = ([2, 3, 3], [2, 2, 2]);
        let whole = bias_rows(full, full, WindowBias::Published);
        let corner = bias_rows(full, window, WindowBias::Published);
        for row in 0..8 {
            for column in 0..8 {
                assert_eq!(corner[row * 8 + column], whole[row * 18 + column]);
            }
        }
    }
}
