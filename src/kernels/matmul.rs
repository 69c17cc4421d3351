//! Matrix products: a constant matrix laid out once (tract-linalg), and two matrices that both
//! vary (the `gemm` crate).

use std::mem::MaybeUninit;

use tract_linalg::BinOp;
use tract_linalg::mmm::{AsInputValue, FusedSpec, MMMInputValue, MatMatMul, MmmDispatch, Query};
use tract_onnx::prelude::{DatumType, Tensor as Buffer};
use tract_onnx::tract_core::internal::tensor0;

use crate::error::OpError;

use super::{Clamp, Real, share};

/// A constant matrix `[depth, columns]` laid out for products `x * matrix`.
pub struct PackedMatrix {
    kernel: Box<dyn MatMatMul>,
    packing: usize,
    packed: Box<dyn MMMInputValue>,
    depth: usize,
    columns: usize,
    bias: Option<Buffer>,
}

impl PackedMatrix {
    /// Lays out `matrix`, given row by row as `[columns, depth]` (transposed) and `bias`
    /// `[columns]` (empty for none).
    ///
    /// # Errors
    /// When the slices don't have these lengths or no kernel runs here.
    pub fn new(
        transposed: &[f32],
        bias: &[f32],
        depth: usize,
        columns: usize,
    ) -> Result<Self, OpError> {
        let query = Query::plain(DatumType::F32, Some(columns), Some(depth), None);
        let (kernel, packing, extractor) = MmmDispatch::native()
            .pick(&query)
            .ok_or_else(|| OpError::unsupported("no f32 matrix kernel for this processor"))?;
        if extractor.is_some() {
            return Err(OpError::unsupported("no plain f32 matrix kernel for this processor"));
        }
        let matrix = buffer(&[columns, depth], transposed)?;
        let packed = kernel.packings()[packing].0.prepare_one(&matrix, 1, 0).map_err(fault)?;
        let bias = (!bias.is_empty()).then(|| buffer(&[columns], bias)).transpose()?;
        Ok(Self { kernel, packing, packed, depth, columns, bias })
    }

    /// Columns of the product.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows of the matrix.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// `x * matrix + bias`, clamped, for `x` `[rows, depth]`; appended to `out` row by row.
    ///
    /// # Errors
    /// When `x` is not of whole rows.
    pub fn product(&self, x: &[f32], clamp: Clamp, out: &mut Vec<f32>) -> Result<(), OpError> {
        if self.depth == 0 || !x.len().is_multiple_of(self.depth) {
            return Err(OpError::shape(format!(
                "{} elements are not rows of {}",
                x.len(),
                self.depth
            )));
        }
        let rows = x.len() / self.depth;
        if rows == 0 || self.columns == 0 {
            return Ok(());
        }
        let parts = share::parts(x.len() * self.columns).min(rows);
        if parts == 1 {
            return self.append(x, clamp, out);
        }
        let parts = (0..parts).map(|index| {
            let rows = share::part(rows, 1, index, parts);
            &x[rows.start * self.depth..rows.end * self.depth]
        });
        let products = share::each(parts.collect(), |x| {
            let mut out = Vec::new();
            self.append(x, clamp, &mut out).map(|()| out)
        });
        for product in products {
            out.extend_from_slice(&product?);
        }
        Ok(())
    }

    /// [`PackedMatrix::product`] on this thread.
    fn append(&self, x: &[f32], clamp: Clamp, out: &mut Vec<f32>) -> Result<(), OpError> {
        let rows = x.len() / self.depth;
        let x = buffer(&[rows, self.depth], x)?;
        let x = self.kernel.packings()[self.packing].1.prepare_one(&x, 1, 0).map_err(fault)?;
        // SAFETY: every element is stored to by the product below.
        let mut result = unsafe {
            Buffer::uninitialized_dt(DatumType::F32, &[rows, self.columns]).map_err(fault)?
        };
        let (low, high) = (tensor0(clamp.low), tensor0(clamp.high));
        let mut steps = vec![FusedSpec::AddMatMul {
            a: AsInputValue::Borrowed(&*self.packed),
            b: AsInputValue::Borrowed(&*x),
            packing: self.packing,
        }];
        if let Some(bias) = &self.bias {
            steps.push(FusedSpec::BinPerRow(bias.view(), BinOp::Add));
        }
        if clamp.low > f32::NEG_INFINITY {
            steps.push(FusedSpec::BinScalar(&low, BinOp::Max));
        }
        if clamp.high < f32::INFINITY {
            steps.push(FusedSpec::BinScalar(&high, BinOp::Min));
        }
        // SAFETY: the store covers `result`, whose axes are given; operands are packed for the
        // kernel.
        unsafe {
            let store = self.kernel.c_view(Some(1), Some(0)).wrap(&result.view_mut());
            steps.push(FusedSpec::Store(store));
            self.kernel.run(self.columns, rows, &steps).map_err(fault)?;
        }
        out.extend_from_slice(
            result.try_as_plain_ram().map_err(fault)?.as_slice::<f32>().map_err(fault)?,
        );
        Ok(())
    }
}

