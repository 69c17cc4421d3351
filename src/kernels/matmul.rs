//! Matrix products: of a constant matrix, and of two matrices that both vary.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use tract_linalg::mmm::{AsInputValue, FusedSpec, MMMInputValue, MatMatMul, MmmDispatch, Query};
use tract_onnx::prelude::{DatumType, Tensor as Buffer};

use crate::error::OpError;
use crate::tensor::Array;

use super::share::{self, Target};
use super::{Clamp, Real, wide};

/// A constant matrix `[depth, columns]` for products `x * matrix`.
///
/// The `gemm` crate reads it as it is, which costs least where there are some rows; for few, tract-linalg's
/// kernels read a copy that is laid out for them when it is first needed.
pub struct PackedMatrix {
    /// Row by row.
    elements: Array<f32>,
    depth: usize,
    columns: usize,
    bias: Vec<f32>,
    /// For one row, and for few.
    laid_out: [OnceLock<LaidOut>; 2],
}

/// Depth that is summed up in one go: what `gemm` does at most in any case, so that sums don't depend on
/// how many rows there are.
const DEPTH: usize = 512;

/// Rows from which on it doesn't matter that `gemm` copies a matrix of odd width.
const ROWS: usize = 32;

/// Columns below which `gemm` takes other ways.
const COLUMNS: usize = 16;

impl PackedMatrix {
    /// A matrix `[depth, columns]`, and `bias` `[columns]` (empty for none).
    ///
    /// # Errors
    /// When the shapes differ from that.
    pub fn new(matrix: &Array<f32>, bias: &[f32]) -> Result<Self, OpError> {
        let [depth, columns] = *matrix.shape() else {
            return Err(OpError::shape(format!("{:?} is no matrix", matrix.shape())));
        };
        if !bias.is_empty() && bias.len() != columns {
            let bias = bias.len();
            return Err(OpError::shape(format!("a bias of {bias} for {columns} columns")));
        }
        let elements = match matrix.is_standard_layout() {
            true => matrix.clone(),
            false => matrix.as_standard_layout().into_owned().into_shared(),
        };
        Ok(Self { elements, depth, columns, bias: bias.to_vec(), laid_out: Default::default() })
    }

