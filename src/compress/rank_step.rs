//! The step of ranks at which the runtime gets faster: kernels work on so many channels at once.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::timing::Timed;
use crate::error::{Error, Result};
use crate::factorize::{Choice, Scheme};
use crate::layer::{Layer, shapes};
use crate::options::RankMultiple;
use crate::progress::Progress;
use crate::validate::nanoseconds;

/// Steps that are looked at, and the ranks in a row that tell them apart.
const STEPS: [usize; 5] = [1, 2, 4, 8, 16];
const WINDOW: usize = 16;

/// Layers that are timed: those with the most arithmetic.
const LAYERS: usize = 3;

/// What a smaller step may cost more, as ranks between those of a larger one lose less.
const WORTH: f64 = 1.03;

impl Timed<'_> {
    /// The step of ranks that is asked for.
    ///
    /// # Errors
    /// When the run is interrupted or shapes are not to be had.
    pub fn step(&self, asked: RankMultiple, progress: &dyn Progress) -> Result<usize> {
        match asked {
            RankMultiple::Of(step) => Ok(step),
            RankMultiple::Auto => {
                let step = self.rank_step(progress)?;
                log::info!(target: "search", "ranks are multiples of {step}");
                Ok(step)
            }
        }
    }

    /// The smallest step of ranks that wastes no time: between its multiples the runtime takes as long
    /// as at the next one. 1 where no layer has ranks enough to tell, or can be run alone.
    ///
    /// # Errors
    /// When the run is interrupted or shapes are not to be had.
    fn rank_step(&self, progress: &dyn Progress) -> Result<usize> {
        let values = shapes(self.model, self.sample.to_vec())?;
        let mut layers: Vec<&Layer> = self.layers.iter().filter(|l| l.map.is_some()).collect();
        layers.sort_by_key(|l| Reverse(l.macs(self.model, &values).unwrap_or(0)));
        progress.phase("rank step", None);
        let mut waste = [0.0; STEPS.len()];
        let mut timed = 0;
        for layer in layers {
            if timed == LAYERS {
                break;
            }
            let Some(times) = self.window(layer, &values, progress)? else { continue };
            timed += 1;
            let each = STEPS.map(|step| per_rank(&times, step));
            let least = each.iter().copied().fold(f64::INFINITY, f64::min);
            waste.iter_mut().zip(each).for_each(|(waste, each)| *waste += each / least);
        }
        Ok(smallest(&waste))
    }

    /// The times of a layer at ranks in a row up to a multiple of all steps.
    fn window(
        &self,
        layer: &Layer,
        values: &HashMap<String, Vec<usize>>,
        progress: &dyn Progress,
    ) -> Result<Option<Vec<(usize, f64)>>> {
        let Some(map) = &layer.map else { return Ok(None) };
        let scheme = if layer.has_kernel() { Scheme::ChannelOut } else { Scheme::Matrix };
        if !scheme.applies(map) {
            return Ok(None);
        }
        let most = Choice::most(scheme, map);
        let top = (most / 2).next_multiple_of(WINDOW).max(2 * WINDOW);
        if top > most {
            return Ok(None);
        }
        let mut times = Vec::with_capacity(WINDOW);
        for rank in top - WINDOW + 1..=top {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            let choice = Some(Choice { scheme, rank, rank_in: None });
            let Some((piece, input)) = self.piece(layer, choice, values)? else {
                return Ok(None);
            };
            let Ok(time) = nanoseconds(&piece, &[input]) else { return Ok(None) };
            times.push((rank, time));
        }
        Ok(Some(times))
    }
}

/// The mean time per rank at the multiples of a step.
fn per_rank(times: &[(usize, f64)], step: usize) -> f64 {
    let multiples = || times.iter().filter(|(rank, _)| rank.is_multiple_of(step));
    let total: f64 = multiples().map(|(rank, time)| time / *rank as f64).sum();
    total / multiples().count().max(1) as f64
}

/// The smallest step that wastes about as little as any.
fn smallest(waste: &[f64; STEPS.len()]) -> usize {
    let least = waste.iter().copied().fold(f64::INFINITY, f64::min);
    let found = STEPS.iter().zip(waste).find(|(_, waste)| **waste <= WORTH * least);
    found.map_or(1, |(step, _)| *step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stairs_give_their_step() {
        for (tile, step) in [(1, 1), (4, 4), (8, 8), (16, 16)] {
            let times: Vec<(usize, f64)> =
                (17..=32).map(|rank: usize| (rank, rank.next_multiple_of(tile) as f64)).collect();
            let waste = STEPS.map(|step| per_rank(&times, step));
            assert_eq!(smallest(&waste), step, "{waste:?}");
        }
        assert_eq!(smallest(&[0.0; STEPS.len()]), 1, "nothing was timed");
    }
}
