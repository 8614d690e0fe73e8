//! `meltr weights`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use meltr_data::{
    Checkpoint, DataError, FileFormat, HostArray, TensorFile, TensorFileWriter, sha256_of_file,
};
use serde_json::json;

use crate::cli::{WeightsArguments, WeightsCommand};
use crate::error::CliError;
use crate::output;

/// Names that a message lists at most.
const MAX_LISTED: usize = 3;

/// Arguments of `meltr weights convert`.
#[derive(Debug, Args)]
pub struct WeightsConvertArguments {
    /// A PyTorch checkpoint (`.pt`, `.pth`, `.bin`, `.ckpt`) of any version, or a safetensors file.
    pub file: PathBuf,
    /// The safetensors file to write.
    #[arg(long)]
    pub out: PathBuf,
    /// The key of the checkpoint that holds the weights, such as `state_dict`. Default: all
    /// tensors, under the dotted paths to them.
    #[arg(long)]
    pub key: Option<String>,
    /// What is taken off the names that begin with it, such as `module.`.
    #[arg(long, value_name = "PREFIX")]
    pub strip_prefix: Option<String>,
    /// Replace the output if it exists.
    #[arg(long)]
    pub force: bool,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

pub(crate) fn run(arguments: &WeightsArguments) -> Result<(), CliError> {
    match &arguments.command {
        WeightsCommand::Inspect { file, json } => {
            let rows = described(&Weights::open(file, None)?)?;
            if *json {
                output::json(&listing(&rows))
            } else {
                show(&rows);
                Ok(())
            }
        }
        WeightsCommand::Convert(arguments) => convert(arguments),
    }
}

/// Named tensors of either kind of file.
enum Weights {
    Torch(Box<Checkpoint>),
    Safetensors(TensorFile),
}

impl Weights {
    fn open(file: &Path, key: Option<&str>) -> Result<Self, CliError> {
        if FileFormat::detect(file)? == FileFormat::Safetensors {
            if let Some(key) = key {
                return Err(CliError::Input(format!(
                    "--key {key}: `{}` is a safetensors file, which has no keys above its tensors; \
                     --strip-prefix shortens names",
                    file.display()
                )));
            }
            return Ok(Self::Safetensors(TensorFile::open(file)?));
        }
        let checkpoint = Checkpoint::open(file)?;
        Ok(Self::Torch(Box::new(match key {
            Some(key) => checkpoint.with_top_level_key(key)?,
            None => checkpoint,
        })))
    }

    fn names(&self) -> Vec<&str> {
        match self {
            Self::Torch(checkpoint) => {
                let tensors = checkpoint.tensors().iter();
                tensors.map(|(name, _)| name.as_str()).collect()
            }
            Self::Safetensors(file) => file.names().collect(),
        }
    }

    /// Shape and element type.
    fn describe(&self, name: &str) -> Result<(Vec<usize>, String), DataError> {
        match self {
            Self::Torch(checkpoint) => {
                let tensor = checkpoint.tensor(name)?;
                Ok((tensor.shape().to_vec(), tensor.element().to_string()))
            }
            Self::Safetensors(file) => Ok((file.shape(name)?.to_vec(), file.dtype_name(name)?)),
        }
    }

    fn read(&self, name: &str) -> Result<HostArray, DataError> {
        match self {
            Self::Torch(checkpoint) => checkpoint.read(name),
            Self::Safetensors(file) => file.host_array(name),
        }
    }

