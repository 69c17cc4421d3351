//! Normalisations.

mod backward;

use super::Decoding;
use super::args::{Decoded, elements, floats, many, one, peek, take, take_optional, update};
use super::backward::{Reads, choosy, rule, single};
use super::layout::{around, axis, extent};
use super::logic::expanded;
use super::number::Number;
use super::reduce::{fold, fold_row};
use crate::error::OpError;
use crate::kernels::wide;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};

/// Number of channels and elements per channel of `[n, c, ...]`.
fn channels(shape: &[usize]) -> Result<(usize, usize), OpError> {
    match shape {
        [_, c, rest @ ..] => Ok((*c, rest.iter().product())),
        _ => Err(OpError::shape(format!("{shape:?} has no channel axis"))),
    }
}

/// `x * scale + shift`, with a scale and a shift for each channel.
#[inline(always)]
fn scale_channels<T: Number>(slice: &mut [T], inner: usize, scale: &[T], shift: &[T]) {
    if slice.is_empty() {
        return;
    }
    if inner == 1 {
        for row in slice.chunks_exact_mut(scale.len()) {
            for ((x, &a), &b) in row.iter_mut().zip(scale).zip(shift) {
                *x = x.times(a).plus(b);
            }
        }
        return;
    }
    for image in slice.chunks_exact_mut(scale.len() * inner) {
        for ((plane, &a), &b) in image.chunks_exact_mut(inner).zip(scale).zip(shift) {
            plane.iter_mut().for_each(|x| *x = x.times(a).plus(b));
        }
    }
}

/// An input that has one element per channel.
fn per_channel<T: Element>(tensor: &Tensor, c: usize) -> Result<Vec<T>, OpError> {
    let array = tensor.typed::<T>("a channel parameter")?;
    if array.len() != c {
        return Err(OpError::shape(format!("{} parameters for {c} channels", array.len())));
    }
    Ok(elements(array).into_owned())
}

/// Scale and shift that batch normalisation comes to: `[scale, bias, mean, variance]` in, computed
/// in `f64`.
fn folded(parameters: [&Tensor; 4], epsilon: f64) -> Result<[Vec<f64>; 2], OpError> {
    let [scale, bias, mean, variance] = parameters.map(Tensor::to_f64_vec);
    if [&bias, &mean, &variance].iter().any(|list| list.len() != scale.len()) {
        return Err(OpError::shape("batch normalisation parameters differ in length"));
    }
    let scale: Vec<f64> =
        scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
    let shift = bias.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    Ok([scale, shift])
}

pub(super) fn batch(d: &Decoding<'_>) -> Decoded {
    let node = d.node;
    let trains = node.int("training_mode").unwrap_or(0) != 0
        || node.output.iter().skip(1).any(|name| !name.is_empty());
    if trains || node.int("spatial").unwrap_or(1) == 0 {
        return Err(OpError::unsupported("BatchNormalization other than inference per channel"));
    }
    let epsilon = f64::from(node.float("epsilon").unwrap_or(1e-5));
    let constant = |i: usize| d.constants.get(i).and_then(Option::as_ref);
    let known = match (constant(1), constant(2), constant(3), constant(4)) {
        (Some(s), Some(b), Some(m), Some(v)) => Some(folded([s, b, m, v], epsilon)?),
        _ => None,
    };
    let run = one(move |inputs| {
        let [scale, shift] = match &known {
            Some(known) => known.clone(),
            None => {
                let [s, b] = [peek(inputs, 1)?, peek(inputs, 2)?];
                folded([s, b, peek(inputs, 3)?, peek(inputs, 4)?], epsilon)?
            }
        };
        floats!(take(inputs, 0)?, "an input of BatchNormalization", a => {
            let (c, inner) = match a.shape() {
                // A single axis is one channel per element's position, as in later versions.
                [_] => (1, 1),
                shape => channels(shape)?,
            };
            if c != scale.len() {
                return Err(OpError::shape(format!("{} parameters for {c} channels", scale.len())));
            }
            let [scale, shift] = [&scale, &shift].map(|list| {
                list.iter().map(|v| *v as T).collect::<Vec<T>>()
            });
            Ok(Tensor::from(update(a, |slice| wide!(scale_channels(slice, inner, &scale, &shift)))))
        })
    });
    let reads = |wanted: &[bool]| {
        let wants = |index: usize| wanted.get(index) == Some(&true);
        let parameters = (1..5).fold(Reads::NOTHING, |reads, index| reads.with_input(index, true));
        parameters.with_input(0, wants(1) || wants(4))
    };
    choosy(
        run,
        reads,
        move |pass| floats!(pass.gradient(0)?, "a gradient", g => backward::batch(g, pass, epsilon)),
    )
}

