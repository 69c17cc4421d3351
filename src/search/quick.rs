//! Losses of networks that are fitted to few samples: they tell which of two networks is better at a
//! fraction of what a whole fit takes.

use std::ops::Range;

use super::network::Network;
use super::sequential::Compressed;
use super::snapshots::Snapshots;
use super::{Allocation, Effort, Problem};
use crate::error::Result;
use crate::score::Scorer;

/// Scores networks, fitted to few samples, that differ from a base in some of the layers.
pub struct Quick<'a, 'm> {
    problem: Problem<'a, 'm>,
    scorer: &'a Scorer,
    base: Allocation,
    /// The network of the base, built when a score is not known.
    built: Option<Compressed>,
    /// The network that was asked for last: it may be asked for on more of the samples.
    last: Option<(Allocation, Compressed)>,
    calibration: Snapshots,
    search: Snapshots,
}

impl<'a, 'm> Quick<'a, 'm> {
    /// With the original as the base.
    pub fn new(problem: Problem<'a, 'm>, scorer: &'a Scorer) -> Self {
        let room = || Snapshots::new(problem.limits.snapshot_bytes);
        let base = vec![0; problem.options.len()];
        let (calibration, search) = (room(), room());
        Self { problem, scorer, base, built: None, last: None, calibration, search }
    }

    /// Whether the network is fitted to fewer samples than others are.
    pub fn is_cheaper(&self) -> bool {
        !std::ptr::eq(self.problem.quick, self.problem.network)
    }

    /// Makes an allocation the one whose states are kept.
    pub fn rebase(&mut self, allocation: &Allocation) {
        let first = self.differing(allocation);
        if first < allocation.len() {
            self.calibration.forget(first);
            self.search.forget(first);
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
        let Problem { samples, cache, .. } = self.problem;
        let name = format!("quick {allocation:?}");
        let mut losses = cache.get(&name).unwrap_or_default();
        let end = |runs: usize| runs.checked_sub(1).map_or(0, |last| samples.range(last).end);
        let wanted = end(runs);
        if losses.len() >= wanted {
            losses.truncate(wanted);
            return Ok(losses);
        }
        let mut done = samples.runs_of(losses.len());
        if end(done) != losses.len() {
            // Kept by a program whose runs are of other sizes.
            (losses, done) = (Vec::new(), 0);
        }
        losses.extend(self.score(allocation, done..runs, effort)?);
        cache.put(name, &losses);
        Ok(losses)
    }

    fn score(
        &mut self,
        allocation: &Allocation,
        runs: Range<usize>,
        effort: &mut Effort,
    ) -> Result<Vec<f64>> {
        let Problem { quick: network, options, samples, .. } = self.problem;
        let taken = |allocation| Network::taken(options, allocation);
        let built = match self.last.take().filter(|(last, _)| last == allocation) {
            Some((_, built)) => built,
            None => {
                let base = match self.built.take() {
                    Some(base) => base,
                    None => {
                        let none = &mut Snapshots::new(0);
                        network.compress(&taken(&self.base), &network.dense(), none, effort)?
                    }
                };
                let built =
                    network.compress(&taken(allocation), &base, &mut self.calibration, effort);
                self.built = Some(base);
                built?
            }
        };
        let first = self.differing(allocation);
        let score =
            network.score(&built, samples, runs, self.scorer, first, &mut self.search, effort)?;
        self.last = Some((allocation.clone(), built));
        Ok(score.losses)
    }
}
