//! What changes of single layers do to the loss of a compressed network, against the prediction.
//!
//! Sensitivities that are measured on the original, one layer at a time, say little about a network
//! in which all layers have errors: the last layers, whose errors nothing behind them makes up for,
//! can matter several times as much. Here every layer is changed in place, and those behind it are
//! refitted.

use super::network::Network;
use super::quick::Quick;
use super::race::Difference;
use super::{Allocation, Effort, Problem};
use crate::error::{Error, Result};

/// The change of the loss that a layer is tried at, as a share of the predicted loss of all layers.
const CHANGE: f64 = 0.08;

/// What can't change the loss by this share of that is not tried.
const LEAST: f64 = 0.1;

/// Least and most that a layer's losses are multiplied by.
const BOUNDS: (f64, f64) = (0.1, 30.0);

/// Standard deviation of the logarithm of layers' ratios before anything is measured.
const SPREAD: f64 = 1.0;

/// Layers that are tried before it is asked whether changes are told from noise.
const FIRST: usize = 5;

/// Standard errors that the predicted changes of half of them must be.
const CLEAR: f64 = 2.5;

/// Standard errors of a predicted change from which on more samples would tell little about its layer, whose
/// ratio is known far less well before.
const ENOUGH: f64 = 4.0;

/// One change of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    layer: usize,
    /// The change of the loss by prediction.
    predicted: f64,
    /// The change that was measured.
    measured: f64,
    /// Its standard error.
    error: f64,
}

/// Tries every layer in the network of `allocation`, at about the same predicted change of the loss, on as
/// many samples as it takes, up to one of the runs that `heats` end with. `losses[layer][option]` are
/// the predictions. `None` where the first layers show that such changes can't be told from the noise
/// of the samples: what follows from them would be chance.
///
/// # Errors
/// When a network can't be run, or the run is interrupted.
pub fn probe(
    problem: Problem<'_, '_>,
    quick: &mut Quick<'_, '_>,
    allocation: &Allocation,
    losses: &[Vec<f64>],
    heats: &[usize],
    effort: &mut Effort,
) -> Result<Option<Vec<Probe>>> {
    let Problem { network, options, limits, progress, .. } = problem;
    let choices = Network::choices(options, allocation);
    quick.rebase(allocation);
    effort.evaluations += 1;
    let total: f64 = allocation.iter().zip(losses).map(|(&o, losses)| losses[o]).sum();
    let changes = losses.iter().enumerate().filter_map(|(l, losses)| {
        let (option, predicted) = change(losses, allocation[l], CHANGE * total)?;
        let mut changed = allocation.clone();
        changed[l] = option;
        Some((changed, (l, option, predicted)))
    });
    let (changed, changes): (Vec<Allocation>, Vec<_>) = changes.unzip();
    let mut probes = Vec::new();
    for (at, (l, option, predicted)) in changes.into_iter().enumerate() {
        if progress.interrupted() {
            return Err(Error::Interrupted);
        }
        if limits.exceeded(effort.evaluations).is_some() {
            break;
        }
        if let Some(&first) = heats.first() {
            let next = (at + quick.lanes()).min(changed.len());
            quick.ahead(&changed[at..next], first, effort)?;
        }
        let mut difference = Difference::of(&[], &[]);
        for &end in heats {
            let before = quick.losses(allocation, end, effort)?;
            let after = quick.losses(&changed[at], end, effort)?;
            difference = Difference::of(&after, &before);
            if predicted.abs() > ENOUGH * difference.error {
                break;
            }
        }
        effort.evaluations += 1;
        let Difference { mean: measured, error } = difference;
        log::debug!(target: "search", "{}: {:?} for {:?}: {measured:+.5} +- {error:.5}, predicted \
             {predicted:+.5}", network.layers[l].name, options[l].options[option].choice, choices[l]);
        progress.step(effort.evaluations, &network.layers[l].name);
        probes.push(Probe { layer: l, predicted, measured, error });
        if probes.len() == FIRST && hidden(&probes) {
            return Ok(None);
        }
    }
    Ok(Some(probes))
}

/// Whether noise hides the changes of half of the probes.
fn hidden(probes: &[Probe]) -> bool {
    let clear = |p: &&Probe| p.predicted.abs() > CLEAR * p.error;
    2 * probes.iter().filter(clear).count() < probes.len()
}

