//! Cutting and joining: Slice, Concat, Split, Pad, Tile.

mod backward;

use super::Decoding;
use super::args::{Decoded, Inputs, elements, many, one, peek, peek_optional, take};
use super::backward::{Reads, rule, single};
use super::layout::{around, axis, copy_strided, count, extent, strides};
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};
use crate::with_array;

/// Starts, ends, axes and steps of a Slice node.
#[derive(Clone)]
struct Bounds {
    starts: Vec<i64>,
    ends: Vec<i64>,
    axes: Option<Vec<i64>>,
    steps: Option<Vec<i64>>,
}

impl Bounds {
    /// Those given as inputs.
    fn of(inputs: &Inputs) -> Result<Self, OpError> {
        let list = |i, role| peek_optional(inputs, i).map(|t| t.to_i64_vec(role)).transpose();
        Ok(Self {
            starts: peek(inputs, 1)?.to_i64_vec("starts")?,
            ends: peek(inputs, 2)?.to_i64_vec("ends")?,
            axes: list(3, "axes")?,
            steps: list(4, "steps")?,
        })
    }
}

pub(super) fn slice(d: &Decoding<'_>) -> Decoded {
    if d.opset < 10 {
        let list = |name| d.node.ints(name).map(<[i64]>::to_vec);
        let bounds = Bounds {
            starts: list("starts").unwrap_or_default(),
            ends: list("ends").unwrap_or_default(),
            axes: list("axes"),
            steps: None,
        };
        let same = bounds.clone();
        let run = one(move |inputs| with_array!(peek(inputs, 0)?, a => cut(a, &bounds)));
        return single(run, Reads::NOTHING, move |pass, gradient| {
            backward::slice(gradient, pass.shape(0)?, &same)
        });
    }
    let run = one(|inputs| {
        let bounds = Bounds::of(inputs)?;
        with_array!(peek(inputs, 0)?, a => cut(a, &bounds))
    });
    single(run, Reads::NOTHING, |pass, gradient| {
        backward::slice(gradient, pass.shape(0)?, &Bounds::of(&pass.values())?)
    })
}

/// What a slice reads: from `offset` on along `walk`, extents and strides.
struct Cut {
    shape: Vec<usize>,
    offset: usize,
    walk: Vec<(usize, isize)>,
}

fn cut<T: Element>(array: &Array<T>, bounds: &Bounds) -> Result<Tensor, OpError> {
    let cut = plan(array.shape(), bounds)?;
    Tensor::from_vec(&cut.shape, copy_strided(&elements(array), cut.offset, &cut.walk)?)
}

fn plan(from: &[usize], bounds: &Bounds) -> Result<Cut, OpError> {
    let n = bounds.starts.len();
    let axes = bounds.axes.clone().unwrap_or_else(|| (0..n as i64).collect());
    let steps = bounds.steps.clone().unwrap_or_else(|| vec![1; n]);
    if bounds.ends.len() != n || axes.len() != n || steps.len() != n {
        return Err(OpError::shape("starts, ends, axes and steps differ in length"));
    }
    let mut shape = from.to_vec();
    let row_major = strides(&shape);
    let mut walk: Vec<_> =
        shape.iter().zip(&row_major).map(|(&n, &stride)| (n, stride as isize)).collect();
    let mut offset = 0;
    for (((&start, &end), &at), &step) in
        bounds.starts.iter().zip(&bounds.ends).zip(&axes).zip(&steps)
    {
        let at = axis(at, shape.len())?;
        let extent = from[at] as i64;
        let from_back = |v: i64| if v < 0 { v.saturating_add(extent) } else { v };
        let (low, high) = if step > 0 { (0, extent) } else { (-1, extent - 1) };
        let start = from_back(start).clamp(low.max(0), high);
        let end = from_back(end).clamp(low, high);
        let length = match step {
            0 => return Err(OpError::value("a slice step of 0")),
            1.. if start < end => (end - start - 1) / step + 1,
            ..0 if start > end => (start - end - 1) / step.saturating_neg() + 1,
            _ => 0,
        } as usize;
        shape[at] = length;
        if length > 0 {
            offset += start as usize * row_major[at];
        }
        let stride = if length > 1 { step as isize * row_major[at] as isize } else { 1 };
        walk[at] = (length, stride);
    }
    Ok(Cut { shape, offset, walk })
}

