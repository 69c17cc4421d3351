//! The commands that change nothing, on the fixtures.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn run(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnx-bsr"))
        .current_dir(fixture(""))
        .args(line.split_whitespace())
        .output()
        .expect("the program runs")
}

fn json(line: &str) -> (Value, i32) {
    let output = run(line);
    let value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{line}: {e}: {}", String::from_utf8_lossy(&output.stderr)));
    (value, output.status.code().expect("a code"))
}

#[test]
fn eval_tells_the_metric() {
    let (report, code) = json("eval mnist_conv.onnx --data mnist_heldout.npz --json");
    assert_eq!(code, 0);
    assert_eq!(report["metric"]["name"], "top1");
    assert_eq!(report["metric"]["samples"], 1000);
    let value = report["metric"]["value"].as_f64().expect("a number");
    assert!((value - 99.2).abs() < 0.15, "{value}");

    let text = run("eval mnist_conv.onnx --data mnist_heldout.npz --threads 1");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.starts_with("top1 99.") && !text.contains('\x1b'), "{text}");
}

#[test]
fn eval_takes_open_dims_from_the_data() {
    let line = "eval ppocr_cls.onnx --data ppocr_cls_data.npz --mean 0.5 --std 0.5 --json";
    let (report, _) = json(line);
    assert_eq!(report["metric"]["value"], 100.0);
}

#[test]
fn eval_without_labels_compares_with_a_reference() {
    let line = "eval basic_pitch.onnx --data basic_pitch_data.npz --reference basic_pitch.onnx \
                --metric cosine --json";
    let (report, code) = json(line);
    assert_eq!(code, 0);
    let value = report["metric"]["value"].as_f64().expect("a number");
    assert!((value - 100.0).abs() < 1e-6, "{value}");
}

#[test]
fn check_finds_equal_and_unequal_models() {
    let (report, code) = json("check residual.onnx residual.onnx --json");
    assert_eq!((report["equal"].as_bool(), code), (Some(true), 0));
    assert_eq!(report["outputs"][0]["max_abs_difference"], 0.0);

    let dir = tempfile::tempdir().expect("a folder");
    let other = dir.path().join("other.onnx");
    let mut model = onnx_bsr::onnx::Model::read(&fixture("mnist_conv.onnx")).expect("a model");
    let weight = model.graph_mut().initializer.first_mut().expect("a weight");
    let zeros = vec![0; weight.raw_data().len()];
    weight.raw_data = Some(zeros.into());
    model.write(&other).expect("written");
    let line = format!("check mnist_conv.onnx {} --data mnist_heldout.npz --json", other.display());
    let (report, code) = json(&line);
    assert_eq!((report["equal"].as_bool(), code), (Some(false), 3));
    assert_eq!(report["samples"], 1000);
}

#[test]
fn check_refuses_models_of_other_inputs() {
    let output = run("check residual.onnx mnist_conv.onnx");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("inputs differ"));
}

#[test]
fn bench_times_both() {
    let (report, code) = json("bench mnist_conv.onnx mnist_conv.onnx --runs 20 --json");
    assert_eq!(code, 0);
    assert_eq!(report["runs"], 20);
    let ratio = report["ratio"].as_f64().expect("a number");
    assert!(ratio > 0.2 && ratio < 5.0, "{ratio}");
}
