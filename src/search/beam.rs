//! Joint search over all layers and schemes by the true loss of the compressed network.

use std::collections::HashSet;
use std::time::Instant;

use super::network::Network;
use super::samples::Samples;
use super::sequential::{Compressed, Snapshots};
use super::start::{fill, start};
use super::{Allocation, Budget, Effort, LayerOptions, Prediction};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::score::Scorer;

/// When a search ends.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Allocations that survive a level.
    pub beam: usize,
    /// Networks that may be scored.
    pub evaluations: usize,
    /// When to stop.
    pub deadline: Option<Instant>,
    /// Bytes of prefix states that may be held for each set of samples.
    pub snapshot_bytes: usize,
}

impl Limits {
    /// Why a search that has scored so many networks ends, if it does.
    pub(super) fn exceeded(&self, evaluations: u64) -> Option<&'static str> {
        if evaluations >= self.evaluations as u64 {
            Some("evaluations used up")
        } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some("time used up")
        } else {
            None
        }
    }
}

/// Children of one allocation that are scored on a level.
const CHILDREN: usize = 6;

/// Levels without improvement after which the search ends.
const PATIENCE: usize = 3;

/// A scored allocation.
#[derive(Clone)]
struct Candidate {
    allocation: Allocation,
    loss: f64,
}

/// What the levels of a search share.
struct Search<'a, 'm> {
    network: &'a Network<'m>,
    options: &'a [LayerOptions],
    budget: Budget,
    samples: &'a Samples,
    scorer: &'a Scorer,
    prediction: Prediction,
    seen: HashSet<Allocation>,
    base: Compressed,
    calibration_snapshots: Snapshots,
    search_snapshots: Snapshots,
    effort: Effort,
    limits: Limits,
}

/// Improves on the budgeted start. Returns the best allocation and what was done.
///
/// A level scores the children of each surviving allocation: what the prediction, which learns from
/// every score, now holds best; and exchanges, in which one layer gives up budget that others gain.
/// The steps of exchanges shrink when a level brings nothing.
///
/// # Errors
/// When a network can't be run, or the run is interrupted.
pub fn beam(
    network: &Network<'_>,
    options: &[LayerOptions],
    budget: Budget,
    first: Allocation,
    prediction: Prediction,
    samples: &Samples,
    scorer: &Scorer,
    limits: Limits,
    progress: &dyn Progress,
) -> Result<(Allocation, Effort)> {
    let mut search = Search {
        network,
        options,
        budget,
        samples,
        scorer,
        prediction,
        seen: HashSet::new(),
        base: network.dense(),
        calibration_snapshots: Snapshots::new(limits.snapshot_bytes),
        search_snapshots: Snapshots::new(limits.snapshot_bytes),
        effort: Effort::default(),
        limits,
    };
    let mut best = search.measure(first, progress)?;
    let mut beam = vec![best.clone()];
    let mut step = 0.08;
    let mut idle = 0;
    let stopped = loop {
        if let Some(reason) = search.exhausted() {
            break reason;
        }
        search.rebase(&best.allocation)?;
        let mut level = beam.clone();
        for parent in &beam {
            for child in search.children(&parent.allocation, step) {
                if search.exhausted().is_some() {
                    break;
                }
                level.push(search.measure(child, progress)?);
            }
        }
        level.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        level.dedup_by(|a, b| a.allocation == b.allocation);
        level.truncate(limits.beam.max(1));
        beam = level;
        if beam[0].loss < best.loss {
            best = beam[0].clone();
            idle = 0;
        } else {
            idle += 1;
            step *= 0.6;
            if idle >= PATIENCE {
                break "no level improved";
            }
        }
    };
    search.effort.stopped = stopped;
    Ok((best.allocation, search.effort))
}

