//! The modified stable rank: what a weight has beyond its target rank, relative to what it has
//! within (Eo, Kang and Rhee 2023, as reconstructed in DESIGN, section 2).

use crate::error::Result;
use crate::linalg::{Matrix, product, sandwich, symmetric_eigen};

/// mSR_p(A) = sum over i > r of s_i^p / sum over i <= r of s_i^p, for a matrix A `[rows, columns]`
/// with singular values s and a target rank r. It doesn't depend on A's scale, and is zero where A
/// has at most rank r.
///
/// Left singular vectors are kept between calls of [`StableRank::refresh`]; values are taken anew
/// from them every time. With a metric S, `[columns, columns]` and positive semidefinite, the
/// singular values are those of A S^(1/2): what a truncation that weighs inputs by their moments
/// throws away.
#[derive(Clone, Debug)]
pub struct StableRank {
    rank: usize,
    power: u8,
    metric: Option<Matrix>,
    /// Left singular vectors as columns, by descending value.
    basis: Matrix,
}

/// mSR with its gradient.
#[derive(Clone, Debug)]
pub struct Value {
    /// mSR itself.
    pub value: f64,
    /// d mSR / d A, `[rows, columns]`.
    pub gradient: Matrix,
}

impl StableRank {
    /// For matrices near `a`, the target `rank` and `power` 1 or 2.
    ///
    /// # Errors
    /// When the decomposition fails.
    pub fn new(a: &Matrix, rank: usize, power: u8, metric: Option<Matrix>) -> Result<Self> {
        let mut new = Self { rank, power, metric, basis: Matrix::eye(a.nrows()) };
        new.refresh(a)?;
        Ok(new)
    }

    /// Takes the singular vectors anew.
    ///
    /// # Errors
    /// When `a` is not finite.
    pub fn refresh(&mut self, a: &Matrix) -> Result<()> {
        let moment = match &self.metric {
            Some(metric) => sandwich(a, metric),
            None => sandwich(a, &Matrix::eye(a.ncols())),
        };
        self.basis = symmetric_eigen(&moment)?.vectors;
        Ok(())
    }

    /// The matrix projected on the leading kept vectors, as many as the rank: right after a refresh the
    /// closest one of that rank, in the metric.
    #[must_use]
    pub fn truncated(&self, a: &Matrix) -> Matrix {
        let rank = self.rank.min(self.basis.ncols());
        let leading = self.basis.slice(ndarray::s![.., ..rank]).to_owned();
        product(&leading, &product(&leading.t().to_owned(), a))
    }

    /// Singular values along the kept vectors, descending right after a refresh.
    #[must_use]
    pub fn spectrum(&self, a: &Matrix) -> Vec<f64> {
        self.project(a).1
    }

    /// The value at `a` and its gradient. It is exact for the kept vectors, so right after a
    /// refresh; between refreshes it is that of the kept subspaces.
    #[must_use]
    pub fn at(&self, a: &Matrix) -> Value {
        let (weighted, singular) = self.project(a);
        let p = i32::from(self.power);
        let powers: Vec<f64> = singular.iter().map(|s| s.powi(p)).collect();
        let cut = self.rank.min(powers.len());
        let head = powers[..cut].iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let tail: f64 = powers[cut..].iter().sum();
        // d s_i^p / d A = p s_i^(p - 2) u_i u_i^T A S.
        let mut scaled = weighted;
        for (i, (mut row, s)) in scaled.outer_iter_mut().zip(&singular).enumerate() {
            let slope = f64::from(self.power) * s.max(1e-12).powi(p - 2);
            let share = if i < cut { -tail / (head * head) } else { 1.0 / head };
            row.mapv_inplace(|v| v * slope * share);
        }
        Value { value: tail / head, gradient: product(&self.basis, &scaled) }
    }

    /// U^T A S and the singular values.
    fn project(&self, a: &Matrix) -> (Matrix, Vec<f64>) {
        let image = product(&self.basis.t().to_owned(), a);
        let weighted = match &self.metric {
            Some(metric) => product(&image, metric),
            None => image.clone(),
        };
        let rows = image.outer_iter().zip(weighted.outer_iter());
        let singular = rows.map(|(a, b)| a.dot(&b).max(0.0).sqrt()).collect();
        (weighted, singular)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::tests::random;

    /// mSR by nalgebra's singular values of A S^(1/2), S = C^T C.
    fn oracle(a: &Matrix, c: &Matrix, rank: usize, power: i32) -> f64 {
        let whole = a.dot(&c.t());
        let (rows, columns) = whole.dim();
        let whole = nalgebra::DMatrix::from_fn(rows, columns, |i, j| whole[[i, j]]);
        let mut s: Vec<f64> = whole.singular_values().iter().copied().collect();
        s.sort_by(|a, b| b.total_cmp(a));
        let sum = |s: &[f64]| s.iter().map(|v| v.powi(power)).sum::<f64>();
        sum(&s[rank..]) / sum(&s[..rank])
    }

    #[test]
    fn value_and_gradient_follow_the_singular_values() {
        for (power, with_metric) in [(1, false), (2, false), (1, true), (2, true)] {
            let a = random(5, 8, 3);
            let c = if with_metric { random(9, 8, 4) } else { Matrix::eye(8) };
            let metric = with_metric.then(|| c.t().dot(&c));
            let msr = StableRank::new(&a, 2, power, metric).unwrap();
            let exact = msr.at(&a);
            let of = |a: &Matrix| oracle(a, &c, 2, i32::from(power));
            assert!((exact.value - of(&a)).abs() < 1e-10 * exact.value);
            for index in [(0, 0), (1, 3), (4, 7), (2, 5)] {
                let (mut high, mut low) = (a.clone(), a.clone());
                high[index] += 1e-5;
                low[index] -= 1e-5;
                let numeric = (of(&high) - of(&low)) / 2e-5;
                let given = exact.gradient[index];
                assert!(
                    (given - numeric).abs() < 1e-6 * (1.0 + numeric.abs()),
                    "{given} {numeric}"
                );
            }
        }
    }

    #[test]
    fn scale_is_free_and_low_rank_costs_nothing() {
        let a = random(6, 7, 5);
        let msr = StableRank::new(&a, 3, 2, None).unwrap();
        let value = msr.at(&a).value;
        assert!((msr.at(&(&a * 7.0)).value - value).abs() < 1e-12);
        let low = random(6, 3, 6).dot(&random(3, 7, 7));
        assert!(StableRank::new(&low, 3, 2, None).unwrap().at(&low).value < 1e-12);
    }

    #[test]
    fn truncation_loses_what_lies_beyond_the_rank() {
        let a = random(6, 9, 11);
        let msr = StableRank::new(&a, 2, 2, None).unwrap();
        let lost = &a - &msr.truncated(&a);
        let tail: f64 = msr.spectrum(&a)[2..].iter().map(|s| s * s).sum();
        assert!((lost.iter().map(|v| v * v).sum::<f64>() - tail).abs() < 1e-10 * tail);
    }

    /// Descending the gradient leaves a matrix of the target rank.
    #[test]
    fn descent_lowers_the_rank() {
        let mut a = random(6, 10, 8);
        let mut msr = StableRank::new(&a, 2, 2, None).unwrap();
        let before = msr.at(&a).value;
        for step in 0..400 {
            if step % 10 == 0 {
                msr.refresh(&a).unwrap();
            }
            a = &a - &(msr.at(&a).gradient * 0.5);
        }
        msr.refresh(&a).unwrap();
        assert!(msr.at(&a).value < 1e-3 * before);
    }
}
