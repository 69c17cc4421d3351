//! The normal equations of one group of a layer.

use ndarray::Array1;

use crate::error::Result;
use crate::eval::moments::Moments;
use crate::linalg::{Cholesky, Covariance, Matrix, product, symmetric_eigen};

/// Least squares of targets t on inputs x, with a ridge towards the original weight.
#[derive(Clone, Debug)]
pub struct Fit {
    /// G + ridge, `[columns, columns]`.
    pub xx: Covariance,
    /// T + ridge * W, `[rows, columns]`; premultiplied by the metric's root.
    pub tx: Matrix,
    /// Energy of the targets, the ridge's share included.
    pub energy: f64,
    /// Means of x and t, where the mean is kept by the bias.
    pub means: Option<(Array1<f64>, Array1<f64>)>,
    /// The metric, where it is not the identity.
    pub metric: Option<Metric>,
}

/// A metric of outputs F, as a root of it and the inverse of that.
#[derive(Clone, Debug)]
pub struct Metric {
    /// R with F = R^T R, `[rows, rows]`.
    pub root: Matrix,
    /// R^-1, on the range of F.
    pub inverse_root: Matrix,
}

/// Pivots of a triangular root may be larger than the least weight of a direction, at most about so many times.
const SOUND: f64 = 1e3;

/// Share of the largest weight of a direction that all are lifted to.
const LEAST_WEIGHT: f64 = 1e-6;

impl Metric {
    /// From F, positive semidefinite; directions with less than a millionth of the largest weight
    /// are lifted to that, so that the inverse stays bounded.
    ///
    /// # Errors
    /// When F is not finite.
    pub fn new(f: &Matrix) -> Result<Self> {
        // Any root does. Where no direction is near the floor the triangular one takes a thirtieth of the time.
        if let Ok(cholesky) = Cholesky::new(f) {
            let lower = cholesky.lower();
            let pivots = lower.diag().mapv(|v| v * v);
            let least = pivots.iter().copied().fold(f64::INFINITY, f64::min);
            let most = pivots.iter().copied().fold(0.0, f64::max);
            if least > SOUND * LEAST_WEIGHT * most {
                let inverse_root = cholesky.whiten(&Matrix::eye(f.nrows())).t().to_owned();
                return Ok(Self { root: lower.t().to_owned(), inverse_root });
            }
        }
        let eigen = symmetric_eigen(f)?;
        let largest = eigen.values.first().copied().unwrap_or(0.0);
        let floor = largest.max(f64::MIN_POSITIVE) * LEAST_WEIGHT;
        let power = |exponent: f64| {
            let scaled: Array1<f64> =
                eigen.values.iter().map(|v| v.max(floor).powf(exponent)).collect();
            product(&(&eigen.vectors * &scaled), &eigen.vectors.t().to_owned())
        };
        Ok(Self { root: power(0.5), inverse_root: power(-0.5) })
    }
}

impl Fit {
    /// Without data: every direction of the input counts alike.
    #[must_use]
    pub fn of_weight(weight: &Matrix) -> Self {
        let energy = weight.iter().map(|v| v * v).sum();
        Self {
            xx: Covariance::identity(weight.ncols()),
            tx: weight.clone(),
            energy,
            means: None,
            metric: None,
        }
    }

    /// The layer's own outputs on its own inputs: t = W x. `ridge` is a share of the mean variance
    /// of an input.
    #[must_use]
    pub fn of_inputs(weight: &Matrix, moments: &Moments, centred: bool, ridge: f64) -> Self {
        let mut xx = moments.xx.clone();
        if !centred {
            xx = xx.about_zero(&moments.x_mean);
        }
        add_ridge(&mut xx, moments, ridge);
        let tx = xx.apply(weight);
        let energy = xx.energy(weight);
        let means = centred.then(|| (moments.x_mean.clone(), moments.t_mean.clone()));
        Self { xx, tx, energy, means, metric: None }
    }

