//! All-in-one put together: words, frames or both through one transformer; the losses.

use std::cell::LazyCell;
use std::iter;
use std::ops::Add;

use burn::module::{Module, ParamId};
use burn::nn::{Embedding, Linear};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_core::{
    Dual, LoadReport, Pass, StateDict, Weights, load_state_dict, parameter_names, state_dict,
};

use super::batch::AllInOneBatch;
use super::config::{AllInOneConfig, AllInOneTask};
use super::heads::AnswerHead;
use super::losses::{AllInOneLoss, AllInOneTrace, both_directions, cosine, zero};
use super::rolling::Rolling;
use super::vit::{Sequence, VisionTransformer};
use crate::bert::{Pooler, TextEmbeddings};
use crate::heads::UntiedPredictions;
use crate::layers::{embedding_layer, linear_layer, linear3, optional, padding_scores, positions};
use crate::univl_batch::index_tensor;
use crate::univl_losses::cross_entropy;

/// A table of the published state dict that holds no parameters.
const POSITION_IDS: &str = "text_embeddings.position_ids";

/// The embeddings of frame numbers.
const TEMPORAL_EMBED: &str = "transformer.temporal_embed";

/// Where the released code keeps the loss transformer, which is no part of the backbone.
const LOSS_TRANSFORMER: &str = "aux_model.";

/// Rows of the table of token types.
const OF_TEXT: usize = 0;
const OF_FRAMES: usize = 1;

/// All-in-one with the head of one task.
///
/// One stack of blocks reads words alone, frames alone, or the words with each frame of a video.
/// Frames are sequences of their own; where words stand beside them, patches
/// change places between frames before every block. A video's result is the mean over its frames.
///
/// # References
///
/// - Wang et al., [All in One: Exploring Unified Video-Language
///   Pre-training](https://arxiv.org/abs/2203.07303), CVPR 2023.
/// - Reference code: `mlvlab/MELTR@669ad60`, `allinone/AllInOne/modules/allinone_module.py`.
///   Departs from it in what is not computed: words alone are read once and not once a frame,
///   heads and projections see the tokens that are read, and so does the last block; the values
///   are the same without dropout. Departs from it in the order of patches, which is random there
///   and an input here ([`AllInOneBatch::patch_order`]).
#[derive(Module, Debug)]
pub struct AllInOne {
    text_embeddings: TextEmbeddings,
    token_type_embeddings: Embedding,
    transformer: VisionTransformer,
    pooler: Pooler,
    mlm_score: UntiedPredictions,
    txt_proj: Linear,
    vid_proj: Linear,
    /// Published as `vqa_classifier` or `mc_vqa_classifier`; absent for retrieval.
    answer: Option<AnswerHead>,
    max_text_positions: usize,
    temperature: f64,
    #[module(skip)]
    task: AllInOneTask,
}

/// Hidden states of texts and videos that were read together.
#[derive(Debug, Clone)]
pub struct JointFeatures {
    /// Of the words, the mean over the frames they stood beside, `[N, L, D]`.
    pub text: Tensor<3>,
    /// Of `[CLS]` and the patches, the mean over frames, `[N, 1 + P, D]`.
    pub video: Tensor<3>,
}

impl AllInOne {
    pub(crate) fn zeroed(config: &AllInOneConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        Self {
            text_embeddings: TextEmbeddings::new(
                config.vocab_size,
                config.max_text_positions,
                d_model,
                config.dropout,
                device,
            ),
            token_type_embeddings: embedding_layer(2, d_model, device),
            transformer: VisionTransformer::new(config, device),
            pooler: Pooler::new(d_model, device),
            mlm_score: UntiedPredictions::new(d_model, config.vocab_size, device),
            txt_proj: linear_layer(d_model, config.d_shared, device),
            vid_proj: linear_layer(d_model, config.d_shared, device),
            answer: AnswerHead::of_task(config, device),
            max_text_positions: config.max_text_positions,
            temperature: config.temperature,
            task: config.task,
        }
    }

    /// Device of the parameters.
    #[must_use]
    pub fn device(&self) -> Device {
        self.txt_proj.weight.val().device()
    }

    /// What the model is fine-tuned for.
    #[must_use]
    pub fn task(&self) -> AllInOneTask {
        self.task
    }

