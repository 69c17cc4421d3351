//! Factors back from the constants that training changed, and to the dense weight they stand for.

use super::curve::{on_outputs, unproject};
use super::{Choice, Factors, Replacement, Scheme};
use crate::error::{Error, Result};
use crate::layer::{Form, Layer, LinearMap};
use crate::linalg::{Matrix, product};
use crate::tensor::Tensor;

impl Factors {
    /// The factors, of the shapes of `self`, that a replacement's constants hold once they have
    /// other elements: `constant` gives these by name. The layer's own bias stays where the
    /// replacement has none.
    ///
    /// # Errors
    /// When a constant is missing or has another number of elements.
    pub fn with_constants(
        &self,
        layer: &Layer,
        replacement: &Replacement,
        mut constant: impl FnMut(&str) -> Result<Option<Tensor>>,
    ) -> Result<Self> {
        let misfit = |name: &str| Error::Plan {
            reason: format!("constant `{name}` is not that of the factors of `{}`", layer.name),
        };
        let map = layer.map.as_ref().ok_or_else(|| misfit(&layer.weight))?;
        let mut factors = self.clone();
        let mut weights = self.groups.first().map_or(0, Vec::len);
        for (name, tensor) in &replacement.constants {
            let trained = constant(name)?.ok_or_else(|| misfit(name))?;
            if trained.shape() != tensor.shape() {
                return Err(misfit(name));
            }
            let elements = trained.to_f64_vec();
            let is_bias = Some(name) == replacement.bias.as_ref();
            if is_bias && elements.len() == factors.bias.len() {
                factors.bias = elements;
                continue;
            }
            // What only completes a node is no part of the factors.
            let Some(index) = weights.checked_sub(1).filter(|_| !is_bias) else { continue };
            weights = index;
            let transposed = match map.form {
                Form::MatMulRight | Form::Table => true,
                // All but the 1 x 1 convolution, whose weight has its outputs first.
                Form::ConvTranspose { .. } => self.is_transposed(index),
                _ => false,
            };
            let mut elements = elements.chunks_exact(self.groups[0][index].len().max(1));
            for group in &mut factors.groups {
                let (matrix, elements) =
                    group.get_mut(index).zip(elements.next()).ok_or_else(|| misfit(name))?;
                let (rows, columns) = matrix.dim();
                *matrix = Matrix::from_shape_fn((rows, columns), |(i, j)| {
                    elements[if transposed { j * rows + i } else { i * columns + j }]
                });
            }
        }
        if weights > 0 {
            return Err(misfit(&layer.weight));
        }
        Ok(factors)
    }

    /// Whether the `index`-th factor of a transposed convolution is the weight of one itself: the one
    /// that is applied first or last, as the scheme says.
    #[must_use]
    pub(super) fn is_transposed(&self, index: usize) -> bool {
        match self.choice.map(|choice| choice.scheme) {
            Some(Scheme::ChannelOut) => index == 1,
            _ => index == 0,
        }
    }

    /// The dense weight that the factors stand for, with their bias.
    #[must_use]
    pub fn to_dense(&self, map: &LinearMap) -> Self {
        let groups = self.groups.iter().map(|group| vec![whole(group, self.choice, map)]).collect();
        Self { choice: None, groups, bias: self.bias.clone() }
    }
}

/// M of one group's factors, the one applied last first.
fn whole(factors: &[Matrix], choice: Option<Choice>, map: &LinearMap) -> Matrix {
    let side = choice.and_then(|choice| choice.scheme.side(map));
    match (factors, side) {
        ([last, first], None)
            if map.spread() > 1 && choice.is_some_and(|c| c.scheme == Scheme::ChannelOut) =>
        {
            on_outputs(last, first, map.spread())
        }
        ([last, first], None) => product(last, first),
        ([last, first], Some(side)) => unproject(last, first, side),
        ([last, core, first], Some(side)) => unproject(&product(last, core), first, side),
        _ => factors.first().cloned().unwrap_or_default(),
    }
}
