//! High ratios by way of gentler ones: factors that were trained at one are multiplied to dense
//! weights again, which lose less at the next.

use std::collections::HashSet;

use super::choose::choose;
use super::parts::Parts;
use super::statistics::fitted;
use super::training::{Stage, Trainer};
use crate::error::{Error, Result};
use crate::factorize::{Factors, Replacement};
use crate::graph;
use crate::layer::{Filter, Layer, find};
use crate::onnx::{Model, TensorProto};
use crate::options::{Options, SearchMode};
use crate::progress::Progress;
use crate::report::Seconds;
use crate::search::{Network, Plan};
use crate::tensor::Tensor;
use crate::tune::trainable;

/// Share of the training that gentler ratios have together.
pub(super) const SHARE: f64 = 0.35;

/// What is compressed.
pub(super) struct Whole<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its layers that can be factorized, in the order they run.
    pub layers: Vec<Layer>,
    /// Bytes of its file: what a ratio of bytes divides.
    pub bytes: u64,
    /// One sample of its inputs; none where the model can't be run.
    pub sample: &'a [Tensor],
}

/// A model with the layers of the original dense, to be factorized in the original's place.
pub(super) struct Dense {
    /// The original with what training gave its other constants.
    pub base: Model,
    /// The same with trained weights in its layers too.
    pub model: Model,
    /// Its layers that can be factorized, as those of the original.
    pub layers: Vec<Layer>,
    /// For every layer the constant that is added to its output behind it, where its own node can't.
    added: Vec<Option<String>>,
    /// Whether weights are others than the original's.
    trained: bool,
}

/// The ratios on the way to the last one, in equal steps.
pub(super) fn ratios(options: &Options) -> Vec<f64> {
    let Some(ratio) = options.ratio else { return Vec::new() };
    let stages = options.stages.unwrap_or(1).max(1);
    (1..stages).map(|stage| ratio.powf(stage as f64 / stages as f64)).collect()
}

impl Dense {
    /// The original, or what it became by training that left its graph as it is.
    pub fn of(model: Model, layers: &[Layer]) -> Self {
        let (layers, added) = (layers.to_vec(), vec![None; layers.len()]);
        Self { base: model.clone(), model, layers, added, trained: false }
    }

    /// Factors for the original's layers from those for this model's.
    ///
    /// # Errors
    /// When a constant can't be read.
    pub fn factors(
        &self,
        network: &Network<'_>,
        found: &[Option<Factors>],
    ) -> Result<Vec<Option<Factors>>> {
        let dense = |l: usize| Factors {
            choice: None,
            groups: network.weights[l].groups.iter().map(|w| vec![w.clone()]).collect(),
            bias: network.weights[l].bias.clone(),
        };
        let all = found.iter().enumerate().map(|(l, factors)| {
            let mut factors = match factors {
                Some(factors) => factors.clone(),
                None if self.trained => dense(l),
                None => return Ok(None),
            };
            if let Some(name) = self.added.get(l).and_then(Option::as_ref)
                && let Some(added) = graph::constant_tensor(&self.model, name)?
            {
                let added = added.to_f64_vec();
                factors.bias.iter_mut().zip(added).for_each(|(bias, a)| *bias += a);
            }
            Ok(Some(factors))
        });
        all.collect()
    }

    /// Takes over what training made of `model`.
    ///
    /// # Errors
    /// When a constant can't be read.
    pub fn set_trained(&mut self, model: Model) -> Result<()> {
        self.base = if self.trained {
            let layers: HashSet<&str> = self.layers.iter().map(|l| &*l.weight).collect();
            with_constants(&self.base, &model, &layers)?
        } else {
            model.clone()
        };
        self.model = model;
        Ok(())
    }

