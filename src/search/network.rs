//! The model with its layers and samples: what a search works on.

use std::collections::HashMap;

use rayon::prelude::*;

use super::samples::Samples;
use super::targets::Targets;
use super::{Bits, Decompositions, LayerOptions};
use crate::error::{Error, Result};
use crate::eval::moments::{Moments, Sums};
use crate::eval::{Evaluator, first_samples, join};
use crate::factorize::{Fit, Metric, Scheme};
use crate::layer::{Batch, Extent, Layer, LinearMap, Positions, Rows, Weight, shapes};
use crate::named::named;
use crate::onnx::Model;
use crate::progress::{Progress, Silent, go_on};
use crate::quantize::Price;
use crate::score::{MetricKind, Score, Scorer};
use crate::tensor::Tensor;

/// What factors are fitted to, each including those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Statistics {
    /// The weights alone: plain SVD.
    None,
    /// The second moment of the layer's inputs.
    Whitened,
    /// Their mean as well, kept exact through the bias.
    Centred,
    /// The original's outputs, from the inputs that the layer has once the layers before it are
    /// factorized.
    Sequential,
    /// The same, where errors count as the loss feels them: by the gradients at the layers' outputs.
    #[default]
    Loss,
}

named!(Statistics {
    None = "none",
    Whitened = "whitened",
    Centred = "centred",
    Sequential = "sequential",
    Loss = "loss",
});

/// Knobs of a network's statistics.
#[derive(Clone, Copy, Debug)]
pub struct NetworkOptions {
    /// What the factors are fitted to.
    pub statistics: Statistics,
    /// The least ridge, as a share of the mean variance of a layer's inputs.
    pub ridge: f64,
    /// Rows that a layer's moments are taken over, as a multiple of its number of inputs.
    pub rows_per_input: usize,
    /// Seed of the choice of positions.
    pub seed: u64,
}

/// The model, its compressible layers in the order they run, and what is known of them.
pub struct Network<'a> {
    /// The model.
    pub model: &'a Model,
    /// The layers that can be compressed, in the order they run.
    pub layers: Vec<Layer>,
    /// Their weights.
    pub weights: Vec<Weight>,
    /// Where their maps are applied, for one sample.
    pub extents: Vec<Extent>,
    /// Runs the original.
    pub evaluator: Evaluator,
    /// The nodes that apply every layer's weight, in the order they run.
    pub(super) sites: Vec<Vec<Site>>,
    /// Knobs.
    pub options: NetworkOptions,
    /// Who may ask to stop.
    pub progress: &'a dyn Progress,
    /// How weights will be stored: what their bytes are counted by.
    pub price: Price,
    /// For each layer what it may choose of that.
    pub bits: Vec<Bits>,
    /// Decompositions that are known.
    pub decompositions: Decompositions,
    /// Samples that statistics are taken from.
    pub calibration: Option<Samples>,
    /// What the layers are to yield at sampled positions: for each layer, for each run, for each of
    /// its nodes.
    pub(super) targets: Targets,
    /// Moments of the original's inputs and outputs: for each layer, for each group.
    pub moments: Vec<Vec<Moments>>,
    /// Metrics of the layers' outputs: for each layer, for each group; empty where all are the
    /// identity.
    pub(super) metrics: Vec<Vec<Option<Metric>>>,
}

/// A node that applies a layer's weight.
pub(super) struct Site {
    /// Its index in the graph.
    pub node: usize,
    /// The evaluator's step that computes it.
    pub step: usize,
    /// How it applies the weight.
    pub map: LinearMap,
}

/// A layer's moments are taken over at least this many rows, where the data have them.
const LEAST_ROWS: usize = 4096;

/// A layer's moments are taken over at most this many rows.
const MOST_ROWS: usize = 1 << 17;

/// Ridge of tables, at least: use has words that samples lack.
const UNSEEN: f64 = 0.2;

/// Layers of more inputs than this are known by the rows they see, not by a matrix of moments.
const WIDE: usize = 5120;

