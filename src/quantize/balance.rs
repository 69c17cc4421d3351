//! The freedom of factors: `U V = (U R) (R^-1 V)` for any invertible R of the rank axis.
//!
//! R = D Q, D diagonal and Q orthogonal. V has a scale for each of its rows, so D costs it nothing. A row of
//! U shares one step, which errs in proportion to its range, along every rank with the weight h_k = E[z_k^2]
//! of what V yields there. With a_k the squared norm of column k of U, the sum over rows of
//! (sum a_k d_k^2)(sum h_k / d_k^2) is least for d_k = (h_k / a_k)^(1/4), up to a common factor (Cauchy and
//! Schwarz). A random Q evens out what is left between ranks: no element of a row is much larger than the
//! others, and what lies between the factors is correlated, so that rounding can make up for its errors.

use ndarray::Array1;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::grid::Levels;
use super::rounding::nearest;
use crate::eval::moments::Moments;
use crate::graph::Links;
use crate::linalg::{Matrix, product, symmetric_eigen};
use crate::onnx::GraphProto;

use super::weights::Weight;

/// Ranks that are turned, at most: a random rotation takes their cube.
const MOST_RANKS: usize = 1024;

/// Rotations that are tried.
const ROTATIONS: u64 = 3;

/// What a weight's matrix is multiplied by before it is rounded.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    /// From the left, `[rows, rows]`.
    pub rows: Option<Matrix>,
    /// From the right, `[ranks, ranks]`: every rank has equally many columns, one after another.
    pub columns: Option<Matrix>,
}

impl Turns {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        self.rows.is_none() && self.columns.is_none()
    }

    /// The matrix turned.
    pub fn apply(&self, mut matrix: Matrix) -> Matrix {
        if let Some(left) = &self.rows {
            matrix = product(left, &matrix);
        }
        if let Some(right) = &self.columns {
            matrix = turned(&matrix, right);
        }
        matrix
    }
}

/// `matrix` times `right` along its ranks, taps apart.
fn turned(matrix: &Matrix, right: &Matrix) -> Matrix {
    let ranks = right.nrows();
    let taps = matrix.ncols() / ranks.max(1);
    let mut turned = Matrix::zeros(matrix.dim());
    for tap in 0..taps {
        let at = ndarray::s![.., tap..;taps];
        turned.slice_mut(at).assign(&product(&matrix.slice(at).to_owned(), right));
    }
    turned
}

/// Whether the only thing done with the result of `first` is the product with `second`.
pub(super) fn are_factors(
    graph: &GraphProto,
    links: &Links,
    first: &Weight,
    second: &Weight,
) -> bool {
    let (Some(a), Some(b)) = (first.sole_use(), second.sole_use()) else { return false };
    let (Some(x), Some(y)) = (first.map(graph), second.map(graph)) else { return false };
    let (from, to) = (&graph.node[a.node], &graph.node[b.node]);
    let output = from.output.first().map_or("", String::as_str);
    // A bias would have to be divided too.
    let bare = from.input.get(2).is_none_or(String::is_empty);
    let next = links.sole_consumer(output);
    bare && x.groups == 1
        && y.groups == 1
        && next.is_some_and(|c| c.node == b.node && c.input == y.data_input())
        && to.input.get(y.data_input()).is_some_and(|name| name == output)
        && y.columns == x.rows * y.kernel_len()
}

/// A factor as it will be rounded.
pub(super) struct Factor<'a> {
    /// Outputs by inputs.
    pub matrix: &'a Matrix,
    /// Mean squares of its inputs.
    pub energy: &'a [f64],
    /// Columns that have a scale together.
    pub block: usize,
    /// The levels.
    pub levels: Levels,
}

impl Factor<'_> {
    /// What rounding it to the nearest levels loses, its rows counting as `weights` say.
    fn loss(&self, matrix: &Matrix, energy: &[f64], weights: &[f64]) -> f64 {
        let (rows, columns) = matrix.dim();
        let block = self.block.min(columns).max(1);
        let lost = matrix - &nearest(matrix, block, self.levels).matrix(rows, columns, block);
        lost.rows()
            .into_iter()
            .zip(weights)
            .map(|(row, weight)| {
                weight * row.iter().zip(energy).map(|(v, e)| v * v * e).sum::<f64>()
            })
            .sum()
    }
}

/// R and its inverse for a pair of factors, the second with `taps` columns for each rank: of some
/// seeded rotations, and none, the one that rounding loses least with.
pub(super) fn rotation(
    first: &Factor<'_>,
    last: &Factor<'_>,
    between: &Matrix,
    taps: usize,
    seed: u64,
) -> (Matrix, Matrix) {
    let diagonal = diagonal(last.matrix, last.energy, taps);
    let ranks = diagonal.len();
    let d = Matrix::from_diag(&diagonal);
    let inverse = Matrix::from_diag(&diagonal.mapv(|v| 1.0 / v));
    let plain = (d.clone(), inverse.clone());
    if !(2..=MOST_RANKS).contains(&ranks) {
        return plain;
    }
    let loss = |(right, left): &(Matrix, Matrix)| {
        let last_matrix = turned(last.matrix, right);
        // Second moments between the factors turn as V does.
        let between = product(&product(left, between), &left.t().to_owned());
        let energy: Vec<f64> =
            (0..ranks * taps).map(|j| between[[j / taps, j / taps]] / taps as f64).collect();
        let weights: Vec<f64> = (0..ranks)
            .map(|k| (0..taps).map(|t| column_energy(&last_matrix, k * taps + t)).sum())
            .collect();
        let even = vec![1.0; last_matrix.nrows()];
        last.loss(&last_matrix, &energy, &even)
            + first.loss(&product(left, first.matrix), first.energy, &weights)
    };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let candidates = (0..ROTATIONS).filter_map(|_| {
        // The eigenvectors of a random symmetric matrix are spread evenly.
        let mut a = Matrix::zeros((ranks, ranks));
        for i in 0..ranks {
            for j in 0..=i {
                a[[i, j]] = random.random::<f64>() - 0.5;
                a[[j, i]] = a[[i, j]];
            }
        }
        let q = symmetric_eigen(&a).ok()?.vectors;
        Some((product(&d, &q), product(&q.t().to_owned(), &inverse)))
    });
    let mut best = (loss(&plain), plain);
    for pair in candidates {
        let loss = loss(&pair);
        if loss < best.0 {
            best = (loss, pair);
        }
    }
    best.1
}

