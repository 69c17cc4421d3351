//! The loss of an allocation, predicted from layer errors and what has been measured.

use super::{Allocation, LayerOptions};
use crate::linalg::{Cholesky, Matrix};

/// A linear model: the loss is the sum over layers of a sensitivity times the layer's error.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// Loss per unit of relative output error, by layer.
    pub sensitivity: Vec<f64>,
    prior: Vec<f64>,
    measured: Vec<(Allocation, f64)>,
}

impl Prediction {
    /// From sensitivities measured one layer at a time.
    #[must_use]
    pub fn new(sensitivity: Vec<f64>) -> Self {
        Self { prior: sensitivity.clone(), sensitivity, measured: Vec::new() }
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
    pub fn loss(&self, layers: &[LayerOptions], allocation: &[usize]) -> f64 {
        self.features(layers, allocation).iter().zip(&self.sensitivity).map(|(e, s)| e * s).sum()
    }

    fn features(&self, layers: &[LayerOptions], allocation: &[usize]) -> Vec<f64> {
        layers.iter().zip(allocation).map(|(l, &o)| l.options[o].error).collect()
    }

    /// Learns from a measured loss: sensitivities move so that differences between measured
    /// allocations are met, held by what single layers showed.
    pub fn learn(&mut self, layers: &[LayerOptions], allocation: &[usize], loss: f64) {
        self.measured.push((allocation.to_vec(), loss));
        let count = self.measured.len();
        if count < 4 {
            return;
        }
        // The better half matters: far from it the model is not linear.
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| self.measured[a].1.total_cmp(&self.measured[b].1));
        order.truncate((count / 2).clamp(4, 64));
        let rows: Vec<Vec<f64>> = order
            .iter()
            .map(|&i| {
                let features = self.features(layers, &self.measured[i].0);
                features.iter().zip(&self.prior).map(|(e, p)| e * p).collect()
            })
            .collect();
        let losses: Vec<f64> = order.iter().map(|&i| self.measured[i].1).collect();
        let (n, k) = (rows.len() as f64, self.prior.len());
        let mean_loss = losses.iter().sum::<f64>() / n;
        let means: Vec<f64> = (0..k).map(|j| rows.iter().map(|r| r[j]).sum::<f64>() / n).collect();
        // Ridge regression of multiples of the prior, pulled to their common scale.
        let mut gram = Matrix::zeros((k, k));
        let mut right = Matrix::zeros((1, k));
        for (row, loss) in rows.iter().zip(&losses) {
            for i in 0..k {
                right[[0, i]] += (row[i] - means[i]) * (loss - mean_loss);
                for j in 0..k {
                    gram[[i, j]] += (row[i] - means[i]) * (row[j] - means[j]);
                }
            }
        }
        let ridge = gram.diag().sum() / k.max(1) as f64 + 1e-12;
        for i in 0..k {
            gram[[i, i]] += ridge;
            right[[0, i]] += ridge;
        }
        let Ok(solution) = Cholesky::new(&gram).and_then(|c| c.solve_right(&right)) else {
            return;
        };
        for (s, (p, m)) in self.sensitivity.iter_mut().zip(self.prior.iter().zip(solution.iter())) {
            *s = p * m.clamp(0.2, 5.0);
        }
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
