//! Pooling. Maxima and sums over a box are taken one axis after the other: the cost grows with the
//! sum of the kernel's extents, not with their product.

mod backward;

use super::Decoding;
use super::args::{Decoded, elements, floats, numbers, one, take};
use super::backward::{Reads, single};
use super::layout::count;
use super::number::Number;
use super::reduce::fold;
use super::window::{Span, Window};
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Tensor};

/// Extents of `[n, c, spatial...]`: planes, and the spatial axes.
fn split(shape: &[usize]) -> Result<(usize, &[usize]), OpError> {
    match shape {
        [n, c, spatial @ ..] if !spatial.is_empty() => Ok((n * c, spatial)),
        _ => Err(OpError::shape(format!("{shape:?} is not [n, c, spatial...]"))),
    }
}

/// Merges the elements of each window along one axis of `[outer, span.input, inner]`.
fn slide<T: Number>(
    source: &[T],
    outer: usize,
    inner: usize,
    span: &Span,
    start: T,
    merge: impl Fn(T, T) -> T,
) -> Result<Vec<T>, OpError> {
    let mut result = vec![start; count(&[outer, span.output, inner])?];
    let (from, to) = (span.input * inner, span.output * inner);
    if from == 0 || to == 0 {
        return Ok(result);
    }
    if span.is_pairs() {
        pairs(source, inner, start, merge, &mut result);
        return Ok(result);
    }
    for (block, target) in source.chunks_exact(from).zip(result.chunks_exact_mut(to)) {
        for k in 0..span.kernel {
            let (windows, at) = span.covered(k);
            if windows.is_empty() {
                continue;
            }
            if inner == 1 {
                let target = &mut target[windows];
                let block = &block[at..];
                match span.stride {
                    1 => target.iter_mut().zip(block).for_each(|(t, &x)| *t = merge(*t, x)),
                    2 => {
                        // Pairs of a known size let the compiler use vectors. The last window's
                        // tap may be the last element.
                        let (pairs, last) = (target.len() - 1, block[2 * (target.len() - 1)]);
                        let taps = block[..2 * pairs].chunks_exact(2);
                        target.iter_mut().zip(taps).for_each(|(t, x)| *t = merge(*t, x[0]));
                        target[pairs] = merge(target[pairs], last);
                    }
                    stride => {
                        let taps = block.iter().step_by(stride);
                        target.iter_mut().zip(taps).for_each(|(t, &x)| *t = merge(*t, x));
                    }
                }
                continue;
            }
            for (step, w) in windows.enumerate() {
                let row = &block[(at + step * span.stride) * inner..][..inner];
                let target = &mut target[w * inner..(w + 1) * inner];
                target.iter_mut().zip(row).for_each(|(t, &x)| *t = merge(*t, x));
            }
        }
    }
    Ok(result)
}

/// Merges the two elements of each window where windows of two elements lie side by side: blocks
/// follow one another without a seam.
fn pairs<T: Number>(
    source: &[T],
    inner: usize,
    start: T,
    merge: impl Fn(T, T) -> T,
    result: &mut [T],
) {
    if inner == 1 {
        for (t, pair) in result.iter_mut().zip(source.chunks_exact(2)) {
            *t = merge(merge(start, pair[0]), pair[1]);
        }
        return;
    }
    for (target, rows) in result.chunks_exact_mut(inner).zip(source.chunks_exact(2 * inner)) {
        let (first, second) = rows.split_at(inner);
        for (t, (&a, &b)) in target.iter_mut().zip(first.iter().zip(second)) {
            *t = merge(merge(start, a), b);
        }
    }
}

