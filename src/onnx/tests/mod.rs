//! Models built in code, and what reading and writing must keep of them.

mod corpus;
mod decode;
mod external;
mod hostile;
mod roundtrip;
mod rules;

use super::proto::{self, tensor_proto::DataLocation};
use super::{
    AttributeProto, GraphProto, Model, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use crate::tensor::Tensor;

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn entry(key: &str, value: &str) -> proto::StringStringEntryProto {
    proto::StringStringEntryProto { key: text(key), value: text(value) }
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: text(name), ..Default::default() }
}

fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: text(op_type),
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: outputs.iter().map(|&o| o.to_owned()).collect(),
        ..Default::default()
    }
}

fn weights(name: &str, values: &[f32]) -> TensorProto {
    TensorProto::from_tensor(name, &Tensor::from_vec(&[values.len()], values.to_vec()).unwrap())
}

/// `y = Mul(x, w) + b`.
fn small() -> ModelProto {
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![proto::OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(GraphProto {
            name: text("small"),
            node: vec![node("Mul", &["x", "w"], &["h"]), node("Add", &["h", "b"], &["y"])],
            initializer: vec![weights("w", &[1.0, -2.0, 3.0]), weights("b", &[0.5; 3])],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A tensor whose elements are elsewhere.
fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        name: text(name),
        dims: dims.to_vec(),
        data_type: Some(1),
        data_location: Some(DataLocation::External.into()),
        external_data: entries.iter().map(|(key, value)| entry(key, value)).collect(),
        ..Default::default()
    }
}

fn attribute(name: &str) -> AttributeProto {
    AttributeProto { name: text(name), ..Default::default() }
}

/// The names in a folder, sorted.
fn listing(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn read_back(proto: &ModelProto) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let written = Model::from_proto(proto.clone()).unwrap().write(&path).unwrap();
    assert_eq!(written, std::fs::metadata(&path).unwrap().len());
    Model::read(&path).unwrap()
}
