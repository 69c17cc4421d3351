//! Gradients of whole graphs.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

mod networks;

use std::collections::HashMap;
use std::path::Path;

use onnx_bsr::error::Error;
use onnx_bsr::eval::{Evaluator, Recorder, Tape};
use onnx_bsr::onnx::proto::type_proto;
use onnx_bsr::onnx::proto::{AttributeProto, OperatorSetIdProto, TensorShapeProto};
use onnx_bsr::onnx::{
    GraphProto, Model, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto,
};
use onnx_bsr::tensor::{DataType, Tensor};

struct Random(u64);

impl Random {
    /// Within -1 and 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn tensor(&mut self, shape: &[usize], kind: DataType) -> Tensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| self.next()).collect();
        of_kind(shape, &values, kind)
    }
}

fn of_kind(shape: &[usize], values: &[f64], kind: DataType) -> Tensor {
    match kind {
        DataType::F64 => Tensor::from_vec(shape, values.to_vec()).unwrap(),
        _ => Tensor::from_vec(shape, values.iter().map(|&v| v as f32).collect()).unwrap(),
    }
}

/// A graph of one input `x`; nodes are `(operator, inputs, outputs)`.
fn model(
    x: &[i64],
    nodes: &[(&str, &[&str], &[&str])],
    constants: &[(&str, Tensor)],
    outputs: &[&str],
) -> Model {
    let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let node = |(op, inputs, outputs): &(&str, &[&str], &[&str])| NodeProto {
        op_type: Some((*op).to_owned()),
        name: Some(format!("{op} of {}", inputs[0])),
        input: strings(inputs),
        output: strings(outputs),
        ..NodeProto::default()
    };
    let value = |name: &str, shape: &[i64]| {
        ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(11),
                shape: Some(TensorShapeProto {
                    dim: shape
                        .iter()
                        .map(|&d| onnx_bsr::onnx::proto::tensor_shape_proto::Dimension {
                            value: Some(
                                onnx_bsr::onnx::proto::tensor_shape_proto::dimension::Value::DimValue(d),
                            ),
                            ..Default::default()
                        })
                        .collect(),
                }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
    };
    let graph = GraphProto {
        name: Some("graph".to_owned()),
        node: nodes.iter().map(node).collect(),
        input: vec![value("x", x)],
        initializer: constants.iter().map(|(name, t)| TensorProto::from_tensor(name, t)).collect(),
        output: outputs
            .iter()
            .map(|&name| ValueInfoProto { name: Some(name.to_owned()), ..Default::default() })
            .collect(),
        ..GraphProto::default()
    };
    Model::from_proto(ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    })
    .unwrap()
}

fn vector(values: &[f64]) -> Tensor {
    Tensor::from_vec(&[values.len()], values.to_vec()).unwrap()
}

fn seeds(pairs: &[(&str, Tensor)]) -> Vec<(String, Tensor)> {
    pairs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect()
}

fn backward(recorder: &Recorder, x: Tensor, given: &[(&str, Tensor)]) -> HashMap<String, Tensor> {
    let tape = recorder.record(vec![x], &recorder.stored()).unwrap();
    tape.backward(seeds(given)).unwrap()
}

fn fixture(name: &str) -> Model {
    Model::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).unwrap()
}

/// Names of the stored `f32` tensors that are differentiated: bounds of Clip are not.
fn floats(model: &Model) -> Vec<String> {
    let clips = model.graph().node.iter().filter(|node| node.op_type() == "Clip");
    let bounds: Vec<&String> = clips.flat_map(|node| &node.input[1..]).collect();
    let stored = model.graph().initializer.iter();
    let float = stored
        .filter(|t| matches!(model.tensor(t).unwrap(), Tensor::F32(_)))
        .filter(|t| bounds.iter().all(|bound| *bound != t.name()));
    float.map(|t| t.name().to_owned()).collect()
}

