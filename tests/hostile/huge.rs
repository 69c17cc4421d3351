//! Graphs of a few bytes that ask for more than there is: errors before anything is allocated, and no run
//! without end where a graph is only looked at.

use onnx_bsr::eval::Evaluator;
use onnx_bsr::onnx::proto::OperatorSetIdProto;
use onnx_bsr::onnx::{
    AttributeProto, GraphProto, Model, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use onnx_bsr::tensor::Tensor;

use super::watched::watched;

fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        op_type: Some(op_type.to_owned()),
        input: names(inputs),
        output: names(outputs),
        ..NodeProto::default()
    }
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() }
}

/// A model without inputs that yields `y`.
fn model(constants: &[(&str, Tensor)], nodes: Vec<NodeProto>) -> Model {
    let graph = GraphProto {
        name: Some("huge".to_owned()),
        node: nodes,
        initializer: constants.iter().map(|(n, t)| TensorProto::from_tensor(n, t)).collect(),
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

fn list(values: &[i64]) -> Tensor {
    Tensor::from_vec(&[values.len()], values.to_vec()).unwrap()
}

fn refused(constants: &[(&str, Tensor)], nodes: Vec<NodeProto>) {
    let last = nodes.last().map(|node| node.op_type().to_owned()).unwrap();
    let model = model(constants, nodes);
    watched(|| {
        let error = Evaluator::new(&model).and_then(|e| e.run(Vec::new())).unwrap_err();
        assert!(error.chain().contains("too large"), "{last}: {}", error.chain());
    });
}

#[test]
fn values_of_absurd_shapes_are_refused() {
    let of = |shape: &[i64], nodes: Vec<NodeProto>| refused(&[("s", list(shape))], nodes);
    of(&[1 << 40], vec![node("ConstantOfShape", &["s"], &["y"])]);
    of(&[1 << 20, 1 << 20], vec![node("ConstantOfShape", &["s"], &["y"])]);
    let one = Tensor::scalar(1f32);
    refused(&[("s", list(&[1 << 40])), ("x", one)], vec![node("Expand", &["x", "s"], &["y"])]);
    let ends = [("a", 0i64), ("b", 1 << 50), ("c", 1)].map(|(n, v)| (n, Tensor::scalar(v)));
    refused(&ends, vec![node("Range", &["a", "b", "c"], &["y"])]);
    // Each operand is small, and what they broadcast to is not.
    let sides = [("s", list(&[1 << 17, 1])), ("t", list(&[1, 1 << 17]))];
    for op_type in ["Add", "MatMul", "Less"] {
        let nodes = vec![
            node("ConstantOfShape", &["s"], &["a"]),
            node("ConstantOfShape", &["t"], &["b"]),
            node(op_type, &["a", "b"], &["y"]),
        ];
        refused(&sides, nodes);
    }
}

/// A loop of 2^62 rounds is left to whoever runs the graph.
#[test]
fn loops_without_end_are_not_run_at_load() {
    let body = GraphProto {
        name: Some("body".to_owned()),
        node: vec![node("Identity", &["go"], &["on"]), node("Add", &["state", "state"], &["next"])],
        input: vec![value("i"), value("go"), value("state")],
        output: vec![value("on"), value("next")],
        ..GraphProto::default()
    };
    let mut round = node("Loop", &["trips", "go", "x"], &["y"]);
    round.attribute.push(AttributeProto {
        name: Some("body".to_owned()),
        r#type: Some(5),
        g: Some(body),
        ..AttributeProto::default()
    });
    let constants = [
        ("trips", Tensor::scalar(1i64 << 62)),
        ("go", Tensor::scalar(true)),
        ("x", Tensor::scalar(0f32)),
    ];
    let model = model(&constants, vec![round]);
    assert!(Evaluator::new(&model).is_ok());
}
