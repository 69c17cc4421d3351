//! Models whose weights are stored in unusual places: what ONNX Runtime computes with them is what
//! they compute once their weights are in plain sight, and after compression.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use onnx_bsr::eval::Evaluator;
use onnx_bsr::graph;
use onnx_bsr::layer::{Filter, find, prepare};
use onnx_bsr::onnx::Model;
use onnx_bsr::quantize;
use onnx_bsr::tensor::Tensor;
use serde_json::Value;

/// Models that neither the evaluator nor tract runs.
const NOT_RUN: [&str; 2] = ["loop_weights", "sequence"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/forms").join(name)
}

fn model(name: &str) -> Model {
    Model::read(&path(&format!("{name}.onnx"))).unwrap()
}

fn prepared(name: &str) -> Model {
    let mut model = model(name);
    prepare(&mut model).unwrap();
    // The result is a valid model.
    Model::from_bytes(model.to_bytes().unwrap()).unwrap()
}

fn expected() -> Vec<(String, Tensor, Vec<f64>)> {
    let text = std::fs::read_to_string(path("expected.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let floats = |v: &Value| -> Vec<f64> {
        v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let all = all.as_object().unwrap().iter().map(|(name, case)| {
        let shape: Vec<usize> = floats(&case["x_shape"]).into_iter().map(|d| d as usize).collect();
        let x = floats(&case["x"]);
        let x = if name == "tied_embedding" {
            Tensor::from_vec(&shape, x.into_iter().map(|v| v as i64).collect())
        } else {
            Tensor::from_vec(&shape, x.into_iter().map(|v| v as f32).collect())
        };
        (name.clone(), x.unwrap(), floats(&case["y"]))
    });
    all.collect()
}

/// The largest difference relative to the largest value.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max) / scale
}

#[test]
fn preparation_changes_no_output() {
    let all = expected();
    assert_eq!(all.len(), 16);
    for (name, x, y) in all {
        let model = prepared(&name);
        assert!(model.proto.functions.is_empty() && model.graph().sparse_initializer.is_empty());
        let output = Evaluator::new(&model).unwrap().run(vec![x]);
        if NOT_RUN.contains(&&*name) {
            assert!(output.is_err(), "{name} is run now: compare it");
            continue;
        }
        let d = distance(&y, &output.unwrap()[0].to_f64_vec());
        assert!(d < 1e-5, "{name}: {d}");
    }
}

#[test]
fn weights_are_found_wherever_they_are() {
    let eligible = |name: &str| {
        let layers = find(&prepared(name), &Filter::default()).unwrap();
        layers.iter().filter(|l| l.map.is_some()).map(|l| l.weight_params).sum::<u64>()
    };
    for name in [
        "constants",
        "weights_as_inputs",
        "stored_float16",
        "stored_bfloat16",
        "transposed",
        "reshaped",
        "sparse",
        "function",
        "function_weights",
        "no_rows",
        "sequence",
        "fused",
    ] {
        assert_eq!(eligible(name), 32 * 64 + 64 * 10, "{name}");
    }
    // Weights in bodies count, and say why their ranks stay.
    for (name, operator, weights) in [
        ("if_weights", "If/MatMul", 2),
        ("loop_weights", "Loop/MatMul", 1),
        ("scan_weights", "Scan/MatMul", 1),
    ] {
        let layers = find(&prepared(name), &Filter::default()).unwrap();
        let inner: Vec<_> = layers.iter().filter(|l| l.op_type == operator).collect();
        assert_eq!(inner.len(), weights, "{name}");
        assert!(inner.iter().all(|l| l.skip.as_ref().unwrap().contains("in a body of")));
    }
    // A table that is read twice is not stored twice.
    assert_eq!(quantize::params(&prepared("tied_embedding")), 100 * 64);
}

/// A weight that several nodes transpose alike is stored transposed, once, and is one layer.
#[test]
fn forms_that_several_nodes_make_are_one() {
    let mut model = model("transposed");
    let graph = model.graph_mut();
    let at = graph.node.iter().position(|n| n.op_type() == "Transpose").unwrap();
    let turned = graph.node[at].output[0].clone();
    // The first product again, through a transposition of its own.
    let user = graph.node.iter().position(|n| n.input.contains(&turned)).unwrap();
    let mut again = graph.node[at].clone();
    again.name = Some("again".to_owned());
    again.output = vec!["turned again".to_owned()];
    let mut product = graph.node[user].clone();
    product.name = Some("product again".to_owned());
    let twice = product.output[0].clone();
    product.input[1] = "turned again".to_owned();
    product.output = vec!["h again".to_owned()];
    let mut sum = product.clone();
    sum.name = Some("sum".to_owned());
    sum.op_type = Some("Add".to_owned());
    sum.input = vec![twice.clone(), "h again".to_owned()];
    sum.output = vec!["h sum".to_owned()];
    for node in &mut graph.node[user + 1..] {
        node.input.iter_mut().filter(|i| **i == twice).for_each(|i| *i = "h sum".to_owned());
    }
    graph.node.splice(user + 1..user + 1, [again, product, sum]);
    let before = Model::from_bytes(model.to_bytes().unwrap()).unwrap();
    prepare(&mut model).unwrap();
    let model = Model::from_bytes(model.to_bytes().unwrap()).unwrap();
    assert!(model.graph().node.iter().all(|n| n.op_type() != "Transpose"));
    let layers = find(&model, &Filter::default()).unwrap();
    let names: Vec<usize> = layers.iter().map(|l| l.names().count()).collect();
    assert_eq!(names, [2, 1]);
    let (_, x, _) = expected().into_iter().find(|(name, ..)| name == "transposed").unwrap();
    let run = |model: &Model| Evaluator::new(model).unwrap().run(vec![x.clone()]).unwrap();
    let d = distance(&run(&before)[0].to_f64_vec(), &run(&model)[0].to_f64_vec());
    assert!(d < 1e-6, "{d}");
}

struct Run {
    code: i32,
    report: Value,
    error: String,
    output: Option<Model>,
}

fn run(name: &str, options: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.onnx");
    let run = Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
        .arg(path(&format!("{name}.onnx")))
        .arg(&target)
        .args(options)
        .args(["--json", "--quiet"])
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    Run {
        code: run.status.code().unwrap(),
        report: serde_json::from_slice(&run.stdout).unwrap_or(Value::Null),
        error: String::from_utf8_lossy(&run.stderr).into_owned(),
        output: Model::read(&target).ok(),
    }
}

#[test]
fn eight_bits_wherever_weights_are() {
    for (name, x, y) in expected() {
        let run = run(&name, &["--quantize", "int8"]);
        let output = run.output.unwrap_or_else(|| panic!("{name}: {}", run.error));
        if NOT_RUN.contains(&&*name) {
            assert_eq!(run.code, 3, "{name}");
            assert!(run.report["missed"][0].as_str().unwrap().contains("not run in tract"));
        } else {
            assert_eq!(run.code, 0, "{name}: {}", run.error);
            let output = Evaluator::new(&output).unwrap().run(vec![x]).unwrap();
            let d = distance(&y, &output[0].to_f64_vec());
            // Eight bits of what had eight bits of mantissa lose a little more.
            let most = if name == "stored_bfloat16" { 0.05 } else { 0.03 };
            assert!(d < most, "{name}: {d}");
        }
        let ratio = run.report["ratio"]["reached"].as_f64().unwrap();
        assert!(ratio > 1.7, "{name}: {ratio}");
    }
}

#[test]
fn what_can_not_be_run_is_compressed_by_its_weights() {
    let written = run("sequence", &["--ratio", "1.5"]);
    assert_eq!(written.code, 3, "{}", written.error);
    assert!(written.report["ratio"]["reached"].as_f64().unwrap() >= 1.5);
    assert!(written.report["layers"][0]["macs_before"].is_null());
    let output = written.output.unwrap();
    assert!(output.graph().node.iter().any(|n| n.op_type() == "SequenceConstruct"));
    let macs = run("sequence", &["--ratio", "1.5", "--target", "macs"]);
    assert_eq!(macs.code, 1);
    assert!(macs.error.contains("can't be run"), "{}", macs.error);
}

#[test]
fn halves_stay_halves() {
    for name in ["stored_float16", "stored_bfloat16"] {
        let run = run(name, &["--ratio", "1.5"]);
        assert_eq!(run.code, 0, "{}", run.error);
        let output = run.output.unwrap();
        let stored = &output.graph().initializer;
        assert!(stored.iter().filter(|t| t.dims.len() == 2).all(|t| t.data_type() == 10));
    }
}

#[test]
fn a_refusal_names_what_is_in_the_way() {
    let run = run("tied_embedding", &["--ratio", "2"]);
    assert_eq!(run.code, 1);
    assert!(run.error.contains("a table that rows are looked up in"), "{}", run.error);
}

/// Rows of numbers as an array file.
fn rows(path: &Path, rows: usize, columns: usize) {
    let header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    for i in 0..rows * columns {
        bytes.extend((((i * 37) % 101) as f32 / 50.0 - 1.0).to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn samples_that_change_each_other_run_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.npy");
    rows(&data, 24, 32);
    // A scan over the samples, and a branch that their sum decides.
    for name in ["scan_weights", "if_weights"] {
        let run = run(name, &["--quantize", "int8", "--data", data.to_str().unwrap()]);
        assert_eq!(run.code, 0, "{name}: {}", run.error);
        let difference = run.report["validation"]["max_relative_difference"].as_f64().unwrap();
        assert!(difference < 1e-4, "{name}: {difference}");
        let cosine = run.report["metric"]["written"].as_f64().unwrap();
        let original = run.report["metric"]["original"].as_f64().unwrap();
        assert!(
            (cosine - original).abs() < 0.02 * original.abs(),
            "{name}: {}",
            run.report["metric"]
        );
        // The file takes any batch again.
        let dims = graph::inputs(&run.output.unwrap()).unwrap();
        assert_eq!(dims[0].shape, [None, Some(32)]);
    }
}
