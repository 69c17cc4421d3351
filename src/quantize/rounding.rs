//! Rounding that makes up for its own errors.

use rayon::prelude::*;

use super::grid::{self, Levels};
use super::stored::Storage;
use crate::error::Result;
use crate::linalg::{Cholesky, Covariance, Matrix};

/// The least share of the mean variance of an input that is added to every one.
const DAMPING: f64 = 0.01;

/// Codes of a matrix, row by row, with its scales.
#[derive(Clone, Debug)]
pub struct Rounded {
    /// `[rows, columns]`, row-major.
    pub codes: Vec<i8>,
    /// For each row one scale for each block of columns.
    pub scales: Vec<f32>,
}

impl Rounded {
    /// The matrix that the codes stand for.
    #[must_use]
    pub fn matrix(&self, rows: usize, columns: usize, block: usize) -> Matrix {
        let blocks = columns.div_ceil(block.max(1)).max(1);
        Matrix::from_shape_fn((rows, columns), |(i, j)| {
            let scale = self.scales[i * blocks + j / block.max(1)];
            f64::from(f32::from(self.codes[i * columns + j]) * scale)
        })
    }
}

impl Storage {
    /// What a matrix of outputs by inputs becomes where it is stored so, rounded to the nearest levels: in
    /// blocks of so many inputs where there are blocks. Half floats count as exact.
    #[must_use]
    pub fn nearest(self, matrix: &Matrix, block: usize) -> Matrix {
        let (rows, columns) = matrix.dim();
        let (block, levels) = match self {
            Self::Fp16 => return matrix.clone(),
            Self::Int8 | Self::Int8Dynamic => (columns, Levels::INT8),
            Self::Int4 | Self::Int4Dq => (block, Levels::INT4),
            Self::Int4Packed => (columns, Levels::INT4),
        };
        nearest(matrix, block, levels).matrix(rows, columns, block)
    }

    /// Whether rounding to it changes what a network computes so much that a search has to see it.
    #[must_use]
    pub fn is_coarse(self) -> bool {
        self.bits() < 8
    }
}

/// Rounds every element to the nearest level; a row has one scale for each `block` columns, by the
/// least squared error.
#[must_use]
pub fn nearest(matrix: &Matrix, block: usize, levels: Levels) -> Rounded {
    let rows: Vec<(Vec<i8>, Vec<f32>)> = (0..matrix.nrows())
        .into_par_iter()
        .map(|i| {
            let row = matrix.row(i).to_vec();
            let (mut codes, mut scales) = (Vec::with_capacity(row.len()), Vec::new());
            for part in row.chunks(block.max(1)) {
                let scale = grid::scale(part, None, levels);
                codes.extend(part.iter().map(|&v| levels.nearest(v, scale) as i8));
                scales.push(scale);
            }
            (codes, scales)
        })
        .collect();
    gather(rows)
}

