//! `meltr score retrieval`.

use std::fs;
use std::path::Path;

use meltr_data::{NpyContent, TensorFile, read_npy};
use meltr_tasks::metric::{
    MetricError, RankedQueries, ReleasedAllInOneRetrieval, ReleasedUniVlRetrieval, TiePolicy,
};
use ndarray::Array2;
use serde_json::json;

use super::arguments::{RetrievalScoreArguments, TieName};
use super::{Metric, object, print};
use crate::error::CliError;
use crate::output;

pub(super) fn run(arguments: &RetrievalScoreArguments) -> Result<(), CliError> {
    let path = &arguments.matrix;
    let source = Source::open(path)?;
    let (name, similarity) = source.matrix(path, arguments.tensor.as_deref())?;
    let (rows, columns) = similarity.dim();
    let pairs = match &arguments.pairs {
        Some(pairs) => source.pairs(path, pairs)?,
        None if rows == columns => (0..rows).collect(),
        None => {
            return Err(CliError::Input(format!(
                "{name} has {rows} rows and {columns} columns, so the diagonal does not say which \
                 video is right; name the right column of each row by --pairs"
            )));
        }
    };
    let refused = |error: MetricError| CliError::Input(format!("{name}: {error}"));
    let texts = RankedQueries::text_to_video(similarity.view(), &pairs).map_err(refused)?;
    let videos = RankedQueries::video_to_text(similarity.view(), &pairs).map_err(refused)?;
    let mut sections = vec![
        ("text_to_video", metrics(&texts, arguments.ties)),
        ("video_to_text", metrics(&videos, arguments.ties)),
    ];
    if arguments.released {
        let is_diagonal = rows == columns && pairs.iter().copied().eq(0..rows);
        if is_diagonal {
            let released = ReleasedUniVlRetrieval::new(similarity.view()).map_err(refused)?;
            sections.push(("released_univl_text_to_video", univl(&released)));
        }
        let texts =
            ReleasedAllInOneRetrieval::text_to_video(similarity.view(), &pairs).map_err(refused)?;
        let videos =
            ReleasedAllInOneRetrieval::video_to_text(similarity.view(), &pairs).map_err(refused)?;
        sections.push(("released_all_in_one_text_to_video", all_in_one(&texts)));
        sections.push(("released_all_in_one_video_to_text", all_in_one(&videos)));
    }
    if arguments.json {
        let mut document = json!({
            "ties": tie_name(arguments.ties),
            "n_texts": rows,
            "n_videos": columns,
        });
        for (name, metrics) in &sections {
            document[*name] = object(metrics);
        }
        return output::json(&document);
    }
    output::line(&format!(
        "{rows} texts, {columns} videos, ties: {}",
        tie_name(arguments.ties)
    ));
    for (name, metrics) in &sections {
        output::line(&format!("\n{name}"));
        print(metrics);
    }
    Ok(())
}

fn tie_name(ties: TieName) -> &'static str {
    match ties {
        TieName::Optimistic => TiePolicy::Optimistic.name(),
        TieName::Average => TiePolicy::Average.name(),
        TieName::Pessimistic => TiePolicy::Pessimistic.name(),
        TieName::Random => "random",
    }
}

fn metrics(queries: &RankedQueries, ties: TieName) -> Vec<Metric> {
    let policy = match ties {
        TieName::Optimistic => TiePolicy::Optimistic,
        TieName::Average => TiePolicy::Average,
        TieName::Pessimistic => TiePolicy::Pessimistic,
        TieName::Random => {
            return vec![
                ("R@1", Some(queries.expected_recall_at(1))),
                ("R@5", Some(queries.expected_recall_at(5))),
                ("R@10", Some(queries.expected_recall_at(10))),
                ("R@50", Some(queries.expected_recall_at(50))),
                // Of the expected ranks, which are those of the average policy.
                (
                    "MeanR",
                    Some(queries.metrics(TiePolicy::Average).mean_rank()),
                ),
                ("MRR", Some(queries.expected_reciprocal_rank())),
            ];
        }
    };
    let metrics = queries.metrics(policy);
    vec![
        ("R@1", Some(metrics.recall_at(1))),
        ("R@5", Some(metrics.recall_at(5))),
        ("R@10", Some(metrics.recall_at(10))),
        ("R@50", Some(metrics.recall_at(50))),
        ("MedR", Some(metrics.median_rank())),
        ("MeanR", Some(metrics.mean_rank())),
        ("MRR", Some(metrics.mean_reciprocal_rank())),
    ]
}

