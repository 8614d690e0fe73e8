//! Errors of weights that cannot be computed.

use thiserror::Error;

/// Weights could not be computed from what was handed in.
///
/// Tasks are counted from 0.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum WeightingError {
    /// No loss was given.
    #[error("there are no task losses; give at least one")]
    NoTasks,
    /// Two numbers of tasks differ.
    #[error("{what}: {found} given, {expected} expected, one a task")]
    TaskCount {
        /// What is counted.
        what: &'static str,
        /// How many there have to be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A loss is infinite or not a number.
    #[error("loss {task} is {loss}; every loss has to be finite")]
    NonFiniteLoss {
        /// Number of the task.
        task: usize,
        /// Its loss.
        loss: f64,
    },
    /// A loss is outside of what the rule is defined for.
    #[error("`{method}` is defined for losses in {range}, and loss {task} is {loss}")]
    LossOutOfRange {
        /// Name of the rule.
        method: &'static str,
        /// Number of the task.
        task: usize,
        /// Its loss, or its average loss.
        loss: f64,
        /// The admissible interval.
        range: &'static str,
    },
    /// A rule that works on gradients was not given their inner products.
    #[error("`{method}` needs the Gramian of the task gradients; compute it for this step")]
    MissingGramian {
        /// Name of the rule.
        method: &'static str,
    },
    /// The gradients of two tasks are not of the same length.
    #[error("the gradient of task {task} has {found} entries, that of task 0 has {expected}")]
    GradientLength {
        /// Number of the task.
        task: usize,
        /// Length of the first gradient.
        expected: usize,
        /// Length of this gradient.
        found: usize,
    },
    /// A Gramian is not square.
    #[error(
        "{found} inner products given for {n_tasks} tasks; give those of all pairs, row after row"
    )]
    ProductCount {
        /// Number of tasks.
        n_tasks: usize,
        /// How many inner products there are.
        found: usize,
    },
    /// The inner product of two gradients is infinite or not a number.
    #[error(
        "the inner product of the gradients of tasks {row} and {column} is {product}; \
         every gradient has to be finite"
    )]
    NonFiniteProduct {
        /// Number of one task.
        row: usize,
        /// Number of the other task.
        column: usize,
        /// Their inner product.
        product: f64,
    },
    /// Numbers that are not the inner products of any gradients.
    #[error("entry ({row}, {column}) = {product} is not an inner product of gradients: {reason}")]
    NotAGramian {
        /// Row of the entry.
        row: usize,
        /// Column of the entry.
        column: usize,
        /// The entry.
        product: f64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Losses after a step were handed in before any weights of it were asked for.
    #[error(
        "`{method}` observes the losses after a step whose weights it gave; ask for them first"
    )]
    ObservedTooEarly {
        /// Name of the rule.
        method: &'static str,
    },
    /// The problem behind the weights was not solved to its accuracy.
    #[error(
        "`{method}` was not solved: its optimality conditions are violated by {violation:e}, \
         relative to their terms; compute the Gramian in double precision"
    )]
    NotSolved {
        /// Name of the rule.
        method: &'static str,
        /// Largest relative violation.
        violation: f64,
    },
    /// A weight overflowed.
    #[error(
        "`{method}` gives task {task} the weight {weight}; its loss or gradient is too extreme"
    )]
    NonFiniteWeight {
        /// Name of the rule.
        method: &'static str,
        /// Number of the task.
        task: usize,
        /// The weight.
        weight: f64,
    },
}