    /// The dense model of what `tuned`, trained factors of `plan`, computes. `factors` are those of
    /// the plan, for the original's `layers`.
    fn next(
        original: &Model,
        layers: &[Layer],
        factors: &[Option<Factors>],
        plan: &Plan,
        tuned: &Model,
    ) -> Result<Self> {
        let planned = layers.iter().zip(factors).filter(|(_, f)| f.is_some());
        let planned: HashSet<&str> = planned.map(|(l, _)| &*l.weight).collect();
        let base = with_constants(original, tuned, &planned)?;
        let replacements = plan.replacements(original)?;
        let mut wholes = vec![None; layers.len()];
        for (node, replacement) in &replacements {
            let place = layers.iter().position(|l| l.node == *node);
            let found =
                place.and_then(|l| Some((l, layers[l].map.as_ref()?, factors[l].as_ref()?)));
            let Some((l, map, factors)) = found else { continue };
            let read = |name: &str| graph::constant_tensor(tuned, name);
            wholes[l] = Some(factors.with_constants(&layers[l], replacement, read)?.to_dense(map));
        }
        let dense = Plan::new(&base, layers, &wholes)?;
        let model = dense.apply(&base)?;
        let mut names: Vec<String> = layers.iter().map(|l| l.weight.clone()).collect();
        let mut biases: Vec<Option<String>> = vec![None; layers.len()];
        for (node, Replacement { constants, bias, .. }) in dense.replacements(&base)? {
            let weight = constants.iter().find(|(name, _)| Some(name) != bias.as_ref());
            let place = layers.iter().position(|l| l.node == node);
            if let (Some(l), Some((name, _))) = (place, weight) {
                names[l].clone_from(name);
                biases[l] = bias;
            }
        }
        let mut all = find(&model, &Filter::default())?;
        let mut found = Vec::with_capacity(layers.len());
        let mut added = Vec::with_capacity(layers.len());
        for ((name, layer), bias) in names.iter().zip(layers).zip(biases) {
            let place = all.iter().position(|l| l.weight == *name && l.map.is_some());
            let place = place.ok_or_else(|| Error::InvalidModel {
                reason: format!("the dense weight of `{}` is in no layer", layer.name),
            })?;
            let new = all.remove(place);
            added.push(bias.filter(|_| new.op_type == "MatMul"));
            found.push(new);
        }
        Ok(Self { base, model, layers: found, added, trained: true })
    }
}

/// `model` with what `trained` has in the weights that both have, but for those named in `except`.
fn with_constants(model: &Model, trained: &Model, except: &HashSet<&str>) -> Result<Model> {
    let mut result = model.clone();
    for name in trainable(model)? {
        let own = graph::constant_tensor(model, &name)?;
        let (Some(own), Some(new)) = (own, graph::constant_tensor(trained, &name)?) else {
            continue;
        };
        if own.shape() == new.shape() && !except.contains(name.as_str()) {
            graph::set_constant(result.graph_mut(), TensorProto::from_tensor(&name, &new));
        }
    }
    Ok(result)
}

