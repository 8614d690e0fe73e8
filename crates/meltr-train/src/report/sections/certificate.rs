//! How well the hypergradient was known, and what was wrong with the learned loss.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{CertificateRecord, Record};
use crate::report::assemble::{
    Assembly, Group, certificates, figure, meta_series, over_iterations, text,
};
use crate::report::error::ReportError;
use crate::report::page::{Block, FigureGroup, Table};
use crate::report::plot::{Line, Scale, Stroke, ZeroLine};
use crate::report::series::Skipped;
use crate::report::table::{error_cell, mean_and_deviation};

/// Kinds of anomalies that are listed of a combiner, at most.
const MAX_KINDS: usize = 20;

pub(super) fn blocks(assembly: &Assembly<'_>) -> Result<Vec<Block>, ReportError> {
    let learned = assembly.groups_with(|record| matches!(record, Record::Meta(_)));
    if learned.is_empty() {
        return Ok(Vec::new());
    }
    let mut blocks = vec![text(
        "How well the hypergradient was known: the relative error that each outer step estimated \
         of its directional derivatives, the error against the exact hypergradient at the steps \
         that were audited, what the linear solve left over, and the smallest curvature that it \
         met. Line: mean over the runs of a combiner, on a logarithmic axis of the logarithms; \
         band: smallest to largest value.",
    )];
    for (index, group) in learned.iter().enumerate() {
        let mut figures = figures_of(assembly, group)?;
        figures.open = index == 0;
        blocks.push(Block::Figures(figures));
    }
    blocks.push(anomalies(&learned));
    Ok(blocks)
}

/// A number of a certificate, and how it is drawn.
struct Certified {
    label: &'static str,
    color: usize,
    value: fn(&CertificateRecord) -> Option<f64>,
}

/// A figure of a certificate.
struct View {
    title: &'static str,
    y_label: &'static str,
    scale: Scale,
    numbers: &'static [Certified],
}

const VIEWS: [View; 4] = [
    View {
        title: "Error of the hypergradient",
        y_label: "relative error",
        scale: Scale::Log,
        numbers: &[
            Certified {
                label: "estimated error",
                color: 0,
                value: |certificate| certificate.estimated_error,
            },
            Certified {
                label: AUDITED,
                color: 3,
                value: |certificate| certificate.audited_error,
            },
        ],
    },
    View {
        title: "Residual of the linear solve",
        y_label: "relative residual",
        scale: Scale::Log,
        numbers: &[Certified {
            label: "residual",
            color: 1,
            value: |certificate| certificate.relative_residual,
        }],
    },
    View {
        title: "Smallest curvature that the solver met",
        y_label: "curvature",
        scale: Scale::Linear,
        numbers: &[Certified {
            label: "curvature",
            color: 4,
            value: |certificate| certificate.smallest_curvature,
        }],
    },
    View {
        title: "Width of the difference quotient",
        y_label: "difference step h",
        scale: Scale::Log,
        numbers: &[Certified {
            label: "difference step",
            color: 2,
            value: |certificate| certificate.difference_step,
        }],
    },
];

/// Audits are rare, so that each is marked.
const AUDITED: &str = "audited error";

fn figures_of(assembly: &Assembly<'_>, group: &Group<'_>) -> Result<FigureGroup, ReportError> {
    let mut skipped = Skipped::default();
    let mut figures = Vec::new();
    let mut legend = Vec::new();
    for view in VIEWS {
        let mut lines = Vec::new();
        for number in view.numbers {
            let banded = group.banded(
                assembly.max_points,
                |run| meta_series(run, |meta| (number.value)(&meta.certificate)),
                |value| match view.scale {
                    Scale::Linear => skipped.keep(value),
                    Scale::Log => skipped.keep_log(value),
                },
            );
            if banded.means.is_empty() {
                continue;
            }
            let stroke = Stroke::of_index(number.color);
            legend.push((number.label.to_owned(), stroke));
            let line = Line::banded(number.label, banded, stroke);
            lines.push(if number.label == AUDITED {
                line.marked()
            } else {
                line
            });
        }
        let mut plot = over_iterations(view.title, view.y_label, lines);
        plot.scale = view.scale;
        if view.scale == Scale::Linear {
            plot.zero_line = ZeroLine::Present;
        }
        figures.extend(figure(&plot)?);
    }
    let mut notes = vec![sentence(group)];
    if figures.is_empty() {
        notes.push("No error, no residual and no difference step was recorded.".to_owned());
    }
    notes.extend(skipped.notes());
    Ok(FigureGroup {
        title: group.title(),
        open: false,
        legend,
        figures,
        notes,
    })
}

