//! Operators that compare elements along an axis: ArgMax, ArgMin, TopK.

use std::cmp::Ordering;

use super::Decoding;
use super::args::{Decoded, elements, floats, many, numbers, one, peek, scalar_i64, take};
use super::backward::{Reads, flat, single};
use super::layout::{around, axis, count, extent};
use super::number::Number;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Tensor};

/// How the position of an extremum is told.
#[derive(Clone, Copy)]
struct Choice {
    axis: i64,
    keep: bool,
    last: bool,
    largest: bool,
}

impl Choice {
    fn of(d: &Decoding<'_>, largest: bool) -> Self {
        Self {
            axis: d.node.int("axis").unwrap_or(0),
            keep: d.node.int("keepdims").unwrap_or(1) != 0,
            last: d.node.int("select_last_index").unwrap_or(0) != 0,
            largest,
        }
    }

    fn run<T: Number>(self, array: &Array<T>) -> Result<Tensor, OpError> {
        let at = axis(self.axis, array.ndim())?;
        let (outer, n, inner) = around(array.shape(), at);
        let mut shape = array.shape().to_vec();
        if self.keep {
            shape[at] = 1;
        } else {
            shape.remove(at);
        }
        if n == 0 && outer * inner != 0 {
            return Err(OpError::shape("no extremum of nothing"));
        }
        let source = elements(array);
        let mut result = Vec::with_capacity(outer * inner);
        for block in 0..outer {
            for i in 0..inner {
                let value = |k: usize| source[(block * n + k) * inner + i];
                let best = (1..n)
                    .fold(0, |best, k| if self.prefers(value(k), value(best)) { k } else { best });
                result.push(best as i64);
            }
        }
        Tensor::from_vec(&shape, result)
    }

    /// Whether a later element beats the best so far; NaN beats every number.
    fn prefers<T: Number>(self, new: T, best: T) -> bool {
        if new.is_nan() || best.is_nan() {
            return new.is_nan() && (self.last || !best.is_nan());
        }
        let better = if self.largest { new > best } else { new < best };
        better || (self.last && new == best)
    }
}

pub(super) fn arg_max(d: &Decoding<'_>) -> Decoded {
    let choice = Choice::of(d, true);
    flat(one(move |inputs| numbers!(take(inputs, 0)?, "an operand", a => choice.run(&a))))
}

pub(super) fn arg_min(d: &Decoding<'_>) -> Decoded {
    let choice = Choice::of(d, false);
    flat(one(move |inputs| numbers!(take(inputs, 0)?, "an operand", a => choice.run(&a))))
}

pub(super) fn top_k(d: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(
        array: &Array<T>,
        k: usize,
        at: i64,
        largest: bool,
    ) -> Result<Vec<Tensor>, OpError> {
        let at = axis(at, array.ndim())?;
        let (outer, n, inner) = around(array.shape(), at);
        if k > n {
            return Err(OpError::value(format!("the {k} best of {n}")));
        }
        let mut shape = array.shape().to_vec();
        shape[at] = k;
        let total = count(&shape)?;
        let source = elements(array);
        let (mut values, mut places) = (vec![T::ZERO; total], vec![0i64; total]);
        let mut order: Vec<usize> = Vec::with_capacity(n);
        for block in 0..outer {
            for i in 0..inner {
                let value = |place: &usize| source[(block * n + place) * inner + i];
                // NaN counts as larger than every number; equal elements keep their order.
                let ascending = |a: &usize, b: &usize| {
                    let (x, y) = (value(a), value(b));
                    x.partial_cmp(&y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
                };
                let compare = |a: &usize, b: &usize| -> Ordering {
                    let way = ascending(a, b);
                    (if largest { way.reverse() } else { way }).then(a.cmp(b))
                };
                order.clear();
                order.extend(0..n);
                if k < n && k > 0 {
                    order.select_nth_unstable_by(k - 1, compare);
                }
                order.truncate(k);
                order.sort_unstable_by(compare);
                for (rank, place) in order.iter().enumerate() {
                    let target = (block * k + rank) * inner + i;
                    values[target] = value(place);
                    places[target] = *place as i64;
                }
            }
        }
        Ok(vec![Tensor::from_vec(&shape, values)?, Tensor::from_vec(&shape, places)?])
    }
    let at = d.node.int("axis").unwrap_or(-1);
    let largest = d.node.int("largest").unwrap_or(1) != 0;
    let attribute = if d.opset < 10 { Some(d.node.int("k").unwrap_or(0)) } else { None };
    let run = many(move |inputs| {
        let k = match attribute {
            Some(k) => k,
            None => scalar_i64(peek(inputs, 1)?, "k")?,
        };
        let k = extent(k)?;
        numbers!(take(inputs, 0)?, "an operand", a => go(&a, k, at, largest))
    });
    single(run, Reads::OUTPUTS, move |pass, gradient| {
        let places = pass.output(1)?.to_i64_vec("a place")?;
        let shape = pass.shape(0)?;
        let (_, n, inner) = around(shape, axis(at, shape.len())?);
        floats!(gradient, "a gradient", g => {
            let (_, k, _) = around(g.shape(), axis(at, g.ndim())?);
            let mut result = vec![0.0; count(shape)?];
            for (i, (&g, place)) in elements(&g).iter().zip(places).enumerate() {
                let block = i / (k * inner);
                result[(block * n + place as usize) * inner + i % inner] = g;
            }
            Tensor::from_vec::<T>(shape, result)
        })
    })
}
