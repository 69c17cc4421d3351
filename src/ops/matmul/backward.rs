//! The rules of matrix products.

use super::{Gemm, Plan, matrix};
use crate::error::OpError;
use crate::kernels::Real;
use crate::kernels::matmul::{Strided, matmul as multiply};
use crate::ops::args::{elements, floats, update};
use crate::ops::backward::{Backward, Gradients, unbroadcast, zeros};
use crate::tensor::{Array, Element, Tensor};

/// MatMul: `dA = dY B'`, `dB = A' dY`, summed over the items of the batch that an operand meets.
pub(super) fn matmul(pass: &mut Backward<'_>) -> Gradients {
    let plan = Plan::new(pass.shape(0)?, pass.shape(1)?)?;
    floats!(pass.gradient(0)?, "a gradient", g => {
        let mut result = vec![None, None];
        if pass.wants(0) {
            let total = total::<T>(pass, 0)?;
            result[0] = Some(plan.first::<T>(&g, pass.input(1)?, total)?);
        }
        if pass.wants(1) {
            let total = total::<T>(pass, 1)?;
            result[1] = Some(plan.second::<T>(&g, pass.input(0)?, total)?);
        }
        Ok(result)
    })
}

/// What a gradient is added to: what the input at `index` has so far, or zeros.
fn total<T: Element + Default>(pass: &mut Backward<'_>, index: usize) -> Result<Array<T>, OpError> {
    match pass.so_far(index).map(|total| Tensor::F32(total).into_typed("a gradient")) {
        Some(total) => total,
        None => Ok(zeros(pass.shape(index)?)),
    }
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.rows * self.depth * self.columns == 0
    }

    /// Adds the gradient of the first operand to `total`.
    fn first<T: Real + Element>(
        &self,
        g: &Array<T>,
        b: &Tensor,
        total: Array<T>,
    ) -> Result<Tensor, OpError> {
        let (g, b) = (elements(g), elements(b.typed::<T>("a factor")?));
        let (rows, depth, columns) = (self.rows, self.depth, self.columns);
        self.each(total, |i, total| {
            let g = &g[i * rows * columns..][..rows * columns];
            let b = &b[self.items[1][i] * depth * columns..][..depth * columns];
            let out = &mut total[self.items[0][i] * rows * depth..][..rows * depth];
            let b = Strided::row_major(b, depth, columns).transposed();
            multiply(Strided::row_major(g, rows, columns), b, true, out)
        })
    }

    /// Adds the gradient of the second operand to `total`.
    fn second<T: Real + Element>(
        &self,
        g: &Array<T>,
        a: &Tensor,
        total: Array<T>,
    ) -> Result<Tensor, OpError> {
        let (g, a) = (elements(g), elements(a.typed::<T>("a factor")?));
        let (rows, depth, columns) = (self.rows, self.depth, self.columns);
        self.each(total, |i, total| {
            let g = &g[i * rows * columns..][..rows * columns];
            let a = &a[self.items[0][i] * rows * depth..][..rows * depth];
            let out = &mut total[self.items[1][i] * depth * columns..][..depth * columns];
            let a = Strided::row_major(a, rows, depth).transposed();
            multiply(a, Strided::row_major(g, rows, columns), true, out)
        })
    }

    /// `total` after `add` has added every item of the batch to it.
    fn each<T: Real + Element>(
        &self,
        total: Array<T>,
        add: impl Fn(usize, &mut [T]) -> Result<(), OpError>,
    ) -> Result<Tensor, OpError> {
        let mut result = Ok(());
        let total = update(total, |total| {
            let items = if self.is_empty() { 0 } else { self.items[0].len() };
            result = (0..items).try_for_each(|i| add(i, total));
        });
        result.map(|()| T::wrap(total))
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
