//! Matrix products: Gemm and MatMul.

use std::sync::Arc;

use ndarray::{ArrayD, IxDyn};

use crate::error::OpError;
use crate::kernels::matmul::{PackedMatrix, Strided, matmul};
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Tensor};

use super::{Decoding, Epilogue, Operator};

/// `x * constant matrix + bias` over the last axis of `x`.
struct Projection {
    matrix: Arc<PackedMatrix>,
    /// Whether `x` must be a matrix, as for Gemm.
    flat: bool,
    epilogue: Epilogue,
}

impl Operator for Projection {
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        let x =
            inputs.first_mut().and_then(Option::take).ok_or(OpError::MissingInput { index: 0 })?;
        let x = x.into_typed::<f32>("a factor of a matrix product")?;
        let depth = self.matrix.depth();
        if x.shape().last() != Some(&depth) || (self.flat && x.ndim() != 2) {
            return Err(OpError::shape(format!("{:?} times a matrix of {depth} rows", x.shape())));
        }
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.matrix.columns();
        }
        let x = x.as_standard_layout();
        let x = x.as_slice().unwrap_or(&[]);
        let mut out = Vec::with_capacity(shape.iter().product());
        self.matrix.product(x, self.epilogue.clamp, &mut out)?;
        Ok(vec![Tensor::from_vec(&shape, out)?])
    }

    fn with_epilogue(&self, epilogue: Epilogue) -> Option<Box<dyn Operator>> {
        (!epilogue.residual).then(|| {
            let matrix = Arc::clone(&self.matrix);
            Box::new(Self { matrix, flat: self.flat, epilogue }) as Box<dyn Operator>
        })
    }
}

/// `alpha * A' * B' + beta * C` with nothing known beforehand.
struct Gemm {
    transpose: [bool; 2],
    alpha: f32,
    beta: f32,
}

pub(super) fn decode_gemm(decoding: &Decoding<'_>) -> Result<Box<dyn Operator>, OpError> {
    let node = decoding.node;
    let gemm = Gemm {
        transpose: [node.int("transA") == Some(1), node.int("transB") == Some(1)],
        alpha: node.float("alpha").unwrap_or(1.0),
        beta: node.float("beta").unwrap_or(1.0),
    };
    let constant = |i: usize| decoding.constants.get(i).and_then(Option::as_ref);
    let has_bias = node.input.get(2).is_some_and(|name| !name.is_empty());
    if let (false, Some(weight)) = (gemm.transpose[0], constant(1))
        && let Ok(weight) = weight.f32("a weight")
        && weight.ndim() == 2
    {
        let columns = weight.shape()[usize::from(!gemm.transpose[1])];
        let bias = match constant(2) {
            Some(c) if has_bias => column_bias(c, columns, gemm.beta)?,
            _ => (!has_bias).then(Vec::new),
        };
        if let Some(bias) = bias {
            let matrix = pack(weight, gemm.transpose[1], gemm.alpha, &bias)?;
            return Ok(Box::new(Projection {
                matrix: Arc::new(matrix),
                flat: true,
                epilogue: Epilogue::NONE,
            }));
        }
    }
    Ok(Box::new(gemm))
}

/// `beta * c` as one number per column, where `c` is the same in every row.
fn column_bias(c: &Tensor, columns: usize, beta: f32) -> Result<Option<Vec<f32>>, OpError> {
    let c = c.f32("a bias")?;
    let per_row = c.shape().len() < 2 || c.shape()[..c.ndim() - 1].iter().all(|&d| d == 1);
    if !per_row || !(c.len() == 1 || c.len() == columns) {
        return Ok(None);
    }
    Ok(Some((0..columns).zip(c.iter().cycle()).map(|(_, &v)| beta * v).collect()))
}

/// Lays out a matrix `[depth, columns]`, or `[columns, depth]` where `transposed`.
fn pack(
    weight: &Array<f32>,
    transposed: bool,
    alpha: f32,
    bias: &[f32],
) -> Result<PackedMatrix, OpError> {
    let view = if transposed { weight.view() } else { weight.t() };
    let elements: Vec<f32> = view.iter().map(|&v| alpha * v).collect();
    PackedMatrix::new(&elements, bias, view.shape()[1], view.shape()[0])
}

