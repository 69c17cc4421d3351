//! The freedom of factors: `U V = (U D) (D^-1 V)` for any diagonal D along the rank axis.
//!
//! V has a scale for each of its rows, so D costs it nothing. A row of U shares one step, which errs in
//! proportion to its range, along every rank with the weight h_k = E[z_k^2] of what V yields there.
//! With a_k the squared norm of column k of U, the sum over rows of (sum a_k d_k^2)(sum h_k / d_k^2) is
//! least for d_k = (h_k / a_k)^(1/4), up to a common factor (Cauchy and Schwarz).

use crate::eval::moments::Moments;
use crate::graph::Links;
use crate::layer::LinearMap;
use crate::linalg::Matrix;
use crate::onnx::GraphProto;

use super::weights::Weight;

/// What rows and columns of a weight's matrix are multiplied by before they are rounded; empty for one.
#[derive(Clone, Debug, Default)]
pub(super) struct Multiples {
    pub rows: Vec<f64>,
    pub columns: Vec<f64>,
}

impl Multiples {
    /// The matrix with its rows and columns multiplied.
    pub fn apply(&self, mut matrix: Matrix) -> Matrix {
        for (mut row, factor) in matrix.rows_mut().into_iter().zip(&self.rows) {
            row.mapv_inplace(|v| v * factor);
        }
        for (mut column, factor) in matrix.columns_mut().into_iter().zip(&self.columns) {
            column.mapv_inplace(|v| v * factor);
        }
        matrix
    }
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

/// D for the factor applied last, `[ranks]`, from its matrix and the moments of its inputs.
pub(super) fn diagonal(last: &Matrix, map: &LinearMap, moments: &Moments) -> Vec<f64> {
    let taps = map.kernel_len();
    let energy = moments.xx.diagonal();
    let ranks = map.columns / taps.max(1);
    let at = |rank: usize| rank * taps..(rank + 1) * taps;
    (0..ranks)
        .map(|rank| {
            let h: f64 = at(rank).map(|j| energy[j] + moments.x_mean[j].powi(2)).sum();
            let a: f64 = at(rank).map(|j| last.column(j).dot(&last.column(j))).sum();
            let d = (h / a).powf(0.25);
            // Ranks without weight or input stay as they are.
            if d.is_finite() && d > 0.0 { d } else { 1.0 }
        })
        .collect()
}

/// Moments of inputs that were divided by `multiples`.
pub(super) fn divided(moments: &Moments, multiples: &[f64]) -> Moments {
    let factors: Vec<f64> = multiples.iter().map(|m| 1.0 / m).collect();
    let mut divided = moments.clone();
    divided.xx = divided.xx.scaled(&factors);
    divided.x_mean.iter_mut().zip(&factors).for_each(|(m, f)| *m *= f);
    divided
}
