use super::*;
use crate::linalg::{Covariance, product, tests::random};
use crate::quantize::{self, Levels};

/// What rounding is predicted to cost is what it costs on the rows that the fit is made of, for a
/// matrix and for two factors of it.
#[test]
fn rounding_is_predicted_by_the_inputs() {
    let (rows, columns, samples) = (12, 40, 300);
    let map = LinearMap { form: Form::MatMulRight, groups: 1, rows, columns, bias: None };
    let x = product(&random(samples, columns, 1), &random(columns, columns, 2));
    let w = random(rows, columns, 3);
    let xx = Covariance::of_rows(&x / (samples as f64).sqrt());
    let (tx, energy) = (xx.apply(&w), xx.energy(&w));
    let fits = [Fit { xx, tx, energy, means: None, metric: None }];
    let price = Price { form: Some((quantize::Form::Int4, 16)) };
    let outputs = |m: &Matrix| product(&x, &m.t().to_owned());
    let mean = |m: &Matrix| m.iter().map(|v| v * v).sum::<f64>() / samples as f64;
    let wanted = outputs(&w);
    let curve = curves(&map, &fits, &[Scheme::Matrix]).unwrap().remove(0);
    let pair = Choice { scheme: Scheme::Matrix, rank: 7, rank_in: None };
    let dense = Factors { choice: None, groups: vec![vec![w.clone()]], bias: Vec::new() };
    for factors in [dense, curve.factors(pair, &fits, &[]).unwrap()] {
        let whole = |round: &dyn Fn(&Matrix) -> Matrix| {
            let all = factors.groups[0].iter().map(round);
            all.reduce(|product_so_far, next| product(&product_so_far, &next)).unwrap()
        };
        for (storage, block, levels) in [
            (Storage::Int8, columns, Levels::INT8),
            (Storage::Int4Packed, columns, Levels::INT4),
            (Storage::Int4, 16, Levels::INT4),
        ] {
            let rounded = whole(&|m| {
                let block = block.min(m.ncols());
                quantize::nearest(m, block, levels).matrix(m.nrows(), m.ncols(), block)
            });
            let error = |m: &Matrix| mean(&(&outputs(m) - &wanted));
            let measured = error(&rounded) - error(&whole(&Matrix::clone));
            let predicted = lost(&factors, &map, &fits, storage, price).unwrap();
            assert!((predicted - measured).abs() < 1e-6 * energy, "{predicted} {measured}");
            assert!(predicted > 0.0);
        }
    }
}

/// A way to store weights is offered with what it costs; the first form is dense and float.
#[test]
fn more_bits_cost_more_and_err_less() {
    let price = Price { form: Some((quantize::Form::Auto, 64)) };
    for kind in [Kind::Product, Kind::Other] {
        let storages = Bits::Free.storages(price, kind);
        assert_eq!((storages.len(), storages[0]), (3, None));
        let bytes: Vec<u64> = storages.iter().map(|&s| price.weight(128, 256, s)).collect();
        assert!(bytes.is_sorted_by(|a, b| a > b), "{bytes:?}");
        assert_eq!(bytes[0], 4 * 128 * 256);
        assert_eq!(Bits::Float.storages(price, kind), [None]);
        assert_eq!(Bits::Usual.storages(price, kind), [Some(Storage::Int8)]);
    }
    // Too few weights for what comes with fewer bits, and an odd number of them.
    assert_eq!(price.weight(2, 8, Some(Storage::Int8)), 64);
    let odd = [Storage::Int4Packed, Storage::Int8].map(|s| price.weight(33, 333, Some(s)));
    assert_eq!(odd[0], odd[1]);
}
