//! Runs models in tract, from the file on disk: the proof that what was written works elsewhere.

mod compare;
mod inputs;
mod latency;
mod pieces;
mod samples;
mod table;
#[cfg(test)]
mod tests;
mod timing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tract_onnx::prelude::{
    Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, IntoTValue, TVec,
    TractResult, TypedRunnableModel,
};
use tract_onnx::tract_hir::internal::Factoid;

use crate::error::{Error, OpError, Result};
use crate::eval::Batches;
use crate::graph::{self, InputSpec};
use crate::onnx::{Model, ValueInfoProto};
use crate::tensor::Tensor;
use crate::tract::{from_tract, guarded, to_tract};

pub use compare::{Agreement, Difference};
pub use inputs::{concrete_shapes, guessed_shapes, random_inputs};
pub use latency::{Latency, latency};
pub use pieces::{PieceProof, run_in_pieces};
pub use table::{LatencyTable, Point};
pub use timing::nanoseconds;

/// The runtime's name in reports and errors.
pub const RUNTIME: &str = "tract";

/// A model file loaded by tract, ready to run on any thread.
pub struct Session {
    plan: Arc<TypedRunnableModel>,
    batches: Batches,
    outputs: Vec<String>,
    warnings: Vec<String>,
}

impl Session {
    /// Loads the model at `path`.
    ///
    /// A model that tract can't prepare with its open dims is prepared for batches of one sample,
    /// then without tract's own optimizations; [`Session::warnings`] tells.
    ///
    /// # Errors
    /// As [`Model::read`], and [`Error::Runtime`] when tract refuses the model.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_shaped(path, &[])
    }

    /// Loads the model at `path` for batches of samples like those in `batch`, one tensor per
    /// input, of as many samples as [`Session::run_samples`] gives it at once.
    ///
    /// # Errors
    /// As [`Session::open_shaped`].
    pub fn open_for(path: &Path, batch: &[Tensor]) -> Result<Self> {
        let specs = graph::inputs(&Model::read(path)?)?;
        // An input that leaves its batch open gets as many samples as one that doesn't.
        let batch_size = Batches::new(specs.clone()).fixed.unwrap_or(1);
        let shape = |(spec, tensor): (&InputSpec, &Tensor)| {
            let mut shape = tensor.shape().to_vec();
            if let Some(samples) = shape.first_mut() {
                *samples = spec.shape.first().copied().flatten().unwrap_or(batch_size);
            }
            (spec.name.clone(), shape)
        };
        let shapes: Vec<_> = specs.iter().zip(batch).map(shape).collect();
        Self::open_shaped(path, &shapes)
    }

    /// Loads the model at `path` for inputs of the given shapes only; other inputs keep theirs.
    ///
    /// # Errors
    /// As [`Session::open`], and [`Error::Option`] for a shape that fits no input.
    pub fn open_shaped(path: &Path, shapes: &[(String, Vec<usize>)]) -> Result<Self> {
        let model = Model::read(path)?;
        let mut specs = graph::inputs(&model)?;
        inputs::apply_shapes(&mut specs, shapes)?;
        let loader = Loader { path, specs: &specs, pinned: !shapes.is_empty() };
        let (plan, warnings) = loader.load()?;
        let outputs = model.graph().output.iter().map(|o| ValueInfoProto::name(o).to_owned());
        let outputs = outputs.collect();
        Ok(Self { plan, batches: Batches::new(specs), outputs, warnings })
    }

    /// The batch sizes that the model takes, and its inputs.
    #[must_use]
    pub fn batches(&self) -> &Batches {
        &self.batches
    }

    /// The inputs that [`Session::run`] takes, in that order.
    #[must_use]
    pub fn inputs(&self) -> &[InputSpec] {
        &self.batches.inputs
    }

    /// Names of the outputs in the order of [`Session::run`].
    #[must_use]
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// The batch size that the model demands; `None` where it takes any.
    #[must_use]
    pub fn fixed_batch(&self) -> Option<usize> {
        self.batches.fixed
    }

    /// What had to be done for tract to take the model.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Runs the model on one tensor per input.
    ///
    /// # Errors
    /// [`Error::DataMismatch`] when the inputs are too few or too many, [`Error::Runtime`] when
    /// tract fails.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        if inputs.len() != self.inputs().len() {
            return Err(Error::DataMismatch {
                reason: format!("{} inputs for a model of {}", inputs.len(), self.inputs().len()),
            });
        }
        let given = inputs
            .iter()
            .map(|tensor| Ok(to_tract(tensor)?.into_tvalue()))
            .collect::<Result<TVec<_>, OpError>>()
            .map_err(fault)?;
        let values = guarded(|| self.plan.run(given)).map_err(fault)?;
        values.iter().map(|value| from_tract(value).map_err(fault)).collect()
    }
}

