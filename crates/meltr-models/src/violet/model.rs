//! VIOLET: frame encoder, text embeddings, cross encoder and heads; the losses that train them.

use std::cell::LazyCell;
use std::fmt;

use burn::module::{Module, ParamId};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_core::{
    Dual, LoadReport, Pass, StateDict, Weights, load_state_dict, parameter_names, state_dict,
};

use super::batch::VioletBatch;
use super::config::{PrimaryFrames, VioletConfig, VioletTask};
use super::frame_encoder::{FrameEncoder, normalize};
use super::heads::{MlpHead, WordHead};
use super::losses::{VioletLoss, VioletTrace};
use crate::attention::Masked;
use crate::bert::{BertEncoder, TextEmbeddings};
use crate::layers::{optional, padding_scores};
use crate::univl::Encoded;
use crate::univl_batch::index_tensor;
use crate::univl_losses::{cross_entropy, diagonal_cross_entropy};

/// A tensor that is published under two names.
const TIED: (&str, &str) = ("fc_mtm.predictions.bias", "fc_mtm.predictions.decoder.bias");

/// BERT's embeddings under their published name.
#[derive(Module, Debug)]
struct TextInput {
    emb_txt: TextEmbeddings,
}

/// VIOLET with the heads of one task.
///
/// The tokens of a video and of a text go through one BERT stack that adds no positions, so that
/// their order does not matter: inside, the text stands first. In a batch of multiple choice the
/// text of a video is that of the right option.
///
/// # References
///
/// - Fu et al., [VIOLET: End-to-End Video-Language Transformers with Masked Visual-token
///   Modeling](https://arxiv.org/abs/2111.12681), 2021.
/// - Reference code: `mlvlab/MELTR@669ad60`, `violet/model.py`, `violet/main_*.py`. Departs from it
///   in what is not computed: heads see masked positions only, of the last layer only the first
///   token is computed where nothing else is read, and a pair that two losses need runs once; the
///   values are the same. Departs from it in multiple choice, where the released code pairs all
///   videos with texts of the first items only. The masked frames that the released code shows to
///   the primary loss are [`PrimaryFrames::Masked`].
#[derive(Module, Debug)]
pub struct Violet {
    enc_img: FrameEncoder,
    enc_txt: TextInput,
    trsfr: BertEncoder,
    /// Published as `fc` for retrieval and as `fc_vtm` otherwise.
    matching: MlpHead,
    /// Published as `fc_mc` or `fc_oe`; absent for retrieval.
    answer: Option<MlpHead>,
    fc_mtm: WordHead,
    fc_mvm: MlpHead,
    max_text_positions: usize,
    temperature: f64,
    #[module(skip)]
    task: VioletTask,
    #[module(skip)]
    primary_frames: PrimaryFrames,
}

impl Violet {
    pub(crate) fn zeroed(config: &VioletConfig, device: &Device) -> Self {
        let (d_model, dropout) = (config.d_model(), config.dropout);
        let head = |n_outputs| MlpHead::new(d_model, n_outputs, dropout, device);
        Self {
            enc_img: FrameEncoder::new(config, device),
            enc_txt: TextInput {
                emb_txt: TextEmbeddings::new(
                    config.vocab_size,
                    config.max_text_positions,
                    d_model,
                    dropout,
                    device,
                ),
            },
            trsfr: BertEncoder::new(config.n_layers, config.layer_sizes(), device),
            matching: head(1),
            answer: match config.task {
                VioletTask::Retrieval => None,
                VioletTask::MultipleChoice => Some(head(1)),
                VioletTask::OpenEnded { n_answers } => Some(MlpHead::new(
                    d_model,
                    n_answers,
                    config.answer_dropout,
                    device,
                )),
            },
            fc_mtm: WordHead::new(d_model, config.vocab_size, device),
            fc_mvm: head(config.n_visual_tokens),
            max_text_positions: config.max_text_positions,
            temperature: config.temperature,
            task: config.task,
            primary_frames: config.primary_frames,
        }
    }

    /// Device of the parameters.
    #[must_use]
    pub fn device(&self) -> Device {
        self.fc_mvm.output.weight.val().device()
    }

    /// What the model is fine-tuned for.
    #[must_use]
    pub fn task(&self) -> VioletTask {
        self.task
    }

    /// Embeds texts.
    ///
    /// # Shapes
    ///
    /// - ids, pad: `[N, L]`; output: `[N, L, D]`
    #[must_use]
    pub fn encode_text(&self, ids: Tensor<2, Int>, pad: Tensor<2, Bool>, pass: Pass) -> Encoded {
        Encoded {
            hidden: Network::constant(self).embed_text(ids, pass),
            pad,
        }
    }

