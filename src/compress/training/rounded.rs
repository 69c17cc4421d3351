//! The last part of a training: weights as they will be rounded.

use super::{Stage, Trainer};
use crate::error::Result;
use crate::eval::Evaluator;
use crate::graph;
use crate::layer::{Filter, find};
use crate::onnx::{Model, TensorProto};
use crate::options::Options;
use crate::progress::Progress;
use crate::quantize::{Grid, Quantization, Quantized, Settings};
use crate::search;
use crate::tensor::Tensor;
use crate::tune::{Aim, Grids, Parameter, Products};

/// The share of a training in which weights are rounded.
pub(in crate::compress) fn share(options: &Options) -> f64 {
    match options.quantize {
        Some(form) if form.has_grid() => options.rounded_share,
        _ => 0.0,
    }
}

impl Trainer<'_> {
    /// `model`, whose weights are to be stored as `found` has it, trained with these weights rounded
    /// whenever it is run, in `share` of the whole training. Returns the float model whose weights are
    /// what the codes stand for, and how it is stored.
    #[allow(clippy::too_many_arguments)]
    pub fn round(
        &mut self,
        model: &Model,
        found: Quantized,
        settings: &Settings,
        sample: &[Tensor],
        share: f64,
        stages: &mut Vec<Stage>,
        progress: &dyn Progress,
    ) -> Result<(Model, Quantization)> {
        let grids = Grid::all(&found, settings);
        let quantization = found.quantization;
        let mut floats = quantization.stands_for(model)?;
        // Values are rounded in training too.
        let seen = quantization.of_values().apply(&floats)?;
        let macs = super::result::macs(model, &find(model, &Filter::default())?, sample.to_vec())?;
        let untrained = Evaluator::new(&seen)?;
        let start = search::score(&untrained, &self.checks, &self.scorer, progress)?.mean_loss();
        let recipe = self.recipe(macs.map_or(self.macs, |m| m as f64), self.left(share), start);
        let decay = self.options.decay;
        let mut used = None;
        let aim = |parameters: &[Parameter]| -> Result<Aim<'_>> {
            let products = Products::of(&seen, parameters)?;
            let penalty = move |parameters: &[Parameter], slopes: &mut [Vec<f32>], _| {
                Ok(products.decay(parameters, slopes, decay))
            };
            let judged = |parameters: &[Parameter]| Ok(parameters.to_vec());
            let grids = Grids::new(grids, parameters);
            used = Some(grids.clone());
            Ok(Aim { penalty: Box::new(penalty), judged: Box::new(judged), grids: Some(grids) })
        };
        let trained = self.train("round", &seen, recipe, aim, stages, progress)?;
        if let Some(stage) = stages.last_mut() {
            stage.entry.ratio = self.options.ratio;
        }
        let (Some(grids), parameters) = (used, trained.parameters) else {
            return Ok((floats, quantization));
        };
        for parameter in grids.rounded(&parameters) {
            // The model that was trained may have constants of a newer operator set.
            let own = graph::constant_tensor(&floats, &parameter.name)?;
            if own.is_some_and(|own| own.shape() == parameter.shape) {
                let new = Tensor::from_vec(&parameter.shape, parameter.values)
                    .map_err(|e| super::Error::Training { reason: e.to_string() })?;
                let new = TensorProto::from_tensor(&parameter.name, &new);
                graph::set_constant(floats.graph_mut(), new);
            }
        }
        let quantization = quantization.with(&floats, grids.stored(&parameters))?;
        Ok((floats, quantization))
    }
}