impl Whole<'_> {
    /// What a compression goes on from once the factors of `dense` at `ratio` are trained and
    /// multiplied again.
    #[allow(clippy::too_many_arguments)]
    pub fn through(
        &self,
        dense: &Dense,
        parts: &Parts,
        ratio: f64,
        options: &Options,
        trainer: &mut Trainer<'_>,
        stages: &mut Vec<Stage>,
        progress: &dyn Progress,
    ) -> Result<Dense> {
        // Ranks that are chosen again later need no fine adjustment.
        let options = Options { ratio: Some(ratio), search: SearchMode::Start, ..options.clone() };
        let mut seconds = Seconds::default();
        let (mut found, mut network) =
            choose(dense, self, Some(parts), &options, &mut seconds, progress)?;
        progress.phase("factorize", None);
        let compressed = fitted(&mut network, Some(parts), &mut found, &options, progress)?;
        let factors = dense.factors(&network, &compressed.factors)?;
        let plan = Plan::new(&dense.base, &self.layers, &factors)?;
        let start = plan.apply(&dense.base)?;
        let share = SHARE / (options.stages.unwrap_or(1).max(2) - 1) as f64;
        let tuned = trainer.tune(&start, self.sample, Some(ratio), share, stages, progress)?;
        Dense::next(&dense.base, &self.layers, &factors, &plan, &tuned)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::eval::Evaluator;
    use crate::factorize::{Choice, Scheme};
    use crate::search::{Effort, NetworkOptions, Snapshots, Statistics, Taken, in_order};
    use crate::validate::random_inputs;

    fn moved(tensor: &Tensor, seed: usize) -> Tensor {
        let values = tensor.to_f64_vec().into_iter().enumerate();
        let moved =
            values.map(|(i, v)| (v * (1.0 + 0.2 * ((i + seed) as f64).sin()) + 1e-3) as f32);
        Tensor::from_vec(tensor.shape(), moved.collect::<Vec<f32>>()).unwrap()
    }

    fn assert_same(a: &Model, b: &Model, inputs: &[Tensor], what: &str) {
        let run = |model: &Model| Evaluator::new(model).unwrap().run(inputs.to_vec()).unwrap();
        for (a, b) in run(a).iter().zip(run(b)) {
            let (a, b) = (a.to_f64_vec(), b.to_f64_vec());
            let largest = b.iter().fold(1e-30, |m: f64, v| m.max(v.abs()));
            let most = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(most < 1e-4 * largest, "{what}: {most} of {largest}");
        }
    }

    /// What trained factors compute is what their dense model computes, in the evaluator, and what the
    /// original does with that model's weights: for every kind of layer and scheme, where some layers
    /// were left as they were too.
    #[test]
    fn the_dense_model_computes_what_the_factors_do() {
        let knobs = NetworkOptions {
            statistics: Statistics::None,
            ridge: 1e-3,
            rows_per_input: 4,
            seed: 0,
        };
        for name in ["mnist_conv", "matmul", "attention", "residual", "grouped", "conv1d", "conv3d"]
        {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{name}.onnx"));
            let model = Model::read(&path).unwrap();
            let specs = graph::inputs(&model).unwrap();
            let shape = |spec: &graph::InputSpec| {
                let dims = spec.shape.iter().enumerate();
                let dims = dims.map(|(axis, dim)| dim.unwrap_or(if axis == 0 { 1 } else { 8 }));
                (spec.name.clone(), dims.collect())
            };
            let shapes: Vec<(String, Vec<usize>)> = specs.iter().map(shape).collect();
            let inputs = random_inputs(&specs, &shapes, 3).unwrap();
            let found = find(&model, &Filter::default()).unwrap();
            let ordered = in_order(&Evaluator::new(&model).unwrap(), &found);
            let layers: Vec<Layer> = ordered.into_iter().map(|(_, layer)| layer).collect();
            let network = Network::new(&model, &layers, inputs.clone(), knobs).unwrap();
            for scheme in Scheme::ALL {
                let choice = |(l, layer): (usize, &Layer)| {
                    let map = layer.map.as_ref()?;
                    let most = Choice::most(scheme, map);
                    let inner = 2.min(map.columns / map.kernel_len().max(1));
                    let rank_in = (scheme == Scheme::Tucker).then_some(inner);
                    let rank = match rank_in {
                        Some(inner) => most.div_ceil(2).min(inner * map.kernel_len()),
                        None => most.div_ceil(2),
                    };
                    (scheme.applies(map) && l % 3 != 2).then_some(Choice { scheme, rank, rank_in })
                };
                let choices: Vec<Option<Choice>> = layers.iter().enumerate().map(choice).collect();
                let taken: Vec<Taken> = choices.iter().map(|&c| c.into()).collect();
                let (mut none, mut effort) = (Snapshots::new(0), Effort::default());
                let cut =
                    network.compress(&taken, &network.dense(), &mut none, &mut effort).unwrap();
                let plan = Plan::new(&model, &layers, &cut.factors).unwrap();
                let mut tuned = plan.apply(&model).unwrap();
                for (seed, constant) in trainable(&tuned).unwrap().iter().enumerate() {
                    let tensor = graph::constant_tensor(&tuned, constant).unwrap().unwrap();
                    let proto = TensorProto::from_tensor(constant, &moved(&tensor, seed));
                    graph::set_constant(tuned.graph_mut(), proto);
                }
                let what = format!("{name} {scheme}");
                let dense = Dense::next(&model, &layers, &cut.factors, &plan, &tuned).unwrap();
                assert_same(&dense.model, &tuned, &inputs, &what);
                let again =
                    Network::new(&dense.model, &dense.layers, inputs.clone(), knobs).unwrap();
                let factors = dense.factors(&again, &again.dense().factors).unwrap();
                let plan = Plan::new(&dense.base, &layers, &factors).unwrap();
                assert_same(&plan.apply(&dense.base).unwrap(), &tuned, &inputs, &what);
            }
        }
    }
}
