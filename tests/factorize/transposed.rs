//! Transposed convolutions: what a choice claims, costs and leaves out.

use onnx_bsr::factorize::{Choice, Factors, Fit, Metric, Scheme};
use onnx_bsr::layer::Extent;
use onnx_bsr::linalg::Matrix;

use super::cases::{Case, random, relative};

fn all() -> Vec<Case> {
    vec![
        Case::transposed(1, 6, 9, &[2, 2]),
        Case::transposed(1, 9, 4, &[3]),
        Case::transposed(3, 4, 5, &[1, 3]),
        Case::transposed(1, 3, 8, &[2, 2, 2]),
        Case::transposed(1, 7, 5, &[1, 1]),
    ]
}

/// M of one group from the meaning of its factors: `sum_r u[o, r] v[(r, k), c]`, or of rank r over all.
fn whole(case: &Case, factors: &Factors, group: usize) -> Matrix {
    let [u, v] = &factors.groups[group][..] else { return factors.groups[group][0].clone() };
    let spread = case.map.spread();
    match factors.choice.unwrap().scheme {
        Scheme::ChannelIn => u.dot(v),
        Scheme::ChannelOut => Matrix::from_shape_fn((case.map.rows, v.ncols()), |(row, c)| {
            let (o, k) = (row / spread, row % spread);
            (0..u.ncols()).map(|r| u[[o, r]] * v[[r * spread + k, c]]).sum()
        }),
        other => panic!("{other}"),
    }
}

#[test]
fn both_schemes_are_those_of_channels() {
    for case in all() {
        let spread = case.map.spread() > 1;
        let wanted: &[Scheme] =
            if spread { &[Scheme::ChannelOut, Scheme::ChannelIn] } else { &[Scheme::ChannelIn] };
        assert_eq!(case.schemes(), wanted);
    }
}

/// Errors with and without data, in a metric too, are those that the factors make; at full rank there
/// are none, and the dense weight of the factors is their product.
#[test]
fn claimed_errors_are_made() {
    for case in all() {
        let rows = case.map.rows;
        let root = random((rows, rows), 11) + 2.0 * Matrix::eye(rows);
        let f = root.dot(&root.t());
        let data = case.data(3 * case.map.columns);
        let none = || case.weights.iter().map(Fit::of_weight);
        let own = || {
            let pairs = case.weights.iter().zip(&data);
            pairs.map(|(w, d)| Fit::of_inputs(w, &d.moments(), false, 0.0))
        };
        let weighed = own().map(|fit| fit.with_metric(Metric::new(&f).unwrap())).collect();
        let kinds: [(&str, Vec<Fit>); 3] =
            [("none", none().collect()), ("own", own().collect()), ("metric", weighed)];
        for (kind, fits) in &kinds {
            let energy: f64 = fits.iter().map(|f| f.energy).sum();
            for scheme in case.schemes() {
                let curve = case.curve(scheme, fits);
                for (choice, claimed) in curve.choices(&case.map).unwrap() {
                    let factors = curve.factors(choice, fits, &case.bias).unwrap();
                    let name = format!("{}, {kind}, {choice:?}", case.name());
                    assert!(factors.bias.iter().all(|&b| b == 0.0), "{name}");
                    let mut made = 0.0;
                    let dense = factors.to_dense(&case.map);
                    for g in 0..case.map.groups {
                        let whole = whole(&case, &factors, g);
                        assert!(relative(&dense.groups[g][0], &whole) < 1e-12, "{name}");
                        made += match *kind {
                            "none" => (&whole - &case.weights[g]).mapv(|v| v * v).sum(),
                            kind => {
                                let d = &data[g];
                                let miss = d.x.dot(&(&whole - &case.weights[g]).t());
                                let weighed =
                                    if kind == "metric" { miss.dot(&f) } else { miss.clone() };
                                (weighed * &miss).sum() / d.x.nrows() as f64
                            }
                        };
                    }
                    let off = (claimed - made).abs() / energy;
                    assert!(off < 1e-9, "{name}: {claimed} claimed, {made} made");
                    if choice.rank == Choice::most(scheme, &case.map) {
                        assert!(claimed < 1e-9 * energy, "{name}");
                    }
                }
            }
        }
    }
}