    /// Encodes videos from clean frames in `[0, 1]`.
    ///
    /// # Shapes
    ///
    /// - frames: `[N, T, 3, H, W]` with `H` and `W` multiples of 32
    /// - output: `[N, T * (1 + H/32 * W/32), D]`, nothing of it padding
    #[must_use]
    pub fn encode_video(&self, frames: Tensor<5>, pass: Pass) -> Encoded {
        let hidden = Network::constant(self).encode_frames(normalize(frames, None), pass);
        let [n_items, length, _] = hidden.dims();
        let pad = TensorData::new(vec![false; n_items * length], [n_items, length]);
        let pad = Tensor::from_data(pad, &hidden.value.device());
        Encoded { hidden, pad }
    }

    /// What the linear map of the last merging reads of clean frames in `[0, 1]`, the mean over
    /// places and frames: the last of what the Swin transformer computes of a clip before a map
    /// that can be fitted in closed form.
    ///
    /// # Shapes
    ///
    /// - frames: `[N, T, 3, H, W]` with `H` and `W` multiples of 32; output: `[N, 2 D]`
    #[must_use]
    pub fn mean_merging_input(&self, frames: Tensor<5>, pass: Pass) -> Tensor<2> {
        let network = Network::constant(self);
        let encoder = network.0.of(|own| &own.enc_img);
        let input = FrameEncoder::last_merging_input(encoder, normalize(frames, None), pass).value;
        let [n_items, _, width] = input.dims();
        input.mean_dim(1).reshape([n_items, width])
    }

    /// Matching logits of every text with every video, without temperature, `[Nt, Nv]`.
    ///
    /// Builds `Nt x Nv` pairs at once: call it in chunks. A sigmoid of them, as in the released
    /// evaluation, ranks alike but saturates to ties.
    #[must_use]
    pub fn similarity(&self, text: &Encoded, video: &Encoded, pass: Pass) -> Tensor<2> {
        let network = Network::constant(self);
        let [n_texts, _] = text.pad.dims();
        let [n_videos, _] = video.pad.dims();
        let trsfr = network.0.of(|own| &own.trsfr);
        let first = BertEncoder::forward_first_pairwise(trsfr, masked(text), masked(video), pass);
        network
            .matching(first, pass)
            .value
            .reshape([n_texts, n_videos])
    }

    /// Scores of the answers from clean frames, `[B, O]` for multiple choice and `[B, n_answers]`
    /// for open-ended questions; `None` for retrieval.
    ///
    /// # Shapes
    ///
    /// - frames: `[B, T, 3, H, W]` in `[0, 1]`
    /// - ids, pad: `[B * O, L]`, the texts of an item in a row
    #[must_use]
    pub fn answer_logits(
        &self,
        frames: Tensor<5>,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        pass: Pass,
    ) -> Option<Tensor<2>> {
        self.answer.as_ref()?;
        let n_options = ids.dims()[0] / frames.dims()[0];
        let network = Network::constant(self);
        let first = network.clean_first_tokens(frames, ids, pad, pass);
        Some(network.answer(first, n_options, pass)?.value)
    }

    /// What the last linear map of the head of answers reads, from clean frames; `None` for
    /// retrieval.
    ///
    /// # Shapes
    ///
    /// - frames: `[B, T, 3, H, W]` in `[0, 1]`
    /// - ids, pad: `[B * O, L]`, the texts of an item in a row
    /// - output: `[B * O, 2 D]`
    #[must_use]
    pub fn answer_activations(
        &self,
        frames: Tensor<5>,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        pass: Pass,
    ) -> Option<Tensor<2>> {
        let network = Network::constant(self);
        let head = optional(network.0.of(|own| &own.answer))?;
        let first = network.clean_first_tokens(frames, ids, pad, pass);
        Some(MlpHead::activations(head, first, pass).value)
    }

    /// The chosen losses, `[which.len()]`, each the mean over the batch, in the given order.
    ///
    /// Only what these losses need is computed, and shared where several need it: see
    /// [`VioletLoss`]. The batch may be with or without a tape; the result follows the
    /// parameters.
    ///
    /// A batch without masked words, hidden patches or known answers has an `mtm`, `mvm` or `oe`
    /// loss of 0.
    ///
    /// # Panics
    ///
    /// Panics if a loss is not one of the task's, if a question of multiple choice has an answer
    /// that is none of its options, or if the shapes of the batch do not fit the model.
    #[must_use]
    pub fn losses(&self, batch: &VioletBatch, which: &[VioletLoss], pass: Pass) -> Tensor<1> {
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
        batch: &VioletBatch,
        which: &[VioletLoss],
        pass: Pass,
    ) -> Dual<1> {
        Network(Weights::new(self, direction)).losses(batch, which, pass)
    }

