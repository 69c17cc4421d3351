//! Arithmetic on two or more operands, with broadcasting.

use super::Decoding;
use super::args::{Decoded, Inputs, bad_type, elements, numbers, one, take, update};
use super::layout::{Pairing, broadcast};
use super::number::Number;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};

/// Applies `f` to every pair of elements of the broadcast operands. The result is written over the
/// first operand of its shape that nothing else shares.
pub(super) fn combine<T: Element>(
    a: Array<T>,
    b: Array<T>,
    f: impl Fn(T, T) -> T,
) -> Result<Array<T>, OpError> {
    let shape = broadcast(a.shape(), b.shape())?;
    let pairing = Pairing::new(&shape, a.shape(), b.shape())?;
    if a.shape() == shape.as_slice() && (a.is_unique() || b.shape() != shape.as_slice()) {
        let b = elements(&b);
        return Ok(update(a, |a| {
            pairing.for_each(|_, at_a, at_b| {
                let a = &mut a[at_a..at_a + pairing.inner];
                if pairing.moves_b {
                    let b = &b[at_b..at_b + pairing.inner];
                    a.iter_mut().zip(b).for_each(|(x, &y)| *x = f(*x, y));
                } else {
                    let y = b[at_b];
                    a.iter_mut().for_each(|x| *x = f(*x, y));
                }
            });
        }));
    }
    if b.shape() == shape.as_slice() {
        let a = elements(&a);
        return Ok(update(b, |b| {
            pairing.for_each(|_, at_a, at_b| {
                let b = &mut b[at_b..at_b + pairing.inner];
                if pairing.moves_a {
                    let a = &a[at_a..at_a + pairing.inner];
                    b.iter_mut().zip(a).for_each(|(y, &x)| *y = f(x, *y));
                } else {
                    let x = a[at_a];
                    b.iter_mut().for_each(|y| *y = f(x, *y));
                }
            });
        }));
    }
    compare(&a, &b, f)
}

/// Applies `f`, whose result may be of another type, to every pair of elements of the broadcast
/// operands.
pub(super) fn compare<T: Element, U: Element>(
    a: &Array<T>,
    b: &Array<T>,
    f: impl Fn(T, T) -> U,
) -> Result<Array<U>, OpError> {
    let shape = broadcast(a.shape(), b.shape())?;
    let pairing = Pairing::new(&shape, a.shape(), b.shape())?;
    let (a, b) = (elements(a), elements(b));
    let mut result = Vec::with_capacity(shape.iter().product());
    pairing.for_each(|_, at_a, at_b| match (pairing.moves_a, pairing.moves_b) {
        (true, true) => {
            let (a, b) = (&a[at_a..at_a + pairing.inner], &b[at_b..at_b + pairing.inner]);
            result.extend(a.iter().zip(b).map(|(&x, &y)| f(x, y)));
        }
        (true, false) => {
            result.extend(a[at_a..at_a + pairing.inner].iter().map(|&x| f(x, b[at_b])));
        }
        (false, true) => {
            result.extend(b[at_b..at_b + pairing.inner].iter().map(|&y| f(a[at_a], y)));
        }
        (false, false) => result.extend((0..pairing.inner).map(|_| f(a[at_a], b[at_b]))),
    });
    Tensor::from_vec(&shape, result)?.into_typed("a result")
}

fn refuse_zero<T: Number>(divisor: &Array<T>) -> Result<(), OpError> {
    if !T::IS_FLOAT && divisor.iter().any(|d| *d == T::ZERO) {
        return Err(OpError::value("integer division by zero"));
    }
    Ok(())
}

macro_rules! binary {
    ($($name:ident: $a:ident, $b:ident => $body:expr;)*) => {$(
        pub(super) fn $name(_: &Decoding<'_>) -> Decoded {
            one(|inputs| {
                let second = take(inputs, 1)?;
                numbers!(take(inputs, 0)?, "an operand", $a => {
                    let $b = second.into_typed("the second operand")?;
                    Ok(Tensor::from($body))
                })
            })
        }
    )*};
}

