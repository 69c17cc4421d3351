//! Weights and multiply-accumulates against an independent count: `tests/data/count.py`.

use std::collections::BTreeMap;
use std::path::Path;

use onnx_bsr::compress::inspect;
use onnx_bsr::factorize::Scheme;
use onnx_bsr::layer::{Filter, find, shapes};
use onnx_bsr::onnx::Model;
use onnx_bsr::options::Options;
use onnx_bsr::report::{InspectReport, InspectTotals};
use serde::Deserialize;

use super::models::{Builder, int};
use super::written::{Ranks, arrays, choice, fixture, layers, plan};

#[derive(Deserialize)]
struct Count {
    shapes: Vec<String>,
    params: u64,
    macs: u64,
    /// Elements of the constant operands, and multiply-accumulates.
    nodes: BTreeMap<String, (u64, u64)>,
}

fn inspected(path: &Path, shapes: &[(String, Vec<usize>)]) -> InspectReport {
    let report = inspect(path, shapes, None, &Options::default()).unwrap();
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    report
}

/// What is inspected of a model that is not a file yet.
fn totals(model: &Model, shapes: &[(String, Vec<usize>)]) -> InspectTotals {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    model.write(&path).unwrap();
    inspected(&path, shapes).totals
}

#[test]
fn fixtures_cost_what_python_counts() {
    let table: BTreeMap<String, Count> =
        serde_json::from_str(include_str!("../data/counts.json")).unwrap();
    let models = std::fs::read_dir(fixture("")).unwrap();
    let models = models.filter(|e| e.as_ref().unwrap().path().extension() == Some("onnx".as_ref()));
    assert_eq!(models.count(), table.len(), "counts.json is not up to date");
    for (name, count) in table {
        let shape = |text: &String| {
            let (input, dims) = text.split_once('=').unwrap();
            (input.to_owned(), dims.split(',').map(|d| d.parse().unwrap()).collect())
        };
        let shapes: Vec<_> = count.shapes.iter().map(shape).collect();
        let report = inspected(&fixture(&format!("{name}.onnx")), &shapes);
        let totals = &report.totals;
        assert_eq!((totals.params, totals.macs), (count.params, Some(count.macs)), "{name}");

        let products = ["Conv", "Gemm", "MatMul"];
        let listed = report.layers.iter().filter(|l| products.contains(&l.op_type.as_str()));
        let mut nodes: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for layer in listed {
            let known = count.nodes[&layer.node];
            // A weight that other nodes compute from constants has no elements of its own.
            let params = if layer.params == 0 { known.0 } else { layer.params };
            let twice = nodes.insert(layer.node.clone(), (params, layer.macs.unwrap()));
            assert!(twice.is_none(), "{name}: {} is listed twice", layer.node);
        }
        // A weight that several nodes read is one layer, which has the work of all of them.
        let mut wanted = count.nodes.clone();
        let model = Model::read(&fixture(&format!("{name}.onnx"))).unwrap();
        for layer in find(&model, &Filter::default()).unwrap() {
            for other in &layer.others {
                let (_, macs) = wanted.remove(&other.name).unwrap();
                wanted.get_mut(&layer.name).unwrap().1 += macs;
            }
        }
        assert_eq!(nodes, wanted, "{name}");
    }
}

/// The file that a plan leads to costs what its choices say: layers are applied where their extents
/// say, and every factorized layer but a table has a bias.
#[test]
fn factorized_fixtures_cost_what_their_choices_say() {
    for name in ["conv1d", "conv3d", "grouped", "matmul", "attention", "residual"] {
        let model = Model::read(&fixture(&format!("{name}.onnx"))).unwrap();
        let samples = arrays(&fixture(&format!("expected/{name}.npz")), &model);
        let sample: Vec<_> = samples.iter().map(|t| t.slice_batch(0, 1)).collect();
        let specs = onnx_bsr::graph::inputs(&model).unwrap();
        let dims: Vec<_> =
            specs.iter().zip(&sample).map(|(s, t)| (s.name.clone(), t.shape().to_vec())).collect();
        let values = shapes(&model, sample).unwrap();
        let before = totals(&model, &dims);
        for scheme in Scheme::ALL {
            let (plan, count) = plan(&model, scheme, Ranks::Half);
            if count == 0 {
                continue;
            }
            let mut wanted = (before.params, before.macs.unwrap());
            for layer in layers(&model) {
                let Some(choice) = choice(&layer, scheme, Ranks::Half) else { continue };
                let map = layer.map.as_ref().unwrap();
                let at = layer.extent(&model, &values).unwrap();
                let bias = if map.takes_bias() { map.groups * map.rows } else { 0 };
                wanted.0 += (choice.params(map) + bias) as u64;
                wanted.0 -= layer.weight_params + layer.bias_params;
                wanted.1 += choice.macs(map, at);
                wanted.1 -= layer.macs(&model, &values).unwrap();
            }
            let after = totals(&plan.apply(&model).unwrap(), &dims);
            assert_eq!((after.params, after.macs), (wanted.0, Some(wanted.1)), "{name}, {scheme}");
        }
    }
}

/// A matrix for C costs weights but no products.
#[test]
fn gemm_with_a_matrix_for_c() {
    let mut b = Builder::new(&[10, 16]);
    b.weight("w", &[16, 12]);
    b.weight("c", &[10, 12]);
    b.node("Gemm", &["x", "w", "c"], "y", &[]);
    let totals = totals(&b.finish(&["y"]), &[]);
    assert_eq!((totals.params, totals.macs), (16 * 12 + 10 * 12, Some(10 * 16 * 12)));
}

/// A weight on the left that is left alone, as it is shared, in both orientations.
#[test]
fn shared_weights_on_the_left() {
    let mut b = Builder::new(&[16, 9]);
    b.weight("w", &[16, 12]);
    b.node("Gemm", &["w", "x"], "first", &[int("transA", 1)]);
    b.node("Gemm", &["w", "first"], "y", &[]);
    let totals = totals(&b.finish(&["y"]), &[]);
    assert_eq!((totals.params, totals.macs), (16 * 12, Some(12 * 16 * 9 + 16 * 12 * 9)));
    assert_eq!(totals.eligible_layers, 0);
}

/// A kernel that another node computes.
#[test]
fn convolutions_with_a_computed_kernel() {
    let mut b = Builder::new(&[1, 4, 9, 9]);
    b.input("scale", &[]);
    b.weight("w", &[8, 4, 3, 3]);
    b.node("Mul", &["w", "scale"], "kernel", &[]);
    b.node("Conv", &["x", "kernel"], "y", &[]);
    let totals = totals(&b.finish(&["y"]), &[]);
    assert_eq!((totals.params, totals.macs), (8 * 4 * 9, Some(8 * 4 * 9 * 7 * 7)));
}
