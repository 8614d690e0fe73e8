//! Why a metric is not defined.

use thiserror::Error;

/// Why a metric is not defined.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MetricError {
    /// A similarity is not a number.
    #[error(
        "similarity at row {row}, column {column} is NaN; the model diverged or was not loaded"
    )]
    NotANumber {
        /// Row (text), from 0.
        row: usize,
        /// Column (video), from 0.
        column: usize,
    },
    /// There is no query or nothing to rank.
    #[error(
        "similarity matrix of shape [{rows}, {columns}]; at least one row and column are needed"
    )]
    Empty {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
    /// The assignment of texts to videos does not fit the matrix.
    #[error(
        "text {row} belongs to video {video}, but the matrix has {columns} columns and {rows} rows"
    )]
    NoSuchVideo {
        /// Row, from 0.
        row: usize,
        /// The video named.
        video: usize,
        /// Columns of the matrix.
        columns: usize,
        /// Rows of the matrix.
        rows: usize,
    },
    /// The assignment has another number of texts than the matrix.
    #[error("{given} texts belong to a video, but the matrix has {rows} rows; give one per row")]
    TextCount {
        /// Texts that the assignment names.
        given: usize,
        /// Rows of the matrix.
        rows: usize,
    },
    /// A metric that compares with the diagonal was asked for another matrix.
    #[error(
        "similarity matrix of shape [{rows}, {columns}]; the released metric needs as many rows \
         as columns, text `i` belonging to video `i`"
    )]
    NotSquare {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
    /// No score of a right item equals itself under subtraction: all are infinite.
    #[error("every similarity on the diagonal is infinite; the released metric has no rank then")]
    NoFiniteRank,
    /// There is no caption to score.
    #[error("there are no captions to score; give at least one item")]
    NoCaptions,
    /// An item has no reference.
    #[error("item `{id}` has no reference caption; give it at least one, or leave the item out")]
    NoReferences {
        /// The item.
        id: String,
    },
    /// References without a hypothesis.
    #[error(
        "item `{id}`{} has references but no hypothesis; caption it, or take its references out",
        and_others(.n_others)
    )]
    MissingHypothesis {
        /// The first such item.
        id: String,
        /// How many more there are.
        n_others: usize,
    },
    /// A hypothesis without references.
    #[error(
        "item `{id}`{} has a hypothesis but no references; check that both files are of the same \
         set and split",
        and_others(.n_others)
    )]
    MissingReferences {
        /// The first such item.
        id: String,
        /// How many more there are.
        n_others: usize,
    },
    /// An item is there twice.
    #[error("item `{id}` is there twice; keep one of the two")]
    RepeatedItem {
        /// The item.
        id: String,
    },
    /// There is nothing to compare.
    #[error("there are no predictions; give at least one")]
    NoPredictions,
    /// Predictions and labels are not as many.
    #[error("{predictions} predictions and {labels} labels; give one prediction per label")]
    Lengths {
        /// Number of predictions.
        predictions: usize,
        /// Number of labels.
        labels: usize,
    },
    /// A value is infinite or NaN.
    #[error("{what} {index} (counted from 0) is {value}; only finite numbers can be scored")]
    NotFinite {
        /// `prediction`, `label` or `logit`.
        what: &'static str,
        /// Its place, from 0.
        index: usize,
        /// What it is.
        value: String,
    },
    /// A label is no class.
    #[error("label {index} (counted from 0) is class {class}; admissible are 0 to {last}")]
    NoSuchClass {
        /// Place of the label, from 0.
        index: usize,
        /// The class named.
        class: usize,
        /// The last class.
        last: usize,
    },
    /// All answers are outside the vocabulary and are left out.
    #[error(
        "none of the {n_items} answers is in the vocabulary, so that nothing is left to count; \
         check that it is the vocabulary of this set"
    )]
    NoKnownAnswer {
        /// Number of items.
        n_items: usize,
    },
}

fn and_others(n_others: &usize) -> String {
    match n_others {
        0 => String::new(),
        n_others => format!(" (and {n_others} more)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_where_and_what_to_do() {
        let missing = MetricError::MissingHypothesis {
            id: "video7".to_owned(),
            n_others: 2,
        };
        assert_eq!(
            missing.to_string(),
            "item `video7` (and 2 more) has references but no hypothesis; caption it, or take its \
             references out"
        );
        let alone = MetricError::MissingReferences {
            id: "a".to_owned(),
            n_others: 0,
        };
        assert!(alone.to_string().starts_with("item `a` has a hypothesis"));
        let infinite = MetricError::NotFinite {
            what: "label",
            index: 3,
            value: f64::INFINITY.to_string(),
        };
        assert!(
            infinite
                .to_string()
                .contains("label 3 (counted from 0) is inf")
        );
    }
}
