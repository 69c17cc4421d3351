//! The published beam search (Eo, Kang and Rhee 2023), as reconstructed from its abstract and
//! figures: start at full rank; on every level the cost falls by a step, each child lowering one
//! layer; every child is scored on all search samples; the best K survive; stop at the budget.

use std::collections::BTreeSet;
use std::time::Instant;

use super::network::Network;
use super::snapshots::Snapshots;
use super::{Allocation, Budget, Effort, LayerOptions, Prediction, Problem, Trial};
use crate::error::{Error, Result};
use crate::score::Scorer;

/// Levels from the full model to the budget.
const LEVELS: u64 = 16;

/// Runs the published search from the dense allocation down to the budget.
///
/// Where the limits end it before its last level, the best allocation so far goes the rest of the
/// way by `prediction` alone: the budget holds whatever the limits are.
///
/// # Errors
/// When a network can't be run, the budget can't be reached by lowering single layers, or the run
/// is interrupted.
pub fn paper(
    problem: Problem<'_, '_>,
    prediction: &Prediction,
    scorer: &Scorer,
) -> Result<(Allocation, Effort)> {
    let Problem { network, options, budget, samples, limits, progress, .. } = problem;
    let mut effort = Effort::default();
    let dense = network.dense();
    let mut calibration = Snapshots::new(0);
    let mut search = Snapshots::new(0);
    let full = budget.cost(options, &vec![0; options.len()]);
    let step = (full.saturating_sub(budget.limit) / LEVELS).max(1);
    let mut beam: Vec<Allocation> = vec![vec![0; options.len()]];
    effort.stopped = "budget reached";
    'levels: while beam.iter().any(|a| budget.cost(options, a) > budget.limit) {
        let children: BTreeSet<Allocation> =
            beam.iter().flat_map(|parent| lowered(options, budget, step, parent)).collect();
        if children.is_empty() {
            return Err(out_of_reach());
        }
        let mut scored = Vec::new();
        for child in children {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            if let Some(reason) = limits.exceeded(effort.evaluations) {
                effort.stopped = reason;
                break 'levels;
            }
            let taken = Network::taken(options, &child);
            let compressed = network.compress(&taken, &dense, &mut calibration, &mut effort)?;
            let all = 0..samples.runs();
            let score =
                network.score(&compressed, samples, all, scorer, 0, &mut search, &mut effort)?;
            effort.evaluations += 1;
            progress.step(effort.evaluations, &format!("loss {:.4}", score.mean_loss()));
            effort.trials.push(Trial {
                at: Instant::now(),
                evaluation: effort.evaluations,
                predicted: Some(prediction.loss(options, &child)),
                loss: score.mean_loss(),
                samples: score.len(),
                taken: false,
            });
            scored.push((effort.trials.len() - 1, score.mean_loss(), child));
        }
        scored.sort_by(|a, b| a.1.total_cmp(&b.1));
        scored.truncate(limits.beam.max(1));
        if let Some((trial, ..)) = scored.first() {
            effort.trials[*trial].taken = true;
        }
        beam = scored.into_iter().map(|(.., allocation)| allocation).collect();
    }
    let mut best = beam.swap_remove(0);
    let losses = prediction.losses(options);
    let predicted = |a: &Allocation| -> f64 { a.iter().zip(&losses).map(|(&o, l)| l[o]).sum() };
    while budget.cost(options, &best) > budget.limit {
        let children = lowered(options, budget, step, &best);
        let least = children.into_iter().min_by(|a, b| predicted(a).total_cmp(&predicted(b)));
        best = least.ok_or_else(out_of_reach)?;
    }
    Ok((best, effort))
}

/// The children of an allocation: each layer alone lowered by the least that makes a step, or what is
/// left to the budget, or as far as it goes; the allocation itself where it is within the budget.
fn lowered(
    options: &[LayerOptions],
    budget: Budget,
    step: u64,
    parent: &Allocation,
) -> Vec<Allocation> {
    let total = budget.cost(options, parent);
    if total <= budget.limit {
        return vec![parent.clone()];
    }
    let wanted = step.min(total - budget.limit);
    let cost = |l: usize, o: usize| budget.resource.of(&options[l].options[o].cost);
    (0..options.len())
        .filter_map(|l| {
            let now = cost(l, parent[l]);
            let enough = (0..options[l].options.len()).filter(|&o| cost(l, o) + wanted <= now);
            // A layer that has less than a step left gives all of it.
            let least = || (0..options[l].options.len()).filter(|&o| cost(l, o) < now);
            let lower = enough
                .max_by_key(|&o| cost(l, o))
                .or_else(|| least().min_by_key(|&o| cost(l, o)))?;
            let mut child = parent.clone();
            child[l] = lower;
            Some(child)
        })
        .collect()
}

fn out_of_reach() -> Error {
    Error::Option {
        option: "--search paper".to_owned(),
        reason: "the budget can't be reached by lowering single layers; ask for less".to_owned(),
    }
}
