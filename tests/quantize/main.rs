//! Weights in fewer bits: what is written computes what the codes say, in this crate's evaluator and in
//! tract.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

mod bits;
mod forms;
mod hostile;
mod pipeline;

use std::path::{Path, PathBuf};

use onnx_bsr::eval::Evaluator;
use onnx_bsr::graph;
use onnx_bsr::onnx::Model;
use onnx_bsr::quantize::{Calibration, Kept, Quantization, Quantized, Settings, Settled, rounded};
use onnx_bsr::tensor::Tensor;
use onnx_bsr::validate::{concrete_shapes, random_inputs};

/// A small model with shapes for its open dims.
type Fixture = (&'static str, &'static [(&'static str, &'static [usize])]);

const FIXTURES: [Fixture; 9] = [
    ("mnist_conv.onnx", &[("input", &[1, 1, 28, 28])]),
    ("attention.onnx", &[("input_ids", &[1, 12]), ("attention_mask", &[1, 12])]),
    ("grouped.onnx", &[]),
    ("conv1d.onnx", &[]),
    ("conv3d.onnx", &[]),
    ("matmul.onnx", &[]),
    ("residual.onnx", &[]),
    ("ppocr_cls.onnx", &[("x", &[1, 3, 48, 192])]),
    ("magika.onnx", &[]),
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn model(name: &str) -> Model {
    Model::read(&path(name)).unwrap()
}

/// Shapes of a fixture's inputs; a batch of one where the size is open.
fn shapes(model: &Model, stated: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    let specs = graph::inputs(model).unwrap();
    let given: Vec<(String, Vec<usize>)> = specs
        .iter()
        .map(|spec| {
            let own = stated.iter().find(|(name, _)| *name == spec.name);
            let default = || spec.shape.iter().map(|d| d.unwrap_or(1)).collect();
            (spec.name.clone(), own.map_or_else(default, |(_, shape)| shape.to_vec()))
        })
        .collect();
    concrete_shapes(&specs, &given).unwrap()
}

/// Random inputs of a fixture.
fn inputs(model: &Model, stated: &[(&str, &[usize])], seed: u64) -> Vec<Tensor> {
    random_inputs(&graph::inputs(model).unwrap(), &shapes(model, stated), seed).unwrap()
}

/// Quantizes by what layers see on a few random samples.
fn quantized(
    model: &Model,
    stated: &[(&str, &[usize])],
    settings: &Settings,
) -> (Quantization, Vec<Kept>) {
    let found = settled(model, stated, settings, &Settled::default());
    (found.quantization, found.kept)
}

/// The same where of some weights it is said how they are stored.
fn settled(
    model: &Model,
    stated: &[(&str, &[usize])],
    settings: &Settings,
    settled: &Settled,
) -> Quantized {
    let runs = 6;
    let batch = |run: usize, _: &Evaluator| Ok((inputs(model, stated, run as u64), run..run + 1));
    let calibration = Calibration { runs, samples: runs, tokens: None, inputs: &batch };
    rounded(model, settings, settled, Some(&calibration)).unwrap()
}

fn run(model: &Model, inputs: Vec<Tensor>) -> Vec<Tensor> {
    Evaluator::new(model).unwrap().run(inputs).unwrap()
}

/// The largest difference of any output, relative to its largest element.
fn difference(a: &[Tensor], b: &[Tensor]) -> f64 {
    assert_eq!(a.len(), b.len());
    let one = |(a, b): (&Tensor, &Tensor)| {
        assert_eq!((a.data_type(), a.shape()), (b.data_type(), b.shape()));
        let (a, b) = (a.to_f64_vec(), b.to_f64_vec());
        let most = b.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
        a.iter().zip(&b).fold(0.0f64, |m, (x, y)| m.max((x - y).abs())) / most
    };
    a.iter().zip(b).map(one).fold(0.0, f64::max)
}