    /// Given targets on the inputs that the layer will really see (sequential refit).
    #[must_use]
    pub fn of_targets(weight: &Matrix, moments: &Moments, ridge: f64) -> Self {
        let mut xx = moments.xx.clone();
        let ridge = add_ridge(&mut xx, moments, ridge);
        let tx = &moments.tx + &(weight * ridge);
        let own = weight.iter().map(|v| v * v).sum::<f64>() * ridge;
        let energy = moments.tt.sum() + own;
        let means = Some((moments.x_mean.clone(), moments.t_mean.clone()));
        Self { xx, tx, energy, means, metric: None }
    }

    /// The same with a metric of outputs; `weight` and `moments` are those the fit was made of.
    ///
    /// Errors then count in units of the metric.
    #[must_use]
    pub fn with_metric(mut self, metric: Metric) -> Self {
        // The targets' full second moment isn't kept: what the unrestricted map explains stands
        // for it, so errors are counted against the best dense map.
        self.tx = product(&metric.root, &self.tx);
        if let Ok(best) = self.xx.solver().and_then(|solver| solver.solve_right(&self.tx)) {
            self.energy = best.iter().zip(&self.tx).map(|(a, b)| a * b).sum();
        }
        self.metric = Some(metric);
        self
    }

    /// Bytes that its matrices take.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        let metric = self.metric.as_ref().map_or(0, |m| m.root.len() + m.inverse_root.len());
        self.xx.byte_len() + size_of::<f64>() * (self.tx.len() + metric)
    }

    /// The unrestricted optimum.
    ///
    /// # Errors
    /// When G is not positive definite.
    pub fn dense(&self) -> Result<Matrix> {
        Ok(self.outward(self.unrestricted()?))
    }

    /// The unrestricted optimum in the metric's coordinates.
    pub(super) fn unrestricted(&self) -> Result<Matrix> {
        self.xx.solver()?.solve_right(&self.tx)
    }

    /// From the metric's coordinates back to outputs.
    #[must_use]
    pub fn outward(&self, last: Matrix) -> Matrix {
        match &self.metric {
            Some(metric) => product(&metric.inverse_root, &last),
            None => last,
        }
    }

    /// E|t - M x|^2 in the metric, the ridge's share included.
    #[must_use]
    pub fn error(&self, map: &Matrix) -> f64 {
        let map = match &self.metric {
            Some(metric) => product(&metric.root, map),
            None => map.clone(),
        };
        let cross: f64 = map.iter().zip(&self.tx).map(|(a, b)| a * b).sum();
        self.energy - 2.0 * cross + self.xx.energy(&map)
    }

    /// The bias that keeps the mean exact for a map, or `original` where means are not known.
    #[must_use]
    pub fn bias(&self, map: &Matrix, original: &[f64]) -> Vec<f64> {
        match &self.means {
            Some((x, t)) => (t - &map.dot(x)).to_vec(),
            None => original.to_vec(),
        }
    }
}

/// Below this share of their mean square, what inputs of `f32` vary is rounding.
const ROUNDING: f64 = 1e-12;

/// Adds `share` of the mean variance to the diagonal; returns what was added.
fn add_ridge(xx: &mut Covariance, moments: &Moments, share: f64) -> f64 {
    let mean = &moments.x_mean;
    let least = mean.dot(mean) / mean.len().max(1) as f64 * ROUNDING;
    xx.add_ridge(share, least)
}

/// G of the rows of x that a first factor maps, summed over the rest (`[side, side]`).
pub(super) fn side_moment(xx: &Matrix, side: usize, rest: usize) -> Matrix {
    Matrix::from_shape_fn((side, side), |(i, j)| {
        (0..rest).map(|k| xx[[i * rest + k, j * rest + k]]).sum()
    })
}

/// Sum over outputs and the rest of W's products on one side: W'^T W', `[side, side]`.
pub(super) fn side_gram(weight: &Matrix, side: usize, rest: usize) -> Matrix {
    let mut unfolded = Matrix::zeros((side, weight.nrows() * rest));
    for ((row, column), &value) in weight.indexed_iter() {
        unfolded[[column / rest, row * rest + column % rest]] = value;
    }
    product(&unfolded, &unfolded.t().to_owned())
}
