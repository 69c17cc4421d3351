//! Reductions over axes.

use super::Decoding;
use super::args::{Decoded, elements, floats, numbers, one, take};
use super::arithmetic::combine;
use super::backward::{Backward, Reads, single};
use super::cast::cast;
use super::layout::{axes, broadcast_strides, copy_strided};
use super::logic::expanded;
use super::number::Number;
use super::shape::axes_of;
use super::transpose::permuted;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, DataType, Tensor};

/// Independent partial results per row: enough for the loop to vectorise, and a cure for the
/// rounding of long sums.
const LANES: usize = 16;

/// Folds one row: `merge` joins a result with what `first` makes of an element, and results with
/// each other.
#[inline(always)]
pub(super) fn fold_row<T: Number>(
    row: &[T],
    start: T,
    first: impl Fn(T) -> T,
    merge: impl Fn(T, T) -> T,
) -> T {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [start; LANES];
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = merge(*lane, first(x));
        }
    }
    let total = lanes.into_iter().fold(start, &merge);
    rest.iter().fold(total, |sum, &x| merge(sum, first(x)))
}

/// Folds the middle axis of `[outer, n, inner]`, each row as [`fold_row`] does.
pub(super) fn fold<T: Number>(
    source: &[T],
    (outer, n, inner): (usize, usize, usize),
    start: T,
    first: impl Fn(T) -> T,
    merge: impl Fn(T, T) -> T,
) -> Vec<T> {
    let mut result = vec![start; outer * inner];
    if n == 0 || result.is_empty() {
        return result;
    }
    if inner == 1 {
        for (r, row) in result.iter_mut().zip(source.chunks_exact(n)) {
            *r = fold_row(row, start, &first, &merge);
        }
        return result;
    }
    for (row, block) in result.chunks_exact_mut(inner).zip(source.chunks_exact(n * inner)) {
        for part in block.chunks_exact(inner) {
            row.iter_mut().zip(part).for_each(|(r, &x)| *r = merge(*r, first(x)));
        }
    }
    result
}

/// Which reduction.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// `array` as `[outer, n, inner]` with `n` the product of `reduced`, transposed only where the
/// reduced axes don't lie together.
fn grouped<T: Number>(
    array: Array<T>,
    reduced: &[usize],
) -> Result<(Array<T>, (usize, usize, usize)), OpError> {
    let shape = array.shape().to_vec();
    let n = reduced.iter().map(|&i| shape[i]).product();
    let (first, last) = match (reduced.first(), reduced.last()) {
        (Some(first), Some(last)) => (*first, *last),
        _ => return Ok((array, (shape.iter().product(), 1, 1))),
    };
    let together = (first..=last).all(|i| shape[i] == 1 || reduced.contains(&i));
    if together {
        let outer = shape[..first].iter().product();
        let inner = shape[last + 1..].iter().product();
        return Ok((array, (outer, n, inner)));
    }
    let kept = (0..shape.len()).filter(|i| !reduced.contains(i));
    let order: Vec<_> = kept.clone().chain(reduced.iter().copied()).collect();
    let outer = kept.map(|i| shape[i]).product();
    let array = permuted(&array, &order)?.into_typed("an operand")?;
    Ok((array, (outer, n, 1)))
}

fn reduce<T: Number>(array: Array<T>, reduced: &[usize], kind: Kind) -> Result<Vec<T>, OpError> {
    let (array, extents) = grouped(array, reduced)?;
    let source = elements(&array);
    let same = |x: T| x;
    let square = |x: T| x.times(x);
    let over = |values: Vec<T>, f: &dyn Fn(f64) -> f64| -> Vec<T> {
        values.into_iter().map(|v| T::of_f64(f(v.to_f64()))).collect()
    };
    let sum = || fold(&source, extents, T::ZERO, same, T::plus);
    Ok(match kind {
        Kind::Sum => sum(),
        Kind::Mean => {
            let n = extents.1 as f64;
            over(sum(), &|s| s / n)
        }
        Kind::Max => fold(&source, extents, T::LOWEST, same, |m, x| x.greater(m)),
        Kind::Min => fold(&source, extents, T::HIGHEST, same, |m, x| x.lesser(m)),
        Kind::Prod => fold(&source, extents, T::ONE, same, T::times),
        Kind::L1 => fold(&source, extents, T::ZERO, T::magnitude, T::plus),
        Kind::L2 => over(fold(&source, extents, T::ZERO, square, T::plus), &f64::sqrt),
        Kind::SumSquare => fold(&source, extents, T::ZERO, square, T::plus),
        Kind::LogSum => over(sum(), &f64::ln),
        Kind::LogSumExp => {
            let top = fold(&source, extents, T::LOWEST, same, |m, x| x.greater(m));
            log_sum_exp(&source, extents, &top)
        }
    })
}

