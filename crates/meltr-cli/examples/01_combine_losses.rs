//! Combines three losses: by a plain sum, by a random loss transformer, by one fitted to the sum.
//!
//! Prints the sensitivities `dg/dl_t`: 1, 1, 1 for the sum; of any sign for the random one; near
//! 1 for the fitted one.
#![expect(clippy::print_stdout, reason = "an example prints what it computes")]

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use meltr_core::{
    LossTransformerConfig, PlainSum, WarmStartConfig, combine, fit_to_sum, sensitivities,
};

fn main() -> Result<(), meltr_core::ConfigError> {
    let device = Device::default();
    let values = [0.4, 2.5, 1.1];
    let losses = Tensor::<1>::from_floats(values, &device);

    let sum = PlainSum::new(3);
    let random = LossTransformerConfig::new(3, 32, 64, 64).init(1, &device)?;
    let config = WarmStartConfig::default();
    let (fitted, _) = fit_to_sum(random.clone(), &values, &config, 2, &device)?;
    let fitted = fitted.valid();

    println!("{:<8} {:>8}  sensitivities", "combiner", "g(l)");
    print(
        "sum",
        combine(&sum, losses.clone()),
        &sensitivities(&sum, losses.clone()),
    );
    print(
        "random",
        combine(&random, losses.clone()),
        &sensitivities(&random, losses.clone()),
    );
    print(
        "fitted",
        combine(&fitted, losses.clone()),
        &sensitivities(&fitted, losses),
    );
    Ok(())
}

fn print(name: &str, combined: Tensor<1>, sensitivities: &[f64]) {
    let combined: f32 = combined.into_scalar();
    let slopes: Vec<String> = sensitivities
        .iter()
        .map(|slope| format!("{slope:.3}"))
        .collect();
    println!("{name:<8} {combined:>8.3}  {}", slopes.join(", "));
}
