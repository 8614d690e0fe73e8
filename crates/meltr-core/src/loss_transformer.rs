//! The loss transformer: a one-layer transformer encoder over `T` task losses.

use std::ops::Add;

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::combiner::LossCombiner;
use crate::dual::{Dual, Weights};
use crate::error::ConfigError;
use crate::initializer::{Fill, initialize};
use crate::pass::Pass;
use crate::state_dict::{LoadReport, StateDict, load_state_dict, state_dict};

/// Epsilon of both layer normalizations.
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// Sizes of a [`LossTransformer`].
#[derive(Config, Debug, PartialEq)]
pub struct LossTransformerConfig {
    /// Number of task losses `T`, at least 1.
    pub n_tasks: usize,
    /// Hidden width of the scale embedding, at least 1.
    pub d_scale: usize,
    /// Width of a token; a multiple of `n_heads`.
    pub d_model: usize,
    /// Hidden width of the feed-forward block, at least 1.
    pub d_ff: usize,
    /// Attention heads; 8 in all published sizes.
    #[config(default = 8)]
    pub n_heads: usize,
    /// Probability of dropout in a stochastic pass, in `[0, 1)`.
    #[config(default = 0.1)]
    pub dropout: f64,
}

impl LossTransformerConfig {
    /// The size used with UniVL: 8 losses, 562,688 parameters.
    #[must_use]
    pub fn univl() -> Self {
        Self::new(8, 128, 256, 512)
    }

    /// The size used with VIOLET for retrieval: 3 losses, 1,712,128 parameters.
    #[must_use]
    pub fn violet_retrieval() -> Self {
        Self::new(3, 256, 512, 512)
    }

    /// The size used with VIOLET for question answering: 4 losses, 430,336 parameters.
    #[must_use]
    pub fn violet_qa() -> Self {
        Self::new(4, 128, 256, 256)
    }

    /// The size used with All-in-one: 2 losses, 116,736 parameters.
    #[must_use]
    pub fn all_in_one() -> Self {
        Self::new(2, 128, 128, 128)
    }

    /// Checks every size.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::require_nonzero("n_tasks", self.n_tasks)?;
        ConfigError::require_nonzero("d_scale", self.d_scale)?;
        ConfigError::require_nonzero("d_ff", self.d_ff)?;
        ConfigError::require_heads("d_model", self.d_model, "n_heads", self.n_heads)?;
        ConfigError::require_probability("dropout", self.dropout)
    }

    /// Builds the network with PyTorch's initial values, as released with UniVL and VIOLET:
    /// embeddings `N(0, 1)`, linear maps `U(-1/√fan_in, 1/√fan_in)`, the packed projection
    /// Xavier-uniform, its biases 0.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn init(&self, seed: u64, device: &Device) -> Result<LossTransformer, ConfigError> {
        self.validate()?;
        let linear = |d_input, d_output| LinearConfig::new(d_input, d_output).init(device);
        let norm = || {
            LayerNormConfig::new(self.d_model)
                .with_epsilon(LAYER_NORM_EPSILON)
                .init(device)
        };
        let zeros = |shape: [usize; 2]| Param::from_tensor(Tensor::zeros(shape, device));
        let model = LossTransformer {
            task_embedding: EmbeddingConfig::new(self.n_tasks, self.d_model).init(device),
            loss_fc1: linear(1, self.d_scale),
            loss_fc2: linear(self.d_scale, self.d_model),
            encoder: EncoderLayer {
                self_attn: PackedSelfAttention {
                    in_proj_weight: zeros([3 * self.d_model, self.d_model]),
                    in_proj_bias: Param::from_tensor(Tensor::zeros([3 * self.d_model], device)),
                    out_proj: linear(self.d_model, self.d_model),
                    n_heads: self.n_heads,
                    dropout: self.dropout,
                },
                linear1: linear(self.d_model, self.d_ff),
                linear2: linear(self.d_ff, self.d_model),
                norm1: norm(),
                norm2: norm(),
                dropout: self.dropout,
            },
            fc1: LinearConfig::new(self.d_model, 1)
                .with_bias(false)
                .init(device),
            n_tasks: self.n_tasks,
        };
        let d_model = self.d_model as f64;
        let d_scale = self.d_scale as f64;
        let d_ff = self.d_ff as f64;
        Ok(initialize(model, seed, |site| {
            let fan_in = match site.path.rsplit_once('.').map_or("", |(parent, _)| parent) {
                "loss_fc1" => 1.0,
                "loss_fc2" => d_scale,
                "encoder.linear2" => d_ff,
                _ => d_model,
            };
            match (site.module, site.path) {
                ("Embedding", _) => Fill::Normal(1.0),
                // Xavier: fan_in = d_model, fan_out = 3 d_model.
                (_, "encoder.self_attn.in_proj_weight") => {
                    Fill::Uniform((6.0 / (4.0 * d_model)).sqrt())
                }
                (_, "encoder.self_attn.in_proj_bias" | "encoder.self_attn.out_proj.bias") => {
                    Fill::Constant(0.0)
                }
                ("Linear", _) => Fill::Uniform(1.0 / fan_in.sqrt()),
                _ => Fill::Keep,
            }
        }))
    }
}

