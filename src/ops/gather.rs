//! Reading and writing at given indices.

use super::Decoding;
use super::args::{Decoded, bad_type, elements, numbers, one, peek, take, update};
use super::layout::{around, axis, count, strides};
use super::number::Number;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};
use crate::with_array;

/// `value` as an index into `extent` elements, counted from the back where negative.
fn index(value: i64, extent: usize) -> Result<usize, OpError> {
    let from_front = if value < 0 { value.saturating_add(extent as i64) } else { value };
    usize::try_from(from_front)
        .ok()
        .filter(|i| *i < extent)
        .ok_or_else(|| OpError::value(format!("index {value} is not within {extent}")))
}

pub(super) fn gather(d: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(data: &Array<T>, indices: &Tensor, at: i64) -> Result<Tensor, OpError> {
        let at = axis(at, data.ndim())?;
        let (outer, n, inner) = around(data.shape(), at);
        let list = indices
            .to_i64_vec("an index")?
            .into_iter()
            .map(|i| index(i, n))
            .collect::<Result<Vec<_>, _>>()?;
        let mut shape = data.shape().to_vec();
        shape.splice(at..=at, indices.shape().iter().copied());
        let mut result = Vec::with_capacity(count(&shape)?);
        let source = elements(data);
        for block in 0..outer {
            for i in &list {
                let start = (block * n + i) * inner;
                result.extend_from_slice(&source[start..start + inner]);
            }
        }
        Tensor::from_vec(&shape, result)
    }
    let at = d.node.int("axis").unwrap_or(0);
    one(move |inputs| with_array!(peek(inputs, 0)?, a => go(a, peek(inputs, 1)?, at)))
}

/// For each element of an index tensor of shape `shape`, its offset in data with strides `steps`
/// when the coordinate along `at` is replaced by the index.
fn element_offsets(data: &[usize], indices: &Tensor, at: usize) -> Result<Vec<usize>, OpError> {
    let shape = indices.shape();
    if shape.len() != data.len()
        || shape.iter().zip(data).enumerate().any(|(i, (s, d))| i != at && s > d)
    {
        return Err(OpError::shape(format!("indices {shape:?} don't fit data {data:?}")));
    }
    let steps = strides(data);
    let mut coordinates = vec![0usize; shape.len()];
    let mut offsets = Vec::with_capacity(indices.len());
    for value in indices.to_i64_vec("an index")? {
        let base: usize = coordinates
            .iter()
            .zip(&steps)
            .enumerate()
            .filter(|(i, _)| *i != at)
            .map(|(_, (c, s))| c * s)
            .sum();
        offsets.push(base + index(value, data[at])? * steps[at]);
        for (c, &extent) in coordinates.iter_mut().zip(shape).rev() {
            *c += 1;
            if *c < extent {
                break;
            }
            *c = 0;
        }
    }
    Ok(offsets)
}

pub(super) fn gather_elements(d: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(data: &Array<T>, indices: &Tensor, at: i64) -> Result<Tensor, OpError> {
        let at = axis(at, data.ndim())?;
        let source = elements(data);
        let offsets = element_offsets(data.shape(), indices, at)?;
        Tensor::from_vec(indices.shape(), offsets.into_iter().map(|o| source[o]).collect())
    }
    let at = d.node.int("axis").unwrap_or(0);
    one(move |inputs| with_array!(peek(inputs, 0)?, a => go(a, peek(inputs, 1)?, at)))
}

pub(super) fn gather_nd(d: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(data: &Array<T>, indices: &Tensor, batch: usize) -> Result<Tensor, OpError> {
        let (from, at) = (data.shape(), indices.shape());
        let fault = || OpError::shape(format!("indices {at:?} don't fit data {from:?}"));
        let (&depth, lead) = at.split_last().ok_or_else(fault)?;
        if batch > lead.len() || batch + depth > from.len() || from[..batch] != at[..batch] {
            return Err(fault());
        }
        let batches = count(&from[..batch])?;
        let per_batch = count(&lead[batch..])?;
        let steps = strides(from);
        let inner = count(&from[batch + depth..])?;
        let batch_step = count(&from[batch..])?;
        let shape: Vec<_> = lead.iter().chain(&from[batch + depth..]).copied().collect();
        let mut result = Vec::with_capacity(count(&shape)?);
        let (source, list) = (elements(data), indices.to_i64_vec("an index")?);
        for row in 0..batches * per_batch {
            let mut offset = row / per_batch * batch_step;
            for k in 0..depth {
                offset += index(list[row * depth + k], from[batch + k])? * steps[batch + k];
            }
            result.extend_from_slice(&source[offset..offset + inner]);
        }
        Tensor::from_vec(&shape, result)
    }
    let batch = super::layout::extent(d.node.int("batch_dims").unwrap_or(0))?;
    one(move |inputs| with_array!(peek(inputs, 0)?, a => go(a, peek(inputs, 1)?, batch)))
}

/// What a scattered value does to the element it meets.
#[derive(Clone, Copy)]
enum Reduction {
    None,
    Add,
    Mul,
    Max,
    Min,
}

