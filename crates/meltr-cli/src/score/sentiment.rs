//! `meltr score sentiment`.

use std::path::Path;

use meltr_data::{CsvTable, Delimiter, TensorFile};
use meltr_tasks::metric::{ClassMetrics, MetricError, SentimentClassMetrics, SentimentMetrics};
use ndarray::{ArrayD, Ix2};
use serde_json::json;

use super::arguments::SentimentScoreArguments;
use super::{Metric, object, print};
use crate::error::CliError;
use crate::output;

pub(super) fn run(arguments: &SentimentScoreArguments) -> Result<(), CliError> {
    let path = &arguments.file;
    let refused = |error: MetricError| CliError::Input(format!("`{}`: {error}", path.display()));
    let (n_items, metrics) = match read(arguments)? {
        Given::Numbers {
            predictions,
            labels,
        } => {
            let metrics = SentimentMetrics::new(&predictions, &labels).map_err(refused)?;
            (metrics.n_items, of_numbers(&metrics))
        }
        Given::Classes { logits, labels } => {
            let logits = logits
                .into_dimensionality::<Ix2>()
                .map_err(CliError::failed)?;
            let metrics = SentimentClassMetrics::new(logits.view(), &labels).map_err(refused)?;
            (metrics.n_items, of_classes(&metrics))
        }
    };
    if arguments.json {
        return output::json(&json!({"n_items": n_items, "metrics": object(&metrics)}));
    }
    output::line(&format!("{n_items} items"));
    print(&metrics);
    Ok(())
}

/// What a file holds.
enum Given {
    /// Sentiments as numbers.
    Numbers {
        predictions: Vec<f64>,
        labels: Vec<f64>,
    },
    /// Logits of three classes.
    Classes {
        logits: ArrayD<f64>,
        labels: Vec<usize>,
    },
}

fn read(arguments: &SentimentScoreArguments) -> Result<Given, CliError> {
    let path = &arguments.file;
    let (predictions, labels) = (arguments.predictions.as_str(), arguments.labels.as_str());
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let delimiter = match extension.as_deref() {
        Some("safetensors") => return tensors(path, predictions, labels),
        Some("tsv") => Delimiter::Tab,
        _ => Delimiter::Comma,
    };
    let table = CsvTable::open(path, delimiter, &[predictions, labels])?;
    Ok(Given::Numbers {
        predictions: column(&table, predictions)?,
        labels: column(&table, labels)?,
    })
}

fn column(table: &CsvTable, name: &str) -> Result<Vec<f64>, CliError> {
    table
        .rows()
        .map(|row| -> Result<f64, CliError> {
            let cell = row.filled(name)?;
            cell.trim().parse().map_err(|_| {
                CliError::Input(format!(
                    "{}:{}: column `{name}` is `{cell}`, expected a number",
                    table.path().display(),
                    row.line()
                ))
            })
        })
        .collect()
}

fn tensors(path: &Path, predictions: &str, labels: &str) -> Result<Given, CliError> {
    let file = TensorFile::open(path)?;
    let predicted = numbers(&file, predictions)?;
    if let [_, 3] = predicted.shape() {
        let labels = file
            .i64(labels)?
            .iter()
            .enumerate()
            .map(|(index, label)| {
                usize::try_from(*label).map_err(|_| {
                    CliError::Input(format!(
                        "`{}`: label {index} (counted from 0) is class {label}; admissible are 0 \
                         to 2",
                        path.display()
                    ))
                })
            })
            .collect::<Result<Vec<usize>, CliError>>()?;
        return Ok(Given::Classes {
            logits: predicted,
            labels,
        });
    }
    let shape = predicted.shape().to_vec();
    if !matches!(shape.as_slice(), [_] | [_, 1]) {
        return Err(CliError::Input(format!(
            "tensor `{predictions}` of `{}` has shape {shape:?}; give sentiments [items] or logits \
             [items, 3]",
            path.display()
        )));
    }
    Ok(Given::Numbers {
        predictions: predicted.iter().copied().collect(),
        labels: numbers(&file, labels)?.iter().copied().collect(),
    })
}

