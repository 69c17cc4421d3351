//! Activation functions.

use super::Decoding;
use super::args::{
    Decoded, Inputs, floats, map_floats, numbers, one, peek_optional, slope, take, update,
};
use super::arithmetic::combine;
use super::backward::{Reads, rule, single, unbroadcast};
use super::number::Number;
use super::special::Special;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};

/// Each with its derivative, written in terms of the input or of the output.
macro_rules! plain {
    ($($name:ident: $x:ident => $body:expr, from $side:ident $v:ident => $slope:expr;)*) => {$(
        pub(super) fn $name(_: &Decoding<'_>) -> Decoded {
            let run = one(|inputs| map_floats!(take(inputs, 0)?, $x => $body));
            slope!(run, $side $v => $slope)
        }
    )*};
}

plain! {
    sigmoid: x => x.logistic(), from output y => y * (1.0 - y);
    tanh: x => x.tanh(), from output y => 1.0 - y * y;
    softplus: x => Special::softplus(x), from input x => x.logistic();
    softsign: x => x / (1.0 + x.abs()), from input x => {
        let d = 1.0 + x.abs();
        (d * d).recip()
    };
    mish: x => x * Special::softplus(x).tanh(), from input x => {
        let t = Special::softplus(x).tanh();
        t + x * (1.0 - t * t) * x.logistic()
    };
    hard_swish: x => x * (x / 6.0 + 0.5).clamp(0.0, 1.0), from input x => {
        if x <= -3.0 { 0.0 } else if x >= 3.0 { 1.0 } else { x / 3.0 + 0.5 }
    };
}

/// Attributes `alpha` and `beta`, or their defaults.
fn parameters(d: &Decoding<'_>, alpha: f32, beta: f32) -> (f32, f32) {
    (d.node.float("alpha").unwrap_or(alpha), d.node.float("beta").unwrap_or(beta))
}

macro_rules! parametric {
    ($($name:ident($alpha:ident = $a:expr, $beta:ident = $b:expr): $x:ident => $body:expr,
        $v:ident => $slope:expr;)*) => {$(
        pub(super) fn $name(d: &Decoding<'_>) -> Decoded {
            let ($alpha, $beta) = parameters(d, $a, $b);
            let run = one(move |inputs| map_floats!(take(inputs, 0)?, $x => {
                let ($alpha, $beta) = (T::from($alpha), T::from($beta));
                let _ = $beta;
                $body
            }));
            slope!(run, input $v => {
                let ($alpha, $beta) = (T::from($alpha), T::from($beta));
                let _ = $beta;
                $slope
            })
        }
    )*};
}

parametric! {
    leaky_relu(alpha = 0.01, beta = 0.0): x => if x < 0.0 { alpha * x } else { x },
        x => if x < 0.0 { alpha } else { 1.0 };
    hard_sigmoid(alpha = 0.2, beta = 0.5): x => (alpha * x + beta).clamp(0.0, 1.0), x => {
        let y = alpha * x + beta;
        if y > 0.0 && y < 1.0 { alpha } else { 0.0 }
    };
    elu(alpha = 1.0, beta = 0.0): x => if x < 0.0 { alpha * x.exp_m1() } else { x },
        x => if x < 0.0 { alpha * x.exponential() } else { 1.0 };
    celu(alpha = 1.0, beta = 0.0): x => if x < 0.0 { alpha * (x / alpha).exp_m1() } else { x },
        x => if x < 0.0 { (x / alpha).exponential() } else { 1.0 };
    thresholded_relu(alpha = 1.0, beta = 0.0): x => if x > alpha { x } else { 0.0 },
        x => if x > alpha { 1.0 } else { 0.0 };
    swish(alpha = 1.0, beta = 0.0): x => x * (alpha * x).logistic(), x => {
        let s = (alpha * x).logistic();
        s + alpha * x * s * (1.0 - s)
    };
}

pub(super) fn selu(d: &Decoding<'_>) -> Decoded {
    let alpha = d.node.float("alpha").unwrap_or(1.673_263_2);
    let gamma = d.node.float("gamma").unwrap_or(1.050_701);
    let run = one(move |inputs| {
        map_floats!(take(inputs, 0)?, x => {
            let (alpha, gamma) = (T::from(alpha), T::from(gamma));
            gamma * if x > 0.0 { x } else { alpha * x.exp_m1() }
        })
    });
    slope!(run, input x => {
        T::from(gamma) * if x > 0.0 { 1.0 } else { T::from(alpha) * x.exponential() }
    })
}