fn univl(released: &ReleasedUniVlRetrieval) -> Vec<Metric> {
    vec![
        ("R1", Some(released.recall_at(1))),
        ("R5", Some(released.recall_at(5))),
        ("R10", Some(released.recall_at(10))),
        ("MR", Some(released.median_rank())),
        ("list_length", Some(released.ranks.len() as f64)),
    ]
}

fn all_in_one(released: &ReleasedAllInOneRetrieval) -> Vec<Metric> {
    vec![
        ("R1", Some(released.recall_at(1))),
        ("R5", Some(released.recall_at(5))),
        ("R10", Some(released.recall_at(10))),
        ("R50", Some(released.recall_at(50))),
        ("MedR", Some(released.median_rank())),
        ("MeanR", Some(released.mean_rank())),
        ("geometric_mean_R1-R5-R10", Some(released.geometric_mean())),
    ]
}

/// The file of the matrix.
enum Source {
    Npy(NpyContent),
    Tensors(TensorFile),
}

impl Source {
    fn open(path: &Path) -> Result<Self, CliError> {
        if is_npy(path) {
            Ok(Self::Npy(read_npy(path)?))
        } else {
            Ok(Self::Tensors(TensorFile::open(path)?))
        }
    }

    /// The matrix with a name for messages.
    fn matrix(&self, path: &Path, tensor: Option<&str>) -> Result<(String, Array2<f64>), CliError> {
        match self {
            Self::Npy(content) => {
                let name = format!("`{}`", path.display());
                let (shape, values) = numbers(content)
                    .ok_or_else(|| CliError::Input(format!("{name} holds no numbers")))?;
                Ok((name.clone(), matrix(&name, &shape, values)?))
            }
            Self::Tensors(file) => {
                let tensor = match tensor {
                    Some(tensor) => tensor,
                    None => only_matrix(file)?,
                };
                let name = format!("tensor `{tensor}` of `{}`", path.display());
                let array = file.f64(tensor)?;
                let shape = array.shape().to_vec();
                let values = array.iter().copied().collect();
                Ok((name.clone(), matrix(&name, &shape, values)?))
            }
        }
    }

    /// The right column of each row, by the name of a tensor or of a file.
    fn pairs(&self, path: &Path, name: &str) -> Result<Vec<usize>, CliError> {
        if let Self::Tensors(file) = self
            && file.contains(name)
        {
            let shown = format!("tensor `{name}` of `{}`", path.display());
            return columns(&shown, file.i64(name)?.iter().copied());
        }
        let shown = format!("`{name}`");
        let pairs = Path::new(name);
        if is_npy(pairs) {
            let NpyContent::Array(array) = read_npy(pairs)? else {
                return Err(CliError::Input(format!("{shown} holds no integers")));
            };
            let values = array
                .to_i64_vec()
                .ok_or_else(|| CliError::Input(format!("{shown} holds no integers")))?;
            return columns(&shown, values.into_iter());
        }
        let text = fs::read_to_string(pairs).map_err(|error| {
            CliError::Input(format!(
                "--pairs {shown} cannot be read: {error}; give a tensor of `{}`, an npy file or a \
                 text file with one number a line",
                path.display()
            ))
        })?;
        text.lines()
            .enumerate()
            .map(|(index, line)| {
                line.trim().parse().map_err(|_| {
                    CliError::Input(format!(
                        "{shown}, line {}: `{line}` is no column number; write one a line, \
                         counted from 0",
                        index + 1
                    ))
                })
            })
            .collect()
    }
}