    /// The same matrix with a bias `[columns]` that is added to its own; `None` where it is of another
    /// length.
    #[must_use]
    pub fn with_bias(&self, bias: &[f32]) -> Option<Self> {
        let mut bias = bias.to_vec();
        bias.iter_mut().zip(&self.bias).for_each(|(sum, own)| *sum += own);
        (bias.len() == self.columns).then(|| Self {
            elements: self.elements.clone(),
            bias,
            laid_out: Default::default(),
            ..*self
        })
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

    /// `x * matrix + bias`, clamped, for `x` `[rows, depth]`: `[rows, columns]`.
    ///
    /// # Errors
    /// When `x` is not of whole rows.
    pub fn product(&self, x: &[f32], clamp: Clamp) -> Result<Vec<f32>, OpError> {
        let rows = x.len().checked_div(self.depth).unwrap_or(0);
        if self.depth == 0 || rows * self.depth != x.len() {
            let (x, depth) = (x.len(), self.depth);
            return Err(OpError::shape(format!("{x} elements are not rows of {depth}")));
        }
        let accumulate = !self.bias.is_empty();
        let mut out = match accumulate {
            true => self.bias.repeat(rows),
            false => vec![0.0; rows * self.columns],
        };
        if out.is_empty() {
            return Ok(out);
        }
        let few = rows == 1
            || self.columns < COLUMNS
            || rows < ROWS && !self.columns.is_multiple_of(COLUMNS);
        if few {
            self.few(x, &mut out)?;
            if clamp != Clamp::NONE {
                wide!(out.iter_mut().for_each(|v| *v = clamp.of(*v)));
            }
            return Ok(out);
        }
        // None of so few columns that `gemm` takes other ways.
        let parts = share::parts(x.len() * self.columns).min(self.columns / (2 * COLUMNS)).max(1);
        let part = |index: usize| share::part(self.columns, COLUMNS, index, parts);
        let parts: Vec<Range<usize>> = (0..parts).map(part).collect();
        let target = Target::new(&mut out);
        let done = share::each(parts, |columns| {
            // SAFETY: no two parts have a column in common.
            unsafe { self.some(x, rows, columns, clamp, target) }
        });
        done.into_iter().collect::<Result<(), OpError>>()?;
        Ok(out)
    }

    /// Some columns of the product, by the `gemm` crate, added to `out` where there is a bias.
    ///
    /// # Safety
    /// `out` has the rows of the product, and nothing else reads or writes these columns of it.
    unsafe fn some(
        &self,
        x: &[f32],
        rows: usize,
        columns: Range<usize>,
        clamp: Clamp,
        out: Target,
    ) -> Result<(), OpError> {
        let elements = self.elements.as_slice().unwrap_or(&[]);
        let accumulate = !self.bias.is_empty();
        let step = self.depth.div_ceil(self.depth.div_ceil(DEPTH));
        for first in (0..self.depth).step_by(step) {
            let depth = step.min(self.depth - first);
            let x =
                Strided { row_stride: self.depth, ..Strided::row_major(&x[first..], rows, depth) };
            let matrix = &elements[first * self.columns + columns.start..];
            let matrix = Strided {
                row_stride: self.columns,
                ..Strided::row_major(matrix, depth, columns.len())
            };
            // SAFETY: as the caller vouches.
            unsafe {
                let out = out.from(columns.start);
                product(x, matrix, accumulate || first > 0, out, self.columns)?;
            }
        }
        if clamp != Clamp::NONE {
            for row in 0..rows {
                // SAFETY: as the caller vouches.
                let row = unsafe {
                    let start = out.from(row * self.columns + columns.start);
                    std::slice::from_raw_parts_mut(start, columns.len())
                };
                wide!(row.iter_mut().for_each(|v| *v = clamp.of(*v)));
            }
        }
        Ok(())
    }

    /// Few rows by tract-linalg's kernels, added to `out`.
    fn few(&self, x: &[f32], out: &mut [f32]) -> Result<(), OpError> {
        let rows = out.len() / self.columns;
        let laid_out = &self.laid_out[usize::from(rows > 1)];
        if laid_out.get().is_none() {
            // Another thread may have been as fast.
            let _ = laid_out.set(LaidOut::new(self, rows)?);
        }
        let laid_out = laid_out.get().ok_or_else(|| OpError::shape("a matrix is not laid out"))?;
        let product = laid_out.product(self, x, rows)?;
        let product = product.try_as_plain_ram().map_err(fault)?;
        let product = product.as_slice::<f32>().map_err(fault)?;
        out.iter_mut().zip(product).for_each(|(sum, product)| *sum += product);
        Ok(())
    }
}

/// A matrix laid out for one of tract-linalg's kernels.
struct LaidOut {
    kernel: Box<dyn MatMatMul>,
    packing: usize,
    packed: Box<dyn MMMInputValue>,
}

impl LaidOut {
    fn new(matrix: &PackedMatrix, rows: usize) -> Result<Self, OpError> {
        let PackedMatrix { elements, depth, columns, .. } = matrix;
        let known = (rows == 1).then_some(1);
        let query = Query::plain(DatumType::F32, Some(*columns), Some(*depth), known);
        let (kernel, packing, extractor) = MmmDispatch::native()
            .pick(&query)
            .ok_or_else(|| OpError::unsupported("no f32 matrix kernel for this processor"))?;
        if extractor.is_some() {
            return Err(OpError::unsupported("no plain f32 matrix kernel for this processor"));
        }
        let matrix = buffer(&[*depth, *columns], elements.as_slice().unwrap_or(&[]))?;
        let packed = kernel.packings()[packing].0.prepare_one(&matrix, 0, 1).map_err(fault)?;
        Ok(Self { kernel, packing, packed })
    }

