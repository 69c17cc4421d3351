//! Dense decompositions in `f64`, each by the library that is faster at that size, as
//! `examples/decompositions.rs` measures it. Everything runs on one thread, so results don't depend
//! on their number.

use faer::{MatRef, Par, Side, linalg::solvers::Solve};
use nalgebra::DMatrix;
use ndarray::Array2;

use crate::error::{Error, Result};

mod covariance;
mod subspace;

pub use covariance::{Covariance, Solver};
pub use subspace::{CROSSOVER, Gram, Leading, leading_eigen, subspace};

/// A matrix.
pub type Matrix = Array2<f64>;

/// Up to this order nalgebra's eigendecomposition is the faster one, above it faer's: the table in
/// `benches/README.md`.
pub const SMALL_EIGEN: usize = 32;

/// Eigenvalues and eigenvectors of a symmetric matrix.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// Eigenvalues, descending.
    pub values: Vec<f64>,
    /// Eigenvectors as columns, in the same order.
    pub vectors: Matrix,
}

/// The eigendecomposition of a symmetric matrix, of which the lower triangle is read.
///
/// # Errors
/// When the matrix is not square or finite, or the iteration does not converge.
pub fn symmetric_eigen(matrix: &Matrix) -> Result<Eigen> {
    check(matrix, "a symmetric matrix")?;
    if matrix.nrows() <= SMALL_EIGEN { eigen_nalgebra(matrix) } else { eigen_faer(matrix) }
}

/// [`symmetric_eigen`] by nalgebra, whatever the order.
///
/// # Errors
/// When the iteration does not converge.
pub fn eigen_nalgebra(matrix: &Matrix) -> Result<Eigen> {
    let n = matrix.nrows();
    let symmetric = DMatrix::from_fn(n, n, |i, j| matrix[[i.max(j), i.min(j)]]);
    let eigen = nalgebra::SymmetricEigen::try_new(symmetric, f64::EPSILON, 0)
        .ok_or_else(|| failed("a symmetric matrix", "no convergence"))?;
    Ok(sorted(n, |j| eigen.eigenvalues[j], |i, j| eigen.eigenvectors[(i, j)]))
}

/// [`symmetric_eigen`] by faer, whatever the order.
///
/// # Errors
/// When the iteration does not converge.
pub fn eigen_faer(matrix: &Matrix) -> Result<Eigen> {
    faer::set_global_parallelism(Par::Seq);
    let n = matrix.nrows();
    let standard = matrix.as_standard_layout();
    let elements = standard.as_slice().unwrap_or(&[]);
    let eigen = MatRef::from_row_major_slice(elements, n, n)
        .self_adjoint_eigen(Side::Lower)
        .map_err(|e| failed("a symmetric matrix", &format!("{e:?}")))?;
    let values = eigen.S().column_vector();
    Ok(sorted(n, |j| values[j], |i, j| eigen.U()[(i, j)]))
}

fn sorted(n: usize, value: impl Fn(usize) -> f64, vector: impl Fn(usize, usize) -> f64) -> Eigen {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
    // The sign of an eigenvector is arbitrary: the entry of largest magnitude is made positive, so
    // that the two libraries give the same factors.
    let signs: Vec<f64> = order
        .iter()
        .map(|&j| {
            let largest = (0..n)
                .map(|i| vector(i, j))
                .fold(0.0, |a: f64, v| if v.abs() > a.abs() + 1e-9 { v } else { a });
            if largest < 0.0 { -1.0 } else { 1.0 }
        })
        .collect();
    Eigen {
        values: order.iter().map(|&j| value(j)).collect(),
        vectors: Matrix::from_shape_fn((n, n), |(i, j)| signs[j] * vector(i, order[j])),
    }
}

/// The lower triangular Cholesky factor of a symmetric positive definite matrix. faer's at every
/// size: nalgebra's is faster below order 8 only, by less than a microsecond.
#[derive(Debug)]
pub struct Cholesky {
    factor: faer::linalg::solvers::Llt<f64>,
    order: usize,
}

impl Cholesky {
    /// Factorizes `matrix`, of which the lower triangle is read.
    ///
    /// # Errors
    /// When the matrix is not square, not finite or not positive definite.
    pub fn new(matrix: &Matrix) -> Result<Self> {
        check(matrix, "a covariance")?;
        faer::set_global_parallelism(Par::Seq);
        let n = matrix.nrows();
        let standard = matrix.as_standard_layout();
        let factor = MatRef::from_row_major_slice(standard.as_slice().unwrap_or(&[]), n, n)
            .llt(Side::Lower)
            .map_err(|e| failed("a covariance", &format!("not positive definite ({e:?})")))?;
        Ok(Self { factor, order: n })
    }

    /// X with `X * matrix = rhs`, for `rhs` `[rows, order]`.
    ///
    /// # Errors
    /// When `rhs` has another number of columns.
    pub fn solve_right(&self, rhs: &Matrix) -> Result<Matrix> {
        if rhs.ncols() != self.order {
            return Err(failed("a linear system", "operands differ in order"));
        }
        let transposed = faer::Mat::from_fn(self.order, rhs.nrows(), |i, j| rhs[[j, i]]);
        let solution = self.factor.solve(&transposed);
        Ok(Matrix::from_shape_fn(rhs.raw_dim(), |(i, j)| solution[(j, i)]))
    }

