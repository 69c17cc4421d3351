//! What the program does, one function per command.

mod bench;
mod check;
mod eval;
mod pending;
mod target;

use std::path::PathBuf;

use crate::dataset::{Dataset, Preprocess};
use crate::error::Result;
use crate::graph::InputSpec;
use crate::options::Options;

pub use bench::bench;
pub use check::{Check, check};
pub use eval::{Eval, Runtime, eval};
pub use pending::{apply, compress, inspect};
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
    /// Shapes of inputs whose dims the model leaves open, by name.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Where the plan goes.
    pub save_plan: Option<PathBuf>,
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
    /// Opens the data for a model's inputs.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open(&self, inputs: &[InputSpec]) -> Result<Dataset> {
        Dataset::open(&self.path, inputs, self.labels.as_deref(), &self.preprocess)
    }
}
