//! Ranges of values: how far a grid of 8 bits reaches.

use crate::named::named;

/// How the range of a value is found from what it was on samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Range {
    /// All that was seen.
    MinMax,
    /// All but a ten-thousandth at either end.
    Percentile,
    /// The least squared rounding error.
    #[default]
    Mse,
    /// The least divergence of the rounded distribution from the true one (Migacz 2017).
    Entropy,
}

named!(Range { MinMax = "min-max", Percentile = "percentile", Mse = "mse", Entropy = "entropy" });

/// Bins of a histogram.
const BINS: usize = 2048;

/// Levels of the grid.
const LEVELS: usize = 256;

/// Share of the values that a percentile leaves out at either end.
const TAIL: f64 = 1e-4;

/// How often a value was in each of equal parts of a range.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// The lowest value, at most zero.
    pub low: f32,
    /// The highest value, at least zero.
    pub high: f32,
    counts: Vec<u64>,
}

impl Histogram {
    /// Of nothing yet, from `low` to `high`; the range is widened to hold zero.
    #[must_use]
    pub fn new(low: f32, high: f32) -> Self {
        Self { low: low.min(0.0), high: high.max(0.0), counts: vec![0; BINS] }
    }

    fn width(&self) -> f64 {
        (f64::from(self.high) - f64::from(self.low)) / BINS as f64
    }

    /// Counts values.
    pub fn add(&mut self, values: impl Iterator<Item = f32>) {
        let (low, width) = (f64::from(self.low), self.width());
        if width <= 0.0 {
            return;
        }
        for value in values.filter(|v| v.is_finite()) {
            let bin = (f64::from(value) - low) / width;
            self.counts[(bin as usize).min(BINS - 1)] += 1;
        }
    }

    /// Adds what another one of the same range counted.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    /// The range for a grid, which holds zero.
    #[must_use]
    pub fn range(&self, method: Range) -> (f32, f32) {
        let total: u64 = self.counts.iter().sum();
        if total == 0 || self.width() <= 0.0 {
            return (self.low, self.high);
        }
        match method {
            Range::MinMax => (self.low, self.high),
            Range::Percentile => self.percentile(total),
            Range::Mse => self.best(|low, high| self.squared_error(low, high)),
            Range::Entropy => self.best(|low, high| self.divergence(low, high)),
        }
    }

    fn percentile(&self, total: u64) -> (f32, f32) {
        let most = (total as f64 * TAIL) as u64;
        let skipped = |bins: &mut dyn Iterator<Item = &u64>| {
            let mut seen = 0;
            bins.take_while(|&&count| {
                seen += count;
                seen <= most
            })
            .count()
        };
        let low = f64::from(self.low) + skipped(&mut self.counts.iter()) as f64 * self.width();
        let high =
            f64::from(self.high) - skipped(&mut self.counts.iter().rev()) as f64 * self.width();
        ((low as f32).min(0.0), (high as f32).max(0.0))
    }

    /// The range with the least cost: both ends drawn in together, then each by itself.
    fn best(&self, cost: impl Fn(f64, f64) -> f64) -> (f32, f32) {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let mut best = (cost(low, high), 1.0, 1.0);
        let try_at = |a: f64, b: f64, best: &mut (f64, f64, f64)| {
            let found = cost(low * a, high * b);
            if found < best.0 {
                *best = (found, a, b);
            }
        };
        let shares = (10..100).map(|share| f64::from(share) / 100.0);
        for share in shares.clone() {
            try_at(share, share, &mut best);
        }
        for _ in 0..2 {
            for share in shares.clone().chain([1.0]) {
                let now = best;
                try_at(share, now.2, &mut best);
                let now = best;
                try_at(now.1, share, &mut best);
            }
        }
        ((low * best.1) as f32, (high * best.2) as f32)
    }

    /// Mean squared error of a grid over the range, up to a factor.
    fn squared_error(&self, low: f64, high: f64) -> f64 {
        let step = (high - low) / (LEVELS - 1) as f64;
        if step <= 0.0 {
            return f64::INFINITY;
        }
        let (start, width) = (f64::from(self.low), self.width());
        let zero = (-low / step).round();
        let error = |(bin, &count): (usize, &u64)| {
            let value = start + (bin as f64 + 0.5) * width;
            let code = ((value / step).round() + zero).clamp(0.0, (LEVELS - 1) as f64);
            // Values lie anywhere in a bin: its own spread adds where steps are finer than bins.
            let rest = value - (code - zero) * step;
            count as f64 * (rest * rest)
        };
        self.counts.iter().enumerate().filter(|(_, c)| **c > 0).map(error).sum()
    }

