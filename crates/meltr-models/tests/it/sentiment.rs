//! The sentiment model: finite losses, derivatives in both modes, padding, names.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Distribution, Gradients, Tensor, TensorData};
use meltr_core::Pass;
use meltr_models::{
    FeatureSequence, FeatureWidths, SentimentLoss, Shortcut, UniVlConfig, UniVlLoss,
    UniVlSentiment, UniVlSentimentBatch, UniVlSentimentConfig,
};

use crate::support::{FRAMES, VIDEO_DIM, VOCABULARY, WORDS, batch, host};

const STEPS: usize = 4;
const AUDIO_DIM: usize = 6;
const TEXT_DIM: usize = 5;

/// `text` features of the text; without them there is no audio either.
fn config(text: usize, shortcut: Shortcut) -> UniVlSentimentConfig {
    let widths = FeatureWidths {
        text,
        audio: if text > 0 { AUDIO_DIM } else { 0 },
        video: VIDEO_DIM,
    };
    let mini = UniVlSentimentConfig::mini(VOCABULARY, widths);
    UniVlSentimentConfig {
        univl: UniVlConfig {
            d_model: 16,
            n_heads: 2,
            d_ff: 24,
            ..mini.univl.clone()
        },
        shortcut,
        ..mini
    }
}

fn model(text: usize, shortcut: Shortcut) -> UniVlSentiment {
    config(text, shortcut).init(7, &Device::default()).unwrap()
}

/// `n` utterances; the last two steps of every second audio are padding.
fn utterances(n: usize, text: usize) -> UniVlSentimentBatch {
    let univl = batch(n);
    let device = Device::default();
    device.seed(8);
    let random = |steps: usize, width: usize| {
        Tensor::<3>::random([n, steps, width], Distribution::Default, &device)
    };
    let pad = |steps: usize, padded: usize| -> Tensor<2, Bool> {
        let flags: Vec<bool> = (0..n * steps)
            .map(|at| (at / steps) % 2 == 1 && at % steps >= steps - padded)
            .collect();
        Tensor::from_data(TensorData::new(flags, [n, steps]), &device)
    };
    UniVlSentimentBatch {
        univl,
        text_features: (text > 0).then(|| FeatureSequence {
            values: random(1, text),
            pad: pad(1, 0),
        }),
        audio: (text > 0).then(|| FeatureSequence {
            values: random(STEPS, AUDIO_DIM),
            pad: pad(STEPS, 2),
        }),
        labels: [-2.4, 0.0, 1.6, 3.0][..n].to_vec(),
    }
}

/// A direction: smooth, nowhere zero, of the size of the parameters.
struct Wave(usize);

impl ModuleMapper for Wave {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let phase = self.0 as f64;
        param.map(|value| (value * 9.0 + phase).sin() * 0.03)
    }
}

/// A step along such a direction.
struct Nudge(usize);

impl ModuleMapper for Nudge {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let phase = self.0 as f64;
        param.map(|value| value.clone() + (value * 9.0 + phase).sin() * 0.03)
    }
}

struct Collect(Vec<Vec<f64>>);

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().into_data().iter::<f64>().collect());
    }
}

/// Sum over parameters of `<gradient, direction>`.
struct Inner<'a> {
    gradients: &'a Gradients,
    directions: std::vec::IntoIter<Vec<f64>>,
    sum: f64,
}

impl ModuleVisitor for Inner<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let direction = self.directions.next().unwrap();
        if let Some(gradient) = param.val().grad(self.gradients) {
            self.sum += gradient
                .into_data()
                .iter::<f64>()
                .zip(direction)
                .map(|(g, d)| g * d)
                .sum::<f64>();
        }
    }
}

fn reverse(
    model: &UniVlSentiment,
    direction: &UniVlSentiment,
    batch: &UniVlSentimentBatch,
    loss: SentimentLoss,
    pass: Pass,
) -> f64 {
    let training = model.clone().train();
    let gradients = training.losses(batch, &[loss], pass).backward();
    let mut collect = Collect(Vec::new());
    direction.visit(&mut collect);
    let mut inner = Inner {
        gradients: &gradients,
        directions: collect.0.into_iter(),
        sum: 0.0,
    };
    training.visit(&mut inner);
    inner.sum
}

#[test]
fn every_loss_is_finite_and_the_regressions_are_the_errors_of_the_predictions() {
    for (text, shortcut) in [(0, Shortcut::Off), (TEXT_DIM, Shortcut::Linear)] {
        let (model, batch) = (model(text, shortcut), utterances(4, text));
        let losses = host(model.losses(&batch, &SentimentLoss::ALL, Pass::Evaluation));
        assert_eq!(losses[5] == 0.0, batch.audio.is_none(), "{losses:?}");
        assert_eq!(losses.len(), SentimentLoss::ALL.len());
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
        let predictions = host(model.predictions(&batch, Pass::Evaluation));
        assert_eq!(predictions.len(), 4);
        let residuals: Vec<f64> = predictions
            .iter()
            .zip(&batch.labels)
            .map(|(prediction, label)| prediction - f64::from(*label))
            .collect();
        let absolute = residuals.iter().map(|x| x.abs()).sum::<f64>() / 4.0;
        let square = residuals.iter().map(|x| x * x).sum::<f64>() / 4.0;
        assert!((losses[0] - absolute).abs() < 1e-5, "{losses:?} {absolute}");
        assert!((losses[1] - square).abs() < 1e-4, "{losses:?} {square}");
    }
}

