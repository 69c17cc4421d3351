//! What a layer can become, and what that costs.

use std::collections::HashMap;

use crate::error::Result;
use crate::factorize::{Choice, Factors, Fit, Scheme, curves, replace};
use crate::graph::NameAllocator;
use crate::layer::{Cost, Extent, Form, Layer, LinearMap};
use crate::onnx::{NodeProto, TensorProto};
use crate::quantize::Price;
use prost::Message;

/// One form of a layer.
#[derive(Clone, Debug)]
pub struct LayerOption {
    /// Scheme and ranks; `None` leaves the layer dense.
    pub choice: Option<Choice>,
    /// What it costs.
    pub cost: Cost,
    /// Squared error of the layer's output as a share of its variance, both with the ridge's part:
    /// an estimate for samples that were not calibrated on.
    pub error: f64,
}

/// The forms of a layer that no other one beats in both cost and error, dearest first; the first is
/// dense.
#[derive(Clone, Debug)]
pub struct LayerOptions {
    /// The forms.
    pub options: Vec<LayerOption>,
    /// What the layer costs in the model as it is.
    pub stored: Cost,
    /// Variance of the layer's output that errors are shares of.
    pub energy: f64,
    /// The error of every choice, those included that are no option: what decompositions tell of the
    /// layer.
    pub errors: Vec<(Choice, f64)>,
}

impl LayerOptions {
    /// The forms of `layer`, of a graph of `nodes`, under the given fits of its groups.
    ///
    /// `at` says where the map is applied, `price` how weights are stored; ranks are multiples of
    /// `rank_multiple`.
    ///
    /// # Errors
    /// When a decomposition fails.
    pub fn new(
        layer: &Layer,
        nodes: &[NodeProto],
        fits: &[Fit],
        schemes: &[Scheme],
        rank_multiple: usize,
        at: Extent,
        price: Price,
    ) -> Result<Self> {
        let stored = stored(layer, at, price);
        let Some(map) = &layer.map else {
            let dense = LayerOption { choice: None, cost: stored, error: 0.0 };
            return Ok(Self { options: vec![dense], stored, energy: 0.0, errors: Vec::new() });
        };
        let energy: f64 = fits.iter().map(|fit| fit.energy).sum();
        let mut options = vec![dense(layer, nodes, map, stored, price)?];
        let mut errors = Vec::new();
        let curves = curves(map, fits, schemes)?;
        for curve in &curves {
            let scheme = curve.scheme;
            let rank_in = (scheme == Scheme::Tucker).then_some(1);
            let overhead = overhead(layer, nodes, map, Some(Choice { scheme, rank: 1, rank_in }))?;
            for (choice, error) in curve.choices(map)? {
                let error = (error / energy.max(f64::MIN_POSITIVE)).min(1.0);
                errors.push((choice, error));
                let whole = |rank: usize| rank.is_multiple_of(rank_multiple);
                if !whole(choice.rank) || !choice.rank_in.is_none_or(whole) {
                    continue;
                }
                let params = choice.params(map) as u64;
                if params >= layer.weight_params {
                    continue;
                }
                let params = params + bias(layer, map);
                let bytes = bytes(layer, map, Some(choice), price) + overhead;
                let macs = choice.macs(map, at);
                let cost = Cost { params, macs, bytes, ..Cost::default() };
                options.push(LayerOption { choice: Some(choice), cost, error });
            }
        }
        Ok(Self { options, stored, energy, errors })
    }

