//! Changes of single layers, and what they make together within a budget.

use super::start::fill;
use super::{Allocation, Budget, LayerOptions};

/// Another option for one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    /// The layer.
    pub layer: usize,
    /// What it takes instead.
    pub option: usize,
    /// What that costs more; negative where it costs less.
    pub cost: i64,
    /// The change of the loss, as far as it is known.
    pub loss: f64,
}

/// The moves from `allocation` whose cost changes by about `step`: for every layer the best form for
/// a step more, the best for a step less, and the best of another scheme or of other bits for no more than
/// now.
/// `losses[layer][option]` are predicted.
pub fn moves(
    layers: &[LayerOptions],
    losses: &[Vec<f64>],
    budget: Budget,
    allocation: &Allocation,
    step: u64,
) -> Vec<Move> {
    let mut found: Vec<Move> = Vec::new();
    for (l, layer) in layers.iter().enumerate() {
        let cost = |o: usize| budget.resource.of(&layer.options[o].cost);
        let scheme =
            |o: usize| (layer.options[o].choice.map(|c| c.scheme), layer.options[o].storage);
        let (now, at) = (allocation[l], cost(allocation[l]));
        let best = |wanted: &dyn Fn(usize) -> bool| {
            let options = (0..layer.options.len()).filter(|&o| o != now && wanted(o));
            options.min_by(|&a, &b| losses[l][a].total_cmp(&losses[l][b]))
        };
        // Where a rank's step is larger than the one asked for, the nearest form there is.
        let above = (0..layer.options.len()).map(cost).filter(|&c| c > at).min();
        let up = above.and_then(|above| {
            let most = (at + step).max(above);
            best(&|o| cost(o) > at && cost(o) <= most).filter(|_| above <= at + 4 * step)
        });
        let below = (0..layer.options.len()).map(cost).filter(|&c| c < at).max();
        let down = below.and_then(|below| {
            let most = at.saturating_sub(step).min(below);
            best(&|o| cost(o) <= most).filter(|_| below + 4 * step >= at)
        });
        let other = best(&|o| scheme(o) != scheme(now) && cost(o) <= at && cost(o) + step >= at);
        for option in [up, down, other].into_iter().flatten() {
            let new = Move {
                layer: l,
                option,
                cost: cost(option) as i64 - at as i64,
                loss: losses[l][option] - losses[l][now],
            };
            if !found.contains(&new) {
                found.push(new);
            }
        }
    }
    found
}

/// Loss per unit of cost: lower is better, for what takes budget and for what gives it.
fn rate(m: &Move) -> f64 {
    let per = m.cost.unsigned_abs().max(1) as f64;
    m.loss / per
}

