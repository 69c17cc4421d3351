//! First and second moments of a layer's inputs and targets over samples and positions.

use ndarray::{Array1, Array2, Axis};

use crate::error::OpError;
use crate::kernels::matmul::{Strided, matmul};

/// Rows summed in `f32` before they are added to the `f64` totals.
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
    /// Mean of x, `[n]`.
    pub x_mean: Array1<f64>,
    /// Mean of t, `[m]`.
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
            let (xs, ts) = (Strided::row_major(x, rows, n), Strided::row_major(t, rows, m));
            let xx = &mut product[..n * n];
            matmul(xs.transposed(), xs, false, xx)?;
            add_f32(self.xx.as_slice_mut(), xx);
            let tx = &mut product[..m * n];
            matmul(ts.transposed(), xs, false, tx)?;
            add_f32(self.tx.as_slice_mut(), tx);
            for row in x.chunks_exact(n) {
                self.x.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
            }
            for row in t.chunks_exact(m) {
                for ((s, q), &v) in self.t.iter_mut().zip(&mut self.tt).zip(row) {
                    *s += f64::from(v);
                    *q += f64::from(v) * f64::from(v);
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

fn add_f32(sums: Option<&mut [f64]>, values: &[f32]) {
    for (sum, &value) in sums.into_iter().flatten().zip(values) {
        *sum += f64::from(value);
    }
}
