//! The page as a whole, on runs that were made up.

use std::collections::BTreeMap;

use super::*;
use crate::record::{
    CertificateRecord, EvalRecord, MetaRecord, Record, ResponseCurve, ResponseRecord, Summary,
    TrainRecord, WeightsRecord,
};

const ALL_HEADINGS: [&str; 10] = [
    "Comparison",
    "Metrics by split",
    "Learning curves",
    "Weights and sensitivities",
    "Response of the learned loss",
    "Attention of the loss transformer",
    "Hypergradient certificate",
    "Time and memory",
    "Other losses",
    "Configuration",
];

pub(super) fn summary(name: &str, combiner: &str, seed: u64) -> Summary {
    let metrics = BTreeMap::from([
        ("text_to_video.r1".to_owned(), 0.25),
        ("text_to_video.r5".to_owned(), 0.5),
        ("text_to_video.r10".to_owned(), 0.75),
        ("text_to_video.median_rank".to_owned(), 5.0),
    ]);
    Summary {
        format_version: 1,
        name: name.to_owned(),
        combiner: combiner.to_owned(),
        seed,
        device: "flex".to_owned(),
        tasks: vec!["contrastive".to_owned(), "masked<language>".to_owned()],
        primary: "contrastive".to_owned(),
        iterations: 20,
        metrics: BTreeMap::from([
            ("test".to_owned(), metrics.clone()),
            ("validation".to_owned(), metrics),
        ]),
        train_seconds: 2.0,
        total_seconds: 3.0,
        peak_memory_bytes: Some(1 << 30),
        worst_hypergradient_error: Some(1e-4),
    }
}

fn train(iteration: usize, task_losses: Vec<f64>) -> Record {
    Record::Train(TrainRecord {
        iteration,
        epoch: 0,
        combined_loss: task_losses.iter().sum(),
        task_losses,
        learning_rate: 1.0,
        gradient_norm: 0.5,
        seconds: iteration as f64,
    })
}

fn meta(iteration: usize, sensitivities: Vec<f64>) -> MetaRecord {
    MetaRecord {
        iteration,
        outer_objective: 1.0,
        task_losses: vec![1.0; sensitivities.len()],
        directional: vec![0.1; sensitivities.len()],
        sensitivities,
        hypergradient_norm: 0.3,
        anomalies: Vec::new(),
        certificate: Box::new(CertificateRecord {
            estimator: "identity".to_owned(),
            product: "central_difference".to_owned(),
            difference_step: Some(1e-3),
            estimated_error: Some(1e-5),
            audited_error: (iteration == 0).then_some(2e-4),
            relative_residual: None,
            smallest_curvature: None,
            findings: Vec::new(),
            forward_passes: 2,
            backward_passes: 1,
        }),
    }
}

fn response(iteration: usize, attention: Vec<Vec<Vec<f64>>>) -> Record {
    let curve = ResponseCurve {
        task_loss: vec![0.0, 1.0, 2.0],
        combined_loss: vec![0.0, 0.5, f64::NAN],
    };
    Record::Response(ResponseRecord {
        iteration,
        at: vec![0.5, 0.5],
        curves: vec![curve.clone(), curve],
        attention,
    })
}

fn eval(iteration: usize, split: &str, r1: f64) -> Record {
    Record::Eval(EvalRecord {
        iteration,
        split: split.to_owned(),
        n_items: 8,
        metrics: BTreeMap::from([("text_to_video.r1".to_owned(), r1)]),
    })
}

fn weights(iteration: usize, weights: Vec<f64>) -> Record {
    Record::Weights(WeightsRecord { iteration, weights })
}

fn run(name: &str, combiner: &str, seed: u64, records: Vec<Record>) -> RunData {
    RunData {
        name: name.to_owned(),
        summary: Some(summary(name, combiner, seed)),
        records,
        config_toml: format!("seed = {seed}\n[combiner]\nname = \"{combiner}\"\n"),
    }
}

fn sum_run() -> RunData {
    let mut records: Vec<Record> = (0..20)
        .map(|iteration| train(iteration, vec![1.0 / (1.0 + iteration as f64), 2.0]))
        .collect();
    records.push(train(20, vec![f64::NAN, f64::NAN]));
    records.push(train(21, vec![f64::INFINITY, f64::INFINITY]));
    run("<b>", "sum", 0, records)
}

fn rule_run(seed: u64) -> RunData {
    let records = (0..20).map(|iteration| weights(iteration, vec![0.5, 1.5]));
    run(&format!("famo-{seed}"), "famo", seed, records.collect())
}

