//! BLEU, ROUGE-L and CIDEr of a corpus of captions.

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::prelude::*;

use super::bleu::BleuCounts;
use super::cider::cider;
use super::error::MetricError;
use super::ptb_tokenizer::PtbTokenizer;
use super::rouge::rouge_l;
use super::tokens::{TokenNumbers, Tokens};

/// A caption and what people say of the same thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptionItem {
    /// Name of the item, for messages.
    pub id: String,
    /// The caption to be scored.
    pub hypothesis: String,
    /// At least one; they are alternatives.
    pub references: Vec<String>,
}

impl CaptionItem {
    /// Items from hypotheses and references by id, in the order of the references.
    ///
    /// # Errors
    ///
    /// [`MetricError::RepeatedItem`] if an id is twice on one side, and
    /// [`MetricError::MissingHypothesis`] or [`MetricError::MissingReferences`] if it is not on
    /// both.
    pub fn pair(
        hypotheses: Vec<(String, String)>,
        references: Vec<(String, Vec<String>)>,
    ) -> Result<Vec<Self>, MetricError> {
        let mut by_id: HashMap<String, String> = HashMap::with_capacity(hypotheses.len());
        let mut order: Vec<String> = Vec::with_capacity(hypotheses.len());
        for (id, hypothesis) in hypotheses {
            if by_id.insert(id.clone(), hypothesis).is_some() {
                return Err(MetricError::RepeatedItem { id });
            }
            order.push(id);
        }
        let mut seen: HashSet<String> = HashSet::with_capacity(references.len());
        let mut missing: Vec<String> = Vec::new();
        let mut items = Vec::with_capacity(references.len());
        for (id, references) in references {
            if !seen.insert(id.clone()) {
                return Err(MetricError::RepeatedItem { id });
            }
            match by_id.remove(&id) {
                Some(hypothesis) => items.push(Self {
                    id,
                    hypothesis,
                    references,
                }),
                None => missing.push(id),
            }
        }
        if let Some(id) = missing.first() {
            return Err(MetricError::MissingHypothesis {
                id: id.clone(),
                n_others: missing.len() - 1,
            });
        }
        match order.into_iter().find(|id| by_id.contains_key(id)) {
            Some(id) => Err(MetricError::MissingReferences {
                id,
                n_others: by_id.len() - 1,
            }),
            None => Ok(items),
        }
    }
}

/// How captions become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tokenization {
    /// Split at white space, as UniVL and MELTR do; case and punctuation count.
    #[default]
    Whitespace,
    /// As COCO's evaluation does, by the [`PtbTokenizer`].
    Ptb,
}

/// A score of a corpus, and that of each item.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored<T> {
    /// The score of the corpus; for some metrics not the mean of the items.
    pub corpus: T,
    /// In the order of the items.
    pub items: Vec<T>,
}

impl Scored<f64> {
    /// A corpus whose score is the mean.
    fn mean_of(items: Vec<f64>) -> Self {
        Self {
            corpus: items.iter().sum::<f64>() / items.len() as f64,
            items,
        }
    }
}

/// The metrics of a corpus or of one of its items.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CaptionMetrics {
    /// BLEU-1 to BLEU-4, in `[0, 1]`.
    pub bleu: [f64; 4],
    /// METEOR, in `[0, 1]`, if it was computed.
    pub meteor: Option<f64>,
    /// ROUGE-L, in `[0, 1]`.
    pub rouge_l: f64,
    /// CIDEr, in `[0, 10]`.
    pub cider: f64,
}

impl CaptionMetrics {
    /// By the names that runs use: `bleu_1` to `bleu_4`, `meteor`, `rouge_l`, `cider`.
    #[must_use]
    pub fn named(&self) -> BTreeMap<String, f64> {
        let mut metrics: BTreeMap<String, f64> = self
            .bleu
            .iter()
            .enumerate()
            .map(|(order, score)| (format!("bleu_{}", order + 1), *score))
            .collect();
        metrics.extend(self.meteor.map(|meteor| ("meteor".to_owned(), meteor)));
        metrics.insert("rouge_l".to_owned(), self.rouge_l);
        metrics.insert("cider".to_owned(), self.cider);
        metrics
    }