/// Lanes that accumulate moments independently; a constant, so that sums don't depend on the number
/// of threads.
pub(super) const LANES: usize = 4;

impl<'a> Network<'a> {
    /// A network for the layers of `model` that have a map. `inputs` is one sample, for shapes; with
    /// none the model is never run, and extents are zero.
    ///
    /// # Errors
    /// When the model can't be run on the sample or a weight can't be read.
    pub fn new(
        model: &'a Model,
        layers: &[Layer],
        inputs: Vec<Tensor>,
        options: NetworkOptions,
    ) -> Result<Self> {
        let (evaluator, values) = if inputs.is_empty() && !model.graph().input.is_empty() {
            (Evaluator::never_run(model)?, HashMap::new())
        } else {
            (Evaluator::new(model)?, shapes(model, inputs)?)
        };
        let layers: Vec<Layer> =
            in_order(&evaluator, layers).into_iter().map(|(_, layer)| layer).collect();
        let sites = layers.iter().map(|layer| sites(&evaluator, layer)).collect();
        let weights = layers.iter().map(|l| l.weight(model)).collect::<Result<_>>()?;
        let extents = layers.iter().map(|l| l.extent(model, &values).unwrap_or_default()).collect();
        let count = layers.len();
        Ok(Self {
            model,
            layers,
            weights,
            extents,
            evaluator,
            sites,
            options,
            progress: &Silent,
            price: Price::default(),
            bits: vec![Bits::Usual; count],
            decompositions: Decompositions::default(),
            calibration: None,
            targets: Targets::default(),
            moments: Vec::new(),
            metrics: Vec::new(),
        })
    }

    /// Takes the metrics of another network for the same layers.
    pub fn take_metrics(&mut self, other: &Self) {
        self.metrics.clone_from(&other.metrics);
    }

    /// The fits of a layer's groups in the metrics of its outputs.
    pub(super) fn in_metric(&self, layer: usize, fits: Vec<Fit>) -> Vec<Fit> {
        let Some(metrics) = self.metrics.get(layer) else { return fits };
        fits.into_iter()
            .zip(metrics)
            .map(|(fit, metric)| match metric {
                Some(metric) => fit.with_metric(metric.clone()),
                None => fit,
            })
            .collect()
    }

    /// The ridge of a fit to these moments: more than asked for where they are of few rows.
    pub(super) fn ridge(&self, moments: &Moments) -> f64 {
        let least = if moments.xx.is_diagonal() { UNSEEN } else { self.options.ridge };
        least.max(moments.xx.shrinkage(moments.rows))
    }