/// Statistics of one normalised row.
struct Moments {
    mean: f64,
    inverse_deviation: f64,
}

/// Brings every row of length `n` to mean 0 and variance 1.
#[inline(always)]
fn standardise<T: Number>(slice: &mut [T], n: usize, epsilon: f64) -> Vec<Moments> {
    if slice.is_empty() {
        return Vec::new();
    }
    let mut moments = Vec::with_capacity(slice.len() / n);
    for row in slice.chunks_exact_mut(n) {
        let total = |values: &[T], square: bool| {
            let f = |x: T| if square { x.times(x) } else { x };
            fold_row(values, T::ZERO, f, T::plus).to_f64() / n as f64
        };
        let mean = total(row, false);
        let shift = T::of_f64(mean);
        row.iter_mut().for_each(|x| *x = x.minus(shift));
        // What rounding left of the mean matters where the variance is small beside it.
        let rest = total(row, false);
        let variance = total(row, true) - rest * rest;
        let inverse_deviation = 1.0 / (variance.max(0.0) + epsilon).sqrt();
        let (rest, scale) = (T::of_f64(rest), T::of_f64(inverse_deviation));
        row.iter_mut().for_each(|x| *x = x.minus(rest).times(scale));
        moments.push(Moments { mean, inverse_deviation });
    }
    moments
}

pub(super) fn instance(d: &Decoding<'_>) -> Decoded {
    let epsilon = f64::from(d.node.float("epsilon").unwrap_or(1e-5));
    let run = one(move |inputs| {
        let (scale, bias) = (take(inputs, 1)?, take(inputs, 2)?);
        floats!(take(inputs, 0)?, "an input of InstanceNormalization", a => {
            let (c, inner) = channels(a.shape())?;
            let (scale, bias) = (per_channel::<T>(&scale, c)?, per_channel::<T>(&bias, c)?);
            Ok(Tensor::from(update(a, |slice| {
                wide!({
                    standardise(slice, inner, epsilon);
                    scale_channels(slice, inner, &scale, &bias);
                });
            })))
        })
    });
    rule(
        run,
        Reads::INPUTS,
        move |pass| floats!(pass.gradient(0)?, "a gradient", g => backward::by_channel(&g, pass, 1, epsilon)),
    )
}

pub(super) fn group(d: &Decoding<'_>) -> Decoded {
    let epsilon = f64::from(d.node.float("epsilon").unwrap_or(1e-5));
    let groups = extent(d.node.int("num_groups").unwrap_or(0))?;
    // Before opset 21 there is a parameter for each group, since then for each channel.
    let by_group = d.opset < 21;
    let run = one(move |inputs| {
        let (scale, bias) = (take(inputs, 1)?, take(inputs, 2)?);
        floats!(take(inputs, 0)?, "an input of GroupNormalization", a => {
            let (c, inner) = channels(a.shape())?;
            if groups == 0 || !c.is_multiple_of(groups) {
                return Err(OpError::shape(format!("{c} channels can't form {groups} groups")));
            }
            let width = c / groups;
            let parameter = |tensor: &Tensor| -> Result<Vec<T>, OpError> {
                if !by_group {
                    return per_channel::<T>(tensor, c);
                }
                let list = per_channel::<T>(tensor, groups)?;
                Ok(list.into_iter().flat_map(|v| std::iter::repeat_n(v, width)).collect())
            };
            let (scale, bias) = (parameter(&scale)?, parameter(&bias)?);
            Ok(Tensor::from(update(a, |slice| {
                wide!({
                    standardise(slice, width * inner, epsilon);
                    scale_channels(slice, inner, &scale, &bias);
                });
            })))
        })
    });
    rule(run, Reads::INPUTS, move |pass| {
        floats!(pass.gradient(0)?, "a gradient", g => {
            let width = channels(g.shape())?.0 / groups;
            backward::by_channel(&g, pass, width, epsilon)
        })
    })
}