/// Each sum is taken relative to its largest term, so that no exponential overflows.
fn log_sum_exp<T: Number>(
    source: &[T],
    (outer, n, inner): (usize, usize, usize),
    top: &[T],
) -> Vec<T> {
    let mut result = Vec::with_capacity(top.len());
    for block in 0..outer {
        for i in 0..inner {
            let top = top[block * inner + i].to_f64();
            let shift = if top.is_finite() { top } else { 0.0 };
            let sum: f64 =
                (0..n).map(|k| (source[(block * n + k) * inner + i].to_f64() - shift).exp()).sum();
            result.push(T::of_f64(sum.ln() + shift));
        }
    }
    result
}

/// The sums over `axes`, ascending.
pub(super) fn summed<T: Number>(array: Array<T>, axes: &[usize]) -> Result<Vec<T>, OpError> {
    reduce(array, axes, Kind::Sum)
}

/// The axes that are reduced when `given` are named.
fn reduced_axes(given: &[i64], rank: usize, nothing: bool) -> Result<Vec<usize>, OpError> {
    if given.is_empty() && !nothing { Ok((0..rank).collect()) } else { axes(given, rank) }
}

fn reduction(d: &Decoding<'_>, kind: Kind) -> Decoded {
    let keep = d.node.int("keepdims").unwrap_or(1) != 0;
    let nothing = d.node.int("noop_with_empty_axes").unwrap_or(0) != 0;
    let attribute = d.node.ints("axes").map(<[i64]>::to_vec);
    let named = attribute.clone();
    let run = one(move |inputs| {
        let given = axes_of(inputs, attribute.as_ref())?.unwrap_or_default();
        let mut tensor = take(inputs, 0)?;
        let logical = tensor.data_type() == DataType::Bool;
        if logical && matches!(kind, Kind::Max | Kind::Min) {
            tensor = cast(&tensor, DataType::U8)?;
        }
        let from = tensor.shape().to_vec();
        let reduced = reduced_axes(&given, from.len(), nothing)?;
        let mut shape = Vec::with_capacity(from.len());
        for (i, &extent) in from.iter().enumerate() {
            match reduced.contains(&i) {
                true if keep => shape.push(1),
                true => {}
                false => shape.push(extent),
            }
        }
        let result = numbers!(tensor, "an operand", a => {
            Tensor::from_vec(&shape, reduce(a, &reduced, kind)?)
        })?;
        if logical { cast(&result, DataType::Bool) } else { Ok(result) }
    });
    let reads = match kind {
        Kind::Sum | Kind::Mean => Reads::NOTHING,
        Kind::L1 | Kind::SumSquare => Reads::INPUTS,
        _ => Reads::ALL,
    };
    single(run, reads, move |pass, gradient| {
        let given = match (&named, pass.has(1)) {
            (Some(axes), _) => axes.clone(),
            (None, true) => pass.input(1)?.to_i64_vec("axes")?,
            (None, false) => Vec::new(),
        };
        let shape = pass.shape(0)?;
        let reduced = reduced_axes(&given, shape.len(), nothing)?;
        let mut kept = shape.to_vec();
        reduced.iter().for_each(|&axis| kept[axis] = 1);
        let n = reduced.iter().map(|&axis| shape[axis]).product();
        floats!(gradient.reshape(&kept)?, "a gradient", g => {
            spread::<T>(pass, kind, &g, n)
        })
    })
}

