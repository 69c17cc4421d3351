//! The rules of pooling.

use super::{Pooling, divisors, split};
use crate::error::OpError;
use crate::ops::args::elements;
use crate::ops::layout::{around, count};
use crate::ops::number::Number;
use crate::ops::window::Span;
use crate::tensor::{Array, Tensor};

/// Adds each window's `g` to the elements it covers along one axis of `[outer, span.input, inner]`:
/// the adjoint of summing over windows.
fn unslide<T: Number>(g: &[T], outer: usize, inner: usize, span: &Span) -> Result<Vec<T>, OpError> {
    let mut result = vec![T::ZERO; count(&[outer, span.input, inner])?];
    let (to, from) = (span.input * inner, span.output * inner);
    if to == 0 || from == 0 {
        return Ok(result);
    }
    for (block, source) in result.chunks_exact_mut(to).zip(g.chunks_exact(from)) {
        for k in 0..span.kernel {
            let (windows, at) = span.covered(k);
            for (step, w) in windows.enumerate() {
                let target = &mut block[(at + step * span.stride) * inner..][..inner];
                let source = &source[w * inner..(w + 1) * inner];
                target.iter_mut().zip(source).for_each(|(t, &g)| *t = t.plus(g));
            }
        }
    }
    Ok(result)
}

/// [`unslide`] over all axes of planes.
fn unpool<T: Number>(mut data: Vec<T>, planes: usize, spans: &[Span]) -> Result<Vec<T>, OpError> {
    for (i, span) in spans.iter().enumerate() {
        let outer = planes * spans[..i].iter().map(|s| s.input).product::<usize>();
        let inner = spans[i + 1..].iter().map(|s| s.output).product();
        data = unslide(&data, outer, inner, span)?;
    }
    Ok(data)
}

/// AveragePool: every window's gradient, divided by its number of elements, to each of them.
pub(super) fn average<T: Number>(
    g: &Array<T>,
    shape: &[usize],
    spans: &[Span],
    with_padding: bool,
) -> Result<Tensor, OpError> {
    let factors = divisors::<T>(spans, with_padding);
    let mut data = elements(g).into_owned();
    for plane in data.chunks_exact_mut(factors.len().max(1)) {
        plane.iter_mut().zip(&factors).for_each(|(g, &f)| *g = g.times(f));
    }
    // One window with all of its plane.
    let whole = |s: &Span| (s.output, s.kernel, s.dilation, s.begin) == (1, s.input, 1, 0);
    if spans.iter().all(whole) {
        let plane: usize = split(shape)?.1.iter().product();
        let mut result = Vec::with_capacity(count(shape)?);
        data.iter().for_each(|&g| result.resize(result.len() + plane, g));
        return Tensor::from_vec(shape, result);
    }
    Tensor::from_vec(shape, unpool(data, split(shape)?.0, spans)?)
}

/// LpPool: `g |x|^(p-1) sign(x) / y^(p-1)`.
pub(super) fn lp<T: Number>(
    g: &Array<T>,
    x: &Array<T>,
    y: &Array<T>,
    spans: &[Span],
    p: i64,
) -> Result<Tensor, OpError> {
    let mut data = elements(g).into_owned();
    for (g, y) in data.iter_mut().zip(elements(y).iter()) {
        let power = y.to_f64().powf((p - 1) as f64);
        // Windows of zeros are a corner: no direction is better than another.
        *g = if power == 0.0 { T::ZERO } else { T::of_f64(g.to_f64() / power) };
    }
    let mut data = unpool(data, split(x.shape())?.0, spans)?;
    for (g, x) in data.iter_mut().zip(elements(x).iter()) {
        let x = x.to_f64();
        let power = if p == 1 { 1.0 } else { x.abs().powf((p - 1) as f64) };
        *g = T::of_f64(g.to_f64() * power * if x == 0.0 { 0.0 } else { x.signum() });
    }
    Tensor::from_vec(x.shape(), data)
}

