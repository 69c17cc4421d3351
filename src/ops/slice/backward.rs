//! The rules of operators that cut and join.

use super::{Bounds, Filling, Padding, plan, split_sizes};
use crate::error::OpError;
use crate::ops::args::{elements, floats};
use crate::ops::backward::{Backward, Gradients, zeros};
use crate::ops::layout::{around, axis, count, extent, walk};
use crate::ops::reduce::summed;
use crate::tensor::{Array, Element, Tensor};

/// Slice: the gradient goes to where its elements were read.
pub(super) fn slice(gradient: Tensor, shape: &[usize], bounds: &Bounds) -> Result<Tensor, OpError> {
    let cut = plan(shape, bounds)?;
    floats!(gradient, "a gradient", g => {
        let mut result = vec![0.0; count(shape)?];
        let mut source = elements(&g).into_owned().into_iter();
        walk(&cut.walk, cut.offset as isize, |at| {
            if let Some(g) = source.next() {
                result[at] = g;
            }
        });
        Tensor::from_vec::<T>(shape, result)
    })
}

/// Elements `start..start + size` along axis `at`.
fn section<T: Element>(array: &Array<T>, at: usize, start: usize, size: usize) -> Tensor {
    let mut part = array.clone();
    part.slice_axis_inplace(ndarray::Axis(at), ndarray::Slice::from(start..start + size));
    T::wrap(part.as_standard_layout().into_owned().into_shared())
}

/// Concat: every part gets its own piece.
pub(super) fn concat(pass: &mut Backward<'_>, at: i64) -> Gradients {
    floats!(pass.gradient(0)?, "a gradient", g => {
        let at = axis(at, g.ndim())?;
        let mut start = 0;
        let mut pieces = Vec::with_capacity(pass.inputs.len());
        for index in 0..pass.inputs.len() {
            let size = pass.shape(index)?[at];
            pieces.push(pass.wants(index).then(|| section::<T>(&g, at, start, size)));
            start += size;
        }
        Ok(pieces)
    })
}

/// Split: the pieces' gradients side by side, zeros where a piece has none.
pub(super) fn split(
    pass: &mut Backward<'_>,
    at: i64,
    attribute: Option<&Vec<i64>>,
    (parts, uneven): (usize, bool),
) -> Gradients {
    let shape = pass.shape(0)?.to_vec();
    let at = axis(at, shape.len())?;
    let given = if pass.has(1) { Some(pass.input(1)?) } else { None };
    let sizes = split_sizes(shape[at], attribute, given, (parts, uneven))?;
    let gradients = std::mem::take(&mut pass.gradients);
    let some = gradients.iter().flatten().next().cloned();
    let some = some.ok_or_else(|| OpError::value("no gradient of any part"))?;
    floats!(some, "a gradient", some => {
        drop(some);
        let (outer, n, inner) = around(&shape, at);
        let mut result: Array<T> = zeros(&shape);
        if let Some(result) = result.as_slice_mut() {
            let mut start = 0;
            for (size, gradient) in sizes.iter().zip(&gradients) {
                if let Some(gradient) = gradient {
                    let source = elements(gradient.typed::<T>("a gradient")?);
                    let length = size * inner;
                    for block in 0..outer {
                        let to = (block * n + start) * inner;
                        result[to..to + length]
                            .copy_from_slice(&source[block * length..][..length]);
                    }
                }
                start += size;
            }
        }
        Ok(vec![Some(Tensor::from(result))])
    })
}

/// Pad: along one axis after the other, what stands for an element adds to it.
pub(super) fn pad(
    gradient: Tensor,
    shape: &[usize],
    padding: &Padding,
    filling: Filling,
) -> Result<Tensor, OpError> {
    let rank = shape.len();
    let amounts = &padding.amounts;
    floats!(gradient, "a gradient", g => {
        let mut extents = g.shape().to_vec();
        let mut data = elements(&g).into_owned();
        for at in 0..rank {
            if amounts[at] == 0 && amounts[rank + at] == 0 {
                continue;
            }
            let (outer, padded, inner) = around(&extents, at);
            let n = shape[at];
            let mut folded = vec![0.0; count(&[outer, n, inner])?];
            for position in 0..padded {
                let from = filling.source(position as i64 - amounts[at], n as i64);
                let Some(from) = from else { continue };
                for block in 0..outer {
                    let target = &mut folded[(block * n + from) * inner..][..inner];
                    let source = &data[(block * padded + position) * inner..][..inner];
                    target.iter_mut().zip(source).for_each(|(t, g): (&mut T, &T)| *t += g);
                }
            }
            data = folded;
            extents[at] = n;
        }
        Tensor::from_vec(&extents, data)
    })
}

/// Tile: the copies' gradients added.
pub(super) fn tile(gradient: Tensor, shape: &[usize], repeats: &[i64]) -> Result<Tensor, OpError> {
    let mut split = Vec::with_capacity(2 * shape.len());
    for (&n, &times) in shape.iter().zip(repeats) {
        split.extend([extent(times)?, n]);
    }
    let copies: Vec<usize> = (0..shape.len()).map(|i| 2 * i).collect();
    floats!(gradient.reshape(&split)?, "a gradient", g => {
        Tensor::from_vec(shape, summed(g, &copies)?)
    })
}