    /// L, the lower triangular factor.
    #[must_use]
    pub fn lower(&self) -> Matrix {
        let lower = self.factor.L();
        let kept = |(i, j)| if j <= i { lower[(i, j)] } else { 0.0 };
        Matrix::from_shape_fn((self.order, self.order), kept)
    }

    /// `L^-1 rhs^T` for `rhs` `[rows, order]`, with L the lower triangular factor: row i depends
    /// only on the leading i + 1 rows and columns of the matrix.
    #[must_use]
    pub fn whiten(&self, rhs: &Matrix) -> Matrix {
        let lower = self.factor.L();
        let mut out = faer::Mat::from_fn(self.order, rhs.nrows(), |i, j| rhs[[j, i]]);
        faer::linalg::triangular_solve::solve_lower_triangular_in_place(
            lower,
            out.as_mut(),
            Par::Seq,
        );
        Matrix::from_shape_fn((self.order, rhs.nrows()), |(i, j)| out[(i, j)])
    }
}

/// `a * b`.
///
/// # Panics
/// When the inner extents differ.
#[must_use]
pub fn product(a: &Matrix, b: &Matrix) -> Matrix {
    faer::set_global_parallelism(Par::Seq);
    let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
    let ((rows, inner), (_, columns)) = (a.dim(), b.dim());
    let mut out = Matrix::zeros((rows, columns));
    if let Some(target) = out.as_slice_mut() {
        faer::linalg::matmul::matmul(
            faer::MatMut::from_row_major_slice_mut(target, rows, columns),
            faer::Accum::Replace,
            MatRef::from_row_major_slice(a.as_slice().unwrap_or(&[]), rows, inner),
            MatRef::from_row_major_slice(b.as_slice().unwrap_or(&[]), inner, columns),
            1.0,
            Par::Seq,
        );
    }
    out
}

/// `a * a^T` scaled: `a * middle * a^T`, made exactly symmetric.
#[must_use]
pub fn sandwich(a: &Matrix, middle: &Matrix) -> Matrix {
    let full = product(&product(a, middle), &a.t().to_owned());
    (&full + &full.t()) * 0.5
}

/// `a * a^T`, made exactly symmetric.
#[must_use]
pub fn outer(a: &Matrix) -> Matrix {
    let full = product(a, &a.t().to_owned());
    (&full + &full.t()) * 0.5
}

fn check(matrix: &Matrix, what: &str) -> Result<()> {
    if matrix.nrows() != matrix.ncols() {
        return Err(failed(what, "not square"));
    }
    if matrix.iter().any(|v| !v.is_finite()) {
        return Err(failed(what, "an element is NaN or infinite"));
    }
    Ok(())
}

fn failed(what: &str, reason: &str) -> Error {
    Error::Decomposition { what: what.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Elements between -1 and 1.
    pub(crate) fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
        let mut state = seed;
        Matrix::from_shape_simple_fn((rows, columns), || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as f64 / 2f64.powi(30) - 1.0
        })
    }

    #[test]
    fn eigenvectors_rebuild_the_matrix_in_both_libraries() {
        for n in [1, 2, 5, SMALL_EIGEN, SMALL_EIGEN + 1, 60] {
            let a = random(n, n, 7);
            let a = sandwich(&a, &Matrix::eye(n));
            for eigen in [eigen_nalgebra(&a).unwrap(), eigen_faer(&a).unwrap()] {
                assert!(eigen.values.windows(2).all(|w| w[0] >= w[1]));
                let scaled = &eigen.vectors * &ndarray::Array1::from(eigen.values.clone());
                let rebuilt = product(&scaled, &eigen.vectors.t().to_owned());
                assert!((&rebuilt - &a).iter().all(|d| d.abs() < 1e-9));
            }
        }
    }

    #[test]
    fn solves_and_whitens() {
        let a = random(30, 40, 7);
        let spd = sandwich(&a, &Matrix::eye(40)) + Matrix::eye(30);
        let rhs = random(4, 30, 7);
        let cholesky = Cholesky::new(&spd).unwrap();
        let x = cholesky.solve_right(&rhs).unwrap();
        assert!((&product(&x, &spd) - &rhs).iter().all(|d| d.abs() < 1e-9));
        let white = cholesky.whiten(&rhs);
        let energy = product(&white.t().to_owned(), &white);
        let expected = product(&x, &rhs.t().to_owned());
        assert!((&energy - &expected).iter().all(|d| d.abs() < 1e-9));
    }

    #[test]
    fn refuses_what_has_no_factor() {
        assert!(Cholesky::new(&Matrix::from_elem((2, 2), f64::NAN)).is_err());
        assert!(Cholesky::new(&-Matrix::eye(2)).is_err());
        assert!(symmetric_eigen(&Matrix::zeros((2, 3))).is_err());
    }
}
