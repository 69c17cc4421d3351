//! A network in training: loss and gradient of its parameters on samples of a dataset.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{Augmentation, Descent, History, Judgement, Parameter, Recipe, Slopes, descend};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::eval::{Bound, Evaluator, Obstacle, Prepared, Recorder, filled_up, join, part};
use crate::graph;
use crate::onnx::{Model, TensorProto};
use crate::progress::Progress;
use crate::score::{Objective, Scorer, squared_errors};
use crate::tensor::Tensor;
use crate::tokens::Tokens;

/// A model whose constants are trained towards an objective.
pub struct Student<'a> {
    model: &'a Model,
    recorder: Recorder,
    obstacles: Vec<Obstacle>,
    /// Gives what the outputs are compared with, for the samples as they are shown.
    original: &'a Evaluator,
    data: &'a Dataset,
    scorer: &'a Scorer,
    matched: Vec<Matched>,
    /// The original's outputs on some samples, and the row that each of these has there.
    known: Option<(HashMap<usize, usize>, Vec<Tensor>)>,
    /// Runs that may go on at the same time.
    at_once: usize,
    /// What the loss is made of.
    pub objective: Objective,
    /// What is done to images.
    pub augmentation: Augmentation,
}

/// A value that is to be as in the original.
struct Matched {
    name: String,
    /// Its weight in the loss.
    weight: f64,
    /// Mean squared norm over samples.
    energy: f64,
}

/// Samples over which the norms of matched values are taken.
const NORMED: usize = 64;

/// Bytes that outputs of the original may take where they are kept.
const KNOWN_BYTES: usize = 256 << 20;

/// Samples that the original is given at once.
const CHUNK: usize = 256;

impl<'a> Student<'a> {
    /// Those of the constants `trained` of `model` whose gradients can be had, on samples of `data`.
    /// `original` runs the model whose outputs are imitated; `scorer` knows the classes and the
    /// objective.
    ///
    /// Parameters behind a node without a backward rule stay as they are: see
    /// [`Student::obstacles`].
    ///
    /// # Errors
    /// When a name is no constant of `f32`, or no parameter is left.
    pub fn new(
        model: &'a Model,
        trained: &[&str],
        original: &'a Evaluator,
        data: &'a Dataset,
        scorer: &'a Scorer,
    ) -> Result<Self> {
        Self::matching(model, trained, original, data, scorer, &[])
    }

    /// [`Student::new`] whose loss has the squared errors of named values too, each with its weight:
    /// relative to the mean squared norm of the original's value. `original` must observe these
    /// ([`Evaluator::observing`]).
    ///
    /// # Errors
    /// As [`Student::new`], and when a value is not there, no float, or has no axis of samples.
    pub fn matching(
        model: &'a Model,
        trained: &[&str],
        original: &'a Evaluator,
        data: &'a Dataset,
        scorer: &'a Scorer,
        matched: &[(&str, f64)],
    ) -> Result<Self> {
        let watched: Vec<&str> = matched.iter().map(|(name, _)| *name).collect();
        let mut names = trained.to_vec();
        let mut obstacles: Vec<Obstacle> = Vec::new();
        let recorder = loop {
            let recorder = Evaluator::recorder(model, &names, &watched)?;
            let met = recorder.obstacles();
            if met.is_empty() {
                break recorder;
            }
            let behind = |name: &str| met.iter().any(|o| o.parameters.iter().any(|p| p == name));
            names.retain(|name| !behind(name));
            obstacles.extend(met);
        };
        if recorder.parameters().len() == 0 {
            let reason = match obstacles.first() {
                Some(first) => format!(
                    "nothing can be trained: node `{}` ({}) has no backward rule",
                    first.node, first.op_type
                ),
                None => "the model has no weights of f32 to train".to_owned(),
            };
            return Err(Error::Training { reason });
        }
        if let Some((name, tensor)) =
            recorder.parameters().zip(recorder.stored()).find(|(_, t)| t.f32("").is_err())
        {
            return Err(Error::Training {
                reason: format!("`{name}` is {:?}, only f32 is trained", tensor.data_type()),
            });
        }
        let objective = scorer.objective();
        let augmentation = Augmentation::default();
        let mut student = Self {
            model,
            recorder,
            obstacles,
            original,
            data,
            scorer,
            matched: Vec::new(),
            known: None,
            at_once: usize::MAX,
            objective,
            augmentation,
        };
        if !matched.is_empty() {
            student.matched = student.normed(matched)?;
        }
        Ok(student)
    }