    /// Reads texts alone: vectors to be compared with those of videos.
    ///
    /// # Shapes
    ///
    /// - ids, pad: `[N, L]`; output: `[N, d_shared]`
    #[must_use]
    pub fn encode_text(&self, ids: Tensor<2, Int>, pad: Tensor<2, Bool>, pass: Pass) -> Tensor<2> {
        let network = Network::constant(self);
        let text = network.text(ids, pad, pass);
        network.text_vectors(&text, pass).value
    }

    /// Reads videos alone: vectors to be compared with those of texts. Nothing moves in time, so
    /// that frames meet in the mean alone.
    ///
    /// # Shapes
    ///
    /// - frames: normalized, `[N, T, 3, S, S]`; output: `[N, d_shared]`
    ///
    /// # Panics
    ///
    /// Panics if the frames are not of the model's size.
    #[must_use]
    pub fn encode_video(&self, frames: Tensor<5>, pass: Pass) -> Tensor<2> {
        let network = Network::constant(self);
        let video = network.video(frames, None, pass);
        network.video_vectors(&video, pass).value
    }

    /// Reads texts alone: what [`encode_text`](Self::encode_text) projects.
    ///
    /// # Shapes
    ///
    /// - ids, pad: `[N, L]`; output: `[N, D]`
    #[must_use]
    pub fn text_features(
        &self,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        pass: Pass,
    ) -> Tensor<2> {
        let network = Network::constant(self);
        let text = network.text(ids, pad, pass);
        network.text_features(&text, pass).value
    }

    /// Reads videos alone: what [`encode_video`](Self::encode_video) projects.
    ///
    /// # Shapes
    ///
    /// - frames: normalized, `[N, T, 3, S, S]`; output: `[N, D]`
    ///
    /// # Panics
    ///
    /// Panics if the frames are not of the model's size.
    #[must_use]
    pub fn video_features(&self, frames: Tensor<5>, pass: Pass) -> Tensor<2> {
        let network = Network::constant(self);
        let video = network.video(frames, None, pass);
        network.video_features(&video, pass).value
    }

    /// Cosines of every text with every video, `[Nt, Nv]`.
    ///
    /// # Shapes
    ///
    /// - text: `[Nt, d_shared]`; video: `[Nv, d_shared]`
    #[must_use]
    pub fn similarity(text: Tensor<2>, video: Tensor<2>) -> Tensor<2> {
        cosine(Dual::constant(text), Dual::constant(video)).value
    }

    /// Reads texts together with their videos.
    ///
    /// # Shapes
    ///
    /// - ids, pad: `[N, L]`; frames: normalized, `[N, T, 3, S, S]`
    ///
    /// # Panics
    ///
    /// Panics if the frames are not of the model's size.
    #[must_use]
    pub fn encode_pairs(
        &self,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        frames: Tensor<5>,
        pass: Pass,
    ) -> JointFeatures {
        let network = Network::constant(self);
        let text = network.text(ids, pad, pass);
        let video = network.video(frames, None, pass);
        network.joint_features(&text, &video, pass)
    }

    /// Scores of the answers, `[B, O]` for multiple choice and `[B, n_answers]` for open-ended
    /// questions; `None` for retrieval.
    ///
    /// # Shapes
    ///
    /// - frames: normalized, `[B, T, 3, S, S]`
    /// - ids, pad: `[B * O, L]`, the texts of an item in a row
    ///
    /// # Panics
    ///
    /// Panics if the frames are not of the model's size.
    #[must_use]
    pub fn answer_logits(
        &self,
        frames: Tensor<5>,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        pass: Pass,
    ) -> Option<Tensor<2>> {
        self.answer.as_ref()?;
        let network = Network::constant(self);
        let text = network.text(ids, pad, pass);
        let video = network.video(frames, None, pass);
        Some(network.answer_logits(&text, &video, pass)?.value)
    }

    /// What the head of answers reads of texts and their videos.
    ///
    /// # Shapes
    ///
    /// - frames: normalized, `[B, T, 3, S, S]`
    /// - ids, pad: `[B * O, L]`, the texts of an item in a row
    /// - output: `[B * O, D]`
    ///
    /// # Panics
    ///
    /// Panics if the frames are not of the model's size.
    #[must_use]
    pub fn pair_features(
        &self,
        frames: Tensor<5>,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        pass: Pass,
    ) -> Tensor<2> {
        let network = Network::constant(self);
        let text = network.text(ids, pad, pass);
        let video = network.video(frames, None, pass);
        network.pair_features(&text, &video, pass).value
    }

