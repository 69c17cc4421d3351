//! The loss of an allocation, predicted from layer errors.

use super::{Allocation, LayerOptions};

/// A linear model: the loss is the sum over layers of a sensitivity times the layer's error.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// Loss per unit of relative output error, by layer.
    pub sensitivity: Vec<f64>,
}

impl Prediction {
    /// From sensitivities measured one layer at a time.
    #[must_use]
    pub fn new(sensitivity: Vec<f64>) -> Self {
        Self { sensitivity }
    }

    /// Predicted losses of every option of every layer.
    #[must_use]
    pub fn losses(&self, layers: &[LayerOptions]) -> Vec<Vec<f64>> {
        layers
            .iter()
            .zip(&self.sensitivity)
            .map(|(layer, s)| layer.options.iter().map(|o| s * o.error).collect())
            .collect()
    }

    /// The predicted loss of an allocation.
    #[must_use]
    pub fn loss(&self, layers: &[LayerOptions], allocation: &Allocation) -> f64 {
        let errors = layers.iter().zip(allocation).map(|(l, &o)| l.options[o].error);
        errors.zip(&self.sensitivity).map(|(e, s)| e * s).sum()
    }
}

/// Spearman's rank correlation; `None` for fewer than three pairs.
#[must_use]
pub fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let ranks = |value: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by(|&a, &b| value(&pairs[a]).total_cmp(&value(&pairs[b])));
        let mut ranks = vec![0.0; pairs.len()];
        for (rank, index) in order.into_iter().enumerate() {
            ranks[index] = rank as f64;
        }
        ranks
    };
    let (a, b) = (ranks(|p| p.0), ranks(|p| p.1));
    let mean = (pairs.len() - 1) as f64 / 2.0;
    let dot = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    Some(dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt())
}
