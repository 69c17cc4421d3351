//! Functions of one element: arithmetic, rounding, trigonometry, tests for NaN and infinity.

use super::Decoding;
use super::args::{Decoded, floats, map_floats, numbers, one, take, update};
use super::number::Number;
use super::special::Special;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Tensor};

macro_rules! float_functions {
    ($($name:ident: $x:ident => $body:expr;)*) => {$(
        pub(super) fn $name(_: &Decoding<'_>) -> Decoded {
            one(|inputs| map_floats!(take(inputs, 0)?, $x => $body))
        }
    )*};
}

float_functions! {
    sqrt: x => x.sqrt();
    exp: x => x.exponential();
    log: x => x.ln();
    reciprocal: x => x.recip();
    floor: x => x.floor();
    ceil: x => x.ceil();
    round: x => x.round_ties_even();
    erf: x => x.error_function();
    sin: x => x.sin();
    cos: x => x.cos();
    tan: x => x.tan();
    asin: x => x.asin();
    acos: x => x.acos();
    atan: x => x.atan();
    sinh: x => x.sinh();
    cosh: x => x.cosh();
    asinh: x => x.asinh();
    acosh: x => x.acosh();
    atanh: x => x.atanh();
}

fn map<T: Number>(array: Array<T>, f: impl Fn(T) -> T) -> Result<Tensor, OpError> {
    Ok(T::wrap(update(array, |slice| slice.iter_mut().for_each(|x| *x = f(*x)))))
}

pub(super) fn neg(_: &Decoding<'_>) -> Decoded {
    one(|inputs| numbers!(take(inputs, 0)?, "an operand", a => map(a, Number::negative)))
}

pub(super) fn abs(_: &Decoding<'_>) -> Decoded {
    one(|inputs| numbers!(take(inputs, 0)?, "an operand", a => map(a, Number::magnitude)))
}

pub(super) fn sign(_: &Decoding<'_>) -> Decoded {
    fn sign<T: Number>(x: T) -> T {
        if x > T::ZERO {
            T::ONE
        } else if x < T::ZERO {
            T::ONE.negative()
        } else {
            // Zero stays zero and NaN stays NaN.
            x
        }
    }
    one(|inputs| numbers!(take(inputs, 0)?, "an operand", a => map(a, sign)))
}

pub(super) fn not(_: &Decoding<'_>) -> Decoded {
    one(|inputs| {
        let array = take(inputs, 0)?.into_typed::<bool>("a logical operand")?;
        Ok(Tensor::Bool(update(array, |slice| slice.iter_mut().for_each(|x| *x = !*x))))
    })
}

pub(super) fn is_nan(_: &Decoding<'_>) -> Decoded {
    one(|inputs| {
        floats!(take(inputs, 0)?, "a float operand", a => {
            Ok(Tensor::Bool(a.mapv(|x: T| x.is_nan()).into_shared()))
        })
    })
}

pub(super) fn is_inf(d: &Decoding<'_>) -> Decoded {
    let negative = d.node.int("detect_negative").unwrap_or(1) != 0;
    let positive = d.node.int("detect_positive").unwrap_or(1) != 0;
    one(move |inputs| {
        floats!(take(inputs, 0)?, "a float operand", a => {
            let test = |x: T| x == T::INFINITY && positive || x == T::NEG_INFINITY && negative;
            Ok(Tensor::Bool(a.mapv(test).into_shared()))
        })
    })
}