/// Rounds column after column, each time moving the columns that follow so that the error of the
/// product with inputs of the given second moment is least (Frantar et al. 2022, GPTQ; Hassibi and
/// Stork 1993, optimal brain surgeon).
///
/// `ridge` is a share of the mean variance that the moment is damped by, at least a hundredth. With H
/// the damped moment and U the upper triangular factor of H^-1 = U^T U, column j errs by
/// e = (w_j - q_j) / U_jj, and columns k > j take over -e U_jk.
///
/// # Errors
/// When the moment is not finite.
pub fn compensated(
    matrix: &Matrix,
    moment: &Covariance,
    ridge: f64,
    block: usize,
    levels: Levels,
) -> Result<Rounded> {
    let n = matrix.ncols();
    let mut moment = moment.clone();
    moment.add_ridge(ridge.max(DAMPING), 0.0);
    let dense = moment.to_dense();
    let diagonal: Vec<f64> = dense.diag().to_vec();
    // The factor of the inverse, without an inverse: with the order of columns turned round,
    // H = L L^T there, and U is L^-1 turned round again.
    let turned = dense.slice(ndarray::s![..;-1, ..;-1]).to_owned();
    let inverse = Cholesky::new(&turned)?.whiten(&Matrix::eye(n));
    let upper = inverse.slice(ndarray::s![..;-1, ..;-1]).as_standard_layout().into_owned();
    let rows: Vec<(Vec<i8>, Vec<f32>)> = (0..matrix.nrows())
        .into_par_iter()
        .map(|i| {
            let mut row = matrix.row(i).to_vec();
            let (mut codes, mut scales) = (vec![0i8; n], Vec::new());
            let mut scale = 1.0;
            for j in 0..n {
                if j % block.max(1) == 0 {
                    let part = j..(j + block.max(1)).min(n);
                    scale = grid::scale(&row[part.clone()], Some(&diagonal[part]), levels);
                    scales.push(scale);
                }
                let code = levels.nearest(row[j], scale);
                codes[j] = code as i8;
                let pass = upper.row(j);
                let pass = pass.as_slice().unwrap_or(&[]);
                let error = (row[j] - f64::from(code) * f64::from(scale)) / pass[j];
                for (later, share) in row[j + 1..].iter_mut().zip(&pass[j + 1..]) {
                    *later -= error * share;
                }
            }
            (codes, scales)
        })
        .collect();
    Ok(gather(rows))
}

fn gather(rows: Vec<(Vec<i8>, Vec<f32>)>) -> Rounded {
    let mut rounded = Rounded { codes: Vec::new(), scales: Vec::new() };
    for (codes, scales) in rows {
        rounded.codes.extend(codes);
        rounded.scales.extend(scales);
    }
    rounded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{product, sandwich, tests::random};

    /// With correlated inputs the compensated codes give outputs nearer to the original's, by the
    /// moment itself and by explicit inputs.
    #[test]
    fn compensation_lowers_the_output_error() {
        let (n, m, rows) = (48, 10, 400);
        let mixing = random(n, n, 3) + Matrix::eye(n);
        let x = product(&random(rows, n, 5), &mixing);
        let moment = Covariance::of_rows(&x / (rows as f64).sqrt());
        let w = random(m, n, 7);
        for (block, levels) in [(n, Levels::INT8), (n, Levels::INT4), (16, Levels::INT4)] {
            let error = |rounded: &Rounded| -> f64 {
                let rest = &w - &rounded.matrix(m, n, block);
                let outputs = product(&rest, &x.t().to_owned());
                outputs.iter().map(|v| v * v).sum::<f64>() / rows as f64
            };
            let plain = error(&nearest(&w, block, levels));
            let better = compensated(&w, &moment, 0.0, block, levels).unwrap();
            assert_eq!(better.scales.len(), m * n.div_ceil(block));
            let better = error(&better);
            assert!(better < 0.7 * plain, "{better} against {plain}, block {block}");
        }
    }

    /// The factor of the inverse is what the algorithm takes it for.
    #[test]
    fn the_turned_factor_is_that_of_the_inverse() {
        let a = random(12, 20, 9);
        let h = sandwich(&a, &Matrix::eye(20)) + Matrix::eye(12);
        let turned = h.slice(ndarray::s![..;-1, ..;-1]).to_owned();
        let inverse = Cholesky::new(&turned).unwrap().whiten(&Matrix::eye(12));
        let upper = inverse.slice(ndarray::s![..;-1, ..;-1]).to_owned();
        assert!((0..12).all(|i| (0..i).all(|j| upper[[i, j]].abs() < 1e-12)));
        let unit = product(&product(&upper.t().to_owned(), &upper), &h);
        assert!((unit - Matrix::eye(12)).iter().all(|d| d.abs() < 1e-9));
    }

    #[test]
    fn rows_of_zeros_stay_zero() {
        let w = Matrix::zeros((2, 5));
        for rounded in [
            nearest(&w, 5, Levels::INT8),
            compensated(&w, &Covariance::identity(5), 0.0, 5, Levels::INT8).unwrap(),
        ] {
            assert!(rounded.codes.iter().all(|&c| c == 0));
            assert_eq!(rounded.scales, [1.0, 1.0]);
        }
    }
}