    /// What the last linear map of the head of answers reads of [`pair_features`], `[rows, D]` to
    /// `[rows, d_hidden]`; `None` for retrieval.
    ///
    /// [`pair_features`]: Self::pair_features
    #[must_use]
    pub fn answer_activations(&self, features: Tensor<2>, pass: Pass) -> Option<Tensor<2>> {
        let network = Network::constant(self);
        let head = optional(network.0.of(|own| &own.answer))?;
        Some(AnswerHead::activations(head, Dual::constant(features), pass).value)
    }

    /// The chosen losses, `[which.len()]`, each the mean over the batch, in the given order.
    ///
    /// Only what these losses need is computed: see [`AllInOneLoss`]. The batch may be with or
    /// without a tape; the result follows the parameters.
    ///
    /// A batch without masked words has an `mlm` loss of 0, one without known answers an
    /// `openend_vqa` or `mc_vqa` loss of 0; unknown answers are left out of the mean.
    ///
    /// # Panics
    ///
    /// Panics if a loss is not one of the task's, or if the sizes of the batch do not fit the
    /// model or each other.
    #[must_use]
    pub fn losses(&self, batch: &AllInOneBatch, which: &[AllInOneLoss], pass: Pass) -> Tensor<1> {
        Network::constant(self).losses(batch, which, pass).value
    }

    /// The chosen losses and their derivatives along `direction`, a module of the same sizes that
    /// holds a direction in parameter space.
    ///
    /// One forward pass on duals: exact up to rounding, at about three times the cost of a plain
    /// forward pass, whatever the number of losses. Both modules are off the tape.
    ///
    /// # Panics
    ///
    /// As [`losses`](Self::losses).
    #[must_use]
    pub fn losses_along(
        &self,
        direction: &Self,
        batch: &AllInOneBatch,
        which: &[AllInOneLoss],
        pass: Pass,
    ) -> Dual<1> {
        Network(Weights::new(self, direction)).losses(batch, which, pass)
    }

    /// All losses of the task and what lies on the way to them, in an evaluation pass.
    ///
    /// # Panics
    ///
    /// As [`losses`](Self::losses).
    #[must_use]
    pub fn trace(&self, batch: &AllInOneBatch) -> AllInOneTrace {
        let mut trace = Network::constant(self).trace(batch);
        let losses = self.losses(batch, self.task.losses(), Pass::Evaluation);
        trace.push("losses", losses);
        trace
    }

    /// The parameters under published names, and the published table of positions.
    #[must_use]
    pub fn state_dict(&self) -> StateDict {
        let task = self.task;
        let mut dict = state_dict(self, |path| published_name(task, path));
        dict.insert(POSITION_IDS.to_owned(), self.position_ids());
        dict
    }

    /// Id and published name of every parameter.
    #[must_use]
    pub fn parameter_names(&self) -> Vec<(ParamId, String)> {
        let task = self.task;
        parameter_names(self, |path| published_name(task, path))
    }

    /// Loads parameters under published names.
    ///
    /// The table of positions counts as applied if it is what it has to be and as unexpected if it
    /// differs; where it is absent nothing is missing. The weights of a loss transformer
    /// (`aux_model.*`), which a released checkpoint may hold as well, are not reported.
    #[must_use]
    pub fn load_state_dict(self, dict: &StateDict) -> (Self, LoadReport) {
        let task = self.task;
        let table = self.position_ids();
        let (model, mut report) = load_state_dict(self, dict, |path| published_name(task, path));
        let has_table = dict
            .get(POSITION_IDS)
            .is_some_and(|found| is_same_table(&table, found));
        if has_table {
            report.applied.push(POSITION_IDS.to_owned());
        }
        report.unexpected.retain(|name| {
            !(name.starts_with(LOSS_TRANSFORMER) || (has_table && name == POSITION_IDS))
        });
        (model, report)
    }

    /// A checkpoint for videos of `n_frames` frames, made of one for another number as the
    /// published loader does: frames beyond the new number lose their embedding, new ones get one
    /// of zeros.
    #[must_use]
    pub fn fit_frames(mut dict: StateDict, n_frames: usize) -> StateDict {
        let Some(table) = dict.get(TEMPORAL_EMBED) else {
            return dict;
        };
        if let [1, _, d_model] = table.shape().to_vec()[..] {
            let values: Vec<f32> = table
                .iter::<f32>()
                .chain(iter::repeat(0.0))
                .take(n_frames * d_model)
                .collect();
            let table = TensorData::new(values, [1, n_frames, d_model]);
            dict.insert(TEMPORAL_EMBED.to_owned(), table);
        }
        dict
    }

