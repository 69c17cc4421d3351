//! Parameters that count as they will be rounded.

use rayon::prelude::*;

use super::{Parameter, Slopes};
use crate::quantize::{Grid, StoredWeight};

/// The parameters of a training that are rounded, each with the steps of its grid as a parameter more.
#[derive(Clone, Debug)]
pub struct Grids {
    /// Grids by the parameter that each is for; steps follow the parameters in this order.
    grids: Vec<(usize, Grid)>,
    /// Parameters of the model.
    count: usize,
}

impl Grids {
    /// Those of `grids` that are for one of the model's parameters.
    #[must_use]
    pub fn new(grids: Vec<Grid>, parameters: &[Parameter]) -> Self {
        let place = |grid: Grid| {
            let at = parameters.iter().position(|p| p.name == grid.name())?;
            Some((at, grid))
        };
        Self { grids: grids.into_iter().filter_map(place).collect(), count: parameters.len() }
    }

    /// The parameters that training begins with: the model's, and how far each step has moved.
    #[must_use]
    pub fn begin(&self, mut parameters: Vec<Parameter>) -> Vec<Parameter> {
        for (at, grid) in &self.grids {
            parameters[*at].values = grid.start().to_vec();
        }
        let moved = |(_, grid): &(usize, Grid)| Parameter {
            name: format!("{} steps", grid.name()),
            shape: vec![grid.steps()],
            values: vec![0.0; grid.steps()],
            decays: false,
        };
        parameters.extend(self.grids.iter().map(moved));
        parameters
    }

    /// The model's parameters as they count.
    #[must_use]
    pub fn rounded(&self, parameters: &[Parameter]) -> Vec<Parameter> {
        let mut rounded = parameters[..self.count].to_vec();
        let found: Vec<Vec<f32>> = self
            .grids
            .par_iter()
            .enumerate()
            .map(|(k, (at, grid))| {
                grid.rounded(&parameters[*at].values, &parameters[self.count + k].values)
            })
            .collect();
        for ((at, _), values) in self.grids.iter().zip(found) {
            rounded[*at].values = values;
        }
        rounded
    }

    /// From the gradients of what parameters count as those of the parameters.
    #[must_use]
    pub fn back(&self, parameters: &[Parameter], (loss, mut gradients): Slopes) -> Slopes {
        let mut moved = Vec::with_capacity(self.grids.len());
        for (k, (at, grid)) in self.grids.iter().enumerate() {
            let moves = &parameters[self.count + k].values;
            let (own, of_steps) = grid.slopes(&parameters[*at].values, moves, &gradients[*at]);
            gradients[*at] = own;
            moved.push(of_steps);
        }
        gradients.extend(moved);
        (loss, gradients)
    }

    /// The weights as they are stored.
    #[must_use]
    pub fn stored(&self, parameters: &[Parameter]) -> Vec<StoredWeight> {
        let one = |(k, (at, grid)): (usize, &(usize, Grid))| {
            grid.stored(&parameters[*at].values, &parameters[self.count + k].values)
        };
        self.grids.iter().enumerate().map(one).collect()
    }
}