    /// By pycocoevalcap's names, in its order; METEOR under the name given, which says whether
    /// all of its modules were used.
    #[must_use]
    pub fn coco_named(&self, meteor: &'static str) -> Vec<(&'static str, f64)> {
        let names = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"];
        let mut metrics: Vec<(&'static str, f64)> = names.into_iter().zip(self.bleu).collect();
        metrics.extend(self.meteor.map(|score| (meteor, score)));
        metrics.push(("ROUGE_L", self.rouge_l));
        metrics.push(("CIDEr", self.cider));
        metrics
    }
}

/// The metrics of a corpus and of each item.
#[derive(Debug, Clone, PartialEq)]
pub struct CaptionScores {
    /// Of all items together.
    pub corpus: CaptionMetrics,
    /// In the order of the items.
    pub items: Vec<CaptionMetrics>,
}

impl CaptionScores {
    /// Adds METEOR, which [`CaptionCorpus::segments`] helps to compute.
    ///
    /// # Panics
    ///
    /// Panics if there is not one score per item.
    #[must_use]
    pub fn with_meteor(mut self, meteor: &Scored<f64>) -> Self {
        assert_eq!(meteor.items.len(), self.items.len(), "one score per item");
        self.corpus.meteor = Some(meteor.corpus);
        for (item, score) in self.items.iter_mut().zip(&meteor.items) {
            item.meteor = Some(*score);
        }
        self
    }
}

/// Captions with their references, checked and in tokens: what the metrics are computed from.
///
/// The rarity of n-grams in CIDEr is that of this corpus, so that an item's score depends on the
/// others. Every metric shares the items among the threads of rayon's pool.
///
/// ```
/// use meltr_tasks::metric::{CaptionCorpus, CaptionItem, Tokenization};
///
/// # fn main() -> Result<(), meltr_tasks::metric::MetricError> {
/// let item = |hypothesis: &str, reference: &str| CaptionItem {
///     id: hypothesis.to_owned(),
///     hypothesis: hypothesis.to_owned(),
///     references: vec![reference.to_owned()],
/// };
/// let items = [item("a dog barks", "a dog runs"), item("two cats", "two cats sleep")];
/// let corpus = CaptionCorpus::new(&items, Tokenization::Whitespace)?;
/// // Four of five words are right, and the hypotheses are one word short of six.
/// let expected = 4.0 / 5.0 * f64::exp(1.0 - 6.0 / 5.0);
/// assert!((corpus.bleu().corpus[0] - expected).abs() < 1e-8);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CaptionCorpus {
    texts: Vec<Texts>,
    /// Tokens between stretches of white space.
    words: Vec<Tokens>,
    /// Tokens between single blanks, some of them empty: what ROUGE-L compares.
    pieces: Vec<Tokens>,
}

/// The texts of one item, tokens joined by blanks.
#[derive(Debug, Clone)]
struct Texts {
    hypothesis: String,
    references: Vec<String>,
}

impl CaptionCorpus {
    /// Checks and tokenizes captions. White space around a caption does not count.
    ///
    /// # Errors
    ///
    /// [`MetricError::NoCaptions`] if there is no item, and [`MetricError::NoReferences`] if one
    /// has no reference. An empty hypothesis is allowed and scores 0.
    pub fn new(items: &[CaptionItem], tokenization: Tokenization) -> Result<Self, MetricError> {
        if items.is_empty() {
            return Err(MetricError::NoCaptions);
        }
        if let Some(item) = items.iter().find(|item| item.references.is_empty()) {
            return Err(MetricError::NoReferences {
                id: item.id.clone(),
            });
        }
        let texts = match tokenization {
            Tokenization::Whitespace => items
                .iter()
                .map(|item| Texts {
                    hypothesis: item.hypothesis.trim_matches(is_blank).to_owned(),
                    references: item
                        .references
                        .iter()
                        .map(|reference| reference.trim_matches(is_blank).to_owned())
                        .collect(),
                })
                .collect(),
            Tokenization::Ptb => ptb_texts(items),
        };
        let (words, pieces) = numbered(&texts);
        Ok(Self {
            texts,
            words,
            pieces,
        })
    }

    /// BLEU-1 to BLEU-4 with the closest reference length; the corpus is scored by its summed
    /// counts.
    #[must_use]
    pub fn bleu(&self) -> Scored<[f64; 4]> {
        let counts: Vec<BleuCounts> = self.words.par_iter().map(BleuCounts::of).collect();
        let total: BleuCounts = counts.iter().sum();
        Scored {
            corpus: total.scores(),
            items: counts.iter().map(BleuCounts::scores).collect(),
        }
    }