#[test]
fn losses_taken_one_by_one_are_those_taken_together_in_any_order() {
    let (model, batch) = (model(TEXT_DIM, Shortcut::Linear), utterances(3, TEXT_DIM));
    let mut order = SentimentLoss::ALL;
    order.reverse();
    order.swap(2, 9);
    let together = host(model.losses(&batch, &order, Pass::Evaluation));
    for (loss, expected) in order.into_iter().zip(together) {
        let alone = host(model.losses(&batch, &[loss], Pass::Evaluation))[0];
        assert!(
            (alone - expected).abs() < 1e-6,
            "{loss}: {alone} alone, {expected} together"
        );
    }
}

#[test]
fn losses_of_univl_are_those_of_univl() {
    let (model, batch) = (model(TEXT_DIM, Shortcut::Off), utterances(3, TEXT_DIM));
    for pass in [Pass::Evaluation, Pass::Stochastic { seed: 4 }] {
        let pretext = UniVlLoss::ALL.map(SentimentLoss::Pretext);
        let ours = model.losses(&batch, &pretext, pass);
        let theirs = model.univl().losses(&batch.univl, &UniVlLoss::ALL, pass);
        ours.into_data().assert_eq(&theirs.into_data(), true);
    }
}

#[test]
fn every_loss_agrees_with_its_reverse_pass_with_and_without_dropout() {
    for (text, shortcut, pass) in [
        (0, Shortcut::Off, Pass::Evaluation),
        (TEXT_DIM, Shortcut::Linear, Pass::Evaluation),
        (TEXT_DIM, Shortcut::Linear, Pass::Stochastic { seed: 3 }),
    ] {
        let (model, batch) = (model(text, shortcut), utterances(4, text));
        let direction = model.clone().map(&mut Wave(0));
        for loss in SentimentLoss::ALL {
            if loss == SentimentLoss::AudioOnly && batch.audio.is_none() {
                continue;
            }
            let dual = model.losses_along(&direction, &batch, &[loss], pass);
            let forward = host(dual.tangent.unwrap())[0];
            let reverse = reverse(&model, &direction, &batch, loss, pass);
            assert!(
                (forward - reverse).abs() < 2e-4 * reverse.abs().max(0.05),
                "{loss} with {shortcut:?}: {forward} forward, {reverse} reverse"
            );
        }
    }
}

#[test]
fn the_values_on_duals_are_those_of_a_plain_pass() {
    let (model, batch) = (model(TEXT_DIM, Shortcut::Linear), utterances(3, TEXT_DIM));
    let direction = model.clone().map(&mut Wave(0));
    let dual = model.losses_along(&direction, &batch, &SentimentLoss::ALL, Pass::Evaluation);
    let plain = model.losses(&batch, &SentimentLoss::ALL, Pass::Evaluation);
    dual.value.into_data().assert_eq(&plain.into_data(), true);
}

#[test]
fn what_stands_in_padding_changes_nothing() {
    // The shortcut starts at 0 and has to see something, too.
    let model = model(TEXT_DIM, Shortcut::Linear).map(&mut Nudge(0));
    let batch = utterances(4, TEXT_DIM);
    let mut changed = batch.clone();
    let device = model.device();
    if let Some(audio) = &mut changed.audio {
        let noise = Tensor::<3>::ones([1, 2, AUDIO_DIM], &device) * 3.0;
        let place = [1..2, STEPS - 2..STEPS, 0..AUDIO_DIM];
        audio.values = audio.values.clone().slice_assign(place, noise);
    }
    let frame = Tensor::<3>::ones([1, 1, VIDEO_DIM], &device) * 3.0;
    let place = [1..2, FRAMES - 1..FRAMES, 0..VIDEO_DIM];
    changed.univl.video = changed
        .univl
        .video
        .slice_assign(place.clone(), frame.clone());
    changed.univl.masked_video = changed.univl.masked_video.slice_assign(place, frame);
    let words = changed.univl.text_ids.clone();
    let other = words.clone().narrow(0, 0, 1).narrow(1, 0, 2);
    changed.univl.text_ids = words.slice_assign([1..2, WORDS - 2..WORDS], other);
    let which = SentimentLoss::ALL;
    let before = host(model.losses(&batch, &which, Pass::Evaluation));
    let after = host(model.losses(&changed, &which, Pass::Evaluation));
    for ((loss, before), after) in which.into_iter().zip(before).zip(after) {
        assert!(
            (before - after).abs() < 1e-5 * before.abs().max(1.0),
            "{loss}: {before} became {after}"
        );
    }
}