/// Alternating least squares from a random start, on the rows themselves, gets no further.
#[test]
fn channels_are_the_best_there_are() {
    let case = Case::transposed(1, 6, 9, &[2, 2]);
    let (spread, outputs) = (4, 6);
    let data = &case.data(60)[0];
    let fits = vec![Fit::of_inputs(&case.weights[0], &data.moments(), false, 0.0)];
    let curve = case.curve(Scheme::ChannelOut, &fits);
    let y = data.x.dot(&case.weights[0].t());
    // What is yielded as [outputs, positions and kernel].
    let yielded = Matrix::from_shape_fn((outputs, y.nrows() * spread), |(o, at)| {
        y[[at / spread, o * spread + at % spread]]
    });
    let invert = |m: &Matrix| {
        // Gauss and Jordan, for a few rows.
        let n = m.nrows();
        let (mut a, mut b) = (m.clone(), Matrix::eye(n));
        for i in 0..n {
            let pivot = a[[i, i]];
            for j in 0..n {
                a[[i, j]] /= pivot;
                b[[i, j]] /= pivot;
            }
            for k in (0..n).filter(|&k| k != i) {
                let factor = a[[k, i]];
                for j in 0..n {
                    a[[k, j]] -= factor * a[[i, j]];
                    b[[k, j]] -= factor * b[[i, j]];
                }
            }
        }
        b
    };
    for rank in 1..outputs {
        let choice = Choice { scheme: Scheme::ChannelOut, rank, rank_in: None };
        let errors = curve.choices(&case.map).unwrap();
        let claimed = errors.iter().find(|(c, _)| *c == choice).unwrap().1;
        let mut u = random((outputs, rank), 5);
        let mut best = f64::INFINITY;
        for _ in 0..2000 {
            let v = invert(&u.t().dot(&u)).dot(&u.t()).dot(&yielded);
            u = yielded.dot(&v.t()).dot(&invert(&v.dot(&v.t())));
            let miss = &yielded - &u.dot(&v);
            best = miss.mapv(|v| v * v).sum() / y.nrows() as f64;
        }
        assert!(claimed <= best * (1.0 + 1e-9), "rank {rank}: {claimed}, {best} by others");
        assert!(best <= claimed * 1.01, "rank {rank}: {claimed}, {best} by others");
    }
}

#[test]
fn params_and_macs_are_those_of_the_factors() {
    // The map is applied at the positions of the input, a 1 x 1 after it at those of the output.
    let at = Extent { input: 37, middle: 1009, output: 37 };
    for case in all() {
        let fits: Vec<Fit> = case.weights.iter().map(Fit::of_weight).collect();
        for scheme in case.schemes() {
            let positions: [u64; 2] =
                if scheme == Scheme::ChannelOut { [1009, 37] } else { [37, 37] };
            let curve = case.curve(scheme, &fits);
            for (choice, _) in curve.choices(&case.map).unwrap() {
                let factors = curve.factors(choice, &fits, &case.bias).unwrap();
                let parts = || factors.groups.iter().flat_map(|g| g.iter().zip(positions));
                let params: usize = parts().map(|(m, _)| m.len()).sum();
                let macs: u64 = parts().map(|(m, at)| m.len() as u64 * at).sum();
                assert_eq!(choice.params(&case.map), params, "{}, {choice:?}", case.name());
                assert_eq!(choice.macs(&case.map, at), macs, "{}, {choice:?}", case.name());
                let shapes = Factors::shapes(Some(choice), &case.map);
                let own: Vec<_> = factors.groups[0].iter().map(Matrix::dim).collect();
                assert_eq!(shapes, own, "{}, {choice:?}", case.name());
            }
        }
    }
}
