//! How samples are put together into one run of a graph.

use rayon::prelude::*;

use super::{Evaluator, ValueId};
use crate::error::{Error, OpError, Result};
use crate::kernels::share;
use crate::tensor::Tensor;

pub use crate::graph::InputSpec;

/// Elements of all inputs that one run holds at most, unless one sample has more: small enough for
/// a thread's cache to hold what lies between two operators.
const ELEMENTS: usize = 8 * 1024;

/// The samples of one run, at most.
const SAMPLES: usize = 32;

/// Bytes of one value of a run, at most, unless one sample has more: what a token's features are says
/// nothing of by its inputs.
const VALUE_BYTES: usize = 2 << 20;

/// The batch sizes a model takes.
#[derive(Clone, Debug)]
pub struct Batches {
    /// The model's inputs.
    pub inputs: Vec<InputSpec>,
    /// The batch size that the model demands; `None` where it takes any.
    pub fixed: Option<usize>,
}

impl Batches {
    /// The batch sizes that a model of these inputs takes.
    #[must_use]
    pub fn new(inputs: Vec<InputSpec>) -> Self {
        let fixed = inputs.iter().filter_map(|input| input.shape.first().copied().flatten()).max();
        Self { inputs, fixed }
    }

    /// Position of the one input that is a mask of sequences, `[samples, length]`, by its name. Names that
    /// speak of padding often mean the opposite.
    #[must_use]
    pub fn mask(&self) -> Option<usize> {
        let is_mask = |spec: &InputSpec| {
            let name = spec.name.to_lowercase();
            name.contains("mask") && !name.contains("pad") && spec.shape.len() == 2
        };
        let mut masks = (0..self.inputs.len()).filter(|&i| is_mask(&self.inputs[i]));
        masks.next().filter(|_| masks.next().is_none())
    }

    /// Samples per run, at most `most`.
    fn size(&self, most: usize) -> usize {
        // A power of two divides usual numbers of samples into equal runs.
        self.fixed.unwrap_or(1 << most.clamp(1, SAMPLES).ilog2()).max(1)
    }
}

impl Evaluator {
    /// Samples per run, for samples like those of `inputs` (one tensor per input).
    #[must_use]
    pub fn batch_size(&self, inputs: &[Tensor]) -> usize {
        self.batch_size_within(inputs, ELEMENTS, Vec::new)
    }

    /// The same with another number of input elements that a run holds at most, and with values that the
    /// graph takes besides its inputs.
    pub(super) fn batch_size_within(
        &self,
        inputs: &[Tensor],
        elements: usize,
        others: impl FnOnce() -> Vec<(ValueId, Tensor)>,
    ) -> usize {
        let samples = |t: &Tensor| t.shape().first().copied().unwrap_or(1).max(1);
        let of_sample: usize = inputs.iter().map(|t| t.len() / samples(t)).sum();
        let most = elements / of_sample.max(1);
        let none = inputs.iter().any(|t| t.shape().first().is_none_or(|&samples| samples == 0));
        if self.batches.fixed.is_some() || most <= 1 || none {
            return self.batches.size(most);
        }
        let widest = *self.widest.get_or_init(|| {
            let one = inputs.iter().map(|t| t.slice_batch(0, 1)).collect();
            // What can't be run will say so when it is.
            self.widest_of(one, others()).unwrap_or(0)
        });
        self.batches.size(most.min(VALUE_BYTES / widest.max(1)))
    }

    /// Bytes of the largest value of a run.
    fn widest_of(&self, inputs: Vec<Tensor>, others: Vec<(ValueId, Tensor)>) -> Result<usize> {
        let mut state = self.start(inputs)?;
        state.values.extend(others);
        let mut widest = 0;
        for step in 1..=self.len() {
            self.advance(&mut state, step)?;
            let outputs = self.steps[step - 1].outputs.iter().flatten();
            let bytes = outputs.filter_map(|id| state.values.get(id)).map(Tensor::byte_len);
            widest = bytes.fold(widest, usize::max);
        }
        Ok(widest)
    }

    /// Runs all samples of `inputs` (one tensor per input, axis 0 the samples) over the current
    /// thread pool, and joins the outputs on axis 0. The same results on any number of threads.
    ///
    /// # Errors
    /// When an operator fails, or an output has no sample axis.
    pub fn run_all(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let samples = inputs.first().and_then(|t| t.shape().first().copied()).unwrap_or(1);
        let size = self.batch_size(inputs);
        let count = samples.div_ceil(size);
        let runs: Vec<Vec<Tensor>> = (0..count)
            .into_par_iter()
            .map(|run| {
                let range = run * size..((run + 1) * size).min(samples);
                let batch = inputs.iter().map(|t| part(t, &range, self.batches().fixed)).collect();
                let outputs =
                    if count == 1 { share::alone(|| self.run(batch)) } else { self.run(batch) };
                self.per_sample(outputs?, range.len())
            })
            .collect::<Result<_>>()?;
        join(&runs)
    }
}