/// The option of a layer whose loss is about `wanted` above that of option `now`, or below where that
/// is nearer, with the difference.
fn change(losses: &[f64], now: usize, wanted: f64) -> Option<(usize, f64)> {
    let changes = losses.iter().enumerate().map(|(o, loss)| (o, loss - losses[now]));
    let far = |change: f64| (change.abs() - wanted).abs();
    changes
        .filter(|(_, change)| change.abs() > LEAST * wanted)
        .min_by(|a, b| far(a.1).total_cmp(&far(b.1)))
}

/// For every layer the most likely ratio of measured to predicted changes: errors of the measurements
/// are normal, the ratios of layers log-normal around that of all together, so that noise changes
/// little and a layer that clearly matters ten times as much is believed to.
pub fn scales(probes: &[Probe], layers: usize) -> Vec<f64> {
    let weight = |p: &Probe| (p.predicted / p.error.max(1e-12)).powi(2);
    let weighed = |of: &dyn Fn(&Probe) -> bool| {
        let own = || probes.iter().filter(|p| of(p));
        let total: f64 = own().map(weight).sum();
        (own().map(|p| weight(p) * p.measured / p.predicted).sum::<f64>() / total, total)
    };
    let (common, _) = weighed(&|_| true);
    if !(common.is_finite() && common > 0.0) {
        return vec![1.0; layers];
    }
    (0..layers)
        .map(|layer| {
            let (ratio, weight) = weighed(&|p| p.layer == layer);
            if weight > 0.0 { likeliest(ratio / common, weight * common.powi(2)) } else { 1.0 }
        })
        .collect()
}

/// The mode of a log-normal variable around one that was measured as `ratio` with a normal error of
/// precision `weight`.
fn likeliest(ratio: f64, weight: f64) -> f64 {
    let (low, high) = (BOUNDS.0.ln(), BOUNDS.1.ln());
    let cost = |x: f64| weight * (x.exp() - ratio).powi(2) + (x / SPREAD).powi(2);
    const STEPS: usize = 400;
    let grid = (0..=STEPS).map(|i| low + (high - low) * i as f64 / STEPS as f64);
    grid.min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(0.0).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(ratios: &[f64], noise: f64) -> Vec<Probe> {
        let one = |(layer, ratio): (usize, &f64)| {
            let off = if layer % 2 == 0 { noise } else { -noise };
            Probe { layer, predicted: 0.03, measured: 0.03 * ratio + off, error: noise.max(1e-4) }
        };
        ratios.iter().enumerate().map(one).collect()
    }

    #[test]
    fn exact_probes_are_believed() {
        let scales = scales(&probes(&[0.5, 0.5, 1.0, 4.0], 0.0), 5);
        assert!((scales[3] / scales[2] - 4.0).abs() < 0.1, "{scales:?}");
        assert!((scales[0] / scales[2] - 0.5).abs() < 0.05, "{scales:?}");
        assert_eq!(scales[4], 1.0, "what was not tried stays");
    }

    /// The further off measurements are by noise, the less of what they say is believed.
    #[test]
    fn noise_is_not() {
        let mut before = 1.0;
        for noise in [0.005, 0.02, 0.06] {
            let scales = scales(&probes(&[1.0; 8], noise), 8);
            let believed = (scales[0] - 1.0).abs() / (noise / 0.03);
            assert!(believed < before, "{noise}: {scales:?}");
            before = believed;
        }
        assert!(before < 0.4, "{before}");
    }

    #[test]
    fn noise_hides_small_changes() {
        assert!(!hidden(&probes(&[1.0; 5], 0.01)));
        assert!(hidden(&probes(&[1.0; 5], 0.02)));
    }

    #[test]
    fn nothing_sensible_changes_nothing() {
        assert_eq!(scales(&[], 2), [1.0, 1.0]);
        assert_eq!(scales(&probes(&[-1.0, -2.0], 0.0), 2), [1.0, 1.0]);
    }

    #[test]
    fn a_layer_is_tried_where_the_change_is_as_wanted() {
        let losses = [0.0, 0.1, 0.2, 0.4];
        assert_eq!(change(&losses, 1, 0.1).map(|c| c.0), Some(0));
        assert_eq!(change(&losses, 2, 0.25).map(|c| c.0), Some(0));
        assert_eq!(change(&losses, 0, 0.35).map(|c| c.0), Some(3));
        assert_eq!(change(&[0.1], 0, 0.35), None);
        assert_eq!(change(&[0.1, 0.1], 0, 0.35), None);
    }
}
