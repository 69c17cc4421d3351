//! Joint search over all layers and schemes by the true loss of the compressed network.

use std::collections::HashSet;
use std::time::Instant;

use super::moves::{combinations, moves};
use super::network::Network;
use super::probe::{Probe, probe, scales};
use super::quick::Quick;
use super::race::Difference;
use super::sequential::Compressed;
use super::snapshots::Snapshots;
use super::start::start;
use super::{Allocation, Effort, Prediction, Problem, Trial};
use crate::error::{Error, Result};
use crate::score::Scorer;

/// The steps of exchanges on a level, as shares of the budget.
const STEPS: [f64; 3] = [0.08, 0.03, 0.01];

/// Powers of what layers were measured to matter that optima are sought for: the whole of it holds near
/// the network it was measured in only.
const STRENGTHS: [f64; 2] = [1.0, 0.5];

/// Shares of the samples after which a network that is clearly worse is given up.
const HEATS: [f64; 3] = [0.125, 0.25, 0.5];

/// Samples of the first heat, at least.
const FEW: usize = 96;

/// Layers are tried again in a network that loses less than this share of what the one they were last
/// tried in lost.
const PROBE_AGAIN: f64 = 0.85;

/// Levels in a row that leave the best network where it is, after which the search ends.
const FRUITLESS: usize = 2;

/// A network scored on all samples.
struct Candidate {
    allocation: Allocation,
    /// The network; nothing where its scores were known.
    compressed: Option<Compressed>,
    losses: Vec<f64>,
    loss: f64,
    /// Whether a level has started from it.
    expanded: bool,
}

/// What the levels of a search share.
struct Search<'a, 'm> {
    problem: Problem<'a, 'm>,
    scorer: &'a Scorer,
    prediction: &'a Prediction,
    seen: HashSet<Allocation>,
    /// The network whose states the snapshots are.
    base: Compressed,
    calibration_snapshots: Snapshots,
    search_snapshots: Snapshots,
    /// Races networks before they are fitted to all samples.
    quick: Quick<'a, 'm>,
    effort: Effort,
    /// What changes of single layers did, in place.
    probes: Vec<Probe>,
    /// The loss of the network that layers were last tried in.
    probed: f64,
}

/// Improves on an allocation within the budget. Returns the best one with its network, fitted to the
/// network's calibration samples, and what was done.
///
/// A level starts from an allocation of the beam. Layer errors are taken anew on the inputs that its
/// network has, where they hold what earlier layers do to later ones, and weighed by what changes of
/// single layers were measured to do in place. The allocation that is best by them, and exchanges of
/// a few layers' budget on the way there, are refitted and scored. Scores are compared sample by
/// sample, on growing parts of them: what is worse by three standard errors of the difference, or very
/// unlikely to end better, is given up early, first of all fitted to few samples, where a fit to all
/// takes longer. Only a gain above its standard error takes the best one's place. Where the noise of the
/// samples hides what changes do, the search ends.
///
/// # Errors
/// When a network can't be run, or the run is interrupted.
pub fn beam(
    problem: Problem<'_, '_>,
    first: Allocation,
    prediction: &Prediction,
    scorer: &Scorer,
) -> Result<(Allocation, Compressed, Effort)> {
    let limits = problem.limits;
    let mut search = Search {
        problem,
        scorer,
        prediction,
        seen: HashSet::new(),
        base: problem.network.dense(),
        calibration_snapshots: Snapshots::new(limits.snapshot_bytes),
        search_snapshots: Snapshots::new(limits.snapshot_bytes),
        quick: Quick::new(problem, scorer),
        effort: Effort::default(),
        probed: f64::INFINITY,
        probes: Vec::new(),
    };
    let predicted = prediction.loss(problem.options, &first);
    let mut beam: Vec<Candidate> = search.measure(first, None, predicted)?.into_iter().collect();
    let mut fruitless = 0;
    search.effort.stopped = 'search: loop {
        if fruitless >= FRUITLESS {
            break "no change gains";
        }
        if let Some(reason) = search.exhausted() {
            break reason;
        }
        let Some(at) = beam.iter().position(|c| !c.expanded) else { break "no change gains" };
        beam[at].expanded = true;
        let Some(children) = search.children(&beam[at])? else {
            break "the noise of the samples hides what changes gain";
        };
        fruitless += 1;
        for (at, (allocation, predicted)) in children.iter().cloned().enumerate() {
            if let Some(reason) = search.exhausted() {
                break 'search reason;
            }
            search.ahead(&children[at..])?;
            let Some(found) = search.measure(allocation, Some(&beam[0]), predicted)? else {
                continue;
            };
            // The first place is for what is better beyond its noise, the others go by the mean.
            let better = Difference::of(&found.losses, &beam[0].losses).is_better();
            let behind = beam[1..].iter().position(|c| found.loss < c.loss);
            search.note(better);
            let place = if better { 0 } else { behind.map_or(beam.len(), |at| at + 1) };
            fruitless = if better { 0 } else { fruitless };
            // Networks are large: no more are held than will be of use.
            beam.insert(place, found);
            beam.truncate(limits.beam.max(1));
        }
        log::debug!(target: "search", "best loss {:.5} after {} evaluations", beam[0].loss,
            search.effort.evaluations);
    };
    let best = beam.swap_remove(0);
    let compressed = search.network_of(&best)?;
    Ok((best.allocation, compressed, search.effort))
}