/// The loss transformer of MELTR: `g_phi(l)`, a scalar from `T` task losses.
///
/// ```text
/// s_t = W2 relu(W1 l_t + b1) + b2 + E_t
/// X   = LN1(S + MHA(S, S, S))
/// Y   = LN2(X + V2 relu(V1 X + c1) + c2)
/// g   = fc1 · mean_t Y_t
/// ```
///
/// `E_t` is the embedding of task `t`, so the order of the losses matters. Neither sign nor size
/// of `dg/dl_t` is constrained. The last normalization bounds `|g|` whatever the losses are.
/// `norm2`'s bias never receives a hypergradient: it shifts `g` by a constant.
///
/// # References
///
/// - Ko et al., [MELTR: Meta Loss Transformer for Learning to Fine-Tune Video Foundation
///   Models](https://arxiv.org/abs/2303.13009), CVPR 2023.
/// - Reference code: `mlvlab/MELTR@669ad60`, `univl/modules/meltr.py`.
#[derive(Module, Debug)]
pub struct LossTransformer {
    task_embedding: Embedding,
    loss_fc1: Linear,
    loss_fc2: Linear,
    encoder: EncoderLayer,
    fc1: Linear,
    n_tasks: usize,
}

/// What the loss transformer computes on its way.
#[derive(Debug, Clone)]
pub struct LossTransformerOutput {
    /// Scale embedding of each loss before the task embedding is added, `[N, T, D]`.
    pub scale_embedding: Dual<3>,
    /// Output tokens of the encoder, `[N, T, D]`.
    pub encoded: Dual<3>,
    /// The combined loss, `[N]`.
    pub combined: Dual<1>,
}

impl LossTransformer {
    /// The whole forward pass.
    ///
    /// # Shapes
    ///
    /// - losses: `[N, T]`, each row a vector of task losses
    ///
    /// # Panics
    ///
    /// Panics if the rows are not of length `T`.
    #[must_use]
    pub fn forward_detailed(&self, losses: Dual<2>, pass: Pass) -> LossTransformerOutput {
        let [n_rows, _] = losses.value.dims();
        let (scale_embedding, tokens) = self.tokens(losses);
        let [_, _, d_model] = tokens.value.dims();
        let encoded = self.encoder.forward(tokens, pass);
        let combined = encoded
            .clone()
            .map_linear(|x| x.mean_dim(1).reshape([n_rows, d_model]))
            .apply(&self.fc1)
            .map_linear(|x| x.reshape([n_rows]));
        LossTransformerOutput {
            scale_embedding,
            encoded,
            combined,
        }
    }

