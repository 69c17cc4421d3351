//! What a kernel does to its result before storing it.

use std::sync::Arc;

use ndarray::IxDyn;

use super::args::floats;
use super::layout::count;
use crate::error::OpError;
use crate::kernels::{Clamp, Real};
use crate::tensor::{Array, Element, Tensor};

/// Additions and an activation that follow an operator and are computed with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Epilogue {
    /// What is added to each element along the last axis first.
    pub bias: Option<Arc<[f32]>>,
    /// Whether a tensor given as one more input, after the node's own, is added then.
    pub residual: bool,
    /// The bounds applied last.
    pub clamp: Clamp,
}

impl Epilogue {
    /// Nothing.
    pub const NONE: Self = Self { bias: None, residual: false, clamp: Clamp::NONE };
}

/// Applies an epilogue, with its `residual` where it has one, to a result that is in memory already.
///
/// # Errors
/// When the shapes don't broadcast or an element type is not a float or differs.
pub fn finish(
    result: Tensor,
    residual: Option<&Tensor>,
    epilogue: &Epilogue,
) -> Result<Tensor, OpError> {
    let result = match &epilogue.bias {
        Some(bias) => {
            let bias = Tensor::from_vec(&[bias.len()], bias.to_vec())?;
            finish_typed::<f32>(result.into_typed("a sum")?, Some(&bias), Clamp::NONE)?
        }
        None => result,
    };
    floats!(result, "a sum", sum => finish_typed::<T>(sum, residual, epilogue.clamp))
}

fn finish_typed<T: Real + PartialOrd + Element>(
    mut sum: Array<T>,
    residual: Option<&Tensor>,
    clamp: Clamp,
) -> Result<Tensor, OpError> {
    if let Some(residual) = residual {
        let residual = residual.typed::<T>("a residual")?;
        if sum.shape() == residual.shape() {
            sum.zip_mut_with(residual, |a, b| *a += *b);
        } else {
            let mismatch =
                || OpError::shape(format!("{:?} plus {:?}", sum.shape(), residual.shape()));
            let shape = common_shape(sum.shape(), residual.shape());
            count(&shape)?;
            let shape = IxDyn(&shape);
            let wide = sum.broadcast(shape.clone()).ok_or_else(mismatch)?;
            let total = &wide + &residual.broadcast(shape).ok_or_else(mismatch)?;
            sum = total.into_shared();
        }
    }
    if clamp != Clamp::NONE {
        let (low, high) = (T::from(clamp.low), T::from(clamp.high));
        // Comparisons that fail leave NaN as it is.
        sum.mapv_inplace(|v| {
            let v = if v < low { low } else { v };
            if v > high { high } else { v }
        });
    }
    Ok(T::wrap(sum))
}

/// The larger extent of every axis, aligned at the last.
fn common_shape(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis])
    };
    (0..rank).map(|axis| if dim(b, axis) == 1 { dim(a, axis) } else { dim(b, axis) }).collect()
}