impl Search<'_, '_> {
    /// Whether trying every layer leaves evaluations for what follows from it.
    fn has_room_for_probes(&self) -> bool {
        let left = (self.problem.limits.evaluations as u64).saturating_sub(self.effort.evaluations);
        left > self.problem.options.len() as u64
    }

    /// Notes whether the network scored last became the best one.
    fn note(&mut self, taken: bool) {
        if let Some(trial) = self.effort.trials.last_mut() {
            trial.taken = taken;
        }
    }

    fn exhausted(&self) -> Option<&'static str> {
        self.problem.limits.exceeded(self.effort.evaluations)
    }

    /// The network for an allocation, refitted throughout, scored on all samples; nothing where it is
    /// clearly worse than `best` on fewer of them, or fitted to few. `predicted` is its loss, up to a
    /// constant.
    fn measure(
        &mut self,
        allocation: Allocation,
        best: Option<&Candidate>,
        predicted: f64,
    ) -> Result<Option<Candidate>> {
        self.seen.insert(allocation.clone());
        let Problem { network, samples, cache, progress, .. } = self.problem;
        self.effort.evaluations += 1;
        if let Some(best) = best
            && let Some((difference, count)) = self.given_up(&allocation, best)?
        {
            self.tried(predicted, best, difference, count);
            return Ok(None);
        }
        let name = format!("{allocation:?}");
        let known = cache.get(&name).unwrap_or_default();
        let first = self.differing(&allocation);
        let mut compressed = None;
        let mut losses: Vec<f64> = Vec::new();
        let mut done = 0;
        let mut worse = false;
        let all = samples.runs();
        for end in self.heats() {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            if end <= done || (best.is_none() && end < all) {
                continue;
            }
            let count = samples.range(end - 1).end;
            if known.len() >= count {
                losses = known[..count].to_vec();
            } else {
                let built = match compressed.take() {
                    Some(built) => built,
                    None => self.compress(&allocation)?,
                };
                let (snapshots, effort) = (&mut self.search_snapshots, &mut self.effort);
                let (runs, scorer) = (done..end, self.scorer);
                let part =
                    network.score(&built, samples, runs, scorer, first, snapshots, effort)?;
                losses.extend(part.losses);
                compressed = Some(built);
            }
            done = end;
            if let Some(best) = best {
                let difference = Difference::of(&losses, &best.losses);
                worse = difference.is_worse()
                    || (end < all && difference.is_hopeless(losses.len(), samples.len()));
                if worse {
                    break;
                }
            }
        }
        if losses.len() > known.len() {
            cache.put(name, &losses);
        }
        let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        match best {
            Some(best) => {
                let difference = Difference::of(&losses, &best.losses);
                self.tried(predicted, best, difference, losses.len());
            }
            None => self.tell(None, loss, losses.len()),
        }
        let candidate = Candidate { allocation, compressed, losses, loss, expanded: false };
        Ok((!worse).then_some(candidate))
    }

    /// Notes what a network was found to lose more than the best one.
    fn tried(&mut self, predicted: f64, best: &Candidate, difference: Difference, samples: usize) {
        let measured = best.loss + difference.mean;
        self.effort.predicted.push((predicted, measured));
        log::debug!(target: "search", "{}: {:+.5} +- {:.5} to the best on {samples} samples, predicted \
             {predicted:.5}", self.effort.evaluations, difference.mean, difference.error);
        self.tell(Some(predicted), measured, samples);
    }

    /// Notes the loss of the network scored last.
    fn tell(&mut self, predicted: Option<f64>, loss: f64, samples: usize) {
        let (at, evaluation) = (Instant::now(), self.effort.evaluations);
        // Without a prediction it is the first one.
        let taken = predicted.is_none();
        self.effort.trials.push(Trial { at, evaluation, predicted, loss, samples, taken });
        self.problem.progress.step(evaluation, &format!("loss {loss:.4}"));
    }

    /// Finds what the first heats of the next networks ask for, of several at the same time.
    fn ahead(&mut self, children: &[(Allocation, f64)]) -> Result<()> {
        let first = self.heats().next().filter(|_| self.quick.is_cheaper());
        let Some(first) = first else { return Ok(()) };
        let next = children.iter().take(self.quick.lanes()).map(|(child, _)| child.clone());
        self.quick.ahead(&next.collect::<Vec<_>>(), first, &mut self.effort)
    }

    /// The difference of a network to the best one where, both fitted to few samples, it is clearly worse
    /// or very unlikely to end better, with the samples that say so.
    fn given_up(
        &mut self,
        allocation: &Allocation,
        best: &Candidate,
    ) -> Result<Option<(Difference, usize)>> {
        if !self.quick.is_cheaper() {
            return Ok(None);
        }
        let samples = self.problem.samples;
        for end in self.heats() {
            let ours = self.quick.losses(allocation, end, &mut self.effort)?;
            let theirs = self.quick.losses(&best.allocation, end, &mut self.effort)?;
            let difference = Difference::of(&ours, &theirs);
            log::debug!(target: "search", "fitted to few: {:+.5} +- {:.5} to the best on {} samples",
                difference.mean, difference.error, ours.len());
            // Fits to few differ a little from those to all: the latter decide what is close.
            let hopeless = if ours.len() < samples.len() {
                difference.is_hopeless(ours.len(), samples.len())
            } else {
                difference.mean > 0.0
            };
            if difference.is_worse() || hopeless {
                return Ok(Some((difference, ours.len())));
            }
        }
        Ok(None)
    }

    /// The network of an allocation, refitted from the first layer on in which it is another than the
    /// base.
    fn compress(&mut self, allocation: &Allocation) -> Result<Compressed> {
        let Problem { network, options, .. } = self.problem;
        let taken = Network::taken(options, allocation);
        let (snapshots, effort) = (&mut self.calibration_snapshots, &mut self.effort);
        network.compress(&taken, &self.base, snapshots, effort)
    }

    fn network_of(&mut self, candidate: &Candidate) -> Result<Compressed> {
        match &candidate.compressed {
            Some(compressed) => Ok(compressed.clone()),
            None => self.compress(&candidate.allocation),
        }
    }

    /// The first layer in which an allocation is another than the base.
    fn differing(&self, allocation: &Allocation) -> usize {
        let taken = Network::taken(self.problem.options, allocation);
        (0..taken.len()).find(|&l| taken[l] != self.base.taken[l]).unwrap_or(taken.len())
    }

    /// Makes a candidate the one whose prefix states are kept.
    fn rebase(&mut self, parent: &Candidate) -> Result<()> {
        let compressed = self.network_of(parent)?;
        let first = self.differing(&parent.allocation);
        self.calibration_snapshots.forget(first);
        self.search_snapshots.forget(first);
        self.base = compressed;
        Ok(())
    }

    /// The allocations to be tried next, near `parent` and most promising first, with predicted losses.
    /// `None` where noise hides what they may gain.
    fn children(&mut self, parent: &Candidate) -> Result<Option<Vec<(Allocation, f64)>>> {
        self.rebase(parent)?;
        self.quick.rebase(&parent.allocation);
        let Problem { network, budget, .. } = self.problem;
        let options = network.revised(self.problem.options, &self.base)?;
        let losses = self.prediction.losses(&options);
        if parent.loss < PROBE_AGAIN * self.probed && self.has_room_for_probes() {
            let heats: Vec<usize> = self.heats().collect();
            let (quick, effort) = (&mut self.quick, &mut self.effort);
            let found = probe(self.problem, quick, &parent.allocation, &losses, &heats, effort)?;
            let Some(found) = found else { return Ok(None) };
            self.probes.extend(found);
            self.probed = parent.loss;
        }
        let scales = scales(&self.probes, losses.len());
        log::debug!(target: "search", "losses multiplied by {scales:.2?}");
        let weighed = |strength: f64| -> Vec<Vec<f64>> {
            let scaled = losses.iter().zip(&scales);
            scaled.map(|(l, s)| l.iter().map(|l| l * s.powf(strength)).collect()).collect()
        };
        let losses = weighed(1.0);
        let loss = |a: &Allocation| a.iter().zip(&losses).map(|(&o, l)| l[o]).sum::<f64>();
        let here = loss(&parent.allocation);
        let mut children: Vec<(Allocation, f64)> = Vec::new();
        for strength in STRENGTHS {
            if let Some(jump) = start(&options, &weighed(strength), budget) {
                let change = loss(&jump) - here;
                children.push((jump, change));
            }
        }
        for step in STEPS {
            let amount = ((step * budget.limit as f64) as u64).max(1);
            let found = moves(&options, &losses, budget, &parent.allocation, amount);
            children.extend(combinations(&options, &losses, budget, &parent.allocation, &found));
        }
        children.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
        let mut fresh = HashSet::new();
        children.retain(|(child, _)| {
            *child != parent.allocation && !self.seen.contains(child) && fresh.insert(child.clone())
        });
        let total = |(child, change)| (child, parent.loss + change);
        Ok(Some(children.into_iter().map(total).collect()))
    }

    /// Numbers of the first runs after which a network may be given up, and of all; no first ones hold too
    /// few samples.
    fn heats(&self) -> impl Iterator<Item = usize> + use<> {
        let samples = self.problem.samples;
        let share = |share: f64| ((samples.len() as f64 * share) as usize).max(FEW);
        HEATS.map(|heat| samples.runs_of(share(heat))).into_iter().chain([samples.runs()])
    }
}
