//! What is fused computes what the nodes do one by one.

use super::Evaluator;
use crate::onnx::proto::tensor_shape_proto::Dimension;
use crate::onnx::proto::{OperatorSetIdProto, TensorShapeProto, type_proto};
use crate::onnx::{
    GraphProto, Model, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto,
};
use crate::tensor::Tensor;

/// A graph of inputs `x` and `z` with the output `y`; nodes are `operator a b > result`.
fn model(nodes: &[&str], constants: &[(&str, &[usize], &[f32])]) -> Model {
    let node = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (op, inputs) = (words[0], &words[1..words.len() - 2]);
        NodeProto {
            op_type: Some(op.to_owned()),
            name: Some((*line).to_owned()),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![words[words.len() - 1].to_owned()],
            ..NodeProto::default()
        }
    };
    let value = |name: &str| ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(1),
                // One axis, for the samples; others are not asked for.
                shape: Some(TensorShapeProto { dim: vec![Dimension::default()] }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    };
    let initializer = |(name, shape, values): &(&str, &[usize], &[f32])| {
        TensorProto::from_tensor(name, &Tensor::from_vec(shape, values.to_vec()).unwrap())
    };
    let graph = GraphProto {
        node: nodes.iter().map(node).collect(),
        initializer: constants.iter().map(initializer).collect(),
        input: vec![value("x"), value("z")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: Some(17), ..OperatorSetIdProto::default() };
    Model::from_proto(ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    })
    .unwrap()
}

fn run(model: &Model, observed: &[&str], x: &Tensor, z: &Tensor) -> (usize, Vec<f64>) {
    let evaluator = Evaluator::observing(model, observed).unwrap();
    let outputs = evaluator.run(vec![x.clone(), z.clone()]).unwrap();
    (evaluator.len(), outputs[0].to_f64_vec())
}

fn assert_close(given: &[f64], wanted: &[f64]) {
    assert_eq!(given.len(), wanted.len());
    let off = given.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(off < 2e-6, "{off}");
}

/// The integral of the normal distribution's density from 0 to `x`, by Simpson's rule.
fn normal(x: f64) -> f64 {
    let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let step = x / 200.0;
    let inner = (1..200).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * density(f64::from(i) * step));
    step / 3.0 * (density(0.0) + density(x) + inner.sum::<f64>())
}

#[test]
fn spelled_out_gelu_is_one_step() {
    let values: Vec<f32> = (0..400).map(|i| i as f32 / 40.0 - 5.0).collect();
    let x = Tensor::from_vec(&[4, 100], values.clone()).unwrap();
    let constants: [(&str, &[usize], &[f32]); 5] = [
        ("root", &[], &[1.414_213_5]),
        ("inverse", &[1], &[0.707_106_77]),
        ("one", &[], &[1.0]),
        ("half", &[], &[0.5]),
        ("other", &[], &[0.6]),
    ];
    let gelu = |x: f64| x * (0.5 + normal(x));
    let wanted: Vec<f64> = values.iter().map(|&x| gelu(f64::from(x))).collect();
    let spellings: [&[&str]; 4] = [
        &["Div x root > a", "Erf a > b", "Add b one > c", "Mul x c > d", "Mul d half > y"],
        &["Mul inverse x > a", "Erf a > b", "Add one b > c", "Mul c half > d", "Mul x d > y"],
        &["Mul x half > h", "Div x root > a", "Erf a > b", "Add b one > c", "Mul h c > y"],
        &["Div x root > a", "Erf a > b", "Add b one > c", "Mul half x > h", "Mul c h > y"],
    ];
    for nodes in spellings {
        let model = model(nodes, &constants);
        let (steps, y) = run(&model, &[], &x, &x);
        assert_eq!(steps, 1, "{nodes:?}");
        assert_close(&y, &wanted);
        // A value that is asked for stays.
        assert_eq!(run(&model, &["b"], &x, &x).0, 5);
        // Other numbers make another function.
        let changed =
            |name: &str| nodes.iter().map(|n| n.replace(name, "other")).collect::<Vec<_>>();
        for constant in ["half", "one"] {
            let nodes = changed(constant);
            let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
            let (steps, y) = run(&self::model(&nodes, &constants), &[], &x, &x);
            assert_eq!(steps, 5);
            assert!((y[399] - wanted[399]).abs() > 0.1);
        }
    }
}

#[test]
fn additions_after_a_product_are_computed_with_it() {
    let (rows, depth, columns) = (12, 40, 48);
    let values = |n: usize, by: usize| -> Vec<f32> {
        (0..n).map(|i| ((i * by) % 101) as f32 / 101.0 - 0.5).collect()
    };
    let (x, w) = (values(rows * depth, 7919), values(depth * columns, 104_729));
    let (bias, z) = (values(columns, 31), values(rows * columns, 37));
    let product = |r: usize, c: usize| -> f64 {
        (0..depth).map(|k| f64::from(x[r * depth + k]) * f64::from(w[k * columns + c])).sum()
    };
    let of = |residual: &dyn Fn(usize, usize) -> f32, low: f64| -> Vec<f64> {
        let sum = |i: usize| {
            let (r, c) = (i / columns, i % columns);
            product(r, c) + f64::from(bias[c]) + f64::from(residual(r, c))
        };
        (0..rows * columns).map(|i| sum(i).max(low)).collect()
    };
    let constants: [(&str, &[usize], &[f32]); 3] =
        [("w", &[depth, columns], &w), ("bias", &[columns], &bias), ("first", &[1], &bias[..1])];
    let x = Tensor::from_vec(&[3, 4, depth], x.clone()).unwrap();
    let nodes = ["MatMul x w > a", "Add bias a > b", "Add b z > c", "Relu c > y"];
    let fused = model(&nodes, &constants);
    // A residual of the product's shape, and ones that are broadcast.
    for shape in [&[3, 4, columns][..], &[4, columns], &[columns]] {
        let len: usize = shape.iter().product();
        let z_of = |r: usize, c: usize| z[(r * columns + c) % len];
        let residual = Tensor::from_vec(shape, z[..len].to_vec()).unwrap();
        let (steps, y) = run(&fused, &[], &x, &residual);
        assert_eq!(steps, 3);
        assert_close(&y, &of(&z_of, 0.0));
        let (steps, y) = run(&fused, &["a", "c"], &x, &residual);
        assert_eq!(steps, 4);
        assert_close(&y, &of(&z_of, 0.0));
    }
    let nodes = ["MatMul x w > a", "Add bias a > b", "Relu b > y"];
    let (steps, y) = run(&model(&nodes, &constants), &[], &x, &x);
    assert_eq!(steps, 1);
    assert_close(&y, &of(&|_, _| 0.0, 0.0));
    // A number for all columns is an addition of its own.
    let alone = model(&["MatMul x w > a", "Add a first > y"], &constants);
    let (steps, y) = run(&alone, &[], &x, &x);
    assert_eq!(steps, 2);
    let sums = of(&|_, c| bias[0] - bias[c], f64::MIN);
    assert_close(&y, &sums);
}