    /// Values to match, with their norms in the original.
    fn normed(&self, matched: &[(&str, f64)]) -> Result<Vec<Matched>> {
        let all = |energy| {
            let of =
                |&(name, weight): &(&str, f64)| Matched { name: name.to_owned(), weight, energy };
            matched.iter().map(of).collect::<Vec<_>>()
        };
        let mut found = all(0.0);
        let samples: Vec<usize> = (0..self.data.len().min(NORMED)).collect();
        let size = self.original.batch_size(&self.data.batch(&samples[..1])?);
        for samples in samples.chunks(size.max(1)) {
            let (_, values) =
                self.original_on(&self.data.batch(samples)?, samples.len(), &found)?;
            for (matched, value) in found.iter_mut().zip(values) {
                matched.energy += value.to_f64_vec().iter().map(|v| v * v).sum::<f64>();
            }
        }
        found.iter_mut().for_each(|matched| matched.energy /= samples.len() as f64);
        Ok(found)
    }

    /// The original's outputs for `samples` samples, and its values to match.
    fn original_on(
        &self,
        inputs: &[Tensor],
        samples: usize,
        matched: &[Matched],
    ) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        if matched.is_empty() {
            return Ok((self.original.run_all(inputs)?, Vec::new()));
        }
        let fixed = self.original.batches().fixed;
        let inputs = inputs.iter().map(|t| part(t, &(0..samples), fixed)).collect();
        let mut state = self.original.start(inputs)?;
        self.original.advance(&mut state, usize::MAX)?;
        let values = matched.iter().map(|matched| {
            let id = self.original.value(&matched.name);
            let value = id.and_then(|id| self.original.get(&state, id));
            value.ok_or_else(|| no_value(&matched.name))
        });
        let values = values.collect::<Result<Vec<_>>>()?;
        let outputs = self.original.per_sample(self.original.finish(&state)?, samples)?;
        Ok((outputs, self.original.per_sample(values, samples)?))
    }

    /// Keeps what the original gives for these samples, so that it need not be run again with every
    /// step. Nothing is kept where samples are shown in ever new ways or the outputs take too much
    /// memory.
    ///
    /// # Errors
    /// When the original can't be run.
    pub fn remember(&mut self, samples: &[usize]) -> Result<()> {
        let Some(first) = samples.get(..1) else { return Ok(()) };
        let first = self.data.batch(first)?;
        let varies = !self.augmentation.is_none()
            && first.iter().any(|t| Augmentation::applies(t.shape()) && t.f32("").is_ok());
        let bytes = self.original.run_all(&first)?.iter().map(Tensor::byte_len).sum::<usize>();
        if varies || !self.matched.is_empty() || bytes.saturating_mul(samples.len()) > KNOWN_BYTES {
            return Ok(());
        }
        let run = |samples: &[usize]| self.original.run_all(&self.data.batch(samples)?);
        let parts: Vec<Vec<Tensor>> = samples.chunks(CHUNK).map(run).collect::<Result<_>>()?;
        let rows = samples.iter().copied().zip(0..).collect();
        self.known = Some((rows, join(&parts)?));
        Ok(())
    }

    /// Bounds the values that are kept for the way back, over all runs that go on at the same time:
    /// see [`Recorder::bind`].
    ///
    /// # Errors
    /// When the model can't be run, or the bound can't be kept: it is named with the least one.
    pub fn bind(&mut self, bytes: usize) -> Result<Bound> {
        let prepared = self.recorder.prepare(&self.recorder.stored())?;
        let (data, fixed) = (self.data, self.recorder.evaluator().batches().fixed);
        let inputs = |samples: usize| -> Result<Vec<Tensor>> {
            let rows: Vec<usize> = (0..samples).map(|row| row % data.len().max(1)).collect();
            let batch = data.batch(&rows)?;
            Ok(batch.iter().map(|t| part(t, &(0..samples), fixed)).collect())
        };
        let bound = self.recorder.bind(&inputs, &prepared, bytes)?.map_err(|least| {
            let reason = format!("{bytes} bytes are too few for this model, it takes {least}");
            Error::Option { option: "--train-memory".to_owned(), reason }
        })?;
        self.at_once = bound.at_once.max(1);
        Ok(bound)
    }

    /// The nodes without a backward rule that keep parameters from being trained.
    #[must_use]
    pub fn obstacles(&self) -> &[Obstacle] {
        &self.obstacles
    }

    /// The parameters as the model has them. Weight decay is for those of two and more axes.
    #[must_use]
    pub fn parameters(&self) -> Vec<Parameter> {
        let stored = self.recorder.stored();
        let named = self.recorder.parameters().zip(stored);
        named
            .map(|(name, tensor)| Parameter {
                name: name.to_owned(),
                shape: tensor.shape().to_vec(),
                decays: tensor.rank() > 1,
                values: tensor.to_f64_vec().into_iter().map(|v| v as f32).collect(),
            })
            .collect()
    }

    /// For each of `lanes` the loss summed over its samples and its gradient: what
    /// [`super::descend`] asks for.
    ///
    /// # Errors
    /// When samples can't be read or an operator fails.
    pub fn slopes(
        &self,
        parameters: &[Parameter],
        lanes: &[&[usize]],
        seed: u64,
    ) -> Result<Vec<Slopes>> {
        let prepared = self.recorder.prepare(&tensors(parameters)?)?;
        let mut slopes = Vec::with_capacity(lanes.len());
        for (group, some) in lanes.chunks(self.at_once).enumerate() {
            let first = group * self.at_once.min(lanes.len());
            slopes.extend(self.together(parameters, &prepared, some, first, seed)?);
        }
        Ok(slopes)
    }

    /// Those of lanes that go on at the same time, the first of which has this number.
    fn together(
        &self,
        parameters: &[Parameter],
        prepared: &Prepared,
        lanes: &[&[usize]],
        first: usize,
        seed: u64,
    ) -> Result<Vec<Slopes>> {
        lanes
            .par_iter()
            .with_max_len(1)
            .enumerate()
            .map(|(lane, samples)| {
                let lane = first + lane;
                let seed = seed.wrapping_add((lane as u64) << 48);
                let (loss, mut sums) = self.lane(prepared, samples, seed)?;
                let gradient = |p: &Parameter| -> Result<Vec<f32>> {
                    let Some(sum) = sums.remove(&p.name) else {
                        return Ok(vec![0.0; p.values.len()]);
                    };
                    let sum = sum.f32("a gradient").map_err(|e| fault(&e))?;
                    Ok(sum.iter().copied().collect())
                };
                Ok((loss, parameters.iter().map(gradient).collect::<Result<_>>()?))
            })
            .collect()
    }

    /// Loss and gradients summed over samples, run after run.
    fn lane(
        &self,
        prepared: &Prepared,
        samples: &[usize],
        seed: u64,
    ) -> Result<(f64, HashMap<String, Tensor>)> {
        let mut sums = HashMap::new();
        let mut loss = 0.0;
        let first = self.data.batch(samples.get(..1).unwrap_or(&[]))?;
        let size = self.recorder.batch_size(&first).max(1);
        for (run, samples) in samples.chunks(size).enumerate() {
            let mut inputs = self.data.batch(samples)?;
            for (position, input) in inputs.iter_mut().enumerate() {
                let seed = seed.wrapping_add(position as u64);
                let first = (run * size) as u64;
                *input = self.augmentation.apply(input, seed, first).map_err(|e| fault(&e))?;
            }
            let known = self.known.as_ref().and_then(|(rows, outputs)| {
                let rows: Option<Vec<usize>> =
                    samples.iter().map(|s| rows.get(s).copied()).collect();
                let rows = rows?;
                Some(outputs.iter().map(|output| output.select_batch(&rows)).collect())
            });
            let (reference, wanted) = match known {
                Some(outputs) => (outputs, Vec::new()),
                None => self.original_on(&inputs, samples.len(), &self.matched)?,
            };
            let labels = self.data.labels(samples)?.unwrap_or_default();
            // A model of a fixed batch has rows left over, which no loss looks at.
            let evaluator = self.recorder.evaluator();
            let fixed = evaluator.batches().fixed;
            let mask = evaluator.batches().mask();
            let tokens = mask.and_then(|mask| inputs.get(mask).and_then(Tokens::of));
            let inputs = inputs.iter().map(|t| part(t, &(0..samples.len()), fixed)).collect();
            let tape = self.recorder.record_prepared(inputs, prepared)?;
            let whole = tape.outputs()?;
            let outputs = evaluator.per_sample(whole.clone(), samples.len())?;
            let tokens = tokens.as_ref();
            let slopes =
                self.scorer.gradients(&self.objective, &outputs, &reference, &labels, tokens)?;
            loss += slopes.losses.iter().sum::<f64>();
            let given = self.recorder.outputs().iter().zip(slopes.outputs.into_iter().zip(&whole));
            let mut given: Vec<(String, Tensor)> = given
                .filter_map(|(name, (slope, whole))| {
                    Some((name.clone(), filled_up(&slope?, whole.shape())))
                })
                .collect();
            for (matched, wanted) in self.matched.iter().zip(&wanted) {
                let whole = tape.value(&matched.name).ok_or_else(|| no_value(&matched.name))?;
                let value = evaluator.per_sample(vec![whole.clone()], samples.len())?;
                let share = matched.weight;
                let (losses, slope) = squared_errors(&value[0], wanted, matched.energy, share)?;
                loss += losses.iter().sum::<f64>();
                let slope = filled_up(&slope, whole.shape());
                given.push((
                    matched.name.clone(),
                    slope.reshape(whole.shape()).map_err(|e| fault(&e))?,
                ));
            }
            sums = tape.backward_onto(given, sums)?;
        }
        Ok((loss, sums))
    }

    /// Trains `parameters` on samples of the data, towards the objective alone; the best state by
    /// `loss`, taken of the model with a state's parameters, is kept.
    ///
    /// # Errors
    /// As [`descend`].
    pub fn descend(
        &self,
        parameters: &mut [Parameter],
        samples: &[usize],
        recipe: &Recipe,
        loss: &mut (dyn FnMut(&Model) -> Result<f64> + Send),
        progress: &dyn Progress,
    ) -> Result<History> {
        let mut descent = Descent {
            slopes: &|parameters, samples, seed| self.slopes(parameters, samples, seed),
            regularize: &mut |_, _, _| Ok(0.0),
            score: &mut |parameters| {
                Ok(Judgement { held: loss(&self.trained(parameters)?)?, fitted: None })
            },
            known: None,
            keep: &mut |_| Ok(()),
        };
        descend(parameters, samples, recipe, &mut descent, None, progress)
    }

    /// The model with these parameters.
    ///
    /// # Errors
    /// When a parameter is no constant of the graph.
    pub fn trained(&self, parameters: &[Parameter]) -> Result<Model> {
        let mut model = self.model.clone();
        for (parameter, tensor) in parameters.iter().zip(tensors(parameters)?) {
            let stored = TensorProto::from_tensor(&parameter.name, &tensor);
            if !graph::set_constant(model.graph_mut(), stored) {
                return Err(Error::Training {
                    reason: format!("`{}` is no constant of the graph", parameter.name),
                });
            }
        }
        Ok(model)
    }
}

fn no_value(name: &str) -> Error {
    Error::Option {
        option: "--match".to_owned(),
        reason: format!("the graph computes no value `{name}`"),
    }
}

fn tensors(parameters: &[Parameter]) -> Result<Vec<Tensor>> {
    let tensor = |p: &Parameter| Tensor::from_vec(&p.shape, p.values.clone());
    parameters.iter().map(tensor).collect::<std::result::Result<_, _>>().map_err(|e| fault(&e))
}

fn fault(error: &crate::error::OpError) -> Error {
    Error::Training { reason: error.to_string() }
}
