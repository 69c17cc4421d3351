//! The metric of a layer's outputs: how much the loss feels an error in each direction.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::network::{LANES, Network, lanes};
use super::samples::Samples;
use crate::error::{Error, Result};
use crate::eval::{Evaluator, Prepared, Recorder, filled_up};
use crate::factorize::Metric;
use crate::layer::{LinearMap, Positions};
use crate::linalg::{Matrix, product};
use crate::onnx::Model;
use crate::progress::go_on;
use crate::score::{Scorer, Task};
use crate::tensor::Tensor;
use crate::tokens::Tokens;

/// Share of the mean of F's diagonal that is added to it: gradients are few and noisy, and directions
/// that none of them has may still matter.
const SHRINKAGE: f64 = 0.1;

/// Temperature of the class probabilities whose gradients these are: at 1 few samples, those of which the
/// model is not sure, would have most of the sum.
const TEMPERATURE: f64 = 2.0;

/// Positions per sample at which gradients are looked at, at most.
const POSITIONS: usize = 64;

/// Outputs of a group that has a metric, at most: it takes their square in memory in every lane, and
/// their cube in time to decompose, minutes beyond this.
const MOST_OUTPUTS: usize = 4096;

/// Whether a metric of a map's outputs is worth what it takes.
fn has_metric(map: &LinearMap) -> bool {
    map.rows <= MOST_OUTPUTS
}