pub(super) fn gelu(d: &Decoding<'_>) -> Decoded {
    match d.node.string("approximate").unwrap_or("none") {
        "none" => {
            let run = one(|inputs| {
                map_floats!(take(inputs, 0)?, x => {
                    let scaled = x * (0.5 as T).sqrt();
                    0.5 * x * (1.0 + scaled.error_function())
                })
            });
            slope!(run, input x => {
                let below = 0.5 * (1.0 + (x * (0.5 as T).sqrt()).error_function());
                let density = (0.5 / std::f64::consts::PI).sqrt() as T * (-0.5 * x * x).exponential();
                below + x * density
            })
        }
        "tanh" => {
            let run = one(|inputs| {
                map_floats!(take(inputs, 0)?, x => {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() as T * (x + 0.044715 * x * x * x);
                    0.5 * x * (1.0 + inner.tanh())
                })
            });
            slope!(run, input x => {
                let factor = (2.0 / std::f64::consts::PI).sqrt() as T;
                let t = (factor * (x + 0.044715 * x * x * x)).tanh();
                let inner = factor * (1.0 + 3.0 * 0.044715 * x * x);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
            })
        }
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
    let run = one(|inputs| numbers!(take(inputs, 0)?, "an operand", a => go(a)));
    slope!(run, output y => if y > 0.0 { 1.0 } else { 0.0 })
}

pub(super) fn prelu(_: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(x: Array<T>, slope: Tensor) -> Result<Tensor, OpError> {
        let slope = slope.into_typed("a slope")?;
        if super::layout::broadcast(x.shape(), slope.shape())? != x.shape() {
            return Err(OpError::shape("a slope must broadcast to the input"));
        }
        combine(x, slope, |x, slope| if x < T::ZERO { slope.times(x) } else { x }).map(T::wrap)
    }
    let run = one(|inputs| {
        let slope = take(inputs, 1)?;
        numbers!(take(inputs, 0)?, "an operand", x => go(x, slope))
    });
    rule(run, Reads::INPUTS, |pass| {
        floats!(pass.gradient(0)?, "a gradient", g => {
            let (x, slope) = (pass.input(0)?.typed::<T>("an operand")?, pass.input(1)?);
            let slopes = combine(x.clone(), slope.clone().into_typed("a slope")?, |x, slope: T| {
                if x < 0.0 { slope } else { 1.0 }
            })?;
            let along_slope = combine(g.clone(), x.clone(), |g, x| if x < 0.0 { g * x } else { 0.0 })?;
            let along_slope = unbroadcast(Tensor::from(along_slope), slope.shape())?;
            let along_x = combine(g, slopes, |g, s| g * s)?;
            Ok(vec![Some(Tensor::from(along_x)), Some(along_slope)])
        })
    })
}

pub(super) fn clip(d: &Decoding<'_>) -> Decoded {
    // The gradient stops where a bound holds; bounds are settings and get none.
    fn passes<T: Number>(
        x: &Tensor,
        gradient: Array<T>,
        low: T,
        high: T,
    ) -> Result<Tensor, OpError> {
        let x = x.typed::<T>("an operand")?.clone();
        let passes = |g: T, x: T| if x >= low && x <= high { g } else { T::ZERO };
        combine(gradient, x, passes).map(T::wrap)
    }
    if d.opset < 11 {
        let low = d.node.float("min").unwrap_or(f32::MIN);
        let high = d.node.float("max").unwrap_or(f32::MAX);
        let run = one(move |inputs| {
            floats!(take(inputs, 0)?, "a float operand", a => {
                clamp(a, T::from(low), T::from(high))
            })
        });
        return single(
            run,
            Reads::INPUTS,
            move |pass, gradient| floats!(gradient, "a gradient", g => passes(pass.input(0)?, g, T::from(low), T::from(high))),
        );
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
    let run = one(|inputs| numbers!(take(inputs, 0)?, "an operand", a => go(a, inputs)));
    single(run, Reads::INPUTS, |pass, gradient| {
        let values = pass.values();
        floats!(gradient, "a gradient", g => {
            let low = bound(&values, 1)?.unwrap_or(T::LOWEST);
            let high = bound(&values, 2)?.unwrap_or(T::HIGHEST);
            passes(pass.input(0)?, g, low, high)
        })
    })
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
