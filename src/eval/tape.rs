//! Running a graph so that it can be gone through backward.
//!
//! A [`Recorder`] is an evaluator some of whose constants are parameters, given with every run.
//! Only what has a backward rule is fused. Parameters can be laid out for the kernels once for several
//! runs ([`Recorder::prepare`]). A [`Tape`] holds what the rules of the
//! steps between parameters and outputs read; all other values are dropped as in an ordinary run.
//! Of a recorder that is bound ([`Recorder::bind`]) it holds less, and runs stretches of steps again.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::{Evaluator, State, ValueId};
use crate::error::{Error, OpError, Result};
use crate::graph;
use crate::onnx::Model;
use crate::ops::backward::accumulate;
use crate::ops::{Backward, Derivative, Kept, Operator, Reads};
use crate::tensor::{DataType, Tensor};

/// Elements of all inputs that one recorded run holds at most, unless one sample has more.
const ELEMENTS: usize = 32 * 1024;

/// A graph whose runs can be recorded.
pub struct Recorder {
    evaluator: Evaluator,
    pub(super) parameters: Vec<Parameter>,
    outputs: Vec<String>,
    /// Values whose gradients are asked for besides the parameters'.
    watched: HashMap<ValueId, String>,
    /// For every step, what its recording takes; `None` where no gradient passes.
    plans: Vec<Option<Plan>>,
    /// Steps before which a run's values are held, so that what lies between can be run again.
    pub(super) stops: Vec<usize>,
    /// Samples per recorded run, where that is not by the size of a sample.
    pub(super) run: Option<usize>,
}

/// A constant of the graph that training changes.
pub(super) struct Parameter {
    name: String,
    pub(super) id: ValueId,
    stored: Tensor,
}

/// How a step is recorded.
struct Plan {
    /// Which inputs depend on a parameter.
    wanted: Vec<bool>,
    /// What the rule reads; `None` where there is no rule.
    reads: Option<Reads>,
}

/// Parameters' values, laid out for the kernels: one step of training has many runs with the same.
pub struct Prepared {
    values: Vec<Tensor>,
    operators: Operators,
}

/// For every step its operator with the parameters laid out, where that is another.
type Operators = Arc<[Option<Box<dyn Operator>>]>;

/// A node that parameters' gradients would have to pass, and can't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Name of the node, or of its first output where it has no name.
    pub node: String,
    /// Its operator.
    pub op_type: String,
    /// The parameters behind it, in the recorder's order: their gradients can't be had, or not in
    /// full.
    pub parameters: Vec<String>,
}

impl Evaluator {
    /// The training form of a model's evaluator: the constants `trained` become parameters, and the
    /// gradients of the values `watched` can be had too, which are kept like outputs.
    ///
    /// # Errors
    /// As [`Evaluator::observing`]; when a trained name is no constant of floats.
    pub fn recorder(model: &Model, trained: &[&str], watched: &[&str]) -> Result<Recorder> {
        let mut stored = Vec::with_capacity(trained.len());
        for name in trained {
            let tensor = graph::constant_tensor(model, name)?.filter(is_float);
            stored.push(tensor.ok_or_else(|| Error::InvalidModel {
                reason: format!("there is no constant `{name}` of floats"),
            })?);
        }
        let evaluator = Self::compile(model, watched, Some(trained))?;
        let parameters: Vec<Parameter> = trained
            .iter()
            .zip(stored)
            .filter_map(|(name, stored)| {
                let id = evaluator.value(name)?;
                Some(Parameter { name: (*name).to_owned(), id, stored })
            })
            .collect();
        let watched = watched
            .iter()
            .filter_map(|name| Some((evaluator.value(name)?, (*name).to_owned())))
            .collect();
        let outputs = model.graph().output.iter().map(|o| o.name().to_owned()).collect();
        let mut recorder = Recorder {
            evaluator,
            parameters,
            outputs,
            watched,
            plans: Vec::new(),
            stops: Vec::new(),
            run: None,
        };
        recorder.plan();
        Ok(recorder)
    }
}

fn is_float(tensor: &Tensor) -> bool {
    use DataType::{BF16, F16, F32, F64};
    matches!(tensor.data_type(), F16 | BF16 | F32 | F64)
}

