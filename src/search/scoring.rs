//! The true loss of a compressed network.

use std::ops::Range;

use rayon::prelude::*;

use super::Effort;
use super::network::{Network, gather};
use super::samples::Samples;
use super::sequential::Compressed;
use super::snapshots::Snapshots;
use crate::error::Result;
use crate::eval::State;
use crate::progress::go_on;
use crate::score::{Score, Scorer};

impl Network<'_> {
    /// The score of a network on the samples of some runs; up to layer `first` it is the one that
    /// `snapshots` are of.
    ///
    /// # Errors
    /// When the network can't be run, or the run is interrupted.
    pub fn score(
        &self,
        network: &Compressed,
        samples: &Samples,
        runs: Range<usize>,
        scorer: &Scorer,
        first: usize,
        snapshots: &mut Snapshots,
        effort: &mut Effort,
    ) -> Result<Score> {
        let evaluator = &network.evaluator;
        let step = self.first_step(first);
        let room = snapshots.room() / samples.runs().max(1);
        let known = &*snapshots;
        let (begin, end) = (runs.start, runs.end.min(samples.runs()));
        let scored: Vec<(Option<State>, u64, Score)> = (begin..end)
            .into_par_iter()
            .map(|run| {
                go_on(self.progress)?;
                let range = samples.range(run);
                let (from, mut state) = match known.before(first, run) {
                    Some((layer, state)) => (layer, state.clone()),
                    None => (0, evaluator.start(samples.inputs(run, evaluator)?)?),
                };
                let passes = (range.len() * (self.layers.len() - from)) as u64;
                evaluator.advance(&mut state, step)?;
                let kept = !known.holds(first, run) && state.byte_len() <= room;
                let kept = kept.then(|| state.clone());
                evaluator.advance(&mut state, usize::MAX)?;
                let outputs = evaluator.per_sample(evaluator.finish(&state)?, range.len())?;
                Ok((kept, passes, scorer.score(&outputs, range)?))
            })
            .collect::<Result<_>>()?;
        let mut scores = Vec::with_capacity(scored.len());
        for (run, (state, passes, score)) in (begin..end).zip(scored) {
            effort.layer_passes += passes;
            effort.samples_run += score.len() as u64;
            if let Some(state) = state {
                snapshots.keep(first, run, state);
            }
            scores.push(score);
        }
        Ok(gather(scores))
    }
}