#[test]
fn audio_and_features_of_the_text_reach_the_prediction() {
    let (model, batch) = (model(TEXT_DIM, Shortcut::Off), utterances(2, TEXT_DIM));
    let before = host(model.predictions(&batch, Pass::Evaluation));
    let turned = |features: Option<FeatureSequence>| {
        features.map(|features| FeatureSequence {
            values: features.values * -1.0,
            pad: features.pad,
        })
    };
    let mut other = batch.clone();
    other.audio = turned(other.audio);
    assert_ne!(host(model.predictions(&other, Pass::Evaluation)), before);
    let mut other = batch.clone();
    other.text_features = turned(other.text_features);
    assert_ne!(host(model.predictions(&other, Pass::Evaluation)), before);
}

#[test]
fn the_shortcut_is_a_linear_map_of_mean_features() {
    let (model, batch) = (model(TEXT_DIM, Shortcut::Linear), utterances(2, TEXT_DIM));
    let mut dict = model.state_dict();
    let n_features = TEXT_DIM + AUDIO_DIM + VIDEO_DIM;
    let weights: Vec<f32> = (0..n_features).map(|at| 0.1 * at as f32 - 0.7).collect();
    let shape = dict["sentiment.shortcut.weight"].shape().to_vec();
    assert_eq!(shape, vec![1, n_features]);
    let data = TensorData::new(weights.clone(), [1, n_features]);
    dict.insert("sentiment.shortcut.weight".to_owned(), data);
    let zeros = TensorData::new(vec![0.0f32; 16], [1, 16]);
    dict.insert("sentiment.head.weight".to_owned(), zeros);
    let (model, report) = model.load_state_dict(&dict);
    assert!(report.is_complete(), "{report}");
    let predictions = host(model.predictions(&batch, Pass::Evaluation));
    let values = |x: &Tensor<3>| x.clone().into_data().iter::<f64>().collect::<Vec<f64>>();
    let text = values(&batch.text_features.as_ref().unwrap().values);
    let audio = values(&batch.audio.as_ref().unwrap().values);
    let video = values(&batch.univl.video);
    for (item, prediction) in predictions.into_iter().enumerate() {
        // Item 1 has two padded steps of audio and one padded frame.
        let mean = |values: &[f64], steps: usize, valid: usize, width: usize, column: usize| {
            (0..valid)
                .map(|step| values[(item * steps + step) * width + column])
                .sum::<f64>()
                / valid as f64
        };
        let (audio_steps, frames) = (STEPS - 2 * item, FRAMES - item);
        let features = (0..TEXT_DIM)
            .map(|column| mean(&text, 1, 1, TEXT_DIM, column))
            .chain((0..AUDIO_DIM).map(|column| mean(&audio, STEPS, audio_steps, AUDIO_DIM, column)))
            .chain((0..VIDEO_DIM).map(|column| mean(&video, FRAMES, frames, VIDEO_DIM, column)));
        let expected: f64 = features
            .zip(&weights)
            .map(|(feature, weight)| feature * f64::from(*weight))
            .sum();
        assert!(
            (prediction - expected).abs() < 1e-5,
            "{prediction} {expected}"
        );
    }
}

#[test]
fn parameters_keep_their_names_over_a_round_trip() {
    let source = model(TEXT_DIM, Shortcut::Linear);
    let dict = source.state_dict();
    let other = config(TEXT_DIM, Shortcut::Linear)
        .init(8, &Device::default())
        .unwrap();
    let (loaded, report) = other.load_state_dict(&dict);
    assert!(report.is_complete(), "{report}");
    let batch = utterances(2, TEXT_DIM);
    let predictions = |model: &UniVlSentiment| host(model.predictions(&batch, Pass::Evaluation));
    assert_eq!(predictions(&loaded), predictions(&source));
    let names: Vec<String> = source
        .parameter_names()
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    assert!(names.iter().all(|name| dict.contains_key(name)));
    for name in [
        "cross.pooler.dense.weight",
        "sentiment.audio.encoder.layer.0.attention.self.query.weight",
        "sentiment.audio.embeddings.LayerNorm.weight",
        "sentiment.audio_type",
        "sentiment.text_features.weight",
        "sentiment.head.bias",
    ] {
        assert!(names.iter().any(|other| other == name), "{name}");
    }
}

#[test]
fn the_weights_of_a_univl_fit_and_what_they_lack_is_listed() {
    let target = model(TEXT_DIM, Shortcut::Off);
    let univl = config(TEXT_DIM, Shortcut::Off)
        .univl
        .init(9, &Device::default())
        .unwrap();
    let mut dict = univl.state_dict();
    let (loaded, report) = target.load_state_dict(&dict);
    assert!(report.unexpected.is_empty() && report.mismatched.is_empty());
    assert!(!report.missing.is_empty());
    assert!(
        report
            .missing
            .iter()
            .all(|name| name.starts_with("sentiment."))
    );
    let own = loaded.univl().state_dict();
    for (name, data) in &dict {
        assert_eq!(own[name].as_bytes(), data.as_bytes(), "{name}");
    }
    dict.insert(
        "sentiment.nothing".to_owned(),
        TensorData::new(vec![0.0f32], [1]),
    );
    let (_, report) = loaded.load_state_dict(&dict);
    assert_eq!(report.unexpected, vec!["sentiment.nothing"]);
}
