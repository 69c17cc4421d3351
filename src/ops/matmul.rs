//! Matrix products: Gemm and MatMul.

mod backward;

use std::sync::Arc;

use ndarray::{ArrayD, IxDyn};

use crate::error::OpError;
use crate::kernels::matmul::{PackedMatrix, Strided, matmul};
use crate::kernels::{Real, share};
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};

use super::args::{elements, floats, peek, peek_optional};
use super::layout::count;
use super::{Backward, Decoding, Derivative, Epilogue, Gradients, Operator, Reads};

/// `x * constant matrix + bias` over the last axis of `x`.
struct Projection {
    /// The node's matrix and bias.
    plain: Arc<PackedMatrix>,
    /// The same with the epilogue's bias.
    matrix: Arc<PackedMatrix>,
    /// The node where it is a Gemm, whose `x` must be a matrix.
    gemm: Option<Gemm>,
    epilogue: Epilogue,
}

impl Projection {
    fn new(matrix: PackedMatrix, gemm: Option<Gemm>) -> Self {
        let plain = Arc::new(matrix);
        Self { matrix: Arc::clone(&plain), plain, gemm, epilogue: Epilogue::NONE }
    }
}

impl Operator for Projection {
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        let x =
            inputs.first_mut().and_then(Option::take).ok_or(OpError::MissingInput { index: 0 })?;
        let x = x.into_typed::<f32>("a factor of a matrix product")?;
        let depth = self.matrix.depth();
        if x.shape().last() != Some(&depth) || (self.gemm.is_some() && x.ndim() != 2) {
            return Err(OpError::shape(format!("{:?} times a matrix of {depth} rows", x.shape())));
        }
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.matrix.columns();
        }
        let x = x.as_standard_layout();
        let x = x.as_slice().unwrap_or(&[]);
        count(&shape)?;
        Ok(vec![Tensor::from_vec(&shape, self.matrix.product(x, self.epilogue.clamp)?)?])
    }

    fn derivative(&self, wanted: &[bool]) -> Derivative {
        match self.epilogue == Epilogue::NONE {
            true => Derivative::Rule(reads(wanted)),
            false => Derivative::Unknown,
        }
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Gradients {
        match &self.gemm {
            Some(gemm) => gemm.backward(pass),
            None => MatMul.backward(pass),
        }
    }

    fn with_epilogue(&self, epilogue: &Epilogue) -> Option<Box<dyn Operator>> {
        if epilogue.residual {
            return None;
        }
        let plain = Arc::clone(&self.plain);
        let matrix = match &epilogue.bias {
            Some(bias) => Arc::new(plain.with_bias(bias)?),
            None => Arc::clone(&plain),
        };
        Some(Box::new(Self { plain, matrix, gemm: self.gemm, epilogue: epilogue.clone() }))
    }
}

/// A factor is read for the other's gradient.
fn reads(wanted: &[bool]) -> Reads {
    let wants = |i: usize| wanted.get(i).copied().unwrap_or(false);
    Reads::NOTHING.with_input(0, wants(1)).with_input(1, wants(0))
}

/// `alpha * A' * B' + beta * C` with nothing known beforehand.
#[derive(Clone, Copy)]
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
            return Ok(Box::new(Projection::new(matrix, Some(gemm))));
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
    let matrix = if transposed { weight.clone().reversed_axes() } else { weight.clone() };
    let matrix = if alpha == 1.0 { matrix } else { matrix.mapv(|v| alpha * v).into_shared() };
    PackedMatrix::new(&matrix, bias)
}

impl Gemm {
    fn product<T: Real + Element>(
        &self,
        a: &Array<T>,
        b: &Tensor,
        c: Option<&Tensor>,
    ) -> Result<Tensor, OpError> {
        let b = b.typed::<T>("a factor")?;
        if a.ndim() != 2 || b.ndim() != 2 {
            return Err(OpError::shape(format!("{:?} times {:?}", a.shape(), b.shape())));
        }
        let (a_elements, b_elements) = (elements(a), elements(b));
        let a = matrix(&a_elements, a.shape(), self.transpose[0]);
        let b = matrix(&b_elements, b.shape(), self.transpose[1]);
        let mut out = vec![T::default(); count(&[a.rows, b.columns])?];
        matmul(a, b, false, &mut out)?;
        if self.alpha != 1.0 {
            out.iter_mut().for_each(|v| *v = *v * T::from(self.alpha));
        }
        let shape = [a.rows, b.columns];
        if let Some(c) = c {
            let c = c.typed::<T>("a bias")?;
            let c = c.broadcast(IxDyn(&shape)).ok_or_else(|| {
                OpError::shape(format!("C of {:?} for a product of {shape:?}", c.shape()))
            })?;
            out.iter_mut().zip(c.iter()).for_each(|(v, &c)| *v += T::from(self.beta) * c);
        }
        Tensor::from_vec(&shape, out)
    }
}

