//! What a search has learnt that helps searches for other budgets.

use serde::{Deserialize, Serialize};

use super::start::start;
use super::{Allocation, Budget, LayerOption, LayerOptions};
use crate::factorize::Choice;
use crate::quantize::Storage;

/// What a search has learnt of the layers, and where it ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Experience {
    /// Loss per unit of relative output error, by layer.
    pub sensitivity: Vec<f64>,
    /// What it chose.
    pub choices: Vec<Option<Choice>>,
    /// How weights are stored in that.
    #[serde(default)]
    pub storages: Vec<Option<Storage>>,
}

impl Experience {
    /// The allocation for another budget that is nearest in kind to what was chosen: where there is more to
    /// spend no layer has less than it had, else none has more. `losses[layer][option]` are
    /// predictions. None where a choice is no option any more.
    #[must_use]
    pub fn allocation(
        &self,
        options: &[LayerOptions],
        losses: &[Vec<f64>],
        budget: Budget,
    ) -> Option<Allocation> {
        if self.choices.len() != options.len() || self.storages.len() != options.len() {
            return None;
        }
        let place = |(l, layer): (usize, &LayerOptions)| {
            let same =
                |o: &LayerOption| (o.choice, o.storage) == (self.choices[l], self.storages[l]);
            layer.options.iter().position(same)
        };
        let before: Allocation = options.iter().enumerate().map(place).collect::<Option<_>>()?;
        let more = budget.cost(options, &before) <= budget.limit;
        let cost = |l: usize, o: usize| budget.resource.of(&options[l].options[o].cost);
        let allowed = |l: usize, o: usize| {
            let (now, then) = (cost(l, o), cost(l, before[l]));
            if more { now >= then } else { now <= then }
        };
        let losses: Vec<Vec<f64>> = (0..options.len())
            .map(|l| {
                let loss = |(o, &loss)| if allowed(l, o) { loss } else { f64::INFINITY };
                losses[l].iter().enumerate().map(loss).collect()
            })
            .collect();
        let found = start(options, &losses, budget)?;
        let holds = found.iter().enumerate().all(|(l, &o)| allowed(l, o));
        (holds && budget.cost(options, &found) <= budget.limit).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factorize::Scheme;
    use crate::layer::Cost;
    use crate::search::Resource;

    fn choice(rank: usize) -> Option<Choice> {
        Some(Choice { scheme: Scheme::Matrix, rank, rank_in: None })
    }

    fn layer() -> LayerOptions {
        let option = |(rank, params): (usize, u64)| LayerOption {
            choice: choice(rank).filter(|_| rank < 9),
            cost: Cost { params, bytes: 4 * params, ..Cost::default() },
            error: (9 - rank) as f64,
            ..LayerOption::default()
        };
        let options = [(9, 100), (8, 80), (4, 40), (2, 20), (1, 10)].map(option).to_vec();
        let stored = options[0].cost;
        LayerOptions { options, stored, energy: 1.0, errors: Vec::new() }
    }

    /// The losses would have it otherwise: what was chosen holds the layers back.
    #[test]
    fn what_was_chosen_leads() {
        let options = [layer(), layer()];
        let losses: Vec<Vec<f64>> =
            [1.0, 10.0].map(|s| options[0].options.iter().map(|o| s * o.error).collect()).to_vec();
        let known = Experience {
            choices: vec![choice(4), choice(2)],
            storages: vec![None; 2],
            ..Experience::default()
        };
        let at = |limit| {
            let budget = Budget { resource: Resource::Params, limit };
            known.allocation(&options, &losses, budget)
        };
        assert_eq!(at(60), Some(vec![2, 3]), "what was chosen itself");
        assert_eq!(at(30), Some(vec![4, 3]), "less: the layer that matters keeps what it has");
        let more = at(125).expect("an allocation");
        assert!(more[0] <= 2 && more[1] == 1, "{more:?}");
        assert_eq!(at(10), None);
        let strange = Experience {
            choices: vec![choice(3), choice(2)],
            storages: vec![None; 2],
            ..Experience::default()
        };
        let budget = Budget { resource: Resource::Params, limit: 60 };
        assert_eq!(strange.allocation(&options, &losses, budget), None);
    }
}