/// Merges the elements of each window of every plane, `first` being applied to all of them before
/// that; gives the result's shape too.
fn pooled<T: Number>(
    array: &Array<T>,
    spans: &[Span],
    start: T,
    first: Option<&dyn Fn(T) -> T>,
    merge: impl Fn(T, T) -> T + Copy,
) -> Result<(Vec<usize>, Vec<T>), OpError> {
    let (planes, _) = split(array.shape())?;
    let mut shape = array.shape().to_vec();
    let mut data = elements(array);
    if let Some(first) = first {
        data = data.iter().map(|&x| first(x)).collect();
    }
    for (i, span) in spans.iter().enumerate() {
        let outer = planes * shape[2..2 + i].iter().product::<usize>();
        let inner = shape[3 + i..].iter().product();
        data = slide(&data, outer, inner, span, start, merge)?.into();
        shape[2 + i] = span.output;
    }
    Ok((shape, data.into_owned()))
}

pub(super) fn max(d: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(array: &Array<T>, window: &Window) -> Result<Tensor, OpError> {
        let spans = window.spans(split(array.shape())?.1)?;
        let (shape, data) = pooled(array, &spans, T::LOWEST, None, |m, x| x.greater(m))?;
        Tensor::from_vec(&shape, data)
    }
    if d.node.output.iter().skip(1).any(|name| !name.is_empty()) {
        return Err(OpError::unsupported("MaxPool with indices"));
    }
    let window = Window::of(d)?;
    let same = window.clone();
    let run =
        one(move |inputs| numbers!(take(inputs, 0)?, "an input of MaxPool", a => go(&a, &window)));
    single(run, Reads::ALL, move |pass, gradient| {
        floats!(gradient, "a gradient", g => {
            let x = pass.input(0)?.typed::<T>("an input of MaxPool")?;
            let spans = same.spans(split(x.shape())?.1)?;
            backward::max(&g, x, pass.output(0)?.typed("a result")?, &spans)
        })
    })
}

/// For each window, one over the number of elements it averages over.
fn divisors<T: Number>(spans: &[Span], with_padding: bool) -> Vec<T> {
    // The number of elements of a box is the product over its axes.
    let mut counts = vec![1.0];
    for span in spans {
        let (low, high) = if with_padding {
            (0, span.begin + span.input + span.end)
        } else {
            (span.begin, span.begin + span.input)
        };
        let along: Vec<f64> = (0..span.output)
            .map(|w| {
                let taps = (0..span.kernel).map(|k| w * span.stride + k * span.dilation);
                taps.filter(|t| (low..high).contains(t)).count() as f64
            })
            .collect();
        counts = counts.iter().flat_map(|c| along.iter().map(move |a| c * a)).collect();
    }
    counts.into_iter().map(|c| T::of_f64(1.0 / c)).collect()
}

pub(super) fn average(d: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(
        array: &Array<T>,
        window: &Window,
        with_padding: bool,
    ) -> Result<Tensor, OpError> {
        let spans = window.spans(split(array.shape())?.1)?;
        let (shape, mut data) = pooled(array, &spans, T::ZERO, None, T::plus)?;
        let factors = divisors::<T>(&spans, with_padding);
        for plane in data.chunks_exact_mut(factors.len().max(1)) {
            plane.iter_mut().zip(&factors).for_each(|(x, &f)| *x = x.times(f));
        }
        Tensor::from_vec(&shape, data)
    }
    let window = Window::of(d)?;
    let same = window.clone();
    let with_padding = d.node.int("count_include_pad").unwrap_or(0) != 0;
    let run = one(move |inputs| {
        floats!(take(inputs, 0)?, "an input of AveragePool", a => {
            go::<T>(&a, &window, with_padding)
        })
    });
    single(run, Reads::NOTHING, move |pass, gradient| {
        let shape = pass.shape(0)?;
        let spans = same.spans(split(shape)?.1)?;
        floats!(gradient, "a gradient", g => backward::average(&g, shape, &spans, with_padding))
    })
}

/// The exponent of an Lp pooling.
fn exponent(d: &Decoding<'_>) -> Result<i64, OpError> {
    match d.node.int("p").unwrap_or(2) {
        p @ 1.. => Ok(p),
        p => Err(OpError::Attribute { name: "p", reason: format!("{p} is not positive") }),
    }
}

/// |x|^p.
fn raise<T: Number>(x: T, p: i64) -> T {
    match p {
        1 => x.magnitude(),
        2 => x.times(x),
        _ => T::of_f64(x.to_f64().abs().powf(p as f64)),
    }
}