fn is_npy(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("npy"))
}

fn numbers(content: &NpyContent) -> Option<(Vec<usize>, Vec<f64>)> {
    match content {
        NpyContent::Array(array) => Some((array.shape().to_vec(), array.to_f64_vec()?)),
        NpyContent::Pickled(_) => None,
    }
}

fn matrix(name: &str, shape: &[usize], values: Vec<f64>) -> Result<Array2<f64>, CliError> {
    let &[rows, columns] = shape else {
        return Err(CliError::Input(format!(
            "{name} has shape {shape:?}; a similarity matrix is [texts, videos]"
        )));
    };
    Array2::from_shape_vec((rows, columns), values).map_err(CliError::failed)
}

/// The name of the only tensor with two axes.
fn only_matrix(file: &TensorFile) -> Result<&str, CliError> {
    let mut matrices = Vec::new();
    for name in file.names() {
        if file.shape(name)?.len() == 2 {
            matrices.push(name);
        }
    }
    match matrices.as_slice() {
        [only] => Ok(*only),
        [] => Err(CliError::Input(format!(
            "`{}` has no tensor with two axes; a similarity matrix is [texts, videos]",
            file.path().display()
        ))),
        several => Err(CliError::Input(format!(
            "`{}` has several matrices; choose one by --tensor: {}",
            file.path().display(),
            several.join(", ")
        ))),
    }
}

fn columns(name: &str, values: impl Iterator<Item = i64>) -> Result<Vec<usize>, CliError> {
    values
        .enumerate()
        .map(|(row, column)| {
            usize::try_from(column).map_err(|_| {
                CliError::Input(format!(
                    "{name}: text {row} belongs to video {column}; columns are counted from 0"
                ))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use meltr_data::TensorFileWriter;

    use super::*;

    fn file(folder: &Path) -> PathBuf {
        let path = folder.join("matrices.safetensors");
        let mut writer = TensorFileWriter::new();
        writer.insert_f32("similarity", &[3, 2], vec![0.9, 0.1, 0.2, 0.8, 0.7, 0.3]);
        writer.insert_i64("videos", &[3], vec![0, 1, 0]);
        writer.insert_i64("negative", &[3], vec![0, -1, 0]);
        writer.write(&path).unwrap();
        path
    }

    #[test]
    fn the_only_matrix_and_its_pairs_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path());
        let source = Source::open(&path).unwrap();
        let (_, similarity) = source.matrix(&path, None).unwrap();
        assert_eq!(similarity.dim(), (3, 2));
        assert_eq!(source.pairs(&path, "videos").unwrap(), [0, 1, 0]);
        let list = folder.path().join("pairs.txt");
        fs::write(&list, "0\n1\n0\n").unwrap();
        assert_eq!(
            source.pairs(&path, list.to_str().unwrap()).unwrap(),
            [0, 1, 0]
        );
    }

    #[test]
    fn pairs_that_are_no_columns_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path());
        let source = Source::open(&path).unwrap();
        let list = folder.path().join("pairs.txt");
        fs::write(&list, "0\none\n").unwrap();
        for (name, part) in [
            ("negative", "text 1 belongs to video -1"),
            (list.to_str().unwrap(), "line 2: `one`"),
            ("nowhere.txt", "--pairs `nowhere.txt` cannot be read"),
        ] {
            let error = source.pairs(&path, name).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn another_shape_is_no_matrix() {
        let error = matrix("`a.npy`", &[4], vec![0.0; 4]).unwrap_err();
        assert!(error.to_string().contains("`a.npy` has shape [4]"));
    }
}
