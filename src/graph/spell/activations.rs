//! Gaussian error linear units.

use super::Speller;
use crate::onnx::NodeAttributes;

/// Gelu: x Phi(x).
pub(super) fn gelu(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    let x = s.input(0)?;
    let gate = normal(s, &x);
    s.last("Mul", &[&x, &gate], Vec::new());
    Some(())
}

/// BiasGelu: Gelu of x + b.
pub(super) fn bias_gelu(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    let (x, bias) = (s.input(0)?, s.input(1)?);
    let x = s.node("Add", &[&x, &bias], Vec::new());
    let gate = normal(s, &x);
    s.last("Mul", &[&x, &gate], Vec::new());
    Some(())
}

/// The normal distribution's function: (1 + erf(x / sqrt 2)) / 2.
fn normal(s: &mut Speller<'_>, x: &str) -> String {
    let root = s.scalar(std::f32::consts::SQRT_2);
    let scaled = s.node("Div", &[x, &root], Vec::new());
    let erf = s.node("Erf", &[&scaled], Vec::new());
    halved(s, &erf)
}

/// (1 + x) / 2.
fn halved(s: &mut Speller<'_>, x: &str) -> String {
    let (one, half) = (s.scalar(1.0), s.scalar(0.5));
    let sum = s.node("Add", &[x, &one], Vec::new());
    s.node("Mul", &[&sum, &half], Vec::new())
}

/// FastGelu: the approximation by a hyperbolic tangent, of x or x + b.
pub(super) fn fast_gelu(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    let mut x = s.input(0)?;
    if let Some(bias) = s.input(1) {
        x = s.node("Add", &[&x, &bias], Vec::new());
    }
    let slope = (2.0 / std::f64::consts::PI).sqrt();
    let (slope, cubic) = (s.scalar(slope as f32), s.scalar((0.044_715 * slope) as f32));
    let square = s.node("Mul", &[&x, &x], Vec::new());
    let bent = s.node("Mul", &[&square, &cubic], Vec::new());
    let factor = s.node("Add", &[&bent, &slope], Vec::new());
    let inner = s.node("Mul", &[&x, &factor], Vec::new());
    let tanh = s.node("Tanh", &[&inner], Vec::new());
    let gate = halved(s, &tanh);
    s.last("Mul", &[&x, &gate], Vec::new());
    Some(())
}

/// QuickGelu: x times the logistic function of alpha x.
pub(super) fn quick_gelu(s: &mut Speller<'_>) -> Option<()> {
    s.float()?;
    let x = s.input(0)?;
    let alpha = s.of.float("alpha").unwrap_or(1.702);
    let alpha = s.scalar(alpha);
    let scaled = s.node("Mul", &[&x, &alpha], Vec::new());
    let gate = s.node("Sigmoid", &[&scaled], Vec::new());
    s.last("Mul", &[&x, &gate], Vec::new());
    Some(())
}