/// How the hypergradients of a combiner were obtained, at which cost, and the worst audit.
fn sentence(group: &Group<'_>) -> String {
    let all: Vec<&CertificateRecord> = group
        .runs
        .iter()
        .flat_map(|run| certificates(run))
        .collect();
    let methods: BTreeSet<String> = all
        .iter()
        .map(|certificate| format!("{} with {}", certificate.estimator, certificate.product))
        .collect();
    let methods: Vec<String> = methods.into_iter().collect();
    let mean = |passes: fn(&CertificateRecord) -> usize| {
        let passes: Vec<f64> = all
            .iter()
            .map(|certificate| passes(certificate) as f64)
            .collect();
        mean_and_deviation(&passes).0
    };
    let audited = all
        .iter()
        .filter_map(|certificate| certificate.audited_error);
    let audits = match audited.clone().max_by(f64::total_cmp) {
        Some(worst) => format!(
            "{} audits, the largest error {}",
            audited.count(),
            error_cell(Some(worst))
        ),
        None => "no audit".to_owned(),
    };
    format!(
        "{} outer steps; {}; on average {:.1} forward passes and {:.1} forward-and-backward passes \
         of the backbone per step; {audits}.",
        all.len(),
        methods.join(", "),
        mean(|certificate| certificate.forward_passes),
        mean(|certificate| certificate.backward_passes),
    )
}

/// Steps and runs in which something was found wanting.
#[derive(Default)]
struct Found {
    n_steps: usize,
    runs: BTreeSet<usize>,
}

/// What was found wanting in the outer steps, counted.
fn anomalies(learned: &[&Group<'_>]) -> Block {
    let mut rows = Vec::new();
    for group in learned {
        let mut by_kind: BTreeMap<String, Found> = BTreeMap::new();
        let mut n_steps = 0;
        for (index, run) in group.runs.iter().enumerate() {
            for record in &run.records {
                let Record::Meta(meta) = record else {
                    continue;
                };
                n_steps += 1;
                let texts = meta.anomalies.iter().chain(&meta.certificate.findings);
                let kinds: BTreeSet<String> = texts.map(|text| without_numbers(text)).collect();
                for kind in kinds {
                    let found = by_kind.entry(kind).or_default();
                    found.n_steps += 1;
                    found.runs.insert(index);
                }
            }
        }
        let mut kinds: Vec<(String, Found)> = by_kind.into_iter().collect();
        kinds.sort_by_key(|(_, found)| std::cmp::Reverse(found.n_steps));
        let n_more = kinds.len().saturating_sub(MAX_KINDS);
        for (kind, found) in kinds.into_iter().take(MAX_KINDS) {
            rows.push(vec![
                format!("{}: {kind}", group.label),
                format!("{} of {n_steps}", found.n_steps),
                format!("{} of {}", found.runs.len(), group.runs.len()),
            ]);
        }
        if n_more > 0 {
            let more = format!("{}: {n_more} more kinds", group.label);
            rows.push(vec![more, String::new(), String::new()]);
        }
    }
    if rows.is_empty() {
        return text("No anomaly and no finding was recorded at any outer step.");
    }
    Block::Table(Table {
        caption:
            "Anomalies of the learned loss and findings about the hypergradient; … stands for \
                  a number that differs from step to step"
                .to_owned(),
        folded: false,
        headers: ["what was found", "outer steps", "runs"]
            .map(str::to_owned)
            .to_vec(),
        rows,
    })
}

/// A text with an ellipsis in place of each number, so that it names a kind.
fn without_numbers(text: &str) -> String {
    let words: Vec<String> = text.split(' ').map(without_number).collect();
    words.join(" ")
}

fn without_number(word: &str) -> String {
    let is_around = |character: char| !character.is_alphanumeric() && !"+-.".contains(character);
    let inner = word.trim_matches(is_around).trim_end_matches('.');
    if !inner.is_empty() && inner.parse::<f64>().is_ok() {
        word.replacen(inner, "…", 1)
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_a_number_are_of_one_kind() {
        assert_eq!(
            without_numbers("the sensitivity of `task2` is negative (-3.2e-4); 1.5 times"),
            "the sensitivity of `task2` is negative (…); … times"
        );
        assert_eq!(without_numbers("a gain of 0.5."), "a gain of ….");
        assert_eq!(without_numbers("`mlm`: 12, - and NaN"), "`mlm`: …, - and …");
    }
}