/// A fault in tract as the library's error.
fn fault(error: OpError) -> Error {
    let reason = match error {
        OpError::Unsupported { reason } => reason,
        other => other.to_string(),
    };
    Error::Runtime { runtime: RUNTIME, reason }
}

struct Loader<'a> {
    path: &'a Path,
    specs: &'a [InputSpec],
    /// Whether the shapes of `specs` are more than the file says.
    pinned: bool,
}

impl Loader<'_> {
    /// Tries the ways to prepare the model, best first; the error is the first one's.
    fn load(&self) -> Result<(Arc<TypedRunnableModel>, Vec<String>)> {
        let mut first = None;
        for (batch, optimize, warning) in [
            (None, true, None),
            (Some(1), true, Some("tract could prepare this model only for batches of one sample")),
            (None, false, Some("tract runs this model without its optimizations")),
        ] {
            if batch.is_some() && !self.has_open_batch() {
                continue;
            }
            match guarded(|| self.prepare(batch, optimize)) {
                Ok(plan) => return Ok((plan, warning.map(str::to_owned).into_iter().collect())),
                Err(error) => {
                    log::debug!("tract, batch {batch:?}, optimize {optimize}: {error}");
                    first.get_or_insert(error);
                }
            }
        }
        Err(fault(first.unwrap_or_else(|| OpError::unsupported("no way to load the model"))))
    }

    fn has_open_batch(&self) -> bool {
        self.specs.iter().any(|spec| spec.shape.first() == Some(&None))
    }

    fn prepare(
        &self,
        batch: Option<usize>,
        optimize: bool,
    ) -> TractResult<Arc<TypedRunnableModel>> {
        // A bare file name has the empty path for its folder, where no external data would be.
        let path: PathBuf = if self.path.parent() == Some(Path::new("")) {
            Path::new(".").join(self.path)
        } else {
            self.path.to_owned()
        };
        let pins = self.pinned || batch.is_some();
        // A recorded type may name a dim that is pinned here; to tract these are two different dims.
        let framework = tract_onnx::onnx().with_ignore_value_info(pins);
        let mut model: InferenceModel = framework.model_for_path(path)?;
        if pins {
            for (index, spec) in self.specs.iter().enumerate() {
                self.pin(&mut model, index, spec, batch)?;
            }
        }
        if optimize {
            model.into_optimized()?.into_runnable()
        } else {
            model.into_typed()?.into_runnable()
        }
    }

    /// States an input's shape; dims that stay open keep what the file says.
    fn pin(
        &self,
        model: &mut InferenceModel,
        index: usize,
        spec: &InputSpec,
        batch: Option<usize>,
    ) -> TractResult<()> {
        let mut dims = spec.shape.clone();
        if let (Some(first @ None), Some(size)) = (dims.first_mut(), batch) {
            *first = Some(size);
        }
        let concrete: Option<Vec<usize>> = dims.into_iter().collect();
        if let Some(shape) = concrete {
            let known = model.input_fact(index)?.datum_type.concretize();
            if let Some(data_type) = known {
                model.set_input_fact(index, InferenceFact::dt_shape(data_type, shape))?;
            }
        }
        Ok(())
    }
}
