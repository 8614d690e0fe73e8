//! Metrics of predicted sentiment.

use std::collections::BTreeMap;

use ndarray::ArrayView2;

use super::error::MetricError;

/// Metrics of sentiments predicted as numbers in `[-3, 3]`, in every convention in use.
///
/// Two conventions decide what is positive. `has0` compares non-negative with negative over all
/// items. `non0` compares positive with negative over the items whose *label* is not 0; a
/// prediction of exactly 0 counts as negative there. F1 is weighted by the frequencies of the
/// labels; in `f1_swapped` the arguments are exchanged, as in a family of scripts whose numbers
/// older papers quote, so that the frequencies of the predictions weigh.
///
/// What is not defined is `None`: the correlation with a constant or of a single item, and
/// everything `non0` if all labels are 0.
///
/// ```
/// use meltr_tasks::metric::SentimentMetrics;
///
/// # fn main() -> Result<(), meltr_tasks::metric::MetricError> {
/// let metrics = SentimentMetrics::new(&[2.4, -0.6, 0.2], &[3.0, -1.0, 0.0])?;
/// assert!((metrics.mae - 0.4).abs() < 1e-12);
/// assert_eq!(metrics.has0.accuracy, 1.0);
/// assert_eq!(metrics.n_non0, 2);
/// # Ok(())
/// # }
/// ```
///
/// # References
///
/// - Zadeh, Zellers, Pincus and Morency, [MOSI: Multimodal Corpus of Sentiment Intensity and
///   Subjectivity Analysis in Online Opinion Videos](https://arxiv.org/abs/1606.06259), IEEE
///   Intelligent Systems 2016.
/// - Reference code: `thuiar/MMSA` `utils/metricsTop.py`, without its rounding to four places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SentimentMetrics {
    /// Number of items.
    pub n_items: usize,
    /// Mean absolute error.
    pub mae: f64,
    /// Mean squared error.
    pub mse: f64,
    /// Pearson's correlation, in `[-1, 1]`.
    pub correlation: Option<f64>,
    /// Share of items whose prediction and label, clipped to ±3, round to the same integer.
    /// Halves round to the even one, as in numpy.
    pub accuracy_7: f64,
    /// As before, clipped to ±2.
    pub accuracy_5: f64,
    /// As before, clipped to ±1.
    pub accuracy_3: f64,
    /// Non-negative against negative, all items.
    pub has0: ClassMetrics,
    /// Number of items whose label is not 0.
    pub n_non0: usize,
    /// Positive against negative, those items alone.
    pub non0: Option<ClassMetrics>,
}

impl SentimentMetrics {
    /// Compares predictions with labels.
    ///
    /// Sums are numpy's pairwise ones, so that the numbers are those of the reference code to the
    /// last digits even where they are large.
    ///
    /// # Errors
    ///
    /// [`MetricError::NoPredictions`], [`MetricError::Lengths`] if there are not as many labels,
    /// and [`MetricError::NotFinite`] with the place of a value that is NaN or infinite.
    pub fn new(predictions: &[f64], labels: &[f64]) -> Result<Self, MetricError> {
        check(predictions, labels)?;
        let pairs = || predictions.iter().copied().zip(labels.iter().copied());
        let errors: Vec<f64> = pairs().map(|(p, l)| (p - l).abs()).collect();
        let squares: Vec<f64> = errors.iter().map(|error| error * error).collect();
        let same_integer = |bound: f64| {
            share(pairs().map(|(prediction, label)| {
                let integer = |value: f64| value.clamp(-bound, bound).round_ties_even();
                integer(prediction) == integer(label)
            }))
        };
        let classes = |(prediction, label): (f64, f64)| {
            (usize::from(prediction >= 0.0), usize::from(label >= 0.0))
        };
        let non0: Vec<(usize, usize)> = pairs()
            .filter(|(_, label)| *label != 0.0)
            .map(|(prediction, label)| (usize::from(prediction > 0.0), usize::from(label > 0.0)))
            .collect();
        let has0: Vec<(usize, usize)> = pairs().map(classes).collect();
        Ok(Self {
            n_items: labels.len(),
            mae: mean(&errors),
            mse: mean(&squares),
            correlation: correlation(predictions, labels),
            accuracy_7: same_integer(3.0),
            accuracy_5: same_integer(2.0),
            accuracy_3: same_integer(1.0),
            has0: ClassMetrics::of(&has0),
            n_non0: non0.len(),
            non0: (!non0.is_empty()).then(|| ClassMetrics::of(&non0)),
        })
    }

