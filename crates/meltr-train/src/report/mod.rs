//! The report of a set of runs: one HTML file that opens without a network, and a table in text.

mod assemble;
mod error;
mod metric;
mod page;
mod plot;
mod series;
mod table;

pub use assemble::{Report, RunData};
pub use error::ReportError;
pub use metric::{leading_metric, metric_text};
pub use table::{Comparison, ComparisonRow, ReferenceRow, mean_and_deviation};