    /// All losses of the task and what lies on the way to them, in an evaluation pass on the
    /// masked frames.
    ///
    /// # Panics
    ///
    /// As [`losses`](Self::losses).
    #[must_use]
    pub fn trace(&self, batch: &VioletBatch) -> VioletTrace {
        let mut trace = Network::constant(self).trace(batch);
        let losses = self.losses(batch, self.task.losses(), Pass::Evaluation);
        trace.push("losses", losses);
        trace
    }

    /// The parameters under published names, tied tensors repeated, and the published index
    /// tables.
    #[must_use]
    pub fn state_dict(&self) -> StateDict {
        let task = self.task;
        let mut dict = state_dict(self, |path| published_name(task, path));
        let (name, alias) = TIED;
        if let Some(data) = dict.get(name).cloned() {
            dict.insert(alias.to_owned(), data);
        }
        dict.extend(self.index_tables());
        dict
    }

    /// Id and published name of every parameter; a tied tensor is listed once.
    #[must_use]
    pub fn parameter_names(&self) -> Vec<(ParamId, String)> {
        let task = self.task;
        parameter_names(self, |path| published_name(task, path))
    }

    /// Loads parameters under published names.
    ///
    /// The alias of the tied tensor and index tables count as applied if they are what they have
    /// to be, and as unexpected if they differ; where they are absent nothing is missing.
    #[must_use]
    pub fn load_state_dict(self, dict: &StateDict) -> (Self, LoadReport) {
        let task = self.task;
        let tables = self.index_tables();
        let (model, mut report) = load_state_dict(self, dict, |path| published_name(task, path));
        let is_known = |key: &String| {
            let Some(found) = dict.get(key) else {
                return false;
            };
            let (name, alias) = TIED;
            if key == alias {
                return dict.get(name).map(TensorData::as_bytes) == Some(found.as_bytes());
            }
            tables
                .iter()
                .any(|(name, table)| name == key && is_same_table(table, found))
        };
        let (known, unexpected): (Vec<_>, Vec<_>) =
            report.unexpected.into_iter().partition(is_known);
        report.applied.extend(known);
        report.unexpected = unexpected;
        (model, report)
    }

    /// What published state dicts hold beside the parameters.
    fn index_tables(&self) -> Vec<(String, TensorData)> {
        let positions: Vec<i64> = (0..self.max_text_positions as i64).collect();
        let positions = TensorData::new(positions, [1, self.max_text_positions]);
        let mut tables = vec![("enc_txt.emb_txt.position_ids".to_owned(), positions)];
        tables.extend(
            self.enc_img
                .index_tables()
                .map(|(path, table)| (format!("enc_img.{path}"), table)),
        );
        tables
    }

    /// Which frames a loss sees in training.
    fn frames_of(&self, loss: VioletLoss) -> PrimaryFrames {
        if loss == self.task.primary() {
            self.primary_frames
        } else {
            PrimaryFrames::Masked
        }
    }
}

/// The network with, possibly, a direction in its parameter space.
#[derive(Clone, Copy)]
struct Network<'a>(Weights<'a, Violet>);

impl<'a> Network<'a> {
    fn constant(model: &'a Violet) -> Self {
        Self(Weights::constant(model))
    }

    /// The chosen losses, `[which.len()]`. What several of them need is computed once, when the
    /// first of them asks for it.
    fn losses(self, batch: &VioletBatch, which: &[VioletLoss], pass: Pass) -> Dual<1> {
        let model = self.0.value;
        for loss in which {
            assert!(
                model.task.losses().contains(loss),
                "`{loss}` is no loss of {:?}",
                model.task
            );
        }
        let device = model.device();
        pass.begin(&device);
        let batch = &batch.clone().with_autodiff_of(&device);
        let videos = LazyCell::new(|| self.videos(batch, which, pass));
        let texts = LazyCell::new(|| self.texts(batch, which, pass));
        let matched = |frames| {
            let pairs = self.wanted_pairs(batch, which, frames);
            self.matched(pairs, &texts.of(Words::Clean), &videos.of(frames), pass)
        };
        let from_clean = LazyCell::new(|| matched(PrimaryFrames::Clean));
        let from_masked = LazyCell::new(|| matched(PrimaryFrames::Masked));
        let reconstruction = LazyCell::new(|| {
            let (text, video) = (texts.of(Words::Masked), videos.of(PrimaryFrames::Masked));
            self.reconstruct(batch, which, &text, &video, pass)
        });
        let losses = which
            .iter()
            .map(|loss| {
                if !is_asked(*loss, batch) {
                    return zero(&device);
                }
                let first_tokens = |pairs: &[Pair]| match model.frames_of(*loss) {
                    PrimaryFrames::Clean => from_clean.select(pairs),
                    PrimaryFrames::Masked => from_masked.select(pairs),
                };
                match loss {
                    VioletLoss::Mc | VioletLoss::Oe => self.answer_loss(batch, first_tokens, pass),
                    VioletLoss::Vtm => {
                        let first = first_tokens(&all_pairs(batch));
                        diagonal_cross_entropy(self.matching_logits(first, pass))
                    }
                    VioletLoss::Mtm => self.word_loss(batch, &reconstruction),
                    VioletLoss::Mvm => self.patch_loss(batch, &reconstruction, pass),
                }
            })
            .collect();
        Dual::cat(losses, 0)
    }