    /// ROUGE-L with β = 1.2; the corpus has the mean of the items.
    #[must_use]
    pub fn rouge_l(&self) -> Scored<f64> {
        Scored::mean_of(self.pieces.par_iter().map(rouge_l).collect())
    }

    /// CIDEr; the corpus has the mean of the items.
    #[must_use]
    pub fn cider(&self) -> Scored<f64> {
        Scored::mean_of(cider(&self.words))
    }

    /// All of them.
    #[must_use]
    pub fn scores(&self) -> CaptionScores {
        let (bleu, rouge_l, cider) = (self.bleu(), self.rouge_l(), self.cider());
        let metrics = |bleu, rouge_l, cider| CaptionMetrics {
            bleu,
            meteor: None,
            rouge_l,
            cider,
        };
        CaptionScores {
            corpus: metrics(bleu.corpus, rouge_l.corpus, cider.corpus),
            items: bleu
                .items
                .into_iter()
                .zip(rouge_l.items)
                .zip(cider.items)
                .map(|((bleu, rouge_l), cider)| metrics(bleu, rouge_l, cider))
                .collect(),
        }
    }

    /// Whatever `score` makes of each item's hypothesis and references, in parallel: for METEOR,
    /// which has a tokenizer of its own.
    ///
    /// The texts are those that pycocoevalcap gives to METEOR: `|||` parts a reference in two, and
    /// is taken out of a hypothesis, as are second blanks.
    pub fn segments<S: Send>(&self, score: impl Fn(&str, &[&str]) -> S + Sync) -> Vec<S> {
        self.texts
            .par_iter()
            .map(|texts| {
                let hypothesis = texts.hypothesis.replace("|||", "").replace("  ", " ");
                let references: Vec<&str> = texts
                    .references
                    .iter()
                    .flat_map(|reference| reference.split("|||"))
                    .collect();
                score(&hypothesis, &references)
            })
            .collect()
    }
}

/// BLEU, ROUGE-L and CIDEr of captions, over all and of each.
///
/// # Errors
///
/// As [`CaptionCorpus::new`].
pub fn score_captions(
    items: &[CaptionItem],
    tokenization: Tokenization,
) -> Result<CaptionScores, MetricError> {
    Ok(CaptionCorpus::new(items, tokenization)?.scores())
}

/// References and hypotheses are two files to the original, each in the order of the items.
fn ptb_texts(items: &[CaptionItem]) -> Vec<Texts> {
    let tokenizer = PtbTokenizer::new();
    let references: Vec<&str> = items
        .iter()
        .flat_map(|item| item.references.iter().map(String::as_str))
        .collect();
    let hypotheses: Vec<&str> = items.iter().map(|item| item.hypothesis.as_str()).collect();
    let mut references = tokenizer.tokenize_lines(&references).into_iter();
    let hypotheses = tokenizer.tokenize_lines(&hypotheses);
    items
        .iter()
        .zip(hypotheses)
        .map(|(item, hypothesis)| Texts {
            hypothesis,
            references: references.by_ref().take(item.references.len()).collect(),
        })
        .collect()
}

/// Words and pieces of all texts.
fn numbered(texts: &[Texts]) -> (Vec<Tokens>, Vec<Tokens>) {
    let mut numbers = TokenNumbers::default();
    texts
        .iter()
        .map(|texts| {
            let words = tokens_of(texts, |text| {
                numbers.of(text.split(is_blank).filter(|word| !word.is_empty()))
            });
            let pieces = tokens_of(texts, |text| numbers.of(text.split(' ')));
            (words, pieces)
        })
        .unzip()
}

fn tokens_of<'t>(texts: &'t Texts, mut numbers: impl FnMut(&'t str) -> Vec<u32>) -> Tokens {
    Tokens {
        hypothesis: numbers(&texts.hypothesis),
        references: texts.references.iter().map(|text| numbers(text)).collect(),
    }
}

