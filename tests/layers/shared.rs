//! Weights that several nodes read: factorized once, the same in all of them.

use std::collections::HashMap;

use std::path::Path;

use onnx_bsr::dataset::{Arrays, Dataset, Preprocess};
use onnx_bsr::eval::Evaluator;
use onnx_bsr::factorize::Scheme;
use onnx_bsr::graph;
use onnx_bsr::layer::{Extent, Filter, find, shapes};
use onnx_bsr::linalg::Matrix;
use onnx_bsr::onnx::Model;
use onnx_bsr::search::{
    Effort, Network, NetworkOptions, Plan, Samples, Snapshots, Statistics, Taken,
};
use onnx_bsr::tensor::Tensor;
use onnx_bsr::validate::random_inputs;

use super::models::{Builder, ints};
use super::written::{Ranks, apart, check, choice, evaluated, in_tract, layers, plan};

/// Two convolutions with one weight and bias, at other strides and paddings, after one another and
/// beside one another.
fn towers() -> Model {
    let mut b = Builder::new(&[1, 8, 12, 12]);
    b.weight("w", &[8, 8, 3, 3]);
    b.weight("b", &[8]);
    b.weight("v", &[6, 8, 1, 1]);
    b.node("Conv", &["x", "w", "b"], "a", &[ints("pads", &[1, 1, 1, 1])]);
    b.node("Relu", &["a"], "r", &[]);
    b.node("Conv", &["r", "w", "b"], "c", &[ints("strides", &[2, 2])]);
    b.node("Conv", &["x", "w", "b"], "d", &[ints("strides", &[2, 2]), ints("dilations", &[1, 1])]);
    b.node("Add", &["c", "d"], "s", &[]);
    b.node("Conv", &["s", "v"], "y", &[]);
    b.finish(&["y"])
}

/// One block applied three times, as in ALBERT, with biases that are added by nodes of their own: the
/// first one's shared too, the second one's not.
fn loops() -> Model {
    let mut b = Builder::new(&[1, 7, 16]);
    b.weight("w", &[16, 24]);
    b.weight("b", &[24]);
    b.weight("v", &[24, 16]);
    let mut value = "x".to_owned();
    for i in 0..3 {
        let name = |part: &str| format!("{part}{i}");
        b.weight(&name("c"), &[16]);
        b.node("MatMul", &[&value, "w"], &name("h"), &[]);
        b.node("Add", &[&name("h"), "b"], &name("i"), &[]);
        b.node("Tanh", &[&name("i")], &name("j"), &[]);
        b.node("MatMul", &[&name("j"), "v"], &name("k"), &[]);
        b.node("Add", &[&name("k"), &name("c")], &name("l"), &[]);
        b.node("Add", &[&name("l"), &value], &name("m"), &[]);
        value = name("m");
    }
    b.finish(&[&value])
}

/// A network that scales up, by kernels that overlap, with one weight shared.
fn upwards() -> Model {
    let mut b = Builder::new(&[1, 10, 5, 4]);
    b.weight("w", &[10, 10, 4, 4]);
    b.weight("b", &[10]);
    b.weight("v", &[10, 6, 2, 2]);
    let twice = [ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])];
    b.node("ConvTranspose", &["x", "w", "b"], "a", &twice);
    b.node("Relu", &["a"], "r", &[]);
    b.node("ConvTranspose", &["r", "w", "b"], "c", &twice);
    b.node("ConvTranspose", &["c", "v"], "y", &[ints("strides", &[2, 2])]);
    b.finish(&["y"])
}

fn inputs(model: &Model) -> Vec<Tensor> {
    random_inputs(&graph::inputs(model).unwrap(), &[], 5).unwrap()
}

