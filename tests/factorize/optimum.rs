//! Truncated layers against the best there can be, by nalgebra's singular values.

use nalgebra::DMatrix;
use onnx_bsr::factorize::{Fit, Scheme};
use onnx_bsr::linalg::Matrix;

use super::cases::{Case, all, random};

fn dmatrix(m: &Matrix) -> DMatrix<f64> {
    DMatrix::from_fn(m.nrows(), m.ncols(), |i, j| m[[i, j]])
}

/// Sum of squares of all singular values but the `rank` largest, for every rank from 0 on.
fn tails(m: &DMatrix<f64>) -> Vec<f64> {
    let mut squares: Vec<f64> = m.singular_values().iter().map(|s| s * s).collect();
    squares.sort_by(|a, b| b.total_cmp(a));
    (0..=squares.len()).map(|rank| squares[rank..].iter().sum()).collect()
}

fn one_map(scheme: Scheme) -> bool {
    matches!(scheme, Scheme::ChannelOut | Scheme::Matrix)
}

/// Claimed errors by rank against `best`, one list for each group.
fn check(case: &Case, scheme: Scheme, fits: &[Fit], best: &[Vec<f64>]) {
    let energy: f64 = fits.iter().map(|f| f.energy).sum();
    let choices = case.curve(scheme, fits).choices(&case.map).unwrap();
    assert_eq!(choices.len(), best[0].len() - 1, "{}, {scheme}", case.name());
    for (choice, claimed) in choices {
        let least: f64 = best.iter().map(|tails| tails[choice.rank]).sum();
        let off = (claimed - least).abs() / energy;
        assert!(off < 1e-9, "{}, {choice:?}: {claimed}, best {least}", case.name());
    }
}

/// The best rank-r map in the metric of the inputs is the truncated SVD of W L, with G = L L^T.
#[test]
fn channels_are_truncated_best_for_their_inputs() {
    for case in all() {
        let data = case.data(3 * case.map.columns);
        let moments: Vec<_> = data.iter().map(|d| d.moments()).collect();
        let pairs = || case.weights.iter().zip(&moments);
        let fits: Vec<Fit> = pairs().map(|(w, m)| Fit::of_inputs(w, m, true, 0.0)).collect();
        let best: Vec<Vec<f64>> = pairs()
            .map(|(w, m)| {
                let lower = dmatrix(&m.xx.to_dense()).cholesky().unwrap().l();
                tails(&(dmatrix(w) * lower))
            })
            .collect();
        case.schemes().into_iter().filter(|s| one_map(*s)).for_each(|scheme| {
            check(&case, scheme, &fits, &best);
        });
    }
}

/// Reduced-rank regression: the tail of T L^-T on top of what no map explains.
#[test]
fn channels_are_truncated_best_for_their_targets() {
    for case in all() {
        let mut data = case.data(3 * case.map.columns);
        data.iter_mut().for_each(|d| d.t += &(0.7 * random(d.t.dim(), 21)));
        let moments: Vec<_> = data.iter().map(|d| d.moments()).collect();
        let pairs = || case.weights.iter().zip(&moments);
        let fits: Vec<Fit> = pairs().map(|(w, m)| Fit::of_targets(w, m, 0.0)).collect();
        let best: Vec<Vec<f64>> = moments
            .iter()
            .map(|m| {
                let lower = dmatrix(&m.xx.to_dense()).cholesky().unwrap().l();
                let white = lower.solve_lower_triangular(&dmatrix(&m.tx).transpose()).unwrap();
                let unexplained = m.tt.sum() - white.norm_squared();
                tails(&white).into_iter().map(|tail| tail + unexplained).collect()
            })
            .collect();
        case.schemes().into_iter().filter(|s| one_map(*s)).for_each(|scheme| {
            check(&case, scheme, &fits, &best);
        });
    }
}

/// W as a matrix whose columns are the elements of x that a first factor maps together.
fn unfolded(w: &Matrix, rest: usize) -> DMatrix<f64> {
    let sides = w.ncols() / rest;
    DMatrix::from_fn(w.nrows() * rest, sides, |i, c| w[[i / rest, c * rest + i % rest]])
}

/// Without data, two factors of an unfolded kernel are its truncated SVD.
#[test]
fn without_data_projections_are_plain_svd() {
    for case in all() {
        let fits: Vec<Fit> = case.weights.iter().map(Fit::of_weight).collect();
        for scheme in case.schemes() {
            let rest = match scheme {
                Scheme::ChannelIn => case.map.kernel_len(),
                Scheme::Spatial => case.map.kernel()[1],
                _ => continue,
            };
            let best: Vec<_> = case.weights.iter().map(|w| tails(&unfolded(w, rest))).collect();
            check(&case, scheme, &fits, &best);
        }
    }
}

/// With data, projections are no optimum; they lie above that of any map of as many inputs, and
/// never far from it.
#[test]
fn projections_are_close_to_their_bound() {
    for case in all() {
        let data = case.data(3 * case.map.columns);
        let pairs = case.weights.iter().zip(&data);
        let fits: Vec<Fit> =
            pairs.map(|(w, d)| Fit::of_inputs(w, &d.moments(), true, 0.0)).collect();
        let energy: f64 = fits.iter().map(|f| f.energy).sum();
        let plain: Vec<Fit> = case.weights.iter().map(Fit::of_weight).collect();
        for scheme in
            case.schemes().into_iter().filter(|s| *s == Scheme::ChannelIn || *s == Scheme::Spatial)
        {
            let (curve, blind) = (case.curve(scheme, &fits), case.curve(scheme, &plain));
            let mut sums = (0.0, 0.0);
            for (choice, claimed) in curve.choices(&case.map).unwrap() {
                // The plain SVD's factors, judged by the data they don't know.
                let factors = blind.factors(choice, &plain, &case.bias).unwrap();
                let made: f64 = (0..case.map.groups)
                    .map(|g| fits[g].error(&super::cases::whole(&case, &factors, g)))
                    .sum();
                sums = (sums.0 + claimed, sums.1 + made);
                assert!(claimed > -1e-9 * energy);
            }
            assert!(sums.0 < sums.1, "{}, {scheme}: {sums:?}", case.name());
        }
    }
}

/// Tucker without data lies between the larger of both modes' tails and their sum (De Lathauwer,
/// De Moor and Vandewalle 2000, property 10).
#[test]
fn tucker_is_within_the_bounds_of_its_modes() {
    for case in all() {
        if !Scheme::Tucker.applies(&case.map) {
            continue;
        }
        let weight = &case.weights[0];
        let fits = [Fit::of_weight(weight)];
        let outputs = tails(&dmatrix(weight));
        let inputs = tails(&unfolded(weight, case.map.kernel_len()));
        let slack = 1e-9 * fits[0].energy;
        for (choice, claimed) in case.curve(Scheme::Tucker, &fits).choices(&case.map).unwrap() {
            let inner = choice.rank_in.unwrap();
            let tail = |tails: &[f64], rank: usize| tails[rank.min(tails.len() - 1)];
            let (a, b) = (tail(&outputs, choice.rank), tail(&inputs, inner));
            assert!(claimed <= a + b + slack, "{}, {choice:?}: {claimed}, {a} + {b}", case.name());
            assert!(
                claimed >= a.max(b) - slack,
                "{}, {choice:?}: {claimed}, {a}, {b}",
                case.name()
            );
        }
    }
}