    /// What lies on the way to the losses, in an evaluation pass on masked frames.
    fn trace(self, batch: &VioletBatch) -> VioletTrace {
        let pass = Pass::Evaluation;
        let device = self.0.value.device();
        let batch = &batch.clone().with_autodiff_of(&device);
        let mut trace = VioletTrace {
            tensors: Vec::new(),
        };
        let [batch_size, n_frames, rows, columns] = batch.hidden_patches.dims();
        let [n_texts, length] = batch.text_ids.dims();
        let frames = normalize(batch.frames.clone(), Some(batch.hidden_patches.clone()));
        let encoder = self.0.of(|own| &own.enc_img);
        let patches = FrameEncoder::patches(encoder, frames, pass);
        let d_model = patches.dims()[2];
        trace.push(
            "swin_output",
            patches
                .value
                .clone()
                .reshape([batch_size, n_frames, rows, columns, d_model])
                .permute([0, 4, 1, 2, 3]),
        );
        let video = unpadded(FrameEncoder::embed(encoder, patches, n_frames));
        trace.push("enc_img_output", video.hidden.value.clone());

        let text = self.text(batch, &batch.text_ids, pass);
        trace.push("text_embeddings", text.hidden.value.clone());
        let pairs = own_pairs(batch_size, batch.n_options);
        let trsfr = self.0.of(|own| &own.trsfr);
        let cross = BertEncoder::forward(trsfr, join(&text, &video, &pairs), pass);
        trace.push("cross_output", video_first(cross.value.clone(), length));
        let first = cross.map_linear(|x| x.narrow(1, 0, 1).reshape([n_texts, d_model]));
        if let Some(logits) = self.answer(first, batch.n_options, pass) {
            trace.push("out_answer", logits.value);
        }
        let first = self.first_tokens(&text, &video, &all_pairs(batch), pass);
        trace.push("out_vtm", self.matching_logits(first, pass).value);

        let text = self.text(batch, &batch.masked_text_ids, pass);
        let cross = BertEncoder::forward(trsfr, join(&text, &video, &pairs), pass);
        trace.push(
            "cross_output_masked_text",
            video_first(cross.value.clone(), length),
        );
        let words = cross
            .clone()
            .map_linear(|x| x.narrow(1, 0, length).reshape([n_texts * length, d_model]));
        let words = WordHead::forward(self.0.of(|own| &own.fc_mtm), words).value;
        let vocab_size = words.dims()[1];
        trace.push("out_mtm", words.reshape([n_texts, length, vocab_size]));
        let n_tokens = n_frames * (1 + rows * columns);
        let right = batch.right_texts().into_iter().map(|row| row as i64);
        let right = index_tensor(&right.collect::<Vec<_>>(), &device);
        let tokens = cross.map_linear(|x| {
            x.select(0, right.clone())
                .narrow(1, length, n_tokens)
                .reshape([batch_size * n_tokens, d_model])
        });
        let ids = MlpHead::forward(self.0.of(|own| &own.fc_mvm), tokens, pass).value;
        let n_ids = ids.dims()[1];
        trace.push("out_mvm", ids.reshape([batch_size, n_tokens, n_ids]));
        trace
    }

    /// The videos of a batch with the frames that its losses see, encoded, `[B, T * (1 + h * w), D]`
    /// each.
    fn videos(
        self,
        batch: &VioletBatch,
        which: &[VioletLoss],
        pass: Pass,
    ) -> Together<PrimaryFrames> {
        let model = self.0.value;
        let needed = |frames: &PrimaryFrames| {
            let mut losses = which.iter().filter(|loss| is_asked(**loss, batch));
            losses.any(|loss| model.frames_of(*loss) == *frames)
        };
        let kinds: Vec<_> = [PrimaryFrames::Clean, PrimaryFrames::Masked]
            .into_iter()
            .filter(needed)
            .collect();
        let frames = kinds.iter().map(|kind| {
            let hidden = match kind {
                PrimaryFrames::Clean => None,
                PrimaryFrames::Masked => Some(batch.hidden_patches.clone()),
            };
            normalize(batch.frames.clone(), hidden)
        });
        let frames = Tensor::cat(frames.collect(), 0);
        Together {
            rows: unpadded(self.encode_frames(frames, pass)),
            kinds,
        }
    }

