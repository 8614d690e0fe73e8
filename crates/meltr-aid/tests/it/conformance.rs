//! The conformance suite on the default device, which `BURN_DEVICE` names, and the golden vectors.

use burn::tensor::{DType, Device};
use meltr_aid::conformance::{Reference, golden_vectors, problems, relative_error, run};
use meltr_aid::{ConjugateGradient, Implicit};

fn check(dtype: DType) {
    let outcomes = run(&Device::default(), dtype).unwrap();
    assert!(outcomes.len() >= 32);
    let failed: Vec<_> = outcomes.iter().filter(|o| !o.holds()).collect();
    for outcome in &outcomes {
        println!(
            "{dtype:?} {} {}: {:.1e}",
            outcome.problem, outcome.estimator, outcome.error
        );
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

fn has_f64() -> bool {
    Device::default().supports_dtype(DType::F64)
}

#[test]
fn every_estimator_conforms_in_f64() {
    if !has_f64() {
        eprintln!("skipped: the device has no f64");
        return;
    }
    check(DType::F64);
}

#[test]
fn every_estimator_conforms_in_f32() {
    check(DType::F32);
}

#[test]
fn a_wrong_estimator_does_not_conform() {
    let dtype = if has_f64() { DType::F64 } else { DType::F32 };
    for problem in problems(&Device::default(), dtype) {
        let mut two_steps = Implicit::new(ConjugateGradient::new(2));
        let error = relative_error(&mut two_steps, &problem, Reference::Exact).unwrap();
        assert!(error > 1e-4, "{}: {error}", problem.name());
    }
}

/// Written by `cargo run --release -p meltr-aid --example write_golden_vectors`.
#[test]
fn the_golden_vectors_are_those_of_the_suite() {
    for (name, bytes) in golden_vectors().unwrap() {
        let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        let stored = std::fs::read(&path).unwrap();
        let stored = safetensors::SafeTensors::deserialize(&stored).unwrap();
        let ours = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(stored.len(), ours.len());
        for (key, view) in ours.tensors() {
            let known = stored.tensor(&key).unwrap();
            assert_eq!(known.shape(), view.shape());
            let numbers = |bytes: &[u8]| -> Vec<f64> {
                bytes
                    .chunks_exact(8)
                    .map(|chunk| f64::from_le_bytes(chunk.try_into().unwrap()))
                    .collect()
            };
            let (known, ours) = (numbers(known.data()), numbers(view.data()));
            let size = known.iter().fold(0.0f64, |size, x| size.max(x.abs()));
            for (known, ours) in known.iter().zip(&ours) {
                assert!(
                    (known - ours).abs() <= 1e-10 * size,
                    "{name} {key}: {known} {ours}"
                );
            }
        }
    }
}
