//! Times the leading eigenvectors of a Gram matrix by a subspace against all of them, over the share of directions
//! that are wanted: from where all cost no more `linalg` takes all.
//!
//! `crossover [ORDER]..` prints a Markdown table of seconds of this thread's processor time, with what the
//! vectors found leave beyond the optimum at the largest rank that counts as known.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::hint::black_box;

use onnx_bsr::linalg::{Matrix, sandwich, subspace, symmetric_eigen};
use rand::{RngExt, SeedableRng};

const SHARES: [f64; 6] = [0.05, 0.1, 0.2, 0.35, 0.5, 0.7];

fn main() {
    let orders: Vec<usize> =
        std::env::args().skip(1).map(|n| n.parse().expect("an order")).collect();
    println!(
        "| order | decay | directions | known rank | beyond the optimum | subspace s | all s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for n in if orders.is_empty() { vec![512, 1024] } else { orders } {
        for decay in [0.6, 1.0] {
            let gram = gram(n, decay);
            let begin = seconds();
            let all = symmetric_eigen(&gram).unwrap();
            let exact = seconds() - begin;
            let trace: f64 = all.values.iter().sum();
            for share in SHARES {
                let width = (n as f64 * share) as usize;
                let begin = seconds();
                let found = black_box(subspace(&gram, width, 1).unwrap());
                let taken = seconds() - begin;
                let left = |values: &[f64]| trace - values[..found.known].iter().sum::<f64>();
                let beyond = left(&found.values) / left(&all.values) - 1.0;
                println!(
                    "| {n} | {decay} | {width} | {} | {beyond:.1e} | {taken:.2} | {exact:.2} |",
                    found.known
                );
            }
        }
    }
}

/// The Gram matrix of a weight whose singular values fall like a power of their number.
fn gram(n: usize, decay: f64) -> Matrix {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(n as u64);
    let mut rows = Matrix::from_shape_simple_fn((n, n), || random.random_range(-1.0..1.0));
    let scale = ndarray::Array1::from_shape_fn(n, |i| (1.0 + i as f64 / 16.0).powf(-decay));
    rows *= &scale;
    let turn = Matrix::from_shape_simple_fn((n, n), || random.random_range(-1.0..1.0));
    let weight = onnx_bsr::linalg::product(&rows, &turn);
    sandwich(&weight, &Matrix::eye(n)) / n as f64
}

/// Processor time of the process, which other programs don't change: in hundredths of a second.
fn seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| after.get(at).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