impl Recorder {
    /// Finds the steps between parameters and outputs.
    fn plan(&mut self) {
        let mut carry: HashSet<ValueId> = self.parameters.iter().map(|p| p.id).collect();
        let mut plans = Vec::with_capacity(self.evaluator.steps.len());
        for step in &self.evaluator.steps {
            let wanted: Vec<bool> =
                step.inputs.iter().map(|id| id.is_some_and(|id| carry.contains(&id))).collect();
            let derivative = if wanted.contains(&true) {
                step.operator.derivative(&wanted)
            } else {
                Derivative::Zero
            };
            plans.push(match derivative {
                Derivative::Zero => None,
                Derivative::Unknown => Some(Plan { wanted, reads: None }),
                Derivative::Rule(reads) => Some(Plan { wanted, reads: Some(reads) }),
            });
            if plans.last().is_some_and(Option::is_some) {
                carry.extend(step.outputs.iter().flatten());
            }
        }
        // What leads to no output, or to its jumps only, needs no recording.
        let mut led: HashSet<ValueId> =
            self.evaluator.outputs.iter().chain(self.watched.keys()).copied().collect();
        for (step, plan) in self.evaluator.steps.iter().zip(&mut plans).rev() {
            if !step.outputs.iter().flatten().any(|id| led.contains(id)) {
                *plan = None;
            }
            if let Some(plan) = plan {
                let wanted = step.inputs.iter().zip(&plan.wanted).filter(|(_, wanted)| **wanted);
                led.extend(wanted.filter_map(|(id, _)| *id));
            }
        }
        self.plans = plans;
    }

    /// The evaluator that runs the graph.
    #[must_use]
    pub fn evaluator(&self) -> &Evaluator {
        &self.evaluator
    }

    /// Samples per recorded run, for samples like those in `inputs` (one tensor per input). More
    /// than for a run without a tape: what a run costs once, such as adding up a weight's gradient,
    /// is worth some of the cache.
    #[must_use]
    pub fn batch_size(&self, inputs: &[Tensor]) -> usize {
        self.run.unwrap_or_else(|| self.evaluator.batch_size_within(inputs, ELEMENTS))
    }