    /// Kullback and Leibler's divergence of the histogram, as a grid over the range rounds it, from
    /// the histogram with what lies outside at the ends.
    fn divergence(&self, low: f64, high: f64) -> f64 {
        let (start, width) = (f64::from(self.low), self.width());
        let bin = |value: f64| (((value - start) / width).round().max(0.0) as usize).min(BINS);
        let (first, end) = (bin(low), bin(high));
        if end <= first + LEVELS / 2 {
            return f64::INFINITY;
        }
        let mut inside: Vec<f64> = self.counts[first..end].iter().map(|&c| c as f64).collect();
        let n = inside.len();
        // Zero is a level of its own: how often it is there, as after a Relu, says nothing of the range.
        let zero = bin(0.0).clamp(first, end - 1) - first;
        let around = [zero.checked_sub(1), (zero + 1 < n).then_some(zero + 1)];
        let around: Vec<f64> = around.into_iter().flatten().map(|at| inside[at]).collect();
        inside[zero] = around.iter().sum::<f64>() / around.len().max(1) as f64;
        let plain = inside.clone();
        inside[0] += self.counts[..first].iter().sum::<u64>() as f64;
        inside[n - 1] += self.counts[end..].iter().sum::<u64>() as f64;
        // A level's count is spread evenly over its bins that are not empty.
        let mut rounded = vec![0.0; n];
        for level in 0..LEVELS {
            let part = level * n / LEVELS..(level + 1) * n / LEVELS;
            let filled = plain[part.clone()].iter().filter(|c| **c > 0.0).count();
            let share = plain[part.clone()].iter().sum::<f64>() / filled.max(1) as f64;
            for at in part {
                if plain[at] > 0.0 {
                    rounded[at] = share;
                }
            }
        }
        let (p, q) = (inside.iter().sum::<f64>(), rounded.iter().sum::<f64>());
        if p <= 0.0 || q <= 0.0 {
            return f64::INFINITY;
        }
        // What the grid never yields counts as very rare.
        const RARE: f64 = 1e-7;
        inside
            .iter()
            .zip(&rounded)
            .filter(|(a, _)| **a > 0.0)
            .map(|(a, b)| a / p * ((a / p) / (b / q).max(RARE)).ln())
            .sum()
    }
}

/// Scale and zero point of a grid of 8 bits over a range that holds zero; zero is on the grid.
#[must_use]
pub fn grid(low: f32, high: f32, signed: bool) -> (f32, i32) {
    let lowest = if signed { -128 } else { 0 };
    let scale = ((f64::from(high) - f64::from(low)) / (LEVELS - 1) as f64) as f32;
    if scale < f32::MIN_POSITIVE || !scale.is_finite() {
        return (1.0, lowest);
    }
    let zero = (-f64::from(low) / f64::from(scale)).round().clamp(0.0, (LEVELS - 1) as f64);
    (scale, zero as i32 + lowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outliers() -> Histogram {
        let mut histogram = Histogram::new(0.0, 100.0);
        histogram.add((0..1_000_000).map(|i| (i % 1000) as f32 / 250.0));
        histogram.add([100.0].into_iter());
        histogram
    }

    #[test]
    fn outliers_are_left_out_but_by_min_max() {
        let histogram = outliers();
        assert_eq!(histogram.range(Range::MinMax), (0.0, 100.0));
        for method in [Range::Percentile, Range::Mse, Range::Entropy] {
            let (low, high) = histogram.range(method);
            assert!(low == 0.0 && (3.5..60.0).contains(&high), "{method}: {low} {high}");
        }
        let (low, high) = histogram.range(Range::Mse);
        let error = |range: (f32, f32)| histogram.squared_error(range.0.into(), range.1.into());
        assert!(error((low, high)) < 0.5 * error((0.0, 100.0)));
    }

    #[test]
    fn nothing_and_zero_have_a_grid() {
        for method in Range::ALL {
            assert_eq!(Histogram::new(0.0, 0.0).range(method), (0.0, 0.0));
            assert_eq!(Histogram::new(1.0, 2.0).range(method), (0.0, 2.0));
        }
        assert_eq!(grid(0.0, 0.0, false), (1.0, 0));
        assert_eq!(grid(0.0, 0.0, true), (1.0, -128));
    }

    #[test]
    fn zero_is_on_the_grid() {
        for (low, high) in [(0.0, 6.0), (-3.0, 5.0), (-2.0, 0.0)] {
            let (scale, zero) = grid(low, high, false);
            assert!((0..=255).contains(&zero));
            let end = |code: i32| (code - zero) as f32 * scale;
            assert!((end(0) - low).abs() <= scale && (end(255) - high).abs() <= scale);
            assert_eq!(grid(low, high, true), (scale, zero - 128));
        }
    }
}