fn inputs(evaluator: &Evaluator, samples: usize, kind: DataType) -> Vec<Tensor> {
    let mut random = Random(3);
    let mut one = |spec: &onnx_bsr::eval::InputSpec| {
        let shape: Vec<usize> = spec
            .shape
            .iter()
            .enumerate()
            .map(|(i, d)| d.unwrap_or(if i == 0 { samples } else { 6 }))
            .collect();
        if spec.data_type == DataType::I64 {
            let count: usize = shape.iter().product();
            let ids: Vec<i64> = (0..count as i64).map(|i| (i * 7 + 1) % 5).collect();
            return Tensor::from_vec(&shape, ids);
        }
        Ok(random.tensor(&shape, kind))
    };
    evaluator.inputs().iter().map(|spec| one(spec).unwrap()).collect()
}

/// Weights of the outputs' elements in the loss, which is their sum.
fn weights(outputs: &[Tensor], kind: DataType) -> Vec<Tensor> {
    let mut random = Random(11);
    outputs.iter().map(|o| random.tensor(o.shape(), kind)).collect()
}

#[test]
fn a_value_used_twice_sums_its_gradients() {
    // y = (w x) (w x) + w
    let nodes: &[(&str, &[&str], &[&str])] =
        &[("Mul", &["w", "x"], &["p"]), ("Mul", &["p", "p"], &["q"]), ("Add", &["q", "w"], &["y"])];
    let model = model(&[2], nodes, &[("w", vector(&[3.0, -2.0]))], &["y"]);
    let recorder = Evaluator::recorder(&model, &["w"], &["p"]).unwrap();
    let gradients = backward(&recorder, vector(&[2.0, 5.0]), &[("y", vector(&[1.0, 10.0]))]);
    // dy/dw = 2 w x^2 + 1, dy/dp = 2 p
    assert_eq!(gradients["w"], vector(&[25.0, -990.0]));
    assert_eq!(gradients["p"], vector(&[12.0, -200.0]));
}

