//! Times the decompositions of nalgebra and faer over matrix sizes, in turns, on one thread: from
//! where one overtakes the other `linalg` takes its choice.
//!
//! `decompositions [LARGEST]` prints a Markdown table of medians in microseconds, conversions from
//! and to `ndarray` included, as `linalg` pays for them.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::hint::black_box;
use std::time::Instant;

use faer::{Mat, MatRef, Par};
use nalgebra::DMatrix;
use ndarray::Array2;
use onnx_bsr::linalg::{self, Cholesky, Matrix};
use rand::{RngExt, SeedableRng};

const SIZES: [usize; 15] = [4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];

/// Runs of each, at least, and the seconds after which no more are begun.
const RUNS: usize = 5;
const SECONDS: f64 = 0.3;

/// A decomposition by both libraries.
struct Case {
    name: &'static str,
    nalgebra: fn(&Matrix),
    faer: fn(&Matrix),
}

fn main() {
    faer::set_global_parallelism(Par::Seq);
    let largest = std::env::args().nth(1).map_or(512, |n| n.parse().expect("a size"));
    let cases = [
        Case {
            name: "symmetric eigen",
            nalgebra: |m| drop(black_box(linalg::eigen_nalgebra(m).unwrap())),
            faer: |m| drop(black_box(linalg::eigen_faer(m).unwrap())),
        },
        Case {
            name: "Cholesky, solve",
            nalgebra: |m| {
                let factor = to_nalgebra(m).cholesky().unwrap();
                black_box(from_nalgebra(&factor.solve(&to_nalgebra(&rhs(m)))));
            },
            faer: |m| {
                black_box(Cholesky::new(m).unwrap().solve_right(&rhs(m)).unwrap());
            },
        },
        Case {
            name: "SVD",
            nalgebra: |m| {
                let svd = to_nalgebra(m).svd(true, true);
                black_box((from_nalgebra(&svd.u.unwrap()), from_nalgebra(&svd.v_t.unwrap())));
            },
            faer: |m| {
                let svd = to_faer(m).thin_svd().unwrap();
                black_box((from_faer(svd.U()), from_faer(svd.V())));
            },
        },
        Case {
            name: "QR",
            nalgebra: |m| {
                let qr = to_nalgebra(m).qr();
                black_box((from_nalgebra(&qr.q()), from_nalgebra(&qr.r())));
            },
            faer: |m| {
                let qr = to_faer(m).qr();
                black_box((from_faer(qr.compute_thin_Q().as_ref()), from_faer(qr.thin_R())));
            },
        },
    ];
    let columns: Vec<String> =
        cases.iter().map(|c| format!("{0}: nalgebra | faer", c.name)).collect();
    println!("| n | {} |", columns.join(" | "));
    println!("|{}", "---|".repeat(1 + 2 * cases.len()));
    let mut faster = vec![Vec::new(); cases.len()];
    for n in SIZES.into_iter().filter(|&n| n <= largest) {
        let matrix = covariance(n);
        let mut cells = Vec::new();
        for (case, faster) in cases.iter().zip(&mut faster) {
            let (nalgebra, faer) = medians(case, &matrix);
            cells.push(format!("{nalgebra:.1} | {faer:.1}"));
            faster.push((n, nalgebra < faer));
        }
        println!("| {n} | {} |", cells.join(" | "));
    }
    println!();
    for (case, faster) in cases.iter().zip(faster) {
        let last = faster.iter().take_while(|(_, faster)| *faster).last();
        println!("{}: nalgebra is faster up to {}", case.name, last.map_or(0, |(n, _)| *n));
    }
}

/// Medians in microseconds of runs in turns.
fn medians(case: &Case, matrix: &Matrix) -> (f64, f64) {
    let time = |run: fn(&Matrix)| {
        let begin = Instant::now();
        run(matrix);
        begin.elapsed().as_secs_f64() * 1e6
    };
    (case.nalgebra)(matrix);
    (case.faer)(matrix);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while first.len() < RUNS || begin.elapsed().as_secs_f64() < SECONDS {
        first.push(time(case.nalgebra));
        second.push(time(case.faer));
    }
    (median(first), median(second))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The covariance of random vectors, as a layer's inputs have: positive definite.
fn covariance(n: usize) -> Matrix {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(n as u64);
    let samples = Matrix::from_shape_simple_fn((n, 2 * n), || random.random_range(-1.0..1.0));
    linalg::sandwich(&samples, &Matrix::eye(2 * n)) / (2 * n) as f64 + Matrix::eye(n) * 1e-3
}

/// As many right-hand sides as the order: layers have about as many outputs as inputs.
fn rhs(matrix: &Matrix) -> Matrix {
    matrix.mapv(|v| v + 1.0)
}

fn to_nalgebra(matrix: &Matrix) -> DMatrix<f64> {
    DMatrix::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[[i, j]])
}

fn from_nalgebra(matrix: &DMatrix<f64>) -> Matrix {
    Array2::from_shape_fn(matrix.shape(), |(i, j)| matrix[(i, j)])
}

fn to_faer(matrix: &Matrix) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[[i, j]])
}

fn from_faer(matrix: MatRef<'_, f64>) -> Matrix {
    Array2::from_shape_fn((matrix.nrows(), matrix.ncols()), |(i, j)| matrix[(i, j)])
}
