//! Reading and writing at given indices.

use super::Decoding;
use super::args::{Decoded, bad_type, elements, floats, numbers, one, peek, take, update};
use super::backward::{Reads, rule, single};
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
    let run = one(move |inputs| with_array!(peek(inputs, 0)?, a => go(a, peek(inputs, 1)?, at)));
    single(run, Reads::NOTHING, move |pass, gradient| {
        let shape = pass.shape(0)?;
        let at = axis(at, shape.len())?;
        let (outer, n, inner) = around(shape, at);
        let list = pass.input(1)?.to_i64_vec("an index")?;
        floats!(gradient, "a gradient", g => {
            let mut result = vec![0.0; count(shape)?];
            let mut rows = elements(&g).into_owned().into_iter();
            for block in 0..outer {
                for &i in &list {
                    let start = (block * n + index(i, n)?) * inner;
                    let target = &mut result[start..start + inner];
                    target.iter_mut().zip(rows.by_ref()).for_each(|(t, g): (&mut T, T)| *t += g);
                }
            }
            Tensor::from_vec(shape, result)
        })
    })
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
    let run = one(move |inputs| with_array!(peek(inputs, 0)?, a => go(a, peek(inputs, 1)?, at)));
    single(run, Reads::NOTHING, move |pass, gradient| {
        let shape = pass.shape(0)?;
        let offsets = element_offsets(shape, pass.input(1)?, axis(at, shape.len())?)?;
        scattered(gradient, shape, &offsets, 1)
    })
}

/// Offsets in data of shape `from` that GatherND reads `inner` elements from each.
struct Places {
    offsets: Vec<usize>,
    inner: usize,
    shape: Vec<usize>,
}

impl Places {
    fn new(from: &[usize], indices: &Tensor, batch: usize) -> Result<Self, OpError> {
        let at = indices.shape();
        let fault = || OpError::shape(format!("indices {at:?} don't fit data {from:?}"));
        let (&depth, lead) = at.split_last().ok_or_else(fault)?;
        if batch > lead.len() || batch + depth > from.len() || from[..batch] != at[..batch] {
            return Err(fault());
        }
        count(lead)?;
        let batches = count(&from[..batch])?;
        let per_batch = count(&lead[batch..])?;
        let steps = strides(from);
        let inner = count(&from[batch + depth..])?;
        let batch_step = count(&from[batch..])?;
        let shape: Vec<_> = lead.iter().chain(&from[batch + depth..]).copied().collect();
        let list = indices.to_i64_vec("an index")?;
        let mut offsets = Vec::with_capacity(batches * per_batch);
        for row in 0..batches * per_batch {
            let mut offset = row / per_batch * batch_step;
            for k in 0..depth {
                offset += index(list[row * depth + k], from[batch + k])? * steps[batch + k];
            }
            offsets.push(offset);
        }
        Ok(Self { offsets, inner, shape })
    }
}

pub(super) fn gather_nd(d: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(data: &Array<T>, indices: &Tensor, batch: usize) -> Result<Tensor, OpError> {
        let places = Places::new(data.shape(), indices, batch)?;
        let mut result = Vec::with_capacity(count(&places.shape)?);
        let source = elements(data);
        for offset in places.offsets {
            result.extend_from_slice(&source[offset..offset + places.inner]);
        }
        Tensor::from_vec(&places.shape, result)
    }
    let batch = super::layout::extent(d.node.int("batch_dims").unwrap_or(0))?;
    let run = one(move |inputs| with_array!(peek(inputs, 0)?, a => go(a, peek(inputs, 1)?, batch)));
    single(run, Reads::NOTHING, move |pass, gradient| {
        let shape = pass.shape(0)?;
        let places = Places::new(shape, pass.input(1)?, batch)?;
        scattered(gradient, shape, &places.offsets, places.inner)
    })
}

