//! The rules of matrix products.

use super::{Gemm, Plan, matrix};
use crate::error::OpError;
use crate::kernels::Real;
use crate::kernels::matmul::{Strided, matmul as multiply};
use crate::ops::args::{elements, floats};
use crate::ops::backward::{Backward, Gradients, unbroadcast};
use crate::tensor::{Array, Element, Tensor};

/// MatMul: `dA = dY B'`, `dB = A' dY`, summed over the items of the batch that an operand meets.
pub(super) fn matmul(pass: &mut Backward<'_>) -> Gradients {
    let plan = Plan::new(pass.shape(0)?, pass.shape(1)?)?;
    floats!(pass.gradient(0)?, "a gradient", g => {
        let first = || plan.first::<T>(&g, pass.input(1)?, pass.shape(0)?);
        let second = || plan.second::<T>(&g, pass.input(0)?, pass.shape(1)?);
        Ok(vec![
            pass.wants(0).then(first).transpose()?,
            pass.wants(1).then(second).transpose()?,
        ])
    })
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.rows * self.depth * self.columns == 0
    }

    fn first<T: Real + Element>(
        &self,
        g: &Array<T>,
        b: &Tensor,
        shape: &[usize],
    ) -> Result<Tensor, OpError> {
        let (g, b) = (elements(g), elements(b.typed::<T>("a factor")?));
        let mut result = vec![T::default(); shape.iter().product()];
        let (rows, depth, columns) = (self.rows, self.depth, self.columns);
        for (i, g) in g.chunks_exact((rows * columns).max(1)).enumerate() {
            if self.is_empty() {
                break;
            }
            let b = &b[self.items[1][i] * depth * columns..][..depth * columns];
            let out = &mut result[self.items[0][i] * rows * depth..][..rows * depth];
            let b = Strided::row_major(b, depth, columns).transposed();
            multiply(Strided::row_major(g, rows, columns), b, true, out)?;
        }
        Tensor::from_vec(shape, result)
    }

    fn second<T: Real + Element>(
        &self,
        g: &Array<T>,
        a: &Tensor,
        shape: &[usize],
    ) -> Result<Tensor, OpError> {
        let (g, a) = (elements(g), elements(a.typed::<T>("a factor")?));
        let mut result = vec![T::default(); shape.iter().product()];
        let (rows, depth, columns) = (self.rows, self.depth, self.columns);
        for (i, g) in g.chunks_exact((rows * columns).max(1)).enumerate() {
            if self.is_empty() {
                break;
            }
            let a = &a[self.items[0][i] * rows * depth..][..rows * depth];
            let out = &mut result[self.items[1][i] * depth * columns..][..depth * columns];
            let a = Strided::row_major(a, rows, depth).transposed();
            multiply(a, Strided::row_major(g, rows, columns), true, out)?;
        }
        Tensor::from_vec(shape, result)
    }
}

/// Gemm: as for MatMul, each gradient transposed as its operand is.
pub(super) fn gemm(pass: &mut Backward<'_>, gemm: &Gemm) -> Gradients {
    fn scaled<T: Real + Element>(
        a: Strided<'_, T>,
        b: Strided<'_, T>,
        alpha: f32,
    ) -> Result<Option<Tensor>, OpError> {
        let mut out = vec![T::default(); a.rows * b.columns];
        multiply(a, b, false, &mut out)?;
        if alpha != 1.0 {
            out.iter_mut().for_each(|v| *v = *v * T::from(alpha));
        }
        Tensor::from_vec(&[a.rows, b.columns], out).map(Some)
    }
    let gradient = pass.gradient(0)?;
    let mut result = vec![None, None, None];
    floats!(gradient.clone(), "a gradient", array => {
        let values = elements(&array);
        let g = matrix::<T>(&values, array.shape(), false);
        if pass.wants(0) {
            let b = elements(pass.input(1)?.typed::<T>("a factor")?);
            let b = matrix(&b, pass.shape(1)?, gemm.transpose[1]);
            result[0] = if gemm.transpose[0] {
                scaled(b, g.transposed(), gemm.alpha)?
            } else {
                scaled(g, b.transposed(), gemm.alpha)?
            };
        }
        if pass.wants(1) {
            let a = elements(pass.input(0)?.typed::<T>("a factor")?);
            let a = matrix(&a, pass.shape(0)?, gemm.transpose[0]);
            result[1] = if gemm.transpose[1] {
                scaled(g.transposed(), a, gemm.alpha)?
            } else {
                scaled(a.transposed(), g, gemm.alpha)?
            };
        }
        Ok::<_, OpError>(())
    })?;
    if pass.wants(2) {
        let sums = unbroadcast(gradient, pass.shape(2)?)?;
        result[2] = Some(floats!(sums, "a gradient", sums => {
            let beta = T::from(gemm.beta);
            Ok(Tensor::from(sums.mapv_into(|g| beta * g).into_shared()))
        })?);
    }
    Ok(result)
}