    fn product(&self, matrix: &PackedMatrix, x: &[f32], rows: usize) -> Result<Buffer, OpError> {
        let x = buffer(&[rows, matrix.depth], x)?;
        let x = self.kernel.packings()[self.packing].1.prepare_one(&x, 1, 0).map_err(fault)?;
        // SAFETY: every element is stored to by the product below.
        let mut result = unsafe {
            Buffer::uninitialized_dt(DatumType::F32, &[rows, matrix.columns]).map_err(fault)?
        };
        // SAFETY: the store covers `result`, whose axes are given; operands are packed for the
        // kernel.
        unsafe {
            let store = self.kernel.c_view(Some(1), Some(0)).wrap(&result.view_mut());
            let factors = FusedSpec::AddMatMul {
                a: AsInputValue::Borrowed(&*self.packed),
                b: AsInputValue::Borrowed(&*x),
                packing: self.packing,
            };
            let steps = [factors, FusedSpec::Store(store)];
            self.kernel.run(matrix.columns, rows, &steps).map_err(fault)?;
        }
        Ok(result)
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
    if out.len() != a.rows * b.columns {
        return Err(OpError::shape(format!(
            "[{}, {}] times [{}, {}] into {} elements",
            a.rows,
            a.columns,
            b.rows,
            b.columns,
            out.len()
        )));
    }
    // SAFETY: there is an element for every row and column.
    unsafe { product(a, b, accumulate, out.as_mut_ptr(), b.columns) }
}

/// [`matmul`] into rows that are `row_stride` elements apart.
///
/// # Errors
/// As [`matmul`].
///
/// # Safety
/// `out` has the elements of the product's rows, each at that distance from the one before.
unsafe fn product<T: Real>(
    a: Strided<'_, T>,
    b: Strided<'_, T>,
    accumulate: bool,
    out: *mut T,
    row_stride: usize,
) -> Result<(), OpError> {
    if a.columns != b.rows || !a.fits() || !b.fits() {
        return Err(OpError::shape(format!(
            "[{}, {}] times [{}, {}]",
            a.rows, a.columns, b.rows, b.columns
        )));
    }
    // SAFETY: extents and strides stay within the slices, as checked; those of `out` as the caller
    // vouches.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            row_stride as isize,
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
        let extents =
            [(1, 1, 1), (3, 17, 5), (64, 100, 33), (40, 384, 129), (9, 1300, 64), (1, 40, 80)];
        for (rows, depth, columns) in extents {
            let (x, w) = (values(rows * depth, 1), values(depth * columns, 2));
            let bias = values(columns, 3);
            let clamp = Clamp { low: -0.5, high: 2.0 };
            // Laid out row by row, and column by column.
            let matrix = Array::from_shape_vec(vec![depth, columns], w.clone()).unwrap();
            let transposed = matrix.t().as_standard_layout().into_owned().into_shared();
            let matrix = PackedMatrix::new(&matrix, &bias).unwrap();
            let turned = PackedMatrix::new(&transposed.reversed_axes(), &[]).unwrap();
            assert!(turned.with_bias(&values(columns + 1, 3)).is_none());
            let turned = turned.with_bias(&bias).unwrap();
            let product = matrix.product(&x, clamp).unwrap();
            assert_eq!(turned.product(&x, clamp).unwrap(), product);
            let columnwise: Vec<f32> =
                (0..columns * depth).map(|i| w[i % depth * columns + i / depth]).collect();
            let mut both = vec![0.0; rows * columns];
            matmul(
                Strided::row_major(&x, rows, depth),
                Strided::row_major(&columnwise, columns, depth).transposed(),
                false,
                &mut both,
            )
            .unwrap();
            for i in 0..rows * columns {
                let (r, c) = (i / columns, i % columns);
                let sum: f64 = (0..depth)
                    .map(|k| f64::from(x[r * depth + k]) * f64::from(w[k * columns + c]))
                    .sum();
                assert!((f64::from(both[i]) - sum).abs() < 1e-4 * (1.0 + sum.abs()));
                let sum = (sum + f64::from(bias[c])).clamp(-0.5, 2.0);
                assert!((f64::from(product[i]) - sum).abs() < 1e-4);
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(9).build().unwrap();
            let parts = pool.install(|| share::alone_from(1, || matrix.product(&x, clamp)));
            assert_eq!(parts.unwrap(), product);
        }
        let matrix = Array::from_shape_vec(vec![4, 6], values(24, 1)).unwrap();
        let matrix = PackedMatrix::new(&matrix, &[]).unwrap();
        assert!(matrix.product(&[0.0; 7], Clamp::NONE).is_err());
        assert!(matrix.product(&[], Clamp::NONE).unwrap().is_empty());
    }
}
