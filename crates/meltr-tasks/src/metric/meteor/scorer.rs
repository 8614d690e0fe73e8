//! METEOR of captions.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::aligner::align;
use super::data::{MeteorData, SYNSETS, TABLE};
use super::error::MeteorError;
use super::matcher::matches;
use super::score::{MeteorModule, MeteorSegment, corpus_score_of, score_of, stats_of};
use super::words::WordCache;
use crate::metric::{CaptionCorpus, Scored};

/// METEOR 1.5 for English with the parameters of its task `rank`.
///
/// Words and phrases of a hypothesis are matched with those of a reference, a set of matches that
/// share no word is chosen, and precision and recall of the matched words, recall weighing more,
/// are combined and reduced by how fragmented the alignment is.
///
/// Gives what `meteor-1.5.jar -l en -norm` gives, to rounding: on the captions that it was compared
/// with, all 23 counts of every caption are equal.
///
/// ```no_run
/// use std::path::Path;
///
/// use meltr_tasks::metric::{Meteor, MeteorData};
///
/// # fn main() -> Result<(), meltr_tasks::metric::MeteorError> {
/// let meteor = Meteor::new(MeteorData::read(Path::new("pycocoevalcap/meteor"))?);
/// let segment = meteor.score("a man plays a guitar", &["a man is playing guitar", "music"]);
/// println!("{} {:.3}", meteor.name(), segment.score);
/// # Ok(())
/// # }
/// ```
///
/// # References
///
/// - Denkowski and Lavie, Meteor Universal: Language Specific Translation Evaluation for Any Target
///   Language, WMT 2014.
#[derive(Debug)]
pub struct Meteor {
    data: MeteorData,
    /// In the order of [`MeteorModule::ALL`].
    modules: Vec<MeteorModule>,
    /// Words that threads have met so far.
    caches: Mutex<Vec<WordCache>>,
}

impl Meteor {
    /// With every module that the data suffice for.
    #[must_use]
    pub fn new(data: MeteorData) -> Self {
        let modules = MeteorModule::ALL
            .into_iter()
            .filter(|module| lacks(&data, *module).is_none())
            .collect();
        Self::with_checked(data, modules)
    }

    /// With some modules, in whatever order they are given.
    ///
    /// # Errors
    ///
    /// [`MeteorError::MissingModule`] if the data do not suffice for a module, and
    /// [`MeteorError::NoExactModule`] if the module that METEOR always has is not asked for.
    pub fn with_modules(data: MeteorData, modules: &[MeteorModule]) -> Result<Self, MeteorError> {
        if !modules.contains(&MeteorModule::Exact) {
            return Err(MeteorError::NoExactModule);
        }
        for module in modules {
            if let Some(file) = lacks(&data, *module) {
                return Err(MeteorError::MissingModule {
                    module: *module,
                    file,
                });
            }
        }
        let mut modules = modules.to_vec();
        modules.sort_unstable();
        modules.dedup();
        Ok(Self::with_checked(data, modules))
    }

    fn with_checked(data: MeteorData, modules: Vec<MeteorModule>) -> Self {
        Self {
            data,
            modules,
            caches: Mutex::default(),
        }
    }

    /// The modules, in the order of [`MeteorModule::ALL`].
    #[must_use]
    pub fn modules(&self) -> &[MeteorModule] {
        &self.modules
    }

