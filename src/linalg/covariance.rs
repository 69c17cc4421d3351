//! A second-moment matrix, dense, diagonal or, where it was taken over fewer rows than it has columns, by
//! the rows themselves: then nothing of the size columns x columns is ever formed.

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
    /// The diagonal of a G that has nothing beside it, `[order]`.
    Diagonal(Array1<f64>),
}

/// Solves systems with a [`Covariance`].
#[derive(Debug)]
pub struct Solver<'a> {
    covariance: &'a Covariance,
    /// Of G + ridge I, or of X X^T + ridge I; none of a diagonal.
    cholesky: Option<Cholesky>,
}

impl Covariance {
    /// The identity.
    #[must_use]
    pub fn identity(order: usize) -> Self {
        Self::of_diagonal(Array1::ones(order))
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

    /// From the diagonal of a G that has nothing beside it.
    #[must_use]
    pub fn of_diagonal(diagonal: Array1<f64>) -> Self {
        Self { form: Form::Diagonal(diagonal), ridge: 0.0 }
    }

    /// Number of columns.
    #[must_use]
    pub fn order(&self) -> usize {
        match &self.form {
            Form::Dense(m) | Form::Rows(m) => m.ncols(),
            Form::Diagonal(d) => d.len(),
        }
    }

    /// Whether it is known by its diagonal.
    #[must_use]
    pub fn is_diagonal(&self) -> bool {
        matches!(self.form, Form::Diagonal(_))
    }

    /// The numbers that it is made of.
    pub fn elements(&self) -> impl Iterator<Item = f64> {
        let (elements, form): (Box<dyn Iterator<Item = &f64> + '_>, u8) = match &self.form {
            Form::Dense(m) => (Box::new(m.iter()), 0),
            Form::Rows(m) => (Box::new(m.iter()), 1),
            Form::Diagonal(d) => (Box::new(d.iter()), 2),
        };
        elements.copied().chain([self.ridge, f64::from(form)])
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        match &self.form {
            Form::Dense(m) | Form::Rows(m) => m.len() * size_of::<f64>(),
            Form::Diagonal(d) => d.len() * size_of::<f64>(),
        }
    }

    /// Mean diagonal element, the ridge included.
    #[must_use]
    pub fn mean_variance(&self) -> f64 {
        let trace = match &self.form {
            Form::Dense(g) => g.diag().sum(),
            Form::Rows(x) => x.iter().map(|v| v * v).sum(),
            Form::Diagonal(d) => d.sum(),
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
            Form::Diagonal(_) if mean.iter().all(|&m| m == 0.0) => {}
            Form::Diagonal(d) => {
                let column = mean.view().insert_axis(Axis(1)).to_owned();
                let g = product(&column, &column.t().to_owned()) + Matrix::from_diag(d);
                self.form = Form::Dense(g);
            }
        }
        self
    }

    /// Of inputs that a linear map changes, without a ridge; `map` applies it to every row of a matrix.
    #[must_use]
    pub fn turned(&self, map: impl Fn(&Matrix) -> Matrix) -> Self {
        let form = match &self.form {
            Form::Dense(g) => Form::Dense(map(&map(g).t().to_owned())),
            Form::Rows(x) => Form::Rows(map(x)),
            Form::Diagonal(d) => Form::Rows(map(&Matrix::from_diag(&d.mapv(f64::sqrt)))),
        };
        Self { form, ridge: 0.0 }
    }

    /// The diagonal, ridge included.
    #[must_use]
    pub fn diagonal(&self) -> Vec<f64> {
        let own = match &self.form {
            Form::Dense(g) => g.diag().to_vec(),
            Form::Rows(x) => x.columns().into_iter().map(|c| c.dot(&c)).collect(),
            Form::Diagonal(d) => d.to_vec(),
        };
        own.into_iter().map(|v| v + self.ridge).collect()
    }

    /// How far a covariance of `rows` independent rows is to be drawn towards a multiple of the
    /// identity to come closest to the truth, as the ridge to add in shares of the mean variance:
    /// rho / (1 - rho) with rho of the oracle approximating shrinkage (Chen, Wiesel, Eldar and Hero
    /// 2010, equation 23).
    ///
    /// A diagonal is that of inputs of which one at a time is 1: shares of the rows. What more rows would
    /// show that these don't has the share of those seen once (Good 1953, equation 9).
    #[must_use]
    pub fn shrinkage(&self, rows: usize) -> f64 {
        let squares = |m: &Matrix| m.iter().map(|v| v * v).sum::<f64>();
        let share = |rho: f64| (rho / (1.0 - rho).max(1e-3)).max(0.0);
        let (trace, square) = match &self.form {
            Form::Diagonal(d) => {
                let once = d.iter().filter(|&&v| (v * rows as f64 - 1.0).abs() < 0.5).count();
                return share(once as f64 / rows.max(1) as f64);
            }
            Form::Dense(g) => (g.diag().sum(), squares(g)),
            Form::Rows(x) => (squares(x), squares(&product(x, &x.t().to_owned()))),
        };
        let (n, p) = (rows as f64, self.order().max(1) as f64);
        let spread = square - trace * trace / p;
        let above = (1.0 - 2.0 / p) * square + trace * trace;
        let below = (n + 1.0 - 2.0 / p) * spread;
        // All variances alike: nothing to learn from the rows.
        let rho = if below > above { above / below } else { 1.0 };
        share(rho)
    }

    /// Adds `share` of the mean variance to the diagonal; returns what was added. A mean variance up
    /// to `least` counts as none.
    pub fn add_ridge(&mut self, share: f64, least: f64) -> f64 {
        let mean = self.mean_variance();
        // Inputs that never vary leave nothing to fit: then every direction counts alike.
        let ridge = if mean > least.max(f64::MIN_POSITIVE) { mean * share } else { 1.0 };
        self.ridge += ridge;
        ridge
    }

    /// `m (G + ridge I)`, for `m` `[any, order]`.
    #[must_use]
    pub fn apply(&self, m: &Matrix) -> Matrix {
        let image = match &self.form {
            Form::Dense(g) => product(m, g),
            Form::Rows(x) => product(&product(m, &x.t().to_owned()), x),
            Form::Diagonal(d) => m * d,
        };
        if self.ridge == 0.0 { image } else { image + &(m * self.ridge) }
    }

    /// `m (G + ridge I) m^T`, exactly symmetric.
    #[must_use]
    pub fn sandwich(&self, m: &Matrix) -> Matrix {
        let full = match &self.form {
            Form::Dense(_) | Form::Diagonal(_) => product(&self.apply(m), &m.t().to_owned()),
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
            Form::Dense(_) | Form::Diagonal(_) => {
                m.iter().zip(&self.apply(m)).map(|(a, b)| a * b).sum()
            }
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
            Form::Diagonal(d) => Matrix::from_diag(d),
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
                Some(Cholesky::new(&gram)?)
            }
            Form::Diagonal(d) if d.iter().all(|v| v + self.ridge > 0.0) => None,
            _ => Some(Cholesky::new(&self.to_dense())?),
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
        let Covariance { form, ridge } = self.covariance;
        match (form, &self.cholesky) {
            (Form::Rows(x), Some(cholesky)) if *ridge > 0.0 => {
                let inner = cholesky.solve_right(&product(rhs, &x.t().to_owned()))?;
                Ok((rhs - &product(&inner, x)) / *ridge)
            }
            (_, Some(cholesky)) => cholesky.solve_right(rhs),
            (_, None) => {
                let diagonal = Array1::from(self.covariance.diagonal());
                if rhs.ncols() != diagonal.len() {
                    return Err(super::failed("a covariance", "another number of columns"));
                }
                Ok(rhs / &diagonal)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::tests::random;

    #[test]
    fn rows_and_dense_agree() {
        let x = random(7, 20, 11);
        let mean = random(1, 20, 11).row(0).to_owned();
        let mut dense = Covariance::dense(x.t().dot(&x)).about_zero(&mean);
        let mut rows = Covariance::of_rows(x).about_zero(&mean);
        let ridge = dense.add_ridge(1e-3, 0.0);
        assert!((rows.add_ridge(1e-3, 0.0) - ridge).abs() < 1e-12 * ridge);
        let m = random(4, 20, 11);
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
        let diagonal = |g: Matrix| g.diag().to_vec();
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9 * b);
        assert!(near(&rows.diagonal(), &diagonal(dense.to_dense())));
        let map = random(20, 20, 12);
        let turn = |x: &Matrix| product(x, &map);
        let (rows, dense) = (rows.turned(turn), dense.turned(turn));
        close(&rows.to_dense(), &dense.to_dense());
    }

    /// With few rows the ridge brings the estimate nearer to the covariance the rows come from.
    #[test]
    fn shrinkage_comes_closer_to_the_truth() {
        let (n, rows) = (40, 25);
        let scale = Array1::from_shape_fn(n, |i| 1.0 / (1.0 + i as f64 / 8.0));
        // Sums of four uniform numbers of variance 1/3.
        let mut parts = random(4 * rows, n, 11);
        parts *= &scale;
        let x = (0..4).map(|k| parts.slice(ndarray::s![k * rows..(k + 1) * rows, ..]).to_owned());
        let x = x.fold(Matrix::zeros((rows, n)), |a, b| a + b) * (0.75 / rows as f64).sqrt();
        let truth = Matrix::from_diag(&scale.mapv(|s| s * s));
        let mut estimate = Covariance::of_rows(x);
        let error = |g: &Matrix| (g - &truth).iter().map(|v| v * v).sum::<f64>();
        let before = error(&estimate.to_dense());
        let share = estimate.shrinkage(rows);
        assert!((estimate.shrinkage(1_000_000) - 0.0).abs() < 1e-3);
        estimate.add_ridge(share, 0.0);
        let after = error(&(estimate.to_dense() / (1.0 + share)));
        assert!(share > 0.05 && after < 0.7 * before, "{share} {before} {after}");
    }

    #[test]
    fn a_diagonal_is_what_the_dense_form_of_it_is() {
        let d = Array1::from_shape_fn(6, |i| (i as f64 + 1.0) / 21.0);
        let mut diagonal = Covariance::of_diagonal(d.clone());
        let mut dense = Covariance::dense(Matrix::from_diag(&d));
        let m = random(4, 6, 11);
        let near = |a: &Matrix, b: &Matrix| (a - b).iter().all(|d| d.abs() < 1e-12);
        assert!(near(&diagonal.solver().unwrap().solve_right(&m).unwrap(), &(&m / &d)));
        assert!((diagonal.add_ridge(0.1, 0.0) - dense.add_ridge(0.1, 0.0)).abs() < 1e-15);
        assert!(near(&diagonal.apply(&m), &dense.apply(&m)));
        assert!(near(&diagonal.sandwich(&m), &dense.sandwich(&m)));
        assert!(near(&diagonal.to_dense(), &dense.to_dense()));
        assert!((diagonal.energy(&m) - dense.energy(&m)).abs() < 1e-12);
        assert_eq!(diagonal.diagonal(), dense.diagonal());
        let solved = diagonal.solver().unwrap().solve_right(&m).unwrap();
        assert!(near(&solved, &dense.solver().unwrap().solve_right(&m).unwrap()));
        let mean = random(1, 6, 12).row(0).to_owned();
        let (diagonal, dense) =
            (Covariance::of_diagonal(d.clone()), Covariance::dense(Matrix::from_diag(&d)));
        assert!(near(&diagonal.about_zero(&mean).to_dense(), &dense.about_zero(&mean).to_dense()));
    }

    /// Of ten looked up two were seen once: a fifth of what comes next is new.
    #[test]
    fn shares_of_rows_are_drawn_towards_what_was_not_seen() {
        let counts = Array1::from(vec![5.0, 3.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let mut seen = Covariance::of_diagonal(counts / 10.0);
        let share = seen.shrinkage(10);
        assert!((share / (1.0 + share) - 0.2).abs() < 1e-12, "{share}");
        seen.add_ridge(share, 0.0);
        assert!((seen.diagonal()[7] - share / 8.0).abs() < 1e-12);
    }

    #[test]
    fn constant_inputs_count_every_direction_alike() {
        let mut covariance = Covariance::of_rows(Matrix::zeros((3, 5)));
        assert!((covariance.add_ridge(1e-3, 0.0) - 1.0).abs() < f64::EPSILON);
        let m = random(2, 5, 11);
        assert_eq!(covariance.solver().unwrap().solve_right(&m).unwrap(), m);
    }
}
