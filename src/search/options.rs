//! What a layer can become, and what that costs.

use std::collections::HashMap;

use crate::error::Result;
use crate::factorize::{Choice, Factors, Fit, Scheme, curves, replace};
use crate::graph::NameAllocator;
use crate::layer::{Cost, Extent, Form, Layer, LinearMap};
use crate::linalg::Matrix;
use crate::onnx::{NodeProto, TensorProto};
use crate::quantize::{Kind, Price, Storage};
use prost::Message;
use serde::{Deserialize, Serialize};

/// One form of a layer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LayerOption {
    /// Scheme and ranks; `None` leaves the layer dense.
    pub choice: Option<Choice>,
    /// How its weights are stored; `None` is float.
    pub storage: Option<Storage>,
    /// What it costs.
    pub cost: Cost,
    /// Squared error of the layer's output as a share of its variance, both with the ridge's part:
    /// an estimate for samples that were not calibrated on.
    pub error: f64,
    /// The part of the error that comes from the rounding of weights.
    pub rounding: f64,
}

/// The forms of a layer that no other one beats in both cost and error, dearest first; the first is
/// dense.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// `at` says where the map is applied, `price` how weights are stored and `bits` what layers may
    /// choose of that; ranks are multiples of `rank_multiple`.
    ///
    /// # Errors
    /// When a decomposition fails.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        layer: &Layer,
        nodes: &[NodeProto],
        fits: &[Fit],
        schemes: &[Scheme],
        rank_multiple: usize,
        at: Extent,
        price: Price,
        bits: Bits,
    ) -> Result<Self> {
        let stored = stored(layer, at, price, bits);
        let Some(map) = &layer.map else {
            let dense = LayerOption { cost: stored, ..LayerOption::default() };
            return Ok(Self { options: vec![dense], stored, energy: 0.0, errors: Vec::new() });
        };
        let energy: f64 = fits.iter().map(|fit| fit.energy).sum();
        let mut options = Vec::new();
        for storage in bits.storages(price, kind(map, None)) {
            let cost = dense(layer, nodes, map, stored, price, storage)?;
            let rounding = match storage {
                Some(storage) if bits.vary(price) => {
                    lost(&unfactorized(fits)?, map, fits, storage, price)? / energy.max(LEAST)
                }
                _ => 0.0,
            };
            let error = rounding.min(1.0);
            options.push(LayerOption { choice: None, storage, cost, error, rounding: error });
        }
        let mut errors = Vec::new();
        let curves = curves(map, fits, schemes)?;
        for curve in &curves {
            let scheme = curve.scheme;
            let rank_in = (scheme == Scheme::Tucker).then_some(1);
            let overhead =
                overhead(layer, nodes, map, Some(Choice { scheme, rank: 1, rank_in }), price)?;
            let choices = curve.choices(map)?;
            let storages = bits.storages(price, kind(map, choices.first().map(|c| c.0)));
            // What rounding costs hardly depends on the rank.
            let mut shares = vec![0.0; storages.len()];
            if let Some(&(middle, error)) = choices.get(choices.len() / 2)
                && bits.vary(price)
            {
                let factors = curve.factors(middle, fits, &[])?;
                for (share, storage) in shares.iter_mut().zip(&storages) {
                    let Some(storage) = *storage else { continue };
                    *share =
                        lost(&factors, map, fits, storage, price)? / (energy - error).max(LEAST);
                }
            }
            for (choice, error) in choices {
                let error = (error / energy.max(LEAST)).min(1.0);
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
                let macs = choice.macs(map, at);
                for (&storage, share) in storages.iter().zip(&shares) {
                    let bytes = bytes(layer, map, Some(choice), price, storage) + overhead;
                    let cost = Cost { params, macs, bytes, ..Cost::default() };
                    let rounding = (share * (1.0 - error)).clamp(0.0, 1.0 - error);
                    let error = error + rounding;
                    options.push(LayerOption {
                        choice: Some(choice),
                        storage,
                        cost,
                        error,
                        rounding,
                    });
                }
            }
        }
        Ok(Self { options, stored, energy, errors })
    }

    /// The forms of a float `layer`, of a graph of `nodes`, from the choices that it has, all of one scheme after another, and their
    /// squared errors, where its output has this energy; left dense it stays as it is stored. The rest as for
    /// [`LayerOptions::new`].
    ///
    /// # Errors
    /// When a choice is none of this layer's.
    pub fn of_choices(
        layer: &Layer,
        nodes: &[NodeProto],
        energy: f64,
        choices: &[(Choice, f64)],
        rank_multiple: usize,
        at: Extent,
    ) -> Result<Self> {
        let price = Price::default();
        let stored = stored(layer, at, price, Bits::Float);
        let mut options = vec![LayerOption {
            choice: None,
            storage: None,
            cost: stored,
            error: 0.0,
            rounding: 0.0,
        }];
        let mut errors = Vec::new();
        let Some(map) = &layer.map else { return Ok(Self { options, stored, energy, errors }) };
        // Nodes and headers of a scheme are the same at every rank.
        let mut around: Option<(Scheme, u64)> = None;
        for &(choice, error) in choices {
            let error = (error / energy.max(LEAST)).min(1.0);
            errors.push((choice, error));
            let divides = |rank: usize| rank.is_multiple_of(rank_multiple);
            if !divides(choice.rank) || !choice.rank_in.is_none_or(divides) {
                continue;
            }
            let params = choice.params(map) as u64;
            if params >= layer.weight_params {
                continue;
            }
            let scheme = choice.scheme;
            let overhead = match around {
                Some((known, bytes)) if known == scheme => bytes,
                _ => {
                    let rank_in = (scheme == Scheme::Tucker).then_some(1);
                    overhead(layer, nodes, map, Some(Choice { scheme, rank: 1, rank_in }), price)?
                }
            };
            around = Some((scheme, overhead));
            let bytes = bytes(layer, map, Some(choice), price, None) + overhead;
            let (params, macs) = (params + bias(layer, map), choice.macs(map, at));
            let cost = Cost { params, macs, bytes, ..Cost::default() };
            options.push(LayerOption {
                choice: Some(choice),
                storage: None,
                cost,
                error,
                rounding: 0.0,
            });
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
                let error = ((error - least) / energy.max(LEAST)).clamp(0.0, 1.0);
                option.error = (error + option.rounding).min(1.0);
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

/// The least energy that errors are shares of.
const LEAST: f64 = f64::MIN_POSITIVE;

/// What layers may choose of a form's ways to store weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// What the form is named for.
    Usual,
    /// More bits too, where they are worth their bytes.
    Free,
    /// Plain floats.
    Float,
}

impl Bits {
    /// The ways there are, by falling bytes.
    fn storages(self, price: Price, kind: Kind) -> Vec<Option<Storage>> {
        match self {
            Self::Usual => vec![price.usual(kind)],
            Self::Free => price.storages(kind),
            Self::Float => vec![None],
        }
    }

    /// Whether there is more than one way.
    fn vary(self, price: Price) -> bool {
        self == Self::Free && price.storages(Kind::Other).len() > 1
    }
}

/// What the weights of a layer in a form are to their nodes.
fn kind(map: &LinearMap, choice: Option<Choice>) -> Kind {
    match map.form {
        Form::MatMulRight => Kind::Product,
        // Factors take the scales in.
        Form::Gemm { trans_a: false, alpha, beta, .. }
            if choice.is_some() || (alpha == 1.0 && beta == 1.0) =>
        {
            Kind::Product
        }
        _ => Kind::Other,
    }
}

/// The layer as it is, by its fits.
fn unfactorized(fits: &[Fit]) -> Result<Factors> {
    let groups = fits.iter().map(|fit| Ok(vec![fit.dense()?])).collect::<Result<_>>()?;
    Ok(Factors { choice: None, groups, bias: Vec::new() })
}

/// The error that rounding the weights adds, by the inputs that the fits know.
fn lost(
    factors: &Factors,
    map: &LinearMap,
    fits: &[Fit],
    storage: Storage,
    price: Price,
) -> Result<f64> {
    let error = |factors: &Factors| -> f64 {
        let whole = factors.to_dense(map).groups;
        fits.iter().zip(&whole).map(|(fit, group)| fit.error(&group[0])).sum()
    };
    let lost = error(&rounded(factors, storage, price)) - error(factors);
    Ok(if lost.is_finite() { lost.max(0.0) } else { 0.0 })
}

/// The factors with every weight rounded to the nearest level.
pub(super) fn rounded(factors: &Factors, storage: Storage, price: Price) -> Factors {
    let block = price.form.map_or(usize::MAX, |(_, block)| block);
    let round = |group: &Vec<Matrix>| group.iter().map(|m| storage.nearest(m, block)).collect();
    Factors { groups: factors.groups.iter().map(round).collect(), ..factors.clone() }
}

/// Bytes of the weights and the bias of a layer in a form.
fn bytes(
    layer: &Layer,
    map: &LinearMap,
    choice: Option<Choice>,
    price: Price,
    storage: Option<Storage>,
) -> u64 {
    let factors = Factors::shapes(choice, map);
    let weights: u64 = factors
        .iter()
        .map(|(rows, columns)| price.weight(map.groups * rows, *columns, storage))
        .sum();
    weights + 4 * bias(layer, map)
}

/// What a layer costs as it is, stored in the usual way.
fn stored(layer: &Layer, at: Extent, price: Price, bits: Bits) -> Cost {
    let params = layer.weight_params + layer.bias_params;
    let products = layer.map.as_ref().map_or(0, LinearMap::macs);
    let own = |map: &LinearMap| {
        let added = bias(layer, map) - layer.bias_params;
        let storage = price.usual(kind(map, None)).filter(|_| bits != Bits::Float);
        bytes(layer, map, None, price, storage) - 4 * added
    };
    let bytes = layer.map.as_ref().map_or(4 * params, own);
    Cost { params, macs: products * at.output, bytes, ..Cost::default() }
}

/// What the layer costs with a weight of its own shape, as a refit leaves it.
fn dense(
    layer: &Layer,
    nodes: &[NodeProto],
    map: &LinearMap,
    stored: Cost,
    price: Price,
    storage: Option<Storage>,
) -> Result<Cost> {
    let params = layer.weight_params + bias(layer, map);
    let bytes = bytes(layer, map, None, price, storage) + overhead(layer, nodes, map, None, price)?;
    Ok(Cost { params, bytes, ..stored })
}

/// Elements of the bias that new factors come with: a layer without bias gets one, as its mean
/// moves there.
fn bias(layer: &Layer, map: &LinearMap) -> u64 {
    let outputs = if map.takes_bias() { map.groups * map.rows } else { 0 };
    layer.bias_params.max(outputs as u64)
}

/// Bytes of the nodes that look up the rows of a table that is stored in fewer bits, beyond those that
/// other weights come with, and beside the name of the index.
const LOOKED_UP: usize = 64;

/// Bytes that new nodes and tensors take beside their elements, less those of the layer's own nodes
/// and tensors.
fn overhead(
    layer: &Layer,
    nodes: &[NodeProto],
    map: &LinearMap,
    choice: Option<Choice>,
    price: Price,
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
    // Scales are looked up like codes.
    let index = |node: &NodeProto| node.input.get(1).map_or(0, |name| name.len() + LOOKED_UP);
    let rows: usize = match price.form {
        Some(_) if map.is_table() => layer.uses().map(|(node, _)| index(&nodes[node])).sum(),
        _ => 0,
    };
    Ok((new + tensors + rows).saturating_sub(own) as u64)
}

#[cfg(test)]
mod tests;