fn meltr_run(seed: u64) -> RunData {
    let mut records: Vec<Record> = (0..1000)
        .map(|iteration| train(iteration, vec![1.0, 2.0]))
        .collect();
    for step in 0..10 {
        let negative = if step < 3 { -0.5 } else { 0.5 };
        let mut meta = meta(100 * step, vec![1.0, negative]);
        if step < 3 {
            let value = -0.5 / (step + 1) as f64;
            meta.anomalies = vec![format!(
                "negative: `masked<language>` is {value:.3e}, too low"
            )];
        }
        records.push(Record::Meta(meta));
    }
    let attention = vec![
        vec![vec![1.0, 0.0], vec![0.5, 0.5]],
        vec![vec![0.5, 0.5], vec![0.25, 0.75]],
    ];
    records.extend([response(0, attention.clone()), response(500, attention)]);
    records.extend([eval(0, "validation", 0.125), eval(500, "validation", 0.25)]);
    run(&format!("meltr-{seed}"), "meltr", seed, records)
}

fn html(runs: &[RunData]) -> String {
    Report {
        title: "A report",
        runs,
        references: &[],
    }
    .to_html()
    .unwrap()
}

fn headings(html: &str) -> Vec<&'static str> {
    ALL_HEADINGS
        .into_iter()
        .filter(|heading| html.contains(&format!("<h2>{heading}</h2>")))
        .collect()
}

fn assert_self_contained(html: &str) {
    let without_namespace = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!without_namespace.contains("http://"));
    assert!(!without_namespace.contains("https://"));
    assert!(!html.contains("<script") && !html.contains("<link") && !html.contains("@import"));
    assert!(html.len() < 3_000_000, "{} bytes", html.len());
}

/// Every element is closed in its order, every quote and every entity is complete.
fn assert_well_formed(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    for part in html.split('<').skip(1) {
        let (tag, _) = part
            .split_once('>')
            .unwrap_or_else(|| panic!("`<{part}` does not end"));
        assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{open:?}");
        } else if !tag.starts_with('!') && !tag.ends_with('/') {
            let name = tag.split_whitespace().next().unwrap();
            if name != "meta" {
                open.push(name);
            }
        }
    }
    assert_eq!(open, [""; 0]);
    for part in html.split('&').skip(1) {
        let (entity, _) = part.split_once(';').unwrap();
        assert!(
            entity
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || character == '#'),
            "&{entity};"
        );
    }
}

#[test]
fn the_page_has_every_section_and_needs_nothing_else() {
    let html = html(&[
        sum_run(),
        rule_run(0),
        rule_run(1),
        meltr_run(0),
        meltr_run(1),
    ]);
    assert_eq!(headings(&html), ALL_HEADINGS);
    assert_self_contained(&html);
    assert_well_formed(&html);
    // Dots 2, learning curves 2, weights 2, responses 2, certificate 2, other losses 2.
    assert_eq!(html.matches("<svg").count(), 12);
    assert_eq!(html.matches("role=\"img\"><title>").count(), 12);
    assert!(html.contains("prefers-color-scheme"));
}

#[test]
fn sections_without_records_are_left_out() {
    let evaluated = run("sum-0", "sum", 0, Vec::new());
    assert_eq!(
        headings(&html(&[evaluated])),
        [
            "Comparison",
            "Metrics by split",
            "Time and memory",
            "Configuration"
        ]
    );
    let mut unfinished = run("sum-0", "sum", 0, vec![train(0, vec![1.0, 2.0])]);
    unfinished.summary = None;
    assert_eq!(
        headings(&html(&[unfinished])),
        [
            "Comparison",
            "Time and memory",
            "Other losses",
            "Configuration"
        ]
    );
    let page = html(&[rule_run(0)]);
    assert!(page.contains("Weights given by rules") && !page.contains("of learned losses"));
    let old = run("meltr-0", "meltr", 0, vec![response(0, Vec::new())]);
    let page = html(&[old]);
    assert!(headings(&page).contains(&"Response of the learned loss"));
    assert!(!headings(&page).contains(&"Attention of the loss transformer"));
}

#[test]
fn one_run_alone_is_shown_without_intervals() {
    let html = html(&[meltr_run(0)]);
    assert_well_formed(&html);
    assert!(html.contains("<th scope=\"row\">meltr</th><td>1</td><td>25.0</td>"));
    assert!(html.contains("meltr (1 run)"));
}