#[test]
fn one_layer_for_all_nodes_that_read_it() {
    let model = towers();
    let all = find(&model, &Filter::default()).unwrap();
    let names: Vec<Vec<&str>> = all.iter().map(|l| l.names().collect()).collect();
    assert_eq!(names, [vec!["a", "c", "d"], vec!["y"]]);
    let values = shapes(&model, inputs(&model)).unwrap();
    // 12 x 12, 5 x 5 and 5 x 5 positions.
    let extent = all[0].extent(&model, &values).unwrap();
    assert_eq!(extent.output, 144 + 25 + 25);
    assert_eq!(extent.input, 3 * 144);
    assert_eq!(all[0].macs(&model, &values), Some(extent.output * 8 * 72));

    let model = loops();
    let all = find(&model, &Filter::default()).unwrap();
    let names: Vec<Vec<&str>> = all.iter().map(|l| l.names().collect()).collect();
    assert_eq!(names, [vec!["h0", "h1", "h2"], vec!["k0", "k1", "k2"]]);
    let values = shapes(&model, inputs(&model)).unwrap();
    let at = 3 * 7;
    let wanted = Extent { input: at, middle: at, output: at };
    assert_eq!(all[1].extent(&model, &values), Some(wanted));

    // A glob on any of the nodes is about the weight of all of them.
    let globs = ["k2".to_owned()];
    let excluded = find(&model, &Filter::new(&[], &globs).unwrap()).unwrap();
    assert_eq!(excluded[1].skip.as_deref(), Some("excluded"));
    assert!(Filter::new(&[], &globs).unwrap().check(&[], &globs, &all).is_ok());
    let included = find(&model, &Filter::new(&globs, &[]).unwrap()).unwrap();
    assert!(included[0].map.is_none() && included[1].map.is_some());
}

/// At full rank nothing changes, in the evaluator and in tract, and every factor is there once.
#[test]
fn factors_are_stored_once() {
    for (name, model, weights, schemes) in [
        ("towers", towers(), vec![3, 1], 4),
        ("loops", loops(), vec![3, 3], 1),
        ("upwards", upwards(), vec![2, 1], 2),
    ] {
        let inputs = inputs(&model);
        assert_eq!(check(name, &model, &inputs).len(), schemes, "{name}");
        for scheme in Scheme::ALL {
            let (plan, count) = plan(&model, scheme, Ranks::Half);
            if count == 0 {
                continue;
            }
            let result = plan.apply(&model).unwrap();
            let mut reads: HashMap<&str, usize> = HashMap::new();
            for input in result.graph().node.iter().flat_map(|n| &n.input) {
                *reads.entry(input).or_default() += 1;
            }
            for layer in layers(&model)
                .iter()
                .zip(&weights)
                .filter(|(l, _)| scheme.applies(l.map.as_ref().unwrap()))
            {
                let (layer, &uses) = layer;
                assert!(!result.graph().initializer.iter().any(|t| t.name() == layer.weight));
                let own = format!("{}/", layer.weight);
                let new: Vec<&str> = result
                    .graph()
                    .initializer
                    .iter()
                    .map(|t| t.name())
                    .filter(|name| name.starts_with(&own))
                    .collect();
                assert!(new.len() >= 2, "{new:?}");
                assert!(new.iter().all(|name| reads[name] == uses), "{name} {scheme}: {reads:?}");
            }
            // The plan says all of it: read back, it gives the same bytes.
            let again = Plan::parse(&plan.to_json()).unwrap().apply(&model).unwrap();
            assert_eq!(again.to_bytes().unwrap(), result.to_bytes().unwrap());
        }
    }
}

const SAMPLES: usize = 96;

/// A network with the statistics of made-up samples, and these.
fn calibrated(model: &Model, statistics: Statistics) -> (Network<'_>, Tensor) {
    let knobs = NetworkOptions { statistics, ridge: 1e-7, rows_per_input: 1000, seed: 1 };
    let mut network = Network::new(model, &layers(model), inputs(model), knobs).unwrap();
    let specs = graph::inputs(model).unwrap();
    let shape: Vec<usize> = specs[0].shape.iter().skip(1).map(|d| d.unwrap()).collect();
    let mut b = Builder::new(&shape);
    let shape: Vec<usize> = [SAMPLES].into_iter().chain(shape).collect();
    let x = b.random(&shape);
    let arrays = Arrays::in_order(vec![x.clone()], None);
    let data =
        Dataset::held(&arrays, Path::new("made up"), &specs, None, &Preprocess::default()).unwrap();
    let all = (0..SAMPLES).collect();
    let samples = Samples::new(&data, all, &network.evaluator).unwrap();
    network.calibrate(samples.clone()).unwrap();
    if statistics == Statistics::Loss {
        let scorer = network.scorer(&samples, None, false).unwrap();
        network.weigh(&samples, &scorer).unwrap();
    }
    (network, x)
}

