//! Golden vectors: the problems and their hypergradients as safetensors.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use nalgebra::{DMatrix, DVector};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::host::Reference;
use super::problem::ConformanceProblem;
use super::suite::problems;

/// The arrays of every problem of the suite and what estimators have to return on it, by file
/// name: `F64`, row after row.
///
/// Beside the data of the objectives (`A C b f` of a quadratic, `x_train x_val y_train y_val` of a
/// regression) and the point (`w`, `phi`) a file holds `outer_gradient` (`∂F/∂w`) and
/// `hypergrad.exact`, `hypergrad.identity`, `hypergrad.damped.0.05`, `hypergrad.cg.K3` and
/// `hypergrad.neumann.K5.a0.5`.
///
/// # Errors
///
/// An array that cannot be written as safetensors.
pub fn golden_vectors() -> Result<Vec<(String, Vec<u8>)>, safetensors::SafeTensorError> {
    let references = [
        ("hypergrad.exact", Reference::Exact),
        ("hypergrad.identity", Reference::Identity),
        ("hypergrad.damped.0.05", Reference::Damped { damping: 0.05 }),
        ("hypergrad.cg.K3", Reference::ConjugateGradient { steps: 3 }),
        (
            "hypergrad.neumann.K5.a0.5",
            Reference::Neumann {
                step_size: 0.5,
                products: 5,
            },
        ),
    ];
    // What is written comes from the host. The type on the device is one that every device has.
    problems(&Device::default(), DType::F32)
        .iter()
        .map(|problem| {
            let mut arrays: Vec<(String, Vec<usize>, Vec<u8>)> = problem
                .arrays()
                .into_iter()
                .map(|(name, shape, values)| (name.to_owned(), shape, bytes(&values)))
                .collect();
            let v = problem.derivatives().v;
            arrays.push((
                "outer_gradient".to_owned(),
                vec![v.len()],
                bytes(v.as_slice()),
            ));
            for (name, reference) in references {
                let values = problem.expected(reference);
                arrays.push((name.to_owned(), vec![values.len()], bytes(&values)));
            }
            let file = serialize(&arrays)?;
            Ok((format!("{}.safetensors", problem.name()), file))
        })
        .collect()
}

/// Writes the files of [`golden_vectors`] into `folder`, which has to exist, and returns their
/// paths.
///
/// # Errors
///
/// A file that cannot be written.
pub fn write_golden_vectors(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let files = golden_vectors().map_err(std::io::Error::other)?;
    files
        .into_iter()
        .map(|(name, bytes)| {
            let path = folder.join(name);
            std::fs::write(&path, bytes)?;
            Ok(path)
        })
        .collect()
}

impl ConformanceProblem {
    /// Writes a quadratic with its exact hypergradient: `A`, `C`, `b`, `f`, `x0` (phi), `z_star`
    /// (w), `hypergradient`; all `F64`.
    ///
    /// # Errors
    ///
    /// A file that cannot be written; a problem that is no quadratic.
    pub fn write_quadratic(&self, path: &Path) -> std::io::Result<()> {
        let mut arrays: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, shape, values) in self.arrays() {
            let name = match name {
                "w" => "z_star",
                "phi" => "x0",
                "A" | "C" | "b" | "f" => name,
                _ => return Err(std::io::Error::other("the problem is no quadratic")),
            };
            arrays.push((name.to_owned(), shape, bytes(&values)));
        }
        let exact = self.expected(Reference::Exact);
        arrays.push(("hypergradient".to_owned(), vec![exact.len()], bytes(&exact)));
        let file = serialize(&arrays).map_err(std::io::Error::other)?;
        std::fs::write(path, file)
    }

    /// Reads what [`write_quadratic`](Self::write_quadratic) has written.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, and an array that is missing or has another shape or type.
    pub fn read_quadratic(path: &Path, device: &Device) -> std::io::Result<Self> {
        let content = std::fs::read(path)?;
        let file = SafeTensors::deserialize(&content).map_err(std::io::Error::other)?;
        let array = |name: &str, rank: usize| -> std::io::Result<(Vec<usize>, Vec<f64>)> {
            let view = file.tensor(name).map_err(std::io::Error::other)?;
            if view.dtype() != Dtype::F64 || view.shape().len() != rank {
                let message = format!("`{name}` is not F64 with {rank} axes");
                return Err(std::io::Error::other(message));
            }
            let values = view
                .data()
                .chunks_exact(8)
                .map(|chunk| {
                    let mut number = [0; 8];
                    number.copy_from_slice(chunk);
                    f64::from_le_bytes(number)
                })
                .collect();
            Ok((view.shape().to_vec(), values))
        };
        let matrix = |name| {
            array(name, 2)
                .map(|(shape, values)| DMatrix::from_row_slice(shape[0], shape[1], &values))
        };
        let vector = |name| array(name, 1).map(|(_, values)| DVector::from_vec(values));
        let (a, c) = (matrix("A")?, matrix("C")?);
        let (b, f, x0, z) = (vector("b")?, vector("f")?, vector("x0")?, vector("z_star")?);
        let (n, m) = (z.len(), x0.len());
        if a.shape() != (n, n) || c.shape() != (n, m) || b.len() != n || f.len() != n {
            return Err(std::io::Error::other("the shapes of the arrays do not fit"));
        }
        let data = ([a, c], [b, f], [z, x0]);
        Ok(Self::quadratic(
            "quadratic",
            data.0,
            data.1,
            data.2,
            device,
            DType::F64,
        ))
    }
}

fn serialize(
    arrays: &[(String, Vec<usize>, Vec<u8>)],
) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let views: Vec<(&str, TensorView<'_>)> = arrays
        .iter()
        .map(|(name, shape, bytes)| {
            TensorView::new(Dtype::F64, shape.clone(), bytes).map(|view| (name.as_str(), view))
        })
        .collect::<Result<_, _>>()?;
    safetensors::serialize(views, None)
}

fn bytes(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
