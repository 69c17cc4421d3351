//! At full rank nothing is lost, whatever the fit.

use onnx_bsr::factorize::{Fit, Metric};
use onnx_bsr::linalg::Matrix;

use super::cases::{Case, all, random, relative, whole};

/// f64 arithmetic leaves this much.
const ROUNDING: f64 = 1e-9;

fn check(case: &Case, what: &str, fits: &[Fit]) {
    for scheme in case.schemes() {
        let factors = case.curve(scheme, fits).factors(case.full(scheme), fits, &case.bias);
        let factors = factors.unwrap();
        for (group, weight) in case.weights.iter().enumerate() {
            let error = relative(&whole(case, &factors, group), weight);
            assert!(error < ROUNDING, "{}, {scheme}, {what}: {error:e}", case.name());
        }
        let pairs = factors.bias.iter().zip(&case.bias);
        let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < ROUNDING, "{}, {scheme}, {what}: bias off by {off:e}", case.name());
    }
    for (fit, weight) in fits.iter().zip(&case.weights) {
        let error = relative(&fit.dense().unwrap(), weight);
        assert!(error < ROUNDING, "{}, dense, {what}: {error:e}", case.name());
    }
}

/// A well-conditioned metric of outputs.
fn metric(rows: usize) -> Metric {
    let root = random((rows, rows), 5) + 2.0 * Matrix::eye(rows);
    Metric::new(&root.dot(&root.t())).unwrap()
}

#[test]
fn full_rank_gives_the_weight_back() {
    for case in all() {
        let weights = &case.weights;
        let fits: Vec<Fit> = weights.iter().map(Fit::of_weight).collect();
        check(&case, "weights alone", &fits);
        let moments: Vec<_> = case.data(4 * case.map.columns).iter().map(|d| d.moments()).collect();
        let pairs = || weights.iter().zip(&moments);
        for ridge in [0.0, 1e-3] {
            let fits: Vec<Fit> = pairs().map(|(w, m)| Fit::of_inputs(w, m, false, ridge)).collect();
            check(&case, "inputs", &fits);
            let fits: Vec<Fit> = pairs().map(|(w, m)| Fit::of_inputs(w, m, true, ridge)).collect();
            check(&case, "inputs about their mean", &fits);
            let fits: Vec<Fit> = pairs().map(|(w, m)| Fit::of_targets(w, m, ridge)).collect();
            check(&case, "targets", &fits);
            let fits: Vec<Fit> =
                fits.into_iter().map(|f| f.with_metric(metric(case.map.rows))).collect();
            check(&case, "targets in a metric", &fits);
        }
    }
}

/// Fewer positions than inputs: the ridge holds what the data leave open to the weight.
#[test]
fn full_rank_survives_too_little_data() {
    for case in all() {
        let data = case.data(3);
        let pairs = case.weights.iter().zip(&data);
        let fits: Vec<Fit> = pairs.map(|(w, d)| Fit::of_targets(w, &d.moments(), 1e-3)).collect();
        check(&case, "three positions", &fits);
    }
}

/// Inputs that never change say nothing about the weight, and nothing is divided by zero.
#[test]
fn full_rank_survives_constant_inputs() {
    for case in all() {
        let data = case.data(1);
        let pairs = case.weights.iter().zip(&data);
        let fits: Vec<Fit> =
            pairs.map(|(w, d)| Fit::of_inputs(w, &d.moments(), true, 1e-3)).collect();
        check(&case, "one position", &fits);
    }
}