    /// `fc1 · Y_t` for every output token, in the place of its product with their mean.
    ///
    /// # Shapes
    ///
    /// - losses: `[N, T]`, each row a vector of task losses
    /// - output: `[N, T]`
    ///
    /// # Panics
    ///
    /// Panics if the rows are not of length `T`.
    #[must_use]
    pub fn token_values(&self, losses: Dual<2>, pass: Pass) -> Dual<2> {
        let [n_rows, n_tasks] = losses.value.dims();
        let (_, tokens) = self.tokens(losses);
        let [_, _, d_model] = tokens.value.dims();
        self.encoder
            .forward(tokens, pass)
            .map_linear(|x| x.reshape([n_rows * n_tasks, d_model]))
            .apply(&self.fc1)
            .map_linear(|x| x.reshape([n_rows, n_tasks]))
    }

    /// Width of the tokens, `D`.
    pub(crate) fn d_model(&self) -> usize {
        self.fc1.weight.dims()[0]
    }

    /// The same transformer with zeros in `fc1`.
    pub(crate) fn with_a_head_of_zeros(mut self) -> Self {
        self.fc1.weight = self.fc1.weight.map(|weight| weight.zeros_like());
        self
    }

    /// The same transformer with numbers by their place in `fc1`.
    #[cfg(test)]
    pub(crate) fn with_a_head_of(mut self, number: impl Fn(usize) -> f32) -> Self {
        self.fc1.weight = self.fc1.weight.map(|weight| {
            let numbers: Vec<f32> = (0..weight.shape().num_elements()).map(number).collect();
            let data = burn::tensor::TensorData::new(numbers, weight.dims());
            Tensor::from_data(data, &weight.device())
        });
        self
    }

    /// The attention of the encoder at one vector of task losses, without dropout.
    ///
    /// Row `s` of a head says which share of each token goes into token `s`; it adds up to 1.
    ///
    /// # Shapes
    ///
    /// - losses: `[T]`
    /// - output: `[H, T, T]`
    ///
    /// # Panics
    ///
    /// Panics if there are not `T` losses.
    #[must_use]
    pub fn attention(&self, losses: Tensor<1>) -> Tensor<3> {
        let (_, tokens) = self.tokens(Dual::constant(losses.unsqueeze()));
        let self_attn = &self.encoder.self_attn;
        let attention = self_attn.attention(&self_attn.projected(tokens)).value;
        let [_, n_heads, n_tasks, _] = attention.dims();
        attention.reshape([n_heads, n_tasks, n_tasks])
    }

    /// Scale embedding of each loss, and the tokens that enter the encoder; both `[N, T, D]`.
    fn tokens(&self, losses: Dual<2>) -> (Dual<3>, Dual<3>) {
        let [n_rows, n_tasks] = losses.value.dims();
        assert_eq!(
            n_tasks, self.n_tasks,
            "loss transformer of {} tasks",
            self.n_tasks
        );
        let table = self.task_embedding.weight.val(); // [T, D]
        let d_model = table.dims()[1];
        let scale_embedding = losses
            .map_linear(|x| x.reshape([n_rows * n_tasks, 1]))
            .apply(&self.loss_fc1)
            .relu()
            .apply(&self.loss_fc2)
            .map_linear(|x| x.reshape([n_rows, n_tasks, d_model]));
        let tokens = scale_embedding
            .clone()
            .add_constant(table.unsqueeze::<3>().repeat_dim(0, n_rows));
        (scale_embedding, tokens)
    }

    /// The parameters under published names (17 tensors).
    #[must_use]
    pub fn state_dict(&self) -> StateDict {
        state_dict(self, str::to_owned)
    }

    /// Loads parameters under published names.
    #[must_use]
    pub fn load_state_dict(self, dict: &StateDict) -> (Self, LoadReport) {
        load_state_dict(self, dict, str::to_owned)
    }
}

impl LossCombiner for LossTransformer {
    fn n_tasks(&self) -> usize {
        self.n_tasks
    }

    fn forward(&self, losses: Dual<2>, pass: Pass) -> Dual<1> {
        self.forward_detailed(losses, pass).combined
    }
}