    /// What should be known of the file before its names are relied on.
    fn advice(&self, key: Option<&str>) -> Vec<String> {
        let Self::Torch(checkpoint) = self else {
            return Vec::new();
        };
        let mut advice: Vec<String> = Vec::new();
        let tied = checkpoint.aliases().len();
        if tied > 0 {
            advice.push(format!(
                "{tied} groups of tensors share their values in the file; each is written in full"
            ));
        }
        let tops: BTreeSet<&str> = self
            .names()
            .into_iter()
            .filter_map(|name| Some(name.split_once('.')?.0))
            .filter(|top| checkpoint.root().get(top).is_some())
            .collect();
        if key.is_none() && !tops.is_empty() {
            let tops: Vec<&str> = tops.into_iter().take(MAX_LISTED).collect();
            advice.push(format!(
                "the tensors lie below keys of the file (`{}`); --key KEY takes those below one",
                tops.join("`, `")
            ));
        }
        advice
    }
}

/// A tensor as it is listed.
struct Row {
    name: String,
    shape: Vec<usize>,
    dtype: String,
}

fn described(weights: &Weights) -> Result<Vec<Row>, DataError> {
    weights
        .names()
        .into_iter()
        .map(|name| {
            let (shape, dtype) = weights.describe(name)?;
            Ok(Row {
                name: name.to_owned(),
                shape,
                dtype,
            })
        })
        .collect()
}

fn n_values(rows: &[Row]) -> usize {
    rows.iter()
        .map(|row| row.shape.iter().product::<usize>())
        .sum()
}

fn listing(rows: &[Row]) -> serde_json::Value {
    let tensors: Vec<_> = rows
        .iter()
        .map(|row| json!({"name": row.name, "shape": row.shape, "dtype": row.dtype}))
        .collect();
    json!({ "tensors": tensors, "n_values": n_values(rows) })
}

fn show(rows: &[Row]) {
    for row in rows {
        output::line(&format!("{}\t{:?}\t{}", row.name, row.shape, row.dtype));
    }
    output::note(&format!(
        "{} tensors, {} values",
        rows.len(),
        n_values(rows)
    ));
}

fn convert(arguments: &WeightsConvertArguments) -> Result<(), CliError> {
    let (file, out) = (&arguments.file, &arguments.out);
    if !arguments.force && out.symlink_metadata().is_ok() {
        return Err(CliError::Input(format!(
            "`{}` exists and is not overwritten; choose another --out, or replace it with --force",
            out.display()
        )));
    }
    let key = arguments.key.as_deref();
    let source_sha256 = sha256_of_file(file)?;
    let weights = Weights::open(file, key)?;
    let names = weights.names();
    let renamed = renamed(file, &names, arguments.strip_prefix.as_deref())?;
    let mut writer = TensorFileWriter::new();
    if let Weights::Safetensors(file) = &weights {
        for (name, value) in file.metadata() {
            writer.insert_metadata(name.as_str(), value.as_str());
        }
    }
    for (name, new) in names.iter().zip(&renamed) {
        let array = weights.read(name)?;
        writer
            .insert_host_array(new.as_str(), &array)
            .map_err(|error| CliError::Input(format!("`{}`: {}", file.display(), error.kind)))?;
    }
    // What other readers of safetensors files look for.
    writer.insert_metadata("format", "pt");
    writer.insert_metadata("source_sha256", source_sha256.as_str());
    if let Some(name) = file.file_name() {
        writer.insert_metadata("source_file", name.to_string_lossy());
    }
    if let Some(key) = key {
        writer.insert_metadata("source_key", key);
    }
    writer.write(out)?;
    let sha256 = sha256_of_file(out)?;
    let n_values = n_values(&described(&weights)?);
    for line in weights.advice(key) {
        output::note(&line);
    }
    if arguments.json {
        return output::json(&json!({
            "file": file.display().to_string(),
            "out": out.display().to_string(),
            "tensors": renamed.len(),
            "n_values": n_values,
            "source_sha256": source_sha256,
            "sha256": sha256,
        }));
    }
    output::line(&format!(
        "{}: {} tensors, {n_values} values",
        out.display(),
        renamed.len()
    ));
    output::line(&format!("SHA-256 of {}: {source_sha256}", file.display()));
    output::line(&format!("SHA-256 of {}: {sha256}", out.display()));
    Ok(())
}

/// The names in the output: without the prefix where they begin with it, all different.
fn renamed(file: &Path, names: &[&str], prefix: Option<&str>) -> Result<Vec<String>, CliError> {
    let refused = |reason: String| Err(CliError::Input(format!("`{}`: {reason}", file.display())));
    if names.is_empty() {
        return refused("there is no tensor in it".to_owned());
    }
    if names.contains(&"") {
        return refused("the file is one single tensor and gives it no name".to_owned());
    }
    let Some(prefix) = prefix else {
        return Ok(names.iter().map(|name| (*name).to_owned()).collect());
    };
    if !names.iter().any(|name| name.starts_with(prefix)) {
        let listed: Vec<&str> = names.iter().copied().take(MAX_LISTED).collect();
        return refused(format!(
            "no name begins with `{prefix}`, the first are `{}`; correct --strip-prefix",
            listed.join("`, `")
        ));
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut renamed = Vec::new();
    for &name in names {
        let new = name.strip_prefix(prefix).unwrap_or(name);
        if new.is_empty() {
            return refused(format!(
                "nothing is left of the name `{name}` without `{prefix}`; shorten --strip-prefix"
            ));
        }
        if !seen.insert(new) {
            return refused(format!(
                "two tensors would be called `{new}` without `{prefix}`; choose another \
                 --strip-prefix"
            ));
        }
        renamed.push(new.to_owned());
    }
    Ok(renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str], prefix: Option<&str>) -> Result<Vec<String>, String> {
        renamed(Path::new("a.pt"), names, prefix).map_err(|error| error.to_string())
    }

    #[test]
    fn a_prefix_is_taken_off_where_it_is() {
        assert_eq!(names(&["m.a", "b"], None).unwrap(), ["m.a", "b"]);
        assert_eq!(names(&["m.a", "b"], Some("m.")).unwrap(), ["a", "b"]);
        assert_eq!(names(&["m.m.a"], Some("m.")).unwrap(), ["m.a"]);
    }

    #[test]
    fn names_that_would_be_lost_are_refused() {
        let cases: [(&[&str], Option<&str>, &str); 5] = [
            (&["a"], Some("m."), "the first are `a`"),
            (&["m.a", "a"], Some("m."), "two tensors would be called `a`"),
            (&["m."], Some("m."), "nothing is left"),
            (&[""], None, "single tensor"),
            (&[], None, "no tensor"),
        ];
        for (given, prefix, part) in cases {
            let message = names(given, prefix).unwrap_err();
            assert!(message.contains(part), "{message}");
            assert!(message.contains("a.pt"), "{message}");
        }
    }
}
