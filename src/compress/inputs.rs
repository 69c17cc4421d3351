//! What a model is run on: samples of the data, or random ones.

use super::Request;
use super::parts::Parts;
use super::streamed;
use crate::error::{Error, Result};
use crate::eval::{Batches, Evaluator, part};
use crate::graph::{self, InputSpec};
use crate::onnx::Model;
use crate::tensor::Tensor;
use crate::validate::{Agreement, concrete_shapes, guessed_shapes, random_inputs};

/// What a compression works with besides the model.
pub(super) struct Inputs {
    pub parts: Option<Parts>,
    /// One sample; none where the model can't be run.
    pub sample: Vec<Tensor>,
    pub warnings: Vec<String>,
    /// Why the model can't be run.
    pub unrunnable: Option<String>,
}

impl Inputs {
    /// The samples that a request names, or random ones. Where the evaluator can't run the model,
    /// neither: weights alone decide then.
    ///
    /// # Errors
    /// When data or shapes don't fit the model, and when it can't be run where that is needed.
    pub fn of(model: &Model, request: &Request) -> Result<Self> {
        let specs = graph::inputs(model);
        let needed = request.train.is_some() || request.options.max_drop.is_some();
        let mut warnings = Vec::new();
        let fault = match specs {
            Ok(specs) => {
                let parts = Parts::of(request, &specs)?;
                let run = |inputs: &[Tensor]| Evaluator::new(model)?.run(inputs.to_vec());
                let tried = match &parts {
                    Some(parts) => {
                        let fixed = Batches::new(specs.clone()).fixed;
                        let inputs = parts.data.batch(&parts.calibration[..1])?;
                        let inputs: Vec<_> =
                            inputs.iter().map(|t| part(t, &(0..1), fixed)).collect();
                        run(&inputs).map(|_| inputs)
                    }
                    None => sample(model, &specs, request, &mut warnings)?,
                };
                match tried {
                    Ok(sample) => return Ok(Self { parts, sample, warnings, unrunnable: None }),
                    // The data may be what is wrong.
                    Err(fault @ (Error::DataMismatch { .. } | Error::Data { .. })) => {
                        return Err(fault);
                    }
                    Err(fault) => {
                        let none = &mut Vec::new();
                        if parts.is_some() && sample(model, &specs, request, none)?.is_ok() {
                            return Err(fault);
                        }
                        fault
                    }
                }
            }
            Err(fault) => fault,
        };
        if needed {
            return Err(fault);
        }
        let reason = fault.chain();
        if request.data.is_some() {
            warnings.push("the data were not used: the model can't be run on them".to_owned());
        }
        Ok(Self { parts: None, sample: Vec::new(), warnings, unrunnable: Some(reason) })
    }
}

impl Inputs {
    /// Random inputs for a model that is too large to be held, of which weights alone decide.
    ///
    /// # Errors
    /// When shapes don't fit the model.
    pub fn streamed(model: &Model, request: &Request) -> Result<Self> {
        let mut warnings = Vec::new();
        let run = |inputs: &[Tensor]| streamed::shapes(model, inputs, &[]).map(drop);
        let tried = match graph::inputs(model) {
            Ok(specs) => sample_by(run, &specs, request, &mut warnings)?,
            Err(fault) => Err(fault),
        };
        let (sample, unrunnable) = match tried {
            Ok(sample) => (sample, None),
            Err(fault) => (Vec::new(), Some(fault.chain())),
        };
        Ok(Self { parts: None, sample, warnings, unrunnable })
    }
}

/// Whether samples have the same outputs in one run as on their own.
///
/// # Errors
/// When a sample can't be run on its own.
pub(super) fn are_independent(model: &Model, parts: &Parts) -> Result<bool> {
    let evaluator = Evaluator::new(model)?;
    if evaluator.batches().fixed.is_some() || parts.calibration.len() < 2 {
        return Ok(true);
    }
    let few = &parts.calibration[..parts.calibration.len().min(TRIED)];
    let all = parts.data.batch(few)?;
    let together = evaluator.run(all).and_then(|outputs| evaluator.per_sample(outputs, few.len()));
    let Ok(together) = together else { return Ok(false) };
    // Each against its own: the first may know nothing of those that follow, and yet these of it.
    for (at, sample) in few.iter().enumerate() {
        let own = parts.data.batch(&[*sample])?;
        let own = evaluator.per_sample(evaluator.run(own)?, 1)?;
        let part: Vec<Tensor> = together.iter().map(|t| t.slice_batch(at, at + 1)).collect();
        let agreement = Agreement::between(&own, &part);
        if !agreement.is_ok_and(|a| a.max_relative_difference() < TOGETHER) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Samples that are run together and alone.
const TRIED: usize = 8;

/// Relative difference of outputs that another order of sums may make.
const TOGETHER: f64 = 1e-3;

/// Extents that open dims are tried with.
const EXTENTS: [usize; 7] = [64, 16, 128, 224, 8, 32, 1];

/// Random inputs on which the model runs, with plausible extents where it leaves dims open; or the
/// fault of the first that were tried.
fn sample(
    model: &Model,
    specs: &[InputSpec],
    request: &Request,
    warnings: &mut Vec<String>,
) -> Result<Result<Vec<Tensor>>> {
    let evaluator = Evaluator::new(model)?;
    sample_by(|inputs| evaluator.run(inputs.to_vec()).map(drop), specs, request, warnings)
}

/// The same for a model that `run` runs.
fn sample_by(
    run: impl Fn(&[Tensor]) -> Result<()>,
    specs: &[InputSpec],
    request: &Request,
    warnings: &mut Vec<String>,
) -> Result<Result<Vec<Tensor>>> {
    let open = concrete_shapes(specs, &request.shapes).is_err();
    let mut first = None;
    for &extent in &EXTENTS[..if open { EXTENTS.len() } else { 1 }] {
        let shapes = guessed_shapes(specs, &request.shapes, extent)?;
        let inputs = random_inputs(specs, &shapes, request.options.seed)?;
        match run(&inputs) {
            Ok(()) => {
                if open {
                    warnings.push(format!(
                        "open dims of inputs were taken as {extent} to run the model; --shape says \
                         what they are"
                    ));
                }
                return Ok(Ok(inputs));
            }
            Err(fault) => first = first.or(Some(fault)),
        }
    }
    Ok(Err(first.unwrap_or_else(|| Error::InvalidModel { reason: "no inputs to try".to_owned() })))
}
