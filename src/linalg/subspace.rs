//! The leading eigenvectors of a large positive semidefinite matrix, by subspace iteration where few of them
//! are wanted.
//!
//! Ritz vectors of a random subspace that the matrix was applied to a few times come close to the leading
//! eigenvectors (Halko, Martinsson, Tropp 2011). How close is not taken on trust: residuals bound what the exact
//! vectors would have captured more, and a rank for which that is too much does not count as known.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par};

use super::{Matrix, check, symmetric_eigen};
use crate::error::Result;

/// Times that the matrix is applied to the subspace before vectors are taken from it.
const POWERS: usize = 3;

/// Directions of the subspace for each that is wanted, and some more.
const SPARE: (f64, usize) = (1.2, 8);

/// Share of the order above which a subspace costs as much as all eigenvectors: `examples/crossover.rs`
/// measures it.
pub const CROSSOVER: f64 = 0.5;

/// What the exact eigenvectors may capture more than those found, as a share of what these leave.
const TOLERANCE: f64 = 0.01;

/// Steps that look for the largest eigenvalue outside of the subspace, and what is added to what they find.
const OUTSIDE: (usize, f64) = (16, 1.02);

/// The leading eigenvectors of a positive semidefinite matrix.
#[derive(Clone, Debug)]
pub struct Leading {
    /// Rayleigh quotients of the vectors, descending; all eigenvalues where they are exact.
    pub values: Vec<f64>,
    /// Orthonormal columns in the same order. The leading r leave trace - (sum of the leading r values).
    pub vectors: Matrix,
    /// The largest rank up to which no other vectors capture noticeably more.
    pub known: usize,
}

/// A Gram matrix that grows by blocks of rows.
#[derive(Debug)]
pub struct Gram(Matrix);

impl Gram {
    /// Zero, `[order, order]`.
    #[must_use]
    pub fn new(order: usize) -> Self {
        Self(Matrix::zeros((order, order)))
    }

    /// Adds `block^T block`, for `block` `[rows, order]`.
    pub fn add(&mut self, block: &Matrix) {
        let (rows, order) = block.dim();
        let standard = block.as_standard_layout();
        let block = MatRef::from_row_major_slice(standard.as_slice().unwrap_or(&[]), rows, order);
        if let Some(target) = self.0.as_slice_mut() {
            triangular::matmul(
                faer::MatMut::from_row_major_slice_mut(target, order, order),
                BlockStructure::TriangularLower,
                Accum::Add,
                block.transpose(),
                BlockStructure::Rectangular,
                block,
                BlockStructure::Rectangular,
                1.0,
                Par::Seq,
            );
        }
    }

    /// The whole symmetric matrix.
    #[must_use]
    pub fn finish(mut self) -> Matrix {
        for i in 0..self.0.nrows() {
            for j in 0..i {
                self.0[[j, i]] = self.0[[i, j]];
            }
        }
        self.0
    }
}

/// The leading `rank` eigenvectors of a positive semidefinite `matrix`, or all where that costs no more.
/// Where a subspace turns out not to tell even half as many, all are taken too. `seed` decides the subspace.
///
/// # Errors
/// When the matrix is not square or finite, or an iteration does not converge.
pub fn leading_eigen(matrix: &Matrix, rank: usize, seed: u64) -> Result<Leading> {
    check(matrix, "a symmetric matrix")?;
    let order = matrix.nrows();
    let width = (rank as f64 * SPARE.0) as usize + SPARE.1;
    if (width as f64) < order as f64 * CROSSOVER {
        let found = subspace(matrix, width, seed)?;
        if 2 * found.known >= rank {
            return Ok(found);
        }
        log::debug!("of {rank} directions only {} are known: all are taken", found.known);
    }
    let eigen = symmetric_eigen(matrix)?;
    Ok(Leading { known: eigen.values.len(), values: eigen.values, vectors: eigen.vectors })
}

