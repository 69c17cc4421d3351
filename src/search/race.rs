//! Differences between networks scored on the same samples.

/// The mean of paired differences and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Mean of the differences.
    pub mean: f64,
    /// Standard error of the mean; infinite for fewer than two samples.
    pub error: f64,
}

impl Difference {
    /// Of losses from those of another network on the same samples, as far as both go.
    #[must_use]
    pub fn of(losses: &[f64], others: &[f64]) -> Self {
        let differences = || losses.iter().zip(others).map(|(a, b)| a - b);
        let n = losses.len().min(others.len());
        let mean = differences().sum::<f64>() / n.max(1) as f64;
        if n < 2 {
            return Self { mean, error: f64::INFINITY };
        }
        let squares = differences().map(|d| (d - mean).powi(2)).sum::<f64>();
        Self { mean, error: (squares / (n - 1) as f64 / n as f64).sqrt() }
    }

    /// Whether the difference is above zero by more than chance explains (three standard errors).
    #[must_use]
    pub fn is_worse(&self) -> bool {
        self.mean > 3.0 * self.error
    }

    /// Whether a difference taken on `done` of `all` samples is very unlikely (one in twenty) to end
    /// below zero by more than its standard error: the rest would have to differ from what was seen.
    #[must_use]
    pub fn is_hopeless(&self, done: usize, all: usize) -> bool {
        let share = (done as f64 / all.max(1) as f64).min(1.0);
        // Standard error in the end, and of what the mean will be then.
        let (last, ahead) = (self.error * share.sqrt(), self.error * (1.0 - share).sqrt());
        self.mean + last > 1.645 * ahead
    }

    /// Whether the difference is below zero by more than its standard error.
    #[must_use]
    pub fn is_better(&self) -> bool {
        self.mean < -self.error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairing_removes_what_samples_share() {
        let others: Vec<f64> = (0..100).map(|i| f64::from(i * i % 37)).collect();
        let losses: Vec<f64> =
            others.iter().enumerate().map(|(i, v)| v + 0.1 + 0.01 * (i % 3) as f64).collect();
        let difference = Difference::of(&losses, &others);
        assert!((difference.mean - 0.11).abs() < 1e-3 && difference.error < 1e-3, "{difference:?}");
        assert!(difference.is_worse());
        assert!(!difference.is_better() && Difference::of(&others, &losses).is_better());
        assert!(!Difference::of(&losses[..1], &others).is_worse());
    }

    /// Of candidates that would end clearly better, few are given up on the way.
    #[test]
    fn hope_lasts_while_there_is_a_chance() {
        let at = |mean: f64, error: f64| Difference { mean, error };
        assert!(!at(0.5, 1.0).is_hopeless(250, 1000), "half an error above zero says little");
        assert!(at(1.5, 1.0).is_hopeless(250, 1000));
        assert!(at(0.5, 1.0).is_hopeless(900, 1000));
        assert!(!at(-2.0, 1.0).is_hopeless(900, 1000));
        assert!(!at(f64::NAN, f64::INFINITY).is_hopeless(1, 1000));
    }
}
