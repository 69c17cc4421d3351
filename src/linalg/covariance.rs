//! A second-moment matrix, dense or, where it was taken over fewer rows than it has columns, by the
//! rows themselves: then nothing of the size columns x columns is ever formed.

use ndarray::{Array1, Axis};

use super::{Cholesky, Matrix, product};
use crate::error::Result;

/// G + ridge * I, with G positive semidefinite.
#[derive(Clone, Debug)]
pub struct Covariance {
    form: Form,
    ridge: f64,
}

#[derive(Clone, Debug)]
enum Form {
    /// G, `[order, order]`.
    Dense(Matrix),
    /// X with G = X^T X, `[rows, order]`.
    Rows(Matrix),
}

/// Solves systems with a [`Covariance`].
#[derive(Debug)]
pub struct Solver<'a> {
    covariance: &'a Covariance,
    /// Of G + ridge I, or of X X^T + ridge I.
    cholesky: Cholesky,
}

impl Covariance {
    /// The identity.
    #[must_use]
    pub fn identity(order: usize) -> Self {
        Self::dense(Matrix::eye(order))
    }

    /// From G itself, `[order, order]`.
    #[must_use]
    pub fn dense(g: Matrix) -> Self {
        Self { form: Form::Dense(g), ridge: 0.0 }
    }

    /// From X with G = X^T X, `[rows, order]`.
    #[must_use]
    pub fn of_rows(x: Matrix) -> Self {
        Self { form: Form::Rows(x), ridge: 0.0 }
    }

    /// Number of columns.
    #[must_use]
    pub fn order(&self) -> usize {
        match &self.form {
            Form::Dense(m) | Form::Rows(m) => m.ncols(),
        }
    }

    /// Mean diagonal element, the ridge included.
    #[must_use]
    pub fn mean_variance(&self) -> f64 {
        let trace = match &self.form {
            Form::Dense(g) => g.diag().sum(),
            Form::Rows(x) => x.iter().map(|v| v * v).sum(),
        };
        trace / self.order().max(1) as f64 + self.ridge
    }

    /// G + mean mean^T: the moment about zero, of one about the mean.
    #[must_use]
    pub fn about_zero(mut self, mean: &Array1<f64>) -> Self {
        match &mut self.form {
            Form::Dense(g) => {
                for ((i, j), v) in g.indexed_iter_mut() {
                    *v += mean[i] * mean[j];
                }
            }
            Form::Rows(x) => {
                let last = mean.view().insert_axis(Axis(0));
                *x = ndarray::concatenate![Axis(0), *x, last];
            }
        }
        self
    }

    /// Adds `share` of the mean variance to the diagonal; returns what was added.
    pub fn add_ridge(&mut self, share: f64) -> f64 {
        let mean = self.mean_variance();
        // Inputs that never vary leave nothing to fit: then every direction counts alike.
        let ridge = if mean > f64::MIN_POSITIVE { mean * share } else { 1.0 };
        self.ridge += ridge;
        ridge
    }

    /// `m (G + ridge I)`, for `m` `[any, order]`.
    #[must_use]
    pub fn apply(&self, m: &Matrix) -> Matrix {
        let image = match &self.form {
            Form::Dense(g) => product(m, g),
            Form::Rows(x) => product(&product(m, &x.t().to_owned()), x),
        };
        if self.ridge == 0.0 { image } else { image + &(m * self.ridge) }
    }

    /// `m (G + ridge I) m^T`, exactly symmetric.
    #[must_use]
    pub fn sandwich(&self, m: &Matrix) -> Matrix {
        let full = match &self.form {
            Form::Dense(_) => product(&self.apply(m), &m.t().to_owned()),
            Form::Rows(x) => {
                let image = product(m, &x.t().to_owned());
                let own = product(m, &m.t().to_owned()) * self.ridge;
                product(&image, &image.t().to_owned()) + own
            }
        };
        (&full + &full.t()) * 0.5
    }

