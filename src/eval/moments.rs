//! First and second moments of a layer's inputs and targets over samples and positions.

use ndarray::{Array1, Array2, Axis};

use crate::error::OpError;
use crate::kernels::matmul::{Strided, matmul};

/// Rows whose products are summed in `f32` before they are added to the `f64` totals.
const ROWS: usize = 256;

/// Sums over rows x (inputs of a linear map) and t (what it is to yield).
#[derive(Clone, Debug)]
pub struct Sums {
    /// Number of rows.
    pub rows: usize,
    x: Array1<f64>,
    t: Array1<f64>,
    xx: Array2<f64>,
    tx: Array2<f64>,
    tt: Array1<f64>,
}

/// Means and centred second moments.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Number of rows they were taken over.
    pub rows: usize,
    /// E[x], `[n]`.
    pub x_mean: Array1<f64>,
    /// E[t], `[m]`.
    pub t_mean: Array1<f64>,
    /// E[(x - E x)(x - E x)^T], `[n, n]`.
    pub xx: Array2<f64>,
    /// E[(t - E t)(x - E x)^T], `[m, n]`.
    pub tx: Array2<f64>,
    /// E[(t - E t)^2] by element, `[m]`.
    pub tt: Array1<f64>,
}

impl Sums {
    /// Nothing yet, for x of `n` and t of `m` elements.
    #[must_use]
    pub fn new(n: usize, m: usize) -> Self {
        Self {
            rows: 0,
            x: Array1::zeros(n),
            t: Array1::zeros(m),
            xx: Array2::zeros((n, n)),
            tx: Array2::zeros((m, n)),
            tt: Array1::zeros(m),
        }
    }

    /// Adds rows: `x` `[rows, n]` and `t` `[rows, m]`, both row-major.
    ///
    /// # Errors
    /// When the slices are not of equally many whole rows.
    pub fn add(&mut self, x: &[f32], t: &[f32]) -> Result<(), OpError> {
        let (n, m) = (self.x.len(), self.t.len());
        if n == 0 || m == 0 || !x.len().is_multiple_of(n) || x.len() / n * m != t.len() {
            return Err(OpError::shape("rows of inputs and targets differ in number"));
        }
        let mut product = vec![0.0f32; n * n.max(m)];
        for (x, t) in x.chunks(ROWS * n).zip(t.chunks(ROWS * m)) {
            let rows = x.len() / n;
            // Products in f32 of deviations from the chunk's own means: those of the values would
            // drown the variance of inputs that hardly vary.
            let (x, t) = (Deviations::new(x, n), Deviations::new(t, m));
            let (xs, ts) =
                (Strided::row_major(&x.values, rows, n), Strided::row_major(&t.values, rows, m));
            let xx = &mut product[..n * n];
            matmul(xs.transposed(), xs, false, xx)?;
            add(&mut self.xx, xx, &x, &x);
            let tx = &mut product[..m * n];
            matmul(ts.transposed(), xs, false, tx)?;
            add(&mut self.tx, tx, &t, &x);
            self.x += &x.total;
            self.t += &t.total;
            for row in t.values.chunks_exact(m) {
                for ((square, mean), &v) in self.tt.iter_mut().zip(&t.mean).zip(row) {
                    *square += (mean + f64::from(v)).powi(2);
                }
            }
            self.rows += rows;
        }
        Ok(())
    }

    /// Adds another part's sums.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.x += &other.x;
        self.t += &other.t;
        self.xx += &other.xx;
        self.tx += &other.tx;
        self.tt += &other.tt;
    }

    /// The moments; `None` over no rows.
    #[must_use]
    pub fn moments(&self) -> Option<Moments> {
        if self.rows == 0 {
            return None;
        }
        let count = self.rows as f64;
        let (x_mean, t_mean) = (&self.x / count, &self.t / count);
        let outer = |a: &Array1<f64>, b: &Array1<f64>| {
            a.view().insert_axis(Axis(1)).dot(&b.view().insert_axis(Axis(0)))
        };
        let xx = &self.xx / count - outer(&x_mean, &x_mean);
        let tx = &self.tx / count - outer(&t_mean, &x_mean);
        let tt = (&self.tt / count - &t_mean * &t_mean).mapv(|v| v.max(0.0));
        Some(Moments { rows: self.rows, x_mean, t_mean, xx, tx, tt })
    }
}

/// Rows as their distance from a common mean.
struct Deviations {
    /// The mean, to `f32` accuracy.
    mean: Array1<f64>,
    /// Row-major.
    values: Vec<f32>,
    /// Sum of the deviations: zero but for rounding.
    rest: Array1<f64>,
    /// Sum of the rows.
    total: Array1<f64>,
}

impl Deviations {
    fn new(rows: &[f32], n: usize) -> Self {
        let sum = |values: &[f32]| {
            let mut sum = Array1::<f64>::zeros(n);
            for row in values.chunks_exact(n) {
                sum.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
            }
            sum
        };
        let count = (rows.len() / n) as f64;
        let mean: Vec<f32> = sum(rows).iter().map(|s| (s / count) as f32).collect();
        let values: Vec<f32> = rows
            .chunks_exact(n)
            .flat_map(|row| row.iter().zip(&mean).map(|(v, mean)| v - mean))
            .collect();
        let mean: Array1<f64> = mean.into_iter().map(f64::from).collect();
        let rest = sum(&values);
        let total = &mean * count + &rest;
        Self { mean, values, rest, total }
    }
}

/// Adds the products of the rows of `a` and `b`, of which `deviations` are those of the deviations.
fn add(sums: &mut Array2<f64>, deviations: &[f32], a: &Deviations, b: &Deviations) {
    let parts = deviations.chunks_exact(b.mean.len()).zip(a.mean.iter().zip(&a.rest));
    for (mut sums, (deviations, (mean, rest))) in sums.rows_mut().into_iter().zip(parts) {
        let columns = deviations.iter().zip(b.total.iter().zip(&b.mean));
        for (sum, (&deviation, (total, other))) in sums.iter_mut().zip(columns) {
            *sum += f64::from(deviation) + mean * total + rest * other;
        }
    }
}
