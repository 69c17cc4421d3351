//! What a layer sees and what it yields at sampled positions: W x + b has to be y there.

use ndarray::{Array1, ArrayView1};
use onnx_bsr::eval::Evaluator;
use onnx_bsr::layer::{Batch, Layer, Positions};
use onnx_bsr::onnx::Model;
use onnx_bsr::tensor::Tensor;
use onnx_bsr::tokens::Tokens;

use super::forms::{convolutions, transposed_convolutions};
use super::models::Builder;
use super::written::{arrays, fixture, layers};

/// Number of the first sample of a batch.
const FIRST: u64 = 5;

fn batch(samples: usize) -> Batch<'static> {
    Batch { first: FIRST, samples, tokens: None }
}

/// Compares the rows of a layer's input and output for a limited and for an ample number of
/// positions.
fn check(name: &str, model: &Model, layer: &Layer, x: &Tensor, y: &Tensor) {
    let map = layer.map.as_ref().unwrap();
    let weight = layer.weight(model).unwrap();
    let samples = if x.rank() > 1 { x.shape()[0] } else { 1 };
    let ample = y.len() / samples / map.groups / map.rows;
    for per_sample in [ample.div_ceil(3), ample] {
        let at = Positions { per_sample, seed: 11 };
        let seen = map.input_rows(x, &batch(samples), &at).unwrap();
        let yielded = map.output_rows(y, &batch(samples), &at).unwrap();
        assert_eq!((seen.groups.len(), yielded.groups.len()), (map.groups, map.groups));
        for (g, (x, y)) in seen.groups.iter().zip(&yielded.groups).enumerate() {
            let width = if map.is_table() { 1 } else { map.columns };
            assert_eq!(x.len(), samples * per_sample * width, "{name}");
            assert_eq!(y.len(), samples * per_sample * map.rows, "{name}");
            let bias = ArrayView1::from(&weight.bias[g * map.rows..(g + 1) * map.rows]);
            for (x, y) in x.chunks(width).zip(y.chunks(map.rows)) {
                let mut x = ArrayView1::from(x).mapv(f64::from);
                if map.is_table() {
                    let place = x[0] as usize;
                    x = Array1::from_shape_fn(map.columns, |i| f64::from(u8::from(i == place)));
                }
                let made = weight.groups[g].dot(&x) + bias;
                for (made, y) in made.iter().zip(y) {
                    assert!((made - f64::from(*y)).abs() < 1e-4, "{name}: {made}, not {y}");
                }
            }
        }
    }
}