impl Search<'_, '_> {
    fn exhausted(&self) -> Option<&'static str> {
        self.limits.exceeded(self.effort.evaluations)
    }

    /// Makes an allocation the one whose prefix states are kept.
    fn rebase(&mut self, allocation: &Allocation) -> Result<()> {
        let choices = Network::choices(self.options, allocation);
        let first = (0..choices.len()).find(|&l| choices[l] != self.base.choices[l]);
        if let Some(first) = first {
            self.base = self.network.compress(
                &choices,
                &self.base,
                &mut self.calibration_snapshots,
                &mut self.effort,
            )?;
            self.calibration_snapshots.forget(first);
            self.search_snapshots.forget(first);
        }
        Ok(())
    }

    fn measure(&mut self, allocation: Allocation, progress: &dyn Progress) -> Result<Candidate> {
        if progress.interrupted() {
            return Err(Error::Interrupted);
        }
        self.seen.insert(allocation.clone());
        let predicted = self.prediction.loss(self.options, &allocation);
        let choices = Network::choices(self.options, &allocation);
        let first = (0..choices.len()).find(|&l| choices[l] != self.base.choices[l]);
        let (network, effort) = (self.network, &mut self.effort);
        let compressed =
            network.compress(&choices, &self.base, &mut self.calibration_snapshots, effort)?;
        let score = network.score(
            &compressed,
            self.samples,
            self.scorer,
            first.unwrap_or(0),
            &mut self.search_snapshots,
            effort,
        )?;
        let loss = score.mean_loss();
        self.effort.predicted.push((predicted, loss));
        self.prediction.learn(self.options, &allocation, loss);
        let note = format!("loss {loss:.4}");
        log::debug!(target: "search", "{}: loss {loss:.5}, metric {:.3}, predicted {predicted:.4}",
            self.effort.evaluations, score.metric());
        progress.step(self.effort.evaluations, &note);
        Ok(Candidate { allocation, loss })
    }

    /// Unseen allocations near `parent`, most promising first.
    fn children(&self, parent: &Allocation, step: f64) -> Vec<Allocation> {
        let losses = self.prediction.losses(self.options);
        let predicted = |a: &Allocation| -> f64 { a.iter().zip(&losses).map(|(&o, l)| l[o]).sum() };
        let mut children: Vec<(f64, Allocation)> = Vec::new();
        if let Some(best) = start(self.options, &losses, self.budget) {
            children.push((f64::NEG_INFINITY, best));
        }
        let amount = step * self.budget.limit as f64;
        for size in [amount, amount / 3.0] {
            for giver in 0..parent.len() {
                for taker in 0..parent.len() {
                    if let Some(child) = self.exchange(parent, giver, taker, size as u64, &losses) {
                        children.push((predicted(&child), child));
                    }
                }
            }
        }
        children.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let mut out: Vec<Allocation> = Vec::new();
        // No layer gives or takes in more than a few children: diverse beats slightly better.
        let mut uses = vec![0usize; parent.len()];
        for (_, child) in children {
            let moved: Vec<usize> = (0..child.len()).filter(|&l| child[l] != parent[l]).collect();
            let worn = moved.len() <= 3 && moved.iter().any(|&l| uses[l] >= 3);
            if self.seen.contains(&child) || out.contains(&child) || worn || moved.is_empty() {
                continue;
            }
            moved.iter().for_each(|&l| uses[l] += 1);
            out.push(child);
            if out.len() == CHILDREN {
                break;
            }
        }
        out
    }

    /// `giver` gives up about `amount`, `taker` gets it, others what is left; a layer that gives to
    /// itself changes its scheme.
    fn exchange(
        &self,
        parent: &Allocation,
        giver: usize,
        taker: usize,
        amount: u64,
        losses: &[Vec<f64>],
    ) -> Option<Allocation> {
        let cost = |l: usize, o: usize| self.budget.resource.of(&self.options[l].options[o].cost);
        let mut child = parent.clone();
        let now = cost(giver, parent[giver]);
        if giver == taker {
            // The best form of another scheme for no more than now.
            let scheme = |o: usize| self.options[giver].options[o].choice.map(|c| c.scheme);
            let options = 0..self.options[giver].options.len();
            child[giver] = options
                .filter(|&o| scheme(o) != scheme(parent[giver]) && cost(giver, o) <= now)
                .min_by(|&a, &b| losses[giver][a].total_cmp(&losses[giver][b]))?;
        } else {
            let most = now.checked_sub(amount)?;
            let best = |l: usize, most: u64| {
                let options = 0..self.options[l].options.len();
                options
                    .filter(|&o| cost(l, o) <= most)
                    .min_by(|&a, &b| losses[l][a].total_cmp(&losses[l][b]))
            };
            child[giver] = best(giver, most)?;
            let left = self.budget.limit.checked_sub(self.budget.cost(self.options, &child))?;
            child[taker] = best(taker, cost(taker, parent[taker]) + left)?;
            if child[taker] == parent[taker] {
                return None;
            }
        }
        if self.budget.cost(self.options, &child) > self.budget.limit {
            return None;
        }
        let fixed: Vec<usize> = [giver, taker].to_vec();
        fill(self.options, losses, self.budget, &mut child, Some(&fixed));
        (child != *parent).then_some(child)
    }
}
