//! Cost of the loss transformer: value, gradient by the losses, mixed product.

use std::hint::black_box;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use meltr_core::{LossTransformer, LossTransformerConfig, combine, directional_derivative};

fn loss_transformer(c: &mut Criterion) {
    let device = Device::default().autodiff();
    let mut group = c.benchmark_group("loss_transformer");
    for n_tasks in [2, 8] {
        let Ok(model) = LossTransformerConfig::new(n_tasks, 128, 256, 512).init(1, &device) else {
            continue;
        };
        let model: LossTransformer = model.train();
        let losses = Tensor::<1>::ones([n_tasks], &device) * 1.5;
        let direction = Tensor::<1>::ones([n_tasks], &device);
        let id = |name: &str| BenchmarkId::new(name, format!("tasks={n_tasks}"));
        group.bench_function(id("value"), |b| {
            let model = model.valid();
            let losses = losses.clone().inner();
            b.iter(|| black_box(combine(&model, losses.clone()).into_scalar::<f32>()));
        });
        group.bench_function(id("gradient"), |b| {
            b.iter(|| {
                let leaf = losses.clone().require_grad();
                let gradients = combine(&model, leaf.clone()).backward();
                black_box(leaf.grad(&gradients).map(Tensor::into_data))
            });
        });
        group.bench_function(id("mixed_product"), |b| {
            b.iter(|| {
                let along = directional_derivative(&model, losses.clone(), direction.clone());
                black_box(along.backward());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, loss_transformer);
criterion_main!(benches);
