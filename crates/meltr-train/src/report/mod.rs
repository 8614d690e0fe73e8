//! The report of a set of runs: one HTML file that opens without a network, and a table in text.

mod assemble;
mod dots;
mod error;
mod groups;
mod interval;
mod metric;
mod page;
mod plot;
mod sections;
mod series;
mod svg;
mod table;
#[cfg(test)]
mod tests;

pub use assemble::{Report, RunData, RunSet, report_of_sets};
pub use error::ReportError;
pub use interval::mean_and_half_width;
pub use metric::{leading_metric, metric_text};
pub use table::{Comparison, ComparisonRow, ReferenceRow, mean_and_deviation};