/// A Pad that a constant depthwise convolution takes over counts on the way back too.
#[test]
fn gradients_pass_a_padded_depthwise_convolution() {
    let integers = |name: &str, values: &[i64]| AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(7),
        ints: values.to_vec(),
        ..AttributeProto::default()
    };
    let group = AttributeProto {
        name: Some("group".to_owned()),
        r#type: Some(2),
        i: Some(3),
        ..AttributeProto::default()
    };
    let mut random = Random(7);
    let scale = random.tensor(&[3, 1, 1], DataType::F32);
    let kernel = random.tensor(&[3, 1, 3, 3], DataType::F32);
    let pads = Tensor::from_vec(&[8], vec![0i64, 0, 1, 0, 0, 0, 2, 1]).unwrap();
    let constants = [("w", scale), ("k", kernel), ("pads", pads)];
    let apart: &[(&str, &[&str], &[&str])] = &[
        ("Mul", &["x", "w"], &["s"]),
        ("Pad", &["s", "pads"], &["p"]),
        ("Conv", &["p", "k"], &["y"]),
    ];
    let within: &[(&str, &[&str], &[&str])] =
        &[("Mul", &["x", "w"], &["s"]), ("Conv", &["s", "k"], &["y"])];
    let x = random.tensor(&[2, 3, 6, 7], DataType::F32);
    let given = random.tensor(&[2, 3, 4, 3], DataType::F32);
    let gradients = [apart, within].map(|nodes| {
        let mut model = model(&[2, 3, 6, 7], nodes, &constants, &["y"]);
        let graph = model.graph_mut();
        let kind = graph.input[0].r#type.as_mut().unwrap();
        if let Some(type_proto::Value::TensorType(tensor)) = &mut kind.value {
            tensor.elem_type = Some(1);
        }
        let conv = graph.node.last_mut().unwrap();
        conv.attribute = vec![group.clone(), integers("strides", &[2, 2])];
        if nodes.len() == 2 {
            conv.attribute.push(integers("pads", &[1, 0, 2, 1]));
        }
        let recorder = Evaluator::recorder(&model, &["w"], &["s"]).unwrap();
        backward(&recorder, x.clone(), &[("y", given.clone())])
    });
    for name in ["w", "s"] {
        let [apart, within] = [0, 1].map(|i| gradients[i][name].to_f64_vec());
        assert!(apart.iter().any(|&v| v.abs() > 0.1));
        assert!(apart.iter().zip(&within).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}

#[test]
fn runs_with_prepared_parameters_add_up() {
    let model = fixture("residual.onnx");
    let names = floats(&model);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let recorder = Evaluator::recorder(&model, &names, &[]).unwrap();
    let inputs = inputs(recorder.evaluator(), 4, DataType::F32);
    let stored = recorder.stored();
    let output = recorder.outputs()[0].clone();
    let seed = |tape: &Tape| {
        let outputs = tape.outputs().unwrap();
        (output.clone(), weights(&outputs, DataType::F32).swap_remove(0))
    };
    let prepared = recorder.prepare(&stored).unwrap();
    let mut totals = HashMap::new();
    let mut sums: HashMap<String, Vec<f64>> = HashMap::new();
    for (start, end) in [(0, 1), (1, 4)] {
        let part: Vec<Tensor> = inputs.iter().map(|t| t.slice_batch(start, end)).collect();
        let tape = recorder.record_prepared(part.clone(), &prepared).unwrap();
        let given = seed(&tape);
        totals = tape.backward_onto([given.clone()], totals).unwrap();
        let tape = recorder.record(part, &stored).unwrap();
        for (name, gradient) in tape.backward([given]).unwrap() {
            let gradient = gradient.to_f64_vec();
            let sum = sums.entry(name).or_insert_with(|| vec![0.0; gradient.len()]);
            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        }
    }
    assert_eq!(totals.len(), names.len());
    for (name, sum) in sums {
        let most = sum.iter().fold(1e-6, |most: f64, v| most.max(v.abs()));
        for (total, sum) in totals[&name].to_f64_vec().iter().zip(sum) {
            assert!((total - sum).abs() <= 1e-4 * most, "{name}: {total} instead of {sum}");
        }
    }
    // A total of another shape is refused.
    let tape = recorder.record_prepared(inputs, &prepared).unwrap();
    let totals = HashMap::from([(names[0].to_owned(), vector(&[1.0]))]);
    let given = seed(&tape);
    assert!(tape.backward_onto([given], totals).is_err());
}

#[test]
fn unused_outputs_and_parameters_are_left_out() {
    let nodes: &[(&str, &[&str], &[&str])] = &[
        ("Mul", &["w", "x"], &["p"]),
        ("Split", &["p", "sizes"], &["a", "b", "c"]),
        ("Mul", &["b", "v"], &["y"]),
        ("Mul", &["x", "u"], &["z"]),
    ];
    let constants = [
        ("w", vector(&[1.0, 2.0, 3.0, 4.0])),
        ("v", vector(&[5.0, 6.0])),
        ("u", vector(&[1.0; 4])),
        ("sizes", Tensor::from_vec(&[3], vec![1i64, 2, 1]).unwrap()),
    ];
    let model = model(&[4], nodes, &constants, &["y", "z"]);
    let recorder = Evaluator::recorder(&model, &["w", "v", "u"], &[]).unwrap();
    let x = vector(&[1.0, 1.0, 10.0, 1.0]);
    let gradients = backward(&recorder, x, &[("y", vector(&[1.0, 1.0]))]);
    assert_eq!(gradients["w"], vector(&[0.0, 5.0, 60.0, 0.0]));
    assert_eq!(gradients["v"], vector(&[2.0, 30.0]));
    assert!(!gradients.contains_key("u"));
}

#[test]
fn only_the_path_is_kept() {
    let nodes: &[(&str, &[&str], &[&str])] = &[
        ("Exp", &["x"], &["a"]),
        ("Mul", &["a", "frozen"], &["b"]),
        ("Mul", &["b", "w"], &["c"]),
        ("Add", &["c", "x"], &["d"]),
        ("Relu", &["d"], &["y"]),
    ];
    let constants = [("frozen", vector(&[1.0; 8])), ("w", vector(&[2.0; 8]))];
    let model = model(&[8], nodes, &constants, &["y"]);
    let recorder = Evaluator::recorder(&model, &["w"], &[]).unwrap();
    let x = vector(&[0.5; 8]);
    let tape = recorder.record(vec![x], &recorder.stored()).unwrap();
    // The other factor of w, and the result of Relu.
    assert_eq!(tape.byte_len(), 2 * 8 * 8);
    let y = tape.outputs().unwrap().remove(0).to_f64_vec();
    assert!((y[0] - (2.0 * 0.5f64.exp() + 0.5)).abs() < 1e-15);
}

#[test]
fn nodes_without_a_rule_are_named() {
    let nodes: &[(&str, &[&str], &[&str])] = &[
        ("Mul", &["x", "v"], &["a"]),
        ("Det", &["a"], &["b"]),
        ("Mul", &["b", "w"], &["y"]),
        ("ArgMax", &["a"], &["place"]),
    ];
    let matrix = Tensor::from_vec(&[2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
    let constants = [("v", matrix.clone()), ("w", Tensor::scalar(2f32))];
    let model = model(&[2, 2], nodes, &constants, &["y", "place"]);
    let recorder = Evaluator::recorder(&model, &["v", "w"], &[]).unwrap();
    let obstacles = recorder.obstacles();
    assert_eq!(obstacles.len(), 1);
    assert_eq!(obstacles[0].op_type, "Det");
    assert_eq!(obstacles[0].parameters, ["v"]);
    let tape = Evaluator::recorder(&model, &["w"], &[]).unwrap();
    assert_eq!(tape.obstacles(), []);
}

#[test]
fn a_gradient_that_meets_no_rule_is_an_error() {
    // TopK's places are integers; OneHot has no rule for what it writes.
    let nodes: &[(&str, &[&str], &[&str])] =
        &[("Mul", &["x", "v"], &["values"]), ("OneHot", &["place", "depth", "values"], &["y"])];
    let constants = [
        ("v", vector(&[1.0, 2.0])),
        ("place", Tensor::from_vec(&[2], vec![0i64, 2]).unwrap()),
        ("depth", Tensor::scalar(3i64)),
    ];
    let model = model(&[2], nodes, &constants, &["y"]);
    let recorder = Evaluator::recorder(&model, &["v"], &[]).unwrap();
    let tape = recorder.record(vec![vector(&[0.0, 1.0])], &recorder.stored()).unwrap();
    let y = tape.outputs().unwrap().remove(0);
    assert_eq!(y.shape(), [2, 3]);
    match tape.backward(seeds(&[("y", y)])) {
        Err(Error::Node { node, op_type, .. }) => {
            assert_eq!((node.as_str(), op_type.as_str()), ("OneHot of place", "OneHot"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn unknown_names_and_wrong_shapes_are_refused() {
    let nodes: &[(&str, &[&str], &[&str])] = &[("Mul", &["w", "x"], &["y"])];
    let model = model(&[2], nodes, &[("w", vector(&[3.0, -2.0]))], &["y"]);
    assert!(Evaluator::recorder(&model, &["nothing"], &[]).is_err());
    let recorder = Evaluator::recorder(&model, &["w"], &[]).unwrap();
    let run = || recorder.record(vec![vector(&[1.0, 1.0])], &recorder.stored()).unwrap();
    assert!(run().backward(seeds(&[("z", vector(&[1.0, 1.0]))])).is_err());
    assert!(run().backward(seeds(&[("y", vector(&[1.0]))])).is_err());
    assert!(recorder.record(vec![vector(&[1.0, 1.0])], &[]).is_err());
}