    fn position_ids(&self) -> TensorData {
        let ids: Vec<i64> = (0..self.max_text_positions as i64).collect();
        TensorData::new(ids, [1, self.max_text_positions])
    }
}

/// Texts, embedded.
struct Text {
    /// `[R, L, D]`
    tokens: Dual<3>,
    /// `[R, L]`, true = padding.
    pad: Tensor<2, Bool>,
}

impl Text {
    /// Some of the texts.
    fn rows(&self, start: usize, count: usize) -> Self {
        let tokens = self.tokens.clone();
        Self {
            tokens: tokens.map_linear(|x| x.narrow(0, start, count)),
            pad: self.pad.clone().narrow(0, start, count),
        }
    }
}

/// The texts of a batch as they are and with masked words.
struct Texts {
    clean: Text,
    masked: Text,
}

/// Videos, embedded.
struct Video {
    /// `[B * T, 1 + P, D]`
    tokens: Dual<3>,
    /// `T`
    n_frames: usize,
}

impl Video {
    /// Number of videos `B`.
    fn n_videos(&self) -> usize {
        self.tokens.dims()[0] / self.n_frames
    }

    /// Every video `count` times in a row, `[B * count * T, 1 + P, D]`.
    fn repeated(&self, count: usize) -> Dual<3> {
        if count == 1 {
            return self.tokens.clone();
        }
        let (n_videos, n_frames) = (self.n_videos(), self.n_frames);
        let [_, n_tokens, d_model] = self.tokens.dims();
        let per_video = n_frames * n_tokens;
        self.tokens.clone().map_linear(|x| {
            x.reshape([n_videos, 1, per_video, d_model])
                .expand([n_videos, count, per_video, d_model])
                .reshape([n_videos * count * n_frames, n_tokens, d_model])
        })
    }
}

/// The network with, possibly, a direction in its parameter space.
#[derive(Clone, Copy)]
struct Network<'a>(Weights<'a, AllInOne>);

impl<'a> Network<'a> {
    fn constant(model: &'a AllInOne) -> Self {
        Self(Weights::constant(model))
    }

    /// The chosen losses, `[which.len()]`. Frames and texts are embedded once, when the first loss
    /// asks for them.
    fn losses(self, batch: &AllInOneBatch, which: &[AllInOneLoss], pass: Pass) -> Dual<1> {
        let model = self.0.value;
        require_fit(model.task, batch, which);
        let device = model.device();
        pass.begin(&device);
        let batch = &batch.clone().with_autodiff_of(&device);
        let video = LazyCell::new(|| self.batch_video(batch, pass));
        let texts = LazyCell::new(|| self.batch_texts(batch, pass));
        let losses = which
            .iter()
            .map(|loss| match loss {
                AllInOneLoss::Mlm if batch.predict_words.is_empty() => zero(&device),
                AllInOneLoss::Mlm => self.word_loss(batch, &texts.masked, &video, pass),
                AllInOneLoss::IndItc => self.contrastive_loss(&texts.clean, &video, pass),
                AllInOneLoss::OpenendVqa | AllInOneLoss::McVqa => {
                    self.answer_loss(batch, &video, pass)
                }
            })
            .collect();
        Dual::cat(losses, 0)
    }

