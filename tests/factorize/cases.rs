//! Layers with random weights, random inputs, and factors multiplied out.

use ndarray::{Array1, Axis};
use onnx_bsr::eval::moments::Moments;
use onnx_bsr::factorize::{Choice, Curve, Factors, Fit, Scheme, curves};
use onnx_bsr::layer::{Form, LinearMap};
use onnx_bsr::linalg::{Covariance, Matrix};
use onnx_bsr::ops::{ConvAttributes, Padding};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A layer with its weight.
pub struct Case {
    /// What the layer computes.
    pub map: LinearMap,
    /// W of every group.
    pub weights: Vec<Matrix>,
    /// The bias of all groups.
    pub bias: Vec<f64>,
}

/// What a layer saw and was to yield, one row per position.
pub struct Data {
    pub x: Matrix,
    pub t: Matrix,
}

/// Numbers spread evenly over -1 to 1.
pub fn random(shape: (usize, usize), seed: u64) -> Matrix {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    Matrix::from_shape_simple_fn(shape, || {
        f64::from(random.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0
    })
}

impl Case {
    fn new(form: Form, groups: usize, rows: usize, columns: usize) -> Self {
        let seed = (groups * 1_000_000 + rows * 1000 + columns) as u64;
        Self {
            map: LinearMap { form, groups, rows, columns, bias: Some("bias".to_owned()) },
            weights: (0..groups as u64).map(|g| random((rows, columns), seed + g)).collect(),
            bias: random((1, groups * rows), seed + 99).into_iter().collect(),
        }
    }

    /// A convolution of `channels` inputs and `rows` outputs in each group.
    pub fn conv(groups: usize, rows: usize, channels: usize, kernel: &[usize]) -> Self {
        let axes = kernel.len();
        let attributes = ConvAttributes {
            kernel: kernel.to_vec(),
            strides: vec![1; axes],
            dilations: vec![1; axes],
            groups,
            padding: Padding::Explicit { begin: vec![0; axes], end: vec![0; axes] },
        };
        let columns = channels * kernel.iter().product::<usize>();
        Self::new(Form::Conv(attributes), groups, rows, columns)
    }

    /// A transposed convolution of `channels` inputs and `outputs` outputs in each group.
    pub fn transposed(groups: usize, outputs: usize, channels: usize, kernel: &[usize]) -> Self {
        let axes = kernel.len();
        let attributes = ConvAttributes {
            kernel: kernel.to_vec(),
            strides: vec![2; axes],
            dilations: vec![1; axes],
            groups,
            padding: Padding::Explicit { begin: vec![0; axes], end: vec![0; axes] },
        };
        let form = Form::ConvTranspose { attributes, output_padding: Vec::new() };
        let rows = outputs * kernel.iter().product::<usize>();
        let case = Self::new(form, groups, rows, channels);
        // The bias stays with the node.
        let map = LinearMap { bias: None, ..case.map };
        Self { map, bias: vec![0.0; groups * rows], ..case }
    }

    /// A matrix product.
    pub fn matrix(form: Form, rows: usize, columns: usize) -> Self {
        Self::new(form, 1, rows, columns)
    }

    pub fn name(&self) -> String {
        let map = &self.map;
        format!("{} x [{}, {}], kernel {:?}", map.groups, map.rows, map.columns, map.kernel())
    }

    /// The schemes that apply.
    pub fn schemes(&self) -> Vec<Scheme> {
        Scheme::ALL.into_iter().filter(|s| s.applies(&self.map)).collect()
    }

    /// Positions with what the layer yields there, group by group. Inputs are correlated and their
    /// means are not zero.
    pub fn data(&self, count: usize) -> Vec<Data> {
        let (rows, columns) = (self.map.rows, self.map.columns);
        let sample = |(g, weight): (usize, &Matrix)| {
            let seed = 7 * g as u64 + columns as u64;
            let mixing = random((columns, columns), seed) + 2.0 * Matrix::eye(columns);
            let x = random((count, columns), seed + 1).dot(&mixing) + random((1, columns), seed);
            let bias = Array1::from(self.bias[g * rows..(g + 1) * rows].to_vec());
            let t = x.dot(&weight.t()) + &bias.insert_axis(Axis(0));
            Data { x, t }
        };
        self.weights.iter().enumerate().map(sample).collect()
    }

    /// The decomposition by one scheme.
    pub fn curve(&self, scheme: Scheme, fits: &[Fit]) -> Curve {
        curves(&self.map, fits, &[scheme]).unwrap().remove(0)
    }

    /// A scheme at its largest ranks.
    pub fn full(&self, scheme: Scheme) -> Choice {
        let inner = self.map.columns / self.map.kernel_len();
        Choice {
            scheme,
            rank: Choice::most(scheme, &self.map),
            rank_in: (scheme == Scheme::Tucker).then_some(inner),
        }
    }
}

impl Data {
    /// Means and second moments, by their definitions.
    pub fn moments(&self) -> Moments {
        let rows = self.x.nrows();
        let (x_mean, t_mean) =
            (self.x.mean_axis(Axis(0)).unwrap(), self.t.mean_axis(Axis(0)).unwrap());
        let (x, t) = (&self.x - &x_mean, &self.t - &t_mean);
        let count = rows as f64;
        let tt = t.mapv(|v| v * v).sum_axis(Axis(0)) / count;
        let xx = Covariance::dense(x.t().dot(&x) / count);
        Moments { rows, xx, tx: t.t().dot(&x) / count, tt, x_mean, t_mean }
    }

    /// E|t - M x - b|^2 over the rows.
    pub fn residual(&self, map: &Matrix, bias: &[f64]) -> f64 {
        let bias = Array1::from(bias.to_vec()).insert_axis(Axis(0));
        let miss = &self.t - &self.x.dot(&map.t()) - &bias;
        miss.mapv(|v| v * v).sum() / self.x.nrows() as f64
    }
}

/// Layers of every form: kernels that are square and not, groups, more rows than columns and fewer.
pub fn all() -> Vec<Case> {
    vec![
        Case::conv(1, 8, 6, &[3, 3]),
        Case::conv(1, 5, 4, &[3, 5]),
        Case::conv(1, 30, 2, &[2, 3]),
        Case::conv(1, 7, 9, &[1, 3]),
        Case::conv(1, 6, 11, &[1, 1]),
        Case::conv(2, 6, 4, &[3, 3]),
        Case::conv(3, 4, 5, &[1, 1]),
        Case::conv(1, 9, 4, &[5]),
        Case::conv(4, 6, 5, &[3]),
        Case::conv(1, 5, 3, &[2, 3, 2]),
        Case::matrix(Form::MatMulRight, 10, 6),
        Case::matrix(Form::MatMulLeft, 5, 13),
        Case::matrix(
            Form::Gemm { trans_a: false, trans_b: true, alpha: 1.0, beta: 1.0, free_bias: false },
            7,
            12,
        ),
    ]
}

/// M of one group, from the meaning of its factors as kernels and matrices.
pub fn whole(case: &Case, factors: &Factors, group: usize) -> Matrix {
    let parts = &factors.groups[group];
    let kernel = case.map.kernel();
    let taps: usize = kernel.iter().product();
    let (rows, columns) = (case.map.rows, case.map.columns);
    let Some(choice) = factors.choice else { return parts[0].clone() };
    // How many trailing taps of x the last of two factors sees one by one.
    let rest = match choice.scheme {
        Scheme::ChannelOut | Scheme::Matrix => return parts[0].dot(&parts[1]),
        Scheme::ChannelIn => taps,
        Scheme::Spatial => kernel[1],
        Scheme::Tucker => {
            let core = parts[0].dot(&parts[1]);
            return repeated(&core, &parts[2], rows, columns, taps);
        }
    };
    repeated(&parts[0], &parts[1], rows, columns, rest)
}

/// `sum_r last[o, r, k] first[r, c]` at column `(c, k)`, for `rest` values of k.
fn repeated(last: &Matrix, first: &Matrix, rows: usize, columns: usize, rest: usize) -> Matrix {
    Matrix::from_shape_fn((rows, columns), |(o, column)| {
        let (c, k) = (column / rest, column % rest);
        (0..first.nrows()).map(|r| last[[o, r * rest + k]] * first[[r, c]]).sum()
    })
}

/// |a - b| / |b|.
pub fn relative(a: &Matrix, b: &Matrix) -> f64 {
    let norm = |m: &Matrix| m.mapv(|v| v * v).sum().sqrt();
    norm(&(a - b)) / norm(b)
}
