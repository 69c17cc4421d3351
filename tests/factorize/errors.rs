//! The error that a choice claims is the one its factors make on the rows that it was fitted to.

use ndarray::Axis;
use onnx_bsr::factorize::{Choice, Fit, Metric, Scheme};
use onnx_bsr::layer::Form;
use onnx_bsr::linalg::Matrix;

use super::cases::{Case, Data, all, random, whole};

/// Choices from the least rank to the largest.
fn some(choices: &[(Choice, f64)]) -> impl Iterator<Item = &(Choice, f64)> {
    let step = (choices.len() / 7).max(1);
    choices.iter().step_by(step).chain(choices.last())
}

/// Compares claimed with measured errors; `measure` gets a group's M and bias.
fn check(case: &Case, what: &str, fits: &[Fit], measure: impl Fn(usize, &Matrix, &[f64]) -> f64) {
    let energy: f64 = fits.iter().map(|f| f.energy).sum();
    for scheme in case.schemes() {
        let curve = case.curve(scheme, fits);
        let choices = curve.choices(&case.map).unwrap();
        assert!(!choices.is_empty());
        for &(choice, claimed) in some(&choices) {
            let factors = curve.factors(choice, fits, &case.bias).unwrap();
            let measured: f64 = (0..case.map.groups)
                .map(|g| {
                    let rows = case.map.rows;
                    measure(g, &whole(case, &factors, g), &factors.bias[g * rows..(g + 1) * rows])
                })
                .sum();
            let off = (claimed - measured).abs() / energy;
            let name = case.name();
            assert!(off < 1e-9, "{name}, {what}, {choice:?}: {claimed} claimed, {measured} made");
        }
    }
}

fn fits(case: &Case, data: &[Data], fit: impl Fn(&Matrix, &Data) -> Fit) -> Vec<Fit> {
    case.weights.iter().zip(data).map(|(w, d)| fit(w, d)).collect()
}

#[test]
fn claimed_errors_are_those_on_the_inputs() {
    for case in all() {
        let data = case.data(3 * case.map.columns);
        let own = fits(&case, &data, |w, d| Fit::of_inputs(w, &d.moments(), true, 0.0));
        check(&case, "centred", &own, |g, map, bias| data[g].residual(map, bias));
        // Without means the bias stays, and so does its part of the targets.
        let own = fits(&case, &data, |w, d| Fit::of_inputs(w, &d.moments(), false, 0.0));
        check(&case, "not centred", &own, |g, map, bias| data[g].residual(map, bias));
    }
}

#[test]
fn without_data_the_error_is_the_distance_of_weights() {
    for case in all() {
        let own: Vec<Fit> = case.weights.iter().map(Fit::of_weight).collect();
        check(&case, "weights alone", &own, |g, map, _| {
            (map - &case.weights[g]).mapv(|v| v * v).sum()
        });
    }
}

/// Targets that no map yields from these inputs, as after a refit of earlier layers.
#[test]
fn claimed_errors_are_those_against_other_targets() {
    for case in all() {
        let mut data = case.data(3 * case.map.columns);
        for (g, d) in data.iter_mut().enumerate() {
            d.t += &(0.5 * random(d.t.dim(), 40 + g as u64));
            d.x += &(0.3 * random(d.x.dim(), 60 + g as u64));
        }
        let refit = fits(&case, &data, |w, d| Fit::of_targets(w, &d.moments(), 0.0));
        check(&case, "targets", &refit, |g, map, bias| data[g].residual(map, bias));
    }
}

/// The ridge counts the distance from the weight, in units of the mean variance of an input.
#[test]
fn the_ridge_is_a_known_part_of_the_error() {
    const SHARE: f64 = 0.05;
    for case in all() {
        let data = case.data(3 * case.map.columns);
        let refit = fits(&case, &data, |w, d| Fit::of_targets(w, &d.moments(), SHARE));
        check(&case, "ridge", &refit, |g, map, bias| {
            let ridge = SHARE * data[g].x.var_axis(Axis(0), 0.0).mean().unwrap();
            let distance = (map - &case.weights[g]).mapv(|v| v * v).sum();
            data[g].residual(map, bias) + ridge * distance
        });
    }
}