/// The gradient `g` of a reduction, whose shape keeps the reduced axes as 1, brought to the `n`
/// elements behind each result.
fn spread<T: Number>(
    pass: &Backward<'_>,
    kind: Kind,
    g: &Array<T>,
    n: usize,
) -> Result<Tensor, OpError> {
    let shape = pass.shape(0)?;
    let wide = Array::from_shape_vec(shape, expanded(g, shape)?)
        .map_err(|e| OpError::shape(e.to_string()))?;
    let x = || Ok::<_, OpError>(pass.input(0)?.typed::<T>("an operand")?.clone());
    // Results repeated like the gradient.
    let y = || pass.output(0)?.clone().reshape(g.shape())?.into_typed::<T>("a result");
    let sign = |x: T| match x.partial_cmp(&T::ZERO) {
        Some(std::cmp::Ordering::Greater) => T::ONE,
        Some(std::cmp::Ordering::Less) => T::ONE.negative(),
        _ => T::ZERO,
    };
    let result = match kind {
        Kind::Sum => wide,
        Kind::Mean => {
            let n = T::of_f64(n as f64);
            wide.mapv_into(|g| g.over(n)).into_shared()
        }
        Kind::L1 => combine(wide, x()?, |g, x| g.times(sign(x)))?,
        Kind::SumSquare => combine(wide, x()?, |g, x| g.times(x.plus(x)))?,
        Kind::L2 => {
            let unit = combine(x()?, y()?, |x, y| if y == T::ZERO { y } else { x.over(y) })?;
            combine(wide, unit, T::times)?
        }
        Kind::LogSum => combine(wide, y()?, |g, y| T::of_f64(g.to_f64() / y.to_f64().exp()))?,
        Kind::LogSumExp => {
            let share = combine(x()?, y()?, |x, y| T::of_f64((x.minus(y)).to_f64().exp()))?;
            combine(wide, share, T::times)?
        }
        Kind::Prod => combine(wide, others(x()?, g.shape())?, T::times)?,
        // Elements that are the extremum share the gradient equally.
        Kind::Max | Kind::Min => {
            let is_it = |x: T, y: T| if x == y { T::ONE } else { T::ZERO };
            let hits = combine(x()?, y()?, is_it)?;
            let axes: Vec<usize> = (0..shape.len()).filter(|&i| g.shape()[i] != shape[i]).collect();
            let counts = Tensor::from_vec(g.shape(), summed(hits.clone(), &axes)?)?;
            let share = combine(hits, counts.into_typed("counts")?, T::over)?;
            combine(wide, share, T::times)?
        }
    };
    Ok(T::wrap(result))
}

/// For every element, the product of the others that are reduced to the same result, of a reduction
/// to `kept`.
fn others<T: Number>(array: Array<T>, kept: &[usize]) -> Result<Array<T>, OpError> {
    let shape = array.shape().to_vec();
    let steps = broadcast_strides(kept, &shape)?;
    let places: Vec<_> = shape.iter().zip(steps).map(|(&n, s)| (n, s as isize)).collect();
    let results: Vec<usize> = (0..kept.iter().product()).collect();
    let places = copy_strided(&results, 0, &places)?;
    let mut result = vec![T::ONE; array.len()];
    // Products of what comes before, then of what comes after: right where elements are zero.
    let source = elements(&array);
    let mut product = vec![T::ONE; results.len()];
    for ((r, &x), &place) in result.iter_mut().zip(source.iter()).zip(&places) {
        *r = product[place];
        product[place] = product[place].times(x);
    }
    product.fill(T::ONE);
    for ((r, &x), &place) in result.iter_mut().zip(source.iter()).zip(&places).rev() {
        *r = r.times(product[place]);
        product[place] = product[place].times(x);
    }
    Array::from_shape_vec(shape, result).map_err(|e| OpError::shape(e.to_string()))
}

macro_rules! reductions {
    ($($name:ident: $kind:ident;)*) => {$(
        pub(super) fn $name(d: &Decoding<'_>) -> Decoded {
            reduction(d, Kind::$kind)
        }
    )*};
}

reductions! {
    sum: Sum;
    mean: Mean;
    max: Max;
    min: Min;
    prod: Prod;
    l1: L1;
    l2: L2;
    sum_square: SumSquare;
    log_sum: LogSum;
    log_sum_exp_node: LogSumExp;
}