/// A matrix in row-major order, as it stands or transposed.
fn matrix<'a, T>(elements: &'a [T], shape: &[usize], transposed: bool) -> Strided<'a, T> {
    let matrix = Strided::row_major(elements, shape[0], shape[1]);
    if transposed { matrix.transposed() } else { matrix }
}

impl Operator for Gemm {
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        let (b, c) = (peek(inputs, 1)?, peek_optional(inputs, 2));
        let product = floats!(peek(inputs, 0)?, "a factor", a => self.product::<T>(a, b, c))?;
        Ok(vec![product])
    }

    fn derivative(&self, wanted: &[bool]) -> Derivative {
        Derivative::Rule(reads(wanted))
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Gradients {
        backward::gemm(pass, self)
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
        return Ok(Box::new(Projection::new(pack(weight, false, 1.0, &[])?, None)));
    }
    Ok(Box::new(MatMul))
}

/// How two operands are multiplied, item by item of the batch.
struct Plan {
    /// For every item of the batch, which of the first operand's matrices it is, and of the second's.
    items: [Vec<usize>; 2],
    rows: usize,
    depth: usize,
    columns: usize,
    /// Of the result.
    shape: Vec<usize>,
}

impl Plan {
    fn new(a: &[usize], b: &[usize]) -> Result<Self, OpError> {
        let mismatch = || OpError::shape(format!("{a:?} times {b:?}"));
        if a.is_empty() || b.is_empty() {
            return Err(mismatch());
        }
        let vectors = [a.len() == 1, b.len() == 1];
        let (mut a_shape, mut b_shape) = (a.to_vec(), b.to_vec());
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
        for batch in [a_batch, &batch, b_batch] {
            count(batch)?;
        }
        let items = [items(a_batch, &batch), items(b_batch, &batch)];
        let (rows, depth, columns) = (a_matrix[0], a_matrix[1], b_matrix[1]);
        let mut shape = batch;
        if !vectors[0] {
            shape.push(rows);
        }
        if !vectors[1] {
            shape.push(columns);
        }
        let mut plan = Self { items, rows, depth, columns, shape };
        plan.flatten(b_batch.iter().product());
        Ok(plan)
    }

    /// One matrix times a batch whose items lie one after the other is a single product.
    fn flatten(&mut self, matrices: usize) {
        let count = self.items[0].len();
        if matrices == 1 && count > 1 && self.items[0].iter().copied().eq(0..count) {
            self.rows *= count;
            self.items = [vec![0], vec![0]];
        }
    }

    fn product<T: Real + Element>(&self, a: &Array<T>, b: &Tensor) -> Result<Tensor, OpError> {
        let (rows, depth, columns) = (self.rows, self.depth, self.columns);
        let (a, b) = (elements(a), elements(b.typed::<T>("a factor")?));
        let mut out = vec![T::default(); count(&[self.items[0].len(), rows, columns])?];
        if rows * columns > 0 && depth > 0 {
            let item = |i: usize, out: &mut [T]| {
                let a = &a[self.items[0][i] * rows * depth..][..rows * depth];
                let b = &b[self.items[1][i] * depth * columns..][..depth * columns];
                let a = Strided::row_major(a, rows, depth);
                matmul(a, Strided::row_major(b, depth, columns), false, out)
            };
            let count = self.items[0].len();
            let together = count.div_ceil(share::parts(out.len().saturating_mul(depth)));
            let parts = out.chunks_mut(together * rows * columns).enumerate().collect();
            let done = share::each(parts, |(part, out)| {
                let mut items = out.chunks_exact_mut(rows * columns).enumerate();
                items.try_for_each(|(i, out)| item(part * together + i, out))
            });
            done.into_iter().collect::<Result<(), _>>()?;
        }
        Tensor::from_vec(&self.shape, out)
    }
}

impl Operator for MatMul {
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (peek(inputs, 0)?, peek(inputs, 1)?);
        let plan = Plan::new(a.shape(), b.shape())?;
        Ok(vec![floats!(a, "a factor", a => plan.product::<T>(a, b))?])
    }

    fn derivative(&self, wanted: &[bool]) -> Derivative {
        Derivative::Rule(reads(wanted))
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Gradients {
        backward::matmul(pass)
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