/// A scale or bias repeated to fill the normalised axes `shape`.
fn parameter_rows<T: Element>(tensor: &Tensor, shape: &[usize]) -> Result<Vec<T>, OpError> {
    let array = tensor.typed::<T>("a scale or bias")?;
    let extra = array.ndim().saturating_sub(shape.len());
    if array.shape()[..extra].iter().any(|d| *d != 1) {
        return Err(OpError::unsupported("a scale that varies along axes not normalised"));
    }
    let array = T::wrap(array.clone()).reshape(&array.shape()[extra..])?.into_typed("a scale")?;
    expanded(&array, shape)
}

fn refuse_stash(d: &Decoding<'_>) -> Result<(), OpError> {
    match d.node.int("stash_type").unwrap_or(1) {
        1 | 11 => Ok(()),
        other => Err(OpError::unsupported(format!("stash_type {other}"))),
    }
}

pub(super) fn layer(d: &Decoding<'_>) -> Decoded {
    refuse_stash(d)?;
    let epsilon = f64::from(d.node.float("epsilon").unwrap_or(1e-5));
    let at = d.node.int("axis").unwrap_or(-1);
    let outputs = d.node.output.len();
    let run = many(move |inputs| {
        let (scale, bias) = (take(inputs, 1)?, take_optional(inputs, 2));
        floats!(take(inputs, 0)?, "an input of LayerNormalization", a => {
            let at = axis(at, a.ndim())?;
            let mut reduced = a.shape().to_vec();
            let inner = reduced[at..].to_vec();
            reduced[at..].fill(1);
            let n: usize = inner.iter().product();
            let scale = parameter_rows::<T>(&scale, &inner)?;
            let bias = match &bias {
                Some(bias) => parameter_rows::<T>(bias, &inner)?,
                None => vec![0.0; n],
            };
            let mut moments = Vec::new();
            let a = update(a, |slice| {
                moments = wide!({
                    let moments = standardise(slice, n, epsilon);
                    scale_channels(slice, 1, &scale, &bias);
                    moments
                });
            });
            let mut result = vec![Tensor::from(a)];
            if outputs > 1 {
                let means = moments.iter().map(|m| m.mean as T).collect();
                result.push(Tensor::from_vec::<T>(&reduced, means)?);
            }
            if outputs > 2 {
                let inverses = moments.iter().map(|m| m.inverse_deviation as T).collect();
                result.push(Tensor::from_vec::<T>(&reduced, inverses)?);
            }
            Ok(result)
        })
    });
    rule(run, Reads::INPUTS, move |pass| {
        let at = axis(at, pass.shape(0)?.len())?;
        match pass.input(0)? {
            Tensor::F32(_) => backward::by_axes::<f32>(pass, at, true, epsilon),
            Tensor::F64(_) => backward::by_axes::<f64>(pass, at, true, epsilon),
            other => Err(super::args::bad_type(other, "an input of LayerNormalization")),
        }
    })
}

pub(super) fn rms(d: &Decoding<'_>) -> Decoded {
    refuse_stash(d)?;
    let epsilon = f64::from(d.node.float("epsilon").unwrap_or(1e-5));
    let at = d.node.int("axis").unwrap_or(-1);
    let run = one(move |inputs| {
        let scale = take(inputs, 1)?;
        floats!(take(inputs, 0)?, "an input of RMSNormalization", a => {
            let at = axis(at, a.ndim())?;
            let inner = a.shape()[at..].to_vec();
            let n: usize = inner.iter().product();
            let scale = parameter_rows::<T>(&scale, &inner)?;
            Ok(Tensor::from(update(a, |slice| {
                for row in slice.chunks_exact_mut(n.max(1)) {
                    let square = fold_row(row, 0.0, |x| x * x, |s: T, x| s + x);
                    let factor = (1.0 / (f64::from(square) / n as f64 + epsilon).sqrt()) as T;
                    row.iter_mut().zip(&scale).for_each(|(x, s)| *x = *x * factor * s);
                }
            })))
        })
    });
    rule(run, Reads::INPUTS, move |pass| {
        let at = axis(at, pass.shape(0)?.len())?;
        match pass.input(0)? {
            Tensor::F32(_) => backward::by_axes::<f32>(pass, at, false, epsilon),
            Tensor::F64(_) => backward::by_axes::<f64>(pass, at, false, epsilon),
            other => Err(super::args::bad_type(other, "an input of RMSNormalization")),
        }
    })
}