/// The p-th root.
fn root<T: Number>(x: T, p: i64) -> T {
    match p {
        1 => x,
        2 => T::of_f64(x.to_f64().sqrt()),
        _ => T::of_f64(x.to_f64().powf(1.0 / p as f64)),
    }
}

pub(super) fn lp(d: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(array: &Array<T>, window: &Window, p: i64) -> Result<Tensor, OpError> {
        let spans = window.spans(split(array.shape())?.1)?;
        let (shape, mut data) = pooled(array, &spans, T::ZERO, Some(&|x| raise(x, p)), T::plus)?;
        data.iter_mut().for_each(|x| *x = root(*x, p));
        Tensor::from_vec(&shape, data)
    }
    let (window, p) = (Window::of(d)?, exponent(d)?);
    let same = window.clone();
    let run = one(
        move |inputs| floats!(take(inputs, 0)?, "an input of LpPool", a => go::<T>(&a, &window, p)),
    );
    single(run, Reads::ALL, move |pass, gradient| {
        floats!(gradient, "a gradient", g => {
            let x = pass.input(0)?.typed::<T>("an input of LpPool")?;
            let spans = same.spans(split(x.shape())?.1)?;
            backward::lp(&g, x, pass.output(0)?.typed("a result")?, &spans, p)
        })
    })
}

/// Pools each plane to one element.
fn global<T: Number>(
    array: &Array<T>,
    start: T,
    first: impl Fn(T) -> T,
    merge: impl Fn(T, T) -> T,
    finish: impl Fn(T, usize) -> T,
) -> Result<Tensor, OpError> {
    let (planes, spatial) = split(array.shape())?;
    let n = spatial.iter().product();
    let mut data = fold(&elements(array), (planes, n, 1), start, first, merge);
    data.iter_mut().for_each(|x| *x = finish(*x, n));
    let mut shape = array.shape().to_vec();
    shape[2..].fill(1);
    Tensor::from_vec(&shape, data)
}

/// How a plane becomes one element.
#[derive(Clone, Copy)]
enum Pooling {
    Average,
    Max,
    Lp(i64),
}

/// A pooling of whole planes with its rule.
fn global_rule(run: Decoded, pooling: Pooling) -> Decoded {
    let reads = if matches!(pooling, Pooling::Average) { Reads::NOTHING } else { Reads::ALL };
    single(run, reads, move |pass, gradient| {
        floats!(gradient, "a gradient", g => {
            let values = match pooling {
                Pooling::Average => (None, None),
                _ => (
                    Some(pass.input(0)?.typed::<T>("an operand")?),
                    Some(pass.output(0)?.typed::<T>("a result")?),
                ),
            };
            backward::global(&g, values.0, values.1, pass.shape(0)?, pooling)
        })
    })
}

pub(super) fn global_average(_: &Decoding<'_>) -> Decoded {
    let run = one(|inputs| {
        floats!(take(inputs, 0)?, "an input of GlobalAveragePool", a => {
            global(&a, 0.0, |x| x, |s: T, x| s + x, |s, n| s / n as T)
        })
    });
    global_rule(run, Pooling::Average)
}

pub(super) fn global_max(_: &Decoding<'_>) -> Decoded {
    let run = one(|inputs| {
        floats!(take(inputs, 0)?, "an input of GlobalMaxPool", a => {
            global(&a, T::NEG_INFINITY, |x| x, |m: T, x| x.greater(m), |m, _| m)
        })
    });
    global_rule(run, Pooling::Max)
}

pub(super) fn global_lp(d: &Decoding<'_>) -> Decoded {
    let p = exponent(d)?;
    let run = one(move |inputs| {
        floats!(take(inputs, 0)?, "an input of GlobalLpPool", a => {
            global(&a, 0.0, |x| raise(x, p), |s: T, x| s + x, |s, _| root(s, p))
        })
    });
    global_rule(run, Pooling::Lp(p))
}
