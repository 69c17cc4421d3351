//! Losses of networks that are fitted to few samples: they tell which of two networks is better at a
//! fraction of what a whole fit takes.

use std::ops::Range;

use rayon::prelude::*;

use super::network::Network;
use super::sequential::Compressed;
use super::snapshots::Snapshots;
use super::{Allocation, Effort, Problem};
use crate::error::Result;
use crate::score::Scorer;

/// Networks that are scored at the same time, at most. Each needs memory for states of its own.
const LANES: usize = 4;

/// Scores networks, fitted to few samples, that differ from a base in some of the layers.
pub struct Quick<'a, 'm> {
    problem: Problem<'a, 'm>,
    scorer: &'a Scorer,
    base: Allocation,
    /// The network of the base, built when a score is not known.
    built: Option<Compressed>,
    lanes: Vec<Lane>,
}

/// What one of the networks that are scored at the same time needs.
struct Lane {
    /// The network that was asked for last: it may be asked for on more of the samples.
    last: Option<(Allocation, Compressed)>,
    calibration: Snapshots,
    search: Snapshots,
}

impl<'a, 'm> Quick<'a, 'm> {
    /// With the original as the base.
    pub fn new(problem: Problem<'a, 'm>, scorer: &'a Scorer) -> Self {
        let count = rayon::current_num_threads().clamp(1, LANES);
        let room = || Snapshots::new(problem.limits.snapshot_bytes / count);
        let lane = |_| Lane { last: None, calibration: room(), search: room() };
        let base = vec![0; problem.options.len()];
        Self { problem, scorer, base, built: None, lanes: (0..count).map(lane).collect() }
    }

    /// Whether the network is fitted to fewer samples than others are.
    pub fn is_cheaper(&self) -> bool {
        !std::ptr::eq(self.problem.quick, self.problem.network)
    }

    /// Networks that [`Quick::ahead`] scores at the same time.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Makes an allocation the one whose states are kept.
    pub fn rebase(&mut self, allocation: &Allocation) {
        let first = self.differing(allocation);
        if first < allocation.len() {
            for lane in &mut self.lanes {
                lane.calibration.forget(first);
                lane.search.forget(first);
            }
            self.base.clone_from(allocation);
            self.built = None;
        }
    }

    /// The first layer in which an allocation is another than the base.
    fn differing(&self, allocation: &Allocation) -> usize {
        let pairs = self.base.iter().zip(allocation);
        pairs.take_while(|(a, b)| a == b).count()
    }

    /// The losses of the network of `allocation` on the samples of the first `runs` runs.
    ///
    /// # Errors
    /// When the network can't be run, or the run is interrupted.
    pub fn losses(
        &mut self,
        allocation: &Allocation,
        runs: usize,
        effort: &mut Effort,
    ) -> Result<Vec<f64>> {
        let (mut losses, missing) = self.missing(allocation, runs);
        if missing.is_empty() {
            losses.truncate(self.samples_of(runs));
            return Ok(losses);
        }
        let known = |lane: &Lane| lane.last.as_ref().is_some_and(|(last, _)| last == allocation);
        let lane = self.lanes.iter().position(known).unwrap_or(0);
        let one = self.one(allocation, missing);
        let built = built(self.problem, &self.base, &mut self.built, effort)?;
        losses.extend(one.score(&mut self.lanes[lane], built, effort)?);
        self.problem.cache.put(name(allocation), &losses);
        Ok(losses)
    }