/// Zeros of a shape, with runs of `inner` elements of `gradient` added at `offsets`.
fn scattered(
    gradient: Tensor,
    shape: &[usize],
    offsets: &[usize],
    inner: usize,
) -> Result<Tensor, OpError> {
    floats!(gradient, "a gradient", g => {
        let mut result: Vec<T> = vec![0.0; count(shape)?];
        let source = elements(&g);
        for (i, &offset) in offsets.iter().enumerate() {
            let target = &mut result[offset..offset + inner];
            target.iter_mut().zip(&source[i * inner..]).for_each(|(t, g)| *t += g);
        }
        Tensor::from_vec(shape, result)
    })
}

/// Runs of `inner` elements of `gradient` at `offsets`, as a tensor of `shape`.
fn gathered(
    gradient: &Tensor,
    shape: &[usize],
    offsets: &[usize],
    inner: usize,
) -> Result<Tensor, OpError> {
    floats!(gradient.clone(), "a gradient", g => {
        let source = elements(&g);
        let rows = offsets.iter().flat_map(|&o| source[o..o + inner].iter().copied());
        Tensor::from_vec::<T>(shape, rows.collect())
    })
}

/// `gradient` with zeros over runs of `inner` elements at `offsets`.
fn cleared(gradient: Tensor, offsets: &[usize], inner: usize) -> Result<Tensor, OpError> {
    floats!(gradient, "a gradient", g => {
        Ok(Tensor::from(update(g, |slice| {
            offsets.iter().for_each(|&o| slice[o..o + inner].fill(0.0));
        })))
    })
}

/// For runs that are written over one another, whether each is the last at its offset.
fn last_written(offsets: &[usize]) -> Vec<bool> {
    let mut seen = std::collections::HashSet::new();
    let mut last: Vec<bool> = offsets.iter().rev().map(|&o| seen.insert(o)).collect();
    last.reverse();
    last
}

/// The rule of a scattering operator: `places` gives the offsets and the length of the runs that
/// are written. Sums and plain writes have one.
fn scatter_rule(
    run: Decoded,
    reduction: Reduction,
    places: impl Fn(&[usize], &Tensor) -> Result<(Vec<usize>, usize), OpError> + Send + Sync + 'static,
) -> Decoded {
    let adds = match reduction {
        Reduction::None => false,
        Reduction::Add => true,
        _ => return run,
    };
    rule(run, Reads::NOTHING, move |pass| {
        let gradient = pass.gradient(0)?;
        let (offsets, inner) = places(pass.shape(0)?, pass.input(1)?)?;
        let mut updates = gathered(&gradient, pass.shape(2)?, &offsets, inner)?;
        if adds {
            return Ok(vec![Some(gradient), None, Some(updates)]);
        }
        let lost: Vec<usize> = last_written(&offsets)
            .iter()
            .enumerate()
            .filter(|(_, last)| !**last)
            .map(|(row, _)| row * inner)
            .collect();
        updates = cleared(updates, &lost, inner)?;
        Ok(vec![Some(cleared(gradient, &offsets, inner)?), None, Some(updates)])
    })
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
        let Places { offsets, inner, shape: expected } = Places::new(data.shape(), indices, 0)?;
        let updates = updates.typed::<T>("updates")?;
        if updates.shape() != expected.as_slice() {
            let shape = updates.shape();
            return Err(OpError::shape(format!("updates are {shape:?}, not {expected:?}")));
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
    let run = one(move |inputs| {
        let data = take(inputs, 0)?;
        let (indices, updates) = (peek(inputs, 1)?, peek(inputs, 2)?);
        numbers!(data, "scatter data", a => go(a, indices, updates, reduction))
    });
    scatter_rule(run, reduction, |data, indices| {
        let places = Places::new(data, indices, 0)?;
        Ok((places.offsets, places.inner))
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
    let run = one(move |inputs| {
        let data = take(inputs, 0)?;
        let (indices, updates) = (peek(inputs, 1)?, peek(inputs, 2)?);
        numbers!(data, "scatter data", a => go(a, indices, updates, how))
    });
    scatter_rule(run, how.1, move |data, indices| {
        Ok((element_offsets(data, indices, axis(how.0, data.len())?)?, 1))
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