#[test]
fn means_of_several_runs_have_their_interval_and_number() {
    let runs: Vec<RunData> = [0.1, 0.2, 0.3]
        .into_iter()
        .zip(0..)
        .map(|(r1, seed)| {
            let mut run = rule_run(seed);
            let metrics = &mut run.summary.as_mut().unwrap().metrics;
            let test = metrics.get_mut("test").unwrap();
            test.insert("text_to_video.r1".to_owned(), r1);
            run
        })
        .collect();
    // Deviation 10, t = 4.303 for two degrees of freedom, √3 values.
    let html = html(&runs);
    assert!(html.contains("<th scope=\"row\">famo</th><td>3</td><td>20.0 ± 24.8</td>"));
    assert!(html.contains("20.0 ± 24.8 (n = 3)</text>"));
}

#[test]
fn names_are_escaped() {
    let html = html(&[sum_run(), meltr_run(0)]);
    assert!(!html.contains("<b>") && html.contains("&lt;b&gt;"));
    assert!(!html.contains("masked<language>") && html.contains("masked&lt;language&gt;"));
}

#[test]
fn values_that_are_not_finite_are_counted_and_not_drawn() {
    let html = html(&[sum_run()]);
    assert!(
        html.contains("Not drawn: 2 values that are not finite."),
        "the primary loss"
    );
    assert!(
        html.contains("Not drawn: 4 values that are not finite."),
        "the other loss and the combined loss"
    );
    assert!(!html.contains("NaN"));
}

#[test]
fn negative_sensitivities_are_named_with_their_share() {
    let html = html(&[meltr_run(0), meltr_run(1)]);
    assert!(html.contains("masked&lt;language&gt; (30.0 % of 20 outer steps)"));
    assert!(!html.contains("contrastive ("));
}

#[test]
fn audits_are_summarized() {
    let html = html(&[meltr_run(0), meltr_run(1)]);
    assert!(html.contains("20 outer steps; identity with central_difference;"));
    assert!(html.contains("2 audits, the largest error 2.0e-4"));
}

#[test]
fn anomalies_are_counted_by_kind() {
    let html = html(&[meltr_run(0), meltr_run(1), sum_run()]);
    let row = "meltr: negative: `masked&lt;language&gt;` is …, too low</th>\
               <td>6 of 20</td><td>2 of 2</td>";
    assert!(html.contains(row));
    let mut without = meltr_run(0);
    for record in &mut without.records {
        if let Record::Meta(meta) = record {
            meta.anomalies.clear();
        }
    }
    assert!(self::html(&[without]).contains("No anomaly and no finding was recorded"));
}

#[test]
fn attention_is_shown_as_numbers_over_heads_and_by_head() {
    let html = html(&[meltr_run(0), meltr_run(1)]);
    assert!(html.contains("meltr: mean over heads and 2 runs"));
    // (1 + 0.5) / 2, (0 + 0.5) / 2.
    assert!(html.contains("<td class=\"h8\">0.75</td><td class=\"h3\">0.25</td>"));
    assert!(html.contains("meltr: single heads of run meltr-0"));
    assert!(html.contains("head 2, iteration 500"));
}

#[test]
fn an_unfinished_run_is_shown_as_such() {
    let mut run = meltr_run(0);
    run.name = "stopped".to_owned();
    run.summary = None;
    let html = html(&[sum_run(), run]);
    assert!(html.contains("not in the table: stopped."));
    assert!(html.contains("meltr (unfinished) (1 run)"));
    assert!(html.contains("<td>unfinished</td>"));
}

#[test]
fn nothing_at_all_still_makes_a_page() {
    let html = html(&[]);
    assert_eq!(headings(&html), ["Comparison"]);
    assert!(html.contains("There is no finished run to compare."));
    assert_self_contained(&html);
    assert_well_formed(&html);
}

#[test]
fn references_are_rows_of_the_table_and_lines_of_the_chart() {
    let references = [ReferenceRow {
        name: "linear".to_owned(),
        metrics: BTreeMap::from([("text_to_video.r1".to_owned(), 0.1)]),
        note: "closed form".to_owned(),
    }];
    let runs = [sum_run()];
    let report = Report {
        title: "A report",
        runs: &runs,
        references: &references,
    };
    let html = report.to_html().unwrap();
    assert!(html.contains("<th scope=\"row\">linear</th><td>-</td><td>10.0</td>"));
    assert!(html.contains("linear: closed form"));
    assert!(html.contains("linear: 10.0 %"));
    // On the split of the comparison alone.
    assert_eq!(html.matches("stroke-dasharray=\"12 8\"").count(), 1);
}