    /// Finds losses that will be asked for, of as many allocations as there are lanes at the same time: what
    /// one of them can't share out among the threads leaves them to the others.
    ///
    /// # Errors
    /// As [`Quick::losses`].
    pub fn ahead(
        &mut self,
        allocations: &[Allocation],
        runs: usize,
        effort: &mut Effort,
    ) -> Result<()> {
        let missing = allocations.iter().map(|a| (a, self.missing(a, runs)));
        let mut wanted: Vec<_> = missing.filter(|(_, (_, runs))| !runs.is_empty()).collect();
        wanted.truncate(self.lanes.len());
        // Where the first is known its turn was with others.
        if wanted.len() < 2 || wanted.first().map(|(a, _)| *a) != allocations.first() {
            return Ok(());
        }
        let ones: Vec<One<'_, '_, '_>> =
            wanted.iter().map(|(a, (_, runs))| self.one(a, runs.clone())).collect();
        let built = built(self.problem, &self.base, &mut self.built, effort)?;
        let scored: Vec<(Vec<f64>, Effort)> = self
            .lanes
            .par_iter_mut()
            .zip(ones)
            .with_max_len(1)
            .map(|(lane, one)| {
                let mut effort = Effort::default();
                Ok((one.score(lane, built, &mut effort)?, effort))
            })
            .collect::<Result<_>>()?;
        for ((allocation, (mut losses, _)), (found, spent)) in wanted.into_iter().zip(scored) {
            losses.extend(found);
            self.problem.cache.put(name(allocation), &losses);
            effort.layer_passes += spent.layer_passes;
            effort.samples_run += spent.samples_run;
        }
        Ok(())
    }

    /// What is known of an allocation's losses, and the runs that are missing.
    fn missing(&self, allocation: &Allocation, runs: usize) -> (Vec<f64>, Range<usize>) {
        let Problem { samples, cache, .. } = self.problem;
        let losses = cache.get(&name(allocation)).unwrap_or_default();
        if losses.len() >= self.samples_of(runs) {
            return (losses, 0..0);
        }
        let done = samples.runs_of(losses.len());
        if self.samples_of(done) == losses.len() {
            (losses, done..runs)
        } else {
            // Kept by a program whose runs are of other sizes.
            (Vec::new(), 0..runs)
        }
    }

    /// Samples of the first `runs` runs.
    fn samples_of(&self, runs: usize) -> usize {
        runs.checked_sub(1).map_or(0, |last| self.problem.samples.range(last).end)
    }

    fn one<'b>(&self, allocation: &'b Allocation, runs: Range<usize>) -> One<'a, 'm, 'b> {
        let (problem, scorer) = (self.problem, self.scorer);
        One { problem, scorer, allocation, first: self.differing(allocation), runs }
    }
}

/// A network that is scored on the samples of some runs.
struct One<'a, 'm, 'b> {
    problem: Problem<'a, 'm>,
    scorer: &'a Scorer,
    allocation: &'b Allocation,
    /// The first layer in which it is another than the base.
    first: usize,
    runs: Range<usize>,
}

impl One<'_, '_, '_> {
    fn score(self, lane: &mut Lane, base: &Compressed, effort: &mut Effort) -> Result<Vec<f64>> {
        let Problem { quick: network, options, samples, .. } = self.problem;
        let built = match lane.last.take().filter(|(last, _)| last == self.allocation) {
            Some((_, built)) => built,
            None => {
                let taken = Network::taken(options, self.allocation);
                network.compress(&taken, base, &mut lane.calibration, effort)?
            }
        };
        let (runs, first, search) = (self.runs, self.first, &mut lane.search);
        let score = network.score(&built, samples, runs, self.scorer, first, search, effort)?;
        lane.last = Some((self.allocation.clone(), built));
        Ok(score.losses)
    }
}

/// The network of the base, which is built when it is first needed.
fn built<'b>(
    problem: Problem<'_, '_>,
    base: &Allocation,
    built: &'b mut Option<Compressed>,
    effort: &mut Effort,
) -> Result<&'b Compressed> {
    Ok(match built {
        Some(built) => built,
        none => {
            let Problem { quick: network, options, .. } = problem;
            let (taken, nothing) = (Network::taken(options, base), &mut Snapshots::new(0));
            none.insert(network.compress(&taken, &network.dense(), nothing, effort)?)
        }
    })
}

/// What the losses of an allocation are kept as.
fn name(allocation: &Allocation) -> String {
    format!("quick {allocation:?}")
}
