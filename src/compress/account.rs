//! What a report says of every layer, and which targets were missed.

use std::collections::HashSet;

use crate::factorize::Factors;
use crate::layer::{Extent, Layer};
use crate::options::{Options, Target};
use crate::report::{self, Action, Report};

/// Share of a ratio of times below which it is missed: two measurements differ by as much.
const TIMING: f64 = 0.95;

/// One entry per weight of the model, in node order; `folded` names the layers whose new bias is
/// part of another constant.
pub(super) fn fill_layers(
    report: &mut Report,
    layers: &[Layer],
    compressible: &[Layer],
    extents: &[Extent],
    factors: &[Option<Factors>],
    folded: &HashSet<String>,
    spectra: &[Option<report::Spectrum>],
) {
    for layer in layers {
        let place = compressible.iter().position(|l| l.node == layer.node);
        let place = place.filter(|_| layer.map.is_some());
        let factors = place.and_then(|l| factors[l].as_ref());
        let extent = place.map(|l| extents[l]).unwrap_or_default();
        let own_bias = !folded.contains(&layer.name);
        let mut entry = entry(layer, factors, own_bias, extent);
        entry.spectrum = place.and_then(|l| spectra.get(l)?.clone());
        report.layers.push(entry);
    }
}

fn entry(layer: &Layer, factors: Option<&Factors>, own_bias: bool, at: Extent) -> report::Layer {
    let before = layer.weight_params + layer.bias_params;
    let dense = layer.map.as_ref().map(|m| m.macs() * at.output);
    // Extents are not known where the model can't be run.
    let known = at.output > 0;
    let choice = factors.and_then(|f| f.choice);
    let macs = match (&layer.map, choice) {
        (Some(map), Some(choice)) => Some(choice.macs(map, at)),
        _ => dense,
    };
    let params = match (&layer.map, factors) {
        (Some(map), Some(factors)) => {
            let dense = map.groups * map.rows * map.columns;
            let weights = choice.map_or(dense, |choice| choice.params(map));
            let bias = match factors.bias.iter().any(|&v| v != 0.0) {
                _ if !map.takes_bias() => layer.bias_params,
                written => {
                    if written && own_bias {
                        factors.bias.len() as u64
                    } else {
                        0
                    }
                }
            };
            weights as u64 + bias
        }
        _ => before,
    };
    report::Layer {
        name: layer.name.clone(),
        op_type: layer.op_type.clone(),
        shape: layer.shape.clone(),
        action: match (&layer.map, choice) {
            (None, _) => Action::Skip,
            (_, Some(_)) => Action::Factorize,
            (_, None) => Action::Keep,
        },
        scheme: choice.map(|c| c.scheme.name().to_owned()),
        rank: choice.map(|c| c.rank),
        rank_in: choice.and_then(|c| c.rank_in),
        full_rank: layer.map.as_ref().map(|m| m.full_rank()),
        bits: None,
        params_before: before,
        params_after: params,
        macs_before: dense.filter(|_| known),
        macs_after: macs.filter(|_| known),
        reason: layer.skip.clone().or_else(|| {
            (choice.is_none() && factors.is_some())
                .then(|| "dense; refitted to what the layers before it yield".to_owned())
        }),
        spectrum: None,
    }
}

/// Says which targets were missed.
pub(super) fn check_targets(report: &mut Report, options: &Options) {
    if let (Some(asked), Some(reached)) = (report.ratio.asked, report.ratio.reached)
        && reached < asked * if options.target == Target::Latency { TIMING } else { 0.999 }
    {
        report.missed.push(format!("ratio {reached:.3} where {asked:.3} was asked for"));
    }
    let Some(most) = options.max_drop else { return };
    let lost = match (&report.file_metric, &report.metric) {
        (Some(metric), _) => metric.written.map(|w| (metric.original - w, &metric.name)),
        (None, Some(metric)) => {
            let sign = if metric.higher_is_better { 1.0 } else { -1.0 };
            metric.written.map(|written| (sign * (metric.original - written), &metric.name))
        }
        (None, None) => None,
    };
    if let Some((drop, name)) = lost.filter(|(drop, _)| *drop > most) {
        report.missed.push(format!("{drop:.2} points of {name} lost, more than {most}"));
    }
}
