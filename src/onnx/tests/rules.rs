use super::{attribute, external, node, small, text, value, weights};
use crate::onnx::proto::{FunctionProto, GraphProto, OperatorSetIdProto};
use crate::onnx::{AttributeProto, Model, ModelProto, NodeProto};

fn with(edit: impl FnOnce(&mut GraphProto)) -> ModelProto {
    let mut proto = small();
    edit(proto.graph.as_mut().unwrap());
    proto
}

fn body(nodes: Vec<NodeProto>, output: &str) -> AttributeProto {
    let graph = GraphProto { node: nodes, output: vec![value(output)], ..Default::default() };
    AttributeProto { g: Some(graph), ..attribute("then_branch") }
}

fn branch(body: AttributeProto) -> NodeProto {
    NodeProto { attribute: vec![body], ..node("If", &["x"], &["z"]) }
}

fn refused(proto: ModelProto, part: &str) {
    let error = Model::from_proto(proto).unwrap_err().to_string();
    assert!(error.contains(part), "{error}");
}

#[test]
fn values_have_one_definition() {
    refused(with(|g| g.node.push(node("Neg", &["x"], &["h"]))), "value `h` is defined twice");
    refused(with(|g| g.node.push(node("Neg", &["x"], &["w"]))), "value `w` is defined twice");
    refused(with(|g| g.node.push(node("Neg", &["x"], &["x"]))), "value `x` is defined twice");
    refused(with(|g| g.input.push(value("x"))), "graph input `x` is defined twice");
    refused(with(|g| g.initializer.push(weights("w", &[]))), "initializer `w` is defined twice");
    refused(with(|g| g.initializer.push(weights("", &[]))), "an initializer has no name");
    refused(with(|g| g.input.push(value(""))), "a graph input has no name");
}

#[test]
fn initializers_may_be_listed_as_inputs() {
    let mut proto = with(|g| g.input.extend([value("w"), value("b")]));
    proto.ir_version = Some(3);
    assert!(Model::from_proto(proto).is_ok());
}

#[test]
fn values_are_defined_before_they_are_read() {
    refused(with(|g| g.node[0].input[1] = "v".into()), "node `h` reads `v`, which nothing makes");
    refused(with(|g| g.node.reverse()), "node `y` reads `h` before node `h` makes it");
    refused(with(|g| g.node[0].input[0] = "y".into()), "form a cycle");
    refused(with(|g| g.node[0].input[0] = "h".into()), "form a cycle");
    refused(with(|g| g.output[0].name = text("v")), "nothing makes graph output `v`");
    refused(with(|g| g.node[0].op_type = None), "node `h` has no operator");
    // An omitted input is no reference.
    assert!(Model::from_proto(with(|g| g.node[0].input.push(String::new()))).is_ok());
}

#[test]
fn bodies_see_what_comes_before_them() {
    let inside = |reads: &str| branch(body(vec![node("Neg", &[reads], &["inner"])], "inner"));
    assert!(Model::from_proto(with(|g| g.node.push(inside("y")))).is_ok());
    assert!(Model::from_proto(with(|g| g.node.push(branch(body(vec![], "h"))))).is_ok());
    refused(with(|g| g.node.insert(0, inside("h"))), "in `then_branch` of node `z`: node `inner`");
    refused(with(|g| g.node.push(inside("nowhere"))), "which nothing makes");
    // What a body makes stays inside.
    let leak = |g: &mut GraphProto| {
        g.node.extend([inside("x"), node("Neg", &["inner"], &["outside"])]);
    };
    refused(with(leak), "node `outside` reads `inner`, which nothing makes");
}

#[test]
fn functions_stand_alone() {
    let function = |reads: &str| FunctionProto {
        name: text("f"),
        input: vec!["a".into()],
        output: vec!["r".into()],
        node: vec![node("Neg", &[reads], &["r"])],
        ..Default::default()
    };
    let model = |reads| ModelProto { functions: vec![function(reads)], ..small() };
    assert!(Model::from_proto(model("a")).is_ok());
    refused(model("w"), "in function `f`: node `r` reads `w`");
}

#[test]
fn dims_are_plausible() {
    for (dims, part) in [
        (vec![-3], "has dimension -3"),
        (vec![1 << 40, 1 << 40], "is too large"),
        (vec![4], "takes 16 bytes, found 12"),
    ] {
        refused(with(|g| g.initializer[0].dims = dims), part);
    }
    let tensor = external("t", &[1], &[]);
    let hidden = AttributeProto { t: Some(tensor), ..attribute("value") };
    refused(with(|g| g.node[0].attribute.push(hidden)), "no location is given");
}

#[test]
fn operator_sets() {
    let set =
        |domain: &str, version| OperatorSetIdProto { domain: text(domain), version: Some(version) };
    let mut proto = small();
    proto.opset_import.push(set("com.example", 3));
    let model = Model::from_proto(proto.clone()).unwrap();
    assert_eq!(model.opset(""), Some(17));
    assert_eq!(model.opset("ai.onnx"), Some(17));
    assert_eq!(model.opset("com.example"), Some(3));
    assert_eq!(model.opset("ai.onnx.ml"), None);

    proto.opset_import.push(set("ai.onnx", 18));
    refused(proto.clone(), "imported in versions 17 and 18");

    proto.opset_import.clear();
    refused(proto.clone(), "it names no operator set");
    proto.ir_version = Some(2);
    assert_eq!(Model::from_proto(proto.clone()).unwrap().opset(""), Some(1));
    proto.graph = None;
    refused(proto, "it has no graph");
}