/// MaxPool: a window's gradient goes to the first of its elements that is the maximum.
pub(super) fn max<T: Number>(
    g: &Array<T>,
    x: &Array<T>,
    y: &Array<T>,
    spans: &[Span],
) -> Result<Tensor, OpError> {
    let (planes, spatial) = split(x.shape())?;
    let (from, to): (usize, usize) =
        (spatial.iter().product(), spans.iter().map(|s| s.output).product());
    let (g, x_all, y) = (elements(g), elements(x), elements(y));
    let mut result = vec![T::ZERO; count(x.shape())?];
    if from == 0 || to == 0 {
        return Tensor::from_vec(x.shape(), result);
    }
    if let [rows, columns] = spans
        && rows.is_pairs()
        && columns.is_pairs()
    {
        max_of_pairs(&x_all, &g, &y, columns.output, &mut result);
        return Tensor::from_vec(x.shape(), result);
    }
    let mut window = vec![0usize; spans.len()];
    for plane in 0..planes {
        let source = &x_all[plane * from..(plane + 1) * from];
        let target = &mut result[plane * from..(plane + 1) * from];
        window.fill(0);
        for at in plane * to..(plane + 1) * to {
            if let Some(place) = find(source, spans, &window, y[at], 0, 0) {
                target[place] = target[place].plus(g[at]);
            }
            for (w, span) in window.iter_mut().zip(spans).rev() {
                *w += 1;
                if *w < span.output {
                    break;
                }
                *w = 0;
            }
        }
    }
    Tensor::from_vec(x.shape(), result)
}

/// [`max`] over planes whose windows are two by two elements, side by side: nothing has to be
/// guessed. `width` is the number of windows in a row.
fn max_of_pairs<T: Number>(source: &[T], g: &[T], y: &[T], width: usize, target: &mut [T]) {
    let rows = source.chunks_exact(4 * width).zip(target.chunks_exact_mut(4 * width));
    for ((source, target), (g, y)) in rows.zip(g.chunks_exact(width).zip(y.chunks_exact(width))) {
        let (upper, lower) = source.split_at(2 * width);
        let (to_upper, to_lower) = target.split_at_mut(2 * width);
        let from = upper.chunks_exact(2).zip(lower.chunks_exact(2));
        let to = to_upper.chunks_exact_mut(2).zip(to_lower.chunks_exact_mut(2));
        for (((a, b), (to_a, to_b)), (&g, &y)) in from.zip(to).zip(g.iter().zip(y)) {
            let same = |x: T| (x == y) | (x.is_nan() & y.is_nan());
            let hits = [same(a[0]), same(a[1]), same(b[0]), same(b[1])];
            let share = |hit: bool| if hit { g } else { T::ZERO };
            to_a[0] = share(hits[0]);
            to_a[1] = share(hits[1] & !hits[0]);
            to_b[0] = share(hits[2] & !(hits[0] | hits[1]));
            to_b[1] = share(hits[3] & !(hits[0] | hits[1] | hits[2]));
        }
    }
}

/// The first element of a window that is `wanted`; `base` is the offset along the axes before
/// `axis`.
fn find<T: Number>(
    source: &[T],
    spans: &[Span],
    window: &[usize],
    wanted: T,
    axis: usize,
    base: usize,
) -> Option<usize> {
    let span = &spans[axis];
    let start = window[axis] * span.stride;
    for k in 0..span.kernel {
        let Some(at) = (start + k * span.dilation).checked_sub(span.begin) else { continue };
        if at >= span.input {
            break;
        }
        let place = base * span.input + at;
        let found = if axis + 1 < spans.len() {
            find(source, spans, window, wanted, axis + 1, place)
        } else {
            (source[place] == wanted || wanted.is_nan() && source[place].is_nan()).then_some(place)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Pooling of whole planes: every element's own gradient from its plane's `g`, its value and the
/// plane's result.
pub(super) fn global<T: Number>(
    g: &Array<T>,
    x: Option<&Array<T>>,
    y: Option<&Array<T>>,
    shape: &[usize],
    pooling: Pooling,
) -> Result<Tensor, OpError> {
    let (planes, n, _) = around(&[split(shape)?.0, split(shape)?.1.iter().product(), 1], 1);
    let g = elements(g);
    let (x, y) = (x.map(elements), y.map(elements));
    let mut result = Vec::with_capacity(count(shape)?);
    for plane in 0..planes {
        let value = |i: usize| x.as_ref().map_or(T::ZERO, |x| x[plane * n + i]);
        let total = y.as_ref().map_or(T::ZERO, |y| y[plane]);
        match pooling {
            Pooling::Average => {
                result.resize(result.len() + n, g[plane].over(T::of_f64(n as f64)));
            }
            Pooling::Max => {
                let first = (0..n).find(|&i| value(i) == total);
                let share = |i| if Some(i) == first { g[plane] } else { T::ZERO };
                result.extend((0..n).map(share));
            }
            Pooling::Lp(p) => {
                let power = total.to_f64().powf((p - 1) as f64);
                let factor = if power == 0.0 { 0.0 } else { g[plane].to_f64() / power };
                result.extend((0..n).map(|i| {
                    let x = value(i).to_f64();
                    let own = if p == 1 { 1.0 } else { x.abs().powf((p - 1) as f64) };
                    T::of_f64(factor * own * if x == 0.0 { 0.0 } else { x.signum() })
                }));
            }
        }
    }
    Tensor::from_vec(shape, result)
}
