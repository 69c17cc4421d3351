//! Softmax and relatives, over rows `[outer, n, inner]` along the middle axis.

use super::Decoding;
use super::args::{Decoded, Inputs, elements, floats, one, take, update};
use super::backward::{Reads, flat, single};
use super::layout::{around, axis, axis_or_end};
use super::number::Number;
use super::reduce::fold_row;
use super::special::Special;
use crate::error::OpError;
use crate::kernels::wide;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};

/// Extents before, along and after the normalised axis.
type Extents = (usize, usize, usize);

/// The extents as a function of the shape: before opset 13 the axes from `axis` on are one.
fn extents(d: &Decoding<'_>) -> impl Fn(&[usize]) -> Result<Extents, OpError> + use<> {
    let flat = d.opset < 13;
    let given = d.node.int("axis").unwrap_or(if flat { 1 } else { -1 });
    move |shape| {
        if flat {
            let at = axis_or_end(given, shape.len())?;
            Ok((shape[..at].iter().product(), shape[at..].iter().product(), 1))
        } else {
            Ok(around(shape, axis(given, shape.len())?))
        }
    }
}

pub(super) fn softmax(d: &Decoding<'_>) -> Decoded {
    normalised(d, false)
}

pub(super) fn log_softmax(d: &Decoding<'_>) -> Decoded {
    normalised(d, true)
}

fn normalised(d: &Decoding<'_>, log: bool) -> Decoded {
    let forward = extents(d);
    let backward = extents(d);
    let run = one(move |inputs| over_rows(inputs, &forward, Normaliser { log }));
    single(run, Reads::OUTPUTS, move |pass, gradient| {
        floats!(gradient, "a gradient", g => {
            let y = elements(pass.output(0)?.typed::<T>("a result")?);
            let extents = backward(g.shape())?;
            Ok(Tensor::from(update(g, |g| through_rows(g, &y, extents, log))))
        })
    })
}

/// Turns the gradient `g` of the result `y` into that of the operand: `y (g - sum y g)`, or for
/// logarithms `g - e^y sum g`.
fn through_rows<T: Number + Special>(g: &mut [T], y: &[T], (_, n, inner): Extents, log: bool) {
    if g.is_empty() {
        return;
    }
    let mut sums = vec![T::ZERO; inner];
    for (g, y) in g.chunks_exact_mut(n * inner).zip(y.chunks_exact(n * inner)) {
        sums.fill(T::ZERO);
        for (g, y) in g.chunks_exact(inner).zip(y.chunks_exact(inner)) {
            for ((sum, &g), &y) in sums.iter_mut().zip(g).zip(y) {
                *sum = sum.plus(if log { g } else { g.times(y) });
            }
        }
        for (g, y) in g.chunks_exact_mut(inner).zip(y.chunks_exact(inner)) {
            for ((g, &y), &sum) in g.iter_mut().zip(y).zip(&sums) {
                *g = if log { g.minus(y.exponential().times(sum)) } else { y.times(g.minus(sum)) };
            }
        }
    }
}

struct Normaliser {
    log: bool,
}

fn over_rows(
    inputs: &mut Inputs,
    extents: &impl Fn(&[usize]) -> Result<Extents, OpError>,
    normaliser: Normaliser,
) -> Result<Tensor, OpError> {
    floats!(take(inputs, 0)?, "a float operand", a => {
        let extents = extents(a.shape())?;
        Ok(Tensor::from(update(a, |slice| wide!(normaliser.apply::<T>(slice, extents)))))
    })
}

impl Normaliser {
    #[inline(always)]
    fn apply<T>(&self, slice: &mut [T], (_, n, inner): Extents)
    where
        T: Number + Special + Logarithm,
    {
        if slice.is_empty() {
            return;
        }
        if inner == 1 {
            for row in slice.chunks_exact_mut(n) {
                self.row(row);
            }
            return;
        }
        let (mut top, mut sum) = (vec![T::LOWEST; inner], vec![T::ZERO; inner]);
        for block in slice.chunks_exact_mut(n * inner) {
            top.fill(T::LOWEST);
            sum.fill(T::ZERO);
            for row in block.chunks_exact(inner) {
                top.iter_mut().zip(row).for_each(|(t, &x)| *t = t.greater(x));
            }
            for row in block.chunks_exact_mut(inner) {
                for ((x, &t), s) in row.iter_mut().zip(&top).zip(&mut sum) {
                    let shifted = x.minus(t);
                    let e = shifted.exponential();
                    *s = s.plus(e);
                    *x = if self.log { shifted } else { e };
                }
            }
            for row in block.chunks_exact_mut(inner) {
                for (x, &s) in row.iter_mut().zip(&sum) {
                    *x = if self.log { x.minus(s.logarithm()) } else { x.over(s) };
                }
            }
        }
    }

    #[inline(always)]
    fn row<T>(&self, row: &mut [T])
    where
        T: Number + Special + Logarithm,
    {
        let top = fold_row(row, T::LOWEST, |x| x, |t, x| t.greater(x));
        if self.log {
            row.iter_mut().for_each(|x| *x = x.minus(top));
            let sum = fold_row(row, T::ZERO, T::exponential, T::plus).logarithm();
            row.iter_mut().for_each(|x| *x = x.minus(sum));
        } else {
            row.iter_mut().for_each(|x| *x = x.minus(top).exponential());
            let sum = fold_row(row, T::ZERO, |x| x, T::plus);
            let scale = T::ONE.over(sum);
            row.iter_mut().for_each(|x| *x = x.times(scale));
        }
    }
}

/// The natural logarithm, by a name both float types share.
trait Logarithm {
    fn logarithm(self) -> Self;
}

impl Logarithm for f32 {
    fn logarithm(self) -> Self {
        self.ln()
    }
}

impl Logarithm for f64 {
    fn logarithm(self) -> Self {
        self.ln()
    }
}

pub(super) fn hardmax(d: &Decoding<'_>) -> Decoded {
    fn go<T: Number + Element>(array: Array<T>, extents: Extents) -> Result<Tensor, OpError> {
        let (_, n, inner) = extents;
        Ok(T::wrap(update(array, |slice| {
            if slice.is_empty() {
                return;
            }
            for block in slice.chunks_exact_mut(n * inner) {
                for i in 0..inner {
                    let mut best = 0;
                    for k in 1..n {
                        if block[k * inner + i] > block[best * inner + i] {
                            best = k;
                        }
                    }
                    for k in 0..n {
                        block[k * inner + i] = if k == best { T::ONE } else { T::ZERO };
                    }
                }
            }
        })))
    }
    let extents = extents(d);
    flat(one(move |inputs| {
        floats!(take(inputs, 0)?, "a float operand", a => {
            let extents = extents(a.shape())?;
            go::<T>(a, extents)
        })
    }))
}
