//! Operators that read or change the shape and leave the elements alone.

use super::Decoding;
use super::args::{Decoded, Inputs, many, one, peek, peek_optional, take};
use super::backward::{Reads, flat, single, unbroadcast};
use super::layout::{axes, axis_or_end, broadcast, count, extent};
use super::logic::expanded;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};
use crate::with_array;

fn as_i64(values: &[usize]) -> Result<Tensor, OpError> {
    Tensor::from_vec(&[values.len()], values.iter().map(|&v| v as i64).collect())
}

pub(super) fn shape(d: &Decoding<'_>) -> Decoded {
    let start = d.node.int("start").unwrap_or(0);
    let end = d.node.int("end");
    flat(one(move |inputs| {
        let shape = peek(inputs, 0)?.shape();
        let rank = shape.len() as i64;
        let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank);
        let (start, end) = (clamp(start) as usize, clamp(end.unwrap_or(rank)) as usize);
        as_i64(shape.get(start..end).unwrap_or(&[]))
    }))
}

pub(super) fn size(_: &Decoding<'_>) -> Decoded {
    flat(one(|inputs| Ok(Tensor::scalar(peek(inputs, 0)?.len() as i64))))
}

pub(super) fn identity(_: &Decoding<'_>) -> Decoded {
    let run = one(|inputs| take(inputs, 0));
    single(run, Reads::NOTHING, |pass, gradient| gradient.reshape(pass.shape(0)?))
}

pub(super) fn reshape(d: &Decoding<'_>) -> Decoded {
    let allow_zero = d.node.int("allowzero").unwrap_or(0) != 0;
    let run = one(move |inputs| {
        let wanted = peek(inputs, 1)?.to_i64_vec("a shape")?;
        let tensor = take(inputs, 0)?;
        let mut shape = Vec::with_capacity(wanted.len());
        let mut open = None;
        for (i, &value) in wanted.iter().enumerate() {
            shape.push(match value {
                -1 if open.replace(i).is_none() => 1,
                0 if !allow_zero => *tensor.shape().get(i).ok_or_else(|| {
                    OpError::shape(format!("{wanted:?} copies an axis that isn't there"))
                })?,
                _ => extent(value)?,
            });
        }
        if let Some(open) = open {
            let known = count(&shape)?;
            if known == 0 || !tensor.len().is_multiple_of(known) {
                let from = tensor.shape();
                return Err(OpError::shape(format!("can't reshape {from:?} to {wanted:?}")));
            }
            shape[open] = tensor.len() / known;
        }
        tensor.reshape(&shape)
    });
    single(run, Reads::NOTHING, |pass, gradient| gradient.reshape(pass.shape(0)?))
}

pub(super) fn flatten(d: &Decoding<'_>) -> Decoded {
    let axis = d.node.int("axis").unwrap_or(1);
    let run = one(move |inputs| {
        let tensor = take(inputs, 0)?;
        let at = axis_or_end(axis, tensor.rank())?;
        let (rows, columns) = tensor.shape().split_at(at);
        let shape = [count(rows)?, count(columns)?];
        tensor.reshape(&shape)
    });
    single(run, Reads::NOTHING, |pass, gradient| gradient.reshape(pass.shape(0)?))
}

/// Axes from an attribute before opset 13, from input 1 since.
pub(super) fn axes_of(
    inputs: &Inputs,
    attribute: Option<&Vec<i64>>,
) -> Result<Option<Vec<i64>>, OpError> {
    match (attribute, peek_optional(inputs, 1)) {
        (Some(axes), _) => Ok(Some(axes.clone())),
        (None, Some(tensor)) => tensor.to_i64_vec("axes").map(Some),
        (None, None) => Ok(None),
    }
}

pub(super) fn squeeze(d: &Decoding<'_>) -> Decoded {
    let attribute = d.node.ints("axes").map(<[i64]>::to_vec);
    let run = one(move |inputs| {
        let given = axes_of(inputs, attribute.as_ref())?;
        let tensor = take(inputs, 0)?;
        let shape = tensor.shape().to_vec();
        let dropped = match given {
            Some(given) => axes(&given, shape.len())?,
            None => (0..shape.len()).filter(|i| shape[*i] == 1).collect(),
        };
        if let Some(i) = dropped.iter().find(|i| shape[**i] != 1) {
            return Err(OpError::shape(format!("axis {i} of {shape:?} is not 1")));
        }
        let kept: Vec<_> =
            (0..shape.len()).filter(|i| !dropped.contains(i)).map(|i| shape[i]).collect();
        tensor.reshape(&kept)
    });
    single(run, Reads::NOTHING, |pass, gradient| gradient.reshape(pass.shape(0)?))
}

pub(super) fn unsqueeze(d: &Decoding<'_>) -> Decoded {
    let attribute = d.node.ints("axes").map(<[i64]>::to_vec);
    let run = one(move |inputs| {
        let given =
            axes_of(inputs, attribute.as_ref())?.ok_or(OpError::MissingInput { index: 1 })?;
        let tensor = take(inputs, 0)?;
        let mut shape = tensor.shape().to_vec();
        let rank = shape.len() + given.len();
        for axis in axes(&given, rank)? {
            shape.insert(axis, 1);
        }
        tensor.reshape(&shape)
    });
    single(run, Reads::NOTHING, |pass, gradient| gradient.reshape(pass.shape(0)?))
}

pub(super) fn expand(_: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(array: &Array<T>, shape: &[usize]) -> Result<Tensor, OpError> {
        Tensor::from_vec(shape, expanded(array, shape)?)
    }
    let run = one(|inputs| {
        let wanted = peek(inputs, 1)?.to_i64_vec("a shape")?;
        let wanted = wanted.into_iter().map(extent).collect::<Result<Vec<_>, _>>()?;
        let tensor = take(inputs, 0)?;
        let shape = broadcast(tensor.shape(), &wanted)?;
        if shape == tensor.shape() {
            return Ok(tensor);
        }
        with_array!(&tensor, a => go(a, &shape))
    });
    single(run, Reads::NOTHING, |pass, gradient| unbroadcast(gradient, pass.shape(0)?))
}

/// Dropout outside training: the identity, with a mask that drops nothing.
pub(super) fn dropout(d: &Decoding<'_>) -> Decoded {
    let masked = d.node.output.len() > 1;
    let run = many(move |inputs| {
        if let Some(training) = peek_optional(inputs, 2)
            && training.typed::<bool>("a training flag")?.iter().any(|t| *t)
        {
            return Err(OpError::unsupported("Dropout in training mode"));
        }
        let tensor = take(inputs, 0)?;
        let mask = masked
            .then(|| Tensor::from_vec(tensor.shape(), vec![true; tensor.len()]))
            .transpose()?;
        Ok(std::iter::once(tensor).chain(mask).collect())
    });
    single(run, Reads::NOTHING, |pass, gradient| gradient.reshape(pass.shape(0)?))
}