/// One post-norm transformer encoder layer with a ReLU feed-forward block.
#[derive(Module, Debug)]
struct EncoderLayer {
    self_attn: PackedSelfAttention,
    linear1: Linear,
    linear2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
    dropout: f64,
}

impl EncoderLayer {
    /// `[N, T, D]` to `[N, T, D]`.
    fn forward(&self, tokens: Dual<3>, pass: Pass) -> Dual<3> {
        let [n_rows, n_tasks, d_model] = tokens.value.dims();
        let attended = self
            .self_attn
            .forward(tokens.clone(), pass)
            .dropout(self.dropout, pass);
        let x = norm(&self.norm1, tokens.add(attended));
        let fed_forward = x
            .clone()
            .map_linear(|x| x.reshape([n_rows * n_tasks, d_model]))
            .apply(&self.linear1)
            .relu()
            .dropout(self.dropout, pass)
            .apply(&self.linear2)
            .map_linear(|x| x.reshape([n_rows, n_tasks, d_model]))
            .dropout(self.dropout, pass);
        norm(&self.norm2, x.add(fed_forward))
    }
}

fn norm(layer: &LayerNorm, x: Dual<3>) -> Dual<3> {
    Weights::constant(layer).apply(x, LAYER_NORM_EPSILON)
}

/// Multi-head self-attention with the projections of query, key and value in one matrix.
#[derive(Module, Debug)]
struct PackedSelfAttention {
    /// Rows: query, key, value; `[3D, D]`, PyTorch's layout.
    in_proj_weight: Param<Tensor<2>>,
    in_proj_bias: Param<Tensor<1>>,
    out_proj: Linear,
    n_heads: usize,
    dropout: f64,
}

impl PackedSelfAttention {
    /// `[N, T, D]` to `[N, T, D]`.
    fn forward(&self, tokens: Dual<3>, pass: Pass) -> Dual<3> {
        let [n_rows, n_tasks, d_model] = tokens.value.dims();
        let projected = self.projected(tokens);
        let attention = self.attention(&projected).dropout(self.dropout, pass);
        attention
            .matmul(part(&projected, 2))
            .map_linear(|x| x.swap_dims(1, 2).reshape([n_rows * n_tasks, d_model]))
            .apply(&self.out_proj)
            .map_linear(|x| x.reshape([n_rows, n_tasks, d_model]))
    }

    /// Query, key and value of tokens `[N, T, D]`, as `[N, T, 3, H, D/H]`.
    fn projected(&self, tokens: Dual<3>) -> Dual<5> {
        let [n_rows, n_tasks, d_model] = tokens.value.dims();
        tokens
            .map_linear(|x| x.reshape([n_rows * n_tasks, d_model]))
            .affine(
                Dual::constant(self.in_proj_weight.val().transpose()),
                Some(Dual::constant(self.in_proj_bias.val())),
            )
            .map_linear(|x| x.reshape([n_rows, n_tasks, 3, self.n_heads, d_model / self.n_heads]))
    }

    /// The share of each token in each other one, `[N, H, T, T]`.
    fn attention(&self, projected: &Dual<5>) -> Dual<4> {
        let [_, _, _, _, d_head] = projected.value.dims();
        let query = part(projected, 0).map_linear(|x| x / (d_head as f64).sqrt());
        let key = part(projected, 1).map_linear(|x| x.swap_dims(2, 3));
        query.matmul(key).softmax()
    }
}

