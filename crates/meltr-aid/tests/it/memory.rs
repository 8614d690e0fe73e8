//! Memory over many outer steps.

use burn::tensor::{DType, Device};
use meltr_aid::conformance::problems;
use meltr_aid::{ConjugateGradient, HypergradientEstimator, Implicit, Settings, Unrolled, shifted};

/// Resident bytes of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024 * kibibytes)
}

#[test]
fn memory_is_flat_over_a_thousand_outer_steps() {
    use burn::module::Module;

    let problem = problems(&Device::default(), DType::F32).remove(2);
    let recorded = problem.clone().with_recording();
    let inner = problem.inner();
    let mut outer = problem.outer();
    let mut solver = Implicit::new(ConjugateGradient::new(5).with_warm_start());
    let mut from_record = Implicit::new(ConjugateGradient::new(5));
    let mut unrolled = Unrolled::new(5, Settings::default());
    let mut early = None;
    for step in 0..1000 {
        let found = solver.estimate(&problem, &inner, &outer).unwrap();
        from_record.estimate(&recorded, &inner, &outer).unwrap();
        unrolled.record(&inner, 0.1);
        unrolled.estimate(&problem, &inner, &outer).unwrap();
        outer = shifted(&outer, -1e-4, &found.gradient).train();
        if step == 100 {
            early = resident_bytes();
        }
    }
    assert_eq!(unrolled.n_steps(), 5);
    if let (Some(early), Some(late)) = (early, resident_bytes()) {
        let grown = late.saturating_sub(early);
        println!("{early} bytes after 100 steps, {late} after 1000");
        assert!(
            grown < 4 << 20,
            "{grown} bytes more after 1000 steps than after 100"
        );
    }
}
