//! What the program does, one function per command.

mod account;
mod bench;
mod check;
mod choose;
#[allow(clippy::module_inception, reason = "the command is called so")]
mod compress;
mod content;
mod eval;
mod file_metric;
mod forms;
mod gentle;
mod inputs;
mod inspect;
mod job;
mod parts;
mod quantization;
mod rank_step;
mod result;
mod scratch;
mod shared;
mod smallest;
mod spectra;
mod statistics;
mod streamed;
mod sweep;
mod target;
mod timing;
mod training;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataset::{Arrays, Dataset, Preprocess};
use crate::error::{Error, Result};
use crate::graph::{self, InputSpec};
use crate::onnx::Model;
use crate::options::Options;
use crate::validate::Session;

use target::is_one_place;

pub use bench::{bench, bench_table};
pub use check::{Check, check};
pub use compress::{apply, compress};
pub use eval::{Eval, Runtime, eval, eval_file};
pub use file_metric::{FileMetric, ProgramMetric};
pub use inspect::inspect;
pub use scratch::{Scratch, compress_bytes};
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
    /// A metric that the user takes of the original and of the written file; with it
    /// [`Options::max_drop`] is about this metric.
    pub file_metric: Option<Arc<dyn FileMetric>>,
    /// Everything else.
    pub options: Options,
}

impl Request {
    /// A request without data or files besides the model's.
    pub fn new(input: impl Into<PathBuf>, output: impl Into<PathBuf>, options: Options) -> Self {
        Self {
            input: input.into(),
            output: output.into(),
            data: None,
            test: None,
            train: None,
            resume: None,
            shapes: Vec::new(),
            save_plan: None,
            report: None,
            command: Vec::new(),
            force: false,
            file_metric: None,
            options,
        }
    }
}

/// Where samples are, and how they are prepared.
#[derive(Clone, Debug)]
pub struct DataSource {
    /// The data; with `arrays` what they are called in reports and messages.
    pub path: PathBuf,
    /// The data where they are in memory.
    pub arrays: Option<Arrays>,
    /// Labels, where they are not part of the data.
    pub labels: Option<PathBuf>,
    /// How stored values become those of the model.
    pub preprocess: Preprocess,
}

impl DataSource {
    /// A file or folder that has its labels with it, if any, prepared as is usual for its kind.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), arrays: None, labels: None, preprocess: Preprocess::default() }
    }

    /// Arrays in memory, under a name for reports and messages.
    pub fn held(arrays: Arrays, name: &str) -> Self {
        Self { arrays: Some(arrays), ..Self::file(name) }
    }

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
        let labels = self.labels.as_deref();
        match &self.arrays {
            Some(arrays) => Dataset::held(arrays, &self.path, inputs, labels, &self.preprocess),
            None => Dataset::open(&self.path, inputs, labels, &self.preprocess),
        }
    }

    /// Whether both are the same samples.
    fn is_same(&self, other: &Self) -> bool {
        match (&self.arrays, &other.arrays) {
            (Some(own), Some(others)) => own.is_same(others),
            (None, None) => is_one_place(&self.path, &other.path),
            _ => false,
        }
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