    /// What lies on the way to the losses, in an evaluation pass.
    fn trace(self, batch: &AllInOneBatch) -> AllInOneTrace {
        let pass = Pass::Evaluation;
        let batch = &batch.clone().with_autodiff_of(&self.0.value.device());
        let mut trace = AllInOneTrace {
            tensors: Vec::new(),
        };
        let n_frames = batch.frames.dims()[1];
        let embedded = VisionTransformer::embed(
            self.transformer(),
            batch.frames.clone(),
            batch.patch_order.as_deref(),
            pass,
        );
        let rolling = Rolling {
            first_token: 0,
            n_frames,
        };
        trace.push("visual_embed", embedded.value.clone());
        trace.push("visual_embed_rolled", rolling.apply(embedded.value));
        let video = self.batch_video(batch, pass);

        let text = self.batch_text(batch, &batch.text_ids, pass);
        let joint = self.joint_features(&text, &video, pass);
        let first = first_tokens(Dual::constant(joint.text.clone()));
        trace.push("joint_cls_feats", self.pooled(first).value);
        trace.push("joint_text_feats", joint.text);
        trace.push("joint_image_feats", joint.video);

        let masked = self.batch_text(batch, &batch.masked_text_ids, pass);
        let joint = self.joint_features(&masked, &video, pass);
        let [n_texts, length, d_model] = joint.text.dims();
        let words = joint.text.clone().reshape([n_texts * length, d_model]);
        let logits = self.word_logits(Dual::constant(words)).value;
        let vocab_size = logits.dims()[1];
        trace.push("mlm_logits", logits.reshape([n_texts, length, vocab_size]));
        trace.push("joint_mlm_text_feats", joint.text);
        trace.push("joint_mlm_image_feats", joint.video);

        let n_tokens = video.tokens.dims()[1];
        let text_tokens = linear3(
            self.0.of(|own| &own.txt_proj),
            self.text_alone(&text, length, pass),
        );
        let video_tokens = linear3(
            self.0.of(|own| &own.vid_proj),
            self.video_alone(&video, n_tokens, pass),
        );
        trace.push("text_only_feats", text_tokens.value);
        trace.push("image_only_feats", video_tokens.value);
        trace.push("cosine", self.similarity(&text, &video, pass).value);
        let (ids, pad) = batch.answer_texts();
        if let Some(logits) = self.answer_logits(&self.text(ids, pad, pass), &video, pass) {
            trace.push("answer_logits", logits.value);
        }
        trace
    }

