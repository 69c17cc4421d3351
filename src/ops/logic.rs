//! Comparisons, logic on booleans, and choosing by a condition.

use super::Decoding;
use super::args::{Decoded, elements, floats, numbers, one, peek, take, update};
use super::arithmetic::{combine, compare};
use super::backward::{Reads, flat, rule, unbroadcast};
use super::layout::{broadcast, broadcast_strides, copy_strided};
use crate::error::OpError;
use crate::tensor::{Array, Element, Tensor};
use crate::with_array;

macro_rules! comparisons {
    ($($name:ident: $f:expr;)*) => {$(
        pub(super) fn $name(_: &Decoding<'_>) -> Decoded {
            flat(one(|inputs| {
                let second = take(inputs, 1)?;
                numbers!(take(inputs, 0)?, "an operand", a => {
                    compare(&a, second.typed("the second operand")?, $f).map(Tensor::Bool)
                })
            }))
        }
    )*};
}

comparisons! {
    greater: |x, y| x > y;
    greater_or_equal: |x, y| x >= y;
    less: |x, y| x < y;
    less_or_equal: |x, y| x <= y;
}

pub(super) fn equal(_: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(a: &Array<T>, b: &Tensor) -> Result<Tensor, OpError> {
        compare(a, b.typed("the second operand")?, |x, y| x == y).map(Tensor::Bool)
    }
    flat(one(|inputs| with_array!(peek(inputs, 0)?, a => go(a, peek(inputs, 1)?))))
}

macro_rules! logical {
    ($($name:ident: $f:expr;)*) => {$(
        pub(super) fn $name(_: &Decoding<'_>) -> Decoded {
            flat(one(|inputs| {
                let b = take(inputs, 1)?.into_typed::<bool>("a logical operand")?;
                let a = take(inputs, 0)?.into_typed::<bool>("a logical operand")?;
                combine(a, b, $f).map(Tensor::Bool)
            }))
        }
    )*};
}

logical! {
    and: |x, y| x & y;
    or: |x, y| x | y;
    xor: |x, y| x ^ y;
}

/// The elements of `array` repeated to fill `shape`.
pub(super) fn expanded<T: Element>(array: &Array<T>, shape: &[usize]) -> Result<Vec<T>, OpError> {
    let strides = broadcast_strides(array.shape(), shape)?;
    let axes: Vec<_> = shape.iter().zip(strides).map(|(&n, s)| (n, s as isize)).collect();
    copy_strided(&elements(array), 0, &axes)
}

pub(super) fn choose(_: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(c: &Array<bool>, x: &Array<T>, y: &Tensor) -> Result<Tensor, OpError> {
        let y = y.typed::<T>("the alternative")?;
        let shape = broadcast(&broadcast(c.shape(), x.shape())?, y.shape())?;
        let mut result = expanded(x, &shape)?;
        if y.len() == 1 && c.shape() == shape.as_slice() {
            let other = elements(y)[0];
            for (r, &c) in result.iter_mut().zip(elements(c).iter()) {
                *r = if c { *r } else { other };
            }
            return Tensor::from_vec(&shape, result);
        }
        let (c, y) = (expanded(c, &shape)?, expanded(y, &shape)?);
        for ((r, c), y) in result.iter_mut().zip(c).zip(y) {
            *r = if c { *r } else { y };
        }
        Tensor::from_vec(&shape, result)
    }
    let run = one(|inputs| {
        let condition = peek(inputs, 0)?.typed::<bool>("a condition")?;
        with_array!(peek(inputs, 1)?, x => go(condition, x, peek(inputs, 2)?))
    });
    rule(run, Reads::NOTHING, |pass| {
        let gradient = pass.gradient(0)?;
        let chosen = expanded(pass.input(0)?.typed::<bool>("a condition")?, gradient.shape())?;
        let part = |index: usize, side: bool| {
            if !pass.wants(index) {
                return Ok(None);
            }
            let masked = floats!(gradient.clone(), "a gradient", g => {
                Ok(Tensor::from(update(g, |slice| {
                    let off = slice.iter_mut().zip(&chosen).filter(|(_, c)| **c != side);
                    off.for_each(|(g, _)| *g = 0.0);
                })))
            })?;
            unbroadcast(masked, pass.shape(index)?).map(Some)
        };
        Ok(vec![None, part(1, true)?, part(2, false)?])
    })
}