impl Reduction {
    fn of(d: &Decoding<'_>) -> Result<Self, OpError> {
        Ok(match d.node.string("reduction").unwrap_or("none") {
            "none" => Self::None,
            "add" => Self::Add,
            "mul" => Self::Mul,
            "max" => Self::Max,
            "min" => Self::Min,
            other => return Err(OpError::unsupported(format!("reduction `{other}`"))),
        })
    }

    fn apply<T: Number>(self, old: T, new: T) -> T {
        match self {
            Self::None => new,
            Self::Add => old.plus(new),
            Self::Mul => old.times(new),
            Self::Max => old.greater(new),
            Self::Min => old.lesser(new),
        }
    }
}

pub(super) fn scatter_nd(d: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(
        data: Array<T>,
        indices: &Tensor,
        updates: &Tensor,
        reduction: Reduction,
    ) -> Result<Tensor, OpError> {
        let (from, at) = (data.shape().to_vec(), indices.shape());
        let fault = || OpError::shape(format!("indices {at:?} don't fit data {from:?}"));
        let (&depth, lead) = at.split_last().filter(|l| *l.0 <= from.len()).ok_or_else(fault)?;
        let expected: Vec<_> = lead.iter().chain(&from[depth..]).copied().collect();
        let updates = updates.typed::<T>("updates")?;
        if updates.shape() != expected.as_slice() {
            let shape = updates.shape();
            return Err(OpError::shape(format!("updates are {shape:?}, not {expected:?}")));
        }
        let (steps, inner) = (strides(&from), count(&from[depth..])?);
        let list = indices.to_i64_vec("an index")?;
        let mut offsets = Vec::with_capacity(count(lead)?);
        for row in 0..count(lead)? {
            let mut offset = 0;
            for k in 0..depth {
                offset += index(list[row * depth + k], from[k])? * steps[k];
            }
            offsets.push(offset);
        }
        let updates = elements(updates);
        Ok(T::wrap(update(data, |target| {
            for (row, offset) in offsets.into_iter().enumerate() {
                let new = &updates[row * inner..(row + 1) * inner];
                for (old, &new) in target[offset..offset + inner].iter_mut().zip(new) {
                    *old = reduction.apply(*old, new);
                }
            }
        })))
    }
    let reduction = Reduction::of(d)?;
    one(move |inputs| {
        let data = take(inputs, 0)?;
        let (indices, updates) = (peek(inputs, 1)?, peek(inputs, 2)?);
        numbers!(data, "scatter data", a => go(a, indices, updates, reduction))
    })
}

pub(super) fn scatter_elements(d: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(
        data: Array<T>,
        indices: &Tensor,
        updates: &Tensor,
        (at, reduction): (i64, Reduction),
    ) -> Result<Tensor, OpError> {
        let at = axis(at, data.ndim())?;
        let updates = updates.typed::<T>("updates")?;
        if updates.shape() != indices.shape() {
            return Err(OpError::shape("updates and indices differ in shape"));
        }
        let offsets = element_offsets(data.shape(), indices, at)?;
        let updates = elements(updates);
        Ok(T::wrap(update(data, |target| {
            for (offset, &new) in offsets.into_iter().zip(updates.iter()) {
                target[offset] = reduction.apply(target[offset], new);
            }
        })))
    }
    let how = (d.node.int("axis").unwrap_or(0), Reduction::of(d)?);
    one(move |inputs| {
        let data = take(inputs, 0)?;
        let (indices, updates) = (peek(inputs, 1)?, peek(inputs, 2)?);
        numbers!(data, "scatter data", a => go(a, indices, updates, how))
    })
}

pub(super) fn one_hot(d: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(
        values: &Array<T>,
        indices: &Tensor,
        depth: usize,
        at: i64,
    ) -> Result<Tensor, OpError> {
        let [off, on] = *elements(values) else {
            return Err(OpError::shape("OneHot needs an off and an on value"));
        };
        let at = axis(at, indices.rank() + 1)?;
        let mut shape = indices.shape().to_vec();
        let inner: usize = shape[at..].iter().product();
        shape.insert(at, depth);
        let mut result = vec![off; count(&shape)?];
        for (i, value) in indices.to_f64_vec().into_iter().enumerate() {
            let hot = if value < 0.0 { value + depth as f64 } else { value };
            if hot >= 0.0 && hot < depth as f64 {
                result[(i / inner * depth + hot as usize) * inner + i % inner] = on;
            }
        }
        Tensor::from_vec(&shape, result)
    }
    let at = d.node.int("axis").unwrap_or(-1);
    one(move |inputs| {
        let (indices, values) = (peek(inputs, 0)?, peek(inputs, 2)?);
        let depth = match peek(inputs, 1)?.to_f64_vec().as_slice() {
            [depth] if *depth >= 0.0 && *depth <= f64::from(u32::MAX) => *depth as usize,
            other => return Err(OpError::value(format!("a depth of {other:?}"))),
        };
        if indices.data_type() == crate::tensor::DataType::Bool {
            return Err(bad_type(indices, "an index"));
        }
        with_array!(values, a => go(a, indices, depth, at))
    })
}