    /// `METEOR` with all modules, `METEOR-nopara` without paraphrases, and otherwise the names of
    /// the modules after `METEOR`: scores of different modules are not comparable.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let has = |module| self.modules.contains(&module);
        match (
            has(MeteorModule::Stem),
            has(MeteorModule::Synonym),
            has(MeteorModule::Paraphrase),
        ) {
            (true, true, true) => "METEOR",
            (true, true, false) => "METEOR-nopara",
            (true, false, true) => "METEOR-exact-stem-paraphrase",
            (true, false, false) => "METEOR-exact-stem",
            (false, true, true) => "METEOR-exact-synonym-paraphrase",
            (false, true, false) => "METEOR-exact-synonym",
            (false, false, true) => "METEOR-exact-paraphrase",
            (false, false, false) => "METEOR-exact",
        }
    }

    /// Scores a hypothesis against the reference that gives it the highest score.
    ///
    /// The texts are taken as they are and normalized. Without references, the score is 0.
    ///
    /// Costs some microseconds per reference of a dozen words; keeps every word that it meets.
    #[must_use]
    pub fn score<R: AsRef<str>>(&self, hypothesis: &str, references: &[R]) -> MeteorSegment {
        let mut cache = self.caches().pop().unwrap_or_default();
        let paraphrases = if self.modules.contains(&MeteorModule::Paraphrase) {
            self.data.paraphrases.as_ref()
        } else {
            None
        };
        let hypothesis = cache.text(hypothesis, &self.data, paraphrases);
        let mut best: Option<MeteorSegment> = None;
        for (index, reference) in references.iter().enumerate() {
            let reference = cache.text(reference.as_ref(), &self.data, paraphrases);
            let found = matches(&hypothesis, &reference, &self.modules);
            let alignment = align(hypothesis.len(), reference.len(), found);
            let stats = stats_of(&hypothesis, &reference, &alignment);
            let score = score_of(&stats);
            if best.is_none_or(|best| score > best.score) {
                best = Some(MeteorSegment {
                    score,
                    stats,
                    reference: index,
                });
            }
        }
        let best = best.unwrap_or_else(|| {
            let nothing = cache.text("", &self.data, paraphrases);
            let stats = stats_of(&hypothesis, &nothing, &[]);
            MeteorSegment {
                score: score_of(&stats),
                stats,
                reference: 0,
            }
        });
        self.caches().push(cache);
        best
    }

    /// Scores every hypothesis against its references, by all threads of rayon's pool.
    ///
    /// # Errors
    ///
    /// [`MeteorError::ItemCounts`] if there is not one list of references per hypothesis, and
    /// [`MeteorError::NoReferences`] if one is empty.
    pub fn score_all<H, R>(
        &self,
        hypotheses: &[H],
        references: &[Vec<R>],
    ) -> Result<Vec<MeteorSegment>, MeteorError>
    where
        H: AsRef<str> + Sync,
        R: AsRef<str> + Sync,
    {
        if hypotheses.len() != references.len() {
            return Err(MeteorError::ItemCounts {
                hypotheses: hypotheses.len(),
                references: references.len(),
            });
        }
        if let Some(item) = references.iter().position(Vec::is_empty) {
            return Err(MeteorError::NoReferences { item });
        }
        Ok(hypotheses
            .par_iter()
            .zip(references)
            .map(|(hypothesis, references)| self.score(hypothesis.as_ref(), references))
            .collect())
    }

    /// Scores the captions of a corpus as pycocoevalcap does, by all threads of rayon's pool.
    #[must_use]
    pub fn score_corpus(&self, corpus: &CaptionCorpus) -> Scored<f64> {
        let segments = corpus.segments(|hypothesis, references| self.score(hypothesis, references));
        Scored {
            corpus: Self::corpus(&segments),
            items: segments.iter().map(|segment| segment.score).collect(),
        }
    }

    /// The score of a corpus, by the summed counts of its segments: not the mean of their scores.
    ///
    /// In `[0, 1]`; 0 without segments.
    #[must_use]
    pub fn corpus(segments: &[MeteorSegment]) -> f64 {
        corpus_score_of(segments.iter().map(|segment| &segment.stats))
    }

    fn caches(&self) -> MutexGuard<'_, Vec<WordCache>> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file that a module needs and the data do not have.