/// The mean and the covariance of the rows that the values `names` of a model have on all samples.
fn of_rows(model: &Model, x: &Tensor, names: &[&str]) -> (Vec<f64>, Matrix) {
    let evaluator = Evaluator::observing(model, names).unwrap();
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for sample in 0..SAMPLES {
        let mut state = evaluator.start(vec![x.slice_batch(sample, sample + 1)]).unwrap();
        evaluator.advance(&mut state, usize::MAX).unwrap();
        for name in names {
            let value = evaluator.get(&state, evaluator.value(name).unwrap()).unwrap();
            let width = *value.shape().last().unwrap();
            rows.extend(value.to_f64_vec().chunks_exact(width).map(<[f64]>::to_vec));
        }
    }
    let (count, width) = (rows.len() as f64, rows[0].len());
    let mean: Vec<f64> =
        (0..width).map(|i| rows.iter().map(|r| r[i]).sum::<f64>() / count).collect();
    let of = |i: usize, j: usize| {
        rows.iter().map(|r| (r[i] - mean[i]) * (r[j] - mean[j])).sum::<f64>() / count
    };
    let covariance = Matrix::from_shape_fn((width, width), |(i, j)| of(i, j));
    (mean, covariance)
}

/// A layer's moments are those of what all of its nodes see together.
#[test]
fn moments_are_of_all_nodes() {
    let model = loops();
    let (network, x) = calibrated(&model, Statistics::Centred);
    for (l, names) in [["x", "m0", "m1"], ["j0", "j1", "j2"]].iter().enumerate() {
        let (mean, covariance) = of_rows(&model, &x, names);
        let moments = &network.moments[l][0];
        assert_eq!(moments.rows, SAMPLES * 3 * 7);
        let scale = covariance.diag().sum() / mean.len() as f64;
        for (a, b) in moments.x_mean.iter().zip(&mean) {
            assert!((a - b).abs() < 1e-5 * scale.sqrt(), "{a} {b}");
        }
        for (a, b) in moments.xx.to_dense().iter().zip(&covariance) {
            assert!((a - b).abs() < 1e-5 * scale, "{a} {b}");
        }
    }
}

/// What the search scores is what the plan makes: with every kind of statistics the compressed network
/// computes what the written model computes. At full rank that is what the original computes.
#[test]
fn the_network_is_that_of_the_plan() {
    let all = [Statistics::None, Statistics::Centred, Statistics::Sequential, Statistics::Loss];
    for (name, model) in [("towers", towers()), ("loops", loops()), ("upwards", upwards())] {
        for (statistics, ranks) in
            all.into_iter().flat_map(|s| [(s, Ranks::Full), (s, Ranks::Half)])
        {
            let what = format!("{name}, {statistics:?}");
            let (network, x) = calibrated(&model, statistics);
            let scheme = if name == "loops" { Scheme::Matrix } else { Scheme::ChannelIn };
            let taken: Vec<Taken> =
                network.layers.iter().map(|layer| choice(layer, scheme, ranks).into()).collect();
            let (mut none, mut effort) = (Snapshots::new(0), Effort::default());
            let cut = network.compress(&taken, &network.dense(), &mut none, &mut effort).unwrap();
            let result = Plan::new(&model, &network.layers, &cut.factors).unwrap();
            let result = result.apply(&model).unwrap();
            let x = vec![x.slice_batch(3, 4)];
            let wanted = evaluated(&result, &x);
            assert!(apart(&wanted, &cut.evaluator.run(x.clone()).unwrap()) < 1e-5, "{what}");
            assert!(apart(&wanted, &in_tract(&result, &x)) < 1e-5, "{what}");
            let off = apart(&evaluated(&model, &x), &wanted);
            match ranks {
                Ranks::Full => assert!(off < 1e-3, "{what}: {off:e}"),
                Ranks::Half => assert!(off > 1e-3, "{what}: {off:e}"),
            }
            // From the middle on, with what was done before taken over, the same network comes out.
            if matches!(ranks, Ranks::Half) {
                let first = vec![taken[0], Taken::default()];
                let base =
                    network.compress(&first, &network.dense(), &mut none, &mut effort).unwrap();
                let again = network.compress(&taken, &base, &mut none, &mut effort).unwrap();
                assert_eq!(again.evaluator.run(x.clone()).unwrap(), cut.evaluator.run(x).unwrap());
            }
        }
    }
}
