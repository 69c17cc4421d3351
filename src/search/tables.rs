//! Tables of sensitivity: what peers choose ranks by. Every layer alone is lowered to some ratios and the
//! network scored; then each takes the cheapest form that loses no more than a threshold common to all.

use super::snapshots::Snapshots;
use super::{Allocation, Effort, Problem};
use crate::error::{Error, Result};
use crate::score::Scorer;

/// Ratios at which each layer is tried.
const RATIOS: usize = 10;

/// The allocation within the budget whose threshold is least, and what it took.
///
/// # Errors
/// When a network can't be run, the budget can't be reached so, or the run is interrupted.
pub fn tables(problem: Problem<'_, '_>, scorer: &Scorer) -> Result<(Allocation, Effort)> {
    let Problem { network, options, budget, samples, limits, progress, .. } = problem;
    let mut effort = Effort { stopped: "tables complete", ..Effort::default() };
    let cost = |l: usize, o: usize| budget.resource.of(&options[l].options[o].cost);
    let dense = scorer.reference_score()?.mean_loss();
    let mut snapshots = Snapshots::new(limits.snapshot_bytes);
    // For each layer the forms that were tried, with what they lose.
    let mut rows: Vec<Vec<(usize, f64)>> = Vec::with_capacity(options.len());
    for (l, layer) in options.iter().enumerate() {
        let mut row = vec![(0, 0.0)];
        for step in 1..=RATIOS {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            let wanted = cost(l, 0) * (RATIOS + 1 - step) as u64 / (RATIOS + 1) as u64;
            let within = (1..layer.options.len()).filter(|&o| cost(l, o) <= wanted);
            let found = within.max_by_key(|&o| cost(l, o));
            let Some(option) = found.filter(|&o| row.iter().all(|&(known, _)| known != o)) else {
                continue;
            };
            let Some(choice) = layer.options[option].choice else { continue };
            let alone = network.alone(l, choice)?;
            let runs = 0..samples.runs();
            let score =
                network.score(&alone, samples, runs, scorer, l, &mut snapshots, &mut effort)?;
            effort.evaluations += 1;
            progress.step(effort.evaluations, &network.layers[l].name);
            row.push((option, score.mean_loss() - dense));
        }
        rows.push(row);
    }
    let at = |threshold: f64| -> Allocation {
        let cheapest = |(l, row): (usize, &Vec<(usize, f64)>)| {
            let allowed = row.iter().filter(|(_, lost)| *lost <= threshold);
            allowed.map(|(o, _)| *o).min_by_key(|&o| cost(l, o)).unwrap_or(0)
        };
        rows.iter().enumerate().map(cheapest).collect()
    };
    let mut thresholds: Vec<f64> = rows.iter().flatten().map(|(_, lost)| *lost).collect();
    thresholds.sort_by(f64::total_cmp);
    let found = thresholds.into_iter().map(at).find(|a| budget.cost(options, a) <= budget.limit);
    let found = found.ok_or_else(|| Error::Option {
        option: "--search tables".to_owned(),
        reason: "the budget can't be reached with the ratios that layers are tried at".to_owned(),
    })?;
    Ok((found, effort))
}
