//! The smallest model that loses no more of the metric than is allowed.

use super::choose::{Found, Ground};
use crate::error::{Error, Result};
use crate::options::{Options, SearchMode};
use crate::progress::Progress;

/// Ratios between which there is nothing worth a further trial.
const CLOSE: f64 = 1.02;

/// How much larger the ratio is that is tried next, once a search has succeeded at one.
const STEP: f64 = 1.06;

/// Searches at most after the predicted optima have bracketed the ratio.
const SEARCHES: usize = 4;

/// The choice with the largest ratio whose drop on the samples of the search, its standard error
/// added, is within `allowed` points: by bisection over the predicted optima, then, in the mode of
/// search that is asked for, upwards from there. None where even the smallest step loses more.
///
/// # Errors
/// When a network can't be run, or the run is interrupted.
pub(super) fn smallest(
    ground: &Ground<'_>,
    allowed: f64,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Option<Found>> {
    let largest = ground.largest(options.target);
    let mut effort = crate::search::Effort::default();
    let mut trial = |ratio: f64, mode: SearchMode| -> Result<Option<Found>> {
        let mut found = match ground.choose(ratio, mode, options, progress) {
            // Rounding at the very end of what can be had.
            Err(Error::RatioOutOfReach { .. }) => return Ok(None),
            other => other?,
        };
        let drop = ground.drop(&mut found)?;
        effort.add(std::mem::take(&mut found.effort));
        let (low, within) = (drop.points, drop.points + drop.error <= allowed);
        log::info!(target: "search", "ratio {ratio:.3} by {mode}: {low:.2} +- {:.2} points lost{}",
            drop.error, if within { "" } else { ", too many" });
        found.drop = Some(drop);
        Ok(within.then_some(found))
    };
    let mut best: Option<Found> = None;
    let (mut low, mut high) = (1.0, largest);
    while high / low > CLOSE {
        let middle = (low * high).sqrt();
        match trial(middle, SearchMode::Start)? {
            Some(found) => (low, best) = (middle, Some(found)),
            None => high = middle,
        }
    }
    // What the predicted optimum can't do the search may still, a little above its ratio.
    if options.search != SearchMode::Start && best.is_some() {
        for _ in 0..SEARCHES {
            let Some(found) = trial(low, options.search)? else { break };
            best = Some(found);
            low = (low * STEP).min(largest);
        }
    }
    if let Some(found) = &mut best {
        found.effort = effort;
    }
    Ok(best)
}
