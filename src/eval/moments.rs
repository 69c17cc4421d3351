//! First and second moments of a layer's inputs and targets over samples and positions.

use ndarray::{Array1, Array2, ArrayViewMut2, s};

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
    /// Whether x is known by the index of the one element that is 1, all others being 0.
    looked_up: bool,
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

/// Means and centred second moments. Of rows of a table that are looked up, moments about zero of x
/// alone: xx has on its diagonal how often each one is, as a share.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Number of rows they were taken over.
    pub rows: usize,
    /// Mean of x, `[n]`.
    pub x_mean: Array1<f64>,
    /// Mean of t, `[m]`.
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
            looked_up: false,
            x: Array1::zeros(n),
            t: Array1::zeros(m),
            tt: Array1::zeros(m),
            pending: (Vec::new(), Vec::new()),
            products: None,
        }
    }

    /// Nothing yet, for rows of a table of `n` that are looked up: x is one index, and of t nothing is
    /// kept.
    #[must_use]
    pub fn of_table(n: usize) -> Self {
        Self { looked_up: true, ..Self::new(n, 0) }
    }

    /// Adds rows: `x` `[rows, n]` and `t` `[rows, m]`, both row-major.
    ///
    /// # Errors
    /// When the slices are not of equally many whole rows.
    pub fn add(&mut self, x: &[f32], t: &[f32]) -> Result<(), OpError> {
        let (n, m) = (self.x.len(), self.t.len());
        if self.looked_up {
            for &index in x {
                let place = self.x.get_mut(index as usize);
                *place.ok_or_else(|| OpError::shape("a place beyond the table"))? += 1.0;
            }
            self.rows += x.len();
            return Ok(());
        }
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
            // Products in f32 of deviations from the chunk's own means: those of the values would
            // drown the variance of inputs that hardly vary.
            let (x, t) = (Deviations::new(x, n), Deviations::new(t, m));
            let xs = Strided::row_major(&x.values, rows, n);
            let ts = Strided::row_major(&t.values, rows, m);
            let tx = &mut block[..m * n];
            matmul(ts.transposed(), xs, false, tx)?;
            add(products.tx.view_mut(), tx, &t, &x, 0);
            for start in (0..n).step_by(COLUMNS) {
                let end = (start + COLUMNS).min(n);
                let columns = Strided { elements: &x.values[start..], columns: end - start, ..xs };
                let above = Strided { columns: end, ..xs };
                let xx = &mut block[..end * (end - start)];
                matmul(above.transposed(), columns, false, xx)?;
                add(products.xx.slice_mut(s![..end, start..end]), xx, &x, &x, start);
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
        if self.looked_up {
            return Ok(Some(Moments {
                rows: self.rows,
                xx: Covariance::of_diagonal(&self.x / count),
                x_mean: Array1::zeros(n),
                t_mean: Array1::zeros(0),
                tx: Array2::zeros((0, n)),
                tt: Array1::zeros(0),
            }));
        }
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

/// Adds the products of the rows of `a` with those of `b` from column `start` on, of which
/// `deviations` are those of the deviations.
fn add(
    mut sums: ArrayViewMut2<'_, f64>,
    deviations: &[f32],
    a: &Deviations,
    b: &Deviations,
    start: usize,
) {
    let (total, other) = (b.total.slice(s![start..]), b.mean.slice(s![start..]));
    let parts = deviations.chunks_exact(sums.ncols()).zip(a.mean.iter().zip(&a.rest));
    for (mut sums, (deviations, (mean, rest))) in sums.rows_mut().into_iter().zip(parts) {
        let columns = deviations.iter().zip(total.iter().zip(&other));
        for (sum, (&deviation, (total, other))) in sums.iter_mut().zip(columns) {
            *sum += f64::from(deviation) + mean * total + rest * other;
        }
    }
}
