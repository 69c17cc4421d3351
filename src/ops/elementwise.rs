//! Functions of one element: arithmetic, rounding, trigonometry, tests for NaN and infinity.

use super::Decoding;
use super::args::{Decoded, floats, map_floats, numbers, one, slope, take, update};
use super::backward::{Reads, flat, single};
use super::number::Number;
use super::special::Special;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Tensor};

/// Each with its derivative, written in terms of the input or of the output.
macro_rules! float_functions {
    ($($name:ident: $x:ident => $body:expr, from $side:ident $v:ident => $slope:expr;)*) => {$(
        pub(super) fn $name(_: &Decoding<'_>) -> Decoded {
            let run = one(|inputs| map_floats!(take(inputs, 0)?, $x => $body));
            slope!(run, $side $v => $slope)
        }
    )*};
}

float_functions! {
    sqrt: x => x.sqrt(), from output y => 0.5 / y;
    exp: x => x.exponential(), from output y => y;
    log: x => x.ln(), from input x => x.recip();
    reciprocal: x => x.recip(), from output y => -y * y;
    erf: x => x.error_function(),
        from input x => std::f64::consts::FRAC_2_SQRT_PI as T * (-x * x).exponential();
    sin: x => x.sin(), from input x => x.cos();
    cos: x => x.cos(), from input x => -x.sin();
    tan: x => x.tan(), from output y => 1.0 + y * y;
    asin: x => x.asin(), from input x => (1.0 - x * x).sqrt().recip();
    acos: x => x.acos(), from input x => -(1.0 - x * x).sqrt().recip();
    atan: x => x.atan(), from input x => (1.0 + x * x).recip();
    sinh: x => x.sinh(), from input x => x.cosh();
    cosh: x => x.cosh(), from input x => x.sinh();
    asinh: x => x.asinh(), from input x => (x * x + 1.0).sqrt().recip();
    acosh: x => x.acosh(), from input x => (x * x - 1.0).sqrt().recip();
    atanh: x => x.atanh(), from input x => (1.0 - x * x).recip();
}

macro_rules! steps {
    ($($name:ident: $x:ident => $body:expr;)*) => {$(
        pub(super) fn $name(_: &Decoding<'_>) -> Decoded {
            flat(one(|inputs| map_floats!(take(inputs, 0)?, $x => $body)))
        }
    )*};
}

steps! {
    floor: x => x.floor();
    ceil: x => x.ceil();
    round: x => x.round_ties_even();
}

fn map<T: Number>(array: Array<T>, f: impl Fn(T) -> T) -> Result<Tensor, OpError> {
    Ok(T::wrap(update(array, |slice| slice.iter_mut().for_each(|x| *x = f(*x)))))
}

pub(super) fn neg(_: &Decoding<'_>) -> Decoded {
    let run = one(|inputs| numbers!(take(inputs, 0)?, "an operand", a => map(a, Number::negative)));
    single(run, Reads::NOTHING, |_, g| map_floats!(g, g => -g))
}

pub(super) fn abs(_: &Decoding<'_>) -> Decoded {
    let run =
        one(|inputs| numbers!(take(inputs, 0)?, "an operand", a => map(a, Number::magnitude)));
    slope!(run, input x => if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { 0.0 })
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
    flat(one(|inputs| numbers!(take(inputs, 0)?, "an operand", a => map(a, sign))))
}

pub(super) fn not(_: &Decoding<'_>) -> Decoded {
    flat(one(|inputs| {
        let array = take(inputs, 0)?.into_typed::<bool>("a logical operand")?;
        Ok(Tensor::Bool(update(array, |slice| slice.iter_mut().for_each(|x| *x = !*x))))
    }))
}

pub(super) fn is_nan(_: &Decoding<'_>) -> Decoded {
    flat(one(|inputs| {
        floats!(take(inputs, 0)?, "a float operand", a => {
            Ok(Tensor::Bool(a.mapv(|x: T| x.is_nan()).into_shared()))
        })
    }))
}

pub(super) fn is_inf(d: &Decoding<'_>) -> Decoded {
    let negative = d.node.int("detect_negative").unwrap_or(1) != 0;
    let positive = d.node.int("detect_positive").unwrap_or(1) != 0;
    flat(one(move |inputs| {
        floats!(take(inputs, 0)?, "a float operand", a => {
            let test = |x: T| x == T::INFINITY && positive || x == T::NEG_INFINITY && negative;
            Ok(Tensor::Bool(a.mapv(test).into_shared()))
        })
    }))
}