pub(super) fn lp(d: &Decoding<'_>) -> Decoded {
    let at = d.node.int("axis").unwrap_or(-1);
    let p = d.node.int("p").unwrap_or(2);
    if p != 1 && p != 2 {
        return Err(OpError::Attribute { name: "p", reason: format!("{p} is not 1 or 2") });
    }
    let run = one(move |inputs| {
        floats!(take(inputs, 0)?, "an input of LpNormalization", a => {
            let (_, n, inner) = around(a.shape(), axis(at, a.ndim())?);
            Ok(Tensor::from(update(a, |slice| {
                for block in slice.chunks_exact_mut((n * inner).max(1)) {
                    let first = |x: T| if p == 1 { x.abs() } else { x * x };
                    let mut norms = fold(block, (1, n, inner), 0.0, first, |s: T, x| s + x);
                    if p == 2 {
                        norms.iter_mut().for_each(|v| *v = v.sqrt());
                    }
                    for row in block.chunks_exact_mut(inner) {
                        for (x, &norm) in row.iter_mut().zip(&norms) {
                            // A vector of zeros stays one.
                            *x = if norm == 0.0 { 0.0 } else { *x / norm };
                        }
                    }
                }
            })))
        })
    });
    single(run, Reads::INPUTS, move |pass, gradient| {
        floats!(gradient, "a gradient", g => {
            let x = pass.input(0)?.typed::<T>("an input of LpNormalization")?;
            let extents = around(x.shape(), axis(at, x.ndim())?);
            backward::lp(g, x, extents, p)
        })
    })
}

/// Local response normalisation across neighbouring channels.
pub(super) fn lrn(d: &Decoding<'_>) -> Decoded {
    let alpha = d.node.float("alpha").unwrap_or(1e-4);
    let beta = d.node.float("beta").unwrap_or(0.75);
    let bias = d.node.float("bias").unwrap_or(1.0);
    let size = extent(d.node.int("size").unwrap_or(0))?;
    if size == 0 {
        return Err(OpError::Attribute { name: "size", reason: "must be positive".into() });
    }
    fn go<T: Number>(
        array: &Array<T>,
        size: usize,
        [alpha, beta, bias]: [f32; 3],
    ) -> Result<Tensor, OpError> {
        let (c, inner) = channels(array.shape())?;
        let source = elements(array);
        let mut result = source.to_vec();
        let mut sums = vec![0f64; inner];
        let (before, after) = ((size - 1) / 2, size / 2);
        let factor = f64::from(alpha) / size as f64;
        let images = source.chunks_exact((c * inner).max(1));
        for (image, target) in images.zip(result.chunks_exact_mut((c * inner).max(1))) {
            for channel in 0..c {
                sums.fill(0.0);
                for k in channel.saturating_sub(before)..c.min(channel + after + 1) {
                    for (sum, x) in sums.iter_mut().zip(&image[k * inner..(k + 1) * inner]) {
                        *sum += x.to_f64() * x.to_f64();
                    }
                }
                let target = &mut target[channel * inner..(channel + 1) * inner];
                for (x, sum) in target.iter_mut().zip(&sums) {
                    let divisor = (f64::from(bias) + factor * sum).powf(f64::from(beta));
                    *x = T::of_f64(x.to_f64() / divisor);
                }
            }
        }
        Tensor::from_vec(array.shape(), result)
    }
    let run = one(
        move |inputs| floats!(take(inputs, 0)?, "an input of LRN", a => go::<T>(&a, size, [alpha, beta, bias])),
    );
    single(run, Reads::INPUTS, move |pass, gradient| {
        floats!(gradient, "a gradient", g => {
            let x = pass.input(0)?.typed::<T>("an input of LRN")?;
            backward::lrn(&g, x, size, [alpha, beta, bias])
        })
    })
}
