//! How far two models' outputs lie apart.

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Distance between the outputs of a model and those of another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agreement {
    /// One entry per output.
    pub outputs: Vec<Difference>,
}

/// Distance between the values of one output.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// The largest absolute difference; infinite where only one value is a number, or the values
    /// are infinities of unlike sign.
    pub max_abs: f64,
    /// The largest absolute value of the first model's output.
    pub scale: f64,
}

impl Difference {
    /// Between two tensors of one shape.
    fn between(a: &Tensor, b: &Tensor) -> Self {
        let mut difference = Self::default();
        for (x, y) in a.to_f64_vec().into_iter().zip(b.to_f64_vec()) {
            // Equal infinities and two NaN agree, though their difference is no number.
            let gap = if x == y || (x.is_nan() && y.is_nan()) { 0.0 } else { (x - y).abs() };
            let gap = if gap.is_nan() { f64::INFINITY } else { gap };
            difference.max_abs = difference.max_abs.max(gap);
            difference.scale = difference.scale.max(if x.is_finite() { x.abs() } else { 0.0 });
        }
        difference
    }

    /// The largest absolute difference / the largest absolute value of the first model's output.
    #[must_use]
    pub fn max_relative(&self) -> f64 {
        if self.max_abs == 0.0 { 0.0 } else { self.max_abs / self.scale }
    }

    fn merge(&mut self, other: Self) {
        self.max_abs = self.max_abs.max(other.max_abs);
        self.scale = self.scale.max(other.scale);
    }
}

impl Agreement {
    /// Compares `b` with `a`, output by output.
    ///
    /// # Errors
    /// [`Error::DataMismatch`] when they differ in number, element type or shape.
    pub fn between(a: &[Tensor], b: &[Tensor]) -> Result<Self> {
        let mismatch = |reason| Err(Error::DataMismatch { reason });
        if a.len() != b.len() {
            return mismatch(format!("{} outputs against {}", a.len(), b.len()));
        }
        for (index, (x, y)) in a.iter().zip(b).enumerate() {
            if (x.data_type(), x.shape()) != (y.data_type(), y.shape()) {
                return mismatch(format!(
                    "output {index} is {:?} {:?} in one model, {:?} {:?} in the other",
                    x.data_type(),
                    x.shape(),
                    y.data_type(),
                    y.shape()
                ));
            }
        }
        Ok(Self { outputs: a.iter().zip(b).map(|(x, y)| Difference::between(x, y)).collect() })
    }

    /// Takes in what further samples gave.
    pub fn merge(&mut self, other: &Self) {
        if self.outputs.is_empty() {
            self.outputs.clone_from(&other.outputs);
        } else {
            for (mine, others) in self.outputs.iter_mut().zip(&other.outputs) {
                mine.merge(*others);
            }
        }
    }

    /// The largest absolute difference of any output.
    #[must_use]
    pub fn max_abs_difference(&self) -> f64 {
        self.outputs.iter().map(|d| d.max_abs).fold(0.0, f64::max)
    }

    /// The largest relative difference of any output.
    #[must_use]
    pub fn max_relative_difference(&self) -> f64 {
        self.outputs.iter().map(Difference::max_relative).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_vec(&[values.len()], values.to_vec()).expect("a tensor")
    }

    #[test]
    fn differences_are_relative_to_the_largest_value() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let a = [tensor(&[1.0, -4.0, nan, inf]), tensor(&[0.0])];
        let b = [tensor(&[1.5, -4.0, nan, inf]), tensor(&[0.0])];
        let agreement = Agreement::between(&a, &b).expect("comparable");
        assert_eq!(agreement.max_abs_difference(), 0.5);
        assert_eq!(agreement.max_relative_difference(), 0.125);
        let c = [tensor(&[1.0, nan, 0.0, -inf]), tensor(&[0.0])];
        let agreement = Agreement::between(&a, &c).expect("comparable");
        assert_eq!(agreement.max_relative_difference(), f64::INFINITY);
        assert!(Agreement::between(&a, &a[..1]).is_err());
        assert!(Agreement::between(&a[1..], &a[..1]).is_err());
    }
}