    /// By the names that runs use: `mae`, `mse`, `corr`, `acc7`, `acc5`, `acc3`, and
    /// `acc2_`, `f1_` and `f1_swapped_` with `has0` and `non0`. What is not defined is left out.
    #[must_use]
    pub fn named(&self) -> BTreeMap<String, f64> {
        let mut metrics: BTreeMap<String, f64> = [
            ("mae", self.mae),
            ("mse", self.mse),
            ("acc7", self.accuracy_7),
            ("acc5", self.accuracy_5),
            ("acc3", self.accuracy_3),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        metrics.extend(self.correlation.map(|value| ("corr".to_owned(), value)));
        for (convention, classes) in [("has0", Some(self.has0)), ("non0", self.non0)] {
            let Some(classes) = classes else { continue };
            metrics.insert(format!("acc2_{convention}"), classes.accuracy);
            metrics.insert(format!("f1_{convention}"), classes.f1);
            metrics.insert(format!("f1_swapped_{convention}"), classes.f1_swapped);
        }
        metrics
    }
}

/// Metrics of predicted classes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassMetrics {
    /// Share of items of the right class.
    pub accuracy: f64,
    /// F1 of each class, weighted by the frequency of its label.
    pub f1: f64,
    /// The same with the arguments exchanged: weighted by the frequency of its prediction.
    pub f1_swapped: f64,
}

impl ClassMetrics {
    /// From pairs of a prediction and a label, at least one.
    fn of(pairs: &[(usize, usize)]) -> Self {
        Self {
            accuracy: share(pairs.iter().map(|(prediction, label)| prediction == label)),
            f1: weighted_f1(pairs.iter().copied()),
            f1_swapped: weighted_f1(pairs.iter().map(|&(prediction, label)| (label, prediction))),
        }
    }
}

/// Metrics of sentiments predicted as one of three classes: 0 negative, 1 neutral, 2 positive.
///
/// # References
///
/// - Reference code: `thuiar/MMSA` `utils/metricsTop.py`, the classification branch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SentimentClassMetrics {
    /// Number of items.
    pub n_items: usize,
    /// All three classes.
    pub three: ClassMetrics,
    /// Positive against all others by the larger of the outer two logits, all items.
    pub has0: ClassMetrics,
    /// Number of items that are not neutral.
    pub n_non0: usize,
    /// Positive against negative by the larger of the outer two logits, those items alone.
    pub non0: Option<ClassMetrics>,
    /// What the reference code gives instead: it compares labels 0 and 2 with predictions 0 and
    /// 1, so that no positive item is ever right.
    pub non0_as_released: Option<ClassMetrics>,
}

impl SentimentClassMetrics {
    /// Compares logits with labels. Of equal logits the first wins, as in numpy.
    ///
    /// - logits: `[items, 3]`; labels: `[items]`, 0 to 2
    ///
    /// # Errors
    ///
    /// [`MetricError::NoPredictions`], [`MetricError::Lengths`], [`MetricError::NotFinite`] with
    /// the place of a logit in row-major order, and [`MetricError::NoSuchClass`].
    ///
    /// # Panics
    ///
    /// Panics if the logits do not have three columns.
    pub fn new(logits: ArrayView2<'_, f64>, labels: &[usize]) -> Result<Self, MetricError> {
        assert_eq!(logits.ncols(), 3, "logits of three classes");
        if labels.is_empty() && logits.nrows() == 0 {
            return Err(MetricError::NoPredictions);
        }
        if logits.nrows() != labels.len() {
            return Err(MetricError::Lengths {
                predictions: logits.nrows(),
                labels: labels.len(),
            });
        }
        if let Some((index, value)) = logits
            .iter()
            .enumerate()
            .find(|(_, logit)| !logit.is_finite())
        {
            return Err(not_finite("logit", index, *value));
        }
        if let Some((index, &class)) = labels.iter().enumerate().find(|(_, class)| **class > 2) {
            return Err(MetricError::NoSuchClass {
                index,
                class,
                last: 2,
            });
        }
        let rows = || logits.rows().into_iter().zip(labels.iter().copied());
        let three: Vec<(usize, usize)> = rows()
            .map(|(row, label)| {
                let best = if row[0] >= row[1] && row[0] >= row[2] {
                    0
                } else if row[1] >= row[2] {
                    1
                } else {
                    2
                };
                (best, label)
            })
            .collect();
        // Whether the prediction is positive, and the label.
        let outer: Vec<(usize, usize)> = rows()
            .map(|(row, label)| (usize::from(row[2] > row[0]), label))
            .collect();
        let has0: Vec<(usize, usize)> = outer
            .iter()
            .map(|&(positive, label)| (positive, usize::from(label > 1)))
            .collect();
        let released: Vec<(usize, usize)> = outer
            .iter()
            .copied()
            .filter(|(_, label)| *label != 1)
            .collect();
        let non0: Vec<(usize, usize)> = released
            .iter()
            .map(|&(positive, label)| (positive, label / 2))
            .collect();
        Ok(Self {
            n_items: labels.len(),
            three: ClassMetrics::of(&three),
            has0: ClassMetrics::of(&has0),
            n_non0: non0.len(),
            non0: (!non0.is_empty()).then(|| ClassMetrics::of(&non0)),
            non0_as_released: (!released.is_empty()).then(|| ClassMetrics::of(&released)),
        })
    }
}