fn column_energy(matrix: &Matrix, column: usize) -> f64 {
    matrix.column(column).dot(&matrix.column(column))
}

/// D for the factor applied last, `[ranks]`, from its matrix and the mean squares of its inputs.
fn diagonal(last: &Matrix, energy: &[f64], taps: usize) -> Array1<f64> {
    let ranks = last.ncols() / taps.max(1);
    let at = |rank: usize| rank * taps..(rank + 1) * taps;
    (0..ranks)
        .map(|rank| {
            let h: f64 = at(rank).map(|j| energy[j]).sum();
            let a: f64 = at(rank).map(|j| column_energy(last, j)).sum();
            let d = (h / a).powf(0.25);
            // Ranks without weight or input stay as they are.
            if d.is_finite() && d > 0.0 { d } else { 1.0 }
        })
        .collect()
}

/// Mean squares of a map's inputs.
pub(super) fn mean_squares(moments: &Moments) -> Vec<f64> {
    let means = moments.x_mean.iter().map(|m| m * m);
    moments.xx.diagonal().into_iter().zip(means).map(|(v, m)| v + m).collect()
}

/// Second moments of the ranks between two factors, `[ranks, ranks]`, summed over the taps.
pub(super) fn between(moments: &Moments, taps: usize) -> Matrix {
    let whole = moments.xx.clone().about_zero(&moments.x_mean).to_dense();
    let ranks = whole.nrows() / taps.max(1);
    Matrix::from_shape_fn((ranks, ranks), |(a, b)| {
        (0..taps).map(|t| whole[[a * taps + t, b * taps + t]]).sum()
    })
}

/// Moments of inputs that were turned by `left` along their ranks.
pub(super) fn turned_moments(moments: &Moments, left: &Matrix, taps: usize) -> Moments {
    let mut turned = moments.clone();
    let turns = left.t().to_owned();
    turned.xx = moments.xx.turned(|rows| self::turned(rows, &turns));
    let mean = moments.x_mean.view().insert_axis(ndarray::Axis(0)).to_owned();
    turned.x_mean = self::turned(&mean, &turns).row(0).to_owned();
    debug_assert_eq!(turned.x_mean.len(), left.nrows() * taps);
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Matrix::from_shape_fn((rows, columns), |_| random.random::<f64>() - 0.5)
    }

    /// Factors of decaying ranks, the last with three taps: the turned ones have the same product, and it is
    /// nearer after both are rounded.
    #[test]
    fn turned_factors_make_the_same_and_lose_less() {
        let (ranks, taps) = (24, 3);
        let decay = |rank: usize| 0.8_f64.powi(rank as i32);
        let mut first = random(ranks, 40, 1);
        first.rows_mut().into_iter().enumerate().for_each(|(k, mut r)| r *= decay(k));
        let mut last = random(16, ranks * taps, 2);
        last.columns_mut().into_iter().enumerate().for_each(|(j, mut c)| c *= decay(j / taps));
        let ones = vec![1.0; 40];
        // Inputs of unit variance that don't depend on each other.
        let between = product(&first, &first.t().to_owned()) * taps as f64;
        let energy: Vec<f64> =
            (0..ranks * taps).map(|j| between[[j / taps, j / taps]] / taps as f64).collect();
        let levels = Levels::INT4;
        let factor = |matrix, energy| Factor { matrix, energy, block: usize::MAX, levels };
        let (right, left) =
            rotation(&factor(&first, &ones), &factor(&last, &energy), &between, taps, 7);
        let columns = Turns { rows: None, columns: Some(right) };
        let rows = Turns { rows: Some(left), columns: None };
        // The product, a tap at a time.
        let made = |last: &Matrix, first: &Matrix| -> Vec<Matrix> {
            let of = |tap: usize| last.slice(ndarray::s![.., tap..;taps]).to_owned();
            (0..taps).map(|tap| product(&of(tap), first)).collect()
        };
        let distance = |a: &[Matrix], b: &[Matrix]| -> f64 {
            a.iter().zip(b).map(|(a, b)| (a - b).iter().map(|v| v * v).sum::<f64>()).sum()
        };
        let rounded = |m: &Matrix| {
            let (rows, columns) = m.dim();
            nearest(m, columns, levels).matrix(rows, columns, columns)
        };
        let whole = made(&last, &first);
        let (turned_last, turned_first) = (columns.apply(last.clone()), rows.apply(first.clone()));
        let same = distance(&whole, &made(&turned_last, &turned_first));
        assert!(same < 1e-20 * distance(&whole, &vec![Matrix::zeros((16, 40)); taps]), "{same}");
        let before = distance(&whole, &made(&rounded(&last), &rounded(&first)));
        let after = distance(&whole, &made(&rounded(&turned_last), &rounded(&turned_first)));
        assert!(after < 0.8 * before, "{after} {before}");
    }
}
