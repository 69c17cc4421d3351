//! Runs a graph with this crate's operators, and with tract what they lack.
//!
//! An [`Evaluator`] is a list of steps made once from a model: operators are decoded, weights laid
//! out, constants folded, additions and activations fused into the products before them. A
//! [`State`] holds the values that are alive; it can be kept at any step, cloned cheaply and
//! carried on from there, with some steps replaced by others.

mod batches;
mod chain;
mod compile;
mod fuse;
mod gelu;
pub mod moments;
mod memory;
mod pieces;
mod recorder;
mod tape;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, OpError, Result};
use crate::onnx::{Model, NodeProto, OpsetImport};
use crate::ops::{Epilogue, Foreign, Operator};
use crate::tensor::Tensor;

pub use batches::{Batches, InputSpec, filled_up, first_samples, join, part, per_sample};
pub use chain::Chain;
pub use memory::Bound;
pub use pieces::{Pieces, Ran};
pub use recorder::{Obstacle, Prepared, Recorder};
pub use tape::Tape;

/// Index of a value among an evaluator's values.
pub type ValueId = usize;

/// A graph, ready to run.
#[derive(Clone)]
pub struct Evaluator {
    steps: Vec<Step>,
    names: Arc<HashMap<String, ValueId>>,
    /// Values that are there before any step.
    constants: Arc<HashMap<ValueId, Tensor>>,
    /// For every value the last step that reads it; `usize::MAX` for outputs and observed values.
    last_use: Arc<Vec<usize>>,
    inputs: Arc<Vec<ValueId>>,
    outputs: Arc<Vec<ValueId>>,
    batches: Batches,
    /// Bytes of the largest value that one sample has, once that was asked for.
    widest: Arc<OnceLock<usize>>,
}

/// One node's work, with what is fused into it.
#[derive(Clone)]
struct Step {
    /// Index of the node in the model's graph.
    node: usize,
    operator: Arc<dyn Operator>,
    epilogue: Epilogue,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
    label: Arc<Label>,
    /// Runs the node when the operator turns out not to take its inputs' types.
    fallback: Option<Arc<Foreign>>,
    /// Whether the operator has run: then it takes the inputs that this step gets.
    taken: Arc<AtomicBool>,
}

struct Label {
    node: String,
    op_type: String,
}

/// The values that are alive at some point of a run.
#[derive(Clone, Default)]
pub struct State {
    values: HashMap<ValueId, Tensor>,
    /// The next step to run.
    next: usize,
}

impl State {
    /// The step that runs next.
    #[must_use]
    pub fn next(&self) -> usize {
        self.next
    }

    /// Bytes of the tensors held; parts of one array count each.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.values.values().map(Tensor::byte_len).sum()
    }
}

impl Evaluator {
    /// The inputs the model asks for, constants apart, in graph order.
    #[must_use]
    pub fn inputs(&self) -> &[InputSpec] {
        &self.batches.inputs
    }

    /// How samples are put together into one run.
    #[must_use]
    pub fn batches(&self) -> &Batches {
        &self.batches
    }

    /// Number of steps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The step that computes a node; `None` where it was folded or fused away, or is dead.
    #[must_use]
    pub fn step_of(&self, node: usize) -> Option<usize> {
        self.steps.iter().position(|step| step.node == node)
    }

    /// Whether the step's result has had another value added.
    #[must_use]
    pub fn residual_of(&self, step: usize) -> bool {
        self.steps[step].epilogue.residual
    }

    /// A value's id.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// The state before the first step.
    ///
    /// # Errors
    /// When the number of inputs is not the model's.
    pub fn start(&self, inputs: Vec<Tensor>) -> Result<State> {
        if inputs.len() != self.inputs.len() {
            return Err(Error::DataMismatch {
                reason: format!(
                    "the model has {} inputs, {} were given",
                    self.inputs.len(),
                    inputs.len()
                ),
            });
        }
        Ok(State { values: self.inputs.iter().copied().zip(inputs).collect(), next: 0 })
    }

    /// Runs up to, not including, step `until`; values that no later step reads are dropped.
    ///
    /// # Errors
    /// When an operator fails; with the node's name.
    pub fn advance(&self, state: &mut State, until: usize) -> Result<()> {
        while state.next < until.min(self.steps.len()) {
            let index = state.next;
            let inputs = self.gather(state, index);
            let outputs = self.execute(index, inputs)?;
            self.store(state, index, outputs);
            state.next += 1;
        }
        Ok(())
    }

    /// The inputs of a step, moved out of the state where no later step reads them.
    fn gather(&self, state: &mut State, index: usize) -> Vec<Option<Tensor>> {
        let ids = self.steps[index].inputs.iter();
        ids.map(|id| id.and_then(|id| self.take(state, id, index))).collect()
    }

    /// Puts a step's outputs into the state, those that something reads.
    fn store(&self, state: &mut State, index: usize, outputs: Vec<Tensor>) {
        for (id, tensor) in self.steps[index].outputs.iter().zip(outputs) {
            if let Some(id) = *id
                && self.last_use[id] > index
            {
                state.values.insert(id, tensor);
            }
        }
    }

