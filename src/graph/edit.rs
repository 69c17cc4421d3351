//! Named edits, each of which leaves the graph valid or unchanged.

use std::collections::HashSet;

use super::{constants, names};
use crate::error::{Error, Result};
use crate::onnx::proto::{TensorShapeProto, tensor_shape_proto, type_proto};
use crate::onnx::{GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto};

/// Puts `with`, in order, in the place of the node at index `node`. Initializers that the new nodes
/// read have to be added first.
///
/// # Errors
/// [`Error::InvalidModel`], with the graph unchanged, when the new nodes don't make every output of
/// the old one, make a value that exists already, or read one that isn't made before them.
pub fn replace_node(graph: &mut GraphProto, node: usize, with: Vec<NodeProto>) -> Result<()> {
    let Some(old) = graph.node.get(node) else {
        return Err(invalid(format!("there is no node {node} to replace")));
    };
    let refuse =
        |reason: String| invalid(format!("can't replace node `{}`: {reason}", old.label()));

    let mut taken = definitions(graph);
    for (index, other) in graph.node.iter().enumerate() {
        if index != node {
            taken.extend(outputs(other));
        }
    }
    let mut visible = definitions(graph);
    visible.extend(graph.node[..node].iter().flat_map(outputs));
    // In a body this covers what the old node read from the graph around it.
    visible.extend(reads(old));
    for new in &with {
        if let Some(missing) = reads(new).find(|name| !visible.contains(name)) {
            return Err(refuse(format!("`{missing}` isn't made before `{}`", new.label())));
        }
        for output in outputs(new) {
            if !taken.insert(output) {
                return Err(refuse(format!("`{output}` exists already")));
            }
            visible.insert(output);
        }
    }
    if let Some(lost) = outputs(old).find(|name| !taken.contains(name)) {
        return Err(refuse(format!("nothing makes `{lost}` any more")));
    }
    graph.node.splice(node..=node, with);
    Ok(())
}

/// Adds a constant, or replaces the initializer of the same name along with the types recorded for
/// it. Where all initializers are listed as inputs too, as files up to IR version 3 want it, so is a
/// new one.
pub fn add_initializer(graph: &mut GraphProto, tensor: TensorProto) {
    let name = tensor.name().to_owned();
    let listed: HashSet<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
    let all_listed = graph.initializer.iter().all(|t| listed.contains(t.name()));
    let list_too = all_listed && !graph.initializer.is_empty() && !listed.contains(name.as_str());
    let kind = tensor_type(&tensor);
    match graph.initializer.iter_mut().find(|t| t.name() == name) {
        Some(old) => {
            *old = tensor;
            drop_value_info(graph, &[&name]);
            if let Some(input) = graph.input.iter_mut().find(|i| i.name() == name) {
                input.r#type = Some(kind);
            }
        }
        None => {
            graph.initializer.push(tensor);
            if list_too {
                let info =
                    ValueInfoProto { name: Some(name), r#type: Some(kind), ..<_>::default() };
                graph.input.push(info);
            }
        }
    }
}

/// Gives the constant of the tensor's name, an initializer or the tensor of a `Constant` node, new
/// elements. Returns whether there is one.
pub fn set_constant(graph: &mut GraphProto, tensor: TensorProto) -> bool {
    let name = tensor.name().to_owned();
    if graph.initializer.iter().any(|t| t.name() == name) {
        add_initializer(graph, tensor);
        return true;
    }
    let node = graph.node.iter_mut().find(|n| {
        n.op_type() == "Constant" && n.output.first().is_some_and(|output| *output == name)
    });
    let value = node.and_then(|n| n.attribute.iter_mut().find(|a| a.name() == "value"));
    match value {
        Some(attribute) => {
            attribute.t = Some(tensor);
            true
        }
        None => false,
    }
}

/// Removes initializers and `Constant` nodes that no node, body, graph output or quantization
/// annotation of a remaining value refers to, along with their listing as inputs, their own
/// annotations and their types. Returns how many constants went. Training graphs refer to
/// initializers by name and are not looked at.
pub fn remove_unused_constants(graph: &mut GraphProto) -> usize {
    let mut removed = 0;
    loop {
        let dead = unused_constants(graph);
        if dead.is_empty() {
            return removed;
        }
        removed += dead.len();
        graph.initializer.retain(|t| !dead.contains(t.name()));
        graph
            .sparse_initializer
            .retain(|s| s.values.as_ref().is_none_or(|v| !dead.contains(v.name())));
        graph.node.retain(|n| {
            !constants::is_constant(n) || !n.output.first().is_some_and(|o| dead.contains(o))
        });
        graph.input.retain(|i| !dead.contains(i.name()));
        graph.value_info.retain(|v| !dead.contains(v.name()));
        // An annotation that goes may free the constants that held its parameters.
        graph.quantization_annotation.retain(|a| !dead.contains(a.tensor_name()));
    }
}

/// Forgets the recorded types of values; a runtime that trusts one which no longer holds fails.
pub fn drop_value_info(graph: &mut GraphProto, names: &[&str]) {
    graph.value_info.retain(|info| !names.contains(&info.name()));
}

fn unused_constants(graph: &GraphProto) -> HashSet<String> {
    let mut used: HashSet<&str> = graph.node.iter().flat_map(reads).collect();
    used.extend(graph.output.iter().map(ValueInfoProto::name));
    let initializers = graph.initializer.iter();
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    let nodes = graph.node.iter().filter(|n| constants::is_constant(n));
    let all: HashSet<&str> = initializers
        .chain(sparse)
        .map(TensorProto::name)
        .chain(nodes.filter_map(|n| n.output.first()).map(String::as_str))
        .collect();
    for annotation in &graph.quantization_annotation {
        let of = annotation.tensor_name();
        if used.contains(of) || !all.contains(of) {
            used.extend(annotation.quant_parameter_tensor_names.iter().map(|entry| entry.value()));
        }
    }
    all.difference(&used).map(|&name| name.to_owned()).collect()
}

/// Values that exist before any node runs.
fn definitions(graph: &GraphProto) -> HashSet<&str> {
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    let tensors = graph.initializer.iter().chain(sparse).map(TensorProto::name);
    graph.input.iter().map(ValueInfoProto::name).chain(tensors).collect()
}

/// Values a node reads, as inputs and in its bodies.
fn reads(node: &NodeProto) -> impl Iterator<Item = &str> {
    let inputs = node.input.iter().map(String::as_str).filter(|name| !name.is_empty());
    inputs.chain(names::captured(node))
}

fn outputs(node: &NodeProto) -> impl Iterator<Item = &str> {
    node.output.iter().map(String::as_str).filter(|name| !name.is_empty())
}

/// The type that lists a constant as an input.
fn tensor_type(tensor: &TensorProto) -> TypeProto {
    use tensor_shape_proto::{Dimension, dimension};
    let extent = |&extent: &i64| Dimension {
        value: Some(dimension::Value::DimValue(extent)),
        denotation: None,
    };
    let shape = TensorShapeProto { dim: tensor.dims.iter().map(extent).collect() };
    let kind = type_proto::Tensor { elem_type: tensor.data_type, shape: Some(shape) };
    TypeProto { value: Some(type_proto::Value::TensorType(kind)), denotation: None }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::InvalidModel { reason: reason.into() }
}
