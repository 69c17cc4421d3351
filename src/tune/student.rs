//! A network in training: loss and gradient of its parameters on samples of a dataset.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{Augmentation, Parameter, Slopes};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::eval::{Evaluator, Obstacle, Prepared, Recorder, filled_up, part};
use crate::graph;
use crate::onnx::{Model, TensorProto};
use crate::score::{Objective, Scorer};
use crate::tensor::Tensor;

/// A model whose constants are trained towards an objective.
pub struct Student<'a> {
    model: &'a Model,
    recorder: Recorder,
    obstacles: Vec<Obstacle>,
    /// Gives what the outputs are compared with, for the samples as they are shown.
    original: &'a Evaluator,
    data: &'a Dataset,
    scorer: &'a Scorer,
    /// What the loss is made of.
    pub objective: Objective,
    /// What is done to images.
    pub augmentation: Augmentation,
}

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
        let mut names = trained.to_vec();
        let mut obstacles: Vec<Obstacle> = Vec::new();
        let recorder = loop {
            let recorder = Evaluator::recorder(model, &names, &[])?;
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
        Ok(Self { model, recorder, obstacles, original, data, scorer, objective, augmentation })
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
        lanes
            .par_iter()
            .with_max_len(1)
            .enumerate()
            .map(|(lane, samples)| {
                let seed = seed.wrapping_add((lane as u64) << 48);
                let (loss, mut sums) = self.lane(&prepared, samples, seed)?;
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
                let seed = seed.wrapping_add(((run as u64) << 32) + position as u64);
                *input = self.augmentation.apply(input, seed).map_err(|e| fault(&e))?;
            }
            let reference = self.original.run_all(&inputs)?;
            let labels = self.data.labels(samples)?.unwrap_or_default();
            // A model of a fixed batch has rows left over, which no loss looks at.
            let evaluator = self.recorder.evaluator();
            let fixed = evaluator.batches().fixed;
            let inputs = inputs.iter().map(|t| part(t, &(0..samples.len()), fixed)).collect();
            let tape = self.recorder.record_prepared(inputs, prepared)?;
            let whole = tape.outputs()?;
            let outputs = evaluator.per_sample(whole.clone(), samples.len())?;
            let slopes = self.scorer.gradients(&self.objective, &outputs, &reference, &labels)?;
            loss += slopes.losses.iter().sum::<f64>();
            let given = self.recorder.outputs().iter().zip(slopes.outputs.into_iter().zip(&whole));
            let given = given.filter_map(|(name, (slope, whole))| {
                Some((name.clone(), filled_up(&slope?, whole.shape())))
            });
            sums = tape.backward_onto(given, sums)?;
        }
        Ok((loss, sums))
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

fn tensors(parameters: &[Parameter]) -> Result<Vec<Tensor>> {
    let tensor = |p: &Parameter| Tensor::from_vec(&p.shape, p.values.clone());
    parameters.iter().map(tensor).collect::<std::result::Result<_, _>>().map_err(|e| fault(&e))
}

fn fault(error: &crate::error::OpError) -> Error {
    Error::Training { reason: error.to_string() }
}
