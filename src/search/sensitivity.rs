//! How much the loss rises per unit of a layer's error, measured one layer at a time.

use super::snapshots::Snapshots;
use super::{Effort, Problem};
use crate::error::{Error, Result};
use crate::score::Scorer;

/// A layer that does not matter at all still costs this share of the mean sensitivity, so that its
/// error is not ignored.
const FLOOR: f64 = 0.05;

/// Samples that a layer is tried on, at least and at most: what one layer alone does is far above chance.
const SAMPLES: (usize, usize) = (32, 256);

/// Multiply-accumulates that it takes to try all layers, about.
const MACS: f64 = 8e12;

/// The sensitivity of every layer: the loss that `scorer` gives the network with that layer alone
/// at about the budget's ratio, per unit of the layer's relative error. `scorer` is to compare with
/// the original's outputs, so that its loss is zero for the original.
///
/// # Errors
/// When a network can't be run, or the run is interrupted.
pub fn sensitivities(
    problem: Problem<'_, '_>,
    scorer: &Scorer,
    effort: &mut Effort,
) -> Result<Vec<f64>> {
    let Problem { network, options, budget, samples, cache, limits, progress, .. } = problem;
    let full = budget.cost(options, &vec![0; options.len()]).max(1);
    let share = budget.limit as f64 / full as f64;
    let mut snapshots = Snapshots::new(limits.snapshot_bytes);
    // A layer is tried with those behind it: half of the network, in the mean.
    let run = options.iter().map(|layer| layer.stored.macs as f64).sum::<f64>() / 2.0;
    let within = (MACS / (run * options.len() as f64).max(1.0)) as usize;
    let runs = samples.runs_of(within.clamp(SAMPLES.0, SAMPLES.1));
    let mut measured = Vec::with_capacity(options.len());
    for (l, layer) in options.iter().enumerate() {
        if progress.interrupted() {
            return Err(Error::Interrupted);
        }
        let dense = budget.resource.of(&layer.options[0].cost) as f64;
        let distance = |o: &&super::LayerOption| {
            (budget.resource.of(&o.cost) as f64 / dense.max(1.0) - share).abs()
        };
        let probe = layer.options[1..]
            .iter()
            .filter(|o| o.choice.is_some() && o.error - o.rounding > 1e-9)
            .min_by(|a, b| distance(a).total_cmp(&distance(b)));
        let Some((probe, choice)) = probe.and_then(|o| Some((o, o.choice?))) else {
            measured.push(None);
            continue;
        };
        let name = format!("alone {l} {choice:?}");
        let losses = match cache.get(&name) {
            Some(losses) => losses,
            None => {
                let alone = network.alone(l, choice)?;
                let (runs, kept) = (0..runs, &mut snapshots);
                let score = network.score(&alone, samples, runs, scorer, l, kept, effort)?;
                cache.put(name, &score.losses);
                score.losses
            }
        };
        let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        effort.evaluations += 1;
        // The network is not rounded here.
        measured.push(Some(loss.max(0.0) / (probe.error - probe.rounding)));
        log::debug!(target: "search", "{} alone: {:?}, error {:.4}, loss {loss:.5}",
            network.layers[l].name, choice, probe.error);
        progress.step(l as u64 + 1, &network.layers[l].name);
    }
    let known: Vec<f64> = measured.iter().flatten().copied().collect();
    let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let floor = (mean * FLOOR).max(1e-9);
    Ok(measured.into_iter().map(|s| s.map_or(floor, |s| s.max(floor))).collect())
}
