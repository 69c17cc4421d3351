//! What the program does, one function per command.

mod bench;
mod check;
mod choose;
#[allow(clippy::module_inception, reason = "the command is called so")]
mod compress;
mod content;
mod eval;
mod gentle;
mod inspect;
mod job;
mod parts;
mod quantization;
mod result;
mod smallest;
mod spectra;
mod statistics;
mod sweep;
mod target;
mod training;

use std::path::{Path, PathBuf};

use crate::dataset::{Dataset, Preprocess};
use crate::error::{Error, Result};
use crate::graph::{self, InputSpec};
use crate::onnx::Model;
use crate::options::Options;
use crate::validate::Session;

pub use bench::bench;
pub use check::{Check, check};
pub use compress::{apply, compress};
pub use eval::{Eval, Runtime, eval};
pub use inspect::inspect;
pub use sweep::{SweepRequest, sweep};
pub use target::check_output;

/// A compression that is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model to compress.
    pub input: PathBuf,
    /// Where the result goes.
    pub output: PathBuf,
    /// Samples for calibration and search.
    pub data: Option<DataSource>,
    /// Samples that are only reported on.
    pub test: Option<DataSource>,
    /// Samples that the result is trained on; none is no training. Where it is the same as `data`,
    /// samples that candidates are scored on and that are reported on are not trained on.
    pub train: Option<DataSource>,
    /// Where the state of training is kept, so that an interrupted run can go on from it.
    pub resume: Option<PathBuf>,
    /// Shapes of inputs whose dims the model leaves open, by name.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Where the plan goes.
    pub save_plan: Option<PathBuf>,
    /// Where the report goes, as a page.
    pub report: Option<PathBuf>,
    /// The command line that asks for this, for the report; empty where there is none.
    pub command: Vec<String>,
    /// Whether the output may replace the input.
    pub force: bool,
    /// Everything else.
    pub options: Options,
}

/// Where samples are, and how they are prepared.
#[derive(Clone, Debug)]
pub struct DataSource {
    /// The data.
    pub path: PathBuf,
    /// Labels, where they are not part of the data.
    pub labels: Option<PathBuf>,
    /// How stored values become those of the model.
    pub preprocess: Preprocess,
}

impl DataSource {
    /// Opens the data for the model at `path`, and the model in tract for that data.
    ///
    /// # Errors
    /// As [`Dataset::open`] and [`Session::open`].
    pub fn open_with_session(&self, path: &Path) -> Result<(Dataset, Session)> {
        let data = self.open(&graph::inputs(&Model::read(path)?)?)?;
        let session = Session::open_for(path, &data.batch(&[0])?)?;
        Ok((data, session))
    }

    /// Opens the data for a model's inputs.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open(&self, inputs: &[InputSpec]) -> Result<Dataset> {
        Dataset::open(&self.path, inputs, self.labels.as_deref(), &self.preprocess)
    }
}

/// The inputs of the model at `a`, which the model at `b` must have as well; dims may be open in one
/// and stated in the other.
fn common_inputs(a: &Path, b: &Path) -> Result<Vec<InputSpec>> {
    let first = graph::inputs(&Model::read(a)?)?;
    let second = graph::inputs(&Model::read(b)?)?;
    if first.len() != second.len() || !first.iter().zip(&second).all(|(x, y)| are_alike(x, y)) {
        let text = |specs: &[InputSpec]| -> String {
            let one = |spec: &InputSpec| format!("`{}` {}", spec.name, spec.text());
            specs.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        return Err(Error::DataMismatch {
            reason: format!("the models' inputs differ: {} and {}", text(&first), text(&second)),
        });
    }
    Ok(first)
}

fn are_alike(a: &InputSpec, b: &InputSpec) -> bool {
    let dims = |(x, y): (&Option<usize>, &Option<usize>)| x.is_none() || y.is_none() || x == y;
    (&a.name, a.data_type, a.shape.len()) == (&b.name, b.data_type, b.shape.len())
        && a.shape.iter().zip(&b.shape).all(dims)
}

/// Warnings of a session, with the file they are about.
fn warnings_of<'a>(session: &'a Session, path: &'a Path) -> impl Iterator<Item = String> + 'a {
    session.warnings().iter().map(|warning| format!("`{}`: {warning}", path.display()))
}
