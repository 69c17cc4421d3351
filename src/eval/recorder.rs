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

use super::tape::{Entry, Tape};
use super::{Evaluator, State, ValueId};
use crate::error::{Error, Result};
use crate::graph;
use crate::onnx::Model;
use crate::ops::{Derivative, Kept, Operator, Reads};
use crate::tensor::{DataType, Tensor};

/// Elements of all inputs that one recorded run holds at most, unless one sample has more.
const ELEMENTS: usize = 32 * 1024;

/// A graph whose runs can be recorded.
pub struct Recorder {
    pub(super) evaluator: Evaluator,
    pub(super) parameters: Vec<Parameter>,
    outputs: Vec<String>,
    /// Values whose gradients are asked for besides the parameters'.
    pub(super) watched: HashMap<ValueId, String>,
    /// For every step, what its recording takes; `None` where no gradient passes.
    pub(super) plans: Vec<Option<Plan>>,
    /// Steps before which a run's values are held, so that what lies between can be run again.
    pub(super) stops: Vec<usize>,
    /// Samples per recorded run, where that is not by the size of a sample.
    pub(super) run: Option<usize>,
}

/// A constant of the graph that training changes.
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) id: ValueId,
    pub(super) stored: Tensor,
}

/// How a step is recorded.
pub(super) struct Plan {
    /// Which inputs depend on a parameter.
    pub(super) wanted: Vec<bool>,
    /// What the rule reads; `None` where there is no rule.
    reads: Option<Reads>,
}

/// Parameters' values, laid out for the kernels: one step of training has many runs with the same.
pub struct Prepared {
    values: Vec<Tensor>,
    operators: Operators,
}

/// For every step its operator with the parameters laid out, where that is another.
pub(super) type Operators = Arc<[Option<Box<dyn Operator>>]>;

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
        let of = |parameter: &Parameter| (parameter.id, parameter.stored.clone());
        self.run.unwrap_or_else(|| {
            let parameters = || self.parameters.iter().map(of).collect();
            self.evaluator.batch_size_within(inputs, ELEMENTS, parameters)
        })
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
    pub(super) fn pass(
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
