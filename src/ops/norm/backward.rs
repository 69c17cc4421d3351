//! The rules of normalisations.

use super::{channels, parameter_rows};
use crate::error::OpError;
use crate::ops::args::elements;
use crate::ops::backward::{Backward, Gradients, unbroadcast};
use crate::ops::number::Number;
use crate::tensor::{Array, Tensor};

/// Batch normalisation with given statistics, `y = (x - mean) scale / sqrt(variance + e) + bias`.
pub(super) fn batch<T: Number>(g: Array<T>, pass: &Backward<'_>, epsilon: f64) -> Gradients {
    let (c, inner) = match g.shape() {
        [_] => (1, 1),
        shape => channels(shape)?,
    };
    let list = |index: usize| pass.input(index).map(Tensor::to_f64_vec);
    let inverse: Vec<f64> = list(4)?.iter().map(|v| 1.0 / (v + epsilon).sqrt()).collect();
    let scale = list(1)?;
    // Sums over each channel of the gradient, and of the gradient times the input.
    let mut sums = vec![0.0; c];
    let mut products = vec![0.0; c];
    let with_input = pass.wants(1) || pass.wants(4);
    if (1..5).any(|index| pass.wants(index)) && !g.is_empty() {
        let values = elements(&g);
        let x =
            if with_input { Some(elements(pass.input(0)?.typed::<T>("an input")?)) } else { None };
        for (i, plane) in values.chunks_exact(inner.max(1)).enumerate() {
            sums[i % c] += total(plane.iter().copied());
            if let Some(x) = &x {
                let pairs = plane.iter().zip(&x[i * inner..]);
                products[i % c] += total(pairs.map(|(&g, &x)| g.times(x)));
            }
        }
    }
    let mean = list(3)?;
    let per_channel = |index: usize, f: &dyn Fn(usize) -> f64| {
        pass.wants(index)
            .then(|| {
                let values = (0..c).map(|k| T::of_f64(f(k))).collect();
                cast_like(Tensor::from_vec::<T>(pass.shape(index)?, values)?, pass, index)
            })
            .transpose()
    };
    // Sum of g (x - mean).
    let centred = |k: usize| products[k] - mean[k] * sums[k];
    let by_scale = per_channel(1, &|k| centred(k) * inverse[k])?;
    let by_bias = per_channel(2, &|k| sums[k])?;
    let by_mean = per_channel(3, &|k| -sums[k] * scale[k] * inverse[k])?;
    let by_variance = per_channel(4, &|k| -0.5 * centred(k) * scale[k] * inverse[k].powi(3))?;
    let by_input = pass.wants(0).then(|| {
        let factors: Vec<T> = (0..c).map(|k| T::of_f64(scale[k] * inverse[k])).collect();
        T::wrap(scaled(g, inner, &factors))
    });
    Ok(vec![by_input, by_scale, by_bias, by_mean, by_variance])
}

/// Parameters may be of another float type than the data.
fn cast_like(gradient: Tensor, pass: &Backward<'_>, index: usize) -> Result<Tensor, OpError> {
    let kind = pass.inputs[index].as_ref().map(|kept| kept.data_type);
    match kind {
        Some(kind) if kind != gradient.data_type() => crate::ops::cast::cast(&gradient, kind),
        _ => Ok(gradient),
    }
}

/// A sum in lanes, so that it is both fast and precise.
fn total<T: Number>(values: impl Iterator<Item = T>) -> f64 {
    let mut lanes = [T::ZERO; 16];
    for (i, value) in values.enumerate() {
        lanes[i % 16] = lanes[i % 16].plus(value);
    }
    lanes.iter().map(|lane| lane.to_f64()).sum()
}

/// Planes of `inner` elements times their channel's factor.
fn scaled<T: Number>(g: Array<T>, inner: usize, factors: &[T]) -> Array<T> {
    crate::ops::args::update(g, |slice| {
        for (i, plane) in slice.chunks_exact_mut(inner.max(1)).enumerate() {
            let factor = factors[i % factors.len()];
            plane.iter_mut().for_each(|g| *g = g.times(factor));
        }
    })
}

/// The sum of `f` over pairs of elements, in lanes.
#[inline(always)]
fn sum_of<T: Number>(a: &[T], b: &[T], f: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            lanes[i] += f(a[i].to_f64(), b[i].to_f64());
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| f(a.to_f64(), b.to_f64()));
    lanes.iter().sum::<f64>() + rest.sum::<f64>()
}

/// What a standardised row passes on: with `h` the gradient times the scale and `z` the
/// standardised row of `x`, `(h - mean(h) - z mean(h z)) / deviation`; without centring, of rows
/// brought to mean square 1, `(h - z mean(h z)) / deviation`.
struct Row {
    mean: f64,
    inverse: f64,
}