impl Evaluator {
    /// The outputs of a run of `samples` samples with axis 0 over those alone: what a fixed batch
    /// was filled up with is cut off, and a batch axis is added where one sample has none.
    ///
    /// # Errors
    /// When an output has no axis over the samples.
    pub fn per_sample(&self, outputs: Vec<Tensor>, samples: usize) -> Result<Vec<Tensor>> {
        let fixed = self.batches().fixed;
        outputs.iter().enumerate().map(|(i, o)| per_sample(o, samples, fixed, i)).collect()
    }
}

/// Samples `range` of a tensor; the last sample is repeated to make up a fixed batch.
#[must_use]
pub fn part(tensor: &Tensor, range: &std::ops::Range<usize>, fixed: Option<usize>) -> Tensor {
    match fixed {
        Some(fixed) if range.len() < fixed => {
            let rows: Vec<usize> =
                range.clone().chain(std::iter::repeat(range.end - 1)).take(fixed).collect();
            tensor.select_batch(&rows)
        }
        _ => tensor.slice_batch(range.start, range.end),
    }
}

/// The first `samples` of a value that a run of `run` samples has: what a fixed batch was filled up with
/// is left out. Axis 0 may hold several rows of each sample, such as one per time step, in order of the
/// samples; values whose axis 0 is not over samples stay.
#[must_use]
pub fn first_samples(tensor: &Tensor, samples: usize, run: usize) -> Tensor {
    match tensor.shape().first() {
        Some(&rows) if samples < run && rows % run == 0 => {
            tensor.slice_batch(0, rows / run * samples)
        }
        _ => tensor.clone(),
    }
}

/// The gradient of an output of a run in the output's own `shape`, from one with axis 0 over the samples
/// alone, as [`per_sample`] gives outputs: rows that a fixed batch was filled up with have zeros.
#[must_use]
pub fn filled_up(gradient: &Tensor, shape: &[usize]) -> Tensor {
    let Tensor::F32(elements) = gradient else { return gradient.clone() };
    if gradient.shape() == shape {
        return gradient.clone();
    }
    let mut all: Vec<f32> = elements.iter().copied().collect();
    all.resize(shape.iter().product(), 0.0);
    Tensor::from_vec(shape, all).unwrap_or_else(|_| gradient.clone())
}

/// An output of a run of `samples` samples with axis 0 over those alone.
///
/// # Errors
/// When the output has no axis over the samples.
pub fn per_sample(
    output: &Tensor,
    samples: usize,
    fixed: Option<usize>,
    index: usize,
) -> Result<Tensor> {
    let run = fixed.unwrap_or(samples);
    match output.shape().first() {
        Some(&rows) if rows == run => Ok(output.slice_batch(0, samples)),
        // One sample whose output has no batch axis, or another meaning of axis 0.
        _ if run == 1 => {
            let shape: Vec<usize> =
                std::iter::once(1).chain(output.shape().iter().copied()).collect();
            output.clone().reshape(&shape).map_err(|source| fault(index, source))
        }
        // Several rows per sample, such as one per time step, in order of the samples.
        Some(&rows) if rows % run == 0 && rows > 0 => {
            let mut shape = vec![run, rows / run];
            shape.extend(&output.shape()[1..]);
            let output = output.clone().reshape(&shape).map_err(|source| fault(index, source))?;
            Ok(output.slice_batch(0, samples))
        }
        _ => Err(fault(
            index,
            OpError::shape(format!("{:?} has no axis over {run} samples", output.shape())),
        )),
    }
}

fn fault(index: usize, source: OpError) -> Error {
    Error::Node { node: format!("output {index}"), op_type: "graph output".to_owned(), source }
}

/// The outputs of several runs, joined on axis 0.
///
/// # Errors
/// When the runs' outputs differ in shape beyond axis 0.
pub fn join(runs: &[Vec<Tensor>]) -> Result<Vec<Tensor>> {
    let outputs = runs.first().map_or(0, Vec::len);
    (0..outputs)
        .map(|i| {
            let parts: Vec<Tensor> = runs.iter().map(|run| run[i].clone()).collect();
            Tensor::concat_batch(&parts).map_err(|source| fault(i, source))
        })
        .collect()
}