/// White space to Python, which has four separators more than Unicode.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, hypothesis: &str, references: &[&str]) -> CaptionItem {
        CaptionItem {
            id: id.to_owned(),
            hypothesis: hypothesis.to_owned(),
            references: references
                .iter()
                .map(|reference| (*reference).to_owned())
                .collect(),
        }
    }

    fn texts(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(id, text)| ((*id).to_owned(), (*text).to_owned()))
            .collect()
    }

    fn references(list: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
        texts(list)
            .into_iter()
            .map(|(id, text)| (id, vec![text]))
            .collect()
    }

    #[test]
    fn items_are_paired_in_the_order_of_the_references() {
        let items = CaptionItem::pair(
            texts(&[("a", "one"), ("b", "two")]),
            references(&[("b", "zwei"), ("a", "eins")]),
        )
        .unwrap();
        assert_eq!(
            items,
            [item("b", "two", &["zwei"]), item("a", "one", &["eins"])]
        );
    }

    #[test]
    fn ids_that_are_missing_or_twice_are_named() {
        let pair = |hypotheses: &[(&str, &str)], of: &[(&str, &str)]| {
            CaptionItem::pair(texts(hypotheses), references(of)).unwrap_err()
        };
        assert_eq!(
            pair(&[("a", "")], &[("a", ""), ("c", ""), ("b", "")]),
            MetricError::MissingHypothesis {
                id: "c".to_owned(),
                n_others: 1
            }
        );
        assert_eq!(
            pair(&[("z", ""), ("y", ""), ("a", "")], &[("a", "")]),
            MetricError::MissingReferences {
                id: "z".to_owned(),
                n_others: 1
            }
        );
        let twice = MetricError::RepeatedItem { id: "a".to_owned() };
        assert_eq!(pair(&[("a", ""), ("a", "")], &[("a", "")]), twice);
        assert_eq!(pair(&[("a", "")], &[("a", ""), ("a", "")]), twice);
    }

    #[test]
    fn nothing_to_score_is_an_error() {
        assert_eq!(
            score_captions(&[], Tokenization::Whitespace),
            Err(MetricError::NoCaptions)
        );
        assert_eq!(
            score_captions(
                &[item("a", "x", &["x"]), item("b", "x", &[])],
                Tokenization::Ptb
            ),
            Err(MetricError::NoReferences { id: "b".to_owned() })
        );
    }

    #[test]
    fn blanks_count_for_rouge_alone() {
        let items = [
            item("a", " a man  walks ", &["a man walks"]),
            item("b", "x", &["y"]),
        ];
        let scores = score_captions(&items, Tokenization::Whitespace).unwrap();
        assert!((scores.items[0].bleu[0] - 1.0).abs() < 1e-9);
        // Three of the four pieces "a", "man", "", "walks".
        let (p, r) = (0.75, 1.0);
        let expected = 2.44 * p * r / (r + 1.44 * p);
        assert!((scores.items[0].rouge_l - expected).abs() < 1e-12);
        assert!((scores.corpus.rouge_l - expected / 2.0).abs() < 1e-12);
    }

    #[test]
    fn case_and_punctuation_count_unless_tokenized() {
        let items = [
            item("a", "A man, walking.", &["a man walking"]),
            item("b", "", &["nobody"]),
        ];
        let raw = score_captions(&items, Tokenization::Whitespace).unwrap();
        let ptb = score_captions(&items, Tokenization::Ptb).unwrap();
        assert!(raw.items[0].bleu[0] < 1e-6);
        assert!((ptb.items[0].bleu[0] - 1.0).abs() < 1e-9);
        assert_eq!(ptb.items[1].bleu, [0.0; 4]);
        assert_eq!((ptb.items[1].rouge_l, ptb.items[1].cider), (0.0, 0.0));
    }

    #[test]
    fn meteor_sees_the_texts_of_the_original() {
        let items = [item("a", "x |||  y", &["u ||| v", "w"])];
        let corpus = CaptionCorpus::new(&items, Tokenization::Whitespace).unwrap();
        let seen =
            corpus.segments(|hypothesis, references| (hypothesis.to_owned(), references.join(";")));
        assert_eq!(seen, [("x  y".to_owned(), "u ; v;w".to_owned())]);
        let meteor = Scored {
            corpus: 0.5,
            items: vec![0.25],
        };
        let scores = corpus.scores().with_meteor(&meteor);
        assert_eq!(scores.corpus.named()["meteor"], 0.5);
        let names: Vec<&str> = scores.items[0]
            .coco_named("METEOR")
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(
            names,
            [
                "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr"
            ]
        );
    }
}
