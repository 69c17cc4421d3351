//! Arithmetic on two or more operands, with broadcasting.

use super::Decoding;
use super::args::{
    Decoded, Inputs, bad_type, elements, floats, map_floats, numbers, one, take, update,
};
use super::backward::{Backward, Gradients, Reads, choosy, rule, unbroadcast};
use super::cast::cast;
use super::layout::{Pairing, broadcast, count};
use super::number::Number;
use crate::error::OpError;
use crate::kernels::wide;
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
            wide!({
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
            });
        }));
    }
    if b.shape() == shape.as_slice() {
        let a = elements(&a);
        return Ok(update(b, |b| {
            wide!({
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
    let mut result = Vec::with_capacity(count(&shape)?);
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
    ($($name:ident: $a:ident, $b:ident => $body:expr, $reads:expr, $rule:expr;)*) => {$(
        pub(super) fn $name(_: &Decoding<'_>) -> Decoded {
            let run = one(|inputs| {
                let second = take(inputs, 1)?;
                numbers!(take(inputs, 0)?, "an operand", $a => {
                    let $b = second.into_typed("the second operand")?;
                    Ok(Tensor::from($body))
                })
            });
            choosy(run, $reads, $rule)
        }
    )*};
}

binary! {
    add: a, b => combine(a, b, Number::plus)?, |_| Reads::NOTHING, |pass| {
        let gradient = pass.gradient(0)?;
        pass.operands(&gradient, |_, g| Ok(g))
    };
    sub: a, b => combine(a, b, Number::minus)?, |_| Reads::NOTHING, |pass| {
        let gradient = pass.gradient(0)?;
        pass.operands(&gradient, |index, g| match index {
            0 => Ok(g),
            _ => map_floats!(g, g => -g),
        })
    };
    mul: a, b => combine(a, b, Number::times)?, mul_reads, |pass| {
        let gradient = pass.gradient(0)?;
        pass.operands(&gradient, |index, g| product(g, pass.input(1 - index)?))
    };
    div: a, b => { refuse_zero(&b)?; combine(a, b, Number::over)? }, div_reads, |pass| {
        let gradient = pass.gradient(0)?;
        pass.operands(&gradient, |index, g| {
            let over = quotient(g, pass.input(1)?)?;
            match index {
                0 => Ok(over),
                // d(a / b) / db = -(a / b) / b
                _ => {
                    let over = quotient(product(over, pass.input(0)?)?, pass.input(1)?)?;
                    map_floats!(over, g => -g)
                }
            }
        })
    };
}

/// A factor's gradient reads the other factor.
fn mul_reads(wanted: &[bool]) -> Reads {
    let wants = |i: usize| wanted.get(i).copied().unwrap_or(false);
    Reads::NOTHING.with_input(0, wants(1)).with_input(1, wants(0))
}

/// The dividend is read for the divisor's gradient only.
fn div_reads(wanted: &[bool]) -> Reads {
    Reads::NOTHING.with_input(0, wanted.get(1) == Some(&true)).with_input(1, true)
}

fn product(a: Tensor, b: &Tensor) -> Result<Tensor, OpError> {
    floats!(a, "a gradient", a => combine(a, b.clone().into_typed("a factor")?, |x, y| x * y).map(Tensor::from))
}

fn quotient(a: Tensor, b: &Tensor) -> Result<Tensor, OpError> {
    floats!(a, "a gradient", a => combine(a, b.clone().into_typed("a divisor")?, |x, y| x / y).map(Tensor::from))
}

impl Backward<'_> {
    /// The gradients of the wanted operands, each made of the result's by `part` and summed over
    /// the axes along which the operand was repeated.
    fn operands(
        &self,
        gradient: &Tensor,
        part: impl Fn(usize, Tensor) -> Result<Tensor, OpError>,
    ) -> Gradients {
        let one = |index| match self.wants(index) {
            true => unbroadcast(part(index, gradient.clone())?, self.shape(index)?).map(Some),
            false => Ok(None),
        };
        (0..self.inputs.len()).map(one).collect()
    }
}

pub(super) fn modulo(d: &Decoding<'_>) -> Decoded {
    let fmod = d.node.int("fmod").unwrap_or(0) != 0;
    let run = one(move |inputs| {
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
    });
    // a mod b = a - q b, with a quotient q that only jumps.
    rule(run, Reads::ALL, |pass| {
        let gradient = pass.gradient(0)?;
        pass.operands(&gradient, |index, g| match index {
            0 => Ok(g),
            _ => floats!(g, "a gradient", g => {
                let a = pass.input(0)?.clone().into_typed::<T>("an operand")?;
                let b = pass.input(1)?.clone().into_typed::<T>("an operand")?;
                let y = pass.output(0)?.clone().into_typed::<T>("a result")?;
                let whole = combine(combine(a, y, |a, y| a - y)?, b, |qb, b| (qb / b).round())?;
                combine(g, whole, |g, q| -q * g).map(Tensor::from)
            }),
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
    let run = one(|inputs| {
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
    });
    rule(run, Reads::INPUTS, |pass| {
        let gradient = pass.gradient(0)?;
        pass.operands(&gradient, |index, g| floats!(g, "a gradient", g => {
            let base = pass.input(0)?.typed::<T>("a base")?;
            let exponent = cast(pass.input(1)?, data_type(base))?.into_typed::<T>("an exponent")?;
            let slopes = match index {
                0 => compare(base, &exponent, |x, e| if e == 0.0 { 0.0 } else { e * x.powf(e - 1.0) })?,
                // A base of zero has no logarithm; its power stays zero however the exponent moves.
                _ => compare(base, &exponent, |x, e| if x == 0.0 { 0.0 } else { x.powf(e) * x.ln() })?,
            };
            combine(g, slopes, |g, s| g * s).map(Tensor::from)
        }))
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

/// The gradient of an extremum goes to the first operand that is it.
fn to_extremum(pass: &mut Backward<'_>) -> Gradients {
    floats!(pass.gradient(0)?, "a gradient", gradient => {
        let mut rest = gradient;
        let mut result = Vec::with_capacity(pass.inputs.len());
        for index in 0..pass.inputs.len() {
            let operand = pass.input(index)?.typed::<T>("an operand")?;
            let y = pass.output(0)?.clone().into_typed::<T>("a result")?;
            let is_it = combine(y, operand.clone(), |y, x| if x == y { 1.0 } else { 0.0 })?;
            let part = combine(rest.clone(), is_it.clone(), |g, s: T| g * s)?;
            rest = combine(rest, is_it, |g, s| g * (1.0 - s))?;
            result.push(match pass.wants(index) {
                true => Some(unbroadcast(Tensor::from(part), operand.shape())?),
                false => None,
            });
        }
        Ok(result)
    })
}

pub(super) fn max(_: &Decoding<'_>) -> Decoded {
    rule(one(|inputs| fold(inputs, pair!(Number::greater))), Reads::ALL, to_extremum)
}

pub(super) fn min(_: &Decoding<'_>) -> Decoded {
    rule(one(|inputs| fold(inputs, pair!(Number::lesser))), Reads::ALL, to_extremum)
}

pub(super) fn sum(_: &Decoding<'_>) -> Decoded {
    rule(one(|inputs| fold(inputs, pair!(Number::plus))), Reads::NOTHING, |pass| {
        let gradient = pass.gradient(0)?;
        pass.operands(&gradient, |_, g| Ok(g))
    })
}

pub(super) fn mean(_: &Decoding<'_>) -> Decoded {
    let run = one(|inputs| {
        let count = inputs.len() as f64;
        numbers!(fold(inputs, pair!(Number::plus))?, "an operand", a => {
            Ok(Tensor::from(update(a, |slice| {
                slice.iter_mut().for_each(|x| *x = Number::of_f64(x.to_f64() / count));
            })))
        })
    });
    rule(run, Reads::NOTHING, |pass| {
        let count = pass.inputs.len() as f64;
        let gradient = map_floats!(pass.gradient(0)?, g => g / count as T)?;
        pass.operands(&gradient, |_, g| Ok(g))
    })
}
