//! First and second moments of a layer's inputs and targets over samples and positions.

use ndarray::{Array1, Array2, s};

use crate::error::OpError;
use crate::kernels::matmul::{Strided, matmul};
use crate::linalg::{Covariance, product};

/// Rows whose products are summed in `f32` before they are added to the `f64` totals.
const ROWS: usize = 512;

/// Columns of a symmetric product that are computed together.
const COLUMNS: usize = 192;

/// Sums over rows x (inputs of a linear map) and t (what it is to yield).
#[derive(Clone, Debug)]
pub struct Sums {
    /// Number of rows.
    pub rows: usize,
    x: Array1<f64>,
    t: Array1<f64>,
    tt: Array1<f64>,
    /// Rows whose products have not been taken yet: no more than there are columns, or `ROWS`.
    pending: (Vec<f32>, Vec<f32>),
    products: Option<Products>,
}

/// Sums of products.
#[derive(Clone, Debug)]
struct Products {
    /// Of x and x, `[n, n]`, the upper triangle.
    xx: Array2<f64>,
    /// Of t and x, `[m, n]`.
    tx: Array2<f64>,
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
    /// E[(x - E x)(x - E x)^T], of order n.
    pub xx: Covariance,
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
            tt: Array1::zeros(m),
            pending: (Vec::new(), Vec::new()),
            products: None,
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
        for row in x.chunks_exact(n) {
            self.x.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
        }
        for row in t.chunks_exact(m) {
            for ((s, q), &v) in self.t.iter_mut().zip(&mut self.tt).zip(row) {
                *s += f64::from(v);
                *q += f64::from(v) * f64::from(v);
            }
        }
        self.rows += x.len() / n;
        self.append(x, t)
    }

    fn append(&mut self, x: &[f32], t: &[f32]) -> Result<(), OpError> {
        let n = self.x.len();
        self.pending.0.extend_from_slice(x);
        self.pending.1.extend_from_slice(t);
        if self.pending.0.len() / n > n.max(ROWS) { self.multiply() } else { Ok(()) }
    }

    /// Takes the products of the pending rows.
    fn multiply(&mut self) -> Result<(), OpError> {
        let (n, m) = (self.x.len(), self.t.len());
        let (x, t) = std::mem::take(&mut self.pending);
        let products = self.products.get_or_insert_with(|| Products {
            xx: Array2::zeros((n, n)),
            tx: Array2::zeros((m, n)),
        });
        let mut block = vec![0.0f32; n * m.max(COLUMNS.min(n))];
        for (x, t) in x.chunks(ROWS * n).zip(t.chunks(ROWS * m)) {
            let rows = x.len() / n;
            let (xs, ts) = (Strided::row_major(x, rows, n), Strided::row_major(t, rows, m));
            let tx = &mut block[..m * n];
            matmul(ts.transposed(), xs, false, tx)?;
            let sums = products.tx.iter_mut();
            sums.zip(tx).for_each(|(sum, value)| *sum += f64::from(*value));
            for start in (0..n).step_by(COLUMNS) {
                let end = (start + COLUMNS).min(n);
                let columns = Strided { elements: &x[start..], columns: end - start, ..xs };
                let above = Strided { columns: end, ..xs };
                let xx = &mut block[..end * (end - start)];
                matmul(above.transposed(), columns, false, xx)?;
                let sums = products.xx.slice_mut(s![..end, start..end]);
                sums.into_iter().zip(xx).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        }
        Ok(())
    }

    /// Adds another part's sums.
    ///
    /// # Errors
    /// When the other part is of other sizes.
    pub fn merge(&mut self, other: &Self) -> Result<(), OpError> {
        self.rows += other.rows;
        self.x += &other.x;
        self.t += &other.t;
        self.tt += &other.tt;
        match (&mut self.products, &other.products) {
            (Some(own), Some(other)) => {
                own.xx += &other.xx;
                own.tx += &other.tx;
            }
            (own @ None, Some(other)) => *own = Some(other.clone()),
            (_, None) => {}
        }
        self.append(&other.pending.0, &other.pending.1)
    }

    /// The moments; `None` over no rows.
    ///
    /// # Errors
    /// When products can't be taken.
    pub fn moments(mut self) -> Result<Option<Moments>, OpError> {
        let n = self.x.len();
        if self.rows == 0 {
            return Ok(None);
        }
        let count = self.rows as f64;
        let (x_mean, t_mean) = (&self.x / count, &self.t / count);
        let tt = (&self.tt / count - &t_mean * &t_mean).mapv(|v| v.max(0.0));
        if self.products.is_some() || self.rows > n {
            self.multiply()?;
        }
        let (xx, tx) = match self.products {
            Some(Products { mut xx, mut tx }) => {
                for i in 0..n {
                    for j in i..n {
                        xx[[i, j]] = xx[[i, j]] / count - x_mean[i] * x_mean[j];
                        xx[[j, i]] = xx[[i, j]];
                    }
                }
                for ((i, j), v) in tx.indexed_iter_mut() {
                    *v = *v / count - t_mean[i] * x_mean[j];
                }
                (Covariance::dense(xx), tx)
            }
            None => {
                let centred = |rows: &[f32], mean: &Array1<f64>| {
                    let (width, scale) = (mean.len(), 1.0 / count.sqrt());
                    Array2::from_shape_fn((self.rows, width), |(i, j)| {
                        (f64::from(rows[i * width + j]) - mean[j]) * scale
                    })
                };
                let x = centred(&self.pending.0, &x_mean);
                let t = centred(&self.pending.1, &t_mean);
                let tx = product(&t.t().to_owned(), &x);
                (Covariance::of_rows(x), tx)
            }
        };
        Ok(Some(Moments { rows: self.rows, x_mean, t_mean, xx, tx, tt }))
    }
}