pub(super) fn concat(d: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(first: &Array<T>, inputs: &Inputs, at: i64) -> Result<Tensor, OpError> {
        let at = axis(at, first.ndim())?;
        let mut shape = first.shape().to_vec();
        shape[at] = 0;
        let outer: usize = shape[..at].iter().product();
        let mut parts = Vec::with_capacity(inputs.len());
        for index in 0..inputs.len() {
            let part = peek(inputs, index)?.typed::<T>("a part")?;
            let same = part.ndim() == shape.len()
                && part.shape().iter().zip(&shape).enumerate().all(|(i, (a, b))| i == at || a == b);
            if !same {
                let (a, b) = (first.shape(), part.shape());
                return Err(OpError::shape(format!("{a:?} and {b:?} can't be joined")));
            }
            shape[at] += part.shape()[at];
            parts.push((elements(part), part.shape()[at..].iter().product::<usize>()));
        }
        let mut result = Vec::with_capacity(count(&shape)?);
        for block in 0..outer {
            for (part, size) in &parts {
                result.extend_from_slice(&part[block * size..(block + 1) * size]);
            }
        }
        Tensor::from_vec(&shape, result)
    }
    let at = d.node.int("axis").unwrap_or(1);
    let run = one(move |inputs| with_array!(peek(inputs, 0)?, a => go(a, inputs, at)));
    rule(run, Reads::NOTHING, move |pass| backward::concat(pass, at))
}

pub(super) fn split(d: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(
        array: &Array<T>,
        sizes: &[usize],
        at: usize,
    ) -> Result<Vec<Tensor>, OpError> {
        let (outer, n, inner) = around(array.shape(), at);
        let source = elements(array);
        let mut start = 0;
        let mut parts = Vec::with_capacity(sizes.len());
        for &size in sizes {
            let mut part = Vec::with_capacity(outer * size * inner);
            for block in 0..outer {
                let from = (block * n + start) * inner;
                part.extend_from_slice(&source[from..from + size * inner]);
            }
            start += size;
            let mut shape = array.shape().to_vec();
            shape[at] = size;
            parts.push(Tensor::from_vec(&shape, part)?);
        }
        Ok(parts)
    }
    let at = d.node.int("axis").unwrap_or(0);
    let attribute = d.node.ints("split").map(<[i64]>::to_vec);
    let count = d.node.output.len();
    // Since opset 18 the last part may be smaller than the others.
    let uneven = d.node.int("num_outputs").is_some();
    let same = attribute.clone();
    let run = many(move |inputs| {
        let tensor = peek(inputs, 0)?;
        let at = axis(at, tensor.rank())?;
        let given = peek_optional(inputs, 1);
        let sizes = split_sizes(tensor.shape()[at], attribute.as_ref(), given, (count, uneven))?;
        with_array!(tensor, a => go(a, &sizes, at))
    });
    rule(run, Reads::NOTHING, move |pass| backward::split(pass, at, same.as_ref(), (count, uneven)))
}

/// The extents of the parts that `n` elements are split into.
fn split_sizes(
    n: usize,
    attribute: Option<&Vec<i64>>,
    given: Option<&Tensor>,
    (count, uneven): (usize, bool),
) -> Result<Vec<usize>, OpError> {
    let given = match (attribute, given) {
        (Some(sizes), _) => Some(sizes.clone()),
        (None, Some(sizes)) => Some(sizes.to_i64_vec("sizes")?),
        (None, None) => None,
    };
    let sizes = match given {
        Some(sizes) => sizes.into_iter().map(extent).collect::<Result<Vec<_>, _>>()?,
        None if count > 0 && (uneven || n.is_multiple_of(count)) => {
            let size = n.div_ceil(count);
            (0..count).map(|i| size.min(n.saturating_sub(i * size))).collect()
        }
        None => return Err(OpError::shape(format!("{n} can't be split into {count} parts"))),
    };
    let total = sizes.iter().try_fold(0usize, |sum, &s| sum.checked_add(s));
    if total != Some(n) {
        return Err(OpError::shape(format!("sizes {sizes:?} don't add up to {n}")));
    }
    Ok(sizes)
}

