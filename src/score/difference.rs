//! How outputs differ from the original's, as vectors.

use super::{MetricKind, WORST_LOSS};

/// Share of the mean energy of an output that a sample's is taken for at least, so that one that is
/// zero in the original doesn't outweigh all others.
pub(super) const LEAST_ENERGY: f64 = 1e-6;

/// How one sample's outputs differ from the original's, summed over outputs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Difference {
    /// Relative squared error, or share of differing elements for integers.
    pub loss: f64,
    mean_squared: f64,
    relative: f64,
    cosine: f64,
    equal: f64,
}

impl Difference {
    /// Adds one output: `energy` is its mean squared norm over all samples.
    pub fn add(&mut self, given: &[f64], expected: &[f64], floats: bool, energy: f64) {
        let count = given.len().max(1) as f64;
        let pairs = || given.iter().zip(expected);
        let squared: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
        let differing = pairs().filter(|(a, b)| a != b).count() as f64;
        let norm: f64 = expected.iter().map(|b| b * b).sum();
        let scale = norm.max(LEAST_ENERGY * energy).max(f64::MIN_POSITIVE);
        self.loss += if floats { squared / scale } else { differing / count };
        self.mean_squared += squared / count;
        self.relative += 100.0 * (squared / scale).sqrt();
        self.equal += if differing == 0.0 { 100.0 } else { 0.0 };
        let own: f64 = given.iter().map(|a| a * a).sum();
        let product: f64 = pairs().map(|(a, b)| a * b).sum();
        self.cosine += if differing == 0.0 {
            100.0
        } else if own > 0.0 && norm > 0.0 && own.is_finite() {
            100.0 * (product / (own.sqrt() * norm.sqrt())).clamp(-1.0, 1.0)
        } else {
            0.0
        };
    }

    /// The sum of a metric over the outputs added.
    pub fn metric(&self, kind: MetricKind) -> f64 {
        let worst = |value: f64| if value.is_nan() { WORST_LOSS } else { value.min(WORST_LOSS) };
        match kind {
            MetricKind::Mse => worst(self.mean_squared),
            MetricKind::RelativeError => worst(self.relative),
            MetricKind::Cosine => self.cosine,
            MetricKind::Agreement | MetricKind::Top1 | MetricKind::Top5 => self.equal,
        }
    }
}