/// Checks every layer of a model.
fn check_all(name: &str, model: &Model, inputs: Vec<Tensor>) {
    let layers = layers(model);
    let ends = |layer: &Layer| {
        let node = &model.graph().node[layer.node];
        let data = layer.map.as_ref().unwrap().data_input();
        (node.input[data].clone(), node.output[0].clone())
    };
    let names: Vec<String> = layers.iter().map(ends).flat_map(|(x, y)| [x, y]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let evaluator = Evaluator::observing(model, &names).unwrap();
    let mut state = evaluator.start(inputs).unwrap();
    evaluator.advance(&mut state, usize::MAX).unwrap();
    for layer in layers {
        let get = |name: &str| evaluator.get(&state, evaluator.value(name).unwrap()).unwrap();
        let (x, y) = ends(&layer);
        check(&format!("{name}, {}", layer.name), model, &layer, &get(&x), &get(&y));
    }
}

#[test]
fn layers_of_fixtures() {
    for name in ["conv1d", "conv3d", "grouped", "attention", "residual"] {
        let model = Model::read(&fixture(&format!("{name}.onnx"))).unwrap();
        let inputs = arrays(&fixture(&format!("expected/{name}.npz")), &model);
        check_all(name, &model, inputs);
    }
}

#[test]
fn convolutions_with_every_attribute() {
    for (model, _) in convolutions() {
        let specs = onnx_bsr::graph::inputs(&model).unwrap();
        let inputs = onnx_bsr::validate::random_inputs(&specs, &[], 3).unwrap();
        check_all("a convolution", &model, inputs);
    }
}

/// What a transposed convolution yields for its input's elements adds up to its output, where what is
/// yielded for one is not where others yield too.
#[test]
fn transposed_convolutions_without_overlap() {
    for (at, (model, _)) in transposed_convolutions().into_iter().enumerate() {
        let layer = &layers(&model)[0];
        let map = layer.map.as_ref().unwrap();
        let specs = onnx_bsr::graph::inputs(&model).unwrap();
        let x = onnx_bsr::validate::random_inputs(&specs, &[], 3).unwrap();
        let y = Evaluator::new(&model).unwrap().run(x.clone()).unwrap().remove(0);
        let positions = Positions { per_sample: usize::MAX, seed: 1 };
        let samples = batch(x[0].shape()[0]);
        let seen = map.input_rows(&x[0], &samples, &positions).unwrap();
        let yielded = map.output_rows(&y, &samples, &positions).unwrap();
        let weight = layer.weight(&model).unwrap();
        let bias = onnx_bsr::graph::constant_tensor(&model, "b").unwrap().unwrap().to_f64_vec();
        for (g, (x, y)) in seen.groups.iter().zip(&yielded.groups).enumerate() {
            assert_eq!(x.len() / map.columns, y.len() / map.rows, "case {at}");
            // Kernels no larger than their strides, without padding.
            if ![0, 5, 6].contains(&at) {
                continue;
            }
            for (x, y) in x.chunks(map.columns).zip(y.chunks(map.rows)) {
                let made = weight.groups[g].dot(&ArrayView1::from(x).mapv(f64::from));
                for (row, (made, y)) in made.iter().zip(y).enumerate() {
                    let made = made + bias[g * map.rows / map.spread() + row / map.spread()];
                    assert!((made - f64::from(*y)).abs() < 1e-4, "case {at}: {made}, not {y}");
                }
            }
        }
    }
}

/// Sequences are looked at alike whether their positions have an axis of their own or not, and not where
/// a mask leaves positions out.
#[test]
fn flattened_and_masked_sequences() {
    let mut b = Builder::new(&[4, 6, 8]);
    b.weight("w", &[8, 9]);
    b.node("MatMul", &["x", "w"], "y", &[]);
    let map = layers(&b.finish(&["y"]))[0].map.clone().unwrap();
    let values: Vec<f32> = (0..4 * 6 * 8).map(|v| v as f32).collect();
    let apart = Tensor::from_vec(&[4, 6, 8], values.clone()).unwrap();
    let flat = Tensor::from_vec(&[4 * 6, 8], values).unwrap();
    for per_sample in [2, 6] {
        let at = Positions { per_sample, seed: 5 };
        let rows = map.input_rows(&apart, &batch(4), &at).unwrap().groups;
        assert_eq!(rows[0].len(), 4 * per_sample * 8);
        assert_eq!(rows, map.input_rows(&flat, &batch(4), &at).unwrap().groups);
    }
    // Samples that axis 0 can't count: as many rows, of any.
    let rows = map.input_rows(&flat, &batch(5), &Positions { per_sample: 2, seed: 5 }).unwrap();
    assert_eq!(rows.groups[0].len(), 10 * 8);
    // The first number of a row tells its position, of six in each sample. Numbers of samples are those
    // of the whole data: the mask's first five rows are of samples before these.
    let mut mask = vec![1_i64; (FIRST as usize + 4) * 6];
    mask[FIRST as usize * 6 + 2..FIRST as usize * 6 + 6].fill(0);
    mask[(FIRST as usize + 3) * 6..].fill(0);
    let mask = Tensor::from_vec(&[FIRST as usize + 4, 6], mask).unwrap();
    let tokens = Tokens::of(&mask).unwrap();
    let masked = Batch { tokens: Some(&tokens), ..batch(4) };
    let at = Positions { per_sample: 6, seed: 5 };
    for x in [&apart, &flat] {
        let rows = map.input_rows(x, &masked, &at).unwrap();
        let seen: Vec<f32> = rows.groups[0].chunks(8).map(|row| row[0] / 8.0).collect();
        // Of a sequence that is masked altogether every position counts.
        let expected = (0..2).chain(6..24).map(|v| v as f32);
        assert_eq!(seen, expected.collect::<Vec<_>>());
    }
    let ones = Tensor::from_vec(&[2, 3], vec![1_i64; 6]).unwrap();
    let other = Tensor::from_vec(&[1, 3], vec![0_i64, 2, 1]).unwrap();
    assert!(Tokens::of(&ones).is_none() && Tokens::of(&other).is_none());
}

/// Positions are spread over the whole extent, one in each stretch, and depend on nothing but the
/// seed and the sample.
#[test]
fn positions_are_spread_and_repeatable() {
    let at = Positions { per_sample: 10, seed: 3 };
    let chosen = at.choose(7, 105);
    assert_eq!(chosen, at.choose(7, 105));
    for (i, &position) in chosen.iter().enumerate() {
        assert!((i * 105 / 10..(i + 1) * 105 / 10).contains(&position), "{chosen:?}");
    }
    assert_ne!(chosen, at.choose(8, 105));
    assert_ne!(chosen, Positions { seed: 4, ..at }.choose(7, 105));
    assert_eq!(at.choose(7, 10), (0..10).collect::<Vec<_>>());
    assert_eq!(at.choose(7, 3), [0, 1, 2]);
    // No position is favoured: over many samples each of a stretch is met about equally often.
    let mut met = [0; 50];
    for sample in 0..10_000 {
        for position in at.choose(sample, 50) {
            met[position] += 1;
        }
    }
    assert!(met.iter().all(|&count| (1800..2200).contains(&count)), "{met:?}");
}