fn buffer(shape: &[usize], elements: &[f32]) -> Result<Buffer, OpError> {
    Buffer::from_shape(shape, elements).map_err(fault)
}

fn fault(error: impl std::fmt::Display) -> OpError {
    OpError::shape(error.to_string())
}

/// A matrix inside a slice: extents and distances between neighbours, in elements.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a, T = f32> {
    /// Elements, the first one at `[0, 0]`.
    pub elements: &'a [T],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub column_stride: usize,
}

impl<'a, T> Strided<'a, T> {
    /// A row-major matrix.
    #[must_use]
    pub fn row_major(elements: &'a [T], rows: usize, columns: usize) -> Self {
        Self { elements, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The transposed matrix.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn fits(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride
                < self.elements.len()
    }
}

/// `out = a * b` (`accumulate`: `out += a * b`), `out` row-major. One thread; the same sums in the
/// same order whatever else runs.
///
/// # Errors
/// When the extents don't fit together or reach outside a slice.
pub fn matmul<T: Real>(
    a: Strided<'_, T>,
    b: Strided<'_, T>,
    accumulate: bool,
    out: &mut [T],
) -> Result<(), OpError> {
    if a.columns == 0 && !accumulate {
        out.fill(T::default());
    }
    if a.columns != b.rows || out.len() != a.rows * b.columns || !a.fits() || !b.fits() {
        return Err(OpError::shape(format!(
            "[{}, {}] times [{}, {}] into {} elements",
            a.rows,
            a.columns,
            b.rows,
            b.columns,
            out.len()
        )));
    }
    // SAFETY: extents and strides stay within the slices, as checked.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            b.columns as isize,
            // Else what is there is not read.
            accumulate || a.columns == 0,
            a.elements.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.elements.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::from(1.0),
            T::from(1.0),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    Ok(())
}

/// A vector's spare capacity of `len` elements; [`filled`] makes them its contents.
#[must_use]
pub fn uninit(len: usize) -> Vec<MaybeUninit<f32>> {
    let mut v = Vec::with_capacity(len);
    // SAFETY: `MaybeUninit` needs no initialisation.
    unsafe { v.set_len(len) };
    v
}

/// The elements of a vector that has been written in full.
///
/// # Safety
/// Every element must have been written.
#[must_use]
pub unsafe fn filled(v: Vec<MaybeUninit<f32>>) -> Vec<f32> {
    let mut v = std::mem::ManuallyDrop::new(v);
    // SAFETY: same layout; the caller vouches for the contents.
    unsafe { Vec::from_raw_parts(v.as_mut_ptr().cast(), v.len(), v.capacity()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    #[test]
    fn products_agree_with_the_definition() {
        for (rows, depth, columns) in [(1, 1, 1), (3, 17, 5), (64, 100, 33), (7, 384, 130)] {
            let (x, w) = (values(rows * depth, 1), values(depth * columns, 2));
            let bias = values(columns, 3);
            let clamp = Clamp { low: -0.5, high: 2.0 };
            let mut packed = Vec::new();
            PackedMatrix::new(&w, &bias, depth, columns)
                .unwrap()
                .product(&x, clamp, &mut packed)
                .unwrap();
            let mut both = vec![0.0; rows * columns];
            matmul(
                Strided::row_major(&x, rows, depth),
                Strided::row_major(&w, columns, depth).transposed(),
                false,
                &mut both,
            )
            .unwrap();
            for i in 0..rows * columns {
                let (r, c) = (i / columns, i % columns);
                let sum: f64 = (0..depth)
                    .map(|k| f64::from(x[r * depth + k]) * f64::from(w[c * depth + k]))
                    .sum();
                assert!((f64::from(both[i]) - sum).abs() < 1e-4);
                let sum = (sum + f64::from(bias[c])).clamp(-0.5, 2.0);
                assert!((f64::from(packed[i]) - sum).abs() < 1e-4);
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            let parts = pool.install(|| {
                share::alone_from(1, || {
                    let mut out = Vec::new();
                    let matrix = PackedMatrix::new(&w, &bias, depth, columns).unwrap();
                    matrix.product(&x, clamp, &mut out).map(|()| out)
                })
            });
            assert_eq!(parts.unwrap(), packed);
        }
    }
}