/// Query (0), key (1) or value (2) as `[N, H, T, D/H]`.
fn part(projected: &Dual<5>, index: usize) -> Dual<4> {
    let [n_rows, n_tasks, _, n_heads, d_head] = projected.value.dims();
    projected.clone().map_linear(|x| {
        x.narrow(2, index, 1)
            .reshape([n_rows, n_tasks, n_heads, d_head])
            .swap_dims(1, 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::combiner::{combine, directional_derivative, sensitivities};

    #[test]
    fn the_published_sizes_have_the_published_parameter_counts() {
        let device = Device::default();
        for (config, expected) in [
            (LossTransformerConfig::univl(), 562_688),
            (LossTransformerConfig::violet_retrieval(), 1_712_128),
            (LossTransformerConfig::violet_qa(), 430_336),
            (LossTransformerConfig::all_in_one(), 116_736),
        ] {
            assert_eq!(config.init(0, &device).unwrap().num_params(), expected);
        }
    }

    #[test]
    fn heads_that_do_not_divide_are_refused() {
        let error = LossTransformerConfig::new(3, 8, 20, 8).init(0, &Device::default());
        assert!(matches!(
            error,
            Err(ConfigError::HeadsDoNotDivide {
                width: 20,
                heads: 8,
                ..
            })
        ));
    }

    #[test]
    fn the_tangent_matches_a_difference_quotient() {
        let device = Device::default();
        let model = LossTransformerConfig::new(3, 16, 32, 32)
            .init(5, &device)
            .unwrap();
        let losses = Tensor::<1>::from_floats([0.4, 1.9, 0.8], &device);
        let direction = Tensor::<1>::from_floats([0.5, -1.0, 0.3], &device);
        let tangent: f32 =
            directional_derivative(&model, losses.clone(), direction.clone()).into_scalar();
        let step = 1e-2;
        let plus: f32 = combine(&model, losses.clone() + direction.clone() * step).into_scalar();
        let minus: f32 = combine(&model, losses - direction * step).into_scalar();
        let difference = (plus - minus) / (2.0 * step as f32);
        assert!((tangent - difference).abs() < 1e-3 * tangent.abs().max(0.1));
    }

    #[test]
    fn sensitivities_are_the_gradient() {
        let device = Device::default().autodiff();
        let model = LossTransformerConfig::new(4, 8, 16, 16)
            .init(1, &device)
            .unwrap();
        let losses = Tensor::<1>::from_floats([0.4, 1.9, 0.8, 3.0], &device).require_grad();
        let gradients = combine(&model, losses.clone()).backward();
        let expected: Vec<f32> = losses
            .grad(&gradients)
            .unwrap()
            .into_data()
            .try_to_vec()
            .unwrap();
        for (ours, expected) in sensitivities(&model, losses).iter().zip(expected) {
            assert!((ours - f64::from(expected)).abs() < 1e-5);
        }
    }

    #[test]
    fn the_attention_of_every_token_adds_up_to_one_and_depends_on_the_losses() {
        let device = Device::default();
        let model = LossTransformerConfig::new(3, 8, 16, 16)
            .with_n_heads(2)
            .init(2, &device)
            .unwrap();
        let attention = |losses: [f32; 3]| model.attention(Tensor::from_floats(losses, &device));
        let small = attention([0.1, 0.2, 0.3]);
        assert_eq!(small.dims(), [2, 3, 3]);
        let sums: Vec<f32> = small.clone().sum_dim(2).into_data().try_to_vec().unwrap();
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6), "{sums:?}");
        let difference: f32 = (attention([5.0, 0.2, 9.0]) - small)
            .abs()
            .max()
            .into_scalar();
        assert!(difference > 1e-4);
    }

    #[test]
    fn permuting_tasks_with_their_embeddings_leaves_the_combined_loss_unchanged() {
        let device = Device::default();
        let model = LossTransformerConfig::new(3, 8, 16, 16)
            .init(2, &device)
            .unwrap();
        let mut swapped = model.clone();
        let order = Tensor::from_ints([2, 0, 1], &device);
        swapped.task_embedding.weight =
            Param::from_tensor(model.task_embedding.weight.val().select(0, order));
        let one = combine(&model, Tensor::from_floats([0.1, 0.2, 0.3], &device));
        let other = combine(&swapped, Tensor::from_floats([0.3, 0.1, 0.2], &device));
        let difference: f32 = (one - other).abs().into_scalar();
        assert!(difference < 1e-5);
    }
}
