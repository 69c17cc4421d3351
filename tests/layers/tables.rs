//! Tables that rows are looked up in: factorized by how often each row is.

use std::path::Path;

use nalgebra::DMatrix;
use onnx_bsr::dataset::{Arrays, Dataset, Preprocess};
use onnx_bsr::factorize::Scheme;
use onnx_bsr::graph;
use onnx_bsr::layer::{Batch, Filter, Positions, find, shapes};
use onnx_bsr::onnx::Model;
use onnx_bsr::search::{
    Effort, Network, NetworkOptions, Plan, Samples, Snapshots, Statistics, Taken,
};
use onnx_bsr::tensor::Tensor;

use super::models::{Builder, int};
use super::written::{Ranks, apart, check, choice, evaluated, in_tract, layers};

const ROWS: usize = 40;
const WIDTH: usize = 12;
const LENGTH: usize = 6;
const SAMPLES: usize = 64;

/// One table that two nodes look up in, one of them from its end, before a product.
fn twice() -> Model {
    let mut b = Builder::new(&[1, LENGTH]);
    b.weight("table", &[ROWS, WIDTH]);
    b.weight("w", &[WIDTH, 9]);
    b.node("Cast", &["x"], "ids", &[int("to", 7)]);
    b.node("Gather", &["table", "ids"], "a", &[]);
    b.node("Neg", &["ids"], "back", &[]);
    b.node("Gather", &["table", "back"], "b", &[int("axis", 0)]);
    b.node("Tanh", &["b"], "t", &[]);
    b.node("Add", &["a", "t"], "s", &[]);
    b.node("MatMul", &["s", "w"], "y", &[]);
    b.finish(&["y"])
}

/// Places, the first ones far more often than the last ones.
fn places(samples: usize) -> Vec<f32> {
    (0..samples * LENGTH)
        .map(|i| ((i * 7919 + i * i) % ROWS * ((i * 31) % 11) / 11) as f32)
        .collect()
}

fn calibrated(model: &Model, statistics: Statistics) -> Network<'_> {
    let knobs = NetworkOptions { statistics, ridge: 1e-7, rows_per_input: 1000, seed: 1 };
    let sample = Tensor::from_vec(&[1, LENGTH], places(1)).unwrap();
    let mut network = Network::new(model, &layers(model), vec![sample], knobs).unwrap();
    let x = Tensor::from_vec(&[SAMPLES, LENGTH], places(SAMPLES)).unwrap();
    let arrays = Arrays::in_order(vec![x], None);
    let specs = graph::inputs(model).unwrap();
    let data =
        Dataset::held(&arrays, Path::new("made up"), &specs, None, &Preprocess::default()).unwrap();
    let samples = Samples::new(&data, (0..SAMPLES).collect(), &network.evaluator).unwrap();
    network.calibrate(samples.clone()).unwrap();
    if statistics == Statistics::Loss {
        let scorer = network.scorer(&samples, None, false).unwrap();
        network.weigh(&samples, &scorer).unwrap();
    }
    network
}

#[test]
fn one_layer_for_all_that_look_up_in_it() {
    let model = twice();
    let all = find(&model, &Filter::default()).unwrap();
    let names: Vec<Vec<&str>> = all.iter().map(|l| l.names().collect()).collect();
    assert_eq!(names, [vec!["a", "b"], vec!["y"]]);
    let map = all[0].map.as_ref().unwrap();
    assert_eq!((map.rows, map.columns, map.takes_bias()), (WIDTH, ROWS, false));
    let sample = Tensor::from_vec(&[1, LENGTH], places(1)).unwrap();
    let values = shapes(&model, vec![sample.clone()]).unwrap();
    // Looking up multiplies nothing; a narrower table is followed by a product.
    assert_eq!(all[0].macs(&model, &values), Some(0));
    let extent = all[0].extent(&model, &values).unwrap();
    assert_eq!(extent.output, 2 * LENGTH as u64);
    let half = choice(&all[0], Scheme::Matrix, Ranks::Half).unwrap();
    assert_eq!(half.macs(map, extent), (2 * LENGTH * WIDTH * WIDTH / 2) as u64);
    assert_eq!(half.params(map), (ROWS + WIDTH) * WIDTH / 2);
    assert_eq!(check("table", &model, &[sample]), [(Scheme::Matrix, 2)]);
}

#[test]
fn places_are_counted_from_the_start() {
    let model = twice();
    let map = layers(&model)[0].map.clone().unwrap();
    let x = Tensor::from_vec(&[2, 2], vec![3i64, -1, 0, -40]).unwrap();
    let batch = Batch { first: 0, samples: 2, tokens: None };
    let at = Positions { per_sample: 2, seed: 1 };
    assert_eq!(map.input_rows(&x, &batch, &at).unwrap().groups, [[3.0, 39.0, 0.0, 0.0]]);
    let x = Tensor::from_vec(&[2, 1], vec![5i32, -2]).unwrap();
    assert_eq!(map.input_rows(&x, &batch, &at).unwrap().groups, [[5.0, 38.0]]);
    let floats = Tensor::from_vec(&[2, 1], vec![5.0f32, 2.0]).unwrap();
    assert!(map.input_rows(&floats, &batch, &at).is_err());
}