    /// The texts of a batch that its losses read, embedded, `[B * O, L, D]` each.
    fn texts(self, batch: &VioletBatch, which: &[VioletLoss], pass: Pass) -> Together<Words> {
        let needed = |words: &Words| {
            let mut losses = which.iter().filter(|loss| is_asked(**loss, batch));
            losses.any(|loss| words_of(*loss) == *words)
        };
        let kinds: Vec<_> = [Words::Clean, Words::Masked]
            .into_iter()
            .filter(needed)
            .collect();
        let ids = kinds.iter().map(|kind| match kind {
            Words::Clean => batch.text_ids.clone(),
            Words::Masked => batch.masked_text_ids.clone(),
        });
        let ids = Tensor::cat(ids.collect(), 0);
        let pad = Tensor::cat(vec![batch.text_pad.clone(); kinds.len()], 0);
        Together {
            rows: Masked {
                hidden: self.embed_text(ids, pass),
                scores: padding_scores(pad),
            },
            kinds,
        }
    }

    /// The texts of a batch, embedded, `[B * O, L, D]`.
    fn text(self, batch: &VioletBatch, ids: &Tensor<2, Int>, pass: Pass) -> Masked {
        Masked {
            hidden: self.embed_text(ids.clone(), pass),
            scores: padding_scores(batch.text_pad.clone()),
        }
    }

    /// Normalized frames `[N, T, 3, H, W]` to `[N, T * (1 + h * w), D]`.
    fn encode_frames(self, frames: Tensor<5>, pass: Pass) -> Dual<3> {
        let n_frames = frames.dims()[1];
        let encoder = self.0.of(|own| &own.enc_img);
        let patches = FrameEncoder::patches(encoder, frames, pass);
        FrameEncoder::embed(encoder, patches, n_frames)
    }

    /// `[N, L]` ids to `[N, L, D]`.
    fn embed_text(self, ids: Tensor<2, Int>, pass: Pass) -> Dual<3> {
        let embeddings = self.0.of(|own| &own.enc_txt).of(|own| &own.emb_txt);
        TextEmbeddings::forward(embeddings, ids, pass)
    }

    /// The first text token of each pair after the cross encoder, `[pairs, D]`.
    fn first_tokens(self, text: &Masked, video: &Masked, pairs: &[Pair], pass: Pass) -> Dual<2> {
        let trsfr = self.0.of(|own| &own.trsfr);
        BertEncoder::forward_first(trsfr, join(text, video, pairs), pass)
    }

    /// The first text token of each item's own pairs, from clean frames, `[B * O, D]`.
    fn clean_first_tokens(
        self,
        frames: Tensor<5>,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        pass: Pass,
    ) -> Dual<2> {
        let model = self.0.value;
        let text = masked(&model.encode_text(ids, pad, pass));
        let video = masked(&model.encode_video(frames, pass));
        let batch_size = video.hidden.dims()[0];
        let pairs = own_pairs(batch_size, text.hidden.dims()[0] / batch_size);
        self.first_tokens(&text, &video, &pairs, pass)
    }