#[test]
fn sets_of_runs_are_shown_apart() {
    let steps = [sum_run(), meltr_run(0)];
    let time = [sum_run()];
    let set = |label, runs| RunSet {
        label,
        runs,
        references: &[],
    };
    let sets = [
        set("Equal <steps>", &steps[..]),
        set("Equal time", &time[..]),
    ];
    let html = report_of_sets("A report", &sets).unwrap();
    assert_well_formed(&html);
    assert_eq!(html.matches("<h3>Equal time</h3>").count(), 6);
    assert_eq!(html.matches("<h3>Equal &lt;steps&gt;</h3>").count(), 10);
    // In two legends and three groups of bars of each set.
    assert_eq!(html.matches("sum (1 run)").count(), 10);
    assert!(!html.contains("sum (2 runs)"));
}

/// A number in `[0, 1)` that follows from the others in no visible way.
fn noise(numbers: [usize; 3]) -> f64 {
    let [a, b, c] = numbers.map(|number| number as f64);
    ((12.9898 * a + 78.233 * b + 37.719 * c).sin() * 43_758.545).rem_euclid(1.0)
}

/// What a run of a large comparison leaves: 300 inner and 100 outer steps on eight losses.
fn long_run(combiner: usize, seed: usize) -> RunData {
    const TASKS: usize = 8;
    let name = format!("combiner_with_a_name_{combiner}");
    let number = |step: usize, task: usize| noise([1000 * combiner + seed, step, task]);
    let numbers = |step: usize| -> Vec<f64> { (0..TASKS).map(|task| number(step, task)).collect() };
    let mut records = Vec::new();
    for step in 0..300 {
        let losses: Vec<f64> = (0..TASKS)
            .map(|task| 5.0 / (1.0 + step as f64 / 50.0) + number(step, task))
            .collect();
        records.push(train(step, losses));
        // Three do not weight, eleven follow a rule, four are learned.
        if (3..14).contains(&combiner) {
            records.push(weights(step, numbers(step)));
        }
    }
    for step in (0..300).step_by(30) {
        records.push(eval(step, "test", number(step, 20)));
        records.push(eval(step, "valid", number(step, 21)));
    }
    if combiner >= 14 {
        for step in 0..100 {
            let mut meta = meta(3 * step, numbers(step));
            let certificate = &mut meta.certificate;
            certificate.estimated_error = Some(1e-5 * (1.0 + number(step, 30)));
            certificate.difference_step = Some(1e-3 * (1.0 + number(step, 31)));
            certificate.relative_residual = Some(0.1 * (1.0 + number(step, 32)));
            certificate.smallest_curvature = Some(number(step, 33) - 0.5);
            if step % 10 == 0 {
                certificate.audited_error = Some(1e-4 * (1.0 + number(step, 34)));
            }
            meta.anomalies = vec![format!("negative: `task_{}` is -1e-{step}", step % 8)];
            records.push(Record::Meta(meta));
        }
        for time in 0..6 {
            let curves = (0..TASKS).map(|task| ResponseCurve {
                task_loss: (0..25).map(|point| 0.1 * f64::from(point)).collect(),
                combined_loss: (0..25).map(|point| number(point, task)).collect(),
            });
            let head = vec![vec![0.125; TASKS]; TASKS];
            records.push(Record::Response(ResponseRecord {
                iteration: 60 * time,
                at: vec![1.0; TASKS],
                curves: curves.collect(),
                attention: vec![head; 8],
            }));
        }
    }
    let mut run = run(&format!("{name}-{seed}"), &name, seed as u64, records);
    if let Some(summary) = &mut run.summary {
        summary.tasks = (0..TASKS).map(|task| format!("task_{task}")).collect();
        summary.primary = "task_1".to_owned();
        summary.iterations = 300;
        for metrics in summary.metrics.values_mut() {
            let r1 = metrics.get_mut("text_to_video.r1").unwrap();
            *r1 = number(300, 40);
        }
    }
    // As long as that of an experiment.
    for setting in 0..100 {
        let line = format!("setting_{setting} = \"a value\"\n");
        run.config_toml.push_str(&line);
    }
    run
}

#[test]
fn a_comparison_of_180_runs_stays_below_three_megabytes() {
    let runs: Vec<RunData> = (0..18)
        .flat_map(|combiner| (0..5).map(move |seed| long_run(combiner, seed)))
        .collect();
    let set = |label| RunSet {
        label,
        runs: &runs,
        references: &[],
    };
    let html = report_of_sets("A report", &[set("Equal steps"), set("Equal time")]).unwrap();
    assert_self_contained(&html);
    assert_well_formed(&html);
    assert_eq!(headings(&html), ALL_HEADINGS);
    assert!(html.contains("Learning curves, part 3 of 3"));
    assert!(html.contains("combiner_with_a_name_17 (5 runs)"));
}