impl Network<'_> {
    /// Gives every layer the metric F = E[g g^T] of its outputs, g the gradient of the loss at a
    /// position (DESIGN: mathematics, 1). The loss is that of labels as the model itself gives them, at a
    /// temperature, so that F is its Fisher information (Amari 1998); for outputs that are no class
    /// scores, that of a normal distribution around them. Layers whose gradients can't be had, or that have very
    /// many outputs, keep the identity.
    ///
    /// # Errors
    /// When the model can't be run, or the run is interrupted.
    pub fn weigh(&mut self, samples: &Samples, scorer: &Scorer) -> Result<()> {
        let names = self.observed();
        let Some((recorder, parameters)) = recorder(self.model, &self.layers, &names)? else {
            return Ok(());
        };
        let prepared = recorder.prepare(&parameters)?;
        let at = |l: usize| Positions {
            per_sample: POSITIONS,
            seed: self.options.seed ^ (l as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93),
        };
        let empty = || -> Vec<Vec<(Matrix, usize)>> {
            let of = |l: usize| {
                let of = |m: &LinearMap| {
                    let order = if has_metric(m) { m.rows } else { 0 };
                    vec![(Matrix::zeros((order, order)), 0); m.groups]
                };
                self.layers[l].map.as_ref().map_or_else(Vec::new, of)
            };
            (0..self.layers.len()).map(of).collect()
        };
        let sums: Vec<Vec<Vec<(Matrix, usize)>>> = lanes(samples.runs())
            .into_par_iter()
            .map(|runs| {
                let mut sums = empty();
                for run in runs {
                    go_on(self.progress)?;
                    let batch = samples.looked_at(run);
                    let slopes = self.slopes(&recorder, &prepared, samples, run, scorer)?;
                    for (l, names) in names.iter().enumerate() {
                        go_on(self.progress)?;
                        for ((_, name), site) in names.iter().zip(&self.sites[l]) {
                            if !has_metric(&site.map) {
                                continue;
                            }
                            let Some(slope) = slopes.get(name) else { continue };
                            let rows = self.rows(l, &site.map, slope, &batch, &at(l), false)?;
                            for (sum, rows) in sums[l].iter_mut().zip(rows.groups) {
                                add(sum, &rows);
                            }
                        }
                    }
                }
                Ok(sums)
            })
            .collect::<Result<_>>()?;
        debug_assert_eq!(sums.len(), LANES);
        let mut total = empty();
        for sums in sums {
            for (total, sums) in total.iter_mut().flatten().zip(sums.into_iter().flatten()) {
                total.0 += &sums.0;
                total.1 += sums.1;
            }
        }
        self.metrics = total
            .into_iter()
            .map(|groups| {
                go_on(self.progress)?;
                groups.into_iter().map(|(sum, count)| metric(sum, count)).collect()
            })
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// The gradients of the observed values on one run.
    fn slopes(
        &self,
        recorder: &Recorder,
        prepared: &Prepared,
        samples: &Samples,
        run: usize,
        scorer: &Scorer,
    ) -> Result<HashMap<String, Tensor>> {
        let seed = self.options.seed.wrapping_add(run as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let inputs = samples.inputs(run, recorder.evaluator())?;
        let tape = recorder.record_prepared(inputs, prepared)?;
        let whole = tape.outputs()?;
        let outputs = recorder.evaluator().per_sample(whole.clone(), samples.range(run).len())?;
        let first = samples.range(run).start;
        let given: Vec<Option<Tensor>> = match scorer.task() {
            Task::Regression => {
                outputs.iter().map(|o| noise(o, first, samples.tokens(), &mut random)).collect()
            }
            Task::Classification | Task::Imitation => {
                let normal = &mut || normal(&mut random);
                scorer.random_gradients(&outputs, first, TEMPERATURE, normal)?
            }
        };
        let given = recorder.outputs().iter().zip(given.into_iter().zip(&whole));
        let given = given.filter_map(|(name, (slope, whole))| {
            Some((name.clone(), filled_up(&slope?, whole.shape())))
        });
        tape.backward(given)
    }
}

/// What records runs of the model such that the gradients of the layers' outputs can be had, and the
/// constants it takes; none where no gradient passes.
fn recorder(
    model: &Model,
    layers: &[crate::layer::Layer],
    names: &[Vec<(String, String)>],
) -> Result<Option<(Recorder, Vec<Tensor>)>> {
    let mut trained: Vec<&str> = layers.iter().map(|l| l.weight.as_str()).collect();
    let mut seen = std::collections::HashSet::new();
    trained.retain(|name| seen.insert(*name));
    let watched: Vec<&str> = names.iter().flatten().map(|(_, target)| target.as_str()).collect();
    loop {
        let recorder = match Evaluator::recorder(model, &trained, &watched) {
            Ok(recorder) => recorder,
            // Weights of other types are compressed all the same.
            Err(Error::InvalidModel { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let met = recorder.obstacles();
        if met.is_empty() {
            let stored = recorder.stored();
            return Ok((!stored.is_empty()).then_some((recorder, stored)));
        }
        let behind = |name: &str| met.iter().any(|o| o.parameters.iter().any(|p| p == name));
        trained.retain(|name| !behind(name));
    }
}

/// Standard normal noise of the shape of an output, of samples from number `first` on, and zeros where that
/// doesn't count; `None` for other types than `f32`.
fn noise(
    output: &Tensor,
    first: usize,
    tokens: Option<&Tokens>,
    random: &mut ChaCha8Rng,
) -> Option<Tensor> {
    output.f32("an output").ok()?;
    let mut values: Vec<f64> = (0..output.len()).map(|_| normal(random)).collect();
    if let Some(tokens) = tokens {
        tokens.clear(first, output.shape(), &mut values);
    }
    Tensor::from_vec(output.shape(), values.into_iter().map(|v| v as f32).collect()).ok()
}

/// A standard normal number (Box and Muller 1958).
fn normal(random: &mut ChaCha8Rng) -> f64 {
    let (a, b) = (random.random::<f64>().max(1e-12), random.random::<f64>());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

fn add(sum: &mut (Matrix, usize), rows: &[f32]) {
    let width = sum.0.nrows();
    let count = rows.len() / width.max(1);
    let rows: Vec<f64> = rows.iter().map(|&v| f64::from(v)).collect();
    if let Ok(rows) = Matrix::from_shape_vec((count, width), rows) {
        sum.0 += &product(&rows.t().to_owned(), &rows);
        sum.1 += count;
    }
}

/// The metric of summed squares; none where there is nothing to go by.
fn metric(sum: Matrix, count: usize) -> Result<Option<Metric>> {
    let trace = sum.diag().sum();
    if count == 0 || !trace.is_finite() || trace <= 0.0 {
        return Ok(None);
    }
    let n = sum.nrows() as f64;
    // Of mean 1 on the diagonal: only directions matter within a layer.
    let mut f = sum * (n / trace * (1.0 - SHRINKAGE));
    f.diag_mut().mapv_inplace(|v| v + SHRINKAGE);
    Metric::new(&f).map(Some)
}