fn check(predictions: &[f64], labels: &[f64]) -> Result<(), MetricError> {
    if predictions.is_empty() && labels.is_empty() {
        return Err(MetricError::NoPredictions);
    }
    if predictions.len() != labels.len() {
        return Err(MetricError::Lengths {
            predictions: predictions.len(),
            labels: labels.len(),
        });
    }
    for (what, values) in [("prediction", predictions), ("label", labels)] {
        if let Some((index, value)) = values
            .iter()
            .enumerate()
            .find(|(_, value)| !value.is_finite())
        {
            return Err(not_finite(what, index, *value));
        }
    }
    Ok(())
}

fn not_finite(what: &'static str, index: usize, value: f64) -> MetricError {
    MetricError::NotFinite {
        what,
        index,
        value: value.to_string(),
    }
}

/// The share of what is true, of at least one.
fn share(are_true: impl ExactSizeIterator<Item = bool>) -> f64 {
    let n_items = are_true.len();
    are_true.filter(|is_true| *is_true).count() as f64 / n_items as f64
}

/// F1 of each class that occurs on either side, weighted by the frequency of its label. A class
/// that is never predicted rightly has F1 0.
///
/// The pairs are predictions and labels.
fn weighted_f1(pairs: impl Iterator<Item = (usize, usize)>) -> f64 {
    // By class: right predictions, predictions, labels.
    let mut classes: BTreeMap<usize, [usize; 3]> = BTreeMap::new();
    let mut n_items = 0;
    for (prediction, label) in pairs {
        n_items += 1;
        classes.entry(prediction).or_default()[1] += 1;
        let of_label = classes.entry(label).or_default();
        of_label[2] += 1;
        of_label[0] += usize::from(prediction == label);
    }
    classes
        .values()
        .map(|&[right, predicted, labeled]| {
            let f1 = 2.0 * right as f64 / (predicted + labeled) as f64;
            labeled as f64 * f1
        })
        .sum::<f64>()
        / n_items as f64
}

/// Pearson's correlation; `None` if one side is constant.
fn correlation(x: &[f64], y: &[f64]) -> Option<f64> {
    let is_constant = |values: &[f64]| values.iter().all(|value| *value == values[0]);
    if is_constant(x) || is_constant(y) {
        return None;
    }
    let (x, y) = (centered(x), centered(y));
    let product = |a: &[f64], b: &[f64]| {
        let products: Vec<f64> = a.iter().zip(b).map(|(a, b)| a * b).collect();
        pairwise_sum(&products)
    };
    let norms = product(&x, &x).sqrt() * product(&y, &y).sqrt();
    // Squares of differences near the smallest numbers vanish.
    (norms > 0.0).then(|| (product(&x, &y) / norms).clamp(-1.0, 1.0))
}

fn centered(values: &[f64]) -> Vec<f64> {
    let mean = mean(values);
    values.iter().map(|value| value - mean).collect()
}

fn mean(values: &[f64]) -> f64 {
    pairwise_sum(values) / values.len() as f64
}

/// Values that are summed in one go; a multiple of the lanes.
const BLOCK: usize = 128;

/// Partial sums that are carried along.
const LANES: usize = 8;