    /// Every pair of clean texts that the chosen losses need with these frames, once.
    fn wanted_pairs(
        self,
        batch: &VioletBatch,
        which: &[VioletLoss],
        frames: PrimaryFrames,
    ) -> Vec<Pair> {
        let model = self.0.value;
        let mut pairs: Vec<Pair> = which
            .iter()
            .filter(|loss| model.frames_of(**loss) == frames)
            .flat_map(|loss| match loss {
                VioletLoss::Mc => own_pairs(batch.batch_size(), batch.n_options),
                VioletLoss::Oe => known_answers(batch).0,
                VioletLoss::Vtm => all_pairs(batch),
                VioletLoss::Mtm | VioletLoss::Mvm => Vec::new(),
            })
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    fn matched(self, pairs: Vec<Pair>, text: &Masked, video: &Masked, pass: Pass) -> Matched {
        Matched {
            first: self.first_tokens(text, video, &pairs, pass),
            pairs,
        }
    }

    /// First tokens `[rows, D]` to matching logits, `[rows, 1]`.
    fn matching(self, first: Dual<2>, pass: Pass) -> Dual<2> {
        MlpHead::forward(self.0.of(|own| &own.matching), first, pass)
    }

    /// First tokens of all pairs, `[B * B, D]`, to logits over the temperature, `[B, B]`, with a
    /// row for each video.
    fn matching_logits(self, first: Dual<2>, pass: Pass) -> Dual<2> {
        let batch_size = first.dims()[0].isqrt();
        self.matching(first, pass)
            .map_linear(|x| x.reshape([batch_size, batch_size]))
            .scale(1.0 / self.0.value.temperature)
    }

    /// First tokens `[B * O, D]` to scores of the answers, `[B, O]` or `[B, n_answers]`.
    fn answer(self, first: Dual<2>, n_options: usize, pass: Pass) -> Option<Dual<2>> {
        let head = optional(self.0.of(|own| &own.answer))?;
        let logits = MlpHead::forward(head, first, pass);
        let [rows, n_outputs] = logits.dims();
        Some(logits.map_linear(|x| x.reshape([rows / n_options, n_options * n_outputs])))
    }

    /// Cross entropy of the answers that are known; there is at least one.
    fn answer_loss(
        self,
        batch: &VioletBatch,
        first_tokens: impl Fn(&[Pair]) -> Dual<2>,
        pass: Pass,
    ) -> Dual<1> {
        let device = batch.frames.device();
        let (pairs, answers) = match self.0.value.task {
            VioletTask::OpenEnded { .. } => known_answers(batch),
            _ => (
                own_pairs(batch.batch_size(), batch.n_options),
                batch.answers.clone(),
            ),
        };
        match self.answer(first_tokens(&pairs), batch.n_options, pass) {
            Some(logits) => cross_entropy(logits, index_tensor(&answers, &device)),
            // The losses of a task without this head were refused at the entry.
            None => zero(&device),
        }
    }

    /// The cross encoder on masked texts and masked frames, all tokens.
    ///
    /// Masked words are predicted for every text, hidden patches beside the right one alone.
    fn reconstruct(
        self,
        batch: &VioletBatch,
        which: &[VioletLoss],
        text: &Masked,
        video: &Masked,
        pass: Pass,
    ) -> Reconstruction {
        let right = batch.right_texts();
        let (pairs, rows) = if which.contains(&VioletLoss::Mtm) {
            (own_pairs(batch.batch_size(), batch.n_options), right)
        } else {
            let rows = (0..right.len()).collect();
            let pairs = right.into_iter().enumerate();
            (
                pairs.map(|(video, text)| Pair { video, text }).collect(),
                rows,
            )
        };
        let trsfr = self.0.of(|own| &own.trsfr);
        Reconstruction {
            hidden: BertEncoder::forward(trsfr, join(text, video, &pairs), pass),
            rows,
        }
    }

    /// Masked text modelling on the masked positions alone; there is at least one.
    fn word_loss(self, batch: &VioletBatch, reconstruction: &Reconstruction) -> Dual<1> {
        let device = batch.frames.device();
        let length = batch.text_ids.dims()[1];
        let total = reconstruction.hidden.dims()[1];
        let at = |position: &i64| {
            let (row, token) = (*position as usize / length, *position as usize % length);
            row * total + token
        };
        let hidden = reconstruction.tokens(batch.predict_words.iter().map(at), &device);
        let logits = WordHead::forward(self.0.of(|own| &own.fc_mtm), hidden);
        cross_entropy(logits, index_tensor(&batch.word_targets, &device))
    }

    /// Masked visual-token modelling on the hidden patches alone; there is at least one.
    fn patch_loss(
        self,
        batch: &VioletBatch,
        reconstruction: &Reconstruction,
        pass: Pass,
    ) -> Dual<1> {
        let device = batch.frames.device();
        let [_, n_frames, rows, columns] = batch.hidden_patches.dims();
        let per_frame = rows * columns;
        let length = batch.text_ids.dims()[1];
        let total = reconstruction.hidden.dims()[1];
        let at = |position: &i64| {
            let (frame, patch) = (
                *position as usize / per_frame,
                *position as usize % per_frame,
            );
            let (item, frame) = (frame / n_frames, frame % n_frames);
            // Each frame's `[CLS]` stands before its patches.
            let token = length + frame * (1 + per_frame) + 1 + patch;
            reconstruction.rows[item] * total + token
        };
        let hidden = reconstruction.tokens(batch.predict_patches.iter().map(at), &device);
        let logits = MlpHead::forward(self.0.of(|own| &own.fc_mvm), hidden, pass);
        cross_entropy(logits, index_tensor(&batch.patch_targets, &device))
    }
}

/// Words as they are, or with some of them masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    Clean,
    Masked,
}

/// Which words a loss reads.
fn words_of(loss: VioletLoss) -> Words {
    match loss {
        VioletLoss::Mc | VioletLoss::Oe | VioletLoss::Vtm => Words::Clean,
        VioletLoss::Mtm | VioletLoss::Mvm => Words::Masked,
    }
}

/// Whether a batch has anything for a loss to predict; without, the loss is 0 and reads nothing.
fn is_asked(loss: VioletLoss, batch: &VioletBatch) -> bool {
    match loss {
        VioletLoss::Mc | VioletLoss::Vtm => true,
        VioletLoss::Oe => !known_answers(batch).0.is_empty(),
        VioletLoss::Mtm => !batch.predict_words.is_empty(),
        VioletLoss::Mvm => !batch.predict_patches.is_empty(),
    }
}