    fn transformer(self) -> Weights<'a, VisionTransformer> {
        self.0.of(|own| &own.transformer)
    }

    /// The embedding of what a token is of, `[1, 1, D]`.
    fn kind(self, row: usize) -> Dual<3> {
        let table = self.0.of(|own| &own.token_type_embeddings);
        positions(table.of(|own| &own.weight).dual(), row, 1)
    }

    /// Embeds texts, `[R, L]`.
    fn text(self, ids: Tensor<2, Int>, pad: Tensor<2, Bool>, pass: Pass) -> Text {
        let embeddings = self.0.of(|own| &own.text_embeddings);
        let tokens = TextEmbeddings::forward(embeddings, ids, pass);
        Text {
            tokens: tokens.add(self.kind(OF_TEXT)),
            pad,
        }
    }

    /// Embeds videos, `[B, T, 3, S, S]`.
    fn video(self, frames: Tensor<5>, order: Option<&[i64]>, pass: Pass) -> Video {
        let n_frames = frames.dims()[1];
        let tokens = VisionTransformer::embed(self.transformer(), frames, order, pass);
        Video {
            tokens: tokens.add(self.kind(OF_FRAMES)),
            n_frames,
        }
    }

    fn batch_text(self, batch: &AllInOneBatch, ids: &Tensor<2, Int>, pass: Pass) -> Text {
        self.text(ids.clone(), batch.text_pad.clone(), pass)
    }

    /// The texts of a batch, both ways, embedded at once: the gradient of the table of words, which
    /// is as large as the table, is then made once as well.
    fn batch_texts(self, batch: &AllInOneBatch, pass: Pass) -> Texts {
        let n_texts = batch.text_ids.dims()[0];
        let ids = vec![batch.text_ids.clone(), batch.masked_text_ids.clone()];
        let pad = vec![batch.text_pad.clone(); 2];
        let both = self.text(Tensor::cat(ids, 0), Tensor::cat(pad, 0), pass);
        Texts {
            clean: both.rows(0, n_texts),
            masked: both.rows(n_texts, n_texts),
        }
    }

    fn batch_video(self, batch: &AllInOneBatch, pass: Pass) -> Video {
        self.video(batch.frames.clone(), batch.patch_order.as_deref(), pass)
    }

    /// Texts alone, their first `n_outputs` tokens: `[R, n_outputs, D]`.
    fn text_alone(self, text: &Text, n_outputs: usize, pass: Pass) -> Dual<3> {
        let sequence = Sequence {
            scores: Some(padding_scores(text.pad.clone())),
            rolling: None,
            n_outputs,
        };
        VisionTransformer::forward(self.transformer(), text.tokens.clone(), &sequence, pass)
    }

    /// Videos alone, the first `n_outputs` tokens of their frames: `[B, n_outputs, D]`.
    fn video_alone(self, video: &Video, n_outputs: usize, pass: Pass) -> Dual<3> {
        let sequence = Sequence {
            scores: None,
            rolling: None,
            n_outputs,
        };
        let tokens = video.tokens.clone();
        let x = VisionTransformer::forward(self.transformer(), tokens, &sequence, pass);
        mean_over_frames(x, video.n_frames)
    }

    /// Every text beside each frame of its video, the first `n_outputs` tokens of text and frame:
    /// `[R, n_outputs, D]`. The `R` texts are as many for each of the `B` videos, in their order.
    fn joint(self, text: &Text, video: &Video, n_outputs: usize, pass: Pass) -> Dual<3> {
        let [n_texts, length, d_model] = text.tokens.dims();
        let n_frames = video.n_frames;
        let rows = n_texts * n_frames;
        let words = text.tokens.clone().map_linear(|x| {
            x.reshape([n_texts, 1, length, d_model])
                .expand([n_texts, n_frames, length, d_model])
                .reshape([rows, length, d_model])
        });
        let frames = video.repeated(n_texts / video.n_videos());
        let n_tokens = frames.dims()[1];
        let of_words = padding_scores(text.pad.clone())
            .expand([n_texts, n_frames, 1, length])
            .reshape([rows, 1, 1, length]);
        let of_frames = Tensor::zeros([rows, 1, 1, n_tokens], &of_words.device());
        let sequence = Sequence {
            scores: Some(Tensor::cat(vec![of_words, of_frames], 3)),
            rolling: Some(Rolling {
                first_token: length,
                n_frames,
            }),
            n_outputs,
        };
        let x = Dual::cat(vec![words, frames], 1);
        let x = VisionTransformer::forward(self.transformer(), x, &sequence, pass);
        mean_over_frames(x, n_frames)
    }

    /// Every token of texts and videos that are read together.
    fn joint_features(self, text: &Text, video: &Video, pass: Pass) -> JointFeatures {
        let length = text.tokens.dims()[1];
        let n_tokens = video.tokens.dims()[1];
        let x = self.joint(text, video, length + n_tokens, pass).value;
        JointFeatures {
            text: x.clone().narrow(1, 0, length),
            video: x.narrow(1, length, n_tokens),
        }
    }

    /// Vectors of texts alone, `[R, d_shared]`.
    fn text_vectors(self, text: &Text, pass: Pass) -> Dual<2> {
        let features = self.text_features(text, pass);
        self.0.of(|own| &own.txt_proj).apply(features)
    }

    /// First tokens of texts alone, `[R, D]`.
    fn text_features(self, text: &Text, pass: Pass) -> Dual<2> {
        first_tokens(self.text_alone(text, 1, pass))
    }

    /// Vectors of videos alone, `[B, d_shared]`.
    fn video_vectors(self, video: &Video, pass: Pass) -> Dual<2> {
        let features = self.video_features(video, pass);
        self.0.of(|own| &own.vid_proj).apply(features)
    }

    /// First tokens of videos alone, `[B, D]`.
    fn video_features(self, video: &Video, pass: Pass) -> Dual<2> {
        first_tokens(self.video_alone(video, 1, pass))
    }

    /// Cosines of texts and videos that are read apart, `[R, B]`.
    fn similarity(self, text: &Text, video: &Video, pass: Pass) -> Dual<2> {
        cosine(
            self.text_vectors(text, pass),
            self.video_vectors(video, pass),
        )
    }

    /// First tokens `[rows, D]` to `[rows, D]`.
    fn pooled(self, first: Dual<2>) -> Dual<2> {
        Pooler::forward(self.0.of(|own| &own.pooler), first)
    }

    /// Texts read together with their videos, pooled, `[R, D]`.
    fn pair_features(self, text: &Text, video: &Video, pass: Pass) -> Dual<2> {
        self.pooled(first_tokens(self.joint(text, video, 1, pass)))
    }

    /// Hidden states `[rows, D]` to logits over the vocabulary, `[rows, V]`.
    fn word_logits(self, hidden: Dual<2>) -> Dual<2> {
        UntiedPredictions::forward(self.0.of(|own| &own.mlm_score), hidden)
    }

    /// Scores of the answers, `[B, O]` or `[B, n_answers]`; `None` without a head for them.
    fn answer_logits(self, text: &Text, video: &Video, pass: Pass) -> Option<Dual<2>> {
        let head = optional(self.0.of(|own| &own.answer))?;
        let n_videos = video.n_videos();
        let features = self.pair_features(text, video, pass);
        let logits = AnswerHead::forward(head, features, pass);
        let [n_texts, n_outputs] = logits.dims();
        let per_video = n_texts / n_videos * n_outputs;
        Some(logits.map_linear(|x| x.reshape([n_videos, per_video])))
    }

    /// Masked language modelling on the masked positions alone; there is at least one.
    fn word_loss(self, batch: &AllInOneBatch, masked: &Text, video: &Video, pass: Pass) -> Dual<1> {
        let device = batch.frames.device();
        let [_, length] = batch.text_ids.dims();
        let hidden = self.joint(masked, video, length, pass);
        let [n_texts, _, d_model] = hidden.dims();
        let at = index_tensor(&batch.predict_words, &device);
        let hidden =
            hidden.map_linear(|x| x.reshape([n_texts * length, d_model]).select(0, at.clone()));
        cross_entropy(
            self.word_logits(hidden),
            index_tensor(&batch.word_targets, &device),
        )
    }

    /// Each text has to find its video and each video its text.
    fn contrastive_loss(self, text: &Text, video: &Video, pass: Pass) -> Dual<1> {
        let similarity = self.similarity(text, video, pass);
        both_directions(similarity.scale(1.0 / self.0.value.temperature))
    }

    /// Cross entropy of the answers that are known; 0 if there are none.
    fn answer_loss(self, batch: &AllInOneBatch, video: &Video, pass: Pass) -> Dual<1> {
        let device = batch.frames.device();
        let (known, answers): (Vec<i64>, Vec<i64>) = (0_i64..)
            .zip(batch.answers.iter().copied())
            .filter(|(_, answer)| *answer >= 0)
            .unzip();
        if known.is_empty() {
            return zero(&device);
        }
        let (ids, pad) = batch.answer_texts();
        let Some(logits) = self.answer_logits(&self.text(ids, pad, pass), video, pass) else {
            // The losses of a task without this head were refused at the entry.
            return zero(&device);
        };
        let known = index_tensor(&known, &device);
        cross_entropy(
            logits.map_linear(|x| x.select(0, known.clone())),
            index_tensor(&answers, &device),
        )
    }
}

