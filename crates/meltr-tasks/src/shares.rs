//! The share of an evaluation that one of several processes takes, and what all of them found.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use meltr_core::{Dual, Workers, vec_f64};
use meltr_models::Encoded;
use ndarray::Array2;

/// The items of `n_items` that this process takes: whole chunks, so that each of them holds what it
/// would hold with one process, and no number depends on how many there are.
pub(crate) fn own_items(workers: &dyn Workers, n_items: usize, chunk: usize) -> Range<usize> {
    let chunks = workers.share(n_items.div_ceil(chunk));
    let item = |chunk_number: usize| (chunk_number * chunk).min(n_items);
    item(chunks.start)..item(chunks.end)
}

/// The tensors of all processes, in the order of their numbers, on `device` without a tape.
pub(crate) fn gather_tensors<const D: usize>(
    workers: &dyn Workers,
    own: Vec<Tensor<D>>,
    device: &Device,
) -> Vec<Tensor<D>> {
    if workers.is_alone() {
        return own;
    }
    // Each tensor as its shape and its entries.
    let mut numbers = Vec::new();
    for tensor in own {
        numbers.extend(tensor.dims().map(|size| size as f64));
        numbers.extend(vec_f64(tensor.into_data()));
    }
    let all = workers.gather(&numbers);
    let mut rest = all.as_slice();
    let mut tensors = Vec::new();
    while let Some((sizes, behind)) = rest.split_first_chunk::<D>() {
        let shape = sizes.map(|size| size as usize);
        let count = shape.iter().product::<usize>().min(behind.len());
        let (entries, later) = behind.split_at(count);
        let entries: Vec<f32> = entries.iter().map(|entry| *entry as f32).collect();
        tensors.push(Tensor::from_data(TensorData::new(entries, shape), device));
        rest = later;
    }
    tensors
}

/// The encoded texts or videos of all processes, in the order of their numbers.
pub(crate) fn gather_encoded(
    workers: &dyn Workers,
    own: Vec<Encoded>,
    device: &Device,
) -> Vec<Encoded> {
    if workers.is_alone() {
        return own;
    }
    let (hidden, pad): (Vec<Tensor<3>>, Vec<Tensor<2>>) = own
        .into_iter()
        .map(|encoded| (encoded.hidden.value, encoded.pad.float()))
        .unzip();
    let hidden = gather_tensors(workers, hidden, device);
    let pad = gather_tensors(workers, pad, device);
    hidden
        .into_iter()
        .zip(pad)
        .map(|(hidden, pad)| Encoded {
            hidden: Dual::constant(hidden),
            pad: pad.greater_elem(0.5),
        })
        .collect()
}

/// The columns of all processes, in the order of their numbers; `own` are those of this one, and all
/// have the same rows.
pub(crate) fn gather_columns(workers: &dyn Workers, own: Array2<f64>) -> Array2<f64> {
    if workers.is_alone() {
        return own;
    }
    let n_rows = own.nrows();
    let columns: Vec<f64> = own.t().iter().copied().collect();
    let all = workers.gather(&columns);
    let n_columns = all.len() / n_rows.max(1);
    Array2::from_shape_fn((n_rows, n_columns), |(row, column)| {
        all[column * n_rows + row]
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use meltr_core::Alone;

    use super::*;

    /// Workers that are threads of the test.
    #[derive(Debug)]
    struct Threads {
        rank: usize,
        to: Vec<Sender<Vec<f64>>>,
        from: Vec<Receiver<Vec<f64>>>,
    }

    impl Workers for Threads {
        fn rank(&self) -> usize {
            self.rank
        }

        fn n_workers(&self) -> usize {
            self.to.len()
        }

        fn gather(&self, own: &[f64]) -> Vec<f64> {
            for to in &self.to {
                to.send(own.to_vec()).unwrap();
            }
            self.from
                .iter()
                .flat_map(|from| from.recv().unwrap())
                .collect()
        }

        fn add_all(&self, _total: &mut [f32], _own: &[f32]) {
            panic!("an evaluation adds nothing up");
        }
    }

    /// What `work` gives on each of `n` workers, which are threads.
    pub(crate) fn on_threads<R: Send>(n: usize, work: impl Fn(&dyn Workers) -> R + Sync) -> Vec<R> {
        let mut workers: Vec<Threads> = (0..n)
            .map(|rank| Threads {
                rank,
                to: Vec::new(),
                from: Vec::new(),
            })
            .collect();
        for receiver in 0..n {
            for sender in 0..n {
                let (to, from) = channel();
                workers[sender].to.push(to);
                workers[receiver].from.push(from);
            }
        }
        let work = &work;
        thread::scope(|scope| {
            let started: Vec<_> = workers
                .into_iter()
                .map(|worker| scope.spawn(move || work(&worker)))
                .collect();
            started
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        })
    }

    #[test]
    fn a_process_takes_whole_chunks() {
        let taken = on_threads(3, |workers| own_items(workers, 7, 2));
        assert_eq!(taken, [0..2, 2..4, 4..7]);
        // More processes than chunks.
        let taken = on_threads(3, |workers| own_items(workers, 3, 2));
        assert_eq!(taken, [0..0, 0..2, 2..3]);
        assert_eq!(own_items(&Alone, 7, 2), 0..7);
        assert_eq!(own_items(&Alone, 0, 2), 0..0);
    }

    fn of_length(length: usize) -> Tensor<2> {
        let entries: Vec<f32> = (0..3 * length).map(|entry| 0.1 * entry as f32).collect();
        Tensor::from_data(TensorData::new(entries, [length, 3]), &Device::default())
    }

    #[test]
    fn tensors_of_different_sizes_arrive_in_order() {
        let found = on_threads(2, |workers| {
            let own = match workers.rank() {
                0 => vec![of_length(2), of_length(1)],
                _ => vec![of_length(4)],
            };
            gather_tensors(workers, own, &Device::default())
                .into_iter()
                .map(|tensor| (tensor.dims(), vec_f64(tensor.into_data())))
                .collect::<Vec<_>>()
        });
        let expected: Vec<_> = [2, 1, 4]
            .map(|length| ([length, 3], vec_f64(of_length(length).into_data())))
            .to_vec();
        assert_eq!(found, [expected.clone(), expected]);
    }

    #[test]
    fn encoded_items_keep_their_padding() {
        let found = on_threads(2, |workers| {
            let device = Device::default();
            let own = Encoded {
                hidden: Dual::constant(Tensor::ones([1, 2, 3], &device)),
                pad: Tensor::from_data([[false, workers.rank() == 1]], &device),
            };
            gather_encoded(workers, vec![own], &device)
                .into_iter()
                .map(|encoded| {
                    let pad = vec_f64(encoded.pad.float().into_data());
                    (encoded.hidden.dims(), pad)
                })
                .collect::<Vec<_>>()
        });
        let expected = vec![([1, 2, 3], vec![0.0, 0.0]), ([1, 2, 3], vec![0.0, 1.0])];
        assert_eq!(found, [expected.clone(), expected]);
    }

    #[test]
    fn columns_make_the_matrix() {
        let score = |(text, video): (usize, usize)| (10 * text + video) as f64;
        let expected = Array2::from_shape_fn((4, 5), score);
        for n in [1, 2, 4] {
            let found = on_threads(n, |workers| {
                let own = own_items(workers, 5, 2);
                let first = own.start;
                let own = Array2::from_shape_fn((4, own.len()), |(text, video)| {
                    score((text, first + video))
                });
                gather_columns(workers, own)
            });
            assert_eq!(found, vec![expected.clone(); n]);
        }
    }
}
