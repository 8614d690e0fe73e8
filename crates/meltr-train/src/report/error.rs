//! What can go wrong when a report is made.

/// A report could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The drawing library refused a plot.
    #[error("the plot of `{plot}` could not be drawn: {message}")]
    Plot {
        /// Label of the vertical axis of the plot.
        plot: String,
        /// What the drawing library said.
        message: String,
    },
    /// The page template could not be parsed or filled.
    #[error("the page template could not be rendered")]
    Template {
        /// What the template engine said.
        #[from]
        source: minijinja::Error,
    },
}