/// Whether a batch has what the losses of a task need; a batch that has not is a bug of its maker.
fn require_fit(task: AllInOneTask, batch: &AllInOneBatch, which: &[AllInOneLoss]) {
    for loss in which {
        assert!(
            task.losses().contains(loss),
            "`{loss}` is no loss of {task:?}"
        );
    }
    let n_items = batch.batch_size();
    assert_eq!(batch.text_ids.dims()[0], n_items, "a text for each video");
    if task != AllInOneTask::Retrieval && which.contains(&task.primary()) {
        assert_eq!(batch.answers.len(), n_items, "an answer for each video");
        assert_eq!(
            batch.options.is_some(),
            task == AllInOneTask::MultipleChoice,
            "options for multiple choice alone"
        );
    }
}

/// `[N, n, D]` to the first token of each, `[N, D]`.
fn first_tokens(x: Dual<3>) -> Dual<2> {
    let [rows, _, d_model] = x.dims();
    x.map_linear(|x| x.narrow(1, 0, 1).reshape([rows, d_model]))
}

/// `[N * T, n, D]` to `[N, n, D]`.
fn mean_over_frames(x: Dual<3>, n_frames: usize) -> Dual<3> {
    let [rows, n_tokens, d_model] = x.dims();
    let n_items = rows / n_frames;
    x.map_linear(|x| {
        x.reshape([n_items, n_frames, n_tokens, d_model])
            .mean_dim(1)
            .reshape([n_items, n_tokens, d_model])
    })
}

/// Whether two tables hold the same numbers, of whatever type.
fn is_same_table(a: &TensorData, b: &TensorData) -> bool {
    a.shape() == b.shape() && a.iter::<i64>().eq(b.iter::<i64>())
}

