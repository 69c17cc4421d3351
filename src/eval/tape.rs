//! Going backward through a recorded run.

use std::collections::HashMap;
use std::ops::Range;

use super::recorder::{Operators, Parameter, Recorder};
use super::{State, ValueId};
use crate::error::{Error, OpError, Result};
use crate::ops::backward::accumulate;
use crate::ops::{Backward, Kept};
use crate::tensor::Tensor;

/// What is kept of a step's run.
pub(super) struct Entry {
    pub(super) step: usize,
    pub(super) inputs: Vec<Option<Kept>>,
    pub(super) outputs: Vec<Option<Kept>>,
}

impl Entry {
    /// Bytes of every value kept.
    pub(super) fn bytes(&self) -> impl Iterator<Item = usize> {
        let kept = self.inputs.iter().chain(&self.outputs).flatten();
        kept.filter_map(|kept| kept.value.as_ref()).map(Tensor::byte_len)
    }
}

/// A recorded run.
pub struct Tape<'r> {
    pub(super) recorder: &'r Recorder,
    /// Outputs and watched values.
    pub(super) state: State,
    /// Stretches of steps that are to be run again, and the values before each.
    pub(super) held: Vec<(Range<usize>, State)>,
    /// What is kept of the steps after them.
    pub(super) entries: Vec<Entry>,
    pub(super) operators: Operators,
}

impl Tape<'_> {
    /// The graph's outputs.
    ///
    /// # Errors
    /// As [`super::Evaluator::finish`].
    pub fn outputs(&self) -> Result<Vec<Tensor>> {
        self.recorder.evaluator.finish(&self.state)
    }

    /// The value of an output or a watched value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Tensor> {
        self.recorder.evaluator.get(&self.state, self.recorder.evaluator.value(name)?)
    }

    /// Bytes of the values kept for the rules; a value that several steps keep counts for each.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.entries.iter().flat_map(Entry::bytes).sum()
    }

    /// Takes the last stretch of steps that is to be run again, and records it; whether there was
    /// one.
    ///
    /// # Errors
    /// As [`super::Evaluator::run`].
    pub(super) fn recall(&mut self) -> Result<bool> {
        let Some((steps, mut state)) = self.held.pop() else { return Ok(false) };
        // What is left of the stretch behind it is freed first.
        self.entries = Vec::new();
        self.entries = self.recorder.pass(&mut state, steps, &self.operators, true)?;
        Ok(true)
    }

    /// The gradients of parameters and watched values, by name, from those of outputs or watched
    /// values. What the given values don't depend on is not among them. A value that several steps
    /// read has the sum of what they give. Every step's values are freed when it is done.
    ///
    /// # Errors
    /// When a given gradient's value is not kept or has another shape; with the node's name, when
    /// the gradient has to pass a node without a rule or a rule fails.
    pub fn backward(
        self,
        gradients: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<HashMap<String, Tensor>> {
        self.backward_onto(gradients, HashMap::new())
    }

    /// [`Tape::backward`] that adds the parameters' gradients to `totals`, what earlier runs gave,
    /// and returns the sums: mostly in place, where nothing else shares the totals.
    ///
    /// # Errors
    /// As [`Tape::backward`], and when a total has another shape than its parameter.
    pub fn backward_onto(
        mut self,
        gradients: impl IntoIterator<Item = (String, Tensor)>,
        mut totals: HashMap<String, Tensor>,
    ) -> Result<HashMap<String, Tensor>> {
        let recorder = self.recorder;
        let state = std::mem::take(&mut self.state);
        let evaluator = &recorder.evaluator;
        let mut found: HashMap<ValueId, Tensor> = HashMap::new();
        for (name, gradient) in gradients {
            let fault = |reason: String| Error::DataMismatch { reason };
            let id = evaluator.value(&name);
            let value = id.and_then(|id| Some((id, evaluator.get(&state, id)?)));
            let Some((id, value)) = value else {
                return Err(fault(format!("`{name}` is neither an output nor watched")));
            };
            let shapes = (gradient.shape(), value.shape());
            if shapes.0 != shapes.1 {
                return Err(fault(format!("gradient {:?} of `{name}` {:?}", shapes.0, shapes.1)));
            }
            add(&mut found, id, gradient)
                .map_err(|source| fault(format!("gradient of `{name}`: {source}")))?;
        }
        for Parameter { name, id, stored } in &recorder.parameters {
            let Some(total) = totals.remove(name) else { continue };
            if total.shape() != stored.shape() || total.data_type() != stored.data_type() {
                let reason = format!("a total {:?} of `{name}`", total.shape());
                return Err(Error::DataMismatch { reason });
            }
            found.insert(*id, total);
        }
        drop(state);
        let mut result = totals;
        loop {
            let Some(entry) = self.entries.pop() else {
                if self.recall()? {
                    continue;
                }
                break;
            };
            let step = &evaluator.steps[entry.step];
            let Some(plan) = &recorder.plans[entry.step] else { continue };
            let gradients: Vec<Option<Tensor>> = step
                .outputs
                .iter()
                .map(|id| {
                    let gradient = found.remove(&(*id)?)?;
                    if let Some(name) = recorder.watched.get(&(*id)?) {
                        result.insert(name.clone(), gradient.clone());
                    }
                    Some(gradient)
                })
                .collect();
            if gradients.iter().all(Option::is_none) {
                continue;
            }
            let (inputs, outputs) = (&entry.inputs, &entry.outputs);
            let so_far = step.inputs.iter().zip(&plan.wanted);
            let so_far = so_far.map(|(id, wanted)| id.filter(|_| *wanted));
            let so_far = so_far.map(|id| found.remove(&id?)).collect();
            let mut pass = Backward { inputs, outputs, gradients, wanted: &plan.wanted, so_far };
            let prepared = self.operators.get(entry.step).and_then(Option::as_deref);
            let operator = prepared.unwrap_or(&*step.operator);
            let given = operator.backward(&mut pass).and_then(|given| {
                let left = std::mem::take(&mut pass.so_far);
                drop(pass);
                for (id, left) in step.inputs.iter().zip(left) {
                    found.extend((*id).zip(left));
                }
                for (i, gradient) in given.into_iter().enumerate() {
                    let (Some(gradient), Some(Some(id)), true) =
                        (gradient, step.inputs.get(i), plan.wanted.get(i) == Some(&true))
                    else {
                        continue;
                    };
                    let shape = inputs[i].as_ref().map(|kept| kept.shape.as_slice());
                    if shape != Some(gradient.shape()) {
                        let given = gradient.shape();
                        return Err(OpError::shape(format!("a gradient {given:?} of {shape:?}")));
                    }
                    add(&mut found, *id, gradient)?;
                }
                Ok(())
            });
            given.map_err(|source| Error::Node {
                node: step.label.node.clone(),
                op_type: step.label.op_type.clone(),
                source,
            })?;
        }
        for parameter in &recorder.parameters {
            if let Some(gradient) = found.remove(&parameter.id) {
                result.insert(parameter.name.clone(), gradient);
            }
        }
        Ok(result)
    }
}

/// Adds a gradient to what a value has so far.
fn add(
    found: &mut HashMap<ValueId, Tensor>,
    id: ValueId,
    gradient: Tensor,
) -> std::result::Result<(), OpError> {
    let sum = match found.remove(&id) {
        Some(other) => accumulate(other, gradient)?,
        None => gradient,
    };
    found.insert(id, sum);
    Ok(())
}