/// Batches of one size that are encoded in one pass, so that products are larger and each weight
/// gets one gradient instead of one for each batch.
struct Together<K> {
    /// What the batches are, in their order.
    kinds: Vec<K>,
    /// Their rows, batch by batch.
    rows: Masked,
}

impl<K: fmt::Debug + PartialEq> Together<K> {
    /// One of the batches.
    ///
    /// # Panics
    ///
    /// Panics if it is not among them.
    fn of(&self, kind: K) -> Masked {
        let n_batches = self.kinds.len();
        let at = self.kinds.iter().take_while(|own| **own != kind).count();
        assert!(at < n_batches, "{kind:?} is none of {:?}", self.kinds);
        if n_batches == 1 {
            return self.rows.clone();
        }
        let size = self.rows.hidden.dims()[0] / n_batches;
        let hidden = self.rows.hidden.clone();
        Masked {
            hidden: hidden.map_linear(|x| x.narrow(0, at * size, size)),
            scores: self.rows.scores.clone().narrow(0, at * size, size),
        }
    }
}

/// A video of the batch and a row of its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    video: usize,
    text: usize,
}

/// Pairs, sorted and distinct, with the first token of each, `[pairs, D]`.
struct Matched {
    pairs: Vec<Pair>,
    first: Dual<2>,
}

impl Matched {
    /// The rows of `wanted`, all of which are among the pairs.
    fn select(&self, wanted: &[Pair]) -> Dual<2> {
        if wanted == self.pairs {
            return self.first.clone();
        }
        let rows: Vec<i64> = wanted
            .iter()
            .map(|pair| self.pairs.partition_point(|own| own < pair) as i64)
            .collect();
        let rows = index_tensor(&rows, &self.first.value.device());
        self.first.clone().map_linear(|x| x.select(0, rows.clone()))
    }
}

/// Masked texts with masked frames after the cross encoder.
struct Reconstruction {
    /// `[R, L + T * (1 + h * w), D]`, the text first.
    hidden: Dual<3>,
    /// For each item the row among the `R` that stands beside its right text.
    rows: Vec<usize>,
}

impl Reconstruction {
    /// Tokens at positions of the flattened first two axes, `[positions, D]`.
    fn tokens(&self, at: impl Iterator<Item = usize>, device: &Device) -> Dual<2> {
        let [rows, total, d_model] = self.hidden.dims();
        let at: Vec<i64> = at.map(|position| position as i64).collect();
        let at = index_tensor(&at, device);
        self.hidden
            .clone()
            .map_linear(|x| x.reshape([rows * total, d_model]).select(0, at.clone()))
    }
}

/// Every video with each text of its own.
fn own_pairs(batch_size: usize, n_options: usize) -> Vec<Pair> {
    (0..batch_size * n_options)
        .map(|text| Pair {
            video: text / n_options,
            text,
        })
        .collect()
}

/// Every video with the right text of every item, by video.
fn all_pairs(batch: &VioletBatch) -> Vec<Pair> {
    let right = batch.right_texts();
    (0..batch.batch_size())
        .flat_map(|video| right.iter().map(move |&text| Pair { video, text }))
        .collect()
}

/// The pairs of an open-ended batch whose answer is one of the classes, and the answers.
fn known_answers(batch: &VioletBatch) -> (Vec<Pair>, Vec<i64>) {
    own_pairs(batch.batch_size(), 1)
        .into_iter()
        .zip(batch.answers.iter().copied())
        .filter(|(_, answer)| *answer >= 0)
        .unzip()
}

/// The tokens of each pair, the text first.
fn join(text: &Masked, video: &Masked, pairs: &[Pair]) -> Masked {
    let device = text.scores.device();
    let select = |x: &Masked, rows: Vec<i64>| {
        let rows = index_tensor(&rows, &device);
        Masked {
            hidden: x.hidden.clone().map_linear(|x| x.select(0, rows.clone())),
            scores: x.scores.clone().select(0, rows),
        }
    };
    let text = select(text, pairs.iter().map(|pair| pair.text as i64).collect());
    let video = select(video, pairs.iter().map(|pair| pair.video as i64).collect());
    Masked {
        hidden: Dual::cat(vec![text.hidden, video.hidden], 1),
        scores: Tensor::cat(vec![text.scores, video.scores], 3),
    }
}

/// Tokens of which none is padding.
fn unpadded(hidden: Dual<3>) -> Masked {
    let [n_items, length, _] = hidden.dims();
    let scores = Tensor::zeros([n_items, 1, 1, length], &hidden.value.device());
    Masked { hidden, scores }
}

fn masked(encoded: &Encoded) -> Masked {
    Masked {
        hidden: encoded.hidden.clone(),
        scores: padding_scores(encoded.pad.clone()),
    }
}

