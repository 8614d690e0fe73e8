//! This side of the comparison: one hypergradient, again and again, in a process of its own.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use meltr_aid::{BilevelProblem, Estimator, HypergradientEstimator, ParamVector};
use meltr_data::TensorFileWriter;
use meltr_train::peak_memory_bytes;

use super::side::{Document, FIRST, WARM_UPS};
use super::{Task, quadratic, reweighting, transformer};
use crate::device;
use crate::error::CliError;
use crate::output;

/// A hypergradient as named tensors, in the layout of the Python side.
pub(super) type Named = Vec<(String, Vec<f64>)>;

/// Takes `count` hypergradients of one problem.
pub(super) trait Subject {
    /// One hypergradient, from scratch.
    fn estimate(&mut self) -> Result<ParamVector, CliError>;

    /// The same under the names of the Python side.
    fn named(&self, hypergradient: &ParamVector) -> Named;
}

/// A problem of meltr-aid at a point, and an estimator.
pub(super) struct AtPoint<P: BilevelProblem> {
    pub(super) problem: P,
    pub(super) inner: P::Inner,
    pub(super) outer: P::Outer,
    pub(super) estimator: Estimator,
    pub(super) name: fn(&P::Outer, &ParamVector) -> Named,
}

impl<P: BilevelProblem> Subject for AtPoint<P> {
    fn estimate(&mut self) -> Result<ParamVector, CliError> {
        let found = self
            .estimator
            .estimate(&self.problem, &self.inner, &self.outer)
            .map_err(CliError::failed)?;
        Ok(found.gradient)
    }

    fn named(&self, hypergradient: &ParamVector) -> Named {
        (self.name)(&self.outer, hypergradient)
    }
}

/// What this process is to run, as it is handed from one process to the other.
pub(super) struct Order<'a> {
    pub(super) task: Task,
    pub(super) method: &'a str,
    pub(super) data: &'a Path,
    pub(super) products: usize,
    pub(super) repeats: usize,
    /// Where the hypergradient goes.
    pub(super) output: &'a Path,
}

impl Order<'_> {
    /// Six lines.
    pub(super) fn to_text(&self) -> String {
        [
            self.task.name(),
            self.method,
            &self.data.display().to_string(),
            &self.products.to_string(),
            &self.repeats.to_string(),
            &self.output.display().to_string(),
        ]
        .join("\n")
    }

    /// Carries out what [`to_text`](Self::to_text) has written.
    pub(super) fn carry_out(text: &str, device: &str) -> Result<(), CliError> {
        let parts: Vec<&str> = text.split('\n').collect();
        let [task, method, data, products, repeats, output] = parts[..] else {
            return Err(CliError::Input("an order has six lines".to_owned()));
        };
        let count = |text: &str| text.parse::<usize>().map_err(CliError::failed);
        let task = Task::ALL
            .into_iter()
            .find(|known| known.name() == task)
            .ok_or_else(|| CliError::Input(format!("`{task}` is no problem")))?;
        let order = Order {
            task,
            method,
            data: Path::new(data),
            products: count(products)?,
            repeats: count(repeats)?,
            output: Path::new(output),
        };
        order.run(&device::parse(device)?)
    }

    fn run(&self, device: &Device) -> Result<(), CliError> {
        let mut subject = match self.task {
            Task::Quadratic => quadratic::subject(self, device)?,
            Task::Reweighting => reweighting::subject(self, device)?,
            Task::Transformer => transformer::subject(self, device)?,
        };
        let first = subject.estimate()?;
        if !first.norm().is_finite() {
            return Err(CliError::Failed("a hypergradient is not finite".to_owned()));
        }
        output::note(FIRST);
        for _ in 0..WARM_UPS {
            subject.estimate()?;
        }
        let mut seconds = Vec::with_capacity(self.repeats);
        for _ in 0..self.repeats {
            let clock = Instant::now();
            // The norm waits for the device.
            let _waited = subject.estimate()?.norm();
            seconds.push(clock.elapsed().as_secs_f64());
        }
        let peak_rss_bytes = peak_memory_bytes();
        let mut writer = TensorFileWriter::new();
        for (name, values) in subject.named(&first) {
            writer.insert_f64(name, &[values.len()], values);
        }
        writer.write(self.output)?;
        output::json(&Document {
            method: self.method.to_owned(),
            package: "meltr-aid".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seconds,
            peak_rss_bytes,
        })
    }
}