binary! {
    add: a, b => combine(a, b, Number::plus)?;
    sub: a, b => combine(a, b, Number::minus)?;
    mul: a, b => combine(a, b, Number::times)?;
    div: a, b => { refuse_zero(&b)?; combine(a, b, Number::over)? };
}

pub(super) fn modulo(d: &Decoding<'_>) -> Decoded {
    let fmod = d.node.int("fmod").unwrap_or(0) != 0;
    one(move |inputs| {
        let second = take(inputs, 1)?;
        numbers!(take(inputs, 0)?, "an operand", a => {
            let b = second.into_typed("the second operand")?;
            refuse_zero(&b)?;
            let result = if fmod {
                combine(a, b, Number::remainder)
            } else {
                combine(a, b, Number::modulo)
            };
            result.map(Tensor::from)
        })
    })
}

pub(super) fn pow(_: &Decoding<'_>) -> Decoded {
    /// The exponent has its own type: a mixed pair is computed in `f64`.
    fn mixed<T: Number>(base: &Array<T>, exponent: &Tensor) -> Result<Tensor, OpError> {
        let exponent = Tensor::from_vec(exponent.shape(), exponent.to_f64_vec())?;
        let base = base.mapv(Number::to_f64).into_shared();
        let result = compare(&base, exponent.typed("an exponent")?, |x, y| T::of_f64(x.powf(y)))?;
        Ok(T::wrap(result))
    }
    fn same<T: Number>(base: Array<T>, exponent: Array<T>) -> Result<Tensor, OpError> {
        let two = T::ONE.plus(T::ONE);
        let square = exponent.len() == 1 && exponent.iter().all(|e| *e == two);
        let result = if square {
            combine(base, exponent, |x, _| x.times(x))
        } else {
            combine(base, exponent, Number::power)
        };
        result.map(T::wrap)
    }
    one(|inputs| {
        let exponent = take(inputs, 1)?;
        numbers!(take(inputs, 0)?, "a base", base => {
            if exponent.data_type() == data_type(&base) {
                same(base, exponent.into_typed("an exponent")?)
            } else if exponent.data_type() == crate::tensor::DataType::Bool {
                Err(bad_type(&exponent, "an exponent"))
            } else {
                mixed(&base, &exponent)
            }
        })
    })
}

fn data_type<T: Element>(_: &Array<T>) -> crate::tensor::DataType {
    T::DATA_TYPE
}

/// Folds all inputs with `f`.
fn fold(
    inputs: &mut Inputs,
    f: fn(Tensor, Tensor) -> Result<Tensor, OpError>,
) -> Result<Tensor, OpError> {
    let mut result = take(inputs, 0)?;
    for index in 1..inputs.len() {
        result = f(result, take(inputs, index)?)?;
    }
    Ok(result)
}

macro_rules! pair {
    ($f:expr) => {
        |a, b| {
            numbers!(a, "an operand", a => {
                combine(a, b.into_typed("an operand")?, $f).map(Tensor::from)
            })
        }
    };
}

pub(super) fn max(_: &Decoding<'_>) -> Decoded {
    one(|inputs| fold(inputs, pair!(Number::greater)))
}

pub(super) fn min(_: &Decoding<'_>) -> Decoded {
    one(|inputs| fold(inputs, pair!(Number::lesser)))
}

pub(super) fn sum(_: &Decoding<'_>) -> Decoded {
    one(|inputs| fold(inputs, pair!(Number::plus)))
}

pub(super) fn mean(_: &Decoding<'_>) -> Decoded {
    one(|inputs| {
        let count = inputs.len() as f64;
        numbers!(fold(inputs, pair!(Number::plus))?, "an operand", a => {
            Ok(Tensor::from(update(a, |slice| {
                slice.iter_mut().for_each(|x| *x = Number::of_f64(x.to_f64() / count));
            })))
        })
    })
}