/// What Pad puts around the input.
#[derive(Clone, Copy)]
enum Filling {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

impl Filling {
    /// The index within `extent` whose element stands at `position`.
    fn source(self, position: i64, extent: i64) -> Option<usize> {
        let inside = match self {
            _ if (0..extent).contains(&position) => position,
            Self::Constant => return None,
            _ if extent == 0 => return None,
            Self::Edge => position.clamp(0, extent - 1),
            Self::Wrap => position.rem_euclid(extent),
            Self::Reflect if extent == 1 => 0,
            Self::Reflect => {
                let folded = position.rem_euclid(2 * (extent - 1));
                folded.min(2 * (extent - 1) - folded)
            }
        };
        usize::try_from(inside).ok()
    }
}

pub(super) fn pad(d: &Decoding<'_>) -> Decoded {
    let filling = match d.node.string("mode").unwrap_or("constant") {
        "constant" => Filling::Constant,
        "reflect" => Filling::Reflect,
        "edge" => Filling::Edge,
        "wrap" => Filling::Wrap,
        other => return Err(OpError::unsupported(format!("Pad mode `{other}`"))),
    };
    if d.opset < 11 {
        let amounts = d.node.ints("pads").unwrap_or(&[]).to_vec();
        let value = d.node.float("value").unwrap_or(0.0);
        let padding = Padding { amounts: amounts.clone() };
        let run = one(move |inputs| match take(inputs, 0)? {
            Tensor::F32(a) => padded(&a, &amounts, value, filling),
            Tensor::F64(a) => padded(&a, &amounts, value.into(), filling),
            other => Err(super::args::bad_type(&other, "an input of Pad")),
        });
        return single(run, Reads::NOTHING, move |pass, gradient| {
            backward::pad(gradient, pass.shape(0)?, &padding, filling)
        });
    }
    fn go<T: Element + Default>(
        array: &Array<T>,
        inputs: &Inputs,
        filling: Filling,
    ) -> Result<Tensor, OpError> {
        let value = match peek_optional(inputs, 2).filter(|t| !t.is_empty()) {
            Some(tensor) => elements(tensor.typed::<T>("a value")?)[0],
            None => T::default(),
        };
        padded(array, &Padding::of(inputs, array.ndim())?.amounts, value, filling)
    }
    let run = one(move |inputs| with_array!(peek(inputs, 0)?, a => go(a, inputs, filling)));
    // What is put around the input is a setting and gets no gradient.
    single(run, Reads::NOTHING, move |pass, gradient| {
        let shape = pass.shape(0)?;
        backward::pad(gradient, shape, &Padding::of(&pass.values(), shape.len())?, filling)
    })
}

/// Elements before each axis, then after each axis; negative ones crop.
struct Padding {
    amounts: Vec<i64>,
}

impl Padding {
    /// Those given as inputs, for all axes or for some.
    fn of(inputs: &Inputs, rank: usize) -> Result<Self, OpError> {
        let given = peek(inputs, 1)?.to_i64_vec("pads")?;
        let Some(axes) = peek_optional(inputs, 3) else {
            return Ok(Self { amounts: given });
        };
        let axes = axes.to_i64_vec("axes")?;
        if given.len() != 2 * axes.len() {
            return Err(OpError::shape("pads must have a begin and an end for each axis"));
        }
        let mut amounts = vec![0; 2 * rank];
        for (i, &at) in axes.iter().enumerate() {
            let at = axis(at, rank)?;
            amounts[at] = given[i];
            amounts[rank + at] = given[axes.len() + i];
        }
        Ok(Self { amounts })
    }
}

/// `array` with `amounts` (all begins, then all ends; negative ones crop) of `filling` around it.
fn padded<T: Element>(
    array: &Array<T>,
    amounts: &[i64],
    value: T,
    filling: Filling,
) -> Result<Tensor, OpError> {
    let rank = array.ndim();
    if amounts.len() != 2 * rank {
        return Err(OpError::shape(format!("{} pads for rank {rank}", amounts.len())));
    }
    let mut shape = Vec::with_capacity(rank);
    for (i, &n) in array.shape().iter().enumerate() {
        let total =
            (n as i64).checked_add(amounts[i]).and_then(|v| v.checked_add(amounts[rank + i]));
        shape.push(extent(total.unwrap_or(-1))?);
    }
    let mut result = vec![value; count(&shape)?];
    if result.is_empty() || rank == 0 {
        return Tensor::from_vec(&shape, if rank == 0 { elements(array).to_vec() } else { result });
    }
    // For each axis, where each coordinate of the result reads from.
    let maps: Vec<Vec<Option<usize>>> = (0..rank)
        .map(|i| {
            let n = array.shape()[i] as i64;
            (0..shape[i] as i64).map(|p| filling.source(p - amounts[i], n)).collect()
        })
        .collect();
    let steps = strides(array.shape());
    let source = elements(array);
    let last = rank - 1;
    let row = shape[last];
    // Within the last axis the input itself is one run.
    let run_start = amounts[last].clamp(0, row as i64) as usize;
    let run_from = amounts[last].saturating_neg().max(0) as usize;
    let run = array.shape()[last].saturating_sub(run_from).min(row - run_start);
    let mut coordinates = vec![0usize; last];
    for target in result.chunks_exact_mut(row) {
        let base = coordinates
            .iter()
            .zip(&maps)
            .zip(&steps)
            .try_fold(0, |sum, ((&c, map), step)| map[c].map(|from| sum + from * step));
        if let Some(base) = base {
            let from = base + run_from;
            target[run_start..run_start + run].copy_from_slice(&source[from..from + run]);
            if !matches!(filling, Filling::Constant) {
                for (t, from) in target.iter_mut().zip(&maps[last]) {
                    if let Some(from) = from {
                        *t = source[base + from];
                    }
                }
            }
        }
        for (c, &extent) in coordinates.iter_mut().zip(&shape).rev() {
            *c += 1;
            if *c < extent {
                break;
            }
            *c = 0;
        }
    }
    Tensor::from_vec(&shape, result)
}

pub(super) fn tile(_: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(array: &Array<T>, repeats: &[i64]) -> Result<Tensor, OpError> {
        let (rank, steps) = (array.ndim(), strides(array.shape()));
        if repeats.len() != rank {
            return Err(OpError::shape(format!("{} repeats for rank {rank}", repeats.len())));
        }
        let mut shape = Vec::with_capacity(rank);
        let mut walk = Vec::with_capacity(2 * rank);
        for ((&n, &step), &times) in array.shape().iter().zip(&steps).zip(repeats) {
            let times = extent(times)?;
            shape.push(n.checked_mul(times).ok_or_else(|| OpError::shape("too many repeats"))?);
            walk.push((times, 0));
            walk.push((n, step as isize));
        }
        Tensor::from_vec(&shape, copy_strided(&elements(array), 0, &walk)?)
    }
    let run = one(|inputs| {
        let repeats = peek(inputs, 1)?.to_i64_vec("repeats")?;
        with_array!(peek(inputs, 0)?, a => go(a, &repeats))
    });
    single(run, Reads::NOTHING, |pass, gradient| {
        backward::tile(gradient, pass.shape(0)?, &pass.input(1)?.to_i64_vec("repeats")?)
    })
}