#[test]
fn a_metric_weighs_the_error() {
    for case in all() {
        let rows = case.map.rows;
        let root = random((rows, rows), 11) + 2.0 * Matrix::eye(rows);
        let f = root.dot(&root.t());
        let data = case.data(3 * case.map.columns);
        let weighed = fits(&case, &data, |w, d| {
            let fit = Fit::of_inputs(w, &d.moments(), true, 0.0);
            fit.with_metric(Metric::new(&f).unwrap())
        });
        check(&case, "metric", &weighed, |g, map, bias| {
            let d = &data[g];
            let bias = Matrix::from_shape_vec((1, rows), bias.to_vec()).unwrap();
            let miss = &d.t - &d.x.dot(&map.t()) - &bias;
            (miss.dot(&f) * &miss).sum() / d.x.nrows() as f64
        });
    }
}

/// Whatever the rank, the mean output over the rows is that of the targets.
#[test]
fn the_bias_keeps_the_mean() {
    for case in all() {
        let data = case.data(3 * case.map.columns);
        let centred = fits(&case, &data, |w, d| Fit::of_inputs(w, &d.moments(), true, 1e-2));
        for scheme in case.schemes() {
            let rank_in = (scheme == Scheme::Tucker).then_some(1);
            let choice = Choice { scheme, rank: 1, rank_in };
            let curve = case.curve(scheme, &centred);
            let factors = curve.factors(choice, &centred, &case.bias).unwrap();
            for (g, d) in data.iter().enumerate() {
                let map = whole(&case, &factors, g);
                let rows = case.map.rows;
                let bias = &factors.bias[g * rows..(g + 1) * rows];
                let mean = map.dot(&d.x.mean_axis(Axis(0)).unwrap());
                for (o, wanted) in d.t.mean_axis(Axis(0)).unwrap().iter().enumerate() {
                    let off = (mean[o] + bias[o] - wanted).abs();
                    assert!(off < 1e-10, "{}, {scheme}: off by {off:e}", case.name());
                }
            }
        }
    }
}

/// Where there are far more outputs than inputs, and most directions of them are all but empty, errors are
/// what nalgebra's singular values leave.
#[test]
fn tall_weights_lose_their_smaller_singular_values() {
    for noise in [0.0, 1e-9, 1e-5, 1.0] {
        let mut case = Case::matrix(Form::MatMulRight, 60, 14);
        let low = random((60, 5), 1).dot(&random((5, 14), 2));
        case.weights[0] = low + noise * random((60, 14), 3);
        let own = vec![Fit::of_weight(&case.weights[0])];
        let w = &case.weights[0];
        let svd = nalgebra::DMatrix::from_fn(60, 14, |i, j| w[[i, j]]).singular_values();
        let choices = case.curve(Scheme::Matrix, &own).choices(&case.map).unwrap();
        assert_eq!(choices.len(), 14);
        for (choice, error) in choices {
            let left: f64 = svd.iter().skip(choice.rank).map(|s| s * s).sum();
            assert!((error - left).abs() < 1e-12 * own[0].energy, "{noise}, {choice:?}");
        }
        check(&case, "tall", &own, |_, map, _| (map - w).mapv(|v| v * v).sum());
        let data = case.data(50);
        let seen = fits(&case, &data, |w, d| Fit::of_inputs(w, &d.moments(), true, 0.0));
        check(&case, "tall, on data", &seen, |g, map, bias| data[g].residual(map, bias));
    }
}

/// More rank never costs accuracy.
#[test]
fn errors_fall_with_rank() {
    for case in all() {
        let data = case.data(3 * case.map.columns);
        let own = fits(&case, &data, |w, d| Fit::of_inputs(w, &d.moments(), true, 1e-3));
        let energy: f64 = own.iter().map(|f| f.energy).sum();
        for scheme in case.schemes() {
            let choices = case.curve(scheme, &own).choices(&case.map).unwrap();
            for pair in choices.windows(2).filter(|p| p[0].0.rank_in == p[1].0.rank_in) {
                assert_eq!(pair[0].0.rank + 1, pair[1].0.rank);
                assert!(pair[1].1 <= pair[0].1 + 1e-12 * energy, "{}: {pair:?}", case.name());
            }
            let last = choices.last().unwrap();
            assert!(last.1 < 1e-9 * energy, "{}: {last:?}", case.name());
        }
    }
}
