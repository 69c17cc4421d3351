//! Activation functions.

use super::Decoding;
use super::args::{Decoded, Inputs, floats, map_floats, numbers, one, peek_optional, take, update};
use super::arithmetic::combine;
use super::number::Number;
use super::special::Special;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};

macro_rules! plain {
    ($($name:ident: $x:ident => $body:expr;)*) => {$(
        pub(super) fn $name(_: &Decoding<'_>) -> Decoded {
            one(|inputs| map_floats!(take(inputs, 0)?, $x => $body))
        }
    )*};
}

plain! {
    sigmoid: x => x.logistic();
    tanh: x => x.tanh();
    softplus: x => Special::softplus(x);
    softsign: x => x / (1.0 + x.abs());
    mish: x => x * Special::softplus(x).tanh();
    hard_swish: x => x * (x / 6.0 + 0.5).clamp(0.0, 1.0);
}

/// Attributes `alpha` and `beta`, or their defaults.
fn parameters(d: &Decoding<'_>, alpha: f32, beta: f32) -> (f32, f32) {
    (d.node.float("alpha").unwrap_or(alpha), d.node.float("beta").unwrap_or(beta))
}

macro_rules! parametric {
    ($($name:ident($alpha:ident = $a:expr, $beta:ident = $b:expr): $x:ident => $body:expr;)*) => {$(
        pub(super) fn $name(d: &Decoding<'_>) -> Decoded {
            let ($alpha, $beta) = parameters(d, $a, $b);
            one(move |inputs| map_floats!(take(inputs, 0)?, $x => {
                let ($alpha, $beta) = (T::from($alpha), T::from($beta));
                let _ = $beta;
                $body
            }))
        }
    )*};
}

parametric! {
    leaky_relu(alpha = 0.01, beta = 0.0): x => if x < 0.0 { alpha * x } else { x };
    hard_sigmoid(alpha = 0.2, beta = 0.5): x => (alpha * x + beta).clamp(0.0, 1.0);
    elu(alpha = 1.0, beta = 0.0): x => if x < 0.0 { alpha * x.exp_m1() } else { x };
    celu(alpha = 1.0, beta = 0.0): x => if x < 0.0 { alpha * (x / alpha).exp_m1() } else { x };
    thresholded_relu(alpha = 1.0, beta = 0.0): x => if x > alpha { x } else { 0.0 };
    swish(alpha = 1.0, beta = 0.0): x => x * (alpha * x).logistic();
}

pub(super) fn selu(d: &Decoding<'_>) -> Decoded {
    let alpha = d.node.float("alpha").unwrap_or(1.673_263_2);
    let gamma = d.node.float("gamma").unwrap_or(1.050_701);
    one(move |inputs| {
        map_floats!(take(inputs, 0)?, x => {
            let (alpha, gamma) = (T::from(alpha), T::from(gamma));
            gamma * if x > 0.0 { x } else { alpha * x.exp_m1() }
        })
    })
}

pub(super) fn gelu(d: &Decoding<'_>) -> Decoded {
    match d.node.string("approximate").unwrap_or("none") {
        "none" => one(|inputs| {
            map_floats!(take(inputs, 0)?, x => {
                let scaled = x * (0.5 as T).sqrt();
                0.5 * x * (1.0 + scaled.error_function())
            })
        }),
        "tanh" => one(|inputs| {
            map_floats!(take(inputs, 0)?, x => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() as T * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            })
        }),
        other => Err(OpError::unsupported(format!("Gelu approximation `{other}`"))),
    }
}

pub(super) fn relu(_: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(array: Array<T>) -> Result<Tensor, OpError> {
        Ok(T::wrap(update(array, |slice| {
            for x in slice {
                // NaN fails the comparison and stays.
                *x = if *x < T::ZERO { T::ZERO } else { *x };
            }
        })))
    }
    one(|inputs| numbers!(take(inputs, 0)?, "an operand", a => go(a)))
}

pub(super) fn prelu(_: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(x: Array<T>, slope: Tensor) -> Result<Tensor, OpError> {
        let slope = slope.into_typed("a slope")?;
        if super::layout::broadcast(x.shape(), slope.shape())? != x.shape() {
            return Err(OpError::shape("a slope must broadcast to the input"));
        }
        combine(x, slope, |x, slope| if x < T::ZERO { slope.times(x) } else { x }).map(T::wrap)
    }
    one(|inputs| {
        let slope = take(inputs, 1)?;
        numbers!(take(inputs, 0)?, "an operand", x => go(x, slope))
    })
}

pub(super) fn clip(d: &Decoding<'_>) -> Decoded {
    if d.opset < 11 {
        let low = d.node.float("min").unwrap_or(f32::MIN);
        let high = d.node.float("max").unwrap_or(f32::MAX);
        return one(move |inputs| {
            floats!(take(inputs, 0)?, "a float operand", a => {
                clamp(a, T::from(low), T::from(high))
            })
        });
    }
    fn bound<T: Element>(inputs: &Inputs, index: usize) -> Result<Option<T>, OpError> {
        let Some(tensor) = peek_optional(inputs, index) else { return Ok(None) };
        match tensor.typed::<T>("a bound")?.iter().collect::<Vec<_>>().as_slice() {
            [one] => Ok(Some(**one)),
            other => Err(OpError::value(format!("a bound has {} elements", other.len()))),
        }
    }
    fn go<T: Number>(array: Array<T>, inputs: &Inputs) -> Result<Tensor, OpError> {
        let low = bound(inputs, 1)?.unwrap_or(T::LOWEST);
        let high = bound(inputs, 2)?.unwrap_or(T::HIGHEST);
        clamp(array, low, high)
    }
    one(|inputs| numbers!(take(inputs, 0)?, "an operand", a => go(a, inputs)))
}

/// Raises to `low`, then lowers to `high`: `high` wins where the bounds cross.
fn clamp<T: Number>(array: Array<T>, low: T, high: T) -> Result<Tensor, OpError> {
    Ok(T::wrap(update(array, |slice| {
        for x in slice {
            let raised = if *x < low { low } else { *x };
            *x = if raised > high { high } else { raised };
        }
    })))
}
