//! Grids of integers: how a row of numbers is rounded to few bits.

use std::ops::Range;

/// Integers that codes may be, with zero among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The lowest code.
    pub low: i32,
    /// The highest code.
    pub high: i32,
}

impl Levels {
    /// Eight bits, symmetric: -127 to 127.
    pub const INT8: Self = Self { low: -127, high: 127 };
    /// Seven bits, symmetric: products of two such numbers with unsigned bytes never overflow the 16
    /// bits that processors without VNNI add them in.
    pub const INT7: Self = Self { low: -63, high: 63 };
    /// Four bits: -8 to 7.
    pub const INT4: Self = Self { low: -8, high: 7 };

    /// The code nearest to `value / scale`.
    #[must_use]
    pub fn nearest(self, value: f64, scale: f32) -> i32 {
        let code = (value / f64::from(scale)).round_ties_even();
        code.clamp(f64::from(self.low), f64::from(self.high)) as i32
    }
}

/// Shares of the largest magnitude that a search tries as the end of the grid.
const SHARES: Range<usize> = 40..106;

/// The scale for `values` with the least squared rounding error, each element weighed by `weights`
/// where given; 1 for values that are all zero. Values are finite.
#[must_use]
pub fn scale(values: &[f64], weights: Option<&[f64]>, levels: Levels) -> f32 {
    let most = values.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    let plain = (most / f64::from(levels.high)) as f32;
    if plain < f32::MIN_POSITIVE {
        // All zero, or too small for a scale of full precision: every code is zero or nearly so.
        return if most == 0.0 { 1.0 } else { f32::MIN_POSITIVE };
    }
    let error = |scale: f32| -> f64 {
        let square = |v: f64| {
            let rest = v - f64::from(levels.nearest(v, scale)) * f64::from(scale);
            rest * rest
        };
        match weights {
            Some(weights) => values.iter().zip(weights).map(|(&v, w)| w * square(v)).sum(),
            None => values.iter().map(|&v| square(v)).sum(),
        }
    };
    let mut best = (error(plain), plain);
    for share in SHARES {
        let scale = (f64::from(plain) * share as f64 / 100.0) as f32;
        if scale < f32::MIN_POSITIVE {
            continue;
        }
        let error = error(scale);
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_searched_scale_is_no_worse_than_the_plain_one() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(i).sin().powi(7)).collect();
        let error = |scale: f32, levels: Levels| -> f64 {
            values
                .iter()
                .map(|&v| (v - f64::from(levels.nearest(v, scale)) * f64::from(scale)).powi(2))
                .sum()
        };
        for levels in [Levels::INT8, Levels::INT7, Levels::INT4] {
            let most = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let plain = (most / f64::from(levels.high)) as f32;
            let found = scale(&values, None, levels);
            assert!(error(found, levels) <= error(plain, levels));
        }
        let few = error(scale(&values, None, Levels::INT4), Levels::INT4);
        let plain = error((1.0 / 7.0) as f32, Levels::INT4);
        assert!(few < 0.95 * plain, "{few} {plain}");
    }

    #[test]
    fn zeros_and_tiny_values_have_a_scale() {
        assert_eq!(scale(&[0.0; 4], None, Levels::INT8), 1.0);
        assert_eq!(scale(&[1e-42, 0.0], None, Levels::INT8), f32::MIN_POSITIVE);
        assert_eq!(scale(&[], None, Levels::INT8), 1.0);
    }
}