impl Row {
    fn of<T: Number>(x: &[T], epsilon: f64, centred: bool) -> Self {
        let n = x.len() as f64;
        let mean = if centred { sum_of(x, x, |x, _| x) / n } else { 0.0 };
        let variance = sum_of(x, x, |x, _| (x - mean) * (x - mean)) / n;
        Self { mean, inverse: 1.0 / (variance + epsilon).sqrt() }
    }

    fn standard<T: Number>(&self, x: T) -> T {
        x.minus(T::of_f64(self.mean)).times(T::of_f64(self.inverse))
    }
}

/// How rows are normalised and what multiplies them afterwards.
pub(super) struct Layout {
    /// Elements of a row.
    pub n: usize,
    /// Whether the mean is taken off.
    pub centred: bool,
    pub epsilon: f64,
}

/// The gradient of rows that are standardised, then multiplied by `scale` and shifted. `scale` and
/// `bias` are repeated to the input's elements by `place`, which says for every row and element
/// of it which parameter it meets. `extra` are the gradients of the rows' means and inverse deviations.
///
/// Gives the gradients of the input, and the sums for scale and bias.
pub(super) fn rows<T: Number>(
    g: Option<&Array<T>>,
    x: &Array<T>,
    scale: &[T],
    place: impl Fn(usize, usize) -> usize,
    layout: &Layout,
    extra: [Option<&[T]>; 2],
) -> Result<(Tensor, Vec<T>, Vec<T>), OpError> {
    let n = layout.n.max(1);
    let source = elements(x);
    let g = g.map(elements);
    let mut by_input = vec![T::ZERO; source.len()];
    let (mut by_scale, mut by_bias) = (vec![T::ZERO; scale.len()], vec![T::ZERO; scale.len()]);
    for (r, x) in source.chunks_exact(n).enumerate() {
        let row = Row::of(x, layout.epsilon, layout.centred);
        let target = &mut by_input[r * n..(r + 1) * n];
        let (mut sum, mut product) = (0.0, 0.0);
        if let Some(g) = &g {
            let g = &g[r * n..][..n];
            for (i, (t, &x)) in target.iter_mut().zip(x).enumerate() {
                let (g, k) = (g[i], place(r, i));
                let z = row.standard(x);
                by_scale[k] = by_scale[k].plus(g.times(z));
                by_bias[k] = by_bias[k].plus(g);
                *t = g.times(scale[k]);
            }
            let (mean, inverse) = (row.mean, row.inverse);
            sum = sum_of(target, x, |t, _| t);
            product = sum_of(target, x, |t, x| t * ((x - mean) * inverse));
        }
        let count = n as f64;
        // The inverse deviation's derivative is -z / (n deviation^2), the mean's 1 / n.
        let mut shift = if layout.centred { sum / count * row.inverse } else { 0.0 };
        let mut tilt = product / count * row.inverse;
        if let Some(g) = extra[0] {
            shift -= g[r].to_f64() / count;
        }
        if let Some(g) = extra[1] {
            tilt += g[r].to_f64() * row.inverse * row.inverse / count;
        }
        let (shift, tilt, inverse) = (T::of_f64(shift), T::of_f64(tilt), T::of_f64(row.inverse));
        for (t, &x) in target.iter_mut().zip(x) {
            *t = t.times(inverse).minus(shift).minus(row.standard(x).times(tilt));
        }
    }
    Ok((Tensor::from_vec(x.shape(), by_input)?, by_scale, by_bias))
}

/// Instance and group normalisation: rows of `width` channels, parameters per channel, or per row
/// of a sample where there are `groups` of them.
pub(super) fn by_channel<T: Number>(
    g: &Array<T>,
    pass: &Backward<'_>,
    width: usize,
    epsilon: f64,
) -> Gradients {
    let x = pass.input(0)?.typed::<T>("an input")?;
    let (c, inner) = channels(x.shape())?;
    let scale = elements(pass.input(1)?.typed::<T>("a scale")?);
    // Channels that share a parameter.
    let share = c / scale.len().max(1);
    let place = |r: usize, i: usize| (r * width * inner + i) / inner.max(1) % c / share.max(1);
    let layout = Layout { n: width * inner, centred: true, epsilon };
    let (by_input, by_scale, by_bias) = rows(Some(g), x, &scale, place, &layout, [None, None])?;
    let by_scale = Tensor::from_vec(pass.shape(1)?, by_scale)?;
    Ok(vec![Some(by_input), Some(by_scale), Some(Tensor::from_vec(pass.shape(2)?, by_bias)?)])
}

