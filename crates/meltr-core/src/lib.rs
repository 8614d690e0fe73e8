//! Combining task losses into one training loss, with a network that is itself learned.
//!
//! A model yields `T` task losses. A [`LossCombiner`] turns them into the one number that is
//! minimized: the primary loss alone ([`PrimaryOnly`]), their sum ([`PlainSum`]), or one that is
//! learned, as the [`LossTransformer`] of MELTR (Ko et al., CVPR 2023): a small transformer over
//! the `T` losses whose parameters are the outer variables of a bilevel problem. As published, its
//! output is the number that is minimized; in a [`WeightTransformer`], the recommended form, it
//! gives positive weights of the losses, whose sum is `T`.
//!
//! In reading order: [`Dual`] (a value and its tangent), [`LossCombiner`], [`LossTransformer`],
//! [`WeightTransformer`], [`Regularizer`], [`fit_to_sum`] (the warm start of the published form),
//! [`FineTuneTask`] (what a training loop needs from a task), [`Workers`] (the processes that share
//! its work), [`StateDict`] (parameters under published names). Loss weightings that are not
//! learned through a hypergradient are in [`weighting`].
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use meltr_core::{
//!     LossCombiner, LossTransformerConfig, PlainSum, WeightTransformerConfig, combine,
//!     sensitivities,
//! };
//!
//! # fn main() -> Result<(), meltr_core::ConfigError> {
//! let device = Device::default();
//! let losses = Tensor::<1>::from_floats([0.7, 2.1, 0.3], &device);
//!
//! let sum = PlainSum::new(3);
//! assert_eq!(sensitivities(&sum, losses.clone()), vec![1.0, 1.0, 1.0]);
//!
//! let learned = LossTransformerConfig::violet_retrieval().init(42, &device)?;
//! assert_eq!(combine(&learned, losses.clone()).dims(), [1]);
//!
//! let sizes = LossTransformerConfig::new(3, 16, 32, 32);
//! let weights = WeightTransformerConfig::new(sizes, 0).init(&[0.7, 2.1, 0.3], 42, &device)?;
//! let weights = sensitivities(&weights, losses);
//! assert!(weights.iter().all(|weight| *weight > 0.0));
//! assert!((weights.iter().sum::<f64>() - 3.0).abs() < 1e-5);
//! # Ok(())
//! # }
//! ```

mod activation;
mod auto_lambda;
mod auxiliary_linear;
mod auxiliary_network;
mod combiner;
mod dual;
mod error;
mod fused;
mod host;
mod initializer;
mod loss_transformer;
mod pass;
mod regularizer;
mod state_dict;
mod tape;
mod task;
mod vector_math;
mod warm_start;
mod weight_transformer;
pub mod weighting;
mod workers;

pub use auto_lambda::{AutoLambda, AutoLambdaConfig};
pub use auxiliary_linear::{AuxiliaryLinear, AuxiliaryLinearConfig};
pub use auxiliary_network::{AuxiliaryNetwork, AuxiliaryNetworkConfig};
pub use combiner::{
    Combiner, LossCombiner, PlainSum, PrimaryOnly, combine, directional_derivative, sensitivities,
};
pub use dual::{Dual, Weights};
pub use error::ConfigError;
pub use host::is_on_host;
pub use initializer::{Fill, ParameterSite, initialize};
pub use loss_transformer::{LossTransformer, LossTransformerConfig, LossTransformerOutput};
pub use pass::{Pass, dropout};
pub use regularizer::{RegularizedGradient, Regularizer};
pub use state_dict::{
    LoadReport, ShapeMismatch, StateDict, load_state_dict, parameter_names, state_dict, vec_f64,
};
pub use tape::on_tape_of;
pub use task::FineTuneTask;
pub use warm_start::{WarmStartConfig, WarmStartReport, fit_to_sum};
pub use weight_transformer::{LossInput, WeightTransformer, WeightTransformerConfig};
pub use workers::{Alone, Workers, gather_texts};