fn lacks(data: &MeteorData, module: MeteorModule) -> Option<&'static str> {
    match module {
        MeteorModule::Synonym if data.synonyms.is_none() => Some(SYNSETS),
        MeteorModule::Paraphrase if data.paraphrases.is_none() => Some(TABLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::small_data;
    use super::*;
    use crate::metric::{CaptionItem, Tokenization};

    fn meteor() -> Meteor {
        Meteor::new(small_data())
    }

    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
    }

    #[test]
    fn a_score_is_that_of_the_best_reference_and_of_the_first_among_equals() {
        let meteor = meteor();
        let segment = meteor.score("a dog", &["no", "The Dog", "a dog.", "a DOG", "a dog"]);
        assert_eq!((segment.score, segment.reference), (1.0, 3));
        assert_eq!(segment.stats[..8], [2, 2, 1, 1, 1, 1, 1, 1]);
        assert_eq!(segment.stats[20..], [1, 2, 2]);
    }

    #[test]
    fn matches_weigh_what_their_module_weighs() {
        let meteor = meteor();
        assert_near(meteor.score("dogs", &["dog"]).score, 0.6);
        assert_near(meteor.score("car", &["automobile"]).score, 0.8);
        assert_near(meteor.score("many", &["lots of"]).score, 0.6);
        let segment = meteor.score("lots of dogs", &["many dogs"]);
        assert_eq!(segment.stats[..8], [3, 2, 0, 0, 1, 1, 0, 0]);
        assert_eq!(segment.stats[16..], [2, 1, 0, 0, 1, 3, 2]);
        // A phrase of three words counts less in the search than one equal word.
        let segment = meteor.score("in order to win", &["to win"]);
        assert_eq!(segment.stats[..8], [4, 2, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn a_hand_worked_sentence() {
        let segment = meteor().score("the dog", &["dog"]);
        // Precision 0.75 of 0.75 + 0.25, full recall, one chunk of a mean of 1 word.
        assert_near(segment.score, 0.4 / (0.15 / 0.75 + 0.85));
        let segment = meteor().score("", &["dog", "x y"]);
        assert_eq!((segment.score, segment.stats[1]), (0.0, 1));
        let nothing: [&str; 0] = [];
        let segment = meteor().score("a dog", &nothing);
        assert_eq!((segment.score, segment.stats[0]), (0.0, 2));
    }

    #[test]
    fn the_name_says_which_modules_were_used() {
        let data = small_data();
        assert_eq!(Meteor::new(data.clone()).name(), "METEOR");
        for (modules, name) in [
            (&MeteorModule::ALL[..3], "METEOR-nopara"),
            (&MeteorModule::ALL[..2], "METEOR-exact-stem"),
            (&MeteorModule::ALL[..1], "METEOR-exact"),
            (
                [MeteorModule::Paraphrase, MeteorModule::Exact].as_slice(),
                "METEOR-exact-paraphrase",
            ),
        ] {
            let meteor = Meteor::with_modules(data.clone(), modules).unwrap();
            assert_eq!(meteor.name(), name);
        }
        let mut fewer = data;
        fewer.paraphrases = None;
        assert_eq!(Meteor::new(fewer.clone()).name(), "METEOR-nopara");
        fewer.synonyms = None;
        assert_eq!(Meteor::new(fewer).name(), "METEOR-exact-stem");
    }

    #[test]
    fn a_module_without_data_is_an_error() {
        let mut data = small_data();
        data.synonyms = None;
        let error = Meteor::with_modules(data.clone(), &MeteorModule::ALL).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the module `synonym` needs `synonym/english.synsets`, which was not found; put it \
             there or leave the module out"
        );
        let error = Meteor::with_modules(data, &[MeteorModule::Stem]).unwrap_err();
        assert!(matches!(error, MeteorError::NoExactModule));
    }

    #[test]
    fn all_items_are_scored_as_each_alone() {
        let meteor = meteor();
        let hypotheses = ["a dog runs", "lots of cars", ""];
        let references = [
            vec!["the dog ran", "a dog"],
            vec!["many automobiles"],
            vec!["x"],
        ];
        let all = meteor.score_all(&hypotheses, &references).unwrap();
        for ((hypothesis, references), found) in hypotheses.iter().zip(&references).zip(&all) {
            assert_eq!(meteor.score(hypothesis, references), *found);
        }
        let error = meteor.score_all(&hypotheses[..2], &references).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("2 hypotheses but references of 3")
        );
        let error = meteor
            .score_all(&["a", "b"], &[vec!["a"], Vec::new()])
            .unwrap_err();
        assert!(matches!(error, MeteorError::NoReferences { item: 1 }));
    }

    #[test]
    fn a_corpus_of_captions_has_a_score_that_is_not_the_mean() {
        let item = |hypothesis: &str, references: &[&str]| CaptionItem {
            id: hypothesis.to_owned(),
            hypothesis: hypothesis.to_owned(),
            references: references.iter().map(|text| (*text).to_owned()).collect(),
        };
        let items = [
            item("a dog ||| runs", &["a dog runs"]),
            item("cat", &["dog ||| cat"]),
            item("x", &["dog", "y"]),
        ];
        let corpus = CaptionCorpus::new(&items, Tokenization::Whitespace).unwrap();
        let scores = meteor().score_corpus(&corpus);
        assert_eq!(scores.items, [1.0, 1.0, 0.0]);
        // The best of equal references is the first. Matched 0.75 * 3 + 0.25 of 0.75 * 4 + 0.25.
        assert_near(scores.corpus, 2.5 / 3.25);
    }
}