/// Layer and root-mean-square normalisation over the axes from `at` on.
pub(super) fn by_axes<T: Number>(
    pass: &mut Backward<'_>,
    at: usize,
    centred: bool,
    epsilon: f64,
) -> Gradients {
    let mut gradients = std::mem::take(&mut pass.gradients).into_iter().map(|gradient| {
        gradient.map(|gradient| gradient.into_typed::<T>("a gradient")).transpose()
    });
    let mut next = || gradients.next().unwrap_or(Ok(None));
    let (g, by_mean, by_inverse) = (next()?, next()?, next()?);
    let x = pass.input(0)?.typed::<T>("an input")?;
    let inner = x.shape()[at..].to_vec();
    let n: usize = inner.iter().product();
    let scale = parameter_rows::<T>(pass.input(1)?, &inner)?;
    let extra = [by_mean.as_ref().map(elements), by_inverse.as_ref().map(elements)];
    let layout = Layout { n, centred, epsilon };
    let place = |_: usize, i: usize| i;
    let extra = [extra[0].as_deref(), extra[1].as_deref()];
    let (by_input, by_scale, by_bias) = rows(g.as_ref(), x, &scale, place, &layout, extra)?;
    let narrow = |index: usize, sums: Vec<T>| -> Result<Option<Tensor>, OpError> {
        if !pass.has(index) || !pass.wants(index) {
            return Ok(None);
        }
        let shape = pass.shape(index)?;
        let lead = shape.len().saturating_sub(inner.len());
        let sums = unbroadcast(Tensor::from_vec(&inner, sums)?, &shape[lead..])?;
        sums.reshape(shape).map(Some)
    };
    Ok(vec![Some(by_input), narrow(1, by_scale)?, narrow(2, by_bias)?])
}

/// LpNormalization along the middle of `[outer, n, inner]`.
pub(super) fn lp<T: Number>(
    g: Array<T>,
    x: &Array<T>,
    (outer, n, inner): (usize, usize, usize),
    p: i64,
) -> Result<Tensor, OpError> {
    let source = elements(x);
    Ok(T::wrap(crate::ops::args::update(g, |g| {
        for block in 0..outer {
            for i in 0..inner {
                let at = |k: usize| (block * n + k) * inner + i;
                let value = |k: usize| source[at(k)].to_f64();
                let norm = match p {
                    1 => (0..n).map(|k| value(k).abs()).sum::<f64>(),
                    _ => (0..n).map(|k| value(k) * value(k)).sum::<f64>().sqrt(),
                };
                if norm == 0.0 {
                    (0..n).for_each(|k| g[at(k)] = T::ZERO);
                    continue;
                }
                // y = x / norm; the norm's slope is sign(x), or x / norm.
                let product: f64 = (0..n).map(|k| g[at(k)].to_f64() * value(k)).sum();
                for k in 0..n {
                    let slope = if p == 1 { sign(value(k)) } else { value(k) / norm };
                    let own = g[at(k)].to_f64();
                    g[at(k)] = T::of_f64((own - product / norm * slope) / norm);
                }
            }
        }
    })))
}

fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// Local response normalisation, `y = x / d^beta` with `d = bias + alpha / size * sum of squares`.
pub(super) fn lrn<T: Number>(
    g: &Array<T>,
    x: &Array<T>,
    size: usize,
    [alpha, beta, bias]: [f32; 3],
) -> Result<Tensor, OpError> {
    let (c, inner) = channels(x.shape())?;
    let (g, source) = (elements(g), elements(x));
    let [alpha, beta, bias] = [alpha, beta, bias].map(f64::from);
    let factor = alpha / size as f64;
    let (before, after) = ((size - 1) / 2, size / 2);
    let mut result = vec![T::ZERO; source.len()];
    let (mut divisor, mut pull) = (vec![0.0; c], vec![0.0; c]);
    for image in 0..source.len() / (c * inner).max(1) {
        for i in 0..inner {
            let at = |k: usize| (image * c + k) * inner + i;
            let near = |k: usize| k.saturating_sub(before)..c.min(k + after + 1);
            for k in 0..c {
                let squares: f64 = near(k).map(|j| source[at(j)].to_f64().powi(2)).sum();
                divisor[k] = bias + factor * squares;
                let own = g[at(k)].to_f64() * source[at(k)].to_f64();
                pull[k] = own * divisor[k].powf(-beta - 1.0);
            }
            for k in 0..c {
                // The channels whose sums the element is in.
                let around = k.saturating_sub(after)..c.min(k + before + 1);
                let pulled: f64 = around.map(|j| pull[j]).sum();
                let own = g[at(k)].to_f64() * divisor[k].powf(-beta);
                let value = source[at(k)].to_f64();
                result[at(k)] = T::of_f64(own - 2.0 * factor * beta * value * pulled);
            }
        }
    }
    Tensor::from_vec(x.shape(), result)
}
