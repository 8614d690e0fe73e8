//! Errors of configurations that cannot be built.

use thiserror::Error;

/// A configuration that parses but cannot be built.
///
/// The message names the key, what it holds and what would be admissible.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size is zero.
    #[error("`{key}` is 0; give it at least 1")]
    Zero {
        /// Configuration key.
        key: &'static str,
    },
    /// A width is not a multiple of the number of heads.
    #[error(
        "`{key}` is {width}, not a multiple of `{heads_key}` = {heads}; \
         every head needs the same width"
    )]
    HeadsDoNotDivide {
        /// Key of the width.
        key: &'static str,
        /// The width.
        width: usize,
        /// Key of the number of heads.
        heads_key: &'static str,
        /// The number of heads.
        heads: usize,
    },
    /// A size does not fit what it is used with.
    #[error("`{key}` is {value}, but {because} needs {needed}")]
    Mismatch {
        /// Configuration key.
        key: &'static str,
        /// The size given.
        value: usize,
        /// What it is used with.
        because: &'static str,
        /// The size that this needs.
        needed: usize,
    },
    /// A number is outside of its range.
    #[error("`{key}` is {value}; it has to be in {range}")]
    OutOfRange {
        /// Configuration key.
        key: &'static str,
        /// The value given.
        value: f64,
        /// The admissible interval, in words or as an interval.
        range: &'static str,
    },
    /// A choice that exists does not work here.
    #[error("`{key}` = `{value}` does not work here: {reason}")]
    Unsupported {
        /// Configuration key.
        key: &'static str,
        /// The choice.
        value: &'static str,
        /// Why, and what to take instead.
        reason: &'static str,
    },
    /// An index points behind the last task.
    #[error("`{key}` is {index}, but there are {n_tasks} tasks; count from 0")]
    NoSuchTask {
        /// Configuration key.
        key: &'static str,
        /// The index given.
        index: usize,
        /// Number of tasks.
        n_tasks: usize,
    },
    /// A name is not one of the known ones.
    #[error("`{key}` is `{value}`, which is not known; use one of: {known}")]
    UnknownName {
        /// Configuration key.
        key: &'static str,
        /// The name given.
        value: String,
        /// The known names, separated by commas.
        known: String,
    },
    /// A setting of a section cannot be used.
    #[error("[{section}] {error}")]
    Section {
        /// The section, such as `combiner.famo`.
        section: String,
        /// What is wrong in it.
        error: Box<ConfigError>,
    },
}

impl ConfigError {
    /// The error as one of `section`, such as `combiner.famo`.
    #[must_use]
    pub fn within(self, section: impl Into<String>) -> Self {
        Self::Section {
            section: section.into(),
            error: Box::new(self),
        }
    }

    /// `Err` if `value` is zero.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Zero`], naming `key`.
    pub fn require_nonzero(key: &'static str, value: usize) -> Result<(), Self> {
        if value == 0 {
            Err(Self::Zero { key })
        } else {
            Ok(())
        }
    }

    /// `Err` if `value` is outside of `[0, 1)`, as a dropout probability must not be.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`], naming `key`.
    pub fn require_probability(key: &'static str, value: f64) -> Result<(), Self> {
        if (0.0..1.0).contains(&value) {
            Ok(())
        } else {
            Err(Self::OutOfRange {
                key,
                value,
                range: "[0, 1)",
            })
        }
    }

    /// `Err` if `width` is not a positive multiple of `heads`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Zero`] or [`ConfigError::HeadsDoNotDivide`].
    pub fn require_heads(
        key: &'static str,
        width: usize,
        heads_key: &'static str,
        heads: usize,
    ) -> Result<(), Self> {
        Self::require_nonzero(key, width)?;
        Self::require_nonzero(heads_key, heads)?;
        if width.is_multiple_of(heads) {
            Ok(())
        } else {
            Err(Self::HeadsDoNotDivide {
                key,
                width,
                heads_key,
                heads,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_do_not_divide_are_named_with_both_keys() {
        let error = ConfigError::require_heads("d_model", 100, "n_heads", 12).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`d_model` is 100, not a multiple of `n_heads` = 12; every head needs the same width"
        );
    }

    #[test]
    fn a_section_stands_before_the_key() {
        let error = ConfigError::Zero { key: "steps" }.within("combiner.warm_start");
        assert_eq!(
            error.to_string(),
            "[combiner.warm_start] `steps` is 0; give it at least 1"
        );
    }

    #[test]
    fn a_dropout_of_one_is_refused() {
        assert!(ConfigError::require_probability("dropout", 1.0).is_err());
        assert!(ConfigError::require_probability("dropout", 0.0).is_ok());
    }
}