/// A tensor of any numbers.
fn numbers(file: &TensorFile, name: &str) -> Result<ArrayD<f64>, CliError> {
    let dtype = file.dtype_name(name)?;
    if dtype.starts_with('F') || dtype.starts_with("BF") {
        Ok(file.f64(name)?)
    } else {
        Ok(file.i64(name)?.mapv(|value| value as f64))
    }
}

fn of_numbers(metrics: &SentimentMetrics) -> Vec<Metric> {
    let non0 = metrics.non0;
    vec![
        ("MAE", Some(metrics.mae)),
        ("MSE", Some(metrics.mse)),
        ("Corr", metrics.correlation),
        ("Acc_7", Some(metrics.accuracy_7)),
        ("Acc_5", Some(metrics.accuracy_5)),
        ("Acc_3", Some(metrics.accuracy_3)),
        ("Has0_Acc_2", Some(metrics.has0.accuracy)),
        ("Has0_F1", Some(metrics.has0.f1)),
        ("Has0_F1_swapped", Some(metrics.has0.f1_swapped)),
        ("Non0_count", Some(metrics.n_non0 as f64)),
        ("Non0_Acc_2", non0.map(|classes| classes.accuracy)),
        ("Non0_F1", non0.map(|classes| classes.f1)),
        ("Non0_F1_swapped", non0.map(|classes| classes.f1_swapped)),
    ]
}

fn of_classes(metrics: &SentimentClassMetrics) -> Vec<Metric> {
    let accuracy = |classes: Option<ClassMetrics>| classes.map(|classes| classes.accuracy);
    let f1 = |classes: Option<ClassMetrics>| classes.map(|classes| classes.f1);
    vec![
        ("Acc_3", Some(metrics.three.accuracy)),
        ("F1_3", Some(metrics.three.f1)),
        ("Has0_Acc_2", Some(metrics.has0.accuracy)),
        ("Has0_F1", Some(metrics.has0.f1)),
        ("Non0_count", Some(metrics.n_non0 as f64)),
        ("Non0_Acc_2", accuracy(metrics.non0)),
        ("Non0_F1", f1(metrics.non0)),
        ("Non0_Acc_2_as_released", accuracy(metrics.non0_as_released)),
        ("Non0_F1_as_released", f1(metrics.non0_as_released)),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use meltr_data::TensorFileWriter;

    use super::*;

    fn arguments(file: PathBuf) -> SentimentScoreArguments {
        SentimentScoreArguments {
            file,
            predictions: "prediction".to_owned(),
            labels: "label".to_owned(),
            json: false,
        }
    }

    #[test]
    fn a_table_and_tensors_give_the_same_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("a.csv");
        fs::write(&table, "id,label,prediction\na,1,0.5\nb,-2,-1.5\n").unwrap();
        let tensors = folder.path().join("a.safetensors");
        let mut writer = TensorFileWriter::new();
        writer.insert_f32("prediction", &[2, 1], vec![0.5, -1.5]);
        writer.insert_i64("label", &[2], vec![1, -2]);
        writer.write(&tensors).unwrap();
        for file in [table, tensors] {
            let Given::Numbers {
                predictions,
                labels,
            } = read(&arguments(file)).unwrap()
            else {
                panic!("numbers were expected");
            };
            assert_eq!((predictions, labels), (vec![0.5, -1.5], vec![1.0, -2.0]));
        }
    }

    #[test]
    fn logits_of_three_classes_are_told_by_their_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let write = |label: i64| {
            let mut writer = TensorFileWriter::new();
            writer.insert_f32("prediction", &[1, 3], vec![0.0, 1.0, 2.0]);
            writer.insert_i64("label", &[1], vec![label]);
            writer.write(&path).unwrap();
            read(&arguments(path.clone()))
        };
        assert!(matches!(write(2), Ok(Given::Classes { .. })));
        let Err(error) = write(-1) else {
            panic!("a negative class was accepted");
        };
        assert!(error.to_string().contains("label 0"), "{error}");
    }

    #[test]
    fn a_cell_that_is_no_number_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        fs::write(&path, "prediction,label\n1,2\nhigh,0\n").unwrap();
        let Err(error) = read(&arguments(path)) else {
            panic!("a word was accepted");
        };
        assert!(
            error
                .to_string()
                .contains("a.csv:3: column `prediction` is `high`"),
            "{error}"
        );
    }
}