    /// Gives the forms the errors that they have under other fits of the layer's groups.
    ///
    /// # Errors
    /// When a decomposition fails.
    pub fn revise(&mut self, map: &LinearMap, fits: &[Fit]) -> Result<()> {
        let mut schemes: Vec<Scheme> = Vec::new();
        for choice in self.options.iter().filter_map(|o| o.choice) {
            if !schemes.contains(&choice.scheme) {
                schemes.push(choice.scheme);
            }
        }
        let mut errors: HashMap<Choice, f64> = HashMap::new();
        for curve in curves(map, fits, &schemes)? {
            errors.extend(curve.choices(map)?);
        }
        let energy = self.energy;
        // What no map of these inputs explains is no choice's fault.
        let mut least = 0.0;
        for fit in fits {
            least += fit.error(&fit.dense()?).max(0.0);
        }
        for option in &mut self.options {
            if let Some(error) = option.choice.and_then(|choice| errors.get(&choice)) {
                option.error = ((error - least) / energy.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
            }
        }
        Ok(())
    }

    /// Keeps the forms that no other one beats in both error and `cost`.
    pub fn prune(&mut self, cost: impl Fn(&Cost) -> u64) {
        let mut rest = self.options.split_off(1);
        // By cost, and the smaller error first among equals.
        rest.sort_by(|a, b| cost(&a.cost).cmp(&cost(&b.cost)).then(a.error.total_cmp(&b.error)));
        let mut best = f64::INFINITY;
        rest.retain(|option| {
            let better = option.error < best;
            best = best.min(option.error);
            better
        });
        rest.retain(|option| cost(&option.cost) < cost(&self.options[0].cost));
        self.options.extend(rest.into_iter().rev());
    }
}

/// Bytes of the weights and the bias of a layer in a form.
fn bytes(layer: &Layer, map: &LinearMap, choice: Option<Choice>, price: Price) -> u64 {
    let product = match map.form {
        Form::MatMulRight => true,
        Form::Gemm { trans_a, alpha, beta, .. } => {
            // Factors take the scales in.
            !trans_a && (choice.is_some() || (alpha == 1.0 && beta == 1.0))
        }
        _ => false,
    };
    let factors = Factors::shapes(choice, map);
    let weights: u64 = factors
        .iter()
        .map(|(rows, columns)| price.weight(map.groups * rows, *columns, product))
        .sum();
    weights + 4 * bias(layer, map)
}

/// What a layer costs as it is.
fn stored(layer: &Layer, at: Extent, price: Price) -> Cost {
    let params = layer.weight_params + layer.bias_params;
    let products = layer.map.as_ref().map_or(0, |m| m.columns * m.rows * m.groups) as u64;
    let own = |map: &LinearMap| {
        let added = bias(layer, map) - layer.bias_params;
        bytes(layer, map, None, price) - 4 * added
    };
    let bytes = layer.map.as_ref().map_or(4 * params, own);
    Cost { params, macs: products * at.output, bytes, ..Cost::default() }
}

/// The layer with a weight of its own shape, as a refit leaves it.
fn dense(
    layer: &Layer,
    nodes: &[NodeProto],
    map: &LinearMap,
    stored: Cost,
    price: Price,
) -> Result<LayerOption> {
    let params = layer.weight_params + bias(layer, map);
    let bytes = bytes(layer, map, None, price) + overhead(layer, nodes, map, None)?;
    Ok(LayerOption { choice: None, cost: Cost { params, bytes, ..stored }, error: 0.0 })
}

/// Elements of the bias that new factors come with: a layer without bias gets one, as its mean
/// moves there.
fn bias(layer: &Layer, map: &LinearMap) -> u64 {
    let outputs = if map.takes_bias() { map.groups * map.rows } else { 0 };
    layer.bias_params.max(outputs as u64)
}

/// Bytes that new nodes and tensors take beside their elements, less those of the layer's own nodes
/// and tensors.
fn overhead(
    layer: &Layer,
    nodes: &[NodeProto],
    map: &LinearMap,
    choice: Option<Choice>,
) -> Result<u64> {
    let mut names = NameAllocator::default();
    let made = replace(layer, nodes, &Factors::zeros(choice, map), &mut names)?;
    // Numbers in a header grow with the ranks by a few bytes.
    const SLACK: usize = 12;
    let len = |node: &NodeProto| node.encoded_len() + 4;
    let new: usize = made.iter().flat_map(|r| &r.nodes).map(len).sum();
    let tensors: usize = made
        .iter()
        .flat_map(|r| &r.constants)
        .map(|(name, tensor)| {
            TensorProto::from_tensor(name, tensor).encoded_len() + SLACK - tensor.byte_len()
        })
        .sum();
    let names = layer.weight.len() + map.bias.as_ref().map_or(0, |bias| bias.len() + 12);
    let own: usize = layer.uses().map(|(node, _)| len(&nodes[node])).sum();
    let own = own + names + 12;
    Ok((new + tensors).saturating_sub(own) as u64)
}
