//! The budgeted start: the allocation with the least predicted loss.

use super::{Allocation, LayerOptions};
use crate::layer::Cost;
use crate::named::named;

/// The cost that a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Resource {
    /// Bytes of the stored weights.
    #[default]
    Bytes,
    /// The number of weights.
    Params,
    /// Multiply-accumulates for one sample.
    Macs,
    /// Time of one sample in the runtime.
    Latency,
}

named!(Resource { Bytes = "bytes", Params = "params", Macs = "macs", Latency = "latency" });

impl Resource {
    /// The amount of this resource in a cost.
    #[must_use]
    pub fn of(self, cost: &Cost) -> u64 {
        match self {
            Self::Bytes => cost.bytes,
            Self::Params => cost.params,
            Self::Macs => cost.macs,
            Self::Latency => cost.nanoseconds,
        }
    }
}

/// What all layers together may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// What is counted.
    pub resource: Resource,
    /// The most that the compressible layers may cost.
    pub limit: u64,
}

impl Budget {
    /// What an allocation costs.
    #[must_use]
    pub fn cost(&self, layers: &[LayerOptions], allocation: &[usize]) -> u64 {
        layers
            .iter()
            .zip(allocation)
            .map(|(layer, &option)| self.resource.of(&layer.options[option].cost))
            .sum()
    }

    /// The least that all layers together can cost.
    #[must_use]
    pub fn least(&self, layers: &[LayerOptions]) -> u64 {
        layers
            .iter()
            .map(|l| l.options.iter().map(|o| self.resource.of(&o.cost)).min().unwrap_or(0))
            .sum()
    }
}

/// The allocation within the budget whose predicted loss, the sum over layers of `loss[layer]
/// [option]`, is least: the Lagrangian optimum, with what it leaves of the budget spent on the
/// changes that gain most. `None` when even the cheapest allocation is too dear.
#[must_use]
pub fn start(layers: &[LayerOptions], loss: &[Vec<f64>], budget: Budget) -> Option<Allocation> {
    if budget.least(layers) > budget.limit {
        return None;
    }
    let cost = |layer: usize, option: usize| {
        budget.resource.of(&layers[layer].options[option].cost) as f64
    };
    let at = |price: f64| -> Allocation {
        (0..layers.len())
            .map(|l| {
                let value = |o: usize| loss[l][o] + price * cost(l, o);
                let options = 0..layers[l].options.len();
                options.min_by(|&a, &b| value(a).total_cmp(&value(b))).unwrap_or(0)
            })
            .collect()
    };
    // The price above which every layer takes its cheapest form.
    let (mut low, mut high) = (0.0, 1e-12);
    while budget.cost(layers, &at(high)) > budget.limit && high < 1e12 {
        low = high;
        high *= 4.0;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if budget.cost(layers, &at(middle)) > budget.limit { low = middle } else { high = middle }
    }
    let mut allocation = at(high);
    if budget.cost(layers, &allocation) > budget.limit {
        allocation = (0..layers.len())
            .map(|l| {
                let options = 0..layers[l].options.len();
                options.min_by(|&a, &b| cost(l, a).total_cmp(&cost(l, b))).unwrap_or(0)
            })
            .collect();
    }
    fill(layers, loss, budget, &mut allocation, None);
    Some(allocation)
}

/// Spends what is left of the budget on the changes that gain most per unit, one at a time; `fixed`
/// layers stay.
pub(super) fn fill(
    layers: &[LayerOptions],
    loss: &[Vec<f64>],
    budget: Budget,
    allocation: &mut Allocation,
    fixed: Option<&[usize]>,
) {
    loop {
        let left = budget.limit.saturating_sub(budget.cost(layers, allocation));
        let mut best: Option<(f64, usize, usize)> = None;
        for (l, layer) in layers.iter().enumerate() {
            if fixed.is_some_and(|fixed| fixed.contains(&l)) {
                continue;
            }
            let now = allocation[l];
            let cost_now = budget.resource.of(&layer.options[now].cost);
            for (o, option) in layer.options.iter().enumerate() {
                let cost = budget.resource.of(&option.cost);
                let gain = loss[l][now] - loss[l][o];
                if o == now || cost > cost_now + left || gain <= 0.0 {
                    continue;
                }
                let worth = gain / (cost.saturating_sub(cost_now) as f64).max(1.0);
                if best.is_none_or(|(b, ..)| worth > b) {
                    best = Some((worth, l, o));
                }
            }
        }
        match best {
            Some((_, l, o)) => allocation[l] = o,
            None => return,
        }
    }
}