    /// Runs a step's operator, or what stands in for it where it doesn't take the inputs' types.
    fn execute(&self, index: usize, inputs: Vec<Option<Tensor>>) -> Result<Vec<Tensor>> {
        self.execute_as(index, &*self.steps[index].operator, inputs)
    }

    /// [`Evaluator::execute`] with another form of the step's operator.
    fn execute_as(
        &self,
        index: usize,
        operator: &dyn Operator,
        mut inputs: Vec<Option<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        let step = &self.steps[index];
        // Only until the operator has taken its inputs' types once: the second reference would
        // keep it from working in place.
        let first = step.fallback.is_some() && !step.taken.load(Ordering::Relaxed);
        let retry = first.then(|| inputs.clone());
        match (operator.run(&mut inputs), &step.fallback, retry) {
            (
                Err(OpError::Unsupported { .. } | OpError::DataType { .. }),
                Some(foreign),
                Some(mut inputs),
            ) => foreign.run(&mut inputs),
            (Ok(outputs), ..) => {
                step.taken.store(true, Ordering::Relaxed);
                Ok(outputs)
            }
            (fault, ..) => fault,
        }
        .map_err(|source| Error::Node {
            node: step.label.node.clone(),
            op_type: step.label.op_type.clone(),
            source,
        })
    }

    /// A value for the given step: moved out of the state when the step is the last to read it.
    fn take(&self, state: &mut State, id: ValueId, step: usize) -> Option<Tensor> {
        if let Some(constant) = self.constants.get(&id) {
            return Some(constant.clone());
        }
        // A value read twice by its last step is moved to the last of the two.
        let again = self.steps[step].inputs.iter().filter(|i| **i == Some(id)).count() > 1;
        if self.last_use[id] == step && !again {
            state.values.remove(&id)
        } else {
            state.values.get(&id).cloned()
        }
    }

    /// A value that is alive in `state`, or constant.
    #[must_use]
    pub fn get(&self, state: &State, id: ValueId) -> Option<Tensor> {
        self.constants.get(&id).or_else(|| state.values.get(&id)).cloned()
    }

    /// What a step will read as its `position`-th input: for a fused addition the added value is the
    /// last.
    #[must_use]
    pub fn step_input(&self, state: &State, step: usize, position: usize) -> Option<Tensor> {
        self.get(state, self.steps.get(step)?.inputs.get(position).copied()??)
    }

    /// The value added to a step's result by fusion.
    #[must_use]
    pub fn step_residual(&self, state: &State, step: usize) -> Option<Tensor> {
        let step = &self.steps[step];
        if !step.epilogue.residual {
            return None;
        }
        self.get(state, step.inputs.last().copied()??)
    }

    /// The graph's outputs, once every step has run.
    ///
    /// # Errors
    /// When one is missing: a graph output that nothing computes.
    pub fn finish(&self, state: &State) -> Result<Vec<Tensor>> {
        self.outputs
            .iter()
            .map(|&id| {
                self.get(state, id).ok_or_else(|| Error::InvalidModel {
                    reason: "an output is computed by no node".to_owned(),
                })
            })
            .collect()
    }

    /// Runs the whole graph on one set of inputs, in graph order.
    ///
    /// # Errors
    /// As [`Evaluator::advance`].
    pub fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let mut state = self.start(inputs)?;
        self.advance(&mut state, usize::MAX)?;
        self.finish(&state)
    }

    /// The shapes that the named values have for these inputs.
    ///
    /// # Errors
    /// As [`Evaluator::observing`] and [`Evaluator::advance`].
    pub fn shapes(
        model: &Model,
        inputs: Vec<Tensor>,
        names: &[&str],
    ) -> Result<HashMap<String, Vec<usize>>> {
        let evaluator = Self::observing(model, names)?;
        let mut state = evaluator.start(inputs)?;
        evaluator.advance(&mut state, usize::MAX)?;
        let shape = |name: &&str| {
            let tensor = evaluator.get(&state, evaluator.value(name)?)?;
            Some(((*name).to_owned(), tensor.shape().to_vec()))
        };
        Ok(names.iter().filter_map(shape).collect())
    }

    /// This evaluator with the operator of one step replaced; what is fused into the step stays.
    /// All else is shared.
    ///
    /// # Errors
    /// When `nodes` can't be run in the place of the step's node.
    pub fn replace(
        &mut self,
        step: usize,
        nodes: &[NodeProto],
        constants: &HashMap<String, Tensor>,
        original: &NodeProto,
        opsets: &[OpsetImport],
    ) -> Result<()> {
        let epilogue = self.steps[step].epilogue.clone();
        let chain = Chain::new(nodes, constants, original, opsets, epilogue)?;
        self.steps[step].operator = Arc::new(chain);
        self.steps[step].fallback = None;
        Ok(())
    }

    /// Gives a step back the operator it has in `original`, of which this evaluator is a copy.
    pub fn restore(&mut self, step: usize, original: &Self) {
        self.steps[step] = original.steps[step].clone();
    }
}