    /// tr(m (G + ridge I) m^T).
    #[must_use]
    pub fn energy(&self, m: &Matrix) -> f64 {
        match &self.form {
            Form::Dense(_) => m.iter().zip(&self.apply(m)).map(|(a, b)| a * b).sum(),
            Form::Rows(x) => {
                let image = product(m, &x.t().to_owned());
                let squares = |m: &Matrix| m.iter().map(|v| v * v).sum::<f64>();
                squares(&image) + self.ridge * squares(m)
            }
        }
    }

    /// The matrix itself, ridge included, `[order, order]`.
    #[must_use]
    pub fn to_dense(&self) -> Matrix {
        let mut g = match &self.form {
            Form::Dense(g) => g.clone(),
            Form::Rows(x) => product(&x.t().to_owned(), x),
        };
        g.diag_mut().iter_mut().for_each(|v| *v += self.ridge);
        g
    }

    /// Factorizes it.
    ///
    /// # Errors
    /// When it is not finite or not positive definite.
    pub fn solver(&self) -> Result<Solver<'_>> {
        let cholesky = match &self.form {
            Form::Rows(x) if self.ridge > 0.0 => {
                let mut gram = product(x, &x.t().to_owned());
                gram.diag_mut().iter_mut().for_each(|v| *v += self.ridge);
                Cholesky::new(&gram)?
            }
            _ => Cholesky::new(&self.to_dense())?,
        };
        Ok(Solver { covariance: self, cholesky })
    }
}

impl Solver<'_> {
    /// M with `M (G + ridge I) = rhs`, for `rhs` `[any, order]`.
    ///
    /// By rows: (X^T X + r I)^-1 = (I - X^T (X X^T + r I)^-1 X) / r (Woodbury).
    ///
    /// # Errors
    /// When `rhs` has another number of columns.
    pub fn solve_right(&self, rhs: &Matrix) -> Result<Matrix> {
        match &self.covariance.form {
            Form::Rows(x) if self.covariance.ridge > 0.0 => {
                let inner = self.cholesky.solve_right(&product(rhs, &x.t().to_owned()))?;
                Ok((rhs - &product(&inner, x)) / self.covariance.ridge)
            }
            _ => self.cholesky.solve_right(rhs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, columns: usize) -> Matrix {
        let mut state = 11u64;
        Matrix::from_shape_simple_fn((rows, columns), || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as f64 / 2f64.powi(30) - 1.0
        })
    }

    #[test]
    fn rows_and_dense_agree() {
        let x = random(7, 20);
        let mean = random(1, 20).row(0).to_owned();
        let mut dense = Covariance::dense(x.t().dot(&x)).about_zero(&mean);
        let mut rows = Covariance::of_rows(x).about_zero(&mean);
        let ridge = dense.add_ridge(1e-3);
        assert!((rows.add_ridge(1e-3) - ridge).abs() < 1e-12 * ridge);
        let m = random(4, 20);
        let close = |a: &Matrix, b: &Matrix| {
            let scale = b.iter().fold(0.0, |s: f64, v| s.max(v.abs()));
            assert!((a - b).iter().all(|d| d.abs() < 1e-9 * scale), "{a:?}\n{b:?}");
        };
        close(&rows.apply(&m), &dense.apply(&m));
        close(&rows.sandwich(&m), &dense.sandwich(&m));
        close(&rows.to_dense(), &dense.to_dense());
        assert!((rows.energy(&m) / dense.energy(&m) - 1.0).abs() < 1e-12);
        let solved = rows.solver().unwrap().solve_right(&m).unwrap();
        close(&solved, &dense.solver().unwrap().solve_right(&m).unwrap());
        close(&dense.apply(&solved), &m);
    }

    #[test]
    fn constant_inputs_count_every_direction_alike() {
        let mut covariance = Covariance::of_rows(Matrix::zeros((3, 5)));
        assert!((covariance.add_ridge(1e-3) - 1.0).abs() < f64::EPSILON);
        let m = random(2, 5);
        assert_eq!(covariance.solver().unwrap().solve_right(&m).unwrap(), m);
    }
}