    /// Names of the parameters that the graph uses, in the order [`Recorder::record`] takes them.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = &str> {
        self.parameters.iter().map(|parameter| parameter.name.as_str())
    }

    /// The parameters as the model has them, in the same order.
    #[must_use]
    pub fn stored(&self) -> Vec<Tensor> {
        self.parameters.iter().map(|parameter| parameter.stored.clone()).collect()
    }

    /// Names of the graph's outputs, in order.
    #[must_use]
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// The nodes without a rule between a parameter and an output.
    #[must_use]
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let steps = &self.evaluator.steps;
        let blocked = |plan: &Option<Plan>| plan.as_ref().is_some_and(|p| p.reads.is_none());
        let at = (0..steps.len()).filter(|&index| blocked(&self.plans[index]));
        at.map(|index| {
            let mut behind: HashSet<ValueId> =
                steps[index].outputs.iter().copied().flatten().collect();
            for (step, plan) in steps.iter().zip(&self.plans).take(index + 1).rev() {
                let Some(plan) = plan else { continue };
                if step.outputs.iter().flatten().any(|id| behind.contains(id)) {
                    let wanted = step.inputs.iter().zip(&plan.wanted).filter(|(_, w)| **w);
                    behind.extend(wanted.filter_map(|(id, _)| *id));
                }
            }
            let parameters = self.parameters.iter().filter(|p| behind.contains(&p.id));
            Obstacle {
                node: steps[index].label.node.clone(),
                op_type: steps[index].label.op_type.clone(),
                parameters: parameters.map(|p| p.name.clone()).collect(),
            }
        })
        .collect()
    }

    /// Runs the graph on `inputs`, in graph order, with these parameters, and keeps what going
    /// backward takes.
    ///
    /// # Errors
    /// As [`Evaluator::run`], and when the number of parameters differs.
    pub fn record(&self, inputs: Vec<Tensor>, parameters: &[Tensor]) -> Result<Tape<'_>> {
        self.record_prepared(inputs, &self.prepare(parameters)?)
    }

    /// Lays out parameters for any number of runs, on any number of threads.
    ///
    /// # Errors
    /// When the number of parameters differs.
    pub fn prepare(&self, parameters: &[Tensor]) -> Result<Prepared> {
        if parameters.len() != self.parameters.len() {
            let (wanted, given) = (self.parameters.len(), parameters.len());
            let reason = format!("{given} parameters for the {wanted} of the graph");
            return Err(Error::DataMismatch { reason });
        }
        let ids = self.parameters.iter().map(|parameter| parameter.id);
        let given: HashMap<ValueId, &Tensor> = ids.zip(parameters).collect();
        let operators = self.evaluator.steps.iter().map(|step| {
            let value = |id: &Option<ValueId>| {
                let id = (*id)?;
                given.get(&id).copied().or_else(|| self.evaluator.constants.get(&id)).cloned()
            };
            let trained = step.inputs.iter().flatten().any(|id| given.contains_key(id));
            let constants: Vec<Option<Tensor>> = step.inputs.iter().map(value).collect();
            if trained { step.operator.prepared(&constants) } else { None }
        });
        let operators = operators.collect();
        Ok(Prepared { values: parameters.to_vec(), operators })
    }

    /// [`Recorder::record`] with parameters that this recorder has laid out.
    ///
    /// # Errors
    /// As [`Evaluator::run`].
    pub fn record_prepared(&self, inputs: Vec<Tensor>, prepared: &Prepared) -> Result<Tape<'_>> {
        let evaluator = &self.evaluator;
        let mut state = evaluator.start(inputs)?;
        for (parameter, value) in self.parameters.iter().zip(&prepared.values) {
            state.values.insert(parameter.id, value.clone());
        }
        let operators = prepared.operators.clone();
        let mut held = Vec::new();
        let mut from = 0;
        for &stop in &self.stops {
            held.push((from..stop, state.clone()));
            self.pass(&mut state, from..stop, &operators, false)?;
            from = stop;
        }
        let entries = self.pass(&mut state, from..self.plans.len(), &operators, true)?;
        state.next = evaluator.steps.len();
        Ok(Tape { recorder: self, state, held, entries, operators })
    }

    /// Runs some steps, and keeps what their rules read where that is to be recorded.
    fn pass(
        &self,
        state: &mut State,
        steps: Range<usize>,
        operators: &Operators,
        record: bool,
    ) -> Result<Vec<Entry>> {
        let evaluator = &self.evaluator;
        let operator = |index: usize| {
            let prepared = operators.get(index).and_then(Option::as_deref);
            prepared.unwrap_or(&*evaluator.steps[index].operator)
        };
        let mut entries = Vec::new();
        for index in steps {
            let plan = self.plans[index].as_ref().filter(|_| record);
            let inputs = evaluator.gather(state, index);
            let Some(plan) = plan else {
                let outputs = evaluator.execute_as(index, operator(index), inputs)?;
                evaluator.store(state, index, outputs);
                continue;
            };
            let reads = plan.reads.unwrap_or(Reads::NOTHING);
            let whole = |tensor: &Tensor, read: bool| {
                Kept::new(tensor, plan.reads.is_some() && (read || !is_float(tensor)))
            };
            let kept_inputs: Vec<Option<Kept>> = inputs
                .iter()
                .enumerate()
                .map(|(i, tensor)| tensor.as_ref().map(|tensor| whole(tensor, reads.input(i))))
                .collect();
            let outputs = evaluator.execute_as(index, operator(index), inputs)?;
            let named = evaluator.steps[index].outputs.len();
            let kept_outputs: Vec<Option<Kept>> = outputs
                .iter()
                .take(named)
                .enumerate()
                .map(|(i, tensor)| Some(whole(tensor, reads.output(i))))
                .collect();
            entries.push(Entry { step: index, inputs: kept_inputs, outputs: kept_outputs });
            evaluator.store(state, index, outputs);
        }
        Ok(entries)
    }
}

/// What is kept of a step's run.
pub(super) struct Entry {
    pub(super) step: usize,
    inputs: Vec<Option<Kept>>,
    outputs: Vec<Option<Kept>>,
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
    state: State,
    /// Stretches of steps that are to be run again, and the values before each.
    pub(super) held: Vec<(Range<usize>, State)>,
    /// What is kept of the steps after them.
    pub(super) entries: Vec<Entry>,
    operators: Operators,
}

impl Tape<'_> {
    /// The graph's outputs.
    ///
    /// # Errors
    /// As [`Evaluator::finish`].
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
    /// As [`Evaluator::run`].
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