/// Allocations that moves make together within the budget, with the change of the loss that they add
/// up to; one move for each layer. From the best exchange alone to all that gain.
pub fn combinations(
    layers: &[LayerOptions],
    losses: &[Vec<f64>],
    budget: Budget,
    allocation: &Allocation,
    moves: &[Move],
) -> Vec<(Allocation, f64)> {
    let mut order: Vec<Move> = moves.to_vec();
    order.sort_by(|a, b| rate(a).total_cmp(&rate(b)).then(a.layer.cmp(&b.layer)));
    let mut used = vec![false; layers.len()];
    let mut left = budget.limit as i64 - budget.cost(layers, allocation) as i64;
    let mut current = allocation.clone();
    let mut loss = 0.0;
    let mut path: Vec<(Allocation, f64)> = Vec::new();
    // What gains and gives at once comes first.
    for m in order.iter().filter(|m| m.cost <= 0 && m.loss < 0.0) {
        if !std::mem::replace(&mut used[m.layer], true) {
            current[m.layer] = m.option;
            left -= m.cost;
            loss += m.loss;
            path.push((current.clone(), loss));
        }
    }
    for take in order.iter().filter(|m| m.cost > 0 && m.loss < 0.0) {
        if used[take.layer] {
            continue;
        }
        let (mut room, mut change) = (left - take.cost, take.loss);
        let mut bundle = vec![*take];
        for give in order.iter().filter(|m| m.cost < 0 && m.layer != take.layer) {
            if room >= 0 {
                break;
            }
            if used[give.layer] || bundle.iter().any(|m| m.layer == give.layer) {
                continue;
            }
            room -= give.cost;
            change += give.loss;
            bundle.push(*give);
        }
        if room < 0 || change >= 0.0 {
            continue;
        }
        for m in bundle {
            used[m.layer] = true;
            current[m.layer] = m.option;
        }
        left = room;
        loss += change;
        path.push((current.clone(), loss));
    }
    // All, half of the way, a quarter, and the first step.
    let count = path.len();
    let mut chosen: Vec<(Allocation, f64)> = Vec::new();
    for at in [count, count.div_ceil(2), count.div_ceil(4), 1] {
        let Some((made, change)) = at.checked_sub(1).and_then(|at| path.get(at)) else { continue };
        let mut filled = made.clone();
        let changed: Vec<usize> =
            (0..layers.len()).filter(|&l| filled[l] != allocation[l]).collect();
        fill(layers, losses, budget, &mut filled, Some(&changed));
        if !chosen.iter().any(|(known, _)| *known == filled) {
            chosen.push((filled, *change));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::super::{LayerOption, Resource};
    use super::*;
    use crate::layer::Cost;

    fn layer(forms: &[(u64, f64)]) -> LayerOptions {
        let cost = |params: u64| Cost { params, bytes: 4 * params, ..Cost::default() };
        let options = forms.iter().map(|&(p, error)| LayerOption {
            cost: cost(p),
            error,
            ..LayerOption::default()
        });
        LayerOptions {
            options: options.collect(),
            stored: cost(forms[0].0),
            energy: 1.0,
            errors: Vec::new(),
        }
    }

    #[test]
    fn exchanges_keep_the_budget_and_take_what_gains() {
        let forms = [(100, 0.0), (90, 0.1), (80, 0.2), (70, 0.3), (60, 0.4)];
        let layers = [layer(&forms), layer(&forms), layer(&forms)];
        // The first layer matters ten times as much as the second, the third not at all.
        let weights = [10.0, 1.0, 0.0];
        let losses: Vec<Vec<f64>> =
            weights.iter().map(|w| forms.iter().map(|f| w * f.1).collect()).collect();
        let budget = Budget { resource: Resource::Params, limit: 240 };
        let now = vec![2, 2, 2];
        let found = moves(&layers, &losses, budget, &now, 10);
        assert!(found.iter().any(|m| (m.layer, m.option, m.cost) == (0, 1, 10)), "{found:?}");
        assert!(found.iter().any(|m| (m.layer, m.option, m.cost) == (2, 3, -10)), "{found:?}");
        let made = combinations(&layers, &losses, budget, &now, &found);
        assert!(!made.is_empty());
        for (allocation, change) in &made {
            assert!(budget.cost(&layers, allocation) <= budget.limit, "{allocation:?}");
            let loss: f64 = allocation.iter().zip(&losses).map(|(&o, l)| l[o]).sum();
            assert!(loss <= 2.2 + change + 1e-12 && *change < 0.0, "{allocation:?} {loss}");
        }
    }

    #[test]
    fn no_move_is_made_where_none_gains() {
        let forms = [(100, 0.0), (90, 0.1), (80, 0.3)];
        let layers = [layer(&forms), layer(&forms)];
        let losses = vec![vec![0.0, 0.1, 0.3]; 2];
        let budget = Budget { resource: Resource::Params, limit: 180 };
        let now = vec![1, 1];
        let found = moves(&layers, &losses, budget, &now, 10);
        assert!(combinations(&layers, &losses, budget, &now, &found).is_empty());
    }
}