/// Published name of a field path.
fn published_name(task: AllInOneTask, path: &str) -> String {
    let Some(rest) = path.strip_prefix("answer.") else {
        return path.replace("layer_norm.", "LayerNorm.");
    };
    let head = match task {
        AllInOneTask::MultipleChoice => "mc_vqa_classifier",
        AllInOneTask::Retrieval | AllInOneTask::OpenEnded { .. } => "vqa_classifier",
    };
    let rest = rest
        .replace("hidden.", "1.")
        .replace("norm.", "2.")
        .replace("output.", "4.");
    format!("{head}.{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: [AllInOneTask; 3] = [
        AllInOneTask::Retrieval,
        AllInOneTask::OpenEnded { n_answers: 4 },
        AllInOneTask::MultipleChoice,
    ];

    fn model(task: AllInOneTask) -> AllInOne {
        let config = AllInOneConfig {
            d_model: 8,
            n_heads: 2,
            d_ff: 12,
            n_layers: 1,
            n_frames: 3,
            max_text_positions: 6,
            ..AllInOneConfig::mini(task, 30)
        };
        config.init(0, &Device::default()).unwrap()
    }

    #[test]
    fn field_paths_become_published_names() {
        let [retrieval, open, choice] = TASKS;
        for (task, path, published) in [
            (
                retrieval,
                "text_embeddings.layer_norm.weight",
                "text_embeddings.LayerNorm.weight",
            ),
            (
                retrieval,
                "mlm_score.transform.layer_norm.bias",
                "mlm_score.transform.LayerNorm.bias",
            ),
            (
                open,
                "transformer.blocks.3.norm1.weight",
                "transformer.blocks.3.norm1.weight",
            ),
            (open, "answer.hidden.weight", "vqa_classifier.1.weight"),
            (open, "answer.norm.bias", "vqa_classifier.2.bias"),
            (choice, "answer.output.bias", "mc_vqa_classifier.4.bias"),
        ] {
            assert_eq!(published_name(task, path), published);
        }
    }

    #[test]
    fn saving_and_loading_is_complete_with_and_without_the_table_of_positions() {
        for task in TASKS {
            let mut dict = model(task).state_dict();
            let (_, report) = model(task).load_state_dict(&dict);
            assert!(report.is_complete(), "{task:?}: {report}");
            assert_eq!(report.applied.len(), dict.len());
            // As a checkpoint writes it that knows floats alone.
            let floats: Vec<f32> = (0..6).map(|at| at as f32).collect();
            dict.insert(POSITION_IDS.to_owned(), TensorData::new(floats, [1, 6]));
            let (_, report) = model(task).load_state_dict(&dict);
            assert!(report.is_complete(), "{task:?}: {report}");
            dict.remove(POSITION_IDS);
            let (_, report) = model(task).load_state_dict(&dict);
            assert!(report.is_complete(), "{task:?}: {report}");
        }
    }

    #[test]
    fn another_table_of_positions_is_reported_and_a_loss_transformer_is_not() {
        let mut dict = model(AllInOneTask::Retrieval).state_dict();
        let other = TensorData::new(vec![0i64; 6], [1, 6]);
        dict.insert(POSITION_IDS.to_owned(), other);
        let weight = TensorData::new(vec![0f32; 2], [1, 2]);
        dict.insert("aux_model.fc1.weight".to_owned(), weight);
        let (_, report) = model(AllInOneTask::Retrieval).load_state_dict(&dict);
        assert_eq!(report.unexpected, vec![POSITION_IDS]);
        assert!(report.missing.is_empty());
    }

    #[test]
    fn a_checkpoint_of_other_frames_is_cut_or_filled_with_zeros() {
        let dict = |n_frames: usize| {
            let values: Vec<f32> = (1..=n_frames * 2).map(|at| at as f32).collect();
            let table = TensorData::new(values, [1, n_frames, 2]);
            StateDict::from([(TEMPORAL_EMBED.to_owned(), table)])
        };
        let fitted = |n_frames| {
            let dict = AllInOne::fit_frames(dict(n_frames), 2);
            let table = &dict[TEMPORAL_EMBED];
            assert_eq!(table.shape().to_vec(), [1, 2, 2]);
            table.iter::<f32>().collect::<Vec<f32>>()
        };
        assert_eq!(fitted(1), [1.0, 2.0, 0.0, 0.0]);
        assert_eq!(fitted(2), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(fitted(3), [1.0, 2.0, 3.0, 4.0]);
        assert!(AllInOne::fit_frames(StateDict::new(), 2).is_empty());
    }
}