impl Operator for Gemm {
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        let get = |i: usize| {
            inputs.get(i).and_then(Option::as_ref).ok_or(OpError::MissingInput { index: i })
        };
        let (a, b) = (get(0)?.f32("a factor")?, get(1)?.f32("a factor")?);
        if a.ndim() != 2 || b.ndim() != 2 {
            return Err(OpError::shape(format!("{:?} times {:?}", a.shape(), b.shape())));
        }
        let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
        let [a, b] = [(&a, self.transpose[0]), (&b, self.transpose[1])].map(|(x, transposed)| {
            let elements = x.as_slice().unwrap_or(&[]);
            let matrix = Strided::row_major(elements, x.shape()[0], x.shape()[1]);
            if transposed { matrix.transposed() } else { matrix }
        });
        let mut out = vec![0.0; a.rows * b.columns];
        matmul(a, b, false, &mut out)?;
        if self.alpha != 1.0 {
            out.iter_mut().for_each(|v| *v *= self.alpha);
        }
        let shape = [a.rows, b.columns];
        if let Ok(c) = get(2) {
            let c = c.f32("a bias")?;
            let c = c.broadcast(IxDyn(&shape)).ok_or_else(|| {
                OpError::shape(format!("C of {:?} for a product of {shape:?}", c.shape()))
            })?;
            out.iter_mut().zip(c.iter()).for_each(|(v, c)| *v += self.beta * c);
        }
        Ok(vec![Tensor::from_vec(&shape, out)?])
    }
}

/// NumPy's matrix product: batch axes broadcast, one-dimensional operands are vectors.
struct MatMul;

pub(super) fn decode_matmul(decoding: &Decoding<'_>) -> Result<Box<dyn Operator>, OpError> {
    if let Some(weight) = decoding.constants.get(1).and_then(Option::as_ref)
        && let Ok(weight) = weight.f32("a weight")
        && weight.ndim() == 2
        && !weight.is_empty()
    {
        let matrix = Arc::new(pack(weight, false, 1.0, &[])?);
        return Ok(Box::new(Projection { matrix, flat: false, epilogue: Epilogue::NONE }));
    }
    Ok(Box::new(MatMul))
}

impl Operator for MatMul {
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        let get = |i: usize| {
            inputs.get(i).and_then(Option::as_ref).ok_or(OpError::MissingInput { index: i })
        };
        let (a, b) = (get(0)?.f32("a factor")?, get(1)?.f32("a factor")?);
        let mismatch = || OpError::shape(format!("{:?} times {:?}", a.shape(), b.shape()));
        if a.ndim() == 0 || b.ndim() == 0 {
            return Err(mismatch());
        }
        let (mut a_shape, mut b_shape) = (a.shape().to_vec(), b.shape().to_vec());
        let vectors = [a_shape.len() == 1, b_shape.len() == 1];
        if vectors[0] {
            a_shape.insert(0, 1);
        }
        if vectors[1] {
            b_shape.push(1);
        }
        let (a_batch, a_matrix) = a_shape.split_at(a_shape.len() - 2);
        let (b_batch, b_matrix) = b_shape.split_at(b_shape.len() - 2);
        if a_matrix[1] != b_matrix[0] {
            return Err(mismatch());
        }
        let batch = broadcast(a_batch, b_batch).ok_or_else(mismatch)?;
        let count: usize = batch.iter().product();
        let (a_items, b_items) = (items(a_batch, &batch), items(b_batch, &batch));
        let (rows, depth, columns) = (a_matrix[0], a_matrix[1], b_matrix[1]);
        let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
        let (a, b) = (a.as_slice().unwrap_or(&[]), b.as_slice().unwrap_or(&[]));
        let mut out = vec![0.0; count * rows * columns];
        if rows * columns > 0 && depth > 0 {
            for (i, out) in out.chunks_exact_mut(rows * columns).enumerate() {
                let a = &a[a_items[i] * rows * depth..][..rows * depth];
                let b = &b[b_items[i] * depth * columns..][..depth * columns];
                let a = Strided::row_major(a, rows, depth);
                matmul(a, Strided::row_major(b, depth, columns), false, out)?;
            }
        }
        let mut shape = batch;
        if !vectors[0] {
            shape.push(rows);
        }
        if !vectors[1] {
            shape.push(columns);
        }
        Ok(vec![Tensor::from_vec(&shape, out)?])
    }
}

/// The shape two batches broadcast to.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis])
    };
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (x, y) if x == y || y == 1 => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect()
}

/// For every item of the broadcast batch, which item of `own` it is.
fn items(own: &[usize], batch: &[usize]) -> Vec<usize> {
    let count: usize = own.iter().product();
    let numbers = ArrayD::from_shape_vec(IxDyn(own), (0..count).collect());
    numbers
        .ok()
        .and_then(|n| n.broadcast(IxDyn(batch)).map(|n| n.iter().copied().collect()))
        .unwrap_or_default()
}
