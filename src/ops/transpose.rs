//! Operators that permute elements: Transpose, DepthToSpace, SpaceToDepth.

use super::Decoding;
use super::args::{Decoded, elements, one, take};
use super::backward::{Reads, single};
use super::layout::{axes, copy_strided, extent, strides};
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};
use crate::with_array;

/// The axes of `array` in the order `order`, laid out densely.
pub(super) fn permuted<T: Element>(array: &Array<T>, order: &[usize]) -> Result<Tensor, OpError> {
    let steps = strides(array.shape());
    let axes: Vec<_> = order.iter().map(|&i| (array.shape()[i], steps[i] as isize)).collect();
    let shape: Vec<_> = axes.iter().map(|a| a.0).collect();
    Tensor::from_vec(&shape, copy_strided(&elements(array), 0, &axes)?)
}

/// The permutation of `rank` axes that `order` names: by default all of them reversed.
fn permutation(order: Option<&Vec<i64>>, rank: usize) -> Result<Vec<usize>, OpError> {
    let Some(order) = order else { return Ok((0..rank).rev().collect()) };
    if axes(order, rank)?.len() != rank {
        return Err(OpError::shape(format!("{order:?} doesn't permute rank {rank}")));
    }
    order.iter().map(|&i| super::layout::axis(i, rank)).collect()
}

fn transposed(tensor: Tensor, order: &[usize]) -> Result<Tensor, OpError> {
    let shape = tensor.shape();
    let moved: Vec<_> = order.iter().copied().filter(|i| shape[*i] != 1).collect();
    if moved.is_sorted() {
        // Only axes of extent 1 move: the elements stay where they are.
        let shape: Vec<_> = order.iter().map(|&i| shape[i]).collect();
        return tensor.reshape(&shape);
    }
    with_array!(&tensor, a => permuted(a, order))
}

/// The permutation that undoes `order`.
fn inverse(order: &[usize]) -> Vec<usize> {
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
    back
}

pub(super) fn transpose(d: &Decoding<'_>) -> Decoded {
    let order = d.node.ints("perm").map(<[i64]>::to_vec);
    let same = order.clone();
    let run = one(move |inputs| {
        let tensor = take(inputs, 0)?;
        let order = permutation(order.as_ref(), tensor.rank())?;
        transposed(tensor, &order)
    });
    single(run, Reads::NOTHING, move |_, gradient| {
        let order = permutation(same.as_ref(), gradient.rank())?;
        transposed(gradient, &inverse(&order))
    })
}

/// Reads `[n, c, h, w]`, as `shape` with more axes, in the order `order`, and joins axes to `out`.
fn rearranged(
    tensor: Tensor,
    shape: &[usize],
    order: &[usize],
    out: &[usize],
) -> Result<Tensor, OpError> {
    let tensor = tensor.reshape(shape)?;
    with_array!(&tensor, a => permuted(a, order))?.reshape(out)
}

fn block_size(d: &Decoding<'_>) -> Result<usize, OpError> {
    let size = extent(d.node.int("blocksize").unwrap_or(0))?;
    if size == 0 {
        return Err(OpError::Attribute { name: "blocksize", reason: "must be positive".into() });
    }
    Ok(size)
}

fn image(tensor: &Tensor) -> Result<[usize; 4], OpError> {
    <[usize; 4]>::try_from(tensor.shape())
        .map_err(|_| OpError::shape(format!("{:?} is not [n, c, h, w]", tensor.shape())))
}

/// Whether the block's position comes before the channel within the depth (`DCR`).
fn depth_first(d: &Decoding<'_>) -> Result<bool, OpError> {
    match d.node.string("mode").unwrap_or("DCR") {
        "DCR" => Ok(true),
        "CRD" => Ok(false),
        other => Err(OpError::unsupported(format!("{} mode `{other}`", d.node.op_type()))),
    }
}

/// Moves depth into blocks of `b` x `b` pixels.
fn to_space(tensor: Tensor, b: usize, depth_first: bool) -> Result<Tensor, OpError> {
    let [n, c, h, w] = image(&tensor)?;
    let square = b
        .checked_mul(b)
        .filter(|s| c.is_multiple_of(*s))
        .ok_or_else(|| OpError::shape(format!("{c} channels can't be split into blocks of {b}")))?;
    let depth = c / square;
    let out = [n, depth, h * b, w * b];
    if depth_first {
        rearranged(tensor, &[n, b, b, depth, h, w], &[0, 3, 4, 1, 5, 2], &out)
    } else {
        rearranged(tensor, &[n, depth, b, b, h, w], &[0, 1, 4, 2, 5, 3], &out)
    }
}

/// Moves blocks of `b` x `b` pixels into the depth.
fn to_depth(tensor: Tensor, b: usize, depth_first: bool) -> Result<Tensor, OpError> {
    let [n, c, h, w] = image(&tensor)?;
    if !h.is_multiple_of(b) || !w.is_multiple_of(b) {
        return Err(OpError::shape(format!("{h} x {w} can't be split into blocks of {b}")));
    }
    let (rows, columns) = (h / b, w / b);
    let order = if depth_first { [0, 3, 5, 1, 2, 4] } else { [0, 1, 3, 5, 2, 4] };
    let out = [n, c * b * b, rows, columns];
    rearranged(tensor, &[n, c, rows, b, columns, b], &order, &out)
}

pub(super) fn depth_to_space(d: &Decoding<'_>) -> Decoded {
    let (b, depth_first) = (block_size(d)?, depth_first(d)?);
    let run = one(move |inputs| to_space(take(inputs, 0)?, b, depth_first));
    single(run, Reads::NOTHING, move |_, gradient| to_depth(gradient, b, depth_first))
}

pub(super) fn space_to_depth(d: &Decoding<'_>) -> Decoded {
    let (b, depth_first) = (block_size(d)?, depth_first(d)?);
    let run = one(move |inputs| to_depth(take(inputs, 0)?, b, depth_first));
    single(run, Reads::NOTHING, move |_, gradient| to_space(gradient, b, depth_first))
}