/// The factors are the weighted truncated SVD of the table, each row by how often it is looked up, by
/// another library.
#[test]
fn factors_are_best_for_what_is_looked_up() {
    let model = twice();
    let network = calibrated(&model, Statistics::Centred);
    let mut counts = vec![0.0; ROWS];
    for place in places(SAMPLES) {
        counts[place as usize] += 1.0;
        counts[(ROWS - place as usize) % ROWS] += 1.0;
    }
    let total = (2 * SAMPLES * LENGTH) as f64;
    let seen = network.moments[0][0].xx.diagonal();
    assert!(seen.iter().zip(&counts).all(|(s, c)| (s - c / total).abs() < 1e-12));
    // A fifth of the mean is the least that is added to every row.
    let share = network.moments[0][0].xx.shrinkage(2 * SAMPLES * LENGTH).max(0.2);
    let weight: Vec<f64> = counts.iter().map(|c| c / total + share / ROWS as f64).collect();

    let table = network.weights[0].groups[0].t().to_owned();
    let scaled = DMatrix::from_fn(ROWS, WIDTH, |i, j| weight[i].sqrt() * table[[i, j]]);
    let values = scaled.svd(false, false).singular_values;
    let rank = WIDTH / 2;
    let least: f64 = values.iter().skip(rank).map(|s| s * s).sum();
    let chosen = choice(&network.layers[0], Scheme::Matrix, Ranks::Half).unwrap();
    let cut = network.alone(0, chosen).unwrap();
    let factors = &cut.factors[0].as_ref().unwrap().groups[0];
    let made = factors[0].dot(&factors[1]).t().to_owned();
    let miss = |i: usize| -> f64 {
        (0..WIDTH).map(|j| (table[[i, j]] - made[[i, j]]).powi(2)).sum::<f64>()
    };
    let error: f64 = (0..ROWS).map(|i| weight[i] * miss(i)).sum();
    assert!((error / least - 1.0).abs() < 1e-9, "{error} {least}");
}

/// With every kind of statistics the compressed network computes what the written model computes.
#[test]
fn the_network_is_that_of_the_plan() {
    let model = twice();
    let all = [Statistics::None, Statistics::Centred, Statistics::Sequential, Statistics::Loss];
    for (statistics, ranks) in all.into_iter().flat_map(|s| [(s, Ranks::Full), (s, Ranks::Half)]) {
        let network = calibrated(&model, statistics);
        let taken: Vec<Taken> = network
            .layers
            .iter()
            .map(|layer| choice(layer, Scheme::Matrix, ranks).into())
            .collect();
        let (mut none, mut effort) = (Snapshots::new(0), Effort::default());
        let cut = network.compress(&taken, &network.dense(), &mut none, &mut effort).unwrap();
        let result = Plan::new(&model, &network.layers, &cut.factors).unwrap();
        let result = result.apply(&model).unwrap();
        let x = vec![Tensor::from_vec(&[1, LENGTH], places(1)).unwrap()];
        let wanted = evaluated(&result, &x);
        assert!(apart(&wanted, &cut.evaluator.run(x.clone()).unwrap()) < 1e-5, "{statistics:?}");
        assert!(apart(&wanted, &in_tract(&result, &x)) < 1e-5, "{statistics:?}");
        let off = apart(&evaluated(&model, &x), &wanted);
        match ranks {
            Ranks::Full => assert!(off < 1e-3, "{statistics:?}: {off:e}"),
            Ranks::Half => assert!(off > 1e-3, "{statistics:?}: {off:e}"),
        }
        // The table left whole stays as it is, whatever becomes of what comes after it.
        let second = vec![Taken::default(), taken[1]];
        let cut = network.compress(&second, &network.dense(), &mut none, &mut effort).unwrap();
        assert!(cut.factors[0].is_none() && cut.factors[1].is_some());
    }
}

/// Masks are no weights: those that are added, those that are multiplied, and tables without numbers.
#[test]
fn masks_stay_whole() {
    for masked in [f32::NEG_INFINITY, f32::MIN, f32::NAN, 1.0] {
        let mut b = Builder::new(&[1, LENGTH]);
        let element = |i: usize| if i % ROWS > i / ROWS { masked } else { 0.0 };
        let mask: Vec<f32> = (0..ROWS * ROWS).map(element).collect();
        b.constant("mask", &Tensor::from_vec(&[ROWS, ROWS], mask).unwrap());
        b.node("Cast", &["x"], "ids", &[int("to", 7)]);
        b.node("Gather", &["mask", "ids"], "y", &[]);
        let all = find(&b.finish(&["y"]), &Filter::default()).unwrap();
        assert_eq!(all[0].skip.as_deref(), Some("a mask that rows are looked up in"));
    }
}

/// Tables that something else reads too, of which always the same rows are looked up, or columns.
#[test]
fn tables_that_stay_whole() {
    let mut b = Builder::new(&[1, LENGTH]);
    for name in ["tied", "columns", "fixed"] {
        b.weight(name, &[ROWS, WIDTH]);
    }
    b.node("Cast", &["x"], "ids", &[int("to", 7)]);
    b.node("Gather", &["tied", "ids"], "a", &[]);
    b.node("Transpose", &["tied"], "turned", &[]);
    b.node("MatMul", &["a", "turned"], "y", &[]);
    b.node("Gather", &["columns", "ids"], "c", &[int("axis", 1)]);
    b.constant("rows", &Tensor::from_vec(&[3], vec![1i64, 5, 7]).unwrap());
    b.node("Gather", &["fixed", "rows"], "f", &[]);
    let model = b.finish(&["y", "c", "f"]);
    let all = find(&model, &Filter::default()).unwrap();
    let reason = |name: &str| {
        let layer = all.iter().find(|l| l.name == name).unwrap();
        layer.skip.clone().unwrap()
    };
    assert!(reason("a").contains("shared with Transpose"), "{}", reason("a"));
    assert!(reason("y").contains("tied to `tied`"), "{}", reason("y"));
    assert!(reason("c").contains("columns"), "{}", reason("c"));
    assert!(reason("f").contains("the same rows"), "{}", reason("f"));
}