/// The published order of tokens: those of the video, then the `length` of the text.
fn video_first(hidden: Tensor<3>, length: usize) -> Tensor<3> {
    let n_video = hidden.dims()[1] - length;
    let video = hidden.clone().narrow(1, length, n_video);
    Tensor::cat(vec![video, hidden.narrow(1, 0, length)], 1)
}

fn zero(device: &Device) -> Dual<1> {
    Dual::constant(Tensor::zeros([1], device))
}

/// Whether two tables hold the same numbers, of whatever type.
fn is_same_table(a: &TensorData, b: &TensorData) -> bool {
    a.shape() == b.shape() && a.iter::<i64>().eq(b.iter::<i64>())
}

/// Published name of a field path.
fn published_name(task: VioletTask, path: &str) -> String {
    let (part, rest) = path.split_once('.').unwrap_or((path, ""));
    let head = match (part, task) {
        ("matching", VioletTask::Retrieval) => "fc",
        ("matching", _) => "fc_vtm",
        ("answer", VioletTask::MultipleChoice) => "fc_mc",
        ("answer", _) => "fc_oe",
        ("fc_mvm", _) => "fc_mvm",
        _ => {
            return path
                .replace("self_attention.", "self.")
                .replace("layer_norm.", "LayerNorm.");
        }
    };
    let rest = rest.replace("hidden.", "1.").replace("output.", "3.");
    format!("{head}.{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(task: VioletTask) -> Violet {
        VioletConfig::mini(task, 30, 12)
            .init(0, &Device::default())
            .unwrap()
    }

    #[test]
    fn field_paths_become_published_names() {
        let task = VioletTask::Retrieval;
        for (path, published) in [
            ("matching.hidden.weight", "fc.1.weight"),
            ("fc_mvm.output.bias", "fc_mvm.3.bias"),
            (
                "trsfr.layer.0.attention.self_attention.query.weight",
                "trsfr.layer.0.attention.self.query.weight",
            ),
            (
                "trsfr.layer.0.attention.output.layer_norm.bias",
                "trsfr.layer.0.attention.output.LayerNorm.bias",
            ),
            (
                "enc_txt.emb_txt.layer_norm.weight",
                "enc_txt.emb_txt.LayerNorm.weight",
            ),
            ("enc_img.norm.weight", "enc_img.norm.weight"),
        ] {
            assert_eq!(published_name(task, path), published);
        }
        let name = |task, path| published_name(task, path);
        let open = VioletTask::OpenEnded { n_answers: 3 };
        assert_eq!(name(open, "answer.output.weight"), "fc_oe.3.weight");
        assert_eq!(name(open, "matching.output.weight"), "fc_vtm.3.weight");
        let choice = VioletTask::MultipleChoice;
        assert_eq!(name(choice, "answer.hidden.bias"), "fc_mc.1.bias");
    }

    #[test]
    fn saving_and_loading_is_complete_with_and_without_tables() {
        for task in [
            VioletTask::Retrieval,
            VioletTask::MultipleChoice,
            VioletTask::OpenEnded { n_answers: 4 },
        ] {
            let mut dict = model(task).state_dict();
            let (_, report) = model(task).load_state_dict(&dict);
            assert!(report.is_complete(), "{task:?}: {report}");
            dict.retain(|name, _| !name.ends_with("_index") && !name.ends_with("position_ids"));
            let (_, report) = model(task).load_state_dict(&dict);
            assert!(report.is_complete(), "{task:?}: {report}");
        }
    }

    #[test]
    fn a_foreign_table_and_an_untied_alias_are_reported() {
        let mut dict = model(VioletTask::Retrieval).state_dict();
        let alias = "fc_mtm.predictions.decoder.bias";
        let other = TensorData::new(vec![0.5f32; 30], [30]);
        dict.insert(alias.to_owned(), other);
        let table = "enc_img.swin.layers.0.blocks.0.attn.relative_position_index";
        let other = TensorData::new(vec![0i64; 64 * 64], [64, 64]);
        dict.insert(table.to_owned(), other);
        let (_, report) = model(VioletTask::Retrieval).load_state_dict(&dict);
        assert_eq!(report.unexpected, vec![table, alias]);
        assert!(report.missing.is_empty());
    }

    #[test]
    fn pairs_are_selected_in_the_order_that_is_asked_for() {
        let device = Device::default();
        let pair = |video, text| Pair { video, text };
        let values = TensorData::new(vec![1.0f32, 2.0, 3.0], [3, 1]);
        let matched = Matched {
            pairs: vec![pair(0, 0), pair(0, 4), pair(1, 2)],
            first: Dual::constant(Tensor::from_data(values, &device)),
        };
        let rows = matched.select(&[pair(1, 2), pair(0, 0)]).value;
        let rows: Vec<f32> = rows.into_data().iter::<f32>().collect();
        assert_eq!(rows, [3.0, 1.0]);
    }
}
