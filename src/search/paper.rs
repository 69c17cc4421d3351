//! The published beam search (Eo, Kang and Rhee 2023), as reconstructed from its abstract and
//! figures: start at full rank; on every level the cost falls by a step, each child lowering one
//! layer; every child is scored on all search samples; the best K survive; stop at the budget.

use std::collections::BTreeSet;

use super::beam::Limits;
use super::network::Network;
use super::samples::Samples;
use super::sequential::Snapshots;
use super::{Allocation, Budget, Effort, LayerOptions};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::score::Scorer;

/// Levels from the full model to the budget.
const LEVELS: u64 = 16;

/// Runs the published search from the dense allocation down to the budget.
///
/// # Errors
/// When a network can't be run, the budget can't be reached by lowering single layers, or the run
/// is interrupted.
pub fn paper(
    network: &Network<'_>,
    options: &[LayerOptions],
    budget: Budget,
    samples: &Samples,
    scorer: &Scorer,
    limits: Limits,
    progress: &dyn Progress,
) -> Result<(Allocation, Effort)> {
    let mut effort = Effort::default();
    let dense = network.dense();
    let mut calibration = Snapshots::new(0);
    let mut search = Snapshots::new(0);
    let full = budget.cost(options, &vec![0; options.len()]);
    let step = (full.saturating_sub(budget.limit) / LEVELS).max(1);
    let cost = |l: usize, o: usize| budget.resource.of(&options[l].options[o].cost);
    let mut beam: Vec<Allocation> = vec![vec![0; options.len()]];
    while beam.iter().any(|a| budget.cost(options, a) > budget.limit) {
        let mut children: BTreeSet<Allocation> = BTreeSet::new();
        for parent in &beam {
            let total = budget.cost(options, parent);
            if total <= budget.limit {
                children.insert(parent.clone());
                continue;
            }
            let wanted = step.min(total - budget.limit);
            for l in 0..options.len() {
                // The least lowering of this layer that makes the step.
                let now = cost(l, parent[l]);
                let lower = (0..options[l].options.len())
                    .filter(|&o| cost(l, o) + wanted <= now)
                    .max_by_key(|&o| cost(l, o));
                if let Some(o) = lower {
                    let mut child = parent.clone();
                    child[l] = o;
                    children.insert(child);
                }
            }
        }
        if children.is_empty() {
            return Err(Error::Option {
                option: "--search paper".to_owned(),
                reason: "no single layer can give up a step of the budget; ask for less".to_owned(),
            });
        }
        let mut scored = Vec::new();
        for child in children {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            if limits.deadline.is_some_and(|deadline| std::time::Instant::now() >= deadline) {
                return Err(Error::Option {
                    option: "--time-limit".to_owned(),
                    reason: "the published search has no result before its last level".to_owned(),
                });
            }
            let choices = Network::choices(options, &child);
            let compressed = network.compress(&choices, &dense, &mut calibration, &mut effort)?;
            let score = network.score(&compressed, samples, scorer, 0, &mut search, &mut effort)?;
            progress.step(effort.evaluations, &format!("loss {:.4}", score.mean_loss()));
            scored.push((score.mean_loss(), child));
        }
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        scored.truncate(limits.beam.max(1));
        beam = scored.into_iter().map(|(_, a)| a).collect();
    }
    effort.stopped = "budget reached";
    let best = beam.swap_remove(0);
    Ok((best, effort))
}
