//! Fast loops under the operators: convolution and matrix products.

pub mod conv;
pub(crate) mod lanes;
pub mod matmul;
pub mod share;

pub(crate) use lanes::wide;

/// Bounds that a kernel applies to a sum before storing it: a fused activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// Lower bound.
    pub low: f32,
    /// Upper bound.
    pub high: f32,
}

impl Clamp {
    /// No bounds.
    pub const NONE: Self = Self { low: f32::NEG_INFINITY, high: f32::INFINITY };
    /// Rectified linear unit.
    pub const RELU: Self = Self { low: 0.0, high: f32::INFINITY };

    /// A value brought within the bounds; NaN stays NaN.
    #[inline(always)]
    #[must_use]
    pub fn of(self, value: f32) -> f32 {
        let value = if value < self.low { self.low } else { value };
        if value > self.high { self.high } else { value }
    }
}

/// An element type that products are computed in: `f32` or, slower, `f64`.
pub trait Real:
    Copy
    + Default
    + PartialEq
    + From<f32>
    + std::ops::Add<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::AddAssign
    + 'static
{
}

impl Real for f32 {}
impl Real for f64 {}