    /// Positions of a layer at which it is looked at, for `samples` samples.
    pub(super) fn positions(&self, layer: usize, samples: usize) -> Positions {
        let map = self.layers[layer].map.as_ref();
        let columns = map.map_or(1, |m| m.columns);
        // More rows than columns of a very wide layer would make its moments a huge matrix.
        let wide = columns > WIDE && !map.is_some_and(LinearMap::is_table);
        let most = if wide { LEAST_ROWS } else { MOST_ROWS };
        let rows = (self.options.rows_per_input * columns).clamp(LEAST_ROWS, most);
        let looks = samples.max(1) * self.sites[layer].len().max(1);
        Positions {
            per_sample: rows.div_ceil(looks).max(1),
            seed: self.options.seed ^ (layer as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// The step of a layer's first node; past the end for a layer that isn't there.
    pub(super) fn first_step(&self, layer: usize) -> usize {
        self.sites.get(layer).and_then(|sites| sites.first()).map_or(usize::MAX, |site| site.step)
    }

    /// Empty sums for every group of a layer.
    pub(super) fn sums(&self, layer: usize) -> Vec<Sums> {
        let map = self.layers[layer].map.as_ref();
        map.map_or_else(Vec::new, |m| {
            let one =
                if m.is_table() { Sums::of_table(m.columns) } else { Sums::new(m.columns, m.rows) };
            vec![one; m.groups]
        })
    }

    /// The moments of a layer's groups.
    pub(super) fn moments_of(&self, layer: usize, groups: Vec<Sums>) -> Result<Vec<Moments>> {
        let moments = groups.into_iter().map(Sums::moments).collect::<std::result::Result<_, _>>();
        let moments: Vec<Option<Moments>> = moments.map_err(|source| self.fault(layer, source))?;
        Ok(moments.into_iter().flatten().collect())
    }

    /// What a layer's node sees, or with `input` false yields, at the given positions of `tensor`.
    pub(super) fn rows(
        &self,
        layer: usize,
        map: &LinearMap,
        tensor: &Tensor,
        batch: &Batch<'_>,
        at: &Positions,
        input: bool,
    ) -> Result<Rows> {
        let run = self.evaluator.batches().fixed.unwrap_or(batch.samples);
        let tensor = &first_samples(tensor, batch.samples, run);
        if input { map.input_rows(tensor, batch, at) } else { map.output_rows(tensor, batch, at) }
            .map_err(|source| self.fault(layer, source))
    }

    pub(super) fn fault(&self, layer: usize, source: crate::error::OpError) -> Error {
        let layer = &self.layers[layer];
        Error::Node { node: layer.name.clone(), op_type: layer.op_type.clone(), source }
    }

    pub(super) fn lost(&self, layer: usize) -> Error {
        Error::InvalidModel { reason: format!("`{}` has no input value", self.layers[layer].name) }
    }

    /// The fits of a layer's groups to the original's own inputs, or to the weight alone.
    #[must_use]
    pub fn own_fits(&self, layer: usize) -> Vec<Fit> {
        let weights = &self.weights[layer].groups;
        let takes_bias = self.layers[layer].map.as_ref().is_some_and(|m| m.takes_bias());
        match (self.options.statistics, self.moments.get(layer)) {
            (Statistics::None, _) | (_, None) => weights.iter().map(Fit::of_weight).collect(),
            (statistics, Some(moments)) => {
                let centred = takes_bias && statistics >= Statistics::Centred;
                let mut fits: Vec<Fit> = weights
                    .iter()
                    .zip(moments)
                    .map(|(w, m)| Fit::of_inputs(w, m, centred, self.ridge(m)))
                    .collect();
                // Targets may hold an added value: the mean of W x + b is the weight's own.
                let rows = weights.first().map_or(0, |w| w.nrows());
                for (g, (fit, w)) in fits.iter_mut().zip(weights).enumerate() {
                    if let Some((x, t)) = &mut fit.means {
                        let bias = &self.weights[layer].bias[g * rows..(g + 1) * rows];
                        *t = w.dot(x) + ndarray::ArrayView1::from(bias);
                    }
                }
                self.in_metric(layer, fits)
            }
        }
    }

    /// The forms that every layer can take, not pruned yet.
    ///
    /// # Errors
    /// When a decomposition fails.
    pub fn layer_options(
        &self,
        schemes: &[Scheme],
        rank_multiple: usize,
    ) -> Result<Vec<LayerOptions>> {
        (0..self.layers.len())
            .into_par_iter()
            .map(|l| {
                go_on(self.progress)?;
                let fits = self.own_fits(l);
                let (layer, nodes) = (&self.layers[l], &self.model.graph().node);
                let (multiple, at) = (rank_multiple.max(1), self.extents[l]);
                let (price, bits) = (self.price, self.bits[l]);
                let make =
                    || LayerOptions::new(layer, nodes, &fits, schemes, multiple, at, price, bits);
                let about = || {
                    let used: Vec<_> = layer.uses().map(|(node, _)| &nodes[node]).collect();
                    format!("{layer:?} {used:?} {schemes:?} {multiple} {at:?} {price:?} {bits:?}")
                };
                self.decompositions.get_or(about, &fits, make)
            })
            .collect()
    }

    /// A scorer for `samples`, by the labels where there are any.
    ///
    /// # Errors
    /// When labels or metric don't fit the outputs.
    pub fn scorer(
        &self,
        samples: &Samples,
        metric: Option<MetricKind>,
        labels: bool,
    ) -> Result<Scorer> {
        scorer(&self.evaluator, samples, metric, labels, self.progress)
    }
}

/// The layers that have a map, in the order that `evaluator` runs them, with their first steps.
#[must_use]
pub fn in_order(evaluator: &Evaluator, layers: &[Layer]) -> Vec<(usize, Layer)> {
    let mut found: Vec<(usize, Layer)> = layers
        .iter()
        .filter(|layer| layer.map.is_some())
        .filter_map(|layer| Some((sites(evaluator, layer).first()?.step, layer.clone())))
        .collect();
    found.sort_by_key(|(step, _)| *step);
    found
}

/// The nodes that apply a layer's weight and are run, in that order.
fn sites(evaluator: &Evaluator, layer: &Layer) -> Vec<Site> {
    let site = |(node, map): (usize, &LinearMap)| {
        Some(Site { node, step: evaluator.step_of(node)?, map: map.clone() })
    };
    let mut sites: Vec<Site> = layer.uses().filter_map(site).collect();
    sites.sort_by_key(|site| site.step);
    sites
}

/// A scorer for `samples` against what `original` gives on them, by the labels where there are any
/// and they are to be used.
///
/// # Errors
/// When labels or metric don't fit the outputs, or the run is interrupted.
pub fn scorer(
    original: &Evaluator,
    samples: &Samples,
    metric: Option<MetricKind>,
    labels: bool,
    progress: &dyn Progress,
) -> Result<Scorer> {
    let labels = if labels { samples.labels()? } else { None };
    let (reference, tokens) = (outputs(original, samples, progress)?, samples.tokens().cloned());
    Scorer::masked(reference, labels, metric, samples.class_axis(), tokens)
}

/// An evaluator's outputs on all samples, joined.
///
/// # Errors
/// When the model can't be run, or the run is interrupted.
pub fn outputs(
    evaluator: &Evaluator,
    samples: &Samples,
    progress: &dyn Progress,
) -> Result<Vec<Tensor>> {
    let runs: Vec<Vec<Tensor>> = (0..samples.runs())
        .into_par_iter()
        .map(|run| {
            go_on(progress)?;
            let outputs = evaluator.run(samples.inputs(run, evaluator)?)?;
            evaluator.per_sample(outputs, samples.range(run).len())
        })
        .collect::<Result<_>>()?;
    join(&runs)
}

/// An evaluator's score on all samples.
///
/// # Errors
/// When the model can't be run, or the run is interrupted.
pub fn score(
    evaluator: &Evaluator,
    samples: &Samples,
    scorer: &Scorer,
    progress: &dyn Progress,
) -> Result<Score> {
    let parts: Vec<Score> = (0..samples.runs())
        .into_par_iter()
        .map(|run| {
            go_on(progress)?;
            let outputs = evaluator.run(samples.inputs(run, evaluator)?)?;
            let range = samples.range(run);
            scorer.score(&evaluator.per_sample(outputs, range.len())?, range)
        })
        .collect::<Result<_>>()?;
    Ok(gather(parts))
}

pub(super) fn gather(parts: Vec<Score>) -> Score {
    let mut parts = parts.into_iter();
    let mut total =
        parts.next().unwrap_or_else(|| Score { losses: Vec::new(), metrics: Vec::new() });
    parts.for_each(|part| total.extend(part));
    total
}

/// Runs in consecutive stretches, one per lane.
pub(super) fn lanes(runs: usize) -> Vec<std::ops::Range<usize>> {
    (0..LANES).map(|lane| lane * runs / LANES..(lane + 1) * runs / LANES).collect()
}

/// Constants by name, for an evaluator.
pub(super) fn by_name(constants: &[(String, Tensor)]) -> HashMap<String, Tensor> {
    constants.iter().cloned().collect()
}
