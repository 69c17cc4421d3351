//! Moments gathered from `f32` rows against their definitions in `f64`.

use ndarray::Axis;
use onnx_bsr::eval::moments::{Moments, Sums};
use onnx_bsr::factorize::Fit;
use onnx_bsr::linalg::Matrix;

use super::cases::{Data, random};

/// Rows as `f32`, and the same values as `f64`.
fn rounded(rows: &Matrix) -> (Vec<f32>, Matrix) {
    let values: Vec<f32> = rows.iter().map(|&v| v as f32).collect();
    let exact = values.iter().map(|&v| f64::from(v)).collect();
    (values, Matrix::from_shape_vec(rows.dim(), exact).unwrap())
}

/// Gathers `x` and `t` in three uneven parts.
fn gathered(x: &Matrix, t: &Matrix) -> (Moments, Data) {
    let ((x32, x), (t32, t)) = (rounded(x), rounded(t));
    let (n, m, rows) = (x.ncols(), t.ncols(), x.nrows());
    let mut total = Sums::new(n, m);
    for part in [0..rows / 7, rows / 7..rows / 2, rows / 2..rows] {
        let mut sums = Sums::new(n, m);
        sums.add(&x32[part.start * n..part.end * n], &t32[part.start * m..part.end * m]).unwrap();
        total.merge(&sums).unwrap();
    }
    (total.moments().unwrap().unwrap(), Data { x, t })
}

#[test]
fn small_variance_on_a_large_mean_is_kept() {
    for (mean, spread) in [(0.0, 1.0), (3.0, 1.0), (100.0, 0.1), (-1000.0, 1.0)] {
        let x = random((2000, 6), 1).dot(&random((6, 6), 2)) * spread + mean;
        let t = random((2000, 4), 3) * spread - 2.0 * mean;
        let (given, data) = gathered(&x, &t);
        let wanted = data.moments();
        assert_eq!(given.rows, 2000);
        let (given_xx, wanted_xx) = (given.xx.to_dense(), wanted.xx.to_dense());
        let variance = wanted_xx.diag().mean().unwrap();
        let near = |a: &Matrix, b: &Matrix| (a - b).iter().all(|d| d.abs() < 1e-4 * variance);
        assert!(near(&given_xx, &wanted_xx), "mean {mean}:\n{given_xx}\n{wanted_xx}");
        assert!(near(&given.tx, &wanted.tx), "mean {mean}:\n{}\n{}", given.tx, wanted.tx);
        let column = |a: &ndarray::Array1<f64>| a.clone().insert_axis(Axis(0));
        assert!(near(&column(&given.tt), &column(&wanted.tt)));
        let slack = 1e-6 * mean.abs() + 1e-6;
        for (a, b) in [(&given.x_mean, &wanted.x_mean), (&given.t_mean, &wanted.t_mean)] {
            assert!((a - b).iter().all(|d| d.abs() < slack), "{a} {b}");
        }
    }
}

/// However little inputs vary, there is a fit.
#[test]
fn nearly_constant_inputs_can_be_fitted() {
    for spread in [1e-1, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-9, 0.0] {
        let x = random((1000, 30), 4).dot(&random((30, 30), 5)) * spread + 7.0;
        let weight = random((8, 30), 6);
        let t = x.dot(&weight.t());
        let (moments, _) = gathered(&x, &t);
        for fit in [
            Fit::of_targets(&weight, &moments, 1e-3),
            Fit::of_inputs(&weight, &moments, true, 1e-3),
            Fit::of_inputs(&weight, &moments, false, 1e-3),
        ] {
            assert!(fit.xx.solver().is_ok(), "spread {spread:e}");
            let dense = fit.dense().unwrap();
            assert!(dense.iter().all(|v| v.is_finite() && v.abs() < 1e3), "spread {spread:e}");
        }
    }
}

#[test]
fn rows_must_be_whole_and_equally_many() {
    let mut sums = Sums::new(3, 2);
    assert!(sums.add(&[0.0; 7], &[0.0; 4]).is_err());
    assert!(sums.add(&[0.0; 6], &[0.0; 6]).is_err());
    assert!(sums.moments().unwrap().is_none());
}
