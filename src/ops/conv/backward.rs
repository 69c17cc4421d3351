//! The rule of convolutions, with what is fused into them.

use std::sync::{Arc, PoisonError};

use super::Conv;
use super::problem::{Problem, bias_gradient};
use crate::error::OpError;
use crate::kernels::Clamp;
use crate::kernels::conv::{ConvShape, InputGradient, Spatial, WeightGradient};
use crate::ops::args::{elements, floats, update};
use crate::ops::backward::unbroadcast;
use crate::ops::{Backward, Gradients};
use crate::tensor::Tensor;

/// What a backward pass lays out for a weight and inputs of some extents.
pub(super) struct Kernels {
    shape: ConvShape,
    spatial: Spatial,
    weight: WeightGradient,
    /// Where the weight is constant.
    input: Option<InputGradient>,
}

impl Conv {
    pub(super) fn gradients(&self, pass: &mut Backward<'_>) -> Gradients {
        let mut gradient = pass.gradient(0)?;
        if self.epilogue.clamp == Clamp::RELU {
            gradient = where_positive(gradient, pass.output(0)?)?;
        }
        let problem = self.problem(pass.shape(0)?, pass.shape(1)?)?;
        let mut result = vec![None; pass.wanted.len()];
        if self.epilogue.residual {
            let last = result.len() - 1;
            if pass.wants(last) {
                result[last] = Some(unbroadcast(gradient.clone(), pass.shape(last)?)?);
            }
            gradient = unbroadcast(gradient, &problem.y)?;
        }
        let weight = pass.input(1).ok().filter(|_| self.constant.is_some());
        let kernels = match &gradient {
            Tensor::F32(_) if problem.packs() => Some(self.kernels(&problem, weight)?),
            _ => None,
        };
        if pass.wants(1) {
            result[1] = Some(match &kernels {
                Some(kernels) => {
                    let so_far = pass.so_far(1);
                    let x = pass.input(0)?;
                    problem.weight_gradient_by(&kernels.weight, x, &gradient, so_far)?
                }
                None => problem.weight_gradient(pass.input(0)?, &gradient)?,
            });
        }
        if self.has_bias() && pass.wants(2) {
            result[2] = Some(bias_gradient(&gradient)?);
        }
        if pass.wants(0) {
            result[0] = Some(match kernels.as_ref().and_then(|kernels| kernels.input.as_ref()) {
                Some(kernel) => {
                    let so_far = pass.so_far(0);
                    problem.data_gradient_by(kernel, &gradient, so_far.as_ref())?
                }
                None => problem.data_gradient(pass.input(1)?, &gradient)?,
            });
        }
        Ok(result)
    }

    /// The kernels, laid out now or before; `weight` is the weight where it is constant and its
    /// input's gradient wanted.
    fn kernels(&self, problem: &Problem, weight: Option<&Tensor>) -> Result<Arc<Kernels>, OpError> {
        let spatial = problem.extents()[0];
        let mut last = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernels) = &*last
            && (kernels.spatial, &kernels.shape) == (spatial, &problem.shape)
        {
            return Ok(kernels.clone());
        }
        let shape = problem.shape.clone();
        let input = match weight {
            Some(weight) => {
                let weight = elements(weight.f32("a convolution's weight")?);
                Some(InputGradient::new(shape.clone(), &weight, spatial)?)
            }
            None => None,
        };
        let weight = WeightGradient::new(shape.clone());
        let kernels = Arc::new(Kernels { shape, spatial, weight, input });
        *last = Some(kernels.clone());
        Ok(kernels)
    }
}

/// The gradient where `y` is positive, elsewhere zero.
fn where_positive(gradient: Tensor, y: &Tensor) -> Result<Tensor, OpError> {
    floats!(gradient, "a gradient", gradient => {
        let y = elements(y.typed::<T>("a result")?);
        Ok(Tensor::from(update(gradient, |gradient| {
            for (g, y) in gradient.iter_mut().zip(y.iter()) {
                *g = if *y > 0.0 { *g } else { 0.0 };
            }
        })))
    })
}