/// Ritz vectors of a subspace of so many dimensions, whatever that costs.
///
/// # Errors
/// As [`leading_eigen`].
pub fn subspace(matrix: &Matrix, width: usize, seed: u64) -> Result<Leading> {
    check(matrix, "a symmetric matrix")?;
    faer::set_global_parallelism(Par::Seq);
    let order = matrix.nrows();
    let width = width.clamp(1, order.max(1));
    let standard = matrix.as_standard_layout();
    let g = MatRef::from_row_major_slice(standard.as_slice().unwrap_or(&[]), order, order);
    let mut signs = Signs(seed);
    let mut q = Mat::from_fn(order, width, |_, _| signs.next());
    for _ in 0..POWERS {
        q = times(g, q.as_ref()).qr().compute_thin_Q();
    }
    let image = times(g, q.as_ref());
    let inner = times(q.as_ref().transpose(), image.as_ref());
    let inner = Matrix::from_shape_fn((width, width), |(i, j)| inner[(i.max(j), i.min(j))]);
    let ritz = symmetric_eigen(&inner)?;
    drop(inner);
    let turn = Mat::from_fn(width, width, |i, j| ritz.vectors[[i, j]]);
    let vectors = times(q.as_ref(), turn.as_ref());
    let image = times(image.as_ref(), turn.as_ref());
    let outside = outside(g, q.as_ref(), &mut signs);
    let trace: f64 = (0..order).map(|i| matrix[[i, i]]).sum();
    let (mut left, mut excess, mut known) = (trace, 0.0, 0);
    for (j, &value) in ritz.values.iter().enumerate() {
        let gap = value - outside;
        if gap <= 0.0 {
            break;
        }
        let residual = |i: usize| image[(i, j)] - value * vectors[(i, j)];
        excess += (0..order).map(|i| residual(i).powi(2)).sum::<f64>() / gap;
        left -= value;
        // What is left of a matrix of low rank is rounding.
        if excess <= TOLERANCE * left || left <= trace * 1e-12 {
            known = j + 1;
        }
    }
    if trace - ritz.values.iter().sum::<f64>() <= trace * 1e-12 {
        known = width;
    }
    let vectors = Matrix::from_shape_fn((order, width), |(i, j)| vectors[(i, j)]);
    Ok(Leading { values: ritz.values, vectors, known })
}

/// About the largest eigenvalue that the matrix has on what is orthogonal to `q`.
fn outside(g: MatRef<'_, f64>, q: MatRef<'_, f64>, signs: &mut Signs) -> f64 {
    let mut x = Mat::from_fn(g.nrows(), 1, |_, _| signs.next());
    let mut value = 0.0;
    for _ in 0..OUTSIDE.0 {
        let inside = times(q, times(q.transpose(), x.as_ref()).as_ref());
        x -= inside;
        let norm = x.norm_l2();
        if norm <= f64::MIN_POSITIVE {
            return 0.0;
        }
        x *= faer::Scale(1.0 / norm);
        x = times(g, x.as_ref());
        let inside = times(q, times(q.transpose(), x.as_ref()).as_ref());
        x -= inside;
        value = x.norm_l2();
    }
    value * OUTSIDE.1
}

fn times(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
    out
}

/// Random signs, the same on every platform (splitmix64).
struct Signs(u64);

impl Signs {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        if (x ^ (x >> 31)) & 1 == 0 { 1.0 } else { -1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::tests::random;
    use crate::linalg::{product, sandwich};

    /// A positive semidefinite matrix of the given eigenvalues.
    fn matrix(values: &[f64]) -> Matrix {
        let n = values.len();
        let basis = symmetric_eigen(&sandwich(&random(n, n, 5), &Matrix::eye(n))).unwrap().vectors;
        sandwich(&basis, &Matrix::from_diag(&ndarray::Array1::from(values.to_vec())))
    }

    #[test]
    fn what_is_known_is_near_the_optimum() {
        for power in [1.0, 1.6, 2.4] {
            let values: Vec<f64> =
                (0..240).map(|i| (1.0 + f64::from(i) / 4.0).powf(-power)).collect();
            let found = leading_eigen(&matrix(&values), 60, 3).unwrap();
            assert!(found.values.len() < values.len(), "{power}");
            assert!((30..=80).contains(&found.known), "{power}: {}", found.known);
            let off = product(&found.vectors.t().to_owned(), &found.vectors)
                - Matrix::eye(found.values.len());
            assert!(off.iter().all(|v| v.abs() < 1e-9));
            for rank in 1..=found.known {
                let left =
                    |all: &[f64]| values.iter().sum::<f64>() - all[..rank].iter().sum::<f64>();
                let (own, best) = (left(&found.values), left(&values));
                assert!(
                    own >= best * (1.0 - 1e-9) && own <= best * 1.02,
                    "{power} {rank}: {own} {best}"
                );
            }
        }
    }

    #[test]
    fn bad_spectra_are_decomposed_exactly() {
        let flat = vec![1.0; 200];
        let mut plateau = vec![1.0; 120];
        plateau.extend(vec![0.5; 80]);
        for values in [flat, plateau] {
            let found = leading_eigen(&matrix(&values), 40, 3).unwrap();
            assert_eq!((found.known, found.values.len()), (200, 200));
            assert!(found.values.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-9));
        }
    }

    #[test]
    fn low_rank_is_all_known() {
        let values: Vec<f64> = (0..200).map(|i| if i < 10 { 2.0 } else { 0.0 }).collect();
        let found = leading_eigen(&matrix(&values), 40, 3).unwrap();
        assert!(found.known >= 40 && found.values.len() < 200);
        assert!((found.values[..10].iter().sum::<f64>() - 20.0).abs() < 1e-9);
    }

    #[test]
    fn grams_grow_by_blocks() {
        let a = random(70, 20, 5);
        let mut gram = Gram::new(20);
        for rows in [0..32, 32..64, 64..70] {
            gram.add(&a.slice(ndarray::s![rows, ..]).to_owned());
        }
        let (gram, whole) = (gram.finish(), product(&a.t().to_owned(), &a));
        assert!((gram - whole).iter().all(|d| d.abs() < 1e-12));
    }
}