/// The sum in the order in which numpy adds; its error grows with the logarithm of the length.
fn pairwise_sum(values: &[f64]) -> f64 {
    if values.len() < LANES {
        return values.iter().sum();
    }
    if values.len() > BLOCK {
        let half = values.len() / 2;
        let (first, second) = values.split_at(half - half % LANES);
        return pairwise_sum(first) + pairwise_sum(second);
    }
    let mut sums = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let of_chunks = ((a + b) + (c + d)) + ((e + f) + (g + h));
    rest.iter().fold(of_chunks, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::*;

    #[test]
    fn both_conventions_are_told_apart() {
        // The second prediction is 0 and its label positive; the third label is 0.
        let metrics =
            SentimentMetrics::new(&[1.0, 0.0, -0.5, -2.0], &[2.0, 1.0, 0.0, -1.0]).unwrap();
        assert_eq!(metrics.has0.accuracy, 0.75);
        assert_eq!(metrics.n_non0, 3);
        let non0 = metrics.non0.unwrap();
        assert!((non0.accuracy - 2.0 / 3.0).abs() < 1e-15);
        // Negative: 1 right, 2 predicted, 1 labeled: F1 2/3. Positive: 1, 1, 2: F1 2/3.
        assert!((non0.f1 - 2.0 / 3.0).abs() < 1e-15);
        assert!((metrics.mae - 0.875).abs() < 1e-15);
        let named = metrics.named();
        assert_eq!(named["acc2_non0"], non0.accuracy);
        assert_eq!(named.len(), 12);
    }

    #[test]
    fn halves_round_to_even_and_values_are_clipped() {
        let metrics = SentimentMetrics::new(&[0.5, 1.5, 9.0], &[0.0, 2.0, 3.0]).unwrap();
        assert_eq!(metrics.accuracy_7, 1.0);
        let metrics = SentimentMetrics::new(&[2.5], &[3.0]).unwrap();
        assert_eq!((metrics.accuracy_7, metrics.accuracy_5), (0.0, 1.0));
    }

    #[test]
    fn the_weights_are_those_of_the_first_argument() {
        // One of three labels is positive, all predictions are.
        let metrics = SentimentMetrics::new(&[1.0, 1.0, 1.0], &[1.0, -1.0, -1.0]).unwrap();
        let f1_of_positive = 0.5;
        assert!((metrics.has0.f1 - f1_of_positive / 3.0).abs() < 1e-15);
        assert!((metrics.has0.f1_swapped - f1_of_positive).abs() < 1e-15);
    }

    #[test]
    fn what_is_not_defined_is_none() {
        let metrics = SentimentMetrics::new(&[1.0, 1.0], &[0.0, 0.0]).unwrap();
        assert_eq!((metrics.correlation, metrics.non0), (None, None));
        assert!(!metrics.named().contains_key("corr"));
        assert!(!metrics.named().contains_key("acc2_non0"));
    }

    #[test]
    fn correlation_ignores_scale_and_offset() {
        let x = [0.1, 0.4, -0.2, 0.9];
        let y: Vec<f64> = x.iter().map(|value| 1e6 - 3.0 * value).collect();
        let metrics = SentimentMetrics::new(&x, &y).unwrap();
        assert!((metrics.correlation.unwrap() + 1.0).abs() < 1e-9);
    }

    #[test]
    fn bad_inputs_are_named_with_their_place() {
        let error = |predictions: &[f64], labels: &[f64]| {
            SentimentMetrics::new(predictions, labels)
                .unwrap_err()
                .to_string()
        };
        assert!(error(&[], &[]).contains("no predictions"));
        assert!(error(&[1.0], &[1.0, 2.0]).starts_with("1 predictions and 2 labels"));
        assert!(error(&[0.0, f64::NAN], &[0.0, 0.0]).starts_with("prediction 1 "));
        assert!(error(&[0.0], &[f64::INFINITY]).starts_with("label 0 "));
    }

    #[test]
    fn three_classes_have_a_released_form_that_is_never_right_about_positives() {
        let logits = arr2(&[
            [3.0, 1.0, 0.0],
            [0.0, 2.0, 1.0],
            [0.0, 1.0, 2.0],
            [1.0, 0.0, 2.0],
        ]);
        let metrics = SentimentClassMetrics::new(logits.view(), &[0, 1, 2, 0]).unwrap();
        assert_eq!(metrics.three.accuracy, 0.75);
        assert_eq!(metrics.has0.accuracy, 0.5);
        assert_eq!(metrics.n_non0, 3);
        assert!((metrics.non0.unwrap().accuracy - 2.0 / 3.0).abs() < 1e-15);
        assert!((metrics.non0_as_released.unwrap().accuracy - 1.0 / 3.0).abs() < 1e-15);
        let error = SentimentClassMetrics::new(logits.view(), &[0, 3, 2, 0]).unwrap_err();
        assert_eq!(
            error,
            MetricError::NoSuchClass {
                index: 1,
                class: 3,
                last: 2
            }
        );
        assert!(SentimentClassMetrics::new(logits.view(), &[0]).is_err());
    }

    #[test]
    fn pairwise_sums_are_sums() {
        for len in [0, 1, 7, 8, 9, 128, 129, 1000] {
            let values: Vec<f64> = (0..len).map(f64::from).collect();
            let expected = f64::from(len) * (f64::from(len) - 1.0) / 2.0;
            assert_eq!(pairwise_sum(&values), expected);
        }
    }
}
