//! The sections of the page, one file each.

mod attention;
mod certificate;
mod comparison;
mod configuration;
mod cost;
mod curves;
mod metrics;
mod responses;
mod weights;

use super::assemble::Assembly;
use super::error::ReportError;
use super::page::Block;

/// A section, to be filled for one set of runs after the other.
pub(super) struct Kind {
    /// Anchor of the section.
    pub(super) id: &'static str,
    /// Heading of the section.
    pub(super) heading: &'static str,
    /// What it shows of a set of runs; nothing if they have no record of that kind.
    pub(super) blocks: fn(&Assembly<'_>) -> Result<Vec<Block>, ReportError>,
}

/// All sections, in the order of the page.
pub(super) const ALL: [Kind; 10] = [
    Kind {
        id: "comparison",
        heading: "Comparison",
        blocks: comparison::blocks,
    },
    Kind {
        id: "metrics",
        heading: "Metrics by split",
        blocks: metrics::blocks,
    },
    Kind {
        id: "curves",
        heading: "Learning curves",
        blocks: curves::learning_curves,
    },
    Kind {
        id: "weights",
        heading: "Weights and sensitivities",
        blocks: weights::blocks,
    },
    Kind {
        id: "response",
        heading: "Response of the learned loss",
        blocks: responses::blocks,
    },
    Kind {
        id: "attention",
        heading: "Attention of the loss transformer",
        blocks: attention::blocks,
    },
    Kind {
        id: "certificate",
        heading: "Hypergradient certificate",
        blocks: certificate::blocks,
    },
    Kind {
        id: "cost",
        heading: "Time and memory",
        blocks: cost::blocks,
    },
    Kind {
        id: "losses",
        heading: "Other losses",
        blocks: curves::other_losses,
    },
    Kind {
        id: "configuration",
        heading: "Configuration",
        blocks: configuration::blocks,
    },
];
